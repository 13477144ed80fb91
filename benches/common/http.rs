//! HTTP as a peer speaks it: announces over connections that stay open.

use throng::wire::bencode::Value;
use throng::wire::id::InfoHash;

/// A request as Transmission writes it.
pub fn request(info_hash: &InfoHash, port: u16, num_want: u32) -> Vec<u8> {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let mut out = Vec::with_capacity(512);
    out.extend_from_slice(b"GET /announce?info_hash=");
    for byte in info_hash.0 {
        out.extend([b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
    }
    let rest = format!(
        "&peer_id=-TR4050-k0pz7w2m9xqa&port={port}&uploaded=1310720&downloaded=73400320\
         &left=4964261888&numwant={num_want}&key=2060104839&compact=1&supportcrypto=1 HTTP/1.1\r\n\
         Host: tracker.example.org:6969\r\nUser-Agent: Transmission/4.0.5\r\nAccept: */*\r\n\
         Accept-Encoding: deflate, gzip, br, zstd\r\n\r\n"
    );
    out.extend_from_slice(rest.as_bytes());
    out
}

/// The body of the response at the start of `bytes`, once it is whole.
///
/// # Panics
/// If it is not a success of known length that keeps the connection open.
pub fn body(bytes: &[u8]) -> Option<&[u8]> {
    const LENGTH: &[u8] = b"content-length: ";
    let head = bytes.windows(4).position(|end| end == b"\r\n\r\n")?;
    let (head, body) = bytes.split_at(head + 4);
    assert!(head.starts_with(b"HTTP/1.1 200 "), "{}", head.escape_ascii());
    let length = head
        .windows(LENGTH.len())
        .position(|name| name.eq_ignore_ascii_case(LENGTH))
        .expect("a length");
    let digits = head[length + LENGTH.len()..].iter().take_while(|byte| byte.is_ascii_digit());
    let length = digits.fold(0, |value, digit| value * 10 + usize::from(digit - b'0'));
    assert!(body.len() <= length, "more than was asked for");
    (body.len() == length).then_some(body)
}

/// (seeders, leechers, peers returned) of an announce's answer.
///
/// # Panics
/// If it is not one.
#[allow(dead_code, reason = "not every bench looks into the body")]
pub fn announced(body: &[u8]) -> (u32, u32, usize) {
    let answer = Value::parse(body).expect("a correct dictionary");
    let count = |key: &[u8]| {
        let value = answer.get(key).and_then(Value::as_integer);
        let value = value.unwrap_or_else(|| panic!("{}", body.escape_ascii()));
        u32::try_from(value).expect("a count")
    };
    let peers = answer.get(b"peers").and_then(Value::as_bytes).expect("compact peers");
    (count(b"complete"), count(b"incomplete"), peers.len() / 6)
}
