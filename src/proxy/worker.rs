//! One worker: a thread with its own runtime, listeners, connections and upstream pools.
//!
//! Workers share what is in force, the limiter and the bounds on connections, and nothing else.

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
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};

use super::connection::{Connection, Signal};
use super::forwarding::Peer;
use super::in_force::{InForce, Plan};
use super::listener::{self, Listener};
use super::metrics::{ProxyMetrics, Shard};
use super::pace::Allowed;
use super::strict::ClientSlots;

/// An upstream connection idle for this long is closed: under the 60 s after which common servers (nginx
/// 75 s, Apache and Node less) close it themselves, so that few requests meet a closing connection.
const UPSTREAM_IDLE_MAX: Duration = Duration::from_secs(50);
/// The heartbeat is an eighth of the shortest timeout, within these bounds.
const PERIOD_MIN: Duration = Duration::from_millis(10);
const PERIOD_MAX: Duration = Duration::from_secs(1);
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
    pub(super) ticks: Rc<Ticks>,
    index: usize,
    in_force: Arc<InForce>,
    plan: RefCell<Rc<Plan>>,
    metrics: Arc<ProxyMetrics>,
    connection_slots: Arc<Semaphore>,
    client_slots: Option<Arc<ClientSlots>>,
    connections: RefCell<HashMap<u64, Rc<Connection>>>,
    next_connection: Cell<u64>,
    draining: Cell<bool>,
    drained: Notify,
    rng: RefCell<SmallRng>,
    ready_millis: Vec<HeaderValue>,
}

impl Worker {
    fn new(in_force: Arc<InForce>, index: usize) -> Self {
        let ticks = Rc::<Ticks>::default();
        let plan = Plan::new(&in_force, index, &ticks, &[]);
        Self {
            metrics: Arc::clone(plan.shared.metrics()),
            connection_slots: Arc::clone(plan.shared.connection_slots()),
            client_slots: plan.shared.client_slots().cloned(),
            plan: RefCell::new(Rc::new(plan)),
            in_force,
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
        in_force: Arc<InForce>,
        index: usize,
        listeners: Vec<StdListener>,
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
            let worker = Rc::new(Self::new(in_force, index));
            let listener = |(index, socket)| {
                let socket = TcpListener::from_std(socket)?;
                Ok(Listener { socket, index })
            };
            let listeners: io::Result<Vec<_>> = listeners.into_iter().enumerate().map(listener).collect();
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
        let follower = tokio::task::spawn_local(Rc::clone(&self).follow());
        // A proxy that was dropped without a stop ends at once.
        let patience = stop.await.unwrap_or_default();

        for (listener, task) in accepting {
            task.abort();
            listener::accept_waiting(&self, &listener);
        }
        self.draining.set(true);
        self.signal_all(Signal::Drain);
        if !self.connections.borrow().is_empty() {
            let _ = tokio::time::timeout(patience, self.drained.notified()).await;
        }
        heart.abort();
        follower.abort();
        self.connections.borrow().len()
    }

    /// Counts ticks, closes client connections that do not move, and upstream connections that are
    /// idle for too long.
    async fn beat(self: Rc<Self>) {
        let mut rhythm = Rhythm::new(&self.plan(), PERIOD_MAX);
        loop {
            tokio::time::sleep(rhythm.period).await;
            let plan = self.plan();
            if plan.generation != rhythm.generation {
                rhythm = Rhythm::new(&plan, rhythm.period);
            }
            self.ticks.0.set(self.ticks.now().wrapping_add(1));
            let connections = self.connections.borrow();
            connections
                .values()
                .for_each(|connection| connection.check(&rhythm.allowed));
            drop(connections);
            let upstreams = plan.upstreams.iter();
            upstreams.for_each(|upstream| upstream.sweep(rhythm.upstream_ticks));
        }
    }

    /// Takes up what comes into force although no request begins: what went before can end then.
    async fn follow(self: Rc<Self>) {
        let mut changes = self.in_force.changes();
        let mut told = false;
        self.plan();
        while changes.changed().await.is_ok() {
            self.plan();
            if self.winds_down() && !told {
                told = true;
                self.signal_all(Signal::WindDown);
            }
        }
    }

    fn signal_all(&self, signal: Signal) {
        let connections: Vec<_> = self.connections.borrow().values().cloned().collect();
        connections
            .iter()
            .for_each(|connection| connection.signal(signal));
    }

    /// Whether clients are asked to go elsewhere with what follows.
    pub(super) fn winds_down(&self) -> bool {
        self.in_force.winds_down()
    }

    /// What is in force.
    pub(super) fn plan(&self) -> Rc<Plan> {
        let plan = self.plan.borrow();
        if plan.generation == self.in_force.generation() {
            return Rc::clone(&plan);
        }
        drop(plan);
        self.renew()
    }

    #[cold]
    fn renew(&self) -> Rc<Plan> {
        let known = Rc::clone(&self.plan.borrow());
        let plan = Rc::new(Plan::new(
            &self.in_force,
            self.index,
            &self.ticks,
            &known.upstreams,
        ));
        self.plan.replace(Rc::clone(&plan));
        plan
    }

    /// Leave to have connections, for all workers.
    pub(super) fn connection_slots(&self) -> &Arc<Semaphore> {
        &self.connection_slots
    }

    /// How many each client has, if that is bounded.
    pub(super) fn client_slots(&self) -> Option<&Arc<ClientSlots>> {
        self.client_slots.as_ref()
    }

    /// Registers a connection to `peer`, until the answer is dropped.
    pub(super) fn register(self: &Rc<Self>, peer: IpAddr, permit: OwnedSemaphorePermit) -> Registered {
        let id = self.next_connection.get();
        self.next_connection.set(id.wrapping_add(1));
        let peer = Peer::new(peer, &self.plan().shared.config().proxy);
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
        self.metrics.shard(self.index)
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

/// How often a worker looks at its connections, and what it expects of them then.
struct Rhythm {
    generation: u64,
    period: Duration,
    allowed: Allowed,
    upstream_ticks: u32,
}

impl Rhythm {
    /// What `plan` asks for, with a period of at most `period_max`. It never grows: ages are counted in ticks, and
    /// those of before would stand for more time than has passed.
    fn new(plan: &Plan, period_max: Duration) -> Self {
        let config = &plan.shared.config().proxy;
        let shortest = [
            config.header_read_timeout,
            config.body_timeout,
            config.send_timeout,
            config.keep_alive_timeout,
            config.tunnel_timeout,
        ];
        let shortest = shortest.into_iter().min().unwrap_or_default();
        let period = (shortest / 8).clamp(PERIOD_MIN, period_max);
        let upstream_ticks = UPSTREAM_IDLE_MAX.as_millis().div_ceil(period.as_millis());
        Self {
            generation: plan.generation,
            allowed: Allowed::new(config, period),
            upstream_ticks: u32::try_from(upstream_ticks).unwrap_or(u32::MAX),
            period,
        }
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
