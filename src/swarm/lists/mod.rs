//! All peer lists of one core: the slab they lie in, and one way to use the small and the large.

mod moves;

use super::class::{BLOCK_BYTES_MAX, Class};
use super::hash::Hasher;
use super::large::{Large, LargeList, Runs};
use super::layout::{Clock, Columns, HEAD_BYTES, HEAD_WORDS, Head, SMALL_MAX, Shape, room};
use super::machine::{LINE_BYTES, NoMemory, prefetch};
use super::peers::{Census, List, News, Refresh, Refreshed, Renewed, oldest_age};
use super::slab::{Block, Slab, Use};
use super::small::{Small, V4_HALVES, V6_HALVES, census_of, position_of, position_of_v4};
use super::table::Home;
use crate::wire::addr::{Endpoint, Family, Scope};
use crate::wire::id::{InfoHash, PeerId};

/// Peers of a large list at which it becomes small again; well below [`SMALL_MAX`], so that one
/// peer cannot make it flap.
const LARGE_MIN: u32 = 64;
/// Peers that expire from one list at once; more have to wait, and the list is silent meanwhile.
const EXPIRE_MAX: u32 = 2_560;

/// Words of a cache line.
const LINE_WORDS: usize = LINE_BYTES / size_of::<u32>();
/// Where the second line of a block is prefetched before anything is known of it: behind the head,
/// and in the same line if the block is in one.
const SECOND: usize = 12;

const _: () = assert!(SECOND + 1 > HEAD_WORDS && SECOND < LINE_WORDS);
const _: () = {
    let widest = Shape::new(Family::V6, true).peer_bytes();
    assert!(HEAD_BYTES + SMALL_MAX * widest <= BLOCK_BYTES_MAX);
};

/// The endpoints of a list, wherever they are.
#[derive(Clone, Copy, Debug)]
pub enum EndpointColumn<'a> {
    /// Side by side, and other things behind them.
    Small(Family, &'a [u8]),
    /// In runs.
    Large(&'a Slab, &'a Runs),
}

impl<'a> EndpointColumn<'a> {
    /// Their family.
    #[must_use]
    #[inline]
    pub fn family(&self) -> Family {
        match self {
            Self::Small(family, _) => *family,
            Self::Large(_, runs) => runs.family(),
        }
    }

    /// Those of `from..to`, as far as they lie side by side, and where that ends.
    #[must_use]
    #[inline(always)]
    pub fn stretch(&self, from: u32, to: u32) -> (&'a [u8], u32) {
        match self {
            Self::Small(family, column) => {
                let stride = family.endpoint_bytes();
                (&column[from as usize * stride..to as usize * stride], to)
            }
            Self::Large(slab, runs) => runs.endpoints(slab, from, to),
        }
    }
}

/// The lists, each named by the block of its head.
#[derive(Debug)]
pub struct Lists {
    /// Where they lie.
    pub slab: Slab,
    /// Hashes their endpoints.
    pub hasher: Hasher,
    larges: Vec<Option<Large>>,
    vacant: Vec<u32>,
    /// Bytes of heap of all large lists.
    heap_bytes: usize,
    keep_ids: bool,
}

impl Lists {
    /// No lists, meant to take `bytes` at the most; peer ids are kept in all of them or in none.
    ///
    /// # Errors
    /// If the process may not have address space for them.
    pub fn new(hasher: Hasher, bytes: usize, keep_ids: bool) -> Result<Self, NoMemory> {
        Ok(Self {
            slab: Slab::new(bytes)?,
            hasher,
            larges: Vec::new(),
            vacant: Vec::new(),
            heap_bytes: 0,
            keep_ids,
        })
    }

    /// Forgets all of them.
    pub fn clear(&mut self) {
        self.slab.clear();
        (self.larges, self.vacant) = (Vec::new(), Vec::new());
        self.heap_bytes = 0;
    }

