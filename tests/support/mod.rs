//! A tracker of several cores without a kernel: the real `Tracker`s behind mailboxes in memory.
//!
//! Time is a number that tests move, chance is a seed, and every byte that leaves is kept. A
//! [`World`] checks by itself what holds always: replies fit a datagram, HTTP bodies are strict
//! bencode, no buffer is sent that was not handed out, what goes to a WebSocket is one JSON object
//! and the WebSocket is open, and the stores keep their invariants.

#![allow(dead_code, reason = "each test file uses a part of this")]

pub mod naive;

use std::collections::{BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use serde_json::{Map, Value as Json};
use throng::limits::UDP_REPLY_BYTES_MAX;
use throng::rng::Rng;
use throng::swarm::{Bounds, HashKey};
use throng::time::Seconds;
use throng::tracker::access::Access;
use throng::tracker::access::hashes::HashList;
use throng::tracker::access::networks::NetworkList;
use throng::tracker::connection_id::ConnectionIds;
use throng::tracker::counters::Counters;
use throng::tracker::http::{Connection, HttpAnswer};
use throng::tracker::limiter::Limits;
use throng::tracker::outcome::{DropReason, Outcome, Refusal};
use throng::tracker::owner::{CoreId, HALFWORDS, Owner};
use throng::tracker::policy::{Policy, PortSet};
use throng::tracker::web::RelayKey;
use throng::tracker::{Datagram, Effects, MailboxFull, Setup, Tracker, WebKind};
use throng::wire::addr::{Endpoint, Family};
use throng::wire::announce::{Announce, Event, Left, NumWant};
use throng::wire::bencode::Value;
use throng::wire::http::{Head, head_end, write_response};
use throng::wire::id::{ConnectionId, InfoHash, PeerId, TransactionId};
use throng::wire::udp::{self, Reply};

/// Seconds that a peer stays; short, so that tests can count them.
pub const TTL: u32 = 3_000;
/// The listener of IPv4 datagrams: not 0, so that a lost number shows.
pub const LISTENER_V4: u8 = 3;
/// The listener of IPv6 datagrams.
pub const LISTENER_V6: u8 = 5;
/// What requests carry, to be echoed.
pub const TRANSACTION: TransactionId = TransactionId(*b"\xde\xad\xbe\xef");

/// Which core a datagram reaches.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Steering {
    /// The owner of the swarm, as the kernel's program steers it.
    Owner,
    /// Any other core, if there is one.
    Wrong,
    /// This one.
    Core(u16),
}

/// What decides in a random script: a seed, or bytes that somebody has chosen.
#[derive(Debug)]
pub enum Choices {
    Seed(Rng),
    /// The bytes that are left.
    Bytes(VecDeque<u8>),
}

impl Choices {
    /// A number below `bound`; 0 when all bytes have been used.
    pub fn below(&mut self, bound: u32) -> u32 {
        match self {
            Self::Seed(rng) => rng.below(bound),
            Self::Bytes(bytes) => {
                let mut number = 0;
                let mut covered = 1_u32;
                while covered < bound {
                    covered = covered.saturating_mul(256);
                    let byte = bytes.pop_front().unwrap_or(0);
                    number = number << 8 | u32::from(byte);
                }
                number % bound.max(1)
            }
        }
    }

    /// Whether nothing is left to be chosen.
    pub fn is_over(&self) -> bool {
        matches!(self, Self::Bytes(bytes) if bytes.is_empty())
    }
}

/// What makes a world.
#[derive(Clone, Debug)]
pub struct Options {
    pub cores: u16,
    pub policy: Policy,
    pub bounds: Bounds,
    pub access: Access,
    pub limits: Limits,
    pub steering: Steering,
    /// Messages that one mailbox holds.
    pub mailbox_messages_max: usize,
    /// Seconds for which connection ids are valid.
    pub connection_id_secs: u32,
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            cores: 1,
            policy: policy(),
            bounds: Bounds {
                memory_bytes: 64 << 20,
                peers_per_swarm: 10_000,
                peer_ttl_secs: TTL,
                keep_peer_ids: true,
            },
            access: Access::default(),
            limits: Limits::default(),
            steering: Steering::Owner,
            mailbox_messages_max: 10_000,
            connection_id_secs: 128,
            seed: 1,
        }
    }
}

/// Only these swarms are served.
pub fn allow(hashes: impl Into<Vec<InfoHash>>) -> Access {
    Access { allow: Some(Arc::new(HashList::new(hashes.into()))), ..Access::default() }
}

/// All but these are.
pub fn deny(hashes: impl Into<Vec<InfoHash>>) -> Access {
    Access { deny: Some(Arc::new(HashList::new(hashes.into()))), ..Access::default() }
}

/// These networks, a line each, are not listened to.
pub fn ban(networks: &str) -> Access {
    let list = NetworkList::parse(networks.as_bytes()).expect("a good list");
    Access { ban: Some(Arc::new(list)), ..Access::default() }
}

/// The defaults of the program.
pub fn policy() -> Policy {
    let denied = [22..=22, 25..=25, 53..=53, 80..=80, 443..=443];
    Policy { deny_ports: PortSet::new(denied), ..Policy::default() }
}

/// A datagram that left.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Sent {
    pub core: CoreId,
    pub listener: u8,
    pub target: SocketAddr,
    pub bytes: Vec<u8>,
}

