//! Getting ready for a batch: prefetches, so that the latencies of memory overlap.
//!
//! Nobody changes here, and nothing depends on it but time, and where windows of large lists begin:
//! as random as without, but known ahead. A lookup waits for main memory two to
//! five times, each wait for an address that the one before brought; of 64 at once the waits of
//! each kind overlap. What was found on the way is kept as hints, which the announces and scrapes
//! that follow verify and use.

use smallvec::SmallVec;

use super::large::NOWHERE;
use super::machine::LINE_BYTES;
use super::sample::Bucket;
use super::slab::Block;
use super::table::Home;
use super::{SwarmStore, Totals};
use crate::limits::{BATCH_MAX, UDP_SCRAPE_HASHES_MAX};
use crate::rng::Rng;
use crate::wire::addr::Endpoint;
use crate::wire::id::InfoHash;

/// What is due is prepared for in parts of so many at the most: a batch of announces, or all that
/// one datagram scrapes. More would leave the caches before it is used.
const PART_MAX: usize = 80;

/// Peers that a core's own cache holds with their swarms. To find the swarms ahead is worth it
/// there too, to prefetch the peers takes longer than to wait for them (`cargo bench --bench
/// scale`, 20,000 peers, fastest of eleven runs: 162 ns an announce with all passes, 135 with the
/// first two, 146 with none). Few in tests, which try both ways.
const CACHED_PEERS: u64 = if cfg!(any(test, fuzzing)) { 256 } else { 1 << 15 };

const _: () = assert!(PART_MAX >= BATCH_MAX && PART_MAX >= UDP_SCRAPE_HASHES_MAX);

/// Peers of large lists that most answers hold: what of their windows is prefetched.
const WINDOW_PEERS: usize = 48;

/// What is probably true of an announce or a scrape that is due.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hint {
    /// The hash of the swarm's name. This one is sure, if the hint is for that swarm at all.
    hash: u64,
    /// The swarm.
    swarm: Option<Block>,
    /// Where the peer stands, if its list is large and that was looked for; or [`NOWHERE`].
    pub position: u32,
    /// What the windows of a large list begin at.
    chance: u64,
}

impl Hint {
    /// What the windows of the answer begin at, if they have been prefetched.
    #[inline]
    pub fn windows(&self) -> Option<u64> {
        (self.position != NOWHERE).then_some(self.chance)
    }
}

/// The hints for what is due, in its order.
#[derive(Debug, Default)]
pub(super) struct Hints {
    all: Vec<Hint>,
    /// The next one.
    next: usize,
    /// Spans that had been given up: a later one may have taken the place of a swarm for something
    /// that only looks like a swarm.
    given_up: u64,
}

impl SwarmStore {
    /// Prepares for what is due next, a batch of it, so that the memory latencies overlap here
    /// instead of adding up later. Changes nobody.
    ///
    /// In passes, each of prefetches that do not depend on one another: the buckets of the index,
    /// the heads of the swarms; then, unless the caches hold all peers, these; of large lists what
    /// they are, the buckets of their own index, and the peer and the windows of its answer. What
    /// the passes guess may be wrong (a bucket's entry is taken for the swarm's by a byte of its
    /// hash): then a prefetch was wasted, no more.
    pub fn warm(&mut self, due: &[(InfoHash, Option<Endpoint>)]) {
        let given_up = self.swarms.lists.slab.given_up();
        let mut hints = std::mem::take(&mut self.hints);
        (hints.next, hints.given_up) = (0, given_up);
        hints.all.clear();
        let windows = self.rng.next_u64();
        // In parts of the same size: the last one overlaps as much as the others.
        let parts = due.len().div_ceil(PART_MAX).max(1);
        for due in due.chunks(due.len().div_ceil(parts).max(1)) {
            self.warm_part(due, windows, &mut hints.all);
        }
        self.hints = hints;
    }

