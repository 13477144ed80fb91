//! What others have of the server's CPU: programs that have nothing to do with it, and the host of
//! a virtual machine, which takes a CPU away for milliseconds and tells of it in hundredths of a
//! second.
//!
//! A thread of ours with the lowest priority keeps that CPU from ever sleeping. So whatever of its
//! time was neither that thread's, nor the servers', nor the kernel's own threads', was others'. It
//! also spares us what the host needs to wake a CPU up that has gone to sleep. Where the servers
//! never let the CPU sleep that thread rests: the scheduler owes it a thousandth of the CPU, and
//! having got that, all at once, it lets whoever missed it run before a worker that wakes up.

use std::cell::RefCell;
use std::fs::{File, read_dir, read_to_string};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use core_affinity::CoreId as Cpu;
use nix::time::ClockId;
use nix::unistd::Pid;

/// Of the flags in a thread's `stat`: PF_KTHREAD.
const KERNEL_THREAD: u64 = 0x0020_0000;
/// All clocks are read within this time, or again: what passes meanwhile would be others'.
const AT_ONCE: Duration = Duration::from_micros(20);
/// How often that is tried.
const TRIES: usize = 8;
/// What the thread that never sleeps does between two looks at its clock.
const SPINS: u32 = 200;

/// How finely it is looked at what others had of the server's CPU.
const SLICE: Duration = Duration::from_millis(2);
/// How much they may have in such a slice: nanoseconds. The clocks are not read all at once.
const OTHERS_MAX: i64 = 50_000;

/// Keeps the account.
pub struct Others {
    cpu: Cpu,
    servers: Vec<ClockId>,
    keeper: Keeper,
    kernel: RefCell<Vec<KernelThread>>,
    began: Instant,
}

/// The thread that never sleeps, but when it is told to.
struct Keeper {
    thread: Thread,
    state: Arc<KeeperState>,
}

#[derive(Default)]
struct KeeperState {
    /// Nanoseconds that it has had.
    nanos: AtomicU64,
    rests: AtomicBool,
}

/// A thread of the kernel's own; what it does it may do for us.
struct KernelThread {
    task: PathBuf,
    schedstat: File,
    /// Nanoseconds on any CPU, and on the server's.
    nanos: i64,
    here: i64,
}

impl Others {
    /// Begins; `servers` are processes that have no other CPU. `None` where that cannot be told.
    pub fn new(cpu: Option<Cpu>, servers: &[u32]) -> Option<Self> {
        let cpu = cpu?;
        let clock = |pid: &u32| {
            let pid = Pid::from_raw(i32::try_from(*pid).expect("a process"));
            ClockId::pid_cpu_clock_id(pid).expect("it runs")
        };
        Some(Self {
            cpu,
            servers: servers.iter().map(clock).collect(),
            keeper: Keeper::start(cpu)?,
            kernel: RefCell::new(kernel_threads()),
            began: Instant::now(),
        })
    }

    /// From now on the servers keep the CPU awake themselves, or do not. What they leave of it
    /// counts as others' meanwhile.
    pub fn servers_are_busy(&self, busy: bool) {
        self.keeper.state.rests.store(busy, Ordering::Relaxed);
        self.keeper.thread.unpark();
    }

    /// Nanoseconds that they have had, more or less: differences count.
    pub fn nanos(&self) -> i64 {
        let mut kernel = self.kernel.borrow_mut();
        let kernel: i64 = kernel.iter_mut().map(|thread| thread.nanos_on(self.cpu)).sum();
        let mut nanos = 0;
        for _ in 0..TRIES {
            let now = Instant::now();
            let servers: i64 = self.servers.iter().map(|clock| time_of(*clock)).sum();
            let keeper = self.keeper.state.nanos.load(Ordering::Relaxed);
            let keeper = i64::try_from(keeper).expect("years");
            let passed = i64::try_from((now - self.began).as_nanos()).expect("years");
            nanos = passed - servers - keeper - kernel;
            if now.elapsed() < AT_ONCE {
                break;
            }
        }
        nanos
    }
}

fn time_of(clock: ClockId) -> i64 {
    let time = clock.now().map(Duration::from).unwrap_or_default();
    i64::try_from(time.as_nanos()).expect("years")
}

