//! The bounded mode's rules: who may spend how much, so that the sum never exceeds the limit.
//!
//! Owns the roster (who holds a share of a window), the shares, the transfer rules and the wills; the
//! proof that they keep the promise is `docs/bounded.md`. Promises to do no I/O, to read no clock and to
//! draw no randomness: what was heard and the time come in as arguments, and what to publish comes out.
//!
//! In reading order: [`record`](RosterRecord) (what a replica publishes), [`Roster`] (who takes a share of
//! which window), [`Membership`] (how large it is), [`Rights`] (how it moves), [`Estate`] (who inherits it),
//! [`Escrow`] (one node's roster and estate at work).
//! `rules` names the parts that the model checker breaks one at a time, to show that each is needed.

mod blocked;
mod escrow;
#[cfg(test)]
mod model;
mod record;
mod rights;
#[cfg(test)]
mod rights_tests;
mod roster;
#[cfg(test)]
mod roster_tests;
mod rules;
mod share;
mod will;
#[cfg(test)]
mod will_tests;

pub use blocked::Blocked;
pub use escrow::{
    AnnouncedMode, Escrow, EscrowReading, EscrowStatus, ForgetError, Logs, Outcome, PeriodStatus, Sight,
    WillStatus, grace,
};
pub use record::{RecordError, RosterRecord};
pub use rights::{Account, Answer, Ask, Rights, allowance};
pub use roster::{MemberStatus, Roster, RosterConfig};
pub use share::{Membership, ShareTable, priority, replica_hash};
pub use will::{Bequest, Estate, EstateError, EstateRecord, Will, heir};
