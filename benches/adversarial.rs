//! Announces whose keys somebody chose, beside announces with random keys.
//!
//! Peers choose info_hashes freely and ports almost so. In each round a store is filled and then
//! every peer announces again in another order, once with random keys and once with chosen ones;
//! each round has another secret key of the tables, and of two tries in a round the quicker one
//! counts. Keys are made before the clock runs, which is the thread's own: other programs cost it
//! only their use of the caches. Chosen info_hashes are those of as many swarms of one peer, chosen
//! endpoints are the peers of one large swarm. Announces are made in batches of 64, as the tracker
//! makes them.
//!
//! `cargo bench --bench adversarial` asserts that the median of the ratios stays below 1.2, both of
//! inserts and of repeated announces; without `--bench` all runs once, small, and only the counts
//! are asserted. Environment: THRONG_ADVERSARIAL_ROUNDS (15).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use throng::rng::Rng;
use throng::swarm::{Arrival, Bounds, HashKey, Report, SwarmStore};
use throng::time::Seconds;
use throng::wire::addr::{Endpoint, Scope};
use throng::wire::id::{InfoHash, PeerId};

#[path = "common/clock.rs"]
mod clock;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const NOW: Seconds = Seconds(1_000);
const BATCH: usize = 64;
/// What chosen keys may cost, random ones being 1.
const RATIO_MAX: f64 = 1.2;

type Key = (InfoHash, Endpoint);
/// The key of that number; the second argument is random bits of its own.
type Choice = fn(u32, u64) -> Key;

const RANDOM_HASHES: Choice = |_, bits| (random_hash(bits), peer());
const HASHES: [(&str, Choice); 7] = [
    ("info_hashes with the first 12 bytes equal", |_, bits| {
        let mut hash = random_hash(bits);
        hash.0[..12].fill(7);
        (hash, peer())
    }),
    ("info_hashes with the last 12 bytes equal", |_, bits| {
        let mut hash = random_hash(bits);
        hash.0[8..].fill(7);
        (hash, peer())
    }),
    ("info_hashes that count in the first bytes", |number, _| (hash_with(0, number), peer())),
    ("info_hashes that count in the last bytes", |number, _| (hash_with(16, number), peer())),
    ("info_hashes that count in the top bits", |number, _| {
        (hash_with(0, number.reverse_bits()), peer())
    }),
    ("info_hashes that count in steps of 2^16", |number, _| {
        (hash_with(8, number.rotate_left(16)), peer())
    }),
    ("info_hashes with one byte in each word", |number, _| {
        let mut hash = InfoHash([0; 20]);
        for (word, byte) in number.to_be_bytes().into_iter().enumerate() {
            hash.0[4 * word] = byte;
        }
        (hash, peer())
    }),
];

const RANDOM_V4: Choice = |_, bits| {
    let [a, b, c, d, port @ ..] = bits.to_be_bytes();
    let port = u16::from_be_bytes([port[0], port[1]]);
    (one_hash(), Endpoint::new(Ipv4Addr::new(a, b, c, d).into(), port))
};
const V4: [(&str, Choice); 4] = [
    ("IPv4 endpoints of one address, ports in sequence", |number, _| {
        (one_hash(), v4(0x1000_0001, port_of(number)))
    }),
    ("IPv4 endpoints in sequence, one port", |number, _| {
        (one_hash(), v4(0x1000_0000 | number, 6_881))
    }),
    ("IPv4 endpoints that differ in the top 16 bits", |number, _| {
        (one_hash(), v4(number << 16 | 1, 6_881))
    }),
    ("IPv4 endpoints that differ in the top byte and the port", |number, _| {
        (one_hash(), v4(number << 24 | 1, port_of(number)))
    }),
];

