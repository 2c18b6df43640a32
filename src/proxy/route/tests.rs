//! Tests of routes as they are configured, without a request on the wire.

mod actions;
mod precedence;
mod random;

use std::borrow::Cow;

use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, Method};

use super::*;
use crate::config::{Config, UrlScheme};
use crate::path::normalize;

/// The routes of a file that has `routes` as its last key.
fn routes(routes: &str) -> Vec<RouteConfig> {
    let head =
        "node_id: a\nupstreams: [{name: app, targets: ['http://h:1']}]\nrouting: {escaped_slashes: pass}\n";
    let config = Config::from_yaml("w.yaml", &format!("{head}routes:\n{routes}"));
    config.unwrap_or_else(|errors| panic!("{errors}")).routes
}

/// A request as a client writes it: `METHOD HOST/PATH?QUERY` and its header fields.
#[derive(Debug)]
struct Request {
    method: Method,
    host: String,
    target: PathAndQuery,
    headers: HeaderMap,
}

impl Request {
    fn new(line: &str, fields: &[(&str, &str)]) -> Self {
        let (method, url) = line.split_once(' ').unwrap_or(("GET", line));
        let (host, target) = url.split_at(url.find('/').expect("a path"));
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        Self {
            method: method.parse().unwrap(),
            host: host.to_owned(),
            target: target.parse().unwrap(),
            headers,
        }
    }

    fn path(&self) -> Cow<'_, str> {
        normalize(self.target.path(), EscapedSlashes::Pass).unwrap()
    }

    fn wanted<'r>(&'r self, path: &'r str) -> Wanted<'r> {
        Wanted {
            host: &self.host,
            path,
            method: &self.method,
            headers: &self.headers,
            query: self.target.query().unwrap_or_default(),
        }
    }

    /// The name of the route that takes it.
    fn route<'c>(&self, router: &Router, routes: &'c [RouteConfig]) -> Option<&'c str> {
        let hit = router.find(&self.wanted(&self.path()))?;
        Some(&routes[hit.route].name)
    }
}
