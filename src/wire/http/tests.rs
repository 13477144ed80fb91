//! What clients send, what attackers send, and the model.

use std::net::IpAddr;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::model::{check_head, check_query, check_stream};
use super::*;
use crate::limits::{HTTP_HEAD_BYTES_MAX, HTTP_HEADERS_MAX};
use crate::wire::announce::{Announce, Event, Left, NumWant};
use crate::wire::error::ParseError;
use crate::wire::id::{InfoHash, PeerId};

const HASH: InfoHash = InfoHash([
    0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc, 0xde, 0xf1, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef, 0x12,
    0x34, 0x56, 0x78, 0x9a,
]);

/// The same in the two cases that clients use.
const LOWER: &str = "info_hash=%124Vx%9a%bc%de%f1%23Eg%89%ab%cd%ef%124Vx%9a";
const UPPER: &str = "info_hash=%124Vx%9A%BC%DE%F1%23Eg%89%AB%CD%EF%124Vx%9A";

/// A client's announce of [`HASH`] and what it means. `{h}` and `{H}` stand for the hash.
struct Client {
    name: &'static str,
    head: &'static str,
    keep_alive: bool,
    peer_id: &'static [u8; 20],
    port: u16,
    /// uploaded, downloaded
    moved: (u64, u64),
    left: Left,
    event: Event,
    num_want: NumWant,
    key: Option<u32>,
    no_peer_id: bool,
    ip: Option<&'static str>,
}

