//! Connection ids: issue and verify, without remembering anything.
//!
//! ```text
//! 0     epoch, low 8 bits       64 seconds each
//! 1..8  MAC                     SipHash-2-4 (128-bit key) over family, address and the whole epoch
//! ```
//!
//! The address is bound, the port is not: a NAT may change it between two packets. Any core
//! verifies any id, and so does any node that has the key and a clock that is right to about a
//! minute: epochs count from 1970, by a wall clock that is read once, at start, and advance
//! monotonically.

use std::hash::Hasher;
use std::net::IpAddr;

use siphasher::sip::SipHasher24;

use crate::limits::CONNECTION_EPOCH_SECONDS;
use crate::time::Seconds;
use crate::wire::id::ConnectionId;

/// The secret of all ids, and how long they last.
#[derive(Clone)]
pub struct ConnectionIds {
    key: [u8; 16],
    /// Seconds from 1970 to the start of the process's clock.
    offset: u64,
    /// Epochs after its own during which an id is still valid; at least 1, below 128.
    lifetime: u8,
}

impl ConnectionIds {
    /// `offset` is the wall clock's time at second 0 of the process's clock; ids are valid for at
    /// least `lifetime_secs` seconds less one epoch, and at most that long.
    #[must_use]
    pub fn new(key: [u8; 16], offset: u64, lifetime_secs: u32) -> Self {
        let epochs = lifetime_secs.div_ceil(CONNECTION_EPOCH_SECONDS).saturating_sub(1);
        Self { key, offset, lifetime: u8::try_from(epochs.clamp(1, 126)).expect("at most 126") }
    }

    /// The id of whoever can be reached at `ip` (canonical: IPv4-mapped addresses are folded).
    #[must_use]
    pub fn issue(&self, now: Seconds, ip: IpAddr) -> ConnectionId {
        self.make(self.epoch(now), ip)
    }

    /// Whether `id` was issued to `ip` lately.
    ///
    /// An id of the next epoch is taken too: it can only come from another node with the same key
    /// whose clock is a little ahead.
    #[must_use]
    pub fn verify(&self, now: Seconds, ip: IpAddr, id: ConnectionId) -> bool {
        let current = self.epoch(now);
        let age = low_byte(current).wrapping_sub(id.0[0]);
        let epoch = match age {
            u8::MAX => current + 1,
            age if age <= self.lifetime => current.wrapping_sub(u64::from(age)),
            _ => return false,
        };
        let expected = self.make(epoch, ip);
        // Constant time: every byte is looked at, whatever the first ones are.
        let difference = expected.0.iter().zip(id.0).fold(0, |all, (a, b)| all | (a ^ b));
        difference == 0
    }

    fn epoch(&self, now: Seconds) -> u64 {
        (self.offset + u64::from(now.0)) / u64::from(CONNECTION_EPOCH_SECONDS)
    }

    fn make(&self, epoch: u64, ip: IpAddr) -> ConnectionId {
        let mut message = [0; 25];
        message[..8].copy_from_slice(&epoch.to_be_bytes());
        match ip {
            IpAddr::V4(v4) => {
                message[8] = 4;
                message[9..13].copy_from_slice(&v4.octets());
            }
            IpAddr::V6(v6) => {
                message[8] = 6;
                message[9..].copy_from_slice(&v6.octets());
            }
        }
        let mut hasher = SipHasher24::new_with_key(&self.key);
        hasher.write(&message);
        let mut id = hasher.finish().to_be_bytes();
        id[0] = low_byte(epoch);
        ConnectionId(id)
    }
}

/// The low 8 bits of an epoch.
const fn low_byte(epoch: u64) -> u8 {
    let [.., low] = epoch.to_be_bytes();
    low
}

impl std::fmt::Debug for ConnectionIds {
    /// The key never reaches a log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConnectionIds").field("lifetime", &self.lifetime).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    const OFFSET: u64 = 64 * 1_000_000;

