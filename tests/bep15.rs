//! What a UDP peer sees (BEP 15, BEP 41): bytes in, bytes out, without a socket.
//!
//! Every name is a sentence of the protocol. Attack tables follow those who broke other
//! trackers: lengths, amplification, forged ids, reply loops, integers at their ends.

mod support;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use support::*;
use throng::limits::{
    BATCH_MAX, CONNECTION_EPOCH_SECONDS, DATAGRAM_BYTES_MAX, PENDING_SCRAPE_SECONDS,
    PENDING_SCRAPES_MAX, UDP_REPLY_BYTES_MAX, UDP_SCRAPE_HASHES_MAX,
};
use throng::rng::Rng;
use throng::swarm::Bounds;
use throng::tracker::access::Access;
use throng::tracker::counters::{Action, Asked, Counters, Transport};
use throng::tracker::limiter::{Limits, Rate};
use throng::tracker::outcome::{Change, DropReason, Refusal};
use throng::tracker::policy::{POLITE_INTERVAL_SECS, Policy, PortSet};
use throng::wire::addr::{Endpoint, Family};
use throng::wire::announce::{Announce, Event, Left, NumWant};
use throng::wire::error::ParseError;
use throng::wire::id::{ConnectionId, InfoHash};
use throng::wire::udp::{ANNOUNCE_BYTES, PROTOCOL_MAGIC};

const HASH: InfoHash = InfoHash(*b"\x00\xff'tHrOnG swarm&=?+!");

/// The endpoint under which others see `source`.
fn endpoint(source: SocketAddr, port: u16) -> Endpoint {
    Endpoint::new(source.ip(), port)
}

/// Bytes of any kind, `len` of them.
fn noise(rng: &mut Rng, len: usize) -> Vec<u8> {
    (0..len).map(|_| u8::try_from(rng.below(256)).expect("a byte")).collect()
}

/// `bytes` with `field` at `offset`.
fn patched(mut bytes: Vec<u8>, offset: usize, field: &[u8]) -> Vec<u8> {
    bytes[offset..offset + field.len()].copy_from_slice(field);
    bytes
}

/// A world in which `count` leechers are in [`HASH`], on IPv4.
fn crowd(world: &mut World, count: u32) {
    for n in 0..count {
        world.announce(v4(1_000 + n), &leecher(HASH, 6_881));
    }
}

// Connect.

#[test]
fn a_connect_is_answered_with_sixteen_bytes_whatever_trails_it() {
    let mut world = World::new();
    for trailing in [0, 1, 2, 7, 82, 400, 1_400] {
        let bytes = [connect_bytes(), vec![0x5A; trailing]].concat();
        let answer = world.answer(v4(1), &bytes);
        assert_eq!((answer.len(), &answer[..8]), (16, &b"\0\0\0\0\xde\xad\xbe\xef"[..]));
    }
}

#[test]
fn a_connect_with_the_wrong_magic_hears_nothing() {
    let mut world = World::new();
    for bit in 0..64 {
        let mut bytes = connect_bytes();
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(world.datagram(v4(1), &bytes), []);
    }
    assert_eq!(world.dropped(DropReason::Malformed(ParseError::BadMagic)), 64);
}

#[test]
fn garbage_of_every_length_hears_nothing() {
    let mut world = World::of(2);
    let mut rng = Rng::new(15);
    let mut dropped = 0;
    for len in 0..=2_100 {
        for bytes in [vec![0; len], vec![0xFF; len], noise(&mut rng, len)] {
            assert_eq!(world.datagram(v4(1), &bytes), [], "{len} bytes");
            dropped += 1;
        }
    }
    let counters = world.counters();
    assert_eq!(counters.drops.iter().sum::<u64>(), dropped);
    assert_eq!(counters.requests.iter().sum::<u64>(), 0);
    assert_eq!(counters.udp_sent_bytes, [0, 0]);
}

#[test]
fn unverified_sources_never_get_more_bytes_than_they_send() {
    let mut world = World::of(3);
    let mut rng = Rng::new(16);
    for n in 0..200 {
        world.announce(v4(n), &leecher(HASH, 6_881));
    }
    let before = world.counters();
    let (mut bytes_in, mut bytes_out) = (0, 0);
    for round in 0..20_000_u32 {
        let source = if rng.below(2) == 0 { v4(round) } else { v6(round) };
        let mut bytes = match rng.below(6) {
            0 => connect_bytes(),
            1 => announce_bytes(ConnectionId([0; 8]), &leecher(HASH, 6_881)),
            2 => announce_bytes(ConnectionId(PROTOCOL_MAGIC), &leecher(HASH, 6_881)),
            3 => scrape_bytes(ConnectionId(rng.next_u64().to_be_bytes()), &[HASH; 74]),
            4 => {
                let len = rng.below(1_500) as usize;
                noise(&mut rng, len)
            }
            // Any action, with an id of this world's epoch that somebody else was given.
            _ => {
                let id = world.connect(v4(77));
                let bytes = announce_bytes(id, &leecher(HASH, 6_881));
                patched(bytes, 8, &rng.below(5).to_be_bytes())
            }
        };
        if rng.below(4) == 0 {
            let at = rng.below(u32::try_from(bytes.len().max(1)).expect("short")) as usize;
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << rng.below(8);
            }
        }
        bytes.truncate(rng.below(3_000) as usize);
        bytes_in += bytes.len();
        for sent in world.datagram(source, &bytes) {
            assert!(sent.bytes.len() <= bytes.len(), "{}", bytes.escape_ascii());
            bytes_out += sent.bytes.len();
        }
        assert!(bytes_out <= bytes_in);
    }
    let counters = world.counters();
    let sent = counters.udp_unverified_sent_bytes[0] - before.udp_unverified_sent_bytes[0];
    let received =
        counters.udp_unverified_received_bytes[0] - before.udp_unverified_received_bytes[0];
    assert!(sent > 0 && sent <= received, "{sent} of {received}");
    assert_eq!(counters.replies()[1], before.replies()[1], "nobody was verified");
}

#[test]
fn our_own_replies_sent_back_to_us_hear_nothing() {
    let mut world = World::new();
    let mut replies = vec![world.answer(v4(1), &connect_bytes())];
    // A scrape reply has the number of seeders where a request has its action: 0, 1, 2 and 3.
    for seeders in 0..4 {
        let hash = hash(u64::from(seeders));
        for n in 0..seeders {
            replies.push(world.announce_raw(v4(n), &seeder(hash, 6_881)));
        }
        let id = world.connect(v4(1));
        replies.push(world.answer(v4(1), &scrape_bytes(id, &[hash; 74])));
    }
    replies.push(world.announce_raw(v4(1), &leecher(HASH, 0)));
    let id = world.connect(v4(1));
    replies.push(world.answer(v4(1), &scrape_bytes(id, &[])));
    for n in 0..100 {
        replies.push(world.announce_raw(v4(n), &leecher(HASH, 6_881)));
    }
    for reply in replies {
        for source in [v4(1), v6(1), v4(2)] {
            assert_eq!(world.datagram(source, &reply), [], "{}", reply.escape_ascii());
        }
    }
}

// The connection id.

#[test]
fn an_id_is_good_for_its_address_alone() {
    let mut world = World::new();
    let id = world.connect(address("5.6.7.8"));
    let announce = announce_bytes(id, &leecher(HASH, 6_881));
    let scrape = scrape_bytes(id, &[HASH]);
    for (source, good) in [
        ("5.6.7.8", true),
        // The same address as a dual-stack socket shows it.
        ("::ffff:5.6.7.8", true),
        ("5.6.7.9", false),
        ("::5.6.7.8", false),
        ("64:ff9b::5.6.7.8", false),
        ("2a00::1", false),
    ] {
        for port in [1, 40_003, 65_535] {
            let source = SocketAddr::new(address(source).ip(), port);
            for request in [&announce, &scrape] {
                assert_eq!(world.datagram(source, request).len(), usize::from(good), "{source}");
            }
        }
    }
    assert_eq!(world.dropped(DropReason::BadConnectionId), 4 * 3 * 2);
}

#[test]
fn an_id_given_to_a_mapped_address_is_one_for_ipv4() {
    let mut world = World::new();
    let id = world.connect(address("::ffff:5.6.7.8"));
    let request = announce_bytes(id, &leecher(HASH, 6_881));
    assert_eq!(world.datagram(address("5.6.7.8"), &request).len(), 1);
    // And the peer behind both is one, with peers of its family.
    let answer = world.announce(address("::ffff:5.6.7.8"), &leecher(HASH, 6_881));
    assert_eq!((answer.counts(), answer.peers.len()), ((0, 1), 0));
    let other = world.announce(v4(1), &leecher(HASH, 6_881));
    assert_eq!(other.peers, [endpoint(address("5.6.7.8"), 6_881)]);
}

