//! UDP requests and replies (BEP 15): borrowed views of what arrived, writers for what is sent.
//!
//! A view has checked its length once and reads fields on demand, unaligned and big-endian; nothing
//! is copied and nothing is refused for its content. Whether a `connection_id` is ours is decided
//! in `tracker`: until then a request is only a claim. Writers fill a buffer that the caller owns
//! and return the bytes used; they never allocate. The client's half of the protocol is in
//! `client`, under the same layout.
//!
//! ```text
//! connect request            announce request             scrape request
//!  0..8   0x41727101980       0..8    connection_id        0..8   connection_id
//!  8..12  action 0            8..12   action 1             8..12  action 2
//! 12..16  transaction_id     12..16   transaction_id      12..16  transaction_id
//!                            16..36   info_hash           16..    20 bytes per info_hash
//!                            36..56   peer_id
//!                            56..64   downloaded          connect reply
//!                            64..72   left                 0..4   action 0
//!                            72..80   uploaded             4..8   transaction_id
//!                            80..84   event                8..16  connection_id
//!                            84..88   ip
//!                            88..92   key                 announce reply
//!                            92..96   num_want             0..4   action 1
//!                            96..98   port                 4..8   transaction_id
//!                            98..     options (BEP 41)     8..12  interval
//!                                                         12..16  leechers
//! error reply                scrape reply                 16..20  seeders
//!  0..4   action 3            0..4    action 2            20..    6 or 18 bytes per peer
//!  4..8   transaction_id      4..8    transaction_id
//!  8..    text                8..     per hash: seeders 4, completed 4, leechers 4
//! ```

mod client;
#[cfg(any(test, fuzzing))]
mod model;
#[cfg(test)]
mod tests;

use std::net::Ipv4Addr;

use super::announce::{Announce, Event, Left, NumWant};
use super::error::ParseError;
use super::id::{ConnectionId, InfoHash, PeerId, TransactionId};
use crate::limits::UDP_SCRAPE_HASHES_MAX;

pub use client::{Reply, write_announce_request, write_connect_request, write_scrape_request};
#[cfg(any(test, fuzzing))]
pub use model::check;

/// What a connect request has in place of a `connection_id`.
pub const PROTOCOL_MAGIC: [u8; 8] = 0x0417_2710_1980_u64.to_be_bytes();

/// Bytes every request begins with, and all of a connect request.
pub const REQUEST_HEAD_BYTES: usize = 16;
/// Bytes of an announce request before its options.
pub const ANNOUNCE_BYTES: usize = 98;
/// Bytes of a connect reply.
pub const CONNECT_REPLY_BYTES: usize = 16;
/// Bytes of an announce reply before its peers.
pub const ANNOUNCE_REPLY_HEAD_BYTES: usize = 20;
/// Bytes of a scrape reply before its entries, and of an error reply before its text.
pub const REPLY_HEAD_BYTES: usize = 8;
/// Bytes of a scrape reply's entry.
pub const SCRAPE_ENTRY_BYTES: usize = 12;

/// `action` of requests and replies.
mod action {
    pub const CONNECT: u32 = 0;
    pub const ANNOUNCE: u32 = 1;
    pub const SCRAPE: u32 = 2;
    pub const ERROR: u32 = 3;
}

/// Where the fields of a request begin.
mod offset {
    pub const CONNECTION_ID: usize = 0;
    pub const ACTION: usize = 8;
    pub const TRANSACTION_ID: usize = 12;
    pub const INFO_HASH: usize = 16;
    pub const PEER_ID: usize = 36;
    pub const DOWNLOADED: usize = 56;
    pub const LEFT: usize = 64;
    pub const UPLOADED: usize = 72;
    pub const EVENT: usize = 80;
    pub const IP: usize = 84;
    pub const KEY: usize = 88;
    pub const NUM_WANT: usize = 92;
    pub const PORT: usize = 96;
}

/// The sign bit of a field that BEP 15 calls signed.
const SIGN_32: u32 = 1 << 31;
/// The same for 64 bits.
const SIGN_64: u64 = 1 << 63;