    fn ids() -> ConnectionIds {
        ConnectionIds::new([7; 16], OFFSET, 128)
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn the_key_is_not_shown() {
        let shown = format!("{:?}", ConnectionIds::new([251; 16], OFFSET, 128));
        assert!(shown.starts_with("ConnectionIds { lifetime: "), "{shown}");
        assert!(!shown.contains("251"), "{shown}");
    }

    #[test]
    fn an_id_lives_through_its_epoch_and_the_next() {
        let id = ids().issue(Seconds(1_000 * 64), ip("192.0.2.1"));
        for (age, valid) in [(0, true), (63, true), (64, true), (127, true), (128, false)] {
            let now = Seconds(1_000 * 64 + age);
            assert_eq!(ids().verify(now, ip("192.0.2.1"), id), valid, "at age {age}");
        }
        let late = ids().issue(Seconds(1_000 * 64 + 63), ip("192.0.2.1"));
        assert!(ids().verify(Seconds(1_000 * 64 + 127), ip("192.0.2.1"), late));
        assert!(!ids().verify(Seconds(1_000 * 64 + 128), ip("192.0.2.1"), late));
    }

    #[test]
    fn a_longer_lifetime_is_for_clients_that_reuse_ids() {
        let lenient = ConnectionIds::new([7; 16], OFFSET, 1_800);
        let id = lenient.issue(Seconds(0), ip("192.0.2.1"));
        assert!(lenient.verify(Seconds(1_791), ip("192.0.2.1"), id));
        assert!(!lenient.verify(Seconds(1_857), ip("192.0.2.1"), id));
    }

    #[test]
    fn the_same_low_byte_of_another_epoch_is_refused() {
        let id = ids().issue(Seconds(0), ip("192.0.2.1"));
        assert!(!ids().verify(Seconds(256 * 64), ip("192.0.2.1"), id));
    }

    #[test]
    fn an_id_is_bound_to_address_and_key() {
        let id = ids().issue(Seconds(0), ip("192.0.2.1"));
        assert!(!ids().verify(Seconds(0), ip("192.0.2.2"), id));
        assert!(!ids().verify(Seconds(0), ip("2001:db8::1"), id));
        assert!(!ConnectionIds::new([8; 16], OFFSET, 128).verify(Seconds(0), ip("192.0.2.1"), id));
        assert!(ids().verify(Seconds(0), ip("192.0.2.1"), id));
    }

    #[test]
    fn no_single_bit_can_be_flipped() {
        let id = ids().issue(Seconds(0), ip("192.0.2.1"));
        for bit in 0..64 {
            let mut flipped = id;
            flipped.0[bit / 8] ^= 1 << (bit % 8);
            assert!(!ids().verify(Seconds(0), ip("192.0.2.1"), flipped), "bit {bit}");
        }
    }

    #[test]
    fn random_ids_are_refused() {
        let mut rng = Rng::new(1);
        let accepted = (0..1 << 20)
            .filter(|_| {
                let id = ConnectionId(rng.next_u64().to_be_bytes());
                ids().verify(Seconds(0), ip("192.0.2.1"), id)
            })
            .count();
        assert_eq!(accepted, 0);
    }

    #[test]
    fn a_node_whose_clock_is_a_minute_ahead_is_understood() {
        let ahead = ConnectionIds::new([7; 16], OFFSET + 60, 128);
        for now in 0..200 {
            let id = ahead.issue(Seconds(now), ip("192.0.2.1"));
            assert!(ids().verify(Seconds(now), ip("192.0.2.1"), id), "second {now}");
            let id = ids().issue(Seconds(now), ip("192.0.2.1"));
            assert!(ahead.verify(Seconds(now), ip("192.0.2.1"), id), "second {now}");
        }
    }

    #[test]
    fn bits_are_unbiased_over_neighbouring_addresses() {
        let mut ones = [0_u32; 56];
        let rounds = 100_000;
        for n in 0..rounds {
            let id = ids().issue(Seconds(0), std::net::Ipv4Addr::from(n).into());
            for (bit, ones) in ones.iter_mut().enumerate() {
                *ones += u32::from(id.0[1 + bit / 8] >> (bit % 8) & 1);
            }
        }
        // Four and a half standard deviations of a fair coin.
        let bound = 4.5 * (f64::from(rounds) / 4.0).sqrt();
        for (bit, &ones) in ones.iter().enumerate() {
            let off = (f64::from(ones) - f64::from(rounds) / 2.0).abs();
            assert!(off < bound, "bit {bit}: {ones}");
        }
    }
}
