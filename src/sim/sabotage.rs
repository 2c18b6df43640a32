//! Rules of bounded mode that are broken on purpose, from outside of the code under test.

use std::sync::Arc;

use crate::bounded::{EstateRecord, RosterRecord};
use crate::limit::UnixMillis;
use crate::replication::codec::{Body, TransferKind, decode};

use super::steward::Heard;
use super::world::World;

/// A rule of bounded mode that a world breaks, to show that its judge would see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// A giver spends what it granted.
    Undeducted,
    /// Members take shares of windows that began before they were counted.
    Undated,
    /// Who leaves has left before the windows in progress.
    Undeparted,
    /// Heirs own before they hold the leaver's rows.
    Incomplete,
}

impl World {
    pub(super) fn sabotage(&self) -> Option<Sabotage> {
        self.config.bounded.as_ref().and_then(|bounded| bounded.sabotage)
    }

    /// A giver that takes back what it grants.
    pub(super) fn undeduct(&mut self, node: usize, frame: &[u8], to: usize) {
        let Ok(Body::Transfers(transfers)) = decode(frame).map(|frame| frame.body) else {
            return;
        };
        for transfer in transfers {
            let TransferKind::Answer(answer) = transfer.kind else {
                continue;
            };
            let me = self.nodes[node].replica.clone();
            let known = self.post.granted.entry((me, transfer.key, to)).or_default();
            let more = answer.granted.saturating_sub(*known);
            *known += more;
            let counters = self.nodes[node].limiter.counters();
            if let Some(row) = counters.find(&transfer.key)
                && let Some(view) = counters.view(row)
            {
                counters.raise_allowance(row, view.allowance + more);
            }
        }
    }
}

/// What a saboteur makes of a record.
pub(super) fn forge(heard: &mut Heard, sabotage: Sabotage) {
    let forged_roster = |change: fn(&mut RosterRecord), record: &RosterRecord| {
        let mut record = record.clone();
        change(&mut record);
        Arc::new(record)
    };
    let attributes = &mut heard.attributes;
    match sabotage {
        Sabotage::Undeducted => {}
        Sabotage::Undated => {
            let undate = |record: &mut RosterRecord| {
                record.members.values_mut().for_each(|from| *from = UnixMillis(0));
            };
            attributes.roster = attributes
                .roster
                .as_deref()
                .map(|record| forged_roster(undate, record));
        }
        Sabotage::Undeparted => {
            let undepart = |record: &mut RosterRecord| {
                record
                    .departed
                    .values_mut()
                    .for_each(|until| *until = UnixMillis(0));
                record.leaving_at = record.leaving_at.map(|_| UnixMillis(0));
            };
            attributes.roster = attributes
                .roster
                .as_deref()
                .map(|record| forged_roster(undepart, record));
        }
        Sabotage::Incomplete => {
            attributes.estate = attributes.estate.as_deref().map(|record| {
                let mut record: EstateRecord = record.clone();
                let bequests = record.will.iter_mut().flat_map(|will| &mut will.estate);
                bequests.for_each(|bequest| bequest.final_version = 0);
                Arc::new(record)
            });
        }
    }
}
