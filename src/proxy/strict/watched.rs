//! A response body, watched for whether its client takes it.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use hyper::body::{Body, Frame, SizeHint};

use crate::proxy::connection::Connection;

/// Passes a body on, and tells the connection when a part of it waits for the client: a part that was
/// handed on waits until the next is asked for. Over HTTP/1 none is handed on while the client takes nothing:
/// hyper would gather 64 KiB of them and more.
pub(in crate::proxy) struct Watched<B> {
    body: B,
    connection: Rc<Connection>,
    is_waiting: bool,
}

impl<B> Watched<B> {
    pub(in crate::proxy) fn new(body: B, connection: Rc<Connection>) -> Self {
        Self {
            body,
            connection,
            is_waiting: false,
        }
    }

    fn wait(&mut self, is_waiting: bool) {
        if self.is_waiting != is_waiting {
            self.is_waiting = is_waiting;
            self.connection.body_waits(is_waiting);
        }
    }
}

impl<B: Body + Unpin> Body for Watched<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        if self.connection.has_enough() {
            // What holds the connection up polls this again: the same task writes to the client.
            return Poll::Pending;
        }
        self.wait(false);
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        self.wait(matches!(polled, Poll::Ready(Some(Ok(_)))));
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B> Drop for Watched<B> {
    fn drop(&mut self) {
        self.wait(false);
    }
}
