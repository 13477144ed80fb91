//! What happens to one list of peers, wherever its columns lie.
//!
//! Seeders stand before leechers, so that a reply is one or two copies of a contiguous window.
//! Nothing links the peers in the order of their announces: each has a stamp, and whoever needs
//! the oldest looks through the stamps, two bytes each and side by side. That is seldom (a peer
//! expires, or a full list takes a new one), and links would cost every peer eight bytes and every
//! announce three cache lines.

use super::layout::{COUNTED, Clock, PARTIAL};
use crate::wire::id::PeerId;

/// What an announce says about a peer, as far as a list keeps it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Report {
    /// It needs nothing more.
    pub seeder: bool,
    /// It has all it wants, though not all there is (BEP 21).
    pub partial: bool,
    /// It says that its download has just finished.
    pub completed: bool,
}

/// How many are in a list.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Census {
    /// Peers.
    pub len: u32,
    /// Peers that need nothing more: positions `0..seeders`.
    pub seeders: u32,
    /// Leechers that are partial seeds (BEP 21); `partial <= len - seeders`.
    pub partial: u32,
}

/// An announce of a peer that is in the list.
#[derive(Clone, Copy, Debug)]
pub struct Refresh<'a> {
    /// The stamp of this moment.
    pub now: u16,
    /// What it says.
    pub report: &'a Report,
    /// Its id, if ids are kept.
    pub id: &'a PeerId,
    /// Chance: with whom it changes places.
    pub pick: u32,
}

/// What a refresh changed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Refreshed {
    /// Where the peer stands now.
    pub position: u32,
    /// It has just finished, for the first time in its life here.
    pub completed: bool,
    /// Its stamp before.
    pub stamp: u16,
    /// Who was in the list before, and who is now.
    pub census: (Census, Census),
}

/// What an announce found that said nothing new.
#[derive(Clone, Copy, Debug)]
pub struct Renewed {
    /// Where the peer stands now.
    pub position: u32,
    /// Its stamp before.
    pub stamp: u16,
    /// Who is in the list.
    pub census: Census,
}

/// What makes an announce more than a renewal.
#[derive(Clone, Copy, Debug)]
pub enum News {
    /// Nobody looked whether the peer is known.
    Unknown,
    /// The peer is not in the list.
    Newcomer,
    /// The peer stands here, and says something new.
    Of(u32),
}

/// The columns of one list, and what finds the peers in them.
pub trait List {
    /// How many there are.
    fn census(&self) -> Census;
    /// Changes how many there are.
    fn set_census(&mut self, census: Census);
    /// The stamp at a position.
    fn stamp(&self, position: u32) -> u16;
    /// Exchanges two positions in every column and in the index.
    fn swap(&mut self, a: u32, b: u32);
    /// Writes down the stamp and the id of a peer that has just announced, the id if ids are kept,
    /// and lets it change places with others of its kind, so that the order mixes. Returns where it
    /// stands now.
    fn settle(&mut self, position: u32, census: &Census, stamp: u16, announce: &Refresh<'_>)
    -> u32;

    /// Applies an announce that says nothing new but that the peer is still there, as most do.
    ///
    /// # Errors
    /// [`News`], and nothing is changed, if it says more.
    #[inline(always)]
    fn renew(&mut self, position: u32, announce: &Refresh<'_>) -> Result<Renewed, News> {
        let Refresh { now, report, .. } = *announce;
        let (census, before) = (self.census(), self.stamp(position));
        let is_seeder = position < census.seeders;
        let is_partial = before & PARTIAL != 0;
        let is_new = is_seeder != report.seeder
            || is_partial != (report.partial && !report.seeder)
            || report.completed && !is_seeder && before & COUNTED == 0;
        if is_new {
            return Err(News::Of(position));
        }
        let stamp = now | before & (PARTIAL | COUNTED);
        let position = self.settle(position, &census, stamp, announce);
        Ok(Renewed { position, stamp: before, census })
    }

    /// Applies an announce by the peer at `position`, which may have `joined` just now.
    fn refresh(&mut self, position: u32, joined: bool, announce: &Refresh<'_>) -> Refreshed {
        let Refresh { now, report, .. } = *announce;
        let old = self.census();
        let mut census = old;
        let before = self.stamp(position);
        let was_leecher = !joined && position >= census.seeders;
        let counted = before & COUNTED != 0;
        let completed = was_leecher && !counted && (report.seeder || report.completed);
        let partial = report.partial && !report.seeder;

        census.partial += u32::from(partial);
        census.partial -= u32::from(before & PARTIAL != 0);
        let flags = if counted || completed { COUNTED } else { 0 };
        let stamp = now | flags | if partial { PARTIAL } else { 0 };
        let position = self.move_over(position, report.seeder, &mut census);
        let position = self.settle(position, &census, stamp, announce);
        if census != old {
            self.set_census(census);
        }
        Refreshed { position, completed, stamp: before, census: (old, census) }
    }

    /// Moves a peer across the border between seeders and leechers if need be.
    fn move_over(&mut self, position: u32, seeder: bool, census: &mut Census) -> u32 {
        let border = match (position < census.seeders, seeder) {
            (false, true) => {
                census.seeders += 1;
                census.seeders - 1
            }
            (true, false) => {
                census.seeders -= 1;
                census.seeders
            }
            _ => return position,
        };
        if border != position {
            self.swap(position, border);
        }
        border
    }

    /// Brings the peer at `position` to the end of the list and out of every count; what is left
    /// is to drop the last position from the columns and the index.
    fn expel(&mut self, position: u32) {
        let mut census = self.census();
        census.partial -= u32::from(self.stamp(position) & PARTIAL != 0);
        let position = self.move_over(position, false, &mut census);
        census.len -= 1;
        if position != census.len {
            self.swap(position, census.len);
        }
        self.set_census(census);
    }
}

impl Census {
    /// The positions of the kind that a position is of: where they begin and end.
    #[must_use]
    #[inline]
    pub const fn kind(&self, position: u32) -> (u32, u32) {
        if position < self.seeders { (0, self.seeders) } else { (self.seeders, self.len) }
    }
}

/// One of the positions `from..to` that `pick` chooses.
#[must_use]
#[inline(always)]
pub fn choose(pick: u32, (from, to): (u32, u32)) -> u32 {
    // Multiply and shift: even enough, and no division.
    let wide = u64::from(pick) * u64::from(to - from);
    from + u32::try_from(wide >> 32).expect("below 2^32")
}

/// The age of the oldest of some stamps; `None` if there are none.
#[must_use]
pub fn oldest_age(stamps: &[u16], now: u16) -> Option<u16> {
    // No branch in the loop, so that it becomes one of vector instructions.
    let oldest = stamps.iter().fold(0, |oldest, &stamp| Clock::age(now, stamp).max(oldest));
    (!stamps.is_empty()).then_some(oldest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_position_is_chosen_by_as_many_picks() {
        let mut chosen = [0; 12];
        for pick in 0..0x1000 {
            chosen[choose(pick << 20, (4, 12)) as usize] += 1;
        }
        assert_eq!(chosen, [0, 0, 0, 0, 512, 512, 512, 512, 512, 512, 512, 512]);
        assert_eq!(choose(u32::MAX, (4, 12)), 11);
    }
}
