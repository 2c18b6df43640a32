//! Upstream connections of one worker: made, lent to one request at a time, kept while idle.
//!
//! Never shared between threads, so nothing here locks. Idle connections are lent last in, first out: the
//! warmest first, and those that traffic no longer needs grow old and are closed.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::body::RequestBody;
use super::forward::UpstreamError;
use super::strict::{Asked, Limits, ResponseGuard};
use super::worker::Ticks;
use crate::config::{Target, UpstreamConfig};

/// Most bytes buffered of one upstream connection in each direction; with hyper's adaptive reads, only
/// fast bodies ever fill it.
const BUFFER_BYTES_MAX: usize = 128 * 1024;
/// Largest response head: four times what browsers accept of cookies per site.
const RESPONSE_HEAD_BYTES_MAX: usize = 64 * 1024;
/// What is let pass of a response's head: hyper reads as many fields, and anything goes as a body.
const RESPONSE_LIMITS: Limits = Limits {
    request_line_bytes_max: 0,
    head_bytes_max: RESPONSE_HEAD_BYTES_MAX,
    fields_max: 100,
    body_bytes_max: u64::MAX,
};
/// Most addresses of one name that are tried for one connection.
const ADDRESSES_MAX: usize = 8;

/// One upstream as one worker sees it.
pub(super) struct Upstream {
    /// The servers; at least one.
    pub(super) targets: Vec<Rc<TargetPool>>,
    /// Longest wait for a connection.
    pub(super) connect_timeout: Duration,
    /// Longest wait for the head of a response.
    pub(super) response_timeout: Duration,
    turn: Cell<usize>,
}

impl Upstream {
    /// `offset` makes workers start their rounds at different targets.
    pub(super) fn new(config: &UpstreamConfig, ticks: &Rc<Ticks>, offset: usize) -> Self {
        let pool = |target: &Target| Rc::new(TargetPool::new(target, config.idle_connections, ticks));
        Self {
            targets: config.targets.iter().map(pool).collect(),
            connect_timeout: config.connect_timeout,
            response_timeout: config.response_timeout,
            turn: Cell::new(offset),
        }
    }

    /// The targets in the order in which this request shall try them: round robin.
    pub(super) fn next_targets(&self) -> impl Iterator<Item = &Rc<TargetPool>> {
        let turn = self.turn.get();
        self.turn.set(turn.wrapping_add(1));
        let first = turn.checked_rem(self.targets.len()).unwrap_or(0);
        let (before, from) = self.targets.split_at(first);
        from.iter().chain(before)
    }

    /// Closes connections that have been idle since before `oldest` or are dead.
    pub(super) fn sweep(&self, idle_ticks_max: u32) {
        self.targets
            .iter()
            .for_each(|target| target.sweep(idle_ticks_max));
    }
}

/// One server, and the idle connections to it.
pub(super) struct TargetPool {
    /// Path put before the request's path.
    pub(super) base_path: String,
    /// `host:port`, for requests that name no host.
    pub(super) authority: String,
    address: Address,
    idle: RefCell<Vec<Idle>>,
    idle_max: usize,
    ticks: Rc<Ticks>,
}

enum Address {
    Socket(SocketAddr),
    Name(String, u16),
}

struct Idle {
    sender: SendRequest<RequestBody>,
    asked: Asked,
    since: u32,
}

impl TargetPool {
    fn new(target: &Target, idle_max: usize, ticks: &Rc<Ticks>) -> Self {
        let host = target.host.trim_start_matches('[').trim_end_matches(']');
        let ip = host.parse::<IpAddr>();
        Self {
            base_path: target.base_path.clone(),
            authority: match ip {
                Ok(ip) => SocketAddr::new(ip, target.port).to_string(),
                Err(_) => format!("{host}:{}", target.port),
            },
            address: match ip {
                Ok(ip) => Address::Socket(SocketAddr::new(ip, target.port)),
                Err(_) => Address::Name(host.to_owned(), target.port),
            },
            idle: RefCell::new(Vec::new()),
            idle_max,
            ticks: Rc::clone(ticks),
        }
    }

