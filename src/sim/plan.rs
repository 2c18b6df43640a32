//! Planning: how well would so many nodes keep this limit under this traffic on this network?

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde::Serialize;
use thiserror::Error;

use crate::limit::{
    Charge, Hits, KeyHash, Outcome, RowKey, Rule, RuleError, SyncMode, UnixMillis, WindowLimit,
};

use crate::bounded::{RosterConfig, RosterRecord};

use super::network::Link;
use super::node::EPOCH;
use super::oracle::Violation;
use super::rumours::BoundedWorld;
use super::waits::Request;
use super::world::{World, WorldConfig};

/// Requests of one plan at most: some minutes of work.
const REQUESTS_MAX: f64 = 5_000_000.0;

/// Datagrams of one plan at most, so that a plan that asks too much ends with a word and not never.
const DATAGRAMS_MAX: u64 = 200_000_000;

/// Counts of one peer for one client held by all nodes together at most: at some 40 bytes each, what a
/// machine has to spare.
const PEER_COUNTS_MAX: u64 = 60_000_000;

/// Before the traffic, for the nodes to find each other.
const WARM_UP: Duration = Duration::from_secs(1);

/// After the traffic, what is still on its way is waited for so long.
const TAIL: Duration = Duration::from_secs(1);

/// How long a request waits for rights in bounded mode: as by default.
const PATIENCE: Duration = Duration::from_millis(20);

/// Clocks are right in a plan; so little of their difference is tolerated that nodes that have just started hold
/// shares of the first window.
const SKEW: Duration = Duration::from_millis(200);

/// Virtual time between two looks at the bounds.
const STEP: Duration = Duration::from_millis(20);

/// How requests spread over clients and time. They spread over the nodes at random.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Pattern {
    /// Every client asks alike, at random times (Poisson).
    Even,
    /// The nth client asks 1/n as often as the first (Zipf's law with exponent 1).
    Zipf,
    /// One client asks for all.
    One,
    /// As even, but the requests of each second come within its first ten milliseconds.
    Burst,
}

impl FromStr for Pattern {
    type Err = RuleError;
    fn from_str(text: &str) -> Result<Self, RuleError> {
        let all = [Self::Even, Self::Zipf, Self::One, Self::Burst];
        let found = all.into_iter().find(|pattern| pattern.to_string() == text);
        found.ok_or_else(|| {
            RuleError(format!(
                "unknown pattern `{text}`: expected `even`, `zipf`, `one` or `burst`"
            ))
        })
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Even => "even",
            Self::Zipf => "zipf",
            Self::One => "one",
            Self::Burst => "burst",
        })
    }
}

/// A cluster to be planned.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Nodes, 1 to 1,000.
    pub nodes: u16,
    /// The limit of each client.
    pub limit: WindowLimit,
    /// Requests per second, all together.
    pub rate: u32,
    /// How they come.
    pub pattern: Pattern,
    /// Clients; `None` for as many as the pattern needs and memory has room for.
    pub clients: Option<u32>,
    /// One-way delay; a tenth of it is the mean of the exponential jitter on top.
    pub delay: Duration,
    /// Share of datagrams lost, 0 to below 1.
    pub loss: f64,
    /// The sync mode.
    pub mode: SyncMode,
    /// How long requests come, from the start of a window; `None` for one window, at most a minute.
    pub duration: Option<Duration>,
    /// Decides everything that is random.
    pub seed: u64,
}

/// What a plan came to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PlanReport {
    /// Nodes.
    pub nodes: u16,
    /// The sync mode.
    pub mode: SyncMode,
    /// How requests came.
    pub pattern: Pattern,
    /// The limit in hits.
    pub limit: u64,
    /// Its period, as in `1000/minute`.
    pub period: String,
    /// Clients.
    pub clients: u32,
    /// Requests offered.
    pub offered: u64,
    /// Requests admitted.
    pub admitted: u64,
    /// `admitted` over what a single exact counter would have admitted of the same requests.
    pub ratio: f64,
    /// The most that one client got in one window, over the limit.
    pub worst_ratio: f64,
    /// From an admission within the last tenth of its limit until every node knew of it; `None` where no
    /// client came so far, or nodes count alone.
    pub convergence_ms: Option<Convergence>,
    /// UDP payload that a node sent for its counters, sealed, while requests came. Membership's own gossip
    /// is not in it.
    pub bytes_per_node_per_second: f64,
    /// Datagrams that a node sent likewise.
    pub datagrams_per_node_per_second: f64,
    /// Datagrams that all nodes sent likewise, over the requests offered.
    pub datagrams_per_request: f64,
    /// In bounded mode, who waited for rights.
    pub waits: Option<Waits>,
    /// The seed.
    pub seed: u64,
}

