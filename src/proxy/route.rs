//! Which route a request takes. Pure.
//!
//! Precedence: routes of the request's exact host before routes of any host; among those, the longest
//! path prefix; among equals, the order of the configuration. Prefixes match whole segments: `/api`
//! takes `/api` and `/api/x`, not `/apix`.

use std::borrow::Cow;
use std::collections::HashMap;

use smallvec::SmallVec;

use crate::config::RouteConfig;

/// A table of routes, ready to be searched. Answers with the index of the route in the configuration.
pub(super) struct Router {
    by_host: HashMap<String, Vec<Entry>>,
    any_host: Vec<Entry>,
}

/// One prefix, without a trailing slash: empty matches everything.
struct Entry {
    prefix: String,
    route: usize,
}

/// The path has `.` or `..` segments, which a server may resolve to a resource of another route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the path has dot segments")]
pub(super) struct DotSegments;

impl Router {
    pub(super) fn new(routes: &[RouteConfig]) -> Self {
        let mut router = Self {
            by_host: HashMap::new(),
            any_host: Vec::new(),
        };
        for (route, config) in routes.iter().enumerate() {
            let entry = || Entry {
                prefix: config.path_prefix.trim_end_matches('/').to_owned(),
                route,
            };
            for host in &config.hosts {
                let host = host.to_ascii_lowercase();
                router.by_host.entry(host).or_default().push(entry());
            }
            if config.hosts.is_empty() {
                router.any_host.push(entry());
            }
        }
        // A stable sort: routes of equal prefixes keep the order of the configuration.
        let longest_first = |entries: &mut Vec<Entry>| entries.sort_by_key(|e| usize::MAX - e.prefix.len());
        router.by_host.values_mut().for_each(longest_first);
        longest_first(&mut router.any_host);
        router
    }

    /// The route for a request to `host` (as in the Host field, port and case ignored) and the
    /// normalized `path`.
    pub(super) fn find(&self, host: &str, path: &str) -> Option<usize> {
        self.entries_of(host)
            .and_then(|entries| longest_prefix(entries, path))
            .or_else(|| longest_prefix(&self.any_host, path))
    }

    fn entries_of(&self, host: &str) -> Option<&Vec<Entry>> {
        if self.by_host.is_empty() {
            return None;
        }
        let host = without_port(host);
        let host = host.strip_suffix('.').unwrap_or(host);
        if !host.bytes().any(|b| b.is_ascii_uppercase()) {
            return self.by_host.get(host);
        }
        let lower: SmallVec<[u8; 64]> = host.bytes().map(|b| b.to_ascii_lowercase()).collect();
        std::str::from_utf8(&lower).ok().and_then(|h| self.by_host.get(h))
    }
}

/// The path in the form that routes and limits see: percent-encoded unreserved characters are decoded
/// (RFC 3986 §6.2.2.2), so that `/%61pi` cannot slip past a route or a counter of `/api`.
///
/// # Errors
/// [`DotSegments`] when the path is not in the form that clients send (RFC 3986 §5.2.4 has them resolve
/// dot segments first).
pub(super) fn normalize(path: &str) -> Result<Cow<'_, str>, DotSegments> {
    let normalized = if path.contains('%') {
        decode_unreserved(path)
    } else {
        Cow::Borrowed(path)
    };
    if has_dot_segments(normalized.as_bytes()) {
        return Err(DotSegments);
    }
    Ok(normalized)
}

/// What remains of the normalized `path` below `prefix`, beginning with a slash.
pub(super) fn strip<'p>(path: &'p str, prefix: &str) -> &'p str {
    let rest = path.strip_prefix(prefix.trim_end_matches('/')).unwrap_or(path);
    if rest.is_empty() { "/" } else { rest }
}

/// `host` of `host`, `host:port`, `[v6]` and `[v6]:port`.
fn without_port(host: &str) -> &str {
    match host.rfind([':', ']']) {
        Some(at) if host.as_bytes().get(at) == Some(&b':') => host.get(..at).unwrap_or(host),
        _ => host,
    }
}

fn longest_prefix(entries: &[Entry], path: &str) -> Option<usize> {
    let matches = |entry: &&Entry| {
        path.strip_prefix(entry.prefix.as_str())
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    entries.iter().find(matches).map(|entry| entry.route)
}

fn has_dot_segments(path: &[u8]) -> bool {
    path.windows(2).any(|pair| pair == b"/.")
        && path
            .split(|&b| b == b'/')
            .any(|segment| segment == b"." || segment == b"..")
}

fn decode_unreserved(path: &str) -> Cow<'_, str> {
    let mut decoded = String::with_capacity(path.len());
    let mut rest = path;
    while let Some((before, after)) = rest.split_once('%') {
        decoded.push_str(before);
        let octet = after.get(..2).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match octet {
            Some(octet) if octet.is_ascii_alphanumeric() || b"-._~".contains(&octet) => {
                decoded.push(char::from(octet));
                rest = after.get(2..).unwrap_or_default();
            }
            _ => {
                decoded.push('%');
                rest = after;
            }
        }
    }
    decoded.push_str(rest);
    Cow::Owned(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn router(routes: &[(&[&str], &str)]) -> Router {
        let routes: Vec<RouteConfig> = routes
            .iter()
            .enumerate()
            .map(|(index, (hosts, prefix))| RouteConfig {
                name: format!("route-{index}"),
                hosts: hosts.iter().map(|h| (*h).to_owned()).collect(),
                path_prefix: (*prefix).to_owned(),
                strip_prefix: false,
                upstream: "up".to_owned(),
            })
            .collect();
        Router::new(&routes)
    }

    #[test]
    fn the_host_decides_before_the_longest_prefix_and_hostless_routes_come_last() {
        let router = router(&[
            (&[], "/api/v1"),
            (&["a.test"], "/api"),
            (&["a.test", "b.test"], "/api/users/"),
            (&["[::1]"], "/"),
            (&[], "/api/v1"),
        ]);
        let table = [
            ("a.test", "/api/v1/x", Some(1)),
            ("A.Test:8080", "/api/users", Some(2)),
            ("b.test.", "/api/users/7", Some(2)),
            ("b.test", "/api/v1", Some(0)),
            ("[::1]:80", "/anything", Some(3)),
            ("c.test", "/api/v1", Some(0)),
            // Whole segments only, and no route for the rest.
            ("a.test", "/apix", None),
            ("c.test", "/api", None),
        ];
        for (host, path, expected) in table {
            assert_eq!(router.find(host, path), expected, "{host} {path}");
        }
    }

    #[test]
    fn a_path_cannot_hide_from_its_route_behind_encoding_or_dots() {
        assert_eq!(normalize("/%61p%69/%2Fx%zz%").unwrap(), "/api/%2Fx%zz%");
        assert_eq!(normalize("/a/.hidden/..b/c...").unwrap(), "/a/.hidden/..b/c...");
        for path in ["/a/../b", "/a/.", "/..", "/a/%2e%2E/b", "/./a"] {
            assert_eq!(normalize(path), Err(DotSegments), "{path}");
        }
    }

    #[test]
    fn stripping_leaves_a_rooted_path() {
        assert_eq!(strip("/api/users", "/api"), "/users");
        assert_eq!(strip("/api", "/api/"), "/");
        assert_eq!(strip("/users", "/"), "/users");
    }
}
