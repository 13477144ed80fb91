//! The store at real scale, in one thread: what an announce costs as swarms and peers grow.
//!
//! Popularity is skewed: a peer's swarm is floor(swarms * u^4) for an even u in 0..1. Known peers
//! announce again in random order, in batches of 64 as the tracker handles them, each asking for
//! 50 peers, and the reply is serialised. Memory is what the process takes from the kernel.
//!
//! `cargo bench --bench scale` measures up to 1 M peers; `THRONG_BENCH_LARGE=1` adds 20 M, which
//! needs 2 GiB. Each size runs in a process of its own, so that memory is counted from nothing.

use std::hint::black_box;
use std::process::Command;
use std::time::Instant;

use rustix::time::{ClockId, clock_gettime};
use throng::rng::Rng;
use throng::swarm::SwarmStore;
use throng::time::Seconds;
use throng::wire::addr::Family;

#[path = "common/hash.rs"]
mod hash;
#[path = "common/memory.rs"]
mod memory;
#[path = "common/skewed.rs"]
mod skewed;

use skewed::{BATCH, Draw, NOW, SCRAPE, Size, TTL, answer, scrape, warm};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Announces of a round.
const DRAWS: usize = 1 << 20;
const ROUNDS: usize = 5;
/// Peers that are drawn ahead of their insertion.
const SLICE: u32 = 1 << 14;

/// A round of announces; nanoseconds each.
fn round(store: &mut SwarmStore, draws: &[Draw], batch: usize) -> f64 {
    let mut out = [0; 1_232];
    let began = Instant::now();
    for draws in draws.chunks(batch) {
        if batch > 1 {
            warm(store, draws);
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

/// Nanoseconds of CPU that this thread has used.
#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn cpu_nanos() -> f64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    now.tv_sec as f64 * 1e9 + now.tv_nsec as f64
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
            warm(&mut store, draws);
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
            black_box(scrape(&mut store, draws));
        }
        scrapes.push(nanos(began, count));
    }
    let scraped = median(scrapes);

    // Nobody announces any more: one round of the sweep over all, then all are gone.
    let mut now = NOW;
    let (mut sweep, mut longest) = (0.0_f64, 0.0_f64);
    let mut pass = |store: &mut SwarmStore, now: Seconds| {
        loop {
            // CPU time: on a machine with others some of so many slices would be interrupted.
            let began = cpu_nanos();
            let more = store.sweep(now);
            let took = cpu_nanos() - began;
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
    // The sweep goes around eight times in a peer's life.
    let rounds = f64::from(now.since(NOW)) / (f64::from(TTL) / 8.0);
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
        scraped.0 / 1e3,
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
