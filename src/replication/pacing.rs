//! A pacer: so many at once after a quiet time, then one an interval (GCRA, ITU-T I.371).

use std::time::Duration;

/// See the module.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pacer {
    interval: Duration,
    burst: u32,
    theoretical: Duration,
}

impl Pacer {
    pub(super) fn new(interval: Duration, burst: u32) -> Self {
        Self {
            interval,
            burst,
            theoretical: Duration::ZERO,
        }
    }

    /// Changes how far apart they go.
    pub(super) fn set_interval(&mut self, interval: Duration) {
        self.interval = interval;
    }

    /// The earliest time at which [`Pacer::take`] says yes.
    pub(super) fn ready_at(&self) -> Duration {
        let tolerance = self.interval * self.burst.saturating_sub(1);
        self.theoretical.saturating_sub(tolerance)
    }

    /// Whether one may go now; if so it is counted.
    pub(super) fn take(&mut self, now: Duration) -> bool {
        let ready = now >= self.ready_at();
        if ready {
            self.theoretical = self.theoretical.max(now) + self.interval;
        }
        ready
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_goes_at_once_and_then_one_an_interval() {
        let mut pacer = Pacer::new(Duration::from_millis(1), 3);
        let at = Duration::from_secs(5);
        assert_eq!(
            [pacer.take(at), pacer.take(at), pacer.take(at), pacer.take(at)],
            [true, true, true, false]
        );
        assert_eq!(pacer.ready_at(), at + Duration::from_millis(1));
        assert!(pacer.take(at + Duration::from_millis(1)));
        assert!(!pacer.take(at + Duration::from_millis(1)));
    }
}
