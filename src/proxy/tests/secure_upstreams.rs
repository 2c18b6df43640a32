//! TLS to upstreams: a second gateway with a secure listener is the server.

use super::tls::{Authority, ONE, secured};
use super::*;

const GET: &str = "GET /x HTTP/1.1\r\nHost: shop.test\r\n\r\n";

/// A gateway before `server`, with `more` about its upstream; `FOLDER` in it is the authority's.
fn before(server: &Gateway, authority: &Authority, more: &str) -> Gateway {
    let more = more.replace("FOLDER", &authority.folder.path().display().to_string());
    Gateway::start_with(
        &format!(
            "upstreams:\n  - {{name: up, targets: ['https://{}'], {more}}}\n",
            server.address()
        ),
        Arc::new(|| Box::pin(std::future::ready(()))),
    )
}

#[tokio::test]
async fn a_server_has_to_prove_its_name_unless_it_is_said_that_anybody_is_believed() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    authority.place("a", &["a.test"]);
    let (server, _upstream) = secured(&authority, ONE, "").await;
    let table = [
        (
            "tls: {ca_file: FOLDER/ca.pem, server_name: a.test}",
            &authority,
            200,
        ),
        (
            "tls: {ca_file: FOLDER/ca.pem, server_name: b.test}",
            &authority,
            502,
        ),
        // The certificate says no address, which is what the target has for a host.
        ("tls: {ca_file: FOLDER/ca.pem}", &authority, 502),
        (
            "tls: {ca_file: FOLDER/ca.pem, server_name: a.test}",
            &stranger,
            502,
        ),
        ("tls: {insecure_accept_any_certificate: true}", &stranger, 200),
    ];
    for (tls, authority, status) in table {
        let gateway = before(&server, authority, tls);
        assert_eq!(within(gateway.ask(GET)).await.status(), status, "{tls}");
    }
}

#[tokio::test]
async fn the_protocol_is_what_both_ends_agree_on() {
    let authority = Authority::new();
    authority.place("a", &["a.test"]);
    let (server, _upstream) = secured(&authority, ONE, "").await;
    for (protocol, via) in [("http1", "1.1 weir"), ("h2", "2 weir"), ("auto", "2 weir")] {
        let tls = "tls: {ca_file: FOLDER/ca.pem, server_name: a.test}";
        let gateway = before(&server, &authority, &format!("protocol: {protocol}, {tls}"));
        within(async {
            for _ in 0..3 {
                let response = gateway.ask(GET).await;
                // What the second gateway says of how it was asked, as its own server saw it.
                let seen = response.text().to_ascii_lowercase();
                assert!(seen.contains(&format!("via: {via}\r\n")), "{protocol}: {seen}");
                assert!(seen.contains("host: shop.test\r\n"), "{protocol}: {seen}");
            }
        })
        .await;
        assert_eq!(gateway.metrics().upstream_connections, 1, "{protocol}");
    }
}

#[tokio::test]
async fn a_server_that_asks_for_a_certificate_is_shown_the_one_that_is_configured() {
    let authority = Authority::new();
    authority.place("a", &["a.test"]);
    authority.place("gateway", &["gateway.test"]);
    let client_ca = "client_ca: FOLDER/ca.pem, client_auth: required";
    let (server, _upstream) = secured(&authority, &format!("{ONE}, {client_ca}"), "").await;
    let trust = "ca_file: FOLDER/ca.pem, server_name: a.test";
    let own = "certificate: FOLDER/gateway.pem, key: FOLDER/gateway.key";
    within(async {
        let stranger = before(&server, &authority, &format!("tls: {{{trust}}}"));
        assert_eq!(stranger.ask(GET).await.status(), 502);
        let known = before(&server, &authority, &format!("tls: {{{trust}, {own}}}"));
        assert_eq!(known.ask(GET).await.status(), 200);
    })
    .await;
}

#[test]
fn a_file_that_cannot_be_used_keeps_the_gateway_from_starting() {
    let yaml = "node_id: n1\nlisten: ['127.0.0.1:0']\n\
                upstreams: [{name: up, targets: ['https://a.test'], tls: {ca_file: /nonexistent/ca.pem}}]\n";
    let config = Config::from_yaml("test", yaml).unwrap();
    let limiter = Limiter::new(Vec::new(), config.sync.mode, config.sync.significance, 64);
    let on_due: OnDue = Arc::new(|| Box::pin(std::future::ready(())));
    let hasher = IdentityHasher::new([7; 16]);
    let shared = Arc::new(ProxyShared::new(
        Arc::new(config),
        Arc::new(limiter),
        hasher,
        on_due,
    ));
    let error = Proxy::start(&shared).err().expect("an error").to_string();
    assert!(error.contains("/nonexistent/ca.pem"), "{error}");
}
