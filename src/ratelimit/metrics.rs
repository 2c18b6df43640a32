//! What the service counts about itself, for operators.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::admission::{LATENCY_BUCKETS, WaitEnd, WaitLog, bucket_of, micros};

/// By which of its interfaces the service is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Api {
    /// Envoy's `ShouldRateLimit`.
    Envoy,
    /// `/v1/check`.
    Check,
}

impl Api {
    /// Every interface, in the order of [`RatelimitSnapshot::requests`].
    pub const ALL: [Self; 2] = [Self::Envoy, Self::Check];

    /// The name in metrics.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Envoy => "envoy",
            Self::Check => "check",
        }
    }
}

/// What became of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It may pass, and was counted.
    Admitted,
    /// No limit applies.
    Unlimited,
    /// It is over a limit, and was counted nowhere.
    Denied,
    /// It cannot be answered: it is malformed or too large, or came too slowly.
    Malformed,
    /// It came without the token.
    Unauthorized,
}

impl Outcome {
    /// Every outcome, in the order of [`RatelimitSnapshot::requests`].
    pub const ALL: [Self; 5] = [
        Self::Admitted,
        Self::Unlimited,
        Self::Denied,
        Self::Malformed,
        Self::Unauthorized,
    ];

    /// The name in metrics.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Admitted => "admitted",
            Self::Unlimited => "unlimited",
            Self::Denied => "denied",
            Self::Malformed => "malformed",
            Self::Unauthorized => "unauthorized",
        }
    }
}

/// Counters of the service. Readers call [`RatelimitMetrics::snapshot`].
#[derive(Debug, Default)]
pub struct RatelimitMetrics {
    requests: [[AtomicU64; Outcome::ALL.len()]; Api::ALL.len()],
    shadow_denied: AtomicU64,
    connections: AtomicU64,
    denied_short: AtomicU64,
    denied_without_share: AtomicU64,
    waits_started: AtomicU64,
    turned_away: AtomicU64,
    waits: [AtomicU64; WaitEnd::ALL.len()],
    wait_time: [AtomicU64; LATENCY_BUCKETS.len() + 1],
    wait_micros: AtomicU64,
}

/// One reading of [`RatelimitMetrics`]. Counts are totals since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RatelimitSnapshot {
    /// Questions, in the orders of [`Api::ALL`] and [`Outcome::ALL`].
    pub requests: [[u64; Outcome::ALL.len()]; Api::ALL.len()],
    /// Descriptors in shadow mode that were over their limit.
    pub shadow_denied: u64,
    /// Connections open now.
    pub connections: u64,
    /// Denied for want of rights alone.
    pub denied_short: u64,
    /// Denied in windows of which the node had no share.
    pub denied_without_share: u64,
    /// Questions that began to wait for rights.
    pub waits_started: u64,
    /// Questions that found too many waiting.
    pub turned_away: u64,
    /// Waits that ended, in the order of [`WaitEnd::ALL`].
    pub waits: [u64; WaitEnd::ALL.len()],
    /// Waits by how long they were, in the order of [`LATENCY_BUCKETS`], and at last what is slower.
    pub wait_time: [u64; LATENCY_BUCKETS.len() + 1],
    /// The time of all waits.
    pub wait_micros: u64,
}

impl RatelimitMetrics {
    /// A reading of all.
    #[must_use]
    pub fn snapshot(&self) -> RatelimitSnapshot {
        let read = |count: &AtomicU64| count.load(Relaxed);
        RatelimitSnapshot {
            requests: self.requests.each_ref().map(|counts| counts.each_ref().map(read)),
            shadow_denied: read(&self.shadow_denied),
            connections: read(&self.connections),
            denied_short: read(&self.denied_short),
            denied_without_share: read(&self.denied_without_share),
            waits_started: read(&self.waits_started),
            turned_away: read(&self.turned_away),
            waits: self.waits.each_ref().map(read),
            wait_time: self.wait_time.each_ref().map(read),
            wait_micros: read(&self.wait_micros),
        }
    }

    pub(super) fn asked(&self, api: Api, outcome: Outcome) {
        self.requests[api as usize][outcome as usize].fetch_add(1, Relaxed);
    }

    pub(super) fn shadow_denied(&self) {
        self.shadow_denied.fetch_add(1, Relaxed);
    }

    pub(super) fn denied(&self, is_short: bool, without_share: bool) {
        self.denied_short.fetch_add(u64::from(is_short), Relaxed);
        self.denied_without_share
            .fetch_add(u64::from(without_share), Relaxed);
    }

    pub(super) fn connected(&self) {
        self.connections.fetch_add(1, Relaxed);
    }

    pub(super) fn disconnected(&self) {
        self.connections.fetch_sub(1, Relaxed);
    }
}

impl WaitLog for RatelimitMetrics {
    fn began(&self) {
        self.waits_started.fetch_add(1, Relaxed);
    }

    fn turned_away(&self) {
        self.turned_away.fetch_add(1, Relaxed);
    }

    fn ended(&self, end: WaitEnd, time: Duration) {
        self.waits[end as usize].fetch_add(1, Relaxed);
        self.wait_time[bucket_of(time)].fetch_add(1, Relaxed);
        self.wait_micros.fetch_add(micros(time), Relaxed);
    }
}
