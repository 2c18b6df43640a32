//! The laws of the decision, and its headers, against what Kong documents.

use std::sync::Barrier;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::time::Duration;

use http::HeaderMap;
use proptest::prelude::*;
use smallvec::SmallVec;

use super::significance::Significance;
use super::*;

pub(super) const NOW: UnixMillis = UnixMillis(1_700_000_012_345);
pub(super) const ALICE: KeyHash = KeyHash(0x1234_5678_9abc_def0_0fed_cba9_8765_4321);

pub(super) fn rule(name: &str, windows: &[&str]) -> Rule {
    Rule::new(name, windows.iter().map(|text| text.parse().unwrap()))
}

pub(super) fn limiter(rules: Vec<Rule>, mode: SyncMode) -> Limiter {
    Limiter::new(rules, mode, Significance::default(), 1_000)
}

pub(super) fn charge(rule: usize) -> Charge {
    Charge {
        rule,
        key: ALICE,
        hits: Hits::ONE,
    }
}

pub(super) fn is_admitted(decision: &Decision) -> bool {
    decision.outcome == Outcome::Admitted
}

pub(super) fn remaining(decision: &Decision) -> Vec<u64> {
    decision.windows.iter().map(|window| window.remaining).collect()
}

pub(super) fn row(limiter: &Limiter, rule: &Rule, at: UnixMillis) -> RowRef {
    let period = rule.windows[0].period;
    let key = RowKey {
        rule: rule.id(period),
        window: period.window_at(at),
        key: ALICE,
    };
    limiter.counters().find_or_insert(&key, key.window.start).unwrap()
}

#[test]
fn five_pass_and_the_sixth_does_not_until_the_next_window() {
    let limiter = limiter(vec![rule("a", &["5/minute"])], SyncMode::Gossip);
    for left in (0..5).rev() {
        let decision = limiter.check(&[charge(0)], NOW);
        assert_eq!((is_admitted(&decision), remaining(&decision)), (true, vec![left]));
        assert_eq!(decision.created, left == 4);
    }
    let denied = limiter.check(&[charge(0)], NOW);
    assert_eq!(
        (denied.outcome, remaining(&denied)),
        (Outcome::Denied { window: 0 }, vec![0])
    );
    let window = denied.windows[0].window;
    assert_eq!(
        denied.windows[0].reset_seconds,
        window.end.since(NOW).as_millis().div_ceil(1000) as u64
    );
    let last = UnixMillis(window.end.0 - 1);
    assert_eq!(limiter.check(&[charge(0)], last).windows[0].reset_seconds, 1);
    assert!(!is_admitted(&limiter.check(&[charge(0)], last)));
    assert!(is_admitted(&limiter.check(&[charge(0)], window.end)));
    // A clock that is a little behind still finds the former window full.
    assert!(!is_admitted(&limiter.check(&[charge(0)], last)));
}

#[test]
fn a_denied_request_counts_in_no_window_and_shows_what_is_unconsumed_elsewhere() {
    let limiter = limiter(
        vec![rule("a", &["2/second", "100/minute"]), rule("b", &["50/hour"])],
        SyncMode::Gossip,
    );
    let both = [charge(0), charge(1)];
    assert_eq!(remaining(&limiter.check(&both, NOW)), [1, 99, 49]);
    assert_eq!(remaining(&limiter.check(&both, NOW)), [0, 98, 48]);
    for _ in 0..10 {
        let denied = limiter.check(&both, NOW);
        assert_eq!(denied.outcome, Outcome::Denied { window: 0 });
        assert_eq!(remaining(&denied), [0, 98, 48]);
        assert_eq!(denied.due, Due::No);
    }
    let next = NOW.plus(Duration::from_secs(1));
    assert_eq!(remaining(&limiter.check(&both, next)), [1, 97, 47]);
}

#[test]
fn of_several_windows_that_stop_a_request_the_one_that_resets_last_is_named() {
    let limiter = limiter(
        vec![rule("a", &["1/second", "1/hour", "5/day"])],
        SyncMode::Gossip,
    );
    assert!(is_admitted(&limiter.check(&[charge(0)], NOW)));
    let denied = limiter.check(&[charge(0)], NOW);
    assert_eq!(
        (denied.outcome, remaining(&denied)),
        (Outcome::Denied { window: 1 }, vec![0, 0, 4])
    );
}

#[test]
fn a_request_without_rules_or_with_a_removed_one_passes_and_shows_nothing() {
    let limiter = limiter(vec![], SyncMode::Gossip);
    for charges in [&[][..], &[charge(0)], &[charge(3), charge(4)]] {
        let decision = limiter.check(charges, NOW);
        assert!(is_admitted(&decision) && decision.windows.is_empty());
    }
}

