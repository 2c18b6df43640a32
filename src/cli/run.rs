//! `weir run`: one gateway node, from its configuration to its exit code.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use tracing_subscriber::EnvFilter;

use crate::config::LogConfig;
use crate::gateway::{Ending, Gateway, Load, Look, Source};

use super::args::{RunArgs, UnknownVariables};

/// What a shell reports of a program that SIGINT ended (128 + 2).
const INTERRUPTED: u8 = 130;

/// Runs a node until a signal stops it. At SIGHUP it reads its configuration anew, from the same sources.
///
/// # Errors
/// The configuration is wrong (every error in it is told), an address cannot be bound, or a part of the
/// node died.
pub fn run(args: &RunArgs) -> anyhow::Result<ExitCode> {
    // Before it is read, so that no later change of it is missed.
    let file = Look::at(args.config.clone());
    let config = match args.load() {
        Ok(config) => config,
        Err(errors) => {
            // Every error names its own origin.
            eprintln!("{errors}");
            return Ok(ExitCode::FAILURE);
        }
    };
    start_log(&config.log)?;
    for name in UnknownVariables::of_process().strange {
        tracing::warn!(name, "unknown variable, ignored");
    }
    let args = args.clone();
    let load: Load = Arc::new(move || args.load());
    Ok(match Gateway::run(config, &Source { load, file })? {
        Ending::Drained => ExitCode::SUCCESS,
        Ending::Interrupted => ExitCode::from(INTERRUPTED),
    })
}

/// Logs to standard error: standard output is for what a caller may read.
fn start_log(config: &LogConfig) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&config.filter).with_context(|| {
        format!(
            "`{}` is no log filter: expected `info` or `weir=debug`",
            config.filter
        )
    })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    let outcome = match config.json {
        true => builder.json().try_init(),
        false => builder
            .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
            .try_init(),
    };
    outcome.map_err(|error| anyhow::anyhow!("cannot start the log: {error}"))
}
