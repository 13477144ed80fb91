//! Choosing `num_want` peers.
//!
//! The candidates fall into buckets (a list's seeders, its leechers). [`apportion`] says how many
//! each bucket gives, so that every peer has the same chance and every kind is present; a
//! [`Sample`] then is a contiguous window at a random place of each, as borrowed slices that go on
//! the wire as they are.

use super::lists::Lists;
use super::slab::Block;
use crate::wire::addr::Family;
use crate::wire::id::PeerId;

/// Buckets at the most: two families, each with the public peers and those of the asker's scope,
/// each of two kinds.
pub const BUCKETS_MAX: usize = 8;

/// Shares `want` out over buckets of the given `sizes`.
///
/// Systematic sampling: each bucket gets its proportion, rounded up or down at random so that the
/// expectation is exact (`draw` decides), never more than it holds, and `want` (or everything there
/// is) in total. Then a bucket that got nothing though it holds somebody takes one from the largest
/// share: a small bias, asked for so that both kinds and both families are present when both exist.
#[inline]
pub fn apportion(draw: u32, want: u32, sizes: &[u32], shares: &mut [u32]) {
    debug_assert!(sizes.len() == shares.len() && sizes.len() <= BUCKETS_MAX);
    let total: u64 = sizes.iter().map(|&size| u64::from(size)).sum();
    if total <= u64::from(want) {
        shares.copy_from_slice(sizes);
        return;
    }
    let bound = u64::from(u32::try_from(total).unwrap_or(u32::MAX));
    let offset = (u64::from(draw) * bound) >> 32;
    let (mut cumulative, mut given) = (0_u64, 0);
    for (share, &size) in shares.iter_mut().zip(sizes) {
        cumulative += u64::from(size);
        let upto = (u64::from(want) * cumulative + offset) / total;
        *share = u32::try_from(upto - given).expect("at most `want`");
        given = upto;
    }
    if shares.iter().zip(sizes).all(|(&share, &size)| share > 0 || size == 0) {
        return;
    }
    for index in 0..sizes.len() {
        let largest = (0..sizes.len()).max_by_key(|&i| shares[i]).unwrap_or(0);
        if sizes[index] > 0 && shares[index] == 0 && shares[largest] > 1 {
            shares[largest] -= 1;
            shares[index] += 1;
        }
    }
}

/// Lets both kinds have a share if both exist and more than one is given, though there are more
/// buckets than that. The buckets are pairs: the leechers and the seeders of one list.
///
/// The share comes from the other half of the pair if it has one: so no family loses its only one.
pub fn keep_both_kinds(sizes: &[u32], shares: &mut [u32]) {
    for kind in 0..2 {
        let all = |values: &[u32], kind| values.iter().skip(kind).step_by(2).sum::<u32>();
        if all(shares, kind) > 0 || all(sizes, kind) == 0 || all(shares, 1 - kind) < 2 {
            continue;
        }
        let of_kind = (kind..sizes.len()).step_by(2).filter(|&bucket| sizes[bucket] > 0);
        let taker = of_kind.max_by_key(|&bucket| (shares[bucket ^ 1] > 0, sizes[bucket]));
        let giver = (1 - kind..sizes.len()).step_by(2).filter(|&bucket| shares[bucket] > 0);
        let giver = giver.max_by_key(|&bucket| (taker == Some(bucket ^ 1), shares[bucket]));
        if let (Some(taker), Some(giver)) = (taker, giver) {
            shares[taker] += 1;
            shares[giver] -= 1;
        }
    }
}

/// What [`apportion`] gives to each of two buckets whose sizes exceed `want` together.
#[inline(always)]
#[must_use]
pub fn apportion_two(draw: u32, want: u32, sizes: [u32; 2]) -> [u32; 2] {
    let total = u64::from(sizes[0]) + u64::from(sizes[1]);
    debug_assert!(total > u64::from(want) && u32::try_from(total).is_ok());
    let offset = (u64::from(draw) * total) >> 32;
    let first = (u64::from(want) * u64::from(sizes[0]) + offset) / total;
    let first = u32::try_from(first).expect("at most `want`");
    // One of each kind at least, if there is one and more than one is wanted.
    let least = u32::from(sizes[0] > 0 && want > 1);
    let most = want - u32::from(sizes[1] > 0 && want > 1);
    let first = first.max(least).min(most);
    [first, want - first]
}

