//! What the cluster looks like from here, for the admin API and for readiness.

use std::time::Duration;

use tokio::sync::watch;
use tracing::warn;

use crate::bounded::EscrowReading;
use crate::replication::{PeerStatus, ReplicationStats, TransferStats};

use super::counters::TransportStats;

/// A snapshot of the gossip thread, at most a moment old.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClusterStatus {
    /// The peers as replication sees them, live first.
    pub peers: Vec<PeerStatus>,
    /// Totals of the replication core.
    pub replication: ReplicationStats,
    /// Totals of the gossip socket.
    pub transport: TransportStats,
    /// Id of the key that seals; `None` when gossip is open. The same on all nodes once a rotation is
    /// complete.
    pub sealing_key: Option<String>,
    /// How many keys open.
    pub key_count: usize,
    /// Whether this node holds all that one peer claimed when it joined.
    pub caught_up: bool,
    /// The roster and the shares in numbers.
    pub escrow: EscrowReading,
    /// How rights moved.
    pub transfers: TransferStats,
    /// Roster and estate records of peers, since the start, that could not be read.
    pub malformed_records: u64,
}

/// Decides when a node may take traffic: once it knows what one peer knows, or nobody answered.
/// Otherwise a new node would admit keys again that the cluster has exhausted.
pub(super) struct Readiness {
    ready: watch::Sender<bool>,
    /// Nobody is configured to be waited for.
    alone: bool,
    /// How long the start waits for a peer.
    join_grace: Duration,
    /// How long it waits for that peer's counts.
    met_at: Option<Duration>,
    has_peers: bool,
}

/// Longest wait for the counts of a peer that answered.
const CATCH_UP_MAX: Duration = Duration::from_secs(10);

impl Readiness {
    pub(super) fn new(ready: watch::Sender<bool>, alone: bool, join_grace: Duration) -> Self {
        Self {
            ready,
            alone,
            join_grace,
            met_at: None,
            has_peers: false,
        }
    }

    /// Membership shows live peers, or none.
    pub(super) fn met_peers(&mut self, has_peers: bool) {
        self.has_peers = has_peers;
    }

    /// Looks at the state at the monotonic instant `now`. Once ready, a node stays ready.
    pub(super) fn update(&mut self, now: Duration, is_caught_up: impl FnOnce() -> bool) {
        if *self.ready.borrow() {
            return;
        }
        if self.has_peers && self.met_at.is_none() {
            self.met_at = Some(now);
        }
        let ready = match self.met_at {
            Some(met_at) => {
                let caught_up = self.has_peers && is_caught_up();
                let overdue = now.saturating_sub(met_at) >= CATCH_UP_MAX;
                if overdue && !caught_up {
                    warn!(
                        "ready without having caught up with a peer in {CATCH_UP_MAX:?}: some counts are missing"
                    );
                }
                caught_up || overdue
            }
            None => self.alone || now >= self.join_grace,
        };
        if ready {
            self.ready.send_replace(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(3);

    fn readiness(alone: bool) -> (Readiness, watch::Receiver<bool>) {
        let (sender, receiver) = watch::channel(false);
        (Readiness::new(sender, alone, GRACE), receiver)
    }

    fn is_ready(
        readiness: &mut Readiness,
        seen: &watch::Receiver<bool>,
        at: Duration,
        caught_up: bool,
    ) -> bool {
        readiness.update(at, || caught_up);
        *seen.borrow()
    }

    #[test]
    fn a_node_without_seeds_is_ready_at_once_and_one_with_seeds_waits_out_its_grace() {
        let (mut alone, seen) = readiness(true);
        assert!(is_ready(&mut alone, &seen, Duration::ZERO, true));
        let (mut seeded, seen) = readiness(false);
        let before = GRACE - Duration::from_millis(1);
        // Without a peer the core has nothing to catch up with, and says so.
        assert!(!is_ready(&mut seeded, &seen, before, true));
        assert!(is_ready(&mut seeded, &seen, GRACE, true));
    }

    #[test]
    fn a_node_that_met_a_peer_waits_for_its_counts_but_not_for_ever() {
        let (mut node, seen) = readiness(false);
        node.met_peers(true);
        assert!(!is_ready(&mut node, &seen, GRACE, false));
        assert!(!is_ready(&mut node, &seen, GRACE * 2, false));
        assert!(is_ready(&mut node, &seen, GRACE * 2, true));
        let (mut slow, seen) = readiness(false);
        slow.met_peers(true);
        assert!(!is_ready(&mut slow, &seen, GRACE, false));
        slow.met_peers(false);
        assert!(!is_ready(
            &mut slow,
            &seen,
            GRACE + CATCH_UP_MAX - Duration::from_millis(1),
            true
        ));
        assert!(is_ready(&mut slow, &seen, GRACE + CATCH_UP_MAX, false));
        assert!(
            is_ready(&mut slow, &seen, Duration::ZERO, false),
            "once ready, always ready"
        );
    }
}
