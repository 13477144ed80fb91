//! Where a peer can be reached, in memory and on the wire.
//!
//! An [`Endpoint`] is always canonical: an IPv4-mapped IPv6 address has been folded to IPv4, so one
//! peer has one form. [`Scope`] sorts addresses by who can reach them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::limits::{ENDPOINT_V4_BYTES, ENDPOINT_V6_BYTES};

/// Address family of an endpoint, after folding.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(u8)]
pub enum Family {
    /// IPv4.
    V4 = 0,
    /// IPv6.
    V6 = 1,
}

impl Family {
    /// Both, in the order of their numbers.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// Bytes of a compact endpoint of this family.
    #[must_use]
    pub const fn endpoint_bytes(self) -> usize {
        match self {
            Self::V4 => ENDPOINT_V4_BYTES,
            Self::V6 => ENDPOINT_V6_BYTES,
        }
    }

    /// The family of a canonical address.
    #[must_use]
    pub const fn of(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

/// Who is behind an address, as far as limits go: an IPv4 address is itself, an IPv6 address its
/// /64, which one customer has. An IPv4 address is a number that no /64 of anybody's is.
#[must_use]
pub fn source_key(ip: IpAddr) -> u64 {
    match ip.to_canonical() {
        IpAddr::V4(v4) => u64::from(v4.to_bits()),
        IpAddr::V6(v6) => u64::try_from(v6.to_bits() >> 64).expect("the upper half"),
    }
}

/// A peer's address and port in the compact form of the wire (BEP 23, BEP 7).
///
/// ```text
/// v4   0..4   address      v6   0..16  address
///      4..6   port              16..18 port          big-endian
/// ```
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Endpoint {
    /// An IPv4 peer.
    V4([u8; ENDPOINT_V4_BYTES]),
    /// An IPv6 peer; never an IPv4-mapped one.
    V6([u8; ENDPOINT_V6_BYTES]),
}

impl Endpoint {
    /// The endpoint of a peer at `ip`, folded if it is IPv4-mapped.
    #[must_use]
    pub fn new(ip: IpAddr, port: u16) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(v4) => {
                let mut bytes = [0; ENDPOINT_V4_BYTES];
                bytes[..4].copy_from_slice(&v4.octets());
                bytes[4..].copy_from_slice(&port.to_be_bytes());
                Self::V4(bytes)
            }
            IpAddr::V6(v6) => {
                let mut bytes = [0; ENDPOINT_V6_BYTES];
                bytes[..16].copy_from_slice(&v6.octets());
                bytes[16..].copy_from_slice(&port.to_be_bytes());
                Self::V6(bytes)
            }
        }
    }

    /// Reads a compact endpoint; `None` unless `bytes` is 6 or 18 long.
    #[must_use]
    pub fn from_compact(bytes: &[u8]) -> Option<Self> {
        if let Ok(v4) = <[u8; ENDPOINT_V4_BYTES]>::try_from(bytes) {
            return Some(Self::V4(v4));
        }
        <[u8; ENDPOINT_V6_BYTES]>::try_from(bytes).ok().map(Self::V6)
    }

    /// The bytes that go on the wire.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8] {
        match self {
            Self::V4(bytes) => bytes,
            Self::V6(bytes) => bytes,
        }
    }

    /// The address family.
    #[must_use]
    pub const fn family(&self) -> Family {
        match self {
            Self::V4(_) => Family::V4,
            Self::V6(_) => Family::V6,
        }
    }

    /// The address.
    #[must_use]
    pub fn ip(&self) -> IpAddr {
        match self {
            Self::V4([a, b, c, d, _, _]) => Ipv4Addr::new(*a, *b, *c, *d).into(),
            Self::V6(bytes) => {
                let octets: [u8; 16] = std::array::from_fn(|i| bytes[i]);
                Ipv6Addr::from(octets).into()
            }
        }
    }

    /// The port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        match self {
            Self::V4([.., high, low]) | Self::V6([.., high, low]) => {
                u16::from_be_bytes([*high, *low])
            }
        }
    }
}

