//! What the operator decided about announces, in the form that the tracker uses.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;

use crate::limits::{HTTP_SCRAPE_HASHES_MAX, NUM_WANT_DEFAULT, NUM_WANT_MAX};
use crate::wire::addr::{Endpoint, Scope};
use crate::wire::error::ParseError;
use crate::wire::http::Head;
use crate::wire::id::{InfoHash, PeerId};
use crate::wire::proxy::forwarded_for;

/// The operator's choices. The same on every core.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Seconds between two announces, before jitter.
    pub interval_secs: u32,
    /// Seconds between two announces of a WebSocket peer, before jitter.
    pub web_interval_secs: u32,
    /// Jitter in per cent of the interval, to both sides.
    pub jitter_percent: u8,
    /// Peers returned when the request does not say.
    pub num_want_default: u16,
    /// Peers returned at the most.
    pub num_want_max: u16,
    /// Whether peers at unroutable addresses are for askers of the same range only.
    pub isolate_private_networks: bool,
    /// Ports that a swarm must not be aimed at: answered, not stored.
    pub deny_ports: PortSet,
    /// Sources whose `ip` parameter is believed.
    pub trust_ip_param_from: Vec<IpNet>,
    /// Proxies that are believed when they say who the client is, where they may.
    pub trusted_proxies: Vec<IpNet>,
    /// The field in which they do so.
    pub forwarded_header: String,
    /// Hashes answered in one HTTP scrape.
    pub http_scrape_hashes_max: usize,
    /// Whether WebSockets are served.
    pub web: bool,
    /// The pages whose WebSockets are served, as `Origin` names them; all, if there is none here.
    pub web_origins: Vec<String>,
    /// Whether an `info_hash` that is not allowed gets an empty success instead of a failure.
    pub polite_refusal: bool,
}

/// What an operator gets who decides nothing, but that no port is denied.
impl Default for Policy {
    fn default() -> Self {
        Self {
            interval_secs: 1_800,
            web_interval_secs: 120,
            jitter_percent: 10,
            num_want_default: NUM_WANT_DEFAULT,
            num_want_max: NUM_WANT_MAX,
            isolate_private_networks: true,
            deny_ports: PortSet::new([]),
            trust_ip_param_from: Vec::new(),
            trusted_proxies: Vec::new(),
            forwarded_header: "X-Forwarded-For".to_owned(),
            http_scrape_hashes_max: HTTP_SCRAPE_HASHES_MAX,
            web: true,
            web_origins: Vec::new(),
            polite_refusal: false,
        }
    }
}

/// The interval given with a polite refusal: a day.
pub const POLITE_INTERVAL_SECS: u32 = 86_400;
/// The interval given when the tracker is too busy for an answer.
pub const BUSY_INTERVAL_SECS: u32 = 60;

impl Policy {
    /// The interval for one peer of one swarm, within the jitter.
    ///
    /// A function of the peer and nothing else: the same peer always gets the same interval, so the
    /// herd that a restart makes spreads out, and does not gather again.
    #[must_use]
    pub fn interval_secs(&self, endpoint: &Endpoint, info_hash: &InfoHash) -> u32 {
        // The last bytes of the endpoint and the first of the hash: what differs between peers and
        // between swarms. Multiplied and folded twice, since the interval uses the top bits only.
        let (endpoint, hash) = (endpoint.as_bytes(), &info_hash.0);
        let peer = *endpoint.last_chunk::<6>().expect("6 or 18 bytes");
        let swarm = *hash.first_chunk::<8>().expect("20 bytes");
        let network = *endpoint.first_chunk::<6>().expect("6 or 18 bytes");
        let number = |[a, b, c, d, e, f]: [u8; 6]| u64::from_be_bytes([0, 0, a, b, c, d, e, f]);
        let hash = number(peer) ^ number(network).rotate_left(24) ^ u64::from_be_bytes(swarm);
        self.with_jitter(self.interval_secs, hash)
    }

    /// The interval for one WebSocket peer of one swarm, likewise.
    #[must_use]
    pub fn web_interval_secs(&self, peer_id: &PeerId, info_hash: &InfoHash) -> u32 {
        let peer = *peer_id.0.last_chunk::<8>().expect("20 bytes");
        let swarm = *info_hash.0.first_chunk::<8>().expect("20 bytes");
        let hash = u64::from_be_bytes(peer) ^ u64::from_be_bytes(swarm);
        self.with_jitter(self.web_interval_secs, hash)
    }

    /// Seconds that a WebSocket peer stays after an announce. It leaves with its connection, so
    /// this is for those that forget a torrent and say nothing.
    #[must_use]
    pub const fn web_peer_ttl_secs(&self) -> u32 {
        self.web_interval_secs.saturating_mul(3)
    }

