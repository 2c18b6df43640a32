//! One endpoint: an address of a target, and what all workers count of it.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use crate::config::Target;

/// One address of a target. The counts are of all workers.
#[derive(Debug)]
pub(super) struct Endpoint {
    /// The index of its target in the configuration.
    pub(super) target: usize,
    pub(super) address: SocketAddr,
    /// The text that names it, also in metrics: `10.0.0.1:80`, or `app.local:80 (10.0.0.1)`.
    pub(super) name: String,
    pub(super) weight: u32,
    /// Requests in flight to it; counted only where the choice goes by it.
    pub(super) in_flight: AtomicU32,
    /// Failed requests in a row.
    failures: AtomicU32,
}

impl Endpoint {
    pub(super) fn new(target: usize, config: &Target, ip: IpAddr) -> Self {
        let address = SocketAddr::new(ip, config.port);
        let is_address = config.host.parse::<IpAddr>().is_ok();
        Self {
            target,
            address,
            name: if is_address {
                address.to_string()
            } else {
                format!("{}:{} ({ip})", config.host, config.port)
            },
            weight: config.weight,
            in_flight: AtomicU32::new(0),
            failures: AtomicU32::new(0),
        }
    }

    /// Notes a request that did not fail.
    pub(super) fn succeeded(&self) {
        // Read first: a line that only is read is shared between processors.
        if self.failures.load(Relaxed) != 0 {
            self.forgive();
        }
    }

    /// Forgets the requests that failed.
    pub(super) fn forgive(&self) {
        self.failures.store(0, Relaxed);
    }

    /// Notes a request that failed; answers how many did in a row.
    pub(super) fn failed(&self) -> u32 {
        self.failures.fetch_add(1, Relaxed).saturating_add(1)
    }
}
