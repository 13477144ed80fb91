//! Peers find each other: over both protocols and families, whatever cores they meet.

use std::net::SocketAddr;

use throng::rng::Rng;
use throng::wire::announce::{Announce, Event, NumWant};
use throng::wire::bencode::Value;
use throng::wire::id::InfoHash;

use super::client::{Answer, Http, Udp, leecher, random_hash, scrape_target, seeder};
use super::process::{PATIENCE, Throng, eventually, skip, start};

/// Torrents in a test: enough that each core owns many and is asked for many of the others'.
const SWARMS: usize = 200;
/// Sockets and connections of each protocol and family: enough to reach every core.
const DOORS: usize = 12;

/// Clients of both protocols and families. The kernel spreads them over the workers.
struct Doors {
    udp: [Vec<Udp>; 2],
    http: [Vec<Http>; 2],
    next: usize,
}

impl Doors {
    fn open(throng: &Throng) -> Self {
        let udp = |at: usize| (0..DOORS).map(|_| Udp::connect(throng.udp[at])).collect();
        let http = |at: usize| (0..DOORS).map(|_| Http::connect(throng.http[at])).collect();
        Self { udp: [udp(0), udp(1)], http: [http(0), http(1)], next: 0 }
    }

    /// Announces through the next client: 0 UDP v4, 1 UDP v6, 2 HTTP v4, 3 HTTP v6.
    fn announce(&mut self, way: usize, announce: &Announce) -> Answer {
        // Five is no factor of the number of clients, so all of them have their turns.
        self.next = (self.next + 5) % DOORS;
        match way {
            0 | 1 => self.udp[way][self.next].announce(announce),
            _ => self.http[way - 2][self.next].announce(announce),
        }
    }
}

/// The peer that announces by `way`.
fn peer(way: usize) -> SocketAddr {
    let ip = if way.is_multiple_of(2) { "127.0.0.1" } else { "::1" };
    SocketAddr::new(ip.parse().expect("an address"), port(way))
}

fn port(way: usize) -> u16 {
    20_000 + u16::try_from(way).expect("four ways")
}

/// One leecher by each protocol and family in each of many swarms: all are counted everywhere, and
/// each is given those of the others that it can be given.
fn peers_meet(settings: &[&str]) {
    let Some(throng) = start(settings) else { return };
    let mut doors = Doors::open(&throng);
    let mut rng = Rng::new(1);
    // What each way can carry: UDP its own family, HTTP both.
    let given: [&[usize]; 4] = [&[2], &[3], &[0, 1, 3], &[0, 1, 2]];
    let hashes: Vec<InfoHash> = (0..SWARMS).map(|_| random_hash(&mut rng)).collect();
    for hash in &hashes {
        for (way, given) in given.iter().enumerate() {
            let answer = doors.announce(way, &leecher(*hash, port(way)));
            let before = given.iter().copied().filter(|&other| other < way);
            let mut peers: Vec<_> = before.map(peer).collect();
            peers.sort_unstable();
            let leechers = u32::try_from(way).expect("four ways") + 1;
            assert_eq!(answer, Answer { seeders: 0, leechers, peers }, "{hash:?} by way {way}");
        }
    }
    for hash in &hashes {
        for way in [3, 1, 2, 0] {
            let answer = doors.announce(way, &leecher(*hash, port(way)));
            let mut peers: Vec<_> = given[way].iter().copied().map(peer).collect();
            peers.sort_unstable();
            assert_eq!(answer, Answer { seeders: 0, leechers: 4, peers }, "{hash:?} by way {way}");
        }
    }
    let announced = u64::try_from(SWARMS * 8).expect("small");
    eventually("the counters are published", PATIENCE, || throng.answered("announce") == announced);
    assert_eq!(throng.metric("drops"), 0);
    assert_eq!(throng.metric("messages_refused"), 0);
    let workers = throng.admin("/metrics").matches("\nthrong_messages_sent_total{").count();
    for worker in 0..workers {
        let label = format!("worker=\"{worker}\"");
        assert!(throng.metric_where("messages_sent", &label) > 0, "{label}");
        assert!(throng.metric_where("messages_received", &label) > 0, "{label}");
        assert!(throng.metric_where("swarms", &label) > 0, "{label}");
    }
}

#[test]
fn peers_meet_on_two_workers() {
    peers_meet(&["workers=2"]);
}

#[test]
fn peers_meet_on_three_workers() {
    peers_meet(&["workers=3"]);
}

#[test]
fn peers_meet_on_two_workers_without_steering() {
    peers_meet(&["workers=2", "udp.steering=false"]);
}

#[test]
fn peers_meet_on_three_workers_without_steering() {
    peers_meet(&["workers=3", "udp.steering=false"]);
}

/// Announces from many source ports at once are all answered; returns the child to look at.
fn many_ports_announce(settings: &[&str]) -> Option<Throng> {
    let throng = start(settings)?;
    let mut rng = Rng::new(2);
    let clients: Vec<Udp> = (0..64).map(|at| Udp::connect(throng.udp[at % 2])).collect();
    for round in 0..20 {
        let hash = random_hash(&mut rng);
        for (client, port) in clients.iter().zip(21_000..) {
            client.send_announce(round, &leecher(hash, port));
        }
        let mut leechers: Vec<u32> =
            clients.iter().map(|client| client.receive_answer(round).leechers).collect();
        // Each was counted once, in some order.
        leechers.sort_unstable();
        assert_eq!(leechers, (1..=64).collect::<Vec<_>>());
    }
    eventually("the counters are published", PATIENCE, || throng.answered("announce") == 20 * 64);
    Some(throng)
}

