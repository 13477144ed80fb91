//! Memory in blocks of size classes.
//!
//! ```text
//! piece   2 MiB, a huge page         | span | span | ...                      32 spans
//! span    64 KiB, of one class       | block | block | block | ...
//! block   44 bytes to 8 KiB          one swarm with its peers, a run, a shard
//! ```
//!
//! A block is named by its place and never moves by itself. Freed blocks are used again first; a
//! span whose blocks are all free serves any class; pieces whose spans are all free go back to the
//! kernel. What a slab holds is counted in spans, so that the budget is about real memory.

use std::num::NonZeroU32;

use super::class::{CLASSES, Class, GROUPS};
use super::machine::{Memory, NoMemory, PIECE_BYTES, prefetch_lines};

/// Bytes of a span.
pub const SPAN_BYTES: usize = 64 * 1_024;
/// Spans of one piece.
const SPANS_PER_PIECE: usize = PIECE_BYTES / SPAN_BYTES;
/// Spans that one announce may need at the most: blocks of three classes, and those of a table that
/// grows. What only saves memory leaves as many.
pub const RESERVE_SPANS: usize = 6;
/// Bytes of a word: blocks begin at words.
const WORD: usize = size_of::<u32>();
/// Words of a span, a power of two.
const SPAN_WORDS: usize = SPAN_BYTES / WORD;
/// The end of a list of spans.
const NONE: u32 = u32::MAX;

/// A block. Valid until it is freed.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Block(NonZeroU32);

impl Block {
    /// The one at the beginning of the memory.
    pub const FIRST: Self = Self(NonZeroU32::MIN);

    fn new(span: usize, offset: usize) -> Self {
        let number = span * SPAN_WORDS + offset / WORD + 1;
        let number = u32::try_from(number).expect("the budget is below 16 GiB");
        Self(NonZeroU32::new(number).expect("a position plus one"))
    }

    /// As a number that is never 0.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0.get()
    }

    /// The block of a number; `None` for 0.
    #[must_use]
    pub const fn from_number(number: u32) -> Option<Self> {
        match NonZeroU32::new(number) {
            Some(number) => Some(Self(number)),
            None => None,
        }
    }

    /// The place of its first word.
    #[inline]
    const fn at(self) -> usize {
        self.0.get() as usize - 1
    }

    /// What begins so many words behind its beginning.
    #[must_use]
    #[inline]
    pub fn behind(self, words: usize) -> Self {
        let number = u32::try_from(self.0.get() as usize + words).expect("a place in the memory");
        Self(NonZeroU32::new(number).expect("not less than it was"))
    }

    /// Whether it begins at a multiple of so many bytes.
    #[must_use]
    pub const fn is_aligned(self, bytes: usize) -> bool {
        (self.at() * WORD).is_multiple_of(bytes)
    }

    /// The span it lies in.
    #[must_use]
    pub fn span(self) -> usize {
        self.at() / SPAN_WORDS
    }
}

/// Blocks of a class in one span.
fn per_span(class: Class) -> u16 {
    u16::try_from(SPAN_BYTES / class.bytes()).expect("a block has 44 bytes at least")
}

/// What the blocks of a span hold.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Use {
    /// Swarms, or parts of them, which can be told from free blocks by looking at them.
    Swarms = 0,
    /// Parts of what is larger: runs of long lists, shards of tables.
    Parts = 1,
}

/// What is known of a span.
#[derive(Clone, Copy, Debug)]
struct Span {
    class: Class,
    usage: Use,
    /// Whether it has a class at all.
    in_use: bool,
    /// Blocks in use.
    used: u16,
    /// Blocks that have been in use: those behind them were never touched.
    fresh: u16,
    /// The first of the freed blocks, plus one; each holds the next in its first two bytes.
    freed: u16,
    /// Blocks that its user has marked: swarms on probation.
    marked: u16,
    /// Neighbours among the spans of its class that have room.
    before: u32,
    after: u32,
}

const UNUSED: Span = Span {
    class: Class::from_number(0),
    usage: Use::Swarms,
    in_use: false,
    used: 0,
    fresh: 0,
    freed: 0,
    marked: 0,
    before: NONE,
    after: NONE,
};

