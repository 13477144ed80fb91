//! What one thread counted, and how the counts of all come together.
//!
//! Invariant: every request ends in exactly one of four ways: a right answer, a fault that was
//! matched with it, lost, or a connection error. Plain integers of one thread; [`Live`] has the few
//! that the progress line shows while the thread runs.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use hdrhistogram::Histogram;

use super::verify::{Answer, Fault, Wrong};

/// Longest latency that is told apart, in nanoseconds: an hour.
const LATENCY_NANOS_MAX: u64 = 3_600_000_000_000;
/// Different texts that are counted by themselves.
const TEXTS_MAX: usize = 64;
/// Characters of a text that are kept.
const TEXT_CHARS_MAX: usize = 120;
/// Where further texts are counted.
const OTHER_TEXTS: &str = "(other texts)";

/// What a request is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Action {
    /// BEP 15 alone has it.
    Connect,
    /// Reports a peer.
    Announce,
    /// Asks for counts.
    Scrape,
}

impl Action {
    /// Every variant, in declaration order.
    pub const ALL: [Self; 3] = [Self::Connect, Self::Announce, Self::Scrape];

    /// Its name.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Announce => "announce",
            Self::Scrape => "scrape",
        }
    }
}

/// Counts of the requests of one action.
#[derive(Clone, Debug)]
pub struct ActionTally {
    /// Requests sent.
    pub sent: u64,
    /// Right answers.
    pub replies: u64,
    /// Those of them that came before the end of the measured time, and so count in rates.
    pub replies_in_time: u64,
    /// Of right answers, in nanoseconds.
    pub latency: Histogram<u64>,
}

/// Counts of what peers say to each other through the tracker: of their offers, or their answers.
#[derive(Clone, Debug)]
pub struct RelayTally {
    /// Given to the tracker.
    pub sent: u64,
    /// Brought by it, and right.
    pub received: u64,
    /// Those of them that came before the end of the measured time, and so count in rates.
    pub received_in_time: u64,
    /// From the offer's announce to its receiver, or to its answer, in nanoseconds.
    pub latency: Histogram<u64>,
}

impl RelayTally {
    /// One came `nanos` after its offer was sent; `in_time`: before the end.
    pub fn receive(&mut self, nanos: u64, in_time: bool) {
        self.received += 1;
        self.received_in_time += u64::from(in_time);
        self.latency.saturating_record(nanos.max(1));
    }

    fn add(&mut self, other: &Self) {
        self.sent += other.sent;
        self.received += other.received;
        self.received_in_time += other.received_in_time;
        self.latency.add(&other.latency).expect("the bounds are the same");
    }
}

/// The counts of one thread, or of all.
#[derive(Clone, Debug)]
pub struct Tally {
    actions: [ActionTally; Action::ALL.len()],
    faults: [u64; Fault::ALL.len()],
    /// How often each text came: refusals, statuses, causes of connection errors.
    pub texts: BTreeMap<String, u64>,
    /// Requests without an answer in time.
    pub lost: u64,
    /// Requests that were due before the end and never sent (open loop).
    pub unsent: u64,
    /// Bytes of requests: of datagrams, or of the streams' contents.
    pub bytes_sent: u64,
    /// Bytes of answers, right or wrong.
    pub bytes_received: u64,
    /// Peers in right answers.
    pub peers: u64,
    /// Swarms in right answers to scrapes.
    pub entries: u64,
    /// Connections opened (HTTP, WebSocket).
    pub connections: u64,
    /// Connections that were open at the end (WebSocket).
    pub open: u64,
    /// Pings answered (WebSocket).
    pub pings: u64,
    /// Offers (WebSocket).
    pub offers: RelayTally,
    /// Answers to them (WebSocket).
    pub answers: RelayTally,
    /// When the thread stopped asking, in nanoseconds of the common clock.
    pub ended: u64,
}

