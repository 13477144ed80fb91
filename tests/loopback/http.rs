//! Requests however they are cut, pipelined or broken: the right answers in order, and an end that
//! the client can read.

use std::io::Write;
use std::thread;
use std::time::Duration;

use throng::limits::HTTP_HEAD_BYTES_MAX;
use throng::rng::Rng;
use throng::wire::id::InfoHash;

use super::client::{
    Http, Response, announce_target, get, leecher, random_hash, scrape_target, seeder,
};
use super::process::{Throng, start};

/// Time for the child to read what has been sent, so that the rest comes in a read of its own.
const CUT: Duration = Duration::from_millis(60);

/// Two requests whose answers cannot be taken for each other, of the same length for all hashes:
/// somebody leeches, then somebody seeds elsewhere. Mostly on different cores.
fn pair(rng: &mut Rng) -> [Vec<u8>; 2] {
    let (first, second) = (random_hash(rng), random_hash(rng));
    [leecher(first, 20_001), seeder(second, 20_002)]
        .map(|announce| get(&announce_target(&announce)))
}

fn assert_pair(connection: &mut Http, what: &str) {
    let counts: Vec<_> = (0..2)
        .map(|_| connection.receive().answer())
        .map(|answer| (answer.leechers, answer.seeders))
        .collect();
    assert_eq!(counts, [(1, 0), (0, 1)], "{what}");
}

/// Every cut of one request and of two pipelined ones, each on a connection of its own.
fn cut_at_every_byte(settings: &[&str]) {
    let Some(throng) = start(settings) else { return };
    let mut rng = Rng::new(10);
    let [first, second] = pair(&mut rng);
    let length = first.len() + second.len();
    let mut cuts: Vec<(usize, Http, Vec<u8>)> = (1..length)
        .map(|cut| {
            let text = pair(&mut rng).concat();
            assert_eq!(text.len(), length);
            let mut connection = Http::connect(throng.http[cut % 2]);
            connection.send(&text[..cut]);
            (cut, connection, text)
        })
        .collect();
    thread::sleep(CUT);
    for (cut, connection, text) in &mut cuts {
        connection.send(&text[*cut..]);
    }
    for (cut, connection, _) in &mut cuts {
        assert_pair(connection, &format!("cut at {cut}"));
    }
}

#[test]
fn two_requests_cut_at_every_byte_get_two_answers_on_two_workers() {
    cut_at_every_byte(&["workers=2"]);
}

#[test]
fn two_requests_cut_at_every_byte_get_two_answers_on_three_workers() {
    cut_at_every_byte(&["workers=3"]);
}

#[test]
fn requests_byte_by_byte_are_answered() {
    let Some(throng) = start(&["workers=2"]) else { return };
    let mut rng = Rng::new(11);
    let mut connections: Vec<_> =
        (0..8).map(|at| (Http::connect(throng.http[at % 2]), pair(&mut rng).concat())).collect();
    let length = connections[0].1.len();
    for at in 0..length {
        for (connection, text) in &mut connections {
            connection.send(&text[at..=at]);
        }
        thread::sleep(Duration::from_micros(200));
    }
    for (connection, _) in &mut connections {
        assert_pair(connection, "byte by byte");
    }
}

/// Announces and scrapes of the same hash by turns: each scrape must know of the announce before it
/// and name its own hash.
fn thousand_pipelined(settings: &[&str]) {
    let Some(throng) = start(settings) else { return };
    let mut rng = Rng::new(12);
    let hashes: Vec<InfoHash> = (0..500).map(|_| random_hash(&mut rng)).collect();
    let request = |hash: &InfoHash| {
        let announce = get(&announce_target(&leecher(*hash, 20_003)));
        [announce, get(&scrape_target(&[*hash]))].concat()
    };
    let text: Vec<u8> = hashes.iter().flat_map(request).collect();
    let mut connection = Http::connect(throng.http[0]);
    let mut writer = connection.stream.try_clone().expect("a descriptor");
    let writing = thread::spawn(move || writer.write_all(&text).expect("it is all taken"));
    for hash in &hashes {
        let answer = connection.receive().answer();
        assert_eq!((answer.leechers, answer.seeders), (1, 0));
        let mut expected = b"d11:external ip4:\x7F\0\0\x015:filesd20:".to_vec();
        expected.extend_from_slice(&hash.0);
        expected.extend_from_slice(b"d8:completei0e10:downloadedi0e11:downloadersi1e");
        expected.extend_from_slice(b"10:incompletei1eee5:flagsd20:min_request_intervali900eee");
        assert_eq!(connection.receive().body, expected);
    }
    writing.join().expect("no panic");
}

#[test]
fn a_thousand_pipelined_requests_are_answered_in_order_on_two_workers() {
    thousand_pipelined(&["workers=2"]);
}

#[test]
fn a_thousand_pipelined_requests_are_answered_in_order_on_three_workers() {
    thousand_pipelined(&["workers=3"]);
}

