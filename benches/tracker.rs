//! One core's tracker without sockets: batches of datagrams and HTTP requests against 10,000 swarms
//! of 20 peers, replies kept in memory.

use std::hint::black_box;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use throng::rng::Rng;
use throng::time::Seconds;
use throng::tracker::http::{Connection, HttpAnswer};
use throng::tracker::{Datagram, Tracker};
use throng::wire::bencode::Value;
use throng::wire::http::{Head, Status, head_end};
use throng::wire::id::{ConnectionId, TransactionId};
use throng::wire::udp::{self, ANNOUNCE_BYTES, Reply};

#[path = "common/announce.rs"]
mod announce;
#[path = "common/hash.rs"]
mod hash;
#[path = "common/one_core.rs"]
mod one_core;

use one_core::{Replies, address, datagram, http_request, setup};

const NOW: Seconds = Seconds(1_000);
const SWARMS: u32 = 10_000;
/// Of each swarm; the first four are seeders.
const PEERS: u32 = 20;
const SEEDERS: u32 = 4;
/// More than there are, so every reply has all others.
const NUM_WANT: u32 = 50;
/// Of a leecher's reply.
const REPLY_BYTES: usize = 20 + 6 * (PEERS as usize - 1);
/// Requests prepared ahead.
const REQUESTS: usize = 1 << 14;

fn request(id: ConnectionId, swarm: u32, peer: u32) -> [u8; ANNOUNCE_BYTES] {
    let info_hash = hash::info_hash(swarm);
    let announce = announce::announce(info_hash, 6_881, peer < SEEDERS, NUM_WANT);
    let transaction_id = TransactionId((swarm << 8 | peer).to_be_bytes());
    let mut bytes = [0; ANNOUNCE_BYTES];
    let len = udp::write_announce_request(&mut bytes, id, transaction_id, &announce);
    assert_eq!(len, ANNOUNCE_BYTES);
    bytes
}

/// A tracker with every swarm filled over UDP, and the connection id of each peer.
fn tracker(replies: &mut Replies) -> (Tracker, Vec<ConnectionId>) {
    let mut tracker = Tracker::new(setup(1)).expect("address space");
    let mut ids = Vec::new();
    let mut connect = [0; 16];
    for peer in 0..PEERS {
        udp::write_connect_request(&mut connect, TransactionId(*b"abcd"));
        tracker.handle_datagrams(NOW, &[datagram(address(peer), &connect)], replies);
        match replies.last() {
            Reply::Connect { connection_id, .. } => ids.push(connection_id),
            other => panic!("{other:?}"),
        }
        for swarm in 0..SWARMS {
            let bytes = request(ids[peer as usize], swarm, peer);
            tracker.handle_datagrams(NOW, &[datagram(address(peer), &bytes)], replies);
        }
    }
    let counters = tracker.counters();
    assert_eq!(counters.seeders[0], u64::from(SWARMS * SEEDERS));
    assert_eq!(counters.leechers[0], u64::from(SWARMS * (PEERS - SEEDERS)));
    (tracker, ids)
}

fn udp_announces(c: &mut Criterion) {
    let mut replies = Replies::new();
    let (mut tracker, ids) = tracker(&mut replies);
    let mut rng = Rng::new(5);
    let requests: Vec<(SocketAddr, [u8; ANNOUNCE_BYTES])> = (0..REQUESTS)
        .map(|_| {
            let peer = SEEDERS + rng.below(PEERS - SEEDERS);
            (address(peer), request(ids[peer as usize], rng.below(SWARMS), peer))
        })
        .collect();

    let mut group = c.benchmark_group("tracker/udp_announce");
    for size in [1, 8, 32, 64] {
        group.throughput(Throughput::Elements(size as u64));
        let batches: Vec<Vec<Datagram<'_>>> = requests
            .chunks_exact(size)
            .map(|chunk| chunk.iter().map(|(source, bytes)| datagram(*source, bytes)).collect())
            .collect();
        let mut turn = batches.iter().cycle();
        group.bench_function(BenchmarkId::new("batch", size), |b| {
            b.iter(|| {
                let batch = turn.next().expect("a cycle");
                (replies.count, replies.bytes) = (0, 0);
                tracker.handle_datagrams(NOW, black_box(batch), &mut replies);
                assert_eq!((replies.count, replies.bytes), (size, size * REPLY_BYTES));
                let last = batch[size - 1];
                assert_eq!(replies.buffer[4..8], last.bytes[12..16]);
            });
        });
    }
    group.finish();

    match replies.last() {
        Reply::Announce { interval, leechers, seeders, peers, .. } => {
            assert!((1_620..=1_980).contains(&interval));
            assert_eq!((leechers, seeders), (PEERS - SEEDERS, SEEDERS));
            let mut given: Vec<_> = peers.chunks_exact(6).collect();
            given.sort_unstable();
            given.dedup();
            assert_eq!(given.len(), PEERS as usize - 1);
        }
        other => panic!("{other:?}"),
    }
    let drops: u64 = tracker.counters().drops.iter().sum();
    assert_eq!(drops, 0);
    tracker.check_invariants();
}

fn http_announces(c: &mut Criterion) {
    let mut replies = Replies::new();
    let (mut tracker, _) = tracker(&mut replies);
    let mut rng = Rng::new(6);
    let requests: Vec<(IpAddr, Vec<u8>)> = (0..REQUESTS)
        .map(|_| {
            let peer = SEEDERS + rng.below(PEERS - SEEDERS);
            (address(peer).ip(), http_request(&hash::info_hash(rng.below(SWARMS)), NUM_WANT))
        })
        .collect();
    let mut turn = requests.iter().cycle();
    let mut body = Vec::new();
    let mut handle = |body: &mut Vec<u8>| {
        let (source, bytes) = turn.next().expect("a cycle");
        let end = head_end(black_box(bytes), 0).expect("a good head").expect("a whole one");
        let head = Head::parse(&bytes[..end]).expect("a good head");
        let from = (*source, Connection(1));
        let answer = tracker.handle_http(NOW, from, &head, body, &mut replies);
        assert_eq!(answer, HttpAnswer::Ready(Status::Ok));
    };
    handle(&mut body);
    let expected = body.len();
    let value = Value::parse(&body).expect("a correct dictionary");
    let integer = |key: &[u8]| value.get(key).and_then(Value::as_integer);
    assert_eq!(integer(b"complete"), Some(i128::from(SEEDERS)));
    assert_eq!(integer(b"incomplete"), Some(i128::from(PEERS - SEEDERS)));
    let peers = value.get(b"peers").and_then(Value::as_bytes).expect("compact peers");
    assert_eq!(peers.len(), REPLY_BYTES - 20);

    c.bench_function("tracker/http_announce", |b| {
        b.iter(|| {
            handle(&mut body);
            // Every interval within the jitter has four digits, and half of it three.
            assert_eq!(body.len(), expected);
        });
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    targets = udp_announces, http_announces
}
criterion_main!(benches);
