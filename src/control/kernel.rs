//! What the kernel counts about us, read from `/proc`.
//!
//! Datagrams that the kernel drops reach no worker, so no worker can count them; nor does a worker
//! know how long it waited for its CPU. What cannot be read is left out.

use std::fs::{File, read_dir, read_to_string};
use std::io;
use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::fs::{fstat, stat};
use rustix::param::page_size;

use crate::wire::addr::Family;

/// Room for a table: one that takes more reads is made again for each of them.
const TABLE_BYTES: usize = 16 * 1_024;
/// Between two tables. One after the other they take half a millisecond, and a worker that wakes up
/// meanwhile may have to wait for that, though its priority is better.
const BREATH: Duration = Duration::from_millis(1);

/// A socket that the kernel counts for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Watched {
    /// The address it listens on.
    pub listener: String,
    /// The worker that reads from it.
    pub worker: usize,
    family: Family,
    inode: u64,
}

impl Watched {
    /// A worker's socket.
    ///
    /// # Errors
    /// If the kernel says nothing about it.
    pub fn new(worker: usize, socket: &UdpSocket) -> io::Result<Self> {
        let address = socket.local_addr()?;
        let inode = fstat(socket.as_fd())?.st_ino;
        let family = if address.is_ipv4() { Family::V4 } else { Family::V6 };
        Ok(Self { listener: address.to_string(), worker, family, inode })
    }
}

/// One socket as the kernel sees it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Socket {
    /// Datagrams dropped, mostly because the receive buffer was full.
    pub drops: u64,
    /// Bytes that wait to be read, with the kernel's bookkeeping.
    pub waiting_bytes: u64,
}

/// The time of a worker's thread, in nanoseconds since its start.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ThreadTime {
    /// On a CPU.
    pub ran: u64,
    /// Ready to run, while something else had the CPU.
    pub waited: u64,
}

/// What the kernel says now. The first three are about the whole network namespace.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Reading {
    /// Datagrams dropped for lack of buffer space, by family.
    pub udp_buffer_errors: [Option<u64>; 2],
    /// Connections dropped because the accept queue of a listener was full.
    pub listen_overflows: Option<u64>,
    /// Connections that could not be accepted, for whatever reason.
    pub listen_drops: Option<u64>,
    /// Each of the watched sockets, in their order.
    pub sockets: Vec<Option<Socket>>,
    /// Each worker's thread.
    pub threads: Vec<Option<ThreadTime>>,
    /// Bytes of memory that the process has in use.
    pub resident_bytes: Option<u64>,
    /// Files that are open.
    pub open_files: Option<u64>,
}

/// Reads what the kernel says. It opens all files once: to open one takes the kernel longer than to
/// read it, and a descriptor that may not be there later.
#[derive(Debug)]
pub struct Reader {
    watched: Vec<Watched>,
    snmp: Table,
    snmp6: Table,
    netstat: Table,
    udp: [Table; 2],
    memory: Table,
    /// Of each worker, once it runs.
    threads: Mutex<Vec<Option<Table>>>,
}

impl Reader {
    /// For these sockets, and for so many workers in threads called `throng-0` and so on.
    #[must_use]
    pub fn new(watched: Vec<Watched>, workers: usize) -> Self {
        let net = |name| Table::open(&Path::new("/proc/self/net").join(name));
        Self {
            watched,
            snmp: net("snmp"),
            snmp6: net("snmp6"),
            netstat: net("netstat"),
            udp: [net("udp"), net("udp6")],
            memory: Table::open(Path::new("/proc/self/statm")),
            threads: Mutex::new((0..workers).map(|_| None).collect()),
        }
    }

    /// The sockets that are watched.
    #[must_use]
    pub fn watched(&self) -> &[Watched] {
        &self.watched
    }

    /// What the kernel says now. Takes some milliseconds, which the calling thread sleeps.
    #[must_use]
    pub fn read(&self) -> Reading {
        let after_a_pause = |table: &Table| {
            thread::sleep(BREATH);
            table.text()
        };
        let [snmp, snmp6, netstat] = [&self.snmp, &self.snmp6, &self.netstat].map(after_a_pause);
        let udp = self.udp.each_ref().map(after_a_pause);
        let socket = |watched: &Watched| socket(&udp[watched.family as usize], watched.inode);
        Reading {
            udp_buffer_errors: [
                counter(&snmp, "Udp:", "RcvbufErrors"),
                word_behind(&snmp6, "Udp6RcvbufErrors"),
            ],
            listen_overflows: counter(&netstat, "TcpExt:", "ListenOverflows"),
            listen_drops: counter(&netstat, "TcpExt:", "ListenDrops"),
            sockets: self.watched.iter().map(socket).collect(),
            threads: self.thread_times(),
            resident_bytes: resident_bytes(&self.memory.text()),
            open_files: open_files(),
        }
    }

