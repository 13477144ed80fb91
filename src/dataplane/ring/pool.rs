//! Buffers lent to the kernel: it picks one for each receive, we give it back after use.
//!
//! Every buffer is at any moment either the kernel's (its id stands between head and tail of the
//! shared ring) or ours (a completion named it, and [`Pool::recycle`] has not been called). The
//! memory is allocated once, zeroed, and never moves.

#![expect(unsafe_code, reason = "memory shared with the kernel")]

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::IoUring;
use io_uring::types::BufRingEntry;

/// The alignment that the kernel wants for the shared ring: the largest page of any Linux.
const PAGE_BYTES: usize = 65_536;

/// A group of equal buffers.
pub(super) struct Pool {
    /// The shared ring; its first entry's spare field is the tail.
    entries: NonNull<BufRingEntry>,
    /// The buffers, one behind the other.
    base: NonNull<u8>,
    /// A power of two, at most 2^15.
    count: u16,
    buffer_bytes: usize,
    group: u16,
    /// Buffers given to the kernel since start, modulo 2^16: what it reads as the tail.
    tail: u16,
    leaked: bool,
}

impl Pool {
    /// Allocates `count` buffers and lends all of them to the kernel as `group`.
    pub(super) fn new(
        uring: &IoUring,
        group: u16,
        count: u16,
        buffer_bytes: usize,
    ) -> io::Result<Self> {
        assert!(count.is_power_of_two() && count <= 1 << 15);
        let mut pool = Self {
            entries: allocate(Self::entries_layout(count)).cast(),
            base: allocate(Self::buffers_layout(count, buffer_bytes)),
            count,
            buffer_bytes,
            group,
            tail: 0,
            leaked: false,
        };
        let address = pool.entries.as_ptr() as u64;
        // SAFETY: the ring lies at `address`, is page-aligned, has `count` entries, and lives until
        // `drop`, which `Ring` lets happen only when the kernel is done with it.
        unsafe { uring.submitter().register_buf_ring_with_flags(address, count, group, 0) }?;
        for buffer in 0..count {
            pool.recycle(buffer);
        }
        Ok(pool)
    }

    pub(super) const fn group(&self) -> u16 {
        self.group
    }

    /// The bytes of a buffer that a completion named.
    pub(super) fn bytes(&self, buffer: u16) -> &[u8] {
        assert!(buffer < self.count);
        let offset = usize::from(buffer) * self.buffer_bytes;
        // SAFETY: in bounds: `buffer < count` (above), and `count * buffer_bytes` were allocated.
        let first = unsafe { self.base.add(offset) };
        // SAFETY: the length is one buffer's. Initialised: the allocation was zeroed. Not written
        // meanwhile: the kernel gave this buffer up with the completion that named it, and gets it
        // back by `recycle`, which takes `&mut self` and so waits for this borrow.
        unsafe { std::slice::from_raw_parts(first.as_ptr(), self.buffer_bytes) }
    }

    /// Lends a buffer to the kernel again.
    pub(super) fn recycle(&mut self, buffer: u16) {
        assert!(buffer < self.count);
        let address = self.base.as_ptr() as u64 + u64::from(buffer) * self.buffer_bytes as u64;
        let index = usize::from(self.tail & (self.count - 1));
        // SAFETY: `index < count`, and `count` entries were allocated.
        let mut entry = unsafe { self.entries.add(index) };
        // SAFETY: the entry is ours: the kernel reads entries between its head and the tail, and
        // this one is published by the store to the tail below. No other reference exists.
        let entry = unsafe { entry.as_mut() };
        entry.set_addr(address);
        entry.set_len(u32::try_from(self.buffer_bytes).expect("a few KiB"));
        entry.set_bid(buffer);
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: `entries` is the base of the registered ring, of which the tail is a part.
        let tail = unsafe { BufRingEntry::tail(self.entries.as_ptr()) };
        // SAFETY: aligned and valid as long as the ring; the kernel only reads it, atomically.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }

    /// Gives up the memory for ever, because the kernel may still write to it.
    pub(super) const fn leak(&mut self) {
        self.leaked = true;
    }

    fn entries_layout(count: u16) -> Layout {
        Layout::array::<BufRingEntry>(usize::from(count))
            .and_then(|layout| layout.align_to(PAGE_BYTES))
            .expect("at most half a MiB")
    }

    fn buffers_layout(count: u16, buffer_bytes: usize) -> Layout {
        Layout::from_size_align(usize::from(count) * buffer_bytes, PAGE_BYTES)
            .expect("some MiB at the most")
    }
}

fn allocate(layout: Layout) -> NonNull<u8> {
    assert!(layout.size() > 0);
    // SAFETY: the size is not zero (above).
    let memory = unsafe { alloc_zeroed(layout) };
    NonNull::new(memory).unwrap_or_else(|| handle_alloc_error(layout))
}

impl Drop for Pool {
    fn drop(&mut self) {
        if self.leaked {
            return;
        }
        let layout = Self::entries_layout(self.count);
        // SAFETY: allocated in `new` with this very layout, and freed once.
        unsafe { dealloc(self.entries.as_ptr().cast(), layout) };
        let layout = Self::buffers_layout(self.count, self.buffer_bytes);
        // SAFETY: allocated in `new` with this very layout, and freed once.
        unsafe { dealloc(self.base.as_ptr(), layout) };
    }
}
