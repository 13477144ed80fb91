//! Runs a plan: clients, network, cores and time, with the model beside them.
//!
//! What a tracker is handed, it is handed in a call of its own, and all that leaves in that call or
//! comes of it on other cores carries the tag of what was handed in. So every byte that leaves is
//! judged against one request, at the moment when that request reached the owner of its swarm.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use throng::rng::Rng;
use throng::swarm::Bounds;
use throng::time::Seconds;
use throng::tracker::access::Access;
use throng::tracker::limiter::Limits;
use throng::tracker::message::Message;
use throng::tracker::outcome::DropReason;
use throng::tracker::policy::Policy;
use throng::wire::addr::Endpoint;
use throng::wire::announce::{Announce, Event as Happened, Left as StillNeeds, NumWant};
use throng::wire::id::{InfoHash, PeerId};

use super::http::{HttpArrival, Stream};
use super::model::{BUSY, Model, Wrong, swarm_hash};
use super::plan::{Event, Left, Plan, Says, Shape};
use super::report::{Fault, Trace};
use super::support::*;
use super::udp::{Packet, UdpArrival, UdpClient};
use super::web::{Made, WebAnnouncing, WebAnswering, WebClient};

/// Datagrams that wait in the socket of a core that does nothing.
const SOCKET_DATAGRAMS_MAX: usize = 256;

/// What has been handed to a tracker.
#[derive(Debug)]
pub enum Arrival {
    Udp(UdpArrival),
    Http(HttpArrival),
    WebAnnounce(WebAnnouncing),
    WebAnswer(WebAnswering),
    WebScrape { web: Web, rows: Rows, replied: bool },
}

/// Counts that a scrape must tell, by hash: each as they are when its owner is asked.
pub type Rows = Vec<(InfoHash, u16, Option<[u32; 4]>)>;

/// A world in motion.
pub struct Sim {
    pub seed: u64,
    pub shape: Shape,
    pub world: World,
    pub model: Model,
    pub trace: Trace,
    pub step: u64,
    pub udp: Vec<UdpClient>,
    /// Datagrams under way, by the step at which they arrive.
    pub network: BTreeMap<(u64, u64), Packet>,
    pub serial: u64,
    pub arrivals: BTreeMap<u64, Arrival>,
    /// Datagrams of batches, to know again what comes of each.
    pub batches: BTreeMap<u64, Vec<(SocketAddr, Vec<u8>, u64)>>,
    pub streams: BTreeMap<u16, Stream>,
    pub webs: BTreeMap<u16, WebClient>,
    pub made: BTreeMap<String, Made>,
    deaf: Vec<bool>,
    pub stalled: Vec<bool>,
    sockets: Vec<VecDeque<Packet>>,
    /// What waits for a core that does nothing.
    held: Vec<Vec<Event>>,
    /// Cores that had to let somebody go: what is not there any more is not foreseen.
    dirty: Vec<bool>,
    pub late: Option<u8>,
    full: Vec<bool>,
    /// When messages were last held up, or may have been.
    hindered: Seconds,
    /// Whether there is a bound on what can be sent.
    pub slots_bound: bool,
    /// No disturbance from here on: everything is answered.
    pub calm: bool,
}

impl Sim {
    pub fn new(plan: &Plan, wrong: Wrong) -> Self {
        let shape = plan.shape.clone();
        let policy =
            Policy { interval_secs: shape.interval, polite_refusal: shape.polite, ..policy() };
        let web_ttl = policy.web_peer_ttl_secs();
        let steering = if shape.missteered { Steering::Wrong } else { Steering::Owner };
        let world = World::with(Options {
            cores: shape.cores,
            policy,
            bounds: Bounds {
                memory_bytes: shape.memory_bytes,
                peers_per_swarm: shape.peers_per_swarm,
                peer_ttl_secs: shape.ttl,
                keep_peer_ids: shape.keep_peer_ids,
            },
            access: Access::default(),
            limits: Limits::default(),
            steering,
            mailbox_messages_max: shape.mailbox,
            connection_id_secs: shape.connection_id_secs,
            seed: plan.seed,
        });
        let cores = usize::from(shape.cores);
        let mut model = Model::new((shape.ttl, web_ttl), shape.polite, shape.connection_id_secs);
        model.wrong = wrong;
        let client = |n| UdpClient::new(address_of(plan.seed, n), n % 9 == 4);
        Self {
            seed: plan.seed,
            udp: (0..shape.clients).map(client).collect(),
            shape,
            world,
            model,
            trace: Trace::default(),
            step: 0,
            network: BTreeMap::new(),
            serial: 0,
            arrivals: BTreeMap::new(),
            batches: BTreeMap::new(),
            streams: BTreeMap::new(),
            webs: BTreeMap::new(),
            made: BTreeMap::new(),
            deaf: vec![false; cores],
            stalled: vec![false; cores],
            sockets: vec![VecDeque::new(); cores],
            held: vec![Vec::new(); cores],
            dirty: vec![false; cores],
            late: None,
            full: vec![false; cores],
            hindered: Seconds(0),
            slots_bound: false,
            calm: false,
        }
    }

