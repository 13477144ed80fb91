//! One core's tracker without I/O: what makes it, and replies that stay in memory.

use std::hint::black_box;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use throng::limits::UDP_REPLY_BYTES_MAX;
use throng::swarm::{Bounds, HashKey};
use throng::tracker::access::Access;
use throng::tracker::connection_id::ConnectionIds;
use throng::tracker::http::Connection;
use throng::tracker::limiter::Limits;
use throng::tracker::owner::{CoreId, Owner};
use throng::tracker::policy::{Policy, PortSet};
use throng::tracker::web::RelayKey;
use throng::tracker::{Datagram, Effects, MailboxFull, Setup};
use throng::wire::id::InfoHash;
use throng::wire::udp::Reply;

/// Keeps the last reply and counts all.
pub struct Replies {
    pub buffer: [u8; UDP_REPLY_BYTES_MAX],
    len: usize,
    pub count: usize,
    pub bytes: usize,
}

impl Replies {
    pub const fn new() -> Self {
        Self { buffer: [0; UDP_REPLY_BYTES_MAX], len: 0, count: 0, bytes: 0 }
    }

    /// The last reply.
    ///
    /// # Panics
    /// If there is none.
    pub fn last(&self) -> Reply<'_> {
        Reply::parse(&self.buffer[..self.len]).expect("a reply")
    }
}

impl Effects for Replies {
    fn reply_buffer(&mut self) -> Option<&mut [u8; UDP_REPLY_BYTES_MAX]> {
        Some(black_box(&mut self.buffer))
    }

    fn send_reply(&mut self, _listener: u8, _target: SocketAddr, len: usize) {
        self.len = len;
        self.count += 1;
        self.bytes += len;
    }

    fn post(&mut self, _to: CoreId, _message: &[u8]) -> Result<(), MailboxFull> {
        unreachable!("all swarms are this core's own")
    }

    fn answer_http(&mut self, _connection: Connection, _body: &[u8]) {
        unreachable!("announces to an own swarm are answered at once")
    }
}

/// The address of a peer: public, the same number in every swarm.
pub fn address(peer: u32) -> SocketAddr {
    let ip = Ipv4Addr::from(0x1000_0000 | peer);
    SocketAddr::new(ip.into(), 6_881)
}

/// As it came by the only listener.
pub fn datagram(source: SocketAddr, bytes: &[u8]) -> Datagram<'_> {
    Datagram { listener: 0, source, bytes, truncated: false }
}

/// The first of so many cores.
pub fn setup(cores: u16) -> Setup {
    Setup {
        core: CoreId(0),
        owner: Owner::new([0x9E37_79B9; 11], cores),
        policy: Arc::new(Policy {
            deny_ports: PortSet::new([22..=22, 135..=139]),
            ..Policy::default()
        }),
        access: Access::default(),
        limits: Limits::default(),
        connection_ids: ConnectionIds::new([7; 16], 1_700_000_000, 128),
        bounds: Bounds {
            memory_bytes: 1 << 30,
            peers_per_swarm: 65_536,
            peer_ttl_secs: 3_000,
            keep_peer_ids: false,
        },
        hash_key: HashKey(11, 22),
        seed: 33,
        relay_key: RelayKey::new([9; 16]),
    }
}

/// A request as Transmission writes it, for the peer that listens on 6881.
pub fn http_request(info_hash: &InfoHash, num_want: u32) -> Vec<u8> {
    let hash: String = info_hash.0.iter().map(|byte| format!("%{byte:02x}")).collect();
    format!(
        "GET /announce?info_hash={hash}&peer_id=-TR4050-k0pz7w2m9xqa&port=6881&uploaded=1310720\
         &downloaded=73400320&left=4964261888&numwant={num_want}&key=2060104839&compact=1\
         &supportcrypto=1 HTTP/1.1\r\nHost: tracker.example.org:6969\r\n\
         User-Agent: Transmission/4.0.5\r\nAccept: */*\r\n\
         Accept-Encoding: deflate, gzip, br, zstd\r\n\r\n"
    )
    .into_bytes()
}
