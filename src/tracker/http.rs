//! What an HTTP peer gets for its request (BEP 3, 7, 23, 24, 31, 48).
//!
//! Always an answer, and for announces and scrapes always status 200: clients read the dictionary,
//! not the status. A failure carries `interval`, `min interval` and `retry in` beside its reason,
//! since clients obey different ones.

use std::net::IpAddr;

use super::announce::Reply;
use super::counters::{Action, Asked, Transport};
use super::message::Message;
use super::outcome::Refusal;
use super::policy::{BUSY_INTERVAL_SECS, Policy};
use super::scrape::{Gathering, ScrapeAsker};
use super::{Effects, Tracker};
use crate::time::Seconds;
use crate::wire::addr::{Endpoint, Family};
use crate::wire::announce::Announce;
use crate::wire::bencode::Writer;
use crate::wire::error::ParseError;
use crate::wire::http::{self, AnnounceQuery, Head, Status, Upgrade};
use crate::wire::id::InfoHash;

/// Names an HTTP connection; made and understood by whoever drives the tracker.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Connection(pub u64);

/// How a client wants its peers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Form {
    /// Packed (BEP 23), or a list of dictionaries (BEP 3).
    pub compact: bool,
    /// Without peer ids in the dictionaries.
    pub no_peer_id: bool,
}

impl Form {
    pub(super) const fn to_byte(self) -> u8 {
        self.compact as u8 | (self.no_peer_id as u8) << 1
    }

    pub(super) const fn from_byte(byte: u8) -> Self {
        Self { compact: byte & 1 != 0, no_peer_id: byte & 2 != 0 }
    }
}

/// What became of an HTTP request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum HttpAnswer {
    /// The body is written; it goes out with this status.
    Ready(Status),
    /// The answer comes later, through [`Effects::answer_http`].
    Pending,
}

impl Tracker {
    /// Answers the request `head` that came from `source`: into `body`, or later through `effects`.
    pub fn handle_http(
        &mut self,
        now: Seconds,
        (source, connection): (IpAddr, Connection),
        head: &Head<'_>,
        body: &mut Vec<u8>,
        effects: &mut impl Effects,
    ) -> HttpAnswer {
        body.clear();
        let source = source.to_canonical();
        if self.access.bans(source) {
            return self.refused((source, None), Refusal::Banned, body);
        }
        match http::action(head.path) {
            Some(http::Action::Announce) => {
                self.counters.request(Transport::Http, Family::of(source), Action::Announce);
                match AnnounceQuery::parse(head.query) {
                    Ok(query) => {
                        self.http_announce(now, (source, connection), &query, body, effects)
                    }
                    Err(error) => {
                        let asked = (source, Some(Action::Announce));
                        self.refused(asked, Refusal::Malformed(error), body)
                    }
                }
            }
            Some(http::Action::Scrape) => {
                self.counters.request(Transport::Http, Family::of(source), Action::Scrape);
                self.http_scrape(now, (source, connection), head.query, body, effects)
            }
            None => {
                let source = (source, Some(source));
                HttpAnswer::Ready(self.handle_bad_http(source, ParseError::NotFound, body))
            }
        }
    }

    /// Writes the answer to bytes that are no request of ours; returns the status it goes out with.
    /// They came from `source`, for the client, unless a proxy failed to say who that is.
    pub fn handle_bad_http(
        &mut self,
        (source, client): (IpAddr, Option<IpAddr>),
        error: ParseError,
        body: &mut Vec<u8>,
    ) -> Status {
        body.clear();
        let refusal = Refusal::Malformed(error);
        self.counters.refuse(Asked::new(Transport::Http, source, None), refusal);
        write_failure_to(body, client.map(|ip| ip.to_canonical()), refusal, &self.policy);
        match error {
            ParseError::NotFound => Status::NotFound,
            ParseError::MethodNotAllowed => Status::MethodNotAllowed,
            ParseError::HeadTooLarge => Status::HeadTooLarge,
            ParseError::UpgradeRequired => Status::UpgradeRequired,
            _ => Status::BadRequest,
        }
    }

