//! The laws of decisions in bounded mode.

use std::collections::HashMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::tests::{ALICE, NOW, charge, is_admitted, limiter, remaining, row, rule};
use super::*;
use crate::limit::significance::Significance;

/// A share for each limit.
struct ByLimit(HashMap<u64, u64>);

impl Shares for ByLimit {
    fn share(&self, limit: u64, _key: KeyHash, _window: Window) -> u64 {
        self.0.get(&limit).copied().unwrap_or(0)
    }

    fn is_decided(&self, _start: UnixMillis) -> bool {
        true
    }
}

fn bounded<const N: usize>(rules: Vec<Rule>, shares: [(u64, u64); N]) -> Limiter {
    let limiter = limiter(rules, SyncMode::Bounded);
    limiter.counters().set_shares(Box::new(ByLimit(shares.into())));
    limiter
}

fn wanted(decision: &Decision) -> Vec<u64> {
    decision.short.iter().map(|short| short.hits).collect()
}

#[test]
fn without_a_share_nothing_is_admitted_and_rights_are_wanted() {
    let limiter = limiter(vec![rule("a", &["5/minute"])], SyncMode::Bounded);
    let denied = limiter.check(&[charge(0)], NOW);
    assert_eq!(denied.outcome, Outcome::Denied { window: 0 });
    assert_eq!((remaining(&denied), wanted(&denied)), (vec![0], vec![1]));
}

#[test]
fn a_row_admits_what_it_is_allowed_and_names_what_it_lacks_until_the_limit_is_known_to_be_reached() {
    let a = rule("a", &["10/minute"]);
    let limiter = bounded(vec![a.clone()], [(10, 4)]);
    let counters = Arc::clone(limiter.counters());
    let three = Charge {
        hits: Hits::try_new(3).unwrap(),
        ..charge(0)
    };
    assert_eq!(remaining(&limiter.check(&[three], NOW)), [7]);
    let short = limiter.check(&[three], NOW);
    assert_eq!(
        (short.outcome, wanted(&short)),
        (Outcome::Denied { window: 0 }, vec![3])
    );
    let row = row(&limiter, &a, NOW);
    assert_eq!(short.short[0].row, row);
    // Replication is told, gets a grant of two, and the request passes.
    assert!(limiter.want(&short.short));
    assert_eq!(counters.take_wanted(), Some(short.short[0]));
    assert_eq!(counters.take_wanted(), None);
    counters.raise_allowance(row, 6);
    assert_eq!(remaining(&limiter.check(&[three], NOW)), [4]);
    let view = counters.view(row).unwrap();
    assert!(view.bounded && view.replicated);
    assert_eq!((view.own, view.allowance, view.rights()), (6, 6, 0));
    // Peers spent two: a request of two may still find rights elsewhere, and one of three cannot.
    counters.replace_peers(row, 2);
    let two = Charge {
        hits: Hits::try_new(2).unwrap(),
        ..charge(0)
    };
    assert_eq!(wanted(&limiter.check(&[two], NOW)), [2]);
    let denied = limiter.check(&[three], NOW);
    assert_eq!((is_admitted(&denied), wanted(&denied)), (false, vec![]));
}

#[test]
fn rights_that_went_to_and_fro_are_all_spent_though_own_then_passes_the_limit() {
    let a = rule("a", &["5/minute"]);
    let limiter = bounded(vec![a.clone()], [(5, 5)]);
    let row = row(&limiter, &a, NOW);
    for turn in 1..=4 {
        assert_eq!(limiter.counters().take_rights(row, 3), Some(3));
        limiter.counters().raise_allowance(row, 5 + 3 * turn);
    }
    let admitted = (0..10).filter(|_| is_admitted(&limiter.check(&[charge(0)], NOW)));
    assert_eq!(admitted.count(), 5);
    assert_eq!(limiter.counters().view(row).unwrap().own, 17);
}

#[test]
fn once_the_peers_are_known_to_have_spent_the_rest_a_denial_wants_nothing() {
    let a = rule("a", &["9/minute"]);
    let limiter = bounded(vec![a.clone()], [(9, 3)]);
    (0..3).for_each(|_| assert!(is_admitted(&limiter.check(&[charge(0)], NOW))));
    assert_eq!(wanted(&limiter.check(&[charge(0)], NOW)), [1]);
    let row = row(&limiter, &a, NOW);
    // No peer has any: replication fills the window.
    limiter.counters().replace_peers(row, 9);
    let denied = limiter.check(&[charge(0)], NOW);
    assert_eq!((is_admitted(&denied), wanted(&denied)), (false, vec![]));
    // A peer was granted some after all.
    limiter.counters().replace_peers(row, 4);
    assert_eq!(wanted(&limiter.check(&[charge(0)], NOW)), [1]);
}

