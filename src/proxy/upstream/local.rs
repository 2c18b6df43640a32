//! One upstream as one worker sees it: which endpoint is next, and a connection to it.

#![expect(
    clippy::disallowed_methods,
    reason = "a shell: endpoints stand by a real clock, and two of them are drawn by chance"
)]

use std::cell::RefCell;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use http::{HeaderMap, header};
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng};
use smallvec::SmallVec;

use super::super::worker::Ticks;
use super::balance::{RoundRobin, lesser_load};
use super::endpoint::Endpoint;
use super::failure::UpstreamError;
use super::pool::{Pool, Reserved};
use super::queue::Queue;
use super::ring::hash_of;
use super::snapshot::Snapshot;
use super::state::{Slot, UpstreamState};
use crate::config::{Balance, HashBy};

/// The endpoints that a request has been tried at.
pub(super) type Tried = SmallVec<[Rc<Pool>; 4]>;

/// One upstream as one worker sees it.
pub(in crate::proxy) struct Upstream {
    pub(super) state: Arc<UpstreamState>,
    worker: usize,
    workers: usize,
    ticks: Rc<Ticks>,
    queue: Rc<Queue>,
    view: RefCell<View>,
    rng: RefCell<SmallRng>,
}

/// The endpoints as of one generation.
struct View {
    generation: u64,
    snapshot: Arc<Snapshot>,
    /// In the order of the endpoints.
    pools: Vec<Rc<Pool>>,
    /// What they weigh; zero is not used.
    weights: Vec<u32>,
    /// The indices of those that are used.
    usable: Vec<usize>,
    turns: RoundRobin,
    /// When to look again even if the generation stays.
    until: Option<Instant>,
}

/// What is asked of the choice of an endpoint.
pub(super) struct Wish<'t> {
    /// The hash of what the request is sorted by, if it has that.
    pub(super) hash: Option<u64>,
    /// Endpoints to pass over while there are others.
    pub(super) tried: &'t Tried,
    /// A connection of one's own making is wanted.
    pub(super) is_fresh: bool,
}

impl Upstream {
    /// `worker` of `workers`; workers start their rounds at different endpoints.
    pub(in crate::proxy) fn new(
        state: &Arc<UpstreamState>,
        (worker, workers): (usize, usize),
        ticks: &Rc<Ticks>,
    ) -> Self {
        let empty = View {
            generation: 0,
            snapshot: state.snapshot(),
            pools: Vec::new(),
            weights: Vec::new(),
            usable: Vec::new(),
            turns: RoundRobin::default(),
            until: None,
        };
        let upstream = Self {
            state: Arc::clone(state),
            worker,
            workers: workers.max(1),
            ticks: Rc::clone(ticks),
            queue: Queue::new(state.config.pending_max),
            rng: RefCell::new(SmallRng::from_os_rng()),
            view: RefCell::new(empty),
        };
        let mut view = upstream.look(&[], Instant::now());
        view.turns = RoundRobin::new(&view.weights, worker);
        upstream.view.replace(view);
        upstream
    }

    /// Whether this is what a worker has of `state`.
    pub(in crate::proxy) fn is_of(&self, state: &Arc<UpstreamState>) -> bool {
        Arc::ptr_eq(&self.state, state)
    }

    /// The hash that sorts a request, by what the configuration says: `None` where that is nothing, or the
    /// request does not have it.
    pub(in crate::proxy) fn hash(&self, headers: &HeaderMap, client: impl FnOnce() -> IpAddr) -> Option<u64> {
        let Balance::Hash(by) = &self.state.config.balance else {
            return None;
        };
        match by {
            HashBy::Ip => Some(match client() {
                IpAddr::V4(ip) => hash_of(&ip.octets()),
                IpAddr::V6(ip) => hash_of(&ip.octets()),
            }),
            HashBy::Header(name) => headers.get(name).map(|value| hash_of(value.as_bytes())),
            HashBy::Cookie(name) => cookie(headers, name.as_bytes()).map(hash_of),
        }
    }

