//! The load against WebSocket trackers that are made to answer wrongly, twice or never.

use std::io::{ErrorKind, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tungstenite::{Error, Message};

use super::*;
use crate::load::plan::{Mix, Pace, Transport, Web};
use crate::load::report::{Report, Verdict};
use crate::load::target::Target;
use crate::load::verify::{Fault, Rigour};
use crate::wire::id::PeerId;
use crate::wire::webtorrent::{
    Request, Row, write_announce_reply, write_answer, write_offer, write_scrape_reply,
};

/// How often a fake looks for something to send, or whether it is to end.
const LOOK: Duration = Duration::from_millis(1);

/// What a message of the fake is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    Reply,
    Offer,
    Answer,
    Scrape,
}

/// What becomes of a right message on its way.
type Twist = fn(Kind, String) -> Vec<String>;

fn right(_: Kind, text: String) -> Vec<String> {
    vec![text]
}

/// What else a fake does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Habit {
    None,
    /// Brings offers back to where they come from.
    Mirror,
    /// Replies to answers, as aquatic does.
    RepliesToAnswers,
}

/// Who is there, and how they are reached.
type Room = Arc<Mutex<Vec<(PeerId, Sender<String>)>>>;

/// A tracker with one swarm that listens until it is dropped.
struct Fake {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(ended.is_none_or(|ended| ended.is_ok()) || thread::panicking());
    }
}

/// Has `serve` serve each connection in a thread of its own.
fn listen(serve: impl Fn(TcpStream, &AtomicBool) + Clone + Send + 'static) -> Fake {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.set_nonblocking(true).expect("it can");
    let address = listener.local_addr().expect("it is bound");
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let thread = thread::spawn(move || {
        let mut served = Vec::new();
        while !stopped.load(Ordering::Relaxed) {
            let Ok((stream, _)) = listener.accept() else {
                thread::sleep(LOOK);
                continue;
            };
            stream.set_nonblocking(false).expect("it can");
            let (serve, stopped) = (serve.clone(), stopped.clone());
            served.push(thread::spawn(move || serve(stream, &stopped)));
        }
        served.into_iter().for_each(|thread| thread.join().expect("it does not panic"));
    });
    Fake { address, stop, thread: Some(thread) }
}

/// A right tracker but for `twist` and `habit`.
fn fake(twist: Twist, habit: Habit) -> Fake {
    let room = Room::default();
    listen(move |stream, stop| {
        let (sender, receiver) = channel();
        let _ = serve(stream, stop, (&room, &sender, &receiver), twist, habit);
    })
}

fn serve(
    stream: TcpStream,
    stop: &AtomicBool,
    (room, sender, receiver): (&Room, &Sender<String>, &Receiver<String>),
    twist: Twist,
    habit: Habit,
) -> Option<()> {
    let mut socket = tungstenite::accept(stream).ok()?;
    socket.get_ref().set_read_timeout(Some(LOOK)).expect("it can");
    socket.send(Message::Ping(b"!"[..].into())).ok()?;
    let mut own = None;
    while !stop.load(Ordering::Relaxed) {
        for text in receiver.try_iter() {
            socket.send(Message::text(text)).ok()?;
        }
        let text = match socket.read() {
            Ok(Message::Text(text)) => text,
            Ok(_) => continue,
            Err(Error::Io(error))
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
            {
                continue;
            }
            Err(_) => break,
        };
        let request = Request::parse(&text).expect("our own requests are right");
        let mut room = room.lock().expect("nobody panics");
        let said = |kind, write: &dyn Fn(&mut Vec<u8>)| {
            let mut out = Vec::new();
            write(&mut out);
            twist(kind, String::from_utf8(out).expect("UTF-8"))
        };
        let tell = |who: &Sender<String>, texts: Vec<String>| {
            texts.into_iter().for_each(|text| drop(who.send(text)));
        };
        match request {
            Request::Announce(announce) => {
                if own.replace(announce.peer_id).is_none() {
                    room.push((announce.peer_id, sender.clone()));
                }
                let (hash, from) = (announce.info_hash, announce.peer_id);
                let reply = |out: &mut Vec<u8>| write_announce_reply(out, &hash, (9, 9), 120);
                tell(sender, said(Kind::Reply, &reply));
                let others =
                    room.iter().filter(|(peer, _)| (*peer == from) == (habit == Habit::Mirror));
                for (offer, (_, to)) in announce.offers.iter().zip(others) {
                    let parts = (offer.offer.as_bytes(), offer.offer_id.literal.as_bytes());
                    tell(to, said(Kind::Offer, &|out| write_offer(out, &hash, &from, parts)));
                }
            }
            Request::Answer(answer) => {
                let (hash, from) = (answer.info_hash, answer.peer_id);
                let parts = (answer.answer.as_bytes(), answer.offer_id.literal.as_bytes());
                let texts = said(Kind::Answer, &|out| write_answer(out, &hash, &from, parts));
                let to = room.iter().find(|(peer, _)| *peer == answer.to_peer_id);
                // It may have gone.
                to.into_iter().for_each(|(_, to)| tell(to, texts.clone()));
                if habit == Habit::RepliesToAnswers {
                    let reply = |out: &mut Vec<u8>| write_announce_reply(out, &hash, (9, 9), 120);
                    tell(sender, said(Kind::Reply, &reply));
                }
            }
            Request::Scrape(hashes) => {
                let row = Row { seeders: 1, leechers: 2, completed: 3 };
                let rows = || hashes.iter().map(|hash| (hash, row));
                tell(sender, said(Kind::Scrape, &|out| write_scrape_reply(out, rows(), 60)));
            }
        }
    }
    let mut room = room.lock().expect("nobody panics");
    room.retain(|(peer, _)| Some(*peer) != own);
    Some(())
}

