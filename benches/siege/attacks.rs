//! What the attackers do.

use std::time::Duration;

use serde_json::json;
use throng::rng::Rng;

use super::hash;
use super::herd::{Manner, Then};

/// The first bytes of a TLS 1.2 record with a ClientHello whose rest never comes.
const HELLO: &[u8] = &[22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3];
/// What a monitor asks, and this one without a pause.
const METRICS: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";
/// Bytes of a message that is as long as one may be.
const MESSAGE_BYTES: usize = 64 * 1_024;
/// Offers of an announce, and bytes of each.
const OFFERS: usize = 7;
const OFFER_BYTES: usize = 8 * 1_024;
/// First bytes of frames: a whole text message, the beginning of one, the next part, a ping.
const TEXT: u8 = 0x81;
const BEGIN: u8 = 0x01;
const MORE: u8 = 0x00;
const PING: u8 = 0x89;

/// An attack, and which counters of the server tell that it took place.
pub struct Attack {
    pub name: &'static str,
    pub goes_to: Door,
    /// `None`: that it was answered is enough.
    pub proof: Option<(&'static str, &'static str)>,
    pub manner: Manner,
}

/// Which listener is attacked.
#[derive(Clone, Copy, Eq, PartialEq)]
pub enum Door {
    Plain,
    Tls,
    /// The one for operators.
    Admin,
    /// The plain one of a server that may open few files.
    Narrow,
}

const QUIET: Manner = Manner {
    connections: 0,
    opens: 0,
    script: |_| Vec::new(),
    piece: usize::MAX,
    every: Duration::from_millis(500),
    then: Then::Wait,
    reads: true,
    receive_buffer: None,
};

const TIMED_OUT: Option<(&str, &str)> = Some(("http_connections_timed_out", ""));
const REFUSED: Option<(&str, &str)> = Some(("http_connections_refused", ""));
const ACCEPTED: Option<(&str, &str)> = Some(("http_connections_accepted", ""));
const WEB: Option<(&str, &str)> = Some(("web_connections_accepted", ""));

/// No attack at all.
pub const fn nothing() -> Attack {
    Attack { name: "none", goes_to: Door::Plain, proof: ACCEPTED, manner: QUIET }
}

/// All of them.
pub fn attacks() -> Vec<Attack> {
    let attack = |name, goes_to, proof, manner| Attack { name, goes_to, proof, manner };
    let millis = Duration::from_millis;
    vec![
        attack(
            "slow heads",
            Door::Plain,
            TIMED_OUT,
            Manner {
                connections: 15_000,
                opens: 4_000,
                script: |_| [b"GET /announce?".to_vec(), vec![b'a'; 4_000]].concat(),
                piece: 1,
                every: millis(2_000),
                ..QUIET
            },
        ),
        attack(
            "slow readers",
            Door::Plain,
            TIMED_OUT,
            Manner {
                connections: 5_000,
                opens: 500,
                script: long_answers,
                every: millis(1_000),
                reads: false,
                receive_buffer: Some(2_048),
                ..QUIET
            },
        ),
        attack(
            "connections",
            Door::Plain,
            REFUSED,
            Manner { connections: 19_000, opens: 5_000, ..QUIET },
        ),
        attack(
            "descriptors",
            Door::Narrow,
            REFUSED,
            Manner { connections: 10_000, opens: 5_000, ..QUIET },
        ),
        attack(
            "huge heads",
            Door::Plain,
            ACCEPTED,
            Manner {
                connections: 500,
                opens: 2_000,
                script: |_| [b"GET /".to_vec(), vec![b'a'; 9_000]].concat(),
                every: millis(20),
                ..QUIET
            },
        ),
        attack(
            "heads byte by byte",
            Door::Plain,
            TIMED_OUT,
            Manner {
                connections: 200,
                opens: 1_000,
                script: |_| [b"GET /announce?".to_vec(), vec![b'a'; 4_000]].concat(),
                piece: 1,
                every: millis(10),
                ..QUIET
            },
        ),
        attack(
            "malformed requests",
            Door::Plain,
            ACCEPTED,
            Manner { connections: 500, opens: 2_000, script: probe, every: millis(20), ..QUIET },
        ),
        attack(
            "malformed frames",
            Door::Plain,
            WEB,
            Manner {
                connections: 500,
                opens: 1_000,
                script: |rng| [handshake(), malformed_frame(rng)].concat(),
                every: millis(20),
                ..QUIET
            },
        ),
        attack(
            "fragments and pings",
            Door::Plain,
            WEB,
            Manner {
                connections: 100,
                opens: 1_000,
                script: |_| [handshake(), fragments()].concat(),
                piece: 256,
                every: millis(10),
                then: Then::Repeat(fragments().len()),
                ..QUIET
            },
        ),
        attack(
            "deep messages",
            Door::Plain,
            WEB,
            Manner {
                connections: 100,
                opens: 500,
                script: |_| [handshake(), deep_message()].concat(),
                every: millis(200),
                then: Then::Repeat(deep_message().len()),
                ..QUIET
            },
        ),
        attack(
            "offers",
            Door::Plain,
            Some(("web_offers", "")),
            Manner {
                connections: 100,
                opens: 500,
                script: |rng| [handshake(), offers(rng)].concat(),
                every: millis(100),
                then: Then::Repeat(offers(&mut Rng::new(0)).len()),
                ..QUIET
            },
        ),
        attack(
            "half handshakes",
            Door::Tls,
            TIMED_OUT,
            Manner { connections: 10_000, opens: 2_000, script: |_| HELLO.to_vec(), ..QUIET },
        ),
        attack(
            super::OPERATORS,
            Door::Admin,
            None,
            Manner {
                connections: 32,
                opens: 100,
                script: |_| METRICS.to_vec(),
                every: millis(2),
                then: Then::Repeat(METRICS.len()),
                ..QUIET
            },
        ),
    ]
}

