//! A second, slow and plain reading of heads and queries, to hold the real one against.
//!
//! It makes text of the bytes, one character per byte, and then uses the string functions of the
//! standard library, as the rules would be told.

use super::*;
use crate::limits::{HTTP_HEAD_BYTES_MAX, HTTP_HEADERS_MAX};
use crate::wire::announce::{Announce, Event, Left, NumWant};
use crate::wire::error::ParseError;
use crate::wire::id::{InfoHash, PeerId};

/// Looks for the end of a head, whole and byte by byte, and reads `bytes` as a head in two ways.
///
/// # Panics
/// At the first difference.
pub fn check_head(bytes: &[u8]) {
    let end = slow_head_end(bytes);
    assert_eq!(head_end(bytes, 0), end);
    let (mut arrived, mut left) = (0_usize, bytes.to_vec());
    let found = loop {
        // Each call is told how much the one before it has seen, and looks at no more of that than
        // the end of a line: the rest could be anything.
        let searched = arrived.saturating_sub(1);
        if let Some(passed) = searched.checked_sub(4) {
            left[passed] = 0;
        }
        match head_end(&left[..arrived], searched) {
            Ok(None) if arrived < bytes.len() => arrived += 1,
            found => break found,
        }
    };
    assert_eq!(found, end);

    let text: String = bytes.iter().map(|&byte| char::from(byte)).collect();
    match (Head::parse(bytes), slow_head(&text)) {
        (parsed, None) => assert!(parsed.is_err()),
        (Err(error), Some(slow)) => assert_eq!(slow.err(), Some(error)),
        (Ok(head), Some(slow)) => {
            assert_eq!(end, Ok(Some(bytes.len())));
            let slow = slow.expect("only the slow parser refuses this");
            assert_eq!(head.method, slow.method);
            assert_eq!(latin(head.path), slow.path);
            assert_eq!(latin(head.query), slow.query);
            assert_eq!(head.version, slow.version);
            assert_eq!(head.keep_alive, slow.keep_alive);
            let fields: Vec<_> = head.fields().map(|(n, v)| (latin(n), latin(v))).collect();
            assert_eq!(fields, slow.fields);
        }
    }
}

/// Reads `bytes` as what comes over a connection, whole and in pieces: the same heads are found.
/// The first byte says how many pieces there are, and as many behind it how long each is.
///
/// # Panics
/// At the first difference.
pub fn check_stream(bytes: &[u8]) {
    let Some((&count, rest)) = bytes.split_first() else { return };
    let Some((lengths, stream)) = rest.split_at_checked(usize::from(count)) else { return };
    let (mut input, mut searched, mut found) = (Vec::new(), 0, Vec::new());
    let mut left = stream;
    let lengths = lengths.iter().map(|&length| usize::from(length)).chain([usize::MAX]);
    'stream: for length in lengths {
        let (piece, later) = left.split_at(length.min(left.len()));
        left = later;
        input.extend_from_slice(piece);
        loop {
            match head_end(&input, searched) {
                Ok(Some(end)) => {
                    found.push(Ok(input.drain(..end).collect::<Vec<u8>>()));
                    searched = 0;
                }
                Ok(None) => {
                    searched = input.len();
                    break;
                }
                Err(error) => {
                    found.push(Err(error));
                    break 'stream;
                }
            }
        }
    }
    let (mut whole, mut slow) = (stream, Vec::new());
    loop {
        match slow_head_end(whole) {
            Ok(Some(end)) => {
                slow.push(Ok(whole[..end].to_vec()));
                whole = &whole[end..];
            }
            Ok(None) => break,
            Err(error) => {
                slow.push(Err(error));
                break;
            }
        }
    }
    assert_eq!(found, slow);
    for head in found.iter().flatten() {
        check_head(head);
    }
    check_head(stream);
}

/// Reads `bytes` as a query in two ways.
///
/// # Panics
/// At the first difference.
pub fn check_query(bytes: &[u8]) {
    let text = latin(bytes);
    let slow = slow_parameters(&text);
    let fast: Vec<_> = Parameters::new(bytes).map(|(n, v)| (latin(n), latin(v))).collect();
    assert_eq!(fast, slow);
    assert_eq!(AnnounceQuery::parse(bytes), slow_announce(&slow));
    let hashes = slow.iter().filter(|(name, _)| name == "info_hash");
    let hashes = hashes.map(|(_, value)| slow_decode_20(value).map(InfoHash));
    let slow_hashes: Vec<_> = hashes.map(|hash| hash.ok_or(ParseError::BadInfoHash)).collect();
    assert_eq!(scrape_hashes(bytes).collect::<Vec<_>>(), slow_hashes);
}

