//! The `weir` binary: arguments in, exit code out.

use std::process::ExitCode;

use clap::Parser as _;
use weir::cli::{self, args::Cli};

fn main() -> ExitCode {
    cli::run(Cli::parse())
}
