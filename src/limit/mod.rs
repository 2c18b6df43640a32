//! Rules, keys, windows, counters and the admission decision.
//!
//! Owns what a node counts and what it decides. Promises to do no I/O, to read no clock and to draw no
//! randomness, and that no lock which the gossip thread can hold stands on the path of
//! [`Limiter::check`].

mod counters;
pub mod headers;
mod key;
mod limiter;
mod names;
mod rule;
pub mod significance;
mod table;
#[cfg(test)]
mod tests;
mod time;
mod window;

pub use counters::{CounterStats, Counters, RowRef, RowView, TableFull};
pub use headers::HeaderNames;
pub use key::{Identity, IdentityHasher, KeyHash, RowKey, RuleId};
pub use limiter::{Charge, Decision, Limiter, Outcome, WindowState};
pub use names::KeyNames;
pub use rule::{CountBy, Hits, Limit, Rule, RuleError, RuleScope, SyncMode, WindowLimit};
pub use time::{Now, UnixMillis};
pub use window::{Period, Window};
