//! From sections of a file to routes.

mod action;
mod headers;

use std::collections::HashSet;

use super::values::{
    compared_text, escaped_slashes, exact_path, host_match, matched_header, method, path_prefix, pattern,
};
use super::{HeaderMatch, PathMatch, QueryMatch, RouteConfig, RouteMatch, RoutingConfig, ValueMatch};
use crate::config::error::{At, Report};
use crate::config::read::{Found, Section};
use crate::config::scalars::{Wrong, boolean, plain_name, wrong};

/// Most matches of one route, and most conditions of a match on headers or query: what Gateway API allows.
const MATCHES_MAX: usize = 64;
const CONDITIONS_MAX: usize = 16;

/// The conditions of a match.
const CONDITIONS: [&str; 6] = ["path", "path_prefix", "path_regex", "methods", "headers", "query"];

/// Reads how requests are compared with routes.
pub(in crate::config) fn routing(root: &mut Section<'_>) -> RoutingConfig {
    let mut section = root.section("routing");
    let routing = RoutingConfig {
        escaped_slashes: section.value_or("escaped_slashes", escaped_slashes, Default::default()),
    };
    section.finish();
    routing
}

/// Reads one route, whose name has been read, and the upstream that it names.
pub(in crate::config) fn read(
    mut section: Section<'_>,
    name: Option<String>,
    routing: RoutingConfig,
    report: &Report,
) -> (Option<RouteConfig>, Option<Found<String>>) {
    let reader = Reader { routing, report };
    let hosts = section.values("hosts", host_match);
    let matches = reader.matches(&mut section);
    let upstream = section.value("upstream", plain_name);
    let action = reader.action(&mut section, &matches, upstream.as_ref());
    let response_headers = reader.header_changes(&mut section, "response_headers");
    section.finish();
    let hosts = hosts.map_or(Vec::new(), |list| list.value);
    let hosts = hosts.into_iter().map(|found| found.value).collect();
    let route = name.zip(action).map(|(name, action)| RouteConfig {
        name,
        hosts,
        matches,
        action,
        response_headers,
    });
    (route, upstream)
}

/// What the readers of a route's parts share.
#[derive(Clone, Copy)]
struct Reader<'r> {
    routing: RoutingConfig,
    report: &'r Report,
}

