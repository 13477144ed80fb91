//! How a peer joins its swarm, or stays in it.

use std::convert::Infallible;

use super::peers::{News, Refresh, Refreshed, Renewed, choose};
use super::slab::Block;
use super::swarms::SwarmHandle;
use super::warm::Hint;
use super::{Announced, Arrival, Asker, CAME_BACK_SECS, Counts, Newcomer, SwarmStore};
use crate::time::Seconds;
use crate::wire::addr::Family;

/// Peers that are looked at in a swarm that has more of them: so many pieces, and of each so many.
/// What one source has brought lies together, as it came: many short pieces find it.
const PIECES: u32 = 64;
const PIECE: u32 = 64;

/// Who is in a swarm already that a newcomer comes to.
#[derive(Debug)]
pub struct Company<'a> {
    store: &'a SwarmStore,
    swarm: Option<Block>,
    arrival: &'a Arrival,
    chance: u64,
}

impl Company<'_> {
    /// Peers of the newcomer's own source, an IPv4 address or an IPv6 /64: all of them, or what a
    /// look at 4,096 of a larger swarm says.
    #[must_use]
    pub fn of_source(&self) -> u32 {
        let Arrival { endpoint, scope, .. } = self.arrival;
        let (family, lists) = (endpoint.family(), &self.store.swarms.lists);
        let list = self.swarm.and_then(|swarm| self.store.swarms.list(swarm, family, *scope));
        let Some(list) = list else { return 0 };
        let column = lists.endpoints(list);
        let (stride, prefix) = match family {
            Family::V4 => (family.endpoint_bytes(), 4),
            Family::V6 => (family.endpoint_bytes(), 8),
        };
        let source = &endpoint.as_bytes()[..prefix];
        let count = |from: u32, to: u32| {
            let (mut from, mut count) = (from, 0);
            while from < to {
                let (endpoints, end) = column.stretch(from, to);
                let is_of_source = |endpoint: &&[u8]| endpoint[..prefix] == *source;
                count += endpoints.chunks_exact(stride).filter(is_of_source).count();
                from = end;
            }
            u64::try_from(count).expect("below 2^32")
        };
        let len = lists.census(list).len;
        if len <= PIECES * PIECE {
            return u32::try_from(count(0, len)).expect("of so many");
        }
        let step = len / PIECES;
        let low = u32::try_from(self.chance & u64::from(u32::MAX)).expect("the lower half");
        let first = choose(low, (0, step - PIECE + 1));
        let found: u64 = (0..PIECES)
            .map(|piece| first + piece * step)
            .map(|from| count(from, from + PIECE))
            .sum();
        u32::try_from(found * u64::from(len) / u64::from(PIECES * PIECE)).unwrap_or(u32::MAX)
    }
}

impl SwarmStore {
    /// Inserts or refreshes a peer, creating its swarm if need be, within the bounds.
    #[inline]
    pub fn announce(&mut self, now: Seconds, arrival: &Arrival) -> Announced {
        let Ok(announced) = self.announce_if(now, arrival, |_, _| Ok::<(), Infallible>(()));
        announced
    }

