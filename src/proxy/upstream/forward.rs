//! One request to an upstream: over an idle connection or a new one, again when that is safe.
//!
//! A connection that cannot be made is always tried elsewhere: nothing was sent. Beyond that, safe means that
//! the effect of twice is that of once: the request was never written, or it is idempotent, with a body that was
//! kept or none (RFC 9110 §9.2.2, RFC 9112 §9.3.1). Retries are bounded by tries and by the upstream's budget;
//! only the replacement of a pooled connection that died while it was idle is free. Once the head of a response
//! has been passed on, nothing is tried again.

#![expect(
    clippy::disallowed_methods,
    reason = "a shell: requests are timed by a real clock, and retries spread by chance"
)]

use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use http::uri::PathAndQuery;
use http::{Method, Request, Response, StatusCode};
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::TrySendError;
use thiserror::Error;

use super::super::body::{ClientBody, Progress, RequestBody};
use super::super::metrics::{Shard, UpstreamFailure};
use super::super::strict::Violation;
use super::budget::RetryPermit;
use super::local::{Tried, Upstream, Wish};
use super::pool::{Lease, Pool, Reserved};
use super::replay::{Kept, Replay};
use crate::config::UpstreamConfig;

/// Longest pause before the first retry; it doubles with each, and is drawn between nothing and all of it, so
/// that requests that failed together do not come back together.
const BACKOFF: Duration = Duration::from_millis(25);

/// Why no response came from an upstream. Nothing has been sent to the client.
#[derive(Debug, Error)]
pub(in crate::proxy) enum UpstreamError {
    #[error("its name has no address: {0}")]
    Unresolved(#[source] io::Error),
    #[error("it cannot be reached: {0}")]
    Connect(#[source] io::Error),
    #[error("it did not accept a connection in time")]
    ConnectTimeout,
    #[error("too many requests wait for a connection to it, or this one did for too long")]
    Overloaded,
    #[error("it did not answer in time")]
    ResponseTimeout,
    #[error("the request took too long in all")]
    TotalTimeout,
    #[error("the connection broke or carried no HTTP: {0}")]
    Broken(#[source] hyper::Error),
    #[error("it answered with a message that cannot be passed on")]
    Unusable,
    #[error("the client stopped sending its request")]
    ClientStalled,
    #[error("the client broke off its request")]
    ClientGone,
    #[error("the client sent a larger body than it may")]
    BodyTooLarge,
}

impl UpstreamError {
    /// The kind of failure, unless it was the client's.
    pub(in crate::proxy) fn failure(&self) -> Option<UpstreamFailure> {
        match self {
            Self::Unresolved(_) => Some(UpstreamFailure::Unresolved),
            Self::Connect(_) => Some(UpstreamFailure::Connect),
            Self::ConnectTimeout => Some(UpstreamFailure::ConnectTimeout),
            Self::Overloaded => Some(UpstreamFailure::Overloaded),
            Self::ResponseTimeout => Some(UpstreamFailure::ResponseTimeout),
            Self::TotalTimeout => Some(UpstreamFailure::TotalTimeout),
            Self::Broken(_) | Self::Unusable => Some(UpstreamFailure::Broken),
            Self::ClientStalled | Self::ClientGone | Self::BodyTooLarge => None,
        }
    }

    /// Nothing reached a server.
    fn is_of_connecting(&self) -> bool {
        matches!(self, Self::Connect(_) | Self::ConnectTimeout)
    }
}

/// An upstream's response, and the connection that still carries its body.
pub(in crate::proxy) struct Answer {
    pub(in crate::proxy) response: Response<Incoming>,
    pub(in crate::proxy) lease: Lease,
}

/// How a request goes upstream.
pub(in crate::proxy) struct Journey<'r> {
    /// Path and query, to be put below the target's base path.
    pub(in crate::proxy) path: &'r PathAndQuery,
    /// What sorts it, by [`Upstream::hash`].
    pub(in crate::proxy) hash: Option<u64>,
    pub(in crate::proxy) shard: &'r Shard,
    /// When it began.
    pub(in crate::proxy) started: Instant,
}

/// Sends `request` to one of the endpoints of `upstream`.
///
/// # Errors
/// [`UpstreamError`] when none gave a response head in time.
pub(in crate::proxy) async fn forward(
    upstream: &Upstream,
    request: Request<RequestBody>,
    journey: &Journey<'_>,
) -> Result<Answer, UpstreamError> {
    let Some(timeout) = upstream.state.config.total_timeout else {
        return Tries::new(upstream, journey, &request).run(request).await;
    };
    let deadline = journey.started + timeout;
    let tries = Tries::new(upstream, journey, &request).run(request);
    // Boxed, so that requests without such a bound carry none of it.
    let answer = Box::pin(tokio::time::timeout_at(deadline.into(), tries)).await;
    let mut answer = answer.map_err(|_| UpstreamError::TotalTimeout)??;
    answer.lease.deadline = Some(deadline);
    Ok(answer)
}

/// The tries of one request.
struct Tries<'r> {
    upstream: &'r Upstream,
    journey: &'r Journey<'r>,
    is_idempotent: bool,
    /// Tries that remain, the next one included.
    left: u32,
    /// Retries that were made, beside those of connecting.
    retries: u32,
    tried: Tried,
    /// A connection from the pool was dead; the next has to be new.
    is_fresh: bool,
    /// Leave for the retry under way.
    permit: Option<RetryPermit<'r>>,
    /// The answer has taken over what is in flight.
    has_answered: bool,
}

impl Drop for Tries<'_> {
    fn drop(&mut self) {
        let slot = self.upstream.slot();
        slot.in_flight.sub(u64::from(!self.has_answered));
    }
}

