//! What replication knows of each row of the counter table: who counted how much, and where it stands in
//! their logs. Kept beside the table, by slot, and touched by the gossip thread alone.

use std::collections::BTreeMap;
use std::ops::Range;

use crdts::{CmRDT, Dot, GCounter};
use smallvec::SmallVec;

use crate::limit::{RowRef, UnixMillis};

use super::arena::Arena;
use super::codec::Version;
use super::log::{LogEntry, OriginIndex};
use super::origin::ORIGINS_MAX;
use crate::replica::ReplicaId;

/// What one peer says of a row: its count, and its place in the peer's log as far as that is claimed.
///
/// Count and peer share a word: at a million keys and three nodes every word of a row costs 16 MB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PeerRow {
    tagged: u64,
    pub(super) version: Version,
}

/// Set in [`PeerRow::tagged`] once the count is adopted; a count that rises starts without it.
const ADOPTED: u64 = 1 << 15;
const ORIGIN_MASK: u64 = ADOPTED - 1;
const _: () = assert!(ORIGINS_MAX <= 1 << 15, "an origin fits beside the mark");

impl PeerRow {
    fn new(origin: OriginIndex, count: u64) -> Self {
        Self {
            tagged: count << 16 | u64::from(origin.0),
            version: 0,
        }
    }

    pub(super) fn origin(self) -> OriginIndex {
        OriginIndex((self.tagged & ORIGIN_MASK) as u16)
    }

    /// Whether our own log carries this count: adopted from a dead replica, and told on.
    pub(super) fn is_adopted(self) -> bool {
        self.tagged & ADOPTED != 0
    }

    /// Notes that our own log carries this count.
    pub(super) fn set_adopted(&mut self) {
        self.tagged |= ADOPTED;
    }

    pub(super) fn count(self) -> u64 {
        self.tagged >> 16
    }
}

/// One row.
#[derive(Clone, Debug, Default)]
pub(super) struct RowState {
    epoch: u32,
    /// Stands in the list of rows that the next tick pushes.
    pub(super) dirty: bool,
    /// Stands in the list of rows that are due.
    pub(super) due: bool,
    /// Whose frame made the row, or this node itself.
    pub(super) created_by: OriginIndex,
    /// When its window ends.
    pub(super) window_end: UnixMillis,
    /// Its newest place in our own log; 0 while it was never released.
    pub(super) own_version: Version,
    /// The peers' counts.
    pub(super) peers: SmallVec<[PeerRow; 2]>,
}

impl RowState {
    /// The row that this was the state of, in `slot`.
    pub(super) fn row_in(&self, slot: u32) -> RowRef {
        RowRef {
            slot,
            epoch: self.epoch,
        }
    }

    /// What `origin` says of this row.
    pub(super) fn peer(&self, origin: OriginIndex) -> Option<&PeerRow> {
        self.peers.iter().find(|peer| peer.origin() == origin)
    }

    /// See [`RowState::peer`].
    pub(super) fn peer_mut(&mut self, origin: OriginIndex) -> Option<&mut PeerRow> {
        self.peers.iter_mut().find(|peer| peer.origin() == origin)
    }

    /// Takes in a peer's count: the pointwise maximum, as `crdts::GCounter` merges. Says what changed.
    pub(super) fn merge(&mut self, origin: OriginIndex, count: u64) -> Merge {
        match self.peer_mut(origin) {
            None => {
                self.peers.push(PeerRow::new(origin, count));
                Merge::New
            }
            Some(peer) if peer.count() < count => {
                let version = peer.version;
                *peer = PeerRow {
                    version,
                    ..PeerRow::new(origin, count)
                };
                Merge::Raised
            }
            Some(_) => Merge::Known,
        }
    }

    /// The sum of the peers' counts.
    pub(super) fn peers_sum(&self) -> u64 {
        self.peers
            .iter()
            .fold(0, |sum: u64, peer| sum.saturating_add(peer.count()))
    }
}

/// What a merge did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Merge {
    /// The peer had no count here before.
    New,
    /// The peer's count rose.
    Raised,
    /// Nothing new.
    Known,
}

