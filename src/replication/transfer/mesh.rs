//! A small cluster in memory: real limiters, waiting rooms and cores over a network that loses, repeats and
//! reorders. Counts what was admitted apart from them, and holds it to the limit at every step.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

use crate::bounded::{Membership, ShareTable};
use crate::limit::significance::Significance;
use crate::limit::{
    Charge, Hits, KeyHash, Limiter, Now, Outcome, Rule, SyncMode, UnixMillis, Waiting, Window, Woken,
};
use crate::replica::{Generation, ReplicaId};

use super::super::core::{Replication, ReplicationConfig};

/// A minute's beginning.
pub(super) const START: UnixMillis = UnixMillis(1_767_614_400_000);
pub(super) const WINDOW: Window = Window {
    start: START,
    end: UnixMillis(START.0 + 60_000),
};
/// How long a request waits for rights.
const PATIENCE: Duration = Duration::from_millis(20);
const STEP: Duration = Duration::from_millis(1);

/// What goes wrong on the way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Faults {
    /// Of a hundred frames, so many are lost, and so many come twice.
    pub(super) lost: u32,
    pub(super) repeated: u32,
    /// Longest way of a frame, in milliseconds; the shortest is one.
    pub(super) delay_max: u64,
}

pub(super) const HEALTHY: Faults = Faults {
    lost: 0,
    repeated: 0,
    delay_max: 1,
};

pub(super) struct Node {
    pub(super) id: ReplicaId,
    pub(super) core: Replication,
    pub(super) shares: Arc<ShareTable>,
    /// Its wall clock is so many milliseconds ahead.
    pub(super) skew: i64,
    pub(super) alive: bool,
}

/// A request that waits.
struct Waiter<'a> {
    node: usize,
    charge: Charge,
    deadline: Duration,
    waiting: Pin<Box<Waiting<'a>>>,
}

/// What became of requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) admitted: u64,
    pub(super) waited: u64,
    pub(super) timed_out: u64,
    pub(super) exhausted: u64,
    pub(super) denied: u64,
}

pub(super) struct Mesh<'a> {
    limiters: &'a [Limiter],
    pub(super) nodes: Vec<Node>,
    pub(super) faults: Faults,
    /// Frames go from the first to the second and do not arrive.
    pub(super) cuts: Vec<(usize, usize)>,
    pub(super) at: Duration,
    pub(super) tally: Tally,
    pub(super) rng: SmallRng,
    limit: u64,
    waiters: Vec<Waiter<'a>>,
    wire: Vec<(Duration, usize, Vec<u8>)>,
    admitted: BTreeMap<u128, u64>,
}

/// As many limiters with one rule of `limit` a minute.
pub(super) fn limiters(count: usize, limit: u64) -> Vec<Limiter> {
    let limiter = |_| {
        let rule = Rule::new("a", [format!("{limit}/minute").parse().unwrap()]);
        Limiter::new(vec![rule], SyncMode::Bounded, Significance::default(), 1 << 12)
    };
    (0..count).map(limiter).collect()
}

fn address(index: usize) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 7000 + u16::try_from(index).unwrap()))
}

impl<'a> Mesh<'a> {
    /// Nodes that all live and know of each other, and no shares yet.
    pub(super) fn new(limiters: &'a [Limiter], limit: u64, seed: u64) -> Self {
        let node = |(index, limiter): (usize, &Limiter)| {
            let id = ReplicaId {
                node: format!("n{index}").parse().unwrap(),
                generation: Generation(index as u64),
            };
            let shares = Arc::new(ShareTable::new(id.clone()));
            let counters = Arc::clone(limiter.counters());
            let config = ReplicationConfig::default();
            let mut core = Replication::new(id.clone(), counters, config, seed + index as u64);
            core.set_bounded(Arc::clone(&shares));
            Node {
                id,
                core,
                shares,
                skew: 0,
                alive: true,
            }
        };
        let mut mesh = Self {
            nodes: limiters.iter().enumerate().map(node).collect(),
            limiters,
            faults: HEALTHY,
            cuts: Vec::new(),
            at: Duration::from_secs(1),
            tally: Tally::default(),
            rng: SmallRng::seed_from_u64(seed),
            limit,
            waiters: Vec::new(),
            wire: Vec::new(),
            admitted: BTreeMap::new(),
        };
        mesh.announce();
        mesh
    }

    /// Everybody takes its share of the window among all who live.
    pub(super) fn decide_all(&mut self) {
        for index in 0..self.nodes.len() {
            self.decide(index);
        }
    }

    pub(super) fn membership(&self, holder: usize) -> Arc<Membership> {
        let members = self.nodes.iter().map(|node| node.id.clone());
        Arc::new(Membership::try_new(START, &self.nodes[holder].id, members).unwrap())
    }

    pub(super) fn decide(&mut self, index: usize) {
        let membership = self.membership(index);
        let node = &mut self.nodes[index];
        node.shares.replace([membership]);
        node.core.reassess(START);
    }

    pub(super) fn now(&self, node: usize) -> Now {
        let wall = START.0 + (self.at - Duration::from_secs(1)).as_millis() as u64;
        Now {
            monotonic: self.at,
            wall: UnixMillis(wall.checked_add_signed(self.nodes[node].skew).unwrap()),
        }
    }

    /// Tells every node who lives.
    pub(super) fn announce(&mut self) {
        for index in 0..self.nodes.len() {
            let live = self.nodes.iter().enumerate();
            let live: Vec<_> = live
                .filter(|(other, node)| *other != index && node.alive)
                .map(|(other, node)| (node.id.clone(), address(other)))
                .collect();
            let now = self.now(index);
            self.nodes[index].core.handle_membership(&live, now);
        }
    }

