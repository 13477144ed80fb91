//! Servers that answer announces and know nothing: the cost of the packets alone.
//!
//! One thread, one fixed reply. It has the form and the size of a tracker's, so a load generator
//! that checks its replies accepts it, but no swarm is looked up and no peer is remembered.
//! Listens on loopback only, and ends by itself when nobody has asked for a while.

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use clap::{Parser, Subcommand};
use rustix::event::{Timespec, epoll};
use rustix::net::{SocketFlags, accept_with};
use socket2::SockRef;
use throng::load::batch::Batch;
use throng::wire::id::{ConnectionId, TransactionId};
use throng::wire::udp;

/// After so long without a request the server ends.
const IDLE_SECS: u16 = 900;
/// What every reply tells.
const INTERVAL_SECS: u32 = 1_800;
/// Enough for any number of peers given: each role.
const COUNT: u32 = 1_000;
/// The peers of every reply: this address, where no asker is, and ports from here on.
const PEER_IP: Ipv4Addr = Ipv4Addr::new(127, 255, 255, 254);
const PEER_PORT: u16 = 30_000;
const PEERS_MAX: u16 = 300;
const CONNECTION_ID: ConnectionId = ConnectionId(*b"bareecho");

/// A server that answers announces and knows nothing.
#[derive(Parser)]
struct Options {
    #[command(subcommand)]
    transport: Transport,
    /// Port on 127.0.0.1
    #[arg(long, global = true, default_value_t = 6_969)]
    port: u16,
    /// Bytes of a reply to an announce, rounded to whole peers; an HTTP reply's head counts
    #[arg(long, global = true, default_value_t = 200)]
    bytes: usize,
}

#[derive(Subcommand)]
enum Transport {
    /// recvmmsg and sendmmsg in batches of 64
    Udp,
    /// An epoll loop
    Http {
        /// Close each connection after its reply
        #[arg(long)]
        close: bool,
    },
}

fn main() -> io::Result<()> {
    let options = Options::parse();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, options.port));
    let served = match options.transport {
        Transport::Udp => serve_udp(address, &peers(options.bytes, udp_reply)),
        Transport::Http { close } => {
            let form = |peers: &[u8]| http_reply(peers, close);
            serve_http(address, &form(&peers(options.bytes, form)), close)
        }
    };
    match served {
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(()),
        other => other,
    }
}

/// As many compact peers as make a reply nearest to `bytes`.
fn peers(bytes: usize, form: impl Fn(&[u8]) -> Vec<u8>) -> Vec<u8> {
    let all: Vec<u8> = (PEER_PORT..PEER_PORT + PEERS_MAX)
        .flat_map(|port| {
            let ([a, b, c, d], [high, low]) = (PEER_IP.octets(), port.to_be_bytes());
            [a, b, c, d, high, low]
        })
        .collect();
    let off = |count: &usize| form(&all[..count * 6]).len().abs_diff(bytes);
    let count = (0..=usize::from(PEERS_MAX)).min_by_key(off).expect("a choice");
    all[..count * 6].to_vec()
}

/// A reply to transaction 0.
fn udp_reply(peers: &[u8]) -> Vec<u8> {
    let mut reply = vec![0; udp::ANNOUNCE_REPLY_HEAD_BYTES];
    udp::write_announce_head(&mut reply, TransactionId([0; 4]), INTERVAL_SECS, COUNT, COUNT);
    reply.extend_from_slice(peers);
    reply
}

fn http_reply(peers: &[u8], close: bool) -> Vec<u8> {
    let mut body = format!(
        "d8:completei{COUNT}e10:incompletei{COUNT}e8:intervali{INTERVAL_SECS}e5:peers{}:",
        peers.len()
    )
    .into_bytes();
    body.extend_from_slice(peers);
    body.push(b'e');
    let close = if close { "Connection: close\r\n" } else { "" };
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n{close}\r\n",
        body.len()
    );
    [head.into_bytes(), body].concat()
}

