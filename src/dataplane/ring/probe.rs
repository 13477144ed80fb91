//! The self-test of io_uring: does, once and small, everything that the data plane does.
//!
//! A kernel's feature bits do not tell multishot recvmsg, a send with an address, or a seccomp
//! filter that lets one of the three system calls through; doing it does. Takes well below a
//! millisecond, waits a second a step at the most, and never hangs. Why it failed is for
//! `dataplane::probe` to explain.
#![expect(unsafe_code, reason = "submissions carry raw pointers that the kernel follows")]

use std::io;
use std::mem;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::slice;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use io_uring::types::{BufRingEntry, Fd, RecvMsgOut, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::Errno;
use socket2::SockAddr;

/// Entries of the submission queue.
const ENTRIES: u32 = 8;
/// Provided buffers; a power of two.
const BUFFERS: u16 = 4;
/// Bytes of one: the header (16), the name (28) and our payload fit amply.
const BUFFER_BYTES: u16 = 128;
/// Buffers of the probe's only group.
const GROUP: u16 = 0;
/// What is sent: two through the ring, the last one past it, to be heard of through the eventfd.
const PAYLOADS: [[u8; 8]; 3] = [*b"throng 1", *b"throng 2", *b"throng 3"];
/// How long each step may take; the kernel needs microseconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// `user_data` of the submissions.
mod tag {
    /// The multishot recvmsg.
    pub const RECEIVE: u64 = 1;
    /// Each send.
    pub const SEND: u64 = 2;
    /// The cancellation of the receive.
    pub const CANCEL: u64 = 3;
}

/// What was tried and what the kernel said.
pub type Failure = (&'static str, io::Error);

/// Sets up a ring as the data plane does, and receives, sends, sleeps and cancels with it.
///
/// # Errors
/// The first step that failed.
pub fn run() -> Result<(), Failure> {
    let mut ring = IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_submit_all()
        .build(ENTRIES)
        .map_err(during("io_uring_setup(SINGLE_ISSUER | DEFER_TASKRUN | SUBMIT_ALL)"))?;
    let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
        .map_err(|error| ("eventfd", error.into()))?;
    ring.submitter()
        .register_eventfd(event.as_raw_fd())
        .map_err(during("registering an eventfd with the ring"))?;
    let socket = loopback().map_err(during("binding a UDP socket on loopback"))?;
    let address = socket.local_addr().map_err(during("binding a UDP socket on loopback"))?;

    let arena = Box::leak(Box::new(Arena::new(address)));
    let all = &raw mut *arena;
    let arena = Places::of(arena);
    exchange(&mut ring, &event, &socket, address, &arena)?;
    // Only after success: `exchange` then saw the last completion of everything it submitted. After
    // a failure the kernel may still hold pointers into the arena, which stays: 64 KiB, once.
    drop(ring);
    // SAFETY: `all` came from the `Box` above and is freed once. No submission that points into it
    // is unfinished (see above), and the ring that had the buffer group registered is closed.
    drop(unsafe { Box::from_raw(all) });
    Ok(())
}

/// Names the step of an error.
fn during(step: &'static str) -> impl Fn(io::Error) -> Failure {
    move |error| (step, error)
}

/// A socket that sends to itself: IPv4, or IPv6 on a machine without it.
fn loopback() -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))
        .or_else(|_| UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Everything that the kernel is given a pointer to. Aligned to the largest page of any Linux,
/// because a buffer ring starts on a page.
#[repr(C, align(65536))]
struct Arena {
    /// `BufRingEntry` has no constructor; all zeros is an unused one.
    entries: [[u64; 2]; BUFFERS as usize],
    buffers: [[u8; BUFFER_BYTES as usize]; BUFFERS as usize],
    header: libc::msghdr,
    target: SockAddr,
    payloads: [[u8; 8]; 3],
}

const _: () = assert!(size_of::<[u64; 2]>() == size_of::<BufRingEntry>());

impl Arena {
    fn new(target: SocketAddr) -> Self {
        Self {
            entries: [[0; 2]; BUFFERS as usize],
            buffers: [[0; BUFFER_BYTES as usize]; BUFFERS as usize],
            header: message_header(),
            target: SockAddr::from(target),
            payloads: PAYLOADS,
        }
    }
}

/// The header of a multishot recvmsg: only the room for the source's address counts.
fn message_header() -> libc::msghdr {
    // SAFETY: a C structure of integers and pointers, for which zeros are valid: no name, no
    // vectors, no control data. (Some libcs have private padding, so it cannot be written out.)
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    header.msg_namelen = 28;
    header
}

/// Pointers to the fields of a leaked [`Arena`]; the kernel writes through some of them.
struct Places {
    entries: *mut BufRingEntry,
    buffers: *mut u8,
    header: *const libc::msghdr,
    target: *const libc::sockaddr,
    target_bytes: libc::socklen_t,
    payloads: *const [u8; 8],
}

impl Places {
    fn of(arena: &'static mut Arena) -> Self {
        Self {
            entries: (&raw mut arena.entries).cast(),
            buffers: (&raw mut arena.buffers).cast(),
            header: &raw const arena.header,
            target: arena.target.as_ptr().cast(),
            target_bytes: arena.target.len(),
            payloads: (&raw const arena.payloads).cast(),
        }
    }

    /// Gives all buffers to the kernel, as a buffer ring registered with `ring`.
    fn provide(&self, ring: &IoUring) -> io::Result<()> {
        for index in 0..BUFFERS {
            let buffer = self.buffers.wrapping_add(usize::from(index) * usize::from(BUFFER_BYTES));
            // SAFETY: `entries` has BUFFERS entries of this size (the assertion above), zeroed, and
            // the kernel does not know of them yet.
            let entry = unsafe { &mut *self.entries.wrapping_add(usize::from(index)) };
            entry.set_addr(buffer.expose_provenance() as u64);
            entry.set_len(u32::from(BUFFER_BYTES));
            entry.set_bid(index);
        }
        let base = self.entries.expose_provenance() as u64;
        // SAFETY: `base` is page-aligned (`Arena`), has BUFFERS entries, and stays until the ring
        // is closed: `run` frees it after that or never.
        unsafe { ring.submitter().register_buf_ring_with_flags(base, BUFFERS, GROUP, 0) }?;
        // SAFETY: `entries` is the first entry of the ring, initialised above.
        let tail = unsafe { BufRingEntry::tail(self.entries) };
        // SAFETY: `tail` points into the first entry, which is aligned and outlives this use; the
        // kernel only reads it, and nothing of ours refers to it.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        // Release: the entries come first.
        tail.store(BUFFERS, Ordering::Release);
        Ok(())
    }

    /// The payload that the kernel put into buffer `index`.
    fn payload(&self, index: u16) -> Option<Vec<u8>> {
        assert!(index < BUFFERS);
        let buffer = self.buffers.wrapping_add(usize::from(index) * usize::from(BUFFER_BYTES));
        // SAFETY: in bounds: the assertion. Initialised: `Arena::new` zeroed it. Not written to:
        // the kernel gave this buffer up with the completion that named it, and no one gives it
        // back.
        let buffer = unsafe { slice::from_raw_parts(buffer, usize::from(BUFFER_BYTES)) };
        let message = RecvMsgOut::parse(buffer, &message_header()).ok()?;
        Some(message.payload_data().to_vec())
    }
}

/// Queues a submission; [`ENTRIES`] has room for all of the probe's.
///
/// # Safety
/// What `entry` points to must be valid until its last completion.
unsafe fn push(ring: &mut IoUring, entry: &squeue::Entry) -> io::Result<()> {
    // SAFETY: our caller's promise.
    unsafe { ring.submission().push(entry) }.map_err(io::Error::other)
}

/// Receives two datagrams that the ring sends, is woken for a third, and cancels the receive.
fn exchange(
    ring: &mut IoUring,
    event: &OwnedFd,
    socket: &UdpSocket,
    address: SocketAddr,
    arena: &Places,
) -> Result<(), Failure> {
    arena.provide(ring).map_err(during("registering a ring of provided buffers"))?;
    let fd = Fd(socket.as_raw_fd());
    let mut seen = Seen::default();

    let step = "receiving with a multishot recvmsg";
    let receive = opcode::RecvMsgMulti::new(fd, arena.header, GROUP).build();
    // SAFETY: the header is in the arena, which `run` frees only after the last completion.
    unsafe { push(ring, &receive.user_data(tag::RECEIVE)) }.map_err(during(step))?;
    for index in 0..2 {
        let payload = arena.payloads.wrapping_add(index).cast();
        let send = opcode::Send::new(fd, payload, 8)
            .dest_addr(arena.target)
            .dest_addr_len(arena.target_bytes)
            .build();
        // SAFETY: payload and address are in the arena, as above.
        unsafe { push(ring, &send.user_data(tag::SEND)) }.map_err(during(step))?;
    }
    seen.reap_until(ring, arena, "sending to an address", |seen| seen.sent == 2)?;
    seen.reap_until(ring, arena, step, |seen| seen.received.len() == 2)?;

    let step = "being woken by the ring's eventfd";
    let _ = rustix::io::read(event, &mut [0_u8; 8]);
    socket.send_to(&PAYLOADS[2], address).map_err(during(step))?;
    let mut fds = [PollFd::new(event, PollFlags::IN)];
    let patience = PATIENCE.try_into().map_err(|_| (step, Errno::RANGE.into()))?;
    match poll(&mut fds, Some(&patience)) {
        // A signal: not what is tested, and the next step waits as well.
        Ok(1) | Err(Errno::INTR) => {}
        Ok(_) => return Err((step, Errno::TIMEDOUT.into())),
        Err(error) => return Err((step, error.into())),
    }
    seen.reap_until(ring, arena, step, |seen| seen.received.len() == 3)?;
    if seen.received != PAYLOADS {
        return Err((step, io::Error::other("what arrived is not what was sent")));
    }

    let step = "cancelling a receive";
    let cancel = opcode::AsyncCancel::new(tag::RECEIVE).build();
    // SAFETY: it points to nothing.
    unsafe { push(ring, &cancel.user_data(tag::CANCEL)) }.map_err(during(step))?;
    seen.ending = true;
    seen.reap_until(ring, arena, step, |seen| seen.ended && seen.cancelled)
}

/// What the completions told so far.
#[derive(Default)]
struct Seen {
    sent: u32,
    received: Vec<Vec<u8>>,
    /// Whether the receive was asked to end.
    ending: bool,
    /// Whether it did: nothing of it will complete any more.
    ended: bool,
    cancelled: bool,
}

impl Seen {
    /// Enters and reaps until `enough`, or fails `step`.
    fn reap_until(
        &mut self,
        ring: &mut IoUring,
        arena: &Places,
        step: &'static str,
        enough: impl Fn(&Self) -> bool,
    ) -> Result<(), Failure> {
        let give_up = Instant::now() + PATIENCE;
        let patience = Timespec::from(PATIENCE);
        while !enough(self) {
            let left = give_up.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err((step, Errno::TIMEDOUT.into()));
            }
            let wait = SubmitArgs::new().timespec(&patience);
            match ring.submitter().submit_with_args(1, &wait) {
                Ok(_) => {}
                Err(error) => match Errno::from_io_error(&error) {
                    Some(Errno::TIME | Errno::INTR | Errno::AGAIN | Errno::BUSY) => {}
                    _ => return Err((step, error)),
                },
            }
            let completions: Vec<_> = ring.completion().collect();
            for completion in &completions {
                self.note(completion, arena)?;
            }
        }
        Ok(())
    }

    /// Takes one completion in.
    fn note(&mut self, completion: &cqueue::Entry, arena: &Places) -> Result<(), Failure> {
        let failure = || io::Error::from_raw_os_error(-completion.result());
        match completion.user_data() {
            tag::SEND if completion.result() == 8 => self.sent += 1,
            tag::SEND => return Err(("sending to an address", failure())),
            tag::CANCEL if completion.result() == 0 => self.cancelled = true,
            tag::CANCEL => return Err(("cancelling a receive", failure())),
            _ => {
                let step = "receiving with a multishot recvmsg";
                self.ended |= !cqueue::more(completion.flags());
                if completion.result() < 0 && !self.ending {
                    return Err((step, failure()));
                }
                if let Some(index) = cqueue::buffer_select(completion.flags()) {
                    let payload = arena.payload(index);
                    self.received.push(payload.ok_or((step, Errno::BADMSG.into()))?);
                }
            }
        }
        Ok(())
    }
}
