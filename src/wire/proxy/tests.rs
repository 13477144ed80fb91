//! What proxies send, what attackers send, and the model.

use std::cell::Cell;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::model::{check_forwarded, check_header, slow_crc32c};
use super::*;
use crate::wire::error::ParseError;
use crate::wire::http::{Head, head_end};

// The PROXY protocol.

const LINE: &[u8] = b"PROXY TCP4 192.0.2.7 203.0.113.9 56324 443\r\n";
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;
/// 192.0.2.7:56324 to 203.0.113.9:443.
const ADDRESSES_V4: [u8; 12] = [192, 0, 2, 7, 203, 0, 113, 9, 0xDC, 0x04, 0x01, 0xBB];
/// [2001:db8::7]:56324 to [2001:db8::9]:443.
const ADDRESSES_V6: [u8; 36] = [
    0x20, 0x01, 0x0D, 0xB8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7, 0x20, 0x01, 0x0D, 0xB8, 0, 0, 0, 0,
    0, 0, 0, 0, 0, 0, 0, 9, 0xDC, 0x04, 0x01, 0xBB,
];

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn endpoint(text: &str) -> SocketAddr {
    text.parse().expect("an address and a port")
}

/// The line that says that `source` connected to `target`, which is of its family.
fn write_v1(source: SocketAddr, target: SocketAddr) -> Vec<u8> {
    let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
    let (from, to) = (source.ip(), target.ip());
    format!("PROXY {family} {from} {to} {} {}\r\n", source.port(), target.port()).into_bytes()
}

/// A binary header with any bytes after the fixed ones.
fn write_v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).expect("a short body");
    [&SIGNATURE[..], &[command, family], &length.to_be_bytes(), body].concat()
}

/// The addresses as version 2 has them; both of one family.
fn write_addresses(source: SocketAddr, target: SocketAddr) -> Vec<u8> {
    let octets = |ip: IpAddr| match ip {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let ports = [source.port().to_be_bytes(), target.port().to_be_bytes()].concat();
    [octets(source.ip()), octets(target.ip()), ports].concat()
}

fn write_tlv(kind: u8, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len()).expect("a short value");
    [&[kind], &length.to_be_bytes()[..], value].concat()
}

/// Puts the checksum of `header` into its four bytes at `at`.
fn put_checksum(header: &mut [u8], at: usize) {
    header[at..at + 4].fill(0);
    let sum = slow_crc32c(header);
    header[at..at + 4].copy_from_slice(&sum.to_be_bytes());
}

/// A header of TCP over IPv4 with these TLVs.
fn v4_with(tlvs: &[&[u8]]) -> Vec<u8> {
    write_v2(PROXY, TCP4, &[&ADDRESSES_V4[..], &tlvs.concat()].concat())
}

/// What is read of `bytes`, which the model reads likewise.
fn read(bytes: &[u8]) -> Result<Option<ProxyHeader>, ProxyError> {
    check_header(bytes);
    parse_proxy_header(bytes)
}

fn read_whole(bytes: &[u8], source: Option<&str>) {
    let header = ProxyHeader { len: bytes.len(), source: source.map(endpoint) };
    assert_eq!(read(bytes), Ok(Some(header)), "{}", bytes.escape_ascii());
}

/// Headers that are read, and the source in each.
fn good_headers() -> Vec<(Vec<u8>, Option<&'static str>)> {
    let long = |line: &str| line.as_bytes().to_vec();
    let full = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
    let mapped = [&[0; 10][..], &[0xFF, 0xFF, 192, 0, 2, 7], &ADDRESSES_V6[16..]].concat();
    let no_op = write_tlv(4, &[0; 505]);
    vec![
        (LINE.to_vec(), Some("192.0.2.7:56324")),
        (long("PROXY TCP4 0.0.0.0 0.0.0.0 0 0\r\n"), Some("0.0.0.0:0")),
        (
            long("PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n"),
            Some("255.255.255.255:65535"),
        ),
        (long("PROXY TCP6 2001:DB8::7 ::1 1 2\r\n"), Some("[2001:db8::7]:1")),
        (long("PROXY TCP6 ::ffff:192.0.2.7 ::ffff:10.0.0.1 1 2\r\n"), Some("192.0.2.7:1")),
        (
            long(&format!("PROXY TCP6 {full} {full} 65535 65535\r\n")),
            Some("[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535"),
        ),
        (long("PROXY UNKNOWN\r\n"), None),
        (long("PROXY UNKNOWN \r\n"), None),
        (long("PROXY UNKNOWN  what\0ever \x7f\r\n"), None),
        (long(&format!("PROXY UNKNOWN {full} {full} 65535 65535\r\n")), None),
        (write_v2(PROXY, TCP4, &ADDRESSES_V4), Some("192.0.2.7:56324")),
        (write_v2(PROXY, TCP6, &ADDRESSES_V6), Some("[2001:db8::7]:56324")),
        (write_v2(PROXY, TCP6, &mapped), Some("192.0.2.7:56324")),
        (write_v2(LOCAL, 0, b""), None),
        (write_v2(LOCAL, TCP4, &ADDRESSES_V4), None),
        (write_v2(LOCAL, 0xFF, b"no address and no TLV"), None),
        (write_v2(LOCAL, 0, &[0xFF; 520]), None),
        (v4_with(&[&no_op]), Some("192.0.2.7:56324")),
        (v4_with(&[&write_tlv(1, b"http/1.1"), &write_tlv(4, b"")]), Some("192.0.2.7:56324")),
        (v4_with(&[&write_tlv(0xEA, b"\x01vpce-1")]), Some("192.0.2.7:56324")),
    ]
}

#[test]
fn good_headers_are_read() {
    for (bytes, source) in good_headers() {
        read_whole(&bytes, source);
    }
    assert_eq!(good_headers().iter().map(|(bytes, _)| bytes.len()).max(), Some(536));
}

#[test]
fn a_header_cut_at_any_byte_asks_for_more() {
    for (bytes, _) in good_headers() {
        for end in 0..bytes.len() {
            assert_eq!(parse_proxy_header(&bytes[..end]), Ok(None), "{end}");
        }
    }
}

