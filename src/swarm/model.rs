//! The naive store, and the check that compares it with the real one, operation by operation.
//!
//! The model is a map of maps and a sequence number. It does everything at once and the slow way,
//! so that one can see that it is right. It does not know about the memory budget, which has tests
//! of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::slab::Slab;
use super::{Arrival, Bounds, Counts, HashKey, Report, SwarmStore, Wish};
use crate::rng::Rng;
use crate::time::Seconds;
use crate::wire::addr::{Endpoint, Family, Scope};
use crate::wire::id::{InfoHash, PeerId};

const TTL: u32 = 100;

#[derive(Clone, Debug)]
struct Peer {
    stamp: Seconds,
    report: Report,
    counted: bool,
    scope: Scope,
    id: PeerId,
}

#[derive(Clone, Debug, Default)]
struct Swarm {
    /// When the last peer stopped, if nobody is there.
    left: Seconds,
    completed: u32,
    peers: BTreeMap<Endpoint, Peer>,
}

#[derive(Debug, Default)]
struct Model {
    swarms: BTreeMap<InfoHash, Swarm>,
    /// When it was last looked who is due.
    expired: Seconds,
}

impl Model {
    /// Everything that is due leaves, everywhere. A swarm whose last peer expires goes; one whose
    /// last peer stops stays for as long as a peer would, if it has downloads to tell about.
    fn expire(&mut self, now: Seconds) {
        if now == self.expired {
            return;
        }
        self.expired = now;
        self.swarms.retain(|_, swarm| {
            if swarm.peers.is_empty() {
                return now.since(swarm.left) <= TTL;
            }
            swarm.peers.retain(|_, peer| now.since(peer.stamp) <= TTL);
            !swarm.peers.is_empty()
        });
    }

    /// Returns (joined, completed). `evicted` had to make room, which is checked.
    fn announce(
        &mut self,
        now: Seconds,
        arrival: &Arrival,
        peers_per_swarm: usize,
        evicted: &[Endpoint],
    ) -> (bool, bool) {
        let swarm = self.swarms.entry(arrival.info_hash).or_default();
        let before = swarm.peers.get(&arrival.endpoint).cloned();
        let full = before.is_none() && swarm.peers.len() >= peers_per_swarm;
        assert_eq!(evicted.len(), usize::from(full));
        for endpoint in evicted {
            let oldest = swarm.peers.values().map(|peer| peer.stamp).min();
            let gone = swarm.peers.remove(endpoint).expect("it was there");
            assert_eq!(Some(gone.stamp), oldest, "the longest ago goes first");
        }
        let report = arrival.report;
        let completed = before.as_ref().is_some_and(|peer| {
            !peer.report.seeder && !peer.counted && (report.seeder || report.completed)
        });
        let peer = Peer {
            stamp: now,
            report,
            counted: completed || before.as_ref().is_some_and(|peer| peer.counted),
            scope: arrival.scope,
            id: arrival.peer_id,
        };
        swarm.peers.insert(arrival.endpoint, peer);
        swarm.completed += u32::from(completed);
        (before.is_none(), completed)
    }

    fn stop(&mut self, now: Seconds, arrival: &Arrival) -> bool {
        let Some(swarm) = self.swarms.get_mut(&arrival.info_hash) else { return false };
        let removed = swarm.peers.remove(&arrival.endpoint).is_some();
        if removed && swarm.peers.is_empty() {
            swarm.left = now;
            if swarm.completed == 0 {
                self.swarms.remove(&arrival.info_hash);
            }
        }
        removed
    }

    fn counts(&self, info_hash: &InfoHash) -> Option<Counts> {
        let swarm = self.swarms.get(info_hash)?;
        let mut counts = Counts { completed: swarm.completed, ..Counts::default() };
        for peer in swarm.peers.values() {
            counts.seeders += u32::from(peer.report.seeder);
            counts.leechers += u32::from(!peer.report.seeder);
            counts.partial += u32::from(!peer.report.seeder && peer.report.partial);
        }
        Some(counts)
    }