    pub fn owner(&self, hash: &InfoHash) -> u16 {
        self.world.owner.core(hash).0
    }

    pub fn hash(&self, swarm: u16) -> InfoHash {
        swarm_hash(self.seed, swarm % self.shape.swarms)
    }

    /// `count` swarms from `first` on, around and around.
    pub fn hashes(&self, first: u16, count: u8) -> Vec<InfoHash> {
        (0..u16::from(count)).map(|n| self.hash(first.wrapping_add(n))).collect()
    }

    /// A new tag.
    pub fn tag(&mut self, arrival: Arrival) -> u64 {
        self.serial += 1;
        self.arrivals.insert(self.serial, arrival);
        self.world.set_tag(self.serial);
        self.serial
    }

    /// Whether what `owner` tells is known to the last peer.
    pub fn is_dirty(&mut self, owner: u16) -> bool {
        let core = usize::from(owner);
        if !self.dirty[core] {
            let counters = self.world.counters_of(owner);
            let evicted = counters.evicted_peers[0] + counters.evicted_swarms[0];
            self.dirty[core] = evicted > 0;
            self.trace.count(Fault::Eviction, u64::from(evicted > 0));
        }
        self.dirty[core]
    }

    /// One step of the plan and everything that comes of it at once.
    pub fn step(&mut self, event: &Event) {
        self.step += 1;
        self.trace.mix(self.step);
        self.act(event);
        self.arrive_due();
        self.deliver();
        self.check();
    }

    pub fn act(&mut self, event: &Event) {
        if let Some(core) = self.waits_for(event) {
            self.held[usize::from(core)].push(event.clone());
            return;
        }
        match event {
            Event::Udp { client, ask, fates } => self.udp_ask(*client, ask, *fates),
            Event::Again { client } => self.udp_again(*client),
            Event::Crowd { first, count, says } => self.crowd(*first, *count, says),
            Event::Flood { client, first, count } => self.flood(*client, *first, *count),
            Event::Http { client, asks, piece, reset } => {
                self.http_ask(*client, asks, *piece, *reset);
            }
            Event::WebOpen { client } => self.web_open(*client),
            Event::WebClose { client } => self.web_close(*client),
            Event::WebSay { client, says, offers } => self.web_say(*client, says, *offers),
            Event::WebAnswer { client, nth, bend } => self.web_answer(*client, *nth, *bend),
            Event::WebScrape { client, first, count } => {
                self.web_scrape(*client, *first, *count);
            }
            Event::WebJunk { client, kind } => self.web_junk(*client, *kind),
            Event::Pass(seconds) => (0..*seconds).for_each(|_| self.second()),
            Event::Leap(seconds) => {
                self.trace.count(Fault::Leap, 1);
                self.trace.seconds += u64::from(*seconds);
                self.world.sleep(*seconds);
            }
            Event::Compare => self.compare(),
            Event::Restart => self.restart(),
            Event::Deny(swarm, on) => self.deny(*swarm, *on),
            _ => self.disturb(event),
        }
    }

    pub fn disturb(&mut self, event: &Event) {
        match *event {
            Event::Full(core, on) => {
                self.hindered = self.world.now;
                self.full[usize::from(core)] = on;
                self.world.set_full(core, on);
            }
            Event::Deaf(core, on) => {
                self.hindered = self.world.now;
                self.deaf[usize::from(core)] = on;
                self.trace.count(Fault::Deaf, u64::from(on));
                self.world.set_deaf(core, on || self.stalled[usize::from(core)]);
            }
            Event::Stall(core, true) => {
                self.hindered = self.world.now;
                self.stalled[usize::from(core)] = true;
                self.trace.count(Fault::Stall, 1);
                self.world.set_deaf(core, true);
            }
            Event::Stall(core, false) => self.resume(core),
            Event::Late(few) => {
                self.hindered = self.world.now;
                self.late = few;
                self.trace.count(Fault::Late, u64::from(few.is_some()));
            }
            Event::Slots(few) => {
                self.slots_bound = few.is_some();
                self.world.set_send_slots(few.map_or(usize::MAX, usize::from));
            }
            _ => unreachable!("not a disturbance: {event:?}"),
        }
    }

