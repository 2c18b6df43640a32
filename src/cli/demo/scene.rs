//! What the demo shows: each sync mode with each pattern of requests, and the configuration that has it all on one
//! cluster.

use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;

use crate::limit::{Limit, Period, SyncMode, UnixMillis, WindowLimit};

use super::cluster::CLIENT_HEADER;

/// The modes, in the order in which they are shown.
pub(super) const MODES: [SyncMode; 3] = [SyncMode::Local, SyncMode::Gossip, SyncMode::Bounded];

/// Longest window that is waited for.
const WINDOW_MAX: Duration = Duration::from_secs(10);

/// Most and least hits of the limit that a burst meets, and how many requests it has at most unless that is less: each
/// has a connection of its own.
const BURST_LIMIT_MAX: u64 = 100;
const BURST_LIMIT_MIN: u64 = 10;
const BURST_REQUESTS: u64 = 400;

/// What of a window must be left to begin in it, per request and in all: several times what is needed.
const TIME_PER_REQUEST: Duration = Duration::from_millis(2);
const TIME_BASE: Duration = Duration::from_millis(200);

/// How requests come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Pattern {
    /// One after the other, over the nodes in turn.
    Sequential,
    /// All at the same moment, over all nodes.
    Burst,
}

/// One mode with one pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Scene {
    /// How the nodes decide.
    pub(super) mode: SyncMode,
    /// How requests come.
    pub(super) pattern: Pattern,
    /// The limit, for each client.
    pub(super) limit: WindowLimit,
    /// How many requests: all that nodes which count alone admit, and once the limit on top, so that every mode is
    /// seen to deny.
    pub(super) sent: u64,
}

impl Scene {
    /// A scene on `nodes` nodes whose sequential clients are to meet `limit`.
    ///
    /// In bounded mode a node takes its share of a window when that starts, so a long one would keep the audience
    /// waiting: there, and for bursts, which need a larger limit anyway, windows last ten seconds at most.
    pub(super) fn new(mode: SyncMode, pattern: Pattern, nodes: u16, limit: WindowLimit) -> Self {
        let copies = u64::from(nodes) + 1;
        let short = match limit.period.nominal() {
            long if long > WINDOW_MAX => Period::try_every(WINDOW_MAX).expect("ten seconds are a period"),
            _ => limit.period,
        };
        let limit = match (pattern, mode) {
            (Pattern::Burst, _) => {
                let hits = (BURST_REQUESTS / copies).clamp(BURST_LIMIT_MIN, BURST_LIMIT_MAX);
                WindowLimit {
                    limit: Limit::try_new(hits).expect("at least ten"),
                    period: Period::try_every(WINDOW_MAX).expect("ten seconds are a period"),
                }
            }
            (Pattern::Sequential, SyncMode::Bounded) => WindowLimit {
                period: short,
                ..limit
            },
            (Pattern::Sequential, SyncMode::Local | SyncMode::Gossip) => limit,
        };
        Self {
            mode,
            pattern,
            limit,
            sent: copies.saturating_mul(limit.limit.hits()),
        }
    }

    /// The path that is limited so, and the name of its route and rule.
    pub(super) fn name(self) -> String {
        let pattern = match self.pattern {
            Pattern::Sequential => "sequential",
            Pattern::Burst => "burst",
        };
        format!("{pattern}-{}", self.mode)
    }

    /// What the requests may take.
    pub(super) fn time_needed(self) -> Duration {
        TIME_BASE + TIME_PER_REQUEST * u32::try_from(self.sent).unwrap_or(u32::MAX)
    }

    /// Until a window begins, if too little is left of the one in progress.
    pub(super) fn time_to_wait(self, now: UnixMillis) -> Duration {
        let left = self.limit.period.window_at(now).end.since(now);
        if left < self.time_needed() {
            left
        } else {
            Duration::ZERO
        }
    }
}

