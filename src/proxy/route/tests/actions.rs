//! What becomes of a path, and where a redirect leads.

use super::*;

/// The path and query that go upstream, or the URL of a redirect.
fn led_to(settings: &str, url: &str) -> String {
    let routes = routes(&format!("- {{name: r, {settings}}}\n"));
    let request = Request::new(url, &[]);
    let path = request.path();
    let router = Router::new(&routes);
    let hit = router.find(&request.wanted(&path)).expect("a route");
    let upstream = Config::from_yaml(
        "w",
        "node_id: a\nupstreams: [{name: app, targets: ['http://h:1']}]",
    );
    let upstreams = upstream.unwrap().upstreams;
    let hasher = crate::limit::IdentityHasher::new([0; 16]);
    let plan = ChargePlan::new(
        &crate::limit::Rules::new(Vec::new()),
        &routes[0],
        crate::limit::IpPrefixes::default(),
        &hasher,
    );
    let state = RouteState::new(&routes[0], &upstreams, plan);
    let asked = Asked {
        scheme: UrlScheme::Http,
        host: &request.host,
        path: &path,
        sent: Some(&request.target),
    };
    match state.step(hit.path, &asked, EscapedSlashes::Refuse) {
        Ok(Step::Forward(_, path)) => path.to_string(),
        Ok(Step::Answer(answer)) => answer.location().expect("a redirect").to_owned(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn a_path_is_rewritten_below_its_prefix_as_a_whole_or_by_a_pattern() {
    for (settings, url, expected) in [
        // Gateway API's table of ReplacePrefixMatch.
        (
            "path_prefix: /foo, rewrite: {prefix: /xyz}",
            "h/foo/bar",
            "/xyz/bar",
        ),
        (
            "path_prefix: /foo, rewrite: {prefix: /xyz/}",
            "h/foo/bar",
            "/xyz/bar",
        ),
        (
            "path_prefix: /foo/, rewrite: {prefix: /xyz}",
            "h/foo/bar",
            "/xyz/bar",
        ),
        ("path_prefix: /foo, rewrite: {prefix: /xyz}", "h/foo", "/xyz"),
        ("path_prefix: /foo, rewrite: {prefix: /xyz}", "h/foo/", "/xyz/"),
        ("path_prefix: /foo, rewrite: {prefix: /}", "h/foo/bar", "/bar"),
        ("path_prefix: /foo, rewrite: {prefix: /}", "h/foo/", "/"),
        ("path_prefix: /foo, rewrite: {prefix: /}", "h/foo", "/"),
        ("rewrite: {prefix: /xyz}", "h/", "/xyz/"),
        ("rewrite: {prefix: /xyz}", "h/a", "/xyz/a"),
        (
            "path_prefix: /foo, strip_prefix: true",
            "h/foo/bar?q=%2F/../",
            "/bar?q=%2F/../",
        ),
        // The prefix that matched, where there are several.
        (
            "matches: [{path_prefix: /a}, {path_prefix: /a/b}], strip_prefix: true",
            "h/a/b/c",
            "/c",
        ),
        ("rewrite: {path: /fixed/}", "h/a/b?c", "/fixed/?c"),
        (
            r"rewrite: {regex: '/u/(\d+)(/.*)?', replacement: '/users/$1$2'}",
            "h/u/7/x?y",
            "/users/7/x?y",
        ),
        (
            r"rewrite: {regex: '/u/(\d+)', replacement: '/users/$1'}",
            "h/u/7/x",
            "/u/7/x",
        ),
        // A replacement cannot be led out of its directory.
        (
            "rewrite: {regex: '/(.)x(.)/.*', replacement: '/files/$1$2/'}",
            "h/.x./a",
            "/",
        ),
        // Unchanged paths go in normal form; a query as it was sent.
        ("path_prefix: /", "h/a//b/../%7e?%7e//..", "/a/~?%7e//.."),
        ("path_prefix: /", "h/a?", "/a?"),
    ] {
        assert_eq!(
            led_to(&format!("upstream: app, {settings}"), url),
            expected,
            "{settings} {url}"
        );
    }
}

#[test]
fn a_redirect_changes_what_it_names_and_leaves_the_rest() {
    for (redirect, url, expected) in [
        ("scheme: https", "a.test/x?y", "https://a.test/x?y"),
        // Gateway API: the well-known port of the scheme, unless a port is given.
        ("scheme: https", "a.test:8080/x", "https://a.test/x"),
        (
            "scheme: https, port: 8443",
            "a.test:8080/x",
            "https://a.test:8443/x",
        ),
        ("scheme: https, port: 443", "a.test/x", "https://a.test/x"),
        ("host: b.test", "a.test:8080/x", "http://b.test:8080/x"),
        ("host: b.test", "a.test/x", "http://b.test/x"),
        ("port: 80", "a.test:8080/x", "http://a.test/x"),
        ("path: /new", "[::1]:8080/x?y", "http://[::1]:8080/new?y"),
        ("prefix: /new", "a.test/old/x", "http://a.test/new/old/x"),
        (
            "regex: '/(.*)', replacement: '/new/$1'",
            "a.test/old",
            "http://a.test/new/old",
        ),
        // What looks like another host stays a path of this one.
        ("scheme: https", "a.test//evil.test/%2e%2e", "https://a.test/"),
        ("path: /new", "/x", "/new"),
    ] {
        assert_eq!(
            led_to(&format!("redirect: {{{redirect}}}"), url),
            expected,
            "{redirect} {url}"
        );
    }
}