    fn thread_times(&self) -> Vec<Option<ThreadTime>> {
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        if threads.iter().any(Option::is_none) {
            find_threads(Path::new("/proc/self/task"), &mut threads);
        }
        threads.iter().map(|table| thread_time(&table.as_ref()?.text())).collect()
    }
}

/// A file that is read again and again; empty if it could not be opened.
#[derive(Debug)]
struct Table(Option<File>);

impl Table {
    fn open(path: &Path) -> Self {
        Self(File::open(path).ok())
    }

    /// What is in it now; nothing if that cannot be read.
    fn text(&self) -> String {
        let Some(file) = &self.0 else { return String::new() };
        let (mut bytes, mut len) = (vec![0; TABLE_BYTES], 0);
        loop {
            match file.read_at(&mut bytes[len..], len as u64) {
                Ok(0) => break,
                Ok(count) => len += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return String::new(),
            }
            if bytes.len() - len < TABLE_BYTES / 2 {
                bytes.resize(bytes.len() + TABLE_BYTES, 0);
            }
        }
        bytes.truncate(len);
        String::from_utf8(bytes).unwrap_or_default()
    }
}

/// The size of the folder of open files is their number, since Linux 6.2. To count them would take
/// the CPU from a worker, milliseconds of every second with ten thousand.
fn open_files() -> Option<u64> {
    let size = stat("/proc/self/fd").ok()?.st_size;
    u64::try_from(size).ok().filter(|&count| count > 0)
}

/// The number under `name` in a table of two lines, one of names and one of numbers, which both
/// begin with `table`: `/proc/net/snmp`, `/proc/net/netstat`.
fn counter(text: &str, table: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter(|line| line.split_ascii_whitespace().next() == Some(table));
    let at = lines.next()?.split_ascii_whitespace().position(|word| word == name)?;
    lines.next()?.split_ascii_whitespace().nth(at)?.parse().ok()
}

/// The number behind `name`, which begins its line: `/proc/net/snmp6`.
fn word_behind(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace();
        (words.next() == Some(name)).then(|| words.next()?.parse().ok()).flatten()
    })
}

/// The socket of an inode in `/proc/net/udp` or `udp6`.
fn socket(table: &str, inode: u64) -> Option<Socket> {
    table.lines().find_map(|line| {
        // sl local rem st tx:rx tr:when retrnsmt uid timeout inode ref pointer drops
        let mut words = line.split_ascii_whitespace();
        let queues = words.nth(4)?;
        (words.nth(4)?.parse() == Ok(inode)).then_some(())?;
        let (_, receive) = queues.split_once(':')?;
        let drops = words.nth(2)?.parse().ok()?;
        Some(Socket { drops, waiting_bytes: u64::from_str_radix(receive, 16).ok()? })
    })
}

/// Finds the threads of workers, which are told by their names. A worker's executor has a thread of
/// the same name for calls that block, of which there are none: the busier one is meant.
fn find_threads(tasks: &Path, threads: &mut [Option<Table>]) {
    let mut most = vec![0; threads.len()];
    for task in read_dir(tasks).into_iter().flatten().flatten() {
        let name = read_to_string(task.path().join("comm")).unwrap_or_default();
        let worker = name.trim_end().strip_prefix("throng-").map(str::parse::<usize>);
        let Some(Ok(worker)) = worker else { continue };
        let table = Table::open(&task.path().join("schedstat"));
        if let (Some(thread), Some(most)) = (threads.get_mut(worker), most.get_mut(worker))
            && let Some(time) = thread_time(&table.text())
            && time.ran > *most
        {
            (*thread, *most) = (Some(table), time.ran);
        }
    }
}

/// `/proc/PID/statm`: pages of address space, pages in use, and more.
fn resident_bytes(statm: &str) -> Option<u64> {
    let pages: u64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(pages * page_size() as u64)
}

