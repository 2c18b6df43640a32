//! One row of the table: a cache line of atomics, and the word that decides.
//!
//! # Why a count never lands on the wrong row
//! A slot has one tenant (row) after another. `state` carries the low bits of the tenancy's number and
//! whether it lives, and every change of a count is a compare-and-swap from a state read before:
//!
//! 1. A new tenant's fields are stored (Release) only after the old tenant's state was made dead, and
//!    its live state is stored (Release) only after its fields.
//! 2. A reader loads a live `state` (Acquire) *before* the fields. It then sees the fields of that
//!    tenant or of a later one; if of a later one, it read from a store that follows the death of the
//!    tenant it knows, so the state it holds is stale, and its compare-and-swap fails.
//! 3. A reader that changes nothing loads `state` again after the fields (Acquire loads, so not
//!    earlier): the same tenancy says that the fields were that tenant's all along.
//!
//! The tenancy's nine bits repeat after 512 tenants. A stale compare-and-swap could then only succeed if
//! a multiple of 512 tenants of one slot came and went between two neighbouring instructions of one
//! thread *and* the new row stood at the same count. Even then, one hit is counted for the wrong client,
//! and nothing else.
//!
//! # Why rights are never spent twice
//! In bounded mode `own` is what this replica consumed: hits admitted and rights given away. `allowance` only
//! rises while a tenancy lasts. Spending, reserving and giving all change `state` by a compare-and-swap from a
//! state with own + pending + amount ≤ an allowance read before, so whatever the order, and however stale the
//! allowance, own + pending never exceeds it. Only what a fallback admits without a share is beyond it, for which
//! nothing is promised; nor does it add rights that could be given away.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicU32, AtomicU64};

use super::slab::Zeroable;
use crate::limit::mode::SyncMode;
use crate::limit::rule::{Hits, Limit};

/// own:40 | pending:14 | tenancy:9 | live:1. Zero is a slot that never had a tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct State(u64);

const OWN_SHIFT: u32 = 24;
const PENDING_SHIFT: u32 = 10;
const PENDING_MAX: u64 = 0x3fff;
const TENANCY_MASK: u64 = 0x3ff;
const EPOCH_MASK: u32 = 0x1ff;
const LIVE: u64 = 1;
/// Most that a row can consume. Rights that go back and forth between replicas add to `own` each time, so
/// that it may pass the limit; beyond this they are of no use any more.
const OWN_MAX: u64 = (1 << (64 - OWN_SHIFT)) - 1;

const _: () = assert!(
    Limit::MAX <= OWN_MAX,
    "own counts never exceed a limit or an allowance, and fit"
);
const _: () = assert!(
    Hits::MAX as u64 * 2 < PENDING_MAX,
    "a reservation fits beside another"
);

impl State {
    fn new(own: u64, epoch: u32) -> Self {
        Self(own << OWN_SHIFT | u64::from(epoch & EPOCH_MASK) << 1 | LIVE)
    }

    /// Hits admitted; in bounded mode with the rights given away.
    pub(super) fn own(self) -> u64 {
        self.0 >> OWN_SHIFT
    }

    /// Hits reserved by decisions over several windows that are still under way.
    pub(super) fn pending(self) -> u64 {
        self.0 >> PENDING_SHIFT & PENDING_MAX
    }

    pub(super) fn is_live(self) -> bool {
        self.0 & LIVE != 0
    }

    fn same_tenancy(self, other: Self) -> bool {
        (self.0 ^ other.0) & TENANCY_MASK == 0
    }
}

/// What became of hits offered to a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::limit) enum Offer {
    /// Counted or reserved; the counts include the hits.
    Taken(Counts),
    /// They do not fit under the limit.
    Refused(Counts),
    /// They would fit but for reservations of decisions that are still under way.
    Contended,
    /// The row is gone; look the key up again.
    Gone,
}

/// The counts of a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::limit) struct Counts {
    /// Hits of this node.
    pub(in crate::limit) own: u64,
    /// Hits of its peers, as far as known; zero where they are not shared. In bounded mode less the rights that
    /// this node gave away, of which the peers need not have spent any.
    pub(in crate::limit) peers: i64,
    /// Own hits that peers were told of.
    pub(in crate::limit) published: u64,
    /// The most that `own` may come to in bounded mode.
    pub(in crate::limit) allowance: u64,
}

impl Counts {
    /// Rights left in bounded mode.
    pub(in crate::limit) fn rights(self) -> u64 {
        self.allowance.saturating_sub(self.own)
    }

    /// Hits of all.
    pub(in crate::limit) fn total(self) -> u64 {
        self.own.saturating_add_signed(self.peers)
    }
}

/// Whether offered hits are counted at once or only reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::limit) enum Taking {
    /// Counted: the decision looks at this row alone.
    Count,
    /// Reserved, to be counted or given back once the decision's other rows have answered.
    Reserve,
}

