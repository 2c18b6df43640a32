//! The sections `upstreams` and `dns`: where requests may go, how a server is chosen, watched and tried again.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use http::{HeaderName, StatusCode};
use serde_json::{Value, json};

use super::defaults;
use super::error::{At, Report, did_you_mean};
use super::json::text;
use super::read::{Element, Found, Section};
use super::scalars::{Wrong, boolean, duration, integer, share, shown, socket_addr, wrong};
use super::syntax::{path, request_path, server_name, target};

/// Most that one target may weigh against another: finer shares than a percent are not needed.
const WEIGHT_MAX: u32 = 100;

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

const PROTOCOLS: [(&str, UpstreamProtocol); 3] = [
    ("http1", UpstreamProtocol::Http1),
    ("h2", UpstreamProtocol::Http2),
    ("auto", UpstreamProtocol::Auto),
];

/// How one endpoint of an upstream is chosen for a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Balance {
    /// In turn, by weight.
    #[default]
    RoundRobin,
    /// Of two drawn at random, the one with fewer requests in flight on this node for its weight (Mitzenmacher,
    /// "The power of two choices in randomized load balancing", 2001).
    LeastRequest,
    /// The same key goes to the same endpoint (consistent hashing, Karger et al. 1997). Requests without the key
    /// take turns.
    Hash(HashBy),
}

/// What [`Balance::Hash`] goes by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashBy {
    /// The client's address.
    Ip,
    /// The first value of a header field.
    Header(HeaderName),
    /// The value of a cookie.
    Cookie(String),
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

/// How names are looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsConfig {
    /// Name servers; empty: the system's.
    pub servers: Vec<SocketAddr>,
    /// Shortest time between two lookups of a name, whatever its TTL.
    pub ttl_min: Duration,
    /// Longest.
    pub ttl_max: Duration,
}

/// Reads the section `dns`.
pub(super) fn dns(root: &mut Section<'_>) -> DnsConfig {
    let mut section = root.section("dns");
    let servers = section.values("servers", socket_addr);
    let bounds = || duration(millis(100)..=Duration::from_secs(86_400));
    let dns = DnsConfig {
        servers: servers.map_or(Vec::new(), values_of),
        ttl_min: section.value_or("ttl_min", bounds(), defaults::DNS_TTL_MIN),
        ttl_max: section.value_or("ttl_max", bounds(), defaults::DNS_TTL_MAX),
    };
    section.finish();
    dns
}

/// Reads all of an upstream but its name.
pub(super) fn upstream(
    mut section: Section<'_>,
    name: Option<String>,
    report: &Report,
) -> Option<UpstreamConfig> {
    section.require_elements("targets", "give at least one, such as `http://127.0.0.1:9000`");
    let targets = section.values_or_sections("targets", target).unwrap_or_default();
    let targets: Vec<_> = targets.into_iter().filter_map(weighted_target).collect();
    let protocol = section.value("protocol", protocol);
    let balance = section.value("balance", balance);
    let slow_start = section.value("slow_start", duration(Duration::ZERO..=Duration::from_secs(3600)));
    let tls = tls(&mut section, &targets, report);
    check_protocol(protocol.as_ref(), &targets, report);
    check_slow_start(slow_start.as_ref(), balance.as_ref(), report);
    let timeout = |most: u64| duration(millis(1)..=Duration::from_secs(most));
    let upstream = UpstreamConfig {
        name: String::new(),
        targets,
        protocol: protocol.map_or(UpstreamProtocol::default(), |found| found.value),
        balance: balance.map_or(Balance::default(), |found| found.value),
        connect_timeout: section.value_or("connect_timeout", timeout(300), defaults::CONNECT_TIMEOUT),
        response_timeout: section.value_or("response_timeout", timeout(3600), defaults::RESPONSE_TIMEOUT),
        idle_timeout: section.value_or("idle_timeout", timeout(86_400), defaults::BODY_IDLE_TIMEOUT),
        total_timeout: section
            .value("total_timeout", timeout(86_400))
            .map(|found| found.value),
        idle_connections: section.value_or(
            "idle_connections",
            integer(0..=65_536),
            defaults::IDLE_CONNECTIONS,
        ),
        connections_max: section.value_or(
            "connections_max",
            integer(1..=1_000_000),
            defaults::UPSTREAM_CONNECTIONS_MAX,
        ),
        pending_max: section.value_or("pending_max", integer(0..=1_000_000), defaults::PENDING_MAX),
        pending_timeout: section.value_or("pending_timeout", timeout(300), defaults::PENDING_TIMEOUT),
        slow_start: slow_start.map_or(Duration::ZERO, |found| found.value),
        retries: retries(&mut section),
        ejection: ejection(&mut section),
        health: health(&mut section),
        tls,
    };
    section.finish();
    Some(UpstreamConfig {
        name: name?,
        ..upstream
    })
}

