//! Who runs on which CPU, and what it used of it.

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
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("it runs");
    let nanos = |path: std::path::PathBuf| {
        let text = std::fs::read_to_string(path.join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<u64>().ok()
    };
    tasks.flatten().filter_map(|task| nanos(task.path())).sum()
}

/// Hundredths of a second in which the host had a CPU that was wanted here, since the machine
/// started, all CPUs together; 0 where nobody counts that.
#[allow(dead_code, reason = "not every bench asks")]
pub fn stolen_ticks() -> u64 {
    // cpu  user nice system idle iowait irq softirq steal guest guest_nice
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = text.lines().next().unwrap_or_default();
    line.split_ascii_whitespace().nth(8).and_then(|ticks| ticks.parse().ok()).unwrap_or(0)
}
