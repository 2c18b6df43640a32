//! Three processes are replaced one after the other while a client keeps calling.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use cluster_tests::client::fetch;
use cluster_tests::{Client, Cluster, DEADLINE, Node, Upstream, wait_until};
use hyper::StatusCode;
use tokio::sync::watch;

const LIMIT: u64 = 400;
const IDENTITY: &str = "client";

/// A quarter of the limit is kept for each replacement and for the time after the last, so that the
/// limit is neither used up early nor still far at the end.
#[tokio::test]
async fn a_rolling_update_loses_no_count_and_no_request() {
    // Nothing is held back, so that every node can be asked for the exact total at any time.
    let mut cluster = Cluster::with_limit(LIMIT).args(&["--epsilon", "0"]).start().await;
    let addresses = cluster.nodes.iter().map(Address::of).collect();
    let allowance = watch::Sender::new(LIMIT / 4);
    let known = watch::Sender::new(0);
    let mut caller = Caller {
        client: Client::new(IDENTITY),
        nodes: addresses,
        turn: 0,
        answers: BTreeMap::new(),
        turned_away: 0,
    };
    let replace_all = async {
        for (step, node) in (2..).zip(&mut cluster.nodes) {
            node.terminate();
            assert!(node.exited().await.success());
            // The others carry on while it is away.
            let used = *known.borrow();
            allowance.send_modify(|allowed| *allowed += 10);
            let mut progress = known.subscribe();
            let more = progress.wait_for(|known| *known >= used + 10).await;
            let known = *more.expect("the sender outlives the update");
            node.start();
            ready_with(node, known).await;
            allowance.send_replace(step * LIMIT / 4);
        }
        // Whoever calls on after the last replacement is denied in the end.
        allowance.send_replace(u64::MAX);
    };
    let call = caller.call_until_denied(&cluster.upstream, allowance.subscribe(), &known);
    tokio::join!(replace_all, call);

    println!(
        "answers {:?}, turned away {} times",
        caller.answers, caller.turned_away
    );
    assert_eq!(caller.admitted(), LIMIT);
    // A request that broke before its answer was never admitted either.
    assert_eq!(cluster.upstream.count(IDENTITY), LIMIT);
    assert!(
        caller.turned_away >= 9,
        "each third of ten calls met a node that was away"
    );
    cluster.formed().await;
    cluster.settled(IDENTITY).await;
    let node_ids: Vec<&str> = caller.answers.keys().map(|(node, _)| node.as_str()).collect();
    assert_eq!(
        node_ids,
        ["a", "a", "b", "b", "c", "c"],
        "each admitted and denied some"
    );
}

/// The peers are there and silent for as long as the scenario wants it.
#[tokio::test]
async fn a_restarted_node_is_not_ready_before_a_peer_has_told_it_the_counts() {
    let mut cluster = Cluster::with_limit(20)
        .args(&["--join-grace", "300s"])
        .start()
        .await;
    let mut client = Client::new(IDENTITY);
    let first = client.patient_round_robin(&cluster, &cluster.nodes, 20).await;
    assert_eq!(first.admitted(), 20);

    cluster.nodes[2].kill();
    cluster.nodes[..2].iter().for_each(Node::pause);
    cluster.nodes[2].start();
    let node = &cluster.nodes[2];
    wait_until("it calls its seeds again and again", DEADLINE, async || {
        let sent = node
            .metric("weir_gossip_datagrams_total", "direction=\"sent\"")
            .await?;
        if is_ready(node.admin()).await {
            panic!("ready with {sent} datagrams sent and nothing heard");
        }
        if sent >= 8.0 {
            Ok(())
        } else {
            Err(format!("{sent} datagrams"))
        }
    })
    .await;

    cluster.nodes[..2].iter().for_each(Node::resume);
    ready_with(&mut cluster.nodes[2], 20).await;
    let answer = client.get(&cluster.nodes[2]).await;
    assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS);
}

