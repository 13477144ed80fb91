//! Random scripts over several cores, beside a slow and obvious tracker.
//!
//! The model is the specification as maps of maps. It knows which mailboxes are full, which cores
//! leave their messages where they are, and so what each announce comes to and when. Whom an offer
//! goes to is chance: the model says who it may be, and watches what becomes of it.
//!
//! What a script does is chosen by a seed, or by the bytes of whoever looks for one that fails.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value as Json;
use throng::limits::{
    PENDING_SCRAPE_SECONDS, WEB_OFFERS_MAX, WEB_PENDING_MAX, WEB_PENDING_SECONDS,
};
use throng::time::Seconds;
use throng::wire::addr::Endpoint;
use throng::wire::announce::{Announce, Event, Left};
use throng::wire::id::{InfoHash, PeerId};

use super::says::*;
use super::support::naive::{Member, Swarm};
use super::support::*;

const SEEDS: u64 = 300;
const STEPS: u32 = 200;
const SWARMS: u64 = 4;
const CONNECTIONS: u32 = 8;
const PEERS: u8 = 3;
const EVENTS: [&str; 8] = ["", "started", "completed", "stopped", "paused", "", "update", ""];

/// What an owner is told.
#[derive(Clone, Debug)]
enum Op {
    Announce(Web, Says),
    Leave(Web),
}

/// An offer that somebody has made.
#[derive(Clone, Debug)]
struct Made {
    by: Web,
    says: Says,
    brought: bool,
    /// Who has answered it, and that the offerer has not heard of it yet.
    answered: Option<PeerId>,
}

/// An offer that waits for its answer.
#[derive(Clone, Debug)]
struct Pending {
    id: String,
    given: Seconds,
}

/// What a connection has asked for and not been told.
#[derive(Clone, Debug, Default)]
struct Asked {
    announces: BTreeMap<InfoHash, u32>,
    scrapes: u32,
}

struct Script {
    world: World,
    choices: Choices,
    /// Which disturbances there are: full mailboxes, deaf cores, time.
    kinds: [bool; 3],
    hashes: Vec<InfoHash>,
    full: Vec<bool>,
    deaf: Vec<bool>,
    /// Whether some core has ever been deaf: then what was lost on the way is not foreseen.
    was_deaf: bool,
    webs: Vec<Web>,
    swarms: BTreeMap<InfoHash, Swarm<(Web, PeerId)>>,
    others: BTreeMap<InfoHash, Swarm<Endpoint>>,
    completed: u64,
    /// What deaf owners have been told.
    waiting: Vec<(u16, Op)>,
    /// Connections that have closed, for owners whose mailbox was full.
    departures: Vec<(u16, Web)>,
    /// Which connections have ever had a peer in which swarm.
    ever: BTreeSet<(Web, InfoHash)>,
    made: BTreeMap<String, Made>,
    pending: BTreeMap<Web, Vec<Pending>>,
    asked: BTreeMap<Web, Asked>,
    /// Scrapes whose counts have been lost.
    stuck: Vec<(Web, Seconds)>,
    /// Of the step: failures of answers, offers made and brought, other messages lost.
    failed: u32,
    offered: u64,
    brought: u64,
    lost: u64,
    /// Offers that made room for others, and the last of them at each connection.
    crowded: u64,
    dropped: BTreeMap<Web, Pending>,
}

/// Says which script it was.
struct Named(u64);

impl Drop for Named {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the script of seed {}", self.0);
        }
    }
}

#[test]
fn random_scripts_agree_with_a_naive_tracker() {
    let (mut brought, mut crowded) = ([0, 0], 0);
    for seed in 0..SEEDS {
        let _named = Named(seed);
        let mut script = Script::new(seed, Choices::Seed(throng::rng::Rng::new(seed)));
        for _ in 0..STEPS {
            script.step();
        }
        script.end();
        let counters = script.world.counters();
        brought[0] += counters.web_offers[0];
        brought[1] += counters.web_answers[0];
        crowded += script.crowded;
    }
    // The scripts are worth something.
    let few = brought[0] < 100 * SEEDS || brought[1] < 5 * SEEDS || crowded < SEEDS;
    assert!(!few, "{brought:?} {crowded}");
}

