//! Deadlines, descriptors and bounds of connections: what hostile clients use up is given back, and
//! others are served meanwhile.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};
use throng::limits::WRITES_AT_EASE_MAX;
use throng::rng::Rng;
use throng::wire::announce::{Announce, NumWant};
use throng::wire::id::InfoHash;

use super::client::{Http, Udp, announce_target, connect, get, leecher, random_hash};
use super::process::{PATIENCE, Start, Throng, eventually, start};

/// How soon new connections must be served once there are descriptors for them: a worker that could
/// not accept tries again within a second, and the machine may be busy with other tests.
const AGAIN: Duration = Duration::from_secs(3);

/// Whether the other side has ended the connection; what it sends is read and forgotten.
fn has_ended(stream: &mut TcpStream) -> bool {
    stream.set_nonblocking(true).expect("an option");
    loop {
        match stream.read(&mut [0; 4_096]) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() != ErrorKind::WouldBlock,
        }
    }
}

/// Waits for the end of a connection and returns how long it took since `began`.
fn time_to_end(mut stream: TcpStream, began: Instant) -> Duration {
    eventually("the connection ends", 2 * PATIENCE, || has_ended(&mut stream));
    began.elapsed()
}

fn assert_between(took: Duration, from_millis: u64, to_millis: u64, what: &str) {
    let (from, to) = (Duration::from_millis(from_millis), Duration::from_millis(to_millis));
    assert!((from..=to).contains(&took), "{what}: {took:?}");
}

/// A connection that takes next to nothing before it stops reading.
fn narrow_connection(target: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::for_address(target), Type::STREAM, None).expect("a socket");
    socket.set_recv_buffer_size(4_096).expect("an option");
    socket.connect(&target.into()).expect("it listens");
    TcpStream::from(socket)
}

/// Asks for megabytes and reads none of them. Returns when the connection is reset.
fn never_read(target: SocketAddr, request: &[u8]) {
    let mut stream = narrow_connection(target);
    stream.set_write_timeout(Some(Duration::from_millis(100))).expect("a timeout");
    let text = request.repeat(64);
    let give_up = Instant::now() + PATIENCE;
    loop {
        assert!(Instant::now() < give_up, "a connection that reads nothing is still open");
        match stream.write(&text) {
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => return,
        }
    }
}

/// Fills a swarm with 200 peers. Returns a short request that has all of them in its answer.
fn long_answer(throng: &Throng, hash: InfoHash) -> Vec<u8> {
    let udp = Udp::connect(throng.udp[0]);
    for port in 26_000..26_200 {
        udp.announce(&leecher(hash, port));
    }
    let many = Announce { num_want: NumWant::Count(200), ..leecher(hash, 25_999) };
    get(&announce_target(&many).replace("compact=1", "compact=0"))
}

#[test]
fn who_does_not_end_what_he_began_is_reset_and_who_is_idle_is_told_in_order() {
    let Some(throng) = start(&["http.head_timeout=1s", "http.idle_timeout=1s"]) else { return };
    let connect = || {
        let connection = Http::connect(throng.http[0]);
        connection.stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        connection
    };
    let (mut half, mut idle) = (connect(), connect());
    half.send(b"GET /announce?");
    let end = half.stream.read(&mut [0; 16]).map_err(|error| error.kind());
    assert_eq!(end, Err(ErrorKind::ConnectionReset));
    assert_eq!(idle.stream.read(&mut [0; 16]).map_err(|error| error.kind()), Ok(0));
}

