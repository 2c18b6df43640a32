//! Bodies over HTTP/2 that say nothing of their length.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::BodyExt;
use hyper::body::Frame;
use tokio::sync::mpsc;

use super::*;

/// Pieces as they come from the other end.
struct Pieces(mpsc::UnboundedReceiver<&'static str>);

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = self.0.poll_recv(cx);
        piece.map(|piece| piece.map(|piece| Ok(Frame::data(Bytes::from_static(piece.as_bytes())))))
    }
}

fn gateway(upstream: &Upstream) -> Gateway {
    let target = upstream.address;
    let yaml =
        format!("proxy:\n  body_bytes_max: 10\nupstreams:\n  - name: up\n    targets: [http://{target}]\n");
    Gateway::start_with(&yaml, Arc::new(|| Box::pin(std::future::ready(()))))
}

fn request(method: Method) -> (mpsc::UnboundedSender<&'static str>, Request<Pieces>) {
    let (pieces, body) = mpsc::unbounded_channel();
    let request = Request::builder().method(method).uri("http://h2.test/");
    (pieces, request.body(Pieces(body)).unwrap())
}

#[tokio::test]
async fn a_body_without_a_length_is_held_to_the_bound_while_it_is_passed_on() {
    let recorder = Recorder::new().await;
    let gateway = gateway(&recorder.upstream);
    within(async {
        let mut client = gateway.connect_http2().await;
        // The body of a PUT is kept for another try, that of a POST is not.
        for method in [Method::POST, Method::PUT] {
            for (last, status) in [("9", 200), ("9x", 413)] {
                let (pieces, request) = request(method.clone());
                let sent = tokio::spawn(client.send_request(request));
                pieces.send("012345678").unwrap();
                pieces.send(last).unwrap();
                // The refusal does not wait for the end of the body.
                let held = (status == 413).then_some(pieces);
                let response = sent.await.unwrap().unwrap();
                assert_eq!(response.status(), status, "{method} {last}");
                drop(held);
            }
        }
        let upstream = String::from_utf8(recorder.take()).unwrap();
        assert_eq!(upstream.matches("\r\n0\r\n").count(), 2, "{upstream}");
        assert!(!upstream.contains("9x"), "{upstream}");
    })
    .await;
    let metrics = gateway.metrics();
    assert_eq!(metrics.responses, [0, 2, 0, 2, 0]);
    assert_eq!(metrics.upstream_failures.iter().sum::<u64>(), 0);
}

#[tokio::test]
async fn a_body_that_exceeds_the_bound_after_the_response_has_begun_resets_its_stream_alone() {
    let upstream = Upstream::play(|mut peer, _| async move {
        if peer
            .head()
            .await
            .is_some_and(|request| request.head.starts_with("GET"))
        {
            return peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        }
        peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n")
            .await;
        while peer.fill().await {}
    })
    .await;
    let gateway = gateway(&upstream);
    within(async {
        let mut client = gateway.connect_http2().await;
        let (pieces, post) = request(Method::POST);
        let sent = tokio::spawn(client.send_request(post));
        pieces.send("0123456789").unwrap();
        let mut body = sent.await.unwrap().unwrap().into_body();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "ok");
        pieces.send("x").unwrap();
        body.frame().await.unwrap().expect_err("the response breaks off");
        let (pieces, get) = request(Method::GET);
        drop(pieces);
        assert_eq!(client.send_request(get).await.unwrap().status(), 200);
    })
    .await;
    assert_eq!(gateway.metrics().accepted, 1);
}