#[test]
fn rights_that_were_given_away_and_not_spent_are_known_to_be_somewhere() {
    let a = rule("a", &["5/minute"]);
    let limiter = bounded(vec![a.clone()], [(5, 5)]);
    let row = row(&limiter, &a, NOW);
    assert!(is_admitted(&limiter.check(&[charge(0)], NOW)));
    assert_eq!(limiter.counters().take_rights(row, 4), Some(4));
    // The taker has spent one of the four: there are three to be had back.
    limiter.counters().replace_peers_less(row, 1, 4);
    let denied = limiter.check(&[charge(0)], NOW);
    assert_eq!((is_admitted(&denied), wanted(&denied)), (false, vec![1]));
    let view = limiter.counters().view(row).unwrap();
    assert_eq!(
        (view.own, view.peers, view.outstanding, view.total()),
        (5, 0, 3, 2)
    );
    limiter.counters().replace_peers_less(row, 4, 4);
    assert!(wanted(&limiter.check(&[charge(0)], NOW)).is_empty());
    limiter.counters().raise_allowance(row, 6);
    limiter.counters().replace_peers_less(row, 3, 4);
    let last = limiter.check(&[charge(0)], NOW);
    assert_eq!((is_admitted(&last), remaining(&last)), (true, vec![0]));
}

#[test]
fn a_request_counts_in_all_windows_or_spends_rights_in_none() {
    let a = rule("a", &["5/second", "50/minute", "500/hour"]);
    let limiter = bounded(vec![a], [(5, 5), (50, 2), (500, 400)]);
    let rights = || {
        let mut rights = Vec::new();
        limiter
            .counters()
            .for_each_live(|_, view| rights.push(view.rights()));
        rights.sort_unstable();
        rights
    };
    assert_eq!(remaining(&limiter.check(&[charge(0)], NOW)), [4, 49, 499]);
    assert_eq!(remaining(&limiter.check(&[charge(0)], NOW)), [3, 48, 498]);
    for _ in 0..10 {
        let short = limiter.check(&[charge(0)], NOW);
        assert_eq!(short.outcome, Outcome::Denied { window: 1 });
        assert_eq!((remaining(&short), wanted(&short)), (vec![3, 0, 498], vec![1]));
        assert_eq!(rights(), [0, 3, 398]);
    }
    // Two windows lack rights: both are named.
    let four = Charge {
        hits: Hits::try_new(4).unwrap(),
        ..charge(0)
    };
    let second = NOW.plus(std::time::Duration::from_secs(1));
    let of_two = Limiter::check(&limiter, &[four], second);
    assert_eq!((is_admitted(&of_two), wanted(&of_two)), (false, vec![4]));
    // A window that is full makes rights of others useless.
    let full = Charge {
        hits: Hits::try_new(4).unwrap(),
        ..charge(0)
    };
    let denied = limiter.check(&[full], NOW);
    assert_eq!((is_admitted(&denied), wanted(&denied)), (false, vec![]));
    assert_eq!(denied.outcome, Outcome::Denied { window: 1 });
}

#[test]
fn windows_that_lack_rights_are_all_named() {
    let a = rule("a", &["5/second", "50/minute"]);
    let limiter = bounded(vec![a], [(5, 1), (50, 1)]);
    assert!(is_admitted(&limiter.check(&[charge(0)], NOW)));
    let two = Charge {
        hits: Hits::try_new(2).unwrap(),
        ..charge(0)
    };
    let short = limiter.check(&[two], NOW);
    assert_eq!(wanted(&short), [2, 2]);
    assert_ne!(short.short[0].row, short.short[1].row);
}

#[test]
fn near_the_end_of_its_rights_a_row_is_due_and_far_from_it_it_is_not() {
    let limiter = bounded(vec![rule("a", &["1000/minute"])], [(1000, 100)]);
    let due: Vec<Due> = (0..100).map(|_| limiter.check(&[charge(0)], NOW).due).collect();
    assert!(due[..15].iter().all(|due| *due == Due::No), "{due:?}");
    // No response waits for it: no peer counts on these hits.
    assert!(due[20..].iter().all(|due| *due == Due::Wake), "{due:?}");
}

