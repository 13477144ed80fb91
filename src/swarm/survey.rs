//! What swarms there are by size, and the largest: found by the sweeps on their way.
//!
//! A sweep goes over all swarms some times in a peer's life, so what is known is as old as a round
//! of it at the most. Nothing stops for it, and nothing is kept for a swarm that is not among the
//! largest.

use super::web::WebStore;
use super::{Counts, SwarmHandle, SwarmStore};
use crate::time::Seconds;
use crate::wire::addr::Endpoint;
use crate::wire::id::{InfoHash, PeerId};

/// How many of the largest are known.
pub const LARGEST: usize = 32;
/// Classes of sizes: class `k` has the swarms of `2^k` peers up to the next class, the last one all
/// that are larger.
pub const SIZES: usize = 20;

/// What one round of a sweep saw. A swarm that moves meanwhile may be seen twice, or not.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Round {
    sizes: [u64; SIZES],
    /// Peers and name, the smallest first.
    largest: Vec<(u32, InfoHash)>,
}

/// What the present round of a sweep has seen so far, and the whole one before it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Survey {
    now: Round,
    before: Option<Round>,
}

impl Survey {
    /// The sweep has come to a swarm.
    #[inline]
    pub(super) fn saw(&mut self, peers: u32, info_hash: impl FnOnce() -> InfoHash) {
        let Some(class) = peers.checked_ilog2() else { return };
        self.now.sizes[(class as usize).min(SIZES - 1)] += 1;
        let largest = &mut self.now.largest;
        if largest.len() < LARGEST || peers > largest[0].0 {
            self.now.admit(peers, info_hash());
        }
    }

    /// The sweep has seen all, and begins anew.
    pub(super) fn finish_round(&mut self) {
        self.before = Some(std::mem::take(&mut self.now));
    }

    /// Swarms by size: of the last whole round, or of the first one as far as it has come.
    #[must_use]
    pub fn sizes(&self) -> [u64; SIZES] {
        self.before.as_ref().unwrap_or(&self.now).sizes
    }

    /// Names among which the [`LARGEST`] are, each once.
    #[must_use]
    pub fn largest(&self) -> Vec<InfoHash> {
        let rounds = [Some(&self.now), self.before.as_ref()];
        let all = rounds.into_iter().flatten().flat_map(|round| &round.largest);
        let mut names: Vec<InfoHash> = all.map(|&(_, info_hash)| info_hash).collect();
        names.sort_unstable();
        names.dedup();
        names
    }
}

impl Round {
    #[inline(never)]
    fn admit(&mut self, peers: u32, info_hash: InfoHash) {
        if let Some(known) = self.largest.iter().position(|known| known.1 == info_hash) {
            self.largest.remove(known);
        } else if self.largest.len() == LARGEST {
            self.largest.remove(0);
        }
        let place = self.largest.partition_point(|known| known.0 < peers);
        self.largest.insert(place, (peers, info_hash));
    }
}

impl SwarmStore {
    /// What the sweep has found.
    #[must_use]
    pub const fn survey(&self) -> &Survey {
        &self.survey
    }

    /// Who is in a swarm, the expired among them; none if there is no such swarm.
    #[must_use]
    pub fn look_up(&self, info_hash: &InfoHash) -> Option<Counts> {
        self.swarms.find(info_hash).map(|swarm| self.counts(SwarmHandle(swarm)))
    }
}

/// A peer that was looked up.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FoundPeer {
    /// Where it can be reached; none, if only by WebSocket.
    pub endpoint: Option<Endpoint>,
    /// Its name for itself, if it is kept.
    pub peer_id: Option<PeerId>,
    /// It needs nothing more.
    pub seeder: bool,
    /// Seconds since it announced itself last.
    pub seconds: u32,
}

impl SwarmStore {
    /// The peers of a swarm, the expired among them: `most` of them, without the first `from`.
    #[must_use]
    pub fn peers(
        &self,
        now: Seconds,
        info_hash: &InfoHash,
        from: u32,
        most: u32,
    ) -> Vec<FoundPeer> {
        let mut found = Vec::new();
        let Some(swarm) = self.swarms.find(info_hash) else { return found };
        let (lists, now) = (&self.swarms.lists, self.clock.stamp(now.max(self.seen)));
        let (mut skip, most) = (from, most as usize);
        for list in self.swarms.lists_of(swarm) {
            let census = lists.census(list);
            let column = lists.endpoints(list);
            let bytes = column.family().endpoint_bytes();
            let mut position = skip.min(census.len);
            skip -= position;
            while position < census.len && found.len() < most {
                let (endpoints, _) = column.stretch(position, position + 1);
                let peer_id = lists.ids(list, position, position + 1).first().copied();
                found.push(FoundPeer {
                    endpoint: endpoints.get(..bytes).and_then(Endpoint::from_compact),
                    peer_id,
                    seeder: position < census.seeders,
                    seconds: self.clock.age_secs(now, lists.stamp(list, position)),
                });
                position += 1;
            }
        }
        found
    }
}

