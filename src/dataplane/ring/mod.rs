//! Our own io_uring: everything the kernel does for a worker's sockets goes through here.
//!
//! One ring, owned by one thread (SINGLE_ISSUER, DEFER_TASKRUN: completions appear only when that
//! thread enters the kernel with GETEVENTS). It has two pairs of queues, which are rings of their
//! own to the kernel: what it has deferred it does in the order in which it came, so a datagram
//! would wait for all that came to connections before it. All memory that the kernel may touch
//! belongs to [`Ring`] and outlives every request: its `Drop` cancels what is in flight and waits
//! for it, and rather leaks memory than frees it early.

#![expect(unsafe_code, reason = "the kernel reads and writes our memory; this is where")]

mod completion;
#[cfg(test)]
pub(super) mod faults;
mod pool;
pub mod probe;
mod queues;
mod replies;
#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

use io_uring::types::{CancelBuilder, Fd, Fixed, RecvMsgOut, Timespec};
use io_uring::{opcode, squeue};

pub use self::completion::{Completion, Operation, Token};
use self::pool::Pool;
use self::queues::Kernel;
pub use self::queues::Queues;
pub use self::replies::Replies;
use crate::limits::{DATAGRAM_BYTES_MAX, HTTP_HEAD_BYTES_MAX};

/// `IORING_RECVSEND_POLL_FIRST`: nothing can have arrived yet, so do not try before waiting.
const POLL_FIRST: u16 = 1;
/// Turns that `Drop` waits for requests in flight before it leaks their memory instead.
const DRAIN_TURNS: u32 = 200;
/// Room for the sender's address in a received datagram's buffer.
const NAME_BYTES: usize = size_of::<libc::sockaddr_in6>();
/// Bytes before name and payload in a received datagram's buffer (`struct io_uring_recvmsg_out`).
const RECEIVED_HEAD_BYTES: usize = 16;
/// Bytes of a datagram's buffer; whole cache lines.
const DATAGRAM_BUFFER_BYTES: usize = 2_112;
/// Bytes of a stream's buffer: a request head is a few hundred bytes, two reads make the longest.
const STREAM_BUFFER_BYTES: usize = 4_096;

const _: () =
    assert!(RECEIVED_HEAD_BYTES + NAME_BYTES + DATAGRAM_BYTES_MAX <= DATAGRAM_BUFFER_BYTES);
const _: () = assert!(2 * STREAM_BUFFER_BYTES >= HTTP_HEAD_BYTES_MAX);

/// Connections that may be on their way out at once: see [`Ring::refuse`].
const REFUSALS: u32 = 64;

/// Of a socket: what is closed is over at once, and the other side is told so.
static NO_LINGER: libc::linger = libc::linger { l_onoff: 1, l_linger: 0 };

/// How much of what is queued for connections one enter hands to the kernel: it sends at once,
/// which takes microseconds each, and datagrams wait meanwhile.
const SUBMISSIONS_MAX: u32 = 8;

/// How large the parts of a ring are. Powers of two.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// The queues for datagrams.
    pub for_datagrams: Queues,
    /// The queues for all else.
    pub for_connections: Queues,
    /// Buffers for received datagrams.
    pub datagrams: u16,
    /// Buffers for bytes received from connections.
    pub streams: u16,
    /// Datagrams that may be on their way out at once.
    pub replies: u16,
}

impl Sizes {
    /// What a worker uses.
    pub const WORKER: Self = Self {
        for_datagrams: Queues { submissions: 1_024, completions: 4_096 },
        for_connections: Queues { submissions: 256, completions: 8_192 },
        datagrams: 1_024,
        streams: 256,
        replies: 2_048,
    };
}

/// A datagram in a receive buffer.
#[derive(Clone, Copy, Debug)]
pub struct Received<'a> {
    /// Who sent it.
    pub source: SocketAddr,
    /// What is there of it.
    pub bytes: &'a [u8],
    /// Whether that is not all.
    pub truncated: bool,
}

