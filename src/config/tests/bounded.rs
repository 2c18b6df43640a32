//! The bounded mode: what it is by default, and what it is refused.

use std::time::Duration;

use super::{errors, with_base};
use crate::config::{Config, WithoutShare};
use crate::limit::{Overflow, SyncMode};

fn load(text: &str) -> Config {
    Config::from_yaml("w.yaml", &with_base(text)).unwrap()
}

#[test]
fn a_full_section_becomes_the_values_it_says_and_reads_back() {
    let config = load(
        "sync: {mode: bounded}\nlimits: {overflow: allow}\n\
         rules: [{name: a, windows: [5/day]}]\n\
         bounded: {skew: 250ms, wait: 0s, min_roster: 3, forget_after: 1h, strict_start: true, \
         when_without_share: gossip, allow_long_windows: true, retire_on_restart: true}\n",
    );
    let bounded = &config.bounded;
    assert_eq!(
        (bounded.skew, bounded.wait),
        (Duration::from_millis(250), Duration::ZERO)
    );
    assert_eq!(
        (bounded.min_roster, bounded.forget_after),
        (3, Some(Duration::from_secs(3600)))
    );
    assert!(bounded.strict_start && bounded.allow_long_windows && bounded.retire_on_restart);
    assert_eq!(bounded.when_without_share, WithoutShare::Gossip);
    assert_eq!(
        (config.sync.mode, config.limits.overflow),
        (SyncMode::Bounded, Overflow::Allow)
    );
    for config in [config, load("rules: [{name: a, windows: [5/day]}]")] {
        let json = config.to_json().to_string();
        assert_eq!(Config::from_yaml("json", &json).unwrap(), config, "{json}");
    }
}

#[test]
fn skew_is_a_second_at_most_and_the_roster_a_majority_unless_said_otherwise() {
    let bounded = load("sync: {max_clock_skew: 300ms}").bounded;
    assert_eq!(
        (bounded.skew, bounded.min_roster, bounded.forget_after),
        (Duration::from_millis(300), 1, None)
    );
    assert_eq!(load("").bounded.skew, Duration::from_secs(1));
    let own = "127.0.0.1:7946";
    for (seeds, majority) in [("b:1", 2), ("b:1, c:1", 2), ("b:1, c:1, d:1", 3)] {
        for seeds in [seeds.to_owned(), format!("{seeds}, '{own}'")] {
            let text = format!("cluster: {{seeds: [{seeds}]}}");
            assert_eq!(load(&text).bounded.min_roster, majority, "{text}");
        }
    }
}

#[test]
fn what_the_mode_cannot_promise_is_refused_with_the_reason() {
    let refused = "in bounded mode a node that crashes takes its share of 5/day with it until the window ends; \
                   keep windows to an hour, set `bounded.allow_long_windows: true`, or give the rule another `mode`";
    for (text, at) in [
        (
            "rules: [{name: a, mode: bounded, windows: [1/hour, 5/day]}]",
            "w.yaml:3:52: rules[0].windows[1]",
        ),
        (
            "sync: {mode: bounded}\nrules: [{name: a, windows: 5/day}]",
            "w.yaml:4:28: rules[0].windows",
        ),
    ] {
        assert_eq!(errors(&with_base(text)), [format!("{at}: {refused}")]);
    }
    for text in [
        "rules: [{name: a, windows: 5/day}]",
        "sync: {mode: bounded}\nrules: [{name: a, mode: gossip, windows: 5/day}]",
        "rules: [{name: a, mode: bounded, windows: [1/minute, 5/hour]}]",
        "bounded: {allow_long_windows: true}\nrules: [{name: a, mode: bounded, windows: 5/year}]",
    ] {
        load(text);
    }
}

#[test]
fn a_mode_that_is_set_at_run_time_is_held_to_the_same_rules() {
    let own = "{name: b, mode: local, windows: 5/year}";
    let config = load(&format!("rules: [{{name: a, windows: [1/hour, 5/day]}}, {own}]"));
    let objection = config.objection_to(SyncMode::Bounded).unwrap();
    assert!(
        objection.starts_with("rule `a`: in bounded mode a node that crashes takes its share of 5/day"),
        "{objection}"
    );
    assert_eq!(config.objection_to(SyncMode::Local), None);
    let short = load(&format!("rules: [{{name: a, windows: 1/hour}}, {own}]"));
    assert_eq!(short.objection_to(SyncMode::Bounded), None);
    let allowed = "bounded: {allow_long_windows: true}\nrules: [{name: a, windows: 5/day}]";
    assert_eq!(load(allowed).objection_to(SyncMode::Bounded), None);
}

#[test]
fn values_out_of_bounds_are_refused_with_the_remedy() {
    for (text, expected) in [
        (
            "bounded: {wait: 11s}",
            "bounded.wait: `11s` is out of range; use 0s to 10s",
        ),
        (
            "sync: {max_clock_skew: 2s}\nbounded: {skew: 3s}",
            "bounded.skew: `3s` is above `sync.max_clock_skew`, 2s: counts of members so far apart are refused; \
             lower it, or raise `sync.max_clock_skew`",
        ),
        (
            "bounded: {min_roster: 0}",
            "bounded.min_roster: `0` is out of range; use 1 to 1000",
        ),
        (
            "bounded: {forget_after: 59s}",
            "bounded.forget_after: `59s` is out of range; use 1m to 30days, or `never`",
        ),
        (
            "bounded: {when_without_share: locl}",
            "bounded.when_without_share: `locl` is none of `deny`, `gossip` and `local`; did you mean `local`?",
        ),
        (
            "limits: {overflow: alow}",
            "limits.overflow: `alow` is neither `deny` nor `allow`; did you mean `allow`?",
        ),
        (
            "sync: {mode: bound}",
            "sync.mode: unknown sync mode `bound`: expected `local`, `gossip` or `bounded`; did you mean `bounded`?",
        ),
    ] {
        let errors = errors(&with_base(text));
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert!(errors[0].ends_with(expected), "{errors:?}");
    }
}
