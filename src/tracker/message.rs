//! What cores say to each other: bytes in a mailbox.
//!
//! Only our own cores read these, so a message that does not parse is a bug of ours, not bad input.
//! Big-endian, fields in order, the variable part last.

use std::net::{IpAddr, SocketAddr, SocketAddrV6};

use crate::wire::announce::{Announce, Event, Left, NumWant};
use crate::wire::id::{InfoHash, PeerId};

use super::http::{Connection, Form};
use super::scrape::Ticket;
use crate::swarm::Counts;

/// A message from one core to another.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Message<'a> {
    /// A UDP request for one of the receiver's swarms; the receiver answers it itself.
    Datagram {
        /// The listener it came in by; every core has a socket there.
        listener: u8,
        /// Who sent it.
        source: SocketAddr,
        /// All of it.
        bytes: &'a [u8],
    },
    /// An HTTP announce to one of the receiver's swarms; [`Message::Body`] comes back.
    Announce {
        /// The connection that waits for the answer.
        connection: Connection,
        /// The address that counts for the peer.
        ip: IpAddr,
        /// What it says.
        announce: Announce,
        /// How it wants the answer.
        form: Form,
    },
    /// The answer to an HTTP announce, ready to be sent.
    Body {
        /// The connection that waits for it.
        connection: Connection,
        /// A bencoded dictionary.
        body: &'a [u8],
    },
    /// A question for the counts of some of the receiver's swarms; [`Message::Counts`] comes back.
    Scrape {
        /// The scrape that waits.
        ticket: Ticket,
        /// 20 bytes each.
        hashes: &'a [u8],
    },
    /// The counts asked for, in the order of the question.
    Counts {
        /// The scrape that waits.
        ticket: Ticket,
        /// [`COUNTS_BYTES`] each.
        counts: &'a [u8],
    },
}

/// Bytes of one swarm's counts in [`Message::Counts`].
pub const COUNTS_BYTES: usize = 16;

impl<'a> Message<'a> {
    /// Writes the message into `out`, which is cleared first.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.clear();
        match *self {
            Self::Datagram { listener, source, bytes } => {
                out.extend([0, listener]);
                write_source(out, source);
                out.extend(bytes);
            }
            Self::Announce { connection, ip, ref announce, form } => {
                out.push(1);
                out.extend(connection.0.to_be_bytes());
                write_ip(out, ip);
                out.extend(form.to_byte().to_be_bytes());
                write_announce(out, announce);
            }
            Self::Body { connection, body } => {
                out.push(2);
                out.extend(connection.0.to_be_bytes());
                out.extend(body);
            }
            Self::Scrape { ticket, hashes } => {
                out.push(3);
                out.extend(ticket.0.to_be_bytes());
                out.extend(hashes);
            }
            Self::Counts { ticket, counts } => {
                out.push(4);
                out.extend(ticket.0.to_be_bytes());
                out.extend(counts);
            }
        }
    }

    /// Reads a message; `None` if it is none, which only a bug of ours can cause.
    #[must_use]
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        Some(match reader.byte()? {
            0 => Self::Datagram {
                listener: reader.byte()?,
                source: reader.source()?,
                bytes: reader.0,
            },
            1 => Self::Announce {
                connection: Connection(reader.u64()?),
                ip: reader.ip()?,
                form: Form::from_byte(reader.byte()?),
                announce: reader.announce()?,
            },
            2 => Self::Body { connection: Connection(reader.u64()?), body: reader.0 },
            3 => Self::Scrape { ticket: Ticket(reader.u64()?), hashes: reader.0 },
            4 => Self::Counts { ticket: Ticket(reader.u64()?), counts: reader.0 },
            _ => return None,
        })
    }
}

/// Appends one swarm's counts.
pub fn write_counts(out: &mut Vec<u8>, counts: &Counts) {
    for count in [counts.seeders, counts.leechers, counts.partial, counts.completed] {
        out.extend(count.to_be_bytes());
    }
}

/// Reads one swarm's counts; short input reads as zeros.
#[must_use]
pub fn read_counts(bytes: &[u8]) -> Counts {
    let mut reader = Reader(bytes);
    let mut next = || reader.u32().unwrap_or(0);
    Counts { seeders: next(), leechers: next(), partial: next(), completed: next() }
}

/// With the interface of a link-local source: without it, nobody there can be answered.
fn write_source(out: &mut Vec<u8>, source: SocketAddr) {
    write_ip(out, source.ip());
    out.extend(source.port().to_be_bytes());
    if let SocketAddr::V6(v6) = source {
        out.extend(v6.scope_id().to_be_bytes());
    }
}

fn write_ip(out: &mut Vec<u8>, ip: IpAddr) {
    match ip {
        IpAddr::V4(v4) => {
            out.push(4);
            out.extend(v4.octets());
        }
        IpAddr::V6(v6) => {
            out.push(6);
            out.extend(v6.octets());
        }
    }
}