#[test]
fn what_follows_a_header_is_left_alone_and_a_second_header_is_no_request() {
    for (first, _) in good_headers() {
        let header = read(&first);
        for tail in [&b"GET / HTTP/1.1\r\n"[..], b"\0", b"\r\n", b"PROXY UNKNOWN\r\n"] {
            assert_eq!(read(&[&first[..], tail].concat()), header);
        }
    }
    for (second, _) in good_headers() {
        // Whatever a client adds, neither way of ending a header makes a request of it.
        for tail in [&b"\r\n"[..], b"GET / HTTP/1.1\r\n\r\n"] {
            let rest = [&second[..], tail].concat();
            let request = match head_end(&rest, 0) {
                Ok(Some(end)) => Head::parse(&rest[..end]).map(Some),
                Ok(None) => Ok(None),
                Err(error) => Err(error),
            };
            let text = rest.escape_ascii();
            assert_eq!(request.err(), Some(ParseError::BadRequest), "{text}");
        }
    }
}

#[test]
fn a_wrong_byte_of_a_signature_is_refused_when_it_comes() {
    for (signature, whole) in [(&b"PROXY "[..], LINE.to_vec()), (&SIGNATURE, v4_with(&[]))] {
        assert!(whole.starts_with(signature));
        for at in 0..signature.len() {
            for wrong in (0..=u8::MAX).filter(|&byte| byte != signature[at]) {
                if at == 0 && [b'P', b'\r'].contains(&wrong) {
                    continue;
                }
                let mut bytes = whole.clone();
                bytes[at] = wrong;
                assert_eq!(parse_proxy_header(&bytes[..at]), Ok(None));
                assert_eq!(parse_proxy_header(&bytes[..=at]), Err(ProxyError::BadSignature));
                assert_eq!(parse_proxy_header(&bytes), Err(ProxyError::BadSignature));
            }
        }
    }
    let openings: [(&[u8], usize); 7] = [
        (b"GET /announce HTTP/1.1\r\n\r\n", 1),
        (b"POST / HTTP/1.1\r\n\r\n", 2),
        (b"PROPFIND / HTTP/1.1\r\n\r\n", 4),
        (b"PROXY\tTCP4 192.0.2.7 192.0.2.9 1 2\r\n", 6),
        (b"proxy TCP4 192.0.2.7 192.0.2.9 1 2\r\n", 1),
        (b"\r\nPROXY UNKNOWN\r\n", 3),
        (b"\x16\x03\x01\x02\0\x01", 1),
    ];
    for (bytes, refused_at) in openings {
        assert_eq!(parse_proxy_header(&bytes[..refused_at - 1]), Ok(None));
        assert_eq!(parse_proxy_header(&bytes[..refused_at]), Err(ProxyError::BadSignature));
        check_header(bytes);
    }
}

#[test]
fn lines_that_break_the_grammar_are_refused() {
    let lines = [
        "PROXY \r\n",
        "PROXY  TCP4 192.0.2.7 192.0.2.9 1 2\r\n",
        "PROXY TCP4\r\n",
        "PROXY TCP4 192.0.2.7\r\n",
        "PROXY TCP4 192.0.2.7 192.0.2.9 1\r\n",
        "PROXY TCP4 192.0.2.7 192.0.2.9 1 2 \r\n",
        "PROXY TCP4 192.0.2.7 192.0.2.9 1 2 3\r\n",
        "PROXY TCP4  192.0.2.7 192.0.2.9 1 2\r\n",
        "PROXY TCP4 192.0.2.7  192.0.2.9 1 2\r\n",
        "PROXY TCP4 192.0.2.7 192.0.2.9  1 2\r\n",
        "PROXY TCP4 192.0.2.7 192.0.2.9 1  2\r\n",
        "PROXY TCP4\t192.0.2.7 192.0.2.9 1 2\r\n",
        "PROXY TCP4 192.0.2.7\t192.0.2.9 1 2\r\n",
        "PROXY TCP4 192.0.2.7 192.0.2.9 1 2\0\r\n",
        "PROXY tcp4 192.0.2.7 192.0.2.9 1 2\r\n",
        "PROXY TCP5 192.0.2.7 192.0.2.9 1 2\r\n",
        "PROXY UDP4 192.0.2.7 192.0.2.9 1 2\r\n",
        "PROXY unknown\r\n",
        "PROXY UNKNOWN\t\r\n",
        "PROXY UNKNOWNS\r\n",
        // Families.
        "PROXY TCP4 2001:db8::7 2001:db8::9 1 2\r\n",
        "PROXY TCP6 192.0.2.7 192.0.2.9 1 2\r\n",
        "PROXY TCP4 192.0.2.7 2001:db8::9 1 2\r\n",
        "PROXY TCP4 2001:db8::7 192.0.2.9 1 2\r\n",
        "PROXY TCP6 2001:db8::7 192.0.2.9 1 2\r\n",
        "PROXY TCP6 192.0.2.7 2001:db8::9 1 2\r\n",
        "PROXY TCP4 ::ffff:192.0.2.7 192.0.2.9 1 2\r\n",
        // Addresses.
        "PROXY TCP4 192.0.2 192.0.2.9 1 2\r\n",
        "PROXY TCP4 192.0.2.7.1 192.0.2.9 1 2\r\n",
        "PROXY TCP4 192.0.2.256 192.0.2.9 1 2\r\n",
        "PROXY TCP4 192.0.2.07 192.0.2.9 1 2\r\n",
        "PROXY TCP4 0xC0.0.2.7 192.0.2.9 1 2\r\n",
        "PROXY TCP4 3221225991 192.0.2.9 1 2\r\n",
        "PROXY TCP4 192.0.2.7:80 192.0.2.9 1 2\r\n",
        "PROXY TCP4 tracker.example 192.0.2.9 1 2\r\n",
        "PROXY TCP4 192.0.2.7 nowhere 1 2\r\n",
        "PROXY TCP6 [2001:db8::7] 2001:db8::9 1 2\r\n",
        "PROXY TCP6 fe80::7%1 2001:db8::9 1 2\r\n",
        "PROXY TCP6 2001:db8::7::8 2001:db8::9 1 2\r\n",
        "PROXY TCP6 2001:db8:0:0:0:0:0 2001:db8::9 1 2\r\n",
        "PROXY TCP6 2001:db8:0:0:0:0:0:7:8 2001:db8::9 1 2\r\n",
        "PROXY TCP6 20010:db8::7 2001:db8::9 1 2\r\n",
        "PROXY TCP6 2001:dbg::7 2001:db8::9 1 2\r\n",
        // Ports.
        "PROXY TCP4 192.0.2.7 192.0.2.9 65536 2\r\n",
        "PROXY TCP4 192.0.2.7 192.0.2.9 1 65536\r\n",
        "PROXY TCP4 192.0.2.7 192.0.2.9 01 2\r\n",
        "PROXY TCP4 192.0.2.7 192.0.2.9 1 00\r\n",
        "PROXY TCP4 192.0.2.7 192.0.2.9 +1 2\r\n",
        "PROXY TCP4 192.0.2.7 192.0.2.9 1 -2\r\n",
        "PROXY TCP4 192.0.2.7 192.0.2.9 0x1 2\r\n",
        "PROXY TCP4 192.0.2.7 192.0.2.9 1 2a\r\n",
        "PROXY TCP4 192.0.2.7 192.0.2.9 99999999999999999999 2\r\n",
        // Ends.
        "PROXY TCP4 192.0.2.7 192.0.2.9 1 2\n",
        "PROXY TCP4 192.0.2.7 192.0.2.9 1 2\r\r\n",
        "PROXY TCP4 192.0.2.7 192.0.2.9 1 2\rx",
        "PROXY TCP4 192.0.2.7 192.0.2.9 1\n2\r\n",
        "PROXY UNKNOWN\n",
        "PROXY UNKNOWN \rx\r\n",
        "PROXY \n",
    ];
    for line in lines {
        assert_eq!(read(line.as_bytes()), Err(ProxyError::BadLine), "{line:?}");
    }
    assert_eq!(read(b"PROXY TCP4 192.0.2.\xff 192.0.2.9 1 2\r\n"), Err(ProxyError::BadLine));
}

