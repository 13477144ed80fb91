//! A second, slow and plain reading of PROXY headers and forwarded fields, to hold the real one
//! against.
//!
//! Headers are looked at anew with every byte that comes; lists are taken apart whole, from left to
//! right, before anybody asks who is trusted. A checksum is a long division.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::*;

/// How many bytes are still looked at one by one when a header has been read or refused.
const LOOKS_BACK: usize = 16;

/// What a list says, from left to right; `None` is an unreadable entry.
type Hops = Vec<Option<IpAddr>>;

/// Reads `bytes` as the start of a connection and as values of a field.
///
/// # Panics
/// At the first difference.
pub fn check(bytes: &[u8]) {
    check_header(bytes);
    check_forwarded(bytes);
}

/// Reads `bytes` as the start of a connection in two ways, whole and byte by byte.
///
/// # Panics
/// At the first difference.
pub fn check_header(bytes: &[u8]) {
    let mut decided = None;
    let mut looks_back = 0;
    for end in 0..=bytes.len().min(PROXY_HEADER_BYTES_MAX + 1) {
        let so_far = &bytes[..end];
        let parsed = parse_proxy_header(so_far);
        let expected = *decided.get_or_insert_with(|| slow_header(so_far));
        assert_eq!(parsed, expected, "{so_far:?}");
        if parsed == Ok(None) {
            assert!(end < PROXY_HEADER_BYTES_MAX);
            decided = None;
        } else {
            looks_back += 1;
        }
        if let Ok(Some(header)) = parsed {
            assert!(header.len <= end);
            assert!(header.source.is_none_or(|source| source.ip().to_canonical() == source.ip()));
        }
        // What comes behind a header, or behind what is none, changes nothing.
        if looks_back == LOOKS_BACK {
            break;
        }
    }
    assert_eq!(parse_proxy_header(bytes), decided.unwrap_or(Ok(None)));
}

/// Reads each line of `bytes` as the value of a field, of either syntax, in two ways.
///
/// # Panics
/// At the first difference.
pub fn check_forwarded(bytes: &[u8]) {
    let values: Vec<&[u8]> = bytes.split(|&byte| byte == b'\n').collect();
    let lists: Hops = values.iter().flat_map(|value| slow_list(value)).collect();
    let elements: Hops = values.iter().flat_map(|value| slow_elements(value)).collect();
    compare("X-Forwarded-For", &values, &lists);
    compare("Forwarded", &values, &elements);
}

/// Asks for the client with different proxies trusted.
fn compare(name: &str, values: &[&[u8]], hops: &[Option<IpAddr>]) {
    let sent = name.to_ascii_lowercase();
    let other: (&[u8], &[u8]) = (b"Via", b"192.0.2.1");
    let fields = values.iter().flat_map(|value| [other, (sent.as_bytes(), value)]);
    for trusted in [|_| false, |_| true, is_loopback_or_ten] {
        let client = forwarded_for(fields.clone(), name.as_bytes(), trusted);
        assert_eq!(client, slow_client(hops, trusted), "{name}: {values:?}");
    }
}

/// Stands for an operator's list of proxies.
fn is_loopback_or_ten(ip: IpAddr) -> bool {
    ip.is_loopback() || matches!(ip, IpAddr::V4(ip) if ip.octets()[0] == 10)
}

fn slow_header(bytes: &[u8]) -> Result<Option<ProxyHeader>, ProxyError> {
    let text: String = bytes.iter().map(|&byte| char::from(byte)).collect();
    let may_become = |start: &str| text.starts_with(start) || start.starts_with(&text);
    if may_become("PROXY ") {
        slow_line(&text)
    } else if may_become("\r\n\r\n\0\r\nQUIT\n") {
        slow_binary(bytes)
    } else {
        Err(ProxyError::BadSignature)
    }
}

fn slow_line(text: &str) -> Result<Option<ProxyHeader>, ProxyError> {
    let mut line = String::new();
    for character in text.chars().take(107) {
        let after_cr = line.ends_with('\r');
        line.push(character);
        if line.ends_with("\r\n") {
            let source = slow_words(line.trim_end_matches("\r\n"))?;
            return Ok(Some(ProxyHeader { len: line.chars().count(), source }));
        }
        if after_cr || character == '\n' {
            return Err(ProxyError::BadLine);
        }
    }
    if line.chars().count() < 107 { Ok(None) } else { Err(ProxyError::LineTooLong) }
}

