//! The counters: one fixed-size, lock-free table of rows that request threads and the gossip thread share.
//!
//! (Stub of the interface; the limit helper fills it in.)

use super::key::RowKey;
use super::limiter::Limiter;

/// Names a row for as long as it lives: a slot of the table and the epoch of its present tenant. Once
/// the row is evicted or forgotten, every use of the reference answers `None`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RowRef {
    /// Index of the slot; below [`Counters::capacity`].
    pub slot: u32,
    /// Counts the tenants of the slot.
    pub epoch: u32,
}

/// A snapshot of one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowView {
    /// Which counter this is.
    pub key: RowKey,
    /// Hits admitted by this node: monotone while the row lives.
    pub own: u64,
    /// Cached sum of the peers' rows, as last stored by replication.
    pub peers: u64,
    /// Own hits already released to peers, as last stored by replication.
    pub published: u64,
    /// The limit in force and whether the rule is in gossip mode; `None` when this node has no such rule.
    pub limit: Option<u64>,
    /// Whether the row is to be replicated now: its rule is in gossip mode (or audited), or unknown here.
    pub replicated: bool,
}

/// The table is at its bound and nothing in reach may be evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the counter table is full")]
pub struct TableFull;

/// The table of rows.
pub struct Counters {
    _limiter: std::marker::PhantomData<Limiter>,
}

/// The side of the table that replication uses. Called from one thread at a time; none of these block a
/// request thread.
impl Counters {
    /// Most rows the table holds.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        todo!("limit helper")
    }

    /// The next row whose own count changed since it was last taken; each changed row is handed out once.
    pub fn take_changed(&self) -> Option<RowRef> {
        todo!("limit helper")
    }

    /// Hands out every live row once more through [`Counters::take_changed`]: after the mode changed.
    pub fn mark_all_changed(&self) {
        todo!("limit helper")
    }

    /// A snapshot of `row`, or `None` once it is gone.
    #[must_use]
    pub fn view(&self, _row: RowRef) -> Option<RowView> {
        todo!("limit helper")
    }

    /// The live row of `key`.
    #[must_use]
    pub fn find(&self, _key: &RowKey) -> Option<RowRef> {
        todo!("limit helper")
    }

    /// The live row of `key`, made if need be. A row that peers know of may evict none that this node
    /// has admitted hits for: it is refused instead.
    ///
    /// # Errors
    /// [`TableFull`] when there is no room; nothing changed.
    pub fn find_or_insert(&self, _key: &RowKey) -> Result<RowRef, TableFull> {
        todo!("limit helper")
    }

    /// Stores the sum of the peers' rows, which decisions add to the own count. Never lowers it.
    pub fn store_peers(&self, _row: RowRef, _sum: u64) {
        todo!("limit helper")
    }

    /// Records that peers have been told of `own` hits.
    pub fn store_published(&self, _row: RowRef, _own: u64) {
        todo!("limit helper")
    }

    /// Frees the row: its window has ended, with grace.
    pub fn forget(&self, _row: RowRef) {
        todo!("limit helper")
    }
}
