//! The keyed hash of the store's tables.
//!
//! Peers choose info_hashes freely and ports almost so, and must not be able to choose what shares
//! a bucket. So the words of a key are multiplied with secret odd numbers modulo 2^64 and summed,
//! and the sum is folded twice more with secrets: two keys meet in the sum with a probability of
//! 2^-33 at the most, whatever their difference, and the fold spreads what is left over all bits.
//! Three nanoseconds for an info_hash, where SipHash-1-3 took fifteen.

use std::hash::Hasher as _;

use siphasher::sip::SipHasher13;

use super::web::Place;
use crate::wire::addr::Endpoint;
use crate::wire::id::{InfoHash, PeerId};

/// What the secrets of one core's tables are drawn from.
#[derive(Clone, Copy, Debug)]
pub struct HashKey(pub u64, pub u64);

/// 32-bit words of the longest key: an info_hash, or an IPv6 endpoint.
const WORDS: usize = 5;

/// The secrets of one core's tables.
#[derive(Clone, Debug)]
pub struct Hasher {
    words: [u64; WORDS],
    sum: u64,
    folds: [u64; 2],
    /// For what stands beside the `peer_id` in the name of a WebSocket peer.
    beside: [u64; 4],
}

impl Hasher {
    /// Draws the secrets from `key`.
    #[must_use]
    pub fn new(key: HashKey) -> Self {
        let draw = |number: u64| {
            let mut sip = SipHasher13::new_with_keys(key.0, key.1);
            sip.write_u64(number);
            sip.finish() | 1
        };
        Self {
            words: [draw(0), draw(1), draw(2), draw(3), draw(4)],
            sum: draw(5),
            folds: [draw(6), draw(7)],
            beside: [draw(8), draw(9), draw(10), draw(11)],
        }
    }

    /// The hash of a swarm's name.
    #[must_use]
    #[inline]
    pub fn info_hash(&self, info_hash: &InfoHash) -> u64 {
        self.fold(self.sum_of(&info_hash.0))
    }

    /// The hash of a WebSocket peer's name.
    #[must_use]
    pub fn member(&self, swarm: u32, place: Place, peer_id: &PeerId) -> u64 {
        let Place { core, connection } = place;
        let halves = [connection >> 32, connection & u64::from(u32::MAX)];
        let beside = [u64::from(swarm), u64::from(core), halves[0], halves[1]];
        let mut sum = self.sum_of(&peer_id.0);
        for (word, key) in beside.into_iter().zip(self.beside) {
            sum = sum.wrapping_add(word.wrapping_mul(key));
        }
        self.fold(sum)
    }

    /// The hash of a source of WebSocket peers in a swarm.
    #[must_use]
    pub fn source(&self, swarm: u32, source: u64) -> u64 {
        let words = [u64::from(swarm), source >> 32, source & u64::from(u32::MAX)];
        let products = words.into_iter().zip(self.beside).map(|(word, key)| word.wrapping_mul(key));
        self.fold(products.fold(self.sum, u64::wrapping_add))
    }

    fn sum_of(&self, bytes: &[u8; 20]) -> u64 {
        self.sum_of_words(bytes.as_chunks().0)
    }

    /// The words are read in the machine's own order, which is one instruction less: hashes stay
    /// where they were made.
    #[inline(always)]
    fn sum_of_words(&self, words: &[[u8; 4]]) -> u64 {
        let mut sum = self.sum;
        for (word, key) in words.iter().zip(self.words) {
            let word: u32 = bytemuck::pod_read_unaligned(word);
            sum = sum.wrapping_add(u64::from(word).wrapping_mul(key));
        }
        sum
    }

    /// The hash of a peer's name within a swarm.
    #[must_use]
    #[inline]
    pub fn endpoint(&self, endpoint: &Endpoint) -> u64 {
        match endpoint {
            Endpoint::V4(bytes) => self.compact(bytes),
            Endpoint::V6(bytes) => self.compact(bytes),
        }
    }

