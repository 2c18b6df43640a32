//! The Redis contestant: a reverse proxy that increments a counter in Redis for each request before it forwards it,
//! as gateways with a central store do. Without a counter it is the same path without a limit.

use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use cluster_tests::Window;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use redis::Script;
use redis::aio::MultiplexedConnection;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::sync::Mutex;

use crate::redis_server::connect;

/// Counts and sets the time to live in one atomic step and one round trip.
const COUNT: &str = "local hits = redis.call('INCR', KEYS[1])
if hits == 1 then redis.call('PEXPIRE', KEYS[1], ARGV[1]) end
return hits";

/// How long a counter outlives its window.
const GRACE: Duration = Duration::from_secs(5);

const ANNOUNCEMENT: &str = "listening on ";

type Body = BoxBody<Bytes, hyper::Error>;

/// The processes of this contestant. Dropping it kills them.
pub(crate) struct Peers {
    addresses: Vec<SocketAddr>,
    _processes: Vec<Child>,
}

/// The port of Redis, the limit, and the window.
type Counter = (u16, u64, Duration);

impl Peers {
    /// Starts `count` processes of this program in front of `upstream`.
    pub(crate) async fn start(
        count: usize,
        upstream: SocketAddr,
        counter: Option<Counter>,
    ) -> anyhow::Result<Self> {
        let mut peers = Self {
            addresses: Vec::new(),
            _processes: Vec::new(),
        };
        for _ in 0..count {
            let mut command = Command::new(std::env::current_exe()?);
            command.args(["peer", &upstream.to_string()]);
            if let Some((port, limit, window)) = counter {
                command.args([port.to_string(), limit.to_string(), window.as_secs().to_string()]);
            }
            let mut process = command.stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
            let stdout = process.stdout.take().context("a pipe was asked for")?;
            let line = BufReader::new(stdout).lines().next_line().await?;
            let address = line.as_deref().and_then(|line| line.strip_prefix(ANNOUNCEMENT));
            peers
                .addresses
                .push(address.context("a peer did not start")?.parse()?);
            peers._processes.push(process);
        }
        Ok(peers)
    }

    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.addresses.clone()
    }
}

struct Peer {
    upstream: SocketAddr,
    counter: Option<RedisCounter>,
}

struct RedisCounter {
    connection: MultiplexedConnection,
    script: Script,
    limit: u64,
    window: Duration,
}

/// Serves until it is killed. `args`: the upstream; then, to count, the port of Redis, the limit and the window in
/// seconds.
pub(crate) async fn run(args: &[String]) -> anyhow::Result<()> {
    let upstream = args
        .first()
        .context("peer UPSTREAM [REDIS LIMIT SECONDS]")?
        .parse()?;
    let counter = match &args[1..] {
        [] => None,
        [port, limit, seconds] => Some(RedisCounter {
            connection: connect(port.parse()?).await?,
            script: Script::new(COUNT),
            limit: limit.parse()?,
            window: Duration::from_secs(seconds.parse()?),
        }),
        _ => bail!("peer UPSTREAM [REDIS LIMIT SECONDS]"),
    };
    let peer = Arc::new(Peer { upstream, counter });
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{ANNOUNCEMENT}{}", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let peer = Arc::clone(&peer);
        tokio::spawn(async move {
            // One request at a time arrives on a connection, so each needs one to the upstream.
            let kept = Mutex::new(None);
            let service = service_fn(|request| peer.answer(request, &kept));
            let http1 = hyper::server::conn::http1::Builder::new();
            // A client that goes away breaks its connection, which concerns nobody else.
            let _ = http1.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

impl Peer {
    async fn answer(
        &self,
        request: Request<Incoming>,
        kept: &Mutex<Option<SendRequest<Incoming>>>,
    ) -> anyhow::Result<Response<Body>> {
        let Some(counter) = &self.counter else {
            return self.forward(request, kept).await;
        };
        let window = Window::in_progress(counter.window);
        let client = request.headers().get("x-client").context("no client")?.to_str()?;
        let mut response = if counter.admits(client, window).await? {
            self.forward(request, kept).await?
        } else {
            let body = Full::from("{\"message\":\"API rate limit exceeded\"}");
            let mut denied = Response::new(body.map_err(|never| match never {}).boxed());
            *denied.status_mut() = StatusCode::TOO_MANY_REQUESTS;
            denied
        };
        // The client counts by it, whoever answers.
        response
            .headers_mut()
            .insert("x-weir-window", window.start.into());
        Ok(response)
    }

    async fn forward(
        &self,
        request: Request<Incoming>,
        kept: &Mutex<Option<SendRequest<Incoming>>>,
    ) -> anyhow::Result<Response<Body>> {
        let mut kept = kept.lock().await;
        let mut sender = match kept.take() {
            Some(sender) if !sender.is_closed() => sender,
            _ => self.connect().await?,
        };
        sender.ready().await?;
        let response = sender.send_request(request).await?;
        *kept = Some(sender);
        Ok(response.map(BodyExt::boxed))
    }

    async fn connect(&self) -> anyhow::Result<SendRequest<Incoming>> {
        let stream = TcpStream::connect(self.upstream).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(sender)
    }
}

impl RedisCounter {
    async fn admits(&self, client: &str, window: Window) -> anyhow::Result<bool> {
        let mut connection = self.connection.clone();
        let lifetime = self.window + GRACE;
        let hits: u64 = self
            .script
            .key(format!("{client}:{}", window.start))
            .arg(u64::try_from(lifetime.as_millis())?)
            .invoke_async(&mut connection)
            .await?;
        ensure!(hits > 0, "a counter starts at 1");
        Ok(hits <= self.limit)
    }
}