#[test]
fn a_line_has_107_bytes_at_the_most() {
    let unknown = |bytes: usize, end: &str| {
        let mut line = b"PROXY UNKNOWN ".to_vec();
        line.resize(bytes - end.len(), b'x');
        line.extend_from_slice(end.as_bytes());
        line
    };
    read_whole(&unknown(107, "\r\n"), None);
    for (bytes, expected) in [
        (unknown(106, ""), Ok(None)),
        (unknown(106, "\r"), Ok(None)),
        (unknown(107, ""), Err(ProxyError::LineTooLong)),
        (unknown(107, "\r"), Err(ProxyError::LineTooLong)),
        (unknown(108, "\r\n"), Err(ProxyError::LineTooLong)),
        (unknown(4_096, "\r\n"), Err(ProxyError::LineTooLong)),
        (unknown(107, "\n"), Err(ProxyError::BadLine)),
    ] {
        assert_eq!(read(&bytes), expected, "{}", bytes.len());
    }
}

#[test]
fn versions_commands_and_families_are_refused_by_the_fixed_bytes_alone() {
    // An interpreter takes minutes for all: the two that mean something, and their neighbours.
    for command in (0..=u8::MAX).filter(|command| !cfg!(miri) || (0x1F..=0x22).contains(command)) {
        for family in 0..=u8::MAX {
            // More than any block of addresses, UNIX sockets included.
            let fixed = &write_v2(command, family, &[0; 300])[..16];
            let expected = match (command, family) {
                (LOCAL, _) | (PROXY, TCP4 | TCP6) => Ok(None),
                (PROXY, _) => Err(ProxyError::BadFamily),
                _ => Err(ProxyError::BadCommand),
            };
            assert_eq!(parse_proxy_header(fixed), expected, "{command:#x} {family:#x}");
            assert_eq!(parse_proxy_header(&fixed[..15]), Ok(None));
        }
    }
    for family in [0x00, 0x10, 0x12, 0x20, 0x22, 0x30, 0x31, 0x32, 0x41, 0x13] {
        let bytes = write_v2(PROXY, family, &[0; 216]);
        assert_eq!(read(&bytes), Err(ProxyError::BadFamily), "{family:#x}");
    }
}

#[test]
fn lengths_are_refused_by_the_fixed_bytes_alone() {
    for (command, family, at_least) in
        [(LOCAL, 0x00, 0), (LOCAL, TCP6, 0), (PROXY, TCP4, 12), (PROXY, TCP6, 36)]
    {
        // A prime step: an interpreter takes minutes for all.
        for length in (0..=u16::MAX).step_by(if cfg!(miri) { 257 } else { 1 }) {
            let fixed = [&SIGNATURE[..], &[command, family], &length.to_be_bytes()].concat();
            let expected = match usize::from(length) {
                0 if at_least == 0 => Ok(Some(ProxyHeader { len: 16, source: None })),
                length if (at_least..=520).contains(&length) => Ok(None),
                _ => Err(ProxyError::BadLength),
            };
            assert_eq!(parse_proxy_header(&fixed), expected, "{length}");
        }
    }
}

