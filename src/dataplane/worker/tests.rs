//! A worker that is turned by hand, with a ring so small that what is rare happens at once.

mod faults;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

use super::*;
use crate::dataplane::connections;
use crate::dataplane::mailbox::{capacity_bytes, mesh};
use crate::dataplane::ring::Queues;
use crate::dataplane::socket::bind_tcp_group;
use crate::limits::{WEB_MESSAGE_BYTES_MAX, WEB_QUEUE_BYTES_MAX};
use crate::swarm::{Bounds, HashKey};
use crate::tracker::WebKind;
use crate::tracker::access::Access;
use crate::tracker::access::networks::NetworkList;
use crate::tracker::connection_id::ConnectionIds;
use crate::tracker::limiter::Limits;
use crate::tracker::outcome::DropReason;
use crate::tracker::owner::{CoreId, HALFWORDS, Owner};
use crate::tracker::policy::Policy;
use crate::tracker::web::RelayKey;
use crate::wire::id::TransactionId;
use crate::wire::udp::{CONNECT_REPLY_BYTES, REQUEST_HEAD_BYTES, write_connect_request};

/// How long anything may take. The kernel needs microseconds; a loaded machine needs more.
const PATIENCE: Duration = Duration::from_secs(10);

/// Room for everything.
const AMPLE: Sizes =
    Sizes { for_datagrams: USUAL, for_connections: USUAL, datagrams: 64, streams: 16, replies: 64 };
const USUAL: Queues = Queues { submissions: 64, completions: 256 };
const MANY: Queues = Queues { submissions: 64, completions: 1_024 };

/// A worker alone, a client of its UDP listener, and the address of its HTTP listener.
struct Served {
    worker: Worker,
    client: UdpSocket,
    http: SocketAddr,
}

fn served(sizes: Sizes) -> Served {
    let listener = UdpSocket::bind("127.0.0.1:0").expect("a loopback address");
    listener.set_nonblocking(true).expect("a flag");
    let client = UdpSocket::bind("127.0.0.1:0").expect("a loopback address");
    client.connect(listener.local_addr().expect("it is bound")).expect("loopback");
    client.set_nonblocking(true).expect("a flag");
    let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
    let http = bind_tcp_group(loopback, 1, 512).expect("a loopback address").remove(0);
    let http_address = http.local_addr().expect("it is bound");
    let post = mesh(1, capacity_bytes(1)).expect("a descriptor").remove(0);
    let orders = Arc::new(Orders::new(post.doorbell().clone()));
    let bounds = Bounds {
        memory_bytes: 64 << 20,
        peers_per_swarm: 1_000,
        peer_ttl_secs: 3_600,
        keep_peer_ids: false,
    };
    let http_limits = connections::Limits {
        connections_max: 512,
        per_address_max: 0,
        head_secs: 5,
        idle_secs: 30,
        web_idle_secs: 600,
        write_secs: 10,
    };
    let setup = Setup {
        core: CoreId(0),
        owner: Owner::new([1; HALFWORDS + 1], 1),
        policy: Arc::new(Policy::default()),
        access: Access::default(),
        limits: Limits::default(),
        connection_ids: ConnectionIds::new([7; 16], 0, 128),
        bounds,
        hash_key: HashKey(1, 2),
        seed: 3,
        relay_key: RelayKey::new([4; 16]),
    };
    let parts = Parts {
        setup,
        udp: vec![listener],
        http: vec![(http, Listening::default())],
        tls: None,
        pages: None,
        http_limits,
        post,
        published: Arc::default(),
        orders,
        started: boot_seconds(),
        sizes,
    };
    let worker = Worker::new(parts).expect("io_uring, which these tests are about");
    Served { worker, client, http: http_address }
}

/// Asks for `count` connection ids at once, and turns the worker until all have come.
fn connect(worker: &mut Worker, client: &UdpSocket, count: usize) {
    for number in 0..u32::try_from(count).expect("a few") {
        let mut request = [0; REQUEST_HEAD_BYTES];
        write_connect_request(&mut request, TransactionId(number.to_be_bytes()));
        client.send(&request).expect("loopback takes it");
    }
    let (give_up, mut answers) = (Instant::now() + PATIENCE, 0);
    while answers < count {
        assert!(Instant::now() < give_up, "{answers} of {count} are answered");
        worker.turn().expect("no reason to refuse");
        while let Ok(len) = client.recv(&mut [0; 64]) {
            assert_eq!(len, CONNECT_REPLY_BYTES);
            answers += 1;
        }
    }
}

#[test]
fn a_burst_beyond_the_buffers_is_answered_whole_and_so_is_the_next() {
    let Served { mut worker, client, .. } = served(Sizes { datagrams: 4, ..AMPLE });
    for _ in 0..3 {
        connect(&mut worker, &client, 40);
    }
    // Else the receive has not ended, and this has shown nothing.
    assert!(worker.tracker.counters().ring_enobufs[0] > 0);
}

