//! Listening sockets: one per address and worker, all bound to the same port (SO_REUSEPORT), so that the
//! kernel spreads connections and workers share no accept queue.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::OwnedSemaphorePermit;

use super::connection;
use super::tls::{Terminator, Watch};
use super::worker::Worker;
use crate::config::ListenerConfig;

/// Connections that wait to be accepted, per listener; the kernel caps it at `somaxconn` (4,096 by default).
const BACKLOG: i32 = 4096;
/// The pause after an accept that failed for want of descriptors or memory, which only time brings back.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(50);

/// What connections to one listener begin with.
#[derive(Clone)]
pub(super) struct Terms {
    /// Ends their TLS; without it they are plain.
    pub(super) tls: Option<Arc<Terminator>>,
    /// They begin with a PROXY header.
    pub(super) proxy_protocol: bool,
}

impl Terms {
    /// Those of each of `listeners`, whose TLS is that of `certificates`.
    pub(super) fn of(listeners: &[ListenerConfig], certificates: &Watch) -> Vec<Self> {
        let with_tls = listeners.iter().zip(certificates.terminators());
        let terms = with_tls.map(|(listener, terminator)| Self {
            tls: terminator.clone(),
            proxy_protocol: listener.proxy_protocol,
        });
        terms.collect()
    }
}

/// One worker's part of a listener.
pub(super) struct Listener {
    pub(super) socket: TcpListener,
    /// Its place in the configuration.
    pub(super) index: usize,
}

/// Binds `address` once per worker; port 0 becomes the same free port for all.
///
/// # Errors
/// When the address cannot be bound, or another program listens on it: sharing a port with a stranger
/// would split the clients between both.
pub(super) fn bind(address: SocketAddr, workers: usize) -> io::Result<(SocketAddr, Vec<StdListener>)> {
    if address.port() != 0 {
        // Without SO_REUSEPORT the kernel refuses an address that anybody listens on.
        drop(open(address, false)?);
    }
    let first = open(address, true)?;
    let bound = first.local_addr()?;
    let more = (1..workers).map(|_| open(bound, true));
    let listeners = std::iter::once(Ok(first))
        .chain(more)
        .collect::<io::Result<_>>()?;
    Ok((bound, listeners))
}

fn open(address: SocketAddr, share: bool) -> io::Result<StdListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(share)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Accepts connections for as long as it is polled. At the connection cap it stops accepting, so that
/// more wait in the kernel's backlog.
pub(super) async fn accept(worker: Rc<Worker>, listener: Rc<Listener>) {
    loop {
        match listener.socket.accept().await {
            Ok((stream, peer)) => {
                let slots = Arc::clone(worker.connection_slots());
                let Ok(permit) = slots.acquire_owned().await else {
                    return;
                };
                start(&worker, stream, &listener, peer, permit);
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "cannot accept connections");
                tokio::time::sleep(EXHAUSTED_PAUSE).await;
            }
        }
    }
}

/// Accepts what waits in the backlog and no more: closing a listener resets the connections in it.
pub(super) fn accept_waiting(worker: &Rc<Worker>, listener: &Listener) {
    let mut cx = Context::from_waker(Waker::noop());
    while let Poll::Ready(Ok((stream, peer))) = listener.socket.poll_accept(&mut cx) {
        let slots = Arc::clone(worker.connection_slots());
        let Ok(permit) = slots.try_acquire_owned() else {
            return;
        };
        start(worker, stream, listener, peer, permit);
    }
}

fn start(
    worker: &Rc<Worker>,
    stream: TcpStream,
    listener: &Listener,
    peer: SocketAddr,
    permit: OwnedSemaphorePermit,
) {
    // A small response must not wait for the acknowledgement of the one before it.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "connection ended before it was served");
        return;
    }
    let plan = worker.plan();
    let Some(terms) = plan.terms.get(listener.index).cloned() else {
        return;
    };
    let registered = worker.register(peer.ip(), permit);
    let serving: Pin<Box<dyn Future<Output = ()>>> = Box::pin(connection::serve(registered, stream, terms));
    tokio::task::spawn_local(serving);
}

/// Errors that Linux reports at accept although they concern only the connection that would have been
/// accepted (accept(2), "Error handling").
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    [ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted].contains(&error.kind())
}
