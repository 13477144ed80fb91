//! The program, interpreted and in the kernel, against [`Owner::core`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::*;
use crate::dataplane::socket::bind_udp_group;
use crate::rng::Rng;
use crate::wire::id::InfoHash;

const LOOPBACKS: [SocketAddr; 2] = [
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0),
    SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), 0),
];

/// Datagrams sent before the sockets are emptied again, so that no buffer overflows.
const BURST: usize = 64;

fn owner(seed: u64, cores: u16) -> Owner {
    let mut rng = Rng::new(seed);
    let keys = std::array::from_fn(|_| u32::try_from(rng.next_u64() >> 32).expect("32 bits"));
    Owner::new(keys, cores)
}

fn random_bytes(rng: &mut Rng, count: usize) -> Vec<u8> {
    (0..count).map(|_| u8::try_from(rng.below(256)).expect("a byte")).collect()
}

/// A request of `length` bytes, random but for its action.
fn request(rng: &mut Rng, action: u32, length: usize) -> Vec<u8> {
    let mut packet = random_bytes(rng, length);
    if let Some(field) = packet.get_mut(8..12) {
        field.copy_from_slice(&action.to_be_bytes());
    }
    packet
}

/// What the program ought to return: the plain version, from the BEPs and the owner's formula.
fn expected(owner: &Owner, packet: &[u8]) -> u32 {
    let action = packet.get(8..12).map(|bytes| bytes.try_into().map_or(0, u32::from_be_bytes));
    let has_hash = match action {
        Some(1) => packet.len() >= 98,
        Some(2) => packet.len() >= 36,
        _ => false,
    };
    if !has_hash {
        return u32::MAX;
    }
    let info_hash = InfoHash(std::array::from_fn(|i| packet[16 + i]));
    u32::from(owner.core(&info_hash).0)
}

/// Runs a classic BPF program as the kernel does: a load beyond the end ends it with 0.
fn interpret(program: &[libc::sock_filter], packet: &[u8]) -> u32 {
    let load = |at: u32, count: usize| {
        let at = usize::try_from(at).expect("64-bit");
        let bytes = packet.get(at..at + count)?;
        Some(bytes.iter().fold(0, |sum, &byte| (sum << 8) | u32::from(byte)))
    };
    let (mut a, mut x, mut at) = (0_u32, 0_u32, 0_usize);
    loop {
        let libc::sock_filter { code, jt, jf, k } = program[at];
        at += 1;
        match code {
            code::LD_LEN => a = u32::try_from(packet.len()).expect("short"),
            code::LD_WORD => match load(k, 4) {
                Some(word) => a = word,
                None => return 0,
            },
            code::LDH => match load(k, 2) {
                Some(halfword) => a = halfword,
                None => return 0,
            },
            code::LDX => x = k,
            code::MUL => a = a.wrapping_mul(k),
            code::ADD_X => a = a.wrapping_add(x),
            code::RSH => a >>= k,
            code::TAX => x = a,
            code::JEQ => at += usize::from(if a == k { jt } else { jf }),
            code::JGE => at += usize::from(if a >= k { jt } else { jf }),
            code::RET => return k,
            code::RET_A => return a,
            other => panic!("unknown instruction {other:#x}"),
        }
    }
}

#[test]
fn the_program_agrees_with_the_owner_on_any_bytes() {
    let mut rng = Rng::new(1);
    for cores in [1, 2, 3, 5, 8, 64, 255, u16::MAX] {
        let owner = owner(u64::from(cores), cores);
        let program = program(&owner);
        let mut steered = 0;
        for _ in 0..4_000 {
            // Mostly lengths around the limits, and actions that exist.
            let length = usize::try_from(rng.below(140)).expect("small");
            let action = rng.below(5);
            let packet = request(&mut rng, action, length);
            let result = interpret(&program, &packet);
            assert_eq!(result, expected(&owner, &packet), "{cores} cores, {packet:?}");
            steered += u32::from(result != u32::MAX);
        }
        assert!(steered > 500, "{steered}");
    }
}

