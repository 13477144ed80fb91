//! Who is in which swarm, and nothing else.
//!
//! [`SwarmStore`] is the only door. It knows peers by their endpoint, keeps what a reply needs in
//! the form of the wire, and is bounded in bytes, in peers per swarm and in age. It reads no clock
//! and draws no entropy: time and the seed are handed in, so the same calls give the same answers.

mod announce;
mod class;
mod expiry;
mod hash;
mod large;
mod layout;
mod lists;
mod machine;
#[cfg(any(test, fuzzing))]
pub mod model;

mod peers;
mod room;
mod sample;
mod slab;
mod small;
mod survey;
mod swarms;
mod table;
mod warm;
pub mod web;

pub use announce::Company;
pub use class::GROUPS;
pub use hash::HashKey;
pub use machine::NoMemory;
pub use peers::Report;
pub use sample::{Chunk, Sample};
pub use survey::{FoundPeer, LARGEST, SIZES};
pub use swarms::SwarmHandle;

use smallvec::SmallVec;

use self::expiry::Sweep;
use self::hash::Hasher;
use self::layout::Clock;
use self::peers::Census;
use self::room::peers_of_half;
use self::sample::{BUCKETS_MAX, Bucket, Choice, apportion, apportion_two, keep_both_kinds};
use self::slab::Block;
use self::survey::Survey;
use self::swarms::Swarms;
use self::warm::Hints;
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
    /// Who is in it, the peer included.
    pub counts: Counts,
    /// Where the peer stands, so that it is not returned to itself.
    pub asker: Asker,
    /// The peer was not in the swarm before.
    pub joined: bool,
    /// The peer has just finished its download, for the first time here.
    pub completed: bool,
}

/// What an announce would bring into a store.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Newcomer {
    /// A peer that its swarm does not know.
    Peer,
    /// A swarm, and its first peer.
    Swarm,
}

/// The place of a peer in its swarm, valid until the next call that changes the store.
#[derive(Clone, Copy, Debug)]
pub struct Asker {
    list: Block,
    position: u32,
    /// Where its windows begin: drawn for this announce, or for the batch it was expected in.
    chance: u64,
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

impl Counts {
    /// Those of one swarm whose peers are in two places.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            seeders: self.seeders.saturating_add(other.seeders),
            leechers: self.leechers.saturating_add(other.leechers),
            partial: self.partial.saturating_add(other.partial),
            completed: self.completed.saturating_add(other.completed),
        }
    }

    /// Those of a swarm that has one list.
    const fn of_one(list: &Census, completed: u32) -> Self {
        let Census { len, seeders, partial } = *list;
        Self { seeders, leechers: len - seeders, partial, completed }
    }
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
    /// Bytes that may be held: those of the bounds, without the next.
    pub budget_bytes: u64,
    /// Bytes that the kernel did not have when it was asked last.
    pub refused_bytes: u64,
    /// Bytes held in blocks, by their size.
    pub block_bytes: [u64; GROUPS.len()],
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
    clock: Clock,
    /// The latest time that was handed in, and its stamp.
    seen: Seconds,
    stamp: u16,
    swarms: Swarms,
    rng: Rng,
    /// What is known of the announces and scrapes that are due.
    hints: Hints,
    /// Those that were chosen last.
    choice: Choice,
    totals: Totals,
    sweep: Sweep,
    survey: Survey,
    /// Where the search for swarms that can go goes on: a span of the slab.
    hand: usize,
    /// When the kernel had no more memory, if it has none.
    refused: Option<Seconds>,
}

impl SwarmStore {
    /// Bytes that blocks can name.
    const MEMORY_BYTES_MAX: usize = 15 << 30;

