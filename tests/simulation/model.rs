//! The slow and obvious tracker: maps, and everything at once.
//!
//! It is told what reaches the owner of a swarm, when it reaches it, and says what the answer must
//! be. It knows the rules as an operator is told them, and shares no code with what it judges.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use throng::rng::Rng;
use throng::time::Seconds;
use throng::wire::addr::{Endpoint, Family};
use throng::wire::announce::{Announce, Event, Left, NumWant};
use throng::wire::id::{InfoHash, PeerId};

use super::support::naive::{Member, Swarm};
use super::support::{Web, hash};

/// How a model is wrong on purpose: each must be noticed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Wrong {
    No,
    /// Peers stay a second longer.
    Expiry,
    /// A peer that stops stays.
    Stop,
    /// An asker is given itself.
    Asker,
    /// A download counts each time.
    Completed,
    /// Seeders are given seeders.
    Seeders,
    /// What a connection's end means is forgotten.
    Close,
}

/// What the answer to an announce must be.
#[derive(Clone, Debug)]
pub enum Verdict {
    Refused(&'static str),
    Polite,
    Served {
        counts: [u32; 4],
        /// Who may be given.
        eligible: BTreeSet<Endpoint>,
        /// How many of them at the most.
        want: usize,
    },
}

/// A WebSocket peer.
pub type WebPeer = (Web, PeerId);

/// What the answer to a WebSocket announce must be.
#[derive(Clone, Debug)]
pub enum WebVerdict {
    Refused(&'static str),
    Polite,
    Served { counts: [u32; 4], eligible: BTreeSet<WebPeer> },
}

/// What is to be known of a world to judge it.
#[derive(Clone, Debug)]
pub struct Model {
    pub wrong: Wrong,
    pub denied: BTreeSet<InfoHash>,
    ttl: u32,
    web_ttl: u32,
    polite: bool,
    connection_id_secs: u32,
    swarms: BTreeMap<InfoHash, Swarm<Endpoint>>,
    webs: BTreeMap<InfoHash, Swarm<WebPeer>>,
    /// Before this second no WebSocket peer is due.
    web_due: Seconds,
    /// Connection ids that have been given out, and when.
    ids: BTreeMap<(IpAddr, [u8; 8]), Seconds>,
}

pub const PORT_ZERO: &str = "port 0 cannot be announced";
pub const NOT_ALLOWED: &str = "this torrent is not allowed on this tracker";
pub const FULL_SCRAPE: &str = "full scrapes are not served, name an info_hash";
pub const BUSY: &str = "the tracker is busy, try again later";
pub const NO_SUCH_OFFER: &str = "no such offer waits for this answer";
/// The ports that this tracker does not hand out.
const DENIED_PORTS: [u16; 5] = [22, 25, 53, 80, 443];

impl Model {
    pub fn new((ttl, web_ttl): (u32, u32), polite: bool, connection_id_secs: u32) -> Self {
        Self {
            wrong: Wrong::No,
            denied: BTreeSet::new(),
            ttl,
            web_ttl,
            polite,
            connection_id_secs,
            swarms: BTreeMap::new(),
            webs: BTreeMap::new(),
            web_due: Seconds(0),
            ids: BTreeMap::new(),
        }
    }

    /// Everybody is forgotten; connection ids are not, since the key stays.
    pub fn restart(&mut self) {
        self.swarms.clear();
        self.webs.clear();
        self.denied.clear();
    }

    pub fn issued(&mut self, now: Seconds, ip: IpAddr, id: [u8; 8]) {
        self.ids.insert((ip, id), now);
    }

    /// Whether `ip` has been given this id lately: epochs of 64 seconds, the current one and at
    /// least one more.
    pub fn proves(&self, now: Seconds, ip: IpAddr, id: [u8; 8]) -> bool {
        let epochs = self.connection_id_secs.div_ceil(64).saturating_sub(1).max(1);
        let issued = self.ids.get(&(ip, id));
        issued.is_some_and(|issued| now.0 / 64 - issued.0 / 64 <= epochs)
    }

