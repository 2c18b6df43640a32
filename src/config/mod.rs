//! One typed, checked configuration from file, environment and flags, in that rising order.
//!
//! Owns what each setting is called, its default and its bounds. Pure: takes texts, and returns a
//! [`Config`] or every error at once, each with the place it was written. The way of a setting:
//!
//! 1. [`Layer::from_yaml`] reads a file to a tree of texts with their places; flags and environment
//!    become such a tree by [`Layer::set`].
//! 2. [`Layer::over`] lays one over the other.
//! 3. [`Config::resolve`] reads the typed values and checks how they fit together.

mod access_log;
mod bounded;
mod check;
mod clients;
mod defaults;
mod error;
mod file;
mod identity;
mod json;
mod layer;
mod listeners;
mod proxy;
mod ratelimit;
mod read;
mod reload;
mod restart;
mod routes;
mod rules;
mod scalars;
mod syntax;
#[cfg(test)]
mod tests;
mod traffic;
mod upstreams;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::limit::significance::Significance;
use crate::limit::{IpPrefixes, Overflow, Rule, SyncMode};
use crate::replica::NodeId;

pub use crate::limit::WithoutShare;
pub use access_log::{AccessLogConfig, AccessLogFormat, AccessLogPath};
pub use bounded::{BoundedConfig, LONG_WINDOW};
pub use check::Surroundings;
pub use clients::ClientIpHeader;
pub use error::{ConfigError, ConfigErrors, Origin, nearest};
pub use file::FILE_BYTES_MAX;
pub use layer::Layer;
pub use listeners::{CertificateConfig, ClientAuth, ClientAuthConfig, ListenerConfig, TlsConfig, TlsVersion};
pub use proxy::ProxyConfig;
pub use ratelimit::{DescriptorConfig, DescriptorLimit, DomainConfig, RatelimitConfig};
pub use reload::ReloadConfig;
pub use routes::{
    FixedResponse, Forward, HeaderChanges, HeaderMatch, HostMatch, PathChange, PathMatch, Pattern,
    PatternError, QueryMatch, Redirect, Replacement, RouteAction, RouteConfig, RouteMatch, RoutingConfig,
    UpstreamHost, UrlScheme, ValueMatch,
};
pub use upstreams::{
    Balance, DnsConfig, EjectionConfig, HashBy, HealthConfig, NoBalance, RetryConfig, StatusRange, Target,
    UpstreamConfig, UpstreamProtocol, UpstreamTls,
};

/// Everything a node needs to know, checked: holding one means it is valid.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// This node's name.
    pub node_id: NodeId,
    /// Where clients connect.
    pub listen: Vec<ListenerConfig>,
    /// The admin API.
    pub admin: AdminConfig,
    /// Membership and transport.
    pub cluster: ClusterConfig,
    /// How counters are shared.
    pub sync: SyncConfig,
    /// How the bounded mode behaves.
    pub bounded: BoundedConfig,
    /// The rules and the bounds of counting.
    pub limits: LimitsConfig,
    /// The rate limit service. Its rules are among those of `limits`.
    pub ratelimit: RatelimitConfig,
    /// How names of upstreams are looked up.
    pub dns: DnsConfig,
    /// Where requests may go; at least one unless every route answers by itself.
    pub upstreams: Vec<UpstreamConfig>,
    /// How requests are compared with routes.
    pub routing: RoutingConfig,
    /// Which requests go where; at least one.
    pub routes: Vec<RouteConfig>,
    /// Bounds and timeouts of the request path.
    pub proxy: ProxyConfig,
    /// What is written of each request.
    pub access_log: AccessLogConfig,
    /// Logging.
    pub log: LogConfig,
    /// When it is read anew.
    pub reload: ReloadConfig,
}

impl Config {
    /// Reads and checks what the merged layers say.
    ///
    /// # Errors
    /// Everything that is wrong, not only the first: unknown keys, values out of range, names that do
    /// not exist, settings that contradict one another.
    pub fn resolve(layer: Layer, surroundings: &Surroundings) -> Result<Self, ConfigErrors> {
        check::resolve(layer, surroundings)
    }