#[test]
fn an_id_is_good_for_its_epoch_and_the_next_and_then_silence() {
    for (action, offset) in [("announce", 0), ("scrape", 0), ("announce", 63), ("scrape", 63)] {
        let mut world = World::of(2);
        // An epoch begins where the time is a multiple of its length (the world's offset is one).
        let begin = 16_000_u32.next_multiple_of(CONNECTION_EPOCH_SECONDS);
        world.now = throng::time::Seconds(begin + offset);
        let id = world.connect(v4(1));
        let request = match action {
            "announce" => announce_bytes(id, &leecher(HASH, 6_881)),
            _ => scrape_bytes(id, &[HASH]),
        };
        for at in [offset, 63, 64, 120, 127, 128, 129, 192, 100_000] {
            world.now = throng::time::Seconds(begin + at);
            let good = at < 2 * CONNECTION_EPOCH_SECONDS;
            let answers = world.datagram(v4(1), &request).len();
            assert_eq!(answers, usize::from(good), "{action} at {at}");
        }
    }
}

#[test]
fn a_longer_life_of_ids_is_a_setting() {
    let mut world = World::with(Options { connection_id_secs: 1_800, ..Options::default() });
    let id = world.connect(v4(1));
    world.sleep(1_700);
    assert_eq!(world.datagram(v4(1), &scrape_bytes(id, &[HASH])).len(), 1);
    world.sleep(200);
    assert_eq!(world.datagram(v4(1), &scrape_bytes(id, &[HASH])), []);
}

#[test]
fn no_id_with_a_flipped_bit_is_taken() {
    let mut world = World::new();
    let id = world.connect(v4(1));
    for bit in 0..64 {
        let mut flipped = id;
        flipped.0[bit / 8] ^= 1 << (bit % 8);
        for request in [
            announce_bytes(flipped, &leecher(HASH, 6_881)),
            scrape_bytes(flipped, &[HASH]),
            scrape_bytes(flipped, &[]),
        ] {
            assert_eq!(world.datagram(v4(1), &request), [], "bit {bit}");
        }
    }
}

#[test]
fn an_id_of_one_core_is_good_on_all() {
    let mut world = World::of(4);
    for core in 0..4 {
        world.steering = Steering::Core(core);
        let id = world.connect(v4(1));
        for other in 0..4 {
            world.steering = Steering::Core(other);
            assert_eq!(world.datagram(v4(1), &announce_bytes(id, &leecher(HASH, 1_024))).len(), 1);
        }
    }
}

// The answer to an announce.

#[test]
fn an_announce_reply_has_interval_leechers_seeders_and_peers() {
    let mut world = World::new();
    world.announce(v4(1), &seeder(HASH, 0x1AE1));
    world.announce(v4(2), &leecher(HASH, 0x1AE2));
    let bytes = world.announce_raw(v4(3), &leecher(HASH, 0x1AE3));
    assert_eq!(&bytes[..8], b"\0\0\0\x01\xde\xad\xbe\xef");
    let interval = u32::from_be_bytes(bytes[8..12].try_into().expect("4 bytes"));
    assert!((1_620..=1_980).contains(&interval), "{interval}");
    assert_eq!(&bytes[12..20], b"\0\0\0\x02\0\0\0\x01", "two leechers, the asker too; a seeder");
    let mut peers: Vec<&[u8]> = bytes[20..].chunks(6).collect();
    peers.sort_unstable();
    assert_eq!(peers, [&b"\x05\0\0\x02\x1a\xe1"[..], b"\x05\0\0\x03\x1a\xe2"]);
}

#[test]
fn the_interval_spreads_by_a_tenth_and_is_the_peers_own() {
    let mut world = World::of(2);
    let mut seen = BTreeSet::new();
    for n in 0..300 {
        let interval = world.announce(v4(n), &leecher(HASH, 6_881)).interval;
        assert!((1_620..=1_980).contains(&interval), "{interval}");
        assert_eq!(world.announce(v4(n), &leecher(HASH, 6_881)).interval, interval);
        seen.insert(interval);
    }
    assert!(seen.len() > 100, "{} different ones", seen.len());
}

#[test]
fn num_want_is_signed_and_capped() {
    let mut world = World::new();
    crowd(&mut world, 300);
    let id = world.connect(v4(1));
    for (num_want, peers) in [
        (0xFFFF_FFFF_u32, 50),
        (0x8000_0000, 50),
        (0xFFFF_FF38, 50),
        (0, 0),
        (1, 1),
        (49, 49),
        (200, 200),
        (201, 200),
        (70_000, 200),
        (0x7FFF_FFFF, 200),
    ] {
        let request = announce_bytes(id, &leecher(HASH, 6_881));
        let answer = world.answer(v4(1), &patched(request, 92, &num_want.to_be_bytes()));
        let answer = read_announce(&answer, v4(1));
        assert_eq!(answer.peers.len(), peers, "{num_want:#x}");
        assert_eq!(answer.counts(), (0, 301));
        let distinct: BTreeSet<_> = answer.peers.iter().collect();
        assert_eq!(distinct.len(), peers, "none twice");
        assert!(!answer.peers.contains(&endpoint(v4(1), 6_881)), "never the asker");
    }
}

#[test]
fn a_configured_maximum_cannot_make_a_reply_too_long() {
    let generous = Policy { num_want_default: 1_000, num_want_max: 5_000, ..policy() };
    let mut world = World::with(Options { policy: generous, ..Options::default() });
    for n in 0..300 {
        world.announce(v4(n), &leecher(HASH, 6_881));
        world.announce(v6(n), &leecher(HASH, 6_881));
    }
    let v4_bytes = world.announce_raw(v4(1), &leecher(HASH, 6_881)).len();
    let v6_bytes = world.announce_raw(v6(1), &leecher(HASH, 6_881)).len();
    assert_eq!((v4_bytes, v6_bytes), (20 + 6 * 202, 20 + 18 * 67));
    assert!(v4_bytes <= UDP_REPLY_BYTES_MAX && v6_bytes <= UDP_REPLY_BYTES_MAX);
}

#[test]
fn an_ipv6_reply_has_at_most_67_peers_of_18_bytes() {
    let mut world = World::new();
    for n in 0..100 {
        world.announce(v6(n), &leecher(HASH, 6_881));
    }
    for (num_want, peers) in [(200, 67), (67, 67), (68, 67), (50, 50), (1, 1)] {
        let announce = Announce { num_want: NumWant::Count(num_want), ..leecher(HASH, 6_881) };
        let bytes = world.announce_raw(v6(1), &announce);
        assert_eq!(bytes.len(), 20 + 18 * peers);
        assert!(bytes.len() <= 1_232);
    }
}

#[test]
fn peers_are_of_the_askers_family_and_counts_are_of_both() {
    let mut world = World::new();
    for n in 0..10 {
        world.announce(v4(n), &leecher(HASH, 6_881));
        world.announce(v6(n), &seeder(HASH, 6_882));
    }
    let answer = world.announce(v4(0), &leecher(HASH, 6_881));
    assert_eq!((answer.counts(), answer.peers.len()), ((10, 10), 9));
    let answer = world.announce(v6(10), &leecher(HASH, 6_881));
    assert_eq!((answer.counts(), answer.peers.len()), ((10, 11), 10));
    assert!(answer.peers.iter().all(|peer| peer.port() == 6_882));
    assert_eq!(world.scrape(v4(0), &[HASH]), [[10, 0, 11]]);
}

#[test]
fn a_peer_is_its_address_and_port_and_no_more() {
    let mut world = World::new();
    world.announce(v4(1), &leecher(HASH, 6_881));
    let mut other = leecher(HASH, 6_881);
    (other.peer_id.0, other.key) = ([0; 20], None);
    let source = SocketAddr::new(v4(1).ip(), 9);
    assert_eq!(world.announce(source, &other).counts(), (0, 1));
    let answer = world.announce(v4(1), &leecher(HASH, 6_882));
    assert_eq!((answer.counts(), answer.peers), ((0, 2), vec![endpoint(v4(1), 6_881)]));
}

