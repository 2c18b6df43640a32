//! Which limit and mode a window has.
//!
//! Between `local` and `gossip` a change holds at once, since both decide by the same counts. In bounded mode
//! rights are dealt out by limit, once per window: where it is involved, a window keeps until it ends what it
//! started with, and what changes does so between two windows.

use std::time::Duration;

use smallvec::SmallVec;

use super::mode::SyncMode;
use super::time::UnixMillis;
use super::window::Period;

/// What a rule says about a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Policy {
    pub(super) limit: u64,
    pub(super) mode: SyncMode,
}

/// The policies of the windows of one (rule, period).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Schedule {
    newest: Policy,
    /// Windows that start later have the newest policy.
    from: UnixMillis,
    /// What windows that start no later have; oldest first, and at most [`EARLIER_MAX`].
    earlier: SmallVec<[Earlier; 1]>,
}

/// The policy of windows that start at or before `until`, and not at or before that of the one before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Earlier {
    policy: Policy,
    until: UnixMillis,
}

/// Earlier policies kept. They are forgotten with their windows, so only a mode that changes all day under
/// windows of a year comes to this.
const EARLIER_MAX: usize = 16;
/// How long before a change a window may have ended and still be asked for: clocks differ by no more.
const GRACE: Duration = Duration::from_secs(3600);

impl From<Policy> for Schedule {
    fn from(policy: Policy) -> Self {
        Self {
            newest: policy,
            from: UnixMillis(0),
            earlier: SmallVec::new(),
        }
    }
}

impl Policy {
    fn is_bounded(self) -> bool {
        self.mode == SyncMode::Bounded
    }
}

impl Schedule {
    /// The policy of a window that starts at `start`.
    #[inline]
    pub(super) fn at(&self, start: UnixMillis) -> Policy {
        if start > self.from {
            self.newest
        } else {
            self.earlier_at(start)
        }
    }

    #[cold]
    fn earlier_at(&self, start: UnixMillis) -> Policy {
        let earlier = self.earlier.iter().find(|earlier| start <= earlier.until);
        earlier.map_or(self.newest, |earlier| earlier.policy)
    }

    /// This schedule with `policy` for windows that start after `from`; for all of them where bounded mode is
    /// not involved. What was planned for later than `from` is off.
    pub(super) fn change(&self, policy: Policy, from: UnixMillis, period: Period) -> Self {
        if !policy.is_bounded() && !self.newest.is_bounded() {
            return self.change_at_once(policy);
        }
        let mut next = self.clone();
        next.earlier.retain(|earlier| earlier.until < from);
        let until_then = self.at(from);
        if until_then != policy {
            next.earlier.push(Earlier {
                policy: until_then,
                until: from,
            });
        }
        let oldest = period.window_at(from.minus(GRACE)).start;
        next.earlier.retain(|earlier| earlier.until >= oldest);
        if next.earlier.len() > EARLIER_MAX {
            let first = next.earlier.remove(0);
            next.earlier[0].policy = stricter(first.policy, next.earlier[0].policy);
        }
        next.newest = policy;
        next.from = next.earlier.last().map_or(UnixMillis(0), |last| last.until);
        next
    }

    fn change_at_once(&self, policy: Policy) -> Self {
        let mut next = self.clone();
        next.newest = policy;
        let free = |earlier: &&mut Earlier| !earlier.policy.is_bounded();
        for earlier in next.earlier.iter_mut().filter(free) {
            earlier.policy = policy;
        }
        next
    }

    /// Whether a window that has not ended by `now`, or one that is to come, is in bounded mode.
    pub(super) fn is_bounded(&self, now: UnixMillis, period: Period) -> bool {
        let mut after = None;
        let any_earlier = self.earlier.iter().any(|earlier| {
            let last = period.window_at(earlier.until);
            let has_window = after.is_none_or(|after| last.start > after);
            after = Some(earlier.until);
            earlier.policy.is_bounded() && has_window && last.end > now
        });
        self.newest.is_bounded() || any_earlier
    }
}

