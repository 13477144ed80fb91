//! What is remembered about WebSocket connections: the swarms of their peers, the offers that they
//! may answer.

use std::net::IpAddr;

use hashbrown::HashMap;

use super::digest::BuildSpread;
use crate::limits::{WEB_PENDING_MAX, WEB_PENDING_SECONDS, WEB_TORRENTS_MAX};
use crate::swarm::web::Place;
use crate::time::Seconds;
use crate::tracker::owner::CoreId;
use crate::wire::id::{InfoHash, PeerId};

/// Departures that wait for a full mailbox; what is beyond them leaves by its age.
pub(super) const DEPARTURES_MAX: usize = 4_096;

/// The WebSocket connections of one core, as far as the protocol is concerned.
#[derive(Debug, Default)]
pub(in crate::tracker) struct WebConnections {
    pub(super) open: HashMap<u64, WebConnection, BuildSpread>,
    /// Messages about peers whose connection has closed, for cores whose mailbox was full.
    pub(super) departures: Vec<(CoreId, Vec<u8>)>,
}

impl WebConnections {
    pub fn len(&self) -> usize {
        self.open.len()
    }
}

/// One of them.
#[derive(Debug)]
pub(super) struct WebConnection {
    pub ip: IpAddr,
    /// The swarms that its peers are in, as far as this core knows.
    pub memberships: Vec<Membership>,
    /// The offers that it has been given and not answered, oldest first.
    pending: Vec<Pending>,
}

/// A peer in a swarm.
#[derive(Clone, Copy, Debug)]
pub(super) struct Membership {
    pub info_hash: InfoHash,
    pub peer_id: PeerId,
    announced: Seconds,
}

/// An offer that has been given.
#[derive(Clone, Copy, Debug)]
struct Pending {
    digest: u64,
    offerer: Place,
    given: Seconds,
    /// How many of the same offerer stand before it.
    before: u8,
}

const _: () = assert!(WEB_PENDING_MAX <= u8::MAX as usize);

impl WebConnection {
    pub const fn new(ip: IpAddr) -> Self {
        Self { ip, memberships: Vec::new(), pending: Vec::new() }
    }

    /// Enters a peer into a swarm, or keeps it there. False if it is in too many.
    pub fn join(&mut self, now: Seconds, peer: (InfoHash, PeerId), ttl_secs: u32) -> bool {
        let (info_hash, peer_id) = peer;
        if let Some(known) = self.find(&info_hash, &peer_id) {
            self.memberships[known].announced = now;
            return true;
        }
        if self.memberships.len() >= WEB_TORRENTS_MAX {
            // The owners have forgotten those that have not announced for so long.
            self.memberships.retain(|peer| now.since(peer.announced) <= ttl_secs);
        }
        if self.memberships.len() >= WEB_TORRENTS_MAX {
            return false;
        }
        if self.memberships.capacity() == 0 {
            // Most connections are about one torrent.
            self.memberships.reserve_exact(1);
        }
        self.memberships.push(Membership { info_hash, peer_id, announced: now });
        true
    }

    pub fn leave(&mut self, info_hash: &InfoHash, peer_id: &PeerId) {
        if let Some(known) = self.find(info_hash, peer_id) {
            self.memberships.swap_remove(known);
        }
    }

    fn find(&self, info_hash: &InfoHash, peer_id: &PeerId) -> Option<usize> {
        let is_it = |peer: &Membership| peer.info_hash == *info_hash && peer.peer_id == *peer_id;
        self.memberships.iter().position(is_it)
    }

    pub fn give(&mut self, now: Seconds, digest: u64, offerer: Place) {
        let late = |pending: &Pending| now.since(pending.given) > WEB_PENDING_SECONDS;
        while self.pending.first().is_some_and(late) {
            self.remove(0);
        }
        if self.pending.len() >= WEB_PENDING_MAX {
            self.remove(self.surplus());
        }
        let before = self.pending.iter().filter(|other| other.offerer == offerer).count();
        let before = u8::try_from(before).expect("fewer than may be pending");
        self.pending.push(Pending { digest, offerer, given: now, before });
    }

