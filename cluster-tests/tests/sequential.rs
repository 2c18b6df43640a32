//! A client that asks round robin, as fast as it is answered: the case in which a node alone cannot know.

use cluster_tests::{Client, Cluster};

const NODES: usize = 3;
const RUNS: usize = 20;

/// The news of a request leaves the node before its upstream is called, but it needs two threads of other
/// processes to be scheduled before the client's next request arrives. On a busy machine some are late
/// now and then; without the push, not one run would be exact.
#[tokio::test]
async fn gossip_admits_exactly_the_limit_to_a_sequential_client() {
    for limit in [1, 5, 100, 1_000] {
        let cluster = Cluster::with_limit(limit).nodes(NODES).start().await;
        let admitted = admitted(&cluster, limit).await;
        println!("limit {limit}: admitted in {RUNS} runs: {admitted:?}");
        assert_eq!(admitted[0], limit, "never less than the limit");
        assert_eq!(
            admitted[RUNS / 4],
            limit,
            "exactly the limit, unless the machine is late"
        );
    }
}

/// In each run, a new client asks often enough to exhaust `limit` and to be denied four times by each
/// node. Sorted.
async fn admitted(cluster: &Cluster, limit: u64) -> Vec<u64> {
    let requests = usize::try_from(limit).expect("a small limit") + 4 * NODES;
    let mut distribution = Vec::new();
    for run in 0..RUNS {
        let mut client = Client::new(format!("run {run}"));
        let tally = client.round_robin(&cluster.nodes, requests).await;
        assert_eq!(
            tally.admitted(),
            cluster.upstream.count(client.identity()),
            "the upstream received what was answered with 200"
        );
        distribution.push(tally.admitted());
    }
    distribution.sort_unstable();
    distribution
}
