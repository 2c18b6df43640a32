//! Keeps this core in step with the escrow of its node: what that has to know of logs, and what follows for rows
//! from what it decides.

use crate::bounded::{Escrow, Logs, Outcome};
use crate::limit::UnixMillis;
use crate::replica::ReplicaId;

use super::core::Replication;

impl Logs for Replication {
    fn held(&self, log: &ReplicaId) -> u64 {
        Replication::held(self, log)
    }

    fn has_rows(&self, replica: &ReplicaId) -> bool {
        self.rows_of(replica) > 0
    }
}

impl Replication {
    /// Lets `escrow` do what is due at `now`, and tells the rows what came of it. Cheap when nothing is due.
    pub fn advance_escrow(&mut self, escrow: &mut Escrow, now: UnixMillis) -> Outcome {
        if escrow.awaits_release()
            && let Some(version) = self.released_version()
        {
            escrow.handle_released(version, self);
        }
        if !escrow.is_due(now) {
            return Outcome::default();
        }
        let outcome = escrow.advance(now, self);
        self.handle_outcome(&outcome);
        outcome
    }

    /// Tells the rows that exist. New ones ask the table of shares, which has been replaced before.
    fn handle_outcome(&mut self, outcome: &Outcome) {
        if !outcome.inherited.is_empty() {
            self.inherit(&outcome.inherited);
        }
        for start in &outcome.decided {
            self.reassess(*start);
        }
        if !outcome.heirs.is_empty() {
            self.note_heirs(&outcome.heirs);
        }
    }
}