/// Requests whose answers are a hundred times as long.
fn long_answers(rng: &mut Rng) -> Vec<u8> {
    let hash: String = hash::info_hash(rng.below(super::SHAPE.swarms))
        .0
        .iter()
        .map(|byte| format!("%{byte:02x}"))
        .collect();
    let request = format!(
        "GET /announce?info_hash={hash}&peer_id=-TR4050-k0pz7w2m9xqa&port=1&uploaded=0\
         &downloaded=0&left=1&numwant=200&compact=0 HTTP/1.1\r\nHost: t\r\n\r\n"
    );
    request.repeat(64).into_bytes()
}

/// A request that a proxy and a tracker might understand in two ways.
fn probe(rng: &mut Rng) -> Vec<u8> {
    let probes = [
        "GET / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /a HTTP/1.1",
        "GET / HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\nContent-Length: 0\r\n\r\nGET /",
        "GET / HTTP/1.1\nHost: t\n\n",
        "GET / HTTP/1.1\r\nHost : t\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: t\r\n folded: x\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: t\r\nHost: u\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "POST /announce HTTP/1.1\r\nHost: t\r\nContent-Length: 3\r\n\r\nabc",
        "GET /\0 HTTP/1.1\r\nHost: t\r\n\r\n",
        "\u{16}\u{3}\u{1}\u{2}",
    ];
    let at = usize::try_from(rng.below(10)).expect("ten of them");
    probes[at].as_bytes().to_vec()
}

fn handshake() -> Vec<u8> {
    b"GET / HTTP/1.1\r\nHost: t\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
      Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        .to_vec()
}

/// A frame as a client sends it, with the mask 0.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let length = u64::try_from(payload.len()).expect("a length");
    let head = match length {
        0..=125 => vec![first, 0x80 | u8::try_from(length).expect("short")],
        126..=0xFFFF => [&[first, 0x80 | 126][..], &length.to_be_bytes()[6..]].concat(),
        _ => [&[first, 0x80 | 127][..], &length.to_be_bytes()].concat(),
    };
    [&head[..], &[0; 4], payload].concat()
}

fn malformed_frame(rng: &mut Rng) -> Vec<u8> {
    match rng.below(6) {
        // No mask.
        0 => vec![TEXT, 2, b'{', b'}'],
        // A reserved bit: a compressed message.
        1 => frame(TEXT | 0x40, b"{}"),
        // A reserved opcode.
        2 => frame(0x83, b"{}"),
        // Not UTF-8.
        3 => frame(TEXT, &[0xC3, 0x28]),
        // A ping in two parts.
        4 => frame(0x09, b"p"),
        // Longer than a message may be.
        _ => [&[TEXT, 0x80 | 127][..], &u64::MAX.to_be_bytes(), &[0; 8]].concat(),
    }
}

/// As many levels as a message has room for.
fn deep_message() -> Vec<u8> {
    frame(TEXT, &vec![b'['; MESSAGE_BYTES])
}

/// Messages in parts of a byte, with pings between them.
fn fragments() -> Vec<u8> {
    let ping = frame(PING, b"p");
    let part = |first, byte| [&frame(first, byte)[..], &ping].concat();
    let parts: Vec<u8> = (0..30).flat_map(|_| part(MORE, b" ")).collect();
    [&part(BEGIN, b" ")[..], &parts, &part(MORE | 0x80, b"1")].concat()
}

/// An announce with as many long offers as a message has room for, to a swarm of all attackers.
fn offers(rng: &mut Rng) -> Vec<u8> {
    let text = |rng: &mut Rng| -> String {
        (0..20).map(|_| char::from(b'a' + u8::try_from(rng.below(26)).expect("a letter"))).collect()
    };
    let sdp = "s".repeat(OFFER_BYTES);
    let offers: Vec<_> = (0..OFFERS)
        .map(|_| json!({"offer_id": text(rng), "offer": {"type": "offer", "sdp": sdp}}))
        .collect();
    let announce = json!({
        "action": "announce", "info_hash": "siegesiegesiegesiege", "peer_id": text(rng),
        "numwant": OFFERS, "uploaded": 0, "downloaded": 0, "left": 1, "event": "started",
        "offers": offers,
    });
    frame(TEXT, announce.to_string().as_bytes())
}
