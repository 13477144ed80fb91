//! A list whose peers lie in the block of its head: nearly every list there is.

use super::layout::{HEAD_WORDS, Head, room};
use super::machine::Needle;
use super::peers::{Census, List, choose};
use crate::limits::ENDPOINT_V4_BYTES;
use crate::wire::id::PeerId;

/// How many are in a small list.
#[inline]
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
#[inline]
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

/// A small list at work.
pub struct Small<'a, const N: usize> {
    head: &'a mut Head,
    endpoints: &'a mut [[u8; N]],
    stamps: &'a mut [u16],
    /// Empty when ids are not kept.
    ids: &'a mut [[u8; size_of::<PeerId>()]],
}

impl<'a, const N: usize> Small<'a, N> {
    /// The list in the block at the beginning of `words`.
    #[inline(always)]
    pub fn open(words: &'a mut [u32], keep_ids: bool) -> Self {
        let (head, rest) = words.split_first_chunk_mut::<HEAD_WORDS>().expect("a block");
        let head: &mut Head = bytemuck::cast_mut(head);
        let room = room(head, keep_ids);
        let (endpoints, rest) = bytemuck::cast_slice_mut(rest).split_at_mut(room * N);
        let (stamps, rest) = rest.split_at_mut(room * size_of::<u16>());
        let ids = if keep_ids { &mut rest[..room * size_of::<PeerId>()] } else { &mut [] };
        Self {
            head,
            endpoints: endpoints.as_chunks_mut().0,
            stamps: bytemuck::cast_slice_mut(stamps),
            ids: ids.as_chunks_mut().0,
        }
    }

    /// The endpoints of its peers.
    #[inline]
    pub fn endpoints(&self) -> &[[u8; N]] {
        &self.endpoints[..usize::from(self.head.len)]
    }

    /// Appends a leecher with an empty stamp; there is room for it.
    pub fn push(&mut self, endpoint: &[u8; N]) {
        let len = usize::from(self.head.len);
        self.endpoints[len] = *endpoint;
        self.stamps[len] = 0;
        self.head.len += 1;
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
        self.stamps[position as usize]
    }

    #[inline]
    fn set_stamp(&mut self, position: u32, stamp: u16) {
        self.stamps[position as usize] = stamp;
    }

    #[inline]
    fn set_id(&mut self, position: u32, id: &PeerId) {
        if let Some(kept) = self.ids.get_mut(position as usize) {
            *kept = id.0;
        }
    }

    /// The peer goes to the end of its kind, so that a window of the others is not cut in two, and
    /// who was there to a random place.
    #[inline(always)]
    fn mix(&mut self, position: u32, census: &Census, pick: u32) -> u32 {
        let (from, to) = census.kind(position);
        let last = to - 1;
        self.swap(position, last);
        // All but the last.
        let other = choose(pick, (from, last));
        self.swap(if position == last { other } else { position }, other);
        last
    }

    #[inline(always)]
    fn swap(&mut self, a: u32, b: u32) {
        let (a, b) = (a as usize, b as usize);
        self.endpoints.swap(a, b);
        self.stamps.swap(a, b);
        if !self.ids.is_empty() {
            self.ids.swap(a, b);
        }
    }
}
