//! The store at real scale, in one thread: what an announce costs as swarms and peers grow.
//!
//! Popularity is skewed: a peer's swarm is floor(swarms * u^4) for an even u in 0..1. Known peers
//! announce again in random order, in batches of 64 as the tracker handles them, each asking for
//! 50 peers, and the reply is serialised. Memory is what the process takes from the kernel.
//!
//! `cargo bench --bench scale` measures up to 1 M peers; `THRONG_BENCH_LARGE=1` adds 20 M, which
//! needs 2 GiB. Each size runs in a process of its own, so that memory is counted from nothing.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::Command;
use std::time::Instant;

use throng::rng::Rng;
use throng::swarm::{Arrival, Bounds, HashKey, Report, SwarmStore, Wish};
use throng::time::Seconds;
use throng::wire::addr::{Endpoint, Family, Scope};
use throng::wire::id::{InfoHash, PeerId};

#[path = "common/hash.rs"]
mod hash;
#[path = "common/memory.rs"]
mod memory;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const NOW: Seconds = Seconds(1_000);
const TTL: u32 = 3_000;
const BATCH: usize = 64;
const NUM_WANT: u16 = 50;
const SCRAPE: usize = 74;
/// Announces of a round.
const DRAWS: usize = 1 << 20;
const ROUNDS: usize = 5;
/// Peers that are drawn ahead of their insertion.
const SLICE: u32 = 1 << 14;

/// What is measured: so many swarms and peers of one family.
#[derive(Clone, Copy)]
struct Size {
    swarms: u32,
    peers: u32,
    family: Family,
}

/// An announce in little room, so that reading it costs little.
#[derive(Clone, Copy)]
struct Draw {
    info_hash: InfoHash,
    endpoint: Endpoint,
    seeder: bool,
}

impl Size {
    /// The peer of that number: always the same one, in the same swarm. One in five is a seeder.
    fn draw(self, number: u32) -> Draw {
        let mut rng = Rng::new(u64::from(number));
        let even = rng.next_u64() >> 32;
        let square = (even * even) >> 32;
        let skewed = (square * square) >> 32;
        let swarm = (u64::from(self.swarms) * skewed) >> 32;
        let ip = match self.family {
            // 16.0.0.0/4 and 2400::/16: public addresses, a new one for each number.
            Family::V4 => IpAddr::V4(Ipv4Addr::from(0x1000_0000 | number)),
            Family::V6 => {
                IpAddr::V6(Ipv6Addr::from((0x2400_u128 << 112) | (u128::from(number) << 64) | 1))
            }
        };
        Draw {
            info_hash: hash::info_hash(u32::try_from(swarm).expect("below the swarms")),
            endpoint: Endpoint::new(ip, 6_881),
            seeder: number.is_multiple_of(5),
        }
    }

    fn store(self) -> SwarmStore {
        let bounds = Bounds {
            memory_bytes: 8 << 30,
            peers_per_swarm: 1_000_000,
            peer_ttl_secs: TTL,
            keep_peer_ids: false,
        };
        SwarmStore::new(bounds, HashKey(11, u64::from(self.peers)), Rng::new(33))
    }
}

impl Draw {
    fn arrival(&self) -> Arrival {
        Arrival {
            info_hash: self.info_hash,
            endpoint: self.endpoint,
            scope: Scope::PUBLIC,
            peer_id: PeerId([0; 20]),
            report: Report { seeder: self.seeder, partial: false, completed: false },
        }
    }
}

/// Announces, and writes the reply as the tracker does. Returns its length.
fn answer(store: &mut SwarmStore, draw: &Draw, out: &mut [u8; 1_232]) -> usize {
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

/// A round of announces; nanoseconds each.
fn round(store: &mut SwarmStore, draws: &[Draw], batch: usize) -> f64 {
    let mut out = [0; 1_232];
    let began = Instant::now();
    for draws in draws.chunks(batch) {
        if batch > 1 {
            let mut due = [(InfoHash([0; 20]), None); BATCH];
            for (due, draw) in due.iter_mut().zip(draws) {
                *due = (draw.info_hash, Some(draw.endpoint));
            }
            store.warm(&due[..draws.len()]);
        }
        for draw in draws {
            black_box(answer(store, draw, black_box(&mut out)));
        }
    }
    nanos(began, draws.len())
}

fn nanos(began: Instant, count: usize) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let each = began.elapsed().as_nanos() as f64 / count as f64;
    each
}

