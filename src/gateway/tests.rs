use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use bytes::Bytes;
use clap::Parser as _;
use http::{HeaderMap, Method, Response, StatusCode};
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::Notify;

use super::*;
use crate::admin::views::{LimitsView, NodeState, PeersView, RosterView};
use crate::cli::args::{Cli, Command};
use crate::cli::http::{Client, request};

/// Longest wait for a condition; only a failure takes that long.
const DEADLINE: Duration = Duration::from_secs(20);

fn block_on(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.unwrap().block_on(test);
}

fn config(node: &str, upstream: SocketAddr, more: &[&str]) -> Config {
    let upstream = format!("http://{upstream}");
    let mut args = vec!["weir", "run", "--node-id", node, "--upstream", &upstream];
    args.extend([
        "--listen",
        "127.0.0.1:0",
        "--admin",
        "127.0.0.1:0",
        "--gossip",
        "127.0.0.1:0",
    ]);
    args.extend(["--workers", "1"]);
    args.extend(more);
    match Cli::try_parse_from(args).unwrap().command {
        Command::Run(args) => args.load().unwrap(),
        other => panic!("{other:?} is not `run`"),
    }
}

/// An upstream that counts its requests, and answers each once `gate` lets it.
#[derive(Default)]
struct Upstream {
    requests: AtomicU64,
    arrived: Notify,
    gate: Option<Notify>,
}

impl Upstream {
    async fn start(self: &Arc<Self>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let upstream = Arc::clone(self);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let upstream = Arc::clone(&upstream);
                let service = service_fn(move |_| {
                    let upstream = Arc::clone(&upstream);
                    async move { Ok::<_, Infallible>(upstream.answer().await) }
                });
                let serving = hyper::server::conn::http1::Builder::new();
                tokio::spawn(serving.serve_connection(TokioIo::new(stream), service));
            }
        });
        address
    }

    async fn answer(&self) -> Response<Full<Bytes>> {
        self.requests.fetch_add(1, SeqCst);
        self.arrived.notify_one();
        if let Some(gate) = &self.gate {
            gate.notified().await;
        }
        Response::new(Full::from("answered"))
    }
}

async fn get_status(address: SocketAddr, path: &str) -> StatusCode {
    Client::new(&address.to_string())
        .unwrap()
        .get(path)
        .await
        .unwrap()
        .status
}

async fn json<T: serde::de::DeserializeOwned>(address: SocketAddr, path: &str) -> T {
    Client::new(&address.to_string())
        .unwrap()
        .get(path)
        .await
        .unwrap()
        .json()
        .unwrap()
}

/// Looks again and again until `holds`.
async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let polling = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let outcome = tokio::time::timeout(DEADLINE, polling).await;
    assert!(outcome.is_ok(), "not after {DEADLINE:?}: {what}");
}

async fn start_pair(upstream: SocketAddr, limit: &str) -> (Gateway, Gateway) {
    let a = Gateway::start(config("a", upstream, &["--limit", limit, "--limit-by", "all"]))
        .await
        .unwrap();
    let seed = a.addresses().gossip.to_string();
    let more = ["--limit", limit, "--limit-by", "all", "--seed", &seed];
    let b = Gateway::start(config("b", upstream, &more)).await.unwrap();
    for gateway in [&a, &b] {
        let admin = gateway.addresses().admin;
        eventually("each node is ready and sees the other", async || {
            let peers: PeersView = json(admin, "/v1/peers").await;
            let live = peers.peers.iter().filter(|peer| peer.state == NodeState::Live);
            peers.this.ready && live.count() == 1
        })
        .await;
    }
    (a, b)
}

