//! One match of one route, and the request that it is held against.

use std::cmp::Reverse;

use http::{HeaderMap, Method};

use crate::config::{HeaderMatch, PathMatch, QueryMatch, RouteMatch};

/// What routes look at of a request.
pub(in crate::proxy) struct Wanted<'r> {
    /// As in the Host field: may have a port. Empty when the request names none.
    pub(in crate::proxy) host: &'r str,
    /// In normal form.
    pub(in crate::proxy) path: &'r str,
    pub(in crate::proxy) method: &'r Method,
    /// As the client sent them.
    pub(in crate::proxy) headers: &'r HeaderMap,
    /// Without the question mark; may be empty.
    pub(in crate::proxy) query: &'r str,
}

/// One match of a route.
pub(super) struct Candidate {
    /// The route's place in the configuration.
    pub(super) route: usize,
    pub(super) conditions: RouteMatch,
}

impl Candidate {
    /// Sorts before what has less precedence, the path being equal.
    pub(super) fn rank(&self) -> (bool, Reverse<usize>, Reverse<usize>) {
        let RouteMatch {
            methods,
            headers,
            query,
            ..
        } = &self.conditions;
        (methods.is_empty(), Reverse(headers.len()), Reverse(query.len()))
    }

    /// Whether a request that was found by its exact path or prefix, or by nothing for a regular expression,
    /// meets the other conditions. The cheap ones first.
    pub(super) fn takes(&self, wanted: &Wanted<'_>) -> bool {
        let RouteMatch {
            path,
            methods,
            headers,
            query,
        } = &self.conditions;
        (methods.is_empty() || methods.contains(wanted.method))
            && headers.iter().all(|header| header_is_met(header, wanted.headers))
            && query
                .iter()
                .all(|parameter| query_is_met(parameter, wanted.query))
            && match path {
                PathMatch::Exact(_) | PathMatch::Prefix(_) => true,
                PathMatch::Regex(pattern) => pattern.matches(wanted.path.as_bytes()),
            }
    }
}

fn header_is_met(condition: &HeaderMatch, headers: &HeaderMap) -> bool {
    let mut lines = headers.get_all(&condition.name).iter();
    lines.any(|line| condition.value.accepts(line.as_bytes()))
}

/// Parameters are decoded as forms are (`+` is a space), which copies only what has something to decode.
fn query_is_met(condition: &QueryMatch, query: &str) -> bool {
    let mut parameters = form_urlencoded::parse(query.as_bytes());
    let first = parameters.find(|(name, _)| *name == condition.name);
    first.is_some_and(|(_, value)| condition.value.accepts(value.as_bytes()))
}
