//! The admission decision.
//!
//! Owns the rules in force and what they count. A decision over one window is one compare-and-swap; one
//! over several reserves in each, then counts in all or gives back, so replication and other decisions
//! see a request in every window or in none.

use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use smallvec::SmallVec;

use super::counters::{Backoff, Counters, Counts, Short, Taking};
use super::headers::HeaderNames;
use super::key::KeyHash;
use super::mode::{Overflow, SyncMode, WithoutShare};
use super::names::KeyNames;
use super::rule::{Hits, Rule};
use super::rules::Rules;
use super::schedule::Policy;
use super::significance::Significance;
use super::step::{Answer, Held, Hold, Step, Steps, Stop};
use super::table::RuleTable;
use super::time::UnixMillis;
use super::waiting::WaitingRoom;
use super::window::{Period, Window};

/// One rule to charge for a request, and whom.
#[derive(Clone, Copy, Debug)]
pub struct Charge {
    /// Place of the rule in [`Limiter::rules`].
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
    /// Place of the rule.
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

/// What replication has to do with what was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Due {
    /// Nothing now: it takes the rows when it comes to it.
    #[default]
    No,
    /// Wake it: rights are to be asked for before there are none. No peer counts on these hits.
    Wake,
    /// Wake it, and let the response wait until the counts have left: a client that then asks another node comes
    /// after its own hits.
    Await,
}

impl Due {
    /// Whether replication is to be woken.
    #[must_use]
    pub fn is_due(self) -> bool {
        self != Self::No
    }
}

/// What [`Limiter::check`] decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// May it pass?
    pub outcome: Outcome,
    /// Every window that was looked at, in the order of the charges.
    pub windows: SmallVec<[WindowState; 4]>,
    /// Whether some counted row is due (see [`Significance::is_due`]).
    pub due: Due,
    /// A row was made for it, or counted its first hit of this node: the moment to tell
    /// [`Limiter::names`] who its key is.
    pub created: bool,
    /// Rows that lack rights, where that alone stopped the request: the limits are not known to be reached, so
    /// peers may have rights to give. Empty when it was admitted, and when no rights would help it. See
    /// [`Limiter::want`].
    pub short: SmallVec<[Short; 1]>,
    /// Whether the window that denied it is in bounded mode, this replica has no share of it, and no other mode
    /// stands in ([`WithoutShare`]).
    pub without_share: bool,
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
    /// Whether [`Overflow::Allow`] holds.
    allows_overflow: AtomicBool,
    /// A [`WithoutShare`], by its place in [`WITHOUT_SHARE`].
    without_share: AtomicU8,
    /// Held while the rules or the mode change; never by a decision.
    changing: Mutex<()>,
}

/// Whether the row holds no other hits of this node: peers may have made it, and do not know the name.
fn is_first(counts: Counts, charge: &Charge) -> bool {
    counts.own == u64::from(charge.hits.get())
}

/// Every value, by the number that stands for it.
const WITHOUT_SHARE: [WithoutShare; 3] = [WithoutShare::Deny, WithoutShare::Gossip, WithoutShare::Local];
/// Names kept for the operator: at 128 bytes each, some 3 MB.
const NAMES_MAX: usize = 16_384;
/// Times that a decision gives way to others that reserved before it. Those need a microsecond unless
/// the scheduler takes them off their core; beyond this, it denies: early, never late.
const CONTENTION_ROUNDS_MAX: u32 = 1_000;

impl Limiter {
    /// A limiter with `rules` under the cluster-wide `mode`, holding at most `max_keys` rows (at least
    /// 64, at most 2^30).
    #[must_use]
    pub fn new(rules: Vec<Rule>, mode: SyncMode, significance: Significance, max_keys: u32) -> Self {
        let table = RuleTable::new(Rules::new(rules), mode);
        let counters = Arc::new(Counters::new(max_keys));
        counters.set_schedules(table.schedules());
        Self {
            table: ArcSwap::from_pointee(table),
            counters,
            names: KeyNames::new(NAMES_MAX),
            significance,
            replicas: AtomicU32::new(1),
            generation: AtomicU64::new(0),
            allows_overflow: AtomicBool::new(false),
            without_share: AtomicU8::new(0),
            changing: Mutex::new(()),
        }
    }

