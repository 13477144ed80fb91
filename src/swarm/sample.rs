//! Choosing `num_want` peers.
//!
//! The candidates fall into buckets (a peer list's seeders, its leechers). [`apportion`] says how
//! many each bucket gives, so that every peer has the same chance and every kind is present;
//! [`Sample`] then takes a contiguous window at a random place of each, as borrowed slices that go
//! on the wire as they are.

use super::peers::PeerList;
use crate::rng::Rng;
use crate::wire::addr::Family;
use crate::wire::id::PeerId;

/// Buckets at the most: two families, each with the public peers and those of the asker's scope,
/// each of two kinds.
pub const BUCKETS_MAX: usize = 8;
/// Slices of one window at the most: it may wrap around, and it steps over the asker.
const SLICES_PER_BUCKET: usize = 3;

/// Shares `want` out over buckets of the given `sizes`.
///
/// Systematic sampling: each bucket gets its proportion, rounded up or down at random so that the
/// expectation is exact, never more than it holds, and `want` (or everything there is) in total.
/// Then a bucket that got nothing though it holds somebody takes one from the largest share: a
/// small bias, asked for so that both kinds and both families are present when both exist.
pub fn apportion(rng: &mut Rng, want: u32, sizes: &[u32], shares: &mut [u32]) {
    debug_assert!(sizes.len() == shares.len() && sizes.len() <= BUCKETS_MAX);
    let total: u64 = sizes.iter().map(|&size| u64::from(size)).sum();
    if total <= u64::from(want) {
        shares.copy_from_slice(sizes);
        return;
    }
    let bound = u32::try_from(total).unwrap_or(u32::MAX);
    let offset = u64::from(rng.below(bound));
    let (mut cumulative, mut given) = (0_u64, 0);
    for (share, &size) in shares.iter_mut().zip(sizes) {
        cumulative += u64::from(size);
        let upto = (u64::from(want) * cumulative + offset) / total;
        *share = u32::try_from(upto - given).expect("at most `want`");
        given = upto;
    }
    for index in 0..sizes.len() {
        let largest = (0..sizes.len()).max_by_key(|&i| shares[i]).unwrap_or(0);
        if sizes[index] > 0 && shares[index] == 0 && shares[largest] > 1 {
            shares[largest] -= 1;
            shares[index] += 1;
        }
    }
}

/// A run of chosen peers of one family, borrowed from their list.
#[derive(Clone, Copy, Debug)]
pub struct Chunk<'a> {
    list: &'a PeerList,
    /// `from < to <= list.len()`
    from: u32,
    to: u32,
}

impl<'a> Chunk<'a> {
    /// The family of all of them.
    #[must_use]
    pub const fn family(&self) -> Family {
        self.list.family()
    }

    /// Their compact endpoints, 6 or 18 bytes each.
    #[must_use]
    pub fn endpoints(&self) -> &'a [u8] {
        self.list.endpoints(self.from, self.to)
    }

    /// Their ids, in the same order; empty when ids are not kept.
    #[must_use]
    pub fn ids(&self) -> &'a [PeerId] {
        self.list.ids(self.from, self.to)
    }
}

/// The chosen peers, borrowed from the store.
#[derive(Clone, Debug)]
pub struct Sample<'a> {
    /// The first `len` are there.
    chunks: [Option<Chunk<'a>>; BUCKETS_MAX * SLICES_PER_BUCKET],
    len: usize,
}

impl<'a> Sample<'a> {
    /// Nobody.
    #[must_use]
    pub const fn empty() -> Self {
        Self { chunks: [None; BUCKETS_MAX * SLICES_PER_BUCKET], len: 0 }
    }

    /// The runs of chosen peers, none of them empty.
    pub fn chunks(&self) -> impl Iterator<Item = &Chunk<'a>> {
        self.chunks[..self.len].iter().flatten()
    }

    /// Chosen peers of `family`.
    #[must_use]
    pub fn count(&self, family: Family) -> usize {
        self.chunks()
            .filter(|chunk| chunk.family() == family)
            .map(|chunk| (chunk.to - chunk.from) as usize)
            .sum()
    }

    /// Adds `take` peers out of `bucket`: those that stand behind `start`, around the end.
    pub fn take(&mut self, bucket: &Bucket<'a>, start: u32, take: u32) {
        let size = bucket.size();
        debug_assert!(take <= size && (start < size || size == 0));
        let to_end = take.min(size - start);
        // Positions as if the asker were not there; then the window steps over it.
        for (from, to) in [(start, start + to_end), (0, take - to_end)] {
            let asker = bucket.asker.map_or(to, |asker| (asker - bucket.from).clamp(from, to));
            self.push(bucket, from, asker, 0);
            self.push(bucket, asker, to, 1);
        }
    }

    fn push(&mut self, bucket: &Bucket<'a>, from: u32, to: u32, skipped: u32) {
        if from < to {
            let (from, to) = (bucket.from + from + skipped, bucket.from + to + skipped);
            self.chunks[self.len] = Some(Chunk { list: bucket.list, from, to });
            self.len += 1;
        }
    }
}

