//! How large a member's share of a limit is, and what the limiter reads of it.
//!
//! Of the members of a window, ranked anew for each key, the one of rank r holds those t < L with
//! t ≡ r (mod n): ⌊L/n⌋ and, for the first L mod n ranks, one more. A member that counts more members than
//! another never holds more for it, so views that differ still sum to at most L (`docs/bounded.md`).

use std::cmp::Reverse;
use std::sync::Arc;

use arc_swap::ArcSwap;
use siphasher::sip128::{Hasher128 as _, SipHasher24};
use std::hash::Hasher as _;

use crate::limit::{KeyHash, Shares, UnixMillis, Window};
use crate::replica::ReplicaId;

/// The members of one window start as one of them counted them, and which of them holds the share.
/// The divisor of every window with this start, fixed once made.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Membership {
    start: UnixMillis,
    holder: usize,
    members: Arc<[Member]>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Member {
    id: ReplicaId,
    hash: u64,
}

impl Membership {
    /// The membership of windows that start at `start`, in any order and without repeats counted twice;
    /// `None` when `holder` is none of them.
    #[must_use]
    pub fn try_new(
        start: UnixMillis,
        holder: &ReplicaId,
        members: impl IntoIterator<Item = ReplicaId>,
    ) -> Option<Self> {
        let mut ids: Vec<ReplicaId> = members.into_iter().collect();
        ids.sort_unstable();
        ids.dedup();
        let holder = ids.binary_search(holder).ok()?;
        let hashed = |id: ReplicaId| Member {
            hash: replica_hash(&id),
            id,
        };
        let members = ids.into_iter().map(hashed).collect();
        Some(Self {
            start,
            holder,
            members,
        })
    }

    /// When the windows start that this is for.
    #[must_use]
    pub fn start(&self) -> UnixMillis {
        self.start
    }

    /// How many members share.
    #[must_use]
    pub fn divisor(&self) -> usize {
        self.members.len()
    }

    /// The members, in the order of their ids.
    pub fn members(&self) -> impl ExactSizeIterator<Item = &ReplicaId> {
        self.members.iter().map(|member| &member.id)
    }

    /// Whose share this is.
    #[must_use]
    pub fn holder(&self) -> &ReplicaId {
        &self.members[self.holder].id
    }

    /// Hits of `limit` that the holder may admit for `key` in `window`; 0 when the window starts at
    /// another time. Allocates nothing; without a remainder it costs one division, else a pass over the
    /// members.
    #[must_use]
    pub fn share(&self, limit: u64, key: KeyHash, window: Window) -> u64 {
        self.share_of_index(self.holder, limit, key, window)
    }

    /// As [`Membership::share`] for another member, as this view has it: an estimate of what it may hold,
    /// no right of it. 0 for who is no member.
    #[must_use]
    pub fn estimate(&self, member: &ReplicaId, limit: u64, key: KeyHash, window: Window) -> u64 {
        let index = self.members.binary_search_by(|other| other.id.cmp(member));
        index.map_or(0, |index| self.share_of_index(index, limit, key, window))
    }

    fn share_of_index(&self, index: usize, limit: u64, key: KeyHash, window: Window) -> u64 {
        if window.start != self.start {
            return 0;
        }
        let divisor = self.members.len() as u64;
        let remainder = limit % divisor;
        let extra = remainder != 0 && (self.rank(index, row_salt(key, window)) as u64) < remainder;
        limit / divisor + u64::from(extra)
    }

    /// How many members go before this one. Ties of the hash go by id, so that every view ranks any two
    /// members alike.
    fn rank(&self, index: usize, salt: u64) -> usize {
        let mine = mix(self.members[index].hash ^ salt);
        let before = |(other, member): (usize, &Member)| (mix(member.hash ^ salt), other) < (mine, index);
        self.members
            .iter()
            .enumerate()
            .filter(|entry| before(*entry))
            .count()
    }
}

/// What decides between two replicas that both want the rights of one row: the lower yields. The same on
/// every node.
#[must_use]
pub fn priority(replica: &ReplicaId, key: KeyHash, window: Window) -> u64 {
    mix(replica_hash(replica) ^ row_salt(key, window))
}

