//! An allocator that knows who holds what.
//!
//! Large blocks are booked under the innermost function of this library that asked for them, found by a
//! backtrace; small ones, of which there are too many for that, together, rounded up to 16 bytes.

use std::alloc::{GlobalAlloc, Layout, System};
use std::backtrace::Backtrace;
use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::Relaxed};
use std::sync::{LazyLock, Mutex, PoisonError};

/// Blocks of at least this many bytes are booked one by one.
const LARGE_BYTES: usize = 64 << 10;
/// Small blocks are counted by classes of this many bytes.
const CLASS_BYTES: usize = 16;
const CLASSES: usize = LARGE_BYTES / CLASS_BYTES;

/// By address of a large block, its bytes and the call that made it.
static LARGE: LazyLock<Mutex<HashMap<usize, (usize, String)>>> = LazyLock::new(Mutex::default);

thread_local! {
    /// Booking allocates, and is not booked.
    static IS_BOOKING: Cell<bool> = const { Cell::new(false) };
}

/// The allocator of this program.
pub(crate) struct Ledger {
    is_open: AtomicBool,
    small: [AtomicI64; CLASSES],
}

/// What was held when the ledger was closed.
pub(crate) struct Account {
    pub(crate) bytes: u64,
    /// Owner, bytes and blocks, by bytes.
    pub(crate) owners: Vec<(String, u64, u64)>,
}

impl Ledger {
    pub(crate) const fn new() -> Self {
        Self {
            is_open: AtomicBool::new(false),
            small: [const { AtomicI64::new(0) }; CLASSES],
        }
    }

    /// Begins to book.
    pub(crate) fn open(&self) {
        LazyLock::force(&LARGE);
        self.is_open.store(true, Relaxed);
    }

    /// Ends it.
    pub(crate) fn close(&self) -> Account {
        self.is_open.store(false, Relaxed);
        let mut owners: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        for (bytes, trace) in LARGE.lock().unwrap_or_else(PoisonError::into_inner).values() {
            let owner = owners.entry(owner_in(trace)).or_default();
            *owner = (owner.0 + *bytes as u64, owner.1 + 1);
        }
        let mut small = (0, 0);
        for (class, blocks) in self.small.iter().enumerate() {
            // A block from before the ledger was opened may have been freed since.
            let blocks = u64::try_from(blocks.load(Relaxed)).unwrap_or(0);
            small.0 += blocks * ((class + 1) * CLASS_BYTES) as u64;
            small.1 += blocks;
        }
        owners.insert(format!("blocks below {LARGE_BYTES} bytes"), small);
        let mut owners: Vec<_> = owners
            .into_iter()
            .map(|(owner, (bytes, blocks))| (owner, bytes, blocks))
            .collect();
        owners.sort_by_key(|(_, bytes, _)| std::cmp::Reverse(*bytes));
        Account {
            bytes: owners.iter().map(|(_, bytes, _)| bytes).sum(),
            owners,
        }
    }

    fn book(&self, address: usize, bytes: usize, made: bool) {
        if !self.is_open.load(Relaxed) || bytes == 0 {
            return;
        }
        if bytes < LARGE_BYTES {
            self.small[(bytes - 1) / CLASS_BYTES].fetch_add(if made { 1 } else { -1 }, Relaxed);
        } else if !IS_BOOKING.replace(true) {
            let trace = made.then(|| Backtrace::force_capture().to_string());
            let mut large = LARGE.lock().unwrap_or_else(PoisonError::into_inner);
            match trace {
                Some(trace) => large.insert(address, (bytes, trace)),
                None => large.remove(&address),
            };
            drop(large);
            IS_BOOKING.set(false);
        }
    }
}

/// The innermost frame of this library in a backtrace.
fn owner_in(trace: &str) -> String {
    let names = trace
        .lines()
        .filter_map(|line| line.trim_start().split_once(": ").map(|(_, name)| name));
    let mut ours = names.filter(|name| name.contains("weir::"));
    ours.next().unwrap_or("something else").to_owned()
}

#[expect(unsafe_code, reason = "an allocator's contract")]
// SAFETY: every call is passed on to the system's allocator unchanged, and its answer returned.
unsafe impl GlobalAlloc for Ledger {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract of `alloc`, which is the same.
        let block = unsafe { System.alloc(layout) };
        self.book(block.addr(), layout.size(), true);
        block
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as in `alloc`.
        let block = unsafe { System.alloc_zeroed(layout) };
        self.book(block.addr(), layout.size(), true);
        block
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        self.book(block.addr(), layout.size(), false);
        // SAFETY: as in `alloc`.
        let block = unsafe { System.realloc(block, layout, bytes) };
        self.book(block.addr(), bytes, true);
        block
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        self.book(block.addr(), layout.size(), false);
        // SAFETY: as in `alloc`.
        unsafe { System.dealloc(block, layout) };
    }
}
