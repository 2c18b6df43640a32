//! One worker: a thread with its own runtime, listeners, connections and upstream pools.
//!
//! Workers share the configuration, the limiter and the connection cap, and nothing else.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, TcpListener as StdListener};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;
use rand::rngs::SmallRng;
use rand::{RngCore, SeedableRng};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{Notify, OwnedSemaphorePermit, oneshot};

use super::ProxyShared;
use super::connection::{Connection, Quiet, Signal};
use super::forwarding::Peer;
use super::listener::{self, Listener, Terms};
use super::metrics::Shard;
use super::upstream::Upstream;

/// An upstream connection idle for this long is closed: under the 60 s after which common servers (nginx
/// 75 s, Apache and Node less) close it themselves, so that few requests meet a closing connection.
const UPSTREAM_IDLE_MAX: Duration = Duration::from_secs(50);
/// A client connection without a request for this long is closed: what nginx gives them.
const CLIENT_IDLE_MAX: Duration = Duration::from_secs(75);
/// Latencies up to this many milliseconds have their header value ready.
const READY_MILLIS: u64 = 512;

/// The worker's coarse clock: counts heartbeats, so that requests and idle connections can be dated
/// without reading a clock.
#[derive(Default)]
pub(super) struct Ticks(Cell<u32>);

impl Ticks {
    /// Heartbeats since the start; wraps.
    pub(super) fn now(&self) -> u32 {
        self.0.get()
    }
}

/// What a worker's connections share.
pub(super) struct Worker {
    pub(super) shared: Arc<ProxyShared>,
    pub(super) upstreams: Vec<Upstream>,
    pub(super) ticks: Rc<Ticks>,
    index: usize,
    connections: RefCell<HashMap<u64, Rc<Connection>>>,
    next_connection: Cell<u64>,
    draining: Cell<bool>,
    drained: Notify,
    rng: RefCell<SmallRng>,
    ready_millis: Vec<HeaderValue>,
}

impl Worker {
    fn new(shared: Arc<ProxyShared>, index: usize) -> Self {
        let ticks = Rc::<Ticks>::default();
        let workers = shared.config().proxy.workers;
        let upstreams = shared.upstreams().states().iter();
        Self {
            upstreams: upstreams
                .map(|state| Upstream::new(state, (index, workers), &ticks))
                .collect(),
            shared,
            ticks,
            index,
            connections: RefCell::default(),
            next_connection: Cell::new(0),
            draining: Cell::new(false),
            drained: Notify::new(),
            rng: RefCell::new(SmallRng::from_os_rng()),
            ready_millis: (0..READY_MILLIS).map(HeaderValue::from).collect(),
        }
    }

    /// Runs until told to stop, then until its connections have drained or the time for that is over.
    /// Answers how many connections were cut off.
    pub(super) fn run(
        shared: Arc<ProxyShared>,
        index: usize,
        listeners: Vec<(StdListener, Terms)>,
        started: impl FnOnce(io::Result<()>),
        stop: oneshot::Receiver<Duration>,
    ) -> usize {
        let runtime = match Builder::new_current_thread()
            .enable_all()
            .build_local(LocalOptions::default())
        {
            Ok(runtime) => runtime,
            Err(error) => {
                started(Err(error));
                return 0;
            }
        };
        let cut_off = runtime.block_on(async {
            let worker = Rc::new(Self::new(shared, index));
            let listener = |(socket, terms)| {
                Ok(Listener {
                    socket: TcpListener::from_std(socket)?,
                    terms: Rc::new(terms),
                })
            };
            let listeners: io::Result<Vec<_>> = listeners.into_iter().map(listener).collect();
            match listeners {
                Ok(listeners) => {
                    started(Ok(()));
                    worker.serve(listeners, stop).await
                }
                Err(error) => {
                    started(Err(error));
                    0
                }
            }
        });
        // A name resolution may hang in its thread for minutes; it holds nothing that matters.
        runtime.shutdown_background();
        cut_off
    }

