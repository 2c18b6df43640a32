//! The admission decision.
//!
//! Owns the rules in force and what they count. A decision over one window is one compare-and-swap; one
//! over several reserves in each, then counts in all or gives back, so replication and other decisions
//! see a request in every window or in none.

use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use smallvec::SmallVec;

use super::counters::{Ask, Backoff, Counters, Counts, Offer, Refusal, Taking};
use super::headers::HeaderNames;
use super::key::KeyHash;
use super::names::KeyNames;
use super::rule::{Hits, Rule, SyncMode};
use super::significance::Significance;
use super::table::{RuleTable, WindowEntry};
use super::time::UnixMillis;
use super::window::{Period, Window};

/// One rule to charge for a request, and whom.
#[derive(Clone, Copy, Debug)]
pub struct Charge {
    /// Index of the rule in [`Limiter::rules`].
    pub rule: usize,
    /// Who is charged.
    pub key: KeyHash,
    /// How much.
    pub hits: Hits,
}

/// Whether a request may pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Counted in every window of every charge.
    Admitted,
    /// Counted nowhere. `window` is the index in [`Decision::windows`] of the one that stopped it (of
    /// several, the one that resets last).
    Denied {
        /// See the variant.
        window: usize,
    },
}

/// The state of one window right after a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowState {
    /// Index of the rule.
    pub rule: usize,
    /// The period.
    pub period: Period,
    /// The window.
    pub window: Window,
    /// The limit.
    pub limit: u64,
    /// What is left after this decision, by Kong's arithmetic.
    pub remaining: u64,
    /// Whole seconds until the window ends, at least 1.
    pub reset_seconds: u64,
}

/// What [`Limiter::check`] decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// May it pass?
    pub outcome: Outcome,
    /// Every window that was looked at, in the order of the charges.
    pub windows: SmallVec<[WindowState; 4]>,
    /// Some counted row is due (see [`Significance::is_due`]): wake replication now.
    pub due: bool,
    /// A row was made for it, or counted its first hit of this node: the moment to tell
    /// [`Limiter::names`] who its key is.
    pub created: bool,
}

/// Decides requests against the rules, and counts what it admits.
pub struct Limiter {
    table: ArcSwap<RuleTable>,
    counters: Arc<Counters>,
    names: KeyNames,
    significance: Significance,
    replicas: AtomicU32,
    /// The generation of `table`, raised before rows are marked for replication.
    generation: AtomicU64,
    /// Held while the rules or the mode change; never by a decision.
    changing: Mutex<()>,
}

/// Whether the row holds no other hits of this node: peers may have made it, and do not know the name.
fn is_first(counts: Counts, charge: &Charge) -> bool {
    counts.own == u64::from(charge.hits.get())
}

/// Names kept for the operator: at 128 bytes each, some 3 MB.
const NAMES_MAX: usize = 16_384;
/// Times that a decision gives way to others that reserved before it. Those need a microsecond unless
/// the scheduler takes them off their core; beyond this, it denies: early, never late.
const CONTENTION_ROUNDS_MAX: u32 = 1_000;
/// Times that a group may be closed under a decision whose clock is behind before it starts over.
const TURNS_MAX: u32 = 16;

impl Limiter {
    /// A limiter with `rules` under the cluster-wide `mode`, holding at most `max_keys` rows (at least
    /// 64, at most 2^30).
    #[must_use]
    pub fn new(rules: Vec<Rule>, mode: SyncMode, significance: Significance, max_keys: u32) -> Self {
        let table = RuleTable::new(rules.into(), mode, 0);
        let counters = Arc::new(Counters::new(max_keys));
        counters.set_policies(table.policies());
        Self {
            table: ArcSwap::from_pointee(table),
            counters,
            names: KeyNames::new(NAMES_MAX),
            significance,
            replicas: AtomicU32::new(1),
            generation: AtomicU64::new(0),
            changing: Mutex::new(()),
        }
    }

