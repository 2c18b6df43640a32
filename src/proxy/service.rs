//! One request from its head to the head of its response.
//!
//! The order is fixed: what is malformed is refused before it is routed, what has no route is refused
//! before it is counted (as Kong has it), what is denied never reaches an upstream, and peers are told of
//! what was admitted before the upstream is.

#![expect(
    clippy::disallowed_methods,
    reason = "a shell: requests are timed by a real clock"
)]

mod admission;
mod passage;

use std::net::IpAddr;
use std::rc::Rc;
use std::time::Instant;

use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;

use super::access_log::{self, Entry};
use super::body::ResponseBody;
use super::client_ip::client_ip;
use super::connection::{Answered, Connection, InFlight};
use super::headers::{self, X_REQUEST_ID, X_WEIR_NODE, X_WEIR_UPSTREAM_LATENCY, X_WEIR_WINDOW};
use super::in_force::Plan;
use super::respond::{Audience, Refusal, refuse};
use super::route::{OwnAnswer, RouteState, Step};
use super::strict;
use super::{Announced, ProxyShared};
use crate::admission::ANNOUNCE_MAX;
use crate::limit::{Decision, Outcome};
use passage::{Passed, Times};

/// Answers one request; whatever fails becomes a response.
pub(super) async fn answer(
    connection: Rc<Connection>,
    request: Request<Incoming>,
) -> Answered<Response<ResponseBody>> {
    if strict::is_malformed(&request) {
        return Err(h2::Reason::PROTOCOL_ERROR.into());
    }
    let started = Instant::now();
    let in_flight = InFlight::new(&connection);
    let worker = connection.worker();
    let plan = worker.plan();
    let request_id = headers::client_request_id(request.headers(), connection.peer())
        .unwrap_or_else(|| worker.new_request_id());
    let audience = Audience::new(request.headers(), request.method() == Method::HEAD);
    let mut turn = Turn {
        connection: &connection,
        plan: &plan,
        request_id: &request_id,
        started,
        decision: None,
        announced: None,
        entry: None,
        route: None,
        closes: false,
    };
    turn.entry = turn.begin_entry(&request);
    let version = request.version();
    let is_head = request.method() == Method::HEAD;
    let (mut response, ended, said) = match turn.proxy(request).await {
        Ok((route, reply)) => {
            let (mut response, ended, said) = match reply {
                Reply::Passed(passed) => (
                    turn.pass_back(passed.answer, passed.websocket, passed.times, in_flight),
                    passed.times.answered,
                    Said::Upstream(passed.times),
                ),
                Reply::Own(own) => (own.into_response(is_head, in_flight), Instant::now(), Said::Route),
            };
            route.change_response(response.headers_mut());
            (response, ended, said)
        }
        Err(refusal) => {
            if let Some(reason) = refusal.reason() {
                worker.shard().refused(reason);
            }
            (
                refuse(&refusal, &audience, &request_id, in_flight),
                Instant::now(),
                Said::Weir(refusal.message(), refusal.status()),
            )
        }
    };
    turn.let_count_leave().await;
    turn.finish(response.headers_mut());
    connection.decline_upgrade();
    let goes_on = response.status() == StatusCode::SWITCHING_PROTOCOLS || !worker.winds_down();
    let closes = turn.closes || !goes_on;
    if closes && version < Version::HTTP_2 {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
    }
    if let Some(entry) = turn.entry.take() {
        turn.log(entry, &mut response, said);
    }
    let status = said.status(&response);
    worker.shard().responded(status, ended - started);
    Ok(response)
}

/// One request on its way.
struct Turn<'c> {
    connection: &'c Rc<Connection>,
    /// What it goes by, to its end.
    plan: &'c Plan,
    request_id: &'c HeaderValue,
    started: Instant,
    /// Set once limits have looked at the request.
    decision: Option<Decision>,
    /// Set when peers are being told of it.
    announced: Option<Announced>,
    /// The request's body is left unread, so that no other can follow it over HTTP/1.
    closes: bool,
    /// Its entry in the access log, if it has one.
    entry: Option<Box<Entry>>,
    /// Set once it has one.
    route: Option<&'c RouteState>,
}

/// Whose words a response are.
#[derive(Clone, Copy)]
enum Said {
    Upstream(Times),
    /// A redirect or a fixed response.
    Route,
    /// A refusal, and what it is in HTTP; gRPC tells it by a 200.
    Weir(&'static str, StatusCode),
}

impl Said {
    /// The status that `response` stands for.
    fn status(self, response: &Response<ResponseBody>) -> StatusCode {
        match self {
            Self::Weir(_, status) => status,
            Self::Upstream(_) | Self::Route => response.status(),
        }
    }
}

/// What a route answers.
enum Reply {
    Passed(Passed),
    Own(OwnAnswer),
}

impl<'c> Turn<'c> {
    fn shared(&self) -> &'c ProxyShared {
        &self.plan.shared
    }

