//! The naive store, and the check that compares it with the real one, operation by operation.
//!
//! The model is a map of maps and a sequence number. It does everything at once and the slow way,
//! so that one can see that it is right. It does not know about the memory budget, which has tests
//! of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Arrival, Bounds, Counts, HashKey, Report, SwarmStore, Wish};
use crate::rng::Rng;
use crate::time::Seconds;
use crate::wire::addr::{Endpoint, Family, Scope};
use crate::wire::id::{InfoHash, PeerId};

const TTL: u32 = 100;
/// Above the size from which a list has an index, below the 128 endpoints of one group.
const PEERS_PER_SWARM: u32 = 100;

#[derive(Clone, Debug)]
struct Peer {
    stamp: Seconds,
    sequence: u64,
    report: Report,
    counted: bool,
    scope: Scope,
    id: PeerId,
}

#[derive(Clone, Debug, Default)]
struct Swarm {
    touched: Seconds,
    completed: u32,
    peers: BTreeMap<Endpoint, Peer>,
}

#[derive(Debug, Default)]
struct Model {
    swarms: BTreeMap<InfoHash, Swarm>,
    sequence: u64,
    peers_per_swarm: u32,
}

impl Model {
    /// Everything that is due leaves, everywhere.
    fn expire(&mut self, now: Seconds) {
        self.swarms.retain(|_, swarm| {
            swarm.peers.retain(|_, peer| now.since(peer.stamp) <= TTL);
            let idle = now.since(swarm.touched) > TTL;
            !idle && (swarm.completed > 0 || !swarm.peers.is_empty())
        });
    }

    /// Returns (joined, completed).
    fn announce(&mut self, now: Seconds, arrival: &Arrival) -> (bool, bool) {
        self.sequence += 1;
        let swarm = self.swarms.entry(arrival.info_hash).or_default();
        let before = swarm.peers.get(&arrival.endpoint).cloned();
        if before.is_none() && swarm.peers.len() >= self.peers_per_swarm as usize {
            let oldest = swarm.peers.iter().min_by_key(|(_, peer)| peer.sequence);
            let oldest = *oldest.expect("the swarm is full").0;
            swarm.peers.remove(&oldest);
        }
        let report = arrival.report;
        let completed = before.as_ref().is_some_and(|peer| {
            !peer.report.seeder && !peer.counted && (report.seeder || report.completed)
        });
        let peer = Peer {
            stamp: now,
            sequence: self.sequence,
            report,
            counted: completed || before.as_ref().is_some_and(|peer| peer.counted),
            scope: arrival.scope,
            id: arrival.peer_id,
        };
        swarm.peers.insert(arrival.endpoint, peer);
        swarm.completed += u32::from(completed);
        swarm.touched = now;
        (before.is_none(), completed)
    }

    fn stop(&mut self, arrival: &Arrival) -> bool {
        let Some(swarm) = self.swarms.get_mut(&arrival.info_hash) else { return false };
        let removed = swarm.peers.remove(&arrival.endpoint).is_some();
        if swarm.peers.is_empty() && swarm.completed == 0 {
            self.swarms.remove(&arrival.info_hash);
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

/// One announce decoded from bytes: few hashes, more peers than a swarm may hold, four scopes.
fn arrival(hash: u8, peer: u8, flags: u8) -> Arrival {
    let ip: IpAddr = match peer % 4 {
        0 => Ipv4Addr::new(1, 2, 3, peer).into(),
        1 => Ipv6Addr::new(0x2606, 0, 0, 0, 0, 0, 0, u16::from(peer)).into(),
        2 => Ipv4Addr::new(10, 0, 0, peer).into(),
        _ => Ipv4Addr::new(4, 3, 2, peer).into(),
    };
    Arrival {
        info_hash: InfoHash([hash % 4; 20]),
        endpoint: Endpoint::new(ip, 1_000 + u16::from(flags >> 7)),
        scope: Scope::of(ip),
        peer_id: PeerId([flags; 20]),
        report: Report {
            seeder: flags & 1 != 0,
            partial: flags & 2 != 0,
            completed: flags & 4 != 0,
        },
    }
}

/// Replays `bytes` as operations on the store and on the model; panics at the first difference.
///
/// The first byte chooses a world: several swarms of all scopes and no bound; or one crowded swarm
/// of one scope, where every peer of a second has its place in the order of eviction. (Among peers
/// of different scopes that announced in the same second, the store may evict any.)
///
/// # Panics
/// If the two differ, or an invariant of the store does not hold.
pub fn check(bytes: &[u8]) {
    let Some((world, bytes)) = bytes.split_first() else { return };
    let crowded = world & 1 == 1;
    let bounds = Bounds {
        memory_bytes: 64 << 20,
        peers_per_swarm: if crowded { PEERS_PER_SWARM } else { 10_000 },
        peer_ttl_secs: TTL,
        keep_peer_ids: true,
    };
    let mut store = SwarmStore::new(bounds, HashKey(1, 2), Rng::new(3));
    let mut model = Model { peers_per_swarm: bounds.peers_per_swarm, ..Model::default() };
    let mut now = Seconds(0);
    for (step, op) in bytes.chunks_exact(4).enumerate() {
        let &[kind, hash, peer, flags] = op else { unreachable!("chunks of four") };
        let arrival =
            if crowded { arrival(0, peer | 3, flags) } else { arrival(hash, peer, flags) };
        let mut asker = None;
        match kind % 16 {
            0 => now = now.plus(u32::from(peer) / 2),
            1 => {
                store.sweep(now);
            }
            2 | 3 => {
                model.expire(now);
                assert_eq!(store.stop(now, &arrival), model.stop(&arrival));
            }
            4 => {
                // A scrape: looked at below.
            }
            _ => {
                model.expire(now);
                let announced = store.announce(now, &arrival);
                asker = Some((announced.asker, arrival.endpoint));
                let expected = model.announce(now, &arrival);
                assert_eq!((announced.joined, announced.completed), expected);
            }
        }
        model.expire(now);
        compare(&mut store, &model, now, &arrival, asker, flags);
        if step % 16 == 0 {
            store.check_invariants();
        }
    }
    store.check_invariants();
    // Long after the last announce nothing is left.
    now = now.plus(TTL + 1);
    while store.sweep(now) {}
    let totals = store.totals();
    assert_eq!((totals.swarms, totals.bytes), (0, 0));
    assert_eq!((totals.seeders, totals.leechers), ([0; 2], [0; 2]));
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
    for chunk in sample.chunks() {
        let endpoints = chunk.endpoints().chunks_exact(chunk.family().endpoint_bytes());
        assert_eq!(endpoints.len(), chunk.ids().len());
        for (endpoint, id) in endpoints.zip(chunk.ids()) {
            peers.push((Endpoint::from_compact(endpoint).expect("6 or 18 bytes"), *id));
        }
    }
    peers
}