#[test]
fn only_whole_announces_and_scrapes_are_steered() {
    let owner = owner(2, 4);
    let program = program(&owner);
    let mut rng = Rng::new(3);
    for (action, first) in [(0, usize::MAX), (1, 98), (2, 36), (3, usize::MAX)] {
        for length in 0..200 {
            let packet = request(&mut rng, action, length);
            let steered = interpret(&program, &packet) < 4;
            assert_eq!(steered, length >= first, "action {action}, {length} bytes");
        }
    }
    // The high bytes of the action count.
    assert_eq!(interpret(&program, &request(&mut rng, 0x0100_0001, 98)), u32::MAX);
}

/// A steered group on loopback and a socket that sends to it.
struct Group {
    sockets: Vec<UdpSocket>,
    sender: UdpSocket,
    address: SocketAddr,
}

impl Group {
    fn new(loopback: SocketAddr, owner: &Owner) -> Self {
        let cores = usize::from(owner.cores());
        let sockets = bind_udp_group(loopback, cores, 256 * 1_024).expect("loopback");
        attach(sockets[cores - 1].as_fd(), owner).expect("any member will do");
        let address = sockets[0].local_addr().expect("bound");
        Self { sockets, sender: UdpSocket::bind(loopback).expect("loopback"), address }
    }

    /// Empties the sockets until `count` datagrams came: for each, its socket and its bytes.
    fn collect(&self, count: usize) -> Vec<(usize, Vec<u8>)> {
        let give_up = Instant::now() + Duration::from_secs(10);
        let mut arrived = Vec::with_capacity(count);
        while arrived.len() < count {
            assert!(Instant::now() < give_up, "{} of {count} datagrams came", arrived.len());
            for (index, socket) in self.sockets.iter().enumerate() {
                let mut buffer = [0; 2_048];
                while let Ok(length) = socket.recv(&mut buffer) {
                    arrived.push((index, buffer[..length].to_vec()));
                }
            }
        }
        arrived
    }

    /// Sends each packet and returns where each arrived: the bytes are random enough to be a tag.
    fn deliver(&self, packets: &[Vec<u8>]) -> Vec<(usize, Vec<u8>)> {
        let mut arrived = Vec::with_capacity(packets.len());
        for burst in packets.chunks(BURST) {
            for packet in burst {
                self.sender.send_to(packet, self.address).expect("loopback");
            }
            arrived.extend(self.collect(burst.len()));
        }
        arrived
    }
}

#[test]
fn the_kernel_gives_every_request_to_its_owner() {
    for loopback in LOOPBACKS {
        for cores in [2, 3, 4] {
            let owner = owner(u64::from(cores) + 10, cores);
            let group = Group::new(loopback, &owner);
            let mut rng = Rng::new(u64::from(cores));
            let packets: Vec<_> = (0..3_000)
                .map(|_| {
                    let more = usize::try_from(rng.below(3)).expect("small");
                    match rng.below(2) {
                        0 => request(&mut rng, ANNOUNCE, 98 + 10 * more),
                        _ => request(&mut rng, SCRAPE, 36 + 20 * more),
                    }
                })
                .collect();
            let mut counts = vec![0; usize::from(cores)];
            for (index, packet) in group.deliver(&packets) {
                let core = expected(&owner, &packet);
                assert_eq!(u32::try_from(index), Ok(core), "{loopback}, {cores} cores");
                counts[index] += 1;
            }
            assert!(counts.iter().all(|&count| count > 500), "every core owns some: {counts:?}");
        }
    }
}

/// The busiest socket's share as a multiple of the mean.
fn crowding(arrivals: impl Iterator<Item = usize>, cores: u16) -> f64 {
    let mut counts = vec![0_u32; usize::from(cores)];
    arrivals.for_each(|index| counts[index] += 1);
    let total: u32 = counts.iter().sum();
    f64::from(counts.into_iter().max().unwrap_or(0)) * f64::from(cores) / f64::from(total)
}

