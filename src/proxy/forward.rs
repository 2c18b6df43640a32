//! One request to an upstream: over an idle connection or a new one, again when that is safe.
//!
//! Safe means that the upstream cannot have acted twice: the request was never written, or it is
//! idempotent, without a body, and a connection from the pool died before its response (RFC 9110
//! §9.2.2, RFC 9112 §9.3.1). A failed connection attempt goes on to the next target.

use std::io;
use std::pin::pin;
use std::time::{Duration, Instant};

use http::uri::PathAndQuery;
use http::{HeaderValue, Method, Request, Response, Uri, header};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use thiserror::Error;

use super::body::{Progress, RequestBody};
use super::metrics::{Shard, UpstreamFailure};
use super::pool::{Lease, TargetPool, Upstream};
use super::strict::Violation;

/// Most targets that one request tries to connect to.
const CONNECT_ATTEMPTS_MAX: usize = 3;

/// Why no response came from an upstream. Nothing has been sent to the client.
#[derive(Debug, Error)]
pub(super) enum UpstreamError {
    #[error("its name has no address: {0}")]
    Unresolved(#[source] io::Error),
    #[error("it cannot be reached: {0}")]
    Connect(#[source] io::Error),
    #[error("it did not accept a connection in time")]
    ConnectTimeout,
    #[error("it did not answer in time")]
    ResponseTimeout,
    #[error("the connection broke or carried no HTTP: {0}")]
    Broken(#[source] hyper::Error),
    #[error("it answered with a message that cannot be passed on")]
    Unusable,
    #[error("the client stopped sending its request")]
    ClientStalled,
    #[error("the client broke off its request")]
    ClientGone,
}

impl UpstreamError {
    /// The kind of failure, unless it was the client's.
    pub(super) fn failure(&self) -> Option<UpstreamFailure> {
        match self {
            Self::Unresolved(_) => Some(UpstreamFailure::Unresolved),
            Self::Connect(_) => Some(UpstreamFailure::Connect),
            Self::ConnectTimeout => Some(UpstreamFailure::ConnectTimeout),
            Self::ResponseTimeout => Some(UpstreamFailure::ResponseTimeout),
            Self::Broken(_) | Self::Unusable => Some(UpstreamFailure::Broken),
            Self::ClientStalled | Self::ClientGone => None,
        }
    }
}

/// An upstream's response, and the connection that still carries its body.
pub(super) struct Answer {
    pub(super) response: Response<Incoming>,
    pub(super) lease: Lease,
}

/// Sends `request` to one of the targets of `upstream`, with `path` below the target's base path.
/// `now` is when this is called.
///
/// # Errors
/// [`UpstreamError`] when no target gave a response head in time.
pub(super) async fn forward(
    upstream: &Upstream,
    mut request: Request<RequestBody>,
    path: &PathAndQuery,
    shard: &Shard,
    now: Instant,
) -> Result<Answer, UpstreamError> {
    let mut targets = upstream.next_targets().take(CONNECT_ATTEMPTS_MAX).peekable();
    let patience = Patience {
        timeout: upstream.response_timeout,
        started: now,
    };

    if let Some(target) = targets.peek()
        && let Some(lease) = target.checkout()
    {
        address(&mut request, target, path);
        let spare = is_repeatable(&request).then(|| spare_of(&request));
        match exchange(lease, request, &patience).await {
            Exchanged::Answered(answer) => return Ok(answer),
            Exchanged::Unsent(unsent) => request = unsent,
            Exchanged::Failed(error) => match spare.filter(|_| is_lost(&error)) {
                Some(spare) => request = spare,
                None => return Err(error),
            },
        }
    }

    let (target, lease) = connect_first(upstream, targets).await?;
    shard.upstream_connections.add(1);
    address(&mut request, target, path);
    match exchange(lease, request, &patience).await {
        Exchanged::Answered(answer) => Ok(answer),
        Exchanged::Failed(error) => Err(error),
        Exchanged::Unsent(_) => Err(UpstreamError::Connect(io::ErrorKind::ConnectionReset.into())),
    }
}

/// A connection to the first of `targets` that accepts one.
async fn connect_first<'u>(
    upstream: &Upstream,
    targets: impl Iterator<Item = &'u std::rc::Rc<TargetPool>>,
) -> Result<(&'u TargetPool, Lease), UpstreamError> {
    let mut outcome = Err(UpstreamError::Unresolved(io::ErrorKind::NotFound.into()));
    for target in targets {
        match target.connect(upstream.connect_timeout).await {
            Ok(lease) => return Ok((target, lease)),
            Err(error) => outcome = Err(error),
        }
    }
    outcome
}

/// Puts the request in the form for `target`: origin form (RFC 9112 §3.2.1), and a Host.
fn address(request: &mut Request<RequestBody>, target: &TargetPool, path: &PathAndQuery) {
    *request.uri_mut() = if target.base_path.is_empty() {
        Uri::from(path.clone())
    } else {
        let joined = format!("{}{path}", target.base_path);
        joined.try_into().unwrap_or_else(|_| Uri::from(path.clone()))
    };
    if !request.headers().contains_key(header::HOST)
        && let Ok(host) = HeaderValue::from_str(&target.authority)
    {
        request.headers_mut().insert(header::HOST, host);
    }
}

/// Whether sending the request twice has the effect of sending it once.
fn is_repeatable(request: &Request<RequestBody>) -> bool {
    let idempotent = [
        Method::GET,
        Method::HEAD,
        Method::OPTIONS,
        Method::PUT,
        Method::DELETE,
    ];
    matches!(request.body(), RequestBody::Empty) && idempotent.contains(request.method())
}

fn spare_of(request: &Request<RequestBody>) -> Request<RequestBody> {
    let mut spare = Request::new(RequestBody::Empty);
    *spare.method_mut() = request.method().clone();
    *spare.uri_mut() = request.uri().clone();
    *spare.headers_mut() = request.headers().clone();
    spare
}

/// Whether the connection ended before its response, as one does that the upstream closed while idle.
fn is_lost(error: &UpstreamError) -> bool {
    let UpstreamError::Broken(error) = error else {
        return false;
    };
    let io = std::error::Error::source(error).and_then(|source| source.downcast_ref::<io::Error>());
    let reset = [
        io::ErrorKind::ConnectionReset,
        io::ErrorKind::BrokenPipe,
        io::ErrorKind::ConnectionAborted,
    ];
    error.is_incomplete_message()
        || error.is_canceled()
        || error.is_closed()
        || io.is_some_and(|io| reset.contains(&io.kind()))
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
    lease.asked.ask(request.method());
    let mut sent = pin!(lease.sender.try_send_request(request));
    let mut deadline = patience.started + patience.timeout;
    let mut frames = 0;
    let result = loop {
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
    Exchanged::Failed(if progress.is_some_and(Progress::failed) {
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
