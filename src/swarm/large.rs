//! A list of many peers: columns in runs, and an index of positions.
//!
//! Every run but the last has room for the same number of peers and is full, so a position says
//! where a peer is, nothing is ever copied to make the list longer, and a window of a reply lies in
//! one run or in two. The index finds the position of an endpoint; it grows in small parts.

use smallvec::{SmallVec, smallvec};

use super::class::{BLOCK_BYTES_MAX, Class};
use super::hash::Hasher;
use super::layout::{Clock, Columns, SMALL_MAX, Shape};
use super::peers::{Census, List, Refresh, choose, oldest_age};
use super::slab::{Block, Slab, Use};
use super::table::{Home, Keys, Table};
use crate::limits::{ENDPOINT_V4_BYTES, ENDPOINT_V6_BYTES};
use crate::wire::addr::{Endpoint, Family};
use crate::wire::id::PeerId;

/// One announce in so many changes places in a large list: each change costs three cache lines
/// more, and in a long list windows begin at a different place each time anyway.
const MIXES_ONE_IN: u32 = 16;

/// The position of nobody.
pub const NOWHERE: u32 = u32::MAX;

/// What a large list holds besides the head of its block; two cache lines.
#[derive(Debug)]
#[repr(align(64))]
pub struct Large {
    /// How many there are.
    pub census: Census,
    /// Their columns.
    pub runs: Runs,
    /// Positions by the hash of their endpoint.
    index: Table,
    /// Where the search for the oldest goes on.
    cursor: u32,
}

/// The columns of a large list.
#[derive(Debug)]
pub struct Runs {
    shape: Shape,
    /// Peers of a full run, as a power of two.
    shift: u32,
    /// In place for all but the longest lists, so that reading them costs no cache line more.
    blocks: SmallVec<[Block; 4]>,
    /// The class of the last run, and the peers it has room for; the others are full ones.
    last: Class,
    last_room: usize,
}

impl Runs {
    /// One run with room for `room` peers.
    fn new(slab: &mut Slab, shape: Shape, room: usize) -> Self {
        let shift = (BLOCK_BYTES_MAX / shape.peer_bytes()).ilog2();
        debug_assert!(1 << shift >= SMALL_MAX);
        let last = Class::of(room * shape.peer_bytes());
        let blocks = smallvec![slab.allocate(Use::Parts, last)];
        let mut runs = Self { shape, shift, blocks, last, last_room: 0 };
        runs.set_last(last);
        runs
    }

    fn set_last(&mut self, class: Class) {
        self.last = class;
        self.last_room = (class.bytes() / self.shape.peer_bytes()).min(self.full());
    }

    /// Peers of a full run.
    const fn full(&self) -> usize {
        1 << self.shift
    }

    /// The run of a position and the place in it.
    #[inline(always)]
    const fn locate(&self, position: u32) -> (usize, usize) {
        ((position >> self.shift) as usize, position as usize & (self.full() - 1))
    }

    fn room(&self, run: usize) -> usize {
        if run + 1 == self.blocks.len() { self.last_room } else { self.full() }
    }

