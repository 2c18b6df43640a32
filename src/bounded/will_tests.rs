use std::sync::Arc;

use super::*;
use crate::limit::{KeyHash, UnixMillis, Window};
use crate::replica::{Generation, ReplicaId};

const WINDOW: Window = Window {
    start: UnixMillis(60_000),
    end: UnixMillis(120_000),
};
const KEY: KeyHash = KeyHash(3);

fn replica(node: &str) -> ReplicaId {
    ReplicaId {
        node: node.parse().unwrap(),
        generation: Generation(1),
    }
}

fn taken(holder: &str) -> Arc<Membership> {
    let members = ["a", "b", "c"].map(replica);
    Arc::new(Membership::try_new(WINDOW.start, &replica(holder), members).unwrap())
}

fn estate(node: &str) -> Estate {
    Estate::new(replica(node))
}

#[test]
fn wills_chain_and_the_last_heir_owns_what_nobody_consumed() {
    let (mut a, mut b, mut c) = (estate("a"), estate("b"), estate("c"));
    a.bequeath(&replica("b"), 5, [&taken("a")], |_| true, |_| true)
        .unwrap();
    assert!(!a.is_executed(b.record()));
    let incomplete = EstateError::Incomplete {
        replica: replica("a"),
        held: 4,
        needed: 5,
    };
    assert_eq!(b.execute(&replica("a"), a.record(), |_| 4), Err(incomplete));
    assert_eq!(b.execute(&replica("a"), a.record(), |_| 5), Ok(true));
    assert_eq!(b.execute(&replica("a"), a.record(), |_| 0), Ok(false));
    assert!(a.is_executed(b.record()));
    // a consumed 4 of its 4; of b's 4 and a grant of 2 to a that came late, 6 are left to b.
    let row = (12, KEY, WINDOW);
    let received = |id: &ReplicaId| if *id == replica("a") { 2 } else { 0 };
    let consumed = |id: &ReplicaId| if *id == replica("a") { 4 } else { 1 };
    assert_eq!(
        b.allowance(row, Some(&taken("b")), received, consumed),
        4 + 4 + 2 - 4
    );
    b.bequeath(&replica("c"), 9, [&taken("b")], |_| true, |_| true)
        .unwrap();
    let text = b.record().to_text();
    let record = EstateRecord::from_text(&text).unwrap();
    assert_eq!(&record, b.record());
    // The whole chain's rows must be held, not only those of the last leaver.
    let held = |id: &ReplicaId| if *id == replica("b") { 9 } else { 4 };
    assert!(matches!(
        c.execute(&replica("b"), &record, held),
        Err(EstateError::Incomplete { .. })
    ));
    assert_eq!(c.execute(&replica("b"), &record, |_| 9), Ok(true));
    assert_eq!(
        c.allowance(row, Some(&taken("c")), received, consumed),
        12 + 2 - 4 - 1
    );
    c.retain(&[], WINDOW.end, |id| *id == replica("b"));
    assert_eq!(c.inherited().collect::<Vec<_>>(), [&replica("b")]);
    assert_eq!(c.memberships().count(), 0);
}

#[test]
fn a_will_is_revised_only_when_its_heir_left_without_executing_it() {
    let (mut a, mut b, mut c) = (estate("a"), estate("b"), estate("c"));
    a.bequeath(&replica("b"), 5, [&taken("a")], |_| true, |_| true)
        .unwrap();
    assert_eq!(
        a.bequeath(&replica("c"), 5, [], |_| true, |_| true),
        Err(EstateError::Bequeathed)
    );
    assert_eq!(a.revise(b.record(), &replica("c")), Err(EstateError::Pending));
    let first = a.record().clone();
    b.bequeath(&replica("a"), 5, [&taken("b")], |_| true, |_| true)
        .unwrap();
    assert_eq!(
        a.execute(&replica("b"), b.record(), |_| 9),
        Err(EstateError::Bequeathed)
    );
    a.revise(b.record(), &replica("c")).unwrap();
    assert_eq!(
        b.execute(&replica("a"), &first, |_| 9),
        Err(EstateError::Bequeathed)
    );
    assert_eq!(c.execute(&replica("a"), &first, |_| 9), Err(EstateError::NoWill));
    assert_eq!(c.execute(&replica("a"), a.record(), |_| 9), Ok(true));
    assert_eq!(
        estate("d").revise(b.record(), &replica("c")),
        Err(EstateError::NoWill)
    );
}