#[test]
fn seeders_are_given_leechers_and_leechers_both() {
    let mut world = World::new();
    for n in 0..100 {
        world.announce(v4(n), &seeder(HASH, 1_000));
        world.announce(v4(n), &leecher(HASH, 2_000));
    }
    for num_want in [2, 10, 50, 200] {
        let want = NumWant::Count(num_want);
        let answer = world.announce(v4(0), &Announce { num_want: want, ..seeder(HASH, 1_000) });
        assert!(answer.peers.iter().all(|peer| peer.port() == 2_000), "leechers only");
        assert_eq!(answer.peers.len(), num_want.min(100) as usize);
        let answer = world.announce(v4(0), &Announce { num_want: want, ..leecher(HASH, 2_000) });
        let kinds: BTreeSet<_> = answer.peers.iter().map(Endpoint::port).collect();
        assert_eq!(kinds, [1_000, 2_000].into(), "both kinds among {num_want}");
    }
    let alone = hash(7);
    world.announce(v4(1), &seeder(alone, 1_000));
    assert_eq!(world.announce(v4(2), &seeder(alone, 1_000)).peers, []);
}

#[test]
fn every_peer_has_the_same_chance_over_time() {
    let mut world = World::new();
    crowd(&mut world, 40);
    let mut seen = std::collections::BTreeMap::new();
    let rounds = 4_000;
    for _ in 0..rounds {
        let announce = Announce { num_want: NumWant::Count(10), ..leecher(HASH, 6_881) };
        for peer in world.announce(v4(0), &announce).peers {
            *seen.entry(peer).or_insert(0_u32) += 1;
        }
    }
    assert_eq!(seen.len(), 40);
    // Expected 1,000 each; windows make neighbours depend on each other, so the bound is wide.
    assert!(seen.values().all(|count| (800..1_200).contains(count)), "{seen:?}");
}

// Events.

#[test]
fn every_event_but_stopped_inserts_the_peer() {
    for (number, paused) in [
        (0, false),
        (1, false),
        (2, false),
        (4, true),
        (5, false),
        // "started" to whoever looks at the low byte alone, "stopped" likewise.
        (0x0100_0002, false),
        (0x0100_0003, false),
        (0x8000_0003, false),
        (u32::MAX, false),
    ] {
        let mut world = World::new();
        let id = world.connect(v4(1));
        let request = announce_bytes(id, &leecher(HASH, 6_881));
        let answer = world.answer(v4(1), &patched(request, 80, &u32::to_be_bytes(number)));
        assert_eq!(read_announce(&answer, v4(1)).counts(), (0, 1), "event {number:#x}");
        let response = world.get(v4(2).ip(), &format!("/scrape?info_hash={}", escape(&HASH.0)));
        let downloaders = u32::from(!paused);
        assert_eq!(response.file(&HASH), Some([0, 0, 1, downloaders]), "event {number:#x}");
    }
}

#[test]
fn completed_is_counted_once_and_only_for_a_leecher_that_was_here() {
    let event = |event, announce| Announce { event, ..announce };
    let completed = event(Event::Completed, seeder(HASH, 6_881));
    let started = event(Event::Started, leecher(HASH, 6_881));
    for (script, downloads) in [
        (vec![completed], 0),
        (vec![started, completed], 1),
        (vec![started, completed, completed], 1),
        (vec![started, seeder(HASH, 6_881)], 1),
        (vec![started, seeder(HASH, 6_881), completed], 1),
        (vec![started, completed, leecher(HASH, 6_881), completed], 1),
        (vec![seeder(HASH, 6_881), completed], 0),
        (vec![seeder(HASH, 6_881), leecher(HASH, 6_881), completed], 1),
        // It says so, though it says that something is left: a leecher that is done.
        (vec![started, event(Event::Completed, leecher(HASH, 6_881))], 1),
        // Another life.
        (
            vec![
                started,
                completed,
                event(Event::Stopped, seeder(HASH, 6_881)),
                started,
                completed,
            ],
            2,
        ),
        // A stop with nothing left is no completion.
        (vec![started, event(Event::Stopped, seeder(HASH, 6_881))], 0),
    ] {
        let mut world = World::of(2);
        // Somebody else keeps the swarm.
        world.announce(v4(9), &leecher(HASH, 1));
        for announce in &script {
            world.announce(v4(1), announce);
        }
        let [_, counted, _] = world.scrape(v4(9), &[HASH])[0];
        assert_eq!(counted, downloads, "{script:?}");
        assert_eq!(world.counters().completed, [u64::from(downloads)]);
        let told = world.outcomes().iter().filter(|o| o.change == Change::Completed).count();
        assert_eq!(told, downloads as usize);
    }
}

#[test]
fn a_seeder_that_needs_something_again_is_a_leecher() {
    let mut world = World::new();
    assert_eq!(world.announce(v4(1), &seeder(HASH, 6_881)).counts(), (1, 0));
    assert_eq!(world.announce(v4(1), &leecher(HASH, 6_881)).counts(), (0, 1));
}

#[test]
fn left_is_signed_and_only_zero_is_a_seeder() {
    let mut world = World::new();
    let id = world.connect(v4(1));
    for (left, seeders) in [
        (0_u64, 1),
        (1, 0),
        (1 << 31, 0),
        (1 << 32, 0),
        (1 << 53, 0),
        ((1 << 63) - 1, 0),
        (1 << 63, 0),
        (u64::MAX, 0),
    ] {
        let request = announce_bytes(id, &leecher(HASH, 6_881));
        let answer = world.answer(v4(1), &patched(request, 64, &left.to_be_bytes()));
        let counts = read_announce(&answer, v4(1)).counts();
        assert_eq!(counts, (seeders, 1 - seeders), "left {left:#x}");
    }
}

#[test]
fn stopped_removes_the_peer_and_is_answered_with_counts_alone() {
    let mut world = World::new();
    crowd(&mut world, 5);
    world.announce(v4(1), &seeder(HASH, 6_881));
    let stopped = Announce { event: Event::Stopped, ..seeder(HASH, 6_881) };
    for _ in 0..2 {
        let answer = world.announce(v4(1), &stopped);
        assert_eq!((answer.counts(), answer.peers), ((0, 5), vec![]));
    }
    let changes: Vec<_> = world.outcomes().iter().map(|outcome| outcome.change).collect();
    assert_eq!(changes[5..], [Change::Joined, Change::Left, Change::Nothing]);
}

#[test]
fn stopped_creates_nothing() {
    let mut world = World::of(2);
    for n in 0..50 {
        let stopped = Announce { event: Event::Stopped, ..leecher(hash(n), 6_881) };
        let answer = world.announce(v4(1), &stopped);
        assert_eq!((answer.counts(), answer.peers), ((0, 0), vec![]));
        assert!(answer.interval >= 1_620);
    }
    let counters = world.counters();
    assert_eq!((counters.swarms, counters.store_bytes), ([0], [0]));
}

#[test]
fn scrapes_create_nothing() {
    let mut world = World::of(2);
    for n in 0..50 {
        let hashes: Vec<InfoHash> = (n * 74..(n + 1) * 74).map(hash).collect();
        assert_eq!(world.scrape(v4(1), &hashes), vec![[0; 3]; 74]);
    }
    let counters = world.counters();
    assert_eq!((counters.swarms, counters.store_bytes), ([0], [0]));
}

#[test]
fn all_fields_at_their_ends_are_answered() {
    let mut world = World::of(2);
    let id = world.connect(v4(1));
    for byte in [0x00, 0x01, 0x7F, 0x80, 0xFF] {
        // Everything after the head: hash, peer id, numbers, event, ip, key.
        for (from, to) in [(16, 36), (36, 56), (56, 80), (80, 84), (84, 92), (92, 96), (16, 98)] {
            let request = announce_bytes(id, &leecher(HASH, 6_881));
            let request = patched(request, from, &vec![byte; to - from]);
            let answer = world.answer(v4(1), &request);
            assert!(answer[3] == 1 || answer[3] == 3 && to == 98 && byte == 0, "{from} {byte:#x}");
        }
    }
}

// Ports and addresses.

#[test]
fn port_0_is_refused_except_on_stopped() {
    let mut world = World::new();
    assert_eq!(world.announce_refused(v4(1), &leecher(HASH, 0)), "port 0 cannot be announced");
    let stopped = Announce { event: Event::Stopped, ..leecher(HASH, 0) };
    assert_eq!(world.announce(v4(1), &stopped).counts(), (0, 0));
    assert_eq!(world.counters().swarms, [0]);
    assert_eq!(world.refused(Refusal::PortZero), 1);
}

#[test]
fn denied_ports_are_answered_and_not_stored() {
    let mut world = World::new();
    crowd(&mut world, 3);
    for port in [22, 25, 53, 80, 443] {
        let answer = world.announce(v4(1), &leecher(HASH, port));
        assert_eq!((answer.counts(), answer.peers.len()), ((0, 3), 3), "port {port}");
        world.announce(v4(1), &leecher(hash(1), port));
    }
    let seeds = [4, 5].map(|n| endpoint(v4(n), 7_000));
    for seed in &seeds {
        world.announce(SocketAddr::new(seed.ip(), 9), &seeder(HASH, seed.port()));
    }
    let answer = world.announce(v4(1), &seeder(HASH, 22));
    assert_eq!((answer.counts(), answer.peers.len()), ((2, 3), 3));
    assert!(answer.peers.iter().all(|peer| !seeds.contains(peer)), "who seeds needs no seeders");
    assert_eq!(world.counters().swarms, [1]);
    for port in [1, 21, 23, 444, 65_535] {
        world.announce(v4(1), &leecher(hash(2), port));
    }
    assert_eq!(world.scrape(v4(1), &[hash(2)]), [[0, 0, 5]]);
}