/// An answer to an announce over UDP, read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Answer {
    pub interval: u32,
    pub leechers: u32,
    pub seeders: u32,
    pub peers: Vec<Endpoint>,
}

impl Answer {
    /// (seeders, leechers)
    pub fn counts(&self) -> (u32, u32) {
        (self.seeders, self.leechers)
    }
}

/// An HTTP response, read from the bytes that go to the connection.
#[derive(Clone, Debug)]
pub struct Response {
    pub status: u16,
    /// Fields in order, names in lower case.
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    fn parse(bytes: &[u8], head_only: bool) -> Self {
        let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").expect("a blank line");
        let head = str::from_utf8(&bytes[..end]).expect("a head is ASCII");
        let body = bytes[end + 4..].to_vec();
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 "));
        let status = status.and_then(|rest| rest.split(' ').next()).expect("a status line");
        let fields: Vec<(String, String)> = lines
            .map(|line| line.split_once(": ").expect("a field"))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect();
        let response = Self { status: status.parse().expect("a code"), fields, body };
        assert_eq!(response.field("content-type"), Some("text/plain"));
        let length = response.field("content-length").and_then(|length| length.parse().ok());
        assert!(head_only || length == Some(response.body.len()), "{head}");
        if !head_only {
            let external_ip = response.bytes("external ip").map(|ip| ip.len());
            assert!(matches!(external_ip, Some(4 | 16)), "{response:?}");
        }
        response
    }

    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// The body; the reader accepts only canonical bencode with sorted keys.
    pub fn value(&self) -> Value<'_> {
        let text = self.body.escape_ascii();
        Value::parse(&self.body).unwrap_or_else(|error| panic!("{error:?}: {text}"))
    }

    /// The integer at `key`.
    pub fn integer(&self, key: &str) -> Option<u32> {
        let value = self.value().get(key.as_bytes())?.as_integer()?;
        Some(u32::try_from(value).expect("numbers here are small"))
    }

    /// The byte string at `key`.
    pub fn bytes(&self, key: &str) -> Option<Vec<u8>> {
        Some(self.value().get(key.as_bytes())?.as_bytes()?.to_vec())
    }

    /// The failure reason, if it is one.
    pub fn failure(&self) -> Option<String> {
        self.bytes("failure reason").map(|text| String::from_utf8(text).expect("ASCII"))
    }

    /// (seeders, leechers, completed)
    pub fn counts(&self) -> (u32, u32, u32) {
        let number = |key| self.integer(key).unwrap_or_else(|| panic!("{key} in {self:?}"));
        (number("complete"), number("incomplete"), number("downloaded"))
    }

    /// The peers, of both families, of whichever form.
    pub fn peers(&self) -> Vec<Endpoint> {
        let value = self.value();
        let peers = value.get(b"peers").expect("peers");
        if let Some(list) = peers.as_list() {
            assert_eq!(value.get(b"peers6"), None);
            return list.iter().map(endpoint_of).collect();
        }
        let v4 = compact(peers.as_bytes().expect("bytes or a list"), Family::V4);
        let v6 = value.get(b"peers6").and_then(Value::as_bytes).unwrap_or_default();
        v4.into_iter().chain(compact(v6, Family::V6)).collect()
    }

    /// (seeders, completed, leechers, downloaders) of one swarm of a scrape.
    pub fn file(&self, hash: &InfoHash) -> Option<[u32; 4]> {
        let value = self.value();
        let file = value.get(b"files")?.get(&hash.0)?;
        Some(["complete", "downloaded", "incomplete", "downloaders"].map(|key| {
            let count = file.get(key.as_bytes()).and_then(Value::as_integer);
            u32::try_from(count.expect("all four counts")).expect("small")
        }))
    }
}

/// The peer of one dictionary of the uncompressed form.
fn endpoint_of(entry: &Value<'_>) -> Endpoint {
    let ip = entry.get(b"ip").and_then(Value::as_bytes).expect("ip");
    let ip: IpAddr = str::from_utf8(ip).expect("text").parse().expect("an address");
    let port = entry.get(b"port").and_then(Value::as_integer).expect("port");
    Endpoint::new(ip, u16::try_from(port).expect("a port"))
}

/// Whole endpoints of one family.
pub fn compact(bytes: &[u8], family: Family) -> Vec<Endpoint> {
    let chunks = bytes.chunks_exact(family.endpoint_bytes());
    assert!(chunks.remainder().is_empty(), "whole endpoints");
    chunks.map(|chunk| Endpoint::from_compact(chunk).expect("6 or 18 bytes")).collect()
}

/// A WebSocket connection: its core and its name there, which other cores use for others.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Web {
    pub core: u16,
    pub name: u64,
}

/// A message that went to a WebSocket connection.
#[derive(Clone, Debug)]
pub struct WebSent {
    pub to: Web,
    pub text: String,
    /// `text`, read.
    pub object: Map<String, Json>,
}

impl WebSent {
    /// Whether it is another peer's: an offer or an answer.
    pub fn is_relayed(&self) -> bool {
        self.object.contains_key("offer") || self.object.contains_key("answer")
    }

    /// The failure reason, if it is one.
    pub fn failure(&self) -> Option<&str> {
        self.object.get("failure reason").and_then(Json::as_str)
    }
}

