//! The load generator: invented peers that ask a tracker for as much as it can give, and check
//! every answer.
//!
//! [`run`] starts threads, each with its own sockets, peers and counts, and puts together what they
//! counted. Nothing is shared while they run but a flag to stop and a few counters to look at. It
//! ends by itself: [`plan::Plan::check`] bounds the time, the requests under way and the waiting.
//!
//! It sends nothing to an address that is not loopback unless [`target::Target::parse`] was told
//! that the tracker belongs to whoever asks.

pub mod batch;
mod http;
mod pace;
pub mod plan;
pub mod population;
mod process;
pub mod report;
mod sockets;
pub mod tally;
pub mod target;
#[cfg(test)]
mod tests;
mod udp;
pub mod verify;
mod ws;

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Resource, getrlimit, setrlimit};

use pace::{Schedule, Work};
use plan::{LoadError, Pace, Plan, Transport};
use process::Process;
use report::{Phase, Progress, Report, Teller, Usage};
use tally::{Live, Tally};

/// How often whoever waits looks at what the threads do.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Peers asked for while peers are announced once each. Not 0: some trackers (aquatic, opentracker)
/// then give as many as they may.
const FILL_NUM_WANT: u32 = 1;
/// Connects tried by a socket before the tracker counts as silent.
const CONNECT_TRIES: u32 = 3;
/// While peers are announced once each: after so many timeouts without any right answer it is over.
const FILL_TIMEOUTS: u32 = 5;

/// How often lost requests are looked for, as a part of the timeout, and its bounds.
const EXPIRE_PART: u64 = 20;
const EXPIRE_NANOS_MIN: u64 = 1_000_000;
const EXPIRE_NANOS_MAX: u64 = 50_000_000;

/// Nanoseconds since the start of the run: one clock for all threads.
#[derive(Clone, Copy, Debug)]
struct Clock(Instant);

impl Clock {
    fn now(self) -> u64 {
        nanos(self.0.elapsed())
    }
}

/// Nanoseconds of a time that is bounded by hours.
fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// How often to look for lost requests.
fn expire_every(timeout: u64) -> u64 {
    (timeout / EXPIRE_PART).clamp(EXPIRE_NANOS_MIN, EXPIRE_NANOS_MAX)
}

/// What every thread knows of the others.
#[derive(Clone, Copy, Debug)]
struct Surroundings<'a> {
    plan: &'a Plan,
    stop: &'a AtomicBool,
    live: &'a Live,
}

impl Surroundings<'_> {
    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// One thread's sockets and peers.
trait Client: Send + Sized {
    /// Opens the sockets of that thread.
    fn open(plan: &Plan, clock: Clock, thread: u16) -> Result<Self, LoadError>;
    /// Finds out whether anybody answers.
    fn connect(&mut self, around: Surroundings<'_>) -> Result<(), LoadError>;
    /// Does it all.
    fn run(&mut self, work: Work, around: Surroundings<'_>) -> Tally;
}

/// Carries out a plan, telling `progress` about once a second. When `stop` becomes true it ends
/// early, with what has been measured until then.
///
/// # Errors
/// If the plan is out of bounds, a socket cannot be had, or nobody answers before the measured time
/// has begun.
pub fn run(
    plan: &Plan,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(&Progress),
) -> Result<Report, LoadError> {
    plan.check()?;
    match plan.target.transport {
        Transport::Udp => run_with::<udp::Client>(plan, stop, progress),
        Transport::Http => run_with::<http::Client>(plan, stop, progress),
        Transport::Ws => run_with::<ws::Client>(plan, stop, progress),
    }
}

fn run_with<C: Client>(
    plan: &Plan,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(&Progress),
) -> Result<Report, LoadError> {
    raise_open_files(plan)?;
    let process = plan.pid.map(Process::new).transpose()?;
    let resident_bytes = process.as_ref().and_then(Process::resident_bytes);
    let clock = Clock(Instant::now());
    let clients = (0..plan.threads).map(|thread| C::open(plan, clock, thread));
    let mut team = Team {
        clients: clients.collect::<Result<Vec<C>, _>>()?,
        live: (0..plan.threads).map(|_| Live::default()).collect(),
        plan,
        clock,
        stop,
    };
    team.each(&mut |_| (), |_, client, around| client.connect(around))
        .into_iter()
        .collect::<Result<Vec<()>, _>>()?;
    let fill = plan.fill.then(|| team.fill(progress));
    let measured = team.measure(process.as_ref(), progress);
    let interrupted = stop.load(Ordering::Relaxed);
    Ok(Report::new(plan, resident_bytes, fill.as_ref(), &measured, interrupted))
}

/// Files that are open besides the connections: standard streams, epoll, /proc, and some more.
const FILES_BESIDE: u64 = 64;

/// The soft limit of open files goes up to what the plan needs, if the hard one permits.
fn raise_open_files(plan: &Plan) -> Result<(), LoadError> {
    let each = match plan.target.transport {
        Transport::Udp => u64::from(plan.sources),
        Transport::Http | Transport::Ws => u64::from(plan.in_flight),
    };
    let needed = each * u64::from(plan.threads) + FILES_BESIDE;
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|files| files >= needed) {
        return Ok(());
    }
    limit.current = Some(needed);
    setrlimit(Resource::Nofile, limit).map_err(|error| LoadError::Io {
        what: format!("{needed} open files are needed (ulimit -n)"),
        source: error.into(),
    })
}

/// All threads.
struct Team<'a, C> {
    clients: Vec<C>,
    live: Vec<Live>,
    plan: &'a Plan,
    clock: Clock,
    stop: &'a AtomicBool,
}

