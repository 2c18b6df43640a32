//! What passes, and how it looks on the other side.

use std::convert::Infallible;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use tokio::sync::{mpsc, oneshot};

use super::*;

#[tokio::test]
async fn a_request_and_its_response_pass_without_what_concerns_one_connection() {
    let upstream = Upstream::mirror().await;
    let gateway = Gateway::start(upstream.address, "");
    let request = "POST /a/b?c=d HTTP/1.1\r\nHost: shop.test:8080\r\nConnection: X-Drop, keep-alive\r\n\
        X-Drop: 1\r\nTE: gzip\r\nKeep-Alive: 5\r\nX-Forwarded-For: 203.0.113.1\r\nX-Request-Id: forged\r\n\
        X-Keep: 2\r\nContent-Length: 5\r\n\r\nhello";
    let response = within(gateway.ask(request)).await;

    let (head, body) = response.text().split_once("\r\n\r\n").unwrap();
    let seen = Message {
        head: head.to_owned(),
        body: body.into(),
    };
    assert_eq!(head.lines().next(), Some("POST /a/b?c=d HTTP/1.1"));
    assert_eq!(seen.text(), "hello");
    assert_eq!(seen.field("host").as_deref(), Some("shop.test:8080"));
    assert_eq!(seen.field("x-forwarded-for").as_deref(), Some("127.0.0.1"));
    assert_eq!(seen.field("x-forwarded-host").as_deref(), Some("shop.test:8080"));
    assert_eq!(seen.field("via").as_deref(), Some("1.1 weir"));
    assert_eq!(seen.field("x-keep").as_deref(), Some("2"));
    for gone in ["x-drop", "te", "keep-alive", "connection"] {
        assert_eq!(seen.field(gone), None, "{gone} went upstream");
    }

    assert_eq!(response.status(), 200);
    assert_eq!(response.field("via").as_deref(), Some("1.1 weir"));
    assert_eq!(response.field("x-end").as_deref(), Some("2"));
    for gone in ["x-hop", "keep-alive", "connection"] {
        assert_eq!(response.field(gone), None, "{gone} came back");
    }
    for latency in ["x-weir-proxy-latency", "x-weir-upstream-latency"] {
        assert!(
            response.field(latency).unwrap().parse::<u64>().is_ok(),
            "{latency}"
        );
    }
    let id = response.field("x-request-id").unwrap();
    assert_eq!(seen.field("x-request-id"), Some(id.clone()));
    assert!(
        id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()),
        "{id}"
    );
}

#[tokio::test]
async fn requests_one_after_the_other_share_both_connections() {
    let upstream = Upstream::mirror().await;
    let gateway = Gateway::start(upstream.address, "");
    within(async {
        let mut client = gateway.connect().await;
        for turn in 0..20 {
            client
                .send(&format!("GET /{turn} HTTP/1.1\r\nHost: a\r\n\r\n"))
                .await;
            let response = client.receive().await;
            assert!(response.text().starts_with(&format!("GET /{turn} ")));
        }
        // Two in one packet are answered in order.
        client
            .send("GET /x HTTP/1.1\r\nHost: a\r\n\r\nGET /y HTTP/1.1\r\nHost: a\r\n\r\n")
            .await;
        assert!(client.receive().await.text().starts_with("GET /x "));
        assert!(client.receive().await.text().starts_with("GET /y "));
    })
    .await;
    assert_eq!(upstream.connections(), 1);
    let metrics = gateway.metrics();
    assert_eq!(
        (
            metrics.accepted,
            metrics.upstream_connections,
            metrics.responses[1]
        ),
        (1, 1, 22)
    );
}

