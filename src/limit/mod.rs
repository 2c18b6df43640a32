//! Rules, keys, windows, counters and the admission decision.
//!
//! Owns what a node counts and what it decides. Promises to do no I/O, to read no clock and to draw no
//! randomness, and that no lock which the gossip thread can hold stands on the path of
//! [`Limiter::check`].

#[cfg(test)]
mod bounded_tests;
mod counters;
mod denial;
pub mod headers;
mod key;
mod limiter;
mod mode;
mod names;
mod rule;
mod rules;
mod schedule;
mod shares;
pub mod significance;
mod step;
mod table;
#[cfg(test)]
mod tests;
mod time;
mod waiting;
mod window;

pub use counters::{CounterStats, Counters, RowRef, RowView, Short, TableFull};
pub use headers::HeaderNames;
pub use key::{Identity, IdentityHasher, IpPrefixes, KeyHash, RowKey, RuleId};
pub use limiter::{Charge, Decision, Due, Limiter, Outcome, WindowState};
pub use mode::{Overflow, SyncMode, WithoutShare};
pub use names::KeyNames;
pub use rule::{CountBy, Hits, Limit, Rule, RuleError, RuleScope, WindowLimit};
pub use rules::Rules;
pub use shares::{NoShares, Shares};
pub use time::{Now, UnixMillis};
pub use waiting::{Waiting, WaitingRoom, WaitingStats, Woken};
pub use window::{Period, Window};
