//! What is known of the transfers of one row.

use std::time::Duration;

use smallvec::SmallVec;

use crate::bounded::Rights;

use super::super::codec::{GRANTS_MAX, Grant};
use super::super::log::OriginIndex;
use super::super::origin::OWN;

/// The transfers of one row: this replica's, and what the rows of others say of theirs. Replicas are named by
/// their hash, which is theirs for good, where an index is another's after its owner was forgotten.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// What this replica asked, received and granted.
    pub(super) rights: Rights<u64>,
    /// Every live peer has said that it is empty, and nothing was heard since.
    pub(super) exhausted: bool,
    /// Since when every live peer is known to be empty.
    empty_since: Option<Duration>,
    /// When the row looks again for rights that somebody waits for.
    pub(super) retry_at: Option<Duration>,
    /// Hits of the largest request that was denied for want of rights.
    wanted: u64,
    /// Until when that is believed to be of use: its client waits no longer, or comes again.
    wanted_until: Duration,
    /// Hits admitted here when rights were last looked for ahead of need.
    looked_at: u64,
    /// Who asked this replica and was told that it is empty.
    told_empty: SmallVec<[u64; 2]>,
    /// What the rows of peers say that they granted. Each peer has a count in the row, so its index is its own.
    heard: SmallVec<[(OriginIndex, Grant); 2]>,
}

impl Ledger {
    /// Takes in what the row of `giver` says. True when it is news.
    pub(super) fn hear(&mut self, giver: OriginIndex, grant: Grant) -> bool {
        let of_giver =
            |(other, known): &&mut (OriginIndex, Grant)| *other == giver && known.taker == grant.taker;
        if let Some((_, known)) = self.heard.iter_mut().find(of_giver) {
            let rises = known.hits < grant.hits;
            known.hits = known.hits.max(grant.hits);
            return rises;
        }
        // No giver has more takers; one that says so is not believed.
        let takers = self.heard.iter().filter(|(other, _)| *other == giver).count();
        let has_room = takers < GRANTS_MAX;
        if has_room {
            self.heard.push((giver, grant));
        }
        has_room
    }

    /// What `subject` granted of the row, sorted by taker.
    pub(super) fn grants_of(&self, subject: OriginIndex) -> Vec<Grant> {
        let mut grants: Vec<Grant> = if subject == OWN {
            let granted = self.rights.granted();
            granted.map(|(taker, hits)| Grant { taker, hits }).collect()
        } else {
            let of_subject = self.heard.iter().filter(|(giver, _)| *giver == subject);
            of_subject.map(|(_, grant)| *grant).collect()
        };
        grants.sort_unstable();
        grants
    }

    /// Notes what `asker` was told.
    pub(super) fn note_told(&mut self, asker: u64, empty: bool) {
        self.told_empty.retain(|told| *told != asker);
        if empty {
            self.told_empty.push(asker);
        }
    }

    /// Those who believe that this replica is empty and can be told otherwise now.
    pub(super) fn take_told_empty(&mut self, is_live: impl Fn(u64) -> bool) -> SmallVec<[u64; 2]> {
        let (told, kept) = self.told_empty.drain(..).partition(|asker| is_live(*asker));
        self.told_empty = kept;
        told
    }

    /// Whether this replica may grant to `taker`: a row names so many takers and no more.
    pub(super) fn may_grant_to(&self, taker: u64) -> bool {
        let others = self.rights.granted().filter(|(other, _)| *other != taker);
        others.count() < GRANTS_MAX
    }

    /// All that anybody, this replica included, is known to have granted to `taker`.
    pub(super) fn granted_to(&self, taker: u64) -> u64 {
        let heard = self.heard.iter().filter(|(_, grant)| grant.taker == taker);
        heard
            .map(|(_, grant)| grant.hits)
            .fold(self.rights.granted_to(taker), u64::saturating_add)
    }

    /// All grants known, this replica's included.
    pub(super) fn granted_in_all(&self) -> u64 {
        let own = self.rights.granted().map(|(_, hits)| hits);
        let heard = self.heard.iter().map(|(_, grant)| grant.hits);
        own.chain(heard).fold(0, u64::saturating_add)
    }

    /// A request of `hits` was denied for want of rights.
    pub(super) fn want(&mut self, hits: u64, until: Duration) {
        self.wanted = self.wanted.max(hits);
        self.wanted_until = until;
    }

    /// Every live peer `is_empty`, or not, at `now`: from when on that will have stood for `patience`.
    pub(super) fn stands_empty(
        &mut self,
        is_empty: bool,
        now: Duration,
        patience: Duration,
    ) -> Option<Duration> {
        self.empty_since = is_empty.then(|| self.empty_since.unwrap_or(now));
        self.empty_since.map(|since| since + patience)
    }

    /// Somebody gained rights.
    pub(super) fn note_gain(&mut self) {
        self.empty_since = None;
    }

    /// The hits that rights are looked for, where `waiting` is the largest request that waits.
    pub(super) fn need(&mut self, waiting: u64, left: u64, now: Duration) -> u64 {
        if self.wanted <= left || self.wanted_until <= now {
            self.wanted = 0;
        }
        self.wanted.max(waiting)
    }

    /// Whether more was admitted here since rights were last looked for ahead of need. Each admission looks once,
    /// and a grant to a peer does not: or two that run low would pass the last rights to and fro.
    pub(super) fn admitted_since(&mut self, own: u64) -> bool {
        let admitted = self.rights.admitted(own);
        let rose = admitted > self.looked_at;
        self.looked_at = self.looked_at.max(admitted);
        rose
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grants_merge_by_maximum_and_a_giver_of_too_many_is_not_believed() {
        let mut ledger = Ledger::default();
        let giver = OriginIndex(3);
        let grant = |taker, hits| Grant { taker, hits };
        let heard = [(7, 5), (7, 3), (7, 5), (2, 4), (7, 6)].map(|(t, h)| ledger.hear(giver, grant(t, h)));
        assert_eq!(heard, [true, false, false, true, true]);
        assert_eq!(ledger.grants_of(giver), [grant(2, 4), grant(7, 6)]);
        assert_eq!((ledger.granted_to(7), ledger.granted_in_all()), (6, 10));
        let taken = (100..).take_while(|taker| ledger.hear(giver, grant(*taker, 1)));
        assert_eq!(taken.count(), GRANTS_MAX - 2);
        assert!(ledger.hear(OriginIndex(4), grant(100, 1)));
        assert!(ledger.grants_of(OWN).is_empty());
    }

    #[test]
    fn rights_are_looked_for_ahead_once_for_each_admission_and_not_for_a_grant() {
        let mut ledger = Ledger::default();
        assert_eq!(
            [0, 3, 3, 4, 4].map(|own| ledger.admitted_since(own)),
            [false, true, false, true, false]
        );
    }

    #[test]
    fn a_want_lasts_until_it_is_met_or_old() {
        let mut ledger = Ledger::default();
        let at = Duration::from_millis;
        ledger.want(5, at(100));
        ledger.want(3, at(100));
        assert_eq!(ledger.need(2, 4, at(99)), 5);
        assert_eq!(ledger.need(2, 5, at(99)), 2);
        ledger.want(5, at(100));
        assert_eq!(ledger.need(0, 4, at(100)), 0);
    }
}
