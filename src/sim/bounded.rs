//! Random schedules of bounded mode: one seed makes a cluster, its clocks, its traffic and its misfortunes. Every
//! admission is judged; in the end, when the network is whole, everybody has to have a share again, and the whole
//! limit has to be admitted.

mod random;

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use smallvec::smallvec;

use crate::bounded::Blocked;
use crate::limit::{Charge, Hits, KeyHash, Period, RowKey, SyncMode, UnixMillis};

use super::fault::{Fault, FaultReport};
use super::network::Link;
use super::oracle::Violation;
use super::waits::{Request, WaitReport};
use super::world::{World, WorldConfig};

/// A switch of mode is announced so long ahead.
const NOTICE: Duration = Duration::from_secs(5);
/// Membership has noticed by then who is gone and who is back, and everybody has heard of everybody.
const NOTICED_WITHIN: Duration = Duration::from_millis(1_200);
/// The operator has given up all that stopped by then, as soon as he heard of it.
const FORGOTTEN_WITHIN: Duration = Duration::from_secs(10);
/// Windows within which everybody has a share again.
const WINDOWS_TO_HEAL: u32 = 3;
/// So much more than its limit is offered in the end.
const OVERLOAD: u64 = 10;
/// What reaches a node within the window by its own clock is answered within it, if it comes so long before its
/// end.
const TAIL: Duration = Duration::from_millis(110);

/// One request to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Arrival {
    /// When.
    pub at: Duration,
    /// Whose.
    pub client: u64,
    /// To which node, of those that take requests.
    pub choice: u64,
    /// How much it costs.
    pub hits: u32,
    /// Its client goes away after so long.
    pub stays: Duration,
}

/// How requests spread over nodes and time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spread {
    /// Over all nodes, at random times.
    Even,
    /// To one node.
    OneNode,
    /// Over all nodes, each window's at its beginning.
    Burst,
}

/// What one seed stands for.
#[derive(Clone, Debug)]
pub struct BoundedSchedule {
    /// The world.
    pub world: WorldConfig,
    /// What happens when.
    pub faults: Vec<(Duration, Fault)>,
    /// Requests, in order.
    pub requests: Vec<Arrival>,
    /// How long requests wait for rights.
    pub wait: Duration,
    /// When the faults are over.
    pub heals_at: Duration,
    /// More keys live than a table holds.
    pub overflows: bool,
    /// How requests spread in the end.
    pub spread: Spread,
    /// What each of them costs then.
    pub hits: u32,
}

/// What a schedule that held came to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BoundedReport {
    /// Requests offered.
    pub offered: u64,
    /// Requests admitted.
    pub admitted: u64,
    /// Admissions that were judged by the limit.
    pub judged: u64,
    /// Rows that came to exactly their limit.
    pub filled: u64,
    /// What became of the requests.
    pub waits: WaitReport,
    /// What went wrong on purpose.
    pub faults: FaultReport,
    /// Shares taken by those that live in the end.
    pub shares: u64,
    /// Hits granted by those that live in the end.
    pub granted: u64,
    /// Hits admitted in the end, and what could be.
    pub last: (u64, u64),
    /// Where the end was not judged, since the limit could not be spent exactly.
    pub unjudged: bool,
}

/// Runs one schedule to its end and checks every invariant.
///
/// # Errors
/// The first invariant that did not hold, with the last lines of the trace if the world keeps one.
pub fn run_bounded(schedule: &BoundedSchedule, seed: u64) -> Result<BoundedReport, (Violation, Vec<String>)> {
    let mut world = World::new(schedule.world.clone(), seed);
    let outcome = drive(&mut world, schedule, seed);
    outcome.map_err(|violation| (violation, world.trace().map(str::to_owned).collect()))
}

fn drive(world: &mut World, schedule: &BoundedSchedule, seed: u64) -> Result<BoundedReport, Violation> {
    let mut faults = schedule.faults.iter().peekable();
    for arrival in &schedule.requests {
        while let Some((at, fault)) = faults.next_if(|(at, _)| *at <= arrival.at) {
            world.run_until(*at)?;
            world.inject(fault);
        }
        world.run_until(arrival.at)?;
        ask(world, arrival, schedule.wait)?;
    }
    for (at, fault) in faults {
        world.run_until(*at)?;
        world.inject(fault);
    }
    world.run_until(schedule.heals_at)?;
    recover(world, schedule)?;
    let rng = &mut SmallRng::seed_from_u64(seed);
    let (last, unjudged) = spend_all(world, schedule, rng)?;
    let alive = world.serving();
    let steward = |node: &usize| world.nodes[*node].steward.as_ref();
    let shares = alive.iter().filter_map(steward);
    Ok(BoundedReport {
        offered: world.oracle.offered,
        admitted: world.oracle.total,
        judged: world.promise.judged,
        filled: world.promise.filled,
        waits: world.waits().clone(),
        faults: world.faults(),
        shares: shares.map(|s| s.escrow.reading().shares_decided).sum(),
        granted: alive
            .iter()
            .map(|node| world.replication(*node).transfer_stats().granted)
            .sum(),
        last,
        unjudged,
    })
}

