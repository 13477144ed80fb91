//! A list whose peers lie in the block of its head: nearly every list there is.

use super::layout::{HEAD_WORDS, Head, room};
use super::machine::Needle;
use super::peers::{Census, List, Refresh, choose};
use crate::limits::{ENDPOINT_V4_BYTES, ENDPOINT_V6_BYTES};
use crate::wire::id::PeerId;

/// How many are in a small list.
#[inline(always)]
#[must_use]
pub fn census_of(head: &Head) -> Census {
    Census {
        len: u32::from(head.len),
        seeders: u32::from(head.seeders),
        partial: u32::from(head.partial),
    }
}

/// Where an endpoint stands among others.
#[inline]
pub fn position_of<const N: usize>(endpoints: &[[u8; N]], wanted: &[u8; N]) -> Option<u32> {
    // Arrays of known length: a comparison is two loads instead of a call.
    let found = endpoints.iter().position(|endpoint| endpoint == wanted)?;
    Some(u32::try_from(found).expect("a small list"))
}

/// Where an endpoint of IPv4 stands among the first `len`: eight comparisons at a time, and what
/// follows the `len` is compared too and passed over.
#[inline(always)]
pub fn position_of_v4(
    endpoints: &[[u8; ENDPOINT_V4_BYTES]],
    len: u8,
    wanted: &[u8; ENDPOINT_V4_BYTES],
) -> Option<u32> {
    let (eights, _) = endpoints.as_chunks::<8>();
    let needle = Needle::new(*wanted);
    let Some(eights) = eights.get(..usize::from(len).div_ceil(8)) else {
        return position_of(&endpoints[..usize::from(len)], wanted);
    };
    for (number, eight) in eights.iter().enumerate() {
        let equal = needle.among(eight);
        if equal != 0 {
            let found = u32::try_from(8 * number).expect("a small list");
            let found = found + equal.trailing_zeros() / 3;
            return (found < u32::from(len)).then_some(found);
        }
    }
    None
}

/// Words of two bytes in an endpoint of IPv4.
pub const V4_HALVES: usize = ENDPOINT_V4_BYTES / size_of::<u16>();
/// Words of two bytes in an endpoint of IPv6.
pub const V6_HALVES: usize = ENDPOINT_V6_BYTES / size_of::<u16>();
const ID_HALVES: usize = size_of::<PeerId>() / size_of::<u16>();

/// A small list at work, whose endpoints have `N` words of two bytes.
///
/// All columns are counted in such words: to find a place takes no division, and no slice for each
/// column.
pub struct Small<'a, const N: usize> {
    head: &'a mut Head,
    /// What lies behind the head.
    columns: &'a mut [u16],
    /// Peers that the columns have room for.
    room: usize,
    keep_ids: bool,
}

impl<'a, const N: usize> Small<'a, N> {
    /// The list in the block at the beginning of `words`.
    #[inline(always)]
    pub fn open(words: &'a mut [u32], keep_ids: bool) -> Self {
        let (head, rest) = words.split_first_chunk_mut::<HEAD_WORDS>().expect("a block");
        let head: &mut Head = bytemuck::cast_mut(head);
        let room = room(head, keep_ids);
        Self { head, columns: bytemuck::cast_slice_mut(rest), room, keep_ids }
    }

    /// Appends a leecher with an empty stamp; there is room for it.
    pub fn push(&mut self, endpoint: [u16; N]) {
        let position = usize::from(self.head.len);
        self.set(N * position, endpoint);
        self.set(self.stamp_at(position), [0]);
        self.head.len += 1;
    }

    #[inline(always)]
    const fn stamp_at(&self, position: usize) -> usize {
        // Behind the room other blocks lie, which no slice would keep apart.
        debug_assert!(position < self.room);
        N * self.room + position
    }

    const fn id_at(&self, position: usize) -> usize {
        (N + 1) * self.room + ID_HALVES * position
    }

    #[inline(always)]
    fn get<const WIDTH: usize>(&self, at: usize) -> [u16; WIDTH] {
        *self.columns[at..].first_chunk().expect("inside of the memory")
    }

    #[inline(always)]
    fn set<const WIDTH: usize>(&mut self, at: usize, halves: [u16; WIDTH]) {
        *self.columns[at..].first_chunk_mut().expect("inside of the memory") = halves;
    }

    /// Brings what is at the first place to the last, what is there to the second, and what is
    /// there to the first. The second may be the first; or all three are one.
    #[inline(always)]
    fn rotate<const WIDTH: usize>(&mut self, places: [usize; 3], new: Option<[u16; WIDTH]>) {
        let [a, b, c] = places;
        let first: [u16; WIDTH] = self.get(a);
        let (second, last): ([u16; WIDTH], [u16; WIDTH]) = (self.get(b), self.get(c));
        self.set(a, second);
        self.set(b, last);
        self.set(c, new.unwrap_or(first));
    }

    fn swap_words<const WIDTH: usize>(&mut self, a: usize, b: usize) {
        let (first, second) = (self.get::<WIDTH>(a), self.get::<WIDTH>(b));
        self.set(a, second);
        self.set(b, first);
    }
}

impl<const N: usize> List for Small<'_, N> {
    #[inline]
    fn census(&self) -> Census {
        census_of(self.head)
    }

    fn set_census(&mut self, census: Census) {
        let small = |count: u32| u8::try_from(count).expect("a small list");
        self.head.len = small(census.len);
        self.head.seeders = small(census.seeders);
        self.head.partial = small(census.partial);
    }

    #[inline]
    fn stamp(&self, position: u32) -> u16 {
        let [stamp] = self.get(self.stamp_at(position as usize));
        stamp
    }

    /// The peer goes to the end of its kind, so that a window of the others is not cut in two; who
    /// was there goes to a random place, and who was there to the peer's.
    #[inline(always)]
    fn settle(
        &mut self,
        position: u32,
        census: &Census,
        stamp: u16,
        announce: &Refresh<'_>,
    ) -> u32 {
        let (from, to) = census.kind(position);
        let last = to - 1;
        let other = if position == last { last } else { choose(announce.pick, (from, last)) };
        let [a, b, c] = [position as usize, other as usize, last as usize];
        self.rotate::<N>([N * a, N * b, N * c], None);
        self.rotate([self.stamp_at(a), self.stamp_at(b), self.stamp_at(c)], Some([stamp]));
        if self.keep_ids {
            let id = bytemuck::cast::<_, [u16; ID_HALVES]>(announce.id.0);
            self.rotate([self.id_at(a), self.id_at(b), self.id_at(c)], Some(id));
        }
        last
    }

    fn swap(&mut self, a: u32, b: u32) {
        let (a, b) = (a as usize, b as usize);
        self.swap_words::<N>(N * a, N * b);
        self.swap_words::<1>(self.stamp_at(a), self.stamp_at(b));
        if self.keep_ids {
            self.swap_words::<ID_HALVES>(self.id_at(a), self.id_at(b));
        }
    }
}
