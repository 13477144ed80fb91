//! How a worker stops: what has been asked is answered, and everybody is told.

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::Worker;

/// So long a worker stays for the others, which may need it for their answers.
const STAY: Duration = Duration::from_millis(50);
/// So long it stays for connections that have not taken what they have been told.
const STAY_MAX: Duration = Duration::from_millis(500);

impl Worker {
    /// Takes on nothing new, lets answers leave, then ends every connection and every request in
    /// flight.
    pub(super) fn stop(mut self) -> io::Result<()> {
        self.stopping = true;
        for listener in &self.http {
            self.ring.cancel_accepts(listener.socket.as_fd());
        }
        for socket in &self.udp {
            self.ring.cancel_receive(socket.as_fd());
        }
        self.connections.say_goodbye(self.now, &mut self.ring);
        let began = Instant::now();
        loop {
            self.turn()?;
            let stayed = began.elapsed();
            if stayed >= STAY_MAX || (stayed >= STAY && !self.connections.owes_anything()) {
                break;
            }
        }
        self.connections.shut_down();
        self.published.publish(self.tracker.counters());
        Ok(())
    }
}
