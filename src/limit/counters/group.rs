//! Groups: what the rows of one (rule, window) have in common, and the bounded registry of them.

use std::collections::HashMap;
use std::sync::atomic::Ordering::{AcqRel, Acquire, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use std::sync::{Arc, OnceLock};

use arc_swap::{ArcSwap, ArcSwapOption, Guard};
use crossbeam_queue::SegQueue;

use super::slot::Counts;
use crate::limit::key::{KeyHash, RuleId};
use crate::limit::time::UnixMillis;
use crate::limit::window::Window;

/// One (rule, window).
#[derive(Debug)]
pub(in crate::limit) struct Group {
    pub(in crate::limit) rule: RuleId,
    pub(in crate::limit) window: Window,
    index: u32,
    salt: u128,
    /// Rows that are live or being made, or [`CLOSED`].
    rows: AtomicU32,
    floor_own: AtomicU64,
    floor_total: AtomicU64,
    bounded: AtomicBool,
}

const CLOSED: u32 = u32::MAX;

impl Group {
    fn new(rule: RuleId, window: Window, index: u32) -> Self {
        Self {
            rule,
            window,
            index,
            salt: rule.salt(window),
            rows: AtomicU32::new(0),
            floor_own: AtomicU64::new(0),
            floor_total: AtomicU64::new(0),
            bounded: AtomicBool::new(false),
        }
    }

    /// What stands for `key` of this group in the table. Equal for equal rows only: the salts are
    /// 128-bit hashes of (rule, window), and the keys are keyed hashes.
    #[inline]
    pub(in crate::limit) fn fingerprint(&self, key: KeyHash) -> u128 {
        key.0 ^ self.salt
    }

    /// What [`Group::fingerprint`] mixes into each key.
    pub(in crate::limit) fn salt(&self) -> u128 {
        self.salt
    }

    pub(super) fn key_of(&self, fingerprint: u128) -> KeyHash {
        KeyHash(fingerprint ^ self.salt)
    }

    pub(super) fn index(&self) -> u32 {
        self.index
    }

    /// The counts a new row starts with. No evicted row of this group stood higher, so one that
    /// reappears starts no lower than what it had published (Space-Saving, Metwally et al. 2005).
    pub(in crate::limit) fn floor(&self) -> Counts {
        let own = self.floor_own.load(SeqCst);
        let total = self.floor_total.load(SeqCst);
        Counts {
            own,
            peers: i64::try_from(total.saturating_sub(own)).unwrap_or(i64::MAX),
            published: 0,
            allowance: 0,
        }
    }

    pub(super) fn raise_floor(&self, evicted: Counts) {
        self.floor_own.fetch_max(evicted.own, SeqCst);
        self.floor_total.fetch_max(evicted.total(), SeqCst);
    }

    /// Keeps the rows until the window ends, since some may have rights. Called before any has them.
    pub(super) fn mark_bounded(&self) {
        if !self.is_bounded() {
            self.bounded.store(true, SeqCst);
        }
    }

    pub(super) fn is_bounded(&self) -> bool {
        self.bounded.load(SeqCst)
    }

    /// Announces a row to come; false when the group is closed.
    pub(super) fn admit_row(&self) -> bool {
        self.rows
            .fetch_update(AcqRel, Acquire, |rows| (rows < CLOSED - 1).then(|| rows + 1))
            .is_ok()
    }

    /// Takes back one announced or live row.
    pub(super) fn drop_row(&self) {
        self.rows.fetch_sub(1, AcqRel);
    }

    /// Closes a group without rows for ever, so that its index can serve another.
    fn close(&self) -> bool {
        self.rows.compare_exchange(0, CLOSED, AcqRel, Acquire).is_ok()
    }

    pub(in crate::limit) fn is_closed(&self) -> bool {
        self.rows.load(Acquire) == CLOSED
    }
}

/// For whom a row or a group is made. What peers name may not crowd out what this node decides by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::limit) enum Claim {
    /// For a decision of this node.
    Request,
    /// For a row that a peer told of.
    Peer,
}

type Chunk = Box<[ArcSwapOption<Group>]>;
type Shard = HashMap<(RuleId, Window), Arc<Group>>;

/// All groups, by (rule, window) and by index. Reading takes no lock; a change swaps in a new copy of
/// one shard.
pub(super) struct Groups {
    shards: Box<[ArcSwap<Shard>]>,
    /// In chunks made on first use.
    by_index: Box<[OnceLock<Chunk>]>,
    free: SegQueue<u32>,
    touched: AtomicU32,
    used: AtomicU32,
}

/// Most groups at once. A thousand rules of four windows each need 8,000 at the turn of a window.
pub(super) const GROUPS_MAX: u32 = 1 << 15;
/// A change copies one shard, so shards keep changes cheap where there are many rules.
const SHARDS: usize = 64;
const CHUNK: u32 = 256;

