//! Why no response came from an upstream: what failed, and whether the request was lost with its connection.

use std::io;

use thiserror::Error;

use super::super::metrics::UpstreamFailure;
use super::super::strict::Violation;

/// Why no response came from an upstream. Nothing has been sent to the client.
#[derive(Debug, Error)]
pub(in crate::proxy) enum UpstreamError {
    #[error("its name has no address: {0}")]
    Unresolved(#[source] io::Error),
    #[error("it cannot be reached: {0}")]
    Connect(#[source] io::Error),
    #[error("it did not accept a connection in time")]
    ConnectTimeout,
    #[error("too many requests wait for a connection to it, or this one did for too long")]
    Overloaded,
    #[error("it did not answer in time")]
    ResponseTimeout,
    #[error("the request took too long in all")]
    TotalTimeout,
    #[error("the connection broke or carried no HTTP: {0}")]
    Broken(#[source] hyper::Error),
    #[error("it answered with a message that cannot be passed on")]
    Unusable,
    #[error("the client stopped sending its request")]
    ClientStalled,
    #[error("the client broke off its request")]
    ClientGone,
    #[error("the client sent a larger body than it may")]
    BodyTooLarge,
}

impl UpstreamError {
    /// The kind of failure, unless it was the client's.
    pub(in crate::proxy) fn failure(&self) -> Option<UpstreamFailure> {
        match self {
            Self::Unresolved(_) => Some(UpstreamFailure::Unresolved),
            Self::Connect(_) => Some(UpstreamFailure::Connect),
            Self::ConnectTimeout => Some(UpstreamFailure::ConnectTimeout),
            Self::Overloaded => Some(UpstreamFailure::Overloaded),
            Self::ResponseTimeout => Some(UpstreamFailure::ResponseTimeout),
            Self::TotalTimeout => Some(UpstreamFailure::TotalTimeout),
            Self::Broken(_) | Self::Unusable => Some(UpstreamFailure::Broken),
            Self::ClientStalled | Self::ClientGone | Self::BodyTooLarge => None,
        }
    }

    /// Nothing reached a server.
    pub(super) fn is_of_connecting(&self) -> bool {
        matches!(self, Self::Connect(_) | Self::ConnectTimeout)
    }
}

/// Whether the connection ended before its response, as one does that the upstream closed while idle; or the
/// server said that it did not begin with the request (RFC 9113 §6.8, §8.7).
pub(super) fn is_lost(error: &UpstreamError) -> bool {
    let UpstreamError::Broken(error) = error else {
        return false;
    };
    let source = std::error::Error::source(error);
    let io = source.and_then(|source| source.downcast_ref::<io::Error>());
    let h2 = source.and_then(|source| source.downcast_ref::<h2::Error>());
    error.is_incomplete_message()
        || error.is_canceled()
        || error.is_closed()
        || io.is_some_and(is_reset)
        || h2.is_some_and(is_lost_stream)
}

fn is_lost_stream(error: &h2::Error) -> bool {
    let is_refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
    let is_gone = error.is_go_away() && error.is_remote();
    is_refused || is_gone || error.get_io().is_some_and(is_reset)
}

fn is_reset(error: &io::Error) -> bool {
    let reset = [
        io::ErrorKind::ConnectionReset,
        io::ErrorKind::BrokenPipe,
        io::ErrorKind::ConnectionAborted,
        io::ErrorKind::UnexpectedEof,
    ];
    reset.contains(&error.kind())
}

/// Whether the guard around the connection found a response that breaks a rule of HTTP/1.
pub(super) fn is_violation(error: &hyper::Error) -> bool {
    let io = std::error::Error::source(error).and_then(|source| source.downcast_ref::<io::Error>());
    let source = io.and_then(io::Error::get_ref);
    source.is_some_and(|source| source.is::<Violation>())
}
