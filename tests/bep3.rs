//! What an HTTP peer sees (BEP 3, 7, 23, 24, 31, 48), and the tracker against a naive one.
//!
//! Bytes in, bytes out, through the tracker, without a socket. Every body in this file is read by
//! the strict bencode reader: `World` does that by itself. The model at the foot is the
//! specification as a map of maps; random scripts over several cores must give its counts at every
//! step.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use proptest::collection::vec;
use proptest::prelude::*;

use support::*;
use throng::limits::{HTTP_RESPONSE_BYTES_MAX, PENDING_SCRAPE_SECONDS};
use throng::rng::Rng;
use throng::swarm::Bounds;
use throng::time::Seconds;
use throng::tracker::access::Access;
use throng::tracker::counters::{Action, Asked, Counters, Transport};
use throng::tracker::limiter::{Limits, Rate};
use throng::tracker::outcome::{DropReason, Refusal};
use throng::tracker::policy::{BUSY_INTERVAL_SECS, POLITE_INTERVAL_SECS, Policy};
use throng::wire::addr::{Endpoint, Family};
use throng::wire::announce::{Announce, Event, Left, NumWant};
use throng::wire::bencode::Value;
use throng::wire::error::ParseError;
use throng::wire::id::InfoHash;

/// Every kind of byte that an escape could get wrong.
const HASH: InfoHash = InfoHash(*b"\x124Vx\x9a\xbc\xde\xf1#Eg\x89\xab\xcd\xef &=+\x00");
/// [`HASH`] as most clients write it.
const LOWER: &str = "%124Vx%9a%bc%de%f1%23Eg%89%ab%cd%ef%20%26%3d%2b%00";
/// [`HASH`] as others do.
const UPPER: &str = "%124Vx%9A%BC%DE%F1%23Eg%89%AB%CD%EF%20%26%3D%2B%00";

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// A compact announce of [`HASH`] with `query` behind.
fn plain(query: &str) -> String {
    format!("/announce?info_hash={LOWER}&peer_id=-TR4040-abcdefghijkl&port=6881{query}")
}

impl World {
    fn http(&mut self, source: IpAddr, announce: &Announce) -> Response {
        let response = self.get(source, &target(announce, ""));
        assert_eq!((response.status, response.failure()), (200, None));
        response
    }
}

// The request.

#[test]
fn requests_as_clients_write_them_are_served() {
    let heads = [
        // libtorrent: qBittorrent, Deluge.
        format!(
            "GET /announce?info_hash={LOWER}&peer_id=-qB4630-Pp2k~(a!.-_*&port=6881&uploaded=0\
             &downloaded=0&left=1048576&corrupt=0&key=4A6D1C2B&event=started&numwant=200\
             &compact=1&no_peer_id=1&supportcrypto=1&redundant=0 HTTP/1.1\r\n\
             Host: tracker.example:6969\r\nUser-Agent: qBittorrent/4.6.3\r\n\
             Accept-Encoding: gzip\r\nConnection: close\r\n\r\n"
        ),
        // Transmission.
        format!(
            "GET /announce?info_hash={UPPER}&peer_id=-TR4040-abcdefghijkl&port=6881&uploaded=0\
             &downloaded=0&left=1048576&numwant=80&key=6E3B7F2A&compact=1&supportcrypto=1\
             &event=started HTTP/1.1\r\nHost: tracker.example\r\n\
             User-Agent: Transmission/4.0.4\r\nAccept: */*\r\n\
             Accept-Encoding: deflate, gzip, br, zstd\r\n\r\n"
        ),
        // uTorrent: a peer_id of raw and escaped bytes.
        format!(
            "GET /announce?info_hash={LOWER}&peer_id=-UT2210-%d6b%ab%00%01%02%03%04%05%06%07%08\
             &port=6881&uploaded=0&downloaded=0&left=1048576&corrupt=0&key=5F8E4C1A\
             &event=started&numwant=200&compact=1&no_peer_id=1 HTTP/1.1\r\n\
             Host: tracker.example\r\nUser-Agent: uTorrent/2210(25130)\r\n\
             Accept-Encoding: gzip\r\nConnection: Close\r\n\r\n"
        ),
        // rTorrent: HTTP through curl, no numwant.
        format!(
            "GET /announce?info_hash={UPPER}&peer_id=-lt0D80-%01%02%03%04%05%06%07%08%09%0A%0B%0C\
             &key=5d4c3b2a&compact=1&port=6881&uploaded=0&downloaded=0&left=1048576\
             &event=started HTTP/1.1\r\nHost: tracker.example\r\n\
             User-Agent: rtorrent/0.9.8/0.13.8\r\nAccept: */*\r\nAccept-Encoding: gzip\r\n\r\n"
        ),
        // aria2: an order of its own.
        format!(
            "GET /announce?info_hash={UPPER}&peer_id=A2-1-37-0-abcdefghij&uploaded=0&downloaded=0\
             &left=1048576&compact=1&key=abcdefghij&numwant=50&no_peer_id=1&port=6881\
             &event=started&supportcrypto=1 HTTP/1.1\r\nUser-Agent: aria2/1.37.0\r\n\
             Accept: */*\r\nHost: tracker.example\r\nPragma: no-cache\r\n\
             Cache-Control: no-cache\r\nWant-Digest: SHA-512;q=1\r\n\r\n"
        ),
        // bittorrent-tracker (WebTorrent on Node).
        format!(
            "GET /announce?numwant=50&uploaded=0&downloaded=0&left=1048576&event=started\
             &compact=1&info_hash={UPPER}&peer_id=-WW0102-abcdefghijkl&port=6881 HTTP/1.1\r\n\
             user-agent: WebTorrent/2.1.30\r\nHost: tracker.example\r\nConnection: keep-alive\r\n\
             \r\n"
        ),
        // Azureus: ports beside the port, a version.
        format!(
            "GET /announce?info_hash={UPPER}&peer_id=-AZ5770-abcdefghijkl&supportcrypto=1\
             &port=6881&azudp=27385&uploaded=0&downloaded=0&corrupt=0&left=1048576&event=started\
             &numwant=100&no_peer_id=1&compact=1&key=FkSbKPqu&azver=3 HTTP/1.1\r\n\
             User-Agent: Azureus 5.7.7.0;Windows 10;Java 1.8.0_361\r\nConnection: close\r\n\
             Accept-Encoding: gzip\r\nHost: tracker.example\r\nAccept: text/html, */*; q=.2\r\n\r\n"
        ),
        // The first client: HTTP/1.0, and no word about the form.
        format!(
            "GET /announce?info_hash={LOWER}&peer_id=M4-4-0--abcdefghijkl&port=6881&key=abc\
             &uploaded=0&downloaded=0&left=1048576&event=started HTTP/1.0\r\n\
             Host: tracker.example\r\nUser-agent: BitTorrent/4.4.0\r\n\r\n"
        ),
    ];
    for request in heads {
        let mut world = World::of(3);
        world.http(ip("5.9.9.9"), &seeder(HASH, 51_413));
        let response = world.request(ip("5.6.7.8"), request.as_bytes()).expect("an answer");
        assert_eq!((response.status, response.failure()), (200, None), "{request}");
        assert_eq!(response.counts(), (1, 1, 0), "{request}");
        assert_eq!(response.bytes("peers").expect("compact"), b"\x05\x09\x09\x09\xc8\xd5");
        let persistent = !request.to_ascii_lowercase().contains("connection: close")
            && request.contains("HTTP/1.1");
        let said = if persistent { "keep-alive" } else { "close" };
        assert_eq!(response.field("connection"), Some(said), "{request}");
    }
}

