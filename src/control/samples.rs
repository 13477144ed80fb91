//! What happened in each of the last seconds, as the dashboard shows it.
//!
//! Counters only grow; a sample has the differences of two readings, a second apart or nearly, as
//! rates. The last quarter of an hour is kept.

use std::collections::VecDeque;
use std::time::Duration;

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use super::kernel::Reading;
use super::metrics::{real, seconds};
use crate::tracker::counters::request_index;
use crate::tracker::counters::{Action, Counters, LATENCY_BOUNDS, LATENCY_CELLS, Transport};
use crate::wire::addr::Family;

/// Seconds that are kept.
pub const KEPT: usize = 900;

/// What is known at one moment.
#[derive(Clone, Debug)]
pub struct Moment {
    /// Since the start.
    pub at: Duration,
    /// The counters of each worker.
    pub workers: Vec<Counters>,
    /// What the kernel said.
    pub kernel: Reading,
}

macro_rules! columns {
    ($($name:ident: $meaning:literal,)+) => {
        /// One second. What is not known is not a number, `null` in JSON.
        #[derive(Clone, Copy, Debug, Default, PartialEq)]
        pub struct Sample {
            $(#[doc = $meaning] pub $name: f64,)+
        }

        impl Sample {
            /// Name and meaning of each column.
            pub const COLUMNS: &[(&str, &str)] = &[$((stringify!($name), $meaning),)+];

            /// The value of each column.
            #[must_use]
            pub const fn values(&self) -> [f64; Self::COLUMNS.len()] {
                [$(self.$name,)+]
            }
        }
    };
}

columns! {
    time: "Seconds since 1970 at the end of the sample.",
    udp_announces: "Announces answered over UDP, a second.",
    http_announces: "Announces answered over HTTP, a second.",
    web_announces: "Announces answered over WebSocket, a second.",
    connects: "Connection ids given over UDP, a second.",
    scrapes: "Scrapes answered, a second.",
    offers: "Offers brought to WebSocket peers, a second.",
    answers: "Answers brought to whoever made the offer, a second.",
    refusals: "Requests answered with a failure, a second.",
    drops: "Requests that got no answer, a second.",
    kernel_drops: "Datagrams that the kernel dropped at our sockets, a second.",
    received_bytes: "Bytes received, a second.",
    sent_bytes: "Bytes sent, a second.",
    udp_p50: "Seconds from a batch of datagrams to its last answer, median of the batches.",
    udp_p99: "The same, 99th percentile.",
    http_p50: "Seconds to handle what came over an HTTP connection, median.",
    http_p99: "The same, 99th percentile.",
    load_mean: "CPU time of a worker, a second, mean of all.",
    load_max: "The same, of the hottest worker.",
    waiting_max: "Time that a worker was ready and something else had its CPU, a second, worst.",
    swarms: "Swarms that have peers.",
    seeders: "Peers that need nothing more.",
    leechers: "Peers that still need something.",
    web_peers: "Those of both that are there by WebSocket.",
    ipv4_peers: "Those of both that are there by IPv4.",
    ipv6_peers: "Those of both that are there by IPv6.",
    completed: "Downloads that finished, a second.",
    evicted: "Peers that made room, a second.",
    http_connections: "HTTP connections open.",
    web_connections: "WebSocket connections open.",
    store_bytes: "Bytes held by swarms and peers, those of WebSocket left out.",
    store_budget_bytes: "Bytes that swarms and peers may take.",
    resident_bytes: "Bytes of memory of the process.",
    mailbox_bytes: "Bytes of messages between workers that wait.",
}

impl Serialize for Sample {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(Self::COLUMNS.len()))?;
        for ((name, _), value) in Self::COLUMNS.iter().zip(self.values()) {
            map.serialize_entry(name, &value)?;
        }
        map.end()
    }
}

/// What one worker did in the last second.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct WorkerSample {
    /// CPU time, a second.
    pub load: f64,
    /// Time ready without a CPU, a second.
    pub waiting: f64,
    /// Requests, a second.
    pub requests: f64,
    /// Peers that it holds.
    pub peers: u64,
    /// Requests that got no answer, a second.
    pub drops: f64,
}

