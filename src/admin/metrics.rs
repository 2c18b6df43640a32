//! What a node measures, as OpenMetrics text: the names, the help and the units.
//!
//! The counters themselves live where they are counted, in whatever form is cheapest there. A scrape
//! reads them once into [`Metrics`], so the request path knows nothing of this format.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use crate::bounded::EscrowReading;
use crate::limit::SyncMode;
use crate::replication::{ReplicationStats, TransferStats};

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

impl Metrics {
    fn encode_node(&self, out: &mut Families<'_>) -> fmt::Result {
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

    fn encode_service(&self, out: &mut Families<'_>) -> fmt::Result {
        let help = "Questions to the rate limit service";
        out.family("ratelimit_requests", help, MetricType::Counter, |samples| {
            let mut requests = self.service_requests.iter();
            requests.try_for_each(|(api, outcome, count)| {
                samples.counter(&[("api", *api), ("outcome", *outcome)], *count)
            })
        })?;
        let help = "Descriptors in shadow mode that were over their limit";
        out.counter("ratelimit_shadow_denied", help, self.service_shadow_denied)?;
        let help = "Open connections to the rate limit service";
        out.gauge("ratelimit_connections", help, self.service_connections)
    }

    fn encode_requests(&self, out: &mut Families<'_>) -> fmt::Result {
        out.counters("requests", "Requests answered", "status_class", &self.requests)?;
        let help = "Requests that the node refused itself";
        out.counters("requests_refused", help, "reason", &self.requests_refused)?;
        let help = "Lines of the access log that were dropped";
        out.counter("access_log_dropped", help, self.access_log_dropped)?;
        out.family(
            "decisions",
            "Decisions of the limiter",
            MetricType::Counter,
            |samples| {
                self.decisions.iter().try_for_each(|decision| {
                    let rule = decision.rule.clone().map(|rule| ("rule", rule));
                    let mode = decision.mode.map(|mode| ("mode", mode.to_string()));
                    let outcome = ("outcome", decision.outcome.to_owned());
                    let labels: Vec<_> = rule.into_iter().chain(mode).chain([outcome]).collect();
                    samples.counter(&labels, decision.count)
                })
            },
        )?;
        let help = "Time from a request's head to its response's head";
        out.histogram("request_duration_seconds", help, &self.request_duration)?;
        let help = "Requests that no upstream answered";
        out.counters("upstream_failures", help, "reason", &self.upstream_failures)?;
        self.encode_upstreams(out)?;
        out.gauge(
            "requests_in_flight",
            "Requests being answered",
            self.requests_in_flight,
        )?;
        out.gauge("connections", "Open client connections", self.connections)
    }

    fn encode_upstreams(&self, out: &mut Families<'_>) -> fmt::Result {
        let help = "Endpoints of an upstream and how they stand";
        out.family("upstream_endpoint", help, MetricType::Gauge, |samples| {
            self.upstreams.iter().try_for_each(|upstream| {
                upstream.endpoints.iter().try_for_each(|(endpoint, state)| {
                    let labels = [
                        ("upstream", upstream.name.as_str()),
                        ("endpoint", endpoint),
                        ("state", state),
                    ];
                    samples.gauge(&labels, 1)
                })
            })
        })?;
        type Value<T> = fn(&UpstreamReading) -> T;
        let gauges: [(&str, &str, Value<u64>); 2] = [
            (
                "upstream_panic",
                "Whether no endpoint is good, so that all are used",
                |upstream| u64::from(upstream.panic),
            ),
            (
                "upstream_requests_in_flight",
                "Requests in flight to an upstream",
                |upstream| upstream.in_flight,
            ),
        ];
        for (name, help, value) in gauges {
            out.family(name, help, MetricType::Gauge, |samples| {
                let mut upstreams = self.upstreams.iter();
                upstreams.try_for_each(|it| samples.gauge(&[("upstream", it.name.as_str())], value(it)))
            })?;
        }
        let help = "Times that an endpoint was left out for failing requests";
        out.family("upstream_ejections", help, MetricType::Counter, |samples| {
            let mut upstreams = self.upstreams.iter();
            upstreams.try_for_each(|it| samples.counter(&[("upstream", it.name.as_str())], it.ejections))
        })?;
        type Counts = Value<[(&'static str, u64); 2]>;
        let counters: [(&str, &str, Counts); 2] = [
            (
                "upstream_retries",
                "Requests tried again, or kept from it by the retry budget",
                |upstream| upstream.retries,
            ),
            (
                "upstream_pending_refused",
                "Requests that found no connection to an upstream",
                |upstream| upstream.pending_refused,
            ),
        ];
        for (name, help, counts) in counters {
            out.family(name, help, MetricType::Counter, |samples| {
                self.upstreams.iter().try_for_each(|upstream| {
                    counts(upstream).iter().try_for_each(|(why, count)| {
                        let labels = [("upstream", upstream.name.as_str()), ("outcome", *why)];
                        samples.counter(&labels, *count)
                    })
                })
            })?;
        }
        Ok(())
    }

    fn encode_transport(&self, out: &mut Families<'_>) -> fmt::Result {
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

    fn encode_keys(&self, out: &mut Families<'_>) -> fmt::Result {
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

    fn encode_gossip(&self, out: &mut Families<'_>) -> fmt::Result {
        let gossip = &self.gossip;
        let datagrams = [
            ("received", gossip.datagrams_received),
            ("sent", gossip.datagrams_sent),
        ];
        out.counters("gossip_datagrams", "Gossip datagrams", "direction", &datagrams)?;
        let bytes = [("received", gossip.bytes_received), ("sent", gossip.bytes_sent)];
        out.counters(
            "gossip_bytes",
            "Gossip bytes on the wire, sealed",
            "direction",
            &bytes,
        )?;
        out.counters(
            "gossip_dropped",
            "Gossip datagrams dropped",
            "reason",
            &gossip.dropped,
        )?;
        out.gauge("peers_live", "Other nodes that are alive", self.peers_live)?;
        let help = "Clock of a peer against ours; positive: it is ahead";
        out.family("peer_clock_offset_seconds", help, MetricType::Gauge, |samples| {
            self.peer_clock_offsets_ms
                .iter()
                .try_for_each(|(peer, offset)| samples.gauge_seconds(&[("peer", peer.as_str())], *offset))
        })?;
        let help = "Live peers whose configuration differs from ours";
        out.gauge("config_mismatch", help, self.config_mismatches)
    }

    fn encode_replication(&self, out: &mut Families<'_>) -> fmt::Result {
        let stats = &self.replication;
        out.gauge("replication_rows", "Rows of all replicas held", stats.rows)?;
        let frames = [
            ("received", stats.frames_received),
            ("refused", stats.frames_refused),
        ];
        out.counters(
            "replication_frames",
            "Frames handled and refused",
            "outcome",
            &frames,
        )?;
        let rows = [("raised", stats.rows_merged), ("refused", stats.rows_refused)];
        out.counters(
            "replication_rows_received",
            "Rows merged and refused",
            "outcome",
            &rows,
        )?;
        let pushes = [("due", stats.pushes_due), ("tick", stats.pushes_tick)];
        out.counters("replication_pushes", "Pushes of own rows", "cause", &pushes)?;
        let help = "Rows of dead replicas that this node passes on as its own";
        out.counter("replication_rows_adopted", help, stats.rows_adopted)?;
        let help = "Version of the replication frames sent: the newest that every live peer takes in";
        out.gauge("replication_frame_version", help, stats.frame_version.into())?;
        let help = "Frames sent to repair what a peer lacked";
        out.counter("replication_repairs", help, stats.repairs)
    }

    fn encode_roster(&self, out: &mut Families<'_>) -> fmt::Result {
        let roster = &self.roster;
        let help = "Replicas that share limits in bounded mode, this one included";
        out.gauge("roster_members", help, roster.members)?;
        let help = "Of them, those that are dead or do not count this one";
        out.gauge("roster_members_missing", help, roster.members_missing)?;
        let help = "Window starts of which this node took its share";
        out.counter("shares_decided", help, roster.shares_decided)?;
        let help = "Windows in progress of bounded rules of which this node has no share";
        out.gauge("shares_blocked", help, roster.shares_blocked)?;
        let help = "Replicas that left and whose rights this node owns";
        out.gauge("estates_inherited", help, roster.inherited)?;
        let help = "Roster and estate records of peers that could not be read";
        out.counter("records_malformed", help, self.records_malformed)
    }

    fn encode_rights(&self, out: &mut Families<'_>) -> fmt::Result {
        let transfers = &self.transfers;
        out.counter(
            "rights_asks",
            "Asks for rights sent, repeated ones included",
            transfers.asks,
        )?;
        let help = "Asks of this node that were answered with nothing left";
        out.counter("rights_asks_empty", help, transfers.answers_empty)?;
        let moved = [("granted", transfers.granted), ("received", transfers.received)];
        out.counters("rights_moved", "Hits of rights that moved", "direction", &moved)?;
        let help = "Counters of which rights moved or were asked for";
        out.gauge("rights_rows", help, transfers.rows)?;
        let help = "Of them, those of which no live node has rights left";
        out.gauge("rights_rows_exhausted", help, transfers.exhausted)?;
        let waits = &self.waits;
        out.counter(
            "rights_waits_started",
            "Requests that waited for rights",
            waits.started,
        )?;
        let help = "Requests that found too many others waiting for rights";
        out.counter("rights_waits_turned_away", help, waits.turned_away)?;
        out.counters(
            "rights_waits",
            "Waits for rights that ended",
            "outcome",
            &waits.ended,
        )?;
        let help = "Time that requests waited for rights";
        out.histogram("rights_wait_seconds", help, &waits.duration)?;
        let help = "Requests denied that lacked nothing but rights, which other nodes may have had";
        out.counter("denied_short_of_rights", help, waits.denied_short)?;
        let help = "Requests denied in windows of bounded rules of which this node has no share";
        out.counter("denied_without_share", help, waits.denied_without_share)
    }
}

/// Writes whole families, each with its description.
struct Families<'a>(DescriptorEncoder<'a>);

impl Families<'_> {
    fn family(
        &mut self,
        name: &str,
        help: &str,
        kind: MetricType,
        samples: impl FnOnce(&mut Samples<'_>) -> fmt::Result,
    ) -> fmt::Result {
        samples(&mut Samples(self.0.encode_descriptor(name, help, None, kind)?))
    }

    fn gauge(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let mut encoder = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        encoder.encode_gauge(&value)
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let mut encoder = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        encoder.encode_counter::<NoLabelSet, _, u64>(&value, None)
    }

    fn counters(&mut self, name: &str, help: &str, label: &str, values: &[(&str, u64)]) -> fmt::Result {
        self.family(name, help, MetricType::Counter, |samples| {
            let mut values = values.iter();
            values.try_for_each(|(value, count)| samples.counter(&[(label, *value)], *count))
        })
    }

    fn histogram(&mut self, name: &str, help: &str, reading: &HistogramReading) -> fmt::Result {
        let count = reading.buckets.iter().map(|(_, count)| count).sum();
        let mut encoder = self
            .0
            .encode_descriptor(name, help, None, MetricType::Histogram)?;
        encoder.encode_histogram::<NoLabelSet>(reading.sum_seconds, count, &reading.buckets, None)
    }
}

/// Writes the samples of one family.
struct Samples<'a>(MetricEncoder<'a>);

impl Samples<'_> {
    fn gauge<L: EncodeLabelSet>(&mut self, labels: &L, value: u64) -> fmt::Result {
        self.0.encode_family(labels)?.encode_gauge(&value)
    }

    fn gauge_seconds<L: EncodeLabelSet>(&mut self, labels: &L, millis: i64) -> fmt::Result {
        let seconds = std::time::Duration::from_millis(millis.unsigned_abs()).as_secs_f64();
        let seconds = if millis < 0 { -seconds } else { seconds };
        self.0.encode_family(labels)?.encode_gauge(&seconds)
    }

    fn counter<L: EncodeLabelSet>(&mut self, labels: &L, value: u64) -> fmt::Result {
        let mut encoder = self.0.encode_family(labels)?;
        encoder.encode_counter::<NoLabelSet, _, u64>(&value, None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line_of<'a>(text: &'a str, start: &str) -> Option<&'a str> {
        text.lines().find(|line| line.starts_with(start))
    }

    #[test]
    fn every_reading_appears_under_its_conventional_name() {
        let metrics = Metrics {
            ready: true,
            mode: SyncMode::Gossip,
            requests: vec![("2xx", 7), ("4xx", 3)],
            requests_refused: vec![("no_route", 5)],
            connections_refused: 14,
            access_log_dropped: 15,
            decisions: vec![
                DecisionCount {
                    rule: None,
                    mode: None,
                    outcome: "denied",
                    count: 3,
                },
                DecisionCount {
                    rule: Some("a\"b".into()),
                    mode: Some(SyncMode::Local),
                    outcome: "admitted",
                    count: 9,
                },
            ],
            request_duration: HistogramReading {
                buckets: vec![(0.001, 2), (0.01, 3), (f64::INFINITY, 1)],
                sum_seconds: 0.5,
            },
            tls_handshakes: 8,
            transport_failures: vec![("tls_handshake", 2)],
            certificate_reloads: vec![("refused", 1)],
            config_reloads: vec![("applied", 2)],
            certificate_ends: vec![("/tls/a.pem".into(), 1_900_000_000)],
            upstreams: vec![UpstreamReading {
                name: "app".into(),
                endpoints: vec![("10.0.0.1:80".into(), "ejected")],
                panic: true,
                ejections: 2,
                retries: [("sent", 5), ("over_budget", 1)],
                ..UpstreamReading::default()
            }],
            keys_evicted: 4,
            gossip: GossipReading {
                bytes_sent: 12,
                dropped: vec![("bad_tag", 2)],
                ..Default::default()
            },
            peer_clock_offsets_ms: vec![("b".into(), -1500)],
            config_mismatches: 1,
            roster: EscrowReading {
                members: 3,
                members_missing: 1,
                ..EscrowReading::default()
            },
            transfers: TransferStats {
                granted: 40,
                ..TransferStats::default()
            },
            waits: WaitReading {
                ended: vec![("served", 6)],
                ..WaitReading::default()
            },
            ..Metrics::default()
        };
        let text = metrics.encode().unwrap();
        for expected in [
            "weir_ready 1",
            "weir_sync_mode{mode=\"gossip\"} 1",
            "weir_roster_members 3",
            "weir_roster_members_missing 1",
            "weir_rights_moved_total{direction=\"granted\"} 40",
            "weir_rights_waits_total{outcome=\"served\"} 6",
            "weir_sync_mode{mode=\"local\"} 0",
            "weir_requests_total{status_class=\"2xx\"} 7",
            "weir_requests_refused_total{reason=\"no_route\"} 5",
            "weir_connections_refused_total 14",
            "weir_access_log_dropped_total 15",
            "weir_decisions_total{outcome=\"denied\"} 3",
            "weir_decisions_total{rule=\"a\\\"b\",mode=\"local\",outcome=\"admitted\"} 9",
            "weir_request_duration_seconds_bucket{le=\"0.01\"} 5",
            "weir_request_duration_seconds_bucket{le=\"+Inf\"} 6",
            "weir_request_duration_seconds_count 6",
            "weir_tls_handshakes_total 8",
            "weir_transport_failures_total{reason=\"tls_handshake\"} 2",
            "weir_certificate_reloads_total{outcome=\"refused\"} 1",
            "weir_config_reloads_total{outcome=\"applied\"} 2",
            "weir_certificate_not_after_seconds{file=\"/tls/a.pem\"} 1900000000",
            "weir_upstream_endpoint{upstream=\"app\",endpoint=\"10.0.0.1:80\",state=\"ejected\"} 1",
            "weir_upstream_panic{upstream=\"app\"} 1",
            "weir_upstream_ejections_total{upstream=\"app\"} 2",
            "weir_upstream_retries_total{upstream=\"app\",outcome=\"over_budget\"} 1",
            "weir_keys_evicted_total 4",
            "weir_gossip_bytes_total{direction=\"sent\"} 12",
            "weir_gossip_dropped_total{reason=\"bad_tag\"} 2",
            "weir_peer_clock_offset_seconds{peer=\"b\"} -1.5",
            "weir_config_mismatch 1",
            "# TYPE weir_requests counter",
        ] {
            assert!(
                text.lines().any(|line| line == expected),
                "no line `{expected}` in\n{text}"
            );
        }
        assert!(line_of(&text, "weir_build_info{version=\"").is_some_and(|line| line.ends_with(" 1")));
        assert!(text.ends_with("# EOF\n"));
    }
}