const CLIENTS: [Client; 13] = [
    Client {
        name: "qBittorrent 4.6",
        head: "GET /announce?{h}&peer_id=-qB4650-h2x(gk~s.Wk1&port=31000&uploaded=0&downloaded=0\
               &left=734003200&corrupt=0&key=3A5B1F0C&event=started&numwant=200&compact=1\
               &no_peer_id=1&supportcrypto=1&redundant=0 HTTP/1.1\r\nHost: t.example:6969\r\n\
               User-Agent: qBittorrent/4.6.5\r\nAccept-Encoding: gzip\r\nConnection: close\r\n\r\n",
        keep_alive: false,
        peer_id: b"-qB4650-h2x(gk~s.Wk1",
        port: 31000,
        moved: (0, 0),
        left: Left::Bytes(734_003_200),
        event: Event::Started,
        num_want: NumWant::Count(200),
        key: Some(0x3A5B_1F0C),
        no_peer_id: true,
        ip: None,
    },
    Client {
        name: "libtorrent 1.2, a partial seed, with both addresses",
        head: "GET /announce?{h}&peer_id=-LT12J0-zzzzzzzzzzzz&port=6881&uploaded=17&downloaded=4096\
               &left=16384&corrupt=0&key=0BADF00D&event=paused&numwant=50&compact=1&no_peer_id=1\
               &supportcrypto=1&redundant=12&ipv6=2001%3adb8%3a%3a7 HTTP/1.1\r\n\
               Host: t.example\r\nUser-Agent: libtorrent/1.2.19\r\nAccept-Encoding: gzip\r\n\
               Connection: close\r\n\r\n",
        keep_alive: false,
        peer_id: b"-LT12J0-zzzzzzzzzzzz",
        port: 6881,
        moved: (17, 4096),
        left: Left::Bytes(16384),
        event: Event::Paused,
        num_want: NumWant::Count(50),
        key: Some(0x0BAD_F00D),
        no_peer_id: true,
        ip: Some("2001:db8::7"),
    },
    Client {
        name: "Transmission 4.0, leaving",
        head: "GET /announce?{H}&peer_id=-TR4050-a1b2c3d4e5f6&port=51413&uploaded=1234\
               &downloaded=5678&left=0&numwant=0&key=1F2E3D4C&compact=1&supportcrypto=1\
               &event=stopped HTTP/1.1\r\nHost: t.example\r\nUser-Agent: Transmission/4.0.5\r\n\
               Accept: */*\r\nAccept-Encoding: deflate, gzip, br, zstd\r\n\r\n",
        keep_alive: true,
        peer_id: b"-TR4050-a1b2c3d4e5f6",
        port: 51413,
        moved: (1234, 5678),
        left: Left::Bytes(0),
        event: Event::Stopped,
        num_want: NumWant::Count(0),
        key: Some(0x1F2E_3D4C),
        no_peer_id: false,
        ip: None,
    },
    Client {
        name: "Transmission 2.9, whose key has no leading zeros",
        head: "GET /announce?{h}&peer_id=-TR2940-k9x8c7v6b5n4&port=51413&uploaded=0&downloaded=0\
               &left=1048576&numwant=80&key=c0ffee&compact=1&supportcrypto=1&event=started \
               HTTP/1.1\r\nUser-Agent: Transmission/2.94\r\nHost: t.example\r\nAccept: */*\r\n\
               Accept-Encoding: gzip;q=1.0, deflate, identity\r\n\r\n",
        keep_alive: true,
        peer_id: b"-TR2940-k9x8c7v6b5n4",
        port: 51413,
        moved: (0, 0),
        left: Left::Bytes(1_048_576),
        event: Event::Started,
        num_want: NumWant::Count(80),
        key: Some(0x00C0_FFEE),
        no_peer_id: false,
        ip: None,
    },
    Client {
        name: "aria2 1.37, whose key is the end of its peer_id",
        head: "GET /announce?{H}&peer_id=A2-1-37-0-%A8%0F%B1q%9Dz%E2%01kQ&uploaded=0&downloaded=0\
               &left=42&compact=1&key=%B1q%9Dz%E2%01kQ&numwant=50&no_peer_id=1&port=6959\
               &event=started&supportcrypto=1 HTTP/1.1\r\nUser-Agent: aria2/1.37.0\r\n\
               Accept: */*\r\nAccept-Encoding: deflate, gzip\r\nHost: t.example:80\r\n\
               Pragma: no-cache\r\nCache-Control: no-cache\r\n\
               Want-Digest: SHA-512;q=1, SHA-256;q=1, SHA;q=0.1\r\nConnection: close\r\n\r\n",
        keep_alive: false,
        peer_id: b"A2-1-37-0-\xA8\x0F\xB1q\x9Dz\xE2\x01kQ",
        port: 6959,
        moved: (0, 0),
        left: Left::Bytes(42),
        event: Event::Started,
        num_want: NumWant::Count(50),
        key: Some(fnv(b"%B1q%9Dz%E2%01kQ")),
        no_peer_id: true,
        ip: None,
    },
    Client {
        name: "rTorrent 0.9.8",
        head: "GET /announce?{H}&peer_id=-lt0D80-%AD%00%FF%20%25%26%3D%3F%23%2B%2F%7E&key=5f3b1a2c\
               &compact=1&port=6890&uploaded=0&downloaded=0&left=100&event=started HTTP/1.1\r\n\
               User-Agent: rtorrent/0.9.8/0.13.8\r\nHost: t.example:6969\r\nAccept: */*\r\n\
               Accept-Encoding: deflate, gzip\r\n\r\n",
        keep_alive: true,
        peer_id: b"-lt0D80-\xAD\0\xFF %&=?#+/~",
        port: 6890,
        moved: (0, 0),
        left: Left::Bytes(100),
        event: Event::Started,
        num_want: NumWant::Default,
        key: Some(0x5F3B_1A2C),
        no_peer_id: false,
        ip: None,
    },
    Client {
        name: "uTorrent 3.5, just finished",
        head: "GET /announce?{h}&peer_id=-UT355W-%a6%b3%28%0b!*'()zZ9&port=26357\
               &uploaded=9223372036854775807&downloaded=18446744073709551615&left=0&corrupt=0\
               &key=72E1A76A&event=completed&numwant=200&compact=1&no_peer_id=1 HTTP/1.1\r\n\
               Host: t.example\r\nUser-Agent: uTorrent/355(111325678)(45988)\r\n\
               Accept-Encoding: gzip\r\nConnection: Close\r\n\r\n",
        keep_alive: false,
        peer_id: b"-UT355W-\xA6\xB3(\x0B!*'()zZ9",
        port: 26357,
        moved: (9_223_372_036_854_775_807, u64::MAX),
        left: Left::Bytes(0),
        event: Event::Completed,
        num_want: NumWant::Count(200),
        key: Some(0x72E1_A76A),
        no_peer_id: true,
        ip: None,
    },
    Client {
        name: "Deluge 2.1",
        head: "GET /announce?{h}&peer_id=-DE211s-e5wU.L)mrJ~H&port=58846&uploaded=0&downloaded=0\
               &left=7&corrupt=0&key=DEADBEEF&numwant=200&compact=1&no_peer_id=1&supportcrypto=1\
               &redundant=0&ip=192.0.2.7 HTTP/1.1\r\nHost: t.example\r\n\
               User-Agent: Deluge/2.1.1 libtorrent/2.0.9.0\r\nAccept-Encoding: gzip\r\n\
               Connection: close\r\n\r\n",
        keep_alive: false,
        peer_id: b"-DE211s-e5wU.L)mrJ~H",
        port: 58846,
        moved: (0, 0),
        left: Left::Bytes(7),
        event: Event::None,
        num_want: NumWant::Count(200),
        key: Some(0xDEAD_BEEF),
        no_peer_id: true,
        ip: Some("192.0.2.7"),
    },
    Client {
        name: "Vuze 5.7, whose key is letters and digits",
        head: "GET /announce?{H}&peer_id=-AZ5760-ZUY5OpFcVbXa&supportcrypto=1&port=49154\
               &azudp=49154&uploaded=0&downloaded=0&left=9&corrupt=0&event=started&numwant=80\
               &no_peer_id=1&compact=1&key=Zg5kYQbH&azver=3&azup=30&azas=AS0&azq= HTTP/1.1\r\n\
               User-Agent: Azureus 5.7.6.0;Windows 10;Java 1.8.0_121\r\nConnection: close\r\n\
               Accept-Encoding: gzip\r\nHost: t.example\r\n\
               Accept: text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2\r\n\
               Content-type: application/x-www-form-urlencoded\r\n\r\n",
        keep_alive: false,
        peer_id: b"-AZ5760-ZUY5OpFcVbXa",
        port: 49154,
        moved: (0, 0),
        left: Left::Bytes(9),
        event: Event::Started,
        num_want: NumWant::Count(80),
        key: Some(fnv(b"Zg5kYQbH")),
        no_peer_id: true,
        ip: None,
    },
    Client {
        name: "webtorrent 2 (bittorrent-tracker), lower-case field names",
        head: "GET /announce?numwant=50&uploaded=0&downloaded=0&left=1&event=started&compact=1&{H}\
               &peer_id=-WW0201-o8Xh3Jp0%2Fq%2BA&port=6881 HTTP/1.1\r\nhost: t.example:8000\r\n\
               connection: keep-alive\r\naccept: */*\r\naccept-language: *\r\n\
               sec-fetch-mode: cors\r\nuser-agent: node\r\naccept-encoding: gzip, deflate\r\n\r\n",
        keep_alive: true,
        peer_id: b"-WW0201-o8Xh3Jp0/q+A",
        port: 6881,
        moved: (0, 0),
        left: Left::Bytes(1),
        event: Event::Started,
        num_want: NumWant::Count(50),
        key: None,
        no_peer_id: false,
        ip: None,
    },
    Client {
        name: "BitTornado 0.3, HTTP/1.0",
        head: "GET /announce?{h}&peer_id=T03H-----2Nj8VyVhKz1&port=10017&uploaded=0&downloaded=0\
               &left=9999999999&no_peer_id=1&compact=1&event=started&key=wx2yzA HTTP/1.0\r\n\
               Host: t.example:6969\r\nUser-Agent: BitTornado/T-0.3.17\r\n\
               Accept-Encoding: gzip\r\n\r\n",
        keep_alive: false,
        peer_id: b"T03H-----2Nj8VyVhKz1",
        port: 10017,
        moved: (0, 0),
        left: Left::Bytes(9_999_999_999),
        event: Event::Started,
        num_want: NumWant::Default,
        key: Some(fnv(b"wx2yzA")),
        no_peer_id: true,
        ip: None,
    },
    Client {
        name: "a client that glues its query to one that is there, and repeats itself",
        head: "GET //x//announce.php?passkey=a=b&?{h}&peer_id=-XX0001-aaaaaaaaaaaa&port=1&port=2\
               &&left=-1&left=0&numwant=-1&event=&uploaded=x&ip=t.example&ip=::ffff:192.0.2.9 \
               HTTP/1.0\r\nConnection: x , Keep-Alive\r\n\r\n",
        keep_alive: true,
        peer_id: b"-XX0001-aaaaaaaaaaaa",
        port: 1,
        moved: (0, 0),
        left: Left::Unknown,
        event: Event::None,
        num_want: NumWant::Default,
        key: None,
        no_peer_id: false,
        ip: Some("192.0.2.9"),
    },
    Client {
        name: "a proxy's absolute form, with a body of no bytes",
        head: "GET http://t.example:6969/announce?{H}&peer_id=-XX0001-aaaaaaaaaaaa&port=0#x?y \
               HTTP/1.1\r\nHost: t.example:6969\r\nContent-Length: 0\r\n\
               X-Forwarded-For: 192.0.2.1, 198.51.100.7\r\n\r\n",
        keep_alive: true,
        peer_id: b"-XX0001-aaaaaaaaaaaa",
        port: 0,
        moved: (0, 0),
        left: Left::Unknown,
        event: Event::None,
        num_want: NumWant::Default,
        key: None,
        no_peer_id: false,
        ip: None,
    },
];

