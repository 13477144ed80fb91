//! HTTP connections: bytes in, one request after the other to the tracker, bytes out.
//!
//! A connection has at most one operation in flight, a read or a write, so its order is plain, and
//! it can be closed the moment none is. Requests are parsed where the kernel put them; only the
//! beginning of a request whose rest has not come is copied. Every state has a deadline.
//!
//! ```text
//! accepted -> Reading -> (requests) -> Writing -> Reading ...     keep-alive
//!                |           |            `----> closed           close
//!                |           `-> Waiting -> Writing               another core owns the swarm
//!                |                         `-> Draining -> closed after bytes that we do not read
//!                `-> Closing -> closed                            at a deadline
//! ```

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::net::Shutdown;

use super::ring::{Ring, Token};
use crate::limits::{HTTP_PIPELINE_MAX, HTTP_RESPONSE_BYTES_MAX, PENDING_SCRAPE_SECONDS};
use crate::time::Seconds;
use crate::tracker::http::{Connection, HttpAnswer};
use crate::tracker::{Effects, Tracker};
use crate::wire::http::{self, Head, Method};

/// Seconds for the other side to stop sending what we do not read.
const DRAIN_SECONDS: u32 = 2;
/// Seconds that a request may wait for another core; longer than a scrape's own bound.
const WAIT_SECONDS: u32 = PENDING_SCRAPE_SECONDS + 1;
/// Buffers kept for the next connection that needs one.
const SPARE_BUFFERS: usize = 256;
/// Bytes above which a buffer is not kept.
const SPARE_BYTES_MAX: usize = 64 * 1_024;

/// The bounds of HTTP connections.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections open at once on this core.
    pub connections_max: usize,
    /// Seconds from the first byte of a request to the end of its head.
    pub head_secs: u32,
    /// Seconds between two requests.
    pub idle_secs: u32,
    /// Seconds for a response to be taken.
    pub write_secs: u32,
}

/// What a connection is about.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    /// A read is in flight.
    Reading,
    /// The owner of a swarm has been asked; nothing is in flight.
    Waiting { keep_alive: bool, head_only: bool },
    /// A write is in flight, of which so many bytes have gone.
    Writing { sent: usize },
    /// The last response has gone; a read is in flight whose bytes do not matter.
    Draining,
    /// Shut down at a deadline; what is in flight comes to its end.
    Closing,
}

/// What happens when everything that has been written has gone.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum After {
    /// The next request.
    KeepAlive,
    /// The end: nothing more should be coming. What has come all the same makes it a drain.
    Close,
    /// The end, but there may be bytes that we have not read: closing at once would reset the
    /// connection, and the response would be lost.
    Drain,
}

/// What to do next with a connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Step {
    Read {
        later: bool,
    },
    /// The same read again, under the same deadline: there was no buffer for it.
    Retry,
    Write,
    Wait,
    Close,
    Nothing,
}

/// One connection.
#[derive(Debug)]
struct Conn {
    stream: OwnedFd,
    peer: IpAddr,
    state: State,
    after: After,
    deadline: Seconds,
    /// When the first byte of an unfinished request head came.
    head_began: Option<Seconds>,
    /// Bytes that came and are not used up: the beginning of a request, or further requests.
    input: Vec<u8>,
    /// Bytes of `input` that have been searched for the end of a head in vain.
    searched: usize,
    /// Responses not yet given to the kernel.
    output: Vec<u8>,
}

/// A place for a connection.
#[derive(Debug, Default)]
struct Slot {
    generation: u32,
    conn: Option<Conn>,
}

/// All connections of one core.
#[derive(Debug)]
pub struct Connections {
    limits: Limits,
    slots: Vec<Slot>,
    free: Vec<u32>,
    spare: Vec<Vec<u8>>,
    /// Where the tracker writes a body.
    body: Vec<u8>,
}