/// A run of chosen peers of one family, borrowed from their list.
#[derive(Clone, Copy, Debug)]
pub struct Chunk<'a> {
    family: Family,
    endpoints: &'a [u8],
    lists: &'a Lists,
    list: Block,
    from: u32,
    to: u32,
}

impl<'a> Chunk<'a> {
    /// The family of all of them.
    #[must_use]
    pub const fn family(&self) -> Family {
        self.family
    }

    /// Their compact endpoints, 6 or 18 bytes each.
    #[must_use]
    pub const fn endpoints(&self) -> &'a [u8] {
        self.endpoints
    }

    /// Their ids, in the same order; empty when ids are not kept.
    #[must_use]
    pub fn ids(&self) -> &'a [PeerId] {
        self.lists.ids(self.list, self.from, self.to)
    }
}

/// Candidates of one kind: positions `from..to` of a list, less the asker.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    /// Where they are.
    pub list: Block,
    /// The first position.
    pub from: u32,
    /// The position after the last.
    pub to: u32,
    /// The asker's position, if it is among them.
    pub asker: Option<u32>,
}

impl Bucket {
    /// The positions `from..to` of `list`, among which the asker may be.
    #[must_use]
    #[inline(always)]
    pub fn new(list: Block, from: u32, to: u32, asker: Option<u32>) -> Self {
        match asker.filter(|asker| (from..to).contains(asker)) {
            // At the end, where it stands in a small list, it divides nobody.
            Some(asker) if asker + 1 == to => Self { list, from, to: asker, asker: None },
            asker => Self { list, from, to, asker },
        }
    }

    /// Where a window begins that `draw` chooses, of those that do not begin with the asker.
    #[must_use]
    #[inline(always)]
    pub fn begin(&self, draw: u32) -> u32 {
        // Multiply and shift, as `Rng::below` does.
        let wide = u64::from(draw) * u64::from(self.size());
        let begin = self.from + u32::try_from(wide >> 32).expect("below 2^32");
        begin + u32::from(self.asker.is_some_and(|asker| asker <= begin))
    }

    /// How many can be chosen.
    #[must_use]
    #[inline]
    pub const fn size(&self) -> u32 {
        self.to - self.from - self.asker.is_some() as u32
    }
}

/// Chosen peers that stand side by side.
#[derive(Clone, Copy, Debug)]
struct Range {
    list: Block,
    from: u32,
    to: u32,
}

/// The chosen peers, borrowed from the store.
#[derive(Clone, Copy, Debug)]
pub struct Sample<'a> {
    lists: Option<&'a Lists>,
    ranges: &'a [Range],
}

impl<'a> Sample<'a> {
    /// Nobody.
    #[must_use]
    pub const fn empty() -> Self {
        Self { lists: None, ranges: &[] }
    }

    /// Those chosen out of `lists`.
    #[must_use]
    #[inline]
    pub fn of(lists: &'a Lists, choice: &'a Choice) -> Self {
        Self { lists: Some(lists), ranges: choice.ranges() }
    }

