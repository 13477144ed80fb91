//! Which offer an answer is for, as 64 bits that nobody outside can compute.

use std::hash::{BuildHasherDefault, Hasher};

use siphasher::sip::SipHasher24;

use crate::wire::id::{InfoHash, PeerId};

/// The secret behind the digests of offers; the same on every core.
#[derive(Clone, Debug)]
pub struct RelayKey(SipHasher24);

impl RelayKey {
    /// A key of 128 random bits.
    #[must_use]
    pub fn new(key: [u8; 16]) -> Self {
        Self(SipHasher24::new_with_key(&key))
    }

    /// The digest of an offer: where it was made, by whom, and what it is called.
    #[must_use]
    pub fn offer(&self, info_hash: &InfoHash, offerer: &PeerId, offer_id: &str) -> u64 {
        let mut sip = self.0;
        // Two parts of fixed length and a last one: no two lists of parts are the same bytes.
        sip.write(&info_hash.0);
        sip.write(&offerer.0);
        sip.write(offer_id.as_bytes());
        sip.finish()
    }
}

/// Hashes names of connections, which are ours and not chosen by anybody.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spread(u64);

/// Makes [`Spread`]s.
pub type BuildSpread = BuildHasherDefault<Spread>;

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("names of connections are numbers");
    }

    fn write_u64(&mut self, number: u64) {
        let wide = u128::from(number ^ 0x9E37_79B9_7F4A_7C15) * 0xD6E8_FEB8_6659_FD93_u128;
        let halves = [wide >> 64, wide & u128::from(u64::MAX)];
        self.0 = u64::try_from(halves[0] ^ halves[1]).expect("two halves of 128 bits");
    }
}
