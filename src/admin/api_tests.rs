use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use async_trait::async_trait;

use super::*;
use crate::admin::metrics::Metrics;
use crate::admin::views::{
    ForgetView, LimitsView, ModeView, NodeState, NodeView, PeersView, RosterView, SelfView,
};
use crate::cluster::{RowCount, RowCounts};
use crate::limit::significance::Significance;
use crate::limit::{Charge, Hits, KeyHash, Limiter, RowRef, Rule, UnixMillis};
use crate::replica::{Generation, ReplicaId};

const NOON: UnixMillis = UnixMillis(1_700_000_000_000);

struct FakeNode {
    missing: Vec<String>,
    limiter: Limiter,
    modes: Mutex<Vec<SyncMode>>,
    /// How often the time was asked for.
    looks: AtomicUsize,
    /// Holds up whoever asks for it while this is locked.
    gate: Mutex<()>,
}

impl FakeNode {
    fn new() -> Self {
        let rule = Rule {
            count_by: crate::limit::CountBy::All,
            ..Rule::new(
                "per-client",
                ["5/minute".parse().unwrap(), "100/hour".parse().unwrap()],
            )
        };
        Self {
            missing: Vec::new(),
            limiter: Limiter::new(vec![rule], SyncMode::Gossip, Significance::default(), 1024),
            modes: Mutex::default(),
            looks: AtomicUsize::new(0),
            gate: Mutex::default(),
        }
    }

    fn request_from(&self, client: u128) {
        let charge = Charge {
            rule: 0,
            key: KeyHash(client),
            hits: Hits::ONE,
        };
        let _ = self.limiter.check(&[charge], NOON);
    }
}

#[async_trait]
impl Node for FakeNode {
    fn now(&self) -> UnixMillis {
        self.looks.fetch_add(1, SeqCst);
        drop(self.gate.lock().unwrap());
        NOON
    }

    fn limiter(&self) -> &Limiter {
        &self.limiter
    }

    fn missing(&self) -> Vec<String> {
        self.missing.clone()
    }

    fn peers(&self) -> PeersView {
        let node = NodeView {
            node_id: "a".into(),
            generation: 1,
            gossip_address: None,
            admin_address: None,
            listen_address: None,
            state: NodeState::Live,
            last_row_age_ms: None,
            clock_offset_ms: None,
            config_digest: None,
            config_matches: true,
            version: None,
            mode: Some(SyncMode::Gossip),
        };
        PeersView {
            this: SelfView {
                node,
                ready: true,
                gossip_key: None,
                gossip_keys: 0,
                frame_version: 2,
            },
            peers: Vec::new(),
        }
    }

    fn config(&self) -> serde_json::Value {
        serde_json::json!({})
    }

    fn metrics(&self) -> Metrics {
        Metrics::default()
    }

    async fn row_counts(&self, rows: Vec<RowRef>) -> Vec<RowCounts> {
        let replica = ReplicaId {
            node: "a".parse().unwrap(),
            generation: Generation(7),
        };
        let own = |row| RowCount {
            replica: replica.clone(),
            is_own: true,
            admitted: self.limiter.counters().view(row).unwrap().own,
            granted: 0,
        };
        rows.into_iter().map(|row| vec![own(row)]).collect()
    }

    async fn set_mode(&self, mode: SyncMode) -> Result<ModeView, Refused> {
        let mut modes = self.modes.lock().unwrap();
        modes.push(mode);
        Ok(ModeView {
            mode,
            version: modes.len() as u64,
            from: None,
        })
    }

    async fn roster(&self) -> Result<RosterView, String> {
        Ok(RosterView {
            bounded: true,
            members: Vec::new(),
            shares: Vec::new(),
            inherited: vec!["b/7".to_owned()],
            wills: Vec::new(),
        })
    }

    async fn forget(&self, node: NodeId) -> Result<ForgetView, Refused> {
        match node.as_str() {
            "b" => Ok(ForgetView {
                forgotten: vec!["b/7".to_owned()],
            }),
            "x" => Err(Refused::NotFound("no such node".to_owned())),
            "stopped" => Err(Refused::Unavailable("it is stopping".to_owned())),
            _ => Err(Refused::Conflict("this node is alive".to_owned())),
        }
    }
}

/// Status, headers and body of one request to a node with the token `secret` (or none).
fn ask(
    node: &Arc<FakeNode>,
    token: Option<&str>,
    request: Request<&'static str>,
) -> (StatusCode, Answer, String) {
    let api = Api::new(Arc::clone(node) as Arc<dyn Node>, token);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    runtime.block_on(async {
        let answer = api.handle(request.map(|body| Full::new(Bytes::from(body)))).await;
        let (head, body) = answer.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let text = String::from_utf8(body.to_vec()).unwrap();
        (head.status, Response::from_parts(head, Full::default()), text)
    })
}