#[test]
fn broken_tlvs_are_refused() {
    let sum = write_tlv(3, &[0; 4]);
    let table: [(&str, &[&[u8]]); 11] = [
        ("only a type", &[b"\x04"]),
        ("half a length", &[b"\x04\x00"]),
        ("one byte too few", &[b"\x04\x00\x01"]),
        ("far past the header", &[b"\x04\xff\xffvalue"]),
        ("past the header, after others", &[b"\x01\x00\x02h2", b"\x04\x00\x03no"]),
        ("a type left over", &[b"\x01\x00\x02h2", b"\x04"]),
        ("padding that is no TLV", &[b"\0\0"]),
        ("a checksum of 3 bytes", &[b"\x03\x00\x03\x00\x00\x00"]),
        ("a checksum of 5 bytes", &[b"\x03\x00\x05\x00\x00\x00\x00\x00"]),
        ("a checksum of none", &[b"\x03\x00\x00"]),
        ("two checksums", &[&sum, &sum]),
    ];
    for (name, tlvs) in table {
        assert_eq!(read(&v4_with(tlvs)), Err(ProxyError::BadTlv), "{name}");
    }
    // Neither a right checksum nor bytes after the header make up for it.
    let mut bytes = v4_with(&[&sum, b"\x04\x00\x02!"]);
    put_checksum(&mut bytes, 31);
    bytes.extend_from_slice(b"more");
    assert_eq!(read(&bytes), Err(ProxyError::BadTlv));
}

#[test]
fn the_checksum_is_the_one_of_the_rfcs() {
    let vectors: [(&[u8], u32); 4] = [
        (b"123456789", 0xE306_9283),
        (&[0; 32], 0x8A91_36AA),
        (&[0xFF; 32], 0x62A8_AB43),
        (&std::array::from_fn::<u8, 32, _>(|i| u8::try_from(i).expect("below 32")), 0x46DD_794E),
    ];
    for (bytes, sum) in vectors {
        assert_eq!(slow_crc32c(bytes), sum);
    }
    // In network byte order, as load balancers send it.
    let bytes = v4_with(&[b"\x01\x00\x05http1", b"\x03\x00\x04\xbd\x0a\xc3\x21", b"\x04\x00\x00"]);
    read_whole(&bytes, Some("192.0.2.7:56324"));
}

#[test]
fn a_wrong_bit_anywhere_under_the_checksum_is_found() {
    let sum = write_tlv(3, &[0; 4]);
    let alpn = write_tlv(1, b"http/1.1");
    for (tlvs, at) in [([&sum[..], &alpn], 31), ([&alpn, &sum[..]], 42)] {
        let mut bytes = v4_with(&tlvs);
        put_checksum(&mut bytes, at);
        read_whole(&bytes, Some("192.0.2.7:56324"));
        // Addresses, values, and the sum itself; types and lengths may fail otherwise.
        let values = if at == 31 { [31..35, 38..46] } else { [31..39, 42..46] };
        let places = (16..28).chain(values.into_iter().flatten());
        for flipped in places.step_by(if cfg!(miri) { 16 } else { 1 }) {
            for bit in 0..8 {
                let mut wrong = bytes.clone();
                wrong[flipped] ^= 1 << bit;
                assert_eq!(read(&wrong), Err(ProxyError::BadChecksum), "{flipped} {bit}");
            }
        }
    }
    // The proxy's own connection is none that a checksum could tell anything about.
    read_whole(&write_v2(LOCAL, TCP4, &[&ADDRESSES_V4[..], &sum].concat()), None);
}

// Forwarded fields.

const LIST: &str = "X-Forwarded-For";
const ELEMENTS: &str = "Forwarded";

/// The proxies of these tests: 10.0.0.0/8 and fd00::/8.
fn is_proxy(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.octets()[0] == 10,
        IpAddr::V6(v6) => v6.octets()[0] == 0xFD,
    }
}

/// The client of a request with these values under `name`, as text.
fn client(name: &str, values: &[&str], trusted: impl Fn(IpAddr) -> bool) -> String {
    check_forwarded(values.join("\n").as_bytes());
    let fields = values.iter().map(|value| (name.as_bytes(), value.as_bytes()));
    match forwarded_for(fields, name.as_bytes(), trusted) {
        Ok(ip) => ip.to_string(),
        Err(ForwardedError::Missing) => "missing".to_owned(),
        Err(ForwardedError::Unreadable) => "unreadable".to_owned(),
    }
}

#[test]
fn every_form_of_an_address_is_read_alike_in_both_fields() {
    let forms = [
        ("192.0.2.7", "192.0.2.7"),
        ("192.0.2.7:0", "192.0.2.7"),
        ("192.0.2.7:5678", "192.0.2.7"),
        ("192.0.2.7:65535", "192.0.2.7"),
        ("2001:db8::7", "2001:db8::7"),
        ("2001:DB8::7", "2001:db8::7"),
        ("2001:db8:0:0:0:0:0:7", "2001:db8::7"),
        ("[2001:db8::7]", "2001:db8::7"),
        ("[2001:db8::7]:5678", "2001:db8::7"),
        ("[2001:db8:0000::0007]:1", "2001:db8::7"),
        ("::1", "::1"),
        ("[::1]:80", "::1"),
        // No port can follow without brackets.
        ("2001:db8::7:80", "2001:db8::7:80"),
        // Folded.
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("::ffff:c000:207", "192.0.2.7"),
        ("[::ffff:192.0.2.7]:80", "192.0.2.7"),
        // Not mapped, therefore not folded.
        ("::192.0.2.7", "::c000:207"),
        ("64:ff9b::192.0.2.7", "64:ff9b::c000:207"),
    ];
    for (form, expected) in forms {
        let quoted = format!("\"{form}\"");
        for entry in [form, &quoted] {
            assert_eq!(client(LIST, &[entry], |_| false), expected, "{entry}");
            let element = format!("for={entry}");
            assert_eq!(client(ELEMENTS, &[&element], |_| false), expected, "{element}");
        }
    }
}

