//! One core's loop: receive a batch, handle it, send it, tick.
//!
//! A worker owns a ring, its sockets and a [`Tracker`]; nothing of it is shared. A turn enters the
//! kernel for datagrams and for connections, if there is a reason to: that hands over what was
//! queued and brings what has completed. Connections have some time in each turn, and while they
//! have it datagrams are looked for again and again. A worker with nothing to do sleeps until its
//! eventfd is written: by the kernel for the ring, or by another core for a mailbox.

mod accepting;
mod datagrams;
mod stopping;

use std::collections::VecDeque;
use std::io;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustls::ServerConfig;

use super::budget::Budget;
use super::connections::{Connections, Limits, Listening};
use super::exits::{Answers, Exits};
use super::mailbox::Post;
use super::orders::Orders;
use super::ring::{Completion, Operation, Ring, Sizes, Token};
use super::sleep;
use crate::time::{Millis, Seconds};
use crate::tracker::counters::record_latency;
use crate::tracker::http::Connection;
use crate::tracker::published::{Pages, Published};
use crate::tracker::{Setup, Tracker};

/// How often an idle worker looks at the time.
const TIMER: Duration = Duration::from_millis(250);
/// How often if deadlines of many connections are to be looked at, a few at a time.
const PACE: Duration = Duration::from_millis(20);
/// Turns without anything to do before a worker sleeps.
const IDLE_TURNS: u32 = 4;
/// Messages taken from the mailboxes in one turn; the rest waits for the next. The fewer if time is
/// short: other cores hand on datagrams too.
const MESSAGES_MAX: usize = 256;
const MESSAGES_MIN: usize = 32;
/// Accepted connections that may wait before no more are accepted: further ones wait in the kernel,
/// which has a bound for them.
const ACCEPTS_MAX: usize = 64;

/// What makes a worker.
pub struct Parts {
    /// What makes its tracker.
    pub setup: Setup,
    /// Its socket for each UDP listener.
    pub udp: Vec<UdpSocket>,
    /// Its socket for each HTTP listener.
    pub http: Vec<(TcpListener, Listening)>,
    /// The certificates, if a listener needs them.
    pub tls: Option<Arc<ServerConfig>>,
    /// `/stats` and `/stats.json` at first, if they are served.
    pub pages: Option<Arc<Pages>>,
    /// The bounds of its connections.
    pub http_limits: Limits,
    /// Its mailboxes.
    pub post: Post,
    /// Where it publishes its counters.
    pub published: Arc<Published>,
    /// What it is told to do.
    pub orders: Arc<Orders>,
    /// Seconds of `CLOCK_BOOTTIME` at the start of the process.
    pub started: u64,
    /// The sizes of its ring.
    pub sizes: Sizes,
}

/// One core at work.
pub struct Worker {
    // Before the sockets: the kernel lets go of them when the ring is gone.
    ring: Ring,
    tracker: Tracker,
    connections: Connections,
    udp: Vec<UdpSocket>,
    http: Vec<Listener>,
    post: Post,
    published: Arc<Published>,
    orders: Arc<Orders>,
    started: u64,
    now: Millis,
    /// When time-dependent work was last done.
    ticked: Seconds,
    /// When the clients of peers were last published.
    surveyed: Seconds,
    /// When datagrams are looked for again though connections have something to do.
    look_due: Instant,
    completions: Vec<Completion>,
    /// Completions of connections that wait for a turn with time for them, in their order.
    waiting: VecDeque<Completion>,
    /// Accepted connections among those.
    accepts: usize,
    /// Buffers of connections among those, and how many there are in all.
    lent: usize,
    buffers: usize,
    /// Reads that found no buffer, oldest first.
    starved: VecDeque<Token>,
    /// Bytes of TLS handshakes, which come behind all that.
    handshakes: VecDeque<(Token, Vec<u8>)>,
    /// Completions that brought a datagram.
    received: Vec<Completion>,
    /// UDP listeners whose receive ended and must be armed again.
    unarmed: Vec<u8>,
    /// UDP listeners whose receive failed; the timer arms them again.
    failed: Vec<u8>,
    /// Whether more idle swarms wait to be removed than one slice takes.
    sweeping: bool,
    /// HTTP answers that came from other cores.
    answers: Answers,
    message: Vec<u8>,
    logged: Option<Seconds>,
    /// Nothing new is taken on any more.
    stopping: bool,
}

