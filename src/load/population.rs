//! The invented peers: who is in which swarm, as what, and at which endpoint.
//!
//! Invariant: everything about a peer is a function of its number and of the [`Population`], so a
//! peer is the same in every announce, in every run, and takes no memory. While
//! [`Population::check`] holds no two peers of one swarm have the same endpoint.

use crate::rng::Rng;
use crate::wire::announce::{Announce, Event, Left, NumWant};
use crate::wire::id::{InfoHash, PeerId};

/// The first port that a peer says it listens on: above all well-known services, which trackers
/// answer and do not store.
const PORT_FIRST: u16 = 28_672;
/// Ports of one source address.
const PORTS: u32 = 32_768;
const _: () = assert!(PORT_FIRST as u32 + PORTS <= 1 << 16);

/// A constant of each use, so that the choices of one do not follow those of another.
const SALT_SWARM: u64 = 0x5357_4152_4D00_0000;
const SALT_PEER: u64 = 0x5045_4552_0000_0000;

/// How many peers there are, and how they spread over swarms and sockets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Population {
    /// Other seeds are other swarms and other peers.
    pub seed: u64,
    /// Swarms; at least 1.
    pub swarms: u32,
    /// Peers of all swarms together; at least `sources`.
    pub peers: u32,
    /// 0 or 1: all swarms are alike; larger: the first ones have more of the peers.
    pub skew: f64,
    /// Share of the peers that are seeders, 0 to 1.
    pub seeders: f64,
    /// Sockets (UDP) or addresses (HTTP, WebSocket) that peers announce from.
    pub sources: u32,
    /// Different addresses among these: all of them, or 1.
    pub addresses: u32,
}

/// The largest swarm has more peers than there are endpoints.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "the largest swarm would have {peers} peers, but {addresses} source addresses of {PORTS} ports \
     each make only {} endpoints: fewer --peers, a lower --skew, more --swarms or more --sources",
    u64::from(*addresses) * u64::from(PORTS)
)]
pub struct Crowded {
    /// Peers of the largest swarm.
    pub peers: u32,
    /// Source addresses.
    pub addresses: u32,
}

/// One peer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Peer {
    /// Its number, below the population's `peers`.
    pub number: u32,
    /// The swarm that it is in.
    pub swarm: u32,
    /// The port that it says it listens on.
    pub port: u16,
    /// Whether it has everything.
    pub seeder: bool,
}

impl Population {
    /// Whether every peer can have an endpoint of its own in its swarm.
    ///
    /// # Errors
    /// If the largest swarm is too large for that.
    pub fn check(&self) -> Result<(), Crowded> {
        let peers = self.largest_swarm();
        if u64::from(peers) > u64::from(self.addresses) * u64::from(PORTS) {
            return Err(Crowded { peers, addresses: self.addresses });
        }
        Ok(())
    }

    /// The peer of that number.
    #[must_use]
    pub fn peer(&self, number: u32) -> Peer {
        let port = PORT_FIRST + low_16(number / self.addresses % PORTS);
        let chance = Rng::new(self.seed ^ SALT_PEER ^ u64::from(number)).next_u64();
        let seeder = unit(chance) < self.seeders;
        Peer { number, swarm: self.swarm(number), port, seeder }
    }

    /// The swarm of that peer: floor(S * u^skew) with u = (number + 1/2) / peers.
    ///
    /// Neighbours in number are neighbours in swarm, so the peers of a swarm are a run of numbers,
    /// and numbers of one run have different ports or addresses.
    fn swarm(&self, number: u32) -> u32 {
        let place = (f64::from(number) + 0.5) / f64::from(self.peers);
        let place = if self.skew > 1.0 { place.powf(self.skew) } else { place };
        floor(f64::from(self.swarms) * place).min(self.swarms - 1)
    }

    /// Peers of swarm 0, which has no fewer than any other but for rounding.
    #[must_use]
    pub fn largest_swarm(&self) -> u32 {
        let (mut low, mut high) = (0, self.peers);
        // Swarms are in the order of their peers: the first peer of swarm 1 is found by halves.
        while low < high {
            let middle = low + (high - low) / 2;
            if self.swarm(middle) == 0 { low = middle + 1 } else { high = middle }
        }
        // Rounding can make another swarm larger by one.
        low.saturating_add(u32::from(low < self.peers))
    }

    /// How many peers announce from that source.
    #[must_use]
    pub const fn peers_of(&self, source: u32) -> u32 {
        (self.peers - source).div_ceil(self.sources)
    }

    /// Any peer of that source, each with the same chance.
    pub fn any_peer_of(&self, source: u32, rng: &mut Rng) -> Peer {
        self.peer(source + rng.below(self.peers_of(source)) * self.sources)
    }

