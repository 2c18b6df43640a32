//! Nodes come, crash, return, and knock at the wrong door.

use std::fs;

use cluster_tests::cluster::sees;
use cluster_tests::{Client, Cluster, DEADLINE, binary, wait_until};
use hyper::StatusCode;

#[tokio::test]
async fn a_late_joiner_knows_every_count_before_it_is_ready() {
    let mut cluster = Cluster::with_limit(6).start().await;
    let mut clients: Vec<Client> = (0..50).map(|n| Client::new(format!("client {n}"))).collect();
    for client in &mut clients {
        assert_eq!(
            client
                .patient_round_robin(&cluster, &cluster.nodes, 3)
                .await
                .admitted(),
            3
        );
    }
    let mut exhausted = Client::new("exhausted");
    assert_eq!(
        exhausted
            .patient_round_robin(&cluster, &cluster.nodes, 6)
            .await
            .admitted(),
        6
    );

    cluster.join().ready().await;

    let joiner = &cluster.nodes[3];
    assert_eq!(exhausted.get(joiner).await.status, StatusCode::TOO_MANY_REQUESTS);
    for client in &mut clients {
        let remaining = client.get(joiner).await.remaining();
        assert_eq!(
            remaining,
            Some(2),
            "{}: 6 less 3 before and 1 now",
            client.identity()
        );
    }
}

#[tokio::test]
async fn a_killed_node_relearns_the_counts_and_is_not_counted_twice() {
    let mut cluster = Cluster::with_limit(30).start().await;
    let mut client = Client::new("client");
    assert_eq!(
        client
            .patient_round_robin(&cluster, &cluster.nodes, 20)
            .await
            .admitted(),
        20
    );

    cluster.nodes[2].kill();
    cluster.nodes[2].start();
    cluster.nodes[2].ready().await;

    for (node, left) in cluster.nodes.iter().rev().zip([9, 8, 7]) {
        assert_eq!(
            client.get(node).await.remaining(),
            Some(left),
            "at node {}",
            node.id()
        );
        cluster.settled("client").await;
    }
    let rest = client.patient_round_robin(&cluster, &cluster.nodes, 20).await;
    assert_eq!((rest.admitted(), rest.denied()), (7, 13));
    assert_eq!(cluster.upstream.count("client"), 30);
}

#[tokio::test]
async fn survivors_keep_counting_what_a_killed_node_admitted() {
    let mut cluster = Cluster::with_limit(12).start().await;
    let mut client = Client::new("client");
    assert_eq!(
        client
            .patient_round_robin(&cluster, &cluster.nodes[2..], 8)
            .await
            .admitted(),
        8
    );

    cluster.nodes[2].kill();
    sees(&cluster.nodes[0], &["b"]).await;
    sees(&cluster.nodes[1], &["a"]).await;

    let rest = client
        .patient_round_robin(&cluster, &cluster.nodes[..2], 10)
        .await;
    assert_eq!((rest.admitted(), rest.denied()), (4, 6));
}

#[tokio::test]
async fn a_node_of_another_cluster_is_refused_and_named() {
    let mut cluster = Cluster::with_limit(5).nodes(2).start().await;
    cluster
        .join_with(&["--cluster-id", "elsewhere", "--join-grace", "500ms"])
        .ready()
        .await;
    stays_outside(cluster, "wrong_cluster").await;
}

#[tokio::test]
async fn a_node_with_another_key_is_refused_and_named() {
    let keys = tempfile::tempdir().expect("the temporary directory is writable");
    let [ours, theirs] = ["ours", "theirs"].map(|name| {
        let path = keys.path().join(name);
        fs::write(&path, keygen()).expect("the temporary directory is writable");
        path.to_str().expect("a plain path").to_owned()
    });
    let mut cluster = Cluster::with_limit(5)
        .nodes(2)
        .args(&["--gossip-key-file", &ours])
        .start()
        .await;
    cluster
        .join_with(&["--gossip-key-file", &theirs, "--join-grace", "500ms"])
        .ready()
        .await;
    stays_outside(cluster, "unknown_key").await;
}

#[tokio::test]
async fn an_open_node_is_refused_by_a_sealed_cluster() {
    let keys = tempfile::NamedTempFile::new().expect("the temporary directory is writable");
    fs::write(keys.path(), keygen()).expect("the file is writable");
    let key_file = keys.path().to_str().expect("a plain path");
    let mut cluster = Cluster::with_limit(5)
        .nodes(2)
        .args(&["--gossip-key-file", key_file])
        .start()
        .await;
    cluster.join_with(&["--join-grace", "500ms"]).ready().await;
    stays_outside(cluster, "protection_mismatch").await;
}

/// The last node is no part of the cluster of the others: nobody lists it, its datagrams are counted
/// under `reason`, and counts do not cross.
async fn stays_outside(mut cluster: Cluster, reason: &str) {
    let outsider = cluster.nodes.pop().expect("there are nodes");
    let label = format!("reason=\"{reason}\"");
    for member in &cluster.nodes {
        let what = format!("node {} refuses a datagram", member.id());
        wait_until(&what, DEADLINE, async || {
            match member.metric("weir_gossip_dropped_total", &label).await? {
                0.0 => Err("none was dropped".to_owned()),
                _ => Ok(()),
            }
        })
        .await;
    }
    sees(&cluster.nodes[0], &["b"]).await;
    sees(&outsider, &[] as &[&str]).await;

    let mut client = Client::new("client");
    assert_eq!(
        client
            .patient_round_robin(&cluster, &cluster.nodes, 7)
            .await
            .admitted(),
        5
    );
    assert_eq!(
        client.get(&outsider).await.remaining(),
        Some(4),
        "its count is its own"
    );
}

fn keygen() -> Vec<u8> {
    let output = binary::run(&["keygen"]);
    assert!(output.status.success(), "weir keygen: {output:?}");
    output.stdout
}