#[tokio::test]
async fn routes_choose_by_host_and_prefix_and_may_strip_it() {
    let (plain, api) = (Upstream::mirror().await, Upstream::mirror().await);
    let yaml = format!(
        "upstreams:\n  - name: plain\n    targets: [http://{}]\n  - name: api\n    targets: [http://{}/v1]\n\
         routes:\n  - name: all\n    upstream: plain\n  - name: api\n    hosts: [api.test]\n    \
         path_prefix: /api\n    strip_prefix: true\n    upstream: api\n",
        plain.address, api.address
    );
    let gateway = Gateway::start_with(&yaml, Arc::new(|| Box::pin(std::future::ready(()))));
    let asked = async |host: &str, path: &str| {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        gateway
            .ask(&request)
            .await
            .text()
            .lines()
            .next()
            .unwrap()
            .to_owned()
    };
    within(async {
        assert_eq!(
            asked("api.test", "/api/users?q=%2F").await,
            "GET /v1/users?q=%2F HTTP/1.1"
        );
        assert_eq!(asked("api.test", "/%61pi").await, "GET /v1/ HTTP/1.1");
        assert_eq!(asked("api.test", "/apis").await, "GET /apis HTTP/1.1");
        assert_eq!(asked("other.test", "/api/%61").await, "GET /api/a HTTP/1.1");
        // RFC 9112 §3.2.2: the target's authority wins over the Host field.
        assert_eq!(
            asked("other.test", "http://api.test/api/x").await,
            "GET /v1/x HTTP/1.1"
        );
    })
    .await;
    assert_eq!((plain.connections() > 0, api.connections() > 0), (true, true));
}

#[tokio::test]
async fn a_request_body_streams_before_it_ends_and_a_response_body_too() {
    let (heard, mut hears) = mpsc::unbounded_channel();
    let upstream = Upstream::play(move |mut peer, _| {
        let heard = heard.clone();
        async move {
            peer.head().await.unwrap();
            peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                .await;
            while let Some(chunk) = peer.chunk().await {
                let text = String::from_utf8(chunk).unwrap();
                peer.send(&format!("{:x}\r\n{text}\r\n", text.len())).await;
                heard.send(text).unwrap();
            }
            peer.send("0\r\n\r\n").await;
            peer.fill().await;
        }
    })
    .await;
    let gateway = Gateway::start(upstream.address, "");
    within(async {
        let mut client = gateway.connect().await;
        client
            .send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
            .await;
        // Each piece reaches the other side and comes back before the next is sent.
        for piece in ["one", "two", "three"] {
            client.send(&format!("{:x}\r\n{piece}\r\n", piece.len())).await;
            assert_eq!(hears.recv().await.unwrap(), piece);
            if piece == "one" {
                assert_eq!(client.head().await.unwrap().status(), 200);
            }
            assert_eq!(client.chunk().await.unwrap(), piece.as_bytes());
        }
        client.send("0\r\n\r\n").await;
        assert_eq!(client.chunk().await, None);
    })
    .await;
}

#[tokio::test]
async fn a_client_that_does_not_read_stops_the_upstream_from_sending() {
    const BODY: usize = 64 * 1024 * 1024;
    let sent = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&sent);
    let upstream = Upstream::play(move |mut peer, _| {
        let counter = Arc::clone(&counter);
        async move {
            peer.head().await.unwrap();
            peer.send(&format!("HTTP/1.1 200 OK\r\nContent-Length: {BODY}\r\n\r\n"))
                .await;
            let block = vec![b'x'; 64 * 1024];
            while counter.load(SeqCst) < BODY {
                peer.stream.write_all(&block).await.unwrap();
                counter.fetch_add(block.len(), SeqCst);
            }
        }
    })
    .await;
    let gateway = Gateway::start(upstream.address, "");
    within(async {
        let mut client = gateway.connect().await;
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        client.head().await.unwrap();
        // The upstream is blocked once two looks in a row find no progress; a slow machine can only make
        // them find it early, and then less has been buffered.
        let mut before = usize::MAX;
        while sent.load(SeqCst) != before {
            before = sent.load(SeqCst);
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        assert!(before < BODY / 2, "{before} bytes were buffered");
        let mut left = BODY - client.unread.len();
        client.unread.clear();
        let mut buffer = vec![0; 256 * 1024];
        while left > 0 {
            left -= client.stream.read(&mut buffer).await.unwrap();
        }
    })
    .await;
    assert_eq!(sent.load(SeqCst), BODY);
}

#[tokio::test]
async fn trailers_pass_when_the_client_takes_them() {
    let upstream = Upstream::play(|mut peer, _| async move {
        let request = peer.head().await.unwrap();
        assert_eq!(request.field("te").as_deref(), Some("trailers"));
        peer.send("HTTP/1.1 200 OK\r\nTrailer: x-sum\r\nTransfer-Encoding: chunked\r\n\r\n")
            .await;
        peer.send("2\r\nhi\r\n0\r\nx-sum: 42\r\n\r\n").await;
        peer.fill().await;
    })
    .await;
    let gateway = Gateway::start(upstream.address, "");
    within(async {
        let mut client = gateway.connect().await;
        client
            .send("GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: TE\r\n\r\n")
            .await;
        assert_eq!(client.receive().await.text(), "hi");
        assert_eq!(client.until("\r\n\r\n").await.unwrap(), "x-sum: 42\r\n\r\n");
    })
    .await;
}

