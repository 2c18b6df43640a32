//! Who is next: taking turns by weight, and the lesser load of two. Pure.
//!
//! A weight of zero is an endpoint that may not be used; `fits` says whether one can take this request now.

use rand::{Rng, RngCore};

/// Takes turns in proportion to the weights, spread evenly: of weights 5, 1, 1 the order is a a b a c a a
/// (nginx's smooth weighted round robin).
#[derive(Clone, Debug, Default)]
pub(super) struct RoundRobin {
    /// What each has saved up; unused while all weights are the same.
    credit: Vec<i64>,
    turn: usize,
    is_even: bool,
}

impl RoundRobin {
    /// Turns for `weights`. `offset` makes several of them start at different places.
    pub(super) fn new(weights: &[u32], offset: usize) -> Self {
        let mut turns = Self {
            credit: vec![0; weights.len()],
            turn: offset,
            is_even: is_even(weights),
        };
        if !turns.is_even {
            for _ in 0..offset.checked_rem(weights.len()).unwrap_or(0) {
                turns.next(weights, |_| true);
            }
        }
        turns
    }

    /// Turns for other `weights`; `former` says where each was before. Those that stay keep what they saved up.
    pub(super) fn renewed(&self, weights: &[u32], former: impl Fn(usize) -> Option<usize>) -> Self {
        let credit = |index| {
            let credit = former(index).and_then(|index| self.credit.get(index));
            credit.copied().unwrap_or(0)
        };
        Self {
            credit: (0..weights.len()).map(credit).collect(),
            turn: self.turn,
            is_even: is_even(weights),
        }
    }

    /// The next of `weights` that fits.
    pub(super) fn next(&mut self, weights: &[u32], fits: impl Fn(usize) -> bool) -> Option<usize> {
        if self.is_even {
            self.next_even(weights, fits)
        } else {
            self.next_weighted(weights, fits)
        }
    }

    fn next_even(&mut self, weights: &[u32], fits: impl Fn(usize) -> bool) -> Option<usize> {
        let first = self.turn.checked_rem(weights.len())?;
        let mut order = (first..weights.len()).chain(0..first);
        let next =
            order.find(|&index| weights.get(index).is_some_and(|weight| *weight > 0) && fits(index))?;
        self.turn = next + 1;
        Some(next)
    }

    fn next_weighted(&mut self, weights: &[u32], fits: impl Fn(usize) -> bool) -> Option<usize> {
        let mut total = 0;
        let mut next: Option<(usize, i64)> = None;
        for (index, (credit, weight)) in self.credit.iter_mut().zip(weights).enumerate() {
            if *weight == 0 || !fits(index) {
                continue;
            }
            total += i64::from(*weight);
            *credit += i64::from(*weight);
            if next.is_none_or(|(_, most)| *credit > most) {
                next = Some((index, *credit));
            }
        }
        let (index, _) = next?;
        self.credit[index] -= total;
        Some(index)
    }
}

/// Of two endpoints drawn from `usable`, the one with the lesser load for its weight. Where neither fits, the
/// least loaded of all that do.
pub(super) fn lesser_load(
    usable: &[usize],
    weights: &[u32],
    load: impl Fn(usize) -> u32,
    fits: impl Fn(usize) -> bool,
    rng: &mut impl RngCore,
) -> Option<usize> {
    let lighter = |a: usize, b: usize| {
        let heaviness = |of: usize, other: usize| {
            (u64::from(load(of)) + 1) * u64::from(weights.get(other).copied().unwrap_or(0))
        };
        if heaviness(b, a) < heaviness(a, b) { b } else { a }
    };
    let (a, b) = two_of(usable, rng)?;
    match (fits(a), fits(b)) {
        (true, true) => Some(lighter(a, b)),
        (true, false) => Some(a),
        (false, true) => Some(b),
        (false, false) => usable
            .iter()
            .copied()
            .filter(|&index| fits(index))
            .reduce(lighter),
    }
}

