//! Version 2 of the PROXY protocol: a binary header (section 2.2 of its specification).
//!
//! ```text
//!  0..12  signature          \r\n\r\n\0\r\nQUIT\n
//! 12      version, command   0x20 LOCAL, 0x21 PROXY
//! 13      family, transport  0x11 TCP over IPv4, 0x21 TCP over IPv6
//! 14..16  length             bytes that follow; big-endian, like all numbers here
//! 16..28  IPv4: source 4, target 4, source port 2, target port 2
//! 16..52  IPv6: source 16, target 16, source port 2, target port 2
//!   ..    TLVs up to the length: type 1, length 2, value
//! ```
//!
//! `LOCAL` is the proxy's own connection, a health check: its family, addresses and TLVs mean
//! nothing and are skipped unread. A UNIX socket, a datagram or an unknown family is no client of a
//! tracker; the specification leaves it free to refuse them.

use std::net::{IpAddr, SocketAddr};

use super::{ProxyError, ProxyHeader};

/// What a header begins with.
pub(super) const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Bytes up to and including the length.
pub(super) const FIXED_BYTES: usize = 16;
/// Bytes after the fixed ones at the most: two IPv6 addresses and 484 of TLVs. Those that load
/// balancers send are a fraction of it.
pub(super) const BODY_BYTES_MAX: usize = 520;

const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;
const TCP4_BYTES: usize = 12;
const TCP6_BYTES: usize = 36;

/// The type of the TLV whose value is the header's checksum.
const CHECKSUM: u8 = 0x03;

/// Reads the header at the start of `buffer`, which agrees with [`SIGNATURE`] as far as both go.
pub(super) fn parse(buffer: &[u8]) -> Result<Option<ProxyHeader>, ProxyError> {
    let Some((fixed, rest)) = buffer.split_first_chunk::<FIXED_BYTES>() else {
        return Ok(None);
    };
    let [.., command, family, high, low] = *fixed;
    let addresses_bytes = match (command, family) {
        (LOCAL, _) => 0,
        (PROXY, TCP4) => TCP4_BYTES,
        (PROXY, TCP6) => TCP6_BYTES,
        (PROXY, _) => return Err(ProxyError::BadFamily),
        _ => return Err(ProxyError::BadCommand),
    };
    let body_bytes = usize::from(u16::from_be_bytes([high, low]));
    if !(addresses_bytes..=BODY_BYTES_MAX).contains(&body_bytes) {
        return Err(ProxyError::BadLength);
    }
    let Some(body) = rest.get(..body_bytes) else {
        return Ok(None);
    };
    let len = FIXED_BYTES + body_bytes;
    if command == LOCAL {
        return Ok(Some(ProxyHeader { len, source: None }));
    }
    verify_tlvs(&buffer[..len], FIXED_BYTES + addresses_bytes)?;
    let source = if family == TCP4 { parse_source::<4>(body) } else { parse_source::<16>(body) };
    let source = source.ok_or(ProxyError::BadLength)?;
    Ok(Some(ProxyHeader { len, source: Some(source) }))
}

/// The source in a body that begins with two addresses of `N` bytes and their ports.
fn parse_source<const N: usize>(body: &[u8]) -> Option<SocketAddr>
where
    IpAddr: From<[u8; N]>,
{
    let (source, rest) = body.split_first_chunk::<N>()?;
    let (_target, ports) = rest.split_first_chunk::<N>()?;
    let (port, _target_port) = ports.split_first_chunk()?;
    Some(SocketAddr::new(IpAddr::from(*source).to_canonical(), u16::from_be_bytes(*port)))
}

/// Walks the TLVs of `header`, the first of which is at `at`; verifies a checksum among them.
fn verify_tlvs(header: &[u8], mut at: usize) -> Result<(), ProxyError> {
    let mut checksum = None;
    while let Some((&kind, rest)) = header[at..].split_first() {
        let (length, rest) = rest.split_first_chunk().ok_or(ProxyError::BadTlv)?;
        let value_bytes = usize::from(u16::from_be_bytes(*length));
        let value = rest.get(..value_bytes).ok_or(ProxyError::BadTlv)?;
        let value_at = at + 3;
        if kind == CHECKSUM {
            let sum = <[u8; 4]>::try_from(value).map_err(|_| ProxyError::BadTlv)?;
            // Of two, neither says whether the other was zero when it was computed.
            if checksum.replace((value_at, u32::from_be_bytes(sum))).is_some() {
                return Err(ProxyError::BadTlv);
            }
        }
        at = value_at + value_bytes;
    }
    match checksum {
        Some((value_at, sum)) if sum != header_checksum(header, value_at) => {
            Err(ProxyError::BadChecksum)
        }
        _ => Ok(()),
    }
}

/// The checksum of a header whose field for it is the four bytes at `value_at`: they count as zero.
fn header_checksum(header: &[u8], value_at: usize) -> u32 {
    let (before, after) = (&header[..value_at], &header[value_at + 4..]);
    crc32c(before.iter().chain(&[0; 4]).chain(after))
}

/// CRC-32C (RFC 4960 appendix B, RFC 3720 section 12.1), a bit at a time: a connection has one
/// header at the most, of some hundred bytes.
fn crc32c<'a>(bytes: impl Iterator<Item = &'a u8>) -> u32 {
    /// Castagnoli's polynomial, the lowest bit first.
    const POLYNOMIAL: u32 = 0x82F6_3B78;
    let mut remainder = u32::MAX;
    for &byte in bytes {
        remainder ^= u32::from(byte);
        for _ in 0..8 {
            let is_odd = remainder & 1 == 1;
            remainder >>= 1;
            if is_odd {
                remainder ^= POLYNOMIAL;
            }
        }
    }
    !remainder
}
