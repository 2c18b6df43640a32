//! What is said of routes that cannot be.

use super::{errors, with_base};
use crate::config::Config;

/// What is said of `settings` of a route that leads to the upstream.
fn wrong(settings: &str) -> Vec<String> {
    errors(&with_base(&format!(
        "routes: [{{name: r, upstream: app, {settings}}}]"
    )))
}

#[test]
fn each_wrong_part_of_a_route_is_reported_with_its_remedy() {
    for (settings, expected) in [
        (
            "hosts: '*'",
            "w.yaml:3:42: routes[0].hosts: `*` is no host; write a name such as `example.com`, \
             or `*.example.com` for all below it, without scheme or port",
        ),
        (
            "hosts: 'a.*.test'",
            "w.yaml:3:42: routes[0].hosts: `a.*.test` is no host; write a name such as `example.com`, \
             or `*.example.com` for all below it, without scheme or port",
        ),
        (
            "path: /a/../b",
            "w.yaml:3:41: routes[0].path: `/a/../b` is no path; begin with `/`, such as `/api`",
        ),
        (
            "path: '/a%zz'",
            "w.yaml:3:41: routes[0].path: `/a%zz` is no path: \
             the request's path has a percent sign without two hexadecimal digits",
        ),
        (
            "path_prefix: /a%2Fb",
            "w.yaml:3:48: routes[0].path_prefix: no request has `/a%2Fb`: encoded slashes are refused; \
             set `routing.escaped_slashes: pass`, or change the path",
        ),
        (
            "path: /a, path_prefix: /b",
            "w.yaml:3:45: routes[0].path_prefix: a match has `path` or `path_prefix`, not both; keep one of the two",
        ),
        (
            "path_regex: '/a('",
            "w.yaml:3:47: routes[0].path_regex: `/a(` is no regular expression: unclosed group",
        ),
        (
            "methods: [GET, post]",
            "w.yaml:3:50: routes[0].methods[1]: `post` is no method; write `POST`",
        ),
        (
            "methods: TRACE",
            "w.yaml:3:44: routes[0].methods: TRACE is refused before it is routed",
        ),
        (
            "headers: {Host: a}",
            "w.yaml:3:45: routes[0].headers.Host: requests are matched by their host in `hosts`; use `hosts`",
        ),
        (
            "headers: {x-a: '1', X-A: '2'}",
            "w.yaml:3:55: routes[0].headers.X-A: given twice; keep one of the two",
        ),
        (
            "headers: {x-a: {present: false}}",
            "w.yaml:3:60: routes[0].headers.x-a.present: absence is no condition; write `present: true`",
        ),
        (
            "query: {q: {}}",
            "w.yaml:3:46: routes[0].query.q: no condition; write a value, `present: true` or `regex: …`",
        ),
        (
            "query: {q: {regex: a, exact: b}}",
            "w.yaml:3:47: routes[0].query.q.regex: a condition has `exact` or `regex`, not both; keep one of the two",
        ),
        (
            "path: /a, matches: [{path: /b}]",
            "w.yaml:3:45: routes[0].matches: a route has conditions of its own or `matches`, not both; \
             move them into an element of `matches`",
        ),
        (
            "matches: []",
            "w.yaml:3:44: routes[0].matches: has no elements; give at least one, or remove the key",
        ),
        (
            "redirect: {path: /a}",
            "w.yaml:3:35: routes[0].redirect: a route has `upstream` or `redirect`, not both; keep one of the two",
        ),
        (
            "path: /a, strip_prefix: true",
            "w.yaml:3:59: routes[0].strip_prefix: no prefix has matched where a route matches by `path` or \
             `path_regex`; match by `path_prefix`, or rewrite by `path` or `regex`",
        ),
        (
            "strip_prefix: true, rewrite: {path: /a}",
            "w.yaml:3:49: routes[0].strip_prefix: `strip_prefix` and `rewrite` both change the path; \
             keep one of the two",
        ),
        (
            "preserve_host: true, rewrite: {host: a}",
            "w.yaml:3:50: routes[0].preserve_host: `preserve_host` and `rewrite.host` both say what Host is sent; \
             keep one of the two",
        ),
        (
            "rewrite: {host: 'u@a'}",
            "w.yaml:3:51: routes[0].rewrite.host: `u@a` is no host; write HOST or HOST:PORT, such as `app.internal`",
        ),
        (
            "rewrite: {}",
            "w.yaml:3:44: routes[0].rewrite: rewrites nothing; give `prefix`, `path`, `regex` or `host`",
        ),
        (
            "rewrite: {regex: '/(.*)', replacement: '/$2'}",
            "w.yaml:3:74: routes[0].rewrite.replacement: `/(.*)` has no group `2`",
        ),
        (
            "rewrite: {regex: '/(.*)', replacement: 'https://a/$1'}",
            "w.yaml:3:74: routes[0].rewrite.replacement: a path begins with `/` and has no `?` or `#`; \
             begin with `/`, such as `/v2/$1`",
        ),
        (
            "rewrite: {regex: '/(.*)'}",
            "w.yaml:3:44: routes[0].rewrite.replacement: missing; \
             say what stands in the place of what `regex` matches",
        ),
        (
            "rewrite: {replacement: /a}",
            "w.yaml:3:45: routes[0].rewrite.replacement: there is no `regex` whose match it replaces; \
             give `regex`, or use `path`",
        ),
        (
            "request_headers: {set: {Connection: close}}",
            "w.yaml:3:59: routes[0].request_headers.set.Connection: \
             `connection` concerns one connection or the form of a message; \
             remove it; Weir sends what is right for each connection",
        ),
        (
            "request_headers: {set: {host: a}}",
            "w.yaml:3:59: routes[0].request_headers.set.host: `host` is not changed as other fields are; \
             use `rewrite.host` or `preserve_host`",
        ),
        (
            "response_headers: {remove: X-RateLimit-Limit-Minute}",
            "w.yaml:3:62: routes[0].response_headers.remove: \
             in `x-ratelimit-limit-minute` Weir says what it saw and did; remove it, or choose another name",
        ),
        (
            "response_headers: {set: {x-a: \"b\\r\\nc: d\"}}",
            "w.yaml:3:65: routes[0].response_headers.set.x-a: `b\u{fffd}\u{fffd}c: d` is no value of a header field; \
             use visible ASCII, and no space at its ends",
        ),
        (
            "response_headers: {set: {x-a: b}, remove: [x-a]}",
            "w.yaml:3:78: routes[0].response_headers.remove[0]: \
             `x-a` is changed in routes[0].response_headers.set.x-a as well; keep one of the two",
        ),
        (
            "response_headers: {set: {x-a: [b, c]}}",
            "w.yaml:3:60: routes[0].response_headers.set.x-a: a field is set to one value; use `add` for several lines",
        ),
    ] {
        assert_eq!(wrong(settings), [expected], "{settings}");
    }
}

