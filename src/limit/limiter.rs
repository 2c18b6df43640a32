//! The admission decision.

use std::sync::Arc;

use smallvec::SmallVec;

use super::counters::Counters;
use super::key::KeyHash;
use super::rule::{Hits, Rule, SyncMode};
use super::significance::Significance;
use super::time::UnixMillis;
use super::window::{Period, Window};

/// One rule to charge for a request, and whom.
#[derive(Clone, Copy, Debug)]
pub struct Charge {
    /// Index of the rule in [`Limiter::rules`].
    pub rule: usize,
    /// Who is charged.
    pub key: KeyHash,
    /// How much.
    pub hits: Hits,
}

/// Whether a request may pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Counted in every window of every charge.
    Admitted,
    /// Counted nowhere. `window` is the index in [`Decision::windows`] of the one that stopped it (of
    /// several, the one that resets last).
    Denied {
        /// See the variant.
        window: usize,
    },
}

/// The state of one window right after a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowState {
    /// Index of the rule.
    pub rule: usize,
    /// The period.
    pub period: Period,
    /// The window.
    pub window: Window,
    /// The limit.
    pub limit: u64,
    /// What is left after this decision, by Kong's arithmetic.
    pub remaining: u64,
    /// Whole seconds until the window ends, at least 1.
    pub reset_seconds: u64,
}

/// What [`Limiter::check`] decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// May it pass?
    pub outcome: Outcome,
    /// Every window that was looked at, in the order of the charges.
    pub windows: SmallVec<[WindowState; 4]>,
    /// Some counted row is due (see [`Significance::is_due`]): wake replication now.
    pub due: bool,
}

/// Decides requests against the rules, and counts what it admits.
pub struct Limiter {
    _private: (),
}

impl Limiter {
    /// A limiter with `rules` under the cluster-wide `mode`, holding at most `max_keys` rows.
    #[must_use]
    pub fn new(_rules: Vec<Rule>, _mode: SyncMode, _significance: Significance, _max_keys: u32) -> Self {
        todo!("limit helper")
    }

    /// The table of counters, shared with replication.
    #[must_use]
    pub fn counters(&self) -> &Arc<Counters> {
        todo!("limit helper")
    }

    /// The rules in force.
    #[must_use]
    pub fn rules(&self) -> Arc<[Rule]> {
        todo!("limit helper")
    }

    /// Decides one request: all of `charges` are counted, or none.
    ///
    /// Exact under concurrency: however many threads call it, no window admits more than its limit on
    /// this node. Takes no lock.
    #[must_use]
    pub fn check(&self, _charges: &[Charge], _now: UnixMillis) -> Decision {
        todo!("limit helper")
    }

    /// The cluster-wide mode in force.
    #[must_use]
    pub fn mode(&self) -> SyncMode {
        todo!("limit helper")
    }

    /// Changes the cluster-wide mode at once. The caller then wakes replication, which finds every row
    /// in [`Counters::take_changed`].
    pub fn set_mode(&self, _mode: SyncMode) {
        todo!("limit helper")
    }

    /// Tells how many replicas share the limits (at least 1): the divisor of [`Significance`].
    pub fn set_replicas(&self, _replicas: u32) {
        todo!("limit helper")
    }
}