#[test]
fn source_port_0_hears_nothing() {
    let mut world = World::new();
    let nowhere = SocketAddr::new(v4(1).ip(), 0);
    let id = world.connect(v4(1));
    for request in [connect_bytes(), announce_bytes(id, &leecher(HASH, 6_881))] {
        assert_eq!(world.datagram(nowhere, &request), []);
    }
    assert_eq!(world.dropped(DropReason::SourcePortZero), 2);
    assert_eq!(world.counters().swarms, [0]);
}

/// Two addresses of each range that the internet does not route.
const RANGES: [[&str; 2]; 8] = [
    ["10.0.0.1", "10.255.1.2"],
    ["172.16.0.1", "172.31.3.4"],
    ["192.168.0.1", "192.168.255.7"],
    ["100.64.0.1", "100.127.0.2"],
    ["127.0.0.1", "127.1.2.3"],
    ["169.254.1.1", "169.254.2.2"],
    ["fd00::1", "fc12::2"],
    ["fe80::1", "fe80::2"],
];

#[test]
fn private_peers_are_for_askers_of_their_own_range() {
    let mut world = World::new();
    let public = [v4(1), v6(1)];
    for source in public.into_iter().chain(RANGES.map(|[first, _]| address(first))) {
        world.announce(source, &leecher(HASH, 6_881));
    }
    let sees = |world: &mut World, asker: SocketAddr| -> BTreeSet<IpAddr> {
        let answer = world.announce(asker, &leecher(HASH, 7_000));
        // Whoever asks does not stay, to keep the picture plain.
        world.announce(asker, &Announce { event: Event::Stopped, ..leecher(HASH, 7_000) });
        answer.peers.iter().map(Endpoint::ip).collect()
    };
    for asker in [v4(2), v6(2)] {
        let same = if asker.is_ipv4() { v4(1) } else { v6(1) };
        assert_eq!(sees(&mut world, asker), [same.ip()].into());
    }
    for [first, second] in RANGES {
        let asker = address(second);
        let same = if asker.is_ipv4() { v4(1) } else { v6(1) };
        let expected = [same.ip(), address(first).ip()].into();
        assert_eq!(sees(&mut world, asker), expected, "{asker}");
    }
    // Everybody is counted.
    assert_eq!(world.scrape(v4(1), &[HASH]), [[0, 0, 10]]);
}

#[test]
fn unroutable_peers_are_never_given_to_the_public() {
    let mut world = World::new();
    for source in [
        "0.1.2.3",
        "192.0.0.8",
        "192.0.2.1",
        "198.18.0.1",
        "198.51.100.1",
        "203.0.113.1",
        "224.0.0.1",
        "255.255.255.255",
        "100::1",
        "2001:db8::1",
        "ff02::1",
        "::1",
    ] {
        world.announce(address(source), &leecher(HASH, 6_881));
    }
    assert_eq!(world.announce(v4(1), &leecher(HASH, 6_881)).peers, []);
    assert_eq!(world.announce(v6(1), &leecher(HASH, 6_881)).peers, []);
}

#[test]
fn isolation_is_a_setting() {
    let open = Policy { isolate_private_networks: false, ..policy() };
    let mut world = World::with(Options { policy: open, ..Options::default() });
    for range in RANGES {
        world.announce(address(range[0]), &leecher(HASH, 6_881));
    }
    assert_eq!(world.announce(v4(1), &leecher(HASH, 6_881)).peers.len(), 6);
    assert_eq!(world.announce(v6(1), &leecher(HASH, 6_881)).peers.len(), 2);
}

#[test]
fn the_ip_field_is_for_trusted_sources_alone() {
    let claims = |id, port| patched(announce_bytes(id, &leecher(HASH, port)), 84, &[9, 8, 7, 6]);
    let mut world = World::new();
    let id = world.connect(v4(1));
    world.answer(v4(1), &claims(id, 6_881));
    assert_eq!(
        world.announce(v4(2), &leecher(HASH, 6_881)).peers,
        [endpoint(v4(1), 6_881)],
        "nobody is aimed at"
    );

    let block = vec!["5.0.0.0/24".parse().expect("a block")];
    let trusting = Policy { trust_ip_param_from: block, ..policy() };
    let mut world = World::with(Options { policy: trusting, ..Options::default() });
    let id = world.connect(v4(1));
    world.answer(v4(1), &claims(id, 6_881));
    // 0 is "the source", also from those who may speak for others.
    world.announce(v4(2), &leecher(HASH, 6_882));
    let far = v4(100_000);
    let id = world.connect(far);
    world.answer(far, &claims(id, 6_883));
    let peers: BTreeSet<_> = world.announce(v4(3), &leecher(HASH, 1)).peers.into_iter().collect();
    let claimed = Endpoint::new(address("9.8.7.6").ip(), 6_881);
    assert_eq!(peers, [claimed, endpoint(v4(2), 6_882), endpoint(far, 6_883)].into());
}

#[test]
fn a_trusted_source_that_speaks_for_ipv4_over_ipv6_is_given_peers_it_can_read() {
    let trusting =
        Policy { trust_ip_param_from: vec!["::/0".parse().expect("everybody")], ..policy() };
    let mut world = World::with(Options { policy: trusting, ..Options::default() });
    world.announce(v4(1), &leecher(HASH, 6_881));
    world.announce(v6(1), &leecher(HASH, 6_882));
    let id = world.connect(v6(2));
    let request = announce_bytes(id, &leecher(HASH, 6_883));
    let answer = world.answer(v6(2), &patched(request, 84, &[9, 8, 7, 6]));
    // Read as 18 bytes each: the reply is of the datagram's family, whoever the peer is.
    let answer = read_announce(&answer, v6(2));
    assert_eq!((answer.counts(), answer.peers), ((0, 3), vec![endpoint(v6(1), 6_882)]));
    let claimed = Endpoint::new(address("9.8.7.6").ip(), 6_883);
    let announce = Announce { event: Event::None, ..leecher(HASH, 6_881) };
    assert_eq!(world.announce(v4(1), &announce).peers, [claimed]);
}

// BEP 41.

#[test]
fn options_of_any_kind_do_not_harm_the_announce() {
    let mut world = World::of(2);
    let mut rng = Rng::new(41);
    let nops = vec![1; 255];
    let mut tails: Vec<Vec<u8>> = [
        &b"\x02\x09/announce"[..],
        b"\x00",
        b"\x01\x01\x00garbage",
        b"\x02",
        b"\x02\xff/",
        b"\x02\x00\x02\x00",
        b"\x02\x04/?%2\x02\x016",
        b"\x02\x0d/..%2e%2e/../",
        b"\x03\x05abcde",
        b"\xff\xff\xff",
    ]
    .map(<[u8]>::to_vec)
    .into();
    tails.push(nops);
    for len in 0..400 {
        tails.push(noise(&mut rng, len));
    }
    let id = world.connect(v4(1));
    for tail in tails {
        let request = [announce_bytes(id, &leecher(HASH, 6_881)), tail].concat();
        let answer = world.answer(v4(1), &request);
        assert_eq!(read_announce(&answer, v4(1)).counts(), (0, 1));
    }
}

#[test]
fn an_announce_cut_short_hears_nothing() {
    let mut world = World::new();
    let id = world.connect(v4(1));
    let request = announce_bytes(id, &leecher(HASH, 6_881));
    for len in 0..ANNOUNCE_BYTES {
        assert_eq!(world.datagram(v4(1), &request[..len]), [], "{len} bytes");
    }
    assert_eq!(world.counters().swarms, [0]);
}

#[test]
fn a_datagram_longer_than_any_request_hears_nothing() {
    let mut world = World::new();
    let id = world.connect(v4(1));
    let announce = announce_bytes(id, &leecher(HASH, 6_881));
    for bytes in [connect_bytes(), announce.clone(), scrape_bytes(id, &[HASH; 74])] {
        world.receive(0, v4(1), &bytes, true);
        assert_eq!(world.sent(), []);
    }
    // A driver whose buffers are larger than any request need not know what is too long.
    for head in [connect_bytes(), announce.clone(), scrape_bytes(id, &[HASH; 74])] {
        let tail = vec![1; DATAGRAM_BYTES_MAX + 1 - head.len()];
        assert_eq!(world.datagram(v4(1), &[head, tail].concat()), []);
    }
    assert_eq!(world.dropped(DropReason::TooLong), 6);
    let longest = [announce, vec![1; DATAGRAM_BYTES_MAX - ANNOUNCE_BYTES]].concat();
    assert_eq!(world.datagram(v4(1), &longest).len(), 1);
}

