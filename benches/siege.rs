//! How long UDP waits while HTTP is under attack.
//!
//! The program runs with one worker on one CPU. On the next, one thread announces over UDP, 2,000
//! times a second, and another one attacks the HTTP listeners; the announcing thread has the better
//! priority, so that the attacker's own work is not taken for the server's. It sends at its pace
//! whatever comes back, so that an answer that takes long hides no other.
//!
//! One attacker is an operator who asks the admin listener for all metrics without a pause: the
//! control thread is on the worker's CPU here, which is the worst place for it.
//!
//! Each attack is measured in rounds: without it, then with it, after a time in which it comes to
//! its full size. Each round has a ratio, its 99.9th percentile with the attack divided by that
//! without, and the figure is the median of the rounds' ratios. A host that takes the CPUs of a
//! virtual machine away for milliseconds would be all that such a percentile shows, and so would
//! programs that have nothing to do with us: answers that fall into 2 ms in which such others had
//! the server's CPU for 50 us, or follow such a time, are left out, and it is told how many are
//! left. What others do to the caches stays; so the first and the last attack are none at all, and
//! what they come to is the measure of the rest. On that CPU a thread of ours without any priority
//! never sleeps: how long the host needs to wake a CPU up is nothing that a tracker could change.
//!
//! Every answer must be right. A counter of the server shows that the attack took place, its memory
//! that no connection costs more than 64 KiB meanwhile, and before and after that nothing stays.
//!
//! One attack comes over UDP itself: ten thousand addresses bring new swarms, each more of them
//! than it may, and are refused.
//!
//! The last attack are handshakes of TLS, each from the beginning, while the certificate is
//! replaced under them by a good one, a truncated one, one with another's key, and a good one
//! again: none may fail, and the old certificate serves until the new one can be used.
//!
//! `cargo bench --bench siege` measures and asserts the goals; without `--bench` all runs once,
//! briefly, and only what is right is asserted. An argument that is no option is a part of the
//! names of the attacks to run. Environment: THRONG_SIEGE_ROUNDS (3), THRONG_SIEGE_SECONDS (4).

use std::io::IoSliceMut;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hdrhistogram::Histogram;
use nix::sys::socket::sockopt::ReceiveTimestampns;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt};
use nix::sys::time::TimeSpec;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::set_socket_recv_buffer_size;
use rustix::process::{Pid, Signal, kill_process, setpriority_process};
use throng::rng::Rng;
use throng::wire::id::TransactionId;
use throng::wire::udp::{self, ANNOUNCE_BYTES};

#[path = "common/announce.rs"]
mod announce;
#[path = "siege/attacks.rs"]
mod attacks;
#[path = "common/clock.rs"]
mod clock;
#[path = "common/cpu.rs"]
mod cpu;
#[path = "siege/flood.rs"]
mod flood;
#[path = "siege/handshakes.rs"]
mod handshakes;
#[path = "common/hash.rs"]
mod hash;
#[path = "siege/herd.rs"]
mod herd;
#[path = "common/load.rs"]
mod load;
#[path = "common/memory.rs"]
mod memory;
#[path = "siege/others.rs"]
mod others;
#[path = "common/server.rs"]
mod server;

use attacks::{Attack, Door, attacks, nothing};
use cpu::{Cpus, on};
use flood::Flood;
use handshakes::{Certificates, Handshakes};
use herd::Herd;
use load::{Load, PORT, Shape};
use others::{Others, Slices};
use server::Server;

