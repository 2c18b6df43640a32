//! How long an endpoint that failed requests is left out. Pure: time comes in as an argument.

use std::time::{Duration, Instant};

use crate::config::EjectionConfig;

/// When one endpoint was left out, and how often in a row.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ejection {
    until: Option<Instant>,
    /// When it came back last.
    returned: Option<Instant>,
    times: u32,
}

impl Ejection {
    /// When it may come back; `None` while it is in.
    pub(super) fn until(self) -> Option<Instant> {
        self.until
    }

    /// Leaves it out from `now` on: for the base time, times how often it has been. Every base time that it
    /// stayed in since the last makes up for one.
    pub(super) fn eject(&mut self, config: &EjectionConfig, now: Instant) {
        let good = self
            .returned
            .map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        let forgiven = good
            .as_nanos()
            .checked_div(config.base_time.as_nanos())
            .unwrap_or(0);
        let forgiven = u32::try_from(forgiven).unwrap_or(u32::MAX);
        self.times = self.times.saturating_sub(forgiven).saturating_add(1);
        let time = config.base_time.saturating_mul(self.times).min(config.max_time);
        self.until = Some(now + time);
    }

    /// Takes it back if its time is over; true when it did.
    pub(super) fn returns(&mut self, now: Instant) -> bool {
        let is_over = self.until.is_some_and(|until| until <= now);
        if is_over {
            self.returned = self.until.take();
        }
        is_over
    }
}

/// Whether one more of `all` endpoints may be left out while `out` are.
pub(super) fn may_eject(out: usize, all: usize, config: &EjectionConfig) -> bool {
    let most = all.saturating_mul(config.share_max_permille as usize) / 1000;
    out < most
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests need some instant to begin with")]
mod tests {
    use super::*;

    const BASE: Duration = Duration::from_secs(10);

    fn config(share_max_permille: u32) -> EjectionConfig {
        EjectionConfig {
            failures: 5,
            statuses: Vec::new(),
            base_time: BASE,
            max_time: BASE * 3,
            share_max_permille,
        }
    }

    #[test]
    fn each_ejection_in_a_row_is_longer_up_to_the_bound_and_good_time_makes_up_for_it() {
        let config = config(500);
        let mut ejection = Ejection::default();
        let mut now = Instant::now();
        for factor in [1, 2, 3, 3] {
            ejection.eject(&config, now);
            assert!(!ejection.returns(now + BASE * factor - Duration::from_nanos(1)));
            now += BASE * factor;
            assert!(ejection.returns(now) && ejection.until().is_none(), "{factor}");
        }
        // Four times in a row, less two good base times.
        now += BASE * 2;
        ejection.eject(&config, now);
        assert_eq!(ejection.until(), Some(now + BASE * 3));
        now += BASE * 3;
        assert!(ejection.returns(now));
        now += BASE * 100;
        ejection.eject(&config, now);
        assert_eq!(ejection.until(), Some(now + BASE));
    }

    #[test]
    fn no_more_than_the_share_is_left_out() {
        let most = |all: usize, permille: u32| {
            let config = config(permille);
            (0..=all).take_while(|out| may_eject(*out, all, &config)).count()
        };
        assert_eq!(
            [
                most(1, 500),
                most(2, 500),
                most(3, 500),
                most(10, 300),
                most(3, 1000),
                most(3, 0)
            ],
            [0, 1, 1, 3, 3, 0]
        );
    }
}
