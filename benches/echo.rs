//! What a UDP announce costs the server, beside what its packets alone cost on the same machine.
//!
//! Two servers run as children on one CPU: the program with one worker, and a bare recvmmsg and
//! sendmmsg echo in batches of 64 whose replies have the same size. The same closed loop of
//! announces drives them in turns from the next CPU; each server's CPU time, of all its threads and
//! in the kernel too, is read before and after. Then HTTP announces over connections that stay
//! open. Addresses are on loopback, so there is no driver and no wire; a sender pays for its
//! packet's way up to the receiver's socket. Every peer counts as public here
//! (isolate_private_networks=false), which saves looking its address up among private networks.
//! `busy` tells how much of its CPU a server had: far below 1, the client or other programs were
//! the limit, batches were smaller and caches colder than they would be, so measure again when it
//! is quiet.
//!
//! `cargo bench --bench echo` measures; without `--bench` everything runs once, briefly.
//! Environment: THRONG_ECHO_ROUNDS (5), THRONG_ECHO_SECONDS (3), THRONG_ECHO_SWARMS (10000),
//! THRONG_ECHO_PEERS (20 a swarm), THRONG_ECHO_NUM_WANT (50), THRONG_ECHO_WINDOW (256 requests in
//! flight), THRONG_ECHO_CONNECTIONS (64), THRONG_ECHO_ONLY=udp or http.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::SockRef;
use throng::load::batch::Batch;
use throng::rng::Rng;

#[path = "common/announce.rs"]
mod announce;
#[path = "common/cpu.rs"]
mod cpu;
#[path = "common/hash.rs"]
mod hash;
#[path = "common/http.rs"]
mod http;
#[path = "common/load.rs"]
mod load;
#[path = "common/server.rs"]
mod server;

use cpu::{Cpus, on};
use load::{Load, Server as Kind, Shape, Totals};
use server::Server;

/// The argument that makes this program the echo server; the size of its replies follows.
const ECHO: &str = "serve-echo";
/// After so long without a request the echo server ends by itself.
const ECHO_IDLE: Duration = Duration::from_secs(120);
/// Before each measurement, not counted.
const WARM_UP: Duration = Duration::from_millis(300);
/// Where an HTTP client says that it listens.
const HTTP_PORT: u16 = 30_000;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(at) = arguments.iter().position(|argument| argument == ECHO) {
        let bytes = arguments.get(at + 1).and_then(|text| text.parse().ok());
        return serve_echo(bytes.expect("the size of a reply"));
    }
    let options = Options::new(arguments.iter().any(|argument| argument == "--bench"));
    let cpus = Cpus::new();
    let Some(server) = on(cpus.server, Server::start) else { return };
    on(cpus.client, || {
        if options.only != "http" {
            compare(&options, &cpus, &server);
        }
        if options.only != "udp" {
            http_rate(&options, &server);
        }
    });
}

/// How much of everything.
struct Options {
    rounds: usize,
    length: Duration,
    shape: Shape,
    window: u32,
    connections: usize,
    only: String,
}

impl Options {
    fn new(whole: bool) -> Self {
        let number = |name: &str, usual: u32, brief: u32| {
            let given = std::env::var(format!("THRONG_ECHO_{name}")).ok();
            let default = if whole { usual } else { brief };
            given.and_then(|text| text.parse().ok()).unwrap_or(default)
        };
        let length = match std::env::var("THRONG_ECHO_SECONDS").ok().and_then(|t| t.parse().ok()) {
            Some(seconds) => Duration::try_from_secs_f64(seconds).unwrap_or(WARM_UP),
            None => Duration::from_millis(if whole { 3_000 } else { 100 }),
        };
        Self {
            rounds: number("ROUNDS", 5, 1).clamp(1, 1_000) as usize,
            length: length.min(Duration::from_secs(60)),
            shape: Shape::new(
                number("SWARMS", 10_000, 50).min(1_000_000),
                number("PEERS", 20, 20).min(1_000),
                number("NUM_WANT", 50, 50).min(200),
            ),
            window: number("WINDOW", 256, 64),
            connections: number("CONNECTIONS", 64, 4).clamp(1, 512) as usize,
            only: std::env::var("THRONG_ECHO_ONLY").unwrap_or_default(),
        }
    }
}

/// The other server.
struct Echo {
    child: Child,
    address: SocketAddr,
}

