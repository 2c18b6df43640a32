//! The state machine that spreads rows between replicas and repairs loss, and its wire codec.
//!
//! Sans-IO: `handle_*` takes what happened, `poll_*` gives what to do. Owns the peers' rows, the version
//! logs and the digests. Promises to do no I/O and to read no clock, and that whatever a peer sends is
//! bounded before it is believed.

mod core;
mod id;

pub use self::core::{PeerStatus, Replication, ReplicationConfig, ReplicationStats, Transmit};
pub use id::{Generation, IdError, NodeId, ReplicaId};
