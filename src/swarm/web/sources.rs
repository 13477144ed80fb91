//! How many peers of a swarm, and of all swarms, come from one source.
//!
//! Counted, not looked for: a swarm may have tens of thousands of peers.

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use crate::swarm::hash::Hasher;

/// Bytes of an entry and its share of the table at its least load.
pub(super) const ENTRY_BYTES_MAX: usize = 40;

/// Stands for all swarms together.
pub(super) const ALL: u32 = u32::MAX;

/// The peers of one source in one swarm, or in [`ALL`]; there is one at the least.
#[derive(Clone, Copy, Debug)]
struct Company {
    source: u64,
    swarm: u32,
    peers: u32,
}

/// The peers of each source in each swarm and in all.
#[derive(Clone, Debug, Default)]
pub(super) struct Sources(HashTable<Company>);

impl Sources {
    /// Entries: pairs of a swarm and a source, and sources.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Peers of `source` in `swarm`, or in [`ALL`].
    pub(super) fn count(&self, hasher: &Hasher, swarm: u32, source: u64) -> u32 {
        let found = self.0.find(hasher.source(swarm, source), is(swarm, source));
        found.map_or(0, |company| company.peers)
    }

    /// One more.
    pub(super) fn enter(&mut self, hasher: &Hasher, swarm: u32, source: u64) {
        self.add(hasher, swarm, source);
        self.add(hasher, ALL, source);
    }

    /// One less.
    pub(super) fn leave(&mut self, hasher: &Hasher, swarm: u32, source: u64) {
        self.take(hasher, swarm, source);
        self.take(hasher, ALL, source);
    }

    fn add(&mut self, hasher: &Hasher, swarm: u32, source: u64) {
        let hash = hasher.source(swarm, source);
        let rehash = |company: &Company| hasher.source(company.swarm, company.source);
        match self.0.entry(hash, is(swarm, source), rehash) {
            Entry::Occupied(mut entry) => entry.get_mut().peers += 1,
            Entry::Vacant(entry) => drop(entry.insert(Company { source, swarm, peers: 1 })),
        }
    }

    fn take(&mut self, hasher: &Hasher, swarm: u32, source: u64) {
        let hash = hasher.source(swarm, source);
        let Ok(mut entry) = self.0.find_entry(hash, is(swarm, source)) else { return };
        entry.get_mut().peers -= 1;
        if entry.get().peers == 0 {
            entry.remove();
        }
    }
}

fn is(swarm: u32, source: u64) -> impl Fn(&Company) -> bool {
    move |company| company.swarm == swarm && company.source == source
}
