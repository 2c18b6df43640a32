//! One `weir run` process: its addresses, its lives, its log, its admin API.

use std::fmt::Write as _;
use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use hyper::StatusCode;
use jiff::Timestamp;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::client::{ADMIN_TOKEN, fetch};
use crate::network::Host;
use crate::{DEADLINE, Window, binary, ports, wait_until};

/// Ports of a node that has a host to itself.
const LISTEN: u16 = 8000;
const ADMIN: u16 = 8001;
const GOSSIP: u16 = 7946;

/// One node. It keeps its name, flags and addresses over its lives; dropping it kills the process.
#[derive(Debug)]
pub struct Node {
    id: String,
    listen: SocketAddr,
    admin: SocketAddr,
    gossip: SocketAddr,
    advertised: SocketAddr,
    args: Vec<String>,
    environment: Vec<(String, String)>,
    /// What the command line begins with, where the node runs elsewhere than the test.
    prefix: Vec<String>,
    directory: PathBuf,
    lives: u32,
    process: Option<Child>,
}

impl Node {
    /// A node on loopback with addresses of its own that is not started yet; its logs go to `directory`.
    pub(crate) fn new(id: &str, directory: &Path) -> Self {
        let [listen, admin, gossip] = [(); 3].map(|()| ports::reserve());
        Self {
            id: id.to_owned(),
            listen,
            admin,
            gossip,
            advertised: gossip,
            args: Vec::new(),
            environment: Vec::new(),
            prefix: Vec::new(),
            directory: directory.to_owned(),
            lives: 0,
            process: None,
        }
    }

    /// Puts it on a host of its own.
    pub(crate) fn on_host(mut self, host: &Host) -> Self {
        let at = |port| SocketAddr::from((host.address(), port));
        self.listen = at(LISTEN);
        self.admin = at(ADMIN);
        self.gossip = at(GOSSIP);
        self.advertised = self.gossip;
        self.prefix = host.enter_command();
        let beyond_loopback = ["--admin-token", ADMIN_TOKEN, "--insecure-gossip"];
        self.with_args(beyond_loopback.map(str::to_owned))
    }

    /// Lets peers reach it at `address`, which is somebody who passes on what arrives there.
    pub(crate) fn advertising(mut self, address: SocketAddr) -> Self {
        self.advertised = address;
        self
    }

    /// Adds flags for the next start.
    pub(crate) fn with_args(mut self, args: impl IntoIterator<Item = String>) -> Self {
        self.args.extend(args);
        self
    }

    /// Sets variables of its environment for the next start, in place of those set before.
    pub fn set_environment(&mut self, variables: Vec<(String, String)>) {
        self.environment = variables;
    }

    /// Its name.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Where clients connect.
    #[must_use]
    pub fn listen(&self) -> SocketAddr {
        self.listen
    }

    /// Where the admin API is.
    #[must_use]
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Where it gossips from, and what peers reach unless a wire stands between them.
    #[must_use]
    pub fn gossip(&self) -> SocketAddr {
        self.gossip
    }

    /// Where peers reach it.
    pub(crate) fn advertised(&self) -> SocketAddr {
        self.advertised
    }

    /// Starts the process: a new life, at the same addresses.
    ///
    /// # Panics
    /// It runs already, or cannot be started.
    pub fn start(&mut self) {
        assert!(self.process.is_none(), "node {} runs already", self.id);
        self.lives += 1;
        let log = File::create(self.log_path(self.lives)).expect("the log directory is writable");
        let weir = binary::weir();
        let weir = weir.to_str().expect("a plain path");
        let mut command = self.prefix.iter().map(String::as_str).chain([weir]);
        let child = Command::new(command.next().expect("the binary at least"))
            .args(command)
            .args(["run", "--node-id", &self.id])
            .args(["--listen", &self.listen.to_string()])
            .args(["--admin", &self.admin.to_string()])
            .args(["--gossip", &self.gossip.to_string()])
            .args(["--advertise", &self.advertised.to_string()])
            .args(&self.args)
            // No setting of the machine that runs the test may reach the node.
            .env_clear()
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file handle can be cloned"))
            .stderr(log)
            .spawn()
            .expect("the weir binary starts");
        self.process = Some(child);
    }

    /// Kills the process at once, as a crash would (SIGKILL), and waits until it is gone.
    ///
    /// # Panics
    /// It does not run.
    pub fn kill(&mut self) {
        let mut child = self.process.take().expect("the node runs");
        child
            .kill()
            .expect("a child that was not waited for can be killed");
        child.wait().expect("a killed child can be waited for");
    }

    /// Asks the process to stop (SIGTERM), and returns at once.
    ///
    /// # Panics
    /// It does not run.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Asks the process to stop as a person at a terminal does (SIGINT), and returns at once.
    ///
    /// # Panics
    /// It does not run.
    pub fn interrupt(&self) {
        self.signal(Signal::INT);
    }

    /// Asks the process to read its configuration anew (SIGHUP), and returns at once.
    ///
    /// # Panics
    /// It does not run.
    pub fn reload(&self) {
        self.signal(Signal::HUP);
    }

