//! TCP connections: bytes in, requests or messages to the tracker, bytes out.
//!
//! Over HTTP a connection has at most one operation in flight, a read or a write, so its order is
//! plain. A WebSocket has a read in flight always, and a write whenever there is something to say.
//! Requests are parsed where the kernel put them; only the beginning of a request whose rest has
//! not come is copied. Every state has a deadline. A connection is closed the moment nothing of it
//! is in flight; until then its place is not given to another one.
//!
//! ```text
//! accepted -> [PROXY header] -> [TLS handshake] -> Reading
//!
//! Reading -> (requests) -> Writing -> Reading ...      keep-alive
//!    |  |        |            `----> closed            close
//!    |  |        `-> Waiting -> Writing                another core owns the swarm
//!    |  |                      `-> Draining -> closed  after bytes that we do not read
//!    |  `-> Open -> Draining -> closed                 WebSocket
//!    `-> Closing -> closed                             at a deadline
//! ```

mod admission;
mod conn;
mod crowd;
mod expiry;
mod layer;
mod places;
mod serving;
mod tls;
mod websocket;

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use rustix::net::Shutdown;
use rustls::ServerConfig;

use self::admission::Admitted;
pub use self::admission::Refused;
use self::conn::{After, Conn, State, Step};
use self::crowd::Crowd;
use self::expiry::Pass;
use self::layer::{Layer, Peeled};
use self::places::{Places, Slot};
use self::serving::Serving;
use self::tls::Tls;
use self::websocket::Reason;
use super::ring::{Ring, Token};
use crate::limits::{
    HURRIED_WRITE_MILLIS, PENDING_SCRAPE_SECONDS, WEB_QUEUE_BYTES_MAX, WEB_RELAYED_BYTES_MAX,
    WRITES_AT_EASE_MAX,
};
use crate::time::Millis;
use crate::tracker::published::Pages;
use crate::tracker::{Effects, Tracker, WebKind};
use crate::wire::addr::Family;
use crate::wire::http;

/// Seconds for the other side to stop sending what we do not read.
const DRAIN_SECONDS: u32 = 2;
/// Seconds that a request may wait for another core; longer than a scrape's own bound.
const WAIT_SECONDS: u32 = PENDING_SCRAPE_SECONDS + 1;
/// Buffers kept for the next connection that needs one.
const SPARE_BUFFERS: usize = 256;
/// Bytes above which a buffer is not kept.
const SPARE_BYTES_MAX: usize = 64 * 1_024;
/// Bytes that wait for a WebSocket, beside those on their way, above which it is not read from.
const WEB_UNHEARD_BYTES: usize = 32 * 1_024;

/// The bounds of connections.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections open at once on this core.
    pub connections_max: usize,
    /// Connections of one address open at once on this core; 0: any number.
    pub per_address_max: u32,
    /// Seconds from the first byte of a request to the end of its head.
    pub head_secs: u32,
    /// Seconds between two requests, and from the first byte of a message to its end.
    pub idle_secs: u32,
    /// Seconds a WebSocket may be without a message: longer than its peers wait between two.
    pub web_idle_secs: u32,
    /// Seconds for what has been written to be taken; see [`WRITES_AT_EASE_MAX`].
    pub write_secs: u32,
}

impl Limits {
    /// Milliseconds for what has been written to be taken while so many writes are in flight.
    const fn write_millis(&self, writes: usize) -> u64 {
        if writes > WRITES_AT_EASE_MAX {
            HURRIED_WRITE_MILLIS
        } else {
            self.write_secs as u64 * 1_000
        }
    }
}

/// What stands between the clients of a listener and HTTP.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Listening {
    /// They speak TLS.
    pub tls: bool,
    /// A trusted proxy says first on each connection who the client is.
    pub proxy_protocol: bool,
    /// A trusted proxy says in each request who the client is.
    pub forwarded: bool,
}

