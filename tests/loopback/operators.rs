//! What operators change while a tracker is at work, and who may.

use std::fmt::Display;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;

use rustix::process::Signal;
use serde_json::Value as Json;
use throng::rng::Rng;
use throng::wire::announce::Announce;
use throng::wire::id::{InfoHash, PeerId};

use super::client::{Http, Udp, announce_target, leecher, random_hash, seeder, udp_socket};
use super::process::{PATIENCE, Start, Throng, eventually, start};

const TOKEN: &str = "a-token.of_32~characters+0123456=";

/// Where a request goes in.
enum Way<'a> {
    Tcp(&'a Throng),
    Unix(&'a Path),
}

/// Asks for something; the status and what the answer says. Fields end in CRLF.
fn ask(way: &Way<'_>, request: &str, fields: &str, body: &str) -> (u16, Json) {
    let text = format!(
        "{request} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{fields}\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut answer = String::new();
    match way {
        Way::Tcp(throng) => {
            let mut stream = TcpStream::connect(throng.admin).expect("it listens");
            stream.set_read_timeout(Some(PATIENCE)).expect("an option");
            stream.write_all(text.as_bytes()).expect("sent");
            stream.read_to_string(&mut answer).expect("an answer and its end");
        }
        Way::Unix(path) => {
            let mut stream = UnixStream::connect(path).expect("it listens");
            stream.set_read_timeout(Some(PATIENCE)).expect("an option");
            stream.write_all(text.as_bytes()).expect("sent");
            stream.read_to_string(&mut answer).expect("an answer and its end");
        }
    }
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let status = head.get(9..12).and_then(|code| code.parse().ok()).expect("a status");
    (status, serde_json::from_str(body).unwrap_or_else(|_| Json::from(body)))
}

/// Which of the hashes are served.
fn served(throng: &Throng, hashes: &[InfoHash]) -> Vec<bool> {
    let mut connection = Http::connect(throng.http[0]);
    let target = |hash: &InfoHash| announce_target(&leecher(*hash, 24_000));
    hashes.iter().map(|hash| connection.get(&target(hash)).failure().is_none()).collect()
}

fn write_list<T: Display>(path: &Path, entries: &[T]) {
    let text: String = entries.iter().map(|entry| format!("{entry}\n")).collect();
    fs::write(path, text).expect("a folder of our own");
}

#[test]
fn lists_changed_by_the_api_the_file_and_signals_agree() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (allow, deny) = (folder.path().join("allow"), folder.path().join("deny"));
    let socket = folder.path().join("admin.sock");
    let mut rng = Rng::new(43);
    let hashes = [0; 4].map(|_| random_hash(&mut rng));
    let name = |at: usize| format!("{:?}", hashes[at]);
    write_list(&allow, &[name(0), name(1)]);
    write_list(&deny, &[name(1)]);
    let settings = [
        format!("access.allow={}", allow.display()),
        format!("access.deny={}", deny.display()),
        format!("admin.listen=127.0.0.1:0,unix:{}", socket.display()),
    ];
    let settings = settings.each_ref().map(String::as_str);
    let Some(throng) = start(&[&["workers=3"], &settings[..]].concat()) else { return };
    let way = Way::Unix(&socket);
    let in_force = |expected: [bool; 4]| {
        eventually("the lists are in force", PATIENCE, || served(&throng, &hashes) == expected);
        for (list, path) in [("allow", &allow), ("deny", &deny)] {
            let text = fs::read_to_string(path).expect("it is there");
            for at in 0..4 {
                let query = format!("GET /api/v1/lists/{list}?has={}", name(at));
                let (status, told) = ask(&way, &query, "", "");
                let listed = text.contains(&name(at));
                assert_eq!((status, &told["has"]), (200, &Json::from(listed)), "{query}");
            }
        }
    };
    in_force([true, false, false, false]);
    let change = |request: &str, body: &str| {
        let (status, told) = ask(&way, request, "", body);
        assert_eq!(status, 200, "{request}: {told}");
        told["entries"].as_u64().expect("a number")
    };
    assert_eq!(change("POST /api/v1/lists/allow/add", &format!("{}\n{}", name(2), name(0))), 3);
    in_force([true, false, true, false]);
    assert_eq!(change("POST /api/v1/lists/deny/remove", &name(1)), 0);
    in_force([true, true, true, false]);
    assert_eq!(change("PUT /api/v1/lists/allow", &format!("# all\n{}", name(3))), 1);
    in_force([false, false, false, true]);
    write_list(&allow, &[name(0), name(3)]);
    assert_eq!(change("POST /api/v1/lists/allow/reload", ""), 2);
    in_force([true, false, false, true]);
    write_list(&deny, &[name(3)]);
    throng.signal(Signal::HUP);
    in_force([true, false, false, false]);
    write_list(&allow, &[name(0), name(2)]);
    throng.signal(Signal::USR1);
    in_force([true, false, true, false]);

    // What is wrong changes nothing, and is said.
    for (request, body, status, text) in [
        ("POST /api/v1/lists/allow/add", "12\n", 400, "what was sent: line 1: an info_hash is 40"),
        ("PUT /api/v1/lists/deny", "\n\nx", 400, "what was sent: line 3: an info_hash is 40"),
        ("POST /api/v1/lists/ban/add", "10.0.0.0/8", 404, "access.ban names no file"),
        ("POST /api/v1/lists/grey/add", "", 404, "the lists are allow, deny and ban"),
        ("GET /api/v1/lists/allow?has=12", "", 400, "an info_hash is 40 hexadecimal digits"),
        ("DELETE /api/v1/lists/allow", "", 405, "not with this method"),
        ("GET /api/v1/list", "", 404, "there is nothing of that name"),
    ] {
        let (found, told) = ask(&way, request, "", body);
        assert_eq!(found, status, "{request}: {told}");
        assert!(told["error"].as_str().is_some_and(|error| error.contains(text)), "{told}");
    }
    in_force([true, false, true, false]);
    let (_, all) = ask(&way, "GET /api/v1/lists", "", "");
    let lists = all["lists"].as_array().expect("a list");
    let names: Vec<_> = lists.iter().map(|list| &list["list"]).collect();
    assert_eq!(names, ["allow", "deny"]);
    let files = fs::read_dir(folder.path()).expect("ours").count();
    assert_eq!(files, 3, "nothing else is left in the folder");
}

#[test]
fn a_list_of_networks_bans_at_once() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (ban, socket) = (folder.path().join("ban"), folder.path().join("admin.sock"));
    write_list(&ban, &["192.0.2.0/24"]);
    let settings = [
        format!("access.ban={}", ban.display()),
        format!("admin.listen=127.0.0.1:0,unix:{}", socket.display()),
    ];
    let settings = settings.each_ref().map(String::as_str);
    let Some(throng) = start(&settings) else { return };
    let hash = random_hash(&mut Rng::new(44));
    let client = Udp::connect(throng.udp[0]);
    client.announce(&leecher(hash, 24_001));
    let mut open = Http::connect(throng.http[0]);
    assert_eq!(open.get("/scrape").status, 200);
    let way = Way::Unix(&socket);
    let banned = "127.0.0.0/8";
    assert_eq!(ask(&way, "POST /api/v1/lists/ban/add", "", banned).0, 200);
    let target = announce_target(&leecher(hash, 24_000));
    eventually("the ban is in force", PATIENCE, || {
        open.get(&target).failure().is_some_and(|text| text.contains("banned"))
    });
    // No other connection is taken, and no datagram heard, by any worker.
    eventually("it is counted", PATIENCE, || {
        drop(TcpStream::connect(throng.http[0]));
        udp_socket(throng.udp[0]).send(b"anything of more than sixteen bytes").expect("sent");
        throng.metric_where("drops", "banned") > 8 && throng.metric("http_connections_banned") > 8
    });
    // It is reset at once, be it before or after we are told that it was made.
    let heard = TcpStream::connect(throng.http[0]).and_then(|mut stream| {
        stream.set_read_timeout(Some(PATIENCE)).expect("an option");
        stream.read(&mut [0])
    });
    assert_eq!(heard.map_err(|error| error.kind()), Err(ErrorKind::ConnectionReset));
    assert_eq!(ask(&way, "POST /api/v1/lists/ban/remove", "", banned).0, 200);
    eventually("the ban is lifted", PATIENCE, || open.get(&target).failure().is_none());
    assert_eq!(client.announce(&leecher(hash, 24_001)).leechers, 2);
}

