//! What must hold once the network is whole: agreement, claims that are true, and memory in proportion.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::limit::RowKey;
use crate::replica::ReplicaId;
use crate::replication::Claim;

use super::judge::{Released, check_kept};
use super::oracle::Violation;
use super::world::World;

/// A replica that is gone is remembered for so long even if nothing is left of it: 60 s, and the time that
/// its death takes to be noticed.
const REMEMBERED: Duration = Duration::from_secs(65);

/// A node looks for rows that it has evicted at every tick.
const NOTICED_WITHIN: Duration = Duration::from_millis(300);

impl World {
    /// After the network has healed and everything has settled: every live node holds, of every replica,
    /// the same count, and of every live replica the true one.
    ///
    /// # Errors
    /// The first row on which two nodes differ.
    pub fn check_converged(&self) -> Result<(), Violation> {
        let alive = self.alive();
        for (row, admitted) in self.oracle.rows() {
            let counts: Vec<_> = alive.iter().map(|node| self.counts(*node, row)).collect();
            for (replica, truth) in admitted {
                let owner = alive.iter().find(|node| self.nodes[**node].replica == *replica);
                let released = owner.map(|node| self.released(*node, row));
                let held: Vec<u64> = counts
                    .iter()
                    .map(|c| c.get(replica).copied().unwrap_or(0))
                    .collect();
                let most = held.iter().copied().max().unwrap_or(0);
                let expected = released.unwrap_or(most);
                let differs = |(node, count): (&usize, &u64)| {
                    *count != expected && Some(node) != owner && !self.may_be_crowded_out(*node, replica)
                };
                if most > *truth || alive.iter().zip(&held).any(differs) {
                    let nodes: Vec<_> = alive.iter().zip(&held).collect();
                    return Err(self.violation(format!(
                        "of {replica} (released {released:?}, truth {truth}) on {row:?} the nodes hold {nodes:?}"
                    )));
                }
            }
        }
        Ok(())
    }

    /// Replicas that a node never saw alive share a half of its table with all that a peer makes up.
    fn may_be_crowded_out(&self, node: usize, replica: &ReplicaId) -> bool {
        self.faults().floods > 0 && !self.nodes[node].met.contains(replica)
    }

    /// What a live node must have told the others by now: all it counted, unless it may hold it back.
    fn released(&self, node: usize, row: &RowKey) -> u64 {
        let at = &self.nodes[node];
        let counters = at.limiter.counters();
        let Some(view) = counters.find(row).and_then(|found| counters.view(found)) else {
            return 0;
        };
        let replicas = at.replication.replicas();
        let total = view.own + view.peers;
        let held_back =
            self.config
                .significance
                .is_held_back(view.own, total, view.limit.unwrap_or(0), replicas);
        if held_back { view.published } else { view.own }
    }

    fn counts(&self, node: usize, row: &RowKey) -> BTreeMap<ReplicaId, u64> {
        let node = &self.nodes[node];
        let found = node.limiter.counters().find(row);
        found
            .map(|found| node.replication.counts(found).into_iter().collect())
            .unwrap_or_default()
    }