#[test]
fn an_info_hash_is_20_bytes_however_they_are_escaped() {
    let all = escape(&HASH.0);
    let lower = all.to_lowercase();
    let mixed: String = lower.chars().zip(all.chars()).enumerate().fold(
        String::new(),
        |mut text, (index, (lower, upper))| {
            text.push(if index % 2 == 0 { lower } else { upper });
            text
        },
    );
    let raw_plus = LOWER.replace("%2b", "+");
    let raw_equals = LOWER.replace("%3d", "=");
    for good in [LOWER, UPPER, &all, &lower, &mixed, &raw_plus, &raw_equals] {
        let mut world = World::of(2);
        let query = format!("/announce?info_hash={good}&peer_id=-TR4040-abcdefghijkl&port=6881");
        assert_eq!(world.get(ip("5.6.7.8"), &query).failure(), None, "{good}");
        assert_eq!(world.scrape(v4(1), &[HASH]), [[0, 0, 1]], "{good}");
    }
    for bad in [
        "",
        "%",
        "%1",
        "%%",
        "%G1",
        "%1G",
        &format!("{all}%"),
        &format!("{all}a"),
        &all[3..],
        &"%zz".repeat(20),
        &"a".repeat(19),
        &"a".repeat(21),
        &"ab".repeat(20),
    ] {
        let mut world = World::new();
        let query = format!("info_hash={bad}&peer_id=-TR4040-abcdefghijkl&port=6881");
        for path in ["/announce", "/scrape"] {
            let failure = world.get(ip("5.6.7.8"), &format!("{path}?{query}")).failure();
            assert_eq!(failure.as_deref(), Some("info_hash must be 20 bytes"), "{path} {bad}");
        }
    }
}

#[test]
fn bytes_that_a_client_forgot_to_escape_are_taken_as_they_are() {
    let mut world = World::new();
    let raw: Vec<u8> = (0x80..0x94).collect();
    let hash = InfoHash(raw.as_slice().try_into().expect("20 bytes"));
    let request = [
        b"GET /announce?info_hash=",
        raw.as_slice(),
        b"&peer_id=-TR4040-abcdefghijkl&port=1 HTTP/1.1\r\n\r\n",
    ]
    .concat();
    let response = world.request(ip("5.6.7.8"), &request).expect("an answer");
    assert_eq!(response.failure(), None);
    assert_eq!(world.scrape(v4(1), &[hash]), [[0, 0, 1]]);
}

#[test]
fn numwant_is_at_most_200_and_50_when_it_is_no_number() {
    let mut world = World::new();
    for n in 0..300 {
        world.http(v4(n).ip(), &leecher(HASH, 6_881));
    }
    for (num_want, peers) in [
        ("", 50),
        ("&numwant=", 50),
        ("&numwant=-1", 50),
        ("&numwant=+5", 50),
        ("&numwant=0x10", 50),
        ("&numwant=1.5", 50),
        ("&numwant=abc", 50),
        ("&numwant=%35", 50),
        ("&numwant=0", 0),
        ("&numwant=1", 1),
        ("&numwant=50", 50),
        ("&numwant=007", 7),
        ("&numwant=200", 200),
        ("&numwant=2147483648", 200),
        ("&numwant=4294967296", 200),
        ("&numwant=9223372036854775808", 200),
        ("&numwant=18446744073709551616", 200),
        ("&numwant=99999999999999999999999999", 200),
        ("&num_want=3", 3),
        ("&numwant=3&numwant=4", 3),
    ] {
        let response = world.get(v4(1).ip(), &plain(num_want));
        assert_eq!(response.peers().len(), peers, "{num_want}");
    }
}

#[test]
fn left_is_zero_or_a_leechers() {
    for (left, seeders) in [
        ("&left=0", 1),
        ("&left=00", 1),
        ("", 0),
        ("&left=", 0),
        ("&left=1", 0),
        ("&left=-1", 0),
        ("&left=-0", 0),
        ("&left=1e3", 0),
        ("&left=0x0", 0),
        ("&left=9007199254740992", 0),
        ("&left=18446744073709551615", 0),
        ("&left=18446744073709551616", 0),
        ("&left=1&left=0", 0),
    ] {
        let response = World::of(2).get(ip("5.6.7.8"), &plain(left));
        assert_eq!(response.counts(), (seeders, 1 - seeders, 0), "{left}");
    }
}

#[test]
fn a_port_is_a_number_up_to_65535_and_0_only_on_stopped() {
    let base = format!("/announce?info_hash={LOWER}&peer_id=-TR4040-abcdefghijkl");
    for (query, failure, stored) in [
        ("&port=1", None, 1),
        ("&port=65535", None, 1),
        ("&port=006881", None, 1),
        ("&port=6881&port=0", None, 1),
        // Answered, and not stored.
        ("&port=80", None, 0),
        ("&port=443", None, 0),
        ("&port=0&event=stopped", None, 0),
        ("&port=0", Some("port 0 cannot be announced"), 0),
        ("", Some("port must be a number from 0 to 65535"), 0),
        ("&port=", Some("port must be a number from 0 to 65535"), 0),
        ("&port=65536", Some("port must be a number from 0 to 65535"), 0),
        ("&port=-1", Some("port must be a number from 0 to 65535"), 0),
        ("&port=1e3", Some("port must be a number from 0 to 65535"), 0),
        ("&port=0x50", Some("port must be a number from 0 to 65535"), 0),
        ("&port=80%20", Some("port must be a number from 0 to 65535"), 0),
        ("&port=+80", Some("port must be a number from 0 to 65535"), 0),
    ] {
        let mut world = World::of(2);
        let response = world.get(ip("5.6.7.8"), &format!("{base}{query}"));
        assert_eq!(response.status, 200);
        assert_eq!(response.failure().as_deref(), failure, "{query}");
        assert_eq!(world.counters().leechers, [stored, 0], "{query}");
    }
}

#[test]
fn queries_that_are_put_together_badly_are_read_in_their_parts() {
    let long = format!("/announce?{}{}", "&".repeat(7_000), &plain("")[10..]);
    let hash = format!("info_hash={LOWER}&peer_id=-TR4040-abcdefghijkl&port=6881");
    for query in [
        format!("/announce?a&{hash}"),
        format!("/announce?x=1=2&{hash}"),
        format!("/announce?&&{}", hash.replace('&', "&&")),
        format!("/announce?=&=x&{hash}&"),
        format!("/announce?passkey=abc?{hash}"),
        format!("/announce??{hash}"),
        format!("/announce?{hash}?x=1"),
        format!("/announce?{hash}#fragment"),
        format!("/announce?Info_Hash=1&INFO_HASH=2&{hash}"),
        format!("/announce?{hash}&peer_id=short&port=nothing"),
        format!("http://tracker.example/announce?{hash}"),
        long,
    ] {
        let mut world = World::new();
        assert_eq!(world.get(ip("5.6.7.8"), &query).failure(), None, "{query}");
        assert_eq!(world.scrape(v4(1), &[HASH]), [[0, 0, 1]], "{query}");
    }
}