    /// The table of counters, shared with replication.
    #[must_use]
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// The rules in force, by their places.
    #[must_use]
    pub fn rules(&self) -> Rules {
        self.table.load().rules.clone()
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
        let mut decision = Decision {
            outcome: Outcome::Admitted,
            windows: SmallVec::new(),
            due: Due::No,
            created: false,
            short: SmallVec::new(),
            without_share: false,
        };
        self.decide(charges, now, &mut decision);
        decision
    }

    /// What [`Limiter::check`] would decide by what is known here. Counts nothing, and asks no peer for rights: a
    /// window of bounded mode is only full when its limit is known to be reached.
    #[must_use]
    pub fn peek(&self, charges: &[Charge], now: UnixMillis) -> Decision {
        let table = self.table.load();
        let mut windows = SmallVec::new();
        let mut fullest: Option<(UnixMillis, usize)> = None;
        for charge in charges {
            for entry in table.windows(charge.rule) {
                let (state, is_full) = self.glance(&Step { entry, charge }, now);
                let end = state.window.end;
                if is_full && fullest.is_none_or(|(last, _)| last < end) {
                    fullest = Some((end, windows.len()));
                }
                windows.push(state);
            }
        }
        Decision {
            outcome: fullest.map_or(Outcome::Admitted, |(_, window)| Outcome::Denied { window }),
            windows,
            due: Due::No,
            created: false,
            short: SmallVec::new(),
            without_share: false,
        }
    }

    /// Begins to fetch from memory what [`Limiter::check`] of the same charges will read. For a caller that has
    /// other work to do in between: with a million keys, that wait is most of a decision. Changes nothing.
    #[inline]
    pub fn prefetch(&self, charges: &[Charge], now: UnixMillis) {
        let table = self.table.load();
        for charge in charges {
            for entry in table.windows(charge.rule) {
                self.prefetch_step(&Step { entry, charge }, now);
            }
        }
    }

    #[inline]
    fn prefetch_step(&self, step: &Step<'_>, now: UnixMillis) {
        if let Some((_, salt)) = step.entry.window_at(now) {
            self.counters.prefetch(step.fingerprint(salt));
        }
    }

    /// Fills in an admission of nothing: a decision is too large to be moved on its way to the caller.
    #[inline(never)]
    fn decide(&self, charges: &[Charge], now: UnixMillis, decision: &mut Decision) {
        let table = self.table.load();
        if let [charge] = charges
            && table.windows(charge.rule).len() == 1
        {
            self.check_one(&table, charge, now, decision);
        } else {
            *decision = self.check_all(&table, charges, now);
        }
    }

    /// The cluster-wide mode as last set. Windows that started before may have the one before.
    #[must_use]
    pub fn mode(&self) -> SyncMode {
        self.table.load().mode
    }

    /// Changes the cluster-wide mode: at once, but where the old or the new one is bounded. There, windows that
    /// start at or before `from` keep the mode they have, and later ones have the new one, those that have begun
    /// too: what was admitted in them stays, and a bounded one has no rights but by shares and grants. The caller
    /// then wakes replication, which finds every row in [`Counters::take_changed`].
    pub fn set_mode(&self, mode: SyncMode, from: UnixMillis) {
        self.change(|table| table.next(table.rules.clone(), mode, from));
    }

    /// Puts other rules in force: at once, but where the old or the new mode of a window is bounded, as
    /// [`Limiter::set_mode`] has it. Counts stay with the rules that keep their name, what they count by and
    /// their periods. The caller then wakes replication.
    pub fn set_rules(&self, rules: Vec<Rule>, from: UnixMillis) {
        self.change(|table| table.next(table.rules.followed_by(rules), table.mode, from));
    }

