//! What upstreams are told of a client: where it is, how it came, who it is. Pure.
//!
//! Anybody can write these fields; behind Weir they mean what Weir saw, or what a trusted proxy said.

use std::net::IpAddr;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use super::client_ip::{X_FORWARDED_FOR, hops, is_trusted};
use super::forwarded;
use crate::config::{ClientIpHeader, ProxyConfig, UrlScheme};

pub(super) const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
pub(super) const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
/// The client's certificate, in the format of Envoy.
pub(super) const X_FORWARDED_CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

const HTTP: HeaderValue = HeaderValue::from_static("http");
const HTTPS: HeaderValue = HeaderValue::from_static("https");

/// What a connection knows about its client, made once and used for each of its requests.
pub(super) struct Peer {
    /// The address of the other end: the socket's, or what a PROXY header says.
    pub(super) address: IpAddr,
    /// Whether it is a proxy whose forwarding headers are believed.
    pub(super) trusted: bool,
    /// `address` as a header value.
    pub(super) value: HeaderValue,
    /// `http` or `https`.
    scheme: HeaderValue,
    /// What upstreams are told of its certificate.
    certificate: Option<HeaderValue>,
    /// The header by which proxies name clients.
    names_clients: ClientIpHeader,
}

impl Peer {
    /// A client at `address` without TLS, as `config` sees it.
    pub(super) fn new(address: IpAddr, config: &ProxyConfig) -> Self {
        let address = address.to_canonical();
        Self {
            address,
            trusted: is_trusted(address, &config.trusted_proxies),
            value: HeaderValue::try_from(address.to_string()).expect("an address is visible ASCII"),
            scheme: HTTP,
            certificate: None,
            names_clients: config.client_ip_header,
        }
    }

    /// The same client over TLS, with what upstreams are told of its certificate.
    pub(super) fn over_tls(self, certificate: Option<HeaderValue>) -> Self {
        Self {
            scheme: HTTPS,
            certificate,
            ..self
        }
    }
}

/// The scheme that the client at `peer` used: what a trusted proxy says of it, else that of the connection.
pub(super) fn client_scheme(headers: &HeaderMap, peer: &Peer) -> UrlScheme {
    let said = match peer.names_clients {
        ClientIpHeader::XForwardedFor => headers.get(X_FORWARDED_PROTO).map(HeaderValue::as_bytes),
        ClientIpHeader::Forwarded => nearest_proto(headers),
    };
    match said.filter(|_| peer.trusted) {
        Some(proto) if proto.eq_ignore_ascii_case(b"https") => UrlScheme::Https,
        Some(proto) if proto.eq_ignore_ascii_case(b"http") => UrlScheme::Http,
        _ if peer.scheme == HTTPS => UrlScheme::Https,
        _ => UrlScheme::Http,
    }
}

/// The `proto` of the nearest element of `Forwarded`.
fn nearest_proto(headers: &HeaderMap) -> Option<&[u8]> {
    let line = headers.get_all(header::FORWARDED).iter().next_back()?;
    forwarded::elements(line.as_bytes()).next().flatten()?.proto
}

/// Tells the upstream of the client at `peer`, which asked for `host`.
pub(super) fn forward_client(headers: &mut HeaderMap, peer: &Peer, host: Option<&HeaderValue>) {
    if !peer.trusted {
        headers.remove(X_REAL_IP);
        headers.remove(X_FORWARDED_HOST);
        headers.remove(X_FORWARDED_CLIENT_CERT);
    }
    match peer.names_clients {
        ClientIpHeader::XForwardedFor => {
            // Proxies that keep the one header may pass on what clients say in the other.
            headers.remove(header::FORWARDED);
            append_forwarded_for(headers, peer);
            if peer.trusted {
                headers
                    .entry(X_FORWARDED_PROTO)
                    .or_insert_with(|| peer.scheme.clone());
            } else {
                headers.insert(X_FORWARDED_PROTO, peer.scheme.clone());
            }
        }
        ClientIpHeader::Forwarded => forward_by_elements(headers, peer, host),
    }
    if let Some(certificate) = &peer.certificate {
        append_certificate(headers, certificate);
    }
    if let Some(host) = host {
        headers.entry(X_FORWARDED_HOST).or_insert_with(|| host.clone());
    }
}

