//! What the machine offers below safe Rust: a stretch of memory that grows and gives back in huge
//! pages; prefetches; sixteen comparisons at once.

#![cfg_attr(
    not(miri),
    expect(unsafe_code, reason = "mappings and instructions that safe Rust cannot say")
)]

use std::error::Error;
use std::fmt;
use std::ops::{Deref, DerefMut};

#[cfg(not(miri))]
use self::mapping::Mapping;
#[cfg(miri)]
use self::standin::Mapping;

/// Bytes of a piece: one huge page.
pub const PIECE_BYTES: usize = 2 << 20;
/// Bytes that the rest of the process has from the kernel when it has no more for swarms, however
/// many stores there are: stacks of threads, what connections need.
const HEADROOM_BYTES: usize = 4 * PIECE_BYTES;
/// Words of a piece.
pub const PIECE_WORDS: usize = PIECE_BYTES / size_of::<u32>();

/// What the kernel refuses to a store that is to be made.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum NoMemory {
    /// So many bytes of address space: the process may not have as many.
    AddressSpace(usize),
    /// The first bytes of memory, few as they are: it commits to no more.
    Any,
}

impl fmt::Display for NoMemory {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddressSpace(bytes) => write!(
                out,
                "{} MiB of address space, twice a worker's share of swarm.memory, cannot be had: \
                 lower that, or raise the limit of virtual memory (ulimit -v)",
                bytes >> 20
            ),
            Self::Any => out.write_str(
                "the kernel commits to no memory for swarms: see vm.overcommit_memory, and the \
                 limit of data (ulimit -d)",
            ),
        }
    }
}

impl Error for NoMemory {}

/// Memory of our own, as words. Its address space is reserved at once, so that it never moves; it
/// grows by pieces, of which the kernel makes huge pages if it has them.
#[derive(Debug)]
pub struct Memory {
    mapping: Mapping,
    /// Words that may be used, from the beginning on: whole pieces.
    words: usize,
}

impl Memory {
    /// Reserves address space for `bytes`, none of it to be used yet.
    ///
    /// # Errors
    /// If the process may not have as much address space.
    pub fn reserve(bytes: usize) -> Result<Self, NoMemory> {
        let mapping = Mapping::new(bytes.div_ceil(PIECE_BYTES));
        let mapping = mapping.ok_or(NoMemory::AddressSpace(bytes))?;
        Ok(Self { mapping, words: 0 })
    }

    /// As much as others may need, if the kernel has it: they can have it once this is dropped.
    #[must_use]
    pub fn headroom() -> Option<Self> {
        let mut memory = Self::reserve(HEADROOM_BYTES).ok()?;
        (0..HEADROOM_BYTES / PIECE_BYTES).all(|_| memory.grow()).then_some(memory)
    }

    /// Pieces that may be used.
    #[must_use]
    pub const fn pieces(&self) -> usize {
        self.words / PIECE_WORDS
    }

    /// Adds a piece at the end, zeroed. Returns whether it could: everything that was reserved may
    /// be in use, or the kernel commits to no more.
    #[must_use]
    pub fn grow(&mut self) -> bool {
        let grown = self.mapping.open(self.pieces());
        if grown {
            self.words += PIECE_WORDS;
        }
        grown
    }

    /// Gives the memory of a piece back to the kernel. It is zeroed when it is used again.
    pub fn give_back(&mut self, piece: usize) {
        assert!(piece < self.pieces());
        self.mapping.give_back(piece);
    }

    /// Gives everything back.
    pub fn clear(&mut self) {
        (0..self.pieces()).for_each(|piece| self.mapping.give_back(piece));
    }
}

impl Deref for Memory {
    type Target = [u32];

    #[inline]
    fn deref(&self) -> &[u32] {
        self.mapping.words(self.words)
    }
}

impl DerefMut for Memory {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u32] {
        self.mapping.words_mut(self.words)
    }
}

/// Address space from the kernel.
#[cfg(not(miri))]
mod mapping {
    use std::ptr::NonNull;

    use rustix::mm::{
        Advice, MapFlags, MprotectFlags, ProtFlags, madvise, mmap_anonymous, mprotect, munmap,
    };

    use super::{PIECE_BYTES, PIECE_WORDS};

    /// `pieces` pieces of address space, aligned to their size. Invariant: those that were opened
    /// can be read and written as long as this lives, by nobody else.
    #[derive(Debug)]
    pub struct Mapping {
        start: NonNull<u32>,
        pieces: usize,
        opened: usize,
    }

    // SAFETY: the memory belongs to this value alone, as a box's would.
    unsafe impl Send for Mapping {}
    // SAFETY: as above; shared references only read.
    unsafe impl Sync for Mapping {}