/// Plays the script that `bytes` choose beside the naive tracker.
///
/// # Panics
/// At the first difference.
pub fn check(bytes: &[u8]) {
    let Some((&seed, bytes)) = bytes.split_first() else { return };
    let choices = Choices::Bytes(bytes.iter().copied().collect());
    let mut script = Script::new(u64::from(seed), choices);
    for _ in 0..STEPS {
        if script.choices.is_over() {
            break;
        }
        script.step();
    }
    script.end();
}

impl Script {
    fn new(seed: u64, mut choices: Choices) -> Self {
        let cores = u16::try_from(1 + choices.below(4)).expect("few");
        Self {
            world: World::with(Options { cores, seed, ..Options::default() }),
            choices,
            kinds: [seed % 2 == 1, seed % 3 == 1, seed % 5 != 1],
            hashes: (0..SWARMS).map(|n| hash(n + seed)).collect(),
            full: vec![false; cores.into()],
            deaf: vec![false; cores.into()],
            was_deaf: false,
            webs: Vec::new(),
            swarms: BTreeMap::new(),
            others: BTreeMap::new(),
            completed: 0,
            waiting: Vec::new(),
            departures: Vec::new(),
            ever: BTreeSet::new(),
            made: BTreeMap::new(),
            pending: BTreeMap::new(),
            asked: BTreeMap::new(),
            stuck: Vec::new(),
            failed: 0,
            offered: 0,
            brought: 0,
            lost: 0,
            crowded: 0,
            dropped: BTreeMap::new(),
        }
    }

    fn step(&mut self) {
        let undelivered = self.world.counters().web_undelivered[0];
        (self.offered, self.brought, self.lost) = (0, 0, 0);
        match self.choices.below(32) {
            0..=13 => self.announce(),
            14..=19 => self.answer(),
            20 => self.scrape(),
            21..=22 => self.announce_otherwise(),
            23..=25 => self.open(),
            26 => self.close(),
            27..=28 if self.kinds[2] => {
                let seconds = [1, 2, 30, WEB_PENDING_SECONDS, WEB_TTL / 3, WEB_TTL + 1];
                let seconds = seconds[self.choices.below(6) as usize];
                self.pass(seconds);
            }
            29..=30 if self.kinds[0] => self.change_full(),
            31 if self.kinds[1] => self.change_deaf(),
            _ => self.announce(),
        }
        self.check();
        let lost = self.world.counters().web_undelivered[0] - undelivered;
        assert!(self.was_deaf || lost == self.lost + self.offered - self.brought, "lost {lost}");
    }

    fn owner(&self, hash: &InfoHash) -> u16 {
        self.world.owner.core(hash).0
    }

    fn core(&mut self) -> u16 {
        let cores = u32::from(self.world.owner.cores());
        u16::try_from(self.choices.below(cores)).expect("few")
    }

    fn hash(&mut self) -> InfoHash {
        self.hashes[self.choices.below(4) as usize]
    }

    fn peer(&mut self) -> PeerId {
        peer(u8::try_from(self.choices.below(PEERS.into())).expect("few"))
    }

    fn web(&mut self) -> Option<Web> {
        let count = u32::try_from(self.webs.len()).expect("few");
        self.webs.get(self.choices.below(count) as usize).copied()
    }

    /// Whether a message of `from` gets into the mailbox of `to`.
    fn reaches(&self, from: u16, to: u16) -> bool {
        from == to || !self.full[usize::from(to)]
    }

    fn is_deaf(&self) -> bool {
        self.deaf.contains(&true)
    }

    /// Tells an owner, now or when it listens.
    fn tell(&mut self, from: u16, owner: u16, op: Op) {
        if from != owner && self.deaf[usize::from(owner)] {
            self.waiting.push((owner, op));
        } else {
            self.apply(owner, op);
        }
    }

