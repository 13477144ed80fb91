//! Mailboxes: bounded queues of bytes between workers, and the doorbell that wakes a sleeping one.
//!
//! Every two workers have one ring in each direction, so that a ring has one writer and one reader
//! and needs no lock and no read-modify-write. Invariants: `head <= tail <= head + capacity`,
//! counted in words since start; words in `head..tail` belong to the reader, all others to the
//! writer. Messages arrive whole, once and in order. Full is an outcome, never a wait: two workers
//! that waited for each other's mailbox would wait for ever.
//!
//! A ring is made of `AtomicU64` words that are stored and loaded relaxed, which compiles to plain
//! moves and needs no `unsafe`; the release store of `tail` publishes them, the release store of
//! `head` gives them back.
//!
//! ```text
//! word 0          length of the message in bytes
//! word 1 ..       its bytes, eight to a word, big-endian, the last word padded with zeros
//! ```

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
#[cfg(not(all(test, feature = "loom")))]
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};

#[cfg(all(test, feature = "loom"))]
use loom::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;

use crate::limits::{
    HTTP_RESPONSE_BYTES_MAX, WEB_MESSAGE_BYTES_MAX, WEB_TORRENTS_MAX, WORKERS_MAX,
};
use crate::tracker::owner::CoreId;

/// Bytes in a word of a ring.
const WORD_BYTES: usize = 8;
/// The smallest ring that [`capacity_bytes`] advises.
const CAPACITY_BYTES_MIN: usize = 128 * 1_024;
/// The largest ring that [`capacity_bytes`] advises.
const CAPACITY_BYTES_MAX: usize = 1_024 * 1_024;
/// What the rings into one worker may take together before [`CAPACITY_BYTES_MIN`] decides.
const WORKER_BYTES: usize = 4 * 1_024 * 1_024;
/// Messages taken from one sender before the others have their turn.
const BURST_MAX: u32 = 16;

// The longest things that travel: a whole HTTP response, a whole WebSocket message, the names of
// all peers of a WebSocket; and room for whom they are for.
const _: () = assert!(HTTP_RESPONSE_BYTES_MAX + 1_024 <= message_bytes_max(CAPACITY_BYTES_MIN));
const _: () = assert!(WEB_MESSAGE_BYTES_MAX + 1_024 <= message_bytes_max(CAPACITY_BYTES_MIN));
const _: () = assert!(40 * WEB_TORRENTS_MAX + 1_024 <= message_bytes_max(CAPACITY_BYTES_MIN));

/// The capacity of each ring for `workers` workers: about 4 MiB for all the rings into one worker,
/// but at least 128 KiB (a ring must hold the longest message) and at most 1 MiB each.
#[must_use]
pub fn capacity_bytes(workers: usize) -> usize {
    let share = WORKER_BYTES / workers.max(1);
    share.next_power_of_two().clamp(CAPACITY_BYTES_MIN, CAPACITY_BYTES_MAX)
}

/// The longest message that a ring of `capacity_bytes` takes: all of it but the length word.
///
/// Records wrap around the end of the ring, so whatever fits an empty ring does get through.
#[must_use]
pub const fn message_bytes_max(capacity_bytes: usize) -> usize {
    capacity_bytes.saturating_sub(WORD_BYTES)
}

/// Why a message was not taken. The ring is as it was before.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Full {
    /// The reader is behind: there will be room when it has read.
    #[error("the mailbox is full")]
    NoRoom,
    /// Longer than [`message_bytes_max`]: there never will be room.
    #[error("the message is longer than its mailbox")]
    TooLong,
}

/// A cache line and its neighbour (processors fetch them in pairs) for one value alone.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Padded<T>(T);

/// What a [`Sender`] and its [`Receiver`] share.
#[derive(Debug)]
struct Ring {
    /// Words read since start. Written by the reader only.
    head: Padded<AtomicUsize>,
    /// Words written since start. Written by the writer only.
    tail: Padded<AtomicUsize>,
    /// A power of two of them, so that a count and a mask give a position.
    words: Box<[AtomicU64]>,
}

impl Ring {
    /// The word at `count` words since start.
    fn word(&self, count: usize) -> &AtomicU64 {
        &self.words[count & (self.words.len() - 1)]
    }
}

