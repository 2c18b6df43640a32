//! The laws of the waiting room.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::task::Wake;
use std::thread::{self, Thread};
use std::time::Duration;

use super::*;

const fn row(n: u32) -> RowRef {
    RowRef { slot: n, epoch: 1 }
}

const fn short(n: u32, hits: u64) -> Short {
    Short { row: row(n), hits }
}

#[derive(Default)]
struct Bell(AtomicBool);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.store(true, SeqCst);
    }
}

/// Polls `waiting`, with a bell that says whether it was woken since.
fn poll(waiting: &mut Waiting<'_>) -> (Poll<Woken>, Arc<Bell>) {
    let bell = Arc::new(Bell::default());
    let waker = Waker::from(Arc::clone(&bell));
    let polled = Pin::new(waiting).poll(&mut Context::from_waker(&waker));
    (polled, bell)
}

fn rung(bells: &[Arc<Bell>]) -> Vec<bool> {
    bells.iter().map(|bell| bell.0.load(SeqCst)).collect()
}

/// Waiters for row 1 that want so many hits each, all waiting.
fn queue<'r>(room: &'r WaitingRoom, hits: &[u64]) -> (Vec<Waiting<'r>>, Vec<Arc<Bell>>) {
    let enter = |hits: &u64| {
        let mut waiting = room.enter(&[short(1, *hits)]).unwrap();
        let (polled, bell) = poll(&mut waiting);
        assert_eq!(polled, Poll::Pending);
        (waiting, bell)
    };
    hits.iter().map(enter).unzip()
}

#[test]
fn those_are_woken_whom_the_gain_may_serve_first_come_first() {
    let room = WaitingRoom::default();
    let (_waiting, bells) = queue(&room, &[3, 2, 1, 1]);
    assert_eq!((room.largest(row(1)), room.largest(row(2))), (3, 0));
    room.rights_came(row(2), 9);
    assert_eq!(rung(&bells), [false; 4]);
    room.rights_came(row(1), 4);
    assert_eq!(rung(&bells), [true, true, false, false]);
    // Those who were told already are not told twice.
    room.rights_came(row(1), 0);
    assert_eq!(rung(&bells), [true, true, true, false]);
}

#[test]
fn rights_that_come_before_the_wait_begins_are_not_lost() {
    let room = WaitingRoom::default();
    let mut waiting = room.enter(&[short(1, 1)]).unwrap();
    room.rights_came(row(1), 1);
    assert_eq!(poll(&mut waiting).0, Poll::Ready(Woken::Retry));
    // Too late: it waits on in its place.
    assert_eq!(poll(&mut waiting).0, Poll::Pending);
}

#[test]
fn who_leaves_after_it_was_woken_wakes_the_next() {
    let room = WaitingRoom::default();
    let (mut waiting, bells) = queue(&room, &[2, 2, 2, 2]);
    room.rights_came(row(1), 2);
    // Its client is gone.
    drop(waiting.remove(0));
    assert_eq!(rung(&bells), [true, true, false, false]);
    // The next hears of it and leaves at its deadline, and the one after takes it.
    assert_eq!(poll(&mut waiting[0]).0, Poll::Ready(Woken::Retry));
    drop(waiting.remove(0));
    assert_eq!(rung(&bells), [true, true, true, false]);
    assert_eq!(poll(&mut waiting[0]).0, Poll::Ready(Woken::Retry));
    drop(waiting.remove(0));
    // Perhaps it did not need all.
    assert_eq!(rung(&bells), [true; 4]);
    assert_eq!(room.stats().waiting, 1);
}

#[test]
fn who_was_woken_is_not_overtaken_by_those_that_others_wake() {
    let room = WaitingRoom::default();
    let (mut waiting, bells) = queue(&room, &[1, 1, 1]);
    room.rights_came(row(1), 2);
    assert_eq!(poll(&mut waiting[0]).0, Poll::Ready(Woken::Retry));
    drop(waiting.remove(0));
    assert_eq!(rung(&bells), [true, true, false]);
    // It hears of it once it has had its turn.
    assert_eq!(poll(&mut waiting[0]).0, Poll::Ready(Woken::Retry));
    drop(waiting.remove(0));
    assert_eq!(rung(&bells), [true; 3]);
}

