//! Requests that wait for rights: who they are, in the order they came, and how they are woken.
//!
//! Owns no rights: whoever is woken decides again, and may be too late. Promises that rights which came while
//! somebody waited are tried by somebody until one finds too few of them, and that the room is bounded.
//!
//! The order that loses nothing is: enter the room, decide once more, and only then wait. Rights that come
//! after the decision find the request in the room.

#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::ops::Deref;
use std::pin::Pin;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use smallvec::SmallVec;

use super::counters::{RowRef, Short};

/// Most that wait for one row: a hot key does not fill the room, and whoever comes later than so many would
/// hardly be served within the time that requests wait.
const ROW_MAX: usize = 256;
/// Most that wait in all: of the order of the requests that a node has in flight, at some 200 bytes each.
const ROOM_MAX: usize = 4096;
/// Few threads meet in one shard, and there is no more than a cache line's worth of rows to one.
const SHARDS: usize = 64;

/// Where requests wait for rights that peers may grant.
#[derive(Debug)]
pub struct WaitingRoom {
    shards: Box<[Mutex<Shard>]>,
    inside: AtomicUsize,
    arrivals: AtomicU64,
    turned_away: AtomicU64,
}

/// Those who wait for each row, in the order they came.
type Shard = HashMap<RowRef, VecDeque<Waiter>>;

#[derive(Debug)]
struct Waiter {
    arrival: u64,
    hits: u64,
    call: Arc<Call>,
}

/// How one waiting request is reached.
#[derive(Debug, Default)]
struct Call(Mutex<CallState>);

#[derive(Debug, Default)]
struct CallState {
    woken: Option<Woken>,
    waker: Option<Waker>,
}

type Wakers = SmallVec<[Waker; 8]>;

/// Why a waiting request was woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// Rights have come: decide again. Others may have been quicker; then wait on.
    Retry,
    /// Nobody has any rights left: deny.
    Exhausted,
}

/// What happens in the room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WaitingStats {
    /// Requests that wait now.
    pub waiting: usize,
    /// Requests that found the room full since the start.
    pub turned_away: u64,
}

/// A place in the room, to be awaited as often as it says [`Woken::Retry`]. Dropping it leaves the room.
#[derive(Debug)]
#[must_use = "dropping it leaves the room"]
pub struct Waiting<'r> {
    room: Room<'r>,
    rows: SmallVec<[RowRef; 2]>,
    arrival: u64,
    /// The most it wants of one row.
    hits: u64,
    call: Arc<Call>,
    /// It was told to decide again, and what came of it is not known yet.
    is_retrying: bool,
}

/// The room that a place is in, for as long as it is borrowed or for good.
#[derive(Debug)]
enum Room<'r> {
    Borrowed(&'r WaitingRoom),
    Shared(Arc<WaitingRoom>),
}

impl Deref for Room<'_> {
    type Target = WaitingRoom;

    fn deref(&self) -> &WaitingRoom {
        match self {
            Self::Borrowed(room) => room,
            Self::Shared(room) => room,
        }
    }
}

impl Default for WaitingRoom {
    fn default() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            inside: AtomicUsize::new(0),
            arrivals: AtomicU64::new(0),
            turned_away: AtomicU64::new(0),
        }
    }
}

/// The side that requests use.
impl WaitingRoom {
    /// Enters a request that lacks rights of these rows. From now on it is woken when they come, so it has to
    /// decide once more before it waits. `None` when too many wait already.
    pub fn enter(&self, short: &[Short]) -> Option<Waiting<'_>> {
        self.place(short, Room::Borrowed(self))
    }

    /// As [`WaitingRoom::enter`], for a place that outlives the borrow.
    pub fn enter_shared(self: &Arc<Self>, short: &[Short]) -> Option<Waiting<'static>> {
        self.place(short, Room::Shared(Arc::clone(self)))
    }

    fn place<'r>(&self, short: &[Short], room: Room<'r>) -> Option<Waiting<'r>> {
        let one_more = |inside| (inside < ROOM_MAX).then_some(inside + 1);
        if self.inside.fetch_update(Relaxed, Relaxed, one_more).is_err() {
            self.turned_away.fetch_add(1, Relaxed);
            return None;
        }
        let mut waiting = Waiting {
            room,
            rows: SmallVec::new(),
            arrival: self.arrivals.fetch_add(1, Relaxed),
            hits: short.iter().map(|short| short.hits).max().unwrap_or(0),
            call: Arc::default(),
            is_retrying: false,
        };
        for short in short {
            let mut shard = self.shard(short.row);
            let waiters = shard.entry(short.row).or_default();
            if waiters.len() >= ROW_MAX {
                drop(shard);
                self.turned_away.fetch_add(1, Relaxed);
                // Dropped here, it leaves the rows that it has entered.
                return None;
            }
            waiters.push_back(Waiter {
                arrival: waiting.arrival,
                hits: short.hits,
                call: Arc::clone(&waiting.call),
            });
            waiting.rows.push(short.row);
        }
        Some(waiting)
    }

    /// Totals for metrics.
    #[must_use]
    pub fn stats(&self) -> WaitingStats {
        WaitingStats {
            waiting: self.inside.load(Relaxed),
            turned_away: self.turned_away.load(Relaxed),
        }
    }
}

