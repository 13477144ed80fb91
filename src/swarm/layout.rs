//! How a swarm lies in memory.
//!
//! One block of the slab holds a list of peers of one family and one scope, and its head, which is
//! the swarm's too: most swarms are one block, and most blocks one or two cache lines.
//!
//! ```text
//! 0      20         24    28                 36
//! hash | completed | next | flags, stamp, counts | endpoints       | stamps  | ids
//!        20 + 16 bytes of head                   | 6 or 18 x room  | 2 x room | 20 x room
//! ```
//!
//! A list of more than [`SMALL_MAX`] peers has its columns elsewhere: see [`super::large`].

use bytemuck::{Pod, Zeroable};

use super::class::{CLASSES, Class, class_bytes};
use super::slab::Block;
use crate::limits::{ENDPOINT_V4_BYTES, ENDPOINT_V6_BYTES};
use crate::time::Seconds;
use crate::wire::addr::{Family, Scope};
use crate::wire::id::{InfoHash, PeerId};

/// Bytes of a [`Head`].
pub const HEAD_BYTES: usize = size_of::<Head>();
/// Words of a [`Head`].
pub const HEAD_WORDS: usize = HEAD_BYTES / size_of::<u32>();
/// Peers of the longest list whose peers lie in its own block; up to here a scan of the endpoints
/// costs no more than an index would.
pub const SMALL_MAX: usize = 128;

/// The block is in use. (A free block of the slab has 0 here.)
const USED: u8 = 1;
/// It is a swarm's second, third ... list; the first one's `next` leads here.
const FURTHER: u8 = 1 << 1;
/// Its endpoints are of IPv6.
const V6: u8 = 1 << 2;
/// The columns are elsewhere, and the number of the [`super::large::Large`] follows the head.
const LARGE: u8 = 1 << 3;
/// Several networks have announced to the swarm, or a peer came back; else it is on probation.
const ESTABLISHED: u8 = 1 << 4;

/// The head of a block.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Head {
    info_hash: [u8; 20],
    /// Downloads that finished here; counted in the first list.
    pub completed: u32,
    next: u32,
    flags: u8,
    scope: u8,
    /// A stamp as old as the oldest of the list's, or older. Of an empty list: when its last peer
    /// stopped.
    pub oldest: u16,
    /// Peers, if the list is not large.
    pub len: u8,
    /// How many of them are seeders: the first ones.
    pub seeders: u8,
    /// How many of the leechers are partial seeds.
    pub partial: u8,
    class: u8,
}

const _: () =
    assert!(HEAD_BYTES == 36 && HEAD_BYTES == 4 * HEAD_WORDS && SMALL_MAX <= u8::MAX as usize);

impl Head {
    /// The head of an empty list in a block of `class`.
    #[must_use]
    pub fn new(info_hash: &InfoHash, family: Family, scope: Scope, class: Class) -> Self {
        Self {
            info_hash: info_hash.0,
            flags: USED | if family == Family::V6 { V6 } else { 0 },
            scope: scope.number(),
            class: class.number(),
            ..Self::zeroed()
        }
    }

    /// The swarm's name.
    #[must_use]
    pub const fn info_hash(&self) -> InfoHash {
        InfoHash(self.info_hash)
    }

    /// Whether the swarm's name is `info_hash`.
    #[must_use]
    pub fn is(&self, info_hash: &InfoHash) -> bool {
        self.info_hash == info_hash.0
    }

    /// Whether the block is in use.
    #[must_use]
    pub const fn is_used(&self) -> bool {
        self.flags & USED != 0
    }

    /// Whether this is the first list of the swarm of that name.
    #[must_use]
    #[inline]
    pub fn is_swarm(&self, info_hash: &InfoHash) -> bool {
        self.flags & (USED | FURTHER) == USED && self.is(info_hash)
    }

    /// Says that the block is free.
    pub const fn set_free(&mut self) {
        self.flags = 0;
    }

    /// Whether it is the first list of its swarm.
    #[must_use]
    pub const fn is_first(&self) -> bool {
        self.flags & FURTHER == 0
    }

    /// Says that it is not the first list of its swarm.
    pub const fn set_further(&mut self) {
        self.flags |= FURTHER;
    }

    /// The family of its endpoints.
    #[must_use]
    pub const fn family(&self) -> Family {
        if self.flags & V6 == 0 { Family::V4 } else { Family::V6 }
    }

    /// Who can reach its peers.
    #[must_use]
    pub const fn scope(&self) -> Scope {
        Scope::from_number(self.scope)
    }

