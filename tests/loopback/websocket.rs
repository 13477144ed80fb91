//! WebSockets over real sockets: handshakes, offers and answers between workers, and clients that
//! read too slowly, stop in the middle, vanish, or say too much.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};
use socket2::{Domain, SockRef, Socket, Type};
use throng::limits::{WEB_MESSAGE_BYTES_MAX, WEB_QUEUE_BYTES_MAX, WEB_TORRENTS_MAX};
use throng::rng::Rng;
use throng::wire::id::InfoHash;
use tungstenite::protocol::Role;
use tungstenite::{Message, WebSocket};

use super::client::{Http, Udp, get, leecher, random_hash, scrape_target};
use super::process::{PATIENCE, Throng, eventually, start};

/// The handshake of RFC 6455 section 1.3.
const FIELDS: &str = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                      Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
const ACCEPT: &str = "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n";
/// First bytes of frames.
const TEXT: u8 = 0x81;
const CLOSE: u8 = 0x88;
const PING: u8 = 0x89;

fn handshake(fields: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: tracker.example\r\n{fields}\r\n")
}

/// A connection that gives up after a while.
fn connect(target: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&target, PATIENCE).expect("it listens");
    prepared(stream)
}

fn prepared(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.set_write_timeout(Some(PATIENCE)).expect("a timeout");
    stream.set_nodelay(true).expect("an option");
    stream
}

/// A connection that takes next to nothing before it stops reading.
fn narrow(target: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::for_address(target), Type::STREAM, None).expect("a socket");
    socket.set_recv_buffer_size(4_096).expect("an option");
    socket.connect(&target.into()).expect("it listens");
    prepared(socket.into())
}

/// Reads a head, and nothing behind it.
fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("a head comes");
        head.extend(byte);
    }
    String::from_utf8(head).expect("ASCII")
}

/// Reads the head after which a connection is a WebSocket: nothing is agreed to in it.
fn read_accept(stream: &mut TcpStream) {
    let head = read_head(stream);
    assert!(head.starts_with("HTTP/1.1 101 ") && head.contains(ACCEPT), "{head}");
    let lower = head.to_ascii_lowercase();
    for agreed in ["extensions", "protocol:"] {
        assert!(!lower.contains(agreed), "{head}");
    }
}

fn opened(mut stream: TcpStream) -> Web {
    stream.write_all(handshake(FIELDS).as_bytes()).expect("the connection takes it");
    read_accept(&mut stream);
    Web::over(stream)
}

/// A frame as a client sends it.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = *b"mask";
    let mut frame = vec![first];
    match u16::try_from(payload.len()) {
        Ok(length @ ..126) => frame.push(0x80 | u8::try_from(length).expect("seven bits")),
        Ok(length) => {
            frame.push(0x80 | 126);
            frame.extend(length.to_be_bytes());
        }
        Err(_) => panic!("no frame of these tests is so long"),
    }
    frame.extend(MASK);
    frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, key)| byte ^ key));
    frame
}

/// A hash that is text, as most of JSON.
fn some_hash(rng: &mut Rng) -> String {
    let InfoHash(bytes) = random_hash(rng);
    bytes.iter().map(|byte| char::from(b'a' + byte % 26)).collect()
}

fn announce(hash: &str, peer: &str, left: u32, offers: &Value) -> String {
    json!({
        "action": "announce", "info_hash": hash, "peer_id": peer, "left": left,
        "uploaded": 0, "downloaded": 0, "numwant": 5, "offers": offers,
    })
    .to_string()
}

/// A WebSocket, whose other side keeps to RFC 6455 as another implementation reads it.
struct Web(WebSocket<TcpStream>);

impl Web {
    fn over(stream: TcpStream) -> Self {
        Self(WebSocket::from_raw_socket(stream, Role::Client, None))
    }

    fn open(target: SocketAddr) -> Self {
        opened(connect(target))
    }

