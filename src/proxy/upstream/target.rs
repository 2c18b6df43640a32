//! What is known of a target beforehand, and how a request is addressed to it.

use std::net::{IpAddr, SocketAddr};

use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderValue, Request, Uri, header};

use crate::config::{Target, UpstreamConfig, UpstreamProtocol};

/// A target, ready to be addressed.
pub(super) struct TargetInfo {
    /// Path put before the request's path.
    base_path: String,
    /// `host:port`, for requests that name no host.
    authority: HeaderValue,
    scheme: Scheme,
    /// Which HTTP it speaks, unless that is found out by TLS.
    pub(super) speaks: Option<Speaks>,
}

/// Which HTTP a connection carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Speaks {
    Http1,
    Http2,
}

impl TargetInfo {
    pub(super) fn new(target: &Target, config: &UpstreamConfig) -> Self {
        let authority = match target.host.parse::<IpAddr>() {
            Ok(ip) => SocketAddr::new(ip, target.port).to_string(),
            Err(_) => format!("{}:{}", target.host, target.port),
        };
        Self {
            base_path: target.base_path.clone(),
            authority: HeaderValue::try_from(authority).expect("a checked host is visible ASCII"),
            scheme: if target.tls { Scheme::HTTPS } else { Scheme::HTTP },
            speaks: match config.protocol {
                UpstreamProtocol::Http1 => Some(Speaks::Http1),
                UpstreamProtocol::Http2 => Some(Speaks::Http2),
                UpstreamProtocol::Auto => None,
            },
        }
    }

    /// `path` below the base path.
    fn path(&self, path: &PathAndQuery) -> PathAndQuery {
        if self.base_path.is_empty() {
            return path.clone();
        }
        let joined = format!("{}{path}", self.base_path);
        joined.try_into().unwrap_or_else(|_| path.clone())
    }

    /// Puts the request in the form that goes over a connection that carries `speaks`.
    pub(super) fn address<B>(&self, request: &mut Request<B>, path: &PathAndQuery, speaks: Speaks) {
        let path = self.path(path);
        match speaks {
            Speaks::Http1 => self.address_http1(request, path),
            Speaks::Http2 => self.address_http2(request, path),
        }
    }

    /// Origin form (RFC 9112 §3.2.1), and a Host.
    fn address_http1<B>(&self, request: &mut Request<B>, path: PathAndQuery) {
        *request.uri_mut() = Uri::from(path);
        if !request.headers().contains_key(header::HOST) {
            request.headers_mut().insert(header::HOST, self.authority.clone());
        }
    }

    /// The Host becomes `:authority`, and nothing is left of what concerns one connection (RFC 9113 §8.2.2,
    /// §8.3.1). `TE: trailers` stays: it is allowed, and gRPC asks for it.
    fn address_http2<B>(&self, request: &mut Request<B>, path: PathAndQuery) {
        let headers = request.headers_mut();
        headers.remove(header::CONNECTION);
        headers.remove(header::UPGRADE);
        let host = headers.remove(header::HOST);
        let authority = |value: &HeaderValue| Authority::try_from(value.as_bytes()).ok();
        let named = host
            .as_ref()
            .and_then(authority)
            .or_else(|| authority(&self.authority));
        let mut parts = http::uri::Parts::default();
        parts.scheme = Some(self.scheme.clone());
        parts.authority = named;
        parts.path_and_query = Some(path);
        if let Ok(uri) = Uri::from_parts(parts) {
            *request.uri_mut() = uri;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn target(url: &str) -> TargetInfo {
        let yaml = format!("node_id: a\nupstreams: [{{name: u, targets: ['{url}']}}]\n");
        let config = Config::from_yaml("test", &yaml).unwrap();
        let upstream = &config.upstreams[0];
        TargetInfo::new(&upstream.targets[0], upstream)
    }

    fn addressed(url: &str, host: Option<&str>, speaks: Speaks) -> Request<()> {
        let mut request = Request::new(());
        let headers = request.headers_mut();
        if let Some(host) = host {
            headers.insert(header::HOST, host.parse().unwrap());
        }
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("te"));
        target(url).address(&mut request, &PathAndQuery::from_static("/x?y"), speaks);
        request
    }

    #[test]
    fn http1_gets_origin_form_and_a_host() {
        let request = addressed("http://app.test:81/base", None, Speaks::Http1);
        assert_eq!(request.uri(), "/base/x?y");
        assert_eq!(request.headers()[header::HOST], "app.test:81");
        let request = addressed("http://app.test:81", Some("shop.test"), Speaks::Http1);
        assert_eq!(
            (
                request.uri().to_string().as_str(),
                &request.headers()[header::HOST]
            ),
            ("/x?y", &HeaderValue::from_static("shop.test"))
        );
    }

    #[test]
    fn http2_gets_an_authority_and_nothing_that_concerns_one_connection() {
        let request = addressed("https://app.test/base", Some("shop.test:8443"), Speaks::Http2);
        assert_eq!(request.uri(), "https://shop.test:8443/base/x?y");
        assert!(
            !request.headers().contains_key(header::HOST)
                && !request.headers().contains_key(header::CONNECTION)
        );
        assert_eq!(request.headers()[header::TE], "trailers");
        // What no URI can hold falls back to the target.
        let request = addressed("http://[::1]:81", Some("a:b:c"), Speaks::Http2);
        assert_eq!(request.uri(), "http://[::1]:81/x?y");
    }
}
