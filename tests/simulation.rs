//! Whole worlds in virtual time, each from one seed.
//!
//! Up to eight cores, each a real `Tracker`, and up to thousands of clients that behave like those
//! that there are, with a network and cores that fail them. Beside them a naive tracker says what
//! each answer must be. A world is drawn as a list of events before it begins, so what fails is
//! repeated from its seed, and made as small as it gets.
//!
//! ```text
//! THRONG_SIM_SEEDS=100000 cargo test --release --test simulation seeds -- --nocapture
//! THRONG_SIM_SEED=123 cargo test --release --test simulation one_seed -- --nocapture
//! ```
//!
//! `THRONG_SIM_FIRST` is the first seed, 0 if it is not set.

mod support;

#[path = "simulation/draft.rs"]
mod draft;
#[path = "simulation/end.rs"]
mod end;
#[path = "simulation/http.rs"]
mod http;
#[path = "simulation/model.rs"]
mod model;
#[path = "simulation/plan.rs"]
mod plan;
#[path = "simulation/report.rs"]
mod report;
#[path = "simulation/run.rs"]
mod run;
#[path = "simulation/shrink.rs"]
mod shrink;
#[path = "simulation/udp.rs"]
mod udp;
#[path = "simulation/web.rs"]
mod web;

use std::time::Duration;

use model::Wrong;
use plan::Plan;
use report::{Fault, Trace};
use shrink::{run, shrink};

/// Seeds of an ordinary run: few enough for a few seconds without optimisation.
const SEEDS: u64 = 150;
/// Seeds among which every planted mistake is found.
const CANARY_SEEDS: u64 = 60;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|error| panic!("{name}: {error}")))
}

/// What this thread has used of the processor.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    let nanos = u32::try_from(time.tv_nsec).expect("below 10^9");
    Duration::new(u64::try_from(time.tv_sec).expect("it began at 0"), nanos)
}

/// Runs a seed twice. A failure is made small and told with the command that repeats it.
fn try_seed(seed: u64) -> Trace {
    let plan = Plan::generate(seed);
    match run(&plan, Wrong::No) {
        Ok(trace) => {
            let again = run(&plan, Wrong::No).expect("it has just succeeded");
            assert_eq!(trace, again, "seed {seed} is not the same twice");
            trace
        }
        Err(failure) => {
            eprintln!("seed {seed} fails at event {}: {}", failure.event, failure.message);
            eprintln!(
                "repeat it:\n  THRONG_SIM_SEED={seed} cargo test --release --test simulation \
                 one_seed -- --nocapture"
            );
            let small = shrink(&plan, Wrong::No, &failure);
            eprintln!("{small}");
            panic!("seed {seed}: {}", failure.message)
        }
    }
}

#[test]
fn seeds() {
    let count = number("THRONG_SIM_SEEDS").unwrap_or(SEEDS);
    let first = number("THRONG_SIM_FIRST").unwrap_or(0);
    let began = cpu_time();
    let mut total = Trace::default();
    let mut told = Duration::ZERO;
    for seed in first..first + count {
        total.add(&try_seed(seed));
        let used = cpu_time() - began;
        if used - told > Duration::from_secs(30) {
            told = used;
            eprintln!("{} of {count} seeds, {} events", seed + 1 - first, total.events);
        }
    }
    let used = (cpu_time() - began).as_secs_f64();
    // Each seed runs twice.
    let speed = 2.0 * total.seconds as f64 / used;
    eprintln!(
        "{count} seeds, {} events, {} virtual seconds, {speed:.0} virtual seconds per CPU second, \
         {used:.1} s, {} answers brought; {}",
        total.events,
        total.seconds,
        total.answers,
        total.faults()
    );
    if count >= SEEDS {
        for fault in Fault::ALL {
            assert!(total.happened(fault) > 0, "{fault:?} has never happened");
        }
        assert!(total.answers > 0, "no answer has ever been brought");
    }
}

/// The one seed that `THRONG_SIM_SEED` names, if any.
#[test]
fn one_seed() {
    if let Some(seed) = number("THRONG_SIM_SEED") {
        let trace = try_seed(seed);
        eprintln!("seed {seed}: {} events, {}", trace.events, trace.faults());
    }
}

/// A simulation that cannot fail is worth nothing: each planted mistake is found.
#[test]
fn planted_mistakes_are_found() {
    let mistakes =
        [Wrong::Expiry, Wrong::Stop, Wrong::Asker, Wrong::Completed, Wrong::Seeders, Wrong::Close];
    for wrong in mistakes {
        let fails = |seed: &u64| run(&Plan::generate(*seed), wrong).is_err();
        let found = (0..CANARY_SEEDS).find(fails);
        assert!(found.is_some(), "{wrong:?} is not found");
    }
}

/// What fails is made smaller, and still fails.
#[test]
fn failures_shrink() {
    let (plan, failure) = (0..CANARY_SEEDS)
        .map(Plan::generate)
        .find_map(|plan| Some((plan.clone(), run(&plan, Wrong::Stop).err()?)))
        .expect("some seed finds it");
    let small = shrink(&plan, Wrong::Stop, &failure);
    assert!(small.plan.events.len() < 10, "{small}");
    assert!(run(&small.plan, Wrong::Stop).is_err());
}
