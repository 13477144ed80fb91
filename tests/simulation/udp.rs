//! Clients over UDP, and a network that loses, repeats, delays and falsifies.

use std::net::{IpAddr, SocketAddr};

use throng::time::Seconds;
use throng::tracker::Datagram;
use throng::wire::addr::Family;
use throng::wire::announce::{Announce, Left, NumWant};
use throng::wire::id::{ConnectionId, InfoHash, PeerId, TransactionId};
use throng::wire::udp;

use super::model::{FULL_SCRAPE, Model, Verdict, flood_hash};
use super::plan::{Ask, Fate, Says};
use super::report::Fault;
use super::run::{Arrival, Rows, Sim, event_of, fill};
use super::support::*;

/// Seconds for which a client uses a connection id (BEP 15).
const ID_SECS: u32 = 60;
/// Above any tag of a single datagram.
const BATCH: u64 = 1 << 60;

/// A datagram under way.
#[derive(Clone, Debug)]
pub struct Packet {
    client: u16,
    source: SocketAddr,
    pub bytes: Vec<u8>,
    answer_lost: bool,
}

/// A client's side of UDP.
#[derive(Clone, Debug)]
pub struct UdpClient {
    pub address: SocketAddr,
    /// It uses an id for ever.
    is_stale: bool,
    id: Option<(ConnectionId, Seconds)>,
    /// What it will ask for when it has an id.
    wanting: Option<(Ask, Fate)>,
    /// What it has sent and not been answered.
    waiting: Option<(TransactionId, Vec<u8>)>,
}

/// What a datagram must come to.
#[derive(Clone, Debug)]
enum Due {
    Nothing,
    Connect,
    Announce { owner: u16, announce: Announce, verdict: Option<Verdict> },
    Scrape { core: u16, rows: Rows },
    FullScrape,
}

/// A datagram that has reached a tracker.
#[derive(Clone, Debug)]
pub struct UdpArrival {
    packet: Packet,
    ip: IpAddr,
    due: Due,
    pub answered: bool,
}

impl Packet {
    fn datagram(&self) -> Datagram<'_> {
        let Self { source, bytes, .. } = self;
        Datagram { listener: listener_of(*source), source: *source, bytes, truncated: false }
    }
}

impl UdpClient {
    pub const fn new(address: SocketAddr, is_stale: bool) -> Self {
        Self { address, is_stale, id: None, wanting: None, waiting: None }
    }

    pub fn forget(&mut self) {
        (self.id, self.wanting, self.waiting) = (None, None, None);
    }
}

impl UdpArrival {
    /// It, or what was asked for its sake, reaches a core.
    pub fn reaches(&mut self, now: Seconds, core: u16, model: &mut Model) {
        match &mut self.due {
            Due::Announce { owner, announce, verdict } if *owner == core && verdict.is_none() => {
                let family = Some(Family::of(self.ip));
                *verdict = Some(model.announce(now, self.ip, announce, family));
            }
            Due::Scrape { rows, .. } => fill(rows, now, core, model),
            _ => {}
        }
    }

    /// Whether its answer leaves in the very call in which it reaches this core.
    pub fn must_answer_at(&self, core: u16) -> bool {
        match &self.due {
            Due::Nothing => false,
            Due::Connect | Due::FullScrape => true,
            Due::Announce { verdict, .. } => verdict.is_some(),
            Due::Scrape { core: asked, rows } => {
                rows.iter().all(|row| row.1 == core && row.1 == *asked)
            }
        }
    }

    pub const fn is_request(&self) -> bool {
        !matches!(self.due, Due::Nothing)
    }
}

impl Sim {
    fn transaction(&mut self) -> TransactionId {
        self.serial += 1;
        let [.., a, b, c, d] = self.serial.to_be_bytes();
        TransactionId([a, b, c, d])
    }

