//! One simulated node's part in bounded mode: what it has heard of the others by membership, its escrow, and the
//! mode that it decides by. Does what the gossip thread does, without its channels.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::bounded::{Escrow, EstateRecord, RosterConfig, RosterRecord, ShareTable};
use crate::cluster::{Announcement, Attributes, MemberTable, ModeVersion, Presence, Sighting, View};
use crate::limit::{Limiter, Now, SyncMode};
use crate::replica::ReplicaId;
use crate::replication::Replication;
use crate::replication::codec::FRAME_VERSION;

/// Membership's knowledge of one replica.
#[derive(Clone, Debug)]
pub(super) struct Heard {
    pub(super) address: SocketAddr,
    pub(super) attributes: Attributes,
}

/// What one node tells another: replicas, and what is known of them.
pub(super) type News = Vec<(ReplicaId, Heard)>;

/// How far a node has come in leaving.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Staying,
    /// It waits for acknowledgements and its heir.
    Leaving,
    /// It has said its last word.
    Departed,
}

/// What came of one turn.
#[derive(Debug, Default)]
pub(super) struct Turned {
    /// Wills executed here.
    pub(super) inherited: usize,
    /// There is something new to publish.
    pub(super) has_news: bool,
}

/// The escrow of one node, and what it hears.
pub(super) struct Steward {
    pub(super) escrow: Escrow,
    pub(super) stage: Stage,
    me: ReplicaId,
    table: MemberTable,
    heard: BTreeMap<ReplicaId, Heard>,
    live: BTreeSet<ReplicaId>,
    /// Since when those who are not live have not been.
    gone: BTreeMap<ReplicaId, Duration>,
    /// Those whose last words were let go.
    dropped: BTreeSet<ReplicaId>,
    mode: ModeVersion,
    announced: Announcement,
    published: [u64; 2],
    /// The next view is planned.
    pub(super) view_planned: bool,
}

impl Steward {
    /// The steward of `me`, whose configuration says `mode`. Rows begin with the shares it takes.
    pub(super) fn start(
        me: ReplicaId,
        address: SocketAddr,
        config: RosterConfig,
        mode: SyncMode,
        replication: &mut Replication,
        grace: Duration,
    ) -> Self {
        let shares = Arc::new(ShareTable::new(me.clone()));
        replication.set_bounded(Arc::clone(&shares));
        let mode = ModeVersion::configured(mode);
        let announced = Announcement::of(mode);
        let attributes = Attributes {
            mode: Some(announced),
            frame_version: Some(FRAME_VERSION),
            ..Attributes::default()
        };
        let myself = Heard { address, attributes };
        Self {
            escrow: Escrow::new(me.clone(), config, grace, mode.into(), shares),
            stage: Stage::Staying,
            table: MemberTable::new(me.clone(), 1),
            heard: BTreeMap::from([(me.clone(), myself)]),
            live: BTreeSet::new(),
            gone: BTreeMap::new(),
            dropped: BTreeSet::new(),
            mode,
            announced,
            published: [0; 2],
            view_planned: false,
            me,
        }
    }

    /// The mode that it decides by.
    pub(super) fn mode(&self) -> ModeVersion {
        self.mode
    }

    /// What it says of itself.
    pub(super) fn own(&self) -> (ReplicaId, Heard) {
        (self.me.clone(), self.heard[&self.me].clone())
    }

    /// All that it knows.
    pub(super) fn news(&self) -> News {
        let heard = self.heard.iter();
        heard.map(|(id, heard)| (id.clone(), heard.clone())).collect()
    }

    /// Takes in what a peer says; true when something of it is new. Of each value the newest counts, in whatever
    /// order they come.
    pub(super) fn hear(&mut self, news: News) -> bool {
        let mut is_new = false;
        for (replica, said) in news {
            if replica == self.me || self.dropped.contains(&replica) && !self.live.contains(&replica) {
                continue;
            }
            match self.heard.get_mut(&replica) {
                Some(known) => is_new |= merge(&mut known.attributes, &said.attributes),
                None => {
                    self.heard.insert(replica, said);
                    is_new = true;
                }
            }
        }
        is_new
    }

    /// Membership calls these alive at virtual time `at`; what is known of the others is let go once they have
    /// been gone for `retention`.
    pub(super) fn set_live(&mut self, live: BTreeSet<ReplicaId>, at: Duration, retention: Duration) {
        self.live = live;
        let (live, me) = (&self.live, &self.me);
        self.gone.retain(|replica, _| !live.contains(replica));
        for replica in self.heard.keys() {
            if replica != me && !live.contains(replica) {
                self.gone.entry(replica.clone()).or_insert(at);
            }
        }
        let long_gone = self.gone.iter().filter(|(_, since)| **since + retention <= at);
        let long_gone: Vec<_> = long_gone.map(|(replica, _)| replica.clone()).collect();
        for replica in long_gone {
            self.heard.remove(&replica);
            self.gone.remove(&replica);
            self.dropped.insert(replica);
        }
    }

