//! What is left of the service when twice and ten times as much is asked for as can be done.
//!
//! The program runs with one worker on one CPU, the load on the next. A closed loop measures the
//! peak; then announces are sent at twice and at ten times that rate, whatever comes back. Goodput
//! is right answers a second: a reply counts when its counts, its length and its transaction id are
//! right, and a wrong one ends the bench.
//!
//! Ten times is really offered. The sender lets the kernel cut 64 datagrams out of one call (UDP
//! segmentation), which makes one cheaper than an answer by much, but perhaps not by ten: on
//! loopback the sender's CPU pays for the way up to the receiver's socket too, and for what is
//! dropped there. (With a network card a part of that would be the server's.) So the bench first
//! tries. If the sender falls short, busy loops share the server's CPU, as few as make its peak a
//! tenth of what can be sent; the bench says so, and every figure is of that smaller server. Then
//! the closed loop may find less than there is, because a server that waits for a request loses its
//! turn; so answers are also counted for each second of the server's CPU time, whose ratio does not
//! depend on who else runs.
//!
//! Latency counts from when a request was due. The bound beside it is what the queue of the
//! server's socket held at the most, plus the ring's receive buffers, at the goodput of that round,
//! plus what the sender may be late: an answer older than that would have waited somewhere else.
//!
//! Meanwhile one HTTP connection that stays open announces, and another asks for `/health`, one
//! request after the other: their latencies are given, for an idle server too. At the end clients
//! at half of the peak share the socket with junk at ten times the peak, which nobody answers.
//!
//! `cargo bench --bench overload` measures and asserts the goals; without `--bench` all runs once,
//! briefly, and only the answers are asserted. Environment: THRONG_OVERLOAD_ROUNDS (5),
//! THRONG_OVERLOAD_SECONDS (2), THRONG_OVERLOAD_SWARMS (10000), THRONG_OVERLOAD_PEERS (20 a swarm),
//! THRONG_OVERLOAD_BUFFER (`udp.receive_buffer` of the server in KiB, by default its own default).

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

#[path = "common/announce.rs"]
mod announce;
#[path = "common/clock.rs"]
mod clock;
#[path = "common/cpu.rs"]
mod cpu;
#[path = "common/hash.rs"]
mod hash;
#[path = "common/http.rs"]
mod http;
#[path = "common/load.rs"]
mod load;
#[path = "common/memory.rs"]
mod memory;
#[path = "common/open.rs"]
mod open;
#[path = "common/server.rs"]
mod server;

use cpu::{Cpu, Cpus, on};
use load::{Load, Server as Kind, Shape};
use open::{Junk, LAG_NANOS, Open, Outcome, Plan};
use server::Server;
use throng::dataplane::ring::Sizes;

/// Requests in flight at the peak.
const WINDOW: u32 = 256;
/// What the server may grow by after the first round.
const GROWTH_MAX_BYTES: u64 = 4 << 20;
/// Times the peak, and the share of the peak that must be left.
const LOADS: [(u64, f64); 2] = [(2, 0.95), (10, 0.90)];
/// The sender must reach so much of what it is told to offer.
const OFFERED_MIN: f64 = 0.9;
/// 99 of 100 answers are no older than so many times the bound: more than 1, because the server is
/// not equally fast all the time.
const AGE_MAX: f64 = 1.5;
/// Threads that share the server's CPU at the most.
const BURNERS_MAX: u64 = 8;
/// Of a thread that runs when no other has anything to do.
const NICE_MAX: i32 = 19;
/// Between two requests of a probe, two looks for its answer, and two looks at the queue.
const PAUSE: Duration = Duration::from_millis(2);
const LOOK: Duration = Duration::from_micros(100);
const QUEUE_LOOK: Duration = Duration::from_millis(20);
/// Counters that tell of queues that were too short.
const COUNTERS: [(&str, &str); 5] = [
    ("drops", "no_send_slot"),
    ("ring_enobufs", ""),
    ("ring_overflows", ""),
    ("udp_send_errors", ""),
    ("pending_scrapes", ""),
];

fn main() {
    let options = Options::new(std::env::args().any(|argument| argument == "--bench"));
    let cpus = Cpus::new();
    let start = || Server::start_with(None, |_| options.settings.clone());
    let Some(server) = on(cpus.server, start) else { return };
    on(cpus.client, || Bench::new(options, &server, &cpus).run());
}

