//! The cluster of the demo: an upstream and N nodes on free loopback ports.

use std::io::Write as _;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use http::StatusCode;
use serde_json::Value;
use tempfile::NamedTempFile;

use crate::cli::http::Client;

use super::process::Processes;
use super::scene::{Scene, config};

/// The request header that tells the demo's clients apart: the nodes count by it.
pub(super) const CLIENT_HEADER: &str = "x-client";

/// Longest wait for the cluster to agree on something: gossip needs a few rounds of 100 ms, shares the start of a
/// window of ten seconds, or of the one after it on a machine that stalls.
const AGREE_TIMEOUT: Duration = Duration::from_secs(25);

/// How often a node is asked meanwhile.
const POLL: Duration = Duration::from_millis(20);

/// The upstream and the nodes, once all nodes know each other.
#[derive(Debug)]
pub(super) struct Cluster {
    /// Address of the upstream.
    pub(super) upstream: String,
    /// The nodes, in order of their start.
    pub(super) nodes: Vec<Node>,
    /// What every node is configured with; deleted with this.
    _config: NamedTempFile,
}

/// Where a node can be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Node {
    /// Its name.
    pub(super) id: String,
    /// Where clients connect.
    pub(super) listen: String,
    /// The admin API.
    pub(super) admin: String,
}

impl Cluster {
    /// Starts everything, and returns when every node sees all others and is ready.
    pub(super) async fn start(
        processes: &mut Processes,
        nodes: u16,
        scenes: &[Scene],
    ) -> anyhow::Result<Self> {
        let echo = ["echo", "--listen", "127.0.0.1:0"].map(str::to_owned);
        let upstream = processes.start("the upstream", &echo, "listening on ").await?;
        let upstream = authority(&upstream).to_owned();
        let mut file =
            NamedTempFile::with_suffix(".yaml").context("cannot write the nodes' configuration")?;
        file.write_all(config(scenes, &upstream, nodes).as_bytes())?;
        let mut started: Vec<Node> = Vec::new();
        let ports: Vec<_> = (0..nodes)
            .map(|_| UdpSocket::bind("127.0.0.1:0"))
            .collect::<Result<_, _>>()?;
        let seeds: Vec<_> = ports
            .iter()
            .map(UdpSocket::local_addr)
            .collect::<Result<_, _>>()?;
        for (index, port) in (0..nodes).zip(ports) {
            let args = node_args(&name(index), port.local_addr()?, &seeds, file.path());
            // Held until now, so that no other node got it.
            drop(port);
            let what = format!("node {}", name(index));
            let line = processes.start(&what, &args, "weir: node ").await?;
            started.push(Node::parse(&line).with_context(|| format!("{what} announced `{line}`"))?);
        }
        let cluster = Self {
            upstream,
            nodes: started,
            _config: file,
        };
        cluster
            .agree(processes, "see all others and are ready", async |node| {
                node.is_ready_among(nodes).await
            })
            .await?;
        Ok(cluster)
    }

    /// Waits until every node has its share of the windows in progress.
    pub(super) async fn shares(&self, processes: &mut Processes) -> anyhow::Result<()> {
        self.agree(processes, "have a share", Node::has_shares).await
    }

    /// How many requests the upstream has received.
    pub(super) async fn upstream_requests(&self) -> anyhow::Result<u64> {
        let answer = Client::new(&self.upstream)?.get("/_echo/count").await?;
        let count: Value = answer.json()?;
        count["requests"]
            .as_u64()
            .with_context(|| format!("the upstream answered {count}"))
    }

    /// Waits until `holds` for every node.
    async fn agree(
        &self,
        processes: &mut Processes,
        what: &str,
        holds: impl AsyncFn(&Node) -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        let deadline = Instant::now() + AGREE_TIMEOUT;
        for node in &self.nodes {
            while !holds(node).await? {
                processes.check()?;
                if Instant::now() >= deadline {
                    bail!(
                        "not all nodes {what} after {AGREE_TIMEOUT:?}: node {} does not",
                        node.id
                    );
                }
                tokio::time::sleep(POLL).await;
            }
        }
        Ok(())
    }
}

impl Node {
    /// Reads what follows `weir: node ` in the line that a node prints when it listens.
    fn parse(line: &str) -> Option<Self> {
        let (id, rest) = line.split_once(" listening on ")?;
        let (listen, rest) = rest.split_once(", admin ")?;
        let (admin, _rest) = rest.split_once(", gossip ")?;
        Some(Self {
            id: id.to_owned(),
            listen: authority(listen).to_owned(),
            admin: authority(admin).to_owned(),
        })
    }

    async fn is_ready_among(&self, nodes: u16) -> anyhow::Result<bool> {
        let mut client = Client::new(&self.admin)?;
        if client.get("/readyz").await?.status != StatusCode::OK {
            return Ok(false);
        }
        let view: Value = client.get("/v1/peers").await?.json()?;
        let peers = view["peers"].as_array().map_or(&[][..], Vec::as_slice);
        let live = peers.iter().filter(|peer| peer["state"] == "live").count();
        Ok(live + 1 == usize::from(nodes))
    }

    async fn has_shares(&self) -> anyhow::Result<bool> {
        let view: Value = Client::new(&self.admin)?.get("/v1/roster").await?.json()?;
        let shares = view["shares"].as_array().map_or(&[][..], Vec::as_slice);
        Ok(!shares.is_empty() && shares.iter().all(|share| share["members"].is_u64()))
    }
}

/// Every node names all, itself included: none is the one that the others depend on.
fn node_args(id: &str, gossip: SocketAddr, seeds: &[SocketAddr], config: &Path) -> Vec<String> {
    let mut args = vec!["run".to_owned(), "--debug-headers".to_owned()];
    let mut flag = |name: &str, value: String| args.extend([name.to_owned(), value]);
    flag("--config", config.display().to_string());
    flag("--node-id", id.to_owned());
    for listener in ["--listen", "--admin"] {
        flag(listener, "127.0.0.1:0".to_owned());
    }
    flag("--gossip", gossip.to_string());
    // One request at a time is on its way; fifty nodes with a thread per core would only crowd it.
    flag("--workers", "1".to_owned());
    flag("--log", "warn".to_owned());
    for seed in seeds {
        flag("--seed", seed.to_string());
    }
    args
}

/// `a`, `b`, … `z`, `a1`, `b1`, …
fn name(index: u16) -> String {
    let letter = char::from(b'a' + u8::try_from(index % 26).expect("below 26"));
    match index / 26 {
        0 => letter.to_string(),
        round => format!("{letter}{round}"),
    }
}

/// `host:port` of what a child announced with or without a scheme.
fn authority(address: &str) -> &str {
    let address = address.trim();
    address.strip_prefix("http://").unwrap_or(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_announcement_tells_where_a_node_can_be_reached() {
        let line = "a listening on http://127.0.0.1:8000, admin http://127.0.0.1:8001, \
                    gossip 127.0.0.1:7946, mode gossip";
        let node = Node {
            id: "a".to_owned(),
            listen: "127.0.0.1:8000".to_owned(),
            admin: "127.0.0.1:8001".to_owned(),
        };
        assert_eq!(Node::parse(line), Some(node));
        assert_eq!(Node::parse("a listening on http://127.0.0.1:8000"), None);
    }

    #[test]
    fn every_node_has_a_name_of_its_own() {
        let names: std::collections::HashSet<String> = (0..50).map(name).collect();
        assert_eq!(names.len(), 50);
        assert_eq!(
            (name(0), name(25), name(26)),
            ("a".to_owned(), "z".to_owned(), "a1".to_owned())
        );
    }
}
