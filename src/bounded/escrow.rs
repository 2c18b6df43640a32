//! One node's roster and estate at work: what is heard goes in; shares, inheritances and what to publish
//! come out.
//!
//! Owns the roster, the estate and the table of shares that the limiter reads. Decides nothing by itself:
//! who takes a share is the roster's rule, who inherits is the estate's. What it adds is when each is asked,
//! and that a window whose members do not all decide it as bounded has no shares.

mod departure;
mod modes;
mod status;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use crate::limit::{Limiter, Now, Period, SyncMode, UnixMillis};
use crate::replica::{NodeId, ReplicaId};

use super::blocked::Blocked;
use super::record::RosterRecord;
use super::roster::{Roster, RosterConfig};
use super::share::ShareTable;
use super::will::{Estate, EstateError, EstateRecord};

use departure::Departure;
use modes::Modes;

pub use modes::AnnouncedMode;
pub use status::{EscrowReading, EscrowStatus, PeriodStatus, WillStatus};

/// How often what is blocked is looked at again where nothing new was heard.
const RETRY: Duration = Duration::from_millis(100);
/// How often a will is looked at while rows of the leaver are still on their way.
const WILL_RETRY: Duration = Duration::from_millis(5);
/// How much longer than S rows outlive their windows, for what is late on the way.
const GRACE_MARGIN: Duration = Duration::from_secs(1);
/// How often the rules are asked for their bounded periods. A switch to bounded mode is announced seconds ahead.
const RULES_INTERVAL: Duration = Duration::from_millis(100);
/// How often everything else that only time changes is looked at: members to forget.
const LOOK: Duration = Duration::from_secs(1);

/// One replica as membership shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sight {
    /// Who.
    pub replica: ReplicaId,
    /// Membership calls it alive.
    pub live: bool,
    /// It said goodbye: it counts nothing any more.
    pub has_left: bool,
    /// The cluster-wide mode that it says it decides by.
    pub mode: Option<AnnouncedMode>,
    /// The newest roster record heard of it.
    pub roster: Option<Arc<RosterRecord>>,
    /// The newest estate record heard of it.
    pub estate: Option<Arc<EstateRecord>>,
}

/// How far replication has come, as wills have to know.
pub trait Logs {
    /// The version of a replica's log below which nothing is missing here.
    fn held(&self, log: &ReplicaId) -> u64;
    /// Whether any row held carries a count of the replica.
    fn has_rows(&self, replica: &ReplicaId) -> bool;
}

/// What has come about. The table of shares has been replaced already: rows that exist are to be told, in the
/// order of the fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The rows of these replicas are this node's own from now on.
    pub inherited: Vec<ReplicaId>,
    /// This node has a share of the windows that start then.
    pub decided: Vec<UnixMillis>,
    /// These members have inherited.
    pub heirs: Vec<ReplicaId>,
}

/// Why a node was not forgotten. Nothing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ForgetError {
    /// Nobody by that name is counted.
    #[error("no such node is counted, or it has departed")]
    Unknown,
    /// Nobody is counted at all.
    #[error("no rule is bounded here, so nobody is counted and there is nobody to forget")]
    NotBounded,
    /// Membership calls it alive: to forget it would let it spend what others take for gone.
    #[error("this node is alive: stop it first, and wait until `weir roster` shows it as dead")]
    Alive,
    /// A node cannot forget itself.
    #[error("this is the node that was asked; stop it, then ask another one")]
    Itself,
}

