//! Making, finding and evicting rows.
//!
//! # Why a key never has two live rows
//! A thread that makes a row enters it in the index as *pending*, then scans the key's buckets for
//! twins, and brings the row to life only after a scan without any. Let X and Y be two entries of one
//! key, X at the lower position, and suppose both were confirmed with neither removed in between. Both
//! threads stored their entry and then scanned (all SeqCst), so at least one saw the other's entry.
//! - Y saw X: pending at a lower position or confirmed, and Y withdraws either way. So it was X that saw
//!   Y, and Y's scan came first.
//! - X waits while Y is pending, and scans again. Y, confirmed, makes X withdraw.
//!
//! So one of them withdrew. A thread waits only for twins at higher positions, so of all that wait, the
//! one for the highest can go on; and a lookup waits only for threads that enter or remove its key.
//! Neither can be held up by the gossip thread for longer than it takes to make or evict one row.
//!
//! # Why a row that reappears starts no lower than it ended
//! An evicted row is sealed, then its group's floor is raised, then its entry is cleared. A newcomer
//! reads the floor after a scan that found no entry of its key; that scan read the clearing store or a
//! later one, so the floor it reads has been raised.
//!
//! # Why a row never gets its share twice
//! A row that had rights is removed only once its window has ended: a group is marked bounded before any of
//! its rows has rights, and whoever removes a row of it looks at the mark after it read the state that it
//! then seals. Before the seal, the end of its window is noted (`rights_end`), and no row of a window that
//! ended by then is given rights: as with the floor, a newcomer whose scan found no entry reads the note
//! after it was made.

use std::hint::select_unpredictable;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};

use arc_swap::Guard;

use super::group::{Claim, Group};
use super::index::{Place, Position};
use super::slot::{Counts, Slot, State};
use super::{Counters, RowRef};
use crate::limit::time::UnixMillis;

/// A live row, as it was when it was found.
#[derive(Clone, Copy, Debug)]
pub(in crate::limit) struct Located {
    pub(in crate::limit) slot: u32,
    pub(in crate::limit) created: bool,
}

/// Why no row was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::limit) enum Refusal {
    /// The group ended and was closed: resolve it anew.
    GroupClosed,
    /// No room, and nothing that may be evicted.
    Full,
}

/// Something that could make room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Victim {
    /// Rows of ended windows go first, then the smallest count.
    rank: (bool, u64),
    slot: u32,
}

/// Rounds of a race that others win before a newcomer is refused.
const ROUNDS_MAX: u32 = 64;
/// Slots looked at for a victim beside those of the key's own buckets. At the bound four fifths of them have
/// a row, and the smallest of 25 is among the smallest 3 % at the median.
const SAMPLE: u32 = 32;

/// Slots tried for a vacant one. At most four fifths are taken: all of these are once in 10^12.
const PROBES_MAX: u32 = 128;

impl Counters {
    /// The live row of `fingerprint`.
    #[inline]
    pub(super) fn locate(&self, fingerprint: u128) -> Option<(u32, State)> {
        let [home, second_home] = self.homes(fingerprint);
        // Five rows of six are in the first home, and all but a few of the others in the second. Fetched with
        // the first, it costs them no second wait.
        self.slots.prefetch(second_home as usize);
        self.slots.prefetch(second_home as usize + 1);
        self.at_home(home, fingerprint).or_else(|| {
            // For the others and for new keys.
            self.index.prefetch(self.index.place(fingerprint));
            self.at_home(second_home, fingerprint)
                .or_else(|| self.look_up(fingerprint))
        })
    }

    /// The row of `fingerprint` if it is one of the two slots at `home`.
    #[inline]
    fn at_home(&self, home: u32, fingerprint: u128) -> Option<(u32, State)> {
        // All loads are issued before any answer is needed, so they miss the cache together. Which of the two
        // it is nobody can guess: chosen by a branch, that would be found out a cache miss too late.
        let rows = [home, home + 1].map(|slot| &self.slots[slot as usize]);
        let states = rows.map(Slot::state);
        // A key has one live row at most, so this is it, whatever the index says meanwhile.
        let here = [0, 1].map(|at| states[at].is_live() & rows[at].matches(fingerprint));
        let state = select_unpredictable(here[1], states[1], states[0]);
        (here[0] | here[1]).then_some((home + u32::from(here[1]), state))
    }

