//! One thread of UDP load: a few sockets, batches of 64, every answer matched with its request.
//!
//! Invariant: a slot is in its source's `free` or it is waiting. A transaction id is the number of
//! a slot and how often that slot has been used, so an answer finds its request without a search,
//! and one that was never asked for is told from one that comes late or twice.

use std::io;
use std::net::{IpAddr, UdpSocket};
use std::num::NonZeroU64;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use smallvec::SmallVec;

use super::batch::{BATCH, Batch};
use super::pace::Work;
use super::plan::{LoadError, Plan};
use super::population::{Peer, Population, Turns};
use super::tally::{Action, Tally};
use super::verify::{self, Answer, Asked, Fault};
use super::{
    CONNECT_TRIES, Clock, FILL_NUM_WANT, FILL_TIMEOUTS, Surroundings, expire_every, nanos,
};
use crate::limits::UDP_SCRAPE_HASHES_MAX;
use crate::rng::Rng;
use crate::wire::addr::Endpoint;
use crate::wire::announce::Event;
use crate::wire::id::{ConnectionId, InfoHash, TransactionId};
use crate::wire::udp::{
    ANNOUNCE_BYTES, REQUEST_HEAD_BYTES, Reply, write_announce_request, write_connect_request,
    write_scrape_request,
};

/// A `connection_id` is used for so long; BEP 15 lets a client keep it for a minute.
const ID_NANOS: u64 = 50_000_000_000;
/// How long to wait for room when the kernel takes no more datagrams.
const BLOCKED_NANOS: u64 = 1_000_000;
/// Receive buffer asked for: the answers to everything in flight, and more.
const RECEIVE_BYTES: usize = 4 << 20;
/// One thread's sockets and peers.
pub struct Client {
    population: Population,
    sources: Vec<Source>,
    slots: Vec<Slot>,
    /// Bits of a transaction id that number the slot.
    slot_bits: u32,
    /// The use count that slots begin with, so that no transaction id is 0 by chance.
    first_use: u32,
    rng: Rng,
    received: Batch,
    sent: Batch,
    clock: Clock,
}

/// A socket and the peers that announce from it.
struct Source {
    socket: UdpSocket,
    /// Its number among those of all threads.
    number: u32,
    /// Where the tracker sees its peers.
    ip: IpAddr,
    id: ConnectionId,
    /// When the next connect is due.
    renew_at: u64,
    free: Vec<u32>,
    turns: Turns,
}

/// Room for one request.
#[derive(Clone, Copy)]
struct Slot {
    source: u32,
    /// How often it has been used.
    uses: u32,
    waiting: bool,
    request: Request,
    /// What latency counts from: when the request was due.
    due: u64,
    /// When it was sent; what its timeout counts from.
    sent: u64,
    /// Bit n is set while the answer to the use n before this one was given up and has not come.
    given_up: u64,
}

/// What is sent.
#[derive(Clone, Copy)]
struct Request {
    action: Action,
    /// Of an announce.
    peer: u32,
    event: Event,
    asked: Asked,
}

/// Asks for a `connection_id`.
const CONNECT: Request =
    Request { action: Action::Connect, peer: 0, event: Event::None, asked: Asked::Connect };

impl super::Client for Client {
    fn open(plan: &Plan, clock: Clock, thread: u16) -> Result<Self, LoadError> {
        let population = plan.population();
        let sources = u32::from(plan.sources);
        let in_flight = plan.in_flight;
        let slot_bits = u32::BITS - (in_flight - 1).leading_zeros();
        let open = |index| {
            let number = u32::from(thread) * sources + index;
            let socket = socket(plan, number);
            let own = socket.and_then(|socket| Ok((socket.local_addr()?.ip(), socket)));
            let (ip, socket) = own.map_err(|source| LoadError::Io {
                what: format!("a socket from {} to {}", plan.target.source(number), plan.target),
                source,
            })?;
            let free = (0..in_flight).filter(|slot| slot % sources == index).collect();
            Ok(Source {
                socket,
                number,
                ip,
                id: ConnectionId([0; 8]),
                renew_at: 0,
                free,
                turns: population.turns(number),
            })
        };
        let slot = |number| Slot {
            source: number % sources,
            uses: 0,
            waiting: false,
            request: CONNECT,
            due: 0,
            sent: 0,
            given_up: 0,
        };
        let mut rng = Rng::new(plan.seed ^ u64::from(thread) << 48);
        Ok(Self {
            population,
            sources: (0..sources).map(open).collect::<Result<_, LoadError>>()?,
            slots: (0..in_flight).map(slot).collect(),
            slot_bits,
            first_use: rng.below(1 << 16) + 1,
            rng,
            received: Batch::new(),
            sent: Batch::new(),
            clock,
        })
    }