#[tokio::test]
async fn http2_with_prior_knowledge_carries_many_requests_at_once() {
    let upstream = Upstream::mirror().await;
    let gateway = Gateway::start(upstream.address, "");
    within(async {
        let sender = gateway.connect_http2().await;
        let ask = |turn: usize| {
            let mut sender = sender.clone();
            async move {
                let uri = format!("http://h2.test/{turn}");
                let request = Request::post(uri).body(Full::new(Bytes::from("body"))).unwrap();
                let response = sender.send_request(request).await.unwrap();
                assert_eq!(response.status(), 200);
                let text = response.into_body().collect().await.unwrap().to_bytes();
                String::from_utf8(text.to_vec()).unwrap()
            }
        };
        let asked: Vec<_> = (0..8).map(|turn| tokio::spawn(ask(turn))).collect();
        for (turn, asked) in asked.into_iter().enumerate() {
            let seen = asked.await.unwrap().to_ascii_lowercase();
            assert!(seen.starts_with(&format!("post /{turn} http/1.1\r\n")), "{seen}");
            assert!(
                seen.contains("\r\nhost: h2.test\r\n") && seen.contains("via: 2 weir"),
                "{seen}"
            );
            assert!(seen.ends_with("\r\n\r\nbody"), "{seen}");
        }
    })
    .await;
    assert_eq!(gateway.metrics().accepted, 1);
}

#[tokio::test]
async fn a_websocket_becomes_a_tunnel_and_other_upgrades_do_not() {
    let upstream = Upstream::play(|mut peer, _| async move {
        let request = peer.head().await.unwrap();
        if request.field("upgrade").is_none() {
            return peer
                .send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nplain")
                .await;
        }
        let head = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n";
        peer.send(&format!("{head}Sec-WebSocket-Accept: yes\r\n\r\n"))
            .await;
        while peer.fill().await {
            let text = String::from_utf8(std::mem::take(&mut peer.unread)).unwrap();
            peer.send(&text.to_uppercase()).await;
        }
    })
    .await;
    let gateway = Gateway::start(upstream.address, "");
    within(async {
        let mut client = gateway.connect().await;
        client
            .send("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\n\r\n")
            .await;
        let answer = client.head().await.unwrap();
        assert_eq!(answer.status(), 101);
        assert_eq!(answer.field("upgrade").as_deref(), Some("websocket"));
        assert_eq!(answer.field("sec-websocket-accept").as_deref(), Some("yes"));
        client.send("over and out").await;
        assert_eq!(client.exactly(12).await, b"OVER AND OUT");

        let h2c = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\
            HTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n";
        assert_eq!(gateway.ask(h2c).await.text(), "plain");
    })
    .await;
}

#[tokio::test]
async fn a_body_is_asked_for_with_100_continue() {
    let upstream = Upstream::mirror().await;
    let gateway = Gateway::start(upstream.address, "");
    within(async {
        let mut client = gateway.connect().await;
        client
            .send("PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
            .await;
        assert_eq!(client.head().await.unwrap().status(), 100);
        client.send("ok").await;
        assert!(client.receive().await.text().ends_with("\r\n\r\nok"));
    })
    .await;
}

#[tokio::test]
async fn the_response_of_a_real_server_keeps_its_date_and_its_length() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (done, waits) = oneshot::channel::<()>();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let service = hyper::service::service_fn(|_| async {
            let response = http::Response::builder().header("date", "Sun, 06 Nov 1994 08:49:37 GMT");
            Ok::<_, Infallible>(response.body(Full::new(Bytes::from("body"))).unwrap())
        });
        let connection =
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        let _ = tokio::select! { ended = connection => ended, _ = waits => Ok(()) };
    });
    let gateway = Gateway::start(address, "");
    let head = within(async {
        let mut client = gateway.connect().await;
        client.send("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let head = client.head().await.unwrap();
        // No body follows the head: the next message is the next response.
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert_eq!(client.receive().await.text(), "body");
        head
    })
    .await;
    assert_eq!(
        head.field("date").as_deref(),
        Some("Sun, 06 Nov 1994 08:49:37 GMT")
    );
    assert_eq!(head.field("content-length").as_deref(), Some("4"));
    drop(done);
}