/// A ring and all the memory that the kernel may touch for it.
pub struct Ring {
    // Dropped first: closing the queues is what ends the kernel's interest in the rest.
    for_datagrams: Kernel,
    for_connections: Kernel,
    /// Whether the eventfd is written: see [`Ring::notify`].
    notifies: bool,
    datagrams: Pool,
    streams: Pool,
    replies: Replies,
    /// Buffers on their way out, by their connection's slot.
    writes: Vec<Option<Vec<u8>>>,
    /// The shape of a received datagram; the kernel reads it while a receive is armed.
    shape: Box<libc::msghdr>,
    /// How long the timer runs; the kernel reads it when the request is submitted.
    timer: Box<Timespec>,
}

impl Ring {
    /// Sets up a ring for the calling thread, the only one that may use it.
    ///
    /// # Errors
    /// Whatever the kernel says: io_uring may be denied, too old, or memory short.
    pub fn new(sizes: &Sizes) -> io::Result<Self> {
        let for_datagrams = Kernel::new(sizes.for_datagrams, u32::MAX)?;
        let for_connections = Kernel::new(sizes.for_connections, SUBMISSIONS_MAX)?;
        for_connections.uring.submitter().register_files_sparse(REFUSALS)?;
        let datagrams = Pool::new(&for_datagrams.uring, 0, sizes.datagrams, DATAGRAM_BUFFER_BYTES)?;
        let streams = Pool::new(&for_connections.uring, 1, sizes.streams, STREAM_BUFFER_BYTES)?;
        // SAFETY: all-zero bytes are a valid msghdr: null pointers and zero lengths.
        let mut shape: Box<libc::msghdr> = Box::new(unsafe { std::mem::zeroed() });
        shape.msg_namelen = u32::try_from(NAME_BYTES).expect("28");
        Ok(Self {
            for_datagrams,
            for_connections,
            notifies: true,
            datagrams,
            streams,
            replies: Replies::new(sizes.replies),
            writes: Vec::new(),
            shape,
            timer: Box::new(Timespec::new()),
        })
    }

    /// Lets the kernel write to `eventfd` when there is something to reap.
    ///
    /// # Errors
    /// If the descriptor is no eventfd, or one is registered already.
    pub fn register_eventfd(&self, eventfd: BorrowedFd<'_>) -> io::Result<()> {
        self.for_datagrams.uring.submitter().register_eventfd(eventfd.as_raw_fd())?;
        self.for_connections.uring.submitter().register_eventfd(eventfd.as_raw_fd())
    }

    /// Switches the eventfd on before a sleep, and off while the loop turns anyway.
    ///
    /// After switching it on, one more turn must look for what came before.
    pub fn notify(&mut self, on: bool) {
        for kernel in [&mut self.for_datagrams, &mut self.for_connections] {
            let completion = kernel.uring.completion();
            if on { completion.enable_eventfd() } else { completion.disable_eventfd() }
        }
        self.notifies = on;
    }

    /// Receives datagrams until that ends (see [`Completion::goes_on`]).
    pub fn receive_datagrams(&mut self, socket: BorrowedFd<'_>, listener: u8) {
        let shape: *const libc::msghdr = &raw const *self.shape;
        let entry =
            opcode::RecvMsgMulti::new(Fd(socket.as_raw_fd()), shape, self.datagrams.group())
                .build()
                .user_data(Operation::Datagram(listener).to_user_data());
        self.for_datagrams.push(entry);
    }

    /// Accepts connections until that ends.
    pub fn accept(&mut self, socket: BorrowedFd<'_>, listener: u8) {
        let entry = opcode::AcceptMulti::new(Fd(socket.as_raw_fd()))
            .flags(libc::SOCK_CLOEXEC)
            .build()
            .user_data(Operation::Accept(listener).to_user_data());
        self.for_connections.push(entry);
    }