/// What happens to the connection after a response.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Then {
    Stays,
    Closes,
}

fn with_fields(fields: &str) -> Vec<u8> {
    format!("GET /scrape HTTP/1.1\r\nHost: t\r\n{fields}\r\n").into_bytes()
}

fn fields(count: usize) -> String {
    // One is Host.
    (1..count).map(|number| format!("X-Field: {number}\r\n")).collect()
}

/// A head of exactly so many bytes.
fn padded(bytes: usize) -> Vec<u8> {
    let padding = bytes - with_fields("X: \r\n").len();
    with_fields(&format!("X: {}\r\n", "x".repeat(padding)))
}

/// Requests with the status that they get, and whether the connection stays.
fn statuses() -> Vec<(&'static str, Vec<u8>, u16, Then)> {
    let text = |text: &str| text.as_bytes().to_vec();
    vec![
        ("a scrape", with_fields(""), 200, Then::Stays),
        ("a head", text("HEAD /scrape HTTP/1.1\r\nHost: t\r\n\r\n"), 200, Then::Stays),
        ("close", with_fields("Connection: close\r\n"), 200, Then::Closes),
        ("close among others", with_fields("connection: x, CLOSE\r\n"), 200, Then::Closes),
        ("HTTP/1.0", text("GET /scrape HTTP/1.0\r\n\r\n"), 200, Then::Closes),
        (
            "HTTP/1.0 that stays",
            text("GET /scrape HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"),
            200,
            Then::Stays,
        ),
        ("an empty line before", text("\r\nGET /scrape HTTP/1.1\r\n\r\n"), 200, Then::Stays),
        ("an absolute target", text("GET http://t/scrape HTTP/1.1\r\n\r\n"), 200, Then::Stays),
        ("an empty body", with_fields("Content-Length: 0\r\n"), 200, Then::Stays),
        ("an unknown path", text("GET /favicon.ico HTTP/1.1\r\n\r\n"), 404, Then::Stays),
        ("what operators ask", text("GET /metrics HTTP/1.1\r\n\r\n"), 404, Then::Stays),
        (
            "a post",
            text("POST /announce HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc"),
            405,
            Then::Closes,
        ),
        ("64 fields", with_fields(&fields(64)), 200, Then::Stays),
        ("65 fields", with_fields(&fields(65)), 431, Then::Closes),
        ("8 KiB", padded(HTTP_HEAD_BYTES_MAX), 200, Then::Stays),
        ("8 KiB and a byte", padded(HTTP_HEAD_BYTES_MAX + 1), 431, Then::Closes),
        ("16 KiB", padded(2 * HTTP_HEAD_BYTES_MAX), 431, Then::Closes),
        ("chunks", with_fields("Transfer-Encoding: chunked\r\n"), 400, Then::Closes),
        ("a body", with_fields("Content-Length: 5\r\n"), 400, Then::Closes),
        (
            "a head with a body",
            text("HEAD /scrape HTTP/1.1\r\nContent-Length: 5\r\n\r\n"),
            400,
            Then::Closes,
        ),
        (
            "a head with 65 fields",
            [text("HEAD /scrape HTTP/1.1\r\n"), text(&fields(66)), text("\r\n")].concat(),
            431,
            Then::Closes,
        ),
        (
            "two lengths",
            with_fields("Content-Length: 0\r\nContent-Length: 0\r\n"),
            400,
            Then::Closes,
        ),
        ("two hosts", with_fields("Host: u\r\n"), 400, Then::Closes),
        ("a bare LF", text("GET /scrape HTTP/1.1\nHost: t\n\n"), 400, Then::Closes),
        ("a bare CR", with_fields("X: a\rb\r\n"), 400, Then::Closes),
        ("a NUL", with_fields("X: \0\r\n"), 400, Then::Closes),
        ("a space before the colon", with_fields("X : a\r\n"), 400, Then::Closes),
        ("a folded line", with_fields("X: a\r\n b\r\n"), 400, Then::Closes),
        ("HTTP/2", text("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), 400, Then::Closes),
        ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\x00".to_vec(), 400, Then::Closes),
    ]
}

fn assert_response(response: &Response, status: u16, then: Then, what: &str) {
    assert_eq!(response.status, status, "{what}");
    assert_eq!(response.field("content-type"), Some("text/plain"), "{what}");
    let connection = if then == Then::Stays { "keep-alive" } else { "close" };
    assert_eq!(response.field("connection"), Some(connection), "{what}");
    assert_eq!(response.head.contains("\r\nAllow: GET, HEAD\r\n"), status == 405, "{what}");
}

/// Sends `request` with `behind` behind it and reads the response; then the connection must stay
/// and serve, or end in order.
fn check_status(
    throng: &Throng,
    request: &[u8],
    behind: &[u8],
    (status, then): (u16, Then),
    what: &str,
) {
    let mut connection = Http::connect(throng.http[0]);
    connection.send(&[request, behind].concat());
    if !behind.is_empty() {
        // A connection that were closed with bytes unread would be reset by now.
        thread::sleep(Duration::from_millis(20));
    }
    let head_only = request.starts_with(b"HEAD");
    let response = connection
        .try_receive(head_only)
        .unwrap_or_else(|error| panic!("{what}: the response is lost: {error}"));
    assert_response(&response, status, then, what);
    if !head_only {
        assert!(response.failure().is_some(), "{what}");
    }
    match then {
        Then::Stays => {
            let hash = random_hash(&mut Rng::new(13));
            assert_eq!(connection.announce(&leecher(hash, 20_004)).leechers, 1, "{what}");
        }
        Then::Closes => connection.assert_closed(what),
    }
}

#[test]
fn every_request_gets_its_status_and_a_readable_end() {
    let Some(throng) = start(&["workers=2"]) else { return };
    for (what, request, status, then) in statuses() {
        check_status(&throng, &request, b"", (status, then), what);
    }
}

#[test]
fn bytes_behind_the_last_request_do_not_cost_its_response() {
    let Some(throng) = start(&["workers=2"]) else { return };
    let more = get("/scrape").repeat(3_000);
    let closing = statuses().into_iter().filter(|(_, _, _, then)| *then == Then::Closes);
    for (what, request, status, then) in closing {
        check_status(&throng, &request, &more, (status, then), what);
    }
    // The same where the answer comes from another core.
    let mut rng = Rng::new(14);
    for _ in 0..16 {
        let target = announce_target(&leecher(random_hash(&mut rng), 20_005));
        let last = format!("GET {target} HTTP/1.1\r\nConnection: close\r\n\r\n").into_bytes();
        let mut connection = Http::connect(throng.http[1]);
        connection.send(&[last, more.clone()].concat());
        thread::sleep(Duration::from_millis(5));
        assert_eq!(connection.receive().answer().leechers, 1);
        connection.assert_closed("an announce with close");
    }
}

#[test]
fn head_is_get_without_the_body() {
    let Some(throng) = start(&["workers=2"]) else { return };
    let mut rng = Rng::new(15);
    let mut connection = Http::connect(throng.http[1]);
    for _ in 0..32 {
        // On whatever core; the second answer is as long as the first, the peer being known.
        let target = announce_target(&leecher(random_hash(&mut rng), 20_006));
        let asked = connection.get(&target);
        let head = String::from_utf8(get(&target)).expect("ASCII").replacen("GET", "HEAD", 1);
        connection.send(head.as_bytes());
        let response = connection.try_receive(true).expect("a response");
        assert_eq!(response.head, asked.head);
    }
    // Nothing was left over.
    assert_eq!(connection.get("/").status, 404);
}

#[test]
fn nothing_of_a_request_comes_back_in_its_response() {
    const NAMES: [&str; 15] = [
        "info_hash",
        "peer_id",
        "port",
        "uploaded",
        "downloaded",
        "left",
        "event",
        "numwant",
        "compact",
        "no_peer_id",
        "ip",
        "ipv6",
        "key",
        "trackerid",
        "anything",
    ];
    const VALUES: [&str; 4] = ["%0d%0aX-Echo:%20echo", "%3Cscript%3Eecho", "%00echo", "<b>echo"];
    let Some(throng) = start(&[]) else { return };
    let (hash, mut statuses) = (random_hash(&mut Rng::new(22)), Vec::new());
    let usual = [announce_target(&leecher(hash, 20_009)), scrape_target(&[hash])];
    let strange = VALUES.map(|value| [format!("/{value}"), format!("/announce/{value}")]);
    let with_one = NAMES.iter().flat_map(|name| VALUES.map(|value| format!("{name}={value}")));
    let targets = with_one.flat_map(|one| {
        usual.iter().flat_map(move |usual| {
            let (path, query) = usual.split_once('?').expect("a query");
            [format!("{usual}&{one}"), format!("{path}?{one}&{query}"), format!("{path}?{one}")]
        })
    });
    let targets: Vec<String> = targets.chain(strange.into_iter().flatten()).collect();
    let known = Http::connect(throng.http[0]).get(&usual[0]);
    for target in targets {
        // Some are the last request of their connection.
        let response = Http::connect(throng.http[0]).get(&target);
        let head = response.head.to_ascii_lowercase();
        let body = String::from_utf8_lossy(&response.body).to_ascii_lowercase();
        assert!(!head.contains("echo") && !body.contains("echo"), "{target}: {head}{body}");
        if response.status == 200 {
            assert_eq!(head.lines().count(), known.head.lines().count(), "{target}: {head}");
        }
        statuses.push(response.status);
    }
    for status in [200, 404] {
        assert!(statuses.contains(&status), "{statuses:?}");
    }
}
