//! What stands between a socket and the requests: a PROXY header first, TLS around everything.

use super::conn::Conn;
use super::tls::{Received, Tls};
use crate::time::Millis;
use crate::wire::proxy::parse_proxy_header;

/// What stands between the socket and the requests.
#[derive(Debug)]
pub(super) struct Layer {
    /// The PROXY header has not come.
    pub before_header: bool,
    pub tls: Option<Tls>,
}

/// What is left of bytes that came when what is around them is taken off.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Peeled {
    /// Plain text, perhaps none yet; `last`: there will be no more.
    Plain { last: bool },
    /// There is no PROXY header where one must be.
    NoHeader,
    /// There is no TLS that we can speak.
    NoTls,
}

impl Layer {
    /// Takes off what is around `bytes` and appends the rest to `plain`.
    pub fn peel(
        &mut self,
        now: Millis,
        conn: &mut Conn,
        bytes: &[u8],
        plain: &mut Vec<u8>,
    ) -> Peeled {
        if !self.before_header {
            return self.peel_tls(now, conn, bytes, plain);
        }
        conn.head_began = conn.head_began.or(Some(now));
        let mut input = std::mem::take(&mut conn.input);
        input.extend_from_slice(bytes);
        match parse_proxy_header(&input) {
            Ok(None) => {
                conn.input = input;
                Peeled::Plain { last: false }
            }
            Ok(Some(header)) => {
                self.before_header = false;
                conn.head_began = None;
                if let Some(source) = header.source {
                    (conn.peer, conn.client) = (source.ip(), source.ip());
                }
                self.peel_tls(now, conn, &input[header.len..], plain)
            }
            Err(_) => Peeled::NoHeader,
        }
    }

    fn peel_tls(
        &mut self,
        now: Millis,
        conn: &mut Conn,
        bytes: &[u8],
        plain: &mut Vec<u8>,
    ) -> Peeled {
        let Some(tls) = &mut self.tls else {
            plain.extend_from_slice(bytes);
            return Peeled::Plain { last: false };
        };
        let was_handshaking = tls.is_handshaking();
        let received = tls.receive(bytes, plain);
        if tls.is_handshaking() || (!was_handshaking && plain.is_empty()) {
            // A handshake has the time that a head has, and so has a record, which may come a byte
            // at a time like a head.
            conn.head_began = conn.head_began.or(Some(now));
        } else if plain.is_empty() {
            conn.head_began = None;
        }
        match received {
            Received::Open => Peeled::Plain { last: false },
            Received::Ended => Peeled::Plain { last: true },
            Received::Failed => Peeled::NoTls,
        }
    }
}
