//! Who goes when the budget is full, and when the kernel has no more memory.

use std::net::Ipv6Addr;

use super::super::slab::{Slab, Use};
use super::super::tests::{LEECHER, SEEDER, arrival, info_hash, store};
use super::super::{Bounds, HashKey};
use super::*;
use crate::rng::Rng;
use crate::wire::addr::Endpoint;

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn a_flood_of_invented_hashes_displaces_itself() {
    let budget = 4 << 20;
    let mut store = store(budget, 10_000);
    for now in 0..20 {
        for swarm in 0..200 {
            for peer in 0..5 {
                store.announce(Seconds(now), &arrival(swarm, peer, LEECHER));
            }
        }
        for fake in 0..10_000 {
            let hash = 1_000_000 + now * 10_000 + fake;
            store.announce(Seconds(now), &arrival(hash, fake, LEECHER));
        }
    }
    store.check_invariants();
    let totals = store.totals();
    assert!(totals.bytes <= budget as u64, "{totals:?}");
    assert!(totals.evicted_swarms > 0);
    assert_eq!(totals.evicted_peers, totals.evicted_swarms, "of one peer each");
    for swarm in 0..200 {
        let handle = store.find(Seconds(20), &info_hash(swarm)).expect("a real swarm stays");
        assert_eq!(store.counts(handle).leechers, 5);
    }
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn announcing_twice_or_from_two_ports_does_not_make_a_swarm_real() {
    let budget = 4 << 20;
    let mut store = store(budget, 10_000);
    for swarm in 0..200 {
        for peer in 0..2 {
            store.announce(Seconds(0), &arrival(swarm, peer, LEECHER));
        }
    }
    for fake in 0..120_000 {
        let first = arrival(1_000_000 + fake, 9, LEECHER);
        let other_port = Endpoint::new(first.endpoint.ip(), 7_000);
        store.announce(Seconds(1), &first);
        store.announce(Seconds(2), &first);
        store.announce(Seconds(3), &Arrival { endpoint: other_port, ..first });
    }
    store.check_invariants();
    assert!(store.totals().evicted_swarms > 0);
    for swarm in 0..200 {
        assert!(store.find(Seconds(4), &info_hash(swarm)).is_some(), "a real swarm stays");
    }
}

/// Each swarm has a further list in the smallest class, and nobody is on probation.
#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn swarms_of_both_families_leave_when_the_budget_is_full() {
    let budget = 4 << 20;
    let mut store = store(budget, 10_000);
    for n in 0..100_000 {
        let v4 = arrival(n, 1, LEECHER);
        let v6 = Endpoint::new(std::net::Ipv6Addr::new(0x2600, 1, 0, 0, 0, 0, 0, 1).into(), 1);
        store.announce(Seconds(0), &Arrival { endpoint: v6, ..v4 });
        store.announce(Seconds(0), &v4);
    }
    store.check_invariants();
    assert!(store.totals().evicted_swarms > 40_000, "{:?}", store.totals());
    assert!(store.totals().swarms > 20_000, "{:?}", store.totals());
}

/// No size is common, and all are established.
#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn swarms_of_all_sizes_leave_when_the_budget_is_full() {
    let budget = 4 << 20;
    let mut store = store(budget, 10_000);
    for n in 0..3_000 {
        for peer in 0..n % 200 {
            store.announce(Seconds(n / 100), &arrival(n, peer << 8, LEECHER));
        }
    }
    store.check_invariants();
    assert!(store.totals().evicted_swarms > 500, "{:?}", store.totals());
    assert!(store.totals().bytes > budget as u64 / 2, "{:?}", store.totals());
}

/// What one announce removes is no more than it needs.
#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn large_swarms_leave_one_at_a_time() {
    let mut store = store(16 << 20, 1_000_000);
    for peer in 0..40_000 {
        for n in 0..40 {
            store.announce(Seconds(peer / 100), &arrival(n, peer << 8, LEECHER));
            if store.totals().evicted_swarms > 0 {
                assert_eq!(store.totals().evicted_swarms, 1);
                assert!(store.totals().bytes > 14 << 20);
                return;
            }
        }
    }
    panic!("the budget was never full");
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn one_swarm_takes_half_of_the_budget_at_the_most() {
    let budget = 4 << 20;
    let mut store = store(budget, 1_000_000);
    for peer in 0..50_000 {
        store.announce(Seconds(0), &arrival(0, peer, LEECHER));
    }
    store.check_invariants();
    let totals = store.totals();
    assert!(totals.bytes <= budget as u64);
    let most = budget as u64 / 2 / 64;
    assert_eq!((totals.leechers[0], totals.evicted_swarms), (most, 0));
    assert_eq!(totals.evicted_peers, 50_000 - most);
}