/// FNV-1a, the fold of a `key` that is no number.
const fn fnv(bytes: &[u8]) -> u32 {
    let (mut hash, mut i) = (0x811c_9dc5_u32, 0);
    while i < bytes.len() {
        hash = (hash ^ bytes[i] as u32).wrapping_mul(0x0100_0193);
        i += 1;
    }
    hash
}

impl Client {
    fn bytes(&self) -> Vec<u8> {
        self.head.replace("{h}", LOWER).replace("{H}", UPPER).into_bytes()
    }

    fn meaning(&self) -> AnnounceQuery {
        AnnounceQuery {
            announce: Announce {
                info_hash: HASH,
                peer_id: PeerId(*self.peer_id),
                port: self.port,
                uploaded: self.moved.0,
                downloaded: self.moved.1,
                left: self.left,
                event: self.event,
                num_want: self.num_want,
                key: self.key,
            },
            compact: true,
            no_peer_id: self.no_peer_id,
            ip: self.ip.map(|ip| ip.parse().expect("a literal")),
        }
    }
}

fn head(text: &str) -> Result<Head<'_>, ParseError> {
    check_head(text.as_bytes());
    Head::parse(text.as_bytes())
}

fn announce(query: &str) -> Result<AnnounceQuery, ParseError> {
    check_query(query.as_bytes());
    AnnounceQuery::parse(query.as_bytes())
}

/// An announce that is complete but for `more`.
fn announce_with(more: &str) -> AnnounceQuery {
    let query = format!("{more}&{LOWER}&peer_id=-XX0001-aaaaaaaaaaaa&port=1");
    announce(&query).expect("only optional parameters vary")
}

#[test]
fn real_clients_are_understood() {
    for client in &CLIENTS {
        let bytes = client.bytes();
        check_head(&bytes);
        assert_eq!(head_end(&bytes, 0), Ok(Some(bytes.len())), "{}", client.name);
        let head = Head::parse(&bytes).expect(client.name);
        assert_eq!(head.method, Method::Get, "{}", client.name);
        assert_eq!(action(head.path), Some(Action::Announce), "{}", client.name);
        assert_eq!(head.keep_alive, client.keep_alive, "{}", client.name);
        check_query(head.query);
        assert_eq!(AnnounceQuery::parse(head.query), Ok(client.meaning()), "{}", client.name);
    }
}

