//! Leaving in order: the mark, the will, and the heir's word that it has been executed.

use std::time::Duration;

use crate::limit::UnixMillis;
use crate::replica::ReplicaId;

use super::super::will::{EstateError, heir};
use super::{Escrow, Logs, Sight};

/// How long a leaver waits for one who may inherit to be called alive: the failure detector takes some heartbeats
/// for that, and a share may be taken before. Less than the three seconds that a node has for its will.
const HEIR_PATIENCE: Duration = Duration::from_secs(2);

/// How far this node has come in leaving.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Departure {
    Staying,
    /// Marked; what was counted is still on its way into the log.
    Marked,
    /// The will names this heir.
    Bequeathed(ReplicaId),
    /// Nothing is left to wait for.
    Settled,
}

impl Escrow {
    /// Begins to leave: takes no more shares, and says so.
    pub fn leave(&mut self, now: UnixMillis) {
        self.clock = now.max(self.clock);
        if self.departure != Departure::Staying {
            return;
        }
        self.news = true;
        self.departure = Departure::Settled;
        if self.involved {
            self.roster.leave(self.clock);
            self.departure = Departure::Marked;
        }
    }

    /// Everything that this node ever consumed in bounded rows is in its log up to `version`, and it grants
    /// nothing any more: the will may be written. Called again while [`Escrow::awaits_release`].
    pub fn handle_released(&mut self, version: u64, logs: &impl Logs) {
        if self.departure != Departure::Marked {
            return;
        }
        self.news = true;
        let Some(heir) = self.heir(None) else {
            if !self.expects_heir() {
                self.departure = Departure::Settled;
            }
            return;
        };
        let taken: Vec<_> = self.roster.decided().cloned().collect();
        // What rows are not held of any more must not be inherited: they would seem to be unspent.
        let open = |start: UnixMillis| {
            let windows = self.periods.iter().map(|period| period.window_at(start));
            let mut of_start = windows.filter(|window| window.start == start);
            of_start.any(|window| window.end.plus(self.grace) > self.clock)
        };
        let has_rows = |replica: &ReplicaId| logs.has_rows(replica);
        self.departure = match self.estate.bequeath(&heir, version, &taken, open, has_rows) {
            Ok(()) => Departure::Bequeathed(heir),
            // Too large to publish: what it would have saved is lost.
            Err(_) => Departure::Settled,
        };
    }

    /// Whether this node waits for [`Escrow::handle_released`].
    #[must_use]
    pub fn awaits_release(&self) -> bool {
        self.departure == Departure::Marked
    }

    /// Whether this node may stop as far as its rights go: its heir owns them, or there is none.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.departure == Departure::Settled
    }

    pub(super) fn is_leaving(&self) -> bool {
        self.departure != Departure::Staying
    }

    /// Looks whether the heir has executed the will, and names another where it never can.
    pub(super) fn go_on_leaving(&mut self, logs: &impl Logs) {
        let Departure::Bequeathed(heir) = &self.departure else {
            return;
        };
        let heir = heir.clone();
        self.estate.ease(|replica| logs.has_rows(replica));
        let record = self.sight(&heir).and_then(|sight| sight.estate.clone());
        let Some(record) = record else {
            return;
        };
        if self.estate.is_executed(&record) {
            self.departure = Departure::Settled;
            return;
        }
        let other = self.heir(Some(&heir));
        let revised = match &other {
            Some(other) => self.estate.revise(&record, other),
            None if record.will.is_some() => Ok(()),
            None => Err(EstateError::Pending),
        };
        if revised.is_ok() {
            self.departure = other.map_or(Departure::Settled, Departure::Bequeathed);
        }
    }

    /// Who is to inherit, `except` for one who cannot: of those that took shares before if there are any, else of
    /// those that only joined, as after an update that has replaced everybody else within one window.
    fn heir(&self, except: Option<&ReplicaId>) -> Option<ReplicaId> {
        let among = |active| {
            let candidates = self.sights.iter().filter(|sight| self.may_inherit(sight, active));
            let candidates = candidates.map(|sight| &sight.replica);
            heir(&self.me, candidates.filter(|replica| Some(*replica) != except))
        };
        among(true).or_else(|| among(false)).cloned()
    }

    fn may_inherit(&self, sight: &Sight, active: bool) -> bool {
        let is_such = sight
            .roster
            .as_ref()
            .is_some_and(|record| record.active == active);
        sight.live && is_such && self.stays(sight)
    }

    fn stays(&self, sight: &Sight) -> bool {
        let is_marked = sight
            .roster
            .as_ref()
            .is_none_or(|record| record.leaving_at.is_some());
        let has_will = sight.estate.as_ref().is_some_and(|record| record.will.is_some());
        !sight.has_left && !is_marked && !has_will && sight.replica.node != self.me.node
    }

    /// Whether one who could inherit has been out of reach for a moment only, or was not called alive yet.
    fn expects_heir(&self) -> bool {
        let unheard = |sight: &&Sight| {
            let mut members = self.roster.members();
            let member = members.find(|member| member.replica == sight.replica);
            let dead_since = member.and_then(|member| member.dead_since);
            dead_since.is_some_and(|since| since.plus(HEIR_PATIENCE) > self.clock)
        };
        let mut staying = self.sights.iter().filter(|sight| self.stays(sight));
        staying.any(|sight| unheard(&sight))
    }

    fn sight(&self, replica: &ReplicaId) -> Option<&Sight> {
        self.sights.iter().find(|sight| sight.replica == *replica)
    }
}