    /// Sets the mode of the whole cluster.
    pub(super) fn set_mode(&mut self, mode: SyncMode, limiter: &Limiter, now: Now) {
        self.adopt(self.mode.next(mode, now.wall), limiter, now);
    }

    fn adopt(&mut self, mode: ModeVersion, limiter: &Limiter, now: Now) {
        self.announced = self.announced.adopt(mode, limiter, || now.wall);
        self.mode = mode;
        let announced = self.announced;
        self.change_own(|own| own.mode = Some(announced));
    }

    fn change_own(&mut self, change: impl FnOnce(&mut Attributes)) {
        if let Some(own) = self.heard.get_mut(&self.me) {
            change(&mut own.attributes);
        }
    }

    /// Tells the node what membership knows by now. True when a mode was adopted.
    pub(super) fn look_around(
        &mut self,
        limiter: &Limiter,
        replication: &mut Replication,
        now: Now,
    ) -> (View, bool) {
        let sightings = self.heard.iter().map(|(replica, heard)| Sighting {
            replica: replica.clone(),
            address: heard.address,
            live: self.live.contains(replica),
            attributes: heard.attributes.clone(),
        });
        let view = self.table.view(sightings.collect(), now.monotonic);
        let heard = view.mode.filter(|mode| mode.version > 0);
        let newer = heard.filter(|mode| mode.supersedes(self.mode));
        if let Some(newer) = newer {
            self.adopt(newer, limiter, now);
        }
        limiter.set_replicas(view.replicas);
        replication.set_frame_version(view.frame_version);
        replication.handle_membership(&view.peers, now);
        self.escrow.handle_members(view.sights(), now.wall);
        (view, newer.is_some())
    }

    /// One turn of the gossip thread, as far as the escrow goes.
    pub(super) fn turn(&mut self, limiter: &Limiter, replication: &mut Replication, now: Now) -> Turned {
        self.escrow.look_at_rules(limiter, self.mode.into(), now);
        let outcome = replication.advance_escrow(&mut self.escrow, now.wall);
        Turned {
            inherited: outcome.inherited.len(),
            has_news: self.publish(),
        }
    }

    /// Begins to leave.
    pub(super) fn leave(&mut self, replication: &mut Replication, now: Now) {
        self.stage = Stage::Leaving;
        self.escrow.leave(now.wall);
        replication.handle_leave(now);
        self.change_own(|own| own.presence = Presence::Leaving);
    }

    /// Whether it may go: all that it counted has arrived, and its rights are another's.
    pub(super) fn may_depart(&self, replication: &Replication) -> bool {
        self.stage == Stage::Leaving && replication.is_acknowledged() && self.escrow.is_settled()
    }

    /// Says its last word.
    pub(super) fn depart(&mut self) {
        self.stage = Stage::Departed;
        self.change_own(|own| own.presence = Presence::Left);
    }

    fn publish(&mut self) -> bool {
        let roster: Option<RosterRecord> = self.escrow.roster_record().cloned();
        let estate: Option<EstateRecord> = self.escrow.estate_record().cloned();
        let versions = [
            roster.as_ref().map_or(0, |record| record.version),
            estate.as_ref().map_or(0, |record| record.version),
        ];
        if versions == self.published {
            return false;
        }
        self.published = versions;
        self.change_own(|own| {
            own.roster = roster.map(Arc::new);
            own.estate = estate.map(Arc::new);
        });
        true
    }
}

/// Takes over what is newer; true when anything was.
fn merge(known: &mut Attributes, said: &Attributes) -> bool {
    let mut is_new = false;
    let newer_mode = said
        .mode
        .filter(|mode| known.mode.is_none_or(|known| mode.set.supersedes(known.set)));
    if newer_mode.is_some() {
        known.mode = newer_mode;
        is_new = true;
    }
    let version = |record: &Option<Arc<RosterRecord>>| record.as_ref().map_or(0, |record| record.version);
    if version(&said.roster) > version(&known.roster) {
        known.roster.clone_from(&said.roster);
        is_new = true;
    }
    let version = |record: &Option<Arc<EstateRecord>>| record.as_ref().map_or(0, |record| record.version);
    if version(&said.estate) > version(&known.estate) {
        known.estate.clone_from(&said.estate);
        is_new = true;
    }
    if rank(said.presence) > rank(known.presence) {
        known.presence = said.presence;
        is_new = true;
    }
    is_new
}

fn rank(presence: Presence) -> u8 {
    match presence {
        Presence::Staying => 0,
        Presence::Leaving => 1,
        Presence::Left => 2,
    }
}