impl Echo {
    fn start(bytes: usize) -> Self {
        let program = std::env::current_exe().expect("we run");
        let mut command = Command::new(program);
        command.args([ECHO, &bytes.to_string()]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("it starts");
        let mut line = String::new();
        let output = child.stdout.take().expect("a pipe");
        BufReader::new(output).read_line(&mut line).expect("its address");
        Self { child, address: line.trim().parse().expect("an address") }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Answers each datagram with `bytes` bytes that begin like the reply to an announce.
fn serve_echo(bytes: usize) {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    socket.set_read_timeout(Some(ECHO_IDLE)).expect("it can wait");
    // As the program has it; capped by the kernel.
    let _ = SockRef::from(&socket).set_recv_buffer_size(8 << 20);
    println!("{}", socket.local_addr().expect("it is bound"));
    let mut batch = Batch::new();
    while let Ok(count) = batch.receive_from(&socket) {
        for index in 0..count {
            let buffer = batch.resize(index, bytes);
            buffer.copy_within(12..16, 4);
            buffer[..4].copy_from_slice(&[0, 0, 0, 1]);
        }
        if batch.send_back(&socket, count).is_err() {
            break;
        }
    }
}

/// What a server used for its replies.
#[derive(Clone, Copy)]
struct Cost {
    nanos_per_reply: f64,
    replies_per_second: f64,
    /// Of one CPU.
    busy: f64,
}

impl Cost {
    /// The cost of `replies`, made while `pid` went from `before` to now.
    fn since(pid: u32, before: u64, replies: u64, elapsed: Duration) -> Self {
        let used = cpu::nanos_used(pid).saturating_sub(before) as f64;
        Self {
            nanos_per_reply: used / replies.max(1) as f64,
            replies_per_second: replies as f64 / elapsed.as_secs_f64(),
            busy: used / elapsed.as_nanos() as f64,
        }
    }
}

impl std::fmt::Display for Cost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { nanos_per_reply, replies_per_second, busy } = self;
        write!(f, "  {nanos_per_reply:8.0}  {replies_per_second:9.0}  {busy:.2}")
    }
}

/// UDP: both servers in turns.
fn compare(options: &Options, cpus: &Cpus, server: &Server) {
    let shape = options.shape;
    let echo = on(cpus.server, || Echo::start(shape.reply_bytes()));
    let mut to_throng = Load::new(server.address, shape, options.window);
    let mut to_echo = Load::new(echo.address, shape, options.window);
    to_throng.connect();
    let filled = to_throng.fill();
    println!(
        "udp: {} swarms of {} peers, num_want {}, {} in flight, replies of {} bytes; {} announces \
         to fill them, {} lost",
        shape.swarms,
        shape.peers,
        shape.num_want,
        options.window,
        shape.reply_bytes(),
        filled.replies,
        filled.lost
    );
    println!("            echo                          throng");
    println!(
        "round  ns/reply  replies/s  busy    ns/reply  replies/s  busy   ratio  difference ns"
    );
    let (mut lost, mut late) = (0, 0);
    let mut measure = |load: &mut Load, kind: Kind, pid: u32| {
        let _ = load.drive(WARM_UP.min(options.length), kind);
        let before = cpu::nanos_used(pid);
        let Totals { replies, elapsed, .. } = {
            let totals = load.drive(options.length, kind);
            lost += totals.lost;
            late += totals.late;
            totals
        };
        assert!(replies > 0, "no reply at all");
        Cost::since(pid, before, replies, elapsed)
    };
    let (mut ratios, mut differences) = (Vec::new(), Vec::new());
    for round in 0..options.rounds {
        let mut costs = [None; 2];
        // Now the one first, now the other.
        for turn in [round % 2, (round + 1) % 2] {
            costs[turn] = Some(match turn {
                0 => measure(&mut to_echo, Kind::Echo, echo.child.id()),
                _ => {
                    to_throng.connect();
                    measure(&mut to_throng, Kind::Full, server.pid())
                }
            });
        }
        let [Some(bare), Some(whole)] = costs else { unreachable!("both had their turn") };
        let ratio = whole.nanos_per_reply / bare.nanos_per_reply;
        let difference = whole.nanos_per_reply - bare.nanos_per_reply;
        println!("{round:5}{bare}  {whole}   {ratio:5.2}  {difference:13.0}");
        ratios.push(ratio);
        differences.push(difference);
    }
    let [least, median, most] = spread(&mut ratios);
    println!("median ratio {median:.2}, from {least:.2} to {most:.2}");
    let [least, median, most] = spread(&mut differences);
    println!("median difference {median:.0} ns, from {least:.0} to {most:.0}");
    println!("lost {lost}, late {late}");
}

/// Least, median, most.
fn spread(values: &mut [f64]) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    [values[0], values[values.len() / 2], values[values.len() - 1]]
}

