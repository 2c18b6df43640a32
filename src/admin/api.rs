//! The endpoints: which there are, who may call them, and what they answer.

use std::fmt::Display;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use http::header::{
    ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HOST, HeaderMap, HeaderValue, WWW_AUTHENTICATE,
};
use http::uri::Authority;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Body;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::limit::SyncMode;
use crate::replica::NodeId;

use super::limits::{Sweeps, most_used};
use super::views::{ErrorView, ReadinessView};
use super::{Node, Refused, TIMEOUT};

/// Largest body; the longest sensible one names a node, and has 80 bytes.
const BODY_BYTES_MAX: usize = 1024;

/// How many keys `/v1/limits` shows unless told, and at most.
const LIMITS_DEFAULT: usize = 100;
const LIMITS_MAX: usize = 1000;

/// Every endpoint with the methods it allows.
const ENDPOINTS: [(&str, &str); 9] = [
    ("/livez", "GET, HEAD"),
    ("/readyz", "GET, HEAD"),
    ("/metrics", "GET, HEAD"),
    ("/v1/peers", "GET, HEAD"),
    ("/v1/limits", "GET, HEAD"),
    ("/v1/config", "GET, HEAD"),
    ("/v1/mode", "PUT"),
    ("/v1/roster", "GET, HEAD"),
    ("/v1/roster/forget", "POST"),
];

/// Answers admin requests on behalf of a [`Node`].
pub(super) struct Api {
    node: Arc<dyn Node>,
    token: Option<TokenDigest>,
    sweeps: Sweeps,
}

/// What is compared in place of the token: a caller cannot steer the digest of a guess towards that of
/// the token, so the time a comparison takes tells nothing of either, not even their lengths.
#[derive(PartialEq, Eq)]
struct TokenDigest([u8; 32]);

impl TokenDigest {
    fn of(token: &[u8]) -> Self {
        Self(Sha256::digest(token).into())
    }
}

type Answer = Response<Full<Bytes>>;

impl Api {
    pub(super) fn new(node: Arc<dyn Node>, token: Option<&str>) -> Self {
        Self {
            node,
            token: token.map(|token| TokenDigest::of(token.as_bytes())),
            sweeps: Sweeps::new(),
        }
    }

    /// Answers one request, within [`TIMEOUT`].
    pub(super) async fn handle<B>(&self, request: Request<B>) -> Answer
    where
        B: Body + Send,
        B::Data: Buf,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let late = || refuse(StatusCode::SERVICE_UNAVAILABLE, "no answer in time");
        let answer = tokio::time::timeout(TIMEOUT, self.dispatch(request)).await;
        answer.unwrap_or_else(|_| late())
    }

    async fn dispatch<B>(&self, request: Request<B>) -> Answer
    where
        B: Body + Send,
        B::Data: Buf,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let path = request.uri().path();
        if path.starts_with("/v1/")
            && let Some(refusal) = self.refusal(&request)
        {
            return refusal;
        }
        let Some((_, allowed)) = ENDPOINTS.iter().find(|(known, _)| *known == path) else {
            return not_found();
        };
        if !allowed
            .split(", ")
            .any(|method| method == request.method().as_str())
        {
            return wrong_method(request.method(), allowed);
        }
        match path {
            "/livez" => json(StatusCode::OK, &serde_json::json!({"alive": true})),
            "/readyz" => self.readiness(),
            "/metrics" => self.metrics(),
            "/v1/peers" => json(StatusCode::OK, &self.node.peers()),
            "/v1/limits" => self.limits(request.uri().query().unwrap_or("")).await,
            "/v1/config" => json(StatusCode::OK, &self.node.config()),
            "/v1/mode" => self.set_mode(request.into_body()).await,
            "/v1/roster" => self.roster().await,
            "/v1/roster/forget" => self.forget(request.into_body()).await,
            _ => not_found(),
        }
    }

    /// Why this caller may not use `/v1/`.
    fn refusal<B>(&self, request: &Request<B>) -> Option<Answer> {
        match &self.token {
            Some(token) => (!carries(request.headers(), token)).then(unauthorized),
            None => (!names_loopback(request)).then(|| {
                let message = "without a token this answers only to an address or `localhost` as host";
                refuse(StatusCode::MISDIRECTED_REQUEST, message)
            }),
        }
    }

    fn readiness(&self) -> Answer {
        let missing = self.node.missing();
        let ready = missing.is_empty();
        let status = if ready {
            StatusCode::OK
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        };
        json(status, &ReadinessView { ready, missing })
    }

    fn metrics(&self) -> Answer {
        match self.node.metrics().encode() {
            Ok(text) => answer(StatusCode::OK, super::metrics::CONTENT_TYPE, text),
            Err(error) => refuse(StatusCode::INTERNAL_SERVER_ERROR, error),
        }
    }

    async fn limits(&self, query: &str) -> Answer {
        match limits_shown(query) {
            Ok(shown) => json(StatusCode::OK, &most_used(&self.node, &self.sweeps, shown).await),
            Err(message) => refuse(StatusCode::BAD_REQUEST, message),
        }
    }

    async fn set_mode<B>(&self, body: B) -> Answer
    where
        B: Body + Send,
        B::Data: Buf,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let body = match read_body(body).await {
            Ok(body) => body,
            Err(refusal) => return refusal,
        };
        let mode = match read_mode(&body) {
            Ok(mode) => mode,
            Err(message) => return refuse(StatusCode::BAD_REQUEST, message),
        };
        match self.node.set_mode(mode).await {
            Ok(set) => json(StatusCode::OK, &set),
            Err(Refused::NotFound(message)) => refuse(StatusCode::NOT_FOUND, message),
            Err(Refused::Conflict(message)) => refuse(StatusCode::CONFLICT, message),
            Err(Refused::Unavailable(message)) => refuse(StatusCode::SERVICE_UNAVAILABLE, message),
        }
    }

    async fn roster(&self) -> Answer {
        match self.node.roster().await {
            Ok(roster) => json(StatusCode::OK, &roster),
            Err(message) => refuse(StatusCode::SERVICE_UNAVAILABLE, message),
        }
    }

    async fn forget<B>(&self, body: B) -> Answer
    where
        B: Body + Send,
        B::Data: Buf,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct ForgetRequest {
            node: NodeId,
        }
        let body = match read_body(body).await {
            Ok(body) => body,
            Err(refusal) => return refusal,
        };
        let node = match serde_json::from_slice::<ForgetRequest>(&body) {
            Ok(request) => request.node,
            Err(error) => {
                let message = format!("{error}: expected {{\"node\":\"NODE_ID\"}}");
                return refuse(StatusCode::BAD_REQUEST, message);
            }
        };
        match self.node.forget(node).await {
            Ok(forgotten) => json(StatusCode::OK, &forgotten),
            Err(Refused::NotFound(message)) => refuse(StatusCode::NOT_FOUND, message),
            Err(Refused::Conflict(message)) => refuse(StatusCode::CONFLICT, message),
            Err(Refused::Unavailable(message)) => refuse(StatusCode::SERVICE_UNAVAILABLE, message),
        }
    }
}

