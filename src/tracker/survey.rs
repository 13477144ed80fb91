//! What swarms one core has: by size, and the largest.

use super::Tracker;
use crate::swarm::{Counts, FoundPeer, LARGEST, SIZES};
use crate::time::Seconds;
use crate::wire::id::InfoHash;

/// A swarm, and who is in it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SurveyedSwarm {
    /// Its name.
    pub info_hash: InfoHash,
    /// All its peers.
    pub counts: Counts,
    /// Those that are there by WebSocket.
    pub web_peers: u32,
}

impl SurveyedSwarm {
    /// How many are in it.
    #[must_use]
    pub const fn peers(&self) -> u32 {
        self.counts.seeders.saturating_add(self.counts.leechers)
    }
}

/// The swarms of one core.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Survey {
    /// The largest, largest first.
    pub largest: Vec<SurveyedSwarm>,
    /// Swarms by size: see [`SIZES`]. One that has peers of both kinds, WebSocket and others, is
    /// counted with each kind.
    pub sizes: [u64; SIZES],
}

impl Survey {
    /// The largest of several cores, `most` of them; every swarm is on one.
    #[must_use]
    pub fn merge(surveys: impl Iterator<Item = Self>, most: usize) -> Self {
        let mut merged = Self::default();
        for survey in surveys {
            merged.largest.extend(survey.largest);
            for (sum, count) in merged.sizes.iter_mut().zip(survey.sizes) {
                *sum += count;
            }
        }
        merged.largest.sort_by_key(|swarm| (std::cmp::Reverse(swarm.peers()), swarm.info_hash));
        merged.largest.truncate(most);
        merged
    }
}

impl Tracker {
    /// Who is in a swarm of this core, the expired that nobody noticed among them.
    #[must_use]
    pub fn describe(&self, info_hash: &InfoHash) -> Option<SurveyedSwarm> {
        let (others, web) = (self.store.look_up(info_hash), self.web.counts(info_hash));
        if others.is_none() && web == Counts::default() {
            return None;
        }
        let counts = others.unwrap_or_default().plus(web);
        let web_peers = web.seeders + web.leechers;
        Some(SurveyedSwarm { info_hash: *info_hash, counts, web_peers })
    }

    /// Who is in a swarm of this core, the expired that nobody noticed among them: `most` of them,
    /// without the first `from`, and those that are there by WebSocket last.
    #[must_use]
    pub fn peers(
        &self,
        now: Seconds,
        info_hash: &InfoHash,
        from: u32,
        most: u32,
    ) -> Vec<FoundPeer> {
        let mut peers = self.store.peers(now, info_hash, from, most);
        let others = self.store.look_up(info_hash).unwrap_or_default();
        let others = others.seeders.saturating_add(others.leechers);
        let room = most - u32::try_from(peers.len()).expect("most of them at the most");
        peers.extend(self.web.peers(now, info_hash, from.saturating_sub(others), room));
        peers
    }

    /// The largest swarms with what is in them now, as far as the sweeps have come upon them.
    #[must_use]
    pub fn survey(&self) -> Survey {
        let mut names = self.store.survey().largest();
        names.extend(self.web.survey().largest());
        names.sort_unstable();
        names.dedup();
        let swarms = names.into_iter().filter_map(|info_hash| self.describe(&info_hash));
        let largest = swarms.filter(|swarm| swarm.peers() > 0).collect();
        let mut sizes = self.store.survey().sizes();
        for (sum, count) in sizes.iter_mut().zip(self.web.survey().sizes()) {
            *sum += count;
        }
        Survey::merge(std::iter::once(Survey { largest, sizes }), LARGEST)
    }
}
