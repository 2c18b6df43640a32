//! What happens to header fields on their way through, in both directions. Pure.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Version};
use smallvec::SmallVec;

use super::client_ip::X_FORWARDED_FOR;
use super::forwarding::{Peer, X_FORWARDED_CLIENT_CERT, X_FORWARDED_HOST, X_FORWARDED_PROTO, forward_client};

/// Names one request through all hops and logs.
pub(super) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Whole milliseconds that a request spent in Weir.
pub(super) const X_WEIR_PROXY_LATENCY: HeaderName = HeaderName::from_static("x-weir-proxy-latency");
/// Whole milliseconds from sending a request upstream to the head of its response.
pub(super) const X_WEIR_UPSTREAM_LATENCY: HeaderName = HeaderName::from_static("x-weir-upstream-latency");
/// The node that answered, with `debug_headers`.
pub(super) const X_WEIR_NODE: HeaderName = HeaderName::from_static("x-weir-node");
/// First millisecond of the window that a limited request counted in, with `debug_headers`.
pub(super) const X_WEIR_WINDOW: HeaderName = HeaderName::from_static("x-weir-window");

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

const VIA_HTTP11: HeaderValue = HeaderValue::from_static("1.1 weir");
const VIA_HTTP10: HeaderValue = HeaderValue::from_static("1.0 weir");
const VIA_HTTP2: HeaderValue = HeaderValue::from_static("2 weir");

/// Longest request id taken over from a client; longer ones would only bloat logs.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// Removes the fields that concern one connection only: those RFC 9110 §7.6.1 lists, and those that
/// `Connection` nominates.
pub(super) fn remove_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(header::CONNECTION) {
        for name in nominated(headers) {
            headers.remove(name);
        }
        headers.remove(header::CONNECTION);
    }
    headers.remove(KEEP_ALIVE);
    headers.remove(PROXY_CONNECTION);
    headers.remove(header::TE);
    headers.remove(header::TRANSFER_ENCODING);
    headers.remove(header::UPGRADE);
    headers.remove(HTTP2_SETTINGS);
}

/// Turns a client's header fields into those that go upstream. `host` is what the client asked for, and
/// stays the Host that the upstream sees.
pub(super) fn prepare_request(
    headers: &mut HeaderMap,
    version: Version,
    peer: &Peer,
    host: Option<&HeaderValue>,
    request_id: &HeaderValue,
) {
    let trailers = accepts_trailers(headers);
    remove_hop_by_hop(headers);
    if trailers {
        // RFC 9110 §10.1.4: whoever sends TE nominates it, so that the next hop drops or renews it.
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("te"));
    }
    // The server side of this connection has answered `100-continue` itself, before it reads the body.
    headers.remove(header::EXPECT);
    headers.append(header::VIA, via(version));
    forward_client(headers, peer, host);
    if let Some(host) = host {
        headers.insert(header::HOST, host.clone());
    }
    headers.insert(X_REQUEST_ID, request_id.clone());
}

/// The client's request id, if it may be taken over: from a trusted proxy, short and visible ASCII.
pub(super) fn client_request_id(headers: &HeaderMap, peer: &Peer) -> Option<HeaderValue> {
    let value = headers.get(X_REQUEST_ID).filter(|_| peer.trusted)?;
    let sane = (1..=REQUEST_ID_BYTES_MAX).contains(&value.len())
        && value.as_bytes().iter().all(u8::is_ascii_graphic);
    sane.then(|| value.clone())
}

/// The `Via` entry of a message that was received in `version` (RFC 9110 §7.6.3).
pub(super) fn via(version: Version) -> HeaderValue {
    match version {
        Version::HTTP_2 => VIA_HTTP2,
        Version::HTTP_10 => VIA_HTTP10,
        _ => VIA_HTTP11,
    }
}

/// Whether the request asks for a WebSocket (RFC 6455 §4.1). No other upgrade is tunnelled: `h2c` would
/// carry requests past the limits.
pub(super) fn wants_websocket<B>(request: &Request<B>) -> bool {
    let headers = request.headers();
    request.method() == Method::GET
        && request.version() == Version::HTTP_11
        && headers
            .get(header::UPGRADE)
            .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
        && tokens(headers, &header::CONNECTION).any(|token| token.eq_ignore_ascii_case(b"upgrade"))
}

/// Puts back the fields of a WebSocket handshake that hop-by-hop removal took.
pub(super) fn set_websocket(headers: &mut HeaderMap) {
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
}

/// Whether the body's transfer coding is one that Weir can pass on: none or `chunked` alone. Others
/// would be forwarded undecoded under another framing.
pub(super) fn transfer_coding_is_known(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(header::TRANSFER_ENCODING).iter();
    match (values.next(), values.next()) {
        (None, _) => true,
        (Some(only), None) => only.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked"),
        _ => false,
    }
}

/// Whether `host` has the characters of `host [":" port]` (RFC 3986 §3.2.2) only.
pub(super) fn host_is_valid(host: &[u8]) -> bool {
    let valid = |b: &u8| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:[]%".contains(b);
    !host.is_empty() && host.iter().all(valid)
}

