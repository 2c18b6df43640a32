//! One large zeroed array whose pages cost nothing until they are touched.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ops::Deref;
use std::ptr::NonNull;

/// A type for which all-zero bytes are a valid value, and which needs no drop.
///
/// # Safety
/// Both must hold.
#[expect(unsafe_code, reason = "the promise that the allocation below rests on")]
pub(super) unsafe trait Zeroable: Sync + Send {}

/// A fixed array of `T`, zero at first. The operating system provides its pages when they are first
/// touched, so a table sized for a million keys that sees ten thousand occupies what ten thousand need.
pub(super) struct Slab<T: Zeroable> {
    base: NonNull<u8>,
    layout: Layout,
    first: NonNull<T>,
    len: usize,
}

#[expect(
    unsafe_code,
    reason = "an aligned, lazily zeroed allocation; std touches every page when over-aligned"
)]
impl<T: Zeroable> Slab<T> {
    /// An array of `len` zero values.
    pub(super) fn new(len: usize) -> Self {
        const {
            assert!(align_of::<T>() >= align_of::<u64>() && size_of::<T>() > 0);
            assert!(!std::mem::needs_drop::<T>());
        };
        // Asking for the alignment of `u64` and aligning by hand keeps the allocator on `calloc`, which
        // leaves fresh pages alone; for larger alignments std allocates and then writes zeros.
        let bytes = len
            .checked_mul(size_of::<T>())
            .and_then(|bytes| bytes.checked_add(align_of::<T>()));
        let bytes = bytes.expect("a table of at most 2^30 rows of 64 bytes fits the address space");
        let layout = Layout::from_size_align(bytes, align_of::<u64>()).expect("far below isize::MAX");
        // SAFETY: `layout` has a non-zero size, since an alignment is added.
        let base = unsafe { alloc_zeroed(layout) };
        let Some(base) = NonNull::new(base) else {
            handle_alloc_error(layout)
        };
        let skip = base.align_offset(align_of::<T>());
        assert!(skip < align_of::<T>(), "pointers to bytes can always be aligned");
        // SAFETY: `skip < align_of::<T>()` and the allocation has that many bytes beyond `len` values,
        // so all of `first[..len]` lies within it.
        let first = unsafe { base.add(skip) }.cast::<T>();
        Self {
            base,
            layout,
            first,
            len,
        }
    }
}

#[expect(unsafe_code, reason = "see `Slab::new`")]
impl<T: Zeroable> Deref for Slab<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `first` is aligned and points to `len` values within one live allocation (see `new`);
        // zero bytes are valid values of `T` (`Zeroable`); and only shared references are ever made.
        unsafe { std::slice::from_raw_parts(self.first.as_ptr(), self.len) }
    }
}

#[expect(unsafe_code, reason = "see `Slab::new`")]
impl<T: Zeroable> Drop for Slab<T> {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this very layout, freed once, and `T` needs no drop.
        unsafe { dealloc(self.base.as_ptr(), self.layout) };
    }
}

impl<T: Zeroable> Slab<T> {
    /// As [`Slab::new`], in huge pages where the kernel has them: for arrays that are touched all over up
    /// to some index, in which address translation costs a random access as much as a cache miss.
    pub(super) fn in_huge_pages(len: usize) -> Self {
        let slab = Self::new(len);
        advise_huge_pages(slab.base, slab.layout.size());
        slab
    }
}

impl<T: Zeroable> Slab<T> {
    /// Begins to bring the value at `index` into the cache: where several are needed, they come together
    /// instead of one after the other. Only a hint, which some processors are not given.
    #[inline]
    pub(super) fn prefetch(&self, index: usize) {
        #[cfg(target_arch = "x86_64")]
        if let Some(value) = self.get(index) {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            #[expect(unsafe_code, reason = "std has no safe way to give the hint")]
            // SAFETY: a prefetch accesses nothing, and SSE is part of every x86-64 processor.
            unsafe {
                _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(value).cast());
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = index;
    }
}

/// Asks for huge pages. A refusal costs speed only.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "std has no way to advise the kernel")]
fn advise_huge_pages(base: NonNull<u8>, bytes: usize) {
    const HUGE_PAGE: usize = 2 << 20;
    // Only whole huge pages within the allocation, so nobody else's memory is advised upon.
    let skip = base.align_offset(HUGE_PAGE);
    let whole = bytes.saturating_sub(skip) / HUGE_PAGE * HUGE_PAGE;
    if whole > 0 {
        // SAFETY: the range lies within a live allocation, and the advice does not change its contents.
        unsafe { libc::madvise(base.add(skip).as_ptr().cast(), whole, libc::MADV_HUGEPAGE) };
    }
}

#[cfg(not(target_os = "linux"))]
fn advise_huge_pages(_base: NonNull<u8>, _bytes: usize) {}

// SAFETY: the slab owns its values and gives out shared references only; `T` is `Send` and `Sync`.
#[expect(unsafe_code, reason = "raw pointers switch the automatic implementation off")]
unsafe impl<T: Zeroable> Send for Slab<T> {}
// SAFETY: as above.
#[expect(unsafe_code, reason = "raw pointers switch the automatic implementation off")]
unsafe impl<T: Zeroable> Sync for Slab<T> {}
