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

/// What rows with rights have in common.
pub(super) struct Rights {
    shares: ArcSwap<Box<dyn Shares>>,
    /// Counts the times that shares may have risen.
    round: AtomicU64,
    /// Rows of windows that ended by this instant are given no rights: see the head of `insert.rs`.
    ended: AtomicU64,
    wanted: ArrayQueue<Short>,
    waiting: Arc<WaitingRoom>,
}

impl Default for Rights {
    fn default() -> Self {
        Self {
            shares: ArcSwap::from_pointee(Box::new(NoShares)),
            round: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            wanted: ArrayQueue::new(WANTED_MAX),
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

    /// Raises every bounded row whose window starts at `start` to what `allowance` says of it, and wakes who
    /// waits for it. Called after [`Shares`] began to answer more for these windows; no row is missed, those
    /// being made included.
    pub fn reassess(&self, start: UnixMillis, mut allowance: impl FnMut(RowRef, &RowView) -> u64) {
        // A row that this walk misses came to life after the round was raised, and its maker asks again.
        self.rights.round.fetch_add(1, SeqCst);
        self.for_each_live(|row, view| {
            if view.bounded && view.key.window.start == start {
                let to = allowance(row, &view);
                if to > view.allowance {
                    self.raise_allowance(row, to);
                    self.rights.waiting.rights_came(row, to - view.allowance);
                }
            }
        });
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
        if let Some((slot, _)) = self.tenant(row) {
            slot.replace_peers(row.epoch, sum);
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

    /// Brings the furnished row in `slot` to life with the counts and rights it begins with, and `confirm`s it.
    pub(super) fn bring_to_life(&self, group: &Group, fingerprint: u128, slot: u32, confirm: impl Fn()) {
        let row = RowRef {
            slot,
            epoch: self.slots[slot as usize].epoch(),
        };
        let round = self.rights.round.load(SeqCst);
        let mut first = group.floor();
        let share = self.first_share(group, fingerprint);
        first.allowance = share.unwrap_or(0);
        self.slots[slot as usize].publish(first);
        confirm();
        // `reassess` raises the round and then reads the rows; this made the row and reads the round. One
        // of the two sees the other.
        if share.is_some() && self.rights.round.load(SeqCst) != round {
            self.raise_allowance(row, self.first_share(group, fingerprint).unwrap_or(0));
        }
    }

    /// The share of a row that no entry of the index stands for; `None` when its rule is not bounded.
    fn first_share(&self, group: &Group, fingerprint: u128) -> Option<u64> {
        let policy = self.policies.load().get(&group.rule).copied()?;
        if policy.mode != SyncMode::Bounded {
            return None;
        }
        group.mark_bounded();
        if !self.may_have_rights(group.window) {
            return Some(0);
        }
        let shares = self.rights.shares.load();
        let share = shares.share(policy.limit, group.key_of(fingerprint), group.window);
        Some(share.min(policy.limit))
    }

    /// Notes that rows of `window` may be gone that had rights.
    pub(super) fn end_rights(&self, window: Window) {
        self.rights.ended.fetch_max(window.end.0, SeqCst);
    }

    fn may_have_rights(&self, window: Window) -> bool {
        window.end.0 > self.rights.ended.load(SeqCst)
    }
}
