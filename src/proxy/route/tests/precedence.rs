//! The order of precedence, case by case. Beside each case stands the sentence that decides it; those in quotes
//! are of Gateway API's `HTTPRouteRule.matches` and `HTTPRouteSpec.hostnames`.

use super::*;

/// Each route carries the name of what is special about it.
const ROUTES: &str = r#"
- {name: catch-all, upstream: app}
- {name: api, upstream: app, path_prefix: /api}
- {name: api-v1, upstream: app, path_prefix: /api/v1/}
- {name: api-exact, upstream: app, path: /api/v1/users}
- {name: api-slash, upstream: app, path: /api/v1/users/}
- {name: api-regex, upstream: app, path_regex: "/api/v[0-9]+/users(/[0-9]+)?"}
- {name: api-post, upstream: app, path_prefix: /api, methods: [POST, PUT]}
- {name: api-beta, upstream: app, path_prefix: /api, headers: {X-Version: beta}}
- {name: api-beta-de, upstream: app, path_prefix: /api, headers: {x-version: beta, accept-language: {regex: "de.*"}}}
- {name: api-debug, upstream: app, path_prefix: /api, query: {debug: {present: true}}}
- {name: api-debug-deep, upstream: app, path_prefix: /api, query: {debug: {present: true}, depth: {regex: "[0-9]+"}}}
- {name: api-beta-debug, upstream: app, path_prefix: /api, headers: {x-version: beta}, query: {debug: {present: true}}}
- {name: regex-first, upstream: app, path_regex: "/items/[a-z]+"}
- {name: regex-second, upstream: app, path_regex: "/items/.*"}
- {name: regex-delete, upstream: app, path_regex: "/items/[a-z]+.*", methods: DELETE}
- {name: either, upstream: app, matches: [{path: /one}, {path_prefix: /two, methods: GET}, {headers: {x-three: ""}}]}
- {name: shop, upstream: app, hosts: shop.test}
- {name: shop-api, upstream: app, hosts: [shop.test, "*.shop.test"], path_prefix: /api}
- {name: any-shop, upstream: app, hosts: "*.shop.test", path_prefix: /cart}
- {name: any-eu-shop, upstream: app, hosts: "*.eu.shop.test", path_prefix: /cart}
- {name: v6, upstream: app, hosts: "[::1]"}
- {name: first, upstream: app, path_prefix: /same, headers: {x-a: "1"}}
- {name: second, upstream: app, path_prefix: /same, headers: {x-b: "1"}}
- {name: root, upstream: app, path: /}
- {name: encoded, upstream: app, path: /caf%c3%a9}
"#;

type Case<'c> = (&'c str, &'c [(&'c str, &'c str)], &'c str);

