//! Whose request it is: the socket's peer, or the client that trusted proxies say they speak for. Pure.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, header};
use ipnet::IpNet;

use super::forwarded::{bare_node, elements};
use crate::config::ClientIpHeader;

/// The de-facto list of addresses a request came through, nearest hop last.
pub(super) const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Whether `address` belongs to a proxy whose forwarding headers are believed.
pub(super) fn is_trusted(address: IpAddr, trusted: &[IpNet]) -> bool {
    trusted.iter().any(|net| net.contains(&address))
}

/// The client's address: `peer` itself unless it is trusted, else the rightmost address of `header` that is not.
///
/// Each hop appends the address it saw, so everything left of the rightmost untrusted address was written
/// by somebody who may lie. An entry that is no address ends the walk: nothing left of it can be vouched
/// for. When all are trusted, the leftmost is the client. IPv4-mapped IPv6 addresses are the IPv4 ones.
#[must_use]
pub fn client_ip(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet], header: ClientIpHeader) -> IpAddr {
    let mut nearest = peer.to_canonical();
    if !is_trusted(nearest, trusted) {
        return nearest;
    }
    for address in hops(headers, header) {
        let Some(address) = address else {
            return nearest;
        };
        nearest = address;
        if !is_trusted(nearest, trusted) {
            return nearest;
        }
    }
    nearest
}

/// The addresses that `header` lists, the nearest hop first; `None` for an entry that is none. Several lines are one
/// list (RFC 9110 §5.3).
pub(super) fn hops(headers: &HeaderMap, header: ClientIpHeader) -> impl Iterator<Item = Option<IpAddr>> {
    let (by_list, by_element) = match header {
        ClientIpHeader::XForwardedFor => (Some(headers.get_all(X_FORWARDED_FOR)), None),
        ClientIpHeader::Forwarded => (None, Some(headers.get_all(header::FORWARDED))),
    };
    let lists = by_list.into_iter().flat_map(|lines| lines.iter().rev());
    let entries = lists.flat_map(|line| line.as_bytes().rsplit(|&b| b == b',').map(bare_node));
    let lines = by_element.into_iter().flat_map(|lines| lines.iter().rev());
    let nodes = lines.flat_map(|line| elements(line.as_bytes()).map(|one| one.map(|one| one.client)));
    entries.chain(nodes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn trusted() -> Vec<IpNet> {
        ["10.0.0.0/8", "fd00::/8"].map(|net| net.parse().unwrap()).into()
    }

    fn resolve(header: ClientIpHeader, peer: &str, lines: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(header.name(), line.parse().unwrap());
        }
        client_ip(peer.parse().unwrap(), &headers, &trusted(), header).to_string()
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
            let found = resolve(ClientIpHeader::XForwardedFor, peer, lines);
            assert_eq!(found, *expected, "peer {peer}, lines {lines:?}");
        }
    }

    #[test]
    fn forwarded_is_walked_the_same_way() {
        let table: &[(&str, &[&str], &str)] = &[
            ("192.0.2.9", &["for=203.0.113.1"], "192.0.2.9"),
            (
                "10.0.0.1",
                &["for=198.51.100.7, for=203.0.113.1;proto=https"],
                "203.0.113.1",
            ),
            (
                "10.0.0.1",
                &["for=198.51.100.7", "for=203.0.113.1, for=10.2.2.2"],
                "203.0.113.1",
            ),
            ("10.0.0.1", &["for=\"[2001:db8::1]:4711\""], "2001:db8::1"),
            ("10.0.0.1", &["for=\"[::ffff:203.0.113.1]\""], "203.0.113.1"),
            (
                "10.0.0.1",
                &["for=198.51.100.7, for=_hidden, for=10.2.2.2"],
                "10.2.2.2",
            ),
            ("10.0.0.1", &["for=198.51.100.7, for=unknown"], "10.0.0.1"),
            ("10.0.0.1", &["for=10.3.3.3, proto=http"], "10.0.0.1"),
            // A quote that the client never closes does not hide what the proxy appends.
            (
                "10.0.0.1",
                &["for=\"198.51.100.7, for=203.0.113.1"],
                "203.0.113.1",
            ),
            // The other header says nothing here.
            ("10.0.0.1", &[], "10.0.0.1"),
        ];
        for (peer, lines, expected) in table {
            let found = resolve(ClientIpHeader::Forwarded, peer, lines);
            assert_eq!(found, *expected, "peer {peer}, lines {lines:?}");
        }
    }

    fn claim() -> impl Strategy<Value = String> {
        let pieces = prop::sample::select(vec![
            "6.6.6.6",
            "10.1.1.1",
            "[::1]",
            "2001:db8::6",
            "\"",
            "\\",
            ",",
            ";",
            "=",
            "for=",
            "for=\"",
            "host=\"",
            "proto=",
            "unknown",
            "_x",
            " ",
            "\t",
            ":80",
            "[",
            "]",
        ]);
        prop_oneof![
            prop::collection::vec(pieces, 0..12).prop_map(|pieces| pieces.concat()),
            "[ -~]{0,40}",
        ]
    }

    proptest! {
        #[test]
        fn what_an_untrusted_client_sends_never_becomes_its_identity(
            claims in prop::collection::vec(claim(), 0..4),
            hops in 1usize..4,
            same_line in any::<bool>(),
            v6 in any::<bool>(),
        ) {
            let client: IpAddr = if v6 { "2001:db8::9".parse().unwrap() } else { "192.0.2.9".parse().unwrap() };
            for header in [ClientIpHeader::XForwardedFor, ClientIpHeader::Forwarded] {
                let mut headers = HeaderMap::new();
                for claim in &claims {
                    headers.append(header.name(), claim.parse().unwrap());
                }
                // Untouched on the way, nothing that the client says counts.
                prop_assert_eq!(client_ip(client, &headers, &trusted(), header), client);
                // Trusted proxies append whom they heard, to the last line or as a line of their own.
                let mut heard = client;
                for hop in 0..hops {
                    let mut lines: Vec<Vec<u8>> =
                        headers.get_all(header.name()).iter().map(|line| line.as_bytes().to_vec()).collect();
                    let mut last = if same_line { lines.pop().unwrap_or_default() } else { Vec::new() };
                    match header {
                        ClientIpHeader::XForwardedFor => {
                            let comma = if last.is_empty() { "" } else { ", " };
                            last.extend_from_slice(format!("{comma}{heard}").as_bytes());
                        }
                        ClientIpHeader::Forwarded => {
                            super::super::forwarded::append(&mut last, heard, b"http", Some(b"a.test"));
                        }
                    }
                    lines.push(last);
                    headers.clear();
                    for line in lines {
                        headers.append(header.name(), http::HeaderValue::from_bytes(&line).unwrap());
                    }
                    heard = format!("10.0.0.{hop}").parse().unwrap();
                }
                prop_assert_eq!(client_ip(heard, &headers, &trusted(), header), client);
            }
        }
    }
}
