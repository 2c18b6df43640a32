//! The cluster-wide sync mode as a last-writer-wins register.
//!
//! Pure. Every node publishes the newest mode it knows, so the mode outlives the node that set it.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use crate::limit::SyncMode;

/// A sync mode and the Lamport version at which it was set; version 0 is the node's own configuration,
/// which no other node adopts.
///
/// Ordered by version; of two modes that were set at once under the same version the stricter one wins, so
/// that every node picks the same whatever it hears first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModeVersion {
    /// How often the mode was set in the cluster's life.
    pub version: u64,
    /// The mode.
    pub mode: SyncMode,
}

impl ModeVersion {
    /// Highest version that is believed: exact in JSON, and out of reach unless somebody forges it.
    pub const VERSION_MAX: u64 = 1 << 53;

    /// A mode from the configuration.
    #[must_use]
    pub fn configured(mode: SyncMode) -> Self {
        Self { version: 0, mode }
    }

    /// The successor that sets `mode`.
    #[must_use]
    pub fn next(self, mode: SyncMode) -> Self {
        let version = (self.version + 1).min(Self::VERSION_MAX);
        Self { version, mode }
    }

    fn rank(self) -> (u64, u8) {
        let strictness = match self.mode {
            SyncMode::Local => 0,
            SyncMode::Gossip => 1,
            SyncMode::Bounded => 2,
        };
        (self.version, strictness)
    }
}

impl PartialOrd for ModeVersion {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ModeVersion {
    fn cmp(&self, other: &Self) -> Ordering {
        self.rank().cmp(&other.rank())
    }
}

impl fmt::Display for ModeVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.version, self.mode)
    }
}

/// Not a published mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not `VERSION:MODE`")]
pub struct ModeError;

impl FromStr for ModeVersion {
    type Err = ModeError;
    fn from_str(text: &str) -> Result<Self, ModeError> {
        let (version, mode) = text.split_once(':').ok_or(ModeError)?;
        let version = version.parse().map_err(|_| ModeError)?;
        let mode = mode.parse().map_err(|_| ModeError)?;
        let believed = version <= Self::VERSION_MAX;
        believed.then_some(Self { version, mode }).ok_or(ModeError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_mode_wins_in_whatever_order_it_is_heard() {
        let start = ModeVersion::configured(SyncMode::Gossip);
        let local = start.next(SyncMode::Local);
        let rival = start.next(SyncMode::Gossip);
        let later = local.next(SyncMode::Local);
        assert_eq!([local, rival].into_iter().max(), [rival, local].into_iter().max());
        assert_eq!([later, rival, start, local].into_iter().max(), Some(later));
        for mode in [start, local, rival, later] {
            assert_eq!(mode.to_string().parse(), Ok(mode));
        }
    }

    #[test]
    fn forged_and_malformed_modes_are_refused() {
        let highest = format!("{}:local", ModeVersion::VERSION_MAX);
        let parsed: ModeVersion = highest.parse().unwrap();
        assert_eq!(parsed.next(SyncMode::Gossip).version, ModeVersion::VERSION_MAX);
        let above = format!("{}:local", ModeVersion::VERSION_MAX + 1);
        for text in [
            above.as_str(),
            "",
            "1",
            "1:",
            ":gossip",
            "x:gossip",
            "-1:gossip",
            "1:redis",
        ] {
            assert_eq!(text.parse::<ModeVersion>(), Err(ModeError), "{text}");
        }
    }
}
