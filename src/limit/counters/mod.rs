//! The counters: one fixed-size, lock-free table of rows that request threads and the gossip thread share.
//!
//! Owns every count of this node. A row is one slot (a cache line, `slot.rs`); the index finds it by its
//! fingerprint (`index.rs`); `insert.rs` makes and evicts rows; rows of one (rule, window) form a group
//! (`group.rs`); changed rows wait for replication in a list (`changed.rs`). Promises that memory is
//! bounded by the capacity, that a key has one row at most, and that nobody waits for a lock.

mod changed;
mod group;
mod index;
mod insert;
mod rights;
#[cfg(test)]
mod rights_tests;
mod slab;
mod slot;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicU32, AtomicU64};

use arc_swap::ArcSwap;

use self::changed::Changed;
use self::group::Groups;
pub(super) use self::group::{Claim, Group};
use self::index::Index;
pub(super) use self::insert::{Backoff, Located, Refusal};
use self::rights::Rights;
pub use self::rights::Short;
use self::slab::Slab;
pub(super) use self::slot::{Ask, Counts, Offer, Taking};
use self::slot::{Slot, State};
use super::key::{RowKey, RuleId};
use super::mode::SyncMode;
use super::rule::Hits;
use super::schedule::{Policy, Schedule};
use super::time::UnixMillis;
use super::window::Window;

/// Names a row for as long as it lives: a slot of the table and the epoch of its present tenant. Once
/// the row is evicted or forgotten, every use of the reference answers `None`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RowRef {
    /// Index of the slot. There are a quarter more than [`Counters::capacity`], so that most rows find theirs
    /// vacant.
    pub slot: u32,
    /// Counts the tenants of the slot.
    pub epoch: u32,
}

/// A snapshot of one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowView {
    /// Which counter this is.
    pub key: RowKey,
    /// Hits admitted by this node, and rights it gave away: monotone while the row lives.
    pub own: u64,
    /// Cached sum of the peers' rows, as last stored by replication.
    pub peers: u64,
    /// In bounded mode, rights that this node gave away and no peer is known to have spent: they are in `own`, and
    /// admitted by nobody. Zero where `peers` is not.
    pub outstanding: u64,
    /// Own hits already released to peers, as last stored by replication.
    pub published: u64,
    /// The limit in force; `None` when this node has no such rule.
    pub limit: Option<u64>,
    /// Whether the row is to be replicated now: its rule is in gossip or bounded mode, or unknown here.
    pub replicated: bool,
    /// Whether its rule is in bounded mode.
    pub bounded: bool,
    /// The most that `own` may come to in bounded mode: this replica's share and the grants it received. What a
    /// fallback admitted ([`super::WithoutShare`]) may be more.
    pub allowance: u64,
}

impl RowView {
    /// Hits that the cluster is known to have admitted.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.own
            .saturating_add(self.peers)
            .saturating_sub(self.outstanding)
    }

    /// Rights left in bounded mode. What decisions under way have reserved is among them.
    #[must_use]
    pub fn rights(&self) -> u64 {
        self.allowance.saturating_sub(self.own)
    }
}

/// The table is at its bound and nothing in reach may be evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the counter table is full")]
pub struct TableFull;

/// Totals of the table, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CounterStats {
    /// Rows that live now.
    pub live: u32,
    /// (rule, window) pairs that are known now.
    pub groups: u32,
    /// Rows evicted at the bound since start: their keys may be denied a little early.
    pub evicted: u64,
    /// New rows refused at the bound since start.
    pub refused: u64,
    /// Times since start that a request under a bounded rule found no room to count in. [`super::Overflow`]
    /// says what became of it.
    pub overflowed: u64,
}

/// The table of rows.
pub struct Counters {
    slots: Slab<Slot>,
    index: Index,
    groups: Groups,
    /// What the rules of this node say about the rows of their periods.
    schedules: ArcSwap<HashMap<RuleId, Schedule>>,
    changed: Changed,
    /// Slots below this may have a tenant: a power of two up to `base`, or all of them. It grows with the
    /// number of rows, so that few rows touch few pages.
    range: AtomicU32,
    /// The largest power of two of slots that there are.
    base: u32,
    /// The share of rows, of 2^16, whose home is beyond `base` once all slots are in use.
    extra_share: u16,
    /// Rows that live or are being made.
    live: AtomicU32,
    rows_max: u32,
    evicted: AtomicU64,
    refused: AtomicU64,
    overflowed: AtomicU64,
    rights: Rights,
    sample_cursor: AtomicU32,
    sweep_cursor: AtomicU32,
}

