//! `InfoHash` to swarm: the index, and the lists of one swarm.
//!
//! A swarm is named by the block of its first list. Lists of another family or scope hang on it in
//! a chain; most swarms have none. Blocks move when lists grow, and only here is known who refers
//! to them: the index, or the list before.

use super::hash::Hasher;
use super::lists::{Lists, head_of};
use super::machine::NoMemory;
use super::slab::{Block, Slab};
use super::table::{Home, Keys, Table};
use crate::wire::addr::{Endpoint, Family, Scope};
use crate::wire::id::InfoHash;

/// A swarm's place in its core's store. Valid until the next call that changes the store; never
/// leaves its core.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SwarmHandle(pub(super) Block);

/// All swarms of one core.
#[derive(Debug)]
pub struct Swarms {
    /// Their peers.
    pub lists: Lists,
    index: Table,
}

impl Swarms {
    /// No swarm yet, meant to take `bytes` at the most.
    ///
    /// # Errors
    /// If the process may not have address space for them.
    pub fn new(hasher: Hasher, bytes: usize, keep_ids: bool) -> Result<Self, NoMemory> {
        Ok(Self { lists: Lists::new(hasher, bytes, keep_ids)?, index: Table::new() })
    }

    /// Swarms held.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.index.len()
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.lists.clear();
        self.index = Table::new();
    }

    /// Bytes held.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.lists.bytes() + self.index.heap_bytes()
    }

    /// The swarm of `info_hash`.
    #[must_use]
    pub fn find(&self, info_hash: &InfoHash) -> Option<Block> {
        self.find_hashed(info_hash, self.lists.hasher.info_hash(info_hash))
    }

    /// The swarm of `info_hash`, whose hash is known.
    #[must_use]
    #[inline(always)]
    pub fn find_hashed(&self, info_hash: &InfoHash, hash: u64) -> Option<Block> {
        let is = |number| self.lists.head(block(number)).is(info_hash);
        self.index.find(&self.lists.slab, hash, is).map(block)
    }

    /// The swarm that a list belongs to.
    #[must_use]
    pub fn of(&self, list: Block) -> Block {
        let head = self.lists.head(list);
        if head.is_first() {
            list
        } else {
            self.find(&head.info_hash()).expect("blocks in use are indexed")
        }
    }

    /// The lists of a swarm, the first one first.
    pub fn lists_of(&self, swarm: Block) -> impl Iterator<Item = Block> {
        std::iter::successors(Some(swarm), |&list| self.lists.head(list).next())
    }

    /// Adds a swarm with an empty list, on probation. The caller has looked that there is none yet.
    pub fn insert(&mut self, info_hash: &InfoHash, family: Family, scope: Scope) -> Block {
        let swarm = self.lists.create(info_hash, family, scope, true);
        let (slab, hasher) = (&mut self.lists.slab, &self.lists.hasher);
        self.index.insert(slab, hasher.info_hash(info_hash), swarm.number(), &Names(hasher));
        swarm
    }

    /// Removes a swarm with all its peers.
    pub fn remove(&mut self, swarm: Block) {
        let (slab, hasher) = (&mut self.lists.slab, &self.lists.hasher);
        let names = Names(hasher);
        let hash = names.hash(slab, swarm.number());
        self.index.remove(slab, hash, swarm.number(), &names);
        let mut at = Some(swarm);
        while let Some(list) = at {
            at = self.lists.head(list).next();
            self.lists.release(list);
        }
    }

    /// The list of a swarm for one family and scope.
    #[must_use]
    pub fn list(&self, swarm: Block, family: Family, scope: Scope) -> Option<Block> {
        self.lists_of(swarm).find(|&list| {
            let head = self.lists.head(list);
            (head.family(), head.scope()) == (family, scope)
        })
    }

    /// Adds a list that is not there yet.
    pub fn add_list(&mut self, swarm: Block, family: Family, scope: Scope) -> Block {
        let info_hash = self.lists.head(swarm).info_hash();
        let list = self.lists.create(&info_hash, family, scope, false);
        let next = self.lists.head(swarm).next();
        self.lists.head_mut(list).set_next(next);
        self.lists.head_mut(swarm).set_next(Some(list));
        list
    }

    /// Removes a list that is not the first of its swarm.
    pub fn remove_list(&mut self, swarm: Block, list: Block) {
        let next = self.lists.head(list).next();
        let before = self.lists_of(swarm).find(|&at| self.lists.head(at).next() == Some(list));
        self.lists.head_mut(before.expect("it is in the chain")).set_next(next);
        self.lists.release(list);
    }

    /// Whether a peer can be added, and its swarm if need be, without another span.
    #[must_use]
    pub fn fits(&self, info_hash: &InfoHash, endpoint: &Endpoint, scope: Scope) -> bool {
        match self.find(info_hash) {
            Some(swarm) => self.lists.fits(self.list(swarm, endpoint.family(), scope), endpoint),
            None => {
                let hash = self.lists.hasher.info_hash(info_hash);
                self.index.fits(hash) && self.lists.fits(None, endpoint)
            }
        }
    }

    /// Appends a peer to a list of `swarm`; both may move. Returns where it stands.
    pub fn push(&mut self, swarm: &mut Block, list: &mut Block, endpoint: &Endpoint) -> u32 {
        let old = *list;
        let position = self.lists.push(list, endpoint);
        self.moved(swarm, old, *list);
        position
    }

    /// Removes a peer from a list of `swarm`; both may move.
    pub fn remove_peer(&mut self, swarm: &mut Block, list: &mut Block, position: u32) {
        let old = *list;
        self.lists.remove(list, position);
        self.moved(swarm, old, *list);
    }

    /// Moves a list of any swarm to another block.
    pub fn relocate(&mut self, list: Block) {
        let mut swarm = self.of(list);
        let new = self.lists.relocate(list);
        self.moved(&mut swarm, list, new);
    }

    /// Tells whoever refers to a list of `swarm` that it has moved.
    pub fn moved(&mut self, swarm: &mut Block, old: Block, new: Block) {
        if old == new {
            return;
        }
        if *swarm == old {
            let hash = self.lists.hasher.info_hash(&self.lists.head(new).info_hash());
            self.index.replace(&mut self.lists.slab, hash, old.number(), new.number());
            *swarm = new;
        } else {
            let before = self.lists_of(*swarm).find(|&at| self.lists.head(at).next() == Some(old));
            self.lists.head_mut(before.expect("it is in the chain")).set_next(Some(new));
        }
    }

    /// Tells the processor that a swarm will be looked for.
    #[inline]
    pub fn prefetch(&self, hash: u64) -> Home {
        self.index.prefetch(&self.lists.slab, hash)
    }

    /// Tells the processor that the swarm of a list will be looked for.
    pub fn prefetch_swarm_of(&self, list: Block) {
        self.prefetch(self.lists.hasher.info_hash(&self.lists.head(list).info_hash()));
    }

    /// The block that probably is the swarm's.
    #[must_use]
    #[inline]
    pub fn guess(&self, home: Home, hash: u64) -> Option<Block> {
        Table::guess(&self.lists.slab, home, hash).map(block)
    }

    /// Whether a swarm has a peer from another network (IPv4 address, IPv6 /64) than the one at
    /// `position` of `list`. While it is on probation all others are from one, so any will do.
    #[must_use]
    pub fn has_company(&self, swarm: Block, list: Block, position: u32) -> bool {
        let network = |list: Block, at: u32| {
            let (endpoint, _) = self.lists.endpoints(list).stretch(at, at + 1);
            let family = self.lists.head(list).family();
            let len = if family == Family::V4 { 4 } else { 8 };
            let mut network = [0; 8];
            network[..len].copy_from_slice(&endpoint[..len]);
            (family, network)
        };
        let own = network(list, position);
        self.lists_of(swarm).any(|other| {
            let at = u32::from(other == list && position == 0);
            at < self.lists.census(other).len && network(other, at) != own
        })
    }

    /// Every swarm, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = Block> {
        self.index.values(&self.lists.slab).map(block)
    }

    /// Panics unless every relation holds. For tests and the fuzzers.
    pub fn check_invariants(&self, now: u16) {
        self.lists.check_invariants();
        let lists = &self.lists;
        self.index.check_invariants(&lists.slab, |number| {
            lists.hasher.info_hash(&name_of(&lists.slab, number))
        });
        let (mut blocks, mut on_probation) = (0, 0);
        for swarm in self.iter() {
            let info_hash = lists.head(swarm).info_hash();
            assert_eq!(self.find(&info_hash), Some(swarm));
            on_probation += usize::from(lists.head(swarm).is_on_probation());
            for list in self.lists_of(swarm) {
                let head = lists.head(list);
                assert!(head.is_used() && head.is(&info_hash));
                assert_eq!(head.is_first(), list == swarm);
                assert!(list == swarm || lists.census(list).len > 0, "empty lists go");
                assert_eq!(self.list(swarm, head.family(), head.scope()), Some(list));
                lists.check_list(list, now);
                blocks += 1;
            }
        }
        assert_eq!(on_probation, lists.slab.marked());
        let used = (0..lists.slab.spans())
            .flat_map(|span| lists.slab.blocks(span, 0))
            .filter(|&block| lists.head(block).is_used())
            .count();
        assert_eq!(used, blocks, "no block is lost");
    }
}

/// The keys of the index: each swarm's name.
struct Names<'a>(&'a Hasher);

impl Keys for Names<'_> {
    fn hash(&self, slab: &Slab, number: u32) -> u64 {
        self.0.info_hash(&name_of(slab, number))
    }

    fn prefetch(&self, slab: &Slab, number: u32) {
        // From the first word to the last: they may stand in two lines.
        slab.prefetch(block(number), 0, 1);
        slab.prefetch(block(number), NAME_WORDS - 1, 1);
    }
}

/// Words of an info_hash, which a head begins with.
const NAME_WORDS: usize = size_of::<InfoHash>() / size_of::<u32>();

/// The name of the swarm that is indexed under this number.
fn name_of(slab: &Slab, number: u32) -> InfoHash {
    head_of(slab, block(number)).info_hash()
}

fn block(number: u32) -> Block {
    Block::from_number(number).expect("only blocks are indexed")
}
