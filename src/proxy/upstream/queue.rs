//! Where the requests of one worker wait for a connection to an upstream, in the order they came.

use std::cell::Cell;
use std::rc::Rc;

use tokio::sync::Notify;

/// One worker's queue before one upstream.
pub(super) struct Queue {
    waiting: Cell<u32>,
    waiting_max: u32,
    room: Notify,
}

impl Queue {
    pub(super) fn new(waiting_max: u32) -> Rc<Self> {
        Rc::new(Self {
            waiting: Cell::new(0),
            waiting_max,
            room: Notify::new(),
        })
    }

    /// Nobody waits, so that a request need not either.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.get() == 0
    }

    /// Joins the queue; `None` when it is full. Whoever drops the answer leaves.
    pub(super) fn enter(self: &Rc<Self>) -> Option<Turn> {
        if self.waiting.get() >= self.waiting_max {
            return None;
        }
        self.waiting.set(self.waiting.get() + 1);
        Some(Turn(Rc::clone(self)))
    }

    /// There is room for one more request: wakes the first.
    pub(super) fn room_for_one(&self) {
        if !self.is_empty() {
            self.room.notify_one();
        }
    }

    /// There may be room for many: wakes all.
    pub(super) fn room_for_many(&self) {
        self.room.notify_waiters();
    }
}

/// A place in the queue.
pub(super) struct Turn(Rc<Queue>);

impl Turn {
    /// Ends when there may be room.
    pub(super) async fn room(&self) {
        self.0.room.notified().await;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.waiting.set(self.0.waiting.get() - 1);
    }
}
