//! What the request path counts about itself, for operators.
//!
//! Every worker counts in a shard of its own, so workers share no cache line; readers add the shards up.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use http::StatusCode;
use tracing_appender::non_blocking::ErrorCounter;

use super::upstream::{UpstreamReading, Upstreams};

use crate::admission::{bucket_of, micros};

pub use crate::admission::{LATENCY_BUCKETS, WaitEnd};

/// Counters of the request path. Readers call [`ProxyMetrics::snapshot`].
pub struct ProxyMetrics {
    shards: Box<[Shard]>,
    upstreams: ArcSwapOption<Upstreams>,
    access_log: ArcSwapOption<ErrorCounter>,
    certificates: ArcSwap<Vec<CertificateReading>>,
    reloads: [AtomicU64; ReloadOutcome::ALL.len()],
}

/// How an upstream failed a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpstreamFailure {
    /// Its name has no address.
    Unresolved,
    /// It refused the connection or could not be reached.
    Connect,
    /// It did not accept a connection in time.
    ConnectTimeout,
    /// No connection came free for it in time, or too many requests waited for one.
    Overloaded,
    /// It did not send the head of a response in time.
    ResponseTimeout,
    /// The connection broke before the head of a response, or what came was no HTTP.
    Broken,
    /// The connection broke in the body of a response.
    Body,
    /// It paused for too long in the body of a response, or that took too long.
    BodyTimeout,
    /// The request took too long in all, before the head of a response.
    TotalTimeout,
}

impl UpstreamFailure {
    /// Every way to fail, in the order of [`ProxySnapshot::upstream_failures`].
    pub const ALL: [Self; 9] = [
        Self::Unresolved,
        Self::Connect,
        Self::ConnectTimeout,
        Self::Overloaded,
        Self::ResponseTimeout,
        Self::Broken,
        Self::Body,
        Self::BodyTimeout,
        Self::TotalTimeout,
    ];

    /// The name in metrics.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Unresolved => "unresolved",
            Self::Connect => "connect",
            Self::ConnectTimeout => "connect_timeout",
            Self::Overloaded => "overloaded",
            Self::ResponseTimeout => "response_timeout",
            Self::Broken => "broken",
            Self::Body => "body",
            Self::BodyTimeout => "body_timeout",
            Self::TotalTimeout => "total_timeout",
        }
    }
}

/// How a connection failed before HTTP began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransportFailure {
    /// It had to begin with a PROXY header of a trusted proxy, and did not.
    ProxyHeader,
    /// Its TLS handshake failed.
    TlsHandshake,
}

impl TransportFailure {
    /// Every way to fail, in the order of [`ProxySnapshot::transport_failures`].
    pub const ALL: [Self; 2] = [Self::ProxyHeader, Self::TlsHandshake];

    /// The name in metrics.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::ProxyHeader => "proxy_header",
            Self::TlsHandshake => "tls_handshake",
        }
    }
}

/// Why Weir refused a request, or found no response to pass on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalReason {
    /// It breaks a rule of HTTP, or asks for what Weir does not do.
    Malformed,
    /// Its head or its body exceeds a limit.
    TooLarge,
    /// It came too slowly.
    TooSlow,
    /// A method that a gateway has no use for.
    Method,
    /// No route takes it.
    NoRoute,
    /// A rate limit is used up.
    RateLimit,
    /// Its upstream gave no response; [`UpstreamFailure`] says why.
    Upstream,
    /// Its client broke it off.
    ClientGone,
}

impl RefusalReason {
    /// Every reason, in the order of [`ProxySnapshot::refused`].
    pub const ALL: [Self; 8] = [
        Self::Malformed,
        Self::TooLarge,
        Self::TooSlow,
        Self::Method,
        Self::NoRoute,
        Self::RateLimit,
        Self::Upstream,
        Self::ClientGone,
    ];

    /// The name in metrics.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::TooLarge => "too_large",
            Self::TooSlow => "too_slow",
            Self::Method => "method",
            Self::NoRoute => "no_route",
            Self::RateLimit => "rate_limit",
            Self::Upstream => "upstream",
            Self::ClientGone => "client_gone",
        }
    }
}

/// What became of changed certificate files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReloadOutcome {
    /// They are in force.
    Changed,
    /// They could not be used; those before still are in force.
    Refused,
}

impl ReloadOutcome {
    /// Every outcome, in the order of [`ProxySnapshot::certificate_reloads`].
    pub const ALL: [Self; 2] = [Self::Changed, Self::Refused];

    /// The name in metrics.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Changed => "changed",
            Self::Refused => "refused",
        }
    }
}

/// A certificate that is in force.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CertificateReading {
    /// The file that it came from.
    pub file: String,
    /// The second since 1970 (UTC) from which clients refuse it.
    pub not_after: u64,
}

