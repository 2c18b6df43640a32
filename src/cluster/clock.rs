//! The clocks of the gossip thread, read in one place.

#![expect(
    clippy::disallowed_methods,
    reason = "the gossip thread is a shell: it reads the clocks for the core"
)]

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::limit::{Now, UnixMillis};

/// Reads both clocks of the node; copies agree on the start of monotonic time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    start: Instant,
}

impl Clock {
    /// Monotonic time starts now.
    pub(super) fn start() -> Self {
        Self {
            start: Instant::now(),
        }
    }

    /// Both clocks.
    pub(super) fn now(self) -> Now {
        // A wall clock before 1970 is as wrong as one at 1970.
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now {
            monotonic: self.monotonic(),
            wall: UnixMillis(u64::try_from(wall.as_millis()).unwrap_or(u64::MAX)),
        }
    }

    /// Time since the start.
    pub(super) fn monotonic(self) -> Duration {
        self.start.elapsed()
    }

    /// When, on the monotonic clock, the wall clock will have reached `at`; finer than its milliseconds, since
    /// requests wait for what is done at the start of a window.
    pub(super) fn deadline(self, at: UnixMillis) -> Duration {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let ahead = Duration::from_millis(at.0).saturating_sub(wall);
        self.monotonic().saturating_add(ahead)
    }

    /// Sleeps until `deadline` on the monotonic clock.
    pub(super) async fn sleep_until(self, deadline: Duration) {
        let instant = self.start.checked_add(deadline);
        match instant {
            Some(instant) => tokio::time::sleep_until(instant.into()).await,
            None => std::future::pending().await,
        }
    }
}
