//! Elements of the `Forwarded` header (RFC 7239): reading one, writing one. Pure.
//!
//! A line is read from its right end, where the nearest hop wrote, and each element by itself: what a client put
//! before it, such as a quote that it never closes, must not change how the element of a trusted proxy reads. So a
//! comma always ends an element, even in a quoted string, where RFC 7239 allows one but no node, protocol or host has
//! one; an element that is cut short that way has an odd number of quotes, and reads as nothing.

use std::net::{IpAddr, SocketAddr};

/// What one hop said of the one before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Element<'h> {
    /// The address that it came from: `for`.
    pub(super) client: IpAddr,
    /// The protocol that it came by: `proto`.
    pub(super) proto: Option<&'h [u8]>,
}

/// The elements of one line, the nearest hop's first; `None` for one that names no address: hidden (`unknown`, `_id`),
/// malformed or without `for`.
pub(super) fn elements(line: &[u8]) -> impl Iterator<Item = Option<Element<'_>>> {
    line.rsplit(|&b| b == b',').map(element)
}

fn element(text: &[u8]) -> Option<Element<'_>> {
    // No name of a node, protocol or host needs an escape.
    if text.contains(&b'\\') || text.iter().filter(|&&b| b == b'"').count() % 2 == 1 {
        return None;
    }
    let (mut client, mut proto) = (None, None);
    for pair in text.split(|&b| b == b';') {
        let pair = pair.trim_ascii();
        if pair.is_empty() {
            continue;
        }
        let at = pair.iter().position(|&b| b == b'=')?;
        let (name, value) = (pair.get(..at)?, unquoted(pair.get(at + 1..)?)?);
        // RFC 7239 §4: each parameter occurs once.
        if name.eq_ignore_ascii_case(b"for") && client.replace(node(value)?).is_some() {
            return None;
        }
        if name.eq_ignore_ascii_case(b"proto") && proto.replace(value).is_some() {
            return None;
        }
    }
    let client = client?;
    Some(Element { client, proto })
}

/// The value of a pair, without the quotes around it. None may stand within.
fn unquoted(value: &[u8]) -> Option<&[u8]> {
    let bare = value
        .strip_prefix(b"\"")
        .and_then(|rest| rest.strip_suffix(b"\""));
    let bare = bare.unwrap_or(value);
    (!bare.is_empty() && !bare.contains(&b'"')).then_some(bare)
}

/// The address of a node (RFC 7239 §6): `192.0.2.1`, `[2001:db8::1]`, each with an optional port, which may be hidden.
fn node(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?;
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, None),
        Some((host, rest)) => (host, Some(rest.strip_prefix(':')?)),
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    if !port.is_none_or(is_port) {
        return None;
    }
    let address: IpAddr = host.parse().ok()?;
    // Only an IPv6 address stands in brackets, and it always does.
    (address.is_ipv6() == text.starts_with('[')).then(|| address.to_canonical())
}

fn is_port(text: &str) -> bool {
    match text.strip_prefix('_') {
        Some(hidden) => {
            let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
            !hidden.is_empty() && hidden.bytes().all(allowed)
        }
        None => (1..=5).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit()),
    }
}

/// Appends the element of this hop to `line`, after a comma if there is something before it.
pub(super) fn append(line: &mut Vec<u8>, client: IpAddr, proto: &[u8], host: Option<&[u8]>) {
    if !line.is_empty() {
        line.extend_from_slice(b", ");
    }
    let node = match client {
        IpAddr::V4(v4) => v4.to_string(),
        // RFC 7239 §6: in brackets, and quoted for the colons.
        IpAddr::V6(v6) => format!("\"[{v6}]\""),
    };
    line.extend_from_slice(b"for=");
    line.extend_from_slice(node.as_bytes());
    if let Some(host) = host.filter(|host| !host.iter().any(|b| b"\"\\,;".contains(b))) {
        line.extend_from_slice(b";host=\"");
        line.extend_from_slice(host);
        line.push(b'"');
    }
    line.extend_from_slice(b";proto=");
    line.extend_from_slice(proto);
}