async fn read_body<B>(body: B) -> Result<Bytes, Answer>
where
    B: Body + Send,
    B::Data: Buf,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    match Limited::new(body, BODY_BYTES_MAX).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => Err(refuse(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("a body has at most {BODY_BYTES_MAX} bytes"),
        )),
        Err(error) => Err(refuse(StatusCode::BAD_REQUEST, error)),
    }
}

fn carries(headers: &HeaderMap, token: &TokenDigest) -> bool {
    let credentials = headers.get(AUTHORIZATION).map(HeaderValue::as_bytes);
    let bearer = credentials.and_then(|value| value.split_at_checked("Bearer ".len()));
    bearer.is_some_and(|(scheme, given)| {
        // RFC 9110 section 11.1: the scheme is case-insensitive.
        scheme.eq_ignore_ascii_case(b"Bearer ") && TokenDigest::of(given) == *token
    })
}

/// Whether the request was meant for this listener. Without a token it listens on loopback, where a web
/// page in a browser of the same machine reaches it too, under a name that its author lets resolve to
/// 127.0.0.1 (DNS rebinding): such a request carries that name as its host.
fn names_loopback<B>(request: &Request<B>) -> bool {
    let Some(host) = request.headers().get(HOST) else {
        return true;
    };
    let authority = host.to_str().ok().and_then(|host| host.parse::<Authority>().ok());
    authority.is_some_and(|authority| {
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok()
    })
}

/// Reads `limit=N`; every other parameter is an error, since a mistyped one would go unnoticed.
fn limits_shown(query: &str) -> Result<usize, String> {
    let mut shown = LIMITS_DEFAULT;
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        let number = parameter.strip_prefix("limit=");
        let number =
            number.ok_or_else(|| format!("unknown parameter `{parameter}`: only `limit=N` is known"))?;
        let number = number
            .parse()
            .ok()
            .filter(|number| (1..=LIMITS_MAX).contains(number));
        shown = number.ok_or_else(|| format!("`limit` is a number from 1 to {LIMITS_MAX}"))?;
    }
    Ok(shown)
}

/// Reads `{"mode":"local"}`, or `local` as plain text.
fn read_mode(body: &[u8]) -> Result<SyncMode, String> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct ModeRequest {
        mode: String,
    }
    let text = std::str::from_utf8(body)
        .map_err(|_| "the body is not UTF-8".to_owned())?
        .trim();
    let name = match text.starts_with('{') {
        false => text.to_owned(),
        true => {
            serde_json::from_str::<ModeRequest>(text)
                .map_err(|error| format!("{error}: expected {{\"mode\":\"local\"}}, `gossip` or `bounded`"))?
                .mode
        }
    };
    name.parse()
        .map_err(|error: crate::limit::RuleError| error.to_string())
}

fn unauthorized() -> Answer {
    let mut answer = refuse(
        StatusCode::UNAUTHORIZED,
        "this needs the header `Authorization: Bearer TOKEN`",
    );
    answer
        .headers_mut()
        .insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    answer
}

fn not_found() -> Answer {
    let paths = ENDPOINTS.map(|(path, _)| path);
    let body = serde_json::json!({"message": "no such path", "paths": paths});
    json(StatusCode::NOT_FOUND, &body)
}

fn wrong_method(method: &Method, allowed: &'static str) -> Answer {
    let mut answer = refuse(
        StatusCode::METHOD_NOT_ALLOWED,
        format!("{method} is not among {allowed}"),
    );
    answer
        .headers_mut()
        .insert(ALLOW, HeaderValue::from_static(allowed));
    answer
}

fn refuse(status: StatusCode, message: impl Display) -> Answer {
    json(
        status,
        &ErrorView {
            message: message.to_string(),
        },
    )
}

fn json(status: StatusCode, body: &impl Serialize) -> Answer {
    match serde_json::to_string(body) {
        Ok(text) => answer(status, "application/json", text),
        Err(error) => answer(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", error.to_string()),
    }
}

fn answer(status: StatusCode, content_type: &'static str, mut body: String) -> Answer {
    // A terminal shows the next prompt on a line of its own.
    if !body.ends_with('\n') {
        body.push('\n');
    }
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

#[cfg(test)]
#[path = "api_tests.rs"]
mod tests;
