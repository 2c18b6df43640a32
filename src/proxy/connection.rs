//! One client connection: which HTTP it speaks, its requests, a tunnel if it becomes one, and its end.

use std::cell::{Cell, OnceCell, RefCell};
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::task::{Context, Poll, Waker};

use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::forwarding::Peer;
use super::listener::Terms;
use super::metrics::Shard;
use super::preface::{Prefixed, read_preface};
use super::service;
use super::transport::establish;
use super::worker::{Registered, Worker};
use crate::config::ProxyConfig;

/// Least buffer of an HTTP/1 connection in each direction; hyper's floor is 8 KiB.
const BUFFER_BYTES_MIN: usize = 64 * 1024;
/// Most header fields that hyper reads without an allocation.
const INLINE_HEADERS: usize = 100;
/// Most concurrent requests of one HTTP/2 connection: the least that RFC 9113 §6.5.2 recommends.
const STREAMS_MAX: u32 = 100;

/// What the worker tells a connection. Later ones override.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Signal {
    /// Nothing.
    Serve,
    /// Finish what is in flight, then close.
    Drain,
    /// Close now: no whole request for too long.
    Expire,
}

/// How long a connection may be without a request, in ticks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Quiet {
    /// While a request head is awaited or arriving.
    pub(super) head_ticks: u32,
    /// Between requests.
    pub(super) idle_ticks: u32,
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
    /// The tick at which the last request ended, or the connection began.
    quiet_since: Cell<u32>,
    /// The last request has ended, not the first one been awaited.
    has_served: Cell<bool>,
    /// Counts reads that brought bytes; hyper wants streams that could change threads, hence atomic.
    reads: Arc<AtomicU32>,
    reads_when_quiet: Cell<u32>,
    /// The tick at which a request head was seen arriving.
    head_since: Cell<Option<u32>>,
    is_http2: Cell<bool>,
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
            quiet_since: Cell::new(worker.ticks.now()),
            worker,
            socket_peer: peer,
            peer: OnceCell::new(),
            signal: Cell::new(Signal::Serve),
            waker: RefCell::new(None),
            in_flight: Cell::new(0),
            has_served: Cell::new(false),
            reads: Arc::default(),
            reads_when_quiet: Cell::new(0),
            head_since: Cell::new(None),
            is_http2: Cell::new(false),
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
            self.quiet_since.set(self.worker.ticks.now());
        }
    }

    /// Tells the connection's task.
    pub(super) fn signal(&self, signal: Signal) {
        if signal > self.signal.get() {
            self.signal.set(signal);
            self.waker.borrow().iter().for_each(Waker::wake_by_ref);
        }
    }

    /// Ends the connection if it has been without a request for longer than `quiet` allows.
    pub(super) fn check_quiet(&self, quiet: Quiet) {
        if self.in_flight.get() > 0 {
            return;
        }
        let now = self.worker.ticks.now();
        let silence = now.wrapping_sub(self.quiet_since.get());
        // HTTP/2 also reads frames that begin no request.
        let head_arrives = !self.is_http2.get() && self.reads.load(Relaxed) != self.reads_when_quiet.get();
        let allowed = if self.has_served.get() {
            quiet.idle_ticks
        } else {
            quiet.head_ticks
        };
        if self.has_served.get() && head_arrives {
            let since = self.head_since.get().unwrap_or(now);
            self.head_since.set(Some(since));
            if now.wrapping_sub(since) > quiet.head_ticks {
                self.signal(Signal::Expire);
            }
        } else if silence > allowed.saturating_add(quiet.head_ticks) {
            self.signal(Signal::Expire);
        } else if silence > allowed {
            // Politely first: HTTP/2 announces the last request that it will answer.
            self.signal(if self.has_served.get() {
                Signal::Drain
            } else {
                Signal::Expire
            });
        }
    }

    /// Makes the connection a tunnel once its response has switched protocols.
    pub(super) fn become_tunnel(&self, tunnel: Tunnel) {
        *self.tunnel.borrow_mut() = Some(tunnel);
    }

    /// Counts reads that brought bytes.
    pub(super) fn reads(&self) -> &Arc<AtomicU32> {
        &self.reads
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
        connection.quiet_since.set(connection.worker.ticks.now());
        connection.has_served.set(true);
        connection.head_since.set(None);
        connection.reads_when_quiet.set(connection.reads.load(Relaxed));
        connection.worker.shard().in_flight.sub(1);
    }
}

/// Serves a connection from its first byte to its last.
pub(super) async fn serve(registered: Registered, stream: TcpStream, terms: Rc<Terms>) {
    let connection = &registered.connection;
    let Some(stream) = establish(connection, stream, &terms).await else {
        return;
    };
    let Some(io) = read_preface(connection, stream).await else {
        return;
    };
    let config = &connection.worker.shared.config().proxy;
    let answering = Rc::clone(connection);
    let service = service_fn(move |request| service::answer(Rc::clone(&answering), request));
    if io.is_http2() {
        connection.is_http2.set(true);
        let builder = http2_builder(config);
        drive(connection, builder.serve_connection(io, service)).await;
    } else {
        let builder = http1_builder(config);
        drive(connection, builder.serve_connection(io, service).with_upgrades()).await;
    }
    let tunnel = connection.tunnel.take();
    if let Some(tunnel) = tunnel {
        pass_through(tunnel).await;
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
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(u32::try_from(config.header_bytes_max).unwrap_or(u32::MAX));
    builder
}

/// A connection future that can be asked to wind down.
trait Drainable: Future {
    fn drain(self: Pin<&mut Self>);
}

impl<S, B> Drainable for http1::UpgradeableConnection<Prefixed, S>
where
    Self: Future,
    S: hyper::service::HttpService<hyper::body::Incoming, ResBody = B>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    B: hyper::body::Body + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    fn drain(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

impl<S, B> Drainable for http2::Connection<Prefixed, S, LocalExecutor>
where
    Self: Future,
    S: hyper::service::HttpService<hyper::body::Incoming, ResBody = B>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    B: hyper::body::Body + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    LocalExecutor: hyper::rt::bounds::Http2ServerConnExec<S::Future, B>,
{
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
            Signal::Drain if !draining => {
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

/// Copies bytes both ways until both sides have ended.
async fn pass_through(tunnel: Tunnel) {
    let Tunnel {
        client,
        upstream,
        in_flight,
    } = tunnel;
    if let Ok((client, upstream)) = tokio::try_join!(client, upstream) {
        let (mut client, mut upstream) = (TokioIo::new(client), TokioIo::new(upstream));
        if let Err(error) = tokio::io::copy_bidirectional(&mut client, &mut upstream).await {
            tracing::debug!(%error, "tunnel ended");
        }
    }
    drop(in_flight);
}

/// Runs hyper's HTTP/2 streams on the worker's own thread.
#[derive(Clone, Copy)]
struct LocalExecutor;

impl<F> hyper::rt::Executor<F> for LocalExecutor
where
    F: Future + 'static,
    F::Output: 'static,
{
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

/// What a service answers: every failure has become a response.
pub(super) type Answered<T> = Result<T, Infallible>;