#[test]
fn paths_that_operators_meet_are_served_and_others_are_not_found() {
    let mut world = World::new();
    let announce = &plain("")[9..];
    for (path, status) in [
        ("/announce", 200),
        ("/announce/", 200),
        ("//announce", 200),
        ("///announce//", 200),
        ("/announce.php", 200),
        ("/0123456789abcdef/announce", 200),
        ("/a/b/announce.php", 200),
        ("/", 404),
        ("/announced", 404),
        ("/Announce", 404),
        ("/announce/x", 404),
        ("/%61nnounce", 404),
        ("/announce.html", 404),
    ] {
        let response = world.get(ip("5.6.7.8"), &format!("{path}{announce}"));
        assert_eq!(response.status, status, "{path}");
        assert_eq!(response.failure().is_none(), status == 200, "{path}");
    }
    for path in ["/scrape", "//scrape", "/scrape.php", "/abc/scrape"] {
        let response = world.get(ip("5.6.7.8"), &format!("{path}?info_hash={LOWER}"));
        assert_eq!(response.file(&HASH), Some([0, 0, 1, 1]), "{path}");
    }
}

#[test]
fn ip_parameters_are_for_trusted_sources_alone() {
    let claims = [
        "&ip=9.9.9.9",
        "&ip=2606%3A%3A1",
        "&ipv4=9.9.9.9",
        "&ipv6=2606%3a%3a1",
        "&ipv6=%5B2606%3A%3A1%5D%3A99",
        "&ip=victim.example",
        "&ip=",
        "&ip=9.9.9.9&ip=8.8.8.8",
        "&ip=127.0.0.1",
    ];
    for claim in claims {
        let mut world = World::of(2);
        let response = world.get(ip("5.6.7.8"), &plain(claim));
        assert_eq!(response.failure(), None, "{claim}");
        assert_eq!(response.bytes("external ip").expect("always"), [5, 6, 7, 8]);
        let peers = world.get(ip("5.6.7.9"), &plain("")).peers();
        assert_eq!(peers, [Endpoint::new(ip("5.6.7.8"), 6_881)], "{claim}");
    }
    let policy =
        Policy { trust_ip_param_from: vec!["5.6.7.8/32".parse().expect("one")], ..policy() };
    let mut world = World::with(Options { cores: 2, policy, ..Options::default() });
    world.get(ip("5.6.7.8"), &plain("&ip=9.9.9.9"));
    world.get(ip("5.6.7.7"), &plain("&ip=8.8.8.8"));
    let peers: BTreeSet<_> = world.get(ip("5.6.7.9"), &plain("")).peers().into_iter().collect();
    let expected = ["9.9.9.9", "5.6.7.7"].map(|text| Endpoint::new(ip(text), 6_881));
    assert_eq!(peers, expected.into());
}

// The answer to an announce.

#[test]
fn an_answer_is_these_bytes() {
    let exact = Policy { jitter_percent: 0, ..policy() };
    let mut world = World::with(Options { policy: exact, ..Options::default() });
    world.http(ip("5.6.7.8"), &seeder(HASH, 0x1AE1));
    let response = world.get(ip("5.6.7.9"), &plain("&left=5"));
    let expected =
        b"d8:completei1e10:downloadedi0e11:external ip4:\x05\x06\x07\x0910:incompletei1e\
        8:intervali1800e12:min intervali900e5:peers6:\x05\x06\x07\x08\x1a\xe1e";
    assert_eq!(response.body.escape_ascii().to_string(), expected.escape_ascii().to_string());
    let response = world.get(ip("5.6.7.9"), &plain("&compact=0"));
    let expected =
        b"d8:completei1e10:downloadedi0e11:external ip4:\x05\x06\x07\x0910:incompletei1e\
        8:intervali1800e12:min intervali900e5:peersld2:ip7:5.6.7.87:peer id20:-TR4040-abcdefghijkl\
        4:porti6881eeee";
    assert_eq!(response.body.escape_ascii().to_string(), expected.escape_ascii().to_string());
}

#[test]
fn min_interval_is_half_of_an_interval_that_spreads_by_a_tenth() {
    let mut world = World::of(2);
    let mut seen = BTreeSet::new();
    for n in 0..200 {
        let response = world.http(v4(n).ip(), &leecher(HASH, 6_881));
        let interval = response.integer("interval").expect("always");
        assert!((1_620..=1_980).contains(&interval), "{interval}");
        assert_eq!(response.integer("min interval"), Some(interval / 2));
        // The same peer over UDP is told the same.
        assert_eq!(world.announce(v4(n), &leecher(HASH, 6_881)).interval, interval);
        seen.insert(interval);
    }
    assert!(seen.len() > 100);
}

#[test]
fn peers6_is_there_when_it_has_peers_or_the_asker_came_over_ipv6() {
    let (a4, b4, a6, b6) = (v4(1).ip(), v4(2).ip(), v6(1).ip(), v6(2).ip());
    let announce = leecher(HASH, 6_881);
    let shape = |world: &mut World, source, announce: &Announce| {
        let response = world.http(source, announce);
        let len = |key| response.bytes(key).map(|bytes| bytes.len());
        (len("peers"), len("peers6"))
    };
    let mut world = World::of(2);
    assert_eq!(shape(&mut world, a4, &announce), (Some(0), None), "IPv4, nobody");
    assert_eq!(shape(&mut world, b4, &announce), (Some(6), None), "IPv4, an IPv4 peer");
    assert_eq!(shape(&mut world, a6, &announce), (Some(12), Some(0)), "IPv6, two IPv4 peers");
    assert_eq!(shape(&mut world, b6, &announce), (Some(12), Some(18)), "IPv6, both");
    assert_eq!(shape(&mut world, a4, &announce), (Some(6), Some(36)), "IPv4, both");
    let nobody = Announce { num_want: NumWant::Count(0), ..announce };
    assert_eq!(shape(&mut world, a4, &nobody), (Some(0), None), "none wanted");
    assert_eq!(shape(&mut world, a6, &nobody), (Some(0), Some(0)), "none wanted over IPv6");
    // A connection to a dual-stack socket: IPv4 all the same.
    let mapped = ip("::ffff:5.6.7.8");
    let response = World::new().http(mapped, &announce);
    assert_eq!(response.bytes("peers6"), None);
    assert_eq!(response.bytes("external ip").expect("always"), [5, 6, 7, 8]);
}

#[test]
fn both_families_share_the_wanted_number() {
    let mut world = World::of(2);
    for n in 0..60 {
        world.http(v4(n).ip(), &leecher(HASH, 6_881));
        world.http(v6(n).ip(), &seeder(HASH, 6_881));
    }
    for (num_want, both) in [(1, false), (2, true), (10, true), (50, true), (119, true)] {
        for source in [v4(0), v6(1_000)] {
            let announce = Announce { num_want: NumWant::Count(num_want), ..leecher(HASH, 6_881) };
            let peers = world.http(source.ip(), &announce).peers();
            assert_eq!(peers.len(), num_want as usize);
            let families: BTreeSet<_> = peers.iter().map(Endpoint::family).collect();
            assert!(families.len() == 2 || !both, "{num_want}");
        }
    }
    // A hundred draws of ten: about half of each family.
    let ten = Announce { num_want: NumWant::Count(10), ..leecher(HASH, 6_881) };
    let mut of_v4 = 0;
    for _ in 0..100 {
        let peers = world.http(v4(0).ip(), &ten).peers();
        of_v4 += peers.iter().filter(|peer| peer.family() == Family::V4).count();
    }
    assert!((400..600).contains(&of_v4), "{of_v4} of 1,000");
}

