//! Listeners for proxies: who may say there who the client is, and who may not.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Instant;

use socket2::{Domain, Socket, Type};
use throng::rng::Rng;
use throng::wire::bencode::Value;

use super::client::{Http, announce_target, leecher, random_hash};
use super::process::{PATIENCE, eventually, start};

const PROXY: [u8; 4] = [127, 0, 0, 2];
const STRANGER: [u8; 4] = [127, 0, 0, 3];
/// For whom the proxy speaks.
const CLIENT: [u8; 4] = [203, 0, 113, 9];

/// A connection from an address of this machine.
fn connect_from(ip: [u8; 4], target: SocketAddr) -> Http {
    try_connect_from(ip, target).expect("it listens")
}

/// The same to where it may be reset before we are told that it was made.
fn try_connect_from(ip: [u8; 4], target: SocketAddr) -> io::Result<Http> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from((ip, 0)).into()).expect("loopback has many addresses");
    socket.connect(&target.into())?;
    Ok(Http::over(TcpStream::from(socket)))
}

/// Settings for a certificate that is made for one test.
fn write_certificate(folder: &Path) -> [String; 2] {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a key");
    let (certificate, key) = (folder.join("certificate.pem"), folder.join("key.pem"));
    fs::write(&certificate, made.cert.pem()).expect("a folder of our own");
    fs::write(&key, made.signing_key.serialize_pem()).expect("a folder of our own");
    let setting = |name: &str, path: &Path| format!("tls.{name}={}", path.display());
    [setting("certificates", &certificate), setting("keys", &key)]
}

/// The address that counts for a peer that announces with `fields` over `connection`.
fn address_of(connection: &mut Http, fields: &str) -> Vec<u8> {
    let target = announce_target(&leecher(random_hash(&mut Rng::new(50)), 20_016));
    connection.send(format!("GET {target} HTTP/1.1\r\nHost: t\r\n{fields}\r\n").as_bytes());
    let response = connection.receive();
    let address =
        response.value().get(b"external ip").and_then(Value::as_bytes).map(<[u8]>::to_vec);
    address.unwrap_or_else(|| panic!("{response:?}"))
}

#[test]
fn trusted_proxies_alone_speak_for_others() {
    let listen = "http.listen=127.0.0.1:0 proxy_protocol,127.0.0.1:0 forwarded";
    let Some(throng) = start(&[listen, "http.trusted_proxies=127.0.0.2/32"]) else { return };
    let [proxied, forwarded] = throng.http[..] else { panic!("{:?}", throng.http) };

    let header = b"PROXY TCP4 203.0.113.9 127.0.0.1 5000 80\r\n";
    let mut connection = connect_from(PROXY, proxied);
    connection.send(header);
    assert_eq!(address_of(&mut connection, ""), CLIENT);
    match try_connect_from(STRANGER, proxied) {
        Ok(mut connection) => {
            // It may have been reset before this is written.
            let request = b"GET /scrape HTTP/1.1\r\nHost: t\r\n\r\n";
            let _ = connection.stream.write_all(&[&header[..], request].concat());
            connection.assert_ended();
        }
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset),
    }
    eventually("it is counted", PATIENCE, || throng.metric("http_proxy_headers_refused") == 1);

    let said = "X-Forwarded-For: 192.0.2.1, 203.0.113.9\r\n";
    assert_eq!(address_of(&mut connect_from(PROXY, forwarded), said), CLIENT);
    assert_eq!(address_of(&mut connect_from(STRANGER, forwarded), said), STRANGER);
    assert_eq!(address_of(&mut connect_from(STRANGER, forwarded), ""), STRANGER);
}