/// All connections of one core.
#[derive(Debug)]
pub struct Connections {
    limits: Limits,
    slots: Places,
    free: Vec<u32>,
    spare: Vec<Vec<u8>>,
    /// Writes in flight.
    writes: usize,
    /// Where the tracker writes a body.
    body: Vec<u8>,
    /// WebSockets that have been closed, of which the tracker has not been told.
    closed: Vec<Token>,
    crowd: Crowd,
    /// The look at all deadlines that goes on.
    pass: Pass,
    /// The certificates of connections to come.
    tls: Option<Arc<ServerConfig>>,
    /// `/stats` and `/stats.json`, if they are served.
    pages: Option<Arc<Pages>>,
}

impl Connections {
    /// No connection yet.
    #[must_use]
    pub fn new(limits: Limits, tls: Option<Arc<ServerConfig>>, pages: Option<Arc<Pages>>) -> Self {
        Self {
            limits,
            slots: Places::default(),
            free: Vec::new(),
            spare: Vec::new(),
            writes: 0,
            body: Vec::new(),
            closed: Vec::new(),
            crowd: Crowd::new(limits.per_address_max),
            pass: Pass::new(Instant::now(), 0),
            tls,
            pages,
        }
    }

    /// Serves other pages from now on.
    pub fn set_pages(&mut self, pages: Arc<Pages>) {
        self.pages = Some(pages);
    }

