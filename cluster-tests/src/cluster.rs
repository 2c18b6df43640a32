//! Nodes that know each other, in front of one upstream.

use std::collections::HashMap;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tokio::time::sleep;

use crate::client::CLIENT_HEADER;
use crate::wait::POLL;
use crate::{DEADLINE, Network, Node, Upstream, Window, Wire, wait_until};

const CONFIG_FILE: &str = "weir.yaml";

/// A running cluster. Dropping it kills every process; after a failure it prints their logs.
#[derive(Debug)]
pub struct Cluster {
    /// The nodes `a`, `b`, `c`, … in order of their start.
    pub nodes: Vec<Node>,
    /// What they forward to.
    pub upstream: Upstream,
    wire: Option<Wire>,
    builder: ClusterBuilder,
    directory: TempDir,
    network: Option<Network>,
    /// What the nodes call each client: the hash by identity.
    keys: Mutex<HashMap<String, Value>>,
}

/// What a cluster is started with.
#[derive(Clone, Debug)]
pub struct ClusterBuilder {
    nodes: usize,
    mode: &'static str,
    workers: usize,
    limit: Option<String>,
    args: Vec<String>,
    /// What the configuration file of every node says.
    config: String,
    wire: Option<u64>,
    hosts: usize,
    /// Variables in the environment of some nodes.
    environments: HashMap<usize, Vec<(String, String)>>,
}

impl Cluster {
    /// A cluster of three nodes in `gossip` mode, unless the builder is told otherwise, that admits
    /// `limit` requests a year to each client.
    ///
    /// A year, since no scenario then meets the end of its window, and counts are exact.
    #[must_use]
    pub fn with_limit(limit: u64) -> ClusterBuilder {
        ClusterBuilder {
            nodes: 3,
            mode: "gossip",
            workers: 2,
            limit: Some(format!("{limit}/year")),
            args: Vec::new(),
            config: String::new(),
            wire: None,
            hosts: 0,
            environments: HashMap::new(),
        }
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
        let args = self.builder.args.clone();
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
        let builder = ClusterBuilder {
            args,
            ..self.builder.clone()
        };
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

impl ClusterBuilder {
    /// How many nodes: 1 to 26.
    #[must_use]
    pub fn nodes(self, nodes: usize) -> Self {
        Self { nodes, ..self }
    }

    /// The sync mode at start.
    #[must_use]
    pub fn mode(self, mode: &'static str) -> Self {
        Self { mode, ..self }
    }

    /// Worker threads of every node: 2 unless told otherwise.
    #[must_use]
    pub fn workers(self, workers: usize) -> Self {
        Self { workers, ..self }
    }

    /// Admits `hits` in each window of `period`, such as `10s`.
    #[must_use]
    pub fn limit(self, hits: u64, period: &str) -> Self {
        let limit = Some(format!("{hits}/{period}"));
        Self { limit, ..self }
    }

    /// Limits nothing.
    #[must_use]
    pub fn unlimited(self) -> Self {
        Self { limit: None, ..self }
    }

    /// What the configuration file of every node says.
    #[must_use]
    pub fn config(self, yaml: &str) -> Self {
        let config = yaml.to_owned();
        Self { config, ..self }
    }

    /// Runs every node on a host of its own, of a network with `hosts` hosts: see [`Network`]. The runtime of the
    /// caller may have no thread but its own.
    #[must_use]
    pub fn on_hosts(self, hosts: usize) -> Self {
        Self { hosts, ..self }
    }

    /// Sets variables of the environment of the node number `index`.
    #[must_use]
    pub fn environment(mut self, index: usize, variables: Vec<(String, String)>) -> Self {
        self.environments.insert(index, variables);
        self
    }

    /// Further flags of every node.
    #[must_use]
    pub fn args(mut self, args: &[&str]) -> Self {
        self.args.extend(args.iter().map(|&arg| arg.to_owned()));
        self
    }

    /// Puts a [`Wire`] between the nodes, whose choices follow from `seed`.
    #[must_use]
    pub fn wired(self, seed: u64) -> Self {
        Self {
            wire: Some(seed),
            ..self
        }
    }

    /// Starts the nodes, each with all others as seeds, and waits until they form a cluster.
    ///
    /// # Panics
    /// They do not within [`DEADLINE`].
    pub async fn start(self) -> Cluster {
        let mut cluster = self.launch().await;
        cluster.formed().await;
        cluster
    }

    /// Starts the nodes, each with all others as seeds, and does not wait for them.
    ///
    /// # Panics
    /// They cannot be started.
    pub async fn launch(self) -> Cluster {
        let directory = tempfile::tempdir().expect("the temporary directory is writable");
        fs::write(directory.path().join(CONFIG_FILE), &self.config)
            .expect("the temporary directory is writable");
        let network = (self.hosts > 0).then(|| Network::with_hosts(self.hosts));
        let upstream = match network {
            Some(_) => Upstream::start_at(Network::TEST.into()).await,
            None => Upstream::start().await,
        };
        let mut wire = self.wire.map(Wire::new);
        let nodes: Vec<Node> = (0..self.nodes)
            .map(|index| {
                self.node(
                    index,
                    directory.path(),
                    &upstream,
                    wire.as_mut(),
                    network.as_ref(),
                )
            })
            .collect();
        let seeds = seeds(&nodes);
        let mut cluster = Cluster {
            nodes: nodes
                .into_iter()
                .map(|node| node.with_args(seeds.clone()))
                .collect(),
            upstream,
            wire,
            builder: self,
            directory,
            network,
            keys: Mutex::default(),
        };
        cluster.nodes.iter_mut().for_each(Node::start);
        cluster
    }

    fn node(
        &self,
        index: usize,
        directory: &Path,
        upstream: &Upstream,
        wire: Option<&mut Wire>,
        network: Option<&Network>,
    ) -> Node {
        let letter = u8::try_from(index).ok().filter(|&index| index < 26);
        let id = char::from(b'a' + letter.expect("a cluster has at most 26 nodes")).to_string();
        let mut node = Node::new(&id, directory);
        if let Some(network) = network {
            node = node.on_host(network.host(index));
        }
        if let Some(wire) = wire {
            let advertised = wire.connect(node.gossip());
            node = node.advertising(advertised);
        }
        if let Some(variables) = self.environments.get(&index) {
            node.set_environment(variables.clone());
        }
        node.with_args(self.flags(directory, upstream))
            .with_args(self.args.clone())
    }

    /// The flags that all nodes have in common.
    fn flags(&self, directory: &Path, upstream: &Upstream) -> Vec<String> {
        let mut flags = vec!["--debug-headers".to_owned()];
        let mut flag = |name: &str, value: String| flags.extend([name.to_owned(), value]);
        flag("--upstream", format!("http://{}", upstream.address()));
        flag("--sync-mode", self.mode.to_owned());
        flag("--workers", self.workers.to_string());
        if let Some(limit) = &self.limit {
            flag("--limit", limit.clone());
            flag("--limit-by", format!("header:{CLIENT_HEADER}"));
        }
        if !self.config.is_empty() {
            flag("--config", directory.join(CONFIG_FILE).display().to_string());
        }
        flags
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

fn seeds(nodes: &[Node]) -> Vec<String> {
    nodes
        .iter()
        .flat_map(|node| ["--seed".to_owned(), node.advertised().to_string()])
        .collect()
}
