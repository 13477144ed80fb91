//! `throng load` against the tracker itself, as an operator runs it.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::process::{PATIENCE, eventually, start};

/// Small enough for a slow machine, and no answer is given up there.
const SMALL: &str = "--timeout 20s --duration 1s --quiet";
/// So is this crowd.
const CROWD: &str = "--swarms 50 --peers 500";
/// And this one, of browsers.
const PAGES: &str = "--swarms 5 --connections 40";
/// Requests a second of the open loops.
const RATE: u64 = 300;

fn spawn(transport: &str, target: &str, options: &str) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_throng"));
    command.args(["load", transport, target]).args(options.split_whitespace());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("the program is built")
}

fn load(transport: &str, target: &str, options: &str) -> Output {
    spawn(transport, target, options).wait_with_output().expect("it ends by itself")
}

/// The report of a load that must succeed, with not a single fault.
fn flawless(transport: &str, target: SocketAddr, options: &str) -> Value {
    let what = format!("{transport} {target} {options}");
    let crowd = if transport == "ws" { PAGES } else { CROWD };
    let options = format!("{SMALL} {crowd} --json {options}");
    let output = load(transport, &target.to_string(), &options);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{what}: {text} {said}");
    assert_eq!(said, "", "{what}");
    let report: Value = serde_json::from_str(&text).expect("JSON");
    for none in ["lost", "wrong"] {
        assert_eq!(report[none], 0, "{what}: {report}");
    }
    assert_eq!(report["faults"], serde_json::json!({}), "{what}: {report}");
    assert_eq!(report["total"]["sent"], report["total"]["replies"], "{what}: {report}");
    assert!(number(&report, "/total/latency/max_us") > 0.0, "{what}: {report}");
    report
}

fn number(report: &Value, pointer: &str) -> f64 {
    report.pointer(pointer).and_then(Value::as_f64).unwrap_or_else(|| panic!("{pointer}: {report}"))
}

/// What was due was sent or is known not to have been.
fn open_loop(report: &Value) {
    let all = number(report, "/total/sent") + number(report, "/unsent");
    assert!((all - 300.0).abs() < 0.5, "{report}");
    assert!(number(report, "/total/per_second") <= 1.1 * 300.0, "{report}");
}

#[test]
fn loads_over_udp_find_no_fault() {
    let Some(throng) = start(&[]) else { return };
    let both = |target: SocketAddr| {
        let options = format!("--in-flight 64 --threads 2 --fill --pid {}", throng.pid());
        let closed = flawless("udp", target, &options);
        assert_eq!(closed["fill"]["complete"], true, "{closed}");
        // Ten peers a swarm, and the asker is not told of itself.
        let peers = number(&closed, "/peers_per_reply");
        assert!((1.0..=50.0).contains(&peers), "{closed}");
        assert!(number(&closed, "/total/per_second") > 50.0, "{closed}");
        assert!(number(&closed, "/cpu/seconds") > 0.0, "{closed}");
        let mix = "--mix announce=2,scrape=1,connect=1";
        let open = flawless("udp", target, &format!("--rate {RATE} {mix}"));
        open_loop(&open);
        for action in ["announce", "scrape", "connect"] {
            assert!(number(&open, &format!("/actions/{action}/replies")) > 0.0, "{open}");
        }
        assert!((number(&open, "/swarms_per_scrape") - 5.0).abs() < 1e-9, "{open}");
    };
    thread::scope(|scope| throng.udp.iter().for_each(|at| drop(scope.spawn(|| both(*at)))));
    assert_eq!(throng.metric("drops"), 0);
}

#[test]
fn loads_over_http_find_no_fault() {
    let Some(throng) = start(&[]) else { return };
    let both = |target: SocketAddr| {
        let closed = flawless("http", target, "--connections 8 --fill --mix announce=3,scrape=1");
        assert_eq!(closed["fill"]["complete"], true, "{closed}");
        assert!((1.0..=50.0).contains(&number(&closed, "/peers_per_reply")), "{closed}");
        assert!(number(&closed, "/total/per_second") > 20.0, "{closed}");
        assert!(number(&closed, "/actions/scrape/replies") > 0.0, "{closed}");
        let open = flawless("http", target, &format!("--rate {RATE}"));
        open_loop(&open);
        let close = flawless("http", target, &format!("--close --rate {RATE}"));
        open_loop(&close);
        assert_eq!(close["connections"], close["total"]["sent"], "{close}");
        let closed = flawless("http", target, "--close --connections 4 --duration 500ms");
        assert!(number(&closed, "/connections") > 0.0, "{closed}");
    };
    thread::scope(|scope| throng.http.iter().for_each(|at| drop(scope.spawn(|| both(*at)))));
}

