//! Readers of the texts that routes are made of.

use std::net::Ipv6Addr;

use http::uri::Authority;
use http::{HeaderName, HeaderValue, Method, StatusCode};

use super::{HostMatch, Pattern, UrlScheme};
use crate::config::error::did_you_mean;
use crate::config::scalars::{Wrong, integer, shown, wrong};
use crate::config::syntax::{is_host_name, plain_path};
use crate::path::{EscapedSlashes, PathError, normalize};

/// Longest name or value of a header field or query parameter.
const VALUE_BYTES_MAX: usize = 4096;
/// Longest body of a fixed response: it is kept in memory, and written in a configuration file.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// Fields that concern one connection (RFC 9110 §7.6.1) or frame a message.
const OF_ONE_CONNECTION: [&str; 10] = [
    "connection",
    "content-length",
    "expect",
    "http2-settings",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];
/// Fields in which Weir says what it saw, or what became of the request.
const OWN: [&str; 10] = [
    "forwarded",
    "ratelimit",
    "ratelimit-policy",
    "via",
    "x-forwarded-client-cert",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-real-ip",
    "x-request-id",
];
const OWN_PREFIXES: [&str; 3] = ["ratelimit-", "x-ratelimit-", "x-weir-"];

/// Reads a host that a route answers to, in lower case: host names compare without case (RFC 9110 §4.2.3).
pub(super) fn host_match(text: &str) -> Result<HostMatch, Wrong> {
    let host = text.to_ascii_lowercase();
    if let Some(name) = host.strip_prefix("*.")
        && is_host_name(name)
    {
        return Ok(HostMatch::Below(name.trim_end_matches('.').to_owned()));
    }
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    if is_host_name(&host) || bare.is_some_and(|bare| bare.parse::<Ipv6Addr>().is_ok()) {
        return Ok(HostMatch::Exact(host.trim_end_matches('.').to_owned()));
    }
    wrong(
        format!("`{}` is no host", shown(text)),
        "write a name such as `example.com`, or `*.example.com` for all below it, without scheme or port",
    )
}

/// Reads a path, which is brought in the form that requests have.
pub(super) fn exact_path(slashes: EscapedSlashes) -> impl Fn(&str) -> Result<String, Wrong> {
    move |text| {
        plain_path(text).or_else(|why| wrong(why, "begin with `/`, such as `/api`"))?;
        normal_path(text, slashes)
    }
}

/// Reads the path prefix of a route, without a trailing slash unless it is `/`.
pub(super) fn path_prefix(slashes: EscapedSlashes) -> impl Fn(&str) -> Result<String, Wrong> {
    move |text| {
        let path = plain_path(text).or_else(|why| wrong(why, "begin with `/`, such as `/api`"))?;
        normal_path(if path.is_empty() { "/" } else { &path }, slashes)
    }
}

fn normal_path(path: &str, slashes: EscapedSlashes) -> Result<String, Wrong> {
    match normalize(path, slashes) {
        Ok(path) => Ok(path.into_owned()),
        Err(PathError::EscapedSlash) => wrong(
            format!("no request has `{}`: encoded slashes are refused", shown(path)),
            "set `routing.escaped_slashes: pass`, or change the path",
        ),
        Err(error) => wrong(format!("`{}` is no path: {error}", shown(path)), ""),
    }
}

/// Reads a regular expression.
pub(super) fn pattern(text: &str) -> Result<Pattern, Wrong> {
    Pattern::try_new(text)
        .or_else(|error| wrong(format!("`{}` is no regular expression: {error}", shown(text)), ""))
}

/// Reads a method. Methods compare with case (RFC 9110 §9.1).
pub(super) fn method(text: &str) -> Result<Method, Wrong> {
    let problem = || format!("`{}` is no method", shown(text));
    if text.bytes().any(|b| b.is_ascii_lowercase()) {
        return wrong(
            problem(),
            format!("write `{}`", shown(&text.to_ascii_uppercase())),
        );
    }
    match Method::from_bytes(text.as_bytes()) {
        Ok(Method::CONNECT | Method::TRACE) => wrong(format!("{text} is refused before it is routed"), ""),
        Ok(method) => Ok(method),
        Err(_) => wrong(problem(), "write one such as `GET`"),
    }
}

/// Reads the name of a header field that a request is matched by.
pub(super) fn matched_header(text: &str) -> Result<HeaderName, Wrong> {
    let name = header_name(text)?;
    if name == http::header::HOST {
        return wrong("requests are matched by their host in `hosts`", "use `hosts`");
    }
    Ok(name)
}

