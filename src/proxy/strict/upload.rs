//! A request body as it comes from the client.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::Version;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use super::unread::discard_stream;
use crate::proxy::body::BodyError;
use crate::proxy::connection::Connection;
use crate::proxy::pace::Rate;

/// Passes a body on. The guard around a connection of HTTP/1 knows how its bodies move; over HTTP/2 this tells, and
/// leaves what its reader does not want to be discarded.
pub(in crate::proxy) struct Upload {
    body: Option<Incoming>,
    stream: Option<Stream>,
}

/// That a body has a stream of HTTP/2 for itself.
struct Stream {
    connection: Rc<Connection>,
    motion: Rc<Motion>,
}

/// How a body over HTTP/2 moves.
#[derive(Default)]
pub(in crate::proxy) struct Motion {
    /// Its reader waits for more.
    is_starving: Cell<bool>,
    bytes: Cell<u64>,
    rate: Rate,
    is_too_slow: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Motion {
    /// Has the body break off if it comes slower than `bytes` in so many `ticks` in which it is waited for; to be
    /// called at each tick.
    pub(in crate::proxy) fn check(&self, ticks: u32, bytes: u64) {
        if self.is_starving.get() && !self.rate.is_kept(self.bytes.get(), ticks, bytes) {
            self.is_too_slow.set(true);
            self.waker.borrow().iter().for_each(Waker::wake_by_ref);
        }
    }

    /// Whether it broke off because it came too slowly.
    pub(in crate::proxy) fn is_too_slow(&self) -> bool {
        self.is_too_slow.get()
    }

    fn note(&self, polled: &Poll<Option<Result<Frame<Bytes>, hyper::Error>>>, cx: &Context<'_>) {
        self.is_starving.set(polled.is_pending());
        match polled {
            Poll::Pending => {
                let mut waker = self.waker.borrow_mut();
                if !waker.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
                    *waker = Some(cx.waker().clone());
                }
            }
            Poll::Ready(Some(Ok(frame))) => {
                let bytes = frame.data_ref().map_or(0, Bytes::len) as u64;
                self.bytes.set(self.bytes.get().wrapping_add(bytes));
            }
            Poll::Ready(_) => {}
        }
    }
}

impl Upload {
    /// The body of a request of `version` that came over `connection`.
    pub(in crate::proxy) fn new(body: Incoming, version: Version, connection: &Rc<Connection>) -> Self {
        let has_stream = version == Version::HTTP_2 && !body.is_end_stream();
        let stream = has_stream.then(|| Stream {
            connection: Rc::clone(connection),
            motion: connection.watch_upload(),
        });
        Self {
            body: Some(body),
            stream,
        }
    }

    /// How it moves, if that is told here.
    pub(in crate::proxy) fn motion(&self) -> Option<Rc<Motion>> {
        self.stream.as_ref().map(|stream| Rc::clone(&stream.motion))
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Self { body, stream } = &mut *self;
        let Some(incoming) = body else {
            return Poll::Ready(None);
        };
        if stream.as_ref().is_some_and(|stream| stream.motion.is_too_slow()) {
            return Poll::Ready(Some(Err(BodyError::TooSlow)));
        }
        let polled = Pin::new(incoming).poll_frame(cx);
        if let Some(stream) = stream {
            stream.motion.note(&polled, cx);
        }
        if let Poll::Ready(None | Some(Err(_))) = polled {
            *body = None;
        }
        polled.map_err(Into::into)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let hint = self.body.as_ref().map(Body::size_hint);
        hint.unwrap_or(SizeHint::with_exact(0))
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let Some(stream) = &self.stream else {
            return;
        };
        stream.connection.forget_upload(&stream.motion);
        if let Some(body) = self.body.take() {
            discard_stream(body);
        }
    }
}
