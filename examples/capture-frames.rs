//! Captures real frames: runs replication cores over a lossy network without sockets or clocks, and writes
//! what they sent as the compatibility corpus (`cluster-tests/frames/vN`) and as seeds of the fuzz targets
//! (`fuzz/corpus`). Captures that exist are never overwritten: what a version said once, it said.

#[path = "../tests/frames/describe.rs"]
mod describe;

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;
use weir::bounded::{Membership, ShareTable};
use weir::cluster::fragment;
use weir::cluster::keyring::Keyring;
use weir::cluster::seal::Envelope;
use weir::limit::significance::Significance;
use weir::limit::{Charge, CountBy, Hits, KeyHash, Limiter, Now, Rule, SyncMode, UnixMillis};
use weir::replica::{Generation, ReplicaId};
use weir::replication::codec::{Body, Delta, FRAME_VERSION, Frame, TransferKind, decode};
use weir::replication::{Replication, ReplicationConfig};

/// That of the fuzz target `replication`, so that the rows of the seeds are in time there.
const EPOCH: UnixMillis = UnixMillis(1_767_614_400_000);
/// The keys of the fuzz target `envelope`.
const RING: &str =
    "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=\nCAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAg=\n";
/// That of the fuzz target `replication`.
const SPREAD: u128 = 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835;
/// Captures of one kind of frame.
const PER_KIND: usize = 2;
/// Largest seed of a session: what the fuzz targets take in.
const SESSION_BYTES_MAX: usize = 8_000;

fn main() -> io::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut cluster = Virtual::default();
    cluster.play();
    let frames = cluster.captured();
    let folder = root.join(format!("cluster-tests/frames/v{FRAME_VERSION}"));
    let corpus = root.join("fuzz/corpus");
    for (name, bytes, frame) in &frames {
        let text = serde_json::to_string_pretty(&describe::describe(frame))?;
        write_new(&folder.join(format!("{name}.bin")), bytes)?;
        write_new(
            &folder.join(format!("{name}.json")),
            format!("{text}\n").as_bytes(),
        )?;
        write_new(
            &corpus.join("frame").join(format!("v{FRAME_VERSION}-{name}")),
            bytes,
        )?;
    }
    for (name, session) in cluster.sessions {
        write_new(&corpus.join("replication").join(name), &session)?;
    }
    let some_frame = frames
        .first()
        .map(|(_, bytes, _)| bytes.as_slice())
        .unwrap_or_default();
    envelope_seeds(&corpus.join("envelope"), some_frame)?;
    fragment_seeds(&corpus.join("fragment"))?;
    text_seeds(root, &corpus)
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if path.exists() {
        return Ok(());
    }
    fs::create_dir_all(path.parent().unwrap_or(path))?;
    fs::write(path, bytes)
}

struct Member {
    id: ReplicaId,
    limiter: Limiter,
    core: Replication,
    shares: Arc<ShareTable>,
    alive: bool,
}

/// Nodes, the datagrams between them, and all that was sent.
#[derive(Default)]
struct Virtual {
    members: Vec<Member>,
    wire: VecDeque<(usize, Vec<u8>)>,
    sent: Vec<Vec<u8>>,
    at: Duration,
    sessions: BTreeMap<&'static str, Vec<u8>>,
}

impl Virtual {
    /// A life of a cluster: growth, loss, a crash, a rejoin from nothing.
    fn play(&mut self) {
        for index in 0..3 {
            self.join(index);
        }
        self.gossip(4, 0);
        self.move_rights();
        for round in 0..6 {
            for (node, key) in [
                (0, 1),
                (1, 1),
                (2, 2),
                (0, 30 + round),
                (1, 40 + round),
                (2, 50 + round),
            ] {
                self.hit(node, key, 3);
            }
            self.gossip(3, 3);
        }
        // It is told of small logs, several in a frame.
        self.join(3);
        self.gossip(5, 0);
        // Enough rows, released twice, for logs to be compacted.
        for round in 0..2 {
            for key in 1_000..4_000 {
                self.hit(0, key, 12 + round);
                self.hit(2, key, 11);
            }
            self.gossip(6, 7);
        }
        // One datagram in two is lost when it dies: what came behind a gap is adopted by those that hold it.
        for round in 0..4 {
            for key in 0..40 {
                self.hit(2, 100 + 40 * round + key, 15);
            }
            self.gossip(1, 2);
        }
        self.members[2].alive = false;
        self.announce();
        self.gossip(12, 4);
        self.join(4);
        self.gossip(40, 0);
    }