/// A slot. `peers`, `published` and `allowance` carry the tenancy in their top nine bits, so that a late store for a
/// former tenant misses the present one.
#[repr(C, align(64))]
pub(super) struct Slot {
    state: AtomicU64,
    fingerprint_low: AtomicU64,
    fingerprint_high: AtomicU64,
    peers: AtomicU64,
    published: AtomicU64,
    allowance: AtomicU64,
    group: AtomicU32,
    epoch: AtomicU32,
    /// One while the slot has a tenant or a thread that prepares it for one.
    taken: AtomicU32,
    /// The link of the list of changed rows; see `changed.rs`.
    pub(super) next_changed: AtomicU32,
}

const _: () = assert!(size_of::<Slot>() == 64, "one cache line a row");

// SAFETY: a struct of atomics: any bytes are valid, nothing is dropped.
#[expect(unsafe_code, reason = "zero is an empty slot")]
unsafe impl Zeroable for Slot {}

const TAG_SHIFT: u32 = 55;
const TAGGED_MAX: u64 = (1 << TAG_SHIFT) - 1;

/// What stands for zero in `peers`, which may be negative: halfway, so that words of one tenancy are ordered as
/// what they stand for.
const BIAS: i64 = 1 << (TAG_SHIFT - 1);

fn biased(sum: i64) -> u64 {
    sum.clamp(-BIAS, BIAS - 1).wrapping_add(BIAS).cast_unsigned()
}

fn unbiased(word: u64) -> i64 {
    (word & TAGGED_MAX).cast_signed() - BIAS
}

fn tagged(epoch: u32, count: u64) -> u64 {
    u64::from(epoch & EPOCH_MASK) << TAG_SHIFT | count.min(TAGGED_MAX)
}

impl Slot {
    pub(super) fn state(&self) -> State {
        // SeqCst for the list of changed rows: see `Changed::push`.
        State(self.state.load(SeqCst))
    }

    /// Whether the row of `fingerprint` is (or is about to be) the tenant.
    pub(super) fn matches(&self, fingerprint: u128) -> bool {
        self.fingerprint() == fingerprint
    }

    pub(super) fn fingerprint(&self) -> u128 {
        let low = self.fingerprint_low.load(Acquire);
        u128::from(self.fingerprint_high.load(Acquire)) << 64 | u128::from(low)
    }

    pub(super) fn group(&self) -> u32 {
        self.group.load(Acquire)
    }

    pub(super) fn epoch(&self) -> u32 {
        self.epoch.load(Acquire)
    }

    /// Whether the tenant known by `before` is still the tenant, and live: see rule 3 above.
    pub(super) fn still(&self, before: State) -> bool {
        before.is_live() && before.same_tenancy(self.state())
    }

    pub(super) fn counts(&self, state: State) -> Counts {
        Counts {
            own: state.own(),
            peers: unbiased(self.peers.load(Acquire)),
            published: self.published.load(Acquire) & TAGGED_MAX,
            allowance: self.allowance.load(Acquire) & TAGGED_MAX,
        }
    }

    /// Takes the slot if nobody has it.
    pub(super) fn take(&self) -> bool {
        self.taken.load(Relaxed) == 0 && self.taken.compare_exchange(0, 1, Acquire, Relaxed).is_ok()
    }

    /// Lets others have the slot that this thread took or whose tenancy it ended.
    pub(super) fn vacate(&self) {
        self.taken.store(0, Release);
    }

    /// Prepares a slot that this thread took for a new row. It stays dead.
    pub(super) fn furnish(&self, fingerprint: u128, group: u32) {
        self.epoch
            .store(self.epoch.load(Relaxed).wrapping_add(1), Release);
        #[expect(clippy::cast_possible_truncation, reason = "the two halves")]
        {
            self.fingerprint_low.store(fingerprint as u64, Release);
            self.fingerprint_high.store((fingerprint >> 64) as u64, Release);
        }
        self.group.store(group, Release);
    }

    /// Brings the furnished row to life with these counts.
    pub(super) fn publish(&self, first: Counts) {
        let epoch = self.epoch.load(Relaxed);
        self.peers.store(tagged(epoch, biased(first.peers)), Release);
        self.published.store(tagged(epoch, first.published), Release);
        self.allowance
            .store(tagged(epoch, first.allowance.min(OWN_MAX)), Release);
        self.state.store(State::new(first.own, epoch).0, SeqCst);
    }

    /// Ends the tenancy known by `state`; false when anything changed, or a decision holds a
    /// reservation.
    pub(super) fn seal(&self, state: State) -> bool {
        state.is_live()
            && state.pending() == 0
            && self
                .state
                .compare_exchange(state.0, state.0 & !LIVE, SeqCst, Relaxed)
                .is_ok()
    }