/// Most rows of a table: what an index entry can name, with a bit to spare.
const ROWS_MAX: u32 = 1 << 29;
/// Slots that a new table starts with: 128 KiB.
const RANGE_MIN: u32 = 2048;
/// Rows are forgotten by replication when peers can no longer speak of them; where it does not (in local
/// mode, or without peers), by a sweep this long after their window ended.
const SWEEP_GRACE: std::time::Duration = std::time::Duration::from_secs(10);
/// Slots swept for each new window: some 10 µs, and the whole of a million rows in 512 windows.
const SWEEP_SLOTS: u32 = 4096;

/// The side of the table that replication uses. Called from one thread at a time; none of these block a
/// request thread.
impl Counters {
    /// Most rows the table holds.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        self.rows_max
    }

    /// The next row whose own count changed since it was last taken; each changed row is handed out once.
    pub fn take_changed(&self) -> Option<RowRef> {
        while let Some(slot) = self.changed.pop(&self.slots) {
            let state = self.slots[slot as usize].state();
            let row = self.reference(slot, state);
            // Its row is gone: whoever makes the next one there announces it anew.
            if row.is_some() {
                return row;
            }
        }
        None
    }

    /// Hands out every live row with unpublished hits once more through [`Counters::take_changed`]: after
    /// the mode changed.
    pub fn mark_all_changed(&self) {
        for slot in 0..self.range.load(SeqCst) {
            let row = &self.slots[slot as usize];
            let state = row.state();
            if state.is_live() && state.own() > row.counts(state).published {
                self.changed.push(&self.slots, slot);
            }
        }
    }

    /// A snapshot of `row`, or `None` once it is gone.
    #[must_use]
    pub fn view(&self, row: RowRef) -> Option<RowView> {
        let (slot, state) = self.tenant(row)?;
        let counts = slot.counts(state);
        let fingerprint = slot.fingerprint();
        let group = self.groups.at(slot.group());
        if !slot.still(state) {
            return None;
        }
        let group = group.as_ref()?;
        let policy = self.policy_of(group);
        Some(RowView {
            key: RowKey {
                rule: group.rule,
                window: group.window,
                key: group.key_of(fingerprint),
            },
            own: counts.own,
            peers: u64::try_from(counts.peers).unwrap_or(0),
            outstanding: u64::try_from(-counts.peers).unwrap_or(0),
            published: counts.published,
            limit: policy.map(|policy| policy.limit),
            replicated: policy.is_none_or(|policy| policy.mode != SyncMode::Local),
            bounded: policy.is_some_and(|policy| policy.mode == SyncMode::Bounded),
            allowance: counts.allowance,
        })
    }

    /// The window of `row`: cheaper than [`Counters::view`].
    #[must_use]
    pub fn window_of(&self, row: RowRef) -> Option<Window> {
        let (slot, state) = self.tenant(row)?;
        let group = self.groups.at(slot.group());
        slot.still(state)
            .then(|| group.as_ref().map(|group| group.window))
            .flatten()
    }

    /// The live row of `key`.
    #[must_use]
    pub fn find(&self, key: &RowKey) -> Option<RowRef> {
        let fingerprint = self.groups.find(key.rule, key.window)?.fingerprint(key.key);
        while let Some((slot, state)) = self.locate(fingerprint) {
            let row = self.reference(slot, state);
            if row.is_some() {
                return row;
            }
        }
        None
    }

    /// Begins to fetch what a look for the rows of `keys` reads first, so that whoever looks for all of them
    /// waits for memory once and not once a row.
    pub fn prefetch_rows<'a>(&self, keys: impl Iterator<Item = &'a RowKey>) {
        let mut last: Option<(RuleId, Window, Option<Arc<Group>>)> = None;
        for key in keys {
            let known = last
                .take()
                .filter(|(rule, window, _)| *rule == key.rule && *window == key.window);
            let (.., group) = last.insert(
                known.unwrap_or_else(|| (key.rule, key.window, self.groups.find(key.rule, key.window))),
            );
            if let Some(group) = group {
                self.prefetch(group.fingerprint(key.key));
            }
        }
    }

    /// The live row of `key`, made if need be. A row that peers know of may evict none that this node
    /// has admitted hits for in a window that runs at `now`, by its own clock: it is refused instead.
    ///
    /// # Errors
    /// [`TableFull`] when there is no room; nothing changed.
    pub fn find_or_insert(&self, key: &RowKey, now: UnixMillis) -> Result<RowRef, TableFull> {
        for _ in 0..ATTEMPTS_MAX {
            let group = self
                .group(key.rule, key.window, Claim::Peer, now)
                .ok_or(TableFull)?;
            let fingerprint = group.fingerprint(key.key);
            match self.locate_or_insert(&group, fingerprint, Claim::Peer, now) {
                Ok(located) => {
                    let state = self.slots[located.slot as usize].state();
                    let row = self.reference(located.slot, state);
                    // Evicted and let again in between: look once more.
                    if self.slots[located.slot as usize].matches(fingerprint)
                        && let Some(row) = row
                    {
                        return Ok(row);
                    }
                }
                Err(Refusal::GroupClosed) => {}
                Err(Refusal::Full) => return Err(TableFull),
            }
        }
        Err(TableFull)
    }

    /// Stores the sum of the peers' rows, which decisions add to the own count. Never lowers it.
    pub fn store_peers(&self, row: RowRef, sum: u64) {
        if let Some((slot, _)) = self.tenant(row) {
            slot.raise_peers(row.epoch, sum);
        }
    }

    /// Records that peers have been told of `own` hits. Never lowers it.
    pub fn store_published(&self, row: RowRef, own: u64) {
        if let Some((slot, _)) = self.tenant(row) {
            slot.raise_published(row.epoch, own);
        }
    }

    /// Frees the row: its window has ended, with grace. A row that a decision is just counting in stays. In
    /// bounded mode, no row of a window that ended by then is given rights any more.
    pub fn forget(&self, row: RowRef) {
        while let Some((slot, state)) = self.tenant(row) {
            let group = self.groups.at(slot.group());
            if state.pending() > 0 || !slot.still(state) {
                return;
            }
            let Some(group) = group.as_ref() else { return };
            if self.remove(row.slot, state, group, false) {
                self.give_up(row.slot);
                return;
            }
        }
    }

    /// Rows that live now.
    #[must_use]
    pub fn live_rows(&self) -> u32 {
        self.live.load(Relaxed)
    }

    /// Totals for metrics.
    #[must_use]
    pub fn stats(&self) -> CounterStats {
        CounterStats {
            live: self.live_rows(),
            groups: self.groups.len(),
            evicted: self.evicted.load(Relaxed),
            refused: self.refused.load(Relaxed),
            overflowed: self.overflowed.load(Relaxed),
        }
    }

    /// Shows every live row to `visit`, in no particular order. Rows made meanwhile may be missing.
    pub fn for_each_live(&self, mut visit: impl FnMut(RowRef, RowView)) {
        for slot in 0..self.range.load(SeqCst) {
            let state = self.slots[slot as usize].state();
            if let Some(row) = self.reference(slot, state)
                && let Some(view) = self.view(row)
            {
                visit(row, view);
            }
        }
    }

    fn tenant(&self, row: RowRef) -> Option<(&Slot, State)> {
        let slot = self.slots.get(row.slot as usize)?;
        let state = slot.state();
        (state.is_live() && slot.epoch() == row.epoch).then_some((slot, state))
    }
}

