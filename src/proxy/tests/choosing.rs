//! Which endpoint gets a request: by turns, by key, by health; and the wait for a connection.

use tokio::sync::Notify;

use super::*;

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// A server that answers every request with its name; checks of `/health` by whether it is well.
pub(super) struct Server {
    pub(super) upstream: Upstream,
    asked: Arc<AtomicUsize>,
    is_well: Arc<AtomicUsize>,
}

impl Server {
    pub(super) async fn start(name: &'static str) -> Self {
        Self::at("127.0.0.1:0", name).await
    }

    pub(super) async fn at(address: &str, name: &'static str) -> Self {
        let (asked, is_well) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(1)));
        let (counter, well) = (Arc::clone(&asked), Arc::clone(&is_well));
        let upstream = Upstream::play_at(address, move |mut peer, _| {
            let (counter, well) = (Arc::clone(&counter), Arc::clone(&well));
            async move {
                while let Some(request) = peer.head().await {
                    let is_well = well.load(SeqCst) == 1;
                    if !request.head.starts_with("GET /health ") {
                        counter.fetch_add(1, SeqCst);
                    }
                    let status = if is_well { "200 OK" } else { "503 Down" };
                    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", name.len());
                    peer.send(&format!("{head}{name}")).await;
                }
            }
        })
        .await;
        Self {
            upstream,
            asked,
            is_well,
        }
    }

    fn url(&self) -> String {
        format!("http://{}", self.upstream.address)
    }

    pub(super) fn asked(&self) -> usize {
        self.asked.load(SeqCst)
    }
}

pub(super) fn start(yaml: &str) -> Gateway {
    Gateway::start_with(yaml, Arc::new(|| Box::pin(std::future::ready(()))))
}

pub(super) async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let polling = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(
        tokio::time::timeout(PATIENCE, polling).await.is_ok(),
        "never: {what}"
    );
}

#[tokio::test]
async fn weights_share_requests_out() {
    let (a, b) = (Server::start("a").await, Server::start("b").await);
    let gateway = start(&format!(
        "upstreams:\n  - name: up\n    targets: [{{url: '{}', weight: 3}}, '{}']\n",
        a.url(),
        b.url()
    ));
    within(async {
        for _ in 0..12 {
            assert_eq!(gateway.ask(GET).await.status(), 200);
        }
    })
    .await;
    assert_eq!((a.asked(), b.asked()), (9, 3));
}

#[tokio::test]
async fn the_same_key_goes_to_the_same_server_and_requests_without_one_take_turns() {
    let servers = [
        Server::start("a").await,
        Server::start("b").await,
        Server::start("c").await,
    ];
    let targets: Vec<_> = servers.iter().map(Server::url).collect();
    let gateway = start(&format!(
        "upstreams:\n  - name: up\n    balance: hash:cookie:user\n    targets: [{}]\n",
        targets.join(", ")
    ));
    within(async {
        let mut used = std::collections::HashSet::new();
        for user in 0..20 {
            let request = format!("GET / HTTP/1.1\r\nHost: a\r\nCookie: x=1; user={user}\r\n\r\n");
            let first = gateway.ask(&request).await.text().to_owned();
            for _ in 0..3 {
                assert_eq!(gateway.ask(&request).await.text(), first);
            }
            used.insert(first);
        }
        assert_eq!(used.len(), 3);
        let before = servers.each_ref().map(Server::asked);
        for _ in 0..6 {
            gateway.ask(GET).await;
        }
        for (server, before) in servers.iter().zip(before) {
            assert_eq!(server.asked(), before + 2);
        }
    })
    .await;
}

#[tokio::test]
async fn the_clients_address_and_a_header_are_keys_like_any_other() {
    let servers = [
        Server::start("a").await,
        Server::start("b").await,
        Server::start("c").await,
    ];
    let targets: Vec<_> = servers.iter().map(Server::url).collect();
    for (balance, field) in [("hash:ip", "X-Forwarded-For"), ("hash:header:x-user", "X-User")] {
        let gateway = start(&format!(
            "proxy:\n  trusted_proxies: [127.0.0.1]\nupstreams:\n  - name: up\n    balance: {balance}\n    targets: [{}]\n",
            targets.join(", ")
        ));
        within(async {
            let mut used = std::collections::HashSet::new();
            for client in 0..20 {
                let request = format!("GET / HTTP/1.1\r\nHost: a\r\n{field}: 192.0.2.{client}\r\n\r\n");
                let first = gateway.ask(&request).await.text().to_owned();
                for _ in 0..3 {
                    assert_eq!(gateway.ask(&request).await.text(), first, "{request}");
                }
                used.insert(first);
            }
            assert_eq!(used.len(), 3, "{balance}");
        })
        .await;
    }
}