fn weighted_target(element: Element<'_, Target>) -> Option<Target> {
    let mut section = match element {
        Element::Value(found) => return Some(found.value),
        Element::Section(section) => section,
    };
    section.require(
        "url",
        "give the server's address, such as `http://127.0.0.1:9000`",
    );
    let url = section.value("url", target);
    let weight = section.value_or("weight", integer(1..=WEIGHT_MAX), 1);
    section.finish();
    Some(Target { weight, ..url?.value })
}

fn retries(section: &mut Section<'_>) -> RetryConfig {
    let mut section = section.section("retries");
    let on = section.values("on", retry_cause);
    let on: Vec<_> = on.map_or_else(|| vec![RetryCause::Reset], values_of);
    let status = |cause: &RetryCause| match cause {
        RetryCause::Reset => None,
        RetryCause::Status(status) => Some(*status),
    };
    let retries = RetryConfig {
        tries: section.value_or("tries", integer(1..=10), defaults::TRIES),
        on_reset: on.contains(&RetryCause::Reset),
        on_statuses: on.iter().filter_map(status).collect(),
        body_bytes_max: section.value_or(
            "body_bytes_max",
            integer(0..=16 << 20),
            defaults::REPLAY_BYTES_MAX,
        ),
        budget_permille: section.value_or("budget", share(0..=1000), defaults::RETRY_BUDGET_PERMILLE),
        budget_min: section.value_or("budget_min", integer(0..=10_000), defaults::RETRY_BUDGET_MIN),
    };
    section.finish();
    retries
}

fn ejection(section: &mut Section<'_>) -> EjectionConfig {
    let mut section = section.section("ejection");
    let statuses = section.values("statuses", failure_status);
    let time = || duration(millis(1)..=Duration::from_secs(86_400));
    let ejection = EjectionConfig {
        failures: section.value_or("failures", integer(0..=10_000), defaults::EJECTION_FAILURES),
        statuses: statuses.map_or_else(gateway_errors, values_of),
        base_time: section.value_or("base_time", time(), defaults::EJECTION_TIME),
        max_time: section.value_or("max_time", time(), defaults::EJECTION_TIME_MAX),
        share_max_permille: section.value_or("share_max", share(0..=1000), defaults::EJECTION_SHARE_PERMILLE),
    };
    section.finish();
    ejection
}

fn health(section: &mut Section<'_>) -> Option<HealthConfig> {
    if !section.has("health") {
        section.expect_key("health");
        return None;
    }
    let mut section = section.section("health");
    section.require("path", "say what to ask for, such as `/healthz`");
    let path = section.value("path", request_path);
    let statuses = section.values("statuses", status_range);
    let health = HealthConfig {
        path: String::new(),
        host: section.value("host", server_name).map(|found| found.value),
        statuses: statuses.map_or_else(
            || {
                vec![StatusRange {
                    first: 200,
                    last: 299,
                }]
            },
            values_of,
        ),
        interval: section.value_or(
            "interval",
            duration(millis(10)..=Duration::from_secs(3600)),
            defaults::HEALTH_INTERVAL,
        ),
        timeout: section.value_or(
            "timeout",
            duration(millis(1)..=Duration::from_secs(300)),
            defaults::HEALTH_TIMEOUT,
        ),
        healthy_after: section.value_or("healthy_after", integer(1..=100), defaults::HEALTHY_AFTER),
        unhealthy_after: section.value_or("unhealthy_after", integer(1..=100), defaults::UNHEALTHY_AFTER),
    };
    section.finish();
    Some(HealthConfig {
        path: path?.value,
        ..health
    })
}

fn tls(section: &mut Section<'_>, targets: &[Target], report: &Report) -> UpstreamTls {
    let is_written = section.has("tls");
    let mut section = section.section("tls");
    let certificate = section.value("certificate", path);
    let key = section.value("key", path);
    for (one, other) in [
        (&certificate, (&key, "key")),
        (&key, (&certificate, "certificate")),
    ] {
        if let (Some(one), (None, missing)) = (one, other) {
            report.wrong(&one.at, format!("there is no `{missing}` to it"), "give both");
        }
    }
    let tls = UpstreamTls {
        ca_file: section.value("ca_file", path).map(|found| found.value),
        server_name: section.value("server_name", server_name).map(|found| found.value),
        certificate: certificate.map(|found| found.value),
        key: key.map(|found| found.value),
        insecure_accept_any_certificate: section.value_or("insecure_accept_any_certificate", boolean, false),
    };
    if is_written && !targets.is_empty() && targets.iter().all(|target| !target.tls) {
        report.wrong(
            &section.at,
            "no target speaks TLS",
            "write `https://…`, or remove `tls`",
        );
    }
    section.finish();
    tls
}

