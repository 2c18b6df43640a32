//! Who takes a share: the real [`Roster`] and [`Membership`](super::super::Membership) on clocks that
//! differ by up to S, with joins, leaves, crashes, restarts and operators that forget.

mod heal;
mod state;
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use stateright::{Model, Property};

use super::super::roster::{Roster, RosterConfig};
use super::super::rules::Rules;
use super::Part;
use crate::limit::UnixMillis;
use crate::replica::{Generation, ReplicaId};

use state::{Replica, State};

/// A tick of the model: as long as the roster remembers the departed beyond need, so that it forgets.
const TICK: u64 = 60 * 60 * 1000;

/// What the shares of are added up: a limit with a remainder under two keys, and one without.
const LIMITS: [(u64, u128); 3] = [(7, 1), (7, 2), (60, 3)];

const SAFE: &str = "shares never exceed the limit";

#[derive(Clone, Debug)]
struct Scenario {
    /// The node of each replica; of two with one node the later is a restart of the earlier.
    nodes: Vec<char>,
    /// How many of them are active members from the start.
    members: usize,
    skew: u64,
    window: u64,
    horizon: u64,
    min_roster: usize,
    leaves: usize,
    crashes: usize,
    forgets: usize,
    /// Shares may be taken at any time within a window, not only at its start.
    lazy: bool,
    /// A restart may come while the former process still runs, and does not retire it.
    zombies: bool,
    /// Joiners may boot without having heard of anybody.
    unaware: bool,
    /// Of one owner's records only the newest may still arrive.
    newest_only: bool,
    /// How many must be able to share one window, at best.
    together: usize,
    rules: Rules,
}

