//! What a seed makes of a schedule: the cluster, its clocks, its traffic and its misfortunes.

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::bounded::RosterConfig;
use crate::limit::{SyncMode, UnixMillis, WindowLimit};
use crate::replication::ReplicationConfig;

use super::super::fault::Fault;
use super::super::network::Link;
use super::super::node::EPOCH;
use super::super::rumours::BoundedWorld;
use super::super::schedule::simulated;
use super::super::world::WorldConfig;
use super::{Arrival, BoundedSchedule, NOTICE, Spread};

impl BoundedSchedule {
    /// The schedule of `seed`.
    #[must_use]
    pub fn random(seed: u64) -> Self {
        let rng = &mut SmallRng::seed_from_u64(seed ^ 0x626f_756e_6465_6400);
        let nodes = rng.random_range(2..=6_usize);
        let joins = rng.random_range(0..nodes);
        let windows = random_windows(rng);
        let shortest = windows
            .iter()
            .map(|w| w.period.nominal())
            .min()
            .unwrap_or_default();
        let longest = windows
            .iter()
            .map(|w| w.period.nominal())
            .max()
            .unwrap_or_default();
        let heals_at = Duration::from_millis(rng.random_range(4_000..=7_000)) + longest / 2;
        let wait = match rng.random_range(0..5) {
            0 => Duration::ZERO,
            1 => Duration::from_millis(rng.random_range(1..=100)),
            _ => Duration::from_millis(20),
        };
        let spread = [Spread::Even, Spread::OneNode, Spread::Burst][rng.random_range(0..3)];
        let mut schedule = Self {
            world: random_world(rng, (nodes, joins), windows),
            faults: random_faults(rng, (nodes, joins), heals_at),
            requests: Vec::new(),
            wait,
            heals_at,
            overflows: rng.random_bool(0.1),
            spread: [Spread::Even, Spread::OneNode, Spread::Burst][rng.random_range(0..3)],
            hits: if rng.random_bool(0.7) {
                1
            } else {
                rng.random_range(2..=5)
            },
        };
        let clients = if schedule.overflows {
            schedule.world.max_keys = 64;
            200
        } else {
            rng.random_range(1..=6)
        };
        let most_hits = if rng.random_bool(0.5) { 1 } else { 5 };
        schedule.requests = random_requests(rng, (heals_at, shortest), clients, (spread, most_hits), wait);
        if rng.random_bool(0.15) {
            schedule.switch(rng);
        }
        schedule
    }

    /// `nodes` nodes with right clocks, where nothing happens before the end: ten times the limit of
    /// `window`, in requests of `hits`.
    #[must_use]
    pub fn quiet(nodes: usize, window: WindowLimit, spread: Spread, hits: u32) -> Self {
        let bounded = BoundedWorld {
            roster: RosterConfig {
                skew: Duration::from_millis(20),
                min_roster: nodes / 2 + 1,
                ..BoundedWorld::default().roster
            },
            ..BoundedWorld::default()
        };
        Self {
            world: WorldConfig {
                bounded: Some(bounded),
                ..WorldConfig::quiet(nodes, vec![simulated(vec![window])], SyncMode::Bounded)
            },
            faults: Vec::new(),
            requests: Vec::new(),
            wait: Duration::from_millis(20),
            heals_at: Duration::from_secs(1),
            overflows: false,
            spread,
            hits,
        }
    }

    /// The cluster starts in another mode, and is switched.
    fn switch(&mut self, rng: &mut SmallRng) {
        let modes = [SyncMode::Local, SyncMode::Gossip];
        self.world.mode = modes[rng.random_range(0..2)];
        let at = self.heals_at.mul_f64(rng.random_range(0.0..0.3));
        let mode = SyncMode::Bounded;
        self.faults.push((at, Fault::Switch { mode }));
        if rng.random_bool(0.3) {
            let at = self.heals_at.mul_f64(rng.random_range(0.3..0.9));
            let mode = modes[rng.random_range(0..2)];
            self.faults.push((at, Fault::Switch { mode }));
        }
        self.heals_at += NOTICE;
        self.faults.sort_by_key(|(at, _)| *at);
    }
}

fn random_windows(rng: &mut SmallRng) -> Vec<WindowLimit> {
    let limit = match rng.random_range(0..4) {
        0 => rng.random_range(1..=6),
        1 => rng.random_range(100..=300_u64),
        _ => rng.random_range(5..=60),
    };
    // A schedule takes as long as its windows do: long ones are few.
    let seconds = match rng.random_range(0..32) {
        0..12 => 1,
        12..22 => 2,
        22..28 => 3,
        28..31 => 5,
        _ => 10,
    };
    let mut texts = vec![format!("{limit}/{seconds}s")];
    if rng.random_bool(0.25) && seconds < 5 {
        let longer = seconds * rng.random_range(2..=3);
        texts.push(format!("{}/{longer}s", limit * rng.random_range(1..=3)));
    }
    let windows = texts.iter().map(|text| text.parse().expect("a valid limit"));
    windows.collect()
}