    async fn proxy(&mut self, mut request: Request<Incoming>) -> Result<(&'c RouteState, Reply), Refusal> {
        if let Some(violation) = self.connection.next_refusal() {
            return Err(Refusal::Strict(violation));
        }
        strict::drop_untrusted(request.headers_mut());
        let admitted = match strict::check_form(&request, &self.shared().config().proxy) {
            Ok(host) => self
                .admit(&request, host.as_ref())
                .await
                .map(|admitted| (admitted, host)),
            Err(refusal) => Err(refusal),
        };
        let ((route, step), host) = match admitted {
            Ok(admitted) => admitted,
            Err(refusal) => {
                self.discard(request).await;
                return Err(refusal);
            }
        };
        match step {
            Step::Answer(own) => {
                self.discard(request).await;
                Ok((route, Reply::Own(own)))
            }
            Step::Forward(forwarding, path) => {
                let passed = self.pass_on(request, forwarding, &path, host.as_ref()).await;
                Ok((route, Reply::Passed(passed?)))
            }
        }
    }

    /// Leaves the body of a request unread that Weir answers itself, in a way that the client gets to read the answer.
    async fn discard(&mut self, request: Request<Incoming>) {
        let (parts, body) = request.into_parts();
        if parts.version == Version::HTTP_2 {
            drop(strict::Upload::new(body, parts.version, self.connection));
        } else {
            self.closes = !strict::discard(body, parts.version, &parts.headers).await;
        }
    }

    fn client_ip(&self, headers: &HeaderMap) -> IpAddr {
        let proxy = &self.shared().config().proxy;
        let peer = self.connection.peer().address;
        client_ip(peer, headers, &proxy.trusted_proxies, proxy.client_ip_header)
    }

    /// The upstream has answered meanwhile, so as a rule this waits for nothing.
    async fn let_count_leave(&mut self) {
        if let Some(announced) = self.announced.take() {
            let _ = tokio::time::timeout(ANNOUNCE_MAX, announced).await;
        }
    }

    /// Adds what every response says, and what the limits say of this one.
    fn finish(&self, headers: &mut HeaderMap) {
        if !headers.contains_key(X_WEIR_UPSTREAM_LATENCY) {
            headers.append(header::VIA, headers::via(Version::HTTP_11));
        }
        headers.insert(X_REQUEST_ID, self.request_id.clone());
        let Some(decision) = &self.decision else {
            return;
        };
        let shared = self.shared();
        if !shared.config().limits.hide_headers {
            crate::limit::headers::apply(decision, shared.header_names(), headers);
        }
        if shared.config().proxy.debug_headers {
            headers.insert(X_WEIR_NODE, shared.node().clone());
            if let Some(state) = decision.windows.first() {
                headers.insert(X_WEIR_WINDOW, HeaderValue::from(state.window.start.0));
            }
        }
    }

    /// The request's entry in the access log, if one is kept of it.
    fn begin_entry(&self, request: &Request<Incoming>) -> Option<Box<Entry>> {
        let log = self.shared().access_log()?;
        let client = self.client_ip(request.headers());
        let rng = &mut *self.connection.worker().rng();
        log.begin(request, client, self.started, rng)
    }

    /// Writes down what came of the request, once its response has ended.
    #[cold]
    fn log(&self, mut entry: Box<Entry>, response: &mut Response<ResponseBody>, said: Said) {
        let verdict = |decision: &Decision| match decision.outcome {
            Outcome::Admitted => access_log::Verdict::Admitted,
            Outcome::Denied { window } => {
                let denying = decision.windows.get(window);
                let rule = denying.and_then(|state| self.shared().rules.get(state.rule));
                access_log::Verdict::Denied(rule.map(|rule| rule.name.clone()).unwrap_or_default())
            }
        };
        entry.conclude(access_log::Outcome {
            request_id: self.request_id.clone(),
            status: said.status(response),
            route: self.route.map(|route| route.config.name.clone()),
            upstream_time: match said {
                Said::Upstream(times) => Some(times.answered - times.asked),
                Said::Route | Said::Weir(..) => None,
            },
            limit: self.decision.as_ref().map(verdict),
            refusal: match said {
                Said::Upstream(_) | Said::Route => None,
                Said::Weir(words, _) => Some(words),
            },
        });
        response.body_mut().log(entry);
    }
}