/// Requests that waited for rights of other nodes, at most 20 ms.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Waits {
    /// Of the requests admitted, the share that waited.
    pub admitted_share: f64,
    /// Median wait of those, in milliseconds; `None` where none did.
    pub p50_ms: Option<f64>,
    /// 99th percentile.
    pub p99_ms: Option<f64>,
    /// Requests that were denied after they had waited.
    pub denied: u64,
}

/// Percentiles in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Convergence {
    /// Median.
    pub p50: f64,
    /// 99th percentile.
    pub p99: f64,
    /// Admissions that were followed.
    pub samples: usize,
}

/// Why there is no report.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum PlanError {
    /// More requests than a plan may have.
    #[error(
        "--rate {rate} for {duration:?} is more than {REQUESTS_MAX} requests: lower --rate, or set --duration to at most {most:?}"
    )]
    Requests {
        /// What was asked for.
        rate: u32,
        /// What was asked for, or its default.
        duration: Duration,
        /// The longest that fits.
        most: Duration,
    },
    /// More counters than a plan may have.
    #[error(
        "--clients {clients} on {nodes} nodes is more than memory has room for: set --clients to at most {most}, or lower --nodes"
    )]
    Clients {
        /// What was asked for.
        clients: u32,
        /// What was asked for.
        nodes: u16,
        /// The most that fits.
        most: u64,
    },
    /// More nodes than share a limit in bounded mode.
    #[error("--nodes {nodes} is more than the {most} that share limits in bounded mode")]
    Members {
        /// What was asked for.
        nodes: u16,
        /// The most that a roster holds.
        most: usize,
    },
    /// `one` with several clients.
    #[error("--pattern one has one client: leave --clients out, or use --pattern even")]
    OneClient,
    /// The network carried more than a plan waits for.
    #[error(
        "more than {DATAGRAMS_MAX} datagrams by {at:?} of {duration:?}: shorten --duration or lower --nodes"
    )]
    Datagrams {
        /// Time since requests began.
        at: Duration,
        /// How long they were to come.
        duration: Duration,
    },
    /// An invariant did not hold.
    #[error(transparent)]
    Violation(#[from] Violation),
}

impl Plan {
    /// Runs the plan.
    ///
    /// # Errors
    /// When it asks for more than fits, naming the flag to change.
    pub fn run(&self) -> Result<PlanReport, PlanError> {
        let most = RosterRecord::ENTRIES_MAX;
        if self.mode == SyncMode::Bounded && usize::from(self.nodes) > most {
            return Err(PlanError::Members {
                nodes: self.nodes,
                most,
            });
        }
        let clients = self.clients()?;
        let duration = self.duration()?;
        let mut run = Run {
            plan: self,
            world: World::new(self.world(clients), self.seed),
            traffic: Traffic::new(self, clients),
            offered: HashMap::new(),
            duration,
        };
        run.world.run_until(WARM_UP)?;
        let before = (run.world.bytes_sent(), run.world.datagrams_sent());
        run.offer_all()?;
        let sent = (
            run.world.bytes_sent() - before.0,
            run.world.datagrams_sent() - before.1,
        );
        let end = run.world.now() + TAIL;
        while (run.world.is_following() || run.world.waiting() > 0) && run.world.now() < end {
            run.world.run_until(run.world.now() + STEP)?;
        }
        Ok(run.report(clients, sent))
    }

    fn duration(&self) -> Result<Duration, PlanError> {
        let window = self.limit.period.nominal().min(Duration::from_secs(60));
        let duration = self.duration.unwrap_or(window);
        let most = Duration::from_secs_f64(REQUESTS_MAX / f64::from(self.rate.max(1)));
        if duration > most {
            return Err(PlanError::Requests {
                rate: self.rate,
                duration,
                most,
            });
        }
        Ok(duration)
    }