fn serve_udp(address: SocketAddr, peers: &[u8]) -> io::Result<()> {
    let reply = udp_reply(peers);
    let socket = UdpSocket::bind(address)?;
    socket.set_read_timeout(Some(Duration::from_secs(u64::from(IDLE_SECS))))?;
    // As trackers have it; capped by the kernel.
    let _ = SockRef::from(&socket).set_recv_buffer_size(8 << 20);
    let mut batch = Batch::new();
    loop {
        let count = batch.receive_from(&socket)?;
        for index in 0..count {
            let request = batch.bytes(index);
            let transaction = request.get(12..16).and_then(|id| id.first_chunk()).copied();
            let transaction = TransactionId(transaction.unwrap_or_default());
            // A connect is 16 bytes long, an announce 98 or more.
            if request.len() < udp::ANNOUNCE_BYTES {
                let out = batch.resize(index, udp::CONNECT_REPLY_BYTES);
                udp::write_connect(out, transaction, CONNECTION_ID);
            } else {
                let out = batch.resize(index, reply.len());
                out.copy_from_slice(&reply);
                out[4..8].copy_from_slice(&transaction.0);
            }
        }
        batch.send_back(&socket, count)?;
    }
}

/// A connection, and a request that has arrived in part.
struct Connection {
    stream: TcpStream,
    begun: Vec<u8>,
}

/// What became of a connection that was read.
#[derive(Eq, PartialEq)]
enum Then {
    Keep,
    Close,
}

fn serve_http(address: SocketAddr, reply: &[u8], close: bool) -> io::Result<()> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let mark = |fd: RawFd| epoll::EventData::new_u64(u64::try_from(fd).expect("not negative"));
    epoll::add(&epoll, &listener, mark(listener.as_raw_fd()), epoll::EventFlags::IN)?;
    let mut connections: HashMap<RawFd, Connection> = HashMap::new();
    let mut events = Vec::with_capacity(256);
    let patience = Timespec { tv_sec: i64::from(IDLE_SECS), tv_nsec: 0 };
    loop {
        events.clear();
        epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), Some(&patience))?;
        if events.is_empty() {
            return Ok(());
        }
        for event in &events {
            let fd = RawFd::try_from(event.data.u64()).expect("a file descriptor");
            if fd != listener.as_raw_fd() {
                let connection = connections.get_mut(&fd).expect("it was added");
                if connection.answer(reply, close) == Then::Close {
                    // Closing it takes it out of the epoll too.
                    connections.remove(&fd);
                }
                continue;
            }
            while let Ok(accepted) =
                accept_with(&listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC)
            {
                let stream = TcpStream::from(accepted);
                let fd = stream.as_raw_fd();
                let mut connection = Connection { stream, begun: Vec::new() };
                // Its request is here already, most likely.
                if connection.answer(reply, close) == Then::Keep {
                    epoll::add(&epoll, &connection.stream, mark(fd), epoll::EventFlags::IN)?;
                    connections.insert(fd, connection);
                }
            }
        }
    }
}

impl Connection {
    /// Reads, and replies to a whole request.
    fn answer(&mut self, reply: &[u8], close: bool) -> Then {
        const END: &[u8] = b"\r\n\r\n";
        let mut buffer = [0; 4_096];
        let bytes = match self.stream.read(&mut buffer) {
            Ok(0) => return Then::Close,
            Ok(count) => &buffer[..count],
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Then::Keep,
            Err(_) => return Then::Close,
        };
        if !self.begun.is_empty() || !bytes.ends_with(END) {
            self.begun.extend_from_slice(bytes);
            if !self.begun.ends_with(END) {
                return if self.begun.len() > buffer.len() { Then::Close } else { Then::Keep };
            }
            self.begun.clear();
        }
        // One request is in flight, so its reply fits the socket's empty buffer.
        match self.stream.write_all(reply) {
            Ok(()) if !close => Then::Keep,
            _ => Then::Close,
        }
    }
}