    /// The core that an event has to wait for, since it does nothing.
    fn waits_for(&self, event: &Event) -> Option<u16> {
        let core = match event {
            Event::Http { client, .. } => self.stream_core(*client),
            Event::WebOpen { client } => self.web_core(*client),
            Event::WebClose { client }
            | Event::WebSay { client, .. }
            | Event::WebAnswer { client, .. }
            | Event::WebScrape { client, .. }
            | Event::WebJunk { client, .. } => self.webs.get(client)?.web.core,
            _ => return None,
        };
        self.stalled[usize::from(core)].then_some(core)
    }

    /// A core goes on: with what its sockets hold, then with its messages.
    fn resume(&mut self, core: u16) {
        let at = usize::from(core);
        if !std::mem::replace(&mut self.stalled[at], false) {
            return;
        }
        self.world.set_deaf(core, self.deaf[at]);
        let packets: Vec<Packet> = self.sockets[at].drain(..).collect();
        for batch in packets.chunks(64) {
            self.receive(core, batch);
        }
        for event in std::mem::take(&mut self.held[at]) {
            self.act(&event);
        }
    }

    /// A datagram comes in where the kernel steers it.
    pub fn arrive(&mut self, packet: Packet) {
        let core = self.world.steered(&packet.bytes);
        let at = usize::from(core);
        if !self.stalled[at] {
            self.receive(core, &[packet]);
        } else if self.sockets[at].len() < SOCKET_DATAGRAMS_MAX {
            self.sockets[at].push_back(packet);
        }
    }

    /// What the network has held back until now.
    pub fn arrive_due(&mut self) {
        while let Some(entry) = self.network.first_entry()
            && entry.key().0 <= self.step
        {
            let packet = entry.remove();
            self.arrive(packet);
        }
    }

    /// Messages between cores, as many as there are or as may be.
    pub fn deliver(&mut self) {
        let most = self.late.map_or(usize::MAX, usize::from);
        for _ in 0..most {
            let Some(mut letter) = self.world.take_letter() else { return };
            letter.tag = self.known_again(&letter);
            self.before(&letter);
            self.world.hand(&letter);
            self.after(letter.tag, letter.to);
        }
    }

    /// The tag of the one datagram of a batch that a message is about.
    fn known_again(&mut self, letter: &Letter) -> u64 {
        let Some(batch) = self.batches.get_mut(&letter.tag) else { return letter.tag };
        let Some(Message::Datagram { source, bytes, .. }) = Message::parse(&letter.bytes) else {
            panic!("batches are of announces: {letter:?}")
        };
        let is_it = |(from, what, _): &(SocketAddr, Vec<u8>, u64)| *from == source && what == bytes;
        let at = batch.iter().position(is_it).expect("somebody has sent it");
        batch.remove(at).2
    }

    /// A message reaches a core: what it asks of the model.
    fn before(&mut self, letter: &Letter) {
        let (now, to) = (self.world.now, letter.to);
        if let Some(Message::WebLeave { connection, .. }) = Message::parse(&letter.bytes) {
            let web = Web { core: letter.from, name: connection.0 };
            let owner = &self.world.owner;
            self.model.web_close(now, web, |hash| owner.core(hash).0 == to);
            return;
        }
        let model = &mut self.model;
        match self.arrivals.get_mut(&letter.tag) {
            Some(Arrival::Udp(arrival)) => arrival.reaches(now, to, model),
            Some(Arrival::Http(arrival)) => arrival.reaches(now, to, model),
            Some(Arrival::WebAnnounce(arrival)) => arrival.reaches(now, to, model),
            Some(Arrival::WebScrape { rows, .. }) => fill(rows, now, to, model),
            Some(Arrival::WebAnswer(_)) | None => {}
        }
    }