impl Groups {
    pub(super) fn new() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| ArcSwap::default()).collect(),
            by_index: (0..GROUPS_MAX / CHUNK).map(|_| OnceLock::new()).collect(),
            free: SegQueue::new(),
            touched: AtomicU32::new(0),
            used: AtomicU32::new(0),
        }
    }

    pub(super) fn len(&self) -> u32 {
        self.used.load(Acquire)
    }

    /// The group with this index. A caller that found the index in a live row, and finds that row live
    /// after this call, holds that row's group: while it has a row, a group is not closed.
    pub(super) fn at(&self, index: u32) -> Guard<Option<Arc<Group>>> {
        let chunk = self
            .by_index
            .get((index / CHUNK) as usize)
            .and_then(OnceLock::get);
        chunk.map_or_else(
            || Guard::from_inner(None),
            |chunk| chunk[(index % CHUNK) as usize].load(),
        )
    }

    pub(super) fn find(&self, rule: RuleId, window: Window) -> Option<Arc<Group>> {
        let shard = self.shard(rule).load();
        shard
            .get(&(rule, window))
            .filter(|group| !group.is_closed())
            .cloned()
    }

    /// The group of (rule, window), made if need be. Groups of the same shard that ended before `now`
    /// and have no rows left make room. `None` when there is none.
    pub(super) fn find_or_insert(
        &self,
        rule: RuleId,
        window: Window,
        claim: Claim,
        now: UnixMillis,
    ) -> Option<Arc<Group>> {
        if let Some(group) = self.find(rule, window) {
            return Some(group);
        }
        self.purge(rule, now);
        let group = Arc::new(Group::new(rule, window, self.take_index(claim)?));
        self.store_at(group.index, Some(Arc::clone(&group)));
        let inserted = self.edit(rule, |shard| match shard.get(&(rule, window)) {
            Some(other) if !other.is_closed() => Err(Arc::clone(other)),
            _ => {
                let mut shard = shard.clone();
                let replaced = shard.insert((rule, window), Arc::clone(&group));
                Ok((shard, replaced.into_iter().collect()))
            }
        });
        match inserted {
            Ok(()) => Some(group),
            Err(other) => {
                self.give_index(group.index);
                Some(other)
            }
        }
    }

    /// Closes and removes all groups that ended before `now` and have no rows left.
    pub(super) fn purge_all(&self, now: UnixMillis) {
        for shard in &self.shards {
            self.purge_shard(shard, now);
        }
    }

    fn purge(&self, rule: RuleId, now: UnixMillis) {
        self.purge_shard(self.shard(rule), now);
    }

    fn purge_shard(&self, shard: &ArcSwap<Shard>, now: UnixMillis) {
        let over = |group: &Group| group.is_closed() || (group.window.end <= now && group.close());
        if !shard.load().values().any(|group| over(group)) {
            return;
        }
        let _ = self.edit_shard(shard, |current| {
            let (gone, kept): (Shard, Shard) = current
                .iter()
                .map(|(key, group)| (*key, Arc::clone(group)))
                .partition(|(_, group)| over(group));
            Ok((kept, gone.into_values().collect::<Vec<_>>()))
        });
    }

    fn edit<F>(&self, rule: RuleId, change: F) -> Result<(), Arc<Group>>
    where
        F: Fn(&Shard) -> Result<(Shard, Vec<Arc<Group>>), Arc<Group>>,
    {
        self.edit_shard(self.shard(rule), change)
    }

    /// Swaps in a changed copy of a shard, again until nobody else changed it meanwhile. The indices of
    /// the (closed) groups that the change leaves out are free afterwards, given back once: by the
    /// thread whose swap removed them.
    fn edit_shard<F>(&self, shard: &ArcSwap<Shard>, change: F) -> Result<(), Arc<Group>>
    where
        F: Fn(&Shard) -> Result<(Shard, Vec<Arc<Group>>), Arc<Group>>,
    {
        loop {
            let current = shard.load();
            let (changed, gone) = change(&current)?;
            let previous = shard.compare_and_swap(&*current, Arc::new(changed));
            if Arc::ptr_eq(&previous, &current) {
                gone.iter().for_each(|group| self.give_index(group.index));
                return Ok(());
            }
        }
    }

    fn shard(&self, rule: RuleId) -> &ArcSwap<Shard> {
        &self.shards[usize::try_from(rule.0 % SHARDS as u64).expect("below the number of shards")]
    }

    fn take_index(&self, claim: Claim) -> Option<u32> {
        let most = if claim == Claim::Peer {
            GROUPS_MAX / 2
        } else {
            GROUPS_MAX
        };
        let one_more = |used: u32| (used < most).then(|| used + 1);
        self.used.fetch_update(AcqRel, Acquire, one_more).ok()?;
        // `used` counts who holds or is about to hold an index, so one is left; it may still be on its
        // way back to the queue.
        loop {
            let fresh = |touched: u32| (touched < GROUPS_MAX).then(|| touched + 1);
            let index = self
                .free
                .pop()
                .or_else(|| self.touched.fetch_update(AcqRel, Acquire, fresh).ok());
            if index.is_some() {
                return index;
            }
            std::hint::spin_loop();
        }
    }

    fn store_at(&self, index: u32, group: Option<Arc<Group>>) {
        let chunk = self.by_index[(index / CHUNK) as usize]
            .get_or_init(|| (0..CHUNK).map(|_| ArcSwapOption::empty()).collect());
        chunk[(index % CHUNK) as usize].store(group);
    }

    fn give_index(&self, index: u32) {
        self.store_at(index, None);
        self.free.push(index);
        self.used.fetch_sub(1, AcqRel);
    }
}
