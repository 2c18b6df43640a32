//! What is said of a broken configuration, to the letter.

use super::{errors, with_base};
use crate::config::{Config, FILE_BYTES_MAX};

#[test]
fn each_wrong_value_is_reported_with_its_place_key_and_remedy() {
    for (text, expected) in [
        (
            "lisen: x",
            "w.yaml:3:1: lisen: unknown key `lisen`; did you mean `listen`?",
        ),
        (
            "admin: {port: 1}",
            "w.yaml:3:9: admin.port: unknown key `port`; the keys here are listen, token",
        ),
        (
            "log: info",
            "w.yaml:3:6: log: expected a section of keys, this is a single value",
        ),
        (
            "log: {filter: [info]}",
            "w.yaml:3:15: log.filter: expected a single value, this is a list",
        ),
        (
            "log: {filter: inof}",
            "w.yaml:3:15: log.filter: unknown log level `inof`; did you mean `info`?",
        ),
        (
            "log:\n  json:",
            "w.yaml:4:7: log.json: has no value; give one, or remove the key",
        ),
        (
            "log: {json: yes}",
            "w.yaml:3:13: log.json: `yes` is neither `true` nor `false`",
        ),
        (
            "node_id: b",
            "w.yaml:3:1: node_id: given twice, first at w.yaml:1:1; keep one of the two",
        ),
        (
            "listen: localhost",
            "w.yaml:3:9: listen: `localhost` is no address with a port; \
             write ADDRESS:PORT, such as `127.0.0.1:8000` or `[::1]:8000`",
        ),
        (
            "listen: []",
            "w.yaml:3:9: listen: has no elements; give an address, such as `127.0.0.1:8000`",
        ),
        (
            "listen: ['0.0.0.0:80', '127.0.0.1:80']",
            "w.yaml:3:24: listen[1]: `127.0.0.1:80` is listened on twice; keep one of the two",
        ),
        (
            "listen: 127.0.0.1:8001",
            "w.yaml:3:9: listen: clients and the admin API both listen on port 8001; \
             give each a port of its own",
        ),
        (
            "admin: {listen: '0.0.0.0:8001'}",
            "w.yaml:3:17: admin.listen: `0.0.0.0:8001` is not loopback and there is no token; \
             set `admin.token` (WEIR_ADMIN_TOKEN), or listen on 127.0.0.1",
        ),
        (
            "cluster: {gossip: '10.0.0.1:7946'}",
            "w.yaml:3:19: cluster.gossip: `10.0.0.1:7946` is not loopback and gossip has no key; \
             set `cluster.key_file` to a file made by `weir keygen`, or `insecure_gossip: true` \
             where the network is yours alone",
        ),
        (
            "cluster: {gossip: '0.0.0.0:7946', insecure_gossip: true}",
            "w.yaml:3:19: cluster.gossip: peers cannot reach a node at `0.0.0.0:7946`; \
             set `cluster.advertise` (--advertise) to the address that they see, or POD_IP",
        ),
        (
            "cluster: {key: s3cret}",
            "w.yaml:3:16: cluster.key: keys do not belong into this file; \
             put them into `cluster.key_file` or WEIR_GOSSIP_KEY",
        ),
        (
            "cluster: {seeds: ['10.0.0.2:7946', 10.0.0.3]}",
            "w.yaml:3:36: cluster.seeds[1]: `10.0.0.3` is no host with a port; \
             write HOST:PORT, such as `10.0.0.2:7946` or `weir-0.weir:7946`",
        ),
        (
            "sync: {tick: 100}",
            "w.yaml:3:14: sync.tick: `100` is no duration; \
             write a number and a unit, such as `100ms`, `2s` or `1m`",
        ),
        (
            "sync: {tick: 1h}",
            "w.yaml:3:14: sync.tick: `1h` is out of range; use 5ms to 10s",
        ),
        (
            "sync: {alpha: 1}",
            "w.yaml:3:15: sync.alpha: `1` is out of range; use 0.001 to 0.999",
        ),
        (
            "sync: {alpha: 0.2001}",
            "w.yaml:3:15: sync.alpha: `0.2001` is finer than a thousandth; round it to three decimals",
        ),
        (
            "sync: {epsilon: NaN}",
            "w.yaml:3:17: sync.epsilon: `NaN` is out of range; use 0 to 0.5",
        ),
        (
            "sync: {datagram_bytes: 511}",
            "w.yaml:3:24: sync.datagram_bytes: `511` is out of range; use 512 to 65000",
        ),
        (
            "limits: {max_keys: 1e6}",
            "w.yaml:3:20: limits.max_keys: `1e6` is no whole number",
        ),
        (
            "limits: {max_keys: 1023}",
            "w.yaml:3:20: limits.max_keys: `1023` is out of range; use 1024 to 100000000",
        ),
        (
            "proxy: {workers: 0}",
            "w.yaml:3:18: proxy.workers: `0` is out of range; use 1 to 256",
        ),
        (
            "proxy: {body_bytes_max: 1MB}",
            "w.yaml:3:25: proxy.body_bytes_max: `1MB` is no whole number; or write `unlimited`",
        ),
        (
            "proxy: {connections_per_client_max: 0}",
            "w.yaml:3:37: proxy.connections_per_client_max: `0` is out of range; \
             use 1 to 1000000, or `unlimited`",
        ),
        (
            "proxy: {request_line_bytes_max: 65001}",
            "w.yaml:3:33: proxy.request_line_bytes_max: `65001` is out of range; use 1024 to 65000",
        ),
        (
            "proxy: {send_timeout: 2h}",
            "w.yaml:3:23: proxy.send_timeout: `2h` is out of range; use 100ms to 1h",
        ),
        (
            "proxy: {trusted_proxies: 10.0.0.0/33}",
            "w.yaml:3:26: proxy.trusted_proxies: `10.0.0.0/33` is no network; \
             write ADDRESS/BITS, such as `10.0.0.0/8`",
        ),
    ] {
        assert_eq!(errors(&with_base(text)), [expected], "{text}");
    }
}

