//! Which windows are decided by which mode, whoever hears of a switch whenever.

use std::collections::BTreeSet;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::limit::significance::Significance;
use crate::limit::{Charge, Hits, KeyHash, Limiter, Outcome, Rule};

const NOW: UnixMillis = UnixMillis(1_000_000);
const SECOND: Duration = Duration::from_secs(1);

fn newest(modes: &[ModeVersion]) -> ModeVersion {
    let first = ModeVersion::configured(SyncMode::Local);
    let newer = |known: ModeVersion, heard: &ModeVersion| {
        if heard.supersedes(known) { *heard } else { known }
    };
    modes.iter().fold(first, newer)
}

/// A node that knows `announced`, of a cluster whose files say `gossip`.
struct Node {
    announced: Vec<Announcement>,
    limiter: Limiter,
    is_known: bool,
    /// It has heard a mode from others, or was there from the start: before, nobody sets a mode on it.
    has_heard: bool,
    /// Windows, by rule and start, that it decided otherwise than as bounded.
    admitted: BTreeSet<(usize, UnixMillis)>,
}

/// Periods of the rules, in seconds.
const PERIODS: [u64; 2] = [10, 60];

impl Node {
    fn new() -> Self {
        let rule = |seconds: u64| {
            Rule::new(
                format!("every-{seconds}"),
                [format!("1000000/{seconds}s").parse().unwrap()],
            )
        };
        let significance = Significance {
            alpha_permille: 200,
            epsilon_permille: 10,
        };
        let rules = PERIODS.map(rule).to_vec();
        Self {
            announced: vec![Announcement::of(ModeVersion::configured(SyncMode::Gossip))],
            limiter: Limiter::new(rules, SyncMode::Gossip, significance, 1_024),
            is_known: false,
            has_heard: false,
            admitted: BTreeSet::new(),
        }
    }

    fn said(&self) -> Announcement {
        *self.announced.last().unwrap()
    }

    fn adopt(&mut self, mode: ModeVersion, now: UnixMillis) {
        let said = self.said().adopt(mode, &self.limiter, || now);
        assert_eq!(said.to_string().parse(), Ok(said));
        self.announced.push(said);
    }

    /// Without shares, a window in bounded mode admits nothing.
    fn is_bounded(&self, rule: usize, start: UnixMillis) -> bool {
        let charge = Charge {
            rule,
            key: KeyHash(7),
            hits: Hits::ONE,
        };
        self.limiter.check(&[charge], start).outcome != Outcome::Admitted
    }

    /// It said that it decides windows which start at `start` as bounded.
    fn vouches(&self, start: UnixMillis) -> bool {
        let mut said = self.announced.iter().rev();
        let by = said.find(|said| said.vouched < start || said.set.version == 0);
        by.is_some_and(|said| said.set.mode == SyncMode::Bounded)
    }
}

#[test]
fn the_newest_mode_wins_in_whatever_order_it_is_heard() {
    let start = ModeVersion::configured(SyncMode::Gossip);
    let local = start.next(SyncMode::Local, NOW);
    let rival = start.next(SyncMode::Gossip, NOW);
    let later = local.next(SyncMode::Gossip, NOW);
    assert_eq!(newest(&[local, rival]), newest(&[rival, local]));
    assert_eq!(newest(&[later, rival, start, local]), later);
    let [early, late] = [NOW, NOW.plus(SECOND)].map(|now| start.next(SyncMode::Bounded, now));
    assert_eq!((newest(&[early, late]), newest(&[late, early])), (early, early));
    let back = early.next(SyncMode::Gossip, NOW).next(SyncMode::Bounded, NOW);
    for set in [start, local, rival, later, early, back] {
        let said = Announcement::of(set);
        assert_eq!(said.to_string().parse(), Ok(said));
    }
    // As the first releases read and write it.
    assert_eq!(Announcement::of(local).to_string(), "1:local");
    assert_eq!("1:local".parse(), Ok(Announcement::of(local)));
}

#[test]
fn to_set_again_what_was_set_changes_nothing() {
    let gossip = ModeVersion::configured(SyncMode::Gossip);
    let bounded = gossip.next(SyncMode::Bounded, NOW);
    assert_eq!(bounded.from, NOW.plus(NOTICE));
    assert_eq!(bounded.next(SyncMode::Bounded, NOW.plus(SECOND)), bounded);
    // What every file says holds on, whoever says it again.
    let configured = ModeVersion::configured(SyncMode::Bounded);
    let said = Announcement::of(configured).followed_by(configured.next(SyncMode::Bounded, NOW), NOW);
    assert_eq!(
        (said.set.version, said.set.from, said.vouched),
        (1, UnixMillis(0), UnixMillis(0))
    );
}

