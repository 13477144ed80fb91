//! TCP sockets that nobody waits for: opened at once, watched by epoll.
//!
//! Events are edge-triggered: whoever is told of one reads and writes until the kernel has no more.

use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::epoll::{self, CreateFlags, Event as Readiness, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{Domain, Protocol, Socket, Type};

use super::plan::{LoadError, Plan};
use super::{CONNECT_TRIES, Clock};

/// Sockets told of at once.
const EVENTS: usize = 256;

/// The sockets of one thread. A closed one is forgotten by itself.
pub struct Sockets {
    epoll: OwnedFd,
    /// The indices of those to which something happened.
    happened: Vec<usize>,
}

impl Sockets {
    /// None yet.
    pub fn new() -> Result<Self, LoadError> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)
            .map_err(|error| LoadError::Io { what: "epoll".to_owned(), source: error.into() })?;
        Ok(Self { epoll, happened: Vec::with_capacity(EVENTS) })
    }

    /// Begins to connect from `source`, unless that is unspecified. What happens to the socket is
    /// told by `index`.
    pub fn connect(
        &self,
        target: SocketAddr,
        source: IpAddr,
        index: usize,
    ) -> io::Result<TcpStream> {
        let kind = Type::STREAM.nonblocking();
        let socket = Socket::new(Domain::for_address(target), kind, Some(Protocol::TCP))?;
        if !source.is_unspecified() {
            socket.bind(&SocketAddr::new(source, 0).into())?;
        }
        match socket.connect(&target.into()) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
            _ => {}
        }
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        epoll::add(&self.epoll, &socket, EventData::new_u64(index as u64), flags)?;
        Ok(TcpStream::from(socket))
    }

    /// Waits until then for something to happen. Returns to how many sockets it did.
    pub fn wait(&mut self, clock: Clock, until: u64) -> usize {
        const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
        let Self { epoll, happened } = self;
        let mut look = || {
            let mut room = [MaybeUninit::uninit(); EVENTS];
            // An interrupted look has seen nothing; there will be another one.
            let events = epoll::wait(&*epoll, &mut room, Some(&NOW)).map_or(&[][..], |(it, _)| it);
            let index = |event: &Readiness| usize::try_from(event.data.u64());
            happened.clear();
            happened.extend(
                events.iter().map(|event| index(event).expect("it was registered with that")),
            );
            happened.len()
        };
        let seen = look();
        if seen > 0 {
            return seen;
        }
        let wait = Duration::from_nanos(until.saturating_sub(clock.now()));
        let wait = Timespec::try_from(wait).expect("a minute at the most");
        // epoll's own timeout is in milliseconds: too coarse for due times.
        let mut polled = [PollFd::new(&*epoll, PollFlags::IN)];
        if poll(&mut polled, Some(&wait)).is_ok_and(|ready| ready > 0) { look() } else { 0 }
    }

    /// The index of a socket to which something happened.
    pub fn index(&self, at: usize) -> usize {
        self.happened[at]
    }
}

/// Whether anybody listens there.
pub fn reach(plan: &Plan) -> Result<(), LoadError> {
    let mut tries = 0;
    loop {
        tries += 1;
        match TcpStream::connect_timeout(&plan.target.address, plan.timeout) {
            Ok(_) => return Ok(()),
            Err(_) if tries < CONNECT_TRIES => {}
            Err(error) => {
                let target = plan.target.to_string();
                return Err(LoadError::Silent { target, why: error.to_string() });
            }
        }
    }
}
