//! Which core owns an `info_hash`: the formula that the kernel runs too.
//!
//! A keyed, pairwise independent hash (vector multiply-shift, Dietzfelbinger 1996) of the ten
//! 16-bit halfwords of the `info_hash`:
//! `core = (top16(k0*h0 + ... + k9*h9 + k10 mod 2^32) * cores) >> 16`.
//! Halfwords, because multiply-shift needs keys as wide as input plus output: with 32-bit words and
//! 32-bit keys, hashes whose words differ only in their top bits would fall on two cores whatever
//! the keys. The keys are drawn at start, so nobody outside can aim at one core.

use crate::wire::id::InfoHash;

/// Position of a core among the workers; also its socket's index in each reuseport group.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct CoreId(pub u16);

impl CoreId {
    /// The core as an index into per-core arrays.
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// Halfwords in an `info_hash`.
pub const HALFWORDS: usize = 10;

/// The secret choice of one hash function among 2^352, and the number of cores it spreads over.
#[derive(Clone, Debug)]
pub struct Owner {
    /// `keys[i]` multiplies halfword i; the last one is added.
    keys: [u32; HALFWORDS + 1],
    /// At least 1.
    cores: u16,
}

impl Owner {
    /// A function that spreads over `cores` cores (at least one).
    #[must_use]
    pub fn new(keys: [u32; HALFWORDS + 1], cores: u16) -> Self {
        Self { keys, cores: cores.max(1) }
    }

    /// The multipliers, then the addend.
    #[must_use]
    pub const fn keys(&self) -> &[u32; HALFWORDS + 1] {
        &self.keys
    }

    /// How many cores share the swarms.
    #[must_use]
    pub const fn cores(&self) -> u16 {
        self.cores
    }

    /// The core that owns `info_hash`.
    #[must_use]
    pub fn core(&self, info_hash: &InfoHash) -> CoreId {
        let mut sum = self.keys[HALFWORDS];
        for (key, halfword) in self.keys.iter().zip(info_hash.0.chunks_exact(2)) {
            let halfword = u32::from(u16::from_be_bytes([halfword[0], halfword[1]]));
            sum = sum.wrapping_add(key.wrapping_mul(halfword));
        }
        let core = ((sum >> 16) * u32::from(self.cores)) >> 16;
        CoreId(u16::try_from(core).expect("below the number of cores"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    fn keys(seed: u64) -> [u32; HALFWORDS + 1] {
        let mut rng = Rng::new(seed);
        std::array::from_fn(|_| u32::try_from(rng.next_u64() >> 32).expect("32 bits"))
    }

    /// The busiest core's share of `hashes`, as a multiple of the mean.
    fn crowding(owner: &Owner, hashes: impl Iterator<Item = InfoHash>) -> f64 {
        let mut counts = vec![0_u32; usize::from(owner.cores())];
        for hash in hashes {
            counts[owner.core(&hash).index()] += 1;
        }
        let total: u32 = counts.iter().sum();
        let most = *counts.iter().max().expect("at least one core");
        f64::from(most) * f64::from(owner.cores()) / f64::from(total)
    }

    fn random_hash(rng: &mut Rng) -> InfoHash {
        InfoHash(std::array::from_fn(|_| u8::try_from(rng.below(256)).expect("a byte")))
    }

    #[test]
    fn chosen_prefixes_and_suffixes_cannot_crowd_one_core() {
        // One draw of the keys may be unlucky for one family; the median over draws may not.
        type Family = fn(&mut Rng) -> InfoHash;
        let families: [(&str, Family); 5] = [
            ("random", random_hash),
            ("one prefix byte", |rng| {
                let mut hash = random_hash(rng);
                hash.0[0] = 0;
                hash
            }),
            ("eight prefix bytes", |rng| {
                let mut hash = random_hash(rng);
                hash.0[..8].fill(7);
                hash
            }),
            ("eight suffix bytes", |rng| {
                let mut hash = random_hash(rng);
                hash.0[12..].fill(7);
                hash
            }),
            ("only the top bits of each word", |rng| {
                let mut hash = InfoHash([0; 20]);
                for word in 0..5 {
                    hash.0[4 * word] = u8::try_from(rng.below(4) << 6).expect("two bits");
                }
                hash
            }),
        ];
        for (name, family) in families {
            let mut shares: Vec<f64> = (0..31)
                .map(|seed| {
                    let owner = Owner::new(keys(seed), 8);
                    let mut rng = Rng::new(seed + 1_000);
                    crowding(&owner, (0..4_096).map(|_| family(&mut rng)))
                })
                .collect();
            shares.sort_by(f64::total_cmp);
            assert!(shares[15] < 1.5, "{name}: median share {:.2} of the mean", shares[15]);
        }
    }

    #[test]
    fn every_core_count_is_covered_and_never_exceeded() {
        let mut rng = Rng::new(5);
        for cores in [1, 2, 3, 5, 64, 255] {
            let owner = Owner::new(keys(u64::from(cores)), cores);
            let mut seen = vec![false; usize::from(cores)];
            for _ in 0..20_000 {
                seen[owner.core(&random_hash(&mut rng)).index()] = true;
            }
            assert!(seen.iter().all(|&s| s), "{cores} cores");
        }
    }
}
