//! Whole cluster shells in one process, over real sockets on loopback.

#![expect(
    clippy::disallowed_methods,
    reason = "tests of a shell: real sockets, real clocks"
)]

use std::net::UdpSocket;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::limit::{Charge, Hits, KeyHash, Outcome, SyncMode, UnixMillis};
use crate::replica::Generation;

use super::keyring::GossipKey;
use super::*;

const DEADLINE: Duration = Duration::from_secs(20);

/// One gateway node without its HTTP side.
struct Node {
    cluster: ClusterHandle,
    limiter: Arc<Limiter>,
}

/// How a node is started.
#[derive(Clone)]
struct Setup<'a> {
    name: &'a str,
    cluster_id: &'a str,
    key: Option<String>,
    key_file: Option<PathBuf>,
    seeds: Vec<String>,
    limit: &'a str,
    mode: SyncMode,
}

fn setup(name: &str) -> Setup<'_> {
    Setup {
        name,
        cluster_id: "test",
        key: Some(key(1)),
        key_file: None,
        seeds: Vec::new(),
        limit: "5/day",
        mode: SyncMode::Gossip,
    }
}

impl Setup<'_> {
    fn joining(mut self, seed: &Node) -> Self {
        self.seeds = vec![seed.cluster.gossip_address().to_string()];
        self
    }

    fn config(&self) -> Config {
        let text = format!(
            "node_id: {}\ncluster: {{ id: {}, gossip: 127.0.0.1:0, gossip_interval: 100ms }}\n\
             rules: [{{ name: all, by: all, windows: [{}] }}]\n\
             upstreams: [{{ name: app, targets: ['http://127.0.0.1:9'] }}]\n\
             routes: [{{ name: all, upstream: app }}]\n",
            self.name, self.cluster_id, self.limit
        );
        let mut config = Config::from_yaml("test.yaml", &text).unwrap();
        config.cluster.seeds = self.seeds.clone();
        config.sync.mode = self.mode;
        config.bounded.min_roster = 2;
        config.bounded.skew = Duration::from_millis(50);
        config.cluster.key = self.key.clone().filter(|_| self.key_file.is_none());
        config.cluster.key_file = self.key_file.clone();
        config
    }

    fn start(&self) -> Node {
        let config = self.config();
        let sync = &config.sync;
        let limiter = Limiter::new(config.limits.rules.clone(), sync.mode, sync.significance, 4096);
        let limiter = Arc::new(limiter);
        let me = ReplicaId {
            node: config.node_id.clone(),
            generation: next_generation(),
        };
        let cluster = Cluster::start(&config, me, Arc::clone(&limiter)).unwrap();
        Node { cluster, limiter }
    }
}

impl Node {
    /// One request; `true` if it was admitted.
    fn request(&self) -> bool {
        let charge = Charge {
            rule: 0,
            key: KeyHash(7),
            hits: Hits::ONE,
        };
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let now = UnixMillis(u64::try_from(since_epoch.as_millis()).unwrap());
        let decision = self.limiter.check(&[charge], now);
        if decision.due.is_due() {
            drop(self.cluster.flusher().request());
        }
        decision.outcome == Outcome::Admitted
    }

    fn peers(&self) -> Vec<String> {
        let members = self.cluster.members();
        let peers = members.iter().filter(|member| member.live && !member.is_self);
        peers.map(|member| member.replica.node.to_string()).collect()
    }

    fn dropped_for(&self, reason: &str) -> u64 {
        self.cluster.status().transport.dropped_for(reason)
    }

    fn frames_received(&self) -> u64 {
        self.cluster.status().replication.frames_received
    }
}

fn key(seed: u64) -> String {
    GossipKey::generate(&mut StdRng::seed_from_u64(seed)).to_base64()
}