    /// [`Counters::locate`] for a row that is not at home.
    fn look_up(&self, fingerprint: u128) -> Option<(u32, State)> {
        let place = self.index.place(fingerprint);
        let mut backoff = Backoff::default();
        loop {
            match self.probe(place, fingerprint) {
                Probe::Live(slot, state) => return Some((slot, state)),
                Probe::Absent => return None,
                Probe::Busy => backoff.wait(),
            }
        }
    }

    #[inline]
    fn probe(&self, place: Place, fingerprint: u128) -> Probe {
        for (_, entry) in self.index.candidates(place) {
            let slot = &self.slots[entry.slot() as usize];
            let state = slot.state();
            if !slot.matches(fingerprint) {
                continue;
            }
            // Pending, or sealed and about to be cleared.
            if entry.is_pending() || !state.is_live() {
                return Probe::Busy;
            }
            return Probe::Live(entry.slot(), state);
        }
        Probe::Absent
    }

    /// The live row of `fingerprint` in `group`, made if need be. `now` says which windows have ended.
    #[inline]
    pub(in crate::limit) fn locate_or_insert(
        &self,
        group: &Group,
        fingerprint: u128,
        claim: Claim,
        now: UnixMillis,
    ) -> Result<Located, Refusal> {
        match self.locate(fingerprint) {
            Some((slot, _)) => Ok(Located { slot, created: false }),
            None => self.insert(group, fingerprint, claim, now),
        }
    }

    #[cold]
    fn insert(
        &self,
        group: &Group,
        fingerprint: u128,
        claim: Claim,
        now: UnixMillis,
    ) -> Result<Located, Refusal> {
        let place = self.index.place(fingerprint);
        for _ in 0..ROUNDS_MAX {
            if let Some((slot, _)) = self.locate(fingerprint) {
                return Ok(Located { slot, created: false });
            }
            if !group.admit_row() {
                return Err(Refusal::GroupClosed);
            }
            let Some(slot) = self.obtain(fingerprint, place, claim, now) else {
                group.drop_row();
                break;
            };
            self.slots[slot as usize].furnish(fingerprint, group.index());
            let position = self.enter(place, slot, claim, now);
            if let Some(position) = position
                && self.outlives_twins(place, fingerprint, position)
            {
                self.bring_to_life(group, fingerprint, slot, || {
                    self.index.confirm(position, place, slot);
                });
                return Ok(Located { slot, created: true });
            }
            if let Some(position) = position {
                self.index.clear(position);
            }
            self.give_up(slot);
            group.drop_row();
            if position.is_none() {
                break;
            }
        }
        self.refused.fetch_add(1, Relaxed);
        Err(Refusal::Full)
    }

