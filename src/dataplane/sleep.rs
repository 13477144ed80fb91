//! Sleeping in a glommio executor until an eventfd is written.
//!
//! The only place where the data plane waits. A read of the eventfd is handed to glommio's own ring
//! and awaited, so that other tasks of the executor run meanwhile.

use std::io;
use std::os::fd::BorrowedFd;

use glommio::io::BufferedFile;

/// Bytes that a read of an eventfd takes.
const EVENTFD_BYTES: usize = 8;

/// Waits for one eventfd.
pub struct Sleeper {
    file: BufferedFile,
}

impl Sleeper {
    /// Will wait for `eventfd`, through a descriptor of its own.
    ///
    /// # Errors
    /// If no descriptor is left.
    pub fn new(eventfd: BorrowedFd<'_>) -> io::Result<Self> {
        Ok(Self { file: super::ring::into_file(eventfd.try_clone_to_owned()?) })
    }

    /// Waits until the eventfd is written, or returns at once if it was since the last wait.
    ///
    /// # Errors
    /// If the eventfd cannot be read, which would be our own bug.
    pub async fn sleep(&self) -> io::Result<()> {
        match self.file.read_at(0, EVENTFD_BYTES).await {
            Ok(_) => Ok(()),
            Err(error) => {
                let error = io::Error::from(error);
                if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) {
                    return Ok(());
                }
                Err(error)
            }
        }
    }
}
