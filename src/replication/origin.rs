//! The replicas that rows come from, this node among them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Bound;
use std::time::Duration;

use crate::bounded::replica_hash;
use crate::limit::{Now, RowRef, UnixMillis};

use super::codec::Version;
use super::log::{OriginIndex, VersionLog};
use super::progress::Progress;
use crate::replica::ReplicaId;

/// This node's own place among the origins.
pub(super) const OWN: OriginIndex = OriginIndex(0);

/// Most replicas known at once, dead ones whose rows still count included.
pub(super) const ORIGINS_MAX: usize = 4096;

/// Most of them that membership never showed here: replicas that died before this node came, or that a
/// broken peer made up.
const STRANGERS_MAX: usize = 1024;

/// How long a dead replica without rows is remembered, so that a late frame finds it.
const FORGET_AFTER: Duration = Duration::from_secs(60);

/// A dead replica still counts as one that shares the limit for this long: it may only be slow.
const RECENTLY_LIVE: Duration = Duration::from_secs(10);

/// Two buckets of this length hold the clock offset samples.
const OFFSET_BUCKET: Duration = Duration::from_secs(10);

/// What waits for its place in a log: a row, and whose count it carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Waiting {
    pub(super) row: RowRef,
    pub(super) subject: OriginIndex,
    pub(super) window_end: UnixMillis,
    /// Its count rose when it came. Otherwise it was held before, and whatever covers it since still does.
    pub(super) raised: bool,
}

impl Waiting {
    /// The same place received twice.
    pub(super) fn join(self, newer: Self) -> Self {
        Self {
            raised: self.raised || newer.raised,
            ..newer
        }
    }
}

/// Rows of a log that this node could not take in or had to let go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hole {
    /// The lowest version lost.
    pub(super) at: Version,
    /// When nothing in the hole can matter any more.
    pub(super) until: UnixMillis,
    /// When asking for it again may help.
    pub(super) retry_at: UnixMillis,
}

/// One replica.
#[derive(Debug)]
pub(super) struct Origin {
    pub(super) id: ReplicaId,
    /// What grants name it by.
    pub(super) hash: u64,
    /// Its log, as far as held.
    pub(super) log: VersionLog,
    /// The claim on its log. Of our own log we hold [`Origin::top`].
    pub(super) progress: Progress<Waiting>,
    /// The newest version of our own log; unused for others.
    pub(super) top: Version,
    /// The claim as of the last tick: relays wait that long before they repair for a live owner.
    pub(super) settled: Version,
    pub(super) hole: Option<Hole>,
    /// Rows whose count rose without a place in the log to show for it.
    pub(super) loose: Vec<Waiting>,
    /// Membership has shown it.
    met: bool,
    /// Where it is reached while it lives.
    pub(super) address: Option<SocketAddr>,
    pub(super) live_until: Option<Duration>,
    pub(super) last_heard: Option<Duration>,
    /// When the last delta of its log came, from whomever.
    pub(super) last_delta: Duration,
    pub(super) offset: ClockOffset,
    /// Rows that carry a count of it.
    pub(super) rows: usize,
    /// Rows that exist here only because of a count of it.
    created: usize,
    /// Rows that it sent and that were refused.
    pub(super) refused: u64,
    /// Up to where it holds our own log, by its last digest.
    pub(super) acknowledged: Version,
    /// When to ask it for what is missing in front of a received stretch.
    pub(super) gap_at: Option<Duration>,
    pub(super) digest_sent: Option<Duration>,
}

impl Origin {
    fn new(id: ReplicaId) -> Self {
        Self {
            hash: replica_hash(&id),
            id,
            log: VersionLog::default(),
            progress: Progress::default(),
            top: 0,
            settled: 0,
            hole: None,
            loose: Vec::new(),
            met: false,
            address: None,
            live_until: None,
            last_heard: None,
            last_delta: Duration::ZERO,
            offset: ClockOffset::default(),
            rows: 0,
            created: 0,
            refused: 0,
            acknowledged: 0,
            gap_at: None,
            digest_sent: None,
        }
    }

    /// Membership says it is alive.
    pub(super) fn is_live(&self) -> bool {
        self.address.is_some()
    }

    /// Up to where its log, which has this `index`, is held.
    pub(super) fn held(&self, index: OriginIndex) -> Version {
        if index == OWN {
            self.top
        } else {
            self.progress.confirmed()
        }
    }

    /// Whether rows stand in its log above the claim, which was taken back to a hole.
    pub(super) fn holds_unclaimed(&self) -> bool {
        self.log.above(self.progress.confirmed()).next().is_some()
    }