impl WebStore {
    /// What the sweep has found.
    #[must_use]
    pub const fn survey(&self) -> &Survey {
        &self.survey
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    fn name(number: u32) -> InfoHash {
        let mut name = [0; 20];
        name[..4].copy_from_slice(&number.to_be_bytes());
        InfoHash(name)
    }

    #[test]
    fn the_largest_are_found_in_any_order() {
        let mut rng = Rng::new(7);
        let mut sizes: Vec<u32> = (1..=500).collect();
        for at in (1..sizes.len()).rev() {
            sizes.swap(at, rng.below(u32::try_from(at + 1).expect("few")) as usize);
        }
        let mut survey = Survey::default();
        for &size in &sizes {
            survey.saw(size, || name(size));
            // Once more, as if it had moved.
            survey.saw(size, || name(size));
        }
        let expected: Vec<InfoHash> = (469..=500).map(name).collect();
        assert_eq!(survey.largest(), expected);
        survey.finish_round();
        assert_eq!(survey.largest(), expected);
        survey.saw(3, || name(3));
        assert_eq!(survey.largest().len(), LARGEST + 1);
        survey.finish_round();
        assert_eq!(survey.largest(), [name(3)]);
    }

    #[test]
    fn sizes_are_counted_by_doublings_and_empty_swarms_are_not() {
        let mut survey = Survey::default();
        for peers in [0, 1, 1, 2, 3, 4, 7, 8, 1_000_000, u32::MAX] {
            survey.saw(peers, || name(peers));
        }
        let mut expected = [0; SIZES];
        (expected[0], expected[1], expected[2], expected[3], expected[19]) = (2, 2, 2, 1, 2);
        assert_eq!(survey.sizes(), expected);
        survey.finish_round();
        survey.saw(1, || name(1));
        assert_eq!(survey.sizes(), expected, "a round that is not over says less than one that is");
    }

    #[test]
    #[cfg_attr(miri, ignore = "too many steps for an interpreter")]
    fn the_sweep_counts_every_swarm_once_whatever_else_it_finds_to_do() {
        use std::net::Ipv4Addr;

        use crate::swarm::{Arrival, Bounds, HashKey, PeerId, Report, SwarmStore};
        use crate::time::Seconds;
        use crate::wire::addr::{Endpoint, Scope};

        let bounds = Bounds {
            memory_bytes: 64 << 20,
            peers_per_swarm: 1_000,
            peer_ttl_secs: 1_000,
            keep_peer_ids: false,
        };
        let mut store = SwarmStore::new(bounds, HashKey(3, 4), Rng::new(5)).expect("address space");
        let announce = |store: &mut SwarmStore, at: u32, swarm: u32, peer: u32| {
            store.announce(
                Seconds(at),
                &Arrival {
                    info_hash: name(swarm),
                    endpoint: Endpoint::new(Ipv4Addr::from(0x0100_0000 + peer).into(), 6_881),
                    scope: Scope::PUBLIC,
                    peer_id: PeerId([0; 20]),
                    report: Report { seeder: false, partial: false, completed: false },
                },
            );
        };
        // Every tenth goes early; the others have one peer, or one more for each of a hundred.
        let (old, young) = (3_000, 27_000);
        for swarm in 0..old {
            announce(&mut store, 100, swarm * 10, 1);
        }
        for swarm in (0..old + young).filter(|swarm| swarm % 10 != 0) {
            let peers = if swarm < 1_000 { 2 + swarm / 100 } else { 1 };
            (0..peers).for_each(|peer| announce(&mut store, 900, swarm, peer));
        }
        let mut all_seen = 0;
        for second in 900..1_900 {
            while store.sweep(Seconds(second)) {}
            let seen: u64 = store.survey().sizes().iter().sum();
            all_seen = if second < 1_100 { 0 } else { seen.max(all_seen) };
        }
        assert_eq!(store.totals().swarms, u64::from(young));
        let seen: u64 = store.survey().sizes().iter().sum();
        assert_eq!(seen, u64::from(young), "what is left");
        assert_eq!(all_seen, u64::from(old + young), "each once");
        assert_eq!(store.survey().sizes()[..4], [26_100, 180, 360, 360]);
        let largest = store.survey().largest();
        assert!(largest.iter().filter(|hash| hash.0[2] == 3 && hash.0[3] > 0x84).count() >= 30);
    }

    #[test]
    fn a_swarm_is_as_large_as_all_of_its_lists() {
        use crate::swarm::Arrival;
        use crate::swarm::tests::{LEECHER, arrival, store};

        let mut store = store(1 << 20, 1_000);
        for peer in 0..14 {
            let who = arrival(0, peer, LEECHER);
            let ip = std::net::Ipv6Addr::new(0x2600, 1, 0, 0, 0, 0, 0, 1).into();
            let v6 = Endpoint::new(ip, 1 + u16::try_from(peer).expect("few"));
            let endpoint = if peer < 10 { who.endpoint } else { v6 };
            store.announce(Seconds(0), &Arrival { endpoint, ..who });
        }
        // Twice around.
        for second in 1..=750 {
            store.sweep(Seconds(second));
        }
        let mut expected = [0; SIZES];
        expected[3] = 1;
        assert_eq!(store.survey().sizes(), expected);
    }
}
