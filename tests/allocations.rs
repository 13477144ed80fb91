//! Announces and scrapes allocate nothing once all is warm: counted over a million of them.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use throng::limits::{BATCH_MAX, UDP_REPLY_BYTES_MAX, UDP_SCRAPE_HASHES_MAX};
use throng::rng::Rng;
use throng::swarm::{Bounds, HashKey};
use throng::time::Seconds;
use throng::tracker::access::Access;
use throng::tracker::connection_id::ConnectionIds;
use throng::tracker::counters::{Action, Transport, request_index};
use throng::tracker::http::{Connection, HttpAnswer};
use throng::tracker::limiter::Limits;
use throng::tracker::owner::{CoreId, Owner};
use throng::tracker::policy::{Policy, PortSet};
use throng::tracker::web::RelayKey;
use throng::tracker::{Datagram, Effects, MailboxFull, Setup, Tracker};
use throng::wire::addr::Family;
use throng::wire::announce::{Announce, Event, Left, NumWant};
use throng::wire::http::{Head, Status, head_end};
use throng::wire::id::{ConnectionId, InfoHash, PeerId, TransactionId};
use throng::wire::udp::{self, ANNOUNCE_BYTES, Reply};

const NOW: Seconds = Seconds(1_000);
/// Swarm n has 2^(n % 11) peers on average: from one to some hundreds.
const SWARMS: u32 = 500;
const SOURCES: usize = 64;
/// Batches that are prepared, and played again and again.
const BATCHES: usize = 2_048;
const REQUESTS: usize = 1_000_000;
/// One request in so many is a scrape.
const SCRAPE_EVERY: u32 = 8;

/// Keeps the last reply, counts all, and passes messages on when asked to.
struct Replies {
    buffer: [u8; UDP_REPLY_BYTES_MAX],
    len: usize,
    count: usize,
    /// Messages under way: to whom, and how long; their bytes follow one another in `bytes`.
    posted: Vec<(CoreId, usize)>,
    bytes: Vec<u8>,
}

impl Replies {
    fn new() -> Self {
        let buffer = [0; UDP_REPLY_BYTES_MAX];
        Self { buffer, len: 0, count: 0, posted: Vec::new(), bytes: Vec::new() }
    }
}

impl Effects for Replies {
    fn reply_buffer(&mut self) -> Option<&mut [u8; UDP_REPLY_BYTES_MAX]> {
        Some(&mut self.buffer)
    }

    fn send_reply(&mut self, _listener: u8, _target: SocketAddr, len: usize) {
        self.len = len;
        self.count += 1;
    }

    fn post(&mut self, to: CoreId, message: &[u8]) -> Result<(), MailboxFull> {
        self.posted.push((to, message.len()));
        self.bytes.extend_from_slice(message);
        Ok(())
    }

    fn answer_http(&mut self, _connection: Connection, _body: &[u8]) {
        unreachable!("announces to an own swarm are answered at once")
    }
}

fn tracker() -> Tracker {
    tracker_of(0, 1)
}

fn tracker_of(core: u16, cores: u16) -> Tracker {
    Tracker::new(Setup {
        core: CoreId(core),
        owner: Owner::new([0x9E37_79B9; 11], cores),
        policy: Arc::new(Policy { deny_ports: PortSet::new([22..=22]), ..Policy::default() }),
        access: Access::default(),
        limits: Limits::default(),
        connection_ids: ConnectionIds::new([7; 16], 1_700_000_000, 128),
        bounds: Bounds {
            memory_bytes: 1 << 30,
            peers_per_swarm: 65_536,
            peer_ttl_secs: 3_000,
            keep_peer_ids: false,
        },
        hash_key: HashKey(11, 22),
        seed: 33,
        relay_key: RelayKey::new([9; 16]),
    })
    .expect("address space")
}

/// Two in three of IPv4, some of them of a private network.
fn source(number: usize) -> SocketAddr {
    let [.., low] = number.to_be_bytes();
    match number % 6 {
        0 | 1 => SocketAddr::from((Ipv6Addr::new(0x2600, 1, 1, 1, 0, 0, 0, low.into()), 7_000)),
        2 => SocketAddr::from((Ipv4Addr::new(10, 1, 1, low), 7_000)),
        _ => SocketAddr::from((Ipv4Addr::new(16, 1, 1, low), 7_000)),
    }
}