#[test]
fn both_kinds_are_present_though_there_are_more_lists_than_are_wanted() {
    let mut world = World::of(2);
    for n in 0..10 {
        world.http(v4(n).ip(), &leecher(HASH, 6_881));
        world.http(v6(n).ip(), &leecher(HASH, 6_881));
    }
    let seed = Endpoint::new(v4(100).ip(), 6_881);
    world.http(seed.ip(), &seeder(HASH, 6_881));
    let two = Announce { num_want: NumWant::Count(2), ..leecher(HASH, 6_881) };
    for _ in 0..50 {
        let peers = world.http(v4(0).ip(), &two).peers();
        assert_eq!(peers.len(), 2);
        assert!(peers.contains(&seed), "{peers:?}");
    }
}

#[test]
fn the_dictionary_form_has_peer_ids_when_they_are_kept_and_wanted() {
    for (keep_peer_ids, query, with_ids) in [
        (true, "&compact=0", true),
        (true, "&compact=0&no_peer_id=0", true),
        (true, "&compact=0&no_peer_id=1", false),
        (false, "&compact=0", false),
    ] {
        let bounds = Bounds { keep_peer_ids, ..Options::default().bounds };
        let mut world = World::with(Options { cores: 2, bounds, ..Options::default() });
        let mut ids = BTreeMap::new();
        for (n, source) in (0..).zip([v4(1), v4(2), v6(1), v6(2)]) {
            let mut announce = leecher(HASH, 1_000 + n);
            announce.peer_id.0[19] = u8::try_from(n).expect("small");
            world.http(source.ip(), &announce);
            let endpoint = Endpoint::new(source.ip(), announce.port);
            ids.insert(endpoint, announce.peer_id);
        }
        // The core that owns the swarm, and one that has to ask it.
        for core in 0..2 {
            world.http_core = Some(core);
            let response = world.get(v4(9).ip(), &plain(query));
            let peers: BTreeSet<_> = response.peers().into_iter().collect();
            assert_eq!(peers, ids.keys().copied().collect(), "both families in one list");
            let value = response.value();
            let list = value.get(b"peers").and_then(Value::as_list).expect("a list");
            for entry in list {
                let port = entry.get(b"port").and_then(Value::as_integer).expect("a port");
                let id = entry.get(b"peer id").and_then(Value::as_bytes);
                let known = ids.iter().find(|(peer, _)| i128::from(peer.port()) == port);
                let known = &known.expect("one of ours").1.0[..];
                assert_eq!(id, with_ids.then_some(known), "{query}");
                assert_eq!(entry.as_dictionary().map(<[_]>::len), Some(2 + usize::from(with_ids)));
            }
        }
    }
}

#[test]
fn everything_but_compact_0_is_compact() {
    let mut world = World::new();
    for query in ["", "&compact=1", "&compact=", "&compact=yes", "&compact=1&compact=0"] {
        assert!(world.get(v4(1).ip(), &plain(query)).bytes("peers").is_some(), "{query}");
    }
}

#[test]
fn the_external_ip_is_4_or_16_bytes_in_every_answer() {
    let mut world = World::of(2);
    for target in [plain(""), plain("&port"), scrape_target(&[HASH]), "/scrape".into(), "/x".into()]
    {
        for (source, octets) in [
            ("5.6.7.8", &[5, 6, 7, 8][..]),
            ("::ffff:5.6.7.8", &[5, 6, 7, 8]),
            ("2a00::9", &[0x2A, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9]),
        ] {
            let response = world.get(ip(source), &target);
            assert_eq!(response.bytes("external ip").expect("always"), octets, "{target}");
        }
    }
}

#[test]
fn the_external_ip_is_the_askers_at_whatever_core() {
    let mut world = World::of(2);
    let response = world.http(ip("5.6.7.8"), &leecher(HASH, 6_881));
    assert_eq!(response.bytes("external ip").expect("always"), [5, 6, 7, 8]);
    let response = world.http(ip("2a00::9"), &leecher(HASH, 6_881));
    let octets = [0x2A, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9];
    assert_eq!(response.bytes("external ip").expect("always"), octets);
}

#[test]
fn the_largest_answers_fit_their_bound_and_travel_between_cores() {
    let mut world = World::of(2);
    let far = world.hash_of(1, 0);
    world.http_core = Some(0);
    for n in 0..300 {
        // Addresses that are long as text.
        let source = ip(&format!("2a00:1450:1111:1111:1111:1111:1111:1{n:03}"));
        world.http(source, &leecher(far, 65_535));
    }
    let all = Announce { num_want: NumWant::Count(u32::MAX), ..leecher(far, 65_535) };
    let response = world.get(v6(1).ip(), &target(&all, "&compact=0"));
    assert_eq!(response.peers().len(), 200);
    assert!(response.body.len() <= HTTP_RESPONSE_BYTES_MAX, "{}", response.body.len());
    let hashes: Vec<InfoHash> = (0..100).map(hash).collect();
    let response = world.get(v6(1).ip(), &scrape_target(&hashes));
    let value = response.value();
    let files = value.get(b"files").and_then(Value::as_dictionary).expect("files");
    assert_eq!(files.len(), hashes.len());
    assert!(response.body.len() <= HTTP_RESPONSE_BYTES_MAX, "{}", response.body.len());
}

#[test]
fn stopped_is_answered_with_counts_and_no_peers() {
    let mut world = World::of(2);
    for n in 0..5 {
        world.http(v4(n).ip(), &leecher(HASH, 6_881));
    }
    let stopped = Announce { event: Event::Stopped, ..leecher(HASH, 6_881) };
    for source in [v4(0), v4(0), v4(77)] {
        let response = world.http(source.ip(), &stopped);
        assert_eq!((response.counts(), response.peers()), ((0, 4, 0), vec![]));
    }
    let unknown = Announce { info_hash: hash(9), ..stopped };
    assert_eq!(world.http(v4(0).ip(), &unknown).counts(), (0, 0, 0));
    assert_eq!(world.counters().swarms, [1]);
}

#[test]
fn private_peers_are_for_askers_of_their_own_range() {
    let mut world = World::of(2);
    for source in ["5.0.0.9", "10.0.0.1", "192.168.0.1", "127.0.0.1", "::1", "fd00::1"] {
        world.http(ip(source), &leecher(HASH, 6_881));
    }
    for (asker, sees) in [
        ("6.6.6.6", &["5.0.0.9"][..]),
        ("10.9.9.9", &["5.0.0.9", "10.0.0.1"]),
        ("192.168.3.3", &["5.0.0.9", "192.168.0.1"]),
        // A host is a host, whatever its loopback's family.
        ("127.0.0.2", &["5.0.0.9", "127.0.0.1", "::1"]),
        ("fd12::2", &["5.0.0.9", "fd00::1"]),
    ] {
        let announce = leecher(HASH, 7_000);
        let peers: BTreeSet<_> =
            world.http(ip(asker), &announce).peers().iter().map(Endpoint::ip).collect();
        assert_eq!(peers, sees.iter().map(|text| ip(text)).collect(), "{asker}");
        world.http(ip(asker), &Announce { event: Event::Stopped, ..announce });
    }
}

