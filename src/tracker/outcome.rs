//! What came of a request: why a peer hears nothing, what it is told, what happened.
//!
//! Three things kept apart. A [`DropReason`] is counted and silent. A [`Refusal`] is a fixed text
//! that the peer sees; no byte of its request is in it. An [`Outcome`] says what changed in the
//! swarms; the tracker reports it and does not act on it.

use crate::wire::announce::Event;
use crate::wire::error::ParseError;
use crate::wire::id::InfoHash;

/// Why a peer hears nothing. The variant is the metric label.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum DropReason {
    /// The datagram is no request. Only UDP is silent about it.
    Malformed(ParseError),
    /// The connection id is not one that we gave this address lately.
    BadConnectionId,
    /// Nobody can be answered at port 0.
    SourcePortZero,
    /// Longer than any request.
    TooLong,
    /// The owning core's mailbox is full.
    MailboxFull,
    /// All send slots are in flight.
    NoSendSlot,
    /// As many scrapes as we keep are already waiting for other cores.
    TooManyScrapes,
    /// Another core did not answer in time.
    OwnerSilent,
    /// The operator does not want to hear from this address.
    Banned,
}

impl DropReason {
    /// How many there are, each [`ParseError`] counted for itself.
    pub const COUNT: usize = 8 + ParseError::ALL.len();

    /// Its place among all reasons.
    #[must_use]
    pub const fn index(self) -> usize {
        match self {
            Self::BadConnectionId => 0,
            Self::SourcePortZero => 1,
            Self::TooLong => 2,
            Self::MailboxFull => 3,
            Self::NoSendSlot => 4,
            Self::TooManyScrapes => 5,
            Self::OwnerSilent => 6,
            Self::Banned => 7,
            Self::Malformed(error) => 8 + error as usize,
        }
    }

    /// The metric label of the reason at `index`.
    #[must_use]
    pub fn label(index: usize) -> &'static str {
        const OWN: [&str; 8] = [
            "bad_connection_id",
            "source_port_zero",
            "too_long",
            "mailbox_full",
            "no_send_slot",
            "too_many_scrapes",
            "owner_silent",
            "banned",
        ];
        match OWN.get(index) {
            Some(label) => label,
            None => ParseError::ALL[index - OWN.len()].label(),
        }
    }
}

/// What a peer is told instead of an answer. The variant is the metric label.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Refusal {
    /// The request makes no sense; only HTTP says so.
    Malformed(ParseError),
    /// Port 0 can not be handed to other peers.
    PortZero,
    /// The access list does not let this `info_hash` in.
    NotAllowed,
    /// A scrape that names no swarm: a full scrape is never served.
    FullScrape,
    /// More than the tracker can do at this moment.
    Busy,
    /// The peers of one WebSocket connection are in as many swarms as they may be.
    TooManyTorrents,
    /// An answer to an offer that this connection was not given, or not lately, or has answered.
    NoSuchOffer,
    /// A page of an origin that the operator does not let in.
    OriginNotAllowed,
    /// The operator does not want to hear from this address.
    Banned,
    /// This address has brought as many new swarms as it may.
    TooManyNewSwarms,
    /// This address has brought as many new peers as it may.
    TooManyNewPeers,
    /// This address has as many peers in this swarm as it may.
    TooManyPeersInSwarm,
}

impl Refusal {
    /// How many there are, each [`ParseError`] counted for itself.
    pub const COUNT: usize = 11 + ParseError::ALL.len();

    /// Its place among all refusals.
    #[must_use]
    pub const fn index(self) -> usize {
        match self {
            Self::PortZero => 0,
            Self::NotAllowed => 1,
            Self::FullScrape => 2,
            Self::Busy => 3,
            Self::TooManyTorrents => 4,
            Self::NoSuchOffer => 5,
            Self::OriginNotAllowed => 6,
            Self::Banned => 7,
            Self::TooManyNewSwarms => 8,
            Self::TooManyNewPeers => 9,
            Self::TooManyPeersInSwarm => 10,
            Self::Malformed(error) => 11 + error as usize,
        }
    }

