//! Which peers are offered a connection.
//!
//! A few of a swarm, all different, each with the same chance among its kind: drawn one by one, and
//! drawn again where a draw has been before, or is the asker. With ten at the most that takes a
//! dozen draws; a swarm that is hardly larger is shuffled instead.

use smallvec::SmallVec;

use super::{Place, WebStore, WebSwarmHandle};
use crate::limits::WEB_OFFERS_MAX;
use crate::swarm::sample::apportion_two;

/// Connections of the peers to whom offers go, in a random order.
pub type Chosen = SmallVec<[Place; WEB_OFFERS_MAX]>;

impl WebStore {
    /// Chooses `want` peers (at most [`WEB_OFFERS_MAX`]) of a swarm for the member at `asker`:
    /// leechers for a seeder, both kinds for a leecher, if both exist, and never itself.
    pub fn choose(
        &mut self,
        WebSwarmHandle(swarm): WebSwarmHandle,
        (asker, seeder): (u32, bool),
        want: usize,
    ) -> Chosen {
        let (list, seeders) = {
            let swarm = self.swarms.get(swarm);
            (u32::try_from(swarm.members.len()).expect("bounded"), swarm.seeders)
        };
        let want = u32::try_from(want.min(WEB_OFFERS_MAX)).expect("a few");
        let mut places = Places::new();
        if seeder {
            self.draw(seeders..list, None, want, &mut places);
        } else {
            // The asker is one of the leechers.
            let sizes = [seeders, list - seeders - 1];
            let shares = if sizes[0] + sizes[1] > want {
                apportion_two(self.rng.next_u32(), want, sizes)
            } else {
                sizes
            };
            self.draw(0..seeders, None, shares[0], &mut places);
            self.draw(seeders..list, Some(asker), shares[1], &mut places);
            // Else the first offers would always go to seeders.
            self.shuffle(&mut places);
        }
        let list = &self.swarms.get(swarm).members;
        places.iter().map(|&place| self.members.get(list[place as usize]).place).collect()
    }

    /// Adds `want` different numbers of `range` to `places`, or all, `asker` never among them.
    fn draw(
        &mut self,
        range: std::ops::Range<u32>,
        asker: Option<u32>,
        want: u32,
        places: &mut Places,
    ) {
        let len = range.end - range.start;
        let others = len - u32::from(asker.is_some());
        if others <= 2 * want {
            let mut all: SmallVec<[u32; 2 * WEB_OFFERS_MAX + 1]> =
                range.filter(|&place| Some(place) != asker).collect();
            for _ in 0..want.min(others) {
                let left = u32::try_from(all.len()).expect("a few");
                places.push(all.swap_remove(self.rng.below(left) as usize));
            }
            return;
        }
        let begin = places.len();
        while places.len() - begin < want as usize {
            let place = range.start + self.rng.below(len);
            if Some(place) != asker && !places[begin..].contains(&place) {
                places.push(place);
            }
        }
    }

    fn shuffle(&mut self, places: &mut Places) {
        for last in (1..places.len()).rev() {
            let bound = u32::try_from(last + 1).expect("a few");
            places.swap(last, self.rng.below(bound) as usize);
        }
    }
}

/// Positions in a swarm's list.
type Places = SmallVec<[u32; WEB_OFFERS_MAX]>;
