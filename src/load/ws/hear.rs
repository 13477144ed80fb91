//! What a connection hears: whether it is right, and what is said in return.

use super::connection::Asked;
use super::frames::{self, Event};
use super::script::Name;
use super::{Client, Run};
use crate::load::population::{peer_id, peer_number, unit};
use crate::load::tally::Action;
use crate::load::verify::{self, Answer, Fault, Rigour, Wrong};
use crate::wire::id::InfoHash;
use crate::wire::webtorrent::{self, OfferId, Relayed, Row, TrackerMessage, write_answer_request};

/// How a connection ends in the midst of its messages.
enum Ended {
    /// A fault that has been counted.
    Wrongly,
    /// A close with that code.
    Closed(u16),
}

impl Run<'_> {
    /// Takes bytes of a connection that is open.
    pub(super) fn receive(&mut self, index: usize, bytes: &[u8]) {
        let now = self.client.clock.now();
        let mut reader = std::mem::take(&mut self.client.connections[index].reader);
        let mut ended = None;
        let read = reader.receive(bytes, &mut |event| match event {
            // Nothing behind it counts.
            _ if ended.is_some() => {}
            Event::Text(text) => {
                if !self.hear(index, text, now) {
                    ended = Some(Ended::Wrongly);
                }
            }
            Event::Ping(payload) => {
                let mask = self.client.rng.next_u32().to_be_bytes();
                frames::write_pong(&mut self.client.connections[index].output, payload, mask);
                self.tally.pings += 1;
            }
            Event::Close(code) => ended = Some(Ended::Closed(code)),
        });
        self.client.connections[index].reader = reader;
        match (read, ended) {
            (Err(fault), _) => self.break_off(index, fault),
            (Ok(()), Some(Ended::Wrongly)) => self.rest(index),
            (Ok(()), Some(Ended::Closed(code))) => {
                self.fail(index, &format!("closed by the tracker ({code})"));
            }
            (Ok(()), None) => {}
        }
    }

    /// Takes a message. False if it is one after which nobody knows what the next ones mean.
    fn hear(&mut self, index: usize, text: &str, now: u64) -> bool {
        self.heard_at = now;
        match TrackerMessage::parse(text) {
            Ok(TrackerMessage::Announced { info_hash, seeders, leechers, interval_secs }) => {
                let counts = (seeders, leechers);
                self.announced(index, &info_hash, counts, interval_secs, now)
            }
            Ok(TrackerMessage::Scraped(files)) => self.scraped(index, &files, now),
            Ok(TrackerMessage::Offer(offer)) => {
                self.offered(index, &offer, now);
                true
            }
            Ok(TrackerMessage::Answer(answer)) => {
                self.answered(index, &answer, now);
                true
            }
            Ok(TrackerMessage::Failure(reason)) => {
                // It does not say what is refused. If it is the request after all, that is lost.
                let answered = self.client.connections[index].answered_offers;
                let fault = if answered { Fault::AnswerRefused } else { Fault::Refused };
                self.tally.fault(Wrong { fault, text: reason.as_bytes() });
                answered
            }
            Err(_) => {
                self.tally.fault(Fault::Malformed);
                false
            }
        }
    }

    fn announced(
        &mut self,
        index: usize,
        info_hash: &InfoHash,
        counts: (u64, u64),
        interval_secs: u64,
        now: u64,
    ) -> bool {
        let connection = &mut self.client.connections[index];
        if connection.replies_before > 0 {
            connection.replies_before -= 1;
            return true;
        }
        let Some(asked) = connection.asked.take_if(|asked| asked.action == Action::Announce) else {
            self.tally.fault(Fault::Unasked);
            return false;
        };
        connection.replies_before = std::mem::take(&mut connection.replies_after);
        let verified = if asked.hashes.contains(info_hash) {
            let rigour = self.around.plan.rigour;
            verify::web_announce(counts, interval_secs, asked.seeder, rigour)
        } else {
            Err(Fault::Hash)
        };
        self.reply(index, &asked, verified, now);
        true
    }

    fn scraped(&mut self, index: usize, files: &[(InfoHash, Row)], now: u64) -> bool {
        let connection = &mut self.client.connections[index];
        let Some(asked) = connection.asked.take_if(|asked| asked.action == Action::Scrape) else {
            self.tally.fault(Fault::Unasked);
            return false;
        };
        self.reply(index, &asked, verify::web_scrape(files, &asked.hashes), now);
        true
    }

    /// A request has its reply; the connection may ask again.
    fn reply(&mut self, index: usize, asked: &Asked, verified: Result<Answer, Fault>, now: u64) {
        match verified {
            Ok(answer) => {
                let nanos = now.saturating_sub(asked.due);
                self.tally.reply(asked.action, answer, nanos, self.asking);
                self.answered_at = now;
                self.client.connections[index].joined += u32::from(asked.joins);
            }
            Err(fault) => self.tally.fault(fault),
        }
        self.waiting -= 1;
        self.client.idle.push_back(index);
    }

    /// Another peer's offer has come; perhaps it is answered.
    fn offered(&mut self, index: usize, offer: &Relayed<'_>, now: u64) {
        let plan = self.around.plan;
        let name = match self.client.verify_offer(index, offer, plan.rigour) {
            Ok(name) => name,
            Err(fault) => return self.tally.fault(fault),
        };
        self.tally.offers.receive(now.saturating_sub(name.sent), self.asking);
        if unit(self.client.rng.next_u64()) >= plan.web.answers {
            return;
        }
        let before = self.client.connections[index].output.len();
        self.client.write_answer(index, offer, &name);
        let connection = &mut self.client.connections[index];
        self.tally.bytes_sent += (connection.output.len() - before) as u64;
        self.tally.answers.sent += 1;
        connection.answered_offers = true;
        if plan.web.answers_replied {
            if connection.asked.is_some() {
                connection.replies_after += 1;
            } else {
                connection.replies_before += 1;
            }
        }
    }

    /// The answer to an offer has come.
    fn answered(&mut self, index: usize, answer: &Relayed<'_>, now: u64) {
        let name = match self.client.verify_answer(index, answer, self.around.plan.rigour) {
            Ok(name) => name,
            Err(fault) => return self.tally.fault(fault),
        };
        match self.client.connections[index].answer(name.number) {
            Ok(()) => {}
            Err(Fault::Late) => self.tally.fault(Fault::Late),
            Err(fault) => return self.tally.fault(fault),
        }
        self.tally.answers.receive(now.saturating_sub(name.sent), self.asking);
    }
}