    fn candidates(
        &self,
        info_hash: &InfoHash,
        asker: Option<&Endpoint>,
        wish: &Wish,
    ) -> BTreeSet<(Endpoint, PeerId)> {
        let Some(swarm) = self.swarms.get(info_hash) else { return BTreeSet::new() };
        swarm
            .peers
            .iter()
            .filter(|&(endpoint, _)| Some(endpoint) != asker)
            .filter(|(_, peer)| !(wish.seeder && peer.report.seeder))
            .filter(|(_, peer)| peer.scope == Scope::PUBLIC || peer.scope == wish.scope)
            .filter(|(endpoint, _)| wish.family.is_none_or(|family| family == endpoint.family()))
            .map(|(&endpoint, peer)| (endpoint, peer.id))
            .collect()
    }
}

/// A world in which scripts play.
#[derive(Clone, Copy, Debug)]
struct World {
    swarms: u32,
    peers: u32,
    peers_per_swarm: u32,
    memory_bytes: usize,
    /// Pieces of 2 MiB that the kernel has.
    pieces: usize,
    /// All peers of one scope, so that every peer sees every other.
    one_scope: bool,
    /// Announces and stops come in bursts of so many peers.
    burst: u32,
    /// Steps between two comparisons.
    compare_every: usize,
}

/// More pieces than any world needs.
const PLENTY: usize = 64;

/// More swarms than there is memory for.
const MANY: World = World {
    swarms: 60_000,
    peers: 32,
    peers_per_swarm: 10_000,
    memory_bytes: 3 << 20,
    pieces: PLENTY,
    one_scope: false,
    burst: 500,
    compare_every: 16,
};

/// Swarms of all families and scopes, small and large, more than there is memory for.
const ALL_SIZES: World = World { swarms: 256, peers: 800, memory_bytes: 4 << 20, ..MANY };

const WORLDS: [World; 7] = [
    // Several swarms of all families and scopes.
    World {
        swarms: 4,
        peers: 256,
        peers_per_swarm: 10_000,
        memory_bytes: 64 << 20,
        pieces: PLENTY,
        one_scope: false,
        burst: 1,
        compare_every: 1,
    },
    // One crowded swarm, its peers in its own block.
    World {
        swarms: 1,
        peers: 256,
        peers_per_swarm: 100,
        memory_bytes: 64 << 20,
        pieces: PLENTY,
        one_scope: true,
        burst: 1,
        compare_every: 1,
    },
    // Two swarms that become large, and small again, of several runs.
    World {
        swarms: 2,
        peers: 4_096,
        peers_per_swarm: 2_500,
        memory_bytes: 64 << 20,
        pieces: PLENTY,
        one_scope: true,
        burst: 150,
        compare_every: 16,
    },
    MANY,
    ALL_SIZES,
    // The same two where the kernel has less memory than they may use.
    World { memory_bytes: 64 << 20, pieces: 1, ..MANY },
    World { memory_bytes: 64 << 20, pieces: 1, ..ALL_SIZES },
];

impl World {
    /// The announce of a number: always the same peer of the same swarm.
    fn arrival(self, swarm: u32, peer: u32, flags: u8) -> Arrival {
        let (swarm, peer) = (swarm % self.swarms, peer % self.peers);
        let [.., high, low] = peer.to_be_bytes();
        let kind = if self.one_scope { 1 } else { peer % 4 };
        let ip: IpAddr = match kind {
            0 => Ipv4Addr::new(1, 2, high, low).into(),
            1 if self.one_scope && swarm % 2 == 0 => Ipv4Addr::new(4, 3, high, low).into(),
            1 => Ipv6Addr::from(0x2606_u128 << 112 | u128::from(peer)).into(),
            2 => Ipv4Addr::new(10, 0, high, low).into(),
            _ => Ipv4Addr::new(4, 3, high, low).into(),
        };
        let mut info_hash = [7; 20];
        info_hash[..4].copy_from_slice(&swarm.to_be_bytes());
        Arrival {
            info_hash: InfoHash(info_hash),
            endpoint: Endpoint::new(ip, 1_000),
            scope: Scope::of(ip),
            peer_id: PeerId([flags; 20]),
            report: Report {
                seeder: flags & 1 != 0,
                partial: flags & 2 != 0,
                completed: flags & 4 != 0,
            },
        }
    }
}

/// Operations of a burst that are prepared for together; more than one part of a batch.
const HINTED: u32 = 96;