    /// The columns of a run, with its unused room.
    #[must_use]
    pub fn columns<'a>(&self, slab: &'a Slab, run: usize) -> Columns<&'a [u8], &'a [u16]> {
        let room = self.room(run);
        self.shape.columns(slab.get(self.blocks[run], room * self.shape.peer_bytes()), room)
    }

    fn columns_mut<'a>(
        &self,
        slab: &'a mut Slab,
        run: usize,
    ) -> Columns<&'a mut [u8], &'a mut [u16]> {
        let room = self.room(run);
        self.shape.columns_mut(slab.get_mut(self.blocks[run], room * self.shape.peer_bytes()), room)
    }

    /// The family of their endpoints.
    #[must_use]
    pub const fn family(&self) -> Family {
        if self.shape.stride == ENDPOINT_V4_BYTES { Family::V4 } else { Family::V6 }
    }

    /// The stretch of `from..to` that lies in the run of `from`: its run, and from where to where.
    #[must_use]
    #[inline(always)]
    pub fn stretch(&self, from: u32, to: u32) -> (usize, usize, usize) {
        let (run, at) = self.locate(from);
        (run, at, at + ((to - from) as usize).min(self.full() - at))
    }

    /// The endpoints of `from..to`, as far as they lie in one run, and where that ends.
    #[must_use]
    #[inline(always)]
    pub fn endpoints<'a>(&self, slab: &'a Slab, from: u32, to: u32) -> (&'a [u8], u32) {
        let (run, at, end) = self.stretch(from, to);
        let stride = self.shape.stride;
        let endpoints = &slab.get(self.blocks[run], end * stride)[at * stride..];
        (endpoints, from + u32::try_from(end - at).expect("peers of a run"))
    }

    /// Tells the processor that endpoints from a position on are wanted soon.
    pub fn prefetch(&self, slab: &Slab, position: u32, lines: usize) {
        let (run, at) = self.locate(position);
        if let Some(block) = self.blocks.get(run) {
            slab.prefetch(*block, at * self.shape.stride / size_of::<u32>(), lines);
        }
    }

    /// The stamp at a position.
    #[must_use]
    #[inline(always)]
    pub fn stamp(&self, slab: &Slab, position: u32) -> u16 {
        let (run, at) = self.stamp_place(position);
        bytemuck::pod_read_unaligned(&slab.get(self.blocks[run], at + size_of::<u16>())[at..])
    }

    #[inline(always)]
    fn set_stamp(&self, slab: &mut Slab, position: u32, stamp: u16) {
        let (run, at) = self.stamp_place(position);
        slab.get_mut(self.blocks[run], at + size_of::<u16>())[at..]
            .copy_from_slice(bytemuck::bytes_of(&stamp));
    }

    fn set_id(&self, slab: &mut Slab, position: u32, id: &PeerId) {
        let (run, at) = self.locate(position);
        self.columns_mut(slab, run).ids.as_chunks_mut().0[at] = id.0;
    }

    /// The run of a stamp, and its place in the block.
    #[inline(always)]
    fn stamp_place(&self, position: u32) -> (usize, usize) {
        let (run, at) = self.locate(position);
        (run, self.room(run) * self.shape.stride + at * size_of::<u16>())
    }

    /// Exchanges two peers whose endpoints have `N` bytes.
    fn swap<const N: usize>(&self, slab: &mut Slab, a: u32, b: u32) {
        let ((run_a, at_a), (run_b, at_b)) = (self.locate(a), self.locate(b));
        let columns = self.columns(slab, run_a);
        let endpoint: [u8; N] = columns.endpoints.as_chunks().0[at_a];
        let stamp = columns.stamps[at_a];
        let id = columns.ids.as_chunks().0.get(at_a).copied();
        // First into the place of the other, and what was there into the place of this one.
        let mut taken = (endpoint, stamp, id.unwrap_or_default());
        for (run, at) in [(run_b, at_b), (run_a, at_a)] {
            let columns = self.columns_mut(slab, run);
            std::mem::swap(&mut columns.endpoints.as_chunks_mut().0[at], &mut taken.0);
            std::mem::swap(&mut columns.stamps[at], &mut taken.1);
            if id.is_some() {
                let ids = columns.ids.as_chunks_mut::<{ size_of::<PeerId>() }>().0;
                std::mem::swap(&mut ids[at], &mut taken.2);
            }
        }
    }

    /// The compact endpoint at a position.
    #[must_use]
    #[inline]
    pub fn endpoint<'a>(&self, slab: &'a Slab, position: u32) -> &'a [u8] {
        let (run, at) = self.locate(position);
        let start = at * self.shape.stride;
        &slab.get(self.blocks[run], start + self.shape.stride)[start..]
    }

    /// The compact endpoint at a position, if those of the list have `N` bytes.
    #[inline(always)]
    fn endpoint_of<'a, const N: usize>(&self, slab: &'a Slab, position: u32) -> &'a [u8; N] {
        let (run, at) = self.locate(position);
        let endpoint = slab.get(self.blocks[run], at * N + N)[at * N..].first_chunk();
        endpoint.expect("so many bytes")
    }

    /// The stamps of a run's peers, of `len` in all, and the position of the first.
    fn stamps<'a>(&self, slab: &'a Slab, run: usize, len: u32) -> (u32, &'a [u16]) {
        let first = run << self.shift;
        let count = (len as usize - first).min(self.full());
        let first = u32::try_from(first).expect("a position");
        (first, &self.columns(slab, run).stamps[..count])
    }

    /// Makes room for one more behind `len` peers.
    fn grow(&mut self, slab: &mut Slab, len: u32) {
        let (run, at) = self.locate(len);
        if run == self.blocks.len() {
            self.set_last(Class::of(self.full() / 16 * self.shape.peer_bytes()));
            self.blocks.push(slab.allocate(Use::Parts, self.last));
        } else if at == self.last_room {
            let more = self.last_room + self.last_room.div_ceil(8);
            self.resize_last(slab, at, more.min(self.full()));
        }
    }

    /// Gives back what `len` peers do not need.
    fn shrink(&mut self, slab: &mut Slab, len: u32) {
        let (run, at) = self.locate(len);
        if at == 0 && run > 0 {
            slab.free(self.blocks.pop().expect("more than one"));
            self.set_last(Class::of(self.full() * self.shape.peer_bytes()));
        } else if at < self.last_room / 2 && at >= SMALL_MAX / 2 {
            let room = at + at.div_ceil(8);
            if slab.can_save(Use::Parts, Class::of(room * self.shape.peer_bytes())) {
                self.resize_last(slab, at, room);
            }
        }
    }

    /// Moves the last run, which holds `len` peers, to a block with room for `room`.
    fn resize_last(&mut self, slab: &mut Slab, len: usize, room: usize) {
        let class = Class::of(room * self.shape.peer_bytes());
        if class == self.last {
            return;
        }
        let run = self.blocks.len() - 1;
        let (old, new) = (self.blocks[run], slab.allocate(Use::Parts, class));
        let old_room = self.last_room;
        self.blocks[run] = new;
        self.set_last(class);
        let (shape, room) = (self.shape, self.last_room);
        let bytes = |room| room * shape.peer_bytes();
        let (from, to) = slab.pair((old, bytes(old_room)), (new, bytes(room)));
        shape.copy(&shape.columns(from, old_room), &mut shape.columns_mut(to, room), len);
        slab.free(old);
    }
}

