//! The replication core, stateful: peers' frames (captured, structured, damaged, replayed), local hits,
//! membership and time in any order, over a small table.
//!
//! One rule is bounded: this node has a share of it, and asks and grants come and go.
//!
//! Judged after each step: nothing panics, no count falls while its row lives, a replay changes nothing,
//! the table and the outbox keep their bounds, and every frame sent decodes. At the end: memory.
#![no_main]

#[path = "replication/input.rs"]
mod input;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use arbitrary::Unstructured;
use input::{Op, Peers};
use libfuzzer_sys::fuzz_target;
use weir::bounded::{Membership, ShareTable};
use weir::limit::significance::Significance;
use weir::limit::{Charge, CountBy, Hits, Limiter, Now, RowRef, Rule, SyncMode, UnixMillis};
use weir::replication::codec;
use weir::replication::{Replication, ReplicationConfig};
use weir_fuzz::{Counting, live_bytes};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Rows of the table: small, so that it is full most of the time.
const KEYS_MAX: u32 = 64;
/// Most steps of one run.
const STEPS_MAX: usize = 512;
/// Far above what a run needs for what it holds, far below what it was sent in all when it replays.
const LIVE_BYTES_MAX: isize = 8 << 20;

fuzz_target!(|bytes: &[u8]| {
    let before = live_bytes();
    let mut node = Node::start();
    let mut input = Unstructured::new(bytes);
    for _ in 0..STEPS_MAX {
        let Ok(op) = Op::read(&mut input, &node.peers, node.now.wall) else {
            break;
        };
        node.step(op);
    }
    node.advance(Duration::from_millis(1));
    assert!(live_bytes() - before <= LIVE_BYTES_MAX);
});

struct Node {
    peers: Peers,
    limiter: Limiter,
    core: Replication,
    now: Now,
    counts: BTreeMap<RowRef, (u64, u64, u64)>,
    last_frame: Vec<u8>,
}

impl Node {
    fn start() -> Self {
        let rules: Vec<Rule> = [
            ("a", CountBy::Ip, "20/minute", None),
            ("b", CountBy::All, "1000/hour", None),
            ("c", CountBy::Ip, "20/minute", Some(SyncMode::Bounded)),
        ]
        .into_iter()
        .map(|(name, count_by, window, mode)| Rule {
            count_by,
            mode,
            ..Rule::new(name, [window.parse().expect("a limit")])
        })
        .collect();
        let peers = Peers::new(&rules);
        let significance = Significance::default();
        let limiter = Limiter::new(rules, SyncMode::Gossip, significance, KEYS_MAX);
        let config = ReplicationConfig {
            significance,
            ..ReplicationConfig::default()
        };
        let mut core = Replication::new(peers.me.clone(), Arc::clone(limiter.counters()), config, 1);
        let shares = Arc::new(ShareTable::new(peers.me.clone()));
        let members = peers.others.iter().chain([&peers.me]).cloned();
        let membership = Membership::try_new(input::EPOCH, &peers.me, members);
        shares.replace(membership.map(Arc::new));
        core.set_bounded(shares);
        Self {
            peers,
            limiter,
            core,
            now: Now {
                monotonic: Duration::from_secs(1),
                wall: input::EPOCH,
            },
            counts: BTreeMap::new(),
            last_frame: Vec::new(),
        }
    }

    fn step(&mut self, op: Op) {
        match op {
            Op::Receive(frame) => {
                let _ = self.core.handle_datagram(&frame, self.now);
                self.last_frame = frame;
            }
            Op::Replay => self.replay(),
            Op::Hits { rule, key, times } => self.hit(rule, key, times),
            Op::Members(bits) => self.membership(bits),
            Op::Advance(by) => self.advance(by),
            Op::Leave => self.core.handle_leave(self.now),
        }
        self.drain();
        self.judge();
    }