    /// Reads and checks one YAML document by itself. `name` is what errors call the file.
    ///
    /// # Errors
    /// As [`Config::resolve`] and [`Layer::from_yaml`].
    pub fn from_yaml(name: &str, text: &str) -> Result<Self, ConfigErrors> {
        Self::resolve(Layer::from_yaml(name, text)?, &Surroundings::default())
    }
}

/// The admin API's listener.
#[derive(Clone, PartialEq, Eq)]
pub struct AdminConfig {
    /// Loopback by default; any other address needs a token.
    pub listen: SocketAddr,
    /// Bearer token; required on every `/v1/` request when set.
    pub token: Option<String>,
}

impl fmt::Debug for AdminConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdminConfig")
            .field("listen", &self.listen)
            .field("token", &Redacted(self.token.is_some()))
            .finish()
    }
}

/// Membership and the gossip transport.
#[derive(Clone, PartialEq, Eq)]
pub struct ClusterConfig {
    /// Only nodes with the same id talk to each other; 1 to 64 bytes.
    pub id: String,
    /// The one UDP socket of membership and replication.
    pub gossip: SocketAddr,
    /// The address that peers reach us at, when it differs from `gossip`.
    pub advertise: Option<SocketAddr>,
    /// `host:port` of nodes to join through; any one that answers is enough.
    pub seeds: Vec<String>,
    /// File with the gossip keyring; without it gossip is open.
    pub key_file: Option<PathBuf>,
    /// The keyring itself (from `WEIR_GOSSIP_KEY`), same format as the file.
    pub key: Option<String>,
    /// Allows an open gossip socket on a non-loopback address.
    pub insecure_gossip: bool,
    /// Secret that client identities are hashed with; the same on all nodes.
    pub identity_secret: Option<String>,
    /// How often membership gossips.
    pub gossip_interval: Duration,
    /// How long a start waits for a peer before it counts alone.
    pub join_grace: Duration,
}

impl fmt::Debug for ClusterConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterConfig")
            .field("id", &self.id)
            .field("gossip", &self.gossip)
            .field("advertise", &self.advertise)
            .field("seeds", &self.seeds)
            .field("key_file", &self.key_file)
            .field("key", &Redacted(self.key.is_some()))
            .field("insecure_gossip", &self.insecure_gossip)
            .field("identity_secret", &Redacted(self.identity_secret.is_some()))
            .field("gossip_interval", &self.gossip_interval)
            .field("join_grace", &self.join_grace)
            .finish()
    }
}

/// Stands for an optional secret where it would be printed.
struct Redacted(bool);

impl fmt::Debug for Redacted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0 { "(redacted)" } else { "None" })
    }
}

/// How counters are shared.
#[derive(Clone, Debug, PartialEq)]
pub struct SyncConfig {
    /// The cluster-wide mode at start.
    pub mode: SyncMode,
    /// When what is dirty but not due is pushed.
    pub tick: Duration,
    /// When a change is due, and when it is held back.
    pub significance: Significance,
    /// The divisor of significance is at least this.
    pub min_replicas: u32,
    /// Largest datagram in bytes, sealed.
    pub datagram_bytes: usize,
    /// The newest version of replication frames that this node announces and sends.
    pub frame_version: u8,
    /// Windows this far in the past or future are still believed.
    pub max_clock_skew: Duration,
}

/// The rules and the bounds of counting.
#[derive(Clone, Debug, PartialEq)]
pub struct LimitsConfig {
    /// Most rows held at once.
    pub max_keys: u32,
    /// Hides every rate-limit header from clients, `Retry-After` too, as Kong's `hide_client_headers`.
    pub hide_headers: bool,
    /// What becomes of a request under a bounded rule that finds no room to count in.
    pub overflow: Overflow,
    /// How much of an address names a client.
    pub ip_prefixes: IpPrefixes,
    /// The rules, those of the rate limit service at the end.
    pub rules: Vec<Rule>,
}

/// Logging.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// A `tracing` filter such as `info` or `weir=debug`.
    pub filter: String,
    /// One JSON object a line instead of text.
    pub json: bool,
}
