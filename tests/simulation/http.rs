//! Clients over HTTP: streams in pieces, requests back to back, connections that break off.

use std::collections::VecDeque;
use std::net::IpAddr;

use throng::time::Seconds;
use throng::wire::announce::Announce;
use throng::wire::http::head_end;

use super::model::{FULL_SCRAPE, Model, Verdict};
use super::plan::{Ask, Says};
use super::report::Fault;
use super::run::{Arrival, Rows, Sim, fill};
use super::support::*;

/// Seconds that a connection waits for its answer.
const WAIT_SECS: u32 = 3;

/// What a request must come to.
#[derive(Clone, Debug)]
enum Due {
    Announce {
        owner: u16,
        announce: Announce,
        verdict: Option<Verdict>,
    },
    Scrape {
        rows: Rows,
    },
    FullScrape,
    /// Some failure, whichever.
    Junk,
}

/// A request that has reached a tracker.
#[derive(Clone, Debug)]
pub struct HttpArrival {
    ip: IpAddr,
    due: Due,
    pub answered: bool,
}

impl HttpArrival {
    /// It, or what was asked for its sake, reaches a core.
    pub fn reaches(&mut self, now: Seconds, core: u16, model: &mut Model) {
        match &mut self.due {
            Due::Announce { owner, announce, verdict } if *owner == core && verdict.is_none() => {
                *verdict = Some(model.announce(now, self.ip, announce, None));
            }
            Due::Scrape { rows } => fill(rows, now, core, model),
            _ => {}
        }
    }
}

/// A connection as its core sees it.
#[derive(Clone, Debug)]
pub struct Stream {
    core: u16,
    connection: u64,
    /// Bytes that have come and are no whole head yet.
    buffer: Vec<u8>,
    searched: usize,
    /// What the heads in it will mean.
    asks: VecDeque<Ask>,
    /// The request that waits for its answer, and since when.
    pending: Option<(u64, Seconds)>,
}

impl Sim {
    pub fn stream_core(&self, client: u16) -> u16 {
        self.streams.get(&client).map_or(client % self.shape.cores, |stream| stream.core)
    }

    /// A client sends requests back to back, in pieces.
    pub fn http_ask(&mut self, client: u16, asks: &[Ask], piece: u16, reset: Option<u16>) {
        let core = self.stream_core(client);
        if !self.streams.contains_key(&client) {
            self.serial += 1;
            let (connection, buffer) = (self.serial, Vec::new());
            let (asks, pending) = (VecDeque::new(), None);
            let stream = Stream { core, connection, buffer, searched: 0, asks, pending };
            self.streams.insert(client, stream);
        }
        let mut bytes = Vec::new();
        for ask in asks {
            let head = self.head_of(client, ask);
            bytes.extend(head);
        }
        if let Some(reset) = reset {
            bytes.truncate(reset.into());
        }
        self.trace.count(Fault::Merging, u64::from(asks.len() > 1));
        self.trace.count(Fault::Splitting, u64::from(usize::from(piece) < bytes.len()));
        if let Some(stream) = self.streams.get_mut(&client) {
            stream.asks.extend(asks.iter().cloned());
        }
        for piece in bytes.chunks(piece.max(1).into()) {
            let Some(stream) = self.streams.get_mut(&client) else { return };
            stream.buffer.extend(piece);
            self.http_serve(client);
        }
        if reset.is_some() {
            self.trace.count(Fault::Reset, 1);
            self.streams.remove(&client);
        }
    }

    fn head_of(&self, client: u16, ask: &Ask) -> Vec<u8> {
        let target = match ask {
            Ask::Announce(says) => self.announce_target(client, says),
            Ask::Scrape { first, count } => scrape_target(&self.hashes(*first, *count)),
            Ask::Junk(kind) => return self.junk_head(client, *kind),
        };
        format!("GET {target} HTTP/1.1\r\nHost: tracker.example\r\n\r\n").into_bytes()
    }

    fn announce_target(&self, client: u16, says: &Says) -> String {
        let mut more = String::new();
        if says.num_want < 0 {
            more += &format!("&numwant={}", says.num_want);
        }
        if client.is_multiple_of(5) {
            more += "&compact=0";
        }
        if says.event > 4 {
            more += "&event=sleeping";
        }
        target(&self.announce_of(client, says), &more)
    }

    fn junk_head(&self, client: u16, kind: u8) -> Vec<u8> {
        let hash = escape(&self.hash(client).0);
        let peer = "&peer_id=aaaaaaaaaaaaaaaaaaaa&port=6881&left=0";
        let line = match kind {
            0 => "GET /nothing HTTP/1.1".to_owned(),
            1 => "GET /announce HTTP/1.1\nHost: x".to_owned(),
            2 => "POST /announce HTTP/1.1".to_owned(),
            3 => format!("GET /announce?x=1{peer} HTTP/1.1"),
            4 => format!("GET /announce?info_hash={hash}&info_hash={hash}{peer} HTTP/1.1"),
            5 => format!("GET /announce?info_hash={}{peer} HTTP/1.1", &hash[3..]),
            6 => format!("GET /announce?info_hash={hash}{peer}&port=70000 HTTP/1.1")
                .replace("port=6881&", ""),
            _ => "GET /scrape HTTP/1.1".to_owned(),
        };
        format!("{line}\r\n\r\n").into_bytes()
    }