fn latin(bytes: &[u8]) -> String {
    bytes.iter().map(|&byte| char::from(byte)).collect()
}

fn slow_head_end(bytes: &[u8]) -> Result<Option<usize>, ParseError> {
    for end in 1..=bytes.len().min(HTTP_HEAD_BYTES_MAX) {
        let so_far = &bytes[..end];
        let after_cr = so_far[..end - 1].ends_with(b"\r");
        let is_lf = so_far.ends_with(b"\n");
        if after_cr != is_lf || so_far.ends_with(b"\0") || so_far == b"\r\n\r\n" {
            return Err(ParseError::BadRequest);
        }
        if so_far.ends_with(b"\r\n\r\n") {
            return Ok(Some(end));
        }
    }
    if bytes.len() < HTTP_HEAD_BYTES_MAX { Ok(None) } else { Err(ParseError::HeadTooLarge) }
}

struct SlowHead {
    method: Method,
    path: String,
    query: String,
    version: Version,
    keep_alive: bool,
    fields: Vec<(String, String)>,
}

/// `None` unless the bytes are lines that end in a blank one: some error, whichever is met first.
fn slow_head(text: &str) -> Option<Result<SlowHead, ParseError>> {
    let char_count = text.chars().count();
    let text = text.strip_prefix("\r\n").unwrap_or(text);
    let lines = text.strip_suffix("\r\n\r\n")?;
    if lines.contains("\r\n\r\n") || lines.replace("\r\n", "").contains(['\r', '\n', '\0']) {
        return None;
    }
    if char_count > HTTP_HEAD_BYTES_MAX {
        return Some(Err(ParseError::HeadTooLarge));
    }
    Some(slow_lines(&lines.split("\r\n").collect::<Vec<_>>()))
}

fn slow_lines(lines: &[&str]) -> Result<SlowHead, ParseError> {
    let bad = ParseError::BadRequest;
    let [method, target, version] = lines[0].split(' ').collect::<Vec<_>>()[..] else {
        return Err(bad);
    };
    let version = match version {
        "HTTP/1.0" => Version::Http10,
        "HTTP/1.1" => Version::Http11,
        _ => return Err(bad),
    };
    let is_control = |c: char| c <= ' ' || c == '\x7f';
    if !slow_is_token(method) || target.is_empty() || target.contains(is_control) {
        return Err(bad);
    }
    let method = match method {
        "GET" => Method::Get,
        "HEAD" => Method::Head,
        _ => return Err(ParseError::MethodNotAllowed),
    };
    let (path, query) = slow_target(target).ok_or(bad)?;

    let mut fields = Vec::new();
    for line in &lines[1..] {
        let (name, value) = line.split_once(':').ok_or(bad)?;
        if !slow_is_token(name) {
            return Err(bad);
        }
        let value = value.trim_matches([' ', '\t']);
        match name.to_ascii_lowercase().as_str() {
            "transfer-encoding" => return Err(bad),
            "content-length" if value.is_empty() => return Err(bad),
            "content-length" if !value.trim_matches('0').is_empty() => return Err(bad),
            _ => fields.push((name.to_owned(), value.to_owned())),
        }
        if fields.len() > HTTP_HEADERS_MAX {
            return Err(ParseError::HeadTooLarge);
        }
    }
    let all = |wanted: &str| -> Vec<&str> {
        let named = fields.iter().filter(|(name, _)| name.eq_ignore_ascii_case(wanted));
        named.map(|(_, value)| value.as_str()).collect()
    };
    if all("host").len() > 1 || all("content-length").len() > 1 {
        return Err(bad);
    }
    let connection = all("connection").join(",").to_ascii_lowercase();
    let options: Vec<&str> = connection.split(',').map(|o| o.trim_matches([' ', '\t'])).collect();
    let keep_alive = !options.contains(&"close")
        && (version == Version::Http11 || options.contains(&"keep-alive"));
    Ok(SlowHead { method, path, query, version, keep_alive, fields })
}

fn slow_target(target: &str) -> Option<(String, String)> {
    let target = target.split('#').next()?;
    let target = if target.starts_with('/') {
        target
    } else {
        let (scheme, rest) = target.split_once("://")?;
        let authority = rest.split(['/', '?']).next()?;
        let known = ["http", "https"].contains(&scheme.to_ascii_lowercase().as_str());
        if !known || authority.is_empty() {
            return None;
        }
        rest.strip_prefix(authority)?
    };
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    Some((if path.is_empty() { "/" } else { path }.to_owned(), query.to_owned()))
}

