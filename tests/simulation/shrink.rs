//! Runs plans, catches what fails, and makes it small by leaving events out.

use std::cell::Cell;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use super::model::Wrong;
use super::plan::Plan;
use super::report::Trace;
use super::run::Sim;

/// Runs that a failure is worth.
const TRIES_MAX: u32 = 3_000;

thread_local! {
    /// The event that is being played; `None`: panics are told as usual.
    static PLAYING: Cell<Option<usize>> = const { Cell::new(None) };
    static MESSAGE: Cell<String> = const { Cell::new(String::new()) };
}

/// What went wrong, and at which event; one past the last for what comes after them.
#[derive(Clone, Debug)]
pub struct Failure {
    pub event: usize,
    pub message: String,
}

/// A plan of which nothing can be left out.
#[derive(Clone, Debug)]
pub struct Small {
    pub plan: Plan,
    failure: Failure,
}

impl fmt::Display for Small {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:?}", self.plan.shape)?;
        for (index, event) in self.plan.events.iter().enumerate() {
            writeln!(f, "{index:4} {event:?}")?;
        }
        write!(f, "fails at event {}: {}", self.failure.event, self.failure.message)
    }
}

/// Keeps panics of runs to itself; whoever runs them tells about them.
fn listen() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if PLAYING.get().is_some() {
                MESSAGE.set(panic.to_string());
            } else {
                usual(panic);
            }
        }));
    });
}

/// Runs a plan from beginning to end.
///
/// # Errors
/// The first thing that is not as it must be.
pub fn run(plan: &Plan, wrong: Wrong) -> Result<Trace, Failure> {
    listen();
    PLAYING.set(Some(0));
    let played = catch_unwind(AssertUnwindSafe(|| {
        let mut sim = Sim::new(plan, wrong);
        for (index, event) in plan.events.iter().enumerate() {
            PLAYING.set(Some(index));
            sim.step(event);
        }
        PLAYING.set(Some(plan.events.len()));
        sim.end();
        sim.trace.events = plan.events.len() as u64;
        sim.trace.clone()
    }));
    let event = PLAYING.take().unwrap_or(0);
    played.map_err(|_| Failure { event, message: MESSAGE.take() })
}

/// Leaves out events, in ever smaller pieces, for as long as the rest fails in the same place.
pub fn shrink(plan: &Plan, wrong: Wrong, failure: &Failure) -> Small {
    let is_it = |other: &Failure| other.message.lines().next() == failure.message.lines().next();
    let mut small = Small { plan: plan.clone(), failure: failure.clone() };
    small.plan.events.truncate(failure.event + 1);
    match run(&small.plan, wrong) {
        Err(failure) if is_it(&failure) => small.failure = failure,
        _ => small.plan = plan.clone(),
    }
    let mut piece = small.plan.events.len().div_ceil(2).max(1);
    let mut tries = 0;
    loop {
        let mut at = 0;
        let before = small.plan.events.len();
        while at < small.plan.events.len() && tries < TRIES_MAX {
            let mut less = small.plan.clone();
            less.events.drain(at..(at + piece).min(less.events.len()));
            tries += 1;
            match run(&less, wrong) {
                Err(failure) if is_it(&failure) => small = Small { plan: less, failure },
                _ => at += piece,
            }
        }
        if piece == 1 && small.plan.events.len() == before || tries >= TRIES_MAX {
            return small;
        }
        piece = piece.div_ceil(2).max(1);
    }
}