    /// Serves the heads that are whole, as far as they need not wait.
    fn http_serve(&mut self, client: u16) {
        loop {
            let Some(stream) = self.streams.get_mut(&client) else { return };
            if stream.pending.is_some() {
                return;
            }
            let end = match head_end(&stream.buffer, stream.searched) {
                Ok(None) => {
                    stream.searched = stream.buffer.len();
                    return;
                }
                Ok(Some(end)) => end,
                Err(_) => stream.buffer.len(),
            };
            let head: Vec<u8> = stream.buffer.drain(..end).collect();
            stream.searched = 0;
            let ask = stream.asks.pop_front().expect("a head for each");
            let (core, connection) = (stream.core, stream.connection);
            let ip = self.udp[usize::from(client)].address.ip();
            let due = self.http_due(client, &ask);
            let now = self.world.now;
            let canonical = ip.to_canonical();
            let mut arrival = HttpArrival { ip: canonical, due, answered: false };
            arrival.reaches(now, core, &mut self.model);
            let tag = self.tag(Arrival::Http(arrival));
            if let Some(stream) = self.streams.get_mut(&client) {
                stream.pending = Some((tag, now));
            }
            let (response, stays) = self.world.http_head(core, (ip, connection), &head);
            if let Some(response) = response {
                self.trace.mix_bytes(&response.body);
                self.http_response(tag, &response);
                match self.streams.get_mut(&client) {
                    Some(stream) if stays => stream.pending = None,
                    _ => {
                        self.streams.remove(&client);
                    }
                }
            }
            self.after(tag, core);
        }
    }

    fn http_due(&self, client: u16, ask: &Ask) -> Due {
        match ask {
            Ask::Announce(says) => {
                let announce = self.announce_of(client, says);
                Due::Announce { owner: self.owner(&announce.info_hash), announce, verdict: None }
            }
            Ask::Scrape { count: 0, .. } => Due::FullScrape,
            Ask::Scrape { first, count } => {
                let mut hashes = self.hashes(*first, *count);
                hashes.sort_unstable();
                hashes.dedup();
                let row = |hash| (hash, self.owner(&hash), None);
                Due::Scrape { rows: hashes.into_iter().map(row).collect() }
            }
            Ask::Junk(_) => Due::Junk,
        }
    }

    /// An answer comes that had to wait.
    pub fn http_sent(&mut self, tag: u64, sent: &HttpSent) {
        let is_it = |(_, stream): &(&u16, &Stream)| stream.connection == sent.connection;
        // The connection may have broken off meanwhile.
        let Some((&client, stream)) = self.streams.iter().find(is_it) else { return };
        assert_eq!(stream.core, sent.core, "where the connection is");
        let (waiting, _) = stream.pending.expect("it has asked");
        // What is given up by the clock comes of nothing else.
        assert!(tag == waiting || tag == 0, "an answer to something else");
        let response = sent.response();
        if tag == 0 {
            self.check_busy(response.failure().as_deref());
        }
        self.http_response(waiting, &response);
        if let Some(stream) = self.streams.get_mut(&client) {
            stream.pending = None;
        }
        self.http_serve(client);
        self.world.set_tag(tag);
    }

    fn http_response(&mut self, tag: u64, response: &Response) {
        let Some(Arrival::Http(arrival)) = self.arrivals.get_mut(&tag) else {
            panic!("nobody has asked for {response:?}")
        };
        assert!(!arrival.answered, "one answer to {arrival:?}");
        arrival.answered = true;
        let arrival = arrival.clone();
        let failure = response.failure();
        match &arrival.due {
            Due::Junk => assert!(failure.is_some(), "{arrival:?}: {response:?}"),
            Due::FullScrape => assert_eq!(failure.as_deref(), Some(FULL_SCRAPE)),
            Due::Announce { owner, verdict, .. } => match verdict {
                // It could not be passed on.
                None => self.check_busy(failure.as_deref()),
                Some(Verdict::Refused(text)) => assert_eq!(failure.as_deref(), Some(*text)),
                Some(Verdict::Polite) => {
                    assert_eq!(response.counts(), (0, 0, 0));
                    assert_eq!(response.integer("interval"), Some(86_400));
                }
                Some(Verdict::Served { counts, eligible, want, .. }) => {
                    let (seeders, leechers, completed) = response.counts();
                    let [all_seeders, all_completed, all_leechers, _] = *counts;
                    let known = [all_seeders, all_completed, all_leechers];
                    self.check_counts(*owner, [seeders, completed, leechers], known);
                    self.check_peers(*owner, &response.peers(), (eligible, *want));
                }
            },
            Due::Scrape { .. } if failure.is_some() => self.check_busy(failure.as_deref()),
            Due::Scrape { rows } => {
                for (hash, owner, counts) in rows {
                    let told = response.file(hash).expect("it was asked for");
                    self.check_counts(*owner, told, counts.expect("its owner was asked"));
                }
            }
        }
    }

    /// Connections do not wait for ever.
    pub fn late_http(&mut self) {
        let now = self.world.now;
        let is_late = |stream: &Stream| {
            stream.pending.is_some_and(|(_, since)| now.since(since) > WAIT_SECS)
                && !self.stalled[usize::from(stream.core)]
        };
        let late = self.streams.iter().filter(|(_, stream)| is_late(stream));
        let late: Vec<(u16, u16)> = late.map(|(client, stream)| (*client, stream.core)).collect();
        for (client, core) in late {
            let response = self.world.late_http(core);
            self.check_busy(response.failure().as_deref());
            self.trace.count(Fault::LateAnswer, 1);
            self.streams.remove(&client);
        }
    }
}
