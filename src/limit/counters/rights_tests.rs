//! The laws of rights: never spent twice, never lost to a race, never given to a row that had them before.

use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Barrier};
use std::thread;

use super::tests::{NOW, Table, key, row_key, schedules, together, window};
use super::*;
use crate::limit::key::KeyHash;
use crate::limit::shares::Shares;

const LIMIT: u64 = 10_000;

/// One share for every key, which a test raises.
#[derive(Clone, Default)]
struct Same(Arc<AtomicU64>);

impl Shares for Same {
    fn share(&self, _limit: u64, _key: KeyHash, _window: Window) -> u64 {
        self.0.load(SeqCst)
    }

    fn is_decided(&self, _start: UnixMillis) -> bool {
        self.0.load(SeqCst) > 0
    }
}

fn bounded(rows: u32, share: u64) -> (Table, Same) {
    let table = Table::new(rows);
    table.counters.set_schedules(schedules(LIMIT, SyncMode::Bounded));
    let shares = Same(Arc::new(AtomicU64::new(share)));
    table.counters.set_shares(Box::new(shares.clone()));
    (table, shares)
}

fn ask(table: &Table, n: u64, hits: u32) -> Ask {
    Ask {
        fingerprint: table.group.fingerprint(key(n)),
        hits: Hits::try_new(hits).unwrap(),
        limit: LIMIT,
        mode: SyncMode::Bounded,
    }
}

fn offer(table: &Table, n: u64, hits: u32) -> Offer {
    let ask = ask(table, n, hits);
    let offered = table.counters.offer(&table.group, &ask, Taking::Count, NOW);
    offered.map_or(Offer::Gone, |(_, offer)| offer)
}

fn admits(table: &Table, n: u64, hits: u32) -> bool {
    matches!(offer(table, n, hits), Offer::Taken(_))
}

/// Spends all that is left of row `n`, and answers how much that was.
fn drain(table: &Table, n: u64) -> u64 {
    std::iter::repeat_with(|| admits(table, n, 1))
        .take_while(|taken| *taken)
        .count() as u64
}

/// What threads did, counted apart from the table. Raised before rights are, and added to after they went.
#[derive(Default)]
struct Ledger {
    allowed: AtomicU64,
    spent: AtomicU64,
    given: AtomicU64,
    done: AtomicBool,
}

impl Ledger {
    fn holds(&self) -> bool {
        let consumed = self.spent.load(SeqCst) + self.given.load(SeqCst);
        consumed <= self.allowed.load(SeqCst)
    }
}

/// A decision over several windows, of which another one stops every third.
fn reserve(table: &Table, ledger: &Ledger, step: u64) {
    let ask = ask(table, 1, 2);
    if let Ok((row, Offer::Taken(_))) = table.counters.offer(&table.group, &ask, Taking::Reserve, NOW) {
        if step.is_multiple_of(3) {
            table.counters.release(row.slot, ask.hits);
        } else {
            table.counters.commit(row.slot, ask.hits);
            ledger.spent.fetch_add(2, SeqCst);
        }
    }
}

#[test]
fn however_threads_spend_give_and_receive_no_more_is_consumed_than_was_allowed() {
    const RAISED_TO: u64 = 9_000;
    // Neither spenders nor givers take more than about this, so that it does not matter who runs first.
    const EACH: u64 = RAISED_TO / 3;
    let (table, _) = bounded(64, 0);
    let row = table.counters.find_or_insert(&row_key(1), NOW).unwrap();
    let ledger = Ledger::default();
    together(|at| {
        let mut step = 0;
        loop {
            let last = ledger.done.load(SeqCst);
            step += 1;
            let spends = ledger.spent.load(SeqCst) < EACH;
            let gives = ledger.given.load(SeqCst) < EACH;
            match at {
                0 if !last => {
                    let allowed = ledger.allowed.load(SeqCst) + 3;
                    ledger.allowed.store(allowed, SeqCst);
                    table.counters.raise_allowance(row, allowed);
                    // A grant that is told of late lowers nothing.
                    table.counters.raise_allowance(row, allowed / 2);
                    ledger.done.store(allowed == RAISED_TO, SeqCst);
                }
                1 | 2 if gives => {
                    let given = table.counters.take_rights(row, step % 5).unwrap();
                    assert!(given <= step % 5);
                    ledger.given.fetch_add(given, SeqCst);
                }
                3 | 4 if spends => reserve(&table, &ledger, step),
                5 => {
                    let view = table.counters.view(row).unwrap();
                    assert!(view.own <= view.allowance, "{view:?}");
                    assert!(ledger.holds(), "at {view:?}");
                }
                6 | 7 if spends && admits(&table, 1, 1) => {
                    ledger.spent.fetch_add(1, SeqCst);
                }
                _ => {}
            }
            if last {
                return;
            }
        }
    });
    ledger
        .given
        .fetch_add(table.counters.take_rights(row, EACH / 2).unwrap(), SeqCst);
    ledger.spent.fetch_add(drain(&table, 1), SeqCst);
    let (spent, given) = (ledger.spent.load(SeqCst), ledger.given.load(SeqCst));
    assert!(spent > 0 && given > 0, "{spent} spent, {given} given");
    assert_eq!(spent + given, RAISED_TO, "rights were lost");
    let view = table.counters.view(row).unwrap();
    assert_eq!((view.own, view.rights()), (RAISED_TO, 0));
    assert_eq!(table.counters.take_rights(row, 1), Some(0));
}

