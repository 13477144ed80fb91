//! The store beside a list of peers that is searched from end to end.

use std::collections::BTreeMap;
use std::convert::Infallible;

use super::*;
use crate::limits::WEB_OFFERS_MAX;
use crate::swarm::FoundPeer;

const TTL: u32 = 360;

impl WebStore {
    /// A peer joins or stays.
    fn announce(&mut self, now: Seconds, arrival: &WebArrival) -> Result<WebAnnounced, Full> {
        self.announce_if(now, arrival, |_, _| Ok::<(), Infallible>(())).map_err(|refused| {
            match refused {
                WebRefused::Full => Full,
                WebRefused::NotAdmitted(never) => match never {},
            }
        })
    }
}

/// There is no memory for another peer.
#[derive(Debug)]
struct Full;

fn bounds() -> WebBounds {
    WebBounds { memory_bytes: 1 << 20, peers_per_swarm: 40, peer_ttl_secs: TTL }
}

fn store(seed: u64) -> WebStore {
    WebStore::new(bounds(), HashKey(seed, !seed), Rng::new(seed))
}

fn hash(n: u32) -> InfoHash {
    let mut hash = [7; 20];
    hash[16..].copy_from_slice(&n.to_be_bytes());
    InfoHash(hash)
}

fn arrival(swarm: u32, connection: u64, id: u8, seeder: bool) -> WebArrival {
    WebArrival {
        info_hash: hash(swarm),
        place: Place { core: u16::from(id & 1), connection },
        peer_id: PeerId([id; 20]),
        source: connection % 5,
        family: if connection.is_multiple_of(3) { Family::V6 } else { Family::V4 },
        report: Report { seeder, partial: false, completed: false },
    }
}

#[derive(Clone, Copy, Debug)]
struct Known {
    seeder: bool,
    partial: bool,
    completed: bool,
    announced: Seconds,
}

#[test]
fn agrees_with_a_list_of_peers() {
    let (seeds, steps) = if cfg!(miri) { (1, 100) } else { (40, 2_000) };
    for seed in 0..seeds {
        let (mut rng, mut store) = (Rng::new(seed), store(seed));
        let mut model: BTreeMap<(u32, Place, PeerId), Known> = BTreeMap::new();
        let mut completed: BTreeMap<u32, u32> = BTreeMap::new();
        let mut now = Seconds(1_000);
        for step in 0..steps {
            let swarm = rng.below(6);
            let id = u8::try_from(rng.below(3)).expect("small");
            let mut who = arrival(swarm, u64::from(rng.below(20)), id, rng.below(3) == 0);
            who.report.partial = rng.below(5) == 0;
            who.report.completed = rng.below(5) == 0;
            let key = (swarm, who.place, who.peer_id);
            match rng.below(8) {
                0 => {
                    let left = store.leave(now, &who.info_hash, who.place, &who.peer_id);
                    assert_eq!(left, model.remove(&key).is_some());
                }
                1 => now = now.plus(rng.below(40)),
                2 => store.sweep(now),
                _ => {
                    let crowd = model.keys().filter(|key| key.0 == swarm).count();
                    let announced = store.announce(now, &who).expect("room");
                    let before = model.get(&key).copied();
                    assert_eq!(announced.joined, before.is_none());
                    assert_eq!(announced.evicted, u32::from(before.is_none() && crowd == 40));
                    let (seeder, partial) =
                        (who.report.seeder, who.report.partial && !who.report.seeder);
                    let finished = before.is_some_and(|known| {
                        !known.seeder && !known.completed && (seeder || who.report.completed)
                    });
                    assert_eq!(announced.completed, finished);
                    *completed.entry(swarm).or_default() += u32::from(finished);
                    let done = finished || before.is_some_and(|known| known.completed);
                    let known = Known { seeder, partial, completed: done, announced: now };
                    model.insert(key, known);
                    assert_eq!(store.find(&who.info_hash), Some(announced.swarm));
                }
            }
            // Eviction and expiry choose by themselves, within their bounds.
            let ttl = store.bounds.peer_ttl_secs;
            model.retain(|(swarm, place, peer_id), known| {
                let there = store
                    .find_swarm(&hash(*swarm))
                    .is_some_and(|at| store.find_key(at, *place, peer_id).is_some());
                assert!(there || now.since(known.announced) > ttl, "step {step}");
                there
            });
            store.check_invariants();
            for swarm in 0..6 {
                let all = model.iter().filter(|(key, _)| key.0 == swarm);
                let (mut seeders, mut leechers, mut partial) = (0, 0, 0);
                for (_, known) in all {
                    seeders += u32::from(known.seeder);
                    leechers += u32::from(!known.seeder);
                    partial += u32::from(known.partial);
                }
                let counts = store.counts(&hash(swarm));
                assert_eq!(
                    (counts.seeders, counts.leechers, counts.partial),
                    (seeders, leechers, partial)
                );
                if store.find(&hash(swarm)).is_some() {
                    assert_eq!(counts.completed, completed.get(&swarm).copied().unwrap_or(0));
                } else {
                    completed.remove(&swarm);
                }
            }
        }
        now = now.plus(2 * TTL);
        for _ in 0..4 {
            store.sweep(now);
        }
        store.check_invariants();
        assert!(store.is_empty());
        assert_eq!(store.totals().seeders, [0; 2]);
        assert_eq!((store.bytes(), store.members.slots.capacity()), (0, 0));
    }
}

