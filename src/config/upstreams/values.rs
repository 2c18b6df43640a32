//! Readers of the texts that upstreams are made of.

use std::time::Duration;

use http::StatusCode;

use super::{Balance, NoBalance, StatusRange, UpstreamProtocol};
use crate::config::error::did_you_mean;
use crate::config::read::Found;
use crate::config::scalars::{Wrong, shown, wrong};

pub(super) const PROTOCOLS: [(&str, UpstreamProtocol); 3] = [
    ("http1", UpstreamProtocol::Http1),
    ("h2", UpstreamProtocol::Http2),
    ("auto", UpstreamProtocol::Auto),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RetryCause {
    Reset,
    Status(StatusCode),
}

pub(super) fn retry_cause(text: &str) -> Result<RetryCause, Wrong> {
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
pub(super) fn failure_status(text: &str) -> Result<StatusCode, Wrong> {
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

pub(super) fn status_range(text: &str) -> Result<StatusRange, Wrong> {
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

pub(super) fn protocol(text: &str) -> Result<UpstreamProtocol, Wrong> {
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

pub(super) fn balance(text: &str) -> Result<Balance, Wrong> {
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

/// What gateways before a server answer in its place.
pub(super) fn gateway_errors() -> Vec<StatusCode> {
    vec![
        StatusCode::BAD_GATEWAY,
        StatusCode::SERVICE_UNAVAILABLE,
        StatusCode::GATEWAY_TIMEOUT,
    ]
}

pub(super) fn values_of<T>(list: Found<Vec<Found<T>>>) -> Vec<T> {
    list.value.into_iter().map(|found| found.value).collect()
}

pub(super) const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}