#[test]
fn a_swarm_is_looked_into_and_forgotten() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("token");
    fs::write(&file, format!("{TOKEN}\n# the rest is no secret\n")).expect("ours");
    let setting = format!("admin.token_file={}", file.display());
    let Some(throng) = start(&["workers=3", &setting]) else { return };
    let mut rng = Rng::new(45);
    let (way, bearer) = (Way::Tcp(&throng), format!("Authorization: Bearer {TOKEN}\r\n"));
    for hash in [0; 6].map(|_| random_hash(&mut rng)) {
        let client = Udp::connect(throng.udp[0]);
        client.announce(&leecher(hash, 24_010));
        client.announce(&seeder(hash, 24_011));
        let swarm = format!("/api/v1/swarms/{hash:?}");
        let peers = format!("GET {swarm}/peers");
        let (status, told) = ask(&way, &peers, &bearer, "");
        assert_eq!((status, &told["total"]), (200, &2.into()), "{told}");
        let listed = told["peers"].as_array().expect("a list");
        let address = |peer: &Json| peer["address"].as_str().map(str::to_owned);
        let mut addresses: Vec<_> = listed.iter().filter_map(address).collect();
        addresses.sort_unstable();
        assert_eq!(addresses, ["127.0.0.1:24010", "127.0.0.1:24011"]);
        let one = ask(&way, &format!("{peers}?from=1&limit=1"), &bearer, "").1;
        assert_eq!(one["peers"], Json::from(vec![listed[1].clone()]));
        for (request, fields, status) in [
            (peers.clone(), "", 401),
            (format!("DELETE {swarm}"), "Authorization: Bearer wrong\r\n", 401),
            (format!("DELETE {swarm}"), &bearer, 200),
            (format!("DELETE {swarm}"), &bearer, 404),
            (peers.clone(), &bearer, 404),
        ] {
            let (found, told) = ask(&way, &request, fields, "");
            assert_eq!(found, status, "{request}: {told}");
            assert!(status != 200 || told["peers"] == 2, "{told}");
        }
        assert_eq!(client.announce(&leecher(hash, 24_012)).leechers, 1);
    }
}