impl Sample {
    /// What happened between two moments; `time` is seconds since 1970.
    #[must_use]
    pub fn between(time: f64, before: &Moment, now: &Moment) -> Self {
        let elapsed = now.at.saturating_sub(before.at).as_secs_f64().max(1e-3);
        let (old, new) = (total(&before.workers), total(&now.workers));
        let rate =
            |count: fn(&Counters) -> u64| real(count(&new).saturating_sub(count(&old))) / elapsed;
        let udp = percentiles(&old.udp_batch, &new.udp_batch);
        let http = percentiles(&old.http_handling, &new.http_handling);
        let loads: Vec<(f64, f64)> = loads(before, now).into_iter().flatten().collect();
        let max = |part: fn(&(f64, f64)) -> f64| loads.iter().map(part).reduce(f64::max);
        let load_sum: f64 = loads.iter().map(|load| load.0).sum();
        let of_family = |family: usize| {
            new.seeders[family]
                + new.leechers[family]
                + new.web_seeders[family]
                + new.web_leechers[family]
        };
        Self {
            time,
            udp_announces: rate(|c| answered(c, Transport::Udp, Action::Announce)),
            http_announces: rate(|c| answered(c, Transport::Http, Action::Announce)),
            web_announces: rate(|c| answered(c, Transport::Web, Action::Announce)),
            connects: rate(|c| answered(c, Transport::Udp, Action::Connect)),
            scrapes: rate(|c| {
                let transports = [Transport::Udp, Transport::Http, Transport::Web];
                transports.into_iter().map(|from| answered(c, from, Action::Scrape)).sum()
            }),
            offers: rate(|c| c.web_offers[0]),
            answers: rate(|c| c.web_answers[0]),
            refusals: rate(|c| c.refusals.iter().sum()),
            drops: rate(|c| c.drops.iter().sum()),
            kernel_drops: real(drops_between(&before.kernel, &now.kernel)) / elapsed,
            received_bytes: rate(|c| {
                c.udp_received_bytes.iter().chain(&c.http_received_bytes).sum()
            }),
            sent_bytes: rate(|c| c.udp_sent_bytes.iter().chain(&c.http_sent_bytes).sum()),
            udp_p50: udp[0],
            udp_p99: udp[1],
            http_p50: http[0],
            http_p99: http[1],
            load_mean: if loads.is_empty() {
                f64::NAN
            } else {
                load_sum / real(loads.len() as u64)
            },
            load_max: max(|load| load.0).unwrap_or(f64::NAN),
            waiting_max: max(|load| load.1).unwrap_or(f64::NAN),
            swarms: real(new.swarms[0] + new.web_only_swarms[1]),
            seeders: real(new.seeders.iter().chain(&new.web_seeders).sum()),
            leechers: real(new.leechers.iter().chain(&new.web_leechers).sum()),
            web_peers: real(new.web_seeders.iter().chain(&new.web_leechers).sum()),
            ipv4_peers: real(of_family(Family::V4 as usize)),
            ipv6_peers: real(of_family(Family::V6 as usize)),
            completed: rate(|c| c.completed[0]),
            evicted: rate(|c| c.evicted_peers[0]),
            http_connections: real(new.http_connections[0]),
            web_connections: real(new.web_connections[0]),
            store_bytes: real(new.store_bytes[0].saturating_sub(new.web_store_bytes[0])),
            store_budget_bytes: real(new.store_budget_bytes[0]),
            resident_bytes: now.kernel.resident_bytes.map_or(f64::NAN, real),
            mailbox_bytes: real(new.mailbox_bytes[0]),
        }
    }
}

/// What each worker did between two moments.
#[must_use]
pub fn workers_between(before: &Moment, now: &Moment) -> Vec<WorkerSample> {
    let elapsed = now.at.saturating_sub(before.at).as_secs_f64().max(1e-3);
    let pairs = before.workers.iter().zip(&now.workers);
    pairs
        .zip(loads(before, now))
        .map(|((old, new), load)| {
            let rate =
                |count: fn(&Counters) -> u64| real(count(new).saturating_sub(count(old))) / elapsed;
            let (load, waiting) = load.unwrap_or((f64::NAN, f64::NAN));
            let kinds = [new.seeders, new.leechers, new.web_seeders, new.web_leechers];
            WorkerSample {
                load,
                waiting,
                requests: rate(|c| c.requests.iter().sum()),
                peers: kinds.iter().flatten().sum(),
                drops: rate(|c| c.drops.iter().sum()),
            }
        })
        .collect()
}

