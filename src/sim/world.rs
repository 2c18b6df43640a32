//! The world: nodes, network and virtual time, one event after the other.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::limit::significance::Significance;
use crate::limit::{Charge, Decision, Hits, KeyHash, Outcome, RowKey, Rule, SyncMode, UnixMillis};
use crate::replication::{Replication, ReplicationConfig};

use super::fault::{Fault, FaultReport};
use super::flood::{self, Flood};
use super::judge::{Judge, Touched};
use super::network::{Link, Network};
use super::node::{Clock, EPOCH, Node, NodeConfig, address, index_of};
use super::oracle::{Oracle, Violation};
use super::promise::Promise;
use super::rumours::{BoundedWorld, Post};
use super::sabotage::Sabotage;
use super::waits::Waits;
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
    /// Plays rosters, wills and transfers of rights, where rules may be bounded.
    pub bounded: Option<BoundedWorld>,
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
            bounded: None,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Event {
    Deliver {
        to: usize,
        from: usize,
        frame: Vec<u8>,
    },
    Wake {
        node: usize,
    },
    Membership {
        node: usize,
    },
    Mend {
        side: Vec<usize>,
        one_way: bool,
    },
    Left {
        node: usize,
    },
    /// A round of membership.
    Round {
        node: usize,
        generation: u64,
    },
    News {
        to: usize,
        letter: u64,
    },
    /// What membership has heard reaches the rest of the node.
    View {
        node: usize,
    },
    LeaveOver {
        node: usize,
        generation: u64,
    },
    Departed {
        node: usize,
        generation: u64,
    },
    WaitOver {
        waiter: u64,
        is_given_up: bool,
    },
    Flood {
        node: usize,
        flood: Flood,
        serial: u64,
        left: u32,
    },
}

/// A cluster in virtual time.
pub struct World {
    pub(super) config: WorldConfig,
    pub(super) rng: SmallRng,
    pub(super) now: Duration,
    serial: u64,
    events: BinaryHeap<Reverse<(Duration, u64, Event)>>,
    pub(super) nodes: Vec<Node>,
    pub(super) network: Network,
    pub(super) faults: FaultReport,
    /// When nodes stopped.
    stopped: Vec<Duration>,
    trace: VecDeque<String>,
    /// What was truly admitted.
    pub oracle: Oracle,
    pub(super) judge: Judge,
    watch: Watch,
    pub(super) promise: Promise,
    pub(super) waits: Waits,
    pub(super) post: Post,
    /// When the operator last switched to bounded mode.
    pub(super) switched_at: Duration,
    /// The mode that configurations have by now.
    pub(super) file_mode: SyncMode,
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
            stopped: Vec::new(),
            trace: VecDeque::new(),
            oracle: Oracle::default(),
            judge: Judge::default(),
            watch: Watch::default(),
            promise: Promise::default(),
            waits: Waits::default(),
            post: Post::default(),
            switched_at: Duration::MAX,
            file_mode: config.mode,
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

    /// Indices of the nodes that are up and do what they should.
    #[must_use]
    pub fn alive(&self) -> Vec<usize> {
        (0..self.nodes.len())
            .filter(|index| self.nodes[*index].alive && !self.nodes[*index].is_hostile)
            .collect()
    }

