//! The WebSocket peers of a core's swarms.
//!
//! They are few beside the others, a connection is worth kilobytes, and nobody is given their
//! addresses: an offer goes to a peer through its connection. So they live apart from the lists of
//! endpoints, in tables of plain numbers, and a swarm's counts are the sum of both.
//!
//! A peer is (place, `peer_id`), where a place is a connection of some core: what another
//! connection says, be it with the same `peer_id`, concerns another peer.
//!
//! ```text
//! info_hash -> swarm   { members: [seeders .. | leechers ..], counts }
//! (swarm, place, peer_id) -> member   { its position in that list, when it announced, ... }
//! ```
//!
//! Everything takes constant time whatever the size of a swarm, but for the peers chosen.
//! Invariants: `members[i].position == i`; the first `seeders` of a swarm's members are seeders; a
//! member is in the list of its swarm, and both tables find what is there and nothing else.

mod choose;
mod look;
mod room;
mod slots;
mod sources;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use hashbrown::HashTable;

use self::slots::Slots;
use self::sources::Sources;
use super::hash::{HashKey, Hasher};
use super::peers::Report;
use super::survey::Survey;
use super::{Counts, Newcomer};
use crate::rng::Rng;
use crate::time::Seconds;
use crate::wire::addr::Family;
use crate::wire::id::{InfoHash, PeerId};

pub use choose::Chosen;

/// Members that [`WebStore::sweep`] looks at, at the most; a few nanoseconds each.
const SWEEP_MEMBERS: usize = 8_192;
/// Swarms that it looks at.
const SWEEP_SWARMS: usize = 4_096;
/// Members of a full swarm that are looked at for one that may go.
const EVICT_LOOKS: u32 = 16;
/// Bytes that a member takes beside itself: an entry of an index at its least load, and a place in
/// its swarm's list, which may be twice as long.
const MEMBER_TABLE_BYTES: usize = 24;

/// A connection: on which core, and what that core calls it.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Place {
    /// The core.
    pub core: u16,
    /// Its name for the connection, never used for another one.
    pub connection: u64,
}

/// A peer that announces itself.
#[derive(Clone, Copy, Debug)]
pub struct WebArrival {
    /// To which swarm.
    pub info_hash: InfoHash,
    /// Its connection.
    pub place: Place,
    /// Its name for itself.
    pub peer_id: PeerId,
    /// The family of its connection, for statistics.
    pub family: Family,
    /// Who is behind it: see [`source_key`](crate::wire::addr::source_key).
    pub source: u64,
    /// What it says about itself.
    pub report: Report,
}

/// What an announce did.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct WebAnnounced {
    /// Its swarm, valid until the next call that changes the store.
    pub swarm: WebSwarmHandle,
    /// Its place there.
    pub asker: u32,
    /// It was not there before.
    pub joined: bool,
    /// It has just finished its download.
    pub completed: bool,
    /// Peers that had to make room.
    pub evicted: u32,
}

/// Names a swarm.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct WebSwarmHandle(u32);

/// Why a newcomer is not there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum WebRefused<E> {
    /// There is no memory for another peer, and nobody here has more than its share.
    Full,
    /// Whoever was asked did not admit it.
    NotAdmitted(E),
}

/// The bounds of a store.
#[derive(Clone, Copy, Debug)]
pub struct WebBounds {
    /// Bytes of swarms and peers.
    pub memory_bytes: usize,
    /// Peers of one swarm; above it, one that announced long ago goes.
    pub peers_per_swarm: u32,
    /// Seconds that a peer stays after an announce.
    pub peer_ttl_secs: u32,
}

/// What a store holds.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct WebTotals {
    /// Swarms, those among them that had peers lately.
    pub swarms: u64,
    /// Swarms that have peers here now.
    pub active_swarms: u64,
    /// Those among them that have peers elsewhere too, as far as was said.
    pub shared_swarms: u64,
    /// Seeders by [`Family`].
    pub seeders: [u64; 2],
    /// Leechers by [`Family`].
    pub leechers: [u64; 2],
    /// Peers that left because they had not announced in time.
    pub expired_peers: u64,
    /// Peers that made room in a full swarm or a full store.
    pub evicted_peers: u64,
}

#[derive(Clone, Debug)]
struct Swarm {
    info_hash: InfoHash,
    /// Indices into `WebStore::members`; seeders first.
    members: Vec<u32>,
    seeders: u32,
    partial: u32,
    completed: u32,
    /// It has peers elsewhere.
    is_shared: bool,
    /// When somebody was last here; a swarm without peers goes when it is old.
    touched: Seconds,
}

