//! Membership: chitchat over our transport, and what is made of what it hears.
//!
//! Owns the chitchat task and the key-values that this node publishes, few and slow to change. Promises
//! that nothing on the request path ever waits for chitchat's lock.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use chitchat::{
    Chitchat, ChitchatConfig, ChitchatHandle, ChitchatId, FailureDetectorConfig, ListenerHandle, NodeState,
    spawn_chitchat,
};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tracing::{debug, error, info, warn};

use crate::limit::{Limiter, SyncMode};
use crate::replica::{Generation, ReplicaId};

use super::attributes;
use super::clock::Clock;
use super::flush::Flusher;
use super::gossip_socket::GossipTransport;
use super::members::{Attributes, MemberTable, Presence, Sighting, View};
use super::mode::{Announcement, ModeVersion};
use super::records::Records;

/// How long the dead are remembered: chitchat's digest carries each of them, and the admin API lists
/// them. chitchat's own default is a day.
const DEAD_NODE_GRACE: Duration = Duration::from_secs(600);
/// Silence that the failure detector forgives at least, in mean heartbeat intervals.
const PHI_MIN: f64 = 8.0;
/// Silence that is forgiven at least: a throttled or paused process comes back within it, and taking it
/// for dead would cost accuracy, while a dead peer costs a few datagrams.
const SILENCE_MIN: Duration = Duration::from_secs(3);
/// What depends on time alone is looked at this often.
const REFRESH_INTERVAL: Duration = Duration::from_secs(1);
/// How many peers are told at once of something that should not wait for the next round; they tell on.
const URGENT_PEERS_MAX: usize = 32;
/// How long a leaver answers handshakes after its last word: some round trips.
const LINGER: Duration = Duration::from_millis(100);

/// What the rest of the node asks of membership.
pub(super) enum MembershipCommand {
    /// Set the mode of the whole cluster.
    SetMode(SyncMode, oneshot::Sender<ModeVersion>),
    /// Publish a value under a key of [`attributes`], and tell peers at once.
    Publish(&'static str, String),
    /// Tell the cluster that this node is about to leave.
    MarkLeaving(oneshot::Sender<()>),
    /// Say goodbye and stop; answered when done.
    Depart(oneshot::Sender<()>),
}

/// What membership is started with.
pub(super) struct MembershipConfig {
    pub(super) me: ReplicaId,
    pub(super) cluster_id: String,
    pub(super) advertise: SocketAddr,
    pub(super) gossip_interval: Duration,
    pub(super) replicas_min: u32,
    pub(super) attributes: Attributes,
}

/// The chitchat task and its interpreter.
pub(super) struct Membership {
    chitchat: Arc<ChitchatHandle>,
    table: MemberTable,
    mode: watch::Sender<ModeVersion>,
    view: watch::Sender<Arc<View>>,
    commands: mpsc::Receiver<MembershipCommand>,
    limiter: Arc<Limiter>,
    flusher: Flusher,
    clock: Clock,
    /// What this node says of the mode.
    announced: Announcement,
    records: Records,
    heard: Arc<Notify>,
    // Unsubscribe when dropped.
    _listeners: [ListenerHandle; 3],
}

/// The channels between membership and the rest.
pub(super) struct MembershipPorts {
    pub(super) mode: watch::Sender<ModeVersion>,
    pub(super) view: watch::Sender<Arc<View>>,
    pub(super) commands: mpsc::Receiver<MembershipCommand>,
}

/// Membership cannot go on; the node is deaf without it.
#[derive(Debug, thiserror::Error)]
#[error("membership stopped: {0:#}")]
pub(super) struct MembershipStopped(anyhow::Error);

impl Membership {
    /// Starts chitchat over `transport` on the current runtime.
    pub(super) async fn start(
        config: MembershipConfig,
        transport: GossipTransport,
        ports: MembershipPorts,
        limiter: Arc<Limiter>,
        flusher: Flusher,
        clock: Clock,
    ) -> Result<Self, MembershipStopped> {
        let published = attributes::to_key_values(&config.attributes);
        let handle = spawn_chitchat(chitchat_config(&config), published, &transport)
            .await
            .map_err(MembershipStopped)?;
        let heard = Arc::new(Notify::new());
        let wake = Arc::clone(&heard);
        let _listeners = handle
            .with_chitchat(|chitchat| {
                // What cannot wait for the next look.
                [attributes::MODE, attributes::ROSTER, attributes::ESTATE].map(|key| {
                    let wake = Arc::clone(&wake);
                    chitchat.subscribe_event(key, move |_| wake.notify_one())
                })
            })
            .await;
        let announced = Announcement::of(*ports.mode.borrow());
        Ok(Self {
            announced,
            chitchat: Arc::new(handle),
            table: MemberTable::new(config.me, config.replicas_min),
            mode: ports.mode,
            view: ports.view,
            commands: ports.commands,
            limiter,
            flusher,
            clock,
            records: Records::default(),
            heard,
            _listeners,
        })
    }