fn info_hash(swarm: u32) -> InfoHash {
    let mut rng = Rng::new(u64::from(swarm));
    InfoHash(std::array::from_fn(|_| rng.next_u64().to_be_bytes()[0]))
}

/// An announce of any kind, by a peer of any swarm.
fn announce(rng: &mut Rng) -> Announce {
    let swarm = rng.below(SWARMS);
    let ports = (1 << (swarm % 11)) / 32;
    let port = 10_000 + u16::try_from(rng.below(ports + 1)).expect("below 64");
    let event = match rng.below(16) {
        0 => Event::Stopped,
        1 => Event::Completed,
        2 => Event::Started,
        3 => Event::Paused,
        _ => Event::None,
    };
    Announce {
        info_hash: info_hash(swarm),
        peer_id: PeerId(*b"-qB4650-bench0123456"),
        port: if rng.below(64) == 0 { 22 } else { port },
        uploaded: 0,
        downloaded: 0,
        left: Left::Bytes(u64::from(rng.below(3))),
        event,
        num_want: NumWant::Count(rng.below(250)),
        key: None,
    }
}

type Request = (SocketAddr, Vec<u8>);

/// A scrape of any number of swarms, some of which nobody has announced to.
fn scrape(rng: &mut Rng, id: ConnectionId) -> Vec<u8> {
    let most = u32::try_from(UDP_SCRAPE_HASHES_MAX).expect("74");
    let hashes: Vec<InfoHash> =
        (0..=rng.below(most)).map(|_| info_hash(rng.below(SWARMS + 50))).collect();
    let mut bytes = vec![0; 16 + 20 * hashes.len()];
    udp::write_scrape_request(&mut bytes, id, TransactionId(*b"abcd"), &hashes);
    bytes
}

/// The requests of a batch: announces and scrapes, some with a wrong id, some that are none.
fn batch(rng: &mut Rng, ids: &[ConnectionId]) -> Vec<Request> {
    let one = |rng: &mut Rng| {
        let who = rng.below(64) as usize % SOURCES;
        let id = if rng.below(50) == 0 { ConnectionId([9; 8]) } else { ids[who] };
        let mut bytes = vec![0; ANNOUNCE_BYTES];
        udp::write_announce_request(&mut bytes, id, TransactionId(*b"abcd"), &announce(rng));
        if rng.below(SCRAPE_EVERY) == 0 {
            bytes = scrape(rng, id);
        }
        if rng.below(50) == 0 {
            bytes[11] = 77;
        }
        (source(who), bytes)
    };
    (0..BATCH_MAX).map(|_| one(rng)).collect()
}

fn datagram<'a>((source, bytes): &'a (SocketAddr, impl AsRef<[u8]>)) -> Datagram<'a> {
    Datagram { listener: 0, source: *source, bytes: bytes.as_ref(), truncated: false }
}

/// The connection ids of all sources.
fn connection_ids(tracker: &mut Tracker, replies: &mut Replies) -> Vec<ConnectionId> {
    let mut connect = |number| {
        let mut connect = [0; 16];
        udp::write_connect_request(&mut connect, TransactionId(*b"abcd"));
        tracker.handle_datagrams(NOW, &[datagram(&(source(number), connect))], replies);
        match Reply::parse(&replies.buffer[..replies.len]).expect("a reply") {
            Reply::Connect { connection_id, .. } => connection_id,
            other => panic!("{other:?}"),
        }
    };
    (0..SOURCES).map(&mut connect).collect()
}

