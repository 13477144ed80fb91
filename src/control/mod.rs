//! One thread's I/O, for operators. Slow is fine, wrong is not; no worker ever waits for it.

pub mod admin;
pub mod certificates;
mod clients;
mod dashboard;
pub mod door;
pub mod finding;
pub mod health;
pub mod kernel;
pub mod lists;
pub mod log;
mod metrics;
pub mod pages;
pub mod samples;
pub mod signals;
mod stats;
pub mod swarms;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::process::{Resource, getrlimit};
use serde::Serialize;
use tokio::sync::watch::Sender;

use self::certificates::End;
use self::finding::Finding;
use self::health::View;
use self::kernel::Reader;
use self::lists::Lists;
use self::log::LogFilter;
use self::samples::{History, Moment, Sample, WorkerSample, hottest_ratio, workers_between};
use self::swarms::{Ask, Asked, Forgotten, Peer, Peers, Swarm, Swarms};
use crate::time::Seconds;
use crate::tracker::Tracker;
use crate::tracker::census::ClientId;
use crate::tracker::counters::Counters;
use crate::tracker::published::{Pages, Published};
use crate::tracker::survey::Survey;
use crate::wire::id::InfoHash;

/// Seconds between two moments that are kept, and how many: enough to look back a minute.
const MOMENT_SECONDS: usize = 10;
const MOMENTS: usize = 7;
/// A worker does a turn every 250 ms at the least, and tells of it. Samples are counted, and not
/// seconds: after a pause of the whole process nobody is stuck.
const STUCK_AFTER_SAMPLES: u32 = 5;
/// How long a worker may take to answer a question: it looks for one on every turn.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// What the control plane knows of the workers.
#[derive(Clone)]
pub struct State {
    published: Arc<[Arc<Published>]>,
    started: Instant,
    /// Seconds since 1970.
    started_at: f64,
    /// Where peers are served, in words.
    listeners: Arc<[String]>,
    reader: Arc<Reader>,
    known: Arc<Mutex<Known>>,
    /// The newest sample with everything that belongs to it, in JSON.
    news: Sender<Arc<str>>,
    ask: Ask,
    lists: Lists,
    log: Arc<LogFilter>,
    certificates: Arc<Mutex<Vec<End>>>,
}

/// What the control plane has of the workers.
pub struct Parts {
    /// What each publishes.
    pub published: Arc<[Arc<Published>]>,
    /// Asks them about a swarm.
    pub ask: Ask,
    /// What the kernel counts.
    pub reader: Reader,
    /// Where peers are served, in words.
    pub listeners: Vec<String>,
    /// The access lists.
    pub lists: Lists,
    /// What is logged.
    pub log: Arc<LogFilter>,
    /// When the certificates end.
    pub certificates: Vec<End>,
}

/// What those who listen are told every second.
#[derive(Serialize)]
struct News<'a> {
    sample: Option<&'a Sample>,
    workers: &'a [WorkerSample],
    findings: Vec<Finding>,
}

/// What the control plane remembers.
#[derive(Debug)]
struct Known {
    now: Moment,
    /// Some seconds apart, oldest first; never empty.
    moments: VecDeque<Moment>,
    history: History,
    /// Samples taken.
    samples: usize,
    /// By worker.
    moved: Vec<Moved>,
}

/// Whether a worker goes on.
#[derive(Clone, Copy, Debug, Default)]
struct Moved {
    /// Turns that it had done when it was last looked at.
    turns: u64,
    /// How often it had done no more than before.
    still: u32,
}

