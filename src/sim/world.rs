//! The world: nodes, network and virtual time, one event after the other.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::limit::significance::Significance;
use crate::limit::{Charge, Decision, Hits, KeyHash, Outcome, RowKey, Rule, SyncMode, UnixMillis};
use crate::replication::{ReplicaId, Replication, ReplicationConfig};

use super::fault::{Fault, FaultReport};
use super::network::{Link, Network};
use super::node::{Clock, EPOCH, Node, NodeConfig, address, index_of};
use super::oracle::{Oracle, Violation};
use super::watch::Watch;

/// Lines of trace kept for a failure.
const TRACE_MAX: usize = 4_000;

/// What a world is made of.
#[derive(Clone, Debug)]
pub struct WorldConfig {
    /// Nodes at the start.
    pub nodes: usize,
    /// The rules, the same on all nodes.
    pub rules: Vec<Rule>,
    /// The sync mode.
    pub mode: SyncMode,
    /// α and ε.
    pub significance: Significance,
    /// Rows a node holds at most.
    pub max_keys: u32,
    /// Replication's settings.
    pub replication: ReplicationConfig,
    /// Every link.
    pub link: Link,
    /// Datagrams above this many bytes vanish.
    pub mtu: usize,
    /// Clocks start up to this many milliseconds off, either way.
    pub skew_ms: u32,
    /// Clocks run up to this many millionths fast or slow.
    pub drift_ppm: u32,
    /// How long membership takes to notice a change, at least and at most.
    pub detection: (Duration, Duration),
    /// Keep a readable trace.
    pub trace: bool,
    /// Judge the invariants at every event. Costs more than the events themselves.
    pub judge: bool,
    /// What a right wall clock shows at virtual time zero.
    pub starts_at: UnixMillis,
}

