//! How rights to bounded rows move between replicas: asks, grants, and when a denial is certain.
//!
//! Owns what is known of each row's transfers ([`Ledger`]) and who is asked when; the rules that say how much
//! moves are [`crate::bounded::Rights`]. Promises that an allowance is raised only to what is this replica's
//! own, whatever arrives in whatever order: shares that it took or inherited, and grants that a giver deducted
//! before it told of them, less what those it inherited from consumed.
//!
//! In reading order: `ledger` (what is known of one row), `asking` (looking for rights), `giving` (answering).

mod asking;
mod giving;
mod ledger;
#[cfg(test)]
mod mesh;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use crate::bounded::{ShareTable, allowance, replica_hash};
use crate::limit::{Now, RowKey, RowRef, RowView, Shares as _, UnixMillis};
use crate::replica::ReplicaId;

use super::codec::{self, Body, FRAME_VERSION_RIGHTS, Grant, Transfer, TransferKind, Version};
use super::core::Replication;
use super::log::OriginIndex;
use super::origin::OWN;

use self::ledger::Ledger;

/// A replica that has no share of a window yet decides within so long of its start, or not soon: what it needs
/// to hear takes a round of gossip. Until then its lack of rights proves nothing.
const DECISION_GRACE: Duration = Duration::from_secs(1);

/// Totals of transfers since start, and what is under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TransferStats {
    /// Asks sent, repeated ones included.
    pub asks: u64,
    /// Hits granted to others.
    pub granted: u64,
    /// Hits received in grants.
    pub received: u64,
    /// Answers to asks of this replica that said their sender is empty.
    pub answers_empty: u64,
    /// Rows with transfers now: those that asked, were asked, or of which a peer granted something.
    pub rows: u64,
    /// Of them, those of which every live peer has said that it is empty.
    pub exhausted: u64,
}

/// The transfers of all rows.
#[derive(Default)]
pub(super) struct Transfers {
    /// What this replica holds; without it nothing moves.
    shares: Option<Arc<ShareTable>>,
    /// Gone through in the order of the rows, so that a simulation can be repeated.
    ledgers: HashMap<RowRef, Ledger>,
    /// Whose rows are this replica's own beside its own, and their hashes.
    inherited: Vec<(ReplicaId, u64)>,
    /// When rows look again for rights that somebody waits for.
    retries: BTreeSet<(Duration, RowRef)>,
    /// What is to be sent, by peer.
    outgoing: BTreeMap<OriginIndex, Vec<Transfer>>,
    stats: TransferStats,
}

impl Transfers {
    /// When the next row looks again, or something is to be sent.
    pub(super) fn poll_timeout(&self) -> Option<Duration> {
        if !self.outgoing.is_empty() {
            return Some(Duration::ZERO);
        }
        self.retries.first().map(|(at, _)| *at)
    }

    /// The row is gone.
    pub(super) fn drop_row(&mut self, row: RowRef) {
        let Some(ledger) = self.ledgers.remove(&row) else {
            return;
        };
        self.stats.exhausted -= u64::from(ledger.exhausted);
        if let Some(at) = ledger.retry_at {
            self.retries.remove(&(at, row));
        }
    }

    /// What `subject` granted of `row`, as it goes over the wire.
    pub(super) fn grants_of(&self, row: RowRef, subject: OriginIndex) -> Vec<Grant> {
        self.ledgers
            .get(&row)
            .map_or_else(Vec::new, |ledger| ledger.grants_of(subject))
    }

    /// Whether this replica has granted something of `row`.
    pub(super) fn has_granted(&self, row: RowRef) -> bool {
        let ledger = self.ledgers.get(&row);
        ledger.is_some_and(|ledger| ledger.rights.granted().next().is_some())
    }