    /// An announce reaches the owner of its swarm. `family`: over UDP, the only one it is given.
    pub fn announce(
        &mut self,
        now: Seconds,
        ip: IpAddr,
        announce: &Announce,
        family: Option<Family>,
    ) -> Verdict {
        let (hash, stopped) = (announce.info_hash, announce.event == Event::Stopped);
        if announce.port == 0 && !stopped {
            return Verdict::Refused(PORT_ZERO);
        }
        self.expire(now, &hash);
        let asker = Endpoint::new(ip, announce.port);
        let seeder = announce.left == Left::Bytes(0);
        if stopped {
            self.stop(now, &hash, &asker);
        }
        if self.denied.contains(&hash) {
            return if self.polite { Verdict::Polite } else { Verdict::Refused(NOT_ALLOWED) };
        }
        if !stopped && !DENIED_PORTS.contains(&announce.port) {
            let swarm = self.swarms.entry(hash).or_default();
            enter(swarm, now, asker, (seeder, announce.event), self.wrong);
        }
        let want = match announce.num_want {
            NumWant::Default => 50,
            NumWant::Count(count) => count.min(200) as usize,
        };
        let room = match family {
            None => want,
            Some(Family::V4) => 202,
            Some(Family::V6) => 67,
        };
        let want = if stopped { 0 } else { want.min(room) };
        let may = |(endpoint, member): &(&Endpoint, &Member)| {
            (**endpoint != asker || self.wrong == Wrong::Asker)
                && !(seeder && member.seeder && self.wrong != Wrong::Seeders)
                && [0, scope(ip)].contains(&scope(endpoint.ip()))
                && family.is_none_or(|family| family == endpoint.family())
        };
        let members = self.swarms.get(&hash).map(|swarm| swarm.members.iter());
        let eligible = members.into_iter().flatten().filter(may).map(|(peer, _)| *peer).collect();
        Verdict::Served { counts: self.counts(now, &hash), eligible, want }
    }

    fn stop(&mut self, now: Seconds, hash: &InfoHash, peer: &Endpoint) {
        let Some(swarm) = self.swarms.get_mut(hash) else { return };
        if self.wrong != Wrong::Stop && swarm.members.remove(peer).is_some() {
            swarm.touched = now;
            if swarm.members.is_empty() && swarm.completed == 0 {
                self.swarms.remove(hash);
            }
        }
    }

    /// Who is due leaves. A swarm goes with the last peer that expires, or a peer's life after the
    /// last one that stopped.
    fn expire(&mut self, now: Seconds, hash: &InfoHash) {
        let ttl = self.ttl + u32::from(self.wrong == Wrong::Expiry);
        let Some(swarm) = self.swarms.get_mut(hash) else { return };
        let stays = if swarm.members.is_empty() {
            now.since(swarm.touched) <= ttl
        } else {
            swarm.members.retain(|_, member| now.since(member.announced) <= ttl);
            !swarm.members.is_empty()
        };
        if !stays {
            self.swarms.remove(hash);
        }
    }

    /// [seeders, completed, leechers, downloaders] of everybody in a swarm; nobody, if it is on the
    /// list.
    pub fn counts(&mut self, now: Seconds, hash: &InfoHash) -> [u32; 4] {
        if self.denied.contains(hash) {
            return [0; 4];
        }
        self.expire(now, hash);
        let others = self.swarms.get(hash).map_or([0; 4], Swarm::counts);
        let webs = self.webs.get(hash).map_or([0; 4], Swarm::counts);
        std::array::from_fn(|at| others[at] + webs[at])
    }

