//! This node as the admin API shows it: the parts' own terms, translated.

#![expect(clippy::disallowed_methods, reason = "a shell that reads the wall clock")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use async_trait::async_trait;

use super::reload::ReloadCounts;
use crate::admin::metrics::{self, DecisionCount, GossipReading, HistogramReading, Metrics, WaitReading};
use crate::admin::views::{
    ForgetView, ModeView, NodeState, NodeView, PeersView, RosterView, SelfView, rfc3339,
};
use crate::admin::{Node, Refused};
use crate::cluster::{ClusterHandle, ClusterStatus, Member, Presence, RowCounts};
use crate::config::Config;
use crate::limit::{Limiter, RowRef, SyncMode, UnixMillis};
use crate::proxy::{
    LATENCY_BUCKETS, ProxyMetrics, ProxySnapshot, RefusalReason, ReloadOutcome, TransportFailure,
    UpstreamFailure, UpstreamReading, WaitEnd,
};
use crate::ratelimit::{Api, Outcome, RatelimitMetrics, RatelimitSnapshot};
use crate::replica::{NodeId, ReplicaId};

/// What a running node is made of, as far as it can be looked at.
pub(super) struct Observed {
    pub(super) config: Arc<ArcSwap<Config>>,
    pub(super) reloads: Arc<ReloadCounts>,
    pub(super) replica: ReplicaId,
    pub(super) limiter: Arc<Limiter>,
    pub(super) proxy_metrics: Arc<ProxyMetrics>,
    pub(super) ratelimit_metrics: Option<Arc<RatelimitMetrics>>,
    pub(super) cluster: Arc<ClusterHandle>,
    pub(super) draining: Arc<AtomicBool>,
}

#[async_trait]
impl Node for Observed {
    fn now(&self) -> UnixMillis {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        UnixMillis(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
    }

    fn limiter(&self) -> &Limiter {
        &self.limiter
    }

    /// Listeners are up and the configuration is loaded before anybody can ask.
    fn missing(&self) -> Vec<String> {
        let joining = (!self.cluster.ready()).then_some("still learning the counts of the cluster");
        let superseded = self.cluster.superseded();
        let superseded = superseded.then_some("another process runs under this node's id, and started later");
        let draining = self.draining.load(Ordering::Acquire).then_some("stopping");
        joining
            .into_iter()
            .chain(superseded)
            .chain(draining)
            .map(str::to_owned)
            .collect()
    }

    fn peers(&self) -> PeersView {
        let status = self.cluster.status();
        let members = self.cluster.members();
        let others = members.iter().filter(|member| member.replica != self.replica);
        let mut peers: Vec<_> = others.map(|member| self.peer_view(member, &status)).collect();
        peers.sort_by_key(|peer| {
            (
                peer.state != NodeState::Live,
                peer.node_id.clone(),
                peer.generation,
            )
        });
        PeersView {
            this: self.self_view(&status),
            peers,
        }
    }

    fn config(&self) -> serde_json::Value {
        self.config.load().to_json()
    }

    fn metrics(&self) -> Metrics {
        let counters = self.limiter.counters().stats();
        let peers = self.peers().peers;
        let live: Vec<_> = peers
            .iter()
            .filter(|peer| peer.state == NodeState::Live)
            .collect();
        let offsets = live
            .iter()
            .filter_map(|peer| Some((peer.node_id.clone(), peer.clock_offset_ms?)));
        let mut metrics = Metrics {
            ready: self.missing().is_empty(),
            mode: self.limiter.mode(),
            keys_live: u64::from(counters.live),
            keys_evicted: counters.evicted,
            keys_refused: counters.refused,
            keys_overflowed: counters.overflowed,
            peers_live: live.len() as u64,
            peer_clock_offsets_ms: offsets.collect(),
            config_mismatches: live.iter().filter(|peer| !peer.config_matches).count() as u64,
            config_reloads: self.reloads.readings(),
            ..Metrics::default()
        };
        read_proxy(&mut metrics, &self.proxy_metrics.snapshot());
        if let Some(service) = &self.ratelimit_metrics {
            read_service(&mut metrics, &service.snapshot());
        }
        read_cluster(&mut metrics, &self.cluster.status());
        metrics
    }

    async fn row_counts(&self, rows: Vec<RowRef>) -> Vec<RowCounts> {
        // A node that is stopping still shows its totals.
        self.cluster.row_counts(rows).await.unwrap_or_default()
    }

    async fn set_mode(&self, mode: SyncMode) -> Result<ModeView, Refused> {
        if let Some(objection) = self.config.load().objection_to(mode) {
            return Err(Refused::Conflict(objection));
        }
        let set = self
            .cluster
            .set_mode(mode)
            .await
            .map_err(|error| Refused::Unavailable(error.to_string()))?;
        Ok(ModeView {
            mode: set.mode,
            version: set.version,
            from: (set.from.0 > 0).then(|| rfc3339(set.from)),
        })
    }

    async fn roster(&self) -> Result<RosterView, String> {
        let status = self.cluster.roster().await.map_err(|error| error.to_string())?;
        Ok(super::roster::view(&status))
    }

    async fn forget(&self, node: NodeId) -> Result<ForgetView, Refused> {
        super::roster::forget(&self.cluster, node).await
    }
}

impl Observed {
    fn self_view(&self, status: &ClusterStatus) -> SelfView {
        let draining = self.draining.load(Ordering::Acquire);
        let config = self.config.load();
        let node = NodeView {
            node_id: self.replica.node.to_string(),
            generation: self.replica.generation.0,
            gossip_address: Some(self.cluster.gossip_address().to_string()),
            admin_address: Some(config.admin.listen.to_string()),
            listen_address: config.listen.first().map(|one| one.address.to_string()),
            state: if draining {
                NodeState::Leaving
            } else {
                NodeState::Live
            },
            last_row_age_ms: Some(0),
            clock_offset_ms: Some(0),
            config_digest: Some(config.digest()),
            config_matches: true,
            version: Some(env!("CARGO_PKG_VERSION").to_owned()),
            mode: Some(self.limiter.mode()),
        };
        SelfView {
            node,
            ready: self.missing().is_empty(),
            gossip_key: status.sealing_key.clone(),
            gossip_keys: status.key_count,
            frame_version: status.replication.frame_version,
        }
    }