#[test]
fn an_order_holds_for_the_datagrams_that_came_before_it_was_read() {
    let Served { mut worker, client, .. } = served(AMPLE);
    connect(&mut worker, &client, 1);
    let mut request = [0; REQUEST_HEAD_BYTES];
    write_connect_request(&mut request, TransactionId(*b"late"));
    client.send(&request).expect("loopback takes it");
    let ban = NetworkList::parse(b"127.0.0.1").expect("an address");
    worker.orders.set_access(Access { ban: Some(Arc::new(ban)), ..Access::default() });
    let give_up = Instant::now() + PATIENCE;
    while worker.tracker.counters().dropped(DropReason::Banned) == 0 {
        assert!(Instant::now() < give_up, "the datagram is not dropped");
        worker.turn().expect("no reason to refuse");
    }
    // An answer would leave with the next one.
    for _ in 0..3 {
        worker.turn().expect("no reason to refuse");
    }
    let nothing = client.recv(&mut [0; 64]).expect_err("it is not answered");
    assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
}

/// Opens so many connections to a worker at once; each has said what it will say.
fn open_many(http: SocketAddr, count: usize, says: &[u8]) -> Vec<TcpStream> {
    let open = |_| {
        let mut stream = TcpStream::connect(http).expect("the listener has a queue");
        stream.set_nodelay(true).expect("a flag");
        stream.write_all(says).expect("a fresh connection takes it");
        stream
    };
    (0..count).map(open).collect()
}

/// Turns a worker until it is `done`.
fn turn_until(worker: &mut Worker, what: &str, done: impl Fn(&mut Worker) -> bool) {
    let give_up = Instant::now() + PATIENCE;
    while !done(worker) {
        assert!(Instant::now() < give_up, "waited in vain for {what}");
        worker.turn().expect("no reason to refuse");
    }
}

const ASK: &[u8] = b"GET /scrape?info_hash=aaaaaaaaaaaaaaaaaaaa HTTP/1.1\r\nHost: t\r\n\r\n";

#[test]
fn connections_that_come_faster_than_they_are_taken_wait_in_the_kernel() {
    let Served { mut worker, http, .. } = served(Sizes { for_connections: MANY, ..AMPLE });
    let streams = open_many(http, 3 * ACCEPTS_MAX, b"");
    // Arm, and let all that wait be accepted before anything is done for them.
    let mut completions = Vec::new();
    while completions.len() < streams.len() {
        worker.ring.enter(&mut completions).expect("no reason to refuse");
    }
    completions.into_iter().for_each(|completion| worker.enqueue(completion));
    assert_eq!(worker.http[0].accepting, Accepting::Pausing);
    assert!(worker.accepts >= ACCEPTS_MAX);
    // These come while it pauses, and are taken all the same.
    let more = open_many(http, 10, b"");
    let all = streams.len() + more.len();
    turn_until(&mut worker, "all connections", |worker| worker.connections.count() == all);
    assert_eq!((worker.accepts, worker.http[0].accepting), (0, Accepting::Yes));
}

#[test]
fn reads_that_find_no_buffer_take_their_turn_and_do_not_spin() {
    let Served { mut worker, http, .. } =
        served(Sizes { for_connections: MANY, streams: 2, ..AMPLE });
    let mut streams = open_many(http, 100, b"");
    turn_until(&mut worker, "all connections", |worker| worker.connections.count() == 100);
    for stream in &mut streams {
        stream.write_all(ASK).expect("it is open");
    }
    let answered =
        |worker: &mut Worker| worker.tracker.counters().replies().iter().sum::<u64>() == 100;
    turn_until(&mut worker, "all answers", answered);
    let failed = worker.tracker.counters().ring_enobufs[0];
    // Some connections fail at first; later ones are tried when there are buffers for them, which
    // fails once more at times, since who is first is up to the kernel.
    assert!((1..400).contains(&failed), "{failed} reads have failed");
    assert_eq!((worker.lent, worker.starved.len()), (0, 0));
}

#[test]
fn a_datagram_is_answered_before_connections_have_done_all_that_waits() {
    let Served { mut worker, client, http } = served(Sizes { for_connections: MANY, ..AMPLE });
    connect(&mut worker, &client, 1);
    let mut streams = open_many(http, 10, b"");
    turn_until(&mut worker, "all connections", |worker| worker.connections.count() == 10);
    streams.iter_mut().for_each(|stream| stream.write_all(ASK).expect("it is open"));
    let (mut completions, give_up) = (Vec::new(), Instant::now() + PATIENCE);
    while completions.len() < streams.len() {
        assert!(Instant::now() < give_up, "{} of 10 requests", completions.len());
        worker.ring.enter_for_connections(&mut completions).expect("no reason to refuse");
    }
    completions.into_iter().for_each(|completion| worker.enqueue(completion));

    let mut request = [0; REQUEST_HEAD_BYTES];
    write_connect_request(&mut request, TransactionId(*b"soon"));
    client.send(&request).expect("loopback takes it");
    worker.look_due = Instant::now();
    let spent = Budget::none();
    worker.serve_connections(&spent).expect("no reason to refuse");
    assert_eq!(worker.waiting.len(), 9, "the first of them has had its time");
    let mut answer = [0; 64];
    assert_eq!(client.recv(&mut answer).expect("its answer"), CONNECT_REPLY_BYTES);
    assert_eq!(answer[4..8], *b"soon");
}

