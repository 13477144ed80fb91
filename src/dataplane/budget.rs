//! The time that one turn may give to connections while datagrams wait.

use std::time::{Duration, Instant};

/// About what forty announces over HTTP take. Whatever connections do, datagrams wait no longer
/// than this, one unit of work more, and what the kernel does with what came of it.
const TURN: Duration = Duration::from_micros(200);

/// What is left of a turn.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    begun: Instant,
}

impl Budget {
    /// A whole one.
    #[must_use]
    pub fn begin() -> Self {
        Self { begun: Instant::now() }
    }

    /// When it was whole.
    #[must_use]
    pub const fn begun(&self) -> Instant {
        self.begun
    }

    /// Whether nothing is left of it at `now`.
    #[must_use]
    pub fn is_spent_at(&self, now: Instant) -> bool {
        now.duration_since(self.begun) >= TURN
    }

    /// Whether the rest must wait for the next turn. Who asks has done something first, so that
    /// everything goes on.
    #[must_use]
    pub fn is_spent(&self) -> bool {
        self.is_spent_at(Instant::now())
    }
}
