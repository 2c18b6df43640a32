//! How rights to one row move between replicas: asks, grants, and when a denial is certain.
//!
//! A bounded counter (Balegas et al. 2015). A replica's rights are its share plus what it was granted, less
//! what it consumed; to grant is to consume. The giver deducts first, in the same account that decisions
//! spend from, so whatever the network does with asks and grants, rights can be late but never double.

use std::time::Duration;

use smallvec::SmallVec;

use super::rules::InForce;

/// Most peers asked at a time: a grant of each is enough, and more would only scatter what is left.
const ASKED_MAX: usize = 3;

/// First and longest wait before an unanswered ask is repeated: some round trips of one data centre, and
/// short enough for several tries within a waiting request's patience.
pub(super) const RETRY_MIN: Duration = Duration::from_millis(5);
pub(super) const RETRY_MAX: Duration = Duration::from_millis(80);

/// How long after it said that it was empty a peer is asked again: that it gained since may have got lost on the
/// way, and once a second is little beside the requests that are denied meanwhile.
pub(super) const EMPTY_RETRY: Duration = Duration::from_secs(1);

/// What a replica may consume of one row in all, in its own name: the shares it took or inherited, and the
/// grants to all whose rows are its own, less what the others of them `consumed`.
pub fn allowance(
    shares: u64,
    grants: impl IntoIterator<Item = u64>,
    consumed: impl IntoIterator<Item = u64>,
) -> u64 {
    let all = grants.into_iter().fold(shares, u64::saturating_add);
    consumed.into_iter().fold(all, u64::saturating_sub)
}

/// The rights of one row that decisions spend, as the transfer rules see them.
pub trait Account {
    /// Hits that could still be admitted here.
    fn left(&self) -> u64;
    /// Consumes up to `hits` in one atomic step with concurrent decisions, and says how many it was.
    fn deduct(&mut self, hits: u64) -> u64;
}

/// A request for rights of one row. Served once: a giver moves nothing for an ask whose sender does not
/// yet hold all that it granted to it before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ask {
    /// What the asker holds of this giver's grants to it, cumulative.
    pub held: u64,
    /// Up to where the asker would have that sum raised.
    pub target: u64,
    /// Hits that the asker's largest waiting request lacks; 0 when it only looks ahead.
    pub need: u64,
}

/// What a giver answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Answer {
    /// All that the giver ever granted to the asker in this row; it is also part of the giver's row.
    pub granted: u64,
    /// The giver has nothing left.
    pub empty: bool,
}

/// The transfers of one row, at one replica. Exists only for rows that asked or were asked. `P` names a
/// peer: the index that the replication core gives it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rights<P> {
    received: SmallVec<[(P, u64); 2]>,
    granted: SmallVec<[(P, u64); 2]>,
    asked: SmallVec<[(P, Asked); ASKED_MAX]>,
    largest_waiter: u64,
    rules: InForce,
}

/// What came of asking one peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Asked {
    /// Not before.
    retry_at: Option<Duration>,
    /// Asks without an answer.
    attempts: u8,
    /// The last answer said so, and nothing was heard since.
    empty: bool,
}

impl<P: Copy + Ord> Rights<P> {
    /// A row without transfers.
    #[must_use]
    pub fn new() -> Self {
        Self {
            received: SmallVec::new(),
            granted: SmallVec::new(),
            asked: SmallVec::new(),
            largest_waiter: 0,
            rules: InForce::ALL,
        }
    }

    /// What may be consumed in all: the share and every grant received.
    #[must_use]
    pub fn allowance(&self, share: u64) -> u64 {
        self.received
            .iter()
            .fold(share, |sum, (_, hits)| sum.saturating_add(*hits))
    }

    /// The grants to publish with the row: taker and cumulative hits, each only ever rising.
    pub fn granted(&self) -> impl Iterator<Item = (P, u64)> {
        self.granted.iter().copied().filter(|(_, hits)| *hits > 0)
    }

    /// Of what was consumed, the hits that were admitted here rather than granted away.
    #[must_use]
    pub fn admitted(&self, consumed: u64) -> u64 {
        self.granted
            .iter()
            .fold(consumed, |rest, (_, hits)| rest.saturating_sub(*hits))
    }

    /// What this replica has granted to `taker`.
    #[must_use]
    pub fn granted_to(&self, taker: P) -> u64 {
        let mut granted = self.granted.iter();
        granted
            .find(|(other, _)| *other == taker)
            .map_or(0, |(_, hits)| *hits)
    }

    /// The hits of the largest request that waits for rights; 0 when none does.
    pub fn set_largest_waiter(&mut self, hits: u64) {
        self.largest_waiter = hits;
    }

    /// Below how many rights left a replica asks before it runs dry: an eighth of its share.
    #[must_use]
    pub fn low_water(share: u64) -> u64 {
        (share / 8).max(1)
    }

    /// The row of `giver` says that it has granted `cumulative` to this replica. Gives the hits gained:
    /// the allowance has risen by that much. Lost, repeated and reordered news are all the same.
    pub fn handle_grant(&mut self, giver: P, cumulative: u64) -> u64 {
        let known = value_of(&mut self.received, giver);
        let gained = cumulative.saturating_sub(*known);
        *known += gained;
        if gained > 0 {
            *value_of(&mut self.asked, giver) = Asked::default();
        }
        gained
    }

    /// A peer answered an ask. Gives the hits gained.
    pub fn handle_answer(&mut self, giver: P, answer: Answer, now: Duration) -> u64 {
        let gained = self.handle_grant(giver, answer.granted);
        if answer.empty {
            *value_of(&mut self.asked, giver) = Asked {
                empty: true,
                retry_at: Some(now.saturating_add(EMPTY_RETRY)),
                attempts: 0,
            };
        } else {
            self.handle_gain_of(giver);
        }
        gained
    }

