//! Routes on the wire: what clients and upstreams see of rewrites, redirects, fixed responses and header changes.

use super::*;

const EXAMPLE: &str = include_str!("../../../docs/examples/routing.yaml");

/// An upstream that names itself and mirrors what it got, with headers that a route may want to remove.
async fn named(name: &'static str) -> Upstream {
    Upstream::play(move |mut peer, _| async move {
        while let Some(request) = peer.head().await {
            let text = format!("{name} {}", request.head);
            let head = "HTTP/1.1 200 OK\r\nServer: secret/1.0\r\nX-Two: a\r\nX-Two: b\r\n";
            peer.send(&format!("{head}Content-Length: {}\r\n\r\n{text}", text.len()))
                .await;
        }
    })
    .await
}

fn quiet() -> OnDue {
    Arc::new(|| Box::pin(std::future::ready(())))
}

impl Gateway {
    /// A proxy with `routes` as the lines below the key, all in front of `upstream`.
    fn routing(upstream: SocketAddr, routes: &str) -> Self {
        Self::start(upstream, &format!("routes:\n{routes}\n"))
    }

    async fn get(&self, host: &str, target: &str, fields: &str) -> Message {
        let request = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{fields}\r\n");
        self.ask(&request).await
    }
}

/// What the upstream saw: its first line, behind its name.
fn seen(response: &Message) -> String {
    response.text().lines().next().unwrap_or_default().to_owned()
}

/// A field that the upstream saw.
fn seen_field(response: &Message, name: &str) -> Option<String> {
    let head = response.text().to_owned();
    Message {
        head,
        body: Vec::new(),
    }
    .field(name)
}

#[tokio::test]
async fn the_example_does_what_it_says() {
    let (app, canary) = (named("app").await, named("canary").await);
    let yaml = EXAMPLE
        .replace("node_id: a\nlisten: 127.0.0.1:8000\n", "")
        .replace("127.0.0.1:9000", &app.address.to_string())
        .replace("127.0.0.1:9001", &canary.address.to_string());
    let gateway = Gateway::start_with(&yaml, quiet());
    within(async {
        let moved = gateway.get("example.com", "/a?b=c", "").await;
        let location = moved.field("location");
        assert_eq!(
            (moved.status(), location.as_deref()),
            (301, Some("https://www.example.com/a?b=c"))
        );

        let robots = gateway.get("any.test", "/robots.txt", "").await;
        assert_eq!(
            (robots.status(), robots.text()),
            (200, "User-agent: *\nDisallow: /api/\n")
        );
        assert_eq!(robots.field("cache-control").as_deref(), Some("max-age=3600"));
        assert_eq!(
            robots.field("content-type").as_deref(),
            Some("text/plain; charset=utf-8")
        );

        let api = gateway
            .get(
                "eu.example.com",
                "/api/users?q",
                "X-Debug: 1\r\nX-Gateway: forged\r\n",
            )
            .await;
        assert_eq!(seen(&api), "app GET /users?q HTTP/1.1");
        assert_eq!(seen_field(&api, "x-gateway").as_deref(), Some("weir"));
        assert_eq!(seen_field(&api, "x-debug"), None);
        assert_eq!(seen_field(&api, "host").as_deref(), Some("eu.example.com"));
        assert_eq!(api.field("server"), None);
        assert!(api.field("strict-transport-security").is_some());

        for (target, fields) in [("/api/users", "X-Canary: yes\r\n"), ("/api/users?canary=1", "")] {
            let response = gateway.get("www.example.com", target, fields).await;
            assert!(
                seen(&response).starts_with("canary GET /v2/users"),
                "{}",
                seen(&response)
            );
            assert_eq!(seen_field(&response, "host").as_deref(), Some("canary.internal"));
            assert_eq!(
                seen_field(&response, "x-forwarded-host").as_deref(),
                Some("www.example.com")
            );
        }

        let article = gateway.get("any.test:8000", "/article-7.html", "").await;
        let location = article.field("location");
        assert_eq!(
            (article.status(), location.as_deref()),
            (308, Some("http://any.test:8000/articles/7"))
        );

        let file = gateway.get("any.test", "/users/ann/files/a/b.txt", "").await;
        assert_eq!(seen(&file), "app GET /files/ann/a/b.txt HTTP/1.1");
        assert_eq!(seen_field(&file, "host"), Some(app.address.to_string()));

        let site = gateway.get("any.test", "/x", "").await;
        assert_eq!(seen(&site), "app GET /x HTTP/1.1");
        assert_eq!(site.field("server").as_deref(), Some("secret/1.0"));

        let sign_in =
            "POST /api/session HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        let mut statuses = Vec::new();
        for _ in 0..6 {
            statuses.push(gateway.ask(sign_in).await.status());
        }
        assert_eq!(statuses, [200, 200, 200, 200, 200, 429]);
    })
    .await;
}

