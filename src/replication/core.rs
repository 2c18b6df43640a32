//! The replication state machine: what happens goes in, what to send comes out.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{Hash, Hasher};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crdts::GCounter;
use rand::rngs::SmallRng;
use rand::seq::IteratorRandom;
use rand::{Rng, SeedableRng};
use siphasher::sip::SipHasher24;

use crate::limit::significance::Significance;
use crate::limit::{Counters, Now, RowRef, UnixMillis};

use super::codec::{self, Body, FRAME_VERSION, FRAME_VERSION_MIN, FrameError, Version};
use super::log::OriginIndex;
use super::origin::{OWN, Origins, Waiting};
use super::pacing::Pacer;
use super::row::{Rows, g_counter};
use super::transfer::Transfers;
use crate::replica::ReplicaId;

/// What an operator may tune. Every default says why.
#[derive(Clone, Debug, PartialEq)]
pub struct ReplicationConfig {
    /// How often whatever is dirty but not due is pushed, and digests are exchanged. 100 ms: simulated at
    /// a fifth of a core for 10,000 changed keys; what matters does not wait for it.
    pub tick: Duration,
    /// Largest frame in bytes, before sealing. 1,140 leaves room for the seal in 1,200, which passes every
    /// overlay network without IP fragments.
    pub frame_bytes_max: usize,
    /// When a change is due, and when it is held back.
    pub significance: Significance,
    /// The divisor of significance is at least this, so that the first of many nodes to start does not
    /// take itself for the only one.
    pub min_replicas: u32,
    /// Windows that start this far in the future are still believed.
    pub max_clock_skew: Duration,
    /// How long rows outlive their window: late hits and late frames still find them. For bounded mode at least
    /// [`crate::bounded::grace`].
    pub grace: Duration,
    /// Least time between two bursts of due rows, once [`ReplicationConfig::bursts`] are spent: what
    /// falls due meanwhile shares the next one. 1 ms: at most a thousand bursts a second.
    pub coalesce: Duration,
    /// Bursts that may leave at once after a quiet time. 16 lets a client that asks one node after the
    /// other see exact counts up to the limit.
    pub bursts: u32,
    /// Above this many peers what is not due goes to so many of them, always the same, and digests carry the
    /// rest; what is due goes to all, in bursts so much further apart as there are more peers.
    pub push_fanout: usize,
    /// Peers that are sent a digest each tick.
    pub digest_fanout: usize,
    /// Most pages of such a digest; the next tick goes on where it stopped. Four speak of some 150 logs.
    pub digest_pages: usize,
    /// Most repair frames a second: feeds a joiner without starving the others.
    pub repair_frames_per_second: u32,
}

impl Default for ReplicationConfig {
    fn default() -> Self {
        Self {
            tick: Duration::from_millis(100),
            frame_bytes_max: 1_140,
            significance: Significance::default(),
            min_replicas: 1,
            max_clock_skew: Duration::from_secs(10),
            grace: Duration::from_secs(2),
            coalesce: Duration::from_millis(1),
            bursts: 16,
            push_fanout: 32,
            digest_fanout: 3,
            digest_pages: 4,
            repair_frames_per_second: 4_000,
        }
    }
}

/// One datagram to send: the same frame to every address in `to`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// Where to: advertised addresses of replicas.
    pub to: Arc<[SocketAddr]>,
    /// The frame, not yet sealed.
    pub payload: Vec<u8>,
}

/// What one peer looks like from here.
#[derive(Clone, Debug, PartialEq)]
pub struct PeerStatus {
    /// The peer.
    pub replica: ReplicaId,
    /// Where it is reached; `None` once membership says it is dead.
    pub address: Option<SocketAddr>,
    /// Membership says it is alive.
    pub live: bool,
    /// Time since the last frame from it; `None` if there was none.
    pub last_heard: Option<Duration>,
    /// Estimated offset of its wall clock against ours, in milliseconds (positive: its clock is ahead).
    pub clock_offset_ms: Option<i64>,
    /// Rows that carry a count of it.
    pub rows: usize,
    /// Rows of it that were refused: table full, its share used up, or a window outside the tolerated skew.
    pub refused: u64,
    /// Up to where its log is held.
    pub held: Version,
    /// Up to where it says it holds our log.
    pub acknowledged: Version,
}

