//! What befalls nodes of bounded mode by an operator's hand: switches of mode, orderly leaves, and giving up those
//! that have stopped.

use std::collections::BTreeSet;
use std::time::Duration;

use rand::Rng;

use crate::limit::SyncMode;

use super::fault::Fault;
use super::oracle::Violation;
use super::world::{Event, World};

/// A leaver waits so long for acknowledgements and its heir.
const LEAVES_WITHIN: Duration = Duration::from_secs(3);

impl World {
    /// The operator gives `node` up at another that lives. Only what has stopped may be forgotten.
    pub(super) fn forget(&mut self, node: usize) -> bool {
        let Some(other) = self.serving().into_iter().find(|other| *other != node) else {
            return false;
        };
        let id = self.nodes[node].replica.node.clone();
        let now = self.nodes[other].now(self.now).wall;
        if self.nodes[node].alive {
            return false;
        }
        let Some(steward) = &mut self.nodes[other].steward else {
            return false;
        };
        let is_forgotten = steward.escrow.forget(&id, now).is_ok();
        self.drain(other);
        is_forgotten
    }

    /// The operator gives up every life that has stopped, and of which another one follows or none.
    pub fn forget_stopped(&mut self) -> Result<(), Violation> {
        let Some(at) = self.serving().first().copied() else {
            return Ok(());
        };
        let now = self.nodes[at].now(self.now).wall;
        let nodes: BTreeSet<_> = self.nodes.iter().map(|node| node.replica.node.clone()).collect();
        if let Some(steward) = &mut self.nodes[at].steward {
            for node in nodes {
                // Those that live in their only life are refused, which is right.
                let _ = steward.escrow.forget(&node, now);
            }
        }
        self.settle(at, &[])
    }

    /// The operator switches the mode of the cluster at `node`, which changes nothing where it was set to that. What is
    /// only configured at `node` may differ elsewhere.
    pub(super) fn switch(&mut self, node: usize, mode: SyncMode) -> bool {
        let now = self.nodes[node].now(self.now);
        let at = &mut self.nodes[node];
        let Some(steward) = at
            .steward
            .as_mut()
            .filter(|s| s.mode().mode != mode || s.mode().version == 0)
        else {
            return false;
        };
        steward.set_mode(mode, &at.limiter, now);
        at.replication.handle_local_change(now);
        if mode == SyncMode::Bounded {
            // Newcomers are those that start after the operator has said so.
            self.switched_at = self.now;
            self.promise.switched_to_bounded(steward.mode().from);
        } else {
            self.promise.switched_away(now.wall);
        }
        if self.rng.random_bool(0.5) {
            self.file_mode = mode;
        }
        self.tell_everybody(node);
        self.look_around(node);
        self.drain(node);
        true
    }

    pub(super) fn leave_in_order(&mut self, node: usize) {
        let now = self.nodes[node].now(self.now);
        self.waits.abandon(node);
        let at = &mut self.nodes[node];
        let generation = at.replica.generation.0;
        if let Some(steward) = at.steward.as_mut() {
            steward.leave(&mut at.replication, now);
        }
        self.after(LEAVES_WITHIN, Event::LeaveOver { node, generation });
        self.tell_everybody(node);
        self.drain(node);
    }

    /// Whether another life of `node`, or a new node, would make too many that know of no active group: those
    /// could found a second one (docs/bounded.md, §3.1).
    pub(super) fn may_start(&self) -> bool {
        let Some(bounded) = &self.config.bounded else {
            return true;
        };
        let aware = |node: &usize| {
            let steward = self.nodes[*node].steward.as_ref();
            steward.is_some_and(|steward| steward.escrow.status().members.iter().any(|member| member.active))
        };
        let alive = self.alive();
        let unaware = alive.iter().filter(|node| !aware(node)).count();
        unaware + 1 < bounded.roster.min_roster || unaware == alive.len()
    }

    pub(super) fn inject_bounded(&mut self, fault: &Fault) {
        match fault {
            Fault::Forget { node } if *node < self.nodes.len() => {
                self.faults.forgets += u64::from(self.forget(*node));
            }
            Fault::Switch { mode } => {
                if let Some(node) = self.serving().first().copied() {
                    self.faults.switches += u64::from(self.switch(node, *mode));
                }
            }
            _ => {}
        }
    }
}