#[derive(Clone, Copy, Debug)]
struct Member {
    swarm: u32,
    /// Where it stands in its swarm's list.
    position: u32,
    place: Place,
    peer_id: PeerId,
    announced: Seconds,
    source: u64,
    family: Family,
    partial: bool,
    /// Its download has been counted.
    completed: bool,
}

/// The WebSocket peers of one core's swarms.
#[derive(Debug)]
pub struct WebStore {
    bounds: WebBounds,
    hasher: Hasher,
    rng: Rng,
    swarms: Slots<Swarm>,
    members: Slots<Member>,
    by_hash: HashTable<u32>,
    by_key: HashTable<u32>,
    sources: Sources,
    totals: WebTotals,
    /// Where the sweep goes on.
    next_member: usize,
    next_swarm: usize,
    pub(super) survey: Survey,
}

impl WebStore {
    /// A store without peers.
    #[must_use]
    pub fn new(bounds: WebBounds, key: HashKey, rng: Rng) -> Self {
        Self {
            bounds,
            hasher: Hasher::new(key),
            rng,
            swarms: Slots::new(),
            members: Slots::new(),
            by_hash: HashTable::new(),
            by_key: HashTable::new(),
            sources: Sources::default(),
            totals: WebTotals::default(),
            next_member: 0,
            next_swarm: 0,
            survey: Survey::default(),
        }
    }

