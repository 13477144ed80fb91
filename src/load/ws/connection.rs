//! One connection to the tracker: its handshake, what it has yet to send, what it waits for.

use std::io::{ErrorKind, Write};
use std::net::{IpAddr, TcpStream};

use memchr::memmem;
use tungstenite::handshake::derive_accept_key;

use super::frames::Reader;
use crate::limits::HTTP_HEAD_BYTES_MAX;
use crate::load::tally::Action;
use crate::load::verify::{Fault, Wrong};
use crate::wire::id::InfoHash;

/// Bytes that wait for a tracker that does not read: more than all answers to what it sends at a
/// time. It then counts as broken.
const OUTPUT_BYTES_MAX: usize = 4 << 20;
/// The end of a response's head.
const HEAD_END: &[u8] = b"\r\n\r\n";
/// Offers of a connection whose answers are told apart: the last ones. A power of two.
const OFFERS_KNOWN: u32 = 4_096;

/// A place for a connection, which may be open.
#[derive(Debug, Default)]
pub struct Connection {
    /// Its number among those of all threads.
    pub number: u32,
    pub stream: Option<TcpStream>,
    /// The key of the handshake, while that is under way.
    pub key: Option<String>,
    /// The beginning of the handshake's response.
    pub head: Vec<u8>,
    pub reader: Reader,
    /// What the kernel has not taken, and how much of it it has.
    pub output: Vec<u8>,
    pub written: usize,
    /// So many of its peers have announced on this stream.
    pub joined: u32,
    /// What it waits for.
    pub asked: Option<Asked>,
    /// Replies to answers that come before the reply to that, where a tracker has such.
    pub replies_before: u32,
    /// And after it.
    pub replies_after: u32,
    /// It has answered offers.
    pub answered_offers: bool,
    /// Offers made so far, wrapping.
    pub offers: u32,
    /// Which of the last ones have been answered: a bit each, at their number's rest. Empty before
    /// the first offer.
    answered: Vec<u64>,
}

/// A request without an answer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Asked {
    pub action: Action,
    /// The peer of an announce.
    pub peer: u32,
    /// Whether it has everything.
    pub seeder: bool,
    /// Whether it announces for the first time on this stream.
    pub joins: bool,
    /// The hash of an announce, or those of a scrape.
    pub hashes: Vec<InfoHash>,
    /// What latency counts from.
    pub due: u64,
    /// What its timeout counts from.
    pub sent: u64,
}

impl Connection {
    /// Closed.
    pub fn new(number: u32) -> Self {
        Self { number, ..Self::default() }
    }

    /// Where it is to come from.
    pub fn source(&self, sources: &[IpAddr], threads: u16) -> IpAddr {
        // Neighbours in number are in different threads.
        let index = self.number / u32::from(threads);
        sources[index as usize % sources.len()]
    }

    pub const fn is_open(&self) -> bool {
        self.stream.is_some() && self.key.is_none()
    }

    /// Takes up a new stream.
    pub fn begin(&mut self, stream: TcpStream, key: String, request: &[u8]) {
        self.forget();
        self.output.extend_from_slice(request);
        (self.stream, self.key) = (Some(stream), Some(key));
    }

    /// Closes the stream, if there is one, and forgets what came by it.
    pub fn forget(&mut self) {
        let Self { number, offers, .. } = *self;
        let (asked, answered) = (self.asked.take(), std::mem::take(&mut self.answered));
        *self = Self { number, offers, answered, asked, ..Self::default() };
    }

