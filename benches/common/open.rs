//! An open loop of UDP announces: sent at a rate, whatever comes back.
//!
//! One thread. The datagrams lie ready, and of those that are due the kernel cuts up to 64 out of
//! one call, which is how one CPU can offer ten times of what another one serves. Transaction ids
//! carry the time at which the datagram was due and a mark, so a reply tells its own latency and
//! nothing is remembered per request. Every reply must be right in all its counts.

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::net::sockopt;
use throng::load::batch::{BATCH, Batch, cut_into_datagrams};
use throng::rng::Rng;
use throng::wire::id::{ConnectionId, TransactionId};
use throng::wire::udp::{self, ANNOUNCE_BYTES};

use super::load::{self, PORT, SOCKETS, Server, Shape};
use super::{announce, hash};

/// Datagrams that lie ready in each socket; whole batches.
const READY: usize = 256 * BATCH;
/// Datagrams due at once, beyond which a sender that is late gives some up: nanoseconds of the
/// rate.
pub const LAG_NANOS: u64 = 10_000_000;
/// What a tick of a transaction id is; 24 bits of them are 167 seconds.
const TICK_NANOS: u64 = 10_000;
/// Sends between two looks elsewhere, if there is always something to send.
const SENDS_PER_LOOK: u32 = 8;
/// Between two readings of what has come back: then there is a batch of it in each socket.
const READ_EVERY: Duration = Duration::from_micros(500);
/// Bytes that a socket should hold of what has come back; capped by the kernel.
const RECEIVE_BUFFER_BYTES: usize = 8 << 20;
/// After so long without a reply none is on its way.
const QUIET: Duration = Duration::from_millis(150);
/// How long the last replies may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// What nobody answers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Junk {
    /// Announces with a connection id that was not given out.
    WrongId,
    /// Random bytes, as many as an announce has.
    Garbage,
}

/// What to send, and for how long.
#[derive(Clone, Copy)]
pub struct Plan {
    /// Announces a second.
    pub announces: u64,
    /// Junk a second.
    pub junk: u64,
    pub length: Duration,
}

/// What came of it.
pub struct Outcome {
    /// Announces that were sent, and junk.
    pub sent: [u64; 2],
    /// Right answers that came before the end of the sending.
    pub answers: u64,
    /// And after it.
    pub late_answers: u64,
    /// Microseconds from when an announce was due to when its answer was read.
    pub latency: Histogram<u64>,
    pub began: Instant,
    pub elapsed: Duration,
}

/// The sender.
pub struct Open {
    shape: Shape,
    announces: Stream,
    junk: Stream,
    received: Batch,
}

/// Sockets that take turns.
struct Stream {
    sources: Vec<Source>,
    turn: usize,
}

struct Source {
    socket: UdpSocket,
    datagrams: Vec<u8>,
    /// The next one.
    at: usize,
}

/// How much of a rate has been sent.
struct Pace {
    per_second: u64,
    /// Sent or given up.
    scheduled: u64,
    sent: u64,
}

impl Open {
    /// Sockets that talk to `server`, whose swarms are full.
    pub fn new(server: SocketAddr, shape: Shape) -> Self {
        let announces = (0..SOCKETS).map(|number| Source::announces(number, server, shape, None));
        let announces = Stream { sources: announces.collect(), turn: 0 };
        let junk = Stream { sources: Vec::new(), turn: 0 };
        Self { shape, announces, junk, received: Batch::new() }
    }

    /// From now on junk is of this kind.
    pub fn set_junk(&mut self, server: SocketAddr, kind: Junk) {
        let source = |number| match kind {
            Junk::WrongId => {
                Source::announces(number, server, self.shape, Some(ConnectionId([9; 8])))
            }
            Junk::Garbage => Source::garbage(number, server),
        };
        self.junk = Stream { sources: (0..SOCKETS).map(source).collect(), turn: 0 };
    }