#[tokio::test]
async fn the_path_that_routes_see_is_the_path_that_goes_upstream() {
    let app = named("app").await;
    let gateway = Gateway::routing(
        app.address,
        "- {name: admin, path_prefix: /admin, respond: {status: 403}}\n- {name: all, upstream: up}",
    );
    within(async {
        for (target, forwarded) in [
            ("/a/./b/../%7e?q=/../%2F", "/a/~?q=/../%2F"),
            ("//x///y", "/x/y"),
            ("/caf%c3%a9", "/caf%C3%A9"),
            ("/../../etc", "/etc"),
            ("http://other.test/a/../b", "/b"),
            ("http://other.test?q", "/?q"),
        ] {
            let response = gateway.get("h", target, "").await;
            assert_eq!(
                seen(&response),
                format!("app GET {forwarded} HTTP/1.1"),
                "{target}"
            );
        }
        for target in [
            "/admin",
            "/x/../admin/y",
            "//admin",
            "/%61dmin",
            "/./%61dmin/",
            "/x/%2e%2e/admin",
        ] {
            assert_eq!(gateway.get("h", target, "").await.status(), 403, "{target}");
        }
        for target in [
            "/x/..%2fadmin",
            "/x%5c..%5Cadmin",
            "/x\\..\\admin",
            "/admin%00",
            "/%",
            "/%zz",
        ] {
            assert_eq!(gateway.get("h", target, "").await.status(), 400, "{target}");
        }
    })
    .await;
    let yaml = "routing:\n  escaped_slashes: pass\n";
    let gateway = Gateway::start(app.address, yaml);
    within(async {
        let response = gateway.get("h", "/group%2fproject/a%5cb", "").await;
        assert_eq!(seen(&response), "app GET /group%2Fproject/a%5Cb HTTP/1.1");
        assert_eq!(gateway.get("h", "/a%00", "").await.status(), 400);
    })
    .await;
}

#[tokio::test]
async fn every_spelling_of_a_path_is_one_to_its_limit() {
    let app = named("app").await;
    let gateway = Gateway::start(app.address, "rules:\n  - {name: r, by: path, windows: 2/year}\n");
    within(async {
        let mut statuses = Vec::new();
        for target in ["/a/b", "/a//b", "/x/../%61/b", "/a/c"] {
            statuses.push(gateway.get("h", target, "").await.status());
        }
        assert_eq!(statuses, [200, 200, 429, 200]);
    })
    .await;
}

#[tokio::test]
async fn a_route_without_an_upstream_is_limited_like_any_other() {
    let app = named("app").await;
    let rules = "rules:\n  - {name: all, windows: 2/year}\n  - {name: up, by: upstream, windows: 1/year}\n";
    let gateway = Gateway::start(
        app.address,
        &format!(
            "{rules}routes:\n- {{name: f, respond: {{status: 503, body: closed}}, response_headers: {{set: {{retry-after: '60', X-A: b}}}}}}\n"
        ),
    );
    within(async {
        for (status, limited) in [(503, "1"), (503, "0"), (429, "0")] {
            let response = gateway.get("h", "/", "").await;
            assert_eq!(response.status(), status);
            assert_eq!(response.field("ratelimit-remaining").as_deref(), Some(limited));
            // Errors of Weir's own stay as they are on every route.
            assert_eq!(response.field("x-a").is_some(), status == 503);
            assert_eq!(response.field("via").as_deref(), Some("1.1 weir"));
            assert!(response.field("x-request-id").is_some());
        }
    })
    .await;
    assert_eq!(app.connections(), 0);
}

