//! Who takes a share of which window, without consensus.
//!
//! Two replicas that both take a share of a window have counted each other: that is all the state machine
//! has to ensure, and each of its rules is needed for it (`docs/bounded.md`, and the model in `model`).

mod change;
mod permit;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::limit::UnixMillis;
use crate::replica::{Generation, NodeId, ReplicaId};

use super::blocked::Blocked;
use super::record::RosterRecord;
use super::rules::InForce;
use super::share::Membership;

/// How long a departed replica is remembered beyond need, so that a record which was on its way when it
/// left cannot list it as a member again.
const DEPARTED_RETENTION: Duration = Duration::from_secs(60 * 60);

/// Most window starts held at once: a handful per period in use, and there are few periods.
const STARTS_MAX: usize = 1024;

/// What the operator decides about the roster.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RosterConfig {
    /// S: how far two members' clocks may differ.
    pub skew: Duration,
    /// Node ids that must have gathered before a first share, where nobody is known to have taken one.
    pub min_roster: usize,
    /// How long after its boot a replica that has heard of nobody listens before it founds alone: its former
    /// life may have had peers, who will find it again.
    pub listen: Duration,
    /// A founder of one waits for a window that starts after its boot, as everybody else does.
    pub strict_start: bool,
    /// A node's new generation shows that the old process has stopped.
    pub retire_on_restart: bool,
    /// When a dead member is given up without an operator. Then the promise assumes that no partition
    /// lasts longer.
    pub forget_after: Option<Duration>,
}

/// The roster as one replica sees it. Takes in what it hears, gives the record to publish and, once per
/// window start, the membership under which it takes its share.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Roster {
    me: ReplicaId,
    config: RosterConfig,
    own: RosterRecord,
    /// The newest record held of each other replica.
    records: BTreeMap<ReplicaId, RosterRecord>,
    /// Members that membership calls dead, and since when.
    dead: BTreeMap<ReplicaId, UnixMillis>,
    decided: BTreeMap<UnixMillis, Arc<Membership>>,
    /// Starts not after `retained_at` that may still be decided; later ones all may.
    open: BTreeSet<UnixMillis>,
    retained_at: UnixMillis,
    /// The highest reading of the wall clock: what was added after a decision is never dated before it.
    clock: UnixMillis,
    end: Option<End>,
    full: bool,
    rules: InForce,
}

/// Why this replica will take no more shares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum End {
    Leaving,
    Superseded,
    Forgotten,
}

/// One member as the operator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberStatus {
    /// The member.
    pub replica: ReplicaId,
    /// Since when this replica counts it, by this replica's clock.
    pub from: UnixMillis,
    /// Until when it may have taken shares, if it departed.
    pub departed_until: Option<UnixMillis>,
    /// Since when membership calls it dead, if it does.
    pub dead_since: Option<UnixMillis>,
    /// Whether the newest record held of it lists this replica.
    pub lists_me: bool,
    /// Whether the newest record held of it says that it has taken a share.
    pub active: bool,
}

impl Roster {
    /// A roster of one: `me`, whose generation is the instant it booted.
    #[must_use]
    pub fn new(me: ReplicaId, config: RosterConfig) -> Self {
        let boot = boot_of(me.generation);
        let own = RosterRecord {
            version: 1,
            members: BTreeMap::from([(me.clone(), boot)]),
            ..RosterRecord::default()
        };
        Self {
            me,
            config,
            own,
            records: BTreeMap::new(),
            dead: BTreeMap::new(),
            decided: BTreeMap::new(),
            open: BTreeSet::new(),
            retained_at: UnixMillis(0),
            clock: boot,
            end: None,
            full: false,
            rules: InForce::ALL,
        }
    }

    /// The record to publish: its version has risen if it changed. It may reach others at any time, or
    /// not at all.
    #[must_use]
    pub fn record(&self) -> &RosterRecord {
        &self.own
    }

    /// Membership names `peer`: it is counted from now on.
    pub fn handle_peer(&mut self, peer: &ReplicaId, now: UnixMillis) {
        if !self.is_known(peer) {
            self.update(now, |roster| roster.add(peer));
        }
    }

    /// `peer` said goodbye without a record that says so: it counts nothing any more.
    pub fn handle_goodbye(&mut self, peer: &ReplicaId, now: UnixMillis) {
        if *peer != self.me && self.own.members.contains_key(peer) {
            self.update(now, |roster| roster.give_up(peer));
        }
    }

    /// The record of `owner` as it was published at some time. Older versions than the one held change
    /// nothing, so records may be lost, repeated and reordered.
    pub fn handle_record(&mut self, owner: &ReplicaId, record: &RosterRecord, now: UnixMillis) {
        let held = self.records.get(owner).map_or(0, |held| held.version);
        if *owner == self.me || record.version <= held {
            return;
        }
        self.update(now, |roster| {
            for (replica, until) in &record.departed {
                roster.depart(replica, *until);
            }
            if let Some(at) = record.leaving_at {
                roster.depart(owner, at);
            }
            roster.add(owner);
            for member in record.members.keys() {
                roster.add(member);
            }
            if roster.is_known(owner) {
                roster.records.insert(owner.clone(), record.clone());
            }
        });
    }

