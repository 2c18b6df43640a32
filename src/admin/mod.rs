//! Health, metrics and the admin API.
//!
//! Owns one HTTP/1.1 listener. Knows the other shells only through [`Node`], which the composition root
//! implements. Promises that a client can neither hold more than [`CONNECTIONS_MAX`] connections nor one
//! of them for ever, and that nothing here runs on a thread that proxies or gossips.

mod api;
mod limits;
pub mod metrics;
pub mod views;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

use crate::cluster::RowCounts;
use crate::limit::{Limiter, RowRef, SyncMode, UnixMillis};
use crate::replica::NodeId;

use self::metrics::Metrics;
use self::views::{ForgetView, ModeView, PeersView, RosterView};

/// Most connections at once; more wait in the kernel's backlog. A few scrapers, probes and operators.
pub const CONNECTIONS_MAX: usize = 64;

/// Longest wait for a request head, and for a request's answer.
pub const TIMEOUT: Duration = Duration::from_secs(10);

/// How long a connection may live, so that a client which stops reading cannot hold it for ever.
const CONNECTION_LIFETIME: Duration = Duration::from_secs(120);

/// Most headers of a request, and most bytes of its head.
const HEADERS_MAX: usize = 64;
const HEAD_BYTES_MAX: usize = 16 << 10;

/// What the admin API shows and steers: this node, as the composition root presents it.
#[async_trait]
pub trait Node: Send + Sync + 'static {
    /// The wall clock.
    fn now(&self) -> UnixMillis;
    /// The counters and their rules.
    fn limiter(&self) -> &Limiter;
    /// What keeps this node from being ready; empty when it is.
    fn missing(&self) -> Vec<String>;
    /// This node and those it knows.
    fn peers(&self) -> PeersView;
    /// The configuration in force, without secrets.
    fn config(&self) -> serde_json::Value;
    /// One reading of everything that is measured.
    fn metrics(&self) -> Metrics;
    /// The counts of each of `rows` by replica, in the same order; empty for a row that is gone.
    async fn row_counts(&self, rows: Vec<RowRef>) -> Vec<RowCounts>;
    /// Changes the mode of the whole cluster.
    ///
    /// # Errors
    /// [`Refused`]; nothing changed.
    async fn set_mode(&self, mode: SyncMode) -> Result<ModeView, Refused>;
    /// Who shares limits in bounded mode.
    ///
    /// # Errors
    /// Why it cannot be told.
    async fn roster(&self) -> Result<RosterView, String>;
    /// Declares that `node` is gone for good, and that its process has stopped.
    ///
    /// # Errors
    /// [`Refused`]; nothing changed.
    async fn forget(&self, node: NodeId) -> Result<ForgetView, Refused>;
}

/// Why the node did not do what an operator asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// There is nothing by that name, and what is missing.
    NotFound(String),
    /// As things stand it would be wrong, and why.
    Conflict(String),
    /// It cannot, and why.
    Unavailable(String),
}

/// The listener, bound but not yet answering: connections wait until [`AdminListener::serve`].
#[derive(Debug)]
pub struct AdminListener {
    listener: TcpListener,
    address: SocketAddr,
}

impl AdminListener {
    /// Binds `address`. Needs a tokio runtime.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address })
    }

    /// The address that was bound, with its actual port.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers requests on the current runtime until [`Admin::stop`] or drop. With a `token`, every
    /// request below `/v1/` must carry it.
    #[must_use]
    pub fn serve(self, node: Arc<dyn Node>, token: Option<&str>) -> Admin {
        let api = Arc::new(api::Api::new(node, token));
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(accept_loop(self.listener, api, stopped));
        Admin { stop, task }
    }
}

/// The running admin API.
#[derive(Debug)]
pub struct Admin {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Admin {
    /// Stops accepting, lets requests in flight finish for at most `drain`, and closes.
    pub async fn stop(mut self, drain: Duration) {
        self.stop.send_replace(true);
        if tokio::time::timeout(drain, &mut self.task).await.is_err() {
            tracing::warn!("admin requests were still in flight and are cut off");
        }
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept_loop(listener: TcpListener, api: Arc<api::Api>, mut stop: watch::Receiver<bool>) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = tokio::task::JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let accepted = async {
            let slot = Arc::clone(&slots).acquire_owned().await.expect("never closed");
            (slot, listener.accept().await)
        };
        tokio::select! {
            () = stopped(&mut stop) => break,
            (slot, accepted) = accepted => match accepted {
                Ok((stream, _)) => {
                    let serving = serve_connection(stream, Arc::clone(&api), stop.clone());
                    connections.spawn(async move {
                        serving.await;
                        drop(slot);
                    });
                }
                Err(error) => {
                    // Out of descriptors, mostly: the pause lets others close theirs.
                    tracing::warn!(%error, "accepting an admin connection failed");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// Returns once [`Admin::stop`] was called, or the [`Admin`] dropped.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn serve_connection(stream: TcpStream, api: Arc<api::Api>, mut stop: watch::Receiver<bool>) {
    let service = service_fn(move |request| {
        let api = Arc::clone(&api);
        async move { Ok::<_, Infallible>(api.handle(request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(TIMEOUT)
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let outcome = tokio::select! {
        outcome = connection.as_mut() => Ok(outcome),
        () = stopped(&mut stop) => Err(()),
        () = tokio::time::sleep(CONNECTION_LIFETIME) => Err(()),
    };
    let outcome = match outcome {
        Ok(outcome) => Ok(outcome),
        Err(()) => {
            connection.as_mut().graceful_shutdown();
            tokio::time::timeout(TIMEOUT, connection).await
        }
    };
    match outcome {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "admin connection failed"),
        Err(_) => tracing::debug!("admin connection outlived its time and is cut off"),
    }
}
