//! The whole protocol as one deterministic machine per core.
//!
//! A [`Tracker`] takes bytes, addresses and the time, and hands bytes to [`Effects`]. It owns the
//! swarms that `owner` gives to its core and nothing else: what concerns another core's swarm
//! leaves as a message. It opens no socket, reads no clock and logs nothing, so it can be fuzzed,
//! simulated and driven by any I/O.

pub mod access;
mod announce;
pub mod connection_id;
pub mod counters;
pub mod http;
pub mod message;
pub mod outcome;
pub mod owner;
pub mod policy;
pub mod published;
mod scrape;
mod udp;

pub use scrape::Ticket;

use std::net::SocketAddr;
use std::sync::Arc;

use self::access::Access;
use self::connection_id::ConnectionIds;
use self::counters::Counters;
use self::http::Connection;
use self::message::Message;
use self::outcome::{DropReason, Outcome};
use self::owner::{CoreId, Owner};
use self::policy::Policy;
use self::scrape::Scrapes;
use crate::limits::UDP_REPLY_BYTES_MAX;
use crate::rng::Rng;
use crate::swarm::{Bounds, HashKey, SwarmStore};
use crate::time::Seconds;

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
    /// Hears what an announce changed.
    fn happened(&mut self, outcome: &Outcome) {
        let _ = outcome;
    }
}

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
    /// The access list in force.
    pub access: Access,
    /// The secret of connection ids; the same on every core.
    pub connection_ids: ConnectionIds,
    /// The bounds of this core's store.
    pub bounds: Bounds,
    /// The key of this core's hash tables.
    pub hash_key: HashKey,
    /// The seed of this core's random choices.
    pub seed: u64,
}

/// One core's share of the tracker.
#[derive(Debug)]
pub struct Tracker {
    core: CoreId,
    owner: Owner,
    policy: Arc<Policy>,
    access: Access,
    connection_ids: ConnectionIds,
    store: SwarmStore,
    scrapes: Scrapes,
    counters: Counters,
    /// Where messages are written; kept for its capacity.
    message: Vec<u8>,
    /// Where HTTP bodies for others are written; kept for its capacity.
    body: Vec<u8>,
}

impl Tracker {
    /// A tracker without swarms.
    #[must_use]
    pub fn new(setup: Setup) -> Self {
        let store_budget_bytes = [setup.bounds.memory_bytes as u64];
        let counters = Counters { store_budget_bytes, ..Counters::default() };
        Self {
            core: setup.core,
            owner: setup.owner,
            policy: setup.policy,
            access: setup.access,
            connection_ids: setup.connection_ids,
            store: SwarmStore::new(setup.bounds, setup.hash_key, Rng::new(setup.seed)),
            scrapes: Scrapes::default(),
            counters,
            message: Vec::new(),
            body: Vec::new(),
        }
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
            None => debug_assert!(false, "a core posted what no core can read"),
        }
    }

    /// Lets time pass: late scrapes are given up, idle swarms leave. Bounded work; call it about
    /// once a second. Returns whether there is more to do at once.
    pub fn tick(&mut self, now: Seconds, effects: &mut impl Effects) -> bool {
        self.expire_scrapes(now, effects);
        self.store.sweep(now)
    }

    /// A slice of what [`Tracker::tick`] does for idle swarms, for when there is more of them.
    pub fn sweep(&mut self, now: Seconds) -> bool {
        self.store.sweep(now)
    }

    /// Replaces the access list.
    pub fn set_access(&mut self, access: Access) {
        self.access = access;
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
        counters.expired_peers = [totals.expired_peers];
        counters.evicted_peers = [totals.evicted_peers];
        counters.evicted_swarms = [totals.evicted_swarms];
        counters.pending_scrapes = [self.scrapes.len() as u64];
        counters
    }

    /// Panics unless every stated relation holds. For tests and the fuzzers.
    pub fn check_invariants(&self) {
        self.store.check_invariants();
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
