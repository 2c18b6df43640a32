//! One client connection: which HTTP it speaks, its requests, a tunnel if it becomes one, and its end.

use std::cell::{Cell, OnceCell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;

use super::forwarding::Peer;
use super::listener::Terms;
use super::metrics::Shard;
use super::pace::{Allowed, Finding, Pace};
use super::preface::{Prefixed, read_preface};
use super::service;
use super::strict::{ClientSlot, FrameGuard, Guard, Ledger, Limits, Violation, Watched};
use super::transport::establish;
use super::worker::{Registered, Worker};
use crate::config::ProxyConfig;

/// Least buffer of an HTTP/1 connection in each direction; hyper's floor is 8 KiB.
const BUFFER_BYTES_MIN: usize = 64 * 1024;
/// Most header fields that hyper reads without an allocation.
const INLINE_HEADERS: usize = 100;
/// Most concurrent requests of one HTTP/2 connection: the least that RFC 9113 §6.5.2 recommends.
const STREAMS_MAX: u32 = 100;
/// Most resets of HTTP/2 streams for faults of the client before its connection ends. hyper allows 1,024;
/// no client that works has any ("MadeYouReset", CVE-2025-8671).
const FAULTS_MAX: usize = 100;
/// Most bytes of one HTTP/2 stream's response kept for a client that does not take them.
const SEND_BYTES_MAX: usize = 128 * 1024;
/// How often a client with HTTP/2 requests under way is asked whether it is still there, and how long it
/// may take to say so.
const PING_INTERVAL: Duration = Duration::from_secs(60);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// What the worker tells a connection. Later ones override.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Signal {
    /// Nothing.
    Serve,
    /// Ask the client to go elsewhere with what follows, at a cost to nobody: HTTP/2 by a GOAWAY, HTTP/1 with the next
    /// response.
    WindDown,
    /// Finish what is in flight, then close.
    Drain,
    /// Close now: no whole request for too long.
    Expire,
}

/// A client connection, as its requests and its worker see it.
pub(super) struct Connection {
    worker: Rc<Worker>,
    /// The socket's other end.
    socket_peer: Peer,
    /// Who it turned out to be, where that took a PROXY header or a handshake.
    peer: OnceCell<Peer>,
    signal: Cell<Signal>,
    waker: RefCell<Option<Waker>>,
    in_flight: Cell<u32>,
    /// Requests begun.
    requests: Cell<u32>,
    pace: Pace,
    ledger: Arc<Ledger>,
    tunnel: RefCell<Option<Tunnel>>,
}

/// Both ends of a connection that has switched protocols.
pub(super) struct Tunnel {
    pub(super) client: OnUpgrade,
    pub(super) upstream: OnUpgrade,
    pub(super) in_flight: InFlight,
}

impl Connection {
    pub(super) fn new(worker: Rc<Worker>, peer: Peer) -> Self {
        Self {
            pace: Pace::new(worker.ticks.now()),
            worker,
            socket_peer: peer,
            peer: OnceCell::new(),
            signal: Cell::new(Signal::Serve),
            waker: RefCell::new(None),
            in_flight: Cell::new(0),
            requests: Cell::new(0),
            ledger: Arc::default(),
            tunnel: RefCell::new(None),
        }
    }

    pub(super) fn worker(&self) -> &Rc<Worker> {
        &self.worker
    }

    pub(super) fn peer(&self) -> &Peer {
        self.peer.get().unwrap_or(&self.socket_peer)
    }

    /// Says who the client turned out to be, now that HTTP can begin: the time for a request head starts anew.
    pub(super) fn establish(&self, peer: Peer) {
        if self.peer.set(peer).is_ok() {
            self.pace.begins(self.worker.ticks.now());
        }
    }

    /// Tells the connection's task.
    pub(super) fn signal(&self, signal: Signal) {
        if signal > self.signal.get() {
            self.signal.set(signal);
            self.wake();
        }
    }

    fn wake(&self) {
        self.waker.borrow().iter().for_each(Waker::wake_by_ref);
    }

    /// Counts this among its client's connections; `None` when it has too many. A trusted proxy speaks for
    /// many clients, and has no limit.
    fn slot(&self) -> Option<Option<ClientSlot>> {
        let slots = self.worker.client_slots().filter(|_| !self.peer().trusted);
        match slots {
            None => Some(None),
            Some(slots) => slots.take(self.peer().address).map(Some),
        }
    }

