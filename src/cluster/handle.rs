//! The rest of the node's grip on the gossip thread.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot, watch};

use crate::bounded::EscrowStatus;
use crate::limit::{RowRef, SyncMode};
use crate::replica::{NodeId, ReplicaId};

use super::ClusterError;
use super::attributes;
use super::driver::{DriverCommand, RowCounts};
use super::flush::Flusher;
use super::members::{Member, View};
use super::membership::MembershipCommand;
use super::mode::ModeVersion;
use super::status::ClusterStatus;

/// Rows that one request for counts may name.
const ROWS_MAX: usize = 1_000;

/// How the gossip thread ended.
pub(super) type Outcome = Result<(), Arc<str>>;

/// A running cluster shell. The gossip thread stops without a goodbye when the last handle is dropped;
/// use [`ClusterHandle::leave`] to go in order.
pub struct ClusterHandle {
    pub(super) address: SocketAddr,
    pub(super) flusher: Flusher,
    pub(super) status: Arc<ArcSwap<ClusterStatus>>,
    pub(super) view: watch::Receiver<Arc<View>>,
    pub(super) mode: watch::Receiver<ModeVersion>,
    pub(super) ready: watch::Receiver<bool>,
    pub(super) outcome: watch::Receiver<Option<Outcome>>,
    pub(super) membership: mpsc::Sender<MembershipCommand>,
    pub(super) driver: mpsc::Sender<DriverCommand>,
}

/// Whether the counters and the rights of a leaving node arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaveOutcome {
    /// Every live peer has acknowledged everything that this node counted, and its heir, if there is one, that
    /// it owns this node's rights.
    Acknowledged,
    /// The deadline passed first; peers may miss the last counts of this node, and its rights may be lost for
    /// their windows.
    TimedOut,
}

impl ClusterHandle {
    /// What request threads call when a counted row is due.
    #[must_use]
    pub fn flusher(&self) -> Flusher {
        self.flusher.clone()
    }

    /// The gossip address that peers are told, with the actual port.
    #[must_use]
    pub fn gossip_address(&self) -> SocketAddr {
        self.address
    }

    /// A snapshot of replication and transport, at most a moment old.
    #[must_use]
    pub fn status(&self) -> Arc<ClusterStatus> {
        self.status.load_full()
    }

    /// Every known replica, ourselves included, recently dead ones too, in order of node and generation.
    #[must_use]
    pub fn members(&self) -> Vec<Member> {
        self.view.borrow().members.clone()
    }

    /// How many nodes share the limits, as significance divides by.
    #[must_use]
    pub fn replicas(&self) -> u32 {
        self.view.borrow().replicas
    }

    /// The cluster-wide mode in force here.
    #[must_use]
    pub fn mode(&self) -> ModeVersion {
        *self.mode.borrow()
    }

    /// Sets the mode of the whole cluster. Between local and gossip mode it holds at once here, and within a
    /// gossip round or two elsewhere; a switch to or from bounded mode holds for windows that start after
    /// [`ModeVersion::from`].
    ///
    /// # Errors
    /// [`ClusterError::Stopped`]; nothing changed.
    pub async fn set_mode(&self, mode: SyncMode) -> Result<ModeVersion, ClusterError> {
        let (reply, answer) = oneshot::channel();
        self.ask_membership(MembershipCommand::SetMode(mode, reply))
            .await?;
        answer.await.map_err(|_| self.stopped())
    }

    /// Tells the peers the digest of the configuration that is now in force.
    ///
    /// # Errors
    /// [`ClusterError::Stopped`]; they are not told.
    pub async fn set_config_digest(&self, digest: String) -> Result<(), ClusterError> {
        let publish = MembershipCommand::Publish(attributes::CONFIG_DIGEST, digest);
        self.ask_membership(publish).await
    }

    /// Whether this node knows what one peer knew when it joined, or waited long enough for one. Once
    /// true, it stays true.
    #[must_use]
    pub fn ready(&self) -> bool {
        *self.ready.borrow()
    }

    /// Whether a newer process under this node's id is alive: peers count that one, and no longer this.
    #[must_use]
    pub fn superseded(&self) -> bool {
        self.view.borrow().superseded
    }

