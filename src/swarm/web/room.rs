//! How a full store takes a newcomer in.
//!
//! Connections cost next to nothing, and each may be in a thousand swarms: a few addresses can fill
//! the memory, and keep it full by announcing. If newcomers had to wait until somebody leaves, they
//! would wait for ever. So whoever has the most peers here gives one up for a newcomer of somebody
//! who has fewer: a source holds no more of a full store than its share, and who has little loses
//! nothing to who has more.

use super::{WebStore, sources};
use crate::time::Seconds;

/// Swarms, and peers, that chance picks to be looked at for one that can go.
const LOOKS: u32 = 16;

impl WebStore {
    /// Makes room for `bytes` more, those of a newcomer from `source` to the swarm `to`, which
    /// stays even if nobody is left in it. Returns how many peers had to go; `None` if that is not
    /// enough, because nobody who was looked at has more than the newcomer's source.
    pub(super) fn make_room(
        &mut self,
        now: Seconds,
        bytes: usize,
        (source, to): (u64, Option<u32>),
    ) -> Option<u32> {
        let mut gone = 0;
        while self.bytes() + bytes > self.bounds.memory_bytes {
            // Downloads to tell about are worth less than any peer.
            if let Some(swarm) = self.empty_of_some(to) {
                self.remove_swarm(swarm);
                continue;
            }
            let member = self.most_common_of_some(now)?;
            let (swarm, theirs) = (self.members.get(member).swarm, self.members.get(member).source);
            let count = |source| self.sources.count(&self.hasher, sources::ALL, source);
            if self.is_expired(now, member) {
                self.totals.expired_peers += 1;
            } else if count(theirs) > count(source) + 1 {
                self.totals.evicted_peers += 1;
            } else {
                return None;
            }
            self.remove_member(member);
            gone += 1;
            let left = self.swarms.get(swarm);
            if left.members.is_empty() && left.completed == 0 && to != Some(swarm) {
                self.remove_swarm(swarm);
            }
        }
        Some(gone)
    }

    /// The swarm without peers that was left longest ago, of some, and not `but`.
    fn empty_of_some(&mut self, but: Option<u32>) -> Option<u32> {
        if self.totals.active_swarms == self.swarms.len() as u64 {
            return None;
        }
        let Self { rng, swarms, .. } = self;
        let empty = (0..LOOKS).filter_map(|_| {
            let index = rng.below(swarms.places());
            let swarm = swarms.look(index).filter(|swarm| swarm.members.is_empty())?;
            (Some(index) != but).then_some((swarm.touched, index))
        });
        empty.min().map(|(_, index)| index)
    }

    /// The member whose source has the most here, of some; before all, one that has expired.
    fn most_common_of_some(&mut self, now: Seconds) -> Option<u32> {
        let Self { rng, members, sources, hasher, bounds, .. } = self;
        let known = (0..LOOKS).filter_map(|_| {
            let index = rng.below(members.places());
            let member = members.look(index)?;
            let age = now.since(member.announced);
            let count = sources.count(hasher, sources::ALL, member.source);
            Some((age > bounds.peer_ttl_secs, count, age, index))
        });
        known.max().map(|(.., index)| index)
    }
}