    /// Every peer of that source once, in an order that mixes the swarms, as arrivals do.
    #[must_use]
    pub fn turns(&self, source: u32) -> Turns {
        let count = self.peers_of(source);
        Turns { source, count, stride: stride(count), next: 0, again: Vec::new() }
    }

    /// The hash of a swarm.
    #[must_use]
    pub fn info_hash(&self, swarm: u32) -> InfoHash {
        let mut rng = Rng::new(self.seed ^ SALT_SWARM ^ u64::from(swarm) << 32);
        let words: [[u8; 8]; 3] = std::array::from_fn(|_| rng.next_u64().to_be_bytes());
        let bytes = words.as_flattened();
        InfoHash(std::array::from_fn(|i| bytes[i]))
    }

    /// What a peer announces.
    #[must_use]
    pub fn announce(&self, peer: &Peer, event: Event, num_want: u32) -> Announce {
        Announce {
            info_hash: self.info_hash(peer.swarm),
            peer_id: peer_id(peer.number),
            port: peer.port,
            uploaded: 1 << 20,
            downloaded: 1 << 22,
            left: Left::Bytes(if peer.seeder { 0 } else { 1 << 24 }),
            event,
            num_want: NumWant::Count(num_want),
            key: Some(peer.number),
        }
    }
}

/// The peers of one source, each once, and again those that were not answered.
#[derive(Clone, Debug)]
pub struct Turns {
    source: u32,
    count: u32,
    /// Has no common divisor with `count`, so that its multiples reach every place.
    stride: u32,
    next: u32,
    /// Numbers of the peers that have another turn.
    again: Vec<u32>,
}

impl Turns {
    /// The next one; `None` after the last.
    pub fn next(&mut self, population: &Population) -> Option<Peer> {
        if let Some(number) = self.again.pop() {
            return Some(population.peer(number));
        }
        if self.next == self.count {
            return None;
        }
        let place = u64::from(self.next) * u64::from(self.stride) % u64::from(self.count);
        self.next += 1;
        let place = u32::try_from(place).expect("below a 32-bit count");
        Some(population.peer(self.source + place * population.sources))
    }

    /// That peer has another turn.
    pub fn repeat(&mut self, number: u32) {
        self.again.push(number);
    }
}

/// `-TH0001-` (BEP 20) and twelve digits: no byte of it needs an escape in a URL.
#[must_use]
pub fn peer_id(number: u32) -> PeerId {
    let mut bytes = *b"-TH0001-000000000000";
    let mut rest = number;
    for byte in bytes.iter_mut().rev() {
        let [.., digit] = (rest % 10).to_be_bytes();
        if rest == 0 {
            break;
        }
        *byte = b'0' + digit;
        rest /= 10;
    }
    PeerId(bytes)
}

/// The number that [`peer_id`] makes that of.
#[must_use]
pub fn peer_number(peer_id: &PeerId) -> Option<u32> {
    let digits = std::str::from_utf8(peer_id.0.strip_prefix(b"-TH0001-")?).ok()?;
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

/// A number below `count` near the golden section of it, without a common divisor: neighbours in
/// turn are far apart in number.
fn stride(count: u32) -> u32 {
    let mut stride = count / 1_000 * 618 + count % 1_000 * 618 / 1_000;
    while stride > 1 && common_divisor(stride, count) != 1 {
        stride -= 1;
    }
    stride.max(1)
}

const fn common_divisor(mut a: u32, mut b: u32) -> u32 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// A number in 0..1 from random bits.
pub(super) fn unit(bits: u64) -> f64 {
    let high = u32::try_from(bits >> 32).expect("32 of 64 bits");
    f64::from(high) / (f64::from(u32::MAX) + 1.0)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a product of a u32 and a number in 0..1; the cast of a float saturates"
)]
const fn floor(value: f64) -> u32 {
    value as u32
}

