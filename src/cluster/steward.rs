//! Keeps the escrow in step with the rest of the gossip thread: membership and rules go in, and what comes out
//! goes to the replication core and back to membership.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use crate::bounded::{Escrow, EscrowReading, EscrowStatus, ForgetError, RosterConfig, ShareTable};
use crate::config::Config;
use crate::limit::{Limiter, Now, UnixMillis};
use crate::replica::{NodeId, ReplicaId};
use crate::replication::Replication;

use super::attributes;
use super::members::View;
use super::membership::MembershipCommand;
use super::mode::ModeVersion;
use super::notices::{Notice, Notices};

/// The escrow and those it works with.
pub(super) struct Steward {
    escrow: Escrow,
    shares: Arc<ShareTable>,
    limiter: Arc<Limiter>,
    mode: watch::Receiver<ModeVersion>,
    membership: mpsc::Sender<MembershipCommand>,
    /// The versions of the roster and the estate record that membership has.
    published: [u64; 2],
    notices: Notices,
}

impl Steward {
    /// The steward of `me`. `grace` is how long rows outlive their windows. The replication core is to be given
    /// [`Steward::shares`].
    pub(super) fn new(
        me: ReplicaId,
        config: RosterConfig,
        grace: Duration,
        limiter: Arc<Limiter>,
        mode: watch::Receiver<ModeVersion>,
        membership: mpsc::Sender<MembershipCommand>,
    ) -> Self {
        let shares = Arc::new(ShareTable::new(me.clone()));
        let configured = (*mode.borrow()).into();
        Self {
            escrow: Escrow::new(me, config, grace, configured, Arc::clone(&shares)),
            shares,
            limiter,
            mode,
            membership,
            published: [0; 2],
            notices: Notices::default(),
        }
    }

    /// The shares that the escrow takes.
    pub(super) fn shares(&self) -> &Arc<ShareTable> {
        &self.shares
    }

    pub(super) fn handle_view(&mut self, view: &View, now: Now) {
        self.escrow.handle_members(view.sights(), now.wall);
    }

    /// When the escrow wants a turn, on the wall clock; the rules are looked at with every tick of replication.
    pub(super) fn poll_timeout(&self) -> Option<UnixMillis> {
        self.escrow.poll_timeout()
    }

    /// Does what is to be done now. Cheap when that is nothing.
    pub(super) fn turn(&mut self, replication: &mut Replication, now: Now) {
        let applied = (*self.mode.borrow()).into();
        if self.escrow.look_at_rules(&self.limiter, applied, now) {
            let notices = self.notices.update(&self.escrow.status());
            notices.iter().for_each(Notice::log);
        }
        let outcome = replication.advance_escrow(&mut self.escrow, now.wall);
        for replica in &outcome.inherited {
            info!(%replica, "its rights are this node's now");
        }
        self.publish();
    }

    /// Begins to leave; [`Steward::is_settled`] says when this node may go.
    pub(super) fn leave(&mut self, now: Now) {
        self.escrow.leave(now.wall);
        self.publish();
    }

    pub(super) fn is_settled(&self) -> bool {
        self.escrow.is_settled()
    }

    pub(super) fn forget(&mut self, node: &NodeId, now: Now) -> Result<Vec<ReplicaId>, ForgetError> {
        let gone = self.escrow.forget(node, now.wall)?;
        for replica in &gone {
            warn!(%replica, "forgotten by an operator: it takes no share of later windows");
        }
        self.publish();
        Ok(gone)
    }

    pub(super) fn status(&self) -> EscrowStatus {
        self.escrow.status()
    }

    pub(super) fn reading(&self) -> EscrowReading {
        self.escrow.reading()
    }

    /// Hands records that have changed to membership. Where its queue is full, the next turn tries again.
    fn publish(&mut self) {
        let membership = &self.membership;
        let hand_over = |published: &mut u64, version, key, text: &dyn Fn() -> String| {
            let is_handed_over = version != *published
                && membership
                    .try_send(MembershipCommand::Publish(key, text()))
                    .is_ok();
            if is_handed_over {
                *published = version;
            }
        };
        let [roster, estate] = &mut self.published;
        if let Some(record) = self.escrow.roster_record() {
            hand_over(roster, record.version, attributes::ROSTER, &|| record.to_text());
        }
        if let Some(record) = self.escrow.estate_record() {
            hand_over(estate, record.version, attributes::ESTATE, &|| record.to_text());
        }
    }
}

/// What the configuration says about the roster.
pub(super) fn roster_config(config: &Config) -> RosterConfig {
    let listen = config.cluster.join_grace;
    let config = &config.bounded;
    RosterConfig {
        skew: config.skew,
        min_roster: usize::try_from(config.min_roster).unwrap_or(usize::MAX),
        listen,
        strict_start: config.strict_start,
        retire_on_restart: config.retire_on_restart,
        forget_after: config.forget_after,
    }
}
