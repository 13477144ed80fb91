//! The load generator against trackers that are made to answer wrongly, late, twice or never.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::thread::JoinHandle;

use super::plan::{Mix, Web};
use super::report::Verdict;
use super::target::Target;
use super::verify::{Fault, Rigour};
use super::*;
use crate::wire::addr::Endpoint;
use crate::wire::udp::{ANNOUNCE_BYTES, REQUEST_HEAD_BYTES, Request};

/// How long one test's load may wait for what must come.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often a fake looks whether it is to end.
const LOOK: Duration = Duration::from_millis(20);

/// Something that listens until it is dropped.
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

/// A UDP tracker that answers connects, and whose further answers are up to `answer`: from the
/// request, and its source, to datagrams.
fn udp_fake(mut answer: impl FnMut(&[u8], SocketAddr) -> Vec<Vec<u8>> + Send + 'static) -> Fake {
    udp_listener(move |socket, request, source| {
        let replies = match connected(request) {
            Some(reply) => vec![reply],
            None => answer(request, source),
        };
        for reply in replies {
            let _ = socket.send_to(&reply, source);
        }
    })
}

/// The answer to a request, if it is a connect.
fn connected(request: &[u8]) -> Option<Vec<u8>> {
    match Request::parse(request).expect("our own requests are right") {
        Request::Connect(id) => Some([&[0; 4][..], &id.0, &[7; 8]].concat()),
        _ => None,
    }
}

/// Whoever is handed the datagrams that come.
fn udp_listener(mut hear: impl FnMut(&UdpSocket, &[u8], SocketAddr) + Send + 'static) -> Fake {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    socket.set_read_timeout(Some(LOOK)).expect("it can wait");
    let address = socket.local_addr().expect("it is bound");
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let thread = thread::spawn(move || {
        let mut buffer = [0; 2_048];
        while !stopped.load(Ordering::Relaxed) {
            if let Ok((len, source)) = socket.recv_from(&mut buffer) {
                hear(&socket, &buffer[..len], source);
            }
        }
    });
    Fake { address, stop, thread: Some(thread) }
}

/// An announce's reply with two peers, or fewer if fewer are wanted.
fn right(request: &[u8]) -> Vec<u8> {
    let numbers = [1_800_u32, 2, 1].map(u32::to_be_bytes);
    let wanted = u32::from_be_bytes(*request[92..].first_chunk().expect("an announce"));
    let peers = &[1; 12][..6 * wanted.min(2) as usize];
    [&[0, 0, 0, 1], &request[12..16], numbers.as_flattened(), peers].concat()
}

fn plan(transport: Transport, address: SocketAddr) -> Plan {
    Plan {
        target: Target::parse(&address.to_string(), transport, false).expect("loopback"),
        threads: 1,
        sources: 2,
        seed: 5,
        swarms: 10,
        peers: 100,
        skew: 0.0,
        seeders: 0.5,
        num_want: 50,
        mix: Mix { connect: 0, announce: 1, scrape: 0 },
        scrape_hashes: 3,
        pace: Pace::Closed,
        in_flight: 4,
        duration: Duration::from_millis(200),
        fill: false,
        timeout: PATIENCE,
        close: false,
        web: Web::default(),
        rigour: Rigour::Strict,
        pid: None,
    }
}

fn run(plan: &Plan) -> Report {
    let report = super::run(plan, &AtomicBool::new(false), &mut |_| ());
    report.expect("the fake listens")
}

fn fault_count(report: &Report, fault: Fault) -> u64 {
    report.faults.get(fault.label()).copied().unwrap_or(0)
}

#[test]
fn right_answers_are_verified_and_counted() {
    let fake = udp_fake(|request, _| vec![right(request)]);
    let plan = Plan { fill: true, threads: 2, ..plan(Transport::Udp, fake.address) };
    let report = run(&plan);
    assert_eq!(report.verdict(), Verdict::Verified, "{report}");
    let fill = report.fill.as_ref().expect("it was asked for");
    assert!(fill.complete && fill.announces == 100, "{report}");
    assert_eq!(report.total.replies, report.total.sent, "{report}");
    assert!(report.faults.is_empty() && report.lost == 0, "{report}");
}

