//! One request over one connection, and how that ends.

use std::pin::pin;
use std::time::{Duration, Instant};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;

use super::super::body::{Progress, RequestBody};
use super::failure::{UpstreamError, is_violation};
use super::pool::Lease;

/// An upstream's response, and the connection that still carries its body.
pub(in crate::proxy) struct Answer {
    pub(in crate::proxy) response: Response<Incoming>,
    pub(in crate::proxy) lease: Lease,
}

/// How one exchange over one connection ended.
pub(super) enum Exchanged {
    Answered(Answer),
    /// Not a byte of it was written.
    Unsent(Request<RequestBody>),
    Failed(UpstreamError),
}

/// How long to wait for the head of a response.
pub(super) struct Patience {
    pub(super) timeout: Duration,
    pub(super) started: Instant,
}

pub(super) async fn exchange(
    mut lease: Lease,
    request: Request<RequestBody>,
    patience: &Patience,
) -> Exchanged {
    let body = request.body().progress();
    let progress = body.as_deref();
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
        Ok(response) => {
            lease.request = body;
            Exchanged::Answered(Answer { response, lease })
        }
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
