//! The ring on a real kernel: what it does when all is well, and each way to fail, by construction.
//!
//! Nothing here waits for luck: queues are so small that they must overflow, datagrams wait in the
//! socket before the ring looks, and every wait has a deadline that fails the test.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::marker::PhantomData;
use std::net::{Ipv6Addr, Shutdown, SocketAddrV6, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::thread;
use std::time::Instant;

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use socket2::{SockAddr, SockRef};

use super::completion::WHOM_BITS;
use super::queues::outcome_of_enter;
use super::*;
use crate::limits::UDP_REPLY_BYTES_MAX;

/// How long anything may take. The kernel needs microseconds; a loaded machine needs more.
const PATIENCE: Duration = Duration::from_secs(10);

/// Room for everything.
const AMPLE: Sizes =
    Sizes { for_datagrams: USUAL, for_connections: USUAL, datagrams: 64, streams: 16, replies: 64 };
const USUAL: Queues = Queues { submissions: 64, completions: 256 };

const LISTENER: u8 = 3;

fn ring(sizes: Sizes) -> Ring {
    Ring::new(&sizes).expect("io_uring, which these tests are about")
}

/// A socket on a port of its own, as a worker's are: non-blocking.
fn udp(address: &str) -> UdpSocket {
    let socket = UdpSocket::bind(address).expect("a loopback address");
    socket.set_nonblocking(true).expect("a flag");
    socket
}

/// A socket of the other side, which waits, but not for ever.
fn client(address: &str) -> UdpSocket {
    let socket = UdpSocket::bind(address).expect("a loopback address");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    socket
}

fn listener() -> TcpListener {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback address");
    listener.set_nonblocking(true).expect("a flag");
    listener
}

fn local(socket: &UdpSocket) -> SocketAddr {
    socket.local_addr().expect("it is bound")
}

/// Enters the ring and hands each completion to `each`, until that says `true` once.
fn turn_until(
    ring: &mut Ring,
    what: &str,
    mut each: impl FnMut(&mut Ring, &Completion) -> bool,
) -> bool {
    let give_up = Instant::now() + PATIENCE;
    let (mut completions, mut overflown) = (Vec::new(), false);
    let mut done = false;
    while !done {
        assert!(Instant::now() < give_up, "waited in vain for {what}");
        overflown |= ring.enter(&mut completions).expect("no reason to refuse");
        if completions.is_empty() {
            thread::yield_now();
        }
        for completion in completions.drain(..) {
            done |= each(ring, &completion);
        }
    }
    overflown
}

/// One more look: completions that are there already, without waiting.
fn look(ring: &mut Ring) -> Vec<Completion> {
    let mut completions = Vec::new();
    for _ in 0..8 {
        ring.enter(&mut completions).expect("no reason to refuse");
    }
    completions
}

/// Queues a datagram; `false` if there is no buffer.
fn send(ring: &mut Ring, socket: &UdpSocket, target: SocketAddr, payload: &[u8]) -> bool {
    let (_, mut outbox) = ring.split();
    let Some(buffer) = outbox.buffer() else { return false };
    buffer[..payload.len()].copy_from_slice(payload);
    outbox.send(socket.as_fd(), target, payload.len());
    true
}

/// The payload of a datagram as a number.
fn number(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes.try_into().expect("4 bytes"))
}

/// Waits for the one accepted connection.
fn accepted(ring: &mut Ring) -> OwnedFd {
    let mut stream = None;
    turn_until(ring, "a connection", |_, completion| {
        if completion.operation == Operation::Accept(LISTENER) {
            stream = Some(completion.accepted().expect("a connection"));
        }
        stream.is_some()
    });
    stream.expect("waited for")
}

/// Reads from a connection until its end or `enough` bytes.
fn read_all(ring: &mut Ring, stream: &OwnedFd, token: Token, enough: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    ring.read(stream.as_raw_fd(), token, true);
    turn_until(ring, "bytes", |ring, completion| {
        if completion.operation != Operation::Read(token) {
            return false;
        }
        completion.result().expect("a readable connection");
        let (inbox, _) = ring.split();
        let came = inbox.read_bytes(completion);
        bytes.extend_from_slice(came);
        let done = came.is_empty() || bytes.len() >= enough;
        ring.recycle(completion);
        if !done {
            ring.read(stream.as_raw_fd(), token, false);
        }
        done
    });
    bytes
}

// Names.

#[test]
fn a_token_keeps_slot_and_generation() {
    for slot in [0, 1, 255, 65_536, u32::MAX] {
        for generation in [0, 1, 0x00FF_FFFF] {
            let token = Token::new(slot, generation);
            assert_eq!(token.slot(), usize::try_from(slot).expect("64 bits"));
            assert_eq!(Token::from_bits(token.to_bits()), token);
            assert_eq!(token.to_bits() >> WHOM_BITS, 0, "it leaves room for the operation");
        }
        assert_ne!(Token::new(slot, 1), Token::new(slot, 2), "a late completion is told apart");
        // 2^24 users later a slot's name comes again.
        assert_eq!(Token::new(slot, 1 << 24), Token::new(slot, 0));
    }
}

#[test]
fn user_data_comes_back_as_the_operation_it_was() {
    let mut seen = BTreeSet::new();
    for operation in [
        Operation::Datagram(0),
        Operation::Datagram(255),
        Operation::Reply(0),
        Operation::Reply(u16::MAX),
        Operation::Accept(0),
        Operation::Accept(255),
        Operation::Read(Token::new(0, 0)),
        Operation::Read(Token::new(u32::MAX, u32::MAX)),
        Operation::Write(Token::new(0, 0)),
        Operation::Write(Token::new(u32::MAX, u32::MAX)),
        Operation::Timer,
        Operation::Cancel,
        Operation::Refuse(0),
        Operation::Refuse(255),
    ] {
        assert_eq!(Operation::from_user_data(operation.to_user_data()), operation);
        assert!(seen.insert(operation.to_user_data()), "no two are alike");
    }
}