#[test]
fn loads_over_websocket_find_no_fault() {
    let Some(throng) = start(&[]) else { return };
    let both = |target: SocketAddr| {
        let pid = throng.pid();
        let mix = "--mix announce=9,scrape=1";
        // As fast as it goes, more offers come to some than the tracker remembers for them; and
        // they are few and short, or a mailbox is full before a worker gets its turn at the CPU.
        let offers = "--answers 0 --offers 1 --sdp-bytes 700";
        let options = format!("--threads 2 {offers} --pid {pid} {mix}");
        let closed = flawless("ws", target, &options);
        assert_eq!(closed["fill"]["complete"], true, "{closed}");
        assert!(number(&closed, "/relay/offers/replies") > 50.0, "{closed}");
        assert_eq!(closed["relay"]["answers"]["sent"], 0, "{closed}");
        assert!(number(&closed, "/actions/scrape/replies") > 0.0, "{closed}");
        assert_eq!(closed["relay"]["open"], 80, "{closed}");
        let open = flawless("ws", target, &format!("--rate {RATE} --torrents 2 --skew 0"));
        open_loop(&open);
        for way in ["offers", "answers"] {
            assert!(number(&open, &format!("/relay/{way}/replies")) > 50.0, "{open}");
            assert!(number(&open, &format!("/relay/{way}/latency/p50_us")) > 0.0, "{open}");
        }
        assert_eq!(open["relay"]["answers"]["sent"], open["relay"]["offers"]["replies"]);
    };
    // One after the other: the peers of both families are in the same swarms.
    throng.http.iter().for_each(|at| both(*at));
}

#[test]
fn idle_connections_cost_what_is_reported() {
    let Some(throng) = start(&[]) else { return };
    let target = format!("ws://{}", throng.http[0]);
    let options = format!("{SMALL} {PAGES} --json --idle --duration 200ms --pid {}", throng.pid());
    let output = load("ws", &target, &options);
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(output.status.code(), Some(0), "{report}");
    assert_eq!(report["relay"]["open"], 40, "{report}");
    assert_eq!(report["total"]["sent"], 0, "{report}");
    assert!(report["relay"]["bytes_per_connection"].is_number(), "{report}");
    assert!(number(&report, "/relay/resident_bytes") > 1e6, "{report}");
}

#[test]
fn whoever_serves_no_websocket_is_told_from_whoever_says_nothing() {
    let mute = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let target = mute.local_addr().expect("it is bound").to_string();
    let options = format!("{SMALL} {PAGES} --json --timeout 50ms");
    let output = load("ws", &target, &options);
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(output.status.code(), Some(69), "{report}");
    assert!(number(&report, "/lost") > 0.0, "{report}");
    assert_eq!(report["wrong"], 0, "{report}");
    let Some(throng) = start(&["http.websocket=false"]) else { return };
    let output = load("ws", &throng.http[0].to_string(), &options);
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(output.status.code(), Some(76), "{report}");
    assert_eq!(report["faults"]["http_status"], report["wrong"], "{report}");
    assert_eq!(report["total"]["replies"], 0, "{report}");
}

#[test]
fn other_machines_are_refused_without_their_owner() {
    for (transport, target) in [
        ("udp", "192.0.2.1:6969"),
        ("http", "http://192.0.2.1/announce"),
        ("ws", "ws://192.0.2.1/"),
    ] {
        let output = load(transport, target, "");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("--i-own-this-target") && said.contains("attack"), "{said}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn nobody_there_has_an_exit_code_of_its_own() {
    // Bound and never read: nobody answers, and nobody else can take the port.
    let mute = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let target = mute.local_addr().expect("it is bound").to_string();
    let output = load("udp", &target, "--timeout 50ms");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(69), "{said}");
    assert!(said.contains("does not answer"), "{said}");
}

#[test]
fn refusals_are_counted_with_their_text() {
    let list = tempfile::NamedTempFile::new().expect("a file");
    let setting = format!("access.allow={}", list.path().display());
    let Some(throng) = start(&[&setting]) else { return };
    // Nobody can join over a WebSocket: after five times the timeout that is given up.
    let pages = format!("{PAGES} --timeout 300ms");
    for (transport, target, crowd) in [
        ("udp", throng.udp[0], CROWD),
        ("http", throng.http[0], CROWD),
        ("ws", throng.http[0], &pages),
    ] {
        let options = format!("{SMALL} --duration 200ms --json {crowd}");
        let output = load(transport, &target.to_string(), &options);
        assert_eq!(output.status.code(), Some(76), "{transport}");
        let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!(report["faults"]["refused"], report["wrong"], "{report}");
        let texts = report["texts"].as_object().expect("a map");
        assert_eq!(texts.values().collect::<Vec<_>>(), [&report["wrong"]], "{report}");
    }
}

#[test]
fn an_interrupted_load_still_reports() {
    let Some(throng) = start(&[]) else { return };
    let target = throng.udp[0].to_string();
    let mut child = spawn("udp", &target, "--swarms 50 --peers 500 --duration 10m");
    eventually("it asks", PATIENCE, || throng.metric("requests") > 100);
    // Its handler is there before its first request.
    kill_process(Pid::from_child(&child), Signal::INT).expect("it runs");
    eventually("it ends", PATIENCE + Duration::from_secs(2), || {
        child.try_wait().expect("our child").is_some()
    });
    let output = child.wait_with_output().expect("our child");
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains("ended early") && text.contains("announce "), "{text}");
}