    pub(super) fn limiter(&self, node: usize) -> &'a Limiter {
        &self.limiters[node]
    }

    /// Hits admitted of `key` so far.
    pub(super) fn admitted(&self, key: u128) -> u64 {
        self.admitted.get(&key).copied().unwrap_or(0)
    }

    /// A request at `node`, which waits if it has to.
    pub(super) fn request(&mut self, node: usize, key: u128, hits: u32) {
        let charge = Charge {
            rule: 0,
            key: KeyHash(key.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)),
            hits: Hits::try_new(hits).unwrap(),
        };
        let now = self.now(node);
        let decision = self.limiters[node].check(&[charge], now.wall);
        if self.note(&charge, decision.outcome) {
            return;
        }
        let Some(waiting) = self.limiters[node].waiting().enter(&decision.short) else {
            self.tally.denied += 1;
            return;
        };
        let waiter = Waiter {
            node,
            charge,
            deadline: self.at + PATIENCE,
            waiting: Box::pin(waiting),
        };
        if decision.short.is_empty() {
            self.tally.denied += 1;
        } else if let Some(waiter) = self.try_again(waiter) {
            self.tally.waited += 1;
            self.waiters.push(waiter);
        }
    }

    /// Counts what was admitted, apart from those who admit.
    fn note(&mut self, charge: &Charge, outcome: Outcome) -> bool {
        let is_admitted = outcome == Outcome::Admitted;
        if is_admitted {
            let key = charge.key.0.wrapping_mul(inverse());
            let sum = self.admitted.entry(key).or_default();
            *sum += u64::from(charge.hits.get());
            assert!(*sum <= self.limit, "{sum} of {} for {key}", self.limit);
            self.tally.admitted += u64::from(charge.hits.get());
        }
        is_admitted
    }

    /// Decides once more; gives the waiter back if it has to go on waiting.
    fn try_again(&mut self, waiter: Waiter<'a>) -> Option<Waiter<'a>> {
        let now = self.now(waiter.node);
        let decision = self.limiters[waiter.node].check(&[waiter.charge], now.wall);
        if self.note(&waiter.charge, decision.outcome) {
            return None;
        }
        if decision.short.is_empty() {
            self.tally.exhausted += 1;
            return None;
        }
        assert!(self.limiters[waiter.node].want(&decision.short));
        Some(waiter)
    }

    fn poll_waiters(&mut self) {
        let mut context = Context::from_waker(Waker::noop());
        for mut waiter in std::mem::take(&mut self.waiters) {
            match waiter.waiting.as_mut().poll(&mut context) {
                Poll::Ready(Woken::Exhausted) => self.tally.exhausted += 1,
                _ if self.at >= waiter.deadline => self.tally.timed_out += 1,
                Poll::Ready(Woken::Retry) => {
                    if let Some(waiter) = self.try_again(waiter) {
                        self.waiters.push(waiter);
                    }
                }
                Poll::Pending => self.waiters.push(waiter),
            }
        }
    }

    /// A millisecond passes: what is due arrives, cores and waiters have their turn.
    pub(super) fn step(&mut self) {
        self.at += STEP;
        let due;
        (due, self.wire) = std::mem::take(&mut self.wire)
            .into_iter()
            .partition(|(at, ..)| *at <= self.at);
        for (_, to, frame) in due {
            let now = self.now(to);
            if self.nodes[to].alive {
                self.nodes[to].core.handle_datagram(&frame, now).unwrap();
            }
        }
        for index in 0..self.nodes.len() {
            let now = self.now(index);
            let node = &mut self.nodes[index];
            if !node.alive {
                continue;
            }
            node.core.handle_local_change(now);
            if node.core.poll_timeout() <= now.monotonic {
                node.core.handle_timeout(now);
            }
            let sent: Vec<_> = std::iter::from_fn(|| node.core.poll_transmit()).collect();
            for transmit in sent {
                for to in transmit.to.iter().map(|to| usize::from(to.port() - 7000)) {
                    self.send(index, to, &transmit.payload);
                }
            }
        }
        self.poll_waiters();
    }

    fn send(&mut self, from: usize, to: usize, payload: &[u8]) {
        assert!(payload.len() <= ReplicationConfig::default().frame_bytes_max);
        let copies = match self.rng.random_range(0..100) {
            chance if chance < self.faults.lost => 0,
            chance if chance < self.faults.lost + self.faults.repeated => 2,
            _ => 1,
        };
        if self.cuts.contains(&(from, to)) {
            return;
        }
        for _ in 0..copies {
            let delay = self.rng.random_range(1..=self.faults.delay_max);
            self.wire
                .push((self.at + Duration::from_millis(delay), to, payload.to_vec()));
        }
    }

    pub(super) fn run(&mut self, millis: u64) {
        for _ in 0..millis {
            self.step();
        }
    }

    /// Asks sent by all so far.
    pub(super) fn asks(&self) -> u64 {
        let asks = self.nodes.iter().map(|node| node.core.transfer_stats().asks);
        asks.sum()
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiters.len()
    }
}

/// The inverse of the odd number that keys are spread by, modulo 2^128 (Newton's iteration).
fn inverse() -> u128 {
    let odd = 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835_u128;
    (0..7).fold(odd, |x, _| {
        x.wrapping_mul(2_u128.wrapping_sub(odd.wrapping_mul(x)))
    })
}
