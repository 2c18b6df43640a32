//! What clients reach nodes through: something like a Kubernetes Service.
//!
//! A node is an endpoint for new connections while its `/readyz` says 200, as a readiness probe sees it. Connections that
//! are open stay where they are, whatever becomes of the endpoint.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use hyper::StatusCode;
use tokio::task::JoinSet;

use crate::client::fetch;
use crate::{DEADLINE, Node, wait_until};

/// How often each node is asked whether it is ready.
const PROBE_INTERVAL: Duration = Duration::from_millis(50);

/// A service in front of some nodes. Its probes end with it.
#[derive(Debug)]
pub struct Service {
    endpoints: Arc<Endpoints>,
    _probes: JoinSet<()>,
}

/// The nodes behind a service.
#[derive(Debug)]
pub struct Endpoints {
    all: Vec<Endpoint>,
    turn: AtomicUsize,
}

#[derive(Debug)]
struct Endpoint {
    listen: SocketAddr,
    admin: SocketAddr,
    is_ready: AtomicBool,
}

impl Service {
    /// A service in front of `nodes`, all of which are ready.
    #[must_use]
    pub fn of(nodes: &[Node]) -> Self {
        let endpoint = |node: &Node| Endpoint {
            listen: node.listen(),
            admin: node.admin(),
            is_ready: AtomicBool::new(true),
        };
        let endpoints = Arc::new(Endpoints {
            all: nodes.iter().map(endpoint).collect(),
            turn: AtomicUsize::new(0),
        });
        let mut probes = JoinSet::new();
        for index in 0..nodes.len() {
            let endpoints = Arc::clone(&endpoints);
            probes.spawn(async move { endpoints.all[index].probe().await });
        }
        Self {
            endpoints,
            _probes: probes,
        }
    }

    /// What clients choose from.
    #[must_use]
    pub fn endpoints(&self) -> &Arc<Endpoints> {
        &self.endpoints
    }

    /// Waits until the node number `index` is an endpoint, or is none.
    ///
    /// # Panics
    /// That takes longer than [`DEADLINE`].
    pub async fn settles(&self, index: usize, is_endpoint: bool) {
        let what = format!("node {index} is an endpoint: {is_endpoint}");
        wait_until(&what, DEADLINE, async || {
            match self.endpoints.all[index].is_ready.load(Relaxed) == is_endpoint {
                true => Ok(()),
                false => Err("not yet".to_owned()),
            }
        })
        .await;
    }
}

impl Endpoints {
    /// Where the next new connection goes: to the endpoints in turn.
    ///
    /// # Panics
    /// There is none.
    #[must_use]
    pub fn next(&self) -> SocketAddr {
        let turn = self.turn.fetch_add(1, Relaxed);
        let from = (0..self.all.len()).map(|step| &self.all[(turn + step) % self.all.len()]);
        let mut ready = from.filter(|endpoint| endpoint.is_ready.load(Relaxed));
        ready.next().expect("some node is ready").listen
    }
}

impl Endpoint {
    async fn probe(&self) {
        loop {
            let answer = fetch(self.admin, "/readyz").await;
            let is_ready = answer.is_ok_and(|answer| answer.status == StatusCode::OK);
            self.is_ready.store(is_ready, Relaxed);
            tokio::time::sleep(PROBE_INTERVAL).await;
        }
    }
}
