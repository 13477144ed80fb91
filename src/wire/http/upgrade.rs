//! The opening handshake of a WebSocket (RFC 6455 section 4.2).

use tungstenite::handshake::derive_accept_key;

use super::head::{Head, Method, Version};
use crate::wire::error::ParseError;

/// A request to go on as a WebSocket.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Upgrade<'a> {
    /// `Sec-WebSocket-Key`: 16 bytes in Base64.
    key: &'a [u8],
    /// `Origin`: the page that asks, if a browser does.
    pub origin: Option<&'a [u8]>,
}

impl<'a> Upgrade<'a> {
    /// Reads the handshake of a head that says so ([`Head::upgrade`]).
    ///
    /// # Errors
    /// [`ParseError::UpgradeRequired`] for a version other than 13, [`ParseError::BadUpgrade`] for
    /// what is no handshake.
    pub fn parse(head: &Head<'a>) -> Result<Self, ParseError> {
        if head.method != Method::Get || head.version != Version::Http11 {
            return Err(ParseError::BadUpgrade);
        }
        let (mut keys, mut versions, mut origins) = (Once::No, Once::No, Once::No);
        for (name, value) in head.fields() {
            let once = match name.len() {
                6 if name.eq_ignore_ascii_case(b"origin") => &mut origins,
                17 if name.eq_ignore_ascii_case(b"sec-websocket-key") => &mut keys,
                21 if name.eq_ignore_ascii_case(b"sec-websocket-version") => &mut versions,
                _ => continue,
            };
            once.add(value);
        }
        match versions {
            Once::Yes(b"13") => {}
            Once::Yes(_) | Once::No => return Err(ParseError::UpgradeRequired),
            Once::Twice => return Err(ParseError::BadUpgrade),
        }
        let origin = match origins {
            Once::Yes(origin) => Some(origin),
            Once::No => None,
            Once::Twice => return Err(ParseError::BadUpgrade),
        };
        match keys {
            Once::Yes(key) if is_key(key) => Ok(Self { key, origin }),
            _ => Err(ParseError::BadUpgrade),
        }
    }

    /// Appends the response after which the connection is a WebSocket. No extension and no
    /// subprotocol is agreed to, whatever is offered.
    pub fn write_response(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(
            b"HTTP/1.1 101 Switching Protocols\r\n\
              Upgrade: websocket\r\n\
              Connection: Upgrade\r\n\
              Sec-WebSocket-Accept: ",
        );
        out.extend_from_slice(derive_accept_key(self.key).as_bytes());
        out.extend_from_slice(b"\r\n\r\n");
    }
}

/// A field that may come once.
#[derive(Clone, Copy)]
enum Once<'a> {
    No,
    Yes(&'a [u8]),
    Twice,
}

impl<'a> Once<'a> {
    const fn add(&mut self, value: &'a [u8]) {
        *self = match self {
            Self::No => Self::Yes(value),
            _ => Self::Twice,
        };
    }
}

/// Whether it is the Base64 of 16 bytes: 22 digits, of which the last has two bits to spare, and
/// two signs of equality.
fn is_key(key: &[u8]) -> bool {
    let is_digit = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    match key {
        [digits @ .., b'=', b'='] => digits.len() == 22 && digits.iter().all(is_digit),
        _ => false,
    }
}
