//! throng's swarm store, called as its tracker does.

use std::net::IpAddr;

use throng::rng::Rng;
use throng::swarm::{Arrival, Bounds, HashKey, Report, SwarmStore, Wish};
use throng::time::Seconds;
use throng::wire::addr::{Endpoint, Family, Scope};
use throng::wire::id::{InfoHash, PeerId, TransactionId};
use throng::wire::udp;

use super::{BATCH, NUM_WANT, PORT, Peer, Reply, Store, Swarm, hash};

const NOW: Seconds = Seconds(1_000);
const INTERVAL_SECS: u32 = 1_800;

/// The store; `batched`: whole batches are prepared for.
pub struct Throng {
    store: SwarmStore,
    batched: bool,
}

impl Throng {
    /// An empty one that never has to make room.
    pub fn new(batched: bool) -> Self {
        let bounds = Bounds {
            memory_bytes: 1 << 40,
            peers_per_swarm: 1 << 28,
            peer_ttl_secs: 3_000,
            keep_peer_ids: false,
        };
        Self {
            store: SwarmStore::new(bounds, HashKey(11, 22), Rng::new(33)).expect("address space"),
            batched,
        }
    }
}

impl Store for Throng {
    type Request = (TransactionId, Arrival);

    fn request(peer: Peer) -> Self::Request {
        let arrival = Arrival {
            info_hash: hash::info_hash(peer.swarm),
            endpoint: Endpoint::new(IpAddr::V4(peer.ip()), PORT),
            scope: Scope::PUBLIC,
            peer_id: PeerId([0; 20]),
            report: Report { seeder: peer.seeder, partial: false, completed: false },
        };
        (TransactionId(peer.number.to_be_bytes()), arrival)
    }

    fn answer(&mut self, batch: &[Self::Request], replies: &mut [Reply]) {
        if self.batched {
            let mut due = [(InfoHash([0; 20]), None); BATCH as usize];
            for (due, (_, arrival)) in due.iter_mut().zip(batch) {
                *due = (arrival.info_hash, Some(arrival.endpoint));
            }
            self.store.warm(&due[..batch.len()]);
        }
        for ((transaction, arrival), (bytes, len)) in batch.iter().zip(replies) {
            let announced = self.store.announce(NOW, arrival);
            let counts = announced.counts;
            let wish = Wish {
                asker: Some(announced.asker),
                seeder: arrival.report.seeder,
                scope: arrival.scope,
                family: Some(Family::V4),
                num_want: NUM_WANT,
            };
            let sample = self.store.sample(announced.swarm, &wish);
            let (leechers, seeders) = (counts.leechers, counts.seeders);
            *len = udp::write_announce_head(bytes, *transaction, INTERVAL_SECS, leechers, seeders);
            sample.each(|chunk| {
                let endpoints = chunk.endpoints();
                bytes[*len..][..endpoints.len()].copy_from_slice(endpoints);
                *len += endpoints.len();
            });
        }
    }

    /// It counts the asker, and gives a seeder leechers only.
    fn expected(peer: Peer, swarm: Swarm) -> (u32, (u32, u32)) {
        let others = match peer.seeder {
            true => swarm.leechers,
            false => swarm.leechers - 1 + swarm.seeders,
        };
        (others, (swarm.seeders, swarm.leechers))
    }

    fn check(&self, peers: u32) {
        let totals = self.store.totals();
        let held: u64 = totals.seeders.iter().chain(&totals.leechers).sum();
        assert_eq!(held, u64::from(peers));
        assert_eq!((totals.evicted_peers, totals.expired_peers), (0, 0));
    }
}
