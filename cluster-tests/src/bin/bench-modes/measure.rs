//! What is measured of a contestant in each round.

use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::ensure;
use cluster_tests::{Client, Flood, Tally, Window};
use hyper::StatusCode;

use crate::contestant::{Contestant, NODES};

/// How many times the limit is offered in a window.
const OFFERED: u64 = 10;

/// The steady load ends so long before its window does.
const STEADY_SPARE: Duration = Duration::from_millis(1_000);

/// Connections of the steady load, each of which is idle nearly always.
const STEADY_CLIENTS: usize = 16 * NODES;

/// Connections of the burst: as many requests as arrive at the same instant.
const BURST_CLIENTS: usize = 80 * NODES;

/// How long nobody asks anything, to see what is sent all the same.
const IDLE: Duration = Duration::from_secs(5);

/// Requests over each new connection before those that are measured.
const WARM_UP: usize = 10 * NODES;

/// One contestant in one round.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Round {
    /// Admitted by the limit, offered steadily.
    pub(crate) steady: f64,
    /// Admitted by the limit, offered all at once.
    pub(crate) burst: f64,
    /// Milliseconds that the limit adds to the median answer; below zero where noise is more.
    pub(crate) added_p50: f64,
    /// Milliseconds that the limit adds to the 99th percentile.
    pub(crate) added_p99: f64,
    /// Messages for each request, in the window of the steady load.
    pub(crate) messages: f64,
    /// Which share of what was admitted, steadily and at once, waited for rights.
    pub(crate) waited: f64,
}

/// Measures `contestant` in the windows that come.
pub(crate) async fn round(
    contestant: &Contestant,
    number: usize,
    limit: u64,
    window: Duration,
) -> anyhow::Result<Round> {
    let (added_p50, added_p99) = added_latency(contestant, number, limit).await?;
    let before = contestant.waited().await?;
    let (steady, messages) = steady(contestant, number, limit, window).await?;
    let burst = burst(contestant, number, limit, window).await?;
    let waited = contestant.waited().await? - before;
    Ok(Round {
        steady,
        burst,
        waited: waited / ((steady + burst) * count(limit)),
        added_p50,
        added_p99,
        messages,
    })
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "admitted/L steady {:.4}, burst {:.4}; added latency p50 {:.3} ms, p99 {:.3} ms; {:.3} messages/request; \
             {:.4} waited for rights",
            self.steady, self.burst, self.added_p50, self.added_p99, self.messages, self.waited
        )
    }
}

/// One client that asks the nodes in turn, as often as it may: each node with a limit and without, one right after the
/// other, so that both see the machine in the same state.
async fn added_latency(contestant: &Contestant, number: usize, limit: u64) -> anyhow::Result<(f64, f64)> {
    let mut client = Client::new(format!("sequential-{number}"));
    let nodes: Vec<_> = contestant
        .unlimited()
        .into_iter()
        .zip(contestant.limited())
        .collect();
    let (mut without, mut with) = (Vec::new(), Vec::new());
    let mut denied = 0;
    for turn in 0..usize::try_from(limit)? {
        let (free, limited) = nodes[turn % nodes.len()];
        // Who comes second finds warmer caches, so they take turns.
        let (mut first, mut second) = ((free, &mut without), (limited, &mut with));
        if turn / nodes.len() % 2 == 1 {
            std::mem::swap(&mut first, &mut second);
        }
        for (node, latencies) in [first, second] {
            let (status, took) = latency(&mut client, node).await?;
            denied += usize::from(status == StatusCode::TOO_MANY_REQUESTS);
            if turn >= WARM_UP {
                latencies.push(took);
            }
        }
    }
    // In bounded mode the last rights may come too late; such an answer counts with the time that it waited.
    ensure!(
        denied * 20 <= with.len(),
        "{denied} of the client's requests were denied"
    );
    without.sort_unstable();
    with.sort_unstable();
    let millis = |sorted: &[Duration], share| percentile(sorted, share).as_secs_f64() * 1_000.0;
    let added = |share| millis(&with, share) - millis(&without, share);
    Ok((added(0.5), added(0.99)))
}

async fn latency(client: &mut Client, node: SocketAddr) -> anyhow::Result<(StatusCode, Duration)> {
    let sent = Instant::now();
    let answer = client.try_get(node).await?;
    let took = sent.elapsed();
    let known = [StatusCode::OK, StatusCode::TOO_MANY_REQUESTS];
    ensure!(
        known.contains(&answer.status),
        "{node} answered {}",
        answer.status
    );
    Ok((answer.status, took))
}

/// Messages a second that `contestant` sends while nobody asks it anything.
pub(crate) async fn idle_messages(contestant: &Contestant) -> anyhow::Result<f64> {
    let (before, started) = (contestant.messages().await?, Instant::now());
    tokio::time::sleep(IDLE).await;
    Ok((contestant.messages().await? - before) / started.elapsed().as_secs_f64())
}

/// The value below which `share` of `sorted` lie.
fn percentile(sorted: &[Duration], share: f64) -> Duration {
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a small index"
    )]
    let index = ((sorted.len() as f64 * share) as usize).min(sorted.len().saturating_sub(1));
    sorted.get(index).copied().unwrap_or_default()
}

/// Even over time and nodes.
async fn steady(
    contestant: &Contestant,
    number: usize,
    limit: u64,
    window: Duration,
) -> anyhow::Result<(f64, f64)> {
    let identity = format!("steady-{number}");
    let clients = u32::try_from(STEADY_CLIENTS)?;
    let requests = usize::try_from(OFFERED * limit)?;
    let pause = (window - STEADY_SPARE) * clients / u32::try_from(requests)?;
    let next = Window::in_progress(window).next();
    let flood = Flood::new(&identity, contestant.limited(), next)
        .clients(STEADY_CLIENTS)
        .requests(requests)
        .pause(pause);
    next.starts().await;
    let before = contestant.messages().await?;
    let tally = flood.run().await;
    let messages = contestant.messages().await? - before;
    let admitted = judge(contestant, &identity, &tally, next)?;
    Ok((ratio(admitted, limit), messages / count(offered(&tally))))
}

/// Everything at the instant in which a window starts.
async fn burst(contestant: &Contestant, number: usize, limit: u64, window: Duration) -> anyhow::Result<f64> {
    let identity = format!("burst-{number}");
    let next = Window::in_progress(window).next();
    let tally = Flood::new(&identity, contestant.limited(), next)
        .clients(BURST_CLIENTS)
        .requests(usize::try_from(OFFERED * limit)?)
        .run()
        .await;
    Ok(ratio(judge(contestant, &identity, &tally, next)?, limit))
}

/// How many were admitted, where client and upstream agree, all counted in one window.
fn judge(contestant: &Contestant, identity: &str, tally: &Tally, window: Window) -> anyhow::Result<u64> {
    let admitted = contestant.admitted(identity);
    ensure!(
        tally.windows().keys().eq([&window.start]),
        "counted in other windows than {window:?}: {tally:?}"
    );
    ensure!(
        tally.admitted() == admitted && tally.unanswered() == 0,
        "the upstream received {admitted}, the client saw {tally:?}"
    );
    Ok(admitted)
}

fn offered(tally: &Tally) -> u64 {
    tally.admitted() + tally.denied()
}

fn ratio(admitted: u64, limit: u64) -> f64 {
    count(admitted) / count(limit)
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn count(number: u64) -> f64 {
    number as f64
}
