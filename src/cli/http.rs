//! A small HTTP/1.1 client for the commands that talk to a node or to the demo's upstream.
//!
//! Bounded in time ([`TIMEOUT`]) and size ([`BODY_BYTES_MAX`]); never follows a redirect, never retries
//! a request that may have been processed.

use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderMap, HeaderValue};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::admin::views::ErrorView;

/// Longest wait for one exchange, from connecting to the last byte of the body: well above what an
/// admin request costs, short enough that a command does not seem to hang.
pub const TIMEOUT: Duration = Duration::from_secs(5);

/// Largest response body that is read: a thousand limits with their replicas take about 1 MiB.
pub const BODY_BYTES_MAX: usize = 16 << 20;

/// A response, read to its end.
#[derive(Clone, Debug)]
pub struct Response {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

impl Response {
    /// The body as JSON.
    ///
    /// # Errors
    /// The body is not JSON of the shape `T`; the message shows how it starts.
    pub fn json<T: serde::de::DeserializeOwned>(&self) -> anyhow::Result<T> {
        serde_json::from_slice(&self.body)
            .with_context(|| format!("unexpected response body: {}", self.excerpt()))
    }

    /// The header `name` as text, if it is there and printable.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The start of the body, for messages.
    #[must_use]
    pub fn excerpt(&self) -> String {
        let text = String::from_utf8_lossy(&self.body);
        text.trim().chars().take(200).collect()
    }
}

/// Makes one request over a connection of its own. `address` is `host:port` or `http://host:port`.
///
/// # Errors
/// The address does not parse or connect, the exchange fails or takes longer than [`TIMEOUT`], or the
/// body is larger than [`BODY_BYTES_MAX`]. A response of any status is no error.
pub async fn request(
    method: Method,
    address: &str,
    path: &str,
    headers: HeaderMap,
    body: Bytes,
) -> anyhow::Result<Response> {
    Client::new(address)?.request(method, path, headers, body).await
}

/// An admin answer that says 200.
///
/// # Errors
/// Any other one, with the reason that its body gives.
pub fn success(answer: &Response) -> anyhow::Result<&Response> {
    if answer.status == StatusCode::OK {
        return Ok(answer);
    }
    let error: ErrorView = answer
        .json()
        .with_context(|| format!("status {}", answer.status))?;
    bail!("{} ({})", error.message, answer.status)
}

/// The headers of an admin request: JSON, and the bearer token if there is one.
///
/// # Errors
/// The token holds characters that no header can carry.
pub fn admin_headers(token: Option<&str>) -> anyhow::Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(token) = token {
        let mut value = HeaderValue::try_from(format!("Bearer {token}"))
            .context("the admin token holds characters that a header cannot carry")?;
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
    }
    Ok(headers)
}

/// Keeps one connection to one server, and connects again when the server closed it.
#[derive(Debug)]
pub struct Client {
    authority: String,
    sender: Option<SendRequest<Full<Bytes>>>,
}

impl Client {
    /// A client of `address`, `host:port` or `http://host:port`; connects at the first request.
    ///
    /// # Errors
    /// `address` is neither.
    pub fn new(address: &str) -> anyhow::Result<Self> {
        Ok(Self {
            authority: authority(address)?,
            sender: None,
        })
    }

    /// The server, as `host:port`.
    #[must_use]
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// Connects now, so that the next request need not.
    ///
    /// # Errors
    /// The server refuses the connection, or does not accept it within [`TIMEOUT`].
    pub async fn connect(&mut self) -> anyhow::Result<()> {
        let connected = tokio::time::timeout(TIMEOUT, connect(&self.authority)).await;
        let connected = connected.unwrap_or_else(|_| Err(anyhow!("no connection within {TIMEOUT:?}")));
        self.sender = Some(connected.with_context(|| format!("http://{}", self.authority))?);
        Ok(())
    }