/// The roster and the estate of one node at work.
#[derive(Debug)]
pub struct Escrow {
    me: ReplicaId,
    /// How long a share outlives its windows: late requests and late frames still find it.
    grace: Duration,
    roster: Roster,
    estate: Estate,
    shares: Arc<ShareTable>,
    /// Some rule is bounded, or was since this node started. Until then nobody is counted, so that a cluster
    /// without bounded rules gathers no dead members.
    involved: bool,
    /// When the rules are looked at next, on the monotonic clock.
    rules_due: Duration,
    periods: Vec<Period>,
    sights: Vec<Sight>,
    modes: BTreeMap<ReplicaId, Modes>,
    /// What this node decides by; its `from` may lie before the one that it announces.
    applied: AnnouncedMode,
    /// Starts of the windows in progress that have no share, and why.
    blocked: BTreeMap<UnixMillis, Blocked>,
    /// How many wills each member is known to have executed.
    executed: BTreeMap<ReplicaId, usize>,
    departure: Departure,
    decided_total: u64,
    /// The highest reading of the wall clock.
    clock: UnixMillis,
    /// When the next window starts.
    next_turn: UnixMillis,
    looked_at: UnixMillis,
    /// Something was heard that was not looked at yet.
    news: bool,
    will_pending: bool,
}

/// How long rows have to outlive their windows where two clocks may differ by `skew`, and at least `grace`. As long
/// as any heir may spend in a window by its own clock, whoever left must still be able to say what it had consumed.
#[must_use]
pub fn grace(grace: Duration, skew: Duration) -> Duration {
    grace.max(skew.saturating_add(GRACE_MARGIN))
}

impl Escrow {
    /// The escrow of `me`, which announces `mode` at first. Rows outlive their windows by `grace`, as [`grace`] has
    /// it. What it decides appears in `shares`.
    #[must_use]
    pub fn new(
        me: ReplicaId,
        config: RosterConfig,
        grace: Duration,
        mode: AnnouncedMode,
        shares: Arc<ShareTable>,
    ) -> Self {
        Self {
            grace,
            roster: Roster::new(me.clone(), config),
            estate: Estate::new(me.clone()),
            shares,
            involved: false,
            rules_due: Duration::ZERO,
            periods: Vec::new(),
            sights: Vec::new(),
            modes: BTreeMap::from([(me.clone(), Modes::new(mode))]),
            applied: mode,
            blocked: BTreeMap::new(),
            executed: BTreeMap::new(),
            departure: Departure::Staying,
            decided_total: 0,
            clock: UnixMillis(0),
            next_turn: UnixMillis(0),
            looked_at: UnixMillis(0),
            news: false,
            will_pending: false,
            me,
        }
    }

    /// Every replica that membership knows, this one included.
    pub fn handle_members(&mut self, sights: Vec<Sight>, now: UnixMillis) {
        self.clock = now.max(self.clock);
        self.sights = sights;
        if self.involved {
            self.absorb();
        }
    }

    /// The periods of rules that are bounded, or will be, and the cluster-wide mode that this node decides
    /// by.
    pub fn handle_rules(&mut self, periods: Vec<Period>, applied: AnnouncedMode, now: UnixMillis) {
        self.clock = now.max(self.clock);
        if periods == self.periods && applied == self.applied {
            return;
        }
        self.periods = periods;
        self.applied = applied;
        self.news = true;
        // Of other periods, other windows start next.
        self.next_turn = UnixMillis(0);
        if !self.involved && !self.periods.is_empty() {
            self.involved = true;
            self.absorb();
        }
    }

    /// Looks at the rules of `limiter` and the mode that it decides by, if that is due; whether it was.
    pub fn look_at_rules(&mut self, limiter: &Limiter, applied: AnnouncedMode, now: Now) -> bool {
        let is_due = now.monotonic >= self.rules_due;
        if is_due {
            self.rules_due = now.monotonic + RULES_INTERVAL;
            self.handle_rules(limiter.bounded_periods(now.wall), applied, now.wall);
        }
        is_due
    }

    /// Whether [`Escrow::advance`] has something to do at `now`.
    #[must_use]
    pub fn is_due(&self, now: UnixMillis) -> bool {
        self.poll_timeout().is_some_and(|at| at <= now)
    }

