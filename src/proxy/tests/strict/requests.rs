//! Requests: each with the section that says what becomes of it.

use http_desync_guardian::RequestSafetyTier;
use http_desync_guardian::request_analyzer::HttpRequestData;

use super::*;

/// What becomes of the connection after the responses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    /// It takes another request, which is understood.
    Open,
    /// It is closed, and nothing more has come.
    Closed,
}
use After::{Closed, Open};

/// The section; what the client sends; the statuses that it gets; what becomes of the connection; and of
/// what reaches the upstream, parts that are in it, and with `!` parts that are not. Without any, nothing
/// reaches it.
type Case = (
    &'static str,
    &'static [u8],
    &'static [u16],
    After,
    &'static [&'static str],
);

#[rustfmt::skip]
const FRAMING: &[Case] = &[
    ("9112 6.1", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", &[400], Closed, &[]),
    ("9112 6.1", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", &[400], Closed, &[]),
    ("9112 6.1", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n0\r\n\r\n", &[400], Closed, &[]),
    ("9112 6.1", b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nTransfer-Encoding: identity\r\n\r\n", &[400], Closed, &[]),
    ("9112 6.1", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", &[400], Closed, &[]),
    ("9112 6.1", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", &[400], Closed, &[]),
    ("9112 6.1", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", &[501], Closed, &[]),
    ("9112 6.1", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", &[501], Closed, &[]),
    ("9112 6.1", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n", &[501], Closed, &[]),
    ("9112 6.3", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n", &[400], Closed, &[]),
    ("9112 6.3", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity, identity\r\n\r\n", &[400], Closed, &[]),
    ("9112 6.3", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\nTransfer-Encoding: identity\r\n\r\n", &[400], Closed, &[]),
    ("9112 6.3", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", &[400], Closed, &[]),
    ("9112 6.3", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n", &[400], Closed, &[]),
    ("9112 6.3", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", &[400], Closed, &[]),
    ("9112 6.3", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", &[400], Closed, &[]),
    ("9112 6.3", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n", &[400], Closed, &[]),
    ("9112 6.3", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n", &[400], Closed, &[]),
    ("9112 6.3", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n\r\n0\r\n\r\n", &[400], Closed, &[]),
    ("9112 6.3", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked,\r\n\r\n0\r\n\r\n", &[400], Closed, &[]),
    ("9110 5.5", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", &[400], Closed, &[]),
    ("9112 5.1", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n", &[400], Closed, &[]),
    ("9112 5.2", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n", &[400], Closed, &[]),
    ("9112 6.1", b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", &[400], Closed, &[]),
    ("9112 7", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: CHUNKED\r\n\r\n2\r\nhi\r\n0\r\n\r\n", &[200], Open, &["\r\n2\r\nhi\r\n0\r\n"]),
    ("9112 6.3", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nhi", &[400], Closed, &[]),
    ("9112 6.3", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nhi!", &[400], Closed, &[]),
    ("9112 6.3", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2, 2\r\n\r\nhi", &[400], Closed, &[]),
    ("9110 8.6", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +2\r\n\r\nhi", &[400], Closed, &[]),
    ("9110 8.6", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -2\r\n\r\nhi", &[400], Closed, &[]),
    ("9110 8.6", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x2\r\n\r\nhi", &[400], Closed, &[]),
    ("9110 8.6", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2x\r\n\r\nhi", &[400], Closed, &[]),
    ("9110 8.6", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2 2\r\n\r\nhi", &[400], Closed, &[]),
    ("9110 8.6", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2.0\r\n\r\nhi", &[400], Closed, &[]),
    ("9110 8.6", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\nhi", &[400], Closed, &[]),
    ("9110 8.6", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\nhi", &[400], Closed, &[]),
    ("9110 8.6", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551618\r\n\r\nhi", &[400], Closed, &[]),
    ("9110 8.6", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: \xef\xbc\x92\r\n\r\nhi", &[400], Closed, &[]),
    ("9110 5.5", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: \t2 \t\r\n\r\nhi", &[200], Open, &["content-length: 2\r\n", "\r\n\r\nhi"]),
    ("9112 6.3", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 37\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\nX:\r\n", &[200], Open, &["\r\n\r\nGET /smuggled"]),
    ("9110 6.5", b"GET / HTTP/1.1\r\nHost: a\r\nContent_Length: 5\r\nTransfer_Encoding: chunked\r\n\r\n", &[200], Open, &["get / http/1.1", "!content_length", "!transfer_encoding"]),
    ("9112 9.3", b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n", &[200, 200], Open, &["get /1 ", "get /2 "]),
    ("9112 9.3", b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\nHost: a\r\n\r\nGET /3 HTTP/1.1\r\nHost: a\r\n\r\n", &[200, 400], Closed, &["get /1 ", "!/2", "!/3"]),
    ("9112 9.6", b"GET /1 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n", &[200], Closed, &["get /1 ", "!/2"]),
];

#[rustfmt::skip]
const CHUNKS: &[Case] = &[
    ("9112 7.1.1", b"5;\r\nhello\r\n0\r\n\r\n", &[400], Closed, &[]),
    ("9112 7.1", b"5 \r\nhello\r\n0\r\n\r\n", &[400], Closed, &[]),
    ("9112 7.1", b"5\t\r\nhello\r\n0\r\n\r\n", &[400], Closed, &[]),
    ("9112 7.1", b" 5\r\nhello\r\n0\r\n\r\n", &[400], Closed, &[]),
    ("9112 7.1", b"0x5\r\nhello\r\n0\r\n\r\n", &[400], Closed, &[]),
    ("9112 7.1", b"+5\r\nhello\r\n0\r\n\r\n", &[400], Closed, &[]),
    ("9112 7.1", b"-5\r\nhello\r\n0\r\n\r\n", &[400], Closed, &[]),
    ("9112 7.1", b"\r\nhello\r\n0\r\n\r\n", &[400], Closed, &[]),
    ("9112 7.1", b"g\r\nhello\r\n0\r\n\r\n", &[400], Closed, &[]),
    ("9112 7.1", b"5\nhello\r\n0\r\n\r\n", &[400], Closed, &[]),
    ("9112 7.1", b"5\rhello\r\n0\r\n\r\n", &[400], Closed, &[]),
    ("9112 7.1", b"5\r\nhello\n0\r\n\r\n", &[400], Closed, &[]),
    ("9112 7.1", b"5\r\nhello!\r\n0\r\n\r\n", &[400], Closed, &[]),
    ("9112 7.1", b"4\r\nhello\r\n0\r\n\r\n", &[400], Closed, &[]),
    ("9112 7.1", b"10000000000000005\r\nhello\r\n0\r\n\r\n", &[400], Closed, &[]),
    ("9112 7.1.1", b"5;\x01\r\nhello\r\n0\r\n\r\n", &[400], Closed, &[]),
    ("9112 7.1.1", b"5;a=\x7f\r\nhello\r\n0\r\n\r\n", &[400], Closed, &[]),
    ("9112 7.1.1", b"5;a=\"\x00\"\r\nhello\r\n0\r\n\r\n", &[400], Closed, &[]),
    ("9112 7.1.1", b"5;a\nhello\r\n0\r\n\r\n", &[400], Closed, &[]),
    ("9112 7.1.1", b"5;a\rb\r\nhello\r\n0\r\n\r\n", &[400], Closed, &[]),
    ("9112 7.1.1", b"5;a=\"b\r\nhello\r\n0\r\n\r\n", &[400], Closed, &[]),
    ("9112 7.1.1", b"5;=b\r\nhello\r\n0\r\n\r\n", &[400], Closed, &[]),
    ("9112 7.1.2", b"5\r\nhello\r\n0\r\n\n", &[400], Closed, &[]),
    ("9112 7.1.2", b"5\r\nhello\r\n0\r\nX: 1\n\r\n", &[400], Closed, &[]),
    ("9112 7.1.2", b"5\r\nhello\r\n0\r\nX : 1\r\n\r\n", &[400], Closed, &[]),
    ("9112 7.1.2", b"5\r\nhello\r\n0\r\nX: 1\r\n 2\r\n\r\n", &[400], Closed, &[]),
    ("9112 7.1.2", b"5\r\nhello\r\n0\r\nX: \x00\r\n\r\n", &[400], Closed, &[]),
    ("9112 7.1.2", b"5\r\nhello\r\n0\r\nGET / HTTP/1.1\r\n\r\n", &[400], Closed, &[]),
    ("9112 7.1.1", b"5;a=b;c;d=\"e f\"\r\nhello\r\n0\r\n\r\n", &[200], Open, &["\r\n5\r\nhello\r\n", "!;a"]),
    ("9112 7.1.1", b"5 ; a\r\nhello\r\n0\r\n\r\n", &[200], Open, &["\r\n5\r\nhello\r\n"]),
    ("9112 7.1", b"0005\r\nhello\r\n0000\r\n\r\n", &[200], Open, &["\r\n5\r\nhello\r\n"]),
    ("9112 7.1", b"A\r\n0123456789\r\n0\r\n\r\n", &[200], Open, &["0123456789"]),
    ("9110 6.5.1", b"5\r\nhello\r\n0\r\nX-Sum: 42\r\nX-Forwarded-For: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\nX_Real_IP: 6.6.6.6\r\nHost: b\r\n\r\n", &[200], Open, &["x-sum: 42", "!6.6.6.6", "!host: b"]),
];

#[rustfmt::skip]
const LINES: &[Case] = &[
    ("9112 2.2", b"GET / HTTP/1.1\nHost: a\n\n", &[400], Closed, &[]),
    ("9112 2.2", b"GET / HTTP/1.1\nHost: a\r\n\r\n", &[400], Closed, &[]),
    ("9112 2.2", b"GET / HTTP/1.1\r\nHost: a\n\r\n", &[400], Closed, &[]),
    ("9112 2.2", b"GET / HTTP/1.1\r\nHost: a\r\n\n", &[400], Closed, &[]),
    ("9112 2.2", b"GET / HTTP/1.1\rHost: a\r\n\r\n", &[400], Closed, &[]),
    ("9112 2.2", b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\rY: 2\r\n\r\n", &[400], Closed, &[]),
    ("9112 2.2", b"GET / HTTP/1.1\r\nHost: a\r\r\n\r\n", &[400], Closed, &[]),
    ("9112 2.2", b"\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", &[400], Closed, &[]),
    ("9112 2.2", b"\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", &[400], Closed, &[]),
    ("9112 2.2", b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", &[200], Open, &["get / "]),
    ("9110 5.5", b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n\r\n", &[400], Closed, &[]),
    ("9110 5.5", b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x01b\r\n\r\n", &[400], Closed, &[]),
    ("9110 5.5", b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x0bb\r\n\r\n", &[400], Closed, &[]),
    ("9110 5.5", b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x7fb\r\n\r\n", &[400], Closed, &[]),
    ("9110 5.5", b"GET / HTTP/1.1\r\nHost: a\r\nX: a\tb \xe9\r\n\r\n", &[200], Open, &["x: a\tb"]),
    ("9110 5.1", b"GET / HTTP/1.1\r\nHost: a\r\nX\x00: 1\r\n\r\n", &[400], Closed, &[]),
    ("9110 5.1", b"GET / HTTP/1.1\r\nHost: a\r\nX Y: 1\r\n\r\n", &[400], Closed, &[]),
    ("9110 5.1", b"GET / HTTP/1.1\r\nHost: a\r\nX(: 1\r\n\r\n", &[400], Closed, &[]),
    ("9110 5.1", b"GET / HTTP/1.1\r\nHost: a\r\nX/: 1\r\n\r\n", &[400], Closed, &[]),
    ("9110 5.1", b"GET / HTTP/1.1\r\nHost: a\r\nX\xe9: 1\r\n\r\n", &[400], Closed, &[]),
    ("9110 5.1", b"GET / HTTP/1.1\r\nHost: a\r\n: 1\r\n\r\n", &[400], Closed, &[]),
    ("9112 5", b"GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n", &[400], Closed, &[]),
    ("9112 5.1", b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", &[400], Closed, &[]),
    ("9112 5.1", b"GET / HTTP/1.1\r\nHost\t: a\r\n\r\n", &[400], Closed, &[]),
    ("9112 5.2", b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n 2\r\n\r\n", &[400], Closed, &[]),
    ("9112 5.2", b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n\t2\r\n\r\n", &[400], Closed, &[]),
    ("9112 2.2", b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", &[400], Closed, &[]),
    ("9112 2.2", b"GET / HTTP/1.1\r\n\tX: 1\r\nHost: a\r\n\r\n", &[400], Closed, &[]),
    ("9112 3", b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", &[400], Closed, &[]),
    ("9112 3", b"GET /  HTTP/1.1\r\nHost: a\r\n\r\n", &[400], Closed, &[]),
    ("9112 3", b"GET\t/\tHTTP/1.1\r\nHost: a\r\n\r\n", &[400], Closed, &[]),
    ("9112 3", b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n", &[400], Closed, &[]),
    ("9112 3", b" GET / HTTP/1.1\r\nHost: a\r\n\r\n", &[400], Closed, &[]),
    ("9112 3", b"GET /\r\n\r\n", &[400], Closed, &[]),
    ("9112 3", b"GET\r\n\r\n", &[400], Closed, &[]),
    ("9112 3", b"GET / HTTP/1.1 x\r\nHost: a\r\n\r\n", &[400], Closed, &[]),
    ("9110 9.1", b"GE(T / HTTP/1.1\r\nHost: a\r\n\r\n", &[400], Closed, &[]),
    ("9110 9.1", b"G\xe9T / HTTP/1.1\r\nHost: a\r\n\r\n", &[400], Closed, &[]),
    ("9112 2.3", b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", &[505], Closed, &[]),
    ("9112 2.3", b"GET / HTTP/1.2\r\nHost: a\r\n\r\n", &[505], Closed, &[]),
    ("9112 2.3", b"GET / HTTP/0.9\r\nHost: a\r\n\r\n", &[505], Closed, &[]),
    ("9112 2.3", b"GET / HTTP/1\r\nHost: a\r\n\r\n", &[400], Closed, &[]),
    ("9112 2.3", b"GET / HTTP/1.10\r\nHost: a\r\n\r\n", &[400], Closed, &[]),
    ("9112 2.3", b"GET / http/1.1\r\nHost: a\r\n\r\n", &[400], Closed, &[]),
    ("9112 2.3", b"GET / HTTP/+1.1\r\nHost: a\r\n\r\n", &[400], Closed, &[]),
    ("9112 2.3", b"GET / HTTPS/1.1\r\nHost: a\r\n\r\n", &[400], Closed, &[]),
    ("9112 3", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", &[400], Closed, &[]),
];

#[rustfmt::skip]
const TARGETS: &[Case] = &[
    ("9112 3.2", b"GET foo HTTP/1.1\r\nHost: a\r\n\r\n", &[400], Closed, &[]),
    ("9112 3.2.3", b"GET a:80 HTTP/1.1\r\nHost: a\r\n\r\n", &[400], Closed, &[]),
    ("9112 3.2.4", b"GET * HTTP/1.1\r\nHost: a\r\n\r\n", &[400], Closed, &[]),
    ("9110 9.3.7", b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", &[200], Open, &[]),
    ("9112 3.2", b"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", &[400], Closed, &[]),
    ("3986 2", b"GET /\xc3\xa9 HTTP/1.1\r\nHost: a\r\n\r\n", &[400], Closed, &[]),
    ("3629 3", b"GET /\xc0\xaf HTTP/1.1\r\nHost: a\r\n\r\n", &[400], Closed, &[]),
    ("3629 3", b"GET /%c0%af HTTP/1.1\r\nHost: a\r\n\r\n", &[400], Closed, &[]),
    ("3629 3", b"GET /%e0%80%af HTTP/1.1\r\nHost: a\r\n\r\n", &[400], Closed, &[]),
    ("3629 3", b"GET /%F0%80%80%AF HTTP/1.1\r\nHost: a\r\n\r\n", &[400], Closed, &[]),
    ("3629 3", b"GET /%c3%a9 HTTP/1.1\r\nHost: a\r\n\r\n", &[200], Open, &["get /%c3%a9 "]),
    ("3986 2", b"GET /?\xc3\xa9 HTTP/1.1\r\nHost: a\r\n\r\n", &[400], Closed, &[]),
    ("3986 2", b"GET /a<b HTTP/1.1\r\nHost: a\r\n\r\n", &[400], Closed, &[]),
    ("3986 2", b"GET /a\"b HTTP/1.1\r\nHost: a\r\n\r\n", &[400], Closed, &[]),
    ("3986 2", b"GET /a\\b HTTP/1.1\r\nHost: a\r\n\r\n", &[400], Closed, &[]),
    ("3986 2", b"GET /a\x00b HTTP/1.1\r\nHost: a\r\n\r\n", &[400], Closed, &[]),
    ("3986 2", b"GET /a\x7fb HTTP/1.1\r\nHost: a\r\n\r\n", &[400], Closed, &[]),
    ("9110 4.2.1", b"GET http:// HTTP/1.1\r\nHost: a\r\n\r\n", &[400], Closed, &[]),
    ("9110 4.2.1", b"GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n", &[400], Closed, &[]),
    ("9110 4.2.4", b"GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n", &[400], Closed, &[]),
    ("9110 4.2.4", b"GET http://u:p@a/ HTTP/1.1\r\nHost: a\r\n\r\n", &[400], Closed, &[]),
    ("3986 3.2.3", b"GET http://a:99999/ HTTP/1.1\r\nHost: a\r\n\r\n", &[400], Closed, &[]),
    ("9110 4.2", b"GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", &[400], Closed, &[]),
    ("9110 4.2", b"GET http:a HTTP/1.1\r\nHost: a\r\n\r\n", &[400], Closed, &[]),
    ("9112 3.2.2", b"GET http://b.test/x HTTP/1.1\r\nHost: a\r\n\r\n", &[200], Open, &["get /x ", "host: b.test\r\n", "!host: a\r\n"]),
    ("9112 3.2.2", b"GET HTTP://b.test HTTP/1.1\r\nHost: b.test\r\n\r\n", &[200], Open, &["get / ", "host: b.test\r\n"]),
    ("9112 3.2", b"GET http://b.test/ HTTP/1.1\r\n\r\n", &[400], Open, &[]),
    ("9112 3.2", b"GET http://b.test/ HTTP/1.1\r\nHost: u@a\r\n\r\n", &[400], Open, &[]),
    ("9110 9.3.6", b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n", &[405], Closed, &[]),
    ("9110 9.3.6", b"CONNECT / HTTP/1.1\r\nHost: a\r\n\r\n", &[405], Closed, &[]),
    ("9110 9.3.8", b"TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", &[405], Open, &[]),
    ("9112 3.2", b"GET / HTTP/1.1\r\n\r\n", &[400], Open, &[]),
    ("9112 3.2", b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", &[400], Open, &[]),
    ("9112 3.2", b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", &[400], Open, &[]),
    ("9112 3.2", b"GET / HTTP/1.1\r\nHost:\r\n\r\n", &[400], Open, &[]),
    ("9110 7.2", b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", &[400], Open, &[]),
    ("9110 7.2", b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", &[400], Open, &[]),
    ("9110 7.2", b"GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", &[400], Open, &[]),
    ("9110 7.2", b"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", &[400], Open, &[]),
    ("9110 7.2", b"GET / HTTP/1.1\r\nHost: a:b\r\n\r\n", &[400], Open, &[]),
    ("9110 7.2", b"GET / HTTP/1.1\r\nHost: a:80:80\r\n\r\n", &[400], Open, &[]),
    ("9110 7.2", b"GET / HTTP/1.1\r\nHost: http://a\r\n\r\n", &[400], Open, &[]),
    ("9110 7.2", b"GET / HTTP/1.1\r\nHost: a?b\r\n\r\n", &[400], Open, &[]),
    ("9110 7.2", b"GET / HTTP/1.1\r\nHost: a%00\r\n\r\n", &[400], Open, &[]),
    ("9110 7.2", b"GET / HTTP/1.1\r\nHost: \xc3\xa9\r\n\r\n", &[400], Open, &[]),
    ("9110 7.2", b"GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", &[400], Open, &[]),
    ("9110 7.2", b"GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", &[200], Open, &["host: [::1]:80\r\n"]),
    ("9112 3.2", b"GET / HTTP/1.0\r\n\r\n", &[200], Closed, &["get / http/1.1\r\n", "host: 127.0.0.1"]),
];

#[rustfmt::skip]
const FIELDS: &[Case] = &[
    ("9110 10.1.1", b"GET / HTTP/1.1\r\nHost: a\r\nExpect: foo\r\n\r\n", &[417], Open, &[]),
    ("9110 10.1.1", b"GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue, foo\r\n\r\n", &[417], Open, &[]),
    ("9110 10.1.1", b"POST / HTTP/1.1\r\nHost: a\r\nExpect: foo\r\nContent-Length: 2\r\n\r\nhi", &[417], Open, &[]),
    ("9110 10.1.1", b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue, foo\r\nContent-Length: 2\r\n\r\n", &[417], Closed, &[]),
    ("9110 10.1.1", b"GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n", &[200], Open, &["!expect"]),
    ("9110 10.1.1", b"GET / HTTP/1.0\r\nHost: a\r\nExpect: foo\r\n\r\n", &[200], Closed, &["!expect"]),
    ("httpoxy", b"GET / HTTP/1.1\r\nHost: a\r\nProxy: http://evil.test\r\n\r\n", &[200], Open, &["!evil"]),
    ("twins", b"GET / HTTP/1.1\r\nHost: a\r\nX_Forwarded_For: 6.6.6.6\r\nX-Forwarded_Proto: 6.6.6.6\r\nX_Real-IP: 6.6.6.6\r\n\r\n", &[200], Open, &["!6.6.6.6", "x-forwarded-for: 127.0.0.1"]),
    ("twins", b"GET / HTTP/1.1\r\nHost: a\r\nMy_Field: kept\r\n\r\n", &[200], Open, &["kept"]),
    ("9110 7.6.1", b"GET / HTTP/1.1\r\nHost: a\r\nConnection: X-Forwarded-For, Host, X-Mine\r\nX-Mine: gone\r\n\r\n", &[200], Open, &["!gone", "x-forwarded-for: 127.0.0.1", "host: a\r\n"]),
    ("6455 4.1", b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 2\r\n\r\nhi", &[400], Open, &[]),
    ("9110 7.8", b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nGET /next HTTP/1.1\r\nHost: a\r\n\r\n", &[200, 200], Open, &["upgrade: websocket", "get /next "]),
    ("9110 7.8", b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n\x81\x05hello", &[200, 400], Closed, &["!hello"]),
    ("9113 3.1", b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n", &[200], Open, &["!upgrade", "!http2-settings"]),
];

#[tokio::test]
async fn each_request_has_its_status_and_nothing_ambiguous_reaches_the_upstream() {
    let recorder = Recorder::new().await;
    let gateway = Gateway::start(recorder.upstream.address, "");
    let chunked = |(section, body, statuses, after, seen): &Case| {
        let head: &[u8] =
            b"POST / HTTP/1.1\r\nHost: a\r\nTrailer: X-Sum, X-Forwarded-For, X_Real_IP, Forwarded\r\n\
            Transfer-Encoding: chunked\r\n\r\n";
        (*section, [head, body].concat(), *statuses, *after, *seen)
    };
    let plain =
        |(section, bytes, statuses, after, seen): &Case| (*section, bytes.to_vec(), *statuses, *after, *seen);
    let cases: Vec<_> = CHUNKS
        .iter()
        .map(chunked)
        .chain([FRAMING, LINES, TARGETS, FIELDS].concat().iter().map(plain))
        .collect();
    assert!(cases.len() >= 120, "{}", cases.len());
    let mut failures = Vec::new();
    for (section, bytes, statuses, after, seen) in cases {
        let played = play(&gateway, &recorder, &bytes, statuses, after);
        let judged = match tokio::time::timeout(Duration::from_secs(10), played).await {
            Ok(Ok(upstream)) => judge(&upstream, seen),
            Ok(Err(failure)) => Err(failure),
            Err(_) => Err("it hangs".to_owned()),
        };
        if let Err(failure) = judged {
            failures.push(format!("RFC {section}: {}: {failure}", bytes.escape_ascii()));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Sends `bytes`, and answers what reached the upstream, or what went otherwise than it should.
async fn play(
    gateway: &Gateway,
    recorder: &Recorder,
    bytes: &[u8],
    statuses: &[u16],
    after: After,
) -> Result<Vec<u8>, String> {
    let mut client = gateway.connect().await;
    client.stream.write_all(bytes).await.unwrap();
    for expected in statuses {
        let status = status(&mut client).await;
        if status != Some(*expected) {
            return Err(format!("{status:?} for {expected}"));
        }
    }
    let mut upstream = recorder.take();
    match after {
        Closed if !client.is_at_end().await => return Err(format!("open: {:?}", client.unread)),
        Closed => {}
        Open => {
            client.send("GET /in-step HTTP/1.1\r\nHost: a\r\n\r\n").await;
            let status = status(&mut client).await;
            if status != Some(200) {
                return Err(format!("{status:?} for the next request"));
            }
            upstream.extend(recorder.take());
        }
    }
    // What was held up on its way would come before this.
    let last = gateway.ask("GET /after HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(last.status(), 200);
    upstream.extend(recorder.take());
    Ok(upstream)
}

/// The status of the next response, which is read to its end.
async fn status(client: &mut Peer) -> Option<u16> {
    let head = client.head().await?;
    if let Some(length) = head.field("content-length") {
        client.exactly(length.parse().unwrap()).await;
    }
    Some(head.status())
}

/// Each request in `upstream` has to be compliant by another's rules, and what is there be as in `seen`.
fn judge(mut upstream: &[u8], seen: &[&str]) -> Result<(), String> {
    let mut texts = Vec::new();
    while let Some(length) = message_length(upstream) {
        let (message, rest) = upstream.split_at(length);
        let head = message.windows(4).position(|end| end == b"\r\n\r\n").unwrap() + 4;
        let verdict = HttpRequestData::analyze_raw_request(&message[..head]);
        // Bytes outside of ASCII are allowed in values (RFC 9110 §5.5), but not by these rules.
        if verdict.tier != RequestSafetyTier::Compliant && message.is_ascii() {
            return Err(format!("{:?} in {}", verdict.message, message.escape_ascii()));
        }
        texts.push(String::from_utf8_lossy(message).to_string());
        upstream = rest;
    }
    if !upstream.is_empty() {
        return Err(format!("part of a request: {}", upstream.escape_ascii()));
    }
    texts.retain(|text| !text.starts_with("GET /in-step ") && !text.starts_with("GET /after "));
    let text = texts.concat();
    if text.is_empty() != seen.is_empty() {
        return Err(format!("upstream got {text:?}"));
    }
    let lower = text.to_ascii_lowercase();
    let is_wrong = |part: &&&str| match part.strip_prefix('!') {
        Some(part) => lower.contains(part),
        None => !text.contains(**part) && !lower.contains(**part),
    };
    match seen.iter().find(is_wrong) {
        Some(part) => Err(format!("{part:?} does not hold of {text:?}")),
        None => Ok(()),
    }
}

#[tokio::test]
async fn a_body_that_breaks_off_after_its_head_went_on_is_never_completed_upstream() {
    let recorder = Recorder::new().await;
    let gateway = Gateway::start(recorder.upstream.address, "");
    within(async {
        let mut client = gateway.connect().await;
        client
            .send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n")
            .await;
        while !String::from_utf8_lossy(&recorder.bytes.lock().unwrap()).contains("one") {
            tokio::task::yield_now().await;
        }
        client
            .send("5;\r\nhello\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")
            .await;
        let response = client.receive().await;
        assert_eq!(response.status(), 400, "{}", response.head);
        assert_eq!(
            response.json()["message"],
            "a chunk of the body has an extension that is not valid"
        );
        assert!(client.is_at_end().await);
    })
    .await;
    let upstream = String::from_utf8(recorder.take()).unwrap();
    assert!(
        !upstream.contains("hello") && !upstream.contains("\r\n0\r\n"),
        "{upstream}"
    );
}

#[tokio::test]
async fn requests_over_the_limits_are_told_so() {
    let recorder = Recorder::new().await;
    let yaml = format!(
        "proxy:\n  request_line_bytes_max: 1024\n  header_bytes_max: 8192\n  headers_max: 8\n  body_bytes_max: 10\n\
         upstreams:\n  - name: up\n    targets: [http://{}]\n",
        recorder.upstream.address
    );
    let gateway = Gateway::start_with(&yaml, Arc::new(|| Box::pin(std::future::ready(()))));
    let post = "POST / HTTP/1.1\r\nHost: a\r\n";
    let chunked = format!("{post}Transfer-Encoding: chunked\r\n\r\n");
    let long = "x".repeat(1024);
    let table = [
        (format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n"), 414),
        (
            format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: 1\r\n".repeat(8)),
            431,
        ),
        (
            format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", long.repeat(8)),
            431,
        ),
        (format!("{post}Content-Length: 10\r\n\r\n0123456789"), 200),
        (format!("{post}Content-Length: 11\r\n\r\n0123456789x"), 413),
        (format!("{chunked}a\r\n0123456789\r\n0\r\n\r\n"), 200),
        (format!("{chunked}9\r\n012345678\r\n2\r\n9x\r\n0\r\n\r\n"), 413),
    ];
    within(async {
        for (request, status) in table {
            let response = gateway.ask(&request).await;
            assert_eq!(response.status(), status, "{}", &request[..80.min(request.len())]);
            let upstream = recorder.take();
            assert_eq!(upstream.is_empty(), status != 200);
        }
    })
    .await;
}

#[tokio::test]
async fn the_example_of_the_documentation_runs_with_its_limits() {
    let recorder = Recorder::new().await;
    let yaml = include_str!("../../../../docs/examples/http.yaml")
        .replace("127.0.0.1:8000", "127.0.0.1:0")
        .replace("127.0.0.1:9000", &recorder.upstream.address.to_string());
    let gateway = Gateway::run(&yaml, Arc::new(|| Box::pin(std::future::ready(()))));
    let post = |length: usize| format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n");
    within(async {
        let whole = format!("{}{}", post(1 << 20), "x".repeat(1 << 20));
        assert_eq!(gateway.ask(&whole).await.status(), 200);
        assert_eq!(gateway.ask(&post((1 << 20) + 1)).await.status(), 413);
        let long = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(4096));
        assert_eq!(gateway.ask(&long).await.status(), 414);
    })
    .await;
}
