//! The node itself: its version, whether it is ready, its mode, its table, its certificates and reloads.

use std::fmt;

use prometheus_client::metrics::MetricType;

use super::Metrics;
use super::families::Families;
use crate::limit::SyncMode;

impl Metrics {
    pub(super) fn encode_node(&self, out: &mut Families<'_>) -> fmt::Result {
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        out.family(
            "build_info",
            "The running version",
            MetricType::Gauge,
            |samples| samples.gauge(&version, 1),
        )?;
        out.gauge("ready", "Whether the node takes traffic", u64::from(self.ready))?;
        let modes = [SyncMode::Local, SyncMode::Gossip, SyncMode::Bounded];
        out.family(
            "sync_mode",
            "The cluster-wide mode in force",
            MetricType::Gauge,
            |samples| {
                modes.iter().try_for_each(|mode| {
                    samples.gauge(&[("mode", mode.to_string())], u64::from(*mode == self.mode))
                })
            },
        )
    }

    pub(super) fn encode_keys(&self, out: &mut Families<'_>) -> fmt::Result {
        out.gauge("keys_live", "Counters held", self.keys_live)?;
        out.counter("keys_evicted", "Counters evicted to make room", self.keys_evicted)?;
        out.counter(
            "keys_refused",
            "Counters refused by a full table",
            self.keys_refused,
        )?;
        out.counter(
            "keys_overflowed",
            "Requests under bounded rules that found no room to count in",
            self.keys_overflowed,
        )
    }

    pub(super) fn encode_transport(&self, out: &mut Families<'_>) -> fmt::Result {
        let help = "Client connections closed since their client had too many";
        out.counter("connections_refused", help, self.connections_refused)?;
        out.counter(
            "tls_handshakes",
            "TLS handshakes with clients",
            self.tls_handshakes,
        )?;
        let help = "Client connections that failed before HTTP began";
        out.counters("transport_failures", help, "reason", &self.transport_failures)?;
        let help = "Changes of certificate files";
        out.counters("certificate_reloads", help, "outcome", &self.certificate_reloads)?;
        let help = "Reloads of the configuration";
        out.counters("config_reloads", help, "outcome", &self.config_reloads)?;
        let help = "Unix time at which a certificate in force ends";
        out.family(
            "certificate_not_after_seconds",
            help,
            MetricType::Gauge,
            |samples| {
                let mut ends = self.certificate_ends.iter();
                ends.try_for_each(|(file, end)| samples.gauge(&[("file", file.as_str())], *end))
            },
        )
    }
}
