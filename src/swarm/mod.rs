//! Who is in which swarm, and nothing else.
//!
//! [`SwarmStore`] is the only door. It knows peers by their endpoint, keeps what a reply needs in
//! the form of the wire, and is bounded in bytes, in peers per swarm and in age. It reads no clock
//! and draws no entropy: time and the seed are handed in, so the same calls give the same answers.

mod expiry;
mod index;
#[cfg(any(test, fuzzing))]
pub mod model;
mod peers;
mod sample;

pub use index::SwarmHandle;
pub use peers::{HashKey, Report};
pub use sample::{Chunk, Sample};

use self::index::{Group, Queue, Swarms};
use self::peers::PeerList;
use self::sample::{BUCKETS_MAX, Bucket, apportion};
use crate::rng::Rng;
use crate::time::Seconds;
use crate::wire::addr::{Endpoint, Family, Scope};
use crate::wire::id::{InfoHash, PeerId};

/// The bounds of a store.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Bounds {
    /// Bytes of swarms and peers, this core's share of the configured memory.
    pub memory_bytes: usize,
    /// Peers of one swarm; above it, the one that announced longest ago goes.
    pub peers_per_swarm: u32,
    /// Seconds that a peer stays after an announce.
    pub peer_ttl_secs: u32,
    /// Whether peer ids are kept, for the dictionary form of HTTP answers.
    pub keep_peer_ids: bool,
}

/// A peer that announces itself.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// To which swarm.
    pub info_hash: InfoHash,
    /// Where it listens.
    pub endpoint: Endpoint,
    /// Who can reach it there.
    pub scope: Scope,
    /// Its name for itself; kept only if the bounds say so.
    pub peer_id: PeerId,
    /// What it says about itself.
    pub report: Report,
}

/// What an announce did.
#[derive(Clone, Copy, Debug)]
pub struct Announced {
    /// The swarm, valid until the next call that changes the store.
    pub swarm: SwarmHandle,
    /// Where the peer stands, so that it is not returned to itself.
    pub asker: Asker,
    /// The peer was not in the swarm before.
    pub joined: bool,
    /// The peer has just finished its download, for the first time here.
    pub completed: bool,
}

/// The place of a peer in its swarm, valid until the next call that changes the store.
#[derive(Clone, Copy, Debug)]
pub struct Asker {
    group: usize,
    position: u32,
}

/// Who is in a swarm, by role.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counts {
    /// Peers that need nothing more.
    pub seeders: u32,
    /// Peers that still need something, partial seeds among them.
    pub leechers: u32,
    /// Leechers that are partial seeds (BEP 21).
    pub partial: u32,
    /// Downloads that finished here.
    pub completed: u32,
}

/// Whom an asker may be given.
#[derive(Clone, Copy, Debug)]
pub struct Wish {
    /// The asker's own place, if it is in the swarm.
    pub asker: Option<Asker>,
    /// A seeder is given leechers only.
    pub seeder: bool,
    /// Public peers, and those of this scope.
    pub scope: Scope,
    /// Peers of this family; `None` for both.
    pub family: Option<Family>,
    /// How many at the most.
    pub num_want: u16,
}

/// What a store holds, and what it had to let go since start.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Totals {
    /// Swarms held.
    pub swarms: u64,
    /// Seeders held, by family.
    pub seeders: [u64; 2],
    /// Leechers held, by family.
    pub leechers: [u64; 2],
    /// Bytes held.
    pub bytes: u64,
    /// Peers that left because they had not announced in time.
    pub expired_peers: u64,
    /// Peers that made room in a full swarm or a full store.
    pub evicted_peers: u64,
    /// Swarms that made room in a full store.
    pub evicted_swarms: u64,
}

/// The swarms of one core.
#[derive(Debug)]
pub struct SwarmStore {
    bounds: Bounds,
    key: HashKey,
    swarms: Swarms,
    rng: Rng,
    totals: Totals,
}

impl SwarmStore {
    /// Bytes that a peer may cost: endpoint, record, id and index entry, in columns grown twofold.
    const PEER_BYTES_MAX: usize = 2 * (18 + 20 + 20 + 10);

    /// An empty store. `key` and `rng` are this core's own secrets.
    ///
    /// One swarm may take half of the memory at the most; a smaller budget lowers the bound of
    /// peers per swarm.
    #[must_use]
    pub fn new(mut bounds: Bounds, key: HashKey, rng: Rng) -> Self {
        let half = bounds.memory_bytes / 2 / Self::PEER_BYTES_MAX;
        bounds.peers_per_swarm =
            bounds.peers_per_swarm.min(u32::try_from(half).unwrap_or(u32::MAX)).max(1);
        Self { bounds, key, swarms: Swarms::new(key), rng, totals: Totals::default() }
    }

    /// Prepares for announces to `hashes`, a batch of them: their memory latencies overlap here
    /// instead of adding up later. Changes nothing.
    pub fn warm(&self, hashes: &[InfoHash]) {
        std::hint::black_box(self.swarms.warm(hashes));
    }