impl Connections {
    /// No connection yet.
    #[must_use]
    pub const fn new(limits: Limits) -> Self {
        Self { limits, slots: Vec::new(), free: Vec::new(), spare: Vec::new(), body: Vec::new() }
    }

    /// Connections open.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Whether there are as many connections as may be.
    #[must_use]
    pub const fn is_full(&self) -> bool {
        self.count() >= self.limits.connections_max
    }

    /// Takes a new connection, unless its other side has gone already.
    pub fn accepted(&mut self, now: Seconds, stream: OwnedFd, ring: &mut Ring) {
        let Some(peer) = peer_of(&stream) else { return };
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            u32::try_from(self.slots.len() - 1).expect("bounded by descriptors")
        });
        let Slot { generation, conn } = &mut self.slots[slot as usize];
        *generation = generation.wrapping_add(1);
        let token = Token::new(slot, *generation);
        ring.read(stream.as_raw_fd(), token, false);
        *conn = Some(Conn {
            stream,
            peer,
            state: State::Reading,
            after: After::KeepAlive,
            deadline: now.plus(self.limits.idle_secs),
            head_began: None,
            input: Vec::new(),
            searched: 0,
            output: Vec::new(),
        });
    }

    /// Bytes came: answers the requests in them. `bytes` is empty at the end of the stream, `None`
    /// if there was no buffer to read into.
    ///
    /// Returns what [`Connections::proceed`] needs to go on.
    pub fn received(
        &mut self,
        now: Seconds,
        token: Token,
        bytes: Option<&[u8]>,
        tracker: &mut Tracker,
        effects: &mut impl Effects,
    ) -> Progress {
        let Some(conn) = find(&mut self.slots, token) else { return Progress(Step::Close) };
        if conn.state == State::Closing {
            return Progress(Step::Close);
        }
        let Some(bytes) = bytes else { return Progress(Step::Retry) };
        if bytes.is_empty() {
            return Progress(Step::Close);
        }
        if conn.state == State::Draining {
            return Progress(Step::Read { later: true });
        }
        conn.head_began = conn.head_began.or(Some(now));
        if conn.output.capacity() == 0 {
            conn.output = self.spare.pop().unwrap_or_default();
        }
        let mut serving = Serving { now, token, tracker, effects, body: &mut self.body };
        if conn.input.is_empty() {
            let used = serving.serve(conn, bytes);
            if used < bytes.len() {
                conn.input = self.spare.pop().unwrap_or_default();
                conn.input.extend_from_slice(&bytes[used..]);
            }
        } else {
            conn.input.extend_from_slice(bytes);
            serving.serve_input(conn);
        }
        Progress(conn.next_step())
    }

    /// The answer came for which a request was waiting.
    pub fn answered(&mut self, token: Token, body: &[u8]) -> Progress {
        // It may have been answered as late already, or be gone.
        let Some(conn) = find(&mut self.slots, token) else { return Progress(Step::Nothing) };
        let State::Waiting { keep_alive, head_only } = conn.state else {
            return Progress(Step::Nothing);
        };
        conn.respond(http::Status::Ok, body, keep_alive, head_only);
        conn.state = State::Reading;
        // Further requests are served once this has gone, so that output stays bounded.
        Progress(Step::Write)
    }

    /// Bytes went out: the rest of them, the next request, or the end.
    pub fn written(
        &mut self,
        now: Seconds,
        token: Token,
        (result, mut buffer): (std::io::Result<u32>, Vec<u8>),
        tracker: &mut Tracker,
        effects: &mut impl Effects,
    ) -> Progress {
        let Some(conn) = find(&mut self.slots, token) else { return Progress(Step::Close) };
        let (State::Writing { sent }, Ok(count)) = (conn.state, result) else {
            return Progress(Step::Close);
        };
        tracker.counters_mut().http_sent_bytes[0] += u64::from(count);
        let sent = sent + count as usize;
        if count == 0 {
            return Progress(Step::Close);
        }
        if sent < buffer.len() {
            conn.state = State::Writing { sent };
            conn.output = buffer;
            return Progress(Step::Write);
        }
        buffer.clear();
        match conn.after {
            // Where something came behind the last request, more of it may be on its way.
            After::Close if conn.input.is_empty() => Progress(Step::Close),
            After::Close | After::Drain => {
                conn.state = State::Draining;
                conn.deadline = now.plus(DRAIN_SECONDS);
                recycle(&mut self.spare, buffer);
                recycle(&mut self.spare, std::mem::take(&mut conn.input));
                let _ = rustix::net::shutdown(&conn.stream, Shutdown::Write);
                Progress(Step::Read { later: true })
            }
            After::KeepAlive => {
                conn.state = State::Reading;
                conn.output = buffer;
                Serving { now, token, tracker, effects, body: &mut self.body }.serve_input(conn);
                Progress(conn.next_step())
            }
        }
    }

    /// Does what a step came to: hands the next operation to the ring, or closes.
    pub fn proceed(&mut self, now: Seconds, token: Token, progress: Progress, ring: &mut Ring) {
        let Some(conn) = find(&mut self.slots, token) else { return };
        match progress.0 {
            Step::Read { later } => {
                if conn.state != State::Draining {
                    conn.state = State::Reading;
                    conn.deadline = match conn.head_began {
                        Some(began) => began.plus(self.limits.head_secs),
                        None => now.plus(self.limits.idle_secs),
                    };
                }
                if conn.input.is_empty() {
                    recycle(&mut self.spare, std::mem::take(&mut conn.input));
                }
                recycle(&mut self.spare, std::mem::take(&mut conn.output));
                ring.read(conn.stream.as_raw_fd(), token, later);
            }
            Step::Retry => ring.read(conn.stream.as_raw_fd(), token, false),
            Step::Nothing => {}
            Step::Write => {
                let sent = match conn.state {
                    State::Writing { sent } => sent,
                    _ => 0,
                };
                conn.state = State::Writing { sent };
                conn.deadline = now.plus(self.limits.write_secs);
                let output = std::mem::take(&mut conn.output);
                ring.write(conn.stream.as_raw_fd(), token, output, sent);
            }
            Step::Wait => conn.deadline = now.plus(WAIT_SECONDS),
            Step::Close => {
                if let Some(conn) = self.slots[token.slot()].conn.take() {
                    recycle(&mut self.spare, conn.input);
                    recycle(&mut self.spare, conn.output);
                    self.free.push(u32::try_from(token.slot()).expect("it came from a u32"));
                }
            }
        }
    }

    /// Ends what has taken too long. Cost: one look at every connection.
    pub fn expire(&mut self, now: Seconds, tracker: &mut Tracker, ring: &mut Ring) {
        for index in 0..self.slots.len() {
            let Slot { generation, conn } = &mut self.slots[index];
            let Some(conn) = conn.as_mut().filter(|conn| conn.deadline < now) else { continue };
            let slot = u32::try_from(index).expect("bounded by descriptors");
            let token = Token::new(slot, *generation);
            match conn.state {
                State::Closing => {}
                State::Waiting { head_only, .. } => {
                    let status = tracker.handle_late_http(conn.peer, &mut self.body);
                    conn.respond(status, &self.body, false, head_only);
                    self.proceed(now, token, Progress(Step::Write), ring);
                }
                State::Reading | State::Writing { .. } | State::Draining => {
                    tracker.counters_mut().http_connections_timed_out[0] += 1;
                    conn.state = State::Closing;
                    // What is in flight completes now, and its completion closes.
                    let _ = rustix::net::shutdown(&conn.stream, Shutdown::Both);
                }
            }
        }
    }

    /// Shuts all connections down, at the end of the process.
    pub fn shut_down(&mut self) {
        for conn in self.slots.iter_mut().filter_map(|slot| slot.conn.as_mut()) {
            let _ = rustix::net::shutdown(&conn.stream, Shutdown::Both);
        }
    }
}

