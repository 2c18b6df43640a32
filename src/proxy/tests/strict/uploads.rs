//! Request bodies over HTTP/2.

use std::task::Poll;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{Ping, PingPong, SendStream};
use http::Request;

use super::*;

const PIECE: Bytes = Bytes::from_static(&[b'x'; 4096]);

/// A connection of HTTP/2 whose streams are handled one by one.
async fn connect(gateway: &Gateway) -> (SendRequest<Bytes>, PingPong) {
    let stream = TcpStream::connect(gateway.address()).await.unwrap();
    let (client, mut connection) = h2::client::handshake(stream).await.unwrap();
    let pings = connection.ping_pong().unwrap();
    tokio::spawn(connection);
    (client, pings)
}

/// Begins a POST with a body.
async fn post(client: &SendRequest<Bytes>, expect: &str) -> (ResponseFuture, SendStream<Bytes>) {
    let mut request = Request::post("http://a/");
    if !expect.is_empty() {
        request = request.header("expect", expect);
    }
    let mut client = client.clone().ready().await.unwrap();
    client.send_request(request.body(()).unwrap(), false).unwrap()
}

/// Reads a response to its end, which must be one.
async fn status(response: ResponseFuture) -> u16 {
    let response = response.await.unwrap();
    let status = response.status().as_u16();
    let mut body = response.into_body();
    while let Some(data) = body.data().await {
        body.flow_control().release_capacity(data.unwrap().len()).unwrap();
    }
    status
}

#[tokio::test]
async fn a_refused_request_is_answered_and_its_stream_is_not_reset_while_its_body_comes() {
    let upstream = Recorder::new().await.upstream;
    let gateway = Gateway::start(
        upstream.address,
        "rules:\n  - name: one\n    by: all\n    windows: [1/year]\n",
    );
    within(async {
        assert_eq!(
            gateway.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.status(),
            200
        );
        let (client, mut pings) = connect(&gateway).await;
        for (expect, refused) in [("", 429), ("foo", 417), ("100-continue", 429)] {
            for _ in 0..100 {
                // All at once.
                let (response, mut body) = post(&client, expect).await;
                body.send_data(PIECE, true).unwrap();
                assert_eq!(status(response).await, refused);
                // The body after the answer. With that of a ping, whatever followed the answer has come.
                let (response, mut body) = post(&client, expect).await;
                assert_eq!(status(response).await, refused);
                for is_last in [false, true] {
                    pings.ping(Ping::opaque()).await.unwrap();
                    body.send_data(PIECE, is_last).unwrap();
                }
            }
        }
    })
    .await;
    assert_eq!(gateway.metrics().denied, 400);
}

#[tokio::test]
async fn a_body_that_nobody_wants_is_not_taken_for_ever() {
    let upstream = Recorder::new().await.upstream;
    let gateway = Gateway::start(upstream.address, "");
    within(async {
        let (client, _pings) = connect(&gateway).await;
        let (response, mut body) = post(&client, "foo").await;
        assert_eq!(status(response).await, 417);
        // Either its bytes or its time are over.
        let reset = loop {
            body.reserve_capacity(PIECE.len());
            let turn = std::future::poll_fn(|cx| match body.poll_reset(cx) {
                Poll::Ready(reset) => Poll::Ready(Err(reset.unwrap())),
                Poll::Pending => body.poll_capacity(cx).map(Ok),
            });
            let sent = match turn.await {
                Ok(sent) => sent,
                Err(reset) => break reset,
            };
            let room = sent.and_then(Result::ok).unwrap_or_default().min(PIECE.len());
            if room > 0 && body.send_data(PIECE.slice(..room), false).is_err() {
                break h2::Reason::NO_ERROR;
            }
        };
        assert_eq!(reset, h2::Reason::NO_ERROR);
        let (response, mut body) = post(&client, "").await;
        body.send_data(PIECE, true).unwrap();
        assert_eq!(status(response).await, 200);
    })
    .await;
}

#[tokio::test]
async fn a_body_that_comes_to_a_halt_or_only_trickles_is_a_408_and_others_go_on() {
    let upstream = Recorder::new().await.upstream;
    let gateway = super::slow::gateway("  body_timeout: 200ms\n  body_rate_min: 1000\n", &upstream);
    within(async {
        let (client, _pings) = connect(&gateway).await;
        let (silent, _halted) = post(&client, "").await;
        let (slow, mut body) = post(&client, "").await;
        let trickle = async {
            // A byte each 10 ms is a tenth of the least rate.
            while body.send_data(Bytes::from_static(b"x"), false).is_ok() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            slow = status(slow) => assert_eq!(slow, 408),
            () = trickle => {}
        }
        assert_eq!(status(silent).await, 408);
        let (response, mut body) = post(&client, "").await;
        body.send_data(PIECE, true).unwrap();
        assert_eq!(status(response).await, 200);
    })
    .await;
}
