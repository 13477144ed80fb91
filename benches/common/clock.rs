//! The clock of one thread, which stands still while other programs have the CPU.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Time that this thread has had a CPU.
pub fn time_of_thread() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let nanos = u32::try_from(time.tv_nsec).expect("below a second");
    Duration::new(u64::try_from(time.tv_sec).expect("not negative"), nanos)
}