    /// The table of counters, shared with replication.
    #[must_use]
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// The rules in force.
    #[must_use]
    pub fn rules(&self) -> Arc<[Rule]> {
        Arc::clone(&self.table.load().rules)
    }

    /// The names of recent keys. Whoever asked for a decision that [`Decision::created`] a row records
    /// them.
    #[must_use]
    pub fn names(&self) -> &KeyNames {
        &self.names
    }

    /// The header names of the rules in force, for [`super::headers::apply`].
    #[must_use]
    pub fn header_names(&self) -> Arc<HeaderNames> {
        Arc::clone(&self.table.load().header_names)
    }

    /// Decides one request: all of `charges` are counted, or none. A charge of a rule that is not in
    /// force counts nothing.
    ///
    /// Exact under concurrency: however many threads call it, no window admits more than its limit on
    /// this node. Takes no lock.
    #[must_use]
    pub fn check(&self, charges: &[Charge], now: UnixMillis) -> Decision {
        let table = self.table.load();
        match charges {
            [charge] if table.windows(charge.rule).len() == 1 => self.check_one(&table, charge, now),
            _ => self.check_all(&table, charges, now),
        }
    }

    /// The cluster-wide mode in force.
    #[must_use]
    pub fn mode(&self) -> SyncMode {
        self.table.load().mode
    }

    /// Changes the cluster-wide mode at once. The caller then wakes replication, which finds every row
    /// in [`Counters::take_changed`].
    pub fn set_mode(&self, mode: SyncMode) {
        self.change(|table| (Arc::clone(&table.rules), mode));
    }

    /// Puts other rules in force at once. Counts stay with the rules that keep their name, what they
    /// count by and their periods. The caller then wakes replication.
    pub fn set_rules(&self, rules: Vec<Rule>) {
        let rules: Arc<[Rule]> = rules.into();
        self.change(|table| (rules, table.mode));
    }

    /// Tells how many replicas share the limits (at least 1): the divisor of [`Significance`].
    pub fn set_replicas(&self, replicas: u32) {
        self.replicas.store(replicas.max(1), Relaxed);
    }

    fn change(&self, next: impl FnOnce(&RuleTable) -> (Arc<[Rule]>, SyncMode)) {
        // What it guards is the order of changes; a panic in one leaves the former table in force.
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let current = self.table.load_full();
        let (rules, mode) = next(&current);
        let table = RuleTable::new(rules, mode, current.generation + 1);
        self.counters.set_policies(table.policies());
        self.generation.store(table.generation, SeqCst);
        self.table.store(Arc::new(table));
        // A decision under the former table may count a row as local after this walk passed it. It reads
        // the generation after counting, and then hands the row to replication itself.
        self.counters.mark_all_changed();
    }

    /// The common case: one rule with one window.
    fn check_one(&self, table: &RuleTable, charge: &Charge, now: UnixMillis) -> Decision {
        let entry = &table.windows(charge.rule)[0];
        let step = Step { entry, charge };
        let mut backoff = Backoff::default();
        for _ in 0..CONTENTION_ROUNDS_MAX {
            let answer = self.offer(&step, Taking::Count, now);
            let (windows, outcome, due, created) = match answer {
                Answer::Contended => {
                    backoff.wait();
                    continue;
                }
                Answer::Taken {
                    slot,
                    counts,
                    window,
                    created,
                } => {
                    let due = self.counted(table, entry, slot, counts);
                    let remaining = entry.limit.saturating_sub(counts.total());
                    (
                        step.state(window, remaining, now),
                        Outcome::Admitted,
                        due,
                        created || is_first(counts, charge),
                    )
                }
                Answer::Refused { window, created } => (
                    step.state(window, 0, now),
                    Outcome::Denied { window: 0 },
                    false,
                    created,
                ),
            };
            return Decision {
                outcome,
                windows: smallvec::smallvec![windows],
                due,
                created,
            };
        }
        self.denial(&[step], 0, false, now)
    }