#[test]
fn each_wrong_redirect_and_fixed_response_is_reported() {
    for (settings, expected) in [
        (
            "redirect: {status: 301}",
            "w.yaml:3:30: routes[0].redirect: leads to where it came from; \
             give `scheme`, `host`, `port`, `path`, `prefix` or `regex`",
        ),
        (
            "redirect: {status: 304, path: /a}",
            "w.yaml:3:39: routes[0].redirect.status: `304` does not redirect; use 301, 302, 303, 307 or 308",
        ),
        (
            "redirect: {scheme: htps}",
            "w.yaml:3:39: routes[0].redirect.scheme: `htps` is neither `http` nor `https`; did you mean `https`?",
        ),
        (
            "redirect: {host: '*.a.test'}",
            "w.yaml:3:37: routes[0].redirect.host: `*.a.test` is no host; \
             write a name such as `example.com`, without scheme or port",
        ),
        (
            "redirect: {path: /a}, strip_prefix: true",
            "w.yaml:3:42: routes[0].strip_prefix: only a route to an upstream has this; remove it",
        ),
        (
            "respond: {status: 101}",
            "w.yaml:3:38: routes[0].respond.status: `101` is out of range; use 200 to 599",
        ),
        (
            "respond: {status: 204, body: a}",
            "w.yaml:3:49: routes[0].respond.body: a response of status 204 has no body; remove it",
        ),
    ] {
        let text = with_base(&format!("routes: [{{name: r, {settings}}}]"));
        assert_eq!(errors(&text), [expected], "{settings}");
    }
}

