//! One window asked for one charge: the steps that a decision is made of.

use smallvec::SmallVec;

use super::counters::{Ask, Counts, Offer, Refusal, Taking};
use super::limiter::{Charge, Limiter, WindowState};
use super::mode::{Overflow, SyncMode};
use super::schedule::Policy;
use super::table::WindowEntry;
use super::time::UnixMillis;
use super::window::Window;

/// Times that a group may be closed under a decision whose clock is behind before it starts over.
const TURNS_MAX: u32 = 16;

/// One window to be asked for one charge.
#[derive(Clone, Copy)]
pub(super) struct Step<'a> {
    pub(super) entry: &'a WindowEntry,
    pub(super) charge: &'a Charge,
}

pub(super) type Steps<'a> = SmallVec<[Step<'a>; 8]>;
/// What is reserved for each of the steps, in their order.
pub(super) type Held = SmallVec<[Hold; 8]>;

/// Where the hits of one step are reserved.
pub(super) struct Hold {
    /// `None` where they pass uncounted.
    pub(super) slot: Option<u32>,
    pub(super) window: Window,
    pub(super) policy: Policy,
}

pub(super) enum Answer {
    Taken {
        slot: u32,
        counts: Counts,
        window: Window,
        /// By what it was decided.
        policy: Policy,
        created: bool,
    },
    /// There is no room to count, and that is to stop nobody: see [`Overflow`].
    Uncounted {
        window: Window,
        policy: Policy,
    },
    Refused {
        window: Window,
        policy: Policy,
        created: bool,
        /// The limit is not known to be reached, but for lack of rights.
        short: bool,
    },
    Contended,
}

/// Where a reservation ended.
#[derive(Clone, Copy)]
pub(super) enum Stop {
    Full(usize),
    Contended(usize),
}

impl Limiter {
    /// Asks one window for room. What has no rights is decided by the fallback of a replica without a share, if
    /// there is one.
    #[inline]
    pub(super) fn offer(&self, step: &Step<'_>, taking: Taking, now: UnixMillis) -> Answer {
        let answer = self.offer_by(step, taking, now, None);
        match answer {
            Answer::Refused {
                policy,
                window,
                created,
                ..
            } if policy.mode == SyncMode::Bounded => match self.fallback(window) {
                Some(mode) => self.offer_by(step, taking, now, Some(mode)).or_created(created),
                None => answer,
            },
            _ => answer,
        }
    }

    /// Asks one window for room, by its own mode unless another is given.
    #[inline]
    fn offer_by(&self, step: &Step<'_>, taking: Taking, now: UnixMillis, mode: Option<SyncMode>) -> Answer {
        if let Some((window, salt)) = step.entry.window_at(now) {
            let policy = step.policy(window, mode);
            if let Some((slot, offer)) = self.counters().offer_existing(&step.ask(salt, policy), taking) {
                return step.answer(slot, offer, (window, policy), false);
            }
        }
        self.offer_new(step, taking, now, mode)
    }

    /// [`Limiter::offer_by`] where the row or even its group may have to be made.
    #[cold]
    fn offer_new(&self, step: &Step<'_>, taking: Taking, now: UnixMillis, mode: Option<SyncMode>) -> Answer {
        for _ in 0..TURNS_MAX {
            let group = step.entry.group_at(self.counters(), now);
            let Some(group) = group.as_ref() else {
                return self.without_room(step, step.entry.period.window_at(now), mode);
            };
            let policy = step.policy(group.window, mode);
            let ask = step.ask(group.salt(), policy);
            return match self.counters().offer(group, &ask, taking, now) {
                Ok((row, offer)) => step.answer(row.slot, offer, (group.window, policy), row.created),
                // Only groups of ended windows are closed: this clock is behind. `group_at` turns again.
                Err(Refusal::GroupClosed) => continue,
                Err(Refusal::Full) => self.without_room(step, group.window, mode),
            };
        }
        Answer::Contended
    }

    fn without_room(&self, step: &Step<'_>, window: Window, mode: Option<SyncMode>) -> Answer {
        let policy = step.policy(window, mode);
        let refused = Answer::Refused {
            window,
            policy,
            created: false,
            short: false,
        };
        if policy.mode != SyncMode::Bounded {
            return refused;
        }
        self.counters().note_overflow();
        match self.overflow() {
            Overflow::Deny => refused,
            Overflow::Allow => Answer::Uncounted { window, policy },
        }
    }
}

impl Answer {
    /// This answer, of a row that was made for the question before this one.
    fn or_created(mut self, before: bool) -> Self {
        if let Self::Taken { created, .. } | Self::Refused { created, .. } = &mut self {
            *created |= before;
        }
        self
    }
}

impl Step<'_> {
    #[inline]
    fn policy(&self, window: Window, mode: Option<SyncMode>) -> Policy {
        let policy = self.entry.schedule.at(window.start);
        Policy {
            mode: mode.unwrap_or(policy.mode),
            ..policy
        }
    }

    #[inline]
    fn ask(&self, salt: u128, policy: Policy) -> Ask {
        Ask {
            fingerprint: self.fingerprint(salt),
            hits: self.charge.hits,
            limit: policy.limit,
            mode: policy.mode,
        }
    }

    #[inline]
    pub(super) fn fingerprint(&self, salt: u128) -> u128 {
        self.charge.key.0 ^ salt
    }

    #[inline]
    pub(super) fn state(&self, window: Window, limit: u64, remaining: u64, now: UnixMillis) -> WindowState {
        WindowState {
            rule: self.charge.rule,
            period: self.entry.period,
            window,
            limit,
            remaining,
            reset_seconds: window.end.0.saturating_sub(now.0).div_ceil(1000).max(1),
        }
    }

    /// What is shown of a window that this request alone is known to count in.
    pub(super) fn uncounted(&self, window: Window, policy: Policy, now: UnixMillis) -> WindowState {
        let remaining = policy.limit.saturating_sub(self.charge.hits.get().into());
        self.state(window, policy.limit, remaining, now)
    }

    /// Whether hits on top of `counts` would pass the limit, as far as is known.
    #[inline]
    pub(super) fn passes_limit(&self, counts: Counts, policy: Policy) -> bool {
        counts.total().saturating_add(self.charge.hits.get().into()) > policy.limit
    }

    #[inline]
    fn answer(&self, slot: u32, offer: Offer, (window, policy): (Window, Policy), created: bool) -> Answer {
        match offer {
            Offer::Taken(counts) => Answer::Taken {
                slot,
                counts,
                window,
                policy,
                created,
            },
            Offer::Refused(counts) => Answer::Refused {
                window,
                policy,
                created,
                short: policy.mode == SyncMode::Bounded && !self.passes_limit(counts, policy),
            },
            Offer::Contended | Offer::Gone => Answer::Contended,
        }
    }
}

impl Policy {
    /// The counts that the limit applies to.
    pub(super) fn seen(self, counts: Counts) -> Counts {
        Counts {
            peers: if self.mode == SyncMode::Local {
                0
            } else {
                counts.peers
            },
            ..counts
        }
    }
}
