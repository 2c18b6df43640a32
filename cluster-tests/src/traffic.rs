//! Clients that send without a break, and never send again what may have been received.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::client::CLIENT_HEADER;
use crate::service::Endpoints;

/// Between two requests of a client: a load that leaves a debug build time for all else.
const PAUSE: Duration = Duration::from_millis(5);
/// Longest wait for an answer.
const TIMEOUT: Duration = Duration::from_secs(30);
/// How often one request may find that its connection takes none any more.
const CONNECTIONS_MAX: usize = 10;

/// How a client connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// HTTP/1.1, one connection for as long as it is open.
    KeepAlive,
    /// HTTP/1.1, a connection for each request.
    NewConnection,
    /// HTTP/2 by prior knowledge, one connection for as long as it is open.
    Http2,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::KeepAlive, Self::NewConnection, Self::Http2];
}

/// What clients have seen.
#[derive(Debug, Default)]
pub struct Seen {
    answered: AtomicU64,
    connections: AtomicU64,
    unsent: AtomicU64,
}

impl Seen {
    /// Requests answered with 200.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.answered.load(Relaxed)
    }

    /// Connections made.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.connections.load(Relaxed)
    }

    /// Times that a connection ended before a byte of a request had been written to it. Such a request goes out on
    /// another one: nobody can have received it.
    #[must_use]
    pub fn unsent(&self) -> u64 {
        self.unsent.load(Relaxed)
    }
}

/// Running clients.
#[derive(Debug)]
pub struct Traffic {
    clients: JoinSet<anyhow::Result<()>>,
    is_over: Arc<AtomicBool>,
    /// By kind.
    seen: [Arc<Seen>; Kind::ALL.len()],
}

impl Traffic {
    /// Who the clients are counted as.
    pub const IDENTITY: &str = "traffic";

    /// Starts as many clients of each kind.
    #[must_use]
    pub fn start(of_each: usize, endpoints: &Arc<Endpoints>) -> Self {
        let mut traffic = Self {
            clients: JoinSet::new(),
            is_over: Arc::default(),
            seen: Default::default(),
        };
        for (kind, seen) in Kind::ALL.into_iter().zip(&traffic.seen) {
            for _ in 0..of_each {
                let client = Client {
                    kind,
                    endpoints: Arc::clone(endpoints),
                    seen: Arc::clone(seen),
                    kept: None,
                };
                traffic.clients.spawn(client.run(Arc::clone(&traffic.is_over)));
            }
        }
        traffic
    }

    /// How many requests were answered so far.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.seen.iter().map(|seen| seen.answered()).sum()
    }

    /// Panics if a request has failed.
    ///
    /// # Panics
    /// One has.
    pub fn is_well(&mut self) {
        if let Some(ended) = self.clients.try_join_next() {
            panic!("a client has ended: {ended:?}");
        }
    }

    /// Waits until so many more requests have been answered.
    ///
    /// # Panics
    /// One failed.
    pub async fn goes_on(&mut self, requests: u64) {
        let enough = self.answered() + requests;
        while self.answered() < enough {
            self.is_well();
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Stops, and gives what the clients have seen by kind. Not one request has failed.
    ///
    /// # Panics
    /// One has.
    pub async fn stop(mut self) -> Vec<(Kind, Arc<Seen>)> {
        self.is_over.store(true, Relaxed);
        while let Some(client) = self.clients.join_next().await {
            let outcome = client.expect("a client does not panic");
            outcome.expect("no request failed");
        }
        Kind::ALL.into_iter().zip(self.seen).collect()
    }
}

enum Connection {
    Http1(http1::SendRequest<Empty<Bytes>>),
    Http2(http2::SendRequest<Empty<Bytes>>),
}

impl Connection {
    async fn open(kind: Kind, address: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await.context("connecting")?;
        stream.set_nodelay(true)?;
        let io = TokioIo::new(stream);
        // Both tasks end with the sender or the server.
        Ok(if kind == Kind::Http2 {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
            tokio::spawn(connection);
            Self::Http2(sender)
        } else {
            let (sender, connection) = http1::handshake(io).await?;
            tokio::spawn(connection);
            Self::Http1(sender)
        })
    }

    async fn is_open(&mut self) -> bool {
        match self {
            Self::Http1(sender) => sender.ready().await.is_ok(),
            Self::Http2(sender) => sender.ready().await.is_ok(),
        }
    }

    async fn send(&mut self, request: Asked) -> Result<Response<Incoming>, TrySendError<Asked>> {
        match self {
            Self::Http1(sender) => sender.try_send_request(request).await,
            Self::Http2(sender) => sender.try_send_request(request).await,
        }
    }
}

type Asked = Request<Empty<Bytes>>;

struct Client {
    kind: Kind,
    endpoints: Arc<Endpoints>,
    seen: Arc<Seen>,
    kept: Option<Connection>,
}

impl Client {
    async fn run(mut self, is_over: Arc<AtomicBool>) -> anyhow::Result<()> {
        while !is_over.load(Relaxed) {
            let exchange = tokio::time::timeout(TIMEOUT, self.exchange()).await;
            exchange
                .context("no answer in time")
                .flatten()
                .with_context(|| format!("{:?}", self.kind))?;
            self.seen.answered.fetch_add(1, Relaxed);
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }

    /// One request, answered with 200 and read to its end.
    async fn exchange(&mut self) -> anyhow::Result<()> {
        let mut request = Request::get("http://app.example/")
            .header(CLIENT_HEADER, Traffic::IDENTITY)
            .header("host", "app.example")
            .body(Empty::new())?;
        for _ in 0..CONNECTIONS_MAX {
            let mut connection = self.connection().await?;
            let response = match connection.send(request).await {
                Ok(response) => response,
                Err(mut error) => match error.take_message() {
                    Some(unsent) => {
                        self.seen.unsent.fetch_add(1, Relaxed);
                        request = unsent;
                        continue;
                    }
                    None => return Err(error.into_error().into()),
                },
            };
            let status = response.status();
            let body = response.into_body().collect().await.context("reading the body")?;
            if status != StatusCode::OK {
                bail!("{status}: {}", String::from_utf8_lossy(&body.to_bytes()));
            }
            if self.kind != Kind::NewConnection {
                self.kept = Some(connection);
            }
            return Ok(());
        }
        bail!("{CONNECTIONS_MAX} connections took no request")
    }

    async fn connection(&mut self) -> anyhow::Result<Connection> {
        if let Some(mut kept) = self.kept.take()
            && kept.is_open().await
        {
            return Ok(kept);
        }
        self.seen.connections.fetch_add(1, Relaxed);
        Connection::open(self.kind, self.endpoints.next()).await
    }
}