/// A ring of `capacity_bytes`, rounded up to a power of two of at least 16: its two ends.
#[must_use]
pub fn channel(capacity_bytes: usize) -> (Sender, Receiver) {
    let words = capacity_bytes.div_ceil(WORD_BYTES).max(2).next_power_of_two();
    let ring = Arc::new(Ring {
        head: Padded::default(),
        tail: Padded::default(),
        words: (0..words).map(|_| AtomicU64::new(0)).collect(),
    });
    let sender = Sender { ring: Arc::clone(&ring), tail: 0, head_seen: 0 };
    (sender, Receiver { ring, head: 0, tail_seen: 0 })
}

/// The writing end of a ring.
#[derive(Debug)]
pub struct Sender {
    ring: Arc<Ring>,
    /// What `ring.tail` is: only this end writes it.
    tail: usize,
    /// What `ring.head` was when last read. The reader writes it for each message, so reading it
    /// costs a transfer between caches; an old value is only too careful.
    head_seen: usize,
}

impl Sender {
    /// Puts `message` into the ring.
    ///
    /// # Errors
    /// [`Full`], and nothing is put.
    pub fn send(&mut self, message: &[u8]) -> Result<(), Full> {
        let capacity = self.ring.words.len();
        if message.len() > message_bytes_max(capacity * WORD_BYTES) {
            return Err(Full::TooLong);
        }
        let needed = 1 + message.len().div_ceil(WORD_BYTES);
        if capacity - self.tail.wrapping_sub(self.head_seen) < needed {
            // Acquire: the reader's loads of the words we are about to overwrite come before.
            self.head_seen = self.ring.head.0.load(Ordering::Acquire);
            if capacity - self.tail.wrapping_sub(self.head_seen) < needed {
                return Err(Full::NoRoom);
            }
        }

        let mut at = self.tail;
        let mut put = |word: u64| {
            self.ring.word(at).store(word, Ordering::Relaxed);
            at = at.wrapping_add(1);
        };
        put(length_word(message.len()));
        let (whole, rest) = message.as_chunks::<WORD_BYTES>();
        whole.iter().for_each(|bytes| put(u64::from_be_bytes(*bytes)));
        if !rest.is_empty() {
            let mut last = [0; WORD_BYTES];
            last[..rest.len()].copy_from_slice(rest);
            put(u64::from_be_bytes(last));
        }

        debug_assert_eq!(at, self.tail.wrapping_add(needed));
        self.tail = at;
        // Release: publishes the words above.
        self.ring.tail.0.store(at, Ordering::Release);
        Ok(())
    }
}

/// A message's length as its first word.
fn length_word(length: usize) -> u64 {
    u64::try_from(length).expect("usize is at most 64 bits")
}

/// The reading end of a ring.
#[derive(Debug)]
pub struct Receiver {
    ring: Arc<Ring>,
    /// What `ring.head` is: only this end writes it.
    head: usize,
    /// What `ring.tail` was when last read; an old value hides only what came since.
    tail_seen: usize,
}

impl Receiver {
    /// Takes the oldest message: `into` becomes its bytes. Or says that there is none and leaves
    /// `into` alone.
    pub fn receive(&mut self, into: &mut Vec<u8>) -> bool {
        if self.head == self.tail_seen {
            // Acquire: pairs with the release in `send`; the words below are those it published.
            self.tail_seen = self.ring.tail.0.load(Ordering::Acquire);
            if self.head == self.tail_seen {
                return false;
            }
        }
        let length = self.length();
        let words = length.div_ceil(WORD_BYTES);
        into.clear();
        into.resize(words * WORD_BYTES, 0);
        let (chunks, _) = into.as_chunks_mut::<WORD_BYTES>();
        let mut at = self.head;
        for chunk in chunks {
            at = at.wrapping_add(1);
            *chunk = self.ring.word(at).load(Ordering::Relaxed).to_be_bytes();
        }
        into.truncate(length);
        self.head = at.wrapping_add(1);
        // Release: our loads come before the writer's stores into the words given back.
        self.ring.head.0.store(self.head, Ordering::Release);
        true
    }

    /// The length of the message at `head`, which must exist.
    fn length(&self) -> usize {
        let length = self.ring.word(self.head).load(Ordering::Relaxed);
        let length = usize::try_from(length).expect("written from a usize");
        // The other half of the check in `send`: a torn record must not become a huge allocation.
        assert!(length <= message_bytes_max(self.ring.words.len() * WORD_BYTES));
        length
    }

    /// Whether nothing waits now. Reads the writer's line if need be.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.head == self.tail_seen && self.head == self.ring.tail.0.load(Ordering::Acquire)
    }

    /// Bytes that wait now. Reads the writer's line.
    #[must_use]
    pub fn waiting_bytes(&self) -> u64 {
        let words = self.ring.tail.0.load(Ordering::Relaxed).wrapping_sub(self.head);
        (words * WORD_BYTES) as u64
    }
}