#[test]
fn what_is_no_address_is_unreadable_in_both_fields() {
    let forms = [
        "",
        "unknown",
        "Unknown",
        "_hidden",
        "_SEVKISEK",
        "-",
        "localhost",
        "tracker.example",
        "192.0.2",
        "192.0.2.7.1",
        "192.0.2.256",
        "192.0.2.07",
        "0x7f.0.0.1",
        "3221225991",
        "192.0.2.7/32",
        "192.0.2.7:",
        "192.0.2.7:65536",
        "192.0.2.7:080",
        "192.0.2.7:+80",
        "192.0.2.7:http",
        "192.0.2.7:_port",
        "192.0.2.7:80:80",
        "192.0.2.7 192.0.2.8",
        "[192.0.2.7]",
        "[192.0.2.7]:80",
        "2001:db8::7::1",
        "2001:db8:::7",
        "2001:db8",
        "[2001:db8::7",
        "2001:db8::7]",
        "2001:db8::7]:80",
        "[2001:db8::7]80",
        "[2001:db8::7]:",
        "[2001:db8::7]:65536",
        "[2001:db8::7]:_port",
        "[[2001:db8::7]]",
        "[ 2001:db8::7 ]",
        "[]",
        "[]:80",
        "fe80::7%1",
        "fe80::7%eth0",
        "[fe80::7%25eth0]:80",
        "for=192.0.2.7",
        "'192.0.2.7'",
        "http://192.0.2.7",
        "192.0.2.7\u{a0}",
        "\u{ff11}92.0.2.7",
        "192.0.2.7\0",
        "192.0.2.7\u{c}",
    ];
    for form in forms {
        let quoted = format!("\"{form}\"");
        for entry in [form, &quoted] {
            assert_eq!(client(LIST, &[entry], |_| false), "unreadable", "{entry:?}");
            let element = format!("for={entry}");
            assert_eq!(client(ELEMENTS, &[&element], |_| false), "unreadable", "{element:?}");
        }
    }
    for half in ["\"192.0.2.7", "192.0.2.7\"", "\"\"192.0.2.7\"\"", "\" 192.0.2.7\"", "\""] {
        assert_eq!(client(LIST, &[half], |_| false), "unreadable", "{half}");
        let element = format!("for={half}");
        assert_eq!(client(ELEMENTS, &[&element], |_| false), "unreadable", "{element}");
    }
    for bytes in [&b"\xff"[..], b"192.0.2.7\xff", b"for=192.0.2.7\xff", b"for=192.0.2.7;by=\xff"] {
        check_forwarded(bytes);
        let field = [(ELEMENTS.as_bytes(), bytes)];
        let read = forwarded_for(field, ELEMENTS.as_bytes(), |_| false);
        assert_eq!(read, Err(ForwardedError::Unreadable));
    }
}

/// Fields, then who the client is: if the proxies in the list are trusted, and if nobody is.
type Row = (&'static [&'static str], &'static str, &'static str);

fn clients(name: &str, rows: &[Row]) {
    for (values, with_proxies, with_nobody) in rows {
        assert_eq!(client(name, values, is_proxy), *with_proxies, "{values:?}");
        assert_eq!(client(name, values, |_| false), *with_nobody, "{values:?}");
    }
}

#[test]
fn the_client_of_a_list_is_its_rightmost_hop_that_is_not_trusted() {
    clients(
        LIST,
        &[
            (&[], "missing", "missing"),
            (&["192.0.2.7"], "192.0.2.7", "192.0.2.7"),
            (&[" \t192.0.2.7\t "], "192.0.2.7", "192.0.2.7"),
            // What the client wrote itself stays where it is: on the left.
            (&["203.0.113.6, 192.0.2.7"], "192.0.2.7", "192.0.2.7"),
            (&["10.0.0.6, 192.0.2.7"], "192.0.2.7", "192.0.2.7"),
            (&["127.0.0.1,192.0.2.7"], "192.0.2.7", "192.0.2.7"),
            (&["2001:db8::6, 2001:db8::7"], "2001:db8::7", "2001:db8::7"),
            // Several proxies.
            (&["192.0.2.7, 10.0.0.1"], "192.0.2.7", "10.0.0.1"),
            (&["192.0.2.7,10.0.0.1,10.0.0.2"], "192.0.2.7", "10.0.0.2"),
            (&["203.0.113.6, 192.0.2.7, 10.0.0.1, 10.0.0.2"], "192.0.2.7", "10.0.0.2"),
            (&["2001:db8::7, fd00::1"], "2001:db8::7", "fd00::1"),
            (&["2001:db8::7, [fd00::1]:443, 10.0.0.1:80"], "2001:db8::7", "10.0.0.1"),
            (&["192.0.2.7, ::ffff:10.0.0.1"], "192.0.2.7", "10.0.0.1"),
            (&["10.0.0.1, 192.0.2.7, 10.0.0.2"], "192.0.2.7", "10.0.0.2"),
            // A trusted host is a client too.
            (&["10.0.0.1"], "10.0.0.1", "10.0.0.1"),
            (&["10.0.0.1, 10.0.0.2"], "10.0.0.1", "10.0.0.2"),
            (&["fd00::1", "fd00::2, 10.0.0.3"], "fd00::1", "10.0.0.3"),
            // Several fields are one list.
            (&["203.0.113.6", "192.0.2.7"], "192.0.2.7", "192.0.2.7"),
            (&["192.0.2.7", "10.0.0.1"], "192.0.2.7", "10.0.0.1"),
            (&["192.0.2.7", "10.0.0.1, 10.0.0.2", "10.0.0.3"], "192.0.2.7", "10.0.0.3"),
            (&["203.0.113.6, 192.0.2.7", "10.0.0.1"], "192.0.2.7", "10.0.0.1"),
            // Broken where it counts.
            (&[""], "unreadable", "unreadable"),
            (&[","], "unreadable", "unreadable"),
            (&["192.0.2.7,"], "unreadable", "unreadable"),
            (&["192.0.2.7", ""], "unreadable", "unreadable"),
            (&["192.0.2.7, unknown"], "unreadable", "unreadable"),
            (&["192.0.2.7, _hidden"], "unreadable", "unreadable"),
            (&["192.0.2.7; 10.0.0.1"], "unreadable", "unreadable"),
            (&["192.0.2.7 10.0.0.1"], "unreadable", "unreadable"),
            (&["unknown, 10.0.0.1"], "unreadable", "10.0.0.1"),
            (&["192.0.2.7, , 10.0.0.1"], "unreadable", "10.0.0.1"),
            (&[", 10.0.0.1"], "unreadable", "10.0.0.1"),
            (&["192.0.2.7", "_hidden, 10.0.0.1"], "unreadable", "10.0.0.1"),
            (&["", "10.0.0.1"], "unreadable", "10.0.0.1"),
            // Broken where it does not count.
            (&["unknown, 192.0.2.7"], "192.0.2.7", "192.0.2.7"),
            (&[", ,,192.0.2.7"], "192.0.2.7", "192.0.2.7"),
            (&["\", 192.0.2.7"], "192.0.2.7", "192.0.2.7"),
            (&["_hidden, 192.0.2.7, 10.0.0.1"], "192.0.2.7", "10.0.0.1"),
            (&["unknown", "", "192.0.2.7"], "192.0.2.7", "192.0.2.7"),
            // Quotes hold an address together, not a list.
            (&["\"192.0.2.7\", \"[fd00::1]:80\""], "192.0.2.7", "fd00::1"),
            (&["\"203.0.113.6, 192.0.2.7\""], "unreadable", "unreadable"),
        ],
    );
}

