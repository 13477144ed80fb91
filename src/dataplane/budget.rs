//! The time that one turn may give to connections.

use std::time::{Duration, Instant};

/// About what forty announces over HTTP take.
const TURN: Duration = Duration::from_micros(200);
/// So long connections are served, or half as long as the last datagrams took if that is longer,
/// before datagrams are looked for again: they wait no longer than this, one unit of work more, and
/// what the kernel does with what came of it.
pub const LOOK: Duration = Duration::from_micros(50);

/// What is left of a turn.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    begun: Instant,
    ends: Instant,
}

impl Budget {
    /// A whole one.
    #[must_use]
    pub fn begin() -> Self {
        let begun = Instant::now();
        Self { begun, ends: begun + TURN }
    }

    /// As much of it as there may be between two looks for datagrams.
    #[must_use]
    pub fn until_look(&self) -> Self {
        Self { begun: self.begun, ends: self.ends.min(Instant::now() + LOOK) }
    }

    /// One of which nothing is left.
    #[cfg(test)]
    pub fn none() -> Self {
        let begun = Instant::now();
        Self { begun, ends: begun }
    }

    /// When it was whole.
    #[must_use]
    pub const fn begun(&self) -> Instant {
        self.begun
    }

    /// Whether nothing is left of it at `now`.
    #[must_use]
    pub fn is_spent_at(&self, now: Instant) -> bool {
        now >= self.ends
    }

    /// Whether the rest must wait for the next turn. Who asks has done something first, so that
    /// everything goes on.
    #[must_use]
    pub fn is_spent(&self) -> bool {
        self.is_spent_at(Instant::now())
    }
}