    /// Nodes that are up, or were within `since`.
    pub(super) fn recently_alive(&self, since: Duration) -> usize {
        let up = self.nodes.iter().filter(|node| node.alive).count();
        let just_gone = self.stopped.iter().filter(|at| **at + since > self.now).count();
        up + just_gone
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
        let (evicted, refused) = self.nodes.iter().map(Node::refusals).fold(
            (self.faults.evicted, self.faults.refused),
            |(evicted, refused), of| (evicted + of.0, refused + of.1),
        );
        FaultReport {
            evicted,
            refused,
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
            self.serve()?;
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
        let mut touched = Vec::new();
        for state in &decision.windows {
            let row = RowKey {
                rule: at.limiter.rules()[rule].id(state.period),
                window: state.window,
                key,
            };
            touched.push(Touched { row, claimed: None });
        }
        if decision.outcome == Outcome::Admitted {
            for touched in &touched {
                self.oracle.admit(touched.row, &at.replica, u64::from(hits.get()));
            }
        }
        let due = decision.due.is_due();
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
        self.settle(node, &touched)?;
        Ok(decision)
    }

    /// Makes a fault happen now; one that cannot (a dead node cannot crash) does not count as happened.
    pub fn inject(&mut self, fault: &Fault) {
        self.note(|| format!("fault {fault:?}"));
        match fault {
            Fault::Crash { node } if self.is_alive(*node) => {
                self.nodes[*node].alive = false;
                self.waits.abandon(*node);
                self.stopped.push(self.now);
                self.faults.crashes += 1;
                self.membership_changed();
            }
            Fault::Restart { node }
                if *node < self.nodes.len() && !self.nodes[*node].alive && self.may_start() =>
            {
                self.start_again(*node);
                self.faults.restarts += 1;
                self.membership_changed();
            }
            Fault::Join if self.may_start() => {
                self.start_new();
                self.faults.joins += 1;
                self.membership_changed();
            }
            Fault::Leave { node } if self.is_alive(*node) && self.config.bounded.is_some() => {
                if self.serving().contains(node) {
                    self.faults.leaves += 1;
                    self.leave_in_order(*node);
                }
            }
            Fault::Leave { node } if self.is_alive(*node) => {
                let now = self.nodes[*node].now(self.now);
                self.nodes[*node].replication.handle_leave(now);
                self.faults.leaves += 1;
                self.after(Duration::from_millis(500), Event::Left { node: *node });
                self.drain(*node);
            }
            Fault::Flood { flood, frames } => {
                self.start_new();
                let node = self.nodes.len() - 1;
                self.nodes[node].is_hostile = true;
                self.judge.distrust(&self.nodes[node].replica);
                self.faults.floods += 1;
                self.membership_changed();
                let first = Event::Flood {
                    node,
                    flood: *flood,
                    serial: 0,
                    left: *frames,
                };
                // Everybody has heard of it by then: the frames of strangers are adopted as those of the dead.
                self.after(self.config.detection.1, first);
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
            other => self.inject_bounded(other),
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
                if self.nodes[to].alive && !self.nodes[to].is_hostile {
                    let now = self.nodes[to].now(self.now);
                    let outcome = self.nodes[to].replication.handle_datagram(&frame, now);
                    self.note(|| format!("n{to} <- n{from} {} {outcome:?}", describe(&frame)));
                    self.watch.observe(to, &self.nodes[to], self.now);
                    if self.config.judge && self.config.bounded.is_some() {
                        self.check_transferred(to, &frame)?;
                    }
                    let touched = if self.config.judge && self.config.bounded.is_none() {
                        Judge::rows_of(&frame)
                    } else {
                        Vec::new()
                    };
                    self.settle(to, &touched)?;
                }
            }
            Event::Wake { node } => {
                self.nodes[node].wake_at = None;
                if self.nodes[node].alive && !self.nodes[node].is_hostile {
                    let now = self.nodes[node].now(self.now);
                    self.nodes[node].replication.handle_timeout(now);
                    self.settle(node, &[])?;
                }
            }
            Event::Membership { node } => self.update_membership(node),
            Event::Mend { side, one_way } => {
                self.cut(&side, one_way, false);
                self.membership_changed();
            }
            Event::Left { node } => {
                self.nodes[node].alive = false;
                self.stopped.push(self.now);
                self.membership_changed();
            }
            Event::Flood {
                node,
                flood,
                serial,
                left,
            } => self.flood(node, flood, serial, left),
            Event::Round { node, generation } => self.round(node, generation),
            Event::News { to, letter } => self.receive(to, letter),
            Event::View { node } => {
                self.look_around(node);
                self.drain(node);
            }
            Event::LeaveOver { node, generation } => self.leave_over(node, generation),
            Event::Departed { node, generation } => {
                let at = &self.nodes[node];
                if at.alive && at.replica.generation.0 == generation {
                    self.nodes[node].alive = false;
                    self.stopped.push(self.now);
                    self.membership_changed();
                }
            }
            Event::WaitOver { waiter, is_given_up } => self.wait_over(waiter, is_given_up)?,
        }
        Ok(())
    }

    pub(super) fn settle(&mut self, node: usize, touched: &[Touched]) -> Result<(), Violation> {
        self.drain(node);
        if self.config.judge && self.config.bounded.is_none() {
            let outcome = self
                .judge
                .after(&self.nodes[node], &self.oracle, touched, self.now);
            outcome.map_err(|what| self.violation(what))?;
        }
        Ok(())
    }

    /// One frame of a flood to everybody, and the next after it.
    fn flood(&mut self, node: usize, flood: Flood, serial: u64, left: u32) {
        let at = &self.nodes[node];
        let wall = at.now(self.now).wall;
        let frame = flood.frame(&at.replica, &self.config.rules[0], wall, serial, &mut self.rng);
        self.faults.flooded += flood::ROWS;
        for to in self.alive() {
            self.transmit(node, to, &frame);
        }
        if left > 0 {
            let next = Event::Flood {
                node,
                flood,
                serial: serial + 1,
                left: left - 1,
            };
            self.after(flood::PACE, next);
        }
    }

    fn transmit(&mut self, from: usize, to: usize, frame: &[u8]) {
        // Sealing adds 45 bytes.
        let bytes = frame.len() + 45;
        for at in self.network.send(from, to, bytes, self.now, &mut self.rng) {
            let frame = frame.to_vec();
            self.at(at, Event::Deliver { to, from, frame });
        }
    }

    /// Sends what a node has to send, and plans its next wake-up.
    pub(super) fn drain(&mut self, node: usize) {
        self.turn_escrow(node);
        while let Some(transmit) = self.nodes[node].replication.poll_transmit() {
            if self.config.judge && self.config.bounded.is_none() {
                self.judge.sent(&self.nodes[node].replica, &transmit.payload);
            }
            for to in transmit.to.iter().filter_map(|to| index_of(*to)) {
                if self.sabotage() == Some(Sabotage::Undeducted) {
                    self.undeduct(node, &transmit.payload, to);
                }
                self.transmit(node, to, &transmit.payload);
            }
        }
        let wake = self.nodes[node].replication.poll_timeout();
        let escrow = self.nodes[node]
            .steward
            .as_ref()
            .and_then(|s| s.escrow.poll_timeout());
        let escrow = escrow.and_then(|at| self.nodes[node].when_shown(at, self.now));
        // A node that asks to be woken at once still yields to the events of this instant.
        let wake = self.nodes[node]
            .virtual_time(wake)
            .min(escrow.unwrap_or(Duration::MAX))
            .max(self.now + Duration::from_micros(10));
        if self.nodes[node].wake_at.is_none_or(|planned| wake < planned) {
            self.nodes[node].wake_at = Some(wake);
            self.at(wake, Event::Wake { node });
        }
    }

    pub(super) fn violation(&self, what: String) -> Violation {
        Violation { at: self.now, what }
    }

    fn is_alive(&self, node: usize) -> bool {
        self.nodes
            .get(node)
            .is_some_and(|node| node.alive && !node.is_hostile)
    }

    fn node_config(&self) -> NodeConfig {
        NodeConfig {
            rules: self.config.rules.clone(),
            mode: self.file_mode,
            roster: self.config.bounded.as_ref().map(|bounded| bounded.roster.clone()),
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
        self.begin_rounds(index);
        self.drain(index);
    }

    fn start_again(&mut self, index: usize) {
        let (evicted, refused) = self.nodes[index].refusals();
        self.faults.evicted += evicted;
        self.faults.refused += refused;
        let clock = self.nodes[index].clock;
        self.nodes[index] = Node::start(index, &self.node_config(), clock, self.rng.random(), self.now);
        self.begin_rounds(index);
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
        let live: Vec<_> = (0..self.nodes.len())
            .filter(|peer| self.nodes[*peer].alive)
            .filter(|peer| *peer != node && !self.network.is_cut(*peer, node))
            .collect();
        if self.config.bounded.is_some() {
            self.note(|| format!("n{node} sees {live:?}"));
            self.notice(node, &live);
            self.look_around(node);
            return self.drain(node);
        }
        let live: Vec<_> = live
            .into_iter()
            .map(|peer| (self.nodes[peer].replica.clone(), address(peer)))
            .collect();
        self.note(|| format!("n{node} sees {live:?}"));
        let now = self.nodes[node].now(self.now);
        let at = &mut self.nodes[node];
        at.met.extend(live.iter().map(|(replica, _)| replica.clone()));
        at.replication.handle_membership(&live, now);
        at.limiter.set_replicas(at.replication.replicas());
        self.drain(node);
    }

    pub(super) fn after(&mut self, delay: Duration, event: Event) {
        self.at(self.now + delay, event);
    }

    pub(super) fn at(&mut self, at: Duration, event: Event) {
        self.serial += 1;
        self.events.push(Reverse((at, self.serial, event)));
    }

    pub(super) fn note(&mut self, line: impl FnOnce() -> String) {
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
        Ok(Body::Transfers(transfers)) => format!("transfers {transfers:?}"),
        Err(error) => error.to_string(),
    }
}