    /// The admission rule: `hits` are taken if own + pending + peers + hits ≤ `limit`, where peers are those
    /// of gossip mode alone; in bounded mode if own + pending + hits ≤ allowance. That own is more than `limit`
    /// then says that rights went to and fro: each grant adds to it.
    #[inline]
    pub(in crate::limit) fn offer(&self, ask: &Ask, taking: Taking) -> Offer {
        let mut state = self.state();
        if !state.is_live() || !self.matches(ask.fingerprint) {
            return Offer::Gone;
        }
        let hits = u64::from(ask.hits.get());
        loop {
            let mut counts = self.counts(state);
            let (used, most) = match ask.mode {
                SyncMode::Local => {
                    counts.peers = 0;
                    (counts.own, ask.limit)
                }
                SyncMode::Gossip => (counts.total(), ask.limit),
                SyncMode::Bounded => (counts.own, counts.allowance),
            };
            let after = used.saturating_add(hits);
            if after > most {
                return if self.still(state) {
                    Offer::Refused(counts)
                } else {
                    Offer::Gone
                };
            }
            if after + state.pending() > most || state.pending() + hits > PENDING_MAX {
                return Offer::Contended;
            }
            let shift = if taking == Taking::Count {
                OWN_SHIFT
            } else {
                PENDING_SHIFT
            };
            match self
                .state
                .compare_exchange_weak(state.0, state.0 + (hits << shift), SeqCst, Acquire)
            {
                Ok(_) => {
                    counts.own += hits;
                    return Offer::Taken(counts);
                }
                Err(now) if state.same_tenancy(State(now)) => state = State(now),
                Err(_) => return Offer::Gone,
            }
        }
    }

    /// Counts what was reserved by [`Taking::Reserve`]. The reservation kept the tenancy from ending.
    pub(super) fn commit(&self, hits: Hits) -> Counts {
        let hits = u64::from(hits.get());
        // One addition moves the hits from `pending` to `own`, so nobody ever sees them twice or not.
        let before = State(
            self.state
                .fetch_add((hits << OWN_SHIFT) - (hits << PENDING_SHIFT), SeqCst),
        );
        let mut counts = self.counts(before);
        counts.own += hits;
        counts
    }

    /// Gives back what was reserved.
    pub(super) fn release(&self, hits: Hits) {
        self.state
            .fetch_sub(u64::from(hits.get()) << PENDING_SHIFT, SeqCst);
    }

    /// Gives away up to `want` of the rights that are left to the tenant of `epoch`, and answers how much;
    /// `None` when it is gone. Consumed before anybody is told, as if admitted.
    pub(super) fn give(&self, epoch: u32, want: u64) -> Option<u64> {
        let mut state = self.state();
        if !state.is_live() || self.epoch() != epoch {
            return None;
        }
        loop {
            let consumed = state.own() + state.pending();
            let allowance = self.counts(state).allowance;
            let given = allowance.saturating_sub(consumed).min(want);
            if given == 0 {
                return self.still(state).then_some(0);
            }
            let next = state.0 + (given << OWN_SHIFT);
            match self.state.compare_exchange_weak(state.0, next, SeqCst, Acquire) {
                Ok(_) => return Some(given),
                Err(now) if state.same_tenancy(State(now)) => state = State(now),
                Err(_) => return None,
            }
        }
    }

    /// Raises the allowance of the tenant of `epoch`.
    pub(super) fn raise_allowance(&self, epoch: u32, to: u64) {
        raise(&self.allowance, epoch, to.min(OWN_MAX));
    }

    /// Replaces the peers' sum of the tenant of `epoch`, be it lower.
    pub(super) fn replace_peers(&self, epoch: u32, sum: i64) {
        let wanted = tagged(epoch, biased(sum));
        let replace = |word: u64| (word >> TAG_SHIFT == wanted >> TAG_SHIFT).then_some(wanted);
        // Refused only when the tenancy ended.
        let _ = self.peers.fetch_update(SeqCst, Acquire, replace);
    }

    /// Raises the peers' sum of the tenant known by `state` to `sum`.
    pub(super) fn raise_peers(&self, epoch: u32, sum: u64) {
        raise(&self.peers, epoch, biased(i64::try_from(sum).unwrap_or(i64::MAX)));
    }

    /// Raises what was published of the tenant.
    pub(super) fn raise_published(&self, epoch: u32, own: u64) {
        raise(&self.published, epoch, own);
    }
}

/// A maximum that applies only while the word belongs to the tenancy of `epoch`.
fn raise(word: &AtomicU64, epoch: u32, count: u64) {
    let wanted = tagged(epoch, count);
    let mut current = word.load(Acquire);
    while current >> TAG_SHIFT == wanted >> TAG_SHIFT && current < wanted {
        match word.compare_exchange_weak(current, wanted, SeqCst, Acquire) {
            Ok(_) => return,
            Err(now) => current = now,
        }
    }
}

/// What a decision asks of one row.
#[derive(Clone, Copy, Debug)]
pub(in crate::limit) struct Ask {
    /// The row: [`super::Group::fingerprint`] of the key.
    pub(in crate::limit) fingerprint: u128,
    /// Hits wanted.
    pub(in crate::limit) hits: Hits,
    /// The most the window admits.
    pub(in crate::limit) limit: u64,
    /// What the row may admit.
    pub(in crate::limit) mode: SyncMode,
}
