//! The gossip key rotates on live processes: added everywhere, promoted everywhere, the old one removed
//! everywhere, and not one datagram is refused.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cluster_tests::cluster::sees;
use cluster_tests::{Client, Cluster, DEADLINE, Node, binary, wait_until};
use hyper::StatusCode;
use tokio::task::JoinHandle;

/// A mounted Secret as the kubelet keeps it: the file is a link through `..data`, which is replaced as a
/// whole.
struct Secret {
    directory: PathBuf,
    revision: u32,
}

impl Secret {
    fn new(directory: &Path, keys: &[&str]) -> Self {
        fs::create_dir_all(directory).expect("the temporary directory is writable");
        let mut secret = Self {
            directory: directory.to_owned(),
            revision: 0,
        };
        secret.update(keys);
        symlink("..data/keys", secret.file()).expect("a link can be made");
        secret
    }

    fn file(&self) -> PathBuf {
        self.directory.join("keys")
    }

    fn update(&mut self, keys: &[&str]) {
        self.revision += 1;
        let revision = format!("..revision-{}", self.revision);
        fs::create_dir(self.directory.join(&revision)).expect("writable");
        fs::write(self.directory.join(&revision).join("keys"), keys.concat()).expect("writable");
        let staged = self.directory.join("..data_tmp");
        symlink(&revision, &staged).expect("a link can be made");
        fs::rename(&staged, self.directory.join("..data")).expect("a link can be replaced");
    }
}

#[tokio::test]
async fn a_rotation_of_the_gossip_key_refuses_not_one_datagram() {
    let directory = tempfile::tempdir().expect("the temporary directory is writable");
    let [old, new] = [keygen(), keygen()];
    // Each node has its own mount, and they change one after the other.
    let mut secrets: Vec<Secret> = ["a", "b", "c"]
        .map(|name| Secret::new(&directory.path().join(name), &[&old]))
        .into();
    let mut cluster = Cluster::with_limit(40).nodes(0).start().await;
    for secret in &secrets {
        let file = secret.file();
        cluster.join_with(&["--gossip-key-file", file.to_str().expect("a plain path")]);
    }
    cluster.formed().await;
    let load = Load::start(&cluster);
    let mut client = Client::new("client");
    let mut admitted = 0;
    let steps: [(&[&str], usize); 3] = [(&[&old, &new], 2), (&[&new, &old], 2), (&[&new], 1)];
    let first_key = sealing(&cluster.nodes[0]).await;
    for (keys, count) in steps {
        for (node, secret) in cluster.nodes.iter().zip(&mut secrets) {
            secret.update(keys);
            let promoted = keys[0] == new;
            wait_until("the node follows its Secret", DEADLINE, async || {
                let own = &node.json("/v1/peers").await?["self"];
                let is_old = own["gossip_key"] == first_key;
                if own["gossip_keys"] == count && is_old != promoted {
                    Ok(())
                } else {
                    Err(own.to_string())
                }
            })
            .await;
            // In every state between two steps all hear each other.
            admitted += client
                .patient_round_robin(&cluster, &cluster.nodes, 3)
                .await
                .admitted();
        }
    }
    let rest = client.patient_round_robin(&cluster, &cluster.nodes, 18).await;
    assert_eq!((admitted + rest.admitted(), rest.denied()), (40, 5));
    let clients = load.stop().await;
    println!("{} clients under load", clients.len());
    for (identity, admitted) in &clients {
        assert!(*admitted >= 40, "{identity}: {admitted}");
        assert_eq!(cluster.upstream.count(identity), *admitted);
    }
    let (last, _) = clients.last().expect("some client was served");
    cluster.settled(last).await;
    cluster.formed().await;
    for node in &cluster.nodes {
        let dropped = node.metric("weir_gossip_dropped_total", "").await;
        assert_eq!(dropped.expect("/metrics answers"), 0.0, "at node {}", node.id());
    }

    // Whoever missed the rotation is outside, and named.
    let late = Secret::new(&directory.path().join("late"), &[&old]).file();
    let late = late.to_str().expect("a plain path");
    cluster
        .join_with(&["--gossip-key-file", late, "--join-grace", "500ms"])
        .ready()
        .await;
    let member = &cluster.nodes[0];
    wait_until("the old key is refused", DEADLINE, async || {
        match member.metric("weir_gossip_dropped_total", "unknown_key").await? {
            0.0 => Err("none was dropped".to_owned()),
            _ => Ok(()),
        }
    })
    .await;
    sees(&cluster.nodes[3], &[] as &[&str]).await;
}

/// Requests without a pause, by one client after the other, so that counts are on their way at each
/// change of a key.
struct Load {
    stopped: Arc<AtomicBool>,
    caller: JoinHandle<Vec<(String, u64)>>,
}

impl Load {
    fn start(cluster: &Cluster) -> Self {
        let nodes: Vec<_> = cluster.nodes.iter().map(Node::listen).collect();
        let stopped = Arc::new(AtomicBool::new(false));
        let done = Arc::clone(&stopped);
        let caller = tokio::spawn(async move {
            let mut clients = Vec::new();
            while !done.load(Ordering::Relaxed) {
                let mut client = Client::new(format!("load {}", clients.len()));
                let mut admitted = 0;
                for &node in nodes.iter().cycle() {
                    match client.try_get(node).await.expect("an answer comes").status {
                        StatusCode::OK => admitted += 1,
                        StatusCode::TOO_MANY_REQUESTS => break,
                        other => panic!("{node} answered {other}"),
                    }
                }
                clients.push((client.identity().to_owned(), admitted));
            }
            clients
        });
        Self { stopped, caller }
    }

    /// Stops, and tells how many requests of each client were admitted.
    async fn stop(self) -> Vec<(String, u64)> {
        self.stopped.store(true, Ordering::Relaxed);
        self.caller.await.expect("every request was answered")
    }
}

async fn sealing(node: &Node) -> serde_json::Value {
    let peers = node.json("/v1/peers").await.expect("the admin API answers");
    peers["self"]["gossip_key"].clone()
}

fn keygen() -> String {
    String::from_utf8(binary::run(&["keygen"]).stdout).expect("a key is text")
}
