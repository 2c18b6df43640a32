//! Requests that wait for rights, in virtual time: the steps of the proxy's wait, without its runtime.

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use smallvec::SmallVec;

use crate::limit::{Charge, Decision, Outcome, RowKey, Waiting, Woken};

use super::oracle::Violation;
use super::promise::Admission;
use super::world::{Event, World};

/// One request in bounded mode.
#[derive(Clone, Debug)]
pub struct Request {
    /// What it is charged, each to another rule.
    pub charges: SmallVec<[Charge; 2]>,
    /// How long it waits for rights at most.
    pub wait: Duration,
    /// Its client goes away after so long, unless it was answered.
    pub stays: Duration,
}

/// What became of requests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WaitReport {
    /// Admitted at once.
    pub at_once: u64,
    /// Admitted after waiting.
    pub served: u64,
    /// Denied at once.
    pub denied: u64,
    /// Denied after waiting until nobody had any rights.
    pub exhausted: u64,
    /// Denied at their deadline.
    pub timed_out: u64,
    /// Denied because too many waited.
    pub turned_away: u64,
    /// Gone while they waited.
    pub gone: u64,
    /// How long those that were served waited.
    pub waits: Vec<Duration>,
}

impl std::ops::AddAssign for WaitReport {
    fn add_assign(&mut self, other: Self) {
        self.at_once += other.at_once;
        self.served += other.served;
        self.denied += other.denied;
        self.exhausted += other.exhausted;
        self.timed_out += other.timed_out;
        self.turned_away += other.turned_away;
        self.gone += other.gone;
        self.waits.extend(other.waits);
    }
}

impl WaitReport {
    /// Of the waits of those that were served, the one that so many of a hundred do not exceed.
    #[must_use]
    pub fn percentile(&self, percent: usize) -> Option<Duration> {
        let mut waits = self.waits.clone();
        waits.sort_unstable();
        let rank = (waits.len() * percent).div_ceil(100).max(1);
        waits.get(rank - 1).copied()
    }
}

/// A request that waits.
struct Waiter {
    node: usize,
    request: Request,
    since: Duration,
    waiting: Waiting<'static>,
}

/// Why a wait ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Served,
    Exhausted,
    TimedOut,
}

/// Those who wait, and whom to look at.
#[derive(Default)]
pub(super) struct Waits {
    waiters: BTreeMap<u64, Waiter>,
    rung: Arc<Mutex<VecDeque<u64>>>,
    serial: u64,
    pub(super) report: WaitReport,
}

/// Says which request was woken.
struct Bell {
    waiter: u64,
    rung: Arc<Mutex<VecDeque<u64>>>,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        lock(&self.rung).push_back(self.waiter);
    }
}

fn lock(rung: &Mutex<VecDeque<u64>>) -> MutexGuard<'_, VecDeque<u64>> {
    rung.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Waits {
    /// Drops all who wait at `node`.
    pub(super) fn abandon(&mut self, node: usize) {
        let before = self.waiters.len();
        self.waiters.retain(|_, waiter| waiter.node != node);
        self.report.gone += (before - self.waiters.len()) as u64;
    }
}

impl World {
    /// A client asks `node` now; whether it waits, and what becomes of it, is in [`World::waits`].
    ///
    /// # Errors
    /// The first invariant that does not hold.
    pub fn arrive(&mut self, node: usize, request: Request) -> Result<(), Violation> {
        self.oracle.offered += 1;
        let denied = self.decide(node, &request.charges)?;
        if denied.outcome == Outcome::Admitted {
            self.waits.report.at_once += 1;
        } else if denied.short.is_empty() {
            self.waits.report.denied += 1;
        } else if request.wait.is_zero() {
            self.waits.report.denied += 1;
            self.want(node, &denied)?;
        } else if let Some(waiting) = self.enter(node, &denied)? {
            self.wait(node, request, waiting)?;
        } else {
            self.waits.report.turned_away += 1;
        }
        self.serve()
    }

    /// What became of the requests so far.
    #[must_use]
    pub fn waits(&self) -> &WaitReport {
        &self.waits.report
    }

