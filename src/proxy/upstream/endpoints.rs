//! The endpoints of one upstream, and how each stands. Pure: time comes in as an argument.
//!
//! An endpoint is one address of a target. It is used while its checks pass and it is not left out for failing
//! requests; when no endpoint is, all are: rather a try than a certain failure.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::ejection::{Ejection, may_eject};
use super::health::Health;
use super::ring::Ring;
use crate::config::{Balance, Target, UpstreamConfig};

/// Most addresses of one name that are used; what is beyond would be no one's intent.
pub(super) const ADDRESSES_MAX: usize = 256;
/// Steps in which a slow start raises the share of an endpoint.
const SLOW_START_STEPS: u32 = 20;

/// One address of a target. The counts are of all workers.
#[derive(Debug)]
pub(super) struct Endpoint {
    /// The index of its target in the configuration.
    pub(super) target: usize,
    pub(super) address: SocketAddr,
    /// The text that names it, also in metrics: `10.0.0.1:80`, or `app.local:80 (10.0.0.1)`.
    pub(super) name: String,
    pub(super) weight: u32,
    /// Requests in flight to it; counted only where the choice goes by it.
    pub(super) in_flight: AtomicU32,
    /// Failed requests in a row.
    failures: AtomicU32,
}

impl Endpoint {
    fn new(target: usize, config: &Target, ip: IpAddr) -> Self {
        let address = SocketAddr::new(ip, config.port);
        let is_address = config.host.parse::<IpAddr>().is_ok();
        Self {
            target,
            address,
            name: if is_address {
                address.to_string()
            } else {
                format!("{}:{} ({ip})", config.host, config.port)
            },
            weight: config.weight,
            in_flight: AtomicU32::new(0),
            failures: AtomicU32::new(0),
        }
    }

    /// Notes a request that did not fail.
    pub(super) fn succeeded(&self) {
        // Read first: a line that only is read is shared between processors.
        if self.failures.load(Relaxed) != 0 {
            self.failures.store(0, Relaxed);
        }
    }

    /// Notes a request that failed; answers how many did in a row.
    pub(super) fn failed(&self) -> u32 {
        self.failures.fetch_add(1, Relaxed).saturating_add(1)
    }
}

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

/// Who keeps account of the endpoints of one upstream.
#[derive(Debug)]
pub(super) struct Endpoints {
    config: Arc<UpstreamConfig>,
    members: Vec<Member>,
    /// Of each target, whether its addresses are known, or known not to be.
    looked_up: Vec<bool>,
    ring: Option<Arc<Ring>>,
}

#[derive(Debug)]
struct Member {
    endpoint: Arc<Endpoint>,
    health: Health,
    ejection: Ejection,
    warms_since: Option<Instant>,
}

impl Endpoints {
    /// The endpoints that need no lookup; the others come by [`Endpoints::resolved`].
    pub(super) fn new(config: &Arc<UpstreamConfig>) -> Self {
        let mut endpoints = Self {
            config: Arc::clone(config),
            members: Vec::new(),
            looked_up: vec![false; config.targets.len()],
            ring: None,
        };
        for (index, target) in config.targets.iter().enumerate() {
            if let Ok(ip) = target.host.parse::<IpAddr>() {
                endpoints.looked_up[index] = true;
                endpoints
                    .members
                    .push(Member::new(Endpoint::new(index, target, ip), None));
            }
        }
        endpoints.lay_ring();
        endpoints
    }

    /// Takes `addresses` for those of `target`; true when that changes anything.
    pub(super) fn resolved(&mut self, target: usize, addresses: &[IpAddr], now: Instant) -> bool {
        let Some(config) = self.config.targets.get(target) else {
            return false;
        };
        let mut addresses: Vec<IpAddr> = addresses.to_vec();
        // Name servers rotate their answers; the order here must not change with them.
        addresses.sort_unstable();
        addresses.dedup();
        addresses.truncate(ADDRESSES_MAX);
        let is_first = !std::mem::replace(&mut self.looked_up[target], true);
        let known = self
            .members
            .iter()
            .filter(|member| member.endpoint.target == target);
        if known
            .map(|member| member.endpoint.address.ip())
            .eq(addresses.iter().copied())
        {
            return is_first;
        }
        let warms_since = (!is_first && !self.config.slow_start.is_zero()).then_some(now);
        let is_of_target = |member: &Member| member.endpoint.target == target;
        let first = self
            .members
            .partition_point(|member| member.endpoint.target < target);
        let end = first + self.members.iter().filter(|member| is_of_target(member)).count();
        let mut former: Vec<Member> = self.members.drain(first..end).collect();
        let member = |ip: IpAddr| {
            let kept = former
                .iter()
                .position(|member| member.endpoint.address.ip() == ip);
            kept.map_or_else(
                || Member::new(Endpoint::new(target, config, ip), warms_since),
                |index| former.swap_remove(index),
            )
        };
        let members: Vec<Member> = addresses.into_iter().map(member).collect();
        self.members.splice(first..first, members);
        self.lay_ring();
        true
    }

