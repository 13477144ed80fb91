//! Clients of both protocols over std sockets. They are strict: a request is sent once, and its
//! answer must come, whole and to nobody else.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};

use throng::rng::Rng;
use throng::wire::announce::{Announce, Event, Left, NumWant};
use throng::wire::bencode::Value;
use throng::wire::id::{ConnectionId, InfoHash, PeerId, TransactionId};
use throng::wire::udp::{
    Reply, write_announce_request, write_connect_request, write_scrape_request,
};

use super::process::PATIENCE;

/// 20 random bytes.
pub fn random_hash(rng: &mut Rng) -> InfoHash {
    InfoHash(std::array::from_fn(|_| random_byte(rng)))
}

/// A random byte.
pub fn random_byte(rng: &mut Rng) -> u8 {
    u8::try_from(rng.below(256)).expect("below 256")
}

/// A leecher that listens on `port`.
pub fn leecher(info_hash: InfoHash, port: u16) -> Announce {
    Announce {
        info_hash,
        peer_id: PeerId(*b"-XX0001-loopback.rs!"),
        port,
        uploaded: 0,
        downloaded: 0,
        left: Left::Bytes(1_000),
        event: Event::Started,
        num_want: NumWant::Default,
        key: Some(7),
    }
}

/// A seeder that listens on `port`.
pub fn seeder(info_hash: InfoHash, port: u16) -> Announce {
    Announce { left: Left::Bytes(0), ..leecher(info_hash, port) }
}

/// What an announce is answered, by either protocol.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Answer {
    pub seeders: u32,
    pub leechers: u32,
    /// In order.
    pub peers: Vec<SocketAddr>,
}

/// Reads compact endpoints of the family of `like`.
fn endpoints(bytes: &[u8], like: IpAddr) -> Vec<SocketAddr> {
    let mut peers: Vec<SocketAddr> = match like {
        IpAddr::V4(_) => {
            let (peers, []) = bytes.as_chunks::<6>() else { panic!("{} bytes", bytes.len()) };
            peers
                .iter()
                .map(|&[a, b, c, d, p, q]| {
                    SocketAddr::from((Ipv4Addr::new(a, b, c, d), u16::from_be_bytes([p, q])))
                })
                .collect()
        }
        IpAddr::V6(_) => {
            let (peers, []) = bytes.as_chunks::<18>() else { panic!("{} bytes", bytes.len()) };
            peers
                .iter()
                .map(|peer| {
                    let ip = Ipv6Addr::from(*peer.first_chunk::<16>().expect("16 of 18"));
                    SocketAddr::from((ip, u16::from_be_bytes([peer[16], peer[17]])))
                })
                .collect()
        }
    };
    peers.sort_unstable();
    peers
}

/// A socket of the family of `target` on loopback, talking to `target` alone.
pub fn udp_socket(target: SocketAddr) -> UdpSocket {
    let local: IpAddr =
        if target.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
    let socket = UdpSocket::bind((local, 0)).expect("a port is free");
    socket.connect(target).expect("loopback");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    socket
}

/// A UDP peer with a connection id.
pub struct Udp {
    pub socket: UdpSocket,
    pub id: ConnectionId,
}

impl Udp {
    pub fn connect(target: SocketAddr) -> Self {
        let socket = udp_socket(target);
        let id = connect(&socket);
        Self { socket, id }
    }

    /// Sends an announce and does not wait.
    pub fn send_announce(&self, transaction: u32, announce: &Announce) {
        let mut request = [0; 98];
        write_announce_request(&mut request, self.id, transaction_id(transaction), announce);
        self.socket.send(&request).expect("sent");
    }

    /// Receives the answer to an announce.
    pub fn receive_answer(&self, transaction: u32) -> Answer {
        let mut buffer = [0; 2_048];
        let len = self.socket.recv(&mut buffer).expect("the announce is answered");
        assert!(len <= 1_232, "{len} bytes");
        let family = self.socket.peer_addr().expect("connected").ip();
        match Reply::parse(&buffer[..len]) {
            Ok(Reply::Announce { transaction_id: id, leechers, seeders, peers, .. }) => {
                assert_eq!(id, transaction_id(transaction));
                Answer { seeders, leechers, peers: endpoints(peers, family) }
            }
            other => panic!("{other:?}"),
        }
    }

