//! The composition root: the only place that wires the shells together, and orders start and stop.
//!
//! Start binds every address before it announces anything, so that a bad one is an error and not a
//! flapping peer. Stop goes the other way round: readiness, clients, counts, membership.

#![expect(
    clippy::disallowed_methods,
    reason = "the shell that names a life by the moment it starts"
)]

mod files;
mod observe;
mod reload;
mod roster;

use std::fmt;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use arc_swap::ArcSwap;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::admin::{Admin, AdminListener};
use crate::cluster::{Cluster, ClusterHandle, Flusher, LeaveOutcome};
use crate::config::Config;
use crate::limit::{IdentityHasher, Limiter};
use crate::proxy::{AccessLog, Announced, OnDue, Proxy, ProxyMetrics, ProxyShared};
use crate::ratelimit::RatelimitService;
use crate::replica::{Generation, ReplicaId};

use self::observe::Observed;
use self::reload::ReloadCounts;

pub use self::files::Look;
pub use self::reload::{Load, Source};

/// Longest wait for peers to acknowledge the last counts of a node that stops, and for an heir to own its rights:
/// many rounds of repair, and short beside the 30 s that Kubernetes grants.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(3);

/// How long the admin API may finish its answers once everything else has stopped.
const ADMIN_DRAIN: Duration = Duration::from_millis(500);

/// How a node ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// A signal asked it to stop, and it did so in order.
    Drained,
    /// A further signal cut that short.
    Interrupted,
}

/// One running gateway node.
pub struct Gateway {
    /// What is in force, with the addresses where it really listens.
    config: Arc<ArcSwap<Config>>,
    reloads: Arc<ReloadCounts>,
    /// What was read beside the configuration that was loaded last.
    files: Vec<PathBuf>,
    proxy: Proxy,
    ratelimit: Option<RatelimitService>,
    cluster: Arc<ClusterHandle>,
    admin: Admin,
    addresses: Addresses,
    draining: Arc<AtomicBool>,
}

/// Where a node really listens: with port 0 in the configuration, the port that the system chose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// For clients; never empty.
    pub listen: Vec<SocketAddr>,
    /// The admin API.
    pub admin: SocketAddr,
    /// Gossip.
    pub gossip: SocketAddr,
    /// The rate limit service, if it is on.
    pub ratelimit: Option<SocketAddr>,
}

