//! The laws of the table: one row a key, exact counts, nothing forgotten too early.

use std::collections::{HashMap, HashSet};
use std::sync::Barrier;
use std::sync::atomic::AtomicBool;
use std::thread;

use crdts::{CmRDT, CvRDT, Dot, GCounter};
use proptest::prelude::*;

use super::*;
use crate::limit::key::KeyHash;

pub(super) const RULE: RuleId = RuleId(7);
pub(super) const NOW: UnixMillis = UnixMillis(60_500);

pub(super) fn window(start: u64) -> Window {
    Window {
        start: UnixMillis(start),
        end: UnixMillis(start + 1000),
    }
}

/// A well-mixed hash, as real keys have.
pub(super) fn key(n: u64) -> KeyHash {
    let id = |domain| u128::from(RuleId(domain).salt(window(n)) as u64);
    KeyHash(id(1) << 64 | id(2))
}

pub(super) fn row_key(n: u64) -> RowKey {
    RowKey {
        rule: RULE,
        window: window(60_000),
        key: key(n),
    }
}

pub(super) struct Table {
    pub(super) counters: Counters,
    pub(super) group: Arc<Group>,
}

impl Table {
    pub(super) fn new(rows: u32) -> Self {
        let counters = Counters::new(rows);
        let group = counters.group(RULE, window(60_000), Claim::Request, NOW).unwrap();
        Self { counters, group }
    }

    fn offer(&self, n: u64, hits: u32, limit: u64) -> Offer {
        let fingerprint = self.group.fingerprint(key(n));
        let ask = Ask {
            fingerprint,
            hits: Hits::try_new(hits).unwrap(),
            limit,
            mode: SyncMode::Gossip,
        };
        let offered = self.counters.offer(&self.group, &ask, Taking::Count, NOW);
        offered.map_or(Offer::Gone, |(_, offer)| offer)
    }

    pub(super) fn view(&self, n: u64) -> Option<RowView> {
        self.counters.view(self.counters.find(&row_key(n))?)
    }
}

pub(super) fn schedules(limit: u64, mode: SyncMode) -> HashMap<RuleId, Schedule> {
    HashMap::from([(RULE, Policy { limit, mode }.into())])
}

fn taken(offer: Offer) -> Option<Counts> {
    match offer {
        Offer::Taken(counts) => Some(counts),
        _ => None,
    }
}

#[derive(Clone, Debug)]
enum Op {
    Offer { key: u64, hits: u32 },
    Peers { key: u64, sum: u64 },
    Published { key: u64 },
    Forget { key: u64 },
    TakeChanged,
}

fn op() -> impl Strategy<Value = Op> {
    let key = 0u64..40;
    prop_oneof![
        6 => (key.clone(), 1u32..5).prop_map(|(key, hits)| Op::Offer { key, hits }),
        2 => (key.clone(), 0u64..12).prop_map(|(key, sum)| Op::Peers { key, sum }),
        1 => key.clone().prop_map(|key| Op::Published { key }),
        2 => key.prop_map(|key| Op::Forget { key }),
        1 => Just(Op::TakeChanged),
    ]
}