#[test]
fn only_a_token_or_the_socket_opens_what_is_not_for_everybody() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let socket = folder.path().join("admin.sock");
    // What a tracker that was killed leaves behind.
    drop(std::os::unix::net::UnixListener::bind(&socket).expect("a folder of our own"));
    let listen = format!("admin.listen=127.0.0.1:0,unix:{}", socket.display());
    let Some(mut throng) = start(&[&listen]) else { return };
    let mode = fs::metadata(&socket).expect("it listens").permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    let change = "PUT /api/v1/log";
    let (status, told) = ask(&Way::Tcp(&throng), change, "", "debug");
    assert_eq!(status, 403, "{told}");
    assert_eq!(ask(&Way::Tcp(&throng), "GET /api/v1/log", "", "").1["level"], "info");
    let page = "Origin: https://example.org\r\n";
    assert_eq!(ask(&Way::Unix(&socket), change, page, "debug").0, 403);
    let (status, told) = ask(&Way::Unix(&socket), change, "", "x=loud");
    assert_eq!(status, 400, "{told}");
    assert_eq!(ask(&Way::Unix(&socket), change, "", "debug\n").1["level"], "debug");
    assert_eq!(ask(&Way::Tcp(&throng), "GET /api/v1/log", "", "").1["level"], "debug");
    for page in ["/health", "/ready"] {
        assert_eq!(ask(&Way::Tcp(&throng), &format!("GET {page}"), "", "").0, 200);
    }
    // A second one does not take the socket of one that runs.
    let setting = format!("admin.listen=unix:{}", socket.display());
    let mut second = Start { settings: &[&setting], ..Start::default() }.spawn();
    assert_eq!(second.wait(PATIENCE).code(), Some(98));
    assert_eq!(ask(&Way::Unix(&socket), "GET /health", "", "").0, 200);
    throng.signal(Signal::TERM);
    assert!(throng.wait(PATIENCE).success());
    assert!(!socket.exists(), "it takes its socket away");
}