/// Joins all `X-Forwarded-For` lines and the peer's address in one line: many servers read only the
/// first.
fn append_forwarded_for(headers: &mut HeaderMap, peer: &Peer) {
    if !peer.trusted || !headers.contains_key(X_FORWARDED_FOR) {
        headers.insert(X_FORWARDED_FOR, peer.value.clone());
        return;
    }
    let mut joined = joined(headers, &X_FORWARDED_FOR);
    joined.extend_from_slice(b", ");
    joined.extend_from_slice(peer.value.as_bytes());
    insert(headers, X_FORWARDED_FOR, joined, &peer.value);
}

/// Extends `Forwarded`, and says the same in the fields that more upstreams read.
fn forward_by_elements(headers: &mut HeaderMap, peer: &Peer, host: Option<&HeaderValue>) {
    headers.remove(X_FORWARDED_HOST);
    let scheme = match client_scheme(headers, peer) {
        UrlScheme::Http => HTTP,
        UrlScheme::Https => HTTPS,
    };
    let (mut elements, mut addresses) = (Vec::new(), Vec::new());
    if peer.trusted {
        elements = joined(headers, &header::FORWARDED);
        addresses.extend(hops(headers, ClientIpHeader::Forwarded).map_while(|hop| hop));
    }
    addresses.reverse();
    let addresses = addresses
        .iter()
        .map(IpAddr::to_string)
        .chain([peer.address.to_string()]);
    let addresses: Vec<_> = addresses.collect();
    insert(
        headers,
        X_FORWARDED_FOR,
        addresses.join(", ").into_bytes(),
        &peer.value,
    );
    headers.insert(X_FORWARDED_PROTO, scheme);
    let host = host.map(HeaderValue::as_bytes);
    forwarded::append(&mut elements, peer.address, peer.scheme.as_bytes(), host);
    let own = HeaderValue::from_static("for=unknown");
    insert(headers, header::FORWARDED, elements, &own);
}

/// A trusted proxy may have had a certificate of its own client to tell of; this one is that of the nearest hop.
fn append_certificate(headers: &mut HeaderMap, certificate: &HeaderValue) {
    let mut value = joined(headers, &X_FORWARDED_CLIENT_CERT);
    if !value.is_empty() {
        value.push(b',');
    }
    value.extend_from_slice(certificate.as_bytes());
    insert(headers, X_FORWARDED_CLIENT_CERT, value, certificate);
}

/// All lines of a field as one (RFC 9110 §5.3).
fn joined(headers: &HeaderMap, name: &HeaderName) -> Vec<u8> {
    let lines: Vec<_> = headers.get_all(name).iter().map(HeaderValue::as_bytes).collect();
    lines.join(&b", "[..])
}