/// Who can reach an address: everybody, or only hosts inside the same range.
///
/// A peer outside [`Scope::PUBLIC`] is returned only to askers of the very same scope. The number
/// is opaque: equal numbers mean the same range of the tables below.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Scope(u8);

/// (network, prefix length): IPv4 ranges that the internet does not route (RFC 6890).
const SCOPED_V4: [(Ipv4Addr, u32); 14] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8),
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 0, 0, 0), 24),
    (Ipv4Addr::new(192, 0, 2, 0), 24),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(198, 18, 0, 0), 15),
    (Ipv4Addr::new(198, 51, 100, 0), 24),
    (Ipv4Addr::new(203, 0, 113, 0), 24),
    (Ipv4Addr::new(224, 0, 0, 0), 4),
    (Ipv4Addr::new(240, 0, 0, 0), 4),
];

/// (network, prefix length): IPv6 ranges that the internet does not route: those of RFC 6890 and
/// the registry that it began, and two that were given up, for IPv4 (RFC 4291 section 2.5.5.1) and
/// for sites (RFC 3879). No host has an address of 64:ff9b::/96 itself: they stand for IPv4 ones.
const SCOPED_V6: [(Ipv6Addr, u32); 12] = [
    (Ipv6Addr::UNSPECIFIED, 96),
    (Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 96),
    (Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, 0, 0), 48),
    (Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 0), 64),
    (Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0, 0), 48),
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32),
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20),
    (Ipv6Addr::new(0x5f00, 0, 0, 0, 0, 0, 0, 0), 16),
    (Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7),
    (Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10),
    (Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 0), 10),
    (Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8),
];

/// Loopback of both families is one scope: a host is one host.
const LOOPBACK: Scope = Scope(255);

impl Scope {
    /// Reachable from everywhere.
    pub const PUBLIC: Self = Self(0);

    /// As a number, for those who keep many.
    #[must_use]
    pub const fn number(self) -> u8 {
        self.0
    }

    /// The scope of a number that [`Scope::number`] made.
    #[must_use]
    pub const fn from_number(number: u8) -> Self {
        Self(number)
    }

