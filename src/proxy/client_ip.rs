//! Whose request it is: the socket's peer, or the client that trusted proxies say they speak for.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName};
use ipnet::IpNet;

/// The de-facto list of addresses a request came through, nearest hop last.
pub(super) const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Whether `address` belongs to a proxy whose forwarding headers are believed.
pub(super) fn is_trusted(address: IpAddr, trusted: &[IpNet]) -> bool {
    trusted.iter().any(|net| net.contains(&address))
}

/// The client's address: `peer` itself unless it is trusted, else the rightmost address of
/// `X-Forwarded-For` that is not.
///
/// Each hop appends the address it saw, so everything left of the rightmost untrusted address was written
/// by somebody who may lie. An entry that is no address ends the walk: nothing left of it can be vouched
/// for. When all are trusted, the leftmost is the client.
pub(super) fn client_ip(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let mut nearest = peer.to_canonical();
    if !is_trusted(nearest, trusted) {
        return nearest;
    }
    for line in headers.get_all(X_FORWARDED_FOR).iter().rev() {
        for entry in line.as_bytes().rsplit(|&b| b == b',') {
            let Some(address) = parse_entry(entry) else {
                return nearest;
            };
            nearest = address;
            if !is_trusted(nearest, trusted) {
                return nearest;
            }
        }
    }
    nearest
}

/// Reads `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]` and `[2001:db8::1]:80`.
fn parse_entry(entry: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(entry).ok()?.trim_matches([' ', '\t']);
    let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
    let address = bare.unwrap_or(text).parse::<IpAddr>();
    let address = address.or_else(|_| text.parse::<SocketAddr>().map(|socket| socket.ip()));
    address.ok().map(|ip| ip.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(peer: &str, lines: &[&str]) -> String {
        let trusted: Vec<IpNet> = ["10.0.0.0/8", "fd00::/8"].map(|net| net.parse().unwrap()).into();
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(X_FORWARDED_FOR, line.parse().unwrap());
        }
        client_ip(peer.parse().unwrap(), &headers, &trusted).to_string()
    }

    #[test]
    fn the_rightmost_untrusted_address_is_the_client() {
        let table: &[(&str, &[&str], &str)] = &[
            // An untrusted peer is the client whatever it claims.
            ("192.0.2.9", &["203.0.113.1"], "192.0.2.9"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &["203.0.113.1"], "203.0.113.1"),
            // What the client itself wrote stands left of what the first trusted proxy saw.
            ("10.0.0.1", &["198.51.100.7, 203.0.113.1"], "203.0.113.1"),
            (
                "10.0.0.1",
                &["198.51.100.7", "203.0.113.1, 10.2.2.2"],
                "203.0.113.1",
            ),
            // All trusted: the one furthest away.
            ("10.0.0.1", &["10.3.3.3, 10.2.2.2"], "10.3.3.3"),
            // Nothing beyond an unreadable entry can be vouched for.
            ("10.0.0.1", &["203.0.113.1, unknown, 10.2.2.2"], "10.2.2.2"),
            ("10.0.0.1", &["203.0.113.1,"], "10.0.0.1"),
            // Ports, brackets, mapped addresses.
            ("10.0.0.1", &["203.0.113.1:4711"], "203.0.113.1"),
            ("10.0.0.1", &["[2001:db8::1]:4711"], "2001:db8::1"),
            ("fd00::1", &["[2001:db8::1]"], "2001:db8::1"),
            ("::ffff:10.0.0.1", &["::ffff:203.0.113.1"], "203.0.113.1"),
        ];
        for (peer, lines, expected) in table {
            assert_eq!(resolve(peer, lines), *expected, "peer {peer}, lines {lines:?}");
        }
    }
}