#[test]
fn every_state_of_a_connection_has_a_deadline() {
    let timeouts = ["http.head_timeout=1s", "http.idle_timeout=6s", "http.write_timeout=1s"];
    let Some(throng) = start(&timeouts) else { return };
    let (hash, target) = (random_hash(&mut Rng::new(20)), throng.http[0]);
    let (udp, long) = (Udp::connect(throng.udp[0]), long_answer(&throng, hash));
    thread::scope(|scope| {
        let connect = || Http::connect(target);
        let half = scope.spawn(move || {
            let mut connection = connect();
            connection.send(b"GET /announce?");
            time_to_end(connection.stream, Instant::now())
        });
        let trickle = scope.spawn(move || {
            let (mut connection, began) = (connect(), Instant::now());
            // Progress does not move the deadline.
            while !has_ended(&mut connection.stream) {
                let _ = connection.stream.write(b"G");
                thread::sleep(Duration::from_millis(50));
                assert!(began.elapsed() < PATIENCE);
            }
            began.elapsed()
        });
        let half_again = scope.spawn(move || {
            let mut connection = connect();
            connection.get("/scrape");
            connection.send(b"GET /announce?");
            time_to_end(connection.stream, Instant::now())
        });
        let idle = scope.spawn(move || time_to_end(connect().stream, Instant::now()));
        let idle_again = scope.spawn(move || {
            let mut connection = connect();
            connection.get("/scrape");
            time_to_end(connection.stream, Instant::now())
        });
        let unread = scope.spawn(|| {
            let began = Instant::now();
            never_read(target, &long);
            began.elapsed()
        });
        // Meanwhile others are served.
        let (mut patient, began, mut times) = (connect(), Instant::now(), Vec::new());
        while began.elapsed() < Duration::from_secs(3) {
            let asked = Instant::now();
            assert!(patient.announce(&leecher(hash, 25_998)).leechers >= 200);
            udp.announce(&leecher(hash, 25_997));
            times.push(asked.elapsed());
            thread::sleep(Duration::from_millis(20));
        }
        // All but one in twenty: the machine may stop for a moment.
        times.sort_unstable();
        let most = times[times.len() * 19 / 20];
        assert!(most < Duration::from_millis(500), "{most:?}");
        let ended = [half, trickle, half_again, idle, idle_again, unread];
        let took = ended.map(|thread| thread.join().expect("no panic"));
        for took in &took[..3] {
            assert_between(*took, 900, 5_500, "a head");
        }
        let first = took[..3].iter().min().expect("three");
        assert!(*first < Duration::from_secs(2), "what is late ends within a second: {first:?}");
        for took in &took[3..5] {
            assert_between(*took, 5_900, 12_000, "an idle connection");
        }
        assert_between(took[5], 900, 5_500, "a connection that reads nothing");
    });
    assert_eq!(throng.metric("http_connections_refused"), 0);
    eventually("all are counted", PATIENCE, || throng.metric("http_connections_timed_out") >= 6);
}

#[test]
fn a_thousand_that_send_byte_after_byte_all_end_at_their_deadline() {
    const COUNT: usize = 1_000;
    let settings = ["http.head_timeout=2s", "http.max_connections_per_address=0"];
    let Some(throng) = start(&settings) else { return };
    let head = get("/announce?info_hash=");
    let (began, mut streams) = (Instant::now(), Vec::new());
    while streams.len() < COUNT {
        let stream = TcpStream::connect_timeout(&throng.http[0], PATIENCE).expect("it listens");
        streams.push(stream);
    }
    let made = began.elapsed();
    // A byte a round for each, as long as it is open.
    for byte in head.iter().cycle() {
        streams.retain_mut(|stream| !has_ended(stream) && stream.write_all(&[*byte]).is_ok());
        if streams.is_empty() {
            break;
        }
        // The deadline, the second in which those that are late end, and one for a busy machine.
        let most = made + Duration::from_secs(4);
        assert!(began.elapsed() < most, "{} are open after {most:?}", streams.len());
        thread::sleep(Duration::from_millis(100));
    }
    assert!(began.elapsed() > Duration::from_secs(2), "{:?}", began.elapsed());
    let timed_out = || throng.metric("http_connections_timed_out");
    eventually("all are counted", PATIENCE, || timed_out() == COUNT as u64);
    assert_eq!(throng.metric("http_connections_refused"), 0);
}

#[test]
fn the_more_do_not_read_the_less_time_they_have() {
    let settings = ["workers=1", "http.max_connections_per_address=0", "http.write_timeout=1m"];
    let Some(throng) = start(&settings) else { return };
    let (hash, target) = (random_hash(&mut Rng::new(21)), throng.http[0]);
    let requests = long_answer(&throng, hash).repeat(64);
    let open = || {
        let mut stream = narrow_connection(target);
        stream.set_nonblocking(true).expect("an option");
        stream.write_all(&requests).expect("there is room for some requests");
        stream
    };
    let timed_out = || throng.metric("http_connections_timed_out");
    let mut streams: Vec<_> = (0..WRITES_AT_EASE_MAX - 16).map(|_| open()).collect();
    thread::sleep(Duration::from_secs(2));
    assert_eq!(timed_out(), 0, "not while they are few");
    let more = 80;
    streams.extend((0..more).map(|_| open()));
    eventually("as many as are too many end", PATIENCE, || timed_out() >= more - 16);
    // And no more than that, but for some that end together.
    thread::sleep(Duration::from_secs(2));
    assert!(timed_out() < more + 16, "{} have ended", timed_out());
    assert!(Http::connect(target).announce(&leecher(hash, 25_998)).leechers > 200);
    drop(streams);
}

