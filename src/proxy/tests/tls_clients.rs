//! What TLS decides about clients: the protocol they speak, who they prove to be, and what upstreams hear of it.

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio_rustls::rustls::HandshakeKind;

use super::tls::{Authority, GET, ONE, eventually, replace, secure, secured};
use super::*;
use crate::proxy::{ReloadOutcome, TransportFailure};

#[tokio::test]
async fn http2_is_spoken_by_those_who_agreed_on_it() {
    let authority = Authority::new();
    authority.place("a", &["a.test"]);
    let (gateway, _upstream) = secured(&authority, ONE, "").await;
    within(async {
        let client = authority.client().with_alpn(&["h2", "http/1.1"]);
        let client = client.connect(&gateway, "a.test").await.unwrap();
        assert_eq!(client.stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(client.stream))
            .await
            .unwrap();
        tokio::spawn(connection);
        let request = Request::get("https://a.test/x")
            .body(Empty::<Bytes>::new())
            .unwrap();
        let response = sender.send_request(request).await.unwrap();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let seen = String::from_utf8(body.to_vec()).unwrap();
        assert!(
            seen.contains("via: 2 weir\r\n") && seen.contains("x-forwarded-proto: https\r\n"),
            "{seen}"
        );

        let client = authority.client().with_alpn(&["http/1.1"]);
        let mut client = client.connect(&gateway, "a.test").await.unwrap();
        client.send(GET).await;
        assert_eq!(client.receive().await.status(), 200);
    })
    .await;
}

#[tokio::test]
async fn a_client_that_speaks_what_was_not_agreed_on_is_closed_unanswered() {
    let authority = Authority::new();
    authority.place("a", &["a.test"]);
    let (gateway, upstream) = secured(&authority, ONE, "").await;
    within(async {
        for (agreed, spoken) in [
            ("h2", GET),
            ("http/1.1", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"),
        ] {
            let client = authority.client().with_alpn(&[agreed]);
            let mut client = client.connect(&gateway, "a.test").await.unwrap();
            client.send(spoken).await;
            assert!(client.is_at_end().await, "{agreed}: {:?}", client.unread);
        }
        // Nothing in common: told so at the handshake (RFC 7301 §3.2).
        assert!(
            authority
                .client()
                .with_alpn(&["imap"])
                .connect(&gateway, "a.test")
                .await
                .is_err()
        );
    })
    .await;
    assert_eq!(upstream.connections(), 0);
}

/// The value of `X-Forwarded-Client-Cert` that the upstream saw, lines joined by `|`.
fn told(seen: &Message) -> Option<String> {
    let head = Message {
        head: seen.text().to_owned(),
        body: Vec::new(),
    };
    head.field("x-forwarded-client-cert")
}

const CLAIM: &str =
    "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-Client-Cert: Hash=0;Subject=\"CN=admin\"\r\n\r\n";

#[tokio::test]
async fn a_required_certificate_is_checked_and_told_of() {
    let authority = Authority::new();
    authority.place("a", &["a.test"]);
    let tls = format!("{ONE}, client_ca: FOLDER/ca.pem, forward_client_cert: true");
    let (gateway, upstream) = secured(&authority, &tls, "").await;
    let stranger = Authority::new();
    within(async {
        let client = authority.issue(&["client.test", "spiffe://weir.test/client"]);
        let connector = authority.client().with_identity(client).connector();
        for _ in 0..2 {
            let mut client = secure(&connector, &gateway, "a.test").await.unwrap();
            client.send(CLAIM).await;
            let told = told(&client.receive().await).unwrap();
            let expected = ";Subject=\"CN=client.test\";DNS=client.test;URI=spiffe://weir.test/client";
            assert!(told.starts_with("Hash=") && told.ends_with(expected), "{told}");
            // A session that was resumed would not be checked against the authority again.
            assert_eq!(
                client.stream.get_ref().1.handshake_kind(),
                Some(HandshakeKind::Full)
            );
        }
        let requests = upstream.connections();
        let unknown = authority.client().with_identity(stranger.issue(&["client.test"]));
        for refused in [authority.client(), unknown] {
            // With TLS 1.3 a client learns only afterwards that it was refused.
            if let Ok(mut client) = refused.connect(&gateway, "a.test").await {
                let _ = client.stream.write_all(CLAIM.as_bytes()).await;
                assert!(client.is_at_end().await, "{:?}", client.unread);
            }
        }
        assert_eq!(upstream.connections(), requests);
    })
    .await;
    let failed = || gateway.metrics().transport_failures[TransportFailure::TlsHandshake as usize];
    eventually(async || failed() == 2).await;
}

#[tokio::test]
async fn an_optional_certificate_may_be_missing_but_not_wrong_and_nobody_can_claim_one() {
    let authority = Authority::new();
    authority.place("a", &["a.test"]);
    let tls = format!("{ONE}, client_ca: FOLDER/ca.pem, client_auth: optional");
    let (telling, _up) = secured(&authority, &format!("{tls}, forward_client_cert: true"), "").await;
    let (silent, _up) = secured(&authority, &tls, "").await;
    let stranger = Authority::new();
    within(async {
        for (gateway, with_certificate, expected) in [
            (&telling, false, false),
            (&telling, true, true),
            (&silent, true, false),
            (&silent, false, false),
        ] {
            let mut client = authority.client();
            if with_certificate {
                client = client.with_identity(authority.issue(&["client.test"]));
            }
            let mut client = client.connect(gateway, "a.test").await.unwrap();
            client.send(CLAIM).await;
            let told = told(&client.receive().await);
            assert_eq!(told.is_some(), expected, "{told:?}");
            assert!(!told.unwrap_or_default().contains("admin"));
        }
        let unknown = authority.client().with_identity(stranger.issue(&["client.test"]));
        if let Ok(mut client) = unknown.connect(&telling, "a.test").await {
            let _ = client.stream.write_all(CLAIM.as_bytes()).await;
            assert!(client.is_at_end().await);
        }
    })
    .await;
}

#[tokio::test]
async fn a_changed_authority_decides_about_new_connections() {
    let authority = Authority::new();
    authority.place("a", &["a.test"]);
    let tls = format!("{ONE}, client_ca: FOLDER/ca.pem, forward_client_cert: true");
    let (gateway, _upstream) = secured(&authority, &tls, "").await;
    let next = Authority::new();
    let before = authority.client().with_identity(authority.issue(&["before"]));
    let after = authority.client().with_identity(next.issue(&["after"]));
    let mut running = within(before.connect(&gateway, "a.test")).await.unwrap();
    within(running.send(GET)).await;
    within(running.receive()).await;

    replace(
        &authority.path("ca.pem"),
        &std::fs::read_to_string(next.path("ca.pem")).unwrap(),
    );
    eventually(async || gateway.metrics().certificate_reloads[ReloadOutcome::Changed as usize] == 1).await;
    within(async {
        let mut client = after.connect(&gateway, "a.test").await.unwrap();
        client.send(GET).await;
        assert!(told(&client.receive().await).unwrap().contains("CN=after"));
        if let Ok(mut client) = before.connect(&gateway, "a.test").await {
            let _ = client.stream.write_all(GET.as_bytes()).await;
            assert!(client.is_at_end().await, "{:?}", client.unread);
        }
        running.send(GET).await;
        assert!(told(&running.receive().await).unwrap().contains("CN=before"));
    })
    .await;
}