#[test]
fn a_field_of_another_name_is_the_only_one_that_counts() {
    for (name, value) in [
        ("CF-Connecting-IP", "203.0.113.9"),
        ("x-real-ip", "203.0.113.9:5000"),
        ("Forwarded", "for=192.0.2.1, for=\"203.0.113.9:5000\";proto=https"),
    ] {
        let settings = [
            "http.listen=127.0.0.1:0 forwarded",
            "http.trusted_proxies=127.0.0.2/32",
            &format!("http.forwarded_header={name}"),
        ];
        let Some(throng) = start(&settings) else { return };
        let open = |source| connect_from(source, throng.http[0]);
        let said = format!("X-Forwarded-For: 192.0.2.7\r\n{name}: {value}\r\n");
        assert_eq!(address_of(&mut open(PROXY), &said), CLIENT, "{name}");
        assert_eq!(address_of(&mut open(STRANGER), &said), STRANGER, "{name}");
        let mut silent = open(PROXY);
        silent.send(b"GET /scrape HTTP/1.1\r\nX-Forwarded-For: 192.0.2.7\r\n\r\n");
        assert_eq!(silent.receive().status, 400, "{name}");
    }
}

/// Neither half a header nor a header with half a request may take longer than a head.
#[test]
fn a_header_has_the_deadline_of_the_head_behind_it() {
    const BINARY: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0C\xCB\0\x71\x09\x7F\0\0\x01";
    let folder = tempfile::tempdir().expect("a temporary folder");
    let [certificate, key] = write_certificate(folder.path());
    let settings = [
        "http.listen=127.0.0.1:0 proxy_protocol,127.0.0.1:0 tls proxy_protocol",
        "http.trusted_proxies=127.0.0.2/32",
        "http.head_timeout=1s",
        "http.idle_timeout=10m",
        &certificate,
        &key,
    ];
    let Some(throng) = start(&settings) else { return };
    let line = b"PROXY TCP4 203.0.113.9 127.0.0.1 5000 80\r\n";
    let request = [&line[..], b"GET /announce?"].concat();
    let hello = [&line[..], b"\x16\x03\x01\x02\0"].concat();
    let parts = [b"P", &line[..20], &line[..line.len() - 1], BINARY, &BINARY[..14], &BINARY[..5]];
    let both = |part| throng.http.iter().map(move |target| (*target, part));
    let begun = parts.into_iter().flat_map(both);
    let begun = begun.chain([(throng.http[0], &request[..]), (throng.http[1], &hello[..])]);
    let began = Instant::now();
    let connections: Vec<_> = begun
        .map(|(target, part)| {
            let mut connection = connect_from(PROXY, target);
            connection.send(part);
            (connection, part)
        })
        .collect();
    let count = connections.len() as u64;
    for (mut connection, part) in connections {
        let end = connection.stream.read(&mut [0; 16]).map_err(|error| error.kind());
        assert_eq!(end, Err(io::ErrorKind::ConnectionReset), "{}", part.escape_ascii());
    }
    assert!((900..5_500).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
    eventually("all are counted", PATIENCE, || {
        throng.metric("http_connections_timed_out") == count
    });
}

/// On a connection that a proxy keeps, requests of many clients follow each other.
#[test]
fn nobody_is_told_the_address_of_another_client() {
    let listen = "http.listen=127.0.0.1:0 forwarded";
    let Some(throng) = start(&[listen, "http.trusted_proxies=127.0.0.2/32"]) else { return };
    let refused = |source: [u8; 4], fields: &str, request: &str, status| {
        let mut connection = connect_from(source, throng.http[0]);
        let before = address_of(&mut connection, fields);
        connection.send(request.as_bytes());
        let response = connection.receive();
        assert_eq!(response.status, status, "{request}");
        assert!(response.failure().is_some(), "{request}");
        let told = response.value().get(b"external ip").and_then(Value::as_bytes);
        (before, told.map(<[u8]>::to_vec))
    };
    let unreadable = "GET /announce HTTP/1.1\r\nX : 198.51.100.7\r\n\r\n";
    let named = "X-Forwarded-For: 203.0.113.9\r\n";
    for (request, status) in [
        ("POST /announce HTTP/1.1\r\nX-Forwarded-For: 198.51.100.7\r\n\r\n", 405),
        ("GET /announce HTTP/1.1\r\nHost: t\r\n\r\n", 400),
        (unreadable, 400),
    ] {
        assert_eq!(refused(PROXY, named, request, status), (CLIENT.to_vec(), None));
    }
    // Who speaks for himself is known.
    let known = STRANGER.to_vec();
    assert_eq!(refused(STRANGER, "", unreadable, 400), (known.clone(), Some(known)));
}