    /// A client asks, after a connect if it has no id.
    pub fn udp_ask(&mut self, client: u16, ask: &Ask, fates: [Fate; 2]) {
        let now = self.world.now;
        let me = &mut self.udp[usize::from(client)];
        let is_stale = me.is_stale;
        let id = me.id.filter(|(_, since)| is_stale || now.since(*since) <= ID_SECS);
        if let Ask::Junk(kind) = ask {
            self.udp_junk(client, *kind, fates[1]);
        } else if let Some((id, _)) = id {
            self.udp_request(client, id, ask, fates[1]);
        } else {
            me.wanting = Some((ask.clone(), fates[1]));
            let transaction = self.transaction();
            let mut bytes = vec![0; udp::REQUEST_HEAD_BYTES];
            udp::write_connect_request(&mut bytes, transaction);
            self.udp_send(client, transaction, bytes, fates[0]);
        }
    }

    fn udp_request(&mut self, client: u16, id: ConnectionId, ask: &Ask, fate: Fate) {
        let transaction = self.transaction();
        let bytes = match ask {
            Ask::Announce(says) => {
                let announce = self.announce_of(client, says);
                announce_to(id, transaction, &announce, says)
            }
            Ask::Scrape { first, count } => {
                let hashes = self.hashes(*first, *count);
                let mut bytes = vec![0; udp::REQUEST_HEAD_BYTES + 20 * hashes.len()];
                udp::write_scrape_request(&mut bytes, id, transaction, &hashes);
                bytes
            }
            Ask::Junk(_) => unreachable!("it needs no id"),
        };
        self.udp_send(client, transaction, bytes, fate);
    }

    /// Sends what is no request, or not this client's to make.
    fn udp_junk(&mut self, client: u16, kind: u8, fate: Fate) {
        let says = Says {
            swarm: client,
            event: 0,
            left: super::plan::Left::Something,
            num_want: 200,
            port: None,
        };
        let announce = self.announce_of(client, &says);
        let transaction = self.transaction();
        let victim = (usize::from(client) + 1) % self.udp.len();
        let stolen = self.udp[victim].id.map_or(ConnectionId([1; 8]), |(id, _)| id);
        let mut bytes = match kind {
            0 => vec![0xFF; 40],
            1 => announce_to(ConnectionId([0; 8]), transaction, &announce, &says),
            2 => announce_to(stolen, transaction, &announce, &says),
            // What trackers send: two of them must not talk to each other.
            3 => vec![0; 16],
            4 => [&[0, 0, 0, 3][..], &transaction.0, b"Connection ID mismatch"].concat(),
            5 => vec![0; 2_049],
            _ => connect_bytes(),
        };
        if kind == 5 {
            udp::write_connect_request(&mut bytes, transaction);
        } else if kind == 6 {
            bytes.truncate(15);
        }
        let source = self.udp[usize::from(client)].address;
        let port = if kind == 7 { 0 } else { source.port() };
        let source = SocketAddr::new(source.ip(), port);
        let packet = Packet { client, source, bytes, answer_lost: fate.answer_lost };
        self.arrive(packet);
    }

    /// A client that has not been answered sends the same again.
    pub fn udp_again(&mut self, client: u16) {
        if let Some((transaction, bytes)) = self.udp[usize::from(client)].waiting.clone() {
            self.udp_send(client, transaction, bytes, Fate::default());
        }
    }

    fn udp_send(&mut self, client: u16, transaction: TransactionId, bytes: Vec<u8>, fate: Fate) {
        let me = &mut self.udp[usize::from(client)];
        me.waiting = Some((transaction, bytes.clone()));
        let mut packet =
            Packet { client, source: me.address, bytes, answer_lost: fate.answer_lost };
        if fate.lost {
            self.trace.count(Fault::Loss, 1);
            return;
        }
        if let Some((at, bits)) = fate.corrupt
            && let Some(byte) = packet.bytes.get_mut(usize::from(at))
        {
            *byte ^= bits;
            self.trace.count(Fault::Corruption, 1);
        }
        if let Some(left) = fate.cut
            && packet.bytes.len() > usize::from(left)
        {
            packet.bytes.truncate(left.into());
            self.trace.count(Fault::Truncation, 1);
        }
        if let Some(other) = fate.spoof
            && other != client
        {
            packet.source = self.udp[usize::from(other)].address;
            self.trace.count(Fault::Spoofing, 1);
        }
        self.trace.count(Fault::Duplication, u64::from(fate.twice));
        if fate.twice {
            self.serial += 1;
            let due = self.step + u64::from(fate.delay) / 2 + 1;
            self.network.insert((due, self.serial), packet.clone());
        }
        if fate.delay == 0 {
            self.arrive(packet);
        } else {
            self.trace.count(Fault::Reordering, 1);
            self.serial += 1;
            self.network.insert((self.step + u64::from(fate.delay), self.serial), packet);
        }
    }

