//! Requests that wait for rights.

/// Requests that wait for rights.
#[derive(Debug, Default)]
pub struct WaitingRoom {}
