//! Response headers of a limited request, exactly as Kong's `rate-limiting` plugin sends them.
//!
//! `X-RateLimit-Limit-Minute` and `X-RateLimit-Remaining-Minute` for each window (a window of another
//! length is named by it: `X-RateLimit-Limit-10s`), `RateLimit-Limit`, `RateLimit-Remaining` and
//! `RateLimit-Reset` of the tightest, and on denial `Retry-After` (RFC 9110, section 10.2.3).

use std::cmp::Reverse;

use http::header::{HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};

use super::limiter::{Decision, Outcome, WindowState};
use super::window::Period;

const LIMIT: HeaderName = HeaderName::from_static("ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("ratelimit-reset");

/// The names of the headers of each window, made once for a set of rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderNames {
    windows: Vec<(Period, WindowNames)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct WindowNames {
    limit: HeaderName,
    remaining: HeaderName,
}

impl HeaderNames {
    /// The names for windows of `periods`.
    #[must_use]
    pub fn new(periods: impl IntoIterator<Item = Period>) -> Self {
        let mut windows = Vec::new();
        for period in periods {
            if !windows.iter().any(|(known, _)| *known == period) {
                windows.push((period, WindowNames::new(period)));
            }
        }
        Self { windows }
    }

    fn of(&self, period: Period) -> Option<&WindowNames> {
        self.windows
            .iter()
            .find(|(known, _)| *known == period)
            .map(|(_, names)| names)
    }
}

impl WindowNames {
    fn new(period: Period) -> Self {
        let name = |kind: &str| {
            let text = format!("x-ratelimit-{kind}-{period}");
            HeaderName::try_from(text).expect("a period is written in ASCII letters and digits")
        };
        Self {
            limit: name("limit"),
            remaining: name("remaining"),
        }
    }
}

/// Adds the headers of `decision` to `headers`: `X-RateLimit-*`, `RateLimit-*` and, on denial,
/// `Retry-After`. Where several rules share a period, its headers tell of the one with the least left.
pub fn apply(decision: &Decision, names: &HeaderNames, headers: &mut HeaderMap) {
    // The tightest window: the least that remains; of several, the longest.
    let Some(tightest) = decision
        .windows
        .iter()
        .min_by_key(|w| (w.remaining, Reverse(w.period.nominal())))
    else {
        return;
    };
    headers.reserve(2 * decision.windows.len() + 4);
    for (at, window) in decision.windows.iter().enumerate() {
        if is_tightest_of_period(at, window, &decision.windows)
            && let Some(names) = names.of(window.period)
        {
            headers.insert(names.limit.clone(), HeaderValue::from(window.limit));
            headers.insert(names.remaining.clone(), HeaderValue::from(window.remaining));
        }
    }
    headers.insert(LIMIT, HeaderValue::from(tightest.limit));
    headers.insert(REMAINING, HeaderValue::from(tightest.remaining));
    headers.insert(RESET, HeaderValue::from(tightest.reset_seconds));
    if let Outcome::Denied { window } = decision.outcome
        && let Some(stopping) = decision.windows.get(window)
    {
        headers.insert(RETRY_AFTER, HeaderValue::from(stopping.reset_seconds));
    }
}

fn is_tightest_of_period(at: usize, window: &WindowState, all: &[WindowState]) -> bool {
    let rank = |at: usize, w: &WindowState| (w.remaining, w.limit, at);
    let same_period = all
        .iter()
        .enumerate()
        .filter(|(_, other)| other.period == window.period);
    same_period.map(|(other_at, other)| rank(other_at, other)).min() == Some(rank(at, window))
}
