//! Response headers of a limited request, exactly as Kong's `rate-limiting` plugin sends them.
//!
//! (Stub; the limit helper fills it in.)

use http::HeaderMap;

use super::limiter::Decision;

/// Adds `X-RateLimit-*`, `RateLimit-*` and, on denial, `Retry-After` to `headers`.
pub fn apply(_decision: &Decision, _headers: &mut HeaderMap) {
    todo!("limit helper")
}
