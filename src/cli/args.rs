//! The command line of `weir`: every command, flag and environment variable, and nothing else.
//!
//! The flags of `weir run` stay texts here; [`crate::config`] reads them together with the file, so that
//! every error of both is reported at once. A flag beats its environment variable, which beats the file.

mod environment;
mod load;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand};

use crate::limit::{SyncMode, WindowLimit};
use crate::replica::NodeId;
use crate::sim::Pattern;

pub use self::environment::UnknownVariables;

/// An API gateway that keeps one rate limit across a whole cluster, without Redis.
#[derive(Debug, Parser)]
#[command(name = "weir", version, about, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands of `weir`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run one gateway node until SIGTERM or Ctrl-C.
    Run(Box<RunArgs>),
    /// Check a configuration file and the environment without starting anything.
    Check(Box<CheckArgs>),
    /// Run a small upstream that answers 200 with what it received.
    Echo(EchoArgs),
    /// Show one limit across several nodes, each a process of its own, in every sync mode.
    Demo(DemoArgs),
    /// Plan a cluster: simulate nodes, traffic and network, and show how well the limit would hold.
    Sim(SimArgs),
    /// Switch the sync mode of a whole running cluster through one of its nodes.
    Mode(ModeArgs),
    /// Show who shares limits in bounded mode, or give up a node that is gone for good.
    Roster(RosterArgs),
    /// Print a new random key for sealing gossip.
    Keygen(KeygenArgs),
}

/// Flags of `weir run`. A value that is absent here comes from the file, or else is the default.
#[derive(Clone, Debug, Default, Args)]
pub struct RunArgs {
    /// Configuration file (YAML, at most 1 MiB).
    #[arg(long, short, env = "WEIR_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Name of this node, unique in its cluster: 1 to 64 letters, digits, `-`, `_`, `.`
    /// [default: POD_NAME, else the host name].
    #[arg(long, env = "WEIR_NODE_ID", value_name = "NAME")]
    pub node_id: Option<String>,

    /// Address that clients connect to; repeat for several [default: 127.0.0.1:8000].
    #[arg(long, env = "WEIR_LISTEN", value_name = "ADDR:PORT", value_delimiter = ',')]
    pub listen: Vec<String>,

    /// Address of the admin API; other than loopback needs --admin-token [default: 127.0.0.1:8001].
    #[arg(long, env = "WEIR_ADMIN", value_name = "ADDR:PORT", help_heading = "Admin")]
    pub admin: Option<String>,

