//! A closed loop of UDP announces: so many requests in flight, a new one for each reply.
//!
//! One thread, several sockets with their own source addresses, batches of 64. Every reply's
//! transaction id is matched with its request before it counts.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use throng::load::batch::{BATCH, Batch};
use throng::rng::Rng;
use throng::wire::id::{ConnectionId, TransactionId};
use throng::wire::udp::{self, ANNOUNCE_BYTES, Reply};

use super::{announce, hash};

/// Sockets, each with a source address of its own.
pub const SOCKETS: u32 = 4;
/// The first port that a peer says it listens on; its number among the peers is added.
pub const PORT: u16 = 20_000;
/// A transaction id is the number of its slot and a multiple of this.
const SLOT_STEP: u32 = 256;
const _: () = assert!(BATCH <= SLOT_STEP as usize);
/// After so long without any reply all requests in flight are lost, and sent again.
const LOST_MS: i64 = 250;
/// So many times in a row.
const LOST_MAX: u32 = 8;

/// The swarms and their peers. Peer `n` announces from socket `n % SOCKETS`; the first `SOCKETS`
/// are seeders and never announce again, all others are leechers.
#[derive(Clone, Copy)]
pub struct Shape {
    /// How many swarms.
    pub swarms: u32,
    /// Peers of each: a multiple of the sockets.
    pub peers: u32,
    /// Peers asked for.
    pub num_want: u32,
}

impl Shape {
    /// `peers`, rounded to what the sockets can play.
    #[allow(dead_code, reason = "one bench has a shape of its own")]
    pub fn new(swarms: u32, peers: u32, num_want: u32) -> Self {
        let peers = peers.next_multiple_of(SOCKETS).max(2 * SOCKETS);
        Self { swarms: swarms.max(1), peers, num_want: num_want.max(1) }
    }

    /// Peers in the reply to a leecher.
    fn given(self) -> u32 {
        self.num_want.min(self.peers - 1)
    }

    /// Bytes of the reply to a leecher.
    pub fn reply_bytes(self) -> usize {
        20 + 6 * self.given() as usize
    }

    /// A random swarm, and one of its leechers that announces from socket `number`.
    pub fn leecher(self, number: u32, rng: &mut Rng) -> (u32, u32) {
        let turn = 1 + rng.below(self.peers / SOCKETS - 1);
        (rng.below(self.swarms), number + turn * SOCKETS)
    }

    pub fn seeders(self) -> u32 {
        SOCKETS
    }

    pub fn leechers(self) -> u32 {
        self.peers - SOCKETS
    }
}

/// What the other end is, and so what a right reply is.
#[derive(Clone, Copy, Eq, PartialEq)]
pub enum Server {
    /// Answers with so many bytes, whatever is asked.
    Echo,
    /// A tracker whose swarms are being filled: counts and peers are not yet known.
    Filling,
    /// A tracker whose swarms are full.
    Full,
}

/// What came of a run.
#[derive(Clone, Copy, Default)]
pub struct Totals {
    /// Right replies.
    pub replies: u64,
    /// Requests without a reply.
    pub lost: u64,
    /// Replies that came after their request was given up.
    pub late: u64,
    /// From the first request to the last reply.
    pub elapsed: Duration,
}

/// The client.
pub struct Load {
    clients: Vec<Client>,
    shape: Shape,
    received: Batch,
    sent: Batch,
}

struct Client {
    socket: UdpSocket,
    number: u32,
    id: ConnectionId,
    slots: Vec<Slot>,
    rng: Rng,
    /// The next swarm and peer to fill in.
    next: (u32, u32),
}

/// A request in flight.
#[derive(Clone, Copy)]
struct Slot {
    transaction: u32,
    swarm: u32,
    peer: u32,
    waiting: bool,
}

/// What to send next.
#[derive(Clone, Copy)]
enum Plan {
    /// Every peer of every swarm, once.
    Fill,
    /// Any leecher, until then.
    #[allow(dead_code, reason = "one bench only fills")]
    Until(Instant),
}

