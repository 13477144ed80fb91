//! Making room: which swarms go when the budget is full.
//!
//! What counts against the budget are spans, real memory. A hand goes over them. While swarms on
//! probation are many it takes those where they are, and removes these: so a flood of invented
//! hashes displaces itself and not the swarms that people use. When they are few, it takes spans of
//! the smallest swarms that are common and removes the half that was announced to longest ago. What
//! is left of such a span moves into the gaps of others of its class, so that whole spans become
//! free for any class.
//!
//! A kernel that commits to no more memory (`vm.overcommit_memory` = 2, a limit of the process)
//! makes the budget smaller: what there is has to do, until it is asked again.

use super::class::Class;
use super::slab::{Block, RESERVE_SPANS, SPAN_BYTES};
use super::{Arrival, SwarmStore};
use crate::time::Seconds;

const RESERVE_BYTES: usize = RESERVE_SPANS * SPAN_BYTES;
/// Bytes that a peer may cost in a large swarm: endpoint, stamp, id and index entry, with room.
const PEER_BYTES_MAX: usize = 64;
/// Spans that one announce clears at the most, while the kernel has more; the next goes on.
const SPANS_PER_CALL: u32 = 8;
/// Seconds after which a kernel that had no more memory is asked again.
const ASK_AGAIN_SECS: u32 = 60;

/// Swarms on probation go first where they are at least one in so many. Fewer are no flood but
/// newcomers, and would leave before their second peer comes.
const PROBATION_ONE_IN: usize = 32;

/// Peers of one swarm that half of some memory holds for certain.
#[must_use]
pub(super) fn peers_of_half(bytes: usize) -> u32 {
    u32::try_from(bytes / 2 / PEER_BYTES_MAX).unwrap_or(u32::MAX)
}

/// Who goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Victims {
    /// Swarms on probation.
    OnProbation,
    /// These, and the half of the others that was announced to longest ago.
    OlderHalf,
}

impl SwarmStore {
    /// Removes whole swarms, the least valuable first, until an announce fits into the budget.
    /// Returns whether it had to: any swarm may have moved or gone then.
    pub(super) fn make_room(&mut self, now: Seconds, arrival: &Arrival) -> bool {
        if self.swarms.lists.slab.free_spans() < RESERVE_SPANS {
            self.ask_for_memory(now);
        }
        let fits = self.fits(arrival);
        if !fits {
            self.clear_spans(now, arrival);
        }
        !fits
    }

    /// Asks for the spans that an announce may need: in the middle of one it is too late.
    #[cold]
    fn ask_for_memory(&mut self, now: Seconds) {
        if self.refused.is_none_or(|then| now.since(then) >= ASK_AGAIN_SECS) {
            let grown = self.swarms.lists.slab.grow();
            self.refused = (!grown).then_some(now);
        }
    }

    /// Asks again if the kernel had no more memory the last time, and for more than the reserve, so
    /// that lists which become shorter can move.
    pub(super) fn look_for_memory(&mut self, now: Seconds) {
        if self.refused.is_some() || self.swarms.lists.slab.free_spans() < 2 * RESERVE_SPANS {
            self.ask_for_memory(now);
        }
    }

    /// Bytes of the budget that the kernel does not have.
    pub(super) fn refused_bytes(&self) -> usize {
        let there = self.swarms.lists.slab.bytes_there();
        self.refused.map_or(0, |_| self.bounds.memory_bytes.saturating_sub(there))
    }

    /// Peers of one swarm: it may have half of the memory at the most.
    pub(super) fn peers_per_swarm(&self) -> u32 {
        let there = self.bounds.memory_bytes - self.refused_bytes();
        self.bounds.peers_per_swarm.min(peers_of_half(there))
    }

    /// Whether there is memory to spare, or an announce needs none of it.
    pub(super) fn fits(&self, arrival: &Arrival) -> bool {
        let Arrival { info_hash, endpoint, scope, .. } = arrival;
        // What expires on the way may change what is needed: the reserve has to be there.
        self.swarms.lists.slab.free_spans() >= RESERVE_SPANS
            && (self.swarms.bytes() + RESERVE_BYTES <= self.bounds.memory_bytes
                || self.swarms.fits(info_hash, endpoint, *scope))
    }

    #[cold]
    fn clear_spans(&mut self, now: Seconds, arrival: &Arrival) {
        let now = self.clock.stamp(now);
        // What is not there cannot be used in advance.
        let most = if self.refused.is_none() { SPANS_PER_CALL } else { u32::MAX };
        for _ in 0..most {
            let Some((span, victims)) = self.choose_span() else { return };
            self.clear_span(now, span, victims, arrival);
            if self.fits(arrival) {
                return;
            }
        }
    }