fn key_of(client: u64) -> KeyHash {
    KeyHash(u128::from(client).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835) | 1)
}

fn ask(world: &mut World, arrival: &Arrival, wait: Duration) -> Result<(), Violation> {
    let serving = world.serving();
    let Some(node) = serving.get(arrival.choice as usize % serving.len().max(1)) else {
        return Ok(());
    };
    let charge = Charge {
        rule: 0,
        key: key_of(arrival.client),
        hits: Hits::try_new(arrival.hits).unwrap_or(Hits::ONE),
    };
    let request = Request {
        charges: smallvec![charge],
        wait,
        stays: arrival.stays,
    };
    world.arrive(*node, request)
}

fn periods(world: &World) -> impl Iterator<Item = Period> {
    world.rule(0).windows.iter().map(|window| window.period)
}

/// The network is whole, and the operator gives up whoever has stopped: within three windows everybody has a share.
fn recover(world: &mut World, schedule: &BoundedSchedule) -> Result<(), Violation> {
    world.heal();
    // One after the other, or so many that know of no group might found another.
    for node in 0..world.nodes.len() {
        if world.serving().len() < schedule.world.nodes && !world.nodes[node].alive {
            world.inject(&Fault::Restart { node });
            let noticed = world.now() + schedule.world.detection.1 + news_take(schedule) * 2;
            world.run_until(noticed)?;
        }
    }
    let noticed = world.now() + NOTICED_WITHIN + news_take(schedule) * 3;
    world.run_until(noticed)?;
    if world.is_switched_away() {
        let mode = SyncMode::Bounded;
        world.inject(&Fault::Switch { mode });
        world.run_until(world.now() + NOTICE)?;
    }
    // Until no `weir roster` shows one.
    let patience = world.now() + FORGOTTEN_WITHIN;
    while world.lists_stopped() && world.now() < patience {
        world.forget_stopped()?;
        world.run_until(world.now() + Duration::from_millis(500))?;
    }
    let longest = periods(world).map(Period::nominal).max().unwrap_or_default();
    let skew = schedule
        .world
        .bounded
        .as_ref()
        .map_or(Duration::ZERO, |b| b.roster.skew);
    world.run_until(world.now() + longest * WINDOWS_TO_HEAL + skew)?;
    // Not just where a window begins.
    let shortest = periods(world).min_by_key(|period| period.nominal());
    if let Some(period) = shortest {
        let window = period.window_at(world.true_wall());
        let middle = window.end.since(world.true_wall()) + period.nominal() / 2;
        world.run_until(world.now() + middle)?;
    }
    world.check_shares()
}

fn news_take(schedule: &BoundedSchedule) -> Duration {
    schedule
        .world
        .bounded
        .as_ref()
        .map_or(Duration::ZERO, |b| b.news_delay)
}

