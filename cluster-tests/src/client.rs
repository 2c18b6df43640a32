//! A keep-alive client, and what it reads off each answer.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{AUTHORIZATION, HOST, HeaderMap};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::{Cluster, Node, Tally};

/// The request header that names the client: what the clusters of the scenarios count by.
pub const CLIENT_HEADER: &str = "x-client";

/// The bearer token of the admin API, where a node asks for one.
pub(crate) const ADMIN_TOKEN: &str = "scenario";

/// Longest wait for an answer: above every wait of the gateway itself, so that its own answer is seen.
const TIMEOUT: Duration = Duration::from_secs(30);

/// One client with its own identity. It keeps one connection to each node and sends one request at a
/// time, so every request starts after the last answer was read.
#[derive(Debug)]
pub struct Client {
    identity: String,
    connections: HashMap<SocketAddr, SendRequest<Empty<Bytes>>>,
}

/// An answer, read to its end.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// All headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Answer {
    /// The node that answered (`X-Weir-Node`).
    #[must_use]
    pub fn node(&self) -> Option<&str> {
        self.headers.get("x-weir-node")?.to_str().ok()
    }

    /// The window that the node counted in (`X-Weir-Window`): its start in Unix milliseconds.
    #[must_use]
    pub fn window(&self) -> Option<u64> {
        self.headers.get("x-weir-window")?.to_str().ok()?.parse().ok()
    }

    /// What is left in the tightest window (`RateLimit-Remaining`).
    #[must_use]
    pub fn remaining(&self) -> Option<u64> {
        self.headers
            .get("ratelimit-remaining")?
            .to_str()
            .ok()?
            .parse()
            .ok()
    }
}

impl Client {
    /// A client that is counted as `identity`, which a scenario uses once.
    #[must_use]
    pub fn new(identity: impl Into<String>) -> Self {
        Self {
            identity: identity.into(),
            connections: HashMap::new(),
        }
    }

    /// Who this client is counted as.
    #[must_use]
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// `GET /` through `node`.
    ///
    /// # Panics
    /// No answer came; a 429 or 502 is an answer.
    pub async fn get(&mut self, node: &Node) -> Answer {
        self.try_get(node.listen()).await.unwrap_or_else(|error| {
            panic!(
                "client {} got no answer from node {}: {error:#}",
                self.identity,
                node.id()
            )
        })
    }

    /// `count` requests, one after the other, round robin over `nodes`.
    ///
    /// # Panics
    /// Some request got no answer.
    pub async fn round_robin(&mut self, nodes: &[Node], count: usize) -> Tally {
        let mut tally = Tally::default();
        for turn in 0..count {
            tally.record(&self.get(&nodes[turn % nodes.len()]).await);
        }
        tally
    }

    /// Like [`Client::round_robin`], but every node of `cluster` gets the time to hear of each request
    /// before the next one: what is admitted then does not depend on how the machine schedules threads.
    ///
    /// # Panics
    /// Some request got no answer, or some node did not hear of it.
    pub async fn patient_round_robin(&mut self, cluster: &Cluster, nodes: &[Node], count: usize) -> Tally {
        let mut tally = Tally::default();
        for turn in 0..count {
            tally.record(&self.get(&nodes[turn % nodes.len()]).await);
            cluster.settled(&self.identity).await;
        }
        tally
    }

    /// `GET /` at `address`, over the kept connection if it still lives. A request that may have been
    /// sent is never sent again.
    ///
    /// # Errors
    /// The connection was refused, or broke before the whole answer was read.
    pub async fn try_get(&mut self, address: SocketAddr) -> anyhow::Result<Answer> {
        tokio::time::timeout(TIMEOUT, self.exchange(address))
            .await
            .unwrap_or_else(|_| Err(anyhow!("no answer within {TIMEOUT:?}")))
    }

    /// Connects to `address` unless a connection is kept, so that the next request costs no handshake.
    ///
    /// # Errors
    /// The connection was refused.
    pub async fn connect(&mut self, address: SocketAddr) -> anyhow::Result<()> {
        let sender = self.connection(address).await?;
        self.connections.insert(address, sender);
        Ok(())
    }

    async fn exchange(&mut self, address: SocketAddr) -> anyhow::Result<Answer> {
        let request = Request::get("/")
            .header(HOST, "app.example")
            .header(CLIENT_HEADER, &self.identity)
            .body(Empty::new())?;
        let mut sender = self.connection(address).await?;
        let answer = read(sender.send_request(request).await.context("sending")?).await?;
        self.connections.insert(address, sender);
        Ok(answer)
    }

    async fn connection(&mut self, address: SocketAddr) -> anyhow::Result<SendRequest<Empty<Bytes>>> {
        if let Some(mut kept) = self.connections.remove(&address)
            && kept.ready().await.is_ok()
        {
            return Ok(kept);
        }
        connect(address).await
    }
}

/// `GET path` at `address` over a connection of its own.
///
/// # Errors
/// See [`Client::try_get`].
pub async fn fetch(address: SocketAddr, path: &str) -> anyhow::Result<Answer> {
    let exchange = async {
        let request = Request::get(path)
            .header(HOST, address.to_string())
            .header(AUTHORIZATION, format!("Bearer {ADMIN_TOKEN}"))
            .body(Empty::new())?;
        read(connect(address).await?.send_request(request).await?).await
    };
    tokio::time::timeout(TIMEOUT, exchange)
        .await
        .unwrap_or_else(|_| Err(anyhow!("no answer within {TIMEOUT:?}")))
}

async fn connect(address: SocketAddr) -> anyhow::Result<SendRequest<Empty<Bytes>>> {
    let stream = TcpStream::connect(address).await.context("connecting")?;
    stream.set_nodelay(true)?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    // Ends with the sender or the server; what breaks it reaches the caller through the sender.
    tokio::spawn(connection);
    Ok(sender)
}

async fn read(response: hyper::Response<hyper::body::Incoming>) -> anyhow::Result<Answer> {
    let (head, body) = response.into_parts();
    Ok(Answer {
        status: head.status,
        headers: head.headers,
        body: body.collect().await.context("reading the body")?.to_bytes(),
    })
}
