//! The one place that turns every failure and denial into a status and a body.
//!
//! The body says what failed and whose fault it is, in the form that the client accepts, and names the
//! request so that an operator can find it. It never names servers or addresses. gRPC has its own form.

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{HeaderMap, Response, StatusCode};

use super::body::ResponseBody;
use super::connection::InFlight;
use super::grpc;
use super::metrics::RefusalReason;
use super::strict::Violation;
use super::upstream::UpstreamError;

/// Why Weir answers a request itself.
#[derive(Debug)]
pub(super) enum Refusal {
    /// The request is malformed, in the words given.
    BadRequest(&'static str),
    /// No route takes it. The words are Kong's.
    NoRoute,
    /// A method that a gateway has no use for: CONNECT, TRACE.
    MethodNotAllowed,
    /// A limit is used up. The words are Kong's.
    Denied,
    /// It has more header fields than allowed.
    TooManyHeaders,
    /// It asks what the server can do in general (RFC 9110 §9.3.7).
    ServerOptions,
    /// It breaks a rule of HTTP/1, or exceeds a limit.
    Strict(Violation),
    /// It expects something else than `100-continue`.
    Expectation,
    /// Its body has a transfer coding that Weir cannot pass on.
    TransferCoding,
    /// The upstream did not answer.
    Upstream(UpstreamError),
}

impl Refusal {
    /// What it is in HTTP, whichever form it is told in.
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::BadRequest(_) | Self::Upstream(UpstreamError::ClientGone) => StatusCode::BAD_REQUEST,
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::Denied => StatusCode::TOO_MANY_REQUESTS,
            Self::TooManyHeaders => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::ServerOptions => StatusCode::OK,
            Self::Strict(violation) => violation.status(),
            Self::Expectation => StatusCode::EXPECTATION_FAILED,
            Self::TransferCoding => StatusCode::NOT_IMPLEMENTED,
            Self::Upstream(error) => upstream_status(error),
        }
    }

    /// Its kind in metrics; `None` for what refuses nothing.
    pub(super) fn reason(&self) -> Option<RefusalReason> {
        Some(match self {
            Self::BadRequest(_) | Self::Expectation | Self::TransferCoding => RefusalReason::Malformed,
            Self::NoRoute => RefusalReason::NoRoute,
            Self::MethodNotAllowed => RefusalReason::Method,
            Self::Denied => RefusalReason::RateLimit,
            Self::TooManyHeaders => RefusalReason::TooLarge,
            Self::ServerOptions => return None,
            Self::Strict(violation) => reason_of(*violation),
            Self::Upstream(UpstreamError::ClientStalled) => RefusalReason::TooSlow,
            Self::Upstream(UpstreamError::ClientGone) => RefusalReason::ClientGone,
            Self::Upstream(UpstreamError::BodyTooLarge) => RefusalReason::TooLarge,
            Self::Upstream(_) => RefusalReason::Upstream,
        })
    }

    /// What is wrong, in the words that the client gets.
    pub(super) fn message(&self) -> &'static str {
        match self {
            Self::BadRequest(message) => message,
            Self::NoRoute => "no Route matched with those values",
            Self::MethodNotAllowed => "this method is not allowed",
            Self::Denied => "API rate limit exceeded",
            Self::TooManyHeaders => "the request has too many header fields",
            Self::ServerOptions => "these methods are allowed",
            Self::Strict(violation) => violation.message(),
            Self::Expectation => "the request expects something other than 100-continue",
            Self::TransferCoding => "the request has a transfer coding other than chunked",
            Self::Upstream(error) => upstream_message(error),
        }
    }
}

fn reason_of(violation: Violation) -> RefusalReason {
    match violation {
        Violation::Connect => RefusalReason::Method,
        Violation::BodyTooSlow => RefusalReason::TooSlow,
        Violation::BodyTooLarge
        | Violation::TargetTooLong
        | Violation::TooManyFields
        | Violation::HeadTooLarge => RefusalReason::TooLarge,
        _ => RefusalReason::Malformed,
    }
}

fn upstream_status(error: &UpstreamError) -> StatusCode {
    match error {
        UpstreamError::Unresolved(_) | UpstreamError::Overloaded => StatusCode::SERVICE_UNAVAILABLE,
        UpstreamError::Connect(_) | UpstreamError::Broken(_) | UpstreamError::Unusable => {
            StatusCode::BAD_GATEWAY
        }
        UpstreamError::ConnectTimeout | UpstreamError::ResponseTimeout | UpstreamError::TotalTimeout => {
            StatusCode::GATEWAY_TIMEOUT
        }
        UpstreamError::ClientStalled => StatusCode::REQUEST_TIMEOUT,
        UpstreamError::ClientGone => StatusCode::BAD_REQUEST,
        UpstreamError::BodyTooLarge => Violation::BodyTooLarge.status(),
    }
}

