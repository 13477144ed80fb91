//! What a UDP peer gets for its datagram (BEP 15).
//!
//! Nothing is sent to a source that has not proved its address, except the 16 bytes that answer a
//! connect of at least 16: so nobody can be flooded through us, and no two servers can be made to
//! answer each other for ever.

use std::net::{IpAddr, SocketAddr};

use super::counters::{Action, Asked, Transport};
use super::message::Message;
use super::outcome::{DropReason, Refusal};
use super::scrape::{Gathering, ScrapeAsker};
use super::{Datagram, Effects, Tracker};
use crate::limits::{BATCH_MAX, DATAGRAM_BYTES_MAX, UDP_REPLY_BYTES_MAX, WARM_FROM};
use crate::time::Seconds;
use crate::wire::addr::{Endpoint, Family};
use crate::wire::id::{InfoHash, TransactionId};
use crate::wire::udp::{self, AnnounceView, Request, ScrapeView};

/// Bytes before the peers of an announce reply.
const ANNOUNCE_HEAD_BYTES: usize = 20;

/// Where an answer goes.
type Target = (u8, SocketAddr);

impl Tracker {
    /// Answers a batch of datagrams through `effects`, in their order.
    ///
    /// # Panics
    /// If the batch is longer than [`BATCH_MAX`].
    pub fn handle_datagrams(
        &mut self,
        now: Seconds,
        batch: &[Datagram<'_>],
        effects: &mut impl Effects,
    ) {
        assert!(batch.len() <= BATCH_MAX, "the caller's buffers bound a batch");
        // First everything that needs no memory of ours, then the swarms all at once, then the
        // rest.
        let mut requests = [const { None }; BATCH_MAX];
        let mut due = [(InfoHash([0; 20]), None); BATCH_MAX];
        let mut announces = 0;
        for (request, datagram) in requests.iter_mut().zip(batch) {
            match self.verify(now, datagram) {
                Ok(parsed) => {
                    if let Request::Announce(view) = &parsed {
                        let source = datagram.source.ip();
                        let endpoint = Endpoint::new(source, view.port());
                        due[announces] = (view.info_hash(), Some(endpoint));
                        announces += 1;
                    }
                    *request = Some(parsed);
                }
                Err((action, reason)) => self.drop(datagram, action, reason),
            }
        }
        if announces >= WARM_FROM {
            self.store.warm(&due[..announces]);
        }
        for (request, datagram) in requests.iter().zip(batch) {
            let Some(request) = request else { continue };
            if let Err(reason) = self.handle_request(now, datagram, request, false, effects) {
                self.drop(datagram, Some(action_of(request)), reason);
            }
        }
    }

    /// Answers a datagram that another core received, verified and passed on.
    pub(super) fn handle_forwarded(
        &mut self,
        now: Seconds,
        datagram: &Datagram<'_>,
        effects: &mut impl Effects,
    ) {
        let handled = match Request::parse(datagram.bytes) {
            Ok(request) => self
                .handle_request(now, datagram, &request, true, effects)
                .map_err(|reason| (Some(action_of(&request)), reason)),
            Err(error) => Err((None, DropReason::Malformed(error))),
        };
        if let Err((action, reason)) = handled {
            self.drop(datagram, action, reason);
        }
    }

    #[cold]
    fn drop(&mut self, datagram: &Datagram<'_>, action: Option<Action>, reason: DropReason) {
        let asked = Asked::new(Transport::Udp, datagram.source.ip(), action);
        self.counters.drop(asked, reason);
    }

    /// A request whose source can hear us, or a connect.
    fn verify<'a>(
        &mut self,
        now: Seconds,
        datagram: &Datagram<'a>,
    ) -> Result<Request<'a>, (Option<Action>, DropReason)> {
        let ip = datagram.source.ip().to_canonical();
        let family = Family::of(ip);
        let bytes = datagram.bytes.len() as u64;
        self.counters.udp_received_bytes[family as usize] += bytes;
        let verified = self.parse(now, ip, datagram);
        if !matches!(verified, Ok(Request::Announce(_) | Request::Scrape(_))) {
            self.counters.udp_unverified_received_bytes[0] += bytes;
        }
        if let Ok(request) = &verified {
            self.counters.request(Transport::Udp, family, action_of(request));
        }
        verified
    }

    fn parse<'a>(
        &self,
        now: Seconds,
        ip: IpAddr,
        datagram: &Datagram<'a>,
    ) -> Result<Request<'a>, (Option<Action>, DropReason)> {
        if self.access.bans(ip) {
            return Err((None, DropReason::Banned));
        }
        if datagram.source.port() == 0 {
            return Err((None, DropReason::SourcePortZero));
        }
        if datagram.truncated || datagram.bytes.len() > DATAGRAM_BYTES_MAX {
            return Err((None, DropReason::TooLong));
        }
        let request =
            Request::parse(datagram.bytes).map_err(|error| (None, DropReason::Malformed(error)))?;
        let id = match &request {
            Request::Connect(_) => return Ok(request),
            Request::Announce(view) => view.connection_id(),
            Request::Scrape(view) => view.connection_id(),
        };
        if self.connection_ids.verify(now, ip, id) {
            Ok(request)
        } else {
            Err((Some(action_of(&request)), DropReason::BadConnectionId))
        }
    }

    /// Answers a verified request, or passes it on to the core that owns its swarm.
    fn handle_request(
        &mut self,
        now: Seconds,
        datagram: &Datagram<'_>,
        request: &Request<'_>,
        forwarded: bool,
        effects: &mut impl Effects,
    ) -> Result<(), DropReason> {
        match *request {
            Request::Connect(transaction_id) => {
                let ip = datagram.source.ip().to_canonical();
                let id = self.connection_ids.issue(now, ip);
                let buffer = effects.reply_buffer().ok_or(DropReason::NoSendSlot)?;
                let len = udp::write_connect(buffer, transaction_id, id);
                self.counters.udp_unverified_sent_bytes[0] += len as u64;
                self.send(datagram.target(), len, Action::Connect, effects);
                Ok(())
            }
            Request::Announce(view) => {
                let announce = view.announce();
                let owner = self.owner.core(&announce.info_hash);
                if owner == self.core {
                    return self.handle_announce(now, datagram.target(), view, effects);
                }
                debug_assert!(!forwarded, "all cores use the same keys");
                if forwarded {
                    return Err(DropReason::OwnerSilent);
                }
                let Datagram { listener, source, bytes, .. } = *datagram;
                self.post(owner, &Message::Datagram { listener, source, bytes }, effects)
            }
            Request::Scrape(view) => self.handle_scrape(now, datagram.target(), view, effects),
        }
    }

    fn handle_announce(
        &mut self,
        now: Seconds,
        target: Target,
        view: AnnounceView<'_>,
        effects: &mut impl Effects,
    ) -> Result<(), DropReason> {
        let source = target.1.ip().to_canonical();
        let ip = self.policy.peer_ip(source, view.ip().map(IpAddr::V4));
        // The reply is of the source's family, whatever address counts for the peer.
        let family = Family::of(source);
        let room = (UDP_REPLY_BYTES_MAX - ANNOUNCE_HEAD_BYTES) / family.endpoint_bytes();
        let peers_max = u16::try_from(room).expect("a datagram holds a few hundred endpoints");
        let which = (Some(family), peers_max);
        match self.announce(now, ip, &view.announce(), which, effects) {
            Ok(reply) => {
                let buffer = effects.reply_buffer().ok_or(DropReason::NoSendSlot)?;
                let mut len = udp::write_announce_head(
                    buffer,
                    view.transaction_id(),
                    reply.interval_secs,
                    reply.counts.leechers,
                    reply.counts.seeders,
                );
                reply.sample.each(|chunk| {
                    let end = len + chunk.endpoints().len();
                    buffer[len..end].copy_from_slice(chunk.endpoints());
                    len = end;
                });
                self.send(target, len, Action::Announce, effects);
                Ok(())
            }
            Err(refusal) => {
                let asked = (Action::Announce, view.transaction_id());
                self.refuse(target, asked, refusal, effects)
            }
        }
    }

    fn handle_scrape(
        &mut self,
        now: Seconds,
        target: Target,
        view: ScrapeView<'_>,
        effects: &mut impl Effects,
    ) -> Result<(), DropReason> {
        let transaction_id = view.transaction_id();
        if view.hashes().len() == 0 {
            let asked = (Action::Scrape, transaction_id);
            return self.refuse(target, asked, Refusal::FullScrape, effects);
        }
        let (listener, source) = target;
        let asker = ScrapeAsker::Udp { listener, source, transaction_id };
        self.scrape(now, asker, view.hashes(), effects)
    }

    pub(super) fn answer_udp_scrape(
        &mut self,
        gathering: &Gathering,
        target: Target,
        transaction_id: TransactionId,
        effects: &mut impl Effects,
    ) -> Result<(), DropReason> {
        let buffer = effects.reply_buffer().ok_or(DropReason::NoSendSlot)?;
        let mut len = udp::write_scrape_head(buffer, transaction_id);
        for (_, counts) in gathering.rows() {
            let (seeders, leechers) = (counts.seeders, counts.leechers);
            len += udp::write_scrape_entry(&mut buffer[len..], seeders, counts.completed, leechers);
        }
        self.send(target, len, Action::Scrape, effects);
        Ok(())
    }

    /// Tells a verified source what it can mend.
    fn refuse(
        &mut self,
        target: Target,
        (action, transaction_id): (Action, TransactionId),
        refusal: Refusal,
        effects: &mut impl Effects,
    ) -> Result<(), DropReason> {
        let buffer = effects.reply_buffer().ok_or(DropReason::NoSendSlot)?;
        let len = udp::write_error(buffer, transaction_id, refusal.text());
        let asked = Asked::new(Transport::Udp, target.1.ip(), Some(action));
        self.counters.refuse(asked, refusal);
        self.counters.udp_sent_bytes[asked.family as usize] += len as u64;
        effects.send_reply(target.0, target.1, len);
        Ok(())
    }

    fn send(&mut self, target: Target, len: usize, action: Action, effects: &mut impl Effects) {
        let family = family_of(target.1);
        self.counters.reply(Transport::Udp, family, action);
        self.counters.udp_sent_bytes[family as usize] += len as u64;
        effects.send_reply(target.0, target.1, len);
    }
}

const fn action_of(request: &Request<'_>) -> Action {
    match request {
        Request::Connect(_) => Action::Connect,
        Request::Announce(_) => Action::Announce,
        Request::Scrape(_) => Action::Scrape,
    }
}

fn family_of(source: SocketAddr) -> Family {
    Endpoint::new(source.ip(), 0).family()
}
