//! What the service manager hears of us: systemd, or whoever else has set `$NOTIFY_SOCKET` as
//! `sd_notify(3)` says. Without one nobody hears anything.

use std::time::Duration;

use sd_notify::{NotifyState, notify, watchdog_enabled};
use tracing::{error, warn};

/// A manager that watches hears of us each second. One that wants to hear more often than every
/// other second would end a tracker that is well.
const WATCHED_WITHIN_MIN: Duration = Duration::from_secs(2);

/// The service manager, if there is one.
#[derive(Debug)]
pub(super) struct Manager {
    /// It wants to hear of us again and again.
    watches: bool,
    is_told: bool,
    /// The worker that was last known to be stuck.
    stuck: Option<usize>,
}

impl Manager {
    /// The manager that started us.
    pub fn new() -> Self {
        let within = watchdog_enabled();
        if within.is_some_and(|within| within < WATCHED_WITHIN_MIN) {
            warn!("the service manager will end this: WatchdogSec= must be 2s at least");
        }
        Self { watches: within.is_some(), is_told: false, stuck: None }
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
        tell(&[NotifyState::Ready, NotifyState::Status("serving peers")]);
    }

    /// How we are: call it each second. A worker that is stuck stays so, and its share of the
    /// swarms with it: the manager is asked to start us anew.
    pub fn second(&mut self, stuck: Option<usize>) {
        if let Some(worker) = stuck
            && self.stuck != stuck
        {
            error!("worker {worker} has not moved for some seconds");
        }
        self.stuck = stuck;
        match stuck {
            _ if !self.watches => {}
            None => tell(&[NotifyState::Watchdog]),
            Some(worker) => {
                let status = format!("worker {worker} is stuck");
                tell(&[NotifyState::Status(&status), NotifyState::WatchdogTrigger]);
            }
        }
    }

    /// The end has begun.
    pub fn stopping(&self) {
        tell(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
    }
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(source) = notify(state) {
        warn!("the service manager was not told {state:?}: {source}");
    }
}
