//! What an announce means, whichever transport carried it.

use super::id::{InfoHash, PeerId};

/// A peer's report about itself in one swarm, as every transport understands it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Announce {
    /// The swarm.
    pub info_hash: InfoHash,
    /// The client's own name for itself.
    pub peer_id: PeerId,
    /// The port it listens on; 0 is refused except on `stopped`.
    pub port: u16,
    /// Bytes uploaded since `started`.
    pub uploaded: u64,
    /// Bytes downloaded since `started`.
    pub downloaded: u64,
    /// What it still needs.
    pub left: Left,
    /// What has just happened.
    pub event: Event,
    /// How many peers it asks for.
    pub num_want: NumWant,
    /// A number the client keeps across address changes.
    pub key: Option<u32>,
}

/// Bytes that a peer still needs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Left {
    /// That many; 0 makes it a seeder.
    Bytes(u64),
    /// Missing, negative, overflowing or unreadable: a leecher.
    Unknown,
}

impl Left {
    /// A peer that needs nothing is a seeder; one that does not say is not.
    #[must_use]
    pub const fn is_seeder(self) -> bool {
        matches!(self, Self::Bytes(0))
    }
}

/// `event` of an announce. Unknown words and numbers are [`Event::None`].
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(u8)]
pub enum Event {
    /// A regular announce: missing, empty, `update`, or unknown.
    #[default]
    None = 0,
    /// The download has just finished.
    Completed = 1,
    /// The peer's first announce since it began.
    Started = 2,
    /// The peer leaves.
    Stopped = 3,
    /// A partial seed: it has all it wants, though not all there is (BEP 21).
    Paused = 4,
}

impl Event {
    /// The event of a BEP 15 announce; a number we do not know is no event.
    #[must_use]
    pub const fn from_udp(number: u32) -> Self {
        match number {
            1 => Self::Completed,
            2 => Self::Started,
            3 => Self::Stopped,
            4 => Self::Paused,
            _ => Self::None,
        }
    }

    /// The event of a BEP 3 announce; a word we do not know is no event.
    #[must_use]
    pub fn from_http(word: &[u8]) -> Self {
        match word {
            b"completed" => Self::Completed,
            b"started" => Self::Started,
            b"stopped" => Self::Stopped,
            b"paused" => Self::Paused,
            _ => Self::None,
        }
    }
}

/// How many peers a client asks for.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum NumWant {
    /// It does not say (missing, negative or unreadable): the configured default.
    #[default]
    Default,
    /// That many; the configured maximum caps it.
    Count(u32),
}

impl NumWant {
    /// The number of peers to return.
    #[must_use]
    pub fn resolve(self, default: u16, max: u16) -> u16 {
        match self {
            Self::Default => default.min(max),
            Self::Count(count) => u16::try_from(count).unwrap_or(u16::MAX).min(max),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn num_want_is_capped_and_zero_means_none() {
        assert_eq!(NumWant::Default.resolve(50, 200), 50);
        assert_eq!(NumWant::Count(0).resolve(50, 200), 0);
        assert_eq!(NumWant::Count(7).resolve(50, 200), 7);
        assert_eq!(NumWant::Count(u32::MAX).resolve(50, 200), 200);
        assert_eq!(NumWant::Default.resolve(50, 20), 20);
    }

    #[test]
    fn unknown_events_are_no_event() {
        for number in [0, 5, 0x0100_0002, u32::MAX] {
            assert_eq!(Event::from_udp(number), Event::None);
        }
        for word in [&b""[..], b"update", b"empty", b"Started", b"started "] {
            assert_eq!(Event::from_http(word), Event::None);
        }
    }

    #[test]
    fn only_left_zero_is_a_seeder() {
        assert!(Left::Bytes(0).is_seeder());
        assert!(!Left::Bytes(1).is_seeder());
        assert!(!Left::Unknown.is_seeder());
    }
}