    /// Stops the process where it stands (SIGSTOP): its sockets stay open and nobody answers.
    ///
    /// # Panics
    /// It does not run.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets a paused process go on (SIGCONT).
    ///
    /// # Panics
    /// It does not run.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let child = self.process.as_ref().expect("the node runs");
        let pid = Pid::from_child(child);
        kill_process(pid, signal).expect("a child that was not waited for can be signalled");
    }

    /// Waits until the process has ended by itself.
    ///
    /// # Panics
    /// It was not started, or still runs after [`DEADLINE`].
    pub async fn exited(&mut self) -> ExitStatus {
        let what = format!("node {} ends", self.id);
        let mut child = self.process.take().expect("the node was started");
        let status = wait_until(&what, DEADLINE, async || match child.try_wait() {
            Ok(Some(status)) => Ok(status),
            Ok(None) => Err("it still runs".to_owned()),
            Err(error) => Err(error.to_string()),
        });
        status.await
    }

    /// Whether it was started, and neither killed nor waited for since.
    #[must_use]
    pub fn is_started(&self) -> bool {
        self.process.is_some()
    }

    /// Whether the process runs.
    pub fn is_running(&mut self) -> bool {
        self.process
            .as_mut()
            .is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Waits until `/readyz` answers 200.
    ///
    /// # Panics
    /// The process ends, or is not ready after [`DEADLINE`].
    pub async fn ready(&mut self) {
        let what = format!("node {} is ready", self.id);
        wait_until(&what, DEADLINE, async || {
            assert!(self.is_running(), "node {} ended:\n{}", self.id, self.log());
            let answer = fetch(self.admin, "/readyz")
                .await
                .map_err(|error| format!("{error:#}"))?;
            match answer.status {
                StatusCode::OK => Ok(()),
                status => Err(format!("{status}: {}", String::from_utf8_lossy(&answer.body))),
            }
        })
        .await;
    }

    /// A JSON document of the admin API.
    ///
    /// # Errors
    /// No answer, another status than 200, or no JSON.
    pub async fn json(&self, path: &str) -> Result<Value, String> {
        let answer = fetch(self.admin, path)
            .await
            .map_err(|error| format!("{error:#}"))?;
        if answer.status != StatusCode::OK {
            return Err(format!("{path}: {}", answer.status));
        }
        serde_json::from_slice(&answer.body).map_err(|error| format!("{path}: {error}"))
    }

    /// Whether the node has a share of `window`, which is in progress.
    ///
    /// # Errors
    /// It has none, for the reason that it gives.
    pub async fn has_share(&self, window: Window) -> Result<(), String> {
        let roster = self.json("/v1/roster").await?;
        let shares = roster["shares"].as_array().ok_or("/v1/roster: no shares")?;
        let start = i64::try_from(window.start).map_err(|error| error.to_string())?;
        let start = Timestamp::from_millisecond(start).map_err(|error| error.to_string())?;
        let share = shares
            .iter()
            .find(|share| share["window_start"] == start.to_string());
        let share = share.ok_or_else(|| format!("it is in other windows than {start}: {shares:?}"))?;
        if share["members"].is_u64() {
            Ok(())
        } else {
            Err(share["blocked"].to_string())
        }
    }

    /// How far the clock of each live peer is ahead of this node's, in milliseconds, where it knows.
    ///
    /// # Errors
    /// See [`Node::json`].
    pub async fn clock_offsets(&self) -> Result<Vec<(String, i64)>, String> {
        let peers = self.json("/v1/peers").await?;
        let peers = peers["peers"].as_array().ok_or("/v1/peers: no list of peers")?;
        let live = peers.iter().filter(|peer| peer["state"] == "live");
        let offsets = live.filter_map(|peer| {
            Some((
                peer["node_id"].as_str()?.to_owned(),
                peer["clock_offset_ms"].as_i64()?,
            ))
        });
        Ok(offsets.collect())
    }

    /// The names of the peers that this node sees in `state`, sorted, each once.
    ///
    /// # Errors
    /// See [`Node::json`].
    pub async fn peers(&self, state: &str) -> Result<Vec<String>, String> {
        let peers = self.json("/v1/peers").await?;
        let peers = peers["peers"].as_array().ok_or("/v1/peers: no list of peers")?;
        let mut names: Vec<String> = peers
            .iter()
            .filter(|peer| peer["state"] == state)
            .filter_map(|peer| Some(peer["node_id"].as_str()?.to_owned()))
            .collect();
        names.sort();
        names.dedup();
        Ok(names)
    }

    /// The sum of all samples of the metric `name` whose labels contain `label` (such as
    /// `reason="cluster"`; empty for all). Zero when there is none.
    ///
    /// # Errors
    /// `/metrics` does not answer.
    pub async fn metric(&self, name: &str, label: &str) -> Result<f64, String> {
        let answer = fetch(self.admin, "/metrics")
            .await
            .map_err(|error| format!("{error:#}"))?;
        let text = String::from_utf8_lossy(&answer.body);
        let samples = text.lines().filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let (metric, labels) = series.split_once('{').unwrap_or((series, ""));
            (metric == name && labels.contains(label)).then(|| value.parse::<f64>().ok())?
        });
        Ok(samples.sum())
    }

    /// All it wrote to stdout and stderr, in all its lives.
    #[must_use]
    pub fn log(&self) -> String {
        let mut all = String::new();
        for life in 1..=self.lives {
            let text = std::fs::read(self.log_path(life)).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            write!(all, "--- node {}, life {life}\n{text}", self.id).expect("writing to a string");
        }
        all
    }

    fn log_path(&self, life: u32) -> PathBuf {
        self.directory.join(format!("{}.{life}.log", self.id))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(child) = &mut self.process {
            // Both fail only if the process has ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
    }
}
