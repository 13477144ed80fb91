//! The store through its door: the model, the bounds, the fairness of selection.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::collection::vec;
use proptest::prelude::{ProptestConfig, any, proptest};

use super::class::Class;
use super::layout::SMALL_MAX;
use super::slab::Use;
use super::*;
use crate::limits::ENDPOINT_V4_BYTES;

pub(super) const LEECHER: Report = Report { seeder: false, partial: false, completed: false };
pub(super) const SEEDER: Report = Report { seeder: true, partial: false, completed: false };

/// How much shorter scripts are under Miri, which runs all code a thousand times slower.
const SHORTER: usize = if cfg!(miri) { 64 } else { 1 };

const fn cases(count: u32) -> u32 {
    if cfg!(miri) { 1 } else { count }
}

pub(super) fn store(memory_bytes: usize, peers_per_swarm: u32) -> SwarmStore {
    let bounds =
        Bounds { memory_bytes, peers_per_swarm, peer_ttl_secs: 3_000, keep_peer_ids: false };
    SwarmStore::new(bounds, HashKey(7, 8), Rng::new(9)).expect("address space")
}

pub(super) fn info_hash(n: u32) -> InfoHash {
    let mut hash = [0; 20];
    hash[..4].copy_from_slice(&n.to_be_bytes());
    InfoHash(hash)
}

pub(super) fn arrival(hash: u32, peer: u32, report: Report) -> Arrival {
    Arrival {
        info_hash: info_hash(hash),
        endpoint: Endpoint::new(Ipv4Addr::from(0x0100_0000 + peer).into(), 6881),
        scope: Scope::PUBLIC,
        peer_id: PeerId([0; 20]),
        report,
    }
}

fn wish(asker: Option<Asker>, seeder: bool, num_want: u16) -> Wish {
    Wish { asker, seeder, scope: Scope::PUBLIC, family: Some(Family::V4), num_want }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(64), ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_the_model_on_several_swarms(bytes in vec(any::<u8>(), 0..8_192 / SHORTER)) {
        model::check(&[&[0], &bytes[..]].concat());
    }

    /// Mostly announces, so that the swarm fills up and is evicted from.
    #[test]
    fn agrees_with_the_model_on_a_crowded_swarm(
        ops in vec((4_u8..16, any::<u8>(), any::<u8>()), 0..3_000 / SHORTER),
    ) {
        let ops = ops.iter().flat_map(|&(kind, peer, flags)| [kind, 0, peer, flags]);
        model::check(&[1].into_iter().chain(ops).collect::<Vec<u8>>());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(8), ..ProptestConfig::default() })]

    /// Growth to several runs and back, with evictions once it is full.
    #[test]
    fn agrees_with_the_model_on_large_swarms(
        ops in vec((0_u8..16, any::<u8>(), any::<u8>(), any::<u8>()), 0..300 / SHORTER),
    ) {
        let ops = ops.iter().flat_map(|&(kind, high, low, flags)| [kind, high, low, flags]);
        model::check(&[2].into_iter().chain(ops).collect::<Vec<u8>>());
    }

    /// Of swarms that people use, of all sizes, none on probation for long.
    #[test]
    fn agrees_with_the_model_when_established_swarms_must_go(
        ops in vec((1_u8..16, any::<u8>(), any::<u8>(), any::<u8>()), 0..300 / SHORTER),
    ) {
        let ops = ops.iter().flat_map(|&(kind, high, low, flags)| [kind, high, low, flags]);
        for world in [4, 6] {
            model::check(&[world].into_iter().chain(ops.clone()).collect::<Vec<u8>>());
        }
    }

    #[test]
    fn agrees_with_the_model_under_memory_pressure(
        ops in vec((1_u8..16, any::<u8>(), any::<u8>(), any::<u8>()), 0..150 / SHORTER),
    ) {
        let ops = ops.iter().flat_map(|&(kind, high, low, flags)| [kind, high, low, flags]);
        for world in [3, 5] {
            model::check(&[world].into_iter().chain(ops.clone()).collect::<Vec<u8>>());
        }
    }
}

/// Chi-square over many draws: leechers asking for a few out of many, everybody equally often.
#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn every_peer_has_the_same_chance_over_time() {
    for (peers, num_want) in [(20_u32, 5_u16), (100, 50), (300, 50)] {
        let mut store = store(64 << 20, 10_000);
        for peer in 0..peers {
            let report = if peer % 3 == 0 { SEEDER } else { LEECHER };
            store.announce(Seconds(0), &arrival(0, peer, report));
        }
        let mut seen = vec![0_u32; peers as usize];
        let rounds = 400_000 / u32::from(num_want);
        for round in 0..rounds {
            // The peers re-announce in turn, as they would: it is their mixing that is tested too.
            let report = if round % peers % 3 == 0 { SEEDER } else { LEECHER };
            store.announce(Seconds(1), &arrival(0, round % peers, report));
            let handle = store.find(Seconds(1), &info_hash(0)).expect("it has peers");
            let sample = store.sample(handle, &wish(None, false, num_want));
            assert_eq!(sample.count(Family::V4), usize::from(num_want));
            sample.each(|chunk| {
                for endpoint in chunk.endpoints().chunks_exact(6) {
                    let peer = u32::from_be_bytes([0, endpoint[1], endpoint[2], endpoint[3]]);
                    seen[peer as usize] += 1;
                }
            });
        }
        let expected = f64::from(rounds) * f64::from(num_want) / f64::from(peers);
        let chi: f64 = seen.iter().map(|&n| (f64::from(n) - expected).powi(2) / expected).sum();
        // Windows are sampled without replacement, so the statistic lies below chi-square's own.
        let freedom = f64::from(peers - 1);
        assert!(chi < freedom + 4.0 * (2.0 * freedom).sqrt(), "{peers} peers: {chi:.1} {seen:?}");
    }
}