/// The replicated state of one key as the textbook type (Shapiro et al. 2011): one entry a replica.
pub(super) fn g_counter(counts: &[(ReplicaId, u64)]) -> GCounter<ReplicaId> {
    let mut counter = GCounter::new();
    for (replica, count) in counts.iter().filter(|(_, count)| *count > 0) {
        counter.apply(Dot::new(replica.clone(), *count));
    }
    counter
}

/// All rows by slot, and by the end of their window.
#[derive(Debug, Default)]
pub(super) struct Rows {
    /// By slot: one more than the index of its state, or zero.
    places: Vec<u32>,
    states: Arena,
    windows: BTreeMap<UnixMillis, WindowRows>,
    /// Slots below this one wait for another look.
    review_below: usize,
    /// Slots below this one may have lost their row.
    patrol_below: usize,
    /// All slots are to be patrolled once more after that.
    patrol_again: bool,
}

/// The rows of all windows that end together.
#[derive(Debug, Default)]
struct WindowRows {
    slots: Vec<u32>,
    /// How many of them were looked at since the window ended.
    released: usize,
    /// How many of them have lost their row since.
    vacant: usize,
}

/// So many vacant slots of one window are not worth a pass over the others.
const VACANT_MAX: usize = 256;

impl Rows {
    /// Rows known now.
    pub(super) fn known(&self) -> usize {
        self.states.len()
    }

    /// Windows listed, and the places listed under them.
    pub(super) fn listed(&self) -> (usize, usize) {
        let places = self.windows.values().map(|rows| rows.slots.len());
        (self.windows.len(), places.sum())
    }

    /// The state of `row` if it is still the slot's tenant here.
    pub(super) fn get(&self, row: RowRef) -> Option<&RowState> {
        self.states
            .get(self.place(row.slot)?)
            .filter(|state| state.epoch == row.epoch)
    }

    /// See [`Rows::get`].
    pub(super) fn get_mut(&mut self, row: RowRef) -> Option<&mut RowState> {
        self.states
            .get_mut(self.place(row.slot)?)
            .filter(|state| state.epoch == row.epoch)
    }

    /// The tenant of `slot` as far as known here.
    pub(super) fn tenant(&self, slot: u32) -> Option<(RowRef, &RowState)> {
        let state = self.states.get(self.place(slot)?)?;
        let epoch = state.epoch;
        Some((RowRef { slot, epoch }, state))
    }

    /// The row that stands at a place of a log, unless its slot has another tenant by now.
    pub(super) fn at(&self, entry: LogEntry) -> Option<(RowRef, &RowState)> {
        self.tenant(entry.slot()).filter(|(row, _)| entry.is_of(*row))
    }

    fn place(&self, slot: u32) -> Option<u32> {
        self.places.get(slot as usize)?.checked_sub(1)
    }

    /// Makes `row` the tenant of its slot; returns the state of the one before, if it was another.
    pub(super) fn settle(&mut self, row: RowRef, window_end: UnixMillis) -> Option<RowState> {
        if self.get(row).is_some() {
            return None;
        }
        let fresh = RowState {
            epoch: row.epoch,
            window_end,
            ..RowState::default()
        };
        self.windows.entry(window_end).or_default().slots.push(row.slot);
        if let Some(state) = self.place(row.slot).and_then(|at| self.states.get_mut(at)) {
            let former = std::mem::replace(state, fresh);
            self.vacate(former.window_end);
            return Some(former);
        }
        let at = row.slot as usize;
        if at >= self.places.len() {
            self.places.resize(at + 1, 0);
        }
        let index = self.states.insert(fresh);
        if let Some(place) = self.places.get_mut(at) {
            *place = index + 1;
        }
        None
    }

    /// One of the rows of a window is gone. Rows that come and go within a long window must not leave
    /// their slots listed for its length.
    fn vacate(&mut self, window_end: UnixMillis) {
        let Some(rows) = self.windows.get_mut(&window_end) else {
            return;
        };
        rows.vacant += 1;
        if rows.vacant < VACANT_MAX.max(rows.slots.len() / 2) {
            return;
        }
        // Of an ended window all are looked at once more: late rows come and go there as well.
        (rows.vacant, rows.released) = (0, 0);
        let mut slots = std::mem::take(&mut rows.slots);
        slots.sort_unstable();
        slots.dedup();
        slots.retain(|slot| self.tenant_until(*slot, window_end).is_some());
        if let Some(rows) = self.windows.get_mut(&window_end) {
            rows.slots = slots;
        }
    }

