//! The commands of the `weir` binary.

pub mod http;
