//! Datagrams that nobody asked for: silence, no amplification, and service as before.

use std::net::{SocketAddr, UdpSocket};

use throng::rng::Rng;
use throng::wire::announce::Announce;
use throng::wire::id::ConnectionId;
use throng::wire::udp::PROTOCOL_MAGIC;

use super::client::{Udp, connect, leecher, random_byte, random_hash, udp_socket};
use super::process::{PATIENCE, Throng, eventually, start};

/// Datagrams sent before the child must have caught up, so that the kernel loses none.
const CHUNK: usize = 32;
/// Others that connect after each chunk: so many that none of three workers is left out.
const STEPS: usize = 24;

/// A source that never proves its address, and what went to and fro.
struct Stranger {
    socket: UdpSocket,
    sent: usize,
    received: usize,
}

impl Stranger {
    fn new(target: SocketAddr) -> Self {
        Self { socket: udp_socket(target), sent: 0, received: 0 }
    }

    fn send(&mut self, datagram: &[u8]) {
        self.socket.send(datagram).expect("loopback takes it");
        self.sent += datagram.len();
    }

    /// Receives what there is.
    fn drain(&mut self) {
        self.socket.set_nonblocking(true).expect("an option");
        while let Ok(len) = self.socket.recv(&mut [0; 4_096]) {
            self.received += len;
        }
    }
}

/// Datagrams that the child has done with.
fn handled(throng: &Throng) -> u64 {
    throng.metric_where("requests", "transport=\"udp\"") + throng.metric("drops")
}

/// Sends all datagrams. After each chunk several others connect, and their answers show that every
/// worker has come to what was before them.
fn send_all(target: SocketAddr, stranger: &mut Stranger, datagrams: &[Vec<u8>]) {
    let steps: Vec<UdpSocket> = (0..STEPS).map(|_| udp_socket(target)).collect();
    for chunk in datagrams.chunks(CHUNK) {
        for datagram in chunk {
            stranger.send(datagram);
        }
        for step in &steps {
            connect(step);
        }
        stranger.drain();
    }
}

/// Serves both families and has sent no more to strangers than it received from them.
fn assert_unharmed(throng: &mut Throng) {
    assert!(throng.is_alive());
    let hash = random_hash(&mut Rng::new(30));
    for (target, leechers) in throng.udp.clone().into_iter().zip(1..) {
        assert_eq!(Udp::connect(target).announce(&leecher(hash, 20_009)).leechers, leechers);
    }
    eventually("the counters are published", PATIENCE, || throng.answered("announce") == 2);
    let received = throng.metric("udp_unverified_received_bytes");
    let sent = throng.metric("udp_unverified_sent_bytes");
    assert!(sent <= received, "{sent} bytes out, {received} bytes in");
    assert_eq!(throng.logged("WARN") + throng.logged("ERROR"), 0, "{:#?}", throng.log());
}

#[test]
fn every_length_of_zeros_ones_and_noise_is_dropped_and_counted() {
    let Some(mut throng) = start(&["workers=2"]) else { return };
    let mut rng = Rng::new(31);
    let mut datagrams = Vec::new();
    // To the longest that is read, and a few beyond it.
    for length in (0..=2_052).chain([3_000, 9_000]) {
        datagrams.push(vec![0; length]);
        datagrams.push(vec![0xFF; length]);
        datagrams.push((0..length).map(|_| random_byte(&mut rng)).collect());
    }
    let mut sent = 0;
    for target in throng.udp.clone() {
        let mut stranger = Stranger::new(target);
        send_all(target, &mut stranger, &datagrams);
        sent += u64::try_from(datagrams.len()).expect("small");
        eventually("all are counted as dropped", PATIENCE, || throng.metric("drops") == sent);
        stranger.drain();
        assert_eq!(stranger.received, 0);
    }
    let by_reason = |reason: &str| throng.metric_where("drops", &format!("reason=\"{reason}\""));
    for reason in ["truncated", "unknown_action", "bad_magic", "too_long"] {
        assert!(by_reason(reason) > 0, "{reason}");
    }
    assert_eq!(by_reason("bad_connection_id"), 0);
    assert_unharmed(&mut throng);
}

/// Datagrams that are nearly right: real requests with ids never given, cut, lengthened, flipped.
fn forged(rng: &mut Rng) -> Vec<u8> {
    let mut datagram = match rng.below(4) {
        0 => [&PROTOCOL_MAGIC[..], &[0; 8]].concat(),
        1 => {
            let announce: Announce = leecher(random_hash(rng), 20_010);
            let mut request = [0; 98];
            let id = ConnectionId(std::array::from_fn(|_| random_byte(rng)));
            let transaction_id = throng::wire::id::TransactionId([9; 4]);
            throng::wire::udp::write_announce_request(&mut request, id, transaction_id, &announce);
            request.to_vec()
        }
        2 => {
            let hashes = usize::try_from(rng.below(80)).expect("small");
            let mut request: Vec<u8> = (0..16 + 20 * hashes).map(|_| random_byte(rng)).collect();
            request[8..12].copy_from_slice(&[0, 0, 0, 2]);
            request
        }
        _ => (0..rng.below(1_600)).map(|_| random_byte(rng)).collect(),
    };
    match rng.below(4) {
        0 => datagram.truncate(usize::try_from(rng.below(1_600)).expect("small")),
        1 => datagram.extend((0..rng.below(600)).map(|_| random_byte(rng))),
        2 if !datagram.is_empty() => {
            let at = usize::try_from(rng.next_u64() % datagram.len() as u64).expect("small");
            datagram[at] ^= 1 << rng.below(8);
        }
        _ => {}
    }
    datagram
}

#[test]
fn thousands_of_forged_datagrams_get_no_more_than_they_bring() {
    for settings in [["workers=3", "udp.steering=true"], ["workers=2", "udp.steering=false"]] {
        let Some(mut throng) = start(&settings) else { return };
        let mut rng = Rng::new(32);
        let mut sent = 0;
        for target in throng.udp.clone() {
            for _ in 0..8 {
                let datagrams: Vec<_> = (0..512).map(|_| forged(&mut rng)).collect();
                let mut stranger = Stranger::new(target);
                send_all(target, &mut stranger, &datagrams);
                sent += (datagrams.len() + datagrams.len() / CHUNK * STEPS) as u64;
                assert!(stranger.received <= stranger.sent);
                // Connects were among them, so something came.
                assert!(stranger.received > 0);
                assert_eq!(stranger.received % 16, 0);
            }
        }
        eventually("all are counted", PATIENCE, || handled(&throng) >= sent);
        let replies = throng.answered("connect");
        assert_eq!(replies + throng.metric("drops"), sent);
        assert!(throng.metric_where("drops", "reason=\"bad_connection_id\"") > 1_000);
        assert_eq!(throng.metric("swarms"), 0);
        assert_unharmed(&mut throng);
    }
}

#[test]
fn a_connect_with_padding_gets_sixteen_bytes() {
    let Some(throng) = start(&["workers=2"]) else { return };
    for target in &throng.udp {
        let socket = udp_socket(*target);
        for padding in (0..1_400).step_by(7) {
            let mut request = [&PROTOCOL_MAGIC[..], &[0, 0, 0, 0, 1, 2, 3, 4]].concat();
            request.resize(16 + padding, 0x55);
            socket.send(&request).expect("sent");
            let mut reply = [0; 2_048];
            assert_eq!(socket.recv(&mut reply).expect("answered"), 16, "{padding}");
            assert_eq!(reply[..8], [0, 0, 0, 0, 1, 2, 3, 4]);
        }
    }
}