// Scrapes.

/// A world in which swarm n has n seeders, n + 1 leechers and n completions.
fn scraped_world(cores: u16, swarms: u64) -> (World, Vec<InfoHash>, Vec<[u32; 3]>) {
    let mut world = World::of(cores);
    let hashes: Vec<InfoHash> = (0..swarms).map(hash).collect();
    let mut expected = Vec::new();
    for (n, &hash) in (0..).zip(&hashes) {
        for peer in 0..n {
            world.announce(v4(peer), &leecher(hash, 6_881));
            world.announce(v4(peer), &seeder(hash, 6_881));
        }
        for peer in 0..=n {
            world.announce(v6(peer), &leecher(hash, 6_881));
        }
        expected.push([n, n, n + 1]);
    }
    (world, hashes, expected)
}

#[test]
fn scrapes_are_answered_in_the_order_asked_whatever_cores_own_the_swarms() {
    for cores in [1, 2, 4] {
        let (mut world, hashes, expected) = scraped_world(cores, 9);
        let mut rng = Rng::new(u64::from(cores));
        for steering in [Steering::Owner, Steering::Wrong, Steering::Core(cores - 1)] {
            world.steering = steering;
            for _ in 0..20 {
                let count = 1 + rng.below(74);
                // With repetition, and unknown ones among them.
                let picks: Vec<usize> = (0..count).map(|_| rng.below(11) as usize).collect();
                let asked: Vec<InfoHash> =
                    picks.iter().map(|&n| hashes.get(n).copied().unwrap_or(HASH)).collect();
                let counts: Vec<[u32; 3]> =
                    picks.iter().map(|&n| expected.get(n).copied().unwrap_or_default()).collect();
                assert_eq!(world.scrape(v4(1), &asked), counts);
            }
        }
        assert_eq!(world.messages(), 0);
        assert_eq!(world.counters().pending_scrapes, [0]);
    }
}

#[test]
fn a_scrape_reply_is_8_and_12_for_each_hash_and_no_more_than_74() {
    let mut world = World::of(2);
    world.announce(v4(1), &seeder(HASH, 6_881));
    let id = world.connect(v4(1));
    for hashes in [1, 2, 73, 74, 75, 100] {
        let asked: Vec<InfoHash> =
            (0..hashes).map(|n| if n == 0 || n >= 74 { HASH } else { hash(n) }).collect();
        let bytes = world.answer(v4(1), &scrape_bytes(id, &asked));
        let answered = asked.len().min(UDP_SCRAPE_HASHES_MAX);
        assert_eq!(bytes.len(), 8 + 12 * answered);
        let mut expected = vec![[0; 3]; answered];
        expected[0] = [1, 0, 0];
        assert_eq!(read_scrape(&bytes), expected);
    }
}

#[test]
fn a_partial_hash_at_the_end_is_ignored() {
    let mut world = World::of(2);
    world.announce(v4(1), &seeder(HASH, 6_881));
    let id = world.connect(v4(1));
    for trailing in 1..20 {
        let request = [scrape_bytes(id, &[HASH, HASH]), HASH.0[..trailing].to_vec()].concat();
        let bytes = world.answer(v4(1), &request);
        assert_eq!(read_scrape(&bytes), [[1, 0, 0]; 2], "{trailing} bytes");
    }
}

#[test]
fn a_scrape_of_nothing_is_refused_with_an_error() {
    let mut world = World::new();
    let id = world.connect(v4(1));
    for trailing in 0..20 {
        let request = [scrape_bytes(id, &[]), vec![7; trailing]].concat();
        let answer = world.answer(v4(1), &request);
        assert_eq!(read_error(&answer), "full scrapes are not served, name an info_hash");
    }
    assert_eq!(world.refused(Refusal::FullScrape), 20);
}

#[test]
fn a_full_mailbox_drops_the_request_and_says_so_in_a_counter() {
    let mut world = World::of(3);
    let (near, far) = (world.hash_of(0, 0), world.hash_of(1, 0));
    let id = world.connect(v4(1));
    world.steering = Steering::Core(0);
    world.set_full(1, true);
    assert_eq!(world.datagram(v4(1), &announce_bytes(id, &leecher(far, 6_881))), []);
    assert_eq!(world.dropped(DropReason::MailboxFull), 1);
    // A scrape that needs that core too: not answered in part, and nothing stays behind, even if
    // another core's answer is still under way.
    let third = world.hash_of(2, 0);
    for hashes in [[near, far, near], [third, far, near], [far, third, near]] {
        assert_eq!(world.datagram(v4(1), &scrape_bytes(id, &hashes)), []);
    }
    assert_eq!(world.dropped(DropReason::MailboxFull), 4);
    let counters = world.counters();
    assert_eq!((counters.pending_scrapes, counters.messages_refused), ([0], [4]));
    assert_eq!(world.datagram(v4(1), &scrape_bytes(id, &[near, third])).len(), 1);
    world.set_full(1, false);
    assert_eq!(world.scrape(v4(1), &[far, near]), [[0; 3]; 2], "nothing was stored");
}

#[test]
fn a_full_mailbox_on_the_way_back_is_found_by_the_bound_in_time() {
    let mut world = World::of(2);
    world.steering = Steering::Core(0);
    let far = world.hash_of(1, 0);
    let id = world.connect(v4(1));
    world.set_full(0, true);
    assert_eq!(world.datagram(v4(1), &scrape_bytes(id, &[far])), []);
    assert_eq!(world.counters().pending_scrapes, [1]);
    world.advance(PENDING_SCRAPE_SECONDS);
    assert_eq!(world.sent(), []);
    assert_eq!(world.counters().pending_scrapes, [0]);
    assert_eq!(world.dropped(DropReason::OwnerSilent), 1);
}

#[test]
fn a_silent_owner_costs_the_scrape_after_two_seconds_and_its_late_answer_nothing() {
    let mut world = World::of(2);
    world.steering = Steering::Core(0);
    let (near, far) = (world.hash_of(0, 0), world.hash_of(1, 0));
    world.announce(v4(1), &seeder(far, 6_881));
    let id = world.connect(v4(1));
    world.set_deaf(1, true);
    assert_eq!(world.datagram(v4(1), &scrape_bytes(id, &[near, far])), []);
    world.advance(PENDING_SCRAPE_SECONDS - 1);
    assert_eq!(world.dropped(DropReason::OwnerSilent), 0);
    world.advance(1);
    assert_eq!(world.dropped(DropReason::OwnerSilent), 1);
    // The slot is used again before the late answer comes: it must not be taken for the new one's.
    assert_eq!(world.datagram(v4(2), &scrape_bytes(id, &[far])), [], "an id of another address");
    assert_eq!(world.datagram(v4(1), &scrape_bytes(id, &[far, far, far])), []);
    world.set_deaf(1, false);
    world.settle();
    let sent = world.sent();
    assert_eq!(sent.len(), 1);
    assert_eq!(read_scrape(&sent[0].bytes), [[1, 0, 0]; 3]);
    assert_eq!(world.counters().pending_scrapes, [0]);
}

#[test]
fn so_many_scrapes_may_wait_and_no_more() {
    let mut world = World::of(2);
    world.steering = Steering::Core(0);
    let far = world.hash_of(1, 0);
    let id = world.connect(v4(1));
    world.set_deaf(1, true);
    for _ in 0..PENDING_SCRAPES_MAX {
        assert_eq!(world.datagram(v4(1), &scrape_bytes(id, &[far])), []);
    }
    assert_eq!(world.dropped(DropReason::TooManyScrapes), 0);
    world.datagram(v4(1), &scrape_bytes(id, &[far]));
    assert_eq!(world.dropped(DropReason::TooManyScrapes), 1);
    // What the core can count by itself it does.
    let near = world.hash_of(0, 0);
    assert_eq!(world.datagram(v4(1), &scrape_bytes(id, &[near])).len(), 1);
    world.set_deaf(1, false);
    world.settle();
    assert_eq!(world.sent().len(), PENDING_SCRAPES_MAX);
    assert_eq!(world.counters().pending_scrapes, [0]);
}

// Several cores.

