//! How much that is new one source may bring, remembered in a table of fixed size.
//!
//! A source is an IPv4 address or an IPv6 /64, which one customer has. For each source and kind of
//! thing there is a bucket of tokens, of which the table keeps one number: when it will be full
//! again. A bucket that is full need not be kept, so what the table holds is who has brought
//! something lately. Four buckets share a set, one line of cache; in a full set the one that is
//! fullest is forgotten, which hurts nobody. Who floods has emptied its own, and stays.
//!
//! Only newcomers are looked up: a peer that its swarm knows never comes here.

use std::hash::Hasher;
use std::net::IpAddr;
use std::sync::Arc;

use siphasher::sip::SipHasher13;

use super::access::networks::NetworkList;
use super::outcome::Refusal;
use crate::swarm::{HashKey, Newcomer};
use crate::time::Seconds;
use crate::wire::addr::source_key;

/// Tokens, and how fast they come back.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Rate {
    /// As many at once.
    pub burst: u32,
    /// As many per minute after that; 0: there is no limit.
    pub per_minute: u32,
}

impl Rate {
    /// No limit.
    pub const ANY: Self = Self { burst: 1, per_minute: 0 };
}

/// What one core lets a source bring.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Swarms that nobody else is in.
    pub new_swarms: Rate,
    /// Peers that their swarm does not know.
    pub new_peers: Rate,
    /// Connections, however short.
    pub connections: Rate,
    /// Its peers in one swarm; 0: any number.
    pub peers_per_swarm: u32,
    /// Who has no limits.
    pub exempt: Arc<NetworkList>,
    /// Bytes of the table; rounded down to a power of two, one set at the least.
    pub memory_bytes: usize,
}

impl Default for Limits {
    /// None at all.
    fn default() -> Self {
        Self {
            new_swarms: Rate::ANY,
            new_peers: Rate::ANY,
            connections: Rate::ANY,
            peers_per_swarm: 0,
            exempt: Arc::default(),
            memory_bytes: 0,
        }
    }
}

/// What a bucket is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
enum Kind {
    Swarms,
    Peers,
    Connections,
}

/// Buckets of a set.
const WAYS: usize = 4;
const MICROS_PER_SECOND: u64 = 1_000_000;

/// A bucket: whose it is, and when it will be full again, in microseconds of the process's clock.
#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    /// A keyed hash of what it is for, and its [`Kind`] in the last bits.
    name: u64,
    full_at: u64,
}

/// Bits of a name that are the kind.
const KIND_MASK: u64 = 3;
/// What is taken of a whole bucket, in parts of this many.
const PARTS: u64 = 1_024;

/// How fast a bucket fills, and how deep it is: microseconds.
#[derive(Clone, Copy, Debug)]
struct Pace {
    each: u64,
    depth: u64,
}

impl Pace {
    fn of(Rate { burst, per_minute }: Rate) -> Option<Self> {
        let each = (60 * MICROS_PER_SECOND).checked_div(u64::from(per_minute))?.max(1);
        // The clock has whole seconds: what may come in one of them must fit in.
        let depth = each.saturating_mul(u64::from(burst)).max(MICROS_PER_SECOND);
        Some(Self { each, depth })
    }

    /// How much of a bucket is taken; what has no limit any more is worth nothing.
    fn taken(paces: &[Option<Self>; 3], bucket: &Bucket, now: u64) -> u64 {
        let kind = usize::try_from(bucket.name & KIND_MASK).expect("two bits");
        let debt = bucket.full_at.saturating_sub(now);
        paces[kind].map_or(0, |pace| debt.saturating_mul(PARTS) / pace.depth)
    }
}

/// What the sources of one core have brought lately.
#[derive(Debug)]
pub struct Limiter {
    key: HashKey,
    exempt: Arc<NetworkList>,
    /// By [`Kind`]; `None`: there is no limit.
    paces: [Option<Pace>; 3],
    peers_per_swarm: u32,
    /// A power of two of them.
    sets: Box<[[Bucket; WAYS]]>,
}

impl Limiter {
    /// Nobody has brought anything.
    #[must_use]
    pub fn new(limits: &Limits, key: HashKey) -> Self {
        let sets = (limits.memory_bytes / size_of::<[Bucket; WAYS]>()).max(1);
        let sets = 1 << sets.ilog2();
        Self {
            key,
            exempt: limits.exempt.clone(),
            paces: [
                Pace::of(limits.new_swarms),
                Pace::of(limits.new_peers),
                Pace::of(limits.connections),
            ],
            peers_per_swarm: limits.peers_per_swarm,
            sets: vec![[Bucket::default(); WAYS]; sets].into(),
        }
    }

