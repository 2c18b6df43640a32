//! How gRPC clients are told of a refusal: by a status of their own, in a response that is all trailers.
//!
//! gRPC over HTTP/2, "Responses": a server that refuses answers 200 with `Trailers-Only`, one header block
//! that carries `grpc-status` and `grpc-message`; HTTP's own status is for proxies that know no gRPC.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};

use super::body::ResponseBody;

const MEDIA_TYPE: &str = "application/grpc";
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// Status codes of gRPC, by their names there.
const UNKNOWN: u16 = 2;
const DEADLINE_EXCEEDED: u16 = 4;
const PERMISSION_DENIED: u16 = 7;
const RESOURCE_EXHAUSTED: u16 = 8;
const UNIMPLEMENTED: u16 = 12;
const INTERNAL: u16 = 13;
const UNAVAILABLE: u16 = 14;
const UNAUTHENTICATED: u16 = 16;

/// Whether a request of these headers is one of gRPC: `application/grpc`, with a suffix such as `+proto` or
/// parameters. gRPC-Web (`application/grpc-web`) is another protocol.
pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    let Some(content_type) = headers.get(header::CONTENT_TYPE) else {
        return false;
    };
    let content_type = content_type.as_bytes();
    let Some((start, rest)) = content_type.split_at_checked(MEDIA_TYPE.len()) else {
        return false;
    };
    start.eq_ignore_ascii_case(MEDIA_TYPE.as_bytes())
        && matches!(rest.first(), None | Some(b'+' | b';' | b' ' | b'\t'))
}

/// Makes `response` say what HTTP says by `status`, and `message`.
pub(super) fn tell(response: &mut Response<ResponseBody>, status: StatusCode, message: &str) {
    *response.status_mut() = StatusCode::OK;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
    headers.insert(GRPC_STATUS, HeaderValue::from(code_of(status)));
    let message = HeaderValue::from_str(&encoded(message)).expect("what is encoded is visible ASCII");
    headers.insert(GRPC_MESSAGE, message);
}

/// The code that stands for `status`: as the gRPC project maps them ("HTTP to gRPC Status Code Mapping"),
/// but for what a gateway knows better. A limit that is used up is RESOURCE_EXHAUSTED, which clients do not
/// retry at once as they do UNAVAILABLE; too large a message is that too, as gRPC servers have it; and no
/// answer in time is DEADLINE_EXCEEDED.
fn code_of(status: StatusCode) -> u16 {
    match status.as_u16() {
        400 => INTERNAL,
        401 => UNAUTHENTICATED,
        403 => PERMISSION_DENIED,
        404 | 405 | 501 => UNIMPLEMENTED,
        408 | 504 => DEADLINE_EXCEEDED,
        413 | 429 | 431 => RESOURCE_EXHAUSTED,
        502 | 503 => UNAVAILABLE,
        _ => UNKNOWN,
    }
}

/// `message` with all but visible ASCII and spaces percent-encoded, and the percent sign ("Percent-Encoded").
fn encoded(message: &str) -> String {
    let mut text = String::with_capacity(message.len());
    for byte in message.bytes() {
        match byte {
            b'%' | 0..=0x1f | 0x7f.. => text.push_str(&format!("%{byte:02X}")),
            _ => text.push(char::from(byte)),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_is_told_from_what_only_begins_like_it() {
        let is_grpc = |content_type: &'static str| {
            let value = HeaderValue::from_static(content_type);
            is_grpc(&HeaderMap::from_iter([(header::CONTENT_TYPE, value)]))
        };
        for grpc in [
            "application/grpc",
            "application/grpc+proto",
            "Application/gRPC; a=b",
        ] {
            assert!(is_grpc(grpc), "{grpc}");
        }
        for other in [
            "",
            "application/grp",
            "application/grpc-web",
            "application/grpcx",
            "text/plain",
        ] {
            assert!(!is_grpc(other), "{other}");
        }
        assert!(!super::is_grpc(&HeaderMap::new()));
    }

    #[test]
    fn a_message_is_encoded_byte_by_byte() {
        assert_eq!(
            encoded("a b~ 100% \u{e9}\r\n\u{7f}"),
            "a b~ 100%25 %C3%A9%0D%0A%7F"
        );
    }
}
