//! What all workers share of one upstream: its endpoints, its retry budget, and what each worker counts.
//!
//! Workers look at one number per request, the generation; only when it has changed do they look at the
//! endpoints again. Whoever changes the endpoints holds a lock, workers that read do not.

use std::sync::atomic::{AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use super::super::metrics::Count;
use super::super::tls::{ClientIdentity, ClientTls, ClientTlsOptions, ServerCheck, TlsError};
use super::budget::RetryBudget;
use super::endpoint::Endpoint;
use super::endpoints::Endpoints;
use super::reading::{EndpointReading, UpstreamReading};
use super::snapshot::{Place, Snapshot, Standing};
use super::target::TargetInfo;
use crate::config::{UpstreamConfig, UpstreamProtocol};

/// One upstream, as the node sees it.
pub(in crate::proxy) struct UpstreamState {
    pub(super) config: Arc<UpstreamConfig>,
    /// What is known of each target beforehand, in the order of the configuration.
    pub(super) targets: Vec<TargetInfo>,
    pub(super) budget: RetryBudget,
    endpoints: Mutex<Endpoints>,
    snapshot: ArcSwap<Snapshot>,
    generation: AtomicU64,
    changes: watch::Sender<()>,
    ejections: AtomicU64,
    /// What secures connections to `https` targets, once it was read.
    tls: OnceLock<ClientTls>,
    slots: Box<[Slot]>,
}

/// What one worker counts of one upstream, alone on its cache lines.
#[derive(Default)]
#[repr(align(128))]
pub(super) struct Slot {
    /// Requests in flight: from their first try to the end of their response.
    pub(super) in_flight: Count,
    pub(super) retries: Count,
    /// Retries that the budget did not allow.
    pub(super) retries_refused: Count,
    /// Requests that found too many waiting for a connection.
    pub(super) pending_refused: Count,
    /// Requests that waited too long for one.
    pub(super) pending_timed_out: Count,
}

impl UpstreamState {
    pub(super) fn new(config: &UpstreamConfig, workers: usize) -> Self {
        let config = Arc::new(config.clone());
        let endpoints = Endpoints::new(&config);
        Self {
            targets: config
                .targets
                .iter()
                .map(|target| TargetInfo::new(target, &config))
                .collect(),
            budget: RetryBudget::new(config.retries.budget_permille, config.retries.budget_min),
            snapshot: ArcSwap::from_pointee(endpoints.snapshot()),
            endpoints: Mutex::new(endpoints),
            generation: AtomicU64::new(0),
            changes: watch::channel(()).0,
            ejections: AtomicU64::new(0),
            tls: OnceLock::new(),
            slots: (0..workers.max(1)).map(|_| Slot::default()).collect(),
            config,
        }
    }

    /// Reads what TLS to `https` targets takes, if there are any.
    ///
    /// # Errors
    /// A file cannot be read or used, or the system has no authorities.
    pub(super) fn secure(&self) -> Result<(), TlsError> {
        if self.config.targets.iter().any(|target| target.tls) {
            let tls = &self.config.tls;
            let check = match (&tls.ca_file, tls.insecure_accept_any_certificate) {
                (_, true) => ServerCheck::None,
                (Some(file), false) => ServerCheck::Authorities(file),
                (None, false) => ServerCheck::System,
            };
            let identity = tls.certificate.as_ref().zip(tls.key.as_ref());
            let loaded = ClientTls::load(&ClientTlsOptions {
                check,
                identity: identity.map(|(cert, key)| ClientIdentity { cert, key }),
                http2: self.config.protocol != UpstreamProtocol::Http1,
            })?;
            self.tls.get_or_init(|| loaded);
        }
        Ok(())
    }

    /// What secures connections to `https` targets.
    pub(super) fn tls(&self) -> Option<&ClientTls> {
        self.tls.get()
    }

    /// Changes with the endpoints, and how they stand.
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Acquire)
    }

    pub(super) fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// Tells of every change from now on.
    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// Changes the endpoints, and tells everybody if `change` says that it did.
    pub(super) fn change(&self, change: impl FnOnce(&mut Endpoints) -> bool) -> bool {
        let mut endpoints = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = change(&mut endpoints);
        if changed {
            self.snapshot.store(Arc::new(endpoints.snapshot()));
            self.generation.fetch_add(1, Release);
            self.changes.send_replace(());
        }
        changed
    }

    /// Notes that a request to `endpoint` failed, and leaves it out when it was one too many.
    pub(super) fn failed(&self, endpoint: &Arc<Endpoint>, now: impl FnOnce() -> Instant) {
        let allowed = self.config.ejection.failures;
        if allowed == 0 || endpoint.failed() < allowed {
            return;
        }
        if self.change(|endpoints| endpoints.eject(endpoint, now())) {
            self.ejections.fetch_add(1, Relaxed);
            tracing::warn!(
                upstream = self.config.name,
                endpoint = endpoint.name,
                "the endpoint fails requests and is left out for a while"
            );
        }
    }

    /// What one worker counts. Only that worker writes to it.
    pub(super) fn slot(&self, worker: usize) -> &Slot {
        &self.slots[worker % self.slots.len()]
    }

    /// Requests in flight from all workers.
    pub(super) fn in_flight(&self) -> u64 {
        self.slots.iter().map(|slot| slot.in_flight.get()).sum()
    }

    /// What there is to see from outside.
    pub(super) fn reading(&self) -> UpstreamReading {
        let snapshot = self.snapshot.load();
        let sum = |count: fn(&Slot) -> &Count| self.slots.iter().map(|slot| count(slot).get()).sum();
        let endpoint = |place: &Place| EndpointReading {
            name: place.endpoint.name.clone(),
            is_healthy: place.standing != Standing::Unhealthy,
            is_ejected: place.standing == Standing::Ejected,
        };
        UpstreamReading {
            name: self.config.name.clone(),
            endpoints: snapshot.places.iter().map(endpoint).collect(),
            is_panic: snapshot.is_panic(),
            in_flight: self.in_flight(),
            ejections: self.ejections.load(Relaxed),
            retries: sum(|slot| &slot.retries),
            retries_refused: sum(|slot| &slot.retries_refused),
            pending_refused: sum(|slot| &slot.pending_refused),
            pending_timed_out: sum(|slot| &slot.pending_timed_out),
        }
    }
}
