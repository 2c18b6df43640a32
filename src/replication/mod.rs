//! The state machine that spreads rows between replicas and repairs loss, and its wire codec.
//!
//! Sans-IO: `handle_*` takes what happened, `poll_*` gives what to do. Owns the peers' rows, the version
//! logs and the digests. Promises to do no I/O and to read no clock, and that whatever a peer sends is
//! bounded before it is believed.
//!
//! In reading order: [`codec`] (what crosses the wire), `row` (who counted how much), `log` and `progress`
//! (where a row stands, and how far a log is held), `push` (what leaves when), `compose` (logs to frames), `merge` (what a delta does),
//! `repair` (digests and what answers them), `transfer` (how rights to bounded rows move), `core` (the state machine that joins them).

mod arena;
pub mod codec;
mod compose;
mod core;
mod escrow;
mod inspect;
mod log;
mod merge;
mod origin;
mod pacing;
mod progress;
mod push;
mod repair;
mod row;
mod transfer;

pub use self::codec::FrameError;
pub use self::core::{PeerStatus, Replication, ReplicationConfig, ReplicationStats, Transmit};

pub use inspect::{Claim, Kept};
pub use transfer::TransferStats;