#[test]
fn names_of_senders_are_read_and_others_are_none() {
    let v4 = SockAddr::from(SocketAddr::from(([1, 2, 3, 4], 0x1AE1)));
    let ip: Ipv6Addr = "fe80::7".parse().expect("v6");
    // The interface of a link-local sender is kept: without it, nobody there can be answered.
    let target = SocketAddr::from(SocketAddrV6::new(ip, 0x1AE1, 0, 7));
    for (address, expected) in [(v4, "1.2.3.4:6881".parse().expect("v4")), (target.into(), target)]
    {
        let len = usize::try_from(address.len()).expect("16 or 28");
        // SAFETY: `address` holds at least `len` initialised bytes of its structure.
        let bytes = unsafe { std::slice::from_raw_parts(address.as_ptr().cast::<u8>(), len) };
        assert_eq!(read_name(bytes), Some(expected));
        for cut in (0..len).filter(|&cut| cut != 16) {
            assert_eq!(read_name(&bytes[..cut]), None, "{cut} bytes");
        }
    }
}

#[test]
fn an_enter_that_only_came_too_early_is_no_error() {
    assert!(outcome_of_enter(Ok(3)).is_ok());
    for (errno, passes) in [
        (libc::EINTR, true),
        (libc::EAGAIN, true),
        (libc::EBUSY, true),
        (libc::ETIME, true),
        (libc::EPERM, false),
        (libc::EBADF, false),
        (libc::EBADFD, false),
        (libc::EEXIST, false),
        (libc::EFAULT, false),
        (libc::EINVAL, false),
        (libc::ENXIO, false),
        (libc::EOPNOTSUPP, false),
    ] {
        let outcome = outcome_of_enter(Err(io::Error::from_raw_os_error(errno)));
        assert_eq!(outcome.is_ok(), passes, "errno {errno}");
        if let Err(error) = outcome {
            assert_eq!(error.raw_os_error(), Some(errno), "the operator is told which");
        }
    }
}

#[test]
fn every_errno_of_a_completion_is_an_error_and_panics_nothing() {
    let mut ring =
        ring(Sizes { for_datagrams: Queues { submissions: 1, completions: 2 }, ..AMPLE });
    for errno in 1..=133 {
        for operation in [Operation::Datagram(0), Operation::Accept(0), Operation::Timer] {
            let completion = Completion { operation, result: -errno, flags: 0 };
            let error = completion.result().expect_err("negative");
            assert_eq!(error.raw_os_error(), Some(errno));
            assert!(!completion.goes_on());
            let (inbox, _) = ring.split();
            assert!(inbox.datagram(&completion).is_none());
            assert!(inbox.read_bytes(&completion).is_empty());
        }
        let refused = Completion { operation: Operation::Accept(0), result: -errno, flags: 0 };
        assert_eq!(refused.accepted().expect_err("no descriptor").raw_os_error(), Some(errno));
    }
}

// Datagrams.

#[test]
fn datagrams_are_answered_over_both_families() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let mut ring = ring(AMPLE);
        let (server, client) = (udp(address), client(address));
        ring.receive_datagrams(server.as_fd(), LISTENER);
        for len in [1, 16, 98, 1_000, UDP_REPLY_BYTES_MAX] {
            let payload: Vec<u8> =
                (0..len).map(|n| u8::try_from(n % 251).expect("a byte")).collect();
            client.send_to(&payload, local(&server)).expect("loopback");
            turn_until(&mut ring, "a datagram", |ring, completion| {
                if completion.operation != Operation::Datagram(LISTENER) {
                    return false;
                }
                assert!(completion.goes_on(), "one request receives many");
                let (inbox, mut outbox) = ring.split();
                let received = inbox.datagram(completion).expect("a datagram");
                assert_eq!((received.source, received.truncated), (local(&client), false));
                assert_eq!(received.bytes, payload);
                let reply = outbox.buffer().expect("a slot");
                reply[..len].copy_from_slice(received.bytes);
                outbox.send(server.as_fd(), received.source, len);
                ring.recycle(completion);
                true
            });
            turn_until(&mut ring, "a reply to leave", |ring, completion| {
                let Operation::Reply(slot) = completion.operation else { return false };
                assert_eq!(completion.result().expect("sent"), u32::try_from(len).expect("few"));
                ring.reply_sent(slot);
                true
            });
            let mut buffer = [0; 2_048];
            let (count, from) = client.recv_from(&mut buffer).expect("an answer");
            assert_eq!((&buffer[..count], from), (&payload[..], local(&server)));
        }
        assert_eq!(ring.in_flight(), 1, "the receive");
    }
}

#[test]
fn an_empty_datagram_ends_the_receive_without_an_error_and_costs_no_other() {
    let mut ring = ring(AMPLE);
    let (server, client) = (udp("127.0.0.1:0"), client("127.0.0.1:0"));
    for payload in [&b"before"[..], b"", b"", b"behind"] {
        client.send_to(payload, local(&server)).expect("loopback");
    }
    let (mut arrived, mut ends) = (Vec::new(), 0);
    ring.receive_datagrams(server.as_fd(), LISTENER);
    turn_until(&mut ring, "all four", |ring, completion| {
        let (inbox, _) = ring.split();
        let received = inbox.datagram(completion).expect("a datagram, empty or not");
        assert_eq!(received.source, local(&client));
        assert_eq!(completion.goes_on(), !received.bytes.is_empty());
        arrived.push(received.bytes.to_vec());
        ring.recycle(completion);
        if !completion.goes_on() {
            ends += 1;
            ring.receive_datagrams(server.as_fd(), LISTENER);
        }
        arrived.len() == 4
    });
    assert_eq!(arrived, [&b"before"[..], b"", b"", b"behind"]);
    assert_eq!((ends, ring.in_flight()), (2, 1));
}

