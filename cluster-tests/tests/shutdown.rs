//! Nodes stop in good order: no request in flight and no count is lost.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use cluster_tests::client::fetch;
use cluster_tests::cluster::sees;
use cluster_tests::{Client, Cluster, DEADLINE, wait_until};
use hyper::StatusCode;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

#[tokio::test]
async fn sigterm_loses_no_request_in_flight() {
    const IN_FLIGHT: usize = 20;
    let mut cluster = Cluster::with_limit(1_000).nodes(2).start().await;
    cluster.upstream.hold();
    let address = cluster.nodes[1].listen();
    let mut requests = JoinSet::new();
    for n in 0..IN_FLIGHT {
        requests.spawn(async move { Client::new(format!("client {n}")).try_get(address).await });
    }
    wait_until("all requests are in flight", DEADLINE, async || {
        match cluster.upstream.waiting() {
            IN_FLIGHT => Ok(()),
            waiting => Err(format!("{waiting} are")),
        }
    })
    .await;

    cluster.nodes[1].terminate();
    refuses(address).await;
    assert!(cluster.nodes[1].is_running(), "it waits for what is in flight");
    cluster.upstream.release();

    while let Some(request) = requests.join_next().await {
        let answer = request.expect("the client ran").expect("an answer comes");
        assert_eq!(answer.status, StatusCode::OK);
    }
    assert!(cluster.nodes[1].exited().await.success());
}

/// The delay is longer than any test: only the second signal ends it.
#[tokio::test]
async fn a_node_that_is_to_stop_serves_on_until_load_balancers_know_or_it_is_told_again() {
    let builder = Cluster::with_limit(100).nodes(2).drain_delay("1h");
    let mut cluster = builder.start().await;
    let mut client = Client::new("client");
    client.get(&cluster.nodes[0]).await;

    cluster.nodes[0].terminate();
    let node = &cluster.nodes[0];
    wait_until("it is not ready", DEADLINE, async || {
        let answer = fetch(node.admin(), "/readyz")
            .await
            .map_err(|error| format!("{error:#}"))?;
        match answer.status {
            StatusCode::SERVICE_UNAVAILABLE => Ok(()),
            other => Err(other.to_string()),
        }
    })
    .await;
    for mut client in [client, Client::new("newcomer")] {
        for _ in 0..3 {
            assert_eq!(client.get(node).await.status, StatusCode::OK);
        }
    }
    cluster.nodes[0].terminate();
    assert!(cluster.nodes[0].exited().await.success());

    // A person who stops it does not wait.
    cluster.nodes[1].interrupt();
    assert!(cluster.nodes[1].exited().await.success());
}

/// Two hits a client are below what a node publishes of a limit of 1,000 while it is far, so that only
/// leaving releases them.
#[tokio::test]
async fn a_node_that_leaves_hands_over_every_count() {
    let mut cluster = Cluster::with_limit(1_000).start().await;
    let mut clients: Vec<Client> = (0..200).map(|n| Client::new(format!("client {n}"))).collect();
    for client in &mut clients {
        assert_eq!(client.round_robin(&cluster.nodes[2..], 2).await.admitted(), 2);
    }
    let known = cluster.nodes[0]
        .json("/v1/limits")
        .await
        .expect("the admin API answers");
    assert_eq!(
        known["limits"],
        serde_json::json!([]),
        "the counts are held back so far"
    );

    cluster.nodes[2].terminate();
    assert!(cluster.nodes[2].exited().await.success());

    for client in &mut clients {
        assert_eq!(
            client.get(&cluster.nodes[0]).await.remaining(),
            Some(997),
            "{}",
            client.identity()
        );
        // Node a may hold its own hit back; the leaver's are known.
        let remaining = client.get(&cluster.nodes[1]).await.remaining();
        assert!(
            matches!(remaining, Some(996 | 997)),
            "{}: {remaining:?}",
            client.identity()
        );
    }
}

#[tokio::test]
async fn a_node_that_left_is_no_longer_a_live_peer() {
    let mut cluster = Cluster::with_limit(5).start().await;
    cluster.nodes[2].terminate();
    assert!(cluster.nodes[2].exited().await.success());
    sees(&cluster.nodes[0], &["b"]).await;
    sees(&cluster.nodes[1], &["a"]).await;
}

