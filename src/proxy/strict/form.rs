//! What a request has to be beyond its syntax, whichever version of HTTP it came in. Pure.

use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, Version};
use hyper::body::Body;

use super::{Violation, authority_is_valid, path_is_valid};
use crate::config::ProxyConfig;
use crate::proxy::headers;
use crate::proxy::respond::Refusal;

/// Checks `request`, and answers what host it asks for: the authority of its target if that has one, else
/// the Host field (RFC 9112 §3.2, §3.2.2). `None` only for HTTP/1.0, which may name none.
///
/// # Errors
/// What the client is to be told.
pub(in crate::proxy) fn check<B: Body>(
    request: &Request<B>,
    config: &ProxyConfig,
) -> Result<Option<HeaderValue>, Refusal> {
    if matches!(*request.method(), Method::CONNECT | Method::TRACE) {
        return Err(Refusal::MethodNotAllowed);
    }
    if request.headers().len() > config.headers_max {
        return Err(Refusal::TooManyHeaders);
    }
    if !headers::transfer_coding_is_known(request.headers()) {
        return Err(Refusal::TransferCoding);
    }
    check_target(request)?;
    check_expectation(request)?;
    let max = config.body_bytes_max.unwrap_or(u64::MAX);
    if request.body().size_hint().lower() > max {
        return Err(Refusal::Strict(Violation::BodyTooLarge));
    }
    if !request.body().is_end_stream() && headers::wants_websocket(request) {
        return Err(Refusal::BadRequest("a WebSocket handshake has no body"));
    }
    let host = requested_host(request)?;
    if request.uri().path() == "*" {
        return Err(Refusal::ServerOptions);
    }
    Ok(host)
}

/// Whether an HTTP/2 request is malformed in a way that the parser lets pass, so that its stream is to be
/// reset rather than answered (RFC 9113 §8.1.1): a field value with whitespace around it (§8.2.1), or a
/// Host other than the authority (§8.3.1).
pub(in crate::proxy) fn is_malformed<B>(request: &Request<B>) -> bool {
    if request.version() != Version::HTTP_2 {
        return false;
    }
    let is_space = |b: Option<&u8>| matches!(b, Some(b' ' | b'\t'));
    let is_padded = |value: &HeaderValue| {
        let bytes = value.as_bytes();
        is_space(bytes.first()) || is_space(bytes.last())
    };
    let host = request.headers().get(header::HOST);
    let differs = match (host, request.uri().authority()) {
        (Some(host), Some(authority)) => !host
            .as_bytes()
            .eq_ignore_ascii_case(authority.as_str().as_bytes()),
        _ => false,
    };
    differs || request.headers().values().any(is_padded)
}

fn check_target<B>(request: &Request<B>) -> Result<(), Refusal> {
    let path = request.uri().path();
    let is_valid = path.starts_with('/') || (path == "*" && request.method() == Method::OPTIONS);
    if is_valid && path_is_valid(path.as_bytes()) {
        Ok(())
    } else {
        Err(Refusal::Strict(Violation::Target))
    }
}

/// RFC 9110 §10.1.1: nothing else than `100-continue` is known, and HTTP/1.0 does not have the field.
fn check_expectation<B>(request: &Request<B>) -> Result<(), Refusal> {
    if !request.headers().contains_key(header::EXPECT) || request.version() == Version::HTTP_10 {
        return Ok(());
    }
    let mut expectations = request.headers().get_all(header::EXPECT).iter();
    let is_known = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"100-continue");
    if expectations.all(is_known) {
        Ok(())
    } else {
        Err(Refusal::Expectation)
    }
}

fn requested_host<B>(request: &Request<B>) -> Result<Option<HeaderValue>, Refusal> {
    let field = only_host(request.headers())?;
    if field.is_none() && request.version() == Version::HTTP_11 {
        return Err(Refusal::BadRequest("the request has no Host"));
    }
    let invalid = Refusal::Strict(Violation::Authority);
    if field.is_some_and(|field| !authority_is_valid(field.as_bytes())) {
        return Err(invalid);
    }
    let Some(authority) = request.uri().authority() else {
        let may_name_none = request.version() == Version::HTTP_10;
        return match field {
            None if !may_name_none => Err(invalid),
            field => Ok(field.cloned()),
        };
    };
    let authority = authority.as_str().as_bytes();
    if !authority_is_valid(authority) {
        return Err(invalid);
    }
    HeaderValue::from_bytes(authority).map(Some).map_err(|_| invalid)
}

fn only_host(headers: &HeaderMap) -> Result<Option<&HeaderValue>, Refusal> {
    let mut fields = headers.get_all(header::HOST).iter();
    let first = fields.next();
    if fields.next().is_some() {
        return Err(Refusal::BadRequest("the request has more than one Host"));
    }
    Ok(first)
}
