//! Clusters in bounded mode, and the judge of what they admit.

use std::time::Duration;

use crate::{Cluster, ClusterBuilder, Tally, Window};

/// How far the clocks of two members may differ, here. Short, since a node that starts waits so long.
pub const SKEW: Duration = Duration::from_millis(500);

/// What the nodes are configured with. The scenarios see to it that a process has ended before its successor starts,
/// as a supervisor does.
const CONFIG: &str = "bounded: {skew: 500ms, retire_on_restart: true}\n";

/// Most windows that pass until nodes that nothing blocks have a share again.
pub const WINDOWS_MAX: usize = 3;

/// Three nodes in bounded mode that admit `limit` requests in each window of `length`, a whole number of seconds.
#[must_use]
pub fn cluster(limit: u64, length: Duration) -> ClusterBuilder {
    Cluster::with_limit(limit)
        .mode("bounded")
        .limit(limit, &format!("{}s", length.as_secs()))
        .config(CONFIG)
}

/// Holds what the clients of `identity` saw against the limit and against what the upstream received, and gives how
/// many were admitted in `window`.
///
/// # Panics
/// More than `limit` were admitted in some window, some answer was neither 200 nor 429, or the upstream received
/// other requests than the clients know of.
#[must_use]
pub fn judge(cluster: &Cluster, identity: &str, tally: &Tally, limit: u64, window: Window) -> u64 {
    println!("{identity}: {tally:?}");
    assert!(
        tally.other().is_empty(),
        "unexpected statuses: {:?}",
        tally.other()
    );
    for (start, count) in tally.windows() {
        assert!(
            count.admitted <= limit,
            "{} of {limit} were admitted to {identity} in the window that starts at {start}",
            count.admitted
        );
    }
    let known: u64 = tally.windows().values().map(|count| count.admitted).sum();
    let received = cluster.upstream.count(identity);
    assert!(
        (known..=known + tally.unanswered()).contains(&received),
        "{known} requests of {identity} were answered with 200 and {} not at all, the upstream received {received}",
        tally.unanswered()
    );
    let only_this = tally.windows().keys().all(|start| *start == window.start);
    assert!(
        !only_this || received <= limit,
        "{received} of {limit} requests of {identity} reached the upstream in one window"
    );
    tally
        .windows()
        .get(&window.start)
        .map_or(0, |count| count.admitted)
}

/// Fails unless nearly all of `limit` was admitted: at least 99 %.
///
/// # Panics
/// Less was.
pub fn assert_used(admitted: u64, limit: u64) {
    assert!(
        admitted * 100 >= limit * 99,
        "only {admitted} of {limit} were admitted"
    );
}
