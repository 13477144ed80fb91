//! Deadlines: who takes too long is closed, or told, as far as time allows.
//!
//! Deadlines are whole seconds, and an attack's run out by the thousand. They are looked at a part
//! at a time over most of a second: the kernel frees closed sockets in bursts, as they were closed,
//! on the CPU of whoever is there.

use std::time::{Duration, Instant};

use super::conn::{State, Step};
use super::{Connections, Progress, Slot};
use crate::dataplane::budget::Budget;
use crate::dataplane::ring::{Ring, Token};
use crate::time::Seconds;
use crate::tracker::Tracker;

/// Connections looked at between two looks at the time.
const LOOKS: usize = 1_024;
/// In this time every connection is looked at. Some of each second is left, since a worker with
/// nothing else to do turns four times in a second, or a little less often.
const ROUND: Duration = Duration::from_millis(700);

/// How far a round has come.
#[derive(Debug)]
pub struct Expiry {
    /// The next slot to be looked at.
    next: usize,
    /// When this round began; none goes on otherwise.
    begun: Option<Instant>,
    /// The second of the last one.
    second: Option<Seconds>,
}

impl Expiry {
    /// No round has begun.
    pub const fn new() -> Self {
        Self { next: 0, begun: None, second: None }
    }

    /// Begins a round at `at`, unless one goes on still, or this second has had its own.
    fn begin(&mut self, now: Seconds, at: Instant) {
        if self.begun.is_none() && self.second != Some(now) {
            (self.begun, self.second) = (Some(at), Some(now));
        }
    }

    /// Ends the round if each of `slots` has been looked at.
    const fn end(&mut self, slots: usize) {
        if self.next >= slots {
            (self.next, self.begun) = (0, None);
        }
    }

    /// Before which of `slots` everything is to be looked at by `at`.
    fn due(&self, slots: usize, at: Instant) -> usize {
        let Some(begun) = self.begun else { return 0 };
        let passed = at.saturating_duration_since(begun).min(ROUND).as_micros();
        let due = slots as u128 * passed / ROUND.as_micros();
        usize::try_from(due).expect("at most `slots`")
    }
}

impl Connections {
    /// Deadlines are to be looked at from `at` on, once in each second. To be called several times
    /// in each.
    pub fn begin_expiry(&mut self, now: Seconds, at: Instant) {
        self.expiry.begin(now, at);
    }

    /// Whether there are deadlines to be looked at by `at`.
    #[must_use]
    pub fn is_expiring(&self, at: Instant) -> bool {
        self.expiry.next < self.expiry.due(self.slots.len(), at)
    }

    /// Ends what has taken too long, and pings WebSockets, as far as it is time for that and time
    /// allows. Cost: one look at every connection, and a system call for each that ends.
    pub fn expire(
        &mut self,
        now: Seconds,
        budget: &Budget,
        tracker: &mut Tracker,
        ring: &mut Ring,
    ) {
        let due = self.expiry.due(self.slots.len(), budget.begun());
        while self.expiry.next < due {
            let index = self.expiry.next;
            self.expiry.next += 1;
            let acted = self.expire_one(now, index, tracker, ring);
            if (acted || index % LOOKS == LOOKS - 1) && budget.is_spent() {
                return;
            }
        }
        self.expiry.end(self.slots.len());
    }

    /// Returns whether there was anything to do.
    fn expire_one(
        &mut self,
        now: Seconds,
        index: usize,
        tracker: &mut Tracker,
        ring: &mut Ring,
    ) -> bool {
        let Slot { generation, conn } = &mut self.slots[index];
        let Some(conn) = conn.as_mut() else { return false };
        let slot = u32::try_from(index).expect("bounded by descriptors");
        let token = Token::new(slot, *generation);
        let step = match conn.state {
            State::Open => conn.look_after(now, &self.limits),
            State::Closing => Step::Nothing,
            _ if conn.deadline >= now => Step::Nothing,
            State::Waiting { head_only, .. } => {
                let status = tracker.handle_late_http(conn.client, &mut self.body);
                conn.respond(status, &self.body, false, head_only);
                Step::Write
            }
            // What is in flight completes now, and its completion closes.
            State::Reading | State::Writing | State::Draining => Step::Close,
        };
        let is_late = u64::from(step == Step::Close);
        tracker.counters_mut().http_connections_timed_out[0] += is_late;
        self.proceed(now, token, Progress(step), ring);
        step != Step::Nothing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_comes_to_everybody_in_its_time_and_to_a_part_before() {
        let begun = Instant::now();
        let mut expiry = Expiry::new();
        expiry.begin(Seconds(0), begun);
        let due = |millis| expiry.due(1_400, begun + Duration::from_millis(millis));
        assert_eq!([0, 1, 350, 699, 700, 5_000].map(due), [0, 2, 700, 1_398, 1_400, 1_400]);
        assert_eq!(expiry.due(0, begun + ROUND), 0);
        assert_eq!(Expiry::new().due(1_400, begun + ROUND), 0);
    }

    #[test]
    fn everybody_is_looked_at_about_once_a_second_however_seldom_the_worker_turns() {
        const SLOTS: usize = 10;
        // Milliseconds between two turns, in tenths, and between two looks at the same connection.
        for (each, most) in
            [(5, 1_300), (2_505, 1_300), (2_600, 1_400), (3_340, 1_400), (9_000, 1_900)]
        {
            let (began, mut expiry) = (Instant::now(), Expiry::new());
            let mut looked = [0; SLOTS];
            for turn in 0..20_000_000 / each {
                let millis = turn * each / 10;
                let at = began + Duration::from_millis(millis);
                expiry.begin(Seconds(u32::try_from(millis / 1_000).expect("few")), at);
                let due = expiry.due(SLOTS, at);
                for looked in &mut looked[expiry.next..due] {
                    let gap = millis - std::mem::replace(looked, millis);
                    assert!((500..=most).contains(&gap) || gap == millis, "{gap} ms, {each}");
                }
                expiry.next = due;
                expiry.end(SLOTS);
            }
            assert!(looked.iter().all(|&at| 2_000_000 - at < 2_000), "{looked:?}");
        }
    }
}