/// Lines that were valid are, joined, too.
fn insert(headers: &mut HeaderMap, name: HeaderName, value: Vec<u8>, otherwise: &HeaderValue) {
    let value = HeaderValue::from_maybe_shared(Bytes::from(value));
    headers.insert(name, value.unwrap_or_else(|_| otherwise.clone()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn peer(setting: &str, address: &str, tls: bool) -> Peer {
        let yaml = format!(
            "node_id: a\nupstreams: [{{name: up, targets: [http://h:1]}}]\n\
             proxy: {{trusted_proxies: [10.0.0.0/8], client_ip_header: {setting}}}"
        );
        let config = Config::from_yaml("test", &yaml).unwrap();
        let peer = Peer::new(address.parse().unwrap(), &config.proxy);
        if tls {
            return peer.over_tls(Some(HeaderValue::from_static("Hash=00")));
        }
        peer
    }

    fn told(setting: &str, address: &str, tls: bool, sent: &[(&'static str, &str)]) -> Vec<String> {
        let peer = peer(setting, address, tls);
        let mut headers = HeaderMap::new();
        for (name, value) in sent {
            headers.append(*name, value.parse().unwrap());
        }
        forward_client(&mut headers, &peer, Some(&HeaderValue::from_static("a.test")));
        let mut lines: Vec<_> = headers
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        lines.sort_unstable();
        lines
    }

    const FORGED: [(&str, &str); 7] = [
        ("forwarded", "for=6.6.6.6;proto=https"),
        ("x-forwarded-for", "6.6.6.6"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "evil.test"),
        ("x-forwarded-client-cert", "Hash=66;Subject=\"CN=admin\""),
        ("x-forwarded-client-cert", "Hash=67"),
        ("x-real-ip", "6.6.6.6"),
    ];

    #[test]
    fn nothing_that_a_stranger_says_of_itself_reaches_the_upstream() {
        assert_eq!(
            told("x-forwarded-for", "192.0.2.9", false, &FORGED),
            [
                "x-forwarded-for: 192.0.2.9",
                "x-forwarded-host: a.test",
                "x-forwarded-proto: http"
            ]
        );
        assert_eq!(
            told("forwarded", "2001:db8::9", true, &FORGED),
            [
                "forwarded: for=\"[2001:db8::9]\";host=\"a.test\";proto=https",
                "x-forwarded-client-cert: Hash=00",
                "x-forwarded-for: 2001:db8::9",
                "x-forwarded-host: a.test",
                "x-forwarded-proto: https",
            ]
        );
    }

    #[test]
    fn the_scheme_is_that_of_the_connection_unless_a_trusted_proxy_says_otherwise() {
        use UrlScheme::{Http, Https};
        for (setting, address, tls, sent, expected) in [
            (
                "x-forwarded-for",
                "192.0.2.9",
                false,
                ("x-forwarded-proto", "https"),
                Http,
            ),
            (
                "x-forwarded-for",
                "192.0.2.9",
                true,
                ("x-forwarded-proto", "http"),
                Https,
            ),
            (
                "x-forwarded-for",
                "10.0.0.1",
                false,
                ("x-forwarded-proto", "HTTPS"),
                Https,
            ),
            (
                "x-forwarded-for",
                "10.0.0.1",
                true,
                ("x-forwarded-proto", "http"),
                Http,
            ),
            (
                "x-forwarded-for",
                "10.0.0.1",
                true,
                ("x-forwarded-proto", "ftp"),
                Https,
            ),
            (
                "x-forwarded-for",
                "10.0.0.1",
                false,
                ("forwarded", "for=192.0.2.1;proto=https"),
                Http,
            ),
            (
                "forwarded",
                "10.0.0.1",
                false,
                ("forwarded", "for=192.0.2.1;proto=https"),
                Https,
            ),
            (
                "forwarded",
                "10.0.0.1",
                false,
                ("forwarded", "for=6.6.6.6;proto=https, for=10.0.0.2"),
                Http,
            ),
            (
                "forwarded",
                "10.0.0.1",
                false,
                ("x-forwarded-proto", "https"),
                Http,
            ),
            (
                "forwarded",
                "192.0.2.9",
                false,
                ("forwarded", "for=192.0.2.1;proto=https"),
                Http,
            ),
        ] {
            let (peer, mut headers) = (peer(setting, address, tls), HeaderMap::new());
            headers.insert(sent.0, sent.1.parse().unwrap());
            assert_eq!(
                client_scheme(&headers, &peer),
                expected,
                "{setting} {address} {tls} {sent:?}"
            );
        }
    }

    #[test]
    fn a_trusted_proxy_is_believed_by_the_header_that_it_keeps_and_by_no_other() {
        let sent = [
            ("x-forwarded-for", "203.0.113.1"),
            ("x-forwarded-for", "10.0.0.2"),
            ("forwarded", "for=203.0.113.7;proto=https"),
            ("forwarded", "for=203.0.113.8;proto=https, for=10.0.0.3"),
            ("x-forwarded-proto", "ftp"),
            ("x-forwarded-client-cert", "Hash=11"),
        ];
        assert_eq!(
            told("x-forwarded-for", "10.0.0.1", true, &sent),
            [
                "x-forwarded-client-cert: Hash=11,Hash=00",
                "x-forwarded-for: 203.0.113.1, 10.0.0.2, 10.0.0.1",
                "x-forwarded-host: a.test",
                "x-forwarded-proto: ftp",
            ]
        );
        assert_eq!(
            told("forwarded", "10.0.0.1", false, &sent),
            [
                "forwarded: for=203.0.113.7;proto=https, for=203.0.113.8;proto=https, for=10.0.0.3, \
                 for=10.0.0.1;host=\"a.test\";proto=http",
                "x-forwarded-client-cert: Hash=11",
                "x-forwarded-for: 203.0.113.7, 203.0.113.8, 10.0.0.3, 10.0.0.1",
                "x-forwarded-host: a.test",
                "x-forwarded-proto: http",
            ]
        );
        let hidden = [(
            "forwarded",
            "for=6.6.6.6, for=_x;proto=https, for=203.0.113.1;proto=https",
        )];
        assert_eq!(
            told("forwarded", "10.0.0.1", false, &hidden)[1..],
            [
                "x-forwarded-for: 203.0.113.1, 10.0.0.1",
                "x-forwarded-host: a.test",
                "x-forwarded-proto: https",
            ]
        );
    }
}