fn write_announce(out: &mut Vec<u8>, announce: &Announce) {
    out.extend(announce.info_hash.0);
    out.extend(announce.peer_id.0);
    out.extend(announce.port.to_be_bytes());
    out.extend(announce.uploaded.to_be_bytes());
    out.extend(announce.downloaded.to_be_bytes());
    // 2^64 - 1 bytes left is no more than "unknown", whoever says so.
    let left = match announce.left {
        Left::Bytes(bytes) => bytes,
        Left::Unknown => u64::MAX,
    };
    out.extend(left.to_be_bytes());
    out.push(announce.event as u8);
    let (asks, count) = match announce.num_want {
        NumWant::Default => (0, 0),
        NumWant::Count(count) => (1, count),
    };
    out.push(asks);
    out.extend(count.to_be_bytes());
    out.push(u8::from(announce.key.is_some()));
    out.extend(announce.key.unwrap_or(0).to_be_bytes());
}

/// Takes fields off the front of a message.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*first)
    }

    fn byte(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    fn ip(&mut self) -> Option<IpAddr> {
        match self.byte()? {
            4 => self.array::<4>().map(IpAddr::from),
            6 => self.array::<16>().map(IpAddr::from),
            _ => None,
        }
    }

    fn source(&mut self) -> Option<SocketAddr> {
        let (ip, port) = (self.ip()?, self.u16()?);
        Some(match ip {
            IpAddr::V4(v4) => SocketAddr::from((v4, port)),
            IpAddr::V6(v6) => SocketAddrV6::new(v6, port, 0, self.u32()?).into(),
        })
    }

    fn announce(&mut self) -> Option<Announce> {
        Some(Announce {
            info_hash: InfoHash(self.array()?),
            peer_id: PeerId(self.array()?),
            port: self.u16()?,
            uploaded: self.u64()?,
            downloaded: self.u64()?,
            left: match self.u64()? {
                u64::MAX => Left::Unknown,
                bytes => Left::Bytes(bytes),
            },
            event: Event::from_udp(u32::from(self.byte()?)),
            num_want: match (self.byte()?, self.u32()?) {
                (0, _) => NumWant::Default,
                (_, count) => NumWant::Count(count),
            },
            key: match (self.byte()?, self.u32()?) {
                (0, _) => None,
                (_, key) => Some(key),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn announce() -> Announce {
        Announce {
            info_hash: InfoHash([1; 20]),
            peer_id: PeerId([2; 20]),
            port: 6881,
            uploaded: 1,
            downloaded: u64::MAX,
            left: Left::Unknown,
            event: Event::Paused,
            num_want: NumWant::Count(7),
            key: Some(9),
        }
    }

    #[test]
    fn every_message_is_read_as_it_was_written() {
        let plain = Announce {
            left: Left::Bytes(5),
            event: Event::None,
            num_want: NumWant::Default,
            key: None,
            ..announce()
        };
        let (connection, ticket) = (Connection(u64::MAX - 1), Ticket(3));
        let v6: SocketAddr = "[2001:db8::1]:9".parse().expect("v6");
        let v4: SocketAddr = "192.0.2.1:9".parse().expect("v4");
        let ip = "fe80::1".parse().expect("v6");
        let link_local = SocketAddr::from(SocketAddrV6::new(ip, 9, 0, 7));
        let form = Form { compact: true, no_peer_id: false };
        let (ip4, ip6) = (v4.ip(), v6.ip());
        for message in [
            Message::Datagram { listener: 3, source: v4, bytes: b"abc" },
            Message::Datagram { listener: 0, source: v6, bytes: b"" },
            Message::Datagram { listener: 1, source: link_local, bytes: b"abc" },
            Message::Announce { connection, ip: ip4, announce: announce(), form },
            Message::Announce { connection, ip: ip6, announce: plain, form },
            Message::Body { connection, body: b"de" },
            Message::Scrape { ticket, hashes: &[7; 40] },
            Message::Counts { ticket, counts: &[7; 32] },
        ] {
            let mut bytes = vec![1, 2, 3];
            message.write(&mut bytes);
            assert_eq!(Message::parse(&bytes), Some(message));
        }
    }

    #[test]
    fn a_cut_message_is_none() {
        let mut bytes = Vec::new();
        let form = Form { compact: false, no_peer_id: true };
        let ip = IpAddr::from([1, 2, 3, 4]);
        Message::Announce { connection: Connection(1), ip, announce: announce(), form }
            .write(&mut bytes);
        for end in 0..bytes.len() {
            assert_eq!(Message::parse(&bytes[..end]), None, "cut at {end}");
        }
        assert_eq!(Message::parse(&[9]), None);
    }

    #[test]
    fn counts_round_trip() {
        let counts = Counts { seeders: 1, leechers: 2, partial: 3, completed: u32::MAX };
        let mut bytes = Vec::new();
        write_counts(&mut bytes, &counts);
        assert_eq!(bytes.len(), COUNTS_BYTES);
        assert_eq!(read_counts(&bytes), counts);
    }
}