    /// Whether it is the only list of its swarm, and one for `family` and `scope`.
    #[must_use]
    #[inline]
    pub fn is_only(&self, family: Family, scope: Scope) -> bool {
        self.next == 0 && self.family() == family && self.scope == scope.number()
    }

    /// Whether the columns are elsewhere.
    #[must_use]
    pub const fn is_large(&self) -> bool {
        self.flags & LARGE != 0
    }

    /// Says where the columns are.
    pub const fn set_large(&mut self, large: bool) {
        self.flags = if large { self.flags | LARGE } else { self.flags & !LARGE };
    }

    /// Whether it is the first list of a swarm that is not taken for real yet.
    #[must_use]
    pub const fn is_on_probation(&self) -> bool {
        self.flags & (USED | FURTHER | ESTABLISHED) == USED
    }

    /// Takes the swarm for real.
    pub const fn set_established(&mut self) {
        self.flags |= ESTABLISHED;
    }

    /// The class of its block.
    #[must_use]
    pub const fn class(&self) -> Class {
        Class::from_number(self.class)
    }

    /// Says that it has moved to a block of `class`.
    pub const fn set_class(&mut self, class: Class) {
        self.class = class.number();
    }

    /// The swarm's next list.
    #[must_use]
    pub const fn next(&self) -> Option<Block> {
        Block::from_number(self.next)
    }

    /// Changes which is the swarm's next list.
    pub const fn set_next(&mut self, next: Option<Block>) {
        self.next = match next {
            Some(block) => block.number(),
            None => 0,
        };
    }
}

/// How wide the columns of a list are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Shape {
    /// Bytes of an endpoint.
    pub stride: usize,
    /// Bytes of a peer id, or 0.
    pub id_bytes: usize,
}

impl Shape {
    /// The columns for `family`, with or without peer ids.
    #[must_use]
    pub const fn new(family: Family, keep_ids: bool) -> Self {
        let stride = match family {
            Family::V4 => ENDPOINT_V4_BYTES,
            Family::V6 => ENDPOINT_V6_BYTES,
        };
        Self { stride, id_bytes: if keep_ids { size_of::<PeerId>() } else { 0 } }
    }

    /// Bytes of a peer in all columns.
    #[must_use]
    pub const fn peer_bytes(self) -> usize {
        self.stride + size_of::<u16>() + self.id_bytes
    }

    /// The columns in `bytes`, which have room for `room` peers.
    #[must_use]
    pub fn columns(self, bytes: &[u8], room: usize) -> Columns<&[u8], &[u16]> {
        let (endpoints, rest) = bytes.split_at(room * self.stride);
        let (stamps, rest) = rest.split_at(room * size_of::<u16>());
        let ids = &rest[..room * self.id_bytes];
        Columns { endpoints, stamps: bytemuck::cast_slice(stamps), ids }
    }

    /// The columns in `bytes`, which have room for `room` peers.
    pub fn columns_mut(self, bytes: &mut [u8], room: usize) -> Columns<&mut [u8], &mut [u16]> {
        let (endpoints, rest) = bytes.split_at_mut(room * self.stride);
        let (stamps, rest) = rest.split_at_mut(room * size_of::<u16>());
        let ids = &mut rest[..room * self.id_bytes];
        Columns { endpoints, stamps: bytemuck::cast_slice_mut(stamps), ids }
    }

    /// Copies the first `len` peers into other columns.
    pub fn copy(
        self,
        from: &Columns<&[u8], &[u16]>,
        to: &mut Columns<&mut [u8], &mut [u16]>,
        len: usize,
    ) {
        let (endpoints, ids) = (len * self.stride, len * self.id_bytes);
        to.endpoints[..endpoints].copy_from_slice(&from.endpoints[..endpoints]);
        to.stamps[..len].copy_from_slice(&from.stamps[..len]);
        to.ids[..ids].copy_from_slice(&from.ids[..ids]);
    }
}

/// Peers that a block of each class has room for, by [`Shape`].
const ROOMS: [[[u8; CLASSES]; 2]; 2] = {
    let mut rooms = [[[0; CLASSES]; 2]; 2];
    let mut index = 0;
    while index < 4 * CLASSES {
        let (class, v6, keep_ids) = (index / 4, index % 2, index / 2 % 2);
        let family = if v6 == 1 { Family::V6 } else { Family::V4 };
        let shape = Shape::new(family, keep_ids == 1);
        let room = (class_bytes(class) - HEAD_BYTES) / shape.peer_bytes();
        // Counted up to, so that it is a byte.
        let counted = &mut rooms[v6][keep_ids][class];
        while (*counted as usize) < room && (*counted as usize) < SMALL_MAX {
            *counted += 1;
        }
        index += 1;
    }
    rooms
};

