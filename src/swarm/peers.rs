//! One peer list: the peers of one swarm that share a family and a scope.
//!
//! Endpoints stand side by side exactly as they go on the wire, seeders before leechers, so a reply
//! is one or two copies of a contiguous window. A doubly linked list of positions keeps the order
//! of the last announces: the peer that announced longest ago is always known, and leaves first.
//!
//! ```text
//! endpoints  | seeder | seeder | leecher | leecher | leecher |     6 or 18 bytes each
//! records    |   r0   |   r1   |   r2    |   r3    |   r4    |     stamp, links, flags
//! ids        |   p0   |   p1   |   p2    |   p3    |   p4    |     only when configured
//!             0        1        ^ seeders                     ^ len
//! ```

use std::hash::Hasher;

use hashbrown::HashTable;
use siphasher::sip::SipHasher13;

use crate::limits::{ENDPOINT_V4_BYTES, ENDPOINT_V6_BYTES};
use crate::time::Seconds;
use crate::wire::addr::{Endpoint, Family};
use crate::wire::id::PeerId;

/// No position.
const NONE: u32 = u32::MAX;
/// Peers above which a list has an index of positions: up to here a scan of the endpoints is as
/// fast.
const INDEX_ABOVE: usize = 64;
/// Peers below which the index goes again; well apart, so that one peer cannot make it flap.
const INDEX_BELOW: usize = 32;

/// What a list remembers of a peer besides its endpoint.
#[derive(Clone, Copy, Debug)]
struct Record {
    /// When it last announced.
    stamp: Seconds,
    /// Position of the peer that announced next after it; `NONE` at the newest.
    newer: u32,
    /// Position of the peer that announced just before it; `NONE` at the oldest.
    older: u32,
    /// A partial seed (BEP 21).
    partial: bool,
    /// Its completion has been counted.
    counted: bool,
}

/// What an announce says about a peer, as far as a list keeps it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Report {
    /// It needs nothing more.
    pub seeder: bool,
    /// It has all it wants, though not all there is (BEP 21).
    pub partial: bool,
    /// It says that its download has just finished.
    pub completed: bool,
}

/// What a report changed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Updated {
    /// Where the peer stands now.
    pub position: u32,
    /// It was not in the list before.
    pub joined: bool,
    /// It has just finished, for the first time in its life here.
    pub completed: bool,
}

/// The keys of this core's hashes of endpoints, so that nobody can choose colliding ones.
#[derive(Clone, Copy, Debug)]
pub struct HashKey(pub u64, pub u64);

impl HashKey {
    /// A keyed hash of `bytes`.
    #[must_use]
    pub fn hash(self, bytes: &[u8]) -> u64 {
        let mut hasher = SipHasher13::new_with_keys(self.0, self.1);
        hasher.write(bytes);
        hasher.finish()
    }
}

/// The peers of one swarm that share a family and a scope, in wire form.
#[derive(Debug)]
pub struct PeerList {
    family: Family,
    /// `endpoints.len() == len() * family.endpoint_bytes()`
    endpoints: Vec<u8>,
    /// `records.len() == len()`
    records: Vec<Record>,
    /// Empty, or `ids.len() == len()`.
    ids: Vec<PeerId>,
    /// Positions `0..seeders` are seeders; `seeders <= len()`.
    seeders: u32,
    /// Leechers that are partial seeds; `partial <= len() - seeders`.
    partial: u32,
    /// Position of the peer that announced last; `NONE` when empty.
    newest: u32,
    /// Position of the peer that announced longest ago; `NONE` when empty.
    oldest: u32,
    /// Endpoint to position, for large lists. Holds each position once.
    index: Option<Box<HashTable<u32>>>,
}

impl PeerList {
    /// An empty list for endpoints of `family`.
    #[must_use]
    pub const fn new(family: Family) -> Self {
        Self {
            family,
            endpoints: Vec::new(),
            records: Vec::new(),
            ids: Vec::new(),
            seeders: 0,
            partial: 0,
            newest: NONE,
            oldest: NONE,
            index: None,
        }
    }

    /// The family of its endpoints.
    #[must_use]
    pub const fn family(&self) -> Family {
        self.family
    }

    /// Peers in the list.
    #[must_use]
    pub fn len(&self) -> u32 {
        position_of(self.records.len())
    }