    /// Bounded rows: one node runs out of rights, asks the others, and grants some on.
    fn move_rights(&mut self) {
        let members: Vec<_> = self.members.iter().map(|member| member.id.clone()).collect();
        for member in &mut self.members {
            let membership = Membership::try_new(EPOCH, &member.id, members.clone());
            member.shares.replace(membership.map(Arc::new));
            member.core.reassess(EPOCH);
        }
        for (node, key, times) in [(0, 7, 9), (1, 7, 9), (0, 8, 9), (2, 7, 9), (0, 9, 5), (1, 8, 9)] {
            self.hit_rule(node, 2, key, times);
            self.gossip(1, 0);
        }
        for key in 10..14 {
            self.hit_rule(0, 2, key, 6);
        }
        // All of one key is spent: whoever is asked has nothing.
        for node in [0, 1, 2, 0] {
            self.hit_rule(node, 2, 20, 5);
        }
        self.gossip(4, 0);
    }

    fn join(&mut self, index: usize) {
        let rules = [
            ("a", CountBy::Ip, "20/minute", None),
            ("b", CountBy::All, "1000/hour", None),
            ("c", CountBy::Ip, "15/minute", Some(SyncMode::Bounded)),
        ]
        .map(|(name, count_by, window, mode)| Rule {
            count_by,
            mode,
            ..Rule::new(name, [window.parse().expect("a limit")])
        });
        let limiter = Limiter::new(rules.into(), SyncMode::Gossip, Significance::default(), 1 << 15);
        let id = ReplicaId {
            node: format!("n{index:04}").parse().expect("a node id"),
            generation: Generation(1),
        };
        let counters = Arc::clone(limiter.counters());
        let mut core = Replication::new(id.clone(), counters, ReplicationConfig::default(), index as u64);
        let shares = Arc::new(ShareTable::new(id.clone()));
        core.set_bounded(Arc::clone(&shares));
        self.members.push(Member {
            id,
            limiter,
            core,
            shares,
            alive: true,
        });
        self.announce();
    }

    fn now(&self) -> Now {
        Now {
            monotonic: Duration::from_secs(1) + self.at,
            wall: EPOCH.plus(self.at),
        }
    }

    fn announce(&mut self) {
        let now = self.now();
        let live: Vec<_> = self
            .members
            .iter()
            .enumerate()
            .filter(|(_, member)| member.alive)
            .map(|(index, member)| (index, member.id.clone(), address(index)))
            .collect();
        for (index, member) in self.members.iter_mut().enumerate() {
            let others = live.iter().filter(|(other, ..)| *other != index);
            let others: Vec<_> = others.map(|(_, id, at)| (id.clone(), *at)).collect();
            member.core.handle_membership(&others, now);
        }
    }

    fn hit(&mut self, node: usize, key: u128, times: usize) {
        for rule in 0..2 {
            self.hit_rule(node, rule, key, times);
        }
    }

    fn hit_rule(&mut self, node: usize, rule: usize, key: u128, times: usize) {
        let now = self.now();
        let member = &mut self.members[node];
        let charge = Charge {
            rule,
            // The table expects keys spread as a hash spreads them.
            key: KeyHash(key.wrapping_mul(SPREAD)),
            hits: Hits::ONE,
        };
        for _ in 0..times {
            let decision = member.limiter.check(&[charge], now.wall);
            member.limiter.want(&decision.short);
        }
    }

