//! How long news takes: from an admission until every live node has heard of it.

use std::time::Duration;

use crate::limit::RowKey;
use crate::replica::ReplicaId;

use super::node::Node;

/// Admissions followed at once. Looking for each after every datagram costs time in proportion.
const FOLLOWED_MAX: usize = 16;

/// Admissions followed in all: enough for a steady 99th percentile.
const SAMPLES_MAX: usize = 4_000;

/// One admission on its way to the others.
#[derive(Debug)]
struct Followed {
    row: RowKey,
    by: ReplicaId,
    /// What the admitting replica had counted with it.
    count: u64,
    since: Duration,
    /// The peers' total that each node held when it was last looked at; `None` once it has the admission.
    seen: Vec<Option<u64>>,
    missing: usize,
}

/// Follows a sample of admissions.
#[derive(Debug, Default)]
pub(super) struct Watch {
    followed: Vec<Followed>,
    took: Vec<Duration>,
}

impl Watch {
    /// Follows what `nodes[at]` has counted of `row` so far, if there is room for one more.
    pub(super) fn follow(&mut self, nodes: &[Node], at: usize, row: RowKey, now: Duration) {
        let counters = nodes[at].limiter.counters();
        let has_room = self.followed.len() < FOLLOWED_MAX && self.took.len() < SAMPLES_MAX;
        let Some(view) = counters
            .find(&row)
            .and_then(|found| counters.view(found))
            .filter(|_| has_room)
        else {
            return;
        };
        let waits = |(node, state): (usize, &Node)| (node != at && state.alive).then_some(0);
        let seen: Vec<_> = nodes.iter().enumerate().map(waits).collect();
        let missing = seen.iter().flatten().count();
        if missing > 0 {
            self.followed.push(Followed {
                row,
                by: nodes[at].replica.clone(),
                count: view.own,
                since: now,
                seen,
                missing,
            });
        }
    }

    /// Node `at` has just handled a datagram.
    pub(super) fn observe(&mut self, at: usize, node: &Node, now: Duration) {
        let counters = node.limiter.counters();
        for followed in &mut self.followed {
            let Some(seen) = followed.seen.get_mut(at).filter(|seen| seen.is_some()) else {
                continue;
            };
            let Some(found) = counters.find(&followed.row) else {
                continue;
            };
            let peers = counters.view(found).map(|view| view.peers);
            if peers == *seen {
                continue;
            }
            *seen = peers.or(*seen);
            let counts = node.replication.counts(found);
            if counts
                .iter()
                .any(|(replica, count)| *replica == followed.by && *count >= followed.count)
            {
                *seen = None;
                followed.missing -= 1;
            }
        }
        let took = &mut self.took;
        self.followed.retain(|followed| {
            if followed.missing == 0 {
                took.push(now - followed.since);
            }
            followed.missing > 0
        });
    }

    /// Whether admissions are still on their way.
    pub(super) fn is_waiting(&self) -> bool {
        !self.followed.is_empty()
    }

    /// How long each took; those still on their way count with their age at `now`, the least they take.
    pub(super) fn times(&self, now: Duration) -> Vec<Duration> {
        let ages = self.followed.iter().map(|followed| now - followed.since);
        self.took.iter().copied().chain(ages).collect()
    }
}
