//! TCP connections: bytes in, requests or messages to the tracker, bytes out.
//!
//! Over HTTP a connection has at most one operation in flight, a read or a write, so its order is
//! plain. A WebSocket has a read in flight always, and a write whenever there is something to say.
//! Requests are parsed where the kernel put them; only the beginning of a request whose rest has
//! not come is copied. Every state has a deadline. A connection is closed the moment nothing of it
//! is in flight; until then its place is not given to another one.
//!
//! ```text
//! accepted -> Reading -> (requests) -> Writing -> Reading ...     keep-alive
//!                |  |        |            `----> closed           close
//!                |  |        `-> Waiting -> Writing               another core owns the swarm
//!                |  |                      `-> Draining -> closed after bytes that we do not read
//!                |  `-> Open -> Draining -> closed                WebSocket
//!                `-> Closing -> closed                            at a deadline
//! ```

mod serving;
mod websocket;
#[cfg(test)]
mod websocket_tests;

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::net::Shutdown;

use self::serving::Serving;
use self::websocket::{Life, Reason, WebSocket};
use super::ring::{Ring, Token};
use crate::limits::{
    PENDING_SCRAPE_SECONDS, WEB_CLOSE_SECONDS, WEB_IDLE_SECONDS, WEB_PING_SECONDS,
    WEB_QUEUE_BYTES_MAX, WEB_SILENT_SECONDS,
};
use crate::time::Seconds;
use crate::tracker::{Effects, Tracker};
use crate::wire::http;

/// Seconds for the other side to stop sending what we do not read.
const DRAIN_SECONDS: u32 = 2;
/// Seconds that a request may wait for another core; longer than a scrape's own bound.
const WAIT_SECONDS: u32 = PENDING_SCRAPE_SECONDS + 1;
/// Buffers kept for the next connection that needs one.
const SPARE_BUFFERS: usize = 256;
/// Bytes above which a buffer is not kept.
const SPARE_BYTES_MAX: usize = 64 * 1_024;

/// The bounds of connections.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections open at once on this core.
    pub connections_max: usize,
    /// Seconds from the first byte of a request to the end of its head.
    pub head_secs: u32,
    /// Seconds between two requests, and from the first byte of a message to its end.
    pub idle_secs: u32,
    /// Seconds for what has been written to be taken.
    pub write_secs: u32,
}

/// What a connection is about.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    /// A read is in flight.
    Reading,
    /// The owner of a swarm has been asked; nothing is in flight.
    Waiting { keep_alive: bool, head_only: bool },
    /// A write is in flight.
    Writing,
    /// A WebSocket: a read is in flight, and perhaps a write.
    Open,
    /// The last response has gone; a read is in flight whose bytes do not matter.
    Draining,
    /// Shut down; what is in flight comes to its end.
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
    /// Whatever of reading and writing a WebSocket needs.
    Both,
    Drain,
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
    /// What has not yet been given to the kernel.
    output: Vec<u8>,
    /// What the kernel took in part, and how much of it.
    unsent: Option<(Vec<u8>, usize)>,
    /// A read is in flight.
    reading: bool,
    /// A write is in flight, of bytes behind so many that had gone before.
    writing: Option<usize>,
    web: Option<Box<Web>>,
}

/// What only a WebSocket has.
#[derive(Debug)]
struct Web {
    socket: WebSocket,
    life: Life,
    /// When bytes last came.
    heard: Seconds,
    /// When a message last came.
    asked: Seconds,
    pinged: Seconds,
    /// When the message that has not ended began.
    message_began: Option<Seconds>,
    /// When the write in flight began.
    write_began: Seconds,
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
    /// WebSockets that have been closed, of which the tracker has not been told.
    closed: Vec<Token>,
}