    /// Lets `ticks` pass, ten milliseconds a step; one datagram in `lose` is lost.
    fn gossip(&mut self, ticks: usize, lose: usize) {
        for _ in 0..ticks * 10 {
            self.at += Duration::from_millis(10);
            let now = self.now();
            for member in self.members.iter_mut().filter(|member| member.alive) {
                member.core.handle_timeout(now);
            }
            self.collect(lose);
            while let Some((to, payload)) = self.wire.pop_front() {
                self.deliver(to, &payload, now);
                self.collect(lose);
            }
        }
    }

    fn deliver(&mut self, to: usize, payload: &[u8], now: Now) {
        if to == 0 {
            self.record(payload);
        }
        let member = &mut self.members[to];
        if member.alive {
            member
                .core
                .handle_datagram(payload, now)
                .expect("own frames are in order");
        }
    }

    /// What reaches the first node becomes sessions of the fuzz target `replication`.
    fn record(&mut self, payload: &[u8]) {
        let millis = self.at.as_millis();
        let name = match millis {
            ..400 => "session-start",
            400..1_400 => "session-rights",
            1_400..3_200 => "session-loss",
            3_200..4_400 => "session-bulk",
            _ => "session-death",
        };
        // Three peers live; then frames as they are: the operations of the target.
        let session = self.sessions.entry(name).or_insert_with(|| vec![5, 0b111]);
        let length = u16::try_from(payload.len()).expect("a datagram");
        if session.len() + payload.len() < SESSION_BYTES_MAX {
            session.push(0);
            session.extend(length.to_le_bytes());
            session.extend(payload);
            // 10 ms pass; rule a, key 1, one hit.
            session.extend([7, 1, 1, 4, 0, 1, 1]);
        }
    }

    fn collect(&mut self, lose: usize) {
        for member in &mut self.members {
            while let Some(transmit) = member.core.poll_transmit() {
                for to in transmit.to.iter().map(|to| usize::from(to.port() - 7000)) {
                    self.sent.push(transmit.payload.clone());
                    if lose == 0 || !self.sent.len().is_multiple_of(lose) {
                        self.wire.push_back((to, transmit.payload.clone()));
                    }
                }
            }
        }
    }

    /// The shortest frames of each kind, by name.
    fn captured(&mut self) -> Vec<(String, Vec<u8>, Frame)> {
        let mut kinds: BTreeMap<String, Vec<(Vec<u8>, Frame)>> = BTreeMap::new();
        self.sent.sort_by_key(|bytes| (bytes.len(), bytes.clone()));
        self.sent.dedup();
        for bytes in &self.sent {
            let frame = decode(bytes).expect("own frames decode");
            let of_kind = kinds.entry(kind(&frame)).or_default();
            if of_kind.len() < PER_KIND {
                of_kind.push((bytes.clone(), frame));
            }
        }
        let numbered = kinds.into_iter().flat_map(|(kind, frames)| {
            let name = move |(at, (bytes, frame))| (format!("{kind}-{at}"), bytes, frame);
            (1..).zip(frames).map(name)
        });
        numbered.collect()
    }
}

fn address(index: usize) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 7000 + index as u16))
}