impl Client {
    /// Whether that is an offer of one of our peers, as it was sent, for this connection.
    fn verify_offer(
        &self,
        index: usize,
        offer: &Relayed<'_>,
        rigour: Rigour,
    ) -> Result<Name, Fault> {
        let receiver = &self.connections[index];
        let (name, swarm) = self.find(offer)?;
        let offerer = name.peer % self.all;
        if offer.peer_id != peer_id(offerer) {
            return Err(Fault::Relay);
        }
        if offerer == receiver.number {
            return Err(Fault::OwnOffer);
        }
        // The reply to the announce by which it has just joined may still be on its way.
        let joined = (receiver.joined + 1).min(self.population.peers / self.all);
        let is_in = |torrent| self.peer(receiver.number, torrent).swarm == swarm;
        if !(0..joined).any(is_in) || !self.script.is_offer(offer.body, &name, rigour) {
            return Err(Fault::Relay);
        }
        Ok(name)
    }

    /// Whether that is the answer of one of our peers, as it was sent, to an offer of this
    /// connection.
    fn verify_answer(
        &self,
        index: usize,
        answer: &Relayed<'_>,
        rigour: Rigour,
    ) -> Result<Name, Fault> {
        let (name, _) = self.find(answer)?;
        let answerer = peer_number(&answer.peer_id).ok_or(Fault::Relay)?;
        let is_ours = name.peer % self.all == self.connections[index].number;
        if !is_ours || !self.script.is_answer(answer.body, &name, answerer, rigour) {
            return Err(Fault::Relay);
        }
        Ok(name)
    }

    /// Which offer that is about, and the swarm of the peer that made it, which must be the one
    /// that is named.
    fn find(&self, relayed: &Relayed<'_>) -> Result<(Name, u32), Fault> {
        let name = self.script.name(&relayed.offer_id.text).ok_or(Fault::Relay)?;
        if name.peer >= self.population.peers {
            return Err(Fault::Relay);
        }
        let swarm = self.population.peer(name.peer).swarm;
        if self.population.info_hash(swarm) != relayed.info_hash {
            return Err(Fault::Hash);
        }
        Ok((name, swarm))
    }

    /// Appends the answer to an offer to the output.
    fn write_answer(&mut self, index: usize, offer: &Relayed<'_>, name: &Name) {
        let Self { script, connections, message, rng, .. } = self;
        let connection = &mut connections[index];
        let mut texts = Vec::new();
        script.write_answer(&mut texts, name, connection.number);
        let middle = texts.len();
        webtorrent::write_offer_id(&mut texts, &script.offer_id(name));
        let texts = std::str::from_utf8(&texts).expect("JSON is text");
        let (answer, literal) = texts.split_at(middle);
        message.clear();
        let answer = webtorrent::Answer {
            info_hash: offer.info_hash,
            peer_id: peer_id(connection.number),
            to_peer_id: offer.peer_id,
            offer_id: OfferId { literal, text: "".into() },
            answer,
        };
        write_answer_request(message, &answer);
        frames::write_text(&mut connection.output, message, rng.next_u32().to_be_bytes());
    }
}
