//! One worker's connections to one endpoint: made, lent to one request at a time, kept while idle; or, with
//! HTTP/2, shared by many.
//!
//! Never shared between threads, so nothing here locks. Idle connections are lent last in, first out: the
//! warmest first, and those that traffic no longer needs grow old and are closed.

#![expect(
    clippy::disallowed_methods,
    reason = "a shell: failures are timed by a real clock"
)]

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};

use super::super::body::{Progress, RequestBody};
use super::super::strict::Asked;
use super::super::worker::Ticks;
use super::endpoint::Endpoint;
use super::overdue::Watch;
use super::queue::Queue;
use super::state::{Slot, UpstreamState};
use super::target::{Speaks, TargetInfo};
use crate::config::Balance;

/// Most requests that share one HTTP/2 connection, if the server allows as many: the least that RFC 9113 §6.5.2
/// recommends. More would share one window, and one processor of the server.
const STREAMS_MAX: usize = 100;

/// One worker's connections to one endpoint.
pub(super) struct Pool {
    pub(super) state: Arc<UpstreamState>,
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) queue: Rc<Queue>,
    worker: usize,
    idle: RefCell<Vec<Idle>>,
    shared: RefCell<Vec<Rc<Multiplexed>>>,
    /// Connections that are open or being opened.
    open: Cell<usize>,
    open_max: usize,
    /// One is being opened that others may share.
    opens_shared: Cell<bool>,
    speaks: Cell<Option<Speaks>>,
    /// The endpoint is gone: nothing is kept any more.
    is_retired: Cell<bool>,
    ticks: Rc<Ticks>,
}

struct Idle {
    single: Single,
    since: u32,
}

/// An HTTP/2 connection.
pub(super) struct Multiplexed {
    sender: http2::SendRequest<RequestBody>,
    in_use: Cell<usize>,
    /// Streams that the server allows; one until it has said.
    streams_max: Cell<usize>,
    /// The server has said how many, or took too long to.
    is_settled: Cell<bool>,
    idle_since: Cell<u32>,
}

/// A connection, or leave to make one.
pub(super) enum Reserved {
    Lease(Lease),
    Ticket(Ticket),
}

impl Pool {
    pub(super) fn new(
        state: &Arc<UpstreamState>,
        endpoint: &Arc<Endpoint>,
        queue: &Rc<Queue>,
        (worker, workers): (usize, usize),
        ticks: &Rc<Ticks>,
    ) -> Rc<Self> {
        let connections_max = state.config.connections_max as usize;
        let share = connections_max / workers + usize::from(worker < connections_max % workers);
        let pool = Self {
            endpoint: Arc::clone(endpoint),
            queue: Rc::clone(queue),
            worker,
            idle: RefCell::default(),
            shared: RefCell::default(),
            open: Cell::new(0),
            open_max: share.max(1),
            opens_shared: Cell::new(false),
            speaks: Cell::new(None),
            is_retired: Cell::new(false),
            ticks: Rc::clone(ticks),
            state: Arc::clone(state),
        };
        pool.speaks.set(pool.target().speaks);
        Rc::new(pool)
    }

    pub(super) fn target(&self) -> &TargetInfo {
        &self.state.targets[self.endpoint.target]
    }

    /// Notes that a request to the endpoint failed.
    pub(super) fn failed(&self) {
        self.state.failed(&self.endpoint, Instant::now);
    }

    /// Whether the choice goes by requests in flight.
    fn counts_load(&self) -> bool {
        self.state.config.balance == Balance::LeastRequest
    }

    pub(super) fn slot(&self) -> &Slot {
        self.state.slot(self.worker)
    }

    /// Whether a request can be sent now, or a connection be opened for it.
    pub(super) fn has_room(&self) -> bool {
        self.idle
            .borrow()
            .iter()
            .any(|idle| idle.single.sender.is_ready())
            || self
                .shared
                .borrow()
                .iter()
                .any(|connection| connection.has_room())
            || self.may_open()
    }

    /// A connection that can take a request now, or leave to open one; `is_fresh` wants a new one. `None` when
    /// there is no room.
    pub(super) fn reserve(self: &Rc<Self>, is_fresh: bool) -> Option<Reserved> {
        let lease = if is_fresh {
            // Its idle connections may all be as dead as the one that was tried.
            self.idle.borrow_mut().pop();
            self.checkout_shared()
        } else {
            self.checkout_idle().or_else(|| self.checkout_shared())
        };
        let ticket = || self.may_open().then(|| Reserved::Ticket(Ticket::new(self)));
        lease.map(Reserved::Lease).or_else(ticket)
    }