/// Totals since start, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReplicationStats {
    /// Frames handled.
    pub frames_received: u64,
    /// Frames refused by the decoder or by a bound.
    pub frames_refused: u64,
    /// Rows merged that raised a count.
    pub rows_merged: u64,
    /// Rows refused: table full, or a window outside the tolerated skew.
    pub rows_refused: u64,
    /// Rows given a version and pushed.
    pub rows_released: u64,
    /// Rows of dead replicas that were put into our own log, because nobody else may pass them on.
    pub rows_adopted: u64,
    /// Pushes made because a row was due.
    pub pushes_due: u64,
    /// Pushes made by the tick.
    pub pushes_tick: u64,
    /// Frames sent to repair what a peer lacked.
    pub repairs: u64,
    /// Digests sent.
    pub digests: u64,
    /// Rows held now, of all replicas.
    pub rows: u64,
    /// The version of the frames sent: the newest that every live peer takes in.
    pub frame_version: u8,
}

/// What a joiner must hold before it may call itself caught up.
#[derive(Debug, Default)]
pub(super) struct CatchUp {
    pub(super) from: Option<ReplicaId>,
    pub(super) covered_to: Option<ReplicaId>,
    pub(super) complete: bool,
    pub(super) claims: BTreeMap<ReplicaId, Version>,
    pub(super) done: bool,
}

/// The replication state machine of one node.
pub struct Replication {
    pub(super) counters: Arc<Counters>,
    pub(super) config: ReplicationConfig,
    pub(super) origins: Origins,
    pub(super) rows: Rows,
    pub(super) rng: SmallRng,
    pub(super) outbox: VecDeque<Transmit>,
    /// Live peers' addresses, and those of them that pushes go to.
    pub(super) peers: Arc<[SocketAddr]>,
    pub(super) push_to: Arc<[SocketAddr]>,
    /// Rows to push at once, at the next tick, and adopted from the dead.
    pub(super) due: Vec<RowRef>,
    pub(super) dirty: Vec<RowRef>,
    pub(super) adopted: Vec<Waiting>,
    pub(super) bursts: Pacer,
    pub(super) repairs: Pacer,
    pub(super) next_tick: Duration,
    /// The earliest time at which a gap may have to be asked for.
    pub(super) next_gap: Option<Duration>,
    /// How many replicas share the limits, as of the last tick or change of membership.
    pub(super) sharing: u32,
    /// The version of the frames that are sent.
    pub(super) frame_version: u8,
    /// From when on an eviction may make a hole in our own log again.
    pub(super) own_holes_from: UnixMillis,
    /// Evictions as of the last sweep.
    pub(super) evicted: u64,
    /// Where the next digest begins: above the log of this replica.
    pub(super) digest_cursor: Option<ReplicaId>,
    pub(super) backlog: bool,
    /// Rows may have changed that were not taken in yet.
    pub(super) changes_left: bool,
    pub(super) leaving: bool,
    pub(super) catch_up: CatchUp,
    pub(super) retreated: Duration,
    pub(super) stats: ReplicationStats,
    pub(super) transfers: Transfers,
}

