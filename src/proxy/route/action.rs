//! What becomes of a request once its route is known.

use std::borrow::Cow;

use http::header::{self, HeaderMap, HeaderValue};
use http::uri::PathAndQuery;

use super::answer::{OwnAnswer, Prepared};
use super::changes::{apply, changed_path};
use super::without_port;
use crate::config::{
    Forward, HeaderChanges, PathChange, PathMatch, Redirect, RouteAction, UpstreamConfig, UpstreamHost,
    UrlScheme,
};
use crate::path::{EscapedSlashes, PathError};

/// What a client asked for, as far as it decides where the request goes.
pub(in crate::proxy) struct Asked<'r> {
    /// The scheme that the client used.
    pub(in crate::proxy) scheme: UrlScheme,
    /// As in the Host field: may have a port. Empty when the request names none.
    pub(in crate::proxy) host: &'r str,
    /// In normal form.
    pub(in crate::proxy) path: &'r Cow<'r, str>,
    /// As it was sent.
    pub(in crate::proxy) sent: Option<&'r PathAndQuery>,
}

impl Asked<'_> {
    fn query(&self) -> Option<&str> {
        self.sent.and_then(PathAndQuery::query)
    }
}

/// What becomes of one request.
pub(in crate::proxy) enum Step<'c> {
    /// It goes upstream with this path and query.
    Forward(&'c Forwarding, PathAndQuery),
    /// It is answered here.
    Answer(OwnAnswer),
}

/// What becomes of the requests of a route.
pub(super) enum Action {
    Forward(Forwarding),
    Redirect(Redirect),
    Respond(Prepared),
}

impl Action {
    pub(super) fn new(action: &RouteAction, upstreams: &[UpstreamConfig]) -> Self {
        match action {
            RouteAction::Forward(forward) => Self::Forward(Forwarding::new(forward, upstreams)),
            RouteAction::Redirect(redirect) => Self::Redirect(redirect.clone()),
            RouteAction::Respond(response) => Self::Respond(Prepared::new(response)),
        }
    }

    pub(super) fn step(
        &self,
        matched: &PathMatch,
        asked: &Asked<'_>,
        slashes: EscapedSlashes,
    ) -> Result<Step<'_>, PathError> {
        match self {
            Self::Forward(forwarding) => {
                let path = forwarding.path(matched, asked, slashes)?;
                Ok(Step::Forward(forwarding, path))
            }
            Self::Redirect(redirect) => {
                let location = location(redirect, matched, asked, slashes)?;
                Ok(Step::Answer(OwnAnswer::redirect(redirect.status, location)))
            }
            Self::Respond(prepared) => Ok(Step::Answer(prepared.answer())),
        }
    }
}

/// How the requests of a route go upstream.
pub(in crate::proxy) struct Forwarding {
    /// The upstream's place in the configuration.
    pub(in crate::proxy) upstream: usize,
    path: Option<PathChange>,
    host: UpstreamHost,
    headers: HeaderChanges,
}

impl Forwarding {
    fn new(forward: &Forward, upstreams: &[UpstreamConfig]) -> Self {
        let upstream = upstreams.iter().position(|one| one.name == forward.upstream);
        Self {
            upstream: upstream.expect("a checked configuration has the upstream of every route"),
            path: forward.path.clone(),
            host: forward.host.clone(),
            headers: forward.headers.clone(),
        }
    }

    /// Makes the changes of the route to a request that is otherwise ready to be sent. Without a Host, the
    /// upstream puts its own.
    pub(in crate::proxy) fn change_request(&self, headers: &mut HeaderMap) {
        match &self.host {
            UpstreamHost::Preserved => {}
            UpstreamHost::Target => drop(headers.remove(header::HOST)),
            UpstreamHost::Fixed(host) => drop(headers.insert(header::HOST, host.clone())),
        }
        apply(&self.headers, headers);
    }

    /// What was sent, if it was in normal form and the route does not change it.
    fn path(
        &self,
        matched: &PathMatch,
        asked: &Asked<'_>,
        slashes: EscapedSlashes,
    ) -> Result<PathAndQuery, PathError> {
        let changed = match (&self.path, asked.path) {
            (Some(change), path) => changed_path(change, matched, path, slashes)?,
            (None, Cow::Owned(normal)) => normal.clone(),
            (None, Cow::Borrowed(same)) => match asked.sent {
                Some(sent) if sent.as_str().starts_with(same) => return Ok(sent.clone()),
                _ => (*same).to_owned(),
            },
        };
        let whole = with_query(changed, asked.query());
        whole.try_into().map_err(|_| PathError::Character)
    }
}

/// The URL that a redirect leads to. Absolute, unless neither it nor the client names a host.
fn location(
    redirect: &Redirect,
    matched: &PathMatch,
    asked: &Asked<'_>,
    slashes: EscapedSlashes,
) -> Result<HeaderValue, PathError> {
    let path = match &redirect.path {
        Some(change) => changed_path(change, matched, asked.path, slashes)?,
        None => asked.path.clone().into_owned(),
    };
    let path = with_query(path, asked.query());
    let sent_host = without_port(asked.host);
    let host = redirect.host.as_deref().unwrap_or(sent_host);
    let url = if host.is_empty() {
        path
    } else {
        let scheme = redirect.scheme.unwrap_or(asked.scheme);
        let sent_port = asked
            .host
            .get(sent_host.len()..)
            .and_then(|port| port.strip_prefix(':'));
        let sent_port = sent_port.and_then(|port| port.parse::<u16>().ok());
        // A port belongs to its scheme.
        let port = redirect.port.or(sent_port.filter(|_| redirect.scheme.is_none()));
        match port.filter(|port| *port != scheme.port()) {
            Some(port) => format!("{}://{host}:{port}{path}", scheme.as_str()),
            None => format!("{}://{host}{path}", scheme.as_str()),
        }
    };
    HeaderValue::try_from(url).map_err(|_| PathError::Character)
}

fn with_query(mut path: String, query: Option<&str>) -> String {
    if let Some(query) = query {
        path.push('?');
        path.push_str(query);
    }
    path
}
