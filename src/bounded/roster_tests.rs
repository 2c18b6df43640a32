use super::*;
use crate::limit::UnixMillis;
use crate::replica::{Generation, ReplicaId};
use std::time::Duration;

const SKEW: u64 = 100;

fn replica(node: &str, boot: u64) -> ReplicaId {
    ReplicaId {
        node: node.parse().unwrap(),
        generation: Generation(boot * 1000),
    }
}

fn config(min_roster: usize) -> RosterConfig {
    RosterConfig {
        skew: Duration::from_millis(SKEW),
        min_roster,
        listen: Duration::ZERO,
        strict_start: true,
        retire_on_restart: true,
        forget_after: None,
    }
}

fn at(millis: u64) -> UnixMillis {
    UnixMillis(millis)
}

/// Both hear each other's newest record.
fn exchange(a: &mut Roster, b: &mut Roster, ids: (&ReplicaId, &ReplicaId), now: u64) {
    for _ in 0..2 {
        a.handle_record(ids.1, &b.record().clone(), at(now));
        b.handle_record(ids.0, &a.record().clone(), at(now));
    }
}

#[test]
fn two_nodes_that_list_each_other_before_a_window_share_it() {
    let (ia, ib) = (replica("a", 10), replica("b", 20));
    let (mut a, mut b) = (
        Roster::new(ia.clone(), config(2)),
        Roster::new(ib.clone(), config(2)),
    );
    assert_eq!(
        a.take(at(1000), at(1000)),
        Err(Blocked::Gathering {
            present: 1,
            needed: 2
        })
    );
    exchange(&mut a, &mut b, (&ia, &ib), 1500);
    assert_eq!(
        a.take(at(1500), at(1500)),
        Err(Blocked::ListedLate {
            member: ib.clone(),
            from: at(1500)
        })
    );
    assert_eq!(a.take(at(1600), at(1599)), Err(Blocked::NotStarted));
    assert_eq!(a.take(at(1600), at(1600)).unwrap().divisor(), 2);
    assert_eq!(b.take(at(1600), at(1700)).unwrap().divisor(), 2);
}

#[test]
fn a_share_is_fixed_once_taken_and_gone_for_good_once_let_go() {
    let ia = replica("a", 10);
    let mut a = Roster::new(ia.clone(), config(1));
    assert_eq!(
        a.take(at(110), at(500)),
        Err(Blocked::BootSkew { after: at(110) })
    );
    let first = a.take(at(111), at(500)).unwrap();
    a.handle_peer(&replica("b", 20), at(600));
    assert_eq!(a.take(at(111), at(700)).unwrap(), first);
    let since = None;
    assert_eq!(
        a.take(at(112), at(700)),
        Err(Blocked::Missing {
            member: replica("b", 20),
            since
        })
    );
    a.retain(&[at(112)], at(800));
    assert_eq!(a.take(at(111), at(900)), Err(Blocked::TooLate));
    a.retain(&[at(111), at(112)], at(900));
    assert_eq!(a.take(at(111), at(900)), Err(Blocked::TooLate));
    assert_eq!(a.decided().count(), 0);
}

#[test]
fn a_lone_founder_uses_the_window_in_progress_only_when_allowed_and_alone() {
    let lax = RosterConfig {
        strict_start: false,
        ..config(1)
    };
    let mut a = Roster::new(replica("a", 500), lax.clone());
    assert_eq!(a.take(at(1), at(500)).unwrap().divisor(), 1);
    let mut with_peer = Roster::new(replica("a", 500), lax);
    with_peer.handle_peer(&replica("b", 20), at(500));
    assert_eq!(
        with_peer.take(at(1), at(500)),
        Err(Blocked::BootSkew { after: at(600) })
    );
    let mut strict = Roster::new(replica("a", 500), config(1));
    assert_eq!(
        strict.take(at(600), at(600)),
        Err(Blocked::BootSkew { after: at(600) })
    );
    assert!(strict.take(at(601), at(601)).is_ok());
}

#[test]
fn a_founder_of_one_listens_first_and_whoever_is_heard_meanwhile_ends_it() {
    let lax = RosterConfig {
        strict_start: false,
        listen: Duration::from_millis(300),
        ..config(1)
    };
    let boot = |config: &RosterConfig| Roster::new(replica("a", 500), config.clone());
    let listening = Err(Blocked::Listening { until: at(800) });
    let mut a = boot(&lax);
    assert_eq!(a.take(at(1), at(799)), listening);
    // Nor does it take the whole of a window that starts meanwhile: its former life's peers may share that.
    assert_eq!(a.take(at(601), at(799)), listening);
    assert_eq!(a.take(at(1), at(800)).unwrap().divisor(), 1);
    let mut found_again = boot(&lax);
    assert_eq!(found_again.take(at(1), at(700)), listening);
    found_again.handle_peer(&replica("b", 20), at(700));
    let late = Err(Blocked::BootSkew { after: at(600) });
    assert_eq!(found_again.take(at(1), at(900)), late);
}

#[test]
fn whoever_left_is_counted_in_windows_that_started_by_then_and_not_after() {
    let (ia, ib) = (replica("a", 10), replica("b", 20));
    let (mut a, mut b) = (
        Roster::new(ia.clone(), config(2)),
        Roster::new(ib.clone(), config(2)),
    );
    exchange(&mut a, &mut b, (&ia, &ib), 200);
    b.leave(at(1000));
    assert_eq!(b.take(at(300), at(1000)), Err(Blocked::Leaving));
    a.handle_record(&ib, b.record(), at(1000));
    assert_eq!(a.take(at(1000), at(1000)).unwrap().divisor(), 2);
    assert_eq!(a.take(at(1001), at(1001)).unwrap().divisor(), 1);
}

