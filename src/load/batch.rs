//! Many datagrams in one system call: recvmmsg and sendmmsg.
//!
//! Invariant: before a call each header that the kernel is told of points at the buffer, the name
//! and the I/O vector of its own index, all of which the [`Batch`] owns on the heap. The one place
//! of the load generator with `unsafe`.

#![expect(unsafe_code, reason = "no crate wraps recvmmsg and sendmmsg")]

use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;

/// Datagrams of one call.
pub const BATCH: usize = 64;
/// Bytes of the longest datagram; what is longer is cut. 1,362 peers of IPv4 or 454 of IPv6, more
/// than any tracker gives.
pub const DATAGRAM_BYTES: usize = 8_192;

/// Room for a batch: its bytes and its other ends.
pub struct Batch {
    buffers: Box<[[u8; DATAGRAM_BYTES]; BATCH]>,
    lens: [usize; BATCH],
    names: Box<[libc::sockaddr_storage; BATCH]>,
    name_lens: [libc::socklen_t; BATCH],
    iovecs: Box<[libc::iovec; BATCH]>,
    headers: Box<[libc::mmsghdr; BATCH]>,
}

/// What the names are for.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Names {
    /// Nothing: the socket is connected.
    None,
    /// To be filled in by the kernel.
    Receive,
    /// Where to send.
    Send,
}

// SAFETY: the raw pointers in headers and I/O vectors point into the boxes that move with the
// `Batch`, are written again before each call, and are read by nobody in between.
unsafe impl Send for Batch {}

impl Batch {
    /// Empty.
    #[must_use]
    pub fn new() -> Self {
        Self {
            buffers: Box::new([[0; DATAGRAM_BYTES]; BATCH]),
            lens: [0; BATCH],
            names: Box::new([zeroed_name(); BATCH]),
            name_lens: [0; BATCH],
            iovecs: Box::new([zeroed_iovec(); BATCH]),
            headers: Box::new([zeroed_header(); BATCH]),
        }
    }

    /// The datagram at `index`.
    #[must_use]
    pub fn bytes(&self, index: usize) -> &[u8] {
        &self.buffers[index][..self.lens[index]]
    }

    /// Room at `index` for a datagram of `len` bytes, which has what is there already.
    pub fn resize(&mut self, index: usize, len: usize) -> &mut [u8] {
        self.lens[index] = len;
        &mut self.buffers[index][..len]
    }

    /// Receives what is there, at most [`BATCH`], without waiting and whoever sent it.
    ///
    /// # Errors
    /// `WouldBlock` if nothing is there; what came back for an earlier datagram, once.
    pub fn receive(&mut self, socket: &UdpSocket) -> io::Result<usize> {
        self.receive_with(socket, Names::None, libc::MSG_DONTWAIT)
    }

    /// Waits for at least one datagram, as long as the socket's timeout, and keeps where each is
    /// from for [`Batch::send_back`].
    ///
    /// # Errors
    /// A timeout too.
    pub fn receive_from(&mut self, socket: &UdpSocket) -> io::Result<usize> {
        self.receive_with(socket, Names::Receive, libc::MSG_WAITFORONE)
    }

    /// Sends the first `count` datagrams to the connected peer. Returns how many the kernel took;
    /// fewer if it had no room for the next one.
    ///
    /// # Errors
    /// Only if none was sent.
    pub fn send(&mut self, socket: &UdpSocket, count: usize) -> io::Result<usize> {
        self.point(count, Names::None);
        self.send_from(socket, 0, count)
    }

    /// Sends the first `count` datagrams to the connected peer, all of them.
    ///
    /// # Errors
    /// Some may have been sent.
    pub fn send_all(&mut self, socket: &UdpSocket, count: usize) -> io::Result<()> {
        self.point(count, Names::None);
        self.send_rest(socket, count)
    }

    /// Sends the first `count` datagrams, all of them, to where what was received at their indices
    /// came from.
    ///
    /// # Errors
    /// Some may have been sent.
    pub fn send_back(&mut self, socket: &UdpSocket, count: usize) -> io::Result<()> {
        self.point(count, Names::Send);
        self.send_rest(socket, count)
    }

    fn send_rest(&mut self, socket: &UdpSocket, count: usize) -> io::Result<()> {
        let mut sent = 0;
        while sent < count {
            sent += self.send_from(socket, sent, count)?;
        }
        Ok(())
    }

