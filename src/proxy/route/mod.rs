//! Which route takes a request, and what becomes of it then. Pure.
//!
//! Built once from the configuration. Finding a route costs a look at the host and one at each segment of the
//! path, however many routes there are; only regular expressions are tried one after the other.

mod action;
mod answer;
mod candidate;
mod changes;
mod router;
mod table;

#[cfg(test)]
mod tests;

pub(super) use action::{Asked, Forwarding, Step};
pub(super) use answer::OwnAnswer;
pub(super) use candidate::Wanted;
pub(super) use router::{Hit, Router};

use http::HeaderMap;

use super::charge::ChargePlan;
use crate::config::{PathMatch, RouteConfig, UpstreamConfig};
use crate::path::{EscapedSlashes, PathError};
use action::Action;

/// One route, with what is known of its requests beforehand.
pub(super) struct RouteState {
    /// As it was configured.
    pub(super) config: RouteConfig,
    /// The charges that limits make for it.
    pub(super) plan: ChargePlan,
    action: Action,
}

impl RouteState {
    /// # Panics
    /// If the route names none of `upstreams`; a checked configuration has it.
    pub(super) fn new(config: &RouteConfig, upstreams: &[UpstreamConfig], plan: ChargePlan) -> Self {
        Self {
            action: Action::new(&config.action, upstreams),
            config: config.clone(),
            plan,
        }
    }

    /// What becomes of a request whose path was matched by `matched`.
    ///
    /// # Errors
    /// When the path that it is to have is none.
    pub(super) fn step(
        &self,
        matched: &PathMatch,
        asked: &Asked<'_>,
        slashes: EscapedSlashes,
    ) -> Result<Step<'_>, PathError> {
        self.action.step(matched, asked, slashes)
    }

    /// Makes the changes that the route makes to responses.
    pub(super) fn change_response(&self, headers: &mut HeaderMap) {
        changes::apply(&self.config.response_headers, headers);
    }
}

/// `host` of `host`, `host:port`, `[v6]` and `[v6]:port`.
fn without_port(host: &str) -> &str {
    match host.rfind([':', ']']) {
        Some(at) if host.as_bytes().get(at) == Some(&b':') => host.get(..at).unwrap_or(host),
        _ => host,
    }
}
