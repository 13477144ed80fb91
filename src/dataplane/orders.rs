//! What a worker is told by the control plane, without a lock on most turns.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use rustls::ServerConfig;

use super::mailbox::Doorbell;
use crate::tracker::access::Access;
use crate::tracker::published::Pages;

/// What the control plane wants of a worker, looked at on every turn.
#[derive(Debug)]
pub struct Orders {
    doorbell: Arc<Doorbell>,
    stop: AtomicBool,
    access: Tray<Access>,
    tls: Tray<Arc<ServerConfig>>,
    pages: Tray<Arc<Pages>>,
}

/// One thing that is put down for the other side to take; a newer one replaces it.
#[derive(Debug)]
struct Tray<T> {
    is_full: AtomicBool,
    thing: Mutex<Option<T>>,
}

impl<T> Tray<T> {
    const fn new() -> Self {
        Self { is_full: AtomicBool::new(false), thing: Mutex::new(None) }
    }

    fn put(&self, thing: T) {
        *self.thing.lock().expect("no holder panics") = Some(thing);
        self.is_full.store(true, Ordering::Release);
    }

    /// One load on most turns; the lock only when there is something.
    fn take(&self) -> Option<T> {
        if !self.is_full.load(Ordering::Relaxed) {
            return None;
        }
        self.is_full.store(false, Ordering::Relaxed);
        self.thing.lock().expect("no holder panics").take()
    }
}

impl Orders {
    /// No order yet; `doorbell` is the worker's own.
    #[must_use]
    pub const fn new(doorbell: Arc<Doorbell>) -> Self {
        Self {
            doorbell,
            stop: AtomicBool::new(false),
            access: Tray::new(),
            tls: Tray::new(),
            pages: Tray::new(),
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
    /// As the other two: if the worker panicked while it took the last one, which ends the process
    /// anyway.
    pub fn set_access(&self, access: Access) {
        self.access.put(access);
        self.doorbell.ring_always();
    }

    /// The worker uses other certificates for connections to come.
    pub fn set_tls(&self, tls: Arc<ServerConfig>) {
        self.tls.put(tls);
        self.doorbell.ring_always();
    }

    /// The worker serves other pages, from its next turn on: nobody is woken for that.
    pub fn set_pages(&self, pages: Arc<Pages>) {
        self.pages.put(pages);
    }

    /// Whether the worker shall end.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// The access list to use from now on, if there is a new one.
    #[must_use]
    pub fn new_access(&self) -> Option<Access> {
        self.access.take()
    }

    /// The certificates to use from now on, if there are new ones.
    #[must_use]
    pub fn new_tls(&self) -> Option<Arc<ServerConfig>> {
        self.tls.take()
    }

    /// The pages to serve from now on, if there are new ones.
    #[must_use]
    pub fn new_pages(&self) -> Option<Arc<Pages>> {
        self.pages.take()
    }
}
