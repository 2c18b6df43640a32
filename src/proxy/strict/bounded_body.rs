//! A request body of at most so many bytes, whichever way it comes.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

use crate::proxy::body::BodyError;

/// Breaks off where a body exceeds its bound. A body whose length is declared is refused before it is read;
/// this is for those that declare none, as HTTP/2 allows. No byte over the bound passes.
pub(in crate::proxy) struct BoundedBody<B> {
    body: B,
    left: u64,
}

impl<B> BoundedBody<B> {
    /// `body` of at most `bytes_max`.
    pub(in crate::proxy) fn new(body: B, bytes_max: u64) -> Self {
        Self {
            body,
            left: bytes_max,
        }
    }
}

impl<B: Body<Data = Bytes, Error: Into<BodyError>> + Unpin> Body for BoundedBody<B> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx).map_err(Into::into);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(data) = frame.data_ref()
        {
            match self.left.checked_sub(data.len() as u64) {
                Some(left) => self.left = left,
                None => return Poll::Ready(Some(Err(BodyError::TooLarge))),
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
