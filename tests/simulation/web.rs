//! Clients over WebSocket: announces, offers, and answers, right and wrong.

use serde_json::json;
use throng::limits::{WEB_OFFERS_MAX, WEB_PENDING_MAX, WEB_PENDING_SECONDS};
use throng::time::Seconds;
use throng::wire::announce::Event as Happened;
use throng::wire::id::{InfoHash, PeerId};

use super::model::{FULL_SCRAPE, Model, NO_SUCH_OFFER, WebVerdict};
use super::plan::{Left, Says};
use super::run::{Arrival, Rows, Sim, event_of, fill, peer_id};
use super::support::*;

/// A client's side of its connection.
#[derive(Clone, Debug)]
pub struct WebClient {
    pub web: Web,
    /// Offers that it has been given and may answer, oldest first.
    pending: Vec<Pending>,
    /// What it has answered last.
    answered: Option<Pending>,
}

#[derive(Clone, Debug)]
struct Pending {
    id: String,
    given: Seconds,
}

/// An offer that somebody has made.
#[derive(Clone, Debug)]
pub struct Made {
    by: Web,
    peer: PeerId,
    hash: InfoHash,
    brought: bool,
}

/// An announce that has reached a tracker.
#[derive(Clone, Debug)]
pub struct WebAnnouncing {
    web: Web,
    owner: u16,
    hash: InfoHash,
    peer: PeerId,
    says: (bool, Happened),
    offers: usize,
    verdict: Option<WebVerdict>,
    replied: bool,
    brought: usize,
}

/// An answer that has been taken, on its way to whoever made the offer.
#[derive(Clone, Debug)]
pub struct WebAnswering {
    id: String,
    from: PeerId,
    hash: InfoHash,
    to: Web,
    answerer: Web,
    /// Whether it is taken.
    may: bool,
    refused: bool,
    heard: bool,
    is_open: bool,
}

impl WebAnnouncing {
    /// It reaches a core.
    pub fn reaches(&mut self, now: Seconds, core: u16, model: &mut Model) {
        if self.owner == core && self.verdict.is_none() {
            let key = (self.web, self.peer);
            self.verdict = Some(model.web_announce(now, self.hash, key, self.says));
        }
    }

    /// It is answered, and as many offers are brought as there are peers for them.
    pub fn is_complete(&self, dirty: bool) -> bool {
        let expected = match &self.verdict {
            Some(WebVerdict::Served { eligible, .. }) => {
                self.offers.min(WEB_OFFERS_MAX).min(eligible.len())
            }
            _ => 0,
        };
        self.replied && (self.brought == expected || dirty && self.brought < expected)
    }
}

impl WebAnswering {
    /// It has been refused, or brought, if there is still somebody to bring it to.
    pub const fn is_complete(&self) -> bool {
        self.refused || self.heard || !self.is_open
    }
}

impl Sim {
    pub const fn web_core(&self, client: u16) -> u16 {
        (client + 1) % self.shape.cores
    }

    pub fn web_open(&mut self, client: u16) {
        if !self.webs.contains_key(&client) {
            let ip = self.udp[usize::from(client)].address.ip();
            let web = self.world.web_open_from(self.web_core(client), ip);
            self.webs.insert(client, WebClient { web, pending: Vec::new(), answered: None });
        }
    }

    pub fn web_close(&mut self, client: u16) {
        let Some(WebClient { web, .. }) = self.webs.remove(&client) else { return };
        let owner = &self.world.owner;
        self.model.web_close(self.world.now, web, |hash| owner.core(hash).0 == web.core);
        self.world.set_tag(0);
        self.world.web_hang_up(web);
        self.after(0, web.core);
    }

    fn web_client(&mut self, web: Web) -> Option<&mut WebClient> {
        self.webs.values_mut().find(|client| client.web == web)
    }

    pub fn web_say(&mut self, client: u16, says: &Says, offers: u8) {
        let Some(WebClient { web, .. }) = self.webs.get(&client) else { return };
        let (web, hash) = (*web, self.hash(says.swarm));
        let peer = peer_id(client, offers / 8 % 2);
        let ids: Vec<String> = (0..offers).map(|n| format!("{}.{n}", self.serial)).collect();
        for id in &ids {
            self.made.insert(id.clone(), Made { by: web, peer, hash, brought: false });
        }
        let mut arrival = WebAnnouncing {
            web,
            owner: self.owner(&hash),
            hash,
            peer,
            says: (says.left == Left::Nothing, event_of(says.event)),
            offers: ids.len(),
            verdict: None,
            replied: false,
            brought: 0,
        };
        arrival.reaches(self.world.now, web.core, &mut self.model);
        let tag = self.tag(Arrival::WebAnnounce(arrival));
        self.world.web_send(web, &announce_text((hash, peer), says, &ids));
        self.after(tag, web.core);
    }