    fn hit(&mut self, rule: usize, key: u8, times: u8) {
        let charge = Charge {
            rule,
            key: input::key(key),
            hits: Hits::ONE,
        };
        for _ in 0..times {
            let decision = self.limiter.check(&[charge], self.now.wall);
            self.limiter.want(&decision.short);
        }
        self.core.handle_local_change(self.now);
    }

    fn membership(&mut self, bits: u8) {
        let live: Vec<_> = (0_u8..)
            .zip(&self.peers.others)
            .filter(|(index, _)| bits & 1 << index != 0)
            .map(|(index, id)| (id.clone(), address(index)))
            .collect();
        self.core.handle_membership(&live, self.now);
    }

    fn advance(&mut self, by: Duration) {
        self.now.monotonic += by;
        self.now.wall = UnixMillis(self.now.wall.0 + by.as_millis() as u64);
        self.core.handle_timeout(self.now);
    }

    /// The second replay of a frame at one time finds all that the first one left: it raises no count and
    /// puts nothing more into our own log. Not so where rows were refused or evicted: those of the frame evict
    /// one another, and what found no room at first may find it later.
    fn replay(&mut self) {
        let frame = std::mem::take(&mut self.last_frame);
        let turned_away = self.turned_away();
        self.feed_and_flush(&frame);
        self.judge();
        let (counts, adopted) = (self.counts.clone(), self.core.stats().rows_adopted);
        self.feed_and_flush(&frame);
        self.judge();
        self.last_frame = frame;
        if self.turned_away() != turned_away {
            return;
        }
        for (row, (own, peers, _)) in &self.counts {
            if let Some((own_before, peers_before, _)) = counts.get(row) {
                assert_eq!(
                    (own, peers),
                    (own_before, peers_before),
                    "a replay raised a count"
                );
            }
        }
        let adopted_again = self.core.stats().rows_adopted - adopted;
        assert_eq!(adopted_again, 0, "a replay put rows into our own log");
    }

    /// Rows refused and rows evicted so far.
    fn turned_away(&self) -> (u64, u64) {
        let evicted = self.limiter.counters().stats().evicted;
        (self.core.stats().rows_refused, evicted)
    }

    fn feed_and_flush(&mut self, frame: &[u8]) {
        let _ = self.core.handle_datagram(frame, self.now);
        self.advance(Duration::from_millis(1));
        self.drain();
    }

    fn drain(&mut self) {
        let most = self.core.peers(self.now).len() * 4 + 4096;
        for _ in 0..most {
            let Some(transmit) = self.core.poll_transmit() else {
                return;
            };
            assert!(!transmit.to.is_empty());
            let frame = codec::decode(&transmit.payload).expect("own frames decode");
            assert_eq!(frame.sender, self.peers.me);
            assert!(transmit.payload.len() <= ReplicationConfig::default().frame_bytes_max);
        }
        panic!("more than {most} datagrams after one step");
    }

    fn judge(&mut self) {
        let counters = self.limiter.counters();
        assert!(counters.live_rows() <= counters.capacity());
        let before = std::mem::take(&mut self.counts);
        counters.for_each_live(|row, view| {
            if let Some((own, peers, published)) = before.get(&row) {
                // What a bounded row shows of its peers falls with each grant.
                let peers_rose = view.bounded || view.peers >= *peers;
                let rose = view.own >= *own && peers_rose && view.published >= *published;
                assert!(rose, "a count fell: {before:?} {view:?}");
                // A row that comes back after its window has the count it had, and no rights.
                let consumes = view.bounded && view.own > *own;
                assert!(
                    !consumes || view.own <= view.allowance,
                    "more was consumed than allowed: {view:?}"
                );
            }
            assert!(view.published <= view.own);
            self.counts.insert(row, (view.own, view.peers, view.published));
        });
        for row in self.counts.keys() {
            let _ = self.core.g_counter(*row);
        }
        let _ = (
            self.core.poll_timeout(),
            self.core.is_caught_up(),
            self.core.is_acknowledged(),
        );
    }
}

fn address(index: u8) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 7000 + u16::from(index)))
}