    /// The scope of a canonical address.
    #[must_use]
    pub fn of(ip: IpAddr) -> Self {
        if ip.is_loopback() {
            return LOOPBACK;
        }
        let found = match ip {
            IpAddr::V4(v4) => SCOPED_V4.iter().position(|&(network, length)| {
                (u32::from(v4) ^ u32::from(network)) >> (32 - length) == 0
            }),
            IpAddr::V6(v6) => SCOPED_V6
                .iter()
                .position(|&(network, length)| {
                    (u128::from(v6) ^ u128::from(network)) >> (128 - length) == 0
                })
                .map(|index| index + SCOPED_V4.len()),
        };
        found.map_or(Self::PUBLIC, |index| Self(u8::try_from(index + 1).expect("ranges are few")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(text: &str) -> Scope {
        Scope::of(text.parse().expect("an address"))
    }

    #[test]
    fn compact_forms_round_trip_and_fold_mapped_addresses() {
        let v4 = Endpoint::new("192.0.2.1".parse().expect("v4"), 0x1AE1);
        assert_eq!(v4.as_bytes(), [192, 0, 2, 1, 0x1A, 0xE1]);
        assert_eq!(Endpoint::new("::ffff:192.0.2.1".parse().expect("v6"), 0x1AE1), v4);
        assert_eq!((v4.ip(), v4.port()), ("192.0.2.1".parse().expect("v4"), 0x1AE1));
        let v6 = Endpoint::new("2001:db8::7".parse().expect("v6"), 6881);
        assert_eq!(v6.as_bytes().len(), ENDPOINT_V6_BYTES);
        assert_eq!((v6.ip(), v6.port()), ("2001:db8::7".parse().expect("v6"), 6881));
        for endpoint in [v4, v6] {
            assert_eq!(Endpoint::from_compact(endpoint.as_bytes()), Some(endpoint));
            assert_eq!(endpoint.as_bytes().len(), endpoint.family().endpoint_bytes());
        }
        for bad in [0, 5, 7, 17, 19] {
            assert_eq!(Endpoint::from_compact(&vec![0; bad]), None);
        }
    }

    #[test]
    fn scopes_follow_the_ranges_to_their_edges() {
        for public in [
            "1.1.1.1",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "172.15.0.1",
            "172.32.0.0",
            "192.167.255.255",
            "192.169.0.0",
            "223.255.255.255",
            "2606:4700::1111",
            "fbff::1",
            "2001:db7::1",
            "2001::1",
            "2002:102:304::1",
        ] {
            assert_eq!(scope(public), Scope::PUBLIC, "{public}");
        }
        for scoped in [
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.0",
            "127.0.0.1",
            "169.254.1.1",
            "172.31.255.255",
            "192.0.2.9",
            "192.168.1.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fc00::1",
            "fdff::1",
            "fe80::1",
            "febf::1",
            "fec0::1",
            "::192.0.2.1",
            "ff02::1",
            "2001:db8::1",
        ] {
            assert_ne!(scope(scoped), Scope::PUBLIC, "{scoped}");
        }
        assert_eq!(scope("10.1.2.3"), scope("10.200.0.1"));
        assert_eq!(scope("127.0.0.1"), scope("::1"));
        assert_ne!(scope("10.1.2.3"), scope("192.168.0.1"));
    }

    #[test]
    fn ranges_are_as_wide_as_they_say() {
        let v4 = |bits: u32| Scope::of(Ipv4Addr::from(bits).into());
        for (network, length) in SCOPED_V4 {
            let first = u32::from(network);
            let (last, inside) = (first + (u32::MAX >> length), v4(first));
            assert_ne!(inside, Scope::PUBLIC, "{network}");
            assert_eq!(v4(last), inside, "{network}");
            assert_ne!(v4(first.wrapping_sub(1)), inside, "{network}");
            assert_ne!(v4(last.wrapping_add(1)), inside, "{network}");
        }
        let v6 = |bits: u128| Scope::of(Ipv6Addr::from(bits).into());
        for (network, length) in SCOPED_V6 {
            let first = u128::from(network);
            let (last, inside) = (first + (u128::MAX >> length), v6(first));
            assert_ne!(inside, Scope::PUBLIC, "{network}");
            assert_eq!(v6(last), inside, "{network}");
            assert_ne!(v6(first.wrapping_sub(1)), inside, "{network}");
            assert_ne!(v6(last.wrapping_add(1)), inside, "{network}");
        }
    }

    #[test]
    fn every_range_has_a_scope_of_its_own_and_loopback_is_one() {
        let v4 = SCOPED_V4.map(|(network, _)| Scope::of(network.into()));
        let v6 = SCOPED_V6.map(|(network, _)| Scope::of(network.into()));
        let mut numbers: Vec<u8> = [&v4[..], &v6].concat().into_iter().map(Scope::number).collect();
        assert!(numbers.iter().all(|&number| Scope::from_number(number).number() == number));
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), SCOPED_V4.len() + SCOPED_V6.len());
    }

    #[test]
    fn a_source_is_an_ipv4_address_or_an_ipv6_network_of_one_customer() {
        let key = |ip: &str| source_key(ip.parse().expect("an address"));
        assert_eq!(key("192.0.2.1"), 0xC000_0201);
        assert_eq!(key("::ffff:192.0.2.1"), key("192.0.2.1"));
        assert_eq!(key("2001:db8:1:2:3:4:5:6"), 0x2001_0DB8_0001_0002);
        assert_eq!(key("2001:db8:1:2::"), key("2001:db8:1:2:ffff::1"));
    }
}