#[test]
fn udp_and_http_peers_of_a_swarm_see_each_other() {
    let mut world = World::of(4);
    world.steering = Steering::Wrong;
    world.announce(v4(1), &leecher(HASH, 1_001));
    world.http(v4(2).ip(), &seeder(HASH, 1_002));
    world.announce(v6(3), &leecher(HASH, 1_003));
    let response = world.http(v4(4).ip(), &leecher(HASH, 1_004));
    assert_eq!(response.counts(), (1, 3, 0));
    assert_eq!(response.peers().len(), 3);
    let answer = world.announce(v4(5), &leecher(HASH, 1_005));
    let ports: BTreeSet<_> = answer.peers.iter().map(Endpoint::port).collect();
    assert_eq!((answer.counts(), ports), ((1, 4), [1_001, 1_002, 1_004].into()));
    // The same address and port over the other transport is the same peer.
    assert_eq!(world.http(v4(1).ip(), &seeder(HASH, 1_001)).counts(), (2, 3, 1));
    assert_eq!(world.scrape(v4(5), &[HASH]), [[2, 1, 3]]);
}

// Failures.

/// Text that must not come back.
const MARKER: &str = "mArKeR7";

/// What a failure must say, and may not.
fn check_failure(response: &Response, text: &str, interval: u32, context: &str) {
    assert_eq!(response.failure().as_deref(), Some(text), "{context}");
    assert_eq!(response.integer("interval"), Some(interval), "{context}");
    assert_eq!(response.integer("min interval"), Some(interval), "{context}");
    let value = response.value();
    match value.get(b"retry in").expect("BEP 31") {
        Value::Integer(minutes) => assert_eq!(*minutes, i128::from(interval / 60), "{context}"),
        never => assert_eq!(never.as_bytes(), Some(&b"never"[..]), "{context}"),
    }
    let keys: Vec<_> = value.as_dictionary().expect("one").iter().map(|(key, _)| *key).collect();
    assert!(!keys.iter().any(|key| key.starts_with(b"peers")), "{context}");
    let body = response.body.escape_ascii().to_string();
    assert!(!body.contains(MARKER), "{context}: {body}");
}

/// How a refusal comes about over HTTP, with the marker in all that the client chooses; `None` if
/// no request can cause it.
fn provoke_refusal(refusal: Refusal) -> Option<(World, Response)> {
    let mut world = World::of(2);
    world.http_core = Some(0);
    let get = |world: &mut World, query: &str| {
        let marked = format!(
            "{query}&key={MARKER}&event={MARKER}&ip={MARKER}&trackerid={MARKER}&{MARKER}={MARKER}"
        );
        world.get(ip("5.6.7.8"), &marked)
    };
    let raw = |world: &mut World, request: &str| {
        world.request(ip("5.6.7.8"), request.as_bytes()).expect("an answer")
    };
    let peer_id = format!("peer_id=-XX0001-12345{MARKER}");
    let hash = format!("info_hash=abcdefghijklm{MARKER}");
    let response = match refusal {
        Refusal::PortZero => get(&mut world, &format!("/announce?{hash}&{peer_id}&port=0")),
        Refusal::NotAllowed => {
            world.set_access(&allow([]));
            get(&mut world, &format!("/announce?{hash}&{peer_id}&port=6881"))
        }
        Refusal::FullScrape => get(&mut world, &format!("/scrape?x={MARKER}")),
        Refusal::Busy => {
            world.set_full(1, true);
            let far = escape(&world.hash_of(1, 0).0);
            get(&mut world, &format!("/announce?info_hash={far}&{peer_id}&port=6881"))
        }
        Refusal::Banned => {
            world.set_access(&ban("5.6.7.0/24"));
            get(&mut world, &format!("/announce?{hash}&{peer_id}&port=6881"))
        }
        Refusal::TooManyNewSwarms | Refusal::TooManyNewPeers | Refusal::TooManyPeersInSwarm => {
            let one = Rate { burst: 1, per_minute: 1 };
            let limits = Limits {
                new_swarms: if refusal == Refusal::TooManyNewSwarms { one } else { Rate::ANY },
                new_peers: if refusal == Refusal::TooManyNewPeers { one } else { Rate::ANY },
                peers_per_swarm: u32::from(refusal == Refusal::TooManyPeersInSwarm),
                ..Limits::default()
            };
            world = World::with(Options { cores: 2, limits, ..Options::default() });
            world.http_core = Some(0);
            let [one, other] = [0, 1].map(|n| escape(&world.hash_of(0, n).0));
            for (hash, port) in [(&one, 1), (&one, 2), (&one, 3), (&other, 4)] {
                let query = format!("/announce?info_hash={hash}&{peer_id}&port={port}");
                let response = get(&mut world, &query);
                if response.failure().is_some() {
                    return Some((world, response));
                }
            }
            panic!("{refusal:?} did not come about");
        }
        // What only a WebSocket is told.
        Refusal::TooManyTorrents | Refusal::NoSuchOffer | Refusal::OriginNotAllowed => return None,
        Refusal::Malformed(error) => match error {
            // What only a datagram or a WebSocket can be.
            ParseError::Truncated
            | ParseError::BadMagic
            | ParseError::UnknownAction
            | ParseError::BadForwarded
            | ParseError::BadUpgrade
            | ParseError::UpgradeRequired
            | ParseError::BadJson
            | ParseError::BadAction
            | ParseError::BadOffer => return None,
            // A scrape without one is a full scrape, refused as such.
            ParseError::MissingInfoHash => get(&mut world, &format!("/announce?{peer_id}")),
            ParseError::SeveralInfoHashes => {
                get(&mut world, &format!("/announce?{hash}&{hash}&{peer_id}&port=1"))
            }
            ParseError::BadInfoHash => {
                get(&mut world, &format!("/announce?info_hash={MARKER}&{peer_id}&port=1"))
            }
            ParseError::BadPeerId => {
                get(&mut world, &format!("/announce?{hash}&peer_id={MARKER}&port=1"))
            }
            ParseError::BadPort => {
                get(&mut world, &format!("/announce?{hash}&{peer_id}&port={MARKER}"))
            }
            ParseError::NotFound => get(&mut world, &format!("/{MARKER}?{hash}")),
            ParseError::BadRequest => raw(
                &mut world,
                &format!("GET /{MARKER} HTTP/1.1\r\n{MARKER}: x\r\nContent-Length: 5\r\n\r\n"),
            ),
            ParseError::MethodNotAllowed => {
                raw(&mut world, &format!("{MARKER} /{MARKER} HTTP/1.1\r\nHost: {MARKER}\r\n\r\n"))
            }
            ParseError::HeadTooLarge => {
                raw(&mut world, &format!("GET /{} HTTP/1.1\r\n\r\n", MARKER.repeat(1_500)))
            }
        },
    };
    Some((world, response))
}

