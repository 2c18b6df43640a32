//! The commands of the `weir` binary.

pub mod args;
pub mod check;
pub mod http;
mod mode;