/// Blocks of all classes.
#[derive(Debug)]
pub struct Slab {
    memory: Memory,
    /// [`SPANS_PER_PIECE`] for each piece of `memory`.
    spans: Vec<Span>,
    /// Spans in use, of each piece.
    piece_spans: Vec<u8>,
    /// For each use and class, the first span that has room.
    with_room: [[u32; CLASSES]; 2],
    /// Spans in use, by use and class.
    in_use: [[u32; CLASSES]; 2],
    /// Spans in use.
    spans_in_use: usize,
    /// Blocks in use for swarms.
    swarm_blocks: usize,
    /// Spans in use that are enough: above, nothing moves only to save memory.
    spans_enough: usize,
    /// Spans that have been given up.
    given_up: u64,
    /// A piece without spans in use that was not given back.
    spare: Option<usize>,
    /// Blocks marked.
    marked: usize,
}

impl Slab {
    /// Holds nothing, and is meant to hold `bytes` at the most.
    ///
    /// # Errors
    /// If the process may not have address space for it.
    pub fn new(bytes: usize) -> Result<Self, NoMemory> {
        // Address space costs nothing, and to be without it would be the end: so there is twice as
        // much, though only announces may go above `bytes`, and make room before they do.
        let mut slab = Self {
            memory: Memory::reserve(2 * bytes + 16 * PIECE_BYTES)?,
            spans: Vec::new(),
            piece_spans: Vec::new(),
            with_room: [[NONE; CLASSES]; 2],
            in_use: [[0; CLASSES]; 2],
            spans_in_use: 0,
            swarm_blocks: 0,
            spans_enough: bytes / SPAN_BYTES,
            given_up: 0,
            spare: None,
            marked: 0,
        };
        // The first piece at once: without any there is no store.
        if slab.grow() { Ok(slab) } else { Err(NoMemory::Any) }
    }

    /// Where the kernel commits to so many pieces and no more.
    #[cfg(any(test, fuzzing))]
    pub fn of_pieces(pieces: usize) -> Self {
        let mut slab = Self::new(0).expect("address space");
        slab.memory = Memory::reserve(pieces * PIECE_BYTES).expect("address space");
        assert!(slab.memory.grow());
        slab.spans_enough = usize::MAX;
        slab
    }

    /// Forgets all blocks and gives all memory back.
    pub fn clear(&mut self) {
        self.memory.clear();
        self.given_up += 1;
        self.spans.fill(UNUSED);
        self.piece_spans.fill(0);
        (self.with_room, self.in_use) = ([[NONE; CLASSES]; 2], [[0; CLASSES]; 2]);
        (self.spans_in_use, self.spare) = (0, None);
        (self.swarm_blocks, self.marked) = (0, 0);
    }

