//! Rights: what rows of bounded rules may spend, give away and are short of.
//!
//! Owns where a row's rights come from and where they go; the rule that spends them stands in `slot.rs`. All
//! that raises an allowance passes [`Counters::raise_allowance`] or the making of a row.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};

use arc_swap::ArcSwap;
use crossbeam_queue::ArrayQueue;

use super::group::Group;
use super::{Counters, RowRef, RowView};
use crate::limit::mode::SyncMode;
use crate::limit::shares::{NoShares, Shares};
use crate::limit::time::UnixMillis;
use crate::limit::waiting::WaitingRoom;
use crate::limit::window::Window;

/// A row that holds too few rights for a request, while the limit is not known to be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Short {
    /// The row.
    pub row: RowRef,
    /// All that the request wants of the row, what this replica could give it included.
    pub hits: u64,
}

/// Most rows that wait to be taken by replication. A request asks for a row or two and then waits some
/// milliseconds, so this is a thousand waiting requests and more.
const WANTED_MAX: usize = 4096;
/// Most rows that are remembered for having been made before their share was known: those of the requests that
/// arrive while the roster decides, which takes it a millisecond as a rule.
const UNDECIDED_MAX: usize = 4096;

/// What a row begins with.
#[derive(Clone, Copy)]
struct FirstShare {
    hits: u64,
    /// Nothing is to come but what peers grant.
    is_decided: bool,
}

/// What rows with rights have in common.
pub(super) struct Rights {
    shares: ArcSwap<Box<dyn Shares>>,
    /// Counts the times that shares may have risen.
    round: AtomicU64,
    /// Rows of windows that ended by this instant are given no rights: see the head of `insert.rs`.
    ended: AtomicU64,
    wanted: ArrayQueue<Short>,
    /// Rows that were made before this replica had a share of their window.
    undecided: ArrayQueue<RowRef>,
    /// Windows that start later than this have all such rows in that list.
    all_listed_after: AtomicU64,
    waiting: Arc<WaitingRoom>,
}

impl Default for Rights {
    fn default() -> Self {
        Self {
            shares: ArcSwap::from_pointee(Box::new(NoShares)),
            round: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            wanted: ArrayQueue::new(WANTED_MAX),
            undecided: ArrayQueue::new(UNDECIDED_MAX),
            all_listed_after: AtomicU64::new(0),
            waiting: Arc::default(),
        }
    }
}

/// The side that replication and the roster use.
impl Counters {
    /// Says from now on what shares rows begin with: none, until this is called. Rows that exist are told
    /// by [`Counters::reassess`].
    pub fn set_shares(&self, shares: Box<dyn Shares>) {
        self.rights.shares.store(shares.into());
    }

    /// Raises the rows that were made before this replica had a share of the windows that start at `start`, to
    /// what `allowance` says of each, and wakes who waits for them. Called after [`Shares`] began to answer for
    /// these windows. No row is missed: one that is being made asks [`Shares`] once more.
    pub fn reassess(&self, start: UnixMillis, mut allowance: impl FnMut(RowRef, &RowView) -> u64) {
        // A row that this misses was listed after the round was raised, and its maker asks again.
        self.rights.round.fetch_add(1, SeqCst);
        let mut raise = |row: RowRef, view: &RowView| {
            if view.bounded && view.key.window.start == start {
                self.raise_and_wake(row, view.allowance, allowance(row, view));
            }
        };
        // Others that are listed meanwhile come behind these.
        for _ in 0..self.rights.undecided.len() {
            let Some(row) = self.rights.undecided.pop() else {
                break;
            };
            let Some(view) = self.view(row) else { continue };
            raise(row, &view);
            // Those of a window that began before, and was not decided, may be so for its whole length: they are
            // looked for if it is, and take no room from others until then.
            if view.key.window.start > start {
                self.note_undecided(row, view.key.window.start);
            } else if view.key.window.start < start {
                self.note_unlisted(view.key.window.start);
            }
        }
        if start.0 <= self.rights.all_listed_after.load(SeqCst) {
            self.for_each_live(|row, view| raise(row, &view));
        }
    }

    /// Raises every bounded row to what `allowance` says of it, and wakes who waits for it. Called after [`Shares`]
    /// began to answer more for windows of which rows exist that it had answered for: after an inheritance. No
    /// row is missed, as with [`Counters::reassess`].
    pub fn reassess_all(&self, mut allowance: impl FnMut(RowRef, &RowView) -> u64) {
        self.rights.round.fetch_add(1, SeqCst);
        self.for_each_live(|row, view| {
            if view.bounded {
                self.raise_and_wake(row, view.allowance, allowance(row, &view));
            }
        });
    }

    /// As [`Counters::raise_allowance`], from `before`, and wakes who waits for what was gained.
    pub fn raise_and_wake(&self, row: RowRef, before: u64, to: u64) {
        let gained = to.saturating_sub(before);
        if gained > 0 {
            self.raise_allowance(row, to);
            self.rights.waiting.rights_came(row, gained);
        }
    }

    /// Where requests wait for rights of rows.
    #[must_use]
    pub fn waiting(&self) -> &Arc<WaitingRoom> {
        &self.rights.waiting
    }