/// Waits until `node` is ready; it then knows at least `known` hits, at its very first "ready".
async fn ready_with(node: &mut Node, known: u64) {
    node.ready().await;
    let total = total(node.admin()).await.expect("the admin API answers");
    assert!(total >= known, "ready with {total} of {known} hits");
}

#[derive(Clone, Copy)]
struct Address {
    listen: SocketAddr,
    admin: SocketAddr,
}

impl Address {
    fn of(node: &Node) -> Self {
        Self {
            listen: node.listen(),
            admin: node.admin(),
        }
    }
}

/// One client behind a balancer that asks a node whether it is ready before each request. Where the
/// connection has gone it reconnects, elsewhere if need be, as RFC 9112, 9.3.1 lets it with a GET.
struct Caller {
    client: Client,
    nodes: Vec<Address>,
    turn: usize,
    /// By node and whether it was admitted.
    answers: BTreeMap<(String, bool), u64>,
    /// How often a node was not ready or its connection broke.
    turned_away: u64,
}

impl Caller {
    /// Calls as long as less than the allowance was admitted, until each node has denied three times.
    /// Every node that takes requests gets the time to hear of each before the next one.
    async fn call_until_denied(
        &mut self,
        upstream: &Upstream,
        mut allowance: watch::Receiver<u64>,
        known: &watch::Sender<u64>,
    ) {
        let denials = |caller: &Self| {
            let denied = caller.answers.iter().filter(|((_, admitted), _)| !admitted);
            denied.filter(|(_, count)| **count >= 3).count()
        };
        while denials(self) < self.nodes.len() {
            let admitted = self.admitted();
            let more = allowance.wait_for(|allowed| *allowed > admitted).await;
            drop(more.expect("the sender outlives the calls"));
            self.call().await;
            assert_eq!(
                self.admitted(),
                upstream.count(IDENTITY),
                "each was admitted once"
            );
            self.all_know(self.admitted()).await;
            known.send_replace(self.admitted());
        }
    }

    /// One request, answered with 200 or 429 by a node that is ready.
    async fn call(&mut self) {
        for _ in 0..self.nodes.len() * 2 {
            let node = self.nodes[self.turn % self.nodes.len()];
            self.turn += 1;
            if !is_ready(node.admin).await {
                self.turned_away += 1;
                continue;
            }
            match self.client.try_get(node.listen).await {
                Ok(answer) => {
                    let id = answer.node().expect("nodes name themselves").to_owned();
                    let admitted = match answer.status {
                        StatusCode::OK => true,
                        StatusCode::TOO_MANY_REQUESTS => false,
                        other => panic!("node {id} answered {other}"),
                    };
                    *self.answers.entry((id, admitted)).or_default() += 1;
                    return;
                }
                Err(_) => self.turned_away += 1,
            }
        }
        panic!("no node took the request");
    }

    fn admitted(&self) -> u64 {
        let admitted = self.answers.iter().filter(|((_, admitted), _)| *admitted);
        admitted.map(|(_, count)| count).sum()
    }

    async fn all_know(&self, admitted: u64) {
        for node in &self.nodes {
            wait_until(
                "a node that takes requests knows them all",
                DEADLINE,
                async || {
                    if !is_ready(node.admin).await {
                        return Ok(());
                    }
                    // Gone between two questions: the next look will tell.
                    match total(node.admin).await? {
                        total if total == admitted => Ok(()),
                        total => Err(format!("{} knows {total} of {admitted}", node.admin)),
                    }
                },
            )
            .await;
        }
    }
}

async fn is_ready(admin: SocketAddr) -> bool {
    let answer = fetch(admin, "/readyz").await;
    answer.is_ok_and(|answer| answer.status == StatusCode::OK)
}

/// The hits of the only client that a node knows of.
async fn total(admin: SocketAddr) -> Result<u64, String> {
    let answer = fetch(admin, "/v1/limits?limit=1").await;
    let body = answer.map_err(|error| format!("{error:#}"))?.body;
    let limits: serde_json::Value = serde_json::from_slice(&body).map_err(|error| error.to_string())?;
    Ok(limits["limits"][0]["total"].as_u64().unwrap_or(0))
}