/// How much of everything.
struct Options {
    whole: bool,
    rounds: usize,
    length: Duration,
    shape: Shape,
    /// Of the server.
    settings: Vec<String>,
}

impl Options {
    fn new(whole: bool) -> Self {
        let number = |name: &str, usual: u32, brief: u32| {
            let given = std::env::var(format!("THRONG_OVERLOAD_{name}")).ok();
            let default = if whole { usual } else { brief };
            given.and_then(|text| text.parse().ok()).unwrap_or(default)
        };
        // Connections that are idle at a peak for half a minute would be closed.
        let length = match number("SECONDS", 2, 0).min(20) {
            0 => Duration::from_millis(100),
            seconds => Duration::from_secs(seconds.into()),
        };
        Self {
            whole,
            rounds: number("ROUNDS", 5, 1).clamp(1, 1_000) as usize,
            length,
            shape: Shape::new(
                number("SWARMS", 10_000, 50).min(1_000_000),
                number("PEERS", 20, 20).min(1_000),
                50,
            ),
            settings: match number("BUFFER", 0, 0) {
                0 => Vec::new(),
                kibibytes => vec![format!("udp.receive_buffer={kibibytes}KiB")],
            },
        }
    }
}

/// All that runs beside the server.
struct Bench<'a> {
    options: Options,
    server: &'a Server,
    cpus: &'a Cpus,
    /// Threads that share the server's CPU.
    burners: Vec<Burner>,
    closed: Load,
    open: Open,
    announces: Probe,
    health: Probe,
    /// What one datagram takes in the socket's queue.
    bytes_each: u64,
}

/// What a flood came to.
struct Flood {
    outcome: Outcome,
    /// Bytes that the queue of the server's socket held at the most.
    held: u64,
    /// How much of a CPU the server used, and the client.
    busy: [f64; 2],
}

/// One load of one round.
struct Row {
    /// Announces a second, of those at the peak.
    offered: f64,
    /// Right answers a second, of those at the peak.
    goodput: f64,
    /// Answers for each second of the server's CPU time, of those at the peak.
    thrift: f64,
    latency: Histogram<u64>,
    bound_ms: f64,
}

impl<'a> Bench<'a> {
    fn new(options: Options, server: &'a Server, cpus: &'a Cpus) -> Self {
        let shape = options.shape;
        let mut closed = Load::new(server.address, shape, WINDOW);
        closed.connect();
        let filled = closed.fill();
        println!(
            "{} swarms of {} peers filled with {} announces",
            shape.swarms, shape.peers, filled.replies
        );
        // A swarm that the load does not announce to, so that its counts stay what they are.
        let apart = hash::info_hash(shape.swarms + 1);
        let announce = http::request(&apart, 30_000, shape.num_want);
        let health = b"GET /health HTTP/1.1\r\nHost: bench\r\n\r\n".to_vec();
        Self {
            open: Open::new(server.address, shape),
            announces: Probe::new(server.address, announce),
            health: Probe::new(server.admin(), health),
            bytes_each: open::bytes_queued_each(),
            options,
            server,
            cpus,
            burners: Vec::new(),
            closed,
        }
    }

    fn run(mut self) {
        self.probe_idle();
        // The first flood makes the server's memory as large as it gets.
        let (peak, _) = self.peak();
        self.shrink(peak);
        let counters = self.counters();
        let before = memory::resident_bytes(self.server.pid());
        println!(
            "| round | load | offered/s | goodput/s | of the peak | per CPU second, of the peak \
             | server busy | client busy | p50 ms | p99 ms | max ms | bound ms |"
        );
        println!("|---|---|---|---|---|---|---|---|---|---|---|---|");
        let mut rows: [Vec<Row>; 2] = Default::default();
        let mut peaks = Vec::new();
        for round in 0..self.options.rounds {
            let (peak, busy) = self.peak();
            peaks.push(peak);
            println!(
                "| {round} | peak, closed loop | | {peak} | 1 | 1 | {:.2} | {:.2} | | | | |",
                busy[0], busy[1]
            );
            // Now the one first, now the other.
            for at in [round % 2, 1 - round % 2] {
                let row = self.overload(round, LOADS[at].0, (peak, busy[0]));
                rows[at].push(row);
            }
        }
        let grown = memory::resident_bytes(self.server.pid()).saturating_sub(before);
        println!("memory of the server: {before} bytes, {grown} more after all rounds");
        for ((name, label), (before, after)) in
            COUNTERS.iter().zip(counters.into_iter().zip(self.counters()))
        {
            println!("{name} {label}: {before} before, {after} after all rounds");
        }
        self.report(&peaks, &rows);
        self.report_probes();
        self.junk(peaks[peaks.len() - 1]);
        if self.options.whole {
            assert!(grown <= GROWTH_MAX_BYTES, "the server has grown by {grown} bytes");
            assert_goals(&rows);
        }
    }