    /// Hands out the chosen peers in runs, none of them empty.
    #[inline]
    pub fn each(&self, mut each: impl FnMut(Chunk<'a>)) {
        let (Some(lists), Some(first)) = (self.lists, self.ranges.first()) else { return };
        let (mut of, mut column) = (first.list, lists.endpoints(first.list));
        for &Range { list, mut from, to } in self.ranges {
            if list != of {
                (of, column) = (list, lists.endpoints(list));
            }
            let family = column.family();
            while from < to {
                let (endpoints, end) = column.stretch(from, to);
                each(Chunk { family, endpoints, lists, list, from, to: end });
                from = end;
            }
        }
    }

    /// Chosen peers of `family`.
    #[must_use]
    pub fn count(&self, family: Family) -> usize {
        let Some(lists) = self.lists else { return 0 };
        let is = |range: &&Range| lists.head(range.list).family() == family;
        self.ranges.iter().filter(is).map(|range| (range.to - range.from) as usize).sum()
    }
}

/// Which peers are chosen. The store keeps one: it is too large to be handed around.
#[derive(Debug)]
pub struct Choice {
    /// The first `len` of them.
    ranges: [Range; RANGES_MAX],
    len: usize,
}

/// Ranges of one bucket at the most: around the end, and on both sides of the asker.
const BUCKET_RANGES: usize = 3;
/// Ranges of all buckets at the most, and one more that is written to though nobody is in it.
const RANGES_MAX: usize = BUCKETS_MAX * BUCKET_RANGES + 1;

impl Choice {
    /// Nobody yet.
    #[must_use]
    pub fn new() -> Self {
        Self { ranges: [Range { list: Block::FIRST, from: 0, to: 0 }; RANGES_MAX], len: 0 }
    }

    /// Nobody.
    #[inline]
    pub const fn clear(&mut self) {
        self.len = 0;
    }

    #[inline]
    fn ranges(&self) -> &[Range] {
        &self.ranges[..self.len]
    }

    /// Adds `take` peers out of `bucket`: those that stand at `begin` and behind, around the end,
    /// over the asker.
    #[inline(always)]
    pub fn take(&mut self, bucket: &Bucket, begin: u32, take: u32) {
        debug_assert!(take <= bucket.size());
        match bucket.asker {
            // As far as the asker, and on behind it.
            Some(asker) if begin != asker + 1 => {
                let around = if asker < begin { bucket.to - bucket.from } else { 0 };
                let straight = take.min(asker + around - begin);
                self.run(bucket, begin, straight);
                self.run(bucket, asker + 1, take - straight);
            }
            _ => self.run(bucket, begin, take),
        }
    }

    /// Adds the `take` places from `begin` on, around the end; `begin` may lie behind it.
    #[inline(always)]
    fn run(&mut self, bucket: &Bucket, begin: u32, take: u32) {
        let Bucket { list, from, to, .. } = *bucket;
        let before_end = take.min(to.saturating_sub(begin));
        let behind = begin + before_end;
        self.add(list, begin, behind);
        let from = from + behind.max(to) - to;
        self.add(list, from, from + take - before_end);
    }

