//! Many addresses that bring new swarms over UDP, each more than it may.

use std::io::IoSlice;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrIn, sendmsg};
use throng::wire::id::{ConnectionId, TransactionId};
use throng::wire::udp::{self, ANNOUNCE_BYTES, Reply};

use super::{announce, hash};

/// Addresses, from this one on.
const SOURCES: u32 = 10_000;
const FIRST: u32 = 0x7F80_0001;
const PER_SECOND: u128 = 20_000;
/// What one turn sends at the most.
const AT_ONCE: u32 = 64;
const PATIENCE: Duration = Duration::from_secs(10);

/// The addresses, all behind one socket: the kernel is told with each datagram whose it is.
pub struct Flood {
    socket: UdpSocket,
    target: SockaddrIn,
    ids: Vec<ConnectionId>,
    began: Instant,
    sent: u32,
    /// The number of the next swarm that nobody knows.
    next: u32,
    /// What was answered, be it a refusal.
    pub answered: u64,
}

impl Flood {
    /// Gets a connection id for each address. The first new swarm has the number `next`.
    pub fn new(target: SocketAddr, next: u32) -> Self {
        let SocketAddr::V4(target) = target else { panic!("{target} is no IPv4 address") };
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a port");
        socket.set_nonblocking(true).expect("an option");
        let ids = vec![ConnectionId([0; 8]); SOURCES as usize];
        let began = Instant::now();
        let target = SockaddrIn::from(target);
        let mut flood = Self { socket, target, ids, began, sent: 0, next, answered: 0 };
        flood.connect();
        flood.began = Instant::now();
        flood
    }

    fn connect(&mut self) {
        let since = Instant::now();
        let mut known = vec![false; SOURCES as usize];
        while known.contains(&false) {
            assert!(since.elapsed() < PATIENCE, "not every address is given a connection id");
            // Few at once: what does not fit into the socket's buffer is asked for again.
            let missing = (0..SOURCES).filter(|&source| !known[source as usize]);
            let missing: Vec<u32> = missing.take(AT_ONCE as usize).collect();
            for source in missing {
                let mut request = [0; ANNOUNCE_BYTES];
                let number = TransactionId(source.to_be_bytes());
                let len = udp::write_connect_request(&mut request, number);
                self.send(source, &request[..len]);
            }
            std::thread::sleep(Duration::from_millis(1));
            let mut buffer = [0; 2_048];
            while let Ok(len) = self.socket.recv(&mut buffer) {
                if let Ok(Reply::Connect { transaction_id, connection_id }) =
                    Reply::parse(&buffer[..len])
                {
                    let source = u32::from_be_bytes(transaction_id.0) as usize;
                    (known[source], self.ids[source]) = (true, connection_id);
                }
            }
        }
    }

    /// Sends what is due, and takes what has come.
    pub fn turn(&mut self) {
        let due = self.began.elapsed().as_nanos() * PER_SECOND / 1_000_000_000;
        let due = u32::try_from(due).expect("minutes");
        for _ in 0..due.saturating_sub(self.sent).min(AT_ONCE) {
            let source = self.sent % SOURCES;
            let announce = announce::announce(hash::info_hash(self.next), 6_881, false, 50);
            let number = TransactionId(self.next.to_be_bytes());
            let mut request = [0; ANNOUNCE_BYTES];
            let id = self.ids[source as usize];
            let len = udp::write_announce_request(&mut request, id, number, &announce);
            self.send(source, &request[..len]);
            self.sent += 1;
            self.next += 1;
        }
        // What could not be sent in its time is not caught up on.
        self.sent = self.sent.max(due);
        let mut buffer = [0; 2_048];
        while let Ok(len) = self.socket.recv(&mut buffer) {
            assert!(Reply::parse(&buffer[..len]).is_ok(), "{:?}", &buffer[..len]);
            self.answered += 1;
        }
    }

    /// The number of the next swarm that nobody knows.
    pub const fn next(&self) -> u32 {
        self.next
    }

    fn send(&self, source: u32, bytes: &[u8]) {
        let address = Ipv4Addr::from(FIRST + source);
        let of = libc::in_pktinfo {
            ipi_ifindex: 0,
            ipi_spec_dst: libc::in_addr { s_addr: address.to_bits().to_be() },
            ipi_addr: libc::in_addr { s_addr: 0 },
        };
        let (parts, control) = ([IoSlice::new(bytes)], [ControlMessage::Ipv4PacketInfo(&of)]);
        let (fd, flags) = (self.socket.as_raw_fd(), MsgFlags::MSG_DONTWAIT);
        // What the kernel has no room for is lost, as on any way.
        let _ = sendmsg(fd, &parts, &control, flags, Some(&self.target));
    }
}
