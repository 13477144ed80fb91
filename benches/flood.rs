//! A flood of invented swarms against a store that is full of them, beside swarms that people use.
//!
//! The budget is what a million swarms of one IPv4 peer take. Ten thousand real swarms of five
//! peers, each from a network of its own and one in five of IPv6, are there before the flood; each
//! peer announces again every 15 to 30 minutes. The flood is spread evenly over an hour of the
//! store's time, with a sweep every second, as a worker does it. A tenth as many real swarms begin
//! meanwhile, their peers ten seconds apart. All in one thread and without sockets.
//!
//! Four attackers: one address that announces to a new swarm each time, random IPv4 addresses,
//! random IPv6 /64s, and one who announces each swarm twice, from two networks. Such swarms look
//! like real ones, and nothing that a tracker sees tells them apart: there only the memory is
//! bounded, and how many real peers are left is what is reported.
//!
//! Announces are made in batches of 64, as the tracker makes them. Each is timed by one reading of
//! the clock, which is part of its time; so the longest may be another program's turn on the CPU.
//! Memory is what the process takes from the kernel beyond what it had before the store (but after
//! a small one, which brought code and allocator into memory), looked at once every second of the
//! store's time. Each attack runs in a process of its own.
//!
//! `cargo bench --bench flood` makes 50 million announces an attack; without `--bench` it is
//! 500,000 against a tenth of the budget and of the real swarms. Environment: THRONG_FLOOD_MILLIONS
//! (50).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::Command;
use std::time::Instant;

use hdrhistogram::Histogram;
use throng::rng::Rng;
use throng::swarm::{Arrival, Bounds, HashKey, Report, SwarmStore};
use throng::time::Seconds;
use throng::wire::addr::{Endpoint, Scope};
use throng::wire::id::{InfoHash, PeerId};

#[path = "common/hash.rs"]
mod hash;
#[path = "common/memory.rs"]
mod memory;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The argument that makes this program one attack; its number, the budget in bytes, the announces
/// and the real swarms follow.
const ATTACK: &str = "attack";
const START: u32 = 1_000;
/// How long the flood takes.
const SECONDS: u32 = 3_600;
const PEER_TTL_SECS: u32 = 3_000;
const BATCH: usize = 64;
/// Peers of a real swarm.
const PEERS: u32 = 5;
/// Seconds between two announces of a real peer.
const INTERVAL_SECS: std::ops::Range<u32> = 900..1_800;
/// The number of the first swarm that begins while the flood lasts.
const FIRST_NEWCOMER: u32 = 1_000_000;
/// Seconds between the peers of a swarm that begins while the flood lasts.
const NEWCOMER_SECS: u32 = 10;
/// The store may take so many times its budget.
const MEMORY_MAX: f64 = 1.1;
/// And this, where a huge page is much of the budget: the slab keeps up to two that are free,
/// its last one and the allocator's are begun, not full.
const HUGE_PAGES_BYTES: u64 = 8 << 20;
/// The budget below which that counts.
const SMALL_BYTES: u64 = 32 << 20;
/// So many of the real peers stay.
const KEPT_MIN: f64 = 0.99;

/// Who floods.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Attack {
    OneAddress,
    AnyV4,
    AnyV6,
    TwoNetworks,
}

impl Attack {
    const ALL: [Self; 4] = [Self::OneAddress, Self::AnyV4, Self::AnyV6, Self::TwoNetworks];

    const fn name(self) -> &'static str {
        match self {
            Self::OneAddress => "one address",
            Self::AnyV4 => "random IPv4 addresses",
            Self::AnyV6 => "random IPv6 /64s",
            Self::TwoNetworks => "each twice, from two IPv4 networks",
        }
    }

    /// The invented announce of that number.
    fn announce(self, number: u64) -> (InfoHash, Endpoint) {
        let swarm = if self == Self::TwoNetworks { number / 2 } else { number };
        let mut rng = Rng::new(swarm | 1 << 62);
        let words: [[u8; 8]; 3] = std::array::from_fn(|_| rng.next_u64().to_be_bytes());
        let bytes = words.as_flattened();
        let info_hash = InfoHash(std::array::from_fn(|i| bytes[i]));
        let mut rng = Rng::new(number | 1 << 61);
        let ip = match self {
            Self::OneAddress => Ipv4Addr::new(45, 1, 1, 1).into(),
            // 64.0.0.0/2: none is a real peer's.
            Self::AnyV4 | Self::TwoNetworks => v4(0x4000_0000 | rng.next_u32() >> 2),
            Self::AnyV6 => v6(0x2600 << 48 | rng.next_u64() >> 16),
        };
        (info_hash, Endpoint::new(ip, 6_881))
    }
}

fn v4(bits: u32) -> IpAddr {
    Ipv4Addr::from(bits).into()
}

/// The first address of a /64.
fn v6(network: u64) -> IpAddr {
    Ipv6Addr::from(u128::from(network) << 64 | 1).into()
}

