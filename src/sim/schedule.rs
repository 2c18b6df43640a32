//! Random schedules: one seed makes a cluster, its traffic and its misfortunes, and judges the outcome.

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::limit::significance::Significance;
use crate::limit::{Hits, KeyHash, Rule, SyncMode, WindowLimit};
use crate::replication::ReplicationConfig;

use super::fault::{Fault, FaultReport};
use super::flood::Flood;
use super::network::Link;
use super::oracle::Violation;
use super::world::{World, WorldConfig};

/// What one seed stands for.
#[derive(Clone, Debug)]
pub struct Schedule {
    /// The world.
    pub world: WorldConfig,
    /// What happens when.
    pub faults: Vec<(Duration, Fault)>,
    /// Requests, each (time, client, choice of node).
    pub requests: Vec<(Duration, u64, u64)>,
    /// When the faults are over.
    pub heals_at: Duration,
    /// More keys live than a table holds.
    pub overflows: bool,
    /// Whether the network loses nothing any more once the faults are over.
    pub mends: bool,
}

/// What a schedule that held came to.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ScheduleReport {
    /// Requests offered.
    pub offered: u64,
    /// Requests admitted.
    pub admitted: u64,
    /// How long after the network healed every node agreed.
    pub converged_after: Duration,
    /// What went wrong on purpose.
    pub faults: FaultReport,
}

/// After the network has healed, agreement must come within this.
const CONVERGES_WITHIN: Duration = Duration::from_secs(8);

/// A cluster has formed by then.
const FORMS_WITHIN: Duration = Duration::from_secs(2);

impl Schedule {
    /// The schedule of `seed`.
    #[must_use]
    pub fn random(seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let nodes = rng.random_range(2..=6);
        let heals_at = Duration::from_secs(rng.random_range(4..=8));
        let mut schedule = Self {
            world: random_world(&mut rng, nodes),
            faults: random_faults(&mut rng, nodes, heals_at),
            requests: {
                let clients = rng.random_range(1..=40);
                let count = rng.random_range(20..=600);
                random_requests(&mut rng, heals_at, clients, count)
            },
            heals_at,
            overflows: false,
            mends: true,
        };
        match rng.random_range(0..20) {
            0..=3 => schedule.overflow(&mut rng),
            4 => schedule.flood(&mut rng),
            _ => {}
        }
        schedule
    }

    /// Ten nodes on a network that loses one datagram in five and takes 50 ms, until the end, and a few
    /// seconds of traffic. Nothing is held back, so that agreement means the exact total.
    #[must_use]
    pub fn lossy(seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let limit = "1000/hour".parse().expect("a valid limit");
        let quiet = WorldConfig::quiet(10, vec![simulated(vec![limit])], SyncMode::Gossip);
        let significance = Significance {
            epsilon_permille: 0,
            ..Significance::default()
        };
        let (clients, count) = (rng.random_range(1..=100), rng.random_range(100..=1_000));
        let mut requests = random_requests(&mut rng, Duration::from_secs(3), clients, count);
        // The cluster has formed before the first.
        requests.iter_mut().for_each(|(at, ..)| *at += FORMS_WITHIN);
        Self {
            heals_at: requests.last().map_or(FORMS_WITHIN, |(at, ..)| *at),
            world: WorldConfig {
                significance,
                replication: ReplicationConfig {
                    significance,
                    ..ReplicationConfig::default()
                },
                link: Link {
                    delay: Duration::from_millis(50),
                    jitter: Duration::from_millis(5),
                    loss: 0.2,
                    duplication: 0.0,
                },
                skew_ms: 50,
                judge: false,
                ..quiet
            },
            faults: Vec::new(),
            requests,
            overflows: false,
            mends: false,
        }
    }

    /// More clients than a table has rows.
    fn overflow(&mut self, rng: &mut SmallRng) {
        self.overflows = true;
        self.world.max_keys = rng.random_range(64..=256);
        let rows = u64::from(self.world.max_keys);
        let clients = rng.random_range(rows..=rows * 4);
        let count = rng.random_range(rows..=rows * 6);
        self.requests = random_requests(rng, self.heals_at, clients, count);
    }

    /// A peer that makes up more rows than its share, beside tables with room for everybody else's.
    fn flood(&mut self, rng: &mut SmallRng) {
        self.world.max_keys = 512;
        let floods = [
            Flood::Keys,
            Flood::Future,
            Flood::Versions,
            Flood::Logs,
            Flood::Subjects,
        ];
        let flood = floods[rng.random_range(0..floods.len())];
        let at = self.heals_at.mul_f64(rng.random_range(0.05..0.5));
        let frames = rng.random_range(60..=120);
        self.faults.push((at, Fault::Flood { flood, frames }));
        self.faults.sort_by_key(|(at, _)| *at);
    }
}