#[test]
fn without_buffers_a_receive_ends_and_after_recycling_the_rest_arrives_once() {
    const DATAGRAMS: u32 = 40;
    let mut ring = ring(Sizes { datagrams: 2, ..AMPLE });
    let (server, client) = (udp("127.0.0.1:0"), client("127.0.0.1:0"));
    // All of them wait in the socket before the ring looks.
    for n in 0..DATAGRAMS {
        client.send_to(&n.to_be_bytes(), local(&server)).expect("loopback");
    }
    let (mut arrived, mut starved) = (Vec::new(), 0);
    while arrived.len() < DATAGRAMS as usize {
        ring.receive_datagrams(server.as_fd(), LISTENER);
        let mut held = Vec::new();
        turn_until(&mut ring, "the receive to end", |ring, completion| {
            let (inbox, _) = ring.split();
            if let Some(received) = inbox.datagram(completion) {
                arrived.push(number(received.bytes));
                held.push(*completion);
            } else {
                let error = completion.result().expect_err("no datagram, so an error");
                assert_eq!(error.raw_os_error(), Some(libc::ENOBUFS));
                assert!(!completion.goes_on(), "it must be armed again");
                assert!(completion.buffer().is_none());
                starved += 1;
            }
            !completion.goes_on() || arrived.len() == DATAGRAMS as usize
        });
        assert!(held.len() <= 2, "no more than there are buffers");
        if ring.in_flight() == 0 {
            // Nothing spins, and nothing is lost, while nobody arms it again.
            assert!(look(&mut ring).is_empty());
        }
        held.iter().for_each(|completion| ring.recycle(completion));
    }
    assert_eq!(arrived, (0..DATAGRAMS).collect::<Vec<_>>(), "each once, in order");
    assert!(starved >= DATAGRAMS / 2 - 1, "{starved} times");
}

#[test]
fn a_receive_that_is_armed_again_without_buffers_ends_again_and_no_more() {
    let mut ring = ring(Sizes { datagrams: 1, ..AMPLE });
    let (server, client) = (udp("127.0.0.1:0"), client("127.0.0.1:0"));
    for n in 0..3_u32 {
        client.send_to(&n.to_be_bytes(), local(&server)).expect("loopback");
    }
    let mut first = None;
    for round in 0..5 {
        ring.receive_datagrams(server.as_fd(), LISTENER);
        turn_until(&mut ring, "ENOBUFS", |_, completion| {
            if completion.result().is_ok() {
                assert_eq!(round, 0, "the only buffer is ours");
                first = Some(*completion);
            }
            !completion.goes_on()
        });
        assert_eq!((ring.in_flight(), look(&mut ring).len()), (0, 0), "round {round}");
    }
    ring.recycle(&first.expect("the first datagram"));
    ring.receive_datagrams(server.as_fd(), LISTENER);
    turn_until(&mut ring, "the second datagram", |ring, completion| {
        let (inbox, _) = ring.split();
        inbox.datagram(completion).is_some_and(|received| number(received.bytes) == 1)
    });
}

#[test]
fn buffers_go_round_many_times() {
    // More than 2^16 would take the tail of the shared ring around; so does its count here.
    const DATAGRAMS: u32 = 70_000;
    let mut ring = ring(Sizes { datagrams: 4, ..AMPLE });
    let (server, client) = (udp("127.0.0.1:0"), client("127.0.0.1:0"));
    ring.receive_datagrams(server.as_fd(), LISTENER);
    for n in 0..DATAGRAMS {
        client.send_to(&n.to_be_bytes(), local(&server)).expect("loopback");
        turn_until(&mut ring, "a datagram", |ring, completion| {
            let (inbox, _) = ring.split();
            let received = inbox.datagram(completion).expect("buffers suffice");
            assert_eq!(number(received.bytes), n);
            ring.recycle(completion);
            true
        });
    }
}

#[test]
fn datagrams_longer_than_the_buffer_are_marked_and_cut() {
    let room = DATAGRAM_BUFFER_BYTES - RECEIVED_HEAD_BYTES - NAME_BYTES;
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let mut ring = ring(AMPLE);
        let (server, client) = (udp(address), client(address));
        ring.receive_datagrams(server.as_fd(), LISTENER);
        for (len, truncated) in [
            (DATAGRAM_BYTES_MAX, false),
            (room, false),
            (room + 1, true),
            (room + 100, true),
            (9_000, true),
            (60_000, true),
            (98, false),
        ] {
            let payload: Vec<u8> =
                (0..len).map(|n| u8::try_from(n % 251).expect("a byte")).collect();
            client.send_to(&payload, local(&server)).expect("loopback");
            turn_until(&mut ring, "a datagram", |ring, completion| {
                assert!(completion.goes_on(), "a long datagram ends nothing");
                let (inbox, _) = ring.split();
                let received = inbox.datagram(completion).expect("the beginning of it");
                assert_eq!(received.truncated, truncated, "{len} bytes");
                assert_eq!(received.bytes, &payload[..len.min(room)]);
                assert_eq!(received.source, local(&client));
                ring.recycle(completion);
                true
            });
        }
    }
}

#[test]
fn reply_slots_are_bounded_and_come_back_with_the_completion() {
    let mut ring = ring(Sizes { replies: 2, ..AMPLE });
    let (server, client) = (udp("127.0.0.1:0"), client("127.0.0.1:0"));
    for round in 0..10_u32 {
        assert!(send(&mut ring, &server, local(&client), &round.to_be_bytes()));
        assert!(send(&mut ring, &server, local(&client), &round.to_be_bytes()));
        assert!(!send(&mut ring, &server, local(&client), b"none left"));
        let mut slots = BTreeSet::new();
        turn_until(&mut ring, "two replies", |ring, completion| {
            let Operation::Reply(slot) = completion.operation else { return false };
            assert!(slots.insert(slot), "each slot once");
            ring.reply_sent(slot);
            slots.len() == 2
        });
        let mut buffer = [0; 16];
        for _ in 0..2 {
            let count = client.recv(&mut buffer).expect("it was sent");
            assert_eq!(number(&buffer[..count]), round);
        }
    }
    assert_eq!(ring.in_flight(), 0);
}