#[test]
fn the_client_of_elements_is_in_the_for_of_the_rightmost_that_is_not_trusted() {
    clients(
        ELEMENTS,
        &[
            (&[], "missing", "missing"),
            // The examples of RFC 7239 section 4.
            (&["for=\"_gazonk\""], "unreadable", "unreadable"),
            (&["For=\"[2001:db8:cafe::17]:4711\""], "2001:db8:cafe::17", "2001:db8:cafe::17"),
            (&["for=192.0.2.60;proto=http;by=203.0.113.43"], "192.0.2.60", "192.0.2.60"),
            (&["for=192.0.2.43, for=198.51.100.17"], "198.51.100.17", "198.51.100.17"),
            (
                &["for=192.0.2.43, for=\"[2001:db8:cafe::17]\""],
                "2001:db8:cafe::17",
                "2001:db8:cafe::17",
            ),
            (&["for=192.0.2.43, for=unknown"], "unreadable", "unreadable"),
            // Hops.
            (&["for=192.0.2.7, for=10.0.0.1"], "192.0.2.7", "10.0.0.1"),
            (&["for=192.0.2.7,for=\"[fd00::1]:443\";by=10.0.0.2"], "192.0.2.7", "fd00::1"),
            (&["for=203.0.113.6, for=192.0.2.7", "for=10.0.0.1"], "192.0.2.7", "10.0.0.1"),
            (&["for=10.0.0.1", "for=10.0.0.2"], "10.0.0.1", "10.0.0.2"),
            (&["for=unknown, for=10.0.0.1"], "unreadable", "10.0.0.1"),
            (&["for=unknown, for=192.0.2.7"], "192.0.2.7", "192.0.2.7"),
            // Parameters.
            (&["FOR=192.0.2.7"], "192.0.2.7", "192.0.2.7"),
            (&["by=10.0.0.1;for=192.0.2.7"], "192.0.2.7", "192.0.2.7"),
            (&["proto=https ; for=192.0.2.7 ; host=t.example:443"], "192.0.2.7", "192.0.2.7"),
            (&[";;for=192.0.2.7; "], "192.0.2.7", "192.0.2.7"),
            (&["fort=10.0.0.1;for=192.0.2.7;xfor=10.0.0.2"], "192.0.2.7", "192.0.2.7"),
            (&["by=192.0.2.7"], "unreadable", "unreadable"),
            (&["192.0.2.7"], "unreadable", "unreadable"),
            (&["for"], "unreadable", "unreadable"),
            (&["for="], "unreadable", "unreadable"),
            (&["for = 192.0.2.7"], "unreadable", "unreadable"),
            (&["for= 192.0.2.7"], "unreadable", "unreadable"),
            (&["for=192.0.2.7;for=192.0.2.8"], "unreadable", "unreadable"),
            (&["for=192.0.2.7;by=10.0.0.1;For=192.0.2.7"], "unreadable", "unreadable"),
            (&["for=192.0.2.7;secret"], "unreadable", "unreadable"),
            (&["for:192.0.2.7"], "unreadable", "unreadable"),
            (&[""], "unreadable", "unreadable"),
            (&["for=192.0.2.7,"], "unreadable", "unreadable"),
            // Quoted strings of others.
            (&["for=192.0.2.7;by=\"a, for=10.0.0.1; b\""], "192.0.2.7", "192.0.2.7"),
            (&["by=\";for=10.0.0.1\";for=192.0.2.7"], "192.0.2.7", "192.0.2.7"),
            (&["for=192.0.2.7;by=\"\\\", for=10.0.0.1\""], "192.0.2.7", "192.0.2.7"),
            (&["for=192.0.2.7;by=\"\\\\\", for=10.0.0.1"], "192.0.2.7", "10.0.0.1"),
            (&["by=\"\";for=192.0.2.7;host=\"\""], "192.0.2.7", "192.0.2.7"),
            (&["for=\"192.0.2\\.7\""], "unreadable", "unreadable"),
            // Quotes without partners, where they count.
            (&["for=\"192.0.2.7"], "unreadable", "unreadable"),
            (&["for=192.0.2.7;by=\""], "unreadable", "unreadable"),
            (&["for=192.0.2.7;by=\"\\\""], "unreadable", "unreadable"),
            (&["for=192.0.2.7;by=\\\""], "unreadable", "unreadable"),
            (&["by=\"a", "b\";for=192.0.2.7"], "unreadable", "unreadable"),
            // And where the client wrote them: they do not swallow what the proxy appends.
            (&["for=\"10.0.0.6, for=192.0.2.7"], "192.0.2.7", "192.0.2.7"),
            (&["for=203.0.113.6;by=\", for=\"[2001:db8::7]\""], "2001:db8::7", "2001:db8::7"),
            (&["by=\"\\, for=\"192.0.2.7\";host=\"t.example\""], "192.0.2.7", "192.0.2.7"),
            (&["\"", "for=192.0.2.7"], "192.0.2.7", "192.0.2.7"),
        ],
    );
}

