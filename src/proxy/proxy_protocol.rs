//! The header of the PROXY protocol, versions 1 and 2, by which a balancer says whose connection it passes on. Pure.
//!
//! Follows HAProxy's specification (`doc/proxy-protocol.txt`, 2020/03/05). Stricter where it leaves a choice: a header
//! is bounded to [`HEADER_BYTES_MAX`], and one that describes datagrams is refused. Extensions (TLVs) are skipped.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use thiserror::Error;

/// Largest header: what the specification says suffices for every combination of addresses (§2.2), with as much again
/// for extensions.
pub const HEADER_BYTES_MAX: usize = 536;

/// Longest version 1 line with its line end (§2.1).
const V1_BYTES_MAX: usize = 107;
const V1_START: &[u8] = b"PROXY ";
/// What a version 2 header starts with (§2.2).
const V2_SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// The signature, the version and command, the family, and the length of the rest.
const V2_FIXED_BYTES: usize = 16;

/// What the bytes received so far say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// A whole header.
    Complete {
        /// Whose connection it is; `None` where that is the socket's own: the balancer itself (`LOCAL`), or a client that
        /// it knows no address of (`UNKNOWN`).
        client: Option<SocketAddr>,
        /// Its length in bytes.
        length: usize,
    },
    /// All of them belong to a header that goes on.
    Partial,
}

/// Why bytes are no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ProxyHeaderError {
    /// They begin neither version.
    #[error("no PROXY header")]
    NotOne,
    /// The header breaks the rules of its version.
    #[error("malformed PROXY header of version {0}")]
    Malformed(u8),
    /// It is longer than any that is believed.
    #[error("a PROXY header of more than {HEADER_BYTES_MAX} bytes")]
    TooLong,
}

/// Reads the header that `bytes` begin with; what follows it is left alone.
///
/// # Errors
/// [`ProxyHeaderError`] as soon as no more bytes can make it a header.
pub fn parse(bytes: &[u8]) -> Result<Progress, ProxyHeaderError> {
    if begins(bytes, V2_SIGNATURE) {
        parse_v2(bytes)
    } else if begins(bytes, V1_START) {
        parse_v1(bytes)
    } else {
        Err(ProxyHeaderError::NotOne)
    }
}

/// Whether `bytes` and `start` agree as far as both go.
fn begins(bytes: &[u8], start: &[u8]) -> bool {
    bytes.iter().zip(start).all(|(a, b)| a == b)
}

fn parse_v1(bytes: &[u8]) -> Result<Progress, ProxyHeaderError> {
    const MALFORMED: ProxyHeaderError = ProxyHeaderError::Malformed(1);
    let within = bytes.get(..V1_BYTES_MAX).unwrap_or(bytes);
    let Some(end) = within.iter().position(|&b| b == b'\n') else {
        let whole = within.len() == V1_BYTES_MAX;
        return if whole {
            Err(MALFORMED)
        } else {
            Ok(Progress::Partial)
        };
    };
    let line = within.get(V1_START.len()..end).unwrap_or_default();
    let line = line.strip_suffix(b"\r").ok_or(MALFORMED)?;
    let line = std::str::from_utf8(line).map_err(|_| MALFORMED)?;
    let client = v1_client(line).ok_or(MALFORMED)?;
    Ok(Progress::Complete {
        client,
        length: end + 1,
    })
}

/// The client that a version 1 line names. Both addresses have to be right for either to be believed.
fn v1_client(line: &str) -> Option<Option<SocketAddr>> {
    if line == "UNKNOWN" || line.starts_with("UNKNOWN ") {
        // §2.1: whatever follows is ignored.
        return Some(None);
    }
    let mut words = line.split(' ');
    let is_v4 = match words.next()? {
        "TCP4" => true,
        "TCP6" => false,
        _ => return None,
    };
    let mut address = || {
        words
            .next()?
            .parse::<IpAddr>()
            .ok()
            .filter(|ip| ip.is_ipv4() == is_v4)
    };
    let (source, _) = (address()?, address()?);
    let (port, _) = (v1_port(words.next()?)?, v1_port(words.next()?)?);
    words
        .next()
        .is_none()
        .then(|| Some(SocketAddr::new(source, port)))
}

/// §2.1: decimal, 0 to 65535, without leading zeroes.
fn v1_port(text: &str) -> Option<u16> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    let plain = text == "0" || !text.starts_with('0');
    (digits && plain).then(|| text.parse().ok()).flatten()
}

