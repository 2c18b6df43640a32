//! Every node of a bounded cluster is replaced within one window, under load.

use std::time::Duration;

use cluster_tests::bounded::{WINDOWS_MAX, cluster, judge};
use cluster_tests::{DEADLINE, Flood, wait_until};

const WINDOW: Duration = Duration::from_secs(20);
const LIMIT: u64 = 2_000;

/// Rights of a node that leaves go to its heir, those of a node that returns come from its peers: so the limit is
/// spent all the same, although no process lives through the window.
#[tokio::test]
async fn a_rolling_restart_within_one_window_neither_exceeds_the_limit_nor_loses_it() {
    let mut cluster = cluster(LIMIT, WINDOW).start().await;
    let window = cluster.shared_window(WINDOW, WINDOWS_MAX).await.next();
    // Three times the limit over the whole window, so that most of it is unspent while nodes go.
    let flood = Flood::new("rolling", cluster.addresses(), window)
        .clients(12)
        .pause(Duration::from_millis(40));
    let load = tokio::spawn(flood.run());
    window.starts().await;
    let before = admitted(&cluster.upstream, LIMIT / 50).await;
    for node in &mut cluster.nodes {
        node.terminate();
        assert!(node.exited().await.success());
        node.start();
        node.ready().await;
    }
    let during = cluster.upstream.count("rolling");
    let restarts_done = window.left();
    let tally = load.await.expect("the load does not panic");
    let total = judge(&cluster, "rolling", &tally, LIMIT, window);
    println!(
        "admitted {before} before, {during} by the last return ({restarts_done} ms before the end), {total} in all"
    );
    assert!(restarts_done > 0, "the restarts took longer than the window");
    assert!(
        total >= LIMIT * 9 / 10,
        "most of the limit outlives its holders: {total} of {LIMIT}"
    );
    cluster.formed().await;
}

/// Waits until so much was admitted, and gives how much it is.
async fn admitted(upstream: &cluster_tests::Upstream, enough: u64) -> u64 {
    wait_until("the load is under way", DEADLINE, async || {
        match upstream.count("rolling") {
            count if count >= enough => Ok(count),
            count => Err(format!("{count} admitted")),
        }
    })
    .await
}
