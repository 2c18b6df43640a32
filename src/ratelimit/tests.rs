//! The service over real sockets, and what it decides.

mod check;

use std::collections::HashMap;

use bytes::{BufMut as _, Bytes, BytesMut};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use proptest::prelude::*;
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::messages::{
    Code, Entry, RateLimitDescriptor, RateLimitOverride, RateLimitRequest, RateLimitResponse, UInt64Value,
    Unit,
};
use super::*;
use crate::admission::Announced;

const DOMAIN: &str = "
ratelimit:
  listen: 127.0.0.1:0
  domains:
    - domain: edge
      descriptors:
        - {key: address, windows: [3/month, 5/year], name: per address}
        - {key: address, value: 192.0.2.1, rate_limit: {unlimited: true}}
        - {key: address, value: 10.*, rate_limit: {unit: YEAR, requests_per_unit: 1}}
        - {key: address, value: 192.0.2.9, rate_limit: {unit: day, requests_per_unit: 0}}
        - {key: all, rate_limit: {unit: year, requests_per_unit: 4}}
        - {key: watched, shadow_mode: true, windows: [1/year]}
        - key: path
          value: /login
          descriptors:
            - {key: address, windows: [2/year]}
";

/// A running service on a node of its own.
struct Service {
    service: RatelimitService,
    limiter: Arc<Limiter>,
    /// One message for each time that replication was woken.
    woken: mpsc::UnboundedReceiver<()>,
}

impl Service {
    fn start(yaml: &str) -> Self {
        let yaml = format!("node_id: a\nproxy: {{workers: 1}}\n{yaml}");
        let config = Config::from_yaml("w.yaml", &yaml).unwrap_or_else(|errors| panic!("{errors}"));
        let limits = &config.limits;
        let significance = config.sync.significance;
        let limiter = Limiter::new(
            limits.rules.clone(),
            config.sync.mode,
            significance,
            limits.max_keys,
        );
        let limiter = Arc::new(limiter);
        let (wake, woken) = mpsc::unbounded_channel();
        let on_due: OnDue = Arc::new(move || {
            // A test that ended hears of nothing.
            let _ = wake.send(());
            Box::pin(std::future::ready(())) as Announced
        });
        let service = RatelimitService::start(&config, Arc::clone(&limiter), on_due, Arc::new(|| true));
        Self {
            service: service.unwrap().unwrap(),
            limiter,
            woken,
        }
    }

    async fn call(
        &self,
        path: &str,
        message: Vec<u8>,
        token: Option<&str>,
    ) -> (HashMap<String, String>, Bytes) {
        let stream = TcpStream::connect(self.service.address()).await.unwrap();
        let io = TokioIo::new(stream);
        let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
            .await
            .unwrap();
        tokio::spawn(connection);
        let mut framed = BytesMut::new();
        framed.put_u8(0);
        framed.put_u32(u32::try_from(message.len()).unwrap());
        framed.extend_from_slice(&message);
        let mut request = http::Request::post(format!("http://weir{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let request = request.body(Full::new(framed.freeze())).unwrap();
        let response = sender.send_request(request).await.unwrap();
        let mut fields = response.headers().clone();
        let body = response.into_body().collect().await.unwrap();
        fields.extend(body.trailers().cloned().unwrap_or_default());
        let named = fields
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()));
        let bytes = body.to_bytes();
        (named.collect(), bytes.slice(bytes.len().min(5)..))
    }

    async fn ask(&self, request: &RateLimitRequest) -> RateLimitResponse {
        let (fields, body) = self
            .call(grpc::SHOULD_RATE_LIMIT, request.encode_to_vec(), None)
            .await;
        assert_eq!(fields["grpc-status"], "0", "{fields:?}");
        RateLimitResponse::decode(body).unwrap()
    }

