//! WebTorrent: what WebSocket peers get for their messages.
//!
//! A connection is on one core, the swarms of its peers are on others, and so are the connections
//! of those that they are offered to. What has to be remembered about a connection (the swarms of
//! its peers, the offers that it may answer) is with the connection; who is in a swarm is with the
//! swarm's owner.
//!
//! ```text
//! announce with offers    connection's core --WebAnnounce--> owner   the peer is entered,
//!                         connection's core <-----Web------- owner   its answer comes back,
//!                                owner --Offer--> core of a chosen peer's connection
//! answer                  that core --Answer--> core of the connection that made the offer
//! ```
//!
//! An answer needs no owner: the core that brought the offer to a connection remembers who made it,
//! as a keyed digest of its name. So an answer is brought to that connection only, once, and only
//! from the connection that was given the offer. What who answers calls itself is between the two:
//! libtorrent has drawn another `peer_id` for each answer.

use std::net::IpAddr;

use smallvec::SmallVec;

use super::counters::{Action, Asked, Transport};
use super::http::Connection;
use super::message::{Message, write_call, write_member};
use super::outcome::{Change, Outcome, Refusal};
use super::owner::CoreId;
use super::policy::POLITE_INTERVAL_SECS;
use super::scrape::{Gathering, ScrapeAsker};
use super::{Effects, Tracker, WebKind};
use crate::limits::WEB_OFFERS_MAX;
use crate::swarm::web::{Place, WebArrival, WebRefused};
use crate::swarm::{Newcomer, Report};
use crate::time::Seconds;
use crate::wire::addr::{Family, source_key};
use crate::wire::announce::{Event, Left};
use crate::wire::error::ParseError;
use crate::wire::id::{InfoHash, PeerId};
use crate::wire::webtorrent::{self, Answer, Request, Row, WebAnnounce};

mod connections;
mod digest;

pub(super) use connections::WebConnections;
pub use digest::RelayKey;

use connections::{DEPARTURES_MAX, Membership, WebConnection};

/// What an owner needs of an announce.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct WebReport {
    /// The swarm.
    pub info_hash: InfoHash,
    /// The client's own name for itself.
    pub peer_id: PeerId,
    /// What it still needs.
    pub left: Left,
    /// What has just happened.
    pub event: Event,
}

/// An offer on its way to whoever is chosen.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Call<'a> {
    /// The digest of the swarm, the offerer and the `offer_id`.
    pub digest: u64,
    /// The `offer_id` as it came, a JSON string.
    pub offer_id: &'a [u8],
    /// The offer as it came, a JSON object.
    pub offer: &'a [u8],
}

/// The offers of one announce.
pub type Calls<'a> = SmallVec<[Call<'a>; WEB_OFFERS_MAX]>;

/// Peers of a closed connection that one message names: the owner does what a message asks for in
/// one go, and others wait for it.
const LEAVE_TOGETHER: usize = 32;

impl Tracker {
    /// A WebSocket connection from `ip` has been opened.
    pub fn web_opened(&mut self, ip: IpAddr, connection: Connection) {
        let opened = WebConnection::new(ip.to_canonical());
        self.web_connections.open.insert(connection.0, opened);
        self.counters.web_connections_accepted[0] += 1;
    }

    /// A WebSocket connection has been closed: its peers leave their swarms, and nothing that is
    /// meant for it has a receiver any more.
    pub fn web_closed(&mut self, now: Seconds, connection: Connection, effects: &mut impl Effects) {
        let Some(closed) = self.web_connections.open.remove(&connection.0) else { return };
        if self.web_connections.open.is_empty() {
            self.web_connections.open.shrink_to(0);
        }
        let owned = |peer: Membership| (self.owner.core(&peer.info_hash), peer);
        let mut peers: Vec<_> = closed.memberships.into_iter().map(owned).collect();
        peers.sort_by_key(|(owner, _)| *owner);
        for peers in peers.chunk_by(|one, other| one.0 == other.0) {
            let owner = peers[0].0;
            if owner == self.core {
                let place = self.place(connection);
                for (_, peer) in peers {
                    self.web_leave(now, (&peer.info_hash, place, &peer.peer_id), effects);
                }
                continue;
            }
            let mut members = Vec::new();
            for peers in peers.chunks(LEAVE_TOGETHER) {
                members.clear();
                for (_, peer) in peers {
                    write_member(&mut members, &peer.info_hash, &peer.peer_id);
                }
                let message = Message::WebLeave { connection, members: &members };
                if self.post(owner, &message, effects).is_err() {
                    let departures = &mut self.web_connections.departures;
                    if departures.len() < DEPARTURES_MAX {
                        departures.push((owner, self.message.clone()));
                    }
                }
            }
        }
    }

