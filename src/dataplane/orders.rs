//! What a worker is told by the control plane, without a lock on most turns.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::mailbox::Doorbell;
use crate::tracker::access::Access;

/// What the control plane wants of a worker, looked at on every turn.
#[derive(Debug)]
pub struct Orders {
    doorbell: Arc<Doorbell>,
    stop: AtomicBool,
    access_changed: AtomicBool,
    access: std::sync::Mutex<Access>,
}

impl Orders {
    /// No order yet; `doorbell` is the worker's own.
    #[must_use]
    pub fn new(doorbell: Arc<Doorbell>) -> Self {
        Self {
            doorbell,
            stop: AtomicBool::new(false),
            access_changed: AtomicBool::new(false),
            access: std::sync::Mutex::default(),
        }
    }

    /// The worker ends its loop in order.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.doorbell.ring_always();
    }

    /// The worker uses another access list.
    ///
    /// # Panics
    /// If a worker panicked while it took the last one, which ends the process anyway.
    pub fn set_access(&self, access: Access) {
        *self.access.lock().expect("no holder panics") = access;
        self.access_changed.store(true, Ordering::Release);
        self.doorbell.ring_always();
    }

    /// Whether the worker shall end.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// The access list to use from now on, if there is a new one.
    ///
    /// # Panics
    /// If the control plane panicked while it left one, which ends the process anyway.
    #[must_use]
    pub fn new_access(&self) -> Option<Access> {
        // One load on most turns; the lock only after an operator changed something.
        if !self.access_changed.load(Ordering::Relaxed) {
            return None;
        }
        self.access_changed.store(false, Ordering::Relaxed);
        Some(self.access.lock().expect("no holder panics").clone())
    }
}
