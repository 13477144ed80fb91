//! What operators see of a tracker at work: swarms, samples, findings, the dashboard.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value as Json;
use throng::rng::Rng;

use super::client::{Http, Udp, leecher, random_hash, seeder};
use super::process::{PATIENCE, Throng, eventually, start};

/// The JSON of an admin page.
fn json(throng: &Throng, path: &str) -> Json {
    serde_json::from_str(&throng.admin(path)).expect("JSON")
}

/// A request as it is written here; the head and the body of its answer.
fn ask(throng: &Throng, request: &str) -> (String, String) {
    let mut stream = TcpStream::connect(throng.admin).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("an option");
    stream.write_all(request.as_bytes()).expect("sent");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer and its end");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    (head.to_owned(), body.to_owned())
}

#[test]
fn a_swarm_is_found_by_its_name_and_among_the_largest() {
    let Some(throng) = start(&["workers=3", "swarm.peer_ttl=150s", "announce.interval=1m"]) else {
        return;
    };
    let mut rng = Rng::new(70);
    let client = Udp::connect(throng.udp[0]);
    let large = random_hash(&mut rng);
    (0..20).for_each(|port| drop(client.announce(&leecher(large, 21_000 + port))));
    Http::connect(throng.http[1]).announce(&seeder(large, 21_100));
    let others: Vec<_> = (0..60).map(|_| random_hash(&mut rng)).collect();
    for (index, &hash) in others.iter().enumerate() {
        for (_, port) in (0..=index % 4).zip(22_000..) {
            client.announce(&leecher(hash, port));
        }
    }
    // Each is asked of the worker that owns it.
    let swarm = json(&throng, &format!("/api/v1/swarms/{large:?}"));
    assert_eq!((&swarm["leechers"], &swarm["seeders"]), (&20.into(), &1.into()), "{swarm}");
    for hash in &others {
        let swarm = json(&throng, &format!("/api/v1/swarms/{hash:?}"));
        assert_eq!(swarm["info_hash"], format!("{hash:?}"));
    }
    let get = |path: &str| {
        ask(&throng, &format!("GET {path} HTTP/1.1\r\nHost: [::1]\r\nConnection: close\r\n\r\n"))
    };
    let (head, body) = get(&format!("/api/v1/swarms/{:?}", random_hash(&mut rng)));
    assert!(head.starts_with("HTTP/1.1 404 ") && body.contains("no such swarm"), "{head}{body}");
    let (head, body) = get("/api/v1/swarms/0123");
    assert!(
        head.starts_with("HTTP/1.1 400 ") && body.contains("40 hexadecimal digits"),
        "{head}{body}"
    );

    // The sweep comes by within a round, 150 s / 8; within two, if it began before all was there.
    eventually("the sweeps have come upon all", 8 * PATIENCE, || {
        let swarms = json(&throng, "/api/v1/swarms");
        let sizes: Vec<u64> = swarms["sizes"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|size| size["swarms"].as_u64().expect("a number"))
            .collect();
        let largest = swarms["swarms"][0]["info_hash"] == format!("{large:?}");
        largest && sizes[0] == 15 && sizes[1] == 30 && sizes[2] == 15 && sizes[4] == 1
    });
    let two = json(&throng, "/api/v1/swarms?limit=2");
    assert_eq!(two["swarms"].as_array().map(Vec::len), Some(2));
    assert_eq!(two["swarms"][1]["leechers"], 4);
}

#[test]
fn samples_findings_and_events_tell_what_happens() {
    let Some(throng) = start(&["workers=2"]) else { return };
    let client = Udp::connect(throng.udp[0]);
    let hash = random_hash(&mut Rng::new(71));
    let status = json(&throng, "/api/v1/status");
    assert_eq!(status["workers"], 2);
    let listeners = status["listeners"].to_string();
    for address in throng.udp.iter().map(|address| format!("udp {address}")) {
        assert!(listeners.contains(&address), "{listeners}");
    }

    let mut events = BufReader::new(TcpStream::connect(throng.admin).expect("it listens"));
    events.get_ref().set_read_timeout(Some(PATIENCE)).expect("an option");
    let request = b"GET /api/v1/events HTTP/1.1\r\nHost: 127.0.0.1:1\r\n\r\n";
    events.get_mut().write_all(request).expect("sent");
    let mut news = move || {
        let mut line = String::new();
        loop {
            line.clear();
            assert!(events.read_line(&mut line).expect("an event") > 0, "the stream has ended");
            if let Some(data) = line.strip_prefix("data: ") {
                return serde_json::from_str::<Json>(data).expect("JSON");
            }
        }
    };
    let first = news();
    assert_eq!(first["workers"].as_array().map(Vec::len), Some(2));
    assert!(first["findings"].is_array(), "{first}");
    eventually("announces are seen", PATIENCE, || {
        (0..10).for_each(|port| drop(client.announce(&leecher(hash, 23_000 + port))));
        let sample = news()["sample"].clone();
        sample["udp_announces"].as_f64() > Some(0.0)
            && sample["leechers"] == 10.0
            && sample["udp_p99"].as_f64() > Some(0.0)
    });
    let samples = json(&throng, "/api/v1/samples");
    let columns = samples.as_object().expect("columns");
    let length = columns["time"].as_array().expect("a column").len();
    assert!(length >= 2 && columns.values().all(|c| c.as_array().map(Vec::len) == Some(length)));
    assert!(json(&throng, "/api/v1/findings").is_array());
    // Workers tell whose clients they saw once a second.
    eventually("the peers' client is known", PATIENCE, || {
        json(&throng, "/api/v1/clients")["clients"][0]["peers"] == 10
    });
}