    /// Judges what has left since the last call, all of which comes of `tag`.
    pub fn after(&mut self, tag: u64, core: u16) {
        for sent in self.world.sent() {
            self.trace.mix_bytes(&sent.bytes);
            assert_eq!(sent.core.0, core, "whoever is asked answers");
            self.udp_sent(tag, &sent);
        }
        let (http, web) = (self.world.http_sent(), self.world.web_sent());
        for sent in web {
            self.trace.mix_bytes(sent.text.as_bytes());
            self.web_sent(tag, &sent);
        }
        // Last: a stream may go on with its next request, of which more comes.
        for sent in http {
            self.trace.mix_bytes(&sent.body);
            self.http_sent(tag, &sent);
        }
        self.world.outcomes().clear();
        if let Some(Arrival::Udp(arrival)) = self.arrivals.get(&tag) {
            let answered = arrival.answered || !arrival.must_answer_at(core);
            assert!(answered || self.slots_bound, "no answer: {arrival:?}");
        }
    }

    /// One second: every core that does anything ticks.
    pub fn second(&mut self) {
        self.trace.seconds += 1;
        self.world.sleep(1);
        self.world.set_tag(0);
        let now = self.world.now;
        let held_up = [&self.full, &self.deaf, &self.stalled].into_iter().flatten().any(|on| *on);
        if held_up || self.late.is_some() || self.shape.mailbox < 10_000 {
            self.hindered = now;
        }
        let due = self.model.web_may_be_due(now);
        for core in 0..self.shape.cores {
            if self.stalled[usize::from(core)] {
                continue;
            }
            if due {
                let owner = &self.world.owner;
                self.model.web_sweep(now, |hash| owner.core(hash).0 == core);
            }
            self.world.tick_core(core);
            self.after(0, core);
        }
        if due {
            self.model.web_swept();
        }
        self.late_http();
        if self.world.messages() > 0 {
            self.deliver();
        }
    }

    fn restart(&mut self) {
        self.trace.count(Fault::Restart, 1);
        self.gather();
        self.world.restart();
        self.model.restart();
        self.arrivals.clear();
        self.batches.clear();
        self.streams.clear();
        self.webs.clear();
        self.made.clear();
        self.sockets.iter_mut().for_each(VecDeque::clear);
        self.held.iter_mut().for_each(Vec::clear);
        self.dirty.fill(false);
        for core in 0..self.shape.cores {
            self.stalled[usize::from(core)] = false;
            self.world.set_deaf(core, self.deaf[usize::from(core)]);
        }
    }

    fn deny(&mut self, swarm: u16, on: bool) {
        let hash = self.hash(swarm);
        if on {
            self.model.denied.insert(hash);
        } else {
            self.model.denied.remove(&hash);
        }
        self.trace.count(Fault::Denied, u64::from(on));
        let list: Vec<InfoHash> = self.model.denied.iter().copied().collect();
        self.world.set_access(&deny(list));
    }

    /// Takes down what the trackers counted about disturbances before they are gone.
    pub fn gather(&mut self) {
        let counters = self.world.counters();
        self.trace.count(Fault::MailboxFull, counters.messages_refused[0]);
        let no_slot = counters.dropped(DropReason::NoSendSlot);
        self.trace.count(Fault::NoSendSlot, no_slot);
        counters.words().for_each(|word| self.trace.mix(word));
    }

    /// What holds after every step.
    fn check(&mut self) {
        let is_small = self.shape.clients < 40 && self.shape.memory_bytes > 1 << 20;
        if is_small || self.step.is_multiple_of(64) {
            self.world.check_invariants();
        }
        if self.step.is_multiple_of(16) {
            let budget = self.shape.memory_bytes + self.shape.memory_bytes / 8;
            for core in 0..self.shape.cores {
                let counters = self.world.counters_of(core);
                let bytes = usize::try_from(counters.store_bytes[0]).expect("it is in memory");
                assert!(bytes <= budget, "core {core} holds {bytes} bytes");
            }
        }
    }

    /// Every swarm, asked for at its owner, is as the model says. Nobody is there whose connection
    /// has closed, unless the owner can not have been told.
    pub fn compare(&mut self) {
        if self.world.now.since(self.hindered) > 2 {
            let open: BTreeSet<Web> = self.webs.values().map(|client| client.web).collect();
            let there = self.model.web_places();
            assert!(there.is_subset(&open), "{there:?}, though only {open:?} are open");
        }
        for swarm in 0..self.shape.swarms.min(64) {
            let hash = self.hash(swarm);
            let owner = self.owner(&hash);
            if self.stalled[usize::from(owner)] {
                continue;
            }
            let source = (v4(7).ip(), u64::MAX);
            let request = format!("GET {} HTTP/1.1\r\n\r\n", scrape_target(&[hash]));
            assert!(self.world.http_head(owner, source, request.as_bytes()).0.is_none());
            let response = self.world.http_sent().remove(0).response();
            let told = response.file(&hash).expect("it was asked for");
            let expected = self.model.counts(self.world.now, &hash);
            self.check_counts(owner, told, expected);
        }
    }