fn plan(fake: &Fake) -> Plan {
    let target = Target::parse(&fake.address.to_string(), Transport::Ws, false);
    Plan {
        target: target.expect("loopback"),
        threads: 1,
        sources: 2,
        seed: 5,
        swarms: 1,
        peers: 4,
        skew: 0.0,
        seeders: 0.5,
        num_want: 5,
        mix: Mix { connect: 0, announce: 1, scrape: 0 },
        scrape_hashes: 3,
        pace: Pace::Closed,
        in_flight: 4,
        duration: Duration::from_millis(200),
        fill: true,
        timeout: Duration::from_secs(20),
        close: false,
        web: Web::default(),
        rigour: Rigour::Strict,
        pid: None,
    }
}

fn run(plan: &Plan) -> Report {
    let report = crate::load::run(plan, &AtomicBool::new(false), &mut |_| ());
    report.expect("the fake listens")
}

fn relay(report: &Report) -> &crate::load::report::RelayReport {
    report.relay.as_ref().expect("it is WebSocket")
}

#[test]
fn right_messages_are_verified_and_counted() {
    let fake = fake(right, Habit::None);
    let pid = Some(std::process::id());
    let mix = Mix { connect: 0, announce: 4, scrape: 1 };
    let report = run(&Plan { threads: 2, peers: 8, mix, pid, ..plan(&fake) });
    assert_eq!(report.verdict(), Verdict::Verified, "{report}");
    let fill = report.fill.as_ref().expect("they always join");
    assert!(fill.complete && fill.announces == 8, "{report}");
    assert!(report.faults.is_empty() && report.lost == 0, "{report}");
    assert_eq!(report.total.replies, report.total.sent, "{report}");
    assert!(report.actions["scrape"].replies > 0, "{report}");
    let relay = relay(&report);
    assert_eq!(relay.offers.sent, 5 * report.actions["announce"].sent, "{report}");
    assert!(relay.offers.replies > 0 && relay.offers.replies <= relay.offers.sent, "{report}");
    assert_eq!(relay.answers.sent, relay.offers.replies, "{report}");
    assert_eq!(relay.answers.replies, relay.answers.sent, "{report}");
    assert_eq!(relay.open, 8, "{report}");
    let (offers, answers) = (&relay.offers.latency, &relay.answers.latency);
    let median = |latency: &Option<crate::load::report::Latency>| {
        latency.as_ref().expect("some came").p50_us
    };
    assert!(median(offers) > 0.0 && median(offers) <= median(answers), "{report}");
    let json: serde_json::Value = serde_json::from_str(&report.json()).expect("JSON");
    for pointer in [
        "/plan/torrents",
        "/plan/sdp_bytes",
        "/plan/answers",
        "/relay/offers/per_second",
        "/relay/answers/latency/p99_us",
        "/relay/offers_per_cpu_second",
        "/relay/resident_before_bytes",
        "/relay/resident_bytes",
        "/relay/bytes_per_connection",
        "/relay/open",
        "/relay/pings",
    ] {
        assert!(json.pointer(pointer).is_some_and(|value| value.is_number()), "{pointer}: {json}");
    }
}

