//! Opening listeners: one reuseport group per address, its sockets in core order.
//!
//! Invariant: socket i of a group is the group's member i, which is the index that `steering`
//! returns for core i; the kernel numbers members as they join. Must never join a group that
//! another process opened: two trackers would share one port, each with half of every swarm.
//!
//! `SO_REUSEPORT` on every socket would let a second instance of the same user in. So the first
//! socket of a group is bound without it, which fails while anybody at all holds the address, and
//! the option is switched on only afterwards, for the others to join. (Linux builds the group when
//! the second socket joins and gives the first one index 0: `reuseport_add_sock`; the tests hold it
//! to that.) There is no window: of two instances that race, the kernel refuses one first socket.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::sockopt;
use socket2::{Domain, Protocol, Socket, Type};

use crate::limits::HTTP_SEND_BUFFER_BYTES;

/// How long a taken address is retried: the io_uring of a killed process holds its sockets for some
/// milliseconds after the process is gone.
const TAKEN_PATIENCE: Duration = Duration::from_secs(1);
/// Pause between two attempts at a taken address.
const TAKEN_PAUSE: Duration = Duration::from_millis(10);

/// The protocol of a listener.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Transport {
    /// Datagrams.
    Udp,
    /// Connections.
    Tcp,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Udp => "UDP",
            Self::Tcp => "TCP",
        })
    }
}

/// Why an address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {transport} {address}: {source}")]
pub struct BindError {
    /// The address that was asked for.
    pub address: SocketAddr,
    /// And its protocol.
    pub transport: Transport,
    /// What the kernel said.
    pub source: io::Error,
}

impl BindError {
    /// Whether somebody else (perhaps another instance of us) holds the address.
    #[must_use]
    pub fn is_address_taken(&self) -> bool {
        self.source.kind() == io::ErrorKind::AddrInUse
    }
}

/// Opens `sockets` UDP sockets on `address` as one reuseport group, in core order.
///
/// Each is non-blocking and has a receive buffer as near to `receive_buffer_bytes` as the kernel
/// grants (ask with [`receive_buffer_granted`]). Port 0 lets the kernel choose one port for the
/// whole group. May wait a second for a taken address.
///
/// # Errors
/// What the kernel refused; nothing stays open.
pub fn bind_udp_group(
    address: SocketAddr,
    sockets: usize,
    receive_buffer_bytes: usize,
) -> Result<Vec<UdpSocket>, BindError> {
    let open = |address| open_udp(address, receive_buffer_bytes);
    let ready = |_: &Socket| Ok(());
    let group = bind_group(address, Transport::Udp, sockets, open, ready)?;
    Ok(group.into_iter().map(UdpSocket::from).collect())
}

/// Opens `sockets` TCP listeners on `address` as one reuseport group, in core order.
///
/// Each is non-blocking and listening with a queue of `backlog` (the kernel caps it at
/// `net.core.somaxconn`). Connections in TIME_WAIT do not prevent it, a live listener does.
/// Accepted sockets inherit TCP_NODELAY and the send buffer, but not being non-blocking. Port 0
/// and waiting as for UDP.
///
/// # Errors
/// What the kernel refused; nothing stays open.
pub fn bind_tcp_group(
    address: SocketAddr,
    sockets: usize,
    backlog: i32,
) -> Result<Vec<TcpListener>, BindError> {
    // Until a socket listens, SO_REUSEADDR lets another instance bind beside it; listening checks
    // again, and one of the two is refused. So a first socket owns its address once it listens.
    let ready = |socket: &Socket| socket.listen(backlog);
    let group = bind_group(address, Transport::Tcp, sockets, open_tcp, ready)?;
    Ok(group.into_iter().map(TcpListener::from).collect())
}

/// The bytes of receive buffer that the kernel granted, by its own count: it doubles what is asked,
/// to pay for its bookkeeping, and stops at twice `net.core.rmem_max`. 0 if it will not say.
#[must_use]
pub fn receive_buffer_granted(socket: &UdpSocket) -> usize {
    sockopt::socket_recv_buffer_size(socket.as_fd()).unwrap_or(0)
}

/// Asks for a receive buffer beyond `net.core.rmem_max` (needs CAP_NET_ADMIN), else up to it.
fn ask_receive_buffer(socket: &Socket, bytes: usize) -> io::Result<()> {
    if bytes == 0 {
        return Ok(());
    }
    // The kernel's own type for a size is an `int`.
    let bytes = bytes.min(i32::MAX as usize);
    sockopt::set_socket_recv_buffer_size_force(socket.as_fd(), bytes)
        .or_else(|_| sockopt::set_socket_recv_buffer_size(socket.as_fd(), bytes))
        .map_err(io::Error::from)
}

/// A UDP socket with its options, not yet bound.
fn open_udp(address: SocketAddr, receive_buffer_bytes: usize) -> io::Result<Socket> {
    let socket = open(address, Transport::Udp)?;
    ask_receive_buffer(&socket, receive_buffer_bytes)?;
    Ok(socket)
}