impl Gateway {
    /// Runs a node in this process until SIGTERM or SIGINT. Prints one line to standard output once it
    /// listens. At SIGHUP it puts in force what `source` says then, and when a file of it has changed if `config` has
    /// it looked at.
    ///
    /// # Errors
    /// An address cannot be bound, or a part of the node died.
    pub fn run(config: Config, source: &Source) -> anyhow::Result<Ending> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.context("cannot start the runtime")?;
        let ending = runtime.block_on(Self::run_until_signal(config, source));
        // After that signal nothing that still works off its last task may hold the process.
        runtime.shutdown_background();
        ending
    }

    async fn run_until_signal(config: Config, source: &Source) -> anyhow::Result<Ending> {
        let mut signals = StopSignals::install()?;
        let mut hangups = signal(SignalKind::hangup()).context("cannot handle signals")?;
        let mut gateway = Self::start(config).await?;
        gateway.announce()?;
        let cluster = Arc::clone(&gateway.cluster);
        let stop = tokio::select! {
            stop = signals.next() => stop,
            error = cluster.failed() => return Err(error.into()),
            // A stop does not wait for a reload: that changes everything or nothing.
            never = gateway.reload_at(&mut hangups, source) => match never {},
        };
        if stop == Stop::Terminate {
            tokio::select! {
                () = gateway.retire() => {}
                stop = signals.next() => tracing::info!(signal = stop.name(), "not waiting any longer"),
            }
        }
        tracing::info!(signal = stop.name(), "stopping");
        tokio::select! {
            () = gateway.stop() => Ok(Ending::Drained),
            _ = signals.next() => Ok(Ending::Interrupted),
        }
    }

    /// Starts a node on the current tokio runtime.
    ///
    /// # Errors
    /// An address cannot be bound, or the gossip keyring is wrong. Nothing is left running.
    pub async fn start(config: Config) -> anyhow::Result<Self> {
        let replica = ReplicaId {
            node: config.node_id.clone(),
            generation: generation()?,
        };
        if config.limits.rules.is_empty() {
            tracing::warn!("no rules are configured: nothing is limited (set `rules`, or --limit)");
        }
        let limiter = Arc::new(Limiter::new(
            config.limits.rules.clone(),
            config.sync.mode,
            config.sync.significance,
            config.limits.max_keys,
        ));
        limiter.set_overflow(config.limits.overflow);
        limiter.set_without_share(config.bounded.when_without_share);
        let admin = AdminListener::bind(config.admin.listen).await;
        let admin = admin.with_context(|| format!("cannot listen on {} for admin", config.admin.listen))?;

        let flusher = Arc::new(OnceLock::<Flusher>::new());
        let on_due = on_due(&flusher);
        let (proxy, proxy_metrics) = start_proxy(&config, &limiter, &on_due)?;
        let ready = Arc::new(OnceLock::<Ready>::new());
        let is_ready = {
            let ready = Arc::clone(&ready);
            Arc::new(move || ready.get().is_some_and(Ready::is_ready))
        };
        let ratelimit = RatelimitService::start(&config, Arc::clone(&limiter), on_due, is_ready);
        let ratelimit = ratelimit.with_context(|| {
            let address = config
                .ratelimit
                .listen
                .map_or(String::new(), |address| address.to_string());
            format!("cannot listen on {address} for the rate limit service")
        })?;

        // Peers are told where we really listen.
        let mut config = config;
        config.admin.listen = admin.address();
        for (listener, address) in config.listen.iter_mut().zip(proxy.addresses()) {
            listener.address = *address;
        }
        config.ratelimit.listen = ratelimit.as_ref().map(RatelimitService::address);
        let cluster = Cluster::start(&config, replica.clone(), Arc::clone(&limiter));
        let cluster = Arc::new(cluster.context("cannot start gossip")?);
        // Until here nobody could be told of a count; what was counted meanwhile is flushed now.
        drop(flusher.get_or_init(|| cluster.flusher()).request());

        let config = Arc::new(ArcSwap::from_pointee(config));
        let reloads = Arc::<ReloadCounts>::default();
        let draining = Arc::new(AtomicBool::new(false));
        let _ = ready.set(Ready {
            cluster: Arc::clone(&cluster),
            draining: Arc::clone(&draining),
        });
        let observed = Observed {
            ratelimit_metrics: ratelimit.as_ref().map(RatelimitService::metrics),
            config: Arc::clone(&config),
            reloads: Arc::clone(&reloads),
            replica,
            limiter,
            proxy_metrics,
            cluster: Arc::clone(&cluster),
            draining: Arc::clone(&draining),
        };
        let addresses = Addresses {
            listen: proxy.addresses().to_vec(),
            admin: config.load().admin.listen,
            gossip: cluster.gossip_address(),
            ratelimit: config.load().ratelimit.listen,
        };
        let admin = admin.serve(Arc::new(observed), config.load().admin.token.as_deref());
        Ok(Self {
            files: config.load().files_read_at_reload(),
            config,
            reloads,
            proxy,
            ratelimit,
            cluster,
            admin,
            addresses,
            draining,
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Says that it is not ready, and serves on for `proxy.drain_delay`, so that load balancers see it in time. In the
    /// second half, when they send nobody new, clients that are still there are asked to go elsewhere.
    pub async fn retire(&self) {
        self.draining.store(true, Ordering::Release);
        let delay = self.config.load().proxy.drain_delay;
        if delay.is_zero() {
            return;
        }
        tracing::info!(?delay, "not ready any more, serving on until load balancers know");
        tokio::time::sleep(delay / 2).await;
        self.proxy.wind_down();
        tokio::time::sleep(delay / 2).await;
    }

    /// Stops in order: tells load balancers by readiness, lets clients finish, hands the last counts to
    /// the peers, leaves, and closes the admin API last, so that all of it can be watched.
    pub async fn stop(self) {
        self.draining.store(true, Ordering::Release);
        let drain_timeout = self.config.load().proxy.drain_timeout;
        let service = async {
            if let Some(service) = self.ratelimit {
                service.stop().await;
            }
        };
        let (cut_off, ()) = tokio::join!(self.proxy.stop(drain_timeout), service);
        if cut_off > 0 {
            tracing::warn!(
                connections = cut_off,
                "requests were still in flight and were cut off"
            );
        }
        match self.cluster.leave(LEAVE_TIMEOUT).await {
            Ok(LeaveOutcome::Acknowledged) => tracing::info!("the peers have the last counts and rights"),
            Ok(LeaveOutcome::TimedOut) => {
                tracing::warn!("not every peer acknowledged the last counts, or no heir the rights");
            }
            Err(error) => tracing::warn!(%error, "left without a goodbye"),
        }
        self.admin.stop(ADMIN_DRAIN).await;
        tracing::info!("stopped");
    }

    /// The line that says that a node listens, read by people and by programs that start it.
    fn announce(&self) -> anyhow::Result<()> {
        let mut out = std::io::stdout().lock();
        let announced = writeln!(out, "{}", Announcement(self)).and_then(|()| out.flush());
        announced.context("cannot write to standard output")
    }
}

struct Announcement<'a>(&'a Gateway);

impl fmt::Display for Announcement<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Gateway {
            config, addresses, ..
        } = self.0;
        let config = config.load();
        write!(f, "weir: node {} listening on ", config.node_id)?;
        for (index, listener) in config.listen.iter().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            let scheme = if listener.tls.is_some() { "https" } else { "http" };
            write!(f, "{separator}{scheme}://{}", listener.address)?;
        }
        let Addresses { admin, gossip, .. } = addresses;
        write!(f, ", admin http://{admin}, gossip {gossip}")?;
        if let Some(ratelimit) = addresses.ratelimit {
            write!(f, ", ratelimit {ratelimit}")?;
        }
        write!(f, ", mode {}", config.sync.mode)
    }
}