/// An HTTP listener.
struct Listener {
    socket: TcpListener,
    listening: Listening,
    accepting: Accepting,
}

/// What the ring does with the connections that wait at a listener.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Accepting {
    /// Nothing, until the timer.
    No,
    /// It takes them.
    Yes,
    /// It is told to stop, because too many wait that it has taken.
    Pausing,
    /// It closes them: there are no descriptors. The timer tries again.
    Refusing,
}

impl Worker {
    /// Sets the ring up on the calling thread, which must be the worker's own.
    ///
    /// # Errors
    /// If the kernel refuses the ring, or address space for the swarms.
    pub fn new(parts: Parts) -> io::Result<Self> {
        let ring = Ring::new(&parts.sizes).map_err(|error| {
            io::Error::new(error.kind(), format!("its ring cannot be made: {error}"))
        })?;
        ring.register_eventfd(parts.post.doorbell().as_fd())?;
        let listener = |(socket, listening)| {
            let accepting = Accepting::No;
            Listener { socket, listening, accepting }
        };
        let mut worker = Self {
            ring,
            tracker: Tracker::new(parts.setup)
                .map_err(|refusal| io::Error::new(io::ErrorKind::OutOfMemory, refusal))?,
            connections: Connections::new(parts.http_limits, parts.tls, parts.pages),
            unarmed: (0..parts.udp.len()).filter_map(|index| u8::try_from(index).ok()).collect(),
            failed: Vec::new(),
            sweeping: false,
            udp: parts.udp,
            http: parts.http.into_iter().map(listener).collect(),
            post: parts.post,
            published: parts.published,
            orders: parts.orders,
            started: parts.started,
            now: Millis(0),
            ticked: Seconds(0),
            surveyed: Seconds(0),
            look_due: Instant::now(),
            completions: Vec::new(),
            waiting: VecDeque::new(),
            accepts: 0,
            lent: 0,
            buffers: parts.sizes.streams.into(),
            starved: VecDeque::new(),
            handshakes: VecDeque::new(),
            received: Vec::new(),
            answers: Answers::default(),
            message: Vec::new(),
            logged: None,
            stopping: false,
        };
        worker.ring.notify(false);
        worker.ring.start_timer(TIMER);
        worker.arm_accepts();
        Ok(worker)
    }

    /// Serves until ordered to stop. Runs as a task of the worker's own executor.
    ///
    /// # Errors
    /// If the kernel refuses to be entered, for a reason that waiting does not mend.
    pub async fn serve(mut self) -> io::Result<()> {
        self.turn()?;
        self.published.set_serving(true);
        let mut idle = 0;
        while !self.orders.is_stopped() {
            idle = if self.turn()? { 0 } else { idle + 1 };
            if idle <= IDLE_TURNS {
                glommio::yield_if_needed().await;
            } else {
                idle = 0;
                self.sleep()?;
            }
        }
        self.published.set_serving(false);
        self.stop()
    }

    /// Sleeps until something happens.
    fn sleep(&mut self) -> io::Result<()> {
        // From here on the kernel and the other cores write to the eventfd. What came just before
        // is found by one more turn; what comes after makes the eventfd readable.
        self.ring.notify(true);
        let may_sleep = self.post.prepare_sleep();
        if may_sleep && !self.turn()? {
            self.tracker.counters_mut().sleeps[0] += 1;
            sleep::until_written(self.post.doorbell().as_fd())?;
            self.post.doorbell().drain();
        }
        self.post.doorbell().woke();
        self.ring.notify(false);
        Ok(())
    }