#[test]
fn a_key_without_room_is_denied_or_passes_uncounted_as_configured() {
    for (overflow, passes) in [(Overflow::Deny, false), (Overflow::Allow, true)] {
        let rules = vec![rule("a", &["5/minute"]), rule("b", &["5/minute", "50/hour"])];
        let limiter = Limiter::new(rules, SyncMode::Bounded, Significance::default(), 64);
        limiter
            .counters()
            .set_shares(Box::new(ByLimit([(5, 5), (50, 50)].into())));
        limiter.set_overflow(overflow);
        // Well mixed, as real keys are.
        let client = |n: u128| Charge {
            key: KeyHash((n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)),
            ..charge(0)
        };
        for n in 0..64 {
            assert!(is_admitted(&limiter.check(&[client(n)], NOW)));
        }
        let late = [
            client(64),
            Charge {
                rule: 1,
                ..client(64)
            },
        ];
        for charges in [&late[..1], &late[..]] {
            let decision = limiter.check(charges, NOW);
            assert_eq!((is_admitted(&decision), wanted(&decision)), (passes, vec![]));
            assert!(decision.due == Due::No && !decision.created);
        }
        let stats = limiter.counters().stats();
        assert!(stats.overflowed >= 2 && stats.evicted == 0, "{stats:?}");
        // Who has room is decided as ever, beside those who have none.
        let mixed = limiter.check(&[client(0), client(64)], NOW);
        assert_eq!(
            (is_admitted(&mixed), remaining(&mixed)[0]),
            (passes, if passes { 3 } else { 4 })
        );
    }
}

#[test]
fn a_switch_to_or_from_bounded_waits_for_the_next_window() {
    let (a, b) = (rule("a", &["5/minute", "50/hour"]), rule("b", &["5/minute"]));
    let local = Rule {
        mode: Some(SyncMode::Local),
        ..rule("c", &["7/day"])
    };
    let limiter = limiter(vec![a.clone(), b.clone(), local], SyncMode::Gossip);
    let shares = ByLimit([(5, 2), (50, 0)].into());
    limiter.counters().set_shares(Box::new(shares));
    let minute = std::time::Duration::from_secs(60);
    let [first, second, third] = [0, 1, 2].map(|n| NOW.plus(minute * n));
    let modes = |at| {
        let view = limiter.counters().view(row(&limiter, &b, at)).unwrap();
        (view.bounded, view.allowance)
    };
    assert!(limiter.bounded_periods(first).is_empty());
    assert!(is_admitted(&limiter.check(&[charge(1)], first)));
    limiter.set_mode(SyncMode::Bounded, first);
    assert_eq!(limiter.bounded_periods(first), [Period::Minute, Period::Hour]);
    // The hour that began in gossip mode has no use for rights, nor has the minute in progress.
    let admitted = |rule, at| {
        (0..9)
            .filter(|_| is_admitted(&limiter.check(&[charge(rule)], at)))
            .count()
    };
    assert_eq!((admitted(1, first), modes(first)), (4, (false, 0)));
    assert_eq!(
        (admitted(0, second), admitted(1, second), modes(second)),
        (2, 2, (true, 2))
    );
    limiter.set_mode(SyncMode::Gossip, second);
    assert_eq!((admitted(1, second), modes(second)), (0, (true, 2)));
    assert_eq!((admitted(1, third), modes(third)), (5, (false, 0)));
    assert_eq!(limiter.bounded_periods(second), [Period::Minute]);
    assert!(limiter.bounded_periods(third).is_empty());
    // A limit changes between windows, too.
    limiter.set_mode(SyncMode::Bounded, third);
    let fourth = third.plus(minute);
    limiter.set_rules(vec![a, rule("b", &["50/minute"])], fourth);
    let limit = |at| limiter.check(&[charge(1)], at).windows[0].limit;
    assert_eq!((limit(fourth), limit(fourth.plus(minute))), (5, 50));
}

#[test]
fn a_replica_without_a_share_falls_back_as_configured_until_it_has_one() {
    for (without_share, with_peers, due) in [
        (WithoutShare::Deny, 0, Due::No),
        (WithoutShare::Gossip, 2, Due::Await),
        (WithoutShare::Local, 5, Due::No),
    ] {
        let a = rule("a", &["5/minute"]);
        let wide = rule("b", &["5/minute", "50/hour"]);
        let limiter = limiter(vec![a.clone(), wide], SyncMode::Bounded);
        limiter.set_without_share(without_share);
        let row = row(&limiter, &a, NOW);
        limiter.counters().replace_peers(row, 3);
        let decisions: Vec<_> = (0..9).map(|_| limiter.check(&[charge(0)], NOW)).collect();
        let admitted = decisions.iter().filter(|decision| is_admitted(decision));
        assert_eq!(admitted.count(), with_peers, "{without_share:?}");
        let denies = without_share == WithoutShare::Deny;
        assert_eq!(decisions[8].without_share, denies, "{without_share:?}");
        assert_eq!(
            (decisions[0].due, wanted(&decisions[8]).is_empty()),
            (due, !denies)
        );
        // What was counted is told to the peers in any case.
        assert_eq!(limiter.counters().take_changed().is_some(), !denies);
        // Several windows: rights are spent where there are some, and nothing is kept of a denial.
        let hour = wide_row(&limiter);
        limiter.counters().raise_allowance(hour, 3);
        let both: Vec<_> = (0..9).map(|_| limiter.check(&[charge(1)], NOW)).collect();
        let admitted = both.iter().filter(|decision| is_admitted(decision)).count() as u64;
        assert_eq!(admitted, if denies { 0 } else { 5 });
        assert_eq!(limiter.counters().view(hour).unwrap().own, admitted);
        // Its share decided, rights are all that counts.
        limiter.counters().set_shares(Box::new(ByLimit([(5, 1)].into())));
        let next = NOW.plus(std::time::Duration::from_secs(60));
        let admitted = (0..9).filter(|_| is_admitted(&limiter.check(&[charge(0)], next)));
        assert_eq!(admitted.count(), 1);
        assert!(!limiter.check(&[charge(0)], next).without_share);
    }
}