/// An HTTP connection with one request in flight.
struct Asker {
    stream: TcpStream,
    answer: Vec<u8>,
    len: usize,
}

/// HTTP: several connections that stay open, one thread.
fn http_rate(options: &Options, server: &Server) {
    let shape = options.shape;
    let requests: Vec<Vec<u8>> = (0..shape.swarms)
        .map(|swarm| http::request(&hash::info_hash(swarm), HTTP_PORT, shape.num_want))
        .collect();
    let mut askers: Vec<Asker> = (0..options.connections)
        .map(|_| {
            let stream = TcpStream::connect(server.address).expect("it listens");
            stream.set_nodelay(true).expect("loopback");
            stream.set_nonblocking(true).expect("a socket");
            Asker { stream, answer: vec![0; 8_192], len: 0 }
        })
        .collect();
    println!("http: {} connections, one request in flight each", askers.len());
    println!("round  ns/reply  replies/s  busy  replies/s of a whole CPU");
    // All ask as one leecher, on top of those that UDP brought.
    let (seeders, leechers) =
        if options.only == "http" { (0, 0) } else { (shape.seeders(), shape.leechers()) };
    let given = shape.num_want.min(seeders + leechers) as usize;
    let expected = (seeders, leechers + 1, given);
    let mut rng = Rng::new(9);
    let mut costs = Vec::new();
    for round in 0..=options.rounds {
        // Round 0 warms up, and brings the asker into the swarms.
        let length = if round == 0 { WARM_UP.min(options.length) } else { options.length };
        let before = cpu::nanos_used(server.pid());
        let start = Instant::now();
        let replies = ask(&mut askers, &requests, expected, (&mut rng, start + length));
        let cost = Cost::since(server.pid(), before, replies, start.elapsed());
        if round > 0 {
            let per_cpu = 1e9 / cost.nanos_per_reply;
            println!("{:5}{cost}  {per_cpu:24.0}", round - 1);
            costs.push(cost.nanos_per_reply);
        }
    }
    let [least, median, most] = spread(&mut costs);
    println!("median {median:.0} ns of CPU a reply, from {least:.0} to {most:.0}");
}

/// Keeps each connection busy until `end`; returns the replies.
fn ask(
    askers: &mut [Asker],
    requests: &[Vec<u8>],
    expected: (u32, u32, usize),
    (rng, end): (&mut Rng, Instant),
) -> u64 {
    let count = u32::try_from(requests.len()).expect("few");
    let mut send = |asker: &mut Asker| {
        asker.len = 0;
        let request = &requests[rng.below(count) as usize];
        // A request is far smaller than the socket's empty buffer.
        asker.stream.write_all(request).expect("it is sent");
    };
    askers.iter_mut().for_each(&mut send);
    let mut replies = 0_u64;
    let mut waiting = vec![true; askers.len()];
    while waiting.contains(&true) {
        let mut polled: Vec<PollFd<'_>> =
            askers.iter().map(|asker| PollFd::new(&asker.stream, PollFlags::IN)).collect();
        let patience = Timespec { tv_sec: 5, tv_nsec: 0 };
        let ready = poll(&mut polled, Some(&patience)).expect("sockets can be polled");
        assert!(ready > 0, "the server does not answer any more");
        let ready: Vec<bool> = polled.iter().map(|fd| !fd.revents().is_empty()).collect();
        let over = Instant::now() >= end;
        for (index, _) in ready.iter().enumerate().filter(|(_, ready)| **ready) {
            let asker = &mut askers[index];
            match asker.stream.read(&mut asker.answer[asker.len..]) {
                Ok(0) => panic!("closed"),
                Ok(more) => asker.len += more,
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                Err(error) => panic!("{error}"),
            }
            let Some(body) = http::body(&asker.answer[..asker.len]) else { continue };
            assert!(body.starts_with(b"d8:complete"), "{}", body.escape_ascii());
            if replies.is_multiple_of(64) {
                assert_eq!(http::announced(body), expected);
            }
            replies += 1;
            waiting[index] = !over;
            if !over {
                send(asker);
            }
        }
    }
    replies
}