#[test]
fn a_connection_refused_for_want_of_room_is_a_finding() {
    let Some(throng) = start(&["workers=1", "http.max_connections=1"]) else { return };
    let _held = Http::connect(throng.http[0]);
    eventually("it is told with a remedy", PATIENCE, || {
        // It may be reset before we are told that it was made.
        let _ = TcpStream::connect(throng.http[0]).map(|mut refused| refused.read(&mut [0]));
        let findings = json(&throng, "/api/v1/findings");
        findings.as_array().expect("a list").iter().any(|finding| {
            finding["title"] == "connections"
                && finding["level"] == "warning"
                && finding["remedy"].as_str().is_some_and(|text| text.contains("max_connections"))
        })
    });
}

#[test]
fn the_dashboard_is_served_to_those_who_call_it_by_its_name_alone() {
    let Some(throng) = start(&["workers=1"]) else { return };
    let get = |host: &str, path: &str| {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        ask(&throng, &request)
    };
    let (head, page) = get("localhost:6970", "/");
    assert!(head.starts_with("HTTP/1.1 200 ") && page.contains("<title>"), "{head}");
    let head = head.to_ascii_lowercase();
    assert!(head.contains("\r\ncontent-security-policy: default-src 'self';"), "{head}");
    assert!(head.contains("\r\nx-content-type-options: nosniff"), "{head}");
    for path in ["/", "/metrics", "/api/v1/samples", "/assets/app.js"] {
        let (head, body) = get("attacker.example", path);
        assert!(head.starts_with("HTTP/1.1 421 ") && body.contains("without a dot"), "{head}");
    }
    assert!(get("127.0.0.1", "/nothing").0.starts_with("HTTP/1.1 404 "));
}

#[test]
fn monitors_get_the_form_that_they_ask_for() {
    let Some(throng) = start(&["workers=1"]) else { return };
    let get = |accept: &str| {
        let request = format!(
            "GET /metrics HTTP/1.1\r\nHost: localhost\r\nAccept: {accept}\r\n\
             Connection: close\r\n\r\n"
        );
        ask(&throng, &request)
    };
    let (head, text) = get("application/openmetrics-text; version=1.0.0");
    assert!(head.contains("application/openmetrics-text; version=1.0.0"), "{head}");
    assert!(text.ends_with("# EOF\n") && text.contains("\n# TYPE throng_requests counter\n"));
    // What the kernel says of a worker is read once a second.
    let cpu = "\nthrong_worker_cpu_seconds_total{worker=\"0\"} ";
    eventually("the CPU of a worker", PATIENCE, || get("*/*").1.contains(cpu));
    let (head, text) = get("*/*");
    assert!(head.contains("text/plain; version=0.0.4"), "{head}");
    assert!(text.contains("\n# TYPE throng_requests_total counter\n") && !text.contains("# EOF"));
    for name in [
        "throng_udp_socket_drops_total{listener=\"127.0.0.1:",
        "throng_udp_batch_seconds_bucket{",
        "throng_store_block_bytes{block_bytes=\"64\",worker=\"0\"} ",
        "process_resident_memory_bytes ",
        "throng_build_info{version=",
    ] {
        assert!(text.contains(&format!("\n{name}")), "{name}");
    }
}

#[test]
fn who_asks_and_does_not_read_is_not_waited_for() {
    let Some(throng) = start(&[]) else { return };
    let mut stream = TcpStream::connect(throng.admin).expect("it listens");
    stream.set_nonblocking(true).expect("it can");
    let asked = b"GET /metrics HTTP/1.1\r\nHost: [::1]\r\n\r\n".repeat(1_000);
    // Until nobody takes any more of it.
    let give_up = Instant::now() + PATIENCE;
    let mut refused = 0;
    while refused < 20 {
        assert!(Instant::now() < give_up, "all is answered and kept");
        match stream.write(&asked) {
            Ok(_) => refused = 0,
            Err(_) => refused += 1,
        }
        thread::sleep(Duration::from_millis(20));
    }
    eventually("it is closed", 3 * PATIENCE, || {
        stream.write(b"\r\n").is_err_and(|error| error.kind() != ErrorKind::WouldBlock)
    });
}
