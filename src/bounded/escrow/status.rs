//! What operators see of roster, shares and wills.

use crate::limit::{Period, Window};
use crate::replica::ReplicaId;

use super::super::blocked::Blocked;
use super::super::roster::MemberStatus;
use super::Escrow;
use super::departure::Departure;

/// Everything that an operator may ask about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EscrowStatus {
    /// Some rule is bounded, or was since this node started; else all else is empty.
    pub involved: bool,
    /// Everybody known, this node included.
    pub members: Vec<MemberStatus>,
    /// Each period in use, with the window in progress.
    pub periods: Vec<PeriodStatus>,
    /// Those whose rights this node owns.
    pub inherited: Vec<ReplicaId>,
    /// The will of this node, and of those that named it heir.
    pub wills: Vec<WillStatus>,
}

/// The window in progress of one period.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeriodStatus {
    /// The period.
    pub period: Period,
    /// Its window in progress.
    pub window: Window,
    /// Among how many members this node shares it; `None` while it has no share.
    pub divisor: Option<usize>,
    /// Why it has none.
    pub blocked: Option<Blocked>,
}

/// One will.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WillStatus {
    /// Who leaves.
    pub leaver: ReplicaId,
    /// Who inherits.
    pub heir: ReplicaId,
    /// Whether the heir has said that it owns everything.
    pub executed: bool,
}

/// Numbers for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EscrowReading {
    /// Members that did not depart, this node included.
    pub members: u64,
    /// Of them, those that are dead or do not list this node.
    pub members_missing: u64,
    /// Shares taken since the start.
    pub shares_decided: u64,
    /// Windows in progress of which this node has no share.
    pub shares_blocked: u64,
    /// Replicas whose rights this node owns.
    pub inherited: u64,
}

impl Escrow {
    /// Everything that an operator may ask about.
    #[must_use]
    pub fn status(&self) -> EscrowStatus {
        if !self.involved {
            return EscrowStatus {
                involved: false,
                members: Vec::new(),
                periods: Vec::new(),
                inherited: Vec::new(),
                wills: Vec::new(),
            };
        }
        EscrowStatus {
            involved: true,
            members: self.roster.members().collect(),
            periods: self
                .periods
                .iter()
                .map(|period| self.period_status(*period))
                .collect(),
            inherited: self.estate.inherited().cloned().collect(),
            wills: self.wills().collect(),
        }
    }

    /// Numbers for metrics.
    #[must_use]
    pub fn reading(&self) -> EscrowReading {
        if !self.involved {
            return EscrowReading::default();
        }
        let mut reading = EscrowReading {
            shares_decided: self.decided_total,
            shares_blocked: self.blocked.len() as u64,
            inherited: self.estate.inherited().count() as u64,
            ..EscrowReading::default()
        };
        for member in self
            .roster
            .members()
            .filter(|member| member.departed_until.is_none())
        {
            reading.members += 1;
            reading.members_missing += u64::from(member.dead_since.is_some() || !member.lists_me);
        }
        reading
    }

    fn period_status(&self, period: Period) -> PeriodStatus {
        let window = period.window_at(self.clock);
        let mut decided = self.roster.decided();
        let taken = decided.find(|membership| membership.start() == window.start);
        PeriodStatus {
            period,
            window,
            divisor: taken.map(|membership| membership.divisor()),
            blocked: self.blocked.get(&window.start).cloned(),
        }
    }

    fn wills(&self) -> impl Iterator<Item = WillStatus> {
        let own = self.estate.record().will.as_ref().map(|will| WillStatus {
            leaver: self.me.clone(),
            heir: will.heir.clone(),
            executed: self.departure == Departure::Settled,
        });
        let others = self.sights.iter().filter(|sight| sight.replica != self.me);
        let others = others.filter_map(|sight| {
            let will = sight.estate.as_ref()?.will.as_ref()?;
            (will.heir == self.me).then(|| WillStatus {
                leaver: sight.replica.clone(),
                heir: self.me.clone(),
                executed: self.estate.record().executed.contains(&sight.replica),
            })
        });
        own.into_iter().chain(others)
    }
}