    /// Whether nobody is in the list.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Peers that need nothing more.
    #[must_use]
    pub const fn seeders(&self) -> u32 {
        self.seeders
    }

    /// Peers that still need something.
    #[must_use]
    pub fn leechers(&self) -> u32 {
        self.len() - self.seeders
    }

    /// Leechers that are partial seeds (BEP 21).
    #[must_use]
    pub const fn partial(&self) -> u32 {
        self.partial
    }

    /// The compact endpoints of positions `from..to`, as they go on the wire.
    #[must_use]
    pub fn endpoints(&self, from: u32, to: u32) -> &[u8] {
        let stride = self.family.endpoint_bytes();
        &self.endpoints[from as usize * stride..to as usize * stride]
    }

    /// The peer ids of positions `from..to`; empty when ids are not kept.
    #[must_use]
    pub fn ids(&self, from: u32, to: u32) -> &[PeerId] {
        self.ids.get(from as usize..to as usize).unwrap_or_default()
    }

    /// When the peer that announced longest ago did so.
    #[must_use]
    pub fn oldest_stamp(&self) -> Option<Seconds> {
        self.records.get(self.oldest as usize).map(|record| record.stamp)
    }

    /// Where the peer stands that announced longest ago.
    #[must_use]
    pub const fn oldest(&self) -> Option<u32> {
        if self.oldest == NONE { None } else { Some(self.oldest) }
    }

    /// Touches what an announce will: the first endpoints and records, and the ends of the links.
    #[must_use]
    pub fn warm(&self) -> u64 {
        let endpoint = self.endpoints.first().copied().unwrap_or(0);
        let record = |at: u32| self.records.get(at as usize).map_or(0, |record| record.stamp.0);
        u64::from(endpoint) + u64::from(record(0)) + u64::from(record(self.oldest))
    }

