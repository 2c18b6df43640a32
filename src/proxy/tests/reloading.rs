//! Another configuration comes into force while clients are served.

use std::sync::atomic::AtomicBool;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::sync::Notify;

use super::super::ReloadError;
use super::*;

const GET: &str = "GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n";
const RELOADS: usize = 100;
/// Requests that are answered between two reloads, at least.
const REQUESTS_BETWEEN: usize = 100;

/// An upstream that answers with `text`.
async fn saying(text: &'static str) -> Upstream {
    Upstream::play(move |mut peer, _| async move {
        while peer.head().await.is_some() {
            let length = text.len();
            peer.send(&format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{text}"
            ))
            .await;
        }
    })
    .await
}

/// Every request goes to `upstream`, called `name`.
fn all_to(name: &str, upstream: SocketAddr) -> String {
    format!(
        "upstreams: [{{name: {name}, targets: ['http://{upstream}']}}]\n\
         routes: [{{name: all, path_prefix: /, upstream: {name}}}]\n"
    )
}

fn gateway(yaml: &str) -> Gateway {
    Gateway::start_with(yaml, Arc::new(|| Box::pin(std::future::ready(()))))
}

impl Gateway {
    async fn reload(&mut self, yaml: &str) -> Result<(), ReloadError> {
        self.reload_whole(&with_head(yaml)).await
    }

    async fn reload_whole(&mut self, yaml: &str) -> Result<(), ReloadError> {
        let config = Config::from_yaml("test", yaml).unwrap_or_else(|errors| panic!("{errors}"));
        within(self.proxy.reload(config)).await
    }
}

/// What clients that send without a pause have seen.
#[derive(Default)]
struct Load {
    answered: [AtomicUsize; 2],
    is_over: AtomicBool,
}

impl Load {
    fn note(&self, status: u16, body: &[u8]) {
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(body));
        let upstream = match body {
            b"a" => 0,
            b"b" => 1,
            other => panic!("no upstream says {other:?}"),
        };
        self.answered[upstream].fetch_add(1, SeqCst);
    }

    fn answered(&self) -> usize {
        self.answered.iter().map(|count| count.load(SeqCst)).sum()
    }

    async fn over_http1(self: Arc<Self>, mut client: Peer) {
        while !self.is_over.load(SeqCst) {
            client.send(GET).await;
            let answer = client.receive().await;
            self.note(answer.status(), &answer.body);
        }
    }

    async fn over_http2(self: Arc<Self>, stream: TcpStream) {
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(connection);
        while !self.is_over.load(SeqCst) {
            let request = Request::get("http://shop.test/");
            let request = request.body(Empty::<Bytes>::new()).unwrap();
            let answer = sender.send_request(request).await.unwrap();
            let status = answer.status().as_u16();
            let body = answer.into_body().collect().await.unwrap().to_bytes();
            self.note(status, &body);
        }
    }
}