impl Load {
    /// Sockets that talk to `server`, with `window` requests in flight over all of them.
    pub fn new(server: SocketAddr, shape: Shape, window: u32) -> Self {
        let each = ((window / SOCKETS) as usize).clamp(1, BATCH);
        let slot = |transaction| Slot { transaction, swarm: 0, peer: 0, waiting: false };
        let slots: Vec<Slot> = (0..SLOT_STEP).take(each).map(slot).collect();
        let clients = (0..SOCKETS)
            .map(|number| {
                let socket = socket(number, server);
                let id = ConnectionId([0; 8]);
                let rng = Rng::new(u64::from(number));
                Client { socket, number, id, slots: slots.clone(), rng, next: (0, number) }
            })
            .collect();
        Self { clients, shape, received: Batch::new(), sent: Batch::new() }
    }

    /// Gets connection ids.
    pub fn connect(&mut self) {
        for client in &mut self.clients {
            client.id = connect(&client.socket);
        }
    }

    /// Announces every peer of every swarm, until each has been answered.
    pub fn fill(&mut self) -> Totals {
        let totals = self.run(Plan::Fill, Server::Filling);
        assert_eq!(totals.replies, u64::from(self.shape.swarms * self.shape.peers));
        totals
    }

    /// Announces leechers at random for that long.
    #[allow(dead_code, reason = "one bench only fills")]
    pub fn drive(&mut self, length: Duration, server: Server) -> Totals {
        self.run(Plan::Until(Instant::now() + length), server)
    }

    fn run(&mut self, plan: Plan, server: Server) -> Totals {
        let start = Instant::now();
        let mut totals = Totals::default();
        for index in 0..self.clients.len() {
            let slots = 0..self.clients[index].slots.len();
            self.refill(index, slots, plan);
        }
        let mut silent = 0;
        while self.clients.iter().any(Client::is_waiting) {
            if self.wait() {
                silent = 0;
            } else {
                silent += 1;
                assert!(silent < LOST_MAX, "the server does not answer any more");
                totals.lost += self.repeat();
            }
            for index in 0..self.clients.len() {
                self.receive(index, plan, server, &mut totals);
            }
        }
        totals.elapsed = start.elapsed();
        totals
    }

    /// Until there is something to receive, or too long.
    fn wait(&self) -> bool {
        let mut polled: Vec<PollFd<'_>> =
            self.clients.iter().map(|c| PollFd::new(&c.socket, PollFlags::IN)).collect();
        let patience = Timespec { tv_sec: 0, tv_nsec: LOST_MS * 1_000_000 };
        poll(&mut polled, Some(&patience)).is_ok_and(|ready| ready > 0)
    }

    fn receive(&mut self, index: usize, plan: Plan, server: Server, totals: &mut Totals) {
        let Ok(count) = self.received.receive(&self.clients[index].socket) else { return };
        let mut free = [0; BATCH];
        let mut len = 0;
        for at in 0..count {
            let bytes = self.received.bytes(at);
            let client = &mut self.clients[index];
            let transaction = bytes.get(4..8).map_or([0; 4], |id| [id[0], id[1], id[2], id[3]]);
            let transaction = u32::from_be_bytes(transaction);
            let slot = (transaction % SLOT_STEP) as usize;
            match client.slots.get(slot).copied() {
                Some(asked) if asked.waiting && asked.transaction == transaction => {
                    let asker = totals.replies.is_multiple_of(256).then_some(asked.peer);
                    check(self.shape, server, asker, bytes);
                    totals.replies += 1;
                    client.slots[slot].waiting = false;
                    free[len] = slot;
                    len += 1;
                }
                _ => totals.late += 1,
            }
        }
        self.refill(index, free[..len].iter().copied(), plan);
    }

    /// Sends new requests from the given slots of a client.
    fn refill(&mut self, index: usize, slots: impl Iterator<Item = usize>, plan: Plan) {
        let client = &mut self.clients[index];
        // One look at the clock for the whole batch.
        let over = matches!(plan, Plan::Until(end) if Instant::now() >= end);
        let mut count = 0;
        for slot in slots {
            let Some((swarm, peer)) = client.next(self.shape, plan).filter(|_| !over) else {
                break;
            };
            // The low byte stays the slot's number.
            let transaction = client.slots[slot].transaction.wrapping_add(SLOT_STEP);
            client.slots[slot] = Slot { transaction, swarm, peer, waiting: true };
            client.write(slot, self.shape, &mut self.sent, count);
            count += 1;
        }
        self.sent.send_all(&client.socket, count).expect("it is sent");
    }

