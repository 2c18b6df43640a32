//! Whatever arrives at the gossip port, counts stay what they are and no node falls.

use std::fs;

use cluster_tests::client::fetch;
use cluster_tests::udp::{Stranger, flipped, huge_length, noise, truncated};
use cluster_tests::{Client, Cluster, DEADLINE, binary, wait_until};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngCore as _, SeedableRng as _};

/// Datagrams of each kind, to each node.
const ROUNDS: usize = 400;

/// How many datagrams go out before the node is heard again, so that its receive buffer does not
/// overflow and hide what it would have done.
const BURST: usize = 20;

#[tokio::test]
async fn a_sealed_cluster_drops_whatever_a_stranger_makes_of_its_datagrams() {
    let key = tempfile::NamedTempFile::new().expect("the temporary directory is writable");
    fs::write(key.path(), binary::run(&["keygen"]).stdout).expect("the file is writable");
    let stranger = Stranger::new().await;
    let seed = stranger.address().to_string();
    let flags = [
        "--gossip-key-file",
        key.path().to_str().expect("a plain path"),
        "--seed",
        &seed,
    ];
    let mut cluster = Cluster::with_limit(30).args(&flags).start().await;

    let genuine = stranger.receive().await;
    let forge = |rng: &mut StdRng| match rng.next_u32() % 5 {
        0 => noise(rng),
        1 => truncated(rng, &genuine),
        2 => flipped(rng, &genuine),
        3 => [&genuine[..], &[0]].concat(),
        _ => huge_length(rng, &genuine, 29.min(genuine.len())),
    };
    bombard(&mut cluster, &stranger, forge, ROUNDS as f64 * 0.9).await;
}

/// Without a key anybody can write a valid envelope; what is inside must still hurt nobody.
#[tokio::test]
async fn garbage_in_a_valid_open_envelope_changes_nothing() {
    let stranger = Stranger::new().await;
    let seed = stranger.address().to_string();
    let mut cluster = Cluster::with_limit(30).args(&["--seed", &seed]).start().await;

    let genuine = stranger.receive().await;
    // Version byte and the hash of the cluster id; the next byte says what the payload is.
    let envelope = genuine[..9].to_vec();
    let forge = |rng: &mut StdRng| {
        let channel = [*[0, 1, 2, 3, 255].choose(rng).expect("not empty")];
        let head = [&envelope[..], &channel].concat();
        match rng.next_u32() % 4 {
            0 => [&head[..], &noise(rng)]
                .concat()
                .into_iter()
                .take(65_507)
                .collect(),
            1 => huge_length(rng, &head, head.len()),
            2 => {
                let version = [rng.next_u32().to_le_bytes()[0] % 4];
                huge_length(rng, &[&head[..], &version].concat(), head.len() + 1)
            }
            _ => truncated(rng, &genuine),
        }
    };
    bombard(&mut cluster, &stranger, forge, 0.0).await;
}

/// Uses 12 of 30, throws datagrams at every node, and uses the rest: exactly 18. Every node has
/// then dropped and counted at least `drops_min` of them.
async fn bombard(
    cluster: &mut Cluster,
    stranger: &Stranger,
    mut forge: impl FnMut(&mut StdRng) -> Vec<u8>,
    drops_min: f64,
) {
    let seed: u64 = 0x5EED_0007;
    println!("seed {seed:#x}");
    let mut rng = StdRng::seed_from_u64(seed);
    let mut client = Client::new("client");
    assert_eq!(
        client
            .patient_round_robin(cluster, &cluster.nodes, 12)
            .await
            .admitted(),
        12
    );
    let before = dropped(cluster).await;

    for round in 0..ROUNDS {
        for node in &cluster.nodes {
            stranger.send(&forge(&mut rng), node.gossip()).await;
            if round % BURST == 0 {
                fetch(node.admin(), "/livez")
                    .await
                    .expect("the node answers under fire");
            }
        }
    }

    let rest = client.patient_round_robin(cluster, &cluster.nodes, 24).await;
    assert_eq!((rest.admitted(), rest.denied()), (18, 6));
    cluster.formed().await;
    for node in &mut cluster.nodes {
        assert!(node.is_running(), "node {} ended", node.id());
        assert!(
            !node.log().contains("panicked"),
            "node {} panicked:\n{}",
            node.id(),
            node.log()
        );
    }
    // The metric follows the socket by up to a tenth of a second.
    wait_until("the datagrams are dropped and counted", DEADLINE, async || {
        let after = dropped(cluster).await;
        let fewest = after
            .iter()
            .zip(&before)
            .map(|(after, before)| after - before)
            .fold(f64::INFINITY, f64::min);
        if fewest >= drops_min {
            Ok(())
        } else {
            Err(format!("{fewest} of {ROUNDS} at some node"))
        }
    })
    .await;
}

async fn dropped(cluster: &Cluster) -> Vec<f64> {
    let mut counts = Vec::new();
    for node in &cluster.nodes {
        counts.push(
            node.metric("weir_gossip_dropped_total", "")
                .await
                .expect("/metrics answers"),
        );
    }
    counts
}
