//! A store of swarms of very different sizes, its announces and their replies.
//!
//! Popularity is skewed: a peer's swarm is floor(swarms * u^4) for an even u in 0..1.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use throng::rng::Rng;
use throng::swarm::{Arrival, Bounds, HashKey, Report, SwarmStore, Wish};
use throng::time::Seconds;
use throng::wire::addr::{Endpoint, Family, Scope};
use throng::wire::id::{InfoHash, PeerId};

use super::hash;

/// When everything happens.
pub const NOW: Seconds = Seconds(1_000);
/// Announces handled together, as the tracker does.
pub const BATCH: usize = 64;
/// Hashes of the longest scrape over UDP.
pub const SCRAPE: usize = 74;
/// Seconds that a peer stays.
pub const TTL: u32 = 3_000;
const NUM_WANT: u16 = 50;

/// So many swarms and peers of one family.
#[derive(Clone, Copy)]
pub struct Size {
    pub swarms: u32,
    pub peers: u32,
    pub family: Family,
}

/// An announce in little room, so that reading it costs little.
#[derive(Clone, Copy)]
pub struct Draw {
    pub info_hash: InfoHash,
    pub endpoint: Endpoint,
    pub seeder: bool,
}

/// The swarm of peer `number` among `swarms`, most often a low one.
pub fn swarm(number: u32, swarms: u32) -> u32 {
    let even = Rng::new(u64::from(number)).next_u64() >> 32;
    let square = (even * even) >> 32;
    let skewed = (square * square) >> 32;
    u32::try_from((u64::from(swarms) * skewed) >> 32).expect("below the swarms")
}

impl Size {
    /// The peer of that number: always the same one, in the same swarm. One in five is a seeder.
    pub fn draw(self, number: u32) -> Draw {
        let ip = match self.family {
            // 16.0.0.0/4 and 2400::/16: public addresses, a new one for each number.
            Family::V4 => IpAddr::V4(Ipv4Addr::from(0x1000_0000 | number)),
            Family::V6 => {
                IpAddr::V6(Ipv6Addr::from((0x2400_u128 << 112) | (u128::from(number) << 64) | 1))
            }
        };
        Draw {
            info_hash: hash::info_hash(swarm(number, self.swarms)),
            endpoint: Endpoint::new(ip, 6_881),
            seeder: number.is_multiple_of(5),
        }
    }

    /// An empty store.
    pub fn store(self) -> SwarmStore {
        let bounds = Bounds {
            memory_bytes: 8 << 30,
            peers_per_swarm: 1_000_000,
            peer_ttl_secs: TTL,
            keep_peer_ids: false,
        };
        SwarmStore::new(bounds, HashKey(11, u64::from(self.peers)), Rng::new(33))
            .expect("address space")
    }
}

impl Draw {
    /// What the store is told.
    pub fn arrival(&self) -> Arrival {
        Arrival {
            info_hash: self.info_hash,
            endpoint: self.endpoint,
            scope: Scope::PUBLIC,
            peer_id: PeerId([0; 20]),
            report: Report { seeder: self.seeder, partial: false, completed: false },
        }
    }
}

/// Prefetches for the announces of a batch.
pub fn warm(store: &mut SwarmStore, draws: &[Draw]) {
    let mut due = [(InfoHash([0; 20]), None); BATCH];
    for (due, draw) in due.iter_mut().zip(draws) {
        *due = (draw.info_hash, Some(draw.endpoint));
    }
    store.warm(&due[..draws.len()]);
}

/// Announces, and writes the reply as the tracker does. Returns its length.
pub fn answer(store: &mut SwarmStore, draw: &Draw, out: &mut [u8; 1_232]) -> usize {
    let done = store.announce(NOW, &draw.arrival());
    let counts = done.counts;
    out[..4].copy_from_slice(&counts.seeders.to_be_bytes());
    out[4..8].copy_from_slice(&counts.leechers.to_be_bytes());
    let wish = Wish {
        asker: Some(done.asker),
        seeder: draw.seeder,
        scope: Scope::PUBLIC,
        family: Some(draw.endpoint.family()),
        num_want: NUM_WANT,
    };
    let mut len = 20;
    store.sample(done.swarm, &wish).each(|chunk| {
        let end = len + chunk.endpoints().len();
        out[len..end].copy_from_slice(chunk.endpoints());
        len = end;
    });
    len
}

/// Prefetches and counts the swarms of one scrape. Returns how many seeders they have.
///
/// # Panics
/// If one of the swarms has no peers.
pub fn scrape(store: &mut SwarmStore, draws: &[Draw]) -> u32 {
    let mut due = [(InfoHash([0; 20]), None); SCRAPE];
    for (due, draw) in due.iter_mut().zip(draws) {
        due.0 = draw.info_hash;
    }
    store.warm(&due[..draws.len()]);
    let counts = draws.iter().map(|draw| {
        let swarm = store.find(NOW, &draw.info_hash).expect("it has peers");
        black_box(store.counts(swarm)).seeders
    });
    counts.sum()
}
