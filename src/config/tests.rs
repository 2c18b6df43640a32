//! Tests of the whole way from texts to a configuration.

mod bounded;
mod listeners;
mod messages;
mod ratelimit;
mod routes;
mod upstreams;

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::limit::{CountBy, Period, RuleScope};

const MINIMAL: &str = include_str!("../../docs/examples/minimal.yaml");
const THREE_NODES: &str = include_str!("../../docs/examples/three-nodes.yaml");
const UPSTREAMS: &str = include_str!("../../docs/examples/upstreams.yaml");
const ROUTES: &str = include_str!("../../docs/examples/routes.yaml");
const HTTP: &str = include_str!("../../docs/examples/http.yaml");
const ROUTING: &str = include_str!("../../docs/examples/routing.yaml");
const TLS: &str = include_str!("../../docs/examples/tls.yaml");
const RATELIMIT: &str = include_str!("../../docs/examples/ratelimit.yaml");
const CLIENTS: &str = include_str!("../../docs/examples/clients.yaml");
const ACCESS_LOG: &str = include_str!("../../docs/examples/access-log.yaml");
const OPERATIONS: &str = include_str!("../../docs/examples/operations.yaml");

/// What every test file needs and no test is about.
const BASE: &str = "node_id: a\nupstreams: [{name: app, targets: [http://h:1]}]\n";

fn errors(text: &str) -> Vec<String> {
    let errors = Config::from_yaml("w.yaml", text).unwrap_err();
    errors.as_slice().iter().map(ToString::to_string).collect()
}

fn with_base(text: &str) -> String {
    format!("{BASE}{text}")
}

fn in_kubernetes() -> Surroundings {
    Surroundings {
        pod_name: Some("weir-0".to_owned()),
        pod_ip: Some("10.0.0.1".parse().unwrap()),
        host_name: Some("node7".to_owned()),
        processors: Some(4),
    }
}

#[test]
fn an_alias_stands_for_its_value() {
    let text = with_base("rules:\n- {name: a, windows: &w [5/minute, 9/hour]}\n- {name: b, windows: *w}\n");
    let config = Config::from_yaml("w.yaml", &text).unwrap();
    assert_eq!(config.limits.rules[0].windows, config.limits.rules[1].windows);
}

#[test]
fn the_examples_load_and_read_back_from_their_json() {
    for text in [
        MINIMAL,
        THREE_NODES,
        ROUTES,
        HTTP,
        ROUTING,
        UPSTREAMS,
        TLS,
        CLIENTS,
        ACCESS_LOG,
        OPERATIONS,
        RATELIMIT,
    ] {
        let layer = Layer::from_yaml("w.yaml", text).unwrap();
        let config = Config::resolve(layer, &in_kubernetes()).unwrap();
        let json = config.to_json().to_string();
        assert_eq!(Config::from_yaml("json", &json).unwrap(), config, "{json}");
    }
}

#[test]
fn a_full_file_becomes_the_values_it_says() {
    let config = Config::from_yaml("w.yaml", ROUTES).unwrap();
    let search = &config.limits.rules[1];
    assert_eq!(
        search.count_by,
        CountBy::Header(http::HeaderName::from_static("x-api-key"))
    );
    assert_eq!(search.scope, RuleScope::Route("search".to_owned()));
    assert_eq!((search.hits.get(), search.mode), (5, None));
    let legacy = &config.limits.rules[2];
    assert_eq!(legacy.mode, Some(SyncMode::Local));
    assert_eq!(legacy.windows[0].limit.hits(), 200);
    assert_eq!(legacy.windows[0].period.nominal(), Duration::from_secs(10));
    assert_eq!(config.limits.rules[0].windows[1].period, Period::Minute);
    assert_eq!(config.limits.max_keys, 2_000_000);
    let target = &config.upstreams[1].targets[0];
    assert_eq!(
        (&*target.host, target.port, &*target.base_path),
        ("127.0.0.1", 9100, "/old")
    );
    assert_eq!(config.upstreams[0].connect_timeout, Duration::from_millis(500));
    let legacy = &config.routes[2];
    let RouteAction::Forward(forward) = &legacy.action else {
        panic!("{legacy:?}")
    };
    assert_eq!(forward.path, Some(PathChange::Prefix(String::new())));
    assert!(legacy.hosts.is_empty() && legacy.upstream() == Some("legacy"));
}

#[test]
fn hosts_targets_and_prefixes_are_normalised() {
    let text = "node_id: a\nupstreams: [{name: app, targets: ['http://[::1]:9000/', 'http://Db_1/x/']}]\n\
                routes: [{name: r, upstream: app, hosts: [EXAMPLE.com., '*.A.test'], path_prefix: /%61/}]";
    let config = Config::from_yaml("w.yaml", text).unwrap();
    let targets: Vec<_> = config.upstreams[0]
        .targets
        .iter()
        .map(|t| (&*t.host, t.port, &*t.base_path))
        .collect();
    assert_eq!(targets, [("::1", 9000, ""), ("Db_1", 80, "/x")]);
    let route = &config.routes[0];
    let below = HostMatch::Below("a.test".to_owned());
    assert_eq!(route.hosts, [HostMatch::Exact("example.com".to_owned()), below]);
    assert_eq!(route.matches[0].path, PathMatch::Prefix("/a".to_owned()));
}