#[test]
fn a_send_that_fails_gives_its_slot_back_all_the_same() {
    let mut ring = ring(Sizes { replies: 1, ..AMPLE });
    let server = udp("127.0.0.1:0");
    // An IPv6 target on an IPv4 socket; a port that nobody can have.
    for target in ["[::1]:9", "127.0.0.1:0"] {
        let target = target.parse().expect("an endpoint");
        assert!(send(&mut ring, &server, target, b"lost"));
        turn_until(&mut ring, "the failure", |ring, completion| {
            let Operation::Reply(slot) = completion.operation else { return false };
            assert!(completion.result().is_err(), "{target}");
            ring.reply_sent(slot);
            true
        });
    }
    assert_eq!(ring.in_flight(), 0);
}

// Queues that are too small.

#[test]
fn what_does_not_fit_the_submission_queue_waits_and_leaves_in_order() {
    const SENDS: u32 = 50;
    let mut ring = ring(Sizes { for_datagrams: Queues { submissions: 2, ..USUAL }, ..AMPLE });
    let (server, client) = (udp("127.0.0.1:0"), client("127.0.0.1:0"));
    for n in 0..SENDS {
        assert!(send(&mut ring, &server, local(&client), &n.to_be_bytes()));
    }
    assert_eq!(ring.in_flight(), SENDS as usize);
    assert_eq!(ring.for_datagrams.backlog.len(), SENDS as usize - 2, "all but the queue's two");
    assert!(ring.has_more(), "nobody may sleep on it");
    let mut slots = BTreeSet::new();
    turn_until(&mut ring, "all sends", |ring, completion| {
        let Operation::Reply(slot) = completion.operation else { return false };
        assert_eq!(completion.result().expect("sent"), 4);
        assert!(slots.insert(slot), "each once");
        ring.reply_sent(slot);
        slots.len() == SENDS as usize
    });
    assert_eq!((ring.in_flight(), ring.for_datagrams.backlog.len()), (0, 0));
    assert!(!ring.has_more());
    for n in 0..SENDS {
        let mut buffer = [0; 16];
        let count = client.recv(&mut buffer).expect("it was sent");
        assert_eq!(number(&buffer[..count]), n);
    }
}

#[test]
fn an_overflown_completion_queue_loses_nothing_and_is_reported() {
    const SENDS: u32 = 64;
    let mut ring =
        ring(Sizes { for_datagrams: Queues { submissions: 4, completions: 4 }, ..AMPLE });
    let (server, other) = (udp("127.0.0.1:0"), udp("127.0.0.1:0"));
    ring.receive_datagrams(other.as_fd(), LISTENER);
    for n in 0..SENDS {
        assert!(send(&mut ring, &server, local(&other), &n.to_be_bytes()));
    }
    let (mut slots, mut arrived) = (BTreeSet::new(), Vec::new());
    let overflown = turn_until(&mut ring, "all sends and receives", |ring, completion| {
        match completion.operation {
            Operation::Reply(slot) => {
                assert_eq!(completion.result().expect("sent"), 4);
                assert!(slots.insert(slot), "each once");
                ring.reply_sent(slot);
            }
            Operation::Datagram(LISTENER) => {
                let (inbox, _) = ring.split();
                if let Some(received) = inbox.datagram(completion) {
                    arrived.push(number(received.bytes));
                }
                ring.recycle(completion);
                // Running out of room for completions ends a multishot request too.
                if !completion.goes_on() {
                    ring.receive_datagrams(other.as_fd(), LISTENER);
                }
            }
            operation => panic!("nobody asked for {operation:?}"),
        }
        slots.len() == SENDS as usize && arrived.len() == SENDS as usize
    });
    assert!(overflown, "four places for 64 completions");
    assert_eq!(arrived, (0..SENDS).collect::<Vec<_>>(), "each once, in order");
    assert_eq!(ring.in_flight(), 1, "the receive");
    // The report ends with the overflow.
    let mut completions = Vec::new();
    assert!(!ring.enter(&mut completions).expect("no reason to refuse"));
    assert!(completions.is_empty());
}

// Connections.

#[test]
fn a_request_and_its_response_go_through_the_ring() {
    let mut ring = ring(AMPLE);
    let listener = listener();
    ring.accept(listener.as_fd(), LISTENER);
    let address = listener.local_addr().expect("it is bound");
    for generation in 0..3 {
        let mut peer = TcpStream::connect(address).expect("the backlog takes it");
        peer.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let stream = accepted(&mut ring);
        let token = Token::new(7, generation);
        peer.write_all(b"GET /").expect("loopback");
        assert_eq!(read_all(&mut ring, &stream, token, 5), b"GET /");
        ring.write(stream.as_raw_fd(), token, b"xxHTTP/1.1 200 OK".to_vec(), 2..17);
        turn_until(&mut ring, "the write", |ring, completion| {
            assert_eq!(completion.operation, Operation::Write(token));
            assert_eq!(completion.result().expect("written"), 15);
            assert_eq!(ring.take_written(token), b"xxHTTP/1.1 200 OK");
            true
        });
        let mut buffer = [0; 15];
        peer.read_exact(&mut buffer).expect("all of it");
        assert_eq!(&buffer, b"HTTP/1.1 200 OK");
        // The end of the stream is a read of no bytes.
        peer.shutdown(Shutdown::Write).expect("a half close");
        assert_eq!(read_all(&mut ring, &stream, token, 1), b"");
    }
    assert_eq!(ring.in_flight(), 1, "the accept goes on");
}