#[test]
fn two_gateways_keep_one_limit_and_show_how_it_was_used() {
    block_on(async {
        let upstream = Arc::new(Upstream::default());
        // A year keeps the end of a window out of the test.
        let (a, b) = start_pair(upstream.start().await, "5/year").await;
        let nodes = [&a, &b].map(Gateway::addresses);
        let mut statuses = Vec::new();
        for turn in 0..10 {
            statuses.push(get_status(nodes[turn % 2].listen[0], "/").await.as_u16());
            let admitted = statuses.iter().filter(|status| **status == 200).count() as u64;
            // How soon a count arrives is up to the scheduler; that it arrives is not.
            let other = nodes[(turn + 1) % 2].admin;
            eventually("the other node knows the count", async || {
                let limits: LimitsView = json(other, "/v1/limits").await;
                limits.limits.first().is_some_and(|limit| limit.total == admitted)
            })
            .await;
        }
        assert_eq!(statuses, [200, 200, 200, 200, 200, 429, 429, 429, 429, 429]);
        assert_eq!(upstream.requests.load(SeqCst), 5);

        let limits: LimitsView = json(b.addresses().admin, "/v1/limits").await;
        let [limit] = &limits.limits[..] else {
            panic!("one key was used, not {limits:?}")
        };
        assert_eq!(
            (limit.own, limit.peers, limit.total, limit.remaining),
            (2, 3, 5, Some(0))
        );
        let by_node: Vec<_> = limit
            .replicas
            .iter()
            .map(|(id, count)| (id.split('/').next(), count.admitted))
            .collect();
        assert_eq!(by_node, [(Some("a"), 3), (Some("b"), 2)]);

        let peers: PeersView = json(a.addresses().admin, "/v1/peers").await;
        assert!(peers.peers[0].config_matches, "{peers:?}");
        assert_eq!(
            peers.peers[0].admin_address,
            Some(b.addresses().admin.to_string())
        );
        let metrics = Client::new(&a.addresses().admin.to_string())
            .unwrap()
            .get("/metrics")
            .await
            .unwrap();
        let text = String::from_utf8(metrics.body.to_vec()).unwrap();
        for line in [
            "weir_peers_live 1",
            "weir_decisions_total{outcome=\"admitted\"} 3",
            "weir_ready 1",
        ] {
            assert!(text.lines().any(|other| other == line), "no `{line}` in\n{text}");
        }
        b.stop().await;
        a.stop().await;
    });
}

#[test]
fn a_mode_set_at_one_gateway_comes_into_force_at_the_other() {
    block_on(async {
        let upstream = Arc::new(Upstream::default());
        let (a, b) = start_pair(upstream.start().await, "1/year").await;
        let admin = a.addresses().admin.to_string();
        let put = |mode| {
            request(
                Method::PUT,
                &admin,
                "/v1/mode",
                HeaderMap::new(),
                Bytes::from(mode),
            )
        };
        let refused = put("bounded").await.unwrap();
        assert_eq!(refused.status, StatusCode::CONFLICT);
        assert!(
            refused.excerpt().contains("bounded.allow_long_windows"),
            "{}",
            refused.excerpt()
        );
        assert_eq!(put("local").await.unwrap().status, StatusCode::OK);
        eventually("both nodes are in local mode", async || {
            let peers: PeersView = json(b.addresses().admin, "/v1/peers").await;
            let modes = [peers.this.node.mode, peers.peers[0].mode];
            modes == [Some(crate::limit::SyncMode::Local); 2]
        })
        .await;
        for gateway in [&a, &b] {
            let listen = gateway.addresses().listen[0];
            assert_eq!(get_status(listen, "/").await, StatusCode::OK);
            assert_eq!(get_status(listen, "/").await, StatusCode::TOO_MANY_REQUESTS);
        }
        b.stop().await;
        a.stop().await;
    });
}

#[test]
fn a_stop_shows_at_readiness_and_waits_for_the_request_in_flight() {
    block_on(async {
        let upstream = Arc::new(Upstream {
            gate: Some(Notify::new()),
            ..Upstream::default()
        });
        let gateway = Gateway::start(config("a", upstream.start().await, &[]))
            .await
            .unwrap();
        let Addresses { listen, admin, .. } = gateway.addresses().clone();
        let in_flight = tokio::spawn(async move { get_status(listen[0], "/").await });
        upstream.arrived.notified().await;
        eventually("it is ready", async || {
            get_status(admin, "/readyz").await == StatusCode::OK
        })
        .await;

        let stopping = tokio::spawn(gateway.stop());
        eventually("readiness is gone", async || {
            get_status(admin, "/readyz").await == StatusCode::SERVICE_UNAVAILABLE
        })
        .await;
        assert_eq!(get_status(admin, "/livez").await, StatusCode::OK);
        assert!(!stopping.is_finished(), "the stop did not wait for the request");
        upstream.gate.as_ref().unwrap().notify_one();
        assert_eq!(in_flight.await.unwrap(), StatusCode::OK);
        stopping.await.unwrap();
        let after = Client::new(&admin.to_string()).unwrap().get("/livez").await;
        assert!(after.is_err(), "the admin API still answers after the stop");
    });
}

