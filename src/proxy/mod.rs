//! Listeners, routing, upstream pools, headers, the response to every error.
//!
//! Owns the request path: accepts HTTP/1.1 and HTTP/2 from clients, plain or over TLS, asks the limiter,
//! and passes what is admitted to upstreams, bodies streamed both ways. One thread per worker;
//! workers share no lock. Promises that a denied request never reaches an upstream, that what has been
//! admitted is announced before the upstream sees it, and that no more is buffered than the configuration
//! and the constants here allow.
//!
//! The client's Host is preserved unless a route says otherwise: upstreams see what the client asked for (as with
//! Envoy; nginx and Kong replace it by default), so virtual hosts, redirects and cookies work without configuration.

mod access_log;
mod body;
mod charge;
pub mod client_ip;
mod connection;
mod forwarded;
mod forwarding;
mod grpc;
mod headers;
mod in_force;
mod listener;
mod metrics;
mod pace;
mod preface;
pub mod proxy_protocol;
mod reload;
mod respond;
mod route;
mod service;
mod stream;
pub mod strict;
mod tls;
mod transport;
mod upstream;
mod wait;
mod worker;

#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use http::HeaderValue;
use tokio::sync::{Semaphore, oneshot};

use crate::config::{Config, RouteConfig};
use crate::limit::headers::HeaderNames;
use crate::limit::{IdentityHasher, Limiter, Rules};
use charge::ChargePlan;
use in_force::{Edition, InForce};
use listener::Terms;
use route::{Hit, RouteState, Router, Wanted};
use strict::ClientSlots;
use upstream::{Attendance, Upstreams};
use worker::Worker;

pub use crate::admission::{Announced, OnDue};
pub use access_log::AccessLog;
pub use metrics::{
    CertificateReading, LATENCY_BUCKETS, ProxyMetrics, ProxySnapshot, RefusalReason, ReloadOutcome,
    TransportFailure, UpstreamFailure, WaitEnd,
};
pub use reload::ReloadError;
pub use tls::{FileFinding, TlsError, inspect_files};
pub use upstream::{EndpointReading, UpstreamReading};

/// What all workers of a proxy share, for one configuration.
pub struct ProxyShared {
    config: Arc<Config>,
    lasting: Lasting,
    rules: Rules,
    router: Router,
    routes: Vec<RouteState>,
    upstreams: Arc<Upstreams>,
    header_names: Arc<HeaderNames>,
    access_log: Option<Arc<AccessLog>>,
}

/// What outlasts a configuration.
#[derive(Clone)]
struct Lasting {
    limiter: Arc<Limiter>,
    hasher: IdentityHasher,
    on_due: OnDue,
    metrics: Arc<ProxyMetrics>,
    node: HeaderValue,
    connection_slots: Arc<Semaphore>,
    client_slots: Option<Arc<ClientSlots>>,
}

impl ProxyShared {
    /// Wires a proxy for `config`, with `limiter` as the judge and `hasher` to turn clients into keys.
    ///
    /// # Panics
    /// If a route names an upstream that `config` does not have; a checked configuration has it.
    #[must_use]
    pub fn new(config: Arc<Config>, limiter: Arc<Limiter>, hasher: IdentityHasher, on_due: OnDue) -> Self {
        let upstreams = Upstreams::new(&config.upstreams, &config.dns, config.proxy.workers);
        let connections_max = config.proxy.connections_max;
        let lasting = Lasting {
            metrics: Arc::new(ProxyMetrics::new(config.proxy.workers)),
            node: HeaderValue::from_str(config.node_id.as_str()).expect("a node id is visible ASCII"),
            client_slots: ClientSlots::new(config.proxy.connections_per_client_max),
            connection_slots: Arc::new(Semaphore::new(connections_max.clamp(1, Semaphore::MAX_PERMITS))),
            limiter,
            hasher,
            on_due,
        };
        let shared = Self::build(config, lasting, Arc::new(upstreams), None);
        shared.metrics().watch(&shared.upstreams);
        shared
    }

    /// For the rules that the limiter has in force.
    fn build(
        config: Arc<Config>,
        lasting: Lasting,
        upstreams: Arc<Upstreams>,
        access_log: Option<Arc<AccessLog>>,
    ) -> Self {
        let rules = lasting.limiter.rules();
        let state = |route: &RouteConfig| {
            let plan = ChargePlan::new(&rules, route, config.limits.ip_prefixes, &lasting.hasher);
            RouteState::new(route, &config.upstreams, plan)
        };
        Self {
            routes: config.routes.iter().map(state).collect(),
            router: Router::new(&config.routes),
            header_names: lasting.limiter.header_names(),
            rules,
            config,
            lasting,
            upstreams,
            access_log,
        }
    }

    /// Writes what happens to requests to `log`.
    #[must_use]
    pub fn with_access_log(mut self, log: Option<AccessLog>) -> Self {
        self.access_log = log.map(Arc::new);
        if let Some(log) = &self.access_log {
            self.metrics().watch_log(log.dropped().clone());
        }
        self
    }