#[test]
fn what_is_too_little_for_one_is_tried_by_those_who_want_less_or_other_rows() {
    let room = WaitingRoom::default();
    let (mut waiting, bells) = queue(&room, &[5, 5, 2]);
    room.rights_came(row(1), 2);
    assert_eq!(poll(&mut waiting[0]).0, Poll::Ready(Woken::Retry));
    assert_eq!(poll(&mut waiting[0]).0, Poll::Pending);
    assert_eq!(rung(&bells), [true, false, true]);

    let room = WaitingRoom::default();
    let mut both = room.enter(&[short(1, 1), short(2, 1)]).unwrap();
    let (_waiting, bells) = queue(&room, &[1]);
    room.rights_came(row(1), 1);
    assert_eq!(poll(&mut both).0, Poll::Ready(Woken::Retry));
    assert_eq!(rung(&bells), [false]);
    assert_eq!(poll(&mut both).0, Poll::Pending);
    assert_eq!(rung(&bells), [true]);
}

#[test]
fn once_nobody_has_rights_all_who_wait_for_the_row_are_told() {
    let room = WaitingRoom::default();
    let (mut waiting, bells) = queue(&room, &[1, 9]);
    let mut both = room.enter(&[short(1, 1), short(2, 4)]).unwrap();
    let mut other = room.enter(&[short(2, 1)]).unwrap();
    assert!(both.is_for(&[short(1, 1), short(2, 4)]) && !both.is_for(&[short(2, 4)]));
    room.rights_came(row(1), 1);
    room.exhausted(row(1));
    assert_eq!(rung(&bells), [true, true]);
    for waiting in waiting.iter_mut().chain([&mut both]) {
        for _ in 0..2 {
            assert_eq!(poll(waiting).0, Poll::Ready(Woken::Exhausted));
        }
    }
    assert_eq!(poll(&mut other).0, Poll::Pending);
    assert_eq!((room.largest(row(1)), room.largest(row(2))), (0, 4));
    drop((waiting, both, other));
    assert_eq!((room.largest(row(2)), room.stats().waiting), (0, 0));
}

#[test]
fn the_room_is_bounded_for_each_row_and_in_all() {
    let room = WaitingRoom::default();
    let mut inside = Vec::new();
    for n in 0..20 {
        inside.extend(std::iter::from_fn(|| room.enter(&[short(n, 1)])));
    }
    let of_row = |n| inside.iter().filter(|waiting| waiting.rows[0] == row(n)).count();
    assert_eq!((of_row(0), of_row(15), of_row(16)), (ROW_MAX, ROW_MAX, 0));
    assert_eq!((inside.len(), room.stats().waiting), (ROOM_MAX, ROOM_MAX));
    assert_eq!(room.stats().turned_away, 20);
    // Whoever is turned away by one row waits for no other.
    inside.pop();
    assert!(room.enter(&[short(30, 7), short(0, 1)]).is_none());
    assert_eq!((room.largest(row(30)), room.stats().waiting), (0, ROOM_MAX - 1));
    assert!(room.enter(&[short(30, 1)]).is_some());
    drop(inside);
    assert!(room.shards.iter().all(|shard| shard.lock().unwrap().is_empty()));
}

struct Parked(Thread);

impl Wake for Parked {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Takes `hits` of `pool`, waiting for them in `room`.
fn take(room: &WaitingRoom, pool: &AtomicU64, hits: u64) {
    let waker = Waker::from(Arc::new(Parked(thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut waiting = room.enter(&[short(1, hits)]).unwrap();
    loop {
        let spent = pool.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(hits));
        if spent.is_ok() {
            return;
        }
        let mut patience = 100;
        while Pin::new(&mut waiting).poll(&mut context) == Poll::Pending {
            thread::park_timeout(Duration::from_secs(1));
            patience -= 1;
            assert!(patience > 0, "forgotten with {} rights left", pool.load(SeqCst));
        }
    }
}

#[test]
fn under_threads_no_right_lies_idle_while_one_waits_whom_it_would_serve() {
    const TAKERS: u64 = 6;
    const ROUNDS: u64 = 2_000;
    let (room, pool) = (WaitingRoom::default(), AtomicU64::new(0));
    thread::scope(|scope| {
        let takers: Vec<_> = (0..TAKERS)
            .map(|n| {
                let (room, pool) = (&room, &pool);
                scope.spawn(move || (0..ROUNDS).for_each(|_| take(room, pool, 1 + n % 3)))
            })
            .collect();
        // Exactly what all of them want, in small pieces: whoever is forgotten waits for ever.
        let mut rest = ROUNDS * (0..TAKERS).map(|n| 1 + n % 3).sum::<u64>();
        while rest > 0 {
            let piece = rest.min(1 + rest % 4);
            pool.fetch_add(piece, SeqCst);
            room.rights_came(row(1), piece);
            rest -= piece;
        }
        takers.into_iter().for_each(|taker| taker.join().unwrap());
    });
    assert_eq!((pool.load(SeqCst), room.stats().waiting), (0, 0));
}
