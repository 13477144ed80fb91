//! Who runs on which CPU, and what it used of it.

use std::fs::{File, read_dir, read_to_string};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use core_affinity::CoreId as Cpu;

/// The CPU of the server and that of the client.
pub struct Cpus {
    pub server: Option<Cpu>,
    pub client: Option<Cpu>,
}

impl Cpus {
    /// The first two that we may use; says which.
    pub fn new() -> Self {
        match core_affinity::get_core_ids().as_deref() {
            Some([server, client, ..]) => {
                println!("servers on CPU {}, client on CPU {}", server.id, client.id);
                Self { server: Some(*server), client: Some(*client) }
            }
            _ => {
                println!("one CPU only: server and client share it");
                Self { server: None, client: None }
            }
        }
    }
}

/// Runs `what` on a thread of that CPU. A child that it starts inherits the CPU.
///
/// # Panics
/// If `what` does.
pub fn on<T: Send>(cpu: Option<Cpu>, what: impl FnOnce() -> T + Send) -> T {
    let pinned = || {
        let pinned = cpu.is_none_or(core_affinity::set_for_current);
        assert!(pinned, "a CPU that we may use");
        what()
    };
    std::thread::scope(|scope| scope.spawn(pinned).join().expect("it does not panic"))
}

/// Nanoseconds on a CPU of all threads of a process, kernel work on their behalf included.
///
/// # Panics
/// If there is no such process.
pub fn nanos_used(pid: u32) -> u64 {
    let tasks = read_dir(format!("/proc/{pid}/task")).expect("it runs");
    let nanos = |task: PathBuf| first_number(&read_to_string(task.join("schedstat")).ok()?);
    tasks.flatten().filter_map(|task| nanos(task.path())).sum()
}

fn first_number(text: &str) -> Option<u64> {
    text.split(' ').next()?.parse().ok()
}

/// Hundredths of a second in which the host had a CPU that was wanted here, since the machine
/// started, all CPUs together; 0 where nobody counts that.
#[allow(dead_code, reason = "not every bench asks")]
pub fn stolen_ticks() -> u64 {
    // cpu  user nice system idle iowait irq softirq steal guest guest_nice
    let text = read_to_string("/proc/stat").unwrap_or_default();
    let line = text.lines().next().unwrap_or_default();
    line.split_ascii_whitespace().nth(8).and_then(|ticks| ticks.parse().ok()).unwrap_or(0)
}

/// Threads that have nothing to do with what is measured, and what they had of one CPU.
#[allow(dead_code, reason = "not every bench asks")]
pub struct Strangers {
    cpu: Option<Cpu>,
    threads: Vec<Stranger>,
    nanos: u64,
}

/// Of the flags in a thread's `stat`: PF_KTHREAD.
const KERNEL_THREAD: u64 = 0x0020_0000;

/// One of them.
struct Stranger {
    task: PathBuf,
    schedstat: File,
    /// Nanoseconds on any CPU so far.
    nanos: u64,
}

#[allow(dead_code, reason = "not every bench asks")]
impl Strangers {
    /// The threads of all programs but those of `ours` and this one, who are there by now. What the
    /// kernel does in threads of its own it may do for us, so those are no strangers; but for what
    /// watches by the clock which memory is in use.
    pub fn new(cpu: Option<Cpu>, ours: &[u32]) -> Self {
        let mut strangers = Self { cpu, threads: Vec::new(), nanos: 0 };
        for process in read_dir("/proc").into_iter().flatten().flatten() {
            let pid = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok());
            if pid.is_none_or(|pid| pid == std::process::id() || ours.contains(&pid)) {
                continue;
            }
            let path = process.path();
            let is_kernel = field(&path, 9).is_some_and(|flags| flags & KERNEL_THREAD != 0);
            let name = read_to_string(path.join("comm")).unwrap_or_default();
            if !is_kernel || name.starts_with("kdamond") {
                strangers.add(&path);
            }
        }
        strangers.pass();
        strangers.nanos = 0;
        strangers
    }

    fn add(&mut self, process: &Path) {
        for task in read_dir(process.join("task")).into_iter().flatten().flatten() {
            let task = task.path();
            if let Ok(schedstat) = File::open(task.join("schedstat")) {
                self.threads.push(Stranger { task, schedstat, nanos: 0 });
            }
        }
    }

    /// Nanoseconds that they had of that CPU since the beginning.
    pub fn pass(&mut self) -> u64 {
        for thread in &mut self.threads {
            let mut text = [0; 64];
            // Who has ended had his last words.
            let len = thread.schedstat.read_at(&mut text, 0).unwrap_or(0);
            let nanos = std::str::from_utf8(&text[..len]).ok().and_then(first_number);
            let nanos = nanos.unwrap_or(thread.nanos);
            let is_here = |cpu: Cpu| field(&thread.task, 39) == u64::try_from(cpu.id).ok();
            if nanos > thread.nanos && self.cpu.is_none_or(is_here) {
                self.nanos += nanos - thread.nanos;
            }
            thread.nanos = nanos;
        }
        self.nanos
    }
}

/// A number of those behind the name in a thread's `stat`, as proc_pid_stat(5) counts: from 3 on.
fn field(task: &Path, number: usize) -> Option<u64> {
    let text = read_to_string(task.join("stat")).ok()?;
    let (_, numbers) = text.rsplit_once(") ")?;
    numbers.split_ascii_whitespace().nth(number - 3)?.parse().ok()
}