#[test]
fn each_wrong_datagram_is_counted_as_what_it_is() {
    type Answer = fn(&[u8], SocketAddr) -> Vec<Vec<u8>>;
    let cases: [(Answer, Fault); 10] = [
        (|request, _| vec![[b"\0\0\0\x03", &request[12..16], b"go away"].concat()], Fault::Refused),
        (|request, _| vec![right(request)[..10].to_vec()], Fault::Malformed),
        (|request, _| vec![edited(request, 0, &[0, 0, 0, 9])], Fault::Malformed),
        (|request, _| vec![edited(request, 0, &[0, 0, 0, 2])], Fault::Action),
        (|request, _| vec![right(request)[..31].to_vec()], Fault::Length),
        (|request, _| vec![[right(request), vec![9; 6 * 49]].concat()], Fault::TooManyPeers),
        (|request, _| vec![edited(request, 12, &[0; 8])], Fault::Counts),
        (|request, _| vec![edited(request, 8, &[0; 4])], Fault::Interval),
        (
            |request, source| {
                let port = u16::from_be_bytes([request[96], request[97]]);
                let own = Endpoint::new(source.ip(), port);
                vec![edited(request, 26, own.as_bytes())]
            },
            Fault::AskerAmongPeers,
        ),
        (|request, _| vec![edited(request, 20, &[0; 12]), right(request)], Fault::Duplicate),
    ];
    for (answer, fault) in cases {
        let fake = udp_fake(answer);
        let report = run(&plan(Transport::Udp, fake.address));
        assert_eq!(report.verdict(), Verdict::Wrong, "{fault:?}: {report}");
        assert!(fault_count(&report, fault) > 0, "{fault:?}: {report}");
        assert_eq!(report.faults.len(), 1, "{fault:?}: {report}");
        if fault == Fault::Refused {
            assert_eq!(report.texts["go away"], report.wrong);
        }
        if fault != Fault::Duplicate {
            assert_eq!(report.total.replies, 0, "{fault:?}: {report}");
            assert_eq!(report.wrong, report.total.sent, "{fault:?}: {report}");
        }
    }
}

/// A right reply with `bytes` at `at`.
fn edited(request: &[u8], at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut reply = right(request);
    reply[at..at + bytes.len()].copy_from_slice(bytes);
    reply
}

#[test]
fn another_transaction_id_is_no_answer() {
    let fake = udp_fake(|request, _| {
        let id = u32::from_be_bytes([request[12], request[13], request[14], request[15]]);
        // Of a slot that does not exist, and of one that is used the next time.
        [id ^ 0x8000_0000, 0, id.wrapping_add(4)]
            .map(|id| edited(request, 4, &id.to_be_bytes()))
            .to_vec()
    });
    let timeout = Duration::from_millis(100);
    let report = run(&Plan { timeout, ..plan(Transport::Udp, fake.address) });
    assert_eq!(report.verdict(), Verdict::Wrong);
    assert_eq!(report.total.replies, 0, "{report}");
    assert!(fault_count(&report, Fault::TransactionId) > 0, "{report}");
    assert_eq!(report.faults.len(), 1, "{report}");
    assert_eq!(report.lost, report.total.sent, "{report}");
}

#[test]
fn late_answers_are_lost_and_not_wrong() {
    // Each request is answered when the next one comes, which is after it was given up.
    let mut before: Option<Vec<u8>> = None;
    let fake = udp_fake(move |request, _| before.replace(right(request)).into_iter().collect());
    let plan = Plan {
        sources: 1,
        in_flight: 1,
        timeout: Duration::from_millis(50),
        duration: Duration::from_millis(500),
        ..plan(Transport::Udp, fake.address)
    };
    let report = run(&plan);
    assert_eq!(report.verdict(), Verdict::Unanswered, "{report}");
    assert_eq!(report.lost, report.total.sent, "{report}");
    // The last one is never answered.
    assert!((1..report.total.sent).contains(&fault_count(&report, Fault::Late)), "{report}");
    assert_eq!(report.wrong, 0, "{report}");
}

