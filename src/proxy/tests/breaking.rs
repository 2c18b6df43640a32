//! Who is to blame for a response that breaks off, or stands still: only servers are left out for it.

use super::super::UpstreamFailure;
use super::*;

/// Begins its response before it has the request, and breaks it off if asked for `/breaks`.
async fn answers_early() -> Upstream {
    Upstream::play(|mut peer, _| async move {
        let Some(request) = peer.head().await else { return };
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        peer.send(&format!("{head}2\r\nok\r\n")).await;
        if !request.head.contains("/breaks") {
            while peer.fill().await {}
        }
    })
    .await
}

#[tokio::test]
async fn a_client_that_breaks_off_or_stalls_has_no_server_left_out() {
    let (one, other) = (answers_early().await, answers_early().await);
    let open = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n";
    let (whole, breaks) = (
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /breaks HTTP/1.1\r\nHost: a\r\n\r\n",
    );
    // What comes before the response and after its beginning, servers left out, and failures of either kind.
    let table = [
        (open, "no size\r\n", 0, (0, 0)),
        (open, "", 0, (0, 1)),
        (whole, "", 1, (0, 1)),
        (breaks, "", 1, (1, 0)),
    ];
    for (request, rest, ejections, (broken, overdue)) in table {
        let targets = format!("['http://{}', 'http://{}']", one.address, other.address);
        let yaml = format!(
            "upstreams:\n  - name: up\n    targets: {targets}\n    idle_timeout: 100ms\n    ejection: {{failures: 1}}\n"
        );
        let gateway = Gateway::start_with(&yaml, Arc::new(|| Box::pin(std::future::ready(()))));
        within(async {
            let mut client = gateway.connect().await;
            client.send(request).await;
            assert_eq!(client.head().await.map(|head| head.status()), Some(200));
            assert_eq!(client.chunk().await.as_deref(), Some(&b"ok"[..]));
            client.send(rest).await;
            assert!(client.is_at_end().await, "{:?}", client.unread);
        })
        .await;
        let metrics = gateway.metrics();
        let failures = |kind: UpstreamFailure| metrics.upstream_failures[kind as usize];
        assert_eq!(metrics.upstreams[0].ejections, ejections, "{request}{rest}");
        let failed = (
            failures(UpstreamFailure::Body),
            failures(UpstreamFailure::BodyTimeout),
        );
        assert_eq!(failed, (broken, overdue), "{request}{rest}");
    }
}
