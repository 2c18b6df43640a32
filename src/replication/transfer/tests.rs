use proptest::prelude::*;
use rand::Rng as _;

use super::mesh::{Faults, HEALTHY, Mesh, START, WINDOW, limiters};
use super::*;
use crate::bounded::{Answer, Ask};
use crate::limit::{KeyHash, Period, Window};
use crate::replica::Generation;
use crate::replication::codec::Frame;

/// Offers `requests` of `hits` at random nodes among `at`, so many a millisecond.
fn offer(mesh: &mut Mesh<'_>, at: &[usize], (requests, a_step): (u64, u64), hits: u32) {
    let mut left = requests;
    while left > 0 {
        for _ in 0..a_step.min(left) {
            let node = at[mesh.rng.random_range(0..at.len())];
            mesh.request(node, 1, hits);
            left -= 1;
        }
        mesh.step();
    }
    mesh.run(40);
    assert_eq!(mesh.waiting(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// The promise, whatever the network does: the mesh holds every admission to the limit. And nobody asks for
    /// ever once nobody wants anything.
    #[test]
    fn never_more_than_the_limit_is_admitted_over_any_network(
        nodes in 2..5_usize,
        limit in 1..80_u64,
        hits_max in 1..4_u32,
        faults in (0..40_u32, 0..30_u32, 1..30_u64),
        seed: u64,
    ) {
        let limiters = limiters(nodes, limit);
        let mut mesh = Mesh::new(&limiters, limit, seed >> 1);
        let (lost, repeated, delay_max) = faults;
        mesh.faults = Faults { lost, repeated, delay_max };
        for node in 0..nodes {
            mesh.nodes[node].skew = mesh.rng.random_range(0..40);
        }
        let decided_late = mesh.rng.random_range(0..nodes);
        for node in (0..nodes).filter(|node| *node != decided_late) {
            mesh.decide(node);
        }
        for step in 0..400 {
            if step == 30 {
                mesh.decide(decided_late);
            }
            for _ in 0..mesh.rng.random_range(0..3) {
                let (node, hits) = (mesh.rng.random_range(0..nodes), mesh.rng.random_range(1..=hits_max));
                let key = mesh.rng.random_range(0..2);
                mesh.request(node, key, hits);
            }
            mesh.step();
        }
        mesh.run(300);
        let asks = mesh.asks();
        mesh.run(300);
        prop_assert_eq!(mesh.asks(), asks, "somebody asks for ever");
        // What is left is left because of its size alone, and nobody keeps it from the rest.
        mesh.faults = HEALTHY;
        for _ in 0..5 * limit.max(10) {
            let node = mesh.rng.random_range(0..nodes);
            mesh.request(node, 0, 1);
            mesh.run(2);
        }
        prop_assert_eq!(mesh.admitted(0), limit);
    }
}

#[test]
fn a_healthy_cluster_admits_the_whole_limit_and_not_a_hit_more_whatever_the_traffic() {
    for (nodes, limit) in [(2, 100), (3, 300), (3, 5), (5, 7), (10, 1_000), (1, 10)] {
        for at in [0..nodes, 0..1, nodes - 1..nodes] {
            for (hits, a_step) in [(1, 1), (1, 20), (1, 10 * limit), (3, 5)] {
                let limiters = limiters(nodes, limit);
                let mut mesh = Mesh::new(&limiters, limit, limit);
                mesh.decide_all();
                let at: Vec<usize> = at.clone().collect();
                offer(&mut mesh, &at, (10 * limit, a_step), hits);
                // What the room turned away came in one burst; others come after it.
                offer(&mut mesh, &at, (limit, 1), hits);
                let rest = limit - mesh.admitted(1);
                let what = format!("{nodes} nodes, {limit}, at {at:?}, {hits} hits, {a_step} at once");
                assert!(rest < u64::from(hits), "{what}: {rest} left of {:?}", mesh.tally);
            }
        }
    }
}

#[test]
fn few_requests_wait_where_the_limit_is_large_against_the_cluster() {
    for nodes in [3, 10] {
        let limit = 100 * nodes as u64;
        for at in [(0..nodes).collect::<Vec<_>>(), vec![0]] {
            let limiters = limiters(nodes, limit);
            let mut mesh = Mesh::new(&limiters, limit, 7);
            mesh.decide_all();
            offer(&mut mesh, &at, (3 * limit, 1), 1);
            assert_eq!(mesh.admitted(1), limit, "{:?}", mesh.tally);
            let waited = mesh.tally.waited - mesh.tally.exhausted - mesh.tally.timed_out;
            assert!(
                waited * 20 <= limit,
                "{waited} of {limit} waited: {:?}",
                mesh.tally
            );
        }
    }
}

#[test]
fn of_five_hits_over_three_nodes_exactly_five_pass_whichever_nodes_are_asked() {
    for seed in 0..200 {
        let limiters = limiters(3, 5);
        let mut mesh = Mesh::new(&limiters, 5, seed);
        mesh.decide_all();
        for _ in 0..10 {
            let node = mesh.rng.random_range(0..3);
            mesh.request(node, 1, 1);
            mesh.run(25);
            // One after the other: none is denied while a right is left.
            let asked = mesh.tally.admitted + mesh.tally.denied + mesh.tally.exhausted + mesh.tally.timed_out;
            assert_eq!(mesh.admitted(1), asked.min(5), "seed {seed}: {:?}", mesh.tally);
        }
    }
}

#[test]
fn once_all_are_empty_denials_wait_for_nothing_until_somebody_gains() {
    let limiters = limiters(3, 9);
    let mut mesh = Mesh::new(&limiters, 9, 1);
    // The last one has not decided.
    (0..2).for_each(|node| mesh.decide(node));
    mesh.run(2_000);
    offer(&mut mesh, &[0, 1], (30, 1), 1);
    assert_eq!(mesh.admitted(1), 6, "{:?}", mesh.tally);
    let (before, asks) = (mesh.tally, mesh.asks());
    offer(&mut mesh, &[0, 1], (30, 1), 1);
    assert_eq!((mesh.tally.waited, mesh.asks()), (before.waited, asks));
    assert_eq!(mesh.tally.denied, before.denied + 30);
    assert_eq!(mesh.nodes[0].core.transfer_stats().exhausted, 1);
    // It decides late, and those who asked hear of it.
    mesh.decide(2);
    mesh.run(5);
    assert_eq!(mesh.nodes[0].core.transfer_stats().exhausted, 0);
    offer(&mut mesh, &[0, 1], (30, 1), 1);
    assert_eq!(mesh.admitted(1), 9, "{:?}", mesh.tally);
}

#[test]
fn who_was_empty_and_gains_unheard_is_asked_again_when_it_reappears_and_after_a_second() {
    for reappears in [true, false] {
        let limiters = limiters(3, 9);
        let mut mesh = Mesh::new(&limiters, 9, 1);
        (0..2).for_each(|node| mesh.decide(node));
        mesh.run(2_000);
        offer(&mut mesh, &[0, 1], (30, 1), 1);
        // It decides late, and what tells of it is lost.
        mesh.cuts = vec![(2, 0), (2, 1)];
        mesh.decide(2);
        mesh.run(100);
        mesh.cuts.clear();
        if reappears {
            for alive in [false, true] {
                mesh.nodes[2].alive = alive;
                mesh.announce();
            }
        } else {
            offer(&mut mesh, &[0, 1], (30, 1), 1);
            assert_eq!(mesh.admitted(1), 6, "{:?}", mesh.tally);
            mesh.run(1_000);
        }
        offer(&mut mesh, &[0, 1], (30, 1), 1);
        assert_eq!(mesh.admitted(1), 9, "{:?}", mesh.tally);
    }
}

#[test]
fn a_partition_keeps_the_rights_of_each_side_there_and_gives_them_back_when_it_heals() {
    let limiters = limiters(3, 30);
    let mut mesh = Mesh::new(&limiters, 30, 1);
    mesh.decide_all();
    mesh.cuts = vec![(0, 2), (2, 0), (1, 2), (2, 1)];
    offer(&mut mesh, &[0], (100, 1), 1);
    assert_eq!(mesh.admitted(1), 20, "{:?}", mesh.tally);
    assert!(mesh.tally.timed_out > 0, "what the third has is not known");
    mesh.cuts.clear();
    mesh.run(100);
    offer(&mut mesh, &[0], (100, 1), 1);
    assert_eq!(mesh.admitted(1), 30, "{:?}", mesh.tally);
}

#[test]
fn whoever_remains_is_certain_of_the_end_when_the_others_died() {
    let limiters = limiters(2, 10);
    let mut mesh = Mesh::new(&limiters, 10, 1);
    mesh.decide_all();
    mesh.nodes[1].alive = false;
    offer(&mut mesh, &[0], (10, 1), 1);
    // It could still answer.
    let timed_out = mesh.tally.timed_out;
    assert_eq!((mesh.admitted(1), timed_out), (5, 5));
    mesh.announce();
    offer(&mut mesh, &[0], (10, 1), 1);
    assert_eq!((mesh.admitted(1), mesh.tally.timed_out), (5, timed_out));
    assert!(mesh.tally.denied >= 9, "{:?}", mesh.tally);
}

/// Node `leaver` leaves and `heir` inherits from it and from those `before`, of whom the final versions are given,
/// in either order of the two calls. Gives the leaver's final version.
fn bequeath(
    mesh: &mut Mesh<'_>,
    leaver: usize,
    heir: usize,
    before: &[(usize, Version)],
    shares_first: bool,
) -> Version {
    // What is in flight is finished before a node leaves: from then on it admits nothing.
    mesh.run(25);
    let now = mesh.now(leaver);
    mesh.nodes[leaver].core.handle_leave(now);
    let mut left = 3_000;
    let last = loop {
        if let Some(released) = mesh.nodes[leaver].core.released_version() {
            let mut needed = before.iter().copied().chain([(leaver, released)]);
            let heir = &mesh.nodes[heir].core;
            if needed.all(|(index, last)| heir.held(&mesh.nodes[index].id) >= last) {
                break released;
            }
        }
        mesh.step();
        left -= 1;
        assert!(left > 0, "the heir never holds all logs");
    };
    let before = before.iter().map(|(index, _)| *index);
    let all: Vec<usize> = before.chain([leaver]).collect();
    let memberships = all.iter().chain([&heir]).map(|index| mesh.membership(*index));
    let memberships: Vec<_> = memberships.collect();
    let ids: Vec<_> = all.iter().map(|index| mesh.nodes[*index].id.clone()).collect();
    let node = &mut mesh.nodes[heir];
    if shares_first {
        node.shares.replace(memberships);
        node.core.inherit(&ids);
    } else {
        node.core.inherit(&ids);
        node.shares.replace(memberships);
        node.core.inherit(&ids);
    }
    let heirs = [mesh.nodes[heir].id.clone()];
    mesh.nodes[leaver].alive = false;
    mesh.announce();
    for index in 0..mesh.nodes.len() {
        mesh.nodes[index].core.note_heirs(&heirs);
    }
    last
}

#[test]
fn heirs_spend_what_leavers_left_of_every_key_and_not_a_hit_more() {
    for shares_first in [false, true] {
        for seed in 0..20 {
            let limiters = limiters(4, 40);
            let mut mesh = Mesh::new(&limiters, 40, seed);
            mesh.decide_all();
            mesh.faults = Faults {
                lost: 10,
                repeated: 10,
                delay_max: 10,
            };
            // Some of it with transfers, some without, and a key that nobody touches before all have left.
            for _ in 0..mesh.rng.random_range(5..60) {
                let (node, key) = (mesh.rng.random_range(0..4), mesh.rng.random_range(0..3));
                mesh.request(node, key, 1);
                mesh.step();
            }
            // A grant to the leaver is under way when it goes.
            mesh.cuts = vec![(1, 0)];
            for _ in 0..12 {
                mesh.request(0, 4, 1);
                mesh.step();
            }
            mesh.cuts.clear();
            let last = bequeath(&mut mesh, 0, 2, &[], shares_first);
            for _ in 0..20 {
                let key = mesh.rng.random_range(0..5);
                mesh.request(2, key, 1);
                mesh.step();
            }
            bequeath(&mut mesh, 2, 1, &[(0, last)], shares_first);
            mesh.faults = HEALTHY;
            for key in 0..6 {
                for _ in 0..60 {
                    let node = [1, 3][mesh.rng.random_range(0..2)];
                    mesh.request(node, key, 1);
                    mesh.run(2);
                }
                assert_eq!(mesh.admitted(key), 40, "key {key}, seed {seed}: {:?}", mesh.tally);
            }
        }
    }
}

#[test]
fn a_leaver_grants_nothing_and_asks_nobody() {
    let limiters = limiters(2, 20);
    let mut mesh = Mesh::new(&limiters, 20, 1);
    mesh.decide_all();
    let now = mesh.now(1);
    mesh.nodes[1].core.handle_leave(now);
    offer(&mut mesh, &[0, 1], (60, 1), 1);
    assert_eq!(mesh.admitted(1), 20);
    let stats = mesh.nodes[1].core.transfer_stats();
    assert_eq!((stats.granted, stats.asks), (0, 0));
    assert_eq!(mesh.tally.timed_out, 0, "nobody waits for what cannot come");
}

#[test]
fn where_a_peer_speaks_no_version_that_moves_rights_each_spends_its_share() {
    let limiters = limiters(3, 30);
    let mut mesh = Mesh::new(&limiters, 30, 1);
    mesh.decide_all();
    for node in &mut mesh.nodes {
        node.core.set_frame_version(FRAME_VERSION_RIGHTS - 1);
    }
    offer(&mut mesh, &[0], (30, 1), 1);
    assert_eq!((mesh.admitted(1), mesh.asks(), mesh.tally.timed_out), (10, 0, 0));
    for node in &mut mesh.nodes {
        node.core.set_frame_version(FRAME_VERSION_RIGHTS);
    }
    offer(&mut mesh, &[0], (30, 1), 1);
    assert_eq!(mesh.admitted(1), 30, "{:?}", mesh.tally);
}

/// The frame in which `asker` asks the first node for rights of a key.
fn ask_of(mesh: &Mesh<'_>, asker: &ReplicaId, key: u128, window: Window) -> Vec<u8> {
    let rule = mesh.limiter(0).rules()[0].id(Period::Minute);
    let ask = Ask {
        held: 0,
        target: 1,
        need: 1,
    };
    codec::encode(&Frame {
        sender: asker.clone(),
        sent_at: mesh.now(0).wall,
        body: Body::Transfers(vec![Transfer {
            key: RowKey {
                rule,
                window,
                key: KeyHash(key),
            },
            kind: TransferKind::Ask(ask),
        }]),
    })
}

fn answers(core: &mut Replication) -> Vec<Answer> {
    let sent = std::iter::from_fn(|| core.poll_transmit());
    let bodies = sent.map(|transmit| codec::decode(&transmit.payload).unwrap().body);
    let transfers = bodies.flat_map(|body| match body {
        Body::Transfers(transfers) => transfers,
        _ => Vec::new(),
    });
    transfers
        .filter_map(|transfer| match transfer.kind {
            TransferKind::Answer(answer) => Some(answer),
            TransferKind::Ask(_) => None,
        })
        .collect()
}

#[test]
fn a_row_names_sixteen_takers_and_later_askers_hear_that_there_is_nothing() {
    let limiters = limiters(1, 1_000);
    let mut mesh = Mesh::new(&limiters, 1_000, 1);
    mesh.decide_all();
    let askers: Vec<ReplicaId> = (0..20)
        .map(|n| ReplicaId {
            node: format!("asker{n}").parse().unwrap(),
            generation: Generation(1),
        })
        .collect();
    let live: Vec<_> = askers
        .iter()
        .map(|id| (id.clone(), ([127, 0, 0, 1], 9).into()))
        .collect();
    let now = mesh.now(0);
    mesh.nodes[0].core.handle_membership(&live, now);
    let frames: Vec<_> = askers.iter().map(|id| ask_of(&mesh, id, 1, WINDOW)).collect();
    let core = &mut mesh.nodes[0].core;
    // Each twice: what is repeated moves nothing.
    for frame in frames.iter().chain(&frames) {
        core.handle_datagram(frame, now).unwrap();
    }
    let answers = answers(core);
    assert_eq!(answers.iter().filter(|answer| answer.granted == 1).count(), 32);
    assert_eq!(
        answers
            .iter()
            .filter(|answer| answer.granted == 0 && answer.empty)
            .count(),
        8
    );
    assert_eq!(core.transfer_stats().granted, 16);
    // All of them go with the row.
    mesh.at += Duration::from_millis(200);
    let now = mesh.now(0);
    let core = &mut mesh.nodes[0].core;
    core.handle_timeout(now);
    let sent = std::iter::from_fn(|| core.poll_transmit());
    let bodies = sent.map(|transmit| codec::decode(&transmit.payload).unwrap().body);
    let rows = bodies.flat_map(|body| match body {
        Body::Deltas(deltas) => deltas.into_iter().flat_map(|delta| delta.rows).collect(),
        _ => Vec::new(),
    });
    let grants: Vec<_> = rows.map(|row| (row.count, row.grants.len())).collect();
    assert_eq!(grants, [(16, codec::GRANTS_MAX)]);
}

#[test]
fn asks_for_windows_that_are_not_open_make_no_rows_and_those_of_others_only_so_many() {
    let limiters = limiters(1, 1_000);
    let mut mesh = Mesh::new(&limiters, 1_000, 1);
    mesh.decide_all();
    let asker = ReplicaId {
        node: "asker".parse().unwrap(),
        generation: Generation(1),
    };
    let now = mesh.now(0);
    let live = [(asker.clone(), ([127, 0, 0, 1], 9).into())];
    mesh.nodes[0].core.handle_membership(&live, now);
    let minute = Duration::from_secs(60);
    for (window, empty) in [
        (
            Window {
                start: WINDOW.end,
                end: WINDOW.end.plus(minute),
            },
            false,
        ),
        (
            Window {
                start: START.minus(minute),
                end: START,
            },
            true,
        ),
    ] {
        let frame = ask_of(&mesh, &asker, 1, window);
        let core = &mut mesh.nodes[0].core;
        core.handle_datagram(&frame, now).unwrap();
        assert_eq!(answers(core), [Answer { granted: 0, empty }]);
        assert_eq!(core.transfer_stats().rows, 0);
    }
    let capacity = mesh.limiter(0).counters().capacity();
    for key in 0..u128::from(capacity) {
        let spread = key.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
        let frame = ask_of(&mesh, &asker, spread, WINDOW);
        mesh.nodes[0].core.handle_datagram(&frame, now).unwrap();
    }
    assert!(mesh.limiter(0).counters().live_rows() <= capacity / 2);
}

#[test]
fn a_row_and_all_that_is_known_of_its_transfers_go_together() {
    let limiters = limiters(3, 9);
    let mut mesh = Mesh::new(&limiters, 9, 1);
    mesh.decide_all();
    offer(&mut mesh, &[0, 1], (30, 1), 1);
    let total: u64 = mesh
        .nodes
        .iter()
        .map(|node| node.core.transfer_stats().rows)
        .sum();
    assert_eq!(total, 3);
    mesh.at += Duration::from_secs(63);
    mesh.run(200);
    for node in &mesh.nodes {
        let stats = node.core.transfer_stats();
        assert_eq!((stats.rows, stats.exhausted), (0, 0));
        assert!(node.core.transfers.retries.is_empty() && node.core.transfers.outgoing.is_empty());
    }
}

#[test]
fn what_decisions_see_of_peers_adds_up_to_what_the_cluster_admitted() {
    let limiters = limiters(3, 300);
    let mut mesh = Mesh::new(&limiters, 300, 1);
    mesh.decide_all();
    offer(&mut mesh, &[0], (180, 1), 1);
    offer(&mut mesh, &[1, 2], (60, 1), 1);
    mesh.run(400);
    assert!(
        mesh.nodes
            .iter()
            .any(|node| node.core.transfer_stats().granted > 0)
    );
    for limiter in &limiters {
        limiter.counters().for_each_live(|_, view| {
            assert_eq!(view.own + view.peers, 240, "{view:?}");
        });
    }
}