#[tokio::test]
async fn the_server_with_fewer_requests_in_flight_is_chosen() {
    let release = Arc::new(Notify::new());
    let held = Arc::clone(&release);
    let slow = Upstream::play(move |mut peer, _| {
        let held = Arc::clone(&held);
        async move {
            peer.head().await;
            held.notified().await;
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nslow")
                .await;
        }
    })
    .await;
    let fast = Server::start("fast").await;
    let gateway = start(&format!(
        "upstreams:\n  - name: up\n    balance: least_request\n    targets: ['http://{}', '{}']\n",
        slow.address,
        fast.url()
    ));
    within(async {
        // With one request in flight the slow server loses every comparison; without, it is drawn by chance.
        let mut waiting = Vec::new();
        while slow.connections() == 0 {
            let mut client = gateway.connect().await;
            client.send(GET).await;
            tokio::select! {
                response = client.receive() => assert_eq!(response.text(), "fast"),
                () = eventually("the slow server is asked", async || slow.connections() > 0) => waiting.push(client),
            }
        }
        for _ in 0..20 {
            assert_eq!(gateway.ask(GET).await.text(), "fast");
        }
        release.notify_one();
        for mut client in waiting {
            assert_eq!(client.receive().await.text(), "slow");
        }
    })
    .await;
    assert_eq!(slow.connections(), 1);
}

#[tokio::test]
async fn a_server_that_fails_requests_is_left_out_and_comes_back() {
    let (bad, good) = (Server::start("bad").await, Server::start("good").await);
    bad.is_well.store(0, SeqCst);
    let gateway = start(&format!(
        "upstreams:\n  - name: up\n    targets: ['{}', '{}']\n    ejection: {{failures: 2, base_time: 2s}}\n",
        bad.url(),
        good.url()
    ));
    within(async {
        for _ in 0..3 {
            gateway.ask(GET).await;
        }
        assert_eq!(bad.asked(), 2);
        let reading = &gateway.metrics().upstreams[0];
        assert_eq!((reading.ejections, reading.endpoints[0].is_ejected), (1, true));
        for _ in 0..4 {
            assert_eq!(gateway.ask(GET).await.text(), "good");
        }
        bad.is_well.store(1, SeqCst);
        eventually("it is asked again", async || {
            gateway.ask(GET).await;
            bad.asked() > 2
        })
        .await;
    })
    .await;
    assert!(!gateway.metrics().upstreams[0].endpoints[0].is_ejected);
}

#[tokio::test]
async fn a_server_that_comes_back_begins_with_a_twentieth_of_its_share() {
    let (bad, good) = (Server::start("bad").await, Server::start("good").await);
    bad.is_well.store(0, SeqCst);
    let gateway = start(&format!(
        "upstreams:\n  - name: up\n    targets: ['{}', '{}']\n    slow_start: 1h\n    \
         ejection: {{failures: 1, base_time: 50ms}}\n",
        bad.url(),
        good.url()
    ));
    within(async {
        while bad.asked() == 0 {
            gateway.ask(GET).await;
        }
        bad.is_well.store(1, SeqCst);
        eventually("it is back", async || {
            gateway.ask(GET).await;
            !gateway.metrics().upstreams[0].endpoints[0].is_ejected
        })
        .await;
        let before = bad.asked();
        for _ in 0..42 {
            assert_eq!(gateway.ask(GET).await.status(), 200);
        }
        assert_eq!(bad.asked() - before, 2);
    })
    .await;
}

#[tokio::test]
async fn checks_take_a_server_out_and_bring_it_back_and_when_all_fail_all_are_used() {
    let (a, b) = (Server::start("a").await, Server::start("b").await);
    let gateway = start(&format!(
        "upstreams:\n  - name: up\n    targets: ['{}', '{}']\n    ejection: {{failures: 0}}\n    \
         health: {{path: /health, interval: 20ms, unhealthy_after: 2, healthy_after: 2}}\n",
        a.url(),
        b.url()
    ));
    let healthy = || {
        let reading = gateway.metrics().upstreams.remove(0);
        let endpoints = reading.endpoints.iter().map(|endpoint| endpoint.is_healthy);
        (endpoints.collect::<Vec<_>>(), reading.is_panic)
    };
    within(async {
        a.is_well.store(0, SeqCst);
        eventually("a is out", async || healthy() == (vec![false, true], false)).await;
        let before = a.asked();
        for _ in 0..4 {
            assert_eq!(gateway.ask(GET).await.text(), "b");
        }
        assert_eq!(a.asked(), before);
        b.is_well.store(0, SeqCst);
        eventually("both are out", async || healthy() == (vec![false, false], true)).await;
        for _ in 0..4 {
            assert_eq!(gateway.ask(GET).await.status(), 503);
        }
        assert_eq!(a.asked(), before + 2);
        a.is_well.store(1, SeqCst);
        eventually("a is back", async || healthy() == (vec![true, false], false)).await;
        assert_eq!(gateway.ask(GET).await.text(), "a");
    })
    .await;
}

