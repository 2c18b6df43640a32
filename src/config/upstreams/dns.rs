//! The section `dns`: how names are looked up.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};

use super::values::{millis, values_of};
use crate::config::defaults;
use crate::config::error::{At, Report};
use crate::config::json::text;
use crate::config::read::Section;
use crate::config::scalars::{duration, socket_addr};

/// How names are looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsConfig {
    /// Name servers; empty: the system's.
    pub servers: Vec<SocketAddr>,
    /// Shortest time between two lookups of a name, whatever its TTL.
    pub ttl_min: Duration,
    /// Longest.
    pub ttl_max: Duration,
}

impl DnsConfig {
    /// The shortest time is longer than the longest.
    pub(in crate::config) fn check(&self, at: &At, report: &Report) {
        if self.ttl_min > self.ttl_max {
            let problem = "`ttl_min` is above `ttl_max`";
            report.wrong(&at.child("dns"), problem, "lower the one or raise the other");
        }
    }

    pub(in crate::config) fn to_json(&self) -> Value {
        json!({
            "servers": self.servers,
            "ttl_min": text(self.ttl_min),
            "ttl_max": text(self.ttl_max),
        })
    }
}

/// Reads the section `dns`.
pub(in crate::config) fn dns(root: &mut Section<'_>) -> DnsConfig {
    let mut section = root.section("dns");
    let servers = section.values("servers", socket_addr);
    let bounds = || duration(millis(100)..=Duration::from_secs(86_400));
    let dns = DnsConfig {
        servers: servers.map_or(Vec::new(), values_of),
        ttl_min: section.value_or("ttl_min", bounds(), defaults::DNS_TTL_MIN),
        ttl_max: section.value_or("ttl_max", bounds(), defaults::DNS_TTL_MAX),
    };
    section.finish();
    dns
}
