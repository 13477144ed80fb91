//! What operators ask about swarms.

use std::net::SocketAddr;
use std::sync::Arc;

use serde::Serialize;

use crate::swarm::FoundPeer;
use crate::time::Seconds;
use crate::tracker::Tracker;
use crate::tracker::survey::{Survey, SurveyedSwarm};
use crate::wire::id::{InfoHash, PeerId};

/// A swarm, as operators read it.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Swarm {
    info_hash: String,
    seeders: u32,
    leechers: u32,
    completed: u32,
    /// Those of both that are there by WebSocket.
    web_peers: u32,
}

impl From<SurveyedSwarm> for Swarm {
    fn from(swarm: SurveyedSwarm) -> Self {
        let SurveyedSwarm { info_hash, counts, web_peers } = swarm;
        Self {
            info_hash: format!("{info_hash:?}"),
            seeders: counts.seeders,
            leechers: counts.leechers,
            completed: counts.completed,
            web_peers,
        }
    }
}

/// Swarms of one size.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Size {
    /// Peers that each has at the least; the next size begins at twice as many.
    peers: u64,
    swarms: u64,
}

/// The largest swarms, and how many there are of each size.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Swarms {
    swarms: Vec<Swarm>,
    sizes: Vec<Size>,
}

impl Swarms {
    /// As operators read it.
    #[must_use]
    pub fn new(survey: Survey) -> Self {
        let sizes = survey.sizes.into_iter().enumerate();
        Self {
            swarms: survey.largest.into_iter().map(Swarm::from).collect(),
            sizes: sizes.map(|(class, swarms)| Size { peers: 1 << class, swarms }).collect(),
        }
    }
}

/// Peers that are told of at once: a worker looks them up between two batches of requests.
pub const PEERS_MAX: u32 = 1_000;

/// A peer, as operators read it.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Peer {
    /// Where it can be reached; none, if only by WebSocket.
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<SocketAddr>,
    /// Its name for itself in hexadecimal digits, if it is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    peer_id: Option<String>,
    seeder: bool,
    /// Seconds since it announced itself last.
    seconds: u32,
}

impl From<FoundPeer> for Peer {
    fn from(peer: FoundPeer) -> Self {
        let FoundPeer { endpoint, peer_id, seeder, seconds } = peer;
        let hex = |PeerId(bytes): PeerId| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        Self {
            address: endpoint.map(|endpoint| SocketAddr::new(endpoint.ip(), endpoint.port())),
            peer_id: peer_id.map(hex),
            seeder,
            seconds,
        }
    }
}

/// Some peers of a swarm.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Peers {
    /// Those from the place that was asked for on.
    pub peers: Vec<Peer>,
    /// How many there are.
    pub total: u32,
}

/// A swarm that is no more.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub struct Forgotten {
    /// Who was in it.
    pub peers: u32,
}

/// What came of a question about one swarm.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Asked<T> {
    /// It is here.
    Known(T),
    /// It is not.
    Unknown,
    /// The worker that owns it did not answer in time.
    Busy,
}

impl<T> Asked<T> {
    /// An answer in other words.
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Asked<U> {
        match self {
            Self::Known(known) => Asked::Known(f(known)),
            Self::Unknown => Asked::Unknown,
            Self::Busy => Asked::Busy,
        }
    }
}

/// Something that the worker which owns a swarm does for whoever asks.
pub type Question = Box<dyn FnOnce(&mut Tracker, Seconds) + Send>;

/// Brings a question to the worker that owns a swarm. False if too many wait for it already.
pub type Ask = Arc<dyn Fn(InfoHash, Question) -> bool + Send + Sync>;