/// The keys of the index: each position's endpoint.
struct Endpoints<'a> {
    runs: &'a Runs,
    hasher: &'a Hasher,
}

impl Keys for Endpoints<'_> {
    #[inline]
    fn hash(&self, slab: &Slab, position: u32) -> u64 {
        // Two ways, so that the length is known on each.
        match self.runs.family() {
            Family::V4 => {
                self.hasher.compact(self.runs.endpoint_of::<ENDPOINT_V4_BYTES>(slab, position))
            }
            Family::V6 => {
                self.hasher.compact(self.runs.endpoint_of::<ENDPOINT_V6_BYTES>(slab, position))
            }
        }
    }

    fn prefetch(&self, slab: &Slab, position: u32) {
        self.runs.prefetch(slab, position, 1);
    }
}

impl Large {
    /// An empty list with room for a first run of `room` peers.
    #[must_use]
    pub fn new(slab: &mut Slab, shape: Shape, room: usize) -> Self {
        Self {
            census: Census::default(),
            runs: Runs::new(slab, shape, room),
            index: Table::new(),
            cursor: 0,
        }
    }

    /// Bytes of heap.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        let blocks = &self.runs.blocks;
        let blocks = if blocks.spilled() { blocks.capacity() * size_of::<Block>() } else { 0 };
        blocks + self.index.heap_bytes()
    }

    /// Where an endpoint stands.
    #[must_use]
    pub fn find(&self, slab: &Slab, hasher: &Hasher, endpoint: &Endpoint) -> Option<u32> {
        let hash = hasher.endpoint(endpoint);
        self.index.find(slab, hash, |position| self.is_at(slab, position, endpoint))
    }

    /// Whether `endpoint`, which is of the list's family, stands at a position, which may be none.
    #[must_use]
    #[inline(always)]
    pub fn is_at(&self, slab: &Slab, position: u32, endpoint: &Endpoint) -> bool {
        position < self.census.len
            && match endpoint {
                Endpoint::V4(wanted) => self.runs.endpoint_of(slab, position) == wanted,
                Endpoint::V6(wanted) => self.runs.endpoint_of(slab, position) == wanted,
            }
    }

    /// Tells the processor that an endpoint of this hash will be looked for.
    pub fn prefetch(&self, slab: &Slab, hash: u64) -> Home {
        self.index.prefetch(slab, hash)
    }

    /// Tells the processor what else an announce of that endpoint will read. Returns its position,
    /// probably: the first whose tag fits is nearly always the right one. [`NOWHERE`] if none does.
    pub fn prefetch_peer(&self, slab: &Slab, home: Home, hash: u64) -> u32 {
        let Some(position) = Table::guess(slab, home, hash) else { return NOWHERE };
        let (run, stamp) = self.runs.stamp_place(position);
        let (_, at) = self.runs.locate(position);
        for at in [stamp, at * self.runs.shape.stride] {
            slab.prefetch(self.runs.blocks[run], at / size_of::<u32>(), 1);
        }
        position
    }

    /// Takes over the peers of a small list: those in `block`, whose columns begin at `offset` and
    /// have so much room.
    pub fn fill(
        &mut self,
        slab: &mut Slab,
        hasher: &Hasher,
        (block, offset, room): (Block, usize, usize),
        census: Census,
    ) {
        let (shape, own) = (self.runs.shape, self.runs.last_room);
        let bytes = |room| room * shape.peer_bytes();
        let (from, to) =
            slab.pair((block, offset + bytes(room)), (self.runs.blocks[0], bytes(own)));
        let from = shape.columns(&from[offset..], room);
        shape.copy(&from, &mut shape.columns_mut(to, own), census.len as usize);
        self.census = census;
        for position in 0..census.len {
            self.index_last(slab, hasher, position);
        }
    }

    /// Adds the peer at `position` to the index.
    fn index_last(&mut self, slab: &mut Slab, hasher: &Hasher, position: u32) {
        let endpoints = Endpoints { runs: &self.runs, hasher };
        let hash = endpoints.hash(slab, position);
        self.index.insert(slab, hash, position, &endpoints);
    }

    /// Copies the peers, few by now, into the block of a small list: see [`Large::fill`].
    pub fn pour(&self, slab: &mut Slab, (block, offset, room): (Block, usize, usize)) {
        let (shape, own) = (self.runs.shape, self.runs.room(0));
        let bytes = |room| room * shape.peer_bytes();
        let (from, to) =
            slab.pair((self.runs.blocks[0], bytes(own)), (block, offset + bytes(room)));
        let mut to = shape.columns_mut(&mut to[offset..], room);
        shape.copy(&shape.columns(from, own), &mut to, self.census.len as usize);
    }

    /// Whether `endpoint` can be appended without more memory.
    #[must_use]
    pub fn fits(&self, hasher: &Hasher, endpoint: &Endpoint) -> bool {
        let (run, at) = self.runs.locate(self.census.len);
        let room = run < self.runs.blocks.len() && at < self.runs.room(run);
        room && self.index.fits(hasher.endpoint(endpoint))
    }

    /// Appends a leecher with an empty stamp.
    pub fn push(&mut self, slab: &mut Slab, hasher: &Hasher, endpoint: &[u8]) -> u32 {
        let position = self.census.len;
        self.runs.grow(slab, position);
        let (run, at) = self.runs.locate(position);
        let stride = self.runs.shape.stride;
        let columns = self.runs.columns_mut(slab, run);
        columns.endpoints[at * stride..][..stride].copy_from_slice(endpoint);
        columns.stamps[at] = 0;
        self.census.len += 1;
        self.index_last(slab, hasher, position);
        position
    }

    /// Removes the peer at a position.
    pub fn remove(&mut self, slab: &mut Slab, hasher: &Hasher, position: u32) {
        LargeList { large: self, slab, hasher }.expel(position);
        let last = self.census.len;
        let endpoints = Endpoints { runs: &self.runs, hasher };
        let hash = endpoints.hash(slab, last);
        self.index.remove(slab, hash, last, &endpoints);
        self.runs.shrink(slab, last);
    }

    /// The stamps of all peers, run by run, with the position of each run's first.
    pub fn stamps<'a>(&'a self, slab: &'a Slab) -> impl Iterator<Item = (u32, &'a [u16])> {
        (0..self.runs.blocks.len()).map(|run| self.runs.stamps(slab, run, self.census.len))
    }

    /// The age of the oldest peer.
    #[must_use]
    pub fn oldest_age(&self, slab: &Slab, now: u16) -> u16 {
        self.stamps(slab).filter_map(|(_, stamps)| oldest_age(stamps, now)).max().unwrap_or(0)
    }

    /// A peer of that age, if there is one: the next after the last that was found.
    #[must_use]
    pub fn position_of_age(&mut self, slab: &Slab, now: u16, age: u16) -> Option<u32> {
        let (first, at) = self.runs.locate(self.cursor.min(self.census.len - 1));
        let count = self.runs.blocks.len();
        // Once around, and the part before the cursor at last.
        for step in 0..=count {
            let run = (first + step) % count;
            let (start, stamps) = self.runs.stamps(slab, run, self.census.len);
            let from = if step == 0 { at } else { 0 };
            let is = |&stamp: &u16| Clock::age(now, stamp) == age;
            if let Some(found) = stamps[from..].iter().position(is) {
                self.cursor = start + u32::try_from(from + found).expect("a position");
                return Some(self.cursor);
            }
        }
        None
    }

    /// Frees runs and index. The list must not be used any more.
    pub fn release(&mut self, slab: &mut Slab) {
        for run in self.runs.blocks.drain(..) {
            slab.free(run);
        }
        self.index.release(slab);
    }

    /// Panics unless every relation holds. For tests and the fuzzers.
    pub fn check_invariants(&self, slab: &Slab, hasher: &Hasher) {
        self.index.check_invariants(slab, |at| hasher.compact(self.runs.endpoint(slab, at)));
        let mut indexed: Vec<u32> = self.index.values(slab).collect();
        indexed.sort_unstable();
        assert!(indexed.into_iter().eq(0..self.census.len));
        let full = (self.runs.blocks.len() - 1) * self.runs.full();
        let len = self.census.len as usize;
        assert!(full < len && len <= full + self.runs.last_room);
    }
}