    /// Bytes held.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        let places = self.larges.capacity() * size_of::<Option<Large>>()
            + self.vacant.capacity() * size_of::<u32>();
        self.slab.bytes() + self.heap_bytes + places
    }

    /// The head of a list.
    #[must_use]
    #[inline(always)]
    pub fn head(&self, list: Block) -> &Head {
        head_of(&self.slab, list)
    }

    /// The head of a list.
    #[inline]
    pub fn head_mut(&mut self, list: Block) -> &mut Head {
        bytemuck::cast_mut(self.slab.words_mut::<HEAD_WORDS>(list))
    }

    /// An empty list, in a block with room for one peer: the first of a swarm, which is on
    /// probation then, or a further one.
    pub fn create(
        &mut self,
        info_hash: &InfoHash,
        family: Family,
        scope: Scope,
        first: bool,
    ) -> Block {
        let class = Class::of(HEAD_BYTES + self.shape(family).peer_bytes());
        let list = self.slab.allocate(Use::Swarms, class);
        let mut head = Head::new(info_hash, family, scope, class);
        if !first {
            head.set_further();
        }
        self.take_block(list, head);
        list
    }

    /// Takes a swarm for real, of which this is the first list.
    pub fn establish(&mut self, list: Block) {
        if self.head(list).is_on_probation() {
            self.slab.mark(list, false);
            self.head_mut(list).set_established();
        }
    }

    /// Frees a list with all its peers.
    pub fn release(&mut self, list: Block) {
        if self.head(list).is_large() {
            let number = self.number(list);
            let mut large = self.larges[number as usize].take().expect("a large list's");
            self.heap_bytes -= large.heap_bytes();
            large.release(&mut self.slab);
            self.vacant.push(number);
            if self.vacant.len() == self.larges.len() {
                (self.larges, self.vacant) = (Vec::new(), Vec::new());
            }
        }
        self.free_block(list);
    }

    /// How many are in a list.
    #[must_use]
    #[inline(always)]
    pub fn census(&self, list: Block) -> Census {
        let head = self.head(list);
        if head.is_large() { self.large(list).census } else { census_of(head) }
    }

    /// Where `endpoint` stands.
    #[must_use]
    pub fn find(&self, list: Block, endpoint: &Endpoint) -> Option<u32> {
        let head = self.head(list);
        debug_assert_eq!(head.family(), endpoint.family());
        if head.is_large() {
            return self.large(list).find(&self.slab, &self.hasher, endpoint);
        }
        match endpoint {
            Endpoint::V4(wanted) => position_of_v4(self.behind_head(list), head.len, wanted),
            Endpoint::V6(wanted) => {
                position_of(&self.behind_head(list)[..usize::from(head.len)], wanted)
            }
        }
    }

    /// What lies behind a head: endpoints, if the list is small, and whatever follows.
    #[inline(always)]
    fn behind_head<const N: usize>(&self, list: Block) -> &[[u8; N]] {
        bytemuck::cast_slice(&self.slab.tail(list)[HEAD_WORDS..]).as_chunks().0
    }

    /// Applies an announce by the peer at `position`, which may have `joined` just now.
    pub fn refresh(
        &mut self,
        list: Block,
        (position, joined): (u32, bool),
        announce: &Refresh<'_>,
    ) -> Refreshed {
        let head = self.head(list);
        if head.is_large() {
            self.large_mut(list).refresh(position, joined, announce)
        } else if head.family() == Family::V4 {
            self.small_mut::<V4_HALVES>(list).refresh(position, joined, announce)
        } else {
            self.small_mut::<V6_HALVES>(list).refresh(position, joined, announce)
        }
    }

    /// Applies an announce by `endpoint` if it is in the list and says nothing new: the way of most
    /// announces. `guess` is where it may stand in a large list.
    ///
    /// # Errors
    /// What else there is to do; nothing is changed then.
    #[inline(always)]
    pub fn renew(
        &mut self,
        list: Block,
        endpoint: &Endpoint,
        guess: Option<u32>,
        announce: &Refresh<'_>,
    ) -> Result<Renewed, News> {
        let head = self.head(list);
        if head.is_large() {
            return self.renew_large(list, endpoint, guess, announce);
        }
        match endpoint {
            Endpoint::V4(endpoint) => {
                let position = position_of_v4(self.behind_head(list), head.len, endpoint);
                let position = position.ok_or(News::Newcomer)?;
                self.small_mut::<V4_HALVES>(list).renew(position, announce)
            }
            Endpoint::V6(endpoint) => {
                let endpoints = &self.behind_head(list)[..usize::from(head.len)];
                let position = position_of(endpoints, endpoint).ok_or(News::Newcomer)?;
                self.small_mut::<V6_HALVES>(list).renew(position, announce)
            }
        }
    }

    #[inline(never)]
    fn renew_large(
        &mut self,
        list: Block,
        endpoint: &Endpoint,
        guess: Option<u32>,
        announce: &Refresh<'_>,
    ) -> Result<Renewed, News> {
        let large = self.large(list);
        let position = guess
            .filter(|&guess| large.is_at(&self.slab, guess, endpoint))
            .or_else(|| large.find(&self.slab, &self.hasher, endpoint))
            .ok_or(News::Newcomer)?;
        self.large_mut(list).renew(position, announce)
    }

    /// Whether `endpoint` can be appended to a list, or to a new one, without another span.
    #[must_use]
    pub fn fits(&self, list: Option<Block>, endpoint: &Endpoint) -> bool {
        let len = match list.map(|list| (list, self.head(list))) {
            None => 0,
            Some((list, head)) if head.is_large() => {
                return self.large(list).fits(&self.hasher, endpoint);
            }
            Some((_, head)) if usize::from(head.len) < self.room(head) => return true,
            Some((_, head)) => usize::from(head.len),
        };
        let bytes = (len + 1) * self.shape(endpoint.family()).peer_bytes();
        len < SMALL_MAX && self.slab.has_room(Use::Swarms, Class::of(HEAD_BYTES + bytes))
    }

    /// Appends a leecher with an empty stamp; returns where it stands. The list may move.
    pub fn push(&mut self, list: &mut Block, endpoint: &Endpoint) -> u32 {
        if !self.head(*list).is_large() {
            let head = self.head(*list);
            let (len, room) = (usize::from(head.len), self.room(head));
            if len < SMALL_MAX {
                if len == room {
                    *list = self.resize(*list, len + 1);
                }
                match endpoint {
                    Endpoint::V4(new) => {
                        self.small_mut::<V4_HALVES>(*list).push(bytemuck::cast(*new));
                    }
                    Endpoint::V6(new) => {
                        self.small_mut::<V6_HALVES>(*list).push(bytemuck::cast(*new));
                    }
                }
                return u32::try_from(len).expect("a small list");
            }
            *list = self.make_large(*list);
        }
        let number = self.number(*list) as usize;
        let large = self.larges[number].as_mut().expect("a large list's");
        let before = large.heap_bytes();
        let position = large.push(&mut self.slab, &self.hasher, endpoint.as_bytes());
        self.heap_bytes = self.heap_bytes + large.heap_bytes() - before;
        position
    }

    /// Removes the peer at a position. The list may move.
    pub fn remove(&mut self, list: &mut Block, position: u32) {
        if !self.head(*list).is_large() {
            match self.head(*list).family() {
                Family::V4 => self.small_mut::<V4_HALVES>(*list).expel(position),
                Family::V6 => self.small_mut::<V6_HALVES>(*list).expel(position),
            }
            let head = self.head(*list);
            let (len, room) = (usize::from(head.len), self.room(head));
            // Some room may stay, lest a list that has found its size moves for ever.
            if room > len + 1 + len / 4 && room > 1 && self.can_save(head.family(), len.max(1)) {
                *list = self.resize(*list, len.max(1));
            }
            return;
        }
        let number = self.number(*list) as usize;
        let large = self.larges[number].as_mut().expect("a large list's");
        let before = large.heap_bytes();
        large.remove(&mut self.slab, &self.hasher, position);
        let len = large.census.len;
        self.heap_bytes = self.heap_bytes + large.heap_bytes() - before;
        let family = self.head(*list).family();
        if len < LARGE_MIN && self.can_save(family, len as usize + len as usize / 8) {
            *list = self.make_small(*list);
        }
    }

    /// Removes peers that have expired, a bounded number. Returns how many, and the list may move.
    pub fn expire(&mut self, list: &mut Block, now: u16, clock: Clock) -> u32 {
        let census = self.census(*list);
        if census.len == 0 || !clock.is_expired(now, self.head(*list).oldest) {
            return 0;
        }
        let mut expired = 0;
        // From the end, since a removal only changes what stands behind.
        let mut position = census.len;
        while position > 0 && expired < EXPIRE_MAX {
            position -= 1;
            if clock.is_expired(now, self.stamp(*list, position)) {
                self.remove(list, position);
                expired += 1;
            }
        }
        self.renew_oldest(*list, now);
        expired
    }

    /// The age of the oldest peer of a list, exactly.
    #[must_use]
    pub fn oldest_age(&self, list: Block, now: u16) -> u16 {
        if self.head(list).is_large() {
            self.large(list).oldest_age(&self.slab, now)
        } else {
            let (head, columns) = self.small(list);
            oldest_age(&columns.stamps[..usize::from(head.len)], now).unwrap_or(0)
        }
    }

    /// The peer of a list that announced longest ago, and its age.
    pub fn oldest(&mut self, list: Block, now: u16) -> Option<(u32, u16)> {
        if self.census(list).len == 0 {
            return None;
        }
        if !self.head(list).is_large() {
            let age = self.oldest_age(list, now);
            let (head, columns) = self.small(list);
            let stamps = &columns.stamps[..usize::from(head.len)];
            let position = stamps.iter().position(|&stamp| Clock::age(now, stamp) == age)?;
            return Some((u32::try_from(position).expect("a small list"), age));
        }
        // Nobody is older than what was the oldest the last time, so one of that age will do.
        let bound = Clock::age(now, self.head(list).oldest);
        let number = self.number(list) as usize;
        let large = self.larges[number].as_mut().expect("a large list's");
        if let Some(position) = large.position_of_age(&self.slab, now, bound) {
            return Some((position, bound));
        }
        let age = large.oldest_age(&self.slab, now);
        let position = large.position_of_age(&self.slab, now, age)?;
        self.renew_oldest(list, now);
        Some((position, age))
    }

    /// The stamp of the peer at a position.
    #[must_use]
    pub fn stamp(&self, list: Block, position: u32) -> u16 {
        if self.head(list).is_large() {
            self.large(list).runs.stamp(&self.slab, position)
        } else {
            self.small(list).1.stamps[position as usize]
        }
    }

    /// The age of the newest peer of a list; of an empty one, since it is empty.
    #[must_use]
    pub fn newest_age(&self, list: Block, now: u16) -> u16 {
        let head = self.head(list);
        let ages = |stamps: &[u16]| stamps.iter().map(|&stamp| Clock::age(now, stamp)).min();
        let newest = if head.is_large() {
            self.large(list).stamps(&self.slab).filter_map(|(_, stamps)| ages(stamps)).min()
        } else {
            ages(&self.small(list).1.stamps[..usize::from(head.len)])
        };
        newest.unwrap_or_else(|| Clock::age(now, head.oldest))
    }

    /// The endpoints of a list.
    #[must_use]
    #[inline]
    pub fn endpoints(&self, list: Block) -> EndpointColumn<'_> {
        let head = self.head(list);
        if head.is_large() {
            EndpointColumn::Large(&self.slab, &self.large(list).runs)
        } else {
            let column = bytemuck::cast_slice(&self.slab.tail(list)[HEAD_WORDS..]);
            EndpointColumn::Small(head.family(), column)
        }
    }

    /// The ids of the peers of a stretch that [`Lists::endpoints`] returned; none if they are not
    /// kept.
    #[must_use]
    pub fn ids(&self, list: Block, from: u32, to: u32) -> &[PeerId] {
        let head = self.head(list);
        let Shape { id_bytes, .. } = self.shape(head.family());
        let (columns, from, to) = if head.is_large() {
            let runs = &self.large(list).runs;
            let (run, at, end) = runs.stretch(from, to);
            (runs.columns(&self.slab, run), at, end)
        } else {
            (self.small(list).1, from as usize, to as usize)
        };
        bytemuck::cast_slice(&columns.ids[from * id_bytes..to * id_bytes])
    }

    /// Tells the processor that the head of a list will be looked at, and what is behind it too if
    /// the list is to be `searched`.
    #[inline]
    pub fn prefetch_first(&self, list: Block, searched: bool) {
        self.slab.prefetch(list, 0, 1);
        self.slab.prefetch(list, if searched { SECOND } else { HEAD_WORDS - 1 }, 1);
    }

    /// Tells the processor that a list will be counted; the first lines have come. Returns whether
    /// it is large.
    #[inline]
    pub fn prefetch_census(&self, list: Block) -> bool {
        let is_large = self.head(list).is_large();
        if is_large {
            prefetch(&self.larges[self.number(list) as usize]);
        }
        is_large
    }

    /// Tells the processor that an announce to this list follows; the first lines have come.
    /// Returns whether the list is large.
    #[inline]
    pub fn prefetch(&self, list: Block) -> bool {
        if self.prefetch_census(list) {
            return true;
        }
        let head = self.head(list);
        let words = head.class().bytes() / size_of::<u32>();
        if words > SECOND + 1 {
            self.slab.prefetch(list, SECOND + LINE_WORDS, (words - SECOND) / LINE_WORDS);
            self.slab.prefetch(list, words - 1, 1);
        }
        false
    }

    /// Tells the processor that an endpoint of this hash will be looked for in a large list.
    pub fn prefetch_index(&self, list: Block, hash: u64) -> Home {
        self.large(list).prefetch(&self.slab, hash)
    }

    /// Tells the processor what else of a large list that announce will read. Returns where the
    /// peer stands, probably.
    pub fn prefetch_peer(&self, list: Block, home: Home, hash: u64) -> u32 {
        self.large(list).prefetch_peer(&self.slab, home, hash)
    }

    /// Tells the processor that a window of a large list, from a position on, will be read.
    pub fn prefetch_window(&self, list: Block, position: u32, lines: usize) {
        self.large(list).runs.prefetch(&self.slab, position, lines);
    }

    fn renew_oldest(&mut self, list: Block, now: u16) {
        if self.census(list).len > 0 {
            let age = self.oldest_age(list, now);
            self.head_mut(list).oldest = now.wrapping_sub(age);
        }
    }

    fn shape(&self, family: Family) -> Shape {
        Shape::new(family, self.keep_ids)
    }

    /// Peers that the block of a small list has room for.
    fn room(&self, head: &Head) -> usize {
        room(head, self.keep_ids)
    }

    fn small(&self, list: Block) -> (&Head, Columns<&[u8], &[u16]>) {
        let head = self.head(list);
        let (shape, room) = (self.shape(head.family()), self.room(head));
        let bytes = self.slab.get(list, HEAD_BYTES + room * shape.peer_bytes());
        (head, shape.columns(&bytes[HEAD_BYTES..], room))
    }

    #[inline]
    fn small_mut<const N: usize>(&mut self, list: Block) -> Small<'_, N> {
        Small::open(self.slab.tail_mut(list), self.keep_ids)
    }

    /// The number of a large list.
    #[inline]
    fn number(&self, list: Block) -> u32 {
        self.slab.words::<{ HEAD_WORDS + 1 }>(list)[HEAD_WORDS]
    }

    #[inline]
    fn large_mut(&mut self, list: Block) -> LargeList<'_> {
        let number = self.number(list) as usize;
        let large = self.larges[number].as_mut().expect("a large list's");
        LargeList { large, slab: &mut self.slab, hasher: &self.hasher }
    }

    #[inline]
    fn large(&self, list: Block) -> &Large {
        self.larges[self.number(list) as usize].as_ref().expect("a large list's")
    }

    /// Panics unless every relation of a list holds. For tests and the fuzzers.
    pub fn check_list(&self, list: Block, now: u16) {
        let (head, census) = (self.head(list), self.census(list));
        let mut partial = 0;
        for position in 0..census.len {
            let stamp = self.stamp(list, position);
            let is_partial = stamp & super::layout::PARTIAL != 0;
            assert!(!is_partial || position >= census.seeders);
            partial += u32::from(is_partial);
            assert!(Clock::age(now, stamp) <= Clock::age(now, head.oldest));
        }
        assert!(census.seeders <= census.len);
        assert_eq!(partial, census.partial);
        if head.is_large() {
            self.large(list).check_invariants(&self.slab, &self.hasher);
        } else {
            assert!(census.len as usize <= self.room(head));
        }
    }

    /// Panics unless what is counted over all lists is right. For tests and the fuzzers.
    pub fn check_invariants(&self) {
        self.slab.check_invariants();
        let heap: usize = self.larges.iter().flatten().map(Large::heap_bytes).sum();
        assert_eq!(heap, self.heap_bytes);
        let vacant = self.larges.iter().filter(|large| large.is_none()).count();
        assert_eq!(vacant, self.vacant.len());
    }
}

/// The head of a list in `slab`.
#[must_use]
#[inline(always)]
pub fn head_of(slab: &Slab, list: Block) -> &Head {
    bytemuck::cast_ref(slab.words::<HEAD_WORDS>(list))
}
