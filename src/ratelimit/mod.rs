//! The limits as a service to other proxies: Envoy's rate limit service over gRPC, and a check over plain HTTP.
//!
//! Owns one listener, off unless it is configured, with threads of its own. Knows the other shells not at all: the
//! composition root hands it the limiter, and how to wake replication. Promises what the proxy does: what is denied is
//! counted nowhere, and what has been admitted near a limit was told to the peers before its caller hears of it.

mod answer;
mod book;
mod check;
mod grpc;
mod judge;
pub mod messages;
mod metrics;
mod question;
mod server;
#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::sync::watch;

use crate::admission::OnDue;
use crate::config::Config;
use crate::limit::{IdentityHasher, Limiter};

use judge::{Edition, Judge};
use server::Door;

pub use check::{CheckRequest, Malformed};
pub use metrics::{Api, Outcome, RatelimitMetrics, RatelimitSnapshot};

/// Whether the node takes requests: what the health service says.
pub type IsReady = Arc<dyn Fn() -> bool + Send + Sync>;

/// The running service. Dropping it without [`RatelimitService::stop`] leaves its threads to end by themselves.
pub struct RatelimitService {
    address: SocketAddr,
    judge: Arc<Judge>,
    stop: watch::Sender<bool>,
    threads: Vec<JoinHandle<()>>,
}

impl RatelimitService {
    /// Binds the address that `config` names and starts one thread for each worker; `None` where it names none.
    ///
    /// # Errors
    /// When the address cannot be bound or is in use, or a thread or its runtime cannot be made.
    pub fn start(
        config: &Config,
        limiter: Arc<Limiter>,
        on_due: OnDue,
        is_ready: IsReady,
    ) -> io::Result<Option<Self>> {
        let Some(address) = config.ratelimit.listen else {
            return Ok(None);
        };
        let threads = config.proxy.workers.max(1);
        let (address, sockets) = crate::sockets::bind(address, threads)?;
        let hasher = IdentityHasher::new(config.identity_key());
        let judge = Arc::new(Judge::new(limiter, hasher, on_due, config));
        let door = Arc::new(Door::new(
            Arc::clone(&judge),
            config.ratelimit.token.as_deref(),
            is_ready,
        ));
        let (stop, stopped) = watch::channel(false);
        let spawn = |(index, socket)| server::spawn(index, socket, Arc::clone(&door), stopped.clone());
        let threads = sockets
            .into_iter()
            .enumerate()
            .map(spawn)
            .collect::<io::Result<_>>()?;
        Ok(Some(Self {
            address,
            judge,
            stop,
            threads,
        }))
    }

    /// Where it really listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it counts about itself.
    #[must_use]
    pub fn metrics(&self) -> Arc<RatelimitMetrics> {
        Arc::clone(self.judge.metrics())
    }

    /// Puts `config` in force for the requests that begin from now on. The limiter has its rules already.
    pub fn reload(&self, config: &Config) {
        self.judge.follow(Edition::new(config, self.judge.limiter()));
    }

    /// Stops accepting, lets requests in flight finish, for two seconds at most, and ends the threads.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        let threads = self.threads;
        let join = move || threads.into_iter().for_each(|thread| drop(thread.join()));
        if tokio::time::timeout(2 * server::CUT_OFF, tokio::task::spawn_blocking(join))
            .await
            .is_err()
        {
            tracing::warn!("the rate limit service had requests in flight, which are cut off");
        }
    }
}