#[test]
fn wills_that_contradict_themselves_are_refused_whole() {
    let mut a = estate("a");
    a.bequeath(&replica("b"), 5, [&taken("a")], |_| true, |_| true)
        .unwrap();
    let good = a.record().clone();
    let spoil = |change: fn(&mut Will)| {
        let mut record = good.clone();
        record.will.as_mut().map(change).unwrap();
        let mut b = estate("b");
        let refused = b.execute(&replica("a"), &record, |_| u64::MAX);
        assert_eq!(b, estate("b"));
        refused
    };
    let malformed = Err(EstateError::Malformed);
    assert_eq!(spoil(|will| will.estate[0].shares[0].1 = 1), malformed);
    assert_eq!(spoil(|will| will.estate.push(will.estate[0].clone())), malformed);
    assert_eq!(spoil(|will| will.estate.clear()), malformed);
    assert_eq!(spoil(|will| will.memberships[0].clear()), malformed);
    assert_eq!(spoil(|will| will.estate[0].replica = replica("b")), malformed);
    assert_eq!(spoil(|will| will.heir = replica("c")), Err(EstateError::NoWill));
    assert!(EstateRecord::from_text(&" ".repeat(EstateRecord::BYTES_MAX + 1)).is_err());
}

#[test]
fn leavers_spread_over_heirs_and_never_choose_their_own_node() {
    let nodes: Vec<ReplicaId> = (0..10).map(|n| replica(&format!("n{n}"))).collect();
    let heirs: std::collections::BTreeSet<_> =
        nodes.iter().filter_map(|leaver| heir(leaver, &nodes)).collect();
    assert!(heirs.len() >= 4, "{heirs:?}");
    assert!(nodes.iter().all(|leaver| heir(leaver, &nodes) != Some(leaver)));
    assert_eq!(heir(&nodes[0], [&nodes[0]]), None);
}

#[test]
fn a_will_names_what_may_still_be_spent_and_asks_for_no_log_that_nobody_remembers() {
    let (mut a, mut b, mut c) = (estate("a"), estate("b"), estate("c"));
    a.bequeath(&replica("b"), 5, [&taken("a")], |_| true, |_| true)
        .unwrap();
    assert_eq!(b.execute(&replica("a"), a.record(), |_| 5), Ok(true));
    let named = |b: &Estate, is_open: bool, has_rows: bool| {
        let mut b = b.clone();
        b.bequeath(&replica("c"), 9, [&taken("b")], |_| is_open, |_| has_rows)
            .unwrap();
        let estate = b.record().will.as_ref().unwrap().estate.iter();
        let named = estate.map(|part| (part.replica.clone(), part.final_version, part.shares.len()));
        named.collect::<Vec<_>>()
    };
    let (of_a, of_b) = (replica("a"), replica("b"));
    let part = |replica: &ReplicaId, version, shares| (replica.clone(), version, shares);
    assert_eq!(named(&b, true, true), [part(&of_b, 9, 1), part(&of_a, 5, 1)]);
    assert_eq!(named(&b, true, false), [part(&of_b, 9, 1), part(&of_a, 0, 1)]);
    // What a was granted and did not spend is in its rows.
    assert_eq!(named(&b, false, true), [part(&of_b, 9, 0), part(&of_a, 5, 0)]);
    assert_eq!(named(&b, false, false), [part(&of_b, 9, 0)]);
    // Its rows end while the heir waits for its log.
    b.bequeath(&replica("c"), 9, [&taken("b")], |_| true, |_| true)
        .unwrap();
    let held = |id: &ReplicaId| if *id == of_b { 9 } else { 0 };
    assert!(c.execute(&of_b, b.record(), held).is_err());
    let version = b.record().version;
    b.ease(|_| true);
    assert_eq!(b.record().version, version);
    b.ease(|_| false);
    assert_eq!(b.record().version, version + 1);
    assert_eq!(c.execute(&of_b, b.record(), held), Ok(true));
    // By its clock the window may be yet to start.
    c.retain(&[], UnixMillis(WINDOW.start.0 - 1), |_| false);
    assert_eq!(c.memberships().count(), 2);
    c.retain(&[], WINDOW.start, |_| false);
    assert_eq!(c.memberships().count(), 0);
}
