//! The process as its operator meets it: start, stop, restart, signals, pages.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::process::Signal;
use throng::rng::Rng;
use throng::wire::announce::{Announce, Event};
use throng::wire::id::{InfoHash, PeerId};

use super::client::{Http, Udp, announce_target, leecher, random_hash, seeder, udp_socket};
use super::process::{PATIENCE, Start, Throng, eventually, start};

/// How long an end may take.
const END: Duration = Duration::from_secs(5);

#[test]
fn signals_end_it_in_order_with_connections_open() {
    for (signal, name) in [(Signal::TERM, "SIGTERM"), (Signal::INT, "SIGINT")] {
        let Some(mut throng) = start(&["workers=3"]) else { return };
        let mut connections: Vec<Http> =
            (0..24).map(|at| Http::connect(throng.http[at % 2])).collect();
        for (at, connection) in connections.iter_mut().enumerate() {
            match at % 3 {
                0 => connection.send(b"GET /announce?info_hash="),
                1 => assert_eq!(connection.get("/scrape").status, 200),
                _ => {}
            }
        }
        let mut admin = TcpStream::connect(throng.admin).expect("it listens");
        admin.write_all(b"GET /metrics HTTP/1.1\r\n").expect("sent");
        throng.signal(signal);
        assert_eq!(throng.wait(END).code(), Some(0), "{name}");
        assert_eq!(throng.logged(&format!("{name}: stopping")), 1);
        for connection in &mut connections {
            connection.assert_ended();
        }
    }
}

/// Starts a second child beside one that serves; returns its exit code and its log.
fn second(settings: &[&str]) -> (Option<i32>, String) {
    let mut second = Start { settings, ..Start::default() }.spawn();
    let code = second.wait(PATIENCE).code();
    (code, second.log().join("\n"))
}

#[test]
fn a_second_instance_is_refused_and_the_address_named() {
    let Some(throng) = start(&["workers=2"]) else { return };
    let all = [
        ("udp.listen", throng.udp[0]),
        ("udp.listen", throng.udp[1]),
        ("http.listen", throng.http[0]),
        ("http.listen", throng.http[1]),
        ("admin.listen", throng.admin),
    ];
    let refused = |(key, address): (&str, SocketAddr)| {
        let (code, log) = second(&[&format!("{key}={address}")]);
        assert_eq!(code, Some(98), "{key}: {log}");
        assert!(log.contains(&format!("{address}: Address already in use")), "{key}: {log}");
    };
    // At once, because each waits a second for the address.
    std::thread::scope(|scope| all.iter().for_each(|one| drop(scope.spawn(|| refused(*one)))));
    // The first one has not noticed.
    let hash = random_hash(&mut Rng::new(40));
    assert_eq!(Udp::connect(throng.udp[0]).announce(&leecher(hash, 20_011)).leechers, 1);
    assert_eq!(Http::connect(throng.http[1]).announce(&leecher(hash, 20_012)).leechers, 2);
}

#[test]
fn an_unknown_key_is_refused_and_the_nearest_named() {
    let (code, log) = second(&["udp.lisen=127.0.0.1:0"]);
    assert_eq!(code, Some(78), "{log}");
    assert!(log.contains("udp.lisen") && log.contains("`udp.listen`"), "{log}");
}

#[test]
fn public_statistics_are_in_the_shape_that_monitors_read() {
    let Some(throng) = start(&["workers=2"]) else { return };
    let read = |connection: &mut Http| {
        let response = connection.get("/stats.json");
        assert_eq!(response.field("content-type"), Some("application/json"), "{}", response.head);
        serde_json::from_slice::<serde_json::Value>(&response.body).expect("JSON")
    };
    let mut connection = Http::connect(throng.http[0]);
    assert_eq!(read(&mut connection)["peersAll"], 0, "from the first request on");
    let hash = random_hash(&mut Rng::new(42));
    Udp::connect(throng.udp[0]).announce(&leecher(hash, 27_600));
    connection.announce(&seeder(hash, 27_601));
    eventually("both are counted", PATIENCE, || read(&mut connection)["peersAll"] == 2);
    let expected = serde_json::json!({
        "torrents": 1, "activeTorrents": 1, "peersAll": 2, "peersSeederOnly": 1,
        "peersLeecherOnly": 1, "peersSeederAndLeecher": 0, "peersIPv4": 2, "peersIPv6": 0,
        "clients": {"unknown": {"-XX0001-": 2}},
    });
    eventually("their clients are known", PATIENCE, || read(&mut connection) == expected);
    let json = |connection: &mut Http, accept: &str| {
        let request = format!("GET /stats HTTP/1.1\r\nHost: t\r\nAccept: {accept}\r\n\r\n");
        connection.send(request.as_bytes());
        connection.receive().field("content-type") == Some("application/json")
    };
    assert!(json(&mut connection, "application/json"));
    assert!(!json(&mut connection, "*/*"));
    // A page has the same ends as any other answer.
    connection.send(b"HEAD /stats HTTP/1.1\r\nHost: t\r\n\r\n");
    let head = connection.try_receive(true).expect("a head");
    assert_eq!(head.status, 200);
    assert!(head.field("content-type").is_some_and(|kind| kind.starts_with("text/html")));
    let mut last = Http::connect(throng.http[0]);
    last.send(b"GET /stats.json HTTP/1.1\r\nConnection: close\r\n\r\n");
    assert_eq!(last.receive().field("connection"), Some("close"));
    last.assert_closed("a page with close");
    let page = connection.get("/stats");
    assert_eq!((page.status, page.field("connection")), (200, Some("keep-alive")));
    assert!(
        page.body.starts_with(b"<h1>1 torrents (1 active)</h1>"),
        "{}",
        page.body.escape_ascii()
    );
    let Some(silent) = start(&["http.stats=false"]) else { return };
    for path in ["/stats", "/stats.json"] {
        assert_eq!(Http::connect(silent.http[0]).get(path).status, 404, "{path}");
    }
}