    fn with_jitter(&self, interval_secs: u32, hash: u64) -> u32 {
        let span = interval_secs / 100 * u32::from(self.jitter_percent)
            + interval_secs % 100 * u32::from(self.jitter_percent) / 100;
        let hash = hash.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let hash = (hash ^ (hash >> 32)).wrapping_mul(0xD6E8_FEB8_6659_FD93) >> 32;
        let offset = (hash * (u64::from(span) * 2 + 1)) >> 32;
        interval_secs - span + u32::try_from(offset).expect("at most twice the jitter")
    }

    /// The address that counts for a peer: the source, unless the source may speak for others.
    #[must_use]
    pub fn peer_ip(&self, source: IpAddr, claimed: Option<IpAddr>) -> IpAddr {
        match claimed {
            Some(claimed) if self.trust_ip_param_from.iter().any(|net| net.contains(&source)) => {
                claimed.to_canonical()
            }
            _ => source,
        }
    }

    /// Whether `ip` is a proxy that is believed.
    #[must_use]
    pub fn is_trusted_proxy(&self, ip: IpAddr) -> bool {
        self.trusted_proxies.iter().any(|net| net.contains(&ip))
    }

    /// The client of a request that came from `source`, on a listener for proxies. Who is no
    /// trusted proxy speaks for itself, whatever its fields say.
    ///
    /// # Errors
    /// [`ParseError::BadForwarded`]: a trusted proxy does not say who it is.
    pub fn client(&self, source: IpAddr, head: &Head<'_>) -> Result<IpAddr, ParseError> {
        if !self.is_trusted_proxy(source) {
            return Ok(source);
        }
        let name = self.forwarded_header.as_bytes();
        forwarded_for(head.fields(), name, |ip| self.is_trusted_proxy(ip))
            .map_err(|_| ParseError::BadForwarded)
    }

    /// Whether a page of this `Origin` may open a WebSocket.
    #[must_use]
    pub fn allows_origin(&self, origin: &[u8]) -> bool {
        let is_it = |allowed: &String| allowed.as_bytes().eq_ignore_ascii_case(origin);
        self.web_origins.is_empty() || self.web_origins.iter().any(is_it)
    }

    /// The scope in which a peer at `ip` lives.
    #[must_use]
    pub fn scope(&self, ip: IpAddr) -> Scope {
        if self.isolate_private_networks { Scope::of(ip) } else { Scope::PUBLIC }
    }
}

/// A set of ports, one bit each.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PortSet(Box<[u64]>);

impl PortSet {
    /// The ports of all `ranges`.
    #[must_use]
    pub fn new(ranges: impl IntoIterator<Item = RangeInclusive<u16>>) -> Self {
        let mut bits = vec![0_u64; 1 << 10].into_boxed_slice();
        for port in ranges.into_iter().flatten() {
            bits[usize::from(port >> 6)] |= 1 << (port & 63);
        }
        Self(bits)
    }