#[tokio::test]
async fn a_fixed_response_has_the_form_that_its_status_and_the_method_allow() {
    let app = named("app").await;
    let gateway = Gateway::routing(
        app.address,
        "- {name: json, path: /json, respond: {status: 201, body: '{}', content_type: application/json}}\n\
         - {name: none, path: /none, respond: {status: 204}}\n\
         - {name: empty, path: /empty, respond: {}}\n\
         - {name: moved, path: /moved, redirect: {path: /new}}",
    );
    within(async {
        let mut client = gateway.connect().await;
        // One connection: a wrong length would garble the next response.
        for (request, status, length, content_type) in [
            ("GET /json", 201, Some("2"), Some("application/json")),
            ("HEAD /json", 201, Some("2"), Some("application/json")),
            ("GET /none", 204, None, None),
            ("GET /empty", 200, Some("0"), None),
            ("DELETE /moved", 302, Some("0"), None),
            ("GET /json", 201, Some("2"), Some("application/json")),
        ] {
            client
                .send(&format!("{request} HTTP/1.1\r\nHost: a\r\n\r\n"))
                .await;
            let mut response = client.head().await.unwrap();
            if !request.starts_with("HEAD")
                && let Some(length) = length
            {
                response.body = client.exactly(length.parse().unwrap()).await;
            }
            assert_eq!(response.status(), status, "{request}");
            assert_eq!(response.field("content-length").as_deref(), length, "{request}");
            assert_eq!(
                response.field("content-type").as_deref(),
                content_type,
                "{request}"
            );
        }
    })
    .await;
}

#[tokio::test]
async fn header_changes_see_neither_what_the_client_nominates_nor_each_other() {
    let app = named("app").await;
    let gateway = Gateway::routing(
        app.address,
        "- name: r\n  upstream: up\n  \
           request_headers: {set: {X-Set: ours}, add: {X-Add: [b, c]}, remove: X-Gone}\n  \
           response_headers: {set: {X-Two: c}, add: {Server: weir}, remove: [Date]}",
    );
    within(async {
        let fields = "Connection: X-Set, X-Add\r\nX-Set: forged\r\nX-Add: a\r\nX-Gone: 1\r\nX-Gone: 2\r\n";
        let request = format!("GET / HTTP/1.1\r\nHost: h\r\n{fields}\r\n");
        let response = gateway.ask(&request).await;
        assert_eq!(seen_field(&response, "x-set").as_deref(), Some("ours"));
        assert_eq!(seen_field(&response, "x-add").as_deref(), Some("b|c"));
        assert_eq!(seen_field(&response, "x-gone"), None);
        assert_eq!(response.field("x-two").as_deref(), Some("c"));
        assert_eq!(response.field("server").as_deref(), Some("secret/1.0|weir"));
    })
    .await;
}

#[tokio::test]
async fn a_gateway_that_only_redirects_has_no_upstream_and_keeps_the_scheme_that_a_trusted_proxy_reports() {
    within(async {
        for (trusted, location) in [("127.0.0.1", "https://h/new"), ("10.0.0.1", "http://h/new")] {
            let proxy = format!("proxy:\n  trusted_proxies: [{trusted}]\n");
            let yaml = format!("{proxy}routes: [{{name: r, redirect: {{path: /new}}}}]\n");
            let gateway = Gateway::start_with(&yaml, quiet());
            let response = gateway.get("h", "/", "X-Forwarded-Proto: https\r\n").await;
            assert_eq!(response.field("location").as_deref(), Some(location), "{trusted}");
        }
    })
    .await;
}

#[tokio::test]
async fn no_field_that_weir_sends_of_its_own_accord_can_be_configured() {
    let app = named("app").await;
    let proxy = "proxy:\n  debug_headers: true\n  trusted_proxies: [10.0.0.1]\n";
    let limit = "rules: [{name: r, windows: [8/minute, 9/hour]}]\n";
    let yaml = format!(
        "{proxy}{limit}upstreams: [{{name: up, targets: ['http://{}']}}]\n",
        app.address
    );
    let gateway = Gateway::start_with(&yaml, quiet());
    let response = within(gateway.ask("GET / HTTP/1.1\r\nHost: h\r\nTE: trailers\r\n\r\n")).await;
    let of_upstream = ["server", "x-two", "date"];
    let mut own = 0;
    for head in [response.text(), &response.head] {
        let names = head.lines().skip(1).filter_map(|line| line.split_once(':'));
        for (name, _) in names.filter(|(name, _)| !of_upstream.contains(&&*name.to_lowercase())) {
            let route =
                format!("routes: [{{name: r, upstream: up, response_headers: {{set: {{{name}: x}}}}}}]");
            let refused = Config::from_yaml("w", &format!("node_id: a\n{yaml}{route}"));
            assert!(refused.is_err(), "{name} can be set");
            own += 1;
        }
    }
    // Host, Via, TE, Connection, three X-Forwarded, the request id; and back: the framing, Via, two latencies,
    // node, window, request id, and seven of the limit.
    assert!(own >= 20, "{own} in {}{}", response.text(), response.head);
}
