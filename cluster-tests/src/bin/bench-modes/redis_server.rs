//! A redis-server of its own on a loopback port.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use cluster_tests::{ports, wait_until};
use redis::aio::MultiplexedConnection;
use tempfile::TempDir;

/// A server that keeps nothing on disk. Dropping it ends the process.
pub(crate) struct RedisServer {
    process: Child,
    port: u16,
    connection: MultiplexedConnection,
    /// What it would write, it writes here.
    _directory: TempDir,
}

impl RedisServer {
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let directory = tempfile::tempdir()?;
        let port = ports::reserve().port();
        let process = Command::new("redis-server")
            .args(["--port", &port.to_string()])
            .args(["--bind", "127.0.0.1"])
            .args(["--save", "", "--appendonly", "no"])
            .arg("--dir")
            .arg(directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .context("redis-server (on Debian: apt-get install redis-server)")?;
        let connection = wait_until("redis-server answers", Duration::from_secs(10), async || {
            connect(port).await.map_err(|error| error.to_string())
        });
        Ok(Self {
            connection: connection.await,
            process,
            port,
            _directory: directory,
        })
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// How many calls of the counter's script it has answered, by its own count.
    pub(crate) async fn calls(&self) -> anyhow::Result<f64> {
        let mut connection = self.connection.clone();
        let stats: String = redis::cmd("INFO")
            .arg("commandstats")
            .query_async(&mut connection)
            .await?;
        // What a script itself calls is counted too, and crosses no network.
        let scripts = stats
            .lines()
            .filter(|line| line.starts_with("cmdstat_evalsha:") || line.starts_with("cmdstat_eval:"));
        let calls = scripts.filter_map(|line| {
            line.split_once("calls=")?
                .1
                .split_once(',')?
                .0
                .parse::<f64>()
                .ok()
        });
        Ok(calls.sum())
    }
}

/// A connection that any number of requests share.
pub(crate) async fn connect(port: u16) -> redis::RedisResult<MultiplexedConnection> {
    let client = redis::Client::open(("127.0.0.1", port))?;
    client.get_multiplexed_async_connection().await
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
