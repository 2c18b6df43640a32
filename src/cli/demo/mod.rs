//! `weir demo`: one limit across several nodes, shown with real processes in a few seconds.
//!
//! It starts an upstream and N nodes as children of itself on free loopback ports, and sends the same requests once
//! for each sync mode: with the nodes counting alone, as Kong's `policy: local` does, counting together, and spending
//! shares of the limit; first from a client that waits for each answer, then all at the same moment. It judges by what
//! the upstream received, and leaves nothing behind.

#![expect(
    clippy::disallowed_methods,
    reason = "the demo waits for real processes and aligns itself with real windows"
)]

mod client;
mod cluster;
mod process;
mod report;
mod scene;

use std::io::{self, Stdout};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{bail, ensure};
use http::StatusCode;
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::args::DemoArgs;
use crate::limit::{SyncMode, UnixMillis};

use client::{Answer, Burst, RoundRobin};
use cluster::{Cluster, Node};
use process::Processes;
use report::{Report, Run};
use scene::{MODES, Pattern, Scene};

/// Longest the demo takes, whatever happens.
const TIME_MAX: Duration = Duration::from_secs(45);

/// Most requests per mode: at several times what one takes, they fit into the ten seconds of the shortest window that
/// is chosen here.
const SENT_MAX: u64 = 4_000;

/// A machine that stalls can still carry a run over the end of a window; then it is done again.
const ATTEMPTS_MAX: usize = 3;

/// Runs the demo to its end, or until SIGINT or SIGTERM.
///
/// # Errors
/// The limit cannot be shown in time, a child or a request failed, or the demo was interrupted. In every case all
/// children are gone when this returns.
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
#[derive(Clone, Debug)]
struct Plan {
    nodes: u16,
    /// In the order in which they are shown.
    scenes: Vec<Scene>,
}

impl Plan {
    fn new(args: &DemoArgs) -> anyhow::Result<Self> {
        let (nodes, limit) = (args.nodes, args.limit);
        let scenes = [Pattern::Sequential, Pattern::Burst]
            .map(|pattern| MODES.map(|mode| Scene::new(mode, pattern, nodes, limit)))
            .concat();
        for scene in &scenes {
            ensure!(
                scene.sent <= SENT_MAX,
                "with a limit of {} and {nodes} nodes the demo would send {} requests in each mode; it sends at \
                 most {SENT_MAX}, to be done within {TIME_MAX:?}: choose a smaller limit",
                scene.limit.limit.hits(),
                scene.sent
            );
            ensure!(
                scene.time_needed() <= scene.limit.period.nominal(),
                "{} requests may take {:?}, which is longer than the window of `{}`: choose a longer window or a \
                 smaller limit",
                scene.sent,
                scene.time_needed(),
                scene.limit
            );
        }
        Ok(Self { nodes, scenes })
    }

    async fn show(&self, processes: &mut Processes, report: &mut Report<Stdout>) -> anyhow::Result<()> {
        let cluster = Cluster::start(processes, self.nodes, &self.scenes).await?;
        report.cluster(&cluster)?;
        let mut runs = Vec::new();
        for scene in &self.scenes {
            report.begin(scene)?;
            let admitted = scene.run(&cluster, processes, report).await?;
            let run = Run::new(scene, self.nodes, admitted);
            report.end(&run)?;
            runs.push(run);
        }
        report.finish(&runs)?;
        Ok(())
    }
}

impl Scene {
    /// Sends all requests within one window, as a client that no node has counted yet, and gives how many were
    /// admitted.
    async fn run(
        self,
        cluster: &Cluster,
        processes: &mut Processes,
        report: &mut Report<Stdout>,
    ) -> anyhow::Result<u64> {
        for attempt in 1..=ATTEMPTS_MAX {
            if self.mode == SyncMode::Bounded {
                cluster.shares(processes).await?;
            }
            tokio::time::sleep(self.time_to_wait(wall_clock())).await;
            if self.mode == SyncMode::Bounded {
                cluster.shares(processes).await?;
            }
            let identity = format!("{}-{attempt}", self.name());
            let before = cluster.upstream_requests().await?;
            let answers = match self.pattern {
                Pattern::Sequential => self.one_by_one(&identity, &cluster.nodes, report).await?,
                Pattern::Burst => {
                    let burst = Burst::connect(&identity, &cluster.nodes, &self.name(), self.sent).await?;
                    burst.send().await?
                }
            };
            let received = cluster.upstream_requests().await? - before;
            if answers.iter().any(|answer| answer.window != answers[0].window) {
                report.straddled()?;
                continue;
            }
            let admitted = answers.iter().filter(|answer| answer.status == StatusCode::OK);
            let admitted = u64::try_from(admitted.count())?;
            ensure!(
                received == admitted,
                "{admitted} requests were answered with 200, but the upstream received {received}"
            );
            return Ok(admitted);
        }
        bail!(
            "{ATTEMPTS_MAX} times a window of `{}` ended before {} requests were sent",
            self.limit,
            self.sent
        )
    }

    async fn one_by_one(
        self,
        identity: &str,
        nodes: &[Node],
        report: &mut Report<Stdout>,
    ) -> anyhow::Result<Vec<Answer>> {
        let mut client = RoundRobin::new(identity, nodes, &self.name())?;
        let mut answers: Vec<Answer> = Vec::new();
        for number in 1..=self.sent {
            let answer = client.send().await?;
            report.answer(number, &answer)?;
            let same_window = answers.first().is_none_or(|first| first.window == answer.window);
            answers.push(answer);
            if !same_window {
                break;
            }
        }
        Ok(answers)
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
    fn a_limit_that_does_not_fit_into_the_time_or_the_window_is_refused() {
        assert_eq!(plan(3, "1000/hour").unwrap().scenes[0].sent, SENT_MAX);
        assert!(plan(3, "1001/hour").is_err());
        assert!(plan(3, "5/second").is_ok());
        assert!(plan(3, "500/second").is_err());
    }
}
