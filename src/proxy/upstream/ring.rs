//! Consistent hashing: which endpoint a key belongs to, so that few keys move when one comes or goes. Pure.
//!
//! Every endpoint has points on a circle of hashes; a key belongs to the first point at or after its own hash
//! (Karger et al. 1997; libketama). The hash has a fixed key: all nodes, and all versions, agree.

use std::hash::Hasher as _;

use siphasher::sip::SipHasher13;

/// Points of an endpoint of weight one: shares then differ by about a tenth.
const POINTS_PER_WEIGHT: usize = 100;
/// Most points of a ring. Above, each endpoint gets half as many, and half again.
const POINTS_MAX: usize = 1 << 19;

/// A circle of hashes.
#[derive(Debug)]
pub(super) struct Ring {
    /// Hash and endpoint, by rising hash.
    points: Box<[(u64, u32)]>,
}

impl Ring {
    /// A ring of endpoints with these names and weights. An endpoint's points depend on its own name and weight
    /// only.
    pub(super) fn new<'n>(endpoints: impl Iterator<Item = (&'n str, u32)> + Clone) -> Self {
        let weights: usize = endpoints.clone().map(|(_, weight)| weight as usize).sum();
        let mut per_weight = POINTS_PER_WEIGHT;
        while per_weight > 1 && weights.saturating_mul(per_weight) > POINTS_MAX {
            per_weight /= 2;
        }
        let points = endpoints.zip(0..).flat_map(|((name, weight), endpoint)| {
            let count = (weight as usize * per_weight) as u64;
            (0..count).map(move |number| (point(name, number), endpoint))
        });
        let mut points: Box<[_]> = points.collect();
        points.sort_unstable();
        Self { points }
    }

    /// The endpoints in the order of preference of `hash`, with repetitions.
    pub(super) fn walk(&self, hash: u64) -> impl Iterator<Item = usize> {
        let first = self.points.partition_point(|(point, _)| *point < hash);
        let (before, from) = self.points.split_at(first);
        from.iter().chain(before).map(|(_, endpoint)| *endpoint as usize)
    }
}

/// The hash of a key.
pub(super) fn hash_of(key: &[u8]) -> u64 {
    let mut hasher = SipHasher13::new();
    hasher.write(key);
    hasher.finish()
}

fn point(name: &str, number: u64) -> u64 {
    let mut hasher = SipHasher13::new();
    hasher.write(name.as_bytes());
    hasher.write(&number.to_be_bytes());
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEYS: u64 = 4000;

    fn ring(endpoints: &[(String, u32)]) -> Ring {
        Ring::new(endpoints.iter().map(|(name, weight)| (name.as_str(), *weight)))
    }

    fn owners(endpoints: &[(String, u32)]) -> Vec<&str> {
        let ring = ring(endpoints);
        let owner = |key: u64| ring.walk(hash_of(&key.to_be_bytes())).next().unwrap();
        (0..KEYS).map(|key| endpoints[owner(key)].0.as_str()).collect()
    }

    fn named(weights: &[u32]) -> Vec<(String, u32)> {
        let name = |(index, weight): (usize, &u32)| (format!("10.0.0.{index}:80"), *weight);
        weights.iter().enumerate().map(name).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn keys_move_only_to_an_endpoint_that_comes(weights in prop::collection::vec(1u32..5, 1..12), weight in 1u32..5) {
            let before = named(&weights);
            let mut after = before.clone();
            after.insert(weights.len() / 2, ("10.9.9.9:80".to_owned(), weight));
            let mut moved = 0;
            for (was, is) in owners(&before).into_iter().zip(owners(&after)) {
                if was != is {
                    prop_assert_eq!(is, "10.9.9.9:80");
                    moved += 1;
                }
            }
            // Its share of all keys, and half of that for the unevenness of a hundred points.
            let share = f64::from(weight) / f64::from(weights.iter().sum::<u32>() + weight);
            prop_assert!(f64::from(moved) <= share * 1.5 * 4000.0, "{} of {}", moved, share);
            prop_assert!(moved > 0);
        }
    }

    #[test]
    fn shares_follow_weights_within_a_third() {
        let endpoints = named(&[1, 2, 4, 1]);
        let owners = owners(&endpoints);
        for (name, weight) in &endpoints {
            let got = owners.iter().filter(|owner| **owner == name).count() as u64;
            let due = KEYS * u64::from(*weight) / 8;
            assert!(got.abs_diff(due) * 3 <= due, "{name}: {got} of {due}");
        }
    }

    #[test]
    fn a_walk_meets_every_endpoint() {
        let endpoints = named(&[1, 3, 1]);
        let mut met: Vec<usize> = ring(&endpoints).walk(hash_of(b"x")).collect();
        met.sort_unstable();
        met.dedup();
        assert_eq!(met, [0, 1, 2]);
    }

    #[test]
    fn all_versions_hash_alike() {
        // SipHash-1-3 under the zero key, as another implementation has it: a change would move every key.
        assert_eq!(hash_of(b""), 0xd1fb_a762_150c_532c);
    }
}
