//! What came of it: for people, and as JSON for programs.

mod relay;

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::Serialize;

use super::plan::{Pace, Plan, Transport};
use super::tally::{Action, Glance, Live, Tally};
use super::verify::{Fault, Rigour};

pub use relay::RelayReport;

/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// Everything measured. Its JSON is this, field by field.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// What was asked for.
    pub plan: PlanReport,
    /// The announces before the measured time, if there were any.
    pub fill: Option<FillReport>,
    /// The measured time in seconds.
    pub seconds: f64,
    /// Whether it was ended before its time.
    pub interrupted: bool,
    /// By action: those that were asked for.
    pub actions: BTreeMap<&'static str, ActionReport>,
    /// All actions together.
    pub total: ActionReport,
    /// Requests without an answer within the timeout; over a WebSocket also answers that were sent
    /// to a peer and did not reach it.
    pub lost: u64,
    /// Requests that were due and never sent, because too many were under way (open loop).
    pub unsent: u64,
    /// Wrong answers: all faults but `answer_refused`, `late` and `connection_error`.
    pub wrong: u64,
    /// By kind: those that occurred.
    pub faults: BTreeMap<&'static str, u64>,
    /// How often each text came: refusals, HTTP statuses, causes of connection errors.
    pub texts: BTreeMap<String, u64>,
    /// Bytes of requests, without headers of UDP, TCP and IP.
    pub bytes_sent: u64,
    /// Bytes of answers, the same way.
    pub bytes_received: u64,
    /// Mean number of peers in the answer to an announce.
    pub peers_per_reply: f64,
    /// Mean number of swarms in the answer to a scrape.
    pub swarms_per_scrape: f64,
    /// Connections opened (HTTP, WebSocket), those before the measured time not counted.
    pub connections: u64,
    /// What WebSocket alone has.
    pub relay: Option<RelayReport>,
    /// CPU seconds that the load itself used in the measured time. Near `seconds` times the
    /// threads, it and not the tracker was the limit.
    pub own_cpu_seconds: Option<f64>,
    /// The measured process.
    pub cpu: Option<CpuReport>,
}

/// What was asked for.
#[derive(Clone, Debug, Serialize)]
pub struct PlanReport {
    /// The tracker.
    pub target: String,
    /// `udp`, `http` or `ws`.
    pub transport: &'static str,
    /// Threads.
    pub threads: u16,
    /// Sources of all threads together.
    pub sources: u32,
    /// Requests under way at the most, of all threads together; over HTTP and WebSocket,
    /// connections.
    pub in_flight: u64,
    /// Requests a second asked for; none in a closed loop.
    pub rate: Option<u64>,
    /// Whether each request had a connection of its own.
    pub close: bool,
    /// Swarms.
    pub swarms: u32,
    /// Peers.
    pub peers: u32,
    /// Peers of the largest swarm, give or take one.
    pub largest_swarm: u32,
    /// See [`super::population::Population::skew`].
    pub skew: f64,
    /// Share of seeders.
    pub seeders: f64,
    /// Seed.
    pub seed: u64,
    /// Peers asked for; over a WebSocket, offers in each announce.
    pub num_want: u32,
    /// Torrents of a connection (WebSocket).
    pub torrents: Option<u32>,
    /// Bytes of an offer and of an answer (WebSocket).
    pub sdp_bytes: Option<u16>,
    /// Share of the offers that are answered (WebSocket).
    pub answers: Option<f64>,
    /// Whether nothing was asked in the measured time (WebSocket).
    pub idle: bool,
    /// Hashes in a scrape.
    pub scrape_hashes: u16,
    /// Seconds until a request is lost.
    pub timeout_seconds: f64,
    /// Whether habits of other trackers passed.
    pub lenient: bool,
}