    /// Where tables overflow, nodes hold different rows, and agreement is this: every node claims the whole
    /// log of every live node and whatever of a dead one's another live node can give, or has recorded a hole.
    ///
    /// # Errors
    /// The first log that a node lags behind on.
    pub fn check_claimed(&self) -> Result<(), Violation> {
        let alive = self.alive();
        let claims: Vec<_> = alive
            .iter()
            .map(|node| self.nodes[*node].replication.claims())
            .collect();
        for (giver, given) in alive.iter().zip(&claims) {
            for (taker, taken) in alive.iter().zip(&claims).filter(|(taker, _)| *taker != giver) {
                for claim in given.iter().filter(|claim| self.can_give(*giver, claim)) {
                    let held = taken.iter().find(|held| held.log == claim.log);
                    // What a node evicted of its own log is an empty place soon, and holds nobody up.
                    let is_own = self.nodes[*giver].replica == claim.log;
                    let up_to = if is_own { claim.confirmed } else { claim.given };
                    let lags = held.is_none_or(|held| held.confirmed < up_to);
                    // Of a log without a row left there is nothing to tell: those behind a hole were adopted.
                    // A digest does not name the log of a dead replica that no row is held of.
                    let holds_nothing = held.is_none_or(|held| held.confirmed == 0 || held.rows == 0);
                    let excused = held.is_some_and(|held| held.hole.is_some())
                        || holds_nothing && !(claim.has_places && self.holds_row_of(*giver, claim));
                    if lags && !excused && taken.first().is_some_and(|own| own.log != claim.log) {
                        return Err(self.violation(format!(
                            "n{taker} has {held:?} of the log of which n{giver} has {claim:?}"
                        )));
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether `giver` would relay a log: its own, or one of which something is left.
    fn can_give(&self, giver: usize, claim: &Claim) -> bool {
        let is_own = self.nodes[giver].replica == claim.log;
        claim.given > 0 && (is_own || claim.rows > 0) && !self.is_hostile(&claim.log)
    }

    /// Whether a live row of `node` stands in a log up to where it can give that.
    fn holds_row_of(&self, node: usize, claim: &Claim) -> bool {
        let counters = self.nodes[node].limiter.counters();
        let log = self.judge.life(&claim.log).map(|life| &life.log);
        let mut rows = log.into_iter().flat_map(|log| log.range(..=claim.given));
        rows.any(|(_, rows)| rows.iter().any(|row| counters.find(&row.row).is_some()))
    }

    fn is_hostile(&self, replica: &ReplicaId) -> bool {
        self.nodes
            .iter()
            .any(|node| node.is_hostile && node.replica == *replica)
    }

    /// No claim is false: each row that a log's owner released up to the claim is held with at least the
    /// count released there, or stands behind a hole, or its window has ended, or its owner evicted it
    /// (which leaves an empty place).
    ///
    /// # Errors
    /// The first row that a node claims and lacks.
    pub fn check_claims(&self) -> Result<(), Violation> {
        for node in self.alive() {
            for claim in self.nodes[node].replication.claims().iter().skip(1) {
                self.check_claim(node, claim)?;
            }
        }
        Ok(())
    }

    fn check_claim(&self, node: usize, claim: &Claim) -> Result<(), Violation> {
        let Some(life) = self.judge.life(&claim.log) else {
            return Ok(());
        };
        let at = &self.nodes[node];
        // Whose clock is ahead lets go of ended rows first, and has nothing of them to pass on.
        let wall = self.nodes.iter().map(|node| node.now(self.now).wall).max();
        // The last place of a row has the highest count; those before it are judged with it. Where no node ever
        // lost or refused a row, also of a row that has left for a place beyond the claim: a claim that was
        // taken back to a hole may lack such a row, and the count comes with its newest place.
        let faults = self.faults();
        let is_whole = faults.evicted + faults.refused == 0;
        let mut promised: BTreeMap<(&RowKey, &ReplicaId), (u64, &Released)> = BTreeMap::new();
        let places = life
            .log
            .iter()
            .flat_map(|(at, rows)| rows.iter().map(move |row| (*at, row)));
        for (version, row) in places.filter(|(at, _)| !is_whole || *at <= claim.confirmed) {
            promised.insert((&row.row, &row.subject), (version, row));
        }
        promised.retain(|_, (version, _)| *version <= claim.confirmed);
        for (version, released) in promised.into_values() {
            let Released { subject, row, count } = released;
            let behind_hole = claim.hole.is_some_and(|hole| hole <= version);
            let over = wall.is_some_and(|wall| row.window.end <= wall);
            if behind_hole || over || *subject == at.replica || life.lost.contains_key(row) {
                continue;
            }
            let held = self.counts(node, row).get(subject).copied().unwrap_or(0);
            if held < *count && !self.may_lack(node, row, *subject == claim.log) {
                return Err(self.violation(format!(
                    "n{node} claims {claim:?} and holds {held} of {subject} on {row:?}, released there at {version}: {count}"
                )));
            }
        }
        Ok(())
    }

    /// Whether a node may claim a row that it evicted: until it looks for what it has evicted, or for good if the
    /// row was adopted, since rows know only their places in the logs of their owners. Such a place is found when
    /// it is relayed.
    fn may_lack(&self, node: usize, row: &RowKey, is_owners: bool) -> bool {
        let life = self.judge.life(&self.nodes[node].replica);
        let lost = life.and_then(|life| life.lost.get(row));
        lost.is_some_and(|at| !is_owners || *at + NOTICED_WITHIN > self.now)
    }

    /// Nothing that a node keeps is out of proportion to its table and the nodes around it.
    ///
    /// # Errors
    /// The first thing that is.
    pub fn check_kept(&self) -> Result<(), Violation> {
        let recent = self.recently_alive(REMEMBERED);
        for node in self.alive() {
            let kept = self.nodes[node].replication.kept();
            let capacity = self.nodes[node].limiter.counters().capacity() as usize;
            check_kept(&kept, capacity, recent, self.faults().floods > 0)
                .map_err(|what| self.violation(format!("n{node} {what}: {kept:?}")))?;
        }
        Ok(())
    }

    /// A flood has made no more rows than its share on any node, and each node says how many it refused.
    /// Only a node that saw the whole of it must have refused some.
    ///
    /// # Errors
    /// The first node on which it has, or that does not.
    pub fn check_flood(&self) -> Result<(), Violation> {
        let faults = self.faults();
        let moved = faults.partitions + faults.crashes + faults.joins + faults.leaves;
        for node in self.alive() {
            let at = &self.nodes[node];
            let share = at.limiter.counters().capacity() as usize / 2;
            let peers = at.replication.peers(at.now(self.now));
            let hostile = peers.into_iter().filter(|peer| self.is_hostile(&peer.replica));
            for peer in hostile {
                if peer.rows > share || peer.refused == 0 && moved == 0 {
                    let what =
                        format!("n{node} gives a flood more than {share} rows or refuses none: {peer:?}");
                    return Err(self.violation(what));
                }
            }
        }
        Ok(())
    }
}
