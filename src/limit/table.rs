//! The rules as a decision reads them: ids, limits and header names worked out beforehand.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU64, fence};

use arc_swap::{ArcSwapOption, Guard};
use smallvec::SmallVec;

use super::counters::{Claim, Counters, Group};
use super::headers::HeaderNames;
use super::key::RuleId;
use super::mode::SyncMode;
use super::rule::{Rule, WindowLimit};
use super::rules::Rules;
use super::schedule::{Policy, Schedule};
use super::time::UnixMillis;
use super::window::{Period, Window};

/// The rules under one cluster-wide mode. Replaced as a whole.
pub(super) struct RuleTable {
    pub(super) rules: Rules,
    pub(super) mode: SyncMode,
    /// Counts the tables: a decision that began under an older one can tell.
    pub(super) generation: u64,
    pub(super) header_names: Arc<HeaderNames>,
    entries: Vec<SmallVec<[WindowEntry; 4]>>,
}

/// One window of one rule.
pub(super) struct WindowEntry {
    pub(super) id: RuleId,
    pub(super) period: Period,
    pub(super) schedule: Schedule,
    /// The group of the window in progress, so that neither calendar nor registry is asked each time.
    current: ArcSwapOption<Group>,
    /// The two things of it that a decision needs when the row exists.
    recent: Recent,
}

impl RuleTable {
    /// The first table of a limiter: all windows have the policies of `rules`.
    pub(super) fn new(rules: Rules, mode: SyncMode) -> Self {
        Self::with(rules, mode, 0, |_, policy, _| policy.into())
    }

    /// The table that follows this one. Where bounded mode is involved, windows that start at or before `from`
    /// keep their policies: see [`Schedule::change`].
    pub(super) fn next(&self, rules: Rules, mode: SyncMode, from: UnixMillis) -> Self {
        let former = self.schedules();
        Self::with(rules, mode, self.generation + 1, |id, policy, period| {
            let former = former.get(&id);
            former.map_or_else(|| policy.into(), |former| former.change(policy, from, period))
        })
    }

    fn with(
        rules: Rules,
        mode: SyncMode,
        generation: u64,
        schedule: impl Fn(RuleId, Policy, Period) -> Schedule,
    ) -> Self {
        let entry = |rule: &Rule, window: &WindowLimit| {
            let policy = Policy {
                limit: window.limit.hits(),
                mode: rule.mode.unwrap_or(mode),
            };
            let id = rule.id(window.period);
            WindowEntry {
                id,
                period: window.period,
                schedule: schedule(id, policy, window.period),
                current: ArcSwapOption::empty(),
                recent: Recent::default(),
            }
        };
        let entries_of = |rule: &Rule| rule.windows.iter().map(|window| entry(rule, window)).collect();
        let entries = rules
            .places()
            .iter()
            .map(|rule| rule.as_ref().map_or_else(SmallVec::new, entries_of))
            .collect();
        let periods = rules
            .iter()
            .flat_map(|(_, rule)| &rule.windows)
            .map(|window| window.period);
        let header_names = Arc::new(HeaderNames::new(periods));
        Self {
            rules,
            mode,
            generation,
            header_names,
            entries,
        }
    }

    /// The windows of a rule; none where no rule is in force.
    #[inline]
    pub(super) fn windows(&self, rule: usize) -> &[WindowEntry] {
        self.entries.get(rule).map_or(&[], SmallVec::as_slice)
    }

    pub(super) fn schedules(&self) -> HashMap<RuleId, Schedule> {
        let entries = self.entries.iter().flatten();
        entries.map(|entry| (entry.id, entry.schedule.clone())).collect()
    }

    /// The periods with a window that has not ended by `now`, or is to come, in bounded mode; each once.
    pub(super) fn bounded_periods(&self, now: UnixMillis) -> Vec<Period> {
        let entries = self.entries.iter().flatten();
        let bounded = entries.filter(|entry| entry.schedule.is_bounded(now, entry.period));
        let mut periods: Vec<_> = bounded.map(|entry| entry.period).collect();
        periods.sort_unstable();
        periods.dedup();
        periods
    }
}

impl WindowEntry {
    /// The group of the window that contains `now`; `None` at the bound of groups.
    #[inline]
    pub(super) fn group_at(&self, counters: &Counters, now: UnixMillis) -> Guard<Option<Arc<Group>>> {
        let current = self.current.load();
        match &*current {
            Some(group) if group.window.contains(now) && !group.is_closed() => current,
            _ => Guard::from_inner(self.turn(counters, now)),
        }
    }

    #[cold]
    fn turn(&self, counters: &Counters, now: UnixMillis) -> Option<Arc<Group>> {
        let group = counters.group(self.id, self.period.window_at(now), Claim::Request, now);
        self.current.store(group.clone());
        if let Some(group) = &group {
            self.recent.store(group.window, group.salt());
        }
        group
    }

    /// The window that contains `now` and the salt of its group, if it was looked up before.
    #[inline]
    pub(super) fn window_at(&self, now: UnixMillis) -> Option<(Window, u128)> {
        self.recent.load().filter(|(window, _)| window.contains(now))
    }
}

/// A window and its salt, read without a shared write: a sequence lock whose readers and writers give up
/// rather than wait. `version` is odd while the words change.
#[derive(Default)]
struct Recent {
    version: AtomicU64,
    start: AtomicU64,
    end: AtomicU64,
    salt_low: AtomicU64,
    salt_high: AtomicU64,
}

impl Recent {
    #[inline]
    fn load(&self) -> Option<(Window, u128)> {
        let version = self.version.load(Acquire);
        let start = UnixMillis(self.start.load(Relaxed));
        let end = UnixMillis(self.end.load(Relaxed));
        let low = u128::from(self.salt_low.load(Relaxed));
        let salt = u128::from(self.salt_high.load(Relaxed)) << 64 | low;
        // A word of a later change brings, by the writer's Release fence, the odd version with it.
        fence(Acquire);
        let whole = version.is_multiple_of(2) && self.version.load(Relaxed) == version;
        whole.then_some((Window { start, end }, salt))
    }

    #[expect(clippy::cast_possible_truncation, reason = "the two halves")]
    fn store(&self, window: Window, salt: u128) {
        let version = self.version.load(Relaxed);
        let free = version.is_multiple_of(2);
        if !free
            || self
                .version
                .compare_exchange(version, version + 1, Acquire, Relaxed)
                .is_err()
        {
            return;
        }
        fence(Release);
        self.start.store(window.start.0, Relaxed);
        self.end.store(window.end.0, Relaxed);
        self.salt_low.store(salt as u64, Relaxed);
        self.salt_high.store((salt >> 64) as u64, Relaxed);
        self.version.store(version + 2, Release);
    }
}
