//! How exactly real nodes keep a limit: `scripts/bench-sync` runs it and records what it prints.

#![expect(clippy::disallowed_methods, reason = "a benchmark measures with real clocks")]

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cluster_tests::{Client, Cluster};
use hyper::StatusCode;
use tokio::time::{Instant, sleep_until};

/// Runs for each limit of the sequential client.
const RUNS: usize = 20;

/// The steady load: 2,500 requests a second for 8.8 s, against 5,000 in ten seconds.
const RATE: u32 = 2_500;
const REQUESTS: u32 = 22_000;
const LIMIT: u64 = 5_000;
const CONNECTIONS: u32 = 48;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    println!(
        "one client, one request after the other, round robin over 3 nodes: admitted / L, {RUNS} runs each"
    );
    for limit in [1_u64, 2, 3, 5, 10, 30, 100, 300, 1_000] {
        sequential(limit).await;
    }
    println!("{RATE} requests/s for 8.8 s, round robin over 3 nodes, limit {LIMIT} per 10 s");
    for mode in ["local", "gossip"] {
        steady(mode).await;
    }
}

async fn sequential(limit: u64) {
    let cluster = Cluster::with_limit(limit).start().await;
    let mut admitted: BTreeMap<u64, usize> = BTreeMap::new();
    for run in 0..RUNS {
        let mut client = Client::new(format!("sequential-{limit}-{run}"));
        let count = usize::try_from(limit).expect("a small limit") + 6;
        let tally = client.round_robin(&cluster.nodes, count).await;
        *admitted.entry(tally.admitted()).or_default() += 1;
    }
    let exact = admitted.get(&limit).copied().unwrap_or(0);
    println!("  L = {limit:<5} exact {exact}/{RUNS}  admitted: runs {admitted:?}");
}

async fn steady(mode: &'static str) {
    let limit = format!("{LIMIT}/10s");
    let cluster = Cluster::with_limit(1_000_000_000)
        .mode(mode)
        .args(&["--limit", &limit])
        .start()
        .await;
    let start = next_window().await;
    let addresses: Vec<_> = cluster.nodes.iter().map(|node| node.listen()).collect();
    let mut workers = Vec::new();
    for worker in 0..CONNECTIONS {
        let addresses = addresses.clone();
        workers.push(tokio::spawn(async move {
            let mut client = Client::new("steady");
            let (mut admitted, mut denied, mut latest) = (0_u64, 0_u64, Duration::ZERO);
            for request in (worker..REQUESTS).step_by(CONNECTIONS as usize) {
                let due = start + Duration::from_secs(1) * request / RATE;
                sleep_until(due).await;
                latest = latest.max(due.elapsed());
                let to = addresses[request as usize % addresses.len()];
                match client
                    .try_get(to)
                    .await
                    .expect("every request is answered")
                    .status
                {
                    StatusCode::OK => admitted += 1,
                    StatusCode::TOO_MANY_REQUESTS => denied += 1,
                    other => panic!("unexpected status {other}"),
                }
            }
            (admitted, denied, latest)
        }));
    }
    let (mut admitted, mut denied, mut latest) = (0, 0, Duration::ZERO);
    for worker in workers {
        let (a, d, late) = worker.await.expect("no worker panics");
        (admitted, denied, latest) = (admitted + a, denied + d, latest.max(late));
    }
    let took = start.elapsed();
    assert_eq!(
        admitted,
        cluster.upstream.count("steady"),
        "the upstream counted otherwise"
    );
    assert!(
        took < Duration::from_millis(9_950),
        "the load ran into the next window: {took:?}"
    );
    println!(
        "  {mode:<6} sent {REQUESTS} admitted {admitted} denied {denied} ratio {:.4} (took {took:?}, latest send {latest:?})",
        admitted as f64 / LIMIT as f64
    );
}

/// The start of the next ten-second window, 20 ms in.
async fn next_window() -> Instant {
    let since_epoch = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("a clock after 1970");
    let into = Duration::from_nanos((since_epoch.as_nanos() % 10_000_000_000) as u64);
    let start = Instant::now() + Duration::from_secs(10) - into + Duration::from_millis(20);
    sleep_until(start).await;
    start
}