    pub fn web_scrape(&mut self, client: u16, first: u16, count: u8) {
        let Some(WebClient { web, .. }) = self.webs.get(&client) else { return };
        let web = *web;
        let mut hashes = self.hashes(first, count);
        let names: Vec<String> = hashes.iter().map(|hash| latin1(&hash.0)).collect();
        hashes.sort_unstable();
        hashes.dedup();
        let mut rows: Rows = hashes.into_iter().map(|h| (h, self.owner(&h), None)).collect();
        fill(&mut rows, self.world.now, web.core, &mut self.model);
        let tag = self.tag(Arrival::WebScrape { web, rows, replied: false });
        self.world.web_send(web, &json!({"action": "scrape", "info_hash": names}).to_string());
        self.after(tag, web.core);
    }

    /// What is no message of WebTorrent is answered with a failure, and changes nothing.
    pub fn web_junk(&mut self, client: u16, kind: u8) {
        let Some(WebClient { web, .. }) = self.webs.get(&client) else { return };
        let web = *web;
        match kind {
            0 => self.world.web_send_bytes(web),
            1 => self.world.web_send(web, "{"),
            2 => self.world.web_send(web, "[]"),
            3 => self.world.web_send(web, "{\"action\":\"fly\"}"),
            4 => self.world.web_send(web, "{\"action\":\"announce\",\"info_hash\":\"short\"}"),
            5 => self.world.web_send(web, &"[".repeat(10_000)),
            6 => self.world.web_send(web, "\u{feff}{}"),
            _ => self.world.web_send(web, "{\"action\":\"announce\"}"),
        }
        let sent = self.world.web_sent();
        assert_eq!(sent.len(), 1, "one failure: {sent:?}");
        assert_eq!(sent[0].to, web);
        assert!(sent[0].failure().is_some(), "{sent:?}");
    }

    /// Answers an offer; `bend` says what is wrong about the answer, if anything.
    pub fn web_answer(&mut self, client: u16, nth: u8, bend: u8) {
        let Some(WebClient { pending, answered, .. }) = self.webs.get(&client) else { return };
        let given = match bend {
            6 => answered.as_ref(),
            _ => pending.get(usize::from(nth) % pending.len().max(1)),
        };
        let Some(given) = given.cloned() else { return };
        let made = self.made[&given.id].clone();
        let (mut id, mut hash, mut to) = (given.id.clone(), made.hash, made.peer);
        let mut from = peer_id(client, 0);
        let mut answerer = client;
        match bend {
            1 => id.push('0'),
            2 => hash = InfoHash([3; 20]),
            3 => to = PeerId([4; 20]),
            // Who answers may have another name for each peer.
            4 => from = PeerId([5; 20]),
            5 => answerer = self.webs.keys().find(|&&n| n != client).copied().unwrap_or(client),
            _ => {}
        }
        let by = self.webs[&answerer].web;
        let may = matches!(bend, 0 | 4) || answerer == client && bend == 5;
        let may = may && self.world.now.since(given.given) <= WEB_PENDING_SECONDS;
        let arrival = WebAnswering {
            id: given.id.clone(),
            from,
            hash: made.hash,
            to: made.by,
            answerer: by,
            may,
            refused: false,
            heard: false,
            is_open: self.webs.values().any(|client| client.web == made.by),
        };
        if self.stalled[usize::from(by.core)] {
            return;
        }
        let tag = self.tag(Arrival::WebAnswer(arrival));
        let answer = json!({
            "action": "announce",
            "info_hash": latin1(&hash.0),
            "peer_id": latin1(&from.0),
            "to_peer_id": latin1(&to.0),
            "answer": {"type": "answer", "sdp": format!("to {id}")},
            "offer_id": id,
        });
        self.world.web_send(by, &answer.to_string());
        self.after(tag, by.core);
        let Some(Arrival::WebAnswer(arrival)) = self.arrivals.get(&tag) else {
            unreachable!("it was entered above")
        };
        let refused = arrival.refused;
        assert_eq!(refused, !may, "{by:?} answers {id}");
        let WebClient { pending, answered, .. } = self.webs.get_mut(&client).expect("it is open");
        if !refused {
            pending.retain(|pending| pending.id != given.id);
            *answered = Some(given);
        } else if matches!(bend, 0 | 4) {
            // Too late: whoever asks for it finds it gone.
            pending.retain(|pending| pending.id != given.id);
        }
    }

    /// A message has left, because of `tag`.
    pub fn web_sent(&mut self, tag: u64, sent: &WebSent) {
        if sent.object.contains_key("offer") {
            self.see_offer(tag, sent);
        } else if sent.object.contains_key("answer") {
            self.see_answer(tag, sent);
        } else if tag == 0 {
            // The clock has given up a scrape.
            self.check_busy(sent.failure());
        } else {
            self.see_reply(tag, sent);
        }
    }

