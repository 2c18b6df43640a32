//! How endpoints come, go, and stand.

#![expect(clippy::disallowed_methods, reason = "tests need some instant to begin with")]

use std::time::Duration;

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
