//! How one endpoint of an upstream is chosen: the type, and the text that it is written as.

use std::fmt;
use std::str::FromStr;

use http::HeaderName;

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
