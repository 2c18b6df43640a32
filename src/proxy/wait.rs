//! A request that lacks rights waits for those of other nodes, for as long as the configuration allows.
//!
//! Cancelled by drop: when its client goes away, it leaves the room and holds up nobody.

#![expect(
    clippy::disallowed_methods,
    reason = "a shell: requests are decided by the real clock"
)]

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use super::ProxyShared;
use super::metrics::{Shard, WaitEnd};
use crate::limit::{Charge, Decision, Outcome, UnixMillis, Waiting, Woken};

/// Asks peers for the rights that `denied` lacks, and decides again as they come, until the request is
/// admitted, nobody has any left, or its time is over. Answers the last decision.
pub(super) async fn wait_for_rights(
    shared: &ProxyShared,
    shard: &Shard,
    charges: &[Charge],
    denied: Decision,
) -> Decision {
    let patience = shared.config().bounded.wait;
    if patience.is_zero() {
        want(shared, &denied);
        return denied;
    }
    let mut turn = WaitTurn {
        shared,
        charges,
        created: denied.created,
        decision: denied,
    };
    let Some(mut waiting) = turn.enter() else {
        shard.turned_away.add(1);
        return turn.into_decision();
    };
    let mut measured = Measured::new(shard);
    let mut deadline = std::pin::pin!(tokio::time::sleep(patience));
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

/// One request that waits.
struct WaitTurn<'a> {
    shared: &'a ProxyShared,
    charges: &'a [Charge],
    decision: Decision,
    created: bool,
}

impl<'a> WaitTurn<'a> {
    /// Enters the room, and then has peers asked: what they grant finds it there.
    fn enter(&self) -> Option<Waiting<'a>> {
        let waiting = self.shared.limiter().waiting().enter(&self.decision.short)?;
        want(self.shared, &self.decision).then_some(waiting)
    }

    fn decide(&mut self) {
        self.decision = self.shared.limiter().check(self.charges, wall_clock());
        self.created |= self.decision.created;
    }

    fn into_decision(self) -> Decision {
        Decision {
            created: self.created,
            ..self.decision
        }
    }
}

/// Has peers asked for what `denied` lacks; false when too much is wanted already.
fn want(shared: &ProxyShared, denied: &Decision) -> bool {
    let is_wanted = shared.limiter().want(&denied.short);
    // What matters to this request comes by the waiting room.
    drop(shared.announce());
    is_wanted
}

/// Counts a wait when it ends, be it with the client.
struct Measured<'s> {
    shard: &'s Shard,
    started: Instant,
    end: WaitEnd,
}

impl<'s> Measured<'s> {
    fn new(shard: &'s Shard) -> Self {
        shard.waits_started.add(1);
        Self {
            shard,
            started: Instant::now(),
            end: WaitEnd::ClientGone,
        }
    }
}

impl Drop for Measured<'_> {
    fn drop(&mut self) {
        self.shard.waited(self.end, self.started.elapsed());
    }
}

/// The time that windows go by.
pub(super) fn wall_clock() -> UnixMillis {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMillis(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
}
