//! What new connections and requests go by, and how it is replaced while workers serve.
//!
//! An [`Edition`] never changes. A reload publishes its successor; each worker turns it into a [`Plan`] of its own
//! when its next request begins, or when it is woken. A request keeps to the plan that it began with.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Acquire, Ordering::Release};

use arc_swap::ArcSwap;
use tokio::sync::watch;

use super::ProxyShared;
use super::listener::Terms;
use super::upstream::Upstream;
use super::worker::Ticks;

/// What all workers go by.
#[derive(Clone)]
pub(super) struct Edition {
    pub(super) shared: Arc<ProxyShared>,
    /// Of each listener, in the order of the configuration.
    pub(super) terms: Vec<Terms>,
}

/// The edition in force.
pub(super) struct InForce {
    edition: ArcSwap<Edition>,
    generation: AtomicU64,
    winds_down: AtomicBool,
    changes: watch::Sender<()>,
}

impl InForce {
    pub(super) fn new(edition: Edition) -> Self {
        Self {
            edition: ArcSwap::from_pointee(edition),
            generation: AtomicU64::new(0),
            winds_down: AtomicBool::new(false),
            changes: watch::channel(()).0,
        }
    }

    pub(super) fn edition(&self) -> Arc<Edition> {
        self.edition.load_full()
    }

    /// Changes with the edition.
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Acquire)
    }

    /// Puts `edition` in force, and wakes the workers.
    pub(super) fn publish(&self, edition: Edition) {
        self.edition.store(Arc::new(edition));
        // After the edition: who sees the new number finds what it stands for.
        self.generation.fetch_add(1, Release);
        self.changes.send_replace(());
    }

    /// Asks clients, from now on, to go elsewhere with what follows, and wakes the workers.
    pub(super) fn wind_down(&self) {
        self.winds_down.store(true, Release);
        self.changes.send_replace(());
    }

    /// Whether clients are asked to go elsewhere.
    pub(super) fn winds_down(&self) -> bool {
        self.winds_down.load(Acquire)
    }

    /// Tells of every change from now on.
    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }
}

/// An edition as one worker uses it.
pub(super) struct Plan {
    pub(super) shared: Arc<ProxyShared>,
    /// In the order of the configuration.
    pub(super) upstreams: Vec<Rc<Upstream>>,
    /// Of each listener, in the order of the configuration.
    pub(super) terms: Vec<Rc<Terms>>,
    /// At least as old as the edition, so that no successor is missed.
    pub(super) generation: u64,
}

impl Plan {
    /// The plan of the worker number `index` for what is in force. It keeps those of the `known` upstreams that the
    /// edition has kept, with their connections.
    pub(super) fn new(in_force: &InForce, index: usize, ticks: &Rc<Ticks>, known: &[Rc<Upstream>]) -> Self {
        // Read before the edition is.
        let generation = in_force.generation();
        let edition = in_force.edition();
        let shared = Arc::clone(&edition.shared);
        let workers = shared.config().proxy.workers;
        let upstreams = shared.upstreams().states().iter().map(|state| {
            let kept = known.iter().find(|upstream| upstream.is_of(state));
            let new = || Rc::new(Upstream::new(state, (index, workers), ticks));
            kept.cloned().unwrap_or_else(new)
        });
        Self {
            upstreams: upstreams.collect(),
            terms: edition.terms.iter().cloned().map(Rc::new).collect(),
            generation,
            shared,
        }
    }
}
