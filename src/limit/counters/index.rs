//! The index: from a fingerprint to the slot of its row.
//!
//! Set-associative: a fingerprint may stand in either of two buckets (two-choice hashing, Azar et al.
//! 1999) of eight entries, a cache line each. Entries never move and leave no tombstones, so a lookup
//! reads two lines at most and a removal stores a zero.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Release, SeqCst};

use super::slab::{Slab, Zeroable};

/// An index entry: tag:32 | pending:1 | slot + 1:31. Zero is vacant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry(u64);

const PENDING: u64 = 1 << 31;
const SLOT_MASK: u64 = PENDING - 1;

impl Entry {
    fn new(tag: u32, slot: u32) -> Self {
        Self(u64::from(tag) << 32 | (u64::from(slot) + 1))
    }

    pub(super) fn is_vacant(self) -> bool {
        self.0 == 0
    }

    /// Whether the row is still being entered.
    pub(super) fn is_pending(self) -> bool {
        self.0 & PENDING != 0
    }

    /// The slot of the row; only of entries that are not vacant.
    pub(super) fn slot(self) -> u32 {
        (self.0 & SLOT_MASK).wrapping_sub(1) as u32
    }

    fn tag(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

const WAYS: usize = 8;

#[repr(C, align(64))]
struct Bucket {
    entries: [AtomicU64; WAYS],
}

// SAFETY: a struct of atomics: any bytes are valid, nothing is dropped.
#[expect(unsafe_code, reason = "zero is an empty bucket")]
unsafe impl Zeroable for Bucket {}

/// Where a fingerprint may stand.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    buckets: [usize; 2],
    tag: u32,
}

/// Where an entry stands. The order of positions decides between twins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Position {
    bucket: usize,
    way: usize,
}

pub(super) struct Index {
    buckets: Slab<Bucket>,
}

impl Index {
    /// An index for `rows` rows, a third to two thirds full. Simulated at two thirds, one row in 66,000
    /// finds both of its buckets full; a larger index would miss the cache more often.
    pub(super) fn new(rows: u32) -> Self {
        let buckets = (rows as usize * 3 / 2).div_ceil(WAYS).next_power_of_two();
        Self {
            buckets: Slab::new(buckets),
        }
    }

    #[inline]
    pub(super) fn place(&self, fingerprint: u128) -> Place {
        let mask = self.buckets.len() - 1;
        let first = fingerprint as u32 as usize & mask;
        let second = (fingerprint >> 32) as u32 as usize & mask;
        Place {
            buckets: [first, second],
            tag: (fingerprint >> 96) as u32,
        }
    }

    /// Begins to fetch both buckets of `place`.
    #[inline]
    pub(super) fn prefetch(&self, place: Place) {
        place
            .buckets
            .into_iter()
            .for_each(|bucket| self.buckets.prefetch(bucket));
    }

    /// The entries of `place` that carry its tag.
    #[inline]
    pub(super) fn candidates(&self, place: Place) -> impl Iterator<Item = (Position, Entry)> + '_ {
        self.entries(place)
            .filter(move |(_, entry)| entry.tag() == place.tag && !entry.is_vacant())
    }

    /// All entries that `place` could use, vacant ones too.
    #[inline]
    pub(super) fn entries(&self, place: Place) -> impl Iterator<Item = (Position, Entry)> + '_ {
        place.buckets.into_iter().flat_map(move |bucket| {
            let entries = self.buckets[bucket].entries.iter().enumerate();
            entries.map(move |(way, entry)| (Position { bucket, way }, Entry(entry.load(SeqCst))))
        })
    }

    /// Enters `slot` as pending, or answers `None` when both buckets are full.
    pub(super) fn enter(&self, place: Place, slot: u32) -> Option<Position> {
        let entry = Entry::new(place.tag, slot).0 | PENDING;
        loop {
            let position = self.vacancy(place)?;
            // SeqCst: of two threads that enter the same fingerprint, one sees the other; see `insert.rs`.
            if self
                .at(position)
                .compare_exchange(0, entry, SeqCst, SeqCst)
                .is_ok()
            {
                return Some(position);
            }
        }
    }

    /// Makes the entry at `position` visible to lookups.
    pub(super) fn confirm(&self, position: Position, place: Place, slot: u32) {
        self.at(position).store(Entry::new(place.tag, slot).0, SeqCst);
    }

    /// Empties the entry at `position`, which must be this thread's to empty: its own pending one, or
    /// that of a row it sealed.
    pub(super) fn clear(&self, position: Position) {
        self.at(position).store(0, Release);
    }

    /// The position of the confirmed entry of `slot` among the candidates of `place`.
    pub(super) fn position_of(&self, place: Place, slot: u32) -> Option<Position> {
        let wanted = Entry::new(place.tag, slot);
        self.candidates(place)
            .find(|(_, entry)| *entry == wanted)
            .map(|(position, _)| position)
    }

    /// A vacant position: in the first bucket while that has room to spare, so that most lookups end in
    /// it, else in the emptier one.
    fn vacancy(&self, place: Place) -> Option<Position> {
        const SPARE: usize = 2;
        let mut vacant = place.buckets.map(|bucket| {
            let entries = self.buckets[bucket].entries.iter();
            let mut ways = entries
                .enumerate()
                .filter(|(_, e)| e.load(SeqCst) == 0)
                .map(|(way, _)| way);
            let first = ways.next();
            (
                first.map(|way| Position { bucket, way }),
                first.map_or(0, |_| 1 + ways.count()),
            )
        });
        if vacant[0].1 <= SPARE && vacant[1].1 > vacant[0].1 {
            vacant.swap(0, 1);
        }
        vacant[0].0.or(vacant[1].0)
    }

    fn at(&self, position: Position) -> &AtomicU64 {
        &self.buckets[position.bucket].entries[position.way]
    }
}
