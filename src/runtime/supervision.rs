//! What runs beside the workers, on the thread that started them: operators are answered, signals
//! are obeyed.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Resource, getrlimit, nice};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::MissedTickBehavior;
use tracing::{info, warn};

use super::manager::Manager;
use super::{RunError, load_tls};
use crate::check;
use crate::config::Config;
use crate::control::State;
use crate::control::admin::{self, Bound};
use crate::control::door::Token;
use crate::control::lists::Lists;
use crate::control::signals::{Signal, Signals};
use crate::dataplane::orders::Orders;

/// How much worse the priority of the control plane is: it has a tenth of a CPU that it shares with
/// a worker that is busy all the time.
const BEHIND_WORKERS: i32 = 10;

/// Threads that read files for operators, and the stack of each: there has to be room for them when
/// the kernel has no more memory for swarms.
const READERS: usize = 4;
const READER_STACK_BYTES: usize = 1 << 20;

/// How often to look whether all workers serve.
const START_POLL: Duration = Duration::from_millis(20);

/// The control plane: one thread's executor, and the signals that it waits for.
pub(super) struct Supervision {
    executor: Runtime,
    signals: Signals,
}

impl Supervision {
    /// From here on signals wait until [`Supervision::run`] takes them.
    pub fn new() -> Result<Self, RunError> {
        let error = |source| RunError::Io { what: "starting the control plane", source };
        let executor = Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(READERS)
            .thread_stack_size(READER_STACK_BYTES)
            .build()
            .map_err(error)?;
        let signals = {
            let _guard = executor.enter();
            Signals::new().map_err(error)?
        };
        Ok(Self { executor, signals })
    }

    /// Answers operators and obeys signals, until one of them or the end of a worker ends it.
    pub fn run(
        self,
        config: &Config,
        (admin, token): (Vec<Bound>, Option<&Token>),
        state: &State,
        lists: &Lists,
        orders: &Arc<[Arc<Orders>]>,
        endings: &mut UnboundedReceiver<RunError>,
    ) -> Result<(), RunError> {
        let error = |source| RunError::Io { what: "starting the control plane", source };
        let Self { executor, mut signals } = self;
        // Whatever operators ask for, workers come first. On Linux this is about one thread, and
        // about those that it starts.
        let _ = nice(BEHIND_WORKERS);
        let outcome = executor.block_on(async {
            let mut manager = Manager::new();
            // One after the other, so that what was read last is in force.
            let reload = Arc::new(Mutex::new(Reload {
                config: config.clone(),
                lists: lists.clone(),
                orders: orders.clone(),
                state: state.clone(),
            }));
            let is_watched = !admin.is_empty() || manager.watches();
            let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
            admin::spawn(admin, token, check::admin_connections(files), state).map_err(error)?;
            let mut every_second = tokio::time::interval(Duration::from_secs(1));
            // After a long reload one sample, and not all that were missed within a moment.
            every_second.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut soon = tokio::time::interval(START_POLL);
            loop {
                tokio::select! {
                    _ = every_second.tick() => {
                        lists.tidy();
                        if is_watched {
                            state.sample();
                            manager.second(state.stuck());
                        }
                        if config.http.stats {
                            let pages = Arc::new(state.pages());
                            orders.iter().for_each(|orders| orders.set_pages(pages.clone()));
                        }
                    }
                    _ = soon.tick(), if !manager.is_told() => {
                        if state.is_serving() {
                            manager.started();
                        }
                    }
                    signal = signals.next() => match signal {
                        Signal::Stop(name) => {
                            info!("{name}: stopping");
                            manager.stopping();
                            return Ok(());
                        }
                        // Millions of hashes take seconds, and so may files that lie elsewhere:
                        // operators are to be answered meanwhile.
                        Signal::Reload(name) => {
                            let reload = reload.clone();
                            tokio::task::spawn_blocking(move || {
                                reload.lock().unwrap_or_else(PoisonError::into_inner).run(name);
                            });
                        }
                    },
                    ended = endings.recv() => return ended.map_or(Ok(()), Err),
                }
            }
        });
        // An admin connection that is open must not keep the process alive.
        executor.shutdown_background();
        outcome
    }
}

/// What a reload reads, and whom it tells.
struct Reload {
    config: Config,
    lists: Lists,
    orders: Arc<[Arc<Orders>]>,
    state: State,
}

impl Reload {
    /// Reads certificates and lists again; what is bad leaves the old in force.
    fn run(&self, signal: &'static str) {
        self.read_certificates(signal);
        let reloaded = self.lists.reload();
        if reloaded.is_empty() {
            info!("{signal}: there is no access list to read again");
        }
        for (name, outcome) in reloaded {
            match outcome {
                Ok(status) => {
                    let (name, entries) = (name.key(), status.entries);
                    info!("{signal}: {name} has been read again: {entries} entries");
                }
                Err(error) => warn!("{signal}: the old {} stays in force: {error}", name.key()),
            }
        }
    }

    fn read_certificates(&self, signal: &'static str) {
        match load_tls(&self.config) {
            Ok(None) => {}
            Ok(Some(loaded)) => {
                self.orders.iter().for_each(|orders| orders.set_tls(loaded.config.clone()));
                self.state.set_certificates(loaded.ends);
                info!("{signal}: the certificates have been read again");
            }
            Err(error) => warn!("{signal}: the old certificates stay in force: {error}"),
        }
    }
}