proptest! {
    /// Below its bound, the table is a map.
    #[test]
    fn the_table_behaves_as_a_map_of_counts(ops in proptest::collection::vec(op(), 1..300)) {
        const LIMIT: u64 = 20;
        let table = Table::new(64);
        let mut model: HashMap<u64, Counts> = HashMap::new();
        let mut dirty: HashSet<u64> = HashSet::new();
        for op in ops {
            match op {
                Op::Offer { key, hits } => {
                    let row = model.entry(key).or_default();
                    let fits = row.total() + u64::from(hits) <= LIMIT;
                    let answer = table.offer(key, hits, LIMIT);
                    if fits {
                        row.own += u64::from(hits);
                        dirty.insert(key);
                        let slot = table.counters.find(&row_key(key)).unwrap().slot;
                        table.counters.mark_changed(slot);
                        prop_assert_eq!(answer, Offer::Taken(*row));
                    } else {
                        prop_assert_eq!(answer, Offer::Refused(*row));
                    }
                }
                Op::Peers { key, sum } => {
                    let row = model.entry(key).or_default();
                    row.peers = row.peers.max(sum.cast_signed());
                    table.counters.store_peers(table.counters.find_or_insert(&row_key(key), NOW).unwrap(), sum);
                }
                Op::Published { key } => {
                    if let Some(row) = model.get_mut(&key) {
                        row.published = row.own;
                        table.counters.store_published(table.counters.find(&row_key(key)).unwrap(), row.own);
                    }
                }
                Op::Forget { key } => {
                    let row = table.counters.find(&row_key(key));
                    prop_assert_eq!(row.is_some(), model.remove(&key).is_some());
                    dirty.remove(&key);
                    if let Some(row) = row {
                        table.counters.forget(row);
                        prop_assert_eq!(table.counters.view(row), None);
                        prop_assert_eq!(table.counters.window_of(row), None);
                        table.counters.store_peers(row, 1_000_000);
                    }
                }
                Op::TakeChanged => {
                    let mut seen = HashSet::new();
                    while let Some(row) = table.counters.take_changed() {
                        prop_assert!(seen.insert(table.counters.view(row).unwrap().key.key), "handed out twice");
                    }
                    // A slot that changed hands while in the list may be handed out for its new row.
                    prop_assert!(dirty.drain().all(|n| seen.contains(&key(n))));
                }
            }
        }
        let mut rows = HashMap::new();
        table.counters.for_each_live(|_, view| {
            let counts = Counts { own: view.own, peers: view.peers.cast_signed(), published: view.published, allowance: view.allowance };
            assert!(rows.insert(view.key.key, counts).is_none(), "two rows of one key");
        });
        prop_assert_eq!(rows, model.into_iter().map(|(n, counts)| (key(n), counts)).collect());
    }

    /// Whatever is evicted and comes back, no key is ever admitted beyond its limit.
    #[test]
    fn a_table_far_too_small_denies_early_and_never_late(
        offers in proptest::collection::vec((0u64..400, 1u32..4), 1..2_000),
    ) {
        const LIMIT: u64 = 6;
        let table = Table::new(64);
        let mut admitted: HashMap<u64, u64> = HashMap::new();
        let mut published: HashMap<u64, u64> = HashMap::new();
        for (n, hits) in offers {
            if taken(table.offer(n, hits, LIMIT)).is_some() {
                *admitted.entry(n).or_default() += u64::from(hits);
            }
            if let Some(view) = table.view(n) {
                let before = published.insert(n, view.own).unwrap_or(0);
                prop_assert!(view.own >= before, "own count of {n} fell from {before} to {}", view.own);
            }
        }
        prop_assert!(admitted.values().all(|hits| *hits <= LIMIT));
        prop_assert!(table.counters.live_rows() <= 64);
    }

    /// The flat form of a counter is the replicated type.
    #[test]
    fn own_count_and_peers_sum_equal_a_gcounter(
        steps in proptest::collection::vec((0u8..4, 1u32..5, any::<bool>()), 1..100),
    ) {
        let table = Table::new(64);
        let mut merged: GCounter<u8> = GCounter::new();
        let mut rows: HashMap<u8, u64> = HashMap::new();
        for (replica, hits, merge) in steps {
            if replica == 0 {
                assert!(taken(table.offer(1, hits, Limit::MAX)).is_some());
                merged.apply(merged.inc_many(0, u64::from(hits)));
            } else {
                // A peer's row arrives: larger, or an old one once more.
                let known = rows.entry(replica).or_default();
                let told = if merge { *known + u64::from(hits) } else { known.saturating_sub(u64::from(hits)) };
                let mut other = GCounter::new();
                other.apply(Dot::new(replica, told));
                merged.merge(other);
                *known = told.max(*known);
                let row = table.counters.find_or_insert(&row_key(1), NOW).unwrap();
                table.counters.store_peers(row, rows.values().sum());
            }
            let view = table.view(1).unwrap();
            prop_assert_eq!(num(&merged), u128::from(view.own + view.peers));
        }
    }
}

