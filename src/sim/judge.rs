//! What must hold of a node at every step, with eviction.
//!
//! Without eviction a node counts for each replica no more than that replica admitted. At the bound of the
//! table a new row takes the place of another and starts at the counts of the highest row of its group (rule
//! and window) that this node evicted (Space-Saving). So, where `floor(r, g)` is the highest own count of a
//! row of group g that replica r evicted, 0 if none:
//!
//! 1. own(r, row) ≤ admitted(r, row) + floor(r, g), and what anybody holds of r as well;
//!
//! and as long as the window lasts on the node's clock:
//!
//! 2. the cached sum of the peers is the sum of what is held of them, or what the row began with, which is at
//!    most the highest total of its group on this node before it began;
//! 3. neither own nor total ever falls, not even where the row was evicted and is reborn;
//! 4. a live row of r counts at least what r ever released of it.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::limit::{RowKey, RowRef, RuleId, Window};
use crate::replica::ReplicaId;
use crate::replication::Kept;
use crate::replication::codec::{Body, Version, decode};

use super::node::Node;
use super::oracle::Oracle;

/// Rows that share a floor.
type GroupKey = (RuleId, Window);

/// A row that an event named, with the count that a frame claimed for it, if it was one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Touched {
    pub(super) row: RowKey,
    pub(super) claimed: Option<u64>,
}

/// One tenancy of a row in a node's table.
#[derive(Clone, Copy, Debug)]
struct Tenancy {
    row: RowRef,
    /// What the peers' sum may have begun with.
    allowance: u64,
    own: u64,
}

/// A row as its owner released it.
#[derive(Clone, Debug)]
pub(super) struct Released {
    pub(super) subject: ReplicaId,
    pub(super) row: RowKey,
    pub(super) count: u64,
}

/// What is known of one life of one node.
#[derive(Debug, Default)]
pub(super) struct Life {
    tenancies: BTreeMap<RowKey, Tenancy>,
    seen: BTreeMap<RowKey, (u64, u64)>,
    floors: BTreeMap<GroupKey, u64>,
    highest: BTreeMap<GroupKey, u64>,
    evictions: u64,
    /// Rows that it has evicted, or refused while it evicted others, and when it last did.
    pub(super) lost: BTreeMap<RowKey, Duration>,
    /// Its log, as it sent it.
    pub(super) log: BTreeMap<Version, Vec<Released>>,
    own_released: BTreeMap<RowKey, u64>,
    is_hostile: bool,
}

/// Follows every life of every node.
#[derive(Debug, Default)]
pub(super) struct Judge {
    lives: BTreeMap<ReplicaId, Life>,
}

impl Judge {
    /// What is known of a replica.
    pub(super) fn life(&self, replica: &ReplicaId) -> Option<&Life> {
        self.lives.get(replica)
    }

    /// What `replica` says is not judged.
    pub(super) fn distrust(&mut self, replica: &ReplicaId) {
        self.lives.entry(replica.clone()).or_default().is_hostile = true;
    }

    /// The rows that a frame names, for [`Judge::after`].
    pub(super) fn rows_of(frame: &[u8]) -> Vec<Touched> {
        let Ok(Body::Deltas(deltas)) = decode(frame).map(|frame| frame.body) else {
            return Vec::new();
        };
        let rows = deltas.into_iter().flat_map(|delta| delta.rows);
        rows.map(|row| Touched {
            row: row.key,
            claimed: Some(row.count),
        })
        .collect()
    }

    /// `sender` sent a frame: what it says of its own log is released.
    pub(super) fn sent(&mut self, sender: &ReplicaId, frame: &[u8]) {
        let Ok(Body::Deltas(deltas)) = decode(frame).map(|frame| frame.body) else {
            return;
        };
        let life = self.lives.entry(sender.clone()).or_default();
        for delta in deltas.into_iter().filter(|delta| delta.log == *sender) {
            for row in delta.rows {
                let subject = row.subject.unwrap_or_else(|| sender.clone());
                if subject == *sender {
                    let released = life.own_released.entry(row.key).or_default();
                    *released = (*released).max(row.count);
                }
                let here = life.log.entry(row.version).or_default();
                let same = |r: &&mut Released| r.subject == subject && r.row == row.key;
                match here.iter_mut().find(same) {
                    // A repair may carry a newer count at the same place; the place promises the first.
                    Some(known) => known.count = known.count.min(row.count),
                    None => here.push(Released {
                        subject,
                        row: row.key,
                        count: row.count,
                    }),
                }
            }
        }
    }

    /// An event on `node` is over at virtual time `now`; `touched` are the rows it may have changed.
    pub(super) fn after(
        &mut self,
        node: &Node,
        oracle: &Oracle,
        touched: &[Touched],
        now: Duration,
    ) -> Result<(), String> {
        let evictions = node.limiter.counters().stats().evicted;
        let life = self.lives.entry(node.replica.clone()).or_default();
        if evictions > life.evictions {
            life.evictions = evictions;
            life.note_evictions(node, now);
            // What was made and evicted within the event was never seen: what it stood at, at most.
            for touched in touched {
                let Some(claimed) = touched.claimed else { continue };
                let most = self.admissible(oracle, &touched.row).max(claimed);
                if let Some(life) = self.lives.get_mut(&node.replica) {
                    if node.limiter.counters().find(&touched.row).is_none() {
                        life.lost.insert(touched.row, now);
                    }
                    let highest = life.highest.entry(group_of(&touched.row)).or_default();
                    *highest = (*highest).max(most);
                }
            }
        }
        for touched in touched {
            self.check_row(node, oracle, &touched.row, now)?;
        }
        Ok(())
    }

