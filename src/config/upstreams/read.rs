//! From sections of a file to upstreams.

use std::time::Duration;

use super::values::{
    RetryCause, balance, failure_status, gateway_errors, millis, protocol, retry_cause, status_range,
    values_of,
};
use super::{
    Balance, EjectionConfig, HealthConfig, RetryConfig, StatusRange, Target, UpstreamConfig,
    UpstreamProtocol, UpstreamTls,
};
use crate::config::defaults;
use crate::config::error::Report;
use crate::config::read::{Element, Found, Section};
use crate::config::scalars::{boolean, duration, integer, share};
use crate::config::syntax::{path, request_path, server_name, target};

/// Most that one target may weigh against another: finer shares than a percent are not needed.
const WEIGHT_MAX: u32 = 100;

/// Reads all of an upstream but its name.
pub(in crate::config) fn upstream(
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
