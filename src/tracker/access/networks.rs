//! Lists of networks: sorted ranges of addresses, searched by halves.
//!
//! Networks that overlap or touch become one range, so a million lines of single addresses cost 8
//! or 32 bytes each at the most.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{BadLine, lines};

/// What a line of a list must be.
const EXPECTED: &str = "a network is an address, or one with a length as in 192.0.2.0/24";

/// Some networks.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct NetworkList {
    /// First and last address of each range, sorted and apart.
    v4: Box<[(u32, u32)]>,
    v6: Box<[(u128, u128)]>,
    /// Networks that it was made of.
    len: usize,
}

impl NetworkList {
    /// Of these, in any order.
    #[must_use]
    pub fn new(networks: &[IpNet]) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for network in networks {
            match network {
                IpNet::V4(net) => v4.push((net.network().to_bits(), net.broadcast().to_bits())),
                IpNet::V6(net) => v6.push((net.network().to_bits(), net.broadcast().to_bits())),
            }
        }
        let v4 = joined(v4, |last| last.checked_add(1));
        let v6 = joined(v6, |last| last.checked_add(1));
        Self { v4, v6, len: networks.len() }
    }

    /// Reads a list: an address or a network a line, with what [`lines`] tolerates.
    ///
    /// # Errors
    /// [`BadLine`] for the first line that is anything else.
    pub fn parse(text: &[u8]) -> Result<Self, BadLine> {
        let mut networks = Vec::new();
        for (line, network) in lines(text) {
            networks.push(parse_network(network).ok_or_else(|| Self::bad_line(line))?);
        }
        Ok(Self::new(&networks))
    }

    /// What is wrong with a line that is no network.
    #[must_use]
    pub const fn bad_line(line: usize) -> BadLine {
        BadLine { line, expected: EXPECTED }
    }

    /// Whether all of `network` is in them.
    #[must_use]
    pub fn covers(&self, network: &IpNet) -> bool {
        match network {
            IpNet::V4(net) => covers(&self.v4, net.network().to_bits(), net.broadcast().to_bits()),
            IpNet::V6(net) => covers(&self.v6, net.network().to_bits(), net.broadcast().to_bits()),
        }
    }

    /// Whether `ip` (canonical: IPv4-mapped addresses are folded) is in one of them.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        match ip {
            IpAddr::V4(ip) => covers(&self.v4, ip.to_bits(), ip.to_bits()),
            IpAddr::V6(ip) => covers(&self.v6, ip.to_bits(), ip.to_bits()),
        }
    }

    /// How many it was made of.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of memory.
    #[must_use]
    pub fn bytes(&self) -> usize {
        size_of_val(&*self.v4) + size_of_val(&*self.v6)
    }
}

/// Reads an address, or a network as in 192.0.2.0/24; `None` if it is anything else.
///
/// An IPv4-mapped address is what it stands for, since that is what its packets are taken for.
#[must_use]
pub fn parse_network(text: &[u8]) -> Option<IpNet> {
    let text = std::str::from_utf8(text).ok()?;
    let network =
        text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)).ok()?;
    let network = match network.addr().to_canonical() {
        IpAddr::V4(ip) if network.prefix_len() >= 96 && network.addr().is_ipv6() => {
            IpNet::new(ip.into(), network.prefix_len() - 96).ok()?
        }
        _ => network,
    };
    // Bits behind the length say nothing.
    Some(network.trunc())
}

/// Sorted, and those together that overlap or touch.
fn joined<A: Copy + Ord>(mut ranges: Vec<(A, A)>, next: impl Fn(A) -> Option<A>) -> Box<[(A, A)]> {
    ranges.sort_unstable();
    ranges.dedup_by(|(first, last), (_, end)| {
        // Nothing comes behind the last address of all.
        let touches = next(*end).is_none_or(|next| *first <= next);
        if touches {
            *end = (*end).max(*last);
        }
        touches
    });
    ranges.into()
}

