//! What a worker is told by the control plane, without a lock on most turns.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use rustls::ServerConfig;

use super::mailbox::Doorbell;
use crate::time::Seconds;
use crate::tracker::Tracker;
use crate::tracker::access::Access;
use crate::tracker::published::Pages;

/// Something that a worker does between two batches of requests: to look something up, say. It
/// takes as long as a request, not longer.
pub type Question = Box<dyn FnOnce(&mut Tracker, Seconds) + Send>;

/// Questions that may wait for a worker.
const QUESTIONS_MAX: usize = 64;

/// As many questions wait as may.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TooMany;

/// What the control plane wants of a worker, looked at on every turn.
#[derive(Debug)]
pub struct Orders {
    doorbell: Arc<Doorbell>,
    stop: AtomicBool,
    access: Tray<Access>,
    tls: Tray<Arc<ServerConfig>>,
    pages: Tray<Arc<Pages>>,
    questions: Tray<Questions>,
}

/// Questions in their order.
#[derive(Default)]
struct Questions(Vec<Question>);

impl fmt::Debug for Questions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} questions", self.0.len())
    }
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

    /// Changes what lies there, or what would; says whether it may be so.
    fn change(&self, change: impl FnOnce(&mut T) -> bool) -> bool
    where
        T: Default,
    {
        let mut thing = self.thing.lock().expect("no holder panics");
        let changed = change(thing.get_or_insert_default());
        drop(thing);
        self.is_full.store(true, Ordering::Release);
        changed
    }

    /// One load on most turns; the lock only when there is something. Whoever holds it is not
    /// waited for: there is another turn.
    fn take(&self) -> Option<T> {
        if !self.is_full.load(Ordering::Relaxed) {
            return None;
        }
        let mut thing = self.thing.try_lock().ok()?;
        self.is_full.store(false, Ordering::Relaxed);
        thing.take()
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
            questions: Tray::new(),
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

    /// The worker answers a question on its next turn.
    ///
    /// # Errors
    /// [`TooMany`] if others wait that it has not come to.
    pub fn ask(&self, question: Question) -> Result<(), TooMany> {
        let has_room = self.questions.change(|questions| {
            let has_room = questions.0.len() < QUESTIONS_MAX;
            if has_room {
                questions.0.push(question);
            }
            has_room
        });
        self.doorbell.ring_always();
        if has_room { Ok(()) } else { Err(TooMany) }
    }

    /// What is to be answered now.
    pub fn new_questions(&self) -> impl Iterator<Item = Question> {
        self.questions.take().unwrap_or_default().0.into_iter()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_questions_wait_as_may_and_each_comes_once() {
        let orders = Orders::new(Arc::new(Doorbell::new().expect("an eventfd")));
        let ask = || orders.ask(Box::new(|_, _| ()));
        for _ in 0..QUESTIONS_MAX {
            assert_eq!(ask(), Ok(()));
        }
        assert_eq!(ask(), Err(TooMany));
        assert_eq!(orders.new_questions().count(), QUESTIONS_MAX);
        assert_eq!(orders.new_questions().count(), 0);
        assert_eq!(ask(), Ok(()));
        assert_eq!(orders.new_questions().count(), 1);
    }

    #[test]
    fn a_worker_does_not_wait_for_whoever_puts_something_down() {
        let tray = Tray::new();
        tray.put(1);
        let held = tray.thing.lock().expect("nobody panicked");
        assert_eq!(tray.take(), None);
        drop(held);
        assert_eq!((tray.take(), tray.take()), (Some(1), None));
    }
}
