//! Which peers fall due, and the bounded sweep.
//!
//! Peers leave when their swarm is touched by an announce or a scrape: a list knows how old its
//! oldest is at the most. For swarms that nobody touches a hand goes over all blocks some times in
//! a peer's life, in the order of memory, and looks at their heads; it stops after a bounded amount
//! of work and goes on at the next call.

use smallvec::SmallVec;

use super::SwarmStore;
use super::slab::Block;
use super::survey::Survey;
use crate::time::Seconds;

/// In a peer's life the hand goes over all swarms so many times: who has expired unnoticed is held
/// for an eighth longer at the most. Rounds twice as long halve what half of the sweep costs, heads
/// that are looked at in vain.
const ROUNDS: u32 = 8;
/// The shortest and the longest round, in seconds.
const ROUND_SECS: (u32, u32) = (16, 512);
/// Heads that the hand looks at in one slice; a swarm with something to remove counts as many.
/// Some fifty microseconds.
const SLICE: u32 = 2_048;
/// What a swarm counts that has something to remove, and each of its peers that leaves.
const REMOVAL: u32 = 8;
/// What a list counts that lies elsewhere: nobody has fetched it.
const WALK: usize = 4;
/// Stamps that take as long to look at as a head.
const STAMPS: u32 = 8;

/// Blocks that are due are prefetched so many at a time.
const AHEAD: usize = 12;

/// Where the hand is.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sweep {
    span: usize,
    /// Blocks of that span that have been looked at.
    done: usize,
    /// Blocks of that span that have been counted: the hand may go back to those that are due.
    counted: usize,
    /// Spans that are due now.
    due: usize,
    /// Until when spans have been made due.
    until: Seconds,
    /// When the last time was known that all was looked at, and when the present round began.
    complete: Seconds,
    began: Seconds,
}

impl SwarmStore {
    /// Removes the expired from swarms that nobody touches: a bounded slice of them.
    ///
    /// Returns whether there is more to do now.
    pub fn sweep(&mut self, now: Seconds) -> bool {
        self.pass_time(now);
        let now = self.seen;
        self.look_for_memory(now);
        let spans = self.swarms.lists.slab.spans();
        let round = (self.bounds.peer_ttl_secs / ROUNDS).clamp(ROUND_SECS.0, ROUND_SECS.1);
        let elapsed = now.since(self.sweep.until).min(round) as usize;
        self.sweep.until = now;
        self.sweep.due = (self.sweep.due + (spans * elapsed).div_ceil(round as usize)).min(spans);
        self.sweep_slice(now);
        self.sweep.due > 0
    }

    fn sweep_slice(&mut self, now: Seconds) {
        let mut work = 0;
        while self.sweep.due > 0 && work < SLICE {
            if self.sweep.span >= self.swarms.lists.slab.spans() {
                (self.sweep.span, self.sweep.done, self.sweep.counted) = (0, 0, 0);
                self.sweep.complete = self.sweep.began;
                self.sweep.began = now;
                self.survey.finish_round();
                if self.swarms.len() == 0 {
                    self.sweep.due = 0;
                    break;
                }
            }
            let mut survey = std::mem::take(&mut self.survey);
            let (looked, walked, due) = self.look_over(now, (SLICE - work) as usize, &mut survey);
            self.survey = survey;
            work += u32::try_from(looked + walked * WALK).expect("at most a few slices");
            self.sweep.done += looked;
            self.sweep.counted = self.sweep.counted.max(self.sweep.done);
            if looked == 0 {
                self.sweep.span += 1;
                (self.sweep.done, self.sweep.counted) = (0, 0);
                self.sweep.due -= 1;
            }
            let given_up = self.swarms.lists.slab.given_up();
            for (index, block) in due {
                // Its span may be one of another class by now.
                if work >= SLICE || self.swarms.lists.slab.given_up() != given_up {
                    self.sweep.done = index;
                    break;
                }
                work = work.saturating_add(self.sweep_block(now, block));
            }
        }
    }