    /// Accepts connections only to close them (see [`Ring::close_refused`]), until that ends.
    ///
    /// They go into a table of the ring's own, so this works when no descriptor is left, and none
    /// has to be kept back for it, which another thread of the process might take.
    pub fn refuse(&mut self, socket: BorrowedFd<'_>, listener: u8) {
        let entry = opcode::AcceptMulti::new(Fd(socket.as_raw_fd()))
            .allocate_file_index(true)
            .build()
            .user_data(Operation::Refuse(listener).to_user_data());
        self.for_connections.push(entry);
    }

    /// Resets the connection that a completion of [`Ring::refuse`] brought; kernels before Linux
    /// 6.7 close it in order.
    pub fn close_refused(&mut self, completion: &Completion) {
        assert!(matches!(completion.operation, Operation::Refuse(_)));
        let Ok(place) = completion.result() else { return };
        let (level, option) = (libc::SOL_SOCKET.unsigned_abs(), libc::SO_LINGER.unsigned_abs());
        let len = u32::try_from(size_of_val(&NO_LINGER)).expect("8");
        let value = (&raw const NO_LINGER).cast();
        let no_linger = opcode::SetSockOpt::new(Fixed(place), level, option, value, len).build();
        for entry in [no_linger, opcode::Close::new(Fixed(place)).build()] {
            self.for_connections.push(entry.user_data(Operation::Cancel.to_user_data()));
        }
    }

    /// Reads once from a connection, whose descriptor stays open until the completion.
    /// `later` tells that nothing can have come yet.
    pub fn read(&mut self, connection: RawFd, token: Token, later: bool) {
        let len = u32::try_from(STREAM_BUFFER_BYTES).expect("a few KiB");
        #[cfg(test)]
        let len = self.for_connections.shorten(faults::Fault::ShortRead, len);
        let entry = opcode::Recv::new(Fd(connection), std::ptr::null_mut(), len)
            .buf_group(self.streams.group())
            .ioprio(if later { POLL_FIRST } else { 0 })
            .build()
            .flags(squeue::Flags::BUFFER_SELECT)
            .user_data(Operation::Read(token).to_user_data());
        self.for_connections.push(entry);
    }

    /// Writes `bytes[range]` to a connection, whose descriptor stays open until the completion.
    pub fn write(&mut self, connection: RawFd, token: Token, bytes: Vec<u8>, range: Range<usize>) {
        let piece = &bytes[range];
        let len = u32::try_from(piece.len()).expect("responses are bounded far below 4 GiB");
        #[cfg(test)]
        let len = self.for_connections.shorten(faults::Fault::ShortWrite, len);
        // The heap block of a vector does not move when the vector does.
        let entry = opcode::Send::new(Fd(connection), piece.as_ptr(), len)
            .flags(libc::MSG_NOSIGNAL | libc::MSG_WAITALL)
            .build()
            .user_data(Operation::Write(token).to_user_data());
        if self.writes.len() <= token.slot() {
            self.writes.resize_with(token.slot() + 1, || None);
        }
        let before = self.writes[token.slot()].replace(bytes);
        assert!(before.is_none(), "one write of a connection at a time");
        self.for_connections.push(entry);
    }

    /// The buffer of a completed write.
    pub fn take_written(&mut self, token: Token) -> Vec<u8> {
        self.writes[token.slot()].take().expect("a write completes once")
    }

    /// Gives back the buffer of a completion whose bytes have been used.
    pub fn recycle(&mut self, completion: &Completion) {
        let Some(buffer) = completion.buffer() else { return };
        match completion.operation {
            Operation::Datagram(_) => self.datagrams.recycle(buffer),
            Operation::Read(_) => self.streams.recycle(buffer),
            _ => unreachable!("only receives take buffers"),
        }
    }

    /// Starts the timer, once.
    pub fn start_timer(&mut self, after: Duration) {
        *self.timer = Timespec::from(after);
        let entry = opcode::Timeout::new(&raw const *self.timer)
            .build()
            .user_data(Operation::Timer.to_user_data());
        self.for_connections.push(entry);
    }

    /// Cancels the receive of a socket.
    pub fn cancel_receive(&mut self, socket: BorrowedFd<'_>) {
        self.for_datagrams.push(cancel(CancelBuilder::fd(Fd(socket.as_raw_fd()))));
    }