#[test]
fn a_node_that_retires_is_not_ready_and_serves_on() {
    block_on(async {
        let upstream = Arc::new(Upstream::default());
        let config = config("a", upstream.start().await, &["--drain-delay", "1h"]);
        let gateway = Gateway::start(config).await.unwrap();
        let Addresses { listen, admin, .. } = gateway.addresses().clone();
        let looking = async {
            eventually("readiness is gone", async || {
                get_status(admin, "/readyz").await == StatusCode::SERVICE_UNAVAILABLE
            })
            .await;
            for _ in 0..3 {
                assert_eq!(get_status(listen[0], "/").await, StatusCode::OK);
            }
        };
        tokio::select! {
            () = gateway.retire() => panic!("that was no hour"),
            () = looking => {}
        }
        gateway.stop().await;
    });
}

#[test]
fn an_address_in_use_is_named_and_leaves_nothing_running() {
    block_on(async {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let taken_udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let tcp = taken.local_addr().unwrap().to_string();
        let udp = taken_udp.local_addr().unwrap().to_string();
        for (flag, address) in [("--listen", &tcp), ("--admin", &tcp), ("--gossip", &udp)] {
            let mut config = config("a", "127.0.0.1:9".parse().unwrap(), &[]);
            let address: SocketAddr = address.parse().unwrap();
            match flag {
                "--listen" => config.listen = vec![address.into()],
                "--admin" => config.admin.listen = address,
                _ => config.cluster.gossip = address,
            }
            let Err(error) = Gateway::start(config).await else {
                panic!("{flag} {address} was bound twice")
            };
            let message = format!("{error:#}");
            assert!(message.contains(&address.to_string()), "{flag}: {message}");
        }
    });
}

#[test]
fn a_lone_gateway_in_bounded_mode_has_the_whole_limit_and_says_so() {
    block_on(async {
        let upstream = Arc::new(Upstream::default());
        let mut config = config("a", upstream.start().await, &["--limit", "5/year"]);
        config.limits.rules[0].mode = Some(crate::limit::SyncMode::Bounded);
        config.cluster.join_grace = Duration::from_millis(100);
        let gateway = Gateway::start(config).await.unwrap();
        let Addresses { listen, admin, .. } = gateway.addresses().clone();
        let roster = async || json::<RosterView>(admin, "/v1/roster").await;
        eventually("it has its share", async || {
            roster().await.shares.iter().any(|share| share.members == Some(1))
        })
        .await;
        let mut statuses = Vec::new();
        for _ in 0..8 {
            statuses.push(get_status(listen[0], "/").await.as_u16());
        }
        assert_eq!(statuses, [200, 200, 200, 200, 200, 429, 429, 429]);
        assert_eq!(upstream.requests.load(SeqCst), 5);
        let roster = roster().await;
        assert!(roster.bounded && roster.members.len() == 1, "{roster:?}");
        let admin = admin.to_string();
        let forget = request(
            Method::POST,
            &admin,
            "/v1/roster/forget",
            HeaderMap::new(),
            Bytes::from("{\"node\":\"a\"}"),
        );
        assert_eq!(forget.await.unwrap().status, StatusCode::CONFLICT);
        gateway.stop().await;
    });
}