    /// Membership calls `peer` alive or dead. A dead member stays one; this is what the operator sees, and
    /// what `forget_after` goes by.
    pub fn handle_liveness(&mut self, peer: &ReplicaId, alive: bool, now: UnixMillis) {
        self.advance(now);
        if alive {
            self.dead.remove(peer);
        } else if self.own.members.contains_key(peer) {
            self.dead.entry(peer.clone()).or_insert(self.clock);
        }
    }

    /// Time has passed: forgets whom the configuration says to forget.
    pub fn handle_tick(&mut self, now: UnixMillis) {
        self.advance(now);
        let Some(patience) = self.config.forget_after else {
            return;
        };
        let expired = |since: &UnixMillis| since.plus(patience) <= self.clock;
        let gone: Vec<_> = self
            .dead
            .iter()
            .filter(|(_, since)| expired(since))
            .map(|(id, _)| id.clone())
            .collect();
        if !gone.is_empty() {
            self.update(now, |roster| {
                gone.iter().for_each(|replica| roster.give_up(replica));
            });
        }
    }

    /// The membership under which this replica takes its share of windows that start at `start`. Decided
    /// once; until then asking again may succeed.
    ///
    /// # Errors
    /// Why there is no share: [`Blocked`].
    pub fn take(&mut self, start: UnixMillis, now: UnixMillis) -> Result<Arc<Membership>, Blocked> {
        self.advance(now);
        if let Some(decided) = self.decided.get(&start) {
            return Ok(Arc::clone(decided));
        }
        self.permitted(start)?;
        let members = self.members_at(start);
        if !self.founds_alone(&members) {
            self.booted_before(start)?;
        }
        self.listed_by_all(&members, start)?;
        self.gathered(&members)?;
        let ids = members.into_iter().cloned();
        let membership = Membership::try_new(start, &self.me, ids).map(Arc::new);
        let membership = membership.expect("a replica is always a member of its own roster");
        self.decided.insert(start, Arc::clone(&membership));
        self.update(now, |roster| roster.own.active = true);
        Ok(membership)
    }

    /// Marks the leaving: no share is taken from now on, and the record says so.
    pub fn leave(&mut self, now: UnixMillis) {
        self.update(now, |roster| roster.end(End::Leaving));
    }

    /// The operator says that `node` is gone for good and that its process has stopped. Of several
    /// generations the newest stays, unless it is dead too. Gives those that depart. If one still lives, up
    /// to one more limit may be admitted.
    pub fn forget(&mut self, node: &NodeId, now: UnixMillis) -> Vec<ReplicaId> {
        let of_node = |id: &&ReplicaId| id.node == *node && **id != self.me;
        let generations: Vec<_> = self.own.members.keys().filter(of_node).cloned().collect();
        let newest = generations
            .last()
            .filter(|newest| generations.len() > 1 && !self.dead.contains_key(*newest));
        let gone: Vec<_> = generations
            .iter()
            .filter(|id| Some(*id) != newest)
            .cloned()
            .collect();
        self.update(now, |roster| {
            gone.iter().for_each(|replica| roster.give_up(replica));
        });
        gone
    }

    /// Forgets the decisions of all windows but those that start at one of `open`, and whoever departed
    /// before every window that can still be decided. What was once given up stays given up.
    pub fn retain(&mut self, open: &[UnixMillis], now: UnixMillis) {
        let still = |start: &&UnixMillis| {
            **start > self.retained_at || self.open.contains(start) || self.decided.contains_key(start)
        };
        let open: BTreeSet<UnixMillis> = open.iter().filter(still).take(STARTS_MAX).copied().collect();
        self.advance(now);
        self.decided
            .retain(|start, _| open.contains(start) || *start > self.clock);
        self.open = open;
        self.retained_at = self.clock;
        self.forget_departed();
    }

    /// The memberships taken, by window start.
    pub fn decided(&self) -> impl Iterator<Item = &Arc<Membership>> {
        self.decided.values()
    }

    /// Everybody known, the departed who still matter included, for the operator.
    pub fn members(&self) -> impl Iterator<Item = MemberStatus> {
        let departed = self
            .own
            .departed
            .iter()
            .map(|(id, until)| (id, *until, Some(*until)));
        let present = self.own.members.iter().map(|(id, from)| (id, *from, None));
        present.chain(departed).map(|(id, from, departed_until)| {
            let record = self.records.get(id);
            MemberStatus {
                replica: id.clone(),
                from,
                departed_until,
                dead_since: self.dead.get(id).copied(),
                lists_me: *id == self.me || record.is_some_and(|r| r.members.contains_key(&self.me)),
                active: if *id == self.me {
                    self.own.active
                } else {
                    record.is_some_and(|r| r.active)
                },
            }
        })
    }

    #[cfg(test)]
    pub(super) fn with_rules(mut self, rules: impl Into<InForce>) -> Self {
        self.rules = rules.into();
        self
    }

    #[cfg(test)]
    pub(super) fn joined(mut self, members: &[ReplicaId]) -> Self {
        let from = UnixMillis(0);
        self.own.members = members.iter().map(|member| (member.clone(), from)).collect();
        self.own.active = true;
        self
    }

    #[cfg(test)]
    pub(super) fn held_version(&self, owner: &ReplicaId) -> u64 {
        self.records.get(owner).map_or(0, |record| record.version)
    }
}

/// The boot instant that a generation carries, rounded up to a millisecond.
fn boot_of(generation: Generation) -> UnixMillis {
    UnixMillis(generation.0.div_ceil(1000))
}