impl Reader<'_> {
    /// The conditions of the section itself, or those of its `matches`.
    fn matches(self, section: &mut Section<'_>) -> Vec<RouteMatch> {
        let has_own = CONDITIONS.iter().any(|key| section.has(key));
        let own = self.route_match(section);
        let listed = section.sections("matches");
        if !section.has("matches") {
            return vec![own];
        }
        section.require_elements("matches", "give at least one, or remove the key");
        let at = section.at_of("matches");
        if has_own {
            let problem = "a route has conditions of its own or `matches`, not both";
            self.report
                .wrong(&at, problem, "move them into an element of `matches`");
        }
        check_count(self.report, &at, listed.len(), MATCHES_MAX, "matches");
        let read = |mut section: Section<'_>| {
            let found = self.route_match(&mut section);
            section.finish();
            found
        };
        listed.into_iter().take(MATCHES_MAX).map(read).collect()
    }

    fn route_match(self, section: &mut Section<'_>) -> RouteMatch {
        let slashes = self.routing.escaped_slashes;
        let exact = section.value("path", exact_path(slashes));
        let prefix = section.value("path_prefix", path_prefix(slashes));
        let regex = section.value("path_regex", pattern);
        self.at_most_one(section, &["path", "path_prefix", "path_regex"], "a match");
        let methods = section.values("methods", method);
        let methods = methods.map_or(Vec::new(), |list| list.value);
        let exact = exact.map(|found| PathMatch::Exact(found.value));
        let prefix = prefix.map(|found| PathMatch::Prefix(found.value));
        let regex = regex.map(|found| PathMatch::Regex(found.value));
        RouteMatch {
            path: exact.or(prefix).or(regex).unwrap_or_default(),
            methods: methods.into_iter().map(|found| found.value).collect(),
            headers: self
                .conditions(section, "headers", matched_header)
                .into_iter()
                .map(|(name, value)| HeaderMatch { name, value })
                .collect(),
            query: self
                .conditions(section, "query", compared_text)
                .into_iter()
                .map(|(name, value)| QueryMatch { name, value })
                .collect(),
        }
    }

    /// The conditions under `key` by name, in the order of the names.
    fn conditions<N: AsRef<str>>(
        self,
        section: &mut Section<'_>,
        key: &'static str,
        read_name: impl Fn(&str) -> Result<N, Wrong>,
    ) -> Vec<(N, ValueMatch)> {
        let mut fields = section.section(key);
        let mut conditions = Vec::new();
        for (name, key) in self.names(&mut fields, &read_name) {
            let value = self.value_match(&mut fields, key);
            conditions.extend(value.map(|value| (name, value)));
        }
        check_count(
            self.report,
            &fields.at,
            conditions.len(),
            CONDITIONS_MAX,
            "conditions",
        );
        fields.finish();
        conditions.sort_by(|(a, _), (b, _)| a.as_ref().cmp(b.as_ref()));
        conditions
    }

    /// The names that are the keys of a section, each with its key; what is no name or is one twice is reported.
    fn names<'a, N: AsRef<str>>(
        self,
        fields: &mut Section<'a>,
        read: impl Fn(&str) -> Result<N, Wrong>,
    ) -> Vec<(N, &'a str)> {
        let mut names: Vec<(N, &'a str)> = Vec::new();
        let mut seen = HashSet::new();
        for key in fields.keys() {
            match read(key) {
                Ok(name) if seen.insert(name.as_ref().to_owned()) => names.push((name, key)),
                Ok(_) => self
                    .report
                    .wrong(&fields.at_of(key), "given twice", "keep one of the two"),
                Err(Wrong { problem, remedy }) => self.report.wrong(&fields.at_of(key), problem, remedy),
            }
            fields.expect_key(key);
        }
        names
    }

    /// A text to be equal to, or a section that says what else to compare with.
    fn value_match<'a>(self, fields: &mut Section<'a>, key: &'a str) -> Option<ValueMatch> {
        if !fields.is_section(key) {
            let text = fields.value(key, compared_text)?;
            return Some(ValueMatch::Exact(text.value));
        }
        let present = |text: &str| match boolean(text)? {
            true => Ok(()),
            false => wrong("absence is no condition", "write `present: true`"),
        };
        let mut section = fields.section(key);
        let exact = section.value("exact", compared_text);
        let regex = section.value("regex", pattern);
        let present = section.value("present", present);
        let kinds = ["exact", "regex", "present"];
        self.at_most_one(&section, &kinds, "a condition");
        if !kinds.iter().any(|kind| section.has(kind)) {
            self.report.wrong(
                &section.at,
                "no condition",
                "write a value, `present: true` or `regex: …`",
            );
        }
        section.finish();
        let exact = exact.map(|found| ValueMatch::Exact(found.value));
        let regex = regex.map(|found| ValueMatch::Regex(found.value));
        exact.or(regex).or(present.map(|_| ValueMatch::Present))
    }

    fn at_most_one(self, section: &Section<'_>, keys: &[&str], whole: &str) {
        let mut written = keys.iter().filter(|key| section.has(key));
        if let (Some(first), Some(second)) = (written.next(), written.next()) {
            let problem = format!("{whole} has `{first}` or `{second}`, not both");
            self.report
                .wrong(&section.at_of(second), problem, "keep one of the two");
        }
    }
}

/// Reports more of `what` than there may be.
pub(super) fn check_count(report: &Report, at: &At, count: usize, most: usize, what: &str) {
    if count > most {
        report.wrong(
            at,
            format!("{count} {what} are too many"),
            format!("keep at most {most}"),
        );
    }
}