/// Every peer, announced once.
#[derive(Clone, Debug, Serialize)]
pub struct FillReport {
    /// Right answers to announces.
    pub announces: u64,
    /// Seconds that it took.
    pub seconds: f64,
    /// Announces a second.
    pub per_second: f64,
    /// Announces without an answer; they were repeated.
    pub lost: u64,
    /// Wrong answers.
    pub wrong: u64,
    /// Whether every peer has been answered.
    pub complete: bool,
}

/// Requests of one action, or of all.
#[derive(Clone, Debug, Serialize)]
pub struct ActionReport {
    /// Requests sent.
    pub sent: u64,
    /// Right answers.
    pub replies: u64,
    /// Right answers a second, within the measured time.
    pub per_second: f64,
    /// From when the request was due (open loop) or sent (closed loop) to its right answer.
    pub latency: Option<Latency>,
}

/// Microseconds below which that share of the latencies lies.
#[derive(Clone, Debug, Serialize)]
pub struct Latency {
    /// Half of them.
    pub p50_us: f64,
    /// 90 %.
    pub p90_us: f64,
    /// 99 %.
    pub p99_us: f64,
    /// 99.9 %.
    pub p999_us: f64,
    /// The longest.
    pub max_us: f64,
}

/// The process whose CPU time was measured.
#[derive(Clone, Debug, Serialize)]
pub struct CpuReport {
    /// Its number.
    pub pid: u32,
    /// CPU seconds that it used in the measured time, of all its threads and in the kernel too.
    pub seconds: f64,
    /// Right answers for each of them.
    pub replies_per_cpu_second: f64,
}

/// What a report comes to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// Answers came, and all of them were right.
    Verified,
    /// No right answer came, and no wrong one.
    Unanswered,
    /// Some answer was wrong.
    Wrong,
}

/// What processes use, as far as it is known.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// CPU time of ourselves.
    pub own_cpu_seconds: Option<f64>,
    /// CPU time of the process that is measured.
    pub cpu_seconds: Option<f64>,
    /// Its resident memory.
    pub resident_bytes: Option<u64>,
}

impl Usage {
    /// The time used since `before`, and the memory as it is.
    #[must_use]
    pub fn since(self, before: &Self) -> Self {
        let between = |before: Option<f64>, after: Option<f64>| Some(after? - before?);
        Self {
            own_cpu_seconds: between(before.own_cpu_seconds, self.own_cpu_seconds),
            cpu_seconds: between(before.cpu_seconds, self.cpu_seconds),
            resident_bytes: self.resident_bytes,
        }
    }
}

/// What came of a phase.
#[derive(Debug)]
pub struct Phase {
    tally: Tally,
    seconds: f64,
    usage: Usage,
}

impl Phase {
    /// `start` is on the clock of the tallies; the end is when the last thread stopped asking.
    pub fn new(start: u64, tallies: &[Tally], usage: Usage) -> Self {
        let mut tally = Tally::default();
        tallies.iter().for_each(|part| tally.add(part));
        let time = Duration::from_nanos(tally.ended.saturating_sub(start));
        Self { tally, seconds: time.as_secs_f64(), usage }
    }
}