impl Replication {
    /// A machine for replica `me` over `counters`. `seed` feeds its only randomness: when it ticks and whom
    /// it sends digests.
    #[must_use]
    pub fn new(me: ReplicaId, counters: Arc<Counters>, config: ReplicationConfig, seed: u64) -> Self {
        let frame_time = Duration::from_secs(1) / config.repair_frames_per_second.max(1);
        Self {
            counters,
            origins: Origins::new(me),
            rows: Rows::default(),
            rng: SmallRng::seed_from_u64(seed),
            outbox: VecDeque::new(),
            peers: Arc::from([]),
            push_to: Arc::from([]),
            due: Vec::new(),
            dirty: Vec::new(),
            adopted: Vec::new(),
            bursts: Pacer::new(config.coalesce, config.bursts),
            repairs: Pacer::new(frame_time, config.repair_frames_per_second / 10),
            next_tick: Duration::ZERO,
            next_gap: None,
            sharing: 1,
            frame_version: FRAME_VERSION,
            own_holes_from: UnixMillis(0),
            evicted: 0,
            digest_cursor: None,
            backlog: false,
            changes_left: false,
            leaving: false,
            catch_up: CatchUp::default(),
            retreated: Duration::ZERO,
            stats: ReplicationStats::default(),
            transfers: Transfers::default(),
            config,
        }
    }

    /// Membership changed: these are the other live replicas now. Rows of replicas that vanish stay
    /// until their windows end.
    pub fn handle_membership(&mut self, live: &[(ReplicaId, SocketAddr)], now: Now) {
        let replicas = self.replicas();
        let living: BTreeMap<&ReplicaId, SocketAddr> = live.iter().map(|(id, at)| (id, *at)).collect();
        let known: Vec<_> = self
            .origins
            .sorted()
            .map(|(index, origin)| (index, origin.id.clone()))
            .collect();
        for (index, id) in known.into_iter().filter(|(index, _)| *index != OWN) {
            if !living.contains_key(&id) {
                self.handle_death(index, now);
            }
        }
        let mut fresh = Vec::new();
        for (id, address) in living {
            let Some(index) = self.origins.meet(id).filter(|index| *index != OWN) else {
                continue;
            };
            let Some(origin) = self.origins.get_mut(index) else {
                continue;
            };
            if origin.address.replace(address).is_none() {
                fresh.push(index);
            }
        }
        self.peers = self
            .origins
            .live()
            .filter_map(|(_, origin)| origin.address)
            .collect();
        self.push_to = self.nearest_peers(self.config.push_fanout);
        self.doubt(&fresh);
        self.greet(fresh, now);
        let crowd = u32::try_from(self.peers.len() / self.config.push_fanout.max(1)).unwrap_or(u32::MAX);
        self.bursts.set_interval(self.config.coalesce * crowd.max(1));
        self.count_sharing(now);
        if self.replicas() > replicas {
            // Each may hold back less now.
            self.rows.review_all();
            self.backlog = true;
        }
        self.review_exhausted(now);
        self.flush_transfers(now);
    }

    /// Sends digests to peers that have just appeared: to so few that a newcomer hears from a handful of
    /// nodes, and not from all of a large cluster at once. It asks by itself what nobody tells it.
    fn greet(&mut self, fresh: Vec<OriginIndex>, now: Now) {
        let few = self.config.digest_fanout.max(1);
        let others = self.peers.len() - fresh.len();
        let greets = others < few || self.rng.random_ratio(few as u32, others as u32);
        let chosen = fresh.into_iter().filter(|_| greets);
        for index in chosen.choose_multiple(&mut self.rng, few) {
            self.send_digest(index, true, now);
        }
    }

    /// Counts anew how many replicas share the limits.
    pub(super) fn count_sharing(&mut self, now: Now) {
        self.sharing = u32::try_from(self.origins.sharing(now.monotonic)).unwrap_or(u32::MAX);
    }

    /// Sets the version of the frames sent from here on: the newest that every live peer understands.
    /// Outside of what this node speaks, the nearest that it does.
    pub fn set_frame_version(&mut self, version: u8) {
        self.frame_version = version.clamp(FRAME_VERSION_MIN, FRAME_VERSION);
    }

    /// Bytes that the deltas of one frame may take.
    pub(super) fn delta_room(&self) -> usize {
        let around = codec::frame_bytes(&self.origins.own().id);
        self.config.frame_bytes_max.saturating_sub(around)
    }