    /// Whether a request goes on as a WebSocket; `None`: it is an ordinary one, as WebSockets are
    /// not served.
    ///
    /// # Errors
    /// The status that `body`, which is written, goes out with.
    pub fn handle_upgrade<'a>(
        &mut self,
        source: IpAddr,
        head: &Head<'a>,
        body: &mut Vec<u8>,
    ) -> Option<Result<Upgrade<'a>, Status>> {
        if !self.policy.web {
            return None;
        }
        if self.access.bans(source.to_canonical()) {
            body.clear();
            self.counters.refuse(Asked::new(Transport::Http, source, None), Refusal::Banned);
            write_failure(body, source.to_canonical(), Refusal::Banned, &self.policy);
            return Some(Err(Status::Forbidden));
        }
        let upgrade = match Upgrade::parse(head) {
            Ok(upgrade) => upgrade,
            Err(error) => {
                return Some(Err(self.handle_bad_http((source, Some(source)), error, body)));
            }
        };
        if upgrade.origin.is_some_and(|origin| !self.policy.allows_origin(origin)) {
            body.clear();
            let refusal = Refusal::OriginNotAllowed;
            self.counters.refuse(Asked::new(Transport::Http, source, None), refusal);
            write_failure(body, source.to_canonical(), refusal, &self.policy);
            return Some(Err(Status::Forbidden));
        }
        Some(Ok(upgrade))
    }

    /// Writes the answer to an announce whose owner has not answered in time; scrapes are given up
    /// before, by the core that asks on their behalf.
    pub fn handle_late_http(&mut self, source: IpAddr, body: &mut Vec<u8>) -> Status {
        body.clear();
        let asked = Asked::new(Transport::Http, source, Some(Action::Announce));
        self.counters.refuse_late(asked);
        write_failure(body, source.to_canonical(), Refusal::Busy, &self.policy);
        Status::Ok
    }

    fn http_announce(
        &mut self,
        now: Seconds,
        (source, connection): (IpAddr, Connection),
        query: &AnnounceQuery,
        body: &mut Vec<u8>,
        effects: &mut impl Effects,
    ) -> HttpAnswer {
        let ip = self.policy.peer_ip(source, query.ip);
        let form = Form { compact: query.compact, no_peer_id: query.no_peer_id };
        let announce = query.announce;
        let owner = self.owner.core(&announce.info_hash);
        if owner == self.core {
            self.write_announce(now, ip, (&announce, form), body, effects);
            return HttpAnswer::Ready(Status::Ok);
        }
        let message = Message::Announce { connection, ip, announce, form };
        match self.post(owner, &message, effects) {
            Ok(()) => HttpAnswer::Pending,
            Err(_) => self.refused((source, Some(Action::Announce)), Refusal::Busy, body),
        }
    }

    /// Another core's connection announces to a swarm of ours.
    pub(super) fn handle_remote_announce(
        &mut self,
        now: Seconds,
        (from, connection): (super::owner::CoreId, Connection),
        ip: IpAddr,
        asked: (&Announce, Form),
        effects: &mut impl Effects,
    ) {
        let mut body = std::mem::take(&mut self.body);
        body.clear();
        self.write_announce(now, ip, asked, &mut body, effects);
        // If the mailbox is full the connection's core answers by itself after a while.
        let _ = self.post(from, &Message::Body { connection, body: &body }, effects);
        self.body = body;
    }

    /// Applies an announce to a swarm of ours and writes the answer, whatever it is.
    fn write_announce(
        &mut self,
        now: Seconds,
        ip: IpAddr,
        (announce, form): (&Announce, Form),
        body: &mut Vec<u8>,
        effects: &mut impl Effects,
    ) {
        let peers_max = u16::MAX;
        match self.announce(now, ip, announce, (None, peers_max), effects) {
            Ok(reply) => {
                write_reply(body, ip, &reply, form);
                self.counters.reply(Transport::Http, Family::of(ip), Action::Announce);
            }
            Err(refusal) => {
                let asked = Asked::new(Transport::Http, ip, Some(Action::Announce));
                self.counters.refuse(asked, refusal);
                write_failure(body, ip, refusal, &self.policy);
            }
        }
    }

    fn http_scrape(
        &mut self,
        now: Seconds,
        (source, connection): (IpAddr, Connection),
        query: &[u8],
        body: &mut Vec<u8>,
        effects: &mut impl Effects,
    ) -> HttpAnswer {
        let asked = (source, Some(Action::Scrape));
        let mut hashes = Vec::new();
        for hash in http::scrape_hashes(query).take(self.policy.http_scrape_hashes_max) {
            match hash {
                Ok(hash) => hashes.push(hash),
                Err(error) => return self.refused(asked, Refusal::Malformed(error), body),
            }
        }
        if hashes.is_empty() {
            return self.refused(asked, Refusal::FullScrape, body);
        }
        // A dictionary has each key once, in order.
        hashes.sort_unstable();
        hashes.dedup();
        let asker = ScrapeAsker::Http { connection, ip: source };
        match self.scrape(now, asker, hashes.into_iter(), effects) {
            Ok(()) => HttpAnswer::Pending,
            Err(_) => self.refused(asked, Refusal::Busy, body),
        }
    }

    pub(super) fn answer_http_scrape(
        &mut self,
        gathering: &Gathering,
        (connection, ip): (Connection, IpAddr),
        effects: &mut impl Effects,
    ) {
        let mut body = std::mem::take(&mut self.body);
        body.clear();
        write_scrape(&mut body, ip, gathering.rows(), self.policy.interval_secs / 2);
        self.counters.reply(Transport::Http, Family::of(ip), Action::Scrape);
        effects.answer_http(connection, &body);
        self.body = body;
    }

    /// Tells a connection that its scrape has come to nothing: an owner was silent.
    pub(super) fn answer_busy(
        &mut self,
        (connection, ip): (Connection, IpAddr),
        effects: &mut impl Effects,
    ) {
        let mut body = std::mem::take(&mut self.body);
        body.clear();
        self.counters.refuse_late(Asked::new(Transport::Http, ip, Some(Action::Scrape)));
        write_failure(&mut body, ip, Refusal::Busy, &self.policy);
        effects.answer_http(connection, &body);
        self.body = body;
    }

    fn refused(
        &mut self,
        (source, action): (IpAddr, Option<Action>),
        refusal: Refusal,
        body: &mut Vec<u8>,
    ) -> HttpAnswer {
        self.counters.refuse(Asked::new(Transport::Http, source, action), refusal);
        write_failure(body, source, refusal, &self.policy);
        HttpAnswer::Ready(Status::Ok)
    }
}