#[tokio::test]
async fn requests_beyond_the_connections_wait_in_turn_and_those_beyond_the_queue_are_refused() {
    let release = Arc::new(Notify::new());
    let held = Arc::clone(&release);
    let upstream = Upstream::play(move |mut peer, _| {
        let held = Arc::clone(&held);
        async move {
            while let Some(request) = peer.head().await {
                held.notified().await;
                let path = request.head.split(' ').nth(1).unwrap();
                peer.send(&format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{path}"))
                    .await;
            }
        }
    })
    .await;
    let gateway = start(&format!(
        "upstreams:\n  - name: up\n    targets: ['http://{}']\n    connections_max: 1\n    pending_max: 2\n    \
         pending_timeout: 10s\n",
        upstream.address
    ));
    within(async {
        let mut clients = Vec::new();
        for (number, path) in ["/1", "/2", "/3"].into_iter().enumerate() {
            let mut client = gateway.connect().await;
            client
                .send(&format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"))
                .await;
            eventually("it is in flight", async || {
                gateway.metrics().in_flight == number as u64 + 1
            })
            .await;
            clients.push(client);
        }
        let refused = gateway.ask(GET).await;
        assert_eq!(refused.status(), 503);
        assert_eq!(
            refused.json()["message"],
            "the upstream servers have no connection to spare"
        );
        for (client, path) in clients.iter_mut().zip(["/1", "/2", "/3"]) {
            release.notify_one();
            assert_eq!(client.receive().await.text(), path);
        }
    })
    .await;
    assert_eq!(upstream.connections(), 1);
    assert_eq!(gateway.metrics().upstreams[0].pending_refused, 1);
}

#[tokio::test]
async fn a_request_does_not_wait_for_a_connection_for_longer_than_it_may() {
    let upstream = Upstream::play(|mut peer, _| async move { while peer.fill().await {} }).await;
    let gateway = start(&format!(
        "upstreams:\n  - name: up\n    targets: ['http://{}']\n    connections_max: 1\n    pending_timeout: 100ms\n",
        upstream.address
    ));
    within(async {
        let mut first = gateway.connect().await;
        first.send(GET).await;
        eventually("the first is in flight", async || upstream.connections() == 1).await;
        assert_eq!(gateway.ask(GET).await.status(), 503);
        assert_eq!(gateway.metrics().upstreams[0].pending_timed_out, 1);
    })
    .await;
}

#[tokio::test]
async fn the_example_serves_each_of_its_routes() {
    const EXAMPLE: &str = include_str!("../../../docs/examples/upstreams.yaml");
    let (app, small, local) = (
        Server::start("app").await,
        Server::start("small").await,
        Server::start("local").await,
    );
    let caches = [Server::start("one").await, Server::start("two").await];
    let mut yaml = EXAMPLE.replace("node_id: a\n", "node_id: a\nlisten: ['127.0.0.1:0']\n");
    let servers = [&app, &small, &local, &caches[0], &caches[1]];
    for (port, server) in ["9000", "9001", "9002", "9100", "9101"].into_iter().zip(servers) {
        yaml = yaml.replace(
            &format!(":{port}"),
            &format!(":{}", server.upstream.address.port()),
        );
    }
    // Checks of `/healthz` are requests like others to these servers, and pass.
    let gateway = Gateway::run(&yaml, Arc::new(|| Box::pin(std::future::ready(()))));
    within(async {
        for _ in 0..20 {
            assert_eq!(gateway.ask(GET).await.status(), 200);
        }
        let cached = "GET /cache/x HTTP/1.1\r\nHost: a\r\nX-User: 7\r\n\r\n";
        let first = gateway.ask(cached).await.text().to_owned();
        assert!(["one", "two"].contains(&first.as_str()));
        assert_eq!(gateway.ask(cached).await.text(), first);
        // Nobody listens there.
        let call = "POST /pkg.Service/Method HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(gateway.ask(call).await.status(), 502);
    })
    .await;
}