    /// The idle connection that was used last and can take a request now. Dead ones on the way are
    /// dropped; ones whose last exchange still winds down stay.
    pub(super) fn checkout(self: &Rc<Self>) -> Option<Lease> {
        let mut idle = self.idle.borrow_mut();
        for at in (0..idle.len()).rev() {
            let sender = &idle[at].sender;
            if sender.is_closed() {
                idle.swap_remove(at);
            } else if sender.is_ready() {
                let Idle { sender, asked, .. } = idle.remove(at);
                return Some(Lease {
                    sender,
                    asked,
                    pool: Rc::clone(self),
                });
            }
        }
        None
    }

    /// Opens a connection, for at most `timeout`, name resolution included.
    ///
    /// # Errors
    /// [`UpstreamError`] of the kinds that happen before anything is sent.
    pub(super) async fn connect(self: &Rc<Self>, timeout: Duration) -> Result<Lease, UpstreamError> {
        let opened = tokio::time::timeout(timeout, self.open()).await;
        let stream = opened.map_err(|_| UpstreamError::ConnectTimeout)??;
        let (stream, asked) = ResponseGuard::new(TokioIo::new(stream), RESPONSE_LIMITS);
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(BUFFER_BYTES_MAX)
            .max_header_size(RESPONSE_HEAD_BYTES_MAX)
            .handshake(stream)
            .await
            .map_err(UpstreamError::Broken)?;
        let connection = connection.with_upgrades();
        tokio::task::spawn_local(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "upstream connection ended");
            }
        });
        Ok(Lease {
            sender,
            asked,
            pool: Rc::clone(self),
        })
    }

    async fn open(&self) -> Result<TcpStream, UpstreamError> {
        let stream = match &self.address {
            Address::Socket(address) => TcpStream::connect(address).await,
            Address::Name(host, port) => {
                let found = tokio::net::lookup_host((host.as_str(), *port)).await;
                connect_any(found.map_err(UpstreamError::Unresolved)?.take(ADDRESSES_MAX)).await?
            }
        };
        let stream = stream.map_err(UpstreamError::Connect)?;
        // A small request must not wait for the acknowledgement of the one before it.
        stream.set_nodelay(true).map_err(UpstreamError::Connect)?;
        Ok(stream)
    }

    fn release(&self, sender: SendRequest<RequestBody>, asked: Asked) {
        let mut idle = self.idle.borrow_mut();
        if !sender.is_closed() && idle.len() < self.idle_max {
            let since = self.ticks.now();
            idle.push(Idle { sender, asked, since });
        }
    }

    fn sweep(&self, idle_ticks_max: u32) {
        let now = self.ticks.now();
        let keep = |idle: &Idle| !idle.sender.is_closed() && now.wrapping_sub(idle.since) < idle_ticks_max;
        self.idle.borrow_mut().retain(keep);
    }
}

/// The first connection that one of `addresses` accepts, in a result of the last failure.
async fn connect_any(
    addresses: impl Iterator<Item = SocketAddr>,
) -> Result<io::Result<TcpStream>, UpstreamError> {
    let mut outcome = Err(UpstreamError::Unresolved(io::Error::from(
        io::ErrorKind::NotFound,
    )));
    for address in addresses {
        let connected = TcpStream::connect(address).await;
        if connected.is_ok() {
            return Ok(connected);
        }
        outcome = Ok(connected);
    }
    outcome
}

/// A connection lent to one request. Dropping it closes the connection.
pub(super) struct Lease {
    /// Sends the request.
    pub(super) sender: SendRequest<RequestBody>,
    /// To be told of each request before it is sent.
    pub(super) asked: Asked,
    /// Where it belongs.
    pub(super) pool: Rc<TargetPool>,
}

impl Lease {
    /// Gives the connection back: its response has been read to the end.
    pub(super) fn release(self) {
        self.pool.release(self.sender, self.asked);
    }
}
