//! The endpoints of one upstream at one time, and what each weighs. Pure: time comes in as an argument.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::endpoint::Endpoint;
use super::ring::Ring;

/// Steps in which a slow start raises the share of an endpoint.
const SLOW_START_STEPS: u32 = 20;

/// How an endpoint stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    Good,
    /// Its checks fail.
    Unhealthy,
    /// It is left out for failing requests.
    Ejected,
}

/// All endpoints at one time.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) places: Vec<Place>,
    /// Where keys belong, if the choice goes by keys.
    pub(super) ring: Option<Arc<Ring>>,
    /// When the first ejected endpoint may come back.
    pub(super) next_return: Option<Instant>,
    /// No endpoint is known, and some name has not been looked up yet.
    pub(super) is_resolving: bool,
}

/// One endpoint at one time.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) standing: Standing,
    /// When it came, or came back, while that was less than a slow start ago.
    pub(super) warms_since: Option<Instant>,
}

/// What the endpoints of a snapshot weigh at a moment.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Weights {
    /// In the order of the endpoints; zero is not used.
    pub(super) of: Vec<u32>,
    /// When they change next by themselves.
    pub(super) until: Option<Instant>,
}

impl Snapshot {
    /// None stands well, so all are used.
    pub(super) fn is_panic(&self) -> bool {
        !self.places.is_empty() && self.places.iter().all(|place| place.standing != Standing::Good)
    }

    /// What each endpoint weighs at `now`.
    pub(super) fn weights(&self, slow_start: Duration, now: Instant) -> Weights {
        let panic = self.is_panic();
        let mut warming = false;
        let weight = |place: &Place| {
            let full = place.endpoint.weight.saturating_mul(SLOW_START_STEPS);
            if panic {
                return full;
            }
            if place.standing != Standing::Good {
                return 0;
            }
            let age = place
                .warms_since
                .map(|since| now.saturating_duration_since(since));
            match age.filter(|age| *age < slow_start) {
                None => full,
                Some(age) => {
                    warming = true;
                    let step = age.as_nanos() * u128::from(SLOW_START_STEPS) / slow_start.as_nanos().max(1);
                    let step = u32::try_from(step).unwrap_or(SLOW_START_STEPS).max(1);
                    place.endpoint.weight.saturating_mul(step)
                }
            }
        };
        let of = self.places.iter().map(weight).collect();
        let step = warming.then(|| now + slow_start / SLOW_START_STEPS);
        Weights {
            of,
            until: [self.next_return, step].into_iter().flatten().min(),
        }
    }
}