/// Peers that a small list has room for.
#[must_use]
#[inline(always)]
pub fn room(head: &Head, keep_ids: bool) -> usize {
    let v6 = usize::from(head.flags & V6 != 0);
    usize::from(ROOMS[v6][usize::from(keep_ids)][usize::from(head.class)])
}

/// What is kept of each peer, side by side.
#[derive(Clone, Copy, Debug)]
pub struct Columns<B, S> {
    /// As they go on the wire.
    pub endpoints: B,
    /// When each last announced, and two flags.
    pub stamps: S,
    /// Empty when ids are not kept.
    pub ids: B,
}

/// The bits of a stamp that are time.
const TIME: u16 = (1 << 14) - 1;
/// The peer is a partial seed (BEP 21).
pub const PARTIAL: u16 = 1 << 14;
/// The peer's completion has been counted.
pub const COUNTED: u16 = 1 << 15;

/// Time in the small: 14 bits that wrap around.
///
/// Their unit is a second as long as a peer's life of two hours and more fits; for longer ones a
/// power of two seconds, and then a peer leaves up to two units early. Whoever keeps stamps must
/// look at each within [`Clock::span_secs`] after it fell due.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    shift: u32,
    /// The age, in units, above which a peer has expired.
    ttl: u16,
}

/// The longest life of a peer in units; as much again remains for those who look late.
const TTL_MAX: u32 = 7_800;

impl Clock {
    /// For peers that live `ttl_secs`.
    #[must_use]
    pub fn new(ttl_secs: u32) -> Self {
        let mut shift = 0;
        while ttl_secs >> shift > TTL_MAX {
            shift += 1;
        }
        let early = u32::from(shift > 0);
        let ttl = (ttl_secs >> shift).saturating_sub(early);
        Self { shift, ttl: u16::try_from(ttl).expect("bounded above") }
    }

    /// The stamp of a moment.
    #[must_use]
    pub fn stamp(self, now: Seconds) -> u16 {
        let units = (now.0 >> self.shift) & u32::from(TIME);
        u16::try_from(units).expect("masked")
    }

    /// Units from `stamp` to `now`, a stamp too.
    #[must_use]
    pub const fn age(now: u16, stamp: u16) -> u16 {
        now.wrapping_sub(stamp) & TIME
    }

    /// Seconds from `stamp` to `now`, or up to a unit less.
    #[must_use]
    pub fn age_secs(self, now: u16, stamp: u16) -> u32 {
        u32::from(Self::age(now, stamp)) << self.shift
    }

    /// Whether a peer with this stamp has expired.
    #[must_use]
    pub const fn is_expired(self, now: u16, stamp: u16) -> bool {
        Self::age(now, stamp) > self.ttl
    }

    /// Whether a peer of this age has expired.
    #[must_use]
    pub const fn age_is_expired(self, age: u16) -> bool {
        age > self.ttl
    }

    /// Seconds for which an expired stamp stays recognisable as such.
    #[must_use]
    pub fn span_secs(self) -> u32 {
        u32::from(TIME - self.ttl - 2) << self.shift
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_seconds_whatever_the_unit_is() {
        for ttl in [3_000, 7_801, 100_000] {
            let clock = Clock::new(ttl);
            for age in [0, 16, 320, 4_000] {
                let (then, now) = (clock.stamp(Seconds(1_600)), clock.stamp(Seconds(1_600 + age)));
                assert_eq!(clock.age_secs(now, then), age, "{ttl}");
            }
        }
    }

    #[test]
    fn a_peer_expires_right_after_its_ttl_or_a_little_early_never_late() {
        for ttl in [1, 100, 3_000, 7_800, 7_801, 20_000, 7 * 24 * 3_600] {
            let clock = Clock::new(ttl);
            for born in [0, 5, 16_380, 16_384, 1_000_003] {
                let stamp = clock.stamp(Seconds(born));
                let expired = |age| clock.is_expired(clock.stamp(Seconds(born + age)), stamp);
                assert!(!expired(0) && expired(ttl + 1), "{ttl}");
                assert!(!expired(ttl - ttl / 50), "{ttl}");
                assert_eq!(expired(ttl), ttl > 7_800, "{ttl}");
                assert!(expired(ttl + clock.span_secs()), "{ttl}");
                assert!(clock.span_secs() > 8_500.max(ttl), "{ttl}");
            }
        }
    }
}