impl Report {
    /// What the phases of a plan come to.
    #[must_use]
    pub fn new(
        plan: &Plan,
        resident_before: Option<u64>,
        fill: Option<&Phase>,
        measured: &Phase,
        interrupted: bool,
    ) -> Self {
        let &Phase { ref tally, seconds, usage } = measured;
        let action = |action: Action| {
            let tally = tally.action(action);
            let latency = latency(&tally.latency);
            let per_second = per(tally.replies_in_time, seconds);
            ActionReport { sent: tally.sent, replies: tally.replies, per_second, latency }
        };
        let mut all = tally.action(Action::Connect).latency.clone();
        for action in [Action::Announce, Action::Scrape] {
            all.add(&tally.action(action).latency).expect("the bounds are the same");
        }
        let asked = Action::ALL.into_iter().filter(|&action| tally.action(action).sent > 0);
        let count = |fault: Fault| {
            let filled = fill.map_or(0, |fill| fill.tally.fault_count(fault));
            (fault.label(), tally.fault_count(fault) + filled)
        };
        let mut texts = tally.texts.clone();
        for (text, count) in fill.iter().flat_map(|fill| &fill.tally.texts) {
            *texts.entry(text.clone()).or_default() += count;
        }
        let replies = |action| tally.action(action).replies;
        let cpu = plan.pid.zip(usage.cpu_seconds).map(|(pid, seconds)| {
            let replies_per_cpu_second = per(tally.replies_in_time(), seconds);
            CpuReport { pid, seconds, replies_per_cpu_second }
        });
        Self {
            plan: PlanReport::new(plan),
            fill: fill.map(|fill| FillReport::new(plan, fill)),
            seconds,
            interrupted,
            actions: asked.map(|asked| (asked.label(), action(asked))).collect(),
            total: ActionReport {
                sent: tally.sent(),
                replies: tally.replies(),
                per_second: per(tally.replies_in_time(), seconds),
                latency: latency(&all),
            },
            lost: tally.lost + tally.answers.sent.saturating_sub(tally.answers.received),
            unsent: tally.unsent,
            wrong: tally.wrong() + fill.map_or(0, |fill| fill.tally.wrong()),
            faults: Fault::ALL.into_iter().map(count).filter(|(_, count)| *count > 0).collect(),
            texts,
            bytes_sent: tally.bytes_sent,
            bytes_received: tally.bytes_received,
            peers_per_reply: mean(tally.peers, replies(Action::Announce)),
            swarms_per_scrape: mean(tally.entries, replies(Action::Scrape)),
            connections: tally.connections,
            relay: (plan.target.transport == Transport::Ws)
                .then(|| RelayReport::new(measured, resident_before)),
            own_cpu_seconds: usage.own_cpu_seconds,
            cpu,
        }
    }

    /// What it comes to.
    #[must_use]
    pub const fn verdict(&self) -> Verdict {
        let replies = match &self.fill {
            // Nothing was measured, or it was ended before.
            Some(fill) if self.plan.idle || self.total.sent == 0 => fill.announces,
            _ => self.total.replies,
        };
        if self.wrong > 0 {
            Verdict::Wrong
        } else if replies == 0 {
            Verdict::Unanswered
        } else {
            Verdict::Verified
        }
    }

    /// As one JSON object.
    ///
    /// # Panics
    /// Never: there is nothing in it that JSON cannot say.
    #[must_use]
    pub fn json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("numbers, texts and maps of them");
        text.push('\n');
        text
    }
}

impl PlanReport {
    fn new(plan: &Plan) -> Self {
        let population = plan.population();
        let web = (plan.target.transport == Transport::Ws).then_some(plan.web);
        Self {
            target: plan.target.to_string(),
            transport: plan.target.transport.name(),
            threads: plan.threads,
            sources: population.sources,
            in_flight: u64::from(plan.in_flight) * u64::from(plan.threads),
            rate: match plan.pace {
                Pace::Closed => None,
                Pace::Open(rate) => Some(rate),
            },
            close: plan.close,
            swarms: plan.swarms,
            peers: plan.peers,
            largest_swarm: population.largest_swarm(),
            skew: plan.skew,
            seeders: plan.seeders,
            seed: plan.seed,
            num_want: plan.num_want,
            torrents: web.map(|web| web.torrents),
            sdp_bytes: web.map(|web| web.sdp_bytes),
            answers: web.map(|web| web.answers),
            idle: web.is_some_and(|web| web.idle),
            scrape_hashes: plan.scrape_hashes,
            timeout_seconds: plan.timeout.as_secs_f64(),
            lenient: plan.rigour == Rigour::Lenient,
        }
    }
}

impl FillReport {
    fn new(plan: &Plan, phase: &Phase) -> Self {
        let announces = phase.tally.action(Action::Announce).replies;
        Self {
            announces,
            seconds: phase.seconds,
            per_second: per(announces, phase.seconds),
            lost: phase.tally.lost,
            wrong: phase.tally.wrong(),
            complete: announces >= plan.peers.into(),
        }
    }
}