/// Sums over all workers at about one time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProxySnapshot {
    /// Responses by status class; index 0 is 1xx.
    pub responses: [u64; 5],
    /// Responses of Weir's own that refuse a request, in the order of [`RefusalReason::ALL`].
    pub refused: [u64; RefusalReason::ALL.len()],
    /// Limited requests that were admitted.
    pub admitted: u64,
    /// Limited requests that were denied.
    pub denied: u64,
    /// Of those, requests that lacked nothing but rights at the end: peers may have had some.
    pub denied_short: u64,
    /// Of those denied, requests in a bounded window that this node has no share of.
    pub denied_without_share: u64,
    /// Requests that began to wait for rights. Those that no [`ProxySnapshot::waits`] has wait now.
    pub waits_started: u64,
    /// Requests that found too many waiting to wait themselves.
    pub turned_away: u64,
    /// Waits that ended, in the order of [`WaitEnd::ALL`].
    pub waits: [u64; WaitEnd::ALL.len()],
    /// Waits by how long they were: not cumulative, in the order of [`LATENCY_BUCKETS`], and at last what is
    /// longer.
    pub wait_time: [u64; LATENCY_BUCKETS.len() + 1],
    /// Sum of those times in microseconds.
    pub wait_micros: u64,
    /// Requests being answered now.
    pub in_flight: u64,
    /// Client connections open now.
    pub connections: u64,
    /// Client connections accepted since the start.
    pub accepted: u64,
    /// Of those, connections closed at once since their client had too many.
    pub connections_refused: u64,
    /// Lines of the access log that were dropped.
    pub access_log_dropped: u64,
    /// TLS handshakes with clients that were finished.
    pub tls_handshakes: u64,
    /// Connections that failed before HTTP began, in the order of [`TransportFailure::ALL`].
    pub transport_failures: [u64; TransportFailure::ALL.len()],
    /// Changes of certificate files, in the order of [`ReloadOutcome::ALL`].
    pub certificate_reloads: [u64; ReloadOutcome::ALL.len()],
    /// The certificates in force, by file.
    pub certificates: Vec<CertificateReading>,
    /// Connections made to upstreams since the start.
    pub upstream_connections: u64,
    /// Failures, in the order of [`UpstreamFailure::ALL`].
    pub upstream_failures: [u64; UpstreamFailure::ALL.len()],
    /// Responses by the time from request head to response head: not cumulative, in the order of
    /// [`LATENCY_BUCKETS`], and at last what is slower.
    pub latency: [u64; LATENCY_BUCKETS.len() + 1],
    /// Sum of those times in microseconds.
    pub latency_micros: u64,
    /// Each upstream, in the order of the configuration.
    pub upstreams: Vec<UpstreamReading>,
}

impl ProxyMetrics {
    pub(super) fn new(workers: usize) -> Self {
        Self {
            shards: (0..workers.max(1)).map(|_| Shard::default()).collect(),
            upstreams: ArcSwapOption::empty(),
            access_log: ArcSwapOption::empty(),
            certificates: ArcSwap::default(),
            reloads: Default::default(),
        }
    }

    /// Reads these upstreams from now on.
    pub(super) fn watch(&self, upstreams: &Arc<Upstreams>) {
        self.upstreams.store(Some(Arc::clone(upstreams)));
    }

    /// Reads what this access log drops from now on.
    pub(super) fn watch_log(&self, dropped: ErrorCounter) {
        self.access_log.store(Some(Arc::new(dropped)));
    }

    /// The shard of one worker; only that worker's thread counts in it.
    pub(super) fn shard(&self, worker: usize) -> &Shard {
        &self.shards[worker % self.shards.len()]
    }

    /// Says which certificates are in force.
    pub(super) fn set_certificates(&self, readings: Vec<CertificateReading>) {
        self.certificates.store(Arc::new(readings));
    }

    /// Counts a change of certificate files.
    pub(super) fn reloaded(&self, outcome: ReloadOutcome) {
        self.reloads[outcome as usize].fetch_add(1, Relaxed);
    }

    /// Adds up what all workers have counted.
    #[must_use]
    pub fn snapshot(&self) -> ProxySnapshot {
        let mut sum = ProxySnapshot {
            access_log_dropped: self
                .access_log
                .load()
                .as_ref()
                .map_or(0, |log| log.dropped_lines() as u64),
            certificates: self.certificates.load().to_vec(),
            certificate_reloads: [0, 1].map(|outcome: usize| self.reloads[outcome].load(Relaxed)),
            ..ProxySnapshot::default()
        };
        for shard in &self.shards {
            add_all(&mut sum.responses, &shard.responses);
            add_all(&mut sum.refused, &shard.refused);
            add_all(&mut sum.upstream_failures, &shard.upstream_failures);
            add_all(&mut sum.latency, &shard.latency);
            add_all(&mut sum.transport_failures, &shard.transport_failures);
            add_all(&mut sum.waits, &shard.waits);
            add_all(&mut sum.wait_time, &shard.wait_time);
            sum.admitted += shard.admitted.0.load(Relaxed);
            sum.denied += shard.denied.0.load(Relaxed);
            sum.denied_short += shard.denied_short.0.load(Relaxed);
            sum.denied_without_share += shard.denied_without_share.0.load(Relaxed);
            sum.waits_started += shard.waits_started.0.load(Relaxed);
            sum.turned_away += shard.turned_away.0.load(Relaxed);
            sum.wait_micros += shard.wait_micros.0.load(Relaxed);
            sum.in_flight += shard.in_flight.0.load(Relaxed);
            sum.connections += shard.connections.0.load(Relaxed);
            sum.accepted += shard.accepted.0.load(Relaxed);
            sum.connections_refused += shard.connections_refused.0.load(Relaxed);
            sum.tls_handshakes += shard.tls_handshakes.0.load(Relaxed);
            sum.upstream_connections += shard.upstream_connections.0.load(Relaxed);
            sum.latency_micros += shard.latency_micros.0.load(Relaxed);
        }
        let upstreams = self.upstreams.load();
        sum.upstreams = upstreams
            .as_ref()
            .map_or(Vec::new(), |upstreams| upstreams.readings());
        sum
    }
}