#[test]
fn who_hears_late_adopts_the_instant_of_the_switch_and_vouches_from_when_it_heard() {
    let gossip = Announcement::of(ModeVersion::configured(SyncMode::Gossip));
    let bounded = gossip.set.next(SyncMode::Bounded, NOW);
    let in_time = gossip.followed_by(bounded, NOW);
    assert_eq!((in_time.set, in_time.vouched), (bounded, bounded.from));
    let late = bounded.from.plus(NOTICE);
    let said = gossip.followed_by(bounded, late);
    assert_eq!((said.set, said.vouched), (bounded, late));
    assert_eq!(bounded.steps(gossip, late), [(SyncMode::Bounded, bounded.from)]);
    // The way back keeps what has begun in bounded mode.
    let back = bounded.next(SyncMode::Gossip, NOW.plus(SECOND));
    let late = back.from.plus(NOTICE);
    assert_eq!(back.steps(in_time, late), [(SyncMode::Gossip, late)]);
    assert_eq!(in_time.followed_by(back, late).vouched, late);
}

#[test]
fn a_joiner_learns_of_the_bounded_windows_before_the_mode_that_it_hears_of() {
    let bounded = ModeVersion::configured(SyncMode::Gossip).next(SyncMode::Bounded, NOW);
    let back = bounded.next(SyncMode::Gossip, NOW.plus(20 * SECOND));
    let local = back.next(SyncMode::Local, NOW.plus(30 * SECOND));
    for heard in [back, local] {
        let mut joiner = Node::new();
        let is_bounded = |node: &Node| [0, 10, 20, 30].map(|s| node.is_bounded(0, NOW.plus(s * SECOND)));
        assert_eq!(is_bounded(&joiner), [false; 4]);
        joiner.adopt(heard, NOW.plus(22 * SECOND));
        // Of windows that start at 0, 10, 20 and 30 s; bounded mode held from 5 to 25 s.
        assert_eq!(is_bounded(&joiner), [false, true, true, false], "{heard:?}");
    }
}

/// Nodes set modes, hear of each other's late or never, and join without knowing. Whatever happens, a node that
/// vouched for bounded mode decides so; and where all that were known vouched for a window, so that they may
/// have taken shares of it, nobody who comes to know a mode later decides it otherwise.
#[test]
fn a_window_that_all_vouch_for_is_bounded_for_whoever_comes_to_know() {
    let mut shared_windows = 0;
    for seed in 0..300 {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut nodes = vec![Node::new(), Node::new()];
        nodes
            .iter_mut()
            .for_each(|node| (node.is_known, node.has_heard) = (true, true));
        let mut shared = BTreeSet::new();
        let mut now = NOW;
        for _ in 0..60 {
            now = now.plus(Duration::from_millis(rng.random_range(0..4_000)));
            let (one, other) = (rng.random_range(0..nodes.len()), rng.random_range(0..nodes.len()));
            match rng.random_range(0..10) {
                0 if nodes.len() < 6 => nodes.push(Node::new()),
                1 if nodes[one].has_heard => {
                    let mode = [SyncMode::Local, SyncMode::Gossip, SyncMode::Bounded][rng.random_range(0..3)];
                    let known = nodes[one].said().set;
                    let next = known.next(mode, now);
                    if next != known {
                        nodes[one].adopt(next, now);
                    }
                }
                _ => {
                    let heard = nodes[other].said().set;
                    if nodes[other].is_known && heard.version > 0 && heard.supersedes(nodes[one].said().set) {
                        nodes[one].adopt(heard, now);
                        nodes[one].has_heard = true;
                    }
                    let meet = nodes[one].is_known || nodes[other].is_known;
                    nodes[one].is_known |= meet;
                    nodes[other].is_known |= meet;
                }
            }
            for (rule, seconds) in [0, 1].into_iter().zip(PERIODS) {
                let start = UnixMillis(now.0 - now.0 % (seconds * 1_000));
                let known = || nodes.iter().filter(|node| node.is_known);
                if known().all(|node| node.vouches(start)) && shared.insert((rule, start)) {
                    shared_windows += 1;
                }
                for node in &mut nodes {
                    let told = (seed, rule, start, now, &node.announced);
                    let is_bounded = node.is_bounded(rule, start);
                    let comes_to_know = node.is_known && node.said().set.version > 0;
                    let is_shared = comes_to_know && shared.contains(&(rule, start));
                    assert!(is_bounded || !is_shared, "shared: {told:?}");
                    if !is_bounded {
                        node.admitted.insert((rule, start));
                    }
                    let admitted = node.admitted.contains(&(rule, start));
                    assert!(!admitted || !node.vouches(start), "vouched for: {told:?}");
                }
            }
        }
    }
    assert!(shared_windows > 100, "{shared_windows}");
}

#[test]
fn forged_and_malformed_modes_are_refused() {
    let highest = format!("{}:local", ModeVersion::VERSION_MAX);
    let parsed: Announcement = highest.parse().unwrap();
    assert_eq!(
        parsed.set.next(SyncMode::Gossip, NOW).version,
        ModeVersion::VERSION_MAX
    );
    let above = format!("{}:local", ModeVersion::VERSION_MAX + 1);
    for text in [
        above.as_str(),
        "",
        "1",
        "1:",
        ":gossip",
        "x:gossip",
        "-1:gossip",
        "1:redis",
        "1:bounded:",
        "1:bounded:1",
        "1:bounded:x:1",
        "1:bounded:1:2:3",
        "1:bounded:1:2:4:3",
        "1:bounded:1:2:3:4:5",
        "1:bounded:1:2:3:4:5:6",
    ] {
        assert_eq!(text.parse::<Announcement>(), Err(ModeError), "{text}");
    }
}