impl WorldConfig {
    /// `nodes` nodes with right clocks and default settings on a quiet network, judged at every event.
    #[must_use]
    pub fn quiet(nodes: usize, rules: Vec<Rule>, mode: SyncMode) -> Self {
        Self {
            nodes,
            rules,
            mode,
            significance: Significance::default(),
            max_keys: 4_096,
            replication: ReplicationConfig::default(),
            link: Link::default(),
            mtu: 1_200,
            skew_ms: 0,
            drift_ppm: 0,
            detection: (Duration::from_millis(100), Duration::from_millis(1_500)),
            trace: false,
            judge: true,
            starts_at: EPOCH,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Deliver { to: usize, from: usize, frame: Vec<u8> },
    Wake { node: usize },
    Membership { node: usize },
    Mend { side: Vec<usize>, one_way: bool },
    Left { node: usize },
}

/// A cluster in virtual time.
pub struct World {
    config: WorldConfig,
    rng: SmallRng,
    now: Duration,
    serial: u64,
    events: BinaryHeap<Reverse<(Duration, u64, Event)>>,
    nodes: Vec<Node>,
    network: Network,
    faults: FaultReport,
    trace: VecDeque<String>,
    /// What was truly admitted.
    pub oracle: Oracle,
    totals: BTreeMap<(ReplicaId, RowKey), u64>,
    watch: Watch,
}

impl World {
    /// A world that `seed` decides.
    #[must_use]
    pub fn new(config: WorldConfig, seed: u64) -> Self {
        let mut world = Self {
            rng: SmallRng::seed_from_u64(seed),
            network: Network::new(config.link, config.mtu),
            now: Duration::ZERO,
            serial: 0,
            events: BinaryHeap::new(),
            nodes: Vec::new(),
            faults: FaultReport::default(),
            trace: VecDeque::new(),
            oracle: Oracle::default(),
            totals: BTreeMap::new(),
            watch: Watch::default(),
            config,
        };
        for _ in 0..world.config.nodes {
            world.start_new();
        }
        for node in 0..world.nodes.len() {
            world.update_membership(node);
        }
        world
    }

    /// Virtual time.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.now
    }

    /// Indices of the nodes that are up.
    #[must_use]
    pub fn alive(&self) -> Vec<usize> {
        (0..self.nodes.len())
            .filter(|index| self.nodes[*index].alive)
            .collect()
    }

    /// The replication core of a node.
    #[must_use]
    pub fn replication(&self, node: usize) -> &Replication {
        &self.nodes[node].replication
    }

    /// One of the rules.
    #[must_use]
    pub fn rule(&self, index: usize) -> &Rule {
        &self.config.rules[index]
    }

    /// Faults that happened so far.
    #[must_use]
    pub fn faults(&self) -> FaultReport {
        let traffic = self.network.traffic;
        FaultReport {
            cut: traffic.cut,
            lost: traffic.lost,
            duplicated: traffic.duplicated,
            reordered: traffic.reordered,
            oversized: traffic.oversized,
            ..self.faults
        }
    }

    /// Bytes that all nodes sent.
    #[must_use]
    pub fn bytes_sent(&self) -> u64 {
        self.network.traffic.bytes
    }

    /// Datagrams that all nodes sent.
    #[must_use]
    pub fn datagrams_sent(&self) -> u64 {
        self.network.traffic.sent
    }

    /// Follows what `node` has counted of `row` so far until every live node has heard of it. A sample:
    /// while enough others are followed, nothing happens.
    pub fn follow(&mut self, node: usize, row: RowKey) {
        self.watch.follow(&self.nodes, node, row, self.now);
    }

    /// Whether something that [`World::follow`] follows has not reached everybody.
    #[must_use]
    pub fn is_following(&self) -> bool {
        self.watch.is_waiting()
    }

    /// How long what was followed took to reach everybody; what has not counts with its age.
    #[must_use]
    pub fn convergence_times(&self) -> Vec<Duration> {
        self.watch.times(self.now)
    }

    /// The last lines of the trace.
    pub fn trace(&self) -> impl Iterator<Item = &str> {
        self.trace.iter().map(String::as_str)
    }

    /// Runs until virtual time `until`.
    ///
    /// # Errors
    /// The first invariant that does not hold.
    pub fn run_until(&mut self, until: Duration) -> Result<(), Violation> {
        while let Some(Reverse((at, ..))) = self.events.peek() {
            if *at > until {
                break;
            }
            let Some(Reverse((at, _, event))) = self.events.pop() else {
                break;
            };
            self.now = self.now.max(at);
            self.handle(event)?;
        }
        self.now = self.now.max(until);
        Ok(())
    }

    /// A client asks `node` now.
    ///
    /// # Errors
    /// As [`World::run_until`].
    pub fn request(
        &mut self,
        node: usize,
        rule: usize,
        key: KeyHash,
        hits: Hits,
    ) -> Result<Decision, Violation> {
        self.oracle.offered += 1;
        let at = &self.nodes[node];
        let wall = at.now(self.now).wall;
        let decision = at.limiter.check(&[Charge { rule, key, hits }], wall);
        if decision.outcome == Outcome::Admitted {
            let rules = at.limiter.rules();
            for state in &decision.windows {
                let row = RowKey {
                    rule: rules[rule].id(state.period),
                    window: state.window,
                    key,
                };
                self.oracle.admit(row, &at.replica, u64::from(hits.get()));
            }
        }
        let due = decision.due;
        self.note(|| {
            format!(
                "n{node} {:?} key {:x} due {due}",
                decision.outcome,
                key.0 & 0xffff
            )
        });
        if due {
            let now = self.nodes[node].now(self.now);
            self.nodes[node].replication.handle_local_change(now);
        }
        self.settle(node)?;
        Ok(decision)
    }

    /// Makes a fault happen now; one that cannot (a dead node cannot crash) does not count as happened.
    pub fn inject(&mut self, fault: &Fault) {
        self.note(|| format!("fault {fault:?}"));
        match fault {
            Fault::Crash { node } if self.is_alive(*node) => {
                self.nodes[*node].alive = false;
                self.faults.crashes += 1;
                self.membership_changed();
            }
            Fault::Restart { node } if *node < self.nodes.len() && !self.nodes[*node].alive => {
                self.start_again(*node);
                self.faults.restarts += 1;
                self.membership_changed();
            }
            Fault::Join => {
                self.start_new();
                self.faults.joins += 1;
                self.membership_changed();
            }
            Fault::Leave { node } if self.is_alive(*node) => {
                let now = self.nodes[*node].now(self.now);
                self.nodes[*node].replication.handle_leave(now);
                self.faults.leaves += 1;
                self.after(Duration::from_millis(500), Event::Left { node: *node });
                self.drain(*node);
            }
            Fault::Partition { side, one_way, lasts } => {
                self.cut(side, *one_way, true);
                self.faults.partitions += 1;
                self.after(
                    *lasts,
                    Event::Mend {
                        side: side.clone(),
                        one_way: *one_way,
                    },
                );
                self.membership_changed();
            }
            _ => {}
        }
    }

    /// Mends the network for good.
    pub fn heal(&mut self) {
        self.network.heal();
        self.membership_changed();
    }

    fn handle(&mut self, event: Event) -> Result<(), Violation> {
        match event {
            Event::Deliver { to, from, frame } => {
                if self.nodes[to].alive {
                    let now = self.nodes[to].now(self.now);
                    let outcome = self.nodes[to].replication.handle_datagram(&frame, now);
                    self.note(|| format!("n{to} <- n{from} {} {outcome:?}", describe(&frame)));
                    self.watch.observe(to, &self.nodes[to], self.now);
                    self.settle(to)?;
                }
            }
            Event::Wake { node } => {
                self.nodes[node].wake_at = None;
                if self.nodes[node].alive {
                    let now = self.nodes[node].now(self.now);
                    self.nodes[node].replication.handle_timeout(now);
                    self.settle(node)?;
                }
            }
            Event::Membership { node } => self.update_membership(node),
            Event::Mend { side, one_way } => {
                self.cut(&side, one_way, false);
                self.membership_changed();
            }
            Event::Left { node } => {
                self.nodes[node].alive = false;
                self.membership_changed();
            }
        }
        Ok(())
    }

    fn settle(&mut self, node: usize) -> Result<(), Violation> {
        self.drain(node);
        if self.config.judge {
            self.check_node(node)?;
        }
        Ok(())
    }

    /// Sends what a node has to send, and plans its next wake-up.
    fn drain(&mut self, node: usize) {
        while let Some(transmit) = self.nodes[node].replication.poll_transmit() {
            for to in transmit.to.iter().filter_map(|to| index_of(*to)) {
                // Sealing adds 45 bytes.
                let bytes = transmit.payload.len() + 45;
                for at in self.network.send(node, to, bytes, self.now, &mut self.rng) {
                    self.at(
                        at,
                        Event::Deliver {
                            to,
                            from: node,
                            frame: transmit.payload.clone(),
                        },
                    );
                }
            }
        }
        let wake = self.nodes[node].replication.poll_timeout();
        // A node that asks to be woken at once still yields to the events of this instant.
        let wake = self.nodes[node]
            .virtual_time(wake)
            .max(self.now + Duration::from_micros(10));
        if self.nodes[node].wake_at.is_none_or(|planned| wake < planned) {
            self.nodes[node].wake_at = Some(wake);
            self.at(wake, Event::Wake { node });
        }
    }

    /// What must hold of a node at every step: nothing is counted that was not admitted, and no total
    /// falls while its row lives.
    fn check_node(&mut self, node: usize) -> Result<(), Violation> {
        // Looking at every row after every event is quadratic: most steps look at a sample.
        let rows = self.oracle.rows().map(|(row, _)| *row).collect::<Vec<_>>();
        let sample = if rows.len() > 8 { 8 } else { rows.len() };
        for step in 0..sample {
            let row = rows[(self.serial as usize + step * 31) % rows.len()];
            self.check_row(node, &row)?;
        }
        Ok(())
    }

    fn check_row(&mut self, node: usize, row: &RowKey) -> Result<(), Violation> {
        let at = &self.nodes[node];
        let counters = at.limiter.counters();
        let Some(view) = counters.find(row).and_then(|found| counters.view(found)) else {
            return Ok(());
        };
        let (total, truth) = (view.own + view.peers, self.oracle.admitted(row));
        if total > truth {
            return Err(self.violation(format!(
                "n{node} counts {total} of {row:?}, admitted were {truth}"
            )));
        }
        let before = self.totals.insert((at.replica.clone(), *row), total).unwrap_or(0);
        if total < before {
            return Err(self.violation(format!("n{node} counted {before} of {row:?} and now {total}")));
        }
        Ok(())
    }

    /// After the network has healed and everything has settled: every live node holds, of every replica,
    /// the same count, and of every live replica the true one.
    ///
    /// # Errors
    /// The first row on which two nodes differ.
    pub fn check_converged(&self) -> Result<(), Violation> {
        let alive = self.alive();
        for (row, admitted) in self.oracle.rows() {
            let counts: Vec<_> = alive.iter().map(|node| self.counts(*node, row)).collect();
            for (replica, truth) in admitted {
                let owner = alive.iter().find(|node| self.nodes[**node].replica == *replica);
                let released = owner.map(|node| self.released(*node, row));
                let held: Vec<u64> = counts
                    .iter()
                    .map(|c| c.get(replica).copied().unwrap_or(0))
                    .collect();
                let most = held.iter().copied().max().unwrap_or(0);
                let expected = released.unwrap_or(most);
                let differs = |(node, count): (&usize, &u64)| *count != expected && Some(node) != owner;
                if most > *truth || alive.iter().zip(&held).any(differs) {
                    let nodes: Vec<_> = alive.iter().zip(&held).collect();
                    return Err(self.violation(format!(
                        "of {replica} (released {released:?}, truth {truth}) on {row:?} the nodes hold {nodes:?}"
                    )));
                }
            }
        }
        Ok(())
    }

    /// What a live node must have told the others by now: all it counted, unless it may hold it back.
    fn released(&self, node: usize, row: &RowKey) -> u64 {
        let at = &self.nodes[node];
        let counters = at.limiter.counters();
        let Some(view) = counters.find(row).and_then(|found| counters.view(found)) else {
            return 0;
        };
        let replicas = at.replication.replicas();
        let total = view.own + view.peers;
        let held_back =
            self.config
                .significance
                .is_held_back(view.own, total, view.limit.unwrap_or(0), replicas);
        if held_back { view.published } else { view.own }
    }

    fn counts(&self, node: usize, row: &RowKey) -> BTreeMap<ReplicaId, u64> {
        let node = &self.nodes[node];
        let found = node.limiter.counters().find(row);
        found
            .map(|found| node.replication.counts(found).into_iter().collect())
            .unwrap_or_default()
    }

    fn violation(&self, what: String) -> Violation {
        Violation { at: self.now, what }
    }

    fn is_alive(&self, node: usize) -> bool {
        self.nodes.get(node).is_some_and(|node| node.alive)
    }

    fn node_config(&self) -> NodeConfig {
        NodeConfig {
            rules: self.config.rules.clone(),
            mode: self.config.mode,
            significance: self.config.significance,
            max_keys: self.config.max_keys,
            replication: self.config.replication.clone(),
            starts_at: self.config.starts_at,
        }
    }

    fn start_new(&mut self) {
        let (skew, drift) = (i64::from(self.config.skew_ms), i64::from(self.config.drift_ppm));
        let clock = Clock {
            skew_ms: self.rng.random_range(-skew..=skew),
            drift_ppm: self.rng.random_range(-drift..=drift),
        };
        let index = self.nodes.len();
        let node = Node::start(index, &self.node_config(), clock, self.rng.random(), self.now);
        self.nodes.push(node);
        self.drain(index);
    }

    fn start_again(&mut self, index: usize) {
        let clock = self.nodes[index].clock;
        self.nodes[index] = Node::start(index, &self.node_config(), clock, self.rng.random(), self.now);
        self.drain(index);
    }

    fn cut(&mut self, side: &[usize], one_way: bool, is_cut: bool) {
        // Nodes that join later are outside; indices are planned ahead so that mending matches cutting.
        const PLANNED: usize = 64;
        for inside in side {
            for outside in (0..PLANNED).filter(|node| !side.contains(node)) {
                self.network.cut(*inside, outside, is_cut);
                if !one_way {
                    self.network.cut(outside, *inside, is_cut);
                }
            }
        }
    }

    /// Everybody hears of a change, each after its own delay.
    fn membership_changed(&mut self) {
        let (least, most) = self.config.detection;
        for node in self.alive() {
            let delay = self.rng.random_range(least..=most);
            self.after(delay, Event::Membership { node });
        }
    }

    /// A node takes for alive whom it can hear.
    fn update_membership(&mut self, node: usize) {
        if !self.is_alive(node) {
            return;
        }
        let live: Vec<_> = self
            .alive()
            .into_iter()
            .filter(|peer| *peer != node && !self.network.is_cut(*peer, node))
            .map(|peer| (self.nodes[peer].replica.clone(), address(peer)))
            .collect();
        self.note(|| format!("n{node} sees {live:?}"));
        let now = self.nodes[node].now(self.now);
        let at = &mut self.nodes[node];
        at.replication.handle_membership(&live, now);
        at.limiter.set_replicas(at.replication.replicas());
        self.drain(node);
    }

    fn after(&mut self, delay: Duration, event: Event) {
        self.at(self.now + delay, event);
    }

    fn at(&mut self, at: Duration, event: Event) {
        self.serial += 1;
        self.events.push(Reverse((at, self.serial, event)));
    }

    fn note(&mut self, line: impl FnOnce() -> String) {
        if self.config.trace {
            if self.trace.len() == TRACE_MAX {
                self.trace.pop_front();
            }
            self.trace
                .push_back(format!("[{:>10.6}] {}", self.now.as_secs_f64(), line()));
        }
    }
}

fn describe_delta(delta: &crate::replication::codec::Delta) -> String {
    let interval = delta.interval;
    let rows: Vec<_> = delta
        .rows
        .iter()
        .map(|row| (row.version, row.key.key.0 & 0xffff, row.count))
        .collect();
    format!(
        "delta {} ({},{}] complete at {} {rows:x?}",
        delta.log, interval.after, interval.to, delta.complete_at
    )
}

fn describe(frame: &[u8]) -> String {
    use crate::replication::codec::{Body, decode};
    match decode(frame).map(|frame| frame.body) {
        Ok(Body::Deltas(deltas)) => {
            let deltas: Vec<_> = deltas.iter().map(describe_delta).collect();
            deltas.join("; ")
        }
        Ok(Body::Digest(digest)) => {
            let held: Vec<_> = digest
                .entries
                .iter()
                .map(|e| format!("{} {} {:?}", e.log, e.confirmed, e.received))
                .collect();
            format!("digest {held:?}")
        }
        Err(error) => error.to_string(),
    }
}