/// Wakes one worker: an eventfd, and whether anybody needs to write to it.
///
/// No wake-up is lost, by the usual pair of sequentially consistent fences:
///
/// ```text
/// owner                                   sender
/// 1  sleeping = true                      4  put the message (tail)
/// 2  fence                                5  fence
/// 3  look into every mailbox (tail)       6  look at sleeping; write the eventfd if true
/// ```
///
/// The two fences have one order. If 2 is before 5, then 6 sees what 1 wrote and the eventfd is
/// written. If 5 is before 2, then 3 sees what 4 wrote and the owner does not sleep. An eventfd
/// written before the owner waits for it stays readable, so it does not matter how much later that
/// is. A write too many wakes the owner for nothing, which is allowed.
#[derive(Debug)]
pub struct Doorbell {
    event: OwnedFd,
    sleeping: Padded<AtomicBool>,
}

impl Doorbell {
    /// A doorbell whose owner is awake.
    ///
    /// # Errors
    /// The kernel has no descriptor left.
    pub fn new() -> io::Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { event, sleeping: Padded::default() })
    }

    /// Wakes the owner if it sleeps or is about to; call it after the message is in its mailbox.
    pub fn ring(&self) {
        fence(Ordering::SeqCst);
        self.ring_after_fence();
    }

    /// [`Doorbell::ring`] for a caller that rings several doorbells after one fence.
    fn ring_after_fence(&self) {
        if self.sleeping.0.load(Ordering::Relaxed) {
            self.ring_always();
        }
    }

    /// Makes the eventfd readable whatever the owner does.
    ///
    /// # Panics
    /// If the eventfd cannot be written, which would be our own bug.
    pub fn ring_always(&self) {
        // The kernel adds it to a counter, in its own byte order. Any number above 0 and far below
        // 2^64 will do, and these bytes are one in both orders.
        let some = [0, 0, 0, 1, 0, 0, 0, 0];
        loop {
            match rustix::io::write(&self.event, &some) {
                // WOULDBLOCK: the counter is at its top, so the eventfd is readable already.
                Ok(_) | Err(Errno::WOULDBLOCK) => return,
                Err(Errno::INTR) => {}
                Err(error) => panic!("write to an eventfd: {error}"),
            }
        }
    }

    /// The owner is about to sleep: from here on senders ring. The caller looks into its mailboxes
    /// once more before it waits ([`Post::prepare_sleep`] does both).
    pub fn prepare_sleep(&self) {
        self.sleeping.0.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// The owner is awake: senders need not ring.
    pub fn woke(&self) {
        self.sleeping.0.store(false, Ordering::Relaxed);
    }

    /// Makes the eventfd unreadable. Drain before looking into the mailboxes, never after: a ring
    /// in between would be lost.
    pub fn drain(&self) {
        let mut count = [0_u8; 8];
        // One read empties it. An error says that it was empty or that a signal came, and then the
        // next wait returns at once and the owner drains again.
        let _ = rustix::io::read(&self.event, &mut count);
    }

    /// Whether a wait would return at once: somebody rang since the last [`Doorbell::drain`].
    #[must_use]
    pub fn is_rung(&self) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let mut fds = [PollFd::new(&self.event, PollFlags::IN)];
        matches!(poll(&mut fds, Some(&Timespec::default())), Ok(1))
    }
}

impl AsFd for Doorbell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

/// One worker's share of the mesh: a sender to and a receiver from every other worker.
#[derive(Debug)]
pub struct Post {
    core: CoreId,
    /// By core; none for our own.
    senders: Vec<Option<Sender>>,
    /// By core; none for our own.
    receivers: Vec<Option<Receiver>>,
    /// By core, our own among them.
    doorbells: Vec<Arc<Doorbell>>,
    /// The cores sent to since the last flush, one bit each.
    unrung: [u64; WORKERS_MAX.div_ceil(64)],
    /// The core whose messages are being taken; `< receivers.len()`.
    turn: usize,
    /// Messages it may still have taken in this turn.
    burst_left: u32,
}

