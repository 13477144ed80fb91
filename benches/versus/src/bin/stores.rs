//! Swarm stores in process, without kernel or sockets: what an announce costs, and a peer.
//!
//! Each store gets the same peers in the same order: first each of them once, into an empty store,
//! then announces of peers it knows, drawn at random. Popularity is skewed: a peer's swarm is
//! floor(swarms * u^4) for an even u in 0..1. An announce is everything between a parsed request
//! and the bytes of its reply: refresh the peer, count the swarm, choose 50 others, write them.
//! Requests are made in batches of 64 outside of the measured time; every store sees the same ones.
//!
//! A store lives in a process of its own, which this program starts from itself, so that the growth
//! of resident memory is the store's. They announce in turns, one at a time, on one CPU and with
//! one allocator. `throng_unbatched` is throng's store without its preparation for a batch.

use std::io::{BufRead, BufReader, Lines, Write};
use std::net::Ipv4Addr;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum, value_parser};
use core_affinity::CoreId as Cpu;
use mimalloc::MiMalloc;
use throng::rng::Rng;

#[cfg(feature = "aquatic")]
#[path = "../stores/aquatic.rs"]
mod aquatic;
#[path = "../../../common/hash.rs"]
mod hash;
#[path = "../stores/ours.rs"]
mod ours;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Announces prepared together, and answered together by a store that can.
const BATCH: u32 = 64;
const NUM_WANT: u16 = 50;
/// The port of every peer; their addresses differ.
const PORT: u16 = 6_881;
/// One batch in so many has its replies checked.
const CHECKED: u64 = 16;
/// Bytes of a reply's head: action, transaction, interval, leechers, seeders.
const HEAD_BYTES: usize = 20;
/// With fewer, pages and the allocator's first reserve outweigh the peers.
const PEERS_FOR_MEMORY: u32 = 500_000;
/// Bytes of the longest reply, with room.
const REPLY_BYTES: usize = 2_048;

/// What an announce costs in the swarm stores of several trackers, and what a peer does.
#[derive(Parser)]
struct Options {
    /// Swarms
    #[arg(long, default_value_t = 1_000)]
    swarms: u32,
    /// Peers over all swarms
    #[arg(long, default_value_t = 20_000, value_parser = value_parser!(u32).range(64..=1 << 28))]
    peers: u32,
    /// Turns of each store
    #[arg(long, default_value_t = 7, value_parser = value_parser!(u32).range(1..=1_000))]
    rounds: u32,
    /// Announces in a turn
    #[arg(long, default_value_t = 1_000_000)]
    announces: u32,
    /// The CPU of all stores
    #[arg(long, default_value_t = 0)]
    cpu: usize,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
    /// Be one store, driven over standard input
    #[arg(long, hide = true)]
    be: Option<Kind>,
}

/// The stores.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Kind {
    Throng,
    ThrongUnbatched,
    #[cfg(feature = "aquatic")]
    AquaticUdp,
}

impl Kind {
    fn name(self) -> String {
        self.to_possible_value().expect("none is skipped").get_name().to_owned()
    }
}

/// A peer that announces itself.
#[derive(Clone, Copy)]
struct Peer {
    number: u32,
    swarm: u32,
    seeder: bool,
}

impl Peer {
    /// The peer of that number: always the same one, in the same swarm. One in five is a seeder.
    fn new(number: u32, swarms: u32) -> Self {
        let even = Rng::new(u64::from(number)).next_u64() >> 32;
        let square = (even * even) >> 32;
        let skewed = (square * square) >> 32;
        let swarm = u32::try_from((u64::from(swarms) * skewed) >> 32).expect("below the swarms");
        Self { number, swarm, seeder: number.is_multiple_of(5) }
    }

    /// 16.0.0.0/4: public addresses, a new one for each number below 2^28.
    fn ip(self) -> Ipv4Addr {
        Ipv4Addr::from(0x1000_0000 | self.number)
    }
}

/// Who is in a swarm, by role.
#[derive(Clone, Copy, Default)]
struct Swarm {
    seeders: u32,
    leechers: u32,
}

/// A reply and its length.
type Reply = ([u8; REPLY_BYTES], usize);

/// A swarm store, called as its own tracker calls it.
trait Store {
    /// A request as the store's tracker has it after parsing.
    type Request;

    fn request(peer: Peer) -> Self::Request;

    /// Announces a batch and writes its replies.
    fn answer(&mut self, batch: &[Self::Request], replies: &mut [Reply]);

    /// Peers that the reply to `peer` chooses from, and the (seeders, leechers) it tells of.
    fn expected(peer: Peer, swarm: Swarm) -> (u32, (u32, u32));

    /// Panics if it lost a peer.
    fn check(&self, peers: u32);
}