/// The answer to an announce; keys in order, as a bencoded dictionary must have them.
fn write_reply(body: &mut Vec<u8>, ip: IpAddr, reply: &Reply<'_>, form: Form) {
    let mut out = Writer::new(body);
    out.begin_dictionary();
    out.entry("complete", u64::from(reply.counts.seeders));
    out.entry("downloaded", u64::from(reply.counts.completed));
    write_external_ip(&mut out, ip);
    out.entry("incomplete", u64::from(reply.counts.leechers));
    out.entry("interval", u64::from(reply.interval_secs));
    out.entry("min interval", u64::from(reply.min_interval_secs()));
    if form.compact {
        write_compact(&mut out, reply, "peers", Family::V4);
        if reply.sample.count(Family::V6) > 0 || Family::of(ip) == Family::V6 {
            write_compact(&mut out, reply, "peers6", Family::V6);
        }
    } else {
        out.bytes(b"peers");
        write_dictionaries(&mut out, reply, form);
    }
    out.end();
}

fn write_compact(out: &mut Writer<'_>, reply: &Reply<'_>, key: &str, family: Family) {
    out.bytes(key.as_bytes());
    out.string_of(reply.sample.count(family) * family.endpoint_bytes());
    reply.sample.each(|chunk| {
        if chunk.family() == family {
            out.raw(chunk.endpoints());
        }
    });
}