/// Two different ones of `usable`, or twice the only one.
fn two_of(usable: &[usize], rng: &mut impl RngCore) -> Option<(usize, usize)> {
    match *usable {
        [] => None,
        [only] => Some((only, only)),
        _ => {
            let first = rng.random_range(0..usable.len());
            let second = rng.random_range(1..usable.len());
            let at = |index: usize| usable.get(index % usable.len()).copied();
            Some((at(first)?, at(first + second)?))
        }
    }
}

fn is_even(weights: &[u32]) -> bool {
    let mut used = weights.iter().filter(|weight| **weight > 0);
    let first = used.next();
    used.all(|weight| Some(weight) == first)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::*;

    fn order(turns: &mut RoundRobin, weights: &[u32], count: usize) -> Vec<usize> {
        (0..count).filter_map(|_| turns.next(weights, |_| true)).collect()
    }

    #[test]
    fn heavy_endpoints_come_more_often_but_not_in_a_row() {
        let weights = [5, 1, 1];
        let mut turns = RoundRobin::new(&weights, 0);
        assert_eq!(order(&mut turns, &weights, 7), [0, 0, 1, 0, 2, 0, 0]);
    }

    #[test]
    fn workers_start_at_different_endpoints() {
        let weights = [1, 1, 1];
        let firsts = (0..3).map(|offset| {
            RoundRobin::new(&weights, offset)
                .next(&weights, |_| true)
                .unwrap()
        });
        assert_eq!(firsts.collect::<Vec<_>>(), [0, 1, 2]);
    }

    #[test]
    fn endpoints_that_stay_keep_what_they_saved_up() {
        let weights = [3, 1];
        let mut turns = RoundRobin::new(&weights, 0);
        assert_eq!(order(&mut turns, &weights, 2), [0, 0]);
        // The second is due; one that comes before it in the list does not set it back.
        let mut renewed = turns.renewed(&[3, 3, 1], |index| index.checked_sub(1));
        assert_eq!(renewed.next(&[3, 3, 1], |index| index > 0), Some(2));
    }

    proptest! {
        #[test]
        fn whole_rounds_give_each_exactly_its_weight(
            weights in prop::collection::vec(0u32..9, 1..8), offset in 0usize..20
        ) {
            let total: u32 = weights.iter().sum();
            let mut turns = RoundRobin::new(&weights, offset);
            let rounds = order(&mut turns, &weights, total as usize * 3);
            for (index, weight) in weights.iter().enumerate() {
                let got = rounds.iter().filter(|picked| **picked == index).count();
                prop_assert_eq!(got, *weight as usize * 3, "{}", index);
            }
        }

        #[test]
        fn only_what_fits_is_chosen_and_something_whenever_it_does(
            weights in prop::collection::vec(0u32..4, 1..6), fitting in any::<u8>(), seed in any::<u64>()
        ) {
            let fits = |index: usize| fitting >> index & 1 == 1;
            let usable: Vec<usize> = (0..weights.len()).filter(|index| weights[*index] > 0).collect();
            let any = usable.iter().any(|index| fits(*index));
            let mut rng = SmallRng::seed_from_u64(seed);
            let picks = [
                RoundRobin::new(&weights, 0).next(&weights, fits),
                lesser_load(&usable, &weights, |_| 0, fits, &mut rng),
            ];
            for pick in picks {
                prop_assert_eq!(pick.is_some(), any);
                prop_assert!(pick.is_none_or(|index| usable.contains(&index) && fits(index)));
            }
        }
    }

    #[test]
    fn two_choices_keep_loads_together_by_weight() {
        let (usable, weights) = ([0, 1, 2, 3], [2, 1, 1, 4]);
        let mut rng = SmallRng::seed_from_u64(7);
        let mut loads = [0_u32; 4];
        for _ in 0..8000 {
            let index = lesser_load(&usable, &weights, |index| loads[index], |_| true, &mut rng).unwrap();
            loads[index] += 1;
        }
        // Of n balls the most loaded of n bins has about log log n more than its share; here each within 1 %.
        for (load, share) in loads.iter().zip([2000_u32, 1000, 1000, 4000]) {
            assert!(load.abs_diff(share) * 100 <= share, "{loads:?}");
        }
    }
}