    /// Bearer token of the admin API. Prefer the environment: other users can read the arguments of a
    /// process.
    #[arg(
        long,
        env = "WEIR_ADMIN_TOKEN",
        value_name = "TOKEN",
        hide_env_values = true,
        help_heading = "Admin"
    )]
    pub admin_token: Option<String>,

    /// Address of the rate limit service (Envoy's, and `/v1/check`); other than loopback needs a token [default: none].
    #[arg(
        long,
        env = "WEIR_RATELIMIT_LISTEN",
        value_name = "ADDR:PORT",
        help_heading = "Rate limit service"
    )]
    pub ratelimit_listen: Option<String>,

    /// Bearer token of the rate limit service. Prefer the environment: other users can read the arguments of a
    /// process.
    #[arg(
        long,
        env = "WEIR_RATELIMIT_TOKEN",
        value_name = "TOKEN",
        hide_env_values = true,
        help_heading = "Rate limit service"
    )]
    pub ratelimit_token: Option<String>,

    /// Cluster to belong to: nodes of another id are refused; 1 to 64 bytes [default: weir].
    #[arg(long, env = "WEIR_CLUSTER_ID", value_name = "ID", help_heading = "Cluster")]
    pub cluster_id: Option<String>,

    /// UDP address of gossip; other than loopback needs a key [default: 127.0.0.1:7946].
    #[arg(long, env = "WEIR_GOSSIP", value_name = "ADDR:PORT", help_heading = "Cluster")]
    pub gossip: Option<String>,

    /// Gossip address that peers reach this node at, where it differs from --gossip
    /// [default: POD_IP with the port of --gossip where that listens on every address, else --gossip].
    #[arg(
        long,
        env = "WEIR_ADVERTISE",
        value_name = "ADDR:PORT",
        help_heading = "Cluster"
    )]
    pub advertise: Option<String>,

    /// Gossip address of a node to join through; repeat for several, one that answers is enough. Name all
    /// nodes on every node, its own address may be among them
    /// [default: none].
    #[arg(
        long = "seed",
        env = "WEIR_SEED",
        value_name = "HOST:PORT",
        value_delimiter = ',',
        help_heading = "Cluster"
    )]
    pub seeds: Vec<String>,

    /// File with the keys that seal gossip, as `weir keygen` prints them; WEIR_GOSSIP_KEY holds the keys
    /// themselves [default: none, gossip is open].
    #[arg(
        long,
        env = "WEIR_GOSSIP_KEY_FILE",
        value_name = "FILE",
        help_heading = "Cluster"
    )]
    pub gossip_key_file: Option<PathBuf>,

    /// Allow open gossip on an address that is not loopback [default: false].
    #[arg(
        long,
        env = "WEIR_INSECURE_GOSSIP",
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        help_heading = "Cluster"
    )]
    pub insecure_gossip: Option<String>,

    /// How often membership gossips [default: 100ms].
    #[arg(
        long,
        env = "WEIR_GOSSIP_INTERVAL",
        value_name = "DURATION",
        help_heading = "Cluster"
    )]
    pub gossip_interval: Option<String>,

    /// How long a start waits for a peer before it counts alone [default: 3s].
    #[arg(
        long,
        env = "WEIR_JOIN_GRACE",
        value_name = "DURATION",
        help_heading = "Cluster"
    )]
    pub join_grace: Option<String>,

    /// How nodes keep a limit together: `local` (each alone), `gossip` (one limit) or `bounded` (never above it; its
    /// settings are in the file alone, section `bounded`) [default: gossip].
    #[arg(long, env = "WEIR_SYNC_MODE", value_name = "MODE", help_heading = "Sync")]
    pub sync_mode: Option<String>,

    /// How often counts that are not urgent are sent [default: 100ms].
    #[arg(long, env = "WEIR_TICK", value_name = "DURATION", help_heading = "Sync")]
    pub tick: Option<String>,

    /// A count is urgent at this share of what remains, per replica; above 0, below 1 [default: 0.2].
    #[arg(long, env = "WEIR_ALPHA", value_name = "SHARE", help_heading = "Sync")]
    pub alpha: Option<String>,

    /// Counts below this share of the limit, per replica, are held back while the limit is far; 0 to 0.5
    /// [default: 0.01].
    #[arg(long, env = "WEIR_EPSILON", value_name = "SHARE", help_heading = "Sync")]
    pub epsilon: Option<String>,

    /// Replicas to reckon with even while fewer are seen: sets how early counts are sent [default: 1].
    #[arg(long, env = "WEIR_MIN_REPLICAS", value_name = "N", help_heading = "Sync")]
    pub min_replicas: Option<String>,

    /// Largest gossip datagram in bytes, 512 to 65000 [default: 1200].
    #[arg(
        long,
        env = "WEIR_DATAGRAM_BYTES",
        value_name = "BYTES",
        help_heading = "Sync"
    )]
    pub datagram_bytes: Option<String>,

    /// Newest version of gossip frames to send, 1 to 3; while every peer takes it in [default: 3].
    #[arg(
        long,
        env = "WEIR_FRAME_VERSION",
        value_name = "VERSION",
        help_heading = "Sync"
    )]
    pub frame_version: Option<String>,

    /// Counts of windows further in the past or future are refused [default: 10s].
    #[arg(
        long,
        env = "WEIR_MAX_CLOCK_SKEW",
        value_name = "DURATION",
        help_heading = "Sync"
    )]
    pub max_clock_skew: Option<String>,

    /// A limit such as `5/minute`, `1000/hour` or `100/10s`; several are windows of one rule
    /// [default: none].
    #[arg(
        long = "limit",
        env = "WEIR_LIMIT",
        value_name = "HITS/PERIOD",
        value_delimiter = ',',
        help_heading = "Limits"
    )]
    pub limits: Vec<String>,

    /// What --limit counts by: ip, header:NAME, path, route, upstream or all [default: ip].
    #[arg(long, env = "WEIR_LIMIT_BY", value_name = "WHAT", help_heading = "Limits")]
    pub limit_by: Option<String>,

    /// Most counters held at once, 1024 to 100000000 [default: 1000000].
    #[arg(long, env = "WEIR_MAX_KEYS", value_name = "N", help_heading = "Limits")]
    pub max_keys: Option<String>,

    /// Hide every rate-limit header from clients, Retry-After too [default: false].
    #[arg(
        long,
        env = "WEIR_HIDE_HEADERS",
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        help_heading = "Limits"
    )]
    pub hide_headers: Option<String>,

    /// Server to forward to, as `http://HOST[:PORT][/PATH]`; several take turns [default: none].
    #[arg(
        long = "upstream",
        env = "WEIR_UPSTREAM",
        value_name = "URL",
        value_delimiter = ',',
        help_heading = "Proxy"
    )]
    pub upstreams: Vec<String>,

    /// Worker threads, 1 to 256 [default: one per processor].
    #[arg(long, env = "WEIR_WORKERS", value_name = "N", help_heading = "Proxy")]
    pub workers: Option<String>,

    /// Network or address of a proxy whose X-Forwarded-For is believed; repeat for several
    /// [default: none].
    #[arg(
        long = "trusted-proxy",
        env = "WEIR_TRUSTED_PROXY",
        value_name = "CIDR",
        value_delimiter = ',',
        help_heading = "Proxy"
    )]
    pub trusted_proxies: Vec<String>,

    /// Most client connections at once [default: 10000].
    #[arg(long, env = "WEIR_CONNECTIONS_MAX", value_name = "N", help_heading = "Proxy")]
    pub connections_max: Option<String>,

    /// How long a node that gets SIGTERM serves on, not ready any more, before it stops [default: 5s].
    #[arg(
        long,
        env = "WEIR_DRAIN_DELAY",
        value_name = "DURATION",
        help_heading = "Proxy"
    )]
    pub drain_delay: Option<String>,

    /// How long a stop waits for requests in flight [default: 10s].
    #[arg(
        long,
        env = "WEIR_DRAIN_TIMEOUT",
        value_name = "DURATION",
        help_heading = "Proxy"
    )]
    pub drain_timeout: Option<String>,

    /// Add X-Weir-Node and X-Weir-Window to responses, for tests and demonstrations [default: false].
    #[arg(
        long,
        env = "WEIR_DEBUG_HEADERS",
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        help_heading = "Proxy"
    )]
    pub debug_headers: Option<String>,

    /// How often to look whether the configuration file has changed, and to take it up; `never` leaves it to SIGHUP
    /// [default: never].
    #[arg(long, env = "WEIR_RELOAD_INTERVAL", value_name = "DURATION")]
    pub reload_interval: Option<String>,

    /// What to log: a level or a tracing filter such as `info,weir=debug` [default: info].
    #[arg(long, env = "WEIR_LOG", value_name = "FILTER", help_heading = "Log")]
    pub log: Option<String>,

    /// Log one JSON object a line [default: false].
    #[arg(
        long,
        env = "WEIR_LOG_JSON",
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        help_heading = "Log"
    )]
    pub log_json: Option<String>,
}

