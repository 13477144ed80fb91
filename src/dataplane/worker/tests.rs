//! A worker that is turned by hand, with a ring so small that what is rare happens at once.

use std::time::Instant;

use super::*;
use crate::dataplane::mailbox::{capacity_bytes, mesh};
use crate::swarm::{Bounds, HashKey};
use crate::tracker::access::Access;
use crate::tracker::connection_id::ConnectionIds;
use crate::tracker::owner::{CoreId, HALFWORDS, Owner};
use crate::tracker::policy::Policy;
use crate::tracker::web::RelayKey;
use crate::wire::id::TransactionId;
use crate::wire::udp::{CONNECT_REPLY_BYTES, REQUEST_HEAD_BYTES, write_connect_request};

/// How long anything may take. The kernel needs microseconds; a loaded machine needs more.
const PATIENCE: Duration = Duration::from_secs(10);

/// Room for everything.
const AMPLE: Sizes =
    Sizes { submissions: 64, completions: 256, datagrams: 64, streams: 16, replies: 64 };

/// A worker alone, its UDP listener, and a client of that.
fn worker(sizes: Sizes) -> (Worker, UdpSocket) {
    let listener = UdpSocket::bind("127.0.0.1:0").expect("a loopback address");
    listener.set_nonblocking(true).expect("a flag");
    let client = UdpSocket::bind("127.0.0.1:0").expect("a loopback address");
    client.connect(listener.local_addr().expect("it is bound")).expect("loopback");
    client.set_nonblocking(true).expect("a flag");
    let post = mesh(1, capacity_bytes(1)).expect("a descriptor").remove(0);
    let orders = Arc::new(Orders::new(post.doorbell().clone()));
    let bounds = Bounds {
        memory_bytes: 64 << 20,
        peers_per_swarm: 1_000,
        peer_ttl_secs: 3_600,
        keep_peer_ids: false,
    };
    let http_limits = Limits {
        connections_max: 16,
        per_address_max: 0,
        head_secs: 5,
        idle_secs: 30,
        write_secs: 10,
    };
    let setup = Setup {
        core: CoreId(0),
        owner: Owner::new([1; HALFWORDS + 1], 1),
        policy: Arc::new(Policy::default()),
        access: Access::Open,
        connection_ids: ConnectionIds::new([7; 16], 0, 128),
        bounds,
        hash_key: HashKey(1, 2),
        seed: 3,
        relay_key: RelayKey::new([4; 16]),
    };
    let parts = Parts {
        setup,
        udp: vec![listener],
        http: Vec::new(),
        tls: None,
        http_limits,
        post,
        published: Arc::default(),
        orders,
        started: boot_seconds(),
        sizes,
    };
    (Worker::new(parts).expect("io_uring, which these tests are about"), client)
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
    let (mut worker, client) = worker(Sizes { datagrams: 4, ..AMPLE });
    for _ in 0..3 {
        connect(&mut worker, &client, 40);
    }
    // Else the receive has not ended, and this has shown nothing.
    assert!(worker.tracker.counters().ring_enobufs[0] > 0);
}

#[test]
fn few_send_slots_are_enough_for_many_answers() {
    let (mut worker, client) = worker(Sizes { replies: 2, ..AMPLE });
    for _ in 0..100 {
        connect(&mut worker, &client, 1);
    }
    assert_eq!(worker.tracker.counters().udp_send_errors, [0]);
}