fn check_protocol(protocol: Option<&Found<UpstreamProtocol>>, targets: &[Target], report: &Report) {
    if let Some(found) = protocol
        && found.value == UpstreamProtocol::Auto
        && targets.iter().any(|target| !target.tls)
    {
        let problem = "without TLS there is nothing to tell which HTTP a server speaks";
        report.wrong(&found.at, problem, "write `http1` or `h2`, or `https` targets");
    }
}

fn check_slow_start(slow_start: Option<&Found<Duration>>, balance: Option<&Found<Balance>>, report: &Report) {
    let hashed = balance.is_some_and(|found| matches!(found.value, Balance::Hash(_)));
    if let Some(found) = slow_start.filter(|found| hashed && !found.value.is_zero()) {
        let problem = "a slow start would move every key of an endpoint twice";
        report.wrong(&found.at, problem, "remove it, or choose another `balance`");
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RetryCause {
    Reset,
    Status(StatusCode),
}

fn retry_cause(text: &str) -> Result<RetryCause, Wrong> {
    if text == "reset" {
        return Ok(RetryCause::Reset);
    }
    match failure_status(text) {
        Ok(status) => Ok(RetryCause::Status(status)),
        Err(_) => wrong(
            format!("`{}` is no cause of a retry", shown(text)),
            "write `reset`, or a status of 429 or 500 to 599",
        ),
    }
}

/// Reads a status that tells of a server in trouble.
fn failure_status(text: &str) -> Result<StatusCode, Wrong> {
    let status = text.parse::<u16>().ok();
    let status = status.filter(|status| *status == 429 || (500..600).contains(status));
    let status = status.and_then(|status| StatusCode::from_u16(status).ok());
    status.map_or_else(
        || {
            let problem = format!("`{}` is no status of a server in trouble", shown(text));
            wrong(problem, "use 429 or 500 to 599")
        },
        Ok,
    )
}

fn status_range(text: &str) -> Result<StatusRange, Wrong> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let status = |text: &str| text.trim().parse::<u16>().ok().filter(|s| (200..600).contains(s));
    match (status(first), status(last)) {
        (Some(first), Some(last)) if first <= last => Ok(StatusRange { first, last }),
        _ => wrong(
            format!("`{}` is no range of statuses", shown(text)),
            "write one from 200 to 599, or two such as `200-299`",
        ),
    }
}

fn protocol(text: &str) -> Result<UpstreamProtocol, Wrong> {
    let known = PROTOCOLS.iter().find(|(name, _)| *name == text);
    known.map_or_else(
        || {
            let problem = format!("`{}` is none of `http1`, `h2` and `auto`", shown(text));
            wrong(
                problem,
                did_you_mean(text, PROTOCOLS.iter().map(|(name, _)| *name)),
            )
        },
        |(_, protocol)| Ok(*protocol),
    )
}

fn balance(text: &str) -> Result<Balance, Wrong> {
    text.parse().or_else(|NoBalance| {
        let problem = format!("`{}` is no way to choose an endpoint", shown(text));
        let words = ["round_robin", "least_request", "hash:ip"];
        let remedy = match did_you_mean(text, words) {
            near if near.is_empty() => {
                "write `round_robin`, `least_request`, `hash:ip`, `hash:header:NAME` or `hash:cookie:NAME`"
                    .to_owned()
            }
            near => near,
        };
        wrong(problem, remedy)
    })
}

/// The text names no way to choose an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no way to choose an endpoint")]
pub struct NoBalance;

impl FromStr for Balance {
    type Err = NoBalance;

    fn from_str(text: &str) -> Result<Self, NoBalance> {
        let is_token = |name: &str| {
            let allowed = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
            (1..=64).contains(&name.len()) && name.bytes().all(allowed)
        };
        match text {
            "round_robin" => return Ok(Self::RoundRobin),
            "least_request" => return Ok(Self::LeastRequest),
            "hash:ip" => return Ok(Self::Hash(HashBy::Ip)),
            _ => {}
        }
        if let Some(name) = text.strip_prefix("hash:header:").filter(|name| is_token(name)) {
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| NoBalance)?;
            return Ok(Self::Hash(HashBy::Header(name)));
        }
        let cookie = text.strip_prefix("hash:cookie:").filter(|name| is_token(name));
        let cookie = cookie.ok_or(NoBalance)?;
        Ok(Self::Hash(HashBy::Cookie(cookie.to_owned())))
    }
}