/// Connections of which each reads, and the other ends.
fn readers(ring: &mut Ring, count: u32) -> Vec<(OwnedFd, TcpStream)> {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback address");
    let address = listener.local_addr().expect("it is bound");
    let open = |slot| {
        let peer = TcpStream::connect(address).expect("the backlog takes it");
        let stream = OwnedFd::from(listener.accept().expect("it is there").0);
        ring.read(stream.as_raw_fd(), Token::new(slot, 0), true);
        (stream, peer)
    };
    (0..count).map(open).collect()
}

#[test]
fn a_datagram_waits_for_nothing_that_came_to_connections_before_it() {
    let mut ring = ring(Sizes { streams: 64, ..AMPLE });
    let (server, client) = (udp("127.0.0.1:0"), client("127.0.0.1:0"));
    ring.receive_datagrams(server.as_fd(), LISTENER);
    let mut connections = readers(&mut ring, 60);
    let nothing = look(&mut ring);
    assert!(nothing.is_empty(), "all of them wait: {nothing:?}");
    ring.notify(false);
    for (_, peer) in &mut connections {
        peer.write_all(b"first").expect("loopback");
    }
    client.send_to(b"second", local(&server)).expect("loopback");
    let (mut completions, give_up) = (Vec::new(), Instant::now() + PATIENCE);
    while completions.is_empty() {
        assert!(Instant::now() < give_up, "the datagram does not come");
        ring.enter_for_datagrams(&mut completions).expect("no reason to refuse");
    }
    let operations: Vec<Operation> =
        completions.iter().map(|completion| completion.operation).collect();
    assert_eq!(operations, [Operation::Datagram(LISTENER)]);
    assert!(ring.has_more_for_connections(), "they have come all the same");
    let entered = ring.enters();
    ring.enter_for_datagrams(&mut completions).expect("no reason to refuse");
    assert_eq!(ring.enters(), entered, "without a reason the kernel is not entered");
}

#[test]
fn an_enter_hands_over_few_requests_of_connections_and_leaves_the_others() {
    let mut ring = ring(AMPLE);
    let connections = readers(&mut ring, 60);
    look(&mut ring);
    ring.notify(false);
    for ((stream, _), slot) in connections.iter().zip(0..) {
        ring.write(stream.as_raw_fd(), Token::new(slot, 0), b"an answer".to_vec(), 0..9);
    }
    let mut completions = Vec::new();
    for enters in 1..=60_usize.div_ceil(SUBMISSIONS_MAX as usize) {
        assert!(ring.has_more(), "nobody may sleep on it");
        ring.enter_for_connections(&mut completions).expect("no reason to refuse");
        assert_eq!(completions.len(), 60.min(enters * SUBMISSIONS_MAX as usize));
    }
    assert!(!ring.has_more());
    for (completion, slot) in completions.iter().zip(0..) {
        assert_eq!(completion.operation, Operation::Write(Token::new(slot, 0)), "in order");
        ring.take_written(Token::new(slot, 0));
    }
}

#[test]
fn a_request_longer_than_a_buffer_comes_in_pieces_and_in_order() {
    let mut ring = ring(Sizes { streams: 1, ..AMPLE });
    let listener = listener();
    ring.accept(listener.as_fd(), LISTENER);
    let address = listener.local_addr().expect("it is bound");
    let mut peer = TcpStream::connect(address).expect("the backlog takes it");
    let stream = accepted(&mut ring);
    let sent: Vec<u8> = (0..30_000_u32).flat_map(u32::to_be_bytes).collect();
    let copy = sent.clone();
    let writer = thread::spawn(move || {
        peer.write_all(&copy).expect("the ring reads it");
        peer
    });
    assert_eq!(read_all(&mut ring, &stream, Token::new(0, 1), sent.len()), sent);
    drop(writer.join().expect("it wrote"));
}

#[test]
fn a_read_without_a_buffer_fails_and_works_again_after_recycling() {
    let mut ring = ring(Sizes { streams: 1, ..AMPLE });
    let listener = listener();
    ring.accept(listener.as_fd(), LISTENER);
    let address = listener.local_addr().expect("it is bound");
    let mut peers: Vec<TcpStream> = Vec::new();
    let mut streams = Vec::new();
    for n in 0..2 {
        let mut peer = TcpStream::connect(address).expect("the backlog takes it");
        streams.push(accepted(&mut ring));
        peer.write_all(&[b'a' + n]).expect("loopback");
        peers.push(peer);
    }
    let tokens = [Token::new(0, 1), Token::new(1, 1)];
    ring.read(streams[0].as_raw_fd(), tokens[0], false);
    let mut first = None;
    turn_until(&mut ring, "the first read", |ring, completion| {
        assert_eq!(ring.split().0.read_bytes(completion), b"a");
        first = Some(*completion);
        true
    });
    ring.read(streams[1].as_raw_fd(), tokens[1], false);
    turn_until(&mut ring, "the second read", |ring, completion| {
        let error = completion.result().expect_err("the only buffer is ours");
        assert_eq!(error.raw_os_error(), Some(libc::ENOBUFS));
        assert_eq!(completion.operation, Operation::Read(tokens[1]));
        assert_eq!(ring.split().0.read_bytes(completion), b"");
        ring.recycle(completion);
        true
    });
    ring.recycle(&first.expect("it came"));
    assert_eq!(read_all(&mut ring, &streams[1], tokens[1], 1), b"b", "it was not lost");
}

