//! What comes before HTTP on a connection: a balancer's PROXY header, the TLS handshake.

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::task::Poll;
use std::time::Duration;

use http::HeaderValue;
use socket2::SockRef;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::connection::{Connection, Signal};
use super::forwarding::Peer;
use super::listener::Terms;
use super::metrics::TransportFailure;
use super::proxy_protocol::{self, HEADER_BYTES_MAX, Progress};
use super::stream::Stream;
use super::tls::{ALPN_HTTP2, ALPN_HTTP11, Accepted, Terminator};

/// How long a handshake in progress may go on once the worker drains: its client's first request may be on its way, and
/// the slowest links need no longer for what is left of it.
const DRAIN_GRACE: Duration = Duration::from_secs(1);

/// A client's connection, ready for HTTP.
pub(super) type ClientStream = Stream<TlsStream<TcpStream>>;

impl ClientStream {
    /// Has the kernel forget what the client has not taken once this is dropped, and tell it so by a reset: a client
    /// that reads nothing would hold megabytes of it for minutes.
    pub(super) fn reset_at_end(&self) {
        if let Err(error) = SockRef::from(self.socket()).set_linger(Some(Duration::ZERO)) {
            tracing::debug!(%error, "connection cannot be reset");
        }
    }

    /// Bytes that the kernel has been given and the client's has not acknowledged (TIOCOUTQ, tcp(7)); 0 when it does not
    /// say. The kernel tells of room only once a third of its buffer is free, so writes alone would not show that a slow
    /// client takes anything.
    #[expect(unsafe_code, reason = "std and socket2 ask the kernel for no queue")]
    pub(super) fn untaken(&self) -> u64 {
        let mut bytes: libc::c_int = 0;
        // SAFETY: the descriptor is open as long as `self` is borrowed, and the request writes one int to where it is
        // told.
        let outcome = unsafe { libc::ioctl(self.socket().as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
        if outcome == 0 {
            u64::try_from(bytes).unwrap_or(0)
        } else {
            0
        }
    }

    fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.get_ref().0,
        }
    }

    /// Whether the client may speak HTTP/2, or else HTTP/1: over TLS it keeps to what was agreed on (RFC 7301 §3.2,
    /// RFC 9113 §3.2), if it asked for anything.
    pub(super) fn allows(&self, http2: bool) -> bool {
        let agreed = match self {
            Self::Plain(_) => None,
            Self::Tls(stream) => stream.get_ref().1.alpn_protocol(),
        };
        agreed.is_none_or(|agreed| agreed == if http2 { ALPN_HTTP2 } else { ALPN_HTTP11 })
    }
}

/// Brings a connection to where HTTP begins, by the terms of its listener. `None` when it ended before, or took longer
/// than a client may be silent.
pub(super) async fn establish(
    connection: &Connection,
    stream: TcpStream,
    terms: &Terms,
) -> Option<ClientStream> {
    if terms.tls.is_none() && !terms.proxy_protocol {
        return Some(ClientStream::Plain(stream));
    }
    // Boxed, so that plain connections carry none of it.
    let work = Box::pin(prepare(connection, stream, terms));
    match unless_closed(connection, work).await? {
        Ok((stream, peer)) => {
            connection.establish(peer);
            Some(stream)
        }
        Err((failure, error)) => {
            connection.worker().shard().transport_failed(failure);
            let address = connection.peer().address;
            tracing::debug!(%address, failure = failure.label(), %error, "connection ended before HTTP");
            None
        }
    }
}

async fn prepare(
    connection: &Connection,
    mut stream: TcpStream,
    terms: &Terms,
) -> Result<(ClientStream, Peer), (TransportFailure, io::Error)> {
    let mut address = connection.peer().address;
    if terms.proxy_protocol {
        if !connection.peer().trusted {
            let error = io::Error::new(io::ErrorKind::PermissionDenied, "not from a trusted proxy");
            return Err((TransportFailure::ProxyHeader, error));
        }
        let client = read_proxy_header(&mut stream).await;
        let client = client.map_err(|error| (TransportFailure::ProxyHeader, error))?;
        address = client.map_or(address, |client| client.ip());
    }
    let peer = Peer::new(address, &connection.worker().plan().shared.config().proxy);
    match &terms.tls {
        None => Ok((ClientStream::Plain(stream), peer)),
        Some(terminator) => {
            let accepted = handshake(terminator, stream).await;
            let (stream, certificate) = accepted.map_err(|error| (TransportFailure::TlsHandshake, error))?;
            connection.worker().shard().tls_handshakes.add(1);
            Ok((stream, peer.over_tls(certificate)))
        }
    }
}

async fn handshake(
    terminator: &Terminator,
    stream: TcpStream,
) -> io::Result<(ClientStream, Option<HeaderValue>)> {
    let Accepted { stream, certificate } = terminator.accept(stream).await?;
    Ok((ClientStream::Tls(Box::new(stream)), certificate))
}

/// Takes the PROXY header off `stream`, and not a byte more. `None`: the connection is that of the socket's peer.
async fn read_proxy_header(stream: &mut TcpStream) -> io::Result<Option<SocketAddr>> {
    let mut header = [0; HEADER_BYTES_MAX];
    let mut filled = 0;
    loop {
        let free = header.get_mut(filled..).unwrap_or_default();
        let peeked = stream.peek(free).await?;
        if peeked == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let seen = header.get(..filled + peeked).unwrap_or_default();
        let progress = proxy_protocol::parse(seen);
        let progress = progress.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        let end = match progress {
            Progress::Complete { length, .. } => length,
            Progress::Partial => filled + peeked,
        };
        stream
            .read_exact(header.get_mut(filled..end).unwrap_or_default())
            .await?;
        filled = end;
        if let Progress::Complete { client, .. } = progress {
            return Ok(client);
        }
    }
}

/// Runs `work` to its end unless the worker closes the connection first.
async fn unless_closed<F: Future>(connection: &Connection, work: F) -> Option<F::Output> {
    tokio::select! {
        // What has been received is worked off before a signal is heeded.
        biased;
        done = work => Some(done),
        () = closed(connection) => None,
    }
}

/// Ends when the worker closes the connection: at once, or a while after it begins to drain.
async fn closed(connection: &Connection) {
    if signalled(connection, Signal::Drain).await == Signal::Drain {
        let _ = tokio::time::timeout(DRAIN_GRACE, signalled(connection, Signal::Expire)).await;
    }
}

async fn signalled(connection: &Connection, least: Signal) -> Signal {
    poll_fn(|cx| match connection.attend(cx) {
        signal if signal >= least => Poll::Ready(signal),
        _ => Poll::Pending,
    })
    .await
}