/// Opens `count` connections and returns those that are still open when the child has looked.
fn flood(target: SocketAddr, count: usize, open_at_most: usize) -> Vec<TcpStream> {
    let connect = || TcpStream::connect_timeout(&target, PATIENCE);
    let mut streams: Vec<_> = (0..count).filter_map(|_| connect().ok()).collect();
    eventually("the newest are refused", PATIENCE, || {
        streams.retain_mut(|stream| !has_ended(stream));
        streams.len() <= open_at_most
    });
    streams
}

fn assert_serves(throng: &Throng, old: &mut [Http]) {
    let mut rng = Rng::new(21);
    for target in &throng.udp {
        let client = Udp::connect(*target);
        assert_eq!(client.announce(&leecher(random_hash(&mut rng), 20_007)).leechers, 1);
    }
    for connection in old {
        assert_eq!(connection.announce(&leecher(random_hash(&mut rng), 20_008)).leechers, 1);
    }
}

fn assert_accepts_again(throng: &Throng) {
    eventually("new connections are served", AGAIN, || {
        // Who is refused may be told so before the connection is made.
        let made = TcpStream::connect_timeout(&throng.http[0], PATIENCE);
        made.map(Http::over).is_ok_and(|mut connection| {
            let sent = connection.stream.write_all(&get("/scrape"));
            sent.and_then(|()| connection.try_receive(false)).is_ok()
        })
    });
}

/// Said by one of the two workers or by each of them, not for every connection.
fn assert_logged_once_by_workers(throng: &Throng, text: &str) {
    let lines = throng.logged(text);
    assert!((1..=2).contains(&lines), "{lines} lines");
}

/// Floods a child and looks at it meanwhile and afterwards.
fn withstands(throng: &Throng, old: usize, count: usize, open_at_most: usize) {
    let mut old: Vec<Http> = (0..old).map(|_| Http::connect(throng.http[0])).collect();
    assert_serves(throng, &mut old);
    let streams = flood(throng.http[0], count, open_at_most);
    assert_serves(throng, &mut old);

    // Idle but for a connection now and then.
    let (ticks, began) = (throng.cpu_ticks(), Instant::now());
    while began.elapsed() < Duration::from_secs(1) {
        // It may be refused before we are told that it was made.
        let made = TcpStream::connect_timeout(&throng.http[0], PATIENCE).map(drop);
        let made = made.map_err(|error| error.kind());
        assert!(matches!(made, Ok(()) | Err(ErrorKind::ConnectionReset)), "{made:?}");
        thread::sleep(Duration::from_millis(20));
    }
    let percent = throng.cpu_ticks() - ticks;
    assert!(percent < 50, "{percent} % of a core");
    assert_serves(throng, &mut old);
    assert_logged_once_by_workers(throng, "HTTP connections are refused");

    drop(streams);
    assert_accepts_again(throng);
    assert!(throng.metric("http_connections_refused") > 0);
    assert_serves(throng, &mut old);
}

#[test]
fn without_descriptors_the_newest_connections_are_refused_and_the_rest_goes_on() {
    // One worker, so that nobody else takes the descriptor with which it refuses.
    let settings = &["workers=1"][..];
    let start = Start { settings, files: Some(300), inherited: 150, ..Start::default() };
    let Some(throng) = start.serve() else { return };
    withstands(&throng, 20, 400, 120);
    assert_eq!(throng.logged("no file descriptor is left"), 1);
}

#[test]
fn connections_are_refused_while_others_in_the_process_take_every_descriptor() {
    let settings = &["workers=1"][..];
    let start = Start { settings, files: Some(220), inherited: 150, ..Start::default() };
    let Some(throng) = start.serve() else { return };
    let mut old: Vec<Http> = (0..20).map(|_| Http::connect(throng.http[0])).collect();
    assert_serves(&throng, &mut old);
    let mut rest = flood(throng.http[0], 100, 60);
    assert!(rest.len() > 1, "there were none");
    // What the control thread had open for a moment is free again.
    eventually("they have every descriptor", PATIENCE, || {
        let more = flood(throng.http[0], 100, 60);
        let none = more.is_empty();
        rest.extend(more);
        none
    });
    for _ in 0..4 {
        assert!(flood(throng.http[0], 100, 0).is_empty());
        assert_serves(&throng, &mut old);
    }
    assert_logged_once_by_workers(&throng, "no file descriptor is left");
    drop(rest);
    assert_accepts_again(&throng);
}