#[test]
fn a_response_larger_than_the_send_buffer_arrives_whole() {
    let mut ring = ring(AMPLE);
    let listener = listener();
    ring.accept(listener.as_fd(), LISTENER);
    let address = listener.local_addr().expect("it is bound");
    let mut peer = TcpStream::connect(address).expect("the backlog takes it");
    SockRef::from(&peer).set_recv_buffer_size(2_304).expect("the kernel's least");
    let stream = accepted(&mut ring);
    SockRef::from(&stream).set_send_buffer_size(2_304).expect("the kernel's least");
    let sent: Vec<u8> = (0..25_000_u32).flat_map(u32::to_be_bytes).collect();
    let expected = sent.clone();
    let reader = thread::spawn(move || {
        let mut all = Vec::new();
        peer.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        peer.read_to_end(&mut all).expect("up to the end");
        all
    });
    let (token, mut from, mut writes) = (Token::new(3, 1), 0, 0);
    ring.write(stream.as_raw_fd(), token, sent, 0..100_000);
    turn_until(&mut ring, "all of it to leave", |ring, completion| {
        if completion.operation != Operation::Write(token) {
            return false;
        }
        let count = completion.result().expect("the reader reads");
        assert!(count > 0);
        writes += 1;
        from += usize::try_from(count).expect("64 bits");
        let buffer = ring.take_written(token);
        let done = from == buffer.len();
        if !done {
            ring.write(stream.as_raw_fd(), token, buffer, from..100_000);
        }
        done
    });
    drop(stream);
    assert_eq!(writes, 1, "MSG_WAITALL: the kernel goes on by itself after a short write");
    assert!(reader.join().expect("it read") == expected, "byte for byte");
}

#[test]
fn the_rest_of_a_response_can_begin_at_any_byte() {
    let mut ring = ring(AMPLE);
    let listener = listener();
    ring.accept(listener.as_fd(), LISTENER);
    let address = listener.local_addr().expect("it is bound");
    let mut peer = TcpStream::connect(address).expect("the backlog takes it");
    peer.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let stream = accepted(&mut ring);
    let (token, response) = (Token::new(0, 1), b"d8:intervali1800e5:peers0:e".to_vec());
    for from in 0..response.len() {
        ring.write(stream.as_raw_fd(), token, response.clone(), from..response.len());
        turn_until(&mut ring, "the write", |ring, completion| {
            assert_eq!(completion.operation, Operation::Write(token));
            assert_eq!(ring.take_written(token), response);
            true
        });
        let mut rest = vec![0; response.len() - from];
        peer.read_exact(&mut rest).expect("all of it");
        assert_eq!(rest, &response[from..]);
    }
}

#[test]
fn a_reader_that_goes_away_ends_the_write_and_its_buffer_comes_back() {
    let mut ring = ring(AMPLE);
    let listener = listener();
    ring.accept(listener.as_fd(), LISTENER);
    let address = listener.local_addr().expect("it is bound");
    let mut peer = TcpStream::connect(address).expect("the backlog takes it");
    let stream = accepted(&mut ring);
    let token = Token::new(0, 1);
    let bytes = vec![7; 64 << 20];
    ring.write(stream.as_raw_fd(), token, bytes, 0..64 << 20);
    assert!(look(&mut ring).is_empty(), "it waits for its reader");
    peer.read_exact(&mut [0; 1_000]).expect("some of it");
    // It has not read everything, so this resets the connection.
    drop(peer);
    turn_until(&mut ring, "the write to end", |ring, completion| {
        if completion.operation != Operation::Write(token) {
            return false;
        }
        let whole = completion.result().is_ok_and(|count| count == 64 << 20);
        assert!(!whole, "nobody read it");
        assert_eq!(ring.take_written(token).len(), 64 << 20);
        true
    });
    assert_eq!(ring.in_flight(), 1, "the accept");
}

// Ends.

#[test]
fn cancelling_a_socket_ends_its_receive_and_frees_its_port() {
    let mut ring = ring(AMPLE);
    let (socket, other) = (udp("127.0.0.1:0"), udp("127.0.0.1:0"));
    let address = local(&socket);
    ring.receive_datagrams(socket.as_fd(), 1);
    ring.receive_datagrams(other.as_fd(), 2);
    assert!(look(&mut ring).is_empty(), "both wait");
    ring.cancel_receive(socket.as_fd());
    let (mut ended, mut cancelled) = (false, false);
    turn_until(&mut ring, "the end", |_, completion| {
        match completion.operation {
            Operation::Datagram(1) => {
                let error = completion.result().expect_err("it was cancelled");
                assert_eq!(error.raw_os_error(), Some(libc::ECANCELED));
                assert!(!completion.goes_on());
                ended = true;
            }
            Operation::Cancel => cancelled = true,
            operation => panic!("{operation:?} was not meant"),
        }
        ended && cancelled
    });
    assert_eq!(ring.in_flight(), 1, "the other socket's receive");
    drop(socket);
    UdpSocket::bind(address).expect("nobody holds the port, though the ring lives");
}

#[test]
fn cancelling_a_listener_ends_its_accept_and_frees_its_port() {
    let mut ring = ring(AMPLE);
    let listener = listener();
    let address = listener.local_addr().expect("it is bound");
    ring.accept(listener.as_fd(), LISTENER);
    assert!(look(&mut ring).is_empty(), "it waits");
    ring.cancel_accepts(listener.as_fd());
    turn_until(&mut ring, "the end", |_, completion| {
        completion.operation == Operation::Accept(LISTENER)
            && completion.accepted().is_err()
            && !completion.goes_on()
    });
    drop(listener);
    TcpListener::bind(address).expect("nobody holds the port, though the ring lives");
}

