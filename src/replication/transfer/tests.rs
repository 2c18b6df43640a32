use proptest::prelude::*;
use rand::Rng as _;

use super::mesh::{Faults, HEALTHY, Mesh, START, WINDOW, limiters};
use super::*;
use crate::bounded::{Answer, Ask};
use crate::limit::{KeyHash, RowKey};

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
