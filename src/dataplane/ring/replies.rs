//! Slots for datagrams on their way out.
//!
//! A slot is free, or it belongs to the kernel until the completion of its own send. The buffer
//! handed out by [`Replies::buffer`] is the free slot that [`Replies::take`] will use.

use std::net::SocketAddr;
use std::os::fd::RawFd;

use io_uring::types::Fd;
use io_uring::{opcode, squeue};
use socket2::SockAddr;

use super::Operation;
use crate::limits::UDP_REPLY_BYTES_MAX;

/// One datagram and where it goes.
struct Slot {
    bytes: [u8; UDP_REPLY_BYTES_MAX],
    target: SockAddr,
}

/// All slots of a ring.
pub struct Replies {
    slots: Box<[Slot]>,
    /// Slots that the kernel does not use; the last one is next.
    free: Vec<u16>,
}

impl Replies {
    pub(super) fn new(count: u16) -> Self {
        let nowhere = SockAddr::from(SocketAddr::from(([0, 0, 0, 0], 0)));
        let slot = || Slot { bytes: [0; UDP_REPLY_BYTES_MAX], target: nowhere.clone() };
        Self { slots: (0..count).map(|_| slot()).collect(), free: (0..count).rev().collect() }
    }

    pub(super) fn buffer(&mut self) -> Option<&mut [u8; UDP_REPLY_BYTES_MAX]> {
        let slot = self.free.last()?;
        Some(&mut self.slots[usize::from(*slot)].bytes)
    }

    /// The request that sends the first `len` bytes of the buffer handed out last.
    pub(super) fn take(&mut self, socket: RawFd, target: SocketAddr, len: usize) -> squeue::Entry {
        assert!(len <= UDP_REPLY_BYTES_MAX);
        let index = self.free.pop().expect("a buffer was handed out before");
        let slot = &mut self.slots[usize::from(index)];
        slot.target = SockAddr::from(target);
        let len = u32::try_from(len).expect("bounded above");
        opcode::Send::new(Fd(socket), slot.bytes.as_ptr(), len)
            .dest_addr(slot.target.as_ptr().cast())
            .dest_addr_len(slot.target.len())
            .build()
            .user_data(Operation::Reply(index).to_user_data())
    }

    pub(super) fn release(&mut self, slot: u16) {
        debug_assert!(!self.free.contains(&slot), "a send completes once");
        self.free.push(slot);
    }

    #[cfg(test)]
    pub(super) const fn free(&self) -> usize {
        self.free.len()
    }

    /// Gives up the memory for ever, because the kernel may still read it.
    pub(super) fn leak(&mut self) {
        std::mem::forget(std::mem::take(&mut self.slots));
    }
}
