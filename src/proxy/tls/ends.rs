//! When to warn of certificates that end. Pure.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How long before its end a certificate is warned of: authorities that issue for 90 days have failed to renew it for two
/// weeks by then.
pub(super) const WARN_BEFORE: Duration = Duration::from_secs(14 * 24 * 3600);
/// How often it is warned of again.
const WARN_INTERVAL: Duration = Duration::from_secs(24 * 3600);

/// What has been warned of, and when.
#[derive(Default)]
pub(super) struct EndWarnings(HashMap<PathBuf, SystemTime>);

impl EndWarnings {
    /// Of `ends`, each a file and the second since 1970 at which its certificate ends, those to warn of at `now`, with the
    /// time that is left to them.
    pub(super) fn due<'e>(
        &mut self,
        ends: impl Iterator<Item = &'e (PathBuf, u64)>,
        now: SystemTime,
    ) -> Vec<(&'e Path, Duration)> {
        let mut due = Vec::new();
        for (path, not_after) in ends {
            let since_epoch = now.duration_since(UNIX_EPOCH).unwrap_or_default();
            let left = Duration::from_secs(*not_after).saturating_sub(since_epoch);
            let warned = self.0.get(path);
            let recently = warned.is_some_and(|at| {
                // A clock that was set back does not silence it.
                now.duration_since(*at).is_ok_and(|age| age < WARN_INTERVAL)
            });
            if left < WARN_BEFORE && !recently {
                self.0.insert(path.clone(), now);
                due.push((path.as_path(), left));
            }
        }
        due
    }

    /// Forgets what it has warned of, since the certificates are others now.
    pub(super) fn forget(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    #[test]
    fn a_certificate_is_warned_of_daily_from_two_weeks_before_its_end() {
        let at = |time: Duration| UNIX_EPOCH + time;
        let ends = [
            ("a".into(), (100 * DAY).as_secs()),
            ("b".into(), (500 * DAY).as_secs()),
        ];
        let mut warnings = EndWarnings::default();
        let mut due = |time: Duration| -> Option<Duration> {
            let due = warnings.due(ends.iter(), at(time));
            assert!(due.iter().all(|(path, _)| *path == Path::new("a")));
            due.first().map(|(_, left)| *left)
        };
        let second = Duration::from_secs(1);
        assert_eq!(due(86 * DAY), None);
        assert_eq!(due(86 * DAY + second), Some(14 * DAY - second));
        assert_eq!(due(87 * DAY), None);
        assert_eq!(due(87 * DAY + second), Some(13 * DAY - second));
        assert_eq!(due(101 * DAY), Some(Duration::ZERO));
        warnings.forget();
        assert_eq!(warnings.due(ends.iter(), at(101 * DAY)).len(), 1);
    }
}
