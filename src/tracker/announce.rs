//! The one announce that all transports call.

use std::net::IpAddr;

use super::outcome::{Change, Outcome, Refusal};
use super::policy::POLITE_INTERVAL_SECS;
use super::{Effects, Tracker};
use crate::swarm::{Arrival, Company, Counts, Newcomer, Report, Sample, SwarmHandle, Wish};
use crate::time::Seconds;
use crate::wire::addr::{Endpoint, Family};
use crate::wire::announce::{Announce, Event};

/// The answer to an announce, with peers borrowed from the store.
#[derive(Debug)]
pub(super) struct Reply<'a> {
    /// Seconds until the next announce.
    pub interval_secs: u32,
    /// Who is in the swarm, the asker included.
    pub counts: Counts,
    /// The chosen peers.
    pub sample: Sample<'a>,
}

impl Reply<'_> {
    /// Seconds before which the client should not ask again.
    pub(super) const fn min_interval_secs(&self) -> u32 {
        self.interval_secs / 2
    }
}

impl Tracker {
    /// Applies an announce by the peer at `ip` (canonical) and chooses peers for it: of `family`,
    /// or of both, and `peers_max` at the most.
    ///
    /// # Errors
    /// The refusal that the peer is told.
    pub(super) fn announce(
        &mut self,
        now: Seconds,
        ip: IpAddr,
        announce: &Announce,
        (family, peers_max): (Option<Family>, u16),
        effects: &mut impl Effects,
    ) -> Result<Reply<'_>, Refusal> {
        let stopped = announce.event == Event::Stopped;
        if announce.port == 0 && !stopped {
            return Err(Refusal::PortZero);
        }
        let allowed = self.access.allows(&announce.info_hash);
        if !allowed && !stopped {
            return self.not_allowed();
        }

        let arrival = Arrival {
            info_hash: announce.info_hash,
            endpoint: Endpoint::new(ip, announce.port),
            scope: self.policy.scope(ip),
            peer_id: announce.peer_id,
            report: Report {
                seeder: announce.left.is_seeder(),
                partial: announce.event == Event::Paused,
                completed: announce.event == Event::Completed,
            },
        };
        let interval_secs = self.policy.interval_secs(&arrival.endpoint, &arrival.info_hash);
        let removed_before = self.store.removed_peers();
        let (change, swarm, asker) = if stopped {
            let left = self.store.stop(now, &arrival);
            let change = if left { Change::Left } else { Change::Nothing };
            (change, self.look_up(now, &arrival), None)
        } else if self.policy.deny_ports.contains(announce.port) {
            (Change::Nothing, self.look_up(now, &arrival), None)
        } else {
            let (limiter, web, hash) = (&mut self.limiter, &self.web, &arrival.info_hash);
            let admit = |newcomer, company: &Company<'_>| {
                let is_known = newcomer == Newcomer::Swarm && web.find(hash).is_some();
                let newcomer = if is_known { Newcomer::Peer } else { newcomer };
                limiter.admit(now, ip, newcomer, || company.of_source())
            };
            let announced = self.store.announce_if(now, &arrival, admit)?;
            self.censuses[0].saw(&arrival.peer_id);
            let change = match (announced.completed, announced.joined) {
                (true, _) => Change::Completed,
                (_, true) => Change::Joined,
                _ => Change::Refreshed,
            };
            (change, Some((announced.swarm, announced.counts)), Some(announced.asker))
        };
        self.counters.completed[0] += u64::from(change == Change::Completed);
        effects.happened(&Outcome {
            info_hash: arrival.info_hash,
            event: announce.event,
            change,
            removed: self.store.removed_peers().wrapping_sub(removed_before),
        });

        if !allowed {
            // It may have come when the list let it in.
            return self.not_allowed();
        }

        let beside = self.web.counts(&arrival.info_hash);
        let Some((swarm, counts)) = swarm else {
            return Ok(Reply { interval_secs, counts: beside, sample: Sample::empty() });
        };
        let counts = counts.plus(beside);
        let (default, max) = (self.policy.num_want_default, self.policy.num_want_max);
        let num_want = announce.num_want.resolve(default, max).min(peers_max);
        let sample = if stopped || num_want == 0 {
            Sample::empty()
        } else {
            let (seeder, scope) = (arrival.report.seeder, arrival.scope);
            self.store.sample(swarm, &Wish { asker, seeder, scope, family, num_want })
        };
        Ok(Reply { interval_secs, counts, sample })
    }

    /// What a peer is told of a swarm that the access lists do not let in.
    fn not_allowed(&self) -> Result<Reply<'_>, Refusal> {
        if !self.policy.polite_refusal {
            return Err(Refusal::NotAllowed);
        }
        let (counts, sample) = (Counts::default(), Sample::empty());
        Ok(Reply { interval_secs: POLITE_INTERVAL_SECS, counts, sample })
    }

    /// The swarm of an announce that changes nothing, and who is in it.
    fn look_up(&mut self, now: Seconds, arrival: &Arrival) -> Option<(SwarmHandle, Counts)> {
        let swarm = self.store.find(now, &arrival.info_hash)?;
        Some((swarm, self.store.counts(swarm)))
    }
}
