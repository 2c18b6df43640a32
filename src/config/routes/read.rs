//! From sections of a file to routes.

use std::collections::{HashMap, HashSet};

use http::{HeaderName, HeaderValue, StatusCode};

use super::values::{
    body, changed_header, compared_text, escaped_slashes, exact_path, header_value, host_match,
    matched_header, method, path_prefix, pattern, redirect_host, redirect_status, scheme, status,
    upstream_host,
};
use super::{
    FixedResponse, Forward, HeaderChanges, HeaderMatch, PathChange, PathMatch, Pattern, QueryMatch, Redirect,
    Replacement, RouteAction, RouteConfig, RouteMatch, RoutingConfig, UpstreamHost, ValueMatch,
};
use crate::config::error::{At, Report};
use crate::config::read::{Found, Section};
use crate::config::scalars::{Wrong, boolean, integer, plain_name, wrong};

/// Most matches of one route, and most conditions of a match on headers or query: what Gateway API allows.
const MATCHES_MAX: usize = 64;
const CONDITIONS_MAX: usize = 16;
/// Most regular expressions: each keeps memory in every thread.
const PATTERNS_MAX: usize = 256;
/// Most pairs of a host and a match, which the table of routes grows with.
const PAIRS_MAX: usize = 100_000;

/// The conditions of a match.
const CONDITIONS: [&str; 6] = ["path", "path_prefix", "path_regex", "methods", "headers", "query"];
/// What only a route to an upstream has.
const OF_FORWARDING: [&str; 4] = ["strip_prefix", "rewrite", "preserve_host", "request_headers"];
/// The actions that exclude one another.
const ACTIONS: [&str; 3] = ["upstream", "redirect", "respond"];

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
        self.check_count(&at, listed.len(), MATCHES_MAX, "matches");
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
        self.check_count(&fields.at, conditions.len(), CONDITIONS_MAX, "conditions");
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

    fn action(
        self,
        section: &mut Section<'_>,
        matches: &[RouteMatch],
        upstream: Option<&Found<String>>,
    ) -> Option<RouteAction> {
        self.at_most_one(section, &ACTIONS, "a route");
        if !ACTIONS.iter().any(|action| section.has(action)) {
            let remedy = "say which of `upstreams` it leads to, or give `redirect` or `respond`";
            section.require("upstream", remedy);
        }
        // All are read whatever the route has, so that their keys are known.
        let forward = self.forward(section, matches);
        let redirect = self.redirect(section, matches);
        let respond = self.respond(section);
        if section.has("redirect") || section.has("respond") {
            for key in OF_FORWARDING.iter().filter(|key| section.has(key)) {
                let problem = "only a route to an upstream has this";
                self.report.wrong(&section.at_of(key), problem, "remove it");
            }
        }
        if section.has("redirect") {
            return redirect.map(RouteAction::Redirect);
        }
        if section.has("respond") {
            return respond.map(RouteAction::Respond);
        }
        let upstream = upstream?.value.clone();
        Some(RouteAction::Forward(Forward { upstream, ..forward }))
    }

    /// How a request goes upstream, but for the name of the upstream.
    fn forward(self, section: &mut Section<'_>, matches: &[RouteMatch]) -> Forward {
        let strip = section.value("strip_prefix", boolean).filter(|found| found.value);
        let preserve = section.value("preserve_host", boolean);
        let headers = self.header_changes(section, "request_headers");
        let mut rewrite = section.section("rewrite");
        let mut path = self.path_change(&mut rewrite, matches);
        let host = rewrite.value("host", upstream_host);
        if section.is_section("rewrite") && rewrite.keys().is_empty() {
            self.report.wrong(
                &rewrite.at,
                "rewrites nothing",
                "give `prefix`, `path`, `regex` or `host`",
            );
        }
        rewrite.finish();
        if let Some(strip) = strip {
            if path.is_some() {
                let problem = "`strip_prefix` and `rewrite` both change the path";
                self.report.wrong(&strip.at, problem, "keep one of the two");
            }
            self.needs_prefix(&strip.at, matches);
            path = Some(PathChange::Prefix(String::new()));
        }
        if let (Some(preserve), Some(_)) = (&preserve, &host) {
            let problem = "`preserve_host` and `rewrite.host` both say what Host is sent";
            self.report.wrong(&preserve.at, problem, "keep one of the two");
        }
        let host = match (host, preserve) {
            (Some(host), _) => UpstreamHost::Fixed(host.value),
            (None, Some(Found { value: false, .. })) => UpstreamHost::Target,
            (None, _) => UpstreamHost::Preserved,
        };
        Forward {
            upstream: String::new(),
            path,
            host,
            headers,
        }
    }

    /// `prefix`, `path`, or `regex` with `replacement`.
    fn path_change(self, section: &mut Section<'_>, matches: &[RouteMatch]) -> Option<PathChange> {
        let slashes = self.routing.escaped_slashes;
        let prefix = section.value("prefix", path_prefix(slashes));
        let full = section.value("path", exact_path(slashes));
        let regex = section.value("regex", pattern);
        self.at_most_one(section, &["prefix", "path", "regex"], "a rewrite");
        let replacement = self.replacement(section, regex.as_ref());
        if let Some(prefix) = prefix {
            self.needs_prefix(&prefix.at, matches);
            let prefix = prefix.value.trim_end_matches('/').to_owned();
            return Some(PathChange::Prefix(prefix));
        }
        if let Some(full) = full {
            return Some(PathChange::Full(full.value));
        }
        Some(PathChange::Regex(regex?.value, replacement?))
    }

    fn replacement(self, section: &mut Section<'_>, regex: Option<&Found<Pattern>>) -> Option<Replacement> {
        if let Some(regex) = regex {
            section.require(
                "replacement",
                "say what stands in the place of what `regex` matches",
            );
            let read = |text: &str| {
                if !text.starts_with('/') || text.contains(['?', '#']) {
                    return wrong(
                        "a path begins with `/` and has no `?` or `#`",
                        "begin with `/`, such as `/v2/$1`",
                    );
                }
                Replacement::try_new(text, &regex.value).or_else(|error| wrong(error.to_string(), ""))
            };
            return section.value("replacement", read).map(|found| found.value);
        }
        section.expect_key("replacement");
        if section.has("replacement") && !section.has("regex") {
            let problem = "there is no `regex` whose match it replaces";
            self.report.wrong(
                &section.at_of("replacement"),
                problem,
                "give `regex`, or use `path`",
            );
        }
        None
    }

    /// A prefix can only be replaced where one has matched.
    fn needs_prefix(self, at: &At, matches: &[RouteMatch]) {
        if matches
            .iter()
            .any(|one| !matches!(one.path, PathMatch::Prefix(_)))
        {
            let problem = "no prefix has matched where a route matches by `path` or `path_regex`";
            self.report.wrong(
                at,
                problem,
                "match by `path_prefix`, or rewrite by `path` or `regex`",
            );
        }
    }

    fn redirect(self, section: &mut Section<'_>, matches: &[RouteMatch]) -> Option<Redirect> {
        if !section.has("redirect") {
            section.expect_key("redirect");
            return None;
        }
        let mut section = section.section("redirect");
        let redirect = Redirect {
            status: section.value_or("status", redirect_status, StatusCode::FOUND),
            scheme: section.value("scheme", scheme).map(|found| found.value),
            host: section.value("host", redirect_host).map(|found| found.value),
            port: section
                .value("port", integer(1..=u16::MAX))
                .map(|found| found.value),
            path: self.path_change(&mut section, matches),
        };
        if !section.keys().iter().any(|key| *key != "status") {
            let problem = "leads to where it came from";
            self.report.wrong(
                &section.at,
                problem,
                "give `scheme`, `host`, `port`, `path`, `prefix` or `regex`",
            );
        }
        section.finish();
        Some(redirect)
    }

    fn respond(self, section: &mut Section<'_>) -> Option<FixedResponse> {
        if !section.has("respond") {
            section.expect_key("respond");
            return None;
        }
        let mut section = section.section("respond");
        let status = section.value_or("status", status, StatusCode::OK);
        let body = section.value("body", body);
        let plain = HeaderValue::from_static("text/plain; charset=utf-8");
        let content_type = section.value_or("content_type", header_value, plain);
        // RFC 9110 §15.3.5, §15.3.6, §15.4.5: these have no content.
        let is_bare = matches!(status.as_u16(), 204 | 205 | 304);
        if let Some(body) = body.as_ref().filter(|body| is_bare && !body.value.is_empty()) {
            let problem = format!("a response of status {} has no body", status.as_u16());
            self.report.wrong(&body.at, problem, "remove it");
        }
        section.finish();
        Some(FixedResponse {
            status,
            body: body.map_or(String::new(), |found| found.value),
            content_type,
        })
    }

    fn header_changes(self, section: &mut Section<'_>, key: &'static str) -> HeaderChanges {
        let mut section = section.section(key);
        let set = self.header_values(&mut section, "set");
        let add = self.header_values(&mut section, "add");
        let remove = section.values("remove", changed_header);
        let mut remove = remove.map_or(Vec::new(), |list| list.value);
        remove.sort_by(|a, b| a.value.as_str().cmp(b.value.as_str()));
        self.report_doubly_changed(&set, &add, &remove);
        section.finish();
        let single = |(name, values): (Found<HeaderName>, Vec<HeaderValue>)| {
            values.into_iter().map(move |value| (name.value.clone(), value))
        };
        HeaderChanges {
            set: set.into_iter().flat_map(single).collect(),
            add: add.into_iter().flat_map(single).collect(),
            remove: remove.into_iter().map(|found| found.value).collect(),
        }
    }

    /// The fields under `key` with their values, in the order of the names. Only `add` gives one several.
    fn header_values(
        self,
        section: &mut Section<'_>,
        key: &'static str,
    ) -> Vec<(Found<HeaderName>, Vec<HeaderValue>)> {
        let mut fields = section.section(key);
        let mut changes = Vec::new();
        for (value, written) in self.names(&mut fields, changed_header) {
            let at = fields.at_of(written);
            fields.require_elements(written, "give a value, or remove the field");
            let Some(values) = fields.values(written, header_value) else {
                continue;
            };
            if values.value.len() > 1 && key == "set" {
                self.report
                    .wrong(&at, "a field is set to one value", "use `add` for several lines");
            }
            let values = values.value.into_iter().map(|found| found.value).collect();
            changes.push((Found { value, at }, values));
        }
        fields.finish();
        changes.sort_by(|(a, _), (b, _)| a.value.as_str().cmp(b.value.as_str()));
        changes
    }

    /// Which of two changes of a field comes first would be chance.
    fn report_doubly_changed(
        self,
        set: &[(Found<HeaderName>, Vec<HeaderValue>)],
        add: &[(Found<HeaderName>, Vec<HeaderValue>)],
        remove: &[Found<HeaderName>],
    ) {
        let mut seen = HashMap::new();
        let named = set.iter().chain(add).map(|(name, _)| name).chain(remove);
        for found in named {
            if let Some(first) = seen.insert(&found.value, &found.at) {
                let problem = format!("`{}` is changed in {} as well", found.value, first.key);
                self.report.wrong(&found.at, problem, "keep one of the two");
            }
        }
    }

    fn at_most_one(self, section: &Section<'_>, keys: &[&str], whole: &str) {
        let mut written = keys.iter().filter(|key| section.has(key));
        if let (Some(first), Some(second)) = (written.next(), written.next()) {
            let problem = format!("{whole} has `{first}` or `{second}`, not both");
            self.report
                .wrong(&section.at_of(second), problem, "keep one of the two");
        }
    }

    fn check_count(self, at: &At, count: usize, most: usize, what: &str) {
        if count > most {
            self.report.wrong(
                at,
                format!("{count} {what} are too many"),
                format!("keep at most {most}"),
            );
        }
    }
}

/// Two routes with a match that is the same for the same host: the second would never be reached. `at` is the
/// place of all routes, `at_of` that of one.
pub(in crate::config) fn report_ambiguous<'n>(
    routes: &[RouteConfig],
    at: &At,
    at_of: impl Fn(&str) -> Option<&'n At>,
    report: &Report,
) {
    let pairs = |route: &RouteConfig| route.hosts.len().max(1) * route.matches.len();
    let reader = Reader {
        routing: RoutingConfig::default(),
        report,
    };
    let pairs: usize = routes.iter().map(pairs).sum();
    reader.check_count(at, pairs, PAIRS_MAX, "pairs of a host and a match");
    let patterns = routes.iter().map(patterns).sum();
    reader.check_count(at, patterns, PATTERNS_MAX, "regular expressions");
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
