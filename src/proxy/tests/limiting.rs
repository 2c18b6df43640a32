//! What the limits do to a request on its way.

use std::sync::Mutex;

use super::*;

const GET: &str = "GET /p HTTP/1.1\r\nHost: a\r\n\r\n";

/// A rule of two requests in a window that no test outlasts.
fn two_per_year(by: &str) -> String {
    format!("rules:\n  - name: r\n    by: {by}\n    windows: [2/year]\n")
}

#[tokio::test]
async fn the_request_over_the_limit_is_denied_in_kongs_words_and_never_goes_upstream() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    let upstream = Upstream::play(move |mut peer, _| {
        let counter = Arc::clone(&counter);
        async move {
            while peer.head().await.is_some() {
                counter.fetch_add(1, SeqCst);
                peer.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
            }
        }
    })
    .await;
    let proxy = "proxy:\n  debug_headers: true\n";
    let up = format!(
        "upstreams:\n  - name: up\n    targets: [http://{}]\n",
        upstream.address
    );
    let gateway = Gateway::start_with(
        &format!("{proxy}{up}{}", two_per_year("ip")),
        Arc::new(|| Box::pin(std::future::ready(()))),
    );
    within(async {
        for remaining in ["1", "0"] {
            let response = gateway.ask(GET).await;
            assert_eq!(response.status(), 200);
            assert_eq!(response.field("x-ratelimit-limit-year").as_deref(), Some("2"));
            assert_eq!(
                response.field("x-ratelimit-remaining-year").as_deref(),
                Some(remaining)
            );
            assert_eq!(response.field("retry-after"), None);
            assert_eq!(response.field("x-weir-node").as_deref(), Some("n1"));
        }
        let denied = gateway.ask(GET).await;
        assert_eq!(denied.status(), 429);
        assert_eq!(denied.json()["message"], "API rate limit exceeded");
        assert_eq!(denied.field("x-ratelimit-remaining-year").as_deref(), Some("0"));
        assert_eq!(denied.field("retry-after"), denied.field("ratelimit-reset"));
        let window = denied.field("x-weir-window").unwrap().parse::<u64>().unwrap();
        assert!(window > 0 && denied.field("x-weir-node").is_some());
        let html = gateway
            .ask("GET / HTTP/1.1\r\nHost: a\r\nAccept: text/html\r\n\r\n")
            .await;
        assert!(html.text().contains("<h1>API rate limit exceeded</h1>"));
    })
    .await;
    let metrics = gateway.metrics();
    assert_eq!((metrics.admitted, metrics.denied), (2, 2));
    assert_eq!(asked.load(SeqCst), 2);
}

#[tokio::test]
async fn a_failed_upstream_does_not_hide_the_limits_and_hidden_limits_stay_hidden() {
    let refusing = refusing().await;
    let response = within(Gateway::start(refusing, &two_per_year("all")).ask(GET)).await;
    assert_eq!(response.status(), 502);
    assert_eq!(response.field("ratelimit-remaining").as_deref(), Some("1"));

    let hidden = format!("limits:\n  hide_headers: true\n{}", two_per_year("all"));
    let gateway = Gateway::start(refusing, &hidden);
    within(async {
        for status in [502, 502, 429] {
            let response = gateway.ask(GET).await;
            assert_eq!(response.status(), status);
            let shown = ["ratelimit-limit", "x-ratelimit-limit-year", "retry-after"];
            assert!(
                shown.iter().all(|name| response.field(name).is_none()),
                "{}",
                response.head
            );
        }
    })
    .await;
}

#[tokio::test]
async fn each_rule_counts_by_what_it_names() {
    let upstream = Upstream::mirror().await;
    let ask = |fields: &str, path: &str| format!("GET {path} HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
    let statuses = async |gateway: &Gateway, requests: &[String]| {
        let mut statuses = Vec::new();
        for request in requests {
            statuses.push(gateway.ask(request).await.status());
        }
        statuses
    };
    within(async {
        // A missing header counts by address; the header's own values each for themselves.
        let gateway = Gateway::start(upstream.address, &two_per_year("header:x-key"));
        let (a, b) = (ask("X-Key: a\r\n", "/"), ask("X-Key: b\r\n", "/"));
        let none = ask("", "/");
        let requests = [&a, &a, &a, &b, &none, &none, &none, &b].map(Clone::clone);
        assert_eq!(statuses(&gateway, &requests).await, [200, 200, 429, 200, 200, 200, 429, 200]);

        // An encoded path is the same path.
        let gateway = Gateway::start(upstream.address, &two_per_year("path"));
        let requests = ["/p", "/%70", "/p?x=1", "/q"].map(|path| ask("", path));
        assert_eq!(statuses(&gateway, &requests).await, [200, 200, 429, 200]);

        // Only a trusted peer speaks for others.
        let requests = ["203.0.113.1", "203.0.113.1", "203.0.113.1", "203.0.113.2"]
            .map(|client| ask(&format!("X-Forwarded-For: {client}\r\n"), "/"));
        let gateway = Gateway::start(upstream.address, &two_per_year("ip"));
        assert_eq!(statuses(&gateway, &requests).await, [200, 200, 429, 429]);
        let yaml = format!(
            "proxy:\n  trusted_proxies: [127.0.0.0/8]\nupstreams:\n  - name: up\n    targets: [http://{}]\n{}",
            upstream.address,
            two_per_year("ip")
        );
        let gateway = Gateway::start_with(&yaml, Arc::new(|| Box::pin(std::future::ready(()))));
        assert_eq!(statuses(&gateway, &requests).await, [200, 200, 429, 200]);
    })
    .await;
}

#[tokio::test]
async fn a_rule_of_one_route_leaves_the_others_alone() {
    let upstream = Upstream::mirror().await;
    let routes =
        "routes:\n  - name: all\n    upstream: up\n  - name: p\n    path_prefix: /p\n    upstream: up\n";
    let gateway = Gateway::start(
        upstream.address,
        &format!("{routes}{}    route: p\n", two_per_year("route")),
    );
    within(async {
        for (path, status) in [("/p/1", 200), ("/p/2", 200), ("/p/3", 429), ("/q", 200)] {
            let response = gateway
                .ask(&format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"))
                .await;
            assert_eq!(
                (response.status(), response.field("ratelimit-limit").is_some()),
                (status, path != "/q")
            );
        }
    })
    .await;
}

#[tokio::test]
async fn peers_are_told_before_the_upstream_is_asked() {
    let order = Arc::new(Mutex::new(Vec::new()));
    let (announced, asked) = (Arc::clone(&order), Arc::clone(&order));
    let upstream = Upstream::play(move |mut peer, _| {
        let asked = Arc::clone(&asked);
        async move {
            peer.head().await;
            asked.lock().unwrap().push("asked");
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
        }
    })
    .await;
    let up = format!(
        "upstreams:\n  - name: up\n    targets: [http://{}]\n",
        upstream.address
    );
    let on_due: OnDue = Arc::new(move || {
        announced.lock().unwrap().push("announced");
        Box::pin(std::future::ready(()))
    });
    let gateway = Gateway::start_with(&format!("{up}{}", two_per_year("ip")), on_due);
    assert_eq!(within(gateway.ask(GET)).await.status(), 200);
    assert_eq!(*order.lock().unwrap(), ["announced", "asked"]);
}