    /// The metric label of the refusal at `index`.
    #[must_use]
    pub fn label(index: usize) -> &'static str {
        const OWN: [&str; 11] = [
            "port_zero",
            "not_allowed",
            "full_scrape",
            "busy",
            "too_many_torrents",
            "no_such_offer",
            "origin_not_allowed",
            "banned",
            "new_swarms",
            "new_peers",
            "peers_in_swarm",
        ];
        match OWN.get(index) {
            Some(label) => label,
            None => ParseError::ALL[index - OWN.len()].label(),
        }
    }

    /// What the peer reads. Short, ASCII, and free of its own bytes.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::PortZero => "port 0 cannot be announced",
            Self::NotAllowed => "this torrent is not allowed on this tracker",
            Self::FullScrape => "full scrapes are not served, name an info_hash",
            Self::Busy => "the tracker is busy, try again later",
            Self::TooManyTorrents => "this connection is in too many swarms",
            Self::NoSuchOffer => "no such offer waits for this answer",
            Self::OriginNotAllowed => "this origin is not allowed on this tracker",
            Self::Banned => "this address is banned from this tracker",
            Self::TooManyNewSwarms => "too many new torrents from this address, try later",
            Self::TooManyNewPeers => "too many new peers from this address, try later",
            Self::TooManyPeersInSwarm => "too many peers of this address in this swarm",
            Self::Malformed(error) => match error {
                ParseError::Truncated | ParseError::BadMagic | ParseError::UnknownAction => {
                    "malformed request"
                }
                ParseError::BadRequest => "malformed HTTP request",
                ParseError::HeadTooLarge => "the request head is too large",
                ParseError::MethodNotAllowed => "only GET and HEAD are served",
                ParseError::NotFound => "not found, the announce path is /announce",
                ParseError::MissingInfoHash => "info_hash is missing",
                ParseError::SeveralInfoHashes => "one announce takes one info_hash",
                ParseError::BadInfoHash => "info_hash must be 20 bytes",
                ParseError::BadPeerId => "peer_id must be 20 bytes",
                ParseError::BadPort => "port must be a number from 0 to 65535",
                ParseError::BadForwarded => "the proxy does not say who the client is",
                ParseError::BadUpgrade => "malformed WebSocket handshake",
                ParseError::UpgradeRequired => "the WebSocket version must be 13",
                ParseError::BadJson => "malformed message",
                ParseError::BadAction => "action must be announce or scrape",
                ParseError::BadOffer => "malformed offer or answer",
            },
        }
    }
}

/// What an announce changed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Change {
    /// The peer is new in its swarm.
    Joined,
    /// The peer was there and stays.
    Refreshed,
    /// The peer was there and has just finished its download.
    Completed,
    /// The peer left.
    Left,
    /// Nothing: a stop by a peer that was not there, or an address that is not stored.
    Nothing,
}

/// What happened, for whoever wants to act on it (a change feed, a policy, a log of events).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Outcome {
    /// In which swarm.
    pub info_hash: InfoHash,
    /// What the peer said.
    pub event: Event,
    /// What that changed.
    pub change: Change,
    /// Peers that had to make room for it, or were found expired on the way.
    pub removed: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_index_and_label() {
        let own = [
            DropReason::BadConnectionId,
            DropReason::SourcePortZero,
            DropReason::TooLong,
            DropReason::MailboxFull,
            DropReason::NoSendSlot,
            DropReason::TooManyScrapes,
            DropReason::OwnerSilent,
            DropReason::Banned,
        ];
        let all = own.into_iter().chain(ParseError::ALL.into_iter().map(DropReason::Malformed));
        for (index, reason) in all.enumerate() {
            assert_eq!(reason.index(), index);
        }
        let mut labels: Vec<_> = (0..DropReason::COUNT).map(DropReason::label).collect();
        labels.sort_unstable();
        labels.dedup();
        assert_eq!(labels.len(), DropReason::COUNT);
    }

    #[test]
    fn every_refusal_has_its_own_index_label_and_a_short_ascii_text() {
        let own = [
            Refusal::PortZero,
            Refusal::NotAllowed,
            Refusal::FullScrape,
            Refusal::Busy,
            Refusal::TooManyTorrents,
            Refusal::NoSuchOffer,
            Refusal::OriginNotAllowed,
            Refusal::Banned,
            Refusal::TooManyNewSwarms,
            Refusal::TooManyNewPeers,
            Refusal::TooManyPeersInSwarm,
        ];
        let all = own.into_iter().chain(ParseError::ALL.into_iter().map(Refusal::Malformed));
        for (index, refusal) in all.enumerate() {
            assert_eq!(refusal.index(), index);
            assert!(refusal.text().len() < 64 && refusal.text().is_ascii());
            assert!(!Refusal::label(index).is_empty());
        }
    }
}
