//! What stands between a replica and its share of a window.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::limit::UnixMillis;
use crate::replica::ReplicaId;

use super::super::blocked::Blocked;
use super::{End, Roster, STARTS_MAX, boot_of};

/// In the order in which it is told.
impl Roster {
    pub(super) fn permitted(&self, start: UnixMillis) -> Result<(), Blocked> {
        match self.end.filter(|_| self.rules.get().leaving) {
            Some(End::Leaving) => return Err(Blocked::Leaving),
            Some(End::Superseded) => return Err(Blocked::Superseded),
            Some(End::Forgotten) => return Err(Blocked::Forgotten),
            None => {}
        }
        if start > self.clock {
            return Err(Blocked::NotStarted);
        }
        let given_up = start <= self.retained_at && !self.open.contains(&start);
        if given_up || self.decided.len() >= STARTS_MAX {
            return Err(Blocked::TooLate);
        }
        if self.full { Err(Blocked::Full) } else { Ok(()) }
    }

    /// Whoever spent before this replica booted did so in windows that started by boot + S.
    pub(super) fn booted_before(&self, start: UnixMillis) -> Result<(), Blocked> {
        let skew = if self.rules.get().skew {
            self.config.skew
        } else {
            Duration::ZERO
        };
        let after = boot_of(self.me.generation).plus(skew);
        if start > after {
            Ok(())
        } else {
            Err(Blocked::BootSkew { after })
        }
    }

    /// The newest record of every other member lists this replica from before the window: that member's
    /// own decision for the window, made or to be made, counts it.
    pub(super) fn listed_by_all(&self, members: &[&ReplicaId], start: UnixMillis) -> Result<(), Blocked> {
        for member in members.iter().copied().filter(|member| **member != self.me) {
            let since = self.dead.get(member).copied();
            let Some(record) = self.records.get(member) else {
                return Err(Blocked::Missing {
                    member: member.clone(),
                    since,
                });
            };
            match record.members.get(&self.me) {
                None => {
                    return Err(Blocked::Unlisted {
                        member: member.clone(),
                        since,
                    });
                }
                Some(from) if *from >= start && self.rules.get().from => {
                    return Err(Blocked::ListedLate {
                        member: member.clone(),
                        from: *from,
                    });
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// A first share needs enough nodes, or a member that has taken one: then the group exists already.
    pub(super) fn gathered(&self, members: &[&ReplicaId]) -> Result<(), Blocked> {
        let active = |member: &&ReplicaId| self.records.get(*member).is_some_and(|record| record.active);
        if self.own.active || members.iter().any(active) || !self.rules.get().gathering {
            return Ok(());
        }
        let present = members
            .iter()
            .map(|member| &member.node)
            .collect::<BTreeSet<_>>()
            .len();
        let needed = self.config.min_roster;
        if present < needed {
            return Err(Blocked::Gathering { present, needed });
        }
        let until = boot_of(self.me.generation).plus(self.config.listen);
        if self.is_alone(members) && self.clock < until {
            return Err(Blocked::Listening { until });
        }
        Ok(())
    }

    /// A first founder of one may use the windows in progress: once it has listened in vain, it can only
    /// repeat what a crash forgot.
    pub(super) fn founds_alone(&self, members: &[&ReplicaId]) -> bool {
        self.is_alone(members) && self.config.min_roster <= 1 && !self.config.strict_start
    }

    /// Nobody else was ever heard of.
    fn is_alone(&self, members: &[&ReplicaId]) -> bool {
        members.len() == 1 && self.own.departed.is_empty()
    }

    /// Everyone who may take a share of windows that start at `start`, as far as is known.
    pub(in crate::bounded) fn members_at(&self, start: UnixMillis) -> Vec<&ReplicaId> {
        let late = |(_, until): &(&ReplicaId, &UnixMillis)| self.rules.get().until && **until >= start;
        let departed = self.own.departed.iter().filter(late).map(|(replica, _)| replica);
        self.own.members.keys().chain(departed).collect()
    }
}
