//! Rules, upstreams and routes, which refer to one another by name.

use std::collections::HashMap;

use super::error::{At, Report, did_you_mean};
use super::read::{Found, Section};
use super::routes::{RouteConfig, RoutingConfig};
use super::scalars::plain_name;
use super::{BoundedConfig, DnsConfig, UpstreamConfig, routes, rules, upstreams};
use crate::limit::{Rule, SyncMode};

/// What requests meet on their way.
pub(super) struct Traffic {
    pub(super) rules: Vec<Rule>,
    pub(super) dns: DnsConfig,
    pub(super) upstreams: Vec<UpstreamConfig>,
    pub(super) routing: RoutingConfig,
    pub(super) routes: Vec<RouteConfig>,
}

/// Reads all three, then checks that each name referred to exists. Rules are decided by `mode` unless they say
/// otherwise.
pub(super) fn read(
    root: &mut Section<'_>,
    mode: SyncMode,
    bounded: &BoundedConfig,
    report: &Report,
) -> Traffic {
    let mut names = Names::default();
    let dns = upstreams::dns(root);
    dns.check(&root.at, report);
    let routing = routes::routing(root);
    let upstream_sections = root.sections("upstreams");
    let route_sections = root.sections("routes");
    let (upstreams_written, routes_written) = (upstream_sections.len(), route_sections.len());
    let upstreams: Vec<_> = upstream_sections
        .into_iter()
        .filter_map(|section| upstream(section, &mut names, report))
        .collect();
    let mut routes: Vec<_> = route_sections
        .into_iter()
        .filter_map(|section| route(section, &mut names, routing, report))
        .collect();
    let at = root.at_of("routes");
    // A node may serve other proxies only.
    if routes_written == 0 && !(upstreams_written == 0 && root.is_section("ratelimit")) {
        root.require_elements(
            "upstreams",
            "say where to forward, with --upstream http://HOST:PORT or in the file",
        );
        if upstreams_written > 1 {
            let problem = format!("there are {upstreams_written} upstreams and no route says which to use");
            report.wrong(&at, problem, "add one route or more");
        }
        let only = upstreams.first();
        routes.extend(only.map(|upstream| RouteConfig::catch_all(&upstream.name)));
        names.routes.insert("default".to_owned(), at.clone());
    }
    let rules = root
        .sections("rules")
        .into_iter()
        .filter_map(|section| rules::read(section, &mut names, (mode, bounded), report))
        .collect();
    routes::report_ambiguous(&routes, &at, |name| names.routes.get(name), report);
    names.report_unknown(report);
    Traffic {
        rules,
        dns,
        upstreams,
        routing,
        routes,
    }
}

/// The names that exist, and those that are referred to.
#[derive(Default)]
pub(super) struct Names {
    pub(super) rules: HashMap<String, At>,
    upstreams: HashMap<String, At>,
    routes: HashMap<String, At>,
    pub(super) upstreams_wanted: Vec<Found<String>>,
    pub(super) routes_wanted: Vec<Found<String>>,
}

impl Names {
    fn report_unknown(&self, report: &Report) {
        let wanted = [
            ("upstream", &self.upstreams, &self.upstreams_wanted),
            ("route", &self.routes, &self.routes_wanted),
        ];
        for (kind, existing, wanted) in wanted {
            for found in wanted.iter().filter(|found| !existing.contains_key(&found.value)) {
                let mut remedy = did_you_mean(&found.value, existing.keys().map(String::as_str));
                if remedy.is_empty() {
                    remedy = format!("add it under `{kind}s`");
                }
                let problem = format!("there is no {kind} `{}`", found.value);
                report.wrong(&found.at, problem, remedy);
            }
        }
    }
}

/// Reads `name` and notes it among `names`.
pub(super) fn unique_name(
    section: &mut Section<'_>,
    names: &mut HashMap<String, At>,
    report: &Report,
) -> Option<String> {
    section.require("name", "give it one");
    let found = section.value("name", plain_name)?;
    if let Some(first) = names.get(&found.value) {
        let problem = format!(
            "the name `{}` is taken by {} at {}",
            found.value, first.key, first.origin
        );
        report.wrong(&found.at, problem, "choose another");
        return None;
    }
    names.insert(found.value.clone(), found.at);
    Some(found.value)
}

fn upstream(mut section: Section<'_>, names: &mut Names, report: &Report) -> Option<UpstreamConfig> {
    let name = unique_name(&mut section, &mut names.upstreams, report);
    upstreams::upstream(section, name, report)
}

fn route(
    mut section: Section<'_>,
    names: &mut Names,
    routing: RoutingConfig,
    report: &Report,
) -> Option<RouteConfig> {
    let name = unique_name(&mut section, &mut names.routes, report);
    let (route, upstream) = routes::read(section, name, routing, report);
    names.upstreams_wanted.extend(upstream);
    route
}