impl<C: Client> Team<'_, C> {
    fn fill(&mut self, progress: &mut dyn FnMut(&Progress)) -> Phase {
        let start = self.clock.now();
        let mut teller = Teller::new("fill", None, progress);
        let fill = |_, client: &mut C, around: Surroundings<'_>| client.run(Work::Fill, around);
        let tallies = self.each(&mut |live| teller.look(live), fill);
        Phase::new(start, &tallies, Usage::default())
    }

    fn measure(&mut self, process: Option<&Process>, progress: &mut dyn FnMut(&Progress)) -> Phase {
        let start = self.clock.now();
        let end = start + nanos(self.plan.duration);
        let (clock, stop) = (self.clock, self.stop);
        let threads = u64::from(self.plan.threads);
        let schedule = |thread| match self.plan.pace {
            Pace::Closed => None,
            Pace::Open(rate) => Some(Schedule::new(rate, thread, threads)),
        };
        let schedules: Vec<_> = (0..threads).map(schedule).collect();
        let own = Process::new(std::process::id()).ok();
        let usage = || Usage {
            own_cpu_seconds: own.as_ref().and_then(Process::cpu_seconds),
            cpu_seconds: process.and_then(Process::cpu_seconds),
            resident_bytes: process.and_then(Process::resident_bytes),
        };
        let before = usage();
        let mut after = None;
        let mut teller = Teller::new("measured", Some(self.plan.duration), progress);
        let mut look = |live: &[Live]| {
            if after.is_none() && (clock.now() >= end || stop.load(Ordering::Relaxed)) {
                after = Some(usage());
            }
            teller.look(live);
        };
        let ask = |thread: usize, client: &mut C, around: Surroundings<'_>| {
            client.run(Work::Measure { start, end, schedule: schedules[thread] }, around)
        };
        let tallies = self.each(&mut look, ask);
        Phase::new(start, &tallies, after.unwrap_or_else(usage).since(&before))
    }

    /// Has every thread do its part, and looks at them meanwhile.
    fn each<T: Send>(
        &mut self,
        look: &mut dyn FnMut(&[Live]),
        act: impl Fn(usize, &mut C, Surroundings<'_>) -> T + Sync,
    ) -> Vec<T> {
        let Self { clients, live, plan, stop, .. } = self;
        let (live, act, plan, stop) = (&live[..], &act, *plan, *stop);
        thread::scope(|scope| {
            let threads: Vec<_> = (clients.iter_mut().zip(live).enumerate())
                .map(|(index, (client, live))| {
                    let around = Surroundings { plan, stop, live };
                    scope.spawn(move || act(index, client, around))
                })
                .collect();
            while !threads.iter().all(ScopedJoinHandle::is_finished) {
                thread::sleep(LOOK_EVERY);
                look(live);
            }
            let join = |thread: ScopedJoinHandle<'_, T>| thread.join().expect("it does not panic");
            threads.into_iter().map(join).collect()
        })
    }
}