#[test]
fn announces_of_many_ports_are_answered_through_mailboxes() {
    for settings in [["workers=2", "udp.steering=false"], ["workers=3", "udp.steering=false"]] {
        let Some(throng) = many_ports_announce(&settings) else { return };
        // Each worker publishes what it knows when it has the time.
        eventually("both sides are counted", PATIENCE, || {
            throng.metric("messages_sent") == throng.metric("messages_received")
        });
        // At random one half or two thirds of all would have to be passed on.
        let sent = throng.metric("messages_sent");
        assert!(sent > 20 * 64 / 4, "{sent}");
    }
}

#[test]
fn steered_announces_need_no_mailbox() {
    for settings in [["workers=2"], ["workers=3"]] {
        let Some(throng) = many_ports_announce(&settings) else { return };
        if throng.logged("steering on") == 1 {
            assert_eq!(throng.metric("messages_sent"), 0);
        } else {
            skip(&format!("this machine does not steer: {:#?}", throng.log()));
        }
    }
}

/// Fills swarms with numbers of peers by which they can be told apart; returns each hash with its
/// seeders, completed and leechers, some of them unknown to the tracker.
fn told_apart(throng: &Throng, count: u16) -> Vec<(InfoHash, [u32; 3])> {
    let mut rng = Rng::new(3);
    let clients: Vec<Udp> = (0..8).map(|at| Udp::connect(throng.udp[at % 2])).collect();
    (0..count)
        .map(|index| {
            let (hash, client) = (random_hash(&mut rng), &clients[usize::from(index % 8)]);
            let [seeders, completed, leechers] = [index % 5, index / 5 % 4, index / 20];
            for port in 22_000..22_000 + seeders {
                client.announce(&seeder(hash, port));
            }
            for port in 23_000..23_000 + completed {
                client.announce(&leecher(hash, port));
                client.announce(&Announce { event: Event::Completed, ..seeder(hash, port) });
            }
            for port in 24_000..24_000 + leechers {
                client.announce(&leecher(hash, port));
            }
            (hash, [seeders + completed, completed, leechers].map(u32::from))
        })
        .collect()
}

fn scrapes_are_answered_in_the_order_asked(settings: &[&str]) {
    let Some(throng) = start(settings) else { return };
    let known = told_apart(&throng, 100);
    let mut rng = Rng::new(4);
    let clients: Vec<Udp> = (0..16).map(|at| Udp::connect(throng.udp[at % 2])).collect();
    for (at, client) in clients.iter().cycle().take(64).enumerate() {
        // With repetition, and more than are answered now and then.
        let count = if at % 2 == 0 { 74 } else { 1 + at };
        let picked: Vec<_> =
            (0..count).map(|_| &known[usize::try_from(rng.below(100)).expect("small")]).collect();
        let (hashes, counts): (Vec<_>, Vec<_>) = picked.into_iter().copied().unzip();
        assert_eq!(client.scrape(&hashes), counts, "scrape {at}");
    }
    // The first 74 of more.
    let (hashes, counts): (Vec<_>, Vec<_>) = known.iter().take(80).copied().unzip();
    assert_eq!(clients[0].scrape(&hashes), counts[..74]);

    let hashes: Vec<InfoHash> = known.iter().map(|(hash, _)| *hash).collect();
    let target = scrape_target(&hashes);
    assert!(target.len() < 8_000);
    for at in 0..8 {
        let response = Http::connect(throng.http[at % 2]).get(&target);
        let value = response.value();
        let files = value.get(b"files").and_then(Value::as_dictionary).expect("files");
        assert_eq!(files.len(), known.len());
        for (hash, [seeders, completed, leechers]) in &known {
            let file = files.iter().find(|(key, _)| *key == hash.0).map(|(_, file)| file);
            let file = file.expect("each hash is answered");
            let number = |key: &[u8]| file.get(key).and_then(Value::as_integer);
            assert_eq!(number(b"complete"), Some((*seeders).into()));
            assert_eq!(number(b"downloaded"), Some((*completed).into()));
            assert_eq!(number(b"incomplete"), Some((*leechers).into()));
        }
    }
}

#[test]
fn scrapes_are_answered_in_the_order_asked_on_two_workers() {
    scrapes_are_answered_in_the_order_asked(&["workers=2"]);
}

#[test]
fn scrapes_are_answered_in_the_order_asked_on_three_workers() {
    scrapes_are_answered_in_the_order_asked(&["workers=3", "udp.steering=false"]);
}

#[test]
fn two_hundred_peers_are_given_over_ipv4_and_sixty_seven_over_ipv6() {
    let Some(throng) = start(&["workers=2"]) else { return };
    let hash = random_hash(&mut Rng::new(5));
    for target in &throng.udp {
        let client = Udp::connect(*target);
        for port in 25_000..25_250 {
            client.announce(&leecher(hash, port));
        }
        let many = Announce { num_want: NumWant::Count(u32::MAX >> 1), ..leecher(hash, 24_999) };
        let peers = client.announce(&many).peers;
        assert_eq!(peers.len(), if target.is_ipv4() { 200 } else { 67 });
        assert!(!peers.contains(&SocketAddr::new(target.ip(), 24_999)));
    }
    // Both families share what is asked for.
    let answer = Http::connect(throng.http[0])
        .announce(&Announce { num_want: NumWant::Count(100), ..leecher(hash, 24_999) });
    assert_eq!(answer.peers.len(), 100);
    let v6 = answer.peers.iter().filter(|peer| peer.is_ipv6()).count();
    assert!((20..=80).contains(&v6), "{v6}");
}