    /// Tells cores whose mailbox was full about peers that have left.
    pub(super) fn retry_departures(&mut self, effects: &mut impl Effects) {
        if self.web_connections.departures.is_empty() {
            return;
        }
        let waiting = &mut self.web_connections.departures;
        let before = waiting.len();
        waiting.retain(|(owner, message)| effects.post(*owner, message).is_err());
        self.counters.messages_sent[0] += (before - waiting.len()) as u64;
        self.counters.messages_refused[0] += waiting.len() as u64;
    }

    /// Handles a message that came by a WebSocket connection. What there is to say about it goes
    /// out through [`Effects::send_web`], now or later.
    pub fn handle_web(
        &mut self,
        now: Seconds,
        connection: Connection,
        text: &str,
        effects: &mut impl Effects,
    ) {
        let Some(asker) = self.web_connections.open.get(&connection.0) else { return };
        let ip = asker.ip;
        let family = Family::of(ip);
        if self.access.bans(ip) {
            // It was open before the ban; what it is in goes with it.
            self.refuse_web((connection, ip), None, Refusal::Banned, None, effects);
            return;
        }
        match Request::parse(text) {
            Ok(Request::Announce(announce)) => {
                self.counters.request(Transport::Web, family, Action::Announce);
                self.ask_owner(now, (connection, ip), &announce, effects);
            }
            Ok(Request::Answer(answer)) => {
                self.counters.request(Transport::Web, family, Action::Answer);
                self.bring_answer(now, (connection, ip), &answer, effects);
            }
            Ok(Request::Scrape(hashes)) => {
                self.counters.request(Transport::Web, family, Action::Scrape);
                self.web_scrape(now, (connection, ip), hashes, effects);
            }
            Err(error) => {
                let refusal = Refusal::Malformed(error);
                self.refuse_web((connection, ip), None, refusal, None, effects);
            }
        }
    }

    /// Answers bytes that are no text.
    pub fn handle_bad_web(&mut self, connection: Connection, effects: &mut impl Effects) {
        let Some(asker) = self.web_connections.open.get(&connection.0) else { return };
        let (asker, refusal) = ((connection, asker.ip), Refusal::Malformed(ParseError::BadJson));
        self.refuse_web(asker, None, refusal, None, effects);
    }

