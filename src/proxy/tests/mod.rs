//! Tests of the whole request path: a proxy in this process, real sockets, scripted upstreams.

mod breaking;
mod choosing;
mod examples;
mod failing;
mod grpc;
mod limiting;
mod logging;
mod multiplexing;
mod passing;
mod proxy_protocol;
mod reloading;
mod resolving;
mod retrying;
mod routing;
mod secure_upstreams;
mod stopping;
mod strict;
mod tls;
mod tls_clients;
mod waiting;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use hyper::body::Body;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{OnDue, Proxy, ProxyShared, ProxySnapshot};
use crate::config::Config;
use crate::limit::{IdentityHasher, Limiter};

/// A test that hangs fails instead; far above what any of them needs.
const PATIENCE: Duration = Duration::from_secs(20);

async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future)
        .await
        .expect("the test hangs")
}

/// A proxy under test.
struct Gateway {
    proxy: Proxy,
    shared: Arc<ProxyShared>,
}

impl Gateway {
    /// One worker in front of `upstream`, with `more` lines of configuration.
    fn start(upstream: SocketAddr, more: &str) -> Self {
        let upstreams = format!("upstreams:\n  - name: up\n    targets: [http://{upstream}]\n    ");
        Self::start_with(
            &format!("{upstreams}response_timeout: 5s\n{more}"),
            Arc::new(|| Box::pin(std::future::ready(()))),
        )
    }

    fn start_with(yaml: &str, on_due: OnDue) -> Self {
        Self::run(&with_head(yaml), on_due)
    }

    /// Runs what a whole configuration says.
    fn run(yaml: &str, on_due: OnDue) -> Self {
        Self::serve(wired(yaml, on_due))
    }

    fn serve(shared: ProxyShared) -> Self {
        let shared = Arc::new(shared);
        let proxy = Proxy::start(&shared).unwrap();
        Self { proxy, shared }
    }

    fn address(&self) -> SocketAddr {
        self.proxy.addresses()[0]
    }

    fn metrics(&self) -> ProxySnapshot {
        self.shared.metrics().snapshot()
    }

    async fn connect(&self) -> Peer {
        Peer::new(TcpStream::connect(self.address()).await.unwrap())
    }

    /// A new connection that speaks HTTP/2.
    async fn connect_http2<B>(&self) -> http2::SendRequest<B>
    where
        B: Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + Unpin + 'static,
    {
        let stream = TcpStream::connect(self.address()).await.unwrap();
        let shaken = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
        let (sender, connection) = shaken.unwrap();
        tokio::spawn(connection);
        sender
    }

    /// Sends `request` on a new connection and reads one response.
    async fn ask(&self, request: &str) -> Message {
        let mut client = self.connect().await;
        client.send(request).await;
        client.receive().await
    }
}

/// `yaml` with what every configuration of these tests has.
fn with_head(yaml: &str) -> String {
    let head = "node_id: n1\nlisten: [127.0.0.1:0]\nproxy:\n  workers: 1\n";
    match yaml.strip_prefix("proxy:\n") {
        Some(rest) => format!("{head}{rest}"),
        None => format!("{head}{yaml}"),
    }
}

/// What a whole configuration says, not started yet.
fn wired(yaml: &str, on_due: OnDue) -> ProxyShared {
    let config = Config::from_yaml("test", yaml).unwrap_or_else(|errors| panic!("{errors}"));
    let limiter = Limiter::new(
        config.limits.rules.clone(),
        config.sync.mode,
        config.sync.significance,
        64,
    );
    let hasher = IdentityHasher::new([7; 16]);
    ProxyShared::new(Arc::new(config), Arc::new(limiter), hasher, on_due)
}

/// An address that refuses connections: its port was free a moment ago.
async fn refusing() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap()
}

/// One end of a raw HTTP/1.1 connection, over TCP or TLS.
struct Peer<S = TcpStream> {
    stream: S,
    unread: Vec<u8>,
}

/// A message as it was on the wire, its chunked framing undone.
#[derive(Debug)]
struct Message {
    head: String,
    body: Vec<u8>,
}

