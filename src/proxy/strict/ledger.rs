//! What a connection's guard, its requests and its worker's heartbeat know together.
//!
//! All of them run on one thread; hyper wants streams that could change threads, hence the atomics. They
//! cost what plain memory does.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};

use super::violation::Violation;

/// No violation.
const NONE: u8 = u8::MAX;

/// Shared by the guard around a connection and the connection itself.
pub(in crate::proxy) struct Ledger {
    /// Reads and writes that moved bytes.
    reads: AtomicU32,
    writes: AtomicU32,
    /// Bytes written, without those that only answer control frames; wraps.
    written: AtomicU64,
    /// The last write moved none.
    is_blocked: AtomicBool,
    /// Bytes of what was written that the client had not taken when a write last moved none.
    untaken: AtomicU64,
    /// The number of the request, from 1, that stands for one that was refused; 0 for none.
    refused: AtomicU32,
    refusal: AtomicU8,
    /// Why a body broke off.
    broken: AtomicU8,
    upgrade: AtomicU8,
    /// A request body is in progress, and the client has sent nothing more of it.
    is_starving: AtomicBool,
    is_in_body: AtomicBool,
    /// Bytes of bodies; wraps.
    body_bytes: AtomicU64,
    is_lingering: AtomicBool,
    is_cut: AtomicBool,
    /// Control frames that HTTP/2 still has to its credit.
    spent: AtomicU32,
}

/// What becomes of a request to switch protocols.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Upgrade {
    /// There is none.
    None,
    /// Nobody knows yet.
    Awaited,
    Declined,
    /// The connection is a tunnel.
    Accepted,
}

impl Default for Ledger {
    fn default() -> Self {
        Self {
            reads: AtomicU32::new(0),
            writes: AtomicU32::new(0),
            written: AtomicU64::new(0),
            is_blocked: AtomicBool::new(false),
            untaken: AtomicU64::new(0),
            refused: AtomicU32::new(0),
            refusal: AtomicU8::new(NONE),
            broken: AtomicU8::new(NONE),
            upgrade: AtomicU8::new(Upgrade::None as u8),
            is_starving: AtomicBool::new(false),
            is_in_body: AtomicBool::new(false),
            body_bytes: AtomicU64::new(0),
            is_lingering: AtomicBool::new(false),
            is_cut: AtomicBool::new(false),
            spent: AtomicU32::new(0),
        }
    }
}

impl Ledger {
    /// Reads that moved bytes; wraps.
    pub(in crate::proxy) fn reads(&self) -> u32 {
        self.reads.load(Relaxed)
    }

    /// Reads and writes that moved bytes; wraps.
    pub(in crate::proxy) fn moves(&self) -> u32 {
        self.reads().wrapping_add(self.writes.load(Relaxed))
    }

    pub(in crate::proxy) fn count_read(&self) {
        add(&self.reads, 1);
    }

    /// A write moved `bytes`.
    pub(in crate::proxy) fn count_write(&self, bytes: usize) {
        self.is_blocked.store(false, Relaxed);
        add(&self.writes, 1);
        let written = self.written.load(Relaxed).wrapping_add(bytes as u64);
        self.written.store(written, Relaxed);
    }

    /// A write moved nothing: the client has `untaken` bytes of what was written still to take.
    pub(in crate::proxy) fn block(&self, untaken: u64) {
        self.is_blocked.store(true, Relaxed);
        self.untaken.store(untaken, Relaxed);
    }

    /// `bytes` of what was written only answer control frames, and are no use of the connection.
    pub(in crate::proxy) fn discount(&self, bytes: usize) {
        let written = self.written.load(Relaxed).wrapping_sub(bytes as u64);
        self.written.store(written, Relaxed);
    }

    /// The last write waits for the client to take what came before.
    pub(in crate::proxy) fn is_blocked(&self) -> bool {
        self.is_blocked.load(Relaxed)
    }

    /// Bytes that the client has taken, but for a constant as long as `is_blocked` stays what it is; wraps.
    pub(in crate::proxy) fn taken(&self) -> u64 {
        self.written
            .load(Relaxed)
            .wrapping_sub(self.untaken.load(Relaxed))
    }

