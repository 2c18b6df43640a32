//! The gossip thread: builds what runs on it, and reports how it ended.

use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rand::{RngCore, SeedableRng};
use tokio::sync::{mpsc, watch};
use tracing::error;

use crate::bounded::{self, RosterConfig};
use crate::config::Config;
use crate::limit::Limiter;
use crate::replica::ReplicaId;
use crate::replication::{Replication, ReplicationConfig};

use super::ClusterError;
use super::clock::Clock;
use super::discovery::Discovery;
use super::driver::{Driver, DriverCommand};
use super::flush::Flusher;
use super::fragment;
use super::gossip_socket::{GossipTransport, INBOX_MESSAGES_MAX};
use super::handle::{ClusterHandle, Outcome};
use super::keyring::Keyring;
use super::keys;
use super::members::{Attributes, Presence, View};
use super::membership::{Membership, MembershipCommand, MembershipConfig, MembershipPorts};
use super::mode::{Announcement, ModeVersion};
use super::seal::Envelope;
use super::status::{ClusterStatus, Readiness};
use super::steward::{self, Steward};
use super::transport::{BoundSocket, Receiver, Sender, Transport};

/// Commands that wait for the gossip thread; people and scrapers send them.
const COMMANDS_MAX: usize = 64;

/// Everything that the gossip thread is told before it starts.
pub(super) struct GossipThread {
    membership: MembershipConfig,
    replication: ReplicationConfig,
    roster: RosterConfig,
    datagram_bytes: usize,
    seeds: Vec<String>,
    join_grace: Duration,
    /// Some rule is bounded from the start: then a node without seeds listens for the same time, too.
    bounded: bool,
    envelope: Arc<ArcSwap<Envelope>>,
    follow: Option<(PathBuf, Keyring)>,
    mode: ModeVersion,
}

/// The ends of the channels that the gossip thread keeps.
struct Ports {
    membership: MembershipPorts,
    view: watch::Receiver<Arc<View>>,
    mode: watch::Receiver<ModeVersion>,
    to_membership: mpsc::Sender<MembershipCommand>,
    commands: mpsc::Receiver<DriverCommand>,
    flusher: Flusher,
    status: Arc<ArcSwap<ClusterStatus>>,
    ready: watch::Sender<bool>,
}

impl GossipThread {
    pub(super) fn new(
        config: &Config,
        me: ReplicaId,
        advertise: SocketAddr,
        envelope: Arc<ArcSwap<Envelope>>,
        follow: Option<(PathBuf, Keyring)>,
    ) -> Self {
        let mode = ModeVersion::configured(config.sync.mode);
        let attributes = Attributes {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            config_digest: config.digest(),
            mode: Some(Announcement::of(mode)),
            admin: Some(config.admin.listen),
            listen: config.listen.iter().map(|listener| listener.address).collect(),
            frame_version: Some(config.sync.frame_version),
            presence: Presence::Staying,
            ..Attributes::default()
        };
        Self {
            membership: MembershipConfig {
                me,
                cluster_id: config.cluster.id.clone(),
                advertise,
                gossip_interval: config.cluster.gossip_interval,
                replicas_min: config.sync.min_replicas,
                attributes,
            },
            replication: replication_config(config),
            roster: steward::roster_config(config),
            datagram_bytes: config.sync.datagram_bytes,
            seeds: config.cluster.seeds.clone(),
            join_grace: config.cluster.join_grace,
            bounded: config.is_bounded(),
            envelope,
            follow,
            mode,
        }
    }

