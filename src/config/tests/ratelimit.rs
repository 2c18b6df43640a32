//! The section `ratelimit`.

use super::errors;
use crate::config::{Config, DescriptorLimit};
use crate::limit::CountBy;

fn with_descriptors(text: &str) -> String {
    format!("node_id: a\nratelimit: {{domains: [{{domain: edge, descriptors: [\n{text}]}}]}}\n")
}

fn config(text: &str) -> Config {
    Config::from_yaml("w.yaml", &with_descriptors(text)).unwrap_or_else(|errors| panic!("{errors}"))
}

#[test]
fn each_limit_becomes_a_rule_that_is_named_by_its_place() {
    let config = config(
        "{key: a b, windows: [5/minute, 9/hour], mode: local, descriptors: [{key: c, value: /d=e, rate_limit: {unit: WEEK, requests_per_unit: 7}}]},\n\
         {key: a b, value: x, rate_limit: {unlimited: true}, detailed_metric: true},\n{key: none}",
    );
    let rules: Vec<_> = config
        .limits
        .rules
        .iter()
        .map(|rule| (rule.name.as_str(), rule.windows[0].to_string()))
        .collect();
    assert_eq!(
        rules,
        [
            ("edge/a%20b", "5/minute".to_owned()),
            ("edge/a%20b/c=%2Fd%3De", "7/7d".to_owned())
        ]
    );
    assert!(
        config
            .limits
            .rules
            .iter()
            .all(|rule| rule.count_by == CountBy::Descriptor)
    );
    let descriptors = &config.ratelimit.domains[0].descriptors;
    assert_eq!(descriptors[1].limit, DescriptorLimit::Unlimited);
    assert_eq!(descriptors[2].limit, DescriptorLimit::None);
    let json = config.to_json().to_string();
    assert_eq!(Config::from_yaml("json", &json).unwrap(), config, "{json}");
}

#[test]
fn what_is_wrong_with_the_service_is_reported_with_place_and_remedy() {
    for (text, expected) in [
        (
            "node_id: a\nratelimit: {listen: '0.0.0.0:81'}",
            "w.yaml:2:21: ratelimit.listen: `0.0.0.0:81` is not loopback and there is no token; set `ratelimit.token` \
             (WEIR_RATELIMIT_TOKEN), or `insecure: true` where the network is yours alone: whoever reaches it can use \
             up the limits of others",
        ),
        (
            "node_id: a\nratelimit: {listen: '127.0.0.1:8000'}",
            "w.yaml:2:21: ratelimit.listen: clients and the rate limit service both listen on port 8000; give each a \
             port of its own",
        ),
        (
            "node_id: a\nratelimit: {domains: [{domain: a}, {domain: a}]}",
            "w.yaml:2:45: ratelimit.domains[1].domain: the same domain as ratelimit.domains[0].domain at w.yaml:2:32; \
             keep one of the two",
        ),
        (
            &with_descriptors("{key: a}, {key: a}"),
            "w.yaml:3:11: ratelimit.domains[0].descriptors[1]: the same descriptor as \
             ratelimit.domains[0].descriptors[0] at w.yaml:3:1; keep one of the two",
        ),
        (
            &with_descriptors("{key: a, rate_limit: {unit: minutes, requests_per_unit: 1}}"),
            "w.yaml:3:29: ratelimit.domains[0].descriptors[0].rate_limit.unit: `minutes` is no unit; did you mean `minute`?",
        ),
        (
            &with_descriptors("{key: a, rate_limit: {unit: day}}"),
            "w.yaml:3:22: ratelimit.domains[0].descriptors[0].rate_limit.requests_per_unit: missing; give a whole number",
        ),
        (
            &with_descriptors("{key: a, windows: [1/day], rate_limit: {unlimited: true}}"),
            "w.yaml:3:40: ratelimit.domains[0].descriptors[0].rate_limit: a limit is said twice, by `windows` and by \
             `rate_limit`; keep one of the two",
        ),
        (
            &with_descriptors("{key: a, mode: local}"),
            "w.yaml:3:16: ratelimit.domains[0].descriptors[0].mode: there is no limit at \
             ratelimit.domains[0].descriptors[0] that the mode could apply to; give one, such as `windows: [5/minute]`",
        ),
        (
            &with_descriptors("{key: a, windows: [1/day], mode: bounded}"),
            "w.yaml:3:20: ratelimit.domains[0].descriptors[0].windows[0]: in bounded mode a node that crashes takes its \
             share of 1/day with it until the window ends; keep windows to an hour, set \
             `bounded.allow_long_windows: true`, or give the rule another `mode`",
        ),
        (
            &with_descriptors("{key: '', value: x}"),
            "w.yaml:3:7: ratelimit.domains[0].descriptors[0].key: `` is empty, too long or unprintable; use 1 to 256 \
             bytes without control characters",
        ),
        (
            &with_descriptors("{key: a, windows: [1/day], share_threshold: true}"),
            "w.yaml:3:28: ratelimit.domains[0].descriptors[0].share_threshold: unknown key `share_threshold`; the keys \
             here are key, value, windows, mode, name, rate_limit, shadow_mode, detailed_metric, value_to_metric, \
             descriptors",
        ),
    ] {
        assert_eq!(errors(text), [expected], "{text}");
    }
    let crowded = errors("node_id: a\nupstreams: []\nratelimit: {listen: '127.0.0.1:8001', token: ''}");
    assert_eq!(crowded.len(), 2, "{crowded:?}");
}

#[test]
fn a_node_that_serves_other_proxies_only_needs_no_upstream() {
    assert!(config("{key: a}").routes.is_empty());
    assert_eq!(errors("node_id: a").len(), 1);
}

#[test]
fn nodes_agree_on_descriptors_that_count_and_their_order_does_not_matter() {
    let digest = |text: &str| config(text).digest();
    let one = digest("{key: a, windows: [5/minute]}, {key: b, windows: [5/minute]}");
    assert_eq!(
        one,
        digest("{key: b, windows: [5/minute]}, {key: a, windows: [5/minute]}")
    );
    assert_ne!(
        one,
        digest("{key: a, windows: [5/minute]}, {key: c, windows: [5/minute]}")
    );
    assert_ne!(
        one,
        digest("{key: a, windows: [6/minute]}, {key: b, windows: [5/minute]}")
    );
}
