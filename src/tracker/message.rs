//! What cores say to each other: bytes in a mailbox.
//!
//! Only our own cores read these, so a message that does not parse is a bug of ours, not bad input.
//! Big-endian, fields in order, the variable part last.

use std::net::{IpAddr, SocketAddr, SocketAddrV6};

use crate::wire::announce::{Announce, Event, Left, NumWant};
use crate::wire::id::{InfoHash, PeerId};

use super::http::{Connection, Form};
use super::scrape::Ticket;
use super::web::{Call, Calls, WebReport};
use crate::swarm::Counts;
use crate::swarm::web::Place;

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
    /// A WebSocket announce to one of the receiver's swarms; [`Message::Web`] comes back.
    WebAnnounce {
        /// The connection it came by.
        connection: Connection,
        /// The address of its other side.
        ip: IpAddr,
        /// What it says.
        report: WebReport,
        /// Its offers, as [`write_call`] writes them.
        calls: &'a [u8],
    },
    /// A message for a WebSocket connection of the receiver.
    Web {
        /// The connection.
        connection: Connection,
        /// A JSON object.
        text: &'a [u8],
    },
    /// An answer for a WebSocket connection of the receiver, to an offer that it made.
    Answer {
        /// The connection.
        connection: Connection,
        /// A JSON object.
        text: &'a [u8],
    },
    /// An offer for a WebSocket connection of the receiver, which remembers whose it is.
    Offer {
        /// The connection.
        connection: Connection,
        /// What an answer to it will be known by.
        digest: u64,
        /// Where an answer goes.
        offerer: Place,
        /// A JSON object.
        text: &'a [u8],
    },
    /// Peers of the receiver's swarms whose WebSocket connection is closed.
    WebLeave {
        /// The connection.
        connection: Connection,
        /// As [`write_member`] writes them.
        members: &'a [u8],
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
            Self::WebAnnounce { connection, ip, ref report, calls } => {
                out.push(5);
                out.extend(connection.0.to_be_bytes());
                write_ip(out, ip);
                write_member(out, &report.info_hash, &report.peer_id);
                out.extend(left_to_u64(report.left).to_be_bytes());
                out.push(report.event as u8);
                out.extend(calls);
            }
            Self::Web { connection, text } => {
                out.push(6);
                out.extend(connection.0.to_be_bytes());
                out.extend(text);
            }
            Self::Offer { connection, digest, offerer, text } => {
                out.push(7);
                out.extend(connection.0.to_be_bytes());
                out.extend(digest.to_be_bytes());
                out.extend(offerer.core.to_be_bytes());
                out.extend(offerer.connection.to_be_bytes());
                out.extend(text);
            }
            Self::WebLeave { connection, members } => {
                out.push(8);
                out.extend(connection.0.to_be_bytes());
                out.extend(members);
            }
            Self::Answer { connection, text } => {
                out.push(9);
                out.extend(connection.0.to_be_bytes());
                out.extend(text);
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
            5 => Self::WebAnnounce {
                connection: Connection(reader.u64()?),
                ip: reader.ip()?,
                report: WebReport {
                    info_hash: InfoHash(reader.array()?),
                    peer_id: PeerId(reader.array()?),
                    left: left_from_u64(reader.u64()?),
                    event: Event::from_udp(u32::from(reader.byte()?)),
                },
                calls: reader.0,
            },
            6 => Self::Web { connection: Connection(reader.u64()?), text: reader.0 },
            7 => Self::Offer {
                connection: Connection(reader.u64()?),
                digest: reader.u64()?,
                offerer: Place { core: reader.u16()?, connection: reader.u64()? },
                text: reader.0,
            },
            8 => Self::WebLeave { connection: Connection(reader.u64()?), members: reader.0 },
            9 => Self::Answer { connection: Connection(reader.u64()?), text: reader.0 },
            _ => return None,
        })
    }
}

/// Appends an offer: its digest, its `offer_id` and itself, each of the two behind its length.
pub fn write_call(out: &mut Vec<u8>, call: &Call<'_>) {
    out.extend(call.digest.to_be_bytes());
    for bytes in [call.offer_id, call.offer] {
        out.extend(u32::try_from(bytes.len()).expect("of a message").to_be_bytes());
        out.extend(bytes);
    }
}