#[test]
fn a_restart_retires_the_former_generation_and_the_former_stops_itself() {
    let (ia, ib, ib2) = (replica("a", 10), replica("b", 20), replica("b", 1000));
    let mut a = Roster::new(ia.clone(), config(1));
    let mut b = Roster::new(ib.clone(), config(1));
    let mut b2 = Roster::new(ib2.clone(), config(1));
    exchange(&mut a, &mut b, (&ia, &ib), 200);
    exchange(&mut a, &mut b2, (&ia, &ib2), 1000);
    let until = a.members().find(|m| m.replica == ib).unwrap().departed_until;
    assert_eq!(until, Some(at(1000 + SKEW)));
    b.handle_record(&ia, a.record(), at(1000));
    assert_eq!(b.take(at(1000), at(1000)), Err(Blocked::Superseded));
    assert!(b.record().leaving_at.is_some());
    assert_eq!(a.take(at(1101), at(1101)).unwrap().divisor(), 2);
}

#[test]
fn a_dead_member_blocks_joiners_until_it_is_forgotten() {
    let (ia, ib, ic) = (replica("a", 10), replica("b", 20), replica("c", 2000));
    let (mut a, mut b) = (
        Roster::new(ia.clone(), config(2)),
        Roster::new(ib.clone(), config(2)),
    );
    exchange(&mut a, &mut b, (&ia, &ib), 200);
    a.handle_liveness(&ib, false, at(1500));
    let mut c = Roster::new(ic.clone(), config(2));
    exchange(&mut a, &mut c, (&ia, &ic), 2000);
    c.handle_liveness(&ib, false, at(2010));
    let since = Some(at(2010));
    assert_eq!(
        c.take(at(3000), at(3000)),
        Err(Blocked::Missing {
            member: ib.clone(),
            since
        })
    );
    // The record that a holds of b does not list c: a keeps its share, and counts three.
    assert_eq!(a.take(at(3000), at(3000)).unwrap().divisor(), 3);
    assert_eq!(a.forget(&ib.node, at(3000)), vec![ib.clone()]);
    exchange(&mut a, &mut c, (&ia, &ic), 3000);
    assert_eq!(c.take(at(3200), at(3200)).unwrap().divisor(), 2);
    let patient = RosterConfig {
        forget_after: Some(Duration::from_millis(500)),
        ..config(1)
    };
    let mut d = Roster::new(replica("d", 10), patient);
    d.handle_peer(&ib, at(20));
    d.handle_liveness(&ib, false, at(1000));
    d.handle_tick(at(1499));
    assert!(d.take(at(1400), at(1499)).is_err());
    d.handle_tick(at(1500));
    assert_eq!(d.take(at(1601), at(1601)).unwrap().divisor(), 1);
}

#[test]
fn forgetting_a_node_spares_the_process_that_took_its_place() {
    let careful = RosterConfig {
        retire_on_restart: false,
        ..config(1)
    };
    let mut a = Roster::new(replica("a", 10), careful);
    let (former, latter) = (replica("b", 20), replica("b", 900));
    a.handle_peer(&former, at(100));
    a.handle_peer(&latter, at(1000));
    assert_eq!(a.record().members.len(), 3);
    assert_eq!(a.forget(&former.node, at(1000)), [former]);
    assert_eq!(a.forget(&latter.node, at(1000)), [latter]);
    assert_eq!(a.forget(&"a".parse().unwrap(), at(1000)), []);
}

#[test]
fn old_and_repeated_records_change_nothing_and_versions_rise_only_with_change() {
    let (ia, ib) = (replica("a", 10), replica("b", 20));
    let (mut a, mut b) = (
        Roster::new(ia.clone(), config(1)),
        Roster::new(ib.clone(), config(1)),
    );
    let early = b.record().clone();
    exchange(&mut a, &mut b, (&ia, &ib), 200);
    let (held, version) = (a.clone(), a.record().version);
    a.handle_record(&ib, &early, at(200));
    a.handle_record(&ib, &b.record().clone(), at(200));
    assert_eq!(a, held);
    a.handle_peer(&replica("c", 30), at(300));
    assert_eq!(a.record().version, version + 1);
}

#[test]
fn a_roster_of_more_members_than_it_holds_takes_nothing_until_there_is_room() {
    let mut a = Roster::new(replica("a", 10), config(1));
    for n in 1..=RosterRecord::ENTRIES_MAX as u64 {
        a.handle_peer(&replica(&format!("n{n}"), 20), at(200));
    }
    assert_eq!(a.record().members.len(), RosterRecord::ENTRIES_MAX);
    assert_eq!(a.take(at(300), at(300)), Err(Blocked::Full));
    a.forget(&"n1".parse().unwrap(), at(300));
    assert!(matches!(a.take(at(300), at(300)), Err(Blocked::Missing { .. })));
}

#[test]
fn the_departed_are_forgotten_once_no_window_needs_them() {
    let (ia, ib) = (replica("a", 10), replica("b", 20));
    let (mut a, mut b) = (
        Roster::new(ia.clone(), config(1)),
        Roster::new(ib.clone(), config(1)),
    );
    exchange(&mut a, &mut b, (&ia, &ib), 200);
    b.leave(at(1000));
    a.handle_record(&ib, b.record(), at(1000));
    let hour = 60 * 60 * 1000;
    a.retain(&[at(900)], at(1001 + hour));
    assert_eq!(a.members().count(), 2);
    a.retain(&[], at(1001 + hour));
    assert_eq!(a.members().count(), 1);
}