/// A new WebSocket, past its handshake.
fn open_web(worker: &mut Worker, http: SocketAddr) -> TcpStream {
    const HANDSHAKE: &[u8] = b"GET / HTTP/1.1\r\nHost: t\r\nUpgrade: websocket\r\n\
        Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let mut stream = open_many(http, 1, HANDSHAKE).remove(0);
    stream.set_nonblocking(true).expect("a flag");
    let mut head = Vec::new();
    let give_up = Instant::now() + PATIENCE;
    while !head.ends_with(b"\r\n\r\n") {
        assert!(Instant::now() < give_up, "no WebSocket: {}", head.escape_ascii());
        worker.turn().expect("no reason to refuse");
        let mut byte = [0];
        if stream.read_exact(&mut byte).is_ok() {
            head.extend(byte);
        }
    }
    stream
}

/// Of the connections that the first slot has had, or may have later, those whose messages arrive.
fn reached(worker: &mut Worker, stream: &mut TcpStream) -> Vec<u32> {
    let mut all = Vec::new();
    for generation in 0..8 {
        let token = Token::new(0, generation);
        let progress =
            worker.connections.send_web(token, (b"late", WebKind::Relayed), &mut worker.tracker);
        worker.connections.proceed(worker.now, token, progress, &mut worker.ring);
        for _ in 0..3 {
            worker.turn().expect("no reason to refuse");
        }
        let mut frame = [0; 64];
        if let Ok(len) = stream.read(&mut frame) {
            assert_eq!(&frame[..len], b"\x81\x04late");
            all.push(generation);
        }
    }
    all
}

#[test]
fn what_was_meant_for_a_connection_does_not_reach_the_next_one_in_its_place() {
    let Served { mut worker, http, .. } = served(AMPLE);
    let mut before = Vec::new();
    for _ in 0..3 {
        let mut stream = open_web(&mut worker, http);
        let now = reached(&mut worker, &mut stream);
        assert!(now.len() == 1 && !before.contains(&now[0]), "{now:?} after {before:?}");
        before.extend(now);
        drop(stream);
        turn_until(&mut worker, "the end of it", |worker| worker.connections.count() == 0);
    }
}

#[test]
fn who_has_asked_for_more_than_may_wait_for_him_is_closed_and_others_can_not_bring_that_about() {
    let Served { mut worker, http, .. } = served(AMPLE);
    let mut stream = open_web(&mut worker, http);
    let token = Token::new(0, reached(&mut worker, &mut stream)[0]);
    let text = vec![b'x'; WEB_MESSAGE_BYTES_MAX];
    let mut tell = |kind| worker.connections.send_web(token, (&text, kind), &mut worker.tracker);
    for _ in 0..10 {
        tell(WebKind::Relayed);
    }
    // The first of those waits; the last of these is too long by the heads of frames.
    let replies = WEB_QUEUE_BYTES_MAX / WEB_MESSAGE_BYTES_MAX - 1;
    let progress = (0..replies).map(|_| tell(WebKind::Reply)).last().expect("several");
    let counters = worker.tracker.counters();
    assert_eq!((counters.web_undelivered, counters.web_connections_slow), ([9], [1]));
    worker.connections.proceed(worker.now, token, progress, &mut worker.ring);
    turn_until(&mut worker, "its end", |worker| worker.connections.count() == 0);
}

#[test]
fn requests_that_have_come_are_answered_before_a_worker_stops() {
    let Served { mut worker, http, .. } = served(AMPLE);
    let mut streams = open_many(http, 50, b"");
    turn_until(&mut worker, "all connections", |worker| worker.connections.count() == 50);
    for stream in &mut streams {
        stream.write_all(ASK).expect("it is open");
    }
    worker.stop().expect("no reason to refuse");
    for mut stream in streams {
        let mut answer = Vec::new();
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream.read_to_end(&mut answer).expect("the connection ends in order");
        assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n"), "{}", answer.escape_ascii());
    }
}

#[test]
fn few_send_slots_are_enough_for_many_answers() {
    let Served { mut worker, client, .. } = served(Sizes { replies: 2, ..AMPLE });
    for _ in 0..100 {
        connect(&mut worker, &client, 1);
    }
    assert_eq!(worker.tracker.counters().udp_send_errors, [0]);
}
