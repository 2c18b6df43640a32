//! What does not pass, and what the client hears of it.

use super::*;

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

#[tokio::test]
async fn malformed_and_unwanted_requests_are_refused_before_the_upstream() {
    let upstream = Upstream::mirror().await;
    let gateway = Gateway::start(
        upstream.address,
        "routes:\n  - name: api\n    path_prefix: /api\n    upstream: up\n",
    );
    let table: &[(&str, u16, &str)] = &[
        (
            "GET /x HTTP/1.1\r\nHost: a\r\n\r\n",
            404,
            "no Route matched with those values",
        ),
        (
            "GET /api/../x HTTP/1.1\r\nHost: a\r\n\r\n",
            404,
            "no Route matched with those values",
        ),
        (
            "GET /api/%2e%2E%2fx HTTP/1.1\r\nHost: a\r\n\r\n",
            400,
            "the request's path has an encoded slash or backslash",
        ),
        ("GET /api HTTP/1.1\r\n\r\n", 400, "the request has no Host"),
        (
            "GET /api HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
            400,
            "the request has more than one Host",
        ),
        (
            "GET /api HTTP/1.1\r\nHost: a b\r\n\r\n",
            400,
            "the request's Host is not valid",
        ),
        (
            "GET http://u@a/api HTTP/1.1\r\nHost: a\r\n\r\n",
            400,
            "the request's Host is not valid",
        ),
        (
            "TRACE /api HTTP/1.1\r\nHost: a\r\n\r\n",
            405,
            "this method is not allowed",
        ),
        (
            "CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n",
            405,
            "this method is not allowed",
        ),
        (
            "POST /api HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            501,
            "the request has a transfer coding other than chunked",
        ),
    ];
    within(async {
        for (request, status, message) in table {
            let response = gateway.ask(request).await;
            assert_eq!(response.status(), *status, "{request}");
            let body = response.json();
            assert_eq!(body["message"], *message, "{request}");
            assert_eq!(
                Some(body["request_id"].as_str().unwrap()),
                response.field("x-request-id").as_deref()
            );
            assert_eq!(response.field("via").as_deref(), Some("1.1 weir"));
        }
        let allowed = gateway
            .ask("TRACE / HTTP/1.1\r\nHost: a\r\n\r\n")
            .await
            .field("allow");
        assert!(allowed.unwrap().starts_with("GET, HEAD, POST"));
    })
    .await;
    assert_eq!(upstream.connections(), 0);
}

#[tokio::test]
async fn a_request_with_two_lengths_cannot_smuggle_another() {
    let upstream = Upstream::mirror().await;
    let gateway = Gateway::start(upstream.address, "");
    within(async {
        let mut client = gateway.connect().await;
        let smuggled = "0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
        let head = "GET /outer HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n";
        client
            .send(&format!(
                "{head}Content-Length: {}\r\n\r\n{smuggled}",
                smuggled.len()
            ))
            .await;
        // RFC 9112 §6.1 allows to go by the chunks alone, if the connection is closed afterwards.
        client.receive().await;
        assert!(
            client.is_at_end().await,
            "a second response came: {:?}",
            client.unread
        );
    })
    .await;
    assert_eq!(gateway.metrics().responses.iter().sum::<u64>(), 1);
}

#[tokio::test]
async fn heads_over_the_bounds_are_refused() {
    let upstream = Upstream::mirror().await;
    let gateway = Gateway::start(upstream.address, "");
    let many: String = (0..101).map(|n| format!("X-{n}: 1\r\n")).collect();
    let large = "x".repeat(70 * 1024);
    within(async {
        for fields in [many, format!("X-Large: {large}\r\n")] {
            let mut client = gateway.connect().await;
            let request = format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
            // The proxy may close before all is written.
            let _ = client.stream.write_all(request.as_bytes()).await;
            assert_eq!(client.head().await.map(|head| head.status()), Some(431));
        }
    })
    .await;
    assert_eq!(upstream.connections(), 0);
}

#[tokio::test]
async fn a_client_that_never_finishes_its_head_is_closed() {
    let upstream = Upstream::mirror().await;
    let gateway = Gateway::start_with(
        &format!(
            "proxy:\n  header_read_timeout: 200ms\nupstreams:\n  - name: up\n    targets: [http://{}]\n",
            upstream.address
        ),
        Arc::new(|| Box::pin(std::future::ready(()))),
    );
    within(async {
        let mut silent = gateway.connect().await;
        let mut slow = gateway.connect().await;
        slow.send("GET / HTTP/1.1\r\n").await;
        let mut second = gateway.connect().await;
        second.send(GET).await;
        second.receive().await;
        second.send("GET / HT").await;
        for peer in [&mut silent, &mut slow, &mut second] {
            assert!(peer.is_at_end().await);
        }
    })
    .await;
    assert_eq!(gateway.metrics().responses.iter().sum::<u64>(), 1);
}

