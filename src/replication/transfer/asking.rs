//! Looking for rights: ahead of need, for those who wait, and until it is certain that there are none.

use std::time::Duration;

use smallvec::SmallVec;

use crate::bounded::{Answer, Rights};
use crate::limit::{Now, RowKey, RowRef, RowView, UnixMillis};

use super::super::codec::{COUNT_MAX, FRAME_VERSION_RIGHTS, TransferKind};
use super::super::core::Replication;
use super::super::log::OriginIndex;
use super::ledger::Ledger;

/// A replica without a share of a window that has just begun first waits so long for its own: the roster decides
/// when the window starts, and until then others' rights are not needed.
const OWN_SHARE_PATIENCE: Duration = Duration::from_millis(10);

/// So long a denied request counts as one that rights are looked for, whether it waits or comes again.
const WANT_LASTS: Duration = Duration::from_millis(100);

/// Rights on their way from one peer to another are with neither of them. That all are empty has to stand for so
/// long, some round trips of one data centre, where a request wants several hits: parts of them may be anywhere. A
/// single right is soon spent where it went.
const EMPTY_STANDS: Duration = Duration::from_millis(5);

/// Rows that look again in one go, so that frames from peers are not kept waiting.
const RETRIES_MAX: usize = 1 << 12;

/// Requests taken in one go that wanted rights: as many as the list holds.
const WANTED_MAX: usize = 1 << 12;

/// Why a row is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// It admitted something: it asks before it runs dry.
    Ahead,
    /// Somebody wants more than there is.
    Need,
}

impl Replication {
    /// A bounded row has admitted hits: asks for more where it runs low.
    pub(in super::super) fn look_ahead(&mut self, row: RowRef, view: &RowView, now: Now) {
        let low = view
            .limit
            .map_or(0, |limit| Rights::<u64>::low_water(self.batch(limit)));
        if view.rights() >= low || !self.may_ask() {
            return;
        }
        let ledger = self.transfers.ledgers.entry(row).or_default();
        if ledger.admitted_since(view.own) {
            self.look_for_rights(row, Purpose::Ahead, now);
        }
    }

    /// Looks for the rights that requests found too few of.
    pub(in super::super) fn take_wanted(&mut self, now: Now) {
        if self.transfers.shares.is_none() {
            return;
        }
        let until = now.monotonic + WANT_LASTS;
        let mut rows = Vec::new();
        for _ in 0..WANTED_MAX {
            let Some(short) = self.counters.take_wanted() else {
                break;
            };
            let view = self.counters.view(short.row).filter(|view| view.bounded);
            if let Some(view) = view {
                self.settle_row(short.row, view.key.window.end, now.wall);
                let ledger = self.transfers.ledgers.entry(short.row).or_default();
                ledger.want(short.hits, until);
                rows.push(short.row);
            }
        }
        self.backlog |= rows.len() == WANTED_MAX;
        rows.sort_unstable();
        rows.dedup();
        for row in rows {
            self.look_for_rights(row, Purpose::Need, now);
        }
    }

    /// Repeats what was not answered, where somebody still waits; where all were empty a while ago, the next who
    /// wants rights has them asked once more.
    pub(in super::super) fn retry_transfers(&mut self, now: Now) {
        for _ in 0..RETRIES_MAX {
            let first = self.transfers.retries.first().copied();
            let Some((_, row)) = first.filter(|(at, _)| *at <= now.monotonic) else {
                return;
            };
            self.transfers.schedule(row, None);
            self.reopen(row);
            self.look_for_rights(row, Purpose::Need, now);
        }
    }

    /// These peers were out of reach: what they said before, and what they did not hear since, is of no use.
    pub(in super::super) fn doubt(&mut self, peers: &[OriginIndex]) {
        let origins = peers.iter().filter_map(|peer| self.origins.get(*peer));
        let hashes: SmallVec<[u64; 4]> = origins.map(|origin| origin.hash).collect();
        for ledger in self.transfers.ledgers.values_mut() {
            hashes.iter().for_each(|hash| ledger.rights.handle_gain_of(*hash));
        }
    }

    /// Membership changed: what was certain may not be any more, and what was not may be.
    pub(in super::super) fn review_exhausted(&mut self, now: Now) {
        let live: SmallVec<[u64; 16]> = self.origins.live().map(|(_, origin)| origin.hash).collect();
        let concerned = |_: &RowRef, ledger: &Ledger| {
            let is_exhausted = ledger.rights.is_exhausted(live.iter().copied());
            if ledger.exhausted {
                !is_exhausted
            } else {
                ledger.retry_at.is_some()
            }
        };
        for row in self.transfers.rows(concerned) {
            self.reopen(row);
            self.look_for_rights(row, Purpose::Need, now);
        }
    }

    /// What a peer answered.
    pub(super) fn handle_answer(&mut self, peer: OriginIndex, key: &RowKey, answer: Answer, now: Now) {
        let Some(hash) = self.origins.get(peer).map(|origin| origin.hash) else {
            return;
        };
        let Some(row) = self.counters.find(key) else {
            return;
        };
        let Some(ledger) = self.transfers.ledgers.get_mut(&row) else {
            return;
        };
        let gained = ledger.rights.handle_answer(hash, answer, now.monotonic);
        self.transfers.stats.received += gained;
        self.transfers.stats.answers_empty += u64::from(answer.empty);
        if gained > 0 || !answer.empty {
            self.reopen(row);
        }
        self.look_for_rights(row, Purpose::Need, now);
    }

