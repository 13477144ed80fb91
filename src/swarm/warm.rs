//! Getting ready for a batch: prefetches, so that the latencies of memory overlap.
//!
//! Nobody changes here, and nothing depends on it but time. A lookup waits for main memory two to
//! five times, each wait for an address that the one before brought; of 64 at once the waits of
//! each kind overlap.

use smallvec::SmallVec;

use super::SwarmStore;
use super::sample::Bucket;
use super::slab::Block;
use crate::limits::BATCH_MAX;
use crate::rng::Rng;
use crate::wire::addr::Endpoint;
use crate::wire::id::InfoHash;

impl SwarmStore {
    /// Prepares for what is due next, a batch of it, so that the memory latencies overlap here
    /// instead of adding up later. Changes nobody.
    ///
    /// In passes, each of prefetches that do not depend on one another: the buckets of the index,
    /// the heads of the swarms, their peers; of large lists what they are, the buckets of their own
    /// index, and the peer and the windows of its answer. What the passes guess may be wrong (a
    /// bucket's entry is taken for the swarm's by a byte of its hash): then a prefetch was wasted,
    /// no more.
    pub fn warm(&mut self, due: &[(InfoHash, Option<Endpoint>)]) {
        (self.windows, self.ahead) = (self.rng.next_u64(), 0);
        // In parts of the same size: the last one overlaps as much as the others.
        let parts = due.len().div_ceil(BATCH_MAX).max(1);
        for due in due.chunks(due.len().div_ceil(parts).max(1)) {
            self.warm_part(due);
        }
    }

    fn warm_part(&mut self, due: &[(InfoHash, Option<Endpoint>)]) {
        let lists = &self.swarms.lists;
        let mut hashes = [0; BATCH_MAX];
        let mut swarms = [None; BATCH_MAX];
        for (hash, (info_hash, _)) in hashes.iter_mut().zip(due) {
            *hash = lists.hasher.info_hash(info_hash);
            self.swarms.prefetch(*hash);
        }
        for (swarm, hash) in swarms.iter_mut().zip(&hashes[..due.len()]) {
            *swarm = self.swarms.guess(*hash);
            if let Some(swarm) = *swarm {
                lists.prefetch_first(swarm);
            }
        }
        let mut large: SmallVec<[(Block, Endpoint); BATCH_MAX]> = SmallVec::new();
        for (swarm, (_, endpoint)) in swarms.iter().zip(due) {
            self.ahead += usize::from(endpoint.is_some());
            if let (Some(swarm), Some(endpoint)) = (swarm, endpoint)
                && lists.prefetch(*swarm)
            {
                large.push((*swarm, *endpoint));
            }
        }
        for (swarm, endpoint) in &large {
            lists.prefetch_index(*swarm, endpoint);
        }
        for (swarm, endpoint) in &large {
            lists.prefetch_peer(*swarm, endpoint);
            self.prefetch_windows(*swarm, endpoint);
        }
    }

    /// Tells the processor where the windows of a large list's answer will begin, if the asker is a
    /// leecher, as most are.
    fn prefetch_windows(&self, list: Block, endpoint: &Endpoint) {
        let (lists, family) = (&self.swarms.lists, endpoint.family());
        if lists.head(list).family() == family {
            let census = lists.census(list);
            let mut draws = Rng::new(self.window_chance(endpoint));
            for (from, to) in [(census.seeders, census.len), (0, census.seeders)] {
                let bucket = Bucket::new((list, family), from, to, None);
                lists.prefetch_window(list, bucket.begin(draws.next_u32()));
            }
        }
    }
}