impl State {
    /// Reads what the workers publish, and what the kernel says.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let Parts { published, ask, reader, listeners, lists, log, certificates } = parts;
        let started = Instant::now();
        let moment =
            Moment { at: Duration::ZERO, workers: counters(&published), kernel: reader.read() };
        let known = Known {
            now: moment.clone(),
            moments: [moment].into(),
            history: History::default(),
            samples: 0,
            moved: vec![Moved::default(); published.len()],
        };
        Self {
            published,
            started,
            started_at: seconds_since_1970(),
            listeners: listeners.into(),
            reader: Arc::new(reader),
            known: Arc::new(Mutex::new(known)),
            news: Sender::new("".into()),
            ask,
            lists,
            log,
            certificates: Arc::new(Mutex::new(certificates)),
        }
    }

    /// Other certificates are in force.
    pub fn set_certificates(&self, ends: Vec<End>) {
        *self.certificates() = ends;
    }

    fn certificates(&self) -> MutexGuard<'_, Vec<End>> {
        self.certificates.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a sample. Call it every second. It sleeps for some milliseconds: a thread of its
    /// own could not be made where the kernel has no memory left.
    pub fn sample(&self) {
        let now = Moment {
            at: self.started.elapsed(),
            workers: counters(&self.published),
            kernel: self.reader.read(),
        };
        let mut known = self.known();
        let workers = now.workers.iter().zip(self.published.iter());
        for (moved, (counters, worker)) in known.moved.iter_mut().zip(workers) {
            let turns = counters.turns[0];
            let is_still = worker.is_serving() && turns == moved.turns;
            *moved = Moved { turns, still: if is_still { moved.still + 1 } else { 0 } };
        }
        // Workers that have not published yet would look as if they had no memory.
        if known.now.workers.iter().any(|counters| counters.store_budget_bytes[0] == 0) {
            known.now = now;
            return;
        }
        let sample = Sample::between(seconds_since_1970(), &known.now, &now);
        let workers = workers_between(&known.now, &now);
        known.history.push(sample, workers);
        known.samples += 1;
        if known.samples.is_multiple_of(MOMENT_SECONDS) {
            known.moments.push_back(now.clone());
            if known.moments.len() > MOMENTS {
                known.moments.pop_front();
            }
        }
        known.now = now;
        drop(known);
        if self.news.receiver_count() > 0 {
            self.news.send_replace(self.tell().into());
        }
    }

    /// The newest sample and all that belongs to it, in JSON.
    fn tell(&self) -> String {
        let findings = self.findings();
        let known = self.known();
        let (sample, workers) = (known.history.last(), known.history.workers.as_slice());
        serde_json::to_string(&News { sample, workers, findings }).expect("numbers and words")
    }

    /// The largest swarms of all workers, so many, and how many there are of each size.
    #[must_use]
    pub fn swarms(&self, most: usize) -> Swarms {
        let surveys = self.published.iter().map(|worker| worker.survey());
        Swarms::new(Survey::merge(surveys, most))
    }

    /// How many are in a swarm.
    pub async fn describe(&self, info_hash: InfoHash) -> Asked<Swarm> {
        let question = move |tracker: &mut Tracker, _| tracker.describe(&info_hash);
        self.ask(info_hash, question).await.map(Swarm::from)
    }

    /// Removes a swarm and everybody in it.
    pub async fn forget(&self, info_hash: InfoHash) -> Asked<Forgotten> {
        let question = move |tracker: &mut Tracker, _| tracker.forget(&info_hash);
        self.ask(info_hash, question).await.map(|peers| Forgotten { peers })
    }

    /// Who is in a swarm: `most` of them, without the first `from`.
    pub async fn peers(&self, info_hash: InfoHash, from: u32, most: u32) -> Asked<Peers> {
        let question = move |tracker: &mut Tracker, now| {
            let total = tracker.describe(&info_hash)?.peers();
            Some((tracker.peers(now, &info_hash, from, most), total))
        };
        let told = |(peers, total): (Vec<_>, _)| {
            let peers = peers.into_iter().map(Peer::from).collect();
            Peers { peers, total }
        };
        self.ask(info_hash, question).await.map(told)
    }

    /// Asks the worker that owns a swarm.
    async fn ask<T: Send + 'static>(
        &self,
        info_hash: InfoHash,
        question: impl FnOnce(&mut Tracker, Seconds) -> Option<T> + Send + 'static,
    ) -> Asked<T> {
        let (sender, answer) = tokio::sync::oneshot::channel();
        // Whoever asked may have gone.
        let tell = Box::new(move |tracker: &mut Tracker, now| {
            let _ = sender.send(question(tracker, now));
        });
        if !(self.ask)(info_hash, tell) {
            return Asked::Busy;
        }
        match tokio::time::timeout(ANSWER_WITHIN, answer).await {
            Ok(Ok(Some(known))) => Asked::Known(known),
            Ok(Ok(None)) => Asked::Unknown,
            _ => Asked::Busy,
        }
    }

    /// The clients that peers use.
    #[must_use]
    pub fn clients(&self) -> Vec<pages::Share> {
        pages::shares(&self.total(), &self.seen())
    }

    /// What is not as it should be.
    #[must_use]
    pub fn findings(&self) -> Vec<Finding> {
        let known = self.known();
        let samples: Vec<Sample> =
            known.history.recent(MOMENT_SECONDS * (MOMENTS - 1)).copied().collect();
        let before = known.moments.front().unwrap_or(&known.now);
        let mut found = health::findings(&View { before, now: &known.now, samples: &samples });
        found.extend(certificates::finding(&self.certificates(), certificates::now()));
        found.sort_by_key(|finding| std::cmp::Reverse(finding.level));
        found
    }

    /// Everything that monitors read.
    fn snapshot(&self) -> metrics::Snapshot {
        let known = self.known();
        metrics::Snapshot {
            workers: counters(&self.published),
            kernel: known.now.kernel.clone(),
            watched: self.reader.watched().to_vec(),
            hottest_ratio: known.history.last().and_then(hottest_ratio),
            started: self.started_at,
            files_max: getrlimit(Resource::Nofile).current,
            certificates: self.certificates().clone(),
        }
    }

    /// Whether every worker serves.
    #[must_use]
    pub fn is_serving(&self) -> bool {
        self.published.iter().all(|worker| worker.is_serving())
    }

    /// A worker that serves and has not moved for some seconds.
    #[must_use]
    pub fn stuck(&self) -> Option<usize> {
        self.known().moved.iter().position(|moved| moved.still >= STUCK_AFTER_SAMPLES)
    }

    /// The public statistics as they are now.
    #[must_use]
    pub fn pages(&self) -> Pages {
        pages::prepare(&self.total(), &self.seen())
    }

    /// How often workers saw each client: among UDP and HTTP peers, and among WebSocket peers.
    fn seen(&self) -> [Vec<(ClientId, u64)>; 2] {
        let mut seen = [Vec::new(), Vec::new()];
        for worker in self.published.iter() {
            for (seen, more) in seen.iter_mut().zip(worker.clients()) {
                seen.extend(more);
            }
        }
        seen
    }

    /// The counters of all workers together.
    fn total(&self) -> Counters {
        let mut total = Counters::default();
        counters(&self.published).iter().for_each(|counters| total.add(counters));
        total
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Whoever panicked with it left nothing half done that matters for statistics.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The counters of each worker, as last published.
fn counters(published: &[Arc<Published>]) -> Vec<Counters> {
    published.iter().map(|worker| worker.counters()).collect()
}

fn seconds_since_1970() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}