    impl Mapping {
        pub fn new(pieces: usize) -> Option<Self> {
            // One more than asked for, of which the parts around the aligned pieces go back.
            let bytes = (pieces + 1) * PIECE_BYTES;
            let (anywhere, nothing) = (std::ptr::null_mut(), ProtFlags::empty());
            let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
            // SAFETY: a new mapping where the kernel likes.
            let mapped = unsafe { mmap_anonymous(anywhere, bytes, nothing, flags) };
            let mapped = mapped.ok()?.cast::<u8>();
            let before = mapped.align_offset(PIECE_BYTES);
            let start = mapped.wrapping_add(before);
            if before > 0 {
                // SAFETY: the beginning of the mapping made above, which nobody refers to.
                let _ = unsafe { munmap(mapped.cast(), before) };
            }
            let end = start.wrapping_add(pieces * PIECE_BYTES);
            // SAFETY: the end of the mapping made above, which nobody refers to.
            let _ = unsafe { munmap(end.cast(), PIECE_BYTES - before) };
            Some(Self { start: NonNull::new(start.cast())?, pieces, opened: 0 })
        }

        pub fn open(&mut self, piece: usize) -> bool {
            assert_eq!(piece, self.opened, "one after the other");
            if piece == self.pieces {
                return false;
            }
            let at = self.start.as_ptr().wrapping_add(piece * PIECE_WORDS).cast();
            let access = MprotectFlags::READ | MprotectFlags::WRITE;
            // SAFETY: inside the mapping (first line); nobody has a reference to it yet.
            if unsafe { mprotect(at, PIECE_BYTES, access) }.is_err() {
                return false;
            }
            // A kernel that has no huge pages is right to refuse: it is only advice.
            // SAFETY: advice about memory that is ours.
            let _ = unsafe { madvise(at, PIECE_BYTES, Advice::LinuxHugepage) };
            self.opened = piece + 1;
            true
        }

        pub fn give_back(&mut self, piece: usize) {
            assert!(piece < self.opened);
            let at = self.start.as_ptr().wrapping_add(piece * PIECE_WORDS).cast();
            // SAFETY: inside the mapping (above), and `&mut self`: nobody refers to what is there.
            unsafe { madvise(at, PIECE_BYTES, Advice::LinuxDontNeed) }.expect("memory of our own");
        }

        #[inline]
        pub fn words(&self, count: usize) -> &[u32] {
            debug_assert!(count <= self.opened * PIECE_WORDS);
            // SAFETY: `Memory` has opened so many words, which live as long as `self`; anonymous
            // memory is initialised.
            unsafe { std::slice::from_raw_parts(self.start.as_ptr(), count) }
        }

        #[inline]
        pub fn words_mut(&mut self, count: usize) -> &mut [u32] {
            debug_assert!(count <= self.opened * PIECE_WORDS);
            // SAFETY: as above, and borrowed mutably.
            unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), count) }
        }
    }

    impl Drop for Mapping {
        fn drop(&mut self) {
            let bytes = self.pieces * PIECE_BYTES;
            if bytes > 0 {
                // SAFETY: exactly what `new` kept; nobody can borrow it any more.
                let _ = unsafe { munmap(self.start.as_ptr().cast(), bytes) };
            }
        }
    }
}

/// What Miri uses, which knows no mappings: all of it at once, zeroed by the allocator and by
/// copies, which take an interpreter no time.
#[cfg(miri)]
mod standin {
    use super::PIECE_WORDS;

    #[derive(Debug)]
    pub struct Mapping {
        words: Vec<u32>,
    }

    impl Mapping {
        #[expect(clippy::unnecessary_wraps, reason = "the kernel may refuse")]
        pub fn new(pieces: usize) -> Option<Self> {
            Some(Self { words: vec![0; pieces * PIECE_WORDS] })
        }

        pub fn open(&mut self, piece: usize) -> bool {
            (piece + 1) * PIECE_WORDS <= self.words.len()
        }

        pub fn give_back(&mut self, piece: usize) {
            let zeros = vec![0; PIECE_WORDS];
            self.words[piece * PIECE_WORDS..][..PIECE_WORDS].copy_from_slice(&zeros);
        }

        pub fn words(&self, count: usize) -> &[u32] {
            &self.words[..count]
        }

        pub fn words_mut(&mut self, count: usize) -> &mut [u32] {
            &mut self.words[..count]
        }
    }
}

/// Bytes of a cache line.
pub const LINE_BYTES: usize = 64;

/// Tells the processor that all of `target` is wanted soon.
#[inline]
pub fn prefetch<T>(target: &T) {
    prefetch_from(std::ptr::from_ref(target).cast(), size_of::<T>().div_ceil(LINE_BYTES));
}

/// Tells the processor that some cache lines of `memory`, from a place on, are wanted soon.
#[inline]
pub fn prefetch_lines(memory: &[u32], at: usize, lines: usize) {
    prefetch_from(memory.as_ptr().wrapping_add(at).cast(), lines);
}

#[inline]
fn prefetch_from(first: *const u8, lines: usize) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    for line in 0..lines {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch has no effect but on the cache, whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(first.wrapping_add(LINE_BYTES * line).cast()) };
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = (first, lines);
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

/// Six bytes, eight times: what [`Needle::among`] compares with.
#[derive(Clone, Copy, Debug)]
pub struct Needle([[u8; 6]; 8]);