    /// The next span that swarms should leave, and which of them.
    fn choose_span(&mut self) -> Option<(usize, Victims)> {
        let slab = &self.swarms.lists.slab;
        let spans = slab.spans();
        let from = self.hand;
        let mut next = |is: &dyn Fn(usize) -> bool| {
            let found = (1..=spans).map(|step| (from + step) % spans).find(|&span| is(span))?;
            self.hand = found;
            Some(found)
        };
        if slab.marked() * PROBATION_ONE_IN >= slab.swarm_blocks() {
            let many = |span| {
                slab.population(span).is_some_and(|(used, marked)| marked > 0 && marked >= used / 4)
            };
            if let Some(span) = next(&many) {
                return Some((span, Victims::OnProbation));
            }
        }
        let all: usize = Class::all().map(|class| slab.spans_of(class)).sum();
        let common = Class::all()
            .find(|&class| slab.spans_of(class) > all / 16)
            .or_else(|| Class::all().max_by_key(|&class| slab.spans_of(class)))
            .filter(|&class| slab.spans_of(class) > 0)?;
        Some((next(&|span| slab.class(span) == Some(common))?, Victims::OlderHalf))
    }

    /// Removes swarms from a span, and moves what is left to others of its class if it fits there.
    fn clear_span(&mut self, now: u16, span: usize, victims: Victims, arrival: &Arrival) {
        let lists = &self.swarms.lists;
        let Some(class) = lists.slab.class(span) else { return };
        let blocks: Vec<Block> = lists.slab.blocks(span, 0).collect();
        let used = blocks.iter().filter(|&&block| lists.head(block).is_used());
        // Of a further list the swarm is meant that it belongs to.
        let mut swarms: Vec<Block> = used.map(|&block| self.swarms.of(block)).collect();
        swarms.sort_unstable();
        swarms.dedup();
        let (on_probation, others): (Vec<Block>, Vec<Block>) =
            swarms.into_iter().partition(|&swarm| lists.head(swarm).is_on_probation());
        for swarm in on_probation {
            self.evict(swarm);
        }
        if victims == Victims::OlderHalf {
            self.evict_older_half(now, others, arrival);
        }
        let slab = &mut self.swarms.lists.slab;
        let Some((used, _)) = slab.population(span) else { return };
        let used = usize::from(used);
        if slab.room_besides(class, span, used) >= used && slab.use_last(span) {
            for block in blocks {
                // Its span may be given up with the last.
                let lists = &self.swarms.lists;
                if lists.slab.class(span) == Some(class) && lists.head(block).is_used() {
                    self.swarms.relocate(block);
                }
            }
        }
    }

    fn evict_older_half(&mut self, now: u16, swarms: Vec<Block>, arrival: &Arrival) {
        let (of, lists) = (&self.swarms, &self.swarms.lists);
        // Heads of large lists are as small as single peers' swarms, and the last that should go.
        let is_large = |&swarm: &Block| of.lists_of(swarm).any(|list| lists.head(list).is_large());
        let (large, small): (Vec<Block>, Vec<Block>) = swarms.into_iter().partition(is_large);
        let newest = |&swarm: &Block| {
            of.lists_of(swarm).map(|list| lists.newest_age(list, now)).min().unwrap_or(0)
        };
        let mut small: Vec<(u16, Block)> =
            small.into_iter().map(|swarm| (newest(&swarm), swarm)).collect();
        small.sort_unstable_by_key(|&(age, _)| std::cmp::Reverse(age));
        small.truncate(small.len().div_ceil(2));
        if small.is_empty() {
            self.evict_large(large, arrival);
        }
        for (_, swarm) in small {
            self.evict(swarm);
        }
    }

    /// Removes large swarms, the smallest of them first, no more than must be.
    fn evict_large(&mut self, mut swarms: Vec<Block>, arrival: &Arrival) {
        let (of, lists) = (&self.swarms, &self.swarms.lists);
        swarms.sort_by_cached_key(|&swarm| {
            of.lists_of(swarm).map(|list| lists.census(list).len).sum::<u32>()
        });
        for swarm in swarms {
            self.evict(swarm);
            if self.fits(arrival) {
                return;
            }
        }
    }

    fn evict(&mut self, swarm: Block) {
        let peers = self.remove_swarm(swarm);
        self.totals.evicted_peers += u64::from(peers);
        self.totals.evicted_swarms += 1;
    }
}

#[cfg(test)]
mod tests;
