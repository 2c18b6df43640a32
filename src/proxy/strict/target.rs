//! Request targets and authorities (RFC 9112 §3.2, RFC 3986). Pure.

use std::net::Ipv6Addr;

use super::violation::Violation;

/// Longest host name of the DNS in text (RFC 1035 §2.3.4).
const HOST_BYTES_MAX: usize = 255;

/// Checks the target of a request other than CONNECT: origin form, absolute form of `http` or `https`, or
/// `*`, which is for OPTIONS.
pub(super) fn check(method: &[u8], target: &[u8]) -> Result<(), Violation> {
    match target.first() {
        Some(b'/') => check_path(target),
        Some(b'*') if target.len() == 1 && method == b"OPTIONS" => Ok(()),
        _ => check_absolute(target),
    }
}

/// Whether `authority` is a host and an optional port (RFC 9110 §7.2), without userinfo. Of what RFC 3986
/// §3.2.2 allows in a name, percent-encodings and sub-delimiters are refused: no name in the DNS has them,
/// and servers differ on what they mean.
pub(super) fn authority_is_valid(authority: &[u8]) -> bool {
    if let Some(rest) = authority.strip_prefix(b"[") {
        let Some(end) = rest.iter().position(|&b| b == b']') else {
            return false;
        };
        let (host, after) = rest.split_at(end);
        let address = std::str::from_utf8(host).ok().map(str::parse::<Ipv6Addr>);
        return matches!(address, Some(Ok(_))) && port_is_valid(after.get(1..).unwrap_or_default());
    }
    let end = authority
        .iter()
        .position(|&b| b == b':')
        .unwrap_or(authority.len());
    let (host, port) = authority.split_at(end);
    let of_name = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~');
    (1..=HOST_BYTES_MAX).contains(&host.len()) && host.iter().all(of_name) && port_is_valid(port)
}

/// Whether `path` is ASCII, and hides no character in a longer UTF-8 form than it has (RFC 3629 §3): what
/// one server takes for such a character is another to the next.
pub(super) fn path_is_valid(path: &[u8]) -> bool {
    path.is_ascii() && !has_overlong(path)
}

/// Nothing, or a colon and a number up to 65,535; RFC 3986 §3.2.3 allows it to be empty.
fn port_is_valid(port: &[u8]) -> bool {
    let Some(digits) = port.strip_prefix(b":") else {
        return port.is_empty();
    };
    digits.len() <= 5
        && digits.iter().all(u8::is_ascii_digit)
        && digits.iter().fold(0, |sum, b| sum * 10 + u32::from(b - b'0')) <= u32::from(u16::MAX)
}

fn check_absolute(target: &[u8]) -> Result<(), Violation> {
    let colon = target.iter().position(|&b| b == b':').ok_or(Violation::Target)?;
    let (scheme, rest) = target.split_at(colon);
    let is_known = scheme.eq_ignore_ascii_case(b"http") || scheme.eq_ignore_ascii_case(b"https");
    let rest = rest
        .strip_prefix(b"://")
        .filter(|_| is_known)
        .ok_or(Violation::Target)?;
    let end = rest
        .iter()
        .position(|b| matches!(b, b'/' | b'?'))
        .unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    if !authority_is_valid(authority) {
        return Err(Violation::Authority);
    }
    check_path(path)
}

/// Path and query: the characters of RFC 3986 §3.3 and §3.4, and those that browsers send unencoded.
fn check_path(target: &[u8]) -> Result<(), Violation> {
    let end = target.iter().position(|&b| b == b'?').unwrap_or(target.len());
    let (path, query) = target.split_at(end);
    let fits = |bytes: &[u8], class: u8| bytes.iter().all(|&b| CLASSES[usize::from(b)] & class != 0);
    if fits(path, IN_PATH) && fits(query, IN_QUERY) && !has_overlong(path) {
        Ok(())
    } else {
        Err(Violation::Target)
    }
}

const IN_PATH: u8 = 1;
const IN_QUERY: u8 = 2;

/// Beyond RFC 3986, browsers send `[ ] | ^` in paths, and `{ } \` and the backquote in queries as well. A
/// fragment never belongs into a target.
const CLASSES: [u8; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let b = byte as u8;
        let common = b.is_ascii_alphanumeric()
            || matches!(b, b'-' | b'.' | b'_' | b'~' | b'%' | b'!' | b'$' | b'&' | b'\'')
            || matches!(
                b,
                b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=' | b':' | b'@' | b'/'
            )
            || matches!(b, b'[' | b']' | b'|' | b'^');
        if common {
            table[byte] = IN_PATH | IN_QUERY;
        } else if matches!(b, b'?' | b'{' | b'}' | b'\\' | b'`') {
            table[byte] = IN_QUERY;
        }
        byte += 1;
    }
    table
};

/// Whether percent-encoded bytes of `path` are a UTF-8 sequence longer than its character needs.
fn has_overlong(path: &[u8]) -> bool {
    let encoded = |at: usize| {
        let hex = path.get(at..at + 3)?.strip_prefix(b"%")?;
        u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok()
    };
    let is_overlong = |at: usize| {
        let second = || encoded(at + 3).unwrap_or(0);
        match encoded(at) {
            Some(0xc0 | 0xc1) => (0x80..=0xbf).contains(&second()),
            Some(0xe0) => (0x80..=0x9f).contains(&second()),
            Some(0xf0) => (0x80..=0x8f).contains(&second()),
            _ => false,
        }
    };
    path.contains(&b'%') && memchr::memchr_iter(b'%', path).any(is_overlong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_is_a_name_or_an_address_with_an_optional_port() {
        for valid in [
            "a",
            "a.b-c_d~.test",
            "127.0.0.1:80",
            "a:",
            "a:65535",
            "[::1]",
            "[2001:db8::1]:443",
        ] {
            assert!(authority_is_valid(valid.as_bytes()), "{valid}");
        }
        for invalid in [
            "", ":80", "u@a", "a/b", "a,b", "a, b", "a b", "a:80:80", "a:65536", "a:000080", "a:x", "[::1",
            "[::1]x", "[::g]", "[]", "[v1.a]", "a%00", "a?", "a#", "é",
        ] {
            assert!(!authority_is_valid(invalid.as_bytes()), "{invalid}");
        }
    }

    #[test]
    fn overlong_forms_are_told_from_characters() {
        for valid in [
            "/%c3%a9",
            "/%e2%82%ac",
            "/%f0%9f%98%80",
            "/%c0x",
            "/%e0%a4%85",
            "/%",
            "/%c0%",
        ] {
            assert!(path_is_valid(valid.as_bytes()), "{valid}");
        }
        for invalid in ["/%c0%af", "/%C1%BF", "/%e0%80%af", "/%F0%8f%80%af", "/é"] {
            assert!(!path_is_valid(invalid.as_bytes()), "{invalid}");
        }
    }
}