#[test]
fn a_million_mixed_announces_and_scrapes_over_udp_allocate_nothing() {
    let mut tracker = tracker();
    let mut replies = Replies::new();
    let ids = connection_ids(&mut tracker, &mut replies);
    let mut rng = Rng::new(1);
    let requests: Vec<Vec<Request>> = (0..BATCHES).map(|_| batch(&mut rng, &ids)).collect();
    let batches: Vec<Vec<Datagram<'_>>> =
        requests.iter().map(|batch| batch.iter().map(datagram).collect()).collect();

    // Warm: everybody who plays has been there, and memory has been as large as it gets.
    for _ in 0..2 {
        for batch in &batches {
            tracker.handle_datagrams(NOW, batch, &mut replies);
        }
    }
    let (peers, swarms) = (tracker.counters().leechers, tracker.counters().swarms);
    assert!(peers.iter().sum::<u64>() > 5_000 && swarms[0] > 400, "{peers:?} {swarms:?}");
    replies.count = 0;
    let before = tracker.counters().clone();
    let counted = allocation_counter::measure(|| {
        for batch in batches.iter().cycle().take(REQUESTS.div_ceil(BATCH_MAX)) {
            tracker.handle_datagrams(NOW, batch, &mut replies);
        }
    });
    assert!(replies.count > REQUESTS / 10 * 9, "{} replies", replies.count);
    let after = tracker.counters();
    assert!(after.completed[0] > before.completed[0]);
    let scrapes = [Family::V4, Family::V6]
        .map(|family| request_index(Transport::Udp, family, Action::Scrape))
        .map(|index| after.replies()[index] - before.replies()[index]);
    assert!(scrapes.iter().all(|&count| count > 10_000), "{scrapes:?}");
    assert!(after.drops.iter().sum::<u64>() > before.drops.iter().sum::<u64>());
    assert_eq!(counted.count_total, 0, "{counted:?}");
    tracker.check_invariants();
}

#[test]
fn scrapes_of_two_cores_allocate_nothing() {
    let mut cores = [tracker_of(0, 2), tracker_of(1, 2)];
    let mut replies = Replies::new();
    let ids = connection_ids(&mut cores[0], &mut replies);
    let mut rng = Rng::new(3);
    let requests: Vec<Request> =
        (0..5_000).map(|at| (source(at % SOURCES), scrape(&mut rng, ids[at % SOURCES]))).collect();
    let mut play = |cores: &mut [Tracker; 2]| {
        for request in &requests {
            cores[0].handle_datagrams(NOW, &[datagram(request)], &mut replies);
            // Two cores pass a question to one another and its answer back.
            for _ in 0..2 {
                let Some((to, len)) = replies.posted.pop() else { break };
                let mut message = [0; 2_048];
                message[..len].copy_from_slice(&replies.bytes[..len]);
                replies.bytes.clear();
                let from = CoreId(1 - to.0);
                let core = &mut cores[usize::from(to.0)];
                core.handle_message(NOW, from, &message[..len], &mut replies);
            }
        }
        std::mem::take(&mut replies.count)
    };
    play(&mut cores);
    let mut count = 0;
    let counted = allocation_counter::measure(|| count = play(&mut cores));
    assert_eq!(count, requests.len());
    assert!(cores[0].counters().messages_received[0] > 5_000);
    assert_eq!(counted.count_total, 0, "{counted:?}");
}

#[test]
fn an_allocation_would_be_seen() {
    let counted = allocation_counter::measure(|| drop(std::hint::black_box(vec![1_u8])));
    assert_eq!(counted.count_total, 1);
}

#[test]
fn announces_over_http_allocate_nothing() {
    let mut tracker = tracker();
    let mut replies = Replies::new();
    let mut rng = Rng::new(2);
    let requests: Vec<(SocketAddr, Vec<u8>)> = (0..20_000)
        .map(|_| {
            let hash: String =
                info_hash(rng.below(200)).0.iter().map(|byte| format!("%{byte:02x}")).collect();
            let (port, left, compact) = (9_000 + rng.below(40), rng.below(2), rng.below(2));
            let text = format!(
                "GET /announce?info_hash={hash}&peer_id=-TR4050-k0pz7w2m9xqa&port={port}\
                 &uploaded=0&downloaded=0&left={left}&numwant=200&compact={compact} HTTP/1.1\r\n\
                 Host: tracker.example.org:6969\r\n\r\n"
            );
            (source(rng.below(64) as usize), text.into_bytes())
        })
        .collect();
    let mut body = Vec::new();
    let mut all = |tracker: &mut Tracker| {
        for (source, bytes) in &requests {
            let end = head_end(bytes, 0).expect("a good head").expect("a whole one");
            let head = Head::parse(&bytes[..end]).expect("a good head");
            let from = (source.ip(), Connection(1));
            let answer = tracker.handle_http(NOW, from, &head, &mut body, &mut replies);
            assert_eq!(answer, HttpAnswer::Ready(Status::Ok));
        }
    };
    all(&mut tracker);
    let counted = allocation_counter::measure(|| all(&mut tracker));
    assert_eq!(counted.count_total, 0, "{counted:?}");
}