/// `None` if there is none.
fn latency(histogram: &Histogram<u64>) -> Option<Latency> {
    if histogram.is_empty() {
        return None;
    }
    let at = |quantile| micros(histogram.value_at_quantile(quantile).min(histogram.max()));
    Some(Latency {
        p50_us: at(0.5),
        p90_us: at(0.9),
        p99_us: at(0.99),
        p999_us: at(0.999),
        max_us: micros(histogram.max()),
    })
}

fn micros(nanos: u64) -> f64 {
    Duration::from_nanos(nanos).as_secs_f64() * 1e6
}

fn per(count: u64, seconds: f64) -> f64 {
    if seconds > 0.0 { float(count) / seconds } else { 0.0 }
}

fn mean(sum: u64, count: u64) -> f64 {
    if count > 0 { float(sum) / float(count) } else { 0.0 }
}

#[expect(clippy::cast_precision_loss, reason = "counts of a report: 53 bits are plenty")]
const fn float(count: u64) -> f64 {
    count as f64
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.plan)?;
        if let Some(fill) = &self.fill {
            writeln!(f, "{fill}")?;
        }
        let early = if self.interrupted { ", ended early" } else { "" };
        writeln!(f, "measured {:.2} s{early}; latencies in microseconds\n", self.seconds)?;
        writeln!(
            f,
            "{:9}{:>12}{:>12}{:>11}{:>10}{:>10}{:>10}{:>10}{:>11}",
            "", "sent", "answered", "a second", "p50", "p90", "p99", "p99.9", "max"
        )?;
        for (label, action) in &self.actions {
            writeln!(f, "{label:9}{action}")?;
        }
        if self.actions.len() > 1 {
            writeln!(f, "{:9}{}", "total", self.total)?;
        }
        if let Some(relay) = self.relay.as_ref().filter(|relay| relay.offers.sent > 0) {
            writeln!(f, "{:9}{}", "offers", relay.offers)?;
            writeln!(f, "{:9}{}", "answers", relay.answers)?;
        }
        let share = 100.0 * mean(self.lost, self.total.sent);
        writeln!(f, "\nlost {} ({share:.3} %), wrong {}", self.lost, self.wrong)?;
        if self.unsent > 0 {
            writeln!(f, "{} more were due and never sent: too many were under way", self.unsent)?;
        }
        for (label, count) in &self.faults {
            writeln!(f, "  {label} {count}")?;
        }
        for (text, count) in &self.texts {
            writeln!(f, "  \"{text}\" {count}")?;
        }
        write!(f, "bytes sent {}, received {}", self.bytes_sent, self.bytes_received)?;
        if self.actions.contains_key(Action::Announce.label()) && self.relay.is_none() {
            write!(f, "; {:.1} peers in an answer", self.peers_per_reply)?;
        }
        if self.actions.contains_key(Action::Scrape.label()) {
            write!(f, "; {:.1} swarms in a scrape", self.swarms_per_scrape)?;
        }
        if self.connections > 0 {
            write!(f, "; {} connections", self.connections)?;
        }
        writeln!(f)?;
        if let Some(relay) = &self.relay {
            writeln!(f, "{} connections open at the end, {} pings", relay.open, relay.pings)?;
        }
        if let Some(seconds) = self.own_cpu_seconds {
            writeln!(f, "this load: {seconds:.2} CPU seconds")?;
        }
        if let Some(CpuReport { pid, seconds, replies_per_cpu_second }) = &self.cpu {
            writeln!(
                f,
                "process {pid}: {seconds:.2} CPU seconds, {replies_per_cpu_second:.0} answers for \
                 each"
            )?;
            if let Some(relay) = &self.relay {
                relay.write_usage(f)?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for PlanReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { target, threads, sources, in_flight, .. } = self;
        let pace = match self.rate {
            None => "closed loop".to_owned(),
            Some(rate) => format!("open loop, {rate} requests a second"),
        };
        let pace = if self.idle { "idle".to_owned() } else { pace };
        let ways = match (self.transport == Transport::Udp.name(), self.close) {
            (true, _) => "requests under way",
            (false, false) => "connections",
            (false, true) => "connections at once, a new one for each request",
        };
        writeln!(
            f,
            "{target}: {pace}, {in_flight} {ways}, {threads} thread{}, {sources} source{}",
            plural(u64::from(*threads)),
            plural(u64::from(*sources))
        )?;
        let Self { peers, swarms, largest_swarm, skew, num_want, .. } = self;
        let seeders = 100.0 * self.seeders;
        write!(
            f,
            "{peers} peers in {swarms} swarm{} (the largest has {largest_swarm}; skew {skew}), \
             {seeders:.0} % seeders, ",
            plural(u64::from(*swarms))
        )?;
        match (self.torrents, self.sdp_bytes) {
            (Some(torrents), Some(sdp_bytes)) => write!(
                f,
                "{torrents} to a connection; {num_want} offers of {sdp_bytes} bytes an announce"
            ),
            _ => write!(f, "num_want {num_want}"),
        }
    }
}