fn median(mut values: Vec<f64>) -> (f64, f64, f64) {
    values.sort_by(f64::total_cmp);
    (values[values.len() / 2], values[0], values[values.len() - 1])
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn measure(size: Size) {
    let mut rng = Rng::new(5);
    let known: Vec<Draw> = (0..DRAWS).map(|_| size.draw(rng.below(size.peers))).collect();
    let mut store = size.store();
    let resident_bytes = || memory::resident_bytes(std::process::id());
    let before = resident_bytes();

    // Inserts, drawn ahead in slices so that only the store is measured.
    let mut insert = 0.0;
    for from in (0..size.peers).step_by(SLICE as usize) {
        let to = size.peers.min(from.saturating_add(SLICE));
        let draws: Vec<Draw> = (from..to).map(|number| size.draw(number)).collect();
        let began = Instant::now();
        for draws in draws.chunks(BATCH) {
            let mut due = [(InfoHash([0; 20]), None); BATCH];
            for (due, draw) in due.iter_mut().zip(draws) {
                *due = (draw.info_hash, Some(draw.endpoint));
            }
            store.warm(&due[..draws.len()]);
            for draw in draws {
                black_box(store.announce(NOW, &draw.arrival()));
            }
        }
        insert += began.elapsed().as_nanos() as f64;
    }
    let peers = f64::from(size.peers);
    let held = resident_bytes().saturating_sub(before) as f64;
    let totals = store.totals();
    assert_eq!(totals.seeders.iter().chain(&totals.leechers).sum::<u64>(), u64::from(size.peers));

    round(&mut store, &known, BATCH);
    let batched = median((0..ROUNDS).map(|_| round(&mut store, &known, BATCH)).collect());
    let single = median((0..ROUNDS).map(|_| round(&mut store, &known, 1)).collect());

    let mut scrapes = Vec::new();
    for _ in 0..ROUNDS {
        let began = Instant::now();
        let count = DRAWS / 8 / SCRAPE;
        for draws in known.chunks_exact(SCRAPE).take(count) {
            let mut due = [(InfoHash([0; 20]), None); SCRAPE];
            for (due, draw) in due.iter_mut().zip(draws) {
                due.0 = draw.info_hash;
            }
            store.warm(&due);
            for draw in draws {
                let swarm = store.find(NOW, &draw.info_hash).expect("it has peers");
                black_box(store.counts(swarm));
            }
        }
        scrapes.push(nanos(began, count));
    }
    let scrape = median(scrapes);

    // Nobody announces any more: one round of the sweep over all, then all are gone.
    let mut now = NOW;
    let (mut sweep, mut longest) = (0.0_f64, 0.0_f64);
    let mut pass = |store: &mut SwarmStore, now: Seconds| {
        loop {
            let began = Instant::now();
            let more = store.sweep(now);
            let took = began.elapsed().as_nanos() as f64;
            (sweep, longest) = (sweep + took, longest.max(took));
            if !more {
                break;
            }
        }
    };
    while store.totals().swarms > 0 {
        now = now.plus(1);
        pass(&mut store, now);
    }
    let rounds = f64::from(now.since(NOW)) / 64.0;
    drop(known);
    let left = resident_bytes().saturating_sub(before) as f64;
    println!(
        "| {} | {} | {:?} | {:.0} | {:.0} ({:.0} to {:.0}) | {:.0} ({:.0} to {:.0}) | {:.2} \
         | {:.1} | {:.2} in {rounds:.0} rounds, longest slice {:.2} ms \
         | {:.1} |",
        size.swarms,
        size.peers,
        size.family,
        insert / peers,
        batched.0,
        batched.1,
        batched.2,
        single.0,
        single.1,
        single.2,
        scrape.0 / 1e3,
        held / peers,
        sweep / 1e9,
        longest / 1e6,
        left / 1e6,
    );
}

fn main() {
    let sizes = [(1_000, 20_000), (20_000, 100_000), (200_000, 1_000_000), (4_000_000, 20_000_000)];
    let families = [Family::V4, Family::V6];
    if let Ok(which) = std::env::var("THRONG_SCALE_SIZE") {
        let number: usize = which.parse().expect("a number");
        let (swarms, peers) = sizes[number / 2];
        return measure(Size { swarms, peers, family: families[number % 2] });
    }
    println!(
        "| swarms | peers | family | insert ns | announce ns, batched | announce ns, one by one | \
         scrape of 74, us | bytes/peer | sweep until all expired, s | MB left |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    let count = if std::env::var_os("THRONG_BENCH_LARGE").is_some() { 8 } else { 6 };
    for number in 0..count {
        let program = std::env::current_exe().expect("a program");
        let status = Command::new(program).env("THRONG_SCALE_SIZE", number.to_string()).status();
        assert!(status.is_ok_and(|status| status.success()));
    }
}
