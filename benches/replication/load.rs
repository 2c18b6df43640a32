//! The load of one node, and the watch for its peers' changes.
//!
//! Clients reach all nodes alike, so all change the same keys, each at its own pace. Beside these each node
//! changes a few keys that are its alone, at times that everybody knows: the samples. Peers look for each from
//! then on until they have it. A sample's key comes again after a while and counts one higher.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use weir::cluster::Flusher;
use weir::limit::{Charge, Hits, KeyHash, Limiter, Outcome, RowKey};

use super::node::wall;
use super::{Setting, monotonic};

/// The loaded keys: as many as are changed in so many ticks.
pub(crate) const LOAD_POOL_TICKS: u32 = 10;

/// The keys of one node's samples.
pub(crate) const SAMPLE_POOL: u32 = 200;

/// Time between two samples of one node, on average.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(25);

/// Who has not got a sample by then is not looked at any longer: a cluster that falls behind must not be slowed
/// further by the looking. Such samples are lost.
const GIVE_UP: Duration = Duration::from_secs(2);

const TICK: Duration = Duration::from_millis(100);

const LOAD_RULE: usize = 0;
const SAMPLE_RULE: usize = 1;

/// A sample: the `number`th of node `of`.
#[derive(Clone, Copy)]
struct Sample {
    of: usize,
    number: u32,
}

/// See the head of this file.
pub(crate) struct Load {
    index: usize,
    nodes: usize,
    keys: u32,
    limiter: Arc<Limiter>,
    start: Duration,
    /// Loaded keys changed so far.
    done: u64,
    /// By node: its next sample.
    next: Vec<u32>,
    /// When this node changed its samples.
    changed: Vec<(u32, Duration)>,
    waiting: VecDeque<Sample>,
    seen: Vec<(Sample, Duration)>,
}

/// Spreads small numbers over all bits (SplitMix64, Steele et al. 2014).
fn mixed(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn key(kind: u64, number: u64) -> KeyHash {
    let low = mixed(kind << 48 | number);
    KeyHash(u128::from(mixed(low)) << 64 | u128::from(low))
}

impl Sample {
    /// Any time within its interval, so that samples and ticks do not keep step.
    fn due(self, start: Duration) -> Duration {
        let within =
            mixed((self.of as u64) << 32 | u64::from(self.number)) % SAMPLE_INTERVAL.as_micros() as u64;
        start + SAMPLE_INTERVAL * self.number + Duration::from_micros(within)
    }

    fn key(self) -> KeyHash {
        key(1 + self.of as u64, u64::from(self.number % SAMPLE_POOL))
    }

    /// What the key's count is once this sample was taken.
    fn count(self) -> u64 {
        u64::from(self.number / SAMPLE_POOL) + 1
    }
}

impl Load {
    pub(crate) fn new(index: usize, setting: &Setting, limiter: Arc<Limiter>, start: Duration) -> Self {
        Self {
            index,
            nodes: setting.nodes,
            keys: setting.keys,
            limiter,
            start,
            done: 0,
            next: vec![0; setting.nodes],
            changed: Vec::new(),
            waiting: VecDeque::new(),
            seen: Vec::new(),
        }
    }

    /// Changes what is due by `at`, and looks for what peers changed.
    pub(crate) fn step(&mut self, at: Duration, flusher: &Flusher) {
        let elapsed = at.saturating_sub(self.start);
        let due = elapsed.as_nanos() * u128::from(self.keys) / TICK.as_nanos();
        let pool = u64::from(self.keys * LOAD_POOL_TICKS);
        while u128::from(self.done) < due {
            // Each node starts elsewhere.
            let number = (self.done + pool / self.nodes as u64 * self.index as u64) % pool;
            self.hit(LOAD_RULE, key(0, number), flusher);
            self.done += 1;
        }
        for of in 0..self.nodes {
            while let Some(sample) = self.next_due(of, at) {
                if of == self.index {
                    self.changed.push((sample.number, monotonic()));
                    self.hit(SAMPLE_RULE, sample.key(), flusher);
                } else {
                    self.waiting.push_back(sample);
                }
            }
        }
        self.look();
    }

    fn next_due(&mut self, of: usize, at: Duration) -> Option<Sample> {
        let number = self.next[of];
        let sample = Sample { of, number };
        (sample.due(self.start) <= at).then(|| {
            self.next[of] += 1;
            sample
        })
    }

    fn hit(&self, rule: usize, key: KeyHash, flusher: &Flusher) {
        let charge = Charge {
            rule,
            key,
            hits: Hits::ONE,
        };
        let decision = self.limiter.check(&[charge], wall());
        assert_eq!(decision.outcome, Outcome::Admitted, "the table is large enough");
        if decision.due.is_due() {
            // What the gateway does; nobody here waits for the answer.
            drop(flusher.request());
        }
    }

    /// Looks for the samples of peers that have not been seen.
    pub(crate) fn look(&mut self) {
        let rule = &self.limiter.rules()[SAMPLE_RULE];
        let period = rule.windows[0].period;
        let (id, window) = (rule.id(period), period.window_at(wall()));
        let counters = self.limiter.counters();
        let (seen, start, now) = (&mut self.seen, self.start, monotonic());
        self.waiting.retain(|sample| {
            let row = RowKey {
                rule: id,
                window,
                key: sample.key(),
            };
            let view = counters.find(&row).and_then(|row| counters.view(row));
            let is_seen = view.is_some_and(|view| view.peers >= sample.count());
            if is_seen {
                seen.push((*sample, monotonic()));
            }
            !is_seen && now < sample.due(start) + GIVE_UP
        });
    }

    pub(crate) fn changes(&self) -> u64 {
        self.done
    }

    pub(crate) fn live_rows(&self) -> u32 {
        self.limiter.counters().live_rows()
    }

    /// This node's samples since `from`: number and time in nanoseconds.
    pub(crate) fn changed_since(&self, from: Duration) -> Value {
        let changed = self.changed.iter().filter(|(_, at)| *at >= from);
        changed.map(|(number, at)| json!([number, nanos(*at)])).collect()
    }

    /// The peers' samples as they were seen: node, number, time in nanoseconds.
    pub(crate) fn seen(&self) -> Value {
        let seen = self.seen.iter();
        seen.map(|(sample, at)| json!([sample.of, sample.number, nanos(*at)]))
            .collect()
    }
}

fn nanos(at: Duration) -> u64 {
    u64::try_from(at.as_nanos()).expect("a machine does not run for centuries")
}