fn parse_v2(bytes: &[u8]) -> Result<Progress, ProxyHeaderError> {
    const MALFORMED: ProxyHeaderError = ProxyHeaderError::Malformed(2);
    let Some((fixed, rest)) = bytes.split_first_chunk::<V2_FIXED_BYTES>() else {
        return Ok(Progress::Partial);
    };
    let [.., command, family, high, low] = *fixed;
    let is_local = match command {
        0x20 => true,
        0x21 => false,
        _ => return Err(MALFORMED),
    };
    let declared = usize::from(u16::from_be_bytes([high, low]));
    let length = V2_FIXED_BYTES + declared;
    if length > HEADER_BYTES_MAX {
        return Err(ProxyHeaderError::TooLong);
    }
    let body = rest.get(..declared);
    let client = if is_local {
        // §2.2: the family and addresses of the balancer's own connections mean nothing.
        None
    } else {
        match family {
            // Unspecified, and Unix sockets: no address that anybody could be known by.
            0x00 | 0x31 => None,
            0x11 => match body.map(v4_client) {
                Some(client) => Some(client.ok_or(MALFORMED)?),
                None => return Ok(Progress::Partial),
            },
            0x21 => match body.map(v6_client) {
                Some(client) => Some(client.ok_or(MALFORMED)?),
                None => return Ok(Progress::Partial),
            },
            _ => return Err(MALFORMED),
        }
    };
    Ok(match body {
        Some(_) => Progress::Complete { client, length },
        None => Progress::Partial,
    })
}

/// Source and destination address, then their ports.
fn v4_client(body: &[u8]) -> Option<SocketAddr> {
    let (source, rest) = body.split_first_chunk::<4>()?;
    let (_, rest) = rest.split_first_chunk::<4>()?;
    Some(SocketAddr::new(Ipv4Addr::from(*source).into(), v2_port(rest)?))
}

fn v6_client(body: &[u8]) -> Option<SocketAddr> {
    let (source, rest) = body.split_first_chunk::<16>()?;
    let (_, rest) = rest.split_first_chunk::<16>()?;
    Some(SocketAddr::new(Ipv6Addr::from(*source).into(), v2_port(rest)?))
}

