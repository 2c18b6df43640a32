//! Clients that hold a connection and do next to nothing with it.

use super::*;

/// A gateway whose timeouts are `proxy`, in front of `upstream`.
pub(super) fn gateway(proxy: &str, upstream: &Upstream) -> Gateway {
    let yaml = format!(
        "proxy:\n{proxy}upstreams:\n  - name: up\n    targets: [http://{}]\n",
        upstream.address
    );
    Gateway::start_with(&yaml, Arc::new(|| Box::pin(std::future::ready(()))))
}

#[tokio::test]
async fn a_body_that_comes_to_a_halt_or_only_trickles_is_a_408() {
    let upstream = Recorder::new().await.upstream;
    let gateway = gateway("  body_timeout: 200ms\n  body_rate_min: 1000\n", &upstream);
    within(async {
        let mut silent = gateway.connect().await;
        silent
            .send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nabc")
            .await;
        let mut chunked = gateway.connect().await;
        chunked
            .send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab")
            .await;
        for client in [&mut silent, &mut chunked] {
            let response = client.receive().await;
            assert_eq!(response.status(), 408, "{}", response.head);
            assert!(client.is_at_end().await);
        }
        let mut slow = gateway.connect().await;
        slow.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n")
            .await;
        // A byte each 10 ms is a tenth of the least rate.
        let (mut reading, mut writing) = slow.stream.split();
        let trickle = async {
            while writing.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let answer = async {
            let mut start = [0; 12];
            reading.read_exact(&mut start).await.unwrap();
            start
        };
        let answer = tokio::select! { answer = answer => answer, () = trickle => panic!("no answer") };
        assert_eq!(&answer, b"HTTP/1.1 408");
    })
    .await;
}

/// An upstream that sends without end, and says so when it can no longer.
async fn endless() -> (Upstream, tokio::sync::mpsc::UnboundedReceiver<()>) {
    let (left, leaves) = tokio::sync::mpsc::unbounded_channel();
    let upstream = Upstream::play(move |mut peer, _| {
        let left = left.clone();
        async move {
            peer.head().await;
            let length = 1_u64 << 40;
            peer.send(&format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n"))
                .await;
            let block = vec![b'x'; 64 * 1024];
            while peer.stream.write_all(&block).await.is_ok() {}
            left.send(()).unwrap();
        }
    })
    .await;
    (upstream, leaves)
}

/// Whether the kernel knows of the gateway's end of a connection whose client's port is `client`, in any state.
fn has_socket(gateway: &Gateway, client: u16) -> bool {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let local = format!(":{:04X}", gateway.address().port());
    let remote = format!(":{client:04X}");
    table.lines().any(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let mut ends_with = |end: &str| fields.next().is_some_and(|field| field.ends_with(end));
        ends_with(&local) && ends_with(&remote)
    })
}

#[tokio::test]
async fn a_client_that_takes_nothing_or_little_of_its_response_is_reset_and_nothing_is_kept_for_it() {
    let (upstream, mut leaves) = endless().await;
    // 1 MiB a second, which no client reaches that pauses after each KiB.
    let gateway = gateway("  send_timeout: 300ms\n  send_rate_min: 1048576\n", &upstream);
    within(async {
        for takes_little in [false, true] {
            let mut client = gateway.connect().await;
            let port = client.stream.local_addr().unwrap().port();
            client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
            client.head().await.unwrap();
            assert!(has_socket(&gateway, port));
            let mut space = [0; 1024];
            let trickle = async {
                while takes_little && client.stream.read(&mut space).await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                std::future::pending::<()>().await;
            };
            tokio::select! {
                left = leaves.recv() => left.unwrap(),
                () = trickle => {}
            }
            let mut rest = vec![0; 1 << 20];
            let end = loop {
                match client.stream.read(&mut rest).await {
                    Ok(0) => panic!("closed, not reset"),
                    Ok(_) => {}
                    Err(error) => break error.kind(),
                }
            };
            assert_eq!(end, std::io::ErrorKind::ConnectionReset);
            assert!(!has_socket(&gateway, port));
        }
    })
    .await;
}

#[tokio::test]
async fn a_client_that_opens_its_windows_of_http2_by_little_is_cut_off() {
    let (upstream, mut leaves) = endless().await;
    let gateway = gateway("  send_timeout: 300ms\n  send_rate_min: 1048576\n", &upstream);
    within(async {
        let stream = TcpStream::connect(gateway.address()).await.unwrap();
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(100);
        let (client, connection) = builder.handshake::<_, bytes::Bytes>(stream).await.unwrap();
        let served = tokio::spawn(connection);
        let request = http::Request::get("http://a/").body(()).unwrap();
        let (response, _) = client.ready().await.unwrap().send_request(request, true).unwrap();
        let mut body = response.await.unwrap().into_body();
        while let Some(Ok(data)) = body.data().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
            if body.flow_control().release_capacity(data.len()).is_err() {
                break;
            }
        }
        leaves.recv().await.unwrap();
        assert!(served.await.unwrap().is_err());
    })
    .await;
}