/// A message on its way from core to core.
#[derive(Clone, Debug)]
pub struct Letter {
    pub from: u16,
    pub to: u16,
    /// The tag of what it comes of: see [`World::set_tag`].
    pub tag: u64,
    pub bytes: Vec<u8>,
}

/// An answer to an HTTP request that had to wait.
#[derive(Clone, Debug)]
pub struct HttpSent {
    pub core: u16,
    pub connection: u64,
    pub body: Vec<u8>,
}

/// What the trackers' effects come to.
struct Io {
    cores: usize,
    /// By sender times `cores` plus receiver.
    mailboxes: Vec<VecDeque<Letter>>,
    /// What is posted now comes of this.
    tag: u64,
    mailbox_messages_max: usize,
    /// Cores whose mailboxes take nothing.
    full: Vec<bool>,
    /// Cores that do not look into their mailboxes.
    deaf: Vec<bool>,
    /// Buffers left for datagrams.
    send_slots: usize,
    buffer: Box<[u8; UDP_REPLY_BYTES_MAX]>,
    handed_out: bool,
    sent: Vec<Sent>,
    answers: Vec<(CoreId, Connection, Vec<u8>)>,
    outcomes: Vec<Outcome>,
    /// WebSocket connections that are open, as the trackers have been told.
    web_open: BTreeSet<Web>,
    web_sent: Vec<WebSent>,
}

/// One core's way out.
struct Exits<'a> {
    core: CoreId,
    io: &'a mut Io,
}

impl Effects for Exits<'_> {
    fn reply_buffer(&mut self) -> Option<&mut [u8; UDP_REPLY_BYTES_MAX]> {
        if self.io.send_slots == 0 {
            return None;
        }
        self.io.handed_out = true;
        // Whatever was in it before must not be sent.
        self.io.buffer.fill(0xA5);
        Some(&mut self.io.buffer)
    }

    fn send_reply(&mut self, listener: u8, target: SocketAddr, len: usize) {
        assert!(std::mem::take(&mut self.io.handed_out), "a buffer was handed out");
        assert!((8..=UDP_REPLY_BYTES_MAX).contains(&len));
        assert_ne!(target.port(), 0);
        self.io.send_slots -= 1;
        let bytes = self.io.buffer[..len].to_vec();
        self.io.sent.push(Sent { core: self.core, listener, target, bytes });
    }

    fn post(&mut self, to: CoreId, message: &[u8]) -> Result<(), MailboxFull> {
        assert_ne!(to, self.core, "nobody writes to itself");
        let mailbox = &mut self.io.mailboxes[self.core.index() * self.io.cores + to.index()];
        if self.io.full[to.index()] || mailbox.len() >= self.io.mailbox_messages_max {
            return Err(MailboxFull);
        }
        let (from, to, tag, bytes) = (self.core.0, to.0, self.io.tag, message.to_vec());
        mailbox.push_back(Letter { from, to, tag, bytes });
        Ok(())
    }

    fn answer_http(&mut self, connection: Connection, body: &[u8]) {
        self.io.answers.push((self.core, connection, body.to_vec()));
    }

    fn send_web(&mut self, connection: Connection, text: &[u8], _: WebKind) {
        let to = Web { core: self.core.0, name: connection.0 };
        let text = str::from_utf8(text).expect("UTF-8").to_owned();
        assert!(self.io.web_open.contains(&to), "{to:?} is not open: {text}");
        let object = serde_json::from_str(&text);
        let object = object.unwrap_or_else(|error| panic!("no object: {error}: {text}"));
        self.io.web_sent.push(WebSent { to, text, object });
    }

    fn happened(&mut self, outcome: &Outcome) {
        self.io.outcomes.push(*outcome);
    }
}

/// What came of the requests that were not answered, in the order of `result_index`.
pub fn unanswered(counters: &Counters) -> Vec<u64> {
    counters
        .results
        .as_chunks()
        .0
        .iter()
        .flat_map(|[_, refused, dropped]| [*refused, *dropped])
        .collect()
}

/// Cores, their mailboxes, and the time.
pub struct World {
    pub now: Seconds,
    pub steering: Steering,
    /// Which core takes the next HTTP request; `None` for any.
    pub http_core: Option<u16>,
    pub owner: Owner,
    options: Options,
    trackers: Vec<Tracker>,
    io: Io,
    rng: Rng,
    connections: u64,
    /// The last name of a WebSocket connection, by core.
    webs: Vec<u64>,
    settled: u64,
}

impl Drop for World {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.check_invariants();
        }
    }
}

impl World {
    /// One core, the defaults of the program.
    pub fn new() -> Self {
        Self::with(Options::default())
    }

    /// So many cores, else the defaults.
    pub fn of(cores: u16) -> Self {
        Self::with(Options { cores, ..Options::default() })
    }