    /// Answers a second in a closed loop, and how busy server and client are.
    ///
    /// The client's CPU has no rest here either: where two CPUs are threads of a core, as those of
    /// a virtual machine often are, the one is faster while the other has nothing to do.
    fn peak(&mut self) -> (u64, [f64; 2]) {
        let _busy = self.cpus.client.map(|cpu| Burner::start(Some(cpu), NICE_MAX));
        let before = self.used();
        let totals = self.closed.drive(self.options.length, Kind::Full);
        assert!(totals.replies > 0, "no reply at all");
        (per_second(totals.replies, totals.elapsed), self.busy_since(before, totals.elapsed))
    }

    /// Makes the server so slow that the sender can offer ten times its peak.
    fn shrink(&mut self, peak: u64) {
        let wanted = 10 * peak;
        let Flood { outcome, .. } = self.flood(wanted, 0, self.options.length);
        let offered = per_second(outcome.sent[0], outcome.elapsed).max(1);
        let is_short = self.options.whole && 10 * offered < 9 * wanted;
        let count = if is_short { (wanted.div_ceil(offered) - 1).min(BURNERS_MAX) } else { 0 };
        println!(
            "of {wanted} announces/s the sender offers {offered}: {count} busy loops share the \
             server's CPU"
        );
        self.burners = (0..count).map(|_| Burner::start(self.cpus.server, 0)).collect();
    }

    /// Nanoseconds of CPU time of the server and of this thread.
    fn used(&self) -> [u64; 2] {
        [cpu::nanos_used(self.server.pid()), nanos(clock::time_of_thread())]
    }

    fn busy_since(&self, before: [u64; 2], elapsed: Duration) -> [f64; 2] {
        let after = self.used();
        [0, 1].map(|at| share(after[at] - before[at], nanos(elapsed)))
    }

    /// Announces and junk a second, for that long.
    fn flood(&mut self, announces: u64, junk: u64, length: Duration) -> Flood {
        let port = self.server.address.port();
        let (mut held, mut looked) = (0, Instant::now());
        let before = self.used();
        let mut outcome = self.open.run(&Plan { announces, junk, length }, |now| {
            self.announces.turn(now);
            self.health.turn(now);
            if now - looked > QUEUE_LOOK {
                looked = now;
                held = open::queue(port).0.max(held);
            }
        });
        let busy = self.busy_since(before, outcome.elapsed);
        self.announces.finish();
        self.health.finish();
        self.open.wait(&mut outcome);
        Flood { outcome, held, busy }
    }

    fn overload(&mut self, round: usize, times: u64, (peak, peak_busy): (u64, f64)) -> Row {
        let Flood { outcome, held, busy } = self.flood(times * peak, 0, self.options.length);
        let goodput = per_second(outcome.answers, outcome.elapsed);
        let offered = per_second(outcome.sent[0], outcome.elapsed);
        let waiting = held / self.bytes_each + u64::from(Sizes::WORKER.datagrams);
        let row = Row {
            offered: share(offered, peak),
            goodput: share(goodput, peak),
            thrift: share(goodput, peak) * peak_busy / busy[0],
            bound_ms: share(1_000 * waiting, goodput) + share(LAG_NANOS, 1_000_000),
            latency: outcome.latency,
        };
        println!(
            "| {round} | {times} x | {offered} | {goodput} | {:.2} | {:.2} | {:.2} | {:.2} | {:.1} \
             | {:.1} | {:.1} | {:.1} |",
            row.goodput,
            row.thrift,
            busy[0],
            busy[1],
            at(&row.latency, 0.5),
            at(&row.latency, 0.99),
            at(&row.latency, 1.0),
            row.bound_ms,
        );
        row
    }