/// A store that may hold 64 MiB, on a kernel that commits to so many pieces of 2 MiB.
fn store_of_pieces(pieces: usize) -> SwarmStore {
    let mut store = store(64 << 20, 1_000_000);
    store.swarms.lists.slab = Slab::of_pieces(pieces);
    store
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn memory_that_the_kernel_does_not_have_is_done_without() {
    let v6 = |n: u32| Endpoint::new(Ipv6Addr::from(u128::from(n) << 64 | 0x2600 << 112).into(), 1);
    let mut bytes = [0; 3];
    // Invented hashes; swarms of all sizes, of both families; large swarms.
    for (load, bytes) in bytes.iter_mut().enumerate() {
        let mut store = store_of_pieces(2);
        assert_eq!(store.totals().budget_bytes, 64 << 20);
        for n in 0..160_000_u32 {
            let who = match load {
                0 => arrival(n, n, LEECHER),
                1 => arrival(n / 400 * 400 + (n % 400).isqrt(), n, SEEDER),
                _ => arrival(n % 4, n, LEECHER),
            };
            let now = Seconds(n / 10_000);
            store.announce(now, &who);
            if load > 0 {
                store.announce(now, &Arrival { endpoint: v6(n), ..who });
            }
            if n % 20_000 == 0 {
                store.check_invariants();
            }
        }
        store.check_invariants();
        let totals = store.totals();
        assert_eq!((totals.budget_bytes, totals.refused_bytes), (4 << 20, 60 << 20), "{load}");
        assert!(totals.bytes <= totals.budget_bytes, "{totals:?}");
        assert!(totals.evicted_swarms > 0, "{totals:?}");
        *bytes = totals.bytes;
    }
    assert!(bytes[..2].iter().all(|&bytes| bytes > 3 << 20), "{bytes:?}");
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn a_kernel_without_memory_is_asked_again_a_minute_later() {
    let mut store = store_of_pieces(1);
    let mut peers = 0..;
    let mut fill = |store: &mut SwarmStore, now, count| {
        for peer in peers.by_ref().take(count) {
            store.announce(Seconds(now), &arrival(peer, peer, LEECHER));
        }
        store.refused
    };
    assert_eq!(fill(&mut store, 10, 60_000), Some(Seconds(10)));
    assert_eq!(fill(&mut store, 69, 10_000), Some(Seconds(10)), "too early");
    assert_eq!(fill(&mut store, 70, 10_000), Some(Seconds(70)), "no more yet");
    assert_eq!(store.totals().budget_bytes, 2 << 20);
    // Its minute has passed, and there is more.
    let mut store = store_of_pieces(3);
    store.refused = Some(Seconds(10));
    assert_eq!(
        (fill(&mut store, 69, 60_000), store.totals().budget_bytes),
        (Some(Seconds(10)), 2 << 20)
    );
    assert_eq!(fill(&mut store, 70, 10_000), None);
    assert_eq!(store.totals().budget_bytes, 64 << 20);
    store.check_invariants();
    // Nobody new has to come for that.
    store.refused = Some(Seconds(70));
    store.sweep(Seconds(129));
    assert_eq!(store.refused, Some(Seconds(70)));
    store.sweep(Seconds(130));
    assert_eq!(store.refused, None);
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn a_sweep_has_twice_the_reserve_ready() {
    let mut store = store(64 << 20, 10_000);
    let mut peers = 0..;
    for free in [2 * RESERVE_SPANS, 2 * RESERVE_SPANS - 1] {
        while store.swarms.lists.slab.free_spans() > free {
            let peer = peers.next().expect("endless");
            store.announce(Seconds(0), &arrival(peer, peer, LEECHER));
        }
        let before = store.swarms.lists.slab.bytes_there();
        store.sweep(Seconds(1));
        let grown = store.swarms.lists.slab.bytes_there() - before;
        assert_eq!(grown, if free < 2 * RESERVE_SPANS { 2 << 20 } else { 0 });
    }
}

/// Whatever comes in which order: nothing needs a span that is not there.
#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn a_store_without_more_memory_lives_through_everything() {
    for seed in 0..6 {
        let mut rng = Rng::new(seed);
        let bounds = Bounds {
            memory_bytes: 64 << 20,
            peers_per_swarm: if seed % 2 == 0 { 300 } else { 100_000 },
            peer_ttl_secs: 100,
            keep_peer_ids: seed % 3 == 0,
        };
        let mut store = SwarmStore::new(bounds, HashKey(1, 2), Rng::new(3)).expect("memory");
        store.swarms.lists.slab = Slab::of_pieces(1);
        let (mut now, mut refused) = (0, false);
        for step in 0..150_000 {
            // Many swarms of a few peers, a few of many, and times at which those take over.
            let swarms = [30_000, 400, 3][(step / 20_000) % 3];
            let (swarm, peer) = (rng.below(swarms), rng.below(600_000 / swarms));
            let who = arrival(swarm, peer, if rng.below(4) == 0 { SEEDER } else { LEECHER });
            let v6 = Ipv6Addr::from(u128::from(peer) | 0x2600 << 112);
            let endpoint =
                if rng.below(3) == 0 { Endpoint::new(v6.into(), 1) } else { who.endpoint };
            let who = Arrival { endpoint, ..who };
            if rng.below(10) == 0 {
                store.stop(Seconds(now), &who);
            } else {
                store.announce(Seconds(now), &who);
            }
            refused |= store.refused.is_some();
            if rng.below(1_000) == 0 {
                now += rng.below(40);
                if rng.below(2) == 0 {
                    store.sweep(Seconds(now));
                }
            }
            if step % 10_000 == 0 {
                store.check_invariants();
            }
        }
        assert!(refused, "{seed}");
    }
}

/// A swarm that has room may expire within the announce, and need another block.
#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn the_reserve_is_there_however_little_an_announce_seems_to_need() {
    let mut store = store_of_pieces(1);
    for n in 0..20_000 {
        for peer in 0..n % 3 + 1 {
            store.announce(Seconds(0), &arrival(n, peer, LEECHER));
        }
    }
    let slab = &mut store.swarms.lists.slab;
    while slab.free_spans() > 0 {
        let _ = slab.allocate(Use::Parts, Class::of(8_192));
    }
    let has_room = |who: &Arrival| store.swarms.fits(&who.info_hash, &who.endpoint, who.scope);
    let newcomer = (0..20_000).map(|n| arrival(n, 9, LEECHER)).find(has_room).expect("somewhere");
    assert!(!store.fits(&newcomer));
    assert!(store.make_room(Seconds(0), &newcomer));
    assert!(store.swarms.lists.slab.free_spans() >= RESERVE_SPANS);
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn one_swarm_takes_half_of_what_the_kernel_has_at_the_most() {
    let mut store = store_of_pieces(1);
    for peer in 0..400_000 {
        store.announce(Seconds(0), &arrival(0, peer << 3, LEECHER));
    }
    // It may have had more than half when the kernel refused. Since then its oldest peers leave.
    let totals = store.totals();
    assert!(totals.evicted_swarms <= 1, "{totals:?}");
    assert_eq!(totals.leechers[0], (2 << 20) / 2 / 64);
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn the_budget_has_room_for_what_an_announce_needs_at_the_most() {
    let budget = 4 << 20;
    let mut store = store(budget, 10_000);
    let mut peers = 0..;
    while store.totals().evicted_swarms == 0 {
        let peer = peers.next().expect("endless");
        store.announce(Seconds(0), &arrival(peer, peer, LEECHER));
    }
    // One span has become free, and the last announce may have taken one.
    let spare = (budget - store.swarms.bytes()) / SPAN_BYTES;
    assert!((RESERVE_SPANS - 1..=RESERVE_SPANS + 1).contains(&spare), "{spare}");
}

/// A new swarm of so many peers, that people use or that is on probation. Returns its span.
fn add_swarm(store: &mut SwarmStore, hash: u32, peers: u32, in_use: bool) -> usize {
    for peer in 0..peers {
        store.announce(Seconds(0), &arrival(hash, peer << 8, LEECHER));
    }
    let swarm = store.swarms.find(&info_hash(hash)).expect("it has peers");
    if in_use && peers == 1 {
        store.swarms.lists.establish(swarm);
    }
    assert_eq!(store.swarms.lists.head(swarm).is_on_probation(), !in_use);
    swarm.span()
}

/// What is chosen if the search begins at a span.
fn choose_from(store: &mut SwarmStore, span: usize) -> Option<(usize, Victims)> {
    let spans = store.swarms.lists.slab.spans();
    store.hand = (span + spans - 1) % spans;
    store.choose_span()
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn spans_go_first_where_a_quarter_is_on_probation() {
    let mut store = store(64 << 20, 10_000);
    let mut hashes = 0..;
    let mut hash = || hashes.next().expect("endless");
    let without = add_swarm(&mut store, hash(), 20, true);
    let some = add_swarm(&mut store, hash(), 1, true);
    let of_span = u32::try_from(SPAN_BYTES / Class::of(44).bytes()).expect("a few");
    // Its first swarm is there already.
    for n in 1..of_span {
        assert_eq!(add_swarm(&mut store, hash(), 1, n >= of_span / 4), some);
    }
    let all = add_swarm(&mut store, hash(), 1, false);
    for _ in 1..of_span {
        assert_eq!(add_swarm(&mut store, hash(), 1, false), all);
    }
    let population = |store: &SwarmStore, span| store.swarms.lists.slab.population(span);
    let used = u16::try_from(of_span).expect("a few");
    assert_eq!(population(&store, without), Some((1, 0)));
    assert_eq!(population(&store, some), Some((used, used / 4 - 1)));
    assert_eq!(population(&store, all), Some((used, used)));
    for span in [without, some, all] {
        assert_eq!(choose_from(&mut store, span), Some((all, Victims::OnProbation)));
        assert_eq!(store.hand, all);
    }
    // A quarter, rounded down.
    let block = store.swarms.find(&info_hash(1)).expect("the first of some");
    store.swarms.lists.slab.mark(block, true);
    assert_eq!(choose_from(&mut store, some), Some((some, Victims::OnProbation)));
}

#[test]
fn probation_of_one_in_thirty_three_is_no_flood() {
    let mut store = store(64 << 20, 10_000);
    let flood = add_swarm(&mut store, 0, 20, true);
    let block = store.swarms.find(&info_hash(0)).expect("it has peers");
    store.swarms.lists.slab.mark(block, true);
    let in_use = add_swarm(&mut store, 1, 1, true);
    for hash in 2..32 {
        add_swarm(&mut store, hash, 1, true);
    }
    assert_eq!(choose_from(&mut store, 0), Some((flood, Victims::OnProbation)));
    add_swarm(&mut store, 32, 1, true);
    // Where no swarms are there is nothing to choose.
    for from in 0..store.swarms.lists.slab.spans() {
        assert_eq!(choose_from(&mut store, from), Some((in_use, Victims::OlderHalf)));
    }
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn the_smallest_swarms_that_are_common_go() {
    let mut store = store(64 << 20, 10_000);
    let mut hashes = 0..;
    let mut fill = |store: &mut SwarmStore, peers, spans| {
        let hash = hashes.next().expect("endless");
        let class = add_swarm(store, hash, peers, true);
        let class = store.swarms.lists.slab.class(class).expect("a swarm's");
        while store.swarms.lists.slab.spans_of(class) < spans {
            add_swarm(store, hashes.next().expect("endless"), peers, true);
        }
        class
    };
    let small = fill(&mut store, 1, 2);
    // Of thirty-one spans they have more than one in sixteen, of thirty-two as many.
    let large = fill(&mut store, 20, 29);
    let chosen = |store: &mut SwarmStore| {
        let (span, victims) = choose_from(store, 0).expect("swarms are there");
        assert_eq!(victims, Victims::OlderHalf);
        store.swarms.lists.slab.class(span)
    };
    assert_eq!(chosen(&mut store), Some(small));
    assert_eq!(fill(&mut store, 20, 30), large);
    assert_eq!(chosen(&mut store), Some(large));
}

/// Fills spans with swarms of one peer that people use, and forgets two of three of them.
fn three_spans_of_single_peers(store: &mut SwarmStore, forget: bool) -> [usize; 3] {
    let of_span = u32::try_from(SPAN_BYTES / Class::of(44).bytes()).expect("a few");
    let spans = [0, 1, 2].map(|n| {
        let hashes = n * of_span..(n + 1) * of_span;
        let spans: Vec<usize> = hashes.map(|hash| add_swarm(store, hash, 1, true)).collect();
        assert!(spans.iter().all(|span| *span == spans[0]));
        spans[0]
    });
    if forget {
        (0..3 * of_span)
            .filter(|hash| hash % 3 > 0)
            .for_each(|hash| store.forget(&info_hash(hash)));
    }
    spans
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn what_is_left_of_a_span_moves_where_there_is_room() {
    // The last is the one from which blocks would be taken.
    for (forget, last) in [(true, 1), (true, 2), (false, 1), (false, 2)] {
        let mut store = store(64 << 20, 10_000);
        let mut spans = three_spans_of_single_peers(&mut store, forget);
        spans.swap(1, last);
        let before = spans.map(|span| store.swarms.lists.slab.population(span).expect("used").0);
        let newcomer = arrival(1_000_000, 1, LEECHER);
        let now = store.clock.stamp(Seconds(0));
        store.clear_span(now, spans[1], Victims::OlderHalf, &newcomer);
        store.check_invariants();
        let evicted = store.totals().evicted_swarms;
        assert_eq!(evicted, u64::from(before[1].div_ceil(2)));
        let [first, cleared, last] = spans.map(|span| store.swarms.lists.slab.population(span));
        let left = before[1] / 2;
        if forget {
            assert_eq!(cleared, None, "it is free for any class");
            let [first, last] = [first, last].map(|population| population.expect("used").0);
            assert_eq!(first + last, before[0] + before[2] + left);
        } else {
            assert_eq!(cleared, Some((left, 0)), "nobody else has room");
            assert_eq!((first, last), (Some((before[0], 0)), Some((before[2], 0))));
            let blocks = store.swarms.iter().filter(|block| block.span() == spans[1]).count();
            assert_eq!(blocks, usize::from(left));
        }
    }
}