#[test]
fn a_late_answer_to_a_connect_is_nobodys() {
    // The first is answered when the second comes.
    let mut late: Option<(Vec<u8>, SocketAddr)> = None;
    let fake = udp_listener(move |socket, request, source| {
        let reply = connected(request);
        if let (Some(reply), None) = (&reply, &late) {
            late = Some((reply.clone(), source));
            return;
        }
        if let Some((late, source)) = late.as_mut().filter(|(late, _)| !late.is_empty()) {
            let _ = socket.send_to(&std::mem::take(late), *source);
        }
        let _ = socket.send_to(&reply.unwrap_or_else(|| right(request)), source);
    });
    let timeout = Duration::from_millis(200);
    let plan = Plan { sources: 1, timeout, ..plan(Transport::Udp, fake.address) };
    let report = run(&plan);
    assert_eq!(report.verdict(), Verdict::Verified, "{report}");
    assert!(report.faults.is_empty(), "{report}");
}

#[test]
fn whoever_says_nothing_is_silent() {
    let mute = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let address = mute.local_addr().expect("it is bound");
    let plan = Plan { timeout: Duration::from_millis(20), ..plan(Transport::Udp, address) };
    let error = super::run(&plan, &AtomicBool::new(false), &mut |_| ()).expect_err("nobody talks");
    assert!(error.is_silence() && error.to_string().contains("connects"), "{error}");
    drop(mute);
    let error = super::run(&plan, &AtomicBool::new(false), &mut |_| ()).expect_err("nobody there");
    assert!(error.is_silence() && error.to_string().contains("refused"), "{error}");
    let plan = Plan { target: Target { transport: Transport::Http, ..plan.target }, ..plan };
    let error = super::run(&plan, &AtomicBool::new(false), &mut |_| ()).expect_err("nobody there");
    assert!(error.is_silence() && error.to_string().contains("refused"), "{error}");
}

#[test]
fn losses_of_the_filling_are_repeated() {
    let mut count = 0;
    let fake = udp_fake(move |request, _| {
        count += 1;
        if count <= 50 && count % 3 == 0 { vec![] } else { vec![right(request)] }
    });
    let timeout = Duration::from_secs(2);
    let plan = Plan { fill: true, in_flight: 50, timeout, ..plan(Transport::Udp, fake.address) };
    let report = run(&plan);
    let fill = report.fill.as_ref().expect("it was asked for");
    assert!(fill.complete && fill.announces >= 100 && fill.lost > 0, "{report}");
}

#[test]
fn in_an_open_loop_a_pause_shows_in_every_request_that_it_delays() {
    let mut count = 0;
    let fake = udp_fake(move |request, _| {
        count += 1;
        if count == 20 {
            thread::sleep(Duration::from_millis(400));
        }
        vec![right(request)]
    });
    let plan = Plan {
        sources: 1,
        in_flight: 1,
        pace: Pace::Open(100),
        duration: Duration::from_secs(1),
        ..plan(Transport::Udp, fake.address)
    };
    let report = run(&plan);
    assert_eq!(report.verdict(), Verdict::Verified, "{report}");
    assert_eq!(report.total.sent + report.unsent, 100, "{report}");
    let latency = report.total.latency.as_ref().expect("answers came");
    // Forty of a hundred were due in the pause: a tenth of all wait for longer than three quarters
    // of it. In a closed loop one alone would.
    assert!(latency.p90_us > 200_000.0, "{report}");
    let closed = run(&Plan { pace: Pace::Closed, ..plan });
    assert!(closed.total.sent > 100, "{closed}");
}

#[test]
fn what_was_due_and_found_no_room_is_reported() {
    let fake = udp_fake(|_, _| vec![]);
    let plan = Plan {
        pace: Pace::Open(1_000),
        duration: Duration::from_millis(300),
        timeout: Duration::from_secs(1),
        ..plan(Transport::Udp, fake.address)
    };
    let report = run(&plan);
    assert!(report.total.sent <= 4, "{report}");
    assert_eq!(report.lost, report.total.sent, "{report}");
    assert_eq!(report.total.sent + report.unsent, 300, "{report}");
    assert_eq!(report.verdict(), Verdict::Unanswered);
}