    fn apply(&mut self, owner: u16, op: Op) {
        let now = self.world.now;
        match op {
            Op::Leave(web) => {
                for (hash, swarm) in &mut self.swarms {
                    if self.world.owner.core(hash).0 == owner {
                        let before = swarm.members.len();
                        swarm.members.retain(|(at, _), _| *at != web);
                        if swarm.members.len() < before {
                            swarm.touched = now;
                        }
                    }
                }
            }
            Op::Announce(web, says) => {
                let Says { hash, peer, left, event, ref offers } = says;
                let key = (web, peer);
                if event == "stopped" {
                    if let Some(swarm) = self.swarms.get_mut(&hash)
                        && swarm.members.remove(&key).is_some()
                    {
                        swarm.touched = now;
                    }
                } else {
                    let swarm = self.swarms.entry(hash).or_default();
                    self.completed +=
                        u64::from(swarm.announce(now, key, left == 0, event_of(event)));
                    let may = |(other, member): &(&(Web, PeerId), &Member)| {
                        **other != key && !(left == 0 && member.seeder)
                    };
                    let eligible = swarm.members.iter().filter(may).count();
                    let offered = offers.len().min(WEB_OFFERS_MAX).min(eligible);
                    self.offered += u64::try_from(offered).expect("few");
                }
                if !self.reaches(owner, web.core) {
                    self.lost += 1;
                    self.told(web, hash);
                }
            }
        }
    }

    /// One announce of `web` is answered, or its answer is lost.
    fn told(&mut self, web: Web, hash: InfoHash) {
        // A closed one does not wait for it.
        let Some(asked) = self.asked.get_mut(&web) else { return };
        let waiting = asked.announces.entry(hash).or_default();
        assert!(*waiting > 0, "an answer without an announce");
        *waiting -= 1;
    }

    fn announce(&mut self) {
        let Some(web) = self.web() else { return };
        let (hash, peer) = (self.hash(), self.peer());
        let event = EVENTS[self.choices.below(8) as usize];
        let offers = self.choices.below(13);
        let ids = (0..offers).map(|n| format!("{}.{n}", self.made.len()));
        let left = u64::from(self.choices.below(3)) * 500;
        let says = says(hash, peer).left(left).event(event).offers(ids);
        for id in &says.offers {
            let made = Made { by: web, says: says.clone(), brought: false, answered: None };
            self.made.insert(id.clone(), made);
        }
        let owner = self.owner(&hash);
        *self.asked.entry(web).or_default().announces.entry(hash).or_default() += 1;
        let reaches = self.reaches(web.core, owner);
        if reaches {
            if event != "stopped" {
                self.ever.insert((web, hash));
            }
            self.tell(web.core, owner, Op::Announce(web, says.clone()));
        }
        self.world.web_send(web, &says.text());
        self.world.settle();
        let busy = self.observe(!self.is_deaf());
        assert_eq!(busy, u32::from(!reaches));
    }

    /// Reads what has been said. `at_once`: each message is about the step. Returns how many
    /// announces came to nothing.
    fn observe(&mut self, at_once: bool) -> u32 {
        self.failed = 0;
        let mut busy = 0;
        for sent in self.world.web_sent() {
            let object = &sent.object;
            let hash = object.get("info_hash").map(|text| self.named(text));
            match (object["action"].as_str(), sent.failure()) {
                _ if object.contains_key("offer") => self.see_offer(&sent, at_once),
                _ if object.contains_key("answer") => self.see_answer(&sent),
                (Some("announce"), Some(NO_SUCH_OFFER)) => self.failed += 1,
                (Some("announce"), Some(BUSY)) => {
                    busy += 1;
                    self.told(sent.to, hash.expect("named"));
                }
                (Some("announce"), None) => {
                    let hash = hash.expect("named");
                    self.told(sent.to, hash);
                    let [seeders, _, leechers, _] = self.counts(&hash);
                    let told = (number(object, "complete"), number(object, "incomplete"));
                    assert!(!at_once || told == (seeders, leechers), "{sent:?}");
                }
                (Some("scrape"), failure) => {
                    let asked = self.asked.get_mut(&sent.to).expect("it has asked");
                    assert!(asked.scrapes > 0, "a scrape that nobody asked for");
                    asked.scrapes -= 1;
                    assert!(matches!(failure, None | Some(BUSY)), "{sent:?}");
                    if failure.is_none() && at_once {
                        self.see_files(object["files"].as_object().expect("files"));
                    }
                }
                _ => panic!("{sent:?}"),
            }
        }
        busy
    }

    fn named(&self, text: &Json) -> InfoHash {
        let is_it = |hash: &&InfoHash| *text == latin1(&hash.0);
        *self.hashes.iter().find(is_it).expect("a swarm of the script")
    }