    pub fn announce(&self, announce: &Announce) -> Answer {
        let transaction = u32::from(announce.port) << 8 | u32::from(announce.info_hash.0[0]);
        self.send_announce(transaction, announce);
        self.receive_answer(transaction)
    }

    /// Seeders, completed and leechers of each hash, as they come.
    pub fn scrape(&self, hashes: &[InfoHash]) -> Vec<[u32; 3]> {
        let mut request = vec![0; 16 + 20 * hashes.len()];
        write_scrape_request(&mut request, self.id, transaction_id(99), hashes);
        self.socket.send(&request).expect("sent");
        let mut buffer = [0; 2_048];
        let len = self.socket.recv(&mut buffer).expect("the scrape is answered");
        let Ok(Reply::Scrape { transaction_id: id, entries }) = Reply::parse(&buffer[..len]) else {
            panic!("{:?}", &buffer[..len]);
        };
        assert_eq!(id, transaction_id(99));
        let (entries, []) = entries.as_chunks::<12>() else { panic!("{len} bytes") };
        let number = |entry: &[u8; 12], at: usize| {
            u32::from_be_bytes(std::array::from_fn(|byte| entry[4 * at + byte]))
        };
        entries.iter().map(|entry| std::array::from_fn(|at| number(entry, at))).collect()
    }
}

fn transaction_id(number: u32) -> TransactionId {
    TransactionId(number.to_be_bytes())
}

/// Gets a connection id.
pub fn connect(socket: &UdpSocket) -> ConnectionId {
    let mut request = [0; 16];
    write_connect_request(&mut request, transaction_id(42));
    socket.send(&request).expect("sent");
    let mut buffer = [0; 2_048];
    let len = socket.recv(&mut buffer).expect("the connect is answered");
    assert_eq!(len, 16);
    match Reply::parse(&buffer[..len]) {
        Ok(Reply::Connect { transaction_id: id, connection_id }) => {
            assert_eq!(id, transaction_id(42));
            connection_id
        }
        other => panic!("{other:?}"),
    }
}

/// An HTTP response.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Response {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Response {
    /// The value of a field, if it is there exactly once.
    pub fn field(&self, name: &str) -> Option<&str> {
        let mut values = self.head.lines().filter_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then_some(value.trim())
        });
        values.next().filter(|_| values.next().is_none())
    }

    /// The bencoded body, which must be as a strict reader wants it.
    pub fn value(&self) -> Value<'_> {
        let parsed = Value::parse(&self.body);
        parsed.unwrap_or_else(|error| panic!("{error:?}: {self:?}"))
    }

    /// The body as the answer to an announce.
    pub fn answer(&self) -> Answer {
        assert_eq!(self.status, 200);
        let value = self.value();
        let number = |key: &str| {
            let number = value.get(key.as_bytes()).and_then(Value::as_integer);
            u32::try_from(number.unwrap_or_else(|| panic!("no {key}: {value:?}"))).expect("small")
        };
        let bytes = |key: &str| value.get(key.as_bytes()).and_then(Value::as_bytes);
        let mut peers = endpoints(bytes("peers").expect("peers"), Ipv4Addr::LOCALHOST.into());
        peers.extend(endpoints(bytes("peers6").unwrap_or(b""), Ipv6Addr::LOCALHOST.into()));
        Answer { seeders: number("complete"), leechers: number("incomplete"), peers }
    }

    /// The `failure reason` of the body, if there is one.
    pub fn failure(&self) -> Option<String> {
        let value = self.value();
        let reason = value.get(b"failure reason").and_then(Value::as_bytes)?;
        Some(String::from_utf8_lossy(reason).into_owned())
    }
}

/// An HTTP connection.
pub struct Http {
    pub stream: TcpStream,
    received: Vec<u8>,
}

