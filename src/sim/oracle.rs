//! The oracle: knows what was truly admitted, independently of the code it judges.

use std::collections::BTreeMap;
use std::time::Duration;

use thiserror::Error;

use crate::limit::RowKey;
use crate::replica::ReplicaId;

/// An invariant that did not hold.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("at {at:?}: {what}")]
pub struct Violation {
    /// Virtual time.
    pub at: Duration,
    /// What was wrong, where.
    pub what: String,
}

/// Every admission, by counter and by the replica that made it.
#[derive(Clone, Debug, Default)]
pub struct Oracle {
    admitted: BTreeMap<RowKey, BTreeMap<ReplicaId, u64>>,
    /// Requests offered.
    pub offered: u64,
    /// Requests admitted.
    pub total: u64,
}

impl Oracle {
    /// A request was admitted.
    pub fn admit(&mut self, row: RowKey, by: &ReplicaId, hits: u64) {
        self.count(row, by, hits);
        self.total += 1;
    }

    /// A request counts so many hits in one of its rows.
    pub fn count(&mut self, row: RowKey, by: &ReplicaId, hits: u64) {
        *self
            .admitted
            .entry(row)
            .or_default()
            .entry(by.clone())
            .or_default() += hits;
    }

    /// What `replica` truly admitted.
    #[must_use]
    pub fn admitted_by(&self, row: &RowKey, replica: &ReplicaId) -> u64 {
        self.admitted
            .get(row)
            .and_then(|by| by.get(replica))
            .copied()
            .unwrap_or(0)
    }

    /// Every replica that admitted anything of `row`, and how much.
    pub fn admitted_of(&self, row: &RowKey) -> impl Iterator<Item = (&ReplicaId, u64)> {
        let by = self.admitted.get(row).into_iter().flatten();
        by.map(|(replica, hits)| (replica, *hits))
    }

    /// What all together truly admitted.
    #[must_use]
    pub fn admitted(&self, row: &RowKey) -> u64 {
        self.admitted.get(row).map_or(0, |by| by.values().sum())
    }

    /// Every counter that admitted anything.
    pub fn rows(&self) -> impl Iterator<Item = (&RowKey, &BTreeMap<ReplicaId, u64>)> {
        self.admitted.iter()
    }
}
