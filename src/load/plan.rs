//! What is asked for: whom to load, with whom, how fast, for how long; and why that cannot be.
//!
//! Invariant: a [`Plan`] that [`Plan::check`] accepts ends by itself and within bounded memory.

use std::fmt;
use std::io;
use std::time::Duration;

use crate::limits::{
    HTTP_SCRAPE_HASHES_MAX, LOAD_DURATION_MAX, LOAD_IN_FLIGHT_MAX, LOAD_PEERS_MAX, LOAD_RATE_MAX,
    LOAD_SDP_BYTES_MAX, LOAD_SDP_BYTES_MIN, LOAD_SOURCES_MAX, LOAD_THREADS_MAX, LOAD_TIMEOUT_MAX,
    LOAD_TORRENTS_MAX, UDP_SCRAPE_HASHES_MAX, WEB_OFFERS_MAX,
};
use crate::rng::Rng;

use super::population::{Crowded, Population};
use super::tally::Action;
use super::target::{Target, TargetError};
use super::verify::Rigour;

/// How requests travel.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Transport {
    /// BEP 15.
    Udp,
    /// BEP 3.
    Http,
    /// WebTorrent.
    Ws,
}

impl Transport {
    /// As a URL says it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Http => "http",
            Self::Ws => "ws",
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What makes a request due.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Pace {
    /// The answer to another one.
    Closed,
    /// The time: so many a second, of all threads together.
    Open(u64),
}

/// Weights of the actions.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Mix {
    /// UDP only.
    pub connect: u32,
    /// Reports of any peer.
    pub announce: u32,
    /// Of `scrape_hashes` swarms each.
    pub scrape: u32,
}

impl Mix {
    fn total(&self) -> Option<u32> {
        self.connect.checked_add(self.announce)?.checked_add(self.scrape)
    }

    /// Any action, as often as its weight says.
    pub(super) fn draw(&self, rng: &mut Rng) -> Action {
        // Most mixes are of one action alone.
        if self.connect == 0 && self.scrape == 0 {
            return Action::Announce;
        }
        let at = rng.below(self.total().unwrap_or(u32::MAX));
        if at < self.announce {
            Action::Announce
        } else if at - self.announce < self.scrape {
            Action::Scrape
        } else {
            Action::Connect
        }
    }
}

/// What there is to say about WebSocket peers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Web {
    /// Torrents of each connection: it has a peer in as many swarms.
    pub torrents: u32,
    /// Bytes of an offer, and of an answer.
    pub sdp_bytes: u16,
    /// Share of the offers that are answered, 0 to 1.
    pub answers: f64,
    /// Whether the tracker replies to answers too, as aquatic does.
    pub answers_replied: bool,
    /// Whether nothing is asked in the measured time.
    pub idle: bool,
}

impl Default for Web {
    fn default() -> Self {
        Self { torrents: 1, sdp_bytes: 1_500, answers: 1.0, answers_replied: false, idle: false }
    }
}

/// What is to be done.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Whom to ask.
    pub target: Target,
    /// Threads that ask.
    pub threads: u16,
    /// Sockets (UDP) or source addresses (HTTP, WebSocket) of each thread.
    pub sources: u16,
    /// Other seeds are other swarms, peers and choices.
    pub seed: u64,
    /// Swarms.
    pub swarms: u32,
    /// Peers of all swarms together.
    pub peers: u32,
    /// See [`Population::skew`].
    pub skew: f64,
    /// Share of the peers that are seeders, 0 to 1.
    pub seeders: f64,
    /// Peers asked for in each announce; over a WebSocket, offers in it.
    pub num_want: u32,
    /// What is asked how often.
    pub mix: Mix,
    /// Hashes of a scrape.
    pub scrape_hashes: u16,
    /// What makes a request due.
    pub pace: Pace,
    /// Requests without an answer that each thread has under way, at the most; over HTTP and
    /// WebSocket each has a connection of its own.
    pub in_flight: u32,
    /// The measured time.
    pub duration: Duration,
    /// Whether every peer announces once before; over a WebSocket they do.
    pub fill: bool,
    /// After so long a request is lost.
    pub timeout: Duration,
    /// Over HTTP: a connection for each request.
    pub close: bool,
    /// What WebSocket alone has.
    pub web: Web,
    /// How closely answers are read.
    pub rigour: Rigour,
    /// The process whose CPU time is measured too.
    pub pid: Option<u32>,
}

/// Why a plan cannot be carried out.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A number is out of its bounds.
    #[error("{what} must be {bounds}, not {value}")]
    OutOfBounds {
        /// The option.
        what: &'static str,
        /// What it may be.
        bounds: String,
        /// What it is.
        value: String,
    },
    /// The swarms are too large for the endpoints.
    #[error(transparent)]
    Crowded(#[from] Crowded),
    /// No such target, or not permitted.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The process to measure is not there.
    #[error("what process {pid} uses: {source}")]
    Process {
        /// The process.
        pid: u32,
        /// What the kernel said.
        source: io::Error,
    },
    /// A socket cannot be had.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// Nobody answers there.
    #[error("{target} does not answer: {why}")]
    Silent {
        /// Whom we asked.
        target: String,
        /// What came instead.
        why: String,
    },
}