/// Times that a row may vanish under a thread that looks for it before the thread gives up.
const ATTEMPTS_MAX: u32 = 64;

/// The side that decisions use.
impl Counters {
    /// A table of `rows` rows, at least 64 so that one decision's rows never crowd each other out.
    pub(super) fn new(rows: u32) -> Self {
        let rows = rows.clamp(64, ROWS_MAX);
        // Four fifths full at the bound: rows find a slot near home, and a key costs 80 bytes of slots.
        let slots = (rows + rows / 4).next_multiple_of(2);
        let base = 1 << slots.ilog2();
        let extra_share = (u64::from(slots - base) << 16).div_ceil(u64::from(slots));
        Self {
            slots: Slab::in_huge_pages(slots as usize),
            index: Index::new(rows),
            groups: Groups::new(),
            schedules: ArcSwap::default(),
            changed: Changed::new(),
            range: AtomicU32::new(if base <= RANGE_MIN { slots } else { RANGE_MIN }),
            base,
            extra_share: u16::try_from(extra_share).expect("less than half of 2^16"),
            live: AtomicU32::new(0),
            rows_max: rows,
            evicted: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            overflowed: AtomicU64::new(0),
            rights: Rights::default(),
            sample_cursor: AtomicU32::new(0),
            sweep_cursor: AtomicU32::new(0),
        }
    }