    fn receive_with(&mut self, socket: &UdpSocket, names: Names, flags: i32) -> io::Result<usize> {
        self.lens.fill(DATAGRAM_BYTES);
        self.point(BATCH, names);
        let headers = self.headers.as_mut_ptr();
        let none = std::ptr::null_mut();
        let count = u32::try_from(BATCH).expect("64");
        // SAFETY: `point` made all `BATCH` headers refer to the buffers and names of `self`, which
        // is borrowed mutably, with their true lengths; the kernel writes into those.
        let got = unsafe { libc::recvmmsg(socket.as_raw_fd(), headers, count, flags, none) };
        let got = usize::try_from(got).map_err(|_| io::Error::last_os_error())?;
        for (index, header) in self.headers[..got].iter().enumerate() {
            self.lens[index] = usize::try_from(header.msg_len).expect("at most the buffer");
            self.name_lens[index] = header.msg_hdr.msg_namelen;
        }
        Ok(got)
    }

    /// One call for the datagrams from `first` to `count`, whose headers are set.
    fn send_from(&mut self, socket: &UdpSocket, first: usize, count: usize) -> io::Result<usize> {
        let rest = u32::try_from(count - first).expect("at most 64");
        let headers = self.headers[first..count].as_mut_ptr();
        // SAFETY: `point` made the headers below `count` refer to the buffers and names of `self`,
        // which is borrowed, with their true lengths; the kernel reads from those.
        let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), headers, rest, 0) };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }

    /// Makes the first `count` headers refer to their buffers, and to their names if there is use
    /// for them.
    fn point(&mut self, count: usize, names: Names) {
        for index in 0..count {
            let iovec = &mut self.iovecs[index];
            iovec.iov_base = self.buffers[index].as_mut_ptr().cast();
            iovec.iov_len = self.lens[index];
            let header = &mut self.headers[index].msg_hdr;
            header.msg_iov = &raw mut *iovec;
            header.msg_iovlen = 1;
            header.msg_name = std::ptr::null_mut();
            header.msg_namelen = 0;
            if names != Names::None {
                header.msg_name = (&raw mut self.names[index]).cast();
                header.msg_namelen = match names {
                    Names::Send => self.name_lens[index],
                    _ => NAME_BYTES,
                };
            }
        }
    }
}

impl Default for Batch {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch").finish_non_exhaustive()
    }
}

/// Makes the kernel cut what is sent from `socket` into datagrams of `bytes` each, at most
/// [`BATCH`] of one call: udp(7), `UDP_SEGMENT`. One way through the network stack then serves them
/// all.
///
/// # Errors
/// If the kernel does not know the option.
pub fn cut_into_datagrams(socket: &UdpSocket, bytes: u16) -> io::Result<()> {
    let bytes = libc::c_int::from(bytes);
    let len = libc::socklen_t::try_from(size_of_val(&bytes)).expect("4");
    let value = (&raw const bytes).cast();
    let (level, option) = (libc::SOL_UDP, libc::UDP_SEGMENT);
    // SAFETY: `value` points to `len` bytes, a local integer that outlives the call.
    let set = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, value, len) };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Bytes of a name of any family.
const NAME_BYTES: libc::socklen_t = 128;
const _: () = assert!(size_of::<libc::sockaddr_storage>() == NAME_BYTES as usize);

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

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
    use std::time::Duration;

    use super::*;

    #[test]
    fn datagrams_go_and_come_back_whole_in_either_family() {
        for ip in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
            let echo = UdpSocket::bind((ip, 0)).expect("both families");
            echo.set_read_timeout(Some(Duration::from_secs(10))).expect("it can wait");
            let client = UdpSocket::bind((ip, 0)).expect("a free port");
            client.connect(echo.local_addr().expect("bound")).expect("loopback");
            let mut batch = Batch::new();
            for index in 0..BATCH {
                batch.resize(index, index + 1).fill(u8::try_from(index).expect("below 64"));
            }
            assert_eq!(batch.send(&client, BATCH).expect("room"), BATCH);
            let mut back = Batch::new();
            let mut seen = 0;
            while seen < BATCH {
                let count = back.receive_from(&echo).expect("they have arrived");
                back.send_back(&echo, count).expect("room");
                seen += count;
            }
            assert_eq!(batch.receive(&client).expect("they have arrived"), BATCH);
            for index in 0..BATCH {
                let expected = vec![u8::try_from(index).expect("below 64"); index + 1];
                assert_eq!(batch.bytes(index), expected);
            }
            let empty = batch.receive(&client).expect_err("nothing is left");
            assert_eq!(empty.kind(), io::ErrorKind::WouldBlock);
        }
    }

    #[test]
    fn one_call_sends_as_many_datagrams_as_it_is_cut_into() {
        let receiver = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        client.connect(receiver.local_addr().expect("bound")).expect("loopback");
        cut_into_datagrams(&client, 98).expect("Linux 4.18 or later");
        assert_eq!(client.send(&[7; 3 * 98 + 5]).expect("room"), 3 * 98 + 5);
        let mut batch = Batch::new();
        assert_eq!(batch.receive(&receiver).expect("they have arrived"), 4);
        let lens: Vec<usize> = (0..4).map(|index| batch.bytes(index).len()).collect();
        assert_eq!(lens, [98, 98, 98, 5]);
    }
}