    /// Whether a newcomer from `ip` may come into a swarm, in which there are as many peers of the
    /// same source as `beside` says if it is asked.
    ///
    /// # Errors
    /// What it is told if it may not.
    pub fn admit(
        &mut self,
        now: Seconds,
        ip: IpAddr,
        newcomer: Newcomer,
        beside: impl FnOnce() -> u32,
    ) -> Result<(), Refusal> {
        if self.exempt.contains(ip) {
            return Ok(());
        }
        if newcomer == Newcomer::Swarm && !self.take(now, ip, Kind::Swarms) {
            return Err(Refusal::TooManyNewSwarms);
        }
        if !self.take(now, ip, Kind::Peers) {
            return Err(Refusal::TooManyNewPeers);
        }
        // Last: this looks at thousands of peers, and must not be had for nothing.
        let is_bounded = newcomer == Newcomer::Peer && self.peers_per_swarm > 0;
        if is_bounded && beside() >= self.peers_per_swarm {
            return Err(Refusal::TooManyPeersInSwarm);
        }
        Ok(())
    }

    /// Whether a connection from `ip` may stay.
    pub fn admit_connection(&mut self, now: Seconds, ip: IpAddr) -> bool {
        self.exempt.contains(ip) || self.take(now, ip, Kind::Connections)
    }

    /// Takes a token, if there is one.
    fn take(&mut self, now: Seconds, ip: IpAddr, kind: Kind) -> bool {
        let Some(Pace { each, depth }) = self.paces[kind as usize] else { return true };
        let now = u64::from(now.0) * MICROS_PER_SECOND;
        let name = self.name(ip, kind);
        let at = usize::try_from(name >> KIND_MASK.count_ones()).expect("64 bits");
        let set = &mut self.sets[at & (self.sets.len() - 1)];
        let paces = &self.paces;
        let bucket = match set.iter().position(|bucket| bucket.name == name) {
            Some(at) => &mut set[at],
            None => {
                let taken = |bucket: &&mut Bucket| Pace::taken(paces, bucket, now);
                let least = set.iter_mut().min_by_key(taken).expect("four");
                *least = Bucket { name, full_at: 0 };
                least
            }
        };
        let full_at = bucket.full_at.max(now).saturating_add(each);
        let has_token = full_at - now <= depth;
        if has_token {
            bucket.full_at = full_at;
        }
        has_token
    }