/// Flags of `weir check`.
#[derive(Clone, Debug, Args)]
pub struct CheckArgs {
    /// Print the result as one JSON object.
    #[arg(long)]
    pub json: bool,
    /// Do not read the files that the configuration names, such as certificates: they are on another machine.
    #[arg(long)]
    pub skip_files: bool,
    /// What `weir run` would be given.
    #[command(flatten)]
    pub run: RunArgs,
}

/// Flags of `weir echo`.
#[derive(Clone, Debug, Args)]
pub struct EchoArgs {
    /// Address to listen on.
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:9000")]
    pub listen: SocketAddr,
    /// How long to wait before each answer, such as `20ms` [default: not at all].
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub delay: Option<Duration>,
}

/// Flags of `weir demo`.
#[derive(Clone, Debug, Args)]
pub struct DemoArgs {
    /// How many nodes, each a process, 1 to 50.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=50))]
    pub nodes: u16,
    /// The limit to keep.
    #[arg(long, value_name = "HITS/PERIOD", default_value = "5/minute")]
    pub limit: WindowLimit,
    /// Print the result as one JSON object instead of text.
    #[arg(long)]
    pub json: bool,
}

/// Flags of `weir sim`.
#[derive(Clone, Debug, Args)]
pub struct SimArgs {
    /// How many nodes, 1 to 1000.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub nodes: u16,
    /// The limit, for each client.
    #[arg(long, value_name = "HITS/PERIOD", default_value = "1000/minute")]
    pub limit: WindowLimit,
    /// Requests per second, of all clients to all nodes together, 1 to 1000000.
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub rate: u32,
    /// How requests come: `even` (clients ask alike), `zipf` (the nth client 1/n as often as the first),
    /// `one` (a single client), `burst` (even, but each second's requests within 10 ms). Nodes are chosen
    /// at random.
    #[arg(long, value_name = "PATTERN", default_value = "even")]
    pub pattern: Pattern,
    /// How many clients [default: 1 with `one`, else 100, fewer where so many would not fit in memory].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub clients: Option<u32>,
    /// One-way delay between nodes, at most 10s; a tenth of it is added as random jitter.
    #[arg(long, value_name = "DURATION", default_value = "1ms", value_parser = sim_delay)]
    pub delay: Duration,
    /// Share of datagrams lost, such as `1%` or `0.01`.
    #[arg(long, value_name = "SHARE", default_value = "0%", value_parser = share)]
    pub loss: f64,
    /// `local`, `gossip` or `bounded`; in bounded mode, requests wait for rights for at most 20 ms.
    #[arg(long, value_name = "MODE", default_value = "gossip")]
    pub mode: SyncMode,
    /// How long requests come, from the start of a window, at most 1h [default: one window, at most 1m].
    #[arg(long, value_name = "DURATION", value_parser = sim_duration)]
    pub duration: Option<Duration>,
    /// Decides everything that is random: the same seed gives the same result.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Print the result as one JSON object.
    #[arg(long)]
    pub json: bool,
}

