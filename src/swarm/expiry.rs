//! Which peers fall due, and the bounded sweep.
//!
//! Peers leave when their swarm is touched by an announce or a scrape: the list knows its oldest.
//! A swarm that nobody touches any more drifts to the old end of its queue, where the sweep finds
//! it without looking at any other: all its peers are at least as old as its last announce.

use super::index::Queue;
use super::{SwarmHandle, SwarmStore};
use crate::time::Seconds;

/// Swarms of each queue that one slice of the sweep removes at the most: some ten microseconds.
const SWEEP_SLICE: u32 = 64;

impl SwarmStore {
    /// Removes swarms whose last announce is older than a peer may be: a bounded slice of them.
    ///
    /// Returns whether there may be more to do.
    pub fn sweep(&mut self, now: Seconds) -> bool {
        for queue in [Queue::Probation, Queue::Established] {
            for _ in 0..SWEEP_SLICE {
                let Some(oldest) = self.swarms.oldest(queue) else { break };
                if now.since(self.swarms.get(oldest).touched) <= self.bounds.peer_ttl_secs {
                    break;
                }
                let peers = self.remove_swarm(oldest);
                self.totals.expired_peers += u64::from(peers);
            }
        }
        [Queue::Probation, Queue::Established].into_iter().any(|queue| {
            self.swarms.oldest(queue).is_some_and(|oldest| {
                now.since(self.swarms.get(oldest).touched) > self.bounds.peer_ttl_secs
            })
        })
    }

    /// Removes the expired peers of one swarm; `false` if that was all there was to it.
    pub(super) fn expire_swarm(&mut self, now: Seconds, handle: SwarmHandle) -> bool {
        let ttl = self.bounds.peer_ttl_secs;
        if now.since(self.swarms.get(handle).touched) > ttl {
            let peers = self.remove_swarm(handle);
            self.totals.expired_peers += u64::from(peers);
            return false;
        }
        let mut expired = 0;
        for group in &mut self.swarms.get_mut(handle).groups {
            let family = group.peers.family() as usize;
            let (seeders, leechers) = (group.peers.seeders(), group.peers.leechers());
            expired += group.peers.expire(self.key, now, ttl);
            super::adjust(&mut self.totals.seeders[family], seeders, group.peers.seeders());
            super::adjust(&mut self.totals.leechers[family], leechers, group.peers.leechers());
        }
        if expired == 0 {
            return true;
        }
        self.totals.expired_peers += u64::from(expired);
        self.swarms.get_mut(handle).groups.retain(|group| !group.peers.is_empty());
        self.swarms.recharge(handle);
        !self.forget_if_empty(handle)
    }
}