    fn name(&self, ip: IpAddr, kind: Kind) -> u64 {
        let mut sip = SipHasher13::new_with_keys(self.key.0, self.key.1);
        sip.write_u64(source_key(ip));
        sip.write_u8(kind as u8);
        sip.finish() & !KIND_MASK | kind as u64
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    const KEY: HashKey = HashKey(1, 2);

    fn source(number: u32) -> IpAddr {
        Ipv4Addr::from_bits(0xC600_0000 + number).into()
    }

    fn limits() -> Limits {
        Limits {
            new_swarms: Rate { burst: 5, per_minute: 6 },
            new_peers: Rate { burst: 20, per_minute: 60 },
            connections: Rate { burst: 3, per_minute: 30 },
            peers_per_swarm: 4,
            memory_bytes: 64 << 10,
            ..Limits::default()
        }
    }

    /// How many of `tries` are admitted.
    fn count(tries: u32, mut admit: impl FnMut() -> bool) -> u32 {
        (0..tries).map(|_| u32::from(admit())).sum()
    }

    #[test]
    fn a_source_brings_a_burst_and_then_what_its_rate_allows() {
        let mut limiter = Limiter::new(&limits(), KEY);
        let mut swarms =
            |now, ip| count(50, || limiter.admit(Seconds(now), ip, Newcomer::Swarm, || 9).is_ok());
        assert_eq!(swarms(100, source(1)), 5);
        assert_eq!(swarms(100, source(2)), 5, "each has its own");
        assert_eq!(swarms(109, source(1)), 0, "six a minute are one in ten seconds");
        assert_eq!(swarms(120, source(1)), 2);
        assert_eq!(swarms(1_000, source(1)), 5, "no more than the burst is saved");
        let mut connections = |now, ip| count(50, || limiter.admit_connection(Seconds(now), ip));
        assert_eq!([100, 101, 102].map(|now| connections(now, source(1))), [3, 0, 1]);
    }

    #[test]
    fn the_whole_table_is_used() {
        let mut limiter = Limiter::new(&limits(), KEY);
        // One and a half for each set, on average, of which it holds four.
        let sources = u32::try_from(limiter.sets.len() * 3 / 2).expect("a small table");
        let mut again = || {
            let admitted = |&number: &u32| limiter.admit_connection(Seconds(9), source(number));
            (0..sources).filter(admitted).count()
        };
        let [first, .., fourth] = [again(), again(), again(), again()];
        assert_eq!(first, sources as usize);
        assert!(fourth < first / 10, "{fourth} of {first} are forgotten");
    }

    #[test]
    fn each_limit_is_named_when_it_is_reached() {
        let mut limiter = Limiter::new(&limits(), KEY);
        let mut admit =
            |newcomer, beside| limiter.admit(Seconds(9), source(1), newcomer, || beside);
        for beside in 0..4 {
            assert_eq!(admit(Newcomer::Peer, beside), Ok(()));
        }
        assert_eq!(admit(Newcomer::Peer, 4), Err(Refusal::TooManyPeersInSwarm));
        for _ in 0..5 {
            assert_eq!(admit(Newcomer::Swarm, 0), Ok(()));
        }
        assert_eq!(admit(Newcomer::Swarm, 0), Err(Refusal::TooManyNewSwarms));
        // Four, one in vain and five were tokens of peers too.
        for number in 10..20 {
            assert_eq!(admit(Newcomer::Peer, 0), Ok(()), "{number}");
        }
        assert_eq!(admit(Newcomer::Peer, 0), Err(Refusal::TooManyNewPeers));
        let beside = || panic!("who has no token is not worth a look at the swarm");
        let refused = limiter.admit(Seconds(9), source(1), Newcomer::Peer, beside);
        assert_eq!(refused, Err(Refusal::TooManyNewPeers));
    }

    #[test]
    fn what_may_come_in_a_second_comes_in_a_second() {
        let connections = Rate { burst: 1, per_minute: 6_000 };
        let mut limiter = Limiter::new(&Limits { connections, ..limits() }, KEY);
        let open = |now, limiter: &mut Limiter| {
            count(500, || limiter.admit_connection(Seconds(now), source(1)))
        };
        assert_eq!([1, 1, 2].map(|now| open(now, &mut limiter)), [100, 0, 100]);
    }

    #[test]
    fn a_network_of_64_bits_is_one_source_and_some_have_no_limits() {
        let exempt = Arc::new(NetworkList::parse(b"192.0.2.0/24").expect("good"));
        let mut limiter = Limiter::new(&Limits { exempt, ..limits() }, KEY);
        let ip = |host: u128, net: u128| Ipv6Addr::from_bits((net << 64) + host).into();
        let mut host = 0;
        let mut from = |net| {
            count(50, || {
                host += 1;
                limiter.admit_connection(Seconds(1), ip(host, net))
            })
        };
        assert_eq!((from(0x2001 << 48), from(0x2002 << 48)), (3, 3));
        let own = "192.0.2.1".parse().expect("an address");
        assert_eq!(count(50, || limiter.admit_connection(Seconds(1), own)), 50);
        assert_eq!(count(50, || limiter.admit(Seconds(1), own, Newcomer::Peer, || 9).is_ok()), 50);
    }

    #[test]
    fn without_limits_everybody_is_admitted() {
        let mut limiter = Limiter::new(&Limits::default(), KEY);
        assert_eq!(
            count(9_999, || limiter.admit(Seconds(0), source(1), Newcomer::Swarm, || 9).is_ok()),
            9_999
        );
        assert_eq!(count(9_999, || limiter.admit_connection(Seconds(0), source(1))), 9_999);
    }

    #[test]
    #[cfg_attr(miri, ignore = "too many steps for an interpreter")]
    fn who_floods_is_remembered_while_others_come_and_go() {
        // 4,096 buckets, and 100,000 sources that bring one peer each.
        let mut limiter = Limiter::new(&limits(), KEY);
        let mut flood = 0;
        for number in 0..100_000 {
            let now = Seconds(10 + number / 10_000);
            assert_eq!(limiter.admit(now, source(number + 9), Newcomer::Peer, || 0), Ok(()));
            flood += u32::from(limiter.admit(now, source(1), Newcomer::Swarm, || 0).is_ok());
        }
        assert!(flood <= 7, "{flood} in ten seconds");
    }

    #[test]
    #[cfg_attr(miri, ignore = "too many steps for an interpreter")]
    fn who_has_used_up_little_is_forgotten_first_however_long_it_lasts() {
        // All of two seconds, or three of a thousand.
        let new_swarms = Rate { burst: 2, per_minute: 60 };
        let new_peers = Rate { burst: 1_000, per_minute: 60 };
        let mut limiter = Limiter::new(&Limits { new_swarms, new_peers, ..limits() }, KEY);
        let (now, mut flood) = (Seconds(10), 0);
        for number in 0..50_000 {
            for _ in 0..3 {
                assert_eq!(limiter.admit(now, source(number + 9), Newcomer::Peer, || 0), Ok(()));
            }
            flood += u32::from(limiter.admit(now, source(1), Newcomer::Swarm, || 0).is_ok());
        }
        assert_eq!(flood, 2);
    }
}