    /// Ends the connection if it does not move as `allowed`; to be called at each tick.
    pub(super) fn check(&self, allowed: &Allowed) {
        let now = self.worker.ticks.now();
        match self.pace.check(&self.ledger, self.in_flight.get(), now, allowed) {
            Finding::Fine => {}
            Finding::Idle => self.signal(Signal::Drain),
            Finding::Stuck => {
                self.ledger.cut();
                self.signal(Signal::Expire);
            }
            Finding::SlowBody => {
                self.ledger.break_off(Violation::BodyTooSlow);
                self.wake();
            }
        }
    }

    /// Why the next request is refused, if the guard around the connection says so.
    pub(super) fn next_refusal(&self) -> Option<Violation> {
        self.requests.set(self.requests.get().wrapping_add(1));
        self.ledger.refusal(self.requests.get())
    }

    /// A part of a response body waits for the client, or waits no more.
    pub(super) fn body_waits(&self, waits: bool) {
        self.pace.body_waits(waits, self.worker.ticks.now());
    }

    /// A request has been answered, without a switch of protocols.
    pub(super) fn decline_upgrade(&self) {
        if self.ledger.decline_upgrade() {
            self.wake();
        }
    }

    /// Makes the connection a tunnel once its response has switched protocols.
    pub(super) fn become_tunnel(&self, tunnel: Tunnel) {
        *self.tunnel.borrow_mut() = Some(tunnel);
        self.ledger.accept_upgrade();
        self.pace.is_tunnel(self.worker.ticks.now());
    }

    /// What the guard around the connection knows.
    pub(super) fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }

    /// What the worker has signalled; the task that asks is woken by the next signal.
    pub(super) fn attend(&self, cx: &Context<'_>) -> Signal {
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        self.signal.get()
    }
}

/// A request from its head to the end of its response.
pub(super) struct InFlight(Rc<Connection>);

impl InFlight {
    pub(super) fn new(connection: &Rc<Connection>) -> Self {
        connection.in_flight.set(connection.in_flight.get() + 1);
        connection.worker.shard().in_flight.add(1);
        Self(Rc::clone(connection))
    }

    pub(super) fn shard(&self) -> &Shard {
        self.0.worker.shard()
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let connection = &self.0;
        connection.in_flight.set(connection.in_flight.get() - 1);
        let now = connection.worker.ticks.now();
        connection.pace.request_ended(&connection.ledger, now);
        connection.worker.shard().in_flight.sub(1);
    }
}

/// Serves a connection from its first byte to its last.
pub(super) async fn serve(registered: Registered, stream: TcpStream, terms: Rc<Terms>) {
    let connection = &registered.connection;
    let Some(stream) = establish(connection, stream, &terms).await else {
        return;
    };
    let Some(_slot) = connection.slot() else {
        connection.worker.shard().connections_refused.add(1);
        return;
    };
    let Some(io) = read_preface(connection, stream).await else {
        return;
    };
    // Not kept for the life of the connection: what it refers to lives as long.
    let (http1, http2, limits) = {
        let plan = connection.worker.plan();
        let config = &plan.shared.config().proxy;
        (
            http1_builder(config),
            http2_builder(config),
            request_limits(config),
        )
    };
    let answering = Rc::clone(connection);
    let service = service_fn(move |request| {
        let connection = Rc::clone(&answering);
        async move {
            // Boxed, since hyper and tokio move a request's future several times before it runs, and this one is large.
            let response = Box::pin(service::answer(Rc::clone(&connection), request)).await?;
            Answered::Ok(response.map(|body| Watched::new(body, connection)))
        }
    });
    let ledger = Arc::clone(&connection.ledger);
    if io.is_http2() {
        connection.pace.is_http2();
        let http = http2.serve_connection(FrameGuard::new(io, ledger), service);
        drive(connection, http).await;
    } else {
        let io = Guard::new(io, limits, ledger);
        drive(connection, http1.serve_connection(io, service).with_upgrades()).await;
    }
    let tunnel = connection.tunnel.take();
    if let Some(tunnel) = tunnel {
        pass_through(connection, tunnel).await;
    }
}

