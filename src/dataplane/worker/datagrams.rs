//! How datagrams are answered, and when they are looked for.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::Instant;

use super::{Completion, Operation, Worker, is_out_of_buffers, nanos_since};
use crate::dataplane::budget::LOOK;
use crate::dataplane::exits::Exits;
use crate::limits::BATCH_MAX;
use crate::tracker::Datagram;
use crate::tracker::counters::record_latency;

impl Worker {
    /// Sends the answers to earlier datagrams, and answers those that have come. Returns whether
    /// there was anything.
    pub(super) fn serve_datagrams(&mut self) -> io::Result<bool> {
        let begun = Instant::now();
        let mut completions = std::mem::take(&mut self.completions);
        let overflown = self.ring.enter_for_datagrams(&mut completions)?;
        let any = !completions.is_empty();
        for completion in completions.drain(..) {
            self.complete_udp(&completion);
        }
        self.completions = completions;
        self.now = self.read_clock();
        self.tracker.counters_mut().ring_overflows[0] += u64::from(overflown);
        if !self.received.is_empty() {
            self.obey();
            self.handle_datagrams();
            // The answers leave with the next enter: at once if there is no other before it.
            if !self.waiting.is_empty() || self.ring.has_more_for_connections() {
                self.ring.send_datagrams()?;
            }
        }
        self.arm_receives();
        let ended = Instant::now();
        self.look_due = ended + LOOK.max(ended.duration_since(begun) / 2);
        Ok(any)
    }

    /// Looks for datagrams in the middle of other work, unless that was done just now.
    pub(super) fn look(&mut self, now: Instant) -> io::Result<()> {
        if now >= self.look_due {
            self.serve_datagrams()?;
        }
        Ok(())
    }

    fn complete_udp(&mut self, completion: &Completion) {
        match completion.operation {
            Operation::Datagram(listener) => {
                let starved = is_out_of_buffers(completion);
                self.tracker.counters_mut().ring_enobufs[0] += u64::from(starved);
                if !completion.goes_on() {
                    // The buffers of this turn come back before it is armed again. After any other
                    // error the timer arms it, lest an error that stays makes the loop spin.
                    let failed = completion.result().is_err() && !starved;
                    let list = if failed { &mut self.failed } else { &mut self.unarmed };
                    list.push(listener);
                }
                self.received.push(*completion);
            }
            Operation::Reply(slot) => {
                self.ring.reply_sent(slot);
                if completion.result().is_err() {
                    self.tracker.counters_mut().udp_send_errors[0] += 1;
                }
            }
            _ => {}
        }
    }

    /// Answers the datagrams that have come, and gives their buffers back.
    fn handle_datagrams(&mut self) {
        let mut received = std::mem::take(&mut self.received);
        let begun = Instant::now();
        for chunk in received.chunks(BATCH_MAX) {
            let (inbox, outbox) = self.ring.split();
            let empty = Datagram {
                listener: 0,
                source: SocketAddr::from(([0, 0, 0, 0], 0)),
                bytes: &[],
                truncated: false,
            };
            let mut batch = [empty; BATCH_MAX];
            let mut len = 0;
            for completion in chunk {
                let Operation::Datagram(listener) = completion.operation else { continue };
                if let Some(datagram) = inbox.datagram(completion) {
                    batch[len] = Datagram {
                        listener,
                        source: datagram.source,
                        bytes: datagram.bytes,
                        truncated: datagram.truncated,
                    };
                    len += 1;
                }
            }
            let (udp, post, answers) = (&self.udp, &mut self.post, &mut self.answers);
            let mut exits = Exits { outbox, udp, post, answers };
            self.tracker.handle_datagrams(self.now.seconds(), &batch[..len], &mut exits);
            for completion in chunk {
                self.ring.recycle(completion);
            }
        }
        record_latency(&mut self.tracker.counters_mut().udp_batch, nanos_since(begun));
        received.clear();
        self.received = received;
    }

    /// Lets receives go on that have ended.
    fn arm_receives(&mut self) {
        for listener in self.unarmed.drain(..).filter(|_| !self.stopping) {
            self.ring.receive_datagrams(self.udp[usize::from(listener)].as_fd(), listener);
        }
    }
}
