//! A swarm as the slow and obvious tracker of a test knows it.

use std::collections::BTreeMap;

use throng::time::Seconds;
use throng::wire::announce::Event;

/// A peer.
#[derive(Clone, Debug)]
pub struct Member {
    pub announced: Seconds,
    pub seeder: bool,
    /// It wants no more of the rest (BEP 21).
    pub partial: bool,
    /// Its download has been counted.
    pub counted: bool,
}

/// A swarm of peers that go by `K`.
#[derive(Clone, Debug)]
pub struct Swarm<K> {
    /// When somebody was last here.
    pub touched: Seconds,
    pub completed: u32,
    pub members: BTreeMap<K, Member>,
}

impl<K> Default for Swarm<K> {
    fn default() -> Self {
        Self { touched: Seconds(0), completed: 0, members: BTreeMap::new() }
    }
}

impl<K: Ord> Swarm<K> {
    /// A peer joins or stays. Returns whether it has finished a download.
    pub fn announce(&mut self, now: Seconds, key: K, seeder: bool, event: Event) -> bool {
        self.touched = now;
        let before = self.members.get(&key);
        let done = seeder || event == Event::Completed;
        let completes = before.is_some_and(|before| !before.seeder && !before.counted && done);
        let counted = completes || before.is_some_and(|before| before.counted);
        let partial = event == Event::Paused && !seeder;
        self.members.insert(key, Member { announced: now, seeder, partial, counted });
        self.completed += u32::from(completes);
        completes
    }

    /// A peer stops.
    pub fn stop(&mut self, now: Seconds, key: &K) {
        if self.members.remove(key).is_some() {
            self.touched = now;
        }
    }

    /// [seeders, completed, leechers, downloaders]
    pub fn counts(&self) -> [u32; 4] {
        let count = |keep: fn(&Member) -> bool| {
            let kept = self.members.values().filter(|&member| keep(member)).count();
            u32::try_from(kept).expect("few")
        };
        [
            count(|member| member.seeder),
            self.completed,
            count(|member| !member.seeder),
            count(|member| !member.seeder && !member.partial),
        ]
    }
}