/// Windows of both policies then have this one: a bounded one stays bounded, and its limit is not raised.
fn stricter(a: Policy, b: Policy) -> Policy {
    match (a.is_bounded(), b.is_bounded()) {
        (true, true) => Policy {
            limit: a.limit.min(b.limit),
            ..a
        },
        (true, false) => a,
        (false, _) => b,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn policy(limit: u64, mode: SyncMode) -> Policy {
        Policy { limit, mode }
    }

    const LOCAL: Policy = policy(5, SyncMode::Local);
    const GOSSIP: Policy = policy(5, SyncMode::Gossip);
    const BOUNDED: Policy = policy(5, SyncMode::Bounded);

    fn at(schedule: &Schedule, seconds: u64) -> Policy {
        schedule.at(UnixMillis(seconds * 1000))
    }

    fn change(schedule: &Schedule, policy: Policy, seconds: u64) -> Schedule {
        schedule.change(policy, UnixMillis(seconds * 1000), Period::Day)
    }

    #[test]
    fn without_bounded_a_change_holds_at_once_and_with_it_between_two_windows() {
        let gossip = Schedule::from(GOSSIP);
        let local = change(&gossip, LOCAL, 100);
        assert_eq!((at(&local, 0), at(&local, 200)), (LOCAL, LOCAL));
        let bounded = change(&local, BOUNDED, 100);
        assert_eq!((at(&bounded, 0), at(&bounded, 100)), (LOCAL, LOCAL));
        assert_eq!(bounded.at(UnixMillis(100_001)), BOUNDED);
        let raised = change(&bounded, Policy { limit: 9, ..BOUNDED }, 200);
        assert_eq!((at(&raised, 200), at(&raised, 201).limit), (BOUNDED, 9));
        let back = change(&change(&raised, GOSSIP, 300), LOCAL, 0);
        let expected = [LOCAL, LOCAL, BOUNDED, Policy { limit: 9, ..BOUNDED }, LOCAL];
        assert_eq!(
            [0, 100, 101, 201, 301].map(|seconds| at(&back, seconds)),
            expected
        );
    }

    #[test]
    fn a_change_that_is_called_off_before_it_holds_leaves_nothing() {
        let planned = change(&Schedule::from(GOSSIP), BOUNDED, 100);
        assert_eq!(change(&planned, GOSSIP, 98), Schedule::from(GOSSIP));
        // Heard of again, it holds when it was to hold.
        assert_eq!(change(&planned, BOUNDED, 105), planned);
    }

    #[test]
    fn a_schedule_is_bounded_while_an_open_or_coming_window_is() {
        let is_bounded = |schedule: &Schedule, seconds: u64, period| {
            schedule.is_bounded(UnixMillis(seconds * 1000), period)
        };
        let planned = change(&Schedule::from(GOSSIP), BOUNDED, 100);
        assert!(is_bounded(&planned, 10, Period::Second));
        let over = change(&planned, GOSSIP, 200);
        assert!(is_bounded(&over, 200, Period::Second) && !is_bounded(&over, 201, Period::Second));
        assert!(is_bounded(&over, 239, Period::Minute) && !is_bounded(&over, 240, Period::Minute));
        assert!(!is_bounded(&Schedule::from(LOCAL), 0, Period::Day));
    }

    proptest! {
        /// Whatever is changed, and however often: a bounded window stays bounded, its limit never rises, and
        /// no window becomes bounded after it started.
        #[test]
        fn a_started_window_keeps_what_was_promised_for_it(
            changes in proptest::collection::vec((0usize..3, 1u64..9, 0u64..40_000), 1..60),
        ) {
            let day = 86_400_000;
            let mut schedule = Schedule::from(GOSSIP);
            let mut now = 40 * day;
            for (mode, limit, later) in changes {
                let mode = [SyncMode::Local, SyncMode::Gossip, SyncMode::Bounded][mode];
                // Windows that started up to now, and are not over.
                let starts: Vec<u64> = (0..100).map(|n| now - n * day / 100).collect();
                let before: Vec<_> = starts.iter().map(|start| schedule.at(UnixMillis(*start))).collect();
                now += later;
                schedule = schedule.change(policy(limit, mode), UnixMillis(now), Period::Day);
                for (start, before) in starts.into_iter().zip(before) {
                    let after = schedule.at(UnixMillis(start));
                    prop_assert!(before.is_bounded() || !after.is_bounded() || schedule.earlier.len() == EARLIER_MAX);
                    prop_assert!(!before.is_bounded() || after.is_bounded() && after.limit <= before.limit);
                }
            }
            prop_assert!(schedule.earlier.len() <= EARLIER_MAX);
        }
    }
}
