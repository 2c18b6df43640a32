//! What the gossip thread's loop promises to those who wait for it.

use std::net::{SocketAddr, UdpSocket};
use std::task::{Context, Waker};

use crate::bounded::{EstateRecord, RosterConfig, RosterRecord};
use crate::cluster::membership::MembershipCommand;
use crate::cluster::mode::ModeVersion;
use crate::cluster::seal::Envelope;
use crate::cluster::transport::BoundSocket;
use crate::limit::significance::Significance;
use crate::limit::{Charge, Hits, KeyHash, Limiter, Outcome, Rule, SyncMode};
use crate::replica::Generation;
use crate::replication::ReplicationConfig;

use super::*;

const DATAGRAM_BYTES: usize = 1_200;

fn replica(name: &str) -> ReplicaId {
    ReplicaId {
        node: name.parse().unwrap(),
        generation: Generation(1),
    }
}

fn limiter(mode: SyncMode) -> Arc<Limiter> {
    let rule = Rule::new("all", ["5/year".parse().unwrap()]);
    let significance = Significance {
        alpha_permille: 200,
        epsilon_permille: 0,
    };
    Arc::new(Limiter::new(vec![rule], mode, significance, 65_536))
}

/// A driver with a live peer, which is a plain socket, or alone.
struct Rig {
    driver: Driver,
    limiter: Arc<Limiter>,
    flusher: Flusher,
    // The ends that keep the driver's channels open.
    _inbox: mpsc::Receiver<InboxMessage>,
    _view: watch::Sender<Arc<View>>,
    _commands: mpsc::Sender<DriverCommand>,
    _ready: watch::Receiver<bool>,
    _mode: watch::Sender<ModeVersion>,
    membership: mpsc::Receiver<MembershipCommand>,
}

impl Rig {
    fn new(peer: Option<SocketAddr>, mode: SyncMode) -> Self {
        let limiter = limiter(mode);
        let flusher = Flusher::default();
        let bound = BoundSocket::bind(([127, 0, 0, 1], 0).into()).unwrap();
        let envelope = Arc::new(ArcSwap::from_pointee(Envelope::open_to_all("test")));
        let transport = Arc::new(Transport::new(bound, envelope, DATAGRAM_BYTES).unwrap());
        let (inbox, _inbox) = mpsc::channel(1);
        let (_view, view) = watch::channel(Arc::default());
        _view.send_replace(Arc::new(View {
            peers: peer.into_iter().map(|peer| (replica("b"), peer)).collect(),
            replicas: 2,
            ..View::default()
        }));
        let (_commands, commands) = mpsc::channel(1);
        let (ready, _ready) = watch::channel(false);
        let counters = Arc::clone(limiter.counters());
        let (_mode, mode) = watch::channel(ModeVersion::configured(limiter.mode()));
        let (to_membership, membership) = mpsc::channel(8);
        let roster = RosterConfig {
            skew: Duration::from_millis(1),
            min_roster: 1,
            listen: Duration::ZERO,
            strict_start: false,
            retire_on_restart: false,
            forget_after: None,
        };
        let steward = Steward::new(
            replica("a"),
            roster,
            Duration::ZERO,
            Arc::clone(&limiter),
            mode,
            to_membership,
        );
        let mut replication = Replication::new(replica("a"), counters, ReplicationConfig::default(), 1);
        replication.set_bounded(Arc::clone(steward.shares()));
        let driver = Driver {
            steward,
            replication,
            receiver: Receiver::new(Arc::clone(&transport)),
            sender: Sender::new(Arc::clone(&transport)),
            transport,
            inbox,
            view,
            commands,
            flusher: flusher.clone(),
            flushing: None,
            clock: Clock::start(),
            readiness: Readiness::new(ready, false, Duration::ZERO),
            status: Arc::default(),
            status_due: Duration::ZERO,
            leaving: None,
        };
        Self {
            driver,
            limiter,
            flusher,
            _inbox,
            _view,
            _commands,
            _ready,
            _mode,
            membership,
        }
    }

    /// Counts one hit of each of `keys` clients, all of which peers have to hear of at once.
    fn count(&self, keys: u32) {
        let wall = self.driver.clock.now().wall;
        for key in 1..=keys {
            let charge = Charge {
                rule: 0,
                key: KeyHash(u128::from(key) << 64 | u128::from(key)),
                hits: Hits::ONE,
            };
            let decision = self.limiter.check(&[charge], wall);
            assert_eq!(
                (decision.outcome, decision.due.is_due()),
                (Outcome::Admitted, true)
            );
        }
    }

    fn sent(&self) -> u64 {
        self.driver.transport.counters().snapshot().datagrams_sent
    }
}

fn is_pending(future: std::pin::Pin<&mut impl Future>) -> bool {
    future.poll(&mut Context::from_waker(Waker::noop())).is_pending()
}

#[tokio::test]
async fn a_flush_ends_when_the_last_datagram_that_was_due_has_left_and_not_before() {
    let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut rig = Rig::new(Some(peer.local_addr().unwrap()), SyncMode::Gossip);
    // More than one turn sends.
    rig.count(40_000);
    let mut flushed = std::pin::pin!(rig.flusher.request());
    let mut turns = 0;
    while rig.driver.turn().await {
        turns += 1;
        assert!(
            is_pending(flushed.as_mut()),
            "{} sent, and more to send",
            rig.sent()
        );
    }
    assert!(turns > 0 && rig.sent() > TRANSMITS_PER_TURN_MAX as u64);
    assert!(!is_pending(flushed.as_mut()), "all is sent");
    assert!(
        rig.driver.replication.poll_transmit().is_none(),
        "nothing is left"
    );
}

#[tokio::test]
async fn a_founder_has_its_share_and_publishes_its_roster_after_one_turn() {
    let mut rig = Rig::new(None, SyncMode::Bounded);
    let charge = Charge {
        rule: 0,
        key: KeyHash(7 << 64 | 7),
        hits: Hits::ONE,
    };
    let check = |rig: &Rig| rig.limiter.check(&[charge], rig.driver.clock.now().wall);
    // Asked before, it is short of rights; the row is told of the share that is taken later.
    assert!(!check(&rig).short.is_empty());
    rig.driver.turn().await;
    let outcomes: Vec<_> = (0..6).map(|_| check(&rig).outcome).collect();
    assert_eq!(outcomes[4], Outcome::Admitted);
    assert_eq!(outcomes[5], Outcome::Denied { window: 0 });
    let Ok(MembershipCommand::Publish("roster", text)) = rig.membership.try_recv() else {
        panic!("the roster was not published first")
    };
    let record = RosterRecord::from_text(&text).unwrap();
    assert!(record.active && record.members.contains_key(&replica("a")));
    let Ok(MembershipCommand::Publish("estate", text)) = rig.membership.try_recv() else {
        panic!("the estate was not published")
    };
    assert_eq!(EstateRecord::from_text(&text).unwrap().will, None);
    rig.driver.turn().await;
    assert!(rig.membership.try_recv().is_err(), "nothing new is to be said");
}
