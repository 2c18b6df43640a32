//! Nodes that know each other, in front of one upstream.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Mutex;

use serde_json::Value;
use tempfile::TempDir;

use crate::client::CLIENT_HEADER;
use crate::{DEADLINE, Node, Upstream, Wire, wait_until};

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
    /// What the nodes call each client: the hash by identity.
    keys: Mutex<HashMap<String, Value>>,
}

/// What a cluster is started with.
#[derive(Clone, Debug)]
pub struct ClusterBuilder {
    nodes: usize,
    mode: &'static str,
    limit: String,
    args: Vec<String>,
    wire: Option<u64>,
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
            limit: format!("{limit}/year"),
            args: Vec::new(),
            wire: None,
        }
    }

    /// What is between the nodes.
    ///
    /// # Panics
    /// The builder was not told to put a wire there: see [`ClusterBuilder::wired`].
    #[must_use]
    pub fn wire(&self) -> &Wire {
        self.wire.as_ref().expect("a wired cluster")
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

    fn join_instead(&mut self, args: Vec<String>) -> &mut Node {
        let builder = ClusterBuilder {
            args,
            ..self.builder.clone()
        };
        let index = self.nodes.len();
        let node = builder.node(index, self.directory.path(), &self.upstream, self.wire.as_mut());
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
        let directory = tempfile::tempdir().expect("the temporary directory is writable");
        let upstream = Upstream::start().await;
        let mut wire = self.wire.map(Wire::new);
        let nodes: Vec<Node> = (0..self.nodes)
            .map(|index| self.node(index, directory.path(), &upstream, wire.as_mut()))
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
            keys: Mutex::default(),
        };
        cluster.nodes.iter_mut().for_each(Node::start);
        cluster.formed().await;
        cluster
    }

    fn node(&self, index: usize, directory: &Path, upstream: &Upstream, wire: Option<&mut Wire>) -> Node {
        let index = u8::try_from(index).ok().filter(|&index| index < 26);
        let id = char::from(b'a' + index.expect("a cluster has at most 26 nodes")).to_string();
        let flags = [
            ("--upstream", format!("http://{}", upstream.address())),
            ("--limit", self.limit.clone()),
            ("--limit-by", format!("header:{CLIENT_HEADER}")),
            ("--sync-mode", self.mode.to_owned()),
            ("--workers", "2".to_owned()),
        ];
        let node = Node::new(&id, directory);
        let node = match wire {
            Some(wire) => {
                let advertised = wire.connect(node.gossip());
                node.advertising(advertised)
            }
            None => node,
        };
        node.with_args(
            flags
                .into_iter()
                .flat_map(|(flag, value)| [flag.to_owned(), value]),
        )
        .with_args(["--debug-headers".to_owned()])
        .with_args(self.args.clone())
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
