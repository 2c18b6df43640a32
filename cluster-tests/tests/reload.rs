//! A node takes up another configuration without a restart.

use cluster_tests::{Client, Cluster, DEADLINE, Node, wait_until};

const METRIC: &str = "weir_config_reloads_total";

#[tokio::test]
async fn sighup_puts_a_valid_file_in_force_and_any_other_changes_nothing() {
    let headers = |hidden: bool| format!("limits:\n  hide_headers: {hidden}\n");
    let cluster = Cluster::with_limit(10)
        .nodes(1)
        .config(&headers(false))
        .start()
        .await;
    let node = &cluster.nodes[0];
    let mut client = Client::new("client");
    assert_eq!(client.get(node).await.remaining(), Some(9));

    cluster.configure("limits:\n  hide_haeders: true\n  overflow: maybe\n");
    reloaded(node, "refused", 1).await;
    let log = node.log();
    for error in [
        "weir.yaml:2:3: limits.hide_haeders: ",
        "weir.yaml:3:13: limits.overflow: ",
    ] {
        assert!(log.contains(error), "no `{error}` in\n{log}");
    }
    assert_eq!(client.get(node).await.remaining(), Some(8));

    cluster.configure(&format!("{}sync:\n  tick: 77ms\n", headers(true)));
    reloaded(node, "refused", 2).await;
    let refusal = "`sync.tick` cannot change in a running node: restart the node";
    assert!(node.log().contains(refusal), "{}", node.log());
    assert_eq!(client.get(node).await.remaining(), Some(7));

    cluster.configure(&headers(true));
    reloaded(node, "applied", 1).await;
    assert_eq!(client.get(node).await.remaining(), None);

    cluster.configure(&headers(false));
    reloaded(node, "applied", 2).await;
    assert_eq!(client.get(node).await.remaining(), Some(5), "counts are kept");
}

#[tokio::test]
async fn peers_hear_that_a_node_has_another_configuration_now() {
    let cluster = Cluster::with_limit(10)
        .nodes(2)
        .config("limits:\n  ipv4_prefix: 32\n")
        .start()
        .await;
    let [a, b] = &cluster.nodes[..] else {
        panic!("a cluster of two")
    };
    agree(a, b, true).await;
    cluster.configure("limits:\n  ipv4_prefix: 24\n");
    reloaded(a, "applied", 1).await;
    agree(a, b, false).await;
    reloaded(b, "applied", 1).await;
    agree(a, b, true).await;
}

/// Sends SIGHUP, and waits until so many reloads have ended in `outcome`.
async fn reloaded(node: &Node, outcome: &str, count: u32) {
    node.reload();
    let label = format!("outcome=\"{outcome}\"");
    let what = format!("node {}: reload {count} is {outcome}", node.id());
    wait_until(&what, DEADLINE, async || {
        match node.metric(METRIC, &label).await? {
            counted if counted >= f64::from(count) => Ok(()),
            counted => Err(format!("{counted} are\n{}", node.log())),
        }
    })
    .await;
}

/// Waits until both say that the other has the same configuration, or has not.
async fn agree(a: &Node, b: &Node, expected: bool) {
    for node in [a, b] {
        let what = format!("node {} sees the configuration of the other", node.id());
        wait_until(&what, DEADLINE, async || {
            let peers = node.json("/v1/peers").await?;
            match peers["peers"][0]["config_matches"].as_bool() {
                Some(matches) if matches == expected => Ok(()),
                _ => Err(peers.to_string()),
            }
        })
        .await;
    }
}