impl Needle {
    /// To look for these bytes.
    #[inline]
    #[must_use]
    pub const fn new(wanted: [u8; 6]) -> Self {
        Self([wanted; 8])
    }

    /// Which of eight are equal to it: bit 3n says so of the n-th.
    #[inline(always)]
    #[must_use]
    pub fn among(&self, eight: &[[u8; 6]; 8]) -> u32 {
        // Three words each: equal are those all of whose words are.
        let words = equal_words(eight.as_flattened(), self.0.as_flattened());
        words & (words >> 1) & (words >> 2) & 0x24_9249
    }
}

/// Which of the 24 words of two bytes are equal, as bits.
#[inline(always)]
fn equal_words(one: &[u8], other: &[u8]) -> u32 {
    let (one, other) = (one.as_chunks::<16>().0, other.as_chunks::<16>().0);
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: SSE2 is part of every x86-64; sixteen bytes are read each time, from any address.
    // JUSTIFICATION: `cargo bench --bench instructions`: 60 instructions an announce, of which a
    // loop over the endpoints takes 110.
    #[expect(clippy::multiple_unsafe_ops_per_block, reason = "three comparisons as one")]
    unsafe {
        use std::arch::x86_64::{
            _mm_cmpeq_epi16, _mm_loadu_si128, _mm_movemask_epi8, _mm_packs_epi16,
        };
        let [first, second, third] = std::array::from_fn(|at| {
            let one = _mm_loadu_si128(one[at].as_ptr().cast());
            let other = _mm_loadu_si128(other[at].as_ptr().cast());
            _mm_cmpeq_epi16(one, other)
        });
        let low = _mm_movemask_epi8(_mm_packs_epi16(first, second)).cast_unsigned();
        let high = _mm_movemask_epi8(_mm_packs_epi16(third, third)).cast_unsigned();
        low | ((high & 0xFF) << 16)
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    {
        let words = one.as_flattened().chunks_exact(2).zip(other.as_flattened().chunks_exact(2));
        words.enumerate().fold(0, |mask, (at, (a, b))| mask | u32::from(a == b) << at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_refused_comes_with_its_remedy() {
        let text = NoMemory::AddressSpace(3 << 20).to_string();
        assert!(text.contains("3 MiB") && text.contains("ulimit -v"), "{text}");
        let text = NoMemory::Any.to_string();
        assert!(text.contains("vm.overcommit_memory") && text.contains("ulimit -d"), "{text}");
    }

    #[test]
    fn a_needle_is_found_wherever_it_is_and_only_there() {
        let mut eight = [[1, 2, 3, 4, 5, 6]; 8];
        assert_eq!(Needle::new([1, 2, 3, 4, 5, 6]).among(&eight), 0x24_9249);
        for at in 0..8 {
            for byte in 0..6 {
                let before = eight[at];
                eight[at][byte] ^= 0x80;
                assert_eq!(Needle::new(eight[at]).among(&eight), 1 << (3 * at));
                assert_eq!(Needle::new(before).among(&eight), 0x24_9249 ^ 1 << (3 * at));
                eight[at] = before;
            }
        }
        // The halves of neighbours do not make one.
        assert_eq!(Needle::new([4, 5, 6, 1, 2, 3]).among(&eight), 0);
        assert_eq!(Needle::new([3, 4, 5, 6, 1, 2]).among(&eight), 0);
    }

    #[test]
    #[cfg_attr(miri, ignore = "too many steps for an interpreter")]
    fn memory_grows_in_place_and_is_zeroed_when_it_is_used_again() {
        let mut memory = Memory::reserve(3 * PIECE_BYTES).expect("address space");
        assert_eq!(memory.len(), 0);
        for piece in 0..3 {
            assert!(memory.grow());
            assert_eq!((memory.pieces(), memory.len()), (piece + 1, (piece + 1) * PIECE_WORDS));
            let first = piece * PIECE_WORDS;
            assert!(memory[first..].iter().step_by(511).all(|&word| word == 0));
            (memory[first], memory[first + PIECE_WORDS - 1]) = (7, 8);
        }
        #[cfg(not(miri))]
        assert!(memory.as_ptr().addr().is_multiple_of(PIECE_BYTES));
        memory.give_back(1);
        let seen: Vec<u32> = memory.iter().copied().filter(|&word| word != 0).collect();
        assert_eq!(seen, [7, 8, 7, 8]);
        memory[PIECE_WORDS] = 9;
        memory.clear();
        assert!(memory.iter().step_by(512).all(|&word| word == 0));
    }

    #[test]
    #[cfg(not(miri))]
    fn more_than_there_can_be_is_refused() {
        let bytes = 1 << 60;
        assert_eq!(Memory::reserve(bytes).err(), Some(NoMemory::AddressSpace(bytes)));
    }

    #[test]
    fn memory_ends_where_its_reservation_does() {
        let mut memory = Memory::reserve(1).expect("address space");
        assert_eq!([memory.grow(), memory.grow()], [true, false]);
        assert_eq!(memory.pieces(), 1);
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
