//! The most used counters, for an operator to read.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::cluster::{RowCount, RowCounts};
use crate::limit::{Limiter, Period, RowRef, RowView, Rule, RuleId, Rules, UnixMillis};

use super::Node;
use super::views::{LimitView, LimitsView, ReplicaView, rfc3339};

/// Goes through the counters for one request at a time: a table of a million takes a good part of a second.
pub(super) struct Sweeps(Arc<Semaphore>);

impl Sweeps {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }

    /// [`sweep`], off the thread that answers probes. One that nobody waits for any more ends by itself, and holds the
    /// next up until then, so that they never pile up.
    async fn run(&self, node: &Arc<dyn Node>, shown: usize) -> (u64, Vec<(RowRef, RowView)>) {
        let node = Arc::clone(node);
        let turn = Arc::clone(&self.0).acquire_owned().await.expect("never closed");
        let swept = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            sweep(node.limiter(), node.now(), shown)
        });
        swept.await.expect("a sweep does not panic")
    }
}

/// The `shown` most used counters of windows that have not ended.
pub(super) async fn most_used(node: &Arc<dyn Node>, sweeps: &Sweeps, shown: usize) -> LimitsView {
    let (live_keys, top) = sweeps.run(node, shown).await;
    let counts = node.row_counts(top.iter().map(|(row, _)| *row).collect()).await;
    let rules = node.limiter().rules();
    let periods = periods_by_id(&rules);
    let mut counts = counts.into_iter();
    let view = |(_, row): (RowRef, RowView)| {
        let counts = counts.next().unwrap_or_default();
        let name = node.limiter().names().name(row.key.key);
        limit_view(&row, periods.get(&row.key.rule).copied(), name, counts)
    };
    LimitsView {
        live_keys,
        limits: top.into_iter().map(view).collect(),
    }
}

/// Counts the live rows and keeps the `shown` largest in a heap of that size, so that a million keys
/// cost one pass and little memory.
fn sweep(limiter: &Limiter, now: UnixMillis, shown: usize) -> (u64, Vec<(RowRef, RowView)>) {
    let mut live = 0;
    // The least used stands on top of the heap, and makes way. Ties go to the earlier slot.
    let mut top = BinaryHeap::with_capacity(shown + 1);
    let counters = limiter.counters();
    counters.for_each_live(|row, view| {
        if view.key.window.end <= now {
            return;
        }
        live += 1;
        top.push((Reverse(total(&view)), row));
        if top.len() > shown {
            top.pop();
        }
    });
    let rows = top.into_sorted_vec().into_iter();
    // A row may have been evicted since.
    (
        live,
        rows.filter_map(|(_, row)| Some((row, counters.view(row)?)))
            .collect(),
    )
}

fn total(row: &RowView) -> u64 {
    row.total()
}

fn periods_by_id(rules: &Rules) -> HashMap<RuleId, (&Rule, Period)> {
    let windows = |rule: &'_ Rule| {
        rule.windows
            .iter()
            .map(|window| window.period)
            .collect::<Vec<_>>()
    };
    let pairs = rules
        .iter()
        .flat_map(|(_, rule)| windows(rule).into_iter().map(move |period| (rule, period)));
    pairs
        .map(|(rule, period)| (rule.id(period), (rule, period)))
        .collect()
}

fn limit_view(
    row: &RowView,
    rule: Option<(&Rule, Period)>,
    name: Option<String>,
    counts: RowCounts,
) -> LimitView {
    let (own, peers) = admitted(row, &counts);
    LimitView {
        rule: rule.map(|(rule, _)| rule.name.clone()),
        by: rule.map(|(rule, _)| rule.count_by.to_string()),
        key: format!("{:032x}", row.key.key.0),
        name,
        period: rule.map(|(_, period)| period.to_string()),
        window_start: rfc3339(row.key.window.start),
        window_end: rfc3339(row.key.window.end),
        limit: row.limit,
        own,
        peers,
        total: own.saturating_add(peers),
        remaining: row.limit.map(|limit| limit.saturating_sub(total(row))),
        rights: row.bounded.then(|| row.rights()),
        replicas: counts
            .into_iter()
            .map(|count| (count.replica.to_string(), replica_view(&count)))
            .collect(),
    }
}

fn replica_view(count: &RowCount) -> ReplicaView {
    ReplicaView {
        admitted: count.admitted,
        granted: count.granted,
    }
}

/// What this node and the others admitted. In bounded mode the row itself says what is not to be had: its own count
/// has what was granted, and its peers' what no live node has.
fn admitted(row: &RowView, counts: &[RowCount]) -> (u64, u64) {
    if !row.bounded || counts.is_empty() {
        return (row.own, row.peers);
    }
    let sum = |own| {
        let counts = counts.iter().filter(|count| count.is_own == own);
        counts.map(|count| count.admitted).fold(0, u64::saturating_add)
    };
    (sum(true), sum(false))
}
