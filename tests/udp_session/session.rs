//! A conversation over UDP that bytes choose, beside maps of maps.
//!
//! ```text
//! first byte   cores, and whether the kernel steers
//! then         kind, who, and what each kind reads
//! ```
//!
//! Sources are public IPv4 and IPv6 addresses, so that everybody may be given to everybody of the
//! family.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;

use throng::time::Seconds;
use throng::wire::addr::Endpoint;
use throng::wire::announce::{Announce, Event, Left, NumWant};
use throng::wire::id::{ConnectionId, InfoHash, PeerId};
use throng::wire::udp::{Reply, Request};

use super::support::naive::Swarm;
use super::support::*;

const SOURCES: u8 = 6;
const SWARMS: u8 = 3;
/// Seconds for which a connection id is valid at least, and at most: it ages in steps of 64 s.
const ID_SECS: [u32; 2] = [64, 127];
const NUM_WANT_DEFAULT: usize = 50;
const NUM_WANT_MAX: usize = 200;
const EVENTS: [Event; 5] =
    [Event::None, Event::Completed, Event::Started, Event::Stopped, Event::Paused];

struct Session {
    world: World,
    bytes: VecDeque<u8>,
    swarms: BTreeMap<InfoHash, Swarm<Endpoint>>,
    /// What each source has been given, and when.
    ids: BTreeMap<SocketAddr, Vec<(ConnectionId, Seconds)>>,
}

/// Plays the conversation that `bytes` choose.
///
/// # Panics
/// If something is said that must not be, or not said that must.
pub fn check(bytes: &[u8]) {
    let mut bytes: VecDeque<u8> = bytes.iter().copied().collect();
    let Some(first) = bytes.pop_front() else { return };
    let steering = if first & 4 == 0 { Steering::Owner } else { Steering::Wrong };
    let cores = 1 + u16::from(first & 3);
    let world = World::with(Options { cores, steering, ..Options::default() });
    let (swarms, ids) = (BTreeMap::new(), BTreeMap::new());
    let mut session = Session { world, bytes, swarms, ids };
    while let Some(kind) = session.bytes.pop_front() {
        session.step(kind);
    }
    session.end();
}

impl Session {
    fn byte(&mut self) -> u8 {
        self.bytes.pop_front().unwrap_or(0)
    }

    fn source(&mut self) -> SocketAddr {
        let n = u32::from(self.byte() % SOURCES);
        if n < u32::from(SOURCES) / 2 { v4(n) } else { v6(n) }
    }

    fn swarm(&mut self) -> InfoHash {
        hash(u64::from(self.byte() % SWARMS))
    }

    /// An id, and whether the source that shows it may: `None` if it is about to run out.
    fn id(&mut self, source: SocketAddr) -> (ConnectionId, Option<bool>) {
        let which = self.byte();
        let of = if which & 0x80 == 0 { source } else { self.source() };
        let given = self.ids.get(&of).and_then(|ids| ids.iter().rev().nth(usize::from(which & 3)));
        let Some(&(mut id, at)) = given else {
            return (ConnectionId([which; 8]), Some(false));
        };
        if which & 0x40 != 0 {
            id.0[usize::from(which & 7)] ^= 1 << (which >> 3 & 7);
            return (id, Some(false));
        }
        let age = self.world.now.since(at);
        let may = of.ip() == source.ip();
        match (age <= ID_SECS[0], age > ID_SECS[1]) {
            (true, _) => (id, Some(may)),
            (_, true) => (id, Some(false)),
            _ => (id, if may { None } else { Some(false) }),
        }
    }

    fn step(&mut self, kind: u8) {
        match kind % 8 {
            0 => {
                let seconds = [1, 10, 60, 64, 65, 128, TTL, TTL + 1][usize::from(kind >> 5)];
                self.world.advance(seconds);
            }
            1 => self.connect(),
            2 => self.scrape(kind),
            3 => self.anything(),
            _ => self.announce(kind),
        }
        let now = self.world.now;
        // A swarm goes with the last peer that expires, or a peer's life after the last that stops.
        self.swarms.retain(|_, swarm| {
            if swarm.members.is_empty() {
                return now.since(swarm.touched) <= TTL;
            }
            swarm.members.retain(|_, member| now.since(member.announced) <= TTL);
            !swarm.members.is_empty()
        });
    }

    fn connect(&mut self) {
        let source = self.source();
        let id = self.world.connect(source);
        let ids = self.ids.entry(source).or_default();
        ids.push((id, self.world.now));
    }

