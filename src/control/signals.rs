//! What operators say by signals.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use tokio::runtime::Builder;
use tokio::signal::unix::{Signal as Stream, SignalKind, signal};

/// A signal and its name.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Signal {
    /// SIGINT or SIGTERM: end in order.
    Stop(&'static str),
    /// SIGHUP or SIGUSR1: read lists again.
    Reload(&'static str),
}

/// The signals that we take.
#[derive(Debug)]
pub struct Signals {
    interrupt: Stream,
    terminate: Stream,
    hangup: Stream,
    user: Stream,
}

impl Signals {
    /// From here on these signals no longer end the process by themselves.
    ///
    /// # Errors
    /// If a handler cannot be installed.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            user: signal(SignalKind::user_defined1())?,
        })
    }

    /// The next signal.
    pub async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.interrupt.recv() => Signal::Stop("SIGINT"),
            _ = self.terminate.recv() => Signal::Stop("SIGTERM"),
            _ = self.hangup.recv() => Signal::Reload("SIGHUP"),
            _ = self.user.recv() => Signal::Reload("SIGUSR1"),
        }
    }
}

/// From here on the first SIGINT or SIGTERM only makes `flag` true; a further one ends the process.
/// For programs without a control plane: a thread of its own waits for them.
///
/// # Errors
/// If a handler cannot be installed.
pub fn raise_on_interrupt(flag: Arc<AtomicBool>) -> io::Result<()> {
    let runtime = Builder::new_current_thread().enable_io().build()?;
    let (mut interrupt, mut terminate) = {
        let _inside = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        let mut stop = || {
            runtime.block_on(async {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
            });
        };
        stop();
        flag.store(true, Ordering::Relaxed);
        stop();
        // As a shell has it: 128 and the number of SIGINT.
        std::process::exit(130);
    })?;
    Ok(())
}