    /// Records that the row at `version` is not held here until `until`.
    pub(super) fn record_hole(&mut self, version: Version, until: UnixMillis) {
        self.record_hole_until(version, until, UnixMillis(0));
    }

    /// As [`Origin::record_hole`], where asking again is in vain before `retry_at`.
    pub(super) fn record_hole_until(&mut self, version: Version, until: UnixMillis, retry_at: UnixMillis) {
        let hole = self.hole.get_or_insert(Hole {
            at: version,
            until,
            retry_at,
        });
        hole.at = hole.at.min(version);
        hole.until = hole.until.max(until);
        hole.retry_at = hole.retry_at.max(retry_at);
    }

    /// `limit`, or the last version in front of the hole.
    pub(super) fn before_hole(&self, limit: Version) -> Version {
        self.hole
            .map_or(limit, |hole| limit.min(hole.at.saturating_sub(1)))
    }
}

/// Estimates how far a peer's wall clock is ahead of ours. A frame's delay only ever makes the difference
/// smaller, so the largest recent sample is the closest (the clock filter of NTP, RFC 5905 §10).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ClockOffset {
    bucket: u64,
    current: Option<i64>,
    former: Option<i64>,
}

impl ClockOffset {
    /// Takes in the time that a peer wrote into a frame.
    pub(super) fn sample(&mut self, sent_at: UnixMillis, now: Now) {
        let bucket = now.monotonic.as_secs() / OFFSET_BUCKET.as_secs();
        if bucket != self.bucket {
            self.former = self.current.take().filter(|_| bucket == self.bucket + 1);
            self.bucket = bucket;
        }
        let ahead = i128::from(sent_at.0) - i128::from(now.wall.0);
        let ahead = i64::try_from(ahead).unwrap_or(if ahead > 0 { i64::MAX } else { i64::MIN });
        self.current = Some(self.current.map_or(ahead, |known| known.max(ahead)));
    }

    /// Milliseconds that the peer's clock is ahead.
    pub(super) fn millis(self) -> Option<i64> {
        self.current.max(self.former)
    }
}

/// All replicas by a small index, this node at [`OWN`].
#[derive(Debug)]
pub(super) struct Origins {
    slots: Vec<Option<Origin>>,
    by_id: BTreeMap<ReplicaId, OriginIndex>,
    /// Replicas that membership never showed.
    strangers: usize,
    /// Rows that exist here only because of a count of one of them.
    created_by_strangers: usize,
}

impl Origins {
    pub(super) fn new(me: ReplicaId) -> Self {
        Self {
            by_id: BTreeMap::from([(me.clone(), OWN)]),
            slots: vec![Some(Origin::new(me))],
            strangers: 0,
            created_by_strangers: 0,
        }
    }

    pub(super) fn index_of(&self, id: &ReplicaId) -> Option<OriginIndex> {
        self.by_id.get(id).copied()
    }

    /// The index of a replica that membership shows, made if need be; `None` at the bound.
    pub(super) fn meet(&mut self, id: &ReplicaId) -> Option<OriginIndex> {
        let index = self.index_or_insert(id)?;
        let origin = self.get_mut(index)?;
        let created = origin.created;
        if !std::mem::replace(&mut origin.met, true) && index != OWN {
            self.strangers = self.strangers.saturating_sub(1);
            // Or it would have one share as a stranger and another as a peer.
            self.created_by_strangers = self.created_by_strangers.saturating_sub(created);
        }
        Some(index)
    }

    /// The index of a replica that a frame names, made if need be; `None` at the bound.
    pub(super) fn hear_of(&mut self, id: &ReplicaId) -> Option<OriginIndex> {
        let known = self.index_of(id);
        if known.is_none() && self.strangers >= STRANGERS_MAX {
            return None;
        }
        known.or_else(|| self.index_or_insert(id))
    }

    /// Charges the making of a row to the replica whose count it carries. False if its share of `most` rows is
    /// used up: those whom membership never showed have one together.
    pub(super) fn charge(&mut self, subject: OriginIndex, most: usize) -> bool {
        let by_strangers = self.created_by_strangers;
        let Some(origin) = self.get_mut(subject) else {
            return false;
        };
        let used = if origin.met { origin.created } else { by_strangers };
        if used >= most {
            return false;
        }
        origin.created += 1;
        let of_stranger = usize::from(!origin.met);
        self.created_by_strangers += of_stranger;
        true
    }

    /// Takes a charge back: its row is gone, or was not made.
    pub(super) fn uncharge(&mut self, subject: OriginIndex) {
        let Some(origin) = self.get_mut(subject).filter(|origin| origin.created > 0) else {
            return;
        };
        origin.created -= 1;
        let of_stranger = usize::from(!origin.met);
        self.created_by_strangers = self.created_by_strangers.saturating_sub(of_stranger);
    }