    /// Makes one request. Not safe to cancel and go on: drop the client instead.
    ///
    /// # Errors
    /// See [`request`]; afterwards the next request connects anew.
    pub async fn request(
        &mut self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> anyhow::Result<Response> {
        let what = format!("{method} http://{}{path}", self.authority);
        let request = self.build(method, path, headers, body).context(what.clone())?;
        let outcome = tokio::time::timeout(TIMEOUT, self.exchange(request)).await;
        let outcome = outcome.unwrap_or_else(|_| Err(anyhow!("no complete response within {TIMEOUT:?}")));
        if outcome.is_err() {
            self.sender = None;
        }
        outcome.context(what)
    }

    /// `GET path` without further headers.
    ///
    /// # Errors
    /// See [`Client::request`].
    pub async fn get(&mut self, path: &str) -> anyhow::Result<Response> {
        self.request(Method::GET, path, HeaderMap::new(), Bytes::new())
            .await
    }

    fn build(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> anyhow::Result<Request<Full<Bytes>>> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, &self.authority)
            .body(Full::new(body))?;
        request.headers_mut().extend(headers);
        Ok(request)
    }

    async fn exchange(&mut self, request: Request<Full<Bytes>>) -> anyhow::Result<Response> {
        let (head, body) = self.send(request).await?.into_parts();
        let body = match Limited::new(body, BODY_BYTES_MAX).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) => bail!("reading the response failed: {error}"),
        };
        Ok(Response {
            status: head.status,
            headers: head.headers,
            body,
        })
    }

    /// Sends over the kept connection, or over a new one when the kept one closed before it took the
    /// request.
    async fn send(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> anyhow::Result<http::Response<hyper::body::Incoming>> {
        let mut unsent = request;
        if let Some(mut sender) = self.sender.take()
            && sender.ready().await.is_ok()
        {
            match sender.try_send_request(unsent).await {
                Ok(response) => {
                    self.sender = Some(sender);
                    return Ok(response);
                }
                Err(mut failure) => match failure.take_message() {
                    Some(request) => unsent = request,
                    None => return Err(failure.into_error().into()),
                },
            }
        }
        let mut sender = connect(&self.authority).await?;
        let response = sender.send_request(unsent).await?;
        self.sender = Some(sender);
        Ok(response)
    }
}

async fn connect(authority: &str) -> anyhow::Result<SendRequest<Full<Bytes>>> {
    let stream = TcpStream::connect(authority).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    // Ends when the sender is dropped or the server closes; a failure reaches the caller via the sender.
    tokio::spawn(connection);
    Ok(sender)
}

fn authority(address: &str) -> anyhow::Result<String> {
    let bare = address.strip_prefix("http://").unwrap_or(address);
    let bare = bare.strip_suffix('/').unwrap_or(bare);
    let parsed: http::uri::Authority = bare
        .parse()
        .map_err(|_| anyhow!("`{address}` is no address: expected HOST:PORT or http://HOST:PORT"))?;
    if parsed.port_u16().is_none() {
        bail!("`{address}` names no port: expected HOST:PORT or http://HOST:PORT");
    }
    Ok(bare.to_owned())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn an_address_is_host_and_port_with_or_without_the_scheme() {
        for address in [
            "127.0.0.1:8001",
            "http://127.0.0.1:8001",
            "http://127.0.0.1:8001/",
        ] {
            assert_eq!(Client::new(address).unwrap().authority(), "127.0.0.1:8001");
        }
        for address in ["", "127.0.0.1", "https://a:1", "a:1/path", "a:99999"] {
            assert!(Client::new(address).is_err(), "{address} was accepted");
        }
    }

    #[test]
    fn a_connection_closed_by_the_server_is_replaced_and_a_live_one_is_kept() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let mut client = Client::new(&listener.local_addr().unwrap().to_string()).unwrap();
            let server = tokio::spawn(async move {
                // Two requests on the first connection, then a close; one on the second.
                for requests in [2, 1] {
                    let (mut stream, _) = listener.accept().await.unwrap();
                    for _ in 0..requests {
                        answer(&mut stream).await;
                    }
                }
            });
            for _ in 0..3 {
                let response = client.get("/x?y=1").await.unwrap();
                assert_eq!(
                    (response.status, &response.body[..]),
                    (StatusCode::OK, &b"{}"[..])
                );
            }
            server.await.unwrap();
        });
    }

    async fn answer(stream: &mut TcpStream) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        assert!(head.starts_with(b"GET /x?y=1 HTTP/1.1\r\n"));
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
            .await
            .unwrap();
    }
}
