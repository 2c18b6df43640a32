//! What the long tail costs on the wire: clients that ask once, beside a few that ask all the time, with
//! their rows held back (ε = 1 %) and with every row sent (ε = 0). In virtual time: the bytes are those of the
//! real frames, sealed. `cargo bench --bench tail`

use std::time::Duration;

use serde_json::{Value, json};
use weir::limit::{Hits, KeyHash, Rule, SyncMode, UnixMillis};
use weir::sim::{World, WorldConfig};

#[path = "support/machine.rs"]
mod machine;

/// Clients that ask all the time: 1 % of all.
const HOT: u32 = 100;
/// Clients that ask once a window.
const ONCE: u32 = 9_900;
/// Requests of one hot client in a second.
const HOT_RATE: u32 = 5;
/// Nodes and limits. A client that asks once is held back where ε·limit / nodes is at least 1, as in all of
/// them.
const CLUSTERS: [(usize, &str); 3] = [(3, "1000/minute"), (10, "1000/minute"), (10, "5000/minute")];
/// Requests begin and end so far within the minute.
const BEGIN: Duration = Duration::from_secs(2);
const END: Duration = Duration::from_secs(58);
/// The first look, while the window runs; the second, when all of it is settled.
const IN_WINDOW: Duration = Duration::from_secs(59);
const SETTLED: Duration = Duration::from_secs(64);
/// A minute begins here.
const START: UnixMillis = UnixMillis(1_767_614_400_000);

/// Bytes sent by all nodes until the window's end, and until its rows were forgotten.
#[derive(Clone, Copy)]
struct Sent {
    in_window: u64,
    settled: u64,
}

/// Which of the two.
type Look = fn(&Sent) -> u64;

fn run(nodes: usize, limit: &str, epsilon_permille: u32, once: u32) -> Sent {
    let rule = Rule::new("per-client", [limit.parse().expect("a window")]);
    let mut config = WorldConfig::quiet(nodes, vec![rule], SyncMode::Gossip);
    config.significance.epsilon_permille = epsilon_permille;
    config.replication.significance.epsilon_permille = epsilon_permille;
    config.max_keys = 65_536;
    config.judge = false;
    config.starts_at = START;
    let mut world = World::new(config, 1);
    let holds = "no invariant breaks on a quiet network";
    let hot_requests = HOT * HOT_RATE * (END - BEGIN).as_secs() as u32;
    let (mut hot_sent, mut once_sent) = (0, 0);
    let step = (END - BEGIN) / hot_requests;
    for request in 0..hot_requests {
        world.run_until(BEGIN + step * request).expect(holds);
        let ask = |world: &mut World, client: u32, at: u32| {
            let key = KeyHash(u128::from(client + 1) * 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
            world
                .request(at as usize % nodes, 0, key, Hits::ONE)
                .expect(holds);
        };
        // A step that shares no factor with the number of nodes takes each client to all of them.
        ask(&mut world, hot_sent % HOT, hot_sent / HOT + hot_sent);
        hot_sent += 1;
        while u64::from(once_sent) * u64::from(hot_requests) < u64::from(once) * u64::from(request + 1) {
            ask(&mut world, HOT + once_sent, once_sent);
            once_sent += 1;
        }
    }
    world.run_until(IN_WINDOW).expect(holds);
    let in_window = world.bytes_sent();
    world.run_until(SETTLED).expect(holds);
    Sent {
        in_window,
        settled: world.bytes_sent(),
    }
}

fn compare((nodes, limit): (usize, &str)) -> Value {
    let hot_alone = run(nodes, limit, 10, 0);
    let hot_alone_all_sent = run(nodes, limit, 0, 0);
    let held_back = run(nodes, limit, 10, ONCE);
    let all_sent = run(nodes, limit, 0, ONCE);
    let tail = |of: Look| {
        let held = of(&held_back).saturating_sub(of(&hot_alone));
        (of(&all_sent).saturating_sub(of(&hot_alone_all_sent)), held)
    };
    let mut report = json!({ "nodes": nodes, "limit": limit });
    let looks: [(&str, Look); 2] = [
        ("in_window", |sent| sent.in_window),
        ("settled", |sent| sent.settled),
    ];
    for (name, of) in looks {
        let (sent, held) = tail(of);
        // Nothing at all is no divisor.
        let ratio = (held > 0).then(|| sent as f64 / held as f64);
        let shown = ratio.map_or("saved whole".to_owned(), |ratio| format!("1:{ratio:.1}"));
        println!(
            "{nodes:>3} nodes, {limit:<12} {name:<9}  every row: {:>9} B, of them the tail {sent:>8} B   held back: {:>9} B, of them the tail {held:>8} B   tail {shown}",
            of(&all_sent),
            of(&held_back),
        );
        report[name] = json!({ "every_row": of(&all_sent), "held_back": of(&held_back),
            "tail_every_row": sent, "tail_held_back": held, "tail_ratio": ratio });
    }
    report
}

fn main() {
    // Only `cargo bench` says so; `cargo test --benches` wants to know that this compiles.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    println!("{HOT} clients at {HOT_RATE} requests/s and {ONCE} that ask once: bytes sent by all nodes");
    let report = CLUSTERS.map(compare);
    println!(
        "{}",
        json!({ "bench": "tail", "machine": machine::machine(), "hot": HOT, "once": ONCE, "clusters": report })
    );
}