    /// The rows with transfers that are `concerned`, in their order: what is done for them can be repeated.
    fn rows(&self, concerned: impl Fn(&RowRef, &Ledger) -> bool) -> Vec<RowRef> {
        let ledgers = self.ledgers.iter().filter(|(row, ledger)| concerned(row, ledger));
        let mut rows: Vec<RowRef> = ledgers.map(|(row, _)| *row).collect();
        rows.sort_unstable();
        rows
    }

    fn tell(&mut self, peer: OriginIndex, key: RowKey, kind: TransferKind) {
        let outgoing = self.outgoing.entry(peer).or_default();
        outgoing.push(Transfer { key, kind });
    }

    fn schedule(&mut self, row: RowRef, at: Option<Duration>) {
        let Some(ledger) = self.ledgers.get_mut(&row) else {
            return;
        };
        let former = std::mem::replace(&mut ledger.retry_at, at);
        if let Some(former) = former {
            self.retries.remove(&(former, row));
        }
        if let Some(at) = at {
            self.retries.insert((at, row));
        }
    }
}

/// What the roster's owner calls.
impl Replication {
    /// Lets rights move: `shares` says what this replica holds, and what rows begin with from now on. Called once,
    /// before anything else happens; without it rows carry grants, and nobody is asked or given anything.
    pub fn set_bounded(&mut self, shares: Arc<ShareTable>) {
        self.counters.set_shares(Box::new(Arc::clone(&shares)));
        self.transfers.shares = Some(shares);
    }

    /// A share of the windows that start at `start` was decided: rows that were made before get theirs, and
    /// whoever was told that there is nothing here hears that there is.
    pub fn reassess(&mut self, start: UnixMillis) {
        let counters = Arc::clone(&self.counters);
        counters.reassess(start, |row, view| self.allowance(row, view));
        self.review_ledgers(|window_start| window_start == start);
    }

    /// From now on the rows of these replicas are this one's own, whose wills it has executed: it spends what
    /// they held and did not consume.
    ///
    /// It does not matter whether [`ShareTable::replace`] was called with their memberships before or after: a
    /// row that is made begins with this replica's own share, and what it inherited is added here alone, where
    /// it is known what the others consumed. Rows that look for rights are told at once; the others when they
    /// run low.
    pub fn inherit(&mut self, replicas: &[ReplicaId]) {
        for replica in replicas {
            let known = self.transfers.inherited.iter().any(|(id, _)| id == replica);
            if !known && *replica != self.origins.own().id {
                let hash = replica_hash(replica);
                self.transfers.inherited.push((replica.clone(), hash));
            }
        }
        self.review_ledgers(|_| true);
    }

    /// These replicas have inherited: that they were empty proves nothing any more.
    pub fn note_heirs(&mut self, heirs: &[ReplicaId]) {
        let hashes: Vec<u64> = heirs.iter().map(replica_hash).collect();
        for row in self.transfers.rows(|_, _| true) {
            if let Some(ledger) = self.transfers.ledgers.get_mut(&row) {
                hashes.iter().for_each(|hash| ledger.rights.handle_gain_of(*hash));
            }
            self.reopen(row);
        }
    }

    /// Up to where nothing of the log of `replica` is missing here; of our own log, its newest version.
    #[must_use]
    pub fn held(&self, replica: &ReplicaId) -> Version {
        let origin = self.origins.index_of(replica).and_then(|index| {
            let origin = self.origins.get(index)?;
            Some((index, origin))
        });
        match origin {
            Some((OWN, own)) => own.top,
            Some((index, origin)) => origin.before_hole(origin.held(index)),
            None => 0,
        }
    }

    /// The end of our log, once everything that was counted before [`Replication::handle_leave`] stands in it:
    /// what a will names as its final version. `None` before, and while not leaving.
    #[must_use]
    pub fn released_version(&self) -> Option<Version> {
        let is_released = self.leaving
            && !self.changes_left
            && self.due.is_empty()
            && self.dirty.is_empty()
            && self.adopted.is_empty();
        is_released.then(|| self.origins.own().top)
    }

