//! A real network is cut and mended: the harness's own proof that a cut is one.

use cluster_tests::cluster::sees;
use cluster_tests::{Client, Cluster};

#[tokio::test]
async fn in_gossip_mode_each_side_of_a_cut_counts_alone_and_all_know_the_sum_when_it_heals() {
    let cluster = Cluster::with_limit(10).on_hosts(3).start().await;
    let mut client = Client::new("client");
    let before = client.patient_round_robin(&cluster, &cluster.nodes, 4).await;
    assert_eq!(before.admitted(), 4);

    cluster.network().cut(&[&[0, 1], &[2]]);
    sees(&cluster.nodes[0], &["b"]).await;
    sees(&cluster.nodes[1], &["a"]).await;
    sees(&cluster.nodes[2], &[] as &[&str]).await;
    let alone = client.round_robin(&cluster.nodes[2..], 8).await;
    assert_eq!((alone.admitted(), alone.denied()), (6, 2), "it knows of 4 before");
    let first = client.round_robin(&cluster.nodes[..1], 8).await;
    assert_eq!(
        (first.admitted(), first.denied()),
        (6, 2),
        "so does the other side"
    );

    cluster.network().heal();
    cluster.settled("client").await;
    assert_eq!(cluster.upstream.count("client"), 16);
    sees(&cluster.nodes[2], &["a", "b"]).await;
}
