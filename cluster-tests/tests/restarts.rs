//! Nodes are replaced one after the other while clients notice nothing.

use cluster_tests::Cluster;
use cluster_tests::service::Service;
use cluster_tests::traffic::{Kind, Traffic};

const RESTARTS: usize = 20;

/// Clients follow readiness for new connections, as those of a Kubernetes Service do, and keep the ones that they have.
#[tokio::test]
async fn no_request_fails_over_twenty_rolling_restarts_under_load() {
    // Sixteen probes long: the other half is for those that are connected.
    let builder = Cluster::with_limit(100_000_000).drain_delay("1600ms");
    let mut cluster = builder.start().await;
    let service = Service::of(&cluster.nodes);
    let mut traffic = Traffic::start(4, service.endpoints());
    for restart in 0..RESTARTS {
        traffic.goes_on(50).await;
        let index = restart % cluster.nodes.len();
        let node = &mut cluster.nodes[index];
        node.terminate();
        service.settles(index, false).await;
        assert!(node.exited().await.success());
        node.start();
        node.ready().await;
        service.settles(index, true).await;
        traffic.is_well();
    }
    traffic.goes_on(50).await;
    let answered = traffic.answered();
    let seen = traffic.stop().await;
    println!("{RESTARTS} rolling restarts under load: {answered} requests answered, 0 failed");
    for (kind, seen) in &seen {
        println!(
            "  {kind:?}: {} requests, {} connections, {} requests moved unsent to another",
            seen.answered(),
            seen.connections(),
            seen.unsent()
        );
        assert!(seen.answered() > 1_000, "{kind:?}");
    }
    assert!(answered > 5_000);
    let all = seen.iter().map(|(_, seen)| seen.answered()).sum::<u64>();
    // Each was admitted once.
    assert_eq!(cluster.upstream.count(Traffic::IDENTITY), all);
    // Those who keep connections were sent away by each restart of their node, and by nothing else.
    for (kind, seen) in seen.iter().filter(|(kind, _)| *kind != Kind::NewConnection) {
        let most = u64::try_from(4 + 4 * RESTARTS).expect("a small number");
        assert!((8..=most).contains(&seen.connections()), "{kind:?}");
    }
}