    /// Inserts or refreshes a peer, creating its swarm if need be, within the bounds.
    pub fn announce(&mut self, now: Seconds, arrival: &Arrival) -> Announced {
        let handle = self
            .find(now, &arrival.info_hash)
            .unwrap_or_else(|| self.swarms.insert(now, arrival.info_hash));
        let (family, scope) = (arrival.endpoint.family(), arrival.scope);
        let same = |group: &Group| group.peers.family() == family && group.scope == scope;

        let swarm = self.swarms.get_mut(handle);
        if swarm.peers() >= self.bounds.peers_per_swarm {
            let group = swarm.groups.iter().find(|&group| same(group));
            let known = group.and_then(|group| group.peers.find(self.key, &arrival.endpoint));
            if known.is_none() {
                self.remove_oldest_peer(handle);
            }
        }

        let swarm = self.swarms.get_mut(handle);
        let group = swarm.groups.iter().position(same).unwrap_or_else(|| {
            swarm.groups.push(Group { scope, peers: PeerList::new(family) });
            swarm.groups.len() - 1
        });
        let peers = &mut swarm.groups[group].peers;
        let id = self.bounds.keep_peer_ids.then_some(arrival.peer_id);
        let (seeders, leechers) = (peers.seeders(), peers.leechers());
        let updated = peers.upsert(self.key, now, &arrival.endpoint, id, arrival.report);
        let position = peers.mix(self.key, updated.position, self.rng.below(u32::MAX));
        let total = &mut self.totals;
        adjust(&mut total.seeders[family as usize], seeders, peers.seeders());
        adjust(&mut total.leechers[family as usize], leechers, peers.leechers());

        swarm.completed = swarm.completed.saturating_add(u32::from(updated.completed));
        let came_back = !updated.joined && now.since(swarm.touched) >= CAME_BACK_SECS;
        let established = swarm.queue() == Queue::Established
            || came_back
            || updated.joined && has_company(swarm, group, position);
        let queue = if established { Queue::Established } else { Queue::Probation };
        self.swarms.touch(now, handle, queue);
        if updated.joined {
            self.swarms.recharge(handle);
            self.make_room(handle);
        }
        Announced {
            swarm: handle,
            asker: Asker { group, position },
            joined: updated.joined,
            completed: updated.completed,
        }
    }

    /// Removes a peer that leaves; creates nothing. Returns whether it was there.
    pub fn stop(&mut self, now: Seconds, arrival: &Arrival) -> bool {
        let Some(handle) = self.find(now, &arrival.info_hash) else { return false };
        let swarm = self.swarms.get_mut(handle);
        let family = arrival.endpoint.family();
        let found = swarm.groups.iter().position(|group| {
            group.peers.family() == family
                && group.scope == arrival.scope
                && group.peers.find(self.key, &arrival.endpoint).is_some()
        });
        let Some(group) = found else { return false };
        let position = swarm.groups[group].peers.find(self.key, &arrival.endpoint);
        self.remove_peer(handle, group, position.expect("found just now"));
        self.swarms.recharge(handle);
        self.forget_if_empty(handle);
        true
    }

    /// The swarm of `info_hash`, with its expired peers gone; creates nothing.
    pub fn find(&mut self, now: Seconds, info_hash: &InfoHash) -> Option<SwarmHandle> {
        let handle = self.swarms.find(info_hash)?;
        self.expire_swarm(now, handle).then_some(handle)
    }

    /// Who is in a swarm.
    #[must_use]
    pub fn counts(&self, handle: SwarmHandle) -> Counts {
        let swarm = self.swarms.get(handle);
        let mut counts = Counts { completed: swarm.completed, ..Counts::default() };
        for group in &swarm.groups {
            counts.seeders += group.peers.seeders();
            counts.leechers += group.peers.leechers();
            counts.partial += group.peers.partial();
        }
        counts
    }

