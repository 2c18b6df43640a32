//! Where the `weir` binary is.

use std::path::PathBuf;
use std::process::{Command, Output};

/// The binary under test: `WEIR_BIN`, or else the one that cargo built beside this test.
///
/// # Panics
/// There is none; the message says how to build it.
#[must_use]
pub fn weir() -> PathBuf {
    let path = std::env::var_os("WEIR_BIN").map_or_else(beside_this_test, PathBuf::from);
    assert!(
        path.is_file(),
        "{} does not exist: run `cargo build --bin weir` first, or name the binary in WEIR_BIN",
        path.display()
    );
    path
}

/// Runs `weir` with `args` to its end.
///
/// # Panics
/// The binary cannot be run.
#[must_use]
pub fn run(args: &[&str]) -> Output {
    Command::new(weir())
        .args(args)
        .env_clear()
        .output()
        .expect("the weir binary runs")
}

/// `target/PROFILE/weir`, seen from a test in `target/PROFILE/deps/`.
fn beside_this_test() -> PathBuf {
    let mut path = std::env::current_exe().expect("a running test knows its own path");
    path.pop();
    path.pop();
    path.push("weir");
    path
}