    /// The periods of which a window that has not ended by `now`, or one that is to come, is in bounded mode:
    /// those that a share may be taken of. Each once, in rising order.
    #[must_use]
    pub fn bounded_periods(&self, now: UnixMillis) -> Vec<Period> {
        self.table.load().bounded_periods(now)
    }

    /// Tells how many replicas share the limits (at least 1): the divisor of [`Significance`].
    pub fn set_replicas(&self, replicas: u32) {
        self.replicas.store(replicas.max(1), Relaxed);
    }

    /// Says what becomes of a request under a bounded rule that finds no room to count in: it is denied,
    /// until this is called.
    pub fn set_overflow(&self, overflow: Overflow) {
        self.allows_overflow.store(overflow == Overflow::Allow, Relaxed);
    }

    pub(super) fn overflow(&self) -> Overflow {
        if self.allows_overflow.load(Relaxed) {
            Overflow::Allow
        } else {
            Overflow::Deny
        }
    }

    /// Says what becomes of a request under a bounded rule while this replica has taken no share of its window: it
    /// is denied unless peers grant rights, until this is called.
    pub fn set_without_share(&self, without_share: WithoutShare) {
        let number = WITHOUT_SHARE.iter().position(|value| *value == without_share);
        let number = number.and_then(|number| u8::try_from(number).ok());
        self.without_share.store(number.unwrap_or(0), Relaxed);
    }

    /// The mode that decides in place of bounded in `window`: none once this replica has a share of it.
    #[cold]
    pub(super) fn fallback(&self, window: Window) -> Option<SyncMode> {
        self.fallback_mode()
            .filter(|_| !self.counters.is_decided(window.start))
    }

    pub(super) fn fallback_mode(&self) -> Option<SyncMode> {
        WITHOUT_SHARE[usize::from(self.without_share.load(Relaxed))].fallback()
    }

    /// Where requests wait for rights.
    #[must_use]
    pub fn waiting(&self) -> &Arc<WaitingRoom> {
        self.counters.waiting()
    }

    /// Tells replication that rights are wanted for the rows of [`Decision::short`], by
    /// [`Counters::take_wanted`]. False when it has too many of them to see to: nobody will ask for these.
    /// The caller then wakes replication, and decides again once rights have come.
    pub fn want(&self, short: &[Short]) -> bool {
        short.iter().all(|short| self.counters.want(*short))
    }

    fn change(&self, next: impl FnOnce(&RuleTable) -> RuleTable) {
        // What it guards is the order of changes; a panic in one leaves the former table in force.
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let table = next(&self.table.load_full());
        self.counters.set_schedules(table.schedules());
        self.generation.store(table.generation, SeqCst);
        self.table.store(Arc::new(table));
        // A decision under the former table may count a row as local after this walk passed it. It reads
        // the generation after counting, and then hands the row to replication itself.
        self.counters.mark_all_changed();
    }

    /// The common case: one rule with one window.
    #[inline]
    fn check_one(&self, table: &RuleTable, charge: &Charge, now: UnixMillis, decision: &mut Decision) {
        let entry = &table.windows(charge.rule)[0];
        let step = Step { entry, charge };
        let mut backoff = Backoff::default();
        for _ in 0..CONTENTION_ROUNDS_MAX {
            let state = match self.offer(&step, Taking::Count, now) {
                Answer::Contended => {
                    backoff.wait();
                    continue;
                }
                Answer::Taken {
                    slot,
                    counts,
                    window,
                    policy,
                    created,
                } => {
                    decision.due = self.counted(table, policy, slot, counts);
                    decision.created = created || is_first(counts, charge);
                    let remaining = policy.limit.saturating_sub(counts.total());
                    step.state(window, policy.limit, remaining, now)
                }
                Answer::Uncounted { window, policy } => step.uncounted(window, policy, now),
                Answer::Refused {
                    short: true, created, ..
                } => {
                    *decision = self.denial(&[step], Stop::Full(0), created, now);
                    return;
                }
                Answer::Refused {
                    window,
                    policy,
                    created,
                    short: false,
                } => {
                    decision.outcome = Outcome::Denied { window: 0 };
                    decision.created = created;
                    step.state(window, policy.limit, 0, now)
                }
            };
            decision.windows.push(state);
            return;
        }
        *decision = self.denial(&[step], Stop::Contended(0), false, now);
    }