    /// Starts the thread on `socket`.
    pub(super) fn start(
        self,
        socket: BoundSocket,
        limiter: Arc<Limiter>,
    ) -> Result<ClusterHandle, ClusterError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(ClusterError::Thread)?;
        let flusher = Flusher::default();
        let status = Arc::new(ArcSwap::from_pointee(ClusterStatus::default()));
        let (view_sender, view) = watch::channel(Arc::new(View::default()));
        let (mode_sender, mode) = watch::channel(self.mode);
        let (ready_sender, ready) = watch::channel(false);
        let (outcome_sender, outcome) = watch::channel(None);
        let (membership_sender, membership_commands) = mpsc::channel::<MembershipCommand>(COMMANDS_MAX);
        let (driver_sender, driver_commands) = mpsc::channel(COMMANDS_MAX);
        let handle = ClusterHandle {
            address: self.membership.advertise,
            flusher: flusher.clone(),
            status: Arc::clone(&status),
            view: view.clone(),
            mode: mode.clone(),
            ready,
            outcome,
            membership: membership_sender.clone(),
            driver: driver_sender,
        };
        let ports = Ports {
            membership: MembershipPorts {
                mode: mode_sender,
                view: view_sender,
                commands: membership_commands,
            },
            view,
            mode,
            to_membership: membership_sender,
            commands: driver_commands,
            flusher,
            status,
            ready: ready_sender,
        };
        let body = move || {
            // A panic must not leave a node that answers requests and is deaf to its peers.
            let run = AssertUnwindSafe(|| runtime.block_on(self.run(socket, limiter, ports)));
            let outcome: Outcome = match catch_unwind(run) {
                Ok(Ok(())) => Ok(()),
                Ok(Err(reason)) => Err(format!("{reason:#}").into()),
                Err(_) => Err("it panicked; the message is above".into()),
            };
            if let Err(reason) = &outcome {
                error!(%reason, "the gossip thread has stopped");
            }
            outcome_sender.send_replace(Some(outcome));
        };
        std::thread::Builder::new()
            .name("weir-gossip".to_owned())
            .spawn(body)
            .map_err(ClusterError::Thread)?;
        Ok(handle)
    }

    async fn run(self, socket: BoundSocket, limiter: Arc<Limiter>, ports: Ports) -> anyhow::Result<()> {
        let clock = Clock::start();
        let me = self.membership.me.clone();
        let advertise = self.membership.advertise;
        let cluster_id = self.membership.cluster_id.clone();
        let transport = Transport::new(socket, Arc::clone(&self.envelope), self.datagram_bytes)?;
        let transport = Arc::new(transport);
        let (inbox_sender, inbox) = mpsc::channel(INBOX_MESSAGES_MAX);
        let gossip_transport = GossipTransport::new(Sender::new(Arc::clone(&transport)), inbox);
        let membership = Membership::start(
            self.membership,
            gossip_transport,
            ports.membership,
            Arc::clone(&limiter),
            ports.flusher.clone(),
            clock,
        )
        .await?;
        let discovery = Discovery::new(&self.seeds, advertise, ports.view.clone(), membership.chitchat());
        let alone = discovery.is_alone();
        let steward = Steward::new(
            me.clone(),
            self.roster,
            self.replication.grace,
            Arc::clone(&limiter),
            ports.mode,
            ports.to_membership,
        );
        let seed = rand::rngs::StdRng::from_os_rng().next_u64();
        let mut replication = Replication::new(me, Arc::clone(limiter.counters()), self.replication, seed);
        replication.set_bounded(Arc::clone(steward.shares()));
        let driver = Driver {
            flushing: None,
            replication,
            steward,
            receiver: Receiver::new(Arc::clone(&transport)),
            sender: Sender::new(Arc::clone(&transport)),
            transport,
            inbox: inbox_sender,
            view: ports.view,
            commands: ports.commands,
            flusher: ports.flusher,
            clock,
            readiness: Readiness::new(ports.ready, alone && !self.bounded, self.join_grace),
            status: ports.status,
            status_due: Duration::ZERO,
            leaving: None,
        };
        // Aborts what is left in it when this function returns.
        let mut background = tokio::task::JoinSet::new();
        background.spawn(discovery.run());
        if let Some((path, ring)) = self.follow {
            background.spawn(keys::follow(path, cluster_id, ring, self.envelope));
        }
        let membership = tokio::spawn(membership.run());
        tokio::select! {
            () = driver.run() => Ok(()),
            ended = membership => Ok(ended??),
        }
    }
}

fn replication_config(config: &Config) -> ReplicationConfig {
    let overhead = Envelope::OVERHEAD_BYTES + fragment::FRAME_HEADER.len();
    let default = ReplicationConfig::default();
    ReplicationConfig {
        tick: config.sync.tick,
        frame_bytes_max: config.sync.datagram_bytes.saturating_sub(overhead),
        significance: config.sync.significance,
        min_replicas: config.sync.min_replicas,
        max_clock_skew: config.sync.max_clock_skew,
        // Whatever the mode is now: it may change while rows are held.
        grace: bounded::grace(default.grace, config.bounded.skew),
        ..default
    }
}