#[test]
fn what_has_no_owner_is_spread_by_its_source() {
    let sources = 1_200;
    for loopback in LOOPBACKS {
        for cores in [2, 4] {
            let owner = owner(20, cores);
            let group = Group::new(loopback, &owner);
            let mut rng = Rng::new(21);
            let (mut connects, mut garbage) = (Vec::new(), Vec::new());
            for _ in 0..sources {
                let source = UdpSocket::bind(loopback).expect("loopback");
                source.send_to(&request(&mut rng, 0, 16), group.address).expect("loopback");
                let length = usize::try_from(rng.below(1_400)).expect("small");
                // An action that does not exist: nothing in the middle of garbage is a request.
                let bytes = request(&mut rng, 77, length);
                source.send_to(&bytes, group.address).expect("loopback");
                for (index, packet) in group.collect(2) {
                    let kind = if packet == bytes { &mut garbage } else { &mut connects };
                    kind.push(index);
                }
            }
            // With 300 expected on each of 4 sockets, 1.3 is six standard deviations away.
            for (name, arrivals) in [("connects", &connects), ("garbage", &garbage)] {
                assert_eq!(arrivals.len(), sources, "{name}");
                let share = crowding(arrivals.iter().copied(), cores);
                assert!(share < 1.3, "{name} on {loopback}, {cores} cores: {share:.2} of the mean");
                let zero = arrivals.iter().filter(|&&index| index == 0).count();
                assert!(zero < sources * 13 / (10 * usize::from(cores)), "{name}: {zero} on 0");
            }
        }
    }
}

#[test]
fn chosen_hashes_do_not_crowd_one_socket() {
    let cores = 4;
    for (name, equal) in [("equal prefixes", 16..24), ("equal suffixes", 28..36)] {
        for (action, length) in [(ANNOUNCE, 98), (SCRAPE, 36)] {
            // One draw of the keys may be unlucky; the median over draws may not.
            let mut shares: Vec<f64> = (0..7)
                .map(|seed| {
                    let group = Group::new(LOOPBACKS[0], &owner(seed + 30, cores));
                    let mut rng = Rng::new(seed);
                    let packets: Vec<_> = (0..1_000)
                        .map(|_| {
                            let mut packet = request(&mut rng, action, length);
                            packet[equal.clone()].fill(7);
                            packet
                        })
                        .collect();
                    let arrived = group.deliver(&packets);
                    crowding(arrived.into_iter().map(|(index, _)| index), cores)
                })
                .collect();
            shares.sort_by(f64::total_cmp);
            assert!(shares[3] < 1.5, "{name}: median share {:.2} of the mean", shares[3]);
        }
    }
}

#[test]
fn one_core_needs_no_program_and_a_lone_socket_takes_none() {
    let lone = bind_udp_group(LOOPBACKS[0], 1, 0).expect("loopback");
    attach(lone[0].as_fd(), &owner(1, 1)).expect("nothing to do");
    attach(lone[0].as_fd(), &owner(1, 2)).expect_err("not in a group");
}

#[test]
fn more_cores_than_sockets_lose_nothing() {
    // The kernel falls back to its hash for an index that the group does not have.
    let sockets = bind_udp_group(LOOPBACKS[0], 2, 0).expect("loopback");
    attach(sockets[0].as_fd(), &owner(40, 64)).expect("attaches");
    let address = sockets[0].local_addr().expect("bound");
    let sender = UdpSocket::bind(LOOPBACKS[0]).expect("loopback");
    let group = Group { sockets, sender, address };
    let mut rng = Rng::new(41);
    let packets: Vec<_> = (0..500).map(|_| request(&mut rng, ANNOUNCE, 98)).collect();
    assert_eq!(group.deliver(&packets).len(), 500);
}
