//! Who is in a swarm, and its end, as operators want it.

use super::{Member, WebStore};
use crate::swarm::FoundPeer;
use crate::time::Seconds;
use crate::wire::id::InfoHash;

impl WebStore {
    /// The peers of a swarm: `most` of them, without the first `from`.
    #[must_use]
    pub fn peers(
        &self,
        now: Seconds,
        info_hash: &InfoHash,
        from: u32,
        most: u32,
    ) -> Vec<FoundPeer> {
        let Some(swarm) = self.find_swarm(info_hash) else { return Vec::new() };
        let members = self.swarms.get(swarm).members.iter().copied();
        let some = members.skip(from as usize).take(most as usize);
        some.map(|member| {
            let Member { peer_id, announced, .. } = *self.members.get(member);
            FoundPeer {
                endpoint: None,
                peer_id: Some(peer_id),
                seeder: self.is_seeder(member),
                seconds: now.since(announced),
            }
        })
        .collect()
    }

    /// Everybody leaves a swarm, and it goes, if it is there.
    pub fn forget(&mut self, info_hash: &InfoHash) {
        let Some(swarm) = self.find_swarm(info_hash) else { return };
        while let Some(&member) = self.swarms.get(swarm).members.last() {
            self.remove_member(member);
        }
        self.remove_swarm(swarm);
    }
}