    /// Cancels the accepts of a listener.
    pub fn cancel_accepts(&mut self, socket: BorrowedFd<'_>) {
        self.for_connections.push(cancel(CancelBuilder::fd(Fd(socket.as_raw_fd()))));
    }

    /// What was received, and what is needed to answer datagrams, apart.
    pub fn split(&mut self) -> (Inbox<'_>, Outbox<'_>) {
        (
            Inbox { datagrams: &self.datagrams, streams: &self.streams, shape: &self.shape },
            Outbox { kernel: &mut self.for_datagrams, replies: &mut self.replies },
        )
    }

    /// Hands queued requests to the kernel and collects what has completed; never waits. Between
    /// [`Ring::notify`] and a sleep in any case: what came before that is not announced, and its
    /// mark may not be seen yet.
    ///
    /// Returns whether a completion queue was overflown (nothing is lost then, but slow).
    ///
    /// # Errors
    /// If the kernel refuses for a reason that waiting does not mend.
    pub fn enter(&mut self, into: &mut Vec<Completion>) -> io::Result<bool> {
        Ok(self.enter_for_datagrams(into)? | self.enter_for_connections(into)?)
    }

    /// The same for datagrams alone, and without a system call if there is no reason for one.
    ///
    /// # Errors
    /// As [`Ring::enter`].
    pub fn enter_for_datagrams(&mut self, into: &mut Vec<Completion>) -> io::Result<bool> {
        self.for_datagrams.turn(self.notifies, into)
    }

    /// The same for all but datagrams. Hands over a few requests, and leaves the others.
    ///
    /// # Errors
    /// As [`Ring::enter`].
    pub fn enter_for_connections(&mut self, into: &mut Vec<Completion>) -> io::Result<bool> {
        self.for_connections.turn(self.notifies, into)
    }

    /// Hands datagrams that are queued to the kernel, and collects nothing.
    ///
    /// # Errors
    /// As [`Ring::enter`].
    pub fn send_datagrams(&mut self) -> io::Result<()> {
        self.for_datagrams.enter()
    }

    /// Whether an enter for connections would do something.
    #[must_use]
    pub fn has_more_for_connections(&mut self) -> bool {
        self.for_connections.has_more()
    }

    /// Whether the last enter left something: requests that the kernel did not take, or deferred
    /// work, beyond the twenty things or so that it does at once. Neither is announced by the
    /// eventfd, so the caller must not sleep.
    #[must_use]
    pub fn has_more(&mut self) -> bool {
        self.for_datagrams.has_more() || self.for_connections.has_more()
    }

    /// How often the kernel was entered.
    #[must_use]
    pub const fn enters(&self) -> u64 {
        self.for_datagrams.enters + self.for_connections.enters
    }

    /// Makes the slot of a sent datagram free again.
    pub fn reply_sent(&mut self, slot: u16) {
        self.replies.release(slot);
    }

    /// Slots for datagrams that the kernel does not use.
    #[cfg(test)]
    pub const fn free_replies(&self) -> usize {
        self.replies.free()
    }

    /// What goes wrong on purpose.
    #[cfg(test)]
    pub const fn faults(&mut self) -> [&mut Option<faults::Faults>; 2] {
        [&mut self.for_datagrams.faults, &mut self.for_connections.faults]
    }

    /// Requests under way.
    #[must_use]
    pub const fn in_flight(&self) -> usize {
        self.for_datagrams.in_flight + self.for_connections.in_flight
    }
}

/// The request to cancel all that this names.
fn cancel(whom: CancelBuilder) -> squeue::Entry {
    opcode::AsyncCancel2::new(whom.all()).build().user_data(Operation::Cancel.to_user_data())
}

/// What was received in a turn.
pub struct Inbox<'a> {
    datagrams: &'a Pool,
    streams: &'a Pool,
    shape: &'a libc::msghdr,
}

