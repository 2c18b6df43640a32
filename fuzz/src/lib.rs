//! What the targets share: an allocator that counts, so that a target can judge memory bounds.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicIsize, Ordering::Relaxed};

/// The system's allocator with a count of the live bytes.
pub struct Counting;

static LIVE: AtomicIsize = AtomicIsize::new(0);

fn add(bytes: usize) {
    LIVE.fetch_add(bytes.cast_signed(), Relaxed);
}

fn subtract(bytes: usize) {
    LIVE.fetch_sub(bytes.cast_signed(), Relaxed);
}

// SAFETY: every call goes to `System` unchanged; the count touches no memory of the caller.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add(layout.size());
        // SAFETY: the caller's promise about `layout` is the one that `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        add(layout.size());
        // SAFETY: as in `alloc`. Passed on so that large tables stay untouched pages.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        subtract(layout.size());
        // SAFETY: `pointer` came from `System` with this layout, as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Bytes allocated and not yet freed.
pub fn live_bytes() -> isize {
    LIVE.load(Relaxed)
}
