//! Does the limit hold? The same client, the same limit, both modes.

use cluster_tests::{Client, Cluster, DEADLINE, Node, Tally, wait_until};
use tokio::task::JoinSet;

#[tokio::test]
async fn local_mode_admits_the_limit_once_per_node() {
    let cluster = Cluster::with_limit(5).mode("local").start().await;
    let mut client = Client::new("local");

    let tally = client.round_robin(&cluster.nodes, 20).await;

    assert_eq!((tally.admitted(), tally.denied()), (15, 5));
    assert_eq!(cluster.upstream.count("local"), 15);
}

#[tokio::test]
async fn a_client_that_always_asks_the_same_node_gets_the_whole_limit_and_the_others_know() {
    let cluster = Cluster::with_limit(50).start().await;
    let mut client = Client::new("loyal");

    let tally = client
        .patient_round_robin(&cluster, &cluster.nodes[..1], 50)
        .await;
    assert_eq!((tally.admitted(), tally.denied()), (50, 0));

    let elsewhere = client.round_robin(&cluster.nodes[1..], 2).await;
    assert_eq!((elsewhere.admitted(), elsewhere.denied()), (0, 2));
}

#[tokio::test]
async fn clients_are_counted_apart() {
    let cluster = Cluster::with_limit(3).start().await;
    for identity in ["first", "second"] {
        let tally = Client::new(identity)
            .patient_round_robin(&cluster, &cluster.nodes, 6)
            .await;
        assert_eq!((tally.admitted(), tally.denied()), (3, 3), "{identity}");
    }
}

#[tokio::test]
async fn a_request_that_one_window_stops_is_counted_in_no_other() {
    let cluster = Cluster::with_limit(10)
        .args(&["--limit", "4/month"])
        .start()
        .await;
    let mut client = Client::new("client");
    for turn in 0..9 {
        let node = &cluster.nodes[turn % 3];
        let answer = client.get(node).await;
        cluster.settled("client").await;
        let used = (turn + 1).min(4);
        for (window, limit) in [("month", 4), ("year", 10)] {
            let header = format!("x-ratelimit-remaining-{window}");
            let remaining = answer.headers.get(header).and_then(|value| value.to_str().ok());
            assert_eq!(
                remaining,
                Some((limit - used).to_string().as_str()),
                "{window}, request {turn}"
            );
        }
    }
    assert_eq!(cluster.upstream.count("client"), 4);
}

#[tokio::test]
async fn one_node_admits_exactly_the_limit_to_a_burst() {
    let cluster = Cluster::with_limit(50).nodes(1).start().await;
    let tallies = burst("burst", &cluster.nodes, 40, 10).await;
    assert_eq!(tallies.iter().map(Tally::admitted).sum::<u64>(), 50);
    assert_eq!(cluster.upstream.count("burst"), 50);
}

/// What arrives while a count is on its way can pass everywhere; afterwards all nodes know all of it.
#[tokio::test]
async fn after_a_burst_every_node_knows_exactly_what_was_admitted() {
    let cluster = Cluster::with_limit(50).start().await;
    burst("burst", &cluster.nodes, 30, 20).await;
    let admitted = cluster.upstream.count("burst");
    assert!(
        (50..=150).contains(&admitted),
        "admitted {admitted}: at least once, at most once per node"
    );
    for node in &cluster.nodes {
        let what = format!("node {} knows all {admitted} hits", node.id());
        wait_until(&what, DEADLINE, async || {
            let limits = node.json("/v1/limits?limit=1").await?;
            let total = limits["limits"][0]["total"].as_u64();
            if total == Some(admitted) {
                Ok(())
            } else {
                Err(format!("it knows {total:?}"))
            }
        })
        .await;
    }
}

/// `clients` clients of one identity at once, each with `requests` requests round robin over `nodes`.
async fn burst(identity: &'static str, nodes: &[Node], clients: usize, requests: usize) -> Vec<Tally> {
    let addresses: Vec<_> = nodes.iter().map(Node::listen).collect();
    let mut running = JoinSet::new();
    for first in 0..clients {
        let addresses = addresses.clone();
        running.spawn(async move {
            let mut client = Client::new(identity);
            let mut tally = Tally::default();
            for turn in first..first + requests {
                let address = addresses[turn % addresses.len()];
                tally.record(&client.try_get(address).await.expect("an answer comes"));
            }
            tally
        });
    }
    running.join_all().await
}
