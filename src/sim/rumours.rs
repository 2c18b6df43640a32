//! How nodes of bounded mode hear of each other: each change is told to everybody at once, and rounds repair what
//! was lost, as chitchat does. Every telling has a delay of its own, so news overtakes older news.
//!
//! Unlike chitchat, a telling needs no answer, so that it also passes a one-way partition.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rand::Rng;

use crate::bounded::RosterConfig;
use crate::limit::RowKey;
use crate::replica::ReplicaId;

use super::sabotage::{Sabotage, forge};
use super::steward::{News, Stage};
use super::world::{Event, World};

/// Nodes told in one round.
const ROUND_FANOUT: usize = 2;
/// A node goes so long after its last word.
const LINGER: Duration = Duration::from_millis(100);

/// What bounded mode adds to a world.
#[derive(Clone, Debug)]
pub struct BoundedWorld {
    /// What the operator decided.
    pub roster: RosterConfig,
    /// Longest delay of what membership tells.
    pub news_delay: Duration,
    /// Time between two rounds of membership.
    pub round: Duration,
    /// How long the last words of the dead stay known.
    pub retention: Duration,
    /// A rule of the mode that is broken on purpose.
    pub sabotage: Option<Sabotage>,
}

impl Default for BoundedWorld {
    fn default() -> Self {
        Self {
            roster: RosterConfig {
                skew: Duration::from_secs(1),
                min_roster: 2,
                strict_start: false,
                retire_on_restart: true,
                forget_after: None,
                listen: Duration::ZERO,
            },
            news_delay: Duration::from_millis(20),
            round: Duration::from_millis(100),
            retention: Duration::from_secs(3_600),
            sabotage: None,
        }
    }
}

/// Letters on their way, and what sabotage has to know.
#[derive(Debug, Default)]
pub(super) struct Post {
    letters: BTreeMap<u64, Arc<News>>,
    serial: u64,
    pub(super) granted: BTreeMap<(ReplicaId, RowKey, usize), u64>,
}

/// Membership.
impl World {
    /// Nodes that take requests.
    #[must_use]
    pub fn serving(&self) -> Vec<usize> {
        (0..self.nodes.len())
            .filter(|node| self.is_serving(*node))
            .collect()
    }

    fn is_serving(&self, node: usize) -> bool {
        let at = &self.nodes[node];
        let stays = at.steward.as_ref().is_none_or(|s| s.stage == Stage::Staying);
        at.alive && !at.is_hostile && stays
    }

    /// The first round of a node that has just started.
    pub(super) fn begin_rounds(&mut self, node: usize) {
        if let Some(round) = self.config.bounded.as_ref().map(|bounded| bounded.round) {
            let generation = self.nodes[node].replica.generation.0;
            let first = round.mul_f64(self.rng.random());
            self.after(first, Event::Round { node, generation });
        }
    }

    /// One round: tells a few nodes all that this one knows, whether they listen or not.
    pub(super) fn round(&mut self, node: usize, generation: u64) {
        let at = &self.nodes[node];
        let (Some(steward), Some(bounded)) = (&at.steward, &self.config.bounded) else {
            return;
        };
        if !at.alive || at.replica.generation.0 != generation {
            return;
        }
        let round = bounded.round;
        let news = Arc::new(steward.news());
        for _ in 0..ROUND_FANOUT {
            let to = self.rng.random_range(0..self.nodes.len());
            if to != node {
                self.post(node, to, &news);
            }
        }
        self.after(round, Event::Round { node, generation });
    }

    /// Tells everybody what `node` says of itself.
    pub(super) fn tell_everybody(&mut self, node: usize) {
        let Some(steward) = &self.nodes[node].steward else {
            return;
        };
        let news = Arc::new(vec![steward.own()]);
        for to in self.alive() {
            if to != node {
                self.post(node, to, &news);
            }
        }
    }