    /// The hash of an endpoint in its compact form, 6 or 18 bytes.
    #[must_use]
    #[inline(always)]
    pub fn compact(&self, endpoint: &[u8]) -> u64 {
        let (words, rest) = endpoint.as_chunks::<4>();
        let mut sum = self.sum_of_words(words);
        if let Some(port) = rest.first_chunk::<2>() {
            let port = u64::from(u16::from_be_bytes(*port));
            sum = sum.wrapping_add(port.wrapping_mul(self.words[WORDS - 1]));
        }
        self.fold(sum)
    }

    fn fold(&self, sum: u64) -> u64 {
        // Once leaves arithmetic sequences of keys visibly uneven.
        self.folds.iter().fold(sum, |sum, fold| {
            let wide = u128::from(sum) * u128::from(*fold);
            let [high, low] = [wide >> 64, wide & u128::from(u64::MAX)];
            u64::try_from(high ^ low).expect("two halves of 128 bits")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    /// Chi-square of the top, middle and low bits over keys that differ in one place only.
    #[test]
    #[cfg_attr(miri, ignore = "too many steps for an interpreter")]
    fn keys_that_resemble_each_other_spread_evenly() {
        const KEYS: u64 = 1 << 14;
        let mut rng = Rng::new(1);
        for _ in 0..8 {
            let hasher = Hasher::new(HashKey(rng.next_u64(), rng.next_u64()));
            for place in 0..20 {
                for shift in [56, 40, 24, 0] {
                    let mut buckets = [0_u32; 256];
                    for n in 0..KEYS {
                        let mut hash = [0; 20];
                        let [.., high, low] = n.to_be_bytes();
                        hash[place] = low;
                        hash[(place + 7) % 20] = high;
                        let hash = hasher.info_hash(&InfoHash(hash));
                        buckets[usize::from((hash >> shift).to_be_bytes()[7])] += 1;
                    }
                    let expected = f64::from(u32::try_from(KEYS / 256).expect("64"));
                    let chi: f64 = buckets
                        .iter()
                        .map(|&count| (f64::from(count) - expected).powi(2) / expected)
                        .sum();
                    // 255 degrees of freedom; linear hashing is often more even than chance.
                    assert!(chi < 255.0 + 8.0 * (510.0_f64).sqrt(), "{place} {shift}: {chi}");
                }
            }
        }
    }

    #[test]
    fn endpoints_of_both_families_have_hashes_of_their_own() {
        let hasher = Hasher::new(HashKey(1, 2));
        let mut seen = std::collections::BTreeSet::new();
        let count = if cfg!(miri) { 30 } else { 1_000_u32 };
        for n in 0..count {
            for port in [1, 2, 65_535] {
                let v4 = Endpoint::new(std::net::Ipv4Addr::from(n).into(), port);
                let v6 = Endpoint::new(std::net::Ipv6Addr::from(u128::from(n) << 64).into(), port);
                assert!(seen.insert(hasher.endpoint(&v4)));
                assert!(n == 0 || seen.insert(hasher.endpoint(&v6)));
            }
        }
    }

    #[test]
    fn all_that_names_a_web_peer_and_its_source_is_in_the_hash() {
        let hasher = Hasher::new(HashKey(1, 2));
        let mut seen = std::collections::BTreeSet::new();
        let mut sources = seen.clone();
        let place = |core, connection| Place { core, connection };
        for n in 1..100 {
            let peer_id = PeerId([n; 20]);
            let (far, n) = (u64::from(n) << 32, u32::from(n));
            assert!(seen.insert(hasher.member(0, place(0, 0), &peer_id)));
            assert!(seen.insert(hasher.member(n, place(0, 0), &PeerId([0; 20]))));
            for connection in [far, u64::from(n)] {
                assert!(seen.insert(hasher.member(0, place(0, connection), &PeerId([0; 20]))));
                assert!(sources.insert(hasher.source(0, connection)));
            }
            let core = u16::try_from(n).expect("few");
            assert!(seen.insert(hasher.member(0, place(core, 0), &PeerId([0; 20]))));
            assert!(sources.insert(hasher.source(n, 0)));
        }
    }
}