#[test]
fn the_surroundings_fill_what_nobody_says() {
    let layer = || Layer::from_yaml("w.yaml", THREE_NODES).unwrap();
    let config = Config::resolve(layer(), &in_kubernetes()).unwrap();
    assert_eq!((config.node_id.as_str(), config.proxy.workers), ("weir-0", 4));
    assert_eq!(config.cluster.advertise, Some("10.0.0.1:7946".parse().unwrap()));
    let mut named = Layer::default();
    named.set(&["node_id"], Origin::Variable("X".into()), "b");
    named.set(
        &["cluster", "advertise"],
        Origin::Variable("X".into()),
        "10.0.0.9:1",
    );
    let config = Config::resolve(named.over(layer()), &in_kubernetes()).unwrap();
    assert_eq!(config.node_id.as_str(), "b");
    assert_eq!(config.cluster.advertise, Some("10.0.0.9:1".parse().unwrap()));
    let host = Surroundings {
        host_name: Some("né".to_owned()),
        ..Surroundings::default()
    };
    let error = Config::resolve(
        Layer::from_yaml("w.yaml", &MINIMAL.replace("node_id: a", "")).unwrap(),
        &host,
    );
    assert!(
        error
            .unwrap_err()
            .to_string()
            .starts_with("host name: node_id: `né`: ")
    );
}

#[test]
fn nodes_agree_on_digest_and_identity_key_exactly_when_they_should() {
    let config = |text: &str| Config::from_yaml("w.yaml", &with_base(text)).unwrap();
    let rules = "rules: [{name: a, windows: [5/minute, 9/hour]}, {name: b, by: path, windows: 1/day}]";
    let base = config(rules);
    let same = config(
        "listen: 127.0.0.1:80\nsync: {mode: local}\n\
         rules: [{name: b, by: path, windows: 1/day}, {name: a, windows: [9/hour, 5/60s]}]",
    );
    assert_eq!(base.digest(), same.digest());
    assert_eq!(base.digest().len(), 16);
    for other in [
        rules.replace("5/", "6/"),
        rules.replace("path", "all"),
        rules.replace("name: b", "name: c"),
        rules.replace("1/day", "1/day, mode: local"),
        rules.replace("1/day", "2/day, hits: 2"),
        rules.replace("1/day", "1/day, upstream: app"),
        format!("{rules}\ncluster: {{id: other}}"),
        format!("{rules}\nbounded: {{skew: 2s}}"),
        format!("{rules}\ncluster: {{identity_secret: s}}"),
        format!("{rules}\nlimits: {{ipv6_prefix: 56}}"),
    ] {
        assert_ne!(base.digest(), config(&other).digest(), "{other}");
    }
    let secret = config("cluster: {id: ab, identity_secret: c}");
    assert_ne!(
        secret.identity_key(),
        config("cluster: {id: a, identity_secret: bc}").identity_key()
    );
    assert_ne!(secret.identity_key(), config("cluster: {id: ab}").identity_key());
    // Computed with another implementation; a change would make every client a new one on upgrade.
    assert_eq!(base.identity_key(), IDENTITY_KEY_OF_WEIR);
}

const IDENTITY_KEY_OF_WEIR: [u8; 16] = [
    0xa5, 0x3e, 0x1b, 0x42, 0xaa, 0x17, 0x59, 0xdc, 0x48, 0x55, 0x00, 0x42, 0x4d, 0x69, 0x41, 0x37,
];

#[test]
fn secrets_are_neither_shown_nor_repeated() {
    let text = with_base("admin: {token: hush-a}\ncluster: {identity_secret: hush-b}");
    let config = Config::from_yaml("w.yaml", &text).unwrap();
    let shown = format!("{config:?} {}", config.to_json());
    assert!(!shown.contains("hush") && shown.contains("(redacted)"), "{shown}");
    let wrong = errors(&with_base(
        "admin: {token: 'hush hush'}\ncluster: {key: hush, identity_secret: 'hush\t'}",
    ));
    assert_eq!(wrong.len(), 3);
    assert!(wrong.iter().all(|error| !error.contains("hush")), "{wrong:?}");
}

proptest! {
    #[test]
    fn no_text_makes_reading_panic(text in any::<String>()) {
        let _ = Config::from_yaml("w.yaml", &text);
    }

    #[test]
    fn no_change_of_a_valid_file_makes_reading_panic(
        edits in prop::collection::vec((any::<prop::sample::Index>(), "[ -~\n]{0,3}", 0usize..4), 1..8)
    ) {
        let mut text = ROUTES.to_owned();
        for (index, insert, remove) in edits {
            let start = index.index(text.len());
            let end = (start + remove).min(text.len());
            text.replace_range(start..end, &insert);
        }
        if let Err(errors) = Config::from_yaml("w.yaml", &text) {
            prop_assert!(!errors.as_slice().is_empty());
        }
    }

    #[test]
    fn no_value_of_any_key_makes_reading_panic(value in any::<String>(), key in 0usize..12) {
        let paths: [&[&str]; 12] = [
            &["node_id"], &["listen"], &["admin", "listen"], &["cluster", "gossip"], &["cluster", "seeds"],
            &["sync", "tick"], &["sync", "alpha"], &["limits", "max_keys"], &["proxy", "workers"],
            &["proxy", "trusted_proxies"], &["log", "filter"], &["cluster"],
        ];
        let mut layer = Layer::default();
        layer.set(paths[key], Origin::Variable("X".into()), &value);
        layer.set_upstream(Origin::Variable("X".into()), std::slice::from_ref(&value));
        layer.set_rule((Origin::Variable("X".into()), std::slice::from_ref(&value)), Some((Origin::Variable("X".into()), &value)));
        let _ = Config::resolve(layer, &Surroundings::default());
    }
}