const RANDOM_V6: Choice = |_, bits| {
    let mut rng = Rng::new(bits);
    let ip = u128::from(rng.next_u64()) << 64 | u128::from(rng.next_u64());
    (one_hash(), v6(0x2000 << 112 | ip >> 3))
};
const V6: [(&str, Choice); 3] = [
    ("IPv6 endpoints of one /64, addresses in sequence", |number, _| {
        (one_hash(), v6(0x2600 << 112 | u128::from(number)))
    }),
    ("IPv6 endpoints of /64s in sequence", |number, _| {
        (one_hash(), v6(0x2600 << 112 | u128::from(number) << 64 | 1))
    }),
    ("IPv6 endpoints that differ in the top 32 bits", |number, _| {
        (one_hash(), v6(1 << 125 | u128::from(number) << 96 | 1))
    }),
];

fn random_hash(bits: u64) -> InfoHash {
    let mut rng = Rng::new(bits);
    let words: [[u8; 8]; 3] = std::array::from_fn(|_| rng.next_u64().to_be_bytes());
    let bytes = words.as_flattened();
    InfoHash(std::array::from_fn(|i| bytes[i]))
}

/// Zeros but for a number at `at`.
fn hash_with(at: usize, number: u32) -> InfoHash {
    let mut hash = InfoHash([0; 20]);
    hash.0[at..at + 4].copy_from_slice(&number.to_be_bytes());
    hash
}

fn one_hash() -> InfoHash {
    InfoHash([7; 20])
}

fn peer() -> Endpoint {
    v4(0x1000_0001, 6_881)
}

fn port_of(number: u32) -> u16 {
    u16::try_from(number & 0xFFFF).expect("masked")
}

fn v4(bits: u32, port: u16) -> Endpoint {
    Endpoint::new(IpAddr::V4(Ipv4Addr::from(bits)), port)
}

fn v6(bits: u128) -> Endpoint {
    Endpoint::new(IpAddr::V6(Ipv6Addr::from(bits)), 6_881)
}

/// How much of everything.
struct Size {
    rounds: usize,
    swarms: u32,
    /// Of the one swarm: no more than there are ports.
    peers: u32,
}

/// Keys, and the order in which they announce again.
struct Keys {
    keys: Vec<Key>,
    order: Vec<u32>,
}

impl Keys {
    fn new(count: u32, choice: Choice) -> Self {
        let mut rng = Rng::new(4);
        let keys: Vec<Key> = (0..count).map(|number| choice(number, rng.next_u64())).collect();
        let mut order: Vec<u32> = (0..count).collect();
        for end in (1..count).rev() {
            order.swap(end as usize, rng.below(end + 1) as usize);
        }
        Self { keys, order }
    }

    /// Nanoseconds of an insert and of an announce again, of a store of its own.
    fn play(&self, secret: u64, is_one_swarm: bool) -> [f64; 2] {
        let bounds = Bounds {
            memory_bytes: 1 << 30,
            peers_per_swarm: 1_000_000,
            peer_ttl_secs: 3_000,
            keep_peer_ids: false,
        };
        let mut store =
            SwarmStore::new(bounds, HashKey(11, secret), Rng::new(secret)).expect("address space");
        let again: Vec<Key> = self.order.iter().map(|&at| self.keys[at as usize]).collect();
        let inserts = announce(&mut store, &self.keys);
        let repeats = announce(&mut store, &again);
        let totals = store.totals();
        let count = self.keys.len() as u64;
        assert_eq!(totals.leechers.iter().sum::<u64>(), count, "keys differ");
        assert_eq!(totals.swarms, if is_one_swarm { 1 } else { count });
        [inserts, repeats]
    }
}