    /// Bytes of heap that the list holds.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        let index = self.index.as_ref().map_or(0, |index| {
            size_of::<HashTable<u32>>() + index.capacity() * 8 / 7 * (size_of::<u32>() + 1)
        });
        self.endpoints.capacity()
            + self.records.capacity() * size_of::<Record>()
            + self.ids.capacity() * size_of::<PeerId>()
            + index
    }

    /// Where `endpoint` stands.
    #[must_use]
    pub fn find(&self, key: HashKey, endpoint: &Endpoint) -> Option<u32> {
        debug_assert_eq!(endpoint.family(), self.family);
        let wanted = endpoint.as_bytes();
        if let Some(index) = &self.index {
            return index
                .find(key.hash(wanted), |&at| self.endpoints(at, at + 1) == wanted)
                .copied();
        }
        // Arrays of known length: a comparison is two loads instead of a call.
        let found = match endpoint {
            Endpoint::V4(wanted) => self
                .endpoints
                .as_chunks()
                .0
                .iter()
                .position(|one: &[u8; ENDPOINT_V4_BYTES]| one == wanted),
            Endpoint::V6(wanted) => self
                .endpoints
                .as_chunks()
                .0
                .iter()
                .position(|one: &[u8; ENDPOINT_V6_BYTES]| one == wanted),
        };
        found.map(position_of)
    }

    /// Inserts or refreshes a peer, which becomes the newest.
    ///
    /// `id` is kept for every peer of a list or for none.
    pub fn upsert(
        &mut self,
        key: HashKey,
        now: Seconds,
        endpoint: &Endpoint,
        id: Option<PeerId>,
        report: Report,
    ) -> Updated {
        let found = self.find(key, endpoint);
        let joined = found.is_none();
        let mut position = found.unwrap_or_else(|| self.push(key, endpoint, id));
        let was_leecher = !joined && position >= self.seeders;

        self.unlink(position);
        self.link_newest(position);
        if let (Some(id), Some(kept)) = (id, self.ids.get_mut(position as usize)) {
            *kept = id;
        }
        let counted = self.records[position as usize].counted;
        let completed = was_leecher && !counted && (report.seeder || report.completed);
        self.set_partial(position, false);
        self.records[position as usize].stamp = now;
        self.records[position as usize].counted = counted || completed;
        position = self.set_seeder(key, position, report.seeder);
        self.set_partial(position, report.partial && !report.seeder);
        Updated { position, joined, completed }
    }

    /// Exchanges the peer at `position` with a peer of its kind, `pick` from its start (taken
    /// modulo their number), so that windows do not hand out the same neighbours for ever.
    ///
    /// Returns where the peer stands now.
    pub fn mix(&mut self, key: HashKey, position: u32, pick: u32) -> u32 {
        let (from, to) =
            if position < self.seeders { (0, self.seeders) } else { (self.seeders, self.len()) };
        let other = from + pick % (to - from);
        self.swap(key, position, other);
        other
    }

    /// Removes the peer at `position`.
    pub fn remove(&mut self, key: HashKey, position: u32) {
        self.set_partial(position, false);
        let position = self.set_seeder(key, position, false);
        let last = self.len() - 1;
        self.swap(key, position, last);
        self.unlink(last);
        if let Some(index) = &mut self.index {
            let stride = self.family.endpoint_bytes();
            let hash = key.hash(&self.endpoints[last as usize * stride..]);
            index.find_entry(hash, |&at| at == last).expect("every position is indexed").remove();
        }
        self.records.pop();
        self.ids.truncate(self.records.len());
        self.endpoints.truncate(self.records.len() * self.family.endpoint_bytes());
        self.give_back();
    }

    /// Removes the peer that announced longest ago. Does nothing to an empty list.
    pub fn remove_oldest(&mut self, key: HashKey) {
        if self.oldest != NONE {
            self.remove(key, self.oldest);
        }
    }

    /// Removes every peer that has not announced within `ttl` seconds; returns how many.
    ///
    /// Cost: one look at the oldest stamp, and one removal for each peer that goes.
    pub fn expire(&mut self, key: HashKey, now: Seconds, ttl: u32) -> u32 {
        let mut expired = 0;
        while self.oldest_stamp().is_some_and(|stamp| now.since(stamp) > ttl) {
            self.remove_oldest(key);
            expired += 1;
        }
        expired
    }

    /// Appends a leecher that is in no link yet.
    fn push(&mut self, key: HashKey, endpoint: &Endpoint, id: Option<PeerId>) -> u32 {
        let position = self.len();
        self.endpoints.extend_from_slice(endpoint.as_bytes());
        self.records.push(Record {
            stamp: Seconds(0),
            newer: NONE,
            older: NONE,
            partial: false,
            counted: false,
        });
        self.ids.extend(id);
        self.link_newest(position);

        let (endpoints, stride) = (&self.endpoints, self.family.endpoint_bytes());
        let hash_at = |&at: &u32| key.hash(&endpoints[at as usize * stride..][..stride]);
        if let Some(index) = &mut self.index {
            index.insert_unique(hash_at(&position), position, hash_at);
        } else if self.records.len() > INDEX_ABOVE {
            let mut index = HashTable::with_capacity(2 * INDEX_ABOVE);
            for at in 0..=position {
                index.insert_unique(hash_at(&at), at, hash_at);
            }
            self.index = Some(Box::new(index));
        }
        position
    }

    /// Moves the peer across the border between seeders and leechers if need be.
    fn set_seeder(&mut self, key: HashKey, position: u32, seeder: bool) -> u32 {
        match (position < self.seeders, seeder) {
            (false, true) => {
                let border = self.seeders;
                self.swap(key, position, border);
                self.seeders += 1;
                border
            }
            (true, false) => {
                let border = self.seeders - 1;
                self.swap(key, position, border);
                self.seeders -= 1;
                border
            }
            _ => position,
        }
    }

    fn set_partial(&mut self, position: u32, partial: bool) {
        let record = &mut self.records[position as usize];
        self.partial += u32::from(partial);
        self.partial -= u32::from(record.partial);
        record.partial = partial;
    }

    /// Exchanges two peers, in every column, in the links and in the index.
    fn swap(&mut self, key: HashKey, a: u32, b: u32) {
        if a == b {
            return;
        }
        if let Some(index) = &mut self.index {
            let stride = self.family.endpoint_bytes();
            let hash = |at: u32| key.hash(&self.endpoints[at as usize * stride..][..stride]);
            let (hash_a, hash_b) = (hash(a), hash(b));
            // Three steps, since both entries may stand in one probe sequence.
            for (hash, from, to) in [(hash_a, a, NONE), (hash_b, b, a), (hash_a, NONE, b)] {
                let entry = index.find_mut(hash, |&at| at == from);
                *entry.expect("every position is indexed") = to;
            }
        }
        match self.family {
            Family::V4 => {
                let endpoints: &mut [[u8; ENDPOINT_V4_BYTES]] = self.endpoints.as_chunks_mut().0;
                endpoints.swap(a as usize, b as usize);
            }
            Family::V6 => {
                let endpoints: &mut [[u8; ENDPOINT_V6_BYTES]] = self.endpoints.as_chunks_mut().0;
                endpoints.swap(a as usize, b as usize);
            }
        }
        self.records.swap(a as usize, b as usize);
        if !self.ids.is_empty() {
            self.ids.swap(a as usize, b as usize);
        }
        // The two may be neighbours in the links: first each other's new positions, then the rest.
        let moved = |at: u32| match at {
            at if at == a => b,
            at if at == b => a,
            at => at,
        };
        for position in [a, b] {
            let record = &mut self.records[position as usize];
            record.newer = moved(record.newer);
            record.older = moved(record.older);
        }
        for position in [a, b] {
            let Record { newer, older, .. } = self.records[position as usize];
            *self.older_of(newer) = position;
            *self.newer_of(older) = position;
        }
    }

    /// The link that points from `position` to its older neighbour; the list's own end for `NONE`.
    fn older_of(&mut self, position: u32) -> &mut u32 {
        self.records.get_mut(position as usize).map_or(&mut self.newest, |record| &mut record.older)
    }

    /// The link that points from `position` to its newer neighbour; the list's own end for `NONE`.
    fn newer_of(&mut self, position: u32) -> &mut u32 {
        self.records.get_mut(position as usize).map_or(&mut self.oldest, |record| &mut record.newer)
    }

    fn unlink(&mut self, position: u32) {
        let Record { newer, older, .. } = self.records[position as usize];
        *self.older_of(newer) = older;
        *self.newer_of(older) = newer;
    }

    fn link_newest(&mut self, position: u32) {
        let older = self.newest;
        self.records[position as usize].newer = NONE;
        self.records[position as usize].older = older;
        self.newest = position;
        *self.newer_of(older) = position;
    }

    /// Gives memory back once three quarters of it are unused.
    fn give_back(&mut self) {
        let len = self.records.len();
        if len < INDEX_BELOW {
            self.index = None;
        }
        if len < self.records.capacity() / 4 {
            self.records.shrink_to(len * 2);
            self.endpoints.shrink_to(len * 2 * self.family.endpoint_bytes());
            self.ids.shrink_to(if self.ids.is_empty() { 0 } else { len * 2 });
        }
    }

    /// Panics unless every relation stated on the fields holds. For tests and the fuzzers.
    pub fn check_invariants(&self, key: HashKey) {
        let len = self.records.len();
        assert_eq!(self.endpoints.len(), len * self.family.endpoint_bytes());
        assert!(self.ids.is_empty() || self.ids.len() == len);
        assert!(self.seeders as usize <= len);
        let partial = self.records.iter().filter(|record| record.partial).count();
        assert_eq!(self.partial as usize, partial);
        assert!(self.records[..self.seeders as usize].iter().all(|record| !record.partial));

        let (mut position, mut newer, mut seen) = (self.newest, NONE, 0);
        let mut stamp = Seconds(u32::MAX);
        while position != NONE {
            let record = &self.records[position as usize];
            assert_eq!(record.newer, newer);
            assert!(record.stamp <= stamp, "stamps fall from the newest to the oldest");
            (newer, position, stamp) = (position, record.older, record.stamp);
            seen += 1;
            assert!(seen <= len, "the links form a ring");
        }
        assert_eq!((seen, self.oldest), (len, newer));

        assert!(self.index.is_some() || len <= INDEX_ABOVE);
        if let Some(index) = &self.index {
            assert_eq!(index.len(), len);
            for at in 0..self.len() {
                let hash = key.hash(self.endpoints(at, at + 1));
                assert_eq!(index.find(hash, |&entry| entry == at), Some(&at));
            }
        }
    }
}