#[test]
fn those_who_are_prepared_for_together_are_not_given_the_same_peers() {
    // Few whom the caches hold, and more.
    for peers in [200_u32, 300] {
        let mut store = store(64 << 20, 10_000);
        for peer in 0..peers {
            store.announce(Seconds(0), &arrival(0, peer, LEECHER));
        }
        let due = (0..50).map(|peer| arrival(0, peer, LEECHER));
        let due: Vec<_> = due.map(|due| (due.info_hash, Some(due.endpoint))).collect();
        store.warm(&due);
        let firsts: BTreeSet<Vec<u8>> = (0..50)
            .map(|peer| {
                let announced = store.announce(Seconds(0), &arrival(0, peer, LEECHER));
                let mut first = Vec::new();
                let sample = store.sample(announced.swarm, &wish(Some(announced.asker), false, 10));
                sample.each(|chunk| first.extend_from_slice(chunk.endpoints()));
                first.truncate(6);
                first
            })
            .collect();
        assert!(firsts.len() > 25, "{} of {peers}", firsts.len());
    }
}

/// The same for those who ask, each right after its own announce, which has moved it; windows of
/// large lists begin where a batch was told.
#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn every_peer_has_the_same_chance_to_be_given_to_those_who_announce() {
    // Of those who are prepared for, a few whom the caches hold, and more.
    let cases = [(100_u32, 10_u16, 1), (300, 20, 1), (100, 10, 50), (200, 20, 50), (300, 20, 50)];
    for (peers, num_want, batch) in cases {
        let mut store = store(64 << 20, 10_000);
        for peer in 0..peers {
            store.announce(Seconds(0), &arrival(0, peer, LEECHER));
        }
        let mut seen = vec![0_u32; peers as usize];
        let rounds = 400_000 / u32::from(num_want);
        for round in 0..rounds {
            let asker = round % peers;
            if batch > 1 && round % batch == 0 {
                let due = |n| {
                    let due = arrival(0, (asker + n) % peers, LEECHER);
                    (due.info_hash, Some(due.endpoint))
                };
                store.warm(&(0..batch).map(due).collect::<Vec<_>>());
            }
            let announced = store.announce(Seconds(1), &arrival(0, asker, LEECHER));
            let wish = wish(Some(announced.asker), false, num_want);
            let sample = store.sample(announced.swarm, &wish);
            assert_eq!(sample.count(Family::V4), usize::from(num_want));
            sample.each(|chunk| {
                for endpoint in chunk.endpoints().chunks_exact(6) {
                    let peer = u32::from_be_bytes([0, endpoint[1], endpoint[2], endpoint[3]]);
                    assert_ne!(peer, asker);
                    seen[peer as usize] += 1;
                }
            });
        }
        let expected = f64::from(rounds) * f64::from(num_want) / f64::from(peers);
        let chi: f64 = seen.iter().map(|&n| (f64::from(n) - expected).powi(2) / expected).sum();
        let freedom = f64::from(peers - 1);
        assert!(chi < freedom + 4.0 * (2.0 * freedom).sqrt(), "{peers} peers: {chi:.1} {seen:?}");
    }
}

#[test]
fn both_kinds_are_present_when_both_exist() {
    let mut store = store(64 << 20, 10_000);
    for peer in 0..1_000 {
        let report = if peer == 500 { SEEDER } else { LEECHER };
        store.announce(Seconds(0), &arrival(0, peer, report));
    }
    let handle = store.find(Seconds(0), &info_hash(0)).expect("it has peers");
    let seeder = arrival(0, 500, SEEDER).endpoint;
    for _ in 0..200 {
        let sample = store.sample(handle, &wish(None, false, 10));
        let mut found = 0;
        sample.each(|chunk| {
            let mut endpoints = chunk.endpoints().chunks_exact(6);
            found += usize::from(endpoints.any(|endpoint| endpoint == seeder.as_bytes()));
        });
        assert_eq!((found, sample.count(Family::V4)), (1, 10));
    }
}

#[test]
fn seeders_are_given_leechers_only_and_nobody_is_given_itself() {
    let mut store = store(64 << 20, 10_000);
    for peer in 0..50 {
        let report = if peer < 40 { SEEDER } else { LEECHER };
        store.announce(Seconds(0), &arrival(0, peer, report));
    }
    for (peer, report, expected) in [(0, SEEDER, 10), (45, LEECHER, 49)] {
        let announced = store.announce(Seconds(1), &arrival(0, peer, report));
        let wish = wish(Some(announced.asker), report.seeder, 200);
        let sample = store.sample(announced.swarm, &wish);
        assert_eq!(sample.count(Family::V4), expected);
    }
}

