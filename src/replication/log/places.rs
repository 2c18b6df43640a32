//! Entries in ascending order of version, in chunks: 16 bytes an entry, and no more than a chunk unused.

use super::super::codec::Version;
use super::{LogEntry, Rest};

/// Entries of a full chunk: 4 KiB, so that a million entries need one list of 4,000.
const CHUNK: usize = 256;

/// Some entries that stand next to each other; never none.
#[derive(Debug)]
struct Chunk {
    base: Version,
    entries: Vec<Packed>,
}

/// An entry whose version is the chunk's base and `offset`.
#[derive(Clone, Copy, Debug)]
struct Packed {
    offset: u32,
    rest: Rest,
}

const _: () = assert!(
    size_of::<Packed>() == 16,
    "a node holds one for every row of every replica"
);

impl Chunk {
    /// A chunk with `entry`, and room for `room` in all.
    fn new(entry: LogEntry, room: usize) -> Self {
        let mut entries = Vec::with_capacity(room);
        entries.push(Packed {
            offset: 0,
            rest: entry.rest,
        });
        Self {
            base: entry.version,
            entries,
        }
    }

    fn at(&self, packed: Packed) -> LogEntry {
        LogEntry {
            version: self.base + Version::from(packed.offset),
            rest: packed.rest,
        }
    }

    fn last(&self) -> Version {
        self.entries
            .last()
            .map_or(self.base, |last| self.at(*last).version)
    }

    /// The index of the first entry that is not below `version`.
    fn lower(&self, version: Version) -> usize {
        self.entries
            .partition_point(|packed| self.at(*packed).version < version)
    }

    /// Where `version` stands within this chunk, if it can.
    fn offset(&self, version: Version) -> Option<u32> {
        u32::try_from(version.checked_sub(self.base)?).ok()
    }

    /// Makes room for a version below the base, if the newest can still be told by an offset.
    fn lower_base(&mut self, version: Version) -> bool {
        let Some(by) = self.base.checked_sub(version) else {
            return true;
        };
        if self.last() - version > Version::from(u32::MAX) {
            return false;
        }
        for packed in &mut self.entries {
            packed.offset += u32::try_from(by).expect("no more than to the newest, which was just looked at");
        }
        self.base = version;
        true
    }
}

/// Where an entry stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    chunk: usize,
    at: usize,
}

/// The list.
#[derive(Debug, Default)]
pub(super) struct Places {
    chunks: Vec<Chunk>,
    len: usize,
}

impl Places {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The newest version.
    pub(super) fn last(&self) -> Option<Version> {
        self.chunks.last().map(Chunk::last)
    }

    /// Adds an entry that is not older than the last.
    pub(super) fn push(&mut self, entry: LogEntry) {
        self.len += 1;
        if let Some(chunk) = self.chunks.last_mut()
            && chunk.entries.len() < CHUNK
            && let Some(offset) = chunk.offset(entry.version)
        {
            let rest = entry.rest;
            chunk.entries.push(Packed { offset, rest });
            return;
        }
        // Most logs are short, and those that are not fill their chunks.
        let room = if self.chunks.is_empty() { 1 } else { CHUNK };
        self.chunks.push(Chunk::new(entry, room));
    }

    /// Puts an entry behind all that are not newer, or in the place of the same one.
    pub(super) fn insert(&mut self, entry: LogEntry) {
        if let Some(place) = self.find(entry) {
            if let Some(known) = self.packed_mut(place) {
                known.rest = entry.rest;
            }
            return;
        }
        let chunk = self.chunks.partition_point(|chunk| chunk.last() <= entry.version);
        let Some(within) = self.chunks.get_mut(chunk) else {
            return self.push(entry);
        };
        self.len += 1;
        if !within.lower_base(entry.version) {
            return self.chunks.insert(chunk, Chunk::new(entry, 1));
        }
        let Some(offset) = within.offset(entry.version) else {
            unreachable!("not above the newest of its chunk, and the base is not above it");
        };
        let rest = entry.rest;
        let at = within.entries.partition_point(|packed| packed.offset <= offset);
        within.entries.insert(at, Packed { offset, rest });
        if within.entries.len() > CHUNK {
            let upper = within.entries.split_off(CHUNK / 2);
            let base = within.base;
            self.chunks.insert(chunk + 1, Chunk { base, entries: upper });
        }
    }

    /// Drops an entry.
    pub(super) fn remove(&mut self, entry: LogEntry) {
        let Some(place) = self.find(entry) else {
            return;
        };
        if let Some(chunk) = self.chunks.get_mut(place.chunk) {
            chunk.entries.remove(place.at);
            self.len -= 1;
            if chunk.entries.is_empty() {
                self.chunks.remove(place.chunk);
            }
        }
    }

    /// The entries above `after`, ascending.
    pub(super) fn above(&self, after: Version) -> impl Iterator<Item = LogEntry> {
        let first = after.checked_add(1).map(|version| self.lower(version));
        first
            .into_iter()
            .flat_map(|first| self.from(first))
            .map(|(_, entry)| entry)
    }

    /// Takes out the entries above `after`.
    pub(super) fn split_off(&mut self, after: Version) -> Self {
        let Some(first) = after.checked_add(1).map(|version| self.lower(version)) else {
            return Self::default();
        };
        let mut upper = Self::default();
        if let Some(chunk) = self.chunks.get_mut(first.chunk) {
            let entries = chunk.entries.split_off(first.at);
            let base = chunk.base;
            let whole = self.chunks.split_off(first.chunk + 1);
            upper.chunks = vec![Chunk { base, entries }];
            upper.chunks.extend(whole);
            self.chunks.retain(|chunk| !chunk.entries.is_empty());
        }
        upper.len = upper.chunks.iter().map(|chunk| chunk.entries.len()).sum();
        self.len -= upper.len;
        upper
    }

