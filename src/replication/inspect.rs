//! What a core keeps and claims, for those who judge it. Reads only.

use super::codec::Version;
use super::core::Replication;
use super::log::OriginIndex;
use super::origin::{OWN, Origin};
use super::repair::relayable;
use crate::replica::ReplicaId;

/// What a replica claims to hold of one log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Whose log.
    pub log: ReplicaId,
    /// Everything up to here is held; of our own log, the newest version given.
    pub confirmed: Version,
    /// Up to here it is passed on, whole, to whoever lacks it.
    pub given: Version,
    /// Rows stand in the log up to there.
    pub has_places: bool,
    /// The lowest version known to be lost here.
    pub hole: Option<Version>,
    /// Rows that carry a count of the log's owner.
    pub rows: usize,
}

/// How much a core keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// Rows known.
    pub rows: usize,
    /// Windows that rows are listed under.
    pub windows: usize,
    /// Rows listed under a window, vacant places included.
    pub listed: usize,
    /// Replicas known, this one included.
    pub origins: usize,
    /// Of them, those of which a row carries a count.
    pub origins_with_rows: usize,
    /// Entries of the longest version log.
    pub log_entries: usize,
    /// Rows of one log that wait beyond its claim, at most.
    pub pending: usize,
    /// Stretches of one log received beyond its claim, at most.
    pub received: usize,
    /// Rows without a place in a log, or that wait for one in ours.
    pub unplaced: usize,
    /// Rows that wait to be pushed.
    pub unsent: usize,
    /// Frames that wait to be sent.
    pub outbox: usize,
}

impl Replication {
    /// What this replica claims of every log, its own first.
    #[must_use]
    pub fn claims(&self) -> Vec<Claim> {
        let own = self.origins.own();
        let others = self.origins.sorted().filter(|(index, _)| *index != OWN);
        std::iter::once((OWN, own))
            .chain(others)
            .map(|(index, origin)| (index, origin, given_whole(index, origin)))
            .map(|(index, origin, given)| Claim {
                log: origin.id.clone(),
                confirmed: origin.held(index),
                given,
                has_places: origin
                    .log
                    .above(0)
                    .next()
                    .is_some_and(|first| first.version() <= given),
                hole: origin.hole.map(|hole| hole.at),
                rows: origin.rows,
            })
            .collect()
    }

    /// How many rows carry a count of `replica`.
    #[must_use]
    pub fn rows_of(&self, replica: &ReplicaId) -> usize {
        let index = self.origins.index_of(replica);
        index
            .and_then(|index| self.origins.get(index))
            .map_or(0, |origin| origin.rows)
    }

    /// How much this replica keeps.
    #[must_use]
    pub fn kept(&self) -> Kept {
        let (windows, listed) = self.rows.listed();
        let mut kept = Kept {
            rows: self.rows.known(),
            windows,
            listed,
            unplaced: self.adopted.len(),
            unsent: self.due.len() + self.dirty.len(),
            outbox: self.outbox.len(),
            ..Kept::default()
        };
        for (_, origin) in self.origins.sorted() {
            kept.origins += 1;
            kept.origins_with_rows += usize::from(origin.rows > 0);
            kept.log_entries = kept.log_entries.max(origin.log.above(0).count());
            kept.pending = kept.pending.max(origin.progress.pending());
            kept.received = kept.received.max(origin.progress.received(usize::MAX).len());
            kept.unplaced += origin.loose.len();
        }
        kept
    }
}

/// What is relayed of a log, none if it is cut short by a hole and rows may have left it for a place beyond:
/// nobody can claim that.
fn given_whole(index: OriginIndex, origin: &Origin) -> Version {
    let given = relayable(index, origin);
    let is_whole = origin.hole.is_none() || origin.log.complete_at(0, given, origin.held(index)) <= given;
    if is_whole { given } else { 0 }
}
