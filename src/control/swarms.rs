//! What operators ask about swarms.

use std::sync::Arc;

use serde::Serialize;

use crate::tracker::survey::{Survey, SurveyedSwarm};
use crate::wire::id::InfoHash;

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

/// What came of a question about one swarm.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Asked {
    /// It is here.
    Known(Swarm),
    /// It is not.
    Unknown,
    /// The worker that owns it did not answer in time.
    Busy,
}

/// What a worker answers: who is in a swarm, if it has it.
pub type Answer = Option<SurveyedSwarm>;

/// Asks the worker that owns a swarm, which calls what is handed in with its answer. False if too
/// many questions wait for it already.
pub type Ask = Arc<dyn Fn(InfoHash, Box<dyn FnOnce(Answer) + Send>) -> bool + Send + Sync>;

/// What that says to whoever asked.
#[must_use]
pub fn asked(answer: Answer) -> Asked {
    answer.map_or(Asked::Unknown, |swarm| Asked::Known(swarm.into()))
}