    fn connect(&mut self, around: Surroundings<'_>) -> Result<(), LoadError> {
        for source in &mut self.sources {
            let timeout = Some(around.plan.timeout);
            let id = source.connect(around.plan, timeout);
            source.id = id.map_err(|error| LoadError::Silent {
                target: around.plan.target.to_string(),
                why: match error.kind() {
                    io::ErrorKind::WouldBlock => format!(
                        "no answer to {CONNECT_TRIES} connects within {:?} each",
                        around.plan.timeout
                    ),
                    _ => error.to_string(),
                },
            })?;
            source.renew_at = self.clock.now() + ID_NANOS;
        }
        Ok(())
    }

    fn run(&mut self, work: Work, around: Surroundings<'_>) -> Tally {
        // Sleeps end when they should, not 50 us later. If it is refused, they do that.
        let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
        let now = self.clock.now();
        let timeout = nanos(around.plan.timeout);
        let expire_every = expire_every(timeout);
        let run = Run {
            client: self,
            work,
            around,
            tally: Tally::default(),
            timeout,
            expire_every,
            expire_at: now + expire_every,
            answered_at: now,
            asking: true,
            waiting: 0,
            turn: 0,
        };
        run.all()
    }
}

fn socket(plan: &Plan, number: u32) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((plan.target.source(number), 0))?;
    // Capped by the kernel; less only means that more may be lost.
    let _ = socket2::SockRef::from(&socket).set_recv_buffer_size(RECEIVE_BYTES);
    socket.connect(plan.target.address)?;
    Ok(socket)
}

