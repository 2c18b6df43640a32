//! What the access log says of requests.

use std::sync::mpsc::{Receiver, channel};

use super::super::AccessLog;
use super::*;
use crate::config::AccessLogFormat;

/// Hands every line to the test.
struct Lines(std::sync::mpsc::Sender<Vec<u8>>);

impl std::io::Write for Lines {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        let _ = self.0.send(line.to_vec());
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

pub(super) fn logged(upstream: SocketAddr, more: &str) -> (Gateway, Receiver<Vec<u8>>) {
    let (lines, written) = channel();
    let log = AccessLog::writing(Lines(lines), AccessLogFormat::Json, 1000);
    let upstream = format!("upstreams:\n  - name: up\n    targets: [http://{upstream}]\n");
    let shared = wired(
        &with_head(&format!("{upstream}{more}")),
        Arc::new(|| Box::pin(std::future::ready(()))),
    );
    (Gateway::serve(shared.with_access_log(Some(log))), written)
}

pub(super) fn next(lines: &Receiver<Vec<u8>>) -> serde_json::Value {
    let line = lines.recv_timeout(PATIENCE).expect("a line is written");
    serde_json::from_slice(&line).unwrap()
}

#[tokio::test]
async fn every_request_has_one_line_that_says_what_became_of_it() {
    let upstream = Upstream::play(|mut peer, _| async move {
        while let Some(request) = peer.head().await {
            let answer = match request.head.contains("/broken") {
                true => "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf",
                false => "HTTP/1.1 201 Created\r\nContent-Length: 5\r\n\r\nhello",
            };
            peer.send(answer).await;
            if request.head.contains("/broken") {
                return;
            }
        }
    })
    .await;
    let rules =
        "routes: [{name: api, path_prefix: /a, upstream: up}]\nrules: [{name: few, windows: [2/year]}]\n";
    let (gateway, lines) = logged(upstream.address, rules);
    within(async {
        let mut client = gateway.connect().await;
        client
            .send("GET /a?b=%22c HTTP/1.1\r\nHost: h.test\r\nX-Forwarded-For: 192.0.2.9\r\nUser-Agent: t\"1\r\n\r\n")
            .await;
        assert_eq!(client.receive().await.status(), 201);
    })
    .await;
    let line = next(&lines);
    for (field, value) in [
        ("client", "127.0.0.1".into()),
        ("method", "GET".into()),
        ("host", "h.test".into()),
        ("protocol", "HTTP/1.1".into()),
        ("status", 201.into()),
        ("bytes", 5.into()),
        ("complete", true.into()),
        ("route", "api".into()),
        ("limit", "admitted".into()),
        ("user_agent", "t\"1".into()),
        ("refusal", serde_json::Value::Null),
    ] {
        assert_eq!(line[field], value, "{field} of {line}");
    }
    assert!(line["upstream_ms"].as_f64() <= line["duration_ms"].as_f64());

    // An upstream that breaks off, a denial, and a request without a route.
    let ask = async |path: &str| {
        let mut client = gateway.connect().await;
        client
            .send(&format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"))
            .await;
        let head = client.head().await.map(|head| head.status());
        while head == Some(200) && client.fill().await {}
        head
    };
    let table = [
        (
            "/a/broken",
            200,
            false,
            "admitted".into(),
            serde_json::Value::Null,
        ),
        ("/a", 429, true, "denied".into(), "few".into()),
        ("/b", 404, true, serde_json::Value::Null, serde_json::Value::Null),
    ];
    for (path, status, complete, limit, rule) in table {
        assert_eq!(within(ask(path)).await, Some(status));
        let line = next(&lines);
        assert_eq!(
            (&line["status"], &line["complete"]),
            (&status.into(), &complete.into()),
            "{line}"
        );
        assert_eq!((&line["limit"], &line["rule"]), (&limit, &rule), "{line}");
        assert_eq!(line["refusal"].is_null(), status == 200, "{line}");
    }
    gateway.proxy.stop(Duration::ZERO).await;
    drop(gateway.shared);
    assert!(lines.recv_timeout(PATIENCE).is_err(), "one line for each request");
}

/// Writes nothing until it is let go.
struct Stuck(Receiver<()>);

impl std::io::Write for Stuck {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        let _ = self.0.recv();
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn requests_do_not_wait_for_a_log_that_cannot_be_written() {
    let upstream = Upstream::mirror().await;
    let (go, waits) = channel();
    let upstreams = format!(
        "upstreams:\n  - name: up\n    targets: [http://{}]\n",
        upstream.address
    );
    let shared = wired(
        &with_head(&upstreams),
        Arc::new(|| Box::pin(std::future::ready(()))),
    );
    let log = AccessLog::writing(Stuck(waits), AccessLogFormat::Text, 1000);
    let gateway = Gateway::serve(shared.with_access_log(Some(log)));
    within(async {
        for _ in 0..50 {
            let response = gateway.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
            assert_eq!(response.status(), 200);
        }
    })
    .await;
    drop(go);
}

#[tokio::test]
async fn the_example_writes_every_second_request_to_its_file() {
    const EXAMPLE: &str = include_str!("../../../docs/examples/access-log.yaml");
    let upstream = Upstream::mirror().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.json");
    let yaml = EXAMPLE
        .replace("127.0.0.1:8000", "127.0.0.1:0")
        .replace("127.0.0.1:9000", &upstream.address.to_string())
        .replace("/var/log/weir/access.json", path.to_str().unwrap());
    let shared = wired(&yaml, Arc::new(|| Box::pin(std::future::ready(()))));
    let log = AccessLog::open(&shared.config().access_log).unwrap();
    let gateway = Gateway::serve(shared.with_access_log(log));
    within(async {
        let mut client = gateway.connect().await;
        for number in 0..100 {
            client
                .send(&format!("GET /{number} HTTP/1.1\r\nHost: shop.test\r\n\r\n"))
                .await;
            assert_eq!(client.receive().await.status(), 200);
        }
    })
    .await;
    gateway.proxy.stop(Duration::ZERO).await;
    // The last to hold it writes what waits.
    drop(gateway.shared);
    let text = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    // All or none of a hundred throws of a coin happens once in 10^29 times.
    assert!((1..100).contains(&lines.len()), "{} lines", lines.len());
    for line in lines {
        assert_eq!(
            (&line["route"], &line["host"]),
            (&"site".into(), &"shop.test".into()),
            "{line}"
        );
        assert_eq!(
            (&line["status"], &line["limit"]),
            (&200.into(), &"admitted".into()),
            "{line}"
        );
    }
}
