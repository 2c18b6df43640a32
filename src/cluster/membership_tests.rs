//! chitchat's own code and the replication core together, over a network in memory that loses, delays and
//! cuts, in virtual time.
//!
//! The network's choices follow from the seed; chitchat picks its partners by a generator of its own, so
//! that a seed repeats the faults and not the run.

#![expect(
    clippy::disallowed_methods,
    reason = "the clock is virtual, and this file runs it"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use chitchat::transport::{Socket, Transport};
use chitchat::{ChitchatMessage, Deserializable, Serializable};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::limit::significance::Significance;
use crate::limit::{Charge, Hits, KeyHash, Now, Outcome, Rule, UnixMillis};
use crate::replication::{Replication, ReplicationConfig};

use super::*;

const EPOCH: UnixMillis = UnixMillis(1_767_614_400_000);
const KEYS: u64 = 20;
const DELAY_MILLIS: std::ops::Range<u64> = 1..30;
const LOSS: f64 = 0.1;
const NOTHING_HELD_BACK: Significance = Significance {
    alpha_permille: 200,
    epsilon_permille: 0,
};

type Letter = (SocketAddr, Vec<u8>);

/// The two queues at one address, as one socket has them in a process.
struct Mailbox {
    messages: UnboundedSender<Letter>,
    frames: UnboundedSender<Letter>,
}

/// What the network did.
#[derive(Clone, Copy, Debug, Default)]
struct Faults {
    lost: u64,
    cut: u64,
}

struct Network {
    rng: SmallRng,
    mailboxes: BTreeMap<SocketAddr, Mailbox>,
    /// Those on the far side of a partition.
    island: BTreeSet<SocketAddr>,
    faults: Faults,
}

type Shared = Arc<Mutex<Network>>;