    /// Whether `port` is in the set.
    #[must_use]
    pub fn contains(&self, port: u16) -> bool {
        self.0[usize::from(port >> 6)] >> (port & 63) & 1 == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    pub(crate) fn policy() -> Policy {
        Policy { deny_ports: PortSet::new([22..=22, 135..=139]), ..Policy::default() }
    }

    /// The most announces of one second, divided by those of all seconds: the tracker has been away
    /// for four minutes, who wanted to announce then does so in the minute after.
    fn crowding_after_a_restart(policy: &Policy) -> f64 {
        const PEERS: u32 = 1_000_000;
        const AWAY: u32 = 240;
        const MINUTE: u32 = 60;
        const END: u32 = 7_200;
        let mut rng = Rng::new(5);
        let mut announces = vec![0_u32; END as usize];
        for n in 0..PEERS {
            let endpoint = Endpoint::new(std::net::Ipv4Addr::from(n).into(), 6_881);
            let info_hash = InfoHash([rng.next_u64().to_be_bytes()[0]; 20]);
            let interval = policy.interval_secs(&endpoint, &info_hash);
            let due = rng.below(interval);
            let mut at = due.checked_sub(AWAY).unwrap_or_else(|| rng.below(MINUTE));
            while at < END {
                announces[at as usize] += 1;
                at += interval;
            }
        }
        let later = &announces[MINUTE as usize..];
        let mean = f64::from(later.iter().sum::<u32>()) / f64::from(END - MINUTE);
        f64::from(*later.iter().max().expect("hours of them")) / mean
    }

    #[test]
    fn who_comes_back_after_a_restart_does_not_gather_again() {
        let crowding = crowding_after_a_restart(&policy());
        assert!(crowding < 2.0, "{crowding}");
        let together = crowding_after_a_restart(&Policy { jitter_percent: 0, ..policy() });
        assert!(together > 3.0, "{together} without jitter");
    }

    #[test]
    fn jitter_fills_its_range_evenly_and_repeats_for_the_same_peer() {
        let policy = policy();
        let mut histogram = [0_u32; 9];
        for n in 0..36_000_u32 {
            let endpoint = Endpoint::new(std::net::Ipv4Addr::from(n).into(), 6881);
            let interval = policy.interval_secs(&endpoint, &InfoHash([1; 20]));
            assert!((1_620..=1_980).contains(&interval), "{interval}");
            assert_eq!(interval, policy.interval_secs(&endpoint, &InfoHash([1; 20])));
            histogram[(interval - 1_620) as usize * 9 / 361] += 1;
        }
        assert!(histogram.iter().all(|&n| (3_700..4_300).contains(&n)), "{histogram:?}");
        // Each swarm of a peer has its own, though hardly a bit is set in what it is told apart by.
        let endpoint = Endpoint::new(std::net::Ipv4Addr::UNSPECIFIED.into(), 1);
        let swarm = |n: u32| {
            let mut info_hash = InfoHash([0; 20]);
            info_hash.0[..4].copy_from_slice(&n.to_be_bytes());
            info_hash
        };
        let intervals = (0..1_000).map(|n| policy.interval_secs(&endpoint, &swarm(n)));
        assert!(intervals.collect::<std::collections::BTreeSet<_>>().len() > 200);
        let peer_id = PeerId([0; 20]);
        let intervals = (0..1_000).map(|n| policy.web_interval_secs(&peer_id, &swarm(n)));
        assert_eq!(intervals.collect::<std::collections::BTreeSet<_>>().len(), 25);
        let mut histogram = [0_u32; 9];
        for n in 0..36_000_u32 {
            let mut peer_id = PeerId(*b"-XX0001-abcdefghijkl");
            peer_id.0[16..].copy_from_slice(&n.to_be_bytes());
            let interval = policy.web_interval_secs(&peer_id, &InfoHash([0xFF; 20]));
            assert!((108..=132).contains(&interval), "{interval}");
            histogram[(interval - 108) as usize * 9 / 25] += 1;
        }
        let thirds = histogram.as_chunks::<3>().0.iter().map(|third| third.iter().sum::<u32>());
        assert!(
            thirds.clone().all(|n| (11_000..13_500).contains(&n)),
            "{:?}",
            thirds.collect::<Vec<_>>()
        );
        // A hundredth of it is not whole.
        let odd = Policy { interval_secs: 199, jitter_percent: 50, ..policy.clone() };
        let intervals = (0..36_000_u32).map(|n| {
            let endpoint = Endpoint::new(std::net::Ipv4Addr::from(n).into(), 6881);
            odd.interval_secs(&endpoint, &InfoHash([1; 20]))
        });
        let (least, most) = (intervals.clone().min(), intervals.max());
        assert_eq!((least, most), (Some(199 - 99), Some(199 + 99)));
        let exact = Policy { jitter_percent: 0, ..policy };
        let endpoint = Endpoint::new(std::net::Ipv4Addr::LOCALHOST.into(), 1);
        assert_eq!(exact.interval_secs(&endpoint, &InfoHash([1; 20])), 1_800);
    }

    #[test]
    fn port_ranges_hold_both_ends() {
        let set = PortSet::new([0..=0, 63..=65, 65_535..=65_535]);
        for port in [0, 63, 64, 65, 65_535] {
            assert!(set.contains(port));
        }
        for port in [1, 62, 66, 65_534] {
            assert!(!set.contains(port));
        }
    }

    #[test]
    fn nobody_may_speak_for_others_unless_listed() {
        let source: IpAddr = "198.51.100.7".parse().expect("v4");
        let victim: IpAddr = "203.0.113.9".parse().expect("v4");
        assert_eq!(policy().peer_ip(source, Some(victim)), source);
        let trusting = Policy {
            trust_ip_param_from: vec!["198.51.100.0/24".parse().expect("a block")],
            ..policy()
        };
        assert_eq!(trusting.peer_ip(source, Some(victim)), victim);
        assert_eq!(trusting.peer_ip(source, None), source);
        let mapped = "::ffff:203.0.113.9".parse().expect("v6");
        assert_eq!(trusting.peer_ip(source, Some(mapped)), victim);
        assert_eq!(trusting.peer_ip(victim, Some(source)), victim);
    }

    #[test]
    fn trusted_proxies_alone_say_who_the_client_is() {
        let head = |field: &str| format!("GET /announce HTTP/1.1\r\n{field}\r\n");
        let said = head("x-forwarded-for: 192.0.2.1, 203.0.113.9, 10.0.0.2\r\n");
        let silent = head("");
        let said = Head::parse(said.as_bytes()).expect("a head");
        let silent = Head::parse(silent.as_bytes()).expect("a head");
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        let (proxy, stranger, client) = (ip("10.0.0.1"), ip("198.51.100.7"), ip("203.0.113.9"));
        let trusted_proxies = vec!["10.0.0.0/8".parse().expect("a block")];
        let proxied = Policy { trusted_proxies, ..policy() };
        // Behind the last hop that nobody trusts the client may have written what it likes.
        assert_eq!(proxied.client(proxy, &said), Ok(client));
        assert_eq!(proxied.client(proxy, &silent), Err(ParseError::BadForwarded));
        for head in [&said, &silent] {
            assert_eq!(proxied.client(stranger, head), Ok(stranger));
            assert_eq!(policy().client(proxy, head), Ok(proxy));
        }
    }
}