/// Replays `bytes` as operations on the store and on the model; panics at the first difference.
///
/// The first byte chooses a world.
///
/// # Panics
/// If the two differ, or an invariant of the store does not hold.
pub fn check(bytes: &[u8]) {
    let Some((world, bytes)) = bytes.split_first() else { return };
    let world = WORLDS[usize::from(*world) % WORLDS.len()];
    let bounds = Bounds {
        memory_bytes: world.memory_bytes,
        peers_per_swarm: world.peers_per_swarm,
        peer_ttl_secs: TTL,
        keep_peer_ids: true,
    };
    let mut both = Both {
        world,
        store: SwarmStore::new(bounds, HashKey(1, 2), Rng::new(3)).expect("address space"),
        model: Model::default(),
        now: Seconds(0),
    };
    if world.pieces < PLENTY {
        both.store.swarms.lists.slab = Slab::of_pieces(world.pieces);
    }
    for (step, op) in bytes.chunks_exact(4).enumerate() {
        let &[kind, hash, peer, flags] = op else { unreachable!("chunks of four") };
        let number = u32::from(u16::from_be_bytes([hash, peer]));
        let compares = step.is_multiple_of(world.compare_every);
        both.step(kind, number, flags, compares);
        if step % 16 == 0 && (compares || step % 64 == 0) {
            both.store.check_invariants();
        }
    }
    both.store.check_invariants();
    // Long after the last announce nothing is left, whether time passes slowly or at a leap.
    for _ in 0..5 {
        both.now = both.now.plus(TTL / 2);
        while both.store.sweep(both.now) {}
        both.store.check_invariants();
    }
    let totals = both.store.totals();
    assert_eq!((totals.swarms, totals.bytes), (0, 0));
    assert_eq!((totals.seeders, totals.leechers), ([0; 2], [0; 2]));
}

/// The store and the model side by side.
struct Both {
    world: World,
    store: SwarmStore,
    model: Model,
    now: Seconds,
}

impl Both {
    fn step(&mut self, kind: u8, number: u32, flags: u8, compares: bool) {
        let World { burst, .. } = self.world;
        let mut last = (self.world.arrival(number >> 8, number, flags), None);
        match kind % 16 {
            0 => self.now = self.now.plus(number & 0x3F),
            1 => {
                self.store.sweep(self.now);
            }
            2 | 3 => {
                for n in number..number + burst {
                    let arrival = self.world.arrival(n >> 8, n, flags);
                    if (n - number).is_multiple_of(HINTED) {
                        self.warm(kind, (number, n), flags);
                    }
                    self.model.expire(self.now);
                    let stopped = self.store.stop(self.now, &arrival);
                    assert_eq!(stopped, self.model.stop(self.now, &arrival));
                }
            }
            // A scrape: looked at below.
            4 => {}
            _ => {
                for n in number..number + burst {
                    let arrival = self.joining((number, n), flags);
                    if (n - number).is_multiple_of(HINTED) {
                        self.warm(kind, (number, n), flags);
                    }
                    last = (arrival, Some(self.announce(&arrival)));
                }
            }
        }
        self.model.expire(self.now);
        if compares {
            let asker = last.1.map(|asker| (asker, last.0.endpoint));
            compare(&mut self.store, &self.model, self.now, &last.0, asker, flags);
        }
    }

    /// The announce `n` of a burst that began at `number`.
    ///
    /// Bursts cross the swarms: the next peer of the next swarm, or of the same.
    fn joining(&self, (number, n): (u32, u32), flags: u8) -> Arrival {
        let swarm = if self.world.swarms > 1_000 { n } else { number >> 8 };
        self.world.arrival(swarm, n, flags)
    }

    /// Prepares for what comes, as chance has it: for everything, for some of it, for it in
    /// another order, for something else, or not at all.
    fn warm(&mut self, kind: u8, (number, n): (u32, u32), flags: u8) {
        let order: fn(u32) -> u32 = match (number / 3 + n / HINTED) % 8 {
            0 | 1 => |at| at,
            2 => |at| at ^ 1,
            3 => |at| at + at / 3,
            4 => |at| at / 2,
            5 => |at| at + HINTED,
            _ => return,
        };
        let due: Vec<_> = (0..HINTED)
            .map(|at| self.joining((number, n + order(at)), flags))
            .map(|due| (due.info_hash, (kind & 1 == 0).then_some(due.endpoint)))
            .collect();
        self.store.warm(&due);
    }