#[test]
fn no_name_of_a_client_is_markup() {
    const NAMES: [&[u8; 20]; 5] = [
        b"<script>alert(1)////",
        b"-<b0001-<script>////",
        b"-XX<b>1-<script>////",
        b"\n\x1B[31m<script>//////",
        b"A<b>----<script>////",
    ];
    let Some(throng) = start(&["workers=2"]) else { return };
    let hash = random_hash(&mut Rng::new(43));
    let mut connection = Http::connect(throng.http[0]);
    for (name, port) in NAMES.into_iter().zip(27_700..) {
        connection.announce(&Announce { peer_id: PeerId(*name), ..leecher(hash, port) });
    }
    let mut page = |path: &str| {
        let response = connection.get(path);
        assert_eq!(response.field("x-content-type-options"), Some("nosniff"), "{path}");
        String::from_utf8(response.body).expect("text")
    };
    let all_known = r#""clients":{"unknown":{"other":5}}"#;
    eventually("all are known", PATIENCE, || page("/stats.json").contains(all_known));
    let (html, json) = (page("/stats"), page("/stats.json"));
    for sign in ["script", "<b>", "<b0", "\u{1B}", "[31m"] {
        assert!(!html.contains(sign) && !json.contains(sign), "{sign}: {html}{json}");
    }
}

#[test]
fn pages_agree_with_what_was_announced() {
    let Some(throng) = start(&["workers=3"]) else { return };
    let mut rng = Rng::new(41);
    let clients: Vec<Udp> = (0..8).map(|at| Udp::connect(throng.udp[at % 2])).collect();
    for round in 0..10 {
        for (client, port) in clients.iter().zip(27_000..) {
            let hash = random_hash(&mut rng);
            client.announce(&leecher(hash, port));
            match round {
                0 => drop(
                    client.announce(&Announce { event: Event::Stopped, ..leecher(hash, port) }),
                ),
                1 => drop(
                    client.announce(&Announce { event: Event::Completed, ..seeder(hash, port) }),
                ),
                2..5 => drop(client.announce(&seeder(hash, port + 100))),
                _ => {}
            }
        }
    }
    Http::connect(throng.http[1]).announce(&seeder(random_hash(&mut rng), 27_500));
    Http::connect(throng.http[0]).get("/scrape");
    udp_socket(throng.udp[0]).send(b"garbage").expect("sent");
    let stats = || {
        let text = throng.admin("/stats.json");
        serde_json::from_str::<serde_json::Value>(&text).expect("JSON")
    };
    eventually("the counters are published", PATIENCE, || {
        // An announce over HTTP is counted by the worker that it came to and by the swarm's owner.
        let stats = stats();
        [
            ("drops", 1),
            ("http_connections", 0),
            ("replies", 129),
            ("requests", 130),
            ("refusals", 1),
        ]
        .into_iter()
        .all(|(name, count)| stats[name] == count)
    });
    let stats = stats();
    // 8 in rounds 1 to 4 of either family; the last leecher of round 0 has left.
    assert_eq!(stats["seeders"]["ipv4"], 4 * 4, "{stats}");
    assert_eq!(stats["seeders"]["ipv6"], 4 * 4 + 1, "{stats}");
    assert_eq!(stats["leechers"]["ipv4"], 8 * 4, "{stats}");
    assert_eq!(stats["leechers"]["ipv6"], 8 * 4, "{stats}");
    assert_eq!(stats["completed"], 8, "{stats}");
    assert_eq!(stats["workers"], 3, "{stats}");
    assert!(stats["swarms"].as_u64().expect("a number") > 9 * 8, "{stats}");

    let metrics = throng.admin("/metrics");
    assert!(metrics.contains("\n# TYPE throng_requests_total counter\n"));
    for worker in 0..3 {
        let label = format!("worker=\"{worker}\"");
        let series =
            metrics.lines().filter(|line| line.starts_with("throng_") && line.contains(&label));
        assert!(series.count() > 40, "{label}");
    }
    assert!(!metrics.contains("worker=\"3\""));
    assert_eq!(throng.metric("seeders"), 33);
}

fn write_list(path: &Path, hashes: &[InfoHash]) {
    let lines: String = hashes.iter().map(|hash| format!("{hash:?}\n")).collect();
    std::fs::write(path, format!("# served here\n{lines}")).expect("a folder of our own");
}