    fn warm_part(&self, due: &[(InfoHash, Option<Endpoint>)], windows: u64, hints: &mut Vec<Hint>) {
        let lists = &self.swarms.lists;
        let mut homes = [Home::default(); PART_MAX];
        let from = hints.len();
        hints.extend(due.iter().zip(&mut homes).map(|((info_hash, _), home)| {
            let hash = lists.hasher.info_hash(info_hash);
            *home = self.swarms.prefetch(hash);
            Hint { hash, swarm: None, position: NOWHERE, chance: windows }
        }));
        let hints = &mut hints[from..];
        for ((hint, home), (_, endpoint)) in hints.iter_mut().zip(homes).zip(due) {
            hint.swarm = self.swarms.guess(home, hint.hash);
            if let Some(swarm) = hint.swarm {
                lists.prefetch_first(swarm, endpoint.is_some());
            }
        }
        let Totals { seeders, leechers, .. } = &self.totals;
        if seeders.iter().chain(leechers).sum::<u64>() <= CACHED_PEERS {
            return;
        }
        let mut large: SmallVec<[(Block, &Endpoint, &mut Hint); PART_MAX]> = SmallVec::new();
        for (hint, (_, endpoint)) in hints.iter_mut().zip(due) {
            let Some(swarm) = hint.swarm else { continue };
            match endpoint {
                Some(endpoint) if lists.prefetch(swarm) => large.push((swarm, endpoint, hint)),
                Some(_) => {}
                None => _ = lists.prefetch_census(swarm),
            }
        }
        for ((list, endpoint, hint), home) in large.iter_mut().zip(&mut homes) {
            let hash = lists.hasher.endpoint(endpoint);
            hint.chance ^= hash;
            *home = lists.prefetch_index(*list, hash);
        }
        for ((list, endpoint, hint), home) in large.into_iter().zip(homes) {
            hint.position = lists.prefetch_peer(list, home, hint.chance ^ windows);
            self.prefetch_windows(list, endpoint, hint.chance);
        }
    }

    /// Tells the processor where the windows of a large list's answer will begin, if the asker is a
    /// leecher, as most are.
    fn prefetch_windows(&self, list: Block, endpoint: &Endpoint, chance: u64) {
        let (lists, family) = (&self.swarms.lists, endpoint.family());
        if lists.head(list).family() == family {
            let census = lists.census(list);
            let lines = WINDOW_PEERS * family.endpoint_bytes() / LINE_BYTES;
            let kinds = [(census.seeders, census.len), (0, census.seeders)];
            for ((from, to), draw) in kinds.into_iter().zip(Rng::new(chance).two()) {
                let bucket = Bucket::new(list, from, to, None);
                let share = lines * bucket.size() as usize / census.len.max(1) as usize;
                lists.prefetch_window(list, bucket.begin(draw), 2 + share);
            }
        }
    }

    /// The swarm of `info_hash`, and what else is known of who asks for it.
    #[inline]
    pub(super) fn locate(&mut self, info_hash: &InfoHash) -> (Option<Block>, Option<Hint>) {
        if let Some(&hint) = self.hints.all.get(self.hints.next)
            && self.hints.given_up == self.swarms.lists.slab.given_up()
            && let Some(swarm) = hint.swarm
            && self.swarms.lists.head(swarm).is_swarm(info_hash)
        {
            self.hints.next += 1;
            return (hint.swarm, Some(hint));
        }
        (self.locate_anew(info_hash), None)
    }

    /// What [`SwarmStore::locate`] does without a hint. The hint goes that would have been the
    /// swarm's.
    #[inline(never)]
    fn locate_anew(&mut self, info_hash: &InfoHash) -> Option<Block> {
        let hash = self.swarms.lists.hasher.info_hash(info_hash);
        if self.hints.next < self.hints.all.len() {
            self.skip_hints(hash);
        }
        self.swarms.find_hashed(info_hash, hash)
    }

    #[cold]
    fn skip_hints(&mut self, hash: u64) {
        let ahead = self.hints.all.iter().skip(self.hints.next);
        if let Some(skipped) = ahead.map(|hint| hint.hash).position(|other| other == hash) {
            self.hints.next += skipped + 1;
        }
    }
}
