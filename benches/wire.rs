//! Requests read and replies written, in memory: `wire` alone.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use throng::wire::announce::{Left, NumWant};
use throng::wire::bencode::{Value, Writer};
use throng::wire::http::{AnnounceQuery, Head, Status, head_end, write_response};
use throng::wire::id::{ConnectionId, InfoHash, TransactionId};
use throng::wire::udp::{self, Request};

#[path = "common/announce.rs"]
mod announce;
#[path = "common/hash.rs"]
mod hash;

const CONNECTION_ID: ConnectionId = ConnectionId(*b"01234567");
const TRANSACTION_ID: TransactionId = TransactionId(*b"abcd");
/// Hashes of the longest scrape.
const HASHES: u32 = 74;
/// Compact endpoints of 50 peers.
const PEERS: [u8; 300] = [7; 300];

/// What qBittorrent 4.6 sends when a download starts.
const QBITTORRENT: &[u8] = b"GET /announce?info_hash=%e3%81%1b%95%39%ca%cf%f6%80%e4%18\
    %12%42%72%17%7c%47%47%71%57&peer_id=-qB4650-%28k3ZqA.t!7nX&port=6881&uploaded=0\
    &downloaded=0&left=5037662208&corrupt=0&key=5B8A12F0&event=started&numwant=200&compact=1\
    &no_peer_id=1&supportcrypto=1&redundant=0 HTTP/1.1\r\n\
    Host: tracker.example.org:6969\r\n\
    User-Agent: qBittorrent/4.6.5\r\n\
    Accept-Encoding: gzip\r\n\
    Connection: close\r\n\r\n";

/// What Transmission 4.0 sends in the midst of a download.
const TRANSMISSION: &[u8] = b"GET /announce?info_hash=%E3%81%1B%959%CA%CF%F6%80%E4%18\
    %12Br%17%7CGGqW&peer_id=-TR4050-k0pz7w2m9xqa&port=51413&uploaded=1310720\
    &downloaded=73400320&left=4964261888&numwant=80&key=2060104839&compact=1\
    &supportcrypto=1 HTTP/1.1\r\n\
    Host: tracker.example.org:6969\r\n\
    User-Agent: Transmission/4.0.5\r\n\
    Accept: */*\r\n\
    Accept-Encoding: deflate, gzip, br, zstd\r\n\r\n";

fn udp_requests(c: &mut Criterion) {
    let mut group = c.benchmark_group("wire/udp/parse");
    let mut buffer = [0; 2_048];

    let len = udp::write_connect_request(&mut buffer, TRANSACTION_ID);
    let connect = buffer[..len].to_vec();
    group.bench_function("connect", |b| {
        b.iter(|| match Request::parse(black_box(&connect)) {
            Ok(Request::Connect(id)) => assert_eq!(id, TRANSACTION_ID),
            other => panic!("{other:?}"),
        });
    });

    let sent = announce::announce(hash::info_hash(1), 6_881, false, 50);
    let len = udp::write_announce_request(&mut buffer, CONNECTION_ID, TRANSACTION_ID, &sent);
    let announce = buffer[..len].to_vec();
    group.bench_function("announce", |b| {
        b.iter(|| match Request::parse(black_box(&announce)) {
            Ok(Request::Announce(view)) => assert_eq!(view.announce(), sent),
            other => panic!("{other:?}"),
        });
    });

    let hashes: Vec<InfoHash> = (0..HASHES).map(hash::info_hash).collect();
    let len = udp::write_scrape_request(&mut buffer, CONNECTION_ID, TRANSACTION_ID, &hashes);
    let scrape = buffer[..len].to_vec();
    group.bench_function("scrape_74", |b| {
        b.iter(|| match Request::parse(black_box(&scrape)) {
            Ok(Request::Scrape(view)) => assert!(view.hashes().eq(hashes.iter().copied())),
            other => panic!("{other:?}"),
        });
    });
    group.finish();
}