/// What to do after a try.
enum After {
    Return(Result<Answer, UpstreamError>),
    Again(Request<RequestBody>),
}

impl<'r> Tries<'r> {
    fn new(upstream: &'r Upstream, journey: &'r Journey<'r>, request: &Request<RequestBody>) -> Self {
        upstream.slot().in_flight.add(1);
        Self {
            upstream,
            journey,
            is_idempotent: is_idempotent(request.method()),
            left: upstream.state.config.retries.tries,
            retries: 0,
            tried: Tried::new(),
            is_fresh: false,
            permit: None,
            has_answered: false,
        }
    }

    fn config(&self) -> &'r UpstreamConfig {
        &self.upstream.state.config
    }

    async fn run(mut self, request: Request<RequestBody>) -> Result<Answer, UpstreamError> {
        let mut request = self.keep_body(request);
        let mut now = self.journey.started;
        loop {
            self.left = self.left.saturating_sub(1);
            let lease = match self.lease(&mut now).await? {
                Some(lease) => lease,
                None => continue,
            };
            match self.try_once(lease, request, now).await {
                After::Return(result) => return result,
                After::Again(again) => request = again,
            }
            now = Instant::now();
        }
    }

    /// A connection to the next endpoint; `None` when another is to be tried.
    async fn lease(&mut self, now: &mut Instant) -> Result<Option<Lease>, UpstreamError> {
        let wish = Wish {
            hash: self.journey.hash,
            tried: &self.tried,
            is_fresh: self.is_fresh,
        };
        let ticket = match self.upstream.reserve(&wish, *now).await? {
            Reserved::Lease(lease) => return Ok(Some(lease)),
            Reserved::Ticket(ticket) => ticket,
        };
        let pool = Rc::clone(&ticket.pool);
        match ticket.connect().await {
            Ok(lease) => {
                self.journey.shard.upstream_connections.add(1);
                // The server's time to answer begins with the connection.
                *now = Instant::now();
                Ok(Some(lease))
            }
            Err(error) => {
                pool.failed();
                if !error.is_of_connecting() || self.left == 0 {
                    return Err(error);
                }
                self.note_tried(&pool);
                *now = Instant::now();
                Ok(None)
            }
        }
    }

    async fn try_once(&mut self, lease: Lease, mut request: Request<RequestBody>, now: Instant) -> After {
        let pool = Rc::clone(lease.pool());
        let is_reused = lease.is_reused;
        let spare = self.spare_of(&request, is_reused);
        pool.target()
            .address(&mut request, self.journey.path, lease.speaks());
        let patience = Patience {
            timeout: self.config().response_timeout,
            started: now,
        };
        match exchange(lease, request, &patience).await {
            Exchanged::Answered(answer) => self.after_answer(answer, spare, &pool).await,
            Exchanged::Unsent(unsent) => self.after_unsent(unsent, &pool),
            Exchanged::Failed(error) => self.after_failure(error, spare, is_reused, &pool).await,
        }
    }

    async fn after_answer(&mut self, mut answer: Answer, spare: Option<Spare>, pool: &Rc<Pool>) -> After {
        let status = answer.response.status();
        if self.config().ejection.statuses.contains(&status) {
            pool.failed();
        } else {
            pool.endpoint.succeeded();
        }
        let again = spare
            .filter(|_| self.is_cause(status))
            .and_then(Spare::into_request);
        match again {
            Some(again) if self.may_retry() => {
                if answer.response.body().is_end_stream() {
                    answer.lease.release();
                } else {
                    drop(answer);
                }
                self.retry(pool).await;
                After::Again(again)
            }
            _ => {
                self.has_answered = true;
                answer.lease.carries_request = true;
                After::Return(Ok(answer))
            }
        }
    }

    /// The connection went away before a byte of the request went out.
    fn after_unsent(&mut self, unsent: Request<RequestBody>, pool: &Rc<Pool>) -> After {
        // As often as a connection may fail to be made, and once more for one from the pool.
        if self.is_fresh && self.left == 0 {
            let error = io::Error::from(io::ErrorKind::ConnectionReset);
            return After::Return(Err(UpstreamError::Connect(error)));
        }
        if self.is_fresh {
            self.note_tried(pool);
        } else {
            self.replace_connection();
        }
        After::Again(unsent)
    }

    async fn after_failure(
        &mut self,
        error: UpstreamError,
        spare: Option<Spare>,
        is_reused: bool,
        pool: &Rc<Pool>,
    ) -> After {
        let is_lost = is_lost(&error);
        let is_free = is_reused && is_lost && !self.is_fresh;
        if error.failure().is_some() && !is_free {
            pool.failed();
        }
        let again = spare.filter(|_| is_lost).and_then(Spare::into_request);
        match again {
            Some(again) if is_free => {
                self.replace_connection();
                After::Again(again)
            }
            Some(again) if self.config().retries.on_reset && self.may_retry() => {
                self.retry(pool).await;
                After::Again(again)
            }
            _ => After::Return(Err(error)),
        }
    }

    /// Tries again over a new connection: it costs no try, but is done once.
    fn replace_connection(&mut self) {
        self.is_fresh = true;
        self.left = self.left.saturating_add(1);
    }

    fn is_cause(&self, status: StatusCode) -> bool {
        self.config().retries.on_statuses.contains(&status)
    }

    /// Whether there are tries left, and the budget allows one.
    fn may_retry(&mut self) -> bool {
        if self.left == 0 {
            return false;
        }
        let state = &self.upstream.state;
        if self.permit.is_none() {
            self.permit = state.budget.take(state.in_flight());
        }
        if self.permit.is_none() {
            self.upstream.slot().retries_refused.add(1);
        }
        self.permit.is_some()
    }

    async fn retry(&mut self, pool: &Rc<Pool>) {
        self.upstream.slot().retries.add(1);
        self.note_tried(pool);
        let longest = BACKOFF.saturating_mul(1 << self.retries.min(5));
        self.retries += 1;
        tokio::time::sleep(self.upstream.by_chance(longest)).await;
    }

    fn note_tried(&mut self, pool: &Rc<Pool>) {
        self.is_fresh = false;
        if !self.tried.iter().any(|tried| Rc::ptr_eq(tried, pool)) {
            self.tried.push(Rc::clone(pool));
        }
    }

    /// Has the body kept, if the request could be sent again with it.
    fn keep_body(&self, request: Request<RequestBody>) -> Request<RequestBody> {
        let bytes_max = self.config().retries.body_bytes_max;
        if !self.is_idempotent || !self.retries_responses() || bytes_max == 0 {
            return request;
        }
        request.map(|body| match body {
            RequestBody::Streamed(body, progress) => {
                RequestBody::Replayed(Replay::new(body, bytes_max), progress)
            }
            other => other,
        })
    }

    fn retries_responses(&self) -> bool {
        let retries = &self.config().retries;
        retries.tries > 1 && (retries.on_reset || !retries.on_statuses.is_empty())
    }

    /// What it takes to send the request again, if that is safe and may come to be done.
    fn spare_of(&self, request: &Request<RequestBody>, is_reused: bool) -> Option<Spare> {
        let is_worth_it = is_reused || (self.left > 0 && self.retries_responses());
        if !self.is_idempotent || !is_worth_it {
            return None;
        }
        let body = match request.body() {
            RequestBody::Empty => None,
            RequestBody::Replayed(replay, progress) => Some((replay.kept(), Rc::clone(progress))),
            RequestBody::Streamed(..) => return None,
        };
        let mut head = Request::new(());
        *head.method_mut() = request.method().clone();
        *head.uri_mut() = request.uri().clone();
        *head.version_mut() = request.version();
        *head.headers_mut() = request.headers().clone();
        Some(Spare { head, body })
    }
}

