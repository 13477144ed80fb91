//! Deadlines: who takes too long is closed, or told, as far as time allows.
//!
//! A pass looks at every connection, and it takes its time; then the next one begins. What belonged
//! to closed sockets the kernel frees some milliseconds later, and all at once: 1,500 that were
//! closed in one go stopped the core for up to a millisecond, again and again, where as many that
//! were closed one by one cannot be seen. And who came together is due together, and often lies
//! side by side: so a pass goes through the places in an order that spreads neighbours.

use std::time::{Duration, Instant};

use super::conn::{State, Step};
use super::{Connections, Progress, Slot};
use crate::dataplane::budget::Budget;
use crate::dataplane::ring::{Ring, Token};
use crate::time::Millis;
use crate::tracker::Tracker;

/// Connections looked at between two looks at the time.
const LOOKS: usize = 1_024;
/// How long a pass takes. With what passes until the timer ends it, it is the time by which a
/// connection may end late: below a second.
const PASS: Duration = Duration::from_millis(700);

/// A pass over all connections.
#[derive(Clone, Copy, Debug)]
pub struct Pass {
    began: Instant,
    /// Connections that have been looked at.
    done: usize,
    /// Places for connections, and more: a power of two.
    places: usize,
}

impl Pass {
    pub fn new(began: Instant, connections: usize) -> Self {
        Self { began, done: 0, places: connections.next_power_of_two() }
    }

    /// How many should have been looked at by then.
    fn due(&self, at: Instant) -> usize {
        let passed = at.saturating_duration_since(self.began).min(PASS);
        // Places are below 2^32, and nanoseconds of a pass too.
        let due = self.places as u128 * passed.as_nanos() / PASS.as_nanos();
        usize::try_from(due).expect("not above the places")
    }

    /// The place that is next.
    const fn place(&self) -> usize {
        let bits = self.places.ilog2();
        // All bits of it reversed: shifted in two steps, for there may be none.
        self.done.reverse_bits() >> (usize::BITS - 1 - bits) >> 1
    }
}

impl Connections {
    /// Whether there are so many that a pause would leave too many for the end of a pass.
    #[must_use]
    pub const fn wants_pace(&self) -> bool {
        self.count() > LOOKS
    }

    /// Whether there are deadlines to be looked at by then.
    #[must_use]
    pub fn is_expiry_due(&self, now: Instant) -> bool {
        self.pass.done < self.pass.due(now)
    }

    /// Ends what has taken too long, and pings WebSockets, as far as a pass should have come, and
    /// as time allows. Cost: one look at each connection, and a system call for each that ends.
    pub fn expire(&mut self, now: Millis, budget: &Budget, tracker: &mut Tracker, ring: &mut Ring) {
        let mut pass = self.pass;
        let due = pass.due(budget.begun());
        while pass.done < due {
            let index = pass.place();
            pass.done += 1;
            let acted = self.expire_one(now, index, tracker, ring);
            if (acted || pass.done.is_multiple_of(LOOKS)) && budget.is_spent() {
                break;
            }
        }
        let is_over = pass.done == pass.places;
        self.pass = if is_over { Pass::new(budget.begun(), self.slots.len()) } else { pass };
    }

    /// Returns whether there was anything to do.
    fn expire_one(
        &mut self,
        now: Millis,
        index: usize,
        tracker: &mut Tracker,
        ring: &mut Ring,
    ) -> bool {
        let write_millis = self.limits.write_millis(self.writes);
        let Some(Slot { generation, conn }) = self.slots.get_mut(index) else { return false };
        let Some(conn) = conn.as_mut() else { return false };
        let slot = u32::try_from(index).expect("bounded by descriptors");
        let token = Token::new(slot, *generation);
        let step = match conn.state {
            State::Open => conn.look_after(now, &self.limits, write_millis),
            State::Writing if conn.is_write_late(now, write_millis) => Step::Close,
            State::Writing | State::Closing => Step::Nothing,
            _ if now < conn.deadline => Step::Nothing,
            State::Waiting { head_only, .. } => {
                let status = tracker.handle_late_http(conn.client, &mut self.body);
                conn.respond(status, &self.body, false, head_only);
                Step::Write
            }
            // What is in flight completes now, and its completion closes. Who does not end what he
            // began is not waited for: an end in order costs the kernel twice as much, and leaves
            // something of each connection behind for a minute.
            State::Reading if conn.head_began.is_some() => {
                conn.reset_at_end();
                Step::Close
            }
            State::Reading | State::Draining => Step::Close,
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

    /// The order in which a pass over so many looks at them.
    fn order(connections: usize) -> Vec<usize> {
        let mut pass = Pass::new(Instant::now(), connections);
        let mut order = Vec::new();
        while pass.done < pass.places {
            order.push(pass.place());
            pass.done += 1;
        }
        order.retain(|place| *place < connections);
        order
    }

    #[test]
    fn a_pass_looks_at_every_connection_once() {
        for connections in [1, 2, 3, 100, 1_024, 1_025, 15_000] {
            let mut order = order(connections);
            order.sort_unstable();
            assert!(order.into_iter().eq(0..connections));
        }
    }

    #[test]
    fn a_pass_spreads_neighbours_over_its_time() {
        let order = order(15_000);
        // A tenth of them, side by side: in each tenth of the pass about as many.
        for tenth in order.chunks(1_500) {
            let neighbours = tenth.iter().filter(|place| (4_000..5_500).contains(*place)).count();
            assert!((140..=160).contains(&neighbours), "{neighbours}");
        }
    }

    #[test]
    fn a_pass_comes_as_far_as_time_has_and_to_its_end() {
        let began = Instant::now();
        let pass = Pass::new(began, 1_000);
        for (millis, due) in
            [(0, 0), (7, 10), (350, 512), (699, 1_022), (700, 1_024), (9_999, 1_024)]
        {
            assert_eq!(pass.due(began + Duration::from_millis(millis)), due, "{millis}");
        }
        assert_eq!(pass.due(began.checked_sub(PASS).expect("it is long ago")), 0);
    }
}