    /// Drops the entries that `keeps` disowns, and fills the chunks anew.
    pub(super) fn retain(&mut self, mut keeps: impl FnMut(&LogEntry) -> bool) {
        let former = std::mem::take(self);
        for chunk in former.chunks {
            let entries = chunk.entries.iter().map(|packed| chunk.at(*packed));
            entries.filter(&mut keeps).for_each(|entry| self.push(entry));
        }
    }

    /// The place of the first entry that is not below `version`.
    fn lower(&self, version: Version) -> Place {
        let chunk = self.chunks.partition_point(|chunk| chunk.last() < version);
        let at = self.chunks.get(chunk).map_or(0, |chunk| chunk.lower(version));
        Place { chunk, at }
    }

    /// All entries from a place on, with their places.
    fn from(&self, first: Place) -> impl Iterator<Item = (Place, LogEntry)> {
        let chunks = self.chunks.iter().enumerate().skip(first.chunk);
        chunks.flat_map(move |(index, chunk)| {
            let skip = if index == first.chunk { first.at } else { 0 };
            let entries = chunk.entries.iter().enumerate().skip(skip);
            entries.map(move |(at, packed)| (Place { chunk: index, at }, chunk.at(*packed)))
        })
    }

    fn find(&self, entry: LogEntry) -> Option<Place> {
        let mut here = self
            .from(self.lower(entry.version))
            .take_while(|(_, known)| known.version == entry.version);
        here.find(|(_, known)| known.place() == entry.place())
            .map(|(place, _)| place)
    }

    fn packed_mut(&mut self, place: Place) -> Option<&mut Packed> {
        self.chunks.get_mut(place.chunk)?.entries.get_mut(place.at)
    }
}

impl IntoIterator for Places {
    type Item = LogEntry;
    type IntoIter = std::vec::IntoIter<LogEntry>;

    fn into_iter(self) -> Self::IntoIter {
        let entries: Vec<_> = self.above(0).collect();
        entries.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::super::{LogEntry, OriginIndex};
    use super::Places;
    use crate::limit::{RowRef, UnixMillis};

    #[derive(Clone, Debug)]
    enum Change {
        /// So many entries, the first so far above the last.
        Append(u64, usize),
        /// An entry so far below the last, of one of a few slots.
        Insert(u64, u32),
        Remove(u64, u32),
        SplitOff(u64),
        KeepSlots(u32),
    }

    fn entry(version: u64, slot: u32, end: u64) -> LogEntry {
        LogEntry::new(
            version,
            RowRef { slot, epoch: 1 },
            UnixMillis(end),
            OriginIndex(3),
        )
    }

    fn changes() -> impl Strategy<Value = Vec<Change>> {
        let back = prop_oneof![0..20_u64, 0..3_000_u64, 0..1_u64 << 34];
        let ahead = prop_oneof![1..4_u64, (1_u64 << 32) - 2..(1 << 32) + 2];
        let change = prop_oneof![
            4 => (ahead, 1..600_usize).prop_map(|(by, count)| Change::Append(by, count)),
            8 => (back.clone(), 0..3_u32).prop_map(|(by, slot)| Change::Insert(by, slot)),
            4 => (back.clone(), 0..3_u32).prop_map(|(by, slot)| Change::Remove(by, slot)),
            1 => back.prop_map(Change::SplitOff),
            1 => (0..3_u32).prop_map(Change::KeepSlots),
        ];
        vec(change, 1..60)
    }

    proptest! {
        #[test]
        fn chunks_hold_what_a_sorted_list_holds(changes in changes()) {
            let mut places = Places::default();
            let mut list: Vec<LogEntry> = Vec::new();
            for (turn, change) in (1..).zip(changes) {
                let last = list.last().map_or(0, |entry| entry.version());
                match change {
                    Change::Append(by, count) => for n in 0..count as u64 {
                        let new = entry(last + by + n, (n % 3) as u32, turn);
                        places.push(new);
                        list.push(new);
                    },
                    Change::Insert(by, slot) => {
                        let new = entry(last.saturating_sub(by).max(1), slot, turn);
                        places.insert(new);
                        match list.iter_mut().find(|known| known.place() == new.place()) {
                            Some(known) => *known = new,
                            None => list.insert(list.partition_point(|e| e.version() <= new.version()), new),
                        }
                    }
                    Change::Remove(by, slot) => {
                        let gone = entry(last.saturating_sub(by), slot, 0);
                        places.remove(gone);
                        list.retain(|known| known.place() != gone.place());
                    }
                    Change::SplitOff(by) => {
                        let after = last.saturating_sub(by);
                        let upper = list.split_off(list.partition_point(|e| e.version() <= after));
                        prop_assert_eq!(places.split_off(after).into_iter().collect::<Vec<_>>(), upper);
                    }
                    Change::KeepSlots(slot) => {
                        places.retain(|known| known.slot() != slot);
                        list.retain(|known| known.slot() != slot);
                    }
                }
                prop_assert_eq!(places.above(0).collect::<Vec<_>>(), &list[..]);
                prop_assert_eq!(places.len(), list.len());
                prop_assert_eq!(places.last(), list.last().map(|entry| entry.version()));
                let middle = list.get(list.len() / 2).map_or(0, |entry| entry.version());
                let above = list.iter().filter(|entry| entry.version() > middle);
                prop_assert!(places.above(middle).eq(above.copied()));
            }
        }
    }
}