#[test]
fn only_fields_of_the_name_count_in_any_case() {
    let names = [LIST, "X-Real-IP", "CF-Connecting-IP", "True-Client-IP", ELEMENTS];
    let by_name = |name: &str| match name {
        ELEMENTS => "for=192.0.2.7;by=10.0.0.1",
        _ => "192.0.2.7",
    };
    for name in names {
        let value = by_name(name).as_bytes();
        for sent in [name.to_owned(), name.to_ascii_lowercase(), name.to_ascii_uppercase()] {
            for wanted in [name, &name.to_ascii_lowercase(), &name.to_ascii_uppercase()] {
                let fields = [
                    (&b"Host"[..], &b"203.0.113.6"[..]),
                    (sent.as_bytes(), value),
                    (b"X-Forwarded", b"203.0.113.6"),
                    (b"X-Forwarded-For-", b"203.0.113.6"),
                    (b"For", b"for=203.0.113.6"),
                ];
                let client = forwarded_for(fields, wanted.as_bytes(), |_| false);
                assert_eq!(client, Ok(ip("192.0.2.7")), "{sent} {wanted}");
            }
        }
        let others = names.into_iter().filter(|other| *other != name);
        let fields = others.map(|other| (other.as_bytes(), by_name(other).as_bytes()));
        let client = forwarded_for(fields, name.as_bytes(), |_| false);
        assert_eq!(client, Err(ForwardedError::Missing), "{name}");
    }
}

#[test]
fn the_fields_of_a_head_are_taken_as_they_are() {
    let head = b"GET /announce HTTP/1.1\r\nhost: t.example\r\nx-forwarded-for:203.0.113.6\r\n\
        X-FORWARDED-FOR:  192.0.2.7 , 10.0.0.1 \r\nAccept: */*\r\n\r\n";
    let head = Head::parse(head).expect("a request");
    let client = forwarded_for(head.fields(), b"X-Forwarded-For", is_proxy);
    assert_eq!(client, Ok(ip("192.0.2.7")));
    assert_eq!(forwarded_for(head.fields(), b"Forwarded", is_proxy), Err(ForwardedError::Missing));
}

#[test]
fn entries_left_of_the_one_that_decides_are_not_looked_at() {
    for (name, entry, last) in [
        (LIST, "203.0.113.6,", "192.0.2.7"),
        (LIST, ",", "192.0.2.7"),
        (LIST, "unknown,", "192.0.2.7"),
        (ELEMENTS, "for=203.0.113.6,", "for=192.0.2.7"),
        (ELEMENTS, "\",", "for=192.0.2.7"),
        (ELEMENTS, ",", "for=192.0.2.7"),
    ] {
        let value = entry.repeat(10_000) + last;
        let asked = Cell::new(0);
        let count = |_| {
            asked.set(asked.get() + 1);
            false
        };
        let client = forwarded_for([(name.as_bytes(), value.as_bytes())], name.as_bytes(), count);
        assert_eq!((client, asked.get()), (Ok(ip("192.0.2.7")), 1), "{entry}");
    }
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn a_long_value_is_read_once() {
    let hops: String = (0..10_000).fold("192.0.2.7".to_owned(), |mut list, i| {
        write!(list, ", 10.0.{}.{}", i / 256, i % 256).expect("a string takes all");
        list
    });
    for (value, expected) in [
        (hops.clone(), Ok(ip("192.0.2.7"))),
        (",".repeat(10_000), Err(ForwardedError::Unreadable)),
        ("a".repeat(100_000), Err(ForwardedError::Unreadable)),
        (",".repeat(10_000) + "10.0.0.1", Err(ForwardedError::Unreadable)),
        ("1".repeat(100_000), Err(ForwardedError::Unreadable)),
    ] {
        let fields = [(LIST.as_bytes(), value.as_bytes())];
        assert_eq!(forwarded_for(fields, LIST.as_bytes(), is_proxy), expected);
    }
    let elements = hops.replace(", ", ";host=\"a\\\"b,c\", for=");
    for (value, expected) in [
        (format!("for={elements}"), Ok(ip("192.0.2.7"))),
        ("\"".repeat(100_001), Err(ForwardedError::Unreadable)),
        ("\\".repeat(100_000) + "\"", Err(ForwardedError::Unreadable)),
        ("\\\"".repeat(100_000) + "\"", Err(ForwardedError::Unreadable)),
        ("for=192.0.2.7;".to_owned() + &"x=\"\";".repeat(20_000), Ok(ip("192.0.2.7"))),
        (";".repeat(100_000), Err(ForwardedError::Unreadable)),
    ] {
        let fields = [(ELEMENTS.as_bytes(), value.as_bytes())];
        assert_eq!(forwarded_for(fields, ELEMENTS.as_bytes(), is_proxy), expected);
    }
}

#[test]
fn a_hundred_fields_are_one_list() {
    let values: Vec<String> = (1..=100).map(|i| format!("10.0.0.{i}")).collect();
    for client_at in (0..100).step_by(if cfg!(miri) { 33 } else { 1 }) {
        let mut values = values.clone();
        values[client_at] = "192.0.2.7".to_owned();
        let fields = values.iter().map(|value| (LIST.as_bytes(), value.as_bytes()));
        assert_eq!(forwarded_for(fields, LIST.as_bytes(), is_proxy), Ok(ip("192.0.2.7")));
        // Broken to the left of the client does not matter, to the right it does.
        for (broken_at, expected) in [
            (client_at.checked_sub(1), Ok(ip("192.0.2.7"))),
            (Some(client_at + 1).filter(|&at| at < 100), Err(ForwardedError::Unreadable)),
        ] {
            let Some(broken_at) = broken_at else { continue };
            let mut values = values.clone();
            values[broken_at] = "unknown".to_owned();
            let fields = values.iter().map(|value| (LIST.as_bytes(), value.as_bytes()));
            assert_eq!(forwarded_for(fields, LIST.as_bytes(), is_proxy), expected);
        }
    }
}

// Against the model.

fn any_ip() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        any::<Ipv4Addr>().prop_map(IpAddr::from),
        any::<Ipv6Addr>().prop_map(IpAddr::from),
        any::<Ipv4Addr>().prop_map(|ip| ip.to_ipv6_mapped().into()),
        any::<u8>().prop_map(|last| Ipv4Addr::new(10, 0, 0, last).into()),
    ]
}

