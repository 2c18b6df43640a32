//! The `weir` binary: arguments in, exit code out.

use std::process::ExitCode;

use clap::Parser as _;
use weir::cli::{self, args::Cli};

/// Costs a request less than glibc's allocator (docs/adr/0008), and far less than musl's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cli::run(Cli::parse())
}