    /// Raises what `row` may consume to `to`: its share and all grants it received. Never lowers it, and does
    /// nothing to a row of a window that is over.
    pub fn raise_allowance(&self, row: RowRef, to: u64) {
        let Some((slot, state)) = self.tenant(row) else {
            return;
        };
        let group = self.groups.at(slot.group());
        if let Some(group) = group.as_ref()
            && slot.still(state)
        {
            group.mark_bounded();
            if self.may_have_rights(group.window) {
                slot.raise_allowance(row.epoch, to);
            }
        }
    }

    /// Gives away up to `want` of the rights left to `row`, and answers how many: `None` once it is gone. They
    /// are consumed here and now, and the row is handed out by [`Counters::take_changed`]; the grant may be
    /// sent at any later time, or be lost, and the limit still holds.
    pub fn take_rights(&self, row: RowRef, want: u64) -> Option<u64> {
        let (slot, _) = self.tenant(row)?;
        let given = slot.give(row.epoch, want)?;
        if given > 0 {
            self.mark_changed(row.slot);
        }
        Some(given)
    }

    /// Stores what a bounded row shows as its peers' hits: what they are known to have spent, less the rights
    /// that this replica gave away, at least 0. Unlike [`Counters::store_peers`] it may lower it, since rights
    /// that were given away are not spent yet.
    pub fn replace_peers(&self, row: RowRef, sum: u64) {
        self.replace_peers_less(row, sum, 0);
    }

    /// [`Counters::replace_peers`] with the two apart: what the peers are known to have `spent`, and what this
    /// replica has `given` away. More may have been given than was spent; the difference is what
    /// [`RowView::outstanding`] shows, and decisions know that it is not used up.
    pub fn replace_peers_less(&self, row: RowRef, spent: u64, given: u64) {
        let most = |hits: u64| i64::try_from(hits).unwrap_or(i64::MAX);
        if let Some((slot, _)) = self.tenant(row) {
            slot.replace_peers(row.epoch, most(spent) - most(given));
        }
    }

    /// The next row that a request found [`Short`]; several requests may have.
    pub fn take_wanted(&self) -> Option<Short> {
        // Each is looked at once, so rows that are gone hold up nobody for long.
        std::iter::from_fn(|| self.rights.wanted.pop()).find(|short| self.tenant(short.row).is_some())
    }
}

/// The side that decisions use.
impl Counters {
    /// Puts `short` in the list of wanted rows; false when that is full.
    pub(in crate::limit) fn want(&self, short: Short) -> bool {
        self.rights.wanted.push(short).is_ok()
    }

    pub(in crate::limit) fn note_overflow(&self) {
        self.overflowed.fetch_add(1, Relaxed);
    }

    /// Whether this replica has a share of windows that start at `start`.
    pub(in crate::limit) fn is_decided(&self, start: UnixMillis) -> bool {
        self.rights.shares.load().is_decided(start)
    }

    /// Brings the furnished row in `slot` to life with the counts and rights it begins with, and `confirm`s it.
    pub(super) fn bring_to_life(&self, group: &Group, fingerprint: u128, slot: u32, confirm: impl Fn()) {
        let row = RowRef {
            slot,
            epoch: self.slots[slot as usize].epoch(),
        };
        let round = self.rights.round.load(SeqCst);
        let mut first = group.floor();
        let share = self.first_share(group, fingerprint);
        first.allowance = share.map_or(0, |share| share.hits);
        self.slots[slot as usize].publish(first);
        confirm();
        let Some(share) = share else { return };
        if !share.is_decided {
            self.note_undecided(row, group.window.start);
        }
        // `reassess` raises the round and then reads the rows, by list or all of them; this made and listed the
        // row and reads the round. One of the two sees the other.
        if self.rights.round.load(SeqCst) != round {
            let again = self.first_share(group, fingerprint).map_or(0, |share| share.hits);
            self.raise_and_wake(row, first.allowance, again);
        }
    }

    /// The share of a row that no entry of the index stands for; `None` when its window is not bounded.
    fn first_share(&self, group: &Group, fingerprint: u128) -> Option<FirstShare> {
        let policy = self.policy_of(group)?;
        if policy.mode != SyncMode::Bounded {
            return None;
        }
        group.mark_bounded();
        if !self.may_have_rights(group.window) {
            return Some(FirstShare {
                hits: 0,
                is_decided: true,
            });
        }
        let shares = self.rights.shares.load();
        // In this order: a share that is decided in between is missing in nothing but the list.
        let is_decided = shares.is_decided(group.window.start);
        let hits = shares.share(policy.limit, group.key_of(fingerprint), group.window);
        Some(FirstShare { hits, is_decided })
    }

    fn note_undecided(&self, row: RowRef, start: UnixMillis) {
        if self.rights.undecided.push(row).is_err() {
            self.note_unlisted(start);
        }
    }

    fn note_unlisted(&self, start: UnixMillis) {
        self.rights.all_listed_after.fetch_max(start.0, SeqCst);
    }

    /// Notes that rows of `window` may be gone that had rights.
    pub(super) fn end_rights(&self, window: Window) {
        self.rights.ended.fetch_max(window.end.0, SeqCst);
    }

    fn may_have_rights(&self, window: Window) -> bool {
        window.end.0 > self.rights.ended.load(SeqCst)
    }
}
