//! What is counted instruction by instruction: one scenario a process, so many rounds of it.
//!
//! `instructions SCENARIO ROUNDS` makes what the scenario needs, does the rounds, and prints how
//! many operations those were. `.ci/instructions` runs that under valgrind with two numbers of
//! rounds: the difference of the counts, divided by the difference of the operations, is what one
//! operation takes, without what was made before. Everything is seeded, so the same program takes
//! the same instructions every time, on a busy machine too.
//!
//! Without arguments every scenario does one round, and prints its name and its operations.

use std::hint::black_box;
use std::net::{IpAddr, SocketAddr};

use throng::limits::{ENDPOINT_V4_BYTES, ENDPOINT_V6_BYTES};
use throng::rng::Rng;
use throng::swarm::SwarmStore;
use throng::time::Seconds;
use throng::tracker::census::Census;
use throng::tracker::http::{Connection, HttpAnswer};
use throng::tracker::owner::CoreId;
use throng::tracker::{Datagram, Tracker};
use throng::wire::addr::Family;
use throng::wire::bencode::Value;
use throng::wire::http::{AnnounceQuery, Head, Status, head_end};
use throng::wire::id::{ConnectionId, InfoHash, PeerId, TransactionId};
use throng::wire::udp::{self, ANNOUNCE_BYTES, Reply, Request};

#[path = "common/announce.rs"]
mod announce;
#[path = "common/hash.rs"]
mod hash;
#[path = "common/one_core.rs"]
mod one_core;
#[path = "common/skewed.rs"]
mod skewed;

use one_core::{Replies, address, datagram, http_request, setup};
use skewed::{BATCH, Draw, NOW, SCRAPE, Size, answer, scrape, warm};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SWARMS: u32 = 1_000;
const PEERS: u32 = 20_000;
/// Too many for the processor's own cache: what is due is prefetched.
const MANY_SWARMS: u32 = 20_000;
const MANY_PEERS: u32 = 100_000;
/// Of an announce; more than most swarms have, fewer than the popular ones have.
const NUM_WANT: u32 = 50;
/// Announces of a round: so many that their mean hardly depends on who is drawn.
const ROUND: usize = 1 << 14;
const SCRAPES: usize = ROUND / SCRAPE;
/// The most cores that the tracker is configured with.
const CORES_MAX: u16 = 16;