/// Alice's row in the hour of rule b.
fn wide_row(limiter: &Limiter) -> RowRef {
    let key = RowKey {
        rule: limiter.rules()[1].id(Period::Hour),
        window: Period::Hour.window_at(NOW),
        key: ALICE,
    };
    limiter.counters().find_or_insert(&key, key.window.start).unwrap()
}

#[test]
fn a_share_that_is_decided_wakes_those_who_wait_for_it() {
    let a = rule("a", &["5/minute"]);
    let limiter = limiter(vec![a.clone()], SyncMode::Bounded);
    let denied = limiter.check(&[charge(0)], NOW);
    let mut waiting = limiter.waiting().enter(&denied.short).unwrap();
    limiter.counters().set_shares(Box::new(ByLimit([(5, 2)].into())));
    let start = denied.windows[0].window.start;
    limiter
        .counters()
        .reassess(start, |_, view| view.limit.unwrap() / 2);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let woken = std::pin::Pin::new(&mut waiting).poll(&mut context);
    assert_eq!(woken, std::task::Poll::Ready(Woken::Retry));
    assert!(is_admitted(&limiter.check(&[charge(0)], NOW)));
}

/// What happens to one of three nodes that share a limit.
#[derive(Clone, Debug)]
enum Op {
    Ask { node: usize, hits: u32 },
    Give { from: usize, to: usize, want: u64 },
    Hear { node: usize },
    HearOld { node: usize },
}

fn op() -> impl Strategy<Value = Op> {
    let node = 0usize..3;
    prop_oneof![
        4 => (node.clone(), 1u32..4).prop_map(|(node, hits)| Op::Ask { node, hits }),
        2 => (node.clone(), node.clone(), 1u64..9).prop_map(|(from, to, want)| Op::Give { from, to, want }),
        2 => node.clone().prop_map(|node| Op::Hear { node }),
        1 => node.prop_map(|node| Op::HearOld { node }),
    ]
}

proptest! {
    /// Grants that are late, lost or repeated never let the cluster pass its limit, and no share is needed
    /// to spend what others granted.
    #[test]
    fn three_nodes_never_admit_more_than_the_limit(
        shares in (0u64..8, 0u64..8, 0u64..8),
        ops in proptest::collection::vec(op(), 1..200),
    ) {
        const LIMIT: u64 = 24;
        let shares = [shares.0, shares.1, shares.2];
        let a = rule("a", &["24/minute"]);
        let nodes = shares.map(|share| bounded(vec![a.clone()], [(LIMIT, share)]));
        let rows = nodes.each_ref().map(|node| row(node, &a, NOW));
        let (mut granted, mut heard, mut admitted) = ([0; 3], [0; 3], 0);
        for op in ops {
            match op {
                Op::Ask { node, hits } => {
                    let ask = Charge { hits: Hits::try_new(hits).unwrap(), key: ALICE, ..charge(0) };
                    let decision = nodes[node].check(&[ask], NOW);
                    let left = shares[node] + heard[node];
                    if is_admitted(&decision) {
                        admitted += u64::from(hits);
                    } else {
                        let own = nodes[node].counters().view(rows[node]).unwrap().own;
                        prop_assert!(own + u64::from(hits) > left, "denied with rights left");
                    }
                }
                Op::Give { from, to, want } if from != to => {
                    granted[to] += nodes[from].counters().take_rights(rows[from], want).unwrap();
                }
                Op::Give { .. } => {}
                Op::Hear { node } => {
                    heard[node] = granted[node];
                    nodes[node].counters().raise_allowance(rows[node], shares[node] + heard[node]);
                }
                Op::HearOld { node } => {
                    nodes[node].counters().raise_allowance(rows[node], shares[node] + heard[node] / 2);
                }
            }
            prop_assert!(admitted <= shares.iter().sum::<u64>(), "{} admitted", admitted);
        }
    }
}
