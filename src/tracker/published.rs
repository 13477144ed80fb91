//! A core's counters where others can read them, without a lock that the core would wait for.
//!
//! One writer, the core; any number of readers. Every cell is stored and loaded for itself,
//! relaxed: a reader may see one cell newer than another, which no statistic minds, and never a
//! torn one.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::census::{CLIENTS_MAX, Census, ClientId, UNKNOWN};
use super::counters::Counters;
use super::survey::Survey;

/// One core's published counters, in cache lines of their own.
#[derive(Debug)]
#[repr(align(128))]
pub struct Published {
    words: [AtomicU64; Counters::WORDS],
    /// What UDP and HTTP peers use, and what WebSocket peers use: client and count.
    clients: [[[AtomicU64; 2]; CLIENTS_MAX]; 2],
    /// 1 once the core serves.
    serving: AtomicU64,
    /// Once a second; the core never waits for whoever reads it.
    survey: Mutex<Survey>,
}

impl Default for Published {
    fn default() -> Self {
        Self {
            words: [const { AtomicU64::new(0) }; Counters::WORDS],
            clients: [const { [const { [const { AtomicU64::new(0) }; 2] }; CLIENTS_MAX] }; 2],
            serving: AtomicU64::new(0),
            survey: Mutex::default(),
        }
    }
}

impl Published {
    /// Publishes a copy of `counters`.
    pub fn publish(&self, counters: &Counters) {
        for (cell, word) in self.words.iter().zip(counters.words()) {
            cell.store(word, Ordering::Relaxed);
        }
    }

    /// Publishes how often each client was seen: among UDP and HTTP peers, and among WebSocket
    /// peers.
    pub fn publish_clients(&self, censuses: [&Census; 2]) {
        for (cells, census) in self.clients.iter().zip(censuses) {
            let seen = census.clients();
            let empty = (UNKNOWN, 0);
            for (cell, (client, count)) in
                cells.iter().zip(seen.into_iter().chain(std::iter::repeat(empty)))
            {
                cell[0].store(u64::from_be_bytes(client), Ordering::Relaxed);
                cell[1].store(u64::from(count), Ordering::Relaxed);
            }
        }
    }

    /// The clients as last published. One that is being replaced may be paired with the count of
    /// another, which no statistic minds.
    #[must_use]
    pub fn clients(&self) -> [Vec<(ClientId, u64)>; 2] {
        self.clients.each_ref().map(|cells| {
            let seen = cells.iter().map(|cell| {
                let [client, count] = cell.each_ref().map(|half| half.load(Ordering::Relaxed));
                (client.to_be_bytes(), count)
            });
            seen.filter(|(_, count)| *count > 0).collect()
        })
    }

    /// Publishes what swarms there are, unless somebody is reading that at this moment.
    pub fn publish_survey(&self, survey: Survey) {
        if let Ok(mut published) = self.survey.try_lock() {
            *published = survey;
        }
    }

    /// The swarms as last published.
    #[must_use]
    pub fn survey(&self) -> Survey {
        self.survey.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The counters as last published.
    #[must_use]
    pub fn counters(&self) -> Counters {
        Counters::from_words(self.words.iter().map(|cell| cell.load(Ordering::Relaxed)))
    }

    /// Says whether the core serves.
    pub fn set_serving(&self, serving: bool) {
        self.serving.store(u64::from(serving), Ordering::Release);
    }

    /// Whether the core serves.
    #[must_use]
    pub fn is_serving(&self) -> bool {
        self.serving.load(Ordering::Acquire) == 1
    }
}

/// Statistics for everybody, as the control plane prepares them and cores serve them.
#[derive(Debug, Default)]
pub struct Pages {
    /// `/stats`
    pub html: Vec<u8>,
    /// `/stats.json`
    pub json: Vec<u8>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::swarm::SIZES;

    #[test]
    fn what_is_published_is_read() {
        let published = Published::default();
        assert!(!published.is_serving());
        published.publish(&Counters::from_words(5..));
        published.set_serving(true);
        let mut census = Census::new(60);
        census.saw(&crate::wire::id::PeerId(*b"-TR4060-abcdefghijkl"));
        published.publish_clients([&census, &Census::new(60)]);
        assert_eq!(published.clients(), [vec![(*b"-TR4060-", 1)], Vec::new()]);
        assert_eq!(published.counters(), Counters::from_words(5..));
        assert!(published.is_serving());
        let survey = Survey { sizes: [3; SIZES], ..Survey::default() };
        published.publish_survey(survey.clone());
        assert_eq!(published.survey(), survey);
    }

    #[test]
    fn a_core_does_not_wait_for_a_reader() {
        let published = Published::default();
        let reader = published.survey.lock().expect("nobody panicked");
        published.publish_survey(Survey { sizes: [3; SIZES], ..Survey::default() });
        drop(reader);
        assert_eq!(published.survey(), Survey::default());
    }
}