#[tokio::test]
async fn restarting_every_node_under_load_loses_no_request_and_no_count() {
    const LIMIT: u64 = 10_000_000;
    // Nothing is held back, so that every node comes to know the exact total.
    let mut cluster = Cluster::with_limit(LIMIT).args(&["--epsilon", "0"]).start().await;
    let load = Load::start(&cluster);
    for index in 0..cluster.nodes.len() {
        cluster.upstream.hold();
        load.all_in_flight(&cluster).await;
        load.take_out(index);
        cluster.nodes[index].terminate();
        refuses(cluster.nodes[index].listen()).await;
        cluster.upstream.release();
        assert!(cluster.nodes[index].exited().await.success());

        cluster.nodes[index].start();
        cluster.formed().await;
        load.put_back(index).await;
    }
    let admitted = load.stop().await;

    assert_eq!(cluster.upstream.count(Load::IDENTITY), admitted);
    for node in &cluster.nodes {
        let what = format!("node {} knows all {admitted} hits", node.id());
        wait_until(&what, DEADLINE, async || {
            let limits = node.json("/v1/limits?limit=1").await?;
            match limits["limits"][0]["total"].as_u64() {
                Some(total) if total == admitted => Ok(()),
                other => Err(format!("it knows {other:?}")),
            }
        })
        .await;
    }
    let remaining = Client::new(Load::IDENTITY)
        .get(&cluster.nodes[0])
        .await
        .remaining();
    assert_eq!(remaining, Some(LIMIT - admitted - 1));
}

/// Waits until nobody listens at `address` any more. Sends nothing: a request that is still taken would
/// have to be answered.
async fn refuses(address: SocketAddr) {
    let what = format!("{address} refuses new clients");
    wait_until(&what, DEADLINE, async || {
        match TcpStream::connect(address).await {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(()),
            other => Err(format!("connecting gave {other:?}")),
        }
    })
    .await;
}

/// Clients of one identity that keep every node busy, and leave out nodes that are about to stop, as a
/// load balancer does.
struct Load {
    rotation: Arc<Rotation>,
    workers: JoinSet<u64>,
}

#[derive(Default)]
struct Rotation {
    nodes: Mutex<Vec<Member>>,
    stopped: AtomicBool,
}

struct Member {
    address: SocketAddr,
    included: bool,
    answered: u64,
}

impl Load {
    const IDENTITY: &str = "load";
    const WORKERS_PER_NODE: usize = 2;

    fn start(cluster: &Cluster) -> Self {
        let members = cluster.nodes.iter().map(|node| Member {
            address: node.listen(),
            included: true,
            answered: 0,
        });
        let rotation = Arc::new(Rotation {
            nodes: Mutex::new(members.collect()),
            stopped: AtomicBool::new(false),
        });
        let mut workers = JoinSet::new();
        for worker in 0..cluster.nodes.len() * Self::WORKERS_PER_NODE {
            workers.spawn(Arc::clone(&rotation).work(worker % cluster.nodes.len()));
        }
        Self { rotation, workers }
    }

    /// Waits until every worker's request is at the upstream, which holds it.
    async fn all_in_flight(&self, cluster: &Cluster) {
        wait_until("every worker has a request in flight", DEADLINE, async || {
            let waiting = cluster.upstream.waiting();
            if waiting == self.workers.len() {
                Ok(())
            } else {
                Err(format!("{waiting} have"))
            }
        })
        .await;
    }

    fn take_out(&self, index: usize) {
        self.rotation.nodes()[index].included = false;
    }

    /// Puts the node back and waits until it has answered again.
    async fn put_back(&self, index: usize) {
        let before = {
            let mut nodes = self.rotation.nodes();
            nodes[index].included = true;
            nodes[index].answered
        };
        wait_until("the node is used again", DEADLINE, async || {
            if self.rotation.nodes()[index].answered > before {
                Ok(())
            } else {
                Err("not yet".to_owned())
            }
        })
        .await;
    }

    /// Stops, and tells how many requests were answered with 200: all.
    async fn stop(mut self) -> u64 {
        self.rotation.stopped.store(true, Ordering::Relaxed);
        let mut answered = 0;
        while let Some(worker) = self.workers.join_next().await {
            answered += worker.expect("no request was lost");
        }
        answered
    }
}

impl Rotation {
    fn nodes(&self) -> MutexGuard<'_, Vec<Member>> {
        self.nodes.lock().expect("no holder of this lock panics")
    }

    /// The node `home`, or the next one that is not left out.
    fn pick(&self, home: usize) -> (usize, SocketAddr) {
        let nodes = self.nodes();
        let index = (home..home + nodes.len())
            .map(|index| index % nodes.len())
            .find(|&index| nodes[index].included);
        let index = index.expect("one node at a time is left out");
        (index, nodes[index].address)
    }

    async fn work(self: Arc<Self>, home: usize) -> u64 {
        let mut client = Client::new(Load::IDENTITY);
        let mut answered = 0;
        while !self.stopped.load(Ordering::Relaxed) {
            let (index, address) = self.pick(home);
            let answer = client
                .try_get(address)
                .await
                .unwrap_or_else(|error| panic!("{address}: {error:#}"));
            assert_eq!(answer.status, StatusCode::OK);
            self.nodes()[index].answered += 1;
            answered += 1;
        }
        answered
    }
}