    /// One turn. Returns whether there was anything to do.
    fn turn(&mut self) -> io::Result<bool> {
        self.tracker.counters_mut().turns[0] += 1;
        // Datagrams come first. Connections may take long, a handshake of TLS as long as a hundred
        // announces: they have the turn's budget, and what is left waits for the next turn.
        let datagrams = self.serve_datagrams()?;
        let completions = self.gather()?;
        // What the kernel left for the next turn would not ring the eventfd again.
        let busy = datagrams || completions || self.ring.has_more();
        self.obey();
        let budget = Budget::begin();
        self.look(budget.begun())?;
        self.serve_connections(&budget)?;
        let messages = self.handle_messages(&budget)?;
        self.deliver_answers(&budget)?;
        self.post.flush();
        for question in self.orders.new_questions() {
            question(&mut self.tracker, self.now.seconds());
        }
        if self.sweeping {
            let begun = Instant::now();
            self.sweeping = self.tracker.sweep(self.now.seconds());
            self.tracker.counters_mut().sweep[0] += nanos_since(begun);
        }
        let waiting = !self.waiting.is_empty()
            || !self.handshakes.is_empty()
            || self.connections.has_closed()
            || self.connections.is_expiry_due(budget.begun());
        Ok(busy || messages || waiting || self.sweeping)
    }

    /// Does what operators have ordered. Before anything is handled that has come: what an operator
    /// was told to hold does so for what comes after.
    fn obey(&mut self) {
        if let Some(access) = self.orders.new_access() {
            self.tracker.set_access(access);
        }
        if let Some(tls) = self.orders.new_tls() {
            self.connections.set_tls(tls);
        }
        if let Some(pages) = self.orders.new_pages() {
            self.connections.set_pages(pages);
        }
    }

    /// Collects what connections have come to, and does what it is time for. Returns whether there
    /// was anything.
    fn gather(&mut self) -> io::Result<bool> {
        let mut completions = std::mem::take(&mut self.completions);
        let overflown = self.ring.enter_for_connections(&mut completions)?;
        self.tracker.counters_mut().ring_overflows[0] += u64::from(overflown);
        let (any, mut is_time) = (!completions.is_empty(), false);
        for completion in completions.drain(..) {
            match completion.operation {
                Operation::Timer => is_time = true,
                _ => self.enqueue(completion),
            }
        }
        self.completions = completions;
        if is_time {
            self.tick();
            let is_paced = self.connections.wants_pace();
            self.ring.start_timer(if is_paced { PACE } else { TIMER });
        }
        Ok(any)
    }

    /// Puts what a connection has come to behind what waits already.
    fn enqueue(&mut self, completion: Completion) {
        match completion.operation {
            Operation::Read(token) if is_out_of_buffers(&completion) => {
                self.tracker.counters_mut().ring_enobufs[0] += 1;
                self.starved.push_back(token);
                return;
            }
            Operation::Accept(_) => {
                self.accepts += 1;
                if self.accepts >= ACCEPTS_MAX {
                    self.pause_accepts();
                }
            }
            _ => {}
        }
        self.lent += usize::from(completion.holds_buffer());
        self.waiting.push_back(completion);
    }

    /// Goes on with connections for the time that there is. One unit at least of everything, so
    /// that nothing stands still.
    fn serve_connections(&mut self, budget: &Budget) -> io::Result<()> {
        let mut begun = budget.begun();
        while let Some(completion) = self.waiting.pop_front() {
            // A handshake is timed where its work is done, and the end of a stream is none.
            let is_handled = matches!(completion.operation, Operation::Read(token)
                if completion.result().is_ok_and(|len| len > 0)
                    && !self.connections.is_handshaking(token));
            self.complete(completion);
            let ended = Instant::now();
            if is_handled {
                self.handled_http(ended.duration_since(begun));
            }
            self.look(ended)?;
            if budget.is_spent_at(ended) {
                break;
            }
            begun = Instant::now();
        }
        self.feed_starved();
        let part = budget.until_look();
        self.connections.expire(self.now, &part, &mut self.tracker, &mut self.ring);
        while self.resume_handshake() {
            let now = Instant::now();
            self.look(now)?;
            if budget.is_spent_at(now) {
                break;
            }
        }
        Ok(())
    }

