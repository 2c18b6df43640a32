//! Readers of the texts that have a syntax of their own: limits, servers, hosts, networks, filters.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use http::Uri;
use http::uri::Scheme;
use tracing_subscriber::EnvFilter;

use super::Target;
use super::error::did_you_mean;
use super::scalars::{Wrong, integer, shown, socket_addr, wrong};
use crate::limit::{CountBy, Hits, Overflow, RuleError, SyncMode, WindowLimit};

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

/// Reads a sync mode.
pub(super) fn sync_mode(text: &str) -> Result<SyncMode, Wrong> {
    text.parse::<SyncMode>().or_else(|error| {
        wrong(
            error.to_string(),
            did_you_mean(text, ["local", "gossip", "bounded"]),
        )
    })
}

/// Reads what becomes of requests that find no room to count in.
pub(super) fn overflow(text: &str) -> Result<Overflow, Wrong> {
    text.parse::<Overflow>()
        .or_else(|error| wrong(error.to_string(), did_you_mean(text, ["deny", "allow"])))
}

/// Reads a cluster id.
pub(super) fn cluster_id(text: &str) -> Result<String, Wrong> {
    if (1..=64).contains(&text.len()) && !text.chars().any(char::is_control) {
        Ok(text.to_owned())
    } else {
        wrong("a cluster id is 1 to 64 bytes without control characters", "")
    }
}

/// Reads an address that a peer can send to.
pub(super) fn reachable(text: &str) -> Result<SocketAddr, Wrong> {
    let address = socket_addr(text)?;
    if address.ip().is_unspecified() || address.port() == 0 {
        return wrong(
            format!("peers cannot send to `{address}`"),
            "give the address and port that they see",
        );
    }
    Ok(address)
}

/// Reads the `HOST:PORT` of a node to join through.
pub(super) fn seed(text: &str) -> Result<String, Wrong> {
    let remedy = "write HOST:PORT, such as `10.0.0.2:7946` or `weir-0.weir:7946`";
    let problem = || format!("`{}` is no host with a port", shown(text));
    let Some((host, port)) = text.rsplit_once(':') else {
        return wrong(problem(), remedy);
    };
    let port_fits = port.parse::<u16>().is_ok_and(|port| port != 0) && !port.starts_with('+');
    if port_fits && (text.parse::<SocketAddr>().is_ok() || is_host_name(host)) {
        Ok(text.to_owned())
    } else {
        wrong(problem(), remedy)
    }
}

/// Reads the name of a file.
pub(super) fn path(text: &str) -> Result<PathBuf, Wrong> {
    if text.is_empty() || text.contains('\0') {
        return wrong("this is no file name", "");
    }
    Ok(PathBuf::from(text))
}

/// Reads a secret of several lines, such as a keyring.
pub(super) fn secret_text(text: &str) -> Result<String, Wrong> {
    if text.trim().is_empty() || text.len() > 4096 {
        return wrong("the secret is empty or too long", "");
    }
    Ok(text.to_owned())
}

/// Reads a network, or one address as the network of itself.
pub(super) fn network(text: &str) -> Result<ipnet::IpNet, Wrong> {
    let address = text.parse::<IpAddr>().map(ipnet::IpNet::from);
    let network = address.or_else(|_| text.parse());
    network.map(canonical).or_else(|_| {
        wrong(
            format!("`{}` is no network", shown(text)),
            "write ADDRESS/BITS, such as `10.0.0.0/8`",
        )
    })
}

/// An IPv4-mapped IPv6 network is the IPv4 one (RFC 4291 section 2.5.5.2).
fn canonical(network: ipnet::IpNet) -> ipnet::IpNet {
    match (
        network.addr().to_canonical(),
        network.prefix_len().checked_sub(96),
    ) {
        (IpAddr::V4(v4), Some(bits)) if network.addr().is_ipv6() => {
            ipnet::Ipv4Net::new(v4, bits).map_or(network, Into::into)
        }
        _ => network,
    }
}

/// Reads a `tracing` filter. The crate takes a misspelt level for the name of a target, so a lone word
/// near a level is refused.
pub(super) fn log_filter(text: &str) -> Result<String, Wrong> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    for part in text.split(',').map(str::trim) {
        let level = part.rsplit_once('=').map_or(part, |(_, level)| level);
        let remedy = did_you_mean(level, LEVELS);
        if !LEVELS.contains(&level.to_lowercase().as_str()) && !remedy.is_empty() {
            return wrong(format!("unknown log level `{}`", shown(level)), remedy);
        }
    }
    match EnvFilter::try_new(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => wrong(
            format!("`{}` is no log filter", shown(text)),
            "write a level, or targets with levels, such as `info` or `info,weir=debug`",
        ),
    }
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
pub(super) fn plain_path(text: &str) -> Result<String, String> {
    let allowed = |b: u8| b.is_ascii_graphic() && !b"?#\\\"<>^`{|}".contains(&b);
    let path = text.strip_suffix('/').unwrap_or(text);
    let dots = path.split('/').any(|segment| segment == "." || segment == "..");
    let rooted = text.starts_with('/');
    if !rooted || dots || text.contains("//") || !text.bytes().all(allowed) || text.len() > PATH_BYTES_MAX {
        return Err(format!("`{}` is no path", shown(text)));
    }
    Ok(path.to_owned())
}