    /// `peer` was granted something, or inherited, or was out of reach: that it was empty proves nothing any more.
    pub fn handle_gain_of(&mut self, peer: P) {
        let mut asked = self.asked.iter_mut();
        if let Some((_, asked)) = asked.find(|(other, asked)| *other == peer && asked.empty) {
            *asked = Asked::default();
        }
    }

    /// A peer asks. `asker_first` says that the asker's [`super::priority`] for this row is the higher.
    /// What the answer grants was deducted from the account before this returns.
    pub fn handle_ask(
        &mut self,
        asker: P,
        ask: Ask,
        asker_first: bool,
        account: &mut impl Account,
    ) -> Answer {
        let deduct = self.rules.get().deduction;
        let left = account.left();
        let offer = self.offer(left, ask.need, asker_first);
        let granted = value_of(&mut self.granted, asker);
        if ask.held == *granted {
            let hits = offer.min(ask.target.saturating_sub(ask.held));
            *granted += if deduct { account.deduct(hits) } else { hits };
        }
        Answer {
            granted: *granted,
            empty: account.left() == 0,
        }
    }

    /// Half of what is left, and at least what the asker needs if that is there. Who only looks ahead does not
    /// get the odd one: the last right stays where it is until somebody needs it. Of two that both lack
    /// rights for a waiting request, one yields all and the other nothing: halves would go back and forth
    /// for ever.
    fn offer(&self, left: u64, need: u64, asker_first: bool) -> u64 {
        let lacking = self.largest_waiter > left;
        match (lacking, need > 0 && asker_first) {
            (true, true) => left,
            (true, false) => 0,
            (false, _) if need == 0 => left / 2,
            (false, _) => need.max(left.div_ceil(2)).min(left),
        }
    }

    /// Whom to ask now, and for what; nothing while enough is left or every ask is still in flight.
    ///
    /// `batch` is how much an ask is for where no waiter needs more: an even part of the limit. `peers` are
    /// the live ones, with what each may have left by all that was heard of it.
    pub fn poll_asks(
        &mut self,
        now: Duration,
        left: u64,
        (low_water, batch): (u64, u64),
        peers: impl IntoIterator<Item = (P, u64)>,
    ) -> SmallVec<[(P, Ask); ASKED_MAX]> {
        let need = self.largest_waiter.saturating_sub(left);
        if need == 0 && left >= low_water {
            return SmallVec::new();
        }
        let in_flight = self
            .asked
            .iter()
            .filter(|(_, asked)| !asked.empty && asked.retry_at > Some(now))
            .count();
        let mut richest: SmallVec<[(u64, P); 16]> = peers
            .into_iter()
            .filter(|(peer, believed)| (need > 0 || *believed > 0) && self.may_ask(*peer, now))
            .map(|(peer, believed)| (believed, peer))
            .collect();
        richest.sort_unstable_by(|a, b| b.cmp(a));
        richest.truncate(ASKED_MAX.saturating_sub(in_flight));
        richest
            .into_iter()
            .map(|(_, peer)| (peer, self.ask(peer, now, need, batch)))
            .collect()
    }

    /// When the first of the asks that are in flight at `now` is due again, or a peer that was empty.
    #[must_use]
    pub fn poll_timeout(&self, now: Duration) -> Option<Duration> {
        let retries = self.asked.iter().filter_map(|(_, asked)| asked.retry_at);
        retries.filter(|at| *at > now).min()
    }

    /// Every live peer has answered that it has nothing, and nothing was heard since: what is lacking here
    /// is nowhere else, so who waits can be denied at once.
    pub fn is_exhausted(&self, live: impl IntoIterator<Item = P>) -> bool {
        let empty = |peer: P| {
            self.asked
                .iter()
                .any(|(other, asked)| *other == peer && asked.empty)
        };
        live.into_iter().all(empty)
    }

    fn may_ask(&self, peer: P, now: Duration) -> bool {
        let asked = self
            .asked
            .iter()
            .find(|(other, _)| *other == peer)
            .map(|(_, asked)| asked);
        asked.is_none_or(|asked| asked.retry_at <= Some(now))
    }

    fn ask(&mut self, peer: P, now: Duration, need: u64, batch: u64) -> Ask {
        let asked = value_of(&mut self.asked, peer);
        // Of one that was empty no news is expected, and nobody waits for its answer.
        let patience = if asked.empty {
            EMPTY_RETRY
        } else {
            RETRY_MIN
                .saturating_mul(1 << asked.attempts.min(4))
                .min(RETRY_MAX)
        };
        asked.retry_at = Some(now.saturating_add(patience));
        asked.attempts = asked.attempts.saturating_add(1);
        let held = *value_of(&mut self.received, peer);
        Ask {
            held,
            target: held.saturating_add(need.max(batch).max(1)),
            need,
        }
    }

    #[cfg(test)]
    pub(super) fn with_rules(mut self, rules: impl Into<InForce>) -> Self {
        self.rules = rules.into();
        self
    }
}

impl<P: Copy + Ord> Default for Rights<P> {
    fn default() -> Self {
        Self::new()
    }
}

/// The value of `peer`, made if absent.
fn value_of<const N: usize, P: Copy + PartialEq, V: Default>(
    map: &mut SmallVec<[(P, V); N]>,
    peer: P,
) -> &mut V {
    let index = map
        .iter()
        .position(|(other, _)| *other == peer)
        .unwrap_or_else(|| {
            map.push((peer, V::default()));
            map.len() - 1
        });
    &mut map[index].1
}
