//! How a proxy begins and ends.

use bytes::Bytes;
use http::Request;
use http_body_util::Empty;
use tokio::sync::Notify;

use super::*;

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// An upstream that answers when told to, and says when it was asked.
async fn held_back() -> (Upstream, Arc<Notify>, Arc<Notify>) {
    let (asked, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (tells, waits) = (Arc::clone(&asked), Arc::clone(&go));
    let upstream = Upstream::play(move |mut peer, _| {
        let (tells, waits) = (Arc::clone(&tells), Arc::clone(&waits));
        async move {
            while peer.head().await.is_some() {
                tells.notify_one();
                waits.notified().await;
                peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
            }
        }
    })
    .await;
    (upstream, asked, go)
}

#[tokio::test]
async fn a_stop_finishes_what_is_in_flight_and_takes_nothing_new() {
    let (upstream, asked, go) = held_back().await;
    let gateway = Gateway::start(upstream.address, "");
    let address = gateway.address();
    within(async {
        let mut idle = gateway.connect().await;
        idle.send(GET).await;
        asked.notified().await;
        go.notify_one();
        assert_eq!(idle.receive().await.text(), "ok");
        let mut silent = gateway.connect().await;
        let mut busy = gateway.connect().await;
        busy.send(GET).await;
        asked.notified().await;

        let stopping = tokio::spawn(gateway.proxy.stop(PATIENCE));
        // Idle connections end at once, and nobody listens any more.
        assert!(idle.is_at_end().await && silent.is_at_end().await);
        assert!(TcpStream::connect(address).await.is_err());
        assert!(!stopping.is_finished());

        go.notify_one();
        let last = busy.receive().await;
        assert_eq!(
            (last.text(), last.field("connection").as_deref()),
            ("ok", Some("close"))
        );
        assert_eq!(stopping.await.unwrap(), 0);
    })
    .await;
}

#[tokio::test]
async fn a_proxy_that_winds_down_serves_on_and_sends_its_clients_elsewhere() {
    let (upstream, asked, go) = held_back().await;
    let gateway = Gateway::start(upstream.address, "");
    let is_told = |answer: &Message| answer.field("connection").as_deref() == Some("close");
    within(async {
        let mut old = gateway.connect().await;
        old.send(GET).await;
        asked.notified().await;
        go.notify_one();
        assert!(!is_told(&old.receive().await));
        let stream = TcpStream::connect(gateway.address()).await.unwrap();
        let shaken = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
        let (mut http2, connection) = shaken.unwrap();
        let connection = tokio::spawn(connection);
        let request = || Request::get("http://a/").body(Empty::new()).unwrap();
        let in_flight = http2.send_request(request());
        asked.notified().await;

        gateway.proxy.wind_down();
        // What is in flight goes on, and the connection ends after it.
        go.notify_one();
        assert_eq!(in_flight.await.unwrap().status(), 200);
        connection.await.unwrap().unwrap();
        http2.ready().await.unwrap_err();
        // An idle connection over HTTP/1 is told with its next response, and so is a new one.
        for mut client in [old, gateway.connect().await] {
            client.send(GET).await;
            asked.notified().await;
            go.notify_one();
            let answer = client.receive().await;
            assert!(answer.status() == 200 && is_told(&answer), "{answer:?}");
            assert!(client.is_at_end().await);
        }
        let mut newcomer = gateway.connect_http2::<Empty<Bytes>>().await;
        for _ in 0..2 {
            let answer = newcomer.send_request(request());
            asked.notified().await;
            go.notify_one();
            assert_eq!(answer.await.unwrap().status(), 200);
        }
        assert_eq!(gateway.proxy.stop(PATIENCE).await, 0);
    })
    .await;
}

#[tokio::test]
async fn what_is_still_in_flight_after_the_drain_timeout_is_cut_off_and_counted() {
    let (upstream, asked, _go) = held_back().await;
    let gateway = Gateway::start(upstream.address, "");
    let shared = Arc::clone(&gateway.shared);
    within(async {
        let mut busy = gateway.connect().await;
        busy.send(GET).await;
        asked.notified().await;
        assert_eq!(gateway.proxy.stop(Duration::from_millis(50)).await, 1);
        assert!(busy.is_at_end().await);
    })
    .await;
    assert_eq!(shared.metrics().snapshot().connections, 0);
}

#[tokio::test]
async fn the_connection_cap_holds_further_clients_back_until_one_leaves() {
    let upstream = Upstream::mirror().await;
    let yaml = format!(
        "proxy:\n  connections_max: 1\nupstreams:\n  - name: up\n    targets: [http://{}]\n",
        upstream.address
    );
    let gateway = Gateway::start_with(&yaml, Arc::new(|| Box::pin(std::future::ready(()))));
    within(async {
        let mut first = gateway.connect().await;
        first.send(GET).await;
        first.receive().await;
        let mut second = gateway.connect().await;
        second.send(GET).await;
        for _ in 0..10 {
            first.send(GET).await;
            first.receive().await;
        }
        assert_eq!(gateway.metrics().accepted, 1);
        drop(first);
        assert_eq!(second.receive().await.status(), 200);
    })
    .await;
}

#[tokio::test]
async fn workers_share_a_port_among_themselves_but_not_with_strangers() {
    let upstream = Upstream::mirror().await;
    let yaml = format!(
        "upstreams:\n  - name: up\n    targets: [http://{}]\n",
        upstream.address
    );
    let head = "node_id: n1\nproxy:\n  workers: 3\n";
    let start = |listen: &str| {
        let yaml = format!("{head}listen: [\"{listen}\"]\n{yaml}");
        let config = Config::from_yaml("test", &yaml).unwrap_or_else(|errors| panic!("{errors}"));
        let limiter = Limiter::new(Vec::new(), config.sync.mode, config.sync.significance, 64);
        let hasher = IdentityHasher::new([7; 16]);
        let shared = ProxyShared::new(
            Arc::new(config),
            Arc::new(limiter),
            hasher,
            Arc::new(|| Box::pin(std::future::ready(()))),
        );
        let shared = Arc::new(shared);
        Proxy::start(&shared).map(|proxy| Gateway { proxy, shared })
    };
    let gateway = start("127.0.0.1:0").unwrap();
    within(async {
        for _ in 0..20 {
            assert_eq!(gateway.ask(GET).await.status(), 200);
        }
        let second = start(&gateway.address().to_string());
        assert_eq!(second.err().unwrap().kind(), std::io::ErrorKind::AddrInUse);
        assert_eq!(gateway.proxy.stop(PATIENCE).await, 0);
    })
    .await;
}