#[test]
fn each_wrong_rule_upstream_and_route_is_reported() {
    for (text, expected) in [
        (
            "",
            "w.yaml:1:1: upstreams: missing; \
             say where to forward, with --upstream http://HOST:PORT or in the file",
        ),
        (
            "upstreams: {}",
            "w.yaml:2:12: upstreams: expected a list, this is a section of keys; \
              begin each element with `- `",
        ),
        (
            "upstreams:\n- name: u",
            "w.yaml:3:3: upstreams[0].targets: missing; \
              give at least one, such as `http://127.0.0.1:9000`",
        ),
        (
            "upstreams: [{name: u, targets: h:1}]",
            "w.yaml:2:32: upstreams[0].targets: \
              `h:1` is no address of a server; write `http://h:1`",
        ),
        (
            "upstreams: [{name: u, targets: 'http://10.0.0.300'}]",
            "w.yaml:2:32: upstreams[0].targets: \
              `http://10.0.0.300` is no address of a server; write http://HOST:PORT or http://HOST:PORT/PATH",
        ),
        (
            "upstreams: [{name: u, targets: 'http://a'}, {name: u, targets: 'http://b'}]\n\
          routes: [{name: r, upstream: u}]",
            "w.yaml:2:52: upstreams[1].name: the name `u` is taken by upstreams[0].name at w.yaml:2:20; \
              choose another",
        ),
        (
            "upstreams: [{name: u, targets: 'http://a'}, {name: v, targets: 'http://b'}]",
            "w.yaml:1:1: routes: there are 2 upstreams and no route says which to use; add one route or more",
        ),
    ] {
        let actual = errors(&format!("node_id: a\n{text}"));
        assert_eq!(actual, [expected], "{text}");
    }
    for (text, expected) in [
        (
            "routes: [{upstream: app}]",
            "w.yaml:3:10: routes[0].name: missing; give it one",
        ),
        (
            "routes: [{name: r}]",
            "w.yaml:3:10: routes[0].upstream: missing; \
              say which of `upstreams` it leads to, or give `redirect` or `respond`",
        ),
        (
            "routes: [{name: r, upstream: ap}]",
            "w.yaml:3:30: routes[0].upstream: there is no upstream `ap`; \
              did you mean `app`?",
        ),
        (
            "routes: [{name: r, upstream: app, path_prefix: api}]",
            "w.yaml:3:48: routes[0].path_prefix: \
              `api` is no path; begin with `/`, such as `/api`",
        ),
        (
            "routes: [{name: r, upstream: app}, {name: s, upstream: app, path_prefix: /}]",
            "w.yaml:3:43: routes[1].name: matches any host and `/`, as route `r` does; keep one of the two",
        ),
        (
            "rules: [{name: r, windows: []}]",
            "w.yaml:3:28: rules[0].windows: has no elements; \
              give at least one, such as `5/minute`",
        ),
        (
            "rules: [{name: r, windows: [10/second, 5/minute]}]",
            "w.yaml:3:40: rules[0].windows[1]: \
              5 in the longer window make 10 in the shorter one (rules[0].windows[0]) unreachable; \
              raise this limit or lower that one",
        ),
        (
            "rules: [{name: r, windows: [5/minute, 6/60s]}]",
            "w.yaml:3:39: rules[0].windows[1]: \
              the same window as rules[0].windows[0]; keep one of the two",
        ),
        (
            "rules: [{name: r, windows: 5/minute, hits: 6}]",
            "w.yaml:3:44: rules[0].hits: \
              6 hits a request never fit a limit of 5; lower the hits or raise the limit",
        ),
        (
            "rules: [{name: r, windows: 5/minute, route: x, upstream: app}]\n\
          routes: [{name: x, upstream: app}]",
            "w.yaml:3:58: rules[0].upstream: \
              a rule belongs to a route or to an upstream, not to both; keep one of the two",
        ),
        (
            "rules: [{name: r, windows: 5/minute, route: defalt}]",
            "w.yaml:3:45: rules[0].route: \
              there is no route `defalt`; did you mean `default`?",
        ),
        (
            "rules: [{name: r, windows: 5/minute, mode: gosip}]",
            "w.yaml:3:44: rules[0].mode: \
              unknown sync mode `gosip`: expected `local`, `gossip` or `bounded`; did you mean `gossip`?",
        ),
    ] {
        assert_eq!(errors(&with_base(text)), [expected], "{text}");
    }
    for (text, place, nearest) in [
        ("windows: 5/minit", "w.yaml:3:28: rules[0].windows: ", "`minute`"),
        (
            "by: upsteram, windows: 5/minute",
            "w.yaml:3:23: rules[0].by: ",
            "`upstream`",
        ),
    ] {
        let errors = errors(&with_base(&format!("rules: [{{name: r, {text}}}]")));
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert!(
            errors[0].starts_with(place) && errors[0].contains(nearest),
            "{errors:?}"
        );
    }
    for window in ["0/minute", "1000000000001/minute", "5", "x/minute"] {
        let errors = errors(&with_base(&format!("rules: [{{name: r, windows: {window}}}]")));
        assert!(
            errors[0].starts_with("w.yaml:3:28: rules[0].windows: "),
            "{errors:?}"
        );
    }
}