#[test]
fn every_refusal_is_a_failure_with_fixed_text_in_its_own_cell() {
    let own = [
        Refusal::PortZero,
        Refusal::NotAllowed,
        Refusal::FullScrape,
        Refusal::Busy,
        Refusal::TooManyTorrents,
        Refusal::NoSuchOffer,
        Refusal::OriginNotAllowed,
        Refusal::Banned,
        Refusal::TooManyNewSwarms,
        Refusal::TooManyNewPeers,
        Refusal::TooManyPeersInSwarm,
    ];
    let all: Vec<Refusal> =
        own.into_iter().chain(ParseError::ALL.map(Refusal::Malformed)).collect();
    assert_eq!(all.len(), Refusal::COUNT);
    for refusal in all {
        let Some((mut world, response)) = provoke_refusal(refusal) else { continue };
        let context = format!("{refusal:?}");
        let interval = if refusal == Refusal::Busy { BUSY_INTERVAL_SECS } else { 1_800 };
        check_failure(&response, refusal.text(), interval, &context);
        let status = match refusal {
            Refusal::Malformed(ParseError::NotFound) => 404,
            Refusal::Malformed(ParseError::BadRequest) => 400,
            Refusal::Malformed(ParseError::MethodNotAllowed) => 405,
            Refusal::Malformed(ParseError::HeadTooLarge) => 431,
            _ => 200,
        };
        assert_eq!(response.status, status, "{context}");
        assert_eq!(response.field("allow").is_some(), status == 405);
        let closes = [400, 405, 431].contains(&status);
        assert_eq!(response.field("connection") == Some("close"), closes, "{context}");
        let mut expected = Counters::default();
        let action = match refusal {
            Refusal::FullScrape => Some(Action::Scrape),
            // Nobody has looked what it asks for, or it asks for nothing of ours.
            Refusal::Banned => None,
            Refusal::Malformed(_) if status != 200 => None,
            _ => Some(Action::Announce),
        };
        expected.refuse(Asked { transport: Transport::Http, family: Family::V4, action }, refusal);
        let counters = world.counters();
        assert_eq!(counters.refusals, expected.refusals, "{context}");
        assert_eq!(counters.drops, expected.drops, "{context}");
        assert_eq!(unanswered(&counters), unanswered(&expected), "{context}");
        // Too many are refused after some that were not.
        let came_before = Refusal::TooManyNewSwarms.index()..=Refusal::TooManyPeersInSwarm.index();
        let came_before = u64::from(came_before.contains(&refusal.index()));
        assert_eq!(world.counters().swarms, [came_before], "{context}");
    }
}

#[test]
fn what_may_succeed_later_may_be_asked_again() {
    for (refusal, minutes) in [
        (Refusal::Busy, Some(1)),
        // Lists change.
        (Refusal::NotAllowed, Some(30)),
        // The same bytes will be refused for ever.
        (Refusal::PortZero, None),
        (Refusal::FullScrape, None),
        (Refusal::Malformed(ParseError::BadPort), None),
        (Refusal::Malformed(ParseError::NotFound), None),
    ] {
        let (_, response) = provoke_refusal(refusal).expect("all can be caused");
        let value = response.value();
        let retry_in = value.get(b"retry in").and_then(Value::as_integer);
        assert_eq!(retry_in, minutes, "{refusal:?}");
    }
}

#[test]
fn a_polite_refusal_is_an_empty_success_for_a_day() {
    let mut world = World::with(Options {
        cores: 2,
        policy: Policy { polite_refusal: true, ..policy() },
        access: deny([HASH]),
        ..Options::default()
    });
    let response = world.http(ip("5.6.7.8"), &leecher(HASH, 6_881));
    assert_eq!((response.counts(), response.peers()), ((0, 0, 0), vec![]));
    assert_eq!(response.integer("interval"), Some(POLITE_INTERVAL_SECS));
    assert_eq!(response.integer("min interval"), Some(POLITE_INTERVAL_SECS / 2));
    assert_eq!(world.counters().swarms, [0]);
}

#[test]
fn who_stops_has_left_though_its_swarm_is_not_allowed_any_more() {
    for polite in [false, true] {
        let policy = Policy { polite_refusal: polite, ..policy() };
        let mut world = World::with(Options { cores: 2, policy, ..Options::default() });
        let hashes = [world.hash_of(0, 0), world.hash_of(1, 0)];
        for hash in hashes {
            world.http(v4(1).ip(), &leecher(hash, 6_881));
            world.http(v4(2).ip(), &leecher(hash, 6_881));
        }
        world.set_access(&deny(hashes));
        for hash in hashes {
            let stop = Announce { event: Event::Stopped, ..leecher(hash, 6_881) };
            let response = world.get(v4(1).ip(), &target(&stop, ""));
            let reason = response.failure();
            assert_eq!(reason.as_deref(), (!polite).then_some(Refusal::NotAllowed.text()));
        }
        world.set_access(&Access::default());
        for hash in hashes {
            let response = world.http(v4(3).ip(), &leecher(hash, 6_881));
            assert_eq!(response.peers(), [Endpoint::new(v4(2).ip(), 6_881)]);
        }
    }
}

#[test]
fn head_is_answered_with_the_head_of_the_answer_to_get() {
    let mut world = World::of(2);
    for target in [plain(""), scrape_target(&[HASH]), "/nothing".to_owned()] {
        let get = world.get(ip("5.6.7.8"), &target);
        let request = format!("HEAD {target} HTTP/1.1\r\nHost: x\r\n\r\n");
        let head = world.request(ip("5.6.7.8"), request.as_bytes()).expect("an answer");
        assert_eq!((head.status, &head.fields), (get.status, &get.fields));
        assert!(head.body.is_empty());
    }
}

// Scrapes.

#[test]
fn a_scrape_is_these_bytes() {
    let mut world = World::of(2);
    world.http(v4(1).ip(), &seeder(HASH, 1));
    world.http(v4(2).ip(), &leecher(HASH, 1));
    world.http(v4(3).ip(), &Announce { event: Event::Paused, ..leecher(HASH, 1) });
    let response = world.get(v4(1).ip(), &scrape_target(&[HASH]));
    let expected = [
        b"d11:external ip4:\x05\0\0\x025:filesd20:",
        &HASH.0[..],
        b"d8:completei1e10:downloadedi0e11:downloadersi1e10:incompletei2eee",
        b"5:flagsd20:min_request_intervali900eee",
    ]
    .concat();
    assert_eq!(response.body.escape_ascii().to_string(), expected.escape_ascii().to_string());
}

#[test]
fn a_scrape_answers_each_hash_once_and_at_most_100() {
    for cores in [1, 4] {
        let mut world = World::of(cores);
        let hashes: Vec<InfoHash> = (0..150).map(hash).collect();
        for &hash in &hashes {
            world.http(v4(1).ip(), &leecher(hash, 6_881));
        }
        let unknown = hash(9_999);
        for asked in [
            vec![hashes[0]],
            vec![hashes[3], hashes[1], unknown, hashes[3], hashes[3], hashes[1]],
            hashes[..100].to_vec(),
            hashes[..101].to_vec(),
            // Each request line stays below 8 KiB: 150 hashes of plain letters.
        ] {
            let response = world.get(v4(1).ip(), &scrape_target(&asked));
            let counted: BTreeSet<_> = asked.iter().take(100).collect();
            let value = response.value();
            let files = value.get(b"files").and_then(Value::as_dictionary).expect("files");
            assert_eq!(files.len(), counted.len(), "{} asked", asked.len());
            for hash in counted {
                let leechers = u32::from(*hash != unknown);
                assert_eq!(response.file(hash), Some([0, 0, leechers, leechers]));
            }
        }
    }
}

#[test]
fn the_cap_of_a_scrape_is_a_setting() {
    let few = Policy { http_scrape_hashes_max: 2, ..policy() };
    let mut world = World::with(Options { policy: few, ..Options::default() });
    let response = world.get(v4(1).ip(), &scrape_target(&[hash(1), hash(2), hash(3)]));
    let known = [hash(1), hash(2), hash(3)].map(|hash| response.file(&hash).is_some());
    assert_eq!(known, [true, true, false]);
    // What is left out may be anything.
    let target = scrape_target(&[hash(1), hash(2)]) + "&info_hash=short";
    let response = world.get(v4(1).ip(), &target);
    assert!([hash(1), hash(2)].iter().all(|hash| response.file(hash).is_some()));
}