    /// An empty store. `key` and `rng` are this core's own secrets.
    ///
    /// One swarm may take half of the memory at the most; a smaller budget lowers the bound of
    /// peers per swarm. One store uses 15 GiB at the most.
    ///
    /// # Errors
    /// If the process may not have the address space, twice as much as the memory.
    pub fn new(mut bounds: Bounds, key: HashKey, rng: Rng) -> Result<Self, NoMemory> {
        bounds.memory_bytes = bounds.memory_bytes.min(Self::MEMORY_BYTES_MAX);
        let half = peers_of_half(bounds.memory_bytes);
        bounds.peers_per_swarm = bounds.peers_per_swarm.min(half).max(1);
        let swarms = Swarms::new(Hasher::new(key), bounds.memory_bytes, bounds.keep_peer_ids)?;
        Ok(Self {
            bounds,
            clock: Clock::new(bounds.peer_ttl_secs),
            seen: Seconds(0),
            stamp: 0,
            swarms,
            rng,
            hints: Hints::default(),
            choice: Choice::new(),
            totals: Totals::default(),
            sweep: Sweep::default(),
            survey: Survey::default(),
            hand: 0,
            refused: None,
        })
    }

    /// Removes a peer that leaves; creates nothing. Returns whether it was there.
    pub fn stop(&mut self, now: Seconds, arrival: &Arrival) -> bool {
        let Some(SwarmHandle(mut swarm)) = self.find(now, &arrival.info_hash) else { return false };
        let found = self
            .swarms
            .list(swarm, arrival.endpoint.family(), arrival.scope)
            .and_then(|list| Some((list, self.swarms.lists.find(list, &arrival.endpoint)?)));
        let Some((list, position)) = found else { return false };
        self.remove_peer(self.stamp, &mut swarm, list, position);
        let lists = &self.swarms.lists;
        let is_empty = self.swarms.lists_of(swarm).all(|list| lists.census(list).len == 0);
        // A swarm without peers stays a while if it has downloads to tell about.
        if is_empty && lists.head(swarm).completed == 0 {
            self.swarms.remove(swarm);
        }
        true
    }

    /// Removes a swarm and everybody in it, if it is there.
    pub fn forget(&mut self, info_hash: &InfoHash) {
        if let Some(swarm) = self.swarms.find(info_hash) {
            self.remove_swarm(swarm);
        }
    }

    /// The swarm of `info_hash`, with its expired peers gone; creates nothing.
    #[inline]
    pub fn find(&mut self, now: Seconds, info_hash: &InfoHash) -> Option<SwarmHandle> {
        self.pass_time(now);
        let swarm = self.locate(info_hash).0?;
        self.expire_swarm(self.stamp, swarm).map(SwarmHandle)
    }

    /// Who is in a swarm.
    #[must_use]
    #[inline]
    pub fn counts(&self, handle: SwarmHandle) -> Counts {
        let lists = &self.swarms.lists;
        let head = lists.head(handle.0);
        let mut counts = Counts::of_one(&lists.census(handle.0), head.completed);
        let mut at = head.next();
        while let Some(list) = at {
            at = lists.head(list).next();
            let census = lists.census(list);
            counts.seeders += census.seeders;
            counts.leechers += census.len - census.seeders;
            counts.partial += census.partial;
        }
        counts
    }

