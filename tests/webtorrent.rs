//! What a WebSocket peer sees (WebTorrent), and what it can not do to others.
//!
//! Messages in, messages out, through the tracker, without a socket. `World` reads every message
//! that leaves and fails if it goes to a connection that has closed. Each fact is tried with the
//! swarm's owner and the connections on one core, on two and on three.

#[path = "webtorrent/model.rs"]
mod model;
#[path = "webtorrent/says.rs"]
mod says;
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use serde_json::{Value as Json, json};

use says::*;
use support::*;
use throng::limits::{
    HTTP_SCRAPE_HASHES_MAX, PENDING_SCRAPE_SECONDS, WEB_MESSAGE_BYTES_MAX, WEB_OFFERS_MAX,
    WEB_PENDING_MAX, WEB_PENDING_SECONDS, WEB_TORRENTS_MAX,
};
use throng::rng::Rng;
use throng::swarm::Bounds;
use throng::tracker::access::Access;
use throng::tracker::counters::{Action, Asked, Counters, Transport, refusal_index, request_index};
use throng::tracker::limiter::{Limits, Rate};
use throng::tracker::outcome::{Change, DropReason, Refusal};
use throng::tracker::policy::{POLITE_INTERVAL_SECS, Policy};
use throng::wire::addr::{Endpoint, Family};
use throng::wire::announce::{Announce, Event, Left};
use throng::wire::error::ParseError;
use throng::wire::id::{InfoHash, PeerId};

/// Every kind of character that an escape could get wrong.
const HASH: InfoHash = InfoHash(*b"\x12\"Vx\x9a\\\xbc\xde\xf1#Eg\x89\xab\xcd\xef \x7f=\x00");
/// Cores, the swarm's owner among them, and the cores of two connections.
const PLACES: [(u16, u16, u16, u16); 7] = [
    (1, 0, 0, 0),
    (2, 0, 0, 1),
    (2, 0, 1, 0),
    (2, 1, 0, 0),
    (2, 0, 0, 0),
    (3, 2, 0, 1),
    (4, 3, 1, 1),
];