#[test]
fn pipelined_heads_end_where_they_end_however_they_arrive() {
    let heads: Vec<Vec<u8>> = CLIENTS.iter().map(Client::bytes).collect();
    let buffer = heads.concat();
    let mut start = 0;
    for head in &heads {
        let rest = &buffer[start..];
        for arrived in 1..head.len() {
            assert_eq!(head_end(&rest[..arrived], arrived - 1), Ok(None));
        }
        assert_eq!(head_end(&rest[..head.len()], head.len() - 1), Ok(Some(head.len())));
        assert_eq!(head_end(&rest[..rest.len().min(8000)], 0), Ok(Some(head.len())));
        start += head.len();
    }
}

#[test]
fn one_empty_line_before_a_request_is_forgiven() {
    let one = head("\r\nGET /announce HTTP/1.1\r\n\r\n").expect("RFC 9112 section 2.2");
    assert_eq!(one.path, b"/announce");
    assert_eq!(head("\r\n\r\nGET / HTTP/1.1\r\n\r\n").err(), Some(ParseError::BadRequest));
    assert_eq!(head_end(b"\r\n\r\n", 0), Err(ParseError::BadRequest));
}

#[test]
fn heads_that_could_be_read_in_two_ways_are_refused() {
    for field in [
        "Transfer-Encoding: chunked",
        "transfer-encoding: identity",
        "Transfer-Encoding:",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding:\tchunked",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding\t: chunked",
        " Transfer-Encoding: chunked",
        "X: X\nTransfer-Encoding: chunked",
        "X: X\rTransfer-Encoding: chunked",
        "Transfer-Encoding\r\n : chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 0",
        "Content-Length: 1",
        "Content-Length: 00000000000000000000001",
        "Content-Length: +0",
        "Content-Length: -0",
        "Content-Length: 0x0",
        "Content-Length: 0, 0",
        "Content-Length: 0 0",
        "Content-Length: \x0b0",
        "Content-Length:",
        "Content-Length: 0\r\nContent-Length: 0",
        "content-length: 0\r\nX: y\r\nCONTENT-LENGTH: 0",
        "Content-Length : 0",
        "Host: a\r\nhost: b",
        "Host: a\r\nHost: a",
        "X: a\r\n folded",
        "X: a\r\n\tfolded",
        "X: a\0b",
        "X\0: b",
        "X: a\nb: c",
        "X: a\r",
        "X: a\rb",
        "\nX: a",
        "no colon",
        ": no name",
        "X Y: blank in the name",
        "X(: no token",
        "X\u{7f}: no token",
        "\u{e9}: no token",
    ] {
        let text = format!("GET /announce HTTP/1.1\r\n{field}\r\nA: b\r\n\r\n");
        assert_eq!(head(&text).err(), Some(ParseError::BadRequest), "{field:?}");
    }
}

#[test]
fn request_lines_have_one_form() {
    use ParseError::{BadRequest, MethodNotAllowed};
    for (line, error) in [
        ("", BadRequest),
        ("GET", BadRequest),
        ("GET /announce", BadRequest),
        ("GET  /announce HTTP/1.1", BadRequest),
        ("GET /announce  HTTP/1.1", BadRequest),
        ("GET /announce HTTP/1.1 ", BadRequest),
        (" GET /announce HTTP/1.1", BadRequest),
        ("GET\t/announce\tHTTP/1.1", BadRequest),
        ("GET /an nounce HTTP/1.1", BadRequest),
        ("GET /an\tnounce HTTP/1.1", BadRequest),
        ("GET /an\x7fnounce HTTP/1.1", BadRequest),
        ("GET /announce HTTP/0.9", BadRequest),
        ("GET /announce HTTP/1.2", BadRequest),
        ("GET /announce HTTP/1.10", BadRequest),
        ("GET /announce HTTP/2.0", BadRequest),
        ("GET /announce http/1.1", BadRequest),
        ("GET /announce HTTP/1.1x", BadRequest),
        ("PRI * HTTP/2.0", BadRequest),
        ("GET * HTTP/1.1", BadRequest),
        ("GET announce HTTP/1.1", BadRequest),
        ("GET t.example:80 HTTP/1.1", BadRequest),
        ("GET http:///announce HTTP/1.1", BadRequest),
        ("GET http:/announce HTTP/1.1", BadRequest),
        ("GET ftp://t.example/announce HTTP/1.1", BadRequest),
        ("GET # HTTP/1.1", BadRequest),
        ("GE(T /announce HTTP/1.1", BadRequest),
        ("GET /\u{1}announce\u{1} HTTP/1.1", BadRequest),
        ("get /announce HTTP/1.1", MethodNotAllowed),
        ("GETX /announce HTTP/1.1", MethodNotAllowed),
        ("POST /announce HTTP/1.1", MethodNotAllowed),
        ("OPTIONS * HTTP/1.1", MethodNotAllowed),
        ("CONNECT t.example:443 HTTP/1.1", MethodNotAllowed),
        ("\x16\x03\x01\x02 \x01 \x01", BadRequest),
    ] {
        let text = format!("{line}\r\nHost: t.example\r\n\r\n");
        assert_eq!(head(&text).err(), Some(error), "{line:?}");
    }
    for (target, path, query) in [
        ("/", "/", ""),
        ("/a?", "/a", ""),
        ("/a?b?c", "/a", "b?c"),
        ("/a#b?c", "/a", ""),
        ("/a?b#c", "/a", "b"),
        ("http://t.example", "/", ""),
        ("HTTP://t.example?a", "/", "a"),
        ("https://u@[::1]:1/a?b", "/a", "b"),
        ("//t.example/a", "//t.example/a", ""),
    ] {
        let text = format!("HEAD {target} HTTP/1.0\r\n\r\n");
        let head = head(&text).expect(target);
        assert_eq!((head.method, head.version), (Method::Head, Version::Http10));
        assert_eq!((head.path, head.query), (path.as_bytes(), query.as_bytes()), "{target}");
    }
    let raw = Head::parse(b"GET /a?info_hash=\x80\xff HTTP/1.1\r\n\r\n").expect("raw bytes");
    assert_eq!(raw.query, b"info_hash=\x80\xff");
}

