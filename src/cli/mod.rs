//! The commands of the `weir` binary.
//!
//! Each takes its parsed arguments and returns an exit code: 0 for success, 1 for a failure that was
//! told on standard error, 130 when a second signal cut a stop short (2 is clap's, for wrong arguments).

pub mod args;
pub mod check;
pub mod demo;
pub mod echo;
pub mod http;
pub mod keygen;
pub mod mode;
pub mod roster;
pub mod run;
pub mod sim;

use std::future::Future;
use std::process::ExitCode;

use anyhow::Context as _;

use self::args::{Cli, Command};

/// Runs one command to its end.
#[must_use]
pub fn run(cli: Cli) -> ExitCode {
    let outcome = match cli.command {
        Command::Run(args) => run::run(&args),
        Command::Check(args) => Ok(check::run(&args)),
        Command::Echo(args) => {
            let echo = async { Ok(echo::run(args.listen, args.delay.unwrap_or_default()).await?) };
            block_on(echo).map(|()| ExitCode::SUCCESS)
        }
        Command::Demo(args) => block_on(demo::run(&args)).map(|()| ExitCode::SUCCESS),
        Command::Mode(args) => block_on(mode::run(&args)).map(|()| ExitCode::SUCCESS),
        Command::Roster(args) => block_on(roster::run(&args)).map(|()| ExitCode::SUCCESS),
        Command::Sim(args) => sim::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Keygen(_) => keygen::run().map(|()| ExitCode::SUCCESS).map_err(Into::into),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("weir: {error:#}");
        ExitCode::FAILURE
    })
}

fn block_on<T>(command: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("cannot start the runtime")?.block_on(command)
}