    fn index_or_insert(&mut self, id: &ReplicaId) -> Option<OriginIndex> {
        if let Some(index) = self.index_of(id) {
            return Some(index);
        }
        let free = self.slots.iter().position(Option::is_none);
        let at = free.unwrap_or(self.slots.len());
        if at >= ORIGINS_MAX {
            return None;
        }
        let index = OriginIndex(u16::try_from(at).ok()?);
        let origin = Some(Origin::new(id.clone()));
        match self.slots.get_mut(at) {
            Some(slot) => *slot = origin,
            None => self.slots.push(origin),
        }
        self.by_id.insert(id.clone(), index);
        self.strangers += 1;
        Some(index)
    }

    pub(super) fn get(&self, index: OriginIndex) -> Option<&Origin> {
        self.slots.get(usize::from(index.0))?.as_ref()
    }

    pub(super) fn get_mut(&mut self, index: OriginIndex) -> Option<&mut Origin> {
        self.slots.get_mut(usize::from(index.0))?.as_mut()
    }

    /// This node.
    pub(super) fn own(&self) -> &Origin {
        self.get(OWN)
            .expect("our own origin is made first and never dropped")
    }

    /// See [`Origins::own`].
    pub(super) fn own_mut(&mut self) -> &mut Origin {
        self.get_mut(OWN)
            .expect("our own origin is made first and never dropped")
    }

    /// Every replica in the order of ids.
    pub(super) fn sorted(&self) -> impl Iterator<Item = (OriginIndex, &Origin)> {
        self.by_id
            .values()
            .filter_map(|index| Some((*index, self.get(*index)?)))
    }

    /// Every replica above `id` in the order of ids; all of them for `None`.
    pub(super) fn above(&self, id: Option<&ReplicaId>) -> impl Iterator<Item = (OriginIndex, &Origin)> {
        let from = id.map_or(Bound::Unbounded, Bound::Excluded);
        self.by_id
            .range((from, Bound::Unbounded))
            .filter_map(|(_, index)| Some((*index, self.get(*index)?)))
    }

    /// The others that are alive.
    pub(super) fn live(&self) -> impl Iterator<Item = (OriginIndex, &Origin)> {
        self.sorted().filter(|(_, origin)| origin.is_live())
    }

    /// How many replicas share the limits: this one, the live and the recently live.
    pub(super) fn sharing(&self, now: Duration) -> usize {
        let recently = |origin: &Origin| origin.live_until.is_some_and(|at| at + RECENTLY_LIVE > now);
        1 + self
            .sorted()
            .filter(|(index, o)| *index != OWN && (o.is_live() || recently(o)))
            .count()
    }

    /// Drops the dead that nothing is left of.
    pub(super) fn drop_forgotten(&mut self, now: Duration) {
        for slot in self.slots.iter_mut().skip(1) {
            let forgotten = slot.as_ref().is_some_and(|origin| {
                let last = origin.live_until.max(origin.last_heard).unwrap_or_default();
                !origin.is_live() && origin.rows == 0 && last + FORGET_AFTER < now
            });
            if let Some(origin) = slot.take_if(|_| forgotten) {
                self.by_id.remove(&origin.id);
                self.strangers = self.strangers.saturating_sub(usize::from(!origin.met));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replica::Generation;

    fn replica(generation: u64) -> ReplicaId {
        ReplicaId {
            node: "n0".parse().expect("a valid id"),
            generation: Generation(generation),
        }
    }

    #[test]
    fn a_stranger_that_membership_shows_takes_its_charges_with_it() {
        let mut origins = Origins::new(replica(1));
        let flooder = origins.hear_of(&replica(2)).expect("there is room");
        let other = origins.hear_of(&replica(3)).expect("there is room");
        assert!(origins.charge(flooder, 2) && origins.charge(flooder, 2));
        // Strangers share: the other finds it used up.
        assert!(!origins.charge(other, 2));
        assert_eq!(origins.meet(&replica(2)), Some(flooder));
        assert!(!origins.charge(flooder, 2), "one share, not two");
        assert!(origins.charge(other, 2) && origins.charge(other, 2) && !origins.charge(other, 2));
        origins.uncharge(flooder);
        assert!(origins.charge(flooder, 2) && !origins.charge(flooder, 2));
        assert!(
            !origins.charge(other, 2),
            "a peer's row gives strangers nothing back"
        );
        origins.uncharge(other);
        assert!(origins.charge(other, 2));
    }
}
