//! What bounded mode promises, held against every admission: the hits that all nodes admitted for one key in one
//! window never exceed its limit.
//!
//! What it does not promise is left out by these rules and no others (docs/bounded.md, §3.3):
//!
//! 1. A window that no node decided as bounded is not judged.
//! 2. A window that some nodes decided as bounded and some did not is not judged where it started after a switch
//!    away from bounded mode, of which some may hear late.
//! 3. Nor where it started no later than the switch to bounded mode was to hold: until then others decide by the
//!    former mode.
//! 4. Nor where whoever did not decide it as bounded had started after the last switch, with another mode in its
//!    configuration, and had not heard of the switch.

use std::collections::BTreeMap;

use crate::limit::{RowKey, UnixMillis};
use crate::replication::codec::{Body, decode};

use super::oracle::Violation;
use super::world::World;

/// One admission, or a part of it: hits of one row.
#[derive(Clone, Copy, Debug)]
pub(super) struct Admission {
    pub(super) row: RowKey,
    pub(super) limit: u64,
    pub(super) hits: u64,
    /// Decided as bounded.
    pub(super) is_bounded: bool,
    /// By a node that started after the last switch.
    pub(super) by_newcomer: bool,
}

/// What was admitted of one row.
#[derive(Clone, Copy, Debug, Default)]
struct Judged {
    bounded: u64,
    free: u64,
    is_exempt: bool,
}

/// Sums up admissions.
#[derive(Debug, Default)]
pub(super) struct Promise {
    rows: BTreeMap<RowKey, Judged>,
    /// Windows that start later may be decided by other modes.
    away_from: Option<UnixMillis>,
    /// Windows that start later are to be decided as bounded, by whoever has heard of it.
    bounded_from: Option<UnixMillis>,
    /// Admissions judged.
    pub(super) judged: u64,
    /// Rows that came to exactly their limit.
    pub(super) filled: u64,
}

impl Promise {
    /// The cluster is switched away from bounded mode at `now`, by the clock of whom that was asked of.
    pub(super) fn switched_away(&mut self, now: UnixMillis) {
        self.away_from.get_or_insert(now);
    }

    /// The cluster is switched to bounded mode, for windows that start after `from`.
    pub(super) fn switched_to_bounded(&mut self, from: UnixMillis) {
        self.bounded_from = self.bounded_from.max(Some(from));
    }

    /// Judges an admission.
    pub(super) fn admitted(&mut self, admission: &Admission) -> Result<(), String> {
        let Admission { row, limit, hits, .. } = *admission;
        let judged = self.rows.entry(row).or_default();
        if admission.is_bounded {
            judged.bounded += hits;
        } else {
            judged.free += hits;
            let after_switch = self.away_from.is_some_and(|from| row.window.start > from);
            let before_switch = self.bounded_from.is_some_and(|from| row.window.start <= from);
            judged.is_exempt |= admission.by_newcomer || after_switch || before_switch;
        }
        if judged.bounded == 0 || judged.is_exempt {
            return Ok(());
        }
        self.judged += 1;
        let admitted = judged.bounded + judged.free;
        self.filled += u64::from(admitted == limit);
        if admitted > limit {
            return Err(format!("{admitted} of {limit} admitted of {row:?} ({judged:?})"));
        }
        Ok(())
    }

    /// What was admitted of `row` so far, if it is judged and nobody decided it by another mode.
    pub(super) fn spent(&self, row: &RowKey) -> Option<u64> {
        let judged = self.rows.get(row).copied().unwrap_or_default();
        (judged.free == 0).then_some(judged.bounded)
    }
}

impl World {
    /// A bounded row consumed what it admitted and granted, no more and no less: nothing leaks, whatever was
    /// reserved and given back. Once its window has ended here, it may have been evicted: if it comes back, then at
    /// what the highest row evicted of its window had consumed, and without rights.
    pub(super) fn check_consumed(&self, node: usize, row: &RowKey) -> Result<(), Violation> {
        let at = &self.nodes[node];
        let counters = at.limiter.counters();
        let found = counters
            .find(row)
            .and_then(|found| Some((found, counters.view(found)?)));
        let Some((found, view)) = found.filter(|(_, view)| view.bounded) else {
            return Ok(());
        };
        let admitted = self.oracle.admitted_by(row, &at.replica);
        let granted = at.replication.granted(found).into_iter();
        let granted = granted.filter(|(by, _)| *by == at.replica).map(|(_, hits)| hits);
        let granted: u64 = granted.sum();
        let consumed = admitted + granted;
        let came_back = self.is_over(node, row) && view.own > consumed && view.rights() == 0;
        if view.own != consumed && !came_back && self.sabotage().is_none() {
            return Err(self.violation(format!(
                "n{node} admitted {admitted} and granted {granted} of {row:?}, and consumed {}",
                view.own
            )));
        }
        Ok(())
    }

    /// All that may yet be admitted of a row, with what was, is within the limit.
    pub(super) fn check_rights(&self, row: &RowKey, limit: u64) -> Result<(), Violation> {
        let Some(spent) = self.promise.spent(row) else {
            return Ok(());
        };
        let spenders = self
            .serving()
            .into_iter()
            .filter(|node| !self.is_over(*node, row));
        let left: Vec<(usize, u64)> = spenders.map(|node| (node, self.rights_left(node, row))).collect();
        let most = left.iter().map(|(_, left)| left).sum::<u64>() + spent;
        if most > limit {
            return Err(self.violation(format!(
                "{spent} of {limit} admitted of {row:?}, and there are rights left: {left:?}"
            )));
        }
        Ok(())
    }

    /// The rows of which a frame that `node` took in spoke of rights.
    pub(super) fn check_transferred(&self, node: usize, frame: &[u8]) -> Result<(), Violation> {
        let Ok(Body::Transfers(transfers)) = decode(frame).map(|frame| frame.body) else {
            return Ok(());
        };
        for transfer in transfers {
            let counters = self.nodes[node].limiter.counters();
            let view = counters
                .find(&transfer.key)
                .and_then(|found| counters.view(found));
            if let Some(limit) = view.and_then(|view| view.limit) {
                self.check_consumed(node, &transfer.key)?;
                self.check_rights(&transfer.key, limit)?;
            }
        }
        Ok(())
    }

    fn is_over(&self, node: usize, row: &RowKey) -> bool {
        row.window.end <= self.nodes[node].now(self.now).wall
    }

    fn rights_left(&self, node: usize, row: &RowKey) -> u64 {
        let counters = self.nodes[node].limiter.counters();
        let view = counters.find(row).and_then(|found| counters.view(found));
        view.filter(|view| view.bounded).map_or(0, |view| view.rights())
    }
}
