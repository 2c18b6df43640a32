//! Answering those who ask for rights.

use smallvec::SmallVec;

use crate::bounded::{Account, Answer, Ask, priority};
use crate::limit::{Counters, Now, RowKey, RowRef, RowView};
use crate::replica::ReplicaId;

use super::super::codec::TransferKind;
use super::super::core::Replication;
use super::super::log::OriginIndex;

/// The rights of one row, as decisions spend them.
struct RowAccount<'a> {
    counters: &'a Counters,
    row: RowRef,
}

impl Account for RowAccount<'_> {
    fn left(&self) -> u64 {
        let view = self.counters.view(self.row);
        view.map_or(0, |view| view.rights())
    }

    fn deduct(&mut self, hits: u64) -> u64 {
        self.counters.take_rights(self.row, hits).unwrap_or(0)
    }
}

/// Of two that both lack rights of a row, whether it is `asker` that gets what the other has.
fn goes_first(asker: &ReplicaId, me: &ReplicaId, view: &RowView) -> bool {
    let rank = |id| (priority(id, view.key.key, view.key.window), id);
    rank(asker) > rank(me)
}

impl Replication {
    /// Answers one ask. What is granted was deducted before this returns.
    pub(super) fn answer(&mut self, peer: OriginIndex, key: &RowKey, ask: Ask, now: Now) -> Answer {
        let refused = |empty| Answer { granted: 0, empty };
        if key.window.start > now.wall {
            // The peer's clock is ahead. There will be something to give.
            return refused(false);
        }
        if key.window.end <= now.wall {
            return refused(true);
        }
        let Some(row) = self.find_or_make(peer, key, now) else {
            // No row, no rights: there is none to be had where the table is full.
            return refused(true);
        };
        let Some(view) = self.counters.view(row).filter(|view| view.bounded) else {
            return refused(true);
        };
        self.raise(row, &view);
        let answer = self.grant(peer, row, &view, ask);
        // Windows that were not decided in time have no rights to give, and are soon decided.
        let empty = answer.empty && (self.leaving || !self.may_decide(key.window.start, now));
        let hash = self.origins.get(peer).map(|origin| origin.hash);
        if let Some((ledger, hash)) = self.transfers.ledgers.get_mut(&row).zip(hash) {
            ledger.note_told(hash, empty);
        }
        Answer { empty, ..answer }
    }

    fn grant(&mut self, peer: OriginIndex, row: RowRef, view: &RowView, ask: Ask) -> Answer {
        let Some(asker) = self.origins.get(peer).filter(|_| self.transfers.shares.is_some()) else {
            return Answer {
                granted: 0,
                empty: true,
            };
        };
        let ledger = self.transfers.ledgers.entry(row).or_default();
        let before = ledger.rights.granted_to(asker.hash);
        if self.leaving || !ledger.may_grant_to(asker.hash) {
            return Answer {
                granted: before,
                empty: true,
            };
        }
        let asker_first = goes_first(&asker.id, &self.origins.own().id, view);
        ledger
            .rights
            .set_largest_waiter(self.counters.waiting().largest(row));
        let mut account = RowAccount {
            counters: &self.counters,
            row,
        };
        let answer = ledger
            .rights
            .handle_ask(asker.hash, ask, asker_first, &mut account);
        if answer.granted > before {
            self.transfers.stats.granted += answer.granted - before;
            self.show_peers(row);
        }
        answer
    }

    /// Tells those who were told that there is nothing here that there is now: `left`. Where that is too little for
    /// a request that waits here, only those to whom this replica would yield it.
    pub(super) fn tell_askers(&mut self, row: RowRef, view: &RowView, left: u64) {
        if self.leaving || self.transfers.shares.is_none() {
            return;
        }
        let largest = self.counters.waiting().largest(row);
        if left == 0 || left == largest {
            return;
        }
        let Some(ledger) = self.transfers.ledgers.get_mut(&row) else {
            return;
        };
        let live = |asker| {
            let mut live = self.origins.live();
            live.find(|(_, origin)| origin.hash == asker)
        };
        let mut told: SmallVec<[(OriginIndex, u64); 2]> = SmallVec::new();
        for asker in ledger.take_told_empty(|asker| live(asker).is_some()) {
            let Some((peer, origin)) = live(asker) else {
                continue;
            };
            if left < largest && !goes_first(&origin.id, &self.origins.own().id, view) {
                ledger.note_told(asker, true);
                continue;
            }
            told.push((peer, ledger.rights.granted_to(asker)));
        }
        for (peer, granted) in told {
            let empty = false;
            let kind = TransferKind::Answer(Answer { granted, empty });
            self.transfers.tell(peer, view.key, kind);
        }
    }
}
