//! How a connection to an endpoint is made: TCP, TLS where it is spoken, and the HTTP on top.

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::time::Duration;

use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::time::MissedTickBehavior;
use tokio_rustls::client::TlsStream;

use super::super::body::RequestBody;
use super::super::connection::LocalExecutor;
use super::super::stream::Stream;
use super::super::strict::{Limits, ResponseGuard};
use super::super::tls::speaks_http2;
use super::failure::UpstreamError;
use super::pool::{Lease, Multiplexed, Open, Single, Ticket};
use super::state::UpstreamState;
use super::target::Speaks;

/// Most bytes buffered of one upstream connection in each direction. A client that reads slowly holds about three
/// times as much: what is read, what is handed over, and what is being written.
const BUFFER_BYTES_MAX: usize = 32 * 1024;
/// Largest response head: four times what browsers accept of cookies per site.
const RESPONSE_HEAD_BYTES_MAX: u32 = 64 * 1024;
/// What is let pass of a response's head: hyper reads as many fields, and anything goes as a body.
const RESPONSE_LIMITS: Limits = Limits {
    request_line_bytes_max: 0,
    head_bytes_max: RESPONSE_HEAD_BYTES_MAX as usize,
    fields_max: 100,
    body_bytes_max: u64::MAX,
};
/// Receive windows of HTTP/2, per stream and per connection: a response of a millisecond's distance at 1 GB/s.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;

/// How often a new HTTP/2 connection is looked at for what its server allows, and how many times: a server that says
/// nothing within a tenth of a second allows one stream.
const SETTINGS_LOOK: Duration = Duration::from_millis(1);
const SETTINGS_LOOKS_MAX: u32 = 100;

/// A connection to an endpoint, ready for HTTP.
type UpstreamStream = Stream<TlsStream<TcpStream>>;

impl Ticket {
    /// Opens a connection, for as long as the configuration allows.
    ///
    /// # Errors
    /// [`UpstreamError`] of the kinds that happen before anything is sent.
    pub(super) async fn connect(self) -> Result<Lease, UpstreamError> {
        let timeout = self.pool.state.config.connect_timeout;
        let opened = tokio::time::timeout(timeout, self.open()).await;
        opened.map_err(|_| UpstreamError::ConnectTimeout)?
    }

    async fn open(mut self) -> Result<Lease, UpstreamError> {
        let endpoint = &self.pool.endpoint;
        let dialled = dial(&self.pool.state, endpoint.target, endpoint.address).await;
        let (stream, speaks) = dialled.map_err(UpstreamError::Connect)?;
        let open = self.take_open();
        match speaks {
            Speaks::Http1 => {
                let (stream, asked) = ResponseGuard::new(stream, RESPONSE_LIMITS);
                let (sender, connection) = http1::Builder::new()
                    .max_buf_size(BUFFER_BYTES_MAX)
                    .max_header_size(RESPONSE_HEAD_BYTES_MAX as usize)
                    .handshake(stream)
                    .await
                    .map_err(UpstreamError::Broken)?;
                let connection = connection.with_upgrades();
                tokio::task::spawn_local(async move {
                    let _open = open;
                    note_end(connection.await);
                });
                Ok(self.lease_http1(Single { sender, asked }))
            }
            Speaks::Http2 => {
                let (sender, connection) = http2::Builder::new(LocalExecutor)
                    .timer(TokioTimer::new())
                    .initial_stream_window_size(STREAM_WINDOW)
                    .initial_connection_window_size(CONNECTION_WINDOW)
                    .max_header_list_size(RESPONSE_HEAD_BYTES_MAX)
                    // Until the server has said how many.
                    .initial_max_send_streams(1)
                    .handshake(stream)
                    .await
                    .map_err(UpstreamError::Broken)?;
                let (lease, shared) = self.lease_http2(sender);
                tokio::task::spawn_local(drive_http2(connection, Rc::downgrade(&shared), open));
                Ok(lease)
            }
        }
    }
}

/// Polls an HTTP/2 connection to its end, and tells how many streams the server allows. hyper reads that in a task
/// of its own, which wakes nobody: in the beginning this looks for it, later whenever a request is sent.
async fn drive_http2(
    connection: http2::Connection<TokioIo<UpstreamStream>, RequestBody, LocalExecutor>,
    shared: Weak<Multiplexed>,
    open: Option<Open>,
) {
    let mut connection = pin!(connection);
    let mut looks = tokio::time::interval(SETTINGS_LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut looks_left = SETTINGS_LOOKS_MAX;
    let ended = poll_fn(|cx| {
        let polled = connection.as_mut().poll(cx);
        let (Some(shared), Some(open)) = (shared.upgrade(), &open) else {
            return polled;
        };
        open.allow_streams(&shared, connection.current_max_send_streams());
        while !shared.is_settled() && looks.poll_tick(cx).is_ready() {
            looks_left -= 1;
            if looks_left == 0 {
                open.settle(&shared);
            }
        }
        polled
    });
    note_end(ended.await);
}

fn note_end(ended: hyper::Result<()>) {
    if let Err(error) = ended {
        tracing::debug!(%error, "upstream connection ended");
    }
}

/// Connects to `address`, which belongs to the target of that index, and finds out which HTTP it speaks.
///
/// # Errors
/// When it cannot be reached, or TLS fails.
pub(super) async fn dial(
    state: &UpstreamState,
    target: usize,
    address: SocketAddr,
) -> io::Result<(TokioIo<UpstreamStream>, Speaks)> {
    let stream = TcpStream::connect(address).await?;
    // A small request must not wait for the acknowledgement of the one before it.
    stream.set_nodelay(true)?;
    let speaks = state.targets[target].speaks;
    let config = &state.config.targets[target];
    if !config.tls {
        return Ok((
            TokioIo::new(Stream::Plain(stream)),
            speaks.unwrap_or(Speaks::Http1),
        ));
    }
    let tls = state.tls().ok_or_else(|| io::Error::other("TLS is not set up"))?;
    let name = state.config.tls.server_name.as_deref().unwrap_or(&config.host);
    let stream = tls.connect(name, stream).await?;
    let agreed = if speaks_http2(&stream) {
        Speaks::Http2
    } else {
        Speaks::Http1
    };
    // RFC 9113 §3.2: over TLS, HTTP/2 is spoken only once both ends agreed to it.
    if speaks == Some(Speaks::Http2) && agreed != Speaks::Http2 {
        return Err(io::Error::other("the server does not offer HTTP/2 (ALPN)"));
    }
    Ok((TokioIo::new(Stream::Tls(Box::new(stream))), agreed))
}