/// What readiness depends on.
struct Ready {
    cluster: Arc<ClusterHandle>,
    draining: Arc<AtomicBool>,
}

impl Ready {
    fn is_ready(&self) -> bool {
        self.cluster.ready() && !self.draining.load(Ordering::Acquire)
    }
}

/// Names a new life of a node: the microsecond it starts.
fn generation() -> anyhow::Result<Generation> {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
    let micros = since_epoch.context("the clock stands before 1970")?.as_micros();
    Ok(Generation(
        u64::try_from(micros).context("the clock stands beyond the year 500000")?,
    ))
}

/// Wakes replication, once it runs.
fn on_due(flusher: &Arc<OnceLock<Flusher>>) -> OnDue {
    let flusher = Arc::clone(flusher);
    Arc::new(move || -> Announced {
        match flusher.get() {
            Some(flusher) => Box::pin(flusher.request()),
            None => Box::pin(std::future::ready(())),
        }
    })
}

fn start_proxy(
    config: &Config,
    limiter: &Arc<Limiter>,
    on_due: &OnDue,
) -> anyhow::Result<(Proxy, Arc<ProxyMetrics>)> {
    let hasher = IdentityHasher::new(config.identity_key());
    let shared = ProxyShared::new(
        Arc::new(config.clone()),
        Arc::clone(limiter),
        hasher,
        Arc::clone(on_due),
    );
    let log = AccessLog::open(&config.access_log)
        .with_context(|| format!("cannot open the access log {}", config.access_log.path))?;
    let shared = Arc::new(shared.with_access_log(log));
    let proxy = Proxy::start(&shared).with_context(|| {
        let addresses: Vec<_> = config.listen.iter().map(|one| one.address.to_string()).collect();
        format!("cannot listen on {}", addresses.join(", "))
    })?;
    Ok((proxy, Arc::clone(shared.metrics())))
}

/// A signal that stops a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    /// From whoever runs the node (SIGTERM): clients are to notice nothing.
    Terminate,
    /// From a person at a terminal (SIGINT), who waits.
    Interrupt,
}

impl Stop {
    fn name(self) -> &'static str {
        match self {
            Self::Terminate => "SIGTERM",
            Self::Interrupt => "SIGINT",
        }
    }
}

/// The signals that stop a node.
struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    fn install() -> anyhow::Result<Self> {
        let handler = |kind| signal(kind).context("cannot handle signals");
        Ok(Self {
            terminate: handler(SignalKind::terminate())?,
            interrupt: handler(SignalKind::interrupt())?,
        })
    }

    /// Waits for the next one.
    async fn next(&mut self) -> Stop {
        tokio::select! {
            _ = self.terminate.recv() => Stop::Terminate,
            _ = self.interrupt.recv() => Stop::Interrupt,
        }
    }
}

#[cfg(test)]
mod tests;