impl fmt::Display for Balance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RoundRobin => f.write_str("round_robin"),
            Self::LeastRequest => f.write_str("least_request"),
            Self::Hash(HashBy::Ip) => f.write_str("hash:ip"),
            Self::Hash(HashBy::Header(name)) => write!(f, "hash:header:{name}"),
            Self::Hash(HashBy::Cookie(name)) => write!(f, "hash:cookie:{name}"),
        }
    }
}

/// What gateways before a server answer in its place.
fn gateway_errors() -> Vec<StatusCode> {
    vec![
        StatusCode::BAD_GATEWAY,
        StatusCode::SERVICE_UNAVAILABLE,
        StatusCode::GATEWAY_TIMEOUT,
    ]
}

fn values_of<T>(list: Found<Vec<Found<T>>>) -> Vec<T> {
    list.value.into_iter().map(|found| found.value).collect()
}

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

impl DnsConfig {
    /// The shortest time is longer than the longest.
    pub(super) fn check(&self, at: &At, report: &Report) {
        if self.ttl_min > self.ttl_max {
            let problem = "`ttl_min` is above `ttl_max`";
            report.wrong(&at.child("dns"), problem, "lower the one or raise the other");
        }
    }

    pub(super) fn to_json(&self) -> Value {
        json!({
            "servers": self.servers,
            "ttl_min": text(self.ttl_min),
            "ttl_max": text(self.ttl_max),
        })
    }
}

impl UpstreamConfig {
    pub(super) fn to_json(&self) -> Value {
        let protocol = PROTOCOLS.iter().find(|(_, protocol)| *protocol == self.protocol);
        json!({
            "name": self.name,
            "targets": self.targets.iter().map(Target::to_json).collect::<Value>(),
            "protocol": protocol.map(|(name, _)| *name),
            "balance": self.balance.to_string(),
            "connect_timeout": text(self.connect_timeout),
            "response_timeout": text(self.response_timeout),
            "idle_timeout": text(self.idle_timeout),
            "total_timeout": self.total_timeout.map(text),
            "idle_connections": self.idle_connections,
            "connections_max": self.connections_max,
            "pending_max": self.pending_max,
            "pending_timeout": text(self.pending_timeout),
            "slow_start": text(self.slow_start),
            "retries": self.retries.to_json(),
            "ejection": self.ejection.to_json(),
            "health": self.health.as_ref().map(HealthConfig::to_json),
            "tls": (self.tls != UpstreamTls::default()).then(|| self.tls.to_json()),
        })
    }
}

impl Target {
    fn to_json(&self) -> Value {
        match self.weight {
            1 => self.to_string().into(),
            weight => json!({ "url": self.to_string(), "weight": weight }),
        }
    }
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

impl RetryConfig {
    fn to_json(&self) -> Value {
        let reset = self.on_reset.then(|| Value::from("reset"));
        let statuses = self.on_statuses.iter().map(|status| status.as_u16().into());
        json!({
            "tries": self.tries,
            "on": reset.into_iter().chain(statuses).collect::<Value>(),
            "body_bytes_max": self.body_bytes_max,
            "budget": f64::from(self.budget_permille) / 1000.0,
            "budget_min": self.budget_min,
        })
    }
}

impl EjectionConfig {
    fn to_json(&self) -> Value {
        json!({
            "failures": self.failures,
            "statuses": self.statuses.iter().map(|status| status.as_u16()).collect::<Value>(),
            "base_time": text(self.base_time),
            "max_time": text(self.max_time),
            "share_max": f64::from(self.share_max_permille) / 1000.0,
        })
    }
}

impl HealthConfig {
    fn to_json(&self) -> Value {
        let range = |range: &StatusRange| format!("{}-{}", range.first, range.last);
        json!({
            "path": self.path,
            "host": self.host,
            "statuses": self.statuses.iter().map(range).collect::<Value>(),
            "interval": text(self.interval),
            "timeout": text(self.timeout),
            "healthy_after": self.healthy_after,
            "unhealthy_after": self.unhealthy_after,
        })
    }
}

impl UpstreamTls {
    fn to_json(&self) -> Value {
        json!({
            "ca_file": self.ca_file,
            "server_name": self.server_name,
            "certificate": self.certificate,
            "key": self.key,
            "insecure_accept_any_certificate": self.insecure_accept_any_certificate,
        })
    }
}
