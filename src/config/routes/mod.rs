//! Which requests a route takes, and what becomes of them.

mod ambiguous;
mod json;
mod pattern;
mod read;
mod values;

use std::fmt;

use http::{HeaderName, HeaderValue, Method, StatusCode};

use crate::path::EscapedSlashes;

pub(super) use ambiguous::report_ambiguous;
pub use pattern::{Pattern, PatternError, Replacement};
pub(super) use read::{read, routing};

/// How requests are compared with routes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RoutingConfig {
    /// What becomes of `%2F` and `%5C` in a path.
    pub escaped_slashes: EscapedSlashes,
}

/// Which requests a route takes, and what becomes of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteConfig {
    /// Unique name.
    pub name: String,
    /// Hosts it answers to; empty: any.
    pub hosts: Vec<HostMatch>,
    /// It takes what any of these matches; at least one.
    pub matches: Vec<RouteMatch>,
    /// What becomes of a request that it takes.
    pub action: RouteAction,
    /// What it changes of the response, whoever answers but Weir's own errors.
    pub response_headers: HeaderChanges,
}

impl RouteConfig {
    /// The route `default`, which leads every request to `upstream`.
    pub(super) fn catch_all(upstream: &str) -> Self {
        Self {
            name: "default".to_owned(),
            hosts: Vec::new(),
            matches: vec![RouteMatch::default()],
            action: RouteAction::Forward(Forward {
                upstream: upstream.to_owned(),
                path: None,
                host: UpstreamHost::Preserved,
                headers: HeaderChanges::default(),
            }),
            response_headers: HeaderChanges::default(),
        }
    }

    /// The upstream that its requests go to, if they go to one.
    #[must_use]
    pub fn upstream(&self) -> Option<&str> {
        match &self.action {
            RouteAction::Forward(forward) => Some(&forward.upstream),
            RouteAction::Redirect(_) | RouteAction::Respond(_) => None,
        }
    }
}

/// A host that a route answers to, in lower case.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostMatch {
    /// This name or address.
    Exact(String),
    /// Every name below this one, by one label or more; as Gateway API has it, not the name itself.
    Below(String),
}

impl fmt::Display for HostMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Below(name) => write!(f, "*.{name}"),
        }
    }
}

/// Conditions that a request has to meet all of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteMatch {
    /// Its path.
    pub path: PathMatch,
    /// Its method is one of these; empty: any.
    pub methods: Vec<Method>,
    /// Its header fields, by name.
    pub headers: Vec<HeaderMatch>,
    /// The parameters of its query, by name.
    pub query: Vec<QueryMatch>,
}

/// A condition on the normalised path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathMatch {
    /// It is this.
    Exact(String),
    /// It begins with these segments; no trailing slash unless it is `/`, which all paths begin with.
    Prefix(String),
    /// The pattern matches it.
    Regex(Pattern),
}

impl Default for PathMatch {
    /// Every path.
    fn default() -> Self {
        Self::Prefix("/".to_owned())
    }
}

/// A condition on one header field. Of several lines any may meet it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderMatch {
    /// The field.
    pub name: HeaderName,
    /// What it has to be.
    pub value: ValueMatch,
}

/// A condition on one parameter of the query. Of several with the same name the first counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryMatch {
    /// Its name, decoded.
    pub name: String,
    /// What its decoded value has to be.
    pub value: ValueMatch,
}

/// A condition on a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValueMatch {
    /// It is there.
    Present,
    /// It is this.
    Exact(String),
    /// The pattern matches it.
    Regex(Pattern),
}

impl ValueMatch {
    /// Whether `value` meets the condition.
    #[must_use]
    pub fn accepts(&self, value: &[u8]) -> bool {
        match self {
            Self::Present => true,
            Self::Exact(text) => text.as_bytes() == value,
            Self::Regex(pattern) => pattern.matches(value),
        }
    }
}

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteAction {
    /// An upstream answers it.
    Forward(Forward),
    /// The client is sent elsewhere.
    Redirect(Redirect),
    /// It gets this answer.
    Respond(FixedResponse),
}

/// How a request goes upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward {
    /// Name of the upstream.
    pub upstream: String,
    /// What becomes of its path.
    pub path: Option<PathChange>,
    /// The Host that the upstream sees.
    pub host: UpstreamHost,
    /// What becomes of its header fields.
    pub headers: HeaderChanges,
}

/// The Host that an upstream sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpstreamHost {
    /// The one that the client asked for.
    Preserved,
    /// The name and port of the target.
    Target,
    /// This.
    Fixed(HeaderValue),
}

/// Another path in the place of a request's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathChange {
    /// The prefix that matched becomes this: empty, or without a trailing slash.
    Prefix(String),
    /// All of it becomes this.
    Full(String),
    /// What the pattern matches becomes the replacement; other paths stay as they are.
    Regex(Pattern, Replacement),
}

/// Another place for the client to go to. What is not given stays as the client asked for; so does the query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// 301, 302, 303, 307 or 308.
    pub status: StatusCode,
    /// Its scheme.
    pub scheme: Option<UrlScheme>,
    /// Its host, an IPv6 address in brackets.
    pub host: Option<String>,
    /// Its port. Where there is a scheme and no port, it is that of the scheme.
    pub port: Option<u16>,
    /// Its path.
    pub path: Option<PathChange>,
}

/// The scheme of a URL that a client can be sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UrlScheme {
    /// `http`.
    Http,
    /// `https`.
    Https,
}

impl UrlScheme {
    /// As a URL has it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// The port that a URL leaves out.
    #[must_use]
    pub const fn port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// An answer that needs no upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FixedResponse {
    /// 200 to 599.
    pub status: StatusCode,
    /// May be empty.
    pub body: String,
    /// What the body is.
    pub content_type: HeaderValue,
}

/// Changes to header fields; no name is in two of the three.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderChanges {
    /// Fields that get this value, whatever they had.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Lines that are added to those there are.
    pub add: Vec<(HeaderName, HeaderValue)>,
    /// Fields that are removed.
    pub remove: Vec<HeaderName>,
}

impl HeaderChanges {
    /// Nothing changes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.add.is_empty() && self.remove.is_empty()
    }
}
