//! Which replicas are live, and how many share the limits.

use crate::limit::{SyncMode, UnixMillis};
use crate::replica::Generation;

use super::*;

fn replica(node: &str, generation: u64) -> ReplicaId {
    ReplicaId {
        node: node.parse().unwrap(),
        generation: Generation(generation),
    }
}

fn sighting(node: &str, generation: u64, live: bool) -> Sighting {
    Sighting {
        replica: replica(node, generation),
        address: SocketAddr::from(([127, 0, 0, 1], 7000)),
        live,
        attributes: Attributes::default(),
    }
}

fn with_presence(mut sighting: Sighting, presence: Presence) -> Sighting {
    sighting.attributes.presence = presence;
    sighting
}

fn table() -> MemberTable {
    MemberTable::new(replica("me", 5), 1)
}

fn peers(view: &View) -> Vec<String> {
    view.peers.iter().map(|(id, _)| id.to_string()).collect()
}

#[test]
fn of_two_lives_of_a_node_only_the_newer_live_one_is_a_peer() {
    let me = || sighting("me", 5, true);
    let both = vec![sighting("b", 9, true), sighting("b", 2, true), me()];
    assert_eq!(peers(&table().view(both, Duration::ZERO)), ["b/9"]);
    let newer_dead = vec![sighting("b", 9, false), sighting("b", 2, true), me()];
    assert_eq!(peers(&table().view(newer_dead, Duration::ZERO)), ["b/2"]);
}

#[test]
fn former_lives_of_ourselves_are_no_peers_and_a_newer_one_supersedes_us() {
    let view = table().view(
        vec![sighting("me", 4, true), sighting("me", 5, true)],
        Duration::ZERO,
    );
    assert_eq!(
        (peers(&view).len(), view.replicas, view.superseded),
        (0, 1, false)
    );
    let view = table().view(
        vec![sighting("me", 5, true), sighting("me", 6, true)],
        Duration::ZERO,
    );
    assert_eq!((peers(&view).len(), view.superseded), (0, true));
    // One that is gone, or goes, supersedes nobody: after a clock was set back a former life seems newer.
    let gone = vec![sighting("me", 5, true), sighting("me", 6, false)];
    assert!(!table().view(gone, Duration::ZERO).superseded);
    let left = with_presence(sighting("me", 6, true), Presence::Left);
    assert!(
        !table()
            .view(vec![sighting("me", 5, true), left], Duration::ZERO)
            .superseded
    );
}

#[test]
fn a_crashed_node_counts_for_ten_seconds_and_one_that_left_does_not() {
    let mut table = table();
    let second = Duration::from_secs(1);
    let alive = vec![sighting("b", 1, true), sighting("c", 1, true)];
    assert_eq!(table.view(alive, Duration::ZERO).replicas, 3);
    let left = || with_presence(sighting("c", 1, true), Presence::Left);
    let after = |table: &mut MemberTable, at| table.view(vec![sighting("b", 1, false), left()], at);
    let view = after(&mut table, 9 * second);
    assert_eq!((view.replicas, view.peers.len()), (2, 0));
    assert_eq!(after(&mut table, 10 * second).replicas, 1);
}

#[test]
fn a_leaving_node_stays_a_peer_until_it_has_left() {
    let leaving = with_presence(sighting("b", 1, true), Presence::Leaving);
    assert_eq!(peers(&table().view(vec![leaving], Duration::ZERO)), ["b/1"]);
}

#[test]
fn a_node_that_left_and_came_back_is_counted_again() {
    let lives = vec![
        with_presence(sighting("b", 1, true), Presence::Left),
        sighting("b", 2, true),
    ];
    let view = table().view(lives, Duration::ZERO);
    assert_eq!((peers(&view), view.replicas), (vec!["b/2".to_owned()], 2));
}

#[test]
fn the_divisor_never_falls_below_the_configured_minimum() {
    let mut table = MemberTable::new(replica("me", 5), 3);
    assert_eq!(table.view(Vec::new(), Duration::ZERO).replicas, 3);
    let four = ["b", "c", "d"].map(|node| sighting(node, 1, true)).to_vec();
    assert_eq!(table.view(four, Duration::ZERO).replicas, 4);
}

#[test]
fn the_newest_mode_is_found_whoever_publishes_it_even_the_dead() {
    let mut old = sighting("b", 1, true);
    old.attributes.mode = Some(Announcement::of(ModeVersion::configured(SyncMode::Gossip)));
    let mut dead = sighting("c", 1, false);
    let newest = ModeVersion::configured(SyncMode::Gossip).next(SyncMode::Local, UnixMillis(0));
    dead.attributes.mode = Some(Announcement::of(newest));
    assert_eq!(table().view(vec![old, dead], Duration::ZERO).mode, Some(newest));
}

#[test]
fn frames_are_of_the_newest_version_that_every_live_node_takes_in() {
    let announcing = |node, live, version| {
        let mut sighting = sighting(node, 5, live);
        sighting.attributes.frame_version = version;
        sighting
    };
    let version = |others: Vec<Sighting>| {
        let me = announcing("me", true, Some(2));
        table()
            .view([vec![me], others].concat(), Duration::ZERO)
            .frame_version
    };
    assert_eq!(version(Vec::new()), 2);
    assert_eq!(version(vec![announcing("b", true, Some(3))]), 2);
    // The first release announced nothing.
    assert_eq!(
        version(vec![announcing("b", true, Some(2)), announcing("c", true, None)]),
        1
    );
    assert_eq!(version(vec![announcing("c", false, None)]), 2);
    let pinned = table().view(vec![announcing("me", true, Some(1))], Duration::ZERO);
    assert_eq!(pinned.frame_version, 1);
}