/// A large list at work.
pub struct LargeList<'a> {
    /// The list.
    pub large: &'a mut Large,
    /// Where its runs are.
    pub slab: &'a mut Slab,
    /// Hashes its endpoints.
    pub hasher: &'a Hasher,
}

impl List for LargeList<'_> {
    fn census(&self) -> Census {
        self.large.census
    }

    fn set_census(&mut self, census: Census) {
        self.large.census = census;
    }

    #[inline(always)]
    fn stamp(&self, position: u32) -> u16 {
        self.large.runs.stamp(self.slab, position)
    }

    #[inline(always)]
    fn settle(
        &mut self,
        position: u32,
        census: &Census,
        stamp: u16,
        announce: &Refresh<'_>,
    ) -> u32 {
        self.large.runs.set_stamp(self.slab, position, stamp);
        if self.large.runs.shape.id_bytes > 0 {
            self.large.runs.set_id(self.slab, position, announce.id);
        }
        if !announce.pick.is_multiple_of(MIXES_ONE_IN) {
            return position;
        }
        let other = choose(announce.pick, census.kind(position));
        if other != position {
            self.swap(position, other);
        }
        other
    }

    fn swap(&mut self, a: u32, b: u32) {
        let runs = &self.large.runs;
        let hash = |at| self.hasher.compact(runs.endpoint(self.slab, at));
        let (hash_a, hash_b) = (hash(a), hash(b));
        self.large.index.exchange(self.slab, (hash_a, a), (hash_b, b));
        match runs.shape.stride {
            ENDPOINT_V4_BYTES => runs.swap::<ENDPOINT_V4_BYTES>(self.slab, a, b),
            _ => runs.swap::<ENDPOINT_V6_BYTES>(self.slab, a, b),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::super::hash::HashKey;
    use super::super::peers::Report;
    use super::*;

    fn endpoint(peer: u32) -> Endpoint {
        Endpoint::new(Ipv4Addr::from(peer).into(), 1)
    }

    /// The blocks of the runs say what was needed.
    #[test]
    fn runs_grow_when_they_must_and_shrink_when_half_is_empty() {
        let mut slab = Slab::new(16 << 20).expect("memory");
        let hasher = Hasher::new(HashKey(1, 2));
        let mut large = Large::new(&mut slab, Shape::new(Family::V4, false), SMALL_MAX);
        let most = 2_500;
        for peer in 0..most {
            let new = endpoint(peer);
            let fits = large.fits(&hasher, &new);
            let in_index = large.index.fits(hasher.endpoint(&new));
            let before = large.runs.blocks.clone();
            assert_eq!(large.push(&mut slab, &hasher, new.as_bytes()), peer);
            assert_eq!(fits, in_index && large.runs.blocks == before, "{peer}");
        }
        assert_eq!(large.runs.blocks.len(), 3);
        let mut moves = 0;
        let least = u32::try_from(SMALL_MAX).expect("few") / 2;
        for peer in (least..most).rev() {
            let last = *large.runs.blocks.last().expect("one at least");
            large.remove(&mut slab, &hasher, peer);
            moves += u32::from(large.runs.blocks.last() != Some(&last));
            assert!(!large.is_at(&slab, peer, &endpoint(peer)), "it has gone");
            assert!(large.is_at(&slab, peer - 1, &endpoint(peer - 1)));
            let in_last = large.runs.locate(peer).1;
            let room = large.runs.last_room;
            assert!(in_last < SMALL_MAX / 2 || room <= 2 * in_last + 2, "{in_last} of {room}");
        }
        large.check_invariants(&slab, &hasher);
        for peer in (0..least).rev() {
            large.remove(&mut slab, &hasher, peer);
            assert_eq!(large.runs.blocks.len(), 1, "the first stays");
        }
        // Two runs go, and each is halved some times.
        assert!((6..=16).contains(&moves), "{moves}");
    }

    #[test]
    fn a_search_for_an_age_goes_on_where_it_was_and_once_around() {
        let mut slab = Slab::new(16 << 20).expect("memory");
        let hasher = Hasher::new(HashKey(1, 2));
        let mut large = Large::new(&mut slab, Shape::new(Family::V4, false), SMALL_MAX);
        for peer in 0..2_500 {
            large.push(&mut slab, &hasher, endpoint(peer).as_bytes());
        }
        // All others are older.
        for (old, found) in [
            (&[10, 2_100][..], Some(10)),
            (&[2_100, 2_400], Some(2_100)),
            (&[9, 1_500, 2_200], Some(2_200)),
            (&[9, 1_500], Some(9)),
            (&[8], Some(8)),
            (&[7, 2_499], Some(2_499)),
            (&[2_498, 2_499], Some(2_499)),
            (&[2_498], Some(2_498)),
            (&[0], Some(0)),
            (&[], None),
        ] {
            for &position in old {
                large.runs.set_stamp(&mut slab, position, 90);
            }
            assert_eq!(large.position_of_age(&slab, 100, 10), found);
            assert_eq!(large.oldest_age(&slab, 100), 100);
            for &position in old {
                large.runs.set_stamp(&mut slab, position, 0);
            }
        }
        // Where it goes on there may be nobody any more.
        for at in [2_400, 2_048, 2_000] {
            large.runs.set_stamp(&mut slab, at, 90);
            assert_eq!(large.position_of_age(&slab, 100, 10), Some(at));
            large.runs.set_stamp(&mut slab, at, 0);
            while large.census.len > at - 10 {
                large.remove(&mut slab, &hasher, large.census.len - 1);
            }
            assert_eq!(large.position_of_age(&slab, 100, 10), None);
        }
    }

    #[test]
    fn one_announce_in_sixteen_changes_places() {
        let mut slab = Slab::new(16 << 20).expect("memory");
        let hasher = Hasher::new(HashKey(1, 2));
        let mut large = Large::new(&mut slab, Shape::new(Family::V4, false), SMALL_MAX);
        for peer in 0..200 {
            large.push(&mut slab, &hasher, endpoint(peer).as_bytes());
        }
        let census = large.census;
        let mut list = LargeList { large: &mut large, slab: &mut slab, hasher: &hasher };
        // Of small picks the first place is chosen.
        let report = Report { seeder: false, partial: false, completed: false };
        let moved = (0..160).filter(|&pick| {
            let announce = Refresh { now: 7, report: &report, id: &PeerId([1; 20]), pick };
            let at = list.settle(5, &census, 7, &announce);
            assert_eq!(list.stamp(at), 7);
            at == 0
        });
        let moved = moved.count();
        assert_eq!(moved, 10);
        large.check_invariants(&slab, &hasher);
    }

    #[test]
    fn heap_is_counted_once_there_are_more_runs_than_have_their_place() {
        let mut slab = Slab::new(16 << 20).expect("memory");
        let hasher = Hasher::new(HashKey(1, 2));
        let mut large = Large::new(&mut slab, Shape::new(Family::V4, false), SMALL_MAX);
        for peer in 0..5_000 {
            large.push(&mut slab, &hasher, endpoint(peer).as_bytes());
            let runs = large.runs.blocks.capacity();
            let runs = if large.runs.blocks.len() > 4 { 4 * runs } else { 0 };
            assert_eq!(large.heap_bytes(), runs + large.index.heap_bytes());
        }
        assert_eq!(large.runs.blocks.len(), 5);
    }
}
