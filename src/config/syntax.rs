//! The texts that rules, upstreams and routes are made of.

use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use http::Uri;
use http::uri::Scheme;

use super::Target;
use super::read::{Wrong, integer, shown, wrong};
use crate::limit::{CountBy, Hits, RuleError, WindowLimit};

/// Longest path of a route or target: far above any that a person writes.
const PATH_BYTES_MAX: usize = 1024;

/// Longest limit or `by`: no valid one comes near, and what is wrong is repeated in the message.
const RULE_TEXT_BYTES_MAX: usize = 128;

/// Reads a limit over a window, such as `5/minute` or `100/10s`.
pub(super) fn window_limit(text: &str) -> Result<WindowLimit, Wrong> {
    rule_text(text)
}

/// Reads what a rule counts by.
pub(super) fn count_by(text: &str) -> Result<CountBy, Wrong> {
    rule_text(text)
}

/// The rule's own readers name the nearest valid word themselves.
fn rule_text<T: FromStr<Err = RuleError>>(text: &str) -> Result<T, Wrong> {
    if text.len() > RULE_TEXT_BYTES_MAX || text.chars().any(char::is_control) {
        return wrong(format!("`{}` is too long or unprintable", shown(text)), "");
    }
    text.parse().or_else(|RuleError(problem)| wrong(problem, ""))
}

/// Reads the hits of a request.
pub(super) fn hits(text: &str) -> Result<Hits, Wrong> {
    let hits = integer(1..=Hits::MAX)(text)?;
    Ok(Hits::try_new(hits).expect("the range is that of hits"))
}

/// Reads a server: `http://HOST[:PORT][/PATH]`.
pub(super) fn target(text: &str) -> Result<Target, Wrong> {
    const FORM: &str = "write http://HOST:PORT or http://HOST:PORT/PATH";
    let problem = || format!("`{}` is no address of a server", shown(text));
    if !text.contains("://") {
        let guess = format!("http://{text}");
        return match target(&guess) {
            Ok(_) => wrong(problem(), format!("write `{guess}`")),
            Err(_) => wrong(problem(), FORM),
        };
    }
    let Ok(uri) = text.parse::<Uri>() else {
        return wrong(problem(), FORM);
    };
    if uri.scheme() == Some(&Scheme::HTTPS) {
        return wrong("https to upstreams is not supported yet", "use http");
    }
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    if uri.scheme() != Some(&Scheme::HTTP) || authority.contains('@') || uri.query().is_some() {
        return wrong(problem(), FORM);
    }
    let host = uri.host().unwrap_or("");
    let host = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    let port = match authority.rsplit_once(':') {
        Some((_, port)) if !port.ends_with(']') => port.parse().unwrap_or(0),
        _ => 80,
    };
    if port == 0 || !(is_host_name(host) || host.parse::<Ipv6Addr>().is_ok()) {
        return wrong(problem(), FORM);
    }
    Ok(Target {
        host: host.to_owned(),
        port,
        base_path: plain_path(uri.path()).or_else(|why| wrong(why, FORM))?,
    })
}

/// Reads a host that a route answers to, in lower case: host names compare without case (RFC 9110
/// section 4.2.3).
pub(super) fn host(text: &str) -> Result<String, Wrong> {
    let host = text.to_ascii_lowercase();
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    if is_host_name(&host) || bare.is_some_and(|bare| bare.parse::<Ipv6Addr>().is_ok()) {
        Ok(host)
    } else {
        wrong(
            format!("`{}` is no host", shown(text)),
            "write a name such as `example.com`, without scheme, port or `*`",
        )
    }
}

/// Reads the path prefix of a route, without a trailing slash unless it is `/`.
pub(super) fn path_prefix(text: &str) -> Result<String, Wrong> {
    let path = plain_path(text).or_else(|why| wrong(why, "begin with `/`, such as `/api`"))?;
    Ok(if path.is_empty() { "/".to_owned() } else { path })
}

/// Whether `text` is an IPv4 address or a host name: letters, digits, `-`, `_` and dots in between
/// (RFC 1123 section 2.1; `_` because Docker's and Kubernetes' names have it).
pub(super) fn is_host_name(text: &str) -> bool {
    let label = |label: &str| {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        (1..=63).contains(&label.len()) && label.bytes().all(allowed)
    };
    let name = text.strip_suffix('.').unwrap_or(text);
    let digits_and_dots = name.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    // What looks like an IPv4 address has to be one, or a slip such as 10.0.0.300 would be looked up.
    let plausible = !digits_and_dots || name.parse::<IpAddr>().is_ok();
    name.len() <= 253 && name.split('.').all(label) && plausible
}

/// `text` as a path without a trailing slash; `/` becomes empty.
fn plain_path(text: &str) -> Result<String, String> {
    let allowed = |b: u8| b.is_ascii_graphic() && !b"?#\\\"<>^`{|}".contains(&b);
    let path = text.strip_suffix('/').unwrap_or(text);
    let dots = path.split('/').any(|segment| segment == "." || segment == "..");
    let rooted = text.starts_with('/');
    if !rooted || dots || text.contains("//") || !text.bytes().all(allowed) || text.len() > PATH_BYTES_MAX {
        return Err(format!("`{}` is no path", shown(text)));
    }
    Ok(path.to_owned())
}
