//! Conditions with deadlines.

use std::time::{Duration, Instant};

/// How long a condition may take that takes well under a second on an idle machine: generous, since
/// nothing is measured by it and a loaded machine must not fail a scenario.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// How often a condition is looked at.
pub(crate) const POLL: Duration = Duration::from_millis(10);

/// Looks at `probe` until it holds, and gives what it found.
///
/// # Panics
/// `probe` still fails after `deadline`; the message says `what` was awaited and why it did not hold.
pub async fn wait_until<T>(
    what: &str,
    deadline: Duration,
    mut probe: impl AsyncFnMut() -> Result<T, String>,
) -> T {
    let end = Instant::now() + deadline;
    loop {
        match probe().await {
            Ok(found) => return found,
            Err(why) if Instant::now() >= end => panic!("{what}: not within {deadline:?}: {why}"),
            Err(_) => tokio::time::sleep(POLL).await,
        }
    }
}