#[test]
fn operators_take_no_more_descriptors_than_are_theirs() {
    let start = Start { settings: &["workers=1"], files: Some(320), ..Start::default() };
    let Some(throng) = start.serve() else { return };
    let before = throng.open_files();
    let admin = || TcpStream::connect_timeout(&throng.admin, Duration::from_secs(1)).ok();
    let used: Vec<_> = (0..100).map_while(|_| admin()).collect();
    // A 32nd of all. What was asked at the start may be closed by now, and lists may be read.
    eventually("ten are accepted", PATIENCE, || throng.open_files() >= before + 8);
    // One more is accepted while ten are served, and a look at the threads takes two.
    for _ in 0..20 {
        assert!(throng.open_files() <= before + 13, "{} files of {before}", throng.open_files());
        thread::sleep(Duration::from_millis(20));
    }
    drop(used);
    eventually("the next one is answered", PATIENCE, || throng.admin("/health").contains("ok"));
}

#[test]
fn the_kernels_table_of_files_has_room_for_all_of_them_before_they_come() {
    let Some(throng) = (Start { files: Some(5_000), ..Start::default() }).serve() else { return };
    let status = fs::read_to_string(format!("/proc/{}/status", throng.pid())).expect("it runs");
    let size = status.lines().find_map(|line| line.strip_prefix("FDSize:")).expect("a line");
    let size: u32 = size.trim().parse().expect("a number");
    assert!(size >= 5_000, "the kernel has room for {size}");
}

#[test]
fn fewer_connections_are_accepted_than_there_are_descriptors() {
    let settings = ["http.max_connections=10000"];
    for (files, settings) in [(300, &settings[..]), (300, &[]), (150, &settings)] {
        let Some(throng) = (Start { settings, files: Some(files), ..Start::default() }).serve()
        else {
            return;
        };
        withstands(&throng, 1, 400, 150);
        assert_eq!(throng.logged("no file descriptor is left"), 0);
        let told = throng.logged("http.max_connections is 10000, and the limit of open files");
        assert_eq!(told, settings.len());
    }
}

#[test]
fn no_more_connections_than_configured_are_open() {
    let Some(throng) = start(&["http.max_connections=10"]) else { return };
    withstands(&throng, 2, 100, 10);
    eventually("the gauge falls", PATIENCE, || throng.metric("http_connections") == 0);
}

#[test]
fn an_address_has_no_more_connections_than_it_may_and_leaves_room_when_they_end() {
    const MAX: usize = 8;
    let settings = ["workers=1", &format!("http.max_connections_per_address={MAX}")];
    let Some(throng) = start(&settings) else { return };
    let open_from = |ip: IpAddr| {
        let target = throng.http[usize::from(ip.is_ipv6())];
        let socket = Socket::new(Domain::for_address(target), Type::STREAM, None).expect("one");
        socket.bind(&SocketAddr::from((ip, 0)).into()).expect("an address of loopback");
        // It may be reset before we are told that it was made, or before anything is sent.
        socket.connect(&target.into()).ok()?;
        let mut connection = Http::over(socket.into());
        connection.stream.write_all(&get("/scrape")).ok()?;
        connection.try_receive(false).is_ok().then_some(connection)
    };
    let refused = || throng.metric("http_connections_refused");
    let (mut refused_so_far, mut all) = (0, Vec::new());
    for ip in
        [IpAddr::from([127, 0, 0, 3]), IpAddr::from([127, 0, 0, 4]), Ipv6Addr::LOCALHOST.into()]
    {
        let open: Vec<_> = (0..MAX + 4).filter_map(|_| open_from(ip)).collect();
        assert_eq!(open.len(), MAX, "{ip}");
        refused_so_far += 4;
        eventually("they are counted", PATIENCE, || refused() == refused_so_far);
        all.push((ip, open));
    }
    for (ip, mut open) in all {
        for connection in &mut open {
            assert_eq!(connection.get("/scrape").status, 200, "{ip}");
        }
        drop(open.pop());
        eventually("there is room again", PATIENCE, || open_from(ip).is_some());
    }
}