fn kind(frame: &Frame) -> String {
    let traits: Vec<(&str, bool)> = match &frame.body {
        Body::Deltas(deltas) => {
            let any = |holds: &dyn Fn(&Delta) -> bool| deltas.iter().any(holds);
            let rules_differ = |delta: &Delta| {
                delta
                    .rows
                    .windows(2)
                    .any(|two| two[0].key.rule != two[1].key.rule)
            };
            vec![
                ("delta", true),
                ("several", deltas.len() > 1),
                ("relayed", any(&|delta| delta.log != frame.sender)),
                (
                    "adopted",
                    any(&|delta| delta.rows.iter().any(|row| row.subject.is_some())),
                ),
                ("paused", any(&|delta| delta.paused)),
                ("incomplete", any(&|delta| delta.complete_at > delta.interval.to)),
                ("empty", any(&|delta| delta.rows.is_empty())),
                ("mixed", any(&rules_differ)),
                (
                    "granting",
                    any(&|delta| delta.rows.iter().any(|row| !row.grants.is_empty())),
                ),
            ]
        }
        Body::Digest(digest) => vec![
            ("digest", true),
            ("asking", digest.wants_reply),
            ("page", digest.above.is_some() || digest.up_to.is_some()),
            (
                "gaps",
                digest.entries.iter().any(|entry| !entry.received.is_empty()),
            ),
            ("empty", digest.entries.is_empty()),
        ],
        Body::Transfers(transfers) => {
            let any = |holds: &dyn Fn(&TransferKind) -> bool| transfers.iter().any(|t| holds(&t.kind));
            vec![
                ("transfers", true),
                ("asking", any(&|kind| matches!(kind, TransferKind::Ask(_)))),
                ("answering", any(&|kind| matches!(kind, TransferKind::Answer(_)))),
                (
                    "granting",
                    any(&|kind| matches!(kind, TransferKind::Answer(answer) if answer.granted > 0)),
                ),
                (
                    "empty",
                    any(&|kind| matches!(kind, TransferKind::Answer(answer) if answer.empty)),
                ),
                ("several", transfers.len() > 1),
            ]
        }
    };
    let names: Vec<_> = traits
        .into_iter()
        .filter(|(_, holds)| *holds)
        .map(|(name, _)| name)
        .collect();
    names.join("-")
}

fn envelope_seeds(folder: &Path, frame: &[u8]) -> io::Result<()> {
    let ring = Keyring::parse(RING).expect("two valid keys");
    let mut rng = StdRng::seed_from_u64(1);
    for (choice, name, envelope) in [
        (0, "sealed", Envelope::sealed(&ring, "weir")),
        (1, "open", Envelope::open_to_all("weir")),
        (0, "sealed-elsewhere", Envelope::sealed(&ring, "other")),
        (1, "open-elsewhere", Envelope::open_to_all("other")),
    ] {
        let mut datagram = Vec::new();
        envelope.seal(&mut rng, &[fragment::FRAME_HEADER, frame], &mut datagram);
        datagram.insert(0, choice);
        write_new(&folder.join(name), &datagram)?;
    }
    for (choice, name) in [(2_u8, "sealed-round-trip"), (3, "open-round-trip")] {
        write_new(&folder.join(name), &[&[choice, 1, 0, 40, 1], frame].concat())?;
    }
    Ok(())
}

fn fragment_seeds(folder: &Path) -> io::Result<()> {
    let message: Vec<u8> = (0..3_000_u32).map(|at| (at % 251) as u8).collect();
    let pieces = fragment::split(&message, 7, 512).expect("it fits");
    let mut records: Vec<Vec<u8>> = pieces
        .map(|(header, payload)| {
            let length = u16::try_from(header.as_slice().len() + payload.len()).expect("short");
            [&[1, 1], &length.to_be_bytes()[..], header.as_slice(), payload].concat()
        })
        .collect();
    write_new(&folder.join("in-order"), &records.concat())?;
    records.reverse();
    write_new(&folder.join("reversed"), &records.concat())?;
    records.pop();
    write_new(&folder.join("incomplete"), &records.concat())
}

fn text_seeds(root: &Path, corpus: &Path) -> io::Result<()> {
    for name in ["minimal.yaml", "routes.yaml", "three-nodes.yaml"] {
        let text = fs::read(root.join("docs/examples").join(name))?;
        write_new(&corpus.join("config").join(name), &text)?;
    }
    let keyring = corpus.join("keyring");
    write_new(&keyring.join("two"), RING.as_bytes())?;
    write_new(
        &keyring.join("comments"),
        format!("# old\n\n{RING}  # end\r\n").as_bytes(),
    )
}