    fn post(&mut self, from: usize, to: usize, news: &Arc<News>) {
        let Some(delay) = self.config.bounded.as_ref().map(|bounded| bounded.news_delay) else {
            return;
        };
        if self.network.is_cut(from, to) || self.rng.random_bool(self.network.loss()) {
            return;
        }
        self.post.serial += 1;
        let letter = self.post.serial;
        self.post.letters.insert(letter, Arc::clone(news));
        let delay = delay.mul_f64(self.rng.random());
        self.after(delay, Event::News { to, letter });
    }

    pub(super) fn receive(&mut self, to: usize, letter: u64) {
        let Some(news) = self.post.letters.remove(&letter) else {
            return;
        };
        let sabotage = self.sabotage();
        let at = &mut self.nodes[to];
        let Some(steward) = at.steward.as_mut().filter(|_| at.alive) else {
            return;
        };
        let mut news = news.as_ref().clone();
        if let Some(sabotage) = sabotage {
            news.iter_mut().for_each(|(_, heard)| forge(heard, sabotage));
        }
        if steward.hear(news) && !std::mem::replace(&mut steward.view_planned, true) {
            // What comes close together is looked at together.
            let soon = Duration::from_millis(self.rng.random_range(0..5));
            self.after(soon, Event::View { node: to });
        }
    }

    /// Whom the failure detector of `node` takes for alive, and what these say of themselves.
    pub(super) fn notice(&mut self, node: usize, live: &[usize]) {
        let Some(retention) = self.config.bounded.as_ref().map(|bounded| bounded.retention) else {
            return;
        };
        let sabotage = self.sabotage();
        let said = live
            .iter()
            .filter_map(|peer| self.nodes[*peer].steward.as_ref())
            .map(|s| s.own());
        let mut said: News = said.collect();
        if let Some(sabotage) = sabotage {
            said.iter_mut().for_each(|(_, heard)| forge(heard, sabotage));
        }
        if let Some(steward) = &mut self.nodes[node].steward {
            let ids = said.iter().map(|(replica, _)| replica.clone()).collect();
            steward.set_live(ids, self.now, retention);
            steward.hear(said);
        }
    }

    /// What membership knows by now reaches the rest of the node.
    pub(super) fn look_around(&mut self, node: usize) {
        let now = self.nodes[node].now(self.now);
        let at = &mut self.nodes[node];
        let Some(steward) = at.steward.as_mut().filter(|_| at.alive) else {
            return;
        };
        steward.view_planned = false;
        let (view, has_news) = steward.look_around(&at.limiter, &mut at.replication, now);
        at.met
            .extend(view.peers.iter().map(|(replica, _)| replica.clone()));
        if has_news {
            at.replication.handle_local_change(now);
            self.tell_everybody(node);
            // What it says of itself now is in the next view.
            self.after(Duration::from_millis(1), Event::View { node });
        }
    }

    /// The escrow's part of a turn.
    pub(super) fn turn_escrow(&mut self, node: usize) {
        let now = self.nodes[node].now(self.now);
        let at = &mut self.nodes[node];
        let Some(steward) = at.steward.as_mut().filter(|_| at.alive) else {
            return;
        };
        let turned = steward.turn(&at.limiter, &mut at.replication, now);
        let departs = steward.may_depart(&at.replication);
        if departs {
            steward.depart();
        }
        let generation = at.replica.generation.0;
        self.faults.inherited += turned.inherited as u64;
        if departs {
            self.faults.departed += 1;
            self.after(LINGER, Event::Departed { node, generation });
        }
        if turned.has_news || departs {
            self.tell_everybody(node);
        }
    }

    /// A leaver's patience is over: it goes without an answer.
    pub(super) fn leave_over(&mut self, node: usize, generation: u64) {
        let at = &mut self.nodes[node];
        let is_same = at.replica.generation.0 == generation && at.alive;
        let Some(steward) = at.steward.as_mut().filter(|_| is_same) else {
            return;
        };
        if steward.stage == Stage::Leaving {
            steward.depart();
            self.tell_everybody(node);
            self.after(LINGER, Event::Departed { node, generation });
        }
    }
}