    /// Sends everything in flight again.
    fn repeat(&mut self) -> u64 {
        let mut lost = 0;
        for client in &mut self.clients {
            let mut count = 0;
            for slot in 0..client.slots.len() {
                if client.slots[slot].waiting {
                    client.write(slot, self.shape, &mut self.sent, count);
                    count += 1;
                }
            }
            self.sent.send_all(&client.socket, count).expect("it is sent");
            lost += count as u64;
        }
        lost
    }
}

/// Socket `number`, whose source address no other number has, talking to `server`.
pub fn socket(number: u32, server: SocketAddr) -> UdpSocket {
    let ip = Ipv4Addr::from(0x7F00_0101 + number);
    let socket = UdpSocket::bind((ip, 0)).expect("all of 127.0.0.0/8 is ours");
    socket.connect(server).expect("loopback");
    socket.set_read_timeout(Some(Duration::from_secs(2))).expect("it can wait");
    socket
}

/// Gets a connection id.
pub fn connect(socket: &UdpSocket) -> ConnectionId {
    let mut buffer = [0; 2_048];
    let len = udp::write_connect_request(&mut buffer, TransactionId(*b"conn"));
    socket.send(&buffer[..len]).expect("it is sent");
    loop {
        let len = socket.recv(&mut buffer).expect("an answer in time");
        if let Ok(Reply::Connect { connection_id, .. }) = Reply::parse(&buffer[..len]) {
            return connection_id;
        }
    }
}

impl Client {
    fn is_waiting(&self) -> bool {
        self.slots.iter().any(|slot| slot.waiting)
    }

    /// The next swarm and peer.
    fn next(&mut self, shape: Shape, plan: Plan) -> Option<(u32, u32)> {
        match plan {
            Plan::Fill => {
                let (swarm, peer) = self.next;
                if swarm == shape.swarms {
                    return None;
                }
                let following = peer + SOCKETS;
                self.next = match following < shape.peers {
                    true => (swarm, following),
                    false => (swarm + 1, self.number),
                };
                Some((swarm, peer))
            }
            Plan::Until(_) => Some(shape.leecher(self.number, &mut self.rng)),
        }
    }

    fn write(&self, slot: usize, shape: Shape, batch: &mut Batch, at: usize) {
        let Slot { transaction, swarm, peer, .. } = self.slots[slot];
        let port = PORT + u16::try_from(peer).expect("a few peers");
        let info_hash = hash::info_hash(swarm);
        let announce = announce::announce(info_hash, port, peer < SOCKETS, shape.num_want);
        let transaction = TransactionId(transaction.to_be_bytes());
        let out = batch.resize(at, ANNOUNCE_BYTES);
        udp::write_announce_request(out, self.id, transaction, &announce);
    }
}

/// Panics unless this is the right reply; given the asker, each of its peers is looked at too.
pub fn check(shape: Shape, server: Server, asker: Option<u32>, bytes: &[u8]) {
    if server == Server::Filling {
        assert!(matches!(Reply::parse(bytes), Ok(Reply::Announce { .. })), "{bytes:?}");
        return;
    }
    assert_eq!(bytes.len(), shape.reply_bytes(), "{bytes:?}");
    if server == Server::Echo {
        return;
    }
    let Ok(Reply::Announce { interval, leechers, seeders, peers, .. }) = Reply::parse(bytes) else {
        panic!("{bytes:?}");
    };
    assert_eq!((seeders, leechers), (shape.seeders(), shape.leechers()));
    assert!((1_620..=1_980).contains(&interval), "{interval}");
    if let Some(asker) = asker {
        let mut given: Vec<u32> = peers
            .chunks_exact(6)
            .map(|peer| {
                let port = u16::from_be_bytes([peer[4], peer[5]]);
                let number = u32::from(port - PORT);
                assert!(number < shape.peers && number != asker, "peer {number}");
                let address = [peer[0], peer[1], peer[2], peer[3]];
                assert_eq!(u32::from_be_bytes(address), 0x7F00_0101 + number % SOCKETS);
                number
            })
            .collect();
        given.sort_unstable();
        given.dedup();
        assert_eq!(given.len(), shape.given() as usize);
    }
}