    /// Reserves in every window; then counts in all, or gives back and denies.
    #[inline(never)]
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
        steps.iter().for_each(|step| self.prefetch_step(step, now));
        let mut backoff = Backoff::default();
        let mut created_any = false;
        let mut stop = Stop::Contended(0);
        for _ in 0..CONTENTION_ROUNDS_MAX {
            match self.reserve(&steps, now, &mut created_any) {
                Ok(held) => return self.commit(table, &steps, &held, created_any, now),
                Err(full @ Stop::Full(_)) => return self.denial(&steps, full, created_any, now),
                Err(contended @ Stop::Contended(_)) => {
                    stop = contended;
                    backoff.wait();
                }
            }
        }
        self.denial(&steps, stop, created_any, now)
    }

    /// Reserves the hits of all `steps`, or of none.
    fn reserve(&self, steps: &[Step<'_>], now: UnixMillis, created_any: &mut bool) -> Result<Held, Stop> {
        let mut held = Held::new();
        for (at, step) in steps.iter().enumerate() {
            let stop = match self.offer(step, Taking::Reserve, now) {
                Answer::Taken {
                    slot,
                    window,
                    policy,
                    created,
                    ..
                } => {
                    *created_any |= created;
                    let slot = Some(slot);
                    held.push(Hold { slot, window, policy });
                    continue;
                }
                Answer::Uncounted { window, policy } => {
                    held.push(Hold {
                        slot: None,
                        window,
                        policy,
                    });
                    continue;
                }
                Answer::Refused { created, .. } => {
                    *created_any |= created;
                    Stop::Full(at)
                }
                Answer::Contended => Stop::Contended(at),
            };
            for (hold, step) in held.iter().zip(steps) {
                if let Some(slot) = hold.slot {
                    self.counters.release(slot, step.charge.hits);
                }
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
        let mut due = Due::No;
        let windows = held.iter().zip(steps).map(|(hold, step)| {
            let Hold { slot, window, policy } = *hold;
            let Some(slot) = slot else {
                return step.uncounted(window, policy, now);
            };
            let counts = policy.seen(self.counters.commit(slot, step.charge.hits));
            due = due.max(self.counted(table, policy, slot, counts));
            created |= is_first(counts, step.charge);
            step.state(
                window,
                policy.limit,
                policy.limit.saturating_sub(counts.total()),
                now,
            )
        });
        let windows = windows.collect();
        Decision {
            outcome: Outcome::Admitted,
            windows,
            due,
            created,
            short: SmallVec::new(),
            without_share: false,
        }
    }

    /// Hands a row that was counted in by `policy` to replication.
    #[inline]
    fn counted(&self, table: &RuleTable, policy: Policy, slot: u32, counts: Counts) -> Due {
        if policy.mode == SyncMode::Local {
            // The mode may have changed meanwhile, or stand in for bounded.
            if self.generation.load(SeqCst) != table.generation || self.fallback_mode().is_some() {
                self.counters.mark_changed(slot);
            }
            return Due::No;
        }
        self.counters.mark_changed(slot);
        let unsent = counts.own.saturating_sub(counts.published);
        if policy.mode == SyncMode::Bounded {
            let is_due = self.significance.is_due(unsent, counts.rights(), 1);
            return if is_due { Due::Wake } else { Due::No };
        }
        let (limit, replicas) = (policy.limit, self.replicas.load(Relaxed));
        let remaining = limit.saturating_sub(counts.total());
        let is_due = self.significance.is_due(unsent, remaining, replicas)
            && !self
                .significance
                .is_held_back(counts.own, counts.total(), limit, replicas);
        if is_due { Due::Await } else { Due::No }
    }
}
