//! The cluster-wide sync mode as a last-writer-wins register.
//!
//! Pure. Every node publishes the newest mode it knows, so the mode outlives the node that set it.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::bounded::AnnouncedMode;
use crate::limit::{SyncMode, UnixMillis};

/// How long before a switch that involves bounded mode every node has to have heard of it, or windows that
/// start soon after have no shares: fifty rounds of membership at its default pace.
const NOTICE: Duration = Duration::from_secs(5);

/// A sync mode and the Lamport version at which it was set; version 0 is the node's own configuration,
/// which no other node adopts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModeVersion {
    /// How often the mode was set in the cluster's life.
    pub version: u64,
    /// The mode.
    pub mode: SyncMode,
    /// Where bounded mode is involved, the mode holds for windows that start after this instant; else it holds
    /// at once, and this is 0.
    pub from: UnixMillis,
}

impl ModeVersion {
    /// Highest version that is believed: exact in JSON, and out of reach unless somebody forges it.
    pub const VERSION_MAX: u64 = 1 << 53;

    /// A mode from the configuration.
    #[must_use]
    pub fn configured(mode: SyncMode) -> Self {
        Self {
            version: 0,
            mode,
            from: UnixMillis(0),
        }
    }

    /// The successor that sets `mode` at `now`.
    #[must_use]
    pub fn next(self, mode: SyncMode, now: UnixMillis) -> Self {
        let version = (self.version + 1).min(Self::VERSION_MAX);
        let next = Self {
            version,
            mode,
            from: UnixMillis(0),
        };
        let from = if self.involves_bounded(next) {
            now.plus(NOTICE)
        } else {
            next.from
        };
        Self { from, ..next }
    }

    /// Whether this one, heard of from anybody, takes the place of `other`. Of two modes that were set at once
    /// under the same version the stricter one wins, so that every node picks the same whatever it hears
    /// first.
    #[must_use]
    pub fn supersedes(self, other: Self) -> bool {
        self.rank() > other.rank()
    }

    /// What a node says of this mode that adopts it at `now` in place of `former`. Up to then it may have
    /// decided windows by the former mode, so that it can vouch only for those that start later.
    pub(super) fn announced_at(self, now: UnixMillis, former: Self) -> Self {
        let from = if self.involves_bounded(former) {
            self.from.max(now)
        } else {
            self.from
        };
        Self { from, ..self }
    }

    /// What follows for a node that started at `started` and adopts this mode at `now` in place of `former`: the
    /// mode that it announces, and the one that it decides by.
    ///
    /// Who hears late of a switch that involves bounded mode keeps the former mode in windows that have begun,
    /// unless it started after the switch, with another mode in its configuration: then the others have shares
    /// of those windows, and it must not admit without. Either way it vouches only for those that start later.
    pub(crate) fn adopted(self, former: Self, started: UnixMillis, now: UnixMillis) -> (Self, Self) {
        let announced = self.announced_at(now, former);
        let applied = if self.from < started { self } else { announced };
        (announced, applied)
    }

    fn involves_bounded(self, other: Self) -> bool {
        [self.mode, other.mode].contains(&SyncMode::Bounded)
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

impl From<ModeVersion> for AnnouncedMode {
    fn from(mode: ModeVersion) -> Self {
        Self {
            version: mode.version,
            mode: mode.mode,
            from: mode.from,
        }
    }
}

impl fmt::Display for ModeVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.version, self.mode)?;
        // The first releases read nothing more, and have to follow a switch between the other two modes.
        if self.from.0 > 0 {
            write!(f, ":{}", self.from.0)?;
        }
        Ok(())
    }
}

/// Not a published mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("neither `VERSION:MODE` nor `VERSION:MODE:FROM`")]
pub struct ModeError;

impl FromStr for ModeVersion {
    type Err = ModeError;
    fn from_str(text: &str) -> Result<Self, ModeError> {
        let (version, rest) = text.split_once(':').ok_or(ModeError)?;
        // The first releases knew no bounded mode, and gave no instant.
        let (mode, from) = rest.split_once(':').unwrap_or((rest, "0"));
        let version = version.parse().map_err(|_| ModeError)?;
        let mode = mode.parse().map_err(|_| ModeError)?;
        let from = from.parse().map(UnixMillis).map_err(|_| ModeError)?;
        let believed = version <= Self::VERSION_MAX;
        let read = Self { version, mode, from };
        believed.then_some(read).ok_or(ModeError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMillis = UnixMillis(1_000_000);

    fn newest(modes: &[ModeVersion]) -> ModeVersion {
        let first = ModeVersion::configured(SyncMode::Local);
        let newer = |known: ModeVersion, heard: &ModeVersion| {
            if heard.supersedes(known) { *heard } else { known }
        };
        modes.iter().fold(first, newer)
    }

    #[test]
    fn the_newest_mode_wins_in_whatever_order_it_is_heard() {
        let start = ModeVersion::configured(SyncMode::Gossip);
        let local = start.next(SyncMode::Local, NOW);
        let rival = start.next(SyncMode::Gossip, NOW);
        let later = local.next(SyncMode::Local, NOW);
        assert_eq!(newest(&[local, rival]), newest(&[rival, local]));
        assert_eq!(newest(&[later, rival, start, local]), later);
        for mode in [start, local, rival, later, start.next(SyncMode::Bounded, NOW)] {
            assert_eq!(mode.to_string().parse(), Ok(mode));
        }
        let of_the_first_release = ModeVersion { version: 3, ..start };
        assert_eq!("3:gossip".parse(), Ok(of_the_first_release));
    }

    #[test]
    fn a_switch_that_involves_bounded_is_announced_ahead_and_vouched_for_from_its_adoption() {
        let gossip = ModeVersion::configured(SyncMode::Gossip);
        let bounded = gossip.next(SyncMode::Bounded, NOW);
        assert_eq!(bounded.from, NOW.plus(NOTICE));
        assert_eq!(bounded.announced_at(NOW, gossip), bounded);
        let late = bounded.from.plus(NOTICE);
        assert_eq!(bounded.announced_at(late, gossip).from, late);
        // To hear again of what was adopted late, or earlier elsewhere, is no news.
        assert!(!bounded.announced_at(late, gossip).supersedes(bounded));
        assert_eq!(bounded.next(SyncMode::Local, NOW).from, NOW.plus(NOTICE));
        let local = gossip.next(SyncMode::Local, NOW);
        assert_eq!(
            (local.from, local.announced_at(NOW, gossip)),
            (UnixMillis(0), local)
        );
    }

    #[test]
    fn forged_and_malformed_modes_are_refused() {
        let highest = format!("{}:local", ModeVersion::VERSION_MAX);
        let parsed: ModeVersion = highest.parse().unwrap();
        assert_eq!(
            parsed.next(SyncMode::Gossip, NOW).version,
            ModeVersion::VERSION_MAX
        );
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
            "1:bounded:",
            "1:bounded:x",
            "1:bounded:1:2",
        ] {
            assert_eq!(text.parse::<ModeVersion>(), Err(ModeError), "{text}");
        }
    }
}
