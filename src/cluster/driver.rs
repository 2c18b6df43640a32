//! The gossip thread's main loop: it owns the replication core and everything that goes in and out of it.
//!
//! Every wake is one turn in a fixed order, so that what peers said is merged before what we counted is
//! sent. Request threads only ever set a flag and wake this loop.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::debug;

use crate::bounded::{EscrowStatus, ForgetError};
use crate::limit::{Now, RowRef};
use crate::replica::{NodeId, ReplicaId};
use crate::replication::Replication;

use super::clock::Clock;
use super::flush::Flusher;
use super::gossip_socket::InboxMessage;
use super::members::View;
use super::status::{ClusterStatus, Readiness};
use super::steward::Steward;
use super::transport::{Received, Receiver, Sender, Transport};

/// Datagrams taken in before what is due is sent: a flood delays our own news by well under a
/// millisecond.
const DATAGRAMS_PER_TURN_MAX: usize = 64;
/// Datagrams sent before the loop looks at its socket again, so that a burst to many peers does not
/// overflow the receive buffer meanwhile.
const TRANSMITS_PER_TURN_MAX: usize = 256;
/// The status is for people and scrapers.
const STATUS_INTERVAL: Duration = Duration::from_millis(100);

/// What one replica did with a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowCount {
    /// Who.
    pub replica: ReplicaId,
    /// It is the node that was asked.
    pub is_own: bool,
    /// Hits that it admitted.
    pub admitted: u64,
    /// Rights that it granted to others, in bounded mode.
    pub granted: u64,
}

/// The counts of one row by replica.
pub type RowCounts = Vec<RowCount>;

/// What the rest of the node asks of the core.
pub(super) enum DriverCommand {
    /// The counts of each row by replica.
    RowCounts(Vec<RowRef>, oneshot::Sender<Vec<RowCounts>>),
    /// Flush everything and pass on all rights; answered once every live peer has acknowledged it, and the heir
    /// that it owns them.
    Leave(oneshot::Sender<()>),
    /// The roster, for the operator.
    Roster(oneshot::Sender<EscrowStatus>),
    /// Give a node up; answered with its replicas that depart.
    Forget(NodeId, oneshot::Sender<Result<Vec<ReplicaId>, ForgetError>>),
}

/// The replication core with its ears and its mouth.
pub(super) struct Driver {
    pub(super) replication: Replication,
    pub(super) steward: Steward,
    pub(super) transport: Arc<Transport>,
    pub(super) receiver: Receiver,
    pub(super) sender: Sender,
    pub(super) inbox: mpsc::Sender<InboxMessage>,
    pub(super) view: watch::Receiver<Arc<View>>,
    pub(super) commands: mpsc::Receiver<DriverCommand>,
    pub(super) flusher: Flusher,
    /// The newest flush that the pacer still holds something of.
    pub(super) flushing: Option<u64>,
    pub(super) clock: Clock,
    pub(super) readiness: Readiness,
    pub(super) status: Arc<ArcSwap<ClusterStatus>>,
    pub(super) status_due: Duration,
    pub(super) leaving: Option<oneshot::Sender<()>>,
}

impl Driver {
    /// Runs until every handle is gone.
    pub(super) async fn run(mut self) {
        while self.take_commands() {
            let backlog = self.turn().await;
            if backlog {
                // Membership and discovery share this thread: a flood must not starve them.
                tokio::task::yield_now().await;
            } else {
                self.wait().await;
            }
        }
    }

    /// Waits for something to do.
    async fn wait(&mut self) {
        let core = self.replication.poll_timeout();
        let steward = self.steward.poll_timeout().map(|at| self.clock.deadline(at));
        let deadline = steward.map_or(core, |at| at.min(core));
        tokio::select! {
            // Biased to save the random draw: the order is of no consequence, since each wake leads to
            // the same turn, which looks at everything.
            biased;
            () = self.flusher.requested() => {}
            () = self.receiver.readable() => {}
            () = self.clock.sleep_until(deadline) => {}
            Ok(()) = self.view.changed() => self.view.mark_changed(),
            // A closed channel is found by the next look at the commands, which ends the loop.
            command = self.commands.recv() => if let Some(command) = command {
                self.handle_command(command);
            },
        }
    }