#[test]
fn a_swarm_stays_without_peers_only_to_tell_about_downloads() {
    let mut store = store(1);
    let leave = |store: &mut WebStore, who: &WebArrival| {
        assert!(store.leave(Seconds(2), &who.info_hash, who.place, &who.peer_id));
    };
    let (one, other) = (arrival(0, 1, 1, false), arrival(1, 1, 1, false));
    for who in [&one, &other] {
        store.announce(Seconds(1), who).expect("room");
    }
    store.announce(Seconds(1), &arrival(1, 1, 1, true)).expect("room");
    leave(&mut store, &one);
    leave(&mut store, &other);
    assert_eq!(store.find(&one.info_hash), None);
    assert_eq!(store.counts(&other.info_hash), Counts { completed: 1, ..Counts::default() });
    for now in [3, 2 + TTL] {
        store.sweep(Seconds(now));
        assert_eq!((store.totals().swarms, store.totals().active_swarms), (1, 0));
    }
    store.check_invariants();
    store.sweep(Seconds(2 + TTL + 1));
    assert_eq!(store.totals().swarms, 0);
}

#[test]
fn who_is_elsewhere_too_and_who_expired_is_counted() {
    let mut store = store(1);
    let swarms = [0, 1].map(|swarm| {
        let announced = store.announce(Seconds(0), &arrival(swarm, 1, 1, false)).expect("room");
        store.announce(Seconds(0), &arrival(swarm, 2, 1, false)).expect("room");
        announced.swarm
    });
    for (swarm, is_shared, expected) in [
        (swarms[0], true, 1),
        (swarms[0], true, 1),
        (swarms[1], true, 2),
        (swarms[0], false, 1),
        (swarms[0], false, 1),
    ] {
        store.set_shared(swarm, is_shared);
        assert_eq!(store.totals().shared_swarms, expected);
    }
    // It has no peers here any more, so it has none here and elsewhere.
    for connection in [1, 2] {
        let WebArrival { info_hash, place, peer_id, .. } = arrival(1, connection, 1, false);
        assert_eq!(store.totals().shared_swarms, 1);
        assert!(store.leave(Seconds(1), &info_hash, place, &peer_id));
    }
    assert_eq!((store.totals().shared_swarms, store.totals().expired_peers), (0, 0));
    store.sweep(Seconds(TTL));
    assert_eq!(store.totals().expired_peers, 0);
    store.sweep(Seconds(TTL + 1));
    assert_eq!(store.totals().expired_peers, 2);
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn a_full_swarm_loses_one_that_announced_long_ago() {
    let mut store = store(1);
    for n in 0..200 {
        let now = Seconds(1_000 + u32::try_from(n).expect("small"));
        let announced = store.announce(now, &arrival(0, n, 0, false)).expect("room");
        assert_eq!(announced.evicted, u32::from(n >= 40));
        assert_eq!(store.counts(&hash(0)).leechers, 40.min(u32::try_from(n).expect("small") + 1));
        store.check_invariants();
    }
    // The newest ten are there: sixteen looks find somebody older.
    let there = |n| store.find_key(0, arrival(0, n, 0, false).place, &PeerId([0; 20])).is_some();
    assert!((190..200).all(there));
    assert_eq!(store.totals().evicted_peers, 160);
}

#[test]
fn what_one_more_would_take_is_what_it_takes() {
    let mut store = store(1);
    // The last is of the first one's source.
    for (n, is_there) in [(0, false), (1, true), (2, true), (5, true)] {
        let swarm = store.find_swarm(&hash(0));
        assert_eq!(swarm.is_some(), is_there);
        let who = arrival(0, n, 0, false);
        let expected = store.bytes() + store.bytes_of_one(swarm, who.source);
        store.announce(Seconds(1), &who).expect("room");
        assert_eq!(store.bytes(), expected);
    }
}

#[test]
fn a_swarm_that_has_lost_most_of_its_peers_gives_memory_back() {
    let bounds = WebBounds { peers_per_swarm: 1_000, ..bounds() };
    let mut store = WebStore::new(bounds, HashKey(1, 2), Rng::new(3));
    for n in 0..1_000 {
        store.announce(Seconds(1), &arrival(0, n, 0, false)).expect("room");
    }
    for n in 10..1_000 {
        assert!(store.leave(Seconds(1), &hash(0), arrival(0, n, 0, false).place, &PeerId([0; 20])));
    }
    let swarm = store.find_swarm(&hash(0)).expect("ten are there");
    let members = &store.swarms.get(swarm).members;
    assert_eq!(members.len(), 10);
    assert!((30..40).contains(&members.capacity()), "{}", members.capacity());
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn without_memory_newcomers_are_refused_and_the_others_stay() {
    let mut store =
        WebStore::new(WebBounds { memory_bytes: 20_000, ..bounds() }, HashKey(1, 2), Rng::new(3));
    let mut taken = 0;
    let mut next = 0..10_000_u32;
    while let Some(n) = next.next()
        && store.announce(Seconds(1), &arrival(n, u64::from(n), 0, false)).is_ok()
    {
        taken += 1;
    }
    assert!((50..200).contains(&taken), "{taken}");
    assert!(store.bytes() <= 20_000);
    assert!(store.announce(Seconds(2), &arrival(0, 0, 0, true)).is_ok());
    assert!(store.leave(Seconds(2), &hash(0), arrival(0, 0, 0, true).place, &PeerId([0; 20])));
    assert!(store.announce(Seconds(2), &arrival(0, 5_000, 0, true)).is_ok());
    store.check_invariants();
}

/// A store that is soon full.
fn narrow_store() -> WebStore {
    WebStore::new(WebBounds { memory_bytes: 40_000, ..bounds() }, HashKey(1, 2), Rng::new(3))
}

/// A peer of a source, in a swarm of its own.
fn alone(n: u32, source: u64) -> WebArrival {
    WebArrival { source, ..arrival(n, u64::from(n), 0, false) }
}

/// Peers of sources that are new each time come until the first is refused; how many came.
fn fill(store: &mut WebStore, now: Seconds, source: impl Fn(u32) -> u64) -> u32 {
    let mut taken = 0;
    while taken < 1_000 && store.announce(now, &alone(taken, source(taken))).is_ok() {
        taken += 1;
    }
    assert!((50..200).contains(&taken) && store.bytes() <= store.bounds.memory_bytes, "{taken}");
    taken
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn who_has_most_gives_way_until_shares_are_even_and_who_has_little_keeps_it() {
    let mut store = narrow_store();
    let most = fill(&mut store, Seconds(1), |_| 1);
    let of = |store: &WebStore, source| store.sources.count(&store.hasher, sources::ALL, source);
    let mut others = 1_000..;
    let mut came = |store: &mut WebStore, source| {
        let who = alone(others.next().expect("endless"), source);
        let before = store.totals();
        let announced = store.announce(Seconds(2), &who);
        store.check_invariants();
        assert!(store.bytes() <= store.bounds.memory_bytes);
        let gone = store.totals().evicted_peers - before.evicted_peers;
        let told = announced.as_ref().map_or(0, |announced| announced.evicted);
        assert_eq!(gone, u64::from(told));
        announced.is_ok()
    };
    assert!(!came(&mut store, 1), "who has all of it gets no more");
    let second = (0..1_000).take_while(|_| came(&mut store, 2)).count();
    assert!(second < 200, "an even share is enough: {second}");
    let [first, second] = [of(&store, 1), of(&store, 2)];
    assert!(first.abs_diff(second) <= 1 && first + second >= most - 1, "{first}, {second}");
    // Known peers stay, and are heard.
    let known = store.members.slots.iter().flatten().copied().collect::<Vec<_>>();
    for Member { swarm, place, peer_id, source, .. } in known {
        let WebArrival { info_hash, .. } = alone(0, 0);
        let info_hash = store.swarms.look(swarm).map_or(info_hash, |swarm| swarm.info_hash);
        let who = WebArrival { info_hash, place, peer_id, source, ..alone(0, 0) };
        assert!(!store.announce(Seconds(3), &who).expect("it is known").joined);
    }
    // Whoever comes from elsewhere gets in, and none of them goes.
    for source in 10..30 {
        assert!(came(&mut store, source));
    }
    assert!((10..30).all(|source| of(&store, source) == 1));
    let [first, second] = [of(&store, 1), of(&store, 2)];
    assert!(first.abs_diff(second) <= 4, "{first}, {second}");
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn who_has_expired_makes_room_whatever_its_share_is() {
    let mut store = narrow_store();
    let most = fill(&mut store, Seconds(1), u64::from);
    assert!(store.announce(Seconds(1 + TTL), &alone(most, 9_999)).is_err());
    assert!(store.announce(Seconds(2 + TTL), &alone(most, 9_999)).is_ok());
    assert_eq!((store.totals().expired_peers, store.totals().evicted_peers), (1, 0));
    store.check_invariants();
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn swarms_without_peers_make_room_before_peers_but_not_for_who_comes_to_them() {
    let mut store = narrow_store();
    let mut most = 0;
    loop {
        let who = alone(most, u64::from(most));
        if store.bytes() + store.bytes_of_one(None, who.source) > store.bounds.memory_bytes {
            break;
        }
        store.announce(Seconds(most), &who).expect("room");
        let finished = WebArrival { report: Report { seeder: true, ..who.report }, ..who };
        assert!(store.announce(Seconds(most), &finished).expect("it is known").completed);
        assert!(store.leave(Seconds(most), &who.info_hash, who.place, &who.peer_id));
        most += 1;
    }
    assert_eq!((store.totals().swarms, store.totals().active_swarms), (most.into(), 0));
    // Each comes to a swarm that has a download to tell about.
    let mut at_its_swarm = 0;
    for n in (0..most).rev() {
        let Ok(announced) = store.announce(Seconds(most), &alone(n, u64::from(n))) else { break };
        let completed = store.counts(&hash(n)).completed;
        at_its_swarm += completed;
        assert_eq!((announced.joined, announced.evicted), (true, 0));
        store.check_invariants();
    }
    assert!(at_its_swarm > most / 4, "{at_its_swarm} of {most}");
    assert!(store.bytes() <= store.bounds.memory_bytes);
    assert_eq!((store.totals().expired_peers, store.totals().evicted_peers), (0, 0));
}

#[test]
fn the_same_name_on_another_connection_is_another_peer() {
    let mut store = store(4);
    let (one, other) = (arrival(0, 1, 9, false), arrival(0, 2, 9, false));
    assert!(store.announce(Seconds(1), &one).expect("room").joined);
    assert!(store.announce(Seconds(1), &other).expect("room").joined);
    let far = WebArrival { place: Place { core: 5, ..one.place }, ..one };
    assert!(store.announce(Seconds(1), &far).expect("room").joined);
    assert!(store.leave(Seconds(1), &hash(0), other.place, &other.peer_id));
    assert!(!store.leave(Seconds(1), &hash(0), other.place, &other.peer_id));
    assert_eq!(store.counts(&hash(0)).leechers, 2);
}

#[test]
fn chosen_peers_differ_are_of_the_right_kind_and_have_the_same_chance() {
    // (seeders, leechers besides the asker, whether the asker is a seeder, wanted)
    let cases = [
        (0_u32, 0_u32, false, 10),
        (1, 1, true, 10),
        (3, 3, false, 2),
        (30, 9, false, 10),
        (5, 34, false, 5),
        (12, 27, true, 10),
        (0, 39, false, 10),
        (2, 21, true, 10),
        (39, 0, false, 3),
        (38, 1, false, 3),
        (1, 38, false, 1),
        (4, 6, false, 10),
    ];
    for (case, (seeders, leechers, seeder, wanted)) in cases.into_iter().enumerate() {
        let mut store = store(u64::try_from(case).expect("small"));
        for n in 0..seeders + leechers {
            let who = arrival(0, u64::from(n) + 1, 0, n < seeders);
            store.announce(Seconds(1), &who).expect("room");
        }
        let asker = arrival(0, 0, 0, seeder);
        let mut given: BTreeMap<u64, u32> = BTreeMap::new();
        let rounds = if cfg!(miri) { 10 } else { 4_000 };
        let (mut firsts, mut seeders_first, mut leechers_first) = (BTreeMap::new(), 0, 0);
        for _ in 0..rounds {
            let announced = store.announce(Seconds(1), &asker).expect("room");
            let chosen = store.choose(announced.swarm, (announced.asker, seeder), wanted);
            let eligible = if seeder { leechers } else { seeders + leechers };
            assert_eq!(chosen.len(), wanted.min(eligible as usize).min(WEB_OFFERS_MAX));
            let mut kinds = [0, 0];
            for place in &chosen {
                assert_ne!(*place, asker.place, "nobody is offered itself");
                *given.entry(place.connection).or_default() += 1;
                kinds[usize::from(place.connection > u64::from(seeders))] += 1;
            }
            assert!(!seeder || kinds[0] == 0);
            let both = !seeder && seeders > 0 && leechers > 0 && chosen.len() > 1;
            assert!(!both || (kinds[0] > 0 && kinds[1] > 0), "both kinds");
            let mut places: Vec<_> = chosen.iter().map(|place| place.connection).collect();
            if let Some(first) = places.first() {
                *firsts.entry(*first).or_insert(0_u32) += 1;
                seeders_first += u32::from(both && *first <= u64::from(seeders));
                leechers_first += u32::from(both && *first > u64::from(seeders));
            }
            places.sort_unstable();
            places.dedup();
            assert_eq!(places.len(), chosen.len(), "all different");
        }
        for kind in [1..=seeders, seeders + 1..=seeders + leechers] {
            let counts: Vec<u32> =
                kind.map(|n| given.get(&u64::from(n)).copied().unwrap_or(0)).collect();
            let sum: u32 = counts.iter().sum();
            let mean = f64::from(sum) / f64::from(u32::try_from(counts.len().max(1)).expect("few"));
            let close = |&count: &u32| (f64::from(count) - mean).abs() <= 6.0 * mean.sqrt() + 1.0;
            assert!(cfg!(miri) || counts.iter().all(close), "case {case}: {counts:?}");
        }
        let both = seeders_first + leechers_first;
        let either = seeders_first.min(leechers_first) * 20 >= both;
        assert!(cfg!(miri) || either, "case {case}: {seeders_first} of {both} seeders first");
        let most = firsts.values().max().copied().unwrap_or(0);
        let eligible = if seeder { leechers } else { seeders + leechers };
        assert!(
            cfg!(miri) || eligible < 2 || most < rounds * 3 / 4,
            "case {case}: always the same first"
        );
    }
}

#[test]
fn newcomers_come_in_if_they_are_admitted_and_others_are_not_asked_for() {
    let mut store = store(1);
    let (one, other) = (arrival(0, 1, 1, false), arrival(0, 2, 2, true));
    let mut asked = Vec::new();
    for who in [&one, &one, &other, &other] {
        let admit = |newcomer, beside| {
            asked.push((newcomer, beside));
            Ok::<(), ()>(())
        };
        store.announce_if(Seconds(0), who, admit).expect("admitted");
    }
    assert_eq!(asked, [(Newcomer::Swarm, 0), (Newcomer::Peer, 0)]);
    for swarm in [0, 1] {
        let who = arrival(swarm, 3, 3, false);
        let refused = store.announce_if(Seconds(0), &who, |_, _| Err("no"));
        assert_eq!(refused, Err(WebRefused::NotAdmitted("no")));
    }
    store.check_invariants();
    assert_eq!((store.totals().swarms, store.counts(&hash(0)).leechers), (1, 1));
}

#[test]
fn a_swarm_is_looked_into_and_forgotten() {
    let mut store = store(1);
    for n in 0..5 {
        let at = Seconds(u32::from(n));
        assert!(store.announce(at, &arrival(0, n.into(), n, n == 3)).expect("room").joined);
        assert!(store.announce(at, &arrival(1, n.into(), n, false)).expect("room").joined);
    }
    let peers = store.peers(Seconds(10), &hash(0), 0, 9);
    let seen = |peer: &FoundPeer| (peer.peer_id, peer.seeder, peer.seconds, peer.endpoint);
    let mut found: Vec<_> = peers.iter().map(seen).collect();
    found.sort_unstable_by_key(|peer| std::cmp::Reverse(peer.2));
    let expected = (0..5).map(|n| (Some(PeerId([n; 20])), n == 3, 10 - u32::from(n), None));
    assert!(found.into_iter().eq(expected));
    assert_eq!(store.peers(Seconds(10), &hash(0), 1, 3), peers[1..4]);
    assert!(store.peers(Seconds(10), &hash(0), 5, 3).is_empty());
    store.forget(&hash(0));
    store.forget(&hash(7));
    store.check_invariants();
    assert_eq!((store.counts(&hash(0)), store.counts(&hash(1)).leechers), (Counts::default(), 5));
    assert_eq!(store.totals().leechers[0] + store.totals().leechers[1], 5);
    assert!(!store.leave(
        Seconds(11),
        &hash(0),
        Place { core: 0, connection: 0 },
        &PeerId([0; 20])
    ));
    store.forget(&hash(1));
    assert!(store.is_empty());
}

#[test]
fn a_newcomer_is_told_how_many_of_its_source_are_there() {
    let mut store = store(1);
    let of = |swarm, id, source| WebArrival { source, ..arrival(swarm, u64::from(id), id, false) };
    let beside = |store: &mut WebStore, who: &WebArrival| {
        let refused = store.announce_if(Seconds(0), who, |_, beside| Err(beside));
        match refused {
            Err(WebRefused::NotAdmitted(beside)) => beside,
            other => panic!("{other:?}"),
        }
    };
    for id in 0..4 {
        assert_eq!(beside(&mut store, &of(0, id, 9)), u32::from(id));
        store.announce(Seconds(0), &of(0, id, 9)).expect("room");
        store.announce(Seconds(0), &of(1, id, id.into())).expect("room");
    }
    assert_eq!(beside(&mut store, &of(0, 8, 1)), 0, "another source");
    assert_eq!(beside(&mut store, &of(1, 8, 1)), 1, "another swarm");
    // Known peers stay as they are, and who comes by way of another network stays counted.
    store.announce(Seconds(0), &of(0, 0, 7)).expect("it is known");
    assert_eq!(beside(&mut store, &of(0, 8, 9)), 4);
    assert!(store.leave(Seconds(0), &hash(0), Place { core: 0, connection: 0 }, &PeerId([0; 20])));
    assert_eq!(beside(&mut store, &of(0, 8, 9)), 3);
    store.check_invariants();
    for _ in 0..10 {
        store.sweep(Seconds(TTL + 1));
    }
    assert_eq!(beside(&mut store, &of(0, 8, 9)), 0);
    store.check_invariants();
}
