//! Connections that all misbehave in the same way.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};
use throng::rng::Rng;

/// Source addresses that the connections are spread over.
const ADDRESSES: u32 = 16;
/// What one look reads at the most.
const READ_BYTES: usize = 64 * 1_024;

/// How connections misbehave.
#[derive(Clone)]
pub struct Manner {
    /// Connections open at once.
    pub connections: usize,
    /// Connections opened in a second, at the most.
    pub opens: u32,
    /// What a connection sends.
    pub script: fn(&mut Rng) -> Vec<u8>,
    /// Bytes of it at a time.
    pub piece: usize,
    /// The time between two of them, and between two looks at a connection.
    pub every: Duration,
    /// What a connection does when it has sent all.
    pub then: Then,
    /// Whether it reads what comes.
    pub reads: bool,
    /// Bytes that its socket should receive before somebody reads; capped by the kernel.
    pub receive_buffer: Option<usize>,
}

/// What a connection does when it has sent all.
#[derive(Clone, Copy)]
pub enum Then {
    /// It waits for the other side to end it.
    Wait,
    /// It sends the last so many bytes again.
    Repeat(usize),
}

/// The connections.
pub struct Herd {
    manner: Manner,
    target: SocketAddr,
    rng: Rng,
    /// By when they are due, which is the order in which they were last looked at.
    due: VecDeque<(Instant, Client)>,
    began: Instant,
    opened: u64,
    /// Those that the other side has ended.
    pub ended: u64,
    /// Bytes that came.
    pub heard: u64,
    buffer: Vec<u8>,
}

struct Client {
    stream: TcpStream,
    script: Arc<[u8]>,
    sent: usize,
}

enum Turn {
    GoesOn,
    Ended,
}

impl Herd {
    pub fn new(manner: Manner, target: SocketAddr) -> Self {
        let (due, began) = (VecDeque::new(), Instant::now());
        let (rng, buffer) = (Rng::new(5), vec![0; READ_BYTES]);
        Self { manner, target, rng, due, began, opened: 0, ended: 0, heard: 0, buffer }
    }

    /// Connections open, as far as we have looked.
    pub fn count(&self) -> usize {
        self.due.len()
    }

    /// Does what is due.
    pub fn turn(&mut self) {
        let now = Instant::now();
        let allowed = (now - self.began).as_nanos() * u128::from(self.manner.opens) / 1_000_000_000;
        while self.due.len() < self.manner.connections && u128::from(self.opened) < allowed {
            self.opened += 1;
            if let Some(client) = self.open() {
                self.look_at(now, client);
            }
        }
        // What could not be opened in its time is not caught up on.
        self.opened = u64::try_from(allowed).unwrap_or(u64::MAX).max(self.opened);
        while self.due.front().is_some_and(|(due, _)| *due <= now) {
            let (_, client) = self.due.pop_front().expect("it is there");
            self.look_at(now, client);
        }
    }

    /// `None` if the kernel has no room for one more.
    fn open(&mut self) -> Option<Client> {
        let source = Ipv4Addr::from(0x7F00_0200 + self.rng.below(ADDRESSES));
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).ok()?;
        socket.set_reuse_address(true).expect("an option");
        if let Some(bytes) = self.manner.receive_buffer {
            socket.set_recv_buffer_size(bytes).expect("an option");
        }
        socket.bind(&SocketAddr::from((source, 0)).into()).ok()?;
        socket.set_nonblocking(true).expect("an option");
        match socket.connect(&self.target.into()) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => None,
            _ => {
                let script = (self.manner.script)(&mut self.rng).into();
                Some(Client { stream: socket.into(), script, sent: 0 })
            }
        }
    }

    fn look_at(&mut self, now: Instant, mut client: Client) {
        match client.turn(&self.manner, &mut self.buffer, &mut self.heard) {
            Turn::GoesOn => self.due.push_back((now + self.manner.every, client)),
            Turn::Ended => self.ended += 1,
        }
    }
}

impl Client {
    fn turn(&mut self, manner: &Manner, buffer: &mut [u8], heard: &mut u64) -> Turn {
        // Behind bytes that it does not read, an end in order would not be seen.
        let is_open = if manner.reads {
            self.hear(buffer, heard)
        } else {
            matches!(self.stream.take_error(), Ok(None))
        };
        if !is_open {
            return Turn::Ended;
        }
        if self.sent == self.script.len() {
            match manner.then {
                Then::Wait => return Turn::GoesOn,
                Then::Repeat(bytes) => self.sent -= bytes,
            }
        }
        let end = self.script.len().min(self.sent.saturating_add(manner.piece));
        match self.stream.write(&self.script[self.sent..end]) {
            Ok(len) => self.sent += len,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => return Turn::Ended,
        }
        Turn::GoesOn
    }

    /// Reads what has come. Returns whether there may be more.
    fn hear(&mut self, buffer: &mut [u8], heard: &mut u64) -> bool {
        loop {
            match self.stream.read(buffer) {
                Ok(0) => return false,
                Ok(len) => *heard += len as u64,
                Err(error) => return error.kind() == ErrorKind::WouldBlock,
            }
        }
    }
}