fn slow_is_token(text: &str) -> bool {
    let delimiters = "\"(),/:;<=>?@[\\]{}";
    !text.is_empty() && text.chars().all(|c| c.is_ascii_graphic() && !delimiters.contains(c))
}

fn slow_parameters(query: &str) -> Vec<(String, String)> {
    let query = query.replace('?', "&");
    let pairs = query.split('&').filter_map(|part| part.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

fn slow_decode(value: &str) -> Option<Vec<u8>> {
    let mut parts = value.split('%');
    let byte = |c: char| u8::try_from(c).expect("one character per byte");
    let mut out: Vec<u8> = parts.next()?.chars().map(byte).collect();
    for part in parts {
        let chars: Vec<char> = part.chars().collect();
        let (escape, rest) = chars.split_at_checked(2)?;
        if !escape.iter().all(char::is_ascii_hexdigit) {
            return None;
        }
        out.push(u8::from_str_radix(&escape.iter().collect::<String>(), 16).ok()?);
        out.extend(rest.iter().copied().map(byte));
    }
    Some(out)
}

fn slow_decode_20(value: &str) -> Option<[u8; 20]> {
    slow_decode(value)?.try_into().ok()
}

/// As much as a u64 holds, and whether it was more.
fn slow_number(text: &str) -> Option<(u64, bool)> {
    if text.is_empty() || !text.chars().all(|c| c.is_ascii_digit()) {
        return None;
    }
    match text.parse() {
        Ok(number) => Some((number, false)),
        Err(_) => Some((u64::MAX, true)),
    }
}

fn slow_announce(parameters: &[(String, String)]) -> Result<AnnounceQuery, ParseError> {
    let all = |wanted: &[&str]| -> Vec<&str> {
        let named = parameters.iter().filter(|(name, _)| wanted.contains(&name.as_str()));
        named.map(|(_, value)| value.as_str()).collect()
    };
    let first = |name| all(&[name]).first().copied();
    let info_hash = match all(&["info_hash"])[..] {
        [] => return Err(ParseError::MissingInfoHash),
        [one] => slow_decode_20(one).ok_or(ParseError::BadInfoHash)?,
        _ => return Err(ParseError::SeveralInfoHashes),
    };
    let peer_id = first("peer_id").and_then(slow_decode_20).ok_or(ParseError::BadPeerId)?;
    let port = first("port").and_then(slow_number).and_then(|(port, _)| u16::try_from(port).ok());
    let num_want = all(&["numwant", "num_want"]).first().copied().and_then(slow_number);
    let count = |name| first(name).and_then(slow_number).map_or(0, |(number, _)| number);
    let word: Vec<u8> = first("event").unwrap_or("").bytes().collect();
    Ok(AnnounceQuery {
        announce: Announce {
            info_hash: InfoHash(info_hash),
            peer_id: PeerId(peer_id),
            port: port.ok_or(ParseError::BadPort)?,
            uploaded: count("uploaded"),
            downloaded: count("downloaded"),
            left: match first("left").and_then(slow_number) {
                Some((left, false)) => Left::Bytes(left),
                _ => Left::Unknown,
            },
            event: Event::from_http(&word),
            num_want: num_want.map_or(NumWant::Default, |(number, _)| {
                NumWant::Count(number.try_into().unwrap_or(u32::MAX))
            }),
            key: first("key").filter(|key| !key.is_empty()).map(slow_key),
        },
        compact: first("compact") != Some("0"),
        no_peer_id: first("no_peer_id") == Some("1"),
        ip: all(&["ip", "ipv4", "ipv6"]).into_iter().find_map(slow_ip),
    })
}

fn slow_key(key: &str) -> u32 {
    match u32::from_str_radix(key, 16) {
        Ok(number) if key.len() <= 8 && !key.starts_with('+') => number,
        _ => {
            key.chars().fold(0x811c_9dc5, |hash, c| (hash ^ u32::from(c)).wrapping_mul(0x0100_0193))
        }
    }
}

fn slow_ip(value: &str) -> Option<std::net::IpAddr> {
    let text = String::from_utf8(slow_decode(value)?).ok()?;
    let endpoint = || text.parse::<std::net::SocketAddr>().ok().map(|endpoint| endpoint.ip());
    // Leading zeros could make it longer; we do not read those.
    if text.len() > 72 {
        return None;
    }
    text.parse().ok().or_else(endpoint).map(|ip: std::net::IpAddr| ip.to_canonical())
}
