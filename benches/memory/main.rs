//! What a live key costs in memory: three nodes in one process, each of which counts every one of a million
//! keys and knows its two peers' counts of each. `cargo bench --bench memory [-- --keys 1000000]`
//!
//! Two answers: what the system keeps resident, and what was allocated by whom. The table's slots are
//! allocated for its capacity and become resident as they are used, so the former may be less.

#![expect(clippy::disallowed_methods, reason = "a benchmark tells how long it takes")]

mod ledger;

#[path = "../support/machine.rs"]
mod machine;
#[path = "../support/memory.rs"]
mod memory;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ledger::Ledger;
use serde_json::json;
use weir::limit::significance::Significance;
use weir::limit::{
    Charge, Hits, Identity, IdentityHasher, KeyHash, Limiter, Now, Outcome, RowKey, Rule, SyncMode,
    UnixMillis,
};
use weir::replica::{Generation, ReplicaId};
use weir::replication::{Replication, ReplicationConfig};

#[global_allocator]
static LEDGER: Ledger = Ledger::new();

const NODES: usize = 3;

/// Noon of a day: its windows last until the end.
const EPOCH: UnixMillis = UnixMillis(1_767_614_400_000);

/// Keys counted at each node between two looks at the network.
const BATCH: usize = 2_000;

/// Virtual time of one batch.
const STEP: Duration = Duration::from_millis(100);

/// Batches without changes at the end, for what is on its way to arrive.
const SETTLING: usize = 50;

struct Node {
    limiter: Limiter,
    replication: Replication,
    id: ReplicaId,
    address: SocketAddr,
    inbox: VecDeque<Vec<u8>>,
}

impl Node {
    fn new(index: usize, rows: u32) -> Self {
        let rule = Rule::new("per-client", ["1000000000/day".parse().expect("a window")]);
        // Every change is sent, so that all nodes know all rows.
        let significance = Significance {
            epsilon_permille: 0,
            ..Significance::default()
        };
        let limiter = Limiter::new(vec![rule], SyncMode::Gossip, significance, rows);
        limiter.set_replicas(NODES as u32);
        let id = ReplicaId {
            node: format!("node-{index}").parse().expect("a node id"),
            generation: Generation(EPOCH.0 * 1000),
        };
        let config = ReplicationConfig {
            significance,
            ..ReplicationConfig::default()
        };
        Self {
            replication: Replication::new(id.clone(), Arc::clone(limiter.counters()), config, index as u64),
            limiter,
            id,
            address: SocketAddr::from(([127, 0, 0, 1 + index as u8], 7946)),
            inbox: VecDeque::new(),
        }
    }

    fn count(&self, key: KeyHash, now: Now) {
        let charge = Charge {
            rule: 0,
            key,
            hits: Hits::ONE,
        };
        let decision = self.limiter.check(&[charge], now.wall);
        assert_eq!(decision.outcome, Outcome::Admitted);
    }

    /// Whether it has counted `key` once and knows that all peers did.
    fn knows(&self, key: KeyHash) -> bool {
        let rule = &self.limiter.rules()[0];
        let period = rule.windows[0].period;
        let row = RowKey {
            rule: rule.id(period),
            window: period.window_at(EPOCH),
            key,
        };
        let counters = self.limiter.counters();
        let view = counters.find(&row).and_then(|row| counters.view(row));
        view.is_some_and(|view| view.own == 1 && view.peers == NODES as u64 - 1)
    }
}

/// Delivers everything that is on its way, and what is sent in answer.
fn exchange(nodes: &mut [Node], now: Now) {
    loop {
        let mut sent = Vec::new();
        for node in nodes.iter_mut() {
            while let Some(frame) = node.inbox.pop_front() {
                node.replication
                    .handle_datagram(&frame, now)
                    .expect("sent by this code");
            }
            while node.replication.poll_timeout() <= now.monotonic {
                node.replication.handle_timeout(now);
            }
            sent.extend(std::iter::from_fn(|| node.replication.poll_transmit()));
        }
        if sent.is_empty() {
            return;
        }
        for transmit in sent {
            for node in nodes
                .iter_mut()
                .filter(|node| transmit.to.contains(&node.address))
            {
                node.inbox.push_back(transmit.payload.clone());
            }
        }
    }
}

fn run(nodes: &mut [Node], keys: u32) {
    let hasher = IdentityHasher::new([7; 16]);
    let key = |n: u32| hasher.hash(&Identity::Ip(std::net::Ipv4Addr::from(0x0a00_0000 | n).into()));
    let members: Vec<_> = nodes.iter().map(|node| (node.id.clone(), node.address)).collect();
    let mut now = Now {
        monotonic: Duration::ZERO,
        wall: EPOCH,
    };
    for node in nodes.iter_mut() {
        let others: Vec<_> = members.iter().filter(|(id, _)| *id != node.id).cloned().collect();
        node.replication.handle_membership(&others, now);
    }
    let batches = (0..keys)
        .step_by(BATCH)
        .map(Some)
        .chain(std::iter::repeat_n(None, SETTLING));
    for first in batches {
        for n in first.into_iter().flat_map(|first| (first..keys).take(BATCH)) {
            nodes.iter().for_each(|node| node.count(key(n), now));
        }
        now.monotonic += STEP;
        now.wall = now.wall.plus(STEP);
        exchange(nodes, now);
    }
    for node in nodes.iter() {
        assert_eq!(node.limiter.counters().live_rows(), keys);
        let ignorant = (0..keys).filter(|n| !node.knows(key(*n))).count();
        assert_eq!(ignorant, 0, "{} does not know all counts", node.id.node.as_str());
    }
}

fn main() {
    // Only `cargo bench` says so; `cargo test --benches` wants to know that this compiles.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let machine = machine::machine();
    let mut arguments = std::env::args().skip_while(|argument| argument != "--keys");
    let keys: u32 = arguments
        .nth(1)
        .map_or(1_000_000, |text| text.parse().expect("a number of keys"));
    let start = Instant::now();
    let resident = memory::own_bytes("status", "VmRSS");
    LEDGER.open();
    let mut nodes: Vec<Node> = (0..NODES)
        .map(|index| Node::new(index, keys + keys / 10))
        .collect();
    run(&mut nodes, keys);
    let resident = memory::own_bytes("status", "VmRSS") - resident;
    let account = LEDGER.close();
    let huge = memory::own_bytes("smaps_rollup", "AnonHugePages");
    let per_key = |bytes: u64| bytes as f64 / NODES as f64 / f64::from(keys);

    println!(
        "{NODES} nodes, {keys} live keys on each, counted by all; {:.1} s; {machine}",
        start.elapsed().as_secs_f64()
    );
    println!(
        "resident  {:>7.1} bytes per key and node (of all resident memory, {:.0} % in huge pages)",
        per_key(resident),
        100.0 * huge as f64 / memory::own_bytes("status", "VmRSS") as f64
    );
    println!(
        "allocated {:>7.1} bytes per key and node, of them by",
        per_key(account.bytes)
    );
    for (owner, bytes, blocks) in &account.owners {
        println!("  {:>7.1}  {owner} ({blocks} blocks)", per_key(*bytes));
    }
    let owners: Vec<_> = account.owners.iter()
        .map(|(owner, bytes, blocks)| json!({ "owner": owner, "bytes_per_key": per_key(*bytes), "blocks": blocks }))
        .collect();
    println!(
        "{}",
        json!({
            "bench": "memory", "machine": machine, "nodes": NODES, "keys": keys,
            "resident_bytes_per_key": per_key(resident), "allocated_bytes_per_key": per_key(account.bytes),
            "owners": owners,
        })
    );
}