fn random_world(
    rng: &mut SmallRng,
    (nodes, joins): (usize, usize),
    windows: Vec<WindowLimit>,
) -> WorldConfig {
    let shortest = windows
        .iter()
        .map(|w| w.period.nominal())
        .min()
        .unwrap_or_default();
    // Leaves most of a window to all nodes at once.
    let skew = shortest.mul_f64(rng.random_range(0.02..0.3));
    let skew =
        Duration::from_millis(u64::try_from(skew.as_millis()).unwrap_or(0)).max(Duration::from_millis(30));
    let lossy = rng.random_bool(0.6);
    let rule = simulated(windows);
    let bounded = BoundedWorld {
        roster: RosterConfig {
            skew,
            min_roster: rng.random_range((nodes + joins) / 2 + 1..=nodes),
            strict_start: rng.random_bool(0.5),
            retire_on_restart: rng.random_bool(0.7),
            forget_after: None,
            listen: Duration::ZERO,
        },
        news_delay: Duration::from_millis(rng.random_range(1..=300)),
        round: Duration::from_millis(rng.random_range(80..=250)),
        retention: Duration::from_millis(rng.random_range(2_000..=60_000)),
        sabotage: None,
    };
    // The drift of a minute is below 20 ms.
    let skew_ms = u32::try_from(skew.as_millis() / 2)
        .unwrap_or(0)
        .saturating_sub(10);
    WorldConfig {
        replication: ReplicationConfig {
            frame_bytes_max: if rng.random_bool(0.5) { 1_140 } else { 420 },
            ..ReplicationConfig::default()
        },
        link: Link {
            delay: Duration::from_micros(rng.random_range(50..=20_000)),
            jitter: Duration::from_micros(rng.random_range(0..=20_000)),
            loss: if lossy { rng.random_range(0.0..0.3) } else { 0.0 },
            duplication: if lossy { rng.random_range(0.0..0.2) } else { 0.0 },
        },
        skew_ms: rng.random_range(0..=skew_ms),
        drift_ppm: 150,
        starts_at: UnixMillis(EPOCH.0 + rng.random_range(0..10_000)),
        bounded: Some(bounded),
        detection: (Duration::from_millis(50), Duration::from_millis(800)),
        ..WorldConfig::quiet(nodes, vec![rule], SyncMode::Bounded)
    }
}

fn random_faults(
    rng: &mut SmallRng,
    (nodes, joins): (usize, usize),
    heals_at: Duration,
) -> Vec<(Duration, Fault)> {
    let mut faults: Vec<(Duration, Fault)> = Vec::new();
    let moment = |rng: &mut SmallRng| heals_at.mul_f64(rng.random_range(0.1..0.95));
    for _ in 0..rng.random_range(0..=joins) {
        faults.push((moment(rng), Fault::Join));
    }
    for _ in 0..rng.random_range(0..=6) {
        let at = moment(rng);
        let node = rng.random_range(0..nodes + joins);
        let soon = |rng: &mut SmallRng, most| at + Duration::from_millis(rng.random_range(0..most));
        match rng.random_range(0..6) {
            0 | 1 => {
                faults.push((at, Fault::Crash { node }));
                match rng.random_range(0..4) {
                    0 | 1 => faults.push((soon(rng, 1_500), Fault::Restart { node })),
                    2 => faults.push((soon(rng, 3_000), Fault::Forget { node })),
                    _ => {}
                }
            }
            2 | 3 => {
                faults.push((at, Fault::Leave { node }));
                // Perhaps the heir.
                if rng.random_bool(0.4) {
                    let node = rng.random_range(0..nodes);
                    faults.push((soon(rng, 400), Fault::Crash { node }));
                }
                if rng.random_bool(0.5) {
                    faults.push((soon(rng, 2_000), Fault::Restart { node }));
                }
            }
            _ => faults.push((
                at,
                Fault::Partition {
                    side: (0..nodes + joins).filter(|_| rng.random_bool(0.5)).collect(),
                    one_way: rng.random_bool(0.4),
                    lasts: Duration::from_millis(rng.random_range(50..=3_000)),
                },
            )),
        }
    }
    faults.sort_by_key(|(at, _)| *at);
    faults
}

fn random_requests(
    rng: &mut SmallRng,
    (heals_at, period): (Duration, Duration),
    clients: u64,
    (spread, most_hits): (Spread, u32),
    wait: Duration,
) -> Vec<Arrival> {
    let count = rng.random_range(30..=500);
    let node = rng.random();
    let mut requests: Vec<Arrival> = (0..count)
        .map(|_| {
            let at = heals_at.mul_f64(rng.random_range(0.0..1.0));
            let into = at.as_micros() % period.as_micros();
            let into = Duration::from_micros(u64::try_from(into).unwrap_or(0));
            Arrival {
                at: match spread {
                    Spread::Burst => at - into + into / 100,
                    _ => at,
                },
                // The square favours low numbers: few clients ask most.
                client: (rng.random::<f64>().powi(2) * clients as f64) as u64,
                choice: if spread == Spread::OneNode {
                    node
                } else {
                    rng.random()
                },
                hits: rng.random_range(1..=most_hits),
                stays: if rng.random_bool(0.1) {
                    wait.mul_f64(rng.random())
                } else {
                    Duration::from_secs(1)
                },
            }
        })
        .collect();
    requests.sort_unstable();
    requests
}