/// Reads the name of a header field that a route changes.
pub(super) fn changed_header(text: &str) -> Result<HeaderName, Wrong> {
    let name = header_name(text)?;
    let text = name.as_str();
    if OF_ONE_CONNECTION.contains(&text) {
        let problem = format!("`{text}` concerns one connection or the form of a message");
        return wrong(problem, "remove it; Weir sends what is right for each connection");
    }
    if OWN.contains(&text) || OWN_PREFIXES.iter().any(|prefix| text.starts_with(prefix)) {
        let problem = format!("in `{text}` Weir says what it saw and did");
        return wrong(problem, "remove it, or choose another name");
    }
    if name == http::header::HOST {
        return wrong(
            "`host` is not changed as other fields are",
            "use `rewrite.host` or `preserve_host`",
        );
    }
    Ok(name)
}

fn header_name(text: &str) -> Result<HeaderName, Wrong> {
    let name = HeaderName::from_bytes(text.as_bytes()).ok();
    match name.filter(|_| text.len() <= VALUE_BYTES_MAX) {
        Some(name) => Ok(name),
        None => wrong(format!("`{}` is no name of a header field", shown(text)), ""),
    }
}

/// Reads the value that a header field gets.
pub(super) fn header_value(text: &str) -> Result<HeaderValue, Wrong> {
    let value = HeaderValue::from_str(text).ok();
    let plain = text.is_ascii() && text.trim() == text && text.len() <= VALUE_BYTES_MAX;
    match value.filter(|_| plain) {
        Some(value) => Ok(value),
        None => wrong(
            format!("`{}` is no value of a header field", shown(text)),
            "use visible ASCII, and no space at its ends",
        ),
    }
}

/// Reads a text that a value is compared with, or the name of a query parameter.
pub(super) fn compared_text(text: &str) -> Result<String, Wrong> {
    if text.len() > VALUE_BYTES_MAX || text.chars().any(char::is_control) {
        return wrong(format!("`{}` is too long or unprintable", shown(text)), "");
    }
    Ok(text.to_owned())
}

/// Reads the status of a redirect.
pub(super) fn redirect_status(text: &str) -> Result<StatusCode, Wrong> {
    match text {
        "301" | "302" | "303" | "307" | "308" => status(text),
        _ => wrong(
            format!("`{}` does not redirect", shown(text)),
            "use 301, 302, 303, 307 or 308",
        ),
    }
}

/// Reads the status of a final response.
pub(super) fn status(text: &str) -> Result<StatusCode, Wrong> {
    let number = integer(200..=599_u16)(text)?;
    StatusCode::from_u16(number).or_else(|_| wrong(format!("`{}` is no status", shown(text)), ""))
}

/// Reads the scheme of a redirect.
pub(super) fn scheme(text: &str) -> Result<UrlScheme, Wrong> {
    match text {
        "http" => Ok(UrlScheme::Http),
        "https" => Ok(UrlScheme::Https),
        _ => {
            let remedy = did_you_mean(text, ["http", "https"]);
            wrong(format!("`{}` is neither `http` nor `https`", shown(text)), remedy)
        }
    }
}

/// Reads the host of a redirect, which has no port.
pub(super) fn redirect_host(text: &str) -> Result<String, Wrong> {
    match host_match(text) {
        Ok(HostMatch::Exact(host)) => Ok(host),
        _ => wrong(
            format!("`{}` is no host", shown(text)),
            "write a name such as `example.com`, without scheme or port",
        ),
    }
}

/// Reads the Host that an upstream sees: `HOST` or `HOST:PORT`.
pub(super) fn upstream_host(text: &str) -> Result<HeaderValue, Wrong> {
    let authority = text.parse::<Authority>().ok();
    let plain = |authority: &Authority| {
        let port_fits = match authority.as_str().strip_prefix(authority.host()) {
            Some("") => true,
            Some(_) => authority.port_u16().is_some_and(|port| port != 0),
            None => false,
        };
        port_fits && matches!(host_match(authority.host()), Ok(HostMatch::Exact(_)))
    };
    match authority.filter(plain).map(|_| HeaderValue::from_str(text)) {
        Some(Ok(value)) => Ok(value),
        _ => wrong(
            format!("`{}` is no host", shown(text)),
            "write HOST or HOST:PORT, such as `app.internal`",
        ),
    }
}

/// Reads the body of a fixed response.
pub(super) fn body(text: &str) -> Result<String, Wrong> {
    if text.len() > BODY_BYTES_MAX {
        let problem = format!("the body has {} bytes", text.len());
        return wrong(problem, format!("keep at most {BODY_BYTES_MAX}"));
    }
    Ok(text.to_owned())
}

/// Reads what becomes of encoded slashes.
pub(super) fn escaped_slashes(text: &str) -> Result<EscapedSlashes, Wrong> {
    match text {
        "refuse" => Ok(EscapedSlashes::Refuse),
        "pass" => Ok(EscapedSlashes::Pass),
        _ => {
            let remedy = did_you_mean(text, ["refuse", "pass"]);
            wrong(
                format!("`{}` is neither `refuse` nor `pass`", shown(text)),
                remedy,
            )
        }
    }
}