fn covers<A: Copy + Ord>(ranges: &[(A, A)], first: A, last: A) -> bool {
    let at = ranges.partition_point(|(begin, _)| *begin <= first);
    at.checked_sub(1).is_some_and(|at| last <= ranges[at].1)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lists_tolerate_what_people_write() {
        let text =
            b"\xEF\xBB\xBF# those\r\n192.0.2.0/24 # all\r\n\r\n  198.51.100.7\n2001:db8::/32\n";
        let list = NetworkList::parse(text).expect("a good list");
        assert_eq!((list.len(), list.is_empty()), (3, false));
        assert!(NetworkList::default().is_empty());
        let is_in = |text: &str| list.contains(text.parse().expect("an address"));
        for text in ["192.0.2.0", "192.0.2.255", "198.51.100.7", "2001:db8:ffff::1"] {
            assert!(is_in(text), "{text}");
        }
        for text in ["192.0.1.255", "192.0.3.0", "198.51.100.8", "2001:db9::", "::"] {
            assert!(!is_in(text), "{text}");
        }
    }

    #[test]
    fn a_network_is_covered_if_all_of_it_is() {
        // Halves that meet are one.
        let list =
            NetworkList::parse(b"192.0.2.0/25\n192.0.2.128/25\n2001:db8::/32").expect("good");
        for (network, covered) in [
            ("192.0.2.0/24", true),
            ("192.0.2.64/26", true),
            ("192.0.2.7/32", true),
            ("192.0.2.0/23", false),
            ("192.0.3.0/24", false),
            ("2001:db8:7::/48", true),
            ("2001:db8::/31", false),
        ] {
            assert_eq!(list.covers(&network.parse().expect("a network")), covered, "{network}");
        }
    }

    #[test]
    fn a_mapped_network_is_one_of_ipv4() {
        let list = NetworkList::parse(b"::ffff:192.0.2.0/120\n::ffff:198.51.100.1").expect("good");
        for text in ["192.0.2.9", "198.51.100.1"] {
            assert!(list.contains(text.parse().expect("an address")), "{text}");
        }
        assert!(!list.contains(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 2))));
    }

    #[test]
    fn the_first_bad_line_is_named() {
        for bad in
            ["192.0.2.0/33", "192.0.2", "2001:db8::/129", "example.org", "1.2.3.4/", "\u{E9}"]
        {
            let text = format!("192.0.2.1\n{bad}\n{bad}");
            let error = NetworkList::parse(text.as_bytes()).expect_err(bad);
            assert_eq!(error.line, 2, "{bad}");
        }
    }

    #[test]
    fn mapped_networks_are_what_they_stand_for_if_they_are_of_ipv4_alone() {
        let parse = |text: &str| parse_network(text.as_bytes()).map(|network| network.to_string());
        assert_eq!(parse("::ffff:192.0.2.1").as_deref(), Some("192.0.2.1/32"));
        assert_eq!(parse("::ffff:192.0.2.1/120").as_deref(), Some("192.0.2.0/24"));
        assert_eq!(parse("::ffff:192.0.2.1/96").as_deref(), Some("0.0.0.0/0"));
        assert_eq!(parse("::ffff:192.0.2.1/90").as_deref(), Some("::ffc0:0:0/90"));
    }

    #[test]
    fn everything_can_be_banned() {
        let list = NetworkList::parse(b"0.0.0.0/0\n::/0\n255.255.255.255\nffff::").expect("good");
        for ip in [Ipv4Addr::BROADCAST, Ipv4Addr::UNSPECIFIED] {
            assert!(list.contains(ip.into()));
        }
        assert!(list.contains(Ipv6Addr::UNSPECIFIED.into()));
        assert_eq!(list.bytes(), 8 + 32);
    }

    proptest! {
        #[test]
        fn whether_an_address_is_in_one_of_them_is_what_the_library_says(
            networks in vec((0_u32..64, 24_u8..=32), 0..12),
            others in vec((0_u32..64, 120_u8..=128), 0..12),
        ) {
            let v4 = |low: u32| IpAddr::V4(Ipv4Addr::from_bits(0xC000_0200 + low * 3));
            let v6 = |low: u32| IpAddr::V6(Ipv6Addr::from_bits(u128::from(low) * 3));
            let networks = networks.into_iter().map(|(low, len)| IpNet::new(v4(low), len));
            let others = others.into_iter().map(|(low, len)| IpNet::new(v6(low), len));
            let networks: Vec<IpNet> =
                networks.chain(others).collect::<Result<_, _>>().expect("lengths that fit");
            let list = NetworkList::new(&networks);
            for low in 0..64 {
                for ip in [v4(low), v6(low)] {
                    let expected = networks.iter().any(|network| network.contains(&ip));
                    prop_assert_eq!(list.contains(ip), expected, "{}", ip);
                }
            }
        }
    }
}