    fn see_reply(&mut self, tag: u64, sent: &WebSent) {
        let number = |key: &str| sent.object.get(key).and_then(serde_json::Value::as_u64);
        match self.arrivals.get_mut(&tag) {
            Some(Arrival::WebAnnounce(arrival)) => {
                assert!(!std::mem::replace(&mut arrival.replied, true), "one reply");
                assert_eq!(sent.to, arrival.web);
                assert_eq!(sent.object["info_hash"], latin1(&arrival.hash.0));
                let (owner, verdict) = (arrival.owner, arrival.verdict.clone());
                let told = [number("complete"), number("incomplete")];
                match verdict {
                    None => self.check_busy(sent.failure()),
                    Some(WebVerdict::Refused(text)) => assert_eq!(sent.failure(), Some(text)),
                    Some(WebVerdict::Polite) => assert_eq!(told, [Some(0), Some(0)]),
                    Some(WebVerdict::Served { counts, .. }) => {
                        let told = told.map(|count| count.expect("a count"));
                        let told = told.map(|count| u32::try_from(count).expect("small"));
                        self.check_counts(owner, told, [counts[0], counts[2]]);
                    }
                }
            }
            Some(Arrival::WebAnswer(arrival)) => {
                assert_eq!(sent.failure(), Some(NO_SUCH_OFFER));
                assert_eq!(sent.to, arrival.answerer);
                assert!(!std::mem::replace(&mut arrival.refused, true), "one failure");
            }
            Some(Arrival::WebScrape { web, rows, replied, .. }) => {
                assert!(!std::mem::replace(replied, true), "one reply");
                assert_eq!(sent.to, *web);
                let rows = rows.clone();
                if rows.is_empty() {
                    assert_eq!(sent.failure(), Some(FULL_SCRAPE));
                } else if sent.failure().is_some() {
                    self.check_busy(sent.failure());
                } else {
                    self.see_files(sent, &rows);
                }
            }
            other => panic!("{sent:?} comes of {other:?}"),
        }
    }

    fn see_files(&mut self, sent: &WebSent, rows: &Rows) {
        let files = sent.object["files"].as_object().expect("files");
        assert_eq!(files.len(), rows.len());
        for (hash, owner, counts) in rows {
            let file = &files[&latin1(&hash.0)];
            let [seeders, completed, leechers, _] = counts.expect("its owner was asked");
            let told = ["complete", "downloaded", "incomplete"]
                .map(|key| u32::try_from(file[key].as_u64().expect("a count")).expect("small"));
            self.check_counts(*owner, told, [seeders, completed, leechers]);
        }
    }

    fn see_offer(&mut self, tag: u64, sent: &WebSent) {
        let now = self.world.now;
        let Some(Arrival::WebAnnounce(arrival)) = self.arrivals.get_mut(&tag) else {
            panic!("nobody has made {sent:?}")
        };
        arrival.brought += 1;
        let Some(WebVerdict::Served { eligible, .. }) = &arrival.verdict else {
            panic!("offers of {arrival:?}: {sent:?}")
        };
        let may = eligible.iter().any(|(web, _)| *web == sent.to);
        assert!(may, "{:?} may not be given {sent:?}", sent.to);
        let id = sent.object["offer_id"].as_str().expect("a string").to_owned();
        let made = self.made.get_mut(&id).expect("somebody has made it");
        assert!(!std::mem::replace(&mut made.brought, true), "{id} was brought before");
        assert_eq!((made.by, made.peer, made.hash), (arrival.web, arrival.peer, arrival.hash));
        assert_eq!(sent.object["peer_id"], latin1(&made.peer.0));
        assert_eq!(sent.object["info_hash"], latin1(&made.hash.0));
        assert_eq!(sent.object["offer"], json!({"type": "offer", "sdp": format!("v {id}")}));
        let client = self.web_client(sent.to).expect("it is open");
        client.pending.retain(|pending| now.since(pending.given) <= WEB_PENDING_SECONDS);
        if client.pending.len() == WEB_PENDING_MAX {
            client.pending.remove(0);
        }
        client.pending.push(Pending { id, given: now });
    }

    fn see_answer(&mut self, tag: u64, sent: &WebSent) {
        let Some(Arrival::WebAnswer(arrival)) = self.arrivals.get_mut(&tag) else {
            panic!("nobody has answered {sent:?}")
        };
        assert!(arrival.may && !arrival.refused, "{arrival:?}");
        assert!(!std::mem::replace(&mut arrival.heard, true), "it is brought once");
        assert_eq!(sent.to, arrival.to, "to whoever made the offer");
        assert_eq!(sent.object["offer_id"], arrival.id.as_str());
        assert_eq!(sent.object["peer_id"], latin1(&arrival.from.0));
        assert_eq!(sent.object["info_hash"], latin1(&arrival.hash.0));
        self.trace.answers += 1;
    }
}

fn announce_text((hash, peer): (InfoHash, PeerId), says: &Says, ids: &[String]) -> String {
    let offer =
        |id: &String| json!({"offer": {"type": "offer", "sdp": format!("v {id}")}, "offer_id": id});
    let event = match says.event {
        1 => "completed",
        2 => "started",
        3 => "stopped",
        4 => "paused",
        5 => "sleeping",
        _ => "",
    };
    let mut object = json!({
        "action": "announce",
        "info_hash": latin1(&hash.0),
        "peer_id": latin1(&peer.0),
        "numwant": ids.len(),
        "event": event,
        "offers": ids.iter().map(offer).collect::<Vec<_>>(),
    });
    match says.left {
        Left::Nothing => object["left"] = json!(0),
        Left::Something => object["left"] = json!(1_000),
        Left::Unknown => {}
    }
    object.to_string()
}
