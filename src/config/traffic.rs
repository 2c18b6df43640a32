//! Rules, upstreams and routes, which refer to one another by name.

use std::collections::HashMap;

use smallvec::SmallVec;

use super::error::{At, Report, did_you_mean};
use super::read::{Found, Section};
use super::routes::{RouteConfig, RoutingConfig};
use super::scalars::plain_name;
use super::syntax::{count_by, hits, sync_mode, window_limit};
use super::{BoundedConfig, DnsConfig, UpstreamConfig, bounded, routes, upstreams};
use crate::limit::{CountBy, Hits, Rule, RuleScope, SyncMode, WindowLimit};

/// Most windows of one rule: the six of the calendar, and room for as many of other lengths.
const WINDOWS_MAX: usize = 12;

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
        .filter_map(|section| rule(section, &mut names, (mode, bounded), report))
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
struct Names {
    rules: HashMap<String, At>,
    upstreams: HashMap<String, At>,
    routes: HashMap<String, At>,
    upstreams_wanted: Vec<Found<String>>,
    routes_wanted: Vec<Found<String>>,
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
fn unique_name(
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

fn rule(
    mut section: Section<'_>,
    names: &mut Names,
    (cluster_mode, bounded): (SyncMode, &BoundedConfig),
    report: &Report,
) -> Option<Rule> {
    let name = unique_name(&mut section, &mut names.rules, report);
    let count_by = section.value_or("by", count_by, CountBy::Ip);
    section.require_elements("windows", "give at least one, such as `5/minute`");
    let windows = section.values("windows", window_limit);
    let hits = section.value("hits", hits);
    let mode = section.value("mode", sync_mode).map(|found| found.value);
    let scope = scope(&mut section, names, report);
    section.finish();
    let windows = windows?;
    check_windows(&windows, report);
    bounded::check_windows(mode.unwrap_or(cluster_mode), &windows.value, bounded, report);
    let smallest = windows.value.iter().min_by_key(|found| found.value.limit);
    if let (Some(hits), Some(smallest)) = (&hits, smallest)
        && u64::from(hits.value.get()) > smallest.value.limit.hits()
    {
        let limit = smallest.value.limit.hits();
        let problem = format!("{} hits a request never fit a limit of {limit}", hits.value.get());
        report.wrong(&hits.at, problem, "lower the hits or raise the limit");
    }
    Some(Rule {
        name: name?,
        scope,
        count_by,
        windows: windows
            .value
            .iter()
            .map(|found| found.value)
            .collect::<SmallVec<_>>(),
        hits: hits.map_or(Hits::ONE, |found| found.value),
        mode,
    })
}

fn scope(section: &mut Section<'_>, names: &mut Names, report: &Report) -> RuleScope {
    let route = section.value("route", plain_name);
    let upstream = section.value("upstream", plain_name);
    if let (Some(_), Some(upstream)) = (&route, &upstream) {
        let problem = "a rule belongs to a route or to an upstream, not to both";
        report.wrong(&upstream.at, problem, "keep one of the two");
    }
    names.routes_wanted.extend(route.clone());
    names.upstreams_wanted.extend(upstream.clone());
    match (route, upstream) {
        (Some(route), _) => RuleScope::Route(route.value),
        (None, Some(upstream)) => RuleScope::Upstream(upstream.value),
        (None, None) => RuleScope::Everything,
    }
}

/// No two windows of a rule are the same, and none that is longer has a smaller limit: the shorter one
/// would then never be reached, which is how Kong sees it too.
pub(super) fn check_windows(windows: &Found<Vec<Found<WindowLimit>>>, report: &Report) {
    if windows.value.len() > WINDOWS_MAX {
        let problem = format!("{} windows are too many", windows.value.len());
        report.wrong(&windows.at, problem, format!("keep at most {WINDOWS_MAX}"));
    }
    let mut sorted: Vec<_> = windows.value.iter().collect();
    sorted.sort_by_key(|found| found.value.period.nominal());
    for pair in sorted.windows(2) {
        let [shorter, longer] = pair else { continue };
        let (short, long) = (shorter.value, longer.value);
        if short.period == long.period {
            let problem = format!("the same window as {}", shorter.at.key);
            report.wrong(&longer.at, problem, "keep one of the two");
        } else if long.limit < short.limit && short.period.nominal() < long.period.nominal() {
            let problem = format!(
                "{} in the longer window make {} in the shorter one ({}) unreachable",
                long.limit.hits(),
                short.limit.hits(),
                shorter.at.key
            );
            report.wrong(&longer.at, problem, "raise this limit or lower that one");
        }
    }
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