fn udp_replies(c: &mut Criterion) {
    let mut group = c.benchmark_group("wire/udp/write");
    let mut buffer = [0; 1_232];

    group.bench_function("connect", |b| {
        b.iter(|| {
            let len = udp::write_connect(black_box(&mut buffer), TRANSACTION_ID, CONNECTION_ID);
            assert_eq!(len, udp::CONNECT_REPLY_BYTES);
        });
    });
    assert_eq!(buffer[..16], *b"\0\0\0\0abcd01234567");

    group.bench_function("announce_50_peers", |b| {
        b.iter(|| {
            let buffer = black_box(&mut buffer);
            let head = udp::write_announce_head(buffer, TRANSACTION_ID, 1_800, 16, 4);
            buffer[head..head + PEERS.len()].copy_from_slice(black_box(&PEERS));
            assert_eq!(head + PEERS.len(), 320);
        });
    });
    assert_eq!(buffer[..20], *b"\0\0\0\x01abcd\0\0\x07\x08\0\0\0\x10\0\0\0\x04");
    assert_eq!(buffer[20..320], PEERS);

    group.bench_function("scrape_74", |b| {
        b.iter(|| {
            let buffer = black_box(&mut buffer);
            let mut len = udp::write_scrape_head(buffer, TRANSACTION_ID);
            for n in 0..HASHES {
                len += udp::write_scrape_entry(&mut buffer[len..], n, 2, 3);
            }
            assert_eq!(len, 8 + 74 * 12);
        });
    });
    assert_eq!(buffer[8 + 73 * 12..][..12], *b"\0\0\0\x49\0\0\0\x02\0\0\0\x03");
    group.finish();
}

fn http_requests(c: &mut Criterion) {
    let mut group = c.benchmark_group("wire/http/parse");
    for (client, bytes) in [("qbittorrent", QBITTORRENT), ("transmission", TRANSMISSION)] {
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        let read = || {
            let end = head_end(black_box(bytes), 0).expect("a good head").expect("a whole one");
            let head = Head::parse(&bytes[..end]).expect("a good head");
            (head, AnnounceQuery::parse(head.query).expect("a good query"))
        };
        let (head, query) = read();
        assert_eq!((head.path, head.keep_alive), (&b"/announce"[..], client == "transmission"));
        assert_eq!(query.announce.info_hash.0[..4], [0xe3, 0x81, 0x1b, 0x95]);
        assert_eq!(query.announce.info_hash.0[16..], [0x47, 0x47, 0x71, 0x57]);
        let (left, want) = match client {
            "qbittorrent" => (5_037_662_208, 200),
            _ => (4_964_261_888, 80),
        };
        assert_eq!(query.announce.left, Left::Bytes(left));
        assert_eq!(query.announce.num_want, NumWant::Count(want));
        group.bench_function(client, |b| b.iter(|| assert_eq!(read().1, query)));
    }
    group.finish();
}

/// The body that an announce with 50 peers gets, then the response around it.
fn http_replies(c: &mut Criterion) {
    let write = |body: &mut Vec<u8>| {
        body.clear();
        let mut out = Writer::new(body);
        out.begin_dictionary();
        out.entry("complete", black_box(4));
        out.entry("downloaded", black_box(9));
        out.bytes(b"external ip");
        out.bytes(black_box(&[192, 0, 2, 1]));
        out.entry("incomplete", black_box(16));
        out.entry("interval", black_box(1_800));
        out.entry("min interval", black_box(900));
        out.bytes(b"peers");
        out.string_of(PEERS.len());
        out.raw(black_box(&PEERS));
        out.end();
    };
    let mut body = Vec::new();
    write(&mut body);
    let value = Value::parse(&body).expect("a correct dictionary");
    assert_eq!(value.get(b"peers").and_then(Value::as_bytes), Some(&PEERS[..]));
    assert_eq!(value.get(b"interval").and_then(Value::as_integer), Some(1_800));

    let mut group = c.benchmark_group("wire/http/write");
    let expected = body.clone();
    group.bench_function("bencode_50_peers", |b| {
        b.iter(|| {
            write(&mut body);
            assert_eq!(body.len(), expected.len());
        });
    });
    assert_eq!(body, expected);

    let mut out = Vec::new();
    group.bench_function("response_50_peers", |b| {
        b.iter(|| {
            out.clear();
            write_response(&mut out, Status::Ok, black_box(&body), true, false);
        });
    });
    assert!(out.starts_with(b"HTTP/1.1 200 OK\r\n") && out.ends_with(&body));
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(600));
    targets = udp_requests, udp_replies, http_requests, http_replies
}
criterion_main!(benches);
