//! What a cluster is started with.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::sync::Mutex;

use crate::client::CLIENT_HEADER;
use crate::{Cluster, Network, Node, Upstream, Wire};

/// The configuration file, in the cluster's directory.
pub(crate) const CONFIG_FILE: &str = "weir.yaml";

/// What a cluster is started with.
#[derive(Clone, Debug)]
pub struct ClusterBuilder {
    nodes: usize,
    mode: &'static str,
    workers: usize,
    drain_delay: &'static str,
    limit: Option<String>,
    args: Vec<String>,
    /// What the configuration file of every node says.
    config: String,
    wire: Option<u64>,
    hosts: usize,
    /// Variables in the environment of some nodes.
    environments: HashMap<usize, Vec<(String, String)>>,
}

impl ClusterBuilder {
    /// See [`Cluster::with_limit`].
    pub(crate) fn with_limit(limit: u64) -> Self {
        Self {
            nodes: 3,
            mode: "gossip",
            workers: 2,
            drain_delay: "0s",
            limit: Some(format!("{limit}/year")),
            args: Vec::new(),
            config: String::new(),
            wire: None,
            hosts: 0,
            environments: HashMap::new(),
        }
    }

    /// The further flags.
    pub(crate) fn further_args(&self) -> Vec<String> {
        self.args.clone()
    }

    /// These further flags in place of those given before.
    pub(crate) fn only_args(self, args: Vec<String>) -> Self {
        Self { args, ..self }
    }

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

    /// How long a node that gets SIGTERM serves on: not at all unless told otherwise.
    #[must_use]
    pub fn drain_delay(self, drain_delay: &'static str) -> Self {
        Self { drain_delay, ..self }
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
    /// They do not within [`DEADLINE`](crate::DEADLINE).
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

    /// The node number `index`, not started yet.
    pub(crate) fn node(
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
        flag("--drain-delay", self.drain_delay.to_owned());
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

/// Flags by which a node knows `nodes`.
pub(crate) fn seeds(nodes: &[Node]) -> Vec<String> {
    nodes
        .iter()
        .flat_map(|node| ["--seed".to_owned(), node.advertised().to_string()])
        .collect()
}