/// How a connection goes on; made by the handlers, done by [`Connections::proceed`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Progress(Step);

impl Conn {
    fn respond(&mut self, status: http::Status, body: &[u8], keep_alive: bool, head_only: bool) {
        http::write_response(&mut self.output, status, body, keep_alive, head_only);
        if !keep_alive && self.after == After::KeepAlive {
            self.after = After::Close;
        }
    }

    fn next_step(&self) -> Step {
        match self.state {
            State::Waiting { .. } => Step::Wait,
            _ if !self.output.is_empty() => Step::Write,
            // An answer is a few microseconds old at most: the next request has not come yet.
            _ => Step::Read { later: self.head_began.is_none() },
        }
    }
}

/// What serving requests needs.
struct Serving<'a, E> {
    now: Seconds,
    token: Token,
    tracker: &'a mut Tracker,
    effects: &'a mut E,
    body: &'a mut Vec<u8>,
}

impl<E: Effects> Serving<'_, E> {
    /// Serves the requests that stand in the connection's own buffer.
    fn serve_input(&mut self, conn: &mut Conn) {
        let mut input = std::mem::take(&mut conn.input);
        if !input.is_empty() {
            let used = self.serve(conn, &input);
            input.drain(..used);
        }
        conn.input = input;
    }

    /// Serves requests from the front of `buffer`, until one is incomplete, waits for another core,
    /// is the last, or enough have been answered for one write. Returns how many bytes are used up.
    fn serve(&mut self, conn: &mut Conn, buffer: &[u8]) -> usize {
        let mut used = 0;
        for _ in 0..HTTP_PIPELINE_MAX {
            let rest = &buffer[used..];
            let parsed = match http::head_end(rest, conn.searched) {
                Ok(None) => {
                    conn.searched = rest.len();
                    conn.head_began = (!rest.is_empty()).then(|| {
                        // A pipelined head began when it was first looked at.
                        if used > 0 { self.now } else { conn.head_began.unwrap_or(self.now) }
                    });
                    return used;
                }
                Ok(Some(end)) => Head::parse(&rest[..end]).map(|head| (head, end)),
                Err(error) => Err(error),
            };
            conn.searched = 0;
            let (head, end) = match parsed {
                Ok(parsed) => parsed,
                Err(error) => {
                    let status = self.tracker.handle_bad_http(conn.peer, error, self.body);
                    conn.respond(status, self.body, false, false);
                    conn.after = After::Drain;
                    return buffer.len();
                }
            };
            used += end;
            conn.head_began = None;
            let (keep_alive, head_only) = (head.keep_alive, head.method == Method::Head);
            let from = (conn.peer, Connection(self.token.to_bits()));
            match self.tracker.handle_http(self.now, from, &head, self.body, self.effects) {
                HttpAnswer::Ready(status) => {
                    conn.respond(status, self.body, keep_alive, head_only);
                    if !keep_alive || conn.output.len() >= HTTP_RESPONSE_BYTES_MAX {
                        return used;
                    }
                }
                HttpAnswer::Pending => {
                    conn.state = State::Waiting { keep_alive, head_only };
                    return used;
                }
            }
        }
        used
    }
}

fn find(slots: &mut [Slot], token: Token) -> Option<&mut Conn> {
    let Slot { generation, conn } = slots.get_mut(token.slot())?;
    let slot = u32::try_from(token.slot()).ok()?;
    conn.as_mut().filter(|_| Token::new(slot, *generation) == token)
}

fn recycle(spare: &mut Vec<Vec<u8>>, mut buffer: Vec<u8>) {
    if buffer.capacity() > 0 && buffer.capacity() <= SPARE_BYTES_MAX && spare.len() < SPARE_BUFFERS
    {
        buffer.clear();
        spare.push(buffer);
    }
}

fn peer_of(stream: &OwnedFd) -> Option<IpAddr> {
    let address = rustix::net::getpeername(stream).ok()??;
    SocketAddr::try_from(address).ok().map(|address| address.ip().to_canonical())
}