/// Announces all; nanoseconds each.
#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn announce(store: &mut SwarmStore, keys: &[Key]) -> f64 {
    let began = clock::time_of_thread();
    for keys in keys.chunks(BATCH) {
        let mut due = [(InfoHash([0; 20]), None); BATCH];
        for (due, (info_hash, endpoint)) in due.iter_mut().zip(keys) {
            *due = (*info_hash, Some(*endpoint));
        }
        store.warm(&due[..keys.len()]);
        for (info_hash, endpoint) in keys {
            let report = Report { seeder: false, partial: false, completed: false };
            std::hint::black_box(store.announce(
                NOW,
                &Arrival {
                    info_hash: *info_hash,
                    endpoint: *endpoint,
                    scope: Scope::PUBLIC,
                    peer_id: PeerId([0; 20]),
                    report,
                },
            ));
        }
    }
    (clock::time_of_thread() - began).as_nanos() as f64 / keys.len() as f64
}

/// Plays each choice beside random keys, and prints a row for it. Returns the median ratios.
fn compare(rounds: usize, count: u32, random: Choice, choices: &[(&str, Choice)]) -> Vec<f64> {
    let is_one_swarm = random(0, 0).0 == one_hash();
    let base = Keys::new(count, random);
    let chosen: Vec<Keys> = choices.iter().map(|(_, choice)| Keys::new(count, *choice)).collect();
    base.play(0, is_one_swarm);
    let mut ratios = vec![[const { Vec::new() }; 2]; choices.len()];
    let mut plain = [const { Vec::new() }; 2];
    for round in 0..rounds {
        for (keys, ratios) in chosen.iter().zip(&mut ratios) {
            let secret = 1 + round as u64;
            let mut costs = [[f64::MAX; 2]; 2];
            // Now the one first, now the other.
            let first = round % 2;
            for turn in [first, 1 - first, first, 1 - first] {
                let again = [&base, keys][turn].play(secret, is_one_swarm);
                costs[turn] = std::array::from_fn(|part| costs[turn][part].min(again[part]));
            }
            for part in 0..2 {
                plain[part].push(costs[0][part]);
                ratios[part].push(costs[1][part] / costs[0][part]);
            }
        }
    }
    let [inserts, repeats] = plain.each_mut().map(|costs| spread(costs)[1]);
    let mut medians = Vec::new();
    for ((name, _), ratios) in choices.iter().zip(&mut ratios) {
        let [insert, repeat] = ratios.each_mut().map(|ratios| spread(ratios));
        println!(
            "| {name} | {count} | {inserts:.0} | {:.2} ({:.2} to {:.2}) | {repeats:.0} \
             | {:.2} ({:.2} to {:.2}) |",
            insert[1], insert[0], insert[2], repeat[1], repeat[0], repeat[2]
        );
        medians.extend([insert[1], repeat[1]]);
    }
    medians
}

/// Least, median, most.
fn spread(values: &mut [f64]) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    [values[0], values[values.len() / 2], values[values.len() - 1]]
}

fn main() {
    let whole = std::env::args().any(|argument| argument == "--bench");
    let rounds = std::env::var("THRONG_ADVERSARIAL_ROUNDS").ok().and_then(|text| text.parse().ok());
    let size = if whole {
        Size { rounds: rounds.unwrap_or(15), swarms: 100_000, peers: 60_000 }
    } else {
        Size { rounds: 1, swarms: 2_000, peers: 2_000 }
    };
    println!(
        "| keys | of each | insert of random ones, ns | ratio: median (spread) \
         | announce again of random ones, ns | ratio: median (spread) |"
    );
    println!("|---|---|---|---|---|---|");
    let mut medians = Vec::new();
    let rounds = size.rounds.clamp(1, 1_000);
    medians.extend(compare(rounds, size.swarms, RANDOM_HASHES, &HASHES));
    medians.extend(compare(rounds, size.peers, RANDOM_V4, &V4));
    medians.extend(compare(rounds, size.peers, RANDOM_V6, &V6));
    let most = medians.iter().copied().fold(0.0, f64::max);
    println!("the largest median ratio is {most:.2}");
    assert!(!whole || most <= RATIO_MAX, "chosen keys cost {most:.2} of random ones");
}