const fn plural(count: u64) -> &'static str {
    if count == 1 { "" } else { "s" }
}

impl fmt::Display for FillReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { announces, seconds, per_second, lost, wrong, complete } = self;
        let rest = if *complete { "" } else { ": not all peers" };
        write!(
            f,
            "filled with {announces} announces in {seconds:.2} s ({per_second:.0} a second), \
             {lost} lost and repeated, {wrong} wrong{rest}"
        )
    }
}

impl fmt::Display for ActionReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sent, replies, per_second, latency } = self;
        write!(f, "{sent:>12}{replies:>12}{per_second:>11.0}")?;
        let Some(Latency { p50_us, p90_us, p99_us, p999_us, max_us }) = latency else {
            return Ok(());
        };
        write!(f, "{p50_us:>10.1}{p90_us:>10.1}{p99_us:>10.1}{p999_us:>10.1}{max_us:>11.1}")
    }
}

/// How it goes, about once a second.
#[derive(Clone, Debug)]
pub struct Progress {
    phase: &'static str,
    elapsed: Duration,
    length: Option<Duration>,
    glance: Glance,
    per_second: f64,
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { phase, elapsed, length, glance, per_second } = self;
        write!(f, "{phase} {:.0}", elapsed.as_secs_f64())?;
        if let Some(length) = length {
            write!(f, "/{:.0}", length.as_secs_f64())?;
        }
        let Glance { replies, offers, wrong, lost } = glance;
        write!(f, " s: {per_second:.0} answers a second, {replies} so far, {lost} lost")?;
        if *offers > 0 {
            write!(f, ", {offers} offers relayed")?;
        }
        if *wrong > 0 { write!(f, ", {wrong} wrong") } else { Ok(()) }
    }
}

/// Tells of progress once a second.
pub struct Teller<'a> {
    phase: &'static str,
    length: Option<Duration>,
    tell: &'a mut dyn FnMut(&Progress),
    began: Instant,
    told: Instant,
    before: Glance,
}

impl<'a> Teller<'a> {
    /// For a phase that begins now.
    pub fn new(
        phase: &'static str,
        length: Option<Duration>,
        tell: &'a mut dyn FnMut(&Progress),
    ) -> Self {
        let now = Instant::now();
        Self { phase, length, tell, began: now, told: now, before: Glance::default() }
    }

    /// Tells how it goes if that is due.
    pub fn look(&mut self, threads: &[Live]) {
        let since = self.told.elapsed();
        if since < TELL_EVERY {
            return;
        }
        let glance = Live::glance(threads);
        let more = glance.replies.saturating_sub(self.before.replies);
        (self.tell)(&Progress {
            phase: self.phase,
            elapsed: self.began.elapsed(),
            length: self.length,
            glance,
            per_second: per(more, since.as_secs_f64()),
        });
        self.told = Instant::now();
        self.before = glance;
    }
}
