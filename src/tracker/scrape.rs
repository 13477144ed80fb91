//! Scrapes of several swarms, answered in the order asked whatever cores own them.
//!
//! The core that received a scrape gathers: it counts its own swarms, asks each other owner once
//! for all of that owner's, and answers when the last one has replied. What waits is bounded in
//! number and in time, and what it is kept in is used again: once warm, nothing is allocated.

use std::net::{IpAddr, SocketAddr};

use smallvec::SmallVec;

use super::counters::{Action, Asked, Transport};
use super::http::Connection;
use super::message::{COUNTS_BYTES, Message, read_counts, write_counts};
use super::outcome::DropReason;
use super::owner::CoreId;
use super::{Effects, Tracker};
use crate::limits::{
    HTTP_SCRAPE_HASHES_MAX, PENDING_SCRAPE_SECONDS, PENDING_SCRAPES_MAX, UDP_SCRAPE_HASHES_MAX,
    WARM_FROM,
};
use crate::swarm::Counts;
use crate::time::Seconds;
use crate::wire::id::{InfoHash, TransactionId};

/// Names a scrape that waits: a slot and a generation, so that a late answer cannot hit another.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Ticket(pub u64);

/// Bits of a ticket that name the slot.
const SLOT_BITS: u32 = 16;
const _: () = assert!(PENDING_SCRAPES_MAX <= 1 << SLOT_BITS);

/// Owners to ask; their number is bounded by that of the hashes.
type Others = SmallVec<[CoreId; HTTP_SCRAPE_HASHES_MAX]>;
const _: () = assert!(UDP_SCRAPE_HASHES_MAX <= HTTP_SCRAPE_HASHES_MAX);

/// Who asked.
#[derive(Clone, Copy, Debug)]
pub(super) enum ScrapeAsker {
    /// A verified UDP source.
    Udp { listener: u8, source: SocketAddr, transaction_id: TransactionId },
    /// An HTTP connection.
    Http { connection: Connection, ip: IpAddr },
    /// A WebSocket connection.
    Web { connection: Connection, ip: IpAddr },
}

impl ScrapeAsker {
    fn asked(self) -> Asked {
        let (transport, ip) = match self {
            Self::Udp { source, .. } => (Transport::Udp, source.ip()),
            Self::Http { ip, .. } => (Transport::Http, ip),
            Self::Web { ip, .. } => (Transport::Web, ip),
        };
        Asked::new(transport, ip, Some(Action::Scrape))
    }
}

/// One scrape while its counts come in.
#[derive(Debug)]
pub(super) struct Gathering {
    asker: ScrapeAsker,
    started: Seconds,
    /// Cores that have not answered yet.
    waiting: usize,
    /// What was asked for, and the core that owns it, and its counts once known.
    rows: Vec<(InfoHash, CoreId, Counts)>,
}

impl Gathering {
    /// The counts, in the order asked.
    pub(super) fn rows(&self) -> impl Iterator<Item = (&InfoHash, &Counts)> {
        self.rows.iter().map(|(hash, _, counts)| (hash, counts))
    }
}

/// The scrapes of one core that wait for others.
#[derive(Debug, Default)]
pub(super) struct Scrapes {
    /// A slot's generation goes up each time it is taken; `None` while it is free.
    slots: Vec<(u64, Option<Gathering>)>,
    free: Vec<usize>,
    /// Rows of finished scrapes, to be used again.
    spare: Vec<Vec<(InfoHash, CoreId, Counts)>>,
    /// Hashes or counts on their way to another core; kept for its capacity.
    bytes: Vec<u8>,
}

impl Scrapes {
    /// Scrapes that wait.
    pub(super) const fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    fn insert(&mut self, gathering: Gathering) -> Result<Ticket, Gathering> {
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None if self.slots.len() < PENDING_SCRAPES_MAX => {
                self.slots.push((0, None));
                self.slots.len() - 1
            }
            None => return Err(gathering),
        };
        let (generation, content) = &mut self.slots[slot];
        *generation += 1;
        *content = Some(gathering);
        Ok(Ticket(*generation << SLOT_BITS | slot as u64))
    }

    fn get(&mut self, ticket: Ticket) -> Option<&mut Gathering> {
        let slot = usize::try_from(ticket.0 & ((1 << SLOT_BITS) - 1)).ok()?;
        let (generation, content) = self.slots.get_mut(slot)?;
        content.as_mut().filter(|_| *generation == ticket.0 >> SLOT_BITS)
    }

    fn remove(&mut self, ticket: Ticket) -> Option<Gathering> {
        self.get(ticket)?;
        let slot = usize::try_from(ticket.0 & ((1 << SLOT_BITS) - 1)).ok()?;
        self.free.push(slot);
        self.slots[slot].1.take()
    }

    fn recycle(&mut self, mut gathering: Gathering) {
        gathering.rows.clear();
        self.spare.push(gathering.rows);
    }
}

