//! Bounded mode on a healthy cluster: never more than the limit, nearly all of it, wherever requests arrive.

use std::net::SocketAddr;
use std::time::Duration;

use cluster_tests::bounded::{WINDOWS_MAX, assert_used, cluster, judge};
use cluster_tests::{Client, Cluster, Flood, Tally};
use hyper::StatusCode;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

const WINDOW: Duration = Duration::from_secs(6);
const LIMIT: u64 = 300;

/// Ten times the limit.
const OFFERED: usize = 3_000;

/// The burst begins in the very millisecond in which the window does, when no node has decided yet.
#[tokio::test]
async fn a_burst_at_the_start_of_a_window_over_all_nodes_is_admitted_up_to_the_limit() {
    let cluster = cluster(LIMIT, WINDOW).start().await;
    let nodes = cluster.addresses();
    assert_used(offer(&cluster, LIMIT, "burst", nodes, 120, OFFERED).await, LIMIT);
}

#[tokio::test]
async fn the_whole_limit_is_there_for_whoever_asks_one_node_only() {
    let cluster = cluster(LIMIT, WINDOW).start().await;
    let one = cluster.addresses()[..1].to_vec();
    assert_used(offer(&cluster, LIMIT, "loyal", one, 6, OFFERED).await, LIMIT);
}

/// The first node gets four of seven requests, the second two, the third one.
#[tokio::test]
async fn skewed_traffic_is_admitted_up_to_the_limit() {
    let cluster = cluster(LIMIT, WINDOW).start().await;
    let [a, b, c] = cluster.addresses()[..] else {
        panic!("three nodes");
    };
    let skewed = vec![a, b, a, c, a, b, a];
    assert_used(offer(&cluster, LIMIT, "skewed", skewed, 14, OFFERED).await, LIMIT);
}

/// What three nodes do, ten do as well: evenly loaded, by rank (Zipf), and one alone.
#[tokio::test]
async fn ten_nodes_admit_the_whole_limit_however_requests_are_spread() {
    const LIMIT: u64 = 1_000;
    let cluster = cluster(LIMIT, WINDOW)
        .nodes(10)
        .workers(1)
        .args(&["--max-keys", "10000"])
        .start()
        .await;
    let even = cluster.addresses();
    let by_rank = even
        .iter()
        .enumerate()
        .flat_map(|(rank, node)| vec![*node; 10 / (rank + 1)]);
    let by_rank = by_rank.collect();
    let one = vec![even[9]];
    for (identity, nodes) in [("even", even), ("by rank", by_rank), ("one", one)] {
        assert_used(offer(&cluster, LIMIT, identity, nodes, 30, 4_000).await, LIMIT);
    }
}

/// Of a limit of 5, two nodes hold two rights and one holds one: whoever asks finds all five all the same.
#[tokio::test]
async fn a_limit_of_five_over_three_nodes_admits_exactly_five_whichever_nodes_are_asked() {
    let cluster = cluster(5, WINDOW).start().await;
    let mut rng = StdRng::seed_from_u64(5);
    let in_turn: Vec<usize> = (0..15).map(|turn| turn % 3).collect();
    let at_random: Vec<usize> = (0..15).map(|_| rng.random_range(0..3)).collect();
    let orders = [
        in_turn,
        vec![0; 8],
        vec![1; 8],
        vec![2; 8],
        vec![2, 0, 0, 0, 0, 0, 1, 2, 0],
        at_random,
    ];
    let mut window = cluster.shared_window(WINDOW, WINDOWS_MAX).await;
    for (number, order) in orders.into_iter().enumerate() {
        // No client meets the end of its window.
        if window.left() < window.length / 2 {
            window = cluster.shared_window(WINDOW, WINDOWS_MAX).await;
        }
        let identity = format!("client {number}");
        let tally = sequence(&cluster, &identity, &order).await;
        let admitted = judge(&cluster, &identity, &tally, 5, window);
        assert_eq!(admitted, 5, "to {identity}, at nodes {order:?}");
    }
}

/// A denial is known by all as soon as everything is spent: the last of many is denied like the first.
#[tokio::test]
async fn what_was_spent_elsewhere_is_denied_everywhere() {
    let cluster = cluster(5, WINDOW).start().await;
    let window = cluster.shared_window(WINDOW, WINDOWS_MAX).await;
    let tally = sequence(&cluster, "client", &[0; 5]).await;
    assert_eq!(judge(&cluster, "client", &tally, 5, window), 5);
    let mut client = Client::new("client");
    for node in &cluster.nodes {
        let answer = client.get(node).await;
        assert_eq!(answer.window(), Some(window.start), "still the same window");
        assert_eq!(
            answer.status,
            StatusCode::TOO_MANY_REQUESTS,
            "at node {}",
            node.id()
        );
    }
}

/// Sends `requests` requests over `clients` connections to `nodes` from the start of a window, and gives how many were
/// admitted.
async fn offer(
    cluster: &Cluster,
    limit: u64,
    identity: &str,
    nodes: Vec<SocketAddr>,
    clients: usize,
    requests: usize,
) -> u64 {
    let window = cluster.shared_window(WINDOW, WINDOWS_MAX).await.next();
    let flood = Flood::new(identity, nodes, window)
        .clients(clients)
        .requests(requests);
    let tally = flood.run().await;
    judge(cluster, identity, &tally, limit, window)
}

/// One request after the other, at the nodes that `order` names.
async fn sequence(cluster: &Cluster, identity: &str, order: &[usize]) -> Tally {
    let mut client = Client::new(identity);
    let mut tally = Tally::default();
    for &node in order {
        tally.record(&client.get(&cluster.nodes[node]).await);
    }
    tally
}