    /// A WebSocket announce reaches the owner of its swarm.
    pub fn web_announce(
        &mut self,
        now: Seconds,
        hash: InfoHash,
        key: WebPeer,
        (seeder, event): (bool, Event),
    ) -> WebVerdict {
        let stopped = event == Event::Stopped;
        if stopped
            && let Some(swarm) = self.webs.get_mut(&hash)
            && swarm.members.remove(&key).is_some()
        {
            swarm.touched = now;
        }
        if self.denied.contains(&hash) {
            return if self.polite { WebVerdict::Polite } else { WebVerdict::Refused(NOT_ALLOWED) };
        }
        if !stopped {
            let swarm = self.webs.entry(hash).or_default();
            enter(swarm, now, key, (seeder, event), self.wrong);
            self.web_due = self.web_due.min(now.plus(self.web_ttl + 1));
        }
        let may = |(other, member): &(&WebPeer, &Member)| {
            **other != key && !(seeder && member.seeder && self.wrong != Wrong::Seeders)
        };
        let members = self.webs.get(&hash).filter(|_| !stopped).map(|swarm| swarm.members.iter());
        let eligible = members.into_iter().flatten().filter(may).map(|(peer, _)| *peer).collect();
        WebVerdict::Served { counts: self.counts(now, &hash), eligible }
    }

    /// An owner hears that a connection has closed.
    pub fn web_close(&mut self, now: Seconds, web: Web, owns: impl Fn(&InfoHash) -> bool) {
        if self.wrong == Wrong::Close {
            return;
        }
        for (_, swarm) in self.webs.iter_mut().filter(|(hash, _)| owns(hash)) {
            let before = swarm.members.len();
            swarm.members.retain(|(at, _), _| *at != web);
            if swarm.members.len() < before {
                swarm.touched = now;
            }
        }
    }

    /// The connections whose peers are there.
    pub fn web_places(&self) -> BTreeSet<Web> {
        self.webs.values().flat_map(|swarm| swarm.members.keys()).map(|(web, _)| *web).collect()
    }

    /// A core looks who of its WebSocket peers is due.
    pub fn web_sweep(&mut self, now: Seconds, owns: impl Fn(&InfoHash) -> bool) {
        let ttl = self.web_ttl;
        self.webs.retain(|hash, swarm| {
            if !owns(hash) {
                return true;
            }
            swarm.members.retain(|_, member| now.since(member.announced) <= ttl);
            !swarm.members.is_empty() || now.since(swarm.touched) <= ttl
        });
    }

    /// Whether anybody can be due at `now`.
    pub fn web_may_be_due(&self, now: Seconds) -> bool {
        !self.webs.is_empty() && now >= self.web_due
    }

    /// After every core has looked.
    pub fn web_swept(&mut self) {
        let due = self.webs.values().flat_map(|swarm| {
            let announced = swarm.members.values().map(|member| member.announced);
            announced.chain([swarm.touched])
        });
        let first = due.min().unwrap_or(Seconds(u32::MAX / 2));
        self.web_due = first.plus(self.web_ttl + 1);
    }
}

/// A peer joins or stays.
fn enter<K: Ord>(
    swarm: &mut Swarm<K>,
    now: Seconds,
    key: K,
    (seeder, event): (bool, Event),
    wrong: Wrong,
) {
    if wrong == Wrong::Completed
        && let Some(member) = swarm.members.get_mut(&key)
    {
        member.counted = false;
    }
    swarm.announce(now, key, seeder, event);
}

/// Who can reach whom, of the addresses that clients here have: 0 for everybody.
fn scope(ip: IpAddr) -> u8 {
    match ip {
        _ if ip.is_loopback() => 1,
        IpAddr::V4(v4) if v4.octets()[0] == 10 => 2,
        IpAddr::V6(v6) if v6.octets()[0] == 0xFC => 3,
        _ => 0,
    }
}

/// The `n`-th swarm of a world.
pub fn swarm_hash(seed: u64, n: u16) -> InfoHash {
    hash((seed << 16) + u64::from(n))
}

/// A swarm that nobody else knows.
pub fn flood_hash(n: u32) -> InfoHash {
    let mut rng = Rng::new(u64::from(n));
    InfoHash(std::array::from_fn(|_| u8::try_from(rng.below(256)).expect("a byte")))
}