    /// Drops `row`; returns what was known of it.
    pub(super) fn remove(&mut self, row: RowRef) -> Option<RowState> {
        self.get(row)?;
        let former = self.states.remove(self.place(row.slot)?)?;
        if let Some(place) = self.places.get_mut(row.slot as usize) {
            *place = 0;
        }
        self.vacate(former.window_end);
        Some(former)
    }

    /// Starts another look at every row.
    pub(super) fn review_all(&mut self) {
        self.review_below = self.places.len();
    }

    /// The next rows to look at again, from up to `most` slots.
    pub(super) fn take_review(&mut self, most: usize) -> Vec<RowRef> {
        let to = self.review_below;
        self.review_below = to.saturating_sub(most);
        self.tenants(self.review_below..to).collect()
    }

    /// Starts a patrol of every row; one that is under way is finished first, so that each ends.
    pub(super) fn patrol_all(&mut self) {
        if self.patrol_below > 0 {
            self.patrol_again = true;
        } else {
            self.patrol_below = self.places.len();
        }
    }

    /// The next rows to patrol, from up to `most` slots.
    pub(super) fn take_patrol(&mut self, most: usize) -> Vec<RowRef> {
        let to = self.patrol_below;
        self.patrol_below = to.saturating_sub(most);
        let rows = self.tenants(self.patrol_below..to).collect();
        if self.patrol_below == 0 && std::mem::take(&mut self.patrol_again) {
            self.patrol_below = self.places.len();
        }
        rows
    }

    /// Up to `most` rows of windows that ended by `now` and were not handed out since.
    pub(super) fn take_ended(&mut self, now: UnixMillis, most: usize) -> Vec<RowRef> {
        let mut ended = Vec::new();
        for (end, rows) in self.windows.range_mut(..=now) {
            let take = rows
                .slots
                .len()
                .saturating_sub(rows.released)
                .min(most - ended.len());
            let slots = rows.slots.iter().skip(rows.released).take(take);
            ended.extend(slots.map(|slot| (*slot, *end)));
            rows.released += take;
            if ended.len() >= most {
                break;
            }
        }
        self.still_there(ended)
    }

    /// Up to `most` rows of windows that ended by `end`; they are handed out once, to be forgotten.
    pub(super) fn take_expired(&mut self, end: UnixMillis, most: usize) -> Vec<RowRef> {
        let mut expired = Vec::new();
        while let Some(mut entry) = self.windows.first_entry().filter(|entry| *entry.key() <= end) {
            let window_end = *entry.key();
            let slots = &mut entry.get_mut().slots;
            let from = slots.len().saturating_sub(most - expired.len());
            expired.extend(slots.drain(from..).map(|slot| (slot, window_end)));
            if !slots.is_empty() {
                break;
            }
            entry.remove();
        }
        self.still_there(expired)
    }

    fn still_there(&self, listed: Vec<(u32, UnixMillis)>) -> Vec<RowRef> {
        let rows = listed.into_iter();
        rows.filter_map(|(slot, end)| self.tenant_until(slot, end))
            .collect()
    }

    /// The tenant of `slot` if its window ends at `window_end`.
    fn tenant_until(&self, slot: u32, window_end: UnixMillis) -> Option<RowRef> {
        let (row, state) = self.tenant(slot)?;
        (state.window_end == window_end).then_some(row)
    }

    /// Whether any of the `take_…` functions has more to hand out.
    pub(super) fn has_backlog(&self, ended: UnixMillis, expired: UnixMillis) -> bool {
        self.review_below > 0
            || self.patrol_below > 0
            || self
                .windows
                .range(..=ended)
                .any(|(end, rows)| *end <= expired || rows.released < rows.slots.len())
    }

    /// Every row known.
    pub(super) fn all(&self) -> impl Iterator<Item = RowRef> {
        self.tenants(0..self.places.len())
    }

    fn tenants(&self, slots: Range<usize>) -> impl Iterator<Item = RowRef> {
        let places = (0_u32..).zip(&self.places).take(slots.end).skip(slots.start);
        places.filter_map(|(slot, _)| self.tenant(slot).map(|(row, _)| row))
    }
}
