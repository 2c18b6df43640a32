//! Who a client is: no header makes the search panic, and nothing that a client writes becomes its identity, whether
//! trusted proxies append to its line or write one of their own.
//!
//! Input: a byte of choices, then the lines that the client sends.
#![no_main]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use http::{HeaderMap, HeaderValue};
use ipnet::IpNet;
use libfuzzer_sys::fuzz_target;
use weir::config::ClientIpHeader;
use weir::proxy::client_ip::client_ip;

fuzz_target!(|input: &[u8]| {
    let Some((choices, claims)) = input.split_first() else {
        return;
    };
    let lines: Vec<_> = claims
        .split(|&b| b == b'\n')
        .take(8)
        .filter_map(|line| HeaderValue::from_bytes(line).ok())
        .collect();
    let trusted: Vec<IpNet> = vec!["10.0.0.0/8".parse().expect("a network")];
    let client: IpAddr = match choices & 1 {
        0 => Ipv4Addr::new(192, 0, 2, 9).into(),
        _ => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 9).into(),
    };
    let proxy: IpAddr = Ipv4Addr::new(10, 0, 0, 1).into();
    for header in [ClientIpHeader::XForwardedFor, ClientIpHeader::Forwarded] {
        let sent = map(header, &lines);
        assert_eq!(client_ip(client, &sent, &trusted, header), client);
        let found = client_ip(proxy, &sent, &trusted, header);
        assert_eq!(found, found.to_canonical());
        let mapped = Ipv4Addr::new(10, 0, 0, 1).to_ipv6_mapped().into();
        assert_eq!(client_ip(mapped, &sent, &trusted, header), found);

        let element = element(header, client);
        let mut appended = lines.clone();
        let last = appended.pop().filter(|_| choices & 2 != 0);
        if let Some(last) = last {
            let joined = [last.as_bytes(), b", ", element.as_bytes()].concat();
            appended.push(HeaderValue::from_bytes(&joined).expect("both parts are values"));
        } else {
            appended.push(HeaderValue::from_str(&element).expect("visible ASCII"));
        }
        assert_eq!(
            client_ip(proxy, &map(header, &appended), &trusted, header),
            client
        );
    }
});

fn map(header: ClientIpHeader, lines: &[HeaderValue]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in lines {
        headers.append(header.name(), line.clone());
    }
    headers
}

/// What a trusted proxy says of `client`.
fn element(header: ClientIpHeader, client: IpAddr) -> String {
    match (header, client) {
        (ClientIpHeader::XForwardedFor, _) => client.to_string(),
        (_, IpAddr::V4(v4)) => format!("for={v4};proto=https;host=\"a.test\""),
        (_, IpAddr::V6(v6)) => format!("proto=https;for=\"[{v6}]:4711\""),
    }
}