    /// Many clients announce themselves at once, each with an id that it has just got.
    pub fn crowd(&mut self, first: u16, count: u16, says: &Says) {
        let core = self.owner(&self.hash(says.swarm));
        if self.stalled[usize::from(core)] {
            return;
        }
        let mut batch = Vec::new();
        for n in 0..count.min(self.shape.clients) {
            let client = (first + n) % self.shape.clients;
            let Some(id) = self.udp_connect(client, core) else { continue };
            let transaction = self.transaction();
            let announce = self.announce_of(client, says);
            let bytes = announce_to(id, transaction, &announce, says);
            let source = self.udp[usize::from(client)].address;
            batch.push(Packet { client, source, bytes, answer_lost: false });
            if batch.len() == 64 {
                self.receive(core, &batch);
                batch.clear();
                self.deliver();
            }
        }
        self.receive(core, &batch);
    }

    /// One client announces itself to swarms of its own invention.
    pub fn flood(&mut self, client: u16, first: u32, count: u16) {
        let core = client % self.shape.cores;
        if self.stalled[usize::from(core)] {
            return;
        }
        let Some(id) = self.udp_connect(client, core) else { return };
        let says = Says {
            swarm: 0,
            event: 2,
            left: super::plan::Left::Something,
            num_want: 0,
            port: None,
        };
        let announce = self.announce_of(client, &says);
        let source = self.udp[usize::from(client)].address;
        for n in 0..u32::from(count) {
            let transaction = self.transaction();
            let announce = Announce { info_hash: flood_hash(first.wrapping_add(n)), ..announce };
            let bytes = announce_to(id, transaction, &announce, &says);
            self.receive(core, &[Packet { client, source, bytes, answer_lost: false }]);
            self.deliver();
        }
    }

    /// An id for a client, asked for and got at once.
    fn udp_connect(&mut self, client: u16, core: u16) -> Option<ConnectionId> {
        let transaction = self.transaction();
        let mut bytes = vec![0; udp::REQUEST_HEAD_BYTES];
        udp::write_connect_request(&mut bytes, transaction);
        let me = &mut self.udp[usize::from(client)];
        me.forget();
        me.waiting = Some((transaction, bytes.clone()));
        let source = me.address;
        self.receive(core, &[Packet { client, source, bytes, answer_lost: false }]);
        self.udp[usize::from(client)].id.map(|(id, _)| id)
    }

    /// Datagrams reach a core, together.
    pub fn receive(&mut self, core: u16, packets: &[Packet]) {
        let is_announce = |packet: &Packet| packet.bytes.get(8..12) == Some(&[0, 0, 0, 1]);
        for group in packets.chunk_by(|one, other| is_announce(one) && is_announce(other)) {
            if let [packet] = group {
                let arrival = self.judge(core, packet);
                let tag = self.tag(Arrival::Udp(arrival));
                self.world.receive(core, packet.source, &packet.bytes, false);
                self.after(tag, core);
            } else {
                self.receive_batch(core, group);
            }
        }
    }

