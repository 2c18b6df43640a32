//! Where requests go: which endpoint is next, the connections to it, and what happens when it fails.
//!
//! [`UpstreamState`] is what all workers share of an upstream, [`Upstream`] what each has of its own, above all
//! the connections. [`Attendance`] is a thread of the node that looks up names and checks health, so that no
//! request waits for either.

mod attend;
mod balance;
mod budget;
mod check;
mod connect;
mod ejection;
mod endpoint;
mod endpoints;
mod exchange;
mod failure;
mod forward;
mod health;
mod local;
mod overdue;
mod pool;
mod queue;
mod reading;
mod replay;
mod resolve;
mod ring;
mod snapshot;
mod spare;
mod state;
mod target;

use std::sync::Arc;

use super::tls::TlsError;
use crate::config::{DnsConfig, UpstreamConfig};

pub(super) use attend::Attendance;
pub(super) use exchange::Answer;
pub(super) use failure::UpstreamError;
pub(super) use forward::{Journey, forward};
pub(super) use local::Upstream;
pub(super) use overdue::{Overdue, Watch};
pub(super) use pool::Lease;
pub use reading::{EndpointReading, UpstreamReading};
pub(super) use replay::Replay;
pub(super) use state::UpstreamState;

/// All upstreams of a configuration, as the node sees them.
pub(super) struct Upstreams {
    states: Vec<Arc<UpstreamState>>,
    dns: DnsConfig,
}

impl Upstreams {
    /// The upstreams of `configs`, in their order, for so many workers.
    pub(super) fn new(configs: &[UpstreamConfig], dns: &DnsConfig, workers: usize) -> Self {
        let state = |config: &UpstreamConfig| Arc::new(UpstreamState::new(config, workers));
        Self {
            states: configs.iter().map(state).collect(),
            dns: dns.clone(),
        }
    }

    /// The upstreams of `configs` in place of these. One whose configuration stays keeps its endpoints, their health
    /// and the workers' connections, unless it has files, whose content may have changed.
    pub(super) fn followed_by(&self, configs: &[UpstreamConfig], dns: &DnsConfig, workers: usize) -> Self {
        let state = |config: &UpstreamConfig| {
            let has_files = config.tls.ca_file.is_some() || config.tls.certificate.is_some();
            let known = self.states.iter().find(|state| *state.config == *config);
            let kept = known.filter(|_| !has_files).cloned();
            kept.unwrap_or_else(|| Arc::new(UpstreamState::new(config, workers)))
        };
        Self {
            states: configs.iter().map(state).collect(),
            dns: dns.clone(),
        }
    }

    /// Waits until each has endpoints, or has none after all of its names were looked up.
    pub(super) async fn looked_up(&self) {
        for state in &self.states {
            let mut changes = state.changes();
            while state.snapshot().is_resolving && changes.changed().await.is_ok() {}
        }
    }

    /// Reads the certificates and authorities of TLS to the upstreams; blocks.
    ///
    /// # Errors
    /// A file cannot be read or used, or the system has no authorities.
    pub(super) fn secure(&self) -> Result<(), TlsError> {
        self.states.iter().try_for_each(|state| state.secure())
    }

    /// In the order of the configuration.
    pub(super) fn states(&self) -> &[Arc<UpstreamState>] {
        &self.states
    }

    /// What there is to see of each.
    pub(super) fn readings(&self) -> Vec<UpstreamReading> {
        self.states.iter().map(|state| state.reading()).collect()
    }
}