    /// Looks for blocks that are due, from where the hand is to the end of its span, as far as a
    /// few. Returns how many it looked at, how many further lists it had to look for, and the
    /// blocks that are due, which it prefetches for.
    fn look_over(
        &self,
        now: Seconds,
        most: usize,
        survey: &mut Survey,
    ) -> (usize, usize, SmallVec<[(usize, Block); AHEAD]>) {
        let Sweep { span, done, counted, .. } = self.sweep;
        let (lists, now) = (&self.swarms.lists, self.clock.stamp(now));
        let (mut looked, mut walked, mut due) = (0, 0, SmallVec::new());
        for block in lists.slab.blocks(span, done).take(most) {
            let head = lists.head(block);
            if head.is_used() {
                if head.is_first() && done + looked >= counted {
                    let (peers, further) = self.population(block);
                    survey.saw(peers, || head.info_hash());
                    walked += further;
                }
                if self.clock.is_expired(now, head.oldest) {
                    self.swarms.prefetch_swarm_of(block);
                    due.push((done + looked, block));
                }
            }
            looked += 1;
            if due.len() == AHEAD {
                break;
            }
        }
        (looked, walked, due)
    }

    /// Peers of a swarm, and how many lists lie elsewhere than its first.
    #[inline]
    fn population(&self, swarm: Block) -> (u32, usize) {
        let lists = &self.swarms.lists;
        let peers = lists.census(swarm).len;
        if lists.head(swarm).next().is_none() {
            return (peers, 0);
        }
        let further = self.swarms.lists_of(swarm).skip(1);
        further.fold((peers, 0), |(peers, count), list| (peers + lists.census(list).len, count + 1))
    }

    /// Looks at one block; returns how much work that was.
    fn sweep_block(&mut self, now: Seconds, block: Block) -> u32 {
        let head = self.swarms.lists.head(block);
        let now = self.clock.stamp(now);
        // One that was before it in a span may have been of the same swarm.
        if !head.is_used() || !self.clock.is_expired(now, head.oldest) {
            return 0;
        }
        let swarm = self.swarms.of(block);
        let before = self.totals.expired_peers;
        let lists = &self.swarms.lists;
        let peers: u32 = self.swarms.lists_of(swarm).map(|list| lists.census(list).len).sum();
        self.expire_lists(now, swarm);
        let expired = u32::try_from(self.totals.expired_peers - before).unwrap_or(u32::MAX);
        REMOVAL.saturating_add(expired.saturating_mul(REMOVAL)).saturating_add(peers / STAMPS)
    }

    /// Removes the expired peers of one swarm, which may move; `None` if that was all there was.
    #[inline]
    pub(super) fn expire_swarm(&mut self, now: u16, swarm: Block) -> Option<Block> {
        let lists = &self.swarms.lists;
        let mut at = Some(swarm);
        while let Some(list) = at {
            let head = lists.head(list);
            if self.clock.is_expired(now, head.oldest) {
                return self.expire_lists(now, swarm);
            }
            at = head.next();
        }
        Some(swarm)
    }

    #[cold]
    fn expire_lists(&mut self, now: u16, mut swarm: Block) -> Option<Block> {
        let lists = &self.swarms.lists;
        let is_over = |list: Block| {
            lists.census(list).len == 0 || self.clock.age_is_expired(lists.newest_age(list, now))
        };
        if self.swarms.lists_of(swarm).all(is_over) {
            self.totals.expired_peers += u64::from(self.remove_swarm(swarm));
            return None;
        }
        let mut at = Some(swarm);
        while let Some(mut list) = at {
            at = self.swarms.lists.head(list).next();
            let (old, before) = (list, self.swarms.lists.census(list));
            let expired = self.swarms.lists.expire(&mut list, now, self.clock);
            self.swarms.moved(&mut swarm, old, list);
            self.recount(list, before);
            self.totals.expired_peers += u64::from(expired);
            if self.swarms.lists.census(list).len == 0 {
                self.emptied(now, swarm, list);
            }
        }
        Some(swarm)
    }

    /// Lets time pass up to `now`, or stay where it is: it never steps back. Notices when so much
    /// has passed that nobody can be left, and when the hand is so late that stamps would wrap
    /// around.
    #[inline]
    pub(super) fn pass_time(&mut self, now: Seconds) {
        if now > self.seen {
            self.pass_on(now);
        }
    }

