//! What is on the wire between real processes, and what they make of a bad one.

use cluster_tests::cluster::sees;
use cluster_tests::wire::Traffic;
use cluster_tests::{Client, Cluster};

/// The size that every path of today's networks carries in one piece.
const DATAGRAM_BYTES: usize = 1_200;

#[tokio::test]
async fn no_datagram_of_membership_or_counts_is_longer_than_1200_bytes() {
    let traffic = traffic_of_a_joiner(&[]).await;
    assert!(traffic.largest <= DATAGRAM_BYTES, "{traffic:?}");
    // Rows filled their datagrams. Without a key these are 36 bytes shorter than with one.
    assert!(traffic.largest > DATAGRAM_BYTES * 3 / 4, "{traffic:?}");
}

#[tokio::test]
async fn membership_goes_in_fragments_where_datagrams_are_set_smaller_than_what_it_says() {
    let traffic = traffic_of_a_joiner(&["--datagram-bytes", "512"]).await;
    assert!(traffic.largest <= 512, "{traffic:?}");
    let [frames, messages, fragments] = traffic.channels;
    assert!(frames > 100 && messages > 10 && fragments > 1, "{traffic:?}");
}

/// What six nodes say when a seventh joins, and has to be told of all members and of hundreds of rows.
async fn traffic_of_a_joiner(args: &[&str]) -> Traffic {
    let mut cluster = Cluster::with_limit(10)
        .nodes(6)
        .wired(1)
        .args(&["--epsilon", "0"])
        .args(args)
        .start()
        .await;
    for n in 0..300 {
        let mut client = Client::new(format!("client {n}"));
        assert_eq!(client.round_robin(&cluster.nodes[..1], 1).await.admitted(), 1);
    }
    cluster.join();
    cluster.formed().await;
    cluster.settled("client 299").await;
    let traffic = cluster.wire().traffic();
    println!("{traffic:?}");
    traffic
}

#[tokio::test]
async fn counts_converge_exactly_over_a_lossy_wire_and_after_a_partition() {
    let mut cluster = Cluster::with_limit(100).wired(2).start().await;
    cluster.wire().lose(0.2);
    let mut client = Client::new("client");
    let lossy = client.patient_round_robin(&cluster, &cluster.nodes, 30).await;
    assert_eq!(lossy.admitted(), 30);

    let [a, b, c] = [0, 1, 2].map(|index| cluster.nodes[index].gossip());
    cluster.wire().cut_off(&[c]);
    sees(&cluster.nodes[0], &["b"]).await;
    sees(&cluster.nodes[2], &[] as &[&str]).await;
    // 70 remain, and each side lets them through once.
    let near = client.round_robin(&cluster.nodes[..1], 80).await;
    let far = client.round_robin(&cluster.nodes[2..], 80).await;
    assert_eq!(
        (near.admitted(), far.admitted()),
        (70, 70),
        "each side counts on its own"
    );

    cluster.wire().cut_off(&[]);
    cluster.formed().await;
    cluster.settled("client").await;
    let healed = client.round_robin(&cluster.nodes, 6).await;
    assert_eq!((healed.admitted(), healed.denied()), (0, 6));

    // Another cut elsewhere, and a node that dies and returns behind it.
    cluster.wire().cut_off(&[a, b]);
    cluster.nodes[1].kill();
    cluster.nodes[1].start();
    cluster.nodes[1].ready().await;
    let reborn = client.get(&cluster.nodes[1]).await;
    assert_eq!(reborn.remaining(), Some(0), "it has learnt from its own side");
    cluster.wire().cut_off(&[]);
    cluster.formed().await;
    cluster.settled("client").await;

    let traffic = cluster.wire().traffic();
    println!("{traffic:?}");
    assert!(traffic.lost > 50 && traffic.cut > 50, "{traffic:?}");
}
