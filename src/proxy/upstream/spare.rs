//! A request that may be sent again: what is kept of it, and when that is safe.

use std::rc::Rc;

use http::{Method, Request};

use super::super::body::{ClientBody, Progress, RequestBody};
use super::replay::{Kept, Replay};

/// A request that can be sent again.
pub(super) struct Spare {
    head: Request<()>,
    body: Option<(Rc<Kept<ClientBody>>, Rc<Progress>)>,
}

impl Spare {
    /// `None` when the body of `request` is not kept.
    pub(super) fn of(request: &Request<RequestBody>) -> Option<Self> {
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
        Some(Self { head, body })
    }

    /// `None` when the body has turned out too large.
    pub(super) fn into_request(self) -> Option<Request<RequestBody>> {
        let body = match self.body {
            None => RequestBody::Empty,
            Some((kept, progress)) => RequestBody::Replayed(kept.again()?, progress),
        };
        Some(self.head.map(|()| body))
    }
}

/// Has up to `bytes_max` of the body of `request` kept while it goes upstream.
pub(super) fn keep_body(request: Request<RequestBody>, bytes_max: usize) -> Request<RequestBody> {
    request.map(|body| match body {
        RequestBody::Streamed(body, progress) => {
            RequestBody::Replayed(Replay::new(body, bytes_max), progress)
        }
        other => other,
    })
}

/// Whether sending a request twice has the effect of sending it once (RFC 9110 §9.2.2).
pub(super) fn is_idempotent(method: &Method) -> bool {
    let idempotent = [
        Method::GET,
        Method::HEAD,
        Method::OPTIONS,
        Method::PUT,
        Method::DELETE,
    ];
    idempotent.contains(method)
}