fn main() {
    let options = Options::parse();
    match options.be {
        Some(Kind::Throng) => serve(&options, ours::Throng::new(true)),
        Some(Kind::ThrongUnbatched) => serve(&options, ours::Throng::new(false)),
        #[cfg(feature = "aquatic")]
        Some(Kind::AquaticUdp) => serve(&options, aquatic::Aquatic::new()),
        None => compare(&options),
    }
}

/// Starts every store, gives them turns, and prints what came of it.
fn compare(options: &Options) {
    let pinned = core_affinity::set_for_current(Cpu { id: options.cpu });
    assert!(pinned, "CPU {} cannot be used", options.cpu);
    let mut contenders: Vec<Contender> = Kind::value_variants()
        .iter()
        .map(|&kind| {
            eprintln!("{}: filling", kind.name());
            Contender::start(kind, options)
        })
        .collect();
    for round in 0..options.rounds {
        eprintln!("round {} of {}", round + 1, options.rounds);
        // Who is first goes around.
        let count = contenders.len();
        for turn in 0..count {
            contenders[(turn + round as usize) % count].round();
        }
    }
    for contender in &mut contenders {
        contender.rounds.sort_by(f64::total_cmp);
    }
    if options.json { json(options, &contenders) } else { table(options, &contenders) }
}

/// A store in its process.
struct Contender {
    kind: Kind,
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    insert_nanos: f64,
    bytes_per_peer: f64,
    peers_per_reply: f64,
    /// Nanoseconds per announce.
    rounds: Vec<f64>,
}

impl Contender {
    /// The store, full and warm.
    fn start(kind: Kind, options: &Options) -> Self {
        let program = std::env::current_exe().expect("we run");
        let mut command = Command::new(program);
        for (name, value) in [
            ("--swarms", options.swarms),
            ("--peers", options.peers),
            ("--announces", options.announces),
        ] {
            command.args([name, &value.to_string()]);
        }
        command.args(["--be", &kind.name()]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("it starts");
        let input = child.stdin.take().expect("a pipe");
        let output = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let (rounds, zero) = (Vec::new(), 0.0);
        let mut contender = Self {
            kind,
            child,
            input,
            output,
            insert_nanos: zero,
            bytes_per_peer: zero,
            peers_per_reply: zero,
            rounds,
        };
        [contender.insert_nanos, contender.bytes_per_peer, contender.peers_per_reply] =
            contender.numbers();
        contender
    }

    fn round(&mut self) {
        self.input.write_all(b"go\n").expect("it runs");
        let [nanos] = self.numbers();
        self.rounds.push(nanos);
    }

    fn numbers<const N: usize>(&mut self) -> [f64; N] {
        let line = self.output.next().expect("an answer").expect("text");
        let mut numbers = line.split(' ').map(|text| text.parse().expect("a number"));
        std::array::from_fn(|_| numbers.next().expect("enough of them"))
    }

    /// Least, median, most.
    fn spread(&self) -> [f64; 3] {
        let rounds = &self.rounds;
        [rounds[0], rounds[rounds.len() / 2], rounds[rounds.len() - 1]]
    }
}

impl Drop for Contender {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn table(options: &Options, contenders: &[Contender]) {
    println!(
        "{} swarms, {} peers, num_want {NUM_WANT}, {} rounds of {} announces\n",
        options.swarms, options.peers, options.rounds, options.announces
    );
    println!(
        "| store | ns per announce: median (least to most) | ratio to throng | ns per insertion | \
         bytes per peer | peers per reply |"
    );
    println!("|---|---|---|---|---|---|");
    let [_, ours, _] = contenders[0].spread();
    for contender in contenders {
        let [least, median, most] = contender.spread();
        let bytes = match options.peers {
            PEERS_FOR_MEMORY.. => format!("{:.1}", contender.bytes_per_peer),
            _ => "too few peers".to_owned(),
        };
        println!(
            "| {} | {median:.0} ({least:.0} to {most:.0}) | {:.2} | {:.0} | {bytes} | {:.1} |",
            contender.kind.name(),
            median / ours,
            contender.insert_nanos,
            contender.peers_per_reply
        );
    }
}

fn json(options: &Options, contenders: &[Contender]) {
    let stores: Vec<String> = contenders
        .iter()
        .map(|contender| {
            let rounds: Vec<String> = contender.rounds.iter().map(|n| format!("{n:.1}")).collect();
            format!(
                "{{\"store\":\"{}\",\"announce_ns\":[{}],\"insert_ns\":{:.1},\
                 \"bytes_per_peer\":{:.2},\"peers_per_reply\":{:.2}}}",
                contender.kind.name(),
                rounds.join(","),
                contender.insert_nanos,
                contender.bytes_per_peer,
                contender.peers_per_reply
            )
        })
        .collect();
    println!(
        "{{\"swarms\":{},\"peers\":{},\"num_want\":{NUM_WANT},\"announces\":{},\"stores\":[{}]}}",
        options.swarms,
        options.peers,
        options.announces,
        stores.join(",")
    );
}

/// Fills `store`, then announces whenever a line comes; the answers are lines of numbers.
fn serve<S: Store>(options: &Options, store: S) {
    let mut swarms = vec![Swarm::default(); options.swarms as usize];
    let mut driver = Driver { store, replies: vec![([0; REPLY_BYTES], 0); BATCH as usize] };
    let before = resident_bytes();
    let mut inserting = Duration::ZERO;
    for first in (0..options.peers).step_by(BATCH as usize) {
        let batch = first..options.peers.min(first + BATCH);
        let peers: Vec<Peer> = batch.map(|number| Peer::new(number, options.swarms)).collect();
        inserting += driver.answer(&peers);
        for peer in peers {
            let swarm = &mut swarms[peer.swarm as usize];
            *(if peer.seeder { &mut swarm.seeders } else { &mut swarm.leechers }) += 1;
        }
    }
    let mut rng = Rng::new(5);
    let mut round = || driver.round(options, &swarms, &mut rng);
    // Not counted: it lets the allocator give back what growth has left behind.
    let (_, peers_per_reply) = round();
    let grown = resident_bytes().saturating_sub(before);
    let each = |total: f64| total / f64::from(options.peers);
    let (insert, bytes) = (each(inserting.as_nanos() as f64), each(grown as f64));
    println!("{insert} {bytes} {peers_per_reply}");
    for _ in std::io::stdin().lines() {
        println!("{}", round().0);
    }
    driver.store.check(options.peers);
}

/// A store and where its replies go.
struct Driver<S> {
    store: S,
    replies: Vec<Reply>,
}

impl<S: Store> Driver<S> {
    /// The time that the store needs for `peers`.
    fn answer(&mut self, peers: &[Peer]) -> Duration {
        let requests: Vec<S::Request> = peers.iter().map(|&peer| S::request(peer)).collect();
        let start = Instant::now();
        self.store.answer(&requests, &mut self.replies);
        start.elapsed()
    }