/// Swarms and peers that are there meanwhile.
const SHAPE: Shape = Shape { swarms: 100, peers: 200, num_want: 50 };
/// Between two announces.
const PACE: Duration = Duration::from_micros(500);
/// An attack comes to its full size in this time, longer than a deadline of the server.
const RAMP: Duration = Duration::from_secs(6);
/// When the server has no connection left, so long does the kernel need for what is left of them.
const REST: Duration = Duration::from_secs(2);
/// How long anything may take at the most.
const PATIENCE: Duration = Duration::from_secs(60);
/// The attacker rests between two looks at what is due.
const PAUSE: Duration = Duration::from_micros(200);
/// Answers of half a second.
const RECEIVE_BUFFER_BYTES: usize = 2 << 20;
/// Answers that must be left of a round, without the attack and with it, and how many times as many
/// rounds may be tried for that.
const ANSWERS_MIN: u64 = 2_000;
const TRIES: usize = 3;
/// What is told of the latencies of a round; nearly always the last is judged.
const QUANTILES: [f64; 3] = [0.5, 0.99, 0.999];
/// How much worse that may be than beside no attack at all.
const RATIO_MAX: f64 = 2.0;
/// How much worse it may be beside handshakes of TLS: nothing interrupts one, which takes 0.15 ms,
/// so where they take half of the CPU one in fifty datagrams waits for one.
const HANDSHAKES_RATIO_MAX: f64 = 4.0;
/// Beside operators another percentile is judged. They are trusted, they share the worker's CPU
/// only here, and the scheduler lets them go on now and then while a worker is ready.
const OPERATORS_QUANTILE: usize = 1;
/// How much of what the largest attack took the server may keep until it is used again.
const KEPT_MAX: f64 = 0.5;
/// And how much more, whatever it took: bytes.
const SLACK_BYTES: u64 = 16 << 20;
/// What an open connection may cost the server, whatever is asked for over it: bytes.
const CONNECTION_BYTES: u64 = 64 << 10;
/// Files that a server may open which is to run short of them.
const FILES: u32 = 300;
/// Names of attacks.
const FLOOD: &str = "new swarms";
const HANDSHAKES: &str = "handshakes";
const OPERATORS: &str = "operators";
const HANDSHAKES_PER_SECOND: u64 = 1_000;

fn main() {
    let options = Options::new();
    let cpus = Cpus::new();
    let certificates = Certificates::new();
    let settings = |address: SocketAddr| {
        let [certificate, key] = certificates.paths();
        vec![
            format!("http.listen={address},{} tls", tls(address)),
            format!("tls.certificates={}", certificate.display()),
            format!("tls.keys={}", key.display()),
            "http.write_timeout=4s".to_owned(),
            // All but the flood.
            "limits.exempt=127.0.0.0/9".to_owned(),
            "limits.new_swarms_burst=4".to_owned(),
            "limits.new_swarms_per_minute=1".to_owned(),
        ]
    };
    let Some(server) = on(cpus.server, || Server::start_with(None, settings)) else { return };
    let start_narrow = || Server::start_with(Some(FILES), |_| Vec::new());
    let Some(narrow) = on(cpus.server, start_narrow) else { return };
    let others = Others::new(cpus.server, &[server.pid(), narrow.pid()]);
    if others.is_none() {
        eprintln!("what others take of the server's CPU cannot be told, and counts");
    }
    on(cpus.client, || Siege { options, server, narrow, certificates, others }.run());
}

/// The address of the listener that speaks TLS, beside that one.
fn tls(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2)), address.port())
}

struct Options {
    whole: bool,
    rounds: u32,
    length: Duration,
    ramp: Duration,
    filter: Option<String>,
}

impl Options {
    fn new() -> Self {
        let whole = std::env::args().any(|argument| argument == "--bench");
        let number = |name: &str, usual: u32| {
            let given = std::env::var(format!("THRONG_SIEGE_{name}")).ok();
            given.and_then(|text| text.parse().ok()).unwrap_or(usual).clamp(1, 100)
        };
        let seconds = Duration::from_secs(number("SECONDS", 4).into());
        let brief = Duration::from_millis(100);
        Self {
            whole,
            rounds: if whole { number("ROUNDS", 3) } else { 1 },
            length: if whole { seconds } else { brief },
            ramp: if whole { RAMP } else { brief },
            filter: std::env::args().skip(1).find(|argument| !argument.starts_with('-')),
        }
    }

    fn wants(&self, name: &str) -> bool {
        self.filter.as_ref().is_none_or(|filter| name.contains(filter))
    }
}

struct Siege {
    options: Options,
    server: Server,
    /// Another one, which has few descriptors.
    narrow: Server,
    certificates: Certificates,
    others: Option<Others>,
}

/// Who attacks.
enum Attacker {
    Herd(Herd),
    Flood(Flood),
    Handshakes(Handshakes),
}

impl Attacker {
    fn turn(&mut self) {
        match self {
            Self::Herd(herd) => herd.turn(),
            Self::Flood(flood) => flood.turn(),
            Self::Handshakes(handshakes) => handshakes.turn(),
        }
    }
}

