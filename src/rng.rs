//! Chance as a value: a small seeded generator, handed in wherever a random choice is made.
//!
//! Not for secrets (keys come from the operating system, in the shell). The same seed gives the
//! same choices for ever, so a failing test is a seed.

/// `SplitMix64` (Steele, Lea, Flood 2014): one addition and two multiplications a draw, and any
/// seed is a good seed.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// A generator that repeats exactly for the same `seed`.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// The next 32 random bits.
    pub fn next_u32(&mut self) -> u32 {
        u32::try_from(self.next_u64() >> 32).expect("the upper half")
    }

    /// Twice the next 32 random bits, for the price of once.
    pub fn two(&mut self) -> [u32; 2] {
        let bits = self.next_u64();
        [bits >> 32, bits & u64::from(u32::MAX)]
            .map(|half| u32::try_from(half).expect("half of 64 bits"))
    }

    /// A number in `0..bound`, or 0 when `bound` is 0.
    ///
    /// Multiply and shift: the bias is below `bound` / 2^32, which no peer could ever observe.
    pub fn below(&mut self, bound: u32) -> u32 {
        let wide = u64::from(self.next_u32()) * u64::from(bound);
        u32::try_from(wide >> 32).expect("a product of two 32-bit numbers, shifted by 32")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn below_stays_below_and_reaches_every_value() {
        let mut rng = Rng::new(1);
        let mut seen = [0_u32; 7];
        for _ in 0..7_000 {
            seen[rng.below(7) as usize] += 1;
        }
        assert!(seen.iter().all(|&count| (800..1_200).contains(&count)), "{seen:?}");
        assert_eq!(rng.below(0), 0);
    }
}