impl Keeper {
    /// It ends with the process.
    fn start(cpu: Cpu) -> Option<Self> {
        let (started, is_last) = mpsc::channel();
        let state = Arc::new(KeeperState::default());
        let its_state = state.clone();
        let work = move || {
            let is_here = core_affinity::set_for_current(cpu);
            let is_last = is_here && super::worsen_priority();
            let _ = started.send(is_last);
            if !is_last {
                return;
            }
            loop {
                while its_state.rests.load(Ordering::Relaxed) {
                    thread::park();
                }
                let time = super::clock::time_of_thread();
                let nanos = u64::try_from(time.as_nanos()).expect("years");
                its_state.nanos.store(nanos, Ordering::Relaxed);
                (0..SPINS).for_each(|_| std::hint::spin_loop());
            }
        };
        let thread = thread::spawn(work).thread().clone();
        is_last.recv().is_ok_and(|is_last| is_last).then_some(Self { thread, state })
    }
}

/// Which parts of a time the server's CPU was ours.
pub struct Slices<'a> {
    others: Option<&'a Others>,
    /// When one begins, and what others had by then.
    all: Vec<(Instant, i64)>,
}

impl<'a> Slices<'a> {
    /// The first begins.
    pub fn new(others: Option<&'a Others>) -> Self {
        let mut slices = Self { others, all: Vec::new() };
        slices.end();
        slices
    }

    /// Looks whether a slice is over.
    pub fn pass(&mut self, now: Instant) {
        if self.all.last().is_some_and(|(begins, _)| now >= *begins + SLICE) {
            self.end();
        }
    }

    /// The last is over.
    pub fn end(&mut self) {
        let nanos = self.others.map_or(0, Others::nanos);
        self.all.push((Instant::now(), nanos));
    }

    /// Whether others took little of every slice that the time between the two is in, and of the
    /// one before it, whose work may have been left to them.
    pub fn are_ours(&self, from: Instant, to: Instant) -> bool {
        let first = self.all.partition_point(|(begins, _)| *begins <= from).saturating_sub(2);
        let last = self.all.partition_point(|(begins, _)| *begins < to);
        let slices = &self.all[first..self.all.len().min(last + 1)];
        slices.windows(2).all(|pair| pair[1].1 - pair[0].1 <= OTHERS_MAX)
    }
}

/// All that there are by now, but the one that watches by the clock which memory is in use.
fn kernel_threads() -> Vec<KernelThread> {
    let mut threads = Vec::new();
    for process in read_dir("/proc").into_iter().flatten().flatten() {
        let task = process.path();
        let is_kernel = field(&task, 9).is_some_and(|flags| flags & KERNEL_THREAD != 0);
        let name = read_to_string(task.join("comm")).unwrap_or_default();
        if is_kernel
            && !name.starts_with("kdamond")
            && let Ok(schedstat) = File::open(task.join("schedstat"))
        {
            let mut thread = KernelThread { task, schedstat, nanos: 0, here: 0 };
            thread.nanos = thread.nanos_on_all();
            threads.push(thread);
        }
    }
    threads
}

impl KernelThread {
    /// Nanoseconds on the server's CPU since the beginning.
    fn nanos_on(&mut self, cpu: Cpu) -> i64 {
        let nanos = self.nanos_on_all();
        if nanos > self.nanos && field(&self.task, 39) == u64::try_from(cpu.id).ok() {
            self.here += nanos - self.nanos;
        }
        self.nanos = nanos;
        self.here
    }

    fn nanos_on_all(&self) -> i64 {
        let mut text = [0; 64];
        // Who has ended had his last words.
        let len = self.schedstat.read_at(&mut text, 0).unwrap_or(0);
        let text = std::str::from_utf8(&text[..len]).ok();
        let number = text.and_then(|text| text.split(' ').next()?.parse().ok());
        number.unwrap_or(self.nanos)
    }
}

/// A number of those behind the name in a thread's `stat`, as proc_pid_stat(5) counts: from 3 on.
fn field(task: &Path, number: usize) -> Option<u64> {
    let text = read_to_string(task.join("stat")).ok()?;
    let (_, numbers) = text.rsplit_once(") ")?;
    numbers.split_ascii_whitespace().nth(number - 3)?.parse().ok()
}