    /// As [`SwarmStore::announce`], but newcomers only if `admit` says so.
    ///
    /// # Errors
    /// What `admit` says; nothing is changed then.
    #[inline(always)]
    pub fn announce_if<E>(
        &mut self,
        now: Seconds,
        arrival: &Arrival,
        admit: impl FnOnce(Newcomer, &Company<'_>) -> Result<(), E>,
    ) -> Result<Announced, E> {
        self.pass_time(now);
        let stamp = self.stamp;
        let (family, scope) = (arrival.endpoint.family(), arrival.scope);
        let chance = self.rng.next_u64();
        let pick = u32::try_from(chance >> 32).expect("the upper half");
        let refresh = Refresh { now: stamp, report: &arrival.report, id: &arrival.peer_id, pick };

        // A known peer of a swarm with one list: most announces are of this kind.
        let (found, hint) = self.locate(&arrival.info_hash);
        let mut news = News::Unknown;
        if let Some(swarm) = found {
            let head = self.swarms.lists.head(swarm);
            if head.is_only(family, scope) && !self.clock.is_expired(stamp, head.oldest) {
                let guess = hint.map(|hint| hint.position);
                let lists = &mut self.swarms.lists;
                match lists.renew(swarm, &arrival.endpoint, guess, &refresh) {
                    Ok(renewed) => return Ok(self.renewed(stamp, swarm, &renewed, chance, hint)),
                    Err(other) => news = other,
                }
            }
        }
        self.announce_news(arrival, &refresh, (found, news), chance, admit)
    }

    /// What [`SwarmStore::announce_if`] does if there is more to do than to renew a peer.
    #[inline(never)]
    fn announce_news<E>(
        &mut self,
        arrival: &Arrival,
        refresh: &Refresh<'_>,
        (found, news): (Option<Block>, News),
        chance: u64,
        admit: impl FnOnce(Newcomer, &Company<'_>) -> Result<(), E>,
    ) -> Result<Announced, E> {
        // Who has expired is nobody's company, and not known any more.
        let found = found.and_then(|swarm| self.expire_swarm(refresh.now, swarm));
        if let Some(newcomer) = self.newcomer(arrival, found, &news) {
            admit(newcomer, &Company { store: self, swarm: found, arrival, chance })?;
        }
        Ok(self.announce_anew(arrival, refresh, (found, news), chance))
    }

    /// What an announce would bring; `None`: its peer is known.
    fn newcomer(&self, arrival: &Arrival, found: Option<Block>, news: &News) -> Option<Newcomer> {
        let swarm = match (found, news) {
            (None, _) => return Some(Newcomer::Swarm),
            (_, News::Of(_)) => return None,
            (_, News::Newcomer) => return Some(Newcomer::Peer),
            (Some(swarm), News::Unknown) => swarm,
        };
        let Arrival { endpoint, scope, .. } = arrival;
        let list = self.swarms.list(swarm, endpoint.family(), *scope);
        let known = list.and_then(|list| self.swarms.lists.find(list, endpoint));
        known.is_none().then_some(Newcomer::Peer)
    }

    /// What is left to do once a peer has said nothing new.
    #[inline(always)]
    fn renewed(
        &mut self,
        now: u16,
        swarm: Block,
        renewed: &Renewed,
        chance: u64,
        hint: Option<Hint>,
    ) -> Announced {
        let head = self.swarms.lists.head(swarm);
        // Windows of large lists begin where that was prefetched.
        let chance = hint.and_then(|hint| hint.windows()).unwrap_or(chance);
        let Renewed { position, stamp: before, ref census } = *renewed;
        let counts = Counts::of_one(census, head.completed);
        if head.is_on_probation() && self.came_back(now, before) {
            self.swarms.lists.establish(swarm);
        }
        let asker = Asker { list: swarm, position, chance };
        Announced { swarm: SwarmHandle(swarm), counts, asker, joined: false, completed: false }
    }

    /// An announce that may change more than one peer. The swarm was `found`, with nobody in it who
    /// has expired, and if it has one list that fits, the peer was looked for.
    #[inline(never)]
    fn announce_anew(
        &mut self,
        arrival: &Arrival,
        refresh: &Refresh<'_>,
        (mut found, mut news): (Option<Block>, News),
        chance: u64,
    ) -> Announced {
        let stamp = refresh.now;
        let (family, scope) = (arrival.endpoint.family(), arrival.scope);
        // Who is known needs no memory. Else what makes room may move or remove any swarm.
        if !matches!(news, News::Of(_)) && self.make_room(self.seen, arrival) {
            (found, news) = (self.swarms.find(&arrival.info_hash), News::Unknown);
        }
        let mut swarm =
            found.unwrap_or_else(|| self.swarms.insert(&arrival.info_hash, family, scope));
        let mut list = self.swarms.list(swarm, family, scope);
        let known = match (news, list) {
            (News::Of(position), _) => Some(position),
            (News::Unknown, Some(list)) => self.swarms.lists.find(list, &arrival.endpoint),
            (News::Newcomer, _) | (_, None) => None,
        };
        if known.is_none() && self.is_full(swarm) {
            self.remove_oldest_peer(stamp, &mut swarm);
            list = self.swarms.list(swarm, family, scope);
        }
        let mut list = list.unwrap_or_else(|| self.swarms.add_list(swarm, family, scope));
        let joined = known.is_none();
        let position = known.unwrap_or_else(|| {
            if self.swarms.lists.census(list).len == 0 {
                self.swarms.lists.head_mut(list).oldest = stamp;
            }
            self.totals.leechers[family as usize] += 1;
            self.swarms.push(&mut swarm, &mut list, &arrival.endpoint)
        });
        let refreshed = self.swarms.lists.refresh(list, (position, joined), refresh);
        self.announced(stamp, swarm, (list, joined), &refreshed, chance)
    }

    /// What is left to do once a peer has been refreshed.
    fn announced(
        &mut self,
        now: u16,
        swarm: Block,
        (list, joined): (Block, bool),
        refreshed: &Refreshed,
        chance: u64,
    ) -> Announced {
        let Refreshed { position, completed, stamp, census: (before, after) } = *refreshed;
        if before != after {
            self.recount(list, before);
        }
        let lists = &mut self.swarms.lists;
        if completed {
            let head = lists.head_mut(swarm);
            head.completed = head.completed.saturating_add(1);
        }
        let head = lists.head(swarm);
        let is_on_probation = head.is_on_probation();
        let swarm = SwarmHandle(swarm);
        let counts = self.counts(swarm);
        if is_on_probation {
            let came_back = !joined && self.came_back(now, stamp);
            if came_back || joined && self.swarms.has_company(swarm.0, list, position) {
                self.swarms.lists.establish(swarm.0);
            }
        }
        let asker = Asker { list, position, chance };
        Announced { swarm, counts, asker, joined, completed }
    }

    /// Whether an announce now is one of a peer that stays, after one at `before`.
    fn came_back(&self, now: u16, before: u16) -> bool {
        self.clock.age_secs(now, before) >= CAME_BACK_SECS
    }
}
