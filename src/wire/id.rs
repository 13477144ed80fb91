//! The fixed-size names of the protocol: `info_hash`, `peer_id`, `connection_id`, `transaction_id`.
//!
//! Opaque bytes, compared and copied, never interpreted (except that `owner` hashes an
//! [`InfoHash`]). Each is its own type, so that they cannot be mixed up.

use std::fmt;

use bytemuck::{Pod, Zeroable};

/// The 20 bytes that name a swarm: SHA-1 of the info dictionary, or a truncated SHA-256 (BEP 52).
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct InfoHash(pub [u8; 20]);

impl fmt::Debug for InfoHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The 20 bytes with which a client names itself (BEP 20). A label, never an identity.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Pod, Zeroable)]
#[repr(transparent)]
pub struct PeerId(pub [u8; 20]);

/// The 8 bytes that prove a UDP source can hear us (BEP 15). Made and checked in `tracker`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ConnectionId(pub [u8; 8]);

/// The 4 bytes by which a UDP client finds its answer; echoed unchanged (BEP 15).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TransactionId(pub [u8; 4]);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_shown_in_hexadecimal_digits() {
        let hash = InfoHash(std::array::from_fn(|i| u8::try_from(i).expect("below 20")));
        assert_eq!(format!("{hash:?}"), "000102030405060708090a0b0c0d0e0f10111213");
    }
}