use crate::limit::rule::Limit;

fn num(counter: &GCounter<u8>) -> u128 {
    counter.read().to_string().parse().unwrap()
}

const THREADS: usize = 8;

pub(super) fn together(work: impl Fn(usize) + Sync) {
    let start = Barrier::new(THREADS);
    thread::scope(|scope| {
        for at in 0..THREADS {
            let (start, work) = (&start, &work);
            scope.spawn(move || {
                start.wait();
                work(at);
            });
        }
    });
}

#[test]
fn eight_threads_that_make_one_key_make_one_row() {
    let table = Table::new(8_192);
    for n in 0..1_000 {
        together_on_one_key(&table, n);
    }
    assert_eq!(table.counters.live_rows(), 1_000);
    assert_eq!(table.counters.stats().evicted, 0);
    let mut rows = HashSet::new();
    table.counters.for_each_live(|_, view| {
        assert!(rows.insert(view.key.key), "two rows of one key");
        assert_eq!(view.own, THREADS as u64);
    });
}

fn together_on_one_key(table: &Table, n: u64) {
    together(|_| assert!(taken(table.offer(n, 1, 100)).is_some()));
}

#[test]
fn under_eviction_by_eight_threads_no_key_passes_its_limit_and_the_index_stays_whole() {
    const LIMIT: u64 = 40;
    const KEYS: u64 = 300;
    let table = Table::new(64);
    let admitted: Vec<AtomicU64> = (0..KEYS).map(|_| AtomicU64::new(0)).collect();
    together(|at| {
        // Some forget rows meanwhile that have counted nothing, as replication does.
        for step in 0..20_000u64 {
            let n = (step * 7 + at as u64 * 31 + step * step / 13) % KEYS;
            if taken(table.offer(n, 1, LIMIT)).is_some() {
                admitted[n as usize].fetch_add(1, Relaxed);
            }
        }
    });
    let most = admitted.iter().map(|hits| hits.load(Relaxed)).max().unwrap();
    assert!(most <= LIMIT, "{most} admitted");
    assert!(table.counters.stats().evicted > 0, "the table was to overflow");
    let mut rows = HashSet::new();
    table.counters.for_each_live(|row, view| {
        assert!(rows.insert(view.key.key), "two rows of one key");
        assert_eq!(table.counters.find(&view.key), Some(row));
    });
    assert_eq!(rows.len(), table.counters.live_rows() as usize);
    // All slots are accounted for: with a row, or vacant.
    let vacant = table.counters.slots.iter().filter(|slot| slot.take()).count();
    assert_eq!(rows.len() + vacant, table.counters.slots.len());
}

#[test]
fn no_change_is_lost_between_request_threads_and_the_taker() {
    let table = Table::new(64);
    let done = AtomicBool::new(false);
    let seen = thread::scope(|scope| {
        let taker = scope.spawn(|| {
            let mut seen: HashMap<KeyHash, u64> = HashMap::new();
            loop {
                let last_round = done.load(SeqCst);
                while let Some(row) = table.counters.take_changed() {
                    let view = table.counters.view(row).unwrap();
                    seen.insert(view.key.key, view.own);
                }
                if last_round {
                    return seen;
                }
            }
        });
        together(|_| {
            for step in 0..20_000u64 {
                let fingerprint = table.group.fingerprint(key(step % 16));
                let ask = Ask {
                    fingerprint,
                    hits: Hits::ONE,
                    limit: Limit::MAX,
                    mode: SyncMode::Gossip,
                };
                let (row, _) = table
                    .counters
                    .offer(&table.group, &ask, Taking::Count, NOW)
                    .unwrap();
                table.counters.mark_changed(row.slot);
            }
        });
        done.store(true, SeqCst);
        taker.join().unwrap()
    });
    assert_eq!(seen.len(), 16);
    assert!(
        seen.values().all(|own| *own == 20_000 * THREADS as u64 / 16),
        "{seen:?}"
    );
}