/// A position as the links store it.
fn position_of(index: usize) -> u32 {
    u32::try_from(index).expect("peers per swarm are bounded far below 2^32")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    const KEY: HashKey = HashKey(1, 2);
    const LEECHER: Report = Report { seeder: false, partial: false, completed: false };
    const SEEDER: Report = Report { seeder: true, partial: false, completed: false };

    fn endpoint(n: u32) -> Endpoint {
        Endpoint::new(std::net::Ipv4Addr::from(n).into(), 6881)
    }

    fn list(peers: u32, seeders: u32) -> PeerList {
        let mut list = PeerList::new(Family::V4);
        for n in 0..peers {
            let report = if n < seeders { SEEDER } else { LEECHER };
            list.upsert(KEY, Seconds(n), &endpoint(n), None, report);
            list.check_invariants(KEY);
        }
        list
    }

    #[test]
    fn seeders_stand_before_leechers_in_any_order_of_arrival() {
        let mut list = list(10, 0);
        for n in [3, 7, 9] {
            let updated = list.upsert(KEY, Seconds(20), &endpoint(n), None, SEEDER);
            assert!(updated.position < list.seeders());
            list.check_invariants(KEY);
        }
        assert_eq!((list.seeders(), list.leechers()), (3, 7));
        let back = list.upsert(KEY, Seconds(21), &endpoint(7), None, LEECHER);
        assert!(back.position >= list.seeders() && !back.joined);
        list.check_invariants(KEY);
    }

    #[test]
    fn the_peer_that_announced_longest_ago_leaves_first() {
        let mut list = list(100, 30);
        list.upsert(KEY, Seconds(100), &endpoint(0), None, SEEDER);
        for n in 1..100 {
            list.remove_oldest(KEY);
            list.check_invariants(KEY);
            assert_eq!(list.find(KEY, &endpoint(n)), None);
        }
        assert_eq!(list.len(), 1);
        assert!(list.find(KEY, &endpoint(0)).is_some());
    }

    #[test]
    fn a_peer_expires_one_second_after_its_ttl() {
        let mut list = list(1, 0);
        assert_eq!(list.expire(KEY, Seconds(60), 60), 0);
        assert_eq!(list.expire(KEY, Seconds(61), 60), 1);
        assert!(list.is_empty());
        list.check_invariants(KEY);
    }

    #[test]
    fn completion_counts_once_and_only_for_a_known_leecher() {
        let mut list = PeerList::new(Family::V4);
        let done = Report { completed: true, ..SEEDER };
        assert!(!list.upsert(KEY, Seconds(0), &endpoint(1), None, done).completed);
        assert!(!list.upsert(KEY, Seconds(0), &endpoint(2), None, LEECHER).completed);
        assert!(list.upsert(KEY, Seconds(0), &endpoint(2), None, SEEDER).completed);
        assert!(!list.upsert(KEY, Seconds(0), &endpoint(2), None, LEECHER).completed);
        assert!(!list.upsert(KEY, Seconds(0), &endpoint(2), None, done).completed);
    }

    #[test]
    fn a_partial_seed_is_a_leecher_until_it_says_otherwise() {
        let mut list = list(3, 1);
        let paused = Report { partial: true, ..LEECHER };
        list.upsert(KEY, Seconds(9), &endpoint(2), None, paused);
        assert_eq!((list.leechers(), list.partial()), (2, 1));
        list.upsert(KEY, Seconds(9), &endpoint(2), None, LEECHER);
        assert_eq!((list.leechers(), list.partial()), (2, 0));
        list.upsert(KEY, Seconds(9), &endpoint(2), None, paused);
        list.remove(KEY, list.find(KEY, &endpoint(2)).expect("still there"));
        assert_eq!(list.partial(), 0);
        list.check_invariants(KEY);
    }

    #[test]
    fn growth_shrinkage_and_mixing_keep_every_relation() {
        let mut rng = Rng::new(11);
        let mut list = list(300, 100);
        for step in 0..3_000 {
            let n = rng.below(300);
            match list.find(KEY, &endpoint(n)) {
                Some(position) if rng.below(3) == 0 => list.remove(KEY, position),
                Some(position) => {
                    let pick = rng.below(u32::MAX);
                    let mixed = list.mix(KEY, position, pick);
                    assert_eq!(list.find(KEY, &endpoint(n)), Some(mixed));
                }
                None => {
                    let report = if n < 150 { SEEDER } else { LEECHER };
                    list.upsert(KEY, Seconds(300 + step), &endpoint(n), None, report);
                }
            }
            list.check_invariants(KEY);
        }
        let full = list.heap_bytes();
        while !list.is_empty() {
            list.remove_oldest(KEY);
        }
        list.check_invariants(KEY);
        assert!(list.heap_bytes() * 8 < full, "memory is given back");
    }
}
