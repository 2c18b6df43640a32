//! Upstreams that are names: what a name server says of them, and what is kept when it fails.

#![expect(
    clippy::disallowed_methods,
    reason = "the name server of these tests notes when it was asked"
)]

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::Instant;

use tokio::net::UdpSocket;

use super::choosing::{Server, eventually, start};
use super::*;

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// What a name server says of the IPv4 and of the IPv6 addresses of its one name. `None`: it fails.
type Records = [Option<Vec<IpAddr>>; 2];

/// When IPv4 addresses were asked for. A query that is sent again has the same id.
type Queries = Arc<Mutex<HashMap<[u8; 2], Instant>>>;

/// A name server of one name, which says what stands in `records`, for `ttl` seconds; without those it does not answer
/// at all.
async fn name_server(records: Arc<Mutex<Option<Records>>>, ttl: u8, queries: Queries) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut query = [0; 1500];
        while let Ok((length, client)) = socket.recv_from(&mut query).await {
            let query = &query[..length];
            if record_type(query) == A {
                let id = [query[0], query[1]];
                queries.lock().unwrap().entry(id).or_insert_with(Instant::now);
            }
            let answer = records
                .lock()
                .unwrap()
                .as_ref()
                .map(|records| answer(query, records, ttl));
            if let Some(answer) = answer {
                socket.send_to(&answer, client).await.unwrap();
            }
        }
    });
    address
}

const A: u8 = 1;
const AAAA: u8 = 28;

/// Where the type of a query's question is, behind twelve octets of header and the labels (RFC 1035 §4.1).
fn at_type(query: &[u8]) -> usize {
    12 + query[12..].iter().position(|&b| b == 0).unwrap() + 2
}

fn record_type(query: &[u8]) -> u8 {
    query[at_type(query)]
}

fn answer(query: &[u8], records: &Records, ttl: u8) -> Vec<u8> {
    let found = match record_type(query) {
        A => records[0].clone(),
        AAAA => records[1].clone(),
        _ => Some(Vec::new()),
    };
    let failed = u8::from(found.is_none()) * 2;
    let found = found.unwrap_or_default();
    let mut answer = query[..2].to_vec();
    answer.extend([
        0x81,
        0x80 | failed,
        0,
        1,
        0,
        u8::try_from(found.len()).unwrap(),
        0,
        0,
        0,
        0,
    ]);
    answer.extend(&query[12..at_type(query) + 3]);
    for ip in found {
        // The name and the type as in the question; IN, the TTL.
        answer.extend([0xc0, 12, 0, record_type(query), 0, 1, 0, 0, 0, ttl, 0]);
        match ip {
            IpAddr::V4(ip) => answer.extend([&[4], &ip.octets()[..]].concat()),
            IpAddr::V6(ip) => answer.extend([&[16], &ip.octets()[..]].concat()),
        }
    }
    answer
}

fn ips(texts: &[&str]) -> Option<Vec<IpAddr>> {
    Some(texts.iter().map(|text| text.parse().unwrap()).collect())
}

/// A gateway whose only target is a name with these records, at `port`.
async fn resolving(records: &Arc<Mutex<Option<Records>>>, port: u16) -> Gateway {
    let dns = name_server(Arc::clone(records), 0, Queries::default()).await;
    start(&format!(
        "dns: {{servers: ['{dns}'], ttl_min: 100ms}}\nupstreams:\n  - name: up\n    \
         targets: ['http://app.weir-test.net:{port}']\n    connect_timeout: 10s\n"
    ))
}

#[tokio::test]
async fn a_name_is_followed_to_all_of_its_addresses_and_kept_when_its_name_server_fails() {
    let first = Server::start("first").await;
    let port = first.upstream.address.port();
    // The same port, since one target has one.
    let second = Server::at(&format!("127.0.0.2:{port}"), "second").await;
    let records = Arc::new(Mutex::new(Some([ips(&["127.0.0.1"]), ips(&[])])));
    let gateway = resolving(&records, port).await;
    let says = |texts: &[&str]| *records.lock().unwrap() = Some([ips(texts), ips(&[])]);
    within(async {
        // The first request waits for the lookup.
        assert_eq!(gateway.ask(GET).await.text(), "first");
        says(&["127.0.0.2", "127.0.0.1"]);
        eventually("both are asked", async || {
            gateway.ask(GET).await;
            second.asked() > 0
        })
        .await;
        says(&["127.0.0.2"]);
        eventually("the first is gone", async || {
            gateway.metrics().upstreams[0].endpoints.len() == 1
        })
        .await;
        let name = format!("app.weir-test.net:{port} (127.0.0.2)");
        assert_eq!(gateway.metrics().upstreams[0].endpoints[0].name, name);
        *records.lock().unwrap() = None;
        for _ in 0..4 {
            assert_eq!(gateway.ask(GET).await.text(), "second");
        }
    })
    .await;
}

#[tokio::test]
async fn addresses_of_a_family_that_cannot_be_looked_up_stay_and_go_when_there_are_none() {
    let records = Arc::new(Mutex::new(None));
    let gateway = resolving(&records, 80).await;
    let addresses = || {
        let endpoints = gateway.metrics().upstreams.remove(0).endpoints;
        let address = |name: &str| name.split(['(', ')']).nth(1).unwrap().to_owned();
        let addresses: Vec<_> = endpoints.iter().map(|endpoint| address(&endpoint.name)).collect();
        addresses
    };
    let steps = [
        (ips(&["127.0.0.1"]), ips(&["::1"]), &["127.0.0.1", "::1"][..]),
        // What is new shows that the name was looked up again.
        (None, ips(&["::2"]), &["127.0.0.1", "::2"]),
        (ips(&[]), ips(&["::3"]), &["::3"]),
        (ips(&["127.0.0.2"]), None, &["127.0.0.2", "::3"]),
        (ips(&["127.0.0.3"]), ips(&[]), &["127.0.0.3"]),
        // A family of which nothing was known takes nothing away by failing.
        (ips(&["127.0.0.4"]), None, &["127.0.0.4"]),
    ];
    for (v4, v6, expected) in steps {
        let what = format!("{v4:?} and {v6:?} make {expected:?}");
        *records.lock().unwrap() = Some([v4, v6]);
        eventually(&what, async || addresses() == expected).await;
    }
}

#[tokio::test]
async fn a_name_is_looked_up_again_when_its_ttl_is_over_and_not_before() {
    let records = Arc::new(Mutex::new(Some([ips(&["127.0.0.1"]), ips(&[])])));
    let queries = Queries::default();
    let dns = name_server(records, 1, Arc::clone(&queries)).await;
    let _gateway = start(&format!(
        "dns: {{servers: ['{dns}'], ttl_min: 100ms}}\nupstreams:\n  - name: up\n    \
         targets: ['http://app.weir-test.net']\n"
    ));
    eventually("it is looked up three times", async || {
        queries.lock().unwrap().len() >= 3
    })
    .await;
    let mut times: Vec<Instant> = queries.lock().unwrap().values().copied().collect();
    times.sort_unstable();
    for pair in times.windows(2) {
        let apart = pair[1] - pair[0];
        assert!(apart >= Duration::from_secs(1), "{apart:?}");
    }
}