fn with<T>(network: &Shared, act: impl FnOnce(&mut Network) -> T) -> T {
    act(&mut network.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Sends a chitchat message or a frame on its way.
fn post(network: &Shared, from: SocketAddr, to: SocketAddr, bytes: Vec<u8>, is_frame: bool) {
    let delay = with(network, |net| {
        if net.island.contains(&from) != net.island.contains(&to) {
            net.faults.cut += 1;
            None
        } else if net.rng.random_bool(LOSS) {
            net.faults.lost += 1;
            None
        } else {
            Some(Duration::from_millis(net.rng.random_range(DELAY_MILLIS)))
        }
    });
    let Some(delay) = delay else { return };
    let network = Arc::clone(network);
    tokio::spawn(async move {
        tokio::time::sleep(delay).await;
        with(&network, |net| {
            if let Some(mailbox) = net.mailboxes.get(&to) {
                let queue = if is_frame {
                    &mailbox.frames
                } else {
                    &mailbox.messages
                };
                // Whoever stopped reading has crashed.
                let _ = queue.send((from, bytes));
            }
        });
    });
}

struct InMemory {
    network: Shared,
    at: SocketAddr,
    inbox: Mutex<Option<UnboundedReceiver<Letter>>>,
}

struct InMemorySocket {
    network: Shared,
    at: SocketAddr,
    inbox: UnboundedReceiver<Letter>,
}

#[async_trait]
impl Transport for InMemory {
    async fn open(&self, _listen_addr: SocketAddr) -> anyhow::Result<Box<dyn Socket>> {
        let inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner).take();
        Ok(Box::new(InMemorySocket {
            network: Arc::clone(&self.network),
            at: self.at,
            inbox: inbox.expect("opened once"),
        }))
    }
}

#[async_trait]
impl Socket for InMemorySocket {
    async fn send(&mut self, to: SocketAddr, message: ChitchatMessage) -> anyhow::Result<()> {
        post(&self.network, self.at, to, message.serialize_to_vec(), false);
        Ok(())
    }

    async fn recv(&mut self) -> anyhow::Result<(SocketAddr, ChitchatMessage)> {
        match self.inbox.recv().await {
            Some((from, bytes)) => Ok((from, ChitchatMessage::deserialize(&mut bytes.as_slice())?)),
            // The node was killed: its chitchat hears nothing more.
            None => std::future::pending().await,
        }
    }
}

/// One life of a node: chitchat, and a task that runs the core as the driver does.
struct Life {
    limiter: Arc<Limiter>,
    hits: UnboundedSender<KeyHash>,
    peers: watch::Receiver<usize>,
    chitchat: ChitchatHandle,
    task: JoinHandle<()>,
}

impl Life {
    async fn start(network: &Shared, index: u16, generation: u64, began: Instant) -> Self {
        let at = address(index);
        let (messages, inbox) = unbounded_channel();
        let (frames, arriving) = unbounded_channel();
        with(network, |net| {
            net.mailboxes.insert(at, Mailbox { messages, frames })
        });
        let me = ReplicaId {
            node: format!("n{index}").parse().expect("a node id"),
            generation: Generation(generation),
        };
        let config = MembershipConfig {
            me: me.clone(),
            cluster_id: "together".to_owned(),
            advertise: at,
            gossip_interval: Duration::from_millis(100),
            replicas_min: 1,
            attributes: Attributes {
                frame_version: Some(2),
                ..Attributes::default()
            },
        };
        let transport = InMemory {
            network: Arc::clone(network),
            at,
            inbox: Mutex::new(Some(inbox)),
        };
        let published = attributes::to_key_values(&config.attributes);
        let chitchat = spawn_chitchat(chitchat_config(&config), published, &transport)
            .await
            .expect("an open transport");
        let limiter = Arc::new(limiter());
        let counters = Arc::clone(limiter.counters());
        let (hits, asked) = unbounded_channel();
        let (count, peers) = watch::channel(0);
        let replication = ReplicationConfig {
            significance: NOTHING_HELD_BACK,
            ..ReplicationConfig::default()
        };
        let node = Running {
            core: Replication::new(me.clone(), counters, replication, generation),
            table: MemberTable::new(me, 1),
            network: Arc::clone(network),
            at,
            began,
            limiter: Arc::clone(&limiter),
            states: chitchat.chitchat(),
            records: Records::default(),
            count,
        };
        Self {
            limiter,
            hits,
            peers,
            chitchat,
            task: tokio::spawn(node.run(arriving, asked)),
        }
    }

    /// The process is gone, with all that it had not said.
    fn kill(&self) {
        self.task.abort();
        self.chitchat.abort();
    }

    fn totals(&self) -> BTreeMap<u128, u64> {
        let mut totals = BTreeMap::new();
        self.limiter.counters().for_each_live(|_, view| {
            totals.insert(view.key.key.0, view.own + view.peers);
        });
        totals
    }
}

struct Running {
    core: Replication,
    table: MemberTable,
    network: Shared,
    at: SocketAddr,
    began: Instant,
    limiter: Arc<Limiter>,
    states: Arc<tokio::sync::Mutex<Chitchat>>,
    records: Records,
    count: watch::Sender<usize>,
}

impl Running {
    async fn run(mut self, mut frames: UnboundedReceiver<Letter>, mut asked: UnboundedReceiver<KeyHash>) {
        let mut refresh = tokio::time::interval(Duration::from_millis(50));
        loop {
            // What is overdue is done a moment later, so that virtual time goes on.
            let wake =
                (self.began + self.core.poll_timeout()).max(Instant::now() + Duration::from_micros(50));
            tokio::select! {
                Some((_, frame)) = frames.recv() => {
                    let now = self.now();
                    self.core.handle_datagram(&frame, now).expect("peers send frames");
                }
                Some(key) = asked.recv() => {
                    let now = self.now();
                    let charge = Charge { rule: 0, key, hits: Hits::ONE };
                    let decision = self.limiter.check(&[charge], now.wall);
                    assert_eq!(decision.outcome, Outcome::Admitted, "the limit is out of reach");
                    self.core.handle_local_change(now);
                }
                () = tokio::time::sleep_until(wake) => {
                    let now = self.now();
                    self.core.handle_timeout(now);
                }
                _ = refresh.tick() => self.refresh().await,
            }
            while let Some(transmit) = self.core.poll_transmit() {
                for to in transmit.to.iter() {
                    post(&self.network, self.at, *to, transmit.payload.clone(), true);
                }
            }
        }
    }

    async fn refresh(&mut self) {
        let seen = sightings(&*self.states.lock().await, &mut self.records);
        let now = self.now();
        let view = self.table.view(seen, now.monotonic);
        self.core.set_frame_version(view.frame_version);
        self.core.handle_membership(&view.peers, now);
        self.count
            .send_if_modified(|known| std::mem::replace(known, view.peers.len()) != view.peers.len());
    }

    fn now(&self) -> Now {
        let elapsed = self.began.elapsed();
        Now {
            monotonic: elapsed,
            wall: EPOCH.plus(elapsed),
        }
    }
}

fn limiter() -> Limiter {
    let rule = Rule::new("together", ["500/year".parse().expect("a limit")]);
    Limiter::new(vec![rule], SyncMode::Gossip, NOTHING_HELD_BACK, 4_096)
}

fn address(index: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], 7000 + index))
}