#[test]
fn a_row_that_peers_told_of_evicts_none_that_counted_here() {
    let table = Table::new(64);
    for n in 0..64 {
        assert!(taken(table.offer(n, 1, 10)).is_some());
    }
    assert_eq!(table.counters.find_or_insert(&row_key(64), NOW), Err(TableFull));
    assert!((0..64).all(|n| table.view(n).unwrap().own == 1));
    // Nor does one of the next window, which a peer speaks of whose clock is ahead.
    let next = RowKey {
        window: window(61_000),
        ..row_key(64)
    };
    assert_eq!(table.counters.find_or_insert(&next, NOW), Err(TableFull));
    assert_eq!(table.counters.stats().evicted, 0);
    // Once the window is over here, its rows may go.
    let over = table.group.window.end;
    let row = table.counters.find_or_insert(&next, over).unwrap();
    assert_eq!(table.counters.view(row).unwrap().key, next);
    assert_eq!(table.counters.stats().evicted, 1);
}

#[test]
fn ended_windows_are_swept_and_their_groups_serve_again() {
    let counters = Counters::new(64);
    let groups_seen: HashSet<u32> = (0..1_000)
        .map(|second| {
            let now = UnixMillis(second * 1000);
            let group = counters.group(RULE, window(now.0), Claim::Request, now).unwrap();
            let fingerprint = group.fingerprint(key(second));
            counters
                .locate_or_insert(&group, fingerprint, Claim::Request, now)
                .unwrap();
            group.index()
        })
        .collect();
    assert!(groups_seen.len() < 20, "{} groups", groups_seen.len());
    assert!(counters.live_rows() < 20, "{} rows", counters.live_rows());
    assert_eq!(counters.stats().evicted, 0);
}

#[test]
fn a_node_without_traffic_still_lets_go_of_ended_groups() {
    let counters = Counters::new(64);
    for second in 0..u64::from(group::GROUPS_MAX) {
        let key = RowKey {
            window: window(second * 1000),
            ..row_key(1)
        };
        let row = counters.find_or_insert(&key, key.window.start).unwrap();
        counters.forget(row);
    }
    assert!(counters.stats().groups < 4);
}

#[test]
fn rows_of_rules_unknown_here_are_kept_and_replicated() {
    let table = Table::new(64);
    let row = table.counters.find_or_insert(&row_key(1), NOW).unwrap();
    table.counters.store_peers(row, 5);
    let view = table.counters.view(row).unwrap();
    assert_eq!((view.limit, view.replicated, view.peers), (None, true, 5));
    let schedule = |mode| schedules(9, mode);
    table.counters.set_schedules(schedule(SyncMode::Local));
    let view = table.counters.view(row).unwrap();
    assert_eq!((view.limit, view.replicated), (Some(9), false));
    table.counters.set_schedules(schedule(SyncMode::Gossip));
    assert!(table.counters.view(row).unwrap().replicated);
}

#[test]
fn a_reservation_is_not_seen_as_counted_and_keeps_its_row() {
    let table = Table::new(64);
    let fingerprint = table.group.fingerprint(key(1));
    let ask = Ask {
        fingerprint,
        hits: Hits::try_new(3).unwrap(),
        limit: 5,
        mode: SyncMode::Gossip,
    };
    let (row, _) = table
        .counters
        .offer(&table.group, &ask, Taking::Reserve, NOW)
        .unwrap();
    assert_eq!(table.view(1).unwrap().own, 0);
    assert_eq!(table.offer(1, 3, 5), Offer::Contended);
    assert_eq!(table.offer(1, 6, 5), Offer::Refused(Counts::default()));
    table.counters.forget(table.counters.find(&row_key(1)).unwrap());
    assert!(table.view(1).is_some(), "forgotten under a reservation");
    assert_eq!(table.counters.commit(row.slot, ask.hits).own, 3);
    assert_eq!(taken(table.offer(1, 2, 5)).unwrap().own, 5);
    table.counters.forget(table.counters.find(&row_key(1)).unwrap());
    assert!(table.view(1).is_none());
}