impl Default for Tally {
    fn default() -> Self {
        let latency = Histogram::new_with_bounds(1, LATENCY_NANOS_MAX, 3);
        let latency = latency.expect("three digits from a nanosecond to an hour are possible");
        let relay =
            RelayTally { sent: 0, received: 0, received_in_time: 0, latency: latency.clone() };
        let action = ActionTally { sent: 0, replies: 0, replies_in_time: 0, latency };
        Self {
            actions: [action.clone(), action.clone(), action],
            faults: [0; Fault::ALL.len()],
            texts: BTreeMap::new(),
            lost: 0,
            unsent: 0,
            bytes_sent: 0,
            bytes_received: 0,
            peers: 0,
            entries: 0,
            connections: 0,
            open: 0,
            pings: 0,
            offers: relay.clone(),
            answers: relay,
            ended: 0,
        }
    }
}

impl Tally {
    /// The counts of one action.
    #[must_use]
    pub const fn action(&self, action: Action) -> &ActionTally {
        &self.actions[action as usize]
    }

    /// How often that went wrong.
    #[must_use]
    pub const fn fault_count(&self, fault: Fault) -> u64 {
        self.faults[fault as usize]
    }

    /// Everything wrong that the tracker said.
    #[must_use]
    pub fn wrong(&self) -> u64 {
        let wrong = Fault::ALL.into_iter().filter(|fault| fault.is_wrong());
        wrong.map(|fault| self.fault_count(fault)).sum()
    }

    /// Right answers.
    #[must_use]
    pub fn replies(&self) -> u64 {
        self.actions.iter().map(|action| action.replies).sum()
    }

    /// Right answers within the measured time.
    #[must_use]
    pub fn replies_in_time(&self) -> u64 {
        self.actions.iter().map(|action| action.replies_in_time).sum()
    }

    /// Requests.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.actions.iter().map(|action| action.sent).sum()
    }

    /// A request of `bytes` was sent.
    pub const fn send(&mut self, action: Action, bytes: usize) {
        self.actions[action as usize].sent += 1;
        self.bytes_sent += bytes as u64;
    }

    /// A right answer came `nanos` after the request was due; `in_time`: before the end.
    pub fn reply(&mut self, action: Action, answer: Answer, nanos: u64, in_time: bool) {
        let tally = &mut self.actions[action as usize];
        tally.replies += 1;
        tally.replies_in_time += u64::from(in_time);
        tally.latency.saturating_record(nanos.max(1));
        match answer {
            Answer::Connected(_) | Answer::Joined => {}
            Answer::Peers(count) => self.peers += u64::from(count),
            Answer::Entries(count) => self.entries += u64::from(count),
        }
    }

    /// Something went wrong.
    pub fn fault<'a>(&mut self, wrong: impl Into<Wrong<'a>>) {
        let Wrong { fault, text } = wrong.into();
        self.faults[fault as usize] += 1;
        if text.is_empty() {
            return;
        }
        let text: String = text.escape_ascii().map(char::from).take(TEXT_CHARS_MAX).collect();
        self.add_text(text, 1);
    }

    /// A connection failed.
    pub fn connection_error(&mut self, cause: &str) {
        self.fault(Wrong { fault: Fault::Connection, text: cause.as_bytes() });
    }

    fn add_text(&mut self, text: String, count: u64) {
        let known = self.texts.len() < TEXTS_MAX || self.texts.contains_key(&text);
        let text = if known { text } else { OTHER_TEXTS.to_owned() };
        *self.texts.entry(text).or_default() += count;
    }

    /// Adds the counts of another thread.
    pub fn add(&mut self, other: &Self) {
        for (sum, action) in self.actions.iter_mut().zip(&other.actions) {
            sum.sent += action.sent;
            sum.replies += action.replies;
            sum.replies_in_time += action.replies_in_time;
            sum.latency.add(&action.latency).expect("the bounds are the same");
        }
        for (sum, count) in self.faults.iter_mut().zip(other.faults) {
            *sum += count;
        }
        for (text, count) in &other.texts {
            self.add_text(text.clone(), *count);
        }
        self.lost += other.lost;
        self.unsent += other.unsent;
        self.bytes_sent += other.bytes_sent;
        self.bytes_received += other.bytes_received;
        self.peers += other.peers;
        self.entries += other.entries;
        self.connections += other.connections;
        self.open += other.open;
        self.pings += other.pings;
        self.offers.add(&other.offers);
        self.answers.add(&other.answers);
        self.ended = self.ended.max(other.ended);
    }
}

