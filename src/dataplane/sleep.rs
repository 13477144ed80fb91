//! Sleeping until an eventfd is written: the only place where the data plane waits.
//!
//! By poll(2), and not through the executor's own ring. When the kernel refuses that ring for the
//! moment (EAGAIN), glommio 0.9 sleeps on what it has not submitted, and the worker is never woken
//! again; `.ci/kernel-faults` does it on purpose. A worker is the only task of its executor, so
//! nobody is kept waiting.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// The worker's timer, which writes the eventfd four times a second, should it ever fail to.
const AT_MOST: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// Waits until `eventfd` is readable, a signal comes, or a second is over.
///
/// # Errors
/// If it cannot be waited for, which would be our own bug.
pub fn until_written(eventfd: BorrowedFd<'_>) -> io::Result<()> {
    match poll(&mut [PollFd::from_borrowed_fd(eventfd, PollFlags::IN)], Some(&AT_MOST)) {
        // NOMEM: for the moment. The loop turns once more, and comes back.
        Ok(_) | Err(Errno::INTR | Errno::AGAIN | Errno::NOMEM) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