/// Asks for a connection id from an address of this machine.
fn connect_from(ip: Ipv4Addr, target: SocketAddr) -> Udp {
    let socket = UdpSocket::bind((ip, 0)).expect("all of 127.0.0.0/8 is ours");
    socket.connect(target).expect("loopback");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let id = connect(&socket);
    Udp { socket, id }
}

#[test]
fn a_flood_from_ten_thousand_addresses_is_bounded_and_others_are_served() {
    const SOURCES: u32 = 10_000;
    const BURST: u32 = 5;
    const TRIES: u32 = 8;
    let settings = [
        "workers=1",
        "swarm.memory=16MiB",
        "limits.exempt=",
        "limits.new_swarms_burst=5",
        "limits.new_swarms_per_minute=1",
        // The same ids from the first announce to the last.
        "udp.connection_id_lifetime=1h",
    ];
    let Some(throng) = start(&settings) else { return };
    let (target, mut rng) = (throng.udp[0], Rng::new(46));
    let good: Vec<(InfoHash, [Udp; 2])> = (1..=50)
        .map(|at| {
            let ip = |host| Ipv4Addr::new(127, 200, host, at);
            (random_hash(&mut rng), [1, 2].map(|host| connect_from(ip(host), target)))
        })
        .collect();
    let announce_all = || {
        for (hash, pair) in &good {
            for (client, port) in pair.iter().zip([25_001, 25_002]) {
                client.announce(&leecher(*hash, port));
            }
            // Each is still given the other.
            let answer = pair[0].announce(&leecher(*hash, 25_001));
            assert_eq!((answer.leechers, answer.peers.len()), (2, 1));
        }
    };
    announce_all();
    let refused_before = throng.metric_where("refusals", "new_swarms");
    for source in 0..SOURCES {
        let client = connect_from(Ipv4Addr::from_bits(0x7F01_0000 + source), target);
        for _ in 0..TRIES {
            client.send_announce(source, &leecher(random_hash(&mut rng), 25_000));
            let mut answer = [0; 512];
            client.socket.recv(&mut answer).expect("an answer or a refusal");
        }
        if source % 2_000 == 0 {
            announce_all();
        }
    }
    announce_all();
    eventually("each source was refused what is above its burst", PATIENCE, || {
        let refused = throng.metric_where("refusals", "new_swarms") - refused_before;
        refused == u64::from(SOURCES * (TRIES - BURST))
    });
    let findings = throng.admin("/api/v1/findings");
    assert!(findings.contains("new swarms refused"), "{findings}");
    let made = u64::from(SOURCES * BURST) + good.len() as u64;
    eventually("no more swarms are held", PATIENCE, || throng.metric("swarms") == made);
}

#[test]
fn an_address_opens_connections_no_faster_than_it_may() {
    let settings = [
        "workers=1",
        "limits.exempt=127.0.0.2/32",
        "limits.connections_burst=20",
        "limits.connections_per_minute=60",
    ];
    let Some(throng) = start(&settings) else { return };
    let open_from = |host: u8, count: usize| {
        let is_open = |_: &usize| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
            let from = SocketAddr::from(([127, 0, 0, host], 0));
            socket.bind(&from.into()).expect("all of 127.0.0.0/8 is ours");
            // It may be reset before we are told that it was made, or before anything is sent.
            if let Err(error) = socket.connect(&throng.http[0].into()) {
                assert_eq!(error.kind(), ErrorKind::ConnectionReset);
                return false;
            }
            let mut stream = TcpStream::from(socket);
            stream.set_read_timeout(Some(PATIENCE)).expect("an option");
            let _ = stream.write_all(b"GET /scrape HTTP/1.1\r\nConnection: close\r\n\r\n");
            stream.read(&mut [0; 16]).is_ok_and(|len| len > 0)
        };
        (0..count).filter(is_open).count()
    };
    let open = open_from(3, 60);
    assert!((20..=30).contains(&open), "{open}: a burst, and one a second");
    assert_eq!((open_from(2, 60), open_from(4, 5)), (60, 5));
    let limited = u64::try_from(60 - open).expect("not more than were tried");
    eventually("they are counted", PATIENCE, || {
        throng.metric("http_connections_limited") == limited
    });
    thread::sleep(Duration::from_secs(3));
    assert!(open_from(3, 3) >= 2, "tokens come back");
}
