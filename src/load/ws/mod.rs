//! One thread of WebSocket load: connections that stay, with one request under way each, and
//! offers and answers that go between them at any time.
//!
//! Invariant: a connection is asking, resting, ready, gone, or in `idle`; only an asking one is
//! without an open stream, before its handshake has ended. Peer k of connection c has the number
//! c + k * connections. Whoever receives an offer or an answer checks it by itself ([`script`]):
//! threads share nothing.

mod connection;
mod frames;
mod hear;
mod script;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io::{ErrorKind, Read};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU64;

use smallvec::SmallVec;

use self::connection::{Asked, Connection};
use self::script::{Name, Script};
use super::pace::Work;
use super::plan::{LoadError, Plan};
use super::population::{Peer, Population, peer_id};
use super::sockets::{self, Sockets};
use super::tally::{Action, Tally};
use super::verify::Wrong;
use super::{Clock, FILL_TIMEOUTS, Surroundings, expire_every, nanos};
use crate::limits::WEB_OFFERS_MAX;
use crate::rng::Rng;
use crate::wire::announce::Event;
use crate::wire::webtorrent::{write_announce_request, write_offer_id, write_scrape_request};

/// After a failure a connection rests for so long: whoever refuses is not asked as fast as we can.
const REST_NANOS: u64 = 100_000_000;
/// After the end of the measured time offers and answers may be under way: so long without any, and
/// nothing more comes.
const QUIET_NANOS: u64 = 500_000_000;
/// While peers announce once each: connections that ask at a time.
const FILL_ASKING_MAX: usize = 256;
/// Bytes read at once.
const READ_BYTES: usize = 64 << 10;
/// The code of a close that is meant (RFC 6455 section 7.4.1).
const CLOSE_NORMAL: u16 = 1_000;

/// One thread's connections and peers.
pub struct Client {
    population: Population,
    /// Connections of all threads.
    all: u32,
    script: Script,
    target: SocketAddr,
    /// The request of every handshake up to its key.
    handshake: Vec<u8>,
    sources: Vec<IpAddr>,
    connections: Vec<Connection>,
    /// Connections that may ask: those that waited longest first.
    idle: VecDeque<usize>,
    /// While peers announce once each: connections whose peers have.
    ready: Vec<usize>,
    /// Connections that failed, and when they may ask again.
    resting: VecDeque<(u64, usize)>,
    sockets: Sockets,
    buffer: Box<[u8]>,
    /// A message before it is framed.
    message: Vec<u8>,
    rng: Rng,
    clock: Clock,
}

impl super::Client for Client {
    fn open(plan: &Plan, clock: Clock, thread: u16) -> Result<Self, LoadError> {
        let own = u32::from(plan.sources);
        let source = |index| plan.target.source(u32::from(thread) * own + index);
        let threads = u32::from(plan.threads);
        let connection = |index| Connection::new(index * threads + u32::from(thread));
        let (path, host) = (&plan.target.announce_path, &plan.target.authority);
        let handshake = format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: throng-load\r\n\
             Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: "
        );
        Ok(Self {
            population: plan.population(),
            all: plan.web_connections(),
            script: Script::new(plan.seed, plan.web.sdp_bytes),
            target: plan.target.address,
            handshake: handshake.into_bytes(),
            sources: (0..own).map(source).collect(),
            connections: (0..plan.in_flight).map(connection).collect(),
            idle: (0..plan.in_flight as usize).collect(),
            ready: Vec::new(),
            resting: VecDeque::new(),
            sockets: Sockets::new()?,
            buffer: vec![0; READ_BYTES].into_boxed_slice(),
            message: Vec::new(),
            rng: Rng::new(plan.seed ^ u64::from(thread) << 48),
            clock,
        })
    }

    fn connect(&mut self, around: Surroundings<'_>) -> Result<(), LoadError> {
        sockets::reach(around.plan)
    }

    fn run(&mut self, work: Work, around: Surroundings<'_>) -> Tally {
        // Sleeps end when they should, not 50 us later. If it is refused, they do that.
        let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
        let now = self.clock.now();
        let timeout = nanos(around.plan.timeout);
        let expire_every = expire_every(timeout);
        let is_idle = around.plan.web.idle && !work.is_fill();
        let run = Run {
            client: self,
            work,
            around,
            tally: Tally::default(),
            is_idle,
            timeout,
            expire_every,
            expire_at: now + expire_every,
            answered_at: now,
            heard_at: now,
            asking: true,
            waiting: 0,
        };
        run.all()
    }
}

