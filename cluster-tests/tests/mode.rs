//! The sync mode of a running cluster changes at run time.

use cluster_tests::{Client, Cluster, binary};

#[tokio::test]
async fn a_switch_of_mode_takes_effect_on_every_node_and_keeps_counts() {
    let cluster = Cluster::with_limit(6).start().await;
    let mut client = Client::new("client");
    let admitted = admitted_of_nine(&cluster, &mut client).await;
    assert_eq!(admitted, 6, "gossip: once in all");

    switch(&cluster, "local").await;
    let tally = client.round_robin(&cluster.nodes, 15).await;
    assert_eq!(
        tally.admitted(),
        12,
        "local: each node had counted 2 and admits up to 6"
    );

    switch(&cluster, "gossip").await;
    let tally = client.round_robin(&cluster.nodes, 6).await;
    assert_eq!(
        (tally.admitted(), tally.denied()),
        (0, 6),
        "gossip: all is known to be used up"
    );
    assert_eq!(cluster.upstream.count("client"), 18);
}

#[tokio::test]
async fn a_joiner_adopts_the_mode_that_the_cluster_was_switched_to() {
    let mut cluster = Cluster::with_limit(4).nodes(2).mode("local").start().await;
    switch(&cluster, "gossip").await;

    cluster.join();
    cluster.formed().await;

    let mut client = Client::new("client");
    assert_eq!(admitted_of_nine(&cluster, &mut client).await, 4);
}

#[tokio::test]
async fn weir_mode_refuses_a_mode_that_does_not_exist() {
    let cluster = Cluster::with_limit(4).nodes(1).start().await;
    let output = binary::run(&["mode", "global", "--admin", &cluster.nodes[0].admin().to_string()]);
    assert!(!output.status.success());
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(
        message.contains("local") && message.contains("gossip"),
        "{message}"
    );
}

/// How many of nine requests pass, each of which every node hears of before the next.
async fn admitted_of_nine(cluster: &Cluster, client: &mut Client) -> u64 {
    let tally = client.patient_round_robin(cluster, &cluster.nodes, 9).await;
    tally.admitted()
}

/// Switches by `weir mode` at the last node; the command returns when every node follows.
async fn switch(cluster: &Cluster, mode: &'static str) {
    let admin = cluster.nodes.last().expect("there are nodes").admin().to_string();
    let command = tokio::task::spawn_blocking(move || binary::run(&["mode", mode, "--admin", &admin]));
    let output = command.await.expect("the command runs");
    assert!(output.status.success(), "weir mode {mode}: {output:?}");
    for node in &cluster.nodes {
        let own = node.json("/v1/peers").await.expect("the admin API answers");
        assert_eq!(own["self"]["mode"], mode, "at node {}", node.id());
    }
}