/// Nodes, and what they were asked.
struct Together {
    network: Shared,
    began: Instant,
    lives: Vec<Life>,
    truth: BTreeMap<u128, u64>,
    rng: SmallRng,
}

impl Together {
    async fn start(nodes: u16, seed: u64) -> Self {
        let mut together = Self {
            network: Arc::new(Mutex::new(Network {
                rng: SmallRng::seed_from_u64(seed),
                mailboxes: BTreeMap::new(),
                island: BTreeSet::new(),
                faults: Faults::default(),
            })),
            began: Instant::now(),
            lives: Vec::new(),
            truth: BTreeMap::new(),
            rng: SmallRng::seed_from_u64(!seed),
        };
        for index in 0..nodes {
            together.join(index, 1).await;
        }
        together.know_each_other(usize::from(nodes) - 1).await;
        together
    }

    async fn join(&mut self, index: u16, generation: u64) {
        let life = Life::start(&self.network, index, generation, self.began).await;
        // What discovery does with a seed, until it answers.
        for _ in 0..5 {
            life.chitchat.gossip(address(0)).expect("it runs");
            life.chitchat.gossip(address(1)).expect("it runs");
        }
        match self.lives.get_mut(usize::from(index)) {
            Some(former) => *former = life,
            None => self.lives.push(life),
        }
    }

    /// `count` hits at random live nodes, over one second.
    async fn count(&mut self, count: usize, nodes: std::ops::Range<usize>) {
        for _ in 0..count {
            let node = self.rng.random_range(nodes.clone());
            let key = u128::from(self.rng.random_range(1..=KEYS))
                .wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
            *self.truth.entry(key).or_default() += 1;
            self.lives[node].hits.send(KeyHash(key)).expect("it runs");
            tokio::time::sleep(Duration::from_secs(1) / u32::try_from(count).expect("few")).await;
        }
    }

    async fn know_each_other(&mut self, others: usize) {
        self.until(&format!("all see {others} others"), |together| {
            together.lives.iter().all(|life| *life.peers.borrow() == others)
        })
        .await;
    }

    async fn agree_on_the_truth(&mut self) {
        self.until("all hold the truth", |together| {
            together.lives.iter().all(|life| life.totals() == together.truth)
        })
        .await;
    }

    /// Half a minute of virtual time is far more than anything here takes.
    async fn until(&mut self, what: &str, condition: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !condition(self) {
            assert!(
                Instant::now() < deadline,
                "not within 30 s: {what}: {:?}; truth {:?}, held {:?}",
                self.lives
                    .iter()
                    .map(|life| *life.peers.borrow())
                    .collect::<Vec<_>>(),
                self.truth.values().sum::<u64>(),
                self.lives
                    .iter()
                    .map(|life| life.totals().values().sum::<u64>())
                    .collect::<Vec<_>>(),
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Five nodes form, count, are cut apart and count on, lose one that returns as a new life, and heal: at
/// each stage that has an end, everybody holds exactly what was admitted.
async fn lives_through_everything(seed: u64) -> Faults {
    let mut together = Together::start(5, seed).await;
    together.count(200, 0..5).await;
    together.agree_on_the_truth().await;

    let island = BTreeSet::from([address(3), address(4)]);
    with(&together.network, |net| net.island = island);
    together.count(200, 0..5).await;
    together
        .until("each side sees itself alone", |together| {
            let seen: Vec<usize> = together.lives.iter().map(|life| *life.peers.borrow()).collect();
            seen == [2, 2, 2, 1, 1]
        })
        .await;
    together.count(200, 0..5).await;
    with(&together.network, |net| net.island.clear());
    together.know_each_other(4).await;
    together.agree_on_the_truth().await;

    // All know what it counted: a crash takes nothing with it.
    together.lives[2].kill();
    together.join(2, 2).await;
    together.count(100, 0..2).await;
    together.know_each_other(4).await;
    together.count(200, 0..5).await;
    together.agree_on_the_truth().await;
    together.lives.iter().for_each(Life::kill);
    with(&together.network, |net| net.faults)
}

#[tokio::test(start_paused = true)]
async fn chitchat_and_the_core_converge_through_loss_a_partition_and_a_restart() {
    for seed in 0..10 {
        let faults = lives_through_everything(seed).await;
        println!("seed {seed}: {faults:?}");
        assert!(faults.lost > 100 && faults.cut > 100, "seed {seed}: {faults:?}");
    }
}