fn get(path: &str) -> Request<&'static str> {
    Request::get(path).body("").unwrap()
}

fn put_mode(body: &'static str) -> Request<&'static str> {
    Request::put("/v1/mode").body(body).unwrap()
}

#[test]
fn a_token_is_asked_for_below_v1_and_nowhere_else() {
    let node = Arc::new(FakeNode::new());
    for path in ["/livez", "/readyz", "/metrics"] {
        assert_eq!(ask(&node, Some("secret"), get(path)).0, StatusCode::OK, "{path}");
    }
    for (authorization, expected) in [
        (None, StatusCode::UNAUTHORIZED),
        (Some("secret"), StatusCode::UNAUTHORIZED),
        (Some("Basic secret"), StatusCode::UNAUTHORIZED),
        (Some("Bearer secre"), StatusCode::UNAUTHORIZED),
        (Some("Bearer secret2"), StatusCode::UNAUTHORIZED),
        (Some("Bearer secret"), StatusCode::OK),
        (Some("bearer secret"), StatusCode::OK),
    ] {
        let mut request = get("/v1/peers");
        if let Some(value) = authorization {
            request
                .headers_mut()
                .insert(AUTHORIZATION, HeaderValue::from_static(value));
        }
        let (status, answer, _) = ask(&node, Some("secret"), request);
        assert_eq!(status, expected, "{authorization:?}");
        let challenged = answer.headers().get(WWW_AUTHENTICATE).is_some();
        assert_eq!(
            challenged,
            expected == StatusCode::UNAUTHORIZED,
            "{authorization:?}"
        );
    }
}

#[test]
fn without_a_token_a_request_under_a_foreign_host_name_is_refused() {
    let node = Arc::new(FakeNode::new());
    for (host, expected) in [
        ("127.0.0.1:8001", StatusCode::OK),
        ("[::1]:8001", StatusCode::OK),
        ("localhost:8001", StatusCode::OK),
        ("rebound.example:8001", StatusCode::MISDIRECTED_REQUEST),
        ("127.0.0.1.example", StatusCode::MISDIRECTED_REQUEST),
    ] {
        let mut request = get("/v1/peers");
        request.headers_mut().insert(HOST, HeaderValue::from_static(host));
        assert_eq!(ask(&node, None, request).0, expected, "{host}");
    }
}

#[test]
fn readiness_is_503_with_every_reason_until_nothing_is_missing() {
    let mut node = FakeNode::new();
    node.missing = vec!["joining the cluster".into(), "draining".into()];
    let (status, _, body) = ask(&Arc::new(node), None, get("/readyz"));
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    let expected = serde_json::json!({"ready": false, "missing": ["joining the cluster", "draining"]});
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(&body).unwrap(),
        expected
    );
    assert_eq!(
        ask(&Arc::new(FakeNode::new()), None, get("/readyz")).0,
        StatusCode::OK
    );
}

#[test]
fn an_unknown_path_lists_the_known_ones_and_a_wrong_method_names_the_right_ones() {
    let node = Arc::new(FakeNode::new());
    let (status, _, body) = ask(&node, None, get("/v1/limit"));
    assert_eq!(status, StatusCode::NOT_FOUND);
    for (path, _) in ENDPOINTS {
        assert!(body.contains(path), "{path} is not in {body}");
    }
    for (request, allowed) in [
        (get("/v1/mode"), "PUT"),
        (Request::post("/v1/peers").body("").unwrap(), "GET, HEAD"),
    ] {
        let (status, answer, _) = ask(&node, None, request);
        assert_eq!(
            (status, &answer.headers()[ALLOW]),
            (StatusCode::METHOD_NOT_ALLOWED, &HeaderValue::from_static(allowed))
        );
    }
}

#[test]
fn a_mode_is_read_from_json_or_text_and_nothing_else_changes_it() {
    let node = Arc::new(FakeNode::new());
    let long: &'static str = Box::leak(" ".repeat(BODY_BYTES_MAX + 1).into_boxed_str());
    for (body, expected) in [
        ("{\"mode\":\"local\"}", StatusCode::OK),
        ("gossip\n", StatusCode::OK),
        ("", StatusCode::BAD_REQUEST),
        ("global", StatusCode::BAD_REQUEST),
        ("{\"mode\":\"global\"}", StatusCode::BAD_REQUEST),
        ("{\"mood\":\"local\"}", StatusCode::BAD_REQUEST),
        (long, StatusCode::PAYLOAD_TOO_LARGE),
    ] {
        let (status, _, answer) = ask(&node, None, put_mode(body));
        assert_eq!(status, expected, "{body}: {answer}");
        if expected == StatusCode::BAD_REQUEST {
            assert!(
                answer.contains("local") && answer.contains("gossip"),
                "{body}: {answer}"
            );
        }
    }
    assert_eq!(*node.modes.lock().unwrap(), [SyncMode::Local, SyncMode::Gossip]);
}

