//! Many datagrams in one system call: recvmmsg and sendmmsg.

#![expect(unsafe_code, reason = "no crate wraps recvmmsg and sendmmsg")]

use std::io;
use std::mem::MaybeUninit;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;

/// Datagrams of one call.
pub const BATCH: usize = 64;
/// Bytes of the longest datagram.
const BYTES: usize = 2_048;

/// Room for a batch: its bytes and its other ends.
pub struct Batch {
    buffers: Box<[[u8; BYTES]; BATCH]>,
    lens: [usize; BATCH],
    names: Box<[libc::sockaddr_storage; BATCH]>,
    iovecs: Box<[libc::iovec; BATCH]>,
    headers: Box<[libc::mmsghdr; BATCH]>,
}

impl Batch {
    pub fn new() -> Self {
        Self {
            buffers: Box::new([[0; BYTES]; BATCH]),
            lens: [0; BATCH],
            names: Box::new([zeroed_name(); BATCH]),
            iovecs: Box::new([zeroed_iovec(); BATCH]),
            headers: Box::new([zeroed_header(); BATCH]),
        }
    }

    /// The datagram at `index`.
    pub fn bytes(&self, index: usize) -> &[u8] {
        &self.buffers[index][..self.lens[index]]
    }

    /// Room at `index` for a datagram of `len` bytes, which has what is there already.
    pub fn resize(&mut self, index: usize, len: usize) -> &mut [u8] {
        self.lens[index] = len;
        &mut self.buffers[index][..len]
    }

    /// Receives what is there, at most [`BATCH`]; `wait`: at least one, or a timeout.
    pub fn receive(&mut self, socket: &UdpSocket, wait: bool) -> io::Result<usize> {
        self.lens.fill(BYTES);
        self.point(BATCH, true);
        let flags = if wait { libc::MSG_WAITFORONE } else { libc::MSG_DONTWAIT };
        let headers = self.headers.as_mut_ptr();
        let none = std::ptr::null_mut();
        let count = u32::try_from(BATCH).expect("64");
        // SAFETY: `point` made all `BATCH` headers refer to the buffers and names of `self`, which
        // is borrowed mutably, with their true lengths; the kernel writes into those.
        let got = unsafe { libc::recvmmsg(socket.as_raw_fd(), headers, count, flags, none) };
        let got = usize::try_from(got).map_err(|_| io::Error::last_os_error())?;
        for (len, header) in self.lens.iter_mut().zip(&self.headers[..got]) {
            *len = usize::try_from(header.msg_len).expect("at most the buffer");
        }
        Ok(got)
    }

    /// Sends the first `count` datagrams: back to where they came from, or to the connected peer.
    pub fn send(&mut self, socket: &UdpSocket, count: usize, back: bool) -> io::Result<()> {
        self.point(count, back);
        let mut sent = 0;
        while sent < count {
            let headers = self.headers[sent..].as_mut_ptr();
            let rest = u32::try_from(count - sent).expect("at most 64");
            // SAFETY: `point` made the first `count` headers refer to the buffers and names of
            // `self`, which is borrowed, with their true lengths; the kernel reads from those.
            let more = unsafe { libc::sendmmsg(socket.as_raw_fd(), headers, rest, 0) };
            sent += usize::try_from(more).map_err(|_| io::Error::last_os_error())?;
        }
        Ok(())
    }

    /// Makes the first `count` headers refer to their buffers, and to their names if `named`.
    fn point(&mut self, count: usize, named: bool) {
        for index in 0..count {
            let iovec = &mut self.iovecs[index];
            iovec.iov_base = self.buffers[index].as_mut_ptr().cast();
            iovec.iov_len = self.lens[index];
            let header = &mut self.headers[index].msg_hdr;
            header.msg_iov = &raw mut *iovec;
            header.msg_iovlen = 1;
            header.msg_name = std::ptr::null_mut();
            header.msg_namelen = 0;
            if named {
                header.msg_name = (&raw mut self.names[index]).cast();
                // Both ends are IPv4.
                header.msg_namelen = NAME_BYTES;
            }
        }
    }
}

/// Bytes of an IPv4 socket address.
const NAME_BYTES: u32 = 16;
const _: () = assert!(size_of::<libc::sockaddr_in>() == 16);

const fn zeroed_name() -> libc::sockaddr_storage {
    // SAFETY: integers and arrays of them: all zero is a value.
    unsafe { MaybeUninit::zeroed().assume_init() }
}

const fn zeroed_iovec() -> libc::iovec {
    libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }
}

const fn zeroed_header() -> libc::mmsghdr {
    // SAFETY: integers and raw pointers: all zero is a value, with null pointers.
    unsafe { MaybeUninit::zeroed().assume_init() }
}