/// One phase of a thread.
struct Run<'a> {
    client: &'a mut Client,
    work: Work,
    around: Surroundings<'a>,
    tally: Tally,
    /// Nothing is asked, and whatever closes stays closed.
    is_idle: bool,
    /// All in nanoseconds.
    timeout: u64,
    expire_every: u64,
    expire_at: u64,
    /// When the last right answer came.
    answered_at: u64,
    /// When the last message came.
    heard_at: u64,
    /// Whether new requests are made.
    asking: bool,
    /// Connections that are asking.
    waiting: usize,
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
            let patience = u64::from(FILL_TIMEOUTS) * self.timeout;
            if self.work.is_fill() && now > self.answered_at + patience {
                self.end(now);
            }
            self.wake(now);
            if self.asking && !self.is_idle {
                self.ask();
            }
            let nobody_left = self.client.idle.is_empty() && self.client.resting.is_empty();
            if self.work.is_fill() && self.waiting == 0 && nobody_left {
                self.end(now);
            }
            if !self.asking && self.waiting == 0 && self.is_quiet(now) {
                return self.finish();
            }
            let mut wake_at = self.expire_at;
            if self.asking {
                let room = !self.is_idle && self.has_room();
                wake_at = wake_at.min(self.work.wake_at(room));
                wake_at = self.client.resting.front().map_or(wake_at, |(at, _)| wake_at.min(*at));
            }
            for at in 0..self.client.sockets.wait(self.client.clock, wake_at) {
                self.progress(self.client.sockets.index(at));
            }
        }
    }

    /// Whether an idle connection may ask.
    fn has_room(&self) -> bool {
        let may = !self.work.is_fill() || self.waiting < FILL_ASKING_MAX;
        may && !self.client.idle.is_empty()
    }

    /// Whether offers and answers are still under way; before the measured time there are none.
    fn is_quiet(&self, now: u64) -> bool {
        let nothing_sent = self.tally.offers.sent == 0 && self.tally.offers.received == 0;
        let quiet_at = self.heard_at + QUIET_NANOS.min(self.timeout);
        // Whoever never stops talking is not listened to for ever.
        nothing_sent || now > quiet_at.min(self.tally.ended + 2 * self.timeout)
    }

    /// No request is made from here on.
    fn end(&mut self, now: u64) {
        if self.asking {
            self.asking = false;
            self.tally.ended = now;
            self.tally.unsent = self.work.overdue(now);
            self.heard_at = now;
        }
    }

    /// Hands the counts over. After the last phase the connections are closed.
    fn finish(mut self) -> Tally {
        let Client { connections, idle, ready, rng, .. } = &mut *self.client;
        idle.extend(ready.drain(..));
        self.tally.open = connections.iter().filter(|it| it.is_open()).count() as u64;
        self.around.live.publish(&self.tally);
        if !self.work.is_fill() {
            for connection in connections {
                if connection.is_open() {
                    let mask = rng.next_u32().to_be_bytes();
                    frames::write_close(&mut connection.output, CLOSE_NORMAL, mask);
                    // Whoever does not take it sees that the stream ends.
                    let _ = connection.flush();
                }
                connection.forget();
            }
        }
        self.tally
    }

    /// Connections that have rested may ask again.
    fn wake(&mut self, now: u64) {
        let Client { resting, idle, .. } = &mut *self.client;
        while let Some((_, index)) = resting.front().copied().filter(|(at, _)| *at <= now) {
            resting.pop_front();
            idle.push_back(index);
        }
    }

    /// Has idle connections ask what is due.
    fn ask(&mut self) {
        while self.has_room() {
            let now = self.client.clock.now();
            let Some(due) = self.work.due(now) else { return };
            let Some(index) = self.client.idle.pop_front() else { return };
            let plan = self.around.plan;
            if let Some(mut asked) = self.client.draw(index, self.work.is_fill(), plan) {
                self.work.advance();
                (asked.due, asked.sent) = (due, now);
                self.client.connections[index].asked = Some(asked);
                self.waiting += 1;
                self.start(index);
            } else {
                self.client.ready.push(index);
            }
        }
    }

    /// Writes the request, or a handshake first.
    fn start(&mut self, index: usize) {
        if self.client.connections[index].is_open() {
            self.write_request(index);
        } else if let Err(error) = self.client.begin(index, self.around.plan) {
            return self.fail(index, &error.to_string());
        } else {
            self.tally.connections += 1;
        }
        self.flush(index);
    }

    fn flush(&mut self, index: usize) {
        if let Err(cause) = self.client.connections[index].flush() {
            self.fail(index, &cause);
        }
    }

    /// Appends the request that the connection is asking to its output.
    fn write_request(&mut self, index: usize) {
        let Client { population, script, connections, message, rng, clock, .. } = &mut *self.client;
        let connection = &mut connections[index];
        let Some(asked) = &connection.asked else { return };
        let (action, number, joins) = (asked.action, asked.peer, asked.joins);
        message.clear();
        if action == Action::Scrape {
            write_scrape_request(message, &asked.hashes);
        } else {
            let offers = if self.work.is_fill() { 0 } else { self.around.plan.num_want };
            let sent = clock.now();
            // Each offer and its name, and where they end.
            let mut texts = Vec::new();
            let mut ends: SmallVec<[(usize, usize); WEB_OFFERS_MAX]> = SmallVec::new();
            for _ in 0..offers {
                let name = Name { peer: number, number: connection.next_offer(), sent };
                script.write_offer(&mut texts, &name);
                let middle = texts.len();
                write_offer_id(&mut texts, &script.offer_id(&name));
                ends.push((middle, texts.len()));
            }
            let mut start = 0;
            let mut parts: SmallVec<[(&[u8], &[u8]); WEB_OFFERS_MAX]> = SmallVec::new();
            for (middle, end) in ends {
                parts.push((&texts[start..middle], &texts[middle..end]));
                start = end;
            }
            let event = if joins { Event::Started } else { Event::None };
            let mut announce = population.announce(&population.peer(number), event, offers);
            announce.peer_id = peer_id(connection.number);
            write_announce_request(message, &announce, &parts);
            self.tally.offers.sent += u64::from(offers);
        }
        let before = connection.output.len();
        frames::write_text(&mut connection.output, message, rng.next_u32().to_be_bytes());
        self.tally.send(action, connection.output.len() - before);
    }

    /// Goes on with whatever that connection does, until the kernel has no more.
    fn progress(&mut self, index: usize) {
        self.flush(index);
        let mut buffer = std::mem::take(&mut self.client.buffer);
        while let Some(stream) = &mut self.client.connections[index].stream {
            match stream.read(&mut buffer) {
                Ok(0) => self.fail(index, "closed by the tracker"),
                Ok(count) => self.take(index, &buffer[..count]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => self.fail(index, &error.to_string()),
            }
        }
        self.client.buffer = buffer;
        self.flush(index);
    }

    /// Takes what came: of the handshake, of frames, or of both.
    fn take(&mut self, index: usize, bytes: &[u8]) {
        self.tally.bytes_received += bytes.len() as u64;
        let connection = &mut self.client.connections[index];
        if connection.is_open() {
            return self.receive(index, bytes);
        }
        match connection.shake(bytes) {
            Ok(None) => {}
            Ok(Some(behind)) => {
                connection.head = Vec::new();
                self.write_request(index);
                self.receive(index, &bytes[bytes.len() - behind..]);
            }
            Err(wrong) => {
                self.tally.fault(wrong);
                self.rest(index);
            }
        }
    }

    /// The connection has ended, or failed.
    fn fail(&mut self, index: usize, cause: &str) {
        self.tally.connection_error(cause);
        self.rest(index);
    }

    /// What came is wrong, and nothing behind it can be trusted.
    fn break_off<'a>(&mut self, index: usize, wrong: impl Into<Wrong<'a>>) {
        self.tally.fault(wrong);
        self.rest(index);
    }

    /// Closes a connection; what it asked comes to nothing. It may ask again later.
    fn rest(&mut self, index: usize) {
        let connection = &mut self.client.connections[index];
        connection.forget();
        if connection.asked.take().is_some() {
            self.waiting -= 1;
        } else if let Some(at) = self.client.idle.iter().position(|idle| *idle == index) {
            self.client.idle.remove(at);
        } else if let Some(at) = self.client.ready.iter().position(|ready| *ready == index) {
            self.client.ready.swap_remove(at);
        } else {
            return;
        }
        if !self.is_idle {
            let until = self.client.clock.now() + REST_NANOS;
            self.client.resting.push_back((until, index));
        }
    }

    /// Gives up what has waited for too long. Its connection goes too: the reply that is still to
    /// come would be taken for the next one's.
    fn expire(&mut self, now: u64) {
        for index in 0..self.client.connections.len() {
            let asked = &self.client.connections[index].asked;
            if asked.as_ref().is_some_and(|asked| now >= asked.sent + self.timeout) {
                self.tally.lost += 1;
                self.rest(index);
            }
        }
    }
}