impl Siege {
    fn run(self) {
        for server in [&self.server, &self.narrow] {
            let mut load = Load::new(server.address, SHAPE, 256);
            load.connect();
            load.fill();
        }
        let before = memory::resident_bytes(self.server.pid());
        println!(
            "| attack | open | ended/s | server's CPU | its memory, MiB | kept % \
             | p50 us, without and with | p99 us | p99.9 us | p99.9, ratio (least to most) |"
        );
        println!("|---|---|---|---|---|---|---|---|---|---|");
        let (mut ratios, mut peak) = (Vec::new(), before);
        let chosen = attacks().into_iter().filter(|attack| self.options.wants(attack.name));
        let chosen: Vec<Attack> = chosen.collect();
        let mut none = self.measure(&nothing(), &mut peak);
        for attack in &chosen {
            ratios.push((attack.name, self.measure(attack, &mut peak)));
        }
        if self.options.wants(FLOOD) {
            ratios.push((FLOOD, self.measure_flood(&mut peak)));
        }
        if self.options.wants(HANDSHAKES) {
            ratios.push((HANDSHAKES, self.measure_handshakes(&mut peak)));
        }
        assert!(!ratios.is_empty(), "no attack is called so");
        for (none, again) in none.iter_mut().zip(self.measure(&nothing(), &mut peak)) {
            *none = none.max(again).max(1.0);
        }
        let kept = memory::resident_bytes(self.server.pid()).saturating_sub(before);
        let taken = peak - before;
        println!("\nof {taken} bytes that an attack took the server keeps {kept} until it is busy");
        if self.options.whole {
            assert!(
                kept as f64 <= KEPT_MAX * taken as f64 + SLACK_BYTES as f64,
                "{kept} bytes are kept"
            );
            let judged = ratios.into_iter().map(|(name, ratios)| {
                let (quantile, most) = goal(name);
                (name, ratios[quantile] / none[quantile], most)
            });
            let missed: Vec<_> =
                judged.filter(|(_, ratio, most)| ratio.is_nan() || ratio >= most).collect();
            assert!(missed.is_empty(), "UDP waits too long (so many times, of): {missed:.2?}");
        }
    }

    /// How much longer UDP waits, of [`QUANTILES`].
    fn measure(&self, attack: &Attack, peak: &mut u64) -> [f64; 3] {
        let server = if attack.goes_to == Door::Narrow { &self.narrow } else { &self.server };
        let target = match attack.goes_to {
            Door::Tls => tls(server.address),
            Door::Admin => server.admin(),
            Door::Plain | Door::Narrow => server.address,
        };
        let counted = || attack.proof.map(|(name, label)| server.metric(name, label));
        let proof = counted();
        let mut heard = 0;
        let mut rounds = Rounds::new(self, server);
        rounds.keeps_busy = attack.goes_to == Door::Admin;
        while rounds.want_more() {
            let begin = || Attacker::Herd(Herd::new(attack.manner.clone(), target));
            if let Attacker::Herd(herd) = rounds.run(begin, || {}) {
                heard += herd.heard;
            }
            self.rest(server);
        }
        let happened = counted().zip(proof).map_or(heard, |(after, before)| after - before);
        if self.options.whole && attack.manner.connections > 0 {
            assert!(happened > 0, "{}: it has not taken place", attack.name);
        }
        let most = rounds.before + rounds.open as u64 * CONNECTION_BYTES + SLACK_BYTES;
        assert!(rounds.resident <= most, "{}: {} bytes are used", attack.name, rounds.resident);
        *peak = rounds.resident.max(*peak);
        rounds.report(attack.name)
    }

    /// Until nothing is left of an attack.
    fn rest(&self, server: &Server) {
        let since = Instant::now();
        // Workers publish four times a second.
        thread::sleep(Duration::from_millis(600));
        while server.metric("http_connections", "") > 0 {
            assert!(since.elapsed() < PATIENCE, "connections stay open");
            thread::sleep(Duration::from_millis(100));
        }
        thread::sleep(if self.options.whole { REST } else { Duration::ZERO });
    }