    /// Chooses peers for an asker: see [`Wish`] for whom it may be given. Each has the same chance.
    ///
    /// Part of its caller, as an announce is: a processor that reads at once what was just written
    /// piece by piece, as when what an announce did is handed around, has to wait for it.
    #[inline(always)]
    pub fn sample(&mut self, handle: SwarmHandle, wish: &Wish) -> Sample<'_> {
        let chance = wish.asker.map_or_else(|| self.rng.next_u64(), |asker| asker.chance);
        self.choice.clear();
        if self.swarms.lists.head(handle.0).next().is_some() {
            self.choose_of_many(handle, wish, Rng::new(chance));
        } else if self.may_be_given(handle.0, wish) {
            self.choose_of_one(handle.0, wish, chance);
        }
        Sample::of(&self.swarms.lists, &self.choice)
    }

    /// What `choose_of_many` does, for one list.
    #[inline(always)]
    fn choose_of_one(&mut self, list: Block, wish: &Wish, chance: u64) {
        let Census { len, seeders, .. } = self.swarms.lists.census(list);
        let asker = wish.asker.map(|asker| asker.position);
        let want = u32::from(wish.num_want);
        // A seeder sees leechers only.
        let from = if wish.seeder { seeders } else { 0 };
        let among = asker.filter(|&asker| asker >= from);
        if len - from <= want + u32::from(among.is_some()) {
            let asker = among.unwrap_or(len);
            self.choice.add(list, from, asker);
            self.choice.add(list, asker + 1, len);
            return;
        }
        let leechers = Bucket::new(list, seeders, len, asker);
        let seeders = Bucket::new(list, 0, seeders - from, asker);
        let begins = Rng::new(chance).two();
        // Chance itself is as good as what the generator makes of it, and independent of that.
        let draw = u32::try_from(chance & u64::from(u32::MAX)).expect("the lower half");
        let shares = apportion_two(draw, want, [leechers.size(), seeders.size()]);
        self.choice.take(&leechers, leechers.begin(begins[0]), shares[0]);
        self.choice.take(&seeders, seeders.begin(begins[1]), shares[1]);
    }

    /// Whether a list is of those the asker may be given.
    #[inline(always)]
    fn may_be_given(&self, list: Block, wish: &Wish) -> bool {
        let head = self.swarms.lists.head(list);
        let reachable = head.scope() == Scope::PUBLIC || head.scope() == wish.scope;
        // A list that has more expired peers than can leave at once is silent meanwhile.
        let is_late = self.clock.is_expired(self.stamp, head.oldest);
        reachable && !is_late && wish.family.is_none_or(|wanted| wanted == head.family())
    }

    #[inline(never)]
    fn choose_of_many(&mut self, handle: SwarmHandle, wish: &Wish, mut draws: Rng) {
        let lists = &self.swarms.lists;
        let mut buckets: SmallVec<[Bucket; BUCKETS_MAX]> = SmallVec::new_const();
        let mut at = Some(handle.0);
        while let Some(list) = at {
            let (head, census) = (lists.head(list), lists.census(list));
            at = head.next();
            if !self.may_be_given(list, wish) {
                continue;
            }
            let asker = wish.asker.filter(|asker| asker.list == list).map(|a| a.position);
            buckets.push(Bucket::new(list, census.seeders, census.len, asker));
            // A seeder sees leechers only.
            if !wish.seeder {
                buckets.push(Bucket::new(list, 0, census.seeders, asker));
            }
        }
        let sizes: SmallVec<[u32; BUCKETS_MAX]> = buckets.iter().map(Bucket::size).collect();
        let mut shares = [0; BUCKETS_MAX];
        let want = u32::from(wish.num_want);
        apportion(draws.next_u32(), want, &sizes, &mut shares[..sizes.len()]);
        if !wish.seeder {
            keep_both_kinds(&sizes, &mut shares[..sizes.len()]);
        }
        for (bucket, share) in buckets.iter().zip(shares) {
            self.choice.take(bucket, bucket.begin(draws.next_u32()), share);
        }
    }

    /// What the store holds now.
    #[must_use]
    pub fn totals(&self) -> Totals {
        Totals {
            swarms: self.swarms.len() as u64,
            bytes: self.swarms.bytes() as u64,
            budget_bytes: (self.bounds.memory_bytes - self.refused_bytes()) as u64,
            refused_bytes: self.refused_bytes() as u64,
            block_bytes: self.swarms.lists.slab.group_bytes(),
            ..self.totals
        }
    }

    /// Peers that expired or made room since start, modulo 2^32.
    #[must_use]
    pub fn removed_peers(&self) -> u32 {
        let removed = self.totals.expired_peers + self.totals.evicted_peers;
        u32::try_from(removed & u64::from(u32::MAX)).expect("masked to 32 bits")
    }

    fn is_full(&self, swarm: Block) -> bool {
        let lists = &self.swarms.lists;
        let len: u32 = self.swarms.lists_of(swarm).map(|list| lists.census(list).len).sum();
        len >= self.peers_per_swarm()
    }

    /// Removes a peer. Its list goes if it was the last; the first list of the swarm stays.
    fn remove_peer(&mut self, now: u16, swarm: &mut Block, mut list: Block, position: u32) {
        let before = self.swarms.lists.census(list);
        self.swarms.remove_peer(swarm, &mut list, position);
        self.recount(list, before);
        if before.len == 1 {
            self.emptied(now, *swarm, list);
        }
    }

    /// A list has no peers any more. If it was the last that had some, the swarm is as old as that:
    /// its first list stays, and may have been empty for long.
    fn emptied(&mut self, now: u16, swarm: Block, list: Block) {
        if list != swarm {
            self.swarms.remove_list(swarm, list);
        }
        if self.swarms.lists.census(swarm).len == 0 {
            self.swarms.lists.head_mut(swarm).oldest = now;
        }
    }

    /// Removes the swarm's peer that announced longest ago.
    fn remove_oldest_peer(&mut self, now: u16, swarm: &mut Block) {
        let mut oldest = None;
        let mut at = Some(*swarm);
        while let Some(list) = at {
            at = self.swarms.lists.head(list).next();
            if let Some((position, age)) = self.swarms.lists.oldest(list, now)
                && oldest.is_none_or(|(_, _, oldest)| age > oldest)
            {
                oldest = Some((list, position, age));
            }
        }
        if let Some((list, position, _)) = oldest {
            self.remove_peer(now, swarm, list, position);
            self.totals.evicted_peers += 1;
        }
    }

    /// Removes a swarm and everybody in it; returns how many those were.
    fn remove_swarm(&mut self, swarm: Block) -> u32 {
        let mut peers = 0;
        for list in self.swarms.lists_of(swarm) {
            let (family, census) =
                (self.swarms.lists.head(list).family(), self.swarms.lists.census(list));
            self.totals.seeders[family as usize] -= u64::from(census.seeders);
            self.totals.leechers[family as usize] -= u64::from(census.len - census.seeders);
            peers += census.len;
        }
        self.swarms.remove(swarm);
        peers
    }

    /// Brings the totals up to date with a list that held `before`.
    fn recount(&mut self, list: Block, before: Census) {
        let lists = &self.swarms.lists;
        let (family, after) = (lists.head(list).family() as usize, lists.census(list));
        let leechers = |census: Census| census.len - census.seeders;
        adjust(&mut self.totals.seeders[family], before.seeders, after.seeders);
        adjust(&mut self.totals.leechers[family], leechers(before), leechers(after));
    }

    /// Panics unless every stated relation holds. For tests and the fuzzers.
    pub fn check_invariants(&self) {
        let (swarms, lists) = (&self.swarms, &self.swarms.lists);
        assert_eq!(self.stamp, self.clock.stamp(self.seen));
        swarms.check_invariants(self.stamp);
        let (mut seeders, mut leechers) = ([0; 2], [0; 2]);
        for swarm in swarms.iter() {
            let mut peers = 0;
            for list in swarms.lists_of(swarm) {
                let (family, census) = (lists.head(list).family() as usize, lists.census(list));
                seeders[family] += u64::from(census.seeders);
                leechers[family] += u64::from(census.len - census.seeders);
                peers += census.len;
            }
            assert!(peers <= self.bounds.peers_per_swarm);
            assert!(peers > 0 || lists.head(swarm).completed > 0, "empty swarms go");
        }
        assert_eq!((self.totals.seeders, self.totals.leechers), (seeders, leechers));
        assert!(swarms.bytes() <= self.bounds.memory_bytes || swarms.len() <= 1);
    }
}

/// Seconds between two announces of a peer after which its swarm is taken for real.
const CAME_BACK_SECS: u32 = 300;

/// Moves a total by what one of its parts changed from and to.
fn adjust(total: &mut u64, before: u32, after: u32) {
    *total = *total + u64::from(after) - u64::from(before);
}

#[cfg(test)]
mod tests;