/// Does one round and returns its number of operations.
type Round = Box<dyn FnMut() -> usize>;
/// A name, and what makes its rounds ready.
type Scenario = (&'static str, fn() -> Round);

/// `.ci/instructions` compares those whose names differ only in the number of cores.
const SCENARIOS: [Scenario; 15] = [
    ("store/announce/v4", || store_announce(&few(Family::V4))),
    ("store/announce/v6", || store_announce(&few(Family::V6))),
    ("store/announce/v4/many", || store_announce(&MANY)),
    ("store/insert/v4", || store_insert(few(Family::V4))),
    ("store/insert/v4/many", || store_insert(MANY)),
    ("store/scrape_74/v4", || store_scrape(&few(Family::V4))),
    ("store/scrape_74/v4/many", || store_scrape(&MANY)),
    ("store/sweep/v4", store_sweep),
    ("tracker/census", tracker_census),
    ("tracker/udp_announce/cores=1", || tracker_udp(1)),
    ("tracker/udp_announce/cores=4", || tracker_udp(4)),
    ("tracker/udp_announce/cores=16", || tracker_udp(CORES_MAX)),
    ("tracker/http_announce", tracker_http),
    ("wire/udp_announce", wire_udp),
    ("wire/http_announce", wire_http),
];

const MANY: Size = Size { swarms: MANY_SWARMS, peers: MANY_PEERS, family: Family::V4 };

const fn few(family: Family) -> Size {
    Size { swarms: SWARMS, peers: PEERS, family }
}

fn insert(store: &mut SwarmStore, draws: &[Draw]) {
    for draws in draws.chunks(BATCH) {
        warm(store, draws);
        for draw in draws {
            black_box(store.announce(NOW, &draw.arrival()));
        }
    }
}

/// A store with all peers, and known ones of them at random.
fn full_store(size: &Size) -> (SwarmStore, Vec<Draw>) {
    let Size { peers, family, .. } = *size;
    let all: Vec<Draw> = (0..peers).map(|number| size.draw(number)).collect();
    let mut store = size.store();
    insert(&mut store, &all);
    let totals = store.totals();
    let (seeders, leechers) = (totals.seeders[family as usize], totals.leechers[family as usize]);
    assert_eq!((seeders, leechers), (u64::from(peers / 5), u64::from(peers - peers / 5)));
    let mut rng = Rng::new(5);
    let known = (0..ROUND).map(|_| all[rng.below(peers) as usize]).collect();
    (store, known)
}

/// Known peers announce again, and the replies are written.
fn store_announce(size: &Size) -> Round {
    let (mut store, known) = full_store(size);
    let endpoint_bytes = match size.family {
        Family::V4 => ENDPOINT_V4_BYTES,
        Family::V6 => ENDPOINT_V6_BYTES,
    };
    Box::new(move || {
        let mut out = [0; 1_232];
        for draws in known.chunks(BATCH) {
            warm(&mut store, draws);
            for draw in draws {
                let len = answer(&mut store, draw, black_box(&mut out));
                let count = |at: usize| u32::from_be_bytes([0, 1, 2, 3].map(|i| out[at + i]));
                let given = given(draw.seeder, (count(0), count(4)));
                assert_eq!(len, 20 + endpoint_bytes * given);
            }
        }
        known.len()
    })
}

/// Peers in the reply to one of a swarm with so many seeders and leechers.
fn given(seeder: bool, (seeders, leechers): (u32, u32)) -> usize {
    let others = if seeder { leechers } else { seeders + leechers - 1 };
    others.min(NUM_WANT) as usize
}

/// An empty store takes all peers.
fn store_insert(size: Size) -> Round {
    let all: Vec<Draw> = (0..size.peers).map(|number| size.draw(number)).collect();
    Box::new(move || {
        let mut store = size.store();
        insert(&mut store, &all);
        assert_eq!(store.totals().seeders[0] + store.totals().leechers[0], u64::from(size.peers));
        all.len()
    })
}

/// Scrapes of as many hashes as a datagram holds; popular swarms often come more than once.
fn store_scrape(size: &Size) -> Round {
    let (mut store, known) = full_store(size);
    Box::new(move || {
        for draws in known.chunks_exact(SCRAPE) {
            assert!(scrape(&mut store, black_box(draws)) > 0);
        }
        SCRAPES
    })
}

/// All swarms are looked over, as in each second a part of them is; an operation is a swarm.
fn store_sweep() -> Round {
    /// The sweep goes round in this time at the most; a peer lives through some rounds of it.
    const SECONDS: u32 = 512;
    let (mut store, _) = full_store(&few(Family::V4));
    let swarms = store.totals().swarms;
    let mut now = NOW;
    Box::new(move || {
        now = Seconds(now.0 + SECONDS);
        while store.sweep(black_box(now)) {}
        assert_eq!(store.totals().expired_peers, 0);
        assert_eq!(store.survey().sizes().iter().sum::<u64>(), swarms);
        usize::try_from(swarms).expect("a thousand")
    })
}

/// Clients are counted at a thousand announces a second, when the table is full of them.
fn tracker_census() -> Round {
    const PER_SECOND: usize = 1_000;
    const CLIENTS: u32 = 200;
    const INTERVAL_SECS: u32 = 1_800;
    let mut rng = Rng::new(5);
    let ids: Vec<PeerId> = (0..ROUND)
        .map(|_| {
            let name = format!("-XX{:04}-abcdefghijkl", rng.below(CLIENTS));
            PeerId(name.into_bytes().try_into().expect("20 bytes"))
        })
        .collect();
    let mut census = Census::new(INTERVAL_SECS);
    let mut now = NOW;
    Box::new(move || {
        for ids in ids.chunks(PER_SECOND) {
            now = Seconds(now.0 + 1);
            census.tick(now);
            for id in ids {
                census.saw(black_box(id));
            }
        }
        assert!(census.clients().iter().map(|(_, count)| count).sum::<u32>() >= 64);
        ROUND
    })
}

/// The swarms of a tracker's scenario, and who is in them: seeders and leechers.
///
/// All belong to the first of sixteen cores. The cores share the range of one hash out evenly, so
/// they belong to the first of four, and of one, too: whatever the number of cores, the same
/// announces find the same swarms.
fn swarms() -> (Vec<InfoHash>, Vec<(u32, u32)>) {
    let own = |hash: &InfoHash| {
        let core = |cores| setup(cores).owner.core(hash);
        core(CORES_MAX) == CoreId(0) && core(4) == CoreId(0)
    };
    let hashes = (0..).map(hash::info_hash).filter(own).take(SWARMS as usize).collect();
    let mut counts = vec![(0, 0); SWARMS as usize];
    for number in 0..PEERS {
        let (seeders, leechers) = &mut counts[swarm(number)];
        *(if is_seeder(number) { seeders } else { leechers }) += 1;
    }
    (hashes, counts)
}

fn swarm(number: u32) -> usize {
    skewed::swarm(number, SWARMS) as usize
}

fn is_seeder(number: u32) -> bool {
    number.is_multiple_of(5)
}

fn request(id: ConnectionId, info_hash: InfoHash, number: u32) -> [u8; ANNOUNCE_BYTES] {
    let announce = announce::announce(info_hash, 6_881, is_seeder(number), NUM_WANT);
    let mut bytes = [0; ANNOUNCE_BYTES];
    let transaction_id = TransactionId(number.to_be_bytes());
    let len = udp::write_announce_request(&mut bytes, id, transaction_id, &announce);
    assert_eq!(len, ANNOUNCE_BYTES);
    bytes
}

/// The first of so many cores, with all peers, and the announce of each.
fn full_tracker(cores: u16, hashes: &[InfoHash]) -> (Tracker, Vec<[u8; ANNOUNCE_BYTES]>) {
    let setup = setup(cores);
    let ids = setup.connection_ids.clone();
    let requests: Vec<_> = (0..PEERS)
        .map(|number| {
            let id = ids.issue(NOW, address(number).ip());
            request(id, hashes[swarm(number)], number)
        })
        .collect();
    let mut tracker = Tracker::new(setup).expect("address space");
    let mut replies = Replies::new();
    for (number, bytes) in (0..PEERS).zip(&requests) {
        tracker.handle_datagrams(NOW, &[datagram(address(number), bytes)], &mut replies);
    }
    assert_eq!(replies.count, PEERS as usize);
    (tracker, requests)
}

/// Known peers announce in batches, to the core that owns their swarms.
fn tracker_udp(cores: u16) -> Round {
    let (hashes, counts) = swarms();
    let (mut tracker, requests) = full_tracker(cores, &hashes);
    let mut rng = Rng::new(5);
    let mut expected = 0;
    let known: Vec<(SocketAddr, [u8; ANNOUNCE_BYTES])> = (0..ROUND)
        .map(|_| {
            let number = rng.below(PEERS);
            let given = given(is_seeder(number), counts[swarm(number)]);
            expected += 20 + ENDPOINT_V4_BYTES * given;
            (address(number), requests[number as usize])
        })
        .collect();
    Box::new(move || {
        let mut replies = Replies::new();
        let mut batch = [datagram(address(0), &[]); BATCH];
        for chunk in known.chunks_exact(BATCH) {
            for (datagram, (source, bytes)) in batch.iter_mut().zip(chunk) {
                *datagram = Datagram { source: *source, bytes, ..*datagram };
            }
            tracker.handle_datagrams(NOW, black_box(&batch), &mut replies);
        }
        assert_eq!((replies.count, replies.bytes), (ROUND, expected));
        assert!(matches!(replies.last(), Reply::Announce { .. }));
        ROUND
    })
}

/// Known peers announce over HTTP: from the bytes of the request to the body of the answer.
fn tracker_http() -> Round {
    let (hashes, counts) = swarms();
    let (mut tracker, _) = full_tracker(1, &hashes);
    let mut rng = Rng::new(5);
    // Every request says that something is left.
    let mut leecher = || rng.below(PEERS / 5) * 5 + 1;
    let known: Vec<(u32, IpAddr, Vec<u8>)> = (0..ROUND)
        .map(|_| {
            let number = leecher();
            let request = http_request(&hashes[swarm(number)], NUM_WANT);
            (number, address(number).ip(), request)
        })
        .collect();
    let mut body = Vec::new();
    Box::new(move || {
        let mut replies = Replies::new();
        for (_, source, bytes) in &known {
            let end = head_end(black_box(bytes), 0).expect("a good head").expect("a whole one");
            let head = Head::parse(&bytes[..end]).expect("a good head");
            let from = (*source, Connection(1));
            let answer = tracker.handle_http(NOW, from, &head, &mut body, &mut replies);
            assert_eq!(answer, HttpAnswer::Ready(Status::Ok));
            black_box(&body);
        }
        let (number, ..) = known[ROUND - 1];
        let (seeders, leechers) = counts[swarm(number)];
        let value = Value::parse(&body).expect("a correct dictionary");
        let count = |key: &[u8]| value.get(key).and_then(Value::as_integer);
        assert_eq!(count(b"complete"), Some(i128::from(seeders)));
        assert_eq!(count(b"incomplete"), Some(i128::from(leechers)));
        let peers = value.get(b"peers").and_then(Value::as_bytes).expect("compact peers");
        assert_eq!(peers.len(), ENDPOINT_V4_BYTES * given(false, (seeders, leechers)));
        ROUND
    })
}

/// A datagram is read.
fn wire_udp() -> Round {
    let bytes = request(ConnectionId(*b"01234567"), hash::info_hash(1), 1);
    let sent = announce::announce(hash::info_hash(1), 6_881, false, NUM_WANT);
    Box::new(move || {
        for _ in 0..ROUND {
            match Request::parse(black_box(&bytes)) {
                Ok(Request::Announce(view)) => assert_eq!(black_box(view.announce()), sent),
                other => panic!("{other:?}"),
            }
        }
        ROUND
    })
}

/// A request is read: where its head ends, the head, and the query.
fn wire_http() -> Round {
    let info_hash = hash::info_hash(1);
    let bytes = http_request(&info_hash, NUM_WANT);
    Box::new(move || {
        for _ in 0..ROUND {
            let end = head_end(black_box(&bytes), 0).expect("a good head").expect("a whole one");
            let head = Head::parse(&bytes[..end]).expect("a good head");
            let query = black_box(AnnounceQuery::parse(head.query)).expect("a good query");
            assert_eq!((query.announce.port, query.announce.info_hash), (6_881, info_hash));
        }
        ROUND
    })
}

fn main() {
    // Cargo adds an argument of its own when it runs benches.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let [name, rounds] = &arguments[..] else {
        assert!(arguments.is_empty(), "arguments: SCENARIO ROUNDS, or none");
        for (name, scenario) in SCENARIOS {
            println!("{name} {}", scenario()());
        }
        return;
    };
    let scenario = SCENARIOS.iter().find(|(known, _)| known == name);
    let (_, scenario) = scenario.unwrap_or_else(|| panic!("`{name}` is no scenario"));
    let rounds: usize = rounds.parse().expect("a number of rounds");
    let mut round = scenario();
    println!("{}", (0..rounds).map(|_| round()).sum::<usize>());
}
