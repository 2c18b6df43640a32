//! How a request thread wakes the gossip thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

/// Asks the gossip thread to send what is due. Cheap to clone; wait-free to call.
#[derive(Clone, Debug, Default)]
pub struct Flusher {
    signal: Arc<Signal>,
}

#[derive(Debug, Default)]
struct Signal {
    requested: AtomicBool,
    wake: Notify,
}

impl Flusher {
    /// Wakes the gossip thread, unless it has already been asked and has not yet looked.
    ///
    /// Whatever the caller counted before is seen by the flush: both sides are read-modify-writes of the
    /// same flag, so either this call reads `false` and wakes, or the gossip thread's swap comes after it
    /// and synchronises with it.
    pub fn request(&self) {
        if !self.signal.requested.swap(true, Ordering::AcqRel) {
            self.signal.wake.notify_one();
        }
    }

    /// Whether a flush was requested since the last call.
    pub(super) fn take(&self) -> bool {
        self.signal.requested.swap(false, Ordering::AcqRel)
    }

    /// Waits for a request; may wake without one.
    pub(super) async fn requested(&self) {
        self.signal.wake.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn many_requests_are_one_flush_and_none_is_forgotten() {
        let flusher = Flusher::default();
        assert!(!flusher.take());
        (0..3).for_each(|_| flusher.clone().request());
        flusher.requested().await;
        assert!(flusher.take());
        assert!(!flusher.take());
        flusher.request();
        flusher.requested().await;
        assert!(flusher.take());
    }
}
