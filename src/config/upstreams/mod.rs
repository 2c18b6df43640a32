//! The sections `upstreams` and `dns`: where requests may go, how a server is chosen, watched and tried again.

mod balance;
mod dns;
mod json;
mod read;
mod values;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use http::StatusCode;

pub use balance::{Balance, HashBy, NoBalance};
pub use dns::DnsConfig;
pub(super) use dns::dns;
pub(super) use read::upstream;

/// One upstream: a named set of servers that do the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamConfig {
    /// Unique name.
    pub name: String,
    /// The servers; at least one.
    pub targets: Vec<Target>,
    /// Which HTTP they speak.
    pub protocol: UpstreamProtocol,
    /// How one of them is chosen.
    pub balance: Balance,
    /// Longest wait for a connection, TLS included.
    pub connect_timeout: Duration,
    /// Longest wait for the head of the response.
    pub response_timeout: Duration,
    /// Longest pause within the body of a response.
    pub idle_timeout: Duration,
    /// Longest time from the request to the end of its response, tries included; `None`: no bound.
    pub total_timeout: Option<Duration>,
    /// Most idle connections kept, per endpoint and worker.
    pub idle_connections: usize,
    /// Most connections to one endpoint, divided among the workers, of which each has at least one.
    pub connections_max: u32,
    /// Most requests that wait for a connection, per worker.
    pub pending_max: u32,
    /// Longest that one of them waits.
    pub pending_timeout: Duration,
    /// How long an endpoint that comes, or comes back, takes to get its full share; zero: at once.
    pub slow_start: Duration,
    /// When a request is tried again.
    pub retries: RetryConfig,
    /// When an endpoint that fails requests is left out for a while.
    pub ejection: EjectionConfig,
    /// How endpoints are asked whether they are healthy; `None`: they are not.
    pub health: Option<HealthConfig>,
    /// How TLS to `https` targets is made.
    pub tls: UpstreamTls,
}

/// One server of an upstream.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// Whether it speaks TLS: `https`.
    pub tls: bool,
    /// Host name or address; an IPv6 address stands without its brackets.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Path put before the request's path; empty or `/…` without a trailing slash.
    pub base_path: String,
    /// Its share of the requests beside the other targets' weights, 1 to 100.
    pub weight: u32,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        let Self {
            host,
            port,
            base_path,
            ..
        } = self;
        if host.contains(':') {
            write!(f, "{scheme}://[{host}]:{port}{base_path}")
        } else {
            write!(f, "{scheme}://{host}:{port}{base_path}")
        }
    }
}

/// Which HTTP the servers of an upstream speak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UpstreamProtocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2: by prior knowledge, or as the only offer of TLS (RFC 9113 §3.2, §3.3).
    Http2,
    /// What they choose by ALPN (RFC 7301), HTTP/2 or HTTP/1.1. `https` only.
    Auto,
}

/// When a request is tried again. A connection that cannot be made is always tried elsewhere; what follows is
/// for idempotent requests whose body, if any, can be sent again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryConfig {
    /// Most tries of one request, the first one included.
    pub tries: u32,
    /// Again when the connection breaks before the head of a response.
    pub on_reset: bool,
    /// Again when the response has one of these statuses.
    pub on_statuses: Vec<StatusCode>,
    /// Largest body in bytes that is kept for another try.
    pub body_bytes_max: usize,
    /// Retries under way, in thousandths of the requests in flight to the upstream, that are always allowed
    /// beside `budget_min`.
    pub budget_permille: u32,
    /// Retries under way that are allowed however few requests are in flight.
    pub budget_min: u32,
}

/// When an endpoint that fails requests is left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EjectionConfig {
    /// Failed requests in a row after which it is; 0: never.
    pub failures: u32,
    /// Statuses that count as failed, beside the lack of a response.
    pub statuses: Vec<StatusCode>,
    /// For how long, times how often in a row it has been.
    pub base_time: Duration,
    /// For how long at most.
    pub max_time: Duration,
    /// Most endpoints that are left out at once, in thousandths.
    pub share_max_permille: u32,
}

/// How endpoints are asked whether they are healthy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthConfig {
    /// What is asked for with GET, below the base path of the target.
    pub path: String,
    /// The Host that is asked; `None`: the target's.
    pub host: Option<String>,
    /// Statuses that say that it is.
    pub statuses: Vec<StatusRange>,
    /// Time between two checks of an endpoint, give or take a tenth.
    pub interval: Duration,
    /// Longest that a check takes.
    pub timeout: Duration,
    /// Passed checks in a row after which an unhealthy endpoint is healthy.
    pub healthy_after: u32,
    /// Failed checks in a row after which a healthy endpoint is not.
    pub unhealthy_after: u32,
}

/// Statuses from the first to the last, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusRange {
    /// The first.
    pub first: u16,
    /// The last; not below the first.
    pub last: u16,
}

impl StatusRange {
    /// Whether `status` is among them.
    #[must_use]
    pub fn contains(self, status: StatusCode) -> bool {
        (self.first..=self.last).contains(&status.as_u16())
    }
}

/// How TLS to `https` targets is made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpstreamTls {
    /// PEM file of the authorities that vouch for the servers; `None`: those of the web.
    pub ca_file: Option<PathBuf>,
    /// The name that certificates are checked for and that SNI says; `None`: the target's host.
    pub server_name: Option<String>,
    /// PEM file with the certificate that this gateway shows, and the chain above it.
    pub certificate: Option<PathBuf>,
    /// PEM file with its key.
    pub key: Option<PathBuf>,
    /// Whoever answers is believed. For tests: it gives up all that TLS protects from.
    pub insecure_accept_any_certificate: bool,
}
