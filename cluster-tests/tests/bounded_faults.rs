//! Bounded mode while nodes crash and the network is cut: never more than the limit.

use std::time::Duration;

use cluster_tests::bounded::{WINDOWS_MAX, assert_used, cluster, judge};
use cluster_tests::cluster::sees;
use cluster_tests::{Cluster, DEADLINE, Flood, Tally, Window, wait_until};

const WINDOW: Duration = Duration::from_secs(6);
const LIMIT: u64 = 300;

/// Two clients at each node, each of which asks sixty times a second at most: the limit is spent in about a second.
const PAUSE: Duration = Duration::from_millis(16);

#[tokio::test]
async fn a_node_that_crashes_and_returns_in_mid_window_spends_nothing_twice() {
    let mut cluster = cluster(LIMIT, WINDOW).start().await;
    let window = cluster.shared_window(WINDOW, WINDOWS_MAX).await.next();
    let load = tokio::spawn(flood(&cluster, "crash", window).run());
    admitted(&cluster, "crash", LIMIT / 3).await;
    cluster.nodes[2].kill();
    cluster.nodes[2].start();
    cluster.nodes[2].ready().await;
    let tally = load.await.expect("the load does not panic");
    // What the crashed node held is lost, and nothing else.
    let admitted = judge(&cluster, "crash", &tally, LIMIT, window);
    assert!(
        admitted >= LIMIT * 6 / 10,
        "two thirds are shares of others: {admitted}"
    );

    let window = cluster.shared_window(WINDOW, WINDOWS_MAX).await.next();
    let tally = flood(&cluster, "afterwards", window).run().await;
    assert_used(judge(&cluster, "afterwards", &tally, LIMIT, window), LIMIT);
}

#[tokio::test]
async fn a_partition_of_two_and_one_admits_no_more_than_the_limit() {
    partition(3, &[&[0, 1], &[2]]).await;
}

#[tokio::test]
async fn a_partition_of_two_and_two_admits_no_more_than_the_limit() {
    partition(4, &[&[0, 1], &[2, 3]]).await;
}

/// Cuts the network in mid-window, goes on through the next window, mends it in the middle of that, and looks that
/// every node has a share again soon.
async fn partition(nodes: usize, islands: &[&[usize]]) {
    let cluster = cluster(LIMIT, WINDOW).nodes(nodes).on_hosts(nodes).start().await;
    let window = cluster.shared_window(WINDOW, WINDOWS_MAX).await.next();
    let load = tokio::spawn(flood(&cluster, "cut", window).run());
    admitted(&cluster, "cut", LIMIT / 4).await;
    cluster.network().cut(islands);
    let tally = load.await.expect("the load does not panic");
    // Every side has clients, which spend what it holds.
    assert_used(judge(&cluster, "cut", &tally, LIMIT, window), LIMIT);
    for island in islands {
        for &index in *island {
            let others = island.iter().filter(|other| **other != index);
            let others: Vec<&str> = others.map(|other| cluster.nodes[*other].id()).collect();
            sees(&cluster.nodes[index], &others).await;
        }
    }

    let window = window.next();
    let load = tokio::spawn(flood(&cluster, "healing", window).run());
    admitted(&cluster, "healing", LIMIT / 4).await;
    cluster.network().heal();
    let tally = load.await.expect("the load does not panic");
    let _ = judge(&cluster, "healing", &tally, LIMIT, window);

    let window = cluster.shared_window(WINDOW, WINDOWS_MAX).await.next();
    let tally: Tally = flood(&cluster, "healed", window).run().await;
    assert_used(judge(&cluster, "healed", &tally, LIMIT, window), LIMIT);
}

/// Several times the limit, at all nodes, until the window is nearly over.
fn flood(cluster: &Cluster, identity: &str, window: Window) -> Flood {
    Flood::new(identity, cluster.addresses(), window).pause(PAUSE)
}

/// Waits until so much was admitted to `identity`.
async fn admitted(cluster: &Cluster, identity: &str, admitted: u64) {
    let what = format!("{admitted} requests of {identity} are admitted");
    wait_until(&what, DEADLINE, async || match cluster.upstream.count(identity) {
        enough if enough >= admitted => Ok(()),
        few => Err(format!("{few} are")),
    })
    .await;
}