    /// Uses other certificates from the next connection on.
    pub fn set_tls(&mut self, tls: Arc<ServerConfig>) {
        self.tls = Some(tls);
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

    /// Whether bytes that come are for a handshake of TLS.
    #[must_use]
    pub fn is_handshaking(&mut self, token: Token) -> bool {
        let conn = find(&mut self.slots, token);
        conn.is_some_and(|conn| conn.tls().is_some_and(Tls::is_handshaking))
    }

    /// Whether [`Connections::take_closed`] has any.
    #[must_use]
    pub const fn has_closed(&self) -> bool {
        !self.closed.is_empty()
    }

    /// A WebSocket that has been closed since this was last asked.
    pub fn take_closed(&mut self) -> Option<Token> {
        self.closed.pop()
    }

    /// Takes a new connection.
    ///
    /// # Errors
    /// Why not; it is reset.
    pub fn accepted(
        &mut self,
        now: Millis,
        (stream, listening): (OwnedFd, Listening),
        tracker: &mut Tracker,
        ring: &mut Ring,
    ) -> Result<(), Refused> {
        match self.admit(now, &stream, listening, tracker) {
            Ok(admitted) => {
                self.take(now, stream, listening, admitted, ring);
                Ok(())
            }
            Err(refused) => {
                conn::reset_at_end(&stream);
                Err(refused)
            }
        }
    }

    fn take(
        &mut self,
        now: Millis,
        stream: OwnedFd,
        listening: Listening,
        Admitted { peer, counted, tls }: Admitted,
        ring: &mut Ring,
    ) {
        let Listening { proxy_protocol, forwarded, .. } = listening;
        let layer = (proxy_protocol || tls.is_some())
            .then(|| Box::new(Layer { before_header: proxy_protocol, tls }));
        let secs = if layer.is_some() { self.limits.head_secs } else { self.limits.idle_secs };
        let slot = self
            .free
            .pop()
            .unwrap_or_else(|| u32::try_from(self.slots.add()).expect("bounded by descriptors"));
        let place = self.slots.get_mut(slot as usize).expect("there is one of each number");
        let Slot { generation, conn } = place;
        *generation = generation.wrapping_add(1);
        let token = Token::new(slot, *generation);
        ring.read(stream.as_raw_fd(), token, false);
        *conn = Some(Conn {
            stream,
            peer,
            family: Family::of(peer),
            client: peer,
            counted,
            forwarded,
            layer,
            state: State::Reading,
            after: After::KeepAlive,
            deadline: now.plus(secs),
            head_began: None,
            input: Vec::new(),
            searched: 0,
            output: Vec::new(),
            unsent: None,
            reading: true,
            writing: None,
            write_began: now,
            web: None,
        });
    }

    /// There was no buffer to read into, and there may be one now.
    pub fn starved(&mut self, token: Token) -> Progress {
        let Some(conn) = find(&mut self.slots, token) else { return Progress(Step::Nothing) };
        conn.reading = false;
        Progress(if conn.state == State::Closing { Step::Close } else { Step::Retry })
    }

    /// Bytes came: answers the requests in them. `bytes` is empty at the end of the stream.
    ///
    /// Returns what [`Connections::proceed`] needs to go on.
    pub fn received(
        &mut self,
        now: Millis,
        token: Token,
        bytes: &[u8],
        tracker: &mut Tracker,
        effects: &mut impl Effects,
    ) -> Progress {
        let Some(conn) = find(&mut self.slots, token) else { return Progress(Step::Close) };
        tracker.counters_mut().http_received_bytes[conn.family as usize] += bytes.len() as u64;
        conn.reading = false;
        if conn.state == State::Closing {
            return Progress(Step::Close);
        }
        if bytes.is_empty() {
            return Progress(Step::Close);
        }
        if conn.state == State::Draining {
            return Progress(Step::Read { later: true });
        }
        if conn.output.capacity() == 0 {
            conn.output = self.spare.pop().unwrap_or_default();
        }
        let Some(mut layer) = conn.layer.take() else {
            let mut serving = Serving {
                now,
                token,
                tracker,
                effects,
                body: &mut self.body,
                pages: self.pages.as_deref(),
            };
            serving.take(conn, bytes, &mut self.spare);
            return Progress(step_after_serving(conn, tracker));
        };
        let mut plain = self.spare.pop().unwrap_or_default();
        let had_to_be_named = layer.before_header;
        let peeled = layer.peel(now, conn, bytes, &mut plain);
        let named = had_to_be_named && !layer.before_header;
        conn.layer = Some(layer);
        if named && !tracker.policy().is_trusted_proxy(conn.peer) {
            // From here on it is counted for whom the proxy speaks.
            if tracker.bans(conn.peer) {
                tracker.counters_mut().http_connections_banned[0] += 1;
                return Progress(Step::Close);
            }
            if !tracker.admits_connection(now.seconds(), conn.peer) {
                tracker.counters_mut().http_connections_limited[0] += 1;
                return Progress(Step::Close);
            }
            if !self.crowd.enter(conn.peer) {
                tracker.counters_mut().http_connections_refused[0] += 1;
                return Progress(Step::Close);
            }
            conn.counted = Some(conn.peer);
        }
        let step = match peeled {
            Peeled::Plain { last } => {
                if !plain.is_empty() {
                    let mut serving = Serving {
                        now,
                        token,
                        tracker,
                        effects,
                        body: &mut self.body,
                        pages: self.pages.as_deref(),
                    };
                    serving.take(conn, &plain, &mut self.spare);
                }
                let step = step_after_serving(conn, tracker);
                let nothing_to_say = matches!(step, Step::Read { .. }) || conn.web.is_some();
                if last && nothing_to_say { Step::Close } else { step }
            }
            Peeled::NoHeader => {
                tracker.counters_mut().http_proxy_headers_refused[0] += 1;
                Step::Close
            }
            Peeled::NoTls => {
                tracker.counters_mut().tls_handshakes_failed[0] += 1;
                conn.after = After::Drain;
                if conn.web.is_none() && conn.has_output() { Step::Write } else { Step::Close }
            }
        };
        recycle(&mut self.spare, plain);
        Progress(step)
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

    /// There is a message for a WebSocket. One that does not read what it has asked for is closed;
    /// what others send to it is left out before that, lest they can make it so.
    pub fn send_web(
        &mut self,
        token: Token,
        (text, kind): (&[u8], WebKind),
        tracker: &mut Tracker,
    ) -> Progress {
        let Some(conn) = find(&mut self.slots, token) else { return Progress(Step::Nothing) };
        let (State::Open, Some(web)) = (conn.state, &conn.web) else {
            return Progress(Step::Nothing);
        };
        let queued = conn.output.len() + text.len();
        if kind == WebKind::Relayed && queued > WEB_RELAYED_BYTES_MAX {
            tracker.counters_mut().web_undelivered[0] += 1;
            return Progress(Step::Nothing);
        }
        if queued > WEB_QUEUE_BYTES_MAX {
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
        now: Millis,
        token: Token,
        (result, mut buffer): (std::io::Result<u32>, Vec<u8>),
        tracker: &mut Tracker,
        effects: &mut impl Effects,
    ) -> Progress {
        self.writes -= 1;
        let Some(conn) = find(&mut self.slots, token) else { return Progress(Step::Close) };
        let (Some(before), Ok(count)) = (conn.writing.take(), result) else {
            return Progress(Step::Close);
        };
        tracker.counters_mut().http_sent_bytes[conn.family as usize] += u64::from(count);
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
                Serving {
                    now,
                    token,
                    tracker,
                    effects,
                    body: &mut self.body,
                    pages: self.pages.as_deref(),
                }
                .serve_input(conn);
                Progress(conn.next_step())
            }
        }
    }

    /// Does what a step came to: hands the next operation to the ring, or closes.
    pub fn proceed(&mut self, now: Millis, token: Token, progress: Progress, ring: &mut Ring) {
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
                conn.begin_write(now);
                conn.write(token, ring);
                self.writes += 1;
            }
            Step::Wait => conn.deadline = now.plus(WAIT_SECONDS),
            Step::Both => {
                // What was left of the handshake's own reads.
                recycle(&mut self.spare, std::mem::take(&mut conn.input));
                if conn.writing.is_none() {
                    if conn.has_output() {
                        conn.begin_write(now);
                        conn.write(token, ring);
                        self.writes += 1;
                    } else {
                        recycle(&mut self.spare, std::mem::take(&mut conn.output));
                    }
                }
                // One that does not take what it has asked for is not heard until it does.
                if !conn.reading && conn.output.len() <= WEB_UNHEARD_BYTES {
                    conn.read(token, true, ring);
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
                if conn.writing.is_some() || conn.unsent.is_some() {
                    // What the other side does not take would stay in the kernel for minutes.
                    conn.reset_at_end();
                }
                if conn.reading || conn.writing.is_some() {
                    conn.state = State::Closing;
                    // Enough to end what is in flight: how the other side is told is up to the end.
                    let how = if conn.writing.is_some() { Shutdown::Both } else { Shutdown::Read };
                    let _ = rustix::net::shutdown(&conn.stream, how);
                } else if let Some(place) = self.slots.get_mut(token.slot())
                    && let Some(conn) = place.conn.take()
                {
                    if let Some(counted) = conn.counted {
                        self.crowd.leave(counted);
                    }
                    recycle(&mut self.spare, conn.input);
                    recycle(&mut self.spare, conn.output);
                    self.free.push(u32::try_from(token.slot()).expect("it came from a u32"));
                }
            }
        }
    }