#[test]
fn refused_connections_are_reset_without_a_descriptor_until_cancelled() {
    let mut ring = ring(AMPLE);
    let listener = listener();
    let address = listener.local_addr().expect("it is bound");
    let client = || TcpStream::connect(address).expect("it listens");
    // Twice as many as have room in the table, and never all at once.
    let (mut clients, mut resets) = (Vec::new(), true);
    for _ in 0..4 {
        clients.extend((0..REFUSALS / 2).map(|_| client()));
        let (mut refused, mut ended) = (0, 0);
        ring.refuse(listener.as_fd(), LISTENER);
        turn_until(&mut ring, "refusals", |ring, completion| {
            match completion.operation {
                Operation::Refuse(LISTENER) if completion.result().is_ok() => {
                    assert!(completion.goes_on());
                    refused += 1;
                    ring.close_refused(completion);
                }
                Operation::Cancel => {
                    ended += 1;
                    resets &= completion.result().is_ok();
                }
                _ => panic!("{completion:?}"),
            }
            // Each is told how to close, and closed.
            (refused, ended) == (REFUSALS / 2, REFUSALS)
        });
        ring.cancel_accepts(listener.as_fd());
        turn_until(&mut ring, "the end", |_, completion| {
            completion.operation == Operation::Refuse(LISTENER)
                && completion.result().is_err()
                && !completion.goes_on()
        });
        look(&mut ring);
    }
    for mut client in clients {
        client.set_read_timeout(Some(PATIENCE)).expect("an option");
        let end = client.read(&mut [0]).map_err(|error| error.kind());
        // Old kernels do not know how to be told.
        let expected = if resets { Err(io::ErrorKind::ConnectionReset) } else { Ok(0) };
        assert_eq!(end, expected);
    }
    assert_eq!(ring.in_flight(), 0);
}

#[test]
fn cancelling_what_is_not_there_is_harmless() {
    let mut ring = ring(AMPLE);
    let socket = udp("127.0.0.1:0");
    ring.cancel_receive(socket.as_fd());
    turn_until(&mut ring, "the answer", |_, completion| completion.operation == Operation::Cancel);
    assert_eq!(ring.in_flight(), 0);
}

/// Bytes of a write that nobody reads: more than the socket buffers of both sides together.
const WRITE_BYTES: usize = 1 << 20;

/// A ring with a request of every kind in flight, and what they are about.
fn busy_ring() -> (Ring, (UdpSocket, TcpListener, OwnedFd, TcpStream)) {
    let mut ring = ring(AMPLE);
    let (socket, listener) = (udp("127.0.0.1:0"), listener());
    let peer = TcpStream::connect(listener.local_addr().expect("bound")).expect("the backlog");
    ring.accept(listener.as_fd(), LISTENER);
    let stream = accepted(&mut ring);
    SockRef::from(&peer).set_recv_buffer_size(2_304).expect("the kernel's least");
    SockRef::from(&stream).set_send_buffer_size(2_304).expect("the kernel's least");
    ring.receive_datagrams(socket.as_fd(), LISTENER);
    ring.start_timer(Duration::from_secs(3_600));
    ring.read(stream.as_raw_fd(), Token::new(0, 1), true);
    ring.write(stream.as_raw_fd(), Token::new(0, 1), vec![7; WRITE_BYTES], 0..WRITE_BYTES);
    assert!(look(&mut ring).is_empty(), "everything waits");
    assert_eq!(ring.in_flight(), 5);
    (ring, (socket, listener, stream, peer))
}

#[test]
fn a_ring_drains_with_requests_of_every_kind_in_flight() {
    let (mut ring, _held) = busy_ring();
    assert!(ring.drain(), "all of them have ended");
    assert_eq!(ring.in_flight(), 0);
    // And again, when there is nothing to end.
    assert!(ring.drain());
}

#[test]
fn dropping_a_busy_ring_is_quick_and_frees_its_sockets() {
    let (ring, (socket, listener, stream, mut peer)) = busy_ring();
    let (udp_address, tcp_address) = (local(&socket), listener.local_addr().expect("bound"));
    let began = Instant::now();
    drop(ring);
    assert!(began.elapsed() < PATIENCE);
    drop((socket, listener, stream));
    // The kernel kept no reference: the ports are free, and the connection is closed.
    UdpSocket::bind(udp_address).expect("free at once");
    peer.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let mut rest = Vec::new();
    let end = peer.read_to_end(&mut rest);
    let timed_out = end.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
    assert!(!timed_out && rest.len() < WRITE_BYTES);
    drop(peer);
    SockRef::from(&socket2::Socket::from(rebind(tcp_address))).listen(1).expect("free at once");
}

/// Binds as a server does that comes back while its old connections are in TIME_WAIT.
fn rebind(address: SocketAddr) -> TcpListener {
    let (domain, kind) = (socket2::Domain::for_address(address), socket2::Type::STREAM);
    let socket = socket2::Socket::new(domain, kind, None).expect("a socket");
    socket.set_reuse_address(true).expect("an option");
    socket.bind(&address.into()).expect("free at once");
    socket.into()
}

#[test]
fn dropping_a_ring_that_was_never_entered_ends_what_it_held_back() {
    let socket = udp("127.0.0.1:0");
    let address = local(&socket);
    let mut ring = ring(Sizes { for_datagrams: Queues { submissions: 1, ..USUAL }, ..AMPLE });
    for listener in 0..20 {
        ring.receive_datagrams(socket.as_fd(), listener);
    }
    assert_eq!(ring.for_datagrams.backlog.len(), 19);
    assert!(ring.drain());
    drop(ring);
    drop(socket);
    UdpSocket::bind(address).expect("free at once");
}

#[test]
fn a_connection_accepted_while_the_ring_is_dropped_is_closed() {
    let listener = listener();
    let mut peer = TcpStream::connect(listener.local_addr().expect("bound")).expect("the backlog");
    let mut ring = ring(AMPLE);
    // Not submitted before the drop, which accepts what waits and then cancels the rest.
    ring.accept(listener.as_fd(), LISTENER);
    drop(ring);
    drop(listener);
    peer.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let end = peer.read_to_end(&mut Vec::new());
    let open = end.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
    assert!(!open, "nobody could ever answer or close it");
}

#[test]
fn many_rings_leave_nothing_behind() {
    let descriptors = || std::fs::read_dir("/proc/self/fd").expect("Linux").count();
    let round = || drop(busy_ring());
    round();
    let before = descriptors();
    for _ in 0..200 {
        round();
    }
    // Other tests of this process open and close their own, but not as many as one for each round.
    assert!(descriptors() < before + 150, "{before} before, {} after", descriptors());
}