/// Whether `hash` is served on all of several connections, or on none of them; `None` in between.
fn is_served(throng: &Throng, hash: InfoHash) -> Option<bool> {
    let target = announce_target(&leecher(hash, 20_013));
    let mut served = (0..12).map(|at| {
        let failure = Http::connect(throng.http[at % 2]).get(&target).failure();
        failure.is_none_or(|reason| {
            assert!(reason.contains("not allowed"), "{reason}");
            false
        })
    });
    let first = served.next()?;
    served.all(|other| other == first).then_some(first)
}

#[test]
fn the_access_list_is_read_again_on_sighup_and_a_bad_one_changes_nothing() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("list");
    let mut rng = Rng::new(42);
    let [old, new] = [random_hash(&mut rng), random_hash(&mut rng)];
    write_list(&path, &[old]);
    let list = format!("access.allow={}", path.display());
    let Some(throng) = start(&["workers=3", &list]) else { return };
    let served = || [is_served(&throng, old), is_served(&throng, new)];
    assert_eq!(served(), [Some(true), Some(false)]);

    write_list(&path, &[new]);
    throng.signal(Signal::HUP);
    eventually("the new list is in force", PATIENCE, || served() == [Some(false), Some(true)]);

    std::fs::write(&path, format!("{old:?}\nnot a hash\n")).expect("a folder of our own");
    throng.signal(Signal::HUP);
    eventually("the bad list is reported", PATIENCE, || {
        throng.logged("the old access.allow stays in force") == 1
    });
    assert_eq!(served(), [Some(false), Some(true)]);
    assert_eq!(throng.logged("line 2"), 1, "{:#?}", throng.log());

    std::fs::remove_file(&path).expect("it is there");
    throng.signal(Signal::USR1);
    eventually("the missing list is reported", PATIENCE, || {
        throng.logged("the old access.allow stays in force") == 2
    });
    assert_eq!(served(), [Some(false), Some(true)]);

    write_list(&path, &[old, new]);
    throng.signal(Signal::USR1);
    eventually("both are in force", PATIENCE, || served() == [Some(true), Some(true)]);
}

#[test]
fn connection_ids_and_addresses_survive_a_restart() {
    for signal in [Signal::TERM, Signal::KILL] {
        let Some(mut throng) = start(&["workers=2"]) else { return };
        let mut clients: Vec<Udp> = throng.udp.iter().copied().map(Udp::connect).collect();
        let idle = Http::connect(throng.http[0]);
        let state_dir = throng.state_dir();
        let join = |list: &[SocketAddr]| format!("{},{}", list[0], list[1]);
        let udp = format!("udp.listen={}", join(&throng.udp));
        let http = format!("http.listen={}", join(&throng.http));
        let admin = format!("admin.listen={}", throng.admin);
        throng.signal(signal);
        throng.wait(END);

        // More workers, the same key.
        let settings = ["workers=3", &udp, &http, &admin];
        let again =
            Start { settings: &settings, state_dir: Some(state_dir), ..Start::default() }.serve();
        let again = again.expect("the first could start");
        assert_eq!(again.udp, throng.udp);
        let hash = random_hash(&mut Rng::new(43));
        for (client, leechers) in clients.iter_mut().zip(1..) {
            assert_eq!(client.announce(&leecher(hash, 20_014)).leechers, leechers);
            // The id proves the address, whatever the port: a NAT may have chosen another.
            client.socket = udp_socket(client.socket.peer_addr().expect("connected"));
            assert_eq!(client.announce(&leecher(hash, 20_014)).leechers, leechers);
        }
        drop(idle);
    }
}

#[test]
fn trackers_with_the_same_key_accept_each_others_ids() {
    let key = "udp.connection_id_key=000102030405060708090a0b0c0d0e0f";
    let Some(first) = start(&["workers=2", key]) else { return };
    let Some(second) = start(&["workers=1", key]) else { return };
    let client = Udp { id: Udp::connect(first.udp[0]).id, ..Udp::connect(second.udp[0]) };
    assert_eq!(client.announce(&leecher(random_hash(&mut Rng::new(45)), 20_017)).leechers, 1);
    // By the wall clock, so that a restart of one of them changes nothing: the first byte says.
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let [.., epoch] = (wall / 64).to_be_bytes();
    assert!(epoch.wrapping_sub(client.id.0[0]) <= 1, "{epoch} and {:?}", client.id);
    assert_eq!(second.metric_where("drops", "reason=\"bad_connection_id\""), 0);
}

#[test]
fn another_state_directory_means_another_key() {
    let Some(first) = start(&["workers=2"]) else { return };
    let Some(second) = start(&["workers=2"]) else { return };
    let stranger = Udp { id: Udp::connect(first.udp[0]).id, ..Udp::connect(second.udp[0]) };
    stranger.send_announce(1, &leecher(random_hash(&mut Rng::new(44)), 20_015));
    eventually("it is dropped", PATIENCE, || {
        second.metric_where("drops", "reason=\"bad_connection_id\"") == 1
    });
}