#[test]
fn two_routes_that_would_take_the_same_requests_are_an_error_and_others_are_not() {
    let routes = |one: &str, other: &str| {
        with_base(&format!(
            "routes: [{{name: r, upstream: app, {one}}}, {{name: s, upstream: app, {other}}}]"
        ))
    };
    for (one, other, problem) in [
        (
            "path: /a",
            "path: /%61",
            "matches any host and the path `/a`, as route `r` does",
        ),
        (
            "path_prefix: /a",
            "path_prefix: /a/",
            "matches any host and `/a`, as route `r` does",
        ),
        (
            "hosts: [a.test, '*.b.test'], methods: [GET, PUT], query: {q: '1'}",
            "hosts: '*.B.test', methods: [PUT, GET], query: {q: '1'}",
            "matches `*.b.test` and `/` (GET, PUT, ?\"q\"=\"1\"), as route `r` does",
        ),
    ] {
        let errors = errors(&routes(one, other));
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert!(
            errors[0].contains(&format!("routes[1].name: {problem}; ")),
            "{errors:?}"
        );
    }
    for (one, other) in [
        ("path: /a", "path_prefix: /a"),
        ("path: /a", "path: /a/"),
        ("hosts: a.test", "hosts: '*.a.test'"),
        ("headers: {x-a: b}", "headers: {x-a: {regex: b}}"),
        ("methods: GET", "methods: [GET, PUT]"),
    ] {
        assert!(
            Config::from_yaml("w.yaml", &routes(one, other)).is_ok(),
            "{one}, {other}"
        );
    }
}

#[test]
fn what_routes_cost_is_bounded() {
    let many = |count: usize, one: &str| {
        (0..count)
            .map(|n| one.replace('N', &n.to_string()))
            .collect::<String>()
    };
    for (settings, problem) in [
        (
            format!("matches: [{}]", many(65, "{path: /N}, ")),
            "65 matches are too many; keep at most 64",
        ),
        (
            format!("headers: {{{}}}", many(17, "x-N: a, ")),
            "17 conditions are too many; keep at most 16",
        ),
        (
            format!(
                "hosts: [{}], matches: [{}]",
                many(1000, "hN.test, "),
                many(64, "{path: /N}, ")
            ),
            "",
        ),
    ] {
        let errors = Config::from_yaml(
            "w",
            &with_base(&format!("routes: [{{name: r, upstream: app, {settings}}}]")),
        );
        let text = errors.err().map_or(String::new(), |errors| errors.to_string());
        assert!(
            text.contains(problem) && text.is_empty() == problem.is_empty(),
            "{text}"
        );
    }
    let routes = |hosts: usize, matches: &str| {
        let route = format!(
            "{{name: rN, upstream: app, hosts: [{}], matches: [{matches}]}}, ",
            many(hosts, "hN.test, ")
        );
        with_base(&format!(
            "routes: [{}]",
            (0..2)
                .map(|n| route.replace("rN", &format!("r{n}")))
                .collect::<String>()
        ))
    };
    let text = routes(1000, &many(64, "{path: /N}, "));
    let errors = Config::from_yaml("w", &text).unwrap_err().to_string();
    assert!(
        errors.contains("128000 pairs of a host and a match are too many; keep at most 100000"),
        "{errors}"
    );
    let patterns = (0..257).map(|n| format!("- {{name: r{n}, upstream: app, path_regex: /{n}}}\n"));
    let text = with_base(&format!("routes:\n{}", patterns.collect::<String>()));
    let errors = Config::from_yaml("w", &text).unwrap_err().to_string();
    assert!(
        errors.contains("257 regular expressions are too many; keep at most 256"),
        "{errors}"
    );
}