fn v2_port(ports: &[u8]) -> Option<u16> {
    let (source, rest) = ports.split_first_chunk::<2>()?;
    rest.first_chunk::<2>()?;
    Some(u16::from_be_bytes(*source))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn complete(client: Option<&str>, length: usize) -> Result<Progress, ProxyHeaderError> {
        let client = client.map(|text| text.parse().unwrap());
        Ok(Progress::Complete { client, length })
    }

    fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = V2_SIGNATURE.to_vec();
        bytes.extend([command, family]);
        bytes.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
        bytes.extend(body);
        bytes
    }

    #[test]
    fn lines_of_version_1_name_a_client_or_nobody() {
        let longest = format!("PROXY UNKNOWN {}\r\n", "f".repeat(V1_BYTES_MAX - 16));
        for (line, client) in [
            (
                "PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n",
                Some("192.0.2.1:56324"),
            ),
            (
                "PROXY TCP4 255.255.255.255 0.0.0.0 0 65535\r\n",
                Some("255.255.255.255:0"),
            ),
            (
                "PROXY TCP6 2001:db8::1 ::1 56324 443\r\n",
                Some("[2001:db8::1]:56324"),
            ),
            ("PROXY UNKNOWN\r\n", None),
            ("PROXY UNKNOWN ffff::1 what ever\r\n", None),
            (longest.as_str(), None),
        ] {
            assert_eq!(parse(line.as_bytes()), complete(client, line.len()), "{line}");
            // What follows is the client's.
            let followed = format!("{line}GET / HTTP/1.1\r\n");
            assert_eq!(parse(followed.as_bytes()), complete(client, line.len()), "{line}");
        }
    }

    #[test]
    fn what_breaks_the_rules_of_version_1_is_refused() {
        let long = format!("PROXY UNKNOWN {}\r\n", "f".repeat(V1_BYTES_MAX - 15));
        for line in [
            "PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 56324\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 56324 443 \r\n",
            "PROXY TCP4  192.0.2.1 198.51.100.1 56324 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 65536 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 +80 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 080 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 80 \r\n",
            "PROXY TCP4 192.0.2.01 198.51.100.1 80 443\r\n",
            "PROXY TCP4 192.0.2.1 x 80 443\r\n",
            "PROXY TCP4 2001:db8::1 ::1 80 443\r\n",
            "PROXY TCP6 192.0.2.1 198.51.100.1 80 443\r\n",
            "PROXY TCP5 192.0.2.1 198.51.100.1 80 443\r\n",
            "PROXY UDP4 192.0.2.1 198.51.100.1 80 443\r\n",
            "PROXY tcp4 192.0.2.1 198.51.100.1 80 443\r\n",
            "PROXY UNKNOWNX\r\n",
            "PROXY \r\n",
            "PROXY \n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 80 443\u{e9}\r\n",
            &long,
        ] {
            assert_eq!(
                parse(line.as_bytes()),
                Err(ProxyHeaderError::Malformed(1)),
                "{line}"
            );
        }
        for line in [
            "GET / HTTP/1.1\r\n",
            "PROXY\tTCP4",
            "proxy ",
            "\r\n\r\nX",
            "\x16\x03\x01",
        ] {
            assert_eq!(parse(line.as_bytes()), Err(ProxyHeaderError::NotOne), "{line}");
        }
    }

    #[test]
    fn headers_of_version_2_name_a_client_or_nobody() {
        let v4 = [192, 0, 2, 1, 198, 51, 100, 1, 0xdc, 0x04, 0x01, 0xbb];
        let v6 = [
            &Ipv6Addr::LOCALHOST.octets()[..],
            &Ipv6Addr::UNSPECIFIED.octets()[..],
            &[0, 80, 1, 187],
        ]
        .concat();
        let extended = [&v4[..], &[0x04, 0, 3, 1, 2, 3]].concat();
        let unix = [0; 216];
        let largest = [
            &v4[..],
            &vec![0; HEADER_BYTES_MAX - V2_FIXED_BYTES - v4.len()][..],
        ]
        .concat();
        for (command, family, body, client) in [
            (0x21, 0x11, &v4[..], Some("192.0.2.1:56324")),
            (0x21, 0x11, &extended, Some("192.0.2.1:56324")),
            (0x21, 0x11, &largest, Some("192.0.2.1:56324")),
            (0x21, 0x21, &v6, Some("[::1]:80")),
            (0x21, 0x00, &[], None),
            (0x21, 0x31, &unix, None),
            (0x20, 0x00, &[], None),
            // A balancer's own connection is its own whatever addresses it gives.
            (0x20, 0x11, &v4, None),
            (0x20, 0xff, &[1, 2, 3], None),
        ] {
            let header = v2(command, family, body);
            assert_eq!(
                parse(&header),
                complete(client, header.len()),
                "{command:x} {family:x}"
            );
        }
    }

    #[test]
    fn what_breaks_the_rules_of_version_2_is_refused() {
        for (command, family, body) in [
            (0x11, 0x11, &[0; 12][..]),
            (0x22, 0x11, &[0; 12]),
            (0x00, 0x11, &[0; 12]),
            (0x21, 0x12, &[0; 12]),
            (0x21, 0x22, &[0; 36]),
            (0x21, 0x32, &[0; 216]),
            (0x21, 0x41, &[0; 12]),
            (0x21, 0x10, &[0; 12]),
            (0x21, 0x11, &[0; 11]),
            (0x21, 0x21, &[0; 35]),
        ] {
            let header = v2(command, family, body);
            assert_eq!(
                parse(&header),
                Err(ProxyHeaderError::Malformed(2)),
                "{command:x} {family:x}"
            );
        }
        let large = v2(0x21, 0x11, &[0; HEADER_BYTES_MAX - V2_FIXED_BYTES + 1]);
        assert_eq!(parse(&large), Err(ProxyHeaderError::TooLong));
        assert_eq!(parse(&large[..V2_FIXED_BYTES]), Err(ProxyHeaderError::TooLong));
    }

    /// Bytes that come near a header.
    fn near() -> impl Strategy<Value = Vec<u8>> {
        let v1 = "PROXY (TCP4|TCP6|UNKNOWN|X) ?[0-9a-f.: ]{0,40}(\r\n|\n|)[ -~]{0,90}"
            .prop_map(String::into_bytes);
        let body = prop::collection::vec(any::<u8>(), 0..600);
        let parts = (prop::sample::select(vec![0x20, 0x21, 0x11]), any::<u8>(), body);
        let v2 = parts.prop_map(|(command, family, body)| v2(command, family & 0x33, &body));
        prop_oneof![v1, v2, prop::collection::vec(any::<u8>(), 0..40)]
    }

    proptest! {
        #[test]
        fn a_header_reads_the_same_however_it_is_cut(bytes in near()) {
            let whole = parse(&bytes);
            for end in 0..=bytes.len() {
                let part = parse(&bytes[..end]);
                match whole {
                    Ok(Progress::Complete { length, .. }) if end >= length => prop_assert_eq!(part, whole),
                    Ok(_) => prop_assert_eq!(part, Ok(Progress::Partial)),
                    Err(_) => prop_assert!(part == whole || part == Ok(Progress::Partial)),
                }
            }
            if let Ok(Progress::Complete { length, .. }) = whole {
                prop_assert!(length <= HEADER_BYTES_MAX);
            }
            if bytes.len() >= HEADER_BYTES_MAX {
                prop_assert!(whole != Ok(Progress::Partial));
            }
        }
    }
}