impl Message {
    /// The values of a field, lines joined by `|`.
    fn field(&self, name: &str) -> Option<String> {
        let lines = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        let values: Vec<&str> = lines
            .filter(|(field, _)| field.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim())
            .collect();
        (!values.is_empty()).then(|| values.join("|"))
    }

    fn status(&self) -> u16 {
        self.head
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok())
            .unwrap()
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Peer<S> {
    fn new(stream: S) -> Self {
        Self {
            stream,
            unread: Vec::new(),
        }
    }

    async fn send(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.unwrap();
    }

    /// Reads more; false at the end of the stream or when it was reset.
    async fn fill(&mut self) -> bool {
        let mut buffer = [0; 16 * 1024];
        let read = self.stream.read(&mut buffer).await.unwrap_or(0);
        self.unread.extend_from_slice(&buffer[..read]);
        read > 0
    }

    /// Reads until `end` and answers all up to and with it; `None` when the stream ends before.
    async fn until(&mut self, end: &str) -> Option<String> {
        loop {
            let found = self
                .unread
                .windows(end.len())
                .position(|window| window == end.as_bytes());
            if let Some(at) = found {
                let taken = self.unread.drain(..at + end.len()).collect();
                return Some(String::from_utf8(taken).unwrap());
            }
            if !self.fill().await {
                return None;
            }
        }
    }

    async fn exactly(&mut self, length: usize) -> Vec<u8> {
        while self.unread.len() < length {
            assert!(
                self.fill().await,
                "ended after {} of {length} bytes",
                self.unread.len()
            );
        }
        self.unread.drain(..length).collect()
    }

    async fn head(&mut self) -> Option<Message> {
        let head = self.until("\r\n\r\n").await?;
        Some(Message {
            head,
            body: Vec::new(),
        })
    }

    /// Reads one message with its body.
    async fn receive(&mut self) -> Message {
        let mut message = self.head().await.expect("a message");
        if message.field("transfer-encoding").is_some() {
            while let Some(chunk) = self.chunk().await {
                message.body.extend(chunk);
            }
        } else if let Some(length) = message.field("content-length") {
            message.body = self.exactly(length.parse().unwrap()).await;
        }
        message
    }

    /// Reads one chunk; `None` after the last, with its trailers left unread.
    async fn chunk(&mut self) -> Option<Vec<u8>> {
        let size = self.until("\r\n").await.expect("a chunk size");
        let size = usize::from_str_radix(size.trim(), 16).unwrap();
        if size == 0 {
            return None;
        }
        let data = self.exactly(size).await;
        assert_eq!(self.exactly(2).await, b"\r\n");
        Some(data)
    }

    /// Nothing more comes.
    async fn is_at_end(&mut self) -> bool {
        self.unread.is_empty() && !self.fill().await
    }
}

/// An upstream that plays a script on each connection.
struct Upstream {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl Upstream {
    /// `script` gets each connection and its number, from 0.
    async fn play<S, F>(script: S) -> Self
    where
        S: Fn(Peer, usize) -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        Self::play_at("127.0.0.1:0", script).await
    }

    /// The same, at `address`.
    async fn play_at<S, F>(address: &str, script: S) -> Self
    where
        S: Fn(Peer, usize) -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&connections);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(script(Peer::new(stream), counter.fetch_add(1, SeqCst)));
            }
        });
        Self { address, connections }
    }

    /// Answers every request with the head and the body that it got, as text.
    async fn mirror() -> Self {
        Self::play(|mut peer, _| async move {
            while let Some(mut request) = peer.head().await {
                let body = request
                    .field("content-length")
                    .map_or(0, |length| length.parse().unwrap());
                request.body = peer.exactly(body).await;
                let text = format!("{}{}", request.head, String::from_utf8_lossy(&request.body));
                let head = "HTTP/1.1 200 OK\r\nConnection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=9\r\n";
                peer.send(&format!(
                    "{head}X-End: 2\r\nContent-Length: {}\r\n\r\n{text}",
                    text.len()
                ))
                .await;
            }
        })
        .await
    }

    fn connections(&self) -> usize {
        self.connections.load(SeqCst)
    }
}
