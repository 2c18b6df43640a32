//! The bounded mode's rules under a model checker (stateright): every interleaving of a small cluster.
//!
//! The models drive the very code that production runs; only the network, the clocks and the requests are
//! the checker's. Messages are never removed: whatever was once sent may arrive at any later time, in any
//! order, again, or never, which covers loss, delay, reordering, duplication and partitions of any shape.
//!
//! For each rule there is a test that breaks it and expects the violation. Exploration is complete where it
//! fits the bound on states, else breadth first up to it. `WEIR_MODEL_STATES` raises the bound, and
//! `--nocapture` prints the counts.

mod roster;
mod transfer;
mod will;

use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::sync::Arc;

use stateright::{Checker, HasDiscoveries, Model};

/// States generated per scenario in an ordinary test run.
const STATES: usize = 400_000;

/// A part of a state that most steps share: cloned by reference, and hashed once.
#[derive(Clone, Debug)]
struct Part<T> {
    value: Arc<T>,
    hash: u64,
}

impl<T: Hash> Part<T> {
    fn new(value: T) -> Self {
        let mut hasher = siphasher::sip::SipHasher13::new();
        value.hash(&mut hasher);
        Self {
            value: Arc::new(value),
            hash: hasher.finish(),
        }
    }
}

impl<T: Clone + Hash> Part<T> {
    fn change<R>(&mut self, change: impl FnOnce(&mut T) -> R) -> R {
        let mut value = (*self.value).clone();
        let result = change(&mut value);
        *self = Self::new(value);
        result
    }
}

impl<T> Deref for Part<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> Hash for Part<T> {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.hash.hash(hasher);
    }
}

impl<T: PartialEq> PartialEq for Part<T> {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash && self.value == other.value
    }
}

impl<T: Eq> Eq for Part<T> {}

/// Explores with all rules: nothing forbidden is reachable, and everything that should be possible is.
fn holds<M>(name: &str, model: M)
where
    M: Model + Send + Sync + 'static,
    M::State: Hash + Send + Sync + std::fmt::Debug + Clone + PartialEq,
    M::Action: Send + Sync + std::fmt::Debug + Clone + PartialEq,
{
    let bound = std::env::var("WEIR_MODEL_STATES")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(STATES);
    let checker = model
        .checker()
        .threads(2)
        .finish_when(HasDiscoveries::AnyFailures);
    let checker = checker.target_state_count(bound).spawn_bfs().join();
    let (states, unique) = (checker.state_count(), checker.unique_state_count());
    let extent = if states >= bound { "bounded" } else { "complete" };
    println!(
        "{name}: {extent}, {unique} states, {states} generated, depth {}",
        checker.max_depth()
    );
    checker.assert_properties();
}

/// Explores with a rule broken: the violation of `property` is found.
fn violates<M>(name: &str, property: &'static str, model: M)
where
    M: Model + Send + Sync + 'static,
    M::State: Hash + Send + Sync + std::fmt::Debug + Clone + PartialEq,
    M::Action: Send + Sync + std::fmt::Debug + Clone + PartialEq,
{
    let finish = HasDiscoveries::AnyOf([property].into());
    let checker = model.checker().threads(2).finish_when(finish).spawn_bfs().join();
    let path = checker.assert_any_discovery(property);
    println!(
        "{name}: found after {} states: {:?}",
        checker.unique_state_count(),
        path.into_actions()
    );
}
