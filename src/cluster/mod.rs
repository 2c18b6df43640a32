//! Membership, discovery and the sealed UDP transport; drives [`crate::replication`].
//!
//! Everything here runs on one OS thread, the gossip thread, with a runtime of its own: chitchat, the
//! resolver loop, the key file watch, and the driver that owns the replication core. The rest
//! of the node talks to it through a [`ClusterHandle`]: request threads set a flag, everybody else sends
//! bounded commands or reads snapshots. Promises that no request ever waits for this thread.

mod attributes;
mod clock;
mod counters;
mod discovery;
mod driver;
mod flush;
pub mod fragment;
mod gossip_socket;
mod handle;
pub mod keyring;
mod keys;
mod members;
mod membership;
mod mode;
mod notices;
mod records;
pub mod seal;
mod status;
mod steward;
mod thread;
mod transport;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use thiserror::Error;
use tracing::{info, warn};

use crate::bounded::ForgetError;
use crate::config::{ClusterConfig, Config};
use crate::limit::Limiter;
use crate::replica::ReplicaId;

use keyring::KeyringError;
use seal::Envelope;
use thread::GossipThread;
use transport::BoundSocket;

pub use counters::TransportStats;
pub use driver::{RowCount, RowCounts};
pub use flush::Flusher;
pub use handle::{ClusterHandle, LeaveOutcome};
pub use keys::check_keys;
pub use members::{Attributes, Member, Presence};
pub(crate) use members::{MemberTable, Sighting, View};
pub use mode::{Announcement, ModeVersion, Span};
pub use status::ClusterStatus;

/// Smallest `sync.datagram_bytes`: below it, chitchat's largest message needs more than 255 fragments.
pub const DATAGRAM_BYTES_MIN: usize = 512;

/// The cluster shell of one node.
pub struct Cluster;

impl Cluster {
    /// Binds the gossip socket, then starts the gossip thread of replica `me`, which shares the counters
    /// of `limiter` with the cluster. Returns before any peer is known.
    ///
    /// # Errors
    /// Nothing was announced and nothing runs when the address cannot be bound or advertised, the keys
    /// cannot be read, or gossip would be open to strangers.
    pub fn start(
        config: &Config,
        me: ReplicaId,
        limiter: Arc<Limiter>,
    ) -> Result<ClusterHandle, ClusterError> {
        if config.sync.datagram_bytes < DATAGRAM_BYTES_MIN {
            return Err(ClusterError::DatagramTooSmall(config.sync.datagram_bytes));
        }
        let keyring = keys::load(&config.cluster)?;
        let envelope = match &keyring {
            Some(ring) => Envelope::sealed(ring, &config.cluster.id),
            None => open_envelope(&config.cluster)?,
        };
        let address = config.cluster.gossip;
        let socket = BoundSocket::bind(address).map_err(|source| ClusterError::Bind { address, source })?;
        let advertise = advertised(&config.cluster, socket.address)?;
        info!(
            listening = %socket.address, %advertise, cluster = %config.cluster.id,
            sealing_key = envelope.key_id(), "gossip"
        );
        let envelope = Arc::new(ArcSwap::from_pointee(envelope));
        let follow = config.cluster.key_file.clone().zip(keyring);
        GossipThread::new(config, me, advertise, envelope, follow).start(socket, limiter)
    }
}

fn open_envelope(config: &ClusterConfig) -> Result<Envelope, ClusterError> {
    if !config.gossip.ip().is_loopback() {
        if !config.insecure_gossip {
            return Err(ClusterError::OpenGossip(config.gossip));
        }
        warn!(
            address = %config.gossip,
            "GOSSIP IS OPEN: anybody who reaches this address can read and forge counts; \
             set a gossip key (`weir keygen`)"
        );
    } else {
        warn!("gossip is open: no gossip key is set, so any process on this host can forge counts");
    }
    Ok(Envelope::open_to_all(&config.id))
}

/// The address that peers are told: as configured, or as bound. Port 0 stands for the bound port.
fn advertised(config: &ClusterConfig, bound: SocketAddr) -> Result<SocketAddr, ClusterError> {
    let mut address = config.advertise.unwrap_or(bound);
    if address.port() == 0 {
        address.set_port(bound.port());
    }
    if address.ip().is_unspecified() {
        return Err(ClusterError::NothingToAdvertise(address));
    }
    Ok(SocketAddr::new(address.ip().to_canonical(), address.port()))
}

/// Why the cluster shell did not start, or does not go on.
#[derive(Debug, Error)]
pub enum ClusterError {
    /// The gossip address is taken, or not of this host.
    #[error("cannot bind the gossip address {address}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// Peers cannot reach a wildcard address.
    #[error("peers cannot be told to reach {0}: set `cluster.advertise` to an address of this node")]
    NothingToAdvertise(SocketAddr),
    /// No key, and an address that strangers may reach.
    #[error(
        "gossip on {0} without a key is open to everybody: set `cluster.key_file` (`weir keygen` prints a \
         key), or allow it with `--insecure-gossip`"
    )]
    OpenGossip(SocketAddr),
    /// The key file cannot be read.
    #[error("cannot read the gossip key file {}", path.display())]
    KeyFile {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The keys cannot be understood.
    #[error("{origin}: {source}")]
    Keyring {
        /// The file, or where else they came from.
        origin: String,
        /// What is wrong.
        source: KeyringError,
    },
    /// Datagrams would be too small for membership.
    #[error("`sync.datagram_bytes` is {0}: at least {DATAGRAM_BYTES_MIN} are needed")]
    DatagramTooSmall(usize),
    /// The system refused a thread or a runtime.
    #[error("cannot start the gossip thread")]
    Thread(#[source] io::Error),
    /// A node is still counted.
    #[error(transparent)]
    NotForgotten(#[from] ForgetError),
    /// The gossip thread has ended; this node no longer shares its counts.
    #[error("the gossip thread has stopped: {0}")]
    Stopped(Arc<str>),
}

#[cfg(test)]
#[path = "cluster_tests.rs"]
mod tests;