#[test]
fn all_errors_of_a_file_come_at_once_in_its_order() {
    let text = "sync: {tick: 1}\nnodeid: a\nrules: [{windows: 0/day}]\nlimits: {max_keys: 1}\n";
    let keys: Vec<_> = Config::from_yaml("w.yaml", text)
        .unwrap_err()
        .as_slice()
        .iter()
        .map(|e| e.key.clone())
        .collect();
    let expected = [
        "node_id",
        "upstreams",
        "sync.tick",
        "nodeid",
        "rules[0].name",
        "rules[0].windows",
        "limits.max_keys",
    ];
    assert_eq!(keys, expected);
}

#[test]
fn text_that_is_no_plain_yaml_tree_is_refused_at_its_place() {
    let deep = format!("a: {}{}", "[".repeat(20), "]".repeat(20));
    let bomb = (1..9).fold(
        "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned(),
        |text, level| {
            let below = format!("*a{}", level - 1);
            format!("{text}a{level}: &a{level} [{}]\n", [below.as_str(); 9].join(", "))
        },
    );
    let huge = format!("# {}", "x".repeat(FILE_BYTES_MAX));
    for (text, expected) in [
        ("a: [\n", "w.yaml:1:4: not valid YAML: unclosed bracket '['"),
        (
            "a: *nowhere",
            "w.yaml:1:4: not valid YAML: while parsing node, found unknown anchor",
        ),
        (
            "a: &x [*x]",
            "w.yaml:1:8: this alias refers to a value that contains it; write the value out",
        ),
        (
            "a: !!str b",
            "w.yaml:1:10: YAML tags are not supported; remove the tag",
        ),
        (
            "[a]: b",
            "w.yaml:1:1: a key must be a name, this is a list; write `name: value`",
        ),
        (
            "a: b\n---\nc: d",
            "w.yaml:2:1: a second document starts here; keep one document per file",
        ),
        (&deep, "w.yaml:1:19: nested deeper than 16 levels"),
        (
            &bomb,
            "w.yaml:5:9: the file has more than 100000 values, aliases unfolded",
        ),
        (&huge, "w.yaml:1:1: the file is larger than 1048576 bytes"),
        ("- a", "w.yaml:1:1: expected a section of keys, this is a list"),
    ] {
        assert_eq!(errors(text)[0], expected);
    }
}

#[test]
fn lists_are_bounded_and_errors_are_counted_beyond_a_hundred() {
    let rules = |count: usize| {
        let rules = (0..count).map(|index| format!("- {{name: r{index}, windows: 5/minute}}\n"));
        with_base(&format!("rules:\n{}", rules.collect::<String>()))
    };
    assert_eq!(
        Config::from_yaml("w.yaml", &rules(1000))
            .unwrap()
            .limits
            .rules
            .len(),
        1000
    );
    assert_eq!(
        errors(&rules(1001)),
        ["w.yaml:4:3: rules: 1001 elements are too many; keep at most 1000"]
    );
    let wrong = with_base(&format!("cluster: {{seeds: [{}]}}", "x, ".repeat(150)));
    let errors = Config::from_yaml("w.yaml", &wrong).unwrap_err();
    assert_eq!(errors.as_slice().len(), 100);
    assert!(errors.to_string().ends_with("\nand 50 more"));
}
