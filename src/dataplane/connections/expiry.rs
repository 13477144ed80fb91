//! Deadlines: who takes too long is closed, or told, as far as time allows.

use super::conn::{State, Step};
use super::{Connections, Progress, Slot};
use crate::dataplane::budget::Budget;
use crate::dataplane::ring::{Ring, Token};
use crate::time::Seconds;
use crate::tracker::Tracker;

/// Connections looked at between two looks at the time.
const LOOKS: usize = 1_024;

impl Connections {
    /// Deadlines are to be looked at, from the first connection on, unless that goes on still.
    pub const fn begin_expiry(&mut self) {
        if !self.is_expiring() {
            self.expiring = 0;
        }
    }

    /// Whether there are deadlines to be looked at.
    #[must_use]
    pub const fn is_expiring(&self) -> bool {
        self.expiring < self.slots.len()
    }

    /// Ends what has taken too long, and pings WebSockets, as far as time allows. Cost: one look at
    /// every connection, and a system call for each that ends.
    pub fn expire(
        &mut self,
        now: Seconds,
        budget: &Budget,
        tracker: &mut Tracker,
        ring: &mut Ring,
    ) {
        while self.is_expiring() {
            let index = self.expiring;
            self.expiring += 1;
            let acted = self.expire_one(now, index, tracker, ring);
            if (acted || index % LOOKS == LOOKS - 1) && budget.is_spent() {
                return;
            }
        }
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