fn random_world(rng: &mut SmallRng, nodes: usize) -> WorldConfig {
    let limit = *[5_u64, 20, 100, 1_000].get(rng.random_range(0..4)).unwrap_or(&5);
    let limit: WindowLimit = format!("{limit}/hour").parse().expect("a valid limit");
    let short: WindowLimit = "50/3s".parse().expect("a valid limit");
    let windows = if rng.random_bool(0.3) {
        vec![short, limit]
    } else {
        vec![limit]
    };
    let rule = simulated(windows);
    let significance = Significance {
        alpha_permille: rng.random_range(50..=900),
        epsilon_permille: if rng.random_bool(0.5) { 0 } else { 10 },
    };
    let lossy = rng.random_bool(0.7);
    WorldConfig {
        significance,
        replication: ReplicationConfig {
            significance,
            frame_bytes_max: if rng.random_bool(0.5) { 1_140 } else { 420 },
            push_fanout: if rng.random_bool(0.2) { 2 } else { 32 },
            ..ReplicationConfig::default()
        },
        link: Link {
            delay: Duration::from_micros(rng.random_range(50..=50_000)),
            jitter: Duration::from_micros(rng.random_range(0..=20_000)),
            loss: if lossy { rng.random_range(0.0..0.3) } else { 0.0 },
            duplication: if lossy { rng.random_range(0.0..0.2) } else { 0.0 },
        },
        skew_ms: rng.random_range(0..=1_000),
        drift_ppm: 200,
        ..WorldConfig::quiet(nodes, vec![rule], SyncMode::Gossip)
    }
}

pub(super) fn simulated(windows: Vec<WindowLimit>) -> Rule {
    Rule::new("simulated", windows)
}

fn random_faults(rng: &mut SmallRng, nodes: usize, heals_at: Duration) -> Vec<(Duration, Fault)> {
    let count = rng.random_range(0..=6);
    let mut faults: Vec<_> = (0..count)
        .map(|_| {
            let at = heals_at.mul_f64(rng.random_range(0.05..0.9));
            let node = rng.random_range(0..nodes);
            let fault = match rng.random_range(0..6) {
                0 => Fault::Crash { node },
                1 => Fault::Restart { node },
                2 => Fault::Join,
                3 => Fault::Leave { node },
                _ => Fault::Partition {
                    side: (0..nodes).filter(|_| rng.random_bool(0.5)).collect(),
                    one_way: rng.random_bool(0.3),
                    lasts: Duration::from_millis(rng.random_range(50..=3_000)),
                },
            };
            (at, fault)
        })
        .collect();
    faults.sort_by_key(|(at, _)| *at);
    faults
}

fn random_requests(
    rng: &mut SmallRng,
    heals_at: Duration,
    clients: u64,
    count: u64,
) -> Vec<(Duration, u64, u64)> {
    let mut requests: Vec<_> = (0..count)
        .map(|_| {
            // The square favours low numbers: few clients ask most.
            let client = (rng.random::<f64>().powi(2) * clients as f64) as u64;
            (heals_at.mul_f64(rng.random_range(0.0..1.0)), client, rng.random())
        })
        .collect();
    requests.sort_unstable();
    requests
}

/// Runs one schedule to its end and checks every invariant.
///
/// # Errors
/// The first invariant that did not hold, with the last lines of the trace if the world keeps one.
pub fn run_schedule(schedule: &Schedule, seed: u64) -> Result<ScheduleReport, (Violation, Vec<String>)> {
    let mut world = World::new(schedule.world.clone(), seed);
    let outcome = drive(&mut world, schedule);
    outcome.map_err(|violation| (violation, world.trace().map(str::to_owned).collect()))
}

fn drive(world: &mut World, schedule: &Schedule) -> Result<ScheduleReport, Violation> {
    let mut faults = schedule.faults.iter().peekable();
    for (at, client, choice) in &schedule.requests {
        while let Some((fault_at, fault)) = faults.next_if(|(fault_at, _)| fault_at <= at) {
            world.run_until(*fault_at)?;
            world.inject(fault);
        }
        world.run_until(*at)?;
        let alive = world.alive();
        if let Some(node) = alive.get(*choice as usize % alive.len().max(1)) {
            let key =
                KeyHash(u128::from(*client).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835) | 1);
            world.request(*node, 0, key, Hits::ONE)?;
        }
    }
    for (at, fault) in faults {
        world.run_until(*at)?;
        world.inject(fault);
    }
    world.run_until(schedule.heals_at)?;
    world.check_claims()?;
    world.check_kept()?;
    if schedule.mends {
        world.heal();
    }
    let converged_after = settle(world, schedule)?;
    world.check_claims()?;
    world.check_kept()?;
    world.check_flood()?;
    Ok(ScheduleReport {
        offered: world.oracle.offered,
        admitted: world.oracle.total,
        converged_after,
        faults: world.faults(),
    })
}

fn settle(world: &mut World, schedule: &Schedule) -> Result<Duration, Violation> {
    let step = Duration::from_millis(10);
    loop {
        world.run_until(world.now() + step)?;
        let agreed = if schedule.overflows {
            world.check_claimed()
        } else {
            world.check_converged()
        };
        match agreed {
            Ok(()) => return Ok(world.now() - schedule.heals_at),
            Err(violation) if world.now() >= schedule.heals_at + CONVERGES_WITHIN => return Err(violation),
            Err(_) => {}
        }
    }
}
