//! By which mode another node decides which window, as far as it said.

use crate::limit::{SyncMode, UnixMillis};

/// A cluster-wide mode as a node announces it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnnouncedMode {
    /// How often the mode was set in the cluster's life; 0 is the node's own configuration.
    pub version: u64,
    /// The mode.
    pub mode: SyncMode,
    /// It holds for windows that start after this instant.
    pub from: UnixMillis,
}

/// The newest mode that a node announced, and the one before.
#[derive(Clone, Copy, Debug)]
pub(super) struct Modes {
    current: AnnouncedMode,
    former: Option<AnnouncedMode>,
}

impl Modes {
    pub(super) fn new(current: AnnouncedMode) -> Self {
        Self {
            current,
            former: None,
        }
    }

    /// The node announces `mode`. Announcements of one node are heard in their order, but not all of them.
    pub(super) fn note(&mut self, mode: AnnouncedMode) {
        let AnnouncedMode {
            version,
            mode: by,
            from,
        } = self.current;
        if (mode.version, mode.mode) == (version, by) {
            // It decides by it since the earlier instant: what it vouched for stays.
            self.current.from = from.min(mode.from);
        } else {
            // Between versions that do not follow each other, another mode may have been in force.
            self.former = (mode.version == self.current.version + 1).then_some(self.current);
            self.current = mode;
        }
    }

    /// The mode by which the node decides windows that start at `start`; `None` where that is not known.
    pub(super) fn at(&self, start: UnixMillis) -> Option<SyncMode> {
        let said = [Some(self.current), self.former];
        let mut said = said.into_iter().flatten();
        said.find(|mode| mode.from < start).map(|mode| mode.mode)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn announced(version: u64, mode: SyncMode, from: u64) -> AnnouncedMode {
        AnnouncedMode {
            version,
            mode,
            from: UnixMillis(from),
        }
    }

    #[test]
    fn what_a_node_vouched_for_stays_when_it_says_the_same_mode_again() {
        let mut modes = Modes::new(announced(0, SyncMode::Gossip, 0));
        let at = |modes: &Modes| [5, 15, 25, 45].map(|start| modes.at(UnixMillis(start)));
        let (gossip, bounded) = (Some(SyncMode::Gossip), Some(SyncMode::Bounded));
        for from in [20, 30, 10, 40] {
            modes.note(announced(1, SyncMode::Bounded, from));
        }
        assert_eq!(at(&modes), [gossip, bounded, bounded, bounded]);
        modes.note(announced(2, SyncMode::Gossip, 30));
        assert_eq!(at(&modes), [None, bounded, bounded, gossip]);
        // What was said in between is not known.
        modes.note(announced(4, SyncMode::Bounded, 40));
        assert_eq!(at(&modes), [None, None, None, bounded]);
    }
}