    fn handled_http(&mut self, took: Duration) {
        record_latency(&mut self.tracker.counters_mut().http_handling, nanos(took));
    }

    /// Lets reads that found no buffer try again, as many as there are buffers for: more would only
    /// fail again.
    fn feed_starved(&mut self) {
        let free = self.buffers.saturating_sub(self.lent);
        for token in self.starved.drain(..free.min(self.starved.len())) {
            let progress = self.connections.starved(token);
            self.connections.proceed(self.now, token, progress, &mut self.ring);
        }
    }

    fn complete(&mut self, completion: Completion) {
        match completion.operation {
            Operation::Datagram(_) | Operation::Reply(_) | Operation::Timer | Operation::Cancel => {
            }
            Operation::Accept(listener) => {
                self.accepts -= 1;
                self.accepted(usize::from(listener), completion);
            }
            Operation::Refuse(listener) => self.refused(usize::from(listener), &completion),
            Operation::Read(token) if self.connections.is_handshaking(token) => {
                // A copy: the buffers are for everybody, and who waits has only this one read.
                let (inbox, _) = self.ring.split();
                let bytes = inbox.read_bytes(&completion).to_vec();
                self.handshakes.push_back((token, bytes));
                self.recycle(&completion);
            }
            Operation::Read(token) => self.read(token, completion),
            Operation::Write(token) => {
                let written = (completion.result(), self.ring.take_written(token));
                let (_, outbox) = self.ring.split();
                let (udp, post, answers) = (&self.udp, &mut self.post, &mut self.answers);
                let mut exits = Exits { outbox, udp, post, answers };
                let tracker = &mut self.tracker;
                let progress =
                    self.connections.written(self.now, token, written, tracker, &mut exits);
                self.connections.proceed(self.now, token, progress, &mut self.ring);
            }
        }
    }

    /// Gives back the buffer that a connection's bytes came in.
    fn recycle(&mut self, completion: &Completion) {
        self.lent -= usize::from(completion.holds_buffer());
        self.ring.recycle(completion);
    }

    /// Goes on with the handshake that has waited longest. Returns whether there was one.
    fn resume_handshake(&mut self) -> bool {
        let Some((token, bytes)) = self.handshakes.pop_front() else { return false };
        let (_, outbox) = self.ring.split();
        let (udp, post, answers) = (&self.udp, &mut self.post, &mut self.answers);
        let mut exits = Exits { outbox, udp, post, answers };
        let tracker = &mut self.tracker;
        let begun = Instant::now();
        let progress = self.connections.received(self.now, token, &bytes, tracker, &mut exits);
        self.connections.proceed(self.now, token, progress, &mut self.ring);
        self.handled_http(begun.elapsed());
        true
    }

    /// Takes messages from other cores, a bounded number. Returns whether there were any.
    fn handle_messages(&mut self, budget: &Budget) -> io::Result<bool> {
        let mut message = std::mem::take(&mut self.message);
        let mut any = false;
        for count in 0..MESSAGES_MAX {
            if count >= MESSAGES_MIN {
                let now = Instant::now();
                self.look(now)?;
                if budget.is_spent_at(now) {
                    break;
                }
            }
            let Some(from) = self.post.receive(&mut message) else { break };
            any = true;
            let (_, outbox) = self.ring.split();
            let (udp, post, answers) = (&self.udp, &mut self.post, &mut self.answers);
            let mut exits = Exits { outbox, udp, post, answers };
            self.tracker.handle_message(self.now.seconds(), from, &message, &mut exits);
        }
        self.message = message;
        Ok(any)
    }