/// The memberships under which one replica holds shares, by window start: its own, and those it inherited.
/// Read by every new row without a lock; replaced as a whole.
#[derive(Debug)]
pub struct ShareTable {
    owner: ReplicaId,
    held: ArcSwap<Vec<Arc<Membership>>>,
}

impl ShareTable {
    /// The table of `owner`, without any share.
    #[must_use]
    pub fn new(owner: ReplicaId) -> Self {
        Self {
            owner,
            held: ArcSwap::default(),
        }
    }

    /// Replaces what is held. Several memberships of one start add up.
    pub fn replace(&self, held: impl IntoIterator<Item = Arc<Membership>>) {
        let mut held: Vec<_> = held.into_iter().collect();
        // The newest start first: new rows are mostly of windows that just began.
        held.sort_by_key(|membership| Reverse(membership.start));
        self.held.store(Arc::new(held));
    }

    /// The shares of `limit` that those replicas hold which `counts`: with what was inherited, to be spent
    /// only less what the others of them consumed.
    #[must_use]
    pub fn share_of(
        &self,
        counts: impl Fn(&ReplicaId) -> bool,
        limit: u64,
        key: KeyHash,
        window: Window,
    ) -> u64 {
        let held = self.held.load();
        of_start(&held, window.start)
            .filter(|membership| counts(membership.holder()))
            .fold(0, |sum, membership| {
                sum.saturating_add(membership.share(limit, key, window))
            })
    }

    /// Whether a share of `holder` is held.
    #[must_use]
    pub fn holds(&self, holder: &ReplicaId) -> bool {
        let held = self.held.load();
        held.iter().any(|membership| membership.holder() == holder)
    }

    /// What `member` may hold of a row at the start of its window as this replica sees it; `None` while it
    /// holds no membership of that start to judge by.
    #[must_use]
    pub fn estimate(&self, member: &ReplicaId, limit: u64, key: KeyHash, window: Window) -> Option<u64> {
        let held = self.held.load();
        let membership = of_start(&held, window.start).next()?;
        Some(membership.estimate(member, limit, key, window))
    }
}

fn of_start(held: &[Arc<Membership>], start: UnixMillis) -> impl Iterator<Item = &Arc<Membership>> {
    let first = held.partition_point(|membership| membership.start > start);
    let rest = held.get(first..).unwrap_or_default();
    rest.iter()
        .take_while(move |membership| membership.start == start)
}

/// What a new row begins with is the owner's own share alone. Inherited shares are less what their former
/// owners consumed, which the thread that makes a row cannot know: replication adds them, row by row.
impl Shares for ShareTable {
    fn share(&self, limit: u64, key: KeyHash, window: Window) -> u64 {
        self.share_of(|holder| *holder == self.owner, limit, key, window)
    }

    fn is_decided(&self, start: UnixMillis) -> bool {
        of_start(&self.held.load(), start).next().is_some()
    }
}

/// How near `candidate` is to `leaver`, for the choice of heirs. The same on every node.
pub(super) fn affinity(leaver: &ReplicaId, candidate: &ReplicaId) -> u64 {
    mix(replica_hash(leaver) ^ mix(replica_hash(candidate)))
}

/// What replicas are ranked by, and what grants name their takers by. Hides nothing, and must be the same in
/// every version: all members rank each other by it.
#[must_use]
pub fn replica_hash(id: &ReplicaId) -> u64 {
    let mut hasher = SipHasher24::new_with_key(b"weir member rank");
    hasher.write(id.node.as_str().as_bytes());
    hasher.write(&[0xff]);
    hasher.write(&id.generation.0.to_le_bytes());
    hasher.finish128().h1
}

fn row_salt(key: KeyHash, window: Window) -> u64 {
    let (low, high) = (key.0 as u64, (key.0 >> 64) as u64);
    mix(low ^ mix(high ^ mix(window.start.0 ^ mix(window.end.0))))
}