    /// Reserves in every window; then counts in all, or gives back and denies.
    fn check_all(&self, table: &RuleTable, charges: &[Charge], now: UnixMillis) -> Decision {
        let steps: Steps<'_> = charges
            .iter()
            .flat_map(|charge| {
                table
                    .windows(charge.rule)
                    .iter()
                    .map(move |entry| Step { entry, charge })
            })
            .collect();
        for step in &steps {
            if let Some((_, salt)) = step.entry.window_at(now) {
                self.counters.prefetch(step.ask(salt).fingerprint);
            }
        }
        let mut backoff = Backoff::default();
        let mut created_any = false;
        let mut stopping = 0;
        for _ in 0..CONTENTION_ROUNDS_MAX {
            match self.reserve(&steps, now, &mut created_any) {
                Ok(held) => return self.commit(table, &steps, &held, created_any, now),
                Err(Stop::Full(at)) => return self.denial(&steps, at, created_any, now),
                Err(Stop::Contended(at)) => {
                    stopping = at;
                    backoff.wait();
                }
            }
        }
        self.denial(&steps, stopping, created_any, now)
    }

    /// Reserves the hits of all `steps`, or of none.
    fn reserve(&self, steps: &[Step<'_>], now: UnixMillis, created_any: &mut bool) -> Result<Held, Stop> {
        let mut held = Held::new();
        for (at, step) in steps.iter().enumerate() {
            let stop = match self.offer(step, Taking::Reserve, now) {
                Answer::Taken {
                    slot,
                    window,
                    created,
                    ..
                } => {
                    *created_any |= created;
                    held.push((slot, window));
                    continue;
                }
                Answer::Refused { created, .. } => {
                    *created_any |= created;
                    Stop::Full(at)
                }
                Answer::Contended => Stop::Contended(at),
            };
            for ((slot, _), step) in held.iter().zip(steps) {
                self.counters.release(*slot, step.charge.hits);
            }
            return Err(stop);
        }
        Ok(held)
    }

    fn commit(
        &self,
        table: &RuleTable,
        steps: &[Step<'_>],
        held: &Held,
        mut created: bool,
        now: UnixMillis,
    ) -> Decision {
        let mut due = false;
        let windows = held.iter().zip(steps).map(|((slot, window), step)| {
            let counts = step.entry.seen(self.counters.commit(*slot, step.charge.hits));
            due |= self.counted(table, step.entry, *slot, counts);
            created |= is_first(counts, step.charge);
            step.state(*window, step.entry.limit.saturating_sub(counts.total()), now)
        });
        let windows = windows.collect();
        Decision {
            outcome: Outcome::Admitted,
            windows,
            due,
            created,
        }
    }

    /// A denial by the step at `stopping`, and by every other one whose window has no room either. Those
    /// show nothing left; the others show what is unconsumed.
    fn denial(&self, steps: &[Step<'_>], stopping: usize, created: bool, now: UnixMillis) -> Decision {
        let mut denied_by = None;
        let mut windows = SmallVec::new();
        for (at, step) in steps.iter().enumerate() {
            let group = step.entry.group_at(&self.counters, now);
            let (window, used) = group
                .as_ref()
                .map_or((step.entry.period.window_at(now), 0), |group| {
                    let counts = self.counters.peek(group, group.fingerprint(step.charge.key));
                    (group.window, step.entry.seen(counts).total())
                });
            let unused = step.entry.limit.saturating_sub(used);
            let stops = at == stopping || unused < u64::from(step.charge.hits.get());
            if stops && denied_by.is_none_or(|(end, _)| end < window.end) {
                denied_by = Some((window.end, at));
            }
            windows.push(step.state(window, if stops { 0 } else { unused }, now));
        }
        let window = denied_by.map_or(stopping, |(_, at)| at);
        Decision {
            outcome: Outcome::Denied { window },
            windows,
            due: false,
            created,
        }
    }

    /// Asks one window for room.
    #[inline]
    fn offer(&self, step: &Step<'_>, taking: Taking, now: UnixMillis) -> Answer {
        if let Some((window, salt)) = step.entry.window_at(now)
            && let Some((slot, offer)) = self.counters.offer_existing(&step.ask(salt), taking)
        {
            return match offer {
                Offer::Taken(counts) => Answer::Taken {
                    slot,
                    counts,
                    window,
                    created: false,
                },
                Offer::Refused(_) => Answer::Refused {
                    window,
                    created: false,
                },
                Offer::Contended | Offer::Gone => Answer::Contended,
            };
        }
        self.offer_new(step, taking, now)
    }

    /// [`Limiter::offer`] where the row or even its group may have to be made.
    #[cold]
    fn offer_new(&self, step: &Step<'_>, taking: Taking, now: UnixMillis) -> Answer {
        for _ in 0..TURNS_MAX {
            let group = step.entry.group_at(&self.counters, now);
            let Some(group) = group.as_ref() else {
                return Answer::Refused {
                    window: step.entry.period.window_at(now),
                    created: false,
                };
            };
            let ask = step.ask(group.salt());
            let window = group.window;
            return match self.counters.offer(group, &ask, taking, now) {
                Ok((row, Offer::Taken(counts))) => Answer::Taken {
                    slot: row.slot,
                    counts,
                    window,
                    created: row.created,
                },
                Ok((row, Offer::Refused(_))) => Answer::Refused {
                    window,
                    created: row.created,
                },
                Ok((_, Offer::Contended | Offer::Gone)) => Answer::Contended,
                // Only groups of ended windows are closed: this clock is behind. `group_at` turns again.
                Err(Refusal::GroupClosed) => continue,
                Err(Refusal::Full) => Answer::Refused {
                    window,
                    created: false,
                },
            };
        }
        Answer::Contended
    }

    /// Hands a row that was counted in to replication; whether that is due at once.
    #[inline]
    fn counted(&self, table: &RuleTable, entry: &WindowEntry, slot: u32, counts: Counts) -> bool {
        if !entry.shared {
            if self.generation.load(SeqCst) != table.generation {
                self.counters.mark_changed(slot);
            }
            return false;
        }
        self.counters.mark_changed(slot);
        let replicas = self.replicas.load(Relaxed);
        let remaining = entry.limit.saturating_sub(counts.total());
        let unsent = counts.own.saturating_sub(counts.published);
        self.significance.is_due(unsent, remaining, replicas)
            && !self
                .significance
                .is_held_back(counts.own, counts.total(), entry.limit, replicas)
    }
}

/// One window to be asked for one charge.
#[derive(Clone, Copy)]
struct Step<'a> {
    entry: &'a WindowEntry,
    charge: &'a Charge,
}

type Steps<'a> = SmallVec<[Step<'a>; 8]>;
/// The slots in which hits are reserved, and their windows, in the order of the steps.
type Held = SmallVec<[(u32, Window); 8]>;

enum Answer {
    Taken {
        slot: u32,
        counts: Counts,
        window: Window,
        created: bool,
    },
    Refused {
        window: Window,
        created: bool,
    },
    Contended,
}

/// Where a reservation ended.
enum Stop {
    Full(usize),
    Contended(usize),
}

impl Step<'_> {
    #[inline]
    fn ask(&self, salt: u128) -> Ask {
        Ask {
            fingerprint: self.charge.key.0 ^ salt,
            hits: self.charge.hits,
            limit: self.entry.limit,
            shared: self.entry.shared,
        }
    }

    #[inline]
    fn state(&self, window: Window, remaining: u64, now: UnixMillis) -> WindowState {
        WindowState {
            rule: self.charge.rule,
            period: self.entry.period,
            window,
            limit: self.entry.limit,
            remaining,
            reset_seconds: window.end.0.saturating_sub(now.0).div_ceil(1000).max(1),
        }
    }
}

impl WindowEntry {
    /// The counts that the limit applies to.
    fn seen(&self, counts: Counts) -> Counts {
        Counts {
            peers: if self.shared { counts.peers } else { 0 },
            ..counts
        }
    }
}