    fn measure_flood(&self, peak: &mut u64) -> [f64; 3] {
        let refused = |server: &Server| server.metric("refusals", "reason=\"new_swarms\"");
        let before = refused(&self.server);
        let mut rounds = Rounds::new(self, &self.server);
        let mut next = SHAPE.swarms;
        while rounds.want_more() {
            let begin = || Attacker::Flood(Flood::new(self.server.address, next));
            let Attacker::Flood(flood) = rounds.run(begin, || {}) else {
                unreachable!("it is what it was")
            };
            next = flood.next();
            self.rest(&self.server);
        }
        let happened = refused(&self.server) - before;
        assert!(happened > 0 || !self.options.whole, "nobody was refused");
        *peak = rounds.resident.max(*peak);
        rounds.report(FLOOD)
    }

    fn measure_handshakes(&self, peak: &mut u64) -> [f64; 3] {
        let (server, certificates) = (&self.server, &self.certificates);
        let pause = self.options.length / 8;
        let pid = i32::try_from(server.pid()).ok().and_then(Pid::from_raw).expect("a process");
        let target = tls(server.address);
        let mut rounds = Rounds::new(self, server);
        while rounds.want_more() {
            certificates.write(0);
            kill_process(pid, Signal::HUP).expect("it runs");
            thread::sleep(Duration::from_millis(500));
            let replace = || {
                for change in [
                    Certificates::write_truncated,
                    Certificates::write_mismatch,
                    |certificates: &Certificates| certificates.write(1),
                ] {
                    change(certificates);
                    kill_process(pid, Signal::HUP).expect("it runs");
                    thread::sleep(pause);
                }
            };
            let begin = || {
                let per_second = HANDSHAKES_PER_SECOND;
                Attacker::Handshakes(Handshakes::new(certificates, target, per_second))
            };
            let Attacker::Handshakes(done) = rounds.run(begin, replace) else {
                unreachable!("it is what it was")
            };
            self.rest(server);
            assert!(done.failures.is_empty(), "{:?}", done.failures);
            assert!(done.done.iter().all(|count| *count > 0), "{:?}", done.done);
        }
        *peak = rounds.resident.max(*peak);
        rounds.report(HANDSHAKES)
    }
}

/// Which of [`QUANTILES`] is judged, and how much worse it may be.
fn goal(name: &str) -> (usize, f64) {
    match name {
        OPERATORS => (OPERATORS_QUANTILE, RATIO_MAX),
        HANDSHAKES => (QUANTILES.len() - 1, HANDSHAKES_RATIO_MAX),
        _ => (QUANTILES.len() - 1, RATIO_MAX),
    }
}

/// Rounds of one attack.
struct Rounds<'a> {
    options: &'a Options,
    others: Option<&'a Others>,
    server: &'a Server,
    /// Whether the attack leaves nothing of the server's CPU.
    keeps_busy: bool,
    /// Of each round [`QUANTILES`], without it and with it, in microseconds.
    latencies: Vec<[[f64; 2]; 3]>,
    /// Answers without it and with it that count, in all rounds.
    kept: [u64; 2],
    /// Rounds, those that count for nothing among them.
    tries: usize,
    open: usize,
    ended: u64,
    busy: f64,
    /// Bytes of the server's memory, before all of it and at the most.
    before: u64,
    resident: u64,
}

impl<'a> Rounds<'a> {
    fn new(siege: &'a Siege, server: &'a Server) -> Self {
        let (options, others) = (&siege.options, siege.others.as_ref());
        let (open, ended, busy, resident) = (0, 0, 0.0, 0);
        let (latencies, kept, tries) = (Vec::new(), [0; 2], 0);
        let keeps_busy = false;
        let before = memory::resident_bytes(server.pid());
        Self {
            options,
            others,
            server,
            keeps_busy,
            latencies,
            kept,
            tries,
            open,
            ended,
            busy,
            before,
            resident,
        }
    }

    /// Whether there are fewer rounds than there should be. One of which the host left too little
    /// counts for nothing, and is repeated; but not for ever.
    fn want_more(&self) -> bool {
        let wanted = self.options.rounds as usize;
        self.latencies.len() < wanted && self.tries < TRIES * wanted
    }

    fn probe(&self) -> Histogram<u64> {
        probe(self.server.address, self.options.length, Slices::new(self.others))
    }