    /// The `most` live peers that rank first for this node by rendezvous hash (Thaler and Ravishankar
    /// 1998). The same ones as long as they live, so that they hold our log without gaps; each node ranks
    /// the others differently, so that the pushes of all form a random graph.
    fn nearest_peers(&self, most: usize) -> Arc<[SocketAddr]> {
        let me = &self.origins.own().id.node;
        let mut ranked: Vec<_> = self
            .origins
            .live()
            .filter_map(|(_, origin)| {
                let mut hasher = SipHasher24::new();
                (me.as_str(), origin.id.node.as_str()).hash(&mut hasher);
                Some((hasher.finish(), origin.address?))
            })
            .collect();
        ranked.sort_unstable();
        ranked
            .into_iter()
            .take(most)
            .map(|(_, address)| address)
            .collect()
    }

    /// A frame arrived, already opened and so known to come from a holder of the cluster key.
    ///
    /// # Errors
    /// A frame that does not decode or breaks a bound changed nothing and names the reason.
    pub fn handle_datagram(&mut self, frame: &[u8], now: Now) -> Result<(), FrameError> {
        let frame = codec::decode(frame).inspect_err(|_| self.stats.frames_refused += 1)?;
        if frame.sender == self.origins.own().id {
            self.stats.frames_refused += 1;
            return Err(FrameError::Bounds("sent by ourselves"));
        }
        self.stats.frames_received += 1;
        let sender = self.origins.index_of(&frame.sender);
        if let Some(origin) = sender.and_then(|index| self.origins.get_mut(index)) {
            origin.last_heard = Some(now.monotonic);
            origin.offset.sample(frame.sent_at, now);
        }
        match frame.body {
            Body::Deltas(deltas) => {
                for delta in &deltas {
                    self.handle_delta(sender, delta, now);
                }
                self.check_caught_up();
            }
            Body::Digest(digest) => self.handle_digest(&frame.sender, sender, &digest, now),
            Body::Transfers(transfers) => self.handle_transfers(sender, &transfers, now),
        }
        self.flush_due(now);
        self.flush_transfers(now);
        Ok(())
    }

    /// Takes in what request threads counted since the last call, and sends what is due.
    pub fn handle_local_change(&mut self, now: Now) {
        self.take_changes(now);
        self.take_wanted(now);
        self.flush_due(now);
        self.flush_transfers(now);
    }

    /// [`Replication::poll_timeout`] has passed.
    pub fn handle_timeout(&mut self, now: Now) {
        self.take_changes(now);
        self.take_wanted(now);
        self.retry_transfers(now);
        self.flush_due(now);
        self.flush_transfers(now);
        self.ask_for_gaps(now);
        self.sweep(now);
        if now.monotonic >= self.next_tick {
            self.tick(now);
        }
    }

    /// Stops holding anything back and pushes all that is unsent: on leaving. From here on every timeout
    /// asks the peers how far they hold our log, until [`Replication::is_acknowledged`]. No rights are asked for or
    /// granted any more.
    pub fn handle_leave(&mut self, now: Now) {
        self.take_changes(now);
        self.leaving = true;
        let unsent: Vec<RowRef> = self.rows.all().collect();
        self.release(unsent, &Arc::clone(&self.peers), now);
        self.next_tick = now.monotonic;
    }