#[test]
fn rights_that_two_replicas_pass_to_and_fro_under_load_add_up_to_the_limit() {
    const SHARE: u64 = LIMIT / 2;
    const PASSES: u64 = 200;
    let replicas = [bounded(64, SHARE).0, bounded(64, SHARE).0];
    let rows = replicas
        .each_ref()
        .map(|table| table.counters.find_or_insert(&row_key(1), NOW).unwrap());
    let spent = AtomicU64::new(0);
    let passed = AtomicU64::new(0);
    together(|at| {
        let mut received = [0, 0];
        for step in 0..PASSES {
            if at == 0 {
                let (from, to) = ((step % 2) as usize, ((step + 1) % 2) as usize);
                let given = replicas[from]
                    .counters
                    .take_rights(rows[from], 1 + step % 9)
                    .unwrap();
                received[to] += given;
                replicas[to]
                    .counters
                    .raise_allowance(rows[to], SHARE + received[to]);
                passed.fetch_add(given, SeqCst);
            } else if admits(&replicas[at % 2], 1, 1 + (step % 4) as u32) {
                spent.fetch_add(1 + step % 4, SeqCst);
            }
        }
    });
    assert!(passed.load(SeqCst) > 0, "nothing was passed");
    let rest: u64 = replicas.iter().map(|table| drain(table, 1)).sum();
    assert_eq!(spent.load(SeqCst) + rest, LIMIT);
}

#[test]
fn the_last_right_goes_to_one_of_two_that_give_it_at_once() {
    const RAISED_TO: u64 = 300_000;
    let (table, _) = bounded(64, 0);
    let row = table.counters.find_or_insert(&row_key(1), NOW).unwrap();
    let done = AtomicBool::new(false);
    let give = || table.counters.take_rights(row, 1).unwrap();
    // No more threads than cores: both see each right as it comes.
    let (one, other) = thread::scope(|scope| {
        let other = scope.spawn(|| {
            let mut given = 0;
            while !done.load(SeqCst) {
                given += give();
            }
            given
        });
        let one: u64 = (1..=RAISED_TO)
            .map(|allowed| {
                table.counters.raise_allowance(row, allowed);
                give()
            })
            .sum();
        done.store(true, SeqCst);
        (one, other.join().unwrap())
    });
    let rest = std::iter::repeat_with(give)
        .take_while(|given| *given > 0)
        .count() as u64;
    assert_eq!(one + other + rest, RAISED_TO);
}

#[test]
fn what_a_decision_has_reserved_is_not_given_away() {
    let (table, _) = bounded(64, 5);
    let ask = ask(&table, 1, 3);
    let (held, _) = table
        .counters
        .offer(&table.group, &ask, Taking::Reserve, NOW)
        .unwrap();
    let row = table.counters.find(&row_key(1)).unwrap();
    assert_eq!(table.counters.take_rights(row, 9), Some(2));
    assert_eq!(table.counters.take_rights(row, 9), Some(0));
    assert_eq!(table.counters.commit(held.slot, ask.hits).own, 5);
}

/// Answers its first caller with no share, but only after the roster has decided meanwhile.
struct Overtaken {
    asked: AtomicBool,
    deciding: Arc<Barrier>,
}

impl Shares for Overtaken {
    fn share(&self, _limit: u64, _key: KeyHash, _window: Window) -> u64 {
        if self.asked.swap(true, SeqCst) {
            return 5;
        }
        self.deciding.wait();
        // Here the roster decides, and every row that lives is told.
        self.deciding.wait();
        0
    }

    fn is_decided(&self, _start: UnixMillis) -> bool {
        self.asked.load(SeqCst)
    }
}

