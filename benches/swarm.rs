//! The swarm store alone: announces of known peers, peers that join and leave, samples, growth.
//!
//! Popularity is skewed: a peer's swarm is floor(swarms * u^4) for an even u in 0..1, so that one
//! per cent of the swarms holds about a third of the peers. `THRONG_BENCH_LARGE=1` adds a store
//! that no cache holds, of 200,000 swarms and 1,000,000 peers.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use throng::rng::Rng;
use throng::swarm::{Arrival, Bounds, HashKey, Report, SwarmStore, Wish};
use throng::time::Seconds;
use throng::wire::addr::{Endpoint, Family, Scope};
use throng::wire::id::PeerId;

#[path = "common/hash.rs"]
mod hash;

const NOW: Seconds = Seconds(1_000);
const NUM_WANT: u16 = 50;
/// Arrivals prepared ahead, so that making them costs nothing while the clock runs.
const ARRIVALS: usize = 1 << 16;

/// How large a store is.
#[derive(Clone, Copy)]
struct Size {
    name: &'static str,
    swarms: u32,
    peers: u32,
}

const SMALL: Size = Size { name: "1k_swarms_20k_peers", swarms: 1_000, peers: 20_000 };
const LARGE: Size = Size { name: "200k_swarms_1M_peers", swarms: 200_000, peers: 1_000_000 };

impl Size {
    fn store() -> SwarmStore {
        let bounds = Bounds {
            memory_bytes: 1 << 30,
            peers_per_swarm: 65_536,
            peer_ttl_secs: 3_000,
            keep_peer_ids: false,
        };
        SwarmStore::new(bounds, HashKey(11, 22), Rng::new(33)).expect("address space")
    }

    /// The peer of that number: always the same one, in the same swarm. One in five is a seeder.
    fn arrival(self, number: u32) -> Arrival {
        let mut rng = Rng::new(u64::from(number));
        let even = rng.next_u64() >> 32;
        let square = (even * even) >> 32;
        let skewed = (square * square) >> 32;
        let swarm = (u64::from(self.swarms) * skewed) >> 32;
        Arrival {
            info_hash: hash::info_hash(u32::try_from(swarm).expect("below the swarms")),
            // 16.0.0.0/4: public addresses, a new one for each number.
            endpoint: Endpoint::new(IpAddr::V4(Ipv4Addr::from(0x1000_0000 | number)), 6_881),
            scope: Scope::PUBLIC,
            peer_id: PeerId([0; 20]),
            report: Report { seeder: number.is_multiple_of(5), partial: false, completed: false },
        }
    }

    fn fill(self, store: &mut SwarmStore, arrivals: impl Iterator<Item = Arrival>) {
        for arrival in arrivals {
            assert!(store.announce(NOW, &arrival).joined);
        }
        let totals = store.totals();
        let (seeders, leechers) = (totals.seeders[0], totals.leechers[0]);
        assert_eq!(seeders, u64::from(self.peers.div_ceil(5)));
        assert_eq!(seeders + leechers, u64::from(self.peers));
        assert!(totals.swarms <= u64::from(self.swarms));
    }
}

/// `count` numbers below `bound`, at random.
fn draws(bound: u32, count: usize) -> Vec<u32> {
    let mut rng = Rng::new(5);
    (0..count).map(|_| rng.below(bound)).collect()
}

fn growth(c: &mut Criterion) {
    let arrivals: Vec<Arrival> = (0..SMALL.peers).map(|n| SMALL.arrival(n)).collect();
    let mut group = c.benchmark_group("swarm/fill");
    group.throughput(Throughput::Elements(u64::from(SMALL.peers)));
    group.sample_size(10);
    group.bench_function(SMALL.name, |b| {
        b.iter(|| {
            let mut store = Size::store();
            SMALL.fill(&mut store, arrivals.iter().copied());
            store
        });
    });
    group.finish();
}

fn steady(c: &mut Criterion, size: Size) {
    let mut store = Size::store();
    size.fill(&mut store, (0..size.peers).map(|n| size.arrival(n)));
    let before = store.totals();
    let mut group = c.benchmark_group("swarm");
    group.throughput(Throughput::Elements(1));

    let known: Vec<Arrival> =
        draws(size.peers, ARRIVALS).into_iter().map(|n| size.arrival(n)).collect();
    let mut turn = known.iter().cycle();
    let mut announced = |store: &mut SwarmStore| {
        let arrival = turn.next().expect("a cycle");
        (store.announce(NOW, arrival), arrival)
    };

    group.bench_function(BenchmarkId::new("announce_known", size.name), |b| {
        b.iter(|| assert!(!announced(&mut store).0.joined));
    });

    // As the tracker does it: announce, count, sample; a swarm may hold fewer than 50 others.
    group.bench_function(BenchmarkId::new("announce_known_sample_50", size.name), |b| {
        b.iter(|| {
            let (done, arrival) = announced(&mut store);
            let counts = store.counts(done.swarm);
            let seeder = arrival.report.seeder;
            let others = match seeder {
                true => counts.leechers,
                false => counts.leechers - 1 + counts.seeders,
            };
            let wish = Wish {
                asker: Some(done.asker),
                seeder,
                scope: Scope::PUBLIC,
                family: Some(Family::V4),
                num_want: NUM_WANT,
            };
            let sample = black_box(store.sample(done.swarm, &wish));
            let given = sample.count(Family::V4);
            assert_eq!(given, usize::from(NUM_WANT).min(others as usize));
        });
    });

    group.bench_function(BenchmarkId::new("find_sample_50", size.name), |b| {
        // Swarm 0 is the most popular one.
        let hash = hash::info_hash(0);
        let wish = Wish {
            asker: None,
            seeder: false,
            scope: Scope::PUBLIC,
            family: Some(Family::V4),
            num_want: NUM_WANT,
        };
        b.iter(|| {
            let swarm = store.find(NOW, black_box(&hash)).expect("it has peers");
            let sample = black_box(store.sample(swarm, &wish));
            assert_eq!(sample.count(Family::V4), usize::from(NUM_WANT));
        });
    });

    let strangers: Vec<Arrival> =
        draws(size.peers, ARRIVALS).into_iter().map(|n| size.arrival(size.peers + n)).collect();
    let mut turn = strangers.iter().cycle();
    group.bench_function(BenchmarkId::new("join_and_leave", size.name), |b| {
        b.iter(|| {
            let arrival = turn.next().expect("a cycle");
            assert!(store.announce(NOW, arrival).joined);
            assert!(store.stop(NOW, arrival));
        });
    });
    group.finish();

    let after = store.totals();
    assert_eq!((after.seeders, after.leechers), (before.seeders, before.leechers));
    assert_eq!((after.evicted_peers, after.expired_peers), (0, 0));
    store.check_invariants();
}

fn small(c: &mut Criterion) {
    steady(c, SMALL);
}

fn large(c: &mut Criterion) {
    if std::env::var_os("THRONG_BENCH_LARGE").is_some() {
        steady(c, LARGE);
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    targets = growth, small, large
}
criterion_main!(benches);