#[test]
fn an_announce_that_reaches_the_wrong_core_is_answered_by_the_owner() {
    let mut world =
        World::with(Options { cores: 4, steering: Steering::Wrong, ..Options::default() });
    for n in 0..40 {
        let (hash, source) = (hash(u64::from(n) % 5), v4(n));
        let id = world.connect(source);
        let request = announce_bytes(id, &leecher(hash, 6_881));
        let sent = world.datagram(source, &request);
        assert_eq!(sent.len(), 1);
        assert_eq!(sent[0].core, world.owner.core(&hash));
        let answer = read_announce(&sent[0].bytes, source);
        assert_eq!(answer.counts(), (0, n / 5 + 1));
    }
    let counters = world.counters();
    assert_eq!((counters.messages_sent, counters.messages_received), ([40], [40]));
    // Each datagram is counted once, where it came in, and once more where it was answered.
    assert_eq!((counters.requests[1], counters.replies()[1]), (40, 40));
    assert_eq!(counters.udp_received_bytes[0], 40 * (16 + 98));
}

#[test]
fn a_link_local_peer_is_answered_through_its_interface_by_whatever_core() {
    for steering in [Steering::Owner, Steering::Wrong] {
        let mut world = World::with(Options { cores: 2, steering, ..Options::default() });
        let ip = "fe80::1".parse().expect("v6");
        let source = SocketAddr::V6(std::net::SocketAddrV6::new(ip, 6_881, 0, 3));
        // `World::datagram` compares the target, its interface too.
        assert_eq!(world.announce(source, &leecher(HASH, 6_881)).counts(), (0, 1));
    }
}

#[test]
fn the_same_script_gives_the_same_answers_on_any_number_of_cores() {
    let run = |cores, steering| {
        let mut world = World::with(Options { cores, steering, ..Options::default() });
        let mut rng = Rng::new(9);
        let mut trace = Vec::new();
        for _ in 0..500 {
            let hash = hash(u64::from(rng.below(4)));
            let source = v4(rng.below(20));
            let announce = match rng.below(4) {
                0 => Announce { event: Event::Stopped, ..leecher(hash, 6_881) },
                1 => seeder(hash, 6_881),
                _ => leecher(hash, 6_881),
            };
            let answer = world.announce(source, &announce);
            // Fewer peers than wanted: all of them come, in whatever order.
            let peers: BTreeSet<_> = answer.peers.iter().copied().collect();
            trace.push((answer.interval, answer.counts(), peers));
            world.advance(rng.below(100));
        }
        trace
    };
    let one = run(1, Steering::Owner);
    for cores in [2, 3, 5] {
        for steering in [Steering::Owner, Steering::Wrong] {
            assert_eq!(run(cores, steering), one, "{cores} cores, {steering:?}");
        }
    }
}

#[test]
fn a_batch_is_answered_in_its_order_hostile_neighbours_or_not() {
    use throng::tracker::Datagram;
    let mut world = World::new();
    let id = world.connect(v4(1));
    let good = announce_bytes(id, &leecher(HASH, 6_881));
    let bad = announce_bytes(ConnectionId([9; 8]), &leecher(HASH, 6_881));
    let connect = connect_bytes();
    let batch: Vec<Datagram<'_>> = [&good, &bad, &connect, &bad, &good, &connect]
        .into_iter()
        .zip(1..)
        .map(|(bytes, port)| {
            let source = SocketAddr::new(v4(1).ip(), port);
            Datagram { listener: LISTENER_V4, source, bytes, truncated: false }
        })
        .collect();
    world.batch(0, &batch);
    let ports: Vec<u16> = world.sent().iter().map(|sent| sent.target.port()).collect();
    assert_eq!(ports, [1, 3, 5, 6]);
}

#[test]
fn a_full_batch_is_answered_as_its_datagrams_one_by_one() {
    use throng::tracker::Datagram;
    let play = |batch_len: usize| {
        let mut world = World::of(2);
        let mut rng = Rng::new(64);
        let mut trace = Vec::new();
        for _ in 0..20 {
            let requests: Vec<(SocketAddr, Vec<u8>)> = (0..BATCH_MAX)
                .map(|_| {
                    let source =
                        if rng.below(2) == 0 { v4(rng.below(9)) } else { v6(rng.below(9)) };
                    // Swarms that are here, that are not, and that this very batch removes.
                    let announce = leecher(hash(u64::from(rng.below(40))), 6_881);
                    let event = if rng.below(3) == 0 { Event::Stopped } else { Event::Started };
                    let id = world.connect(source);
                    let bytes = match rng.below(8) {
                        0 => scrape_bytes(id, &[announce.info_hash, HASH]),
                        1 => announce_bytes(ConnectionId([7; 8]), &announce),
                        _ => announce_bytes(id, &Announce { event, ..announce }),
                    };
                    (source, bytes)
                })
                .collect();
            for chunk in requests.chunks(batch_len) {
                let batch: Vec<Datagram<'_>> = chunk
                    .iter()
                    .map(|(source, bytes)| {
                        let (listener, source) = (LISTENER_V4, *source);
                        Datagram { listener, source, bytes, truncated: false }
                    })
                    .collect();
                world.batch(0, &batch);
            }
            // Messages to the other core are delivered after the batch, so in another order. Which
            // peers are drawn is chance; how many there are, and all before them, is not.
            let told = |sent: &Sent| (sent.target, sent.bytes.len(), sent.bytes[..20].to_vec());
            let mut answers: Vec<_> = world.sent().iter().map(told).collect();
            answers.sort_unstable();
            trace.push(answers);
            world.sleep(200);
        }
        let hashes: Vec<InfoHash> = (0..40).map(hash).collect();
        (trace, world.scrape(v4(1), &hashes))
    };
    let expected = play(1);
    for batch_len in [2, 4, 63, 64] {
        assert_eq!(play(batch_len), expected, "batches of {batch_len}");
    }
}

#[test]
fn without_a_send_slot_the_answer_is_dropped_and_counted() {
    let mut world = World::of(2);
    world.steering = Steering::Core(0);
    let id = world.connect(v4(1));
    let (near, far) = (world.hash_of(0, 0), world.hash_of(1, 0));
    world.set_send_slots(0);
    let requests = [
        connect_bytes(),
        announce_bytes(id, &leecher(near, 6_881)),
        announce_bytes(id, &leecher(far, 6_881)),
        announce_bytes(id, &leecher(near, 0)),
        scrape_bytes(id, &[near]),
        scrape_bytes(id, &[near, far]),
        scrape_bytes(id, &[]),
    ];
    for (n, request) in (1..).zip(&requests) {
        assert_eq!(world.datagram(v4(1), request), []);
        assert_eq!(world.dropped(DropReason::NoSendSlot), n);
    }
    world.set_send_slots(usize::MAX);
    for request in &requests {
        assert_eq!(world.datagram(v4(1), request).len(), 1);
    }
}

// Access.

#[test]
fn lists_refuse_announces_and_empty_scrapes() {
    let (listed, other) = (hash(1), hash(2));
    for (access, served, refused) in
        [(allow([listed]), listed, other), (deny([listed]), other, listed)]
    {
        let mut world = World::with(Options { cores: 2, access, ..Options::default() });
        assert_eq!(world.announce(v4(1), &leecher(served, 6_881)).counts(), (0, 1));
        assert_eq!(
            world.announce_refused(v4(1), &leecher(refused, 6_881)),
            "this torrent is not allowed on this tracker"
        );
        assert_eq!(world.scrape(v4(1), &[refused, served]), [[0; 3], [0, 0, 1]]);
        assert_eq!(world.counters().swarms, [1]);
        assert_eq!(world.refused(Refusal::NotAllowed), 1);
    }
}

#[test]
fn a_new_list_applies_at_once_to_swarms_that_exist() {
    let mut world = World::of(2);
    world.announce(v4(1), &leecher(HASH, 6_881));
    world.set_access(&deny([HASH]));
    world.announce_refused(v4(1), &leecher(HASH, 6_881));
    assert_eq!(world.scrape(v4(1), &[HASH]), [[0; 3]]);
    world.set_access(&Access::default());
    assert_eq!(world.scrape(v4(1), &[HASH]), [[0, 0, 1]]);
}

#[test]
fn from_a_banned_network_nothing_is_heard() {
    for cores in [1, 2] {
        let access = ban("192.0.2.0/24");
        let mut world = World::with(Options { cores, access, ..Options::default() });
        let at = |text: &str| SocketAddr::new(text.parse().expect("an address"), 40_000);
        let (banned, other) = (at("192.0.2.7"), at("198.51.100.7"));
        assert_eq!(world.datagram(banned, &connect_bytes()), []);
        assert_eq!(world.datagram(at("::ffff:192.0.2.8"), &connect_bytes()), []);
        assert_eq!(world.dropped(DropReason::Banned), 2);
        assert_eq!(world.announce(other, &leecher(HASH, 6_881)).counts(), (0, 1));
        // A ban holds for those who are here already.
        world.set_access(&ban("198.51.100.7"));
        assert_eq!(world.datagram(other, &connect_bytes()), []);
        world.set_access(&Access::default());
        assert_eq!(world.announce(banned, &leecher(HASH, 6_881)).counts(), (0, 2));
    }
}

