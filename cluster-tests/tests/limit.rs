//! Does the limit hold? The same client, the same limit, both modes.

use cluster_tests::{Client, Cluster};

#[tokio::test]
async fn local_mode_admits_the_limit_once_per_node() {
    let cluster = Cluster::with_limit(5).mode("local").start().await;
    let mut client = Client::new("local");

    let tally = client.round_robin(&cluster.nodes, 20).await;

    assert_eq!((tally.admitted(), tally.denied()), (15, 5));
    assert_eq!(cluster.upstream.count("local"), 15);
}

#[tokio::test]
async fn gossip_admits_exactly_1_to_a_sequential_client() {
    admits_exactly(1, 20).await;
}

#[tokio::test]
async fn gossip_admits_exactly_5_to_a_sequential_client() {
    admits_exactly(5, 20).await;
}

#[tokio::test]
async fn gossip_admits_exactly_100_to_a_sequential_client() {
    admits_exactly(100, 20).await;
}

#[tokio::test]
async fn gossip_admits_exactly_1000_to_a_sequential_client() {
    admits_exactly(1_000, 20).await;
}

/// In each of `runs`, a new client exhausts `limit` round robin over three nodes, and then asks each
/// node a few times more.
async fn admits_exactly(limit: u64, runs: usize) {
    let cluster = Cluster::with_limit(limit).start().await;
    let requests = usize::try_from(limit).expect("a small limit") + 4 * cluster.nodes.len();
    let mut distribution = Vec::new();
    for run in 0..runs {
        let mut client = Client::new(format!("run {run}"));
        let tally = client.round_robin(&cluster.nodes, requests).await;
        assert_eq!(
            tally.admitted(),
            cluster.upstream.count(client.identity()),
            "the oracle disagrees"
        );
        distribution.push(tally.admitted());
    }
    println!("limit {limit}: admitted in {runs} runs: {distribution:?}");
    assert_eq!(distribution, vec![limit; runs]);
}

#[tokio::test]
async fn a_client_that_always_asks_the_same_node_gets_the_whole_limit_and_the_others_know() {
    let cluster = Cluster::with_limit(50).start().await;
    let mut client = Client::new("loyal");

    let tally = client.round_robin(&cluster.nodes[..1], 50).await;
    assert_eq!((tally.admitted(), tally.denied()), (50, 0));

    let elsewhere = client.round_robin(&cluster.nodes[1..], 2).await;
    assert_eq!((elsewhere.admitted(), elsewhere.denied()), (0, 2));
}

#[tokio::test]
async fn clients_are_counted_apart() {
    let cluster = Cluster::with_limit(3).start().await;
    for identity in ["first", "second"] {
        let tally = Client::new(identity).round_robin(&cluster.nodes, 6).await;
        assert_eq!((tally.admitted(), tally.denied()), (3, 3), "{identity}");
    }
}
