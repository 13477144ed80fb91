//! `InfoHash` to swarm, and the order in which swarms were last announced to.
//!
//! Swarms live in chunks that never move, named by a [`SwarmHandle`]. Two queues thread through
//! them, each from the swarm announced to longest ago to the newest: *probation* holds swarms that
//! one peer announced once, *established* all others. Memory pressure takes the oldest of probation
//! first, so a flood of invented hashes displaces itself and not the swarms that people use.

use std::num::NonZeroU32;

use hashbrown::HashTable;
use smallvec::SmallVec;

use super::peers::{HashKey, PeerList};
use crate::limits::BATCH_MAX;
use crate::time::Seconds;
use crate::wire::addr::Scope;
use crate::wire::id::InfoHash;

/// Swarms in one chunk; the largest piece that growth allocates at once.
const CHUNK: usize = 1_024;

/// A swarm's slot in its core's store. Valid until the swarm goes; never leaves its core.
/// Holds position + 1, so `Option<SwarmHandle>` is four bytes too.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SwarmHandle(NonZeroU32);

const _: () = assert!(size_of::<Option<SwarmHandle>>() == 4);

impl SwarmHandle {
    fn new(slot: usize) -> Self {
        let number = u32::try_from(slot + 1).expect("the memory budget is far below 2^32 swarms");
        Self(NonZeroU32::new(number).expect("a position plus one"))
    }

    fn slot(self) -> usize {
        self.0.get() as usize - 1
    }
}

/// Which of the two queues a swarm stands in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Queue {
    /// Only one network has announced it, in one go.
    Probation = 0,
    /// It had peers from several networks, or a peer that came back after a while.
    Established = 1,
}

/// The peers of one swarm that are of one family and one scope.
#[derive(Debug)]
pub struct Group {
    /// Who can reach these peers.
    pub scope: Scope,
    /// The peers; their family is the list's.
    pub peers: PeerList,
}

/// One swarm.
#[derive(Debug)]
pub struct Swarm {
    /// Its name.
    pub info_hash: InfoHash,
    /// Downloads that finished here.
    pub completed: u32,
    /// When a peer last announced to it.
    pub touched: Seconds,
    /// Its peers; most swarms have one group, no two groups have the same family and scope.
    pub groups: SmallVec<[Group; 1]>,
    /// The heap bytes that `Swarms::bytes` holds for it.
    charged: usize,
    queue: Queue,
    newer: Option<SwarmHandle>,
    older: Option<SwarmHandle>,
}

impl Swarm {
    /// Peers of all groups.
    #[must_use]
    pub fn peers(&self) -> u32 {
        self.groups.iter().map(|group| group.peers.len()).sum()
    }

    /// The queue it stands in.
    #[must_use]
    pub const fn queue(&self) -> Queue {
        self.queue
    }

    fn heap_bytes(&self) -> usize {
        let spilled = if self.groups.spilled() { self.groups.capacity() } else { 0 };
        let lists: usize = self.groups.iter().map(|group| group.peers.heap_bytes()).sum();
        spilled * size_of::<Group>() + lists
    }
}

/// The ends of a queue.
#[derive(Clone, Copy, Debug, Default)]
struct Ends {
    newest: Option<SwarmHandle>,
    oldest: Option<SwarmHandle>,
}

/// All swarms of one core.
#[derive(Debug)]
pub struct Swarms {
    key: HashKey,
    /// Each chunk but the last is full; a slot is `None` while it is free.
    chunks: Vec<Vec<Option<Swarm>>>,
    free: Vec<SwarmHandle>,
    index: HashTable<SwarmHandle>,
    queues: [Ends; 2],
    /// Sum of `charged` over all swarms.
    heap_bytes: usize,
}

impl Swarms {
    /// Bytes that a swarm costs before its first peer: its slot, its index entry (a quarter of the
    /// index is spare on average) and its place in the free list.
    pub const SWARM_BYTES: usize =
        size_of::<Option<Swarm>>() + 2 * (size_of::<SwarmHandle>() + 1) + size_of::<SwarmHandle>();

    /// No swarm yet; `key` keeps outsiders from choosing colliding hashes.
    #[must_use]
    pub fn new(key: HashKey) -> Self {
        Self {
            key,
            chunks: Vec::new(),
            free: Vec::new(),
            index: HashTable::new(),
            queues: [Ends::default(); 2],
            heap_bytes: 0,
        }
    }

