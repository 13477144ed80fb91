//! How connections are accepted, and what becomes of those for which there is no room.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;

use super::{Accepting, Completion, Worker};
use crate::dataplane::connections::Refused;

/// Seconds between two log lines about the same trouble.
const LOG_SECONDS: u32 = 60;

impl Worker {
    pub(super) fn accepted(&mut self, listener: usize, completion: Completion) {
        let goes_on = completion.goes_on();
        let accepting = &mut self.http[listener].accepting;
        let was_pausing = *accepting == Accepting::Pausing;
        if !goes_on {
            *accepting = Accepting::No;
        }
        match completion.accepted() {
            Ok(stream) => {
                self.take_or_refuse(listener, stream);
                if !goes_on {
                    self.arm_accepts();
                }
            }
            Err(error) if is_short_of_descriptors(&error) && !self.stopping => {
                let number = u8::try_from(listener).expect("listeners are few");
                let listener = &mut self.http[listener];
                self.ring.refuse(listener.socket.as_fd(), number);
                listener.accepting = Accepting::Refusing;
            }
            // All that were taken before have had their turn.
            Err(_) if was_pausing => self.arm_accepts(),
            // The other side went before we came, or a signal: at once, lest clients that do so
            // hold up the others. Any other error may stay, and waits for the timer.
            Err(error) => match error.kind() {
                io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted => self.arm_accepts(),
                _ => {}
            },
        }
    }

    fn take_or_refuse(&mut self, listener: usize, stream: OwnedFd) {
        let from = (stream, self.http[listener].listening);
        let (tracker, ring) = (&mut self.tracker, &mut self.ring);
        match self.connections.accepted(self.now, from, tracker, ring) {
            Ok(()) => self.tracker.counters_mut().http_connections_accepted[0] += 1,
            Err(Refused::Full) => self.count_refusal(
                "there are as many as may be",
                "Raise http.max_connections or the limit of open files.",
            ),
            Err(Refused::Crowded) => self.count_refusal(
                "an address has as many as it may",
                "If many clients share an address, raise http.max_connections_per_address.",
            ),
            // Floods, which their counters tell of.
            Err(Refused::TooFast) => self.tracker.counters_mut().http_connections_limited[0] += 1,
            Err(Refused::Banned) => self.tracker.counters_mut().http_connections_banned[0] += 1,
            Err(Refused::Unwanted) => {}
        }
    }

    pub(super) fn refused(&mut self, listener: usize, completion: &Completion) {
        if !completion.goes_on() {
            self.http[listener].accepting = Accepting::No;
        }
        match completion.result() {
            Ok(_) => {
                self.ring.close_refused(completion);
                self.count_refusal(
                    "no file descriptor is left",
                    "Raise http.max_connections or the limit of open files.",
                );
            }
            // The timer wants to know whether there are descriptors again.
            Err(error) if error.raw_os_error() == Some(Errno::CANCELED.raw_os_error()) => {
                self.arm_accepts();
            }
            Err(_) => {}
        }
    }

    pub(super) fn arm_accepts(&mut self) {
        if self.stopping {
            return;
        }
        for (index, listener) in self.http.iter_mut().enumerate() {
            if listener.accepting == Accepting::No {
                let number = u8::try_from(index).expect("listeners are few");
                self.ring.accept(listener.socket.as_fd(), number);
                listener.accepting = Accepting::Yes;
            }
        }
    }

    /// Takes no more connections until those that it has taken have had their turn.
    pub(super) fn pause_accepts(&mut self) {
        for listener in &mut self.http {
            if listener.accepting == Accepting::Yes {
                self.ring.cancel_accepts(listener.socket.as_fd());
                listener.accepting = Accepting::Pausing;
            }
        }
    }

    /// Looks whether there are descriptors again, and accepts again what could not be.
    pub(super) fn retry_accepts(&mut self) {
        for listener in &self.http {
            if listener.accepting == Accepting::Refusing {
                self.ring.cancel_accepts(listener.socket.as_fd());
            }
        }
        self.arm_accepts();
    }

    fn count_refusal(&mut self, why: &str, remedy: &str) {
        let counters = self.tracker.counters_mut();
        counters.http_connections_refused[0] += 1;
        let refused = counters.http_connections_refused[0];
        if self.logged.is_none_or(|logged| self.now.seconds().since(logged) >= LOG_SECONDS) {
            self.logged = Some(self.now.seconds());
            tracing::warn!(
                "HTTP connections are refused: {why}; {refused} by this worker since start. \
                 {remedy}"
            );
        }
    }
}

fn is_short_of_descriptors(error: &io::Error) -> bool {
    [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}
