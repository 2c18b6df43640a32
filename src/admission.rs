//! What surrounds a decision wherever one is asked for: peers are told of it, or asked for rights while it waits.
//!
//! Shared by those that put questions to the limiter, the proxy and the rate limit service. Owns no limit and counts
//! nothing. A wait is cancelled by drop: when its client goes away, it leaves the room and holds up nobody.

#![expect(
    clippy::disallowed_methods,
    reason = "a shell: requests are decided by the real clock"
)]

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::limit::{Charge, Decision, Limiter, Outcome, UnixMillis, Waiting, Woken};

/// Ends once the peers have been told, as far as this node can: what they hear is on its way.
pub type Announced = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Called right after a decision that peers should hear of at once, or whose rights they are to be asked for, on
/// the request's thread: must return at once. Where peers count on it, the response is held until what it
/// returns has ended, or for [`ANNOUNCE_MAX`]: a client that then asks another node comes after its own count.
pub type OnDue = Arc<dyn Fn() -> Announced + Send + Sync>;

/// The longest that a response waits for its count to leave this node. Long against a turn of the gossip
/// thread, and short against what a client would notice.
pub const ANNOUNCE_MAX: Duration = Duration::from_millis(5);

/// Upper bounds of the buckets of latency histograms; one more bucket takes what is slower.
pub const LATENCY_BUCKETS: [Duration; 14] = [
    Duration::from_micros(250),
    Duration::from_micros(500),
    Duration::from_millis(1),
    Duration::from_micros(2500),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(25),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_millis(2500),
    Duration::from_secs(10),
];

/// How a wait for rights ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitEnd {
    /// Rights came, and the request was admitted.
    Served,
    /// It was denied before its time was over: no rights are left anywhere.
    Exhausted,
    /// It was denied when its time was over.
    TimedOut,
    /// Its client went away.
    ClientGone,
}

impl WaitEnd {
    /// Every way to end, in the order of their counts.
    pub const ALL: [Self; 4] = [Self::Served, Self::Exhausted, Self::TimedOut, Self::ClientGone];

    /// The name in metrics.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Served => "served",
            Self::Exhausted => "exhausted",
            Self::TimedOut => "timed_out",
            Self::ClientGone => "client_gone",
        }
    }
}

/// Counts waits for rights.
pub(crate) trait WaitLog {
    /// A request begins to wait.
    fn began(&self);
    /// A request found too many waiting.
    fn turned_away(&self);
    /// A wait ended after `time`, be it with its client.
    fn ended(&self, end: WaitEnd, time: Duration);
}

/// Where rights come from: this node's limiter, and the peers that are asked by waking replication.
#[derive(Clone, Copy)]
pub(crate) struct Rights<'a> {
    pub(crate) limiter: &'a Limiter,
    pub(crate) on_due: &'a OnDue,
    /// The longest wait; zero: none.
    pub(crate) patience: Duration,
}

impl<'a> Rights<'a> {
    /// Asks peers for the rights that `denied` lacks, and decides again as they come, until the request is
    /// admitted, nobody has any left, or its time is over. Answers the last decision.
    pub(crate) async fn wait<L: WaitLog + ?Sized>(
        self,
        log: &L,
        charges: &[Charge],
        denied: Decision,
    ) -> Decision {
        if self.patience.is_zero() {
            self.want(&denied);
            return denied;
        }
        let mut turn = WaitTurn {
            rights: self,
            charges,
            created: denied.created,
            decision: denied,
        };
        let Some(mut waiting) = turn.enter() else {
            log.turned_away();
            return turn.into_decision();
        };
        let mut measured = Measured::new(log);
        let mut deadline = std::pin::pin!(tokio::time::sleep(self.patience));
        let mut end = None;
        loop {
            // Whatever woke it, and also before it waits at all: rights may have come, and in a new window there
            // are others.
            turn.decide();
            end = if turn.decision.outcome == Outcome::Admitted {
                Some(WaitEnd::Served)
            } else if turn.decision.short.is_empty() {
                Some(WaitEnd::Exhausted)
            } else {
                end
            };
            if let Some(end) = end {
                measured.end = end;
                return turn.into_decision();
            }
            if !waiting.is_for(&turn.decision.short) {
                match turn.enter() {
                    Some(entered) => waiting = entered,
                    None => end = Some(WaitEnd::TimedOut),
                }
                continue;
            }
            end = tokio::select! {
                // However often others wake it, its time is over when it is.
                biased;
                () = &mut deadline => Some(WaitEnd::TimedOut),
                woken = &mut waiting => match woken {
                    Woken::Retry => None,
                    Woken::Exhausted => Some(WaitEnd::Exhausted),
                },
            };
        }
    }

    /// Has peers asked for what `denied` lacks; false when too much is wanted already.
    fn want(self, denied: &Decision) -> bool {
        let is_wanted = self.limiter.want(&denied.short);
        // What matters to this request comes by the waiting room.
        drop((self.on_due)());
        is_wanted
    }
}

/// One request that waits.
struct WaitTurn<'a> {
    rights: Rights<'a>,
    charges: &'a [Charge],
    decision: Decision,
    created: bool,
}

impl<'a> WaitTurn<'a> {
    /// Enters the room, and then has peers asked: what they grant finds it there.
    fn enter(&self) -> Option<Waiting<'a>> {
        let waiting = self.rights.limiter.waiting().enter(&self.decision.short)?;
        self.rights.want(&self.decision).then_some(waiting)
    }

    fn decide(&mut self) {
        self.decision = self.rights.limiter.check(self.charges, wall_clock());
        self.created |= self.decision.created;
    }

    fn into_decision(self) -> Decision {
        Decision {
            created: self.created,
            ..self.decision
        }
    }
}

/// Counts a wait when it ends, be it with the client.
struct Measured<'l, L: WaitLog + ?Sized> {
    log: &'l L,
    started: Instant,
    end: WaitEnd,
}

impl<'l, L: WaitLog + ?Sized> Measured<'l, L> {
    fn new(log: &'l L) -> Self {
        log.began();
        Self {
            log,
            started: Instant::now(),
            end: WaitEnd::ClientGone,
        }
    }
}

impl<L: WaitLog + ?Sized> Drop for Measured<'_, L> {
    fn drop(&mut self) {
        self.log.ended(self.end, self.started.elapsed());
    }
}

/// The time that windows go by.
pub(crate) fn wall_clock() -> UnixMillis {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMillis(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
}

/// The place in a histogram by [`LATENCY_BUCKETS`].
pub(crate) fn bucket_of(time: Duration) -> usize {
    let bucket = LATENCY_BUCKETS.iter().position(|bound| time <= *bound);
    bucket.unwrap_or(LATENCY_BUCKETS.len())
}

/// Whole microseconds.
pub(crate) fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