/// The configuration file of every node: a route for each scene, with a rule of its own, all to one upstream.
pub(super) fn config(scenes: &[Scene], upstream: &str, nodes: u16) -> String {
    // Nodes of one machine have one clock, so the tolerated difference can be small; a share is taken that much later
    // after a start. No share is taken before all nodes are there.
    let mut yaml = format!(
        "bounded: {{skew: 500ms, min_roster: {nodes}}}\nupstreams: [{{name: echo, targets: [\"http://{upstream}\"]}}]\n"
    );
    yaml.push_str("routes:\n");
    for name in scenes.iter().map(|scene| scene.name()) {
        let _ = writeln!(yaml, "  - {{name: {name}, path_prefix: /{name}, upstream: echo}}");
    }
    yaml.push_str("rules:\n");
    for scene in scenes {
        let (name, mode, limit) = (scene.name(), scene.mode, scene.limit);
        let _ = writeln!(
            yaml,
            "  - {{name: {name}, route: {name}, by: \"header:{CLIENT_HEADER}\", mode: {mode}, windows: [{limit}]}}"
        );
    }
    yaml
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn scene(mode: SyncMode, pattern: Pattern, nodes: u16, limit: &str) -> Scene {
        Scene::new(mode, pattern, nodes, limit.parse().unwrap())
    }

    #[test]
    fn enough_is_sent_to_see_every_mode_deny() {
        assert_eq!(
            scene(SyncMode::Local, Pattern::Sequential, 3, "5/minute").sent,
            20
        );
        assert_eq!(
            scene(SyncMode::Local, Pattern::Sequential, 1, "5/minute").sent,
            10
        );
        assert_eq!(scene(SyncMode::Local, Pattern::Burst, 3, "5/minute").sent, 400);
    }

    #[test]
    fn a_burst_needs_no_more_connections_than_a_process_may_have() {
        for nodes in 1..=50 {
            let burst = scene(SyncMode::Local, Pattern::Burst, nodes, "5/minute");
            assert!(burst.sent <= 510, "{nodes} nodes: {}", burst.sent);
            assert!(burst.limit.limit.hits() >= 7, "{nodes} nodes: {}", burst.limit);
        }
    }

    #[test]
    fn only_windows_that_are_waited_for_are_short() {
        let limit = |mode, limit| scene(mode, Pattern::Sequential, 3, limit).limit.to_string();
        assert_eq!(limit(SyncMode::Gossip, "5/hour"), "5/hour");
        assert_eq!(limit(SyncMode::Bounded, "5/hour"), "5/10s");
        assert_eq!(limit(SyncMode::Bounded, "5/second"), "5/second");
    }

    #[test]
    fn requests_begin_at_once_unless_the_window_ends_before_they_are_done() {
        let scene = scene(SyncMode::Local, Pattern::Sequential, 3, "5/minute");
        assert_eq!(scene.time_to_wait(UnixMillis(30_000)), Duration::ZERO);
        assert_eq!(
            scene.time_to_wait(UnixMillis(59_760)),
            Duration::ZERO,
            "just what is needed is left"
        );
        assert_eq!(scene.time_to_wait(UnixMillis(59_761)), Duration::from_millis(239));
    }

    #[test]
    fn the_configuration_gives_each_scene_a_rule_of_its_own() {
        let scenes = [Pattern::Sequential, Pattern::Burst]
            .map(|pattern| MODES.map(|mode| scene(mode, pattern, 3, "5/minute")))
            .concat();
        let yaml = format!("node_id: a\n{}", config(&scenes, "127.0.0.1:9000", 3));
        let config = Config::from_yaml("demo.yaml", &yaml).unwrap();
        let modes: Vec<_> = config
            .limits
            .rules
            .iter()
            .map(|rule| rule.mode.unwrap())
            .collect();
        assert_eq!(modes, [MODES, MODES].concat());
        assert!(config.limits.rules.iter().all(|rule| rule.windows.len() == 1));
    }
}
