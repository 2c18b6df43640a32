//! A request body that is kept while it goes upstream, as long as it is small, so that it can be sent again.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use hyper::body::{Body, Frame, SizeHint};

use super::super::body::BodyError;

/// One sending of a body that may be sent again. Only the last one that was begun goes on.
pub(in crate::proxy) struct Replay<B> {
    kept: Rc<Kept<B>>,
    /// Which sending this is.
    turn: u32,
    /// Frames of it that went out.
    sent: usize,
}

/// The body, and what came of it so far.
pub(super) struct Kept<B> {
    source: RefCell<B>,
    data: RefCell<Vec<Bytes>>,
    trailers: RefCell<Option<HeaderMap>>,
    /// Bytes in `data`.
    bytes: Cell<usize>,
    bytes_max: usize,
    /// More came than may be kept: this is the last sending.
    is_too_large: Cell<bool>,
    is_ended: Cell<bool>,
    turn: Cell<u32>,
}

impl<B> Replay<B> {
    /// Keeps at most `bytes_max` of `source`.
    pub(super) fn new(source: B, bytes_max: usize) -> Self {
        let kept = Kept {
            source: RefCell::new(source),
            data: RefCell::default(),
            trailers: RefCell::default(),
            bytes: Cell::new(0),
            bytes_max,
            is_too_large: Cell::new(false),
            is_ended: Cell::new(false),
            turn: Cell::new(0),
        };
        Self {
            kept: Rc::new(kept),
            turn: 0,
            sent: 0,
        }
    }

    pub(super) fn kept(&self) -> Rc<Kept<B>> {
        Rc::clone(&self.kept)
    }
}

impl<B> Kept<B> {
    /// Begins to send it again; `None` when it was too large to be kept.
    pub(super) fn again(self: &Rc<Self>) -> Option<Replay<B>> {
        if self.is_too_large.get() {
            return None;
        }
        self.turn.set(self.turn.get() + 1);
        Some(Replay {
            kept: Rc::clone(self),
            turn: self.turn.get(),
            sent: 0,
        })
    }

    fn keep(&self, frame: &Frame<Bytes>) {
        if let Some(trailers) = frame.trailers_ref() {
            *self.trailers.borrow_mut() = Some(trailers.clone());
            self.is_ended.set(true);
        }
        let Some(data) = frame.data_ref().filter(|_| !self.is_too_large.get()) else {
            return;
        };
        let bytes = self.bytes.get().saturating_add(data.len());
        if bytes > self.bytes_max {
            self.is_too_large.set(true);
            self.data.take();
        } else {
            self.bytes.set(bytes);
            // The bytes are shared with what goes out, not copied.
            self.data.borrow_mut().push(data.clone());
        }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Replay<B>
where
    B::Error: Into<BodyError>,
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let kept = &this.kept;
        if kept.turn.get() != this.turn {
            return Poll::Ready(Some(Err(BodyError::Superseded)));
        }
        let again = kept.data.borrow().get(this.sent).cloned();
        if let Some(data) = again {
            this.sent += 1;
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        if kept.is_ended.get() {
            let trailers = kept.trailers.borrow().clone().filter(|_| this.sent != usize::MAX);
            this.sent = usize::MAX;
            return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
        }
        let polled = Pin::new(&mut *kept.source.borrow_mut()).poll_frame(cx);
        match polled {
            Poll::Pending => Poll::Pending,
            Poll::Ready(None) => {
                kept.is_ended.set(true);
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(error.into()))),
            Poll::Ready(Some(Ok(frame))) => {
                kept.keep(&frame);
                this.sent = if frame.is_trailers() {
                    usize::MAX
                } else {
                    this.sent.saturating_add(1)
                };
                Poll::Ready(Some(Ok(frame)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let kept = &self.kept;
        let all_sent = self.sent >= kept.data.borrow().len();
        let has_trailers = kept.trailers.borrow().is_some() && self.sent != usize::MAX;
        all_sent && !has_trailers && (kept.is_ended.get() || kept.source.borrow().is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let source = self.kept.source.borrow().size_hint();
        let left = self.kept.data.borrow();
        let left: usize = left.iter().skip(self.sent).map(Bytes::len).sum();
        let left = left as u64;
        let mut hint = SizeHint::new();
        hint.set_lower(source.lower().saturating_add(left));
        if let Some(upper) = source.upper() {
            hint.set_upper(upper.saturating_add(left));
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http_body_util::BodyExt;

    use super::*;

    impl From<Infallible> for BodyError {
        fn from(never: Infallible) -> Self {
            match never {}
        }
    }

    /// A body of pieces that are there already.
    struct Pieces(std::vec::IntoIter<Frame<Bytes>>);

    impl Body for Pieces {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Ready(self.0.next().map(Ok))
        }
    }

    /// A body of these pieces, with a trailer.
    fn body(pieces: &[&'static str]) -> Pieces {
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", "1".parse().unwrap());
        let data = pieces
            .iter()
            .map(|piece| Frame::data(Bytes::from_static(piece.as_bytes())));
        let frames: Vec<_> = data.chain([Frame::trailers(trailers)]).collect();
        Pieces(frames.into_iter())
    }

    async fn collected(replay: Replay<Pieces>) -> (Bytes, bool) {
        let collected = replay.collect().await.unwrap();
        let has_trailer = collected.trailers().is_some();
        (collected.to_bytes(), has_trailer)
    }

    #[tokio::test]
    async fn a_small_body_goes_out_whole_each_time_however_far_the_first_had_come() {
        for read_first in 0..4 {
            let mut first = Replay::new(body(&["one", "two"]), 6);
            let kept = first.kept();
            for _ in 0..read_first {
                first.frame().await;
            }
            let second = kept.again().unwrap();
            assert!(matches!(first.frame().await, Some(Err(BodyError::Superseded))));
            assert_eq!(
                collected(second).await,
                (Bytes::from("onetwo"), true),
                "{read_first}"
            );
            assert_eq!(
                collected(kept.again().unwrap()).await,
                (Bytes::from("onetwo"), true)
            );
        }
    }

    #[tokio::test]
    async fn a_body_over_the_bound_passes_once() {
        let first = Replay::new(body(&["one", "two"]), 5);
        let kept = first.kept();
        assert_eq!(collected(first).await, (Bytes::from("onetwo"), true));
        assert!(kept.again().is_none());
    }

    #[tokio::test]
    async fn the_length_that_is_told_stays_that_of_the_whole_body() {
        let source = http_body_util::Full::new(Bytes::from("hello"));
        let mut first = Replay::new(source, 5);
        assert_eq!(first.size_hint().exact(), Some(5));
        let kept = first.kept();
        first.frame().await;
        assert_eq!(first.size_hint().exact(), Some(0));
        assert!(first.is_end_stream());
        let second = kept.again().unwrap();
        assert_eq!(second.size_hint().exact(), Some(5));
        assert!(!second.is_end_stream());
    }
}