#[test]
fn others_are_not_let_in_without_a_token() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("token");
    fs::write(&file, "short\n").expect("ours");
    let setting = format!("admin.token_file={}", file.display());
    for settings in [
        vec!["admin.listen=0.0.0.0:0"],
        vec!["admin.token_file=/nonexistent/token"],
        vec![setting.as_str()],
    ] {
        let mut throng = Start { settings: &settings, ..Start::default() }.spawn();
        assert_eq!(throng.wait(PATIENCE).code(), Some(78), "{settings:?}");
        assert_eq!(throng.logged("token"), 1, "{:?}", throng.log());
        assert_eq!(throng.logged("short"), 0);
    }
    assert_eq!(problem(&setting, "admin token").0, 1);
}

/// The exit code of a check with that setting, which finds one problem of that title, and what it
/// says of it.
fn problem(setting: &str, title: &str) -> (i32, String) {
    let program = env!("CARGO_BIN_EXE_throng");
    let check = Command::new(program).args(["check", "--json", "--set", setting]).output();
    let check = check.expect("the program is built");
    let report: Json = serde_json::from_slice(&check.stdout).expect("JSON");
    assert_eq!(report["worst"], "problem", "{report}");
    let findings = report["findings"].as_array().expect("a list");
    let is_it = |finding: &&Json| finding["title"] == title && finding["level"] == "problem";
    let all: Vec<_> = findings.iter().filter(is_it).collect();
    assert_eq!(all.len(), 1, "{report}");
    let detail = all[0]["detail"].as_str().expect("a text").to_owned();
    (check.status.code().expect("no signal"), detail)
}

#[test]
fn programs_that_check_are_told_of_a_configuration_that_is_none() {
    let (code, detail) = problem("udp.lisen=127.0.0.1:0", "configuration");
    assert_eq!(code, 78);
    assert!(detail.contains("udp.lisen") && detail.contains("`udp.listen`"), "{detail}");
}

#[test]
fn what_peers_send_is_never_a_line_of_the_log_nor_a_series() {
    const MARKER: &str = "2026-01-01T00:00:00Z ERROR forged";
    let Some(throng) = start(&["workers=2", "log.level=trace"]) else { return };
    // Names and labels, without their values.
    let series = || -> Vec<String> {
        let text = throng.admin("/metrics");
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines.filter_map(|line| Some(line.rsplit_once(' ')?.0.to_owned())).collect()
    };
    // After the first second everything is there that will ever be.
    eventually("a sample has been taken", PATIENCE, || {
        series().iter().any(|name| name == "throng_hottest_worker_ratio")
    });
    let before = series();
    let mut rng = Rng::new(47);
    let escaped: String =
        format!("\n{MARKER}\u{1B}[31m").bytes().map(|byte| format!("%{byte:02x}")).collect();
    for n in 0..2_000_u16 {
        // Clients that nobody knows, by random bytes, by a new version each, and by a line.
        let name = match n % 3 {
            0 => rng.next_u64().to_be_bytes(),
            1 => *format!("-XX{n:04}-").as_bytes().first_chunk().expect("eight bytes"),
            _ => *b"\nforged\x1B",
        };
        let peer_id = PeerId(std::array::from_fn(|at| name[at % 8]));
        let announce = Announce { peer_id, ..leecher(random_hash(&mut rng), 26_000 + n) };
        // Answered, so that no more are open at a time than an address may have.
        Http::connect(throng.http[0]).announce(&announce);
    }
    for request in [
        format!("GET /announce?info_hash={escaped}&peer_id={escaped}&port=1 HTTP/1.1\r\n\r\n"),
        format!("GET /{escaped} HTTP/1.1\r\n{MARKER}: {MARKER}\r\n\r\n"),
        format!("{MARKER}\r\n\r\n"),
        format!("GET /{} HTTP/1.1\r\n\r\n", MARKER.repeat(1 << 15)),
        format!("GET / HTTP/1.1\r\nUpgrade: {MARKER}\r\nConnection: Upgrade\r\n\r\n"),
    ] {
        let mut stream = TcpStream::connect(throng.http[0]).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("an option");
        // It may be closed before the end of what is too long.
        let _ = stream.write_all(request.as_bytes());
        let _ = stream.read(&mut [0; 512]);
        let socket = udp_socket(throng.udp[0]);
        socket.send(&request.as_bytes()[..request.len().min(1_200)]).expect("sent");
    }
    eventually("all has been looked at", PATIENCE, || throng.metric("refusals") >= 4);
    let forged = |line: &&String| line.contains("forged") || line.contains('\u{1B}');
    assert_eq!(throng.log().iter().find(forged), None);
    assert_eq!(series(), before);
}
