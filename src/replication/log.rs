//! A version log: which row stands at which version of one replica.

use std::collections::VecDeque;

use super::codec::Version;

/// Index of a replica in [`super::origin::Origins`]; small, so that a row stays small. 0 is this node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct OriginIndex(pub(super) u16);

/// One place of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LogEntry {
    pub(super) version: Version,
    /// The row's slot in the counter table.
    pub(super) slot: u32,
    /// Whose count stands here: the log's owner, or a dead replica whose row the owner adopted.
    pub(super) subject: OriginIndex,
}

/// The entries of one log in ascending order of version.
///
/// A row that is released again gets a new version and leaves its old place behind. The old entry is kept
/// until the next compaction, so that a repair of that stretch still carries the row; after a compaction
/// up to [`VersionLog::complete_at`], a stretch is whole only together with all up to there.
#[derive(Debug, Default)]
pub(super) struct VersionLog {
    entries: VecDeque<LogEntry>,
    compacted_to: Version,
    compact_above: usize,
}

/// A log this short is not worth compacting.
const COMPACT_MIN: usize = 1024;

impl VersionLog {
    /// Puts an entry at its place; at the end, but for repairs after a hole.
    pub(super) fn insert(&mut self, entry: LogEntry) {
        match self.entries.back() {
            Some(last) if last.version > entry.version => {
                let at = self.entries.partition_point(|e| e.version <= entry.version);
                self.entries.insert(at, entry);
            }
            _ => self.entries.push_back(entry),
        }
    }

    /// The entries above `after`, ascending.
    pub(super) fn above(&self, after: Version) -> impl Iterator<Item = &LogEntry> {
        let at = self.entries.partition_point(|entry| entry.version <= after);
        self.entries.range(at..)
    }

    /// The version up to which a log must be held for the stretch `(after, to]` to be whole.
    pub(super) fn complete_at(&self, after: Version, to: Version) -> Version {
        if after < self.compacted_to {
            to.max(self.compacted_to)
        } else {
            to
        }
    }

    /// Whether enough entries have gathered for [`VersionLog::compact`] to pay.
    pub(super) fn wants_compaction(&self) -> bool {
        self.entries.len() >= self.compact_above.max(COMPACT_MIN)
    }

    /// Drops the entries that `is_current` disowns. `top` is the newest version held.
    pub(super) fn compact(&mut self, top: Version, is_current: impl Fn(&LogEntry) -> bool) {
        self.entries.retain(|entry| is_current(entry));
        self.entries.shrink_to(self.entries.len() * 2 + COMPACT_MIN);
        self.compacted_to = top;
        self.compact_above = self.entries.len() * 2;
    }
}