    pub fn with(options: Options) -> Self {
        let mut rng = Rng::new(options.seed);
        let mut word = || u32::try_from(rng.next_u64() >> 32).expect("32 bits");
        let keys: [u32; HALFWORDS + 1] = std::array::from_fn(|_| word());
        let owner = Owner::new(keys, options.cores);
        let cores = usize::from(options.cores);
        Self {
            now: Seconds(10_000),
            steering: options.steering,
            http_core: None,
            trackers: trackers(&options, &owner),
            owner,
            io: Io {
                cores,
                mailboxes: vec![VecDeque::new(); cores * cores],
                tag: 0,
                mailbox_messages_max: options.mailbox_messages_max,
                full: vec![false; cores],
                deaf: vec![false; cores],
                send_slots: usize::MAX,
                buffer: Box::new([0; UDP_REPLY_BYTES_MAX]),
                handed_out: false,
                sent: Vec::new(),
                answers: Vec::new(),
                outcomes: Vec::new(),
                web_open: BTreeSet::new(),
                web_sent: Vec::new(),
            },
            rng,
            connections: 0,
            webs: vec![0; cores],
            settled: 0,
            options,
        }
    }

    /// The process ends at once and starts again with the same keys: swarms, connections and what
    /// was under way between cores are gone. The list in force is the one it began with.
    pub fn restart(&mut self) {
        self.trackers = trackers(&self.options, &self.owner);
        self.io.mailboxes.iter_mut().for_each(VecDeque::clear);
        self.io.web_open.clear();
        self.io.web_sent.clear();
        self.io.answers.clear();
        self.io.sent.clear();
        self.io.outcomes.clear();
    }

    fn cores(&self) -> u16 {
        self.owner.cores()
    }

    /// The `n`-th of a fixed series of hashes that `core` owns.
    pub fn hash_of(&self, core: u16, n: usize) -> InfoHash {
        (0..).map(hash).filter(|hash| self.owner.core(hash).0 == core).nth(n).expect("endless")
    }

    /// Time passes at once; then every core ticks, and messages are delivered.
    pub fn advance(&mut self, seconds: u32) {
        self.now = self.now.plus(seconds);
        self.tick();
    }

    /// Time passes and nobody looks at the clock.
    pub fn sleep(&mut self, seconds: u32) {
        self.now = self.now.plus(seconds);
    }

    pub fn tick(&mut self) {
        (0..self.cores()).for_each(|core| self.tick_core(core));
        self.settle();
    }