/// The CPU time of the hottest worker divided by the mean of all, 1 if nobody did anything; `None`
/// if it is not known.
#[must_use]
pub fn hottest_ratio(sample: &Sample) -> Option<f64> {
    match sample.load_mean {
        0.0 => Some(1.0),
        mean => Some(sample.load_max / mean).filter(|ratio| ratio.is_finite()),
    }
}

fn total(workers: &[Counters]) -> Counters {
    let mut total = Counters::default();
    workers.iter().for_each(|counters| total.add(counters));
    total
}

fn answered(counters: &Counters, transport: Transport, action: Action) -> u64 {
    let cells = counters.replies();
    Family::ALL.into_iter().map(|family| cells[request_index(transport, family, action)]).sum()
}

/// Datagrams dropped at those sockets of which both readings know: a reading may miss one.
fn drops_between(before: &Reading, now: &Reading) -> u64 {
    let pairs = before.sockets.iter().zip(&now.sockets);
    let known = pairs.filter_map(|(before, now)| before.as_ref().zip(now.as_ref()));
    known.map(|(before, now)| now.drops.saturating_sub(before.drops)).sum()
}

/// Of each worker, the shares of the time in which it ran, and in which it was ready.
fn loads(before: &Moment, now: &Moment) -> Vec<Option<(f64, f64)>> {
    let elapsed = now.at.saturating_sub(before.at).as_secs_f64().max(1e-3);
    let share = |old: u64, new: u64| seconds(new.saturating_sub(old)) / elapsed;
    let pairs = before.kernel.threads.iter().zip(&now.kernel.threads);
    pairs
        .map(|(old, new)| {
            let (old, new) = ((*old)?, (*new)?);
            // A long wait is counted when it ends.
            Some((share(old.ran, new.ran).min(1.0), share(old.waited, new.waited).min(1.0)))
        })
        .collect()
}

/// The median and the 99th percentile of what was recorded between two states of a histogram, as
/// if all of a class were spread evenly over it; not numbers if there was nothing.
fn percentiles(old: &[u64; LATENCY_CELLS], new: &[u64; LATENCY_CELLS]) -> [f64; 2] {
    let classes = LATENCY_CELLS - 1;
    let counts: Vec<f64> =
        (0..classes).map(|class| real(new[class].saturating_sub(old[class]))).collect();
    let all: f64 = counts.iter().sum();
    [0.5, 0.99].map(|share| {
        let mut left = all * share;
        for (class, &count) in counts.iter().enumerate() {
            if count > 0.0 && left <= count {
                let from = class.checked_sub(1).map_or(0.0, |below| seconds(LATENCY_BOUNDS[below]));
                // Nothing is known of how long the longest took.
                let to = LATENCY_BOUNDS.get(class).map_or(2.0 * from, |&bound| seconds(bound));
                return from + (to - from) * left / count;
            }
            left -= count;
        }
        f64::NAN
    })
}

/// The last samples, oldest first.
#[derive(Clone, Debug, Default)]
pub struct History {
    samples: VecDeque<Sample>,
    /// What each worker did in the last of them.
    pub workers: Vec<WorkerSample>,
}

impl History {
    /// Adds a sample, and forgets the oldest if there are more than [`KEPT`].
    pub fn push(&mut self, sample: Sample, workers: Vec<WorkerSample>) {
        self.samples.push_back(sample);
        if self.samples.len() > KEPT {
            self.samples.pop_front();
        }
        self.workers = workers;
    }

    /// The newest sample.
    #[must_use]
    pub fn last(&self) -> Option<&Sample> {
        self.samples.back()
    }

    /// Of the last `seconds` samples, oldest first.
    pub fn recent(&self, seconds: usize) -> impl Iterator<Item = &Sample> {
        self.samples.iter().skip(self.samples.len().saturating_sub(seconds))
    }
}

