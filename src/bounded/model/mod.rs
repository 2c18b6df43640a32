//! The bounded mode's rules under a model checker (stateright): every interleaving of a small cluster.
//!
//! The models drive the very code that production runs; only the network, the clocks and the requests are
//! the checker's. Messages are never removed: whatever was once sent may arrive at any later time, in any
//! order, again, or never, which covers loss, delay, reordering, duplication and partitions of any shape.
//!
//! For each rule there is a test that breaks it and expects the violation. Exploration is complete where it
//! fits the bound on states; else it is breadth first up to the bound and continues in random walks, which
//! reach the depths that breadth does not. `WEIR_MODEL_STATES` raises the bound, and `--nocapture` prints
//! the counts.

mod roster;
mod transfer;
mod will;

use std::collections::BTreeSet;
use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use stateright::{Checker, Expectation, HasDiscoveries, Model};

/// States generated per scenario in an ordinary test run.
const STATES: usize = 80_000;

/// Longest random walk, in steps.
const WALK_MAX: usize = 400;

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

fn bound() -> usize {
    std::env::var("WEIR_MODEL_STATES")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(STATES)
}

/// Explores with all rules: nothing forbidden is reachable, and everything that should be possible is.
fn holds<M>(name: &str, model: &M)
where
    M: Model + Clone + Send + Sync + 'static,
    M::State: Hash + Send + Sync + std::fmt::Debug + Clone + PartialEq,
    M::Action: Send + Sync + std::fmt::Debug + Clone + PartialEq,
{
    let checker = model
        .clone()
        .checker()
        .threads(2)
        .finish_when(HasDiscoveries::AnyFailures);
    let checker = checker.target_state_count(bound()).spawn_bfs().join();
    let (states, unique) = (checker.state_count(), checker.unique_state_count());
    if states < bound() {
        println!(
            "{name}: complete, {unique} states, {states} generated, depth {}",
            checker.max_depth()
        );
        return checker.assert_properties();
    }
    println!(
        "{name}: bounded, {unique} states, {states} generated, depth {}",
        checker.max_depth()
    );
    for property in model
        .properties()
        .iter()
        .filter(|p| p.expectation == Expectation::Always)
    {
        checker.assert_no_discovery(property.name);
    }
    walks(name, model, |_| {});
}

/// Explores in random walks from a fixed seed, and hands the last state of each walk to `at_end`.
fn walks<M>(name: &str, model: &M, mut at_end: impl FnMut(M::State))
where
    M: Model,
    M::State: Clone,
    M::Action: std::fmt::Debug + Clone,
{
    let mut rng = StdRng::seed_from_u64(1);
    let properties = model.properties();
    let mut reached = BTreeSet::new();
    let (mut steps, mut count, mut deepest) = (0, 0, 0);
    while steps < bound() {
        let mut states = model.init_states();
        let mut state = states.swap_remove(rng.random_range(0..states.len()));
        let mut path = Vec::new();
        while path.len() < WALK_MAX {
            let mut actions = Vec::new();
            model.actions(&state, &mut actions);
            if actions.is_empty() {
                break;
            }
            let action = actions.swap_remove(rng.random_range(0..actions.len()));
            path.push(action.clone());
            let Some(next) = model.next_state(&state, action) else {
                continue;
            };
            state = next;
            for property in &properties {
                let met = (property.condition)(model, &state);
                let forbidden = property.expectation == Expectation::Always && !met;
                assert!(
                    !forbidden,
                    "{name}, walk {count} from seed 1: not \"{}\" after {path:?}",
                    property.name
                );
                if met {
                    reached.insert(property.name);
                }
            }
        }
        (steps, count, deepest) = (steps + path.len(), count + 1, deepest.max(path.len()));
        at_end(state);
    }
    println!("{name}: {count} walks, {steps} steps, longest {deepest}");
    let missed = properties
        .iter()
        .find(|property| !reached.contains(property.name));
    assert!(
        missed.is_none(),
        "{name}: no walk reached \"{}\"",
        missed.map_or("", |property| property.name)
    );
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
