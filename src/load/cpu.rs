//! The CPU time of another process: what the work of its answers costs it.

use std::fs;
use std::io;

use super::plan::LoadError;

/// Reads the CPU time of one process.
#[derive(Clone, Copy, Debug)]
pub struct CpuClock {
    pid: u32,
    ticks_per_second: f64,
}

impl CpuClock {
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
    pub fn seconds(&self) -> Option<f64> {
        let ticks = read_ticks(self.pid).ok()?;
        Some(f64::from(u32::try_from(ticks).unwrap_or(u32::MAX)) / self.ticks_per_second)
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

#[cfg(test)]
mod tests {
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
        let clock = CpuClock::new(std::process::id()).expect("we run");
        let before = clock.seconds().expect("we run");
        assert!(before >= 0.0);
        assert!(clock.seconds().expect("we run") >= before);
    }

    #[test]
    fn a_process_that_is_not_there_is_an_error() {
        // Above the largest pid that Linux gives out.
        assert!(CpuClock::new(1 << 23).is_err());
    }
}
