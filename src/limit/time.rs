//! Time as the core sees it: an argument, never a call.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// A wall-clock instant in milliseconds since the Unix epoch (UTC, no leap seconds, as POSIX has it).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnixMillis(pub u64);

impl UnixMillis {
    /// This instant moved later by `duration`, saturating at the end of time.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(millis(duration)))
    }

    /// This instant moved earlier by `duration`, saturating at the epoch.
    #[must_use]
    pub fn minus(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(millis(duration)))
    }

    /// How long after `earlier` this instant is; zero when it is not.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// As RFC 3339; what jiff cannot name (after the year 9999) as milliseconds.
impl fmt::Display for UnixMillis {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = i64::try_from(self.0).ok();
        match millis.and_then(|millis| Timestamp::from_millisecond(millis).ok()) {
            Some(timestamp) => write!(formatter, "{timestamp}"),
            None => write!(formatter, "{}", self.0),
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// One reading of both clocks of a node, handed to the core with everything that happens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Time since the process started; never goes back. Timers use it.
    pub monotonic: Duration,
    /// The wall clock, which may step. Windows use it.
    pub wall: UnixMillis,
}