    /// The next datagram to send, if any.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.outbox.pop_front()
    }

    /// When (on the monotonic clock) [`Replication::handle_timeout`] wants to be called: for the next
    /// tick, for due rows that the pacer holds, for a gap that was not filled, for rights that were asked for in
    /// vain, or for a backlog of ended rows.
    #[must_use]
    pub fn poll_timeout(&self) -> Duration {
        let due = (!self.due.is_empty() || !self.adopted.is_empty()).then(|| self.bursts.ready_at());
        let backlog = self.backlog.then_some(Duration::ZERO);
        [due, self.next_gap, backlog, self.transfers.poll_timeout()]
            .into_iter()
            .flatten()
            .min()
            .map_or(self.next_tick, |at| at.min(self.next_tick))
    }

    /// Whether something is due that the pacer still holds back.
    #[must_use]
    pub fn has_due(&self) -> bool {
        !self.due.is_empty()
    }

    /// Whether this node has held, since joining, all that one peer's digest claimed; true at once when
    /// there is no peer.
    #[must_use]
    pub fn is_caught_up(&self) -> bool {
        self.catch_up.done || self.peers.is_empty()
    }

    /// Whether every live peer has said, by digest, that it holds all that this node counted.
    #[must_use]
    pub fn is_acknowledged(&self) -> bool {
        let top = self.origins.own().top;
        let unsent = !self.due.is_empty() || !self.dirty.is_empty() || !self.adopted.is_empty();
        !unsent && self.origins.live().all(|(_, origin)| origin.acknowledged >= top)
    }

    /// How many replicas share the limits: live, recently live (looked at every tick), and at least the
    /// configured minimum.
    #[must_use]
    pub fn replicas(&self) -> u32 {
        self.sharing.max(self.config.min_replicas)
    }

    /// The peers as seen from here, live first, in the order of their ids.
    #[must_use]
    pub fn peers(&self, now: Now) -> Vec<PeerStatus> {
        let mut peers: Vec<_> = self
            .origins
            .sorted()
            .filter(|(index, _)| *index != OWN)
            .map(|(_, origin)| PeerStatus {
                replica: origin.id.clone(),
                address: origin.address,
                live: origin.is_live(),
                last_heard: origin.last_heard.map(|at| now.monotonic.saturating_sub(at)),
                clock_offset_ms: origin.offset.millis(),
                rows: origin.rows,
                refused: origin.refused,
                held: origin.progress.confirmed(),
                acknowledged: origin.acknowledged,
            })
            .collect();
        peers.sort_by_key(|peer| !peer.live);
        peers
    }

    /// The counts of `row` by replica: ours as counted so far, and each peer's as heard.
    #[must_use]
    pub fn counts(&self, row: RowRef) -> Vec<(ReplicaId, u64)> {
        let own = self
            .counters
            .view(row)
            .map(|view| (self.origins.own().id.clone(), view.own));
        let peers = self.rows.get(row).into_iter().flat_map(|state| &state.peers);
        let peers =
            peers.filter_map(|peer| Some((self.origins.get(peer.origin())?.id.clone(), peer.count())));
        own.into_iter()
            .chain(peers)
            .filter(|(_, count)| *count > 0)
            .collect()
    }

    /// This replica.
    #[must_use]
    pub fn me(&self) -> &ReplicaId {
        &self.origins.own().id
    }

    /// What each replica is known to have granted of `row`, in bounded mode: it is in that replica's count, and
    /// admitted by nobody before it is in another's.
    #[must_use]
    pub fn granted(&self, row: RowRef) -> Vec<(ReplicaId, u64)> {
        let granted = |(index, id): (OriginIndex, &ReplicaId)| {
            let grants = self.transfers.grants_of(row, index);
            (
                id.clone(),
                grants.iter().map(|grant| grant.hits).fold(0, u64::saturating_add),
            )
        };
        self.origins
            .sorted()
            .map(|(index, origin)| granted((index, &origin.id)))
            .filter(|(_, hits)| *hits > 0)
            .collect()
    }

    /// The replicated state of `row` as the textbook G-Counter (Shapiro et al. 2011).
    #[must_use]
    pub fn g_counter(&self, row: RowRef) -> GCounter<ReplicaId> {
        g_counter(&self.counts(row))
    }

    /// Totals for metrics.
    #[must_use]
    pub fn stats(&self) -> ReplicationStats {
        ReplicationStats {
            rows: self.rows.known() as u64,
            frame_version: self.frame_version,
            ..self.stats
        }
    }
}