/// One worker's counters, alone on their cache lines.
#[derive(Default)]
#[repr(align(128))]
pub(super) struct Shard {
    responses: [Count; 5],
    refused: [Count; RefusalReason::ALL.len()],
    pub(super) admitted: Count,
    pub(super) denied: Count,
    pub(super) denied_short: Count,
    pub(super) denied_without_share: Count,
    pub(super) waits_started: Count,
    pub(super) turned_away: Count,
    pub(super) in_flight: Count,
    pub(super) connections: Count,
    pub(super) accepted: Count,
    pub(super) connections_refused: Count,
    pub(super) upstream_connections: Count,
    pub(super) tls_handshakes: Count,
    transport_failures: [Count; TransportFailure::ALL.len()],
    upstream_failures: [Count; UpstreamFailure::ALL.len()],
    latency: [Count; LATENCY_BUCKETS.len() + 1],
    latency_micros: Count,
    waits: [Count; WaitEnd::ALL.len()],
    wait_time: [Count; LATENCY_BUCKETS.len() + 1],
    wait_micros: Count,
}

impl Shard {
    /// Counts a response whose head was ready `latency` after the request's.
    pub(super) fn responded(&self, status: StatusCode, latency: Duration) {
        let class = usize::from(status.as_u16() / 100).clamp(1, 5) - 1;
        self.responses[class].add(1);
        self.latency[bucket_of(latency)].add(1);
        self.latency_micros.add(micros(latency));
    }

    /// Counts a request that is refused, beside its response.
    pub(super) fn refused(&self, reason: RefusalReason) {
        self.refused[reason as usize].add(1);
    }

    /// Counts a wait for rights that `end`ed after `time`.
    pub(super) fn waited(&self, end: WaitEnd, time: Duration) {
        self.waits[end as usize].add(1);
        self.wait_time[bucket_of(time)].add(1);
        self.wait_micros.add(micros(time));
    }

    pub(super) fn transport_failed(&self, failure: TransportFailure) {
        self.transport_failures[failure as usize].add(1);
    }

    pub(super) fn upstream_failed(&self, failure: UpstreamFailure) {
        self.upstream_failures[failure as usize].add(1);
    }
}

/// A number that one thread writes and others read, so it needs no read-modify-write instruction.
#[derive(Default)]
pub(super) struct Count(AtomicU64);

impl Count {
    pub(super) fn add(&self, more: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(more), Relaxed);
    }

    /// What it is now.
    pub(super) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }

    pub(super) fn sub(&self, less: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_sub(less), Relaxed);
    }
}

fn add_all<const N: usize>(sums: &mut [u64; N], counts: &[Count; N]) {
    for (sum, count) in sums.iter_mut().zip(counts) {
        *sum += count.0.load(Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_adds_up_the_shards_and_sorts_latencies_by_upper_bound() {
        let metrics = ProxyMetrics::new(2);
        let ms = Duration::from_millis(1);
        metrics.shard(0).responded(StatusCode::OK, ms);
        metrics
            .shard(1)
            .responded(StatusCode::OK, ms + Duration::from_nanos(1));
        metrics
            .shard(1)
            .responded(StatusCode::BAD_GATEWAY, Duration::from_secs(11));
        for failure in UpstreamFailure::ALL {
            metrics.shard(0).upstream_failed(failure);
        }
        for reason in RefusalReason::ALL {
            metrics.shard(0).refused(reason);
        }
        for end in WaitEnd::ALL {
            metrics.shard(1).waited(end, 3 * ms);
        }
        let sum = metrics.snapshot();
        assert_eq!(sum.responses, [0, 2, 0, 0, 1]);
        assert_eq!(sum.refused, [1; RefusalReason::ALL.len()]);
        assert_eq!(sum.upstream_failures, [1; UpstreamFailure::ALL.len()]);
        assert_eq!((sum.latency[2], sum.latency[3], sum.latency[14]), (1, 1, 1));
        assert_eq!(sum.latency_micros, 11_002_000);
        assert_eq!(
            (sum.waits, sum.wait_time[4], sum.wait_micros),
            ([1; 4], 4, 12_000)
        );
    }
}