    fn report(&self, peaks: &[u64], rows: &[Vec<Row>; 2]) {
        let [least, median, most] = spread(peaks.iter().map(|&peak| peak as f64));
        println!("peak: {median:.0} answers/s ({least:.0} to {most:.0})");
        println!(
            "| load | offered, of the peak | goodput, of the peak: median (spread) \
             | per CPU second, of the peak: median (spread) | p50 ms | p99 ms | max ms | bound ms |"
        );
        println!("|---|---|---|---|---|---|---|---|");
        for ((times, _), rows) in LOADS.iter().zip(rows) {
            let of = |part: fn(&Row) -> f64| spread(rows.iter().map(part));
            let offered = of(|row| row.offered);
            let goodput = of(|row| row.goodput);
            let thrift = of(|row| row.thrift);
            println!(
                "| {times} x | {:.1} | {:.2} ({:.2} to {:.2}) | {:.2} ({:.2} to {:.2}) | {:.1} \
                 | {:.1} | {:.1} | {:.1} |",
                offered[1],
                goodput[1],
                goodput[0],
                goodput[2],
                thrift[1],
                thrift[0],
                thrift[2],
                of(|row| at(&row.latency, 0.5))[1],
                of(|row| at(&row.latency, 0.99))[1],
                of(|row| at(&row.latency, 1.0))[2],
                of(|row| row.bound_ms)[1],
            );
        }
    }

    /// What the probes hear of a server that does nothing else.
    fn probe_idle(&mut self) {
        let end = Instant::now() + self.options.length / 2;
        while Instant::now() < end {
            let now = Instant::now();
            self.announces.turn(now);
            self.health.turn(now);
        }
        self.announces.finish();
        self.health.finish();
        println!("| meanwhile | requests | p50 ms | p99 ms | max ms |");
        println!("|---|---|---|---|---|");
        self.announces.report("HTTP announces, idle server");
        self.health.report("/health, idle server");
    }

    fn report_probes(&mut self) {
        println!("| meanwhile | requests | p50 ms | p99 ms | max ms |");
        println!("|---|---|---|---|---|");
        self.announces.report("HTTP announces, overload");
        self.health.report("/health, overload");
    }

    /// Clients at half of the peak, beside junk at ten times the peak.
    fn junk(&mut self, peak: u64) {
        println!("| junk | junk/s | junk dropped by the server/s | announces/s | answered |");
        println!("|---|---|---|---|---|");
        for (name, kind) in [
            ("none", None),
            ("wrong connection ids", Some(Junk::WrongId)),
            ("random bytes", Some(Junk::Garbage)),
        ] {
            let rate = if kind.is_some() { 10 * peak } else { 0 };
            if let Some(kind) = kind {
                self.open.set_junk(self.server.address, kind);
            }
            let before = self.server.metric("drops", "");
            let Flood { outcome, .. } = self.flood(peak / 2, rate, self.options.length);
            let dropped = self.server.metric("drops", "") - before;
            let answers = outcome.answers + outcome.late_answers;
            println!(
                "| {name} | {} | {} | {} | {:.1} % |",
                per_second(outcome.sent[1], outcome.elapsed),
                per_second(dropped, outcome.elapsed),
                per_second(outcome.sent[0], outcome.elapsed),
                100.0 * share(answers, outcome.sent[0]),
            );
            assert!(answers > 0, "nobody is served beside {name}");
        }
        self.announces.report("HTTP announces, junk");
        self.health.report("/health, junk");
    }

    fn counters(&self) -> Vec<u64> {
        // Workers publish four times a second.
        thread::sleep(Duration::from_millis(600));
        COUNTERS.iter().map(|(name, label)| self.server.metric(name, label)).collect()
    }
}