    /// The status of a call that fails.
    async fn fault(&self, request: &RateLimitRequest) -> (String, String) {
        let (mut fields, _) = self
            .call(grpc::SHOULD_RATE_LIMIT, request.encode_to_vec(), None)
            .await;
        (
            fields.remove("grpc-status").unwrap(),
            fields.remove("grpc-message").unwrap_or_default(),
        )
    }

    /// What plain HTTP answers: the head with status and fields, and the body.
    async fn http(&self, head: &str, body: &str) -> (String, String) {
        let mut stream = TcpStream::connect(self.service.address()).await.unwrap();
        let length = body.len();
        let request =
            format!("{head}\r\nHost: w\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.to_owned(), body.to_owned())
    }

    /// The status and the body of a GET.
    async fn get(&self, target: &str) -> (u16, serde_json::Value) {
        let (head, body) = self.http(&format!("GET {target} HTTP/1.1"), "").await;
        (head[9..12].parse().unwrap(), serde_json::from_str(&body).unwrap())
    }

    fn outcomes(&self, api: Api) -> [u64; 5] {
        self.service.metrics().snapshot().requests[api as usize]
    }
}

fn descriptor(entries: &[(&str, &str)]) -> RateLimitDescriptor {
    let entry = |(key, value): &(&str, &str)| Entry {
        key: (*key).to_owned(),
        value: (*value).to_owned(),
    };
    RateLimitDescriptor {
        entries: entries.iter().map(entry).collect(),
        ..RateLimitDescriptor::default()
    }
}

fn about(descriptors: &[RateLimitDescriptor]) -> RateLimitRequest {
    RateLimitRequest {
        domain: "edge".to_owned(),
        descriptors: descriptors.to_vec(),
        hits_addend: 0,
    }
}

/// Overall, and for each descriptor whether it is over, what its limit is and what is left.
fn said(response: &RateLimitResponse) -> (Code, Vec<(Code, u32, u32)>) {
    let statuses = response.statuses.iter().map(|status| {
        let limit = status
            .current_limit
            .as_ref()
            .map_or(0, |limit| limit.requests_per_unit);
        (status.code(), limit, status.limit_remaining)
    });
    (response.overall_code(), statuses.collect())
}

#[tokio::test]
async fn a_descriptor_is_limited_by_the_values_of_its_entries_in_all_windows() {
    let service = Service::start(DOMAIN);
    for left in [2, 1, 0] {
        let response = service
            .ask(&about(&[descriptor(&[("address", "192.0.2.7")])]))
            .await;
        assert_eq!(said(&response), (Code::Ok, vec![(Code::Ok, 3, left)]));
        let limit = response.statuses[0].current_limit.clone().unwrap();
        assert_eq!((limit.unit(), limit.name.as_str()), (Unit::Month, "per address"));
    }
    let denied = service
        .ask(&about(&[descriptor(&[("address", "192.0.2.7")])]))
        .await;
    assert_eq!(said(&denied), (Code::OverLimit, vec![(Code::OverLimit, 3, 0)]));
    assert!(denied.statuses[0].duration_until_reset.unwrap().seconds >= 1);
    let headers: HashMap<_, _> = denied
        .response_headers_to_add
        .iter()
        .map(|header| (header.key.as_str(), header.value.as_str()))
        .collect();
    assert_eq!(
        (
            headers["x-ratelimit-limit-month"],
            headers["x-ratelimit-remaining-year"]
        ),
        ("3", "2")
    );
    assert!(headers.contains_key("retry-after"));
    let other = service
        .ask(&about(&[descriptor(&[("address", "192.0.2.8")])]))
        .await;
    assert_eq!(said(&other), (Code::Ok, vec![(Code::Ok, 3, 2)]));
    assert_eq!(service.outcomes(Api::Envoy), [4, 0, 1, 0, 0]);
}

#[tokio::test]
async fn the_most_specific_descriptor_decides_and_unknown_ones_pass() {
    let service = Service::start(DOMAIN);
    let unlimited = service
        .ask(&about(&[descriptor(&[("address", "192.0.2.1")])]))
        .await;
    assert_eq!(said(&unlimited), (Code::Ok, vec![(Code::Ok, 0, u32::MAX)]));
    let nothing = service
        .ask(&about(&[descriptor(&[("address", "192.0.2.9")])]))
        .await;
    assert_eq!(said(&nothing), (Code::OverLimit, vec![(Code::OverLimit, 0, 0)]));
    // By the beginning of the value; each value has a limit of its own.
    for (address, code) in [
        ("10.0.0.1", Code::Ok),
        ("10.0.0.1", Code::OverLimit),
        ("10.0.0.2", Code::Ok),
    ] {
        assert_eq!(
            service
                .ask(&about(&[descriptor(&[("address", address)])]))
                .await
                .overall_code(),
            code
        );
    }
    for entries in [
        &[("unknown", "x")][..],
        // Deeper, or less deep, than what is configured.
        &[("all", ""), ("more", "")],
        &[("path", "/login")],
        &[("path", "/other"), ("address", "a")],
    ] {
        let response = service.ask(&about(&[descriptor(entries)])).await;
        assert_eq!(said(&response), (Code::Ok, vec![(Code::Ok, 0, 0)]), "{entries:?}");
    }
    let elsewhere = RateLimitRequest {
        domain: "other".to_owned(),
        ..about(&[descriptor(&[("all", "")])])
    };
    assert_eq!(service.ask(&elsewhere).await.overall_code(), Code::Ok);
    let nested = about(&[descriptor(&[("path", "/login"), ("address", "a")])]);
    assert_eq!(
        said(&service.ask(&nested).await),
        (Code::Ok, vec![(Code::Ok, 2, 1)])
    );
}

#[tokio::test]
async fn a_question_counts_in_all_descriptors_or_in_none() {
    let service = Service::start(DOMAIN);
    let both = about(&[
        descriptor(&[("all", "")]),
        descriptor(&[("path", "/login"), ("address", "a")]),
    ]);
    for left in [(3, 1), (2, 0)] {
        let response = service.ask(&both).await;
        assert_eq!(said(&response).1, [(Code::Ok, 4, left.0), (Code::Ok, 2, left.1)]);
    }
    for _ in 0..3 {
        let response = service.ask(&both).await;
        assert_eq!(
            said(&response),
            (Code::OverLimit, vec![(Code::Ok, 4, 2), (Code::OverLimit, 2, 0)])
        );
    }
    // The same descriptor twice costs twice, and what does not fit as a whole counts as nothing.
    let twice = about(&[descriptor(&[("all", "")]), descriptor(&[("all", "")])]);
    assert_eq!(
        said(&service.ask(&twice).await),
        (Code::Ok, vec![(Code::Ok, 4, 0); 2])
    );
    assert_eq!(service.ask(&twice).await.overall_code(), Code::OverLimit);
}

#[tokio::test]
async fn hits_are_of_the_question_or_the_descriptor_and_none_only_looks() {
    let service = Service::start(DOMAIN);
    let all = |hits: Option<u64>| RateLimitDescriptor {
        hits_addend: hits.map(|value| UInt64Value { value }),
        ..descriptor(&[("all", "")])
    };
    let of_question = RateLimitRequest {
        hits_addend: 2,
        ..about(&[all(None)])
    };
    assert_eq!(said(&service.ask(&of_question).await).1, [(Code::Ok, 4, 2)]);
    for _ in 0..2 {
        assert_eq!(
            said(&service.ask(&about(&[all(Some(0))])).await).1,
            [(Code::Ok, 4, 2)]
        );
    }
    assert_eq!(
        service.ask(&about(&[all(Some(3))])).await.overall_code(),
        Code::OverLimit
    );
    let overriding = RateLimitRequest {
        hits_addend: 9,
        ..about(&[all(Some(2))])
    };
    assert_eq!(said(&service.ask(&overriding).await).1, [(Code::Ok, 4, 0)]);
    assert_eq!(
        said(&service.ask(&about(&[all(Some(0))])).await).1,
        [(Code::OverLimit, 4, 0)]
    );
    // A look that denies keeps the others from being counted.
    let login = descriptor(&[("path", "/login"), ("address", "b")]);
    let mixed = service.ask(&about(&[all(Some(0)), login.clone()])).await;
    assert_eq!(
        said(&mixed),
        (Code::OverLimit, vec![(Code::OverLimit, 4, 0), (Code::Ok, 2, 2)])
    );
    assert_eq!(said(&service.ask(&about(&[login])).await).1, [(Code::Ok, 2, 1)]);
}

#[tokio::test]
async fn a_shadow_counts_and_denies_nobody() {
    let service = Service::start(DOMAIN);
    for left in [0, 0, 0] {
        let response = service.ask(&about(&[descriptor(&[("watched", "x")])])).await;
        assert_eq!(said(&response), (Code::Ok, vec![(Code::Ok, 1, left)]));
    }
    assert_eq!(service.service.metrics().snapshot().shadow_denied, 2);
    // What another descriptor denies is not counted here either.
    let denied = about(&[
        descriptor(&[("watched", "y")]),
        descriptor(&[("address", "192.0.2.9")]),
    ]);
    assert_eq!(
        said(&service.ask(&denied).await).1,
        [(Code::Ok, 1, 1), (Code::OverLimit, 0, 0)]
    );
}

#[tokio::test]
async fn what_cannot_be_answered_is_refused_by_name_and_counts_nothing() {
    let service = Service::start(DOMAIN);
    let all = descriptor(&[("all", "")]);
    let too_much = RateLimitRequest {
        hits_addend: 4097,
        ..about(std::slice::from_ref(&all))
    };
    let with_limit = RateLimitDescriptor {
        limit: Some(RateLimitOverride::default()),
        ..all.clone()
    };
    let no_domain = RateLimitRequest {
        domain: String::new(),
        ..about(std::slice::from_ref(&all))
    };
    for (request, words) in [
        (no_domain, "no domain"),
        (about(&[]), "no descriptor"),
        (about(&vec![all.clone(); 65]), "65 descriptors"),
        (about(&[descriptor(&[])]), "0 entries"),
        (about(&[descriptor(&[("", "x")])]), "no key"),
        (about(&[descriptor(&[("k", "x"); 17])]), "17 entries"),
        (about(&[with_limit]), "not supported"),
        (too_much, "4097 hits"),
    ] {
        let (status, message) = service.fault(&request).await;
        let message = message.replace("%20", " ");
        assert!(status == "3" && message.contains(words), "{status} {message}");
    }
    let (fields, _) = service.call(grpc::SHOULD_RATE_LIMIT, vec![0xff; 40], None).await;
    assert_ne!(fields["grpc-status"], "0");
    assert_eq!(service.outcomes(Api::Envoy), [0, 0, 0, 9, 0]);
    assert_eq!(said(&service.ask(&about(&[all])).await).1, [(Code::Ok, 4, 3)]);
}

#[tokio::test]
async fn a_question_without_rights_waits_for_them() {
    let yaml = format!("sync: {{mode: bounded}}\nbounded: {{wait: 10s, allow_long_windows: true}}\n{DOMAIN}");
    let mut service = Service::start(&yaml);
    let asking = about(&[descriptor(&[("all", "")])]);
    let granting = async {
        let short = loop {
            if let Some(short) = service.limiter.counters().take_wanted() {
                break short;
            }
            service.woken.recv().await.unwrap();
        };
        service.limiter.counters().raise_allowance(short.row, 1);
        service.limiter.waiting().rights_came(short.row, 1);
    };
    let address = service.service.address();
    let caller = tokio::spawn(async move {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head = "GET /v1/check?domain=edge&entry=all: HTTP/1.0\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    });
    granting.await;
    let answer = caller.await.unwrap();
    assert!(
        answer.starts_with("HTTP/1.0 200") && answer.contains("\"remaining\":3"),
        "{answer}"
    );
    // The peers say that nobody has any left.
    let limiter = Arc::clone(&service.limiter);
    let denying = async {
        let short = loop {
            if let Some(short) = limiter.counters().take_wanted() {
                break short;
            }
            tokio::task::yield_now().await;
        };
        limiter.waiting().exhausted(short.row);
    };
    let (response, ()) = tokio::join!(service.ask(&asking), denying);
    assert_eq!(response.overall_code(), Code::OverLimit);
    let snapshot = service.service.metrics().snapshot();
    assert_eq!(
        (snapshot.waits_started, snapshot.waits.iter().sum::<u64>()),
        (2, 2)
    );
    assert_eq!(
        (
            snapshot.denied_without_share,
            snapshot.wait_time.iter().sum::<u64>()
        ),
        (1, 2)
    );
}

#[tokio::test]
async fn whoever_has_not_the_token_learns_nothing_but_health() {
    let service =
        Service::start(&DOMAIN.replace("listen: 127.0.0.1:0", "listen: 127.0.0.1:0\n  token: secret"));
    let message = about(&[descriptor(&[("all", "")])]).encode_to_vec();
    for (token, status) in [(None, "16"), (Some("secre"), "16"), (Some("secret"), "0")] {
        let (fields, _) = service
            .call(grpc::SHOULD_RATE_LIMIT, message.clone(), token)
            .await;
        assert_eq!(fields["grpc-status"], status, "{token:?}");
    }
    assert_eq!(service.get("/v1/check?domain=edge&entry=all:").await.0, 401);
    let authorized = "GET /v1/check?domain=edge&entry=all: HTTP/1.1\r\nAuthorization: Bearer secret";
    assert!(service.http(authorized, "").await.0.starts_with("HTTP/1.1 200"));
    let (fields, health) = service.call(grpc::HEALTH_CHECK, Vec::new(), None).await;
    assert_eq!((fields["grpc-status"].as_str(), &health[..]), ("0", &[8, 1][..]));
    assert_eq!(
        (service.outcomes(Api::Envoy)[4], service.outcomes(Api::Check)[4]),
        (2, 1)
    );
}

#[tokio::test]
async fn another_configuration_comes_into_force_and_counts_stay() {
    let service = Service::start(DOMAIN);
    let all = about(&[descriptor(&[("all", "")])]);
    assert_eq!(said(&service.ask(&all).await).1, [(Code::Ok, 4, 3)]);
    let yaml = "node_id: a\nratelimit:\n  listen: 127.0.0.1:0\n  domains:\n    - domain: edge\n      descriptors:\n        \
                - {key: new, windows: [1/year]}\n        - {key: all, windows: [2/year]}\n";
    let config = Config::from_yaml("w.yaml", yaml).unwrap();
    service
        .limiter
        .set_rules(config.limits.rules.clone(), crate::admission::wall_clock());
    service.service.reload(&config);
    assert_eq!(said(&service.ask(&all).await).1, [(Code::Ok, 2, 0)]);
    assert_eq!(service.ask(&all).await.overall_code(), Code::OverLimit);
    let new = about(&[descriptor(&[("new", "")])]);
    assert_eq!(said(&service.ask(&new).await).1, [(Code::Ok, 1, 0)]);
    let gone = about(&[descriptor(&[("address", "192.0.2.9")])]);
    assert_eq!(service.ask(&gone).await.overall_code(), Code::Ok);
}

proptest! {
    #[test]
    fn no_bytes_of_a_caller_make_a_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        if let Ok(request) = RateLimitRequest::decode(&bytes[..]) {
            prop_assert_eq!(RateLimitRequest::decode(&request.encode_to_vec()[..]), Ok(request));
        }
        let _ = CheckRequest::from_json(&bytes);
        let query = String::from_utf8_lossy(&bytes);
        let _ = CheckRequest::from_query(&query, &http::HeaderMap::new());
    }
}