/// The finaliser of MurmurHash3 (fmix64): a bijection, so that distinct hashes never tie under a salt.
const fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    x = (x ^ (x >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    x ^ (x >> 33)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::replica::Generation;

    const WINDOW: Window = Window {
        start: UnixMillis(60_000),
        end: UnixMillis(120_000),
    };

    fn replica(n: usize) -> ReplicaId {
        ReplicaId {
            node: format!("n{n}").parse().unwrap(),
            generation: Generation(n as u64),
        }
    }

    fn view(holder: usize, members: &[usize]) -> Membership {
        Membership::try_new(
            WINDOW.start,
            &replica(holder),
            members.iter().copied().map(replica),
        )
        .unwrap()
    }

    proptest! {
        /// The heart of the proof: takers that count each other never hold more than the limit together,
        /// however else their views differ; and exactly the limit where they agree.
        #[test]
        fn views_that_contain_all_takers_never_sum_above_the_limit(
            limit in 0..2_000_u64,
            key: u128,
            takers in 1..8_usize,
            extras in proptest::collection::vec(proptest::collection::vec(8..30_usize, 0..12), 8),
        ) {
            let sum: u64 = (0..takers)
                .map(|taker| {
                    let members: Vec<usize> = (0..takers).chain(extras[taker].iter().copied()).collect();
                    view(taker, &members).share(limit, KeyHash(key), WINDOW)
                })
                .sum();
            prop_assert!(sum <= limit, "{sum} > {limit}");
            let all: Vec<usize> = (0..takers).collect();
            let agreed: u64 = (0..takers).map(|t| view(t, &all).share(limit, KeyHash(key), WINDOW)).sum();
            prop_assert_eq!(agreed, limit);
        }
    }

    #[test]
    fn the_remainder_goes_to_other_members_for_other_keys() {
        let members: Vec<usize> = (0..5).collect();
        let first = view(0, &members);
        let keys = 5_000;
        let lucky = (0..keys)
            .filter(|key| first.share(1, KeyHash(*key), WINDOW) == 1)
            .count();
        // Binomial with p = 1/5: five standard deviations are 141.
        assert!((859..1141).contains(&lucky), "{lucky} of {keys}");
        assert_eq!(first.estimate(&replica(9), 100, KeyHash(1), WINDOW), 0);
        let estimates: u64 = members
            .iter()
            .map(|m| first.estimate(&replica(*m), 7, KeyHash(1), WINDOW))
            .sum();
        assert_eq!(estimates, 7);
    }

    #[test]
    fn a_table_gives_new_rows_the_own_share_and_keeps_inherited_ones_apart() {
        let table = ShareTable::new(replica(0));
        let key = KeyHash(1);
        assert_eq!(table.share(12, key, WINDOW), 0);
        assert!(!table.is_decided(WINDOW.start));
        assert_eq!(table.estimate(&replica(1), 12, key, WINDOW), None);
        let later = Membership::try_new(UnixMillis(120_000), &replica(0), [replica(0)]).unwrap();
        table.replace([view(0, &[0, 1, 2]), view(1, &[0, 1, 2]), later].map(Arc::new));
        assert_eq!(table.share(12, key, WINDOW), 4);
        assert_eq!(table.share_of(|_| true, 12, key, WINDOW), 8);
        assert_eq!(table.share_of(|id| *id == replica(1), 12, key, WINDOW), 4);
        assert_eq!(table.estimate(&replica(2), 12, key, WINDOW), Some(4));
        let starts = [0, 60_000, 60_001, 120_000, 180_000].map(UnixMillis);
        assert_eq!(
            starts.map(|start| table.is_decided(start)),
            [false, true, false, true, false]
        );
        let hour = Window {
            start: UnixMillis(120_000),
            end: UnixMillis(3_720_000),
        };
        assert_eq!(table.share(12, key, hour), 12);
        let other = Window {
            start: UnixMillis(60_001),
            end: UnixMillis(120_000),
        };
        assert_eq!(table.share(12, key, other), 0);
        assert!(Membership::try_new(WINDOW.start, &replica(3), [replica(0)]).is_none());
    }

    #[test]
    fn ranks_are_the_same_in_every_build() {
        // Nodes of different versions split the remainder alike only while this stands.
        let held: Vec<u64> = (0..4)
            .map(|n| view(n, &[0, 1, 2, 3]).share(6, KeyHash(7), WINDOW))
            .collect();
        assert_eq!(held, [2, 1, 2, 1]);
    }
}