fn low_16(value: u32) -> u16 {
    u16::try_from(value).expect("a port's offset")
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const SOME: Population = Population {
        seed: 7,
        swarms: 1_000,
        peers: 100_000,
        skew: 4.0,
        seeders: 0.25,
        sources: 8,
        addresses: 8,
    };

    fn sizes(population: &Population) -> Vec<u32> {
        let mut sizes = vec![0; population.swarms as usize];
        for number in 0..population.peers {
            sizes[population.peer(number).swarm as usize] += 1;
        }
        sizes
    }

    #[test]
    fn a_peer_is_the_same_every_time_and_another_seed_is_another_one() {
        let other = Population { seed: 8, ..SOME };
        for number in [0, 1, 99_999] {
            let peer = SOME.peer(number);
            assert_eq!(peer, SOME.peer(number));
            assert_ne!(SOME.info_hash(peer.swarm), other.info_hash(peer.swarm));
        }
        let hashes: HashSet<_> = (0..SOME.swarms).map(|swarm| SOME.info_hash(swarm)).collect();
        assert_eq!(hashes.len(), 1_000);
    }

    #[test]
    fn endpoints_of_a_swarm_differ() {
        // One address alone, and several.
        for (sources, addresses) in [(8, 8), (8, 1), (1, 1), (3, 3)] {
            let population = Population { sources, addresses, peers: 70_000, ..SOME };
            population.check().expect("room");
            let endpoints: HashSet<_> = (0..population.peers)
                .map(|number| population.peer(number))
                .map(|peer| (peer.swarm, peer.number % addresses, peer.port))
                .collect();
            assert_eq!(endpoints.len(), 70_000, "{sources} {addresses}");
        }
    }

    #[test]
    fn more_peers_than_endpoints_are_refused() {
        let population = Population { swarms: 1, peers: 40_000, ..SOME };
        assert_eq!(population.check(), Ok(()));
        let one = Population { addresses: 1, ..population };
        assert_eq!(one.check(), Err(Crowded { peers: 40_000, addresses: 1 }));
        assert!(one.check().expect_err("crowded").to_string().contains("32768 endpoints"));
    }

    #[test]
    fn skew_makes_the_first_swarms_large() {
        for skew in [0.0, 1.0] {
            let sizes = sizes(&Population { skew, ..SOME });
            assert!(sizes.iter().all(|&size| size == 100), "{skew}: {sizes:?}");
        }
        for skew in [2.0, 4.0, 8.0] {
            let population = Population { skew, ..SOME };
            let sizes = sizes(&population);
            let largest = sizes.iter().copied().max().expect("swarms");
            let share = f64::from(largest) / 100_000.0;
            // P(S * u^skew < 1) = S^(-1/skew).
            assert!((share - 1_000_f64.powf(-1.0 / skew)).abs() < 0.001, "{skew}: {share}");
            assert!(sizes[0] > 2 * sizes[999], "{skew}");
            assert!(largest <= population.largest_swarm(), "{skew}");
            assert!(population.largest_swarm() <= largest + 1, "{skew}");
        }
    }

    #[test]
    fn the_share_of_seeders_is_as_asked() {
        let seeders = |share| {
            let population = Population { seeders: share, ..SOME };
            (0..100_000).filter(|&number| population.peer(number).seeder).count()
        };
        assert_eq!(seeders(0.0), 0);
        assert_eq!(seeders(1.0), 100_000);
        assert!((24_000..26_000).contains(&seeders(0.25)));
    }

    #[test]
    fn in_turn_every_peer_of_every_source_comes_once() {
        for (peers, sources) in [(100_000, 8), (9, 8), (8, 8), (1, 1), (10_007, 3), (2, 1)] {
            let population = Population { peers, sources, addresses: 1, ..SOME };
            let mut seen = HashSet::new();
            for source in 0..sources {
                let mut turns = population.turns(source);
                while let Some(peer) = turns.next(&population) {
                    assert_eq!(peer.number % sources, source);
                    assert!(seen.insert(peer.number), "{peers} {sources}: twice {peer:?}");
                }
            }
            assert_eq!(seen.len(), peers as usize, "{peers} {sources}");
        }
    }

    #[test]
    fn any_peer_is_one_of_its_source() {
        let mut rng = Rng::new(3);
        let mut seen = HashSet::new();
        let population = Population { peers: 50, ..SOME };
        for _ in 0..1_000 {
            let peer = population.any_peer_of(5, &mut rng);
            assert_eq!(peer.number % 8, 5);
            seen.insert(peer.number);
        }
        assert_eq!(seen.len(), population.peers_of(5) as usize);
    }

    #[test]
    fn a_peer_says_what_it_is() {
        let (leecher, seeder) = {
            let mut peers = (0..).map(|number| SOME.peer(number));
            let leecher = peers.find(|peer| !peer.seeder).expect("most");
            (leecher, peers.find(|peer| peer.seeder).expect("a quarter"))
        };
        assert!(!SOME.announce(&leecher, Event::None, 50).left.is_seeder());
        let announce = SOME.announce(&seeder, Event::Started, 50);
        assert!(announce.left.is_seeder());
        assert!(announce.port >= PORT_FIRST);
        assert_eq!(peer_id(0).0, *b"-TH0001-000000000000");
        assert_eq!(peer_id(1_020).0, *b"-TH0001-000000001020");
        assert_eq!(peer_id(u32::MAX).0, *b"-TH0001-004294967295");
        assert_eq!(
            [1_020, u32::MAX].map(|number| peer_number(&peer_id(number))),
            [Some(1_020), Some(u32::MAX)]
        );
        assert_eq!(peer_number(&PeerId(*b"-TH0001-004294967296")), None);
        assert_eq!(peer_number(&PeerId(*b"-TH0001-00000000+020")), None);
        assert_eq!(peer_number(&PeerId(*b"-TH0002-000000001020")), None);
    }
}
