//! Who is in the cluster, as decided from what membership reports.
//!
//! Pure: sightings and the time come in, one consistent view goes out. The one place that says which
//! replica is live, and how many share the limits.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::bounded::{EstateRecord, RosterRecord, Sight};
use crate::replica::{NodeId, ReplicaId};
use crate::replication::codec::{FRAME_VERSION, FRAME_VERSION_MIN};

use super::mode::{Announcement, ModeVersion};

/// How long a node that vanished still counts as sharing the limits: longer than a restart, so that the
/// divisor of significance does not jump with every flap.
const RECENTLY_LIVE: Duration = Duration::from_secs(10);

/// One replica as the cluster knows it; the recently dead are listed too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The replica.
    pub replica: ReplicaId,
    /// Where its gossip socket is reached.
    pub address: SocketAddr,
    /// Whether this is the node that tells.
    pub is_self: bool,
    /// Whether it is alive, and the newest life of its node.
    pub live: bool,
    /// What it says of itself.
    pub attributes: Attributes,
}

/// What a node publishes about itself. What is unknown, or not understood, is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Version of its binary.
    pub version: String,
    /// Digest of the configuration that must agree across nodes.
    pub config_digest: String,
    /// The newest sync mode it knows, and from when on it decides by it.
    pub mode: Option<Announcement>,
    /// Its admin API.
    pub admin: Option<SocketAddr>,
    /// Its listeners for clients.
    pub listen: Vec<SocketAddr>,
    /// The newest version of replication frames that it takes in.
    pub frame_version: Option<u8>,
    /// How far it has come in leaving.
    pub presence: Presence,
    /// Whom it counts among those who share limits in bounded mode; only where a rule is bounded.
    pub roster: Option<Arc<RosterRecord>>,
    /// Its will, and whose it has executed.
    pub estate: Option<Arc<EstateRecord>>,
}

/// How far a node has come in leaving the cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Presence {
    /// It stays.
    #[default]
    Staying,
    /// It flushes its counters and waits for acknowledgements.
    Leaving,
    /// It has said all it had to say, and stops.
    Left,
}

/// One replica as membership reports it.
#[derive(Clone, Debug)]
pub(crate) struct Sighting {
    pub(crate) replica: ReplicaId,
    pub(crate) address: SocketAddr,
    /// The failure detector takes it for alive.
    pub(crate) live: bool,
    pub(crate) attributes: Attributes,
}

/// The cluster at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct View {
    /// Every known replica, ourselves included, in order of node and generation.
    pub(crate) members: Vec<Member>,
    /// The other live replicas: whom replication talks to.
    pub(crate) peers: Vec<(ReplicaId, SocketAddr)>,
    /// How many nodes share the limits.
    pub(crate) replicas: u32,
    /// The newest mode that anybody publishes.
    pub(crate) mode: Option<ModeVersion>,
    /// The newest version of replication frames that every live replica takes in.
    pub(crate) frame_version: u8,
    /// A newer life of our own node id is alive in the cluster.
    pub(crate) superseded: bool,
    /// Roster and estate records, since the start, that could not be read.
    pub(crate) malformed_records: u64,
}

impl View {
    /// The members as the bounded mode's rules see them.
    pub(crate) fn sights(&self) -> Vec<Sight> {
        let sight = |member: &Member| Sight {
            replica: member.replica.clone(),
            live: member.live,
            has_left: member.attributes.presence == Presence::Left,
            mode: member.attributes.mode.map(Into::into),
            roster: member.attributes.roster.clone(),
            estate: member.attributes.estate.clone(),
        };
        self.members.iter().map(sight).collect()
    }
}

impl Default for View {
    fn default() -> Self {
        Self {
            members: Vec::new(),
            peers: Vec::new(),
            replicas: 0,
            mode: None,
            frame_version: FRAME_VERSION,
            superseded: false,
            malformed_records: 0,
        }
    }
}

/// Turns sightings into views.
pub(crate) struct MemberTable {
    me: ReplicaId,
    replicas_min: u32,
    // When each other node was last live. Forgotten after `RECENTLY_LIVE`, so it is bounded by membership.
    last_live: BTreeMap<NodeId, Duration>,
}

impl MemberTable {
    pub(crate) fn new(me: ReplicaId, replicas_min: u32) -> Self {
        Self {
            me,
            replicas_min,
            last_live: BTreeMap::new(),
        }
    }

    /// The cluster as `sightings` show it at the monotonic instant `now`.
    pub(crate) fn view(&mut self, mut sightings: Vec<Sighting>, now: Duration) -> View {
        sightings.sort_by(|a, b| a.replica.cmp(&b.replica));
        let newest = newest_generations(&sightings);
        let mut view = View::default();
        for sighting in sightings {
            let is_self = sighting.replica == self.me;
            let replica = &sighting.replica;
            let live = is_self
                || (sighting.live
                    && replica.node != self.me.node
                    && newest.get(&replica.node) == Some(&replica.generation)
                    && sighting.attributes.presence != Presence::Left);
            if live && !is_self {
                self.last_live.insert(replica.node.clone(), now);
                view.peers.push((replica.clone(), sighting.address));
            }
            if live {
                // The first release announced nothing.
                let takes_in = sighting.attributes.frame_version.unwrap_or(FRAME_VERSION_MIN);
                view.frame_version = view.frame_version.min(takes_in);
            }
            if sighting.attributes.presence == Presence::Left && !live {
                // It said goodbye: nothing more is to be expected of it.
                self.last_live.remove(&replica.node);
            }
            view.superseded |= sighting.live
                && replica.node == self.me.node
                && replica.generation > self.me.generation
                && sighting.attributes.presence != Presence::Left;
            if let Some(Announcement { set: mode, .. }) = sighting.attributes.mode
                && view.mode.is_none_or(|newest| mode.supersedes(newest))
            {
                view.mode = Some(mode);
            }
            view.members.push(Member {
                replica: sighting.replica,
                address: sighting.address,
                is_self,
                live,
                attributes: sighting.attributes,
            });
        }
        self.last_live
            .retain(|_, last| now.saturating_sub(*last) < RECENTLY_LIVE);
        let others = u32::try_from(self.last_live.len()).unwrap_or(u32::MAX);
        view.replicas = others.saturating_add(1).max(self.replicas_min);
        view
    }
}

/// The newest generation of each node that is alive by the failure detector: of two lives that overlap
/// for some seconds after a restart, only the newer one counts.
fn newest_generations(sightings: &[Sighting]) -> BTreeMap<NodeId, crate::replica::Generation> {
    // Later entries win, and the sightings are in order of generation.
    sightings
        .iter()
        .filter(|sighting| sighting.live)
        .map(|sighting| (sighting.replica.node.clone(), sighting.replica.generation))
        .collect()
}

#[cfg(test)]
#[path = "members_tests.rs"]
mod tests;
