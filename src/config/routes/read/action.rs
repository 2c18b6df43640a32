//! From sections of a file to what becomes of requests.

use http::{HeaderValue, StatusCode};

use super::Reader;
use crate::config::error::At;
use crate::config::read::{Found, Section};
use crate::config::routes::values::{
    body, exact_path, header_value, path_prefix, pattern, redirect_host, redirect_status, scheme, status,
    upstream_host,
};
use crate::config::routes::{
    FixedResponse, Forward, PathChange, PathMatch, Pattern, Redirect, Replacement, RouteAction, RouteMatch,
    UpstreamHost,
};
use crate::config::scalars::{boolean, integer, wrong};

/// What only a route to an upstream has.
const OF_FORWARDING: [&str; 4] = ["strip_prefix", "rewrite", "preserve_host", "request_headers"];
/// The actions that exclude one another.
const ACTIONS: [&str; 3] = ["upstream", "redirect", "respond"];

impl Reader<'_> {
    pub(super) fn action(
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
}
