//! A core's counters where others can read them, without a lock.
//!
//! One writer, the core; any number of readers. Every cell is stored and loaded for itself,
//! relaxed: a reader may see one cell newer than another, which no statistic minds, and never a
//! torn one.

use std::sync::atomic::{AtomicU64, Ordering};

use super::counters::Counters;

/// One core's published counters, in cache lines of their own.
#[derive(Debug)]
#[repr(align(128))]
pub struct Published {
    words: [AtomicU64; Counters::WORDS],
    /// 1 once the core serves.
    serving: AtomicU64,
}

impl Default for Published {
    fn default() -> Self {
        Self { words: [const { AtomicU64::new(0) }; Counters::WORDS], serving: AtomicU64::new(0) }
    }
}

impl Published {
    /// Publishes a copy of `counters`.
    pub fn publish(&self, counters: &Counters) {
        for (cell, word) in self.words.iter().zip(counters.words()) {
            cell.store(word, Ordering::Relaxed);
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_published_is_read() {
        let published = Published::default();
        assert!(!published.is_serving());
        published.publish(&Counters::from_words(5..));
        published.set_serving(true);
        assert_eq!(published.counters(), Counters::from_words(5..));
        assert!(published.is_serving());
    }
}
