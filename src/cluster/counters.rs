//! What the transport counts.

use std::sync::atomic::{AtomicU64, Ordering};

use super::seal::OpenError;

/// A total that only rises. Relaxed: each is read alone, for display.
#[derive(Debug, Default)]
pub(super) struct Total(AtomicU64);

impl Total {
    pub(super) fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The live totals of one transport.
#[derive(Debug, Default)]
pub(super) struct TransportCounters {
    pub(super) datagrams_received: Total,
    pub(super) bytes_received: Total,
    pub(super) datagrams_sent: Total,
    pub(super) bytes_sent: Total,
    pub(super) receive_errors: Total,
    pub(super) send_errors: Total,
    pub(super) send_blocked: Total,
    pub(super) too_long: Total,
    pub(super) malformed: Total,
    pub(super) queue_full: Total,
    pub(super) incomplete: Total,
    too_short: Total,
    unknown_version: Total,
    protection_mismatch: Total,
    unknown_key: Total,
    bad_tag: Total,
    wrong_cluster: Total,
}

impl TransportCounters {
    pub(super) fn refuse(&self, reason: OpenError) {
        let total = match reason {
            OpenError::TooShort => &self.too_short,
            OpenError::UnknownVersion(_) => &self.unknown_version,
            OpenError::ProtectionMismatch => &self.protection_mismatch,
            OpenError::UnknownKey => &self.unknown_key,
            OpenError::BadTag => &self.bad_tag,
            OpenError::WrongCluster => &self.wrong_cluster,
        };
        total.add(1);
    }

    pub(super) fn snapshot(&self) -> TransportStats {
        TransportStats {
            datagrams_received: self.datagrams_received.get(),
            bytes_received: self.bytes_received.get(),
            datagrams_sent: self.datagrams_sent.get(),
            bytes_sent: self.bytes_sent.get(),
            dropped: vec![
                ("too_short", self.too_short.get()),
                ("unknown_version", self.unknown_version.get()),
                ("protection_mismatch", self.protection_mismatch.get()),
                ("unknown_key", self.unknown_key.get()),
                ("bad_tag", self.bad_tag.get()),
                ("wrong_cluster", self.wrong_cluster.get()),
                ("malformed", self.malformed.get()),
                ("incomplete", self.incomplete.get()),
                ("queue_full", self.queue_full.get()),
                ("receive_error", self.receive_errors.get()),
                ("send_error", self.send_errors.get()),
                ("send_blocked", self.send_blocked.get()),
                ("too_long", self.too_long.get()),
            ],
        }
    }
}

/// Totals of the gossip socket since start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TransportStats {
    /// Datagrams that arrived, whatever became of them.
    pub datagrams_received: u64,
    /// Their bytes, sealed.
    pub bytes_received: u64,
    /// Datagrams handed to the kernel.
    pub datagrams_sent: u64,
    /// Their bytes, sealed.
    pub bytes_sent: u64,
    /// What was dropped on the way in or out, by reason; every reason is listed, in a fixed order.
    pub dropped: Vec<(&'static str, u64)>,
}

impl TransportStats {
    /// How many were dropped for `reason`; zero for an unknown one.
    #[must_use]
    pub fn dropped_for(&self, reason: &str) -> u64 {
        let of_reason = self.dropped.iter().find(|(name, _)| *name == reason);
        of_reason.map_or(0, |(_, total)| *total)
    }
}