/// The peers that people are: peer `n` is in swarm `n / PEERS`.
struct People {
    peers: Vec<Person>,
    /// The number of the first peer.
    first: u32,
    rng: Rng,
    /// Announces after the first, and how many found their peer still there.
    again: u64,
    found: u64,
}

struct Person {
    /// When the next announce is due.
    due: u32,
    is_known: bool,
}

impl People {
    /// Those of so many swarms, all of which are there at the beginning.
    fn before_the_flood(swarms: u32) -> Self {
        Self::new(0, swarms, |_, _| START)
    }

    /// Those of further swarms, which begin one after the other while the flood lasts, and early
    /// enough that each peer announces again; their peers come one by one.
    fn meanwhile(swarms: u32) -> Self {
        let beginnings = SECONDS - INTERVAL_SECS.end;
        let began = move |swarm: u32| swarm * beginnings / swarms;
        Self::new(FIRST_NEWCOMER, swarms, move |swarm, peer| {
            START + began(swarm) + peer * NEWCOMER_SECS
        })
    }

    fn new(first_swarm: u32, swarms: u32, due: impl Fn(u32, u32) -> u32) -> Self {
        let due = |number: u32| due(number / PEERS, number % PEERS);
        let peers = (0..swarms * PEERS).map(|n| Person { due: due(n), is_known: false }).collect();
        Self { peers, first: first_swarm * PEERS, rng: Rng::new(1), again: 0, found: 0 }
    }

    fn arrival(number: u32) -> Arrival {
        let ip = match number % PEERS {
            4 => v6(0x2a00 << 48 | u64::from(number)),
            _ => v4(0x1000_0000 | number),
        };
        arrival(hash::info_hash(number / PEERS), Endpoint::new(ip, 6_881), number.is_multiple_of(5))
    }

    /// Those announce whose time has come.
    fn announce(&mut self, store: &mut SwarmStore, now: u32) {
        let between = INTERVAL_SECS.end - INTERVAL_SECS.start;
        for (number, person) in (self.first..).zip(&mut self.peers) {
            if person.due <= now {
                let done = store.announce(Seconds(now), &Self::arrival(number));
                self.again += u64::from(person.is_known);
                self.found += u64::from(person.is_known && !done.joined);
                // The first time anywhere in an interval, so that they do not all come at once.
                let least = if person.is_known { INTERVAL_SECS.start } else { 1 };
                *person = Person { due: now + least + self.rng.below(between), is_known: true };
            }
        }
    }

    /// The share of them that the store has now.
    fn kept(&self, store: &mut SwarmStore, now: u32) -> f64 {
        let all = u32::try_from(self.peers.len()).expect("few");
        let mut kept = 0;
        for swarm in self.first / PEERS..(self.first + all) / PEERS {
            if let Some(swarm) = store.find(Seconds(now), &hash::info_hash(swarm)) {
                let counts = store.counts(swarm);
                kept += u64::from(counts.seeders + counts.leechers);
            }
        }
        share(kept, all.into())
    }
}

fn arrival(info_hash: InfoHash, endpoint: Endpoint, seeder: bool) -> Arrival {
    Arrival {
        info_hash,
        endpoint,
        scope: Scope::PUBLIC,
        peer_id: PeerId([0; 20]),
        report: Report { seeder, partial: false, completed: false },
    }
}

fn store(memory_bytes: usize) -> SwarmStore {
    let bounds = Bounds {
        memory_bytes,
        peers_per_swarm: 65_536,
        peer_ttl_secs: PEER_TTL_SECS,
        keep_peer_ids: false,
    };
    SwarmStore::new(bounds, HashKey(11, 22), Rng::new(33)).expect("address space")
}

/// The bytes of so many swarms of one IPv4 peer.
fn budget(swarms: u64) -> u64 {
    let mut store = store(8 << 30);
    for number in 0..swarms {
        let (info_hash, endpoint) = Attack::AnyV4.announce(number);
        store.announce(Seconds(START), &arrival(info_hash, endpoint, false));
    }
    assert_eq!(store.totals().swarms, swarms);
    store.totals().bytes
}

/// Invented announces and the time they took.
#[derive(Default)]
struct Timed {
    announces: u64,
    nanos: u64,
}

impl Timed {
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    fn each(&self) -> f64 {
        self.nanos as f64 / self.announces.max(1) as f64
    }
}

/// Announces in batches, and times each.
fn flood(
    store: &mut SwarmStore,
    now: u32,
    fakes: &[(InfoHash, Endpoint)],
    (timed, each): (&mut Timed, &mut Histogram<u64>),
) {
    let now = Seconds(now);
    for fakes in fakes.chunks(BATCH) {
        let began = Instant::now();
        let mut due = [(InfoHash([0; 20]), None); BATCH];
        for (due, (info_hash, endpoint)) in due.iter_mut().zip(fakes) {
            *due = (*info_hash, Some(*endpoint));
        }
        store.warm(&due[..fakes.len()]);
        let mut before = Instant::now();
        for (info_hash, endpoint) in fakes {
            store.announce(now, &arrival(*info_hash, *endpoint, false));
            let after = Instant::now();
            each.saturating_record(nanos(before, after));
            before = after;
        }
        timed.nanos += nanos(began, before);
        timed.announces += fakes.len() as u64;
    }
}