/// On a healthy network, ten times the limit is offered to a new key within one window.
fn spend_all(
    world: &mut World,
    schedule: &BoundedSchedule,
    rng: &mut SmallRng,
) -> Result<((u64, u64), bool), Violation> {
    world.calm();
    let Some(shortest) = world
        .rule(0)
        .windows
        .iter()
        .copied()
        .min_by_key(|w| w.period.nominal())
    else {
        return Ok(((0, 0), true));
    };
    let limit = world
        .rule(0)
        .windows
        .iter()
        .map(|w| w.limit.hits())
        .min()
        .unwrap_or(0);
    let period = shortest.period;
    let window = period.window_at(period.window_at(world.true_wall()).end);
    let skew = schedule
        .world
        .bounded
        .as_ref()
        .map_or(Duration::ZERO, |b| b.roster.skew);
    let begins = world.now() + window.start.since(world.true_wall()) + skew / 2;
    let span = period.nominal().saturating_sub(skew + TAIL + schedule.wait);
    let (hits, client) = (schedule.hits, 1_000_000);
    let count = (limit * OVERLOAD).div_ceil(u64::from(hits));
    let node = rng.random();
    let mut arrivals: Vec<Arrival> = (0..count)
        .map(|_| Arrival {
            at: match schedule.spread {
                Spread::Burst => begins + Duration::from_micros(rng.random_range(0..1_000)),
                _ => begins + span.mul_f64(rng.random()),
            },
            client,
            choice: if schedule.spread == Spread::OneNode {
                node
            } else {
                rng.random()
            },
            hits,
            stays: Duration::MAX,
        })
        .collect();
    arrivals.sort_unstable();
    for arrival in &arrivals {
        world.run_until(arrival.at)?;
        ask(world, arrival, schedule.wait)?;
    }
    world.run_until(world.now() + schedule.wait + Duration::from_millis(1))?;
    let row = RowKey {
        rule: world.rule(0).id(period),
        window,
        key: key_of(client),
    };
    let admitted = world.oracle.admitted(&row);
    let spendable = limit / u64::from(hits) * u64::from(hits);
    let nodes = world.serving().len() as u64;
    let is_patient = schedule.wait >= Duration::from_millis(20);
    let is_large = limit >= 100 * nodes && schedule.spread != Spread::Burst && hits == 1;
    let needed = if is_patient {
        spendable
    } else {
        spendable * 99 / 100
    };
    // Who lacks rights in one window gives away those of the other, so that two may swap.
    let may_swap = world.rule(0).windows.len() > 1 && schedule.spread == Spread::Burst;
    let is_judged = !may_swap && !schedule.overflows && world.all_have_shares() && (is_patient || is_large);
    if is_judged && admitted < needed {
        return Err(world.violation(format!(
            "{admitted} of {spendable} admitted of {row:?} when {count} requests of {hits} came {:?} to {nodes} nodes and waited {:?}; limits {:?}; {:?}",
            schedule.spread,
            schedule.wait,
            world.rule(0).windows.iter().map(ToString::to_string).collect::<Vec<_>>(),
            WaitReport { waits: Vec::new(), ..world.waits().clone() },
        )));
    }
    Ok(((admitted, spendable), !is_judged))
}

impl World {
    /// What a right wall clock shows.
    pub(super) fn true_wall(&self) -> UnixMillis {
        self.config.starts_at.plus(self.now)
    }

    /// Whether a node that takes requests counts one that has stopped.
    fn lists_stopped(&self) -> bool {
        let mut stewards = self
            .serving()
            .into_iter()
            .filter_map(|node| self.nodes[node].steward.as_ref());
        stewards.any(|steward| {
            let members = steward.escrow.status().members;
            let is_stopped = |id| !self.nodes.iter().any(|node| node.alive && node.replica == id);
            members
                .into_iter()
                .any(|member| member.departed_until.is_none() && is_stopped(member.replica))
        })
    }

    fn is_switched_away(&self) -> bool {
        let mut modes = self
            .serving()
            .into_iter()
            .filter_map(|node| self.nodes[node].steward.as_ref());
        modes.any(|steward| steward.mode().mode != SyncMode::Bounded)
    }

    /// From now on every link is that of a quiet data centre.
    fn calm(&mut self) {
        self.network.set_link(Link::default());
    }

    /// Whether every node has a share of every window in progress.
    fn all_have_shares(&self) -> bool {
        self.check_shares().is_ok()
            && !self.serving().is_empty()
            && self.serving().into_iter().all(|node| {
                let steward = self.nodes[node].steward.as_ref();
                steward.is_some_and(|steward| steward.escrow.reading().shares_blocked == 0)
            })
    }

    /// Every node that takes requests has a share of every window in progress, unless too few have gathered.
    fn check_shares(&self) -> Result<(), Violation> {
        for node in self.serving() {
            let Some(steward) = &self.nodes[node].steward else {
                continue;
            };
            let status = steward.escrow.status();
            for period in &status.periods {
                if period.divisor.is_some() || matches!(period.blocked, Some(Blocked::Gathering { .. })) {
                    continue;
                }
                let modes: Vec<_> = self
                    .serving()
                    .into_iter()
                    .map(|node| (node, self.nodes[node].steward.as_ref().map(|s| s.mode())))
                    .collect();
                return Err(self.violation(format!(
                    "n{node} has no share: {period:?}; {:?}; modes {modes:?}",
                    status.members
                )));
            }
        }
        Ok(())
    }
}