    /// Carries out what was asked since the last look; `false` when nobody is left to ask.
    fn take_commands(&mut self) -> bool {
        loop {
            match self.commands.try_recv() {
                Ok(command) => self.handle_command(command),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    /// One turn: membership, then merges, then shares, then what was counted here, then timers, then what is to
    /// be sent. Returns whether something is left to do at once.
    async fn turn(&mut self) -> bool {
        if self.view.has_changed().unwrap_or(false) {
            let view = Arc::clone(&self.view.borrow_and_update());
            self.replication.set_frame_version(view.frame_version);
            let now = self.clock.now();
            self.replication.handle_membership(&view.peers, now);
            self.steward.handle_view(&view, now);
            self.readiness.met_peers(!view.peers.is_empty());
        }
        let more_received = self.receive();
        // Before requests are seen to that want rights: a window may just have started.
        self.steward.turn(&mut self.replication, self.clock.now());
        if let Some(ticket) = self.flusher.take() {
            self.replication.handle_local_change(self.clock.now());
            self.flushing = Some(ticket);
        }
        let now = self.clock.now();
        if now.monotonic >= self.replication.poll_timeout() {
            self.replication.handle_timeout(now);
        }
        let more_to_send = self.transmit().await;
        // What waits in the core's outbox has not left either.
        let is_flushed = !more_to_send && !self.replication.has_due();
        if let Some(ticket) = self.flushing.take_if(|_| is_flushed) {
            self.flusher.flushed(ticket);
        }
        self.settle();
        more_received || more_to_send
    }

    fn receive(&mut self) -> bool {
        for _ in 0..DATAGRAMS_PER_TURN_MAX {
            let now = self.clock.now();
            match self.receiver.receive(now.monotonic) {
                Some(Received::Frame(frame)) => {
                    if let Err(error) = self.replication.handle_datagram(frame, now) {
                        debug!(%error, "replication frame refused");
                    }
                }
                Some(Received::Message(from, message)) => {
                    if self.inbox.try_send((from, message)).is_err() {
                        self.transport.counters().queue_full.add(1);
                    }
                }
                Some(Received::Nothing) => {}
                None => return false,
            }
        }
        true
    }

    async fn transmit(&mut self) -> bool {
        for _ in 0..TRANSMITS_PER_TURN_MAX {
            let Some(transmit) = self.replication.poll_transmit() else {
                return false;
            };
            self.sender.send_frame(&transmit.to, &transmit.payload).await;
        }
        true
    }

    /// What follows from the state of the core after a turn.
    fn settle(&mut self) {
        let now = self.clock.now();
        let replication = &self.replication;
        self.readiness
            .update(now.monotonic, || replication.is_caught_up());
        if self.leaving.is_some()
            && replication.is_acknowledged()
            && self.steward.is_settled()
            && let Some(acknowledged) = self.leaving.take()
        {
            // A caller that stopped waiting leaves without the answer.
            let _ = acknowledged.send(());
        }
        if now.monotonic >= self.status_due {
            self.status_due = now.monotonic + STATUS_INTERVAL;
            self.status.store(Arc::new(self.snapshot(now)));
        }
    }

    fn snapshot(&self, now: Now) -> ClusterStatus {
        let envelope = self.transport.envelope();
        ClusterStatus {
            peers: self.replication.peers(now),
            replication: self.replication.stats(),
            transport: self.transport.counters().snapshot(),
            sealing_key: envelope.key_id(),
            key_count: envelope.key_count(),
            caught_up: self.replication.is_caught_up(),
            escrow: self.steward.reading(),
            transfers: self.replication.transfer_stats(),
            malformed_records: self.view.borrow().malformed_records,
        }
    }

    fn row_counts(&self, row: RowRef) -> RowCounts {
        let granted: BTreeMap<_, _> = self.replication.granted(row).into_iter().collect();
        let count = |(replica, consumed): (ReplicaId, u64)| {
            let granted = granted.get(&replica).copied().unwrap_or(0);
            RowCount {
                is_own: replica == *self.replication.me(),
                admitted: consumed.saturating_sub(granted),
                granted,
                replica,
            }
        };
        self.replication.counts(row).into_iter().map(count).collect()
    }

    fn handle_command(&mut self, command: DriverCommand) {
        match command {
            DriverCommand::RowCounts(rows, reply) => {
                let counts = rows.into_iter().map(|row| self.row_counts(row));
                let _ = reply.send(counts.collect());
            }
            DriverCommand::Leave(acknowledged) => {
                let now = self.clock.now();
                self.steward.leave(now);
                self.replication.handle_leave(now);
                self.leaving = Some(acknowledged);
            }
            DriverCommand::Roster(reply) => {
                let _ = reply.send(self.steward.status());
            }
            DriverCommand::Forget(node, reply) => {
                let _ = reply.send(self.steward.forget(&node, self.clock.now()));
            }
        }
    }
}

#[cfg(test)]
#[path = "driver_tests.rs"]
mod tests;
