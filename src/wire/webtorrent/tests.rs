//! Messages of real clients, and messages that are none.

use proptest::prelude::*;
use serde_json::Value;

use super::model::check;
use super::*;
use crate::limits::{WEB_DEPTH_MAX, WEB_MESSAGE_BYTES_MAX, WEB_OFFERS_MAX};
use crate::wire::announce::{Announce, Event, Left, NumWant};
use crate::wire::error::ParseError;
use crate::wire::id::{InfoHash, PeerId};

const HASH: &str = "aaaaaaaaaaaaaaaaaaaa";
const PEER: &str = "-WW0200-bbbbbbbbbbbb";

/// An announce with `more` inside.
fn announce(more: &str) -> String {
    format!(r#"{{"action":"announce","info_hash":"{HASH}","peer_id":"{PEER}"{more}}}"#)
}

fn parsed(text: &str) -> WebAnnounce<'_> {
    match Request::parse(text) {
        Ok(Request::Announce(announce)) => announce,
        other => panic!("{other:?}: {text}"),
    }
}

#[test]
fn an_announce_of_a_browser_is_read() {
    let text = announce(
        r#","numwant":5,"uploaded":0,"downloaded":0,"left":123,"event":"started",
        "offers":[{"offer":{"type":"offer","sdp":"v=0\r\n"},"offer_id":"\u0001\u00ff\"x"},
        {"offer_id":"y","offer":{ "sdp" : "v=1" },"more":[1]}],"trackerid":"t""#,
    );
    let read = parsed(&text);
    assert_eq!((read.left, read.event), (Left::Bytes(123), Event::Started));
    assert_eq!(read.info_hash, InfoHash([b'a'; 20]));
    assert_eq!(read.offers.len(), 2);
    assert_eq!(read.offers[0].offer, r#"{"type":"offer","sdp":"v=0\r\n"}"#);
    assert_eq!(read.offers[0].offer_id.literal, r#""\u0001\u00ff\"x""#);
    assert_eq!(read.offers[0].offer_id.text, "\u{1}\u{ff}\"x");
    assert_eq!(read.offers[1].offer, r#"{ "sdp" : "v=1" }"#);
    check(text.as_bytes());
}

#[test]
fn names_are_twenty_characters_of_one_byte() {
    let all: String = (0..=255_u8).map(char::from).collect();
    for chunk in all.chars().collect::<Vec<_>>().chunks(20).filter(|chunk| chunk.len() == 20) {
        let name: String = chunk.iter().collect();
        let raw = serde_json::to_string(&name).expect("a string");
        let escaped: String = chunk.iter().map(|&c| format!("\\u{:04X}", u32::from(c))).collect();
        for literal in [raw, format!("\"{escaped}\"")] {
            let text = format!(
                r#"{{"action":"announce","info_hash":{literal},"peer_id":{literal},"left":0}}"#
            );
            let read = parsed(&text);
            let bytes: Vec<u8> = chunk.iter().map(|&c| u8::try_from(c).expect("a byte")).collect();
            assert_eq!((&read.info_hash.0[..], &read.peer_id.0[..]), (&bytes[..], &bytes[..]));
            check(text.as_bytes());
        }
    }
    for bad in
        ["", "a", "aaaaaaaaaaaaaaaaaaa", "aaaaaaaaaaaaaaaaaaaaa", "aaaaaaaaaaaaaaaaaaa\u{100}"]
    {
        let text = announce("").replace(HASH, bad);
        assert_eq!(Request::parse(&text), Err(ParseError::BadInfoHash));
        let text = announce("").replace(PEER, bad);
        assert_eq!(Request::parse(&text), Err(ParseError::BadPeerId));
    }
}

#[test]
fn what_is_wrong_is_told_apart() {
    let answer = |more: &str| announce(&format!(r#","answer":{{"type":"answer"}}{more}"#));
    let to = r#","to_peer_id":"cccccccccccccccccccc""#;
    let cases: Vec<(String, ParseError)> = vec![
        (String::new(), ParseError::BadJson),
        ("null".into(), ParseError::BadJson),
        ("[]".into(), ParseError::BadJson),
        ("{".into(), ParseError::BadJson),
        ("\u{feff}{}".into(), ParseError::BadJson),
        (format!("{} x", announce("")), ParseError::BadJson),
        (announce(r#","left":1,"left":2"#), ParseError::BadJson),
        (
            format!(r#"["announce","{HASH}","{PEER}",null,1,null,null,null,null]"#),
            ParseError::BadJson,
        ),
        (announce(r#","offers":[[{},"x"]]"#), ParseError::BadOffer),
        (announce(r#","offers":[{"offer":{},"offer_id":"\ud800"}]"#), ParseError::BadOffer),
        ("{}".into(), ParseError::BadAction),
        (r#"{"action":1}"#.into(), ParseError::BadAction),
        (r#"{"action":"ANNOUNCE"}"#.into(), ParseError::BadAction),
        (r#"{"action":"announce"}"#.into(), ParseError::MissingInfoHash),
        (r#"{"action":"announce","info_hash":null}"#.into(), ParseError::MissingInfoHash),
        (r#"{"action":"announce","info_hash":7}"#.into(), ParseError::BadInfoHash),
        (format!(r#"{{"action":"announce","info_hash":"{HASH}"}}"#), ParseError::BadPeerId),
        (announce(r#","offers":{}"#), ParseError::BadOffer),
        (announce(r#","offers":[null]"#), ParseError::BadOffer),
        (announce(r#","offers":[{"offer":{}}]"#), ParseError::BadOffer),
        (announce(r#","offers":[{"offer":"x","offer_id":"y"}]"#), ParseError::BadOffer),
        (announce(r#","offers":[{"offer":{},"offer_id":""}]"#), ParseError::BadOffer),
        (announce(r#","offers":[{"offer":{},"offer_id":5}]"#), ParseError::BadOffer),
        (
            announce(&format!(
                r#","offers":[{{"offer":{{}},"offer_id":"{}"}}]"#,
                "\u{ff}".repeat(65)
            )),
            ParseError::BadOffer,
        ),
        (answer(""), ParseError::BadOffer),
        (answer(to), ParseError::BadOffer),
        (answer(r#","offer_id":"x""#), ParseError::BadOffer),
        (announce(&format!(r#"{to},"answer":[],"offer_id":"x""#)), ParseError::BadOffer),
        (r#"{"action":"scrape","info_hash":{}}"#.into(), ParseError::BadInfoHash),
        (r#"{"action":"scrape","info_hash":["x"]}"#.into(), ParseError::BadInfoHash),
    ];
    for (text, error) in cases {
        assert_eq!(Request::parse(&text).err(), Some(error), "{text}");
    }
}

#[test]
fn odd_values_that_harm_nobody_are_as_good_as_missing() {
    for (left, expected) in [
        ("0", Left::Bytes(0)),
        ("\"0\"", Left::Bytes(0)),
        ("18446744073709551615", Left::Bytes(u64::MAX)),
        ("18446744073709551616", Left::Unknown),
        ("-1", Left::Unknown),
        ("\"+0\"", Left::Unknown),
        ("-0", Left::Unknown),
        ("0.0", Left::Unknown),
        ("1e999", Left::Unknown),
        ("\"\"", Left::Unknown),
        ("null", Left::Unknown),
        ("{}", Left::Unknown),
    ] {
        assert_eq!(parsed(&announce(&format!(r#","left":{left}"#))).left, expected, "{left}");
    }
    for event in ["null", "\"\"", "\"update\"", "\"empty\"", "7", "[\"stopped\"]"] {
        assert_eq!(parsed(&announce(&format!(r#","event":{event}"#))).event, Event::None);
    }
    assert!(parsed(&announce(r#","offers":null"#)).offers.is_empty());
    assert!(parsed(&announce(r#","answer":null,"to_peer_id":3"#)).offers.is_empty());
}

#[test]
fn offers_beyond_ten_and_hashes_beyond_a_hundred_are_not_looked_at() {
    let offer = r#"{"offer":{},"offer_id":"x"}"#;
    let text = announce(&format!(r#","offers":[{}null]"#, format!("{offer},").repeat(10)));
    assert_eq!(parsed(&text).offers.len(), 10);
    let text = announce(&format!(r#","offers":[{}null]"#, format!("{offer},").repeat(9)));
    assert_eq!(Request::parse(&text), Err(ParseError::BadOffer));
    let hashes = format!("\"{HASH}\",").repeat(100);
    let text = format!(r#"{{"action":"scrape","info_hash":[{hashes}7]}}"#);
    let Ok(Request::Scrape(read)) = Request::parse(&text) else { panic!("a scrape") };
    assert_eq!(read.len(), 100);
    check(text.as_bytes());
}

#[test]
fn thousands_of_keys_that_nobody_knows_are_skipped() {
    let count = if cfg!(miri) { 50 } else { 7_500 };
    let keys: String = (0..count).map(|key| format!(r#","{key:x}":0"#)).collect();
    let text = announce(&keys);
    assert!((8 * count..WEB_MESSAGE_BYTES_MAX).contains(&text.len()), "{} bytes", text.len());
    assert_eq!(Request::parse(&text), Request::parse(&announce("")));
    check(text.as_bytes());
    // One that matters is found behind them, and found to come twice.
    let twice = announce(&format!("{keys},\"peer_id\":\"-XX0001-aaaaaaaaaaaa\""));
    assert_eq!(Request::parse(&twice), Err(ParseError::BadJson));
}

#[test]
fn depth_is_bounded_and_strings_have_none() {
    let deep = |depth: usize| {
        // The object itself is one level.
        announce(&format!(r#","x":{}{}"#, "[".repeat(depth - 1), "]".repeat(depth - 1)))
    };
    assert!(Request::parse(&deep(WEB_DEPTH_MAX)).is_ok());
    for depth in [WEB_DEPTH_MAX + 1, 128, 30_000] {
        assert_eq!(Request::parse(&deep(depth)), Err(ParseError::BadJson));
    }
    let text = announce(r#","x":"[[[[[[[[[[[[\"[[[[\\","y":"\\\\\"{{{{{{{{{{{{""#);
    assert!(!is_deeper(text.as_bytes(), 1));
    assert!(Request::parse(&text).is_ok());
    for (text, depth) in [
        ("", 0),
        ("[{}, [[]]]", 3),
        (r#"["a",[["b"]]]"#, 3),
        (r#"["a\"[[[",["\\",[["#, 4),
        (r#"["","",["",["",[]]]]"#, 4),
    ] {
        let least = (0..9).find(|levels| !is_deeper(text.as_bytes(), *levels));
        assert_eq!(least, Some(depth), "{text}");
    }
    for broken in ["\"", "\"\\", "\"\\\"", "]]]]", "\"\\\\\\"] {
        assert!(!is_deeper(broken.as_bytes(), 1));
    }
}

#[test]
fn what_is_written_has_the_shapes_that_clients_know() {
    let hash = InfoHash(std::array::from_fn(|i| [0, 31, 34, 92, 127, 128, 255][i % 7]));
    let peer = PeerId(*b"-WW0200-bbbbbbbbbbbb");
    let hash_text: String = hash.0.iter().map(|&byte| char::from(byte)).collect();
    let written = |write: &dyn Fn(&mut Vec<u8>)| -> Value {
        let mut out = Vec::new();
        write(&mut out);
        serde_json::from_slice(&out).expect("JSON in UTF-8")
    };
    let reply = written(&|out| write_announce_reply(out, &hash, (1, 2), 120));
    let expected = serde_json::json!({"complete": 1, "incomplete": 2, "action": "announce",
        "interval": 120, "info_hash": hash_text});
    assert_eq!(reply, expected);
    let relayed = (br#"{"type":"offer","sdp":"x"}"#.as_slice(), br#""\u00ff""#.as_slice());
    let offer = written(&|out| write_offer(out, &hash, &peer, relayed));
    let expected = serde_json::json!({"action": "announce", "offer": {"type": "offer", "sdp": "x"},
        "offer_id": "\u{ff}", "peer_id": PEER, "info_hash": hash_text});
    assert_eq!(offer, expected);
    let answer = written(&|out| write_answer(out, &hash, &peer, relayed));
    assert_eq!(answer["answer"], expected["offer"]);
    assert_eq!(answer["offer"], Value::Null);
    let row = Row { seeders: 1, leechers: 2, completed: 3 };
    let (one, other) = (InfoHash([b'a'; 20]), InfoHash([b'b'; 20]));
    let rows = [(&one, row), (&other, row)];
    let scrape = written(&|out| write_scrape_reply(out, rows.into_iter(), 60));
    let counts = serde_json::json!({"complete": 1, "incomplete": 2, "downloaded": 3});
    let expected = serde_json::json!({"action": "scrape",
        "files": {HASH: counts, "bbbbbbbbbbbbbbbbbbbb": counts},
        "flags": {"min_request_interval": 60}});
    assert_eq!(scrape, expected);
    assert_eq!(
        written(&|out| write_scrape_reply(out, [].into_iter(), 60))["files"],
        serde_json::json!({})
    );
    let failure = written(&|out| write_failure(out, None, "no", None));
    assert_eq!(failure, serde_json::json!({"failure reason": "no"}));
    let failure = written(&|out| write_failure(out, Some("announce"), "no", Some(&hash)));
    let expected = serde_json::json!({"action": "announce", "failure reason": "no",
        "info_hash": hash_text});
    assert_eq!(failure, expected);
}

/// Pieces of messages, whole and broken.
fn piece() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(r#""action":"announce""#.to_owned()),
        Just(r#""action":"scrape""#.to_owned()),
        Just(format!(r#""info_hash":"{HASH}""#)),
        Just(format!(r#""info_hash":["{HASH}","{PEER}"]"#)),
        Just(format!(r#""peer_id":"{PEER}""#)),
        Just(format!(r#""to_peer_id":"{PEER}""#)),
        Just(r#""answer":{"type":"answer"}"#.to_owned()),
        Just(r#""offers":[{"offer":{},"offer_id":"x"}]"#.to_owned()),
        Just(r#""offer_id":"\u0041""#.to_owned()),
        "\"left\":(0|-1|1.5|77|\"3\"|null)",
        "\"event\":(\"stopped\"|\"x\"|1)",
        "[{}\\[\\],:\"\\\\a0]{0,6}",
    ]
}

proptest! {
    #[test]
    fn any_text_is_read_as_the_model_reads_it(text in "\\PC{0,80}") {
        check(text.as_bytes());
    }

    #[test]
    fn shuffled_messages_are_read_as_the_model_reads_them(
        pieces in prop::collection::vec(piece(), 0..7),
    ) {
        check(format!("{{{}}}", pieces.join(",")).as_bytes());
    }
}

#[test]
fn what_a_client_writes_is_what_a_tracker_reads() {
    let every: Vec<u8> = (0..=255).collect();
    let (binary, _) = every.as_chunks::<20>();
    for (index, &bytes) in binary.iter().enumerate() {
        let mut literal = Vec::new();
        write_offer_id(&mut literal, &bytes);
        let literal = std::str::from_utf8(&literal).expect("UTF-8");
        let offer_id: String = bytes.iter().map(|&byte| char::from(byte)).collect();
        // As a browser writes it.
        assert_eq!(literal, serde_json::to_string(&offer_id).expect("a string"));
        let offer_id = OfferId { literal, text: offer_id.into() };
        let offer = r#"{"type":"offer","sdp":"v=0\r\n"}"#;
        let announce = Announce {
            info_hash: InfoHash(bytes),
            peer_id: PeerId(binary[(index + 1) % binary.len()]),
            port: 1,
            uploaded: 2,
            downloaded: 3,
            left: [Left::Bytes(4), Left::Unknown][index % 2],
            event: [Event::None, Event::Started, Event::Completed, Event::Stopped, Event::Paused]
                [index % 5],
            num_want: NumWant::Default,
            key: None,
        };
        for count in [0, 1, WEB_OFFERS_MAX] {
            let mut text = Vec::new();
            let offers = vec![(offer.as_bytes(), literal.as_bytes()); count];
            write_announce_request(&mut text, &announce, &offers);
            let text = String::from_utf8(text).expect("UTF-8");
            let read = parsed(&text);
            assert_eq!(read.offers, vec![Offer { offer, offer_id: offer_id.clone() }; count]);
            let Announce { info_hash, peer_id, left, event, .. } = announce;
            let expected =
                WebAnnounce { info_hash, peer_id, left, event, offers: read.offers.clone() };
            assert_eq!(read, expected);
        }
        let answer = Answer {
            info_hash: announce.info_hash,
            peer_id: announce.peer_id,
            to_peer_id: PeerId(bytes),
            offer_id: offer_id.clone(),
            answer: r#"{"type":"answer"}"#,
        };
        let mut text = Vec::new();
        write_answer_request(&mut text, &answer);
        let text = String::from_utf8(text).expect("UTF-8");
        assert_eq!(Request::parse(&text), Ok(Request::Answer(answer)));
        for hashes in [vec![InfoHash(bytes)], vec![InfoHash(bytes), InfoHash([b'a'; 20])], vec![]] {
            let mut text = Vec::new();
            write_scrape_request(&mut text, &hashes);
            let text = String::from_utf8(text).expect("UTF-8");
            assert_eq!(Request::parse(&text), Ok(Request::Scrape(hashes)));
        }
    }
}

#[test]
fn what_a_tracker_writes_is_what_a_client_reads() {
    let every: Vec<u8> = (0..=255).collect();
    let (binary, _) = every.as_chunks::<20>();
    let written = |write: &dyn Fn(&mut Vec<u8>)| {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).expect("UTF-8")
    };
    for &bytes in binary {
        let (info_hash, peer_id) = (InfoHash(bytes), PeerId(bytes));
        let text = written(&|out| write_announce_reply(out, &info_hash, (1, 2), 120));
        let (seeders, leechers, interval_secs) = (1, 2, 120);
        let expected = TrackerMessage::Announced { info_hash, seeders, leechers, interval_secs };
        assert_eq!(TrackerMessage::parse(&text), Ok(expected));
        let (body, literal) = (r#"{"type":"x","sdp":"\r\n"}"#, r#""\u0041\u00ff""#);
        let offer_id = OfferId { literal, text: "A\u{ff}".into() };
        let relayed = Relayed { info_hash, peer_id, offer_id, body };
        let parts = (body.as_bytes(), literal.as_bytes());
        let text = written(&|out| write_offer(out, &info_hash, &peer_id, parts));
        assert_eq!(TrackerMessage::parse(&text), Ok(TrackerMessage::Offer(relayed.clone())));
        let text = written(&|out| write_answer(out, &info_hash, &peer_id, parts));
        assert_eq!(TrackerMessage::parse(&text), Ok(TrackerMessage::Answer(relayed)));
        let row = Row { seeders: 1, leechers: 2, completed: 3 };
        let rows = [(info_hash, row), (InfoHash([b'a'; 20]), row)];
        for rows in [&rows[..], &rows[..1], &[]] {
            let text = written(&|out| {
                write_scrape_reply(out, rows.iter().map(|(hash, row)| (hash, *row)), 60);
            });
            assert_eq!(TrackerMessage::parse(&text), Ok(TrackerMessage::Scraped(rows.to_vec())));
        }
        for (action, hash) in [(None, None), (Some("announce"), Some(&info_hash))] {
            let text = written(&|out| write_failure(out, action, "no", hash));
            assert_eq!(TrackerMessage::parse(&text), Ok(TrackerMessage::Failure("no".into())));
        }
    }
}

#[test]
fn what_no_tracker_says_is_told_apart() {
    let said = |more: &str| format!(r#"{{"action":"announce","info_hash":"{HASH}"{more}}}"#);
    let cases = [
        (String::new(), ParseError::BadJson),
        ("[]".into(), ParseError::BadJson),
        ("{}".into(), ParseError::BadAction),
        (r#"{"action":"x"}"#.into(), ParseError::BadAction),
        (r#"{"failure reason":7}"#.into(), ParseError::BadJson),
        (said(""), ParseError::BadJson),
        (said(r#","complete":1"#), ParseError::BadJson),
        (said(r#","complete":-1,"incomplete":1"#), ParseError::BadJson),
        (said(r#","offer":{}"#), ParseError::BadPeerId),
        (said(&format!(r#","offer":{{}},"peer_id":"{PEER}""#)), ParseError::BadOffer),
        (said(&format!(r#","answer":"","peer_id":"{PEER}","offer_id":"x""#)), ParseError::BadOffer),
        (
            r#"{"action":"announce","complete":1,"incomplete":1}"#.into(),
            ParseError::MissingInfoHash,
        ),
        (r#"{"action":"scrape"}"#.into(), ParseError::BadInfoHash),
        (r#"{"action":"scrape","files":{"x":{}}}"#.into(), ParseError::BadInfoHash),
    ];
    for (text, error) in cases {
        assert_eq!(TrackerMessage::parse(&text), Err(error), "{text}");
    }
}