fn request_limits(config: &ProxyConfig) -> Limits {
    Limits {
        request_line_bytes_max: config.request_line_bytes_max,
        head_bytes_max: config.header_bytes_max,
        fields_max: config.headers_max,
        body_bytes_max: config.body_bytes_max.unwrap_or(u64::MAX),
    }
}

fn http1_builder(config: &ProxyConfig) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .max_buf_size(config.header_bytes_max.max(BUFFER_BYTES_MIN))
        .max_header_size(config.header_bytes_max)
        // The worker's heartbeat bounds the wait for a request head, at no cost per request.
        .header_read_timeout(None);
    if config.headers_max != INLINE_HEADERS {
        builder.max_headers(config.headers_max);
    }
    builder
}

fn http2_builder(config: &ProxyConfig) -> http2::Builder<LocalExecutor> {
    let mut builder = http2::Builder::new(LocalExecutor);
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .max_local_error_reset_streams(FAULTS_MAX)
        .max_send_buf_size(SEND_BYTES_MAX)
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(u32::try_from(config.header_bytes_max).unwrap_or(u32::MAX));
    builder
}

/// A connection future that can be asked to end.
trait Drainable: Future {
    /// Whether the client learns of a drain before it takes effect, so that no request of its own can cross it: by the
    /// first of two GOAWAYs (RFC 9113 §6.8). An idle HTTP/1 connection just closes.
    const WARNS: bool;

    /// Finishes what is in flight, and ends.
    fn drain(self: Pin<&mut Self>);
}

impl<S, B> Drainable for http1::UpgradeableConnection<Guard<Prefixed>, S>
where
    Self: Future,
    S: hyper::service::HttpService<hyper::body::Incoming, ResBody = B>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    B: hyper::body::Body + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    const WARNS: bool = false;

    fn drain(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

impl<S, B> Drainable for http2::Connection<FrameGuard<Prefixed>, S, LocalExecutor>
where
    Self: Future,
    S: hyper::service::HttpService<hyper::body::Incoming, ResBody = B>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    B: hyper::body::Body + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    LocalExecutor: hyper::rt::bounds::Http2ServerConnExec<S::Future, B>,
{
    const WARNS: bool = true;

    fn drain(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

/// Polls `http` to its end, and passes on what the worker signals.
async fn drive<C: Drainable>(connection: &Connection, http: C) {
    let mut http = pin!(http);
    let mut draining = false;
    poll_fn(|cx| {
        // The connection first: what it has already received is a request in flight, not an idle wait.
        if http.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        match connection.attend(cx) {
            Signal::WindDown if !C::WARNS => Poll::Pending,
            Signal::WindDown | Signal::Drain if !draining => {
                draining = true;
                http.as_mut().drain();
                http.as_mut().poll(cx).map(drop)
            }
            Signal::Expire => Poll::Ready(()),
            _ => Poll::Pending,
        }
    })
    .await;
}

/// Copies bytes both ways until both sides have ended, or neither has said anything for too long.
async fn pass_through(connection: &Connection, tunnel: Tunnel) {
    let Tunnel {
        client,
        upstream,
        in_flight,
    } = tunnel;
    let mut passing = pin!(async {
        let Ok((client, upstream)) = tokio::try_join!(client, upstream) else {
            return;
        };
        let (mut client, mut upstream) = (TokioIo::new(client), TokioIo::new(upstream));
        if let Err(error) = tokio::io::copy_bidirectional(&mut client, &mut upstream).await {
            tracing::debug!(%error, "tunnel ended");
        }
    });
    // What drops at the end of this holds both connections.
    poll_fn(|cx| match connection.attend(cx) {
        Signal::Expire => Poll::Ready(()),
        _ => passing.as_mut().poll(cx),
    })
    .await;
    drop(in_flight);
}

/// Runs hyper's HTTP/2 streams on the worker's own thread.
#[derive(Clone, Copy)]
pub(super) struct LocalExecutor;

impl<F> hyper::rt::Executor<F> for LocalExecutor
where
    F: Future + 'static,
    F::Output: 'static,
{
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

/// What a service answers: every failure has become a response, but for HTTP/2 requests so malformed that
/// their stream is reset.
pub(super) type Answered<T> = Result<T, h2::Error>;