    /// Why request `number` is refused, if it is.
    pub(in crate::proxy) fn refusal(&self, number: u32) -> Option<Violation> {
        (self.refused.load(Relaxed) == number)
            .then(|| violation(&self.refusal))
            .flatten()
    }

    pub(super) fn refuse(&self, number: u32, violation: Violation) {
        self.refusal.store(violation as u8, Relaxed);
        self.refused.store(number, Relaxed);
    }

    /// Why the body in progress breaks off, if it does.
    pub(in crate::proxy) fn broken(&self) -> Option<Violation> {
        violation(&self.broken)
    }

    /// Has the body in progress break off, if it has not yet.
    pub(in crate::proxy) fn break_off(&self, violation: Violation) {
        if self.broken().is_none() {
            self.broken.store(violation as u8, Relaxed);
        }
    }

    pub(super) fn upgrade(&self) -> Upgrade {
        match self.upgrade.load(Relaxed) {
            1 => Upgrade::Awaited,
            2 => Upgrade::Declined,
            3 => Upgrade::Accepted,
            _ => Upgrade::None,
        }
    }

    pub(super) fn set_upgrade(&self, upgrade: Upgrade) {
        self.upgrade.store(upgrade as u8, Relaxed);
    }

    /// The connection has switched protocols: whatever comes passes.
    pub(in crate::proxy) fn accept_upgrade(&self) {
        self.set_upgrade(Upgrade::Accepted);
    }

    /// The request has been answered without a switch of protocols. True when that was awaited; the
    /// connection has to be polled then.
    pub(in crate::proxy) fn decline_upgrade(&self) -> bool {
        let is_awaited = self.upgrade() == Upgrade::Awaited;
        if is_awaited {
            self.set_upgrade(Upgrade::Declined);
        }
        is_awaited
    }

    /// The client owes more of a request body, and sends nothing.
    pub(in crate::proxy) fn is_starving(&self) -> bool {
        self.is_starving.load(Relaxed)
    }

    /// A request body has begun, and not ended.
    pub(in crate::proxy) fn is_in_body(&self) -> bool {
        self.is_in_body.load(Relaxed)
    }

    /// Says whether a request body is in progress, and whether more of it is waited for.
    pub(in crate::proxy) fn set_body(&self, is_in_body: bool, is_starving: bool) {
        self.is_in_body.store(is_in_body, Relaxed);
        self.is_starving.store(is_starving, Relaxed);
    }

    /// Bytes of request bodies; wraps.
    pub(in crate::proxy) fn body_bytes(&self) -> u64 {
        self.body_bytes.load(Relaxed)
    }

    /// Bytes of a request body have come.
    pub(in crate::proxy) fn count_body(&self, bytes: usize) {
        let sum = self.body_bytes().wrapping_add(bytes as u64);
        self.body_bytes.store(sum, Relaxed);
    }

    /// The response is sent, and what the client still sends is discarded.
    pub(in crate::proxy) fn is_lingering(&self) -> bool {
        self.is_lingering.load(Relaxed)
    }

    /// The response is sent; what comes now is discarded.
    pub(in crate::proxy) fn linger(&self) {
        self.is_lingering.store(true, Relaxed);
    }

    /// The connection ends now, whatever has not been taken of it.
    pub(in crate::proxy) fn cut(&self) {
        self.is_cut.store(true, Relaxed);
    }

    /// Whether the connection ends without waiting for what has not been taken.
    pub(in crate::proxy) fn is_cut(&self) -> bool {
        self.is_cut.load(Relaxed)
    }

    /// Control frames that were not made up for.
    pub(super) fn spent(&self) -> u32 {
        self.spent.load(Relaxed)
    }

    pub(super) fn set_spent(&self, spent: u32) {
        self.spent.store(spent, Relaxed);
    }

    /// Makes up for `frames` control frames: time has passed.
    pub(in crate::proxy) fn make_up(&self, frames: u32) {
        self.set_spent(self.spent().saturating_sub(frames));
    }
}

fn add(count: &AtomicU32, more: u32) {
    count.store(count.load(Relaxed).wrapping_add(more), Relaxed);
}

fn violation(cell: &AtomicU8) -> Option<Violation> {
    Violation::ALL.get(usize::from(cell.load(Relaxed))).copied()
}
