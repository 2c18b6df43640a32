//! The commands of the `weir` binary.

pub mod args;
pub mod check;
pub mod demo;
pub mod http;