    fn remove(&mut self, at: usize) -> Pending {
        let removed = self.pending.remove(at);
        for later in &mut self.pending[at..] {
            later.before -= u8::from(later.offerer == removed.offerer);
        }
        removed
    }

    /// The oldest offer of whoever has made the most, of several of whoever was first to have made
    /// so many: nobody can push out what others have offered by offering much.
    fn surplus(&self) -> usize {
        // The first of the largest, from behind the last of them.
        let most = self.pending.iter().rev().max_by_key(|pending| pending.before);
        let is_theirs = |other: &Pending| most.is_some_and(|most| other.offerer == most.offerer);
        self.pending.iter().position(is_theirs).unwrap_or(0)
    }

    /// Who made the offer of this digest, once.
    pub fn take(&mut self, now: Seconds, digest: u64) -> Option<Place> {
        let found = self.pending.iter().position(|pending| pending.digest == digest)?;
        let pending = self.remove(found);
        if self.pending.is_empty() {
            self.pending = Vec::new();
        }
        (now.since(pending.given) <= WEB_PENDING_SECONDS).then_some(pending.offerer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    #[test]
    fn whoever_offers_much_pushes_out_his_own() {
        let mut connection = WebConnection::new(IpAddr::from([192, 0, 2, 1]));
        let by = |connection| Place { core: 0, connection };
        let now = Seconds(5);
        connection.give(now, 1, by(1));
        connection.give(now, 2, by(2));
        connection.give(now, 3, by(2));
        for digest in 100..1_000 {
            connection.give(now, digest, by(3));
        }
        assert_eq!(connection.pending.len(), WEB_PENDING_MAX);
        for (digest, offerer) in [(1, 1), (2, 2), (3, 2), (999, 3)] {
            assert_eq!(connection.take(now, digest), Some(by(offerer)));
        }
        assert_eq!(connection.take(now, 100), None);
        // Of those that have offered as much the oldest goes.
        let mut connection = WebConnection::new(IpAddr::from([192, 0, 2, 1]));
        let most = u64::try_from(WEB_PENDING_MAX).expect("a few");
        (0..=most).for_each(|n| connection.give(now, n, by(n)));
        assert_eq!((connection.take(now, 0), connection.take(now, 1)), (None, Some(by(1))));
    }

    #[test]
    fn whatever_is_given_taken_or_late_each_knows_how_many_stand_before_it() {
        let (mut rng, mut now) = (Rng::new(3), Seconds(5));
        let mut connection = WebConnection::new(IpAddr::from([192, 0, 2, 1]));
        let (mut surplus, mut late) = (0, 0);
        for digest in 0..if cfg!(miri) { 200 } else { 20_000 } {
            now = now.plus(rng.below(4));
            if rng.below(3) == 0 {
                connection.take(now, digest - rng.next_u64() % (digest + 1));
            }
            let offerers = 1 + digest / 2_000;
            let offerer = Place { core: 0, connection: rng.next_u64() % offerers };
            let before = connection.pending.clone();
            connection.give(now, digest, offerer);
            let pending = &connection.pending;
            for (at, one) in pending.iter().enumerate() {
                let earlier = pending[..at].iter().filter(|other| other.offerer == one.offerer);
                assert_eq!(earlier.count(), usize::from(one.before));
            }
            assert!(pending.iter().all(|one| now.since(one.given) <= WEB_PENDING_SECONDS));
            late += usize::from(pending.len() < before.len());
            // Whose offer made room had as many as anybody.
            let made_room = before.len() == WEB_PENDING_MAX && pending.len() == WEB_PENDING_MAX;
            let gone = before.iter().find(|one| pending.iter().all(|p| p.digest != one.digest));
            if let (true, Some(gone)) = (made_room, gone)
                && now.since(gone.given) <= WEB_PENDING_SECONDS
            {
                let of = |place| before.iter().filter(|one| one.offerer == place).count();
                assert!(before.iter().all(|one| of(one.offerer) <= of(gone.offerer)));
                assert_eq!(gone.before, 0, "the oldest of theirs");
                surplus += 1;
            }
        }
        let is_whole = surplus > 1_000 && late > 100;
        assert!(is_whole || cfg!(miri), "{surplus} made room, {late} times some were late");
    }
}