    pub(super) fn set_schedules(&self, schedules: HashMap<RuleId, Schedule>) {
        self.schedules.store(Arc::new(schedules));
    }

    /// What this node's rules say about the rows of `group`; `None` when it has no such rule.
    fn policy_of(&self, group: &Group) -> Option<Policy> {
        let schedules = self.schedules.load();
        schedules
            .get(&group.rule)
            .map(|schedule| schedule.at(group.window.start))
    }

    /// The group of (rule, window), made if need be; a new window pays for forgetting old ones. `None`
    /// at the bound of groups.
    pub(super) fn group(
        &self,
        rule: RuleId,
        window: Window,
        claim: Claim,
        now: UnixMillis,
    ) -> Option<Arc<Group>> {
        if let Some(group) = self.groups.find(rule, window) {
            return Some(group);
        }
        if claim == Claim::Peer {
            return self.groups.find_or_insert(rule, window, claim, now);
        }
        self.sweep_ended(now.minus(SWEEP_GRACE), SWEEP_SLOTS);
        self.groups.find_or_insert(rule, window, claim, now).or_else(|| {
            self.sweep_ended(now, u32::MAX);
            self.groups.purge_all(now);
            self.groups.find_or_insert(rule, window, claim, now)
        })
    }

    /// Begins to fetch what a look for the row of `fingerprint` reads first. A decision over several rows
    /// calls it for all of them, so that it waits for memory once and not once a row.
    #[inline]
    pub(super) fn prefetch(&self, fingerprint: u128) {
        for home in self.homes(fingerprint) {
            self.slots.prefetch(home as usize);
            self.slots.prefetch(home as usize + 1);
        }
    }

    /// Offers hits to the row of `ask`, or answers `None` when there is none.
    #[inline]
    pub(super) fn offer_existing(&self, ask: &Ask, taking: Taking) -> Option<(u32, Offer)> {
        let (slot, _) = self.locate(ask.fingerprint)?;
        let offer = self.slots[slot as usize].offer(ask, taking);
        (offer != Offer::Gone).then_some((slot, offer))
    }

    /// Offers hits to the row of `ask` in `group`, made if need be.
    #[inline]
    pub(super) fn offer(
        &self,
        group: &Group,
        ask: &Ask,
        taking: Taking,
        now: UnixMillis,
    ) -> Result<(Located, Offer), Refusal> {
        for _ in 0..ATTEMPTS_MAX {
            let located = self.locate_or_insert(group, ask.fingerprint, Claim::Request, now)?;
            let offer = self.slots[located.slot as usize].offer(ask, taking);
            if offer != Offer::Gone {
                return Ok((located, offer));
            }
        }
        Err(Refusal::Full)
    }

    /// Counts what [`Taking::Reserve`] reserved in `slot`.
    pub(super) fn commit(&self, slot: u32, hits: Hits) -> Counts {
        self.slots[slot as usize].commit(hits)
    }

    /// Gives back what [`Taking::Reserve`] reserved in `slot`.
    pub(super) fn release(&self, slot: u32, hits: Hits) {
        self.slots[slot as usize].release(hits);
    }

    /// Hands `slot` to replication.
    #[inline]
    pub(super) fn mark_changed(&self, slot: u32) {
        self.changed.push(&self.slots, slot);
    }
}
