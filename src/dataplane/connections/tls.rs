//! TLS between the socket and the requests, without a socket: bytes in, bytes out.

use std::io::{ErrorKind, Read, Write};
use std::sync::Arc;

use rustls::{ServerConfig, ServerConnection};

/// Bytes of plain text that are taken out at once: the longest record.
const RECORD_BYTES: usize = 16 * 1_024;

/// What came of bytes that came.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Received {
    /// Perhaps plain text, perhaps only something to send.
    Open,
    /// The other side has said that it sends nothing more.
    Ended,
    /// This is no TLS that we can speak; what is to be sent says so.
    Failed,
}

/// One connection's TLS.
#[derive(Debug)]
pub struct Tls(ServerConnection);

impl Tls {
    /// Before the handshake. `None` if the configuration cannot serve anybody.
    pub fn new(config: &Arc<ServerConfig>) -> Option<Self> {
        let mut connection = ServerConnection::new(config.clone()).ok()?;
        // What there is to send is bounded where it is written.
        connection.set_buffer_limit(None);
        Some(Self(connection))
    }

    /// Whether there are no requests yet.
    pub fn is_handshaking(&self) -> bool {
        self.0.is_handshaking()
    }

    /// Takes bytes and appends the plain text in them.
    pub fn receive(&mut self, mut bytes: &[u8], plain: &mut Vec<u8>) -> Received {
        while !bytes.is_empty() {
            // Memory is always readable.
            if self.0.read_tls(&mut bytes).is_err() {
                return Received::Failed;
            }
            if self.0.process_new_packets().is_err() {
                return Received::Failed;
            }
            loop {
                let len = plain.len();
                plain.resize(len + RECORD_BYTES, 0);
                let read = self.0.reader().read(&mut plain[len..]);
                plain.truncate(len + read.as_ref().copied().unwrap_or(0));
                match read {
                    Ok(0) => return Received::Ended,
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(_) => return Received::Failed,
                }
            }
        }
        Received::Open
    }

    /// Whether something must be sent.
    pub fn has_output(&self) -> bool {
        self.0.wants_write()
    }

    /// Seals `plain` and appends it, and whatever else must be sent.
    pub fn seal(&mut self, plain: &[u8], out: &mut Vec<u8>) {
        // Without a limit it takes everything.
        let _ = self.0.writer().write_all(plain);
        while self.0.wants_write() {
            if self.0.write_tls(out).is_err() {
                return;
            }
        }
    }

    /// Says that nothing more will be sent.
    pub fn close(&mut self) {
        self.0.send_close_notify();
    }
}
