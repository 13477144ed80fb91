//! TLS between the socket and the requests, without a socket: bytes in, bytes out.

use std::io::{ErrorKind, Read, Write};
use std::sync::Arc;

use rustls::{ServerConfig, ServerConnection};

/// Bytes of plain text that are taken out at once: the longest record.
const RECORD_BYTES: usize = 16 * 1_024;
/// First bytes of a record: its type, and the half of its version that never changes.
const HANDSHAKE: u8 = 22;
const MAJOR: u8 = 3;

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
pub enum Tls {
    /// The first record has not come whole. What the library keeps is many times what a connection
    /// takes otherwise, and is not for those who open connections and say nothing, or little.
    Opening {
        config: Arc<ServerConfig>,
        record: Vec<u8>,
    },
    Begun(Box<ServerConnection>),
}

impl Tls {
    /// Before the handshake, which will be that of `config`.
    pub const fn new(config: Arc<ServerConfig>) -> Self {
        Self::Opening { config, record: Vec::new() }
    }

    /// Whether there are no requests yet.
    pub fn is_handshaking(&self) -> bool {
        match self {
            Self::Opening { .. } => true,
            Self::Begun(connection) => connection.is_handshaking(),
        }
    }

    /// Takes bytes and appends the plain text in them.
    pub fn receive(&mut self, bytes: &[u8], plain: &mut Vec<u8>) -> Received {
        let (config, record) = match self {
            Self::Begun(connection) => return receive(connection, bytes, plain),
            Self::Opening { config, record } => (config, record),
        };
        record.extend_from_slice(bytes);
        if lacks_bytes(record) {
            return Received::Open;
        }
        let Ok(mut connection) = ServerConnection::new(config.clone()) else {
            return Received::Failed;
        };
        // What there is to send is bounded where it is written.
        connection.set_buffer_limit(None);
        let record = std::mem::take(record);
        let mut connection = Box::new(connection);
        let received = receive(&mut connection, &record, plain);
        *self = Self::Begun(connection);
        received
    }

    /// Whether something must be sent.
    pub fn has_output(&self) -> bool {
        match self {
            Self::Opening { .. } => false,
            Self::Begun(connection) => connection.wants_write(),
        }
    }

    /// Seals `plain` and appends it, and whatever else must be sent.
    pub fn seal(&mut self, plain: &[u8], out: &mut Vec<u8>) {
        let Self::Begun(connection) = self else { return };
        // Without a limit it takes everything.
        let _ = connection.writer().write_all(plain);
        while connection.wants_write() {
            if connection.write_tls(out).is_err() {
                return;
            }
        }
    }

    /// Says that nothing more will be sent.
    pub fn close(&mut self) {
        if let Self::Begun(connection) = self {
            connection.send_close_notify();
        }
    }
}

fn receive(connection: &mut ServerConnection, mut bytes: &[u8], plain: &mut Vec<u8>) -> Received {
    while !bytes.is_empty() {
        // Memory is always readable.
        if connection.read_tls(&mut bytes).is_err() {
            return Received::Failed;
        }
        if connection.process_new_packets().is_err() {
            return Received::Failed;
        }
        loop {
            let len = plain.len();
            plain.resize(len + RECORD_BYTES, 0);
            let read = connection.reader().read(&mut plain[len..]);
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

/// Whether `input` may be the beginning of a handshake's record (RFC 8446 section 5.1) and more of
/// it must come. What cannot be one the library refuses, as the protocol wants it.
fn lacks_bytes(input: &[u8]) -> bool {
    match *input {
        [] => true,
        [HANDSHAKE] => true,
        [HANDSHAKE, MAJOR] | [HANDSHAKE, MAJOR, _] | [HANDSHAKE, MAJOR, _, _] => true,
        [HANDSHAKE, MAJOR, _, high, low, ref fragment @ ..] => {
            let len = usize::from(u16::from_be_bytes([high, low]));
            len <= RECORD_BYTES && fragment.len() < len
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use rcgen::generate_simple_self_signed;
    use rustls::pki_types::{PrivateKeyDer, ServerName};
    use rustls::{ClientConfig, ClientConnection, RootCertStore};

    use super::*;

    #[test]
    fn only_the_beginning_of_a_record_is_waited_for() {
        let record = [&[22, 3, 1, 0x01, 0x02][..], &[0; 0x102]].concat();
        for len in 0..record.len() {
            assert!(lacks_bytes(&record[..len]), "{len}");
        }
        assert!(!lacks_bytes(&record));
        assert!(!lacks_bytes(&[&record[..], &[1]].concat()));
        assert!(lacks_bytes(&[22, 3, 3, 0x40, 0x00, 1]));
        for other in [&b"G"[..], &[21], &[22, 2], &[22, 3, 3, 0x40, 0x01], &[22, 3, 3, 0, 0]] {
            assert!(!lacks_bytes(other), "{other:?}");
        }
    }

    #[test]
    fn a_handshake_that_comes_in_pieces_is_complete() {
        let names = ["localhost".to_owned()];
        let own = generate_simple_self_signed(names).expect("a certificate of our own");
        let (leaf, key) = (own.cert.der().clone(), own.signing_key.serialize_der());
        let key = PrivateKeyDer::try_from(key).expect("a key");
        let config = ServerConfig::builder().with_no_client_auth();
        let config = config.with_single_cert(vec![leaf.clone()], key).expect("they match");
        let mut roots = RootCertStore::empty();
        roots.add(leaf).expect("a certificate");
        let trusting = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let name = ServerName::try_from("localhost").expect("a name");
        let mut client = ClientConnection::new(Arc::new(trusting), name).expect("a client");

        let (mut server, mut plain) = (Tls::new(Arc::new(config)), Vec::new());
        assert!(!server.has_output());
        client.writer().write_all(b"GET /").expect("memory");
        while client.wants_write() {
            let (mut hello, mut answer) = (Vec::new(), Vec::new());
            client.write_tls(&mut hello).expect("memory");
            for piece in hello.chunks(7) {
                assert_eq!(server.receive(piece, &mut plain), Received::Open);
            }
            server.seal(&[], &mut answer);
            let mut answer = &answer[..];
            while !answer.is_empty() {
                client.read_tls(&mut answer).expect("memory");
                client.process_new_packets().expect("a server");
            }
        }
        assert!(!server.is_handshaking() && !client.is_handshaking());
        assert_eq!(plain, b"GET /");
    }
}