    /// Tells WebSockets that the process ends: what they are told leaves with the next turns.
    pub fn say_goodbye(&mut self, now: Millis, ring: &mut Ring) {
        for index in 0..self.slots.len() {
            let Some(Slot { generation, conn }) = self.slots.get_mut(index) else { break };
            let Some(conn) = conn.as_mut().filter(|conn| conn.state == State::Open) else {
                continue;
            };
            let slot = u32::try_from(index).expect("bounded by descriptors");
            let token = Token::new(slot, *generation);
            conn.close_web(now, Reason::GoingAway);
            self.proceed(now, token, Progress(Step::Both), ring);
        }
    }

    /// Whether a request waits for its answer, or bytes for their way out.
    #[must_use]
    pub fn owes_anything(&self) -> bool {
        self.slots.connections().any(|conn| {
            let waits = matches!(conn.state, State::Waiting { .. });
            waits || conn.writing.is_some() || conn.has_output()
        })
    }

    /// Shuts all connections down, at the end of the process.
    pub fn shut_down(&mut self) {
        for conn in self.slots.connections_mut() {
            let _ = rustix::net::shutdown(&conn.stream, Shutdown::Both);
        }
    }
}

/// How a connection goes on; made by the handlers, done by [`Connections::proceed`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Progress(Step);

/// What comes next once bytes have been served. A WebSocket that does not read is closed.
fn step_after_serving(conn: &Conn, tracker: &mut Tracker) -> Step {
    tracker.counters_mut().web_connections_slow[0] += u64::from(conn.is_overrun());
    conn.next_step()
}

fn find(slots: &mut Places, token: Token) -> Option<&mut Conn> {
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