    /// One round: an attack begins after the time without it; `meanwhile` runs beside it.
    fn run(
        &mut self,
        begin: impl FnOnce() -> Attacker,
        meanwhile: impl FnOnce() + Send,
    ) -> Attacker {
        let without = self.probe();
        let mut attacker = begin();
        let is_over = AtomicBool::new(false);
        let with = thread::scope(|scope| {
            let over = Over(&is_over);
            scope.spawn(|| {
                worsen_priority();
                while !is_over.load(Ordering::Relaxed) {
                    attacker.turn();
                    thread::sleep(PAUSE);
                }
            });
            thread::sleep(self.options.ramp);
            let set_busy = |busy| self.others.map(|others| others.servers_are_busy(busy));
            set_busy(self.keeps_busy);
            let (before, began) = (cpu::nanos_used(self.server.pid()), Instant::now());
            let meanwhile = scope.spawn(meanwhile);
            let with = self.probe();
            let used = cpu::nanos_used(self.server.pid()) - before;
            self.busy = self.busy.max(used as f64 / began.elapsed().as_nanos() as f64);
            self.resident = self.resident.max(memory::resident_bytes(self.server.pid()));
            meanwhile.join().expect("it does not panic");
            set_busy(false);
            drop(over);
            with
        });
        if let Attacker::Herd(herd) = &attacker {
            self.open = self.open.max(herd.count());
            self.ended += herd.ended;
        }
        if let Attacker::Flood(flood) = &attacker {
            self.ended += flood.answered;
        }
        if let Attacker::Handshakes(handshakes) = &attacker {
            self.ended += handshakes.done.iter().sum::<u64>();
        }
        let both = [without, with];
        self.tries += 1;
        for (kept, latency) in self.kept.iter_mut().zip(&both) {
            *kept += latency.len();
        }
        if self.options.whole && both.iter().any(|latency| latency.len() < ANSWERS_MIN) {
            return attacker;
        }
        self.latencies.push(QUANTILES.map(|quantile| {
            both.each_ref().map(|latency| micros(latency.value_at_quantile(quantile)))
        }));
        attacker
    }

    /// Prints a line and returns how much longer UDP waits, of [`QUANTILES`].
    fn report(self, name: &str) -> [f64; 3] {
        let is_measured = !self.latencies.is_empty();
        assert!(is_measured, "the host and strangers leave nothing of {name} to look at");
        let seconds = (self.options.ramp + self.options.length).as_secs_f64();
        let rounds = f64::from(u32::try_from(self.tries).expect("a few"));
        let all_seconds = seconds * rounds;
        let middle = |quantile: usize, side: usize| {
            median(self.latencies.iter().map(|round| round[quantile][side]).collect())
        };
        let pairs = [0, 1, 2]
            .map(|quantile| format!("{:.0}, {:.0}", middle(quantile, 0), middle(quantile, 1)));
        let ratios = [0, 1, 2].map(|quantile: usize| {
            let of_round = |round: &[[f64; 2]; 3]| round[quantile][1] / round[quantile][0];
            self.latencies.iter().map(of_round).collect::<Vec<f64>>()
        });
        let least = ratios[2].iter().copied().fold(f64::INFINITY, f64::min);
        let most = ratios[2].iter().copied().fold(0.0, f64::max);
        let ratios = ratios.map(median);
        let announces = self.options.length.as_secs_f64() / PACE.as_secs_f64();
        let kept = self.kept.map(|kept| 100.0 * kept as f64 / announces / rounds);
        println!(
            "| {name} | {} | {:.0} | {:.2} | {} | {:.0}, {:.0} | {} \
             | {:.2} ({least:.2} to {most:.2}) |",
            self.open,
            self.ended as f64 / all_seconds,
            self.busy,
            self.resident >> 20,
            kept[0],
            kept[1],
            pairs.join(" | "),
            ratios[2],
        );
        ratios
    }
}

/// Tells an attacker that it is over: at the end of a round, and when it fails, lest the attack go
/// on for ever.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The middle one, or the mean of the two in the middle.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    if values.len() % 2 == 1 { values[half] } else { values[half - 1].midpoint(values[half]) }
}