    /// Passes an announce to the swarm's owner, which may be this core.
    fn ask_owner(
        &mut self,
        now: Seconds,
        (connection, ip): (Connection, IpAddr),
        announce: &WebAnnounce<'_>,
        effects: &mut impl Effects,
    ) {
        let WebAnnounce { info_hash, peer_id, left, event, .. } = *announce;
        let ttl_secs = self.policy.web_peer_ttl_secs();
        let asker = self.web_connections.open.get_mut(&connection.0).expect("seen by the caller");
        let stopped = event == Event::Stopped;
        if !stopped && !asker.join(now, (info_hash, peer_id), ttl_secs) {
            let refusal = Refusal::TooManyTorrents;
            let (asker, action) = ((connection, ip), Some(Action::Announce));
            self.refuse_web(asker, action, refusal, Some(&info_hash), effects);
            return;
        }
        let call = |offer: &webtorrent::Offer<'_>| {
            self.relay_key.offer(&info_hash, &peer_id, &offer.offer_id.text)
        };
        let calls: Calls<'_> = announce
            .offers
            .iter()
            .map(|offer| Call {
                digest: call(offer),
                offer_id: offer.offer_id.literal.as_bytes(),
                offer: offer.offer.as_bytes(),
            })
            .collect();
        let report = WebReport { info_hash, peer_id, left, event };
        let owner = self.owner.core(&info_hash);
        if owner == self.core {
            self.web_announce(now, (self.core, connection), ip, (&report, &calls), effects);
        } else {
            let mut bytes = std::mem::take(&mut self.body);
            bytes.clear();
            calls.iter().for_each(|call| write_call(&mut bytes, call));
            let message = Message::WebAnnounce { connection, ip, report, calls: &bytes };
            let posted = self.post(owner, &message, effects);
            self.body = bytes;
            if posted.is_err() {
                let refusal = Refusal::Busy;
                let (asker, action) = ((connection, ip), Some(Action::Announce));
                self.refuse_web(asker, action, refusal, Some(&info_hash), effects);
                return;
            }
        }
        // Not before: a peer whose owner has not heard of its stop leaves with its connection.
        if stopped && let Some(asker) = self.web_connections.open.get_mut(&connection.0) {
            asker.leave(&info_hash, &peer_id);
        }
    }

    /// Applies an announce to a swarm of ours, answers it, and passes its offers on.
    pub(super) fn web_announce(
        &mut self,
        now: Seconds,
        (from, connection): (CoreId, Connection),
        ip: IpAddr,
        (report, calls): (&WebReport, &Calls<'_>),
        effects: &mut impl Effects,
    ) {
        let WebReport { info_hash, peer_id, left, event } = *report;
        let place = Place { core: from.0, connection: connection.0 };
        let mut reply = std::mem::take(&mut self.body);
        reply.clear();
        if !self.access.allows(&info_hash) {
            if event == Event::Stopped {
                // It may have come when the list let it in, and its connection forgets it now.
                self.web_leave(now, (&info_hash, place, &peer_id), effects);
            }
            if self.policy.polite_refusal {
                let nobody = (0, 0);
                let interval_secs = POLITE_INTERVAL_SECS;
                webtorrent::write_announce_reply(&mut reply, &info_hash, nobody, interval_secs);
                self.counters.reply(Transport::Web, Family::of(ip), Action::Announce);
            } else {
                self.write_web_refusal(&mut reply, ip, Refusal::NotAllowed, &info_hash);
            }
            self.send_web(place, &reply, effects);
            self.body = reply;
            return;
        }
        let arrival = WebArrival {
            info_hash,
            place,
            peer_id,
            family: Family::of(ip),
            source: source_key(ip),
            report: Report {
                seeder: left.is_seeder(),
                partial: event == Event::Paused,
                completed: event == Event::Completed,
            },
        };
        let announced = if event == Event::Stopped {
            self.web_leave(now, (&info_hash, place, &peer_id), effects);
            None
        } else {
            let (limiter, store) = (&mut self.limiter, &self.store);
            let admit = |newcomer, beside| {
                let is_known = newcomer == Newcomer::Swarm && store.look_up(&info_hash).is_some();
                let newcomer = if is_known { Newcomer::Peer } else { newcomer };
                limiter.admit(now, ip, newcomer, || beside)
            };
            match self.web.announce_if(now, &arrival, admit) {
                Ok(announced) => {
                    self.censuses[1].saw(&peer_id);
                    let is_shared = self.store.find(now, &info_hash).is_some();
                    self.web.set_shared(announced.swarm, is_shared);
                    let change = match (announced.completed, announced.joined) {
                        (true, _) => Change::Completed,
                        (_, true) => Change::Joined,
                        _ => Change::Refreshed,
                    };
                    self.counters.completed[0] += u64::from(announced.completed);
                    let removed = announced.evicted;
                    effects.happened(&Outcome { info_hash, event, change, removed });
                    Some(announced)
                }
                Err(refused) => {
                    let refusal = match refused {
                        WebRefused::Full => Refusal::Busy,
                        WebRefused::NotAdmitted(refusal) => refusal,
                    };
                    self.write_web_refusal(&mut reply, ip, refusal, &info_hash);
                    self.send_web(place, &reply, effects);
                    self.body = reply;
                    return;
                }
            }
        };
        let counts = self.count(now, &info_hash);
        let interval_secs = self.policy.web_interval_secs(&peer_id, &info_hash);
        let who = (counts.seeders, counts.leechers);
        webtorrent::write_announce_reply(&mut reply, &info_hash, who, interval_secs);
        self.counters.reply(Transport::Web, arrival.family, Action::Announce);
        self.send_web(place, &reply, effects);
        if let Some(announced) = announced {
            let asker = (announced.asker, arrival.report.seeder);
            let chosen = self.web.choose(announced.swarm, asker, calls.len());
            for (call, target) in calls.iter().zip(chosen) {
                reply.clear();
                let relayed = (call.offer, call.offer_id);
                webtorrent::write_offer(&mut reply, &info_hash, &peer_id, relayed);
                self.send_offer(now, target, (call.digest, place), &reply, effects);
            }
        }
        self.body = reply;
    }

    /// A peer leaves a swarm of ours.
    pub(super) fn web_leave(
        &mut self,
        now: Seconds,
        (info_hash, place, peer_id): (&InfoHash, Place, &PeerId),
        effects: &mut impl Effects,
    ) {
        let left = self.web.leave(now, info_hash, place, peer_id);
        let change = if left { Change::Left } else { Change::Nothing };
        let event = Event::Stopped;
        effects.happened(&Outcome { info_hash: *info_hash, event, change, removed: 0 });
    }

    /// Brings an offer to a connection of this core, and remembers who made it.
    pub(super) fn give_offer(
        &mut self,
        now: Seconds,
        connection: Connection,
        (digest, offerer): (u64, Place),
        text: &[u8],
        effects: &mut impl Effects,
    ) {
        let Some(receiver) = self.web_connections.open.get_mut(&connection.0) else {
            self.counters.web_undelivered[0] += 1;
            return;
        };
        receiver.give(now, digest, offerer);
        effects.send_web(connection, text, WebKind::Relayed);
        self.counters.web_offers[0] += 1;
    }

    /// Brings an answer to the connection that made the offer.
    fn bring_answer(
        &mut self,
        now: Seconds,
        (connection, ip): (Connection, IpAddr),
        answer: &Answer<'_>,
        effects: &mut impl Effects,
    ) {
        let Answer { info_hash, peer_id, to_peer_id, .. } = answer;
        let digest = self.relay_key.offer(info_hash, to_peer_id, &answer.offer_id.text);
        let answerer = self.web_connections.open.get_mut(&connection.0);
        let Some(offerer) = answerer.and_then(|answerer| answerer.take(now, digest)) else {
            let refusal = Refusal::NoSuchOffer;
            let (asker, action) = ((connection, ip), Some(Action::Answer));
            self.refuse_web(asker, action, refusal, Some(info_hash), effects);
            return;
        };
        let mut text = std::mem::take(&mut self.body);
        text.clear();
        let relayed = (answer.answer.as_bytes(), answer.offer_id.literal.as_bytes());
        webtorrent::write_answer(&mut text, info_hash, peer_id, relayed);
        let (core, target) = (CoreId(offerer.core), Connection(offerer.connection));
        let passed_on = if core == self.core {
            self.give_answer(target, &text, effects);
            Ok(())
        } else {
            self.post(core, &Message::Answer { connection: target, text: &text }, effects)
        };
        let asked = Asked::new(Transport::Web, ip, Some(Action::Answer));
        match passed_on {
            Ok(()) => self.counters.reply(asked.transport, asked.family, Action::Answer),
            Err(reason) => {
                self.counters.web_undelivered[0] += 1;
                self.counters.drop(asked, reason);
            }
        }
        self.body = text;
    }

    /// Brings an answer to a connection of this core.
    pub(super) fn give_answer(
        &mut self,
        connection: Connection,
        text: &[u8],
        effects: &mut impl Effects,
    ) {
        if self.web_connections.open.contains_key(&connection.0) {
            effects.send_web(connection, text, WebKind::Relayed);
            self.counters.web_answers[0] += 1;
        } else {
            self.counters.web_undelivered[0] += 1;
        }
    }

    fn web_scrape(
        &mut self,
        now: Seconds,
        (connection, ip): (Connection, IpAddr),
        mut hashes: Vec<InfoHash>,
        effects: &mut impl Effects,
    ) {
        let scrape = Some(Action::Scrape);
        hashes.truncate(self.policy.http_scrape_hashes_max);
        if hashes.is_empty() {
            self.refuse_web((connection, ip), scrape, Refusal::FullScrape, None, effects);
            return;
        }
        // An object has each key once.
        hashes.sort_unstable();
        hashes.dedup();
        let asker = ScrapeAsker::Web { connection, ip };
        if self.scrape(now, asker, hashes.into_iter(), effects).is_err() {
            self.refuse_web((connection, ip), scrape, Refusal::Busy, None, effects);
        }
    }

    pub(super) fn answer_web_scrape(
        &mut self,
        gathering: &Gathering,
        (connection, ip): (Connection, IpAddr),
        effects: &mut impl Effects,
    ) {
        let mut text = std::mem::take(&mut self.body);
        text.clear();
        let rows = gathering.rows().map(|(info_hash, counts)| {
            let (seeders, leechers, completed) =
                (counts.seeders, counts.leechers, counts.completed);
            (info_hash, Row { seeders, leechers, completed })
        });
        webtorrent::write_scrape_reply(&mut text, rows, self.policy.web_interval_secs / 2);
        self.counters.reply(Transport::Web, Family::of(ip), Action::Scrape);
        // It may have closed meanwhile.
        self.send_web(self.place(connection), &text, effects);
        self.body = text;
    }

    /// Tells a connection that its scrape has come to nothing: an owner was silent.
    pub(super) fn answer_web_busy(
        &mut self,
        asker: (Connection, IpAddr),
        effects: &mut impl Effects,
    ) {
        let asked = Asked::new(Transport::Web, asker.1, Some(Action::Scrape));
        self.counters.refuse_late(asked);
        self.send_web_failure(asker.0, asked.action, Refusal::Busy, None, effects);
    }

    fn refuse_web(
        &mut self,
        (connection, ip): (Connection, IpAddr),
        action: Option<Action>,
        refusal: Refusal,
        info_hash: Option<&InfoHash>,
        effects: &mut impl Effects,
    ) {
        self.counters.refuse(Asked::new(Transport::Web, ip, action), refusal);
        self.send_web_failure(connection, action, refusal, info_hash, effects);
    }

    fn send_web_failure(
        &mut self,
        connection: Connection,
        action: Option<Action>,
        refusal: Refusal,
        info_hash: Option<&InfoHash>,
        effects: &mut impl Effects,
    ) {
        // An answer is a kind of announce, to those who read it.
        let action = action.map(|action| match action {
            Action::Scrape => "scrape",
            Action::Connect | Action::Announce | Action::Answer => "announce",
        });
        let mut text = std::mem::take(&mut self.body);
        text.clear();
        webtorrent::write_failure(&mut text, action, refusal.text(), info_hash);
        self.send_web(self.place(connection), &text, effects);
        self.body = text;
    }

    fn write_web_refusal(
        &mut self,
        out: &mut Vec<u8>,
        ip: IpAddr,
        refusal: Refusal,
        info_hash: &InfoHash,
    ) {
        self.counters.refuse(Asked::new(Transport::Web, ip, Some(Action::Announce)), refusal);
        webtorrent::write_failure(out, Some("announce"), refusal.text(), Some(info_hash));
    }

    /// Sends a reply to a connection of any core.
    pub(super) fn send_web(&mut self, target: Place, text: &[u8], effects: &mut impl Effects) {
        let (core, connection) = (CoreId(target.core), Connection(target.connection));
        let sent = if core != self.core {
            self.post(core, &Message::Web { connection, text }, effects).is_ok()
        } else if self.web_connections.open.contains_key(&connection.0) {
            effects.send_web(connection, text, WebKind::Reply);
            true
        } else {
            false
        };
        self.counters.web_undelivered[0] += u64::from(!sent);
    }

    /// Sends an offer to a connection of any core.
    fn send_offer(
        &mut self,
        now: Seconds,
        target: Place,
        (digest, offerer): (u64, Place),
        text: &[u8],
        effects: &mut impl Effects,
    ) {
        let (core, connection) = (CoreId(target.core), Connection(target.connection));
        if core == self.core {
            self.give_offer(now, connection, (digest, offerer), text, effects);
            return;
        }
        let message = Message::Offer { connection, digest, offerer, text };
        if self.post(core, &message, effects).is_err() {
            self.counters.web_undelivered[0] += 1;
        }
    }

    fn place(&self, connection: Connection) -> Place {
        Place { core: self.core.0, connection: connection.0 }
    }
}