    /// The most that all replicas together may count of a row.
    fn admissible(&self, oracle: &Oracle, row: &RowKey) -> u64 {
        let group = group_of(row);
        let floors = self.lives.values().filter_map(|life| life.floors.get(&group));
        let floors = floors.fold(0_u64, |sum, floor| sum.saturating_add(*floor));
        oracle.admitted(row).saturating_add(floors)
    }

    fn check_row(&mut self, node: &Node, oracle: &Oracle, row: &RowKey, now: Duration) -> Result<(), String> {
        let counters = node.limiter.counters();
        let Some(found) = counters.find(row) else {
            return Ok(());
        };
        let Some(view) = counters.view(found) else {
            return Ok(());
        };
        let me = &node.replica;
        let mut held = 0_u64;
        for (replica, count) in node.replication.counts(found) {
            let truth = oracle.admitted_by(row, &replica);
            let life = self.lives.get(&replica);
            let floor = life.and_then(|life| life.floors.get(&group_of(row)));
            if life.is_some_and(|life| !life.is_hostile) && count > truth + floor.copied().unwrap_or(0) {
                return Err(format!(
                    "{me} holds {count} of {replica} on {row:?}, which admitted {truth} above a floor of {floor:?}"
                ));
            }
            if replica != *me {
                held = held.saturating_add(count);
            }
        }
        if row.window.end <= node.now(now).wall {
            // Rows of ended windows are the first to be displaced, those of one frame by each other, and leave no
            // floor that can be followed. Nothing is decided by them any more.
            return Ok(());
        }
        let Some(life) = self.lives.get_mut(me) else {
            return Ok(());
        };
        let tenancy = life.settle(row, found);
        tenancy.own = view.own;
        if view.peers > held.max(tenancy.allowance) {
            let allowance = tenancy.allowance;
            return Err(format!(
                "{me} counts {} for its peers on {row:?}, holds {held} and began with at most {allowance}",
                view.peers
            ));
        }
        let released = life.own_released.get(row).copied().unwrap_or(0);
        if view.own < released {
            return Err(format!(
                "{me} released {released} of {row:?} and counts {}",
                view.own
            ));
        }
        let total = view.own.saturating_add(view.peers);
        let before = life.seen.insert(*row, (view.own, total)).unwrap_or_default();
        if view.own < before.0 || total < before.1 {
            return Err(format!(
                "{me} counted (own, all) {before:?} of {row:?} and now {:?}",
                (view.own, total)
            ));
        }
        let highest = life.highest.entry(group_of(row)).or_default();
        *highest = (*highest).max(total);
        Ok(())
    }
}

impl Life {
    /// Rows of this life that are gone from the table: what they stood at is the floor of their group.
    fn note_evictions(&mut self, node: &Node, now: Duration) {
        let counters = node.limiter.counters();
        let gone: Vec<_> = self
            .tenancies
            .iter()
            .filter(|(_, tenancy)| counters.view(tenancy.row).is_none())
            .map(|(row, tenancy)| (*row, tenancy.own))
            .collect();
        for (row, own) in gone {
            self.tenancies.remove(&row);
            self.lost.insert(row, now);
            let floor = self.floors.entry(group_of(&row)).or_default();
            *floor = (*floor).max(own);
        }
    }

    /// The present tenancy of a row, begun now if it is not the one known.
    fn settle(&mut self, row: &RowKey, found: RowRef) -> &mut Tenancy {
        let allowance = if self.evictions > 0 {
            self.highest.get(&group_of(row)).copied().unwrap_or(0)
        } else {
            0
        };
        let fresh = Tenancy {
            row: found,
            allowance,
            own: 0,
        };
        let tenancy = self.tenancies.entry(*row).or_insert(fresh);
        if tenancy.row != found {
            *tenancy = fresh;
        }
        tenancy
    }
}

fn group_of(row: &RowKey) -> GroupKey {
    (row.rule, row.window)
}

/// Slots of the longest log that are kept however few rows there are: see `VersionLog`.
const LOG_MIN: usize = 1_024;

/// Replicas remembered that only frames spoke of: see `Origins`.
const STRANGERS_MAX: usize = 1_024;

/// Says what of `kept` is out of proportion to a table of `capacity` rows and `replicas` nodes up or only
/// just gone, where peers may have `made_up` replicas.
pub(super) fn check_kept(kept: &Kept, capacity: usize, replicas: usize, made_up: bool) -> Result<(), String> {
    let strangers = if made_up { STRANGERS_MAX } else { 0 };
    // A table has up to three slots a row, and an evicted row is known until its slot has a new one.
    let slots = (capacity + capacity / 2).next_power_of_two();
    let bounds = [
        ("rows", kept.rows, slots),
        // Half of the places of a long window, or a few hundred, may be vacant before they are looked
        // through; those of an ended one are not, for the two seconds that it still has.
        ("rows listed", kept.listed, 4 * slots + 512 * kept.windows.max(1)),
        ("windows", kept.windows, kept.rows + 16),
        (
            "origins",
            kept.origins,
            1 + replicas + kept.origins_with_rows + strangers,
        ),
        ("log entries", kept.log_entries, 2 * (LOG_MIN + 2 * slots)),
        ("pending rows", kept.pending, 2 * (capacity + LOG_MIN)),
        ("received stretches", kept.received, 256 + 2),
        ("unplaced rows", kept.unplaced, (4_096 + slots) * kept.origins),
        ("unsent rows", kept.unsent, 4 * slots + 256),
        ("frames in the outbox", kept.outbox, 0),
    ];
    match bounds.iter().find(|(_, kept, most)| kept > most) {
        Some((what, kept, most)) => Err(format!("keeps {kept} {what}, expected are at most {most}")),
        None => Ok(()),
    }
}