fn upstream_message(error: &UpstreamError) -> &'static str {
    match error {
        UpstreamError::Unresolved(_) => "the upstream server's name has no address",
        UpstreamError::Connect(_) => "the upstream server cannot be reached",
        UpstreamError::ConnectTimeout => "the upstream server did not accept a connection in time",
        UpstreamError::Overloaded => "the upstream servers have no connection to spare",
        UpstreamError::TotalTimeout => "the request took too long in all",
        UpstreamError::ResponseTimeout => "the upstream server did not answer in time",
        UpstreamError::Broken(_) => "the upstream server closed the connection without a valid response",
        UpstreamError::Unusable => "the upstream server sent a response that cannot be passed on",
        UpstreamError::ClientStalled => "the client stopped sending its request",
        UpstreamError::ClientGone => "the client broke off its request",
        UpstreamError::BodyTooLarge => Violation::BodyTooLarge.message(),
    }
}

/// What a client wants to know, beside the refusal itself, about how it is told.
pub(super) struct Audience {
    format: Format,
    head: bool,
    is_grpc: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Json,
    Html,
    Plain,
}

impl Audience {
    /// Reads how the client wants to be answered; `head` when it wants no body.
    pub(super) fn new(headers: &HeaderMap, head: bool) -> Self {
        Self {
            format: accepted_format(headers),
            head,
            is_grpc: grpc::is_grpc(headers),
        }
    }
}

/// The response that tells `audience` of `refusal`.
pub(super) fn refuse(
    refusal: &Refusal,
    audience: &Audience,
    request_id: &HeaderValue,
    in_flight: InFlight,
) -> Response<ResponseBody> {
    if audience.is_grpc && !refusal.status().is_success() {
        let mut response = Response::new(ResponseBody::text(Bytes::new(), in_flight));
        grpc::tell(&mut response, refusal.status(), refusal.message());
        return response;
    }
    let (content_type, text) = render(audience.format, refusal.message(), request_id);
    let length = HeaderValue::from(text.len());
    let body = if audience.head { Bytes::new() } else { text.into() };
    let mut response = Response::new(ResponseBody::text(body, in_flight));
    *response.status_mut() = refusal.status();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CONTENT_LENGTH, length);
    if matches!(refusal, Refusal::ServerOptions) || refusal.status() == StatusCode::METHOD_NOT_ALLOWED {
        let allowed = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
        headers.insert(header::ALLOW, allowed);
    }
    response
}

/// `message` and `request_id` need no escaping: the one is our own words, the other visible ASCII of
/// which the encoders here replace what could end a string or a tag.
fn render(format: Format, message: &str, request_id: &HeaderValue) -> (&'static str, String) {
    let id = request_id.to_str().unwrap_or_default();
    match format {
        Format::Json => {
            let id = id.replace('\\', "\\\\").replace('"', "\\\"");
            let text = format!("{{\"message\":\"{message}\",\"request_id\":\"{id}\"}}\n");
            ("application/json; charset=utf-8", text)
        }
        Format::Html => {
            let id = id.replace('&', "&amp;").replace('<', "&lt;");
            let text = format!(
                "<!doctype html>\n<title>Error</title>\n<h1>{message}</h1>\n<p>Request id: {id}</p>\n"
            );
            ("text/html; charset=utf-8", text)
        }
        Format::Plain => (
            "text/plain; charset=utf-8",
            format!("{message}\nrequest_id: {id}\n"),
        ),
    }
}

/// The first format in `Accept` that we have; JSON without one. Preference values are not weighed, as the
/// order says the same in practice, but a refused type (`q=0`) is skipped.
fn accepted_format(headers: &HeaderMap) -> Format {
    let lines = headers.get_all(header::ACCEPT).iter();
    lines
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .filter_map(|range| {
            let (media_type, parameters) = range.split_once(';').unwrap_or((range, ""));
            let refused = parameters.trim().trim_end_matches(['0', '.']) == "q=";
            format_of(media_type.trim()).filter(|_| !refused)
        })
        .next()
        .unwrap_or(Format::Json)
}

fn format_of(media_type: &str) -> Option<Format> {
    match media_type {
        "application/json" | "application/*" | "*/*" => Some(Format::Json),
        "text/html" => Some(Format::Html),
        "text/plain" | "text/*" => Some(Format::Plain),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_format_that_the_client_accepts_is_used() {
        let format = |accept: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, accept.parse().unwrap());
            accepted_format(&headers)
        };
        assert_eq!(accepted_format(&HeaderMap::new()), Format::Json);
        assert_eq!(format("text/html,application/xhtml+xml,*/*;q=0.8"), Format::Html);
        assert_eq!(format("image/png, text/plain; q=0.5"), Format::Plain);
        assert_eq!(format("text/html;q=0, text/html; q=0.0, */*"), Format::Json);
        assert_eq!(format("image/png"), Format::Json);
    }

    #[test]
    fn a_request_id_cannot_break_out_of_the_body() {
        let id = HeaderValue::from_static("\"},\\<b>&");
        let (_, json) = render(Format::Json, "m", &id);
        let parsed: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(parsed["request_id"], "\"},\\<b>&");
        assert!(render(Format::Html, "m", &id).1.contains("&lt;b>&amp;"));
    }
}