// Limits.

#[test]
fn a_source_brings_no_more_than_it_may_and_known_peers_are_not_counted() {
    for cores in [1, 2] {
        let limits = Limits {
            new_swarms: Rate { burst: 4, per_minute: 60 },
            new_peers: Rate { burst: 8, per_minute: 60 },
            peers_per_swarm: 3,
            memory_bytes: 64 << 10,
            ..Limits::default()
        };
        let mut world = World::with(Options { cores, limits, ..Options::default() });
        let [source, other] = [7, 8].map(v4);
        let owned: Vec<InfoHash> = (0..6).map(|index| world.hash_of(0, index)).collect();
        for hash in &owned[..4] {
            assert_eq!(world.announce(source, &leecher(*hash, 6_881)).counts(), (0, 1));
        }
        let refused = world.announce_refused(source, &leecher(owned[4], 6_881));
        assert_eq!(refused, "too many new torrents from this address, try later");
        // Those that are there come back as often as they like, and others are not held back.
        for _ in 0..20 {
            world.announce(source, &leecher(owned[0], 6_881));
        }
        assert_eq!(world.announce(other, &leecher(owned[4], 6_881)).counts(), (0, 1));
        for port in 0..3 {
            world.announce(source, &leecher(owned[4], 7_000 + port));
        }
        let refused = world.announce_refused(source, &leecher(owned[4], 7_003));
        assert_eq!(refused, "too many peers of this address in this swarm");
        let refused = world.announce_refused(source, &leecher(owned[1], 7_004));
        assert_eq!(refused, "too many new peers from this address, try later");
        // Who leaves may do so, and comes back in time.
        world.announce(other, &leecher(owned[0], 6_881));
        let stop = Announce { event: Event::Stopped, ..leecher(owned[0], 6_881) };
        world.announce(source, &stop);
        world.announce_refused(source, &leecher(owned[0], 6_881));
        world.advance(10);
        world.announce(source, &leecher(owned[0], 6_881));
        for (refusal, count) in [
            (Refusal::TooManyNewSwarms, 1),
            (Refusal::TooManyPeersInSwarm, 1),
            (Refusal::TooManyNewPeers, 2),
        ] {
            assert_eq!(world.refused(refusal), count, "{refusal:?}");
        }
    }
}

#[test]
fn a_polite_refusal_is_an_empty_success_for_a_day() {
    let mut world = World::with(Options {
        policy: Policy { polite_refusal: true, ..policy() },
        access: deny([HASH]),
        ..Options::default()
    });
    let answer = world.announce(v4(1), &leecher(HASH, 6_881));
    let nobody = Answer { interval: POLITE_INTERVAL_SECS, leechers: 0, seeders: 0, peers: vec![] };
    assert_eq!(answer, nobody);
    assert_eq!(world.counters().swarms, [0]);
}

#[test]
fn who_stops_has_left_though_its_swarm_is_not_allowed_any_more() {
    for polite in [false, true] {
        let policy = Policy { polite_refusal: polite, ..policy() };
        let mut world = World::with(Options { cores: 2, policy, ..Options::default() });
        let hashes = [world.hash_of(0, 0), world.hash_of(1, 0)];
        for hash in hashes {
            world.announce(v4(1), &leecher(hash, 6_881));
            world.announce(v4(2), &leecher(hash, 6_881));
        }
        world.set_access(&deny(hashes));
        for hash in hashes {
            let stop = Announce { event: Event::Stopped, ..leecher(hash, 6_881) };
            if polite {
                assert_eq!(world.announce(v4(1), &stop).counts(), (0, 0));
            } else {
                assert_eq!(world.announce_refused(v4(1), &stop), Refusal::NotAllowed.text());
            }
        }
        world.set_access(&Access::default());
        for hash in hashes {
            let answer = world.announce(v4(3), &leecher(hash, 6_881));
            assert_eq!(answer.peers, [endpoint(v4(2), 6_881)]);
        }
    }
}

// Time and bounds.

#[test]
fn a_batch_of_one_is_answered_within_its_own_call() {
    let mut world = World::new();
    let id = world.connect(v4(1));
    let announce = announce_bytes(id, &leecher(HASH, 6_881));
    for bytes in [connect_bytes(), announce, scrape_bytes(id, &[HASH])] {
        // No time passes, nothing else comes, and no message is delivered.
        world.receive(0, v4(1), &bytes, false);
        assert_eq!(world.sent().len(), 1, "{}", bytes.escape_ascii());
    }
}

#[test]
fn a_peer_is_there_until_its_time_is_over_and_not_a_second_longer() {
    let mut world = World::of(2);
    world.announce(v4(1), &leecher(HASH, 6_881));
    world.sleep(1);
    world.announce(v4(2), &seeder(HASH, 6_882));
    world.sleep(TTL - 1);
    assert_eq!(world.scrape(v4(3), &[HASH]), [[1, 0, 1]], "to the last second");
    world.sleep(1);
    assert_eq!(world.scrape(v4(3), &[HASH]), [[1, 0, 0]]);
    let answer = world.announce(v4(3), &leecher(HASH, 6_883));
    assert_eq!(answer.peers, [endpoint(v4(2), 6_882)], "never an expired peer");
    // An announce begins a new life.
    world.sleep(TTL);
    assert_eq!(world.announce(v4(3), &leecher(HASH, 6_883)).counts(), (0, 1));
    world.sleep(TTL + 1);
    assert_eq!(world.scrape(v4(3), &[HASH]), [[0; 3]]);
    world.tick();
    let counters = world.counters();
    assert_eq!((counters.swarms, counters.store_bytes, counters.expired_peers), ([0], [0], [3]));
}

#[test]
fn swarms_that_nobody_asks_about_leave_by_ticks() {
    let mut world = World::of(2);
    for n in 0..5_000 {
        world.announce(v4(1), &leecher(hash(n), 6_881));
    }
    world.advance(TTL);
    assert_eq!(world.counters().swarms, [5_000]);
    // All are looked at about once a minute.
    for _ in 0..64 {
        world.advance(1);
    }
    let counters = world.counters();
    assert_eq!((counters.swarms, counters.store_bytes), ([0], [0]));
    assert_eq!((counters.leechers, counters.expired_peers), ([0, 0], [5_000]));
}

#[test]
fn what_expired_during_a_pause_leaves_with_the_next_tick() {
    let mut world = World::of(2);
    for n in 0..5_000 {
        world.announce(v4(1), &leecher(hash(n), 6_881));
    }
    let asked = [world.hash_of(0, 0), world.hash_of(1, 0)];
    world.sleep(TTL);
    assert_eq!(world.scrape(v4(2), &asked), [[0, 0, 1]; 2], "to the last second");
    world.sleep(2);
    world.tick();
    let counters = world.counters();
    assert_eq!((counters.swarms, counters.expired_peers), ([0], [5_000]), "in many slices");
}

#[test]
fn a_full_swarm_lets_the_one_go_that_announced_longest_ago() {
    let bounds = Bounds { peers_per_swarm: 10, ..Options::default().bounds };
    let mut world = World::with(Options { bounds, ..Options::default() });
    for n in 0..10 {
        world.announce(v4(n), &leecher(HASH, 6_881));
        world.sleep(1);
    }
    world.announce(v4(0), &leecher(HASH, 6_881));
    let answer = world.announce(v4(10), &leecher(HASH, 6_881));
    assert_eq!((answer.counts(), answer.peers.len()), ((0, 10), 9));
    assert!(!answer.peers.contains(&endpoint(v4(1), 6_881)), "it was the oldest");
    assert!(answer.peers.contains(&endpoint(v4(0), 6_881)), "it had come back");
    assert_eq!(world.counters().evicted_peers, [1]);
}

#[test]
fn a_flood_of_new_swarms_stays_within_the_budget_and_spares_those_in_use() {
    let bounds = Bounds { memory_bytes: 1 << 20, ..Options::default().bounds };
    let mut world = World::with(Options { bounds, ..Options::default() });
    for n in 0..50 {
        world.announce(v4(1), &leecher(hash(n), 6_881));
        world.announce(v4(2), &leecher(hash(n), 6_881));
    }
    for n in 0..20_000 {
        world.announce(v4(3), &leecher(hash(1_000 + n), 6_881));
    }
    assert!(world.counters().store_bytes[0] <= 1 << 20);
    assert!(world.counters().evicted_swarms[0] > 0);
    let hashes: Vec<InfoHash> = (0..50).map(hash).collect();
    assert_eq!(world.scrape(v4(1), &hashes), vec![[0, 0, 2]; 50]);
}

