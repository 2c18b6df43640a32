//! The section `proxy`: bounds and timeouts of the request path.

use std::time::Duration;

use serde_json::{Value, json};

use super::check::Surroundings;
use super::clients::{self, ClientIpHeader};
use super::defaults;
use super::json::text;
use super::read::Section;
use super::scalars::{Wrong, boolean, duration, integer};
use super::syntax::network;

/// Most bytes or connections that a limit can be: what a signed number holds.
const LIMIT_MAX: u64 = i64::MAX as u64;

/// Bounds and timeouts of the request path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyConfig {
    /// Worker threads, each with its own listener and upstream pools.
    pub workers: usize,
    /// Largest request line in bytes.
    pub request_line_bytes_max: usize,
    /// Largest request head in bytes.
    pub header_bytes_max: usize,
    /// Most request headers.
    pub headers_max: usize,
    /// Largest request body in bytes; `None`: no limit.
    pub body_bytes_max: Option<u64>,
    /// Longest wait for a request head.
    pub header_read_timeout: Duration,
    /// Longest wait for more of a request body, and the time over which its rate is taken.
    pub body_timeout: Duration,
    /// Least bytes a second of a request body, while it is waited for; 0: any.
    pub body_rate_min: u32,
    /// Longest time in which a client takes nothing of its response.
    pub send_timeout: Duration,
    /// Longest time between two requests on a connection.
    pub keep_alive_timeout: Duration,
    /// Longest time in which neither side of a tunnel says anything.
    pub tunnel_timeout: Duration,
    /// Most connections per node; more wait in the kernel's backlog.
    pub connections_max: usize,
    /// Most connections per client address, or IPv6 network of 64 bits; `None`: no limit.
    pub connections_per_client_max: Option<usize>,
    /// Addresses whose forwarding headers and PROXY headers are believed.
    pub trusted_proxies: Vec<ipnet::IpNet>,
    /// The header by which they say whom they speak for.
    pub client_ip_header: ClientIpHeader,
    /// How long a node that was asked to stop serves on, not ready any more, until it does.
    pub drain_delay: Duration,
    /// How long a stop waits for what is in flight.
    pub drain_timeout: Duration,
    /// Adds `X-Weir-Node` and `X-Weir-Window` to responses: for tests and demonstrations.
    pub debug_headers: bool,
}

impl ProxyConfig {
    /// The section, as a file would say it.
    pub(super) fn to_json(&self) -> Value {
        json!({
            "workers": self.workers,
            "request_line_bytes_max": self.request_line_bytes_max,
            "header_bytes_max": self.header_bytes_max,
            "headers_max": self.headers_max,
            "body_bytes_max": self.body_bytes_max,
            "header_read_timeout": text(self.header_read_timeout),
            "body_timeout": text(self.body_timeout),
            "body_rate_min": self.body_rate_min,
            "send_timeout": text(self.send_timeout),
            "keep_alive_timeout": text(self.keep_alive_timeout),
            "tunnel_timeout": text(self.tunnel_timeout),
            "connections_max": self.connections_max,
            "connections_per_client_max": self.connections_per_client_max,
            "trusted_proxies": self.trusted_proxies,
            "client_ip_header": self.client_ip_header.name(),
            "drain_delay": text(self.drain_delay),
            "drain_timeout": text(self.drain_timeout),
            "debug_headers": self.debug_headers,
        })
    }
}

/// Reads the section.
pub(super) fn read(root: &mut Section<'_>, surroundings: &Surroundings) -> ProxyConfig {
    let mut section = root.section("proxy");
    let processors = surroundings.processors.unwrap_or(1).clamp(1, 256);
    let trusted = section.values("trusted_proxies", network);
    let proxy = ProxyConfig {
        workers: section.value_or("workers", integer(1..=256), processors),
        // hyper reads no longer target.
        request_line_bytes_max: section.value_or(
            "request_line_bytes_max",
            integer(1024..=65_000),
            defaults::REQUEST_LINE_BYTES_MAX,
        ),
        // hyper refuses a buffer under 8 KiB.
        header_bytes_max: section.value_or(
            "header_bytes_max",
            integer(8192..=1 << 20),
            defaults::HEADER_BYTES_MAX,
        ),
        headers_max: section.value_or("headers_max", integer(8..=1000), defaults::HEADERS_MAX),
        body_bytes_max: section.value_or("body_bytes_max", limit(integer(0..=LIMIT_MAX)), None),
        header_read_timeout: timeout(
            &mut section,
            "header_read_timeout",
            300,
            defaults::HEADER_READ_TIMEOUT,
        ),
        body_timeout: timeout(&mut section, "body_timeout", 3600, defaults::BODY_TIMEOUT),
        body_rate_min: section.value_or("body_rate_min", integer(0..=1 << 20), defaults::BODY_RATE_MIN),
        send_timeout: timeout(&mut section, "send_timeout", 3600, defaults::SEND_TIMEOUT),
        keep_alive_timeout: timeout(
            &mut section,
            "keep_alive_timeout",
            3600,
            defaults::KEEP_ALIVE_TIMEOUT,
        ),
        tunnel_timeout: timeout(&mut section, "tunnel_timeout", 86_400, defaults::TUNNEL_TIMEOUT),
        connections_max: section.value_or(
            "connections_max",
            integer(1..=1_000_000),
            defaults::CONNECTIONS_MAX,
        ),
        connections_per_client_max: section.value_or(
            "connections_per_client_max",
            limit(integer(1..=1_000_000)),
            None,
        ),
        trusted_proxies: trusted.map_or(Vec::new(), |list| {
            list.value.into_iter().map(|found| found.value).collect()
        }),
        client_ip_header: section.value_or(
            "client_ip_header",
            clients::client_ip_header,
            ClientIpHeader::default(),
        ),
        drain_delay: section.value_or("drain_delay", drain(), defaults::DRAIN_DELAY),
        drain_timeout: section.value_or("drain_timeout", drain(), defaults::DRAIN_TIMEOUT),
        debug_headers: section.value_or("debug_headers", boolean, false),
    };
    section.finish();
    proxy
}

fn timeout(section: &mut Section<'_>, key: &'static str, seconds_max: u64, default: Duration) -> Duration {
    let range = Duration::from_millis(100)..=Duration::from_secs(seconds_max);
    section.value_or(key, duration(range), default)
}

/// Reads a time that a stop takes.
fn drain() -> impl Fn(&str) -> Result<Duration, Wrong> {
    duration(Duration::ZERO..=Duration::from_secs(3600))
}

/// Reads what `read` does, or `unlimited`.
fn limit<T>(read: impl Fn(&str) -> Result<T, Wrong>) -> impl Fn(&str) -> Result<Option<T>, Wrong> {
    move |text| match text {
        "unlimited" => Ok(None),
        text => read(text).map(Some).map_err(|wrong| Wrong {
            remedy: match wrong.remedy.as_str() {
                "" => "or write `unlimited`".to_owned(),
                remedy => format!("{remedy}, or `unlimited`"),
            },
            ..wrong
        }),
    }
}