/// Two endpoints of one family.
fn endpoints() -> impl Strategy<Value = (SocketAddr, SocketAddr)> {
    (any_ip(), any_ip(), any::<[u16; 2]>()).prop_map(|(source, target, [port, target_port])| {
        let target = match (source, target) {
            (IpAddr::V4(_), IpAddr::V6(_)) => Ipv4Addr::LOCALHOST.into(),
            (IpAddr::V6(_), IpAddr::V4(v4)) => v4.to_ipv6_mapped().into(),
            _ => target,
        };
        (SocketAddr::new(source, port), SocketAddr::new(target, target_port))
    })
}

/// Some pieces of what is between the tildes of `alphabet`, in any order.
fn pieces(alphabet: &'static str) -> impl Strategy<Value = String> {
    let alphabet: Vec<&str> = alphabet.split('~').collect();
    vec(select(alphabet), 0..24).prop_map(|chosen| chosen.concat())
}

const LINE_PIECES: &str = " ~ ~ ~TCP4~TCP6~UNKNOWN~PROXY~192.0.2.7~::1~::ffff:10.0.0.1~0~1~65535~\
    \r\n~\r\n~\r~\n~x~\u{e9}";
const LIST_PIECES: &str = ",~,~, ~\n~10.0.0.1~192.0.2.7~::1~[::1]~[~]~:80~:~\"~ ~\t~unknown~%1~\
    \u{e9}";
const ELEMENT_PIECES: &str = ",~;~\n~for=~for=~For=~by=~10.0.0.1~192.0.2.7~\"[::1]:80\"~::1~\"~\"~\
    \\~\\\"~=~ ~unknown~\u{e9}";

proptest! {
    #[test]
    fn any_bytes_are_read_as_the_model_reads_them(bytes in vec(any::<u8>(), 0..64)) {
        check_header(&bytes);
        check_header(&[&SIGNATURE, &bytes[..]].concat());
        check_header(&[b"PROXY ", &bytes[..]].concat());
        check_forwarded(&bytes);
        check_forwarded(&[b"for=\"", &bytes[..]].concat());
    }

    #[test]
    fn lines_are_read_as_the_model_reads_them(
        line in pieces(LINE_PIECES), cut in any::<Index>(), piece in pieces(LINE_PIECES),
    ) {
        check_header(format!("PROXY {line}").as_bytes());
        // A good line with one thing wrong.
        let mut bytes = LINE.to_vec();
        let cut = cut.index(bytes.len());
        bytes.splice(cut..=cut, piece.bytes());
        check_header(&bytes);
    }

    #[test]
    fn lists_are_read_as_the_model_reads_them(
        list in pieces(LIST_PIECES), elements in pieces(ELEMENT_PIECES),
    ) {
        check_forwarded(list.as_bytes());
        check_forwarded(elements.as_bytes());
    }

    #[test]
    fn a_written_line_is_read_back((source, target) in endpoints()) {
        let bytes = write_v1(source, target);
        let expected = SocketAddr::new(source.ip().to_canonical(), source.port());
        let header = ProxyHeader { len: bytes.len(), source: Some(expected) };
        prop_assert_eq!(read(&bytes), Ok(Some(header)));
    }

    #[test]
    fn a_written_header_is_read_back_and_any_other_as_the_model_reads_it(
        (source, target) in endpoints(),
        before in vec((4..=u8::MAX, vec(any::<u8>(), 0..40)), 0..4),
        after in vec((4..=u8::MAX, vec(any::<u8>(), 0..40)), 0..4),
        has_checksum: bool, at in any::<Index>(), byte: u8, tail in vec(any::<u8>(), 0..8),
    ) {
        let tlvs = |list: &[(u8, Vec<u8>)]| -> Vec<u8> {
            list.iter().flat_map(|(kind, value)| write_tlv(*kind, value)).collect()
        };
        let start = [write_addresses(source, target), tlvs(&before)].concat();
        let sum = if has_checksum { write_tlv(3, &[0; 4]) } else { Vec::new() };
        let family = if source.is_ipv4() { TCP4 } else { TCP6 };
        let mut bytes = write_v2(PROXY, family, &[&start[..], &sum, &tlvs(&after)].concat());
        if has_checksum {
            put_checksum(&mut bytes, 16 + start.len() + 3);
        }
        let len = bytes.len();
        bytes.extend_from_slice(&tail);
        let expected = SocketAddr::new(source.ip().to_canonical(), source.port());
        prop_assert_eq!(read(&bytes), Ok(Some(ProxyHeader { len, source: Some(expected) })));

        let at = at.index(len);
        bytes[at] = byte;
        let _ = read(&bytes);
    }

    #[test]
    fn a_written_list_is_read_back(
        list in vec((any_ip(), proptest::option::of(any::<u16>())), 1..8),
    ) {
        let entries: Vec<String> = list.iter().map(|(ip, port)| match port {
            Some(port) => SocketAddr::new(*ip, *port).to_string(),
            None => ip.to_string(),
        }).collect();
        let hops: Vec<IpAddr> = list.iter().map(|(ip, _)| ip.to_canonical()).collect();
        let expected = hops.iter().rev().find(|hop| !is_proxy(**hop)).unwrap_or(&hops[0]);
        let text = expected.to_string();
        prop_assert_eq!(client(LIST, &[&entries.join(", ")], is_proxy), text.clone());
        let values: Vec<&str> = entries.iter().map(String::as_str).collect();
        prop_assert_eq!(client(LIST, &values, is_proxy), text.clone());
        let elements: Vec<String> =
            entries.iter().map(|entry| format!("proto=http;for=\"{entry}\";by=\"a,;\"")).collect();
        prop_assert_eq!(client(ELEMENTS, &[&elements.join(",")], is_proxy), text);
    }
}