#[test]
fn peers_hits_count_in_gossip_mode_only_and_are_remembered_in_local_mode() {
    let a = rule("a", &["5/minute"]);
    let limiter = limiter(vec![a.clone()], SyncMode::Local);
    limiter.counters().store_peers(row(&limiter, &a, NOW), 4);
    assert_eq!(remaining(&limiter.check(&[charge(0)], NOW)), [4]);
    limiter.set_mode(SyncMode::Gossip, NOW);
    assert_eq!(limiter.mode(), SyncMode::Gossip);
    assert_eq!(remaining(&limiter.check(&[charge(0)], NOW)), [0]);
    assert!(!is_admitted(&limiter.check(&[charge(0)], NOW)));
    limiter.set_mode(SyncMode::Local, NOW);
    assert_eq!(remaining(&limiter.check(&[charge(0)], NOW)), [3]);
}

#[test]
fn local_rows_wait_for_no_replication_until_gossip_comes_on() {
    let overridden = Rule {
        mode: Some(SyncMode::Local),
        ..rule("b", &["5/minute"])
    };
    let limiter = limiter(vec![rule("a", &["5/minute"]), overridden], SyncMode::Local);
    assert_eq!(limiter.check(&[charge(0), charge(1)], NOW).due, Due::No);
    assert_eq!(limiter.counters().take_changed(), None);
    limiter.set_mode(SyncMode::Gossip, NOW);
    let views = std::iter::from_fn(|| limiter.counters().take_changed())
        .map(|row| limiter.counters().view(row).unwrap());
    let mut replicated: Vec<_> = views.map(|view| (view.own, view.replicated)).collect();
    replicated.sort_unstable();
    assert_eq!(replicated, [(1, false), (1, true)]);
    assert_eq!(limiter.check(&[charge(0)], NOW).due, Due::Await);
    assert!(limiter.counters().take_changed().is_some());
    assert_eq!(limiter.counters().take_changed(), None);
}

#[test]
fn a_change_is_due_near_the_limit_and_not_far_from_it_or_once_published() {
    let a = rule("a", &["1000/minute"]);
    let limiter = limiter(vec![a.clone()], SyncMode::Gossip);
    limiter.set_replicas(2);
    let row = row(&limiter, &a, NOW);
    let due: Vec<u64> = (1..=1000)
        .filter(|_| {
            let due = limiter.check(&[charge(0)], NOW).due.is_due();
            if due {
                limiter
                    .counters()
                    .store_published(row, limiter.counters().view(row).unwrap().own);
            }
            due
        })
        .collect();
    // With 1,000 - n left and two replicas, ⌊(1,000 - n) / 10⌋ unsent hits are due, and at least one.
    let mut published = 0;
    let expected = (1..=1000u64).filter(|n| {
        let due = n - published >= ((1000 - n) / 10).max(1);
        if due {
            published = *n;
        }
        due
    });
    assert_eq!(due, expected.collect::<Vec<_>>());
    assert!(
        due.len() < 100,
        "far from the limit few changes are due: {}",
        due.len()
    );
}

#[test]
fn a_changed_limit_applies_at_once_and_keeps_the_count() {
    let limiter = limiter(vec![rule("a", &["5/minute"])], SyncMode::Gossip);
    (0..3).for_each(|_| assert!(is_admitted(&limiter.check(&[charge(0)], NOW))));
    limiter.set_rules(vec![rule("new", &["9/minute"]), rule("a", &["3/minute"])], NOW);
    assert!(!is_admitted(&limiter.check(&[charge(0)], NOW)));
    limiter.set_rules(vec![rule("a", &["7/minute"])], NOW);
    assert_eq!(remaining(&limiter.check(&[charge(0)], NOW)), [3]);
}