/// Announces for that long, at its pace, whatever comes back: nanoseconds until each answer.
fn probe(server: SocketAddr, length: Duration, mut slices: Slices<'_>) -> Histogram<u64> {
    let socket = load::socket(0, server);
    let (id, mut rng) = (load::connect(&socket), Rng::new(3));
    socket.set_nonblocking(true).expect("an option");
    // What comes while the host has this CPU must not be lost.
    let _ = set_socket_recv_buffer_size(&socket, RECEIVE_BUFFER_BYTES);
    setsockopt(&socket, ReceiveTimestampns, &true).expect("an option");
    // When each was sent, on two clocks, and which peer it named; how long each answer took.
    let mut sent: Vec<(Instant, Duration, u32)> = Vec::new();
    let mut answers: Vec<(Instant, Duration)> = Vec::new();
    let (began, mut due) = (Instant::now(), Instant::now());
    let mut buffer = [0; 2_048];
    while answers.len() < sent.len() || began.elapsed() < length {
        let now = Instant::now();
        assert!(now < due + PATIENCE, "{} of {} answered", answers.len(), sent.len());
        slices.pass(now);
        if now >= due && now < began + length {
            due += PACE;
            let (swarm, peer) = SHAPE.leecher(0, &mut rng);
            let port = PORT + u16::try_from(peer).expect("a few peers");
            let announce = announce::announce(hash::info_hash(swarm), port, false, SHAPE.num_want);
            let number = u32::try_from(sent.len()).expect("a few thousand");
            let number = TransactionId(number.to_be_bytes());
            let mut request = [0; ANNOUNCE_BYTES];
            udp::write_announce_request(&mut request, id, number, &announce);
            socket.send(&request).expect("loopback takes it");
            sent.push((Instant::now(), since_1970(), peer));
        }
        wait(&socket, due.saturating_duration_since(Instant::now()));
        while let Some((len, arrived)) = receive(&socket, &mut buffer) {
            let number = [buffer[4], buffer[5], buffer[6], buffer[7]];
            let (since, left, peer) = sent[u32::from_be_bytes(number) as usize];
            answers.push((since, arrived.saturating_sub(left)));
            load::check(SHAPE, load::Server::Full, Some(peer), &buffer[..len]);
        }
    }
    slices.end();
    let mut latency = histogram();
    for (since, took) in answers {
        if slices.are_ours(since, since + took) {
            latency.saturating_record(u64::try_from(took.as_nanos()).expect("seconds"));
        }
    }
    latency
}

/// Takes an answer, if there is one: its length, and when the kernel got it from the server, which
/// may be long before this thread is told.
fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> Option<(usize, Duration)> {
    let mut control = nix::cmsg_space!(TimeSpec);
    let mut parts = [IoSliceMut::new(buffer)];
    let (fd, flags) = (socket.as_raw_fd(), MsgFlags::MSG_DONTWAIT);
    let answer = recvmsg::<()>(fd, &mut parts, Some(&mut control), flags).ok()?;
    let arrived = answer.cmsgs().expect("room for one").find_map(|message| match message {
        ControlMessageOwned::ScmTimestampns(time) => Some(Duration::from(time)),
        _ => None,
    });
    Some((answer.bytes, arrived.expect("the option is set")))
}

/// On the clock of arrivals.
fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock that is set")
}

/// Until an answer comes, or that long.
fn wait(socket: &UdpSocket, length: Duration) {
    let nanos = i64::from(length.subsec_nanos());
    let timeout = Timespec { tv_sec: 0, tv_nsec: nanos.max(1_000) };
    let _ = poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&timeout));
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_max(10_000_000_000, 3).expect("ten seconds")
}

fn micros(nanos: u64) -> f64 {
    nanos as f64 / 1_000.0
}

/// The calling thread goes behind all others, at once whenever one of them is ready: a bad
/// priority alone would let it end its slice of milliseconds first. Returns whether it has.
fn worsen_priority() -> bool {
    // On Linux priorities are those of threads.
    let _ = setpriority_process(None, 19);
    let thread = rustix::thread::gettid().as_raw_nonzero().to_string();
    let idle = Command::new("chrt").args(["--idle", "--pid", "0", &thread]).status();
    let is_last = idle.is_ok_and(|status| status.success());
    if !is_last {
        eprintln!("no chrt: what has no priority delays the answers, too");
    }
    is_last
}