    fn see_files(&self, files: &serde_json::Map<String, Json>) {
        for (name, file) in files {
            let file = file.as_object().expect("a file");
            let counts = ["complete", "downloaded", "incomplete"].map(|key| number(file, key));
            let [seeders, completed, leechers, _] = self.counts(&self.named(&name.as_str().into()));
            assert_eq!(counts, [seeders, completed, leechers]);
        }
    }

    fn see_offer(&mut self, sent: &WebSent, at_once: bool) {
        let (to, now) = (sent.to, self.world.now);
        let id = sent.object["offer_id"].as_str().expect("a string");
        let made = self.made.get_mut(id).expect("somebody has made it");
        assert!(!std::mem::replace(&mut made.brought, true), "{id} was brought before");
        self.brought += 1;
        let Says { hash, peer: by, left, .. } = made.says;
        assert_eq!(sent.object["offer"], offer_of(id));
        assert_eq!(sent.object["peer_id"], latin1(&by.0));
        assert_eq!(sent.object["info_hash"], latin1(&hash.0));
        assert!(self.ever.contains(&(to, hash)), "{to:?} has never been there");
        let offerer = (made.by, by);
        if at_once {
            let may = |(key, member): (&(Web, PeerId), &Member)| {
                key.0 == to && *key != offerer && !(left == 0 && member.seeder)
            };
            assert!(self.swarms[&hash].members.iter().any(may), "nobody there may be given {id}");
        }
        let pending = self.pending.entry(to).or_default();
        pending.retain(|pending| now.since(pending.given) <= WEB_PENDING_SECONDS);
        if pending.len() == WEB_PENDING_MAX {
            // The oldest of whoever has made the most.
            let of = |pending: &Pending| self.made[&pending.id].by;
            let count = |by| pending.iter().filter(|other| of(other) == by).count();
            let counts: Vec<usize> = pending.iter().map(|pending| count(of(pending))).collect();
            let most = counts.iter().max().expect("they are many");
            let surplus = counts.iter().position(|count| count == most).expect("it is one of them");
            self.dropped.insert(to, pending.remove(surplus));
            self.crowded += 1;
        }
        pending.push(Pending { id: id.to_owned(), given: now });
    }

    fn see_answer(&mut self, sent: &WebSent) {
        let id = sent.object["offer_id"].as_str().expect("a string");
        let made = self.made.get_mut(id).expect("somebody has offered it");
        assert_eq!(sent.to, made.by, "it is for whoever made the offer");
        let from = made.answered.take().expect("one answer that the tracker took");
        assert_eq!(sent.object["peer_id"], latin1(&from.0));
        assert_eq!(sent.object["info_hash"], latin1(&made.says.hash.0));
    }

    fn answer(&mut self) {
        let Some(mut web) = self.web() else { return };
        let mut given = self.pending.get(&web).cloned().unwrap_or_default();
        if let Some(dropped) = self.dropped.get(&web)
            && self.choices.below(8) == 0
        {
            given = vec![dropped.clone()];
        }
        let count = u32::try_from(given.len()).expect("few");
        let picked =
            given.get(self.choices.below(count) as usize).map(|pending| pending.id.clone());
        let any = self.choices.below(u32::try_from(self.made.len()).expect("few"));
        let any = self.made.keys().nth(any as usize).cloned();
        let Some(mut id) = picked.or_else(|| any.clone()) else { return };
        let (mut hash, mut to) = (self.made[&id].says.hash, self.made[&id].says.peer);
        match self.choices.below(12) {
            0 => web = self.web().expect("there is one"),
            1 => id = any.expect("there is one"),
            2 => hash = self.hash(),
            3 => to = self.peer(),
            4 => id.push('0'),
            _ => {}
        }
        // Whatever its name is: it may have another one for each peer.
        let from = self.peer();
        let pending = self.pending.get(&web).into_iter().flatten();
        let may = pending.filter(|pending| pending.id == id).any(|pending| {
            let made = &self.made[&pending.id];
            let named = (made.says.hash, made.says.peer) == (hash, to);
            named && self.world.now.since(pending.given) <= WEB_PENDING_SECONDS
        });
        self.world.web_send(web, &answer((hash, from, to, &id)));
        // Before the answer is brought: it is taken or refused at once.
        let failed = self.world.replies(web);
        assert!(failed.iter().all(|sent| sent.failure() == Some(NO_SUCH_OFFER)));
        assert!(failed.len() <= 1);
        let taken = failed.is_empty();
        assert_eq!(taken, may, "{web:?} answers {id} as {from:?}");
        let mut is_coming = false;
        if taken {
            self.pending.entry(web).or_default().retain(|pending| pending.id != id);
            let made = self.made.get_mut(&id).expect("it is pending");
            let by = made.by;
            if self.webs.contains(&by) && (by.core == web.core || !self.full[usize::from(by.core)])
            {
                made.answered = Some(from);
                is_coming = true;
            } else {
                self.lost += 1;
            }
        }
        self.world.settle();
        self.observe(!self.is_deaf());
        let heard = is_coming && self.made[&id].answered.is_none();
        assert!(!is_coming || heard || self.is_deaf(), "{id} is answered");
    }