/// A TCP socket with its options, not yet bound.
fn open_tcp(address: SocketAddr) -> io::Result<Socket> {
    let socket = open(address, Transport::Tcp)?;
    socket.set_reuse_address(true)?;
    // Inherited by accepted sockets (tcp(7)): one system call here instead of one for each.
    socket.set_tcp_nodelay(true)?;
    socket.set_send_buffer_size(HTTP_SEND_BUFFER_BYTES)?;
    Ok(socket)
}

/// A socket of the family of `address`, close-on-exec and non-blocking, not yet bound.
fn open(address: SocketAddr, transport: Transport) -> io::Result<Socket> {
    let (kind, protocol) = match transport {
        Transport::Udp => (Type::DGRAM, Protocol::UDP),
        Transport::Tcp => (Type::STREAM, Protocol::TCP),
    };
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, kind.nonblocking().cloexec(), Some(protocol))?;
    if address.is_ipv6() {
        // IPv4 has sockets and a group of its own; mapped addresses would bypass both.
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

/// Binds a group, waiting for a taken address for as long as a dead process may hold it.
fn bind_group(
    address: SocketAddr,
    transport: Transport,
    sockets: usize,
    open: impl Fn(SocketAddr) -> io::Result<Socket>,
    ready: impl Fn(&Socket) -> io::Result<()>,
) -> Result<Vec<Socket>, BindError> {
    let give_up = Instant::now() + TAKEN_PATIENCE;
    loop {
        match bind_group_once(address, sockets, &open, &ready) {
            Ok(group) => return Ok(group),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < give_up => {
                thread::sleep(TAKEN_PAUSE);
            }
            Err(source) => return Err(BindError { address, transport, source }),
        }
    }
}

/// Binds a group: the first socket alone and exclusively, then the others beside it.
fn bind_group_once(
    address: SocketAddr,
    sockets: usize,
    open: &impl Fn(SocketAddr) -> io::Result<Socket>,
    ready: &impl Fn(&Socket) -> io::Result<()>,
) -> io::Result<Vec<Socket>> {
    let mut group = Vec::with_capacity(sockets);
    if sockets == 0 {
        return Ok(group);
    }
    let first = open(address)?;
    first.bind(&address.into())?;
    ready(&first)?;
    if sockets > 1 {
        first.set_reuse_port(true)?;
    }
    // Port 0: the first socket's port is everybody's port.
    let bound = first.local_addr()?;
    group.push(first);
    for _ in 1..sockets {
        let socket = open(address)?;
        socket.set_reuse_port(true)?;
        socket.bind(&bound)?;
        ready(&socket)?;
        group.push(socket);
    }
    Ok(group)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Ipv4Addr, Ipv6Addr, TcpStream};
    use std::sync::Barrier;

    use super::*;

    const LOOPBACKS: [SocketAddr; 2] = [
        SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0),
        SocketAddr::new(std::net::IpAddr::V6(Ipv6Addr::LOCALHOST), 0),
    ];

    fn udp_address(group: &[UdpSocket]) -> SocketAddr {
        group[0].local_addr().expect("bound")
    }

    fn tcp_address(group: &[TcpListener]) -> SocketAddr {
        group[0].local_addr().expect("bound")
    }

    #[test]
    fn a_group_shares_one_chosen_port_and_is_non_blocking_and_close_on_exec() {
        for loopback in LOOPBACKS {
            let udp = bind_udp_group(loopback, 3, 0).expect("binds");
            let tcp = bind_tcp_group(loopback, 3, 16).expect("binds");
            assert_eq!((udp.len(), tcp.len()), (3, 3));
            let fds = udp.iter().map(AsFd::as_fd).chain(tcp.iter().map(AsFd::as_fd));
            for fd in fds {
                let flags = rustix::io::fcntl_getfd(fd).expect("open");
                assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
            }
            for socket in &udp {
                assert_eq!(socket.local_addr().expect("bound"), udp_address(&udp));
                let error = socket.recv(&mut [0; 8]).expect_err("nothing was sent");
                assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
            }
            for listener in &tcp {
                assert_eq!(listener.local_addr().expect("bound"), tcp_address(&tcp));
                let error = listener.accept().expect_err("nobody connected");
                assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
            }
            assert_ne!(udp_address(&udp).port(), 0);
        }
    }

    #[test]
    fn both_families_may_hold_the_same_port() {
        let v4 = bind_udp_group(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)), 2, 0);
        let port = udp_address(&v4.as_ref().expect("binds")[..]).port();
        let v6 = bind_udp_group(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)), 2, 0);
        assert!(v6.is_ok(), "{v6:?}");
    }

    #[test]
    fn a_second_instance_is_refused() {
        // Side by side, because each refusal takes all of the patience.
        thread::scope(|scope| {
            for (loopback, sockets) in LOOPBACKS.into_iter().flat_map(|l| [(l, 1), (l, 2)]) {
                scope.spawn(move || {
                    let udp = bind_udp_group(loopback, sockets, 0).expect("binds");
                    let error = bind_udp_group(udp_address(&udp), 2, 0).expect_err("taken");
                    assert!(error.is_address_taken(), "{error}");
                    assert!(error.to_string().contains("UDP"), "{error}");
                });
                scope.spawn(move || {
                    let tcp = bind_tcp_group(loopback, sockets, 16).expect("binds");
                    let address = tcp_address(&tcp);
                    let error = bind_tcp_group(address, 2, 16).expect_err("taken");
                    assert!(error.is_address_taken(), "{error}");
                    assert!(error.to_string().contains(&format!("TCP {address}")), "{error}");
                });
            }
        });
    }

    #[test]
    fn of_instances_that_race_never_two_win() {
        let mut won = (0, 0);
        for round in 0..8 {
            // A port that was free a moment ago.
            let address = udp_address(&bind_udp_group(LOOPBACKS[0], 1, 0).expect("binds"));
            let start = Barrier::new(4);
            let finish = Barrier::new(4);
            let contend = || {
                start.wait();
                let open = |address| open_udp(address, 0);
                let udp = bind_group_once(address, 3, &open, &|_: &Socket| Ok(()));
                let tcp = bind_group_once(address, 3, &open_tcp, &|s: &Socket| s.listen(16));
                // Nobody lets go of what they won before everybody tried.
                finish.wait();
                (usize::from(udp.is_ok()), usize::from(tcp.is_ok()))
            };
            let (udp, tcp): (Vec<_>, Vec<_>) = thread::scope(|scope| {
                let contenders: Vec<_> = (0..4).map(|_| scope.spawn(contend)).collect();
                contenders.into_iter().map(|one| one.join().expect("no panic")).unzip()
            });
            let (udp, tcp) = (udp.iter().sum::<usize>(), tcp.iter().sum::<usize>());
            assert!(udp <= 1, "UDP, round {round}");
            assert!(tcp <= 1, "TCP, round {round}");
            won = (won.0 + udp, won.1 + tcp);
        }
        // Not every round has a winner: a stranger may have taken the port meanwhile, and of TCP
        // sockets that bind before one listens, all may be refused. A start tries again then.
        assert!(won.0 > 0 && won.1 > 0, "{won:?}");
    }

    #[test]
    fn a_taken_address_is_waited_for() {
        let holder = bind_udp_group(LOOPBACKS[0], 2, 0).expect("binds");
        let address = udp_address(&holder);
        let release = thread::spawn(move || {
            thread::sleep(Duration::from_millis(100));
            drop(holder);
        });
        bind_udp_group(address, 2, 0).expect("free after 100 ms");
        release.join().expect("no panic");
    }

    #[test]
    fn time_wait_does_not_block_a_restart() {
        for loopback in LOOPBACKS {
            let listeners = bind_tcp_group(loopback, 2, 16).expect("binds");
            let address = tcp_address(&listeners);
            let mut client = TcpStream::connect(address).expect("connects");
            let accepted = accept_from(&listeners);
            // The side that closes first keeps TIME_WAIT: the server's.
            drop(accepted);
            assert_eq!(client.read(&mut [0; 1]).expect("orderly end"), 0);
            drop(client);
            drop(listeners);
            let before = Instant::now();
            bind_tcp_group(address, 2, 16).expect("restarts");
            assert!(before.elapsed() < TAKEN_PATIENCE);
        }
    }

    fn accept_from(listeners: &[TcpListener]) -> TcpStream {
        let give_up = Instant::now() + Duration::from_secs(5);
        loop {
            for listener in listeners {
                if let Ok((stream, _)) = listener.accept() {
                    return stream;
                }
            }
            assert!(Instant::now() < give_up, "nobody got the connection");
            thread::yield_now();
        }
    }

    #[test]
    fn accepted_sockets_inherit_their_options_from_every_listener() {
        let listeners = bind_tcp_group(LOOPBACKS[0], 3, 64).expect("binds");
        for _ in 0..16 {
            let mut client = TcpStream::connect(tcp_address(&listeners)).expect("connects");
            let accepted = accept_from(&listeners);
            assert!(accepted.nodelay().expect("open"));
            let kept = sockopt::socket_send_buffer_size(&accepted).expect("open");
            assert_eq!(kept, 2 * HTTP_SEND_BUFFER_BYTES);
            client.write_all(b"x").expect("connected");
        }
    }

    #[test]
    fn the_granted_buffer_is_what_the_kernel_reports() {
        let asked = 128 * 1_024;
        let group = bind_udp_group(LOOPBACKS[0], 2, asked).expect("binds");
        for socket in &group {
            // Every machine's net.core.rmem_max allows as much; the kernel doubles it.
            assert_eq!(receive_buffer_granted(socket), 2 * asked);
        }
        let greedy = bind_udp_group(LOOPBACKS[0], 1, usize::MAX).expect("binds");
        assert!(receive_buffer_granted(&greedy[0]) >= 2 * asked);
    }

    #[test]
    fn no_sockets_is_an_empty_group() {
        assert!(bind_udp_group(LOOPBACKS[0], 0, 0).expect("nothing to bind").is_empty());
        assert!(bind_tcp_group(LOOPBACKS[0], 0, 1).expect("nothing to bind").is_empty());
    }
}