    /// Notes that no addresses of `target` can be found; what is known stays. True when that ends a wait.
    pub(super) fn unresolved(&mut self, target: usize) -> bool {
        self.looked_up
            .get_mut(target)
            .is_some_and(|looked_up| !std::mem::replace(looked_up, true))
    }

    /// Takes in a check of `endpoint`; true when that changes anything.
    pub(super) fn checked(&mut self, endpoint: &Arc<Endpoint>, passed: bool, now: Instant) -> bool {
        let Some(config) = &self.config.health else {
            return false;
        };
        let slow_start = self.config.slow_start;
        let Some(member) = find(&mut self.members, endpoint) else {
            return false;
        };
        let changed = member.health.checked(passed, config);
        if changed && passed {
            member.warms_since = (!slow_start.is_zero()).then_some(now);
        }
        changed
    }

    /// Leaves `endpoint` out for failing requests, unless too many are left out already. True when it is.
    pub(super) fn eject(&mut self, endpoint: &Arc<Endpoint>, now: Instant) -> bool {
        let out = self
            .members
            .iter()
            .filter(|member| member.ejection.until().is_some())
            .count();
        let may = may_eject(out, self.members.len(), &self.config.ejection);
        let Some(member) = find(&mut self.members, endpoint) else {
            return false;
        };
        // It begins anew either way: after as many failures as before, it is tried again to leave it out.
        member.endpoint.failures.store(0, Relaxed);
        if !may || member.ejection.until().is_some() {
            return false;
        }
        member.ejection.eject(&self.config.ejection, now);
        true
    }

    /// Takes back the endpoints whose time out is over; true when there was one.
    pub(super) fn take_back(&mut self, now: Instant) -> bool {
        let warms_since = (!self.config.slow_start.is_zero()).then_some(now);
        let mut any = false;
        for member in &mut self.members {
            if member.ejection.returns(now) {
                member.endpoint.failures.store(0, Relaxed);
                member.warms_since = warms_since;
                any = true;
            }
        }
        any
    }

    /// How all stand.
    pub(super) fn snapshot(&self) -> Snapshot {
        Snapshot {
            places: self.members.iter().map(Member::place).collect(),
            ring: self.ring.clone(),
            next_return: self
                .members
                .iter()
                .filter_map(|member| member.ejection.until())
                .min(),
            is_resolving: self.members.is_empty() && self.looked_up.contains(&false),
        }
    }

    fn lay_ring(&mut self) {
        if matches!(self.config.balance, Balance::Hash(_)) {
            let names = self.members.iter();
            let names = names.map(|member| (member.endpoint.name.as_str(), member.endpoint.weight));
            self.ring = Some(Arc::new(Ring::new(names)));
        }
    }
}

impl Member {
    fn new(endpoint: Endpoint, warms_since: Option<Instant>) -> Self {
        Self {
            endpoint: Arc::new(endpoint),
            health: Health::default(),
            ejection: Ejection::default(),
            warms_since,
        }
    }

    fn place(&self) -> Place {
        Place {
            endpoint: Arc::clone(&self.endpoint),
            standing: match (self.health.is_healthy(), self.ejection.until()) {
                (false, _) => Standing::Unhealthy,
                (true, Some(_)) => Standing::Ejected,
                (true, None) => Standing::Good,
            },
            warms_since: self.warms_since,
        }
    }
}

fn find<'m>(members: &'m mut [Member], endpoint: &Arc<Endpoint>) -> Option<&'m mut Member> {
    members
        .iter_mut()
        .find(|member| Arc::ptr_eq(&member.endpoint, endpoint))
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests need some instant to begin with")]
mod tests {
    use super::*;
    use crate::config::Config;

    const SECOND: Duration = Duration::from_secs(1);

    fn endpoints(upstream: &str) -> Endpoints {
        let yaml = format!("node_id: a\nupstreams: [{{name: u, {upstream}}}]\n");
        let config = Config::from_yaml("test", &yaml).unwrap();
        Endpoints::new(&Arc::new(config.upstreams[0].clone()))
    }

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn standings(endpoints: &Endpoints) -> Vec<(String, Standing)> {
        let places = endpoints.snapshot().places;
        let place = |place: Place| (place.endpoint.address.ip().to_string(), place.standing);
        places.into_iter().map(place).collect()
    }

    fn nth(endpoints: &Endpoints, index: usize) -> Arc<Endpoint> {
        Arc::clone(&endpoints.snapshot().places[index].endpoint)
    }