    /// Forgets those of whom nothing is left that could be spent.
    pub(super) fn forget_inherited(&mut self) {
        let Transfers {
            shares, inherited, ..
        } = &mut self.transfers;
        inherited.retain(|(id, _)| {
            let has_share = shares.as_ref().is_some_and(|shares| shares.holds(id));
            has_share || self.origins.index_of(id).is_some()
        });
    }

    /// Totals for metrics.
    #[must_use]
    pub fn transfer_stats(&self) -> TransferStats {
        TransferStats {
            rows: self.transfers.ledgers.len() as u64,
            ..self.transfers.stats
        }
    }

    /// Looks anew at the rows with transfers whose windows start at one of `starts`: this replica's rights may
    /// have risen, and those who asked in vain are told.
    fn review_ledgers(&mut self, starts: impl Fn(UnixMillis) -> bool) {
        let counters = &self.counters;
        let of_start = |row: &RowRef, _: &Ledger| {
            let window = counters.window_of(*row);
            window.is_some_and(|window| starts(window.start))
        };
        for row in self.transfers.rows(of_start) {
            let Some(view) = self.counters.view(row).filter(|view| view.bounded) else {
                continue;
            };
            self.reopen(row);
            let left = self.raise(row, &view);
            // Its allowance may have been raised before: rows that were made without a share are told first.
            self.tell_askers(row, &view, left);
        }
    }
}

/// What asking and giving share.
impl Replication {
    /// What this replica may consume of a row in all: docs/bounded.md, §5.
    fn allowance(&self, row: RowRef, view: &RowView) -> u64 {
        let (Some(shares), Some(limit)) = (&self.transfers.shares, view.limit) else {
            return 0;
        };
        let own = &self.origins.own().id;
        let inherited = &self.transfers.inherited;
        let counts = |holder: &ReplicaId| holder == own || inherited.iter().any(|(id, _)| id == holder);
        let share = shares.share_of(counts, limit, view.key.key, view.key.window);
        let ledger = self.transfers.ledgers.get(&row);
        let granted_to_me = ledger.map_or(0, |ledger| ledger.rights.allowance(0));
        let granted_to_others = inherited
            .iter()
            .map(|(_, hash)| ledger.map_or(0, |ledger| ledger.granted_to(*hash)));
        let state = self.rows.get(row);
        let consumed_by_others = inherited.iter().map(|(id, _)| {
            let index = self.origins.index_of(id);
            let peer = index.and_then(|index| state?.peer(index));
            peer.map_or(0, |peer| peer.count())
        });
        allowance(
            share,
            granted_to_others.chain([granted_to_me]),
            consumed_by_others,
        )
    }

    /// Raises the allowance of `row` to what it has come to, and wakes who waits for it. Answers the rights left.
    fn raise(&mut self, row: RowRef, view: &RowView) -> u64 {
        let to = self.allowance(row, view);
        if to <= view.allowance {
            return view.rights();
        }
        self.counters.raise_and_wake(row, view.allowance, to);
        let left = to.saturating_sub(view.own);
        self.tell_askers(row, view, left);
        left
    }

    /// Something was gained, here or elsewhere: who lacks rights of `row` may look for them again.
    fn reopen(&mut self, row: RowRef) {
        let Some(ledger) = self.transfers.ledgers.get_mut(&row) else {
            return;
        };
        ledger.note_gain();
        if std::mem::take(&mut ledger.exhausted) {
            self.transfers.stats.exhausted -= 1;
            self.show_peers(row);
        }
    }

