//! Request bodies that nobody reads, since their request was refused or has been answered early.

use std::future::poll_fn;
use std::pin::Pin;
use std::time::Duration;

use http::{HeaderMap, Version, header};
use hyper::body::{Body, Incoming};

/// Most bytes read to keep an HTTP/1 connection for the next request: less than a new connection costs.
const BYTES_MAX: u64 = 64 * 1024;
/// Most bytes read of an HTTP/2 stream that has been answered: what the client sends before it sees the answer.
const STREAM_BYTES_MAX: usize = 1024 * 1024;
/// How long an HTTP/2 client may take to notice the answer, as long as one of HTTP/1 may after its last.
const STREAM_PATIENCE: Duration = Duration::from_secs(2);

/// Reads the body of a request that Weir answers itself over HTTP/1, if it is short and is coming. Otherwise answers
/// false: the connection is to be closed after the response (RFC 9112 §9.3). The client's pace is bounded as for
/// any body.
pub(in crate::proxy) async fn discard(mut body: Incoming, version: Version, headers: &HeaderMap) -> bool {
    if body.is_end_stream() {
        return true;
    }
    let is_short = body.size_hint().exact().is_some_and(|bytes| bytes <= BYTES_MAX);
    if !is_short || (version == Version::HTTP_11 && waits_for_leave(headers)) {
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

/// Whoever expects 100-continue sends nothing before it (RFC 9110 §10.1.1).
fn waits_for_leave(headers: &HeaderMap) -> bool {
    const LEAVE: &[u8] = b"100-continue";
    let expected = headers.get_all(header::EXPECT).into_iter();
    let mut members = expected.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    members.any(|member| member.trim_ascii().eq_ignore_ascii_case(LEAVE))
}

/// Reads what is left of the body of an HTTP/2 stream for a while, on the worker's own thread. Dropping it would
/// reset the stream behind the response (RFC 9113 §8.1), which clients that are still sending take for a failure.
pub(super) fn discard_stream(mut body: Incoming) {
    // Where the runtime has ended, so have its connections.
    if body.is_end_stream() || tokio::runtime::Handle::try_current().is_err() {
        return;
    }
    tokio::task::spawn_local(async move {
        let mut left = STREAM_BYTES_MAX;
        let reading = async {
            while let Some(Ok(frame)) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
                let bytes = frame.data_ref().map_or(0, bytes::Bytes::len);
                match left.checked_sub(bytes) {
                    Some(less) => left = less,
                    None => break,
                }
            }
        };
        let _ = tokio::time::timeout(STREAM_PATIENCE, reading).await;
    });
}
