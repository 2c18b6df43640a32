//! Windows: the stretches of wall-clock time that a limit counts in.

use std::time::Duration;

use super::time::UnixMillis;

/// How a limit cuts time into windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Period {
    /// A second, minute, hour or day, aligned to UTC.
    Second,
    /// See [`Period::Second`].
    Minute,
    /// See [`Period::Second`].
    Hour,
    /// See [`Period::Second`].
    Day,
    /// A calendar month, UTC.
    Month,
    /// A calendar year, UTC.
    Year,
    /// Any other length in milliseconds, aligned to the Unix epoch.
    Every(std::num::NonZeroU64),
}

impl Period {
    /// The window that contains `at`.
    #[must_use]
    pub fn window_at(self, _at: UnixMillis) -> Window {
        todo!("limit helper")
    }

    /// The nominal length: a month counts as 30 days and a year as 365, as Kong has it.
    #[must_use]
    pub fn nominal(self) -> Duration {
        todo!("limit helper")
    }
}

/// One window: a half-open stretch `[start, end)` of wall-clock time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Window {
    /// First millisecond of the window.
    pub start: UnixMillis,
    /// First millisecond after the window.
    pub end: UnixMillis,
}