#[test]
fn a_charge_that_was_worked_out_by_the_former_rules_counts_for_no_other_rule() {
    let limiter = limiter(
        vec![rule("a", &["5/minute"]), rule("b", &["5/minute"])],
        SyncMode::Local,
    );
    let places = |limiter: &Limiter| -> Vec<(usize, String)> {
        let rules = limiter.rules();
        rules
            .iter()
            .map(|(place, rule)| (place, rule.name.clone()))
            .collect()
    };
    limiter.set_rules(vec![rule("c", &["1/minute"]), rule("b", &["2/minute"])], NOW);
    assert_eq!(places(&limiter), [(1, "b".to_owned()), (2, "c".to_owned())]);
    // Who was about to charge a is not limited by what came in its stead, and b is still b.
    for _ in 0..9 {
        let decision = limiter.check(&[charge(0)], NOW);
        assert!(is_admitted(&decision) && decision.windows.is_empty());
    }
    assert_eq!(remaining(&limiter.check(&[charge(1)], NOW)), [1]);
    // Places are used again, by the next change at the earliest.
    for name in (0..100).map(|number| number.to_string()) {
        limiter.set_rules(vec![rule(&name, &["1/minute"]), rule("b", &["2/minute"])], NOW);
        assert!(
            places(&limiter).iter().all(|(place, _)| *place < 4),
            "{:?}",
            places(&limiter)
        );
    }
    // Counted by something else, a rule of the same name is another.
    let by_path = Rule {
        count_by: CountBy::Path,
        ..rule("b", &["2/minute"])
    };
    limiter.set_rules(vec![by_path], NOW);
    assert!(places(&limiter)[0].0 != 1);
}

#[test]
fn hits_weigh_and_those_that_do_not_fit_leave_room_for_those_that_do() {
    let limiter = limiter(vec![rule("a", &["10/minute"])], SyncMode::Local);
    let weighing = |hits| Charge {
        hits: Hits::try_new(hits).unwrap(),
        ..charge(0)
    };
    assert_eq!(remaining(&limiter.check(&[weighing(7)], NOW)), [3]);
    assert!(!is_admitted(&limiter.check(&[weighing(4)], NOW)));
    assert_eq!(remaining(&limiter.check(&[weighing(3)], NOW)), [0]);
    assert!(!is_admitted(&limiter.check(&[weighing(4096)], NOW)));
}

/// Eight threads that check until they have been denied a few times: what was admitted.
fn admitted_by_eight_threads(limiter: &Limiter, charges: &[Charge]) -> u64 {
    let admitted = AtomicU64::new(0);
    let start = Barrier::new(8);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                start.wait();
                let mut denials = 0;
                while denials < 50 {
                    match limiter.check(charges, NOW).outcome {
                        Outcome::Admitted => _ = admitted.fetch_add(1, SeqCst),
                        Outcome::Denied { .. } => denials += 1,
                    }
                }
            });
        }
    });
    admitted.into_inner()
}

#[test]
fn eight_threads_admit_exactly_the_limit_of_one_window() {
    for limit in [1, 7, 500, 20_000] {
        let limiter = limiter(vec![rule("a", &[&format!("{limit}/minute")])], SyncMode::Local);
        assert_eq!(admitted_by_eight_threads(&limiter, &[charge(0)]), limit);
    }
}

#[test]
fn eight_threads_admit_exactly_the_least_of_three_windows_and_count_it_in_all() {
    for limit in [1, 7, 5_000] {
        let windows = [
            format!("{}/minute", limit + 3),
            format!("{limit}/hour"),
            format!("{}/day", limit + 1),
        ];
        let windows = windows.iter().map(String::as_str).collect::<Vec<_>>();
        let rules = vec![rule("a", &windows), rule("b", &["100000/day"])];
        let limiter = limiter(rules, SyncMode::Gossip);
        let charges = [charge(0), charge(1)];
        assert_eq!(admitted_by_eight_threads(&limiter, &charges), limit);
        let denied = limiter.check(&charges, NOW);
        assert_eq!(remaining(&denied), [3, 0, 1, 100_000 - limit]);
        limiter
            .counters()
            .for_each_live(|_, view| assert_eq!(view.own, limit));
    }
}

fn headers_of(limiter: &Limiter, decision: &Decision) -> Vec<String> {
    let mut headers = HeaderMap::new();
    headers::apply(decision, &limiter.header_names(), &mut headers);
    let mut lines: Vec<_> = headers
        .iter()
        .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
        .collect();
    lines.sort_unstable();
    lines
}

#[test]
fn headers_are_kongs_on_admission_and_on_denial() {
    let limiter = limiter(vec![rule("a", &["5/minute", "6/hour"])], SyncMode::Gossip);
    let reset = |decision: &Decision, at: usize| decision.windows[at].reset_seconds;
    let decision = limiter.check(&[charge(0)], NOW);
    let expected = [
        "ratelimit-limit: 5".to_owned(),
        "ratelimit-remaining: 4".to_owned(),
        format!("ratelimit-reset: {}", reset(&decision, 0)),
        "x-ratelimit-limit-hour: 6".to_owned(),
        "x-ratelimit-limit-minute: 5".to_owned(),
        "x-ratelimit-remaining-hour: 5".to_owned(),
        "x-ratelimit-remaining-minute: 4".to_owned(),
    ];
    assert_eq!(headers_of(&limiter, &decision), expected);
    (0..4).for_each(|_| assert!(is_admitted(&limiter.check(&[charge(0)], NOW))));
    let denied = limiter.check(&[charge(0)], NOW);
    let expected = [
        "ratelimit-limit: 5".to_owned(),
        "ratelimit-remaining: 0".to_owned(),
        format!("ratelimit-reset: {}", reset(&denied, 0)),
        format!("retry-after: {}", reset(&denied, 0)),
        "x-ratelimit-limit-hour: 6".to_owned(),
        "x-ratelimit-limit-minute: 5".to_owned(),
        "x-ratelimit-remaining-hour: 1".to_owned(),
        "x-ratelimit-remaining-minute: 0".to_owned(),
    ];
    assert_eq!(headers_of(&limiter, &denied), expected);
}