#[test]
fn it_ends_when_it_is_told_to() {
    let fake = udp_fake(|request, _| vec![right(request)]);
    let plan = Plan { duration: Duration::from_secs(3_600), ..plan(Transport::Udp, fake.address) };
    let stop = AtomicBool::new(false);
    let mut told = 0;
    let mut tell = |_: &Progress| {
        told += 1;
        stop.store(true, Ordering::Relaxed);
    };
    let report = super::run(&plan, &stop, &mut tell).expect("the fake listens");
    assert!(report.interrupted && report.total.replies > 0 && report.seconds < 600.0, "{report}");
    assert_eq!(told, 1);
}

#[test]
fn connects_and_scrapes_are_asked_as_often_as_their_weights_say() {
    let fake = udp_fake(|request, _| {
        if request.len() == ANNOUNCE_BYTES {
            return vec![right(request)];
        }
        assert_eq!(request.len(), REQUEST_HEAD_BYTES + 3 * 20);
        vec![[&[0, 0, 0, 2], &request[12..16], &[0; 3 * 12]].concat()]
    });
    let mix = Mix { connect: 1, announce: 2, scrape: 1 };
    let pace = Pace::Open(1_000);
    let report = run(&Plan { mix, pace, ..plan(Transport::Udp, fake.address) });
    assert_eq!(report.verdict(), Verdict::Verified, "{report}");
    let sent = |action: &str| report.actions[action].sent;
    assert!(sent("announce") > sent("connect") && sent("announce") > sent("scrape"), "{report}");
    assert!((report.swarms_per_scrape - 3.0).abs() < 1e-9, "{report}");
}

#[test]
fn the_json_has_everything() {
    let fake = udp_fake(|request, _| vec![right(request)]);
    let pid = Some(std::process::id());
    let report = run(&Plan { pid, ..plan(Transport::Udp, fake.address) });
    let json: serde_json::Value = serde_json::from_str(&report.json()).expect("JSON");
    for pointer in [
        "/plan/target",
        "/plan/transport",
        "/plan/in_flight",
        "/plan/largest_swarm",
        "/seconds",
        "/interrupted",
        "/actions/announce/sent",
        "/actions/announce/replies",
        "/actions/announce/per_second",
        "/actions/announce/latency/p50_us",
        "/total/latency/p90_us",
        "/total/latency/p99_us",
        "/total/latency/p999_us",
        "/total/latency/max_us",
        "/lost",
        "/unsent",
        "/wrong",
        "/faults",
        "/texts",
        "/bytes_sent",
        "/bytes_received",
        "/peers_per_reply",
        "/own_cpu_seconds",
        "/cpu/pid",
        "/cpu/seconds",
        "/cpu/replies_per_cpu_second",
    ] {
        assert!(json.pointer(pointer).is_some(), "{pointer}: {json}");
    }
    assert_eq!(json["fill"], serde_json::Value::Null);
    assert_eq!(json["peers_per_reply"], 2.0);
    let latency = &json["total"]["latency"];
    assert!(latency["p50_us"].as_f64() <= latency["max_us"].as_f64(), "{latency}");
}

/// An HTTP tracker that answers each request with what `answer` makes of its number, and closes the
/// connection after it if so told.
fn http_fake(answer: impl Fn() -> (Vec<u8>, bool) + Clone + Send + 'static) -> Fake {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.set_nonblocking(true).expect("it can");
    let address = listener.local_addr().expect("it is bound");
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let thread = thread::spawn(move || {
        let mut served = Vec::new();
        while !stopped.load(Ordering::Relaxed) {
            let Ok((stream, _)) = listener.accept() else {
                thread::sleep(Duration::from_millis(1));
                continue;
            };
            let answer = answer.clone();
            served.push(thread::spawn(move || serve(stream, &answer)));
        }
        // The clients have closed.
        served.into_iter().for_each(|thread| drop(thread.join()));
    });
    Fake { address, stop, thread: Some(thread) }
}

fn serve(mut stream: TcpStream, answer: &impl Fn() -> (Vec<u8>, bool)) {
    stream.set_nonblocking(false).expect("it can");
    stream.set_read_timeout(Some(PATIENCE)).expect("it can wait");
    let (mut buffer, mut len) = ([0; 4_096], 0);
    while let Ok(more @ 1..) = stream.read(&mut buffer[len..]) {
        len += more;
        if !buffer[..len].ends_with(b"\r\n\r\n") {
            continue;
        }
        len = 0;
        let (answer, close) = answer();
        // In two pieces, so that every answer is read in parts.
        let (head, rest) = answer.split_at(answer.len() / 2);
        let _ = stream.write_all(head).and_then(|()| stream.flush());
        thread::sleep(Duration::from_millis(1));
        let _ = stream.write_all(rest);
        if close {
            return;
        }
    }
}