/// What a running thread lets others see. Alone on its cache lines.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Live {
    replies: AtomicU64,
    offers: AtomicU64,
    wrong: AtomicU64,
    lost: AtomicU64,
}

/// [`Live`] at one moment.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Glance {
    /// Right answers.
    pub replies: u64,
    /// Offers that came.
    pub offers: u64,
    /// Everything wrong that the tracker said.
    pub wrong: u64,
    /// Requests without an answer.
    pub lost: u64,
}

impl Live {
    /// Shows what has been counted so far.
    pub fn publish(&self, tally: &Tally) {
        self.replies.store(tally.replies(), Ordering::Relaxed);
        self.offers.store(tally.offers.received, Ordering::Relaxed);
        self.wrong.store(tally.wrong(), Ordering::Relaxed);
        self.lost.store(tally.lost, Ordering::Relaxed);
    }

    /// What was shown last, by all threads together.
    pub fn glance(threads: &[Self]) -> Glance {
        threads.iter().fold(Glance::default(), |sum, live| Glance {
            replies: sum.replies + live.replies.load(Ordering::Relaxed),
            offers: sum.offers + live.offers.load(Ordering::Relaxed),
            wrong: sum.wrong + live.wrong.load(Ordering::Relaxed),
            lost: sum.lost + live.lost.load(Ordering::Relaxed),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tallies_add_up() {
        let mut one = Tally::default();
        one.send(Action::Announce, 98);
        one.send(Action::Scrape, 36);
        one.reply(Action::Announce, Answer::Peers(50), 1_000_000, true);
        one.fault(Wrong { fault: Fault::Refused, text: b"no \xFF" });
        one.fault(Fault::Late);
        one.lost += 3;
        one.offers.sent += 5;
        one.offers.receive(2_000_000, true);
        one.answers.receive(3_000_000, false);
        let mut sum = Tally::default();
        sum.add(&one);
        sum.add(&one);
        assert_eq!((sum.sent(), sum.replies(), sum.replies_in_time()), (4, 2, 2));
        assert_eq!((sum.wrong(), sum.fault_count(Fault::Late), sum.lost), (2, 2, 6));
        assert_eq!((sum.peers, sum.bytes_sent), (100, 268));
        assert_eq!(sum.texts, BTreeMap::from([("no \\xff".to_owned(), 2)]));
        assert_eq!((sum.offers.sent, sum.offers.received, sum.offers.received_in_time), (10, 2, 2));
        assert_eq!((sum.answers.received, sum.answers.received_in_time), (2, 0));
        assert_eq!(sum.answers.latency.len(), 2);
        let latency = &sum.action(Action::Announce).latency;
        assert_eq!(latency.len(), 2);
        assert!((999_000..=1_001_000).contains(&latency.value_at_quantile(0.5)));
        let live = [Live::default(), Live::default()];
        live.iter().for_each(|live| live.publish(&one));
        assert_eq!(Live::glance(&live), Glance { replies: 2, offers: 2, wrong: 2, lost: 6 });
    }

    #[test]
    fn texts_are_bounded_in_number_and_length() {
        let mut tally = Tally::default();
        for number in 0..1_000 {
            tally.connection_error(&format!("{number} {}", "x".repeat(1_000)));
        }
        assert_eq!(tally.texts.len(), TEXTS_MAX + 1);
        assert_eq!(tally.texts[OTHER_TEXTS], 1_000 - TEXTS_MAX as u64);
        assert!(tally.texts.keys().all(|text| text.len() <= TEXT_CHARS_MAX));
    }

    #[test]
    fn a_latency_beyond_the_bound_counts_as_the_longest() {
        let mut tally = Tally::default();
        tally.reply(Action::Announce, Answer::Peers(0), u64::MAX, true);
        tally.reply(Action::Announce, Answer::Peers(0), 0, true);
        assert_eq!(tally.action(Action::Announce).latency.len(), 2);
    }
}