    /// The running chitchat, to feed it addresses.
    pub(super) fn chitchat(&self) -> Arc<ChitchatHandle> {
        Arc::clone(&self.chitchat)
    }

    /// Interprets membership until this node has departed.
    pub(super) async fn run(mut self) -> Result<(), MembershipStopped> {
        let mut live_nodes = self
            .chitchat
            .with_chitchat(|chitchat| chitchat.live_nodes_watcher())
            .await;
        let mut interval = tokio::time::interval(REFRESH_INTERVAL);
        let stopped = self.chitchat.termination_watcher();
        tokio::pin!(stopped);
        loop {
            tokio::select! {
                result = &mut stopped => return Err(stop_reason(result)),
                command = self.commands.recv() => match command {
                    Some(MembershipCommand::Depart(done)) => {
                        self.depart().await;
                        let _ = done.send(());
                        return Ok(());
                    }
                    Some(command) => self.handle_command(command).await,
                    None => return Ok(()),
                },
                Ok(()) = live_nodes.changed() => {}
                () = self.heard.notified() => {}
                _ = interval.tick() => {}
            }
            live_nodes.mark_unchanged();
            self.refresh().await;
        }
    }

    async fn handle_command(&mut self, command: MembershipCommand) {
        match command {
            MembershipCommand::SetMode(mode, reply) => {
                let next = self.set_mode(mode).await;
                // A caller that has gone away still set the mode.
                let _ = reply.send(next);
            }
            MembershipCommand::Publish(key, value) => {
                self.publish(key, value).await;
                self.gossip_now();
            }
            MembershipCommand::MarkLeaving(reply) => {
                self.publish(
                    attributes::PRESENCE,
                    attributes::presence_value(Presence::Leaving),
                )
                .await;
                self.gossip_now();
                let _ = reply.send(());
            }
            // Handled by the caller, since it ends the loop.
            MembershipCommand::Depart(_) => {}
        }
    }

    async fn refresh(&mut self) {
        let records = &mut self.records;
        let sightings = self
            .chitchat
            .with_chitchat(|chitchat| sightings(chitchat, records))
            .await;
        let mut view = self.table.view(sightings, self.clock.monotonic());
        view.malformed_records = self.records.malformed();
        if let Some(heard) = view.mode
            && heard.version > 0
            && heard.supersedes(*self.mode.borrow())
        {
            info!(mode = %heard.mode, version = heard.version, "the cluster's sync mode changed");
            self.adopt(heard).await;
        }
        let previous = Arc::clone(&self.view.borrow());
        report_changes(&previous, &view);
        if previous.replicas != view.replicas {
            self.limiter.set_replicas(view.replicas);
        }
        if *previous != view {
            self.view.send_replace(Arc::new(view));
        }
    }

    async fn set_mode(&mut self, mode: SyncMode) -> ModeVersion {
        let known = *self.mode.borrow();
        let next = known.next(mode, self.clock.now().wall);
        if next == known {
            info!(%mode, version = next.version, "the cluster's sync mode was set again, and stays");
        } else {
            info!(%mode, version = next.version, "the cluster's sync mode was set on this node");
            self.adopt(next).await;
        }
        self.gossip_now();
        next
    }

    /// Puts `mode` in force here, and publishes it: a mode outlives the node that set it.
    async fn adopt(&mut self, mode: ModeVersion) {
        let clock = self.clock;
        self.announced = self.announced.adopt(mode, &self.limiter, || clock.now().wall);
        self.publish(attributes::MODE, self.announced.to_string()).await;
        self.mode.send_replace(mode);
        drop(self.flusher.request());
    }

    async fn publish(&self, key: &str, value: String) {
        self.chitchat
            .with_chitchat(|chitchat| chitchat.self_node_state().set(key, &value))
            .await;
    }