impl Http {
    pub fn connect(target: SocketAddr) -> Self {
        let stream = TcpStream::connect_timeout(&target, PATIENCE).expect("it listens");
        Self::over(stream)
    }

    pub fn over(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream.set_write_timeout(Some(PATIENCE)).expect("a timeout");
        stream.set_nodelay(true).expect("an option");
        Self { stream, received: Vec::new() }
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the connection takes it");
    }

    /// Reads one response; `head_only` after a HEAD.
    pub fn try_receive(&mut self, head_only: bool) -> io::Result<Response> {
        let end = loop {
            let found = self.received.windows(4).position(|window| window == b"\r\n\r\n");
            match found {
                Some(at) => break at + 4,
                None => self.read_more()?,
            }
        };
        let head = String::from_utf8(self.received[..end].to_vec()).expect("ASCII");
        let status = head.get(9..12).and_then(|code| code.parse().ok()).expect("a status");
        let mut response = Response { status, head, body: Vec::new() };
        let length = response.field("content-length").expect("one Content-Length");
        let length = if head_only { 0 } else { length.parse().expect("a number") };
        while self.received.len() < end + length {
            self.read_more()?;
        }
        response.body = self.received[end..end + length].to_vec();
        self.received.drain(..end + length);
        Ok(response)
    }

    /// The other side has ended the connection, in whatever way, and does not leave it open.
    pub fn assert_ended(&mut self) {
        match self.try_receive(false) {
            Ok(response) => panic!("answered: {}", response.head),
            Err(error) => assert_ne!(error.kind(), io::ErrorKind::WouldBlock, "it hangs"),
        }
    }

    pub fn receive(&mut self) -> Response {
        self.try_receive(false).expect("a response comes")
    }

    fn read_more(&mut self) -> io::Result<()> {
        let mut chunk = [0; 65_536];
        let len = self.stream.read(&mut chunk)?;
        self.received.extend_from_slice(&chunk[..len]);
        if len == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }

    /// The other side has ended the connection in order, and nothing more comes.
    pub fn assert_closed(&mut self, what: &str) {
        assert_eq!(self.received, b"", "{what}");
        let end = self.stream.read(&mut [0; 64]);
        assert!(matches!(end, Ok(0)), "{what}: {end:?}");
    }

    pub fn get(&mut self, target: &str) -> Response {
        self.send(&get(target));
        self.receive()
    }

    pub fn announce(&mut self, announce: &Announce) -> Answer {
        self.get(&announce_target(announce)).answer()
    }
}

/// A request as most clients write it.
pub fn get(target: &str) -> Vec<u8> {
    format!(
        "GET {target} HTTP/1.1\r\nHost: tracker.example:6969\r\nUser-Agent: loopback/1\r\n\
         Accept-Encoding: gzip\r\n\r\n"
    )
    .into_bytes()
}

fn escaped(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("%{byte:02X}")).collect()
}

pub fn announce_target(announce: &Announce) -> String {
    let left = match announce.left {
        Left::Bytes(bytes) => format!("&left={bytes}"),
        Left::Unknown => String::new(),
    };
    let num_want = match announce.num_want {
        NumWant::Count(count) => format!("&numwant={count}"),
        NumWant::Default => String::new(),
    };
    let event = match announce.event {
        Event::None => "",
        Event::Completed => "&event=completed",
        Event::Started => "&event=started",
        Event::Stopped => "&event=stopped",
        Event::Paused => "&event=paused",
    };
    format!(
        "/announce?info_hash={}&peer_id={}&port={}&uploaded=0&downloaded=0{left}{num_want}{event}\
         &compact=1",
        escaped(&announce.info_hash.0),
        escaped(&announce.peer_id.0),
        announce.port,
    )
}

pub fn scrape_target(hashes: &[InfoHash]) -> String {
    let hashes: Vec<_> =
        hashes.iter().map(|hash| format!("info_hash={}", escaped(&hash.0))).collect();
    format!("/scrape?{}", hashes.join("&"))
}