fn nanos(from: Instant, to: Instant) -> u64 {
    u64::try_from(to.duration_since(from).as_nanos()).unwrap_or(u64::MAX)
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn share(part: u64, whole: u64) -> f64 {
    part as f64 / whole as f64
}

/// One attack, from an empty store to the end of the hour.
fn attack(attack: Attack, budget: u64, announces: u64, real_swarms: u32) {
    let in_second = |second: u32| announces * u64::from(second) / u64::from(SECONDS);
    let mut each = Histogram::new_with_max(60_000_000_000, 3).expect("a minute at the most");
    let mut people = People::before_the_flood(real_swarms);
    let mut newcomers = People::meanwhile(real_swarms / 10);
    let longest = usize::try_from(in_second(1) + 1).expect("few");
    let mut fakes: Vec<_> = (0..longest as u64).map(|number| attack.announce(number)).collect();
    flood(&mut store(16 << 20), START, &fakes, (&mut Timed::default(), &mut each));
    each.reset();
    let before = memory::resident_bytes(std::process::id());
    let taken = || memory::resident_bytes(std::process::id()).saturating_sub(before);

    let mut store = store(usize::try_from(budget).expect("64 bits"));
    let (mut filling, mut full, mut most) = (Timed::default(), Timed::default(), 0);
    for second in 0..SECONDS {
        let now = START + second;
        people.announce(&mut store, now);
        newcomers.announce(&mut store, now);
        fakes.clear();
        fakes.extend((in_second(second)..in_second(second + 1)).map(|n| attack.announce(n)));
        let is_full = store.totals().evicted_swarms > 0;
        let timed = if is_full { &mut full } else { &mut filling };
        flood(&mut store, now, &fakes, (timed, &mut each));
        while store.sweep(Seconds(now)) {}
        most = taken().max(most);
    }
    let kept = people.kept(&mut store, START + SECONDS);
    let found = share(people.found, people.again);
    let totals = store.totals();
    println!(
        "| {} | {} | {:.0} | {:.0} | {:.1} | {:.2} | {} | {:.2} % | {:.2} % | {:.2} % \
         | {:.3} |",
        attack.name(),
        filling.announces + full.announces,
        filling.each(),
        full.each(),
        share(each.value_at_quantile(0.999), 1_000),
        share(each.max(), 1_000_000),
        totals.evicted_swarms,
        100.0 * kept,
        100.0 * found,
        100.0 * newcomers.kept(&mut store, START + SECONDS),
        share(most, budget),
    );
    store.check_invariants();
    assert!(totals.bytes <= budget);
    assert!(totals.evicted_swarms > announces / 4, "the store was full");
    let beside = if budget < SMALL_BYTES { HUGE_PAGES_BYTES } else { 0 };
    let taken = share(most.saturating_sub(beside), budget);
    assert!(taken <= MEMORY_MAX, "{most} bytes taken of a budget of {budget}");
    if attack != Attack::TwoNetworks {
        assert!(kept >= KEPT_MIN, "{kept} of the real peers are left");
        assert!(found >= KEPT_MIN, "{found} of the real announces found their peer");
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(at) = arguments.iter().position(|argument| argument == ATTACK) {
        let number = |index: usize| arguments[at + index].parse::<u64>().expect("a number");
        let which = Attack::ALL[usize::try_from(number(1)).expect("few")];
        return attack(which, number(2), number(3), u32::try_from(number(4)).expect("few"));
    }
    let whole = arguments.iter().any(|argument| argument == "--bench");
    let millions = std::env::var("THRONG_FLOOD_MILLIONS").ok().and_then(|text| text.parse().ok());
    let millions: u64 = millions.unwrap_or(50).clamp(1, 1_000);
    let (announces, fit, real_swarms) =
        if whole { (millions * 1_000_000, 1_000_000, 10_000) } else { (500_000, 100_000, 1_000) };
    let budget = budget(fit);
    println!(
        "budget {budget} bytes, {real_swarms} real swarms of {PEERS} peers; a reading of the clock \
         takes {:.0} ns",
        clock_nanos()
    );
    println!(
        "| attack | announces | ns each until full | ns each when full | 99.9th percentile us \
         | longest ms | swarms displaced | real peers left | real announces that found their peer \
         | peers left of swarms that began meanwhile | memory / budget |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|");
    let program = std::env::current_exe().expect("we run");
    for number in 0..Attack::ALL.len() as u64 {
        let arguments = [number, budget, announces, real_swarms].map(|number| number.to_string());
        let status = Command::new(&program).arg(ATTACK).args(arguments).status();
        assert!(status.is_ok_and(|status| status.success()), "what went wrong is said above");
    }
}

fn clock_nanos() -> f64 {
    const READINGS: u64 = 1_000_000;
    let began = Instant::now();
    for _ in 0..READINGS {
        std::hint::black_box(Instant::now());
    }
    share(nanos(began, Instant::now()), READINGS)
}