    /// Brings what the tracker said to the connections that it is for, and tells it which of them
    /// have gone, as far as time allows: one that was in many swarms costs as much as many
    /// announces.
    fn deliver_answers(&mut self, budget: &Budget) -> io::Result<()> {
        while let Some((token, body)) = self.answers.http.pop() {
            let progress = self.connections.answered(token, &body);
            self.connections.proceed(self.now, token, progress, &mut self.ring);
            self.answers.recycle(body);
        }
        let mut messages = std::mem::take(&mut self.answers.web);
        for (token, text, kind) in messages.drain(..) {
            let progress = self.connections.send_web(token, (&text, kind), &mut self.tracker);
            self.connections.proceed(self.now, token, progress, &mut self.ring);
            self.answers.recycle(text);
        }
        self.answers.web = messages;
        while let Some(token) = self.connections.take_closed() {
            let (_, outbox) = self.ring.split();
            let (udp, post, answers) = (&self.udp, &mut self.post, &mut self.answers);
            let mut exits = Exits { outbox, udp, post, answers };
            self.tracker.web_closed(self.now.seconds(), Connection(token.to_bits()), &mut exits);
            let now = Instant::now();
            self.look(now)?;
            if budget.is_spent_at(now) {
                break;
            }
        }
        Ok(())
    }

    fn read(&mut self, token: Token, completion: Completion) {
        let (inbox, outbox) = self.ring.split();
        // An error ends the connection as the end of the stream does.
        let bytes = inbox.read_bytes(&completion);
        let (udp, post, answers) = (&self.udp, &mut self.post, &mut self.answers);
        let mut exits = Exits { outbox, udp, post, answers };
        let progress =
            self.connections.received(self.now, token, bytes, &mut self.tracker, &mut exits);
        self.recycle(&completion);
        self.connections.proceed(self.now, token, progress, &mut self.ring);
    }

    /// Work that depends on time.
    fn tick(&mut self) {
        if self.ticked != self.now.seconds() {
            self.ticked = self.now.seconds();
            let (_, outbox) = self.ring.split();
            let (udp, post, answers) = (&self.udp, &mut self.post, &mut self.answers);
            let mut exits = Exits { outbox, udp, post, answers };
            let begun = Instant::now();
            self.sweeping |= self.tracker.tick(self.now.seconds(), &mut exits);
            self.tracker.counters_mut().sweep[0] += nanos_since(begun);
        }
        self.unarmed.append(&mut self.failed);
        self.retry_accepts();
        let counters = self.tracker.counters_mut();
        counters.enters = [self.ring.enters()];
        counters.http_connections = [self.connections.count() as u64];
        counters.mailbox_bytes = [self.post.waiting_bytes()];
        self.published.publish(self.tracker.counters());
        if self.ticked != self.surveyed {
            self.surveyed = self.ticked;
            self.published.publish_clients(self.tracker.censuses());
            self.published.publish_survey(self.tracker.survey());
        }
    }

    fn read_clock(&self) -> Millis {
        let since = boot_time().saturating_sub(Duration::from_secs(self.started));
        Millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}

/// Whole seconds since the machine started.
#[must_use]
pub fn boot_seconds() -> u64 {
    boot_time().as_secs()
}

/// Since the machine started, sleep included; steps of the wall clock do not touch it.
fn boot_time() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::try_from(now).unwrap_or_default()
}

fn nanos_since(begun: Instant) -> u64 {
    nanos(begun.elapsed())
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Whether a receive ended for lack of buffers, which come back within the turn.
fn is_out_of_buffers(completion: &Completion) -> bool {
    let nobufs = Some(Errno::NOBUFS.raw_os_error());
    completion.result().is_err_and(|error| error.raw_os_error() == nobufs)
}

#[cfg(test)]
mod tests;