    /// Swarms held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Bytes held, slots and lists.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.len() * Self::SWARM_BYTES + self.heap_bytes
    }

    /// The swarm of `info_hash`.
    #[must_use]
    pub fn find(&self, info_hash: &InfoHash) -> Option<SwarmHandle> {
        let hash = self.key.hash(&info_hash.0);
        self.index.find(hash, |&handle| self.get(handle).info_hash == *info_hash).copied()
    }

    /// Brings into the cache what an announce to each of `hashes` will touch: in three passes, each
    /// of loads that do not depend on one another, so that the latencies of a batch overlap.
    ///
    /// Plain loads, whose sum is returned so that they are not optimised away. What the passes
    /// guess may be wrong (an index entry is taken for the swarm's by 7 bits of its hash): then a
    /// load was wasted, no more.
    #[must_use]
    pub fn warm(&self, hashes: &[InfoHash]) -> u64 {
        let mut handles: [Option<SwarmHandle>; BATCH_MAX] = [None; BATCH_MAX];
        for (handle, info_hash) in handles.iter_mut().zip(hashes) {
            *handle = self.index.find(self.key.hash(&info_hash.0), |_| true).copied();
        }
        let mut sum = 0;
        for &handle in handles.iter().flatten() {
            sum += u64::from(self.get(handle).touched.0);
        }
        for &handle in handles.iter().flatten() {
            let swarm = self.get(handle);
            for neighbour in [swarm.newer, swarm.older].into_iter().flatten() {
                sum += u64::from(self.get(neighbour).touched.0);
            }
            for group in &swarm.groups {
                sum += group.peers.warm();
            }
        }
        sum
    }

    /// The swarm of a handle that is still valid.
    #[must_use]
    pub fn get(&self, handle: SwarmHandle) -> &Swarm {
        let slot = &self.chunks[handle.slot() / CHUNK][handle.slot() % CHUNK];
        slot.as_ref().expect("a handle is valid until its swarm goes")
    }

    /// The swarm of a handle that is still valid.
    pub fn get_mut(&mut self, handle: SwarmHandle) -> &mut Swarm {
        let slot = &mut self.chunks[handle.slot() / CHUNK][handle.slot() % CHUNK];
        slot.as_mut().expect("a handle is valid until its swarm goes")
    }

    /// Adds an empty swarm, on probation. The caller has looked that there is none yet.
    pub fn insert(&mut self, now: Seconds, info_hash: InfoHash) -> SwarmHandle {
        let swarm = Swarm {
            info_hash,
            completed: 0,
            touched: now,
            groups: SmallVec::new(),
            charged: 0,
            queue: Queue::Probation,
            newer: None,
            older: None,
        };
        let handle = if let Some(handle) = self.free.pop() {
            self.chunks[handle.slot() / CHUNK][handle.slot() % CHUNK] = Some(swarm);
            handle
        } else {
            if self.chunks.last().is_none_or(|chunk| chunk.len() == CHUNK) {
                self.chunks.push(Vec::with_capacity(CHUNK));
            }
            let before = (self.chunks.len() - 1) * CHUNK;
            let chunk = self.chunks.last_mut().expect("pushed if there was none");
            chunk.push(Some(swarm));
            SwarmHandle::new(before + chunk.len() - 1)
        };
        let (key, chunks) = (self.key, &self.chunks);
        let hash_of = |handle: &SwarmHandle| {
            let slot = &chunks[handle.slot() / CHUNK][handle.slot() % CHUNK];
            key.hash(&slot.as_ref().expect("indexed swarms exist").info_hash.0)
        };
        self.index.insert_unique(hash_of(&handle), handle, hash_of);
        self.link_newest(handle, Queue::Probation);
        handle
    }

    /// Removes a swarm with all its peers; returns how many those were.
    pub fn remove(&mut self, handle: SwarmHandle) -> u32 {
        self.unlink(handle);
        let hash = self.key.hash(&self.get(handle).info_hash.0);
        let entry = self.index.find_entry(hash, |&entry| entry == handle);
        entry.expect("every swarm is indexed").remove();
        let slot = &mut self.chunks[handle.slot() / CHUNK][handle.slot() % CHUNK];
        let swarm = slot.take().expect("a handle is valid until its swarm goes");
        self.heap_bytes -= swarm.charged;
        self.free.push(handle);
        if self.index.is_empty() {
            (self.chunks, self.free) = (Vec::new(), Vec::new());
            self.index.shrink_to(0, |_| 0);
        }
        swarm.peers()
    }

    /// Makes a swarm the newest of `queue`: a peer has just announced to it.
    pub fn touch(&mut self, now: Seconds, handle: SwarmHandle, queue: Queue) {
        self.unlink(handle);
        self.get_mut(handle).touched = now;
        self.link_newest(handle, queue);
    }

    /// Brings `bytes` up to date after the peers of a swarm changed.
    pub fn recharge(&mut self, handle: SwarmHandle) {
        let swarm = self.get_mut(handle);
        let (before, after) = (swarm.charged, swarm.heap_bytes());
        swarm.charged = after;
        self.heap_bytes = self.heap_bytes - before + after;
    }

    /// The swarm of `queue` announced to longest ago.
    #[must_use]
    pub const fn oldest(&self, queue: Queue) -> Option<SwarmHandle> {
        self.queues[queue as usize].oldest
    }

    fn unlink(&mut self, handle: SwarmHandle) {
        let swarm = self.get(handle);
        let (newer, older, queue) = (swarm.newer, swarm.older, swarm.queue);
        *self.older_of(newer, queue) = older;
        *self.newer_of(older, queue) = newer;
    }

    fn link_newest(&mut self, handle: SwarmHandle, queue: Queue) {
        let older = self.queues[queue as usize].newest;
        let swarm = self.get_mut(handle);
        (swarm.newer, swarm.older, swarm.queue) = (None, older, queue);
        self.queues[queue as usize].newest = Some(handle);
        *self.newer_of(older, queue) = Some(handle);
    }

    /// The link that points from `handle` to its older neighbour; the queue's end for `None`.
    fn older_of(&mut self, handle: Option<SwarmHandle>, queue: Queue) -> &mut Option<SwarmHandle> {
        match handle {
            Some(handle) => &mut self.get_mut(handle).older,
            None => &mut self.queues[queue as usize].newest,
        }
    }

    /// The link that points from `handle` to its newer neighbour; the queue's end for `None`.
    fn newer_of(&mut self, handle: Option<SwarmHandle>, queue: Queue) -> &mut Option<SwarmHandle> {
        match handle {
            Some(handle) => &mut self.get_mut(handle).newer,
            None => &mut self.queues[queue as usize].oldest,
        }
    }

    /// Every swarm, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = &Swarm> {
        self.chunks.iter().flatten().flatten()
    }

    /// Panics unless every relation stated on the fields holds. For tests and the fuzzers.
    pub fn check_invariants(&self) {
        let mut queued = 0;
        for queue in [Queue::Probation, Queue::Established] {
            let mut newer = None;
            let mut at = self.queues[queue as usize].newest;
            let mut touched = Seconds(u32::MAX);
            while let Some(handle) = at {
                let swarm = self.get(handle);
                assert_eq!((swarm.queue, swarm.newer), (queue, newer));
                assert!(swarm.touched <= touched, "a queue falls from the newest to the oldest");
                (newer, at, touched) = (at, swarm.older, swarm.touched);
                queued += 1;
                assert!(queued <= self.len(), "a queue is a ring");
            }
            assert_eq!(self.queues[queue as usize].oldest, newer);
        }
        assert_eq!(queued, self.len());
        let mut heap_bytes = 0;
        for swarm in self.iter() {
            let found = self.find(&swarm.info_hash).map(|handle| self.get(handle).info_hash);
            assert_eq!(found, Some(swarm.info_hash));
            assert_eq!(swarm.charged, swarm.heap_bytes());
            heap_bytes += swarm.charged;
            for (index, group) in swarm.groups.iter().enumerate() {
                assert!(!group.peers.is_empty(), "empty groups go");
                let same = |other: &Group| {
                    (other.scope, other.peers.family()) == (group.scope, group.peers.family())
                };
                assert_eq!(swarm.groups.iter().position(same), Some(index));
                group.peers.check_invariants(self.key);
            }
        }
        assert_eq!(self.heap_bytes, heap_bytes);
        let slots: usize = self.chunks.iter().map(Vec::len).sum();
        assert_eq!(slots, self.len() + self.free.len());
    }
}
