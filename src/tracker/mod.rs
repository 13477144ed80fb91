//! The whole protocol as one deterministic machine per core.
//!
//! A [`Tracker`] takes bytes, addresses and the time, and hands bytes to [`Effects`]. It owns the
//! swarms that `owner` gives to its core and nothing else: what concerns another core's swarm
//! leaves as a message. It opens no socket, reads no clock and logs nothing, so it can be fuzzed,
//! simulated and driven by any I/O.

pub mod access;
mod announce;
pub mod census;
pub mod connection_id;
pub mod counters;
pub mod http;
pub mod limiter;
pub mod message;
pub mod outcome;
pub mod owner;
pub mod policy;
pub mod published;
mod scrape;
pub mod survey;
mod udp;
pub mod web;

pub use scrape::Ticket;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use self::access::Access;
use self::census::Census;
use self::connection_id::ConnectionIds;
use self::counters::Counters;
use self::http::Connection;
use self::limiter::{Limiter, Limits};
use self::message::{Message, read_calls, read_members};
use self::outcome::{DropReason, Outcome};
use self::owner::{CoreId, Owner};
use self::policy::Policy;
use self::scrape::Scrapes;
use self::web::{RelayKey, WebConnections};
use crate::limits::UDP_REPLY_BYTES_MAX;
use crate::rng::Rng;
use crate::swarm::web::{Place, WebBounds, WebStore};
use crate::swarm::{Bounds, HashKey, NoMemory, SwarmStore};
use crate::time::Seconds;
use crate::wire::id::InfoHash;

/// What a tracker asks of whoever drives it.
pub trait Effects {
    /// A buffer for one datagram; `None` while all are in flight.
    fn reply_buffer(&mut self) -> Option<&mut [u8; UDP_REPLY_BYTES_MAX]>;
    /// Sends the first `len` bytes of the buffer handed out last, from the socket of `listener`.
    fn send_reply(&mut self, listener: u8, target: SocketAddr, len: usize);
    /// Puts a message into another core's mailbox.
    ///
    /// # Errors
    /// [`MailboxFull`]: it was not delivered and will not be.
    fn post(&mut self, to: CoreId, message: &[u8]) -> Result<(), MailboxFull>;
    /// Answers a request for which [`http::HttpAnswer::Pending`] was returned, or is about to be.
    fn answer_http(&mut self, connection: Connection, body: &[u8]);
    /// Sends a message to a WebSocket connection of this core that is open, as far as the tracker
    /// has been told.
    fn send_web(&mut self, connection: Connection, text: &[u8], kind: WebKind) {
        let _ = (connection, text, kind);
    }
    /// Hears what an announce changed.
    fn happened(&mut self, outcome: &Outcome) {
        let _ = outcome;
    }
}

/// Whose doing a message for a WebSocket connection is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum WebKind {
    /// It is about what the connection itself has asked.
    Reply,
    /// Another peer sends it, and nobody owes it to either of them.
    Relayed,
}

/// WebSocket peers may take this part of the memory for swarms and peers, beside it.
const WEB_MEMORY_SHARE: usize = 8;

/// The other core's mailbox has no room for the message.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct MailboxFull;

/// A datagram as it was received.
#[derive(Clone, Copy, Debug)]
pub struct Datagram<'a> {
    /// The listener it came in by; its answer leaves the same way.
    pub listener: u8,
    /// Who sent it.
    pub source: SocketAddr,
    /// Its payload, or the beginning of it.
    pub bytes: &'a [u8],
    /// It was longer than the buffer.
    pub truncated: bool,
}

impl Datagram<'_> {
    const fn target(&self) -> (u8, SocketAddr) {
        (self.listener, self.source)
    }
}

/// What makes one core's tracker.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Which core this is.
    pub core: CoreId,
    /// Who owns which swarm; the same on every core.
    pub owner: Owner,
    /// The operator's choices.
    pub policy: Arc<Policy>,
    /// The access lists in force.
    pub access: Access,
    /// How much that is new a source may bring to this core.
    pub limits: Limits,
    /// The secret of connection ids; the same on every core.
    pub connection_ids: ConnectionIds,
    /// The bounds of this core's store.
    pub bounds: Bounds,
    /// The key of this core's hash tables.
    pub hash_key: HashKey,
    /// The seed of this core's random choices.
    pub seed: u64,
    /// The secret behind the digests of offers; the same on every core.
    pub relay_key: RelayKey,
}

