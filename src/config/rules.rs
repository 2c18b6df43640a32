//! Rules: who is limited, by what, and by how much.

use super::error::Report;
use super::read::{Found, Section};
use super::scalars::plain_name;
use super::syntax::{count_by, hits, sync_mode, window_limit};
use super::traffic::{Names, unique_name};
use super::{BoundedConfig, bounded};
use crate::limit::{CountBy, Hits, Rule, RuleScope, SyncMode, WindowLimit};

/// Most windows of one rule: the six of the calendar, and room for as many of other lengths.
const WINDOWS_MAX: usize = 12;

/// Reads one rule. It is decided by the cluster's mode unless it says otherwise.
pub(super) fn read(
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
        scope,
        count_by,
        hits: hits.map_or(Hits::ONE, |found| found.value),
        mode,
        ..Rule::new(name?, windows.value.iter().map(|found| found.value))
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