/// An answer to an offer: (swarm, who answers, who offered, which offer).
type Answering = (InfoHash, PeerId, PeerId, &'static str);

/// The name of a relayed offer or answer.
fn offer_id(sent: &WebSent) -> &str {
    sent.object["offer_id"].as_str().expect("a string")
}

impl World {
    /// Announces; (seeders, leechers) of the reply.
    fn web_announce(&mut self, web: Web, says: &Says) -> (u32, u32) {
        let reply = self.reply(web, &says.text());
        assert_eq!(reply.failure(), None, "{says:?}");
        (number(&reply.object, "complete"), number(&reply.object, "incomplete"))
    }

    /// Sends a message that fails; the reason.
    fn web_failure(&mut self, web: Web, text: &str) -> String {
        let reply = self.reply(web, text);
        reply.failure().unwrap_or_else(|| panic!("no failure: {reply:?}")).to_owned()
    }

    /// Sends an answer; why it was refused, if it was.
    fn web_answer(&mut self, web: Web, answering: Answering) -> Result<(), String> {
        self.web_send(web, &answer(answering));
        self.settle();
        let mut replies = self.replies(web);
        assert!(replies.len() <= 1, "{replies:?}");
        match replies.pop() {
            None => Ok(()),
            Some(reply) => Err(reply.failure().expect("a failure").to_owned()),
        }
    }

    /// [seeders, completed, leechers] as every kind of scrape says.
    fn everybody(&mut self, hash: InfoHash) -> [u32; 3] {
        let web = self.web_open(0);
        let reply = self.reply(web, &scrape(&[hash]));
        self.web_close(web);
        let file = reply.object["files"][&latin1(&hash.0)].as_object().expect("a file").clone();
        let counts = ["complete", "downloaded", "incomplete"].map(|key| number(&file, key));
        assert_eq!(self.scrape(v4(8_000), &[hash]), [counts], "UDP");
        let response = self.get(v4(8_000).ip(), &scrape_target(&[hash]));
        let [seeders, completed, leechers, _] = response.file(&hash).expect("a file");
        assert_eq!([seeders, completed, leechers], counts, "HTTP");
        counts
    }
}

// Announces.

#[test]
fn replies_to_announces_have_the_keys_that_clients_know_and_no_others() {
    for (cores, owner, core, other) in PLACES {
        let mut world = World::of(cores);
        let hash = world.hash_of(owner, 0);
        let (web, beside) = (world.web_open(core), world.web_open(other));
        world.web_announce(beside, &says(hash, peer(9)).seeder());
        let base = says(hash, peer(1));
        for (says, counts) in [
            (base.clone().event("started"), (1, 1)),
            (base.clone(), (1, 1)),
            (base.clone().event("paused"), (1, 1)),
            (base.clone().event("update"), (1, 1)),
            (base.clone().offers(["a", "b"]), (1, 1)),
            (base.clone().seeder().event("completed"), (2, 0)),
            (base.clone().seeder(), (2, 0)),
            (base.clone().event("stopped"), (1, 0)),
            (base.clone().event("stopped"), (1, 0)),
        ] {
            let reply = world.reply(web, &says.text());
            let interval = number(&reply.object, "interval");
            let expected = json!({
                "action": "announce",
                "complete": counts.0,
                "incomplete": counts.1,
                "info_hash": latin1(&hash.0),
                "interval": interval,
            });
            assert_eq!(Json::Object(reply.object), expected, "{says:?}");
            assert!((108..=132).contains(&interval), "{interval}");
        }
    }
}

#[test]
fn the_interval_is_two_minutes_with_a_jitter_that_is_the_peers_own() {
    let mut given = BTreeMap::new();
    for round in 0..2 {
        // Another start, another number of cores, another connection: the same interval.
        let mut world =
            World::with(Options { cores: 1 + round, seed: round.into(), ..Options::default() });
        for n in 0..200 {
            let web = world.web_open(0);
            let text = says(hash(n / 20), peer(u8::try_from(n % 20).expect("few"))).text();
            let interval = number(&world.reply(web, &text).object, "interval");
            assert!((108..=132).contains(&interval), "{interval}");
            assert_eq!(*given.entry(n).or_insert(interval), interval);
            assert_eq!(number(&world.reply(web, &text).object, "interval"), interval);
        }
    }
    let different: BTreeSet<u32> = given.values().copied().collect();
    assert!(different.len() > 15, "{different:?}");
}

#[test]
fn left_is_zero_or_a_leechers() {
    for (left, seeders) in [
        (r#","left":0"#, 1),
        (r#","left":"0""#, 1),
        ("", 0),
        (r#","left":null"#, 0),
        (r#","left":1"#, 0),
        (r#","left":-1"#, 0),
        (r#","left":-0"#, 0),
        (r#","left":0.0"#, 0),
        (r#","left":1e999"#, 0),
        (r#","left":18446744073709551615"#, 0),
        (r#","left":99999999999999999999999"#, 0),
        (r#","left":[0]"#, 0),
    ] {
        let mut world = World::of(2);
        for core in [0, 1] {
            let web = world.web_open(core);
            let (hash, peer) = (json!(latin1(&HASH.0)), json!(latin1(&peer(1).0)));
            let text =
                format!(r#"{{"action":"announce","info_hash":{hash},"peer_id":{peer}{left}}}"#);
            let reply = world.reply(web, &text);
            assert_eq!(
                number(&reply.object, "complete"),
                seeders * (u32::from(core) + 1),
                "{left}"
            );
        }
    }
}

/// A way to announce.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Way {
    Udp,
    Http,
    Web(Web),
}

impl World {
    /// Announces in a way; (seeders, leechers) of the reply.
    fn announce_by(&mut self, way: Way, hash: InfoHash, left: u64, event: Event) -> (u32, u32) {
        let announce = Announce { left: Left::Bytes(left), event, ..leecher(hash, 6_881) };
        match way {
            Way::Udp => self.announce(v4(1), &announce).counts(),
            Way::Http => {
                let (seeders, leechers, _) = self.get(v4(2).ip(), &target(&announce, "")).counts();
                (seeders, leechers)
            }
            Way::Web(web) => {
                let event = ["", "completed", "started", "stopped", "paused"][event as usize];
                self.web_announce(web, &says(hash, peer(1)).left(left).event(event))
            }
        }
    }
}

#[test]
fn every_transport_counts_the_peers_of_all() {
    // What one peer does; then seeders, downloads, leechers and downloaders that it makes.
    let steps = [
        (100, Event::Started, [0, 0, 1, 1]),
        (100, Event::None, [0, 0, 1, 1]),
        (100, Event::Paused, [0, 0, 1, 0]),
        (100, Event::None, [0, 0, 1, 1]),
        (0, Event::Completed, [1, 1, 0, 0]),
        (0, Event::None, [1, 1, 0, 0]),
        (5, Event::None, [0, 1, 1, 1]),
        (0, Event::Completed, [1, 1, 0, 0]),
        (0, Event::Stopped, [0, 1, 0, 0]),
        (0, Event::Stopped, [0, 1, 0, 0]),
        // A seeder from the beginning has downloaded nothing here.
        (0, Event::Completed, [1, 1, 0, 0]),
        (7, Event::Stopped, [0, 1, 0, 0]),
        // A leecher that needs nothing any more has, whatever it calls that.
        (9, Event::Started, [0, 1, 1, 1]),
        (0, Event::None, [1, 2, 0, 0]),
        (0, Event::Stopped, [0, 2, 0, 0]),
    ];
    for (cores, owner, core, _) in PLACES {
        for acting in 0..3 {
            let mut world = World::of(cores);
            let hash = world.hash_of(owner, 0);
            let ways = [Way::Udp, Way::Http, Way::Web(world.web_open(core))];
            // The others: a seeder, a leecher.
            let (one, other) = (ways[(acting + 1) % 3], ways[(acting + 2) % 3]);
            world.announce_by(one, hash, 0, Event::Started);
            world.announce_by(other, hash, 10, Event::Started);
            for (left, event, [seeders, completed, leechers, downloaders]) in steps {
                let told = world.announce_by(ways[acting], hash, left, event);
                let what = format!("{:?} {event:?}", ways[acting]);
                assert_eq!(told, (1 + seeders, 1 + leechers), "{what}");
                assert_eq!(world.everybody(hash), [1 + seeders, completed, 1 + leechers], "{what}");
                let response = world.get(v4(8_000).ip(), &scrape_target(&[hash]));
                let file = response.file(&hash).expect("a file");
                assert_eq!(file[3], 1 + downloaders, "{what}");
                for (way, left) in [(one, 0), (other, 10)] {
                    let told = world.announce_by(way, hash, left, Event::None);
                    assert_eq!(told, (1 + seeders, 1 + leechers), "{way:?} sees {what}");
                }
            }
        }
    }
}

#[test]
fn addresses_are_given_to_those_who_have_one_and_offers_to_those_who_have_a_connection() {
    for (cores, owner, core, other) in PLACES {
        let mut world = World::of(cores);
        let hash = world.hash_of(owner, 0);
        let (one, two) = (world.web_open(core), world.web_open(other));
        world.announce(v4(1), &seeder(hash, 6_881));
        world.get(v4(2).ip(), &target(&leecher(hash, 6_882), ""));
        world.web_announce(one, &says(hash, peer(1)).seeder());
        world.web_announce(two, &says(hash, peer(2)).offers(0..10));
        let offered = world.web_sent();
        assert_eq!(offered.len(), 1, "to the other WebSocket peer, and nobody else");
        assert_eq!(offered[0].to, one);
        let answer = world.announce(v4(3), &leecher(hash, 6_883));
        assert_eq!(answer.counts(), (2, 3));
        let known =
            BTreeSet::from([Endpoint::new(v4(1).ip(), 6_881), Endpoint::new(v4(2).ip(), 6_882)]);
        assert_eq!(answer.peers.into_iter().collect::<BTreeSet<_>>(), known);
        let response = world.get(v4(3).ip(), &target(&leecher(hash, 6_883), ""));
        assert_eq!(response.peers().into_iter().collect::<BTreeSet<_>>(), known);
        assert_eq!(world.counters().web_undelivered, [0]);
    }
}

// Offers.

#[test]
fn each_offer_goes_to_a_peer_of_its_own_in_order_and_ten_at_the_most() {
    for cores in 1..=3 {
        for others in [0_u8, 1, 2, 9, 10, 11, 40] {
            for offers in [0, 1, 5, 10, 11, 50] {
                let mut world = World::of(cores);
                for n in 0..others {
                    let web = world.web_open(u16::from(n) % cores);
                    world.web_announce(web, &says(HASH, peer(n)).left(u64::from(n % 2)));
                }
                let web = world.web_open(cores - 1);
                world.web_announce(web, &says(HASH, peer(200)).offers(0..offers));
                let sent = world.web_sent();
                let expected = offers.min(usize::from(others)).min(WEB_OFFERS_MAX);
                // Mailboxes are read in any order.
                let mut names: Vec<usize> =
                    sent.iter().map(|sent| offer_id(sent).parse().expect("a number")).collect();
                names.sort_unstable();
                assert_eq!(names, (0..expected).collect::<Vec<_>>(), "the first ones");
                let receivers: BTreeSet<Web> = sent.iter().map(|sent| sent.to).collect();
                assert_eq!(receivers.len(), expected, "all different");
                assert!(!receivers.contains(&web));
                for sent in sent {
                    let expected = json!({
                        "action": "announce",
                        "offer": offer_of(offer_id(&sent)),
                        "offer_id": offer_id(&sent),
                        "peer_id": latin1(&peer(200).0),
                        "info_hash": latin1(&HASH.0),
                    });
                    assert_eq!(Json::Object(sent.object), expected);
                }
                let brought = u64::try_from(expected).expect("few");
                assert_eq!(world.counters().web_offers, [brought]);
            }
        }
    }
}

#[test]
fn seeders_offer_to_leechers_only_and_leechers_to_both() {
    for (seeder, receivers) in [(true, 3), (false, 7)] {
        for (event, offers) in [("started", true), ("completed", true), ("stopped", false)] {
            let mut world = World::of(2);
            for n in 0..7 {
                let web = world.web_open(n % 2);
                let says = says(HASH, peer(u8::try_from(n).expect("few")));
                world.web_announce(web, &if n < 4 { says.seeder() } else { says });
            }
            let web = world.web_open(0);
            let says = says(HASH, peer(9)).event(event).left(u64::from(!seeder));
            world.web_announce(web, &says.offers(0..10));
            let sent = world.web_sent();
            assert_eq!(sent.len(), if offers { receivers } else { 0 }, "{seeder} {event}");
        }
    }
}

#[test]
fn nobody_is_offered_itself_but_another_peer_of_its_connection_is() {
    for (cores, owner, core, other) in PLACES {
        let mut world = World::of(cores);
        let hash = world.hash_of(owner, 0);
        let (web, beside) = (world.web_open(core), world.web_open(other));
        for _ in 0..20 {
            world.web_announce(web, &says(hash, peer(1)).offers(0..10));
        }
        assert!(world.web_sent().is_empty(), "it is alone");
        world.web_announce(web, &says(hash, peer(2)).offers(["to the first"]));
        let sent = world.relayed(web);
        assert_eq!(sent.len(), 1);
        assert_eq!(sent[0].object["peer_id"], latin1(&peer(2).0));
        assert_eq!(world.web_answer(web, (hash, peer(1), peer(2), "to the first")), Ok(()));
        assert_eq!(world.relayed(web).len(), 1);
        // The same peer_id by another connection is another peer.
        world.web_announce(web, &says(hash, peer(2)).event("stopped"));
        world.web_announce(beside, &says(hash, peer(1)).offers(["to a namesake"]));
        let sent = world.web_sent();
        assert_eq!((sent.len(), sent[0].to), (1, web));
    }
}

#[test]
fn offers_answers_and_their_names_are_relayed_byte_for_byte() {
    let objects = [
        "{}",
        r#"{"type":"offer","sdp":"v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\n"}"#,
        r#"{ "sdp" :"z", "type" : "offer" , "a":1, "A":[ 1.50, -0, 1e3, null, true ] }"#,
        "{\"sdp\":\"\u{e9}\\u00e9\\/\\\"\\\\ \u{7f}\u{1f600}\\ud83d\\ude00\"}",
        r#"{"a":1,"a":2,"offer":3,"peer_id":"x","":{"b":{"c":{}}}}"#,
        "{\t\"newlines between\"\n:\r\n\"tokens\"}",
    ];
    let names = [
        r#""x""#,
        r#""\u0078""#,
        r#""0123456789abcdef""#,
        "\"\u{ff}\u{0}0123456789abcdefgh\"".replace('\u{0}', r"\u0000").leak(),
        r#""\"\\\/\b\f\n\r\t ""#,
        "\"\u{1f600}\\uD83D\\ude00\"",
        "\"\u{ff}\"".replace('\u{ff}', &"\u{ff}".repeat(64)).leak(),
    ];
    let (hash, one, two) = (latin1(&HASH.0), latin1(&peer(1).0), latin1(&peer(2).0));
    for (cores, core, other) in [(1, 0, 0), (3, 0, 1), (3, 2, 0)] {
        for object in objects {
            for name in names {
                let mut world = World::of(cores);
                let (offerer, answerer) = (world.web_open(core), world.web_open(other));
                world.web_announce(answerer, &says(HASH, peer(2)));
                let (hash, one, two) = (json!(hash), json!(one), json!(two));
                // Keys that nobody asked for go nowhere.
                let text = format!(
                    r#"{{"evil":[1],"offers":[{{"evil":2,"offer_id":{name},"offer":{object}}}],
                        "action":"announce","peer_id":{one},"info_hash":{hash},"left":5}}"#
                );
                world.reply(offerer, &text);
                let text = format!(
                    r#"{{"evil":[1],"offer_id":{name},"answer":{object},"action":"announce",
                        "to_peer_id":{one},"peer_id":{two},"info_hash":{hash},"left":5}}"#
                );
                world.web_send(answerer, &text);
                world.settle();
                for (web, kind, from) in [(answerer, "offer", &two), (offerer, "answer", &one)] {
                    let sent = world.relayed(web);
                    assert_eq!(sent.len(), 1, "{kind} {object} {name}");
                    let WebSent { text, object: keys, .. } = &sent[0];
                    assert!(text.contains(&format!(r#""{kind}":{object},"#)), "{text}");
                    assert!(text.contains(&format!(r#""offer_id":{name},"#)), "{text}");
                    let all: BTreeSet<&str> = keys.keys().map(String::as_str).collect();
                    let known = ["action", kind, "info_hash", "offer_id", "peer_id"];
                    assert_eq!(all, BTreeSet::from(known), "{text}");
                    assert_eq!((&keys["action"], &keys["info_hash"]), (&json!("announce"), &hash));
                    assert_ne!(keys["peer_id"], *from, "it is the other one's");
                }
            }
        }
    }
}

/// Lets everything come of what has been said, and tells which messages went between cores.
fn hops(world: &mut World) -> Vec<(u16, u16)> {
    let mut hops = Vec::new();
    while let Some(letter) = world.take_letter() {
        world.hand(&letter);
        hops.push((letter.from, letter.to));
    }
    hops.sort_unstable();
    hops
}

#[test]
fn announces_go_by_way_of_the_owner_of_their_swarm_and_answers_straight_to_who_has_offered() {
    let mut world = World::of(4);
    let hash = world.hash_of(0, 0);
    let [one, two, three] = [1, 2, 3].map(|core| world.web_open(core));
    for (web, n) in [(two, 2), (three, 3)] {
        world.web_send(web, &says(hash, peer(n)).text());
        assert_eq!(hops(&mut world), [(0, web.core), (web.core, 0)]);
    }
    world.web_send(one, &says(hash, peer(1)).offers(["x", "y"]).text());
    assert_eq!(hops(&mut world), [(0, 1), (0, 2), (0, 3), (1, 0)], "a reply and two offers");
    for (web, n) in [(two, 2), (three, 3)] {
        let offer = world.relayed(web).remove(0);
        world.web_send(web, &answer((hash, peer(n), peer(1), offer_id(&offer))));
        let hops = hops(&mut world);
        assert_eq!((hops, world.relayed(one).len()), (vec![(web.core, 1)], 1));
    }
    world.web_hang_up(one);
    assert_eq!(hops(&mut world), [(1, 0)]);

    // Where the owner has the connections nothing goes anywhere.
    let [one, two] = [0, 0].map(|core| world.web_open(core));
    world.web_announce(two, &says(hash, peer(5)));
    world.web_send(one, &says(hash, peer(4)).offers(["x"; 9]).text());
    assert_eq!(hops(&mut world), [(0, 2), (0, 3)], "but offers to those of other cores");
}

// Answers.

/// Two connections: by the first, `peer(1)` has offered "x" to `peer(2)` of the second.
fn introduced((cores, owner, core, other): (u16, u16, u16, u16)) -> (World, InfoHash, Web, Web) {
    let mut world = World::of(cores);
    let hash = world.hash_of(owner, 0);
    let (one, two) = (world.web_open(core), world.web_open(other));
    world.web_announce(two, &says(hash, peer(2)));
    world.web_announce(one, &says(hash, peer(1)).offers(["x"]));
    let sent = world.web_sent();
    assert_eq!((sent.len(), sent[0].to), (1, two));
    (world, hash, one, two)
}

#[test]
fn an_answer_is_brought_once_and_only_by_the_connection_that_was_given_the_offer() {
    for place in PLACES {
        let (mut world, hash, one, two) = introduced(place);
        let elsewhere = world.hash_of(place.1, 1);
        let third = world.web_open(place.3);
        let fourth = world.web_open(place.2);
        world.web_announce(third, &says(hash, peer(3)));
        world.web_announce(two, &says(elsewhere, peer(2)));
        let right = (hash, peer(2), peer(1), "x");
        let mut wrong = 0;
        for (web, answering) in [
            // From others: a peer of the swarm, with its own name and with the right one; the
            // offerer itself; somebody who is nowhere.
            (third, (hash, peer(3), peer(1), "x")),
            (third, right),
            (one, (hash, peer(1), peer(1), "x")),
            (one, right),
            (fourth, right),
            // From the right connection, but to another peer, to another offer, in another swarm;
            // to itself.
            (two, (hash, peer(2), peer(3), "x")),
            (two, (hash, peer(2), peer(2), "x")),
            (two, (hash, peer(2), peer(1), "y")),
            (two, (hash, peer(2), peer(1), "xx")),
            (two, (elsewhere, peer(2), peer(1), "x")),
            (two, (hash, peer(1), peer(2), "x")),
        ] {
            assert_eq!(world.web_answer(web, answering), Err(NO_SUCH_OFFER.into()));
            assert!(world.web_sent().is_empty(), "nobody hears of it");
            wrong += 1;
        }
        assert_eq!(world.web_answer(two, right), Ok(()));
        let sent = world.web_sent();
        assert_eq!((sent.len(), sent[0].to), (1, one));
        let expected = json!({
            "action": "announce",
            "answer": {"type": "answer", "sdp": "v=0\r\no=- to x\r\n"},
            "offer_id": "x",
            "peer_id": latin1(&peer(2).0),
            "info_hash": latin1(&hash.0),
        });
        assert_eq!(Json::Object(sent[0].object.clone()), expected);
        for web in [two, third, one] {
            assert_eq!(world.web_answer(web, right), Err(NO_SUCH_OFFER.into()), "a second one");
            wrong += 1;
        }
        assert!(world.web_sent().is_empty());
        assert_eq!(world.refused(Refusal::NoSuchOffer), wrong);
        let counters = world.counters();
        assert_eq!((counters.web_offers, counters.web_answers), ([1], [1]));
        assert_eq!(counters.web_undelivered, [0]);
    }
}

#[test]
fn who_answers_may_have_another_name_for_each_peer() {
    for place in PLACES {
        let (mut world, hash, one, two) = introduced(place);
        // The name is nobody's, or another one's: it is for the offerer to see, and no more.
        world.web_announce(two, &says(hash, peer(2)).offers(["back"]));
        assert_eq!(world.relayed(one).len(), 1);
        assert_eq!(world.web_answer(two, (hash, peer(77), peer(1), "x")), Ok(()));
        let sent = world.web_sent();
        assert_eq!((sent.len(), sent[0].to), (1, one));
        assert_eq!(sent[0].object["peer_id"], latin1(&peer(77).0));
        assert_eq!(world.web_answer(one, (hash, peer(2), peer(2), "back")), Ok(()));
        assert_eq!(world.relayed(two).len(), 1);
        // It is once still, whatever the name.
        for name in [77, 78, 2] {
            let again = (hash, peer(name), peer(1), "x");
            assert_eq!(world.web_answer(two, again), Err(NO_SUCH_OFFER.into()));
        }
        assert_eq!(world.everybody(hash), [0, 0, 2], "an answer brings nobody into a swarm");
    }
}

#[test]
fn an_offer_waits_two_minutes_for_its_answer() {
    for (seconds, answered) in [(0, true), (WEB_PENDING_SECONDS, true), (121, false), (500, false)]
    {
        let (mut world, hash, one, two) = introduced(PLACES[5]);
        world.sleep(seconds);
        let answering = (hash, peer(2), peer(1), "x");
        assert_eq!(world.web_answer(two, answering).is_ok(), answered, "{seconds}");
        assert_eq!(world.relayed(one).len(), usize::from(answered));
        assert_eq!(world.web_answer(two, answering), Err(NO_SUCH_OFFER.into()));
    }
}

#[test]
fn an_answer_reaches_an_offerer_that_has_left_the_swarm_but_not_one_that_has_closed() {
    for place in PLACES {
        let answering = |hash| (hash, peer(2), peer(1), "x");
        let (mut world, hash, one, two) = introduced(place);
        world.web_announce(one, &says(hash, peer(1)).event("stopped"));
        assert_eq!(world.web_answer(two, answering(hash)), Ok(()));
        assert_eq!(world.relayed(one).len(), 1);

        let (mut world, hash, one, two) = introduced(place);
        world.web_close(one);
        // Another one of its name gets nothing of what was meant for it.
        let again = world.web_open(place.2);
        world.web_announce(again, &says(hash, peer(1)));
        assert_eq!(world.web_answer(two, answering(hash)), Ok(()));
        assert!(world.web_sent().is_empty());
        let counters = world.counters();
        assert_eq!((counters.web_answers, counters.web_undelivered), ([0], [1]));
        assert_eq!(world.web_answer(two, answering(hash)), Err(NO_SUCH_OFFER.into()));
    }
}

#[test]
fn sixty_four_offers_wait_at_a_connection_and_the_oldest_goes_first() {
    let mut world = World::of(2);
    let (one, two) = (world.web_open(0), world.web_open(1));
    world.web_announce(two, &says(HASH, peer(2)));
    let names: Vec<String> = (0..WEB_PENDING_MAX + 3).map(|n| format!("offer {n}")).collect();
    for name in &names {
        world.web_announce(one, &says(HASH, peer(1)).offers([name]));
    }
    assert_eq!(world.relayed(two).len(), names.len(), "all are brought");
    let brought = |world: &mut World, name: &str| {
        world.web_send(two, &answer((HASH, peer(2), peer(1), name)));
        world.settle();
        let (failed, brought) = (world.replies(two).len(), world.relayed(one).len());
        assert_eq!(failed + brought, 1);
        brought == 1
    };
    for (index, name) in names.iter().enumerate() {
        assert_eq!(brought(&mut world, name), index >= 3, "{name}");
    }
    // Those that are too old make room, and no others.
    for name in &names[..2] {
        world.web_announce(one, &says(HASH, peer(1)).offers([name]));
        world.sleep(WEB_PENDING_SECONDS);
    }
    for name in &names[2..WEB_PENDING_MAX + 1] {
        world.web_announce(one, &says(HASH, peer(1)).offers([name]));
    }
    world.web_announce(two, &says(HASH, peer(2)));
    assert!(!brought(&mut world, &names[0]));
    assert!(brought(&mut world, &names[2]));
    assert!(brought(&mut world, &names[WEB_PENDING_MAX]));
}

// Ownership.

#[test]
fn another_connection_of_the_same_name_can_not_touch_a_peer() {
    type Act = fn(&Says) -> Vec<String>;
    // What the other connection says, and how many downloads it thereby counts for itself.
    let attacks: [(&str, Act, u32); 9] = [
        ("nothing", |_| Vec::new(), 0),
        ("joins", |own| vec![own.text()], 0),
        ("stops", |own| vec![own.clone().event("stopped").text()], 0),
        ("joins and stops", |own| vec![own.text(), own.clone().event("stopped").text()], 0),
        ("seeds", |own| vec![own.clone().seeder().text()], 0),
        ("completes", |own| vec![own.clone().seeder().event("completed").text()], 0),
        (
            "joins and completes",
            |own| vec![own.text(), own.clone().seeder().event("completed").text()],
            1,
        ),
        ("pauses", |own| vec![own.clone().event("paused").text()], 0),
        (
            "answers",
            |own| {
                let Says { hash, peer, .. } = *own;
                vec![answer((hash, peer, self::peer(8), "early"))]
            },
            0,
        ),
    ];
    for place @ (cores, owner, core, other) in PLACES {
        for (attack, act, downloads) in attacks {
            let mut world = World::of(cores);
            let hash = world.hash_of(owner, 0);
            let (victim, friend) = (world.web_open(core), world.web_open(other));
            let attacker = world.web_open(other);
            let own = says(hash, peer(1));
            // The victim has an offer to answer, and waits for an answer.
            world.web_announce(victim, &own);
            world.web_announce(friend, &says(hash, peer(8)).offers(["early"]));
            world.web_announce(victim, &own.clone().offers(["own"]));
            assert_eq!((world.relayed(victim).len(), world.relayed(friend).len()), (1, 1));
            for text in act(&own) {
                world.web_send(attacker, &text);
                world.settle();
            }
            world.web_close(attacker);
            let what = format!("{attack} at {place:?}");
            assert_eq!(world.everybody(hash), [0, downloads, 2], "{what}");
            // It is still a leecher that is given offers, at its own connection.
            world.web_announce(friend, &says(hash, peer(8)).seeder().offers(["late"]));
            assert_eq!(world.everybody(hash), [1, 1 + downloads, 1], "{what}");
            let given = world.relayed(victim);
            assert_eq!((given.len(), offer_id(&given[0])), (1, "late"), "{what}");
            // It answers all that it has been given, and gets what is for it.
            for name in ["early", "late"] {
                let answered = world.web_answer(victim, (hash, peer(1), peer(8), name));
                assert_eq!((answered, world.relayed(friend).len()), (Ok(()), 1), "{what}");
            }
            let answered = world.web_answer(friend, (hash, peer(8), peer(1), "own"));
            assert_eq!((answered, world.relayed(victim).len()), (Ok(()), 1), "{what}");
            // And it leaves when it says so.
            world.web_announce(victim, &own.clone().event("stopped"));
            assert_eq!(world.everybody(hash), [1, 1 + downloads, 0], "{what}");
        }
    }
}

#[test]
fn a_namesake_in_the_swarm_is_counted_for_itself_and_hears_only_what_it_is_given() {
    for (cores, owner, core, other) in PLACES {
        let mut world = World::of(cores);
        let hash = world.hash_of(owner, 0);
        let (victim, namesake) = (world.web_open(core), world.web_open(other));
        let friend = world.web_open(core);
        assert_eq!(world.web_announce(victim, &says(hash, peer(1))), (0, 1));
        assert_eq!(world.web_announce(namesake, &says(hash, peer(1)).seeder()), (1, 1));
        assert_eq!(world.web_announce(friend, &says(hash, peer(2)).seeder()), (2, 1));
        // Only the leecher of the two is offered to by a seeder.
        world.web_announce(friend, &says(hash, peer(2)).seeder().offers(["a", "b"]));
        assert_eq!((world.relayed(victim).len(), world.relayed(namesake).len()), (1, 0));
        let forged = (hash, peer(1), peer(2), "a");
        assert_eq!(world.web_answer(namesake, forged), Err(NO_SUCH_OFFER.into()));
        // What the friend answers goes to whoever of the two made the offer.
        world.web_announce(namesake, &says(hash, peer(1)).offers(["n", "n"]));
        world.web_announce(victim, &says(hash, peer(1)).offers(["v", "v"]));
        for sent in world.web_sent() {
            assert!(sent.to == friend || sent.object["offer_id"] != "v" || sent.to == namesake);
        }
        for (name, to) in [("v", victim), ("n", namesake)] {
            assert_eq!(world.web_answer(friend, (hash, peer(2), peer(1), name)), Ok(()), "{name}");
            let sent = world.web_sent();
            assert_eq!((sent.len(), sent[0].to), (1, to), "{name}");
        }
        world.web_close(namesake);
        assert_eq!(world.everybody(hash), [1, 0, 1]);
        world.web_close(victim);
        assert_eq!(world.everybody(hash), [1, 0, 0]);
    }
}

// Bounds.

#[test]
fn one_address_has_few_peers_in_a_swarm_however_many_connections_it_opens() {
    for cores in [1, 3] {
        let limits = Limits { peers_per_swarm: 3, ..Limits::default() };
        let mut world = World::with(Options { cores, limits, ..Options::default() });
        let [crowded, other]: [IpAddr; 2] =
            ["2001:db8::7", "2001:db8:0:1::7"].map(|ip| ip.parse().expect("an address"));
        let neighbour = "2001:db8::8".parse().expect("of the same /64");
        let webs = [crowded, neighbour].map(|ip| world.web_open_from(0, ip));
        for n in 0..3 {
            world.web_announce(webs[n % 2], &says(hash(0), peer(u8::try_from(n).expect("few"))));
        }
        let full = Refusal::TooManyPeersInSwarm.text();
        for web in webs {
            assert_eq!(world.web_failure(web, &says(hash(0), peer(3)).text()), full);
        }
        assert_eq!(world.refused(Refusal::TooManyPeersInSwarm), 2);
        // Those who are there stay, another swarm and another address have room.
        assert_eq!(world.web_announce(webs[0], &says(hash(0), peer(0)).seeder()), (1, 2));
        assert_eq!(world.web_announce(webs[0], &says(hash(1), peer(3))), (0, 1));
        let beside = world.web_open_from(0, other);
        assert_eq!(world.web_announce(beside, &says(hash(0), peer(3))), (1, 3));
        // Who goes makes room.
        world.web_close(webs[1]);
        assert_eq!(world.web_announce(webs[0], &says(hash(0), peer(3))), (1, 3));
    }
}

#[test]
fn a_connection_has_1024_torrents_and_stopped_makes_room() {
    let mut world = World::of(3);
    let (web, beside) = (world.web_open(0), world.web_open(0));
    for n in 0..WEB_TORRENTS_MAX as u64 - 1 {
        assert_eq!(world.web_announce(web, &says(hash(n), peer(1))), (0, 1));
    }
    // Another peer of a swarm counts as another torrent.
    assert_eq!(world.web_announce(web, &says(hash(0), peer(2))), (0, 2));
    let further = says(hash(5_000), peer(1));
    for _ in 0..2 {
        let reply = world.reply(web, &further.text());
        let expected = json!({
            "action": "announce",
            "failure reason": "this connection is in too many swarms",
            "info_hash": latin1(&further.hash.0),
        });
        assert_eq!(Json::Object(reply.object), expected);
    }
    assert_eq!(world.refused(Refusal::TooManyTorrents), 2);
    assert_eq!(world.everybody(further.hash), [0, 0, 0]);
    assert_eq!(world.web_announce(web, &says(hash(7), peer(1)).seeder()), (1, 0), "a known one");
    assert_eq!(world.web_announce(beside, &further), (0, 1), "another connection");
    // Stopped where it is not makes no room, stopped where it is does.
    world.web_announce(web, &says(hash(6_000), peer(1)).event("stopped"));
    world.web_announce(web, &says(hash(8), peer(3)).event("stopped"));
    world.web_failure(web, &further.text());
    world.web_announce(web, &says(hash(8), peer(1)).event("stopped"));
    assert_eq!(world.web_announce(web, &further), (0, 2));
    world.web_failure(web, &says(hash(5_001), peer(1)).text());
    world.web_close(web);
    for n in 0..WEB_TORRENTS_MAX as u64 {
        assert_eq!(world.everybody(hash(n))[2], 0, "all of them are gone");
    }
    assert_eq!(world.counters().web_leechers, [1, 0]);
}

#[test]
fn torrents_that_have_not_been_announced_for_three_intervals_make_room() {
    let mut world = World::of(2);
    let web = world.web_open(0);
    for n in 0..WEB_TORRENTS_MAX as u64 {
        world.web_announce(web, &says(hash(n), peer(1)));
    }
    world.advance(WEB_TTL);
    world.web_announce(web, &says(hash(0), peer(1)));
    world.web_failure(web, &says(hash(5_000), peer(1)).text());
    world.advance(1);
    for n in 1..WEB_TORRENTS_MAX as u64 {
        assert_eq!(world.web_announce(web, &says(hash(5_000 + n), peer(1))), (0, 1));
    }
    world.web_failure(web, &says(hash(9_000), peer(1)).text());
    assert_eq!(world.everybody(hash(0)), [0, 0, 1]);
    world.web_close(web);
    assert_eq!(world.counters().web_leechers, [0, 0]);
}

#[test]
fn a_swarm_of_70000_is_served_as_a_small_one_is() {
    let bounds =
        Bounds { memory_bytes: 256 << 20, peers_per_swarm: 65_536, ..Options::default().bounds };
    let mut world = World::with(Options { cores: 2, bounds, ..Options::default() });
    let hash = world.hash_of(1, 0);
    let mut webs = Vec::new();
    for n in 0..70_000_u32 {
        if n.is_multiple_of(1_000) {
            webs.push(world.web_open(u16::try_from(n / 1_000 % 2).expect("a core")));
        }
        let web = *webs.last().expect("one at least");
        let mut id = peer(0);
        id.0[16..].copy_from_slice(&n.to_be_bytes());
        world.web_send(web, &says(hash, id).left(u64::from(n % 4)).text());
        if n.is_multiple_of(64) {
            world.settle();
        }
    }
    world.settle();
    world.web_sent();
    let (seeders, leechers) = world.web_announce(webs[0], &says(hash, peer(1)).offers(0..10));
    assert_eq!(seeders + leechers, 65_536);
    assert_eq!(world.web_sent().len(), 10);
    assert_eq!(world.counters().evicted_peers, [70_001 - 65_536]);
    for web in webs {
        world.web_hang_up(web);
    }
    world.settle();
    assert_eq!(world.everybody(hash), [0, 0, 0]);
    let counters = world.counters();
    assert_eq!((counters.web_seeders, counters.web_leechers), ([0; 2], [0; 2]));
}

#[test]
fn without_memory_newcomers_are_told_so_and_the_others_stay() {
    let bounds = Bounds { memory_bytes: 1 << 20, ..Options::default().bounds };
    let mut world = World::with(Options { cores: 2, bounds, ..Options::default() });
    let mut webs = vec![world.web_open(0)];
    let mut taken = 0;
    let refused = loop {
        if taken > 0 && taken % 1_000 == 0 {
            webs.push(world.web_open(0));
        }
        let web = webs[webs.len() - 1];
        let says = says(world.hash_of(1, 0), peer(u8::try_from(taken % 250).expect("a byte")));
        let mut says = Says { hash: hash(taken), ..says };
        says.event = "started";
        let reply = world.reply(web, &says.text());
        match reply.failure() {
            None => taken += 1,
            Some(reason) => {
                assert_eq!(reason, BUSY);
                break says;
            }
        }
        assert!(taken < 10_000, "memory has a bound");
    };
    assert!(taken > 100, "{taken}");
    assert_eq!(world.everybody(refused.hash), [0, 0, 0]);
    assert_eq!(world.counters().web_leechers[0], taken);
    assert_eq!(world.web_announce(webs[0], &says(hash(0), peer(0)).seeder()), (1, 0));
    for web in webs {
        world.web_close(web);
    }
    assert_eq!(world.counters().web_leechers, [0; 2]);
    world.advance(WEB_TTL + 1);
    assert_eq!(world.counters().web_swarms, [0]);
}

// Connections that close.

#[test]
fn closing_removes_all_peers_of_the_connection_at_once_and_no_others() {
    for cores in 1..=4 {
        let mut world = World::of(cores);
        let (web, beside) = (world.web_open(0), world.web_open(cores - 1));
        let hashes: Vec<InfoHash> = (0..cores)
            .flat_map(|core| [0, 1].map(|n| (core, n)))
            .map(|(core, n)| world.hash_of(core, n))
            .collect();
        for &hash in &hashes {
            world.web_announce(web, &says(hash, peer(1)));
            world.web_announce(web, &says(hash, peer(2)).seeder());
            world.web_announce(beside, &says(hash, peer(1)));
            assert_eq!(world.everybody(hash), [1, 0, 2]);
        }
        world.web_close(web);
        for &hash in &hashes {
            assert_eq!(world.everybody(hash), [0, 0, 1], "{cores} cores");
            world.web_announce(beside, &says(hash, peer(1)).offers(0..10));
        }
        let counters = world.counters();
        assert_eq!((counters.web_offers, counters.web_undelivered), ([0], [0]));
        assert_eq!(counters.messages_sent, counters.messages_received);
    }
}

#[test]
fn closing_removes_peers_of_swarms_whose_owner_could_not_be_told_at_once() {
    let mut world = World::of(3);
    let (web, beside) = (world.web_open(0), world.web_open(2));
    let hashes: Vec<InfoHash> = (0..3).map(|core| world.hash_of(core, 0)).collect();
    for &hash in &hashes {
        world.web_announce(web, &says(hash, peer(1)));
        world.web_announce(web, &says(hash, peer(2)));
        world.web_announce(beside, &says(hash, peer(3)));
    }
    world.set_full(1, true);
    world.web_close(web);
    let leechers = |world: &mut World| {
        world.set_full(1, false);
        let leechers: Vec<u32> = hashes.iter().map(|&hash| world.everybody(hash)[2]).collect();
        world.set_full(1, true);
        leechers
    };
    assert_eq!(leechers(&mut world), [1, 3, 1]);
    let refused = |world: &mut World| world.counters().messages_refused[0];
    for _ in 0..3 {
        let before = refused(&mut world);
        world.advance(1);
        assert_eq!(refused(&mut world), before + 1, "one core is to be told");
        assert_eq!(leechers(&mut world), [1, 3, 1], "it is full still");
    }
    // What is offered to those who have gone is lost, and counted.
    world.set_full(1, false);
    world.web_announce(beside, &says(hashes[1], peer(3)).offers(0..10));
    assert_eq!(world.counters().web_undelivered, [2]);
    world.tick();
    assert_eq!(leechers(&mut world), [1, 1, 1]);
    world.set_full(1, false);
    world.tick();
    let counters = world.counters();
    assert_eq!(counters.messages_sent, counters.messages_received, "retries are counted too");
}

#[test]
fn peers_leave_by_their_age_when_too_many_closed_that_their_owner_could_not_be_told_of() {
    let mut world = World::of(2);
    let hash = world.hash_of(1, 0);
    let webs: Vec<Web> = (0..4_100).map(|_| world.web_open(0)).collect();
    for &web in &webs {
        world.web_send(web, &says(hash, peer(1)).text());
        world.settle();
    }
    world.set_full(1, true);
    for web in webs {
        world.web_close(web);
    }
    world.set_full(1, false);
    assert_eq!(world.everybody(hash), [0, 0, 4_100]);
    world.tick();
    assert_eq!(world.everybody(hash), [0, 0, 4]);
    world.advance(WEB_TTL + 1);
    assert_eq!(world.everybody(hash), [0, 0, 0]);
}

#[test]
fn a_stop_that_came_to_nothing_leaves_the_peer_to_its_connection() {
    let mut world = World::of(2);
    let web = world.web_open(0);
    let hash = world.hash_of(1, 0);
    world.web_announce(web, &says(hash, peer(1)));
    world.set_full(1, true);
    assert_eq!(world.web_failure(web, &says(hash, peer(1)).event("stopped").text()), BUSY);
    world.set_full(1, false);
    assert_eq!(world.everybody(hash), [0, 0, 1]);
    world.web_close(web);
    assert_eq!(world.everybody(hash), [0, 0, 0], "it leaves with its connection");
}

#[test]
fn a_connection_that_has_closed_says_nothing_and_hears_nothing() {
    for (cores, owner, core, other) in PLACES {
        let mut world = World::of(cores);
        let hash = world.hash_of(owner, 0);
        let (web, beside) = (world.web_open(core), world.web_open(other));
        world.web_announce(beside, &says(hash, peer(2)));
        // Its requests are on their way when it closes; a scrape of another core's swarms too.
        let all: Vec<InfoHash> = (0..cores).map(|core| world.hash_of(core, 3)).collect();
        for text in [says(hash, peer(1)).offers(["x"]).text(), scrape(&all)] {
            world.web_send(web, &text);
        }
        world.web_close(web);
        assert_eq!(world.everybody(hash), [0, 0, 1]);
        // The offer was brought before; its answer finds nobody.
        world.relayed(beside);
        let _ = world.web_answer(beside, (hash, peer(2), peer(1), "x"));
        for _ in 0..2 {
            for text in [&says(hash, peer(1)).text(), &scrape(&[hash]), "{}", "", "\0"] {
                world.web_send(web, text);
            }
            world.web_send_bytes(web);
            world.web_close(web);
        }
        // So do those of a name that never was.
        let never = Web { core, name: 77 };
        world.web_send(never, &says(hash, peer(1)).text());
        world.web_send_bytes(never);
        world.web_close(never);
        world.advance(PENDING_SCRAPE_SECONDS);
        assert!(world.web_sent().is_empty());
        assert_eq!(world.everybody(hash), [0, 0, 1]);
    }
}

#[test]
fn a_scrape_that_is_given_up_after_its_connection_has_closed_is_told_nobody() {
    let mut world = World::of(2);
    let web = world.web_open(0);
    let hash = world.hash_of(1, 0);
    world.set_deaf(1, true);
    world.web_send(web, &scrape(&[hash]));
    world.web_close(web);
    world.advance(PENDING_SCRAPE_SECONDS);
    assert_eq!(world.dropped(DropReason::OwnerSilent), 1);
    world.set_deaf(1, false);
    world.settle();
    assert!(world.web_sent().is_empty());
}

// Mailboxes without room.

#[test]
fn an_announce_whose_owner_can_not_be_reached_is_told_so_and_changes_nothing() {
    for (event, left) in [("started", 9), ("", 9), ("completed", 0), ("stopped", 9)] {
        let mut world = World::of(2);
        let (web, beside) = (world.web_open(0), world.web_open(1));
        let hash = world.hash_of(1, 0);
        world.web_announce(beside, &says(hash, peer(2)));
        world.web_announce(web, &says(hash, peer(1)));
        world.set_full(1, true);
        let says = says(hash, peer(1)).event(event).left(left).offers(["x"]);
        let reply = world.reply(web, &says.text());
        let expected = json!({
            "action": "announce",
            "failure reason": BUSY,
            "info_hash": latin1(&hash.0),
        });
        assert_eq!(Json::Object(reply.object), expected);
        world.set_full(1, false);
        assert!(world.web_sent().is_empty(), "no offer");
        assert_eq!(world.everybody(hash), [0, 0, 2]);
        assert_eq!(world.refused(Refusal::Busy), 1);
        // Its own core's swarms are served meanwhile.
        world.set_full(1, true);
        let own = world.hash_of(0, 0);
        assert_eq!(world.web_announce(web, &self::says(own, peer(1))), (0, 1));
    }
}

#[test]
fn what_does_not_fit_into_a_mailbox_on_its_way_back_is_counted_and_lost() {
    // An announce reply: the peer is entered all the same.
    let mut world = World::of(3);
    let hash = world.hash_of(2, 0);
    let (one, two) = (world.web_open(0), world.web_open(1));
    world.set_full(0, true);
    world.web_send(one, &says(hash, peer(1)).text());
    world.settle();
    assert!(world.web_sent().is_empty());
    assert_eq!(world.counters().web_undelivered, [1]);
    assert_eq!(world.web_announce(two, &says(hash, peer(2))), (0, 2));

    // An offer: the offerer is answered.
    world.web_announce(two, &says(hash, peer(2)).offers(["lost", "x", "y"]));
    assert_eq!(world.counters().web_undelivered, [2]);
    world.set_full(0, false);
    let lost = (hash, peer(1), peer(2), "lost");
    assert_eq!(world.web_answer(one, lost), Err(NO_SUCH_OFFER.into()));

    // An answer: it was the one that this offer had.
    world.web_announce(two, &says(hash, peer(2)).offers(["brought"]));
    assert_eq!(world.relayed(one).len(), 1);
    world.set_full(1, true);
    let brought = (hash, peer(1), peer(2), "brought");
    assert_eq!(world.web_answer(one, brought), Ok(()));
    world.set_full(1, false);
    assert_eq!(world.web_answer(one, brought), Err(NO_SUCH_OFFER.into()));
    assert!(world.web_sent().is_empty());
    let counters = world.counters();
    assert_eq!((counters.web_undelivered, counters.web_answers), ([3], [0]));
    assert_eq!(counters.web_offers, [1]);
}

#[test]
fn offers_are_lost_for_full_cores_only() {
    let mut world = World::of(3);
    let hash = world.hash_of(0, 0);
    let webs: Vec<Web> = (0..9).map(|n| world.web_open(n % 3)).collect();
    for (n, &web) in (0..).zip(&webs) {
        world.web_announce(web, &says(hash, peer(n)));
    }
    world.set_full(2, true);
    let asker = world.web_open(0);
    assert_eq!(world.web_announce(asker, &says(hash, peer(20)).offers(0..10)), (0, 10));
    let receivers: BTreeSet<Web> = world.web_sent().iter().map(|sent| sent.to).collect();
    let reachable: BTreeSet<Web> = webs.iter().copied().filter(|web| web.core != 2).collect();
    assert_eq!(receivers, reachable);
    let counters = world.counters();
    assert_eq!((counters.web_offers, counters.web_undelivered), ([6], [3]));
}

#[test]
fn a_scrape_that_can_not_be_gathered_is_told_so() {
    let busy = json!({"action": "scrape", "failure reason": BUSY});
    let mut world = World::of(3);
    let web = world.web_open(0);
    let hashes: Vec<InfoHash> = (0..3).map(|core| world.hash_of(core, 0)).collect();
    world.set_full(1, true);
    assert_eq!(Json::Object(world.reply(web, &scrape(&hashes)).object), busy);
    world.reply(web, &scrape(&[hashes[0], hashes[2]]));
    // The counts do not find their way back: after a while there is an answer all the same.
    world.set_full(1, false);
    world.set_full(0, true);
    world.web_send(web, &scrape(&hashes));
    world.settle();
    assert!(world.web_sent().is_empty());
    world.advance(PENDING_SCRAPE_SECONDS - 1);
    assert!(world.web_sent().is_empty());
    world.advance(1);
    let sent = world.replies(web);
    assert_eq!((sent.len(), Json::Object(sent[0].object.clone())), (1, busy));
    world.set_full(0, false);
    world.settle();
    assert!(world.web_sent().is_empty(), "and only one");
    world.reply(web, &scrape(&hashes));
    assert_eq!(world.counters().pending_scrapes, [0]);
}

// Access lists.

#[test]
fn access_lists_apply_to_announces_and_scrapes() {
    let not_allowed = "this torrent is not allowed on this tracker";
    for (cores, owner, core, other) in PLACES {
        for polite in [false, true] {
            let policy = Policy { polite_refusal: polite, ..policy() };
            let mut world = World::with(Options { cores, policy, ..Options::default() });
            let (listed, other_hash) = (world.hash_of(owner, 0), world.hash_of(owner, 1));
            let (web, beside) = (world.web_open(core), world.web_open(other));
            for hash in [listed, other_hash] {
                world.web_announce(beside, &says(hash, peer(2)));
            }
            for (access, good, bad) in
                [(allow([listed]), listed, other_hash), (deny([listed]), other_hash, listed)]
            {
                world.set_access(&access);
                for event in ["started", "", "completed", "stopped"] {
                    let says = says(bad, peer(1)).event(event).offers(["x"]);
                    let before = world.refused(Refusal::NotAllowed);
                    let reply = world.reply(web, &says.text());
                    let expected = if polite {
                        json!({
                            "action": "announce",
                            "complete": 0,
                            "incomplete": 0,
                            "info_hash": latin1(&bad.0),
                            "interval": POLITE_INTERVAL_SECS,
                        })
                    } else {
                        json!({
                            "action": "announce",
                            "failure reason": not_allowed,
                            "info_hash": latin1(&bad.0),
                        })
                    };
                    assert_eq!(Json::Object(reply.object), expected);
                    assert!(world.web_sent().is_empty(), "its offer goes nowhere");
                    let refused = world.refused(Refusal::NotAllowed) - before;
                    assert_eq!(refused, u64::from(!polite));
                }
                assert_eq!(world.web_announce(web, &says(good, peer(1)).offers(["x"])), (0, 2));
                assert_eq!(world.relayed(beside).len(), 1);
                assert_eq!(world.everybody(good), [0, 0, 2]);
                assert_eq!(world.everybody(bad), [0, 0, 0]);
                world.web_announce(web, &says(good, peer(1)).event("stopped"));
            }
            world.set_access(&Access::default());
            for hash in [listed, other_hash] {
                assert_eq!(world.everybody(hash), [0, 0, 1], "nobody came in by a refusal");
            }
            let counters = world.counters();
            let index = request_index(Transport::Web, Family::V4, Action::Announce);
            let refusals = counters.refusals.iter().sum::<u64>();
            assert_eq!(counters.requests[index], counters.replies()[index] + refusals);
        }
    }
}

#[test]
fn a_ban_holds_for_connections_that_are_open() {
    for (cores, owner, core, _) in PLACES {
        let mut world = World::with(Options { cores, ..Options::default() });
        let (hash, web) = (world.hash_of(owner, 0), world.web_open(core));
        assert_eq!(world.web_announce(web, &says(hash, peer(1))), (0, 1));
        world.set_access(&ban("0.0.0.0/0\n::/0"));
        let reply = world.reply(web, &says(hash, peer(2)).offers(["x"]).text());
        let reason = reply.object.get("failure reason").and_then(Json::as_str);
        assert_eq!(reason, Some(Refusal::Banned.text()));
        assert_eq!(world.refused(Refusal::Banned), 1);
        world.set_access(&Access::default());
        assert_eq!(world.everybody(hash), [0, 0, 1]);
        world.web_close(web);
        assert_eq!(world.everybody(hash), [0, 0, 0]);
    }
}

#[test]
fn a_peer_leaves_a_swarm_that_is_not_allowed_any_more() {
    for polite in [false, true] {
        let policy = Policy { polite_refusal: polite, ..policy() };
        let mut world = World::with(Options { cores: 2, policy, ..Options::default() });
        let hashes = [world.hash_of(0, 0), world.hash_of(1, 0)];
        let [stops, closes] = [0, 0].map(|core| world.web_open(core));
        for hash in hashes {
            world.web_announce(stops, &says(hash, peer(1)));
            world.web_announce(closes, &says(hash, peer(2)));
        }
        world.set_access(&allow([]));
        for hash in hashes {
            world.reply(stops, &says(hash, peer(1)).event("stopped").text());
        }
        world.web_close(closes);
        world.web_close(stops);
        world.set_access(&Access::default());
        for hash in hashes {
            assert_eq!(world.everybody(hash), [0, 0, 0]);
        }
    }
}

// Scrapes.

#[test]
fn scrapes_tell_the_counts_of_all_that_is_asked_for_once() {
    for cores in 1..=4 {
        let mut world = World::of(cores);
        let web = world.web_open(0);
        let beside = world.web_open(cores - 1);
        let known: Vec<InfoHash> = (0..cores).map(|core| world.hash_of(core, 0)).collect();
        for &hash in &known {
            world.web_announce(beside, &says(hash, peer(1)));
            world.web_announce(beside, &says(hash, peer(2)));
            world.web_announce(beside, &says(hash, peer(2)).seeder());
        }
        let here = json!({"complete": 1, "incomplete": 1, "downloaded": 1});
        let nothing = json!({"complete": 0, "incomplete": 0, "downloaded": 0});
        let unknown: Vec<InfoHash> = (0..cores).map(|core| world.hash_of(core, 9)).collect();
        let all = [known.clone(), unknown.clone()].concat();
        let twice = [all.clone(), known.clone()].concat();
        let one = json!({"action": "scrape", "info_hash": latin1(&known[0].0)}).to_string();
        for (text, files) in [
            (one, &known[..1]),
            (scrape(&known[..1]), &known[..1]),
            (scrape(&known), &known),
            (scrape(&unknown), &unknown),
            (scrape(&all), &all),
            (scrape(&twice), &all),
        ] {
            let file = |hash: &InfoHash| {
                let counts = if known.contains(hash) { &here } else { &nothing };
                (latin1(&hash.0), counts.clone())
            };
            let files: serde_json::Map<String, Json> = files.iter().map(file).collect();
            let expected = json!({
                "action": "scrape",
                "files": files,
                "flags": {"min_request_interval": 60},
            });
            let reply = world.reply(web, &text);
            assert_eq!(Json::Object(reply.object), expected, "{text}");
            // A key that came twice would be one of them, read.
            assert_eq!(reply.text.matches("\"downloaded\"").count(), files.len());
        }
        assert_eq!(world.counters().pending_scrapes, [0]);
    }
}

#[test]
fn a_scrape_is_of_one_swarm_at_least_and_a_hundred_at_the_most() {
    let mut world = World::of(3);
    let web = world.web_open(0);
    let hashes: Vec<InfoHash> = (0..150).map(hash).collect();
    for (asked, answered) in [(1, 1), (99, 99), (100, 100), (101, 100), (150, 100)] {
        let reply = world.reply(web, &scrape(&hashes[..asked]));
        assert_eq!(reply.object["files"].as_object().expect("files").len(), answered);
    }
    assert_eq!(HTTP_SCRAPE_HASHES_MAX, 100);
    let full = "full scrapes are not served, name an info_hash";
    for none in ["", r#","info_hash":null"#, r#","info_hash":[]"#] {
        let reply = world.reply(web, &format!(r#"{{"action":"scrape"{none}}}"#));
        let expected = json!({"action": "scrape", "failure reason": full});
        assert_eq!(Json::Object(reply.object), expected, "{none}");
    }
    let policy = Policy { http_scrape_hashes_max: 5, ..policy() };
    let mut world = World::with(Options { cores: 2, policy, ..Options::default() });
    let web = world.web_open(1);
    let reply = world.reply(web, &scrape(&hashes));
    assert_eq!(reply.object["files"].as_object().expect("files").len(), 5);
}

// Refusals.

/// A request that is refused, its bytes marked.
fn refused_requests() -> Vec<(String, ParseError)> {
    use ParseError::{BadAction, BadInfoHash, BadJson, BadOffer, BadPeerId, MissingInfoHash};
    let (hash, id) = (json!(latin1(&HASH.0)), json!(latin1(&peer(1).0)));
    let with = |more: &str| {
        let head = r#"{"action":"announce","mark":"Mark""#;
        format!(r#"{head},"info_hash":{hash},"peer_id":{id}{more}}}"#)
    };
    let offers = |offers: &str| with(&format!(r#","offers":{offers}"#));
    let (long, longer) = ("M".repeat(64), "Mark".repeat(5_000));
    let deep =
        |depth: usize| with(&format!(r#","Mark":{}{}"#, "[".repeat(depth), "]".repeat(depth)));
    vec![
        (String::new(), BadJson),
        ("Mark".into(), BadJson),
        ("[]".into(), BadJson),
        (r#"["announce","Mark"]"#.into(), BadJson),
        ("null".into(), BadJson),
        (r#"{"action":"Mark""#.into(), BadJson),
        (r#"{"action":"announce"} Mark"#.into(), BadJson),
        (r#"{"action":"announce","action":"scrape","Mark":1}"#.into(), BadJson),
        (with(r#","left":1,"left":1"#), BadJson),
        (with(r#","left":01"#), BadJson),
        (with(r#","x":"\q""#), BadJson),
        (with(",\"x\":\"\n\""), BadJson),
        (format!("\u{feff}{}", with("")), BadJson),
        (deep(8), BadJson),
        (deep(60), BadJson),
        (deep(30_000), BadJson),
        (r#"{"a":"#.repeat(10_000), BadJson),
        ("{}".into(), BadAction),
        (r#"{"action":"Mark"}"#.into(), BadAction),
        (r#"{"action":"Announce"}"#.into(), BadAction),
        (r#"{"action":["announce"]}"#.into(), BadAction),
        (r#"{"action":"\ud800"}"#.into(), BadAction),
        (format!(r#"{{"action":"{longer}"}}"#), BadAction),
        (r#"{"action":"announce"}"#.into(), MissingInfoHash),
        (r#"{"action":"announce","answer":{},"peer_id":"Mark"}"#.into(), MissingInfoHash),
        (format!(r#"{{"action":"announce","info_hash":null,"peer_id":{id}}}"#), MissingInfoHash),
        (r#"{"action":"announce","info_hash":"Mark"}"#.into(), BadInfoHash),
        (r#"{"action":"announce","info_hash":5}"#.into(), BadInfoHash),
        (r#"{"action":"announce","info_hash":["Mark"]}"#.into(), BadInfoHash),
        (format!(r#"{{"action":"announce","info_hash":"{longer}"}}"#), BadInfoHash),
        (format!(r#"{{"action":"announce","info_hash":"{}\u0100"}}"#, &long[..19]), BadInfoHash),
        (r#"{"action":"scrape","info_hash":"Mark"}"#.into(), BadInfoHash),
        (r#"{"action":"scrape","info_hash":{"Mark":1}}"#.into(), BadInfoHash),
        (format!(r#"{{"action":"scrape","info_hash":[{hash},"Mark"]}}"#), BadInfoHash),
        (format!(r#"{{"action":"scrape","info_hash":[{hash},null]}}"#), BadInfoHash),
        (format!(r#"{{"action":"announce","info_hash":{hash}}}"#), BadPeerId),
        (format!(r#"{{"action":"announce","info_hash":{hash},"peer_id":"Mark"}}"#), BadPeerId),
        (format!(r#"{{"action":"announce","info_hash":{hash},"peer_id":7}}"#), BadPeerId),
        (offers("5"), BadOffer),
        (offers("{}"), BadOffer),
        (offers(r#""Mark""#), BadOffer),
        (offers("[null]"), BadOffer),
        (offers("[[]]"), BadOffer),
        (offers("[{}]"), BadOffer),
        (offers(r#"[{"offer":{"sdp":"Mark"}}]"#), BadOffer),
        (offers(r#"[{"offer_id":"Mark"}]"#), BadOffer),
        (offers(r#"[{"offer":"Mark","offer_id":"x"}]"#), BadOffer),
        (offers(r#"[{"offer":{},"offer_id":""}]"#), BadOffer),
        (offers(r#"[{"offer":{},"offer_id":"\ud800"}]"#), BadOffer),
        (offers(&format!(r#"[{{"offer":{{}},"offer_id":"{long}M"}}]"#)), BadOffer),
        (offers(r#"[{"offer":{},"offer":{},"offer_id":"Mark"}]"#), BadOffer),
        (with(r#","answer":{}"#), BadOffer),
        (with(&format!(r#","answer":{{}},"to_peer_id":{id}"#)), BadOffer),
        (with(&format!(r#","answer":"Mark","to_peer_id":{id},"offer_id":"x""#)), BadOffer),
        (with(r#","answer":{},"to_peer_id":"Mark","offer_id":"x""#), BadOffer),
        (with(&format!(r#","answer":{{}},"to_peer_id":{id},"offer_id":{{}}"#)), BadOffer),
    ]
}

#[test]
fn every_refusal_has_its_own_cell_and_fixed_text_and_leaves_the_connection_usable() {
    let mut world = World::of(2);
    let (web, beside) = (world.web_open(0), world.web_open(1));
    world.web_announce(beside, &says(HASH, peer(2)));
    let mut causes = BTreeSet::new();
    for (text, error) in refused_requests() {
        let refusal = Refusal::Malformed(error);
        let before = world.counters();
        let reply = world.reply(web, &text);
        let expected = json!({"failure reason": refusal.text()});
        let start: String = text.chars().take(120).collect();
        assert_eq!(Json::Object(reply.object), expected, "{start}");
        assert!(!reply.text.contains("Mark"));
        let mut expected = before;
        let asked = Asked { transport: Transport::Web, family: Family::V4, action: None };
        expected.refuse(asked, refusal);
        assert_eq!(world.counters(), expected, "one cell, and nothing else: {start}");
        causes.insert(refusal.index());
        assert_eq!(world.web_announce(web, &says(HASH, peer(1))), (0, 2));
    }
    assert_eq!(causes.len(), 6);
    world.web_send_bytes(web);
    let sent = world.replies(web);
    assert_eq!(sent[0].failure(), Some("malformed message"));
    assert_eq!(world.everybody(HASH), [0, 0, 2]);
}

#[test]
fn messages_that_look_strange_and_are_none_the_less_good_are_served() {
    let (hash, id) = (json!(latin1(&HASH.0)), json!(latin1(&peer(1).0)));
    let escaped: String = HASH.0.iter().map(|byte| format!("\\u{byte:04X}")).collect();
    let offers = r#"{"offer":{},"offer_id":"x"},"#.repeat(10);
    for text in [
        format!(r#"{{"action":"announce","info_hash":{hash},"peer_id":{id}}}"#),
        format!(" \r\n\t{{ \"action\" : \"announce\",\"info_hash\":{hash},\"peer_id\":{id} }}\n "),
        format!(r#"{{"\u0061ction":"ann\u006funce","info_hash":"{escaped}","peer_id":{id}}}"#),
        format!(
            r#"{{"__proto__":{{}},"":0,"action":"announce","info_hash":{hash},"peer_id":{id}}}"#
        ),
        format!(r#"{{"action":"announce","info_hash":{hash},"peer_id":{id},"x":1e999,"x":-0}}"#),
        format!(r#"{{"action":"announce","info_hash":{hash},"peer_id":{id},"x":"\ud800"}}"#),
        format!(r#"{{"action":"announce","info_hash":{hash},"peer_id":{id},"event":7}}"#),
        format!(r#"{{"action":"announce","info_hash":{hash},"peer_id":{id},"event":"Stopped"}}"#),
        format!(r#"{{"action":"announce","info_hash":{hash},"peer_id":{id},"offers":null}}"#),
        format!(r#"{{"action":"announce","info_hash":{hash},"peer_id":{id},"offers":[]}}"#),
        format!(
            r#"{{"action":"announce","info_hash":{hash},"peer_id":{id},"offers":[{offers}0]}}"#
        ),
        format!(r#"{{"action":"announce","info_hash":{hash},"peer_id":{id},"answer":null}}"#),
        format!(
            r#"{{"action":"announce","info_hash":{hash},"peer_id":{id},"x":"{}"}}"#,
            "[".repeat(WEB_MESSAGE_BYTES_MAX - 300)
        ),
    ] {
        let mut world = World::of(2);
        let web = world.web_open(0);
        let reply = world.reply(web, &text);
        assert_eq!(reply.object.get("incomplete"), Some(&json!(1)), "{:?}", reply.object);
    }
}

#[test]
fn broken_messages_get_one_reply_each() {
    let good = [
        says(HASH, peer(1)).event("completed").offers(["a", "b"]).text(),
        answer((HASH, peer(1), peer(2), "x")),
        scrape(&[HASH, hash(1)]),
    ];
    let mut world = World::of(2);
    let web = world.web_open(0);
    let beside = world.web_open(1);
    world.web_announce(beside, &says(HASH, peer(2)));
    let mut rng = Rng::new(3);
    for round in 0..3_000 {
        let mut text: Vec<char> = good[round % 3].chars().collect();
        for _ in 0..1 + rng.below(3) {
            let at = rng.below(u32::try_from(text.len()).expect("short")) as usize;
            let pieces = ['"', '\\', '{', '}', '[', ']', ',', ':', '0', '-', 'u', '\0', '\u{100}'];
            let piece = pieces[rng.below(13) as usize];
            match rng.below(4) {
                0 => text[at] = piece,
                1 => text.insert(at, piece),
                2 => drop(text.remove(at)),
                _ => text.truncate(at.max(1)),
            }
        }
        let text: String = text.into_iter().collect();
        // The answer of the good ones is for nobody, so all of them get one.
        world.reply(web, &text);
        world.web_sent();
    }
    assert!(world.web_announce(beside, &says(HASH, peer(2))).1 > 0);
}

// Counters.

#[test]
fn counters_tell_websockets_from_the_rest() {
    for (cores, owner, core, other) in PLACES {
        let mut world = World::of(cores);
        let (hash, elsewhere) = (world.hash_of(owner, 0), world.hash_of(owner, 1));
        let one = world.web_open(core);
        let two = world.web_open_from(other, v6(1).ip());
        let three = world.web_open_from(other, "::ffff:5.6.7.8".parse().expect("mapped"));
        world.announce(v4(1), &leecher(hash, 6_881));
        let udp = world.counters();
        world.web_announce(one, &says(hash, peer(1)).seeder());
        world.web_announce(two, &says(hash, peer(2)).offers(["x"]));
        world.web_announce(three, &says(elsewhere, peer(3)));
        assert_eq!(world.web_answer(one, (hash, peer(1), peer(2), "x")), Ok(()));
        world.web_answer(one, (hash, peer(1), peer(2), "x")).expect_err("a second answer");
        world.reply(two, &scrape(&[hash, elsewhere]));
        world.reply(three, &scrape(&[hash]));
        world.reply(three, r#"{"action":"scrape"}"#);
        world.reply(three, "{}");
        world.web_announce(two, &says(hash, peer(2)).seeder());

        let counters = world.counters();
        let requests = |counters: &Counters, family, action| {
            let index = request_index(Transport::Web, family, action);
            (counters.requests[index], counters.replies()[index])
        };
        for (family, action, expected) in [
            (Family::V4, Action::Announce, (2, 2)),
            (Family::V6, Action::Announce, (2, 2)),
            // One was passed on, one was to no offer.
            (Family::V4, Action::Answer, (2, 1)),
            (Family::V6, Action::Answer, (0, 0)),
            (Family::V4, Action::Scrape, (2, 1)),
            (Family::V6, Action::Scrape, (1, 1)),
            (Family::V4, Action::Connect, (0, 0)),
        ] {
            assert_eq!(requests(&counters, family, action), expected, "{family:?} {action:?}");
        }
        let of_others = |counters: &Counters| {
            let web = request_index(Transport::Web, Family::V4, Action::Connect);
            (counters.requests[..web].to_vec(), counters.replies()[..web].to_vec())
        };
        assert_eq!(of_others(&counters), of_others(&udp), "other transports have done nothing");
        for refusal in [Refusal::NoSuchOffer, Refusal::FullScrape] {
            assert_eq!(counters.refusals[refusal_index(Transport::Web, refusal)], 1);
        }
        assert_eq!(counters.refusals.iter().sum::<u64>(), 3);
        assert_eq!((counters.web_offers, counters.web_answers), ([1], [1]));
        assert_eq!(counters.web_undelivered, [0]);
        assert_eq!((counters.web_connections, counters.web_connections_accepted), ([3], [3]));
        assert_eq!((counters.web_swarms, counters.swarms), ([2], [1]));
        assert_eq!((counters.web_seeders, counters.web_leechers), ([1, 1], [1, 0]));
        assert_eq!((counters.seeders, counters.leechers), ([0, 0], [1, 0]));
        assert_eq!(counters.completed, [1]);
        assert!(counters.web_store_bytes[0] > udp.web_store_bytes[0]);
        let of_others = |counters: &Counters| counters.store_bytes[0] - counters.web_store_bytes[0];
        assert_eq!(of_others(&counters), of_others(&udp));
        assert_eq!(counters.messages_sent, counters.messages_received);

        world.web_close(two);
        world.web_close(three);
        let counters = world.counters();
        assert_eq!((counters.web_seeders, counters.web_leechers), ([1, 0], [0, 0]));
        assert_eq!((counters.web_connections, counters.web_connections_accepted), ([1], [3]));
        assert_eq!(counters.expired_peers, [0]);
    }
}

#[test]
fn an_operator_sees_who_is_in_a_swarm_and_can_forget_it() {
    let mut world = World::new();
    let (both, web_only, gone) = (world.hash_of(0, 0), world.hash_of(0, 1), world.hash_of(0, 2));
    let web = world.web_open(0);
    world.announce(v4(1), &leecher(both, 6_881));
    world.announce(v4(2), &seeder(both, 6_882));
    world.web_announce(web, &says(both, peer(1)));
    world.web_announce(web, &says(web_only, peer(2)));
    world.web_announce(web, &says(web_only, peer(2)).seeder());
    // The sweeps come round.
    (0..60).for_each(|_| world.advance(1));
    let now = world.now;
    let counters = world.counters();
    assert_eq!((counters.swarms, counters.web_swarms), ([1], [2]));
    assert_eq!(counters.web_only_swarms, [1, 1]);

    let tracker = world.tracker(0);
    let swarm = tracker.describe(&both).expect("it is there");
    assert_eq!((swarm.info_hash, swarm.peers(), swarm.web_peers), (both, 3, 1));
    assert_eq!((swarm.counts.seeders, swarm.counts.leechers), (1, 2));
    let swarm = tracker.describe(&web_only).expect("it is there");
    assert_eq!((swarm.peers(), swarm.web_peers), (1, 1));
    assert_eq!(tracker.describe(&gone), None);

    // Those by WebSocket come last, wherever a page ends.
    let all = tracker.peers(now, &both, 0, 9);
    let endpoints: Vec<Option<Endpoint>> = all.iter().map(|peer| peer.endpoint).collect();
    assert_eq!((all.len(), endpoints[2]), (3, None));
    assert!(endpoints[..2].contains(&Some(Endpoint::new(v4(1).ip(), 6_881))));
    assert!(endpoints[..2].contains(&Some(Endpoint::new(v4(2).ip(), 6_882))));
    for (from, most) in [(0, 2), (1, 1), (1, 2), (2, 1), (3, 1), (0, 0)] {
        let to = (from + most).min(3);
        let page = tracker.peers(now, &both, from, most);
        assert_eq!(page, all[from as usize..to as usize], "{most} from {from}");
    }
    assert_eq!(tracker.peers(now, &gone, 0, 9), []);

    let survey = tracker.survey();
    let largest: Vec<_> = survey.largest.iter().map(|swarm| swarm.info_hash).collect();
    assert_eq!(largest, [both, web_only]);
    assert_eq!(survey.sizes.iter().sum::<u64>(), 3, "one of them with peers of both kinds");

    // Its download is remembered, and it is none of the largest.
    world.web_announce(web, &says(web_only, peer(2)).event("stopped"));
    let tracker = world.tracker(0);
    assert_eq!(tracker.describe(&web_only).map(|swarm| swarm.peers()), Some(0));
    assert_eq!(tracker.survey().largest.len(), 1);

    assert_eq!(tracker.forget(&both), Some(3));
    assert_eq!((tracker.describe(&both), tracker.forget(&both)), (None, None));
    // Who has gone is not among the largest any more.
    assert_eq!(tracker.survey().largest, []);
}

#[test]
fn connections_of_one_address_are_admitted_at_its_rate() {
    let connections = Rate { burst: 2, per_minute: 1 };
    let limits = Limits { connections, memory_bytes: 1 << 16, ..Limits::default() };
    let mut world = World::with(Options { limits, ..Options::default() });
    let now = world.now;
    let mut admits = |source: SocketAddr| world.tracker(0).admits_connection(now, source.ip());
    assert_eq!([v4(1), v4(1), v4(1), v4(2)].map(&mut admits), [true, true, false, true]);
}

#[test]
fn a_sweep_that_has_seen_all_has_no_more_to_do() {
    let mut world = World::new();
    world.announce(v4(1), &leecher(HASH, 6_881));
    world.advance(1);
    let now = world.now;
    assert!(!world.tracker(0).sweep(now));
}

#[test]
fn the_banned_are_known_by_any_core() {
    let mut world = World::of(2);
    world.set_access(&ban("192.0.2.0/24"));
    for core in 0..2 {
        let bans = |ip: &str| world.tracker(core).bans(ip.parse().expect("an address"));
        assert_eq!(["192.0.2.9", "192.0.3.9"].map(bans), [true, false]);
    }
}

#[test]
fn a_swarm_of_the_other_kind_of_peers_is_not_a_new_one() {
    let one = Rate { burst: 1, per_minute: 1 };
    let limits = Limits { new_swarms: one, memory_bytes: 1 << 16, ..Limits::default() };
    let mut world = World::with(Options { limits, ..Options::default() });
    let hash = |n| InfoHash([n; 20]);
    let (theirs, ours) = (world.web_open_from(0, v4(1).ip()), world.web_open_from(0, v4(2).ip()));
    world.web_announce(theirs, &says(hash(1), peer(1)));
    world.announce(v4(2), &leecher(hash(2), 6_881));
    for _ in 0..3 {
        // Each has brought one swarm; the others' is none that it brings.
        world.announce(v4(1), &leecher(hash(2), 6_882));
        world.announce(v4(2), &leecher(hash(1), 6_882));
        world.web_announce(ours, &says(hash(1), peer(2)));
        world.web_announce(theirs, &says(hash(2), peer(1)));
    }
    assert_eq!(world.refused(Refusal::TooManyNewSwarms), 0);
    world.announce_refused(v4(1), &leecher(hash(3), 6_881));
    world.web_failure(ours, &says(hash(4), peer(2)).text());
    assert_eq!(world.refused(Refusal::TooManyNewSwarms), 2);
}

#[test]
fn a_full_swarm_counts_those_who_made_room() {
    let bounds = Bounds { peers_per_swarm: 5, ..Options::default().bounds };
    let mut world = World::with(Options { bounds, ..Options::default() });
    for n in 0..12 {
        let web = world.web_open(0);
        let (_, leechers) = world.web_announce(web, &says(HASH, peer(n)));
        assert_eq!(leechers, u32::from(n + 1).min(5));
        world.sleep(1);
    }
    assert_eq!(world.counters().evicted_peers, [7]);
    let removed: u32 = world.outcomes().iter().map(|outcome| outcome.removed).sum();
    assert_eq!(removed, 7);
}

// Time.

#[test]
fn a_silent_peer_leaves_after_three_intervals_and_not_before() {
    for (cores, owner, core, other) in PLACES {
        let mut world = World::of(cores);
        let hash = world.hash_of(owner, 0);
        let (silent, lively) = (world.web_open(core), world.web_open(other));
        world.web_announce(silent, &says(hash, peer(1)));
        world.web_announce(silent, &says(hash, peer(1)).seeder());
        for _ in 0..3 {
            world.web_announce(lively, &says(hash, peer(2)));
            world.advance(WEB_TTL / 3);
            assert_eq!(world.everybody(hash), [1, 1, 1]);
        }
        // What the connection does elsewhere is no announce here.
        world.web_announce(silent, &says(world.hash_of(owner, 1), peer(1)));
        world.advance(1);
        assert_eq!(world.everybody(hash), [0, 1, 1], "its download is remembered");
        assert_eq!(world.counters().expired_peers, [1]);
        // It comes back as a new peer, whose next download is another.
        world.outcomes();
        assert_eq!(world.web_announce(silent, &says(hash, peer(1))), (0, 2));
        assert_eq!(world.outcomes().pop().map(|outcome| outcome.change), Some(Change::Joined));
        world.outcomes();
        world.web_announce(silent, &says(hash, peer(1)).event("completed").seeder());
        assert_eq!(world.outcomes().pop().map(|outcome| outcome.change), Some(Change::Completed));
        assert_eq!(world.everybody(hash), [1, 2, 1]);
        world.web_close(silent);
        world.web_close(lively);
        world.advance(WEB_TTL);
        assert_eq!(world.everybody(hash), [0, 2, 0], "for three intervals more");
        world.advance(1);
        assert_eq!(world.everybody(hash), [0, 0, 0]);
        assert_eq!(world.counters().web_swarms, [0]);
    }
}

#[test]
fn a_peer_stays_for_three_intervals_whatever_the_interval_is() {
    let policy = Policy { web_interval_secs: 30, ..policy() };
    let mut world = World::with(Options { cores: 2, policy, ..Options::default() });
    let web = world.web_open(0);
    for _ in 0..20 {
        let reply = world.reply(web, &says(HASH, peer(1)).text());
        assert!((27..=33).contains(&number(&reply.object, "interval")));
        world.advance(90);
        assert_eq!(world.everybody(HASH), [0, 0, 1]);
    }
    world.advance(1);
    assert_eq!(world.everybody(HASH), [0, 0, 0]);
}

// The handshake.

/// A handshake in which `fields` stand instead of the usual ones.
fn handshake(line: &str, fields: &[&str]) -> String {
    format!("{line}\r\nHost: tracker.example\r\n{}\r\n\r\n", fields.join("\r\n"))
}

const LINE: &str = "GET /announce HTTP/1.1";
const UPGRADE: &str = "Upgrade: websocket";
const CONNECTION: &str = "Connection: Upgrade";
const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
const VERSION: &str = "Sec-WebSocket-Version: 13";

#[test]
fn a_handshake_is_accepted_refused_or_none() {
    let lower = KEY.to_lowercase();
    let (long, spaced) = (format!("{KEY}="), KEY.replace(": ", ":\t "));
    let lines = |line: &str| handshake(line, &[UPGRADE, CONNECTION, KEY, VERSION]);
    let with = |fields: &[&str]| handshake(LINE, fields);
    let and = |more: &[&str]| with(&[&[UPGRADE, CONNECTION, KEY, VERSION], more].concat());
    // 101: accepted. 0: an ordinary request.
    let cases = [
        (lines(LINE), 101),
        (lines("GET / HTTP/1.1"), 101),
        (lines("GET /anything/at?all=1 HTTP/1.1"), 101),
        (lines("GET http://tracker.example/ HTTP/1.1"), 101),
        (lines("GET /announce HTTP/1.0"), 0),
        (lines("HEAD /announce HTTP/1.1"), 400),
        (with(&[UPGRADE, CONNECTION, KEY]), 426),
        (with(&[UPGRADE, CONNECTION, KEY, "Sec-WebSocket-Version: 12"]), 426),
        (with(&[UPGRADE, CONNECTION, KEY, "Sec-WebSocket-Version: 14"]), 426),
        (with(&[UPGRADE, CONNECTION, KEY, "Sec-WebSocket-Version: 8"]), 426),
        (with(&[UPGRADE, CONNECTION, KEY, "Sec-WebSocket-Version: 013"]), 426),
        (with(&[UPGRADE, CONNECTION, KEY, "Sec-WebSocket-Version: 13, 8"]), 426),
        (with(&[UPGRADE, CONNECTION, KEY, "Sec-WebSocket-Version:"]), 426),
        (with(&[UPGRADE, CONNECTION, "Sec-WebSocket-Version: 12"]), 426),
        (and(&[VERSION]), 400),
        (and(&["Sec-WebSocket-Version: 12"]), 400),
        (with(&[UPGRADE, CONNECTION, VERSION]), 400),
        (with(&[UPGRADE, CONNECTION, VERSION, "Sec-WebSocket-Key:"]), 400),
        (with(&[UPGRADE, CONNECTION, VERSION, "Sec-WebSocket-Key: dGhlIHNhbXBsZQ=="]), 400),
        (with(&[UPGRADE, CONNECTION, VERSION, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ"]), 400),
        (with(&[UPGRADE, CONNECTION, VERSION, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZ==="]), 400),
        (with(&[UPGRADE, CONNECTION, VERSION, "Sec-WebSocket-Key: dGhlIHNhb!BsZSBub25jZQ=="]), 400),
        (with(&[UPGRADE, CONNECTION, VERSION, "Sec-WebSocket-Key: dGhlIHNhb-BsZ_Bub25jZQ=="]), 400),
        (with(&[UPGRADE, CONNECTION, VERSION, &long]), 400),
        (and(&[KEY]), 400),
        (and(&[&lower]), 400),
        (with(&[UPGRADE, CONNECTION, &spaced, VERSION]), 101),
        (with(&[UPGRADE, KEY, VERSION]), 0),
        (with(&[CONNECTION, KEY, VERSION]), 0),
        (with(&[UPGRADE, "Connection: keep-alive", KEY, VERSION]), 0),
        (with(&[UPGRADE, "Connection: keep-alive, Upgrade", KEY, VERSION]), 101),
        (with(&[UPGRADE, "Connection: keep-alive,upgrade\t", KEY, VERSION]), 101),
        (with(&[UPGRADE, "Connection: keep-alive", CONNECTION, KEY, VERSION]), 101),
        (with(&[UPGRADE, "Connection: upgraded", KEY, VERSION]), 0),
        (with(&["Upgrade: h2c", CONNECTION, KEY, VERSION]), 0),
        (with(&["Upgrade: h2c, websocket", CONNECTION, KEY, VERSION]), 101),
        (with(&["Upgrade: websocket/13", CONNECTION, KEY, VERSION]), 0),
        (with(&["upgrade: WebSocket", "connection: UPGRADE", KEY, VERSION]), 101),
        (and(&["Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"]), 101),
        (and(&["Sec-WebSocket-Protocol: chat, superchat"]), 101),
        (and(&["Origin: https://one.example"]), 101),
        (and(&["Origin: null"]), 101),
        (and(&["Origin: https://one.example", "origin: https://two.example"]), 400),
        (and(&["Content-Length: 0"]), 101),
    ];
    let mut world = World::new();
    let mut counts = BTreeMap::new();
    for (request, status) in &cases {
        let answer = world.upgrade(v4(1).ip(), request.as_bytes());
        *counts.entry(*status).or_insert(0) += 1;
        match answer {
            None => assert_eq!(*status, 0, "{request}"),
            Some(Ok(bytes)) => {
                assert_eq!(*status, 101, "{request}");
                // The key and its answer are those of RFC 6455 section 1.3.
                let expected = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
                    Connection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\
                    \r\n";
                assert_eq!(bytes, expected.as_bytes(), "{request}");
            }
            Some(Err(response)) => {
                assert_eq!(response.status, *status, "{request}");
                let (reason, fields) = match status {
                    426 => ("the WebSocket version must be 13", [Some("websocket"), Some("13")]),
                    _ => ("malformed WebSocket handshake", [None, None]),
                };
                assert_eq!(response.failure().as_deref(), Some(reason), "{request}");
                let told = ["upgrade", "sec-websocket-version"].map(|name| response.field(name));
                assert_eq!(told, fields, "{request}");
                assert_eq!(response.field("connection"), Some("close"));
            }
        }
    }
    assert_eq!(world.refused(Refusal::Malformed(ParseError::BadUpgrade)), counts[&400]);
    assert_eq!(world.refused(Refusal::Malformed(ParseError::UpgradeRequired)), counts[&426]);
    assert_eq!(world.counters().refusals.iter().sum::<u64>(), counts[&400] + counts[&426]);
    assert!(cases.len() > 40);
    // What is no head is no handshake either.
    for line in ["POST /announce HTTP/1.1", "GET /announce HTTP/2.0", "get /announce HTTP/1.1"] {
        let response = world.request(v4(1).ip(), lines(line).as_bytes()).expect("an answer");
        assert!(matches!(response.status, 400 | 405), "{line}");
    }
    let body = with(&[UPGRADE, CONNECTION, KEY, VERSION, "Content-Length: 5"]);
    assert_eq!(world.request(v4(1).ip(), body.as_bytes()).expect("an answer").status, 400);
}

#[test]
fn pages_of_listed_origins_are_let_in_and_those_without_one() {
    let listed = ["https://one.example", "http://two.example:8080"];
    for (origins, fields, allowed) in [
        (&listed[..0], &["Origin: https://any.example"][..], true),
        (&listed[..0], &[], true),
        (&listed, &["Origin: https://one.example"], true),
        (&listed, &["ORIGIN: HTTPS://One.Example"], true),
        (&listed, &["Origin: http://two.example:8080"], true),
        (&listed, &["Origin:   https://one.example  "], true),
        // No browser.
        (&listed, &[], true),
        (&listed, &["Origin: https://three.example"], false),
        (&listed, &["Origin: http://one.example"], false),
        (&listed, &["Origin: http://two.example"], false),
        (&listed, &["Origin: https://one.example.evil.example"], false),
        (&listed, &["Origin: https://one.example/"], false),
        (&listed, &["Origin: null"], false),
        (&listed, &["Origin:"], false),
        (&listed, &["Origin: https://one.example https://two.example"], false),
    ] {
        let web_origins = origins.iter().map(ToString::to_string).collect();
        let policy = Policy { web_origins, ..policy() };
        let mut world = World::with(Options { policy, ..Options::default() });
        let usual = [UPGRADE, CONNECTION, KEY, VERSION];
        let request = handshake(LINE, &[&usual, fields].concat());
        match world.upgrade(v6(1).ip(), request.as_bytes()).expect("a handshake") {
            Ok(_) => assert!(allowed, "{fields:?}"),
            Err(response) => {
                assert!(!allowed, "{fields:?}");
                assert_eq!(response.status, 403);
                let reason = "this origin is not allowed on this tracker";
                assert_eq!(response.failure().as_deref(), Some(reason));
                assert!(!response.body.windows(7).any(|bytes| bytes == b"example"));
            }
        }
        assert_eq!(world.refused(Refusal::OriginNotAllowed), u64::from(!allowed));
    }
}

#[test]
fn without_websockets_a_handshake_is_an_ordinary_request() {
    let policy = Policy { web: false, web_origins: vec!["https://a.example".into()], ..policy() };
    let mut world = World::with(Options { policy, ..Options::default() });
    let target = target(&leecher(HASH, 6_881), "");
    let usual = [UPGRADE, CONNECTION, KEY, VERSION];
    for fields in
        [usual.to_vec(), usual[..3].to_vec(), [&usual[..], &["Origin: https://b.example"]].concat()]
    {
        let request = handshake(&format!("GET {target} HTTP/1.1"), &fields);
        assert!(world.upgrade(v4(1).ip(), request.as_bytes()).is_none());
        let response = world.request(v4(1).ip(), request.as_bytes()).expect("an answer");
        assert_eq!((response.status, response.counts()), (200, (0, 1, 0)));
    }
    assert_eq!(world.counters().refusals.iter().sum::<u64>(), 0);
}

#[test]
fn the_corpus_agrees_with_the_model() {
    support::replay("ws_session", model::check);
}