/// As an object of columns: name and values, oldest first.
impl Serialize for History {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let rows: Vec<_> = self.samples.iter().map(Sample::values).collect();
        let mut map = serializer.serialize_map(Some(Sample::COLUMNS.len()))?;
        for (column, (name, _)) in Sample::COLUMNS.iter().enumerate() {
            let values: Vec<f64> = rows.iter().map(|row| row[column]).collect();
            map.serialize_entry(name, &values)?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::kernel::{Socket, ThreadTime};
    use crate::tracker::counters::record_latency;

    fn moment(at: u64, workers: Vec<Counters>, ran: [u64; 2]) -> Moment {
        let threads = ran.map(|ran| Some(ThreadTime { ran, waited: ran / 10 })).to_vec();
        let sockets = vec![Some(Socket { drops: 3 * at, waiting_bytes: 0 }), None];
        let kernel = Reading { threads, sockets, ..Reading::default() };
        Moment { at: Duration::from_secs(at), workers, kernel }
    }

    #[test]
    fn rates_are_differences_over_time_and_gauges_are_the_newest() {
        let before = moment(10, vec![Counters::default(), Counters::default()], [0, 0]);
        let mut counters = Counters::default();
        for family in Family::ALL {
            (0..100).for_each(|_| counters.reply(Transport::Udp, family, Action::Announce));
            (0..3).for_each(|_| counters.reply(Transport::Web, family, Action::Scrape));
        }
        (counters.seeders, counters.web_leechers) = ([5, 6], [1, 2]);
        let now = moment(12, vec![counters.clone(), counters], [2_000_000_000, 1_000_000_000]);
        let sample = Sample::between(99.0, &before, &now);
        assert_eq!(sample.time, 99.0);
        assert_eq!(
            (sample.udp_announces, sample.scrapes, sample.http_announces),
            (200.0, 6.0, 0.0)
        );
        assert_eq!((sample.seeders, sample.leechers, sample.web_peers), (22.0, 6.0, 6.0));
        assert_eq!((sample.ipv4_peers, sample.ipv6_peers), (12.0, 16.0));
        assert_eq!((sample.load_mean, sample.load_max, sample.waiting_max), (0.75, 1.0, 0.1));
        assert_eq!(sample.kernel_drops, 3.0);
        assert!(sample.udp_p50.is_nan() && sample.resident_bytes.is_nan());
        assert_eq!(hottest_ratio(&sample), Some(4.0 / 3.0));
        assert_eq!(hottest_ratio(&Sample::default()), Some(1.0));
        let unknown = Sample { load_mean: f64::NAN, load_max: f64::NAN, ..Sample::default() };
        assert_eq!(hottest_ratio(&unknown), None);
        let workers = workers_between(&before, &now);
        assert_eq!((workers[0].load, workers[1].load, workers[1].peers), (1.0, 0.5, 14));
        // Counters that went back, as after a restart, are no rates.
        assert_eq!(Sample::between(0.0, &now, &before).udp_announces, 0.0);
    }

    #[test]
    fn percentiles_lie_in_their_class() {
        let old: [u64; LATENCY_CELLS] = std::array::from_fn(|class| class as u64);
        let mut new = old;
        for _ in 0..98 {
            record_latency(&mut new, 15_000);
        }
        record_latency(&mut new, 3_000_000);
        record_latency(&mut new, 7_000_000_000);
        let [median, high] = percentiles(&old, &new);
        assert!(10e-6 < median && median <= 20e-6, "{median}");
        assert!(2e-3 < high && high <= 5e-3, "{high}");
        let mut slow = old;
        record_latency(&mut slow, 7_000_000_000);
        assert!(percentiles(&old, &slow).iter().all(|&latency| latency > 1.0));
        assert_eq!(new[LATENCY_CELLS - 1] - old[LATENCY_CELLS - 1], 98 * 15_000 + 7_003_000_000);
    }

    #[test]
    fn the_oldest_are_forgotten_and_columns_are_of_one_length() {
        let mut history = History::default();
        for second in 0..KEPT as u64 + 5 {
            let sample = Sample { time: real(second), udp_p50: f64::NAN, ..Sample::default() };
            history.push(sample, Vec::new());
        }
        assert_eq!(history.recent(2).map(|sample| sample.time).collect::<Vec<_>>(), [903.0, 904.0]);
        let text = serde_json::to_string(&history).expect("numbers and names");
        let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let columns = value.as_object().expect("an object");
        assert_eq!(columns.len(), Sample::COLUMNS.len());
        assert!(columns.values().all(|column| column.as_array().is_some_and(|c| c.len() == KEPT)));
        assert_eq!(columns["time"][0], 5.0);
        assert!(columns["udp_p50"][0].is_null());
        let one = serde_json::to_value(history.last()).expect("numbers and names");
        assert_eq!(one["time"], 904.0);
    }
}