    fn checkout_shared(self: &Rc<Self>) -> Option<Lease> {
        let mut shared = self.shared.borrow_mut();
        shared.retain(|connection| !connection.sender.is_closed());
        let connection = shared.iter().find(|connection| connection.has_room())?;
        Some(Lease::shared(self, connection, true))
    }

    /// The idle connection that was used last and can take a request now. Dead ones on the way are dropped;
    /// ones whose last exchange still winds down stay.
    fn checkout_idle(self: &Rc<Self>) -> Option<Lease> {
        let mut idle = self.idle.borrow_mut();
        for at in (0..idle.len()).rev() {
            let sender = &idle[at].single.sender;
            if sender.is_closed() {
                idle.swap_remove(at);
            } else if sender.is_ready() {
                let connection = Connection::Http1(idle.remove(at).single);
                return Some(Lease::new(self, connection, true));
            }
        }
        None
    }

    /// A connection that others could share is waited for rather than joined by another, until it is known how
    /// many can.
    fn may_open(&self) -> bool {
        let shared = self.shared.borrow();
        let is_settled = |it: &Rc<Multiplexed>| it.is_settled.get() || it.sender.is_closed();
        self.open.get() < self.open_max && !self.opens_shared.get() && shared.iter().all(is_settled)
    }

    fn release(&self, single: Single) {
        let mut idle = self.idle.borrow_mut();
        let is_wanted = !self.is_retired.get() && idle.len() < self.state.config.idle_connections;
        if !single.sender.is_closed() && (is_wanted || !self.queue.is_empty()) {
            let since = self.ticks.now();
            idle.push(Idle { single, since });
        }
        drop(idle);
        self.queue.room_for_one();
    }

    /// Closes connections that have been idle for `idle_ticks_max` or are dead.
    pub(super) fn sweep(&self, idle_ticks_max: u32) {
        let now = self.ticks.now();
        let keep =
            |idle: &Idle| !idle.single.sender.is_closed() && now.wrapping_sub(idle.since) < idle_ticks_max;
        self.idle.borrow_mut().retain(keep);
        self.shared.borrow_mut().retain(|connection| {
            let is_idle = connection.in_use.get() == 0;
            let is_old = now.wrapping_sub(connection.idle_since.get()) >= idle_ticks_max;
            !(connection.sender.is_closed() || is_idle && is_old)
        });
    }

    /// Keeps nothing from now on: the endpoint is gone. What is lent is used to its end.
    pub(super) fn retire(&self) {
        self.is_retired.set(true);
        self.idle.borrow_mut().clear();
        self.shared.borrow_mut().clear();
    }
}

impl Multiplexed {
    /// Whether it is known how many streams the server allows.
    pub(super) fn is_settled(&self) -> bool {
        self.is_settled.get()
    }

    fn has_room(&self) -> bool {
        self.in_use.get() < self.streams_max.get() && !self.sender.is_closed()
    }
}

/// Leave to open a connection. Counts as one until it is dropped.
pub(super) struct Ticket {
    pub(super) pool: Rc<Pool>,
    is_shared: bool,
    /// Counts the connection for as long as it is open.
    open: Option<Open>,
}

impl Ticket {
    fn new(pool: &Rc<Pool>) -> Self {
        let is_shared = pool.speaks.get() != Some(Speaks::Http1);
        pool.opens_shared.set(is_shared);
        pool.open.set(pool.open.get() + 1);
        Self {
            pool: Rc::clone(pool),
            is_shared,
            open: Some(Open(Rc::clone(pool))),
        }
    }

    /// What counts the connection: to be dropped when that has ended.
    pub(super) fn take_open(&mut self) -> Option<Open> {
        self.open.take()
    }

    /// A lease of the connection that was opened.
    pub(super) fn lease_http1(self, single: Single) -> Lease {
        self.pool.speaks.set(Some(Speaks::Http1));
        Lease::new(&self.pool, Connection::Http1(single), false)
    }

    /// The same, for one that others share.
    pub(super) fn lease_http2(self, sender: http2::SendRequest<RequestBody>) -> (Lease, Rc<Multiplexed>) {
        let pool = &self.pool;
        pool.speaks.set(Some(Speaks::Http2));
        let connection = Rc::new(Multiplexed {
            sender,
            in_use: Cell::new(0),
            streams_max: Cell::new(1),
            is_settled: Cell::new(false),
            idle_since: Cell::new(pool.ticks.now()),
        });
        if !pool.is_retired.get() {
            pool.shared.borrow_mut().push(Rc::clone(&connection));
        }
        (Lease::shared(pool, &connection, false), connection)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.is_shared {
            self.pool.opens_shared.set(false);
            self.pool.queue.room_for_many();
        }
    }
}

