//! Upstreams: what a file says of them, and what is said of a broken one, to the letter.

use std::time::Duration;

use http::StatusCode;

use super::{UPSTREAMS, errors};
use crate::config::{Balance, Config, HashBy, StatusRange, UpstreamProtocol};

/// An upstream with `more` keys.
fn upstream(more: &str) -> String {
    format!("node_id: a\nupstreams: [{{name: u, targets: 'http://h', {more}}}]\n")
}

#[test]
fn a_full_upstream_becomes_the_values_it_says() {
    let config = Config::from_yaml("w.yaml", UPSTREAMS).unwrap();
    let [app, cache, grpc] = config.upstreams.as_slice() else {
        panic!("not three upstreams");
    };
    let targets: Vec<_> = app
        .targets
        .iter()
        .map(|target| (target.to_string(), target.weight))
        .collect();
    let expected = [
        ("http://127.0.0.1:9000".to_owned(), 3),
        ("http://127.0.0.1:9001".to_owned(), 1),
        ("http://localhost:9002".to_owned(), 1),
    ];
    assert_eq!(targets, expected);
    assert_eq!(
        (&app.balance, app.protocol),
        (&Balance::LeastRequest, UpstreamProtocol::Http1)
    );
    assert_eq!(app.total_timeout, Some(Duration::from_secs(120)));
    assert_eq!(
        (app.connections_max, app.pending_max, app.slow_start.as_secs()),
        (200, 100, 30)
    );
    let health = app.health.as_ref().unwrap();
    assert_eq!(
        (
            health.path.as_str(),
            health.interval.as_secs(),
            health.healthy_after
        ),
        ("/healthz", 2, 2)
    );
    assert_eq!(
        health.statuses,
        [StatusRange {
            first: 200,
            last: 299
        }]
    );
    assert!(app.retries.on_reset);
    assert_eq!(
        app.retries.on_statuses,
        [StatusCode::BAD_GATEWAY, StatusCode::SERVICE_UNAVAILABLE]
    );
    assert_eq!(
        (app.retries.body_bytes_max, app.retries.budget_permille),
        (65_536, 200)
    );
    let user = http::HeaderName::from_static("x-user");
    assert_eq!(cache.balance, Balance::Hash(HashBy::Header(user)));
    assert_eq!((grpc.protocol, &grpc.health), (UpstreamProtocol::Http2, &None));
}

#[test]
fn https_has_its_own_port_and_settings_and_reads_back_from_json() {
    let text = "node_id: a\ndns: {servers: '10.0.0.53:53', ttl_max: 1m}\n\
                upstreams: [{name: u, targets: ['https://h/x', {url: 'https://[::1]:8443', weight: 100}], \
                protocol: auto, balance: 'hash:cookie:id', retries: {on: []}, \
                health: {path: '/h?x=1', statuses: [204, 300-399], host: h.test}, \
                tls: {ca_file: ca.pem, server_name: h.test, certificate: c.pem, key: k.pem}}]";
    let config = Config::from_yaml("w.yaml", text).unwrap();
    let ports = config.upstreams[0]
        .targets
        .iter()
        .map(|target| (target.port, target.tls));
    assert_eq!(ports.collect::<Vec<_>>(), [(443, true), (8443, true)]);
    let json = config.to_json().to_string();
    assert_eq!(Config::from_yaml("json", &json).unwrap(), config, "{json}");
}

#[test]
fn each_wrong_setting_of_an_upstream_is_reported_with_its_remedy() {
    for (more, expected) in [
        (
            "balance: hash",
            "w.yaml:2:53: upstreams[0].balance: `hash` is no way to choose an endpoint; \
             write `round_robin`, `least_request`, `hash:ip`, `hash:header:NAME` or `hash:cookie:NAME`",
        ),
        (
            "balance: least_requests",
            "w.yaml:2:53: upstreams[0].balance: `least_requests` is no way to choose an endpoint; \
             did you mean `least_request`?",
        ),
        (
            "protocol: http2",
            "w.yaml:2:54: upstreams[0].protocol: `http2` is none of `http1`, `h2` and `auto`; did you mean `http1`?",
        ),
        (
            "protocol: auto",
            "w.yaml:2:54: upstreams[0].protocol: without TLS there is nothing to tell which HTTP a server speaks; \
             write `http1` or `h2`, or `https` targets",
        ),
        (
            "tls: {ca_file: x}",
            "w.yaml:2:49: upstreams[0].tls: no target speaks TLS; write `https://…`, or remove `tls`",
        ),
        (
            "health: {interval: 1s}",
            "w.yaml:2:52: upstreams[0].health.path: missing; say what to ask for, such as `/healthz`",
        ),
        (
            "health: {path: healthz}",
            "w.yaml:2:59: upstreams[0].health.path: `healthz` is no path; begin with `/`, such as `/healthz`",
        ),
        (
            "health: {path: /, statuses: 299-200}",
            "w.yaml:2:72: upstreams[0].health.statuses: `299-200` is no range of statuses; \
             write one from 200 to 599, or two such as `200-299`",
        ),
        (
            "retries: {on: connect}",
            "w.yaml:2:58: upstreams[0].retries.on: `connect` is no cause of a retry; \
             write `reset`, or a status of 429 or 500 to 599",
        ),
        (
            "retries: {tries: 11}",
            "w.yaml:2:61: upstreams[0].retries.tries: `11` is out of range; use 1 to 10",
        ),
        (
            "ejection: {statuses: [404]}",
            "w.yaml:2:66: upstreams[0].ejection.statuses[0]: `404` is no status of a server in trouble; \
             use 429 or 500 to 599",
        ),
        (
            "ejection: {share_max: 1.1}",
            "w.yaml:2:66: upstreams[0].ejection.share_max: `1.1` is out of range; use 0 to 1",
        ),
        (
            "balance: 'hash:ip', slow_start: 3s",
            "w.yaml:2:76: upstreams[0].slow_start: a slow start would move every key of an endpoint twice; \
             remove it, or choose another `balance`",
        ),
    ] {
        assert_eq!(errors(&upstream(more)), [expected], "{more}");
    }
    let targets =
        "node_id: a\nupstreams: [{name: u, targets: [{weight: 2}, {url: 'http://h', weight: 101}]}]\n";
    assert_eq!(
        errors(targets),
        [
            "w.yaml:2:33: upstreams[0].targets[0].url: missing; give the server's address, such as `http://127.0.0.1:9000`",
            "w.yaml:2:72: upstreams[0].targets[1].weight: `101` is out of range; use 1 to 100",
        ]
    );
    assert_eq!(
        errors(&format!("{}dns: {{ttl_min: 10m}}\n", upstream(""))),
        ["w.yaml:1:1: dns: `ttl_min` is above `ttl_max`; lower the one or raise the other"]
    );
    let half = "node_id: a\nupstreams: [{name: u, targets: 'https://h', tls: {certificate: c}}]\n";
    assert_eq!(
        errors(half),
        ["w.yaml:2:64: upstreams[0].tls.certificate: there is no `key` to it; give both"]
    );
}