#[test]
fn a_flood_is_spared_for_peers_of_two_networks_or_one_that_comes_back() {
    let other_port = |source: SocketAddr| SocketAddr::new(source.ip(), 7);
    for (what, first, second, pause, spared) in [
        ("two addresses", v4(1), v4(2), 0, true),
        ("two ports of one address", v4(1), other_port(v4(1)), 0, false),
        ("two addresses of a /64", v6(1), v6(2), 0, false),
        ("two /64", v6(1), address("2a00:1450:0:1::1"), 0, true),
        ("both families", v4(1), v6(1), 0, true),
        ("the same peer at once", v4(1), v4(1), 0, false),
        ("the same peer after a while", v4(1), v4(1), 300, true),
    ] {
        let bounds = Bounds { memory_bytes: 1 << 20, ..Options::default().bounds };
        let mut world = World::with(Options { bounds, ..Options::default() });
        let returns = first == second;
        for n in 0..50 {
            world.announce(first, &leecher(hash(n), 6_881));
        }
        world.sleep(pause);
        for n in 0..50 {
            let port = if returns { 6_881 } else { 6_882 };
            world.announce(second, &leecher(hash(n), port));
        }
        for n in 0..40_000 {
            world.announce(v4(3), &leecher(hash(1_000 + n), 6_881));
        }
        let hashes: Vec<InfoHash> = (0..50).map(hash).collect();
        let left = if !spared { 0 } else { 2 - u32::from(returns) };
        assert_eq!(world.scrape(v4(1), &hashes), vec![[0, 0, left]; 50], "{what}");
    }
}

// Counters.

/// How a reason to be silent comes about over UDP; `None` if no datagram can cause it.
fn provoke_drop(reason: DropReason) -> Option<World> {
    let mut world = World::of(2);
    world.steering = Steering::Core(0);
    let id = world.connect(v4(1));
    let far = world.hash_of(1, 0);
    let announce = announce_bytes(id, &leecher(far, 6_881));
    match reason {
        DropReason::Malformed(ParseError::Truncated) => {
            world.datagram(v4(1), &announce[..97]);
        }
        DropReason::Malformed(ParseError::BadMagic) => {
            world.datagram(v4(1), &[0; 16]);
        }
        DropReason::Malformed(ParseError::UnknownAction) => {
            world.datagram(v4(1), &[0xFF; 16]);
        }
        // What only HTTP or a WebSocket can do wrong; there it is told, not dropped.
        DropReason::Malformed(
            ParseError::BadRequest
            | ParseError::HeadTooLarge
            | ParseError::MethodNotAllowed
            | ParseError::NotFound
            | ParseError::MissingInfoHash
            | ParseError::SeveralInfoHashes
            | ParseError::BadInfoHash
            | ParseError::BadPeerId
            | ParseError::BadPort
            | ParseError::BadForwarded
            | ParseError::BadUpgrade
            | ParseError::UpgradeRequired
            | ParseError::BadJson
            | ParseError::BadAction
            | ParseError::BadOffer,
        ) => return None,
        DropReason::BadConnectionId => {
            world.datagram(v4(2), &announce);
        }
        DropReason::SourcePortZero => {
            world.datagram(SocketAddr::new(v4(1).ip(), 0), &announce);
        }
        DropReason::TooLong => world.receive(0, v4(1), &announce, true),
        DropReason::MailboxFull => {
            world.set_full(1, true);
            world.datagram(v4(1), &announce);
        }
        DropReason::NoSendSlot => {
            world.set_send_slots(0);
            world.datagram(v4(1), &connect_bytes());
        }
        DropReason::TooManyScrapes => {
            world.set_deaf(1, true);
            for _ in 0..=PENDING_SCRAPES_MAX {
                world.datagram(v4(1), &scrape_bytes(id, &[far]));
            }
        }
        DropReason::OwnerSilent => {
            world.set_deaf(1, true);
            world.datagram(v4(1), &scrape_bytes(id, &[far]));
            world.advance(PENDING_SCRAPE_SECONDS);
        }
        DropReason::Banned => {
            world.set_access(&ban("5.0.0.0/8"));
            world.datagram(v4(1), &announce);
        }
    }
    Some(world)
}

#[test]
fn every_drop_is_counted_in_its_own_cell_and_no_other() {
    let own = [
        DropReason::BadConnectionId,
        DropReason::SourcePortZero,
        DropReason::TooLong,
        DropReason::MailboxFull,
        DropReason::NoSendSlot,
        DropReason::TooManyScrapes,
        DropReason::OwnerSilent,
        DropReason::Banned,
    ];
    let all: Vec<DropReason> =
        own.into_iter().chain(ParseError::ALL.map(DropReason::Malformed)).collect();
    assert_eq!(all.len(), DropReason::COUNT);
    for reason in all {
        let Some(mut world) = provoke_drop(reason) else { continue };
        let mut expected = Counters::default();
        let action = match reason {
            DropReason::BadConnectionId | DropReason::MailboxFull => Some(Action::Announce),
            DropReason::TooManyScrapes | DropReason::OwnerSilent => Some(Action::Scrape),
            DropReason::NoSendSlot => Some(Action::Connect),
            _ => None,
        };
        expected.drop(Asked { transport: Transport::Udp, family: Family::V4, action }, reason);
        let counters = world.counters();
        assert_eq!(counters.drops, expected.drops, "{reason:?}");
        assert_eq!(counters.refusals, expected.refusals, "{reason:?}");
        assert_eq!(unanswered(&counters), unanswered(&expected), "{reason:?}");
    }
}

#[test]
fn every_udp_refusal_is_counted_in_its_own_cell_and_sent_as_its_text() {
    for refusal in [Refusal::PortZero, Refusal::NotAllowed, Refusal::FullScrape] {
        let mut world = World::of(2);
        let id = world.connect(v4(1));
        let request = match refusal {
            Refusal::PortZero => announce_bytes(id, &leecher(HASH, 0)),
            Refusal::NotAllowed => {
                world.set_access(&allow([]));
                announce_bytes(id, &leecher(HASH, 6_881))
            }
            Refusal::FullScrape => scrape_bytes(id, &[]),
            // A test of their own: they come of what was asked before.
            Refusal::TooManyNewSwarms
            | Refusal::TooManyNewPeers
            | Refusal::TooManyPeersInSwarm
            // For HTTP and WebSocket: over UDP the first is silence, the others are drops.
            | Refusal::Malformed(_)
            | Refusal::Busy
            | Refusal::Banned
            | Refusal::TooManyTorrents
            | Refusal::NoSuchOffer
            | Refusal::OriginNotAllowed => continue,
        };
        let answer = world.answer(v4(1), &request);
        assert_eq!(read_error(&answer), refusal.text());
        let mut expected = Counters::default();
        let is_scrape = refusal == Refusal::FullScrape;
        let action = Some(if is_scrape { Action::Scrape } else { Action::Announce });
        expected.refuse(Asked { transport: Transport::Udp, family: Family::V4, action }, refusal);
        let counters = world.counters();
        assert_eq!(counters.refusals, expected.refusals);
        assert_eq!(counters.drops, expected.drops);
        assert_eq!(unanswered(&counters), unanswered(&expected));
    }
}

#[test]
fn bytes_are_counted_by_family_and_by_what_the_source_had_proved() {
    let mut world = World::new();
    let id = world.connect(v4(1));
    let request = announce_bytes(id, &leecher(HASH, 6_881));
    let reply = world.answer(v4(1), &request).len() as u64;
    world.datagram(v6(1), &request);
    world.datagram(v6(1), &[0; 5]);
    let counters = world.counters();
    assert_eq!(counters.udp_received_bytes, [16 + 98, 98 + 5]);
    assert_eq!(counters.udp_sent_bytes, [16 + reply, 0]);
    assert_eq!(counters.udp_unverified_received_bytes, [16 + 98 + 5]);
    assert_eq!(counters.udp_unverified_sent_bytes, [16]);
}

#[test]
fn a_deny_list_of_ports_may_be_all_of_them() {
    let nobody = Policy { deny_ports: PortSet::new([1..=u16::MAX]), ..policy() };
    let mut world = World::with(Options { policy: nobody, ..Options::default() });
    for port in [1, 6_881, 65_535] {
        assert_eq!(world.announce(v4(1), &leecher(HASH, port)).counts(), (0, 0));
    }
    assert_eq!(
        world.announce(v4(1), &Announce { left: Left::Unknown, ..leecher(HASH, 9) }).peers,
        []
    );
    assert_eq!(world.counters().swarms, [0]);
}