impl Connections {
    /// No connection yet.
    #[must_use]
    pub const fn new(limits: Limits) -> Self {
        Self {
            limits,
            slots: Vec::new(),
            free: Vec::new(),
            spare: Vec::new(),
            body: Vec::new(),
            closed: Vec::new(),
        }
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

    /// A WebSocket that has been closed since this was last asked.
    pub fn take_closed(&mut self) -> Option<Token> {
        self.closed.pop()
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
            unsent: None,
            reading: true,
            writing: None,
            web: None,
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
        conn.reading = false;
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
        if conn.output.capacity() == 0 {
            conn.output = self.spare.pop().unwrap_or_default();
        }
        let mut serving = Serving { now, token, tracker, effects, body: &mut self.body };
        if conn.state == State::Open {
            serving.messages(conn, bytes);
            return Progress(conn.next_step());
        }
        conn.head_began = conn.head_began.or(Some(now));
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

    /// There is a message for a WebSocket. One that does not read what it is sent is closed.
    pub fn send_web(&mut self, token: Token, text: &[u8], tracker: &mut Tracker) -> Progress {
        let Some(conn) = find(&mut self.slots, token) else { return Progress(Step::Nothing) };
        let (State::Open, Some(web)) = (conn.state, &conn.web) else {
            return Progress(Step::Nothing);
        };
        if conn.output.len() + text.len() > WEB_QUEUE_BYTES_MAX {
            tracker.counters_mut().web_connections_slow[0] += 1;
            return Progress(Step::Close);
        }
        if conn.output.capacity() == 0 {
            conn.output = self.spare.pop().unwrap_or_default();
        }
        web.socket.send(text, &mut conn.output);
        Progress(Step::Both)
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
        let (Some(before), Ok(count)) = (conn.writing.take(), result) else {
            return Progress(Step::Close);
        };
        tracker.counters_mut().http_sent_bytes[0] += u64::from(count);
        if count == 0 || conn.state == State::Closing {
            return Progress(Step::Close);
        }
        let sent = before + count as usize;
        if sent < buffer.len() {
            conn.unsent = Some((buffer, sent));
            return Progress(if conn.state == State::Open { Step::Both } else { Step::Write });
        }
        buffer.clear();
        if conn.state == State::Open {
            if conn.output.capacity() == 0 {
                conn.output = buffer;
            } else {
                recycle(&mut self.spare, buffer);
            }
            return Progress(conn.next_step());
        }
        match conn.after {
            // Where something came behind the last request, more of it may be on its way.
            After::Close if conn.input.is_empty() => Progress(Step::Close),
            After::Close | After::Drain => {
                recycle(&mut self.spare, buffer);
                Progress(Step::Drain)
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
                conn.read(token, later, ring);
            }
            Step::Retry => conn.read(token, false, ring),
            Step::Nothing => {}
            Step::Write => {
                conn.state = State::Writing;
                conn.deadline = now.plus(self.limits.write_secs);
                conn.write(token, ring);
            }
            Step::Wait => conn.deadline = now.plus(WAIT_SECONDS),
            Step::Both => {
                if !conn.reading {
                    conn.read(token, true, ring);
                }
                if conn.writing.is_some() {
                    return;
                }
                if conn.has_output() {
                    conn.write(token, ring);
                    conn.web_mut().write_began = now;
                } else {
                    recycle(&mut self.spare, std::mem::take(&mut conn.output));
                }
            }
            Step::Drain => {
                conn.state = State::Draining;
                conn.deadline = now.plus(DRAIN_SECONDS);
                recycle(&mut self.spare, std::mem::take(&mut conn.input));
                recycle(&mut self.spare, std::mem::take(&mut conn.output));
                if conn.web.take().is_some() {
                    self.closed.push(token);
                }
                let _ = rustix::net::shutdown(&conn.stream, Shutdown::Write);
                if !conn.reading {
                    conn.read(token, true, ring);
                }
            }
            Step::Close => {
                if conn.web.take().is_some() {
                    self.closed.push(token);
                }
                if conn.reading || conn.writing.is_some() {
                    conn.state = State::Closing;
                    let _ = rustix::net::shutdown(&conn.stream, Shutdown::Both);
                } else if let Some(conn) = self.slots[token.slot()].conn.take() {
                    recycle(&mut self.spare, conn.input);
                    recycle(&mut self.spare, conn.output);
                    self.free.push(u32::try_from(token.slot()).expect("it came from a u32"));
                }
            }
        }
    }

    /// Ends what has taken too long, and pings WebSockets. Cost: one look at every connection.
    pub fn expire(&mut self, now: Seconds, tracker: &mut Tracker, ring: &mut Ring) {
        for index in 0..self.slots.len() {
            let Slot { generation, conn } = &mut self.slots[index];
            let Some(conn) = conn.as_mut() else { continue };
            let slot = u32::try_from(index).expect("bounded by descriptors");
            let token = Token::new(slot, *generation);
            if conn.state == State::Open {
                let step = conn.look_after(now, &self.limits);
                tracker.counters_mut().http_connections_timed_out[0] +=
                    u64::from(step == Step::Close);
                self.proceed(now, token, Progress(step), ring);
                continue;
            }
            if conn.deadline >= now {
                continue;
            }
            match conn.state {
                State::Closing | State::Open => {}
                State::Waiting { head_only, .. } => {
                    let status = tracker.handle_late_http(conn.peer, &mut self.body);
                    conn.respond(status, &self.body, false, head_only);
                    self.proceed(now, token, Progress(Step::Write), ring);
                }
                State::Reading | State::Writing | State::Draining => {
                    tracker.counters_mut().http_connections_timed_out[0] += 1;
                    // What is in flight completes now, and its completion closes.
                    self.proceed(now, token, Progress(Step::Close), ring);
                }
            }
        }
    }

    /// Tells WebSockets that the process ends: what they are told leaves with the next turns.
    pub fn say_goodbye(&mut self, now: Seconds, ring: &mut Ring) {
        for index in 0..self.slots.len() {
            let Slot { generation, conn } = &mut self.slots[index];
            let Some(conn) = conn.as_mut().filter(|conn| conn.state == State::Open) else {
                continue;
            };
            let slot = u32::try_from(index).expect("bounded by descriptors");
            let token = Token::new(slot, *generation);
            conn.close_web(now, Reason::GoingAway);
            self.proceed(now, token, Progress(Step::Both), ring);
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
            State::Open => {
                let ended = self.web.as_ref().is_none_or(|web| web.life == Life::Ended);
                let all_gone = self.writing.is_none() && !self.has_output();
                if ended && all_gone { Step::Drain } else { Step::Both }
            }
            _ if !self.output.is_empty() => Step::Write,
            // An answer is a few microseconds old at most: the next request has not come yet.
            _ => Step::Read { later: self.head_began.is_none() },
        }
    }

    const fn has_output(&self) -> bool {
        !self.output.is_empty() || self.unsent.is_some()
    }

    fn read(&mut self, token: Token, later: bool, ring: &mut Ring) {
        self.reading = true;
        ring.read(self.stream.as_raw_fd(), token, later);
    }

    fn write(&mut self, token: Token, ring: &mut Ring) {
        let whole = || (std::mem::take(&mut self.output), 0);
        let (buffer, sent) = self.unsent.take().unwrap_or_else(whole);
        self.writing = Some(sent);
        ring.write(self.stream.as_raw_fd(), token, buffer, sent);
    }

    /// It becomes a WebSocket.
    fn open_web(&mut self, now: Seconds) {
        self.state = State::Open;
        self.web = Some(Box::new(Web {
            socket: WebSocket::default(),
            life: Life::Open,
            heard: now,
            asked: now,
            pinged: now,
            message_began: None,
            write_began: now,
        }));
    }

    fn web_mut(&mut self) -> &mut Web {
        self.web.as_deref_mut().expect("an open connection is a WebSocket")
    }

    fn close_web(&mut self, now: Seconds, reason: Reason) {
        let Some(web) = &mut self.web else { return };
        if web.life == Life::Open {
            web.socket.close(reason, &mut self.output);
            web.life = Life::Closing;
            web.asked = now;
        }
    }

    /// What time demands of a WebSocket.
    fn look_after(&mut self, now: Seconds, limits: &Limits) -> Step {
        let late = |since: Seconds, secs: u32| now.since(since) > secs;
        let Some(web) = &mut self.web else { return Step::Close };
        if self.writing.is_some() && late(web.write_began, limits.write_secs) {
            return Step::Close;
        }
        match web.life {
            // The other side does not answer our close, or does not take the last of what we say.
            Life::Closing | Life::Ended if late(web.asked, WEB_CLOSE_SECONDS) => Step::Close,
            Life::Closing | Life::Ended => Step::Nothing,
            Life::Open if late(web.heard, WEB_SILENT_SECONDS) => Step::Close,
            Life::Open if web.message_began.is_some_and(|began| late(began, limits.idle_secs)) => {
                Step::Close
            }
            Life::Open if late(web.asked, WEB_IDLE_SECONDS) => {
                self.close_web(now, Reason::GoingAway);
                Step::Both
            }
            Life::Open if late(web.pinged, WEB_PING_SECONDS - 1) => {
                web.pinged = now;
                web.socket.ping(&mut self.output);
                Step::Both
            }
            Life::Open => Step::Nothing,
        }
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