/// A response with that body and those further fields.
fn response(fields: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n{fields}\r\n{body}").into_bytes()
}

const BODY: &str = "d8:completei1e10:incompletei2e8:intervali1800e5:peers6:abcdefe";

#[test]
fn http_answers_are_read_in_any_form_of_connection() {
    let said = "Connection: close\r\n";
    let cases: [(&'static str, bool, bool); 4] =
        [("", false, false), ("", true, false), (said, true, false), (said, true, true)];
    for (fields, closes, close) in cases {
        let fake = http_fake(move || (response(fields, BODY), closes));
        let report = run(&Plan { close, ..plan(Transport::Http, fake.address) });
        assert_eq!(report.verdict(), Verdict::Verified, "{closes} {close}: {report}");
        assert!(report.faults.is_empty(), "{closes} {close}: {report}");
        assert!((report.peers_per_reply - 1.0).abs() < 1e-9, "{report}");
        let each_its_own = report.connections >= report.total.replies;
        assert_eq!(each_its_own, closes, "{report}");
    }
}

#[test]
fn each_wrong_response_is_counted_as_what_it_is() {
    type Answer = fn() -> Vec<u8>;
    let cases: [(Answer, Fault); 8] = [
        (|| response("", "d14:failure reason7:go awaye"), Fault::Refused),
        (|| response("", "de"), Fault::Malformed),
        (|| response("", "<html>"), Fault::Malformed),
        (|| response("", &BODY.replace("i1800e", "i0e")), Fault::Interval),
        (|| response("", &BODY.replace("6:abcdef", "5:abcde")), Fault::Length),
        (|| b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n".to_vec(), Fault::Status),
        (|| b"HTTP/1.1 200 OK\r\n\r\n".to_vec(), Fault::Head),
        (|| vec![b'x'; 10_000], Fault::Head),
    ];
    for (answer, fault) in cases {
        let fake = http_fake(move || (answer(), false));
        let report = run(&plan(Transport::Http, fake.address));
        assert_eq!(report.verdict(), Verdict::Wrong, "{fault:?}: {report}");
        assert_eq!(report.total.replies, 0, "{fault:?}: {report}");
        assert_eq!(fault_count(&report, fault), report.total.sent, "{fault:?}: {report}");
        match fault {
            Fault::Refused => assert_eq!(report.texts["go away"], report.wrong),
            Fault::Status => assert_eq!(report.texts["HTTP/1.1 503 Busy"], report.wrong),
            _ => assert!(report.texts.is_empty(), "{report}"),
        }
    }
}

#[test]
fn bytes_after_an_answer_are_wrong() {
    let fake = http_fake(|| ([response("", BODY), b"more".to_vec()].concat(), false));
    let report = run(&plan(Transport::Http, fake.address));
    assert_eq!(report.verdict(), Verdict::Wrong, "{report}");
    assert!(fault_count(&report, Fault::Length) > 0, "{report}");
}

#[test]
fn a_connection_closed_before_its_answer_is_no_wrong_answer() {
    let fake = http_fake(|| (b"HTTP/1.1 200".to_vec(), true));
    let report = run(&plan(Transport::Http, fake.address));
    assert_eq!(report.verdict(), Verdict::Unanswered, "{report}");
    assert_eq!(fault_count(&report, Fault::Connection), report.total.sent, "{report}");
    assert_eq!(report.lost, 0, "{report}");
    assert!(report.texts.keys().all(|text| text.contains("closed") || text.contains("reset")));
}

#[test]
fn over_http_too_silence_is_lost() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let timeout = Duration::from_millis(100);
    let report = run(&Plan { timeout, ..plan(Transport::Http, address) });
    assert_eq!(report.verdict(), Verdict::Unanswered, "{report}");
    assert_eq!(report.lost, report.total.sent, "{report}");
}