    fn scrape(&mut self) {
        let Some(web) = self.web() else { return };
        let asked: Vec<InfoHash> = (0..1 + self.choices.below(5)).map(|_| self.hash()).collect();
        let owners: BTreeSet<u16> = asked.iter().map(|hash| self.owner(hash)).collect();
        let is_asked = owners.iter().all(|&owner| self.reaches(web.core, owner));
        let is_told = owners.iter().all(|&owner| self.reaches(owner, web.core));
        self.asked.entry(web).or_default().scrapes += 1;
        if is_asked && !is_told {
            self.stuck.push((web, self.world.now));
        }
        let before = self.asked[&web].scrapes;
        self.world.web_send(web, &scrape(&asked));
        self.world.settle();
        self.observe(!self.is_deaf());
        let told = before - self.asked[&web].scrapes;
        assert!(self.is_deaf() || told == u32::from(!is_asked || is_told));
    }

    fn announce_otherwise(&mut self) {
        let n = self.choices.below(4);
        let (hash, source) = (self.hash(), if n < 2 { v4(n) } else { v6(n) });
        let which = self.choices.below(8) as usize;
        let left = u64::from(self.choices.below(3)) * 500;
        let event = event_of(EVENTS[which]);
        let announce = Announce { left: Left::Bytes(left), event, ..leecher(hash, 6_881) };
        let endpoint = Endpoint::new(source.ip(), announce.port);
        let swarm = self.others.entry(hash).or_default();
        if event == Event::Stopped {
            swarm.members.remove(&endpoint);
        } else {
            let completes = swarm.announce(self.world.now, endpoint, left == 0, event);
            self.completed += u64::from(completes);
        }
        let known: BTreeSet<Endpoint> = swarm.members.keys().copied().collect();
        let [seeders, _, leechers, _] = self.counts(&hash);
        let (counts, peers) = if self.choices.below(2) == 0 {
            let answer = self.world.announce(source, &announce);
            (answer.counts(), answer.peers)
        } else {
            self.world.http_core = Some(self.owner(&hash));
            let response = self.world.get(source.ip(), &target(&announce, ""));
            let (seeders, leechers, _) = response.counts();
            ((seeders, leechers), response.peers())
        };
        assert_eq!(counts, (seeders, leechers));
        assert!(peers.iter().all(|peer| known.contains(peer)), "{peers:?}");
        assert!(self.world.web_sent().is_empty(), "no WebSocket hears of it");
    }

    fn open(&mut self) {
        if self.webs.len() < CONNECTIONS as usize {
            let core = self.core();
            let source = if self.choices.below(4) == 0 { v6(1) } else { v4(1) };
            self.webs.push(self.world.web_open_from(core, source.ip()));
        }
    }

    fn close(&mut self) {
        let Some(web) = self.web() else { return };
        self.webs.retain(|&open| open != web);
        self.pending.remove(&web);
        self.asked.remove(&web);
        for owner in 0..self.world.owner.cores() {
            if self.reaches(web.core, owner) {
                self.tell(web.core, owner, Op::Leave(web));
            } else {
                self.departures.push((owner, web));
            }
        }
        self.world.web_close(web);
        self.observe(false);
    }