// Sleep.

#[test]
fn the_eventfd_is_written_only_while_notifications_are_on() {
    let mut ring = ring(AMPLE);
    let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).expect("an eventfd");
    ring.register_eventfd(event.as_fd()).expect("a fresh ring");
    assert!(ring.register_eventfd(event.as_fd()).is_err(), "one only");
    let (server, client) = (udp("127.0.0.1:0"), client("127.0.0.1:0"));
    let readable = |patience: Duration| {
        let mut fds = [PollFd::new(&event, PollFlags::IN)];
        let patience = patience.try_into().expect("seconds");
        let ready = poll(&mut fds, Some(&patience)).expect("no signal") == 1;
        if ready {
            rustix::io::read(&event, &mut [0_u8; 8]).expect("it counts");
        }
        ready
    };
    ring.notify(false);
    ring.receive_datagrams(server.as_fd(), LISTENER);
    look(&mut ring);
    let arrive = |ring: &mut Ring| {
        turn_until(ring, "a datagram", |ring, completion| {
            ring.recycle(completion);
            completion.operation == Operation::Datagram(LISTENER)
        });
    };
    for _ in 0..3 {
        client.send_to(b"unheard", local(&server)).expect("loopback");
        arrive(&mut ring);
        assert!(!readable(Duration::ZERO), "off");
        ring.notify(true);
        client.send_to(b"heard", local(&server)).expect("loopback");
        assert!(readable(PATIENCE), "on");
        arrive(&mut ring);
        ring.notify(false);
        readable(Duration::ZERO);
    }
}

#[test]
fn when_a_ring_has_no_more_everything_ready_has_been_reaped() {
    const SOCKETS: u8 = 100;
    let mut ring = ring(Sizes { datagrams: 128, ..AMPLE });
    let client = client("127.0.0.1:0");
    let sockets: Vec<UdpSocket> = (0..SOCKETS).map(|_| udp("127.0.0.1:0")).collect();
    for (socket, listener) in sockets.iter().zip(0..) {
        ring.receive_datagrams(socket.as_fd(), listener);
    }
    assert!(look(&mut ring).is_empty(), "all of them wait");
    for round in 0..5 {
        for socket in &sockets {
            client.send_to(&[round], local(socket)).expect("loopback");
            let mut fds = [PollFd::new(socket, PollFlags::IN)];
            assert_eq!(poll(&mut fds, None).expect("no signal"), 1, "it is there");
        }
        // As much deferred work as there are sockets: more than the kernel does in one enter. The
        // last wake-up may be a moment behind its datagram.
        thread::sleep(Duration::from_millis(5));
        let mut completions = Vec::new();
        loop {
            ring.enter(&mut completions).expect("no reason to refuse");
            if !ring.has_more() {
                break;
            }
        }
        let heard: BTreeSet<u64> =
            completions.iter().map(|completion| completion.operation.to_user_data()).collect();
        assert_eq!(heard.len(), usize::from(SOCKETS), "before anybody sleeps");
        completions.iter().for_each(|completion| ring.recycle(completion));
    }
}

#[test]
fn the_timer_runs_out_once_and_not_early() {
    let mut ring = ring(AMPLE);
    for after in [Duration::from_millis(1), Duration::from_millis(30)] {
        let began = Instant::now();
        ring.start_timer(after);
        turn_until(&mut ring, "the timer", |_, completion| {
            assert_eq!(completion.operation, Operation::Timer);
            true
        });
        assert!(began.elapsed() >= after);
        assert_eq!(ring.in_flight(), 0);
    }
}

// Threads.

/// `IS_SEND` of a type that is not `Send`.
trait NotSend {
    const IS_SEND: bool = false;
}
impl<T> NotSend for Ask<T> {}

/// Asks whether `T` is `Send`: its own constant hides the trait's, if it exists.
struct Ask<T>(PhantomData<T>);
impl<T: Send> Ask<T> {
    const IS_SEND: bool = true;
}

#[test]
fn a_ring_cannot_leave_its_thread() {
    const { assert!(Ask::<OwnedFd>::IS_SEND) };
    const { assert!(!Ask::<Ring>::IS_SEND) };
}

/// A ring that is taken to another thread against the rules.
struct Smuggled(Ring);

// SAFETY: none in general, which is the point. The test that uses it never lets two threads touch
// the ring at once, and its memory does not belong to a thread.
unsafe impl Send for Smuggled {}

#[test]
fn the_kernel_refuses_a_ring_to_other_threads() {
    let mut smuggled = Smuggled(ring(AMPLE));
    smuggled.0.start_timer(Duration::ZERO);
    let stranger = thread::spawn(move || {
        let mut smuggled = smuggled;
        let refused = smuggled.0.enter(&mut Vec::new()).expect_err("not its thread");
        (smuggled, refused.raw_os_error())
    });
    let (mut back, errno) = stranger.join().expect("no panic");
    assert_eq!(errno, Some(libc::EEXIST));
    turn_until(&mut back.0, "the timer", |_, completion| completion.operation == Operation::Timer);
}

#[test]
fn a_ring_that_is_dropped_where_it_cannot_be_entered_leaks_and_does_not_hang() {
    let socket = udp("127.0.0.1:0");
    let mut smuggled = Smuggled(ring(AMPLE));
    smuggled.0.receive_datagrams(socket.as_fd(), LISTENER);
    assert!(look(&mut smuggled.0).is_empty());
    let began = Instant::now();
    let stranger = thread::spawn(move || {
        let mut smuggled = smuggled;
        assert!(!smuggled.0.drain(), "the kernel does not listen to this thread");
        drop(smuggled);
    });
    stranger.join().expect("no panic");
    assert!(began.elapsed() < PATIENCE);
}