    /// Whether there is no swarm at all: then no other question needs asking.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.swarms.len() == 0
    }

    /// A peer stays, or joins if `admit` says so, which is told how many of the same source are in
    /// that swarm.
    ///
    /// # Errors
    /// [`WebRefused`]: it was not there, and is not.
    pub fn announce_if<E>(
        &mut self,
        now: Seconds,
        arrival: &WebArrival,
        admit: impl FnOnce(Newcomer, u32) -> Result<(), E>,
    ) -> Result<WebAnnounced, WebRefused<E>> {
        let found = self.find_swarm(&arrival.info_hash);
        let known = found.and_then(|swarm| self.find_member(swarm, arrival));
        if let (Some(swarm), Some(member)) = (found, known) {
            return Ok(self.refresh(now, swarm, member, arrival));
        }
        let newcomer = if found.is_some() { Newcomer::Peer } else { Newcomer::Swarm };
        let source = arrival.source;
        let beside = found.map_or(0, |swarm| self.sources.count(&self.hasher, swarm, source));
        admit(newcomer, beside).map_err(WebRefused::NotAdmitted)?;
        let bytes = self.bytes_of_one(found, source);
        let mut evicted = self.make_room(now, bytes, (source, found)).ok_or(WebRefused::Full)?;
        let swarm = found.unwrap_or_else(|| self.insert_swarm(&arrival.info_hash));
        let crowd = self.swarms.get(swarm).members.len();
        if crowd >= self.bounds.peers_per_swarm as usize {
            let oldest = self.oldest_of_some(swarm);
            self.remove_member(oldest);
            self.totals.evicted_peers += 1;
            evicted += 1;
        }
        let position = u32::try_from(self.swarms.get(swarm).members.len()).expect("bounded");
        let member = self.members.insert(Member {
            swarm,
            position,
            place: arrival.place,
            peer_id: arrival.peer_id,
            announced: now,
            source,
            family: arrival.family,
            partial: arrival.report.partial && !arrival.report.seeder,
            completed: false,
        });
        self.totals.active_swarms += u64::from(position == 0);
        let swarm_now = self.swarms.get_mut(swarm);
        swarm_now.members.push(member);
        swarm_now.touched = now;
        swarm_now.partial += u32::from(arrival.report.partial && !arrival.report.seeder);
        self.totals.leechers[arrival.family as usize] += 1;
        let hash = self.hash_of(swarm, arrival.place, &arrival.peer_id);
        let Self { by_key, members, hasher, .. } = self;
        by_key.insert_unique(hash, member, |&index| key_hash(hasher, members.get(index)));
        self.sources.enter(&self.hasher, swarm, source);
        if arrival.report.seeder {
            self.set_seeder(member, true);
        }
        Ok(WebAnnounced {
            swarm: WebSwarmHandle(swarm),
            asker: self.members.get(member).position,
            joined: true,
            completed: false,
            evicted,
        })
    }

    /// A peer leaves, on its own or with its connection; the swarm goes with the last, unless it
    /// has downloads to tell about. Returns whether the peer was there.
    pub fn leave(
        &mut self,
        now: Seconds,
        info_hash: &InfoHash,
        place: Place,
        peer_id: &PeerId,
    ) -> bool {
        let Some(swarm) = self.find_swarm(info_hash) else { return false };
        let Some(member) = self.find_key(swarm, place, peer_id) else { return false };
        self.remove_member(member);
        let left = self.swarms.get_mut(swarm);
        left.touched = now;
        if left.members.is_empty() && left.completed == 0 {
            self.remove_swarm(swarm);
        }
        true
    }

    /// The swarm of that name, if there is one here.
    #[must_use]
    pub fn find(&self, info_hash: &InfoHash) -> Option<WebSwarmHandle> {
        self.find_swarm(info_hash).map(WebSwarmHandle)
    }

    /// Notes whether a swarm has peers elsewhere too, for [`WebTotals`].
    pub fn set_shared(&mut self, WebSwarmHandle(swarm): WebSwarmHandle, is_shared: bool) {
        let before = std::mem::replace(&mut self.swarms.get_mut(swarm).is_shared, is_shared);
        self.totals.shared_swarms += u64::from(is_shared);
        self.totals.shared_swarms -= u64::from(before);
    }

    /// Who is in a swarm, as far as this store knows.
    #[must_use]
    pub fn counts(&self, info_hash: &InfoHash) -> Counts {
        let Some(swarm) = self.find_swarm(info_hash) else { return Counts::default() };
        let swarm = self.swarms.get(swarm);
        let all = u32::try_from(swarm.members.len()).expect("bounded");
        Counts {
            seeders: swarm.seeders,
            leechers: all - swarm.seeders,
            partial: swarm.partial,
            completed: swarm.completed,
        }
    }

    /// Removes peers that have not announced in time and swarms that nobody needs: a bounded slice
    /// of them, in turn.
    pub fn sweep(&mut self, now: Seconds) {
        for _ in 0..SWEEP_MEMBERS.min(self.members.slots.len()) {
            if self.next_member >= self.members.slots.len() {
                self.next_member = 0;
            }
            let Ok(index) = u32::try_from(self.next_member) else { break };
            self.next_member += 1;
            if self.members.look(index).is_some() && self.is_expired(now, index) {
                self.totals.expired_peers += 1;
                self.remove_member(index);
            }
        }
        for _ in 0..SWEEP_SWARMS.min(self.swarms.slots.len()) {
            if self.next_swarm >= self.swarms.slots.len() {
                self.next_swarm = 0;
                self.survey.finish_round();
            }
            let Ok(index) = u32::try_from(self.next_swarm) else { break };
            self.next_swarm += 1;
            let Some(swarm) = self.swarms.look(index) else { continue };
            let peers = u32::try_from(swarm.members.len()).expect("bounded");
            self.survey.saw(peers, || swarm.info_hash);
            if swarm.members.is_empty() && now.since(swarm.touched) > self.bounds.peer_ttl_secs {
                self.remove_swarm(index);
            }
        }
        if self.swarms.slots.is_empty() {
            // No round will ever end again.
            (self.survey, self.next_swarm) = (Survey::default(), 0);
        }
    }

    /// What it holds now, and what left.
    #[must_use]
    pub fn totals(&self) -> WebTotals {
        WebTotals { swarms: self.swarms.len() as u64, ..self.totals }
    }

    /// Bytes of swarms and peers, about.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.members.len() * MEMBER_BYTES
            + self.swarms.len() * SWARM_BYTES
            + self.sources.len() * sources::ENTRY_BYTES_MAX
    }

    /// What one peer more would take.
    fn bytes_of_one(&self, swarm: Option<u32>, source: u64) -> usize {
        let beside = |swarm| self.sources.count(&self.hasher, swarm, source);
        let is_new = [swarm.is_none_or(|swarm| beside(swarm) == 0), beside(sources::ALL) == 0];
        let entries = is_new.into_iter().filter(|&is_new| is_new).count();
        let swarm_bytes = if swarm.is_some() { 0 } else { SWARM_BYTES };
        MEMBER_BYTES + swarm_bytes + entries * sources::ENTRY_BYTES_MAX
    }

    fn refresh(
        &mut self,
        now: Seconds,
        swarm: u32,
        member: u32,
        arrival: &WebArrival,
    ) -> WebAnnounced {
        let report = &arrival.report;
        let was_seeder = self.is_seeder(member);
        let entry = self.members.get_mut(member);
        entry.announced = now;
        // Once in a peer's life, and only for one that was a leecher here.
        let completed = !was_seeder && !entry.completed && (report.seeder || report.completed);
        entry.completed |= completed;
        let partial = report.partial && !report.seeder;
        let (before, after) = (u32::from(entry.partial), u32::from(partial));
        entry.partial = partial;
        let swarm_now = self.swarms.get_mut(swarm);
        swarm_now.touched = now;
        swarm_now.completed = swarm_now.completed.saturating_add(u32::from(completed));
        swarm_now.partial = swarm_now.partial + after - before;
        self.set_seeder(member, report.seeder);
        WebAnnounced {
            swarm: WebSwarmHandle(swarm),
            asker: self.members.get(member).position,
            joined: false,
            completed,
            evicted: 0,
        }
    }

    fn is_expired(&self, now: Seconds, member: u32) -> bool {
        now.since(self.members.get(member).announced) > self.bounds.peer_ttl_secs
    }

    fn is_seeder(&self, member: u32) -> bool {
        let member = self.members.get(member);
        member.position < self.swarms.get(member.swarm).seeders
    }

    /// Moves a member to the other kind, unless it is of that kind.
    fn set_seeder(&mut self, member: u32, seeder: bool) {
        let Member { swarm, family, .. } = *self.members.get(member);
        if self.is_seeder(member) == seeder {
            return;
        }
        let (from, to) = (&mut self.totals.leechers, &mut self.totals.seeders);
        let (from, to) = if seeder { (from, to) } else { (to, from) };
        from[family as usize] -= 1;
        to[family as usize] += 1;
        // The border between the kinds moves by one, over this member.
        let border = self.swarms.get(swarm).seeders;
        let position = self.members.get(member).position;
        if seeder {
            self.swap(swarm, position, border);
            self.swarms.get_mut(swarm).seeders += 1;
        } else {
            self.swap(swarm, position, border - 1);
            self.swarms.get_mut(swarm).seeders -= 1;
        }
    }

    fn swap(&mut self, swarm: u32, one: u32, other: u32) {
        let list = &mut self.swarms.get_mut(swarm).members;
        list.swap(one as usize, other as usize);
        let (at_one, at_other) = (list[one as usize], list[other as usize]);
        self.members.get_mut(at_one).position = one;
        self.members.get_mut(at_other).position = other;
    }

    /// Takes a member out of its swarm, which stays.
    fn remove_member(&mut self, member: u32) {
        let Member { swarm, place, peer_id, source, .. } = *self.members.get(member);
        let hash = self.hash_of(swarm, place, &peer_id);
        if let Ok(entry) = self.by_key.find_entry(hash, |&index| index == member) {
            entry.remove();
        }
        self.sources.leave(&self.hasher, swarm, source);
        self.set_seeder(member, false);
        let last = u32::try_from(self.swarms.get(swarm).members.len() - 1).expect("bounded");
        let position = self.members.get(member).position;
        self.swap(swarm, position, last);
        let removed = self.members.remove(member);
        let swarm = self.swarms.get_mut(swarm);
        swarm.members.pop();
        if swarm.members.is_empty() {
            self.totals.active_swarms -= 1;
            self.totals.shared_swarms -= u64::from(std::mem::take(&mut swarm.is_shared));
        }
        swarm.partial -= u32::from(removed.partial);
        if swarm.members.len() * 4 <= swarm.members.capacity() {
            swarm.members.shrink_to(swarm.members.len() * 2);
        }
        self.totals.leechers[removed.family as usize] -= 1;
    }

    /// The one that announced longest ago, of some that chance picks.
    fn oldest_of_some(&mut self, swarm: u32) -> u32 {
        let list = &self.swarms.get(swarm).members;
        let len = u32::try_from(list.len()).expect("bounded");
        let mut oldest = list[self.rng.below(len) as usize];
        for _ in 1..EVICT_LOOKS {
            let other = list[self.rng.below(len) as usize];
            if self.members.get(other).announced < self.members.get(oldest).announced {
                oldest = other;
            }
        }
        oldest
    }

    fn insert_swarm(&mut self, info_hash: &InfoHash) -> u32 {
        let swarm = self.swarms.insert(Swarm {
            info_hash: *info_hash,
            members: Vec::new(),
            seeders: 0,
            partial: 0,
            completed: 0,
            is_shared: false,
            touched: Seconds(0),
        });
        let Self { by_hash, swarms, hasher, .. } = self;
        by_hash.insert_unique(hasher.info_hash(info_hash), swarm, |&index| {
            hasher.info_hash(&swarms.get(index).info_hash)
        });
        swarm
    }

    fn remove_swarm(&mut self, swarm: u32) {
        let hash = self.hasher.info_hash(&self.swarms.get(swarm).info_hash);
        if let Ok(entry) = self.by_hash.find_entry(hash, |&index| index == swarm) {
            entry.remove();
        }
        self.swarms.remove(swarm);
        if self.swarms.len() == 0 {
            (self.by_hash, self.by_key) = (HashTable::new(), HashTable::new());
            self.sources = Sources::default();
        }
    }

    fn find_swarm(&self, info_hash: &InfoHash) -> Option<u32> {
        if self.is_empty() {
            return None;
        }
        let hash = self.hasher.info_hash(info_hash);
        self.by_hash.find(hash, |&index| self.swarms.get(index).info_hash == *info_hash).copied()
    }

    fn find_member(&self, swarm: u32, arrival: &WebArrival) -> Option<u32> {
        self.find_key(swarm, arrival.place, &arrival.peer_id)
    }

    fn find_key(&self, swarm: u32, place: Place, peer_id: &PeerId) -> Option<u32> {
        let hash = self.hash_of(swarm, place, peer_id);
        let is_it = |&index: &u32| {
            let member = self.members.get(index);
            member.swarm == swarm && member.place == place && member.peer_id == *peer_id
        };
        self.by_key.find(hash, is_it).copied()
    }

    fn hash_of(&self, swarm: u32, place: Place, peer_id: &PeerId) -> u64 {
        self.hasher.member(swarm, place, peer_id)
    }

    /// Panics unless every stated relation holds. For tests and the fuzzers.
    pub fn check_invariants(&self) {
        let (mut members, mut pairs) = (0, 0);
        let mut all_sources = BTreeMap::new();
        let mut totals = ([0_u64; 2], [0_u64; 2]);
        let (mut active, mut shared) = (0, 0);
        for (index, swarm) in self.swarms.slots.iter().enumerate() {
            let Some(swarm) = swarm else { continue };
            let index = u32::try_from(index).expect("an index");
            assert_eq!(self.find_swarm(&swarm.info_hash), Some(index));
            assert!(swarm.seeders as usize <= swarm.members.len());
            let mut partial = 0;
            let mut sources = BTreeMap::new();
            for (position, &member) in swarm.members.iter().enumerate() {
                let entry = self.members.get(member);
                assert_eq!((entry.swarm, entry.position as usize), (index, position));
                assert_eq!(self.find_key(index, entry.place, &entry.peer_id), Some(member));
                *sources.entry(entry.source).or_insert(0) += 1;
                let seeder = position < swarm.seeders as usize;
                assert!(!(seeder && entry.partial));
                partial += u32::from(entry.partial);
                let sum = if seeder { &mut totals.0 } else { &mut totals.1 };
                sum[entry.family as usize] += 1;
            }
            assert_eq!(swarm.partial, partial);
            for (&source, &count) in &sources {
                assert_eq!(self.sources.count(&self.hasher, index, source), count);
                *all_sources.entry(source).or_insert(0) += count;
            }
            pairs += sources.len();
            assert!(!swarm.is_shared || !swarm.members.is_empty());
            active += u64::from(!swarm.members.is_empty());
            shared += u64::from(swarm.is_shared);
            members += swarm.members.len();
        }
        assert_eq!(members, self.members.len());
        assert_eq!(self.by_key.len(), members);
        assert_eq!(self.sources.len(), pairs + all_sources.len());
        for (source, count) in all_sources {
            assert_eq!(self.sources.count(&self.hasher, sources::ALL, source), count);
        }
        assert_eq!(self.by_hash.len(), self.swarms.len());
        assert_eq!(totals, (self.totals.seeders, self.totals.leechers));
        assert_eq!((active, shared), (self.totals.active_swarms, self.totals.shared_swarms));
    }
}

const MEMBER_BYTES: usize = size_of::<Option<Member>>() + MEMBER_TABLE_BYTES;
/// Bytes of a swarm: itself, an entry of the index at its least load, and the smallest list.
const SWARM_BYTES: usize = size_of::<Option<Swarm>>() + 16 + 4 * size_of::<u32>();

fn key_hash(hasher: &Hasher, member: &Member) -> u64 {
    hasher.member(member.swarm, member.place, &member.peer_id)
}
