//! Responses: what an upstream may answer, and what makes it a 502 that ends its connection.

use super::*;

/// The section, what the upstream answers, and the status that the client gets.
type Case = (&'static str, &'static [u8], u16);

#[rustfmt::skip]
const CASES: &[Case] = &[
    ("9112 6.1", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", 502),
    ("9112 6.1", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\nok\r\n0\r\n\r\n", 502),
    ("9112 6.3", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok", 502),
    ("9112 6.3", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok!", 502),
    ("9112 6.3", b"HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok", 502),
    ("9110 8.6", b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok", 502),
    ("9110 8.6", b"HTTP/1.1 200 OK\r\nContent-Length: 2x\r\n\r\nok", 502),
    ("9112 6.1", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", 502),
    ("9112 6.1", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", 502),
    ("9112 6.3", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\nok", 502),
    ("9112 6.1", b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", 502),
    ("9112 2.2", b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok", 502),
    ("9112 2.2", b"HTTP/1.1 200 OK\r\nContent-Length: 2\n\r\nok", 502),
    ("9112 2.2", b"HTTP/1.1 200 OK\r\nX: a\rb\r\nContent-Length: 2\r\n\r\nok", 502),
    ("9112 5.2", b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 2\r\n\r\nok", 502),
    ("9112 5.1", b"HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nok", 502),
    ("9110 5.1", b"HTTP/1.1 200 OK\r\nX Y: 1\r\nContent-Length: 2\r\n\r\nok", 502),
    ("9110 5.5", b"HTTP/1.1 200 OK\r\nX: \x00\r\nContent-Length: 2\r\n\r\nok", 502),
    ("9112 4", b"HTTP/1.1 20 OK\r\nContent-Length: 2\r\n\r\nok", 502),
    ("9112 4", b"HTTP/1.1 2000 OK\r\nContent-Length: 2\r\n\r\nok", 502),
    ("9112 4", b"HTTP/1.1  200 OK\r\nContent-Length: 2\r\n\r\nok", 502),
    ("9112 4", b"HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok", 502),
    ("9112 4", b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok", 200),
    ("9112 7.1", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;a\r\nok\r\n0\r\n\r\n", 200),
    ("9112 6.3", b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 200),
];

#[tokio::test]
async fn a_response_that_two_readers_could_read_differently_is_a_502_and_its_connection_is_discarded() {
    for (section, response, status) in CASES {
        let name = format!("RFC {section}: {}", response.escape_ascii());
        let upstream = Upstream::play(move |mut peer, turn| async move {
            peer.head().await;
            let good: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
            let answer = if turn == 0 { *response } else { good };
            peer.stream.write_all(answer).await.unwrap();
            // The second request comes over this connection, if that is used again.
            if peer.head().await.is_some() {
                peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
                peer.fill().await;
            }
        })
        .await;
        let gateway = Gateway::start(upstream.address, "");
        within(async {
            // Not idempotent, so that it is never sent twice.
            let post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n";
            let first = gateway.ask(post).await;
            assert_eq!(first.status(), *status, "{name}\n{}", first.head);
            if *status == 200 {
                assert_eq!(first.text(), "ok", "{name}");
            }
            assert_eq!(gateway.ask(post).await.status(), 200, "{name}");
        })
        .await;
        assert_eq!(
            upstream.connections(),
            if *status == 502 { 2 } else { 1 },
            "{name}"
        );
    }
}

#[tokio::test]
async fn a_chunk_that_breaks_a_rule_breaks_the_response_off() {
    let upstream = Upstream::play(|mut peer, _| async move {
        peer.head().await;
        peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n5 \r\nhello\r\n0\r\n\r\n")
            .await;
        peer.fill().await;
    })
    .await;
    let gateway = Gateway::start(upstream.address, "");
    within(async {
        let mut client = gateway.connect().await;
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let head = client.head().await.unwrap();
        assert_eq!(head.status(), 200);
        assert_eq!(client.chunk().await.unwrap(), b"ok");
        assert!(client.is_at_end().await, "{:?}", client.unread);
    })
    .await;
}

#[tokio::test]
async fn nothing_that_a_client_sends_early_goes_upstream_before_the_switch_of_protocols() {
    let (asked, mut hears) = tokio::sync::mpsc::unbounded_channel();
    let go = Arc::new(tokio::sync::Notify::new());
    let waits = Arc::clone(&go);
    let upstream = Upstream::play(move |mut peer, _| {
        let (asked, waits) = (asked.clone(), Arc::clone(&waits));
        async move {
            peer.head().await.unwrap();
            asked.send(peer.unread.clone()).unwrap();
            waits.notified().await;
            peer.send(
                "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
            )
            .await;
            asked.send(peer.exactly(9).await).unwrap();
            peer.send("bye").await;
        }
    })
    .await;
    let gateway = Gateway::start(upstream.address, "");
    within(async {
        let mut client = gateway.connect().await;
        client
            .send("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nGET / H")
            .await;
        assert_eq!(hears.recv().await.unwrap(), b"");
        client.send("TT").await;
        go.notify_one();
        assert_eq!(client.head().await.unwrap().status(), 101);
        assert_eq!(hears.recv().await.unwrap(), b"GET / HTT");
        assert_eq!(client.exactly(3).await, b"bye");
    })
    .await;
}