fn sim_delay(text: &str) -> Result<Duration, String> {
    bounded(text, Duration::ZERO, Duration::from_secs(10))
}

fn sim_duration(text: &str) -> Result<Duration, String> {
    bounded(text, Duration::from_millis(100), Duration::from_secs(3_600))
}

fn bounded(text: &str, least: Duration, most: Duration) -> Result<Duration, String> {
    let duration =
        humantime::parse_duration(text).map_err(|error| format!("{error}: expected such as `20ms`"))?;
    if (least..=most).contains(&duration) {
        return Ok(duration);
    }
    let [least, most] = [least, most].map(humantime::format_duration);
    Err(format!("expected {least} to {most}"))
}

fn share(text: &str) -> Result<f64, String> {
    let number = |text: &str| text.trim().parse::<f64>().ok();
    let share = match text.strip_suffix('%') {
        Some(percent) => number(percent).map(|percent| percent / 100.0),
        None => number(text),
    };
    share
        .filter(|share| (0.0..1.0).contains(share))
        .ok_or_else(|| "expected a share from 0 to below 1, such as `0.01` or `1%`".to_owned())
}

/// Names the modes, so that a slip is answered with the nearest one.
fn any_mode() -> impl TypedValueParser<Value = SyncMode> {
    PossibleValuesParser::new(["local", "gossip", "bounded"]).try_map(|mode| mode.parse::<SyncMode>())
}

/// Flags of `weir mode`.
#[derive(Clone, Debug, Args)]
pub struct ModeArgs {
    /// The mode to switch to.
    #[arg(value_parser = any_mode())]
    pub mode: SyncMode,
    /// Admin address of any node of the cluster.
    #[arg(
        long,
        env = "WEIR_ADMIN",
        value_name = "ADDR:PORT",
        default_value = "127.0.0.1:8001"
    )]
    pub admin: SocketAddr,
    /// Bearer token of the admin API.
    #[arg(long, env = "WEIR_ADMIN_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    pub token: Option<String>,
}

/// Flags of `weir roster`.
#[derive(Clone, Debug, Args)]
pub struct RosterArgs {
    /// What to do [default: list].
    #[command(subcommand)]
    pub command: Option<RosterCommand>,
    /// Admin address of any node of the cluster.
    #[arg(
        long,
        global = true,
        env = "WEIR_ADMIN",
        value_name = "ADDR:PORT",
        default_value = "127.0.0.1:8001"
    )]
    pub admin: SocketAddr,
    /// Bearer token of the admin API.
    #[arg(
        long,
        global = true,
        env = "WEIR_ADMIN_TOKEN",
        value_name = "TOKEN",
        hide_env_values = true
    )]
    pub token: Option<String>,
}

/// What `weir roster` does.
#[derive(Clone, Debug, Subcommand)]
pub enum RosterCommand {
    /// Show the members, and which windows have shares or why not.
    List,
    /// Give up a node that is gone for good and whose process has stopped: its share goes to the others from
    /// the next windows on. If it still runs, cut off from here, up to one more limit may be admitted.
    Forget {
        /// Its node id.
        node: NodeId,
    },
}

/// Flags of `weir keygen`.
#[derive(Clone, Copy, Debug, Args)]
pub struct KeygenArgs {}