/// Candidates of one kind: positions `from..to` of a list, less the asker.
#[derive(Clone, Copy, Debug)]
pub struct Bucket<'a> {
    /// Where they are.
    pub list: &'a PeerList,
    /// The first position.
    pub from: u32,
    /// The position after the last.
    pub to: u32,
    /// The asker's position, if it is among them: `from <= asker < to`.
    pub asker: Option<u32>,
}

impl Bucket<'_> {
    /// How many can be chosen.
    #[must_use]
    pub fn size(&self) -> u32 {
        self.to - self.from - u32::from(self.asker.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::swarm::peers::{HashKey, Report};
    use crate::time::Seconds;
    use crate::wire::addr::Endpoint;

    #[test]
    fn shares_add_up_never_exceed_their_bucket_and_keep_every_kind() {
        let mut rng = Rng::new(3);
        for _ in 0..20_000 {
            let mut sizes = [0; BUCKETS_MAX];
            for size in &mut sizes {
                *size = if rng.below(3) == 0 { 0 } else { rng.below(40) };
            }
            let want = rng.below(60);
            let mut shares = [0; BUCKETS_MAX];
            apportion(&mut rng, want, &sizes, &mut shares);
            let total: u32 = sizes.iter().sum();
            assert_eq!(shares.iter().sum::<u32>(), total.min(want));
            let kinds = sizes.iter().filter(|&&size| size > 0).count();
            for (share, size) in shares.iter().zip(sizes) {
                assert!(*share <= size);
                let enough = usize::try_from(want).expect("small") >= kinds;
                assert!(!(enough && size > 0) || *share > 0, "{want} of {sizes:?}: {shares:?}");
            }
        }
    }

    #[test]
    fn shares_are_proportional_on_average() {
        let (mut rng, mut sums) = (Rng::new(4), [0; 3]);
        for _ in 0..100_000 {
            let mut shares = [0; 3];
            apportion(&mut rng, 10, &[20, 50, 30], &mut shares);
            (0..3).for_each(|i| sums[i] += shares[i]);
        }
        for (sum, expected) in sums.iter().zip([200_000_u32, 500_000, 300_000]) {
            assert!(sum.abs_diff(expected) < expected / 50, "{sums:?}");
        }
    }

    #[test]
    fn a_window_never_holds_the_asker_and_gives_everybody_the_same_chance() {
        let key = HashKey(1, 2);
        let report = Report { seeder: false, partial: false, completed: false };
        let mut list = PeerList::new(Family::V4);
        for n in 0..11_u32 {
            let endpoint = Endpoint::new(std::net::Ipv4Addr::from(n).into(), 1);
            list.upsert(key, Seconds(0), &endpoint, None, report);
        }
        for asker in [None, Some(2), Some(5), Some(10)] {
            let bucket = Bucket { list: &list, from: 2, to: 11, asker };
            let mut seen = [0_u32; 11];
            for start in 0..bucket.size() {
                for take in 0..=bucket.size() {
                    let mut sample = Sample::empty();
                    sample.take(&bucket, start, take);
                    assert_eq!(sample.count(Family::V4), take as usize);
                    for chunk in sample.chunks() {
                        assert!(!chunk.endpoints().is_empty());
                        for endpoint in chunk.endpoints().chunks_exact(6) {
                            seen[usize::from(endpoint[3])] += 1;
                        }
                    }
                }
            }
            for (n, &count) in seen.iter().enumerate() {
                let candidate = n >= 2 && asker.is_none_or(|asker| asker as usize != n);
                let each = bucket.size() * (bucket.size() + 1) / 2;
                assert_eq!(count, if candidate { each } else { 0 }, "{asker:?} {n}");
            }
        }
    }
}