#[test]
fn connections_stay_open_as_their_version_and_fields_say() {
    for (version, fields, keep_alive) in [
        ("1.1", "", true),
        ("1.0", "", false),
        ("1.1", "Connection: close\r\n", false),
        ("1.1", "connection: CLOSE\r\n", false),
        ("1.1", "Connection: keep-alive, close\r\n", false),
        ("1.1", "Connection: x,\t close ,y\r\n", false),
        ("1.1", "Connection: closed\r\n", true),
        ("1.1", "Connection: upgrade\r\nUpgrade: websocket\r\n", true),
        ("1.1", "Connection: keep-alive\r\nConnection: close\r\n", false),
        ("1.0", "Connection: Keep-Alive\r\n", true),
        ("1.0", "Connection: close, keep-alive\r\n", false),
        ("1.0", "Proxy-Connection: keep-alive\r\n", false),
    ] {
        let text = format!("GET / HTTP/{version}\r\n{fields}\r\n");
        assert_eq!(head(&text).expect("well-formed").keep_alive, keep_alive, "{text:?}");
    }
}

/// Names that are as long as those that mean something.
#[test]
fn other_fields_mean_nothing() {
    let text = "GET / HTTP/1.1\r\nHost: t\r\nDate: t\r\nExpires: websocket\r\n\
                Keep-Alive: close, upgrade\r\nAccept-Charset: 1\r\nIf-Modified-Since: x\r\n\r\n";
    let head = head(text).expect("nothing is said twice");
    assert!(head.keep_alive && !head.upgrade);
    let half = text.replace("Keep-Alive: close", "Connection: x");
    assert!(!super::Head::parse(half.as_bytes()).expect("well-formed").upgrade, "to what?");
}

#[test]
fn fields_are_trimmed_and_in_order() {
    let head = head("GET / HTTP/1.1\r\nA:b\r\nc: \t d e\t \r\nX-Real-IP:\r\n\r\n").expect("fine");
    let expected: [(&[u8], &[u8]); 3] = [(b"A", b"b"), (b"c", b"d e"), (b"X-Real-IP", b"")];
    assert_eq!(head.fields().collect::<Vec<_>>(), expected);
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn bounds_of_a_head_are_exact() {
    for (count, expected) in [(HTTP_HEADERS_MAX, None), (HTTP_HEADERS_MAX + 1, Some(()))] {
        let text = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(count));
        let error = expected.map(|()| ParseError::HeadTooLarge);
        assert_eq!(head(&text).err(), error, "{count} fields");
    }
    for length in [HTTP_HEAD_BYTES_MAX - 1, HTTP_HEAD_BYTES_MAX, HTTP_HEAD_BYTES_MAX + 1] {
        let frame = "GET / HTTP/1.1\r\nA: \r\n\r\n".len();
        let text = format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "b".repeat(length - frame));
        let fits = length <= HTTP_HEAD_BYTES_MAX;
        let error = (!fits).then_some(ParseError::HeadTooLarge);
        assert_eq!(head(&text).err(), error, "{length} bytes");
        assert_eq!(head_end(text.as_bytes(), 0).err(), error, "{length} bytes");
    }
    let endless = [b'a'; HTTP_HEAD_BYTES_MAX];
    assert_eq!(head_end(&endless[1..], 0), Ok(None));
    assert_eq!(head_end(&endless, endless.len() - 1), Err(ParseError::HeadTooLarge));
}

#[test]
fn paths_name_actions() {
    use Action::{Announce, Scrape};
    for (path, expected) in [
        ("/announce", Some(Announce)),
        ("/scrape", Some(Scrape)),
        ("//announce", Some(Announce)),
        ("///scrape//", Some(Scrape)),
        ("/announce.php", Some(Announce)),
        ("/scrape.php", Some(Scrape)),
        ("/0123456789abcdef/announce", Some(Announce)),
        ("/a/b//scrape", Some(Scrape)),
        ("/", None),
        ("//", None),
        ("", None),
        ("announce", None),
        ("/Announce", None),
        ("/announcer", None),
        ("/xannounce", None),
        ("/announce/x", None),
        ("/announce.php5", None),
        ("/%61nnounce", None),
        ("/stats", None),
    ] {
        assert_eq!(action(path.as_bytes()), expected, "{path}");
    }
}

#[test]
fn num_want_is_digits() {
    use NumWant::{Count, Default};
    for (text, expected) in [
        ("-1", Default),
        ("0", Count(0)),
        ("1", Count(1)),
        ("50", Count(50)),
        ("200", Count(200)),
        ("00200", Count(200)),
        ("2147483648", Count(1 << 31)),
        ("4294967295", Count(u32::MAX)),
        ("4294967296", Count(u32::MAX)),
        ("9223372036854775808", Count(u32::MAX)),
        ("18446744073709551616", Count(u32::MAX)),
        ("", Default),
        ("abc", Default),
        ("1.5", Default),
        ("+5", Default),
        ("0x10", Default),
        ("%31", Default),
        ("--1", Default),
    ] {
        assert_eq!(announce_with(&format!("numwant={text}")).announce.num_want, expected, "{text}");
        assert_eq!(announce_with(&format!("num_want={text}")).announce.num_want, expected);
    }
    assert_eq!(announce_with("").announce.num_want, Default);
}