#[test]
fn limits_show_the_most_used_keys_first_with_their_counts_by_replica() {
    let node = Arc::new(FakeNode::new());
    for (client, requests) in [(1, 2), (2, 4), (3, 1)] {
        (0..requests).for_each(|_| node.request_from(client));
    }
    let (status, _, body) = ask(&node, None, get("/v1/limits?limit=3"));
    assert_eq!(status, StatusCode::OK, "{body}");
    let view: LimitsView = serde_json::from_str(&body).unwrap();
    assert_eq!(view.live_keys, 6);
    let totals: Vec<u64> = view.limits.iter().map(|limit| limit.total).collect();
    assert_eq!(totals, [4, 4, 2]);
    let minute = view.limits.iter().find(|limit| limit.limit == Some(5)).unwrap();
    assert_eq!(minute.rule.as_deref(), Some("per-client"));
    assert_eq!(minute.key, format!("{:032x}", 2));
    assert_eq!((minute.own, minute.peers, minute.remaining), (4, 0, Some(1)));
    assert_eq!(
        (&minute.window_start[..], &minute.window_end[..]),
        ("2023-11-14T22:13:00Z", "2023-11-14T22:14:00Z")
    );
    assert_eq!(minute.replicas["a/7"].admitted, 4);
}

#[test]
fn limits_are_looked_up_one_request_at_a_time_while_probes_are_answered() {
    let node = Arc::new(FakeNode::new());
    let api = Api::new(Arc::clone(&node) as Arc<dyn Node>, None);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build();
    runtime.unwrap().block_on(async {
        let ask = async |path| {
            api.handle(get(path).map(|_| Full::<Bytes>::default()))
                .await
                .status()
        };
        let held = node.gate.lock().unwrap();
        let probes = async {
            while node.looks.load(SeqCst) == 0 {
                tokio::task::yield_now().await;
            }
            for _ in 0..10 {
                assert_eq!(ask("/readyz").await, StatusCode::OK);
            }
            assert_eq!(node.looks.load(SeqCst), 1, "the second waits for the first");
            drop(held);
        };
        let (one, other, ()) = tokio::join!(ask("/v1/limits"), ask("/v1/limits"), probes);
        assert_eq!([one, other], [StatusCode::OK; 2]);
    });
}

#[test]
fn the_number_of_limits_shown_is_bounded_on_both_sides() {
    assert_eq!(limits_shown(""), Ok(LIMITS_DEFAULT));
    assert_eq!(limits_shown("limit=1"), Ok(1));
    assert_eq!(limits_shown("limit=1000"), Ok(LIMITS_MAX));
    for wrong in [
        "limit=0",
        "limit=1001",
        "limit=x",
        "limit=",
        "limits=1",
        "limit=99999999999999999999",
    ] {
        assert!(limits_shown(wrong).is_err(), "{wrong} was accepted");
    }
}

#[test]
fn the_roster_is_shown_and_a_node_forgotten_only_by_a_request_that_names_it() {
    let node = Arc::new(FakeNode::new());
    let (status, _, text) = ask(&node, None, get("/v1/roster"));
    let roster: RosterView = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (status, roster.inherited),
        (StatusCode::OK, vec!["b/7".to_owned()])
    );
    let forget = |body| {
        let request = Request::post("/v1/roster/forget").body(body).unwrap();
        let (status, _, text) = ask(&node, None, request);
        (status.as_u16(), text)
    };
    assert_eq!(
        forget("{\"node\":\"b\"}"),
        (200, "{\"forgotten\":[\"b/7\"]}\n".to_owned())
    );
    for (body, status, part) in [
        ("{\"node\":\"a\"}", 409, "alive"),
        ("{\"node\":\"x\"}", 404, "no such node"),
        ("{\"node\":\"stopped\"}", 503, "stopping"),
        ("{\"node\":\"no such name!\"}", 400, "node id"),
        ("{\"nodes\":\"b\"}", 400, "expected"),
        ("", 400, "expected"),
    ] {
        let (refused, text) = forget(body);
        assert!(
            refused == status && text.contains(part),
            "{body}: {refused} {text}"
        );
    }
    let (status, ..) = ask(&node, None, get("/v1/roster/forget"));
    assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
    let request = Request::post("/v1/roster/forget")
        .body("{\"node\":\"b\"}")
        .unwrap();
    assert_eq!(ask(&node, Some("secret"), request).0, StatusCode::UNAUTHORIZED);
}