impl LoadError {
    /// Whether the plan itself is wrong.
    #[must_use]
    pub const fn is_usage(&self) -> bool {
        matches!(
            self,
            Self::OutOfBounds { .. } | Self::Crowded(_) | Self::Target(_) | Self::Process { .. }
        )
    }

    /// Whether the tracker said nothing at all.
    #[must_use]
    pub const fn is_silence(&self) -> bool {
        matches!(self, Self::Silent { .. })
    }
}

impl Plan {
    /// Whether it is within all bounds.
    ///
    /// # Errors
    /// The first bound that it breaks.
    pub fn check(&self) -> Result<(), LoadError> {
        let within = |what, value: u64, least: u64, most: u64| {
            if (least..=most).contains(&value) {
                return Ok(());
            }
            Err(out_of_bounds(what, format!("from {least} to {most}"), value))
        };
        within("--threads", self.threads.into(), 1, LOAD_THREADS_MAX.into())?;
        within("--sources", self.sources.into(), 1, LOAD_SOURCES_MAX.into())?;
        let udp = self.target.transport == Transport::Udp;
        let option = if udp { "--in-flight" } else { "--connections" };
        // Every source needs room for a request, or its peers would never announce. With a
        // connection for each request the sources take turns.
        let least = if self.close { 1 } else { self.sources.into() };
        within(option, self.in_flight.into(), least, LOAD_IN_FLIGHT_MAX.into())?;
        let ws = self.target.transport == Transport::Ws;
        let sources = u64::from(self.threads) * u64::from(self.sources);
        let peers = if ws { "--connections times --torrents" } else { "--peers" };
        within(peers, self.peers.into(), sources, LOAD_PEERS_MAX.into())?;
        within("--swarms", self.swarms.into(), 1, LOAD_PEERS_MAX.into())?;
        if ws {
            within("--offers", self.num_want.into(), 0, WEB_OFFERS_MAX as u64)?;
        } else {
            within("--num-want", self.num_want.into(), 0, (1 << 31) - 1)?;
        }
        let hashes = if udp { UDP_SCRAPE_HASHES_MAX } else { HTTP_SCRAPE_HASHES_MAX };
        within("--scrape-hashes", self.scrape_hashes.into(), 1, hashes as u64)?;
        if let Pace::Open(rate) = self.pace {
            within("--rate", rate, 1, LOAD_RATE_MAX)?;
        }
        if !(self.skew == 0.0 || (1.0..=16.0).contains(&self.skew)) {
            return Err(out_of_bounds("--skew", "0, or from 1 to 16".to_owned(), self.skew));
        }
        if !(0.0..=1.0).contains(&self.seeders) {
            return Err(out_of_bounds("--seeders", "from 0 to 1".to_owned(), self.seeders));
        }
        let times = [
            ("--duration", self.duration, LOAD_DURATION_MAX),
            ("--timeout", self.timeout, LOAD_TIMEOUT_MAX),
        ];
        for (what, time, most) in times {
            if time < Duration::from_millis(1) || time > most {
                let bounds = format!("from 1ms to {most:?}");
                return Err(out_of_bounds(what, bounds, format!("{time:?}")));
            }
        }
        if self.mix.total().is_none_or(|total| total == 0) {
            let bounds = "weights that are not all 0 and add up to 4294967295 at the most";
            return Err(out_of_bounds("--mix", bounds.to_owned(), format!("{:?}", self.mix)));
        }
        if !udp && self.mix.connect > 0 {
            let bounds = "announces and scrapes: only UDP has connects".to_owned();
            return Err(out_of_bounds("--mix", bounds, format!("connect={}", self.mix.connect)));
        }
        if !ws {
            self.population().check()?;
            return Ok(());
        }
        let Web { torrents, sdp_bytes, answers, .. } = self.web;
        within("--torrents", torrents.into(), 1, LOAD_TORRENTS_MAX.into())?;
        let (least, most) = (LOAD_SDP_BYTES_MIN.into(), LOAD_SDP_BYTES_MAX.into());
        within("--sdp-bytes", sdp_bytes.into(), least, most)?;
        if !(0.0..=1.0).contains(&answers) {
            return Err(out_of_bounds("--answers", "from 0 to 1".to_owned(), answers));
        }
        // The peers of a connection are as far apart in number as there are connections.
        let (largest, connections) = (self.population().largest_swarm(), self.web_connections());
        if torrents > 1 && largest > connections {
            let bounds = format!(
                "1: the largest of the swarms would have {largest} peers of only \
                 {connections} connections (or more --swarms, or a lower --skew)"
            );
            return Err(out_of_bounds("--torrents", bounds, torrents));
        }
        Ok(())
    }

    /// Connections of all threads, each with its own peers.
    #[must_use]
    pub fn web_connections(&self) -> u32 {
        u32::from(self.threads).saturating_mul(self.in_flight)
    }

    /// The peers of this plan.
    #[must_use]
    pub fn population(&self) -> Population {
        let sources = u32::from(self.threads) * u32::from(self.sources);
        Population {
            seed: self.seed,
            swarms: self.swarms,
            peers: self.peers,
            skew: self.skew,
            seeders: self.seeders,
            sources,
            addresses: self.target.addresses(sources),
        }
    }
}

fn out_of_bounds(what: &'static str, bounds: String, value: impl fmt::Display) -> LoadError {
    LoadError::OutOfBounds { what, bounds, value: value.to_string() }
}
