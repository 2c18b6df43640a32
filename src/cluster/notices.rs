//! What the log says of shares and members in bounded mode: each thing once, when it begins and when it ends.

use std::collections::BTreeSet;
use std::mem::{Discriminant, discriminant};

use tracing::{info, warn};

use crate::bounded::{Blocked, EscrowStatus, MemberStatus, PeriodStatus};
use crate::limit::{Period, UnixMillis};
use crate::replica::ReplicaId;

/// What was said already.
#[derive(Debug, Default)]
pub(super) struct Notices {
    without_share: Vec<WithoutShare>,
    former: BTreeSet<ReplicaId>,
}

/// A period without a share, as it was told last.
#[derive(Debug)]
struct WithoutShare {
    period: Period,
    start: UnixMillis,
    reason: Discriminant<Blocked>,
}

/// One thing to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Notice {
    /// This node has no share of the window in progress.
    NoShare {
        period: Period,
        until: UnixMillis,
        reason: Blocked,
    },
    /// It has one again.
    Share { period: Period, members: usize },
    /// A former life of a node that is back counts as a member of its own.
    FormerLife { replica: ReplicaId },
}

impl Notices {
    /// What `status` has that was not said before.
    pub(super) fn update(&mut self, status: &EscrowStatus) -> Vec<Notice> {
        let mut notices: Vec<_> = status
            .periods
            .iter()
            .filter_map(|period| self.share(period))
            .collect();
        let in_use = |told: &WithoutShare| status.periods.iter().any(|status| status.period == told.period);
        self.without_share.retain(in_use);
        let former: BTreeSet<_> = former_lives(&status.members).cloned().collect();
        let news = former.difference(&self.former).cloned();
        notices.extend(news.map(|replica| Notice::FormerLife { replica }));
        self.former = former;
        notices
    }

    /// Reasons follow each other quickly while nodes meet: only a later window is worth another line, and only
    /// with another reason.
    fn share(&mut self, status: &PeriodStatus) -> Option<Notice> {
        let period = status.period;
        let told = self.without_share.iter().position(|told| told.period == period);
        if let Some(members) = status.divisor {
            self.without_share.remove(told?);
            return Some(Notice::Share { period, members });
        }
        let reason = status.blocked.clone()?;
        if reason == Blocked::Leaving {
            return None;
        }
        let now = WithoutShare {
            period,
            start: status.window.start,
            reason: discriminant(&reason),
        };
        match told.map(|at| &mut self.without_share[at]) {
            Some(told) if told.start == now.start || told.reason == now.reason => return None,
            Some(told) => *told = now,
            None => self.without_share.push(now),
        }
        let until = status.window.end;
        Some(Notice::NoShare {
            period,
            until,
            reason,
        })
    }
}

/// Dead members of whose node another life is alive.
fn former_lives(members: &[MemberStatus]) -> impl Iterator<Item = &ReplicaId> {
    let counted = |member: &&MemberStatus| member.departed_until.is_none();
    let alive = move |replica: &ReplicaId| {
        let others = members.iter().filter(counted);
        others
            .filter(|other| other.replica.node == replica.node)
            .any(|other| other.dead_since.is_none())
    };
    members
        .iter()
        .filter(counted)
        .filter(|member| member.dead_since.is_some())
        .map(|member| &member.replica)
        .filter(move |replica| alive(replica))
}

impl Notice {
    /// Writes it to the log.
    pub(super) fn log(&self) {
        match self {
            Self::NoShare {
                period,
                until,
                reason,
            } => warn!(
                %period, %until, %reason,
                "no share of the window in progress: `bounded.when_without_share` says what becomes of requests \
                 that peers grant no rights for"
            ),
            Self::Share { period, members } => info!(%period, members, "has a share again"),
            Self::FormerLife { replica } => warn!(
                %replica,
                "a former life of a node that is back is still counted, and its share is lost: run `weir roster \
                 forget {}`, or set `bounded.retire_on_restart` where the platform guarantees that it has stopped",
                replica.node
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replica::Generation;

    fn replica(node: &str, generation: u64) -> ReplicaId {
        ReplicaId {
            node: node.parse().unwrap(),
            generation: Generation(generation),
        }
    }

    fn member(replica: ReplicaId, dead: bool, departed: bool) -> MemberStatus {
        MemberStatus {
            replica,
            from: UnixMillis(1),
            departed_until: departed.then_some(UnixMillis(2)),
            dead_since: dead.then_some(UnixMillis(2)),
            lists_me: true,
            active: true,
        }
    }

    fn status(
        members: Vec<MemberStatus>,
        at: u64,
        divisor: Option<usize>,
        blocked: Option<Blocked>,
    ) -> EscrowStatus {
        let period = Period::Minute;
        let window = period.window_at(UnixMillis(at));
        EscrowStatus {
            involved: true,
            members,
            periods: vec![PeriodStatus {
                period,
                window,
                divisor,
                blocked,
            }],
            inherited: Vec::new(),
            wills: Vec::new(),
        }
    }

    #[test]
    fn a_lack_of_shares_is_told_once_for_each_reason_that_lasts_and_so_is_its_end() {
        let mut notices = Notices::default();
        let mut told = |at, divisor, blocked| notices.update(&status(Vec::new(), at, divisor, blocked));
        let gathering = Blocked::Gathering {
            present: 1,
            needed: 2,
        };
        let boot = Blocked::BootSkew { after: UnixMillis(5) };
        let no_share = |until, reason: &Blocked| {
            vec![Notice::NoShare {
                period: Period::Minute,
                until: UnixMillis(until),
                reason: reason.clone(),
            }]
        };
        assert_eq!(told(1, None, None), []);
        assert_eq!(told(1, None, Some(boot.clone())), no_share(60_000, &boot));
        assert_eq!(told(2, None, Some(boot.clone())), []);
        assert_eq!(
            told(3, None, Some(gathering.clone())),
            [],
            "within the same window"
        );
        assert_eq!(told(60_000, None, Some(boot.clone())), [], "for the same reason");
        assert_eq!(
            told(60_001, None, Some(gathering.clone())),
            no_share(120_000, &gathering)
        );
        let share = Notice::Share {
            period: Period::Minute,
            members: 2,
        };
        assert_eq!(told(120_000, Some(2), None), [share]);
        assert_eq!(told(120_001, Some(2), None), []);
        assert_eq!(told(180_000, None, Some(Blocked::Leaving)), []);
        assert_eq!(told(180_001, None, Some(boot.clone())), no_share(240_000, &boot));
    }

    #[test]
    fn a_dead_life_of_a_living_node_is_told_once_and_a_dead_node_is_not() {
        let mut notices = Notices::default();
        let alive = member(replica("b", 9), false, false);
        let mut told = |members: &[MemberStatus]| notices.update(&status(members.to_vec(), 1, Some(1), None));
        let dead = member(replica("b", 5), true, false);
        assert_eq!(told(std::slice::from_ref(&dead)), []);
        let notice = Notice::FormerLife {
            replica: replica("b", 5),
        };
        assert_eq!(told(&[dead.clone(), alive.clone()]), [notice]);
        assert_eq!(told(&[dead, alive.clone()]), []);
        assert_eq!(told(&[member(replica("b", 5), true, true), alive]), []);
    }
}