/// `X-Forwarded-For` as an element would say it, for [`super::client_ip`]: `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`,
/// `[2001:db8::1]` or `[2001:db8::1]:80`.
pub(super) fn bare_node(entry: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(entry).ok()?.trim_matches([' ', '\t']);
    let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
    let address = bare.unwrap_or(text).parse::<IpAddr>();
    let address = address.or_else(|_| text.parse::<SocketAddr>().map(|socket| socket.ip()));
    address.ok().map(|ip| ip.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clients(line: &str) -> Vec<Option<String>> {
        let elements = elements(line.as_bytes());
        elements
            .map(|one| one.map(|one| one.client.to_string()))
            .collect()
    }

    #[test]
    fn each_form_of_a_node_is_read_and_hidden_ones_are_nothing() {
        let table: &[(&str, Option<&str>)] = &[
            ("for=192.0.2.43", Some("192.0.2.43")),
            ("For=\"192.0.2.43:47011\"", Some("192.0.2.43")),
            ("For=\"[2001:db8:cafe::17]:4711\"", Some("2001:db8:cafe::17")),
            ("for=\"[2001:db8:cafe::17]\"", Some("2001:db8:cafe::17")),
            ("for=\"[2001:db8:cafe::17]:_http\"", Some("2001:db8:cafe::17")),
            ("for=\"[::ffff:192.0.2.43]\"", Some("192.0.2.43")),
            ("for=192.0.2.60;proto=http;by=203.0.113.43", Some("192.0.2.60")),
            (" by=_x ; host=\"a:80\";for=192.0.2.60; ", Some("192.0.2.60")),
            ("for=unknown", None),
            ("for=_gazonk", None),
            ("for=\"_gazonk:80\"", None),
            ("proto=https", None),
            ("", None),
            ("for=", None),
            ("for=\"\"", None),
            ("for", None),
            ("for=192.0.2.1;for=192.0.2.2", None),
            ("for=192.0.2.1;for=unknown", None),
            ("for=192.0.2.1:", None),
            ("for=192.0.2.1:123456", None),
            ("for=192.0.2.1:+80", None),
            ("for=192.0.2.300", None),
            ("for=[192.0.2.1]", None),
            ("for=2001:db8::1", None),
            ("for=\"[2001:db8::1]x\"", None),
            ("for=\"[fe80::1%eth0]\"", None),
            ("for=\"192.0.2.1", None),
            ("for=192.0.2.1\"", None),
            ("for=\"192.0.\\2.1\"", None),
            ("for=192.0.2.1;x", None),
        ];
        for (line, expected) in table {
            assert_eq!(clients(line), [expected.map(str::to_owned)], "{line}");
        }
    }

    #[test]
    fn what_stands_left_of_an_element_never_changes_how_it_reads() {
        for before in [
            "for=\"",
            "for=\"x",
            "\"",
            "for=\"a\\",
            "x;y=\"z",
            ",,;;=\"",
            "for=\"6.6.6.6;x=",
        ] {
            for written in ["for=192.0.2.1;host=\"a\";proto=https", "for=\"[2001:db8::1]:80\""] {
                let line = format!("{before}, {written}");
                assert_eq!(clients(&line)[0], clients(written)[0], "{line}");
            }
        }
        // A host that looks like an element is no element: its quotes are odd.
        assert_eq!(
            clients("for=192.0.2.1;host=\",for=6.6.6.6;x=\";proto=http")[0],
            None
        );
    }

    #[test]
    fn what_is_written_reads_back() {
        let mut line = Vec::new();
        append(
            &mut line,
            "192.0.2.1".parse().unwrap(),
            b"https",
            Some(b"a.test:8443"),
        );
        append(&mut line, "2001:db8::1".parse().unwrap(), b"http", Some(b"a,b"));
        append(&mut line, "2001:db8::2".parse().unwrap(), b"http", None);
        assert_eq!(
            String::from_utf8_lossy(&line),
            "for=192.0.2.1;host=\"a.test:8443\";proto=https, for=\"[2001:db8::1]\";proto=http, \
             for=\"[2001:db8::2]\";proto=http"
        );
        let read: Vec<_> = elements(&line)
            .map(|one| one.map(|one| (one.client.to_string(), one.proto)))
            .collect();
        assert_eq!(
            read,
            [
                Some(("2001:db8::2".to_owned(), Some(&b"http"[..]))),
                Some(("2001:db8::1".to_owned(), Some(&b"http"[..]))),
                Some(("192.0.2.1".to_owned(), Some(&b"https"[..]))),
            ]
        );
    }
}
