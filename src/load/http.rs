//! One thread of HTTP load: connections with one request under way each.
//!
//! Invariant: a connection is asking, closing, resting, or in `idle`. Its peers announce from its
//! source address, so a peer keeps its endpoint.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::num::NonZeroU64;

use super::pace::Work;
use super::plan::{LoadError, Plan};
use super::population::{Peer, Population, Turns};
use super::sockets::{self, Sockets};
use super::tally::{Action, Tally};
use super::verify::{self, Answer, Asked, Fault, Rigour, Wrong};
use super::{Clock, FILL_NUM_WANT, FILL_TIMEOUTS, Surroundings, expire_every, nanos};
use crate::limits::HTTP_HEAD_BYTES_MAX;
use crate::rng::Rng;
use crate::wire::addr::Endpoint;
use crate::wire::announce::Event;
use crate::wire::http::{RequestForm, ResponseHead};
use crate::wire::id::InfoHash;

/// After a failure a connection rests for so long: whoever refuses is not asked as fast as we can.
const REST_NANOS: u64 = 10_000_000;
/// Bytes of the longest body that is read.
const BODY_BYTES_MAX: usize = 1 << 20;
/// Bytes read at once.
const READ_BYTES: usize = 64 << 10;

/// One thread's connections and peers.
pub struct Client {
    population: Population,
    form: RequestForm,
    target: SocketAddr,
    sources: Vec<Source>,
    /// The source of the next connection, if each request has one of its own.
    next_source: usize,
    connections: Vec<Connection>,
    /// Connections that may ask: those that waited longest first, so that all are used.
    idle: VecDeque<usize>,
    /// Connections that failed, and when they may ask again.
    resting: VecDeque<(u64, usize)>,
    sockets: Sockets,
    buffer: Box<[u8]>,
    rng: Rng,
    clock: Clock,
}

/// A source address and the peers that announce from it.
struct Source {
    /// Its number among those of all threads.
    number: u32,
    /// Unspecified: the kernel chooses.
    ip: IpAddr,
    turns: Turns,
}

/// What a connection does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    /// Nothing. It may be open.
    Idle,
    /// Connects, sends its request, or waits for the answer.
    Asking,
    /// Has its answer, and waits for the tracker to close.
    Closing,
}

/// A place for a connection, which may be open.
struct Connection {
    stream: Option<TcpStream>,
    state: State,
    source: usize,
    /// Where the tracker sees it.
    ip: IpAddr,
    /// Whether this stream has brought an answer before.
    used: bool,
    action: Action,
    asked: Asked,
    /// The peer of an announce.
    peer: u32,
    /// The hashes of a scrape.
    hashes: Vec<InfoHash>,
    request: Vec<u8>,
    written: usize,
    answer: Vec<u8>,
    /// What latency counts from.
    due: u64,
    /// What its timeout counts from.
    sent: u64,
}