    /// Counts are the model's; after somebody had to go, they are not more.
    pub fn check_counts<const N: usize>(&mut self, owner: u16, told: [u32; N], known: [u32; N]) {
        if !self.is_dirty(owner) {
            assert_eq!(told, known, "counts");
            return;
        }
        // The first and the last are seeders and leechers; who comes again may complete again.
        let (told, known) = ([told[0], told[N - 1]], [known[0], known[N - 1]]);
        let fewer = told.iter().zip(known).all(|(told, known)| *told <= known);
        assert!(fewer || N == 4 && told[0] <= known[0], "{told:?} of {known:?}");
    }

    /// Peers are some of those that may be given, each once, all or as many as wanted.
    pub fn check_peers(
        &mut self,
        owner: u16,
        peers: &[Endpoint],
        (eligible, want): (&BTreeSet<Endpoint>, usize),
    ) {
        let given: BTreeSet<&Endpoint> = peers.iter().collect();
        assert_eq!(given.len(), peers.len(), "each once");
        for peer in peers {
            assert!(eligible.contains(peer), "{peer:?} may not be given here");
        }
        assert!(peers.len() <= want, "{} instead of {want}", peers.len());
        if !self.is_dirty(owner) {
            assert_eq!(peers.len(), want.min(eligible.len()), "all that there are");
        }
    }

    pub fn check_busy(&self, failure: Option<&str>) {
        assert_eq!(failure, Some(BUSY));
        assert!(!self.calm, "busy, though nothing is in its way");
    }

    /// What a client announces.
    pub fn announce_of(&self, client: u16, says: &Says) -> Announce {
        Announce {
            info_hash: self.hash(says.swarm),
            peer_id: peer_id(client, 0),
            port: says.port.unwrap_or(6_881 + client % 7),
            uploaded: 1,
            downloaded: 2,
            left: match says.left {
                Left::Nothing => StillNeeds::Bytes(0),
                Left::Something => StillNeeds::Bytes(1_000),
                Left::Unknown => StillNeeds::Unknown,
            },
            event: event_of(says.event),
            num_want: u32::try_from(says.num_want).map_or(NumWant::Default, NumWant::Count),
            key: Some(u32::from(client)),
        }
    }
}

/// Fills in what `core` is asked for.
pub fn fill(rows: &mut Rows, now: Seconds, core: u16, model: &mut Model) {
    for (hash, _, counts) in rows.iter_mut().filter(|row| row.1 == core && row.2.is_none()) {
        *counts = Some(model.counts(now, hash));
    }
}

pub fn event_of(number: u8) -> Happened {
    match number {
        1 => Happened::Completed,
        2 => Happened::Started,
        3 => Happened::Stopped,
        4 => Happened::Paused,
        _ => Happened::None,
    }
}

pub fn peer_id(client: u16, n: u8) -> PeerId {
    let mut id = *b"-qB5000-\xff\x00\"\\abcdefgh";
    id[17..19].copy_from_slice(&client.to_be_bytes());
    id[19] = n;
    PeerId(id)
}

/// Where a client is: most are public, some share an address, some are behind private ones.
fn address_of(seed: u64, client: u16) -> SocketAddr {
    let mut rng = Rng::new(seed ^ u64::from(client) << 32);
    let [high, low] = client.to_be_bytes();
    let public = Ipv4Addr::new(81, 2, high, low);
    let ip: IpAddr = match rng.below(16) {
        0..=7 => public.into(),
        8..=10 => Ipv6Addr::new(0x2a00, 0x1450, 0, 0, 0, 0, 1, client).into(),
        11 => public.to_ipv6_mapped().into(),
        12 => Ipv4Addr::new(81, 3, 0, low % 3).into(),
        13 => Ipv4Addr::new(10, 0, high, low).into(),
        14 => Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 1, client).into(),
        _ if rng.below(2) == 0 => Ipv4Addr::LOCALHOST.into(),
        _ => Ipv6Addr::LOCALHOST.into(),
    };
    SocketAddr::new(ip, 20_000 + client)
}
