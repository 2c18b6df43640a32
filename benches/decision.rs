//! What one decision costs with a million live keys, beside `governor` and a dashmap of atomics.
//!
//! One thread, keys in random order, which is not the order they were made in, so nearly every access
//! misses the caches: what a gateway with a million clients sees. `hot key` is the other end. Processor time of
//! the thread.

#![expect(missing_docs, reason = "criterion's macros make public items")]
#![expect(
    clippy::unwrap_used,
    reason = "a benchmark that cannot start has nothing to report"
)]

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU32;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use dashmap::DashMap;
use governor::{Quota, RateLimiter};
use weir::limit::significance::Significance;
use weir::limit::{
    Charge, Hits, Identity, IdentityHasher, KeyHash, Limiter, Outcome, Rule, Shares, SyncMode, UnixMillis,
    Window,
};

#[path = "support/cpu_time.rs"]
mod cpu_time;
use cpu_time::CpuTime;

const KEYS: u32 = 1_000_000;
const NOW: UnixMillis = UnixMillis(1_700_000_000_000);
const LIMIT: u32 = 1_000_000_000;

/// The clients in an order that no prefetcher guesses: a full-period walk over the addresses.
fn clients() -> impl Iterator<Item = IpAddr> {
    // A linear congruential generator modulo 2^20 visits all values; the rest is skipped.
    std::iter::successors(Some(1u32), |n| {
        Some((n.wrapping_mul(0x5_9E5D).wrapping_add(0x3_C6EF)) & 0xf_ffff)
    })
    .filter(|n| *n < KEYS)
    .map(|n| IpAddr::V4(Ipv4Addr::from(0x0a00_0000 | n)))
}

/// A third of each limit: what one of three nodes holds.
struct Third;

impl Shares for Third {
    fn share(&self, limit: u64, _key: KeyHash, _window: Window) -> u64 {
        limit / 3
    }

    fn is_decided(&self, _start: UnixMillis) -> bool {
        true
    }
}

fn limiter(windows: &[&str]) -> Limiter {
    limiter_in(SyncMode::Gossip, windows)
}

fn limiter_in(mode: SyncMode, windows: &[&str]) -> Limiter {
    let rule = Rule::new("per-client", windows.iter().map(|text| text.parse().unwrap()));
    let rows = KEYS * u32::try_from(windows.len()).unwrap() + KEYS / 10;
    let limiter = Limiter::new(vec![rule], mode, Significance::default(), rows);
    limiter.set_replicas(3);
    limiter.counters().set_shares(Box::new(Third));
    limiter
}

fn admit(limiter: &Limiter, key: KeyHash) {
    admit_at(limiter, key, NOW);
}

fn admit_at(limiter: &Limiter, key: KeyHash, now: UnixMillis) {
    let charge = Charge {
        rule: 0,
        key,
        hits: Hits::ONE,
    };
    let decision = limiter.check(black_box(&[charge]), now);
    assert_eq!(decision.outcome, Outcome::Admitted);
    black_box(&decision);
}

/// What the gateway does: it asks for the counters as soon as it knows the client, and decides later.
fn prefetch(limiter: &Limiter, key: KeyHash) {
    let charge = Charge {
        rule: 0,
        key,
        hits: Hits::ONE,
    };
    limiter.prefetch(black_box(&[charge]), NOW);
}