    fn receive_batch(&mut self, core: u16, group: &[Packet]) {
        let mut tags = Vec::new();
        for packet in group {
            let arrival = self.judge(core, packet);
            tags.push(self.tag(Arrival::Udp(arrival)));
        }
        let batch: Vec<Datagram<'_>> = group.iter().map(Packet::datagram).collect();
        let name = BATCH + self.serial;
        let known = group.iter().zip(&tags);
        let known = known.map(|(packet, tag)| (packet.source, packet.bytes.clone(), *tag));
        self.batches.insert(name, known.collect());
        self.world.set_tag(name);
        self.world.receive_batch(core, &batch);
        // Answers leave in the order of the datagrams.
        let mut tags = tags.into_iter();
        for sent in self.world.sent() {
            self.trace.mix_bytes(&sent.bytes);
            let is_it = |tag: &u64| match &self.arrivals[tag] {
                Arrival::Udp(arrival) => {
                    arrival.packet.source == sent.target
                        && arrival.packet.bytes.get(12..16) == sent.bytes.get(4..8)
                        && arrival.must_answer_at(core)
                }
                _ => false,
            };
            let tag = tags.find(is_it).expect("somebody has asked for it");
            self.udp_sent(tag, &sent);
        }
        self.world.outcomes().clear();
    }

    /// What a datagram must come to, read the plain way from its bytes.
    fn judge(&mut self, core: u16, packet: &Packet) -> UdpArrival {
        let Packet { source, bytes, .. } = packet;
        let (now, ip) = (self.world.now, source.ip().to_canonical());
        let due = self.read(core, (ip, source.port()), bytes);
        let mut arrival = UdpArrival { packet: packet.clone(), ip, due, answered: false };
        arrival.reaches(now, core, &mut self.model);
        arrival
    }

    fn read(&self, core: u16, (ip, port): (IpAddr, u16), bytes: &[u8]) -> Due {
        if port == 0 || bytes.len() > 2_048 || bytes.len() < 16 {
            return Due::Nothing;
        }
        let id = take::<8>(bytes, 0);
        let action = u32::from_be_bytes(take(bytes, 8));
        if action == 0 && u64::from_be_bytes(id) == 0x417_2710_1980 {
            return Due::Connect;
        }
        let shortest = [usize::MAX, 98, 16].get(action as usize).copied();
        if bytes.len() < shortest.unwrap_or(usize::MAX) {
            return Due::Nothing;
        }
        if !self.model.proves(self.world.now, ip, id) {
            return Due::Nothing;
        }
        if action == 2 {
            let hashes = bytes[16..].chunks_exact(20).take(74).map(|hash| InfoHash(take(hash, 0)));
            let rows: Rows = hashes.map(|hash| (hash, self.owner(&hash), None)).collect();
            return if rows.is_empty() { Due::FullScrape } else { Due::Scrape { core, rows } };
        }
        let (left, want) =
            (u64::from_be_bytes(take(bytes, 64)), u32::from_be_bytes(take(bytes, 92)));
        let event = u32::from_be_bytes(take(bytes, 80));
        let announce = Announce {
            info_hash: InfoHash(take(bytes, 16)),
            peer_id: PeerId(take(bytes, 36)),
            downloaded: 0,
            left: if left >> 63 == 0 { Left::Bytes(left) } else { Left::Unknown },
            uploaded: 0,
            event: event_of(u8::try_from(event).unwrap_or(u8::MAX)),
            key: None,
            num_want: if want >> 31 == 0 { NumWant::Count(want) } else { NumWant::Default },
            port: u16::from_be_bytes(take(bytes, 96)),
        };
        Due::Announce { owner: self.owner(&announce.info_hash), announce, verdict: None }
    }