impl super::Client for Client {
    fn open(plan: &Plan, clock: Clock, thread: u16) -> Result<Self, LoadError> {
        let population = plan.population();
        let own = u32::from(plan.sources);
        let sources = (0..own).map(|index| {
            let number = u32::from(thread) * own + index;
            let turns = population.turns(number);
            Source { number, ip: plan.target.source(number), turns }
        });
        let connection = |index: usize| Connection {
            stream: None,
            state: State::Idle,
            source: index % usize::from(plan.sources),
            ip: plan.target.source(0),
            used: false,
            action: Action::Announce,
            asked: Asked::Connect,
            peer: 0,
            hashes: Vec::new(),
            request: Vec::new(),
            written: 0,
            answer: Vec::new(),
            due: 0,
            sent: 0,
        };
        let count = plan.in_flight as usize;
        Ok(Self {
            population,
            form: RequestForm {
                announce_path: plan.target.announce_path.clone(),
                scrape_path: plan.target.scrape_path.clone(),
                host: plan.target.authority.clone(),
                keep_alive: !plan.close,
            },
            target: plan.target.address,
            sources: sources.collect(),
            next_source: 0,
            connections: (0..count).map(connection).collect(),
            idle: (0..count).collect(),
            resting: VecDeque::new(),
            sockets: Sockets::new()?,
            buffer: vec![0; READ_BYTES].into_boxed_slice(),
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
    /// All in nanoseconds.
    timeout: u64,
    expire_every: u64,
    expire_at: u64,
    /// When the last right answer came.
    answered_at: u64,
    /// Whether new requests are made.
    asking: bool,
    /// Connections that are asking or closing.
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
            if self.work.is_fill()
                && now > self.answered_at + u64::from(FILL_TIMEOUTS) * self.timeout
            {
                self.end(now);
            }
            self.wake(now);
            if self.asking {
                self.ask();
            }
            let rested = self.client.resting.is_empty();
            if self.waiting == 0 && self.asking && self.work.is_fill() && rested {
                // Nobody is left to announce.
                self.end(now);
            }
            if self.waiting == 0 && !self.asking {
                self.around.live.publish(&self.tally);
                return self.tally;
            }
            let mut wake_at = self.expire_at;
            if self.asking {
                wake_at = wake_at.min(self.work.wake_at(!self.client.idle.is_empty()));
                wake_at = self.client.resting.front().map_or(wake_at, |(at, _)| wake_at.min(*at));
            }
            for at in 0..self.client.sockets.wait(self.client.clock, wake_at) {
                self.progress(self.client.sockets.index(at));
            }
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
        for _ in 0..self.client.idle.len() {
            let now = self.client.clock.now();
            let Some(due) = self.work.due(now) else { return };
            let Some(index) = self.client.idle.pop_front() else { return };
            if self.client.draw(index, self.work.is_fill(), self.around.plan) {
                self.work.advance();
                self.start(index, due, now);
            } else {
                // Its source has nobody left; it may have again.
                self.client.idle.push_back(index);
            }
        }
    }

    fn start(&mut self, index: usize, due: u64, now: u64) {
        let connection = &mut self.client.connections[index];
        connection.state = State::Asking;
        (connection.due, connection.sent) = (due, now);
        self.tally.send(connection.action, connection.request.len());
        self.waiting += 1;
        self.open(index);
    }

    /// Sends the request, over a new connection if there is none.
    fn open(&mut self, index: usize) {
        let connection = &mut self.client.connections[index];
        connection.written = 0;
        connection.answer.clear();
        if connection.stream.is_none() {
            let source = self.client.sources[connection.source].ip;
            match connection.open(&self.client.sockets, self.client.target, source, index) {
                Ok(()) => self.tally.connections += 1,
                Err(error) => return self.fail(index, &error.to_string()),
            }
        }
        self.progress(index);
    }

    /// Goes on with whatever that connection does, until the kernel has no more.
    fn progress(&mut self, index: usize) {
        let Client { connections, buffer, .. } = &mut *self.client;
        let connection = &mut connections[index];
        let Some(stream) = &mut connection.stream else { return };
        while connection.state == State::Asking && connection.written < connection.request.len() {
            match stream.write(&connection.request[connection.written..]) {
                Ok(count) => connection.written += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => return self.fail(index, &error.to_string()),
            }
        }
        loop {
            match stream.read(buffer) {
                Ok(0) => return self.fail(index, "closed before the answer"),
                Ok(count) => {
                    self.tally.bytes_received += count as u64;
                    match connection.state {
                        State::Asking => connection.answer.extend_from_slice(&buffer[..count]),
                        State::Idle | State::Closing => {
                            // Nobody asked for that.
                            self.tally.fault(Fault::Length);
                            return self.close(index);
                        }
                    }
                    match whole(&connection.answer) {
                        Ok(None) => {}
                        Ok(Some(head)) => return self.take(index, &head),
                        Err(fault) => {
                            self.tally.fault(fault);
                            return self.close(index);
                        }
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => return self.fail(index, &error.to_string()),
            }
        }
    }

    /// Reads an answer that is whole.
    fn take(&mut self, index: usize, head: &ResponseHead) {
        let now = self.client.clock.now();
        let connection = &mut self.client.connections[index];
        match connection.verify(head, self.around.plan.rigour) {
            Ok(answer) => {
                let nanos = now.saturating_sub(connection.due);
                self.tally.reply(connection.action, answer, nanos, self.asking);
                self.answered_at = now;
            }
            Err(wrong) => self.tally.fault(wrong),
        }
        let trailing = connection.answer.len() > head.head_bytes + head.body_bytes;
        if trailing {
            self.tally.fault(Fault::Length);
        }
        connection.used = true;
        if trailing {
            self.close(index);
        } else if head.keep_alive {
            connection.state = State::Idle;
            self.waiting -= 1;
            self.client.idle.push_back(index);
        } else {
            // The tracker closes first, so that it and not we keep the port in TIME_WAIT.
            connection.state = State::Closing;
            self.progress(index);
        }
    }

    /// The connection has ended, or failed.
    fn fail(&mut self, index: usize, cause: &str) {
        let connection = &mut self.client.connections[index];
        match connection.state {
            State::Idle | State::Closing => self.close(index),
            // It was closed while it was idle and we did not know yet: RFC 9112 section 9.3.1.
            State::Asking if connection.used && connection.answer.is_empty() => {
                // Once: if it cannot be opened again, that is a failure.
                (connection.stream, connection.used) = (None, false);
                self.open(index);
            }
            State::Asking => {
                self.tally.connection_error(cause);
                self.repeat(index);
                let connection = &mut self.client.connections[index];
                (connection.stream, connection.state) = (None, State::Idle);
                self.waiting -= 1;
                let until = self.client.clock.now() + REST_NANOS;
                self.client.resting.push_back((until, index));
            }
        }
    }

    /// Its peer has another turn if every peer is to announce once.
    fn repeat(&mut self, index: usize) {
        let Client { connections, sources, .. } = &mut *self.client;
        let Connection { source, action, peer, .. } = connections[index];
        if self.work.is_fill() && action == Action::Announce {
            sources[source].turns.repeat(peer);
        }
    }

    /// Closes a connection that has nothing more to do.
    fn close(&mut self, index: usize) {
        let connection = &mut self.client.connections[index];
        connection.stream = None;
        if connection.state != State::Idle {
            connection.state = State::Idle;
            self.waiting -= 1;
            self.client.idle.push_back(index);
        }
    }

    /// Gives up what has waited for too long. Its connection goes too: the answer that is still to
    /// come would be taken for the next one's.
    fn expire(&mut self, now: u64) {
        for index in 0..self.client.connections.len() {
            let connection = &self.client.connections[index];
            if connection.state == State::Idle || now < connection.sent + self.timeout {
                continue;
            }
            if connection.state == State::Asking {
                self.tally.lost += 1;
                self.repeat(index);
            } else {
                self.tally.connection_error("not closed after its answer");
            }
            self.close(index);
        }
    }
}

impl Connection {
    /// Begins to connect.
    fn open(
        &mut self,
        sockets: &Sockets,
        target: SocketAddr,
        source: IpAddr,
        index: usize,
    ) -> io::Result<()> {
        let stream = sockets.connect(target, source, index)?;
        // Only now is it known where the kernel has us connect from.
        self.ip = stream.local_addr()?.ip();
        if let Asked::Announce { own, .. } = &mut self.asked {
            *own = Endpoint::new(self.ip, own.port());
        }
        (self.stream, self.used) = (Some(stream), false);
        Ok(())
    }

    /// Whether the answer is a right one.
    fn verify(&self, head: &ResponseHead, rigour: Rigour) -> Result<Answer, Wrong<'_>> {
        if head.status != 200 {
            // From the version to the end of the line.
            let line = self.answer.split(|&byte| byte == b'\r').next().unwrap_or_default();
            return Err(Wrong { fault: Fault::Status, text: line });
        }
        let body = &self.answer[head.head_bytes..][..head.body_bytes];
        match &self.asked {
            Asked::Announce { num_want, own } => {
                verify::http_announce(body, *num_want, own, rigour)
            }
            Asked::Scrape { .. } | Asked::Connect => verify::http_scrape(body, &self.hashes),
        }
    }
}

/// The head of an answer once all of it has come.
fn whole(answer: &[u8]) -> Result<Option<ResponseHead>, Fault> {
    match ResponseHead::parse(answer).map_err(|_| Fault::Head)? {
        None if answer.len() > HTTP_HEAD_BYTES_MAX => Err(Fault::Head),
        None => Ok(None),
        Some(head) if head.body_bytes > BODY_BYTES_MAX => Err(Fault::Head),
        Some(head) => Ok((answer.len() >= head.head_bytes + head.body_bytes).then_some(head)),
    }
}

impl Client {
    /// Writes what that connection asks next; false if its source has nobody left to announce.
    fn draw(&mut self, index: usize, fill: bool, plan: &Plan) -> bool {
        // With a connection for each request any source will do.
        let sources = if self.form.keep_alive { 1 } else { self.sources.len() };
        for _ in 0..sources {
            if !self.form.keep_alive {
                self.next_source = (self.next_source + 1) % sources;
                self.connections[index].source = self.next_source;
            }
            let source = &mut self.sources[self.connections[index].source];
            if !fill {
                let action = plan.mix.draw(&mut self.rng);
                if action == Action::Scrape {
                    self.write_scrape(index, plan.scrape_hashes);
                } else {
                    let peer = self.population.any_peer_of(source.number, &mut self.rng);
                    self.write_announce(index, &peer, Event::None, plan.num_want);
                }
                return true;
            }
            if let Some(peer) = source.turns.next(&self.population) {
                self.write_announce(index, &peer, Event::Started, FILL_NUM_WANT);
                return true;
            }
        }
        false
    }

    fn write_announce(&mut self, index: usize, peer: &Peer, event: Event, num_want: u32) {
        let connection = &mut self.connections[index];
        let own = Endpoint::new(connection.ip, peer.port);
        (connection.action, connection.peer) = (Action::Announce, peer.number);
        connection.asked = Asked::Announce { num_want, own };
        connection.request.clear();
        let announce = self.population.announce(peer, event, num_want);
        self.form.write_announce(&mut connection.request, &announce);
    }

    fn write_scrape(&mut self, index: usize, hashes: u16) {
        let connection = &mut self.connections[index];
        let source = self.sources[connection.source].number;
        connection.hashes.clear();
        for _ in 0..hashes {
            let peer = self.population.any_peer_of(source, &mut self.rng);
            let hash = self.population.info_hash(peer.swarm);
            // The answer is a dictionary: it has each hash once.
            if !connection.hashes.contains(&hash) {
                connection.hashes.push(hash);
            }
        }
        connection.action = Action::Scrape;
        connection.asked = Asked::Scrape { hashes: hashes.into() };
        connection.request.clear();
        self.form.write_scrape(&mut connection.request, &connection.hashes);
    }
}