    /// Nanoseconds an announce and peers a reply, of known peers at random.
    fn round(&mut self, options: &Options, swarms: &[Swarm], rng: &mut Rng) -> (f64, f64) {
        let mut elapsed = Duration::ZERO;
        let (mut announces, mut given) = (0_u64, 0_u64);
        while announces < u64::from(options.announces) {
            let peers: [Peer; BATCH as usize] =
                std::array::from_fn(|_| Peer::new(rng.below(options.peers), options.swarms));
            elapsed += self.answer(&peers);
            if announces.is_multiple_of(CHECKED * u64::from(BATCH)) {
                for (peer, (bytes, len)) in peers.iter().zip(&self.replies) {
                    check::<S>(*peer, swarms[peer.swarm as usize], &bytes[..*len]);
                }
            }
            given += self.replies.iter().map(|(_, len)| (len - HEAD_BYTES) as u64 / 6).sum::<u64>();
            announces += u64::from(BATCH);
        }
        (elapsed.as_nanos() as f64 / announces as f64, given as f64 / announces as f64)
    }
}

/// Panics unless this is the reply to that peer.
fn check<S: Store>(peer: Peer, swarm: Swarm, reply: &[u8]) {
    let word = |at: usize| {
        let bytes = reply[at..].first_chunk().expect("a whole head");
        u32::from_be_bytes(*bytes)
    };
    let (others, (seeders, leechers)) = S::expected(peer, swarm);
    let head = [1, peer.number, leechers, seeders];
    assert_eq!([word(0), word(4), word(12), word(16)], head, "{} in {}", peer.number, peer.swarm);
    let (chosen, rest) = reply[HEAD_BYTES..].as_chunks::<6>();
    assert!(rest.is_empty());
    assert_eq!(chosen.len(), others.min(u32::from(NUM_WANT)) as usize);
    for endpoint in chosen {
        let [a, b, c, d, port @ ..] = *endpoint;
        let ip = Ipv4Addr::new(a, b, c, d);
        assert!(port == PORT.to_be_bytes() && ip != peer.ip(), "{ip}");
    }
}

/// Resident memory of this process without its files, which are its own code.
fn resident_bytes() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let mut pages = text.split(' ').skip(1).map(|pages| pages.parse::<usize>().expect("a number"));
    let (resident, shared) = (pages.next().expect("all"), pages.next().expect("of files"));
    (resident - shared) * rustix::param::page_size()
}
