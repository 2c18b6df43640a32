//! The virtual network: delay, loss, duplication, partitions and an MTU, by link.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::Rng;
use rand::rngs::SmallRng;

/// How one direction between two nodes behaves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Link {
    /// Least delay.
    pub delay: Duration,
    /// Mean of the exponential delay added to it: what reorders datagrams.
    pub jitter: Duration,
    /// Share of datagrams lost, 0 to 1.
    pub loss: f64,
    /// Share of datagrams delivered twice, 0 to 1.
    pub duplication: f64,
}

impl Default for Link {
    /// A quiet data centre: 1 ms, nothing lost.
    fn default() -> Self {
        Self {
            delay: Duration::from_millis(1),
            jitter: Duration::from_micros(100),
            loss: 0.0,
            duplication: 0.0,
        }
    }
}

/// What became of the datagrams sent so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Datagrams handed to the network.
    pub sent: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Lost by chance.
    pub lost: u64,
    /// Delivered twice.
    pub duplicated: u64,
    /// Dropped at a partition.
    pub cut: u64,
    /// Dropped for their size.
    pub oversized: u64,
    /// Delivered after a datagram that was sent later on the same link.
    pub reordered: u64,
}

/// The links between nodes, by index.
#[derive(Clone, Debug)]
pub struct Network {
    default: Link,
    mtu: usize,
    cuts: BTreeMap<(usize, usize), u32>,
    last_arrival: BTreeMap<(usize, usize), Duration>,
    /// What happened so far.
    pub traffic: Traffic,
}

impl Network {
    /// A network in which every link behaves like `link` and datagrams above `mtu` bytes vanish.
    #[must_use]
    pub fn new(link: Link, mtu: usize) -> Self {
        Self {
            default: link,
            mtu,
            cuts: BTreeMap::new(),
            last_arrival: BTreeMap::new(),
            traffic: Traffic::default(),
        }
    }

    /// Changes every link.
    pub fn set_link(&mut self, link: Link) {
        self.default = link;
    }

    /// Cuts (or mends) the direction from one node to another. Cuts nest.
    pub fn cut(&mut self, from: usize, to: usize, is_cut: bool) {
        let depth = self.cuts.entry((from, to)).or_default();
        *depth = if is_cut {
            *depth + 1
        } else {
            depth.saturating_sub(1)
        };
    }

    /// Mends everything: no cuts, no loss, no duplication.
    pub fn heal(&mut self) {
        self.cuts.clear();
        self.default.loss = 0.0;
        self.default.duplication = 0.0;
    }

    /// Whether anything gets from one node to another.
    #[must_use]
    pub fn is_cut(&self, from: usize, to: usize) -> bool {
        self.cuts.get(&(from, to)).is_some_and(|depth| *depth > 0)
    }

    /// The share of datagrams lost.
    #[must_use]
    pub fn loss(&self) -> f64 {
        self.default.loss
    }

    /// When a datagram sent now arrives: never, once or twice.
    pub fn send(
        &mut self,
        from: usize,
        to: usize,
        bytes: usize,
        now: Duration,
        rng: &mut SmallRng,
    ) -> Vec<Duration> {
        self.traffic.sent += 1;
        self.traffic.bytes += bytes as u64;
        if bytes > self.mtu {
            self.traffic.oversized += 1;
            return Vec::new();
        }
        if self.is_cut(from, to) {
            self.traffic.cut += 1;
            return Vec::new();
        }
        if rng.random_bool(self.default.loss) {
            self.traffic.lost += 1;
            return Vec::new();
        }
        let copies = if rng.random_bool(self.default.duplication) {
            2
        } else {
            1
        };
        self.traffic.duplicated += copies - 1;
        (0..copies).map(|_| self.arrival(from, to, now, rng)).collect()
    }

    fn arrival(&mut self, from: usize, to: usize, now: Duration, rng: &mut SmallRng) -> Duration {
        let exponential = -(1.0 - rng.random::<f64>()).ln();
        let at = now + self.default.delay + self.default.jitter.mul_f64(exponential);
        let last = self.last_arrival.entry((from, to)).or_default();
        if at < *last {
            self.traffic.reordered += 1;
        }
        *last = (*last).max(at);
        at
    }
}
