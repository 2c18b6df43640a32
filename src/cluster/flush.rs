//! How a request thread wakes the gossip thread, and learns that it has been heard.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::{Notify, watch};

/// Asks the gossip thread to send what is due. Cheap to clone; wait-free to call.
#[derive(Clone, Debug, Default)]
pub struct Flusher {
    signal: Arc<Signal>,
}

#[derive(Debug, Default)]
struct Signal {
    is_requested: AtomicBool,
    requested: AtomicU64,
    wake: Notify,
    flushed: watch::Sender<u64>,
}

impl Flusher {
    /// Wakes the gossip thread, unless it has already been asked and has not yet looked. The future ends
    /// once that thread has handed all that was due to the network.
    ///
    /// Whatever the caller counted before is seen by the flush: both sides are read-modify-writes of the
    /// same flag, so either this call reads `false` and wakes, or the gossip thread's swap comes after it
    /// and synchronises with it.
    pub fn request(&self) -> impl Future<Output = ()> + Send + use<> {
        let ticket = self.signal.requested.fetch_add(1, Ordering::AcqRel) + 1;
        if !self.signal.is_requested.swap(true, Ordering::AcqRel) {
            self.signal.wake.notify_one();
        }
        let signal = Arc::clone(&self.signal);
        async move {
            // An error means that the gossip thread is gone: nobody is left to wait for.
            let _ = signal
                .flushed
                .subscribe()
                .wait_for(|flushed| *flushed >= ticket)
                .await;
        }
    }

    /// The newest request, if there was one since the last call. Requests up to it are answered by
    /// [`Flusher::flushed`].
    pub(super) fn take(&self) -> Option<u64> {
        let asked = self.signal.is_requested.swap(false, Ordering::AcqRel);
        asked.then(|| self.signal.requested.load(Ordering::Acquire))
    }

    /// What was due at request `ticket` is on its way.
    pub(super) fn flushed(&self, ticket: u64) {
        self.signal.flushed.send_replace(ticket);
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
        assert_eq!(flusher.take(), None);
        let waiting: Vec<_> = (0..3).map(|_| flusher.clone().request()).collect();
        flusher.requested().await;
        assert_eq!(flusher.take(), Some(3));
        assert_eq!(flusher.take(), None);
        flusher.flushed(3);
        for flushed in waiting {
            flushed.await;
        }
        let later = flusher.request();
        flusher.requested().await;
        assert_eq!(flusher.take(), Some(4));
        let mut later = std::pin::pin!(later);
        assert!(futures_pending(later.as_mut()).await);
        flusher.flushed(4);
        later.await;
    }

    async fn futures_pending(future: std::pin::Pin<&mut impl Future<Output = ()>>) -> bool {
        let mut future = Some(future);
        std::future::poll_fn(|context| {
            let polled = future.take().map(|future| future.poll(context).is_pending());
            std::task::Poll::Ready(polled.unwrap_or(false))
        })
        .await
    }
}