/// `/proc/PID/task/TID/schedstat`: nanoseconds on a CPU, nanoseconds ready, and turns.
fn thread_time(text: &str) -> Option<ThreadTime> {
    let mut words = text.split_ascii_whitespace().map(str::parse);
    let (ran, waited) = (words.next()?.ok()?, words.next()?.ok()?);
    Some(ThreadTime { ran, waited })
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    const SNMP: &str = "\
Ip: Forwarding DefaultTTL InReceives\n\
Ip: 1 64 3\n\
Udp: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors SndbufErrors\n\
Udp: 11 22 33 44 55 66\n\
UdpLite: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors SndbufErrors\n\
UdpLite: 1 1 1 1 99 1\n";
    const UDP: &str = "   \
sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref \
pointer drops\n  \
411: 00000000:1B39 00000000:0000 07 00000000:00000A00 00:00000000 00000000     0        0 25310 2 \
0000000000000000 17\n  \
412: 00000000:1B39 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 25311 2 \
0000000000000000 0\n";

    #[test]
    fn tables_are_read_by_their_names() {
        assert_eq!(counter(SNMP, "Udp:", "RcvbufErrors"), Some(55));
        assert_eq!(counter(SNMP, "Ip:", "InReceives"), Some(3));
        for (table, name) in [("Udp:", "Nothing"), ("Icmp:", "RcvbufErrors"), ("Udp", "NoPorts")] {
            assert_eq!(counter(SNMP, table, name), None);
        }
        assert_eq!(counter("Udp: RcvbufErrors\n", "Udp:", "RcvbufErrors"), None);
        let snmp6 = "Udp6RcvbufErrors                \t7\nUdp6RcvbufErrorsToo 8\n";
        assert_eq!(word_behind(snmp6, "Udp6RcvbufErrors"), Some(7));
        assert_eq!(word_behind("Udp6RcvbufErrors\n", "Udp6RcvbufErrors"), None);
        assert_eq!(resident_bytes("900 12 5 1 0 3 0\n"), Some(12 * page_size() as u64));
        assert_eq!(resident_bytes("900\n"), None);
        let first = Socket { drops: 17, waiting_bytes: 0xA00 };
        assert_eq!(socket(UDP, 25_310), Some(first));
        assert_eq!(socket(UDP, 25_311), Some(Socket::default()));
        assert_eq!(socket(UDP, 2), None);
        assert_eq!(socket("sl local\n", 2), None);
        assert_eq!(thread_time("12 34 5\n"), Some(ThreadTime { ran: 12, waited: 34 }));
        assert_eq!(thread_time("12\n"), None);
    }

    #[test]
    fn a_socket_that_nobody_reads_is_seen_to_drop() {
        let receiver = UdpSocket::bind("127.0.0.1:0").expect("loopback");
        let watched = Watched::new(0, &receiver).expect("a socket");
        let reader = Reader::new(vec![watched], 1);
        assert_eq!(reader.read().sockets, [Some(Socket::default())]);
        let sender = UdpSocket::bind("127.0.0.1:0").expect("loopback");
        let address = receiver.local_addr().expect("bound");
        for _ in 0..4_000 {
            let _ = sender.send_to(&[0; 1_400], address);
        }
        let reading = reader.read();
        let socket = reading.sockets[0].expect("it is still there");
        assert!(socket.drops > 0 && socket.waiting_bytes > 1_400, "{socket:?}");
        assert!(reading.udp_buffer_errors[0].expect("counted") >= socket.drops);
        assert!(reading.listen_overflows.is_some() && reading.listen_drops.is_some());
        assert!(reading.resident_bytes > Some(1_000_000));
        // Older kernels do not say. Other tests open files at the same time.
        let more: Vec<_> = (0..500).map(|_| sender.try_clone().expect("a descriptor")).collect();
        if let (Some(before), Some(now)) = (reading.open_files, reader.read().open_files) {
            assert!(now > before + 250, "{before}, and {now} with {} more", more.len());
        }
    }

    #[test]
    fn threads_are_told_by_their_names() {
        let busy = || {
            let end = Instant::now() + Duration::from_millis(100);
            while Instant::now() < end {
                std::hint::black_box(());
            }
            Reader::new(Vec::new(), 3).thread_times()
        };
        let thread = std::thread::Builder::new().name("throng-1".to_owned()).spawn(busy);
        let times = thread.expect("a thread").join().expect("no panic");
        assert_eq!((times[0], times[2]), (None, None));
        assert!(times[1].is_some_and(|time| time.ran > 1_000_000), "{times:?}");
    }
}
