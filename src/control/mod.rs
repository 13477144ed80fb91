//! One thread's I/O, for operators. Slow is fine, wrong is not; no worker ever waits for it.

pub mod admin;
pub mod certificates;
mod clients;
mod metrics;
pub mod pages;
pub mod signals;
mod stats;

use std::sync::Arc;
use std::time::Instant;

use crate::tracker::counters::Counters;
use crate::tracker::published::{Pages, Published};

/// What the control plane knows of the workers.
#[derive(Clone, Debug)]
pub struct State {
    published: Arc<[Arc<Published>]>,
    started: Instant,
}

impl State {
    /// Reads what the workers publish.
    #[must_use]
    pub fn new(published: Arc<[Arc<Published>]>) -> Self {
        Self { published, started: Instant::now() }
    }

    /// Whether every worker serves.
    fn is_healthy(&self) -> bool {
        self.published.iter().all(|worker| worker.is_serving())
    }

    /// The counters of each worker, as last published.
    fn counters(&self) -> Vec<Counters> {
        self.published.iter().map(|worker| worker.counters()).collect()
    }

    /// The public statistics as they are now.
    #[must_use]
    pub fn pages(&self) -> Pages {
        let mut seen = [Vec::new(), Vec::new()];
        for worker in self.published.iter() {
            for (seen, more) in seen.iter_mut().zip(worker.clients()) {
                seen.extend(more);
            }
        }
        pages::prepare(&self.total(), &seen)
    }

    /// The counters of all workers together.
    fn total(&self) -> Counters {
        let mut total = Counters::default();
        self.counters().iter().for_each(|counters| total.add(counters));
        total
    }
}