#[test]
fn the_generic_headers_of_equally_tight_windows_are_of_the_longer_and_lengths_name_themselves() {
    let limiter = limiter(
        vec![rule("a", &["5/10s", "5/month"]), rule("b", &["3/10s", "9/1m30s"])],
        SyncMode::Gossip,
    );
    let decision = limiter.check(&[charge(0), charge(1)], NOW);
    let lines = headers_of(&limiter, &decision);
    // Two rules of ten seconds: the tighter one shows.
    for line in [
        "x-ratelimit-limit-10s: 3",
        "x-ratelimit-remaining-10s: 2",
        "x-ratelimit-limit-1m30s: 9",
        "ratelimit-limit: 3",
    ] {
        assert!(lines.iter().any(|l| l == line), "no `{line}` in {lines:?}");
    }
    let decision = limiter.check(&[charge(0)], NOW);
    let lines = headers_of(&limiter, &decision);
    assert!(
        lines.contains(&format!("ratelimit-reset: {}", decision.windows[1].reset_seconds)),
        "{lines:?}"
    );
}

proptest! {
    #[test]
    fn due_without_division_is_the_documented_threshold(
        unsent in 0u64..1 << 41, remaining in 0u64..1 << 41, replicas in 0u32.., alpha in 1u32..1000,
    ) {
        let significance = Significance { alpha_permille: alpha, epsilon_permille: 0 };
        let threshold = u128::from(remaining) * u128::from(alpha) / (1000 * u128::from(replicas.max(1)));
        for unsent in [unsent, u64::try_from(threshold).unwrap(), threshold.saturating_sub(1) as u64] {
            let documented = u128::from(unsent) >= threshold.max(1);
            prop_assert_eq!(significance.is_due(unsent, remaining, replicas), documented);
        }
    }

    /// Decisions over any mix of windows against a count kept beside them.
    #[test]
    fn every_decision_is_that_of_plain_counting(
        limits in proptest::collection::vec(1u64..12, 1..5),
        requests in proptest::collection::vec((0u64..3, 1u32..4, 0u64..1500), 1..120),
    ) {
        let periods = ["second", "minute", "10s", "day"];
        let texts: Vec<String> = limits.iter().zip(periods).map(|(limit, period)| format!("{limit}/{period}")).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let rule = rule("a", &texts);
        let limiter = limiter(vec![rule.clone()], SyncMode::Gossip);
        let mut counted = std::collections::HashMap::new();
        let mut now = NOW;
        for (who, hits, passed) in requests {
            now = now.plus(Duration::from_millis(passed));
            let charge = Charge { rule: 0, key: KeyHash(u128::from(who) << 40), hits: Hits::try_new(hits).unwrap() };
            let hits = u64::from(hits);
            let at: SmallVec<[_; 4]> = rule.windows.iter().map(|w| (who, w.period, w.period.window_at(now))).collect();
            let used = |at| counted.get(at).copied().unwrap_or(0);
            let fits = at.iter().zip(&limits).all(|(at, limit)| used(at) + hits <= *limit);
            let expected: Vec<u64> = at.iter().zip(&limits).map(|(at, limit)| match (fits, used(at) + hits <= *limit) {
                (true, _) => limit - used(at) - hits,
                (false, true) => limit - used(at),
                (false, false) => 0,
            }).collect();
            if fits {
                at.iter().for_each(|at| *counted.entry(*at).or_insert(0) += hits);
            }
            // A look says the same, and counts nothing.
            let look = limiter.peek(&[charge], now);
            let decision = limiter.check(&[charge], now);
            prop_assert_eq!(look.outcome, decision.outcome);
            let unused: Vec<u64> = expected.iter().map(|left| left + if fits { hits } else { 0 }).collect();
            prop_assert_eq!(remaining(&look), unused);
            prop_assert_eq!(is_admitted(&decision), fits);
            prop_assert_eq!(remaining(&decision), expected);
        }
    }
}
