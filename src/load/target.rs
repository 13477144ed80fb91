//! Whom the load goes to: an address, and for HTTP and WebSocket the paths.
//!
//! Invariant: a [`Target`] is on the loopback interface, unless whoever runs the load has said that
//! the tracker is theirs.

use std::fmt;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};

use super::Transport;

/// A tracker, found and permitted.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Target {
    /// The transport that it is asked over.
    pub transport: Transport,
    /// Where it listens.
    pub address: SocketAddr,
    /// Host and port as they were written, for the `Host` field of HTTP.
    pub authority: String,
    /// Path of announces, or of the WebSocket.
    pub announce_path: String,
    /// Path of scrapes (BEP 48: the last `announce` becomes `scrape`).
    pub scrape_path: String,
}

/// Why there is no such target.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// It is a URL of another protocol.
    #[error("{text}: `throng load {transport}` wants HOST:PORT or {transport}://HOST:PORT")]
    Scheme {
        /// What was asked for.
        text: String,
        /// And over what.
        transport: Transport,
    },
    /// It has no address.
    #[error("{authority}: {source}")]
    Unknown {
        /// The part of the text that should have been host and port.
        authority: String,
        /// What the resolver said.
        source: std::io::Error,
    },
    /// It has no address, and nothing else is wrong.
    #[error("{0}: the name has no address")]
    NoAddress(String),
    /// A path that announces cannot have: it would change the request.
    #[error("{0}: the path may have printable ASCII only, and neither `?` nor `#`")]
    Path(String),
    /// Not on this machine, and nobody said that it is theirs.
    #[error(
        "{0} is not a loopback address, and nothing was sent there.\n\
         Load on a tracker that is not yours is an attack on it, on its network and on the people \
         who use it: it fills it with invented peers and keeps it from answering real ones.\n\
         If this tracker is yours, say so with --i-own-this-target."
    )]
    NotLoopback(SocketAddr),
}

impl Target {
    /// Reads `text`: `HOST:PORT`, or a URL of `transport` whose port is 80 unless given (not UDP).
    /// Names are looked up; their first address counts.
    ///
    /// # Errors
    /// See [`TargetError`]; any address that is not loopback, unless `owned`.
    pub fn parse(text: &str, transport: Transport, owned: bool) -> Result<Self, TargetError> {
        let rest = match text.split_once("://") {
            None => text,
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case(transport.name()) => rest,
            Some(_) => return Err(TargetError::Scheme { text: text.to_owned(), transport }),
        };
        let at = rest.find('/').unwrap_or(rest.len());
        let (authority, path) = rest.split_at(at);
        let is_plain = |c: char| matches!(c, '!'..='~') && c != '?' && c != '#';
        if !authority.chars().chain(path.chars()).all(is_plain) {
            return Err(TargetError::Path(text.to_owned()));
        }
        let mut authority = authority.to_owned();
        // A colon after the bracket of an IPv6 address, or after anything else.
        let has_port = authority.rsplit(']').next().is_some_and(|tail| tail.contains(':'));
        if !has_port && transport != Transport::Udp && text.contains("://") {
            authority.push_str(":80");
        }
        let address = match authority.to_socket_addrs() {
            Ok(mut addresses) => addresses.next(),
            Err(source) => return Err(TargetError::Unknown { authority, source }),
        };
        let address = address.ok_or_else(|| TargetError::NoAddress(authority.clone()))?;
        if !owned && !address.ip().to_canonical().is_loopback() {
            return Err(TargetError::NotLoopback(address));
        }
        let announce_path = match path {
            "" | "/" if transport == Transport::Ws => "/",
            "" | "/" => "/announce",
            path => path,
        };
        Ok(Self {
            transport,
            address,
            authority,
            announce_path: announce_path.to_owned(),
            scrape_path: scrape_path(announce_path),
        })
    }

    /// Where the socket of that number is bound, so that peers have addresses of their own.
    ///
    /// All of 127.0.0.0/8 is this machine's: sources of a loopback tracker are 127.0.1.1,
    /// 127.0.1.2 and so on, 250 in each /24. Elsewhere, and over IPv6, the kernel chooses.
    #[must_use]
    pub fn source(&self, number: u32) -> IpAddr {
        match self.address {
            SocketAddr::V4(v4) if v4.ip().is_loopback() => {
                let [.., block, host] = (number % SOURCES_MAX / SOURCES_PER_BLOCK * 256
                    + number % SOURCES_PER_BLOCK
                    + 0x0101)
                    .to_be_bytes();
                IpAddr::from([127, 0, block, host])
            }
            SocketAddr::V4(_) => IpAddr::from([0; 4]),
            SocketAddr::V6(_) => IpAddr::from([0_u16; 8]),
        }
    }

