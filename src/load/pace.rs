//! When requests are due.
//!
//! Closed loop: a new request for each answer, so a slow tracker is asked less. Open loop: at fixed
//! times whatever the tracker does, and latency counts from those times, so that a pause of the
//! tracker shows in every request that fell into it and not in one alone (the coordinated omission
//! of closed loops). Times are nanoseconds since the start; the clock is the caller's.

/// Nanoseconds of a second.
const SECOND: u128 = 1_000_000_000;

/// The due times of one thread's share of a rate: request k of thread t of n is due at
/// (k * n + t) / rate. Computed from k, never summed up, so there is no drift.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    /// Requests a second, of all threads.
    rate: u64,
    threads: u64,
    thread: u64,
    /// The request that is due next.
    next: u64,
}

impl Schedule {
    /// The share of `thread` of `threads`; neither may be 0, nor `rate`.
    #[must_use]
    pub const fn new(rate: u64, thread: u64, threads: u64) -> Self {
        Self { rate, threads, thread, next: 0 }
    }

    /// When the next request is due.
    #[must_use]
    pub fn due(&self) -> u64 {
        let number = u128::from(self.next) * u128::from(self.threads) + u128::from(self.thread);
        u64::try_from(number * SECOND / u128::from(self.rate)).unwrap_or(u64::MAX)
    }

    /// How many requests were due before `end` and have not been made.
    #[must_use]
    pub fn overdue(&self, end: u64) -> u64 {
        // The first number whose time is not before the end, rounded up to one of this thread's.
        let all = (u128::from(end) * u128::from(self.rate)).div_ceil(SECOND);
        let own = all.saturating_sub(u128::from(self.thread)).div_ceil(u128::from(self.threads));
        u64::try_from(own).unwrap_or(u64::MAX).saturating_sub(self.next)
    }
}

/// What one thread is to do.
#[derive(Clone, Debug)]
pub enum Work {
    /// Announce each of its peers until it has been answered once.
    Fill,
    /// Ask as the plan says until that time of the clock.
    Measure {
        /// The beginning of the measured time.
        start: u64,
        /// Its end.
        end: u64,
        /// When requests are due, from `start`; `None`: as soon as there is room.
        schedule: Option<Schedule>,
    },
}

impl Work {
    /// When the next request is due; `None` if none is before `now` and before the end, which may
    /// have passed since it was last looked at.
    pub fn due(&self, now: u64) -> Option<u64> {
        match self {
            Self::Measure { schedule: Some(schedule), start, end } => {
                Some(start + schedule.due()).filter(|due| *due <= now && due < end)
            }
            Self::Measure { schedule: None, .. } | Self::Fill => Some(now),
        }
    }

    /// When there is something to do though no answer comes: the end, or, if there is `room` for
    /// a request, the time when the next one is due.
    pub fn wake_at(&self, room: bool) -> u64 {
        match self {
            Self::Measure { schedule: Some(schedule), start, end } if room => {
                (start + schedule.due()).min(*end)
            }
            Self::Measure { end, .. } => *end,
            Self::Fill => u64::MAX,
        }
    }

    /// Whether it ends when every peer has announced.
    pub const fn is_fill(&self) -> bool {
        matches!(self, Self::Fill)
    }

    /// A request that was due is made.
    pub fn advance(&mut self) {
        if let Self::Measure { schedule: Some(schedule), .. } = self {
            schedule.next += 1;
        }
    }

    /// So many requests are not made after all.
    pub fn retreat(&mut self, count: usize) {
        if let Self::Measure { schedule: Some(schedule), .. } = self {
            schedule.next -= count as u64;
        }
    }

    /// Whether it is over.
    pub const fn is_over(&self, now: u64) -> bool {
        match self {
            Self::Fill => false,
            Self::Measure { end, .. } => now >= *end,
        }
    }

    /// Requests that were due before `now`, or the end, and not made.
    pub fn overdue(&self, now: u64) -> u64 {
        match self {
            Self::Measure { schedule: Some(schedule), start, end } => {
                schedule.overdue(now.min(*end).saturating_sub(*start))
            }
            Self::Measure { schedule: None, .. } | Self::Fill => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The due times of one thread below `end`.
    fn times(mut schedule: Schedule, end: u64) -> Vec<u64> {
        let mut times = Vec::new();
        while schedule.due() < end {
            times.push(schedule.due());
            schedule.next += 1;
        }
        times
    }

    #[test]
    fn threads_share_the_rate_evenly_in_time() {
        let second = 1_000_000_000;
        let mut all: Vec<u64> =
            (0..3).flat_map(|thread| times(Schedule::new(1_000, thread, 3), second)).collect();
        all.sort_unstable();
        let expected: Vec<u64> = (0..1_000).map(|number| number * 1_000_000).collect();
        assert_eq!(all, expected);
    }

    #[test]
    fn an_odd_rate_does_not_drift() {
        let hour = 3_600_000_000_000;
        let mut schedule = Schedule::new(7, 0, 1);
        for _ in 0..7 * 3_600 {
            assert!(schedule.due() < hour);
            schedule.next += 1;
        }
        assert_eq!(schedule.due(), hour);
    }

    #[test]
    fn nothing_is_due_at_the_end_however_late_it_is_asked_for() {
        let (start, second) = (5, 1_000_000_000);
        let schedule = Some(Schedule::new(300, 0, 1));
        let mut work = Work::Measure { start, end: start + second, schedule };
        let mut made = 0;
        while work.due(start + 2 * second).is_some() {
            work.advance();
            made += 1;
        }
        assert_eq!((made, work.overdue(start + 2 * second)), (300, 0));
    }

    #[test]
    fn what_was_due_and_not_made_is_known() {
        for (rate, thread, threads) in [(1_000, 0, 1), (1_000, 2, 3), (7, 1, 2), (1, 3, 4)] {
            for end in [0, 1, 999_999, 1_000_000, 1_000_001, 123_456_789, 5_000_000_000] {
                let mut schedule = Schedule::new(rate, thread, threads);
                let due = times(schedule, end).len() as u64;
                assert_eq!(schedule.overdue(end), due, "{rate} {thread} {threads} {end}");
                for _ in 0..due.min(2) {
                    schedule.next += 1;
                }
                assert_eq!(schedule.overdue(end), due - due.min(2));
            }
        }
    }
}
