//! The list of changed rows: request threads push, the gossip thread takes.
//!
//! A linked list through the slots themselves, so it allocates nothing and can never be longer than the
//! table. A slot stands in it at most once, whoever its tenant is.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};

use super::slot::Slot;

/// Values of a link: not in the list, last of the list, or the slot of that index + [`FIRST`].
const OUT: u32 = 0;
const END: u32 = 1;
const FIRST: u32 = 2;

pub(super) struct Changed {
    /// What was pushed since the gossip thread last emptied it.
    pushed: AtomicU32,
    /// What the gossip thread is handing out. Only takers lock it, never a request thread.
    taken: Mutex<u32>,
}

impl Changed {
    pub(super) fn new() -> Self {
        Self {
            pushed: AtomicU32::new(END),
            taken: Mutex::new(END),
        }
    }

    /// Puts `index` in the list unless it is there.
    ///
    /// No change is lost: the caller changes `state` and then reads the link; [`Changed::pop`] unlinks
    /// and its caller then reads `state`. All four are SeqCst, so either the link is seen as out, and
    /// the slot is pushed again, or the taker sees the change.
    #[inline]
    pub(super) fn push(&self, slots: &[Slot], index: u32) {
        let link = &slots[index as usize].next_changed;
        if link.load(SeqCst) != OUT || link.compare_exchange(OUT, END, SeqCst, Relaxed).is_err() {
            return;
        }
        let mut head = self.pushed.load(Relaxed);
        loop {
            link.store(head, Relaxed);
            match self
                .pushed
                .compare_exchange_weak(head, index + FIRST, Release, Relaxed)
            {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }

    /// Takes one index out of the list. All that was pushed before the list was last emptied comes
    /// before anything later, so no row waits for ever behind busier ones.
    pub(super) fn pop(&self, slots: &[Slot]) -> Option<u32> {
        // Nothing in here panics while the list is half changed.
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if *taken == END {
            *taken = self.pushed.swap(END, AcqRel);
        }
        let index = taken.checked_sub(FIRST)?;
        let link = &slots[index as usize].next_changed;
        *taken = link.load(Acquire);
        link.store(OUT, SeqCst);
        Some(index)
    }
}
