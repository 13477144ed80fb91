//! Swarms by number.

use throng::rng::Rng;
use throng::wire::id::InfoHash;

/// The swarm of that number.
pub fn info_hash(number: u32) -> InfoHash {
    let mut rng = Rng::new(u64::from(number) << 32);
    let words: [[u8; 8]; 3] = std::array::from_fn(|_| rng.next_u64().to_be_bytes());
    let bytes = words.as_flattened();
    InfoHash(std::array::from_fn(|i| bytes[i]))
}
