//! The order of precedence between routes, as Gateway API has it for `HTTPRoute`:
//!
//! 1. the host: a name before a wildcard, a longer wildcard before a shorter, any host last;
//! 2. the path: an exact one, then a regular expression, then the longest prefix. Gateway API leaves the place
//!    of regular expressions open. After prefixes, a route for `/` would leave nothing to them;
//! 3. a match with methods before one without, then the one with more headers, then with more parameters;
//! 4. the order of the configuration.
//!
//! What a host's routes do not take falls through to the next wildcard, and at last to the routes of any host.

use std::collections::HashMap;

use smallvec::SmallVec;

use super::candidate::{Candidate, Wanted};
use super::table::Table;
use super::without_port;
use crate::config::{HostMatch, PathMatch, RouteConfig};

/// Longest name that a host can have (RFC 1035 §2.3.4), so that nobody has longer ones looked up by each of
/// their labels.
const HOST_BYTES_MAX: usize = 253;

/// All routes, ready to be searched.
pub(in crate::proxy) struct Router {
    candidates: Vec<Candidate>,
    exact: HashMap<Box<str>, Table>,
    below: HashMap<Box<str>, Table>,
    any: Table,
}

/// The route that takes a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::proxy) struct Hit<'t> {
    /// Its place in the configuration.
    pub(in crate::proxy) route: usize,
    /// How it matched the path.
    pub(in crate::proxy) path: &'t PathMatch,
}

impl Router {
    pub(in crate::proxy) fn new(routes: &[RouteConfig]) -> Self {
        let mut router = Self {
            candidates: Vec::new(),
            exact: HashMap::new(),
            below: HashMap::new(),
            any: Table::default(),
        };
        for (route, config) in routes.iter().enumerate() {
            for conditions in &config.matches {
                let candidate = router.candidates.len();
                router.candidates.push(Candidate {
                    route,
                    conditions: conditions.clone(),
                });
                for host in &config.hosts {
                    router.table_of(host).insert(&conditions.path, candidate);
                }
                if config.hosts.is_empty() {
                    router.any.insert(&conditions.path, candidate);
                }
            }
        }
        let tables = router.exact.values_mut().chain(router.below.values_mut());
        for table in tables.chain([&mut router.any]) {
            table.sort(&router.candidates);
        }
        router
    }

    /// The route of the request that is `wanted`.
    pub(in crate::proxy) fn find(&self, wanted: &Wanted<'_>) -> Option<Hit<'_>> {
        let find = |table: &Table| table.find(&self.candidates, wanted);
        let found = self
            .in_tables_of(wanted.host, find)
            .and_then(|at| self.candidates.get(at));
        found.map(|candidate| Hit {
            route: candidate.route,
            path: &candidate.conditions.path,
        })
    }

    fn table_of(&mut self, host: &HostMatch) -> &mut Table {
        let (tables, name) = match host {
            HostMatch::Exact(name) => (&mut self.exact, name),
            HostMatch::Below(name) => (&mut self.below, name),
        };
        tables.entry(name.as_str().into()).or_default()
    }

    /// What `find` finds in the first table of those for `host`, which may have a port and any case.
    fn in_tables_of(&self, host: &str, find: impl Fn(&Table) -> Option<usize>) -> Option<usize> {
        let host = without_port(host);
        let host = host.strip_suffix('.').unwrap_or(host);
        let named = !self.exact.is_empty() || !self.below.is_empty();
        if named && host.len() <= HOST_BYTES_MAX {
            let lower: SmallVec<[u8; HOST_BYTES_MAX]>;
            let host = if host.bytes().any(|b| b.is_ascii_uppercase()) {
                lower = host.bytes().map(|b| b.to_ascii_lowercase()).collect();
                std::str::from_utf8(&lower).unwrap_or(host)
            } else {
                host
            };
            let parents = host.match_indices('.').filter_map(|(dot, _)| host.get(dot + 1..));
            let below = parents.filter_map(|parent| self.below.get(parent));
            let found = self.exact.get(host).into_iter().chain(below).find_map(&find);
            if found.is_some() {
                return found;
            }
        }
        find(&self.any)
    }
}
