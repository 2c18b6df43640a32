use std::time::Duration;

use super::rights::{EMPTY_RETRY, RETRY_MAX, RETRY_MIN};
use super::*;

/// An account of a fixed allowance.
struct Purse {
    allowance: u64,
    consumed: u64,
}

impl Account for Purse {
    fn left(&self) -> u64 {
        self.allowance - self.consumed
    }
    fn deduct(&mut self, hits: u64) -> u64 {
        let hits = hits.min(self.left());
        self.consumed += hits;
        hits
    }
}

fn purse(allowance: u64) -> Purse {
    Purse {
        allowance,
        consumed: 0,
    }
}

fn ask(held: u64, target: u64, need: u64) -> Ask {
    Ask { held, target, need }
}

const NOW: Duration = Duration::from_millis(1);

#[test]
fn a_giver_grants_half_and_at_least_the_need_if_it_is_there() {
    for (left, need, given) in [
        (9, 0, 4),
        (9, 1, 5),
        (9, 5, 5),
        (9, 7, 7),
        (9, 9, 9),
        (9, 20, 9),
        (1, 0, 0),
        (1, 1, 1),
        (0, 3, 0),
    ] {
        let (mut rights, mut account) = (Rights::<u8>::new(), purse(left));
        let answer = rights.handle_ask(1, ask(0, 100, need), true, &mut account);
        assert_eq!(
            answer,
            Answer {
                granted: given,
                empty: given == left
            },
            "left {left}, need {need}"
        );
        assert_eq!((account.consumed, rights.admitted(account.consumed)), (given, 0));
    }
    let mut account = purse(9);
    assert_eq!(
        Rights::<u8>::new()
            .handle_ask(1, ask(0, 2, 0), true, &mut account)
            .granted,
        2
    );
}

#[test]
fn a_repeated_or_replayed_ask_moves_nothing_twice() {
    let (mut rights, mut account) = (Rights::<u8>::new(), purse(8));
    assert_eq!(rights.handle_ask(1, ask(0, 8, 0), true, &mut account).granted, 4);
    assert_eq!(rights.handle_ask(1, ask(0, 8, 0), true, &mut account).granted, 4);
    assert_eq!(rights.handle_ask(1, ask(4, 12, 0), true, &mut account).granted, 6);
    assert_eq!(rights.handle_ask(1, ask(0, 8, 8), true, &mut account).granted, 6);
    // One who claims to hold what was never granted gets nothing.
    assert_eq!(
        rights.handle_ask(1, ask(7, 100, 9), true, &mut account).granted,
        6
    );
    assert_eq!(account.consumed, 6);
}

#[test]
fn of_two_that_lack_rights_the_lower_yields_all_and_the_higher_nothing() {
    let mut giver = Rights::<u8>::new();
    giver.set_largest_waiter(5);
    let mut account = purse(3);
    let refused = giver.handle_ask(1, ask(0, 9, 1), false, &mut account);
    assert_eq!(
        refused,
        Answer {
            granted: 0,
            empty: false
        }
    );
    assert_eq!(giver.handle_ask(1, ask(0, 9, 0), true, &mut account).granted, 0);
    assert_eq!(giver.handle_ask(1, ask(0, 9, 1), true, &mut account).granted, 3);
    // With enough for its own waiter it is no rival, whoever goes first.
    let mut account = purse(6);
    assert_eq!(giver.handle_ask(2, ask(0, 9, 1), false, &mut account).granted, 3);
}

/// Serves the waiter of `hits` if the account can.
fn serve(rights: &mut Rights<u8>, account: &mut Purse, hits: u64) -> bool {
    let served = account.left() >= hits;
    if served {
        account.deduct(hits);
        rights.set_largest_waiter(0);
    }
    served
}

#[test]
fn of_two_needs_that_only_one_can_have_one_is_served_and_the_other_denied_for_certain() {
    for (left_a, left_b) in (0..=5).map(|left| (left, 5 - left)) {
        let (mut a, mut b) = (Rights::<u8>::new(), Rights::<u8>::new());
        let (mut pa, mut pb) = (purse(left_a), purse(left_b));
        a.set_largest_waiter(4);
        b.set_largest_waiter(4);
        let mut served = [false; 2];
        for round in 1..=3 {
            // Both ask before either hears an answer, which is when halves would go back and forth.
            served[0] |= !served[0] && serve(&mut a, &mut pa, 4);
            served[1] |= !served[1] && serve(&mut b, &mut pb, 4);
            let of_a = a.poll_asks(NOW * (round * 100), pa.left(), (0, 1), [(1, 5)]);
            let of_b = b.poll_asks(NOW * (round * 100), pb.left(), (0, 1), [(0, 5)]);
            let to_a = of_a
                .iter()
                .map(|(_, ask)| b.handle_ask(0, *ask, true, &mut pb))
                .collect::<Vec<_>>();
            let to_b = of_b
                .iter()
                .map(|(_, ask)| a.handle_ask(1, *ask, false, &mut pa))
                .collect::<Vec<_>>();
            pa.allowance += to_a
                .iter()
                .map(|answer| a.handle_answer(1, *answer, NOW))
                .sum::<u64>();
            pb.allowance += to_b
                .iter()
                .map(|answer| b.handle_answer(0, *answer, NOW))
                .sum::<u64>();
        }
        let denied = [a.is_exhausted([1]), b.is_exhausted([0])];
        assert!(served[0] != served[1], "{left_a} and {left_b}: {served:?}");
        assert_eq!(
            [served[0] || denied[0], served[1] || denied[1]],
            [true; 2],
            "{left_a} and {left_b}"
        );
    }
}