    /// Sends as planned, calls `look` once in a while, and reads what comes back meanwhile.
    pub fn run(&mut self, plan: &Plan, mut look: impl FnMut(Instant)) -> Outcome {
        let began = Instant::now();
        let mut outcome = Outcome {
            sent: [0; 2],
            answers: 0,
            late_answers: 0,
            latency: Histogram::new_with_max(200_000_000, 3).expect("a little above 167 seconds"),
            began,
            elapsed: Duration::ZERO,
        };
        let mut announces = Pace::new(plan.announces);
        let mut junk = Pace::new(plan.junk);
        let (mut sends, mut read) = (0, began);
        loop {
            let now = Instant::now();
            outcome.elapsed = now - began;
            if outcome.elapsed >= plan.length {
                break;
            }
            let nanos = nanos(outcome.elapsed);
            let idle = !self.announces.send_due(&mut announces, nanos)
                & !self.junk.send_due(&mut junk, nanos);
            sends += 1;
            if idle || sends >= SENDS_PER_LOOK {
                sends = 0;
                look(now);
                if now - read >= READ_EVERY {
                    read = now;
                    outcome.answers += self.receive(began, &mut outcome.latency);
                }
            }
        }
        outcome.sent = [announces.sent, junk.sent];
        outcome
    }

    /// Waits for the answers that are still on their way.
    pub fn wait(&mut self, outcome: &mut Outcome) {
        let ended = Instant::now();
        let mut last = ended;
        while last.elapsed() < QUIET && ended.elapsed() < PATIENCE {
            let more = self.receive(outcome.began, &mut outcome.latency);
            outcome.late_answers += more;
            if more > 0 {
                last = Instant::now();
            } else {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }

    /// Reads what has come; returns how much that was.
    fn receive(&mut self, began: Instant, latency: &mut Histogram<u64>) -> u64 {
        let mut answers = 0;
        for source in &self.announces.sources {
            loop {
                let count = match self.received.receive(&source.socket) {
                    Ok(count) => count,
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}");
                        break;
                    }
                };
                let now = tick(nanos(began.elapsed()));
                for at in 0..count {
                    let bytes = self.received.bytes(at);
                    // Who asked is not remembered: none of the peers is excluded.
                    let closely = answers % 256 == 0;
                    load::check(self.shape, Server::Full, closely.then_some(u32::MAX), bytes);
                    let id = u32::from_be_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
                    assert_eq!(id, marked(id >> 8), "an id that was never sent");
                    let ticks = now.wrapping_sub(id >> 8) & 0xFF_FFFF;
                    latency.saturating_record(u64::from(ticks) * (TICK_NANOS / 1_000));
                    answers += 1;
                }
                if count < BATCH {
                    break;
                }
            }
        }
        answers
    }
}

impl Stream {
    /// Sends a batch if one is due; returns whether it was.
    fn send_due(&mut self, pace: &mut Pace, nanos: u64) -> bool {
        let batch = pace.batch();
        if pace.due(nanos) < batch {
            return false;
        }
        let turn = self.turn;
        self.turn = (turn + 1) % self.sources.len();
        let source = &mut self.sources[turn];
        let count = usize::try_from(batch).expect("at most a batch");
        if source.at + count > READY {
            source.at = 0;
        }
        let bytes = &mut source.datagrams[source.at * ANNOUNCE_BYTES..][..count * ANNOUNCE_BYTES];
        for (datagram, number) in bytes.chunks_exact_mut(ANNOUNCE_BYTES).zip(pace.scheduled..) {
            let due = number * 1_000_000_000 / pace.per_second;
            datagram[12..16].copy_from_slice(&marked(tick(due)).to_be_bytes());
        }
        // Loopback takes what it is given, and drops what the other side has no room for.
        assert_eq!(source.socket.send(bytes).expect("loopback takes it"), bytes.len());
        source.at += count;
        pace.scheduled += batch;
        pace.sent += batch;
        true
    }
}