    #[inline(never)]
    fn pass_on(&mut self, now: Seconds) {
        if now.since(self.seen) > self.bounds.peer_ttl_secs {
            let (seeders, leechers) = (self.totals.seeders, self.totals.leechers);
            self.totals.expired_peers += seeders.iter().chain(&leechers).sum::<u64>();
            (self.totals.seeders, self.totals.leechers) = ([0; 2], [0; 2]);
            self.swarms.clear();
            self.survey = Survey::default();
            self.sweep = Sweep { until: now, complete: now, began: now, ..Sweep::default() };
        }
        (self.seen, self.stamp) = (now, self.clock.stamp(now));
        if now.since(self.sweep.complete) > self.clock.span_secs() {
            self.sweep.began = now;
            self.sweep.due = 2 * self.swarms.lists.slab.spans();
            while self.sweep.due > 0 {
                self.sweep_slice(now);
            }
            self.sweep.complete = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{LEECHER, arrival, store};
    use super::super::{Bounds, HashKey};
    use super::*;
    use crate::rng::Rng;

    #[test]
    fn the_hand_goes_over_everything_eight_times_in_a_peers_life() {
        for (peer_ttl_secs, round) in [(3_000, 375), (60, 16), (7_200, 512)] {
            let bounds = Bounds { peer_ttl_secs, ..store(1 << 20, 10).bounds };
            let mut store = SwarmStore::new(bounds, HashKey(1, 2), Rng::new(3)).expect("memory");
            store.announce(Seconds(0), &arrival(0, 1, LEECHER));
            assert!(!store.sweep(Seconds(round / 2)));
            let spans = store.swarms.lists.slab.spans();
            let part = (spans * (round / 2) as usize).div_ceil(round as usize);
            assert_eq!(store.sweep.span, part, "of {spans}, {peer_ttl_secs} s");
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "too many steps for an interpreter")]
    fn a_slice_does_as_much_as_it_may_and_no_more() {
        let mut store = store(64 << 20, 10_000);
        for n in 0..10_000 {
            store.announce(Seconds(0), &arrival(n, n, LEECHER));
        }
        store.announce(Seconds(2_000), &arrival(0, 1, LEECHER));
        store.sweep(Seconds(3_000));
        assert_eq!(store.totals().expired_peers, 0);
        let (mut before, mut most) = (0, 0);
        while store.sweep(Seconds(3_001)) {
            let expired = store.totals().expired_peers;
            (before, most) = (expired, most.max(expired - before));
        }
        // Each of them counts for its swarm and for itself, and for the head that was looked at.
        let may = u64::from(SLICE / (2 * REMOVAL));
        assert!((may * 3 / 4..=may).contains(&most), "{most} of {may}");
        for second in 3_002..3_400 {
            while store.sweep(Seconds(second)) {}
        }
        assert_eq!(store.totals().expired_peers, 10_000);
    }

    /// Both lists of a swarm are due in one batch; the first that is looked at takes both away.
    #[test]
    #[cfg_attr(miri, ignore = "too many steps for an interpreter")]
    fn swarms_of_several_lists_are_swept() {
        use crate::swarm::Arrival;
        use crate::wire::addr::{Endpoint, Scope};

        let mut store = store(64 << 20, 10_000);
        let ip = std::net::Ipv4Addr::new(10, 0, 0, 1).into();
        for n in 0..3_000 {
            let public = arrival(n, 1, LEECHER);
            store.announce(Seconds(0), &public);
            let (endpoint, scope) = (Endpoint::new(ip, 1), Scope::of(ip));
            store.announce(Seconds(0), &Arrival { endpoint, scope, ..public });
        }
        store.announce(Seconds(2_000), &arrival(9_999, 1, LEECHER));
        for second in 3_001..3_400 {
            while store.sweep(Seconds(second)) {}
        }
        store.check_invariants();
        assert_eq!((store.totals().swarms, store.totals().expired_peers), (1, 6_000));
    }
}
