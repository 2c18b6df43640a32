//! The replicas of the model, and what a step does to one of them.

use std::collections::BTreeMap;

use super::super::super::roster::Roster;
use super::super::super::{Membership, RosterRecord};
use super::super::Part;
use super::{LIMITS, Scenario, TICK};
use crate::limit::{KeyHash, UnixMillis, Window};
use crate::replica::ReplicaId;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct State {
    pub(super) now: u64,
    pub(super) replicas: Vec<Part<Replica>>,
    /// Per window start: how many took a share, and the sum of the shares of each of [`LIMITS`].
    pub(super) taken: BTreeMap<u64, (usize, [u64; 3])>,
    pub(super) leaves: usize,
    pub(super) crashes: usize,
    pub(super) forgets: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Replica {
    pub(super) booted: bool,
    /// How far its clock is ahead.
    pub(super) ahead: u64,
    /// While the process runs.
    pub(super) roster: Option<Roster>,
    pub(super) id: Option<ReplicaId>,
    pub(super) published: Vec<RosterRecord>,
}
impl State {
    pub(super) fn clock(&self, replica: usize) -> UnixMillis {
        UnixMillis((self.now + self.replicas[replica].ahead) * TICK)
    }

    /// Lets a replica's roster change, and publishes what comes of it.
    pub(super) fn with<R>(&mut self, replica: usize, change: impl FnOnce(&mut Roster, UnixMillis) -> R) -> R {
        let clock = self.clock(replica);
        self.replicas[replica].change(|state| {
            let roster = state.roster.as_mut().expect("actions are of running processes");
            let result = change(roster, clock);
            if state.published.last() != Some(roster.record()) {
                let newer = |last: &RosterRecord| last.version < roster.record().version;
                assert!(
                    state.published.last().is_none_or(newer),
                    "a changed record has a higher version"
                );
                state.published.push(roster.record().clone());
            }
            result
        })
    }

    pub(super) fn hear(&mut self, replica: usize, owner: usize, version: u64) {
        let id = self.replicas[owner].id.clone().expect("who published has booted");
        let record = self.replicas[owner]
            .published
            .iter()
            .find(|record| record.version == version);
        let record = record.expect("actions name published versions").clone();
        self.with(replica, |roster, clock| roster.handle_record(&id, &record, clock));
    }

    pub(super) fn take(&mut self, replica: usize, start: u64) {
        let open = [UnixMillis(start * TICK)];
        let before = self.replicas[replica]
            .roster
            .as_ref()
            .map_or(0, |roster| roster.decided().count());
        let taken = self.with(replica, |roster, clock| {
            let taken = roster.take(open[0], clock);
            (taken, roster.decided().count())
        });
        if let (Ok(membership), after) = taken
            && after > before
        {
            let entry = self.taken.entry(start).or_default();
            entry.0 += 1;
            for (sum, (limit, key)) in entry.1.iter_mut().zip(LIMITS) {
                *sum += share(&membership, limit, key);
            }
        }
    }

    pub(super) fn held(&self, replica: usize, owner: usize) -> u64 {
        let (roster, id) = (&self.replicas[replica].roster, &self.replicas[owner].id);
        let held = roster
            .as_ref()
            .zip(id.as_ref())
            .map(|(roster, id)| roster.held_version(id));
        held.unwrap_or(0)
    }

    /// Drops what no step can see any more, so that states which differ only in it are one.
    pub(super) fn settle(&mut self, scenario: &Scenario) {
        let now = self.now;
        let length = if scenario.lazy { scenario.window } else { 0 };
        self.taken.retain(|start, _| now <= start + length);
        for owner in 0..self.replicas.len() {
            let may_hear = |replica: &usize| {
                *replica != owner && (!self.replicas[*replica].booted || self.runs(*replica))
            };
            let least = (0..self.replicas.len())
                .filter(may_hear)
                .map(|replica| self.held(replica, owner))
                .min();
            let last = self.replicas[owner]
                .published
                .last()
                .map_or(0, |record| record.version);
            let useless =
                |record: &RosterRecord| record.version <= least.unwrap_or(last) && record.version != last;
            if self.replicas[owner].published.iter().any(useless) {
                self.replicas[owner].change(|state| state.published.retain(|record| !useless(record)));
            }
        }
    }

    pub(super) fn marked(&self, replica: usize) -> bool {
        self.replicas[replica]
            .published
            .last()
            .is_some_and(|record| record.leaving_at.is_some())
    }

    pub(super) fn runs(&self, replica: usize) -> bool {
        self.replicas[replica].roster.is_some()
    }
}

fn share(membership: &Membership, limit: u64, key: u128) -> u64 {
    let start = membership.start();
    let window = Window {
        start,
        end: UnixMillis(start.0 + TICK),
    };
    membership.share(limit, KeyHash(key), window)
}