    /// The access log, if one is written.
    #[must_use]
    pub fn access_log(&self) -> Option<&Arc<AccessLog>> {
        self.access_log.as_ref()
    }

    /// What the request path counts about itself.
    #[must_use]
    pub fn metrics(&self) -> &Arc<ProxyMetrics> {
        &self.lasting.metrics
    }

    fn upstreams(&self) -> &Upstreams {
        &self.upstreams
    }

    fn config(&self) -> &Config {
        &self.config
    }

    fn limiter(&self) -> &Limiter {
        &self.lasting.limiter
    }

    fn hasher(&self) -> &IdentityHasher {
        &self.lasting.hasher
    }

    fn header_names(&self) -> &HeaderNames {
        &self.header_names
    }

    fn node(&self) -> &HeaderValue {
        &self.lasting.node
    }

    fn connection_slots(&self) -> &Arc<Semaphore> {
        &self.lasting.connection_slots
    }

    fn client_slots(&self) -> Option<&Arc<ClientSlots>> {
        self.lasting.client_slots.as_ref()
    }

    fn announce(&self) -> Announced {
        (self.lasting.on_due)()
    }

    fn route(&self, wanted: &Wanted<'_>) -> Option<(&RouteState, Hit<'_>)> {
        let hit = self.router.find(wanted)?;
        Some((self.routes.get(hit.route)?, hit))
    }
}

/// A running proxy. Dropping it without [`Proxy::stop`] cuts off what is in flight.
pub struct Proxy {
    addresses: Vec<SocketAddr>,
    workers: Vec<WorkerThread>,
    in_force: Arc<InForce>,
    attendance: Option<Attendance>,
    certificates: tls::Watch,
}

struct WorkerThread {
    stop: oneshot::Sender<Duration>,
    thread: JoinHandle<usize>,
}

impl Proxy {
    /// Binds the configured addresses and starts the workers. Clients are served when this returns.
    ///
    /// # Errors
    /// When a certificate cannot be used, an address cannot be bound or is in use, or a thread or its runtime
    /// cannot be made; nothing is left running then.
    pub fn start(shared: &Arc<ProxyShared>) -> io::Result<Self> {
        let config = &shared.config;
        let count = config.proxy.workers.max(1);
        let certificates = tls::Watch::start(&config.listen, shared.metrics());
        let certificates = certificates.map_err(io::Error::other)?;
        shared.upstreams.secure().map_err(io::Error::other)?;
        let mut addresses = Vec::new();
        let mut listeners: Vec<Vec<_>> = (0..count).map(|_| Vec::new()).collect();
        for listener in &config.listen {
            let (bound, of_workers) = crate::sockets::bind(listener.address, count)?;
            addresses.push(bound);
            for (all, one) in listeners.iter_mut().zip(of_workers) {
                all.push(one);
            }
        }
        let in_force = Arc::new(InForce::new(Edition {
            shared: Arc::clone(shared),
            terms: Terms::of(&config.listen, &certificates),
        }));
        let spawn = |(index, listeners)| spawn_worker(Arc::clone(&in_force), index, listeners);
        let workers = listeners
            .into_iter()
            .enumerate()
            .map(spawn)
            .collect::<io::Result<_>>()?;
        Ok(Self {
            addresses,
            workers,
            in_force,
            attendance: Attendance::start(&shared.upstreams)?,
            certificates,
        })
    }

    /// The addresses that clients can connect to, in the order of the configuration, with actual ports.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Serves on, and asks clients to go elsewhere with what follows: HTTP/2 by a GOAWAY, HTTP/1 by `Connection: close` on
    /// each response. New connections are served likewise, HTTP/2 ones until the stop.
    pub fn wind_down(&self) {
        self.in_force.wind_down();
    }

    /// Stops accepting, lets connections finish what is in flight for at most `drain_timeout`, and ends
    /// the workers. Answers how many connections were cut off.
    pub async fn stop(self, drain_timeout: Duration) -> usize {
        let mut threads = Vec::new();
        for worker in self.workers {
            // A worker that is gone already has nothing left to stop.
            let _ = worker.stop.send(drain_timeout);
            threads.push(worker.thread);
        }
        let join = move || threads.into_iter().map(|thread| thread.join().unwrap_or(0)).sum();
        tokio::task::spawn_blocking(join).await.unwrap_or(0)
    }
}

fn spawn_worker(
    in_force: Arc<InForce>,
    index: usize,
    listeners: Vec<std::net::TcpListener>,
) -> io::Result<WorkerThread> {
    let (stop, stopped) = oneshot::channel();
    let (report, started) = mpsc::sync_channel(1);
    let thread = std::thread::Builder::new()
        .name(format!("weir-proxy-{index}"))
        .spawn(move || {
            let started = move |outcome| drop(report.send(outcome));
            Worker::run(in_force, index, listeners, started, stopped)
        })?;
    started
        .recv()
        .map_err(|_| io::Error::other("a worker ended before it started"))??;
    Ok(WorkerThread { stop, thread })
}