#[test]
fn counts_saturate_and_left_must_be_readable() {
    for (text, count, left) in [
        ("0", 0, Left::Bytes(0)),
        ("1", 1, Left::Bytes(1)),
        ("2147483648", 1 << 31, Left::Bytes(1 << 31)),
        ("9007199254740992", 1 << 53, Left::Bytes(1 << 53)),
        ("9223372036854775807", (1 << 63) - 1, Left::Bytes((1 << 63) - 1)),
        ("9223372036854775808", 1 << 63, Left::Bytes(1 << 63)),
        ("18446744073709551615", u64::MAX, Left::Bytes(u64::MAX)),
        ("18446744073709551616", u64::MAX, Left::Unknown),
        ("99999999999999999999999999999999999999999999", u64::MAX, Left::Unknown),
        ("-1", 0, Left::Unknown),
        ("-0", 0, Left::Unknown),
        ("", 0, Left::Unknown),
        ("1e3", 0, Left::Unknown),
    ] {
        let read =
            announce_with(&format!("left={text}&uploaded={text}&downloaded={text}")).announce;
        assert_eq!((read.uploaded, read.downloaded), (count, count), "{text}");
        assert_eq!(read.left, left, "{text}");
    }
}

#[test]
fn ports_are_numbers_up_to_65535() {
    for (text, port) in [
        ("0", Ok(0)),
        ("1", Ok(1)),
        ("65535", Ok(65535)),
        ("006881", Ok(6881)),
        ("65536", Err(ParseError::BadPort)),
        ("65616", Err(ParseError::BadPort)),
        ("4294967297", Err(ParseError::BadPort)),
        ("18446744073709551617", Err(ParseError::BadPort)),
        ("-1", Err(ParseError::BadPort)),
        ("", Err(ParseError::BadPort)),
        (" 7", Err(ParseError::BadPort)),
        ("0x10", Err(ParseError::BadPort)),
    ] {
        let query = format!("{LOWER}&peer_id=-XX0001-aaaaaaaaaaaa&port={text}");
        assert_eq!(announce(&query).map(|read| read.announce.port), port, "{text:?}");
    }
}

#[test]
fn missing_and_broken_names_are_told_apart() {
    use ParseError::*;
    let id = "peer_id=-XX0001-aaaaaaaaaaaa";
    for (query, error) in [
        (String::new(), MissingInfoHash),
        ("info_hash".to_owned(), MissingInfoHash),
        (format!("INFO_HASH=x&{id}&port=1"), MissingInfoHash),
        ("info_hash=".to_owned(), BadInfoHash),
        (format!("info_hash=short&{id}&port=1"), BadInfoHash),
        (format!("{LOWER}x&{id}&port=1"), BadInfoHash),
        (format!("{LOWER}&{LOWER}&{id}&port=1"), SeveralInfoHashes),
        (format!("info_hash=&{LOWER}&{id}&port=1"), SeveralInfoHashes),
        (format!("{LOWER}&port=1"), BadPeerId),
        (format!("{LOWER}&peer_id=x&{id}&port=1"), BadPeerId),
        (format!("{LOWER}&{id}x&port=1"), BadPeerId),
        (format!("{LOWER}&{id}"), BadPort),
        (format!("{LOWER}&{id}&port"), BadPort),
    ] {
        assert_eq!(announce(&query), Err(error), "{query}");
    }
}

#[test]
fn percent_decoding_has_one_reading() {
    let decode = |value: &[u8]| {
        check_query(&[b"info_hash=", value].concat());
        percent_decode::<4>(value)
    };
    for (value, expected) in [
        (&b"abcd"[..], Some(*b"abcd")),
        (b"%61%62%63%64", Some(*b"abcd")),
        (b"%aA%Aa%00%fF", Some([0xAA, 0xAA, 0, 0xFF])),
        (b"a+%2B ", Some(*b"a++ ")),
        (b"\x80\xff\xc3\xa9", Some([0x80, 0xFF, 0xC3, 0xA9])),
        (b"%26%3d%3F%23", Some(*b"&=?#")),
        (b"a=b=", Some(*b"a=b=")),
        (b"%2561x", Some(*b"%61x")),
        (b"%25%25%25%25", Some(*b"%%%%")),
        (b"abc", None),
        (b"abcde", None),
        (b"abc%", None),
        (b"abcd%", None),
        (b"abcd%1", None),
        (b"abc%1", None),
        (b"abc%G1", None),
        (b"abc%1G", None),
        (b"abc%%31", None),
        (b"abc%+1", None),
        (b"abc%3\xc4\xb0", None),
        (b"abc%u0031", None),
        (b"", None),
    ] {
        assert_eq!(decode(value), expected, "{}", value.escape_ascii());
    }
    assert_eq!(percent_decode::<20>(&b"%00".repeat(20)), Some([0; 20]));
    assert_eq!(percent_decode::<0>(b""), Some([]));
}

