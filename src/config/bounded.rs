//! The section `bounded`: what the bounded mode assumes and gives up.

use std::time::Duration;

use serde_json::{Value, json};

use super::error::{Report, did_you_mean};
use super::json::text;
use super::read::{Found, Section};
use super::scalars::{Wrong, boolean, duration, integer, shown, wrong};
use super::{ClusterConfig, Config, SyncConfig, defaults};
use crate::limit::{SyncMode, WindowLimit, WithoutShare};

/// How the bounded mode behaves. In use only where the mode is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BoundedConfig {
    /// How far the clocks of two members may differ: the promise rests on it.
    pub skew: Duration,
    /// Longest that a request waits for rights; zero never waits.
    pub wait: Duration,
    /// A cluster takes its first shares only once it has this many members.
    pub min_roster: u32,
    /// After which silence a member is dropped; `None`: never, only by `weir roster forget`.
    pub forget_after: Option<Duration>,
    /// Whether a node that founds a cluster of one waits for the next window, too.
    pub strict_start: bool,
    /// What a node without a share does.
    pub when_without_share: WithoutShare,
    /// Allows windows above [`LONG_WINDOW`].
    pub allow_long_windows: bool,
    /// Whether a node that comes back may take it that its former process has stopped.
    pub retire_on_restart: bool,
}

/// Above this, a crash costs its part of the limit for longer than operators wait.
pub const LONG_WINDOW: Duration = Duration::from_secs(3600);

const WITHOUT_SHARE: [(&str, WithoutShare); 3] = [
    ("deny", WithoutShare::Deny),
    ("gossip", WithoutShare::Gossip),
    ("local", WithoutShare::Local),
];

pub(super) fn read(
    root: &mut Section<'_>,
    cluster: &ClusterConfig,
    sync: &SyncConfig,
    report: &Report,
) -> BoundedConfig {
    let mut section = root.section("bounded");
    let skew = section.value(
        "skew",
        duration(Duration::from_millis(1)..=Duration::from_secs(3600)),
    );
    if let Some(found) = skew.as_ref().filter(|found| found.value > sync.max_clock_skew) {
        let problem = format!(
            "`{}` is above `sync.max_clock_skew`, {}: counts of members so far apart are refused",
            text(found.value),
            text(sync.max_clock_skew)
        );
        report.wrong(&found.at, problem, "lower it, or raise `sync.max_clock_skew`");
    }
    let bounded = BoundedConfig {
        skew: skew.map_or(defaults::BOUNDED_SKEW.min(sync.max_clock_skew), |found| {
            found.value
        }),
        wait: section.value_or(
            "wait",
            duration(Duration::ZERO..=Duration::from_secs(10)),
            defaults::BOUNDED_WAIT,
        ),
        min_roster: section.value_or("min_roster", integer(1..=1000), majority(cluster)),
        forget_after: section.value_or("forget_after", forget_after, None),
        strict_start: section.value_or("strict_start", boolean, false),
        when_without_share: section.value_or("when_without_share", without_share, WithoutShare::default()),
        allow_long_windows: section.value_or("allow_long_windows", boolean, false),
        retire_on_restart: section.value_or("retire_on_restart", boolean, false),
    };
    section.finish();
    bounded
}

/// Reports what the bounded mode cannot promise of a rule that is decided by `mode`.
pub(super) fn check_windows(
    mode: SyncMode,
    windows: &[Found<WindowLimit>],
    bounded: &BoundedConfig,
    report: &Report,
) {
    if mode != SyncMode::Bounded || bounded.allow_long_windows {
        return;
    }
    let long = |found: &&Found<WindowLimit>| found.value.period.nominal() > LONG_WINDOW;
    for found in windows.iter().filter(long) {
        report.wrong(&found.at, too_long(found.value), LONG_WINDOW_REMEDY);
    }
}

const LONG_WINDOW_REMEDY: &str =
    "keep windows to an hour, set `bounded.allow_long_windows: true`, or give the rule another `mode`";

fn too_long(window: WindowLimit) -> String {
    format!("in bounded mode a node that crashes takes its share of {window} with it until the window ends")
}

impl Config {
    /// Whether some rule is bounded from the start.
    #[must_use]
    pub fn is_bounded(&self) -> bool {
        let mut rules = self.limits.rules.iter();
        rules.any(|rule| rule.mode.unwrap_or(self.sync.mode) == SyncMode::Bounded)
    }

    /// Why the mode of the cluster cannot become `mode` while this configuration holds: the same as what a check
    /// of it would say, in a sentence. `None` where nothing stands against it.
    #[must_use]
    pub fn objection_to(&self, mode: SyncMode) -> Option<String> {
        if mode != SyncMode::Bounded || self.bounded.allow_long_windows {
            return None;
        }
        let following = self.limits.rules.iter().filter(|rule| rule.mode.is_none());
        let windows = following.flat_map(|rule| rule.windows.iter().map(move |window| (rule, window)));
        let long = windows
            .into_iter()
            .find(|(_, window)| window.period.nominal() > LONG_WINDOW);
        long.map(|(rule, window)| {
            format!(
                "rule `{}`: {}; {LONG_WINDOW_REMEDY}",
                rule.name,
                too_long(*window)
            )
        })
    }
}

/// A majority of this node and its seeds, among which it may be itself.
fn majority(cluster: &ClusterConfig) -> u32 {
    let own = cluster.advertise.unwrap_or(cluster.gossip).to_string();
    let others = cluster.seeds.iter().filter(|seed| **seed != own).count();
    let members = u32::try_from(others + 1).unwrap_or(u32::MAX);
    members / 2 + 1
}

fn forget_after(text: &str) -> Result<Option<Duration>, Wrong> {
    if text == "never" {
        return Ok(None);
    }
    let range = Duration::from_secs(60)..=Duration::from_secs(30 * 24 * 3600);
    duration(range)(text).map(Some).map_err(|mut wrong| {
        wrong.remedy = format!("{}, or `never`", wrong.remedy);
        wrong
    })
}

fn without_share(text: &str) -> Result<WithoutShare, Wrong> {
    let known = WITHOUT_SHARE.iter().find(|(name, _)| *name == text);
    known.map_or_else(
        || {
            wrong(
                format!("`{}` is none of `deny`, `gossip` and `local`", shown(text)),
                did_you_mean(text, WITHOUT_SHARE.iter().map(|(name, _)| *name)),
            )
        },
        |(_, value)| Ok(*value),
    )
}

impl BoundedConfig {
    pub(super) fn to_json(&self) -> Value {
        json!({
            "skew": text(self.skew),
            "wait": text(self.wait),
            "min_roster": self.min_roster,
            "forget_after": self.forget_after.map_or_else(|| "never".to_owned(), text),
            "strict_start": self.strict_start,
            "when_without_share": self.when_without_share.to_string(),
            "allow_long_windows": self.allow_long_windows,
            "retire_on_restart": self.retire_on_restart,
        })
    }
}