    /// Closes connections that have been idle for `idle_ticks_max` or are dead.
    pub(in crate::proxy) fn sweep(&self, idle_ticks_max: u32) {
        self.view
            .borrow()
            .pools
            .iter()
            .for_each(|pool| pool.sweep(idle_ticks_max));
    }

    /// What this worker counts of the upstream.
    pub(super) fn slot(&self) -> &Slot {
        self.state.slot(self.worker)
    }

    /// Some time up to `longest`.
    pub(super) fn by_chance(&self, longest: Duration) -> Duration {
        longest.mul_f64(self.rng.borrow_mut().random_range(0.0..=1.0))
    }

    /// A connection for a request, or leave to make one; waits for it where there is no room. `now` is when this
    /// is called.
    ///
    /// # Errors
    /// [`UpstreamError::Unresolved`] without endpoints, [`UpstreamError::Overloaded`] without room.
    pub(super) async fn reserve(&self, wish: &Wish<'_>, now: Instant) -> Result<Reserved, UpstreamError> {
        self.refresh(now);
        if self.queue.is_empty()
            && let Some(reserved) = self.try_reserve(wish)
        {
            return Ok(reserved);
        }
        // Boxed, so that requests that wait for nothing carry none of it.
        Box::pin(self.wait(wish)).await
    }

    async fn wait(&self, wish: &Wish<'_>) -> Result<Reserved, UpstreamError> {
        self.wait_for_lookup().await;
        if self.view.borrow().pools.is_empty() {
            let error = std::io::Error::from(std::io::ErrorKind::NotFound);
            return Err(UpstreamError::Unresolved(error));
        }
        let slot = self.slot();
        if self.queue.is_empty()
            && let Some(reserved) = self.try_reserve(wish)
        {
            return Ok(reserved);
        }
        let Some(turn) = self.queue.enter() else {
            slot.pending_refused.add(1);
            return Err(UpstreamError::Overloaded);
        };
        let in_turn = async {
            loop {
                turn.room().await;
                self.refresh(Instant::now());
                if let Some(reserved) = self.try_reserve(wish) {
                    return reserved;
                }
            }
        };
        let reserved = tokio::time::timeout(self.state.config.pending_timeout, in_turn).await;
        drop(turn);
        // Requests that came while this one was woken queued up behind it, and found nobody to wake them.
        if self.view.borrow().pools.iter().any(|pool| pool.has_room()) {
            self.queue.room_for_one();
        }
        reserved.map_err(|_| {
            slot.pending_timed_out.add(1);
            UpstreamError::Overloaded
        })
    }