impl Client {
    /// What that connection asks next; `None` if all of its peers have announced and that is all
    /// there is to do.
    fn draw(&mut self, index: usize, fill: bool, plan: &Plan) -> Option<Asked> {
        let joined = self.connections[index].joined;
        if joined < plan.web.torrents {
            return Some(self.announce(index, joined, true));
        }
        if fill {
            return None;
        }
        Some(match plan.mix.draw(&mut self.rng) {
            Action::Scrape => self.scrape(plan.scrape_hashes),
            Action::Announce | Action::Connect => {
                let torrent = self.rng.below(plan.web.torrents);
                self.announce(index, torrent, false)
            }
        })
    }

    /// A connection's peer in one of its swarms.
    fn peer(&self, connection: u32, torrent: u32) -> Peer {
        self.population.peer(connection + torrent * self.all)
    }

    fn announce(&self, index: usize, torrent: u32, joins: bool) -> Asked {
        let Peer { number, swarm, seeder, .. } = self.peer(self.connections[index].number, torrent);
        Asked {
            action: Action::Announce,
            peer: number,
            seeder,
            joins,
            hashes: vec![self.population.info_hash(swarm)],
            due: 0,
            sent: 0,
        }
    }

    fn scrape(&mut self, count: u16) -> Asked {
        let Self { population, rng, .. } = self;
        let mut hashes = Vec::new();
        for _ in 0..count {
            let peer = population.peer(rng.below(population.peers));
            let hash = population.info_hash(peer.swarm);
            // The reply is an object: it has each hash once.
            if !hashes.contains(&hash) {
                hashes.push(hash);
            }
        }
        Asked {
            action: Action::Scrape,
            peer: 0,
            seeder: false,
            joins: false,
            hashes,
            due: 0,
            sent: 0,
        }
    }

    /// Opens a stream for that connection, and begins its handshake.
    fn begin(&mut self, index: usize, plan: &Plan) -> std::io::Result<()> {
        let connection = &mut self.connections[index];
        let source = connection.source(&self.sources, plan.threads);
        let stream = self.sockets.connect(self.target, source, index)?;
        // As browsers have it: an answer does not wait for the acknowledgement of the last one.
        stream.set_nodelay(true)?;
        let key = key(&mut self.rng);
        let request = [&self.handshake, key.as_bytes(), b"\r\n\r\n"].concat();
        connection.begin(stream, key, &request);
        Ok(())
    }
}

/// 16 random bytes in Base64: 21 digits, one of two bits, and the padding.
fn key(rng: &mut Rng) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut digit = |count| char::from(DIGITS[rng.below(count) as usize * (64 / count as usize)]);
    let mut key: String = (0..21).map(|_| digit(64)).collect();
    key.push(digit(4));
    key.push_str("==");
    key
}
