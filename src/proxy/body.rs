//! Bodies on their way through: streamed frame by frame, trailers included, never collected.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use thiserror::Error;

use super::access_log::Entry;
use super::connection::InFlight;
use super::metrics::UpstreamFailure;
use super::strict::{BoundedBody, Upload, drop_untrusted_trailers};
use super::upstream::{Lease, Overdue, Replay, Watch};

/// The body of a request as it comes from the client.
pub(super) type ClientBody = BoundedBody<Upload>;

/// The body of a request as it goes upstream.
pub(super) enum RequestBody {
    /// No body: the request may be sent again.
    Empty,
    /// The client's body, and how far it has been passed on.
    Streamed(ClientBody, Rc<Progress>),
    /// The same, kept so that it can be sent again.
    Replayed(Replay<ClientBody>, Rc<Progress>),
}

/// Why a body broke off.
#[derive(Debug, Error)]
pub(super) enum BodyError {
    #[error(transparent)]
    Http(#[from] hyper::Error),
    #[error(transparent)]
    Overdue(#[from] Overdue),
    #[error("the request is being sent again")]
    Superseded,
    #[error("the request's body is too large")]
    TooLarge,
    #[error("the request's body comes too slowly")]
    TooSlow,
}

/// How far a streamed request body has come.
#[derive(Default)]
pub(super) struct Progress {
    frames: Cell<u64>,
    waiting: Cell<bool>,
    failed: Cell<bool>,
    exceeded: Cell<bool>,
}

impl Progress {
    /// Frames passed on so far.
    pub(super) fn frames(&self) -> u64 {
        self.frames.get()
    }

    /// The upstream would take more, but the client has not sent it.
    pub(super) fn waits_for_client(&self) -> bool {
        self.waiting.get()
    }

    /// The client broke its body off.
    pub(super) fn failed(&self) -> bool {
        self.failed.get()
    }

    /// The request ended before its body did, by the client's doing.
    fn is_broken(&self) -> bool {
        self.failed() || self.exceeded()
    }

    /// The client sent more than it may.
    pub(super) fn exceeded(&self) -> bool {
        self.exceeded.get()
    }

    fn note(&self, polled: &Poll<Option<Result<Frame<Bytes>, BodyError>>>) {
        match polled {
            // The request goes on, in another sending.
            Poll::Ready(Some(Err(BodyError::Superseded))) => return,
            Poll::Ready(Some(Err(BodyError::TooLarge))) => self.exceeded.set(true),
            Poll::Ready(Some(Ok(_))) => self.frames.set(self.frames.get() + 1),
            Poll::Ready(Some(Err(_))) => self.failed.set(true),
            Poll::Ready(None) | Poll::Pending => {}
        }
        self.waiting.set(polled.is_pending());
    }
}

impl RequestBody {
    /// Wraps the body of a client's request, which may have so many bytes.
    pub(super) fn new(upload: Upload, bytes_max: u64) -> Self {
        if upload.is_end_stream() {
            Self::Empty
        } else {
            Self::Streamed(BoundedBody::new(upload, bytes_max), Rc::default())
        }
    }

    /// How far the body has come; `None` when there is none.
    pub(super) fn progress(&self) -> Option<Rc<Progress>> {
        match self {
            Self::Empty => None,
            Self::Streamed(_, progress) | Self::Replayed(_, progress) => Some(Rc::clone(progress)),
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let (mut polled, progress) = match &mut *self {
            Self::Empty => return Poll::Ready(None),
            Self::Streamed(body, progress) => (Pin::new(body).poll_frame(cx), progress),
            Self::Replayed(replay, progress) => (Pin::new(replay).poll_frame(cx), progress),
        };
        drop_untrusted(&mut polled);
        progress.note(&polled);
        polled
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Streamed(body, _) => body.is_end_stream(),
            Self::Replayed(replay, _) => replay.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Streamed(body, _) => body.size_hint(),
            Self::Replayed(replay, _) => replay.size_hint(),
        }
    }
}

/// Trailers say nothing that Weir vouches for in the head.
fn drop_untrusted<E>(polled: &mut Poll<Option<Result<Frame<Bytes>, E>>>) {
    if let Poll::Ready(Some(Ok(frame))) = polled
        && let Some(trailers) = frame.trailers_mut()
    {
        drop_untrusted_trailers(trailers);
    }
}

/// The body of a response as it goes to the client. The request is in flight until it is dropped.
pub(super) struct ResponseBody {
    source: Source,
    in_flight: InFlight,
    entry: Option<Box<Entry>>,
}

enum Source {
    /// Weir's own words; `None` once they are sent.
    Text(Option<Bytes>),
    /// The upstream's body, and the connection that it comes from.
    Upstream(Incoming, Option<Lease>, Watch),
}

impl ResponseBody {
    /// Weir's own words; may be empty.
    pub(super) fn text(text: Bytes, in_flight: InFlight) -> Self {
        let source = Source::Text(Some(text).filter(|text| !text.is_empty()));
        Self::new(source, in_flight)
    }

    /// The body of an upstream's response. `lease` goes back to its pool when the body has ended, and is
    /// closed if it is dropped before, or if the upstream takes longer than it may.
    pub(super) fn upstream(incoming: Incoming, lease: Lease, in_flight: InFlight) -> Self {
        let watch = lease.watch();
        let mut source = Source::Upstream(incoming, Some(lease), watch);
        source.release_if_ended();
        Self::new(source, in_flight)
    }

    fn new(source: Source, in_flight: InFlight) -> Self {
        let entry = None;
        Self {
            source,
            in_flight,
            entry,
        }
    }

    /// Has `entry` count what is sent, and end with this body.
    pub(super) fn log(&mut self, mut entry: Box<Entry>) {
        if self.is_end_stream() {
            entry.complete();
        }
        self.entry = Some(entry);
    }
}

impl Source {
    fn release_if_ended(&mut self) {
        if let Self::Upstream(incoming, lease, _) = self
            && incoming.is_end_stream()
            && let Some(lease) = lease.take()
        {
            lease.release();
        }
    }
}

impl ResponseBody {
    fn poll_source(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let (incoming, lease, watch) = match &mut self.source {
            Source::Text(text) => return Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
            Source::Upstream(incoming, lease, watch) => (incoming, lease, watch),
        };
        match Pin::new(incoming).poll_frame(cx) {
            Poll::Pending => match watch.poll_overdue(cx) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(overdue) => {
                    fail(lease, &self.in_flight, UpstreamFailure::BodyTimeout);
                    Poll::Ready(Some(Err(overdue.into())))
                }
            },
            Poll::Ready(Some(Ok(frame))) => {
                watch.moved();
                self.source.release_if_ended();
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                fail(lease, &self.in_flight, UpstreamFailure::Body);
                Poll::Ready(Some(Err(error.into())))
            }
            Poll::Ready(None) => {
                lease.take().into_iter().for_each(Lease::release);
                Poll::Ready(None)
            }
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = self.poll_source(cx);
        let has_ended = self.is_end_stream();
        if let Some(entry) = &mut self.entry {
            match &polled {
                Poll::Ready(Some(Ok(frame))) => {
                    entry.sent(frame.data_ref().map_or(0, Bytes::len));
                    if has_ended {
                        entry.complete();
                    }
                }
                Poll::Ready(None) => entry.complete(),
                Poll::Ready(Some(Err(_))) | Poll::Pending => {}
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Text(text) => text.is_none(),
            Source::Upstream(incoming, ..) => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Text(text) => SizeHint::with_exact(text.as_ref().map_or(0, |text| text.len() as u64)),
            Source::Upstream(incoming, ..) => incoming.size_hint(),
        }
    }
}

/// Closes the connection of a response that broke off or stood still, and counts that, unless it is the client's
/// doing: it cannot have a server left out.
fn fail(lease: &mut Option<Lease>, in_flight: &InFlight, failure: UpstreamFailure) {
    let lease = lease.take();
    let request = lease.as_ref().and_then(Lease::request);
    if request.is_some_and(Progress::is_broken) {
        return;
    }
    let waits = failure == UpstreamFailure::BodyTimeout && request.is_some_and(Progress::waits_for_client);
    lease.iter().filter(|_| !waits).for_each(Lease::failed);
    in_flight.shard().upstream_failed(failure);
}
