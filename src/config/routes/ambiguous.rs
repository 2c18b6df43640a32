//! Routes that leave nothing to others, and bounds on what all of them cost.

use std::collections::HashMap;

use super::read::check_count;
use super::{PathChange, PathMatch, RouteAction, RouteConfig, RouteMatch, ValueMatch};
use crate::config::error::{At, Report};

/// Most regular expressions: each keeps memory in every thread.
const PATTERNS_MAX: usize = 256;
/// Most pairs of a host and a match, which the table of routes grows with.
const PAIRS_MAX: usize = 100_000;

/// Two routes with a match that is the same for the same host: the second would never be reached. `at` is the
/// place of all routes, `at_of` that of one.
pub(in crate::config) fn report_ambiguous<'n>(
    routes: &[RouteConfig],
    at: &At,
    at_of: impl Fn(&str) -> Option<&'n At>,
    report: &Report,
) {
    let pairs = |route: &RouteConfig| route.hosts.len().max(1) * route.matches.len();
    let pairs: usize = routes.iter().map(pairs).sum();
    check_count(report, at, pairs, PAIRS_MAX, "pairs of a host and a match");
    let patterns = routes.iter().map(patterns).sum();
    check_count(report, at, patterns, PATTERNS_MAX, "regular expressions");
    if pairs > PAIRS_MAX {
        return;
    }
    let mut seen = HashMap::new();
    for route in routes {
        let any = ["any host".to_owned()];
        let hosts: Vec<String> = route.hosts.iter().map(|host| format!("`{host}`")).collect();
        for host in if hosts.is_empty() { &any[..] } else { &hosts } {
            for one in &route.matches {
                let described = described(one);
                let Some(first) = seen.insert((host.clone(), described.clone()), &route.name) else {
                    continue;
                };
                let Some(at) = at_of(&route.name) else { continue };
                let problem = if first == &route.name {
                    format!("matches {host} and {described} twice")
                } else {
                    format!("matches {host} and {described}, as route `{first}` does")
                };
                report.wrong(at, problem, "keep one of the two");
            }
        }
    }
}

fn patterns(route: &RouteConfig) -> usize {
    let is_pattern = |value: &ValueMatch| usize::from(matches!(value, ValueMatch::Regex(_)));
    let of_match = |one: &RouteMatch| {
        usize::from(matches!(one.path, PathMatch::Regex(_)))
            + one
                .headers
                .iter()
                .map(|header| is_pattern(&header.value))
                .sum::<usize>()
            + one
                .query
                .iter()
                .map(|parameter| is_pattern(&parameter.value))
                .sum::<usize>()
    };
    let path = match &route.action {
        RouteAction::Forward(forward) => forward.path.as_ref(),
        RouteAction::Redirect(redirect) => redirect.path.as_ref(),
        RouteAction::Respond(_) => None,
    };
    let of_change = usize::from(matches!(path, Some(PathChange::Regex(..))));
    route.matches.iter().map(of_match).sum::<usize>() + of_change
}

/// A match in words that are the same for two matches exactly when they take the same requests by the same
/// conditions.
fn described(one: &RouteMatch) -> String {
    let path = match &one.path {
        PathMatch::Exact(path) => format!("the path `{path}`"),
        PathMatch::Prefix(path) => format!("`{path}`"),
        PathMatch::Regex(pattern) => format!("the pattern `{}`", pattern.as_str()),
    };
    let mut methods: Vec<_> = one.methods.iter().map(|method| method.as_str()).collect();
    methods.sort_unstable();
    methods.dedup();
    let value = |value: &ValueMatch| match value {
        ValueMatch::Present => String::new(),
        ValueMatch::Exact(text) => format!("={text:?}"),
        ValueMatch::Regex(pattern) => format!("~{:?}", pattern.as_str()),
    };
    let headers = one
        .headers
        .iter()
        .map(|header| format!("{}{}", header.name, value(&header.value)));
    let query = one
        .query
        .iter()
        .map(|parameter| format!("?{:?}{}", parameter.name, value(&parameter.value)));
    let more: Vec<String> = methods
        .into_iter()
        .map(str::to_owned)
        .chain(headers)
        .chain(query)
        .collect();
    if more.is_empty() {
        path
    } else {
        format!("{path} ({})", more.join(", "))
    }
}