    fn on<R>(&mut self, core: u16, act: impl FnOnce(&mut Tracker, &mut Exits<'_>) -> R) -> R {
        let mut exits = Exits { core: CoreId(core), io: &mut self.io };
        act(&mut self.trackers[usize::from(core)], &mut exits)
    }

    /// Delivers messages until there are none, in an order that only keeps each mailbox's own.
    pub fn settle(&mut self) {
        while let Some(letter) = self.take_letter() {
            self.hand(&letter);
        }
        self.settled += 1;
        // It looks at everything there is: now and then, and at the end.
        if self.settled.is_multiple_of(64) {
            self.check_invariants();
        }
    }

    /// Takes a message out of some mailbox, the next one there, unless its receiver is deaf.
    pub fn take_letter(&mut self) -> Option<Letter> {
        let io = &self.io;
        let ready: Vec<usize> = (0..io.mailboxes.len())
            .filter(|&at| !io.mailboxes[at].is_empty() && !io.deaf[at % io.cores])
            .collect();
        let Ok(count) = u32::try_from(ready.len()) else { unreachable!("few cores") };
        let at = *ready.get(self.rng.below(count) as usize)?;
        self.io.mailboxes[at].pop_front()
    }

    /// Hands a message that was taken to its receiver. What comes of it has its tag.
    pub fn hand(&mut self, letter: &Letter) {
        let now = self.now;
        self.io.tag = letter.tag;
        self.on(letter.to, |tracker, exits| {
            tracker.handle_message(now, CoreId(letter.from), &letter.bytes, exits);
        });
    }

    /// From here on, what trackers post is marked so that one can tell what it comes of.
    pub const fn set_tag(&mut self, tag: u64) {
        self.io.tag = tag;
    }

    /// One core's second goes by, and no message is delivered.
    pub fn tick_core(&mut self, core: u16) {
        let now = self.now;
        let mut more = self.on(core, |tracker, exits| tracker.tick(now, exits));
        while more {
            more = self.on(core, |tracker, _| tracker.sweep(now));
        }
    }

    pub fn check_invariants(&self) {
        self.trackers.iter().for_each(Tracker::check_invariants);
    }

    /// Messages under way.
    pub fn messages(&self) -> usize {
        self.io.mailboxes.iter().map(VecDeque::len).sum()
    }

    /// Whether `core`'s mailboxes refuse everything.
    pub fn set_full(&mut self, core: u16, full: bool) {
        self.io.full[usize::from(core)] = full;
    }

    /// Whether `core` leaves its messages where they are.
    pub fn set_deaf(&mut self, core: u16, deaf: bool) {
        self.io.deaf[usize::from(core)] = deaf;
    }

    /// How many more datagrams can be sent.
    pub fn set_send_slots(&mut self, slots: usize) {
        self.io.send_slots = slots;
    }

    pub fn set_access(&mut self, access: &Access) {
        for tracker in &mut self.trackers {
            tracker.set_access(access.clone());
        }
    }

    /// All cores' counters together.
    pub fn counters(&mut self) -> Counters {
        let mut total = Counters::default();
        for tracker in &mut self.trackers {
            total.add(tracker.counters());
        }
        total
    }

    /// One core's counters.
    pub fn counters_of(&mut self, core: u16) -> &Counters {
        self.trackers[usize::from(core)].counters()
    }

    /// One core's tracker, for what no peer can ask.
    pub fn tracker(&mut self, core: u16) -> &mut Tracker {
        &mut self.trackers[usize::from(core)]
    }

    /// How often this happened, on all cores.
    pub fn dropped(&mut self, reason: DropReason) -> u64 {
        self.counters().dropped(reason)
    }

    /// How often this was told, on all cores.
    pub fn refused(&mut self, refusal: Refusal) -> u64 {
        self.counters().refused(refusal)
    }

    /// What announces changed since the last call.
    pub fn outcomes(&mut self) -> Vec<Outcome> {
        std::mem::take(&mut self.io.outcomes)
    }

    /// Datagrams that left since the last call.
    pub fn sent(&mut self) -> Vec<Sent> {
        std::mem::take(&mut self.io.sent)
    }

    /// Hands one datagram to a core, and does not deliver messages.
    pub fn receive(&mut self, core: u16, source: SocketAddr, bytes: &[u8], truncated: bool) {
        // Odd addresses and strange neighbours: a view that looked beyond its bytes would see them.
        let padded = [&[0xEE; 3][..], bytes, &[0xEE; 5]].concat();
        let bytes = &padded[3..3 + bytes.len()];
        let datagram = Datagram { listener: listener_of(source), source, bytes, truncated };
        let now = self.now;
        self.on(core, |tracker, exits| tracker.handle_datagrams(now, &[datagram], exits));
    }

    /// Hands several datagrams to a core at once.
    pub fn batch(&mut self, core: u16, batch: &[Datagram<'_>]) {
        self.receive_batch(core, batch);
        self.settle();
    }

    /// Hands several datagrams to a core at once, and does not deliver messages.
    pub fn receive_batch(&mut self, core: u16, batch: &[Datagram<'_>]) {
        let now = self.now;
        self.on(core, |tracker, exits| tracker.handle_datagrams(now, batch, exits));
    }

    /// The core that a datagram reaches.
    pub fn steered(&mut self, bytes: &[u8]) -> u16 {
        let owner = bytes
            .get(16..36)
            .map_or(0, |hash| self.owner.core(&InfoHash(hash.try_into().expect("20 bytes"))).0);
        match self.steering {
            Steering::Owner => owner,
            Steering::Core(core) => core,
            Steering::Wrong if self.cores() == 1 => 0,
            Steering::Wrong => {
                let step = 1 + self.rng.below(u32::from(self.cores()) - 1);
                let core = (u32::from(owner) + step) % u32::from(self.cores());
                u16::try_from(core).expect("few cores")
            }
        }
    }

    /// A datagram and everything that comes of it: the datagrams that answer it.
    pub fn datagram(&mut self, source: SocketAddr, bytes: &[u8]) -> Vec<Sent> {
        let core = self.steered(bytes);
        self.receive(core, source, bytes, false);
        self.settle();
        let sent = self.sent();
        for sent in &sent {
            assert_eq!((sent.target, sent.listener), (source, listener_of(source)));
        }
        sent
    }

    /// The one datagram that answers `bytes`.
    pub fn answer(&mut self, source: SocketAddr, bytes: &[u8]) -> Vec<u8> {
        let mut sent = self.datagram(source, bytes);
        assert_eq!(sent.len(), 1, "one answer to {}", bytes.escape_ascii());
        sent.remove(0).bytes
    }

    pub fn connect(&mut self, source: SocketAddr) -> ConnectionId {
        let answer = self.answer(source, &connect_bytes());
        let Ok(Reply::Connect { transaction_id, connection_id }) = Reply::parse(&answer) else {
            panic!("no connect reply: {}", answer.escape_ascii());
        };
        assert_eq!((answer.len(), transaction_id), (16, TRANSACTION));
        connection_id
    }

    /// Connects and announces; the bytes of the answer.
    pub fn announce_raw(&mut self, source: SocketAddr, announce: &Announce) -> Vec<u8> {
        let id = self.connect(source);
        self.answer(source, &announce_bytes(id, announce))
    }

    /// Connects and announces.
    pub fn announce(&mut self, source: SocketAddr, announce: &Announce) -> Answer {
        let bytes = self.announce_raw(source, announce);
        read_announce(&bytes, source)
    }

    /// Connects and announces; the text of the refusal.
    pub fn announce_refused(&mut self, source: SocketAddr, announce: &Announce) -> String {
        let bytes = self.announce_raw(source, announce);
        read_error(&bytes)
    }

    /// Connects and scrapes; for each hash (seeders, completed, leechers).
    pub fn scrape(&mut self, source: SocketAddr, hashes: &[InfoHash]) -> Vec<[u32; 3]> {
        let id = self.connect(source);
        let bytes = self.answer(source, &scrape_bytes(id, hashes));
        read_scrape(&bytes)
    }

    /// Sends `target` as a client does that keeps its connection.
    pub fn get(&mut self, source: IpAddr, target: &str) -> Response {
        let request = format!("GET {target} HTTP/1.1\r\nHost: tracker.example\r\n\r\n");
        self.request(source, request.as_bytes()).expect("an answer")
    }

    /// Sends one whole request; `None` if it is still waiting for another core.
    pub fn request(&mut self, source: IpAddr, request: &[u8]) -> Option<Response> {
        let any = u16::try_from(self.rng.below(u32::from(self.cores()))).expect("few cores");
        let core = self.http_core.unwrap_or(any);
        self.connections += 1;
        let connection = Connection(self.connections << 33 | 7);
        let mut body = b"left over".to_vec();
        let (now, source) = (self.now, (source, connection));
        let parsed = match head_end(request, 0) {
            Ok(end) => {
                assert_eq!(end, Some(request.len()), "one whole head");
                Head::parse(request)
            }
            Err(error) => Err(error),
        };
        let (answer, keep_alive) = match parsed {
            Ok(head) => {
                let answer = self.on(core, |tracker, exits| {
                    tracker.handle_http(now, source, &head, &mut body, exits)
                });
                (answer, head.keep_alive)
            }
            Err(error) => {
                let source = (source.0, Some(source.0));
                let status =
                    self.on(core, |tracker, _| tracker.handle_bad_http(source, error, &mut body));
                (HttpAnswer::Ready(status), false)
            }
        };
        self.settle();
        let mut answers = std::mem::take(&mut self.io.answers);
        let status = match answer {
            HttpAnswer::Ready(status) => {
                assert!(answers.is_empty(), "one answer");
                status
            }
            HttpAnswer::Pending => {
                let (at, to, text) = answers.pop()?;
                assert!(answers.is_empty(), "one answer");
                assert_eq!((at, to), (CoreId(core), connection), "where the connection is");
                body = text;
                throng::wire::http::Status::Ok
            }
        };
        let head_only = request.starts_with(b"HEAD");
        let mut bytes = Vec::new();
        write_response(&mut bytes, status, &body, keep_alive, head_only);
        Some(Response::parse(&bytes, head_only))
    }

    /// Hands one whole head, or what is none, to a core, and does not deliver messages: the
    /// response, unless that comes later, and whether the connection stays open.
    pub fn http_head(
        &mut self,
        core: u16,
        (source, connection): (IpAddr, u64),
        request: &[u8],
    ) -> (Option<Response>, bool) {
        let mut body = b"left over".to_vec();
        let now = self.now;
        let parsed = head_end(request, 0).and_then(|_| Head::parse(request));
        let (status, keep_alive) = match parsed {
            Ok(head) => {
                let source = (source, Connection(connection));
                let answer = self.on(core, |tracker, exits| {
                    tracker.handle_http(now, source, &head, &mut body, exits)
                });
                match answer {
                    HttpAnswer::Ready(status) => (status, head.keep_alive),
                    HttpAnswer::Pending => return (None, head.keep_alive),
                }
            }
            Err(error) => {
                let bad = |tracker: &mut Tracker, _: &mut Exits<'_>| {
                    tracker.handle_bad_http((source, Some(source)), error, &mut body)
                };
                (self.on(core, bad), false)
            }
        };
        let mut bytes = Vec::new();
        write_response(&mut bytes, status, &body, keep_alive, false);
        (Some(Response::parse(&bytes, false)), keep_alive)
    }

    /// Answers to HTTP requests that waited, since the last call.
    pub fn http_sent(&mut self) -> Vec<HttpSent> {
        let sent = |(core, connection, body): (CoreId, Connection, Vec<u8>)| HttpSent {
            core: core.0,
            connection: connection.0,
            body,
        };
        std::mem::take(&mut self.io.answers).into_iter().map(sent).collect()
    }

    /// What a connection is told whose answer has not come in time.
    pub fn late_http(&mut self, core: u16) -> Response {
        let mut body = Vec::new();
        let source = std::net::Ipv4Addr::LOCALHOST.into();
        let status = self.on(core, |tracker, _| tracker.handle_late_http(source, &mut body));
        let mut bytes = Vec::new();
        write_response(&mut bytes, status, &body, false, false);
        Response::parse(&bytes, false)
    }

    /// A WebSocket connection to `core` from a public IPv4 address.
    pub fn web_open(&mut self, core: u16) -> Web {
        self.web_open_from(core, v4(9_999).ip())
    }

    pub fn web_open_from(&mut self, core: u16, source: IpAddr) -> Web {
        let last = &mut self.webs[usize::from(core)];
        *last += 1;
        let web = Web { core, name: *last << 32 | 5 };
        self.io.web_open.insert(web);
        self.on(core, |tracker, _| tracker.web_opened(source, Connection(web.name)));
        web
    }

    /// Tells the tracker that a connection has closed, and does not deliver messages. What was said
    /// to it and not taken is forgotten.
    pub fn web_hang_up(&mut self, web: Web) {
        // From here on nothing may be said to it.
        self.io.web_open.remove(&web);
        self.io.web_sent.retain(|sent| sent.to != web);
        let now = self.now;
        self.on(web.core, |tracker, exits| tracker.web_closed(now, Connection(web.name), exits));
    }

    pub fn web_close(&mut self, web: Web) {
        self.web_hang_up(web);
        self.settle();
    }

    /// Hands a message to the tracker, and does not deliver messages between cores.
    pub fn web_send(&mut self, web: Web, text: &str) {
        let now = self.now;
        self.on(web.core, |tracker, exits| {
            tracker.handle_web(now, Connection(web.name), text, exits);
        });
    }

    /// Hands bytes to the tracker that are no text.
    pub fn web_send_bytes(&mut self, web: Web) {
        self.on(web.core, |tracker, exits| tracker.handle_bad_web(Connection(web.name), exits));
    }

    /// What has been said to WebSocket connections since the last call, in order.
    pub fn web_sent(&mut self) -> Vec<WebSent> {
        std::mem::take(&mut self.io.web_sent)
    }

    /// What other peers have said to `web`, taken.
    pub fn relayed(&mut self, web: Web) -> Vec<WebSent> {
        self.take_web(|sent| sent.to == web && sent.is_relayed())
    }

    /// What the tracker itself has said to `web`, taken.
    pub fn replies(&mut self, web: Web) -> Vec<WebSent> {
        self.take_web(|sent| sent.to == web && !sent.is_relayed())
    }

    fn take_web(&mut self, wanted: impl Fn(&WebSent) -> bool) -> Vec<WebSent> {
        let (taken, left) = self.web_sent().into_iter().partition(wanted);
        self.io.web_sent = left;
        taken
    }

    /// Sends a message and lets everything come of it: the one reply to it.
    pub fn reply(&mut self, web: Web, text: &str) -> WebSent {
        assert!(self.replies(web).is_empty(), "replies that nobody asked for");
        self.web_send(web, text);
        self.settle();
        let mut replies = self.replies(web);
        assert_eq!(replies.len(), 1, "one reply to {text}: {replies:?}");
        replies.remove(0)
    }

    /// Sends the whole head of a request to become a WebSocket: the bytes of the response that
    /// accepts it, or the response that does not; `None` if it is an ordinary request.
    pub fn upgrade(&mut self, source: IpAddr, request: &[u8]) -> Option<Result<Vec<u8>, Response>> {
        assert_eq!(head_end(request, 0), Ok(Some(request.len())), "one whole head");
        let head = Head::parse(request).expect("a head");
        if !head.upgrade {
            return None;
        }
        let (mut body, mut bytes) = (b"left over".to_vec(), Vec::new());
        let answer = self.on(0, |tracker, _| tracker.handle_upgrade(source, &head, &mut body))?;
        Some(match answer {
            Ok(upgrade) => {
                upgrade.write_response(&mut bytes);
                Ok(bytes)
            }
            Err(status) => {
                write_response(&mut bytes, status, &body, false, false);
                Err(Response::parse(&bytes, false))
            }
        })
    }

    /// Answers to HTTP connections that came after all.
    pub fn late_answers(&mut self) -> Vec<Response> {
        let answers = std::mem::take(&mut self.io.answers);
        let response = |body: &Vec<u8>| {
            let mut bytes = Vec::new();
            write_response(&mut bytes, throng::wire::http::Status::Ok, body, true, false);
            Response::parse(&bytes, false)
        };
        answers.iter().map(|(_, _, body)| response(body)).collect()
    }
}

fn trackers(options: &Options, owner: &Owner) -> Vec<Tracker> {
    let policy = Arc::new(options.policy.clone());
    let ids = ConnectionIds::new([7; 16], 1 << 30, options.connection_id_secs);
    let tracker = |core| {
        Tracker::new(Setup {
            core: CoreId(core),
            owner: owner.clone(),
            policy: policy.clone(),
            access: options.access.clone(),
            limits: options.limits.clone(),
            connection_ids: ids.clone(),
            bounds: options.bounds,
            hash_key: HashKey(options.seed, u64::from(core)),
            seed: options.seed ^ u64::from(core) << 32,
            relay_key: RelayKey::new([9; 16]),
        })
        .expect("address space")
    };
    (0..options.cores).map(tracker).collect()
}

impl HttpSent {
    /// As the connection reads it.
    pub fn response(&self) -> Response {
        let mut bytes = Vec::new();
        write_response(&mut bytes, throng::wire::http::Status::Ok, &self.body, true, false);
        Response::parse(&bytes, false)
    }
}

pub fn listener_of(source: SocketAddr) -> u8 {
    if source.is_ipv4() { LISTENER_V4 } else { LISTENER_V6 }
}

pub fn connect_bytes() -> Vec<u8> {
    let mut bytes = vec![0; udp::REQUEST_HEAD_BYTES];
    udp::write_connect_request(&mut bytes, TRANSACTION);
    bytes
}

pub fn announce_bytes(id: ConnectionId, announce: &Announce) -> Vec<u8> {
    let mut bytes = vec![0; udp::ANNOUNCE_BYTES];
    udp::write_announce_request(&mut bytes, id, TRANSACTION, announce);
    bytes
}

pub fn scrape_bytes(id: ConnectionId, hashes: &[InfoHash]) -> Vec<u8> {
    let mut bytes = vec![0; udp::REQUEST_HEAD_BYTES + 20 * hashes.len()];
    udp::write_scrape_request(&mut bytes, id, TRANSACTION, hashes);
    bytes
}

/// The family of the peers in a reply to `source`.
pub fn family_of(source: SocketAddr) -> Family {
    Family::of(source.ip().to_canonical())
}

pub fn read_announce(bytes: &[u8], source: SocketAddr) -> Answer {
    match Reply::parse(bytes) {
        Ok(Reply::Announce { transaction_id, interval, leechers, seeders, peers }) => {
            assert_eq!(transaction_id, TRANSACTION);
            Answer { interval, leechers, seeders, peers: compact(peers, family_of(source)) }
        }
        _ => panic!("no announce reply: {}", bytes.escape_ascii()),
    }
}

pub fn read_error(bytes: &[u8]) -> String {
    match Reply::parse(bytes) {
        Ok(Reply::Error { transaction_id, message }) => {
            assert_eq!(transaction_id, TRANSACTION);
            assert!(message.is_ascii() && message.len() < 64, "short text");
            String::from_utf8(message.to_vec()).expect("ASCII")
        }
        _ => panic!("no error: {}", bytes.escape_ascii()),
    }
}

pub fn read_scrape(bytes: &[u8]) -> Vec<[u32; 3]> {
    match Reply::parse(bytes) {
        Ok(Reply::Scrape { transaction_id, entries }) => {
            assert_eq!(transaction_id, TRANSACTION);
            let (entries, rest) = entries.as_chunks::<12>();
            assert!(rest.is_empty(), "whole entries");
            let number = |entry: &[u8; 12], at: usize| {
                u32::from_be_bytes(entry[at..at + 4].try_into().expect("4 bytes"))
            };
            entries.iter().map(|entry| [0, 4, 8].map(|at| number(entry, at))).collect()
        }
        _ => panic!("no scrape reply: {}", bytes.escape_ascii()),
    }
}

/// The `n`-th of a fixed series of hashes.
pub fn hash(n: u64) -> InfoHash {
    let mut rng = Rng::new(n ^ 0x7468_726F_6E67);
    InfoHash(std::array::from_fn(|_| u8::try_from(rng.below(256)).expect("a byte")))
}

/// The characters that stand for bytes in WebTorrent's messages.
pub fn latin1(bytes: &[u8]) -> String {
    bytes.iter().map(|&byte| char::from(byte)).collect()
}

/// A public IPv4 source.
pub fn v4(n: u32) -> SocketAddr {
    let ip = Ipv4Addr::from(u32::from(Ipv4Addr::new(5, 0, 0, 1)) + n);
    SocketAddr::new(ip.into(), 40_001)
}

/// A public IPv6 source.
pub fn v6(n: u32) -> SocketAddr {
    let [a, b, c, d] = n.to_be_bytes();
    let (high, low) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    let ip = Ipv6Addr::new(0x2a00, 0x1450, 0, 0, 0, 0, high, low);
    SocketAddr::new(ip.into(), 40_002)
}

pub fn address(text: &str) -> SocketAddr {
    let ip: IpAddr = text.parse().expect("an address");
    SocketAddr::new(ip, 40_003)
}

/// A leecher's regular announce.
pub fn leecher(info_hash: InfoHash, port: u16) -> Announce {
    Announce {
        info_hash,
        peer_id: PeerId(*b"-TR4040-abcdefghijkl"),
        port,
        uploaded: 1,
        downloaded: 2,
        left: Left::Bytes(1_000),
        event: Event::None,
        num_want: NumWant::Default,
        key: Some(0x1234_5678),
    }
}

/// A seeder's regular announce.
pub fn seeder(info_hash: InfoHash, port: u16) -> Announce {
    Announce { left: Left::Bytes(0), ..leecher(info_hash, port) }
}

/// Looks again at what a fuzz target has found worth keeping.
///
/// # Panics
/// If `check` does, or there is nothing.
pub fn replay(target: &str, check: fn(&[u8])) {
    // As one of the tests of the core by itself it lies two folders further up.
    let folders =
        ["", "../../"].map(|up| format!("{}/{up}fuzz/corpus/{target}", env!("CARGO_MANIFEST_DIR")));
    let entries = folders.iter().find_map(|folder| std::fs::read_dir(folder).ok());
    let mut count = 0;
    for entry in entries.expect("it is part of the repository") {
        let path = entry.expect("a readable folder").path();
        println!("{}", path.display());
        check(&std::fs::read(path).expect("a readable file"));
        count += 1;
    }
    assert!(count > 0, "the corpus of {target} is empty");
}

/// Every byte of `bytes` as `%XX`.
pub fn escape(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("%{byte:02X}")).collect()
}

/// The target of an announce by a client that says everything.
pub fn target(announce: &Announce, more: &str) -> String {
    let left = match announce.left {
        Left::Bytes(bytes) => bytes.to_string(),
        Left::Unknown => "-1".to_owned(),
    };
    let event = match announce.event {
        Event::None => "",
        Event::Completed => "completed",
        Event::Started => "started",
        Event::Stopped => "stopped",
        Event::Paused => "paused",
    };
    let num_want = match announce.num_want {
        NumWant::Default => String::new(),
        NumWant::Count(count) => format!("&numwant={count}"),
    };
    format!(
        "/announce?info_hash={}&peer_id={}&port={}&uploaded={}&downloaded={}&left={left}\
         &event={event}{num_want}{more}",
        escape(&announce.info_hash.0),
        escape(&announce.peer_id.0),
        announce.port,
        announce.uploaded,
        announce.downloaded,
    )
}

/// The target of a scrape.
pub fn scrape_target(hashes: &[InfoHash]) -> String {
    let hashes: Vec<String> =
        hashes.iter().map(|hash| format!("info_hash={}", escape(&hash.0))).collect();
    format!("/scrape?{}", hashes.join("&"))
}
