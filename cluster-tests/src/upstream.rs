//! The upstream of the scenarios, and their oracle: what arrives here was admitted.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::client::CLIENT_HEADER;

/// An HTTP/1.1 server that counts requests by client and can hold its answers back.
#[derive(Debug)]
pub struct Upstream {
    address: SocketAddr,
    state: Arc<State>,
    server: JoinHandle<()>,
}

#[derive(Debug)]
struct State {
    counts: Mutex<Counts>,
    held: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Counts {
    by_client: HashMap<String, u64>,
    waiting: usize,
}

impl Upstream {
    /// Starts one on a free loopback port, in the runtime of the caller.
    ///
    /// # Panics
    /// No loopback port can be bound.
    pub async fn start() -> Self {
        Self::start_at(Ipv4Addr::LOCALHOST.into()).await
    }

    /// Starts one on a free port of `address`, in the runtime of the caller.
    ///
    /// # Panics
    /// No such port can be bound.
    pub async fn start_at(address: IpAddr) -> Self {
        let listener = TcpListener::bind((address, 0)).await.expect("a port is free");
        let address = listener.local_addr().expect("a bound socket has an address");
        let state = Arc::new(State {
            counts: Mutex::default(),
            held: watch::Sender::new(false),
        });
        let server = tokio::spawn(serve(listener, Arc::clone(&state)));
        Self {
            address,
            state,
            server,
        }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many requests of the client `identity` arrived.
    #[must_use]
    pub fn count(&self, identity: &str) -> u64 {
        self.state.counts().by_client.get(identity).copied().unwrap_or(0)
    }

    /// How many requests wait for their answer now.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.state.counts().waiting
    }

    /// Holds every answer back until [`Upstream::release`].
    pub fn hold(&self) {
        self.state.held.send_replace(true);
    }

    /// Lets all answers go.
    pub fn release(&self) {
        self.state.held.send_replace(false);
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl State {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().expect("no holder of this lock panics")
    }
}

async fn serve(listener: TcpListener, state: Arc<State>) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(connection(stream, Arc::clone(&state)));
    }
}

async fn connection(stream: TcpStream, state: Arc<State>) {
    let service = service_fn(|request| answer(request, &state));
    // A gateway that was killed breaks its connections; that is what some scenarios are about.
    let _ = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn answer(request: Request<Incoming>, state: &State) -> Result<Response<Full<Bytes>>, Infallible> {
    let client = request
        .headers()
        .get(CLIENT_HEADER)
        .map_or(&b""[..], |value| value.as_bytes());
    let client = String::from_utf8_lossy(client).into_owned();
    {
        let mut counts = state.counts();
        *counts.by_client.entry(client).or_default() += 1;
        counts.waiting += 1;
    }
    // The sender lives in `state`, so the wait cannot fail.
    let _ = state.held.subscribe().wait_for(|held| !held).await;
    state.counts().waiting -= 1;
    Ok(Response::new(Full::from("hello\n")))
}
