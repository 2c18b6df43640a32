//! (Stub of the interface; filled in by the replication branch.)

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::limit::{Counters, Now, RowRef};

use super::id::ReplicaId;

/// What an operator may tune. Every default says why.
#[derive(Clone, Debug, PartialEq)]
pub struct ReplicationConfig {
    /// How often whatever is dirty but not due is pushed, and digests are exchanged.
    pub tick: Duration,
    /// Largest frame in bytes, before sealing.
    pub frame_bytes_max: usize,
}

/// One datagram to send: the same plaintext frame to every address in `to`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// Where to: advertised addresses of replicas.
    pub to: Arc<[SocketAddr]>,
    /// The frame.
    pub payload: Vec<u8>,
}

/// What one peer looks like from here.
#[derive(Clone, Debug, PartialEq)]
pub struct PeerStatus {
    /// The peer.
    pub replica: ReplicaId,
    /// Where it is reached; `None` for a replica known only by its rows.
    pub address: Option<SocketAddr>,
    /// Membership says it is alive.
    pub live: bool,
    /// Time since the last frame from it; `None` if there was none.
    pub last_heard: Option<Duration>,
    /// Estimated offset of its wall clock against ours, in milliseconds (positive: its clock is ahead).
    pub clock_offset_ms: Option<i64>,
    /// Rows of it that we hold.
    pub rows: usize,
}

/// Totals since start, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReplicationStats {
    /// Frames handled.
    pub frames_received: u64,
    /// Frames refused by the decoder or by a bound.
    pub frames_refused: u64,
    /// Rows merged that raised a count.
    pub rows_merged: u64,
    /// Rows refused: table full, or a window outside the tolerated skew.
    pub rows_refused: u64,
    /// Pushes made because a row was due.
    pub pushes_due: u64,
    /// Pushes made by the tick.
    pub pushes_tick: u64,
    /// Deltas sent to repair what a peer lacked.
    pub repairs: u64,
    /// Rows held now, of all replicas.
    pub rows: u64,
}

/// The replication state machine of one node.
pub struct Replication {
    _private: (),
}

impl Replication {
    /// A machine for replica `me` over `counters`. `seed` feeds its only randomness: which peers are
    /// asked for digests.
    #[must_use]
    pub fn new(_me: ReplicaId, _counters: Arc<Counters>, _config: ReplicationConfig, _seed: u64) -> Self {
        todo!()
    }

    /// Membership changed: these are the other live replicas now. Rows of replicas that vanish stay
    /// until their windows end.
    pub fn handle_membership(&mut self, _live: &[(ReplicaId, SocketAddr)], _now: Now) {
        todo!()
    }

    /// A frame arrived, already opened and so known to come from a holder of the cluster key.
    ///
    /// # Errors
    /// A frame that does not decode or breaks a bound changed nothing and names the reason.
    pub fn handle_datagram(&mut self, _frame: &[u8], _now: Now) -> Result<(), FrameError> {
        todo!()
    }

    /// Takes in what request threads counted since the last call, and sends what is due.
    pub fn handle_local_change(&mut self, _now: Now) {
        todo!()
    }

    /// [`Replication::poll_timeout`] has passed.
    pub fn handle_timeout(&mut self, _now: Now) {
        todo!()
    }

    /// Stops holding anything back and pushes all that is unsent: on leaving.
    pub fn handle_leave(&mut self, _now: Now) {
        todo!()
    }

    /// The next datagram to send, if any.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        todo!()
    }

    /// When (on the monotonic clock) [`Replication::handle_timeout`] wants to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Duration {
        todo!()
    }

    /// Whether this node has held, since joining, all that one peer's digest claimed; true at once when
    /// there is no peer.
    #[must_use]
    pub fn is_caught_up(&self) -> bool {
        todo!()
    }

    /// Whether every live peer has acknowledged (by digest) all that this node released.
    #[must_use]
    pub fn is_acknowledged(&self) -> bool {
        todo!()
    }

    /// The peers as seen from here, live first.
    #[must_use]
    pub fn peers(&self, _now: Now) -> Vec<PeerStatus> {
        todo!()
    }

    /// The counts of `row` by replica: ours and each peer's.
    #[must_use]
    pub fn counts(&self, _row: RowRef) -> Vec<(ReplicaId, u64)> {
        todo!()
    }

    /// Totals for metrics.
    #[must_use]
    pub fn stats(&self) -> ReplicationStats {
        todo!()
    }
}

/// Why a frame was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// It does not decode.
    #[error("malformed frame: {0}")]
    Malformed(String),
}
