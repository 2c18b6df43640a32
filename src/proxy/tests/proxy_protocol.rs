//! Listeners behind a balancer that says whose connection it passes on.

use super::tls::{Authority, ONE, eventually};
use super::*;
use crate::proxy::TransportFailure;

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const V1: &str = "PROXY TCP4 203.0.113.7 192.0.2.1 4711 443\r\n";
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xcb\0\x71\x08\xc0\0\x02\x01\x12\x67\x01\xbb";
const V2_LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

/// A gateway that wants PROXY headers from `trusted`, and limits each client to two requests.
async fn behind(trusted: &str, more: &str) -> (Gateway, Upstream) {
    let upstream = Upstream::mirror().await;
    let yaml = format!(
        "node_id: n1\nlisten: [{{address: '127.0.0.1:0', proxy_protocol: true{more}}}]\n\
         proxy: {{workers: 1, trusted_proxies: [{trusted}], header_read_timeout: 300ms}}\n\
         rules: [{{name: r, windows: 2/year}}]\nupstreams: [{{name: up, targets: ['http://{}']}}]\n",
        upstream.address
    );
    (
        Gateway::run(&yaml, Arc::new(|| Box::pin(std::future::ready(())))),
        upstream,
    )
}

/// The client that the upstream was told of.
fn told(response: &Message) -> String {
    let head = Message {
        head: response.text().to_owned(),
        body: Vec::new(),
    };
    head.field("x-forwarded-for").unwrap()
}

#[tokio::test]
async fn the_client_is_the_one_that_the_header_names() {
    let (gateway, _upstream) = behind("127.0.0.0/8", "").await;
    within(async {
        for (header, expected) in [
            (V1.as_bytes(), "203.0.113.7"),
            (V2, "203.0.113.8"),
            (b"PROXY TCP6 2001:db8::9 ::1 1 2\r\n", "2001:db8::9"),
            (b"PROXY TCP6 ::ffff:203.0.113.9 ::1 1 2\r\n", "203.0.113.9"),
            (V2_LOCAL, "127.0.0.1"),
            (b"PROXY UNKNOWN\r\n", "127.0.0.1"),
        ] {
            let mut client = gateway.connect().await;
            client
                .stream
                .write_all(&[header, GET.as_bytes()].concat())
                .await
                .unwrap();
            assert_eq!(told(&client.receive().await), expected);
        }
        // Cut anywhere, and the same client as above: its second request, and its third.
        let mut client = gateway.connect().await;
        for byte in V1.as_bytes() {
            client.stream.write_all(&[*byte]).await.unwrap();
            client.stream.flush().await.unwrap();
            tokio::task::yield_now().await;
        }
        client.send(GET).await;
        assert_eq!(client.receive().await.status(), 200);
        client.send(GET).await;
        assert_eq!(client.receive().await.status(), 429);
        // What it says of itself is not believed: it is no trusted proxy.
        let mut liar = gateway.connect().await;
        liar.send(&format!(
            "{V1}GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n"
        ))
        .await;
        assert_eq!(liar.receive().await.status(), 429);
    })
    .await;
}

#[tokio::test]
async fn the_header_comes_before_tls() {
    let authority = Authority::new();
    authority.place("a", &["a.test"]);
    let tls = ONE.replace("FOLDER", &authority.folder.path().display().to_string());
    let (gateway, _upstream) = behind("127.0.0.1", &format!(", tls: {{{tls}}}")).await;
    within(async {
        let mut stream = TcpStream::connect(gateway.address()).await.unwrap();
        stream.write_all(V2).await.unwrap();
        let name = "a.test".try_into().unwrap();
        let mut client = Peer::new(
            authority
                .client()
                .connector()
                .connect(name, stream)
                .await
                .unwrap(),
        );
        client.send(GET).await;
        let response = client.receive().await;
        assert_eq!(told(&response), "203.0.113.8");
        assert!(response.text().contains("x-forwarded-proto: https\r\n"));
    })
    .await;
}

#[tokio::test]
async fn a_connection_without_a_valid_header_in_time_is_closed_unanswered() {
    let (gateway, upstream) = behind("127.0.0.1", "").await;
    let long = format!("PROXY UNKNOWN {}", "x".repeat(200));
    within(async {
        let refused = [
            GET,
            "PROXY TCP4 a b 1 2\r\n",
            "\r\n\r\n\0\r\nQUIT\n\x21\x11\u{ff}\u{ff}",
            &long,
        ];
        for bytes in refused {
            let mut client = gateway.connect().await;
            client
                .stream
                .write_all(&[bytes.as_bytes(), GET.as_bytes()].concat())
                .await
                .unwrap();
            assert!(client.is_at_end().await, "{bytes:?}: {:?}", client.unread);
        }
        let failed = || gateway.metrics().transport_failures[TransportFailure::ProxyHeader as usize];
        eventually(async || failed() == refused.len() as u64).await;
        for begun in ["", "PROXY TCP4 203.0.113.7"] {
            let mut client = gateway.connect().await;
            client.send(begun).await;
            assert!(client.is_at_end().await);
        }
    })
    .await;
    assert_eq!(upstream.connections(), 0);
}

#[tokio::test]
async fn nobody_but_a_trusted_proxy_may_speak_for_others() {
    let (gateway, upstream) = behind("192.0.2.0/24", "").await;
    within(async {
        let mut client = gateway.connect().await;
        // It is closed without being read.
        let _ = client.stream.write_all(format!("{V1}{GET}").as_bytes()).await;
        assert!(client.is_at_end().await, "{:?}", client.unread);
    })
    .await;
    assert_eq!(upstream.connections(), 0);
}
