//! How large a frame becomes, so that whoever fills one knows when it is full.

use crate::replica::{NodeId, ReplicaId};

use super::{DigestEntry, Grant, Transfer, TransferKind};

/// Most bytes around the deltas of a frame that `sender` sends.
#[must_use]
pub fn frame_bytes(sender: &ReplicaId) -> usize {
    // Version, sender, time, body tag, number of deltas.
    1 + replica_bytes(sender) + 9 + 1 + 9
}

/// Most bytes around the groups of a delta of `log`.
#[must_use]
pub fn delta_bytes(log: &ReplicaId) -> usize {
    // Log, interval, complete_at, paused, number of groups.
    (1 + replica_bytes(log)) + 3 * 9 + 1 + 9
}

/// Most bytes around the entries of a digest that `sender` sends.
#[must_use]
pub fn digest_bytes(sender: &ReplicaId) -> usize {
    // Version, sender, time, body tag; wants_reply, two replicas at their longest, number of entries.
    1 + replica_bytes(sender) + 9 + 1 + 1 + 2 * (1 + 1 + NodeId::MAX_BYTES + 9) + 9
}

/// Most bytes that a group header adds to a delta when it names `subject`.
#[must_use]
pub fn group_bytes(subject: Option<&ReplicaId>) -> usize {
    // Subject, rule, window, number of rows and (in three bytes, as a frame holds fewer) of grants.
    1 + subject.map_or(0, replica_bytes) + 8 + 9 + 9 + 9 + 3
}

/// Bytes of one row at its exact width.
#[must_use]
pub fn row_bytes(ahead: u64, count: u64) -> usize {
    16 + varint_bytes(ahead) + varint_bytes(count)
}

/// Most bytes that a row's grants add to it.
#[must_use]
pub fn grants_bytes(grants: &[Grant]) -> usize {
    // The row's index (a frame holds fewer than 2^16), the taker, the hits.
    grants.iter().map(|grant| 3 + 9 + varint_bytes(grant.hits)).sum()
}

/// Most bytes that `transfer` adds to a frame.
#[must_use]
pub fn transfer_bytes(transfer: &Transfer) -> usize {
    let numbers = match transfer.kind {
        TransferKind::Ask(ask) => [ask.held, ask.target, ask.need].map(varint_bytes).iter().sum(),
        TransferKind::Answer(answer) => varint_bytes(answer.granted) + 1,
    };
    // Rule, window, key, which of the two it is.
    8 + 2 * 9 + 16 + 1 + numbers
}

/// Most bytes that `entry` adds to a digest.
#[must_use]
pub fn entry_bytes(entry: &DigestEntry) -> usize {
    replica_bytes(&entry.log) + 9 + 3 + entry.received.len() * 27
}

fn replica_bytes(replica: &ReplicaId) -> usize {
    1 + replica.node.as_str().len() + 9
}

fn varint_bytes(value: u64) -> usize {
    match value {
        0..=250 => 1,
        251..=0xffff => 3,
        0x1_0000..=0xffff_ffff => 5,
        _ => 9,
    }
}