/// A request that can be sent again.
struct Spare {
    head: Request<()>,
    body: Option<(Rc<Kept<ClientBody>>, Rc<Progress>)>,
}

impl Spare {
    /// `None` when the body has turned out too large.
    fn into_request(self) -> Option<Request<RequestBody>> {
        let body = match self.body {
            None => RequestBody::Empty,
            Some((kept, progress)) => RequestBody::Replayed(kept.again()?, progress),
        };
        Some(self.head.map(|()| body))
    }
}

/// Whether sending a request twice has the effect of sending it once (RFC 9110 §9.2.2).
fn is_idempotent(method: &Method) -> bool {
    let idempotent = [
        Method::GET,
        Method::HEAD,
        Method::OPTIONS,
        Method::PUT,
        Method::DELETE,
    ];
    idempotent.contains(method)
}

/// Whether the connection ended before its response, as one does that the upstream closed while idle; or the
/// server said that it did not begin with the request (RFC 9113 §6.8, §8.7).
fn is_lost(error: &UpstreamError) -> bool {
    let UpstreamError::Broken(error) = error else {
        return false;
    };
    let source = std::error::Error::source(error);
    let io = source.and_then(|source| source.downcast_ref::<io::Error>());
    let h2 = source.and_then(|source| source.downcast_ref::<h2::Error>());
    error.is_incomplete_message()
        || error.is_canceled()
        || error.is_closed()
        || io.is_some_and(is_reset)
        || h2.is_some_and(is_lost_stream)
}

