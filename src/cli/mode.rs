//! `weir mode`: switches the sync mode of a whole running cluster, and waits until every node knows.

use std::time::Duration;

use anyhow::bail;
use bytes::Bytes;
use http::{HeaderMap, Method};

use crate::admin::views::{ModeView, NodeState, NodeView, PeersView};
use crate::limit::SyncMode;

use super::args::ModeArgs;
use super::http::{Client, admin_headers, success};

/// How long the switch may take to reach every live node: fifty rounds of gossip at its default pace.
const SPREAD_TIMEOUT: Duration = Duration::from_secs(5);

/// Pause between two looks at the cluster.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Switches the cluster of the node at `--admin`, and prints how many nodes know, and from when on the mode is
/// in force.
///
/// # Errors
/// The node refuses or does not answer, or some live node still reports another mode after 5 seconds;
/// the switch itself stands, and goes on spreading.
pub async fn run(args: &ModeArgs) -> anyhow::Result<()> {
    let headers = admin_headers(args.token.as_deref())?;
    let mut client = Client::new(&args.admin.to_string())?;
    let body = Bytes::from(serde_json::json!({"mode": args.mode}).to_string());
    let answer = client
        .request(Method::PUT, "/v1/mode", headers.clone(), body)
        .await?;
    let answer: ModeView = success(&answer)?.json()?;
    let nodes = await_everywhere(&mut client, &headers, answer.mode).await?;
    let noun = if nodes == 1 { "node" } else { "nodes" };
    println!("{}", report(&answer, nodes, noun));
    Ok(())
}

fn report(answer: &ModeView, nodes: usize, noun: &str) -> String {
    let mode = answer.mode;
    match &answer.from {
        None => format!("mode {mode}, in force on {nodes} {noun}"),
        Some(from) => {
            format!("mode {mode}, known on {nodes} {noun}; in force for windows that start after {from}")
        }
    }
}

/// Polls until no live node lags, and returns how many there are.
async fn await_everywhere(client: &mut Client, headers: &HeaderMap, mode: SyncMode) -> anyhow::Result<usize> {
    let mut lagging = Vec::new();
    let polling = async {
        loop {
            let answer = client
                .request(Method::GET, "/v1/peers", headers.clone(), Bytes::new())
                .await?;
            let peers: PeersView = success(&answer)?.json()?;
            lagging = laggards(&peers, mode);
            if lagging.is_empty() {
                return anyhow::Ok(live_nodes(&peers).count());
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    };
    match tokio::time::timeout(SPREAD_TIMEOUT, polling).await {
        Ok(nodes) => nodes,
        Err(_) => bail!(
            "mode {mode} is set, but after {SPREAD_TIMEOUT:?} not yet in force on: {}",
            lagging.join(", ")
        ),
    }
}

/// The live nodes that do not report `mode`, with what they report.
fn laggards(peers: &PeersView, mode: SyncMode) -> Vec<String> {
    let lagging = live_nodes(peers).filter(|node| node.mode != Some(mode));
    let describe = |node: &NodeView| match node.mode {
        Some(other) => format!("{} (still {other})", node.node_id),
        None => format!("{} (mode unknown)", node.node_id),
    };
    lagging.map(describe).collect()
}

fn live_nodes(peers: &PeersView) -> impl Iterator<Item = &NodeView> {
    let others = peers.peers.iter().filter(|node| node.state == NodeState::Live);
    std::iter::once(&peers.this.node).chain(others)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::views::SelfView;

    fn node(id: &str, state: NodeState, mode: Option<SyncMode>) -> NodeView {
        NodeView {
            node_id: id.to_owned(),
            generation: 1,
            gossip_address: None,
            admin_address: None,
            listen_address: None,
            state,
            last_row_age_ms: None,
            clock_offset_ms: None,
            config_digest: None,
            config_matches: true,
            version: None,
            mode,
        }
    }

    #[test]
    fn a_switch_waits_for_live_nodes_only_and_names_those_that_lag() {
        let local = Some(SyncMode::Local);
        let peers = PeersView {
            this: SelfView {
                node: node("a", NodeState::Live, local),
                ready: true,
                gossip_key: None,
                gossip_keys: 0,
                frame_version: 2,
            },
            peers: vec![
                node("b", NodeState::Live, local),
                node("c", NodeState::Dead, Some(SyncMode::Gossip)),
                node("d", NodeState::Live, Some(SyncMode::Gossip)),
                node("e", NodeState::Live, None),
            ],
        };
        assert_eq!(
            laggards(&peers, SyncMode::Local),
            ["d (still gossip)", "e (mode unknown)"]
        );
        assert_eq!(live_nodes(&peers).count(), 4);
        let mut answer = ModeView {
            mode: SyncMode::Bounded,
            version: 1,
            from: Some("2026-01-05T12:00:05Z".to_owned()),
        };
        assert_eq!(
            report(&answer, 4, "nodes"),
            "mode bounded, known on 4 nodes; in force for windows that start after 2026-01-05T12:00:05Z"
        );
        answer.from = None;
        assert_eq!(report(&answer, 1, "node"), "mode bounded, in force on 1 node");
    }
}