    /// Asks for what `row` lacks, and denies those who wait once it is certain that nobody has it.
    fn look_for_rights(&mut self, row: RowRef, purpose: Purpose, now: Now) {
        let view = self.counters.view(row).filter(|view| view.bounded);
        let Some((view, limit)) = view.and_then(|view| Some((view, view.limit?))) else {
            return self.transfers.schedule(row, None);
        };
        let window = view.key.window;
        self.settle_row(row, window.end, now.wall);
        if window.end <= now.wall {
            return;
        }
        let left = self.raise(row, &view);
        if self.transfers.shares.is_none() {
            return;
        }
        let waiting = self.counters.waiting().largest(row);
        let Some(ledger) = self.transfers.ledgers.get_mut(&row) else {
            return;
        };
        let need = ledger.need(waiting, left, now.monotonic);
        let lacks = need > left;
        if !lacks && purpose == Purpose::Need {
            return self.transfers.schedule(row, None);
        }
        if self.may_decide(window.start, now) && now.wall < window.start.plus(OWN_SHARE_PATIENCE) {
            let at = now.monotonic + window.start.plus(OWN_SHARE_PATIENCE).since(now.wall);
            return self.transfers.schedule(row, Some(at));
        }
        if self.may_ask() {
            self.ask_peers(row, &view, (limit, left, need, waiting), purpose, now);
        }
        if lacks {
            self.deny_or_retry(row, window.start, need, now);
        }
    }

    fn ask_peers(
        &mut self,
        row: RowRef,
        view: &RowView,
        (limit, left, need, waiting): (u64, u64, u64, u64),
        purpose: Purpose,
        now: Now,
    ) {
        let batch = self.batch(limit);
        let peers = self.believed(row, view, limit, batch);
        let low_water = match purpose {
            Purpose::Ahead => Rights::<u64>::low_water(batch),
            Purpose::Need => 0,
        };
        let Some(ledger) = self.transfers.ledgers.get_mut(&row) else {
            return;
        };
        ledger.rights.set_largest_waiter(need);
        let asks = ledger.rights.poll_asks(
            now.monotonic,
            left,
            (low_water, batch),
            peers.iter().map(|(_, hash, believed)| (*hash, *believed)),
        );
        ledger.rights.set_largest_waiter(waiting);
        for (hash, mut ask) in asks {
            (ask.target, ask.need) = (ask.target.min(COUNT_MAX), ask.need.min(COUNT_MAX));
            let asked = peers.iter().find(|(_, other, _)| *other == hash);
            if let Some((peer, ..)) = asked {
                self.transfers.stats.asks += 1;
                self.transfers.tell(*peer, view.key, TransferKind::Ask(ask));
            }
        }
    }

    /// The live peers, their hashes, and what each may have left by all that was heard of it: the share that this
    /// replica would give it, and its grants, less what it is known to have consumed.
    fn believed(
        &self,
        row: RowRef,
        view: &RowView,
        limit: u64,
        batch: u64,
    ) -> SmallVec<[(OriginIndex, u64, u64); 16]> {
        let shares = self.transfers.shares.as_ref();
        let ledger = self.transfers.ledgers.get(&row);
        let state = self.rows.get(row);
        let live = self.origins.live().map(|(index, origin)| {
            let share =
                shares.and_then(|shares| shares.estimate(&origin.id, limit, view.key.key, view.key.window));
            let granted = ledger.map_or(0, |ledger| ledger.granted_to(origin.hash));
            let consumed = state
                .and_then(|state| state.peer(index))
                .map_or(0, |peer| peer.count());
            let believed = share.unwrap_or(batch).saturating_add(granted);
            (index, origin.hash, believed.saturating_sub(consumed))
        });
        live.collect()
    }

    /// Rights are lacking, and whoever could be asked was: those who wait are denied if nobody has any, and else
    /// the row looks again when the next ask is overdue. Of what was certain once it is certain for a while only.
    fn deny_or_retry(&mut self, row: RowRef, start: UnixMillis, need: u64, now: Now) {
        let may_ask = self.may_ask();
        let may_decide = self.may_decide(start, now);
        let Some(ledger) = self.transfers.ledgers.get_mut(&row) else {
            return;
        };
        let live = self.origins.live().map(|(_, origin)| origin.hash);
        let is_exhausted = ledger.rights.is_exhausted(live);
        if let Some(stands_at) = ledger.stands_empty(is_exhausted, now.monotonic, EMPTY_STANDS)
            && need > 1
            && may_ask
            && !ledger.exhausted
            && stands_at > now.monotonic
        {
            return self.transfers.schedule(row, Some(stands_at));
        }
        let retry = ledger.rights.poll_timeout(now.monotonic);
        if may_decide || may_ask && !is_exhausted {
            return self.transfers.schedule(row, retry);
        }
        if is_exhausted && !std::mem::replace(&mut ledger.exhausted, true) {
            self.transfers.stats.exhausted += 1;
            self.show_peers(row);
        }
        self.transfers.schedule(row, retry.filter(|_| may_ask));
        self.counters.waiting().exhausted(row);
    }

    /// How much an ask is for where nobody needs more: an even part of the limit.
    fn batch(&self, limit: u64) -> u64 {
        (limit / u64::from(self.replicas())).max(1)
    }

    /// Whether peers can be asked at all. A leaver asks nobody: what it were granted would be lost to the others
    /// until its heir has it.
    fn may_ask(&self) -> bool {
        let understood = self.frame_version >= FRAME_VERSION_RIGHTS;
        let holds_shares = self.transfers.shares.is_some();
        holds_shares && understood && !self.leaving && !self.peers.is_empty()
    }
}
