//! How gRPC clients are refused.

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Full};

use super::super::RefusalReason;
use super::logging::{logged, next};
use super::*;

/// Status code of HTTP, the header block, and whether that is all.
async fn call(gateway: &Gateway, path: &str, content_type: &str) -> (u16, HeaderMap, bool) {
    let mut sender = gateway.connect_http2().await;
    let request = Request::post(format!("http://h.test{path}")).header("content-type", content_type);
    let request = request
        .header("te", "trailers")
        .body(Full::new(Bytes::from("\0\0\0\0\0")));
    let (head, body) = sender.send_request(request.unwrap()).await.unwrap().into_parts();
    let is_all = body.is_end_stream();
    assert_eq!(is_all, body.collect().await.unwrap().to_bytes().is_empty());
    (head.status.as_u16(), head.headers, is_all)
}

#[tokio::test]
async fn a_grpc_client_is_refused_by_a_grpc_status_and_counted_by_what_that_stands_for() {
    let upstream = Upstream::mirror().await;
    let more =
        "routes: [{name: api, path_prefix: /a, upstream: up}]\nrules: [{name: few, windows: [1/year]}]\n";
    let (gateway, lines) = logged(upstream.address, more);
    within(async {
        let (status, headers, is_all) = call(&gateway, "/a", "application/grpc").await;
        assert_eq!(
            (status, headers.get("grpc-status"), is_all),
            (200, None, false),
            "the upstream's"
        );
        let denied = ("/a", "application/grpc+proto", "8", "API rate limit exceeded");
        let unrouted = (
            "/b",
            "application/grpc",
            "12",
            "no Route matched with those values",
        );
        let malformed = (
            "/a%zz",
            "application/grpc;x=y",
            "13",
            "the request's path has a percent sign without two hexadecimal digits",
        );
        for (path, content_type, code, message) in [denied, unrouted, malformed] {
            let (status, headers, is_all) = call(&gateway, path, content_type).await;
            assert_eq!((status, is_all), (200, true), "{path}");
            assert_eq!(headers["content-type"], "application/grpc");
            assert_eq!(
                (&headers["grpc-status"], &headers["grpc-message"]),
                (&code.parse().unwrap(), &message.parse().unwrap())
            );
            assert_eq!(
                headers.contains_key("x-ratelimit-limit-year"),
                code == "8",
                "{path}"
            );
            assert_eq!(headers.contains_key("retry-after"), code == "8", "{path}");
            assert!(headers.contains_key("x-request-id"));
        }
        let (status, headers, is_all) = call(&gateway, "/a", "application/grpc-web").await;
        assert_eq!((status, headers.get("grpc-status"), is_all), (429, None, false));
    })
    .await;
    let statuses: Vec<_> = (0..5).map(|_| next(&lines)["status"].clone()).collect();
    assert_eq!(statuses, [200, 429, 404, 400, 429]);
    let metrics = gateway.metrics();
    assert_eq!(metrics.responses, [0, 1, 0, 4, 0]);
    let refused = RefusalReason::ALL.map(RefusalReason::label).into_iter();
    let refused: Vec<_> = refused
        .zip(metrics.refused)
        .filter(|(_, count)| *count > 0)
        .collect();
    assert_eq!(refused, [("malformed", 1), ("no_route", 1), ("rate_limit", 2)]);
}