/// A request, borrowed from its datagram.
#[derive(Clone, Copy, Debug)]
pub enum Request<'a> {
    /// Asks for a `connection_id`.
    Connect(TransactionId),
    /// Reports a peer and asks for others.
    Announce(AnnounceView<'a>),
    /// Asks for the counts of swarms.
    Scrape(ScrapeView<'a>),
}

impl<'a> Request<'a> {
    /// Reads a datagram; bytes after a connect are ignored.
    ///
    /// # Errors
    /// [`ParseError::Truncated`] below what the action needs, [`ParseError::UnknownAction`], or
    /// [`ParseError::BadMagic`] for a connect that does not begin with [`PROTOCOL_MAGIC`].
    pub fn parse(datagram: &'a [u8]) -> Result<Self, ParseError> {
        let (head, tail) =
            datagram.split_first_chunk::<REQUEST_HEAD_BYTES>().ok_or(ParseError::Truncated)?;
        let head = Fixed(head);
        match head.u32_at::<{ offset::ACTION }>() {
            action::CONNECT if head.at::<{ offset::CONNECTION_ID }, 8>() != PROTOCOL_MAGIC => {
                Err(ParseError::BadMagic)
            }
            action::CONNECT => Ok(Self::Connect(head.transaction_id())),
            action::ANNOUNCE => AnnounceView::new(datagram).map(Self::Announce),
            action::SCRAPE => Ok(Self::Scrape(ScrapeView { head, tail })),
            _ => Err(ParseError::UnknownAction),
        }
    }
}

/// A borrowed announce: 98 fixed bytes, then options. Any content is legal.
#[derive(Clone, Copy, Debug)]
pub struct AnnounceView<'a> {
    fixed: Fixed<'a, ANNOUNCE_BYTES>,
    options: &'a [u8],
}

impl<'a> AnnounceView<'a> {
    /// Its action has been read already.
    fn new(datagram: &'a [u8]) -> Result<Self, ParseError> {
        let (fixed, options) =
            datagram.split_first_chunk::<ANNOUNCE_BYTES>().ok_or(ParseError::Truncated)?;
        Ok(Self { fixed: Fixed(fixed), options })
    }

    /// What should prove that the source can hear us.
    #[must_use]
    pub fn connection_id(self) -> ConnectionId {
        self.fixed.connection_id()
    }

    /// To be echoed.
    #[must_use]
    pub fn transaction_id(self) -> TransactionId {
        self.fixed.transaction_id()
    }

    /// The address that the client would like to be known by; `None` when 0: use the source.
    #[must_use]
    pub fn ip(self) -> Option<Ipv4Addr> {
        Some(Ipv4Addr::from(self.fixed.u32_at::<{ offset::IP }>()))
            .filter(|ip| !ip.is_unspecified())
    }

    /// The bytes after the fixed part, for [`super::udp_options`].
    #[must_use]
    pub const fn options(self) -> &'a [u8] {
        self.options
    }

    /// The swarm it is about.
    #[must_use]
    pub fn info_hash(self) -> InfoHash {
        InfoHash(self.fixed.at::<{ offset::INFO_HASH }, 20>())
    }

    /// Where the peer listens.
    #[must_use]
    pub fn port(self) -> u16 {
        u16::from_be_bytes(self.fixed.at::<{ offset::PORT }, 2>())
    }

    /// What it says. `left` and `num_want` are signed on the wire: negative is unknown and default.
    #[must_use]
    pub fn announce(self) -> Announce {
        let left = self.fixed.u64_at::<{ offset::LEFT }>();
        let num_want = self.fixed.u32_at::<{ offset::NUM_WANT }>();
        Announce {
            info_hash: self.info_hash(),
            peer_id: PeerId(self.fixed.at::<{ offset::PEER_ID }, 20>()),
            port: self.port(),
            uploaded: self.fixed.u64_at::<{ offset::UPLOADED }>(),
            downloaded: self.fixed.u64_at::<{ offset::DOWNLOADED }>(),
            left: if left < SIGN_64 { Left::Bytes(left) } else { Left::Unknown },
            event: Event::from_udp(self.fixed.u32_at::<{ offset::EVENT }>()),
            num_want: if num_want < SIGN_32 { NumWant::Count(num_want) } else { NumWant::Default },
            key: Some(self.fixed.u32_at::<{ offset::KEY }>()),
        }
    }
}

/// A borrowed scrape: the 16 bytes of every request, then hashes.
#[derive(Clone, Copy, Debug)]
pub struct ScrapeView<'a> {
    head: Fixed<'a, REQUEST_HEAD_BYTES>,
    tail: &'a [u8],
}

