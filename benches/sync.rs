//! How long a count takes from one node's decision to another node's counters: three cluster shells in one
//! process, over sealed datagrams on loopback. `cargo bench --bench sync`.

#![expect(clippy::disallowed_methods, reason = "a benchmark measures with real clocks")]

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use weir::cluster::{Cluster, ClusterHandle};
use weir::config::Config;
use weir::limit::{Charge, Hits, KeyHash, Limiter, RowKey, UnixMillis};
use weir::replica::{Generation, ReplicaId};

/// Changes measured for each kind of key.
const CHANGES: u32 = 1_000;

/// A change that takes longer than this counts as this long.
const GIVE_UP: Duration = Duration::from_secs(2);

struct Node {
    cluster: ClusterHandle,
    limiter: Arc<Limiter>,
}

fn micros() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_micros()).unwrap_or(u64::MAX)
}

fn now() -> UnixMillis {
    UnixMillis(micros() / 1000)
}

impl Node {
    fn start(name: &str, seeds: &[String]) -> Self {
        let text = format!(
            "node_id: {name}\ncluster: {{ id: bench, gossip: 127.0.0.1:0 }}\n\
             rules: [{{ name: near, by: ip, windows: [5/day] }}, {{ name: far, by: ip, windows: [1000000/day] }}]\n\
             upstreams: [{{ name: app, targets: ['http://127.0.0.1:9'] }}]\n\
             routes: [{{ name: all, upstream: app }}]\n"
        );
        let mut config = Config::from_yaml("bench.yaml", &text).expect("a valid configuration");
        config.cluster.seeds = seeds.to_vec();
        config.cluster.key = Some("QkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkI=".to_owned());
        // Everything is sent, so that a hit far from its limit shows how long the tick takes.
        config.sync.significance.epsilon_permille = 0;
        let limiter = Limiter::new(
            config.limits.rules.clone(),
            config.sync.mode,
            config.sync.significance,
            65_536,
        );
        let limiter = Arc::new(limiter);
        let me = ReplicaId {
            node: config.node_id.clone(),
            generation: Generation(micros()),
        };
        let cluster = Cluster::start(&config, me, Arc::clone(&limiter)).expect("loopback can be bound");
        Self { cluster, limiter }
    }

    fn hit(&self, rule: usize, key: KeyHash) -> RowKey {
        let decision = self.limiter.check(
            &[Charge {
                rule,
                key,
                hits: Hits::ONE,
            }],
            now(),
        );
        if decision.due.is_due() {
            drop(self.cluster.flusher().request());
        }
        let state = decision.windows[0];
        RowKey {
            rule: self.limiter.rules()[rule].id(state.period),
            window: state.window,
            key,
        }
    }

    fn peers_count(&self, row: &RowKey) -> u64 {
        let counters = self.limiter.counters();
        counters
            .find(row)
            .and_then(|found| counters.view(found))
            .map_or(0, |view| view.peers)
    }
}

fn measure(name: &str, nodes: &[Node], rule: usize) {
    let mut delays = Vec::new();
    for change in 0..CHANGES {
        // Between two changes the cluster is quiet, and changes fall anywhere in the tick.
        std::thread::sleep(Duration::from_micros(u64::from(change * 7919 % 5000)));
        let (from, to) = (change as usize % nodes.len(), (change as usize + 1) % nodes.len());
        let key = KeyHash(u128::from(change + 1) * 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
        let start = Instant::now();
        let row = nodes[from].hit(rule, key);
        while nodes[to].peers_count(&row) == 0 && start.elapsed() < GIVE_UP {
            std::thread::yield_now();
        }
        delays.push(start.elapsed());
    }
    delays.sort_unstable();
    let at = |permille: usize| delays[(delays.len() - 1) * permille / 1000].as_secs_f64() * 1000.0;
    println!(
        "{name:<28} n {CHANGES}  p50 {:>8.3} ms  p90 {:>8.3} ms  p99 {:>8.3} ms  max {:>8.3} ms",
        at(500),
        at(900),
        at(990),
        at(1000)
    );
}

fn main() {
    // Only `cargo bench` says so; `cargo test --benches` wants to know that this compiles.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let first = Node::start("a", &[]);
    let seed = [first.cluster.gossip_address().to_string()];
    let nodes = [first, Node::start("b", &seed), Node::start("c", &seed)];
    let formed = Instant::now();
    while nodes
        .iter()
        .any(|node| node.cluster.members().iter().filter(|m| m.live).count() < 3)
    {
        assert!(
            formed.elapsed() < Duration::from_secs(20),
            "the cluster did not form"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    // The replica count settles with the members.
    std::thread::sleep(Duration::from_secs(1));
    println!("decision at one node to count at another, 3 nodes, sealed, loopback");
    measure("near the limit (5/day)", &nodes, 0);
    measure("far from it (1000000/day)", &nodes, 1);
}
