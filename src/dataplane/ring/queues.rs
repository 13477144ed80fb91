//! A pair of queues between a thread and the kernel, which is a ring to io_uring(7).

#![expect(unsafe_code, reason = "requests name memory, which the kernel reads and writes")]

use std::collections::VecDeque;
use std::io;

use io_uring::{IoUring, squeue};

use super::Completion;
#[cfg(test)]
use super::faults;

/// `IORING_ENTER_GETEVENTS`: run deferred work and flush an overflown completion queue.
const ENTER_GETEVENTS: u32 = 1;

/// How large a pair of queues is. Powers of two.
#[derive(Clone, Copy, Debug)]
pub struct Queues {
    /// Entries of the submission queue.
    pub submissions: u32,
    /// Entries of the completion queue.
    pub completions: u32,
}

/// A pair of queues, and how much of what was put into them is still under way.
pub(super) struct Kernel {
    pub(super) uring: IoUring,
    /// Requests that did not fit into the submission queue, in order.
    pub(super) backlog: VecDeque<squeue::Entry>,
    /// How many requests one enter hands over at the most.
    pub(super) submissions_max: u32,
    /// Requests given to the kernel, or waiting in the queue, whose last completion has not come.
    pub(super) in_flight: usize,
    /// How often it was entered.
    pub(super) enters: u64,
    #[cfg(test)]
    pub(super) faults: Option<faults::Faults>,
}

impl Kernel {
    pub(super) fn new(queues: Queues, submissions_max: u32) -> io::Result<Self> {
        let uring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_cqsize(queues.completions)
            .dontfork()
            .build(queues.submissions)?;
        Ok(Self {
            uring,
            backlog: VecDeque::new(),
            submissions_max,
            in_flight: 0,
            enters: 0,
            #[cfg(test)]
            faults: None,
        })
    }

    /// Queues a request. It always succeeds: what does not fit waits for the next turn.
    ///
    /// The callers keep the duties of `SubmissionQueue::push`: memory that `entry` names is static,
    /// or belongs to the same [`super::Ring`] and stays untouched until the completion.
    pub(super) fn push(&mut self, entry: squeue::Entry) {
        self.in_flight += 1;
        if !self.backlog.is_empty() || !self.try_push(&entry) {
            self.backlog.push_back(entry);
        }
    }

    fn try_push(&mut self, entry: &squeue::Entry) -> bool {
        // SAFETY: every memory that an entry of this module names is static, or lies in a field of
        // `Ring`, which waits in `drop` until `in_flight` is 0, or leaks.
        unsafe { self.uring.submission().push(entry) }.is_ok()
    }

    /// Whether there is something to hand over, deferred work, or completions for which there was
    /// no room: without an enter nothing comes of that.
    pub(super) fn has_more(&mut self) -> bool {
        let queue = self.uring.submission();
        let waits = !queue.is_empty() || queue.taskrun() || queue.cq_overflow();
        drop(queue);
        waits || !self.backlog.is_empty()
    }

    /// Hands queued requests to the kernel and lets it run deferred work; never waits.
    pub(super) fn enter(&mut self) -> io::Result<()> {
        #[cfg(test)]
        if let Some(errno) = self.faults.as_mut().and_then(faults::Faults::enter) {
            return outcome_of_enter(Err(io::Error::from_raw_os_error(errno)));
        }
        let queued = self.uring.submission().len();
        let queued = u32::try_from(queued).expect("a queue length is 32 bits");
        let queued = queued.min(self.submissions_max);
        self.enters += 1;
        // SAFETY: no argument is passed, so there is none to be valid; the flags are known ones.
        let entered =
            unsafe { self.uring.submitter().enter::<()>(queued, 0, ENTER_GETEVENTS, None) };
        outcome_of_enter(entered)?;
        while let Some(entry) = self.backlog.front().cloned() {
            if !self.try_push(&entry) {
                break;
            }
            self.backlog.pop_front();
        }
        Ok(())
    }

    /// Enters the kernel if there is a reason to, or `always`, and collects what has completed.
    /// Returns whether the completion queue was overflown.
    pub(super) fn turn(&mut self, always: bool, into: &mut Vec<Completion>) -> io::Result<bool> {
        let overflown = self.uring.submission().cq_overflow();
        if always || self.has_more() {
            self.enter()?;
        }
        self.completions(into);
        Ok(overflown)
    }

    fn completions(&mut self, into: &mut Vec<Completion>) {
        for entry in self.uring.completion() {
            let completion = Completion::of(&entry);
            self.in_flight -= usize::from(!completion.goes_on());
            into.push(completion);
        }
        #[cfg(test)]
        if let Some(faults) = &mut self.faults {
            for cancel in faults.edit(into) {
                self.push(cancel);
            }
        }
    }
}

#[cfg(test)]
impl Kernel {
    pub(super) fn shorten(&mut self, fault: faults::Fault, len: u32) -> u32 {
        self.faults.as_mut().map_or(len, |faults| faults.shorten(fault, len))
    }
}

/// What an enter came to: some errors mean no more than "later".
pub(super) fn outcome_of_enter(entered: io::Result<usize>) -> io::Result<()> {
    match entered {
        Ok(_) => Ok(()),
        // A signal; too little memory for the moment; completions that must be reaped first.
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(libc::EINTR | libc::EAGAIN | libc::EBUSY | libc::ETIME)
            ) =>
        {
            Ok(())
        }
        Err(error) => Err(error),
    }
}