#[test]
fn a_row_whose_first_answer_was_overtaken_by_the_roster_asks_again() {
    let (table, _) = bounded(64, 0);
    let deciding = Arc::new(Barrier::new(2));
    table.counters.set_shares(Box::new(Overtaken {
        asked: AtomicBool::new(false),
        deciding: Arc::clone(&deciding),
    }));
    thread::scope(|scope| {
        scope.spawn(|| {
            deciding.wait();
            table
                .counters
                .reassess(table.group.window.start, |_, _| panic!("it is in no list yet"));
            deciding.wait();
        });
        table.counters.find_or_insert(&row_key(1), NOW).unwrap();
    });
    assert_eq!(table.view(1).unwrap().allowance, 5);
}

#[test]
fn a_row_made_while_the_roster_decides_gets_its_share() {
    for _ in 0..50 {
        let (table, shares) = bounded(1_024, 0);
        together(|at| {
            for n in 0..20 {
                if at == 0 && n == 3 {
                    shares.0.store(5, SeqCst);
                    table.counters.reassess(table.group.window.start, |_, _| 5);
                }
                let n = n + 20 * at as u64;
                let row = table.counters.find_or_insert(&row_key(n), NOW);
                assert!(row.is_ok());
            }
        });
        let mut rows = 0;
        table.counters.for_each_live(|_, view| {
            rows += 1;
            assert_eq!(view.allowance, 5, "{view:?}");
        });
        assert_eq!(rows, 160);
    }
}

/// Row `n` of the window after the first.
fn later(n: u64) -> RowKey {
    RowKey {
        window: window(61_000),
        ..row_key(n)
    }
}

/// Raises rows of `start` to what `allowance` says, and answers how many it was asked for.
fn reassess(table: &Table, start: u64, allowance: u64) -> usize {
    let mut rows = 0;
    table.counters.reassess(UnixMillis(start), |_, view| {
        assert_eq!(
            (view.key.window.start, view.limit),
            (UnixMillis(start), Some(LIMIT))
        );
        rows += 1;
        allowance
    });
    rows
}

#[test]
fn reassessing_reaches_rows_of_that_start_that_had_no_share_and_lowers_nothing() {
    let (table, shares) = bounded(64, 0);
    let make = |key| table.counters.find_or_insert(&key, NOW).unwrap();
    let former = |start| RowKey {
        window: window(start),
        ..row_key(1)
    };
    let rows = [row_key(1), row_key(2), former(58_000), later(1), former(59_000)].map(make);
    table.counters.raise_allowance(rows[1], 9);
    table.counters.forget(rows[2]);
    shares.0.store(4, SeqCst);
    let decided = make(row_key(4));
    let allowance = |row| table.counters.view(row).unwrap().allowance;
    assert_eq!(reassess(&table, 60_000, LIMIT + 4), 2);
    // Rights that were granted may be more than the limit, for as many were granted away.
    assert_eq!(
        [rows[0], rows[1], rows[3], decided].map(allowance),
        [LIMIT + 4, LIMIT + 4, 0, 4]
    );
    assert_eq!(reassess(&table, 60_000, 4), 0);
    // The other is still listed.
    assert_eq!(reassess(&table, 61_000, 7), 1);
    assert_eq!([rows[0], rows[3], decided].map(allowance), [LIMIT + 4, 7, 4]);
    // Nor is the one forgotten whose window began before.
    assert_eq!(reassess(&table, 59_000, 3), 1);
    assert_eq!(allowance(rows[4]), 3);
    table.counters.reassess_all(|_, _| 6);
    assert_eq!([rows[0], rows[3], decided].map(allowance), [LIMIT + 4, 7, 6]);
}

#[test]
fn more_rows_than_can_be_listed_are_all_reached() {
    const ROWS: u64 = 3_000;
    let (table, _) = bounded(16_384, 0);
    for n in 0..ROWS {
        table.counters.find_or_insert(&row_key(n), NOW).unwrap();
        table.counters.find_or_insert(&later(n), NOW).unwrap();
    }
    for (start, allowance) in [(60_000, 5), (61_000, 6)] {
        assert!(reassess(&table, start, allowance) as u64 >= ROWS);
    }
    let mut seen = 0;
    table.counters.for_each_live(|_, view| {
        seen += 1;
        let expected = if view.key.window.start.0 == 60_000 { 5 } else { 6 };
        assert_eq!(view.allowance, expected, "{view:?}");
    });
    assert_eq!(seen, 2 * ROWS);
    // A later window is listed again.
    let third = RowKey {
        window: window(62_000),
        ..row_key(1)
    };
    table.counters.find_or_insert(&third, NOW).unwrap();
    assert_eq!(reassess(&table, 62_000, 7), 1);
}