fn is_lost_stream(error: &h2::Error) -> bool {
    let is_refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
    let is_gone = error.is_go_away() && error.is_remote();
    is_refused || is_gone || error.get_io().is_some_and(is_reset)
}

fn is_reset(error: &io::Error) -> bool {
    let reset = [
        io::ErrorKind::ConnectionReset,
        io::ErrorKind::BrokenPipe,
        io::ErrorKind::ConnectionAborted,
        io::ErrorKind::UnexpectedEof,
    ];
    reset.contains(&error.kind())
}

/// How one exchange over one connection ended.
enum Exchanged {
    Answered(Answer),
    /// Not a byte of it was written.
    Unsent(Request<RequestBody>),
    Failed(UpstreamError),
}

/// How long to wait for the head of a response.
struct Patience {
    timeout: Duration,
    started: Instant,
}

async fn exchange(mut lease: Lease, request: Request<RequestBody>, patience: &Patience) -> Exchanged {
    let progress = request.body().progress();
    let progress = progress.as_deref();
    let result = {
        let mut sent = pin!(lease.send(request));
        let mut deadline = patience.started + patience.timeout;
        let mut frames = progress.map_or(0, Progress::frames);
        loop {
            match tokio::time::timeout_at(deadline.into(), &mut sent).await {
                Ok(result) => break result,
                // The upstream's time starts when it has the whole request; until then, it must only move.
                Err(_) => match progress {
                    Some(progress) if progress.frames() > frames => {
                        frames = progress.frames();
                        deadline += patience.timeout;
                    }
                    Some(progress) if progress.waits_for_client() => {
                        return Exchanged::Failed(UpstreamError::ClientStalled);
                    }
                    _ => return Exchanged::Failed(UpstreamError::ResponseTimeout),
                },
            }
        }
    };
    match result {
        Ok(response) => Exchanged::Answered(Answer { response, lease }),
        Err(error) => sort_failure(error, progress),
    }
}

fn sort_failure(mut error: TrySendError<Request<RequestBody>>, progress: Option<&Progress>) -> Exchanged {
    if let Some(unsent) = error.take_message() {
        return Exchanged::Unsent(unsent);
    }
    let error = error.into_error();
    Exchanged::Failed(if progress.is_some_and(Progress::exceeded) {
        UpstreamError::BodyTooLarge
    } else if progress.is_some_and(Progress::failed) {
        UpstreamError::ClientGone
    } else if is_violation(&error) {
        UpstreamError::Unusable
    } else {
        UpstreamError::Broken(error)
    })
}

/// Whether the guard around the connection found a response that breaks a rule of HTTP/1.
fn is_violation(error: &hyper::Error) -> bool {
    let io = std::error::Error::source(error).and_then(|source| source.downcast_ref::<io::Error>());
    let source = io.and_then(io::Error::get_ref);
    source.is_some_and(|source| source.is::<Violation>())
}
