//! When a request is tried again, and when it is given up.

use tokio::sync::{Barrier, Semaphore};

use super::*;

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

fn start(yaml: &str) -> Gateway {
    Gateway::start_with(yaml, Arc::new(|| Box::pin(std::future::ready(()))))
}

fn one(upstream: &Upstream, more: &str) -> Gateway {
    let target = format!("http://{}", upstream.address);
    start(&format!(
        "upstreams:\n  - name: up\n    targets: ['{target}']\n{more}"
    ))
}

/// Breaks its first `count` connections off when they have sent a whole request, and echoes bodies on the others.
async fn breaks_first(count: usize) -> Upstream {
    Upstream::play(move |mut peer, number| async move {
        while let Some(request) = peer.head().await {
            let length = request
                .field("content-length")
                .map_or(0, |length| length.parse().unwrap());
            let body = peer.exactly(length).await;
            if number < count {
                return;
            }
            let body = String::from_utf8(body).unwrap();
            peer.send(&format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            ))
            .await;
        }
    })
    .await
}

#[tokio::test]
async fn an_idempotent_request_is_sent_again_when_its_connection_breaks_and_a_post_is_not() {
    let upstream = breaks_first(2).await;
    let gateway = one(&upstream, "");
    within(async {
        let post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(gateway.ask(post).await.status(), 502);
        assert_eq!(upstream.connections(), 1);
        assert_eq!(gateway.ask(GET).await.status(), 200);
    })
    .await;
    assert_eq!(upstream.connections(), 3);
    assert_eq!(gateway.metrics().upstreams[0].retries, 1);
}

#[tokio::test]
async fn tries_are_bounded_and_can_be_switched_off() {
    for (retries, connections) in [
        ("", 3),
        ("    retries: {tries: 1}\n", 1),
        ("    retries: {on: []}\n", 1),
    ] {
        let upstream = breaks_first(usize::MAX).await;
        let gateway = one(&upstream, retries);
        assert_eq!(within(gateway.ask(GET)).await.status(), 502);
        assert_eq!(upstream.connections(), connections, "{retries}");
        assert_eq!(gateway.metrics().upstream_failures.iter().sum::<u64>(), 1);
    }
}

#[tokio::test]
async fn a_small_body_is_sent_again_whole_and_a_larger_one_is_not() {
    let upstream = breaks_first(1).await;
    let gateway = one(&upstream, "    retries: {body_bytes_max: 5}\n");
    let put = |body: &str| {
        let length = body.len();
        format!("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{body}")
    };
    within(async {
        let response = gateway.ask(&put("hello")).await;
        assert_eq!((response.status(), response.text()), (200, "hello"));
    })
    .await;
    let upstream = breaks_first(1).await;
    let gateway = one(&upstream, "    retries: {body_bytes_max: 5}\n");
    assert_eq!(within(gateway.ask(&put("hello!"))).await.status(), 502);
    assert_eq!(upstream.connections(), 1);
}

#[tokio::test]
async fn any_request_goes_on_to_the_next_server_when_one_cannot_be_reached() {
    let refusing = refusing().await;
    let upstream = breaks_first(0).await;
    let targets = format!("['http://{refusing}', 'http://{}']", upstream.address);
    let gateway = start(&format!("upstreams:\n  - name: up\n    targets: {targets}\n"));
    within(async {
        for _ in 0..4 {
            let post =
                "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n";
            let mut client = gateway.connect().await;
            client.send(&format!("{post}5\r\nhello\r\n0\r\n\r\n")).await;
            assert_eq!(client.head().await.unwrap().status(), 200);
        }
    })
    .await;
}

#[tokio::test]
async fn a_status_that_the_configuration_names_is_tried_elsewhere_and_the_last_answer_passes() {
    let answering = |status: &'static str| {
        Upstream::play(move |mut peer, _| async move {
            while peer.head().await.is_some() {
                peer.send(&format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n"))
                    .await;
            }
        })
    };
    let (bad, good) = (answering("503 Down").await, answering("200 OK").await);
    let more = "    retries: {on: [503]}\n    ejection: {failures: 0}\n";
    let targets = format!("['http://{}', 'http://{}']", bad.address, good.address);
    let gateway = start(&format!(
        "upstreams:\n  - name: up\n    targets: {targets}\n{more}"
    ));
    within(async {
        for _ in 0..4 {
            assert_eq!(gateway.ask(GET).await.status(), 200);
        }
        assert!(gateway.metrics().upstreams[0].retries >= 2);
        let alone = one(&bad, more);
        assert_eq!(alone.ask(GET).await.status(), 503);
        assert_eq!(alone.metrics().upstreams[0].retries, 2);
        // A connection whose response was read to its end is used again.
        assert_eq!(alone.metrics().upstream_connections, 1);
    })
    .await;
}

