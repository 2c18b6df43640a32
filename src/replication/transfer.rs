//! How rights move between replicas.

use std::sync::Arc;

use crate::bounded::ShareTable;
use crate::limit::{UnixMillis, WaitingRoom};
use crate::replica::ReplicaId;

use super::Replication;
use super::codec::Version;

/// Totals of transfers since start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TransferStats {}

impl Replication {
    /// Called once at start.
    pub fn set_bounded(&mut self, _shares: Arc<ShareTable>, _waiting: Arc<WaitingRoom>) {}

    /// A share of windows with this start was decided.
    pub fn reassess(&mut self, start: UnixMillis) {
        self.counters.reassess(start, |_, view| view.limit.unwrap_or(0));
    }

    /// The rows of these replicas are this node's own.
    pub fn inherit(&mut self, _replicas: &[ReplicaId]) {}

    /// The version of a log below which nothing is missing; of our own the newest.
    #[must_use]
    pub fn held(&self, log: &ReplicaId) -> Version {
        let claims = self.claims();
        let claim = claims.iter().find(|claim| claim.log == *log);
        claim.map_or(0, |claim| {
            claim.hole.map_or(claim.confirmed, |hole| {
                hole.saturating_sub(1).min(claim.confirmed)
            })
        })
    }

    /// The top of our log once nothing bounded is unsent, while leaving.
    #[must_use]
    pub fn released_version(&self) -> Option<Version> {
        let own = self.claims().first().map_or(0, |claim| claim.confirmed);
        (self.leaving && !self.has_due()).then_some(own)
    }

    /// These have inherited.
    pub fn note_heirs(&mut self, _heirs: &[ReplicaId]) {}

    /// Totals.
    #[must_use]
    pub fn transfer_stats(&self) -> TransferStats {
        TransferStats::default()
    }
}