fn next_generation() -> Generation {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    Generation(NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Polls until `condition` holds.
async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {DEADLINE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn three_nodes() -> [Node; 3] {
    let a = setup("a").start();
    let b = setup("b").joining(&a).start();
    let c = setup("c").joining(&a).start();
    let nodes = [a, b, c];
    until("three nodes see each other", || {
        nodes.iter().all(|node| node.peers().len() == 2)
    })
    .await;
    for node in &nodes {
        node.cluster.wait_ready().await.unwrap();
    }
    nodes
}

#[tokio::test]
async fn three_nodes_find_each_other_and_keep_one_limit() {
    let nodes = three_nodes().await;
    assert!(nodes.iter().all(|node| node.cluster.replicas() == 3));
    let mut admitted = 0;
    for _ in 0..2 {
        for (index, node) in nodes.iter().enumerate() {
            admitted += u32::from(node.request());
            // The next request goes elsewhere once that node has heard of this one.
            let next = &nodes[(index + 1) % nodes.len()];
            until("the count arrives", || total(next) == u64::from(admitted)).await;
        }
    }
    assert_eq!(admitted, 5);
    assert!(nodes.iter().all(|node| !node.request()));
    let members = nodes[0].cluster.members();
    let digests: std::collections::BTreeSet<_> =
        members.iter().map(|m| &m.attributes.config_digest).collect();
    assert_eq!((members.len(), digests.len()), (3, 1));
}

/// The hits of the only row that `node` knows of.
fn total(node: &Node) -> u64 {
    let mut total = 0;
    node.limiter
        .counters()
        .for_each_live(|_, row| total += row.own + row.peers);
    total
}

#[tokio::test]
async fn a_joiner_is_ready_only_when_it_knows_what_was_counted() {
    let a = setup("a").start();
    (0..5).for_each(|_| assert!(a.request()));
    let b = setup("b").joining(&a).start();
    b.cluster.wait_ready().await.unwrap();
    assert_eq!(total(&b), 5);
    assert!(!b.request());
    let rows = {
        let mut rows = Vec::new();
        b.limiter.counters().for_each_live(|row, _| rows.push(row));
        b.cluster.row_counts(rows).await.unwrap()
    };
    let counts: Vec<_> = rows[0]
        .iter()
        .map(|count| (count.replica.node.to_string(), count.admitted))
        .collect();
    assert!(counts.contains(&("a".to_owned(), 5)), "{counts:?}");
}

#[tokio::test]
async fn strangers_are_refused_and_counted_by_reason() {
    let a = setup("a").start();
    let strangers = [
        (
            Setup {
                key: Some(key(2)),
                ..setup("b")
            },
            "unknown_key",
        ),
        (
            Setup {
                cluster_id: "other",
                ..setup("c")
            },
            "bad_tag",
        ),
        (
            Setup {
                key: None,
                ..setup("d")
            },
            "protection_mismatch",
        ),
    ];
    for (stranger, reason) in strangers {
        let _stranger = stranger.joining(&a).start();
        until(reason, || a.dropped_for(reason) > 0).await;
        assert_eq!(a.peers().len() + a.cluster.members().len(), 1, "{reason}");
    }
    let open = Setup {
        key: None,
        ..setup("e")
    }
    .start();
    let neighbour = Setup {
        key: None,
        cluster_id: "other",
        ..setup("f")
    };
    let _neighbour = neighbour.joining(&open).start();
    until("wrong cluster", || open.dropped_for("wrong_cluster") > 0).await;
    assert_eq!(open.cluster.members().len(), 1);
}

#[tokio::test]
async fn a_mode_set_on_one_node_reaches_all_and_those_that_join_later() {
    let [a, b, c] = three_nodes().await;
    let set = b.cluster.set_mode(SyncMode::Local).await.unwrap();
    assert_eq!((set.version, b.limiter.mode()), (1, SyncMode::Local));
    until("the mode spreads", || {
        [&a, &c].iter().all(|node| node.cluster.mode() == set)
    })
    .await;
    assert_eq!(a.limiter.mode(), SyncMode::Local);
    // The node that set it goes; those that heard of it tell on.
    b.cluster.leave(DEADLINE).await.unwrap();
    let late = setup("d").joining(&a).start();
    until("a joiner adopts the mode", || {
        late.limiter.mode() == SyncMode::Local
    })
    .await;
    let back = late.cluster.set_mode(SyncMode::Gossip).await.unwrap();
    assert_eq!(back.version, 2);
    until("the newer mode wins", || c.limiter.mode() == SyncMode::Gossip).await;
}

/// The divisors under which the nodes hold shares of their windows in progress.
async fn divisors(nodes: &[&Node]) -> Vec<Option<usize>> {
    let mut divisors = Vec::new();
    for node in nodes {
        let status = node.cluster.roster().await.unwrap();
        divisors.push(status.periods.first().and_then(|period| period.divisor));
    }
    divisors
}

async fn until_shared_by(nodes: &[&Node], divisor: usize) {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let divisors = divisors(nodes).await;
        if divisors.iter().all(|held| *held == Some(divisor)) {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "not shared by {divisor} within {DEADLINE:?}: {divisors:?}"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn three_nodes_in_bounded_mode_share_windows_and_one_that_leaves_names_an_heir() {
    let bounded = |name| Setup {
        limit: "30/second",
        mode: SyncMode::Bounded,
        ..setup(name)
    };
    let a = bounded("a").start();
    let [b, c] = ["b", "c"].map(|name| bounded(name).joining(&a).start());
    until_shared_by(&[&a, &b, &c], 3).await;
    let left = c.cluster.leave(DEADLINE).await.unwrap();
    assert_eq!(left, LeaveOutcome::Acknowledged, "the heir owns its rights");
    let wills = |node: &Node| {
        let members = node.cluster.members();
        let left = members
            .into_iter()
            .find(|member| member.replica.node.as_str() == "c");
        left.and_then(|member| member.attributes.estate.clone()?.will.clone())
    };
    let will = wills(&a).or_else(|| wills(&b)).expect("the will was published");
    let heir = [&a, &b].into_iter().find(|node| {
        let own = node.cluster.members().into_iter().find(|member| member.is_self);
        own.is_some_and(|member| member.replica == will.heir)
    });
    assert!(heir.is_some(), "{will:?}");
    until_shared_by(&[&a, &b], 2).await;
    let status = a.cluster.roster().await.unwrap();
    let departed = status
        .members
        .iter()
        .find(|member| member.departed_until.is_some());
    assert_eq!(departed.map(|member| member.replica.node.as_str()), Some("c"));
}

#[tokio::test]
async fn a_switch_to_bounded_mode_holds_for_windows_that_start_after_it_was_announced() {
    let gossip = |name| Setup {
        limit: "30/second",
        ..setup(name)
    };
    let a = gossip("a").start();
    let b = gossip("b").joining(&a).start();
    until("two nodes see each other", || {
        a.peers() == ["b"] && b.peers() == ["a"]
    })
    .await;
    assert!(!a.cluster.roster().await.unwrap().involved);
    let set = b.cluster.set_mode(SyncMode::Bounded).await.unwrap();
    until("the switch spreads", || a.cluster.mode() == set).await;
    let deadline = Instant::now() + DEADLINE;
    loop {
        until_shared_by(&[&a, &b], 2).await;
        let status = a.cluster.roster().await.unwrap();
        if status.periods[0].window.start > set.from {
            break;
        }
        assert!(Instant::now() < deadline, "{status:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(a.cluster.set_mode(SyncMode::Bounded).await.unwrap(), set);
    // Those that join later with the old mode in their files decide by the switch as it was announced, whoever
    // tells them.
    let first = gossip("0").joining(&a).start();
    until("a joiner adopts the switch", || first.cluster.mode() == set).await;
    let second = gossip("1").joining(&first).start();
    until("another one adopts it", || second.cluster.mode() == set).await;
    for joiner in [&first, &second] {
        let periods = joiner.limiter.bounded_periods(set.from);
        assert_eq!((joiner.limiter.mode(), periods.len()), (SyncMode::Bounded, 1));
    }
}

#[tokio::test]
async fn a_leaver_loses_no_count_and_is_gone_at_once() {
    let [a, b, c] = three_nodes().await;
    assert!(b.request());
    assert_eq!(
        b.cluster.leave(DEADLINE).await.unwrap(),
        LeaveOutcome::Acknowledged
    );
    assert_eq!((total(&a), total(&c)), (1, 1));
    until("the leaver is gone", || a.peers() == ["c"] && c.peers() == ["a"]).await;
    assert_eq!(a.cluster.replicas(), 2);
    let again = b.cluster.leave(DEADLINE).await;
    assert!(matches!(again, Err(ClusterError::Stopped(_))), "{again:?}");
}

#[tokio::test]
async fn a_restarted_node_takes_the_place_of_its_former_life() {
    let a = setup("a").start();
    let first = setup("b").joining(&a).start();
    until("the first life joins", || a.peers() == ["b"]).await;
    assert!(first.request());
    until("its count arrives", || total(&a) == 1).await;
    drop(first);
    let second = setup("b").joining(&a).start();
    second.cluster.wait_ready().await.unwrap();
    until("only the second life is live", || {
        let members = a.cluster.members();
        let lives: Vec<_> = members
            .iter()
            .filter(|m| m.replica.node.as_str() == "b")
            .collect();
        lives.len() == 2 && !lives[0].live && lives[1].live
    })
    .await;
    assert_eq!((total(&second), total(&a)), (1, 1));
    assert!(second.request());
    until("the new life counts on top", || total(&a) == 2).await;
}

#[tokio::test]
async fn keys_rotate_on_a_running_cluster_without_a_lost_datagram() {
    let folder = tempfile::tempdir().unwrap();
    let ring = |keys: &[u64]| keys.iter().map(|seed| key(*seed) + "\n").collect::<String>();
    let file = |name: &str| folder.path().join(name);
    let names = ["a", "b"];
    for name in names {
        std::fs::write(file(name), ring(&[1])).unwrap();
    }
    let with_file = |name| Setup {
        key_file: Some(file(name)),
        ..setup(name)
    };
    let a = with_file("a").start();
    let b = with_file("b").joining(&a).start();
    let nodes = [a, b];
    until("two nodes see each other", || {
        nodes.iter().all(|node| node.peers().len() == 1)
    })
    .await;
    let old = nodes[0].cluster.status().sealing_key.clone();
    for keys in [[1, 2].as_slice(), &[2, 1], &[2]] {
        for (node, name) in nodes.iter().zip(names) {
            let before: Vec<_> = nodes.iter().map(Node::frames_received).collect();
            std::fs::write(file(name), ring(keys)).unwrap();
            let promoted = keys[0] == 2;
            until("the node takes up its ring", || {
                let status = node.cluster.status();
                status.key_count == keys.len() && (status.sealing_key != old) == promoted
            })
            .await;
            let heard = |(node, before): (&Node, &u64)| node.frames_received() > before + 2;
            until("frames keep arriving", || nodes.iter().zip(&before).all(heard)).await;
        }
    }
    for node in &nodes {
        assert_eq!(node.dropped_for("unknown_key") + node.dropped_for("bad_tag"), 0);
        assert_eq!(node.peers().len(), 1);
    }
    // A bad file changes nothing.
    std::fs::write(file("a"), "not a key").unwrap();
    let before = nodes[0].frames_received();
    until("ten more ticks pass", || nodes[0].frames_received() > before + 30).await;
    assert_eq!(nodes[0].cluster.status().key_count, 1);
}

#[tokio::test]
async fn garbage_on_the_socket_changes_nothing_and_stops_nothing() {
    let a = Setup {
        key: None,
        ..setup("a")
    }
    .start();
    let b = Setup {
        key: None,
        ..setup("b")
    }
    .joining(&a)
    .start();
    until("two nodes see each other", || {
        a.peers() == ["b"] && b.peers() == ["a"]
    })
    .await;
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut rng = StdRng::seed_from_u64(5);
    let envelope = Envelope::open_to_all("test");
    let mut sent = 0;
    for round in 0..2_000_usize {
        let mut bytes = vec![0; round % 700];
        rand::RngCore::fill_bytes(&mut rng, &mut bytes);
        if let Some(channel) = bytes.first_mut() {
            *channel %= 4;
        }
        let mut datagram = Vec::new();
        envelope.seal(&mut rng, &[&bytes], &mut datagram);
        if round % 3 == 0 {
            datagram = bytes;
        }
        socket.send_to(&datagram, a.cluster.gossip_address()).unwrap();
        sent += 1;
        if sent % 50 == 0 {
            let seen = a.cluster.status().transport.datagrams_received;
            until("it keeps up", || {
                a.cluster.status().transport.datagrams_received > seen
            })
            .await;
        }
    }
    until("all kinds of garbage were refused", || {
        let refused = ["too_short", "unknown_version", "malformed"].map(|reason| a.dropped_for(reason));
        refused.iter().all(|count| *count > 0) && a.cluster.status().replication.frames_refused > 0
    })
    .await;
    assert!(a.request());
    until("counts still flow", || total(&b) == 1).await;
    assert_eq!(a.cluster.members().len(), 2);
}

#[test]
fn a_node_that_would_be_unreachable_or_open_to_strangers_does_not_start() {
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let start = |change: &dyn Fn(&mut Config)| {
        let mut config = setup("a").config();
        change(&mut config);
        let limiter = Limiter::new(Vec::new(), SyncMode::Gossip, config.sync.significance, 4096);
        let me = ReplicaId {
            node: config.node_id.clone(),
            generation: next_generation(),
        };
        Cluster::start(&config, me, Arc::new(limiter)).err()
    };
    let wildcard: SocketAddr = ([0, 0, 0, 0], 0).into();
    let bind = start(&|config| config.cluster.gossip = taken.local_addr().unwrap());
    assert!(matches!(bind, Some(ClusterError::Bind { .. })), "{bind:?}");
    let nowhere = start(&|config| config.cluster.gossip = wildcard);
    assert!(
        matches!(nowhere, Some(ClusterError::NothingToAdvertise(_))),
        "{nowhere:?}"
    );
    let open = start(&|config| {
        config.cluster.gossip = wildcard;
        config.cluster.advertise = Some(([127, 0, 0, 1], 0).into());
        config.cluster.key = None;
    });
    assert!(matches!(open, Some(ClusterError::OpenGossip(_))), "{open:?}");
    let bad_key = start(&|config| config.cluster.key = Some("x".to_owned()));
    assert!(
        matches!(bad_key, Some(ClusterError::Keyring { .. })),
        "{bad_key:?}"
    );
    let no_file = start(&|config| config.cluster.key_file = Some("/nonexistent/keys".into()));
    assert!(
        matches!(no_file, Some(ClusterError::KeyFile { .. })),
        "{no_file:?}"
    );
    assert!(start(&|_| ()).is_none());
}