    fn announce(&mut self, kind: u8) {
        let (source, info_hash) = (self.source(), self.swarm());
        let (id, may) = self.id(source);
        let [port, flags, count] = [self.byte(), self.byte(), self.byte()];
        let event = EVENTS[usize::from(flags & 7) % EVENTS.len()];
        let left = match flags >> 3 & 3 {
            0 => Left::Bytes(0),
            1 => Left::Unknown,
            _ => Left::Bytes(1),
        };
        let announce = Announce {
            info_hash,
            peer_id: PeerId([port; 20]),
            port: 30_000 + u16::from(port % 4),
            uploaded: u64::MAX >> (flags >> 5),
            downloaded: u64::from(count),
            left,
            event,
            num_want: if flags & 0x80 == 0 {
                NumWant::Count(u32::from(count))
            } else {
                NumWant::Default
            },
            key: Some(u32::from(kind)),
        };
        let mut request = announce_bytes(id, &announce);
        if kind & 0x80 != 0 {
            // Options, good or bad, change nothing.
            for _ in 0..kind >> 3 & 15 {
                let byte = self.byte();
                request.push(byte);
            }
        }
        let sent = self.world.datagram(source, &request);
        let answered = !sent.is_empty();
        assert!(may.is_none_or(|may| may == answered), "{source} {may:?}: {sent:?}");
        if answered {
            let swarm = self.swarms.entry(info_hash).or_default();
            let (now, endpoint) = (self.world.now, Endpoint::new(source.ip(), announce.port));
            if event == Event::Stopped {
                swarm.stop(now, &endpoint);
            } else {
                swarm.announce(now, endpoint, left == Left::Bytes(0), event);
            }
            judge(swarm, source, endpoint, &announce, &sent[0].bytes);
        }
    }

    fn scrape(&mut self, kind: u8) {
        let source = self.source();
        let (id, may) = self.id(source);
        let hashes: Vec<InfoHash> = (0..=kind >> 3).map(|_| self.swarm()).collect();
        let sent = self.world.datagram(source, &scrape_bytes(id, &hashes));
        let silent = sent.is_empty();
        assert!(may.is_none_or(|may| may != silent), "{source} {may:?}: {sent:?}");
        let Some(sent) = sent.first() else { return };
        let told = read_scrape(&sent.bytes);
        assert_eq!(told.len(), hashes.len());
        for (told, hash) in told.iter().zip(&hashes) {
            let expected = self.swarms.get(hash).map_or([0; 4], Swarm::counts);
            assert_eq!(told[..], expected[..3], "{hash:?}");
        }
    }

    /// Bytes as they come. Whoever has no id of his own gets nothing but a connect's answer.
    fn anything(&mut self) {
        let source = self.source();
        let length = usize::from(self.byte());
        let mut request: Vec<u8> = (0..length).filter_map(|_| self.bytes.pop_front()).collect();
        if request.first() == Some(&b'c') {
            request.splice(..1, connect_bytes());
        }
        // An id of one's own would make it one of the requests above, which the model follows.
        let is_known = |id: &[u8]| self.ids.values().flatten().any(|(given, _)| given.0[..] == *id);
        if request.get(..8).is_some_and(is_known) {
            return;
        }
        let sent = self.world.datagram(source, &request);
        let bytes: usize = sent.iter().map(|sent| sent.bytes.len()).sum();
        assert!(bytes <= request.len(), "{bytes} bytes for {}", request.len());
        let is_connect = matches!(Request::parse(&request), Ok(Request::Connect(_)));
        assert_eq!(sent.len(), usize::from(is_connect));
        for sent in sent {
            let reply = Reply::parse(&sent.bytes);
            assert!(matches!(reply, Ok(Reply::Connect { .. })), "{reply:?}");
        }
    }

    /// Everybody leaves, and nothing is left.
    fn end(&mut self) {
        self.world.advance(TTL + 1);
        self.world.advance(TTL + 1);
        let counters = self.world.counters();
        assert_eq!((counters.swarms, counters.seeders, counters.leechers), ([0], [0; 2], [0; 2]));
        assert_eq!(self.world.messages(), 0);
    }
}

/// Reads the answer to the announce that was just made.
fn judge(
    swarm: &Swarm<Endpoint>,
    source: SocketAddr,
    asker: Endpoint,
    announce: &Announce,
    bytes: &[u8],
) {
    let answer = read_announce(bytes, source);
    let [seeders, _, leechers, _] = swarm.counts();
    assert_eq!(answer.counts(), (seeders, leechers));
    let seeds = announce.left == Left::Bytes(0);
    let candidates: BTreeSet<Endpoint> = swarm
        .members
        .iter()
        .filter(|(peer, member)| {
            **peer != asker && peer.family() == asker.family() && !(seeds && member.seeder)
        })
        .map(|(peer, _)| *peer)
        .collect();
    let wanted = match announce.num_want {
        _ if announce.event == Event::Stopped => 0,
        NumWant::Default => NUM_WANT_DEFAULT,
        NumWant::Count(count) => usize::try_from(count).expect("a byte").min(NUM_WANT_MAX),
    };
    assert_eq!(answer.peers.len(), wanted.min(candidates.len()), "{answer:?}");
    let distinct: BTreeSet<Endpoint> = answer.peers.iter().copied().collect();
    assert_eq!(distinct.len(), answer.peers.len(), "nobody comes twice");
    assert!(distinct.is_subset(&candidates), "{answer:?} of {candidates:?}");
}