fn slow_words(line: &str) -> Result<Option<SocketAddr>, ProxyError> {
    let bad = ProxyError::BadLine;
    let words: Vec<&str> = line.split(' ').collect();
    let [_, family, source, target, source_port, target_port] = words[..] else {
        return if words[1] == "UNKNOWN" { Ok(None) } else { Err(bad) };
    };
    let ip = |text: &str| text.parse::<IpAddr>().map_err(|_| bad);
    match family {
        "UNKNOWN" => return Ok(None),
        "TCP4" if ip(source)?.is_ipv4() && ip(target)?.is_ipv4() => {}
        "TCP6" if ip(source)?.is_ipv6() && ip(target)?.is_ipv6() => {}
        _ => return Err(bad),
    }
    let _ = slow_port(target_port).ok_or(bad)?;
    let port = slow_port(source_port).ok_or(bad)?;
    Ok(Some(SocketAddr::new(ip(source)?.to_canonical(), port)))
}

/// A port is written as it is printed.
fn slow_port(text: &str) -> Option<u16> {
    text.parse().ok().filter(|port: &u16| port.to_string() == text)
}

fn slow_binary(bytes: &[u8]) -> Result<Option<ProxyHeader>, ProxyError> {
    if bytes.len() < 16 {
        return Ok(None);
    }
    let body_bytes = 256 * usize::from(bytes[14]) + usize::from(bytes[15]);
    let (version, command) = (bytes[12] / 16, bytes[12] % 16);
    let (family, transport) = (bytes[13] / 16, bytes[13] % 16);
    if version != 2 || command > 1 {
        return Err(ProxyError::BadCommand);
    }
    let is_local = command == 0;
    let ip_bytes = match (is_local, family, transport) {
        (true, _, _) => 0,
        (false, 1, 1) => 4,
        (false, 2, 1) => 16,
        _ => return Err(ProxyError::BadFamily),
    };
    let tlvs_at = if is_local { 16 } else { 16 + 2 * (ip_bytes + 2) };
    let end = 16 + body_bytes;
    if body_bytes > 520 || end < tlvs_at {
        return Err(ProxyError::BadLength);
    }
    if bytes.len() < end {
        return Ok(None);
    }
    if is_local {
        return Ok(Some(ProxyHeader { len: end, source: None }));
    }
    slow_tlvs(&bytes[..end], tlvs_at)?;
    let ip = |octets: &[u8]| match <[u8; 4]>::try_from(octets) {
        Ok(four) => IpAddr::V4(Ipv4Addr::from(four)),
        Err(_) => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(octets).expect("4 or 16"))),
    };
    let port_at = 16 + 2 * ip_bytes;
    let port = 256 * u16::from(bytes[port_at]) + u16::from(bytes[port_at + 1]);
    let source = SocketAddr::new(ip(&bytes[16..16 + ip_bytes]).to_canonical(), port);
    Ok(Some(ProxyHeader { len: end, source: Some(source) }))
}

fn slow_tlvs(header: &[u8], mut at: usize) -> Result<(), ProxyError> {
    let mut checksums = Vec::new();
    while at < header.len() {
        if at + 3 > header.len() {
            return Err(ProxyError::BadTlv);
        }
        let end = at + 3 + 256 * usize::from(header[at + 1]) + usize::from(header[at + 2]);
        if end > header.len() || header[at] == 3 && end != at + 7 {
            return Err(ProxyError::BadTlv);
        }
        if header[at] == 3 {
            checksums.push(at + 3);
        }
        at = end;
    }
    match checksums[..] {
        [] => Ok(()),
        [at] => {
            let mut zeroed = header.to_vec();
            zeroed[at..at + 4].fill(0);
            let is_right = slow_crc32c(&zeroed).to_be_bytes() == header[at..at + 4];
            if is_right { Ok(()) } else { Err(ProxyError::BadChecksum) }
        }
        _ => Err(ProxyError::BadTlv),
    }
}

