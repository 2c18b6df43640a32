//! `weir demo`: one limit across several nodes, shown with real processes in a few seconds.
//!
//! It starts an upstream and N nodes as children of itself on free loopback ports, and sends the same
//! requests twice: with the nodes counting alone, as Kong's `policy: local` does, and with the nodes
//! counting together. It judges by what the upstream received, and leaves nothing behind.

#![expect(
    clippy::disallowed_methods,
    reason = "the demo waits for real processes and aligns itself with real windows"
)]

mod client;
mod cluster;
mod process;
mod report;

use std::io::{self, Stdout};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{bail, ensure};
use http::StatusCode;
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::args::DemoArgs;
use crate::limit::{SyncMode, UnixMillis, WindowLimit};

use client::RoundRobin;
use cluster::Cluster;
use process::Processes;
use report::{Report, Run};

/// Longest the demo takes, whatever happens.
const TIME_MAX: Duration = Duration::from_secs(30);

/// Most requests per mode: at a millisecond or two each, both modes fit into [`TIME_MAX`].
const SENT_MAX: u64 = 5_000;

/// What of a window must be left to begin in it, per request and in all: several times what is needed.
const TIME_PER_REQUEST: Duration = Duration::from_millis(2);
const TIME_BASE: Duration = Duration::from_millis(200);

/// A machine that stalls can still carry a run over the end of a window; then it is done again.
const ATTEMPTS_MAX: usize = 3;

/// Runs the demo to its end, or until SIGINT or SIGTERM.
///
/// # Errors
/// The limit cannot be shown in 30 seconds, a child or a request failed, or the demo was interrupted.
/// In every case all children are gone when this returns.
pub async fn run(args: &DemoArgs) -> anyhow::Result<()> {
    let plan = Plan::new(args)?;
    let mut report = Report::new(io::stdout(), args.json);
    let mut processes = Processes::default();
    let outcome = tokio::select! {
        outcome = tokio::time::timeout(TIME_MAX, plan.show(&mut processes, &mut report)) => {
            outcome.unwrap_or_else(|_| Err(anyhow::anyhow!("not done after {TIME_MAX:?}: gave up")))
        }
        interrupted = interruption() => Err(interrupted),
    };
    processes.kill().await;
    outcome
}

/// What is going to be shown.
#[derive(Clone, Copy, Debug)]
struct Plan {
    nodes: u16,
    limit: WindowLimit,
    /// Requests per mode: all that local mode admits, and once the limit on top, so that both modes are
    /// seen to deny.
    sent: u64,
}

impl Plan {
    fn new(args: &DemoArgs) -> anyhow::Result<Self> {
        let (nodes, limit) = (args.nodes, args.limit);
        let sent = (u64::from(nodes) + 1).saturating_mul(limit.limit.hits());
        ensure!(
            sent <= SENT_MAX,
            "with a limit of {} and {nodes} nodes the demo would send {sent} requests in each mode; it \
             sends at most {SENT_MAX}, to be done within {TIME_MAX:?}: choose a smaller limit",
            limit.limit.hits()
        );
        let plan = Self { nodes, limit, sent };
        ensure!(
            plan.time_needed() <= limit.period.nominal(),
            "{sent} requests may take {:?}, which is longer than the window of `{limit}`: choose a \
             longer window or a smaller limit",
            plan.time_needed()
        );
        Ok(plan)
    }

    async fn show(self, processes: &mut Processes, report: &mut Report<Stdout>) -> anyhow::Result<()> {
        let limit = self.limit.to_string();
        let cluster = Cluster::start(processes, self.nodes, &limit, SyncMode::Local).await?;
        report.cluster(&cluster, &limit)?;
        let local = self.run(&cluster, SyncMode::Local, report).await?;
        cluster.switch(processes, SyncMode::Gossip).await?;
        let gossip = self.run(&cluster, SyncMode::Gossip, report).await?;
        report.finish(&[local, gossip])?;
        Ok(())
    }

