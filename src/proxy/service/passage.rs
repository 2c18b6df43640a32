//! A request on its way to its upstream, and the response on its way back.

#![expect(
    clippy::disallowed_methods,
    reason = "a shell: upstreams are timed by a real clock"
)]

use std::time::Instant;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::uri::PathAndQuery;
use http::{Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;

use super::Turn;
use crate::proxy::body::{RequestBody, ResponseBody};
use crate::proxy::connection::{InFlight, Tunnel};
use crate::proxy::headers::{self, X_WEIR_PROXY_LATENCY, X_WEIR_UPSTREAM_LATENCY};
use crate::proxy::respond::Refusal;
use crate::proxy::route::Forwarding;
use crate::proxy::strict::{Motion, Upload, Violation};
use crate::proxy::upstream::{Answer, Journey, UpstreamError, forward};

/// What came back from an upstream.
pub(super) struct Passed {
    pub(super) answer: Answer,
    /// The client's side of a WebSocket that the upstream has accepted.
    pub(super) websocket: Option<OnUpgrade>,
    pub(super) times: Times,
}

/// When an upstream was asked, and when it answered.
#[derive(Clone, Copy)]
pub(super) struct Times {
    pub(super) asked: Instant,
    pub(super) answered: Instant,
}

impl Turn<'_> {
    pub(super) async fn pass_on(
        &self,
        mut request: Request<Incoming>,
        route: &Forwarding,
        path: &PathAndQuery,
        host: Option<&HeaderValue>,
    ) -> Result<Passed, Refusal> {
        let websocket = headers::wants_websocket(&request).then(|| hyper::upgrade::on(&mut request));
        let (mut parts, body) = request.into_parts();
        let worker = self.connection.worker();
        let upstream = &self.plan.upstreams[route.upstream];
        let hash = upstream.hash(&parts.headers, || self.client_ip(&parts.headers));
        let version = std::mem::replace(&mut parts.version, Version::HTTP_11);
        headers::prepare_request(
            &mut parts.headers,
            version,
            self.connection.peer(),
            host,
            self.request_id,
        );
        if websocket.is_some() {
            headers::set_websocket(&mut parts.headers);
        }
        route.change_request(&mut parts.headers);
        let bytes_max = self.shared().config().proxy.body_bytes_max.unwrap_or(u64::MAX);
        let upload = Upload::new(body, version, self.connection);
        let motion = upload.motion();
        let request = Request::from_parts(parts, RequestBody::new(upload, bytes_max));
        let asked = Instant::now();
        let journey = Journey {
            path,
            hash,
            shard: worker.shard(),
            started: asked,
        };
        let answer = forward(upstream, request, &journey).await;
        let answer = answer.map_err(|error| self.upstream_refusal(error, motion.as_deref()))?;
        let times = Times {
            asked,
            answered: Instant::now(),
        };
        let switches = answer.response.status() == StatusCode::SWITCHING_PROTOCOLS;
        let usable = headers::transfer_coding_is_known(answer.response.headers());
        if !usable || (switches && websocket.is_none()) {
            return Err(self.upstream_refusal(UpstreamError::Unusable, None));
        }
        let websocket = websocket.filter(|_| switches);
        Ok(Passed {
            answer,
            websocket,
            times,
        })
    }

    /// Turns an upstream's response into the client's.
    pub(super) fn pass_back(
        &self,
        answer: Answer,
        websocket: Option<OnUpgrade>,
        times: Times,
        in_flight: InFlight,
    ) -> Response<ResponseBody> {
        let Answer { mut response, lease } = answer;
        let received = response.version();
        headers::remove_hop_by_hop(response.headers_mut());
        let mut response = match websocket {
            None => response.map(|body| ResponseBody::upstream(body, lease, in_flight)),
            Some(client) => {
                let upstream = hyper::upgrade::on(&mut response);
                let tunnel = Tunnel {
                    client,
                    upstream,
                    in_flight: InFlight::new(self.connection),
                };
                self.connection.become_tunnel(tunnel);
                headers::set_websocket(response.headers_mut());
                response.map(|_| ResponseBody::text(Bytes::new(), in_flight))
            }
        };
        *response.version_mut() = Version::HTTP_11;
        let worker = self.connection.worker();
        let headers = response.headers_mut();
        headers.append(header::VIA, headers::via(received));
        headers.insert(X_WEIR_PROXY_LATENCY, worker.millis(times.asked - self.started));
        headers.insert(
            X_WEIR_UPSTREAM_LATENCY,
            worker.millis(times.answered - times.asked),
        );
        response
    }

    /// What the client is told of `error`; `motion` is that of its body, over HTTP/2.
    fn upstream_refusal(&self, error: UpstreamError, motion: Option<&Motion>) -> Refusal {
        let is_too_slow = motion.is_some_and(Motion::is_too_slow);
        let broken = if is_too_slow {
            Some(Violation::BodyTooSlow)
        } else {
            self.connection.ledger().broken()
        };
        if let (UpstreamError::ClientGone, Some(violation)) = (&error, broken) {
            return Refusal::Strict(violation);
        }
        let request_id = self.request_id.to_str().unwrap_or_default();
        tracing::debug!(request_id, %error, "the upstream gave no answer");
        if let Some(failure) = error.failure() {
            self.connection.worker().shard().upstream_failed(failure);
        }
        Refusal::Upstream(error)
    }
}
