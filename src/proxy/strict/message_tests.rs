//! Tests of the scanners: what they say, and that it does not depend on how bytes are split.

use proptest::prelude::*;

use super::*;

const LIMITS: Limits = Limits {
    request_line_bytes_max: 64,
    head_bytes_max: 256,
    fields_max: 4,
    body_bytes_max: 1000,
};

/// What a scanner lets pass of `bytes` that come in `pieces`, and why it stopped at the end.
fn passed(mut scan: impl FnMut(&[u8]) -> Step, pieces: &[&[u8]]) -> (Vec<u8>, Stop) {
    let (mut held, mut passed, mut stop) = (Vec::new(), Vec::new(), Stop::More);
    for piece in pieces {
        held.extend_from_slice(piece);
        let step = scan(&held);
        passed.extend(held.drain(..step.pass));
        stop = step.stop;
    }
    (passed, stop)
}

fn request(pieces: &[&[u8]]) -> (Vec<u8>, Stop) {
    let mut scanner = RequestScanner::new(LIMITS);
    passed(|bytes| scanner.scan(bytes), pieces)
}

#[test]
fn messages_pass_one_after_the_other_and_a_part_of_a_head_is_held_back() {
    let whole = "GET / HTTP/1.1\r\nHost: a\r\n\r\nPOST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc\
        POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n";
    let part = "GET /next HTTP/1.1\r\nHos";
    let (passed, stop) = request(&[format!("{whole}{part}").as_bytes()]);
    assert_eq!(
        (String::from_utf8(passed).unwrap().as_str(), stop),
        (whole, Stop::More)
    );
}

#[test]
fn each_limit_of_a_head_holds_on_both_sides() {
    let line = |bytes: usize| {
        let path = "x".repeat(bytes - "GET / HTTP/1.1".len());
        format!("GET /{path} HTTP/1.1\r\n\r\n")
    };
    let fields = |count: usize| format!("GET / HTTP/1.1\r\n{}\r\n", "A: 1\r\n".repeat(count));
    let head = |bytes: usize| {
        let value = "x".repeat(bytes - "GET / HTTP/1.1\r\nA:\r\n\r\n".len());
        format!("GET / HTTP/1.1\r\nA:{value}\r\n\r\n")
    };
    for (fits, too_much, violation) in [
        (line(64), line(65), Violation::TargetTooLong),
        (fields(4), fields(5), Violation::TooManyFields),
        (head(256), head(257), Violation::HeadTooLarge),
    ] {
        assert_eq!(
            request(&[fits.as_bytes()]),
            (fits.clone().into_bytes(), Stop::More)
        );
        assert_eq!(
            request(&[too_much.as_bytes()]),
            (Vec::new(), Stop::Refused(violation))
        );
    }
    // Without an end of the line or the head, too.
    assert_eq!(request(&[&[b'x'; 66]]).1, Stop::Refused(Violation::TargetTooLong));
    let endless = format!("GET / HTTP/1.1\r\nA: {}", "x".repeat(256));
    assert_eq!(
        request(&[endless.as_bytes()]).1,
        Stop::Refused(Violation::HeadTooLarge)
    );
}

#[test]
fn nothing_of_a_request_passes_whose_body_is_bad_from_the_start() {
    let head: &[u8] = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
    let bad: &[u8] = b"5;\r\nhello\r\n0\r\n\r\n";
    let refused = Stop::Refused(Violation::ChunkExtension);
    assert_eq!(request(&[&[head, bad].concat()]), (Vec::new(), refused));
    let (passed, stop) = request(&[head, bad]);
    assert_eq!(stop, Stop::Broken(Violation::ChunkExtension));
    assert_eq!(passed, [head, b"5;"].concat());
}

#[test]
fn what_follows_an_upgrade_request_waits_for_its_answer() {
    let upgrade: &[u8] = b"GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n";
    let next: &[u8] = b"GET / HTTP/1.1\r\n\r\n";
    let mut scanner = RequestScanner::new(LIMITS);
    let step = scanner.scan(&[upgrade, next].concat());
    assert_eq!((step.pass, step.stop), (upgrade.len(), Stop::Upgrade));
    assert_eq!(scanner.scan(next).pass, 0);
    scanner.decline_upgrade();
    assert_eq!(scanner.scan(next).pass, next.len());
    assert_eq!(scanner.heads(), 2);
}

