//! Who inherits: the real [`Estate`] of three or four replicas that share one row, with leaves, chained
//! wills, revised wills and crashes.

use std::sync::Arc;

use stateright::{Model, Property};

use super::super::rules::Rules;
use super::super::{Estate, EstateRecord, Membership};
use super::{Part, holds, violates};
use crate::limit::{KeyHash, UnixMillis, Window};
use crate::replica::{Generation, ReplicaId};

const SAFE: &str = "never more than the limit is admitted";
const KEPT: &str = "who left in order left an heir that owns its rights";

const WINDOW: Window = Window {
    start: UnixMillis(1000),
    end: UnixMillis(2000),
};
const KEY: KeyHash = KeyHash(5);

#[derive(Clone, Debug)]
struct Wills {
    replicas: usize,
    limit: u64,
    leaves: usize,
    crashes: usize,
    revisions: usize,
    rules: Rules,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    replicas: Vec<Part<Replica>>,
    leaves: usize,
    crashes: usize,
    revisions: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Replica {
    estate: Estate,
    phase: Phase,
    /// Hits admitted: one row, so also the version of its log.
    consumed: u64,
    /// Up to where it holds each replica's log.
    held: Vec<u64>,
    /// Every record it published.
    published: Vec<EstateRecord>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Phase {
    Running,
    Exited,
    Crashed,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Action {
    Admit(usize),
    /// Rows of a log, up to a version, from whoever holds them.
    Rows {
        to: usize,
        of: usize,
        version: u64,
    },
    Leave {
        leaver: usize,
        heir: usize,
    },
    Execute {
        heir: usize,
        leaver: usize,
        record: usize,
    },
    Revise {
        leaver: usize,
        record: usize,
        heir: usize,
    },
    Exit {
        leaver: usize,
        record: usize,
    },
    Crash(usize),
}

fn id(replica: usize) -> ReplicaId {
    let node = format!("n{replica}").parse().expect("a valid node id");
    ReplicaId {
        node,
        generation: Generation(1),
    }
}

impl Replica {
    fn bequeathed(&self) -> bool {
        self.estate.record().will.is_some()
    }

    fn publish(&mut self) {
        if self.published.last() != Some(self.estate.record()) {
            self.published.push(self.estate.record().clone());
        }
    }
}

impl Wills {
    fn membership(&self, holder: usize) -> Arc<Membership> {
        let members = (0..self.replicas).map(id);
        Membership::try_new(WINDOW.start, &id(holder), members)
            .map(Arc::new)
            .expect("a member")
    }

    fn left(&self, state: &State, at: usize) -> u64 {
        let replica = &state.replicas[at];
        let consumed = |other: &ReplicaId| {
            let index = (0..self.replicas).find(|index| id(*index) == *other);
            index.map_or(0, |index| replica.held[index])
        };
        let row = (self.limit, KEY, WINDOW);
        let allowance = replica
            .estate
            .allowance(row, Some(&self.membership(at)), |_| 0, consumed);
        allowance.saturating_sub(replica.consumed)
    }

    fn running(&self, state: &State, at: usize, actions: &mut Vec<Action>) {
        let replica = &state.replicas[at];
        let others = || (0..self.replicas).filter(move |other| *other != at);
        if !replica.bequeathed() && self.left(state, at) > 0 {
            actions.push(Action::Admit(at));
        }
        if !replica.bequeathed() && state.leaves < self.leaves {
            actions.extend(others().map(|heir| Action::Leave { leaver: at, heir }));
        }
        if state.crashes < self.crashes {
            actions.push(Action::Crash(at));
        }
        for other in others() {
            let relayed = others().filter(|third| state.replicas[*third].phase == Phase::Running);
            let newest = relayed
                .map(|third| state.replicas[third].held[other])
                .max()
                .unwrap_or(0);
            let versions = replica.held[other] + 1..=newest;
            actions.extend(versions.map(|version| Action::Rows {
                to: at,
                of: other,
                version,
            }));
            for (record, published) in state.replicas[other].published.iter().enumerate() {
                if published.will.is_some() {
                    actions.push(Action::Execute {
                        heir: at,
                        leaver: other,
                        record,
                    });
                }
                if replica.bequeathed()
                    && replica
                        .estate
                        .record()
                        .will
                        .as_ref()
                        .is_some_and(|w| w.heir == id(other))
                {
                    actions.push(Action::Exit { leaver: at, record });
                    if state.revisions < self.revisions {
                        let heirs = others().filter(|heir| *heir != other);
                        actions.extend(heirs.map(|heir| Action::Revise {
                            leaver: at,
                            record,
                            heir,
                        }));
                    }
                }
            }
        }
    }
}

impl Model for Wills {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let replica = |at: usize| {
            let estate = Estate::new(id(at)).with_rules(self.rules);
            let published = vec![estate.record().clone()];
            let held = vec![0; self.replicas];
            Part::new(Replica {
                estate,
                phase: Phase::Running,
                consumed: 0,
                held,
                published,
            })
        };
        let replicas = (0..self.replicas).map(replica).collect();
        vec![State {
            replicas,
            leaves: 0,
            crashes: 0,
            revisions: 0,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for at in (0..self.replicas).filter(|at| state.replicas[*at].phase == Phase::Running) {
            self.running(state, at, actions);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Admit(at) => state.replicas[at].change(|replica| {
                replica.consumed += 1;
                replica.held[at] += 1;
            }),
            Action::Rows { to, of, version } => {
                state.replicas[to].change(|replica| replica.held[of] = version);
            }
            Action::Leave { leaver, heir } => {
                state.leaves += 1;
                let taken = self.membership(leaver);
                state.replicas[leaver].change(|replica| {
                    let end = replica.consumed;
                    replica
                        .estate
                        .bequeath(&id(heir), end, [&taken], |_| true, |_| true)
                        .ok()?;
                    replica.publish();
                    Some(())
                })?;
            }
            Action::Execute { heir, leaver, record } => {
                let record = last.replicas[leaver].published[record].clone();
                state.replicas[heir].change(|replica| {
                    let held = |other: &ReplicaId| {
                        let index = (0..self.replicas).find(|index| id(*index) == *other);
                        index.map_or(0, |index| replica.held[index])
                    };
                    replica.estate.execute(&id(leaver), &record, held).ok()?;
                    replica.publish();
                    Some(())
                })?;
            }
            Action::Revise { leaver, record, heir } => {
                state.revisions += 1;
                let first = &last.replicas[leaver].estate.record().will.as_ref()?.heir;
                let first = (0..self.replicas).find(|index| id(*index) == *first)?;
                let record = &last.replicas[first].published[record];
                state.replicas[leaver].change(|replica| {
                    replica.estate.revise(record, &id(heir)).ok()?;
                    replica.publish();
                    Some(())
                })?;
            }
            Action::Exit { leaver, record } => {
                let heir = &last.replicas[leaver].estate.record().will.as_ref()?.heir;
                let heir = (0..self.replicas).find(|index| id(*index) == *heir)?;
                if !last.replicas[leaver]
                    .estate
                    .is_executed(&last.replicas[heir].published[record])
                {
                    return None;
                }
                state.replicas[leaver].change(|replica| replica.phase = Phase::Exited);
            }
            Action::Crash(at) => {
                state.crashes += 1;
                state.replicas[at].change(|replica| replica.phase = Phase::Crashed);
            }
        }
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(SAFE, |model: &Self, state: &State| total(state) <= model.limit),
            Property::always(KEPT, |_, state: &State| {
                let owned = |leaver: usize| {
                    let executed = |heir: &Part<Replica>| heir.estate.record().executed.contains(&id(leaver));
                    state.replicas.iter().any(executed)
                };
                let exited = |at: &usize| state.replicas[*at].phase == Phase::Exited;
                (0..state.replicas.len()).filter(exited).all(owned)
            }),
            Property::sometimes(
                "with somebody gone the whole limit is admitted",
                |model: &Self, state: &State| {
                    let leavers = state
                        .replicas
                        .iter()
                        .filter(|replica| replica.phase == Phase::Exited);
                    leavers.count() > 0 && total(state) == model.limit
                },
            ),
        ]
    }
}

fn total(state: &State) -> u64 {
    state.replicas.iter().map(|replica| replica.consumed).sum()
}

fn wills(replicas: usize, leaves: usize) -> Wills {
    Wills {
        replicas,
        limit: 3,
        leaves,
        crashes: 0,
        revisions: 0,
        rules: Rules::ALL,
    }
}

#[test]
fn wills_never_double_a_right_and_never_lose_one_of_who_leaves_in_order() {
    holds("one leaves", &wills(3, 1));
    holds("two leave, chained", &wills(3, 2));
    holds(
        "two leave, one revises, one crashes",
        &Wills {
            revisions: 1,
            crashes: 1,
            ..wills(3, 2)
        },
    );
    holds(
        "four replicas",
        &Wills {
            limit: 4,
            ..wills(4, 2)
        },
    );
}

#[test]
fn without_the_rows_an_heir_spends_what_the_leaver_spent() {
    let rules = Rules {
        complete: false,
        ..Rules::ALL
    };
    violates("no completeness", SAFE, Wills { rules, ..wills(2, 1) });
}

#[test]
fn without_the_acknowledgement_a_leaver_exits_with_rights_that_nobody_owns() {
    let rules = Rules {
        acknowledgement: false,
        ..Rules::ALL
    };
    violates("no acknowledgement", KEPT, Wills { rules, ..wills(2, 1) });
}

#[test]
fn without_the_guard_a_revised_will_has_two_heirs() {
    let rules = Rules {
        revision: false,
        ..Rules::ALL
    };
    violates(
        "no guard on revision",
        SAFE,
        Wills {
            revisions: 1,
            rules,
            ..wills(3, 1)
        },
    );
}