#[test]
fn a_scrape_with_a_broken_hash_among_others_is_refused() {
    let mut world = World::of(2);
    let good = scrape_target(&[hash(1)]);
    let broken = "info_hash=%01%02".to_owned();
    for target in [format!("{good}&{broken}"), format!("/scrape?{broken}&{}", &good[8..])] {
        let reason = Refusal::Malformed(ParseError::BadInfoHash).text();
        check_failure(&world.get(v4(1).ip(), &target), reason, 1_800, &target);
    }
}

#[test]
fn a_full_scrape_is_refused() {
    let mut world = World::of(2);
    world.http(v4(1).ip(), &leecher(HASH, 6_881));
    for target in ["/scrape", "/scrape?", "/scrape?info_hash", "/scrape?x=1", "/scrape.php?&"] {
        let response = world.get(v4(1).ip(), target);
        check_failure(&response, Refusal::FullScrape.text(), 1_800, target);
    }
}

#[test]
fn a_denied_swarm_scrapes_as_empty() {
    let mut world = World::of(2);
    world.http(v4(1).ip(), &leecher(HASH, 6_881));
    world.set_access(&deny([HASH]));
    let response = world.get(v4(1).ip(), &scrape_target(&[HASH]));
    assert_eq!(response.file(&HASH), Some([0; 4]));
}

#[test]
fn a_banned_client_is_told_so() {
    let mut world = World::with(Options { access: ban("192.0.2.0/24"), ..Options::default() });
    let banned = "192.0.2.7".parse().expect("an address");
    for target in [scrape_target(&[HASH]), target(&leecher(HASH, 6_881), "")] {
        let response = world.get(banned, &target);
        check_failure(&response, Refusal::Banned.text(), 1_800, &target);
    }
    assert_eq!(world.refused(Refusal::Banned), 2);
    assert_eq!(world.counters().swarms, [0]);
}

// Several cores.

#[test]
fn swarms_of_other_cores_are_served_on_any_connection() {
    let mut world = World::of(4);
    let hashes: Vec<InfoHash> = (0..4).map(|core| world.hash_of(core, 1)).collect();
    for core in 0..4 {
        world.http_core = Some(core);
        for (n, &hash) in (0..).zip(&hashes) {
            let response = world.http(v4(u32::from(core)).ip(), &leecher(hash, 6_881 + n));
            assert_eq!(response.counts(), (0, u32::from(core) + 1, 0));
            assert_eq!(response.peers().len(), usize::from(core));
        }
        let response = world.get(v4(9).ip(), &scrape_target(&hashes));
        for hash in &hashes {
            let count = u32::from(core) + 1;
            assert_eq!(response.file(hash), Some([0, 0, count, count]));
        }
    }
    assert_eq!(world.messages(), 0);
    // Each request is counted where it came, each answer where it was made.
    let counters = world.counters();
    assert_eq!(counters.requests.iter().sum::<u64>(), 16 + 4);
    assert_eq!(counters.replies(), counters.requests);
}

#[test]
fn refusals_of_other_cores_come_back_too() {
    let mut world = World::of(2);
    world.http_core = Some(0);
    let far = world.hash_of(1, 0);
    let response = world.get(v4(1).ip(), &target(&leecher(far, 0), ""));
    check_failure(&response, Refusal::PortZero.text(), 1_800, "port 0 at another core");
    assert_eq!(response.bytes("external ip").expect("it is known"), [5, 0, 0, 2]);
}

#[test]
fn a_full_mailbox_makes_the_tracker_busy() {
    let mut world = World::of(3);
    world.http_core = Some(0);
    let (near, far, third) = (world.hash_of(0, 0), world.hash_of(1, 0), world.hash_of(2, 0));
    world.set_full(1, true);
    for target in [
        target(&leecher(far, 6_881), ""),
        scrape_target(&[far]),
        scrape_target(&[near, far, third]),
        scrape_target(&[third, far]),
    ] {
        let response = world.get(v4(1).ip(), &target);
        assert_eq!(response.status, 200);
        check_failure(&response, Refusal::Busy.text(), BUSY_INTERVAL_SECS, &target);
    }
    assert_eq!(world.counters().pending_scrapes, [0]);
    assert_eq!(world.get(v4(1).ip(), &scrape_target(&[near, third])).failure(), None);
    assert_eq!(world.refused(Refusal::Busy), 4);
}

#[test]
fn a_silent_owner_makes_the_tracker_busy_after_a_while() {
    let mut world = World::of(2);
    world.http_core = Some(0);
    let far = world.hash_of(1, 0);
    world.set_deaf(1, true);
    let get = |target: &str| format!("GET {target} HTTP/1.1\r\n\r\n").into_bytes();
    // A scrape has a bound of its own.
    assert!(world.request(v4(1).ip(), &get(&scrape_target(&[far]))).is_none());
    world.advance(PENDING_SCRAPE_SECONDS - 1);
    assert!(world.late_answers().is_empty());
    world.advance(1);
    let answers = world.late_answers();
    assert_eq!(answers.len(), 1);
    check_failure(&answers[0], Refusal::Busy.text(), BUSY_INTERVAL_SECS, "scrape");
    assert_eq!(world.dropped(DropReason::OwnerSilent), 1);
    // For an announce the connection has one.
    let announce = target(&leecher(far, 6_881), "");
    assert!(world.request(v4(1).ip(), &get(&announce)).is_none());
    let response = world.late_http(0);
    check_failure(&response, Refusal::Busy.text(), BUSY_INTERVAL_SECS, "announce");
    assert_eq!(world.dropped(DropReason::OwnerSilent), 2);
    // The late answer to the announce is made, and the scrape's is not.
    world.set_deaf(1, false);
    world.settle();
    let answers = world.late_answers();
    assert_eq!(answers.len(), 1);
    assert_eq!(answers[0].counts(), (0, 1, 0));
}

// The model.

/// Seconds that a peer stays in the scripts.
const SCRIPT_TTL: u32 = 300;

/// A peer as the naive tracker knows it.
#[derive(Clone, Debug)]
struct Peer {
    stamp: Seconds,
    seeder: bool,
    partial: bool,
    counted: bool,
}

/// A swarm as the naive tracker knows it.
#[derive(Clone, Debug, Default)]
struct Swarm {
    touched: Seconds,
    completed: u32,
    peers: BTreeMap<Endpoint, Peer>,
}

/// The specification, as plainly as it can be told.
#[derive(Debug, Default)]
struct Model {
    swarms: BTreeMap<InfoHash, Swarm>,
}

impl Model {
    /// Everything that is due leaves. Downloads are remembered while the swarm is in use.
    fn expire(&mut self, now: Seconds) {
        self.swarms.retain(|_, swarm| {
            swarm.peers.retain(|_, peer| now.since(peer.stamp) <= SCRIPT_TTL);
            let used = now.since(swarm.touched) <= SCRIPT_TTL;
            used && (swarm.completed > 0 || !swarm.peers.is_empty())
        });
    }

    /// Applies an announce; `false` if it is refused.
    fn announce(&mut self, now: Seconds, endpoint: Endpoint, announce: &Announce) -> bool {
        self.expire(now);
        if announce.event == Event::Stopped {
            if let Some(swarm) = self.swarms.get_mut(&announce.info_hash) {
                swarm.peers.remove(&endpoint);
            }
            self.expire(now);
            return true;
        }
        match announce.port {
            0 => return false,
            22 => return true,
            _ => {}
        }
        let swarm = self.swarms.entry(announce.info_hash).or_default();
        let before = swarm.peers.get(&endpoint);
        let seeder = announce.left == Left::Bytes(0);
        let done = seeder || announce.event == Event::Completed;
        let completes = before.is_some_and(|before| !before.seeder && !before.counted && done);
        let counted = completes || before.is_some_and(|before| before.counted);
        let partial = announce.event == Event::Paused && !seeder;
        swarm.peers.insert(endpoint, Peer { stamp: now, seeder, partial, counted });
        swarm.completed += u32::from(completes);
        swarm.touched = now;
        true
    }

