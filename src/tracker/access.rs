//! Which swarms this tracker serves, and whom.
//!
//! Lists are shared by all cores and never changed: a new one replaces an old one whole.

pub mod hashes;
pub mod networks;

use std::net::IpAddr;
use std::sync::Arc;

use self::hashes::HashList;
use self::networks::NetworkList;
use crate::wire::id::InfoHash;

/// The lists in force; without any, everything is served to everybody.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// If there is one, no other swarms are served.
    pub allow: Option<Arc<HashList>>,
    /// These swarms are not served, whatever the other list says.
    pub deny: Option<Arc<HashList>>,
    /// Who is there is not listened to.
    pub ban: Option<Arc<NetworkList>>,
}

impl Access {
    /// Whether `info_hash` is served.
    #[must_use]
    pub fn allows(&self, info_hash: &InfoHash) -> bool {
        self.allow.as_ref().is_none_or(|list| list.contains(info_hash))
            && !self.deny.as_ref().is_some_and(|list| list.contains(info_hash))
    }

    /// Whether `ip` (canonical: IPv4-mapped addresses are folded) is not listened to.
    #[must_use]
    pub fn bans(&self, ip: IpAddr) -> bool {
        self.ban.as_ref().is_some_and(|list| list.contains(ip))
    }
}

/// A line of a list that is not what the list is of.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("line {line}: {expected}")]
pub struct BadLine {
    /// Counted from 1.
    pub line: usize,
    /// What it should be, in words.
    pub expected: &'static str,
}

/// The lines of a list that say something, each with its number: empty lines, text behind `#` or
/// `;`, a byte order mark and CRLF line ends are tolerated.
pub fn lines(text: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let text = text.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(text);
    let lines = text.split(|&byte| byte == b'\n').enumerate();
    lines.map(|(index, line)| (index + 1, content(line))).filter(|(_, line)| !line.is_empty())
}

/// What a line says.
#[must_use]
pub fn content(line: &[u8]) -> &[u8] {
    let end = line.iter().position(|byte| matches!(byte, b'#' | b';')).unwrap_or(line.len());
    line[..end].trim_ascii()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_denied_is_not_served_whatever_is_allowed() {
        let hashes = |bytes: &[u8]| {
            Some(Arc::new(HashList::new(bytes.iter().map(|&byte| InfoHash([byte; 20])).collect())))
        };
        let all = |access: &Access| [1, 2, 3].map(|byte| access.allows(&InfoHash([byte; 20])));
        assert_eq!(all(&Access::default()), [true; 3]);
        let allow = Access { allow: hashes(&[1, 2]), ..Access::default() };
        assert_eq!(all(&allow), [true, true, false]);
        let deny = Access { deny: hashes(&[2]), ..Access::default() };
        assert_eq!(all(&deny), [true, false, true]);
        let both = Access { deny: hashes(&[2]), ..allow };
        assert_eq!(all(&both), [true, false, false]);
        let none = Access { allow: hashes(&[]), ..Access::default() };
        assert_eq!(all(&none), [false; 3]);
    }

    #[test]
    fn only_banned_networks_are_not_listened_to() {
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        let list = NetworkList::parse(b"192.0.2.0/24\n2001:db8::/32").expect("a good list");
        let access = Access { ban: Some(Arc::new(list)), ..Access::default() };
        assert!(access.bans(ip("192.0.2.7")) && access.bans(ip("2001:db8:1::1")));
        assert!(!access.bans(ip("192.0.3.7")) && !access.bans(ip("2001:db9::")));
        assert!(!Access::default().bans(ip("192.0.2.7")));
    }
}