#[test]
fn the_most_specific_match_takes_the_request() {
    let beta = ("x-version", "beta");
    let cases: &[Case<'_>] = &[
        // "Exact" path match goes first.
        ("h/api/v1/users", &[], "api-exact"),
        ("h/api/v1/users/", &[], "api-slash"),
        // ... whatever else a prefix matches.
        ("POST h/api/v1/users?debug", &[beta], "api-exact"),
        ("h/", &[], "root"),
        // A regular expression stands between the two, and matches the whole path or nothing.
        ("h/api/v1/users/7", &[], "api-regex"),
        ("h/api/v9/users", &[], "api-regex"),
        ("h/api/v1/users/7/x", &[], "api-v1"),
        // "Prefix" path match with largest number of characters.
        ("h/api/v1", &[], "api-v1"),
        ("h/api/v1/x", &[], "api-v1"),
        ("h/api/v2", &[], "api"),
        ("h/api/", &[], "api"),
        // ... whatever else a shorter one matches.
        ("POST h/api/v1/x", &[beta], "api-v1"),
        // "matched by path element": no part of a segment is a prefix.
        ("h/apis", &[], "catch-all"),
        ("h/api/v10", &[], "api"),
        ("h/API", &[], "catch-all"),
        // Method match.
        ("POST h/api", &[], "api-post"),
        ("PUT h/api", &[beta], "api-post"),
        ("PATCH h/api", &[], "api"),
        // Largest number of header matches.
        ("h/api", &[beta], "api-beta"),
        (
            "h/api",
            &[("X-Version", "beta"), ("accept-language", "de-CH")],
            "api-beta-de",
        ),
        (
            "h/api?debug&depth=3",
            &[("x-version", "beta"), ("accept-language", "de")],
            "api-beta-de",
        ),
        // Values compare with case and as a whole, of any line.
        ("h/api", &[("x-version", "Beta")], "api"),
        ("h/api", &[("x-version", "beta2")], "api"),
        ("h/api", &[("x-version", "alpha"), beta], "api-beta"),
        ("h/api", &[beta, ("accept-language", "en, de")], "api-beta"),
        // Largest number of query param matches.
        ("h/api?debug", &[], "api-debug"),
        ("h/api?a=1&debug=&b", &[], "api-debug"),
        ("h/api?debug=1&depth=12", &[], "api-debug-deep"),
        ("h/api?debug=1&depth=x", &[], "api-debug"),
        ("h/api?Debug", &[], "api"),
        // Encoded names and values mean the same; of several the first counts.
        ("h/api?%64ebug&depth=%31", &[], "api-debug-deep"),
        ("h/api?debug&depth=x&depth=1", &[], "api-debug"),
        ("h/api?debug", &[beta], "api-beta-debug"),
        // Among regular expressions: the method, then the order of the configuration.
        ("h/items/abc", &[], "regex-first"),
        ("h/items/1", &[], "regex-second"),
        ("DELETE h/items/abc", &[], "regex-delete"),
        ("DELETE h/items/1", &[], "regex-second"),
        // One of several matches is enough, each with the rank of its own.
        ("POST h/one", &[], "either"),
        ("h/two/x", &[], "either"),
        ("POST h/two/x", &[], "catch-all"),
        ("h/else", &[("x-three", "")], "either"),
        ("h/else", &[("x-three", "3")], "catch-all"),
        // "Characters in a matching non-wildcard hostname", before any path.
        ("shop.test/", &[], "shop"),
        ("shop.test/api/v1/users", &[], "shop-api"),
        ("shop.test/cart", &[], "shop"),
        // Case, port and the root's dot do not matter.
        ("SHOP.Test:8080/x", &[], "shop"),
        ("shop.test./x", &[], "shop"),
        ("[::1]:80/x", &[], "v6"),
        ("[::1]/x", &[], "v6"),
        // "Characters in a matching hostname": the longer wildcard; "*.example.com" matches any labels before it
        // and not the name itself.
        ("a.shop.test/cart/1", &[], "any-shop"),
        ("a.b.shop.test/cart", &[], "any-shop"),
        ("a.eu.shop.test/cart", &[], "any-eu-shop"),
        ("eu.shop.test/cart", &[], "any-shop"),
        ("A.EU.shop.test.:1/cart", &[], "any-eu-shop"),
        ("xshop.test/cart", &[], "catch-all"),
        // What the routes of a host do not take falls through to those of the next.
        ("a.eu.shop.test/api", &[], "shop-api"),
        ("a.shop.test/api/v1/users", &[], "shop-api"),
        ("a.shop.test/x", &[], "catch-all"),
        // "the FIRST matching rule (in list order)".
        ("h/same", &[("x-b", "1"), ("x-a", "1")], "first"),
        ("h/same", &[("x-b", "1")], "second"),
        // Paths compare in normal form, on both sides.
        ("h/%61pi//x/../v1/./users", &[], "api-exact"),
        ("h/api/v1/users%2F", &[], "api-v1"),
        ("h/caf%C3%a9", &[], "encoded"),
        ("h//", &[], "root"),
        // A host that is no name at all.
        ("/x", &[], "catch-all"),
        (".shop.test/cart", &[], "any-shop"),
    ];
    let routes = routes(ROUTES);
    let router = Router::new(&routes);
    for (line, fields, expected) in cases {
        let request = Request::new(line, fields);
        assert_eq!(
            request.route(&router, &routes),
            Some(*expected),
            "{line} {fields:?}"
        );
    }
}

#[test]
fn what_no_match_takes_has_no_route() {
    let routes = routes(
        "- {name: a, upstream: app, hosts: a.test, path_prefix: /x}\n\
         - {name: b, upstream: app, path: /y, methods: GET}\n\
         - {name: c, upstream: app, path_regex: '/z[0-9]'}\n",
    );
    let router = Router::new(&routes);
    for line in ["a.test/", "b.test/x", "POST h/y", "h/y/", "h/z", "h/z1/", "h/"] {
        assert_eq!(Request::new(line, &[]).route(&router, &routes), None, "{line}");
    }
    let long = format!("{}a.test/x", "x.".repeat(200));
    assert_eq!(Request::new(&long, &[]).route(&router, &routes), None);
}