    fn clients(&self) -> Result<u32, PlanError> {
        if self.pattern == Pattern::One {
            return match self.clients {
                None | Some(1) => Ok(1),
                Some(_) => Err(PlanError::OneClient),
            };
        }
        let squared = u64::from(self.nodes).pow(2).max(1);
        let most = (PEER_COUNTS_MAX / squared / self.windows_held()).max(1);
        let default = u32::try_from(most.min(100)).unwrap_or(100);
        let clients = self.clients.unwrap_or(default);
        if u64::from(clients) > most {
            return Err(PlanError::Clients {
                clients,
                nodes: self.nodes,
                most,
            });
        }
        Ok(clients)
    }

    /// Windows whose rows a node holds at once: the present one, and those that ended within the grace.
    fn windows_held(&self) -> u64 {
        let length = self.limit.period.nominal().as_millis().max(1);
        u64::try_from(2_000 / length).unwrap_or(0) + 2
    }

    fn world(&self, clients: u32) -> WorldConfig {
        let rule = Rule::new("planned", [self.limit]);
        let keys = u64::from(clients) * self.windows_held() * 2;
        let window = self.limit.period.window_at(EPOCH);
        WorldConfig {
            max_keys: u32::try_from(keys).unwrap_or(u32::MAX).max(256),
            link: Link {
                delay: self.delay,
                jitter: self.delay / 10,
                loss: self.loss,
                duplication: 0.0,
            },
            judge: false,
            bounded: self.bounded(),
            starts_at: UnixMillis(window.end.0 - WARM_UP.as_millis() as u64),
            ..WorldConfig::quiet(usize::from(self.nodes), vec![rule], self.mode)
        }
    }
}

impl Plan {
    fn bounded(&self) -> Option<BoundedWorld> {
        let roster = RosterConfig {
            skew: SKEW,
            min_roster: usize::from(self.nodes / 2 + 1),
            ..BoundedWorld::default().roster
        };
        let bounded = BoundedWorld {
            roster,
            news_delay: self.delay * 2,
            ..BoundedWorld::default()
        };
        (self.mode == SyncMode::Bounded).then_some(bounded)
    }
}

struct Run<'a> {
    plan: &'a Plan,
    world: World,
    traffic: Traffic,
    offered: HashMap<RowKey, u64>,
    duration: Duration,
}

impl Run<'_> {
    fn offer_all(&mut self) -> Result<(), PlanError> {
        let mut checked = WARM_UP;
        loop {
            let (at, key, node) = self.traffic.next();
            let until = (WARM_UP + at).min(WARM_UP + self.duration);
            while checked + STEP < until {
                checked += STEP;
                self.world.run_until(checked)?;
                if self.world.datagrams_sent() > DATAGRAMS_MAX {
                    return Err(PlanError::Datagrams {
                        at: checked - WARM_UP,
                        duration: self.duration,
                    });
                }
            }
            self.world.run_until(until)?;
            if at >= self.duration {
                return Ok(());
            }
            self.offer(node, key)?;
        }
    }

    fn offer(&mut self, node: usize, key: KeyHash) -> Result<(), PlanError> {
        if self.plan.mode == SyncMode::Bounded {
            return self.offer_bounded(node, key);
        }
        let decision = self.world.request(node, 0, key, Hits::ONE)?;
        let Some(state) = decision.windows.first() else {
            return Ok(());
        };
        let row = RowKey {
            rule: self.world.rule(0).id(state.period),
            window: state.window,
            key,
        };
        *self.offered.entry(row).or_default() += 1;
        let is_near = state.remaining * 10 <= state.limit;
        if decision.outcome == Outcome::Admitted && is_near && self.plan.mode == SyncMode::Gossip {
            self.world.follow(node, row);
        }
        Ok(())
    }

    fn offer_bounded(&mut self, node: usize, key: KeyHash) -> Result<(), PlanError> {
        let period = self.plan.limit.period;
        let row = RowKey {
            rule: self.world.rule(0).id(period),
            window: period.window_at(self.world.true_wall()),
            key,
        };
        *self.offered.entry(row).or_default() += 1;
        let charge = Charge {
            rule: 0,
            key,
            hits: Hits::ONE,
        };
        let request = Request {
            charges: [charge].as_slice().into(),
            wait: PATIENCE,
            stays: Duration::MAX,
        };
        self.world.arrive(node, request)?;
        Ok(())
    }

    fn waits(&self) -> Option<Waits> {
        let report = self.world.waits();
        let admitted = report.at_once + report.served;
        let milliseconds = |wait: Duration| rounded(wait.as_secs_f64() * 1_000.0, 3);
        (self.plan.mode == SyncMode::Bounded).then(|| Waits {
            admitted_share: rounded(report.served as f64 / admitted.max(1) as f64, 4),
            p50_ms: report.percentile(50).map(milliseconds),
            p99_ms: report.percentile(99).map(milliseconds),
            denied: report.exhausted + report.timed_out + report.turned_away,
        })
    }

    fn report(&self, clients: u32, sent: (u64, u64)) -> PlanReport {
        let limit = self.plan.limit.limit.hits();
        let ideal: u64 = self.offered.values().map(|offered| (*offered).min(limit)).sum();
        let oracle = &self.world.oracle;
        let most = self.offered.keys().map(|row| oracle.admitted(row)).max();
        let node_seconds = f64::from(self.plan.nodes) * self.duration.as_secs_f64();
        PlanReport {
            nodes: self.plan.nodes,
            mode: self.plan.mode,
            pattern: self.plan.pattern,
            limit,
            period: self.plan.limit.period.to_string(),
            clients,
            offered: oracle.offered,
            admitted: oracle.total,
            ratio: rounded(oracle.total as f64 / ideal.max(1) as f64, 4),
            worst_ratio: rounded(most.unwrap_or(0) as f64 / limit as f64, 4),
            convergence_ms: percentiles(self.world.convergence_times()),
            bytes_per_node_per_second: rounded(sent.0 as f64 / node_seconds, 1),
            datagrams_per_node_per_second: rounded(sent.1 as f64 / node_seconds, 1),
            datagrams_per_request: rounded(sent.1 as f64 / oracle.offered.max(1) as f64, 4),
            waits: self.waits(),
            seed: self.plan.seed,
        }
    }
}

