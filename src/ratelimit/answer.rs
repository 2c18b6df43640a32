//! What a caller is told. Pure.

use http::HeaderMap;

use super::book::{Known, KnownLimit};
use crate::limit::{Decision, Period, Rules, UnixMillis, WindowState};

/// What the caller is told.
#[derive(Debug, Default)]
pub(super) struct Answer {
    /// Some enforcing limit has no room.
    pub(super) is_denied: bool,
    /// Why, if it is denied.
    pub(super) reason: &'static str,
    /// Some limit applies.
    pub(super) is_limited: bool,
    /// One for each descriptor.
    pub(super) statuses: Vec<Status>,
    /// For the response to the client.
    pub(super) headers: HeaderMap,
}

/// How one descriptor stands.
#[derive(Clone, Debug, Default)]
pub(super) struct Status {
    pub(super) is_over: bool,
    pub(super) is_unlimited: bool,
    /// The tightest of its windows.
    pub(super) window: Option<StatusWindow>,
    /// What the limit is called by the configuration.
    pub(super) name: String,
    /// The rule that limits it.
    pub(super) rule: String,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct StatusWindow {
    pub(super) limit: u64,
    pub(super) period: Period,
    pub(super) remaining: u64,
    pub(super) reset_seconds: u64,
}

impl Status {
    /// Of a descriptor that is `known`, whose question is denied or not.
    ///
    /// A window without room shows nothing left, and one with room what is left: see [`Limiter::check`].
    pub(super) fn new(
        known: &Known,
        rules: &Rules,
        windows: &[WindowState],
        is_denied: bool,
        now: UnixMillis,
    ) -> Self {
        let mut status = Self {
            name: known.name.clone(),
            ..Self::default()
        };
        match known.limit {
            KnownLimit::None => {}
            KnownLimit::Unlimited => status.is_unlimited = true,
            KnownLimit::Nothing(period) => {
                status.is_over = !known.shadow;
                let end = period.window_at(now).end;
                status.window = Some(StatusWindow {
                    limit: 0,
                    period,
                    remaining: 0,
                    reset_seconds: end.0.saturating_sub(now.0).div_ceil(1000).max(1),
                });
            }
            KnownLimit::Rule(place) => {
                status.rule = rules.get(place).map(|rule| rule.name.clone()).unwrap_or_default();
                let tightest = windows
                    .iter()
                    .min_by_key(|w| (w.remaining, std::cmp::Reverse(w.period.nominal())));
                let is_full = tightest.is_some_and(|state| state.remaining == 0);
                status.is_over = is_denied && is_full && !known.shadow;
                status.window = tightest.map(|state| StatusWindow {
                    limit: state.limit,
                    period: state.period,
                    remaining: state.remaining,
                    reset_seconds: state.reset_seconds,
                });
            }
        }
        status
    }
}

/// Why `decision` denies, if it does.
pub(super) fn reason(decision: &Decision) -> &'static str {
    if decision.without_share {
        "no-share"
    } else if !decision.short.is_empty() {
        "no-rights"
    } else {
        "limit"
    }
}
