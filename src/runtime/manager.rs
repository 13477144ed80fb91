//! What the service manager hears of us: systemd, or whoever else has set `$NOTIFY_SOCKET` as
//! `sd_notify(3)` says. Without one nobody hears anything.

use std::time::Duration;

use sd_notify::{NotifyState, notify, watchdog_enabled};
use tracing::{error, warn};

/// A manager that watches hears of us each second. One that wants to hear more often than every
/// other second would end a tracker that is well.
const WATCHED_WITHIN_MIN: Duration = Duration::from_secs(2);

const SERVING: NotifyState<'_> = NotifyState::Status("serving peers");

/// The service manager, if there is one.
#[derive(Debug)]
pub(super) struct Manager {
    /// It wants to hear of us again and again.
    watches: bool,
    is_told: bool,
    /// It could not be told.
    is_deaf: bool,
    /// The worker that stands still.
    stuck: Option<usize>,
}

impl Manager {
    /// The manager that started us.
    pub fn new() -> Self {
        let within = watchdog_enabled().filter(|within| !within.is_zero());
        if within.is_some_and(|within| within < WATCHED_WITHIN_MIN) {
            warn!("the service manager will end this: WatchdogSec= must be 2s at least");
        }
        Self { watches: within.is_some(), is_told: false, is_deaf: false, stuck: None }
    }

    /// Whether it wants to know how we are.
    pub const fn watches(&self) -> bool {
        self.watches
    }

    /// Whether it knows that peers are served.
    pub const fn is_told(&self) -> bool {
        self.is_told
    }

    /// Peers are served from now on.
    pub fn started(&mut self) {
        self.is_told = true;
        self.tell(&[NotifyState::Ready, SERVING]);
    }

    /// How we are: call it each second. While a worker stands still the manager hears nothing, and
    /// loses its patience unless the worker goes on in time.
    pub fn second(&mut self, stuck: Option<usize>) {
        let before = std::mem::replace(&mut self.stuck, stuck);
        match stuck {
            Some(worker) if before != stuck => {
                error!("worker {worker} has not moved for some seconds");
                let status = format!("worker {worker} does not move");
                self.tell(&[NotifyState::Status(&status)]);
            }
            None if before.is_some() => {
                warn!("all workers move again");
                self.tell(&[SERVING]);
            }
            _ => {}
        }
        if self.watches && stuck.is_none() {
            self.tell(&[NotifyState::Watchdog]);
        }
    }

    /// The end has begun.
    pub fn stopping(&mut self) {
        self.tell(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
    }

    fn tell(&mut self, state: &[NotifyState<'_>]) {
        if let Err(source) = notify(state)
            && !std::mem::replace(&mut self.is_deaf, true)
        {
            warn!("the service manager cannot be told {state:?}: {source}");
        }
    }
}