#[test]
fn odd_queries_do_not_shift_names_against_values() {
    let complete = format!("{LOWER}&peer_id=-XX0001-aaaaaaaaaaaa&port=1");
    for prefix in ["a", "x=1=2", "&&", "=", "==", "?", "a?b", "=x", "&".repeat(8000).as_str()] {
        let read = announce(&format!("{prefix}&{complete}")).expect(prefix);
        assert_eq!((read.announce.info_hash, read.announce.port), (HASH, 1));
    }
    let long = format!("{}={complete}&{complete}", "k".repeat(60_000));
    assert_eq!(announce(&long).map(|read| read.announce.info_hash), Ok(HASH));
    let parameters: Vec<_> = Parameters::new(b"?a&b=&=c&d=e=f&&g=h?i=j&").collect();
    let expected: [(&[u8], &[u8]); 5] =
        [(b"b", b""), (b"", b"c"), (b"d", b"e=f"), (b"g", b"h"), (b"i", b"j")];
    assert_eq!(parameters, expected);
}

#[test]
fn wishes_about_the_answer() {
    for (text, compact) in [("", true), ("compact=1", true), ("compact=0", false)] {
        assert_eq!(announce_with(text).compact, compact);
    }
    for text in ["compact=", "compact=00", "compact=no", "compact", "compact=1&compact=0"] {
        assert!(announce_with(text).compact, "{text}");
    }
    assert!(announce_with("no_peer_id=1").no_peer_id);
    for text in ["", "no_peer_id=0", "no_peer_id=", "no_peer_id=11", "no_peer_id=true"] {
        assert!(!announce_with(text).no_peer_id, "{text}");
    }
    for (text, ip) in [
        ("ip=192.0.2.1", Some("192.0.2.1")),
        ("ip=%31%39%32.0.2.1", Some("192.0.2.1")),
        ("ipv6=2001:db8::1&ip=192.0.2.1", Some("2001:db8::1")),
        ("ip=t.example&ipv4=192.0.2.2", Some("192.0.2.2")),
        ("ipv6=%5B2001%3Adb8%3A%3A1%5D%3A6881", Some("2001:db8::1")),
        ("ipv4=192.0.2.1:80", Some("192.0.2.1")),
        ("ip=::ffff:192.0.2.1", Some("192.0.2.1")),
        ("ip=", None),
        ("ip=192.0.2.256", None),
        ("ip=192.0.2", None),
        ("ip=0300.0.2.1", None),
        ("ip=%zz", None),
        ("ip=\u{e9}", None),
        ("IP=192.0.2.1", None),
    ] {
        let expected = ip.map(|ip| ip.parse::<IpAddr>().expect("a literal"));
        assert_eq!(announce_with(text).ip, expected, "{text}");
    }
    assert_eq!(announce_with(&format!("ip={}", "1".repeat(500))).ip, None);
    for (text, key) in [
        ("key=0", Some(0)),
        ("key=ffffFFFF", Some(u32::MAX)),
        ("key=0ffffffff", Some(fnv(b"0ffffffff"))),
        ("key=xyz", Some(fnv(b"xyz"))),
        ("key=+1", Some(fnv(b"+1"))),
        ("key=", None),
        ("", None),
    ] {
        assert_eq!(announce_with(text).announce.key, key, "{text}");
    }
}

#[test]
fn scrapes_answer_for_each_hash_by_itself() {
    let query = format!("x=1&{LOWER}&info_hash=bad&{UPPER}&info_hash&info_hash=%00");
    check_query(query.as_bytes());
    let bad = Err(ParseError::BadInfoHash);
    let read: Vec<_> = scrape_hashes(query.as_bytes()).collect();
    assert_eq!(read, [Ok(HASH), bad, Ok(HASH), bad]);
    assert_eq!(scrape_hashes(b"").count(), 0);
    let many = [LOWER; 150].join("&");
    assert_eq!(scrape_hashes(many.as_bytes()).filter(|&hash| hash == Ok(HASH)).count(), 150);
}

#[test]
fn responses_say_their_length_and_whether_they_are_the_last() {
    let written = |status, body: &[u8], keep_alive, head_only| {
        let mut out = b"before".to_vec();
        write_response(&mut out, status, body, keep_alive, head_only);
        String::from_utf8(out).expect("ASCII").strip_prefix("before").map(str::to_owned)
    };
    let fields = "Content-Type: text/plain\r\nContent-Length: 3\r\n";
    let ok = format!("HTTP/1.1 200 OK\r\n{fields}Connection: keep-alive\r\n\r\nd1e");
    assert_eq!(written(Status::Ok, b"d1e", true, false), Some(ok.clone()));
    assert_eq!(written(Status::Ok, b"d1e", true, true).as_deref(), ok.strip_suffix("d1e"));
    let refused = format!(
        "HTTP/1.1 405 Method Not Allowed\r\n{fields}Allow: GET, HEAD\r\n\
         Connection: close\r\n\r\nno\n"
    );
    assert_eq!(written(Status::MethodNotAllowed, b"no\n", false, false), Some(refused));
    for status in Status::ALL {
        let text = written(status, b"", false, false).expect("appended");
        let line = format!("HTTP/1.1 {} {}\r\n", status.code(), status.reason());
        assert!(text.starts_with(&line), "{text}");
        assert!(text.ends_with("\r\nConnection: close\r\n\r\n"), "{text}");
        assert!(text.len() < 256, "{text}");
    }
}

