//! The client's half of BEP 15, for the load generator and the tests: requests written, replies
//! read. The layout is drawn in the parent module.

use super::{Fixed, PROTOCOL_MAGIC, SIGN_32, action, put};
use crate::wire::announce::{Announce, Left, NumWant};
use crate::wire::error::ParseError;
use crate::wire::id::{ConnectionId, InfoHash, TransactionId};

/// Writes a connect request: 16 bytes.
///
/// # Panics
/// If `out` is shorter.
pub fn write_connect_request(out: &mut [u8], transaction_id: TransactionId) -> usize {
    put(out, [&PROTOCOL_MAGIC, &action::CONNECT.to_be_bytes(), &transaction_id.0])
}

/// Writes an announce request with `ip` 0 and no options: 98 bytes.
///
/// What the wire cannot say becomes its nearest: `left` and `num_want` beyond the signed range read
/// back as unknown and as the largest count; no `key` is 0.
///
/// # Panics
/// If `out` is shorter.
pub fn write_announce_request(
    out: &mut [u8],
    connection_id: ConnectionId,
    transaction_id: TransactionId,
    announce: &Announce,
) -> usize {
    let left = match announce.left {
        Left::Bytes(bytes) => bytes,
        Left::Unknown => u64::MAX,
    };
    let num_want = match announce.num_want {
        NumWant::Default => u32::MAX,
        NumWant::Count(count) => count.min(SIGN_32 - 1),
    };
    put(
        out,
        [
            &connection_id.0,
            &action::ANNOUNCE.to_be_bytes(),
            &transaction_id.0,
            &announce.info_hash.0,
            &announce.peer_id.0,
            &announce.downloaded.to_be_bytes(),
            &left.to_be_bytes(),
            &announce.uploaded.to_be_bytes(),
            &u32::from(announce.event as u8).to_be_bytes(),
            &[0; 4],
            &announce.key.unwrap_or(0).to_be_bytes(),
            &num_want.to_be_bytes(),
            &announce.port.to_be_bytes(),
        ],
    )
}

/// Writes a scrape request: 16 bytes and 20 per hash, however many there are.
///
/// # Panics
/// If `out` is shorter.
pub fn write_scrape_request(
    out: &mut [u8],
    connection_id: ConnectionId,
    transaction_id: TransactionId,
    hashes: &[InfoHash],
) -> usize {
    let head = [&connection_id.0[..], &action::SCRAPE.to_be_bytes(), &transaction_id.0];
    let mut end = put(out, head);
    for hash in hashes {
        end += put(&mut out[end..], [&hash.0]);
    }
    end
}

/// A reply, borrowed from its datagram, as a client reads it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reply<'a> {
    /// The `connection_id` to use from now on.
    Connect {
        /// The request's.
        transaction_id: TransactionId,
        /// What proves the source, for about two minutes.
        connection_id: ConnectionId,
    },
    /// Counts and peers of one swarm.
    Announce {
        /// The request's.
        transaction_id: TransactionId,
        /// Seconds until the next announce.
        interval: u32,
        /// Peers that still need something, the asker included.
        leechers: u32,
        /// Peers that need nothing.
        seeders: u32,
        /// Compact endpoints: 6 bytes each over IPv4, 18 over IPv6.
        peers: &'a [u8],
    },
    /// Counts of the swarms asked for, in their order.
    Scrape {
        /// The request's.
        transaction_id: TransactionId,
        /// 12 bytes per hash: seeders, completed, leechers.
        entries: &'a [u8],
    },
    /// A refusal.
    Error {
        /// The request's.
        transaction_id: TransactionId,
        /// Why, in words.
        message: &'a [u8],
    },
}

impl<'a> Reply<'a> {
    /// Reads a datagram. Whether peers and entries come in whole pieces is left to the reader.
    ///
    /// # Errors
    /// [`ParseError::Truncated`] below what the action needs, or [`ParseError::UnknownAction`].
    pub fn parse(datagram: &'a [u8]) -> Result<Self, ParseError> {
        let (action, tail) = datagram.split_first_chunk().ok_or(ParseError::Truncated)?;
        let (id, tail) = tail.split_first_chunk().ok_or(ParseError::Truncated)?;
        let transaction_id = TransactionId(*id);
        match u32::from_be_bytes(*action) {
            action::CONNECT => {
                let id = tail.first_chunk().ok_or(ParseError::Truncated)?;
                Ok(Self::Connect { transaction_id, connection_id: ConnectionId(*id) })
            }
            action::ANNOUNCE => {
                let (counts, peers) =
                    tail.split_first_chunk::<12>().ok_or(ParseError::Truncated)?;
                let counts = Fixed(counts);
                Ok(Self::Announce {
                    transaction_id,
                    interval: counts.u32_at::<0>(),
                    leechers: counts.u32_at::<4>(),
                    seeders: counts.u32_at::<8>(),
                    peers,
                })
            }
            action::SCRAPE => Ok(Self::Scrape { transaction_id, entries: tail }),
            action::ERROR => Ok(Self::Error { transaction_id, message: tail }),
            _ => Err(ParseError::UnknownAction),
        }
    }
}