/// Connects `workers` workers (at most [`WORKERS_MAX`]) with rings of `capacity_bytes` in each
/// direction; element i belongs to core i.
///
/// # Errors
/// The kernel has no descriptor left for a doorbell.
///
/// # Panics
/// With more than [`WORKERS_MAX`] workers.
pub fn mesh(workers: usize, capacity_bytes: usize) -> io::Result<Vec<Post>> {
    assert!(workers <= WORKERS_MAX);
    let doorbells: Vec<Arc<Doorbell>> =
        (0..workers).map(|_| Doorbell::new().map(Arc::new)).collect::<io::Result<_>>()?;
    let mut senders = unconnected::<Sender>(workers);
    let mut receivers = unconnected::<Receiver>(workers);
    for source in 0..workers {
        for target in (0..workers).filter(|&target| target != source) {
            let (sender, receiver) = channel(capacity_bytes);
            senders[source][target] = Some(sender);
            receivers[target][source] = Some(receiver);
        }
    }
    let ends = senders.into_iter().zip(receivers);
    let post = |(core, (senders, receivers))| Post {
        core,
        senders,
        receivers,
        doorbells: doorbells.clone(),
        unrung: [0; _],
        turn: 0,
        burst_left: BURST_MAX,
    };
    Ok((0..).map(CoreId).zip(ends).map(post).collect())
}

/// A square of `workers` by `workers` ends that do not exist yet.
fn unconnected<End>(workers: usize) -> Vec<Vec<Option<End>>> {
    let row = |_| (0..workers).map(|_| None).collect();
    (0..workers).map(row).collect()
}

impl Post {
    /// Whose post this is.
    #[must_use]
    pub const fn core(&self) -> CoreId {
        self.core
    }

    /// The doorbell of this worker: register it, wait for it, or give it to whoever must wake us.
    #[must_use]
    pub fn doorbell(&self) -> &Arc<Doorbell> {
        &self.doorbells[self.core.index()]
    }

    /// Puts `message` into the mailbox of `to`, who hears of it at the next [`Post::flush`].
    ///
    /// # Errors
    /// [`Full`], and nothing is put.
    ///
    /// # Panics
    /// If `to` is this core or not a worker: only our own bug can ask for that.
    pub fn send(&mut self, to: CoreId, message: &[u8]) -> Result<(), Full> {
        let sender = self.senders[to.index()].as_mut().expect("nobody writes to himself");
        // Also when it is full: then the reader is behind, and must not be asleep.
        self.unrung[to.index() / 64] |= 1 << (to.index() % 64);
        sender.send(message)
    }

    /// Wakes those who sleep among the workers sent to since the last flush. Once per turn: a
    /// batch of messages costs one look at a doorbell, and a sleeper one system call.
    pub fn flush(&mut self) {
        if self.unrung.iter().all(|&bits| bits == 0) {
            return;
        }
        fence(Ordering::SeqCst);
        for (block, bits) in self.unrung.iter_mut().enumerate() {
            while *bits != 0 {
                let core = block * 64 + usize::try_from(bits.trailing_zeros()).unwrap_or(0);
                *bits &= *bits - 1;
                self.doorbells[core].ring_after_fence();
            }
        }
    }

    /// Takes a message from some worker: `into` becomes its bytes. None if no mailbox has any.
    ///
    /// Fair: after a burst of one worker's messages all others are asked before it is asked again.
    pub fn receive(&mut self, into: &mut Vec<u8>) -> Option<CoreId> {
        // One more than there are, to come back to the first one after its burst.
        for _ in 0..=self.receivers.len() {
            let taken = self.burst_left > 0
                && self.receivers[self.turn].as_mut().is_some_and(|one| one.receive(into));
            if taken {
                self.burst_left -= 1;
                return u16::try_from(self.turn).ok().map(CoreId);
            }
            self.turn = (self.turn + 1) % self.receivers.len();
            self.burst_left = BURST_MAX;
        }
        None
    }

    /// Whether no mailbox has a message now.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.receivers.iter().flatten().all(Receiver::is_empty)
    }

    /// Bytes of the messages that wait now, their lengths included.
    #[must_use]
    pub fn waiting_bytes(&self) -> u64 {
        self.receivers.iter().flatten().map(Receiver::waiting_bytes).sum()
    }

    /// Whether this worker may sleep. If true, senders ring from now on: wait for the doorbell,
    /// then call [`Doorbell::woke`] and [`Doorbell::drain`], then receive. If false, a message
    /// came.
    #[must_use]
    pub fn prepare_sleep(&self) -> bool {
        self.doorbell().prepare_sleep();
        let may_sleep = self.is_empty();
        if !may_sleep {
            self.doorbell().woke();
        }
        may_sleep
    }
}

#[cfg(all(test, feature = "loom"))]
mod interleavings;
#[cfg(all(test, not(feature = "loom")))]
mod tests;