/// The side that replication uses.
impl WaitingRoom {
    /// Hits of the largest request that waits for `row`; 0 when none does.
    #[must_use]
    pub fn largest(&self, row: RowRef) -> u64 {
        let shard = self.shard(row);
        let waiters = shard.get(&row).into_iter().flatten();
        waiters.map(|waiter| waiter.hits).max().unwrap_or(0)
    }

    /// `gained` more hits may be spent in `row`: wakes as many of those who wait for it as that may serve, and
    /// at least one, first come first.
    pub fn rights_came(&self, row: RowRef, gained: u64) {
        let mut wakers = Wakers::new();
        let mut left = gained.max(1);
        for waiter in self.shard(row).get(&row).into_iter().flatten() {
            if left == 0 {
                break;
            }
            if waiter.call.retry(&mut wakers) {
                left = left.saturating_sub(waiter.hits);
            }
        }
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Nobody has rights of `row` left: whoever waits for it is to be denied now.
    pub fn exhausted(&self, row: RowRef) {
        let Some(waiters) = self.shard(row).remove(&row) else {
            return;
        };
        for waiter in waiters {
            let mut call = waiter.call.lock();
            call.woken = Some(Woken::Exhausted);
            let waker = call.waker.take();
            drop(call);
            waker.into_iter().for_each(Waker::wake);
        }
    }

    fn shard(&self, row: RowRef) -> MutexGuard<'_, Shard> {
        let shard = &self.shards[row.slot as usize % SHARDS];
        // Nothing in here panics while a shard is half changed.
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the first that waits for `row` and is `suited` decide again. If it was told to already, it passes on
    /// when it has: those who come later do not overtake it.
    fn pass_on(&self, row: RowRef, suited: impl Fn(&Waiter) -> bool) {
        let mut wakers = Wakers::new();
        let shard = self.shard(row);
        let waiters = shard.get(&row).into_iter().flatten();
        if let Some(first) = waiters.into_iter().find(|waiter| suited(waiter)) {
            first.call.retry(&mut wakers);
        }
        drop(shard);
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl Call {
    fn lock(&self) -> MutexGuard<'_, CallState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells it to decide again; false when it has been told something and has not heard yet.
    fn retry(&self, wakers: &mut Wakers) -> bool {
        let mut call = self.lock();
        let is_new = call.woken.is_none();
        if is_new {
            call.woken = Some(Woken::Retry);
            wakers.extend(call.waker.take());
        }
        is_new
    }
}

impl Waiting<'_> {
    /// Whether it waits for these rows and no others.
    #[must_use]
    pub fn is_for(&self, short: &[Short]) -> bool {
        self.rows.iter().eq(short.iter().map(|short| &short.row))
    }

    /// It decided again and found too few rights. They may do for those who came later and want less, or whose
    /// rows are not the one that this request still lacks.
    fn wait_on(&mut self) {
        self.is_retrying = false;
        let waits_for_several = self.rows.len() > 1;
        for row in &self.rows {
            self.room.pass_on(*row, |waiter| {
                waiter.arrival > self.arrival && (waits_for_several || waiter.hits < self.hits)
            });
        }
    }
}

impl Future for Waiting<'_> {
    type Output = Woken;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Woken> {
        if self.is_retrying {
            self.wait_on();
        }
        let mut call = self.call.lock();
        let Some(woken) = call.woken else {
            call.waker = Some(context.waker().clone());
            return Poll::Pending;
        };
        if woken == Woken::Retry {
            call.woken = None;
            drop(call);
            self.is_retrying = true;
        }
        Poll::Ready(woken)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        for row in &self.rows {
            let mut shard = self.room.shard(*row);
            if let Some(waiters) = shard.get_mut(row) {
                waiters.retain(|waiter| waiter.arrival != self.arrival);
                if waiters.is_empty() {
                    shard.remove(row);
                }
            }
        }
        self.room.inside.fetch_sub(1, Relaxed);
        // What it was woken for and did not take, or not all of it, is for the next. Where nothing is left, that
        // costs one decision in vain for each that was served.
        let woken = self.call.lock().woken;
        if self.is_retrying || woken == Some(Woken::Retry) {
            for row in &self.rows {
                self.room.pass_on(*row, |_| true);
            }
        }
    }
}
