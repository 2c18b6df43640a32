//! The rules in force, each at a place of its own for as long as it is.

use std::ops::Index;
use std::sync::Arc;

use super::rule::Rule;

/// The rules in force. A rule keeps its place when others come and go, since whoever worked out the charges of a
/// request by the former rules may yet ask for a decision: a place stands for no other rule in the change that
/// takes its rule out of force.
#[derive(Clone, Debug)]
pub struct Rules(Arc<[Option<Rule>]>);

impl Rules {
    /// `rules`, in their order.
    #[must_use]
    pub fn new(rules: Vec<Rule>) -> Self {
        Self(rules.into_iter().map(Some).collect())
    }

    /// What follows when `rules` come into force instead: whoever kept its name and what it counts by keeps its
    /// place. Others come to vacant places, or new ones: there are never more than two sets of rules need.
    pub(super) fn followed_by(&self, rules: Vec<Rule>) -> Self {
        let mut places: Vec<Option<Rule>> = vec![None; self.0.len()];
        let mut newcomers = Vec::new();
        for rule in rules {
            let same = |former: &Option<Rule>| former.as_ref().is_some_and(|former| is_same(former, &rule));
            match self.0.iter().position(same) {
                Some(place) => places[place] = Some(rule),
                None => newcomers.push(rule),
            }
        }
        let mut newcomers = newcomers.into_iter();
        for (place, former) in places.iter_mut().zip(self.0.iter()) {
            if former.is_none() {
                *place = newcomers.next();
            }
        }
        places.extend(newcomers.map(Some));
        Self(places.into())
    }

    /// The rules in force and their places, in rising order.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &Rule)> {
        let places = self.0.iter().enumerate();
        places.filter_map(|(place, rule)| Some((place, rule.as_ref()?)))
    }

    /// The rule at `place`, if one is in force there.
    #[must_use]
    pub fn get(&self, place: usize) -> Option<&Rule> {
        self.0.get(place)?.as_ref()
    }

    /// Every place with its rule, if it has one.
    pub(super) fn places(&self) -> &[Option<Rule>] {
        &self.0
    }
}

/// Panics where [`Rules::get`] has nothing.
impl Index<usize> for Rules {
    type Output = Rule;

    fn index(&self, place: usize) -> &Rule {
        self.get(place).expect("a rule is in force at this place")
    }
}

/// Whether both have the same counters where they have the same windows.
fn is_same(former: &Rule, rule: &Rule) -> bool {
    former.name == rule.name && former.count_by == rule.count_by
}
