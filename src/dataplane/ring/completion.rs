//! What the kernel says it has done, and for whom.
//!
//! ```text
//! user_data   63..56  operation      55..0  whom it is for (a listener, a slot, a connection)
//! ```

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use io_uring::cqueue;

/// The bits of `user_data` that say for whom a request is.
pub(super) const WHOM_BITS: u32 = 56;

/// Names a connection in completions: 56 bits that its owner chooses.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Token(u64);

impl Token {
    /// A slot and a generation, so that a late completion cannot be taken for the next user's.
    #[must_use]
    pub fn new(slot: u32, generation: u32) -> Self {
        Self(u64::from(generation & 0x00FF_FFFF) << 32 | u64::from(slot))
    }

    /// The slot.
    #[must_use]
    pub fn slot(self) -> usize {
        usize::try_from(self.0 & u64::from(u32::MAX)).expect("32 bits")
    }

    /// As a number.
    #[must_use]
    pub const fn to_bits(self) -> u64 {
        self.0
    }

    /// From a number that [`Token::to_bits`] made.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits & ((1 << WHOM_BITS) - 1))
    }
}

/// What a completion is about.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Operation {
    /// A datagram came in by this listener.
    Datagram(u8),
    /// The datagram in this slot has been sent.
    Reply(u16),
    /// A connection was accepted by this listener; `result` is its descriptor.
    Accept(u8),
    /// A connection was accepted by this listener only to be closed; `result` is its place in the
    /// ring's own table.
    Refuse(u8),
    /// Bytes came in on this connection.
    Read(Token),
    /// Bytes went out on this connection.
    Write(Token),
    /// The timer has run out.
    Timer,
    /// Something was cancelled, or a refused connection closed.
    Cancel,
}

impl Operation {
    pub(super) fn to_user_data(self) -> u64 {
        let (operation, whom) = match self {
            Self::Datagram(listener) => (0, u64::from(listener)),
            Self::Reply(slot) => (1, u64::from(slot)),
            Self::Accept(listener) => (2, u64::from(listener)),
            Self::Read(token) => (3, token.0),
            Self::Write(token) => (4, token.0),
            Self::Timer => (5, 0),
            Self::Cancel => (6, 0),
            Self::Refuse(listener) => (7, u64::from(listener)),
        };
        operation << WHOM_BITS | whom
    }

    pub(super) fn from_user_data(user_data: u64) -> Self {
        let [_, _, _, _, _, _, high, low] = user_data.to_be_bytes();
        match user_data >> WHOM_BITS {
            0 => Self::Datagram(low),
            1 => Self::Reply(u16::from_be_bytes([high, low])),
            2 => Self::Accept(low),
            3 => Self::Read(Token::from_bits(user_data)),
            4 => Self::Write(Token::from_bits(user_data)),
            5 => Self::Timer,
            6 => Self::Cancel,
            7 => Self::Refuse(low),
            _ => unreachable!("user_data comes back as it was given"),
        }
    }
}

/// Something that the kernel has done.
#[derive(Clone, Copy, Debug)]
pub struct Completion {
    /// What it is about.
    pub operation: Operation,
    /// Bytes, a descriptor, or a negated errno.
    pub(super) result: i32,
    pub(super) flags: u32,
}

impl Completion {
    pub(super) fn of(entry: &cqueue::Entry) -> Self {
        Self {
            operation: Operation::from_user_data(entry.user_data()),
            result: entry.result(),
            flags: entry.flags(),
        }
    }

    /// The result, or what went wrong.
    ///
    /// # Errors
    /// The errno that the kernel answered.
    pub fn result(&self) -> io::Result<u32> {
        u32::try_from(self.result).map_err(|_| io::Error::from_raw_os_error(-self.result))
    }

    /// The connection of a completed accept.
    ///
    /// # Errors
    /// Why none could be accepted. The caller calls this once for a completion.
    pub fn accepted(&self) -> io::Result<OwnedFd> {
        assert!(matches!(self.operation, Operation::Accept(_)));
        let descriptor = self.result()?;
        let descriptor = RawFd::try_from(descriptor).expect("it was an i32 before");
        // SAFETY: the kernel made this descriptor for this completion, and nobody else has it.
        Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
    }

    /// Whether the request goes on by itself. A multishot request that does not must be armed
    /// again.
    #[must_use]
    pub fn goes_on(&self) -> bool {
        cqueue::more(self.flags)
    }

    /// Whether a buffer is lent to whoever handles this, until [`super::Ring::recycle`].
    #[must_use]
    pub fn holds_buffer(&self) -> bool {
        self.buffer().is_some()
    }

    /// The buffer that holds what was received.
    pub(super) fn buffer(&self) -> Option<u16> {
        cqueue::buffer_select(self.flags)
    }
}