#[tokio::test]
async fn each_failure_of_an_upstream_has_its_status() {
    // A port that was free a moment ago refuses.
    let refusing = refusing().await;
    let hangup = Upstream::play(|mut peer, _| async move { drop(peer.head().await) }).await;
    let garbage = Upstream::play(|mut peer, _| async move {
        peer.head().await;
        peer.send("SSH-2.0-OpenSSH_9.2\r\n\r\n").await;
    })
    .await;
    let silent = Upstream::play(|mut peer, _| async move { while peer.fill().await {} }).await;
    let strange = Upstream::play(|mut peer, _| async move {
        peer.head().await;
        peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n")
            .await;
        peer.fill().await;
    })
    .await;
    let table = [
        (refusing.to_string(), 502, "the upstream server cannot be reached"),
        (
            hangup.address.to_string(),
            502,
            "the upstream server closed the connection without a valid response",
        ),
        (
            garbage.address.to_string(),
            502,
            "the upstream server sent a response that cannot be passed on",
        ),
        (
            strange.address.to_string(),
            502,
            "the upstream server sent a response that cannot be passed on",
        ),
        (
            silent.address.to_string(),
            504,
            "the upstream server did not answer in time",
        ),
        (
            "no-such-host.invalid:80".to_owned(),
            503,
            "the upstream server's name has no address",
        ),
    ];
    for (target, status, message) in table {
        let yaml = format!(
            "upstreams:\n  - name: up\n    targets: [http://{target}]\n    response_timeout: 300ms\n"
        );
        let gateway = Gateway::start_with(&yaml, Arc::new(|| Box::pin(std::future::ready(()))));
        let response = within(gateway.ask("GET / HTTP/1.1\r\nHost: a\r\nAccept: text/plain\r\n\r\n")).await;
        assert_eq!(
            (response.status(), response.text().lines().next()),
            (status, Some(message)),
            "{target}"
        );
        assert_eq!(
            gateway.metrics().upstream_failures.iter().sum::<u64>(),
            1,
            "{target}"
        );
    }
}

#[tokio::test]
async fn a_target_that_refuses_is_passed_over() {
    let refusing = refusing().await;
    let upstream = Upstream::mirror().await;
    let targets = format!("[http://{refusing}, http://{}]", upstream.address);
    let yaml = format!("upstreams:\n  - name: up\n    targets: {targets}\n");
    let gateway = Gateway::start_with(&yaml, Arc::new(|| Box::pin(std::future::ready(()))));
    within(async {
        for _ in 0..4 {
            assert_eq!(gateway.ask(GET).await.status(), 200);
        }
    })
    .await;
}

#[tokio::test]
async fn a_response_that_breaks_off_breaks_off_for_the_client_too() {
    let upstream = Upstream::play(|mut peer, _| async move {
        peer.head().await;
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
            .await;
    })
    .await;
    let gateway = Gateway::start(upstream.address, "");
    within(async {
        let mut client = gateway.connect().await;
        client.send(GET).await;
        client.head().await.unwrap();
        assert_eq!(client.exactly(4).await, b"half");
        assert!(client.is_at_end().await);
    })
    .await;
    let failures = gateway.metrics().upstream_failures;
    assert_eq!(failures[super::super::UpstreamFailure::Body as usize], 1);
}

/// An upstream that answers one request per connection, and closes at the second without a word: what
/// an idle timeout looks like when a request crosses it.
async fn closes_at_the_second_request() -> Upstream {
    Upstream::play(|mut peer, _| async move {
        peer.head().await;
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        peer.head().await;
    })
    .await
}

#[tokio::test]
async fn a_pooled_connection_that_dies_under_a_get_is_replaced_unseen() {
    let upstream = closes_at_the_second_request().await;
    let gateway = Gateway::start(upstream.address, "");
    within(async {
        let mut client = gateway.connect().await;
        for _ in 0..5 {
            client.send(GET).await;
            assert_eq!(client.receive().await.text(), "ok");
        }
    })
    .await;
    assert_eq!(upstream.connections(), 5);
    assert_eq!(gateway.metrics().upstream_failures.iter().sum::<u64>(), 0);
}

#[tokio::test]
async fn a_post_is_never_sent_twice() {
    let upstream = closes_at_the_second_request().await;
    let gateway = Gateway::start(upstream.address, "");
    within(async {
        let mut client = gateway.connect().await;
        let post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n";
        client.send(post).await;
        assert_eq!(client.receive().await.status(), 200);
        client.send(post).await;
        assert_eq!(client.receive().await.status(), 502);
    })
    .await;
    assert_eq!(upstream.connections(), 1);
}

#[tokio::test]
async fn a_client_that_leaves_frees_its_upstream_connection() {
    let (left, mut leaves) = tokio::sync::mpsc::unbounded_channel();
    let upstream = Upstream::play(move |mut peer, _| {
        let left = left.clone();
        async move {
            peer.head().await;
            left.send("asked").unwrap();
            assert!(peer.is_at_end().await);
            left.send("closed").unwrap();
        }
    })
    .await;
    let gateway = Gateway::start(upstream.address, "");
    within(async {
        let mut client = gateway.connect().await;
        client.send(GET).await;
        assert_eq!(leaves.recv().await, Some("asked"));
        drop(client);
        assert_eq!(leaves.recv().await, Some("closed"));
    })
    .await;
}
