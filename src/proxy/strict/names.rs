//! Fields that a client must not smuggle past what Weir vouches for. Pure.

use http::{HeaderMap, HeaderName};
use smallvec::SmallVec;

/// What Weir itself says of a request, or what frames it, and servers believe.
const VOUCHED: [&str; 16] = [
    "connection",
    "content-length",
    "forwarded",
    "host",
    "proxy",
    "transfer-encoding",
    "via",
    "x-forwarded-client-cert",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-prefix",
    "x-forwarded-proto",
    "x-real-ip",
    "x-request-id",
    "x-weir-node",
];

/// `Proxy`, which CGI turns into the variable HTTP_PROXY, and with it redirects what the server fetches
/// (CVE-2016-5385, "httpoxy").
const PROXY: &str = "proxy";

/// Removes `Proxy`, and the twins of the fields that Weir vouches for: names that CGI, WSGI and their like
/// make the same variable of, such as `X_Forwarded_For`.
pub(in crate::proxy) fn drop_untrusted(headers: &mut HeaderMap) {
    remove(headers, |name| name == PROXY || is_twin(name));
}

/// Removes from a trailer section what must not come in one: RFC 9110 §6.5.1 names fields that frame, route
/// or authenticate a message, and a server that merges trailers would believe what Weir vouches for.
pub(in crate::proxy) fn drop_untrusted_trailers(trailers: &mut HeaderMap) {
    remove(trailers, |name| {
        VOUCHED.contains(&name) || NEVER_TRAILERS.contains(&name) || is_twin(name)
    });
}

const NEVER_TRAILERS: [&str; 18] = [
    "authorization",
    "cache-control",
    "content-encoding",
    "content-range",
    "content-type",
    "cookie",
    "expect",
    "keep-alive",
    "max-forwards",
    "pragma",
    "proxy-authorization",
    "proxy-connection",
    "range",
    "set-cookie",
    "te",
    "trailer",
    "upgrade",
    "x-http-method-override",
];

fn remove(headers: &mut HeaderMap, is_unwanted: impl Fn(&str) -> bool) {
    let unwanted: SmallVec<[HeaderName; 4]> = headers
        .keys()
        .filter(|name| is_unwanted(name.as_str()))
        .cloned()
        .collect();
    for name in unwanted {
        headers.remove(name);
    }
}

/// Whether `name` differs from a vouched one by underscores only. Names are lower case here.
fn is_twin(name: &str) -> bool {
    if !name.contains('_') {
        return false;
    }
    let same = |(a, b): (u8, u8)| a == b || (a == b'_' && b == b'-');
    VOUCHED
        .iter()
        .any(|vouched| name.len() == vouched.len() && name.bytes().zip(vouched.bytes()).all(same))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(drop: impl Fn(&mut HeaderMap), names: &[&'static str]) -> Vec<String> {
        let pair = |name: &&'static str| (HeaderName::from_static(name), http::HeaderValue::from_static("1"));
        let mut headers: HeaderMap = names.iter().map(pair).collect();
        drop(&mut headers);
        let mut left: Vec<_> = headers.keys().map(ToString::to_string).collect();
        left.sort_unstable();
        left
    }

    #[test]
    fn twins_of_vouched_fields_go_and_other_underscores_stay() {
        let sent = [
            "x_forwarded_for",
            "x-forwarded_proto",
            "x_real_ip",
            "content_length",
            "proxy",
            "x-forwarded-for",
            "my_field",
            "x_forwarded_fox",
        ];
        let left = names(drop_untrusted, &sent);
        assert_eq!(left, ["my_field", "x-forwarded-for", "x_forwarded_fox"]);
    }

    #[test]
    fn a_trailer_cannot_say_where_a_request_came_from() {
        let sent = [
            "x-forwarded-for",
            "x_real_ip",
            "forwarded",
            "host",
            "authorization",
            "x-sum",
        ];
        assert_eq!(names(drop_untrusted_trailers, &sent), ["x-sum"]);
    }
}
