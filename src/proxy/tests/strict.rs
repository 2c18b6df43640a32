//! HTTP/1 byte by byte: raw bytes in, statuses out, and every byte that reached the upstream.

mod bodies;
mod floods;
mod requests;
mod responses;
mod slow;
mod uploads;

use std::sync::Mutex;

use super::*;

/// An upstream that keeps every byte it gets, and answers each whole request.
struct Recorder {
    upstream: Upstream,
    bytes: Arc<Mutex<Vec<u8>>>,
}

impl Recorder {
    async fn new() -> Self {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&bytes);
        let upstream = Upstream::play(move |peer, _| record(peer, Arc::clone(&log))).await;
        Self { upstream, bytes }
    }

    /// What has come since the last call.
    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut self.bytes.lock().unwrap())
    }
}

async fn record(mut peer: Peer, log: Arc<Mutex<Vec<u8>>>) {
    let mut logged = 0;
    while peer.fill().await {
        log.lock().unwrap().extend_from_slice(&peer.unread[logged..]);
        logged = peer.unread.len();
        while let Some(length) = message_length(&peer.unread) {
            peer.unread.drain(..length);
            logged = peer.unread.len();
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        }
    }
}

/// The length of the first whole request in `bytes`, as Weir writes them.
fn message_length(bytes: &[u8]) -> Option<usize> {
    let find = |from: usize, what: &[u8]| {
        let rest = bytes.get(from..)?;
        let at = rest.windows(what.len()).position(|window| window == what)?;
        Some(from + at + what.len())
    };
    let head = find(0, b"\r\n\r\n")?;
    let text = String::from_utf8_lossy(&bytes[..head]).to_ascii_lowercase();
    if text.contains("\r\ntransfer-encoding: chunked\r\n") {
        return find(find(head - 2, b"\r\n0\r\n")? - 2, b"\r\n\r\n");
    }
    let length = text.split_once("\r\ncontent-length: ").map_or(0, |(_, rest)| {
        rest.split("\r\n").next().unwrap().parse::<usize>().unwrap()
    });
    (bytes.len() >= head + length).then_some(head + length)
}