    /// When [`Escrow::advance`] wants to be called: at the start of the next window of a bounded rule, since
    /// requests wait for its share; sooner while a share or a will is waited for.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<UnixMillis> {
        let patience = match (self.will_pending, self.blocked.is_empty() && !self.is_leaving()) {
            (true, _) => WILL_RETRY,
            (false, false) => RETRY,
            (false, true) => LOOK,
        };
        let look = if self.news {
            self.clock
        } else {
            self.looked_at.plus(patience)
        };
        let listened = self.blocked.values().filter_map(|blocked| match blocked {
            Blocked::Listening { until } => Some(*until),
            _ => None,
        });
        let due = listened.fold(look.min(self.next_turn), UnixMillis::min);
        self.involved.then_some(due)
    }

    /// Takes the shares that may be taken, executes the wills that may be executed, and goes on leaving.
    pub fn advance(&mut self, now: UnixMillis, logs: &impl Logs) -> Outcome {
        self.clock = now.max(self.clock);
        let mut outcome = Outcome::default();
        if !self.involved {
            return outcome;
        }
        self.looked_at = self.clock;
        self.news = false;
        self.roster.handle_tick(self.clock);
        let turned = self.clock >= self.next_turn;
        if turned {
            self.turn_windows(logs);
        }
        self.execute_wills(logs, &mut outcome);
        self.take_shares(&mut outcome);
        if turned || !outcome.inherited.is_empty() || !outcome.decided.is_empty() {
            let held = self.roster.decided().chain(self.estate.memberships());
            self.shares.replace(held.cloned());
        }
        self.note_heirs(&mut outcome);
        self.go_on_leaving(logs);
        outcome
    }

    /// The record to publish, once any rule is bounded; its version rises with every change.
    #[must_use]
    pub fn roster_record(&self) -> Option<&RosterRecord> {
        self.involved.then(|| self.roster.record())
    }

    /// As [`Escrow::roster_record`], of wills.
    #[must_use]
    pub fn estate_record(&self) -> Option<&EstateRecord> {
        self.involved.then(|| self.estate.record())
    }

    /// The operator says that `node` is gone for good and that its process has stopped. Gives the replicas that
    /// depart; if one still lives, cut off from here, up to one more limit may be admitted.
    ///
    /// # Errors
    /// Who is not counted, or is alive in its only life, cannot be forgotten; nothing changed.
    pub fn forget(&mut self, node: &NodeId, now: UnixMillis) -> Result<Vec<ReplicaId>, ForgetError> {
        self.clock = now.max(self.clock);
        if !self.involved {
            return Err(ForgetError::NotBounded);
        }
        let lives = self
            .roster
            .members()
            .filter(|member| member.replica.node == *node);
        let lives: Vec<_> = lives
            .filter(|member| member.departed_until.is_none() && member.replica != self.me)
            .collect();
        match &lives[..] {
            [] if *node == self.me.node => Err(ForgetError::Itself),
            [] => Err(ForgetError::Unknown),
            [only] if only.dead_since.is_none() => Err(ForgetError::Alive),
            _ => {
                self.news = true;
                Ok(self.roster.forget(node, self.clock))
            }
        }
    }

    /// Counts everybody in sight.
    fn absorb(&mut self) {
        self.news = true;
        let now = self.clock;
        for sight in &self.sights {
            if let Some(mode) = sight.mode {
                let modes = self.modes.entry(sight.replica.clone());
                modes.or_insert_with(|| Modes::new(mode)).note(mode);
            }
            if sight.replica == self.me {
                continue;
            }
            let marked = sight
                .roster
                .as_ref()
                .is_some_and(|record| record.leaving_at.is_some());
            if sight.has_left && !marked {
                self.roster.handle_goodbye(&sight.replica, now);
                continue;
            }
            self.roster.handle_peer(&sight.replica, now);
            if let Some(record) = &sight.roster {
                self.roster.handle_record(&sight.replica, record, now);
            }
        }
        let live: BTreeSet<&ReplicaId> = self
            .sights
            .iter()
            .filter(|s| s.live)
            .map(|s| &s.replica)
            .collect();
        let members: Vec<ReplicaId> = self.roster.record().members.keys().cloned().collect();
        for member in members.iter().filter(|member| **member != self.me) {
            self.roster.handle_liveness(member, live.contains(member), now);
        }
        let roster = &self.roster;
        self.modes
            .retain(|replica, _| *replica == self.me || roster.is_known(replica));
    }

    /// Lets go of what ended, and notes when the next window starts.
    fn turn_windows(&mut self, logs: &impl Logs) {
        let mut open = Vec::new();
        let mut next = UnixMillis(u64::MAX);
        for period in &self.periods {
            let window = period.window_at(self.clock);
            next = next.min(window.end);
            open.push(window.start);
            if window.start.0 > 0 && window.start.plus(self.grace) > self.clock {
                open.push(period.window_at(UnixMillis(window.start.0 - 1)).start);
            }
        }
        self.next_turn = next;
        self.roster.retain(&open, self.clock);
        self.estate
            .retain(&open, self.clock, |replica| logs.has_rows(replica));
        let sights = &self.sights;
        self.estate
            .forget_executed(|leaver| sights.iter().any(|sight| sight.replica == *leaver));
    }

    fn take_shares(&mut self, outcome: &mut Outcome) {
        let starts: BTreeSet<UnixMillis> = self
            .periods
            .iter()
            .map(|period| period.window_at(self.clock).start)
            .collect();
        let decided: BTreeSet<UnixMillis> = self
            .roster
            .decided()
            .map(|membership| membership.start())
            .collect();
        self.blocked.clear();
        for start in starts.difference(&decided) {
            match self.take(*start) {
                Ok(()) => {
                    self.decided_total += 1;
                    outcome.decided.push(*start);
                }
                Err(blocked) => {
                    self.blocked.insert(*start, blocked);
                }
            }
        }
    }

    fn take(&mut self, start: UnixMillis) -> Result<(), Blocked> {
        self.decided_as_bounded(start)?;
        self.roster.take(start, self.clock).map(|_| ())
    }

    /// Whoever decides a window by another mode admits without rights: then nobody has a share of it. Where
    /// this node itself does so, only rules that say `bounded` themselves use the shares, and those say so
    /// everywhere.
    fn decided_as_bounded(&self, start: UnixMillis) -> Result<(), Blocked> {
        let announced = |member: &ReplicaId| self.modes.get(member).and_then(|modes| modes.at(start));
        let own = if start > self.applied.from {
            Some(self.applied.mode)
        } else {
            announced(&self.me)
        };
        if own.is_some_and(|mode| mode != SyncMode::Bounded) {
            return Ok(());
        }
        let members = self.roster.members_at(start);
        let other = members
            .into_iter()
            .map(|member| (member, announced(member)))
            .find(|(_, mode)| *mode != Some(SyncMode::Bounded));
        match other {
            None => Ok(()),
            Some((member, former)) if *member == self.me => Err(Blocked::Switched { former }),
            Some((member, mode)) => Err(Blocked::OtherMode {
                member: member.clone(),
                mode,
            }),
        }
    }

    fn execute_wills(&mut self, logs: &impl Logs, outcome: &mut Outcome) {
        self.will_pending = false;
        for sight in &self.sights {
            let Some(record) = sight.estate.as_deref() else {
                continue;
            };
            match self.estate.execute(&sight.replica, record, |log| logs.held(log)) {
                Ok(true) => {
                    let bequests = record.will.iter().flat_map(|will| &will.estate);
                    outcome
                        .inherited
                        .extend(bequests.map(|bequest| bequest.replica.clone()));
                }
                Err(EstateError::Incomplete { .. }) => self.will_pending = true,
                // Of all other reasons none passes by itself.
                Ok(false) | Err(_) => {}
            }
        }
    }

    fn note_heirs(&mut self, outcome: &mut Outcome) {
        for sight in &self.sights {
            let executed = sight.estate.as_ref().map_or(0, |record| record.executed.len());
            if executed == 0 || sight.replica == self.me {
                continue;
            }
            let known = self.executed.entry(sight.replica.clone()).or_default();
            if executed > *known {
                outcome.heirs.push(sight.replica.clone());
            }
            *known = executed;
        }
        let sights = &self.sights;
        self.executed
            .retain(|replica, _| sights.iter().any(|sight| sight.replica == *replica));
    }
}
