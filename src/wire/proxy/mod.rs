//! Whom a proxy speaks for: the PROXY protocol before a connection's first byte, or a header field
//! in each request.
//!
//! [`parse_proxy_header`] reads versions 1 and 2 of the PROXY protocol (HAProxy's
//! `doc/proxy-protocol.txt`), [`forwarded_for`] reads `Forwarded` (RFC 7239) and the lists that are
//! older than it, such as `X-Forwarded-For`. Both believe what they read: whoever calls them has
//! made sure that the TCP peer is a trusted proxy, and that a listener either demands the PROXY
//! protocol or does not know it. Whether a header is there is never guessed from the bytes.
//!
//! What cannot be read is refused, never skipped, so that nobody hides behind a broken header.

mod forwarded;
mod v1;
mod v2;

use std::net::SocketAddr;

pub use forwarded::{ForwardedError, forwarded_for};

#[cfg(any(test, fuzzing))]
pub mod model;
#[cfg(test)]
mod tests;

/// Bytes of the longest PROXY header that is read: 16 fixed ones of version 2, and 520 of addresses
/// and TLVs. A line of version 1 is at most 107 long.
pub const PROXY_HEADER_BYTES_MAX: usize = v2::FIXED_BYTES + v2::BODY_BYTES_MAX;

const _: () = assert!(PROXY_HEADER_BYTES_MAX == 536);
const _: () = assert!(v1::LINE_BYTES_MAX <= PROXY_HEADER_BYTES_MAX);

/// A PROXY header, read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ProxyHeader {
    /// Bytes that it takes up at the start of the connection; the first request begins after them.
    /// At most [`PROXY_HEADER_BYTES_MAX`].
    pub len: usize,
    /// Who connected to the proxy, folded if it is IPv4-mapped. `None`: the proxy speaks for itself
    /// (`LOCAL`), or does not know (`UNKNOWN`); the TCP peer's own address counts.
    pub source: Option<SocketAddr>,
}

/// Why bytes are not a PROXY header. Close the connection: where its data begins is unknown.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum ProxyError {
    /// The first bytes are the signature of neither version.
    BadSignature,
    /// Version 1: the line is not as the grammar has it, or ends in a bare CR or LF.
    BadLine,
    /// Version 1: no line end within 107 bytes.
    LineTooLong,
    /// The version is not 2, or the command neither `LOCAL` nor `PROXY`.
    BadCommand,
    /// Version 2: a connection that is neither TCP over IPv4 nor TCP over IPv6.
    BadFamily,
    /// Version 2: more than 520 bytes after the fixed ones, or fewer than the addresses need.
    BadLength,
    /// Version 2: a TLV that runs past the header, or a checksum that is not 4 bytes or not alone.
    BadTlv,
    /// Version 2: the CRC-32C of the header is another.
    BadChecksum,
}

/// Reads the PROXY header at the start of `buffer`; `None`: more bytes are needed.
///
/// Says the same of every longer `buffer` once it has said anything but `None`, which it does at
/// [`PROXY_HEADER_BYTES_MAX`] bytes at the latest. What follows a header is not looked at: a second
/// header is the first request, and no HTTP. Costs a pass over the header, and a checksum over it
/// if it has one.
///
/// # Errors
/// Why this is no header, at the first byte of the signature that is wrong; after the signature as
/// soon as the line of version 1, or the fixed part of version 2, has come.
pub fn parse_proxy_header(buffer: &[u8]) -> Result<Option<ProxyHeader>, ProxyError> {
    if may_begin_with(buffer, v1::SIGNATURE) {
        v1::parse(buffer)
    } else if may_begin_with(buffer, v2::SIGNATURE) {
        v2::parse(buffer)
    } else {
        Err(ProxyError::BadSignature)
    }
}

/// Whether `buffer` and `signature` are equal as far as both go.
fn may_begin_with(buffer: &[u8], signature: &[u8]) -> bool {
    buffer.iter().zip(signature).all(|(byte, expected)| byte == expected)
}

/// A port in the only form that it is written in: decimal digits, no sign, no leading zero.
fn parse_port(text: &str) -> Option<u16> {
    match text.as_bytes() {
        [b'0'] | [b'1'..=b'9', ..] => text.parse().ok(),
        _ => None,
    }
}
