//! Bounded mode on a healthy cluster: never more than the limit, nearly all of it, wherever requests arrive.

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
    let window = cluster.shared_window(WINDOW, WINDOWS_MAX).await.next();
    let flood = Flood::new("burst", cluster.addresses(), window);
    let tally = flood.clients(120).requests(OFFERED).run().await;
    let admitted = judge(&cluster, "burst", &tally, LIMIT, window);
    assert_used(admitted, LIMIT);
}

#[tokio::test]
async fn the_whole_limit_is_there_for_whoever_asks_one_node_only() {
    let cluster = cluster(LIMIT, WINDOW).start().await;
    let window = cluster.shared_window(WINDOW, WINDOWS_MAX).await.next();
    let flood = Flood::new("loyal", cluster.addresses()[..1].to_vec(), window);
    let tally = flood.clients(6).requests(OFFERED).run().await;
    let admitted = judge(&cluster, "loyal", &tally, LIMIT, window);
    assert_used(admitted, LIMIT);
}

/// The first node gets four of seven requests, the second two, the third one.
#[tokio::test]
async fn skewed_traffic_is_admitted_up_to_the_limit() {
    let cluster = cluster(LIMIT, WINDOW).start().await;
    let [a, b, c] = cluster.addresses()[..] else {
        panic!("three nodes");
    };
    let window = cluster.shared_window(WINDOW, WINDOWS_MAX).await.next();
    let flood = Flood::new("skewed", vec![a, b, a, c, a, b, a], window);
    let tally = flood.clients(14).requests(OFFERED).run().await;
    let admitted = judge(&cluster, "skewed", &tally, LIMIT, window);
    assert_used(admitted, LIMIT);
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

/// One request after the other, at the nodes that `order` names.
async fn sequence(cluster: &Cluster, identity: &str, order: &[usize]) -> Tally {
    let mut client = Client::new(identity);
    let mut tally = Tally::default();
    for &node in order {
        tally.record(&client.get(&cluster.nodes[node]).await);
    }
    tally
}