    async fn serve(self: Rc<Self>, listeners: Vec<Listener>, stop: oneshot::Receiver<Duration>) -> usize {
        let accepting: Vec<_> = listeners
            .into_iter()
            .map(Rc::new)
            .map(|listener| {
                let task = tokio::task::spawn_local(listener::accept(Rc::clone(&self), Rc::clone(&listener)));
                (listener, task)
            })
            .collect();
        let heart = tokio::task::spawn_local(Rc::clone(&self).beat());
        // A proxy that was dropped without a stop ends at once.
        let patience = stop.await.unwrap_or_default();

        for (listener, task) in accepting {
            task.abort();
            listener::accept_waiting(&self, &listener);
        }
        self.draining.set(true);
        let connections: Vec<_> = self.connections.borrow().values().cloned().collect();
        connections
            .iter()
            .for_each(|connection| connection.signal(Signal::Drain));
        drop(connections);
        if !self.connections.borrow().is_empty() {
            let _ = tokio::time::timeout(patience, self.drained.notified()).await;
        }
        heart.abort();
        self.connections.borrow().len()
    }

    /// Counts ticks, closes clients that send no request for too long, and upstream connections that are
    /// idle for too long.
    async fn beat(self: Rc<Self>) {
        let head_timeout = self.shared.config().proxy.header_read_timeout;
        let period = (head_timeout / 8).clamp(Duration::from_millis(10), Duration::from_secs(1));
        let ticks_in = |span: Duration| {
            let ticks = span.as_millis().div_ceil(period.as_millis());
            u32::try_from(ticks).unwrap_or(u32::MAX)
        };
        let quiet = Quiet {
            head_ticks: ticks_in(head_timeout),
            idle_ticks: ticks_in(CLIENT_IDLE_MAX.max(head_timeout)),
        };
        let upstream_ticks = ticks_in(UPSTREAM_IDLE_MAX);
        loop {
            tokio::time::sleep(period).await;
            self.ticks.0.set(self.ticks.now().wrapping_add(1));
            let connections = self.connections.borrow();
            connections
                .values()
                .for_each(|connection| connection.check_quiet(quiet));
            drop(connections);
            self.upstreams
                .iter()
                .for_each(|upstream| upstream.sweep(upstream_ticks));
        }
    }

    /// Registers a connection to `peer`, until the answer is dropped.
    pub(super) fn register(self: &Rc<Self>, peer: IpAddr, permit: OwnedSemaphorePermit) -> Registered {
        let id = self.next_connection.get();
        self.next_connection.set(id.wrapping_add(1));
        let peer = Peer::new(peer, &self.shared.config().proxy);
        let connection = Rc::new(Connection::new(Rc::clone(self), peer));
        if self.draining.get() {
            connection.signal(Signal::Drain);
        }
        self.connections.borrow_mut().insert(id, Rc::clone(&connection));
        self.shard().connections.add(1);
        self.shard().accepted.add(1);
        Registered {
            connection,
            id,
            _permit: permit,
        }
    }

    /// The counters that only this worker writes.
    pub(super) fn shard(&self) -> &Shard {
        self.shared.metrics().shard(self.index)
    }

    /// The worker's random numbers, for what needs no secrecy.
    pub(super) fn rng(&self) -> std::cell::RefMut<'_, SmallRng> {
        self.rng.borrow_mut()
    }

    /// A new request id: 128 random bits in hexadecimal.
    pub(super) fn new_request_id(&self) -> HeaderValue {
        let mut bits = [0_u8; 16];
        self.rng.borrow_mut().fill_bytes(&mut bits);
        let mut text = [0_u8; 32];
        for (pair, byte) in text.chunks_exact_mut(2).zip(bits) {
            pair[0] = b"0123456789abcdef"[usize::from(byte >> 4)];
            pair[1] = b"0123456789abcdef"[usize::from(byte & 15)];
        }
        HeaderValue::from_maybe_shared(Bytes::copy_from_slice(&text)).expect("hexadecimal is visible ASCII")
    }

    /// `span` in whole milliseconds, as a header value.
    pub(super) fn millis(&self, span: Duration) -> HeaderValue {
        let millis = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        let ready = usize::try_from(millis)
            .ok()
            .and_then(|index| self.ready_millis.get(index));
        ready.cloned().unwrap_or_else(|| HeaderValue::from(millis))
    }
}

/// Keeps a connection in its worker's register, and its permit, for as long as it is open.
pub(super) struct Registered {
    pub(super) connection: Rc<Connection>,
    id: u64,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Registered {
    fn drop(&mut self) {
        let worker = self.connection.worker();
        let mut connections = worker.connections.borrow_mut();
        connections.remove(&self.id);
        worker.shard().connections.sub(1);
        if worker.draining.get() && connections.is_empty() {
            worker.drained.notify_one();
        }
    }
}