    /// Waits until [`ClusterHandle::ready`].
    ///
    /// # Errors
    /// [`ClusterError::Stopped`] if the gossip thread ends before.
    pub async fn wait_ready(&self) -> Result<(), ClusterError> {
        let mut ready = self.ready.clone();
        match ready.wait_for(|ready| *ready).await {
            Ok(_) => Ok(()),
            Err(_) => Err(self.stopped()),
        }
    }

    /// The counts of each of `rows` by replica, in the order given; at most 1,000 rows are answered.
    ///
    /// # Errors
    /// [`ClusterError::Stopped`].
    pub async fn row_counts(&self, mut rows: Vec<RowRef>) -> Result<Vec<RowCounts>, ClusterError> {
        rows.truncate(ROWS_MAX);
        let (reply, answer) = oneshot::channel();
        self.ask_driver(DriverCommand::RowCounts(rows, reply)).await?;
        answer.await.map_err(|_| self.stopped())
    }

    /// The roster, the shares and the wills, as this node sees them.
    ///
    /// # Errors
    /// [`ClusterError::Stopped`].
    pub async fn roster(&self) -> Result<EscrowStatus, ClusterError> {
        let (reply, answer) = oneshot::channel();
        self.ask_driver(DriverCommand::Roster(reply)).await?;
        answer.await.map_err(|_| self.stopped())
    }

    /// Declares that `node` is gone for good and that its process has stopped: it takes no share of windows
    /// that start more than the tolerated clock difference from now. Gives its replicas that depart. If it
    /// still lives, cut off from here, up to one more limit may be admitted.
    ///
    /// # Errors
    /// [`ClusterError::Stopped`] and [`ClusterError::NotForgotten`]; nothing changed.
    pub async fn forget(&self, node: NodeId) -> Result<Vec<ReplicaId>, ClusterError> {
        let (reply, answer) = oneshot::channel();
        self.ask_driver(DriverCommand::Forget(node, reply)).await?;
        Ok(answer.await.map_err(|_| self.stopped())??)
    }

    /// Leaves in order: tells the cluster, sends what is unsent, passes its rights on, waits up to `deadline`
    /// for both to be acknowledged, says goodbye and stops the gossip thread. Count nothing after calling it.
    ///
    /// # Errors
    /// [`ClusterError::Stopped`] if the thread had ended before; the last counts may be lost.
    pub async fn leave(&self, deadline: Duration) -> Result<LeaveOutcome, ClusterError> {
        let (marked, is_marked) = oneshot::channel();
        self.ask_membership(MembershipCommand::MarkLeaving(marked))
            .await?;
        is_marked.await.map_err(|_| self.stopped())?;
        let (acknowledged, is_acknowledged) = oneshot::channel();
        self.ask_driver(DriverCommand::Leave(acknowledged)).await?;
        let outcome = match tokio::time::timeout(deadline, is_acknowledged).await {
            Ok(Ok(())) => LeaveOutcome::Acknowledged,
            Ok(Err(_)) => return Err(self.stopped()),
            Err(_) => LeaveOutcome::TimedOut,
        };
        let (departed, has_departed) = oneshot::channel();
        self.ask_membership(MembershipCommand::Depart(departed)).await?;
        has_departed.await.map_err(|_| self.stopped())?;
        Ok(outcome)
    }

    /// Resolves with the reason if the gossip thread fails; never if it ends because it was asked to.
    /// A node whose gossip thread has failed counts alone and should exit.
    pub async fn failed(&self) -> ClusterError {
        let mut outcome = self.outcome.clone();
        let failed = outcome.wait_for(|outcome| matches!(outcome, Some(Err(_)))).await;
        let reason = match failed.as_deref() {
            Ok(Some(Err(reason))) => Some(Arc::clone(reason)),
            _ => None,
        };
        match reason {
            Some(reason) => ClusterError::Stopped(reason),
            None => std::future::pending().await,
        }
    }

    async fn ask_membership(&self, command: MembershipCommand) -> Result<(), ClusterError> {
        self.membership.send(command).await.map_err(|_| self.stopped())
    }

    async fn ask_driver(&self, command: DriverCommand) -> Result<(), ClusterError> {
        self.driver.send(command).await.map_err(|_| self.stopped())
    }

    fn stopped(&self) -> ClusterError {
        ClusterError::Stopped(match &*self.outcome.borrow() {
            Some(Err(reason)) => Arc::clone(reason),
            Some(Ok(())) => "this node has left the cluster".into(),
            None => "it is stopping".into(),
        })
    }
}
