//! One window asked for one charge: the steps that a decision is made of.

use smallvec::SmallVec;

use super::counters::{Ask, Counts, Offer, Refusal, Taking};
use super::limiter::{Charge, Limiter, WindowState};
use super::mode::{Overflow, SyncMode};
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
/// The slots in which hits are reserved (none where they pass uncounted), and their windows, in the order of
/// the steps.
pub(super) type Held = SmallVec<[(Option<u32>, Window); 8]>;

pub(super) enum Answer {
    Taken {
        slot: u32,
        counts: Counts,
        window: Window,
        created: bool,
    },
    /// There is no room to count, and that is to stop nobody: see [`Overflow`].
    Uncounted {
        window: Window,
    },
    Refused {
        window: Window,
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
    /// Asks one window for room.
    #[inline]
    pub(super) fn offer(&self, step: &Step<'_>, taking: Taking, now: UnixMillis) -> Answer {
        if let Some((window, salt)) = step.entry.window_at(now)
            && let Some((slot, offer)) = self.counters().offer_existing(&step.ask(salt), taking)
        {
            return step.answer(slot, offer, window, false);
        }
        self.offer_new(step, taking, now)
    }

    /// [`Limiter::offer`] where the row or even its group may have to be made.
    #[cold]
    fn offer_new(&self, step: &Step<'_>, taking: Taking, now: UnixMillis) -> Answer {
        for _ in 0..TURNS_MAX {
            let group = step.entry.group_at(self.counters(), now);
            let Some(group) = group.as_ref() else {
                return self.without_room(step, step.entry.period.window_at(now));
            };
            let ask = step.ask(group.salt());
            return match self.counters().offer(group, &ask, taking, now) {
                Ok((row, offer)) => step.answer(row.slot, offer, group.window, row.created),
                // Only groups of ended windows are closed: this clock is behind. `group_at` turns again.
                Err(Refusal::GroupClosed) => continue,
                Err(Refusal::Full) => self.without_room(step, group.window),
            };
        }
        Answer::Contended
    }

    fn without_room(&self, step: &Step<'_>, window: Window) -> Answer {
        let refused = Answer::Refused {
            window,
            created: false,
            short: false,
        };
        if step.entry.mode != SyncMode::Bounded {
            return refused;
        }
        self.counters().note_overflow();
        match self.overflow() {
            Overflow::Deny => refused,
            Overflow::Allow => Answer::Uncounted { window },
        }
    }
}

impl Step<'_> {
    #[inline]
    pub(super) fn ask(&self, salt: u128) -> Ask {
        Ask {
            fingerprint: self.charge.key.0 ^ salt,
            hits: self.charge.hits,
            limit: self.entry.limit,
            mode: self.entry.mode,
        }
    }

    #[inline]
    pub(super) fn state(&self, window: Window, remaining: u64, now: UnixMillis) -> WindowState {
        WindowState {
            rule: self.charge.rule,
            period: self.entry.period,
            window,
            limit: self.entry.limit,
            remaining,
            reset_seconds: window.end.0.saturating_sub(now.0).div_ceil(1000).max(1),
        }
    }

    /// Whether hits on top of `counts` would pass the limit, as far as is known.
    #[inline]
    pub(super) fn passes_limit(&self, counts: Counts) -> bool {
        counts.total().saturating_add(self.charge.hits.get().into()) > self.entry.limit
    }

    #[inline]
    fn answer(&self, slot: u32, offer: Offer, window: Window, created: bool) -> Answer {
        match offer {
            Offer::Taken(counts) => Answer::Taken {
                slot,
                counts,
                window,
                created,
            },
            Offer::Refused(counts) => Answer::Refused {
                window,
                created,
                short: self.entry.mode == SyncMode::Bounded && !self.passes_limit(counts),
            },
            Offer::Contended | Offer::Gone => Answer::Contended,
        }
    }
}

impl WindowEntry {
    /// The counts that the limit applies to.
    pub(super) fn seen(&self, counts: Counts) -> Counts {
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
