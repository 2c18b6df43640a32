//! How long the body of a response may take. Costs nothing while the body keeps coming.

#![expect(
    clippy::disallowed_methods,
    reason = "a shell: bodies are timed by a real clock"
)]

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use thiserror::Error;
use tokio::time::Sleep;

/// A response took longer than it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(in crate::proxy) enum Overdue {
    #[error("the upstream server paused for too long in its response")]
    Idle,
    #[error("the request took too long in all")]
    Total,
}

/// Watches over one body. The timer is made when the body is waited for, and set no oftener than once per idle
/// timeout: a pause is noticed after one to two of them.
pub(in crate::proxy) struct Watch {
    idle: Duration,
    deadline: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
    has_moved: bool,
}

impl Watch {
    /// `idle` is the longest pause, `deadline` the end of all.
    pub(super) fn new(idle: Duration, deadline: Option<Instant>) -> Self {
        Self {
            idle,
            deadline,
            timer: None,
            has_moved: false,
        }
    }

    /// Something came.
    pub(in crate::proxy) fn moved(&mut self) {
        self.has_moved = true;
    }

    /// Call when nothing has come. Ready when that has been so for too long.
    pub(in crate::proxy) fn poll_overdue(&mut self, cx: &mut Context<'_>) -> Poll<Overdue> {
        let next = |now: Instant| {
            let idle = now + self.idle;
            self.deadline.map_or(idle, |deadline| deadline.min(idle)).into()
        };
        let timer = match &mut self.timer {
            Some(timer) => timer,
            slot @ None => {
                self.has_moved = false;
                slot.insert(Box::pin(tokio::time::sleep_until(next(Instant::now()))))
            }
        };
        loop {
            ready!(timer.as_mut().poll(cx));
            let now = Instant::now();
            if self.deadline.is_some_and(|deadline| deadline <= now) {
                return Poll::Ready(Overdue::Total);
            }
            if !std::mem::take(&mut self.has_moved) {
                return Poll::Ready(Overdue::Idle);
            }
            timer.as_mut().reset(next(now));
        }
    }
}