#[tokio::test]
async fn a_tunnel_counts_as_a_connection_to_its_end() {
    let upstream = Upstream::play(|mut peer, _| async move {
        while let Some(request) = peer.head().await {
            if request.field("upgrade").is_none() {
                peer.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
                continue;
            }
            peer.send("HTTP/1.1 101 x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
                .await;
            while peer.fill().await {
                let echoed = String::from_utf8(std::mem::take(&mut peer.unread)).unwrap();
                peer.send(&echoed).await;
            }
        }
    })
    .await;
    let gateway = gateway("  connections_max: 1\n", &upstream);
    within(async {
        let mut tunnel = gateway.connect().await;
        tunnel
            .send("GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
            .await;
        assert_eq!(tunnel.head().await.unwrap().status(), 101);
        let mut next = gateway.connect().await;
        next.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        // In the time of so many turns of the worker, it would have been accepted.
        for _ in 0..50 {
            tunnel.send("hello").await;
            assert_eq!(tunnel.exactly(5).await, b"hello");
        }
        assert_eq!(gateway.metrics().connections, 1);
        assert!(next.stream.try_read(&mut [0; 1]).is_err());
        drop(tunnel);
        assert_eq!(next.receive().await.status(), 200);
    })
    .await;
}

#[tokio::test]
async fn a_tunnel_that_is_silent_and_a_connection_without_requests_are_closed() {
    let upstream = Upstream::play(|mut peer, _| async move {
        while let Some(request) = peer.head().await {
            let answer = match request.field("upgrade") {
                None => "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
                Some(_) => "HTTP/1.1 101 x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
            };
            peer.send(answer).await;
        }
    })
    .await;
    let gateway = gateway(
        "  tunnel_timeout: 200ms\n  keep_alive_timeout: 200ms\n  header_read_timeout: 200ms\n",
        &upstream,
    );
    within(async {
        for upgrade in ["", "Connection: upgrade\r\nUpgrade: websocket\r\n"] {
            let mut client = gateway.connect().await;
            client
                .send(&format!("GET / HTTP/1.1\r\nHost: a\r\n{upgrade}\r\n"))
                .await;
            client.receive().await;
            assert!(client.is_at_end().await);
        }
    })
    .await;
    assert_eq!(gateway.metrics().in_flight, 0);
}

#[tokio::test]
async fn a_client_has_no_more_connections_than_it_may() {
    let upstream = Recorder::new().await.upstream;
    let gateway = gateway("  connections_per_client_max: 2\n", &upstream);
    let get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    within(async {
        let (mut first, mut second) = (gateway.connect().await, gateway.connect().await);
        for client in [&mut first, &mut second] {
            client.send(get).await;
            assert_eq!(client.receive().await.status(), 200);
        }
        assert!(gateway.connect().await.is_at_end().await);
        assert_eq!(gateway.metrics().connections_refused, 1);
        drop(first);
        // The place is free once the proxy has seen the end.
        loop {
            let mut third = gateway.connect().await;
            let _ = third.stream.write_all(get.as_bytes()).await;
            if let Some(head) = third.head().await {
                break assert_eq!(head.status(), 200);
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_refused_request_with_a_body_is_read_to_its_end_or_closes_its_connection() {
    let upstream = Recorder::new().await.upstream;
    let gateway = Gateway::start(
        upstream.address,
        "rules:\n  - name: one\n    by: all\n    windows: [1/year]\n",
    );
    let post = |length: usize| format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n");
    within(async {
        let mut client = gateway.connect().await;
        client.send(&post(0)).await;
        assert_eq!(client.receive().await.status(), 200);
        for piece in ["first", "other"] {
            client.send(&post(10)).await;
            client.send(&piece.repeat(2)).await;
            let denied = client.receive().await;
            assert_eq!((denied.status(), denied.field("connection")), (429, None));
        }
        client.send(&post(10_000_000)).await;
        let denied = client.receive().await;
        assert_eq!(
            (denied.status(), denied.field("connection").as_deref()),
            (429, Some("close"))
        );
        // What is on its way does not reset the connection.
        client.send(&"x".repeat(100_000)).await;
        assert!(client.is_at_end().await);
    })
    .await;
    assert_eq!(gateway.metrics().denied, 3);
}