    #[test]
    fn a_name_becomes_as_many_endpoints_as_it_has_addresses_and_those_that_stay_keep_their_standing() {
        let mut endpoints = endpoints("targets: ['http://a.test', 'http://10.0.0.9']");
        let now = Instant::now();
        assert_eq!(standings(&endpoints).len(), 1);
        assert!(endpoints.resolved(0, &ips(&["10.0.0.2", "10.0.0.1"]), now));
        // Rotated: the same.
        assert!(!endpoints.resolved(0, &ips(&["10.0.0.1", "10.0.0.2", "10.0.0.1"]), now));
        let second = nth(&endpoints, 1);
        assert!(endpoints.eject(&second, now));
        assert!(endpoints.resolved(0, &ips(&["10.0.0.2", "10.0.0.3"]), now));
        let expected = [
            ("10.0.0.2".to_owned(), Standing::Ejected),
            ("10.0.0.3".to_owned(), Standing::Good),
            ("10.0.0.9".to_owned(), Standing::Good),
        ];
        assert_eq!(standings(&endpoints), expected);
        assert!(Arc::ptr_eq(&second, &nth(&endpoints, 0)));
        // A name server that fails takes nothing away.
        assert!(!endpoints.unresolved(0));
        assert_eq!(standings(&endpoints), expected);
    }

    #[test]
    fn an_upstream_resolves_until_every_name_has_been_looked_up_or_one_has_addresses() {
        let mut endpoints = endpoints("targets: ['http://a.test', 'http://b.test']");
        assert!(endpoints.snapshot().is_resolving);
        assert!(endpoints.unresolved(0) && endpoints.snapshot().is_resolving);
        assert!(endpoints.unresolved(1) && !endpoints.snapshot().is_resolving);
        assert!(endpoints.resolved(1, &ips(&["::1"]), Instant::now()));
        assert_eq!(nth(&endpoints, 0).name, "b.test:80 (::1)");
    }

    #[test]
    fn what_fails_is_left_out_within_the_share_and_comes_back_when_its_time_is_over() {
        let mut endpoints = endpoints(
            "targets: ['http://10.0.0.1', 'http://10.0.0.2'], ejection: {base_time: 10s, share_max: 0.5}",
        );
        let now = Instant::now();
        let (first, second) = (nth(&endpoints, 0), nth(&endpoints, 1));
        assert!(endpoints.eject(&first, now) && !endpoints.eject(&first, now));
        assert!(!endpoints.eject(&second, now));
        assert_eq!(endpoints.snapshot().weights(Duration::ZERO, now).of, [0, 20]);
        assert_eq!(endpoints.snapshot().next_return, Some(now + 10 * SECOND));
        assert!(!endpoints.take_back(now + 9 * SECOND) && endpoints.take_back(now + 10 * SECOND));
        assert_eq!(endpoints.snapshot().weights(Duration::ZERO, now).of, [20, 20]);
    }

    #[test]
    fn when_none_stands_well_all_are_used() {
        let mut endpoints = endpoints(
            "targets: ['http://10.0.0.1', {url: 'http://10.0.0.2', weight: 3}], health: {path: /}, \
             ejection: {share_max: 1}",
        );
        let now = Instant::now();
        let (first, second) = (nth(&endpoints, 0), nth(&endpoints, 1));
        assert!(endpoints.checked(&first, false, now));
        assert_eq!(endpoints.snapshot().weights(Duration::ZERO, now).of, [0, 60]);
        assert!(endpoints.eject(&second, now));
        assert!(endpoints.snapshot().is_panic());
        assert_eq!(endpoints.snapshot().weights(Duration::ZERO, now).of, [20, 60]);
    }

    #[test]
    fn a_slow_start_raises_the_share_of_what_comes_back_but_not_at_the_start() {
        let mut endpoints = endpoints(
            "targets: ['http://a.test', 'http://10.0.0.9'], slow_start: 20s, ejection: {base_time: 1s}",
        );
        let (now, slow) = (Instant::now(), 20 * SECOND);
        endpoints.resolved(0, &ips(&["10.0.0.1"]), now);
        assert_eq!(endpoints.snapshot().weights(slow, now).of, [20, 20]);
        assert!(endpoints.eject(&nth(&endpoints, 0), now));
        let back = now + SECOND;
        assert!(endpoints.take_back(back));
        let at = |after: Duration| endpoints.snapshot().weights(slow, back + after);
        assert_eq!(
            (at(Duration::ZERO).of, at(Duration::ZERO).until),
            (vec![1, 20], Some(back + SECOND))
        );
        assert_eq!(at(10 * SECOND).of, [10, 20]);
        assert_eq!((at(slow).of, at(slow).until), (vec![20, 20], None));
        // So does an address that joins later.
        endpoints.resolved(0, &ips(&["10.0.0.1", "10.0.0.2"]), back + slow);
        assert_eq!(endpoints.snapshot().weights(slow, back + slow).of, [20, 1, 20]);
    }
}
