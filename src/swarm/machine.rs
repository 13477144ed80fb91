//! What the machine offers below safe Rust: memory in pieces of 2 MiB, huge pages where the kernel
//! has them; prefetches; sixteen comparisons at once.

#![expect(unsafe_code, reason = "mappings and instructions that safe Rust cannot say")]

use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// Bytes of a piece: one huge page.
pub const PAGES_BYTES: usize = 2 << 20;

/// A piece of zeroed memory of our own, aligned to its size; given back to the kernel at once when
/// dropped.
#[derive(Debug)]
pub struct Pages(NonNull<u8>);

// SAFETY: the memory belongs to this value alone, as a box's would.
unsafe impl Send for Pages {}
// SAFETY: as above; shared references only read.
unsafe impl Sync for Pages {}

impl Pages {
    /// Maps a piece.
    ///
    /// # Panics
    /// If the kernel has no memory left, as any allocation would.
    #[cfg(not(miri))]
    #[must_use]
    pub fn new() -> Self {
        use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // Twice as much, of which the part around the aligned piece goes back.
        let len = 2 * PAGES_BYTES;
        // SAFETY: a new mapping where the kernel likes.
        let mapped =
            unsafe { mmap_anonymous(std::ptr::null_mut(), len, protection, MapFlags::PRIVATE) };
        let start = mapped.expect("memory for swarms").cast::<u8>();
        // The upper piece if both are aligned: the kernel maps downwards, and neighbours become one
        // mapping for it, of which a process may not have many.
        let before = match start.align_offset(PAGES_BYTES) {
            0 => PAGES_BYTES,
            before => before,
        };
        let aligned = start.wrapping_add(before);
        let after = PAGES_BYTES - before;
        if before > 0 {
            // SAFETY: the beginning of the mapping made above, which nobody refers to.
            let _ = unsafe { munmap(start.cast(), before) };
        }
        if after > 0 {
            // SAFETY: the end of the mapping made above, which nobody refers to.
            let _ = unsafe { munmap(aligned.wrapping_add(PAGES_BYTES).cast(), after) };
        }
        // A kernel that has no huge pages is right to refuse: it is only advice.
        // SAFETY: advice about memory that is ours.
        let _ = unsafe { madvise(aligned.cast(), PAGES_BYTES, Advice::LinuxHugepage) };
        Self(NonNull::new(aligned).expect("a mapping is never at 0"))
    }

    /// Takes a piece from the allocator: there are no mappings under Miri.
    #[cfg(miri)]
    #[must_use]
    pub fn new() -> Self {
        // SAFETY: the size is not 0.
        let start = unsafe { std::alloc::alloc_zeroed(Self::LAYOUT) };
        Self(NonNull::new(start).expect("memory for swarms"))
    }

    #[cfg(miri)]
    const LAYOUT: std::alloc::Layout =
        match std::alloc::Layout::from_size_align(PAGES_BYTES, PAGES_BYTES) {
            Ok(layout) => layout,
            Err(_) => panic!("a power of two"),
        };
}

impl Drop for Pages {
    fn drop(&mut self) {
        #[cfg(not(miri))]
        // SAFETY: exactly what `new` mapped; nobody can borrow it any more.
        let _ = unsafe { rustix::mm::munmap(self.0.as_ptr().cast(), PAGES_BYTES) };
        #[cfg(miri)]
        // SAFETY: allocated by `new` with the same layout.
        unsafe {
            std::alloc::dealloc(self.0.as_ptr(), Self::LAYOUT);
        }
    }
}

impl Deref for Pages {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `PAGES_BYTES` initialised bytes that live as long as `self`.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr(), PAGES_BYTES) }
    }
}

impl DerefMut for Pages {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_ptr(), PAGES_BYTES) }
    }
}

/// Tells the processor that the cache line at the beginning of `target` is wanted soon.
#[inline]
pub fn prefetch<T: ?Sized>(target: &T) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: a prefetch has no effect but on the cache, and the address is valid.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(target).cast());
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = target;
}

/// Tells the processor that all of `target` is wanted soon.
#[inline]
pub fn prefetch_all<T>(target: &T) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    for line in 0..size_of::<T>().div_ceil(64) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let at = std::ptr::from_ref(target).cast::<i8>().wrapping_add(64 * line);
        // SAFETY: a prefetch has no effect but on the cache, whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at) };
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = target;
}

/// The positions at which `bytes` holds `byte`, as bits.
#[inline]
#[must_use]
pub fn equal_bytes(bytes: &[u8; 16], byte: u8) -> u32 {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: SSE2 is part of every x86-64; sixteen bytes are read, from any address.
    #[expect(clippy::multiple_unsafe_ops_per_block, reason = "one comparison")]
    unsafe {
        use std::arch::x86_64::{
            _mm_cmpeq_epi8, _mm_loadu_si128, _mm_movemask_epi8, _mm_set1_epi8,
        };
        let all = _mm_loadu_si128(bytes.as_ptr().cast());
        let equal = _mm_cmpeq_epi8(all, _mm_set1_epi8(byte.cast_signed()));
        _mm_movemask_epi8(equal).cast_unsigned()
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    bytes.iter().enumerate().fold(0, |mask, (at, &other)| mask | u32::from(other == byte) << at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_aligned_zeroed_and_writable() {
        let mut all: Vec<Pages> = (0..5).map(|_| Pages::new()).collect();
        for (number, pages) in (1_u8..).zip(&mut all) {
            assert!(pages.as_ptr().addr().is_multiple_of(PAGES_BYTES));
            assert!(pages.iter().step_by(511).all(|&byte| byte == 0));
            pages[0] = number;
            pages[PAGES_BYTES - 1] = number;
        }
        for (number, pages) in (1_u8..).zip(&all) {
            assert_eq!((pages[0], pages[PAGES_BYTES - 1]), (number, number));
        }
    }

    #[test]
    fn equal_bytes_are_found_at_every_position() {
        for at in 0..16 {
            let mut bytes = [7; 16];
            bytes[at] = 200;
            assert_eq!(equal_bytes(&bytes, 200), 1 << at);
            assert_eq!(equal_bytes(&bytes, 7), 0xFFFF ^ (1 << at));
            assert_eq!(equal_bytes(&bytes, 0), 0);
        }
    }
}