    fn peer_view(&self, member: &Member, status: &ClusterStatus) -> NodeView {
        let heard = status.peers.iter().find(|peer| peer.replica == member.replica);
        let told = &member.attributes;
        let digest = Some(&told.config_digest).filter(|digest| !digest.is_empty());
        NodeView {
            node_id: member.replica.node.to_string(),
            generation: member.replica.generation.0,
            gossip_address: Some(member.address.to_string()),
            admin_address: told.admin.map(|address| address.to_string()),
            listen_address: first(&told.listen),
            state: match (told.presence, member.live) {
                (Presence::Staying, true) => NodeState::Live,
                (Presence::Leaving, true) => NodeState::Leaving,
                (_, _) => NodeState::Dead,
            },
            last_row_age_ms: heard.and_then(|peer| peer.last_heard).map(millis),
            clock_offset_ms: heard.and_then(|peer| peer.clock_offset_ms),
            config_digest: digest.cloned(),
            config_matches: digest.is_none_or(|digest| *digest == self.config.load().digest()),
            version: Some(told.version.clone()).filter(|version| !version.is_empty()),
            mode: told.mode.map(|told| told.set.mode),
        }
    }
}

fn read_proxy(metrics: &mut Metrics, proxy: &ProxySnapshot) {
    let classes = ["1xx", "2xx", "3xx", "4xx", "5xx"];
    metrics.requests = classes.into_iter().zip(proxy.responses).collect();
    let reasons = RefusalReason::ALL.map(RefusalReason::label);
    metrics.requests_refused = reasons.into_iter().zip(proxy.refused).collect();
    let decision = |outcome, count| DecisionCount {
        rule: None,
        mode: None,
        outcome,
        count,
    };
    metrics.decisions = vec![
        decision("admitted", proxy.admitted),
        decision("denied", proxy.denied),
    ];
    let failures = UpstreamFailure::ALL.map(UpstreamFailure::label);
    metrics.upstream_failures = failures.into_iter().zip(proxy.upstream_failures).collect();
    metrics.upstreams = proxy.upstreams.iter().map(upstream).collect();
    metrics.requests_in_flight = proxy.in_flight;
    metrics.connections = proxy.connections;
    metrics.connections_refused = proxy.connections_refused;
    metrics.access_log_dropped = proxy.access_log_dropped;
    metrics.tls_handshakes = proxy.tls_handshakes;
    let failures = TransportFailure::ALL.map(TransportFailure::label);
    metrics.transport_failures = failures.into_iter().zip(proxy.transport_failures).collect();
    let outcomes = ReloadOutcome::ALL.map(ReloadOutcome::label);
    metrics.certificate_reloads = outcomes.into_iter().zip(proxy.certificate_reloads).collect();
    let certificates = proxy.certificates.iter();
    metrics.certificate_ends = certificates
        .map(|one| (one.file.clone(), one.not_after))
        .collect();
    metrics.request_duration = histogram(proxy.latency, proxy.latency_micros);
    metrics.waits = WaitReading {
        started: proxy.waits_started,
        turned_away: proxy.turned_away,
        ended: WaitEnd::ALL
            .map(WaitEnd::label)
            .into_iter()
            .zip(proxy.waits)
            .collect(),
        duration: histogram(proxy.wait_time, proxy.wait_micros),
        denied_short: proxy.denied_short,
        denied_without_share: proxy.denied_without_share,
    };
}

/// Adds what the service counted to what the proxy did, where both count the same.
fn read_service(metrics: &mut Metrics, service: &RatelimitSnapshot) {
    for (api, counts) in Api::ALL.into_iter().zip(service.requests) {
        let outcomes = Outcome::ALL.map(Outcome::label).into_iter().zip(counts);
        let reading = |(outcome, count)| (api.label(), outcome, count);
        metrics.service_requests.extend(outcomes.map(reading));
    }
    metrics.service_shadow_denied = service.shadow_denied;
    metrics.service_connections = service.connections;
    let waits = &mut metrics.waits;
    waits.started += service.waits_started;
    waits.turned_away += service.turned_away;
    waits.denied_short += service.denied_short;
    waits.denied_without_share += service.denied_without_share;
    for ((_, sum), more) in waits.ended.iter_mut().zip(service.waits) {
        *sum += more;
    }
    let own = histogram(service.wait_time, service.wait_micros);
    for ((_, sum), (_, more)) in waits.duration.buckets.iter_mut().zip(own.buckets) {
        *sum += more;
    }
    waits.duration.sum_seconds += own.sum_seconds;
}

fn upstream(reading: &UpstreamReading) -> metrics::UpstreamReading {
    let endpoints = reading.endpoints.iter().map(|endpoint| {
        let state = match (endpoint.is_healthy, endpoint.is_ejected) {
            (false, _) => "unhealthy",
            (true, true) => "ejected",
            (true, false) => "good",
        };
        (endpoint.name.clone(), state)
    });
    metrics::UpstreamReading {
        name: reading.name.clone(),
        endpoints: endpoints.collect(),
        panic: reading.is_panic,
        in_flight: reading.in_flight,
        ejections: reading.ejections,
        retries: [
            ("sent", reading.retries),
            ("over_budget", reading.retries_refused),
        ],
        pending_refused: [
            ("queue_full", reading.pending_refused),
            ("timed_out", reading.pending_timed_out),
        ],
    }
}

fn histogram(counts: [u64; LATENCY_BUCKETS.len() + 1], sum_micros: u64) -> HistogramReading {
    let bounds = LATENCY_BUCKETS.iter().map(Duration::as_secs_f64);
    HistogramReading {
        buckets: bounds.chain([f64::INFINITY]).zip(counts).collect(),
        sum_seconds: Duration::from_micros(sum_micros).as_secs_f64(),
    }
}

fn read_cluster(metrics: &mut Metrics, status: &ClusterStatus) {
    metrics.replication = status.replication;
    metrics.roster = status.escrow;
    metrics.records_malformed = status.malformed_records;
    metrics.transfers = status.transfers;
    metrics.gossip = GossipReading {
        datagrams_received: status.transport.datagrams_received,
        datagrams_sent: status.transport.datagrams_sent,
        bytes_received: status.transport.bytes_received,
        bytes_sent: status.transport.bytes_sent,
        dropped: status.transport.dropped.clone(),
    };
}

fn first(addresses: &[SocketAddr]) -> Option<String> {
    addresses.first().map(SocketAddr::to_string)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
