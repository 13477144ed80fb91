//! What another process uses: CPU time and memory.

use std::fs;
use std::io;

use super::plan::LoadError;

/// Reads what one process uses.
#[derive(Clone, Copy, Debug)]
pub struct Process {
    pid: u32,
    ticks_per_second: f64,
}

impl Process {
    /// For a process that runs.
    ///
    /// # Errors
    /// If it does not, or /proc does not tell.
    pub fn new(pid: u32) -> Result<Self, LoadError> {
        read_ticks(pid).map_err(|source| LoadError::Process { pid, source })?;
        let ticks = u32::try_from(rustix::param::clock_ticks_per_second()).unwrap_or(100);
        Ok(Self { pid, ticks_per_second: f64::from(ticks.max(1)) })
    }

    /// Seconds of CPU time of all its threads, in user space and in the kernel; `None` once it has
    /// ended.
    pub fn cpu_seconds(&self) -> Option<f64> {
        let ticks = read_ticks(self.pid).ok()?;
        Some(f64::from(u32::try_from(ticks).unwrap_or(u32::MAX)) / self.ticks_per_second)
    }

    /// Bytes of its memory that are resident; `None` once it has ended.
    pub fn resident_bytes(&self) -> Option<u64> {
        let text = fs::read_to_string(format!("/proc/{}/statm", self.pid)).ok()?;
        parse_pages(&text)?.checked_mul(rustix::param::page_size() as u64)
    }
}

fn read_ticks(pid: u32) -> io::Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    parse_ticks(&text).ok_or_else(|| io::Error::other("its stat file is not as proc(5) has it"))
}

/// utime and stime, fields 14 and 15 of proc(5); field 2, the name, may have anything in it.
fn parse_ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(14 - 3);
    let mut time = || fields.next()?.parse::<u64>().ok();
    Some(time()? + time()?)
}

/// The second number of proc(5)'s statm: resident pages.
fn parse_pages(statm: &str) -> Option<u64> {
    statm.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn both_times_are_found_behind_any_name() {
        let stat = "12 (a) b (c) R 1 2 3 4 5 6 7 8 9 10 100 20 5 6";
        assert_eq!(parse_ticks(stat), Some(120));
        assert_eq!(parse_ticks("12 (a) R 1"), None);
        assert_eq!(parse_ticks(""), None);
    }

    #[test]
    fn our_own_time_only_grows() {
        let process = Process::new(std::process::id()).expect("we run");
        let seconds = || process.cpu_seconds().expect("we run");
        let before = seconds();
        let begun = Instant::now();
        while seconds() == before {
            assert!(begun.elapsed() < Duration::from_secs(60), "a minute costs nothing");
        }
        assert!(seconds() > before);
    }

    #[test]
    fn our_own_memory_is_some_megabytes() {
        assert_eq!(parse_pages("900 30 20 1 0 5 0"), Some(30));
        assert_eq!(parse_pages("900"), None);
        let process = Process::new(std::process::id()).expect("we run");
        assert!(process.resident_bytes().expect("we run") > 1 << 20);
    }

    #[test]
    fn a_process_that_is_not_there_is_an_error() {
        // Above the largest pid that Linux gives out.
        assert!(Process::new(1 << 23).is_err());
    }
}