impl Tracker {
    /// Starts a scrape of `hashes` (bounded by the caller). It is answered through `effects`, now
    /// if this core owns all of them, else when the others have answered.
    ///
    /// # Errors
    /// Why it will not be answered.
    pub(super) fn scrape(
        &mut self,
        now: Seconds,
        asker: ScrapeAsker,
        hashes: impl Iterator<Item = InfoHash>,
        effects: &mut impl Effects,
    ) -> Result<(), DropReason> {
        let mut rows = self.scrapes.spare.pop().unwrap_or_default();
        for hash in hashes {
            rows.push((hash, self.owner.core(&hash), Counts::default()));
        }
        // All swarms at once first, then one after the other.
        let mut due = [(InfoHash([0; 20]), None); HTTP_SCRAPE_HASHES_MAX];
        for (due, row) in due.iter_mut().zip(&rows) {
            due.0 = row.0;
        }
        if rows.len() >= WARM_FROM {
            self.store.warm(&due[..rows.len().min(due.len())]);
        }
        let own = self.core;
        for row in rows.iter_mut().filter(|row| row.1 == own) {
            row.2 = self.count(now, &row.0);
        }
        let mut others: Others =
            rows.iter().map(|row| row.1).filter(|&core| core != self.core).collect();
        others.sort_unstable();
        others.dedup();
        let gathering = Gathering { asker, started: now, waiting: others.len(), rows };
        if others.is_empty() {
            let answered = self.answer_scrape(&gathering, effects);
            self.scrapes.recycle(gathering);
            return answered;
        }
        let ticket = match self.scrapes.insert(gathering) {
            Ok(ticket) => ticket,
            Err(gathering) => {
                self.scrapes.recycle(gathering);
                return Err(DropReason::TooManyScrapes);
            }
        };
        for core in others {
            if let Err(reason) = self.ask(core, ticket, effects) {
                if let Some(gathering) = self.scrapes.remove(ticket) {
                    self.scrapes.recycle(gathering);
                }
                return Err(reason);
            }
        }
        Ok(())
    }

    /// Asks another core for the counts of all its swarms in a scrape that waits.
    fn ask(
        &mut self,
        core: CoreId,
        ticket: Ticket,
        effects: &mut impl Effects,
    ) -> Result<(), DropReason> {
        let mut hashes = std::mem::take(&mut self.scrapes.bytes);
        hashes.clear();
        let gathering = self.scrapes.get(ticket).expect("it waits");
        for (hash, owner, _) in &gathering.rows {
            if *owner == core {
                hashes.extend(hash.0);
            }
        }
        let asked = self.post(core, &Message::Scrape { ticket, hashes: &hashes }, effects);
        self.scrapes.bytes = hashes;
        asked
    }

    /// Another core's question: count and answer.
    pub(super) fn answer_core(
        &mut self,
        now: Seconds,
        (from, ticket): (CoreId, Ticket),
        hashes: &[u8],
        effects: &mut impl Effects,
    ) {
        let mut counts = std::mem::take(&mut self.scrapes.bytes);
        counts.clear();
        for hash in hashes.as_chunks::<20>().0 {
            write_counts(&mut counts, &self.count(now, &InfoHash(*hash)));
        }
        // If the mailbox is full the asker gives up after a while, and counts it.
        let _ = self.post(from, &Message::Counts { ticket, counts: &counts }, effects);
        self.scrapes.bytes = counts;
    }

    /// Another core's answer: fill it in, and answer the peer if it was the last one.
    pub(super) fn gather(
        &mut self,
        (from, ticket): (CoreId, Ticket),
        counts: &[u8],
        effects: &mut impl Effects,
    ) {
        let Some(gathering) = self.scrapes.get(ticket) else { return };
        let rows = gathering.rows.iter_mut().filter(|row| row.1 == from);
        for (row, counts) in rows.zip(counts.chunks_exact(COUNTS_BYTES)) {
            row.2 = read_counts(counts);
        }
        gathering.waiting -= 1;
        if gathering.waiting == 0 {
            let gathering = self.scrapes.remove(ticket).expect("found above");
            if let Err(reason) = self.answer_scrape(&gathering, effects) {
                self.counters.drop(gathering.asker.asked(), reason);
            }
            self.scrapes.recycle(gathering);
        }
    }

    /// Gives up scrapes that have waited too long.
    pub(super) fn expire_scrapes(&mut self, now: Seconds, effects: &mut impl Effects) {
        for slot in 0..self.scrapes.slots.len() {
            let (generation, content) = &self.scrapes.slots[slot];
            let late = content
                .as_ref()
                .is_some_and(|waiting| now.since(waiting.started) >= PENDING_SCRAPE_SECONDS);
            if !late {
                continue;
            }
            let ticket = Ticket(generation << SLOT_BITS | slot as u64);
            let gathering = self.scrapes.remove(ticket).expect("seen above");
            match gathering.asker {
                ScrapeAsker::Udp { .. } => {
                    self.counters.drop(gathering.asker.asked(), DropReason::OwnerSilent);
                }
                ScrapeAsker::Http { connection, ip } => {
                    self.answer_busy((connection, ip), effects);
                }
                ScrapeAsker::Web { connection, ip } => {
                    self.answer_web_busy((connection, ip), effects);
                }
            }
            self.scrapes.recycle(gathering);
        }
    }

    /// Who is in a swarm of this core; nobody, if the access list does not let it in.
    pub(super) fn count(&mut self, now: Seconds, info_hash: &InfoHash) -> Counts {
        if !self.access.allows(info_hash) {
            return Counts::default();
        }
        let swarm = self.store.find(now, info_hash);
        let counts = swarm.map_or_else(Counts::default, |swarm| self.store.counts(swarm));
        counts.plus(self.web.counts(info_hash))
    }

    fn answer_scrape(
        &mut self,
        gathering: &Gathering,
        effects: &mut impl Effects,
    ) -> Result<(), DropReason> {
        match gathering.asker {
            ScrapeAsker::Udp { listener, source, transaction_id } => {
                self.answer_udp_scrape(gathering, (listener, source), transaction_id, effects)
            }
            ScrapeAsker::Http { connection, ip } => {
                self.answer_http_scrape(gathering, (connection, ip), effects);
                Ok(())
            }
            ScrapeAsker::Web { connection, ip } => {
                self.answer_web_scrape(gathering, (connection, ip), effects);
                Ok(())
            }
        }
    }
}
