//! Random routes and requests: the router agrees with the order of precedence, applied to every match.

use std::cmp::Reverse;

use proptest::prelude::*;

use super::*;
use crate::config::{
    HeaderChanges, HeaderMatch, HostMatch, Pattern, QueryMatch, RouteAction, RouteMatch, ValueMatch,
};

/// The route that the rules in words choose: of all matches that take the request the highest in rank.
fn by_the_book(routes: &[RouteConfig], request: &Request) -> Option<usize> {
    let path = request.path().into_owned();
    let mut best = None;
    for (index, route) in routes.iter().enumerate() {
        for (order, one) in route.matches.iter().enumerate() {
            let hosts: Vec<Option<(bool, usize)>> = match route.hosts.as_slice() {
                [] => vec![Some((false, 0))],
                hosts => hosts.iter().map(|host| host_rank(host, &request.host)).collect(),
            };
            let host = hosts.into_iter().flatten().max();
            let (Some(host), Some(path)) = (host, path_rank(&one.path, &path)) else {
                continue;
            };
            let takes = (one.methods.is_empty() || one.methods.contains(&request.method))
                && one.headers.iter().all(|header| {
                    let lines: Vec<_> = request.headers.get_all(&header.name).iter().collect();
                    lines
                        .iter()
                        .any(|line| meets(&header.value, line.to_str().unwrap()))
                })
                && one.query.iter().all(|parameter| {
                    let value = first_parameter(request.target.query().unwrap_or(""), &parameter.name);
                    value.is_some_and(|value| meets(&parameter.value, &value))
                });
            let rank = (
                host,
                path,
                !one.methods.is_empty(),
                one.headers.len(),
                one.query.len(),
                Reverse((index, order)),
            );
            if takes && best.is_none_or(|(other, _)| rank > other) {
                best = Some((rank, index));
            }
        }
    }
    best.map(|(_, index)| index)
}

fn host_rank(host: &HostMatch, asked: &str) -> Option<(bool, usize)> {
    match host {
        HostMatch::Exact(name) => (name == asked).then_some((true, name.len())),
        HostMatch::Below(name) => asked
            .ends_with(&format!(".{name}"))
            .then_some((false, name.len() + 2)),
    }
}

fn path_rank(matched: &PathMatch, path: &str) -> Option<(u8, usize)> {
    match matched {
        PathMatch::Exact(exact) => (exact == path).then_some((2, 0)),
        PathMatch::Regex(pattern) => {
            let whole = regex::Regex::new(&format!("^({})$", pattern.as_str())).unwrap();
            whole.is_match(path).then_some((1, 0))
        }
        PathMatch::Prefix(prefix) if prefix == "/" => Some((0, 0)),
        PathMatch::Prefix(prefix) => {
            let below = path == prefix || path.starts_with(&format!("{prefix}/"));
            below.then_some((0, prefix.len()))
        }
    }
}

fn meets(condition: &ValueMatch, value: &str) -> bool {
    match condition {
        ValueMatch::Present => true,
        ValueMatch::Exact(text) => text == value,
        ValueMatch::Regex(pattern) => regex::Regex::new(&format!("^({})$", pattern.as_str()))
            .unwrap()
            .is_match(value),
    }
}

fn first_parameter(query: &str, name: &str) -> Option<String> {
    let mut pairs = query
        .split('&')
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs
        .find(|(key, _)| *key == name)
        .map(|(_, value)| value.to_owned())
}

fn path() -> impl Strategy<Value = String> {
    let segment = prop::sample::select(vec!["a", "b", "c", "ab"]);
    (prop::collection::vec(segment, 0..4), any::<bool>()).prop_map(|(segments, slash)| {
        let path = format!("/{}", segments.join("/"));
        if slash && path != "/" {
            format!("{path}/")
        } else {
            path
        }
    })
}

fn path_match() -> impl Strategy<Value = PathMatch> {
    let regexes = vec!["/a.*", "/[ab]/c?", "/(a|b)/(b|c)/.*", ".*b", "/"];
    let prefix = |path: String| match path.trim_end_matches('/') {
        "" => PathMatch::Prefix("/".to_owned()),
        path => PathMatch::Prefix(path.to_owned()),
    };
    prop_oneof![
        path().prop_map(PathMatch::Exact),
        path().prop_map(prefix),
        prop::sample::select(regexes).prop_map(|text| PathMatch::Regex(Pattern::try_new(text).unwrap())),
    ]
}

fn value_match() -> impl Strategy<Value = ValueMatch> {
    prop_oneof![
        Just(ValueMatch::Present),
        prop::sample::select(vec!["1", "2"]).prop_map(|text| ValueMatch::Exact(text.to_owned())),
        Just(ValueMatch::Regex(Pattern::try_new("1|3").unwrap())),
    ]
}

fn host() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["t", "a.t", "b.t", "a.b.t", "c.a.b.t"]).prop_map(str::to_owned)
}

fn method() -> impl Strategy<Value = Method> {
    prop::sample::select(vec![Method::GET, Method::POST])
}

fn route_match() -> impl Strategy<Value = RouteMatch> {
    let headers = prop::collection::btree_map(prop::sample::select(vec!["x-a", "x-b"]), value_match(), 0..3);
    let query = prop::collection::btree_map(prop::sample::select(vec!["p", "q"]), value_match(), 0..3);
    let methods = prop::collection::vec(method(), 0..2);
    (path_match(), methods, headers, query).prop_map(|(path, methods, headers, query)| RouteMatch {
        path,
        methods,
        headers: headers
            .into_iter()
            .map(|(name, value)| HeaderMatch {
                name: HeaderName::from_static(name),
                value,
            })
            .collect(),
        query: query
            .into_iter()
            .map(|(name, value)| QueryMatch {
                name: name.to_owned(),
                value,
            })
            .collect(),
    })
}

fn route() -> impl Strategy<Value = RouteConfig> {
    let host = (host(), any::<bool>()).prop_map(|(name, exact)| match exact {
        true => HostMatch::Exact(name),
        false => HostMatch::Below(name),
    });
    let hosts = prop::collection::vec(host, 0..3);
    let matches = prop::collection::vec(route_match(), 1..3);
    (hosts, matches).prop_map(|(hosts, matches)| RouteConfig {
        name: "r".to_owned(),
        hosts,
        matches,
        action: RouteAction::Respond(crate::config::FixedResponse {
            status: http::StatusCode::OK,
            body: String::new(),
            content_type: http::HeaderValue::from_static("text/plain"),
        }),
        response_headers: HeaderChanges::default(),
    })
}

fn request() -> impl Strategy<Value = Request> {
    let value = || prop::sample::select(vec!["1", "2", "3"]);
    let fields = prop::collection::vec((prop::sample::select(vec!["x-a", "x-b"]), value()), 0..4);
    let query = prop::collection::vec((prop::sample::select(vec!["p", "q"]), value()), 0..4);
    (method(), host(), path(), fields, query).prop_map(|(method, host, path, fields, query)| {
        let query: Vec<String> = query
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        Request::new(&format!("{method} {host}{path}?{}", query.join("&")), &fields)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn the_router_agrees_with_the_order_of_precedence(
        routes in prop::collection::vec(route(), 0..12),
        requests in prop::collection::vec(request(), 1..12),
    ) {
        let router = Router::new(&routes);
        for request in requests {
            let path = request.path();
            let found = router.find(&request.wanted(&path)).map(|hit| hit.route);
            prop_assert_eq!(found, by_the_book(&routes, &request), "{} {}", request.host, request.target);
        }
    }
}