impl Source {
    /// Gets a `connection_id`, trying several times.
    fn connect(&mut self, plan: &Plan, timeout: Option<Duration>) -> io::Result<ConnectionId> {
        let mut last = io::Error::from(io::ErrorKind::WouldBlock);
        for attempt in 0..CONNECT_TRIES {
            if attempt > 0 {
                // What comes late for the one before must not be taken for an answer to a request.
                self.socket = socket(plan, self.number)?;
            }
            self.socket.set_read_timeout(timeout)?;
            let transaction_id = TransactionId((attempt + 1).to_be_bytes());
            let mut buffer = [0; 64];
            let len = write_connect_request(&mut buffer, transaction_id);
            // A refusal of the attempt before is told here.
            if let Err(error) = self.socket.send(&buffer[..len]) {
                last = error;
                continue;
            }
            match self.socket.recv(&mut buffer) {
                Ok(len) => match Reply::parse(&buffer[..len]) {
                    Ok(Reply::Connect { connection_id, transaction_id: of })
                        if of == transaction_id =>
                    {
                        return Ok(connection_id);
                    }
                    _ => last = io::Error::other("its answer to a connect is none"),
                },
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

/// One phase of a thread.
struct Run<'a> {
    client: &'a mut Client,
    work: Work,
    around: Surroundings<'a>,
    tally: Tally,
    /// All in nanoseconds.
    timeout: u64,
    expire_every: u64,
    expire_at: u64,
    /// When the last right answer came.
    answered_at: u64,
    /// Whether new requests are made.
    asking: bool,
    /// Requests under way.
    waiting: usize,
    /// The source that is served first, so that none is always last.
    turn: usize,
}

/// A request that is written and not yet sent.
#[derive(Clone, Copy)]
struct Draft {
    slot: u32,
    request: Request,
    due: u64,
    bytes: usize,
}

impl Run<'_> {
    fn all(mut self) -> Tally {
        loop {
            let now = self.client.clock.now();
            if now >= self.expire_at {
                self.expire(now);
                self.around.live.publish(&self.tally);
                self.expire_at = now + self.expire_every;
            }
            if self.asking && (self.work.is_over(now) || self.around.is_stopped()) {
                self.end(now);
            }
            if self.work.is_fill()
                && now > self.answered_at + u64::from(FILL_TIMEOUTS) * self.timeout
            {
                self.end(now);
            }
            let blocked = self.asking && self.send();
            if self.waiting == 0 && self.asking && self.work.is_fill() && !blocked {
                // Nobody is left to announce.
                self.end(now);
            }
            if self.waiting == 0 && !self.asking {
                self.around.live.publish(&self.tally);
                return self.tally;
            }
            let mut wake_at = self.expire_at;
            if self.asking {
                let room = self.client.sources.iter().any(|source| !source.free.is_empty());
                wake_at = wake_at.min(self.work.wake_at(room));
            }
            if blocked {
                wake_at = wake_at.min(now + BLOCKED_NANOS);
            }
            self.receive(wake_at);
        }
    }

    /// No request is made from here on.
    fn end(&mut self, now: u64) {
        if self.asking {
            self.asking = false;
            self.tally.ended = now;
            self.tally.unsent = self.work.overdue(now);
        }
    }

    /// Sends what is due and has room; whether the kernel took less than that.
    fn send(&mut self) -> bool {
        let count = self.client.sources.len();
        self.turn = (self.turn + 1) % count;
        let turn = self.turn;
        (0..count).any(|offset| self.send_from((turn + offset) % count))
    }

    fn send_from(&mut self, source: usize) -> bool {
        loop {
            // What latency counts from in a closed loop: read once for the batch.
            let now = self.client.clock.now();
            let mut drafts: SmallVec<[Draft; BATCH]> = SmallVec::new();
            while drafts.len() < BATCH.min(self.client.sources[source].free.len()) {
                let Some(due) = self.work.due(now) else { break };
                let request = self.client.draw(source, now, self.work.is_fill(), self.around.plan);
                let Some(request) = request else { break };
                let draft = self.client.write(source, drafts.len(), request, due, self.around.plan);
                self.work.advance();
                drafts.push(draft);
            }
            if drafts.is_empty() {
                return false;
            }
            let Client { sources, sent, .. } = &mut *self.client;
            let sent = match sent.send(&sources[source].socket, drafts.len()) {
                Ok(sent) => sent,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                Err(error) => {
                    self.tally.connection_error(&error.to_string());
                    0
                }
            };
            self.commit(source, &drafts, sent, now);
            if sent < drafts.len() {
                return true;
            }
            if sent < BATCH {
                return false;
            }
        }
    }

    /// The first `sent` drafts are under way; the others have not happened.
    fn commit(&mut self, index: usize, drafts: &[Draft], sent: usize, now: u64) {
        let source = &mut self.client.sources[index];
        for (at, draft) in drafts.iter().enumerate() {
            let Draft { slot, request, due, bytes } = *draft;
            if at < sent {
                let slot = &mut self.client.slots[slot as usize];
                slot.uses = slot.uses.wrapping_add(1);
                slot.given_up <<= 1;
                (slot.waiting, slot.request, slot.due, slot.sent) = (true, request, due, now);
                self.tally.send(request.action, bytes);
                if request.action == Action::Connect {
                    // Should it be lost, the old id is good a little longer.
                    source.renew_at = now + self.timeout;
                }
            } else if request.action == Action::Connect {
                source.renew_at = now;
            } else if self.work.is_fill() {
                source.turns.repeat(request.peer);
            }
        }
        source.free.truncate(source.free.len() - sent);
        self.work.retreat(drafts.len() - sent);
        self.waiting += sent;
    }

    /// Waits until then for answers, and takes those that are there.
    fn receive(&mut self, wake_at: u64) {
        let wait = wake_at.saturating_sub(self.client.clock.now());
        for index in ready(&self.client.sources, wait) {
            let socket = &self.client.sources[index].socket;
            match self.client.received.receive(socket) {
                Ok(count) => {
                    let now = self.client.clock.now();
                    for at in 0..count {
                        self.take(index, at, now);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => self.tally.connection_error(&error.to_string()),
            }
        }
    }

    /// Finds the request of a datagram, and holds the one against the other.
    fn take(&mut self, index: usize, at: usize, now: u64) {
        let Client { received, slots, sources, slot_bits, first_use, .. } = &mut *self.client;
        let tally = &mut self.tally;
        let datagram = received.bytes(at);
        tally.bytes_received += datagram.len() as u64;
        let Some(id) = datagram.get(4..8).and_then(|id| id.first_chunk::<4>()) else {
            return tally.fault(Fault::Malformed);
        };
        let found = find(slots, index, u32::from_be_bytes(*id), *slot_bits, *first_use);
        let number = match found {
            Ok(number) => number,
            Err(fault) => return tally.fault(fault),
        };
        let slot = &mut slots[number as usize];
        slot.waiting = false;
        self.waiting -= 1;
        let source = &mut sources[index];
        source.free.push(number);
        let Request { action, asked, .. } = slot.request;
        match verify::udp(datagram, &asked, self.around.plan.rigour) {
            Ok(answer) => {
                if let Answer::Connected(id) = answer {
                    source.id = id;
                    source.renew_at = now + ID_NANOS;
                }
                tally.reply(action, answer, now.saturating_sub(slot.due), self.asking);
                self.answered_at = now;
            }
            Err(wrong) => tally.fault(wrong),
        }
    }

    /// Gives up what has waited for too long.
    fn expire(&mut self, now: u64) {
        let Client { slots, sources, .. } = &mut *self.client;
        for (number, slot) in (0..).zip(slots) {
            if slot.waiting && now >= slot.sent + self.timeout {
                slot.waiting = false;
                slot.given_up |= 1;
                self.waiting -= 1;
                self.tally.lost += 1;
                let source = &mut sources[slot.source as usize];
                source.free.push(number);
                if self.work.is_fill() && slot.request.action == Action::Announce {
                    source.turns.repeat(slot.request.peer);
                }
            }
        }
    }
}

/// The sources that have something to receive, within that many nanoseconds.
fn ready(sources: &[Source], wait: u64) -> SmallVec<[usize; 16]> {
    let mut polled: SmallVec<[PollFd<'_>; 16]> =
        sources.iter().map(|source| PollFd::new(&source.socket, PollFlags::IN)).collect();
    let wait = Timespec::try_from(Duration::from_nanos(wait)).expect("a minute at the most");
    // An interrupted wait is a short one.
    let _ = poll(&mut polled, Some(&wait));
    let ready = polled.iter().enumerate().filter(|(_, source)| !source.revents().is_empty());
    ready.map(|(index, _)| index).collect()
}

/// The slot that waits for this transaction, or why there is none.
fn find(
    slots: &mut [Slot],
    source: usize,
    transaction: u32,
    slot_bits: u32,
    first_use: u32,
) -> Result<u32, Fault> {
    let number = transaction & ((1 << slot_bits) - 1);
    let slot = slots.get_mut(number as usize).filter(|slot| slot.source as usize == source);
    let slot = slot.ok_or(Fault::TransactionId)?;
    let shifted = u32::MAX >> slot_bits;
    let uses_ago =
        first_use.wrapping_add(slot.uses).wrapping_sub(transaction >> slot_bits) & shifted;
    if uses_ago >= slot.uses {
        return Err(Fault::TransactionId);
    }
    if uses_ago == 0 && slot.waiting {
        return Ok(number);
    }
    // What was given up before the last 64 uses is not remembered: late, more likely than twice.
    let bit = 1_u64.checked_shl(uses_ago).unwrap_or(0);
    if bit != 0 && slot.given_up & bit == 0 {
        return Err(Fault::Duplicate);
    }
    slot.given_up &= !bit;
    Err(Fault::Late)
}

impl Client {
    /// What that source asks next; `None` if it has nobody left to announce.
    fn draw(&mut self, index: usize, now: u64, fill: bool, plan: &Plan) -> Option<Request> {
        let Self { population, sources, rng, .. } = self;
        let source = &mut sources[index];
        if now >= source.renew_at {
            // Once, until it has been committed.
            source.renew_at = u64::MAX;
            return Some(CONNECT);
        }
        let announce = |peer: Peer, event, num_want| {
            let asked = Asked::Announce { num_want, own: Endpoint::new(source.ip, peer.port) };
            Request { action: Action::Announce, peer: peer.number, event, asked }
        };
        if fill {
            let peer = source.turns.next(population);
            return peer.map(|peer| announce(peer, Event::Started, FILL_NUM_WANT));
        }
        Some(match plan.mix.draw(rng) {
            Action::Announce => {
                let peer = population.any_peer_of(source.number, rng);
                announce(peer, Event::None, plan.num_want)
            }
            Action::Scrape => {
                let asked = Asked::Scrape { hashes: plan.scrape_hashes.into() };
                Request { action: Action::Scrape, asked, ..CONNECT }
            }
            Action::Connect => CONNECT,
        })
    }

    /// Writes the datagram at `at` of the batch, from the slot that far from the end of the free
    /// ones.
    fn write(&mut self, index: usize, at: usize, request: Request, due: u64, plan: &Plan) -> Draft {
        let Self { population, sources, slots, rng, sent, .. } = self;
        let source = &sources[index];
        let slot = source.free[source.free.len() - 1 - at];
        let uses = slots[slot as usize].uses.wrapping_add(1);
        let transaction = self.first_use.wrapping_add(uses) << self.slot_bits | slot;
        let transaction = TransactionId(transaction.to_be_bytes());
        let bytes = match request.asked {
            Asked::Connect => {
                write_connect_request(sent.resize(at, REQUEST_HEAD_BYTES), transaction)
            }
            Asked::Announce { num_want, .. } => {
                let peer = population.peer(request.peer);
                let announce = population.announce(&peer, request.event, num_want);
                let out = sent.resize(at, ANNOUNCE_BYTES);
                write_announce_request(out, source.id, transaction, &announce)
            }
            Asked::Scrape { .. } => {
                let mut hashes: SmallVec<[InfoHash; UDP_SCRAPE_HASHES_MAX]> = SmallVec::new();
                for _ in 0..plan.scrape_hashes {
                    let peer = population.any_peer_of(source.number, rng);
                    hashes.push(population.info_hash(peer.swarm));
                }
                let out = sent.resize(at, REQUEST_HEAD_BYTES + 20 * hashes.len());
                write_scrape_request(out, source.id, transaction, &hashes)
            }
        };
        Draft { slot, request, due, bytes }
    }
}