#[test]
fn the_rights_of_a_gateway_that_stops_are_spent_by_its_heir_within_the_same_window() {
    block_on(async {
        let upstream = Arc::new(Upstream::default());
        let target = upstream.start().await;
        let bounded = |node, more: &[&str]| {
            let limits = ["--limit", "5/year", "--limit-by", "all"];
            let mut config = config(node, target, &[&limits, more].concat());
            config.limits.rules[0].mode = Some(crate::limit::SyncMode::Bounded);
            // By short windows a joiner becomes active, and so may inherit.
            let mut short = config.limits.rules[0].clone();
            short.name = "short".to_owned();
            short.windows = std::iter::once("1000/second".parse().unwrap()).collect();
            config.limits.rules.push(short);
            config.bounded.skew = Duration::from_millis(50);
            config
        };
        let a = Gateway::start(bounded("a", &["--join-grace", "0s"]))
            .await
            .unwrap();
        let shared_by = async |gateway: &Gateway, period: &str| {
            let roster: RosterView = json(gateway.addresses().admin, "/v1/roster").await;
            let share = roster.shares.iter().find(|share| share.period == period);
            share.and_then(|share| share.members)
        };
        eventually("the founder has the year", async || {
            shared_by(&a, "year").await == Some(1)
        })
        .await;
        let seed = a.addresses().gossip.to_string();
        let b = Gateway::start(bounded("b", &["--seed", &seed])).await.unwrap();
        eventually("both share seconds", async || {
            shared_by(&a, "second").await == Some(2) && shared_by(&b, "second").await == Some(2)
        })
        .await;
        assert_eq!(shared_by(&b, "year").await, None, "it joined within it");
        for _ in 0..2 {
            assert_eq!(get_status(a.addresses().listen[0], "/").await, StatusCode::OK);
        }
        a.stop().await;
        let roster: RosterView = json(b.addresses().admin, "/v1/roster").await;
        assert!(
            roster.inherited.iter().any(|replica| replica.starts_with("a/")),
            "{roster:?}"
        );
        let mut statuses = Vec::new();
        for _ in 0..6 {
            statuses.push(get_status(b.addresses().listen[0], "/").await.as_u16());
        }
        assert_eq!(statuses, [200, 200, 200, 429, 429, 429]);
        assert_eq!(upstream.requests.load(SeqCst), 5);
        b.stop().await;
    });
}

#[test]
fn the_rate_limit_service_of_a_gateway_follows_its_configuration_and_is_measured() {
    let yaml = |limit: &str| {
        let text = format!(
            "node_id: a\nlisten: 127.0.0.1:0\nadmin: {{listen: 127.0.0.1:0}}\ncluster: {{gossip: 127.0.0.1:0}}\n\
             proxy: {{workers: 1}}\nratelimit:\n  listen: 127.0.0.1:0\n  domains:\n    - domain: edge\n      \
             descriptors: [{{key: k, windows: [{limit}]}}]\n"
        );
        Config::from_yaml("w.yaml", &text)
    };
    block_on(async {
        let mut gateway = Gateway::start(yaml("1/year").unwrap()).await.unwrap();
        let service = gateway.addresses().ratelimit.unwrap();
        assert!(
            Announcement(&gateway)
                .to_string()
                .contains(&format!(", ratelimit {service}, mode"))
        );
        let question = "/v1/check?domain=edge&entry=k:v";
        assert_eq!(get_status(service, question).await, StatusCode::OK);
        assert_eq!(get_status(service, question).await, StatusCode::TOO_MANY_REQUESTS);
        // It has no routes, and what it is asked about is nobody's request.
        let listen = gateway.addresses().listen[0];
        assert_eq!(get_status(listen, "/").await, StatusCode::NOT_FOUND);
        let load: Load = Arc::new(move || yaml("2/year"));
        assert!(gateway.reload(&load).await);
        assert_eq!(get_status(service, question).await, StatusCode::OK);
        assert_eq!(get_status(service, question).await, StatusCode::TOO_MANY_REQUESTS);
        let admin = gateway.addresses().admin;
        let limits: LimitsView = json(admin, "/v1/limits").await;
        let shown = &limits.limits[0];
        let said = (
            shown.rule.as_deref(),
            shown.by.as_deref(),
            shown.name.as_deref(),
            shown.total,
        );
        assert_eq!(said, (Some("edge/k"), Some("descriptor"), Some("k=v"), 2));
        let metrics = Client::new(&admin.to_string())
            .unwrap()
            .get("/metrics")
            .await
            .unwrap();
        let text = String::from_utf8_lossy(&metrics.body).into_owned();
        for outcome in ["admitted", "denied"] {
            let line = format!("weir_ratelimit_requests_total{{api=\"check\",outcome=\"{outcome}\"}} 2");
            assert!(text.contains(&line), "{line}");
        }
        gateway.stop().await;
        assert!(tokio::net::TcpStream::connect(service).await.is_err());
    });
}