    /// Stores what decisions see of the peers of `row`: what they admitted, as far as it is known. `own` has what
    /// this replica gave away in it, so what the takers admitted of that is not added again; together they are
    /// what the cluster admitted. Of a row whose rights are exhausted, so much that all that is not left here
    /// counts as admitted: nobody waits for what cannot come.
    pub(super) fn show_peers(&self, row: RowRef) {
        let Some(state) = self.rows.get(row) else { return };
        let sum = state.peers_sum();
        let ledger = self.transfers.ledgers.get(&row);
        let Some((ledger, view)) = ledger.zip(self.counters.view(row)) else {
            return self.counters.store_peers(row, sum);
        };
        let Some(limit) = view.limit.filter(|_| view.bounded) else {
            return self.counters.store_peers(row, sum);
        };
        let given = ledger.granted_in_all();
        if ledger.exhausted {
            let gone = limit.saturating_sub(view.allowance.max(view.own));
            let shown = sum.saturating_sub(given).max(gone);
            self.counters.replace_peers(row, shown);
        } else {
            // What was given and is not known to be spent may come back: it stops nobody.
            self.counters.replace_peers_less(row, sum, given);
        }
    }

    /// Takes in what the row of `giver` says that it granted, and to whom.
    pub(super) fn note_grants(&mut self, row: RowRef, giver: OriginIndex, grants: &[Grant]) {
        let Some(hash) = self.origins.get(giver).map(|origin| origin.hash) else {
            return;
        };
        if grants.is_empty() {
            return;
        }
        let me = self.origins.own().hash;
        let ledger = self.transfers.ledgers.entry(row).or_default();
        let mut news = false;
        for grant in grants {
            if !ledger.hear(giver, *grant) {
                continue;
            }
            news = true;
            if grant.taker == me {
                self.transfers.stats.received += ledger.rights.handle_grant(hash, grant.hits);
            } else {
                ledger.rights.handle_gain_of(grant.taker);
            }
        }
        if news {
            self.reopen(row);
            if let Some(view) = self.counters.view(row).filter(|view| view.bounded) {
                self.raise(row, &view);
            }
            self.show_peers(row);
        }
    }

    /// Takes in asks and answers, and answers the asks.
    pub(super) fn handle_transfers(&mut self, sender: Option<OriginIndex>, transfers: &[Transfer], now: Now) {
        let Some(sender) = sender.filter(|sender| self.origins.get(*sender).is_some_and(|o| o.is_live()))
        else {
            return;
        };
        if self.transfers.shares.is_none() || self.frame_version < FRAME_VERSION_RIGHTS {
            return;
        }
        for transfer in transfers {
            match transfer.kind {
                TransferKind::Ask(ask) => {
                    let answer = self.answer(sender, &transfer.key, ask, now);
                    self.transfers
                        .tell(sender, transfer.key, TransferKind::Answer(answer));
                }
                TransferKind::Answer(answer) => self.handle_answer(sender, &transfer.key, answer, now),
            }
        }
    }

    /// Sends all that was asked and answered since the last call, as many transfers a frame as fit.
    pub(super) fn flush_transfers(&mut self, now: Now) {
        let around = codec::frame_bytes(&self.origins.own().id);
        let room = self.config.frame_bytes_max.saturating_sub(around);
        for (peer, transfers) in std::mem::take(&mut self.transfers.outgoing) {
            let Some(address) = self.origins.get(peer).and_then(|origin| origin.address) else {
                continue;
            };
            let to: Arc<[_]> = Arc::from([address]);
            let mut frame = Vec::new();
            let mut bytes = 0;
            for transfer in transfers {
                let more = codec::transfer_bytes(&transfer);
                if bytes + more > room && !frame.is_empty() {
                    let full = std::mem::take(&mut frame);
                    self.send(Body::Transfers(full), Arc::clone(&to), now);
                    bytes = 0;
                }
                bytes += more;
                frame.push(transfer);
            }
            self.send(Body::Transfers(frame), to, now);
        }
    }

    /// Whether this replica may yet take a share of windows that start at `start`.
    fn may_decide(&self, start: UnixMillis, now: Now) -> bool {
        let shares = self.transfers.shares.as_ref();
        shares.is_some_and(|shares| !shares.is_decided(start)) && now.wall < start.plus(DECISION_GRACE)
    }
}
