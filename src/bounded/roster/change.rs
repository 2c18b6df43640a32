//! How a roster changes: who is counted, who has departed, and who is remembered.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::limit::UnixMillis;
use crate::replica::{Generation, NodeId, ReplicaId};

use super::super::record::RosterRecord;
use super::{DEPARTED_RETENTION, End, Roster, boot_of};

impl Roster {
    pub(super) fn advance(&mut self, now: UnixMillis) {
        self.clock = self.clock.max(now);
    }

    pub(super) fn update(&mut self, now: UnixMillis, change: impl FnOnce(&mut Self)) {
        self.advance(now);
        let before = self.own.clone();
        change(self);
        self.retire();
        if self.own != before {
            self.own.version += 1;
        }
    }

    pub(in crate::bounded) fn is_known(&self, replica: &ReplicaId) -> bool {
        self.own.members.contains_key(replica) || self.own.departed.contains_key(replica)
    }

    pub(super) fn add(&mut self, replica: &ReplicaId) {
        if self.is_known(replica) {
            return;
        }
        if self.own.members.len() >= RosterRecord::ENTRIES_MAX {
            self.full = true;
        } else {
            self.own.members.insert(replica.clone(), self.clock);
        }
    }

    /// Where there is no room for the mark, the replica stays a member, which is the careful side.
    pub(super) fn depart(&mut self, replica: &ReplicaId, until: UnixMillis) {
        if *replica == self.me {
            // Others learn of a leaving from its record; who hears of its own any other way was declared gone.
            return self.end(End::Forgotten);
        }
        if let Some(known) = self.own.departed.get_mut(replica) {
            *known = until.max(*known);
        } else if self.own.departed.len() < RosterRecord::ENTRIES_MAX {
            self.own.members.remove(replica);
            self.dead.remove(replica);
            self.own.departed.insert(replica.clone(), until);
            self.full &= self.own.members.len() >= RosterRecord::ENTRIES_MAX;
        }
    }

    pub(super) fn give_up(&mut self, replica: &ReplicaId) {
        self.depart(replica, self.clock.plus(self.config.skew));
    }

    /// The first end stands. Every end is published as a leaving, so that nobody waits for this replica.
    pub(super) fn end(&mut self, end: End) {
        self.end = self.end.or(Some(end));
        let clock = self.clock;
        self.own.leaving_at.get_or_insert(clock);
    }

    /// Former generations have stopped by the time that their successor booted, which by any member's
    /// clock is at most S later than the successor's own says.
    fn retire(&mut self) {
        let known = || self.own.members.keys().chain(self.own.departed.keys());
        let mut newest: BTreeMap<&NodeId, Generation> = BTreeMap::new();
        for replica in known() {
            let generation = newest.entry(&replica.node).or_insert(replica.generation);
            *generation = replica.generation.max(*generation);
        }
        let skew = if self.rules.get().skew {
            self.config.skew
        } else {
            Duration::ZERO
        };
        let former = known().filter_map(|replica| {
            let successor = *newest.get(&replica.node)?;
            let until = boot_of(successor).plus(skew);
            (successor > replica.generation).then(|| (replica.clone(), until))
        });
        for (replica, until) in former.collect::<Vec<_>>() {
            if replica == self.me {
                self.end(End::Superseded);
                // Its successor's appearance is also how others came to let it go.
                self.end = self
                    .end
                    .filter(|end| *end != End::Forgotten)
                    .or(Some(End::Superseded));
            } else if self.config.retire_on_restart {
                self.depart(&replica, until);
            }
        }
    }

    pub(super) fn forget_departed(&mut self) {
        let undecided = self.open.iter().filter(|start| !self.decided.contains_key(start));
        let earliest = undecided.min().copied().unwrap_or(self.clock).min(self.clock);
        let matters = |until: &UnixMillis| until.plus(DEPARTED_RETENTION) >= earliest;
        let current = || {
            self.own
                .members
                .keys()
                .filter_map(|member| self.records.get(member))
        };
        let listed = |replica: &ReplicaId| current().any(|record| record.members.contains_key(replica));
        let forgotten: Vec<_> = self
            .own
            .departed
            .iter()
            .filter(|(replica, until)| !matters(until) && !listed(replica))
            .map(|(replica, _)| replica.clone())
            .collect();
        let clock = self.clock;
        self.update(clock, |roster| {
            for replica in &forgotten {
                roster.own.departed.remove(replica);
                roster.records.remove(replica);
            }
        });
    }
}
