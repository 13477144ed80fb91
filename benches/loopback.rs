//! Round trips over loopback to the program itself, with one worker and one client thread: UDP
//! announces in windows, HTTP announces over connections that stay open.
//!
//! Client and server share the machine and one system call is made for each packet here, so this
//! finds changes and says little about what a server can do; see the `echo` bench for that.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream, UdpSocket};
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use throng::rng::Rng;
use throng::wire::id::{ConnectionId, TransactionId};
use throng::wire::udp::{self, Reply};

#[path = "common/announce.rs"]
mod announce;
#[path = "common/hash.rs"]
mod hash;
#[path = "common/http.rs"]
mod http;
#[path = "common/server.rs"]
mod server;

use server::Server;

const SWARMS: u32 = 256;
/// Sockets, each with a source address of its own; so many peers has every swarm.
const SOCKETS: u8 = 8;
const NUM_WANT: u32 = 50;
const PORT: u16 = 20_000;
const PATIENCE: Duration = Duration::from_secs(10);

/// A peer with its own address.
struct Peer {
    socket: UdpSocket,
    id: ConnectionId,
    transaction: u32,
}

impl Peer {
    fn connect(server: &Server, number: u8) -> Self {
        let ip = Ipv4Addr::new(127, 0, 1, number + 1);
        let socket = UdpSocket::bind((ip, 0)).expect("all of 127.0.0.0/8 is ours");
        socket.connect(server.address).expect("loopback");
        socket.set_read_timeout(Some(PATIENCE)).expect("it can wait");
        let mut peer = Self { socket, id: ConnectionId([0; 8]), transaction: 0 };
        let mut buffer = [0; 2_048];
        let len = udp::write_connect_request(&mut buffer, TransactionId([0; 4]));
        peer.socket.send(&buffer[..len]).expect("it is sent");
        let len = peer.socket.recv(&mut buffer).expect("an answer in time");
        match Reply::parse(&buffer[..len]) {
            Ok(Reply::Connect { connection_id, .. }) => peer.id = connection_id,
            other => panic!("{other:?}"),
        }
        peer
    }

    fn send(&mut self, swarm: u32) {
        let announce = announce::announce(hash::info_hash(swarm), PORT, false, NUM_WANT);
        let mut buffer = [0; 128];
        let transaction = TransactionId(self.transaction.to_be_bytes());
        let len = udp::write_announce_request(&mut buffer, self.id, transaction, &announce);
        self.socket.send(&buffer[..len]).expect("it is sent");
        self.transaction = self.transaction.wrapping_add(1);
    }

    /// One worker answers one source in order. Returns how many leechers and peers it tells of.
    fn receive(&mut self, transaction: u32) -> (u32, usize) {
        let mut buffer = [0; 2_048];
        let len = self.socket.recv(&mut buffer).expect("an answer in time");
        match Reply::parse(&buffer[..len]) {
            Ok(Reply::Announce { transaction_id, leechers, seeders: 0, peers, .. }) => {
                assert_eq!(transaction_id.0, transaction.to_be_bytes());
                (leechers, peers.len() / 6)
            }
            other => panic!("{other:?}"),
        }
    }
}

fn udp_announces(c: &mut Criterion) {
    let Some(server) = Server::start() else { return };
    let mut peers: Vec<Peer> = (0..SOCKETS).map(|n| Peer::connect(&server, n)).collect();
    for peer in &mut peers {
        for swarm in 0..SWARMS {
            let transaction = peer.transaction;
            peer.send(swarm);
            peer.receive(transaction);
        }
    }
    let mut rng = Rng::new(7);
    let mut group = c.benchmark_group("loopback/udp_announce");
    for window in [1_usize, 32, 256] {
        group.throughput(Throughput::Elements(window as u64));
        let used = window.min(peers.len());
        group.bench_function(BenchmarkId::new("window", window), |b| {
            b.iter(|| {
                let firsts: Vec<u32> = peers[..used].iter().map(|peer| peer.transaction).collect();
                for n in 0..window {
                    peers[n % used].send(rng.below(SWARMS));
                }
                for (peer, first) in peers.iter_mut().zip(firsts) {
                    for transaction in first..peer.transaction {
                        let answer = peer.receive(transaction);
                        let all = usize::from(SOCKETS);
                        assert_eq!(answer, (u32::from(SOCKETS), all - 1));
                    }
                }
            });
        });
    }
    group.finish();
}

fn http_announces(c: &mut Criterion) {
    let Some(server) = Server::start() else { return };
    let requests: Vec<Vec<u8>> =
        (0..SWARMS).map(|n| http::request(&hash::info_hash(n), PORT, NUM_WANT)).collect();
    let mut turn = requests.iter().cycle();
    let mut group = c.benchmark_group("loopback/http_announce");
    for window in [1_usize, 16] {
        let mut streams: Vec<TcpStream> = (0..window)
            .map(|_| {
                let stream = TcpStream::connect(server.address).expect("it listens");
                stream.set_nodelay(true).expect("loopback");
                stream.set_read_timeout(Some(PATIENCE)).expect("it can wait");
                stream
            })
            .collect();
        group.throughput(Throughput::Elements(window as u64));
        group.bench_function(BenchmarkId::new("connections", window), |b| {
            b.iter(|| {
                for stream in &mut streams {
                    stream.write_all(turn.next().expect("a cycle")).expect("it is sent");
                }
                for stream in &mut streams {
                    let mut answer = [0; 4_096];
                    let mut len = 0;
                    let body = loop {
                        let more = stream.read(&mut answer[len..]).expect("an answer in time");
                        assert!(more > 0, "closed");
                        len += more;
                        if let Some(body) = http::body(&answer[..len]) {
                            break body;
                        }
                    };
                    // All come from one address and port: each swarm has one peer, who asks.
                    assert_eq!(http::announced(body), (0, 1, 0));
                }
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    targets = udp_announces, http_announces
}
criterion_main!(benches);
