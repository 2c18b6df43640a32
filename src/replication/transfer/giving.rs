//! Answering those who ask for rights.

use crate::bounded::{Account, Answer, Ask, priority};
use crate::limit::{Counters, Now, RowKey, RowRef, RowView};

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
        Answer { empty, ..answer }
    }

    fn grant(&mut self, peer: OriginIndex, row: RowRef, view: &RowView, ask: Ask) -> Answer {
        let (Some(asker), Some(bounded)) = (self.origins.get(peer), &self.transfers.bounded) else {
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
        let me = &self.origins.own().id;
        let rank = |id| (priority(id, view.key.key, view.key.window), id);
        let asker_first = rank(&asker.id) > rank(me);
        ledger.rights.set_largest_waiter(bounded.waiting.largest(row));
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

    /// Tells whoever asked for rights of `row` that there are some now: they may hold this replica for empty.
    pub(super) fn tell_askers(&mut self, row: RowRef, view: &RowView) {
        let has_some = self.counters.view(row).is_some_and(|view| view.rights() > 0);
        if !has_some || self.leaving {
            return;
        }
        let Some(ledger) = self.transfers.ledgers.get(&row) else {
            return;
        };
        let askers: Vec<(u64, u64)> = ledger.rights.askers().collect();
        let live = self.origins.live().filter_map(|(index, origin)| {
            let asker = askers.iter().find(|(hash, _)| *hash == origin.hash);
            asker.map(|(_, granted)| (index, *granted))
        });
        for (peer, granted) in live.collect::<Vec<_>>() {
            let answer = Answer {
                granted,
                empty: false,
            };
            self.tell(peer, view.key, TransferKind::Answer(answer));
        }
    }
}
