//! A body that nobody will read, since its request was refused.

use std::future::poll_fn;
use std::pin::Pin;

use http::{HeaderMap, header};
use hyper::body::{Body, Incoming};

/// Most bytes read to keep a connection for the next request: less than a new connection costs.
const BYTES_MAX: u64 = 64 * 1024;

/// Reads the body of a refused request if it is short, and is coming. Otherwise answers false: the
/// connection is to be closed after the response (RFC 9112 §9.3), as far as HTTP/1 goes. The client's pace
/// is bounded as for any body.
pub(in crate::proxy) async fn discard(mut body: Incoming, headers: &HeaderMap) -> bool {
    if body.is_end_stream() {
        return true;
    }
    let is_short = body.size_hint().exact().is_some_and(|bytes| bytes <= BYTES_MAX);
    // Whoever expects 100-continue sends nothing before it (RFC 9110 §10.1.1).
    if !is_short || headers.contains_key(header::EXPECT) {
        return false;
    }
    loop {
        match poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
            Some(Ok(_)) => {}
            Some(Err(_)) => return false,
            None => return true,
        }
    }
}
