//! One request from its head to the head of its response.
//!
//! The order is fixed: what is malformed is refused before it is routed, what has no route is refused
//! before it is counted (as Kong has it), what is denied never reaches an upstream, and peers are told of
//! what was admitted before the upstream is.

#![expect(
    clippy::disallowed_methods,
    reason = "a shell: requests are timed by a real clock"
)]

use std::net::IpAddr;
use std::rc::Rc;
use std::time::Instant;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::uri::PathAndQuery;
use http::{Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;

use super::access_log::{self, Entry};
use super::body::{RequestBody, ResponseBody};
use super::charge::Subject;
use super::client_ip::client_ip;
use super::connection::{Answered, Connection, InFlight, Tunnel};
use super::forwarding::client_scheme;
use super::headers::{
    self, X_REQUEST_ID, X_WEIR_NODE, X_WEIR_PROXY_LATENCY, X_WEIR_UPSTREAM_LATENCY, X_WEIR_WINDOW,
};
use super::in_force::Plan;
use super::respond::{Audience, Refusal, refuse};
use super::route::{Asked, Forwarding, OwnAnswer, RouteState, Step, Wanted};
use super::strict;
use super::upstream::{Answer, Journey, UpstreamError, forward};
use super::wait::{wait_for_rights, wall_clock};
use super::{ANNOUNCE_MAX, Announced, ProxyShared};
use crate::limit::{Charge, Decision, Due, Outcome};
use crate::path::{PathError, normalize};

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
    let entry = begin_entry(&plan.shared, &connection, &request, started);
    let mut turn = Turn {
        connection: &connection,
        plan: &plan,
        request_id: &request_id,
        started,
        decision: None,
        announced: None,
        entry,
        route: None,
        closes: false,
    };
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
    if turn.closes && version < Version::HTTP_2 {
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

/// What came back from an upstream.
struct Passed {
    answer: Answer,
    /// The client's side of a WebSocket that the upstream has accepted.
    websocket: Option<OnUpgrade>,
    times: Times,
}

/// When an upstream was asked, and when it answered.
#[derive(Clone, Copy)]
struct Times {
    asked: Instant,
    answered: Instant,
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
                let (parts, body) = request.into_parts();
                self.closes = !strict::discard(body, &parts.headers).await;
                return Err(refusal);
            }
        };
        match step {
            Step::Answer(own) => Ok((route, Reply::Own(own))),
            Step::Forward(forwarding, path) => {
                let passed = self.pass_on(request, forwarding, &path, host.as_ref()).await;
                let passed = passed.map_err(|error| self.upstream_refusal(error))?;
                Ok((route, Reply::Passed(passed)))
            }
        }
    }

    /// Finds the route and charges the limits. Answers what becomes of the request then.
    async fn admit(
        &mut self,
        request: &Request<Incoming>,
        host: Option<&HeaderValue>,
    ) -> Result<(&'c RouteState, Step<'c>), Refusal> {
        let config = self.shared().config();
        let slashes = config.routing.escaped_slashes;
        let path = &normalize(request.uri().path(), slashes).map_err(bad_path)?;
        let host = host.and_then(|host| host.to_str().ok()).unwrap_or_default();
        let wanted = Wanted {
            host,
            path,
            method: request.method(),
            headers: request.headers(),
            query: request.uri().query().unwrap_or_default(),
        };
        let (route, hit) = self.shared().route(&wanted).ok_or(Refusal::NoRoute)?;
        self.route = Some(route);
        let asked = Asked {
            scheme: client_scheme(request.headers(), self.connection.peer()),
            host,
            path,
            sent: request.uri().path_and_query(),
        };
        if route.plan.is_empty() {
            return Ok((route, route.step(hit.path, &asked, slashes).map_err(bad_path)?));
        }
        let limiter = self.shared().limiter();
        let proxy = &config.proxy;
        let subject = Subject {
            client: client_ip(
                self.connection.peer().address,
                request.headers(),
                &proxy.trusted_proxies,
                proxy.client_ip_header,
            ),
            headers: request.headers(),
            path,
            route: &route.config,
        };
        let charges = route.plan.charges(&subject, self.shared().hasher());
        let now = wall_clock();
        limiter.prefetch(&charges, now);
        // Worked out while the counters are on their way. What cannot be passed on is not counted.
        let step = route.step(hit.path, &asked, slashes).map_err(bad_path)?;
        let mut decision = limiter.check(&charges, now);
        if !decision.short.is_empty() {
            let shard = self.connection.worker().shard();
            // Boxed, so that requests that wait for nothing carry none of it.
            decision = Box::pin(wait_for_rights(self.shared(), shard, &charges, decision)).await;
        }
        self.apply(decision, &charges, &subject, route)?;
        Ok((route, step))
    }

    /// Does what a decision says.
    fn apply(
        &mut self,
        decision: Decision,
        charges: &[Charge],
        subject: &Subject<'_>,
        route: &RouteState,
    ) -> Result<(), Refusal> {
        let shared = self.shared();
        match decision.due {
            Due::No => {}
            Due::Wake => drop(shared.announce()),
            Due::Await => self.announced = Some(shared.announce()),
        }
        if decision.created {
            let identities = route.plan.identities(subject);
            for (charge, identity) in charges.iter().zip(identities) {
                shared.limiter().names().record(charge.key, &identity);
            }
        }
        let outcome = decision.outcome;
        let is_short = !decision.short.is_empty();
        let without_share = decision.without_share;
        self.decision = Some(decision);
        let shard = self.connection.worker().shard();
        match outcome {
            Outcome::Admitted => shard.admitted.add(1),
            Outcome::Denied { .. } => {
                shard.denied.add(1);
                shard.denied_short.add(u64::from(is_short));
                shard.denied_without_share.add(u64::from(without_share));
                return Err(Refusal::Denied);
            }
        }
        Ok(())
    }

    async fn pass_on(
        &self,
        mut request: Request<Incoming>,
        route: &Forwarding,
        path: &PathAndQuery,
        host: Option<&HeaderValue>,
    ) -> Result<Passed, UpstreamError> {
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
        let request = Request::from_parts(parts, RequestBody::new(body, bytes_max));
        let asked = Instant::now();
        let journey = Journey {
            path,
            hash,
            shard: worker.shard(),
            started: asked,
        };
        let answer = forward(upstream, request, &journey).await?;
        let times = Times {
            asked,
            answered: Instant::now(),
        };
        let switches = answer.response.status() == StatusCode::SWITCHING_PROTOCOLS;
        let usable = headers::transfer_coding_is_known(answer.response.headers());
        if !usable || (switches && websocket.is_none()) {
            return Err(UpstreamError::Unusable);
        }
        let websocket = websocket.filter(|_| switches);
        Ok(Passed {
            answer,
            websocket,
            times,
        })
    }

    fn client_ip(&self, headers: &HeaderMap) -> IpAddr {
        let proxy = &self.shared().config().proxy;
        let peer = self.connection.peer().address;
        client_ip(peer, headers, &proxy.trusted_proxies, proxy.client_ip_header)
    }

    /// Turns an upstream's response into the client's.
    fn pass_back(
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

    fn upstream_refusal(&self, error: UpstreamError) -> Refusal {
        if let (UpstreamError::ClientGone, Some(violation)) = (&error, self.connection.ledger().broken()) {
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

/// The request's entry in the access log, if one is kept of it.
fn begin_entry(
    shared: &ProxyShared,
    connection: &Connection,
    request: &Request<Incoming>,
    started: Instant,
) -> Option<Box<Entry>> {
    let log = shared.access_log()?;
    let proxy = &shared.config().proxy;
    let client = client_ip(
        connection.peer().address,
        request.headers(),
        &proxy.trusted_proxies,
        proxy.client_ip_header,
    );
    log.begin(request, client, started, &mut *connection.worker().rng())
}

fn bad_path(error: PathError) -> Refusal {
    Refusal::BadRequest(error.message())
}