#[tokio::test]
async fn no_request_fails_over_a_hundred_reloads_under_load() {
    let (a, b) = (saying("a").await, saying("b").await);
    let whole = |routes| format!("node_id: n1\nlisten: [127.0.0.1:0]\nproxy: {{workers: 2}}\n{routes}");
    let editions = [all_to("a", a.address), all_to("b", b.address)].map(whole);
    let mut gateway = Gateway::run(&editions[0], Arc::new(|| Box::pin(std::future::ready(()))));
    let first = Arc::downgrade(&gateway.shared);
    let load = Arc::<Load>::default();
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..4 {
        clients.spawn(Arc::clone(&load).over_http1(gateway.connect().await));
        let stream = TcpStream::connect(gateway.address()).await.unwrap();
        clients.spawn(Arc::clone(&load).over_http2(stream));
    }
    let mut probe = gateway.connect().await;
    for reload in 1..=RELOADS {
        let (text, edition) = (["a", "b"][reload % 2], &editions[reload % 2]);
        let before = load.answered();
        gateway.reload_whole(edition).await.unwrap();
        probe.send(GET).await;
        assert_eq!(probe.receive().await.text(), text, "after reload {reload}");
        let progress = async {
            while load.answered() < before + REQUESTS_BETWEEN {
                assert!(clients.try_join_next().is_none(), "a client has ended");
                tokio::task::yield_now().await;
            }
        };
        within(progress).await;
    }
    load.is_over.store(true, SeqCst);
    while let Some(client) = within(clients.join_next()).await {
        client.expect("no request failed");
    }
    let [by_a, by_b] = load.answered.each_ref().map(|count| count.load(SeqCst));
    println!(
        "{RELOADS} reloads under load: {by_a} requests answered by one upstream, {by_b} by the other, 0 failed"
    );
    assert!(by_a > RELOADS && by_b > RELOADS, "{by_a} and {by_b}");
    // The connection of the probe is still open.
    drop(gateway.shared);
    within(async {
        while first.upgrade().is_some() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(within(gateway.proxy.stop(PATIENCE)).await, 0);
}

#[tokio::test]
async fn counts_outlast_a_reload_and_routes_that_are_gone_are_not_found() {
    let upstream = saying("a").await;
    let with = |limit: &str, routes: &str| {
        format!(
            "rules: [{{name: r, by: ip, windows: [{limit}]}}]\n\
             upstreams: [{{name: up, targets: ['http://{}']}}]\nroutes: [{routes}]\n",
            upstream.address
        )
    };
    let old = "{name: old, path_prefix: /old, upstream: up}";
    let new = "{name: new, path_prefix: /new, upstream: up}";
    let mut gateway = gateway(&with("5/year", old));
    let statuses = async |gateway: &Gateway, path: &str, count: usize| {
        let mut statuses = Vec::new();
        for _ in 0..count {
            let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
            statuses.push(gateway.ask(&request).await.status());
        }
        statuses
    };
    assert_eq!(statuses(&gateway, "/old", 3).await, [200; 3]);
    gateway.reload(&with("5/year", new)).await.unwrap();
    assert_eq!(statuses(&gateway, "/old", 1).await, [404]);
    assert_eq!(statuses(&gateway, "/new", 3).await, [200, 200, 429]);
    gateway.reload(&with("7/year", new)).await.unwrap();
    assert_eq!(statuses(&gateway, "/new", 3).await, [200, 200, 429]);
    let other = "{name: r2, by: ip, windows: [1/year]}, {name: r, by: ip, windows: [8/year]}";
    let both = with("7/year", new).replace("{name: r, by: ip, windows: [7/year]}", other);
    gateway.reload(&both).await.unwrap();
    assert_eq!(statuses(&gateway, "/new", 2).await, [200, 429]);
}

#[tokio::test]
async fn what_cannot_come_into_force_changes_nothing() {
    let (a, b) = (saying("a").await, saying("b").await);
    let mut gateway = gateway(&all_to("a", a.address));
    let restart = format!("{}limits: {{max_keys: 4096}}\n", all_to("b", b.address));
    let error = gateway.reload(&restart).await.unwrap_err().to_string();
    assert_eq!(
        error,
        "`limits.max_keys` cannot change in a running node: restart the node"
    );
    let unreadable =
        "access_log: {format: json, path: /nowhere/at/all}\nrules: [{name: r, by: ip, windows: [1/year]}]\n";
    let unreadable = format!("{}{unreadable}", all_to("b", b.address));
    let error = gateway.reload(&unreadable).await.unwrap_err();
    assert!(matches!(error, ReloadError::AccessLog { .. }), "{error}");
    for _ in 0..2 {
        let answer = gateway.ask(GET).await;
        assert_eq!((answer.status(), answer.text()), (200, "a"));
    }
    assert_eq!(b.connections(), 0);
}

#[tokio::test]
async fn a_request_in_flight_goes_on_by_the_configuration_that_it_began_with() {
    let (arrived, gate) = (Arc::<Notify>::default(), Arc::<Notify>::default());
    let slow = {
        let (arrived, gate) = (Arc::clone(&arrived), Arc::clone(&gate));
        Upstream::play(move |mut peer, _| {
            let (arrived, gate) = (Arc::clone(&arrived), Arc::clone(&gate));
            async move {
                peer.head().await;
                arrived.notify_one();
                gate.notified().await;
                peer.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nslow")
                    .await;
                // The pool of an upstream that is gone keeps no connection.
                assert!(peer.is_at_end().await);
                arrived.notify_one();
            }
        })
        .await
    };
    let b = saying("b").await;
    let mut gateway = gateway(&all_to("slow", slow.address));
    let mut client = gateway.connect().await;
    client.send(GET).await;
    within(arrived.notified()).await;
    gateway.reload(&all_to("b", b.address)).await.unwrap();
    assert_eq!(gateway.ask(GET).await.text(), "b");
    gate.notify_one();
    assert_eq!(within(client.receive()).await.text(), "slow");
    within(arrived.notified()).await;
    client.send(GET).await;
    assert_eq!(within(client.receive()).await.text(), "b");
}

#[tokio::test]
async fn an_upstream_that_stays_keeps_its_connections() {
    let a = saying("a").await;
    let mut gateway = gateway(&all_to("a", a.address));
    assert_eq!(gateway.ask(GET).await.text(), "a");
    let shorter = format!("proxy:\n  body_timeout: 9s\n{}", all_to("a", a.address));
    gateway.reload(&shorter).await.unwrap();
    assert_eq!(gateway.ask(GET).await.text(), "a");
    assert_eq!(a.connections(), 1);
}
