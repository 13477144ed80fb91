//! How many connections each address has.
//!
//! An IPv4 address counts for itself, an IPv6 address with its /64, which one customer has. Looked
//! at when a connection comes and when it goes, so a table of the standard library will do; its
//! hash is keyed, since addresses are chosen.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::wire::addr::source_key;

/// Connections by address.
#[derive(Debug, Default)]
pub struct Crowd {
    counts: HashMap<u64, u32>,
    /// 0: any number.
    max: u32,
}

impl Crowd {
    /// Nobody yet; `max` connections of an address, or any number if it is 0.
    pub fn new(max: u32) -> Self {
        Self { counts: HashMap::new(), max }
    }

    /// Counts a connection. False, and not counted, if its address has as many as it may.
    pub fn enter(&mut self, ip: IpAddr) -> bool {
        if self.max == 0 {
            return true;
        }
        let count = self.counts.entry(source_key(ip)).or_default();
        let has_room = *count < self.max;
        *count += u32::from(has_room);
        has_room
    }

    /// A connection that was counted is gone.
    pub fn leave(&mut self, ip: IpAddr) {
        if let Some(count) = self.counts.get_mut(&source_key(ip)) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&source_key(ip));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_or_a_network_of_64_bits_has_so_many_and_no_more() {
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        let mut crowd = Crowd::new(2);
        for [one, other, mapped] in [
            ["192.0.2.1", "192.0.2.2", "::ffff:192.0.2.1"],
            ["2001:db8:1:2::1", "2001:db8:1:3::1", "2001:db8:1:2:ffff::9"],
        ] {
            assert!(crowd.enter(ip(one)));
            assert!(crowd.enter(ip(mapped)));
            assert!(!crowd.enter(ip(one)));
            assert!(crowd.enter(ip(other)));
            crowd.leave(ip(mapped));
            assert!(crowd.enter(ip(one)));
            assert!(!crowd.enter(ip(mapped)));
            [one, one, other].into_iter().for_each(|text| crowd.leave(ip(text)));
        }
        assert!(crowd.counts.is_empty());
        let mut any = Crowd::new(0);
        assert!((0..100).all(|_| any.enter(ip("192.0.2.1"))));
        assert!(any.counts.is_empty());
    }
}
