//! The example configurations of `docs/examples` that concern connections, each run as it stands but for ports and files.

use super::tls::{Authority, secure_at};
use super::*;

const TLS: &str = include_str!("../../../docs/examples/tls.yaml");
const CLIENTS: &str = include_str!("../../../docs/examples/clients.yaml");

/// Runs `example` on free ports, with the certificates of `authority`, before `upstream`.
fn run(example: &str, authority: &Authority, upstream: &Upstream) -> Gateway {
    let mut yaml = example
        .replace("/etc/weir/tls", &authority.folder.path().display().to_string())
        .replace("127.0.0.1:9000", &upstream.address.to_string());
    for port in ["8000", "8002", "8080", "8443", "9443"] {
        yaml = yaml.replace(&format!("127.0.0.1:{port}"), "127.0.0.1:0");
    }
    Gateway::run(&yaml, Arc::new(|| Box::pin(std::future::ready(()))))
}

#[tokio::test]
async fn the_tls_example_serves_each_site_its_certificate_and_clients_with_theirs() {
    let authority = Authority::new();
    authority.place("example.com", &["example.com", "www.example.com"]);
    authority.place("wildcard", &["*.shops.example.com"]);
    authority.place("internal", &["internal.example.com"]);
    std::fs::copy(authority.path("ca.pem"), authority.path("client-ca.pem")).unwrap();
    let upstream = Upstream::mirror().await;
    let gateway = run(TLS, &authority, &upstream);
    let [plain, sites, internal] = *gateway.proxy.addresses() else {
        panic!("{:?}", gateway.proxy.addresses())
    };
    within(async {
        let get = |host: &str| format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
        let mut client = Peer::new(TcpStream::connect(plain).await.unwrap());
        client.send(&get("example.com")).await;
        assert!(
            client
                .receive()
                .await
                .text()
                .contains("x-forwarded-proto: http\r\n")
        );
        // The names are checked by the client.
        for host in ["example.com", "www.example.com", "one.shops.example.com"] {
            let connector = authority.client().connector();
            let mut client = secure_at(&connector, sites, host).await.unwrap();
            client.send(&get(host)).await;
            assert!(
                client
                    .receive()
                    .await
                    .text()
                    .contains("x-forwarded-proto: https\r\n")
            );
        }
        let connector = authority
            .client()
            .with_identity(authority.issue(&["worker"]))
            .connector();
        let mut client = secure_at(&connector, internal, "internal.example.com")
            .await
            .unwrap();
        client.send(&get("internal.example.com")).await;
        assert!(client.receive().await.text().contains(";DNS=worker\r\n"));
    })
    .await;
}

#[tokio::test]
async fn the_example_of_clients_limits_them_by_what_proxies_say() {
    let authority = Authority::new();
    let upstream = Upstream::mirror().await;
    let gateway = run(CLIENTS, &authority, &upstream);
    let [cdn, balancer] = *gateway.proxy.addresses() else {
        panic!("{:?}", gateway.proxy.addresses())
    };
    let ask = async |address: SocketAddr, request: String| {
        let mut client = Peer::new(TcpStream::connect(address).await.unwrap());
        client.send(&request).await;
        client.receive().await
    };
    let by_cdn = |client: &str| {
        format!(
            "GET / HTTP/1.1\r\nHost: a\r\nForwarded: for=\"6.6.6.6\", for=\"[{client}]:80\";proto=https\r\n\r\n"
        )
    };
    let by_balancer =
        |client: &str| format!("PROXY TCP6 {client} ::1 1 2\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n");
    within(async {
        let first = ask(cdn, by_cdn("2001:db8:0:100::1")).await;
        assert_eq!(first.status(), 200);
        let seen = first.text();
        assert!(
            seen.contains("x-forwarded-for: 6.6.6.6, 2001:db8:0:100::1, 127.0.0.1\r\n"),
            "{seen}"
        );
        assert!(seen.contains("for=127.0.0.1;host=\"a\";proto=http\r\n"), "{seen}");
        assert_eq!(
            ask(balancer, by_balancer("2001:db8:0:1ff::2")).await.status(),
            200
        );
        // All of one /56 are one client, whichever way they come.
        assert_eq!(ask(cdn, by_cdn("2001:db8:0:180::3")).await.status(), 429);
        assert_eq!(
            ask(balancer, by_balancer("2001:db8:0:180::4")).await.status(),
            429
        );
        assert_eq!(ask(cdn, by_cdn("2001:db8:0:200::1")).await.status(), 200);
    })
    .await;
}
