//! What a node measures, as OpenMetrics text: the names, the help and the units.
//!
//! The counters themselves live where they are counted, in whatever form is cheapest there. A scrape
//! reads them once into [`Metrics`], so the request path knows nothing of this format.

mod cluster;
mod families;
mod node;
mod requests;
#[cfg(test)]
mod tests;

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;

use crate::bounded::EscrowReading;
use crate::limit::SyncMode;
use crate::replication::{ReplicationStats, TransferStats};

use self::families::Families;

/// Media type of the text (OpenMetrics 1.0, which every Prometheus since 2.5 reads).
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// One reading of everything that a node measures. Counts are totals since its start.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// Whether `/readyz` answers 200.
    pub ready: bool,
    /// The cluster-wide mode in force here.
    pub mode: SyncMode,
    /// Answered requests by status class (`2xx`).
    pub requests: Vec<(&'static str, u64)>,
    /// Of those, requests that the node refused itself, by why.
    pub requests_refused: Vec<(&'static str, u64)>,
    /// Questions to the rate limit service, by interface and outcome.
    pub service_requests: Vec<(&'static str, &'static str, u64)>,
    /// Descriptors in shadow mode that were over their limit.
    pub service_shadow_denied: u64,
    /// Connections to the rate limit service open now.
    pub service_connections: u64,
    /// Decisions of the limiter.
    pub decisions: Vec<DecisionCount>,
    /// How long requests took, from head to the head of the response.
    pub request_duration: HistogramReading,
    /// Requests without an answer from their upstream, by what failed.
    pub upstream_failures: Vec<(&'static str, u64)>,
    /// Each upstream.
    pub upstreams: Vec<UpstreamReading>,
    /// Requests being answered now.
    pub requests_in_flight: u64,
    /// Client connections open now.
    pub connections: u64,
    /// Client connections closed at once since their client had too many.
    pub connections_refused: u64,
    /// Lines of the access log that were dropped.
    pub access_log_dropped: u64,
    /// TLS handshakes with clients that were finished.
    pub tls_handshakes: u64,
    /// Connections that failed before HTTP began, by what failed.
    pub transport_failures: Vec<(&'static str, u64)>,
    /// Changes of certificate files, by what became of them.
    pub certificate_reloads: Vec<(&'static str, u64)>,
    /// Configurations that were to come into force in the running node, by what became of them.
    pub config_reloads: Vec<(&'static str, u64)>,
    /// The file of each certificate in force, and its end in seconds since 1970.
    pub certificate_ends: Vec<(String, u64)>,
    /// Counters held now.
    pub keys_live: u64,
    /// Counters evicted to make room.
    pub keys_evicted: u64,
    /// Counters refused because the table was full.
    pub keys_refused: u64,
    /// Times that a request under a bounded rule found no room to count in.
    pub keys_overflowed: u64,
    /// Gossip datagrams and bytes.
    pub gossip: GossipReading,
    /// Other nodes that membership says are alive.
    pub peers_live: u64,
    /// Clock offset of each live peer in milliseconds; positive: it is ahead.
    pub peer_clock_offsets_ms: Vec<(String, i64)>,
    /// Live peers whose configuration differs from ours.
    pub config_mismatches: u64,
    /// What replication did.
    pub replication: ReplicationStats,
    /// Members and shares of bounded mode.
    pub roster: EscrowReading,
    /// Roster and estate records of peers that could not be read.
    pub records_malformed: u64,
    /// How rights moved between nodes.
    pub transfers: TransferStats,
    /// How requests waited for rights.
    pub waits: WaitReading,
}

/// How often one kind of decision was made.
#[derive(Clone, Debug)]
pub struct DecisionCount {
    /// The rule, where decisions are counted by rule.
    pub rule: Option<String>,
    /// The mode, where decisions are counted by mode.
    pub mode: Option<SyncMode>,
    /// `admitted` or `denied`.
    pub outcome: &'static str,
    /// How often.
    pub count: u64,
}

/// One upstream; counts are totals.
#[derive(Clone, Debug, Default)]
pub struct UpstreamReading {
    /// Its name.
    pub name: String,
    /// Its endpoints, each with its state: `good`, `unhealthy` or `ejected`.
    pub endpoints: Vec<(String, &'static str)>,
    /// No endpoint is good, so all are used.
    pub panic: bool,
    /// Requests in flight to it.
    pub in_flight: u64,
    /// Times that an endpoint was left out for failing requests.
    pub ejections: u64,
    /// Requests that were tried again, and those that the retry budget kept from it.
    pub retries: [(&'static str, u64); 2],
    /// Requests that waited for a connection in vain, by why.
    pub pending_refused: [(&'static str, u64); 2],
}

/// One reading of a histogram of durations.
#[derive(Clone, Debug, Default)]
pub struct HistogramReading {
    /// Upper bound in seconds (inclusive) and count of each bucket, not cumulative; the last is infinite.
    pub buckets: Vec<(f64, u64)>,
    /// Sum of all durations in seconds.
    pub sum_seconds: f64,
}

/// How requests waited for rights.
#[derive(Clone, Debug, Default)]
pub struct WaitReading {
    /// Requests that began to wait.
    pub started: u64,
    /// Requests that found too many waiting.
    pub turned_away: u64,
    /// Waits that ended, by how.
    pub ended: Vec<(&'static str, u64)>,
    /// How long they were.
    pub duration: HistogramReading,
    /// Requests denied that lacked nothing but rights.
    pub denied_short: u64,
    /// Requests denied in windows of which the node had no share.
    pub denied_without_share: u64,
}

/// Datagrams and bytes of the gossip socket.
#[derive(Clone, Debug, Default)]
pub struct GossipReading {
    /// Datagrams received.
    pub datagrams_received: u64,
    /// Datagrams sent.
    pub datagrams_sent: u64,
    /// Bytes received, sealed.
    pub bytes_received: u64,
    /// Bytes sent, sealed.
    pub bytes_sent: u64,
    /// Datagrams dropped, by reason.
    pub dropped: Vec<(&'static str, u64)>,
}

impl Metrics {
    /// The reading as OpenMetrics text.
    ///
    /// # Errors
    /// A formatter failed; writing to memory does not.
    pub fn encode(self) -> Result<String, fmt::Error> {
        let mut registry = Registry::with_prefix("weir");
        registry.register_collector(Box::new(self));
        let mut text = String::with_capacity(8 << 10);
        encode(&mut text, &registry)?;
        Ok(text)
    }
}

impl Collector for Metrics {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut out = Families(encoder);
        self.encode_node(&mut out)?;
        self.encode_requests(&mut out)?;
        self.encode_service(&mut out)?;
        self.encode_transport(&mut out)?;
        self.encode_keys(&mut out)?;
        self.encode_gossip(&mut out)?;
        self.encode_replication(&mut out)?;
        self.encode_roster(&mut out)?;
        self.encode_rights(&mut out)
    }
}