/// Panics unless the goals are met.
fn assert_goals(rows: &[Vec<Row>; 2]) {
    for ((times, least), rows) in LOADS.iter().zip(rows) {
        let [_, offered, _] = spread(rows.iter().map(|row| row.offered));
        let [_, goodput, _] = spread(rows.iter().map(|row| row.goodput));
        let [_, thrift, _] = spread(rows.iter().map(|row| row.thrift));
        let [_, old, _] = spread(rows.iter().map(|row| at(&row.latency, 0.99) / row.bound_ms));
        let reached = offered / *times as f64;
        assert!(reached >= OFFERED_MIN, "the sender only offers {reached:.2} of {times} times");
        assert!(goodput >= *least, "goodput at {times} times is {goodput:.2} of the peak");
        assert!(thrift >= *least, "a CPU second at {times} times yields {thrift:.2} of the peak's");
        assert!(old <= AGE_MAX, "answers are {old:.2} times as old as the queue makes them");
    }
}

/// A thread that does nothing on a CPU, for ten minutes at the most.
struct Burner {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Burner {
    fn start(cpu: Option<Cpu>, nice: i32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = thread::spawn(move || {
            let pinned = cpu.is_none_or(core_affinity::set_for_current);
            assert!(pinned, "a CPU that we may use");
            rustix::process::nice(nice).expect("anybody may have less");
            let end = Instant::now() + Duration::from_secs(600);
            while !stopped.load(Ordering::Relaxed) && Instant::now() < end {
                (0..10_000).for_each(|_| std::hint::spin_loop());
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Burner {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A connection that stays open and asks one request after the other, looked at now and then.
struct Probe {
    stream: TcpStream,
    request: Vec<u8>,
    asked: Option<Instant>,
    /// When it asks next, or looks for the answer.
    due: Instant,
    buffer: Box<[u8; 4_096]>,
    answer: Vec<u8>,
    latency: Histogram<u64>,
}

impl Probe {
    fn new(target: SocketAddr, request: Vec<u8>) -> Self {
        let stream = TcpStream::connect(target).expect("it listens");
        stream.set_nodelay(true).expect("loopback");
        stream.set_nonblocking(true).expect("a socket");
        let latency = Histogram::new_with_max(60_000_000, 3).expect("a minute at the most");
        let due = Instant::now();
        let (buffer, answer) = (Box::new([0; 4_096]), Vec::new());
        Self { stream, request, asked: None, due, buffer, answer, latency }
    }

    /// Asks if it is time, and reads what is there.
    fn turn(&mut self, now: Instant) {
        if now < self.due {
            return;
        }
        self.due = now + LOOK;
        let Some(asked) = self.asked else {
            self.stream.write_all(&self.request).expect("an empty socket has room");
            self.asked = Some(now);
            return;
        };
        match self.stream.read(&mut self.buffer[..]) {
            Ok(0) => panic!("closed: {}", self.answer.escape_ascii()),
            Ok(len) => self.answer.extend_from_slice(&self.buffer[..len]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return,
            Err(error) => panic!("{error}"),
        }
        if http::body(&self.answer).is_some() {
            let micros = u64::try_from(asked.elapsed().as_micros()).unwrap_or(u64::MAX);
            self.latency.saturating_record(micros);
            (self.asked, self.due) = (None, now + PAUSE);
            self.answer.clear();
        }
    }

    /// Waits for the answer to what has been asked.
    fn finish(&mut self) {
        let end = Instant::now() + Duration::from_secs(10);
        while self.asked.is_some() {
            assert!(Instant::now() < end, "no answer: {}", self.request.escape_ascii());
            thread::sleep(LOOK);
            self.turn(Instant::now());
        }
    }

    /// Prints and forgets.
    fn report(&mut self, name: &str) {
        let [p50, p99, max] = [0.5, 0.99, 1.0].map(|quantile| at(&self.latency, quantile));
        println!("| {name} | {} | {p50:.2} | {p99:.2} | {max:.2} |", self.latency.len());
        self.latency.reset();
    }
}

/// Milliseconds.
fn at(latency: &Histogram<u64>, quantile: f64) -> f64 {
    share(latency.value_at_quantile(quantile), 1_000)
}

fn per_second(count: u64, elapsed: Duration) -> u64 {
    count * 1_000_000_000 / nanos(elapsed).max(1)
}

fn nanos(elapsed: Duration) -> u64 {
    u64::try_from(elapsed.as_nanos()).expect("minutes")
}

fn share(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}

/// Least, median, most.
fn spread(values: impl Iterator<Item = f64>) -> [f64; 3] {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    [values[0], values[values.len() / 2], values[values.len() - 1]]
}