/// One core's share of the tracker.
#[derive(Debug)]
pub struct Tracker {
    core: CoreId,
    owner: Owner,
    policy: Arc<Policy>,
    access: Access,
    limiter: Limiter,
    connection_ids: ConnectionIds,
    store: SwarmStore,
    scrapes: Scrapes,
    /// WebSocket peers of this core's swarms.
    web: WebStore,
    /// WebSocket connections of this core.
    web_connections: WebConnections,
    relay_key: RelayKey,
    /// What UDP and HTTP peers use, and what WebSocket peers use.
    censuses: [Census; 2],
    counters: Counters,
    /// Where messages are written; kept for its capacity.
    message: Vec<u8>,
    /// Where HTTP bodies for others are written; kept for its capacity.
    body: Vec<u8>,
}

impl Tracker {
    /// A tracker without swarms.
    ///
    /// # Errors
    /// If the process may not have the address space for them.
    pub fn new(setup: Setup) -> Result<Self, NoMemory> {
        let store_budget_bytes = [setup.bounds.memory_bytes as u64];
        let counters = Counters { store_budget_bytes, ..Counters::default() };
        let web_bounds = WebBounds {
            memory_bytes: setup.bounds.memory_bytes / WEB_MEMORY_SHARE,
            peers_per_swarm: setup.bounds.peers_per_swarm,
            peer_ttl_secs: setup.policy.web_peer_ttl_secs(),
        };
        let policy = &setup.policy;
        let censuses = [policy.interval_secs, policy.web_interval_secs].map(Census::new);
        // Another sequence of choices than the other store's.
        let web_rng = Rng::new(!setup.seed);
        Ok(Self {
            core: setup.core,
            owner: setup.owner,
            policy: setup.policy,
            access: setup.access,
            limiter: Limiter::new(&setup.limits, setup.hash_key),
            connection_ids: setup.connection_ids,
            store: SwarmStore::new(setup.bounds, setup.hash_key, Rng::new(setup.seed))?,
            scrapes: Scrapes::default(),
            web: WebStore::new(web_bounds, setup.hash_key, web_rng),
            web_connections: WebConnections::default(),
            relay_key: setup.relay_key,
            censuses,
            counters,
            message: Vec::new(),
            body: Vec::new(),
        })
    }

    /// Handles a message that another core posted.
    pub fn handle_message(
        &mut self,
        now: Seconds,
        from: CoreId,
        message: &[u8],
        effects: &mut impl Effects,
    ) {
        self.counters.messages_received[0] += 1;
        match Message::parse(message) {
            Some(Message::Datagram { listener, source, bytes }) => {
                let datagram = Datagram { listener, source, bytes, truncated: false };
                self.handle_forwarded(now, &datagram, effects);
            }
            Some(Message::Announce { connection, ip, announce, form }) => {
                let asked = (&announce, form);
                self.handle_remote_announce(now, (from, connection), ip, asked, effects);
            }
            Some(Message::Body { connection, body }) => effects.answer_http(connection, body),
            Some(Message::Scrape { ticket, hashes }) => {
                self.answer_core(now, (from, ticket), hashes, effects);
            }
            Some(Message::Counts { ticket, counts }) => {
                self.gather((from, ticket), counts, effects);
            }
            Some(Message::WebAnnounce { connection, ip, report, calls }) => {
                let asked = (&report, &read_calls(calls));
                self.web_announce(now, (from, connection), ip, asked, effects);
            }
            Some(Message::Web { connection, text }) => {
                let target = Place { core: self.core.0, connection: connection.0 };
                self.send_web(target, text, effects);
            }
            Some(Message::Answer { connection, text }) => {
                self.give_answer(connection, text, effects);
            }
            Some(Message::Offer { connection, digest, offerer, text }) => {
                self.give_offer(now, connection, (digest, offerer), text, effects);
            }
            Some(Message::WebLeave { connection, members }) => {
                let place = Place { core: from.0, connection: connection.0 };
                for (info_hash, peer_id) in read_members(members) {
                    self.web_leave(now, (&info_hash, place, &peer_id), effects);
                }
            }
            None => debug_assert!(false, "a core posted what no core can read"),
        }
    }

