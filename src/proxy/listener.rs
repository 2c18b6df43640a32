//! One worker's listeners: what connections to them begin with, and how they are accepted.

use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::OwnedSemaphorePermit;

use super::connection;
use super::tls::{Terminator, Watch};
use super::worker::Worker;
use crate::config::ListenerConfig;
use crate::sockets::{EXHAUSTED_PAUSE, is_of_one_connection};

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