    /// Whether the pending entry at `mine` may be confirmed: see the head of this file.
    fn outlives_twins(&self, place: Place, fingerprint: u128, mine: Position) -> bool {
        let mut backoff = Backoff::default();
        'scan: loop {
            for (position, entry) in self.index.candidates(place) {
                if position == mine {
                    continue;
                }
                let slot = &self.slots[entry.slot() as usize];
                let state = slot.state();
                if !slot.matches(fingerprint) {
                    continue;
                }
                if !entry.is_pending() && state.is_live() || entry.is_pending() && position < mine {
                    return false;
                }
                backoff.wait();
                continue 'scan;
            }
            return true;
        }
    }

    /// A slot for a new row, as near its home as can be. At the bound of rows one is evicted for it.
    fn obtain(&self, fingerprint: u128, place: Place, claim: Claim, now: UnixMillis) -> Option<u32> {
        for _ in 0..ROUNDS_MAX {
            let one_more = |live: u32| (live < self.rows_max).then(|| live + 1);
            if let Ok(live) = self.live.fetch_update(Relaxed, Relaxed, one_more) {
                self.widen(live);
                return self.take_near(fingerprint).or_else(|| {
                    self.live.fetch_sub(1, Relaxed);
                    None
                });
            }
            let victim = match self.victim_of(self.in_buckets(place), claim, now) {
                Some(victim) if !victim.rank.0 => Some(victim),
                near => near
                    .into_iter()
                    .chain(self.victim_of(self.sample(), claim, now))
                    .min(),
            };
            let victim = victim?.slot;
            if self.evict(victim, claim, now) {
                self.give_up(victim);
            }
        }
        None
    }

    /// Where the row of `fingerprint` is looked for first, and second: the first of two slots side by side.
    #[inline]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "bits that the index does not place by, and others"
    )]
    pub(super) fn homes(&self, fingerprint: u128) -> [u32; 2] {
        let range = self.range.load(Relaxed);
        [
            self.home(range, (fingerprint >> 64) as u32, (fingerprint >> 96) as u16),
            self.home(range, (fingerprint >> 32) as u32, (fingerprint >> 112) as u16),
        ]
    }

    /// A pair of slots within `range` by two parts of a fingerprint. Ranges are powers of two, but for the
    /// last, which has some more: those take their share of the rows, so that most keep their home.
    #[inline]
    fn home(&self, range: u32, word: u32, choice: u16) -> u32 {
        let pairs = u64::from(range.max(self.base) - self.base) / 2;
        let beyond = self.base + ((u64::from(word) * pairs) >> 32) as u32 * 2;
        let within = word & (range.min(self.base) - 1) & !1;
        let is_beyond = (range as usize == self.slots.len()) & (choice < self.extra_share);
        select_unpredictable(is_beyond, beyond, within)
    }

    /// Takes a vacant slot for the row of `fingerprint`: at home, or else scattered, so that slots which
    /// are crowded since fewer were in use do not crowd their neighbours.
    #[expect(clippy::cast_possible_truncation, reason = "mixes the fingerprint")]
    fn take_near(&self, fingerprint: u128) -> Option<u32> {
        let [home, second_home] = self.homes(fingerprint);
        let stride = (fingerprint >> 16) as u32 | 1;
        let range = self.range.load(SeqCst);
        let scattered = (1..PROBES_MAX).map(|step| home.wrapping_add(step.wrapping_mul(stride)) % range);
        let homes = [home, home + 1, second_home, second_home + 1];
        let mut slots = homes.into_iter().chain(scattered);
        slots.find(|slot| self.slots[*slot as usize].take())
    }

    /// Spreads rows over more slots once half of those in use are taken. Rows made before stay where they
    /// are; those that have their home elsewhere then are looked up through the index.
    #[expect(clippy::cast_possible_truncation, reason = "at most 2^30 slots")]
    fn widen(&self, live: u32) {
        let range = self.range.load(Relaxed);
        let all = self.slots.len() as u32;
        if live >= range / 2 && range < all {
            let wider = if range < self.base { range * 2 } else { all };
            self.range.fetch_max(wider, SeqCst);
        }
    }

    /// Makes the slot of no row vacant.
    pub(super) fn give_up(&self, slot: u32) {
        self.slots[slot as usize].vacate();
        self.live.fetch_sub(1, Relaxed);
    }

    /// Enters `slot`, evicting a row of its buckets where both are full.
    fn enter(&self, place: Place, slot: u32, claim: Claim, now: UnixMillis) -> Option<Position> {
        for _ in 0..ROUNDS_MAX {
            let position = self.index.enter(place, slot);
            if position.is_some() {
                return position;
            }
            let victim = self.victim_of(self.in_buckets(place), claim, now)?;
            if self.evict(victim.slot, claim, now) {
                self.give_up(victim.slot);
            }
        }
        None
    }

    fn in_buckets(&self, place: Place) -> impl Iterator<Item = u32> + '_ {
        let entries = self.index.entries(place).map(|(_, entry)| entry);
        entries
            .filter(|entry| !entry.is_vacant() && !entry.is_pending())
            .map(super::index::Entry::slot)
    }

    fn sample(&self) -> impl Iterator<Item = u32> + use<> {
        let used = self.range.load(SeqCst);
        let start = self.sample_cursor.fetch_add(SAMPLE, Relaxed);
        (0..SAMPLE.min(used)).map(move |step| start.wrapping_add(step) % used)
    }

    fn victim_of(&self, slots: impl Iterator<Item = u32>, claim: Claim, now: UnixMillis) -> Option<Victim> {
        slots
            .filter_map(|slot| self.assess(slot, claim, now).map(|row| row.victim))
            .min()
    }

    /// The row in `slot` as a victim, if there is a live one that `claim` may evict.
    fn assess(&self, slot: u32, claim: Claim, now: UnixMillis) -> Option<Assessed> {
        let row = &self.slots[slot as usize];
        let state = row.state();
        if !state.is_live() || state.pending() > 0 {
            return None;
        }
        let counts = row.counts(state);
        let group = self.groups.at(row.group());
        if !row.still(state) {
            return None;
        }
        let known = group.as_ref()?;
        let running = known.window.end > now;
        // What this node admitted must not be forgotten for what a peer says, and rights not at all.
        let spared = running && (claim == Claim::Peer && counts.own > 0 || known.is_bounded());
        let victim = Victim {
            rank: (running, counts.total()),
            slot,
        };
        (!spared).then_some(Assessed { victim, state, group })
    }

    /// Evicts the row in `slot`; false when it changed meanwhile. Its slot is the caller's then.
    fn evict(&self, slot: u32, claim: Claim, now: UnixMillis) -> bool {
        let Some(Assessed { state, group, .. }) = self.assess(slot, claim, now) else {
            return false;
        };
        let evicted = group
            .as_ref()
            .is_some_and(|group| self.remove(slot, state, group, true));
        if evicted {
            self.evicted.fetch_add(1, Relaxed);
        }
        evicted
    }

    /// Ends the tenancy of `slot` known by `state`, of a row of `group`; false when it changed meanwhile.
    /// The slot is the caller's then, to [`Counters::give_up`].
    pub(super) fn remove(&self, slot: u32, state: State, group: &Group, raise_floor: bool) -> bool {
        let row = &self.slots[slot as usize];
        let fingerprint = row.fingerprint();
        let place = self.index.place(fingerprint);
        // Found between reading `state` and the seal, which fails unless the tenancy spans both: so it is
        // this row's entry, and confirmed, and nobody but whoever seals the row clears it.
        let Some(position) = self.index.position_of(place, slot) else {
            return false;
        };
        let counts = row.counts(state);
        if group.is_bounded() {
            self.end_rights(group.window);
        }
        if !row.seal(state) {
            return false;
        }
        if raise_floor {
            group.raise_floor(counts);
        }
        self.index.clear(position);
        group.drop_row();
        true
    }

    /// Forgets rows among the next `slots_max` slots whose windows ended by `ended_before`. Answers
    /// how many. For a caller that comes back regularly; each call goes on where the last one stopped.
    pub fn sweep_ended(&self, ended_before: UnixMillis, slots_max: u32) -> u32 {
        let used = self.range.load(SeqCst);
        let steps = slots_max.min(used);
        let start = self.sweep_cursor.fetch_add(steps, Relaxed);
        let mut swept = 0;
        for index in (0..steps).map(|step| start.wrapping_add(step) % used) {
            if let Some(Assessed { victim, state, group }) = self.assess(index, Claim::Request, ended_before)
                && !victim.rank.0
                && let Some(group) = group.as_ref()
                && self.remove(index, state, group, false)
            {
                self.give_up(index);
                swept += 1;
            }
        }
        swept
    }

    /// The reference to the row that `state` was read from, if it still is the tenant of `slot`.
    pub(super) fn reference(&self, slot: u32, state: State) -> Option<RowRef> {
        let row = &self.slots[slot as usize];
        let epoch = row.epoch();
        row.still(state).then_some(RowRef { slot, epoch })
    }

    /// The row of `fingerprint` and its counts, or the counts it would start with, without rights.
    pub(in crate::limit) fn peek(&self, group: &Group, fingerprint: u128) -> (Option<RowRef>, Counts) {
        while let Some((slot, state)) = self.locate(fingerprint) {
            let counts = self.slots[slot as usize].counts(state);
            let row = self.reference(slot, state);
            if row.is_some() {
                return (row, counts);
            }
        }
        (None, group.floor())
    }
}

/// A row that may be evicted, and its group (always there).
struct Assessed {
    victim: Victim,
    state: State,
    group: Guard<Option<Arc<Group>>>,
}

enum Probe {
    Live(u32, State),
    Busy,
    Absent,
}

/// Waits a little longer each time, and lets other threads run once that is cheaper than spinning.
#[derive(Default)]
pub(in crate::limit) struct Backoff(u32);

impl Backoff {
    pub(in crate::limit) fn wait(&mut self) {
        const SPINS_MAX: u32 = 6;
        if self.0 > SPINS_MAX {
            std::thread::yield_now();
            return;
        }
        (0..1 << self.0).for_each(|_| std::hint::spin_loop());
        self.0 += 1;
    }
}
