//! One simulated node: a real limiter and a real replication core, and clocks that may be wrong.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::bounded::RosterConfig;
use crate::limit::significance::Significance;
use crate::limit::{Limiter, Now, Rule, SyncMode, UnixMillis};
use crate::replica::{Generation, NodeId, ReplicaId};
use crate::replication::{Replication, ReplicationConfig};

use super::steward::Steward;

/// Where simulations start unless told otherwise: a Monday at noon, so that no calendar window ends by
/// accident.
pub(super) const EPOCH: UnixMillis = UnixMillis(1_767_614_400_000);

/// How wrong a node's wall clock is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Clock {
    /// Milliseconds ahead at the start.
    pub(super) skew_ms: i64,
    /// Millionths that it runs fast.
    pub(super) drift_ppm: i64,
}

impl Clock {
    /// How far it is ahead at virtual time `at`.
    fn ahead_ms(self, at: Duration) -> i128 {
        let drift = at.as_millis() as i128 * i128::from(self.drift_ppm) / 1_000_000;
        drift + i128::from(self.skew_ms)
    }
}

/// What a node needs to start.
#[derive(Clone, Debug)]
pub(super) struct NodeConfig {
    pub(super) rules: Vec<Rule>,
    pub(super) mode: SyncMode,
    pub(super) significance: Significance,
    pub(super) max_keys: u32,
    pub(super) replication: ReplicationConfig,
    /// What a right wall clock shows at virtual time zero.
    pub(super) starts_at: UnixMillis,
    /// Where bounded mode is played, what its operator decided.
    pub(super) roster: Option<RosterConfig>,
}

pub(super) struct Node {
    pub(super) replica: ReplicaId,
    pub(super) limiter: Limiter,
    pub(super) replication: Replication,
    pub(super) alive: bool,
    /// Replicas that it has seen alive.
    pub(super) met: BTreeSet<ReplicaId>,
    /// Its core stands still: what it says is made up.
    pub(super) is_hostile: bool,
    pub(super) clock: Clock,
    /// Its part in bounded mode, where that is played.
    pub(super) steward: Option<Steward>,
    started: Duration,
    starts_at: UnixMillis,
    /// When the pending wake-up fires, so that later ones are not queued again.
    pub(super) wake_at: Option<Duration>,
}

/// The address of the node with this index.
pub(super) fn address(index: usize) -> SocketAddr {
    let [.., high, low] = u32::try_from(index).unwrap_or(u32::MAX).to_be_bytes();
    SocketAddr::from((Ipv4Addr::new(127, 0, high, low), 7946))
}

/// The index of the node with this address.
pub(super) fn index_of(address: SocketAddr) -> Option<usize> {
    match address {
        SocketAddr::V4(v4) => {
            let [_, _, high, low] = v4.ip().octets();
            Some(usize::from(high) << 8 | usize::from(low))
        }
        SocketAddr::V6(_) => None,
    }
}

impl Node {
    /// Starts node `index` in a new life at virtual time `now`.
    pub(super) fn start(index: usize, config: &NodeConfig, clock: Clock, seed: u64, now: Duration) -> Self {
        let node: NodeId = format!("n{index:04}")
            .parse()
            .expect("letters and digits are a node id");
        // As long on the wire as in production, so that bytes are counted truly.
        let generation = config.starts_at.0 * 1_000 + u64::try_from(now.as_micros()).unwrap_or(0);
        let generation = match config.roster {
            // In bounded mode it matters that it is the instant of its boot by its own clock.
            Some(_) => {
                let ahead = clock.ahead_ms(now) * 1_000;
                generation.saturating_add_signed(i64::try_from(ahead).unwrap_or(0))
            }
            None => generation,
        };
        let replica = ReplicaId {
            node,
            generation: Generation(generation),
        };
        let limiter = Limiter::new(
            config.rules.clone(),
            config.mode,
            config.significance,
            config.max_keys,
        );
        let counters = Arc::clone(limiter.counters());
        let mut replication = Replication::new(replica.clone(), counters, config.replication.clone(), seed);
        let steward = config.roster.clone().map(|roster| {
            let grace = config.replication.grace;
            let me = replica.clone();
            Steward::start(me, address(index), roster, config.mode, &mut replication, grace)
        });
        Self {
            steward,
            replica,
            limiter,
            replication,
            alive: true,
            met: BTreeSet::new(),
            is_hostile: false,
            clock,
            started: now,
            starts_at: config.starts_at,
            wake_at: None,
        }
    }

    /// What its clocks show at virtual time `at`.
    pub(super) fn now(&self, at: Duration) -> Now {
        let true_ms = i128::from(self.starts_at.0) + at.as_millis() as i128;
        let wall = true_ms + self.clock.ahead_ms(at);
        Now {
            monotonic: at.saturating_sub(self.started),
            wall: UnixMillis(u64::try_from(wall).unwrap_or(0)),
        }
    }

    /// When it started, in virtual time.
    pub(super) fn started(&self) -> Duration {
        self.started
    }

    /// The first virtual time, not before `earliest`, at which its wall clock shows `wall`; `None` where that is
    /// never.
    pub(super) fn when_shown(&self, wall: UnixMillis, earliest: Duration) -> Option<Duration> {
        if self.now(earliest).wall >= wall {
            return Some(earliest);
        }
        let ms = i128::from(wall.0) - i128::from(self.starts_at.0) - i128::from(self.clock.skew_ms);
        let at = ms * 1_000_000 / (1_000_000 + i128::from(self.clock.drift_ppm));
        let at = u64::try_from(at - 2).unwrap_or(0);
        // Beyond any simulation.
        if at > 1 << 40 {
            return None;
        }
        let about = (at..at + 6).map(Duration::from_millis);
        about
            .filter(|at| *at > earliest)
            .find(|at| self.now(*at).wall >= wall)
    }

    /// Rows that it evicted, and rows of peers that it refused.
    pub(super) fn refusals(&self) -> (u64, u64) {
        let evicted = self.limiter.counters().stats().evicted;
        (evicted, self.replication.stats().rows_refused)
    }

    /// The virtual time at which its monotonic clock shows `monotonic`.
    pub(super) fn virtual_time(&self, monotonic: Duration) -> Duration {
        self.started + monotonic
    }
}