/// The message as a polynomial, its first 32 coefficients inverted, times x^32, divided by
/// Castagnoli's; the remainder inverted. Bytes come with their lowest bit first, and the remainder
/// leaves likewise.
pub(super) fn slow_crc32c(bytes: &[u8]) -> u32 {
    let divisor: Vec<bool> = (0..=32).rev().map(|i| 0x1_1EDC_6F41_u64 >> i & 1 == 1).collect();
    let mut bits: Vec<bool> =
        bytes.iter().flat_map(|byte| (0..8).map(move |i| byte >> i & 1 == 1)).collect();
    let message_bits = bits.len();
    bits.extend([false; 32]);
    for bit in &mut bits[..32] {
        *bit = !*bit;
    }
    for at in 0..message_bits {
        if bits[at] {
            for (bit, subtrahend) in bits[at..].iter_mut().zip(&divisor) {
                *bit ^= subtrahend;
            }
        }
    }
    bits[message_bits..].iter().rev().fold(0, |sum, &bit| sum << 1 | u32::from(!bit))
}

/// The last hop that is not trusted decides, or the first of all.
fn slow_client(
    hops: &[Option<IpAddr>],
    trusted: fn(IpAddr) -> bool,
) -> Result<IpAddr, ForwardedError> {
    let decides = hops.iter().rposition(|hop| !hop.is_some_and(trusted)).unwrap_or(0);
    hops.get(decides).ok_or(ForwardedError::Missing)?.ok_or(ForwardedError::Unreadable)
}

fn slow_list(value: &[u8]) -> Hops {
    let text: String = value.iter().map(|&byte| char::from(byte)).collect();
    text.split(',').map(|entry| slow_node(entry.trim_matches([' ', '\t']))).collect()
}

fn slow_elements(value: &[u8]) -> Hops {
    slow_cut(value, b',').into_iter().map(slow_element).collect()
}

fn slow_element(element: &[u8]) -> Option<IpAddr> {
    let marks = slow_string_marks(element);
    let is_odd = marks.iter().filter(|&&mark| mark).count() % 2 == 1;
    let has_stray = (0..element.len())
        .any(|at| element[at] == b'"' && !marks[at] && slow_is_outside(&marks, at));
    if is_odd || has_stray {
        return None;
    }
    let mut nodes = Vec::new();
    for pair in slow_cut(element, b';') {
        let pair = String::from_utf8(pair.to_vec()).ok()?;
        match pair.trim_matches([' ', '\t']).split_once('=') {
            Some((name, node)) if name.eq_ignore_ascii_case("for") => nodes.push(slow_node(node)),
            Some(_) => {}
            None if pair.chars().all(|c| c == ' ' || c == '\t') => {}
            None => return None,
        }
    }
    if let [node] = nodes[..] { node } else { None }
}

/// The parts between the separators that are outside strings.
fn slow_cut(bytes: &[u8], separator: u8) -> Vec<&[u8]> {
    let marks = slow_string_marks(bytes);
    let is_cut = |at: &usize| bytes[*at] == separator && slow_is_outside(&marks, *at);
    let cuts: Vec<usize> = (0..bytes.len()).filter(is_cut).collect();
    let starts = [0].into_iter().chain(cuts.iter().map(|cut| cut + 1));
    let ends = cuts.iter().copied().chain([bytes.len()]);
    starts.zip(ends).map(|(start, end)| &bytes[start..end]).collect()
}

/// Which bytes are quotes that open or close a string: those that no backslash speaks for.
fn slow_string_marks(bytes: &[u8]) -> Vec<bool> {
    let mut is_escaped = false;
    let mut marks = Vec::new();
    for &byte in bytes {
        marks.push(byte == b'"' && !is_escaped);
        is_escaped = byte == b'\\' && !is_escaped;
    }
    marks
}

/// Whether as many strings open as close to the right of `at`.
fn slow_is_outside(marks: &[bool], at: usize) -> bool {
    marks[at + 1..].iter().filter(|&&mark| mark).count().is_multiple_of(2)
}

fn slow_node(text: &str) -> Option<IpAddr> {
    let unquoted = text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
    let text = unquoted.unwrap_or(text);
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Some(ip.to_canonical());
    }
    let host = match text.rsplit_once(':') {
        Some((host, port)) if !text.ends_with(']') => slow_port(port).map(|_| host)?,
        _ => text,
    };
    match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(ip) => ip.parse().ok().map(|ip: Ipv6Addr| ip.to_canonical()),
        None => host.parse().ok().map(|ip: Ipv4Addr| ip.into()),
    }
}