    /// Sends all requests of one mode within one window, as a client that no node has counted yet.
    async fn run(
        self,
        cluster: &Cluster,
        mode: SyncMode,
        report: &mut Report<Stdout>,
    ) -> anyhow::Result<Run> {
        report.begin(mode)?;
        for attempt in 1..=ATTEMPTS_MAX {
            tokio::time::sleep(self.time_to_wait(wall_clock())).await;
            let client = RoundRobin::new(&format!("{mode}-{attempt}"), &cluster.nodes)?;
            match self.send_all(cluster, client, report).await? {
                Some(admitted) => return Ok(self.result(mode, admitted)),
                None => report.straddled()?,
            }
        }
        bail!(
            "{ATTEMPTS_MAX} times a window of `{}` ended before {} requests were sent",
            self.limit,
            self.sent
        )
    }

    /// How many requests were admitted; `None` if they met the end of a window.
    async fn send_all(
        self,
        cluster: &Cluster,
        mut client: RoundRobin,
        report: &mut Report<Stdout>,
    ) -> anyhow::Result<Option<u64>> {
        let before = cluster.upstream_requests().await?;
        let mut admitted = 0;
        let mut window = None;
        for number in 1..=self.sent {
            let answer = client.send().await?;
            report.answer(number, &answer)?;
            admitted += u64::from(answer.status == StatusCode::OK);
            if *window.get_or_insert_with(|| answer.window.clone()) != answer.window {
                return Ok(None);
            }
        }
        let received = cluster.upstream_requests().await? - before;
        ensure!(
            received == admitted,
            "{admitted} requests were answered with 200, but the upstream received {received}"
        );
        Ok(Some(admitted))
    }

    #[expect(clippy::cast_precision_loss, reason = "both counts are far below 2^52")]
    fn result(self, mode: SyncMode, admitted: u64) -> Run {
        let limit = self.limit.limit.hits();
        Run {
            mode,
            pattern: "sequential",
            nodes: self.nodes,
            limit,
            sent: self.sent,
            admitted,
            ratio: admitted as f64 / limit as f64,
        }
    }

    fn time_needed(self) -> Duration {
        let requests = u32::try_from(self.sent).expect("at most SENT_MAX");
        TIME_BASE + TIME_PER_REQUEST * requests
    }

    /// Until a window begins, if too little is left of the one in progress.
    fn time_to_wait(self, now: UnixMillis) -> Duration {
        let left = self.limit.period.window_at(now).end.since(now);
        if left < self.time_needed() {
            left
        } else {
            Duration::ZERO
        }
    }
}

fn wall_clock() -> UnixMillis {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMillis(0).plus(since_epoch)
}

/// Waits for a request to stop, and says which.
async fn interruption() -> anyhow::Error {
    let wait = async {
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::select! {
            interrupted = tokio::signal::ctrl_c() => interrupted,
            _ = terminate.recv() => Ok(()),
        }
    };
    match wait.await {
        Ok(()) => anyhow::anyhow!("interrupted"),
        Err(error) => anyhow::Error::new(error).context("listening for signals"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(nodes: u16, limit: &str) -> anyhow::Result<Plan> {
        Plan::new(&DemoArgs {
            nodes,
            limit: limit.parse().unwrap(),
            json: false,
        })
    }

    #[test]
    fn enough_is_sent_to_see_both_modes_deny() {
        assert_eq!(plan(3, "5/minute").unwrap().sent, 20);
        assert_eq!(plan(1, "5/minute").unwrap().sent, 10);
    }

    #[test]
    fn a_limit_that_does_not_fit_into_the_time_or_the_window_is_refused() {
        assert_eq!(plan(4, "1000/hour").unwrap().sent, SENT_MAX);
        assert!(plan(4, "1001/hour").is_err());
        assert!(plan(3, "5/second").is_ok());
        assert!(plan(3, "500/second").is_err());
    }

    #[test]
    fn requests_begin_at_once_unless_the_window_ends_before_they_are_done() {
        let plan = plan(3, "5/minute").unwrap();
        assert_eq!(plan.time_to_wait(UnixMillis(30_000)), Duration::ZERO);
        assert_eq!(
            plan.time_to_wait(UnixMillis(59_760)),
            Duration::ZERO,
            "just what is needed is left"
        );
        assert_eq!(plan.time_to_wait(UnixMillis(59_761)), Duration::from_millis(239));
    }
}