#[test]
fn a_full_swarm_loses_the_peer_that_announced_longest_ago() {
    let mut store = store(64 << 20, 3);
    for (now, peer) in [(0, 1), (1, 2), (2, 3), (3, 1), (4, 4)] {
        store.announce(Seconds(now), &arrival(0, peer, LEECHER));
        store.check_invariants();
    }
    assert!(!store.stop(Seconds(5), &arrival(0, 2, LEECHER)), "2 had to go");
    for peer in [1, 3, 4] {
        assert!(store.stop(Seconds(5), &arrival(0, peer, LEECHER)));
    }
    assert_eq!((store.totals().evicted_peers, store.removed_peers()), (1, 1));
    assert_eq!(store.totals().swarms, 0);
}

#[test]
fn a_full_swarm_loses_the_oldest_of_all_its_lists() {
    let who = |peer: u32, is_v4: bool| {
        let v6 = Endpoint::new(Ipv6Addr::from(u128::from(peer) | 0x2600 << 112).into(), 1);
        let who = arrival(0, peer, LEECHER);
        Arrival { endpoint: if is_v4 { who.endpoint } else { v6 }, ..who }
    };
    for oldest in [true, false] {
        for others in [[true, true], [true, false], [false, true], [false, false]] {
            let mut store = store(64 << 20, 3);
            // The list of the other family is the first, and has younger peers alone.
            let first = who(9, !oldest);
            store.announce(Seconds(0), &first);
            store.announce(Seconds(1), &who(1, oldest));
            store.announce(Seconds(2), &first);
            store.announce(Seconds(2), &who(2, others[0]));
            store.announce(Seconds(3), &who(3, others[1]));
            store.check_invariants();
            assert_eq!(store.totals().evicted_peers, 1);
            assert!(!store.stop(Seconds(4), &who(1, oldest)), "it had to go");
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn who_expired_stays_so_when_stamps_wrap_around_and_nobody_sweeps() {
    // Stamps of this store have a unit of a second and 14 bits.
    let mut store = store(1 << 20, 10_000);
    store.announce(Seconds(0), &arrival(0, 1, LEECHER));
    for now in (0..(1 << 14) + 1_000).step_by(990) {
        store.announce(Seconds(now), &arrival(1, 2, LEECHER));
    }
    let now = Seconds((1 << 14) + 1_000);
    assert_eq!(store.find(now, &info_hash(0)), None);
    let handle = store.find(now, &info_hash(1)).expect("its peer came again and again");
    assert_eq!(store.counts(handle).leechers, 1);
}

#[test]
fn a_list_is_small_as_far_as_a_scan_is_quick() {
    let mut store = store(64 << 20, 10_000);
    let mut is_large = |peer| {
        store.announce(Seconds(0), &arrival(0, peer, LEECHER));
        let swarm = store.swarms.find(&info_hash(0)).expect("it has peers");
        store.swarms.lists.head(swarm).is_large()
    };
    let small = u32::try_from(SMALL_MAX).expect("a few");
    assert!((0..small).all(|peer| !is_large(peer)));
    assert!(is_large(small));
}

/// Of the same class as many peers more would be, and yet it would need another span.
#[test]
fn what_has_to_become_large_does_not_fit() {
    let mut store = store(64 << 20, 10_000);
    let small = u32::try_from(SMALL_MAX).expect("a few");
    for hash in 0..2 {
        (0..small).for_each(|peer| _ = store.announce(Seconds(0), &arrival(hash, peer, LEECHER)));
    }
    let fits = |store: &SwarmStore, hash, peer| {
        let Arrival { info_hash, endpoint, scope, .. } = arrival(hash, peer, LEECHER);
        store.swarms.fits(&info_hash, &endpoint, scope)
    };
    assert!(!fits(&store, 0, small));
    store.stop(Seconds(0), &arrival(0, 0, LEECHER));
    assert!(fits(&store, 0, small));
    // In its own block, though there is no other.
    let swarm = store.swarms.find(&info_hash(0)).expect("it has peers");
    let class = store.swarms.lists.head(swarm).class();
    let slab = &mut store.swarms.lists.slab;
    while slab.has_room(Use::Swarms, class) {
        let _ = slab.allocate(Use::Swarms, class);
    }
    assert!(fits(&store, 0, small));
    assert!(!fits(&store, 1, small));
    // There is room for two peers, but not for three.
    for (hash, peers) in [(10, 1), (11, 2), (12, 2), (13, 3)] {
        (0..peers).for_each(|peer| _ = store.announce(Seconds(0), &arrival(hash, peer, LEECHER)));
    }
    let swarm = store.swarms.find(&info_hash(13)).expect("it has peers");
    let class = store.swarms.lists.head(swarm).class();
    let slab = &mut store.swarms.lists.slab;
    while slab.has_room(Use::Swarms, class) {
        let _ = slab.allocate(Use::Swarms, class);
    }
    assert!(fits(&store, 10, 9) && !fits(&store, 11, 9));
    // Then its runs and its index decide.
    let needed = (small..2_000).filter(|&peer| {
        store.announce(Seconds(0), &arrival(1, peer, LEECHER));
        !fits(&store, 1, peer + 1)
    });
    let needed = needed.count();
    assert!((10..100).contains(&needed), "{needed} of so many peers");
}

#[test]
fn after_a_long_pause_nobody_is_left_and_no_memory() {
    let mut store = store(64 << 20, 10_000);
    for n in 0..300 {
        store.announce(Seconds(0), &arrival(n, n, LEECHER));
    }
    store.sweep(Seconds(3_001));
    let totals = store.totals();
    assert_eq!((totals.swarms, totals.expired_peers), (0, 300));
    assert_eq!(store.removed_peers(), 300);
    assert_eq!((totals.bytes, totals.leechers), (0, [0; 2]));
    store.check_invariants();
}

#[test]
fn a_large_list_that_becomes_small_is_what_it_was() {
    let bounds = Bounds { keep_peer_ids: true, ..store(64 << 20, 10_000).bounds };
    let mut store = SwarmStore::new(bounds, HashKey(7, 8), Rng::new(9)).expect("memory");
    for (swarm, is_v4) in [(1, true), (2, false)] {
        let who = |peer: u32| {
            let report = Report { partial: peer % 5 == 1, ..[SEEDER, LEECHER][peer as usize % 2] };
            let v6 = Ipv6Addr::from(u128::from(peer) | 0x2600 << 112).into();
            let who = arrival(swarm, peer, report);
            let ip = if is_v4 { who.endpoint.ip() } else { v6 };
            Arrival {
                endpoint: Endpoint::new(ip, 9),
                peer_id: PeerId([peer.to_be_bytes()[3]; 20]),
                ..who
            }
        };
        for peer in 0..400 {
            store.announce(Seconds(0), &who(peer));
        }
        let before = *store.swarms.lists.head(store.swarms.find(&info_hash(swarm)).expect("there"));
        assert!(before.is_large());
        for peer in 30..400 {
            assert!(store.stop(Seconds(1), &who(peer)));
            store.check_invariants();
        }
        let head = *store.swarms.lists.head(store.swarms.find(&info_hash(swarm)).expect("there"));
        assert!(!head.is_large() && head.is_first());
        assert_eq!(head.is_on_probation(), before.is_on_probation());
        let handle = store.find(Seconds(1), &info_hash(swarm)).expect("it has peers");
        let counts = Counts { seeders: 15, leechers: 15, partial: 3, completed: 0 };
        assert_eq!(store.counts(handle), counts);
        let mut found = Vec::new();
        let all = Wish { family: None, ..wish(None, false, 100) };
        store.sample(handle, &all).each(|chunk| {
            let endpoints = chunk.endpoints().chunks_exact(chunk.family().endpoint_bytes());
            found.extend(endpoints.map(<[u8]>::to_vec).zip(chunk.ids().iter().copied()));
        });
        found.sort_unstable();
        let expected = (0..30).map(who).map(|who| (who.endpoint.as_bytes().to_vec(), who.peer_id));
        assert!(found.into_iter().eq(expected));
    }
}

#[test]
fn ids_are_kept_in_lists_of_all_sizes() {
    let bounds = Bounds { keep_peer_ids: true, ..store(64 << 20, 10_000).bounds };
    let mut store = SwarmStore::new(bounds, HashKey(7, 8), Rng::new(9)).expect("memory");
    for round in [1, 2] {
        for peer in 0..300 {
            let peer_id = PeerId([round; 20]);
            store.announce(Seconds(0), &Arrival { peer_id, ..arrival(0, peer, LEECHER) });
            if peer % 50 == 0 {
                let found = store.peers(Seconds(0), &info_hash(0), 0, 1_000);
                let of_round = found.iter().filter(|found| found.peer_id == Some(peer_id)).count();
                assert_eq!(of_round, peer as usize + 1);
            }
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn what_large_lists_have_elsewhere_counts() {
    let mut store = store(64 << 20, 1_000_000);
    for swarm in 0..100 {
        for peer in 0..200 {
            store.announce(Seconds(0), &arrival(swarm, peer, LEECHER));
        }
    }
    let beside = |store: &SwarmStore| store.swarms.lists.bytes() - store.swarms.lists.slab.bytes();
    let places = beside(&store);
    assert!((100 * 100..200 * 400).contains(&places), "{places}");
    for peer in 200..60_000 {
        store.announce(Seconds(0), &arrival(0, peer, LEECHER));
    }
    // The runs of the longest, and the shards of its index.
    assert!(beside(&store) > places + 60_000 / 560 * 8 + 100, "{} {places}", beside(&store));
    let before = beside(&store);
    (50..100).for_each(|swarm| store.forget(&info_hash(swarm)));
    assert!(beside(&store) >= before + 50 * 4, "their places wait for others");
    let before = beside(&store);
    store.forget(&info_hash(0));
    let freed = before - beside(&store);
    assert!((900..2_000).contains(&freed), "{freed}: its runs and the shards of its index");
    let of_blocks = |store: &SwarmStore| store.totals().block_bytes.iter().sum::<u64>();
    assert_eq!(of_blocks(&store), store.swarms.lists.slab.bytes() as u64);
    // The shards of the store's own index.
    let elsewhere = |store: &SwarmStore| store.totals().bytes - of_blocks(store);
    let before = elsewhere(&store);
    (1_000..6_000).for_each(|swarm| _ = store.announce(Seconds(0), &arrival(swarm, 1, LEECHER)));
    assert!(elsewhere(&store) > before + 5_000 / 560 * 8);
    (0..6_000).for_each(|swarm| store.forget(&info_hash(swarm)));
    assert_eq!(store.totals().bytes, 0);
}

/// Lists that become shorter need blocks of other classes before theirs are free.
#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn memory_goes_back_though_all_of_it_is_in_use() {
    let mut store = store(64 << 20, 10_000);
    for peer in 0..20 {
        for swarm in 0..20_000 {
            store.announce(Seconds(peer / 10 * 100), &arrival(swarm, peer, LEECHER));
        }
    }
    let full = store.totals().bytes;
    // Half of the peers of each swarm expire.
    for second in 3_001..3_060 {
        while store.sweep(Seconds(second)) {}
    }
    assert_eq!((store.totals().leechers[0], store.totals().expired_peers), (200_000, 200_000));
    let half = store.totals().bytes;
    assert!(half < full * 3 / 4, "{half} of {full} bytes are left");
    store.check_invariants();
}

#[test]
fn a_clock_that_steps_back_lets_nobody_expire() {
    let mut store = store(64 << 20, 10_000);
    store.announce(Seconds(100), &arrival(0, 1, LEECHER));
    store.announce(Seconds(99), &arrival(0, 2, LEECHER));
    let handle = store.find(Seconds(98), &info_hash(0)).expect("it has peers");
    assert_eq!(store.counts(handle).leechers, 2);
    store.check_invariants();
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn a_lone_peer_that_comes_back_makes_its_swarm_real() {
    let mut store = store(1 << 20, 10_000);
    store.announce(Seconds(0), &arrival(0, 1, LEECHER));
    store.announce(Seconds(CAME_BACK_SECS), &arrival(0, 1, LEECHER));
    for fake in 0..20_000 {
        store.announce(Seconds(CAME_BACK_SECS), &arrival(1_000 + fake, fake, LEECHER));
    }
    assert!(store.totals().evicted_swarms > 0);
    assert!(store.find(Seconds(CAME_BACK_SECS), &info_hash(0)).is_some());
}

#[test]
fn downloads_are_told_for_a_peers_life_after_the_last_peer_of_any_family_stopped() {
    let mut store = store(64 << 20, 100);
    let first = |report| arrival(1, 1, report);
    let endpoint = Endpoint::new(Ipv6Addr::from(0x2606_u128 << 112).into(), 6881);
    let other = Arrival { endpoint, ..arrival(1, 2, SEEDER) };
    store.announce(Seconds(1_000), &first(LEECHER));
    store.announce(Seconds(1_000), &first(SEEDER));
    store.announce(Seconds(1_000), &other);
    assert!(store.stop(Seconds(1_000), &first(SEEDER)));
    assert!(store.stop(Seconds(2_000), &other));
    let swarm = store.find(Seconds(5_000), &info_hash(1)).expect("it stays for 3,000 seconds");
    assert_eq!(store.counts(swarm), Counts { completed: 1, ..Counts::default() });
    store.check_invariants();
    assert_eq!(store.find(Seconds(5_001), &info_hash(1)), None);
}

#[test]
fn stopped_and_scrapes_create_nothing() {
    let mut store = store(64 << 20, 10_000);
    for n in 0..1_000 {
        assert!(!store.stop(Seconds(0), &arrival(n, n, LEECHER)));
        assert_eq!(store.find(Seconds(0), &info_hash(n)), None);
    }
    assert_eq!(store.totals(), Totals { budget_bytes: 64 << 20, ..Totals::default() });
}

#[test]
fn private_peers_are_for_their_own_range_only() {
    let mut store = store(64 << 20, 10_000);
    let at = |ip: [u8; 4]| {
        let ip = Ipv4Addr::from(ip).into();
        Arrival {
            endpoint: Endpoint::new(ip, 6881),
            scope: Scope::of(ip),
            ..arrival(0, 0, LEECHER)
        }
    };
    for ip in [[10, 0, 0, 1], [10, 0, 0, 2], [192, 168, 0, 1], [127, 0, 0, 1], [8, 8, 8, 8]] {
        store.announce(Seconds(0), &at(ip));
    }
    let handle = store.find(Seconds(0), &info_hash(0)).expect("it has peers");
    for (ip, expected) in [([9, 9, 9, 9], 1), ([10, 9, 9, 9], 3), ([192, 168, 9, 9], 2)] {
        let wish = Wish { scope: at(ip).scope, ..wish(None, false, 50) };
        assert_eq!(store.sample(handle, &wish).count(Family::V4), expected, "{ip:?}");
    }
    assert_eq!(store.counts(handle).leechers, 5, "everybody counts");
}

/// What looks like the swarm, where the swarm was, is not taken for it once its span has another
/// use: peers choose the bytes that are there.
#[test]
fn a_hint_is_not_believed_when_its_span_was_given_up() {
    let mut store = store(64 << 20, 100);
    let known = arrival(1, 1, LEECHER);
    store.announce(Seconds(0), &known);
    store.warm(&[(known.info_hash, None); 3]);
    let SwarmHandle(place) = store.find(Seconds(0), &known.info_hash).expect("it was announced");
    let head = *store.swarms.lists.head(place);
    assert!(store.stop(Seconds(0), &known), "it leaves, and its span is empty");
    let block = store.swarms.lists.slab.allocate(Use::Parts, Class::of(8_192));
    assert_eq!(block.span(), place.span());
    *store.swarms.lists.head_mut(place) = head;
    assert!(store.find(Seconds(0), &known.info_hash).is_none());
    store.swarms.lists.slab.free(block);
    store.check_invariants();
}

/// Whatever was expected, each gets its own.
#[test]
fn hints_in_another_order_change_nothing() {
    let (peers, turns) = if cfg!(miri) { (20, 2) } else { (200, 64) };
    let mut store = store(64 << 20, 1_000);
    for peer in 0..peers {
        for swarm in 0..4 {
            store.announce(Seconds(0), &arrival(swarm, peer * (1 + swarm), LEECHER));
        }
    }
    let due: Vec<Arrival> =
        (0..64).map(|n| arrival(n % 4, (n / 4) * (1 + n % 4), LEECHER)).collect();
    for turn in 0..turns {
        let hinted = due.iter().cycle().skip(turn).take(64);
        store.warm(&hinted.map(|due| (due.info_hash, Some(due.endpoint))).collect::<Vec<_>>());
        for (n, due) in due.iter().enumerate().skip(turn % 3) {
            let announced = store.announce(Seconds(1), due);
            assert!(!announced.joined, "{turn} {n}");
            assert_eq!(announced.counts.leechers, peers);
        }
        store.check_invariants();
    }
    assert_eq!(store.totals().leechers[0], u64::from(4 * peers));
}

/// A store without room for another peer lets nobody go for one it knows.
#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn a_known_peer_that_says_something_new_needs_no_room() {
    let mut store = store(1 << 20, 100);
    let known = arrival(0, 1, LEECHER);
    store.announce(Seconds(0), &known);
    let mut swarm = 1;
    while store.fits(&arrival(0, 2, LEECHER)) {
        store.announce(Seconds(0), &arrival(swarm, 1, LEECHER));
        swarm += 1;
    }
    for (report, completed) in [(SEEDER, true), (LEECHER, false), (SEEDER, false)] {
        let announced = store.announce(Seconds(1), &Arrival { report, ..known });
        assert_eq!((announced.joined, announced.completed), (false, completed));
    }
    assert_eq!(store.totals().evicted_swarms, 0);
    assert_eq!(store.totals().swarms, u64::from(swarm));
    store.announce(Seconds(1), &arrival(0, 2, LEECHER));
    assert!(store.totals().evicted_swarms > 0, "a newcomer does");
}

#[test]
fn newcomers_come_in_if_they_are_admitted_and_others_are_not_asked_for() {
    let mut store = store(16 << 20, 10_000);
    let v6 = Endpoint::new(Ipv6Addr::new(0x2600, 1, 0, 0, 0, 0, 0, 1).into(), 1);
    let (one, other) = (arrival(0, 1, LEECHER), arrival(0, 2, LEECHER));
    let third = Arrival { endpoint: v6, ..one };
    let mut asked = Vec::new();
    // Known ones that say something new are no newcomers, in a swarm of one list or of two.
    let changed = Arrival { report: SEEDER, ..one };
    let back = Arrival { report: SEEDER, ..third };
    for who in [&one, &one, &changed, &one, &other, &other, &third, &third, &back, &changed, &one] {
        let admit = |newcomer, _: &Company<'_>| {
            asked.push(newcomer);
            Ok::<(), ()>(())
        };
        store.announce_if(Seconds(0), who, admit).expect("admitted");
    }
    assert_eq!(asked, [Newcomer::Swarm, Newcomer::Peer, Newcomer::Peer]);
    for swarm in [0, 1] {
        let refused = store.announce_if(Seconds(0), &arrival(swarm, 3, LEECHER), |_, _| Err("no"));
        assert_eq!(refused.map(|announced| announced.counts), Err("no"));
    }
    store.check_invariants();
    assert_eq!((store.totals().leechers, store.totals().seeders), ([2, 0], [0, 1]));
    assert_eq!(store.totals().swarms, 1);
}

#[test]
fn who_has_expired_is_a_newcomer_and_no_company() {
    let own = |port| {
        let endpoint = Endpoint::new(Ipv4Addr::new(9, 9, 9, 9).into(), port);
        Arrival { endpoint, ..arrival(0, 0, LEECHER) }
    };
    let asked = |store: &mut SwarmStore, now, who: &Arrival| {
        let mut asked = None;
        let answer = store.announce_if(Seconds(now), who, |newcomer, company| {
            asked = Some((newcomer, company.of_source()));
            Err(())
        });
        (answer.is_ok(), asked)
    };
    let mut store = store(64 << 20, 100);
    for port in 1..=5 {
        store.announce(Seconds(0), &own(port));
    }
    store.announce(Seconds(1_000), &arrival(0, 1, LEECHER));
    assert_eq!(asked(&mut store, 3_000, &own(9)), (false, Some((Newcomer::Peer, 5))));
    assert_eq!(asked(&mut store, 3_000, &own(5)), (true, None));
    assert_eq!(asked(&mut store, 3_001, &own(4)), (false, Some((Newcomer::Peer, 1))));
    assert_eq!(asked(&mut store, 4_001, &own(9)), (false, Some((Newcomer::Peer, 1))));
    assert_eq!(asked(&mut store, 6_001, &own(5)), (false, Some((Newcomer::Swarm, 0))));
    store.check_invariants();
}

/// However many swarms somebody is refused, nobody has to go for them.
#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn who_is_not_admitted_displaces_nobody() {
    let mut store = store(4 << 20, 10_000);
    for n in 0..100_000 {
        store.announce(Seconds(0), &arrival(n, 1, LEECHER));
    }
    let before = store.totals();
    assert!(before.evicted_swarms > 0, "it is full");
    for n in 0..10_000 {
        let new = arrival(1_000_000 + n, 1, LEECHER);
        assert!(store.announce_if(Seconds(0), &new, |_, _| Err(())).is_err());
    }
    assert_eq!(store.totals(), before);
}

#[test]
fn a_swarm_is_looked_into_and_forgotten() {
    for peers in [1, 7, if cfg!(miri) { 20 } else { 300 }] {
        let mut store = store(16 << 20, 10_000);
        let v6 = Endpoint::new(Ipv6Addr::new(0x2600, 1, 0, 0, 0, 0, 0, 1).into(), 1);
        for peer in 0..peers {
            let report = if peer % 3 == 0 { SEEDER } else { LEECHER };
            store.announce(Seconds(peer / 10), &arrival(0, peer, report));
        }
        store.announce(Seconds(50), &Arrival { endpoint: v6, ..arrival(0, 0, SEEDER) });
        store.announce(Seconds(50), &arrival(1, 1, LEECHER));
        let seeders = peers.div_ceil(3) + 1;
        let counts = Counts { seeders, leechers: peers + 1 - seeders, ..Counts::default() };
        assert_eq!(store.look_up(&info_hash(0)), Some(counts));
        let found = store.peers(Seconds(60), &info_hash(0), 0, 1_000);
        let mut expected: Vec<_> = (0..peers)
            .map(|peer| (Some(arrival(0, peer, SEEDER).endpoint), peer % 3 == 0, 60 - peer / 10))
            .chain([(Some(v6), true, 10)])
            .collect();
        let mut seen: Vec<_> =
            found.iter().map(|peer| (peer.endpoint, peer.seeder, peer.seconds)).collect();
        let name = |peer: &(Option<Endpoint>, bool, u32)| peer.0;
        expected.sort_unstable_by_key(name);
        seen.sort_unstable_by_key(name);
        // Stamps count in steps of a few seconds.
        for (seen, expected) in seen.iter().zip(&expected) {
            assert_eq!((seen.0, seen.1), (expected.0, expected.1));
            assert!(seen.2.abs_diff(expected.2) <= 3, "{seen:?} {expected:?}");
        }
        assert_eq!(seen.len(), expected.len());
        let part = store.peers(Seconds(60), &info_hash(0), peers - 1, 2);
        assert_eq!(part, found[peers as usize - 1..]);
        assert!(store.peers(Seconds(60), &info_hash(0), peers + 1, 2).is_empty());
        assert_eq!(store.peers(Seconds(60), &info_hash(0), 0, 1), found[..1]);
        store.forget(&info_hash(0));
        store.forget(&info_hash(9));
        store.check_invariants();
        assert_eq!(store.look_up(&info_hash(0)), None);
        assert_eq!((store.totals().swarms, store.totals().leechers), (1, [1, 0]));
        assert_eq!((store.totals().seeders, store.totals().evicted_peers), ([0, 0], 0));
    }
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn peers_of_one_source_are_counted_and_in_large_swarms_estimated() {
    let v6 = |net: u16, host: u16| Ipv6Addr::new(0x2600, 1, 0, net, 0, 0, 0, host).into();
    let of = |store: &mut SwarmStore, endpoint: Endpoint| {
        let who = Arrival { endpoint, ..arrival(0, 0, LEECHER) };
        let mut count = None;
        let refused = store.announce_if(Seconds(0), &who, |_, company| {
            count = Some(company.of_source());
            Err(())
        });
        assert!(refused.is_err());
        count.expect("it is new")
    };
    let mut store = store(64 << 20, 1_000_000);
    let own = Ipv4Addr::new(9, 9, 9, 9);
    assert_eq!(of(&mut store, Endpoint::new(own.into(), 1)), 0);
    for port in 1..=20 {
        let own = Endpoint::new(own.into(), port);
        store.announce(Seconds(0), &Arrival { endpoint: own, ..arrival(0, 0, LEECHER) });
        let own = Endpoint::new(v6(7, port), 1);
        store.announce(Seconds(0), &Arrival { endpoint: own, ..arrival(0, 0, SEEDER) });
        store.announce(Seconds(0), &arrival(0, port.into(), SEEDER));
    }
    assert_eq!(of(&mut store, Endpoint::new(own.into(), 99)), 20);
    assert_eq!(of(&mut store, Endpoint::new(v6(7, 99), 99)), 20);
    assert_eq!(of(&mut store, Endpoint::new(v6(8, 1), 99)), 0);
    assert_eq!(of(&mut store, Endpoint::new(Ipv4Addr::new(9, 9, 9, 8).into(), 99)), 0);
    for peer in 1_000..50_000 {
        store.announce(Seconds(0), &arrival(0, peer, LEECHER));
        if peer == 4_000 {
            assert_eq!(of(&mut store, Endpoint::new(own.into(), 99)), 20, "exactly");
        }
        if peer == 5_100 {
            // Hardly more than are looked at.
            let about = of(&mut store, Endpoint::new(own.into(), 99));
            assert!((18..=21).contains(&about), "{about}");
        }
    }
    for port in 21..=2_000 {
        let own = Endpoint::new(own.into(), port);
        store.announce(Seconds(0), &Arrival { endpoint: own, ..arrival(0, 0, LEECHER) });
    }
    for port in 3_000..3_100 {
        let about = of(&mut store, Endpoint::new(own.into(), port));
        assert!((800..=4_000).contains(&about), "{about} for 2,000");
    }
    assert_eq!(of(&mut store, Endpoint::new(Ipv4Addr::new(9, 9, 9, 8).into(), 99)), 0);
}

/// Where a source's peers are found does not depend on where in the list they lie.
#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn a_look_at_some_peers_may_fall_on_any() {
    let mut store = store(64 << 20, 1_000_000);
    // Of every 640 in the order in which they came, the second half is of one source.
    let (own, pieces) = (Ipv4Addr::new(9, 9, 9, 9), 64);
    for peer in 0..640 * pieces {
        let mut who = arrival(0, peer, LEECHER);
        if peer % 640 >= 320 {
            let port = 1 + u16::try_from(peer).expect("below 65,535");
            who.endpoint = Endpoint::new(own.into(), port);
        }
        store.announce(Seconds(0), &who);
    }
    let mut found = 0;
    for port in 50_000..50_100 {
        let who = Arrival { endpoint: Endpoint::new(own.into(), port), ..arrival(0, 0, LEECHER) };
        let refused = store.announce_if(Seconds(0), &who, |_, company| {
            found += company.of_source();
            Err(())
        });
        assert!(refused.is_err());
    }
    let share = f64::from(found) / 100.0 / f64::from(640 * pieces);
    assert!((0.35..0.65).contains(&share), "{share}");
}

/// Seeders stand first, leechers last; peers of another family in a list of their own.
#[test]
fn a_second_network_makes_a_swarm_real_wherever_its_peer_stands() {
    let v6 = |report| {
        let ip = Ipv6Addr::from(0x2606_u128 << 112).into();
        Arrival { endpoint: Endpoint::new(ip, 1), ..arrival(0, 0, report) }
    };
    for first in [LEECHER, SEEDER] {
        for second in [arrival(0, 2, LEECHER), arrival(0, 2, SEEDER), v6(LEECHER), v6(SEEDER)] {
            let mut store = store(1 << 20, 100);
            let on_probation = |store: &SwarmStore| {
                let swarm = store.swarms.find(&info_hash(0)).expect("it has peers");
                store.swarms.lists.head(swarm).is_on_probation()
            };
            let who = arrival(0, 1, first);
            let port = Endpoint::new(who.endpoint.ip(), 7);
            store.announce(Seconds(0), &who);
            store.announce(Seconds(0), &Arrival { endpoint: port, ..who });
            assert!(on_probation(&store));
            store.announce(Seconds(0), &second);
            assert!(!on_probation(&store), "{first:?} {second:?}");
        }
    }
}

#[test]
fn who_is_as_old_as_may_be_stays_while_others_expire() {
    let mut store = store(64 << 20, 10_000);
    store.announce(Seconds(0), &arrival(0, 1, LEECHER));
    store.announce(Seconds(1), &arrival(0, 2, LEECHER));
    let handle = store.find(Seconds(3_001), &info_hash(0)).expect("one is there");
    assert_eq!(store.counts(handle).leechers, 1);
    assert_eq!(store.find(Seconds(3_002), &info_hash(0)), None);
}

#[test]
fn all_are_given_up_to_as_many_as_are_wanted() {
    let mut store = store(64 << 20, 10_000);
    for peer in 0..60 {
        store.announce(Seconds(0), &arrival(0, peer, if peer < 20 { SEEDER } else { LEECHER }));
    }
    for (seeder, others) in [(false, 59), (true, 40)] {
        let report = if seeder { SEEDER } else { LEECHER };
        let who = arrival(0, if seeder { 0 } else { 30 }, report);
        for want in 35..65 {
            let announced = store.announce(Seconds(0), &who);
            let sample = store.sample(announced.swarm, &wish(Some(announced.asker), seeder, want));
            assert_eq!(sample.count(Family::V4), others.min(want.into()), "{want}");
        }
    }
}

#[test]
fn seeders_are_given_leechers_only_however_many_there_are() {
    let mut store = store(64 << 20, 10_000);
    for peer in 0..300 {
        store.announce(Seconds(0), &arrival(0, peer, if peer < 100 { SEEDER } else { LEECHER }));
    }
    for _ in 0..100 {
        let announced = store.announce(Seconds(0), &arrival(0, 0, SEEDER));
        let sample = store.sample(announced.swarm, &wish(Some(announced.asker), true, 150));
        assert_eq!(sample.count(Family::V4), 150);
        sample.each(|chunk| {
            for endpoint in chunk.endpoints().chunks_exact(ENDPOINT_V4_BYTES) {
                let ip = u32::from_be_bytes(*endpoint.first_chunk().expect("an address"));
                assert!(ip - 0x0100_0000 >= 100, "{ip:x} is a seeder");
            }
        });
    }
}