#[test]
fn grants_merge_by_maximum() {
    let mut rights = Rights::<u8>::new();
    assert_eq!(
        [(1, 5), (1, 3), (1, 5), (2, 4), (1, 6)].map(|(g, sum)| rights.handle_grant(g, sum)),
        [5, 0, 0, 4, 1]
    );
    assert_eq!(rights.allowance(10), 20);
}

#[test]
fn the_richest_are_asked_three_at_a_time_and_again_only_after_a_pause() {
    let mut rights = Rights::<u8>::new();
    let peers = [(1, 5), (2, 9), (3, 0), (4, 7), (5, 6)];
    assert!(rights.poll_asks(NOW, 1, (1, 4), peers).is_empty());
    let asks = rights.poll_asks(NOW, 0, (1, 4), peers);
    assert_eq!(asks.as_slice(), [2, 4, 5].map(|peer| (peer, ask(0, 4, 0))));
    assert!(rights.poll_asks(NOW, 0, (1, 4), peers).is_empty());
    // An answer makes room for the next, and who is empty is not asked again.
    rights.handle_answer(
        4,
        Answer {
            granted: 0,
            empty: true,
        },
        NOW,
    );
    assert_eq!(
        rights.poll_asks(NOW, 0, (1, 4), peers).as_slice(),
        [(1, ask(0, 4, 0))]
    );
    let retry = rights.poll_timeout(NOW).unwrap();
    assert_eq!(retry, NOW + RETRY_MIN);
    assert_eq!(
        rights.poll_asks(retry, 0, (1, 4), peers).as_slice(),
        [2, 5, 1].map(|peer| (peer, ask(0, 4, 0)))
    );
    assert_eq!(rights.poll_timeout(retry).unwrap(), retry + RETRY_MIN * 2);
}

#[test]
fn a_denial_is_certain_once_all_live_peers_are_empty_and_until_something_is_heard() {
    let mut rights = Rights::<u8>::new();
    rights.set_largest_waiter(1);
    assert!(rights.is_exhausted([]));
    let asks = rights.poll_asks(NOW, 0, (1, 1), [(1, 0), (2, 0)]);
    assert_eq!(
        asks.len(),
        2,
        "who waits asks even those believed to have nothing"
    );
    rights.handle_answer(
        1,
        Answer {
            granted: 0,
            empty: true,
        },
        NOW,
    );
    assert!(!rights.is_exhausted([1, 2]));
    assert!(rights.is_exhausted([1]));
    rights.handle_answer(
        2,
        Answer {
            granted: 0,
            empty: true,
        },
        NOW,
    );
    assert!(rights.is_exhausted([1, 2]));
    assert!(
        rights
            .poll_asks(NOW * 500, 0, (1, 1), [(1, 0), (2, 0)])
            .is_empty()
    );
    // They may have gained since, and what said so may have got lost.
    assert_eq!(rights.poll_timeout(NOW), Some(NOW + EMPTY_RETRY));
    for (at, asked) in [(NOW + EMPTY_RETRY, 2), (NOW + EMPTY_RETRY + RETRY_MAX, 0)] {
        let again = rights.poll_asks(at, 0, (1, 1), [(1, 0), (2, 0)]);
        assert_eq!((again.len(), rights.is_exhausted([1, 2])), (asked, true));
    }
    rights.handle_gain_of(2);
    assert!(!rights.is_exhausted([1, 2]));
    assert_eq!(rights.handle_grant(1, 1), 1);
    assert!(!rights.is_exhausted([1]));
}

#[test]
fn the_low_water_mark_is_an_eighth_of_the_share_and_at_least_one() {
    assert_eq!(
        [0, 1, 15, 16, 800].map(Rights::<u8>::low_water),
        [1, 1, 1, 2, 100]
    );
}