impl<'a> ScrapeView<'a> {
    /// What should prove that the source can hear us.
    #[must_use]
    pub fn connection_id(self) -> ConnectionId {
        self.head.connection_id()
    }

    /// To be echoed.
    #[must_use]
    pub fn transaction_id(self) -> TransactionId {
        self.head.transaction_id()
    }

    /// The hashes in the order asked, at most [`UDP_SCRAPE_HASHES_MAX`], perhaps none. Bytes after
    /// the last whole hash are ignored.
    #[must_use]
    pub fn hashes(self) -> impl ExactSizeIterator<Item = InfoHash> + Clone + use<'a> {
        let (hashes, _partial) = self.tail.as_chunks::<20>();
        hashes.iter().take(UDP_SCRAPE_HASHES_MAX).map(|&bytes| InfoHash(bytes))
    }
}

/// `LEN` borrowed bytes, read at offsets that the compiler has checked.
#[derive(Clone, Copy, Debug)]
struct Fixed<'a, const LEN: usize>(&'a [u8; LEN]);

impl<const LEN: usize> Fixed<'_, LEN> {
    fn at<const AT: usize, const N: usize>(self) -> [u8; N] {
        const { assert!(AT + N <= LEN) };
        std::array::from_fn(|i| self.0[AT + i])
    }

    fn u32_at<const AT: usize>(self) -> u32 {
        u32::from_be_bytes(self.at::<AT, 4>())
    }

    fn u64_at<const AT: usize>(self) -> u64 {
        u64::from_be_bytes(self.at::<AT, 8>())
    }

    fn connection_id(self) -> ConnectionId {
        ConnectionId(self.at::<{ offset::CONNECTION_ID }, 8>())
    }

    fn transaction_id(self) -> TransactionId {
        TransactionId(self.at::<{ offset::TRANSACTION_ID }, 4>())
    }
}

/// Writes a connect reply: 16 bytes.
///
/// # Panics
/// If `out` is shorter; so do all writers here, whose buffers hold the longest reply or request.
pub fn write_connect(
    out: &mut [u8],
    transaction_id: TransactionId,
    connection_id: ConnectionId,
) -> usize {
    put(out, [&action::CONNECT.to_be_bytes(), &transaction_id.0, &connection_id.0])
}

/// Writes an announce reply up to its peers, which the caller appends: 20 bytes.
///
/// # Panics
/// If `out` is shorter.
pub fn write_announce_head(
    out: &mut [u8],
    transaction_id: TransactionId,
    interval_secs: u32,
    leechers: u32,
    seeders: u32,
) -> usize {
    put(
        out,
        [
            &action::ANNOUNCE.to_be_bytes(),
            &transaction_id.0,
            &interval_secs.to_be_bytes(),
            &leechers.to_be_bytes(),
            &seeders.to_be_bytes(),
        ],
    )
}

/// Writes a scrape reply up to its entries: 8 bytes.
///
/// # Panics
/// If `out` is shorter.
pub fn write_scrape_head(out: &mut [u8], transaction_id: TransactionId) -> usize {
    put(out, [&action::SCRAPE.to_be_bytes(), &transaction_id.0])
}

/// Writes one entry of a scrape reply: 12 bytes.
///
/// # Panics
/// If `out` is shorter.
pub fn write_scrape_entry(out: &mut [u8], seeders: u32, completed: u32, leechers: u32) -> usize {
    put(out, [&seeders.to_be_bytes(), &completed.to_be_bytes(), &leechers.to_be_bytes()])
}

/// Writes an error reply: 8 bytes and as much of `text` as fits, without a NUL.
///
/// # Panics
/// If `out` is shorter than the 8 bytes.
pub fn write_error(out: &mut [u8], transaction_id: TransactionId, text: &str) -> usize {
    let text = text.as_bytes();
    let fits = text.len().min(out.len().saturating_sub(REPLY_HEAD_BYTES));
    put(out, [&action::ERROR.to_be_bytes(), &transaction_id.0, &text[..fits]])
}

/// Copies the parts, one after the other, to the start of `out`; returns their length.
fn put<const N: usize>(out: &mut [u8], parts: [&[u8]; N]) -> usize {
    let mut end = 0;
    for part in parts {
        out[end..end + part.len()].copy_from_slice(part);
        end += part.len();
    }
    end
}
