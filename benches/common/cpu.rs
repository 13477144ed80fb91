//! Who runs on which CPU, and what it used of it.

use std::fs::{read_dir, read_to_string};
use std::path::PathBuf;

pub use core_affinity::CoreId as Cpu;

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