    /// Adds the peers at `from..to`, if that is anybody.
    #[inline(always)]
    pub fn add(&mut self, list: Block, from: u32, to: u32) {
        // Written in any case: whether it counts is a number, not a branch, for it is a toss-up
        // whether a window goes around the end.
        self.ranges[self.len] = Range { list, from, to };
        self.len += usize::from(from < to);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    #[test]
    #[cfg_attr(miri, ignore = "too many steps for an interpreter")]
    fn shares_add_up_never_exceed_their_bucket_and_keep_every_kind() {
        let mut rng = Rng::new(3);
        for _ in 0..20_000 {
            let mut sizes = [0; BUCKETS_MAX];
            for size in &mut sizes {
                *size = if rng.below(3) == 0 { 0 } else { rng.below(40) };
            }
            let want = rng.below(60);
            let mut shares = [0; BUCKETS_MAX];
            apportion(rng.next_u32(), want, &sizes, &mut shares);
            let total: u32 = sizes.iter().sum();
            assert_eq!(shares.iter().sum::<u32>(), total.min(want));
            if sizes[0] + sizes[1] > want {
                let (draw, two, mut shares) = (rng.next_u32(), [sizes[0], sizes[1]], [0; 2]);
                apportion(draw, want, &two, &mut shares);
                assert_eq!(apportion_two(draw, want, two), shares, "{want} of {two:?}");
            }
            let kinds = sizes.iter().filter(|&&size| size > 0).count();
            for (share, size) in shares.iter().zip(sizes) {
                assert!(*share <= size);
                let enough = usize::try_from(want).expect("small") >= kinds;
                assert!(!(enough && size > 0) || *share > 0, "{want} of {sizes:?}: {shares:?}");
            }
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "too many steps for an interpreter")]
    fn both_kinds_have_a_share_if_two_are_given() {
        let mut rng = Rng::new(6);
        for _ in 0..20_000 {
            let mut sizes = [0; BUCKETS_MAX];
            for size in &mut sizes {
                *size = if rng.below(2) == 0 { 0 } else { rng.below(20) };
            }
            let want = rng.below(8);
            let mut shares = [0; BUCKETS_MAX];
            apportion(rng.next_u32(), want, &sizes, &mut shares);
            let before = shares;
            keep_both_kinds(&sizes, &mut shares);
            let kinds = |values: &[u32]| {
                [0, 1].map(|kind| values.iter().skip(kind).step_by(2).sum::<u32>())
            };
            let [of_shares, of_before, of_sizes] = [&shares, &before, &sizes].map(|all| kinds(all));
            assert_eq!(shares.iter().sum::<u32>(), before.iter().sum::<u32>());
            assert!(shares.iter().zip(sizes).all(|(share, size)| *share <= size));
            let lacks = (0..2).any(|kind| of_sizes[kind] > 0 && of_shares[kind] == 0);
            assert!(want < 2 || !lacks, "{want} of {sizes:?}: {shares:?}");
            // Nothing is done without need, and the lists that had somebody are as many.
            let lacked = (0..2).any(|kind| of_sizes[kind] > 0 && of_before[kind] == 0);
            assert_eq!(shares != before, lacked && want >= 2);
            let lists = |shares: &[u32]| shares.chunks(2).filter(|pair| **pair != [0; 2]).count();
            let paired = (0..BUCKETS_MAX)
                .any(|at| before[at] > 0 && sizes[at ^ 1] > 0 && of_before[(at ^ 1) % 2] == 0);
            assert!(!paired || lists(&shares) == lists(&before), "{before:?} {shares:?}");
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "too many steps for an interpreter")]
    fn shares_are_proportional_on_average() {
        let (mut rng, mut sums) = (Rng::new(4), [0; 3]);
        for _ in 0..100_000 {
            let mut shares = [0; 3];
            apportion(rng.next_u32(), 10, &[20, 50, 30], &mut shares);
            (0..3).for_each(|i| sums[i] += shares[i]);
        }
        for (sum, expected) in sums.iter().zip([200_000_u32, 500_000, 300_000]) {
            assert!(sum.abs_diff(expected) < expected / 50, "{sums:?}");
        }
    }

    #[test]
    fn a_window_never_holds_the_asker_and_gives_everybody_the_same_chance() {
        let list = Block::from_number(1).expect("not 0");
        for asker in [None, Some(2), Some(5), Some(10)] {
            let bucket = Bucket::new(list, 2, 11, asker);
            let mut seen = [0_u32; 11];
            for begin in (2..11).filter(|&begin| asker != Some(begin)) {
                for take in 0..=bucket.size() {
                    let mut choice = Choice::new();
                    choice.take(&bucket, begin, take);
                    let chosen = choice.ranges().iter().map(|range| range.to - range.from);
                    assert_eq!(chosen.sum::<u32>(), take);
                    assert!(choice.len <= BUCKET_RANGES);
                    for range in choice.ranges() {
                        assert!(range.from < range.to && range.to <= 11);
                        (range.from..range.to).for_each(|position| seen[position as usize] += 1);
                    }
                }
            }
            let begins = |draw: u32| bucket.begin(draw << 24);
            let mut chosen: Vec<u32> = (0..256).map(begins).collect();
            chosen.dedup();
            assert!(chosen.into_iter().eq((2..11).filter(|&begin| asker != Some(begin))));
            for (n, &count) in seen.iter().enumerate() {
                let candidate = n >= 2 && asker.is_none_or(|asker| asker as usize != n);
                let each = bucket.size() * (bucket.size() + 1) / 2;
                assert_eq!(count, if candidate { each } else { 0 }, "{asker:?} {n}");
            }
        }
    }
}