impl<'a> Inbox<'a> {
    /// The datagram of a completion, if one came.
    #[must_use]
    pub fn datagram(&self, completion: &Completion) -> Option<Received<'a>> {
        let buffer = self.datagrams.bytes(completion.buffer()?);
        let len = usize::try_from(completion.result).ok()?.min(buffer.len());
        let message = RecvMsgOut::parse(&buffer[..len], self.shape).ok()?;
        let payload_bytes = message.payload_data().len();
        Some(Received {
            source: read_name(message.name_data())?,
            bytes: &buffer[RECEIVED_HEAD_BYTES + NAME_BYTES..][..payload_bytes],
            truncated: message.is_payload_truncated(),
        })
    }

    /// The bytes of a completed read; empty at the end of the stream.
    #[must_use]
    pub fn read_bytes(&self, completion: &Completion) -> &'a [u8] {
        let len = usize::try_from(completion.result).unwrap_or(0);
        completion.buffer().map_or(&[], |buffer| &self.streams.bytes(buffer)[..len])
    }
}

/// Where datagrams go out.
pub struct Outbox<'a> {
    kernel: &'a mut Kernel,
    replies: &'a mut Replies,
}

impl Outbox<'_> {
    /// A buffer for one datagram; `None` while all are in flight.
    pub fn buffer(&mut self) -> Option<&mut [u8; crate::limits::UDP_REPLY_BYTES_MAX]> {
        self.replies.buffer()
    }

    /// Sends the first `len` bytes of the buffer handed out last.
    pub fn send(&mut self, socket: BorrowedFd<'_>, target: SocketAddr, len: usize) {
        let entry = self.replies.take(socket.as_raw_fd(), target, len);
        self.kernel.push(entry);
    }
}

/// The sender's address as the kernel writes it: a `sockaddr_in` or a `sockaddr_in6`.
fn read_name(name: &[u8]) -> Option<SocketAddr> {
    match name.len() {
        len if len == size_of::<libc::sockaddr_in>() => {
            let port = u16::from_be_bytes([name[2], name[3]]);
            let ip: [u8; 4] = std::array::from_fn(|i| name[4 + i]);
            Some(SocketAddr::from((ip, port)))
        }
        len if len == NAME_BYTES => {
            // SAFETY: exactly as long as the structure (above), of which any bytes are valid.
            let name = unsafe { name.as_ptr().cast::<libc::sockaddr_in6>().read_unaligned() };
            let (ip, port) = (name.sin6_addr.s6_addr.into(), u16::from_be(name.sin6_port));
            // A link-local peer is answered through the interface it wrote from.
            Some(std::net::SocketAddrV6::new(ip, port, 0, name.sin6_scope_id).into())
        }
        _ => None,
    }
}

impl Ring {
    /// Cancels everything and waits for it, a bounded time. Returns whether it has ended.
    fn drain(&mut self) -> bool {
        for kernel in [&mut self.for_datagrams, &mut self.for_connections] {
            kernel.push(cancel(CancelBuilder::any()));
            // All at once: nobody waits for what else there is.
            kernel.submissions_max = u32::MAX;
        }
        self.notifies = true;
        let mut completions = Vec::new();
        for _ in 0..DRAIN_TURNS {
            if self.in_flight() == 0 || self.enter(&mut completions).is_err() {
                break;
            }
            for completion in completions.drain(..) {
                // Nobody is left to take a connection that is accepted only now: close it.
                if matches!(completion.operation, Operation::Accept(_)) {
                    drop(completion.accepted());
                }
            }
            std::thread::yield_now();
        }
        self.in_flight() == 0
    }
}

impl Drop for Ring {
    /// Cancels everything and waits for it, since the kernel may still write into our buffers.
    fn drop(&mut self) {
        if !self.drain() {
            self.datagrams.leak();
            self.streams.leak();
            self.replies.leak();
            std::mem::forget(std::mem::take(&mut self.writes));
            let spare = Box::new(*self.shape);
            std::mem::forget(std::mem::replace(&mut self.shape, spare));
        }
    }
}
