//! What a denied request is told: which window stopped it, what is left of the others, and which rows were
//! only short of rights.

use smallvec::SmallVec;

use super::counters::{Counts, RowRef, Short};
use super::limiter::{Decision, Due, Limiter, Outcome, WindowState};
use super::mode::SyncMode;
use super::schedule::Policy;
use super::step::{Step, Stop};
use super::time::UnixMillis;
use super::window::Window;

/// One step of a denied request, looked at once more.
struct Look {
    window: Window,
    policy: Policy,
    row: Option<RowRef>,
    counts: Counts,
}

/// Whether a step stops the request.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Fits,
    /// For want of rights alone.
    Short(Short),
    Stops,
}

impl Limiter {
    /// A denial by the step that `stop` names, and by every other one whose window has no room either. Those
    /// show nothing left; the others show what is unconsumed.
    #[cold]
    pub(super) fn denial(&self, steps: &[Step<'_>], stop: Stop, created: bool, now: UnixMillis) -> Decision {
        let (Stop::Full(stopping) | Stop::Contended(stopping)) = stop;
        let mut denied_by = None;
        let mut windows: SmallVec<[WindowState; 4]> = SmallVec::new();
        let mut short = SmallVec::new();
        let mut rights_help = true;
        for (at, step) in steps.iter().enumerate() {
            let look = self.look(step, now);
            let verdict = step.verdict(&look, (at == stopping).then_some(stop));
            match verdict {
                Verdict::Short(row) => short.push(row),
                Verdict::Stops => rights_help = false,
                Verdict::Fits => {}
            }
            let stops = verdict != Verdict::Fits;
            if stops && denied_by.is_none_or(|(end, _)| end < look.window.end) {
                denied_by = Some((look.window.end, at));
            }
            let limit = look.policy.limit;
            let unused = limit.saturating_sub(look.counts.total());
            windows.push(step.state(look.window, limit, if stops { 0 } else { unused }, now));
        }
        if !rights_help {
            short.clear();
        }
        let window = denied_by.map_or(stopping, |(_, at)| at);
        let start = windows[window].window.start;
        let is_bounded = steps[window].entry.schedule.at(start).mode == SyncMode::Bounded;
        Decision {
            outcome: Outcome::Denied { window },
            windows,
            due: Due::No,
            created,
            short,
            without_share: is_bounded && !self.counters().is_decided(start) && self.fallback_mode().is_none(),
        }
    }

    /// The state of one window, and whether the step's hits would pass its limit.
    pub(super) fn glance(&self, step: &Step<'_>, now: UnixMillis) -> (WindowState, bool) {
        let look = self.look(step, now);
        let is_full = step.passes_limit(look.counts, look.policy);
        let limit = look.policy.limit;
        let unused = limit.saturating_sub(look.counts.total());
        let remaining = if is_full { 0 } else { unused };
        (step.state(look.window, limit, remaining, now), is_full)
    }

    fn look(&self, step: &Step<'_>, now: UnixMillis) -> Look {
        let group = step.entry.group_at(self.counters(), now);
        let (window, row, counts) = match group.as_ref() {
            None => (step.entry.period.window_at(now), None, Counts::default()),
            Some(group) => {
                let (row, counts) = self.counters().peek(group, group.fingerprint(step.charge.key));
                (group.window, row, counts)
            }
        };
        let mut policy = step.entry.schedule.at(window.start);
        if policy.mode == SyncMode::Bounded {
            policy.mode = self.fallback(window).unwrap_or(policy.mode);
        }
        Look {
            window,
            policy,
            row,
            counts: policy.seen(counts),
        }
    }
}

impl Step<'_> {
    /// `stop` is how this step stopped the request, if it did. It did so on what it saw then: rights that
    /// came since do not undo a denial, but asking once more will find them.
    fn verdict(&self, look: &Look, stop: Option<Stop>) -> Verdict {
        if self.passes_limit(look.counts, look.policy) {
            return Verdict::Stops;
        }
        let hits = u64::from(self.charge.hits.get());
        let was_refused = matches!(stop, Some(Stop::Full(_)));
        match look.row {
            Some(row)
                if look.policy.mode == SyncMode::Bounded && (hits > look.counts.rights() || was_refused) =>
            {
                Verdict::Short(Short { row, hits })
            }
            _ if stop.is_some() => Verdict::Stops,
            _ => Verdict::Fits,
        }
    }
}