impl Source {
    fn new(number: u32, server: SocketAddr, datagrams: Vec<u8>) -> Self {
        let socket = load::socket(number, server);
        let _ = sockopt::set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER_BYTES)
            .or_else(|_| sockopt::set_socket_recv_buffer_size(&socket, RECEIVE_BUFFER_BYTES));
        Self { socket, datagrams, at: 0 }.cut()
    }

    fn cut(self) -> Self {
        let bytes = u16::try_from(ANNOUNCE_BYTES).expect("98");
        cut_into_datagrams(&self.socket, bytes).expect("Linux 4.18 or later");
        self
    }

    /// Announces of any leechers of this source, with its own connection id or that one.
    fn announces(number: u32, server: SocketAddr, shape: Shape, id: Option<ConnectionId>) -> Self {
        let id = id.unwrap_or_else(|| load::connect(&load::socket(number, server)));
        let mut rng = Rng::new(u64::from(number) + 77);
        let mut datagrams = vec![0; READY * ANNOUNCE_BYTES];
        for datagram in datagrams.chunks_exact_mut(ANNOUNCE_BYTES) {
            let (swarm, peer) = shape.leecher(number, &mut rng);
            let port = PORT + u16::try_from(peer).expect("a few peers");
            let info_hash = hash::info_hash(swarm);
            let announce = announce::announce(info_hash, port, false, shape.num_want);
            udp::write_announce_request(datagram, id, TransactionId([0; 4]), &announce);
        }
        Self::new(number, server, datagrams)
    }

    fn garbage(number: u32, server: SocketAddr) -> Self {
        let mut rng = Rng::new(u64::from(number) + 99);
        let mut datagrams = vec![0; READY * ANNOUNCE_BYTES];
        for word in datagrams.as_chunks_mut::<8>().0 {
            *word = rng.next_u64().to_be_bytes();
        }
        Self::new(number, server, datagrams)
    }
}

impl Pace {
    const fn new(per_second: u64) -> Self {
        Self { per_second, scheduled: 0, sent: 0 }
    }

    /// Datagrams of one call: as many as are due within 0.4 ms.
    fn batch(&self) -> u64 {
        (self.per_second / 2_500).clamp(1, BATCH as u64)
    }

    /// How many are due, after those have been given up that are too late.
    fn due(&mut self, nanos: u64) -> u64 {
        let target = |nanos: u64| nanos * self.per_second / 1_000_000_000;
        self.scheduled = self.scheduled.max(target(nanos.saturating_sub(LAG_NANOS)));
        target(nanos).saturating_sub(self.scheduled)
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).expect("a few seconds")
}

/// 24 bits of time.
fn tick(nanos: u64) -> u32 {
    u32::try_from((nanos / TICK_NANOS) & 0xFF_FFFF).expect("24 bits")
}

/// A tick and eight bits that follow from it.
const fn marked(tick: u32) -> u32 {
    tick << 8 | tick.wrapping_mul(0x9E37_79B1) >> 24
}

/// The bytes that one announce takes in a socket's queue.
///
/// # Panics
/// If the kernel does not tell.
pub fn bytes_queued_each() -> u64 {
    let receiver = UdpSocket::bind(("127.0.0.1", 0)).expect("a free port");
    let address = receiver.local_addr().expect("it is bound");
    let socket = UdpSocket::bind(("127.0.0.1", 0)).expect("a free port");
    socket.connect(address).expect("loopback");
    let source = Source { socket, datagrams: vec![1; BATCH * ANNOUNCE_BYTES], at: 0 }.cut();
    source.socket.send(&source.datagrams).expect("loopback takes it");
    let (bytes, _) = queue(address.port());
    assert!(bytes > 0, "they are queued");
    bytes / BATCH as u64
}

/// Bytes queued at the IPv4 sockets of a port, and datagrams dropped there.
///
/// # Panics
/// If the kernel does not tell.
pub fn queue(port: u16) -> (u64, u64) {
    let text = std::fs::read_to_string("/proc/net/udp").expect("Linux");
    let end = format!(":{port:04X}");
    let (mut bytes, mut drops) = (0, 0);
    for line in text.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, local, _, _, queues, .., dropped] = fields[..] else { continue };
        if local.ends_with(&end) {
            let queued = queues.split_once(':').map(|(_, queued)| u64::from_str_radix(queued, 16));
            bytes += queued.expect("two queues").expect("a hexadecimal number");
            drops += dropped.parse::<u64>().expect("a number");
        }
    }
    (bytes, drops)
}
