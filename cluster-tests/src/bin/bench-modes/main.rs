//! One limit over three nodes, kept in each sync mode and by a Redis counter per request:
//! `scripts/bench-modes` builds what it needs and runs it.
//!
//! Every contestant answers the same client, in front of the same kind of upstream, on one worker thread a node.
//! Rounds alternate between them, and a figure is the median over the rounds. It ends with a Markdown table and one
//! line of JSON.

#![expect(clippy::disallowed_methods, reason = "a benchmark measures with real clocks")]

mod contestant;
mod measure;
mod peer;
mod redis_server;
mod report;

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};

use contestant::{Contestant, NODES};
use report::{Figures, Report};

/// What every node counts in.
const WINDOW: Duration = Duration::from_secs(10);

const USAGE: &str = "usage: bench-modes [--rounds N] [--limit L] [--modes local,gossip,bounded,redis]";

/// What the command line asks for.
struct Plan {
    rounds: usize,
    limit: u64,
    modes: Vec<String>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    // The Redis contestant's nodes are processes of this same program.
    if args.first().is_some_and(|first| first == "peer") {
        return peer::run(&args[1..]).await;
    }
    let plan = Plan::parse(&args)?;
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!(
        "{NODES} nodes, {} hits in each {WINDOW:?}, {} rounds, load {}",
        plan.limit,
        plan.rounds,
        load.trim()
    );
    let mut contestants = Vec::new();
    for mode in &plan.modes {
        contestants.push(Contestant::start(mode, plan.limit, WINDOW).await?);
    }
    let mut figures = Vec::new();
    for (mode, contestant) in plan.modes.iter().zip(&contestants) {
        figures.push(Figures::new(mode, measure::idle_messages(contestant).await?));
    }
    for round in 0..plan.rounds {
        for turn in 0..contestants.len() {
            let index = (turn + round) % contestants.len();
            let seen = measure::round(&contestants[index], round, plan.limit, WINDOW).await?;
            println!("  round {}, {}: {seen}", round + 1, plan.modes[index]);
            figures[index].add(seen);
        }
    }
    Report::new(plan.limit, plan.rounds, load.trim(), &figures).print();
    Ok(())
}

impl Plan {
    fn parse(args: &[String]) -> anyhow::Result<Self> {
        let mut plan = Self {
            rounds: 3,
            limit: 1_000,
            modes: contestant::MODES.map(str::to_owned).to_vec(),
        };
        let mut args = args.iter();
        while let Some(name) = args.next() {
            let value = args.next().context(USAGE)?;
            match name.as_str() {
                "--rounds" => plan.rounds = value.parse().context(USAGE)?,
                "--limit" => plan.limit = value.parse().context(USAGE)?,
                "--modes" => plan.modes = value.split(',').map(str::to_owned).collect(),
                _ => bail!(USAGE),
            }
        }
        ensure!(plan.rounds > 0 && plan.limit > 0, USAGE);
        Ok(plan)
    }
}