    fn stream(&mut self) -> &mut TcpStream {
        self.0.get_mut()
    }

    fn send_bytes(&mut self, bytes: &[u8]) {
        self.stream().write_all(bytes).expect("the connection takes it");
    }

    fn say(&mut self, text: String) {
        self.0.send(Message::text(text)).expect("the connection takes it");
    }

    /// The next message.
    fn hear(&mut self) -> Value {
        loop {
            match self.0.read().expect("a message comes") {
                Message::Text(text) => break serde_json::from_str(&text).expect("JSON"),
                Message::Ping(_) | Message::Pong(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// The next frame must be the pong of a ping that goes out first.
    fn assert_pong(&mut self, what: &str) {
        self.0.send(Message::Ping(what.to_owned().into())).expect("the connection takes it");
        let pong = self.0.read().expect("a pong comes");
        assert_eq!(pong, Message::Pong(what.to_owned().into()), "{what}");
    }

    /// Announces without offers; returns (seeders, leechers).
    fn join(&mut self, hash: &str, peer: &str, left: u32) -> (u64, u64) {
        self.say(announce(hash, peer, left, &json!([])));
        counts(&self.hear())
    }

    /// Reads to the end of the connection: the code of the close that came last.
    fn read_code(&mut self) -> Option<u16> {
        let mut code = None;
        loop {
            match self.0.read() {
                Ok(Message::Close(close)) => {
                    assert_eq!(code, None, "two closes");
                    code = Some(close.map_or(0, |close| close.code.into()));
                }
                Ok(_) => {}
                Err(error) => {
                    assert!(!is_timeout(&error), "it does not end");
                    return code;
                }
            }
        }
    }
}

fn is_timeout(error: &tungstenite::Error) -> bool {
    let tungstenite::Error::Io(error) = error else { return false };
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

fn counts(reply: &Value) -> (u64, u64) {
    let number = |key| reply[key].as_u64().unwrap_or_else(|| panic!("no {key}: {reply}"));
    (number("complete"), number("incomplete"))
}

/// Peers in a swarm, as HTTP says.
fn peers(throng: &Throng, hash: &str) -> i128 {
    let hash = InfoHash(hash.as_bytes().try_into().expect("20 bytes"));
    let response = Http::connect(throng.http[0]).get(&scrape_target(&[hash]));
    let value = response.value();
    let entry = value.get(b"files").and_then(|files| files.get(&hash.0)).expect("an entry");
    let number = |key| entry.get(key).and_then(|number| number.as_integer()).expect("a number");
    number(b"complete") + number(b"incomplete")
}

/// Reads whatever comes until the end, which must come; returns the frames' first bytes.
fn read_frames(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    // A reset is an end too.
    if let Err(error) = stream.read_to_end(&mut bytes) {
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
    let (mut firsts, mut rest) = (Vec::new(), &bytes[..]);
    while let [first, length, behind @ ..] = rest {
        firsts.push(*first);
        rest = match length {
            126 => {
                let (length, behind) = behind.split_first_chunk::<2>().expect("a length");
                &behind[usize::from(u16::from_be_bytes(*length))..]
            }
            length => &behind[usize::from(*length)..],
        };
    }
    firsts
}

#[test]
fn handshakes_are_taken_or_refused_by_their_fields() {
    let Some(throng) = start(&["workers=1"]) else { return };
    let without = |line: &str| {
        assert!(FIELDS.contains(line));
        handshake(&FIELDS.replace(line, ""))
    };
    let with = |line: &str| handshake(&format!("{FIELDS}{line}\r\n"));
    let version = "Sec-WebSocket-Version: 13\r\n";
    let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let taken = [
        handshake(FIELDS),
        handshake(&FIELDS.to_ascii_uppercase().replace(&key.to_ascii_uppercase(), key)),
        handshake(&FIELDS.replace(": Upgrade", ": keep-alive, Upgrade")),
        with("Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"),
        with("Sec-WebSocket-Protocol: chat, superchat"),
        with("Origin: https://example.org"),
        handshake(FIELDS).replace("GET / ", "GET /announce?x=1 "),
    ];
    let accepted_wanted = taken.len() as u64;
    for request in taken {
        let mut stream = connect(throng.http[0]);
        stream.write_all(request.as_bytes()).expect("the connection takes it");
        read_accept(&mut stream);
        let mut web = Web::over(stream);
        web.assert_pong("here");
        // What was offered was not agreed to: a compressed frame is an error.
        web.send_bytes(&frame(0x40 | TEXT, b"compressed"));
        assert_eq!(web.read_code(), Some(1_002), "{request}");
    }
    let refused = [
        (without(version), 426),
        (handshake(&FIELDS.replace("13", "8")), 426),
        (with("Sec-WebSocket-Version: 13"), 400),
        (without(key), 400),
        (with("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="), 400),
        (handshake(&FIELDS.replace("==", "=")), 400),
        (handshake(&FIELDS.replace("dGhl", "dG!l")), 400),
        (handshake(FIELDS).replace("GET", "HEAD"), 400),
        (handshake(FIELDS).replace("GET", "POST"), 405),
        (with("Content-Length: 5"), 400),
        // No wish to upgrade, but a page that is not there.
        (handshake(&FIELDS.replace("Connection: Upgrade", "Connection: keep-alive")), 404),
        (handshake(&FIELDS.replace("websocket", "h2c")), 404),
        (handshake(FIELDS).replace("HTTP/1.1", "HTTP/1.0"), 404),
    ];
    for (request, status) in refused {
        let mut connection = Http::connect(throng.http[0]);
        connection.send(request.as_bytes());
        let head_only = request.starts_with("HEAD");
        let response = connection.try_receive(head_only).expect("a response comes");
        assert_eq!(response.status, status, "{request}");
        let version = response.field("sec-websocket-version");
        assert_eq!(version, (status == 426).then_some("13"));
    }
    // A figure that has not been published is 0, too.
    let accepted = || throng.metric("web_connections_accepted");
    eventually("they are counted", PATIENCE, || accepted() == accepted_wanted);
    eventually("all are gone", PATIENCE, || throng.metric("web_connections") == 0);
}

#[test]
fn frames_may_come_right_behind_the_handshake_and_requests_before_it() {
    let Some(throng) = start(&["workers=3"]) else { return };
    let mut rng = Rng::new(70);
    for at in 0..12 {
        let hash = some_hash(&mut rng);
        let frames = [
            frame(PING, b"first"),
            frame(TEXT, announce(&hash, "-XX0001-websocket001", 1, &json!([])).as_bytes()),
        ];
        // The answer to this one may have to come from another worker.
        let scrape = get(&scrape_target(&[random_hash(&mut rng)]));
        let before = if at % 2 == 0 { vec![] } else { scrape };
        let bytes = [before, handshake(FIELDS).into_bytes(), frames.concat()].concat();
        let mut stream = connect(throng.http[0]);
        match at {
            10 | 11 => bytes.iter().for_each(|byte| {
                stream.write_all(&[*byte]).expect("the connection takes it");
            }),
            _ => stream.write_all(&bytes).expect("the connection takes it"),
        }
        if at % 2 == 1 {
            let head = read_head(&mut stream);
            let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
            let length = length.and_then(|length| length.parse().ok()).expect("a number");
            let mut body = vec![0; length];
            stream.read_exact(&mut body).expect("the body comes");
        }
        read_accept(&mut stream);
        let mut web = Web::over(stream);
        let pong = web.0.read().expect("a pong comes");
        assert_eq!(pong, Message::Pong("first".into()));
        assert_eq!(counts(&web.hear()), (0, 1));
    }
}

/// Peers meet whatever workers have their connections and their swarms.
fn offers_and_answers_arrive(settings: &[&str]) {
    let Some(throng) = start(settings) else { return };
    let mut rng = Rng::new(71);
    for at in 0..16 {
        let hash = some_hash(&mut rng);
        let mut one = Web::open(throng.http[at % 2]);
        let mut other = Web::open(throng.http[at / 2 % 2]);
        assert_eq!(one.join(&hash, "-XX0001-websocket001", 1), (0, 1));
        let sdp = format!("v=0 {}", "o".repeat(3_000));
        let offers = json!([{"offer": {"type": "offer", "sdp": sdp}, "offer_id": "id \u{e9}"}]);
        other.say(announce(&hash, "-XX0001-websocket002", 0, &offers));
        assert_eq!(counts(&other.hear()), (1, 1));
        let offer = one.hear();
        assert_eq!(offer["offer"], offers[0]["offer"]);
        assert_eq!(offer["offer_id"], offers[0]["offer_id"]);
        assert_eq!(offer["peer_id"], "-XX0001-websocket002");
        let answer = json!({"type": "answer", "sdp": "v=1"});
        let said = json!({
            "action": "announce", "info_hash": hash, "peer_id": "-XX0001-websocket001",
            "to_peer_id": offer["peer_id"], "offer_id": offer["offer_id"], "answer": answer,
        });
        one.say(said.to_string());
        let heard = other.hear();
        assert_eq!((&heard["answer"], &heard["info_hash"]), (&answer, &json!(hash)));
        assert_eq!(heard["peer_id"], "-XX0001-websocket001");
    }
    for name in ["web_offers", "web_answers"] {
        eventually(name, PATIENCE, || throng.metric(name) == 16);
    }
}

#[test]
fn offers_and_answers_arrive_on_one_worker() {
    offers_and_answers_arrive(&["workers=1"]);
}

#[test]
fn offers_and_answers_arrive_on_three_workers() {
    offers_and_answers_arrive(&["workers=3"]);
}

/// A message whose answer is ready in the turn that brings the close, and one whose answer is not.
fn nothing_follows_a_close(settings: &[&str]) {
    let Some(throng) = start(settings) else { return };
    let mut rng = Rng::new(72);
    for _ in 0..16 {
        let mut web = Web::open(throng.http[0]);
        let message = announce(&some_hash(&mut rng), "-XX0001-websocket001", 1, &json!([]));
        let frames = [frame(TEXT, message.as_bytes()), frame(CLOSE, &1_000_u16.to_be_bytes())];
        web.send_bytes(&frames.concat());
        let firsts = read_frames(web.stream());
        assert_eq!(firsts.iter().position(|first| *first == CLOSE), Some(firsts.len() - 1));
    }
    // A figure that has not been published is 0, too.
    let accepted = || throng.metric("web_connections_accepted");
    eventually("they are counted", PATIENCE, || accepted() == 16);
    eventually("their peers leave", PATIENCE, || throng.metric("web_leechers") == 0);
}

#[test]
fn nothing_follows_a_close_on_one_worker() {
    nothing_follows_a_close(&["workers=1"]);
}

#[test]
fn nothing_follows_a_close_on_three_workers() {
    nothing_follows_a_close(&["workers=3"]);
}

/// Offers to a peer that does not read, until one of them is left out, and others that go on.
fn offers_beyond_its_queue(throng: &Throng) -> (Web, String) {
    let mut rng = Rng::new(73);
    let (hash, elsewhere) = (some_hash(&mut rng), some_hash(&mut rng));
    let mut slow = opened(narrow(throng.http[0]));
    slow.join(&hash, "-XX0001-websocket001", 1);
    let mut sender = Web::open(throng.http[0]);
    let mut bystander = Web::open(throng.http[1]);
    let offer = json!({"type": "offer", "sdp": "x".repeat(60_000)});
    let offers = json!([{"offer": offer, "offer_id": "an offer"}]);
    let give_up = Instant::now() + PATIENCE;
    while throng.metric("web_undelivered") == 0 {
        assert!(Instant::now() < give_up, "everything waits for a connection that reads nothing");
        for _ in 0..8 {
            sender.say(announce(&hash, "-XX0001-websocket002", 1, &offers));
            sender.hear();
        }
        let asked = Instant::now();
        bystander.join(&elsewhere, "-XX0001-websocket003", 1);
        assert!(asked.elapsed() < Duration::from_secs(3), "{:?}", asked.elapsed());
    }
    sender.assert_pong("the sender");
    bystander.assert_pong("the bystander");
    (slow, hash)
}

#[test]
fn nobody_can_close_anothers_connection_by_offers() {
    let Some(throng) = start(&["workers=2", "http.write_timeout=10m"]) else { return };
    let (mut slow, _) = offers_beyond_its_queue(&throng);
    assert_eq!(throng.metric("web_connections_slow"), 0);
    slow.0.send(Message::Ping("late".into())).expect("the connection takes it");
    let heard = std::iter::from_fn(|| Some(slow.0.read().expect("it is open")));
    let offers = heard.take_while(|message| *message != Message::Pong("late".into())).count();
    assert!(offers > 2, "{offers} offers have waited");
}

#[test]
fn who_does_not_read_offers_is_closed_at_its_deadline() {
    let Some(throng) = start(&["workers=2", "http.write_timeout=3s"]) else { return };
    let (_slow, hash) = offers_beyond_its_queue(&throng);
    eventually("its peer leaves", PATIENCE, || peers(&throng, &hash) == 0);
    let counted = || throng.metric("http_connections_timed_out") == 1;
    eventually("it is counted", PATIENCE, counted);
}

/// What the kernels keep for a connection whose ends do not read.
const IN_KERNELS_BYTES: usize = 16 << 20;

#[test]
fn who_does_not_read_pongs_is_not_heard_and_closed_at_its_deadline() {
    let Some(throng) = start(&["workers=1", "http.write_timeout=3s"]) else { return };
    let mut web = opened(narrow(throng.http[0]));
    let pings = frame(PING, &[b'p'; 125]).repeat(500);
    let mut sent = 0;
    let end = loop {
        match web.stream().write(&pings) {
            Ok(len) => sent += len,
            Err(error) => break error,
        }
        assert!(sent < IN_KERNELS_BYTES + 4 * WEB_QUEUE_BYTES_MAX, "{sent} bytes, all answered");
    };
    let ends = [ErrorKind::WouldBlock, ErrorKind::ConnectionReset, ErrorKind::BrokenPipe];
    assert!(ends.contains(&end.kind()), "{end}");
    eventually("it is counted", PATIENCE, || throng.metric("http_connections_timed_out") == 1);
    eventually("it is gone", PATIENCE, || throng.metric("web_connections") == 0);
    assert_eq!(throng.metric("web_connections_slow"), 0, "its own queue stays short");
}

#[test]
fn whoever_is_banned_is_told_so_and_leaves() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let list = folder.path().join("ban");
    std::fs::write(&list, "# nobody\n").expect("a folder of our own");
    let ban = format!("access.ban={}", list.display());
    let Some(throng) = start(&["workers=2", "limits.exempt=", &ban]) else { return };
    let hash = some_hash(&mut Rng::new(76));
    let mut web = Web::open(throng.http[0]);
    web.join(&hash, "-XX0001-websocket001", 1);
    eventually("it is counted", PATIENCE, || throng.metric("web_leechers") == 1);
    std::fs::write(&list, "127.0.0.1\n").expect("a folder of our own");
    throng.signal(Signal::USR1);
    let give_up = Instant::now() + PATIENCE;
    let code = loop {
        assert!(Instant::now() < give_up, "it is served");
        web.say(announce(&hash, "-XX0001-websocket001", 1, &json!([])));
        match web.0.read().expect("an answer, or a close") {
            Message::Close(close) => break close.map(|close| u16::from(close.code)),
            Message::Text(text) if text.contains("failure reason") => {}
            _ => thread::sleep(Duration::from_millis(20)),
        }
    };
    assert_eq!(code, Some(1_008));
    eventually("its peer leaves", PATIENCE, || throng.metric("web_leechers") == 0);
}

#[test]
fn peers_of_connections_that_vanish_leave_at_once() {
    let Some(throng) = start(&["workers=3"]) else { return };
    let mut rng = Rng::new(74);
    for is_reset in [false, true] {
        let hashes: Vec<_> = (0..6).map(|_| some_hash(&mut rng)).collect();
        let mut connections: Vec<_> = (0..6).map(|at| Web::open(throng.http[at % 2])).collect();
        for (at, web) in connections.iter_mut().enumerate() {
            for hash in &hashes {
                web.join(hash, &format!("-XX0001-websocket00{at}"), 1);
            }
        }
        assert_eq!(peers(&throng, &hashes[0]), 6);
        for mut web in connections {
            if is_reset {
                // With bytes under way in both directions.
                web.say(announce(&hashes[0], "-XX0001-websocket009", 1, &json!([])));
                let socket = SockRef::from(web.0.get_ref());
                socket.set_linger(Some(Duration::ZERO)).expect("an option");
            }
        }
        let gone = Instant::now();
        for hash in &hashes {
            eventually("its peers leave", PATIENCE, || peers(&throng, hash) == 0);
        }
        assert!(gone.elapsed() < Duration::from_secs(5), "{:?}", gone.elapsed());
    }
    eventually("all are counted", PATIENCE, || throng.metric("web_leechers") == 0);
}

#[test]
fn who_is_in_as_many_swarms_as_may_be_leaves_all_of_them_at_once() {
    let Some(throng) = start(&["workers=2"]) else { return };
    let mut rng = Rng::new(77);
    let mut stays = Web::open(throng.http[0]);
    let mut leaves = Web::open(throng.http[1]);
    let hashes: Vec<_> = (0..WEB_TORRENTS_MAX).map(|_| some_hash(&mut rng)).collect();
    for (at, hash) in hashes.iter().enumerate() {
        leaves.join(hash, "-XX0001-websocket001", 1);
        if at % 64 == 0 {
            assert_eq!(stays.join(hash, "-XX0001-websocket002", 0), (1, 1));
        }
    }
    let one_more = some_hash(&mut rng);
    leaves.say(announce(&one_more, "-XX0001-websocket001", 1, &json!([])));
    let refusal = leaves.hear();
    assert!(refusal["failure reason"].is_string(), "{refusal}");
    let leechers = || throng.metric("web_leechers");
    eventually("all are counted", PATIENCE, || leechers() == WEB_TORRENTS_MAX as u64);
    SockRef::from(leaves.0.get_ref()).set_linger(Some(Duration::ZERO)).expect("an option");
    drop(leaves);
    let gone = Instant::now();
    for hash in hashes.iter().step_by(64) {
        eventually("its peer leaves", Duration::from_secs(2), || peers(&throng, hash) == 1);
    }
    assert!(gone.elapsed() < Duration::from_secs(2), "{:?}", gone.elapsed());
    eventually("none is counted", PATIENCE, || leechers() == 0);
    eventually("the others are", PATIENCE, || {
        throng.metric("web_seeders") == hashes.len().div_ceil(64) as u64
    });
    assert_eq!(stays.join(&hashes[0], "-XX0001-websocket002", 0), (1, 0));
}

#[test]
fn what_is_no_text_or_too_long_ends_a_connection_with_its_code() {
    let Some(throng) = start(&["workers=2"]) else { return };
    let text = |len: usize| {
        let mut text = br#"{"action":"#.to_vec();
        text.resize(len, b' ');
        text
    };
    let halves = |text: &[u8]| {
        let (one, other) = text.split_at(text.len() / 2);
        [frame(0x01, one), frame(0x80, other)].concat()
    };
    for (bytes, code) in [
        (frame(TEXT, b"{\"action\":\"\xFF\"}"), 1_007),
        (halves(b"\xE2\x82\xAC\xE2\x82"), 1_007),
        ([&[TEXT, 0xFF, 0, 0, 0, 0, 0, 1, 0, 1][..], b"mask"].concat(), 1_009),
        (halves(&text(WEB_MESSAGE_BYTES_MAX + 1)), 1_009),
        (vec![TEXT, 2, b'{', b'}'], 1_002),
    ] {
        let mut web = Web::open(throng.http[0]);
        web.send_bytes(&bytes);
        assert_eq!(web.read_code(), Some(code), "{}", bytes[..10.min(bytes.len())].escape_ascii());
    }
    // No JSON, but neither too long nor text that is none.
    for bytes in [halves(&text(WEB_MESSAGE_BYTES_MAX)), frame(0x82, b"\xFF")] {
        let mut web = Web::open(throng.http[0]);
        web.send_bytes(&bytes);
        assert!(web.hear()["failure reason"].is_string());
        web.assert_pong("it goes on");
    }
}

#[test]
fn pages_of_other_origins_are_not_let_in() {
    let allowed = "http.websocket_origins=https://a.example,http://localhost:8080";
    let Some(throng) = start(&[allowed]) else { return };
    for (origin, status) in [
        ("", 101),
        ("Origin: https://a.example\r\n", 101),
        ("Origin: http://localhost:8080\r\n", 101),
        ("Origin: http://a.example\r\n", 403),
        ("Origin: https://a.example.b.example\r\n", 403),
        ("Origin: null\r\n", 403),
    ] {
        let mut stream = connect(throng.http[0]);
        let request = handshake(&format!("{FIELDS}{origin}"));
        stream.write_all(request.as_bytes()).expect("the connection takes it");
        let head = read_head(&mut stream);
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{origin}: {head}");
    }
}

#[test]
fn a_frame_that_stops_has_a_deadline_and_an_idle_connection_waits() {
    let Some(throng) = start(&["workers=1", "http.idle_timeout=1s"]) else { return };
    let mut idle = Web::open(throng.http[0]);
    let message = frame(TEXT, b"{}");
    let in_parts = frame(0x01, b"{");
    let beginnings = [&message[..1], &message[..7], &in_parts, &[&message[..], &[TEXT]].concat()];
    thread::scope(|scope| {
        for bytes in beginnings {
            let mut web = Web::open(throng.http[0]);
            scope.spawn(move || {
                let began = Instant::now();
                web.send_bytes(bytes);
                let _ = read_frames(web.stream());
                let took = began.elapsed();
                let millis = took.as_millis();
                assert!((900..8_000).contains(&millis), "{took:?} after {bytes:?}");
            });
        }
        let mut web = Web::open(throng.http[0]);
        scope.spawn(move || {
            // Progress does not move the deadline.
            let began = Instant::now();
            web.send_bytes(&[TEXT, 0xFE, 0xFF, 0xFF, 0, 0, 0, 0]);
            let trickle = |stream: &mut TcpStream| -> io::Result<()> {
                loop {
                    stream.write_all(b"x")?;
                    thread::sleep(Duration::from_millis(20));
                    assert!(began.elapsed() < PATIENCE);
                }
            };
            assert!(trickle(web.stream()).is_err());
            assert!(began.elapsed() < Duration::from_secs(8));
        });
    });
    idle.assert_pong("it waits");
    eventually("they are counted", PATIENCE, || throng.metric("http_connections_timed_out") == 5);
}

#[test]
fn peers_of_every_kind_and_family_are_in_the_public_statistics() {
    let Some(throng) = start(&["workers=2"]) else { return };
    let mut rng = Rng::new(78);
    let (hash, elsewhere) = (some_hash(&mut rng), some_hash(&mut rng));
    // First, for a swarm is one and not two from the next announce of a browser on.
    for target in &throng.udp {
        let hash = InfoHash(hash.as_bytes().try_into().expect("20 bytes"));
        Udp::connect(*target).announce(&leecher(hash, 28_000));
    }
    let mut one = Web::open(throng.http[0]);
    let mut other = Web::open(throng.http[1]);
    one.join(&hash, "-WW0207-websocket001", 0);
    other.join(&hash, "-WW0207-websocket002", 1);
    other.join(&elsewhere, "-WW0207-websocket002", 1);
    let read = || {
        let response = Http::connect(throng.http[0]).get("/stats.json");
        serde_json::from_slice::<Value>(&response.body).expect("JSON")
    };
    let expected = json!({
        "torrents": 2, "activeTorrents": 2, "peersAll": 5, "peersSeederOnly": 1,
        "peersLeecherOnly": 4, "peersSeederAndLeecher": 0, "peersIPv4": 2, "peersIPv6": 3,
        "clients": {"WebTorrent": {"2.7": 3}, "unknown": {"-XX0001-": 2}},
    });
    eventually("all are counted", PATIENCE, || read() == expected);
    drop(other);
    eventually("who is gone is not", PATIENCE, || read()["peersIPv6"] == 1);
    assert_eq!(read()["peersAll"], 3);
}

#[test]
fn a_stop_tells_every_connection() {
    let Some(mut throng) = start(&["workers=2"]) else { return };
    let mut rng = Rng::new(75);
    let mut connections: Vec<_> = (0..40).map(|at| Web::open(throng.http[at % 2])).collect();
    for web in &mut connections[..20] {
        web.join(&some_hash(&mut rng), "-XX0001-websocket001", 1);
    }
    // One is amid a message, one has been told already, one is gone.
    connections[0].send_bytes(&frame(0x01, b"{"));
    connections[1].send_bytes(&frame(CLOSE, &1_000_u16.to_be_bytes()));
    assert_eq!(connections[1].read_code(), Some(1_000));
    connections.swap_remove(1);
    connections.swap_remove(1);
    throng.signal(Signal::TERM);
    for web in &mut connections {
        assert_eq!(web.read_code(), Some(1_001));
    }
    assert!(throng.wait(PATIENCE).success());
}

#[test]
fn connections_leave_nothing_behind() {
    let Some(throng) = start(&["workers=2"]) else { return };
    let mut rng = Rng::new(76);
    let hash = some_hash(&mut rng);
    Web::open(throng.http[0]).join(&hash, "-XX0001-websocket001", 1);
    let is_quiet = || throng.metric("http_connections") == 0 && throng.metric("web_leechers") == 0;
    eventually("it is gone", PATIENCE, is_quiet);
    let before = throng.open_files();
    for at in 0..500_usize {
        let mut web = Web::open(throng.http[at % 2]);
        match at % 5 {
            0 => {}
            1 => drop(web.join(&hash, "-XX0001-websocket001", 1)),
            2 => web.say(announce(&hash, "-XX0001-websocket001", 1, &json!([]))),
            3 => web.send_bytes(&frame(TEXT, b"{}")[..3]),
            _ => web.send_bytes(&frame(CLOSE, b"")),
        }
    }
    // Each worker publishes its numbers by the clock: those of old could look as good as the last.
    let accepted = || throng.metric("web_connections_accepted");
    eventually("all have been there", PATIENCE, || accepted() == 501);
    eventually("all are gone", PATIENCE, is_quiet);
    eventually("so say its gauges", PATIENCE, || throng.metric("web_connections") == 0);
    eventually("their descriptors too", PATIENCE, || throng.open_files() <= before);
    assert_eq!(peers(&throng, &hash), 0);
}