    /// How many different addresses `sources` sockets have.
    #[must_use]
    pub fn addresses(&self, sources: u32) -> u32 {
        match self.address {
            SocketAddr::V4(v4) if v4.ip().is_loopback() => sources.clamp(1, SOURCES_MAX),
            _ => 1,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.transport {
            Transport::Udp => write!(f, "udp://{}", self.authority),
            transport => write!(f, "{transport}://{}{}", self.authority, self.announce_path),
        }
    }
}

/// Hosts used of each /24.
const SOURCES_PER_BLOCK: u32 = 250;
/// Different source addresses on loopback.
pub const SOURCES_MAX: u32 = SOURCES_PER_BLOCK * 250;

/// The path with its last `announce` made `scrape`, or `/scrape`.
fn scrape_path(announce_path: &str) -> String {
    match announce_path.rsplit_once("announce") {
        Some((before, after)) => format!("{before}scrape{after}"),
        None => "/scrape".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Target, TargetError> {
        let transport = match text.split_once("://") {
            Some(("udp", _)) => Transport::Udp,
            Some(("ws", _)) => Transport::Ws,
            _ => Transport::Http,
        };
        Target::parse(text, transport, false)
    }

    #[test]
    fn addresses_and_urls_are_read() {
        let cases = [
            ("127.0.0.1:6969", "127.0.0.1:6969", "/announce", "/scrape"),
            ("[::1]:6969", "[::1]:6969", "/announce", "/scrape"),
            ("http://127.0.0.1", "127.0.0.1:80", "/announce", "/scrape"),
            ("HTTP://[::1]/", "[::1]:80", "/announce", "/scrape"),
            (
                "http://127.3.2.1:99/x/announce.php",
                "127.3.2.1:99",
                "/x/announce.php",
                "/x/scrape.php",
            ),
            ("ws://127.0.0.1", "127.0.0.1:80", "/", "/scrape"),
            ("ws://127.0.0.1:99/announce", "127.0.0.1:99", "/announce", "/scrape"),
            ("http://127.0.0.1:99/tracker", "127.0.0.1:99", "/tracker", "/scrape"),
            ("udp://127.0.0.1:6969/announce", "127.0.0.1:6969", "/announce", "/scrape"),
            ("[::ffff:127.0.0.1]:6969", "[::ffff:127.0.0.1]:6969", "/announce", "/scrape"),
        ];
        for (text, address, announce, scrape) in cases {
            let target = parse(text).expect(text);
            assert_eq!(target.address, address.parse().expect("an address"), "{text}");
            assert_eq!(target.authority, address, "{text}");
            let paths = (target.announce_path.as_str(), target.scrape_path.as_str());
            assert_eq!(paths, (announce, scrape), "{text}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in
            ["", "127.0.0.1", "udp://127.0.0.1", "http://", ":80", "http://127.0.0.1:x/announce"]
        {
            assert!(matches!(parse(text), Err(TargetError::Unknown { .. })), "{text}");
        }
        for text in ["wss://127.0.0.1:1", "https://127.0.0.1"] {
            assert!(matches!(parse(text), Err(TargetError::Scheme { .. })), "{text}");
        }
        for text in ["http://127.0.0.1/a?b", "http://127.0.0.1/a b", "http://127.0.0.1/a\r\nb"] {
            assert!(matches!(parse(text), Err(TargetError::Path(_))), "{text}");
        }
    }

    #[test]
    fn other_machines_need_an_owner() {
        for text in ["192.0.2.1:6969", "[2001:db8::1]:6969", "10.0.0.1:6969", "0.0.0.0:6969"] {
            let error = Target::parse(text, Transport::Udp, false).expect_err(text);
            assert!(error.to_string().contains("--i-own-this-target"), "{error}");
            assert!(Target::parse(text, Transport::Udp, true).is_ok(), "{text}");
        }
    }

    #[test]
    fn sources_on_loopback_differ() {
        let target = parse("127.0.0.1:6969").expect("loopback");
        let mut seen: Vec<IpAddr> = (0..SOURCES_MAX).map(|number| target.source(number)).collect();
        assert_eq!(seen[0], IpAddr::from([127, 0, 1, 1]));
        assert_eq!(seen[250], IpAddr::from([127, 0, 2, 1]));
        assert!(seen.iter().all(|ip| ip.is_loopback()));
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), SOURCES_MAX as usize);
        assert_eq!(target.addresses(8), 8);
        assert_eq!(parse("[::1]:6969").expect("loopback").addresses(8), 1);
    }
}