    fn pass(&mut self, seconds: u32) {
        // The others' store has its own expiry, and a test of it.
        if self.world.now.since(Seconds(10_000)) + seconds > TTL - 100 {
            return;
        }
        if self.choices.below(4) == 0 {
            self.world.sleep(seconds);
            return;
        }
        self.world.sleep(seconds);
        let now = self.world.now;
        self.swarms.retain(|_, swarm| {
            swarm.members.retain(|_, member| now.since(member.announced) <= WEB_TTL);
            !swarm.members.is_empty() || now.since(swarm.touched) <= WEB_TTL
        });
        for (owner, web) in std::mem::take(&mut self.departures) {
            if self.reaches(web.core, owner) {
                self.tell(web.core, owner, Op::Leave(web));
            } else {
                self.departures.push((owner, web));
            }
        }
        let is_late = |&(_, since): &(Web, Seconds)| now.since(since) >= PENDING_SCRAPE_SECONDS;
        let late: Vec<(Web, Seconds)> = self.stuck.iter().copied().filter(is_late).collect();
        self.stuck.retain(|stuck| !is_late(stuck));
        let gone = late.iter().filter(|(web, _)| !self.webs.contains(web)).count();
        self.lost += u64::try_from(gone).expect("few");
        self.world.tick();
        self.observe(false);
    }

    fn change_full(&mut self) {
        let core = self.core();
        let full = self.choices.below(3) == 0;
        self.full[usize::from(core)] = full;
        self.world.set_full(core, full);
    }

    fn change_deaf(&mut self) {
        let core = self.core();
        if self.world.owner.cores() > 1 {
            let deaf = !self.deaf[usize::from(core)];
            self.set_deaf(core, deaf);
        }
    }

    fn set_deaf(&mut self, core: u16, deaf: bool) {
        self.deaf[usize::from(core)] = deaf;
        self.was_deaf |= deaf;
        self.world.set_deaf(core, deaf);
        if !deaf {
            for (owner, op) in std::mem::take(&mut self.waiting) {
                if owner == core {
                    self.apply(owner, op);
                } else {
                    self.waiting.push((owner, op));
                }
            }
            self.world.settle();
            self.observe(false);
        }
    }

    /// [seeders, completed, leechers, downloaders] of everybody in a swarm.
    fn counts(&self, hash: &InfoHash) -> [u32; 4] {
        let web = self.swarms.get(hash).map_or([0; 4], Swarm::counts);
        let others = self.others.get(hash).map_or([0; 4], Swarm::counts);
        std::array::from_fn(|at| web[at] + others[at])
    }

    /// What holds after every step.
    fn check(&mut self) {
        for hash in self.hashes.clone() {
            // At the owner itself, which needs no message.
            self.world.http_core = Some(self.owner(&hash));
            let response = self.world.get(v4(7).ip(), &scrape_target(&[hash]));
            assert_eq!(response.file(&hash), Some(self.counts(&hash)), "{hash:?}");
        }
        let counters = self.world.counters();
        let sum = |at: usize| -> u64 {
            self.swarms.values().map(|swarm| u64::from(swarm.counts()[at])).sum()
        };
        assert_eq!(counters.web_seeders.iter().sum::<u64>(), sum(0));
        assert_eq!(counters.web_leechers.iter().sum::<u64>(), sum(2));
        assert_eq!(counters.completed, [self.completed]);
        assert_eq!(counters.web_connections, [self.webs.len() as u64]);
        if !self.is_deaf() {
            for (web, asked) in &self.asked {
                assert!(asked.announces.values().all(|&waiting| waiting == 0), "{web:?}");
            }
        }
    }

    /// All that was held up goes its way: everybody has been told, and nobody stays.
    fn end(&mut self) {
        for core in 0..self.world.owner.cores() {
            self.full[usize::from(core)] = false;
            self.world.set_full(core, false);
        }
        for core in 0..self.world.owner.cores() {
            self.set_deaf(core, false);
        }
        self.world.advance(PENDING_SCRAPE_SECONDS);
        self.observe(false);
        for (web, asked) in &self.asked {
            assert_eq!(asked.scrapes, 0, "{web:?}");
            assert!(asked.announces.values().all(|&waiting| waiting == 0), "{web:?}");
        }
        for web in std::mem::take(&mut self.webs) {
            self.world.web_close(web);
        }
        let counters = self.world.counters();
        assert_eq!(counters.web_seeders.iter().chain(&counters.web_leechers).sum::<u64>(), 0);
        assert_eq!((counters.web_connections, counters.pending_scrapes), ([0], [0]));
        assert_eq!(counters.messages_sent, counters.messages_received);
        assert_eq!(self.world.messages(), 0);
    }
}

fn event_of(word: &str) -> Event {
    Event::from_http(word.as_bytes())
}
