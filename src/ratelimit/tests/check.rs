//! The same over plain HTTP.

use super::*;

#[tokio::test]
async fn a_check_counts_in_the_rules_of_the_file_as_the_gateway_does() {
    let rules = "rules:\n  - {name: ips, by: ip, windows: [2/year]}\n  - {name: keys, by: 'header:x-k', windows: [2/year]}\n  \
                 - {name: paths, by: path, windows: [2/year]}\n  - {name: all, by: all, windows: [9/year], hits: 3}\n  \
                 - {name: routes, by: route, windows: [2/year]}\n";
    let service = Service::start(&format!("{DOMAIN}{rules}"));
    for (target, left) in [
        ("rule=ips&key=2001:db8::1", 1),
        // Of the same /64.
        ("rule=ips&key=2001:db8::2", 0),
        ("rule=ips&key=192.0.2.1", 1),
        ("rule=ips&key=::ffff:192.0.2.1", 0),
        ("rule=paths&key=/a/../b", 1),
        ("rule=paths&key=/b", 0),
        ("rule=keys&key=%00%26hits%3D0", 1),
        ("rule=all", 6),
        ("rule=all&hits=1", 5),
        ("rule=all&hits=0", 5),
    ] {
        let (status, answer) = service.get(&format!("/v1/check?{target}")).await;
        assert_eq!(
            (status, answer["remaining"].as_u64()),
            (200, Some(left)),
            "{target} {answer}"
        );
    }
    let (head, body) = service
        .http(
            "GET /v1/check?rule=ips&key=192.0.2.1&denied_status=403 HTTP/1.1",
            "",
        )
        .await;
    assert!(
        head.starts_with("HTTP/1.1 403") && head.contains("\r\nretry-after: "),
        "{head}"
    );
    assert!(
        body.contains(r#""allowed":false,"rule":"ips","limit":2,"remaining":0"#),
        "{body}"
    );
    assert!(body.contains(r#""reason":"limit""#), "{body}");
    let (head, body) = service
        .http("POST /v1/check HTTP/1.1", r#"{"rule":"keys","key":"k","hits":2}"#)
        .await;
    assert!(
        head.starts_with("HTTP/1.1 200") && head.contains("x-ratelimit-remaining-year: 0"),
        "{head} {body}"
    );
    for (target, status, words) in [
        ("rule=none", 404, "no rule `none`"),
        ("rule=ips", 400, "give the key"),
        ("rule=ips&key=x", 400, "no address"),
        ("rule=paths&key=%2Fa%252Fb", 400, "the key is none"),
        ("rule=routes&key=x", 400, "only a forwarded request"),
        ("rule=ips&key=1.1.1.1&hits=-1", 400, "whole number"),
        ("rule=all&hits=5000", 400, "5000 hits"),
    ] {
        let (found, answer) = service.get(&format!("/v1/check?{target}")).await;
        let message = answer["message"].as_str().unwrap_or_default();
        assert!(
            found == status && message.contains(words),
            "{target}: {found} {message}"
        );
    }
}

#[tokio::test]
async fn descriptors_are_checked_over_http_too() {
    let service = Service::start(DOMAIN);
    let (status, answer) = service
        .get("/v1/check?domain=edge&entry=path:/login&entry=address:a:b")
        .await;
    assert_eq!(
        (status, answer["rule"].as_str()),
        (200, Some("edge/path=%2Flogin/address"))
    );
    let body = r#"{"domain":"edge","descriptors":[{"entries":[{"key":"path","value":"/login"},{"key":"address","value":"a:b"}]}]}"#;
    let (_, answer) = service.http("POST /v1/check HTTP/1.1", body).await;
    assert!(answer.contains("\"remaining\":0"), "{answer}");
    let (head, answer) = service
        .http(
            "GET /v1/check?domain=edge&entry=path:/login&entry=address HTTP/1.1\r\nX-Weir-Key: a:b",
            "",
        )
        .await;
    assert!(head.starts_with("HTTP/1.1 429"), "{head} {answer}");
    let (status, answer) = service.get("/v1/check?domain=edge&entry=unknown:x").await;
    assert_eq!(
        (status, answer.to_string().as_str()),
        (200, r#"{"allowed":true}"#)
    );
    assert_eq!(service.outcomes(Api::Check), [2, 1, 1, 0, 0]);
    for (head, body, status) in [
        ("PUT /v1/check HTTP/1.1", "", "405"),
        ("POST /v1/check HTTP/1.1", "{", "400"),
        ("POST /v1/check HTTP/1.1", r#"{"rule":"a","domain":"b"}"#, "400"),
        ("GET /v2/check HTTP/1.1", "", "404"),
        (
            "POST /envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit HTTP/1.1",
            "",
            "404",
        ),
        ("POST /v1/check HTTP/1.1", &"x".repeat(70_000), "413"),
    ] {
        let (answer, _) = service.http(head, body).await;
        assert_eq!(&answer[9..12], status, "{head}");
    }
}