#[test]
fn each_wrong_message_is_counted_as_what_it_is() {
    fn replaced(kind: Kind, text: String, what: Kind, from: &str, to: &str) -> Vec<String> {
        vec![if kind == what { text.replacen(from, to, 1) } else { text }]
    }
    fn twice(kind: Kind, text: String, what: Kind) -> Vec<String> {
        vec![text; if kind == what { 2 } else { 1 }]
    }
    let cases: [(Twist, Fault); 13] = [
        (|_, _| vec![r#"{"failure reason":"go away"}"#.to_owned()], Fault::Refused),
        (|_, _| vec!["{}".to_owned()], Fault::Malformed),
        (|kind, text| replaced(kind, text, Kind::Reply, ":120", ":0"), Fault::Interval),
        (|kind, text| replaced(kind, text, Kind::Reply, ":120", ":86401"), Fault::Interval),
        (
            |kind, text| vec![if kind == Kind::Reply { text.replace(":9", ":0") } else { text }],
            Fault::Counts,
        ),
        (
            |_, text| {
                let at = text.rfind(":\"").expect("a hash") + 2;
                vec![format!("{}aaaaaaaaaaaaaaaaaaaa\"}}", &text[..at])]
            },
            Fault::Hash,
        ),
        (|kind, text| twice(kind, text, Kind::Reply), Fault::Unasked),
        (|kind, text| replaced(kind, text, Kind::Offer, "v=0", "v=1"), Fault::Relay),
        (|kind, text| replaced(kind, text, Kind::Offer, "-TH0001-", "-TH0002-"), Fault::Relay),
        (
            |kind, text| replaced(kind, text, Kind::Offer, "\"offer_id\":\"", "\"offer_id\":\"x"),
            Fault::Relay,
        ),
        (|kind, text| replaced(kind, text, Kind::Answer, "v=0", "v=1"), Fault::Relay),
        (|kind, text| replaced(kind, text, Kind::Answer, "0001-0", "0001-1"), Fault::Relay),
        (|kind, text| twice(kind, text, Kind::Answer), Fault::Duplicate),
    ];
    for (index, (twist, fault)) in cases.into_iter().enumerate() {
        let fake = fake(twist, Habit::None);
        // When no reply at all is right, that is given up after five of these.
        let timeout = Duration::from_millis(100);
        let report = run(&Plan { timeout, ..plan(&fake) });
        assert_eq!(report.verdict(), Verdict::Wrong, "{index}: {report}");
        assert_eq!(report.faults.len(), 1, "{index}: {report}");
        assert!(report.faults.contains_key(fault.label()), "{index}: {fault:?}: {report}");
        if fault == Fault::Refused {
            assert_eq!(report.texts["go away"], report.wrong, "{report}");
        }
    }
}

#[test]
fn an_offer_that_comes_back_is_wrong() {
    let fake = fake(right, Habit::Mirror);
    let report = run(&plan(&fake));
    assert_eq!(report.verdict(), Verdict::Wrong, "{report}");
    assert_eq!(report.faults[Fault::OwnOffer.label()], report.wrong, "{report}");
    assert_eq!(relay(&report).offers.replies, 0, "{report}");
}

#[test]
fn answers_that_do_not_arrive_are_lost_and_not_wrong() {
    let fake =
        fake(|kind, text| if kind == Kind::Answer { vec![] } else { vec![text] }, Habit::None);
    let report = run(&plan(&fake));
    assert_eq!(report.verdict(), Verdict::Verified, "{report}");
    assert!(relay(&report).answers.sent > 0, "{report}");
    assert_eq!(report.lost, relay(&report).answers.sent, "{report}");
    let web = Web { answers: 0.0, ..Web::default() };
    let report = run(&Plan { web, ..plan(&fake) });
    assert_eq!((relay(&report).answers.sent, report.lost), (0, 0), "{report}");
}

#[test]
fn refused_answers_are_lost_and_not_wrong() {
    // In the place of the answer, though to its receiver, who has answered as well.
    let twist: Twist = |kind, text| match kind {
        Kind::Answer => vec![r#"{"failure reason":"too late"}"#.to_owned()],
        _ => vec![text],
    };
    let fake = fake(twist, Habit::None);
    // A reply may overtake the first answer of its connection: the others come after it.
    let report = run(&Plan { num_want: 1, ..plan(&fake) });
    let refused = report.faults[Fault::AnswerRefused.label()];
    assert!(refused > 0 && report.wrong < refused, "{report}");
    assert!(report.texts["too late"] >= refused && report.lost >= refused, "{report}");
}

#[test]
fn replies_to_answers_are_wrong_unless_they_are_expected() {
    let fake = fake(right, Habit::RepliesToAnswers);
    let report = run(&plan(&fake));
    assert!(report.faults.contains_key(Fault::Unasked.label()), "{report}");
    let web = Web { answers_replied: true, ..Web::default() };
    let report = run(&Plan { web, ..plan(&fake) });
    assert_eq!(report.verdict(), Verdict::Verified, "{report}");
    assert!(report.faults.is_empty() && relay(&report).offers.replies > 0, "{report}");
}

#[test]
fn idle_connections_join_and_answer_pings() {
    let fake = fake(right, Habit::None);
    let web = Web { idle: true, ..Web::default() };
    let report = run(&Plan { web, in_flight: 20, peers: 20, ..plan(&fake) });
    assert_eq!(report.verdict(), Verdict::Verified, "{report}");
    assert_eq!((report.total.sent, relay(&report).open), (0, 20), "{report}");
    assert!(report.fill.as_ref().expect("they join").complete, "{report}");
}

#[test]
fn whoever_refuses_the_handshake_is_wrong() {
    let cases: [(&[u8], Fault); 3] = [
        (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", Fault::Status),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n", Fault::Head),
        (b"220 mail.example.org\r\n\r\n", Fault::Head),
    ];
    for (response, fault) in cases {
        let fake = listen(move |mut stream, _| {
            let _ = stream.read(&mut [0; 1_024]).and_then(|_| stream.write_all(response));
        });
        let timeout = Duration::from_millis(50);
        let report = run(&Plan { timeout, ..plan(&fake) });
        assert_eq!(report.verdict(), Verdict::Wrong, "{report}");
        assert_eq!(report.faults[fault.label()], report.wrong, "{report}");
        assert_eq!(report.total.replies, 0, "{report}");
    }
}

#[test]
fn whoever_closes_is_no_wrong_tracker() {
    let fake = listen(|stream, _| {
        if let Ok(mut socket) = tungstenite::accept(stream) {
            let _ = socket.read();
            let _ = socket.close(None);
            while socket.read().is_ok() {}
        }
    });
    let timeout = Duration::from_millis(50);
    let report = run(&Plan { timeout, ..plan(&fake) });
    assert_eq!(report.verdict(), Verdict::Unanswered, "{report}");
    assert!(report.faults.contains_key(Fault::Connection.label()), "{report}");
    assert!(report.texts.keys().all(|text| text.contains("closed by the tracker")), "{report}");
}

#[test]
fn silence_is_lost() {
    let fake = listen(|stream, stop| {
        let socket = tungstenite::accept(stream);
        while !stop.load(Ordering::Relaxed) {
            thread::sleep(LOOK);
        }
        drop(socket);
    });
    let timeout = Duration::from_millis(50);
    let report = run(&Plan { timeout, ..plan(&fake) });
    assert_eq!(report.verdict(), Verdict::Unanswered, "{report}");
    assert!(report.lost > 0 && report.faults.is_empty(), "{report}");
}

#[test]
fn several_torrents_of_a_connection_are_in_different_swarms() {
    let fake = fake(right, Habit::None);
    let web = Web { torrents: 3, ..Web::default() };
    let narrow = Plan { web, peers: 12, swarms: 2, ..plan(&fake) };
    assert!(narrow.check().expect_err("too few").to_string().contains("--torrents"));
    let plan = Plan { swarms: 6, ..narrow };
    plan.check().expect("each run of numbers is shorter than the connections are many");
    let client = <Client as crate::load::Client>::open(&plan, Clock(std::time::Instant::now()), 0);
    let client = client.expect("no socket yet");
    for connection in 0..4 {
        let mut swarms: Vec<u32> =
            (0..3).map(|torrent| client.peer(connection, torrent).swarm).collect();
        swarms.sort_unstable();
        swarms.dedup();
        assert_eq!(swarms.len(), 3);
    }
}
