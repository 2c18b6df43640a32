//! A peer with a valid key that says more than it should.

use std::time::Duration;

use crate::limit::{KeyHash, RowKey, Rule, UnixMillis, Window};
use crate::replica::{Generation, ReplicaId};
use crate::replication::codec::{Body, COUNT_MAX, Delta, DeltaRow, Frame, Interval, VERSION_MAX, encode};

use rand::Rng;
use rand::rngs::SmallRng;

/// Rows of one frame.
pub(super) const ROWS: u64 = 24;

/// Between two frames of a flood.
pub(super) const PACE: Duration = Duration::from_millis(5);

/// What a flood is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Flood {
    /// Keys that nobody else knows, in the present window, with low counts.
    Keys,
    /// The same in windows that are far from beginning.
    Future,
    /// The same at versions near the end of the log, which leap.
    Versions,
    /// The same with the highest counts there are.
    Counts,
    /// The same in the logs of replicas that do not exist.
    Logs,
    /// The same as rows adopted from replicas that do not exist.
    Subjects,
}

impl Flood {
    /// The `serial`th frame of the flood.
    pub(super) fn frame(
        self,
        sender: &ReplicaId,
        rule: &Rule,
        wall: UnixMillis,
        serial: u64,
        rng: &mut SmallRng,
    ) -> Vec<u8> {
        let made_up = ReplicaId {
            generation: Generation(sender.generation.0 + 1 + serial),
            ..sender.clone()
        };
        let leap = if self == Self::Versions {
            VERSION_MAX / 2 + serial * 1_000_000
        } else {
            0
        };
        let after = leap + if self == Self::Logs { 0 } else { serial * ROWS };
        let interval = Interval {
            after,
            to: after + ROWS,
        };
        let rows = (interval.after + 1..=interval.to).map(|version| DeltaRow {
            version,
            subject: (self == Self::Subjects).then(|| made_up.clone()),
            key: self.key(rule, wall, rng),
            count: if self == Self::Counts {
                COUNT_MAX
            } else {
                rng.random_range(1..=5)
            },
            grants: Vec::new(),
        });
        let delta = Delta {
            log: if self == Self::Logs {
                made_up.clone()
            } else {
                sender.clone()
            },
            interval,
            complete_at: interval.to,
            paused: false,
            rows: rows.collect(),
        };
        encode(&Frame {
            sender: sender.clone(),
            sent_at: wall,
            body: Body::Deltas(vec![delta]),
        })
    }

    fn key(self, rule: &Rule, wall: UnixMillis, rng: &mut SmallRng) -> RowKey {
        let period = rule.windows.last().map(|limit| limit.period);
        let period = period.expect("a rule has a window");
        let now = period.window_at(wall);
        let length = now.end.0 - now.start.0;
        let window = match self {
            Self::Future => Window {
                start: UnixMillis(now.start.0 + 10 * length),
                end: UnixMillis(now.end.0 + 10 * length),
            },
            _ => now,
        };
        RowKey {
            rule: rule.id(period),
            window,
            // Even, where the clients of the simulations are odd.
            key: KeyHash(rng.random::<u128>() & !1),
        }
    }
}