/// One connection, counted for as long as it is open.
pub(super) struct Open(Rc<Pool>);

impl Open {
    /// The server allows this many streams on `connection`.
    pub(super) fn allow_streams(&self, connection: &Multiplexed, streams: usize) {
        let former = connection.streams_max.replace(streams.min(STREAMS_MAX));
        if connection.streams_max.get() != former {
            self.settle(connection);
        }
    }

    /// What is known of `connection` now is all that will be.
    pub(super) fn settle(&self, connection: &Multiplexed) {
        connection.is_settled.set(true);
        self.0.queue.room_for_many();
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
        self.0.queue.room_for_one();
    }
}

/// A connection lent to one request. Dropping it closes the connection, unless others share it.
pub(in crate::proxy) struct Lease {
    /// `None` once it was given back.
    connection: Option<Connection>,
    pool: Rc<Pool>,
    /// It has carried a request before, and may have died since.
    pub(super) is_reused: bool,
    /// When the response has to have ended.
    pub(super) deadline: Option<Instant>,
    /// The request is in flight until this is dropped.
    pub(super) carries_request: bool,
    /// How far the body of the request has come, if it has one.
    pub(super) request: Option<Rc<Progress>>,
}

/// A connection that carries one request at a time.
pub(super) struct Single {
    pub(super) sender: http1::SendRequest<RequestBody>,
    /// To be told of each request before it is sent.
    pub(super) asked: Asked,
}

enum Connection {
    Http1(Single),
    Http2(Rc<Multiplexed>),
}

impl Lease {
    fn new(pool: &Rc<Pool>, connection: Connection, is_reused: bool) -> Self {
        if pool.counts_load() {
            pool.endpoint.in_flight.fetch_add(1, Relaxed);
        }
        Self {
            connection: Some(connection),
            is_reused,
            deadline: None,
            carries_request: false,
            request: None,
            pool: Rc::clone(pool),
        }
    }

    fn shared(pool: &Rc<Pool>, connection: &Rc<Multiplexed>, is_reused: bool) -> Self {
        connection.in_use.set(connection.in_use.get() + 1);
        Self::new(pool, Connection::Http2(Rc::clone(connection)), is_reused)
    }

    pub(super) fn pool(&self) -> &Rc<Pool> {
        &self.pool
    }

    pub(super) fn speaks(&self) -> Speaks {
        match self.connection {
            Some(Connection::Http2(_)) => Speaks::Http2,
            _ => Speaks::Http1,
        }
    }

    /// Sends `request`, and waits for the head of its response.
    pub(super) async fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, TrySendError<Request<RequestBody>>> {
        match self
            .connection
            .as_mut()
            .expect("only giving it back takes it away")
        {
            Connection::Http1(single) => {
                single.asked.ask(request.method());
                single.sender.try_send_request(request).await
            }
            Connection::Http2(connection) => connection.sender.clone().try_send_request(request).await,
        }
    }

    /// Gives the connection back: its response has been read to the end.
    pub(in crate::proxy) fn release(mut self) {
        if let Some(Connection::Http1(single)) = self.connection.take_if(|it| it.is_http1()) {
            self.pool.release(single);
        }
    }

    /// How far the body of the request has come, if it has one.
    pub(in crate::proxy) fn request(&self) -> Option<&Progress> {
        self.request.as_deref()
    }

    /// Notes that the server broke off a response.
    pub(in crate::proxy) fn failed(&self) {
        self.pool.failed();
    }

    /// Watches over the body of the response.
    pub(in crate::proxy) fn watch(&self) -> Watch {
        Watch::new(self.pool.state.config.idle_timeout, self.deadline)
    }
}

impl Connection {
    fn is_http1(&self) -> bool {
        matches!(self, Self::Http1(_))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let pool = &self.pool;
        pool.slot().in_flight.sub(u64::from(self.carries_request));
        if pool.counts_load() {
            pool.endpoint.in_flight.fetch_sub(1, Relaxed);
        }
        if let Some(Connection::Http2(connection)) = self.connection.take() {
            connection.in_use.set(connection.in_use.get() - 1);
            connection.idle_since.set(pool.ticks.now());
            pool.queue.room_for_one();
        }
    }
}