/// The fields that `Connection` nominates, without those that are meant for all recipients or that hops
/// before this one vouch with: a client must not be able to strip them.
fn nominated(headers: &HeaderMap) -> SmallVec<[HeaderName; 4]> {
    let kept = [header::HOST, header::VIA, header::FORWARDED, X_FORWARDED_FOR];
    let kept_too = [
        X_FORWARDED_PROTO,
        X_FORWARDED_HOST,
        X_FORWARDED_CLIENT_CERT,
        X_REQUEST_ID,
        header::CONTENT_LENGTH,
    ];
    tokens(headers, &header::CONNECTION)
        .filter_map(|token| HeaderName::from_bytes(token).ok())
        .filter(|name| !kept.contains(name) && !kept_too.contains(name))
        .collect()
}

fn accepts_trailers(headers: &HeaderMap) -> bool {
    headers.contains_key(header::TE)
        && tokens(headers, &header::TE).any(|token| token.eq_ignore_ascii_case(b"trailers"))
}

fn tokens<'h>(headers: &'h HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'h [u8]> {
    let lines = headers.get_all(name).iter();
    lines
        .flat_map(|line| line.as_bytes().split(|&b| b == b','))
        .map(<[u8]>::trim_ascii)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(fields: &[(&'static str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &str)| {
            (
                HeaderName::from_static(name),
                HeaderValue::from_str(value).unwrap(),
            )
        };
        let mut map = HeaderMap::new();
        for (name, value) in fields.iter().map(pair) {
            map.append(name, value);
        }
        map
    }

    fn peer(trusted: bool) -> Peer {
        let networks = if trusted { "192.0.2.9" } else { "[]" };
        let yaml = format!(
            "node_id: a\nupstreams: [{{name: up, targets: [http://h:1]}}]\nproxy: {{trusted_proxies: {networks}}}"
        );
        let config = crate::config::Config::from_yaml("test", &yaml).unwrap();
        Peer::new("192.0.2.9".parse().unwrap(), &config.proxy)
    }

    fn prepared(fields: &[(&'static str, &str)], trusted: bool) -> HeaderMap {
        let mut headers = map(fields);
        let host = HeaderValue::from_static("a.test");
        let id = HeaderValue::from_static("id-1");
        prepare_request(&mut headers, Version::HTTP_11, &peer(trusted), Some(&host), &id);
        headers
    }

    #[test]
    fn connection_bound_fields_and_nominated_ones_do_not_pass() {
        let mut headers = map(&[
            ("connection", "close, X-Secret"),
            ("connection", "host,x-forwarded-for"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("te", "gzip"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("http2-settings", "AAMAAABk"),
            ("x-secret", "1"),
            ("x-kept", "2"),
            ("host", "a.test"),
            ("x-forwarded-for", "203.0.113.1"),
        ]);
        remove_hop_by_hop(&mut headers);
        let mut names: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["host", "x-forwarded-for", "x-kept"]);
    }

    #[test]
    fn a_stranger_cannot_claim_to_have_come_through_a_proxy() {
        let forged = [
            ("x-forwarded-for", "203.0.113.1"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "evil.test"),
            ("x-real-ip", "203.0.113.1"),
            ("forwarded", "for=203.0.113.1"),
            ("via", "1.1 other"),
        ];
        let headers = prepared(&forged, false);
        assert_eq!(headers["x-forwarded-for"], "192.0.2.9");
        assert_eq!(headers["x-forwarded-proto"], "http");
        assert_eq!(headers["x-forwarded-host"], "a.test");
        assert!(!headers.contains_key("x-real-ip") && !headers.contains_key("forwarded"));
        let via: Vec<_> = headers.get_all("via").iter().collect();
        assert_eq!(via, ["1.1 other", "1.1 weir"]);
    }

    #[test]
    fn a_trusted_proxy_is_believed_and_appended_to() {
        let fields = [
            ("x-forwarded-for", "203.0.113.1"),
            ("x-forwarded-for", "10.0.0.2"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "shop.test"),
            ("te", "trailers, deflate"),
            ("expect", "100-continue"),
        ];
        let headers = prepared(&fields, true);
        let chain: Vec<_> = headers.get_all("x-forwarded-for").iter().collect();
        assert_eq!(chain, ["203.0.113.1, 10.0.0.2, 192.0.2.9"]);
        assert_eq!(headers["x-forwarded-proto"], "https");
        assert_eq!(headers["x-forwarded-host"], "shop.test");
        assert_eq!(headers["te"], "trailers");
        assert_eq!(headers["connection"], "te");
        assert!(!headers.contains_key("expect"));
    }

    #[test]
    fn only_a_trusted_peer_names_the_request_and_only_sanely() {
        let long = "x".repeat(REQUEST_ID_BYTES_MAX + 1);
        let id = |value: &str, trusted| client_request_id(&map(&[("x-request-id", value)]), &peer(trusted));
        assert!(id("abc-1", true).is_some() && id(&long[1..], true).is_some());
        assert!(id("abc-1", false).is_none() && id(&long, true).is_none() && id("a b", true).is_none());
    }

    #[test]
    fn only_chunked_alone_is_a_known_transfer_coding() {
        assert!(transfer_coding_is_known(&map(&[])));
        assert!(transfer_coding_is_known(&map(&[(
            "transfer-encoding",
            " Chunked"
        )])));
        assert!(!transfer_coding_is_known(&map(&[(
            "transfer-encoding",
            "gzip, chunked"
        )])));
        let twice = [("transfer-encoding", "gzip"), ("transfer-encoding", "chunked")];
        assert!(!transfer_coding_is_known(&map(&twice)));
    }
}