    /// A datagram has left, because of `tag`.
    pub fn udp_sent(&mut self, tag: u64, sent: &Sent) {
        let Some(Arrival::Udp(arrival)) = self.arrivals.get_mut(&tag) else {
            panic!("nobody has asked for {sent:?}")
        };
        assert!(!arrival.answered, "one answer to {arrival:?}");
        arrival.answered = true;
        let arrival = arrival.clone();
        let Packet { source, bytes, .. } = &arrival.packet;
        assert_eq!((sent.target, sent.listener), (*source, listener_of(*source)));
        assert_eq!(sent.bytes[4..8], bytes[12..16], "the transaction");
        let action = u32::from_be_bytes(take(&sent.bytes, 0));
        match &arrival.due {
            Due::Nothing => panic!("{arrival:?} is answered: {sent:?}"),
            Due::Connect => {
                assert_eq!((action, sent.bytes.len()), (0, 16));
                assert!(sent.bytes.len() <= bytes.len(), "nobody is flooded through us");
                self.model.issued(self.world.now, arrival.ip, take(&sent.bytes, 8));
            }
            Due::FullScrape => check_error(&sent.bytes, FULL_SCRAPE),
            Due::Announce { owner, verdict, .. } => {
                let verdict = verdict.as_ref().expect("it has not reached the owner");
                self.check_announced(*owner, arrival.ip, &sent.bytes, verdict);
            }
            Due::Scrape { rows, .. } => {
                assert_eq!((action, sent.bytes.len()), (2, 8 + 12 * rows.len()));
                for ((_, owner, counts), entry) in rows.iter().zip(sent.bytes[8..].chunks_exact(12))
                {
                    let [seeders, completed, leechers, _] = counts.expect("its owner was asked");
                    let told = [0, 4, 8].map(|at| u32::from_be_bytes(take(entry, at)));
                    self.check_counts(*owner, told, [seeders, completed, leechers]);
                }
            }
        }
        self.udp_hears(&arrival, &sent.bytes);
    }

    fn check_announced(&mut self, owner: u16, ip: IpAddr, bytes: &[u8], verdict: &Verdict) {
        let (counts, eligible, want) = match verdict {
            Verdict::Refused(text) => return check_error(bytes, text),
            Verdict::Polite => {
                assert_eq!(bytes[8..20], [0, 1, 0x51, 0x80, 0, 0, 0, 0, 0, 0, 0, 0]);
                assert_eq!(bytes.len(), 20);
                return;
            }
            Verdict::Served { counts, eligible, want, .. } => (counts, eligible, *want),
        };
        let [action, interval, leechers, seeders] =
            [0, 8, 12, 16].map(|at| u32::from_be_bytes(take(bytes, at)));
        assert_eq!(action, 1);
        let (shortest, span) = (self.shape.interval / 10 * 9, self.shape.interval / 5);
        assert!((shortest..=shortest + span).contains(&interval), "{interval}");
        self.check_counts(owner, [seeders, leechers], [counts[0], counts[2]]);
        let peers = compact(&bytes[20..], Family::of(ip));
        self.check_peers(owner, &peers, (eligible, want));
    }

    /// A client is answered, if it hears it.
    fn udp_hears(&mut self, arrival: &UdpArrival, bytes: &[u8]) {
        let client = arrival.packet.client;
        let now = self.world.now;
        let me = &mut self.udp[usize::from(client)];
        if me.address != arrival.packet.source {
            return;
        }
        if arrival.packet.answer_lost {
            self.trace.count(Fault::AnswerLoss, 1);
            return;
        }
        if me.waiting.as_ref().is_none_or(|(transaction, _)| transaction.0 != bytes[4..8]) {
            return;
        }
        me.waiting = None;
        if bytes[3] == 0 {
            let id = ConnectionId(take(bytes, 8));
            me.id = Some((id, now));
            if let Some((ask, fate)) = me.wanting.take() {
                self.udp_request(client, id, &ask, fate);
            }
        }
    }
}

fn check_error(bytes: &[u8], text: &str) {
    assert_eq!(bytes[..4], [0, 0, 0, 3]);
    assert_eq!(&bytes[8..], text.as_bytes());
}

fn take<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("so many bytes")
}

fn announce_to(
    id: ConnectionId,
    transaction: TransactionId,
    announce: &Announce,
    says: &Says,
) -> Vec<u8> {
    let mut bytes = vec![0; udp::ANNOUNCE_BYTES];
    udp::write_announce_request(&mut bytes, id, transaction, announce);
    bytes[80..84].copy_from_slice(&u32::from(says.event).to_be_bytes());
    bytes[92..96].copy_from_slice(&i32::from(says.num_want).to_be_bytes());
    bytes
}