    /// Waits for the first lookup of the upstream's names, if there are no endpoints yet: as long as for a
    /// connection.
    async fn wait_for_lookup(&self) {
        let mut changes = self.state.changes();
        let looked_up = async {
            loop {
                self.refresh(Instant::now());
                if !self.view.borrow().snapshot.is_resolving || changes.changed().await.is_err() {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(self.state.config.connect_timeout, looked_up).await;
    }

    fn try_reserve(&self, wish: &Wish<'_>) -> Option<Reserved> {
        let mut view = self.view.borrow_mut();
        let pool = self.choose(&mut view, wish)?;
        drop(view);
        pool.reserve(wish.is_fresh)
    }

    /// The next endpoint that has room; one that was tried before only if there is no other.
    fn choose(&self, view: &mut View, wish: &Wish<'_>) -> Option<Rc<Pool>> {
        let View {
            snapshot,
            pools,
            weights,
            usable,
            turns,
            ..
        } = view;
        let mut choose_among = |fits: &dyn Fn(usize) -> bool| {
            let ring = snapshot.ring.as_deref().zip(wish.hash);
            if let Some((ring, hash)) = ring {
                let is_used = |index: &usize| weights.get(*index).is_some_and(|weight| *weight > 0);
                return ring.walk(hash).find(|index| is_used(index) && fits(*index));
            }
            if self.state.config.balance == Balance::LeastRequest {
                let load = |index: usize| pools[index].endpoint.in_flight.load(Relaxed);
                return lesser_load(usable, weights, load, fits, &mut *self.rng.borrow_mut());
            }
            turns.next(weights, fits)
        };
        let has_room = |index: usize| pools.get(index).is_some_and(|pool| pool.has_room());
        let is_tried = |index: usize| wish.tried.iter().any(|tried| Rc::ptr_eq(tried, &pools[index]));
        let chosen = if wish.tried.is_empty() {
            choose_among(&has_room)
        } else {
            choose_among(&|index| has_room(index) && !is_tried(index)).or_else(|| choose_among(&has_room))
        };
        chosen.and_then(|index| pools.get(index).cloned())
    }

    /// Takes in what has changed since the last request.
    fn refresh(&self, now: Instant) {
        let mut view = self.view.borrow_mut();
        let is_over = view.until.is_some_and(|until| until <= now);
        if is_over && view.snapshot.next_return.is_some_and(|at| at <= now) {
            self.state.change(|endpoints| endpoints.take_back(now));
        }
        if !is_over && view.generation == self.state.generation() {
            return;
        }
        let new = self.look(&view.pools, now);
        let was = |index: usize| {
            let pool = new.pools.get(index)?;
            view.pools.iter().position(|former| Rc::ptr_eq(former, pool))
        };
        let turns = view.turns.renewed(&new.weights, was);
        let gone = |pool: &&Rc<Pool>| !new.pools.iter().any(|kept| Rc::ptr_eq(kept, pool));
        view.pools.iter().filter(gone).for_each(|pool| pool.retire());
        *view = View { turns, ..new };
        drop(view);
        self.queue.room_for_many();
    }

    /// The endpoints as they stand, with the pools of those that are `known`.
    fn look(&self, known: &[Rc<Pool>], now: Instant) -> View {
        // Read before the endpoints are, so that no change between the two goes unseen.
        let generation = self.state.generation();
        let snapshot = self.state.snapshot();
        let pool = |endpoint: &Arc<Endpoint>| {
            let known = known.iter().find(|pool| Arc::ptr_eq(&pool.endpoint, endpoint));
            known.cloned().unwrap_or_else(|| {
                let of = (self.worker, self.workers);
                Pool::new(&self.state, endpoint, &self.queue, of, &self.ticks)
            })
        };
        let weights = snapshot.weights(self.state.config.slow_start, now);
        let is_usable = |index: &usize| weights.of.get(*index).is_some_and(|weight| *weight > 0);
        View {
            generation,
            pools: snapshot
                .places
                .iter()
                .map(|place| pool(&place.endpoint))
                .collect(),
            usable: (0..weights.of.len()).filter(is_usable).collect(),
            weights: weights.of,
            until: weights.until,
            turns: RoundRobin::default(),
            snapshot,
        }
    }
}

/// The configuration has it no more: what is idle is closed, what is lent is used to its end.
impl Drop for Upstream {
    fn drop(&mut self) {
        self.view.get_mut().pools.iter().for_each(|pool| pool.retire());
    }
}

/// The value of the cookie `name` (RFC 6265 §5.4). HTTP/2 may send each cookie in a field of its own.
fn cookie<'h>(headers: &'h HeaderMap, name: &[u8]) -> Option<&'h [u8]> {
    let fields = headers.get_all(header::COOKIE).iter();
    let mut pairs = fields.flat_map(|field| field.as_bytes().split(|&b| b == b';'));
    pairs.find_map(|pair| {
        let pair = pair.trim_ascii();
        let at = pair.iter().position(|&b| b == b'=')?;
        let (key, value) = pair.split_at(at);
        (key == name).then(|| value.get(1..)).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_is_found_by_its_whole_name_in_any_field() {
        let mut headers = HeaderMap::new();
        headers.append(header::COOKIE, "xid=1; id=a=b".parse().unwrap());
        headers.append(header::COOKIE, "other=; id=c".parse().unwrap());
        assert_eq!(cookie(&headers, b"id"), Some(&b"a=b"[..]));
        assert_eq!(cookie(&headers, b"other"), Some(&b""[..]));
        assert_eq!(cookie(&headers, b"i"), None);
    }
}
