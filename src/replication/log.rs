//! A version log: which row stands at which version of one replica.

mod places;

use crate::limit::{RowRef, UnixMillis};

use self::places::Places;
use super::codec::Version;

/// Index of a replica in [`super::origin::Origins`]; small, so that a row stays small. 0 is this node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct OriginIndex(pub(super) u16);

/// One place of a log: which row stands there, and whose count of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LogEntry {
    version: Version,
    rest: Rest,
}

/// An entry but for its version: a node holds one for every row of every replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rest {
    slot: u32,
    /// The second in which the row's window has ended at the latest.
    ended_by: u32,
    /// The low bits of the row's epoch.
    tenancy: u16,
    subject: OriginIndex,
}

impl LogEntry {
    /// `row`, whose window ends at `window_end`, with the count of `subject`: the log's owner, or a dead
    /// replica whose row the owner adopted.
    pub(super) fn new(version: Version, row: RowRef, window_end: UnixMillis, subject: OriginIndex) -> Self {
        let rest = Rest {
            slot: row.slot,
            ended_by: u32::try_from(window_end.0.div_ceil(1_000)).unwrap_or(u32::MAX),
            tenancy: tenancy(row),
            subject,
        };
        Self { version, rest }
    }

    pub(super) fn version(self) -> Version {
        self.version
    }

    /// The row's slot in the counter table.
    pub(super) fn slot(self) -> u32 {
        self.rest.slot
    }

    pub(super) fn subject(self) -> OriginIndex {
        self.rest.subject
    }

    /// Whether `row` is the one that stands here, and not a later tenant of its slot.
    pub(super) fn is_of(self, row: RowRef) -> bool {
        self.rest.slot == row.slot && self.rest.tenancy == tenancy(row)
    }

    /// When the row's window has ended, up to a second late.
    pub(super) fn ended_by(self) -> UnixMillis {
        UnixMillis(u64::from(self.rest.ended_by) * 1_000)
    }

    fn place(self) -> (Version, u32, OriginIndex) {
        (self.version, self.rest.slot, self.rest.subject)
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the low bits")]
fn tenancy(row: RowRef) -> u16 {
    row.epoch as u16
}

/// The entries of one log in ascending order of version.
///
/// A row that is released again gets a new version and leaves its old place behind. The old entry is kept
/// until the next compaction, so that a repair of that stretch still carries the row; after a compaction
/// up to [`VersionLog::complete_at`], a stretch is whole only together with all up to there.
#[derive(Debug, Default)]
pub(super) struct VersionLog {
    entries: Places,
    compacted_to: Version,
    moved_to: Version,
    compact_above: usize,
}

/// A log this short is not worth compacting.
pub(super) const COMPACT_MIN: usize = 1024;

impl VersionLog {
    /// Puts an entry at its place: at the end, but for repairs after a hole, which may find it there.
    pub(super) fn insert(&mut self, entry: LogEntry) {
        if self.entries.last().is_none_or(|last| last < entry.version()) {
            self.entries.push(entry);
        } else {
            self.entries.insert(entry);
        }
    }

    /// Drops `entry`.
    pub(super) fn remove(&mut self, entry: LogEntry) {
        self.entries.remove(entry);
    }

    /// Drops the entries whose row `is_lost`, and says where the first stood.
    pub(super) fn drop_lost(&mut self, is_lost: impl Fn(&LogEntry) -> bool) -> Option<Version> {
        let mut first = None;
        self.entries.retain(|entry| {
            let lost = is_lost(entry);
            if lost {
                first.get_or_insert(entry.version());
            }
            !lost
        });
        first
    }

    /// Takes out the entries above `after`, where the log ends from then on: whoever takes them passes them on
    /// elsewhere, and nothing in front of them waits for them.
    pub(super) fn take_above(&mut self, after: Version) -> impl Iterator<Item = LogEntry> {
        self.compacted_to = self.compacted_to.min(after);
        self.moved_to = self.moved_to.min(after);
        self.entries.split_off(after).into_iter()
    }

    /// The entries above `after`, ascending.
    pub(super) fn above(&self, after: Version) -> impl Iterator<Item = LogEntry> {
        self.entries.above(after)
    }

    /// The version up to which a log, held up to `held`, must be held for the stretch `(after, to]` to be
    /// whole.
    pub(super) fn complete_at(&self, after: Version, to: Version, held: Version) -> Version {
        let left_behind = self.compacted_to.max(self.moved_to.min(held));
        if after < left_behind {
            to.max(left_behind)
        } else {
            to
        }
    }

    /// Notes that a stretch up to `to` was received as one: rows may stand in it at later places than they
    /// were released at, and so a part of it alone is not whole.
    pub(super) fn note_moved(&mut self, to: Version) {
        self.moved_to = self.moved_to.max(to);
    }

    /// Whether enough entries have gathered for [`VersionLog::compact`] to pay.
    pub(super) fn wants_compaction(&self) -> bool {
        self.entries.len() >= self.compact_above.max(COMPACT_MIN)
    }

    /// Drops the entries that `is_current` disowns. `top` is the newest version held.
    pub(super) fn compact(&mut self, top: Version, is_current: impl Fn(&LogEntry) -> bool) {
        self.entries.retain(is_current);
        self.compacted_to = top;
        self.compact_above = self.entries.len() * 2;
    }
}