fn percentiles(mut times: Vec<Duration>) -> Option<Convergence> {
    times.sort_unstable();
    // The nearest rank: the least time that so many of a hundred do not exceed.
    let at = |percent: usize| {
        let rank = (times.len() * percent).div_ceil(100).max(1);
        let time = times.get(rank - 1)?;
        Some(rounded(time.as_secs_f64() * 1_000.0, 3))
    };
    Some(Convergence {
        p50: at(50)?,
        p99: at(99)?,
        samples: times.len(),
    })
}

fn rounded(value: f64, digits: i32) -> f64 {
    let scale = 10_f64.powi(digits);
    (value * scale).round() / scale
}

/// Requests, one after the other.
struct Traffic {
    rng: SmallRng,
    rate: f64,
    nodes: usize,
    pattern: Pattern,
    /// The share of requests that come from this client or one before it.
    cumulative: Vec<f64>,
    at: f64,
}

impl Traffic {
    fn new(plan: &Plan, clients: u32) -> Self {
        let weight = |client: u32| match plan.pattern {
            Pattern::Zipf => 1.0 / f64::from(client + 1),
            _ => 1.0,
        };
        let total: f64 = (0..clients).map(weight).sum();
        let mut sum = 0.0;
        let cumulative = (0..clients).map(|client| {
            sum += weight(client) / total;
            sum
        });
        Self {
            // Not the stream that decides the network's delays.
            rng: SmallRng::seed_from_u64(plan.seed ^ 0x7472_6166_6669_6300),
            rate: f64::from(plan.rate),
            nodes: usize::from(plan.nodes),
            pattern: plan.pattern,
            cumulative: cumulative.collect(),
            at: 0.0,
        }
    }

    /// When, who, and to which node.
    fn next(&mut self) -> (Duration, KeyHash, usize) {
        self.at += -(1.0 - self.rng.random::<f64>()).ln() / self.rate;
        let at = match self.pattern {
            Pattern::Burst => self.at.floor() + self.at.fract() / 100.0,
            _ => self.at,
        };
        let share = self.rng.random::<f64>();
        let client = self.cumulative.partition_point(|sum| *sum < share);
        let client = client.min(self.cumulative.len().saturating_sub(1)) as u128;
        let key = KeyHash(client.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835) | 1);
        (
            Duration::from_secs_f64(at),
            key,
            self.rng.random_range(0..self.nodes),
        )
    }
}