    /// Lets time pass: late scrapes are given up, idle swarms leave. Bounded work; call it about
    /// once a second. Returns whether there is more to do at once.
    pub fn tick(&mut self, now: Seconds, effects: &mut impl Effects) -> bool {
        self.expire_scrapes(now, effects);
        self.retry_departures(effects);
        self.censuses.iter_mut().for_each(|census| census.tick(now));
        self.web.sweep(now);
        self.store.sweep(now)
    }

    /// A slice of what [`Tracker::tick`] does for idle swarms, for when there is more of them.
    pub fn sweep(&mut self, now: Seconds) -> bool {
        self.store.sweep(now)
    }

    /// The operator's choices.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Replaces the access lists.
    pub fn set_access(&mut self, access: Access) {
        self.access = access;
    }

    /// Whether nothing is to be heard from `ip` (canonical).
    #[must_use]
    pub fn bans(&self, ip: IpAddr) -> bool {
        self.access.bans(ip)
    }

    /// Whether a connection from `ip` may stay, or there have been too many of late.
    pub fn admits_connection(&mut self, now: Seconds, ip: IpAddr) -> bool {
        self.limiter.admit_connection(now, ip)
    }

    /// Removes a swarm and everybody in it. Returns how many there were, if it was there.
    pub fn forget(&mut self, info_hash: &InfoHash) -> Option<u32> {
        let swarm = self.describe(info_hash)?;
        self.store.forget(info_hash);
        self.web.forget(info_hash);
        Some(swarm.peers())
    }

    /// What this core counted; whoever drives the tracker counts its own events here too.
    pub const fn counters_mut(&mut self) -> &mut Counters {
        &mut self.counters
    }

    /// What this core counted, with the store's figures brought up to date.
    pub fn counters(&mut self) -> &Counters {
        let totals = self.store.totals();
        let counters = &mut self.counters;
        counters.swarms = [totals.swarms];
        counters.seeders = totals.seeders;
        counters.leechers = totals.leechers;
        counters.store_bytes = [totals.bytes];
        counters.store_budget_bytes = [totals.budget_bytes];
        counters.store_refused_bytes = [totals.refused_bytes];
        counters.store_block_bytes = totals.block_bytes;
        counters.expired_peers = [totals.expired_peers];
        counters.evicted_peers = [totals.evicted_peers];
        counters.evicted_swarms = [totals.evicted_swarms];
        counters.pending_scrapes = [self.scrapes.len() as u64];
        let web = self.web.totals();
        counters.web_swarms = [web.swarms];
        counters.web_only_swarms =
            [web.swarms - web.shared_swarms, web.active_swarms - web.shared_swarms];
        counters.web_seeders = web.seeders;
        counters.web_leechers = web.leechers;
        counters.expired_peers[0] += web.expired_peers;
        counters.evicted_peers[0] += web.evicted_peers;
        counters.web_store_bytes = [self.web.bytes() as u64];
        counters.store_bytes[0] += counters.web_store_bytes[0];
        counters.web_connections = [self.web_connections.len() as u64];
        counters
    }

    /// Which clients were seen: among UDP and HTTP peers, and among WebSocket peers.
    #[must_use]
    pub const fn censuses(&self) -> [&Census; 2] {
        let [others, web] = &self.censuses;
        [others, web]
    }

    /// Panics unless every stated relation holds. For tests and the fuzzers.
    pub fn check_invariants(&self) {
        self.store.check_invariants();
        self.web.check_invariants();
    }

    /// Writes a message and posts it.
    fn post(
        &mut self,
        to: CoreId,
        message: &Message<'_>,
        effects: &mut impl Effects,
    ) -> Result<(), DropReason> {
        message.write(&mut self.message);
        match effects.post(to, &self.message) {
            Ok(()) => {
                self.counters.messages_sent[0] += 1;
                Ok(())
            }
            Err(MailboxFull) => {
                self.counters.messages_refused[0] += 1;
                Err(DropReason::MailboxFull)
            }
        }
    }
}