#[test]
fn bounded_rows_are_kept_until_their_window_ends_and_then_never_get_rights_again() {
    let (table, _) = bounded(64, 3);
    for n in 0..64 {
        assert!(admits(&table, n, 1));
    }
    // Nobody makes room: not a request, and not a peer, be its clock ahead and in the next window.
    assert_eq!(offer(&table, 64, 1), Offer::Gone);
    for key in [row_key(64), later(64)] {
        assert_eq!(table.counters.find_or_insert(&key, NOW), Err(TableFull));
    }
    assert!((0..64).all(|n| table.view(n).unwrap().own == 1));
    assert_eq!(table.counters.stats().evicted, 0);
    // Their window over, they do.
    assert_eq!(drain(&table, 1), 2);
    let end = table.group.window.end;
    assert_eq!(table.counters.sweep_ended(end, u32::MAX), 64);
    // A thread whose clock reads the former window still is told of no rights: they were spent.
    assert_eq!(offer(&table, 1, 1), Offer::Refused(Counts::default()));
    let late = table.counters.find(&row_key(1)).unwrap();
    table.counters.raise_allowance(late, 3);
    assert_eq!(table.counters.view(late).unwrap().allowance, 0);
    // The next window begins with its share.
    let row = table.counters.find_or_insert(&later(1), NOW).unwrap();
    assert_eq!(table.counters.view(row).unwrap().allowance, 3);
}

#[test]
fn under_threads_that_make_and_sweep_rows_no_key_spends_more_than_its_share() {
    const SHARE: u64 = 4;
    const KEYS: u64 = 100;
    let (table, _) = bounded(64, SHARE);
    let admitted: Vec<AtomicU64> = (0..KEYS).map(|_| AtomicU64::new(0)).collect();
    together(|at| {
        for step in 0..5_000u64 {
            let n = (step * 7 + at as u64 * 31) % KEYS;
            if at == 0 && step % 50 == 49 {
                // The clock has passed the window's end, but not for everybody.
                table.counters.sweep_ended(table.group.window.end, 16);
            } else if admits(&table, n, 1) {
                admitted[n as usize].fetch_add(1, SeqCst);
            }
        }
    });
    let most = admitted.iter().map(|hits| hits.load(SeqCst)).max().unwrap();
    assert!(most <= SHARE, "{most} admitted of a share of {SHARE}");
    assert!(most > 0, "nothing was admitted");
}

#[test]
fn what_comes_late_for_a_row_that_is_gone_changes_no_other() {
    let (table, _) = bounded(64, 3);
    let row = table.counters.find_or_insert(&row_key(1), NOW).unwrap();
    assert!(table.counters.want(Short { row, hits: 2 }));
    assert_eq!(table.counters.take_rights(row, 2), Some(2));
    assert_eq!(
        table.counters.take_changed(),
        Some(row),
        "what was given is to be told"
    );
    table.counters.replace_peers(row, 7);
    table.counters.replace_peers(row, 4);
    assert_eq!(table.view(1).unwrap().peers, 4);
    table.counters.forget(row);
    assert_eq!(table.counters.take_rights(row, 1), None);
    // Until all slots have had another tenant.
    for n in 0..64 {
        table.counters.find_or_insert(&later(n), NOW).unwrap();
    }
    table.counters.raise_allowance(row, 9);
    table.counters.replace_peers(row, 9);
    assert_eq!(table.counters.take_wanted(), None);
    table
        .counters
        .for_each_live(|_, view| assert_eq!((view.allowance, view.peers), (3, 0)));
}

#[test]
fn the_list_of_wanted_rows_is_bounded_and_in_order() {
    let (table, _) = bounded(64, 0);
    let row = table.counters.find_or_insert(&row_key(1), NOW).unwrap();
    let wanted = |hits| table.counters.want(Short { row, hits });
    let taken = (1..).take_while(|hits| wanted(*hits)).count() as u64;
    assert!((1_000..100_000).contains(&taken), "{taken}");
    let back = std::iter::from_fn(|| table.counters.take_wanted());
    assert!(back.map(|short| short.hits).eq(1..=taken));
    assert!(wanted(1));
}

#[test]
fn threads_that_ask_for_a_new_row_at_once_find_its_share_in_it() {
    let (table, _) = bounded(2_048, 8);
    for n in 0..500 {
        together(|_| assert!(admits(&table, n, 1)));
        assert!(!admits(&table, n, 1));
    }
    assert_eq!(table.counters.live_rows(), 500);
}
