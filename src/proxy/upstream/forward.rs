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
use std::rc::Rc;
use std::time::{Duration, Instant};

use http::uri::PathAndQuery;
use http::{Request, StatusCode};
use hyper::body::Body as _;

use super::super::body::RequestBody;
use super::super::metrics::Shard;
use super::budget::RetryPermit;
use super::exchange::{Answer, Exchanged, Patience, exchange};
use super::failure::{UpstreamError, is_lost};
use super::local::{Tried, Upstream, Wish};
use super::pool::{Lease, Pool, Reserved};
use super::spare::{Spare, is_idempotent, keep_body};
use crate::config::UpstreamConfig;

/// Longest pause before the first retry; it doubles with each, and is drawn between nothing and all of it, so
/// that requests that failed together do not come back together.
const BACKOFF: Duration = Duration::from_millis(25);

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
        keep_body(request, bytes_max)
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
        Spare::of(request)
    }
}
