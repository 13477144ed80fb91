//! Version 1 of the PROXY protocol: one line of text (section 2.1 of its specification).
//!
//! ```text
//! PROXY TCP4 192.0.2.1 203.0.113.9 56324 443\r\n      source, target, their ports
//! PROXY TCP6 2001:db8::1 2001:db8::9 56324 443\r\n
//! PROXY UNKNOWN anything or nothing\r\n
//! ```
//!
//! The grammar is taken by the letter, since a line that two readers could read differently is an
//! address forged: single spaces, no leading zeros, both addresses of the family named.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use memchr::memchr2;

use super::{ProxyError, ProxyHeader, parse_port};

/// What a line begins with.
pub(super) const SIGNATURE: &[u8] = b"PROXY ";

/// Bytes of the longest line, CRLF included: `UNKNOWN` with two whole IPv6 addresses.
pub(super) const LINE_BYTES_MAX: usize = 107;

/// Reads the line at the start of `buffer`, which agrees with [`SIGNATURE`] as far as both go.
pub(super) fn parse(buffer: &[u8]) -> Result<Option<ProxyHeader>, ProxyError> {
    let window = &buffer[..buffer.len().min(LINE_BYTES_MAX)];
    let at = memchr2(b'\r', b'\n', window).unwrap_or(window.len());
    let (line, end) = window.split_at(at);
    match end {
        // The LF after a CR may be yet to come.
        [] | [b'\r'] if window.len() < LINE_BYTES_MAX => return Ok(None),
        [] | [b'\r'] => return Err(ProxyError::LineTooLong),
        [b'\r', b'\n', ..] => {}
        _ => return Err(ProxyError::BadLine),
    }
    let words = line.strip_prefix(SIGNATURE).ok_or(ProxyError::BadLine)?;
    let source = if words == b"UNKNOWN" || words.starts_with(b"UNKNOWN ") {
        None
    } else {
        Some(parse_source(words).ok_or(ProxyError::BadLine)?)
    };
    Ok(Some(ProxyHeader { len: at + 2, source }))
}

/// The source in `family source target source_port target_port`; the target must be readable too.
fn parse_source(words: &[u8]) -> Option<SocketAddr> {
    let mut words = str::from_utf8(words).ok()?.split(' ');
    let parse_ip: fn(&str) -> Option<IpAddr> = match words.next()? {
        "TCP4" => |text| text.parse().ok().map(|ip: Ipv4Addr| ip.into()),
        "TCP6" => |text| text.parse().ok().map(|ip: Ipv6Addr| ip.into()),
        _ => return None,
    };
    let source = parse_ip(words.next()?)?;
    let _target = parse_ip(words.next()?)?;
    let source_port = parse_port(words.next()?)?;
    let _target_port = parse_port(words.next()?)?;
    match words.next() {
        None => Some(SocketAddr::new(source.to_canonical(), source_port)),
        Some(_) => None,
    }
}