    /// (seeders, completed, leechers, downloaders)
    fn counts(&self, hash: &InfoHash) -> [u32; 4] {
        let Some(swarm) = self.swarms.get(hash) else { return [0; 4] };
        let count = |keep: fn(&Peer) -> bool| {
            u32::try_from(swarm.peers.values().filter(|&peer| keep(peer)).count()).expect("few")
        };
        [
            count(|peer| peer.seeder),
            swarm.completed,
            count(|peer| !peer.seeder),
            count(|peer| !peer.seeder && !peer.partial),
        ]
    }

    /// Whom an asker at `endpoint` may be given, of `family` or of both.
    fn candidates(
        &self,
        endpoint: Endpoint,
        announce: &Announce,
        family: Option<Family>,
    ) -> BTreeSet<Endpoint> {
        let Some(swarm) = self.swarms.get(&announce.info_hash) else { return BTreeSet::new() };
        let seeder = announce.left == Left::Bytes(0);
        swarm
            .peers
            .iter()
            .filter(|&(&other, _)| other != endpoint)
            .filter(|(_, peer)| !(seeder && peer.seeder))
            .filter(|(other, _)| family.is_none_or(|family| family == other.family()))
            .filter(|(other, _)| {
                let range = range_of(other.ip());
                range == "public" || range == range_of(endpoint.ip())
            })
            .map(|(&other, _)| other)
            .collect()
    }
}

/// The range of an address of the scripts.
fn range_of(ip: IpAddr) -> &'static str {
    match ip {
        IpAddr::V4(v4) if v4.octets()[0] == 10 => "10/8",
        IpAddr::V6(v6) if v6.octets()[0] == 0xFD => "fd00/8",
        _ => "public",
    }
}

/// One step of a script, from eight bytes.
fn decode(step: [u8; 8]) -> (std::net::SocketAddr, Announce) {
    let [_, hash_byte, peer, port, left, event, num_want, _] = step;
    let n = u32::from(peer / 4 % 16);
    let source = match peer % 4 {
        0 => v4(n),
        1 => v6(n),
        2 => address(&format!("10.0.0.{n}")),
        _ => address(&format!("fd00::{n}")),
    };
    let port = match port % 16 {
        0 => 0,
        1 => 22,
        n => 6_881 + u16::from(n % 2),
    };
    let announce = Announce {
        left: [Left::Bytes(0), Left::Bytes(0), Left::Bytes(9), Left::Unknown]
            [usize::from(left % 4)],
        event: [
            Event::None,
            Event::Started,
            Event::Completed,
            Event::Stopped,
            Event::Paused,
            Event::None,
            Event::Stopped,
            Event::Started,
        ][usize::from(event % 8)],
        num_want: match num_want % 8 {
            0 => NumWant::Default,
            1 => NumWant::Count(0),
            7 => NumWant::Count(u32::MAX),
            n => NumWant::Count(u32::from(n) * u32::from(n)),
        },
        ..leecher(hash(u64::from(hash_byte % 5)), port)
    };
    (source, announce)
}

/// Plays a script on a world and on the model; panics at the first difference.
fn play(seed: u64, cores: u16, script: &[[u8; 8]]) {
    let bounds = Bounds { peer_ttl_secs: SCRIPT_TTL, ..Options::default().bounds };
    let mut world = World::with(Options { cores, bounds, seed, ..Options::default() });
    let mut model = Model::default();
    for &step in script {
        let [kind, _, _, _, _, _, num_want, how] = step;
        let (source, announce) = decode(step);
        world.steering =
            [Steering::Owner, Steering::Wrong, Steering::Core(0)][usize::from(how % 3)];
        match kind % 16 {
            0 => world.advance(u32::from(how)),
            1 => world.sleep(u32::from(how) * 2),
            2..=4 => {
                let mut rng = Rng::new(u64::from(how));
                let asked: Vec<InfoHash> =
                    (0..1 + num_want % 7).map(|_| hash(u64::from(rng.below(7)))).collect();
                model.expire(world.now);
                if kind % 16 == 2 {
                    let response = world.get(source.ip(), &scrape_target(&asked));
                    for hash in &asked {
                        assert_eq!(response.file(hash), Some(model.counts(hash)));
                    }
                } else {
                    let expected: Vec<[u32; 3]> = asked
                        .iter()
                        .map(|hash| {
                            let [seeders, completed, leechers, _] = model.counts(hash);
                            [seeders, completed, leechers]
                        })
                        .collect();
                    assert_eq!(world.scrape(source, &asked), expected);
                }
            }
            5..=9 => play_announce(&mut world, &mut model, (source, &announce), None),
            _ => play_announce(&mut world, &mut model, (source, &announce), Some(how)),
        }
    }
}

/// An announce over UDP, or over HTTP in a form that `http` chooses.
fn play_announce(
    world: &mut World,
    model: &mut Model,
    (source, announce): (std::net::SocketAddr, &Announce),
    http: Option<u8>,
) {
    let endpoint = Endpoint::new(source.ip(), announce.port);
    let accepted = model.announce(world.now, endpoint, announce);
    let [seeders, completed, leechers, _] = model.counts(&announce.info_hash);
    let mut want = match announce.num_want {
        NumWant::Default => 50,
        NumWant::Count(count) => count.min(200) as usize,
    };
    let (peers, candidates) = if let Some(form) = http {
        let form =
            ["", "&compact=1", "&compact=0", "&compact=0&no_peer_id=1"][usize::from(form % 4)];
        let response = world.get(source.ip(), &target(announce, form));
        assert_eq!(response.failure().is_none(), accepted);
        if !accepted {
            return;
        }
        assert_eq!(response.counts(), (seeders, leechers, completed));
        (response.peers(), model.candidates(endpoint, announce, None))
    } else {
        if !accepted {
            world.announce_refused(source, announce);
            return;
        }
        let answer = world.announce(source, announce);
        assert_eq!(answer.counts(), (seeders, leechers));
        if source.is_ipv6() {
            want = want.min(67);
        }
        (answer.peers, model.candidates(endpoint, announce, Some(family_of(source))))
    };
    if announce.event == Event::Stopped {
        want = 0;
    }
    let distinct: BTreeSet<Endpoint> = peers.iter().copied().collect();
    assert_eq!(distinct.len(), peers.len(), "nobody twice");
    assert!(distinct.is_subset(&candidates), "{distinct:?} of {candidates:?}");
    assert_eq!(peers.len(), want.min(candidates.len()), "as many as wanted, or all there are");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// A failure prints seed, cores and script; they are all there is to it.
    #[test]
    fn random_scripts_agree_with_the_naive_tracker(
        seed in any::<u64>(),
        cores in 1_u16..=4,
        script in vec(any::<[u8; 8]>(), 1..400),
    ) {
        play(seed, cores, &script);
    }
}

#[test]
fn a_long_script_agrees_with_the_naive_tracker_on_every_number_of_cores() {
    for cores in 1..=4 {
        let mut rng = Rng::new(u64::from(cores));
        let script: Vec<[u8; 8]> = (0..5_000).map(|_| rng.next_u64().to_be_bytes()).collect();
        play(7, cores, &script);
    }
}
