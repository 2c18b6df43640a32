//! Whether an endpoint is healthy, by what its checks say. Pure.

use crate::config::HealthConfig;

/// What the checks of one endpoint say. It is taken to be healthy until the first has ended: a node that starts
/// serves at once, and learns within one check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Health {
    is_healthy: bool,
    is_known: bool,
    /// Checks in a row that say otherwise.
    otherwise: u32,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            is_healthy: true,
            is_known: false,
            otherwise: 0,
        }
    }
}

impl Health {
    pub(super) fn is_healthy(self) -> bool {
        self.is_healthy
    }

    /// Takes in a check; true when that changes anything. The first decides alone.
    pub(super) fn checked(&mut self, passed: bool, config: &HealthConfig) -> bool {
        if passed == self.is_healthy {
            self.otherwise = 0;
            self.is_known = true;
            return false;
        }
        self.otherwise += 1;
        let needed = match (self.is_known, self.is_healthy) {
            (false, _) => 1,
            (true, true) => config.unhealthy_after,
            (true, false) => config.healthy_after,
        };
        self.is_known = true;
        if self.otherwise < needed {
            return false;
        }
        self.is_healthy = passed;
        self.otherwise = 0;
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn config() -> HealthConfig {
        HealthConfig {
            path: "/".to_owned(),
            host: None,
            statuses: Vec::new(),
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            healthy_after: 2,
            unhealthy_after: 3,
        }
    }

    /// The states after each check: `+` passed, `-` failed.
    fn play(checks: &str) -> String {
        let mut health = Health::default();
        let state = |check| {
            health.checked(check == '+', &config());
            if health.is_healthy() { 'H' } else { 'u' }
        };
        checks.chars().map(state).collect()
    }

    #[test]
    fn it_takes_several_checks_in_a_row_to_change_but_one_to_learn() {
        assert_eq!(play("+--+---"), "HHHHHHu");
        assert_eq!(play("-+-++--"), "uuuuHHH");
        assert_eq!(play("-"), "u");
    }
}
