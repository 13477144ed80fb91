//! What is logged, and how to change that while the tracker runs.

use std::sync::{Mutex, PoisonError};

/// Puts another filter into force, or says what is wrong with it.
type Set = Box<dyn Fn(&str) -> Result<(), String> + Send + Sync>;

/// The filter of log messages.
pub struct LogFilter {
    set: Set,
    level: Mutex<String>,
}

impl LogFilter {
    /// `level` is in force; `set` changes it.
    pub fn new(level: &str, set: Set) -> Self {
        Self { set, level: Mutex::new(level.to_owned()) }
    }

    /// What is in force, as it was written.
    #[must_use]
    pub fn level(&self) -> String {
        self.level.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes it, until the next start.
    ///
    /// # Errors
    /// What is wrong with `level`; the old one stays.
    pub fn set(&self, level: &str) -> Result<(), String> {
        let mut current = self.level.lock().unwrap_or_else(PoisonError::into_inner);
        (self.set)(level)?;
        level.clone_into(&mut current);
        Ok(())
    }
}