/// How clients escape: nothing but what they must, either case, or everything.
fn escape(bytes: &[u8], encoder: usize) -> String {
    let plain = |byte: &u8| match encoder {
        0 => byte.is_ascii_alphanumeric() || b"-_.!~*()".contains(byte),
        1 => byte.is_ascii_alphanumeric() || b"-_.~".contains(byte),
        2 => byte.is_ascii_alphanumeric(),
        _ => false,
    };
    let one = |byte: &u8| match encoder {
        _ if plain(byte) => char::from(*byte).to_string(),
        0 | 2 => format!("%{byte:02x}"),
        _ => format!("%{byte:02X}"),
    };
    bytes.iter().map(one).collect()
}

/// Pieces of heads, right and wrong.
const HEAD_PIECES: &[&str] = &[
    "GET ",
    "HEAD ",
    "POST ",
    "/announce",
    "/scrape",
    "?",
    "#",
    "http://h",
    "a=b",
    " HTTP/1.1\r\n",
    " HTTP/1.0\r\n",
    "Host: x\r\n",
    "Connection: ",
    "close",
    "keep-alive",
    ",",
    "\r\n",
    "\r\n\r\n",
    "Content-Length: 0\r\n",
    "content-length:",
    "Transfer-Encoding: x\r\n",
    "A: b\r\n",
    ": ",
    " ",
    "\t",
    "\r",
    "\n",
    "\0",
    "0",
    "x",
    "%",
    "\u{80}",
];

/// Pieces of queries, right and wrong.
const QUERY_PIECES: &[&str] = &[
    LOWER,
    UPPER,
    "&",
    "&",
    "&",
    "=",
    "?",
    "%",
    "%0",
    "+",
    "-1",
    "0",
    "1",
    "50",
    "65536",
    "f",
    "info_hash=",
    "peer_id=",
    "peer_id=-XX0001-aaaaaaaaaaaa",
    "port=",
    "port=6881",
    "left=",
    "uploaded=",
    "downloaded=",
    "event=",
    "started",
    "stopped",
    "paused",
    "numwant=",
    "num_want=",
    "key=",
    "compact=",
    "no_peer_id=",
    "ip=",
    "ipv4=",
    "ipv6=",
    "::1",
    "192.0.2.1",
    "[::1]:80",
    "18446744073709551616",
    "\u{e9}",
];

proptest! {
    #[test]
    fn any_bytes_are_read_as_the_model_reads_them(bytes in vec(any::<u8>(), 0..600)) {
        check_head(&bytes);
        check_query(&bytes);
        check_stream(&bytes);
    }

    #[test]
    fn shuffled_heads_are_read_as_the_model_reads_them(
        pieces in vec(select(HEAD_PIECES), 0..24), begin: bool,
    ) {
        let begin = if begin { "GET /announce HTTP/1.1\r\n" } else { "" };
        let text = format!("{begin}{}", pieces.concat());
        check_head(text.as_bytes());
        check_head(format!("{text}\r\n\r\n").as_bytes());
    }

    #[test]
    fn damaged_heads_are_read_as_the_model_reads_them(
        client in 0..CLIENTS.len(), at: prop::sample::Index, byte: u8, insert: bool,
    ) {
        let mut bytes = CLIENTS[client].bytes();
        let at = at.index(bytes.len());
        if insert { bytes.insert(at, byte) } else { bytes[at] = byte }
        check_head(&bytes);
        if let Ok(head) = Head::parse(&bytes) {
            check_query(head.query);
        }
    }

    #[test]
    fn shuffled_queries_are_read_as_the_model_reads_them(
        pieces in vec(select(QUERY_PIECES), 0..32), complete: bool,
    ) {
        let text = pieces.concat();
        check_query(text.as_bytes());
        if complete {
            check_query(format!("{LOWER}&peer_id=-XX0001-aaaaaaaaaaaa&port=1&{text}").as_bytes());
        }
    }

    #[test]
    fn an_announce_reads_back_as_written(
        ids: ([u8; 20], [u8; 20], u16, u64, u64, u64, u32, u32), encoder in 0..4_usize,
        event in 0..5_usize, compact: bool, no_peer_id: bool, ip: Option<IpAddr>,
    ) {
        let (info_hash, peer_id, port, uploaded, downloaded, left, num_want, key) = ids;
        let word = ["", "completed", "started", "stopped", "paused"][event];
        let ip = ip.map(|ip| ip.to_canonical());
        let mut query = format!(
            "info_hash={}&peer_id={}&port={port}&uploaded={uploaded}&downloaded={downloaded}\
             &left={left}&event={word}&numwant={num_want}&key={key:X}&compact={}&no_peer_id={}",
            escape(&info_hash, encoder),
            escape(&peer_id, encoder),
            u8::from(compact),
            u8::from(no_peer_id),
        );
        if let Some(ip) = ip {
            query += &format!("&ip={}", escape(ip.to_string().as_bytes(), encoder));
        }
        let announce = Announce {
            info_hash: InfoHash(info_hash),
            peer_id: PeerId(peer_id),
            port,
            uploaded,
            downloaded,
            left: Left::Bytes(left),
            event: Event::from_http(word.as_bytes()),
            num_want: NumWant::Count(num_want),
            key: Some(key),
        };
        let read = AnnounceQuery::parse(query.as_bytes());
        prop_assert_eq!(read, Ok(AnnounceQuery { announce, compact, no_peer_id, ip }));
    }
}