    /// Gives the kernel as much as it takes.
    ///
    /// # Errors
    /// Why the connection is of no use any more.
    pub fn flush(&mut self) -> Result<(), String> {
        let Some(stream) = &mut self.stream else { return Ok(()) };
        while self.written < self.output.len() {
            match stream.write(&self.output[self.written..]) {
                Ok(count) => self.written += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    let waiting = self.output.len() - self.written;
                    let is_stuck = waiting > OUTPUT_BYTES_MAX;
                    return if is_stuck { Err("it does not read".to_owned()) } else { Ok(()) };
                }
                Err(error) => return Err(error.to_string()),
            }
        }
        self.written = 0;
        self.output.clear();
        Ok(())
    }

    /// Reads the handshake's response; returns how many of the bytes that came with its end are
    /// behind it, or `None` while it is not whole.
    ///
    /// # Errors
    /// If it is none, or a refusal.
    pub fn shake(&mut self, bytes: &[u8]) -> Result<Option<usize>, Wrong<'_>> {
        self.head.extend_from_slice(bytes);
        let Some(end) = memmem::find(&self.head, HEAD_END) else {
            let is_long = self.head.len() > HTTP_HEAD_BYTES_MAX;
            return if is_long { Err(Fault::Head.into()) } else { Ok(None) };
        };
        let behind = self.head.len() - end - HEAD_END.len();
        let mut lines = self.head[..end].split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii);
        let status = lines.next().unwrap_or_default();
        if !status.starts_with(b"HTTP/1.1 101") {
            let fault = if status.starts_with(b"HTTP/") { Fault::Status } else { Fault::Head };
            return Err(Wrong { fault, text: status });
        }
        let key = self.key.take().unwrap_or_default();
        let expected = derive_accept_key(key.as_bytes());
        let mut fields = lines.filter_map(|line| {
            let colon = memchr::memchr(b':', line)?;
            Some((&line[..colon], line[colon + 1..].trim_ascii()))
        });
        let accept = fields.find(|(name, _)| name.eq_ignore_ascii_case(b"sec-websocket-accept"));
        if accept.is_none_or(|(_, accept)| accept != expected.as_bytes()) {
            return Err(Fault::Head.into());
        }
        Ok(Some(behind))
    }

    /// The number of the next offer.
    pub fn next_offer(&mut self) -> u32 {
        let number = self.offers;
        self.offers = number.wrapping_add(1);
        self.answered.resize(OFFERS_KNOWN.div_ceil(u64::BITS) as usize, 0);
        let (word, bit) = place(number);
        self.answered[word] &= !bit;
        number
    }

    /// An offer of that number is answered.
    ///
    /// # Errors
    /// If it has not been made, has been answered before, or is too old to tell.
    pub fn answer(&mut self, number: u32) -> Result<(), Fault> {
        let made_after = self.offers.wrapping_sub(number).wrapping_sub(1);
        if made_after > u32::MAX / 2 {
            return Err(Fault::Relay);
        }
        let (word, bit) = place(number);
        match self.answered.get_mut(word) {
            Some(_) if made_after >= OFFERS_KNOWN => Err(Fault::Late),
            Some(word) if *word & bit != 0 => Err(Fault::Duplicate),
            Some(word) => {
                *word |= bit;
                Ok(())
            }
            None => Err(Fault::Relay),
        }
    }
}

/// Where the bit of an offer is.
const fn place(number: u32) -> (usize, u64) {
    let at = number % OFFERS_KNOWN;
    ((at / u64::BITS) as usize, 1 << (at % u64::BITS))
}

const _: () = assert!(OFFERS_KNOWN.is_power_of_two());

#[cfg(test)]
mod tests {
    use super::*;

    fn shaking() -> Connection {
        // RFC 6455 section 1.3.
        let key = Some("dGhlIHNhbXBsZSBub25jZQ==".to_owned());
        Connection { key, ..Connection::default() }
    }

    const RESPONSE: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
        Connection: Upgrade\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

    #[test]
    fn a_handshake_is_read_however_it_is_cut() {
        let bytes = [RESPONSE.as_bytes(), b"\x81\x00"].concat();
        for cut in 0..bytes.len() {
            let mut connection = shaking();
            let first = connection.shake(&bytes[..cut]).expect("no fault");
            let behind = match first {
                None => connection.shake(&bytes[cut..]).expect("no fault").expect("all of it"),
                Some(behind) => behind + bytes.len() - cut,
            };
            assert_eq!(behind, 2, "{cut}");
        }
    }

    #[test]
    fn another_status_and_another_key_are_no_handshake() {
        let fault = |text: &str| {
            let mut connection = shaking();
            connection.shake(text.as_bytes()).expect_err("a fault").fault
        };
        assert_eq!(fault("HTTP/1.1 404 Not Found\r\n\r\n"), Fault::Status);
        assert_eq!(fault("SSH-2.0\r\n\r\n"), Fault::Head);
        assert_eq!(fault(&RESPONSE.replace("s3p", "s3q")), Fault::Head);
        assert_eq!(fault(&RESPONSE.replace("accept", "except")), Fault::Head);
        assert_eq!(fault(&"x".repeat(HTTP_HEAD_BYTES_MAX + 1)), Fault::Head);
    }

    #[test]
    fn each_offer_is_answered_once() {
        let mut connection = Connection { offers: u32::MAX - 1, ..Connection::default() };
        assert_eq!(connection.answer(7), Err(Fault::Relay));
        let numbers: Vec<u32> = (0..OFFERS_KNOWN + 6).map(|_| connection.next_offer()).collect();
        assert_eq!(numbers[2], 0);
        for &number in &numbers[6..] {
            assert_eq!(connection.answer(number), Ok(()), "{number}");
            assert_eq!(connection.answer(number), Err(Fault::Duplicate), "{number}");
        }
        assert_eq!(connection.answer(numbers[5]), Err(Fault::Late));
        assert_eq!(connection.answer(connection.offers), Err(Fault::Relay));
        let next = connection.next_offer();
        assert_eq!(connection.answer(next), Ok(()));
    }
}