fn decisions(c: &mut Criterion<CpuTime>) {
    let hasher = IdentityHasher::new([7; 16]);
    let addresses: Vec<IpAddr> = clients().take(KEYS as usize).collect();
    let made: Vec<IpAddr> = (0..KEYS)
        .map(|n| IpAddr::V4(Ipv4Addr::from(0x0a00_0000 | n)))
        .collect();
    let hash = |address: &IpAddr| hasher.hash(&Identity::Ip(*address));
    let hashes: Vec<KeyHash> = addresses.iter().map(hash).collect();

    let mut group = c.benchmark_group("a million keys");
    {
        let weir = limiter(&["1000000000/hour"]);
        // The first window after the start, while the table grew.
        let first = UnixMillis(NOW.0 - 3_600_000);
        made.iter()
            .for_each(|address| admit_at(&weir, hash(address), first));
        let mut keys = hashes.iter().cycle();
        group.bench_function("weir, first window after the start", |b| {
            b.iter(|| admit_at(&weir, *keys.next().unwrap(), first));
        });
        // Any later one: the rows of the first are forgotten.
        assert_eq!(weir.counters().sweep_ended(NOW, u32::MAX), KEYS);
        made.iter().for_each(|address| admit(&weir, hash(address)));
        assert_eq!(weir.counters().live_rows(), KEYS);
        let mut keys = hashes.iter().cycle();
        group.bench_function("weir", |b| {
            b.iter(|| admit(&weir, *keys.next().unwrap()));
        });
        // The other work is the decision before, whose counters came likewise.
        let mut next = hashes[0];
        group.bench_function("weir, prefetched one decision ahead", |b| {
            b.iter(|| {
                let key = std::mem::replace(&mut next, *keys.next().unwrap());
                prefetch(&weir, next);
                admit(&weir, key);
            });
        });
        group.bench_function("weir, prefetch alone", |b| {
            b.iter(|| prefetch(&weir, *keys.next().unwrap()));
        });
        let mut clients = addresses.iter().cycle();
        group.bench_function("weir, address to decision", |b| {
            b.iter(|| admit(&weir, hash(clients.next().unwrap())));
        });
        // As when replication has taken every row: each decision puts its row back in the list.
        while weir.counters().take_changed().is_some() {}
        group.bench_function("weir, each row newly changed", |b| {
            b.iter(|| {
                admit(&weir, *keys.next().unwrap());
                black_box(weir.counters().take_changed())
            });
        });
        group.bench_function("weir, one hot key", |b| {
            b.iter(|| admit(&weir, hashes[0]));
        });
    }
    {
        let weir = limiter(&["100000000/minute", "1000000000/hour", "10000000000/day"]);
        made.iter().for_each(|address| admit(&weir, hash(address)));
        let mut keys = hashes.iter().cycle();
        group.bench_function("weir, three windows", |b| {
            b.iter(|| admit(&weir, *keys.next().unwrap()));
        });
        group.bench_function("weir, three windows, one hot key", |b| {
            b.iter(|| admit(&weir, hashes[0]));
        });
    }
    // A limiter of its own beside one of gossip that is as old, so that the two can be compared.
    for mode in [SyncMode::Gossip, SyncMode::Bounded] {
        let weir = limiter_in(mode, &["1000000000/hour"]);
        made.iter().for_each(|address| admit(&weir, hash(address)));
        let mut keys = hashes.iter().cycle();
        group.bench_function(format!("weir, {mode}"), |b| {
            b.iter(|| admit(&weir, *keys.next().unwrap()));
        });
        group.bench_function(format!("weir, {mode}, one hot key"), |b| {
            b.iter(|| admit(&weir, hashes[0]));
        });
    }
    {
        let map: DashMap<u128, AtomicU64> = made
            .iter()
            .map(|address| (hash(address).0, AtomicU64::new(0)))
            .collect();
        let mut keys = hashes.iter().cycle();
        group.bench_function("dashmap of atomics", |b| {
            b.iter(|| {
                let count = map.get(&keys.next().unwrap().0).unwrap();
                let taken = count.fetch_update(Relaxed, Relaxed, |n| (n < u64::from(LIMIT)).then(|| n + 1));
                black_box(taken).unwrap();
            });
        });
    }
    let quota = Quota::per_second(NonZeroU32::new(LIMIT).unwrap());
    {
        let governor = RateLimiter::keyed(quota);
        #[expect(
            clippy::cast_possible_truncation,
            reason = "governor by a 64-bit key, as its users have it"
        )]
        let short: Vec<u64> = hashes.iter().map(|key| key.0 as u64).collect();
        #[expect(clippy::cast_possible_truncation, reason = "as above")]
        made.iter()
            .for_each(|address| governor.check_key(&(hash(address).0 as u64)).unwrap());
        let mut keys = short.iter().cycle();
        group.bench_function("governor by u64", |b| {
            b.iter(|| governor.check_key(keys.next().unwrap()).unwrap());
        });
    }
    {
        let governor = RateLimiter::keyed(quota);
        made.iter().for_each(|key| governor.check_key(key).unwrap());
        let mut keys = addresses.iter().cycle();
        group.bench_function("governor by address", |b| {
            b.iter(|| governor.check_key(keys.next().unwrap()).unwrap());
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .with_measurement(CpuTime)
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(3));
    targets = decisions
}
criterion_main!(benches);