    /// Requests that wait now.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waits.waiters.len()
    }

    fn wait(&mut self, node: usize, request: Request, waiting: Waiting<'static>) -> Result<(), Violation> {
        self.waits.serial += 1;
        let id = self.waits.serial;
        let since = self.now;
        let is_given_up = request.stays < request.wait;
        let until = since + request.wait.min(request.stays);
        let waiter = Waiter {
            node,
            request,
            since,
            waiting,
        };
        self.at(
            until,
            Event::WaitOver {
                waiter: id,
                is_given_up,
            },
        );
        self.go_on(id, waiter, None, true)
    }

    /// The patience of a waiter is over, or that of its client.
    pub(super) fn wait_over(&mut self, id: u64, is_given_up: bool) -> Result<(), Violation> {
        let Some(waiter) = self.waits.waiters.remove(&id) else {
            return Ok(());
        };
        if is_given_up {
            self.waits.report.gone += 1;
            return Ok(());
        }
        self.go_on(id, waiter, Some(End::TimedOut), true)
    }

    /// Lets those go on who were woken.
    pub(super) fn serve(&mut self) -> Result<(), Violation> {
        loop {
            let Some(id) = lock(&self.waits.rung).pop_front() else {
                return Ok(());
            };
            if let Some(waiter) = self.waits.waiters.remove(&id) {
                self.go_on(id, waiter, None, false)?;
            }
        }
    }

    /// Decides again until the request has to wait, or is answered.
    fn go_on(
        &mut self,
        id: u64,
        mut waiter: Waiter,
        mut end: Option<End>,
        mut decides: bool,
    ) -> Result<(), Violation> {
        loop {
            if decides {
                let decision = self.decide(waiter.node, &waiter.request.charges)?;
                if decision.outcome == Outcome::Admitted {
                    end = Some(End::Served);
                } else if decision.short.is_empty() {
                    end = Some(End::Exhausted);
                }
                if let Some(end) = end {
                    self.ended(&waiter, end);
                    return Ok(());
                }
                if !waiter.waiting.is_for(&decision.short) {
                    match self.enter(waiter.node, &decision)? {
                        Some(entered) => waiter.waiting = entered,
                        None => end = Some(End::TimedOut),
                    }
                    continue;
                }
            }
            decides = true;
            let bell = Bell {
                waiter: id,
                rung: Arc::clone(&self.waits.rung),
            };
            let waker = Waker::from(Arc::new(bell));
            match Pin::new(&mut waiter.waiting).poll(&mut Context::from_waker(&waker)) {
                Poll::Pending => {
                    self.waits.waiters.insert(id, waiter);
                    return Ok(());
                }
                Poll::Ready(Woken::Retry) => {}
                Poll::Ready(Woken::Exhausted) => end = Some(End::Exhausted),
            }
        }
    }

    fn ended(&mut self, waiter: &Waiter, end: End) {
        let report = &mut self.waits.report;
        match end {
            End::Served => {
                report.served += 1;
                report.waits.push(self.now - waiter.since);
            }
            End::Exhausted => report.exhausted += 1,
            End::TimedOut => report.timed_out += 1,
        }
    }

    /// Enters the room, and then has peers asked.
    fn enter(&mut self, node: usize, denied: &Decision) -> Result<Option<Waiting<'static>>, Violation> {
        let waiting = self.nodes[node].limiter.waiting().enter_shared(&denied.short);
        let Some(waiting) = waiting else {
            return Ok(None);
        };
        Ok(self.want(node, denied)?.then_some(waiting))
    }

    fn want(&mut self, node: usize, denied: &Decision) -> Result<bool, Violation> {
        let is_wanted = self.nodes[node].limiter.want(&denied.short);
        self.announce(node)?;
        Ok(is_wanted)
    }

    /// Wakes the gossip thread of `node`.
    fn announce(&mut self, node: usize) -> Result<(), Violation> {
        let now = self.nodes[node].now(self.now);
        self.nodes[node].replication.handle_local_change(now);
        self.settle(node, &[])
    }

    fn decide(&mut self, node: usize, charges: &[Charge]) -> Result<Decision, Violation> {
        let at = &self.nodes[node];
        let decision = at.limiter.check(charges, at.now(self.now).wall);
        let mut rows: SmallVec<[(RowKey, u64, u64); 4]> = SmallVec::new();
        for state in &decision.windows {
            let charge = charges.iter().find(|charge| charge.rule == state.rule);
            if let Some(charge) = charge {
                let row = RowKey {
                    rule: at.limiter.rules()[state.rule].id(state.period),
                    window: state.window,
                    key: charge.key,
                };
                rows.push((row, state.limit, u64::from(charge.hits.get())));
            }
        }
        let is_admitted = decision.outcome == Outcome::Admitted;
        self.note(|| {
            format!(
                "n{node} {:?} {rows:x?} short {:?}",
                decision.outcome, decision.short
            )
        });
        for (row, limit, hits) in &rows {
            if is_admitted {
                self.admit(node, *row, *limit, *hits)?;
            }
        }
        self.oracle.total += u64::from(is_admitted);
        for (row, limit, _) in rows.iter().filter(|_| self.config.judge) {
            self.check_consumed(node, row)?;
            if is_admitted {
                self.check_rights(row, *limit)?;
            }
        }
        if decision.due.is_due() {
            self.announce(node)?;
        }
        Ok(decision)
    }

    fn admit(&mut self, node: usize, row: RowKey, limit: u64, hits: u64) -> Result<(), Violation> {
        let at = &self.nodes[node];
        let counters = at.limiter.counters();
        let view = counters.find(&row).and_then(|found| counters.view(found));
        self.oracle.count(row, &at.replica, hits);
        let admission = Admission {
            row,
            limit,
            hits,
            is_bounded: view.is_some_and(|view| view.bounded),
            by_newcomer: at.started() >= self.switched_at,
        };
        let judged = self.promise.admitted(&admission);
        judged.map_err(|what| self.violation(format!("n{node}: {what}")))
    }
}