    fn announce(&mut self, arrival: &Arrival) -> super::Asker {
        self.model.expire(self.now);
        let swarms_before = self.store.totals().evicted_swarms;
        let peers_before = self.store.totals().evicted_peers;
        let announced = self.store.announce(self.now, arrival);
        let totals = self.store.totals();
        // Whom memory pressure takes only the store knows; how many it says.
        if totals.evicted_swarms > swarms_before {
            let (store, now) = (&mut self.store, self.now);
            let (mut swarms, mut peers) = (0, 0);
            let counts = store.counts(announced.swarm);
            let is_alone = counts.seeders + counts.leechers == 1;
            self.model.swarms.retain(|info_hash, swarm| {
                // The swarm of this announce may have gone and come again.
                let renewed = *info_hash == arrival.info_hash
                    && announced.joined
                    && is_alone
                    && (!swarm.peers.is_empty() || swarm.completed > counts.completed);
                let stays = store.find(now, info_hash).is_some() && !renewed;
                swarms += u64::from(!stays);
                peers += if stays { 0 } else { swarm.peers.len() as u64 };
                stays
            });
            assert_eq!(totals.evicted_swarms - swarms_before, swarms);
            assert_eq!(totals.evicted_peers - peers_before, peers);
        }
        let evicted =
            if self.world.one_scope { self.missing(announced.swarm, arrival) } else { vec![] };
        let limit = self.world.peers_per_swarm as usize;
        let expected = self.model.announce(self.now, arrival, limit, &evicted);
        assert_eq!((announced.joined, announced.completed), expected);
        announced.asker
    }

    /// Whom the store has no more though the model does, in a full swarm.
    fn missing(&mut self, swarm: super::SwarmHandle, arrival: &Arrival) -> Vec<Endpoint> {
        let Some(known) = self.model.swarms.get(&arrival.info_hash) else { return Vec::new() };
        if known.peers.len() < self.world.peers_per_swarm as usize {
            return Vec::new();
        }
        let wish = Wish {
            asker: None,
            seeder: false,
            scope: arrival.scope,
            family: None,
            num_want: u16::MAX,
        };
        let there: BTreeSet<Endpoint> =
            sampled(&mut self.store, swarm, &wish).into_iter().map(|(peer, _)| peer).collect();
        known.peers.keys().filter(|peer| !there.contains(peer)).copied().collect()
    }
}

/// Counts and candidates of one swarm are the same in both.
fn compare(
    store: &mut SwarmStore,
    model: &Model,
    now: Seconds,
    arrival: &Arrival,
    asker: Option<(super::Asker, Endpoint)>,
    flags: u8,
) {
    let handle = store.find(now, &arrival.info_hash);
    let counts = handle.map(|handle| store.counts(handle));
    assert_eq!(counts, model.counts(&arrival.info_hash));
    let Some(handle) = handle else { return };
    let mut wish = Wish {
        asker: asker.map(|(asker, _)| asker),
        seeder: arrival.report.seeder,
        scope: arrival.scope,
        family: [None, Some(Family::V4), Some(Family::V6)][usize::from(flags >> 3) % 3],
        num_want: u16::MAX,
    };
    let endpoint = asker.map(|(_, endpoint)| endpoint);
    let candidates = model.candidates(&arrival.info_hash, endpoint.as_ref(), &wish);
    let all = sampled(store, handle, &wish);
    assert_eq!(all.len(), candidates.len(), "somebody was chosen twice, or not at all");
    assert_eq!(all.into_iter().collect::<BTreeSet<_>>(), candidates);
    wish.num_want = u16::from(flags) % 64;
    let some = sampled(store, handle, &wish);
    assert_eq!(some.len(), candidates.len().min(usize::from(wish.num_want)));
    let distinct: BTreeSet<_> = some.iter().copied().collect();
    assert_eq!(distinct.len(), some.len());
    assert!(distinct.is_subset(&candidates));
}

fn sampled(
    store: &mut SwarmStore,
    handle: super::SwarmHandle,
    wish: &Wish,
) -> Vec<(Endpoint, PeerId)> {
    let sample = store.sample(handle, wish);
    let mut peers = Vec::new();
    sample.each(|chunk| {
        let endpoints = chunk.endpoints().chunks_exact(chunk.family().endpoint_bytes());
        assert_eq!(endpoints.len(), chunk.ids().len());
        for (endpoint, id) in endpoints.zip(chunk.ids()) {
            peers.push((Endpoint::from_compact(endpoint).expect("6 or 18 bytes"), *id));
        }
    });
    peers
}