#[tokio::test]
async fn the_budget_bounds_retries_when_everything_fails_at_once() {
    const CLIENTS: usize = 20;
    let (all_there, refused) = (Arc::new(Barrier::new(CLIENTS)), Arc::new(Semaphore::new(0)));
    let (barrier, told) = (Arc::clone(&all_there), Arc::clone(&refused));
    let upstream = Upstream::play(move |mut peer, number| {
        let (barrier, told) = (Arc::clone(&barrier), Arc::clone(&told));
        async move {
            peer.head().await;
            if number < CLIENTS {
                barrier.wait().await;
            } else if number < CLIENTS + 2 {
                told.acquire().await.unwrap().forget();
            }
        }
    })
    .await;
    let gateway = one(
        &upstream,
        "    retries: {budget: 0.1, budget_min: 1}\n    ejection: {failures: 0}\n",
    );
    within(async {
        let (ended, mut ends) = tokio::sync::mpsc::unbounded_channel();
        let mut asking = tokio::task::JoinSet::new();
        for _ in 0..CLIENTS {
            let mut client = gateway.connect().await;
            let ended = ended.clone();
            asking.spawn(async move {
                client.send(GET).await;
                ended.send(client.receive().await.status()).unwrap();
            });
        }
        // Two may try again, a tenth of those in flight. The others are told at once.
        for _ in 0..CLIENTS - 2 {
            assert_eq!(ends.recv().await, Some(502));
        }
        let reading = &gateway.metrics().upstreams[0];
        assert_eq!(
            (reading.retries, reading.retries_refused),
            (2, CLIENTS as u64 - 2)
        );
        refused.add_permits(2);
        for _ in 0..2 {
            assert_eq!(ends.recv().await, Some(502));
        }
    })
    .await;
    assert_eq!(upstream.connections(), CLIENTS + 4);
}

#[tokio::test]
async fn a_server_that_does_not_accept_connections_is_given_up() {
    use socket2::{Domain, Socket, Type};
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    socket.bind(&any.into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    // Once its queue is full, Linux answers no further SYN.
    let mut queued = Vec::new();
    while let Ok(Ok(stream)) =
        tokio::time::timeout(Duration::from_millis(200), TcpStream::connect(address)).await
    {
        queued.push(stream);
    }
    let gateway = start(&format!(
        "upstreams:\n  - name: up\n    targets: ['http://{address}']\n    connect_timeout: 100ms\n"
    ));
    let response = within(gateway.ask(GET)).await;
    assert_eq!(response.status(), 504);
    assert_eq!(
        response.json()["message"],
        "the upstream server did not accept a connection in time"
    );
}

#[tokio::test]
async fn a_request_that_takes_too_long_in_all_is_given_up_before_and_after_its_response_began() {
    let upstream = Upstream::play(|mut peer, number| async move {
        peer.head().await;
        if number > 0 {
            peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                .await;
            // Never silent for long, and never done.
            while tokio::time::timeout(Duration::from_millis(20), peer.fill())
                .await
                .is_err()
            {
                peer.send("1\r\nx\r\n").await;
            }
        }
        peer.fill().await;
    })
    .await;
    let gateway = one(&upstream, "    total_timeout: 300ms\n");
    within(async {
        let response = gateway.ask(GET).await;
        assert_eq!(response.status(), 504);
        assert_eq!(response.json()["message"], "the request took too long in all");
        let mut client = gateway.connect().await;
        client.send(GET).await;
        assert_eq!(client.head().await.unwrap().status(), 200);
        while client.fill().await {}
        assert!(!client.unread.ends_with(b"0\r\n\r\n"));
    })
    .await;
    let failures = gateway.metrics().upstream_failures;
    assert_eq!(failures[super::super::UpstreamFailure::TotalTimeout as usize], 1);
    assert_eq!(failures[super::super::UpstreamFailure::BodyTimeout as usize], 1);
}

#[tokio::test]
async fn a_response_that_stands_still_is_broken_off_and_its_connection_closed() {
    let (closed, mut closes) = tokio::sync::mpsc::unbounded_channel();
    let upstream = Upstream::play(move |mut peer, _| {
        let closed = closed.clone();
        async move {
            peer.head().await;
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
                .await;
            assert!(peer.is_at_end().await);
            closed.send(()).unwrap();
        }
    })
    .await;
    let gateway = one(&upstream, "    idle_timeout: 100ms\n");
    within(async {
        let mut client = gateway.connect().await;
        client.send(GET).await;
        client.head().await.unwrap();
        assert_eq!(client.exactly(4).await, b"half");
        assert!(client.is_at_end().await);
        assert_eq!(closes.recv().await, Some(()));
    })
    .await;
    let failures = gateway.metrics().upstream_failures;
    assert_eq!(failures[super::super::UpstreamFailure::BodyTimeout as usize], 1);
}
