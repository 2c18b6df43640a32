//! Nodes that know each other, in front of one upstream.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tokio::time::sleep;

use crate::builder::{ClusterBuilder, seeds};
use crate::wait::POLL;
use crate::{DEADLINE, Network, Node, Upstream, Window, Wire, wait_until};

/// A running cluster. Dropping it kills every process; after a failure it prints their logs.
#[derive(Debug)]
pub struct Cluster {
    /// The nodes `a`, `b`, `c`, … in order of their start.
    pub nodes: Vec<Node>,
    /// What they forward to.
    pub upstream: Upstream,
    pub(crate) wire: Option<Wire>,
    pub(crate) builder: ClusterBuilder,
    pub(crate) directory: TempDir,
    pub(crate) network: Option<Network>,
    /// What the nodes call each client: the hash by identity.
    pub(crate) keys: Mutex<HashMap<String, Value>>,
}

impl Cluster {
    /// A cluster of three nodes in `gossip` mode, unless the builder is told otherwise, that admits
    /// `limit` requests a year to each client.
    ///
    /// A year, since no scenario then meets the end of its window, and counts are exact.
    #[must_use]
    pub fn with_limit(limit: u64) -> ClusterBuilder {
        ClusterBuilder::with_limit(limit)
    }

    /// The network on whose hosts the nodes run.
    ///
    /// # Panics
    /// The builder was not told to make one: see [`ClusterBuilder::on_hosts`].
    #[must_use]
    pub fn network(&self) -> &Network {
        self.network.as_ref().expect("a cluster on hosts")
    }

    /// What is between the nodes.
    ///
    /// # Panics
    /// The builder was not told to put a wire there: see [`ClusterBuilder::wired`].
    #[must_use]
    pub fn wire(&self) -> &Wire {
        self.wire.as_ref().expect("a wired cluster")
    }

    /// Has the configuration file of every node say `yaml` from now on.
    ///
    /// # Panics
    /// The cluster was started without one, or its directory is not writable.
    pub fn configure(&self, yaml: &str) {
        let file = self.directory.path().join(crate::builder::CONFIG_FILE);
        let former = std::fs::read(&file).expect("the file can be read");
        assert!(!former.is_empty(), "the nodes have no configuration file");
        std::fs::write(file, yaml).expect("the directory is writable");
    }

    /// Where clients connect, node by node.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(Node::listen).collect()
    }

    /// Starts one more node, with the flags of the others, and does not wait for it.
    ///
    /// # Panics
    /// There are 26 nodes already.
    pub fn join(&mut self) -> &mut Node {
        let args = self.builder.further_args();
        self.join_instead(args)
    }

    /// Starts one more node that calls the others with `args` in place of what [`ClusterBuilder::args`]
    /// gave them, and does not wait for it.
    ///
    /// # Panics
    /// There are 26 nodes already.
    pub fn join_with(&mut self, args: &[&str]) -> &mut Node {
        self.join_instead(args.iter().map(|&arg| arg.to_owned()).collect())
    }

    /// Waits until every node that was not stopped knows all that was admitted to `identity`.
    ///
    /// # Panics
    /// That takes longer than [`DEADLINE`].
    pub async fn settled(&self, identity: &str) {
        let admitted = self.upstream.count(identity);
        let what = format!("every node knows the {admitted} hits of {identity}");
        wait_until(&what, DEADLINE, async || {
            let mut views = Vec::new();
            for node in self.nodes.iter().filter(|node| node.is_started()) {
                views.push(node.json("/v1/limits?limit=1000").await?);
            }
            let limits = || {
                views
                    .iter()
                    .flat_map(|view| view["limits"].as_array().into_iter().flatten())
            };
            // A node that heard of a client by gossip first knows it only by its hash.
            let mut keys = self.keys.lock().expect("no holder of this lock panics");
            if let Some(named) = limits().find(|limit| limit["name"] == identity) {
                keys.insert(identity.to_owned(), named["key"].clone());
            }
            let key = keys.get(identity).ok_or("no node has ever named it")?;
            // A rule may have several windows, and the client counts the same in each.
            let totals: Vec<u64> = limits()
                .filter(|limit| limit["key"] == *key)
                .filter_map(|limit| limit["total"].as_u64())
                .collect();
            if totals.len() >= views.len() && totals.iter().all(|&total| total == admitted) {
                Ok(())
            } else {
                Err(format!("the nodes know {totals:?}"))
            }
        })
        .await;
    }

    /// Waits for a window, of those that last `length`, of which every started node has a share, and gives it. No
    /// more than `windows` pass until then.
    ///
    /// # Panics
    /// Some node has none for so long; the message says what keeps it.
    pub async fn shared_window(&self, length: Duration, windows: usize) -> Window {
        let mut window = Window::in_progress(length);
        let mut missing = Vec::new();
        for _ in 0..=windows {
            window = window.next();
            window.starts().await;
            missing = self.without_share(window).await;
            if missing.is_empty() {
                return window;
            }
        }
        panic!("after {windows} windows of {length:?}, nodes without a share: {missing:?}");
    }

    /// The started nodes that have no share of `window`, which is in progress, with the reasons. What is decided
    /// at all is decided when it starts; a node that has not come to it yet gets until the middle.
    async fn without_share(&self, window: Window) -> Vec<String> {
        loop {
            let mut missing = Vec::new();
            for node in self.nodes.iter().filter(|node| node.is_started()) {
                if let Err(why) = node.has_share(window).await {
                    missing.push(format!("{}: {why}", node.id()));
                }
            }
            if missing.is_empty() || window.left() < window.length / 2 {
                return missing;
            }
            sleep(POLL).await;
        }
    }

    fn join_instead(&mut self, args: Vec<String>) -> &mut Node {
        let builder = self.builder.clone().only_args(args);
        let index = self.nodes.len();
        let (directory, network) = (self.directory.path(), self.network.as_ref());
        let node = builder.node(index, directory, &self.upstream, self.wire.as_mut(), network);
        self.nodes.push(node.with_args(seeds(&self.nodes)));
        let node = self.nodes.last_mut().expect("a node was just added");
        node.start();
        node
    }

    /// Waits until every node sees all others alive, and is ready.
    ///
    /// # Panics
    /// That takes longer than [`DEADLINE`], or a node ends.
    pub async fn formed(&mut self) {
        let all: Vec<String> = self.nodes.iter().map(|node| node.id().to_owned()).collect();
        for node in &mut self.nodes {
            node.ready().await;
            let others: Vec<String> = all.iter().filter(|id| *id != node.id()).cloned().collect();
            sees(node, &others).await;
        }
    }
}

/// Waits until the live peers of `node` are exactly `others`.
///
/// # Panics
/// They are not after [`DEADLINE`].
pub async fn sees(node: &Node, others: &[impl AsRef<str>]) {
    let expected: Vec<&str> = others.iter().map(AsRef::as_ref).collect();
    let what = format!("node {} sees {expected:?}", node.id());
    wait_until(&what, DEADLINE, async || {
        let live = node.peers("live").await?;
        if live == expected {
            Ok(())
        } else {
            Err(format!("it sees {live:?}"))
        }
    })
    .await;
}