    /// Starts a handshake with peers at once rather than at the next round.
    fn gossip_now(&self) {
        for (replica, address) in self.view.borrow().peers.iter().take(URGENT_PEERS_MAX) {
            if let Err(error) = self.chitchat.gossip(*address) {
                debug!(%replica, %error, "membership handshake not started");
            }
        }
    }

    async fn depart(&mut self) {
        self.publish(attributes::PRESENCE, attributes::presence_value(Presence::Left))
            .await;
        self.gossip_now();
        if !self.view.borrow().peers.is_empty() {
            tokio::time::sleep(LINGER).await;
        }
        let stopped = self.chitchat.termination_watcher();
        if self.chitchat.initiate_shutdown().is_ok()
            && let Err(error) = stopped.await
        {
            warn!(%error, "membership did not stop cleanly");
        }
    }
}

fn chitchat_config(config: &MembershipConfig) -> ChitchatConfig {
    let intervals = SILENCE_MIN.as_secs_f64() / config.gossip_interval.as_secs_f64().max(0.001);
    ChitchatConfig {
        chitchat_id: ChitchatId::new(config.me.node.as_str(), config.me.generation.0, config.advertise),
        cluster_id: config.cluster_id.clone(),
        gossip_interval: config.gossip_interval,
        // Ours is bound already; chitchat only hands this back to the transport.
        listen_addr: config.advertise,
        // Discovery feeds addresses: chitchat resolves names once a minute, and forgets them on failure.
        seed_nodes: Vec::new(),
        failure_detector_config: FailureDetectorConfig {
            phi_threshold: intervals.max(PHI_MIN),
            // The prior is what heartbeats will be, or detection would drift with uptime.
            initial_interval: config.gossip_interval,
            dead_node_grace_period: DEAD_NODE_GRACE,
            ..FailureDetectorConfig::default()
        },
        marked_for_deletion_grace_period: DEAD_NODE_GRACE,
        catchup_callback: None,
        extra_liveness_predicate: None,
    }
}

fn sightings(chitchat: &Chitchat, records: &mut Records) -> Vec<Sighting> {
    let live: std::collections::HashSet<&ChitchatId> = chitchat.live_nodes().collect();
    let states = chitchat.node_states().iter();
    let seen: Vec<_> = states
        .filter_map(|(id, state)| sighting(id, state, live.contains(id), records))
        .collect();
    let known: std::collections::HashSet<&ReplicaId> = seen.iter().map(|seen| &seen.replica).collect();
    records.retain(|replica| known.contains(replica));
    seen
}

fn sighting(id: &ChitchatId, state: &NodeState, live: bool, records: &mut Records) -> Option<Sighting> {
    let Ok(node) = id.node_id.parse() else {
        debug!(id = ?id, "member with an invalid node id ignored");
        return None;
    };
    if id.gossip_advertise_addr.port() == 0 || id.gossip_advertise_addr.ip().is_unspecified() {
        debug!(id = ?id, "member without a usable address ignored");
        return None;
    }
    let replica = ReplicaId {
        node,
        generation: Generation(id.generation_id),
    };
    let versioned = |key| {
        let value = state.get_versioned(key)?;
        Some((value.version, value.value.as_str()))
    };
    let attributes = Attributes {
        roster: records.roster(&replica, versioned(attributes::ROSTER)),
        estate: records.estate(&replica, versioned(attributes::ESTATE)),
        ..attributes::from_key_values(|key| state.get(key))
    };
    Some(Sighting {
        replica,
        address: id.gossip_advertise_addr,
        live,
        attributes,
    })
}

fn report_changes(previous: &View, view: &View) {
    for (replica, address) in &view.peers {
        if !previous.peers.iter().any(|(known, _)| known == replica) {
            info!(%replica, %address, "peer joined");
        }
    }
    for (replica, _) in &previous.peers {
        if !view.peers.iter().any(|(known, _)| known == replica) {
            info!(%replica, "peer gone");
        }
    }
    if view.superseded && !previous.superseded {
        error!(
            "not ready: another process runs under this node's id with a newer start; node ids must be unique, stop \
             one of the two"
        );
    }
    if previous.superseded && !view.superseded {
        info!("the other process under this node's id is gone");
    }
}

fn stop_reason(result: anyhow::Result<()>) -> MembershipStopped {
    MembershipStopped(match result {
        Ok(()) => anyhow::anyhow!("the chitchat task ended unasked"),
        Err(error) => error,
    })
}

#[cfg(test)]
#[path = "membership_tests.rs"]
mod tests;
