//! How rights move: the real [`Rights`] of one row at three replicas, with every ask and grant that was
//! ever sent able to arrive at any time.

use std::collections::BTreeSet;
use std::time::Duration;

use stateright::{Model, Property};

use super::super::rules::Rules;
use super::super::{Account, Ask, Rights};
use super::{Part, holds, violates};

const SAFE: &str = "never more than the limit is admitted";
const CONSERVED: &str = "no right is lost or made";

#[derive(Clone, Debug)]
struct Transfers {
    shares: Vec<u64>,
    /// Sizes of the requests that arrive.
    hits: Vec<u64>,
    /// How often each replica may look for rights.
    polls: usize,
    rules: Rules,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    rows: Vec<Part<Row>>,
    /// (asker, giver, ask): what was sent.
    asks: BTreeSet<(usize, usize, Ask)>,
    /// (giver, taker, cumulative): what rows have ever said.
    grants: BTreeSet<(usize, usize, u64)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Row {
    rights: Rights<usize>,
    received: Vec<u64>,
    consumed: u64,
    share: u64,
    polls: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Action {
    Admit {
        at: usize,
        hits: u64,
    },
    /// A request of these hits finds too little and waits; 0: it gave up.
    Wait {
        at: usize,
        hits: u64,
    },
    Poll {
        at: usize,
    },
    Serve {
        asker: usize,
        giver: usize,
        ask: Ask,
    },
    Hear {
        giver: usize,
        taker: usize,
        cumulative: u64,
    },
}

struct Purse<'a> {
    allowance: u64,
    consumed: &'a mut u64,
}

impl Account for Purse<'_> {
    fn left(&self) -> u64 {
        self.allowance.saturating_sub(*self.consumed)
    }
    fn deduct(&mut self, hits: u64) -> u64 {
        let hits = hits.min(self.left());
        *self.consumed += hits;
        hits
    }
}

impl Row {
    fn left(&self) -> u64 {
        self.rights.allowance(self.share).saturating_sub(self.consumed)
    }
}

impl Transfers {
    fn limit(&self) -> u64 {
        self.shares.iter().sum()
    }
}

impl Model for Transfers {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let row = |share: &u64| {
            let rights = Rights::new().with_rules(self.rules);
            let received = vec![0; self.shares.len()];
            Part::new(Row {
                rights,
                received,
                consumed: 0,
                share: *share,
                polls: 0,
            })
        };
        let rows = self.shares.iter().map(row).collect();
        vec![State {
            rows,
            asks: BTreeSet::new(),
            grants: BTreeSet::new(),
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for (at, row) in state.rows.iter().enumerate() {
            for hits in self.hits.iter().copied() {
                let able = row.left() >= hits;
                actions.push(if able {
                    Action::Admit { at, hits }
                } else {
                    Action::Wait { at, hits }
                });
            }
            actions.push(Action::Wait { at, hits: 0 });
            if row.polls < self.polls {
                actions.push(Action::Poll { at });
            }
        }
        actions.extend(state.asks.iter().map(|(asker, giver, ask)| Action::Serve {
            asker: *asker,
            giver: *giver,
            ask: *ask,
        }));
        actions.extend(
            state
                .grants
                .iter()
                .map(|(giver, taker, cumulative)| Action::Hear {
                    giver: *giver,
                    taker: *taker,
                    cumulative: *cumulative,
                }),
        );
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Admit { at, hits } => state.rows[at].change(|row| row.consumed += hits),
            Action::Wait { at, hits } => state.rows[at].change(|row| row.rights.set_largest_waiter(hits)),
            Action::Poll { at } => {
                let peers = (0..self.shares.len())
                    .filter(|peer| *peer != at)
                    .map(|peer| (peer, 1));
                let asks = state.rows[at].change(|row| {
                    row.polls += 1;
                    // Far enough apart that what was lost is asked for again.
                    let now = Duration::from_secs(row.polls as u64);
                    row.rights.poll_asks(now, row.left(), (1, 1), peers)
                });
                state
                    .asks
                    .extend(asks.into_iter().map(|(giver, ask)| (at, giver, ask)));
            }
            Action::Serve { asker, giver, ask } => {
                let answer = state.rows[giver].change(|row| {
                    let allowance = row.rights.allowance(row.share);
                    let mut purse = Purse {
                        allowance,
                        consumed: &mut row.consumed,
                    };
                    row.rights.handle_ask(asker, ask, asker > giver, &mut purse)
                });
                state
                    .grants
                    .extend((answer.granted > 0).then_some((giver, asker, answer.granted)));
            }
            Action::Hear {
                giver,
                taker,
                cumulative,
            } => {
                state.rows[taker]
                    .change(|row| row.received[giver] += row.rights.handle_grant(giver, cumulative));
            }
        }
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(SAFE, |model: &Self, state: &State| {
                total_admitted(state) <= model.limit()
            }),
            Property::always(CONSERVED, |model: &Self, state: &State| {
                let left: u64 = state.rows.iter().map(|row| row.left()).sum();
                total_admitted(state) + left + in_flight(state) == model.limit()
            }),
            Property::sometimes(
                "one replica admits the whole limit",
                |model: &Self, state: &State| {
                    let whole = |row: &Part<Row>| row.rights.admitted(row.consumed) == model.limit();
                    state.rows.iter().any(whole)
                },
            ),
        ]
    }
}

fn total_admitted(state: &State) -> u64 {
    state
        .rows
        .iter()
        .map(|row| row.rights.admitted(row.consumed))
        .sum()
}

/// Granted, and not yet heard of by who was granted.
fn in_flight(state: &State) -> u64 {
    let of = |(giver, row): (usize, &Part<Row>)| -> u64 {
        let unheard = |(taker, hits): (usize, u64)| hits - state.rows[taker].received[giver];
        row.rights.granted().map(unheard).sum()
    };
    state.rows.iter().enumerate().map(of).sum()
}

fn transfers(shares: &[u64], hits: &[u64]) -> Transfers {
    Transfers {
        shares: shares.to_vec(),
        hits: hits.to_vec(),
        polls: 2,
        rules: Rules::ALL,
    }
}

#[test]
fn transfers_never_make_or_lose_a_right() {
    holds("two replicas", &transfers(&[2, 1], &[1]));
    holds("two replicas, two sizes", &transfers(&[2, 2], &[1, 3]));
    holds("three replicas", &transfers(&[1, 1, 1], &[1]));
    holds("three replicas, need of two", &transfers(&[1, 1, 0], &[2]));
}

#[test]
fn without_the_deduction_a_right_is_spent_by_giver_and_taker() {
    let rules = Rules {
        deduction: false,
        ..Rules::ALL
    };
    violates(
        "no deduction",
        SAFE,
        Transfers {
            rules,
            ..transfers(&[2, 1], &[1])
        },
    );
}