fn kind(stop: Stop) -> std::mem::Discriminant<Stop> {
    std::mem::discriminant(&stop)
}

/// Pieces of requests, good and bad, that make up interesting streams.
fn fragments() -> impl Strategy<Value = Vec<u8>> {
    let parts = prop::sample::select(vec![
        "GET / HTTP/1.1\r\n",
        "POST /a?b HTTP/1.0\r\n",
        "Host: a\r\n",
        "Content-Length: 3\r\n",
        "\r\n",
        "abc",
        "Transfer-Encoding: chunked\r\n",
        "3\r\nabc\r\n",
        "0\r\n",
        "2;a=\"b\"\r\nxy\r\n",
        "x: 1\r\n",
        "\n",
        "\r",
        " ",
        "Upgrade: x\r\n",
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.1 100 Continue\r\n",
        "HTTP/1.1 304 x\r\n",
        ":",
        "\u{1}",
    ]);
    prop::collection::vec(parts, 0..24).prop_map(|parts| parts.concat().into_bytes())
}

proptest! {
    #[test]
    fn how_bytes_are_split_does_not_matter(bytes in fragments(), cuts in prop::collection::vec(0.0..1.0, 0..6)) {
        let mut cuts: Vec<_> = cuts.iter().map(|cut| (cut * bytes.len() as f64) as usize).collect();
        cuts.sort_unstable();
        cuts.push(bytes.len());
        let mut from = 0;
        let pieces: Vec<_> = cuts.iter().map(|&to| &bytes[std::mem::replace(&mut from, to)..to]).collect();

        let (whole, whole_stop) = request(&[&bytes]);
        let (split, split_stop) = request(&pieces);
        match (whole_stop, split_stop) {
            // A body that is bad from the start takes its head along, if that is still here.
            (Stop::Refused(a), Stop::Broken(b)) => {
                prop_assert_eq!(a, b);
                prop_assert!(split.starts_with(&whole));
            }
            // Of several faults, either may be named.
            _ => prop_assert_eq!((whole, kind(whole_stop)), (split, kind(split_stop))),
        }

        let response = |pieces: &[&[u8]]| {
            let mut scanner = ResponseScanner::new(LIMITS);
            scanner.ask(false);
            passed(|bytes| scanner.scan(bytes), pieces)
        };
        let (whole, split) = (response(&[&bytes]), response(&pieces));
        prop_assert_eq!((whole.0, kind(whole.1)), (split.0, kind(split.1)));
    }
}

#[test]
fn a_response_ends_where_its_request_and_status_say() {
    let body = "Content-Length: 3\r\n\r\n";
    for (is_head, response, rest, stop) in [
        (false, format!("HTTP/1.1 200 OK\r\n{body}abc"), "", Stop::More),
        (
            false,
            format!("HTTP/1.1 200 OK\r\n{body}abc"),
            "x",
            Stop::Broken(Violation::Unexpected),
        ),
        (
            true,
            format!("HTTP/1.1 200 OK\r\n{body}"),
            "x",
            Stop::Broken(Violation::Unexpected),
        ),
        (
            false,
            format!("HTTP/1.1 304\r\n{body}"),
            "x",
            Stop::Broken(Violation::Unexpected),
        ),
        (
            false,
            "HTTP/1.1 204 No Content\r\n\r\n".to_owned(),
            "x",
            Stop::Broken(Violation::Unexpected),
        ),
        (
            false,
            format!("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n{body}abc"),
            "",
            Stop::More,
        ),
        (
            false,
            "HTTP/1.0 200 OK\r\n\r\nuntil the end".to_owned(),
            "",
            Stop::More,
        ),
        (
            false,
            "HTTP/1.1 101 x\r\nUpgrade: y\r\n\r\n\0\x01".to_owned(),
            "",
            Stop::More,
        ),
    ] {
        let mut scanner = ResponseScanner::new(LIMITS);
        scanner.ask(is_head);
        let step = scanner.scan(format!("{response}{rest}").as_bytes());
        assert_eq!(
            (step.pass, step.stop),
            (response.len(), stop),
            "{response:?} {rest:?}"
        );
    }
    assert_eq!(
        ResponseScanner::new(LIMITS).scan(b"H").stop,
        Stop::Broken(Violation::Unexpected)
    );
}