fn write_dictionaries(out: &mut Writer<'_>, reply: &Reply<'_>, form: Form) {
    out.begin_list();
    reply.sample.each(|chunk| {
        let endpoints = chunk.endpoints().chunks_exact(chunk.family().endpoint_bytes());
        for (index, endpoint) in endpoints.enumerate() {
            let endpoint = Endpoint::from_compact(endpoint).expect("6 or 18 bytes");
            out.begin_dictionary();
            out.bytes(b"ip");
            out.ip(endpoint.ip());
            if let (false, Some(id)) = (form.no_peer_id, chunk.ids().get(index)) {
                out.bytes(b"peer id");
                out.bytes(&id.0);
            }
            out.entry("port", u64::from(endpoint.port()));
            out.end();
        }
    });
    out.end();
}

/// A scrape (BEP 48), with `downloaders` beside `incomplete` (BEP 21: partial seeds left out).
fn write_scrape<'a>(
    body: &mut Vec<u8>,
    ip: IpAddr,
    rows: impl Iterator<Item = (&'a InfoHash, &'a crate::swarm::Counts)>,
    min_interval_secs: u32,
) {
    let mut out = Writer::new(body);
    out.begin_dictionary();
    write_external_ip(&mut out, ip);
    out.bytes(b"files");
    out.begin_dictionary();
    for (hash, counts) in rows {
        out.bytes(&hash.0);
        out.begin_dictionary();
        out.entry("complete", u64::from(counts.seeders));
        out.entry("downloaded", u64::from(counts.completed));
        out.entry("downloaders", u64::from(counts.leechers - counts.partial));
        out.entry("incomplete", u64::from(counts.leechers));
        out.end();
    }
    out.end();
    out.bytes(b"flags");
    out.begin_dictionary();
    out.entry("min_request_interval", u64::from(min_interval_secs));
    out.end();
    out.end();
}

/// A failure, with everything that makes some client wait before it asks again (BEP 31).
fn write_failure(body: &mut Vec<u8>, ip: IpAddr, refusal: Refusal, policy: &Policy) {
    write_failure_to(body, Some(ip), refusal, policy);
}

/// As [`write_failure`]; `None`: the client's address is not known.
fn write_failure_to(body: &mut Vec<u8>, ip: Option<IpAddr>, refusal: Refusal, policy: &Policy) {
    let interval = match refusal {
        Refusal::Busy => BUSY_INTERVAL_SECS,
        _ => policy.interval_secs,
    };
    let mut out = Writer::new(body);
    out.begin_dictionary();
    if let Some(ip) = ip {
        write_external_ip(&mut out, ip);
    }
    out.bytes(b"failure reason");
    out.bytes(refusal.text().as_bytes());
    out.entry("interval", u64::from(interval));
    out.entry("min interval", u64::from(interval));
    out.bytes(b"retry in");
    match refusal {
        // The same bytes would be refused for ever.
        Refusal::Malformed(_) | Refusal::PortZero | Refusal::FullScrape => out.bytes(b"never"),
        // Minutes; lists change.
        Refusal::NotAllowed
        | Refusal::Busy
        | Refusal::TooManyTorrents
        | Refusal::NoSuchOffer
        | Refusal::OriginNotAllowed
        | Refusal::Banned
        | Refusal::TooManyNewSwarms
        | Refusal::TooManyNewPeers
        | Refusal::TooManyPeersInSwarm => out.unsigned(u64::from(interval / 60)),
    }
    out.end();
}

/// The address that counts for the peer (BEP 24): 4 or 16 bytes.
fn write_external_ip(out: &mut Writer<'_>, ip: IpAddr) {
    out.bytes(b"external ip");
    match ip {
        IpAddr::V4(v4) => out.bytes(&v4.octets()),
        IpAddr::V6(v6) => out.bytes(&v6.octets()),
    }
}