impl Default for Scenario {
    fn default() -> Self {
        Self {
            nodes: vec!['a', 'b'],
            members: 2,
            skew: 1,
            window: 2,
            horizon: 4,
            min_roster: 1,
            leaves: 0,
            crashes: 0,
            forgets: 0,
            lazy: false,
            zombies: false,
            unaware: false,
            newest_only: false,
            together: 2,
            rules: Rules::ALL,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Action {
    Tick,
    /// Starts with a clock that much ahead.
    Boot {
        replica: usize,
        ahead: u64,
        contact: Option<usize>,
    },
    Hear {
        replica: usize,
        owner: usize,
        version: u64,
    },
    Take {
        replica: usize,
    },
    Leave {
        replica: usize,
    },
    Crash {
        replica: usize,
    },
    Forget {
        replica: usize,
        gone: usize,
    },
}

impl Scenario {
    fn roster(&self, id: &ReplicaId) -> Roster {
        let config = RosterConfig {
            skew: Duration::from_millis(self.skew * TICK),
            min_roster: self.min_roster,
            listen: Duration::ZERO,
            strict_start: true,
            retire_on_restart: !self.zombies,
            forget_after: None,
        };
        Roster::new(id.clone(), config).with_rules(self.rules)
    }

    fn id(&self, replica: usize, boot: u64) -> ReplicaId {
        let node = self.nodes[replica]
            .to_string()
            .parse()
            .expect("a letter is a node id");
        ReplicaId {
            node,
            generation: Generation(boot * TICK * 1000 + replica as u64),
        }
    }

    fn former(&self, replica: usize) -> impl Iterator<Item = usize> {
        (0..replica).filter(move |former| self.nodes[*former] == self.nodes[replica])
    }

    fn may_boot(&self, state: &State, replica: usize, ahead: u64) -> bool {
        let id = self.id(replica, state.now + ahead);
        // The clock of one machine does not go back over a restart: generations rise.
        let done = |former: usize| {
            let former = &state.replicas[former];
            former.booted && (self.zombies || former.roster.is_none()) && former.id.as_ref() < Some(&id)
        };
        !state.replicas[replica].booted && self.former(replica).all(done)
    }

    fn boots(&self, state: &State, replica: usize, actions: &mut Vec<Action>) {
        for ahead in (0..=self.skew).filter(|ahead| self.may_boot(state, replica, *ahead)) {
            if self.unaware {
                actions.push(Action::Boot {
                    replica,
                    ahead,
                    contact: None,
                });
            } else {
                let contacts = (0..self.nodes.len()).filter(|contact| state.runs(*contact));
                actions.extend(contacts.map(|contact| Action::Boot {
                    replica,
                    ahead,
                    contact: Some(contact),
                }));
            }
        }
    }

    fn running(&self, state: &State, replica: usize, actions: &mut Vec<Action>) {
        for owner in (0..self.nodes.len()).filter(|owner| *owner != replica) {
            let held = state.held(replica, owner);
            let newer = state.replicas[owner]
                .published
                .iter()
                .map(|r| r.version)
                .filter(|v| *v > held);
            let hear = |version| Action::Hear {
                replica,
                owner,
                version,
            };
            if self.newest_only {
                actions.extend(newer.max().map(hear));
            } else {
                actions.extend(newer.map(hear));
            }
            if state.forgets < self.forgets && state.replicas[owner].booted && !state.runs(owner) {
                actions.push(Action::Forget { replica, gone: owner });
            }
        }
        let leaving = state.replicas[replica]
            .published
            .last()
            .is_some_and(|r| r.leaving_at.is_some());
        if state.leaves < self.leaves && !leaving {
            actions.push(Action::Leave { replica });
        }
        if state.crashes < self.crashes {
            actions.push(Action::Crash { replica });
        }
        if self.lazy && state.clock(replica).0 >= self.window * TICK {
            actions.push(Action::Take { replica });
        }
    }

    fn tick(&self, state: &mut State) {
        state.now += 1;
        let running: Vec<_> = (0..self.nodes.len())
            .filter(|replica| state.runs(*replica))
            .collect();
        for replica in running {
            let clock = state.clock(replica).0 / TICK;
            let start = clock - clock % self.window;
            if start == clock {
                // Only the window that begins is open: the former's decisions and departed are let go.
                state.with(replica, |roster, now| {
                    roster.retain(&[UnixMillis(start * TICK)], now);
                });
                if !self.lazy && start > 0 {
                    state.take(replica, start);
                }
            } else {
                state.with(replica, |roster, now| roster.handle_tick(now));
            }
        }
    }
}

impl Model for Scenario {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let ids: Vec<_> = (0..self.members).map(|replica| self.id(replica, 0)).collect();
        let mut starts = vec![Vec::new()];
        for _ in 0..self.members {
            let longer = |ahead: &Vec<u64>| {
                (0..=self.skew)
                    .map(|a| [&ahead[..], &[a]].concat())
                    .collect::<Vec<_>>()
            };
            starts = starts.iter().flat_map(longer).collect();
        }
        let records: Vec<_> = ids
            .iter()
            .map(|id| self.roster(id).joined(&ids).record().clone())
            .collect();
        let build = |ahead: Vec<u64>| {
            let member = |replica: usize| {
                let mut roster = self.roster(&ids[replica]).joined(&ids);
                for (id, record) in ids.iter().zip(&records) {
                    roster.handle_record(id, record, UnixMillis(ahead[replica] * TICK));
                }
                let published = vec![roster.record().clone()];
                let (roster, id) = (Some(roster), Some(ids[replica].clone()));
                Part::new(Replica {
                    booted: true,
                    ahead: ahead[replica],
                    roster,
                    id,
                    published,
                })
            };
            let absent = Replica {
                booted: false,
                ahead: 0,
                roster: None,
                id: None,
                published: Vec::new(),
            };
            let absent = vec![Part::new(absent); self.nodes.len() - self.members];
            let replicas = (0..self.members).map(member).chain(absent).collect();
            State {
                now: 0,
                replicas,
                taken: BTreeMap::new(),
                leaves: 0,
                crashes: 0,
                forgets: 0,
            }
        };
        starts.into_iter().map(build).collect()
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for replica in 0..self.nodes.len() {
            if state.runs(replica) {
                self.running(state, replica, actions);
            } else {
                self.boots(state, replica, actions);
            }
        }
        if state.now < self.horizon {
            actions.push(Action::Tick);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Tick => self.tick(&mut state),
            Action::Boot {
                replica,
                ahead,
                contact,
            } => {
                let id = self.id(replica, state.now + ahead);
                let roster = self.roster(&id);
                let published = vec![roster.record().clone()];
                let (roster, id) = (Some(roster), Some(id));
                state.replicas[replica] = Part::new(Replica {
                    booted: true,
                    ahead,
                    roster,
                    id,
                    published,
                });
                if let Some(contact) = contact {
                    let version = state.replicas[contact].published.last()?.version;
                    state.hear(replica, contact, version);
                }
            }
            Action::Hear {
                replica,
                owner,
                version,
            } => state.hear(replica, owner, version),
            Action::Take { replica } => {
                let clock = state.clock(replica).0 / TICK;
                state.take(replica, clock - clock % self.window);
            }
            Action::Leave { replica } => {
                state.leaves += 1;
                state.with(replica, Roster::leave);
            }
            Action::Crash { replica } => {
                state.crashes += 1;
                state.replicas[replica].change(|state| state.roster = None);
            }
            Action::Forget { replica, gone } => {
                state.forgets += 1;
                let node = state.replicas[gone].id.clone()?.node;
                state.with(replica, |roster, clock| roster.forget(&node, clock));
            }
        }
        state.settle(self);
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(SAFE, |_, state: &State| {
                let within =
                    |(_, sums): &(usize, [u64; 3])| sums.iter().zip(LIMITS).all(|(s, (l, _))| *s <= l);
                state.taken.values().all(within)
            }),
            Property::sometimes(
                "all who can share a whole limit",
                |model: &Self, state: &State| {
                    let whole = LIMITS.map(|(limit, _)| limit);
                    state
                        .taken
                        .values()
                        .any(|(takers, sums)| *takers >= model.together && *sums == whole)
                },
            ),
        ]
    }
}