    /// Chooses peers for an asker: see [`Wish`] for whom it may be given. Each has the same chance.
    pub fn sample(&mut self, handle: SwarmHandle, wish: &Wish) -> Sample<'_> {
        let swarm = self.swarms.get(handle);
        let mut buckets = [None; BUCKETS_MAX];
        let mut sizes = [0; BUCKETS_MAX];
        let mut count = 0;
        for (index, group) in swarm.groups.iter().enumerate() {
            let reachable = group.scope == Scope::PUBLIC || group.scope == wish.scope;
            let peers = &group.peers;
            if !reachable || wish.family.is_some_and(|family| family != peers.family()) {
                continue;
            }
            let asker = wish.asker.filter(|asker| asker.group == index).map(|a| a.position);
            let kinds = [(peers.seeders(), peers.len()), (0, peers.seeders())];
            // A seeder sees the first kind only: the leechers.
            for &(from, to) in &kinds[..if wish.seeder { 1 } else { 2 }] {
                let asker = asker.filter(|position| (from..to).contains(position));
                let bucket = Bucket { list: peers, from, to, asker };
                sizes[count] = bucket.size();
                buckets[count] = Some(bucket);
                count += 1;
            }
        }
        let mut shares = [0; BUCKETS_MAX];
        let want = u32::from(wish.num_want);
        apportion(&mut self.rng, want, &sizes[..count], &mut shares[..count]);
        let mut sample = Sample::empty();
        for (bucket, share) in buckets.iter().flatten().zip(shares) {
            sample.take(bucket, self.rng.below(bucket.size()), share);
        }
        sample
    }

    /// What the store holds now.
    #[must_use]
    pub fn totals(&self) -> Totals {
        Totals {
            swarms: self.swarms.len() as u64,
            bytes: self.swarms.bytes() as u64,
            ..self.totals
        }
    }

    /// Peers that expired or made room since start, modulo 2^32.
    #[must_use]
    pub fn removed_peers(&self) -> u32 {
        let removed = self.totals.expired_peers + self.totals.evicted_peers;
        u32::try_from(removed & u64::from(u32::MAX)).expect("masked to 32 bits")
    }

    fn remove_peer(&mut self, handle: SwarmHandle, group: usize, position: u32) {
        let swarm = self.swarms.get_mut(handle);
        let peers = &mut swarm.groups[group].peers;
        let family = peers.family() as usize;
        let seeder = position < peers.seeders();
        peers.remove(self.key, position);
        if peers.is_empty() {
            swarm.groups.swap_remove(group);
        }
        let total = &mut self.totals;
        *(if seeder { &mut total.seeders[family] } else { &mut total.leechers[family] }) -= 1;
    }

    /// Removes the swarm's peer that announced longest ago.
    fn remove_oldest_peer(&mut self, handle: SwarmHandle) {
        let groups = &self.swarms.get(handle).groups;
        let oldest = (0..groups.len()).min_by_key(|&group| groups[group].peers.oldest_stamp());
        if let Some(group) = oldest {
            let position = groups[group].peers.oldest().expect("empty groups go");
            self.remove_peer(handle, group, position);
            self.totals.evicted_peers += 1;
        }
    }

    /// Removes whole swarms, the least valuable first and never `keep`, until the budget holds.
    fn make_room(&mut self, keep: SwarmHandle) {
        while self.swarms.bytes() > self.bounds.memory_bytes {
            let other = |queue| self.swarms.oldest(queue).filter(|&oldest| oldest != keep);
            let Some(victim) = other(Queue::Probation).or_else(|| other(Queue::Established)) else {
                break;
            };
            let peers = self.remove_swarm(victim);
            self.totals.evicted_peers += u64::from(peers);
            self.totals.evicted_swarms += 1;
        }
    }

    /// Removes a swarm and everybody in it; returns how many those were.
    fn remove_swarm(&mut self, handle: SwarmHandle) -> u32 {
        for group in &self.swarms.get(handle).groups {
            let family = group.peers.family() as usize;
            self.totals.seeders[family] -= u64::from(group.peers.seeders());
            self.totals.leechers[family] -= u64::from(group.peers.leechers());
        }
        self.swarms.remove(handle)
    }

    /// Removes a swarm without peers, unless it still has downloads to tell about.
    fn forget_if_empty(&mut self, handle: SwarmHandle) -> bool {
        let swarm = self.swarms.get(handle);
        let forget = swarm.groups.is_empty() && swarm.completed == 0;
        if forget {
            self.swarms.remove(handle);
        }
        forget
    }

    /// Panics unless every stated relation holds. For tests and the fuzzers.
    pub fn check_invariants(&self) {
        self.swarms.check_invariants();
        let (mut seeders, mut leechers) = ([0; 2], [0; 2]);
        for group in self.swarms.iter().flat_map(|swarm| &swarm.groups) {
            seeders[group.peers.family() as usize] += u64::from(group.peers.seeders());
            leechers[group.peers.family() as usize] += u64::from(group.peers.leechers());
        }
        assert_eq!((self.totals.seeders, self.totals.leechers), (seeders, leechers));
        assert!(self.swarms.iter().all(|swarm| swarm.peers() <= self.bounds.peers_per_swarm));
        assert!(self.swarms.bytes() <= self.bounds.memory_bytes || self.swarms.len() <= 1);
    }
}

/// Seconds between two announces of the only peer of a swarm after which it is taken for real.
const CAME_BACK_SECS: u32 = 300;

/// Whether the swarm has a peer from another network (IPv4 address, IPv6 /64) than the one at
/// `position` of `group`. While it is on probation all its peers are from one, so any will do.
fn has_company(swarm: &index::Swarm, group: usize, position: u32) -> bool {
    let network = |group: &Group, at: u32| {
        let endpoint = group.peers.endpoints(at, at + 1);
        let bytes = if group.peers.family() == Family::V4 { 4 } else { 8 };
        endpoint
            .first_chunk::<4>()
            .map(|first| (*first, endpoint[..bytes].last_chunk::<4>().copied()))
    };
    let own = network(&swarm.groups[group], position);
    swarm.groups.iter().enumerate().any(|(index, other)| {
        let at = u32::from(index == group && position == 0);
        at < other.peers.len() && network(other, at) != own
    })
}

/// Moves a total by what one of its parts changed from and to.
fn adjust(total: &mut u64, before: u32, after: u32) {
    *total = *total + u64::from(after) - u64::from(before);
}

#[cfg(test)]
mod tests;