/// Reads what [`write_call`] wrote, any number of them.
#[must_use]
pub fn read_calls(bytes: &[u8]) -> Calls<'_> {
    let mut reader = Reader(bytes);
    let next =
        || Some(Call { digest: reader.u64()?, offer_id: reader.bytes()?, offer: reader.bytes()? });
    std::iter::from_fn(next).collect()
}

/// Appends a WebSocket peer's name within its connection.
pub fn write_member(out: &mut Vec<u8>, info_hash: &InfoHash, peer_id: &PeerId) {
    out.extend(info_hash.0);
    out.extend(peer_id.0);
}

/// Reads what [`write_member`] wrote, any number of them.
pub fn read_members(bytes: &[u8]) -> impl Iterator<Item = (InfoHash, PeerId)> {
    let mut reader = Reader(bytes);
    std::iter::from_fn(move || Some((InfoHash(reader.array()?), PeerId(reader.array()?))))
}

/// 2^64 - 1 bytes left is no more than "unknown", whoever says so.
const fn left_to_u64(left: Left) -> u64 {
    match left {
        Left::Bytes(bytes) => bytes,
        Left::Unknown => u64::MAX,
    }
}

const fn left_from_u64(left: u64) -> Left {
    match left {
        u64::MAX => Left::Unknown,
        bytes => Left::Bytes(bytes),
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
    out.extend(left_to_u64(announce.left).to_be_bytes());
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

impl<'a> Reader<'a> {
    /// What stands behind its length.
    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.u32()?).ok()?;
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }

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
            left: left_from_u64(self.u64()?),
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

    fn report() -> WebReport {
        let (info_hash, peer_id) = (InfoHash([1; 20]), PeerId([2; 20]));
        WebReport { info_hash, peer_id, left: Left::Unknown, event: Event::Stopped }
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
        let silent = WebReport { left: Left::Bytes(0), event: Event::None, ..report() };
        let offerer = Place { core: 0xFFFE, connection: u64::MAX - 3 };
        for message in [
            Message::Datagram { listener: 3, source: v4, bytes: b"abc" },
            Message::Datagram { listener: 0, source: v6, bytes: b"" },
            Message::Datagram { listener: 1, source: link_local, bytes: b"abc" },
            Message::Announce { connection, ip: ip4, announce: announce(), form },
            Message::Announce { connection, ip: ip6, announce: plain, form },
            Message::Body { connection, body: b"de" },
            Message::Scrape { ticket, hashes: &[7; 40] },
            Message::Counts { ticket, counts: &[7; 32] },
            Message::WebAnnounce { connection, ip: ip4, report: report(), calls: b"" },
            Message::WebAnnounce { connection, ip: ip6, report: silent, calls: &[7; 99] },
            Message::Web { connection, text: b"{}" },
            Message::Answer { connection, text: b"{}" },
            Message::Offer { connection, digest: u64::MAX - 2, offerer, text: b"{}" },
            Message::WebLeave { connection, members: &[7; 80] },
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
        assert_eq!(Message::parse(&[10]), None);
    }

    #[test]
    fn calls_and_members_are_read_as_they_were_written() {
        let calls = [
            Call { digest: 1, offer_id: b"\"x\"", offer: b"{}" },
            Call { digest: u64::MAX, offer_id: b"", offer: &[b' '; 300] },
        ];
        let mut bytes = Vec::new();
        calls.iter().for_each(|call| write_call(&mut bytes, call));
        assert_eq!(read_calls(&bytes).as_slice(), calls);
        bytes.pop();
        assert_eq!(read_calls(&bytes).as_slice(), &calls[..1], "a cut one is none");
        let members = [(InfoHash([1; 20]), PeerId([2; 20])), (InfoHash([3; 20]), PeerId([4; 20]))];
        let mut bytes = Vec::new();
        members.iter().for_each(|(hash, id)| write_member(&mut bytes, hash, id));
        assert_eq!(read_members(&bytes).collect::<Vec<_>>(), members);
        assert_eq!(read_members(&bytes[..79]).count(), 1);
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