    /// Bytes of spans in use.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.spans_in_use * SPAN_BYTES
    }

    /// Bytes of spans in use, by the group of their class.
    #[must_use]
    pub fn group_bytes(&self) -> [u64; GROUPS.len()] {
        let mut bytes = [0; GROUPS.len()];
        for class in Class::all() {
            let spans: u32 = self.in_use.iter().map(|of_use| of_use[class.index()]).sum();
            bytes[class.group()] += u64::from(spans) * SPAN_BYTES as u64;
        }
        bytes
    }

    /// Spans that have been given up. While this stays the same, where a block of swarms was there
    /// is one still, in use or free.
    #[must_use]
    #[inline]
    pub const fn given_up(&self) -> u64 {
        self.given_up
    }

    /// Spans that there are, in use or not: their numbers are below.
    #[must_use]
    pub const fn spans(&self) -> usize {
        self.spans.len()
    }

    /// Bytes of all spans, in use or not.
    #[must_use]
    pub const fn bytes_there(&self) -> usize {
        self.spans.len() * SPAN_BYTES
    }

    /// Spans that are not in use, and need no word of the kernel.
    #[must_use]
    pub const fn free_spans(&self) -> usize {
        self.spans.len() - self.spans_in_use
    }

    /// Asks the kernel for spans, a piece of them, if that leaves others their headroom. Returns
    /// whether they are there.
    #[must_use]
    pub fn grow(&mut self) -> bool {
        let grown = Memory::headroom().is_some_and(|_headroom| self.memory.grow());
        if grown {
            self.spans.resize(self.memory.pieces() * SPANS_PER_PIECE, UNUSED);
            self.piece_spans.push(0);
        }
        grown
    }

    /// What lies behind the beginning of a block: the block, and others.
    #[must_use]
    #[inline]
    pub fn tail(&self, block: Block) -> &[u32] {
        &self.memory[block.at()..]
    }

    /// What lies behind the beginning of a block: the block, and others.
    #[inline]
    pub fn tail_mut(&mut self, block: Block) -> &mut [u32] {
        &mut self.memory[block.at()..]
    }

    /// The first `N` words of a block.
    #[must_use]
    #[inline]
    pub fn words<const N: usize>(&self, block: Block) -> &[u32; N] {
        self.tail(block).first_chunk().expect("blocks do not end behind the memory")
    }

    /// The first `N` words of a block.
    #[inline]
    pub fn words_mut<const N: usize>(&mut self, block: Block) -> &mut [u32; N] {
        self.tail_mut(block).first_chunk_mut().expect("blocks do not end behind the memory")
    }

    /// The first `len` bytes of a block.
    #[must_use]
    #[inline]
    pub fn get(&self, block: Block, len: usize) -> &[u8] {
        &bytemuck::cast_slice(self.tail(block))[..len]
    }

    /// The first `len` bytes of a block.
    #[inline]
    pub fn get_mut(&mut self, block: Block, len: usize) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut(self.tail_mut(block))[..len]
    }

    /// The beginnings of two different blocks, the second to be written to.
    pub fn pair(
        &mut self,
        (from, from_len): (Block, usize),
        (to, to_len): (Block, usize),
    ) -> (&[u8], &mut [u8]) {
        let (low, high) = self.memory.split_at_mut(from.at().max(to.at()));
        let (from, to) =
            if from < to { (&mut low[from.at()..], high) } else { (high, &mut low[to.at()..]) };
        (&bytemuck::cast_slice(from)[..from_len], &mut bytemuck::cast_slice_mut(to)[..to_len])
    }

    /// Tells the processor that some cache lines of a block are wanted soon, those from its word
    /// `from` on.
    #[inline]
    pub fn prefetch(&self, block: Block, from: usize, lines: usize) {
        prefetch_lines(&self.memory, block.at() + from, lines);
    }

    /// Whether it is worth it to move something to a block of a class only because the other is too
    /// large: not if that would need a span more than there may be, or one of the reserve.
    #[must_use]
    pub fn can_save(&self, usage: Use, class: Class) -> bool {
        self.spans_in_use < self.spans_enough && self.free_spans() > RESERVE_SPANS
            || self.has_room(usage, class)
    }

    /// Whether a block of a class can be had without another span.
    #[must_use]
    pub fn has_room(&self, usage: Use, class: Class) -> bool {
        self.with_room[usage as usize][class.index()] != NONE
    }

    /// A block, with whatever was in it before.
    pub fn allocate(&mut self, usage: Use, class: Class) -> Block {
        let list = self.with_room[usage as usize][class.index()];
        let number = if list == NONE { self.open_span(usage, class) } else { list as usize };
        let span = self.spans[number];
        let (index, next) = if span.freed == 0 {
            (span.fresh, 0)
        } else {
            let index = span.freed - 1;
            let block = Block::new(number, usize::from(index) * class.bytes());
            let next: [u8; 2] = self.get(block, 2).try_into().expect("two bytes");
            (index, u16::from_be_bytes(next))
        };
        let span = &mut self.spans[number];
        span.used += 1;
        self.swarm_blocks += usize::from(usage == Use::Swarms);
        span.fresh = span.fresh.max(index + 1);
        span.freed = next;
        if span.used == per_span(class) {
            self.unlink(number);
        }
        Block::new(number, usize::from(index) * class.bytes())
    }

    /// Takes a block back. Its first two bytes are the slab's from now on; the rest is left alone.
    pub fn free(&mut self, block: Block) {
        let number = block.span();
        let Span { class, usage, used, freed, in_use, .. } = self.spans[number];
        debug_assert!(in_use && used > 0);
        self.swarm_blocks -= usize::from(usage == Use::Swarms);
        let index = block.at() % SPAN_WORDS * WORD / class.bytes();
        self.get_mut(block, 2).copy_from_slice(&freed.to_be_bytes());
        let span = &mut self.spans[number];
        span.freed = u16::try_from(index + 1).expect("blocks of a span are few");
        span.used -= 1;
        if span.used == 0 {
            self.close_span(number);
        } else if span.used + 1 == per_span(class) {
            self.link(number);
        }
    }

    /// Counts a block as marked, or no longer.
    pub fn mark(&mut self, block: Block, marked: bool) {
        let span = &mut self.spans[block.span()];
        if marked {
            span.marked += 1;
            self.marked += 1;
        } else {
            span.marked -= 1;
            self.marked -= 1;
        }
    }

    /// The blocks of a span that are, or were once, in use, from one of them on; none if the span
    /// is not used for swarms.
    pub fn blocks(&self, span: usize, from: usize) -> impl Iterator<Item = Block> + use<> {
        let known = self.spans.get(span).filter(|span| span.in_use && span.usage == Use::Swarms);
        let (fresh, bytes) = known.map_or((0, WORD), |span| (span.fresh, span.class.bytes()));
        let first = Block::new(span, 0);
        (from..usize::from(fresh)).map(move |index| first.behind(index * (bytes / WORD)))
    }

    /// Blocks in use and blocks marked, of a span that is used for swarms.
    #[must_use]
    pub fn population(&self, span: usize) -> Option<(u16, u16)> {
        let span = self.spans.get(span)?;
        (span.in_use && span.usage == Use::Swarms).then_some((span.used, span.marked))
    }

    /// Blocks in use for swarms.
    #[must_use]
    pub const fn swarm_blocks(&self) -> usize {
        self.swarm_blocks
    }

    /// Blocks marked.
    #[must_use]
    pub const fn marked(&self) -> usize {
        self.marked
    }

    /// The class of a span, if it is in use for swarms.
    #[must_use]
    pub fn class(&self, span: usize) -> Option<Class> {
        let span = self.spans.get(span)?;
        (span.in_use && span.usage == Use::Swarms).then_some(span.class)
    }

    /// Spans in use for swarms of a class.
    #[must_use]
    pub fn spans_of(&self, class: Class) -> usize {
        self.in_use[Use::Swarms as usize][class.index()] as usize
    }

    /// Free blocks in the spans of a class, as far as `enough`, without those of one span.
    #[must_use]
    pub fn room_besides(&self, class: Class, besides: usize, enough: usize) -> usize {
        let mut at = self.with_room[Use::Swarms as usize][class.index()];
        let mut room = 0;
        while at != NONE && room < enough {
            let span = self.spans[at as usize];
            if at as usize != besides {
                room += usize::from(per_span(class) - span.used);
            }
            at = span.after;
        }
        room
    }

    /// Lets a span be the last of its class from which blocks are taken. Returns whether it is: a
    /// full one is not among them.
    pub fn use_last(&mut self, span: usize) -> bool {
        let Span { class, usage, used, .. } = self.spans[span];
        if used == per_span(class) {
            return false;
        }
        let mut last = self.with_room[usage as usize][class.index()];
        while self.spans[last as usize].after != NONE {
            last = self.spans[last as usize].after;
        }
        if last as usize != span {
            self.unlink(span);
            let number = u32::try_from(span).expect("spans are few");
            self.spans[last as usize].after = number;
            self.spans[span].before = last;
            self.spans[span].after = NONE;
        }
        true
    }

    /// Gives a free span a class.
    fn open_span(&mut self, usage: Use, class: Class) -> usize {
        let number = self.free_span();
        self.spans[number] = Span { class, usage, in_use: true, ..UNUSED };
        self.piece_spans[number / SPANS_PER_PIECE] += 1;
        self.in_use[usage as usize][class.index()] += 1;
        self.spans_in_use += 1;
        self.link(number);
        number
    }

    /// A span that is free, of the piece that has the fewest such, so that others empty.
    fn free_span(&mut self) -> usize {
        let with_room = self.piece_spans.iter().enumerate();
        let fullest = with_room
            .filter(|(_, used)| (1..SPANS_PER_PIECE).contains(&usize::from(**used)))
            .max_by_key(|(_, used)| **used);
        let piece = match fullest {
            Some((piece, _)) => piece,
            None => self.spare.take().unwrap_or_else(|| self.empty_piece()),
        };
        let first = piece * SPANS_PER_PIECE;
        let free = (first..first + SPANS_PER_PIECE).find(|&span| !self.spans[span].in_use);
        free.expect("not all are in use")
    }

    /// A piece that was given back, or a new one.
    fn empty_piece(&mut self) -> usize {
        self.piece_spans.iter().position(|&used| used == 0).unwrap_or_else(|| {
            assert!(self.grow(), "memory is looked for before it is needed");
            self.piece_spans.len() - 1
        })
    }

    /// Takes the class from a span without blocks in use; empty pieces go back.
    fn close_span(&mut self, number: usize) {
        let Span { class, usage, marked, .. } = self.spans[number];
        debug_assert_eq!(marked, 0);
        if per_span(class) > 1 {
            self.unlink(number);
        }
        self.spans[number] = UNUSED;
        self.in_use[usage as usize][class.index()] -= 1;
        self.spans_in_use -= 1;
        self.given_up += 1;
        let piece = number / SPANS_PER_PIECE;
        self.piece_spans[piece] -= 1;
        if self.piece_spans[piece] == 0 {
            // One stays, lest a load on the border gives and takes for ever.
            if let Some(spare) = self.spare.replace(piece) {
                self.memory.give_back(spare);
            }
        }
        if self.spans_in_use == 0
            && let Some(spare) = self.spare.take()
        {
            self.memory.give_back(spare);
        }
    }

    fn link(&mut self, number: usize) {
        let Span { class, usage, .. } = self.spans[number];
        let first = &mut self.with_room[usage as usize][class.index()];
        let at = u32::try_from(number).expect("spans are few");
        let after = std::mem::replace(first, at);
        self.spans[number].before = NONE;
        self.spans[number].after = after;
        if after != NONE {
            self.spans[after as usize].before = at;
        }
    }

    fn unlink(&mut self, number: usize) {
        let Span { class, usage, before, after, .. } = self.spans[number];
        if before == NONE {
            self.with_room[usage as usize][class.index()] = after;
        } else {
            self.spans[before as usize].after = after;
        }
        if after != NONE {
            self.spans[after as usize].before = before;
        }
    }

    /// Panics unless every relation holds. For tests and the fuzzers.
    pub fn check_invariants(&self) {
        assert_eq!(self.spans.len(), self.memory.pieces() * SPANS_PER_PIECE);
        let in_use = |spans: &[Span]| spans.iter().filter(|span| span.in_use).count();
        assert_eq!(in_use(&self.spans), self.spans_in_use);
        assert_eq!(self.group_bytes().iter().sum::<u64>(), self.bytes() as u64);
        let pieces = self.spans.chunks_exact(SPANS_PER_PIECE);
        assert!(pieces.map(in_use).eq(self.piece_spans.iter().map(|&used| usize::from(used))));
        assert!(self.spare.is_none_or(|piece| self.piece_spans[piece] == 0));
        let of_swarms = self.spans.iter().filter(|span| span.usage == Use::Swarms);
        assert_eq!(of_swarms.map(|span| usize::from(span.used)).sum::<usize>(), self.swarm_blocks);
        let marked: usize = self.spans.iter().map(|span| usize::from(span.marked)).sum();
        assert_eq!(marked, self.marked);
        let mut counts = [[0; CLASSES]; 2];
        for span in self.spans.iter().filter(|span| span.in_use) {
            counts[span.usage as usize][span.class.index()] += 1;
        }
        assert_eq!(self.in_use, counts);
        let mut linked = 0;
        for (usage, class) in
            [Use::Swarms, Use::Parts].into_iter().flat_map(|u| Class::all().map(move |c| (u, c)))
        {
            let (mut before, mut at) = (NONE, self.with_room[usage as usize][class.index()]);
            while at != NONE {
                let span = self.spans[at as usize];
                assert!(span.in_use && (span.usage, span.class) == (usage, class));
                assert!(span.used < per_span(class));
                assert_eq!(span.before, before);
                (before, at) = (at, span.after);
                linked += 1;
            }
        }
        let has_room = |span: &&Span| span.in_use && span.used < per_span(span.class);
        assert_eq!(self.spans.iter().filter(has_room).count(), linked);
        for (number, span) in self.spans.iter().enumerate().filter(|(_, span)| span.in_use) {
            assert!(span.used > 0 && span.used <= span.fresh && span.marked <= span.used);
            let (mut freed, mut next) = (0, span.freed);
            while next != 0 {
                let block = Block::new(number, usize::from(next - 1) * span.class.bytes());
                next = u16::from_be_bytes(self.get(block, 2).try_into().expect("two bytes"));
                freed += 1;
            }
            assert_eq!(span.used + freed, span.fresh);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::rng::Rng;

    #[test]
    fn what_only_saves_memory_takes_no_span_above_what_is_enough() {
        let mut slab = Slab::new(2 * SPAN_BYTES).expect("address space");
        let [first, second, third] = [100, 1_000, 8_192].map(Class::of);
        let block = slab.allocate(Use::Swarms, first);
        assert!(slab.can_save(Use::Swarms, third), "a span is left");
        let _ = slab.allocate(Use::Swarms, second);
        assert!(!slab.can_save(Use::Swarms, third));
        assert!(slab.can_save(Use::Swarms, first), "there is room in a span of its class");
        slab.free(block);
        assert!(slab.can_save(Use::Swarms, third), "the span was given up");
    }

    #[test]
    fn room_is_counted_besides_a_span_and_used_in_the_other_first() {
        let (mut slab, class) = (Slab::new(1 << 20).expect("memory"), Class::of(8_192));
        let blocks: Vec<Block> = (0..24).map(|_| slab.allocate(Use::Swarms, class)).collect();
        // Eight in each of three spans, of which one stays full.
        for block in [&blocks[..3], &blocks[8..10]].concat() {
            slab.free(block);
        }
        let [first, second, full] = [0, 8, 16].map(|at| blocks[at].span());
        assert_eq!(slab.room_besides(class, full, 100), 5);
        assert_eq!(slab.room_besides(class, first, 100), 2);
        assert_eq!(slab.room_besides(class, second, 100), 3);
        assert!((1..=5).contains(&slab.room_besides(class, full, 1)), "no further than that");
        assert!(!slab.use_last(full));
        for (last, before) in [(first, second), (second, first)] {
            assert!(slab.use_last(last));
            let block = slab.allocate(Use::Swarms, class);
            assert_eq!(block.span(), before);
            slab.free(block);
            slab.check_invariants();
        }
    }

    #[test]
    fn what_only_saves_memory_leaves_the_reserve() {
        let mut slab = Slab::of_pieces(1);
        let [large, small] = [8_192, 100].map(Class::of);
        while slab.free_spans() > RESERVE_SPANS {
            assert!(slab.can_save(Use::Swarms, small));
            let _ = slab.allocate(Use::Parts, large);
        }
        assert!(!slab.can_save(Use::Swarms, small));
        assert!(slab.can_save(Use::Parts, large), "there is room in a span of its class");
    }

    #[test]
    fn blocks_keep_what_is_in_them_and_memory_goes_back() {
        let (mut rng, mut slab) = (Rng::new(5), Slab::new(64 << 20).expect("address space"));
        let mut held = BTreeMap::new();
        // Miri runs all code a thousand times slower.
        let phase = if cfg!(miri) { 300_u32 } else { 15_000 };
        for step in 0..4 * phase {
            let growing = step / phase % 2 == 0;
            if rng.below(100) < if growing { 60 } else { 30 } {
                let usage = if rng.below(4) == 0 { Use::Parts } else { Use::Swarms };
                let class =
                    Class::of(1 + rng.below(if step % 64 == 0 { 8_192 } else { 200 }) as usize);
                let block = slab.allocate(usage, class);
                slab.get_mut(block, class.bytes()).fill(step.to_be_bytes()[3]);
                assert!(held.insert(block, (class, step.to_be_bytes()[3])).is_none());
            } else if let Some((&block, _)) =
                held.range(Block::from_number(1 + rng.below(1 << 20)).expect("above 0")..).next()
            {
                let (class, byte) = held.remove(&block).expect("found");
                assert!(slab.get(block, class.bytes()).iter().all(|&other| other == byte));
                slab.free(block);
            }
            if step % 4_096 == 0 {
                slab.check_invariants();
            }
        }
        for (block, (class, byte)) in held {
            assert!(slab.get(block, class.bytes()).iter().all(|&other| other == byte));
            slab.free(block);
        }
        slab.check_invariants();
        assert_eq!((slab.bytes(), slab.spare), (0, None));
    }
}
