//! Nodes that speak an old frame version and this one, in one cluster.

use cluster_tests::{Client, Cluster, DEADLINE, wait_until};

#[tokio::test]
async fn old_and_new_frame_versions_keep_one_limit_until_the_last_old_node_is_gone() {
    let mut cluster = Cluster::with_limit(30).nodes(2).start().await;
    speaks(&cluster, 3).await;
    // What a node of the previous release is to the others.
    cluster.join_with(&["--frame-version", "1"]);
    cluster.formed().await;
    speaks(&cluster, 1).await;

    let mut client = Client::new("client");
    let mixed = client.patient_round_robin(&cluster, &cluster.nodes, 12).await;
    assert_eq!(mixed.admitted(), 12);

    // A rolling update: it goes, and a node of this version comes.
    cluster.nodes[2].terminate();
    assert!(cluster.nodes[2].exited().await.success());
    cluster.nodes.truncate(2);
    cluster.join();
    cluster.formed().await;
    speaks(&cluster, 3).await;

    let rest = client.patient_round_robin(&cluster, &cluster.nodes, 24).await;
    assert_eq!((rest.admitted(), rest.denied()), (18, 6));
    for node in &cluster.nodes {
        let refused = node.metric("weir_replication_frames_total", "refused").await;
        assert_eq!(refused.expect("/metrics answers"), 0.0, "at node {}", node.id());
    }
}

async fn speaks(cluster: &Cluster, version: u64) {
    for node in &cluster.nodes {
        let what = format!("node {} sends frames of version {version}", node.id());
        wait_until(&what, DEADLINE, async || {
            let sent = node.json("/v1/peers").await?["self"]["frame_version"].as_u64();
            if sent == Some(version) {
                Ok(())
            } else {
                Err(format!("it sends {sent:?}"))
            }
        })
        .await;
    }
}
