//! `throng check`: whether this machine can run the tracker as configured, and what to change.
//!
//! Each finding measures one thing (what the kernel grants, not what a file says) and then judges
//! it in a pure function that the tests call with any measurement. Must not change the machine or
//! touch a public address: what it opens is on loopback and closed again.

mod cards;
pub mod network;

use std::fmt::Write;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit};
use rustix::thread::CapabilitySet;
use serde::Serialize;

use crate::control::certificates::{CertificateError, Loaded};
use crate::control::finding::{Finding, Level};
use crate::dataplane::probe::{self, KERNEL_MIN, RingRefusal};
use crate::dataplane::socket::{bind_udp_group, receive_buffer_granted};
use crate::dataplane::steering;
use crate::rng::Rng;
use crate::tracker::owner::{HALFWORDS, Owner};
use crate::wire::id::InfoHash;

/// What glommio demands of RLIMIT_MEMLOCK before it starts an executor (glommio 0.9,
/// `MIN_MEMLOCK_LIMIT`); it looks at the limit, not at what is used, and root is not exempt.
pub const LOCKED_BYTES_MIN: u64 = 512 * 1_024;
/// Locked memory of one worker's rings. 1,024 entries and 8,192 completions take 192 KiB, an
/// executor's own rings 50 KiB (measured on 6.18); the rest is for a restart that overlaps.
const WORKER_LOCKED_BYTES: u64 = 1_024 * 1_024;
/// Descriptors of one worker: rings, eventfds, listeners, timers.
const WORKER_FILES: u64 = 64;
/// Descriptors of the rest: standard streams, logs, admin listeners, tables of `/proc`, lists.
const RESERVE_FILES: u64 = 32;
/// Operators may have this part of all descriptors, and so many at the least and at the most.
const ADMIN_PART: u64 = 32;
const ADMIN_FILES: (u64, u64) = (8, 256);
/// Announces sent to try the steering.
const STEERING_PACKETS: usize = 32;
/// How long they may take.
const STEERING_PATIENCE: Duration = Duration::from_secs(1);
/// Columns of the rendered text.
const COLUMNS: usize = 100;

/// What the configuration asks of the machine.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Workers, one per CPU.
    pub workers: usize,
    /// Receive buffer of each UDP socket.
    pub receive_buffer_bytes: u64,
    /// Listening sockets, UDP and TCP, of all workers and addresses.
    pub sockets: usize,
    /// TCP connections at the most.
    pub max_connections: usize,
}

/// Looks at the machine; takes some milliseconds, two seconds if things are broken.
#[must_use]
pub fn machine(settings: &Settings) -> Vec<Finding> {
    let files = getrlimit(Resource::Nofile);
    let most = files.maximum.unwrap_or(u64::MAX);
    vec![
        kernel(probe::kernel_version()),
        io_uring(&probe::io_uring()),
        locked_memory(getrlimit(Resource::Memlock).current, rings_are_free(), settings.workers),
        open_files(&files, files_needed(settings, most)),
        receive_buffer(settings.receive_buffer_bytes, &granted(settings.receive_buffer_bytes)),
        reuseport_steering(&try_steering()),
        cpus(core_affinity::get_core_ids().map_or(0, |cores| cores.len()), settings.workers),
    ]
}

/// What came of loading the certificates.
#[must_use]
pub fn certificates(loaded: Result<Loaded, CertificateError>) -> Vec<Finding> {
    let title = "certificates";
    match loaded {
        Err(error) => {
            let remedy = "name a certificate with its chain in tls.certificates and its key in \
                          tls.keys, both in PEM, and renew what has ended";
            vec![Finding::new(Level::Problem, title, error.to_string(), remedy.to_owned())]
        }
        Ok(loaded) if loaded.warnings.is_empty() => {
            let detail = "the keys fit, the chains hold, and none ends within two weeks";
            vec![Finding::ok(title, detail.to_owned())]
        }
        Ok(loaded) => {
            let finding = |warning: String| {
                let remedy = "renew it, put the whole chain into its file, and send SIGHUP";
                Finding::new(Level::Warning, title, warning, remedy.to_owned())
            };
            loaded.warnings.into_iter().map(finding).collect()
        }
    }
}

/// The worst level among `findings`.
#[must_use]
pub fn worst(findings: &[Finding]) -> Level {
    findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Ok)
}

/// The findings as text for people: a tag, a title and the detail in columns, the remedy below.
#[must_use]
pub fn render(findings: &[Finding]) -> String {
    let titles = findings.iter().map(|finding| finding.title.chars().count());
    let title_width = titles.max().unwrap_or(0);
    let indent = TAG_WIDTH + 2 + title_width + 2;
    let mut text = String::new();
    for finding in findings {
        let tag = match finding.level {
            Level::Ok => "ok",
            Level::Warning => "warning",
            Level::Problem => "problem",
        };
        let title = &finding.title;
        let mut start = format!("{tag:<TAG_WIDTH$}  {title:<title_width$}  ");
        for line in wrap(&finding.detail, COLUMNS.saturating_sub(indent)) {
            writeln_trimmed(&mut text, &start, &line);
            start = " ".repeat(indent);
        }
        let mut start = format!("{}-> ", " ".repeat(indent));
        for line in finding.remedy.iter().flat_map(|r| wrap(r, COLUMNS.saturating_sub(indent + 3)))
        {
            writeln_trimmed(&mut text, &start, &line);
            start = " ".repeat(indent + 3);
        }
    }
    text
}

/// The findings as JSON, for programs, and the worst level among them.
///
/// # Panics
/// Never: there is nothing in it that JSON cannot say.
#[must_use]
pub fn json(findings: &[Finding]) -> String {
    #[derive(Serialize)]
    struct Whole<'a> {
        findings: &'a [Finding],
        worst: Level,
    }
    let whole = Whole { findings, worst: worst(findings) };
    let mut text = serde_json::to_string_pretty(&whole).expect("lists and texts");
    text.push('\n');
    text
}

/// Columns of the longest tag.
const TAG_WIDTH: usize = 7;

/// Appends a line without trailing blanks.
fn writeln_trimmed(text: &mut String, start: &str, line: &str) {
    let whole = format!("{start}{line}");
    // Writing to a `String` cannot fail.
    let _ = writeln!(text, "{}", whole.trim_end());
}

/// Breaks `text` at blanks into lines of `width` columns; at least one line. A longer word, such as
/// a path, keeps a line of its own.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().expect("never empty");
        if line.is_empty() {
            line.push_str(word);
        } else if line.chars().count() + 1 + word.chars().count() <= width {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

/// Judges the kernel's version.
fn kernel(version: Option<(u32, u32)>) -> Finding {
    let title = "kernel";
    let (major_min, minor_min) = KERNEL_MIN;
    match version {
        Some((major, minor)) if (major, minor) >= KERNEL_MIN => {
            Finding::ok(title, format!("Linux {major}.{minor}"))
        }
        Some((major, minor)) => Finding::new(
            Level::Problem,
            title,
            format!("Linux {major}.{minor} is older than {major_min}.{minor_min}."),
            format!("Upgrade the kernel to {major_min}.{minor_min} or later."),
        ),
        None => Finding::new(
            Level::Warning,
            title,
            "The kernel's version is not readable.".to_owned(),
            format!("Make sure that it is Linux {major_min}.{minor_min} or later."),
        ),
    }
}

/// Judges the self-test of io_uring.
fn io_uring(outcome: &Result<(), RingRefusal>) -> Finding {
    let title = "io_uring";
    match outcome {
        Ok(()) => Finding::ok(title, "receives, sends, wakes and cancels as needed".to_owned()),
        Err(refusal) => Finding::new(
            Level::Problem,
            title,
            format!("{} failed: {}. Likely cause: {}.", refusal.step, refusal.errno, refusal.cause),
            refusal.remedy().to_owned(),
        ),
    }
}

/// Whether rings do not count as locked memory: the kernel asks for CAP_IPC_LOCK.
fn rings_are_free() -> bool {
    rustix::thread::capabilities(None)
        .is_ok_and(|sets| sets.effective.contains(CapabilitySet::IPC_LOCK))
}

/// Judges RLIMIT_MEMLOCK in bytes; none is unlimited.
///
/// It bounds all rings of a user together, not those of one process: Linux 6.18 answers ENOMEM to
/// the ring that goes beyond (5.12 to about 6.13 did not count rings, only registered buffers).
fn locked_memory(limit: Option<u64>, rings_are_free: bool, workers: usize) -> Finding {
    let title = "locked memory";
    let Some(bytes) = limit else {
        return Finding::ok(title, "unlimited".to_owned());
    };
    let workers = u64::try_from(workers).unwrap_or(u64::MAX);
    let rings = if rings_are_free { 0 } else { workers.saturating_mul(WORKER_LOCKED_BYTES) };
    let kib = bytes / 1_024;
    let (level, detail) = if bytes < LOCKED_BYTES_MIN {
        let min = LOCKED_BYTES_MIN / 1_024;
        (Level::Problem, format!("The limit is {kib} KiB; executors do not start below {min} KiB."))
    } else if bytes < rings {
        let rings = rings / 1_024;
        let detail =
            format!("The limit is {kib} KiB; the rings of all workers may take {rings} KiB.");
        (Level::Warning, detail)
    } else {
        return Finding::ok(title, format!("{kib} KiB"));
    };
    let remedy = "`LimitMEMLOCK=infinity` in the systemd unit, `--ulimit memlock=-1` for a \
                  container, `ulimit -l` in a shell.";
    Finding::new(level, title, detail, remedy.to_owned())
}

/// Descriptors that the tracker may come to hold if it may have `files`, or as many as that comes
/// to: the more it may have, the more are the operators'.
fn files_needed(settings: &Settings, mut files: u64) -> u64 {
    let connections = u64::try_from(settings.max_connections).unwrap_or(u64::MAX);
    loop {
        let others = files_besides_connections(settings.workers, settings.sockets, files);
        let needed = connections.saturating_add(others);
        if needed <= files {
            return needed;
        }
        files = needed;
    }
}

/// Descriptors that the tracker holds without any connection of a peer, if it may have `files`.
#[must_use]
pub fn files_besides_connections(workers: usize, sockets: usize, files: u64) -> u64 {
    let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
    count(workers)
        .saturating_mul(WORKER_FILES)
        .saturating_add(count(sockets))
        .saturating_add(RESERVE_FILES)
        .saturating_add(count(admin_connections(files)))
}

/// Connections of operators open at once, if the process may have `files` descriptors.
#[must_use]
pub fn admin_connections(files: u64) -> usize {
    let (least, most) = ADMIN_FILES;
    usize::try_from((files / ADMIN_PART).clamp(least, most)).expect("a few")
}

/// Judges RLIMIT_NOFILE; a limit of none is unlimited.
fn open_files(limit: &Rlimit, needed: u64) -> Finding {
    let title = "open files";
    let allows = |limit: Option<u64>| limit.is_none_or(|limit| limit >= needed);
    let show = |limit: Option<u64>| limit.map_or("unlimited".to_owned(), |limit| limit.to_string());
    let (soft, hard) = (show(limit.current), show(limit.maximum));
    if allows(limit.current) {
        return Finding::ok(title, format!("{soft} allowed, up to {needed} needed"));
    }
    let (level, what) = if allows(limit.maximum) {
        (Level::Warning, "the soft limit is")
    } else {
        (Level::Problem, "both limits are")
    };
    Finding::new(
        level,
        title,
        format!("Up to {needed} are needed; {what} too low ({soft} soft, {hard} hard)."),
        format!(
            "`LimitNOFILE={needed}` in the systemd unit, `--ulimit nofile={needed}` for a \
             container, `ulimit -n {needed}` in a shell; or allow fewer connections."
        ),
    )
}

/// What the kernel grants a UDP socket that asks for `bytes`, by its own count.
fn granted(bytes: u64) -> io::Result<usize> {
    let asked = usize::try_from(bytes).unwrap_or(usize::MAX);
    let group = bind_udp_group(LOOPBACK, 1, asked).map_err(|error| error.source)?;
    Ok(group.first().map_or(0, receive_buffer_granted))
}

/// A free port on loopback.
const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// Judges the receive buffer: bytes asked for, and granted by the kernel's count, which is double.
fn receive_buffer(asked: u64, granted: &io::Result<usize>) -> Finding {
    let title = "receive buffer";
    let usable = match granted {
        Ok(bytes) => u64::try_from(bytes / 2).unwrap_or(u64::MAX),
        Err(error) => {
            return Finding::new(
                Level::Warning,
                title,
                format!("No UDP socket on 127.0.0.1 to try it with: {error}."),
                "Check that the loopback interface is up.".to_owned(),
            );
        }
    };
    if usable >= asked {
        return Finding::ok(title, format!("{} KiB asked and granted", asked / 1_024));
    }
    Finding::new(
        Level::Warning,
        title,
        format!(
            "{} KiB asked, {} KiB granted: bursts of requests will be lost.",
            asked / 1_024,
            usable / 1_024
        ),
        format!("`sysctl -w net.core.rmem_max={asked}`, or give the process CAP_NET_ADMIN."),
    )
}

/// Sends announces to a steered pair of sockets on loopback and looks where they arrive.
fn try_steering() -> io::Result<()> {
    let sockets = bind_udp_group(LOOPBACK, 2, 0).map_err(|error| error.source)?;
    let [first, second] = &sockets[..] else {
        return Err(io::Error::other("the group has not two sockets"));
    };
    // Any keys will do: nobody attacks this one.
    let mut rng = Rng::new(1);
    let keys: [u32; HALFWORDS + 1] = std::array::from_fn(|_| rng.below(u32::MAX));
    let owner = Owner::new(keys, 2);
    steering::attach(first.as_fd(), &owner)?;

    let sender = UdpSocket::bind(LOOPBACK)?;
    let address = first.local_addr()?;
    for _ in 0..STEERING_PACKETS {
        sender.send_to(&announce(&mut rng), address)?;
    }
    let give_up = Instant::now() + STEERING_PATIENCE;
    let mut arrived = 0;
    while arrived < STEERING_PACKETS {
        if Instant::now() > give_up {
            return Err(io::Error::other(format!(
                "{arrived} of {STEERING_PACKETS} datagrams arrived"
            )));
        }
        for (core, socket) in [first, second].into_iter().enumerate() {
            let mut packet = [0; 98];
            while socket.recv(&mut packet).is_ok() {
                let info_hash = InfoHash(std::array::from_fn(|i| packet[16 + i]));
                if owner.core(&info_hash).index() != core {
                    return Err(io::Error::other("a datagram arrived at the wrong socket"));
                }
                arrived += 1;
            }
        }
        if arrived < STEERING_PACKETS {
            thread::sleep(Duration::from_millis(1));
        }
    }
    Ok(())
}

/// The bytes of an announce that matter to steering (BEP 15): the action and a random `info_hash`.
fn announce(rng: &mut Rng) -> [u8; 98] {
    let mut packet = [0; 98];
    packet[11] = 1;
    for byte in &mut packet[16..36] {
        *byte = u8::try_from(rng.below(256)).unwrap_or(0);
    }
    packet
}

/// Judges the trial of the steering.
fn reuseport_steering(outcome: &io::Result<()>) -> Finding {
    let title = "steering";
    match outcome {
        Ok(()) => Finding::ok(title, "datagrams arrive at the core that owns them".to_owned()),
        Err(error) => Finding::new(
            Level::Warning,
            title,
            format!("Datagrams are not steered to their core: {error}. They take one hop more."),
            "Nothing breaks; for full speed use a kernel with SO_ATTACH_REUSEPORT_CBPF (gVisor has \
             none) and a loopback interface that is up."
                .to_owned(),
        ),
    }
}

/// Judges the CPUs that this process may use (0 if unknown) against the workers.
fn cpus(allowed: usize, workers: usize) -> Finding {
    let title = "CPUs";
    if allowed == 0 {
        return Finding::new(
            Level::Warning,
            title,
            "The CPUs that this process may use are not readable: workers are not pinned.".into(),
            "Allow sched_getaffinity in the system call filter.".to_owned(),
        );
    }
    if workers > allowed {
        return Finding::new(
            Level::Warning,
            title,
            format!("{workers} workers share {allowed} CPUs, and wait for each other."),
            format!("Configure at most {allowed} workers, or allow more CPUs (taskset, cpuset)."),
        );
    }
    Finding::ok(title, format!("{allowed} allowed, {workers} used by workers"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::probe::Cause;

    const SETTINGS: Settings = Settings {
        workers: 2,
        receive_buffer_bytes: 64 * 1_024,
        sockets: 4,
        max_connections: 1_000,
    };

    #[test]
    fn the_rendered_text_is_aligned_and_wrapped() {
        let findings = [
            Finding::ok("a", "fine".to_owned()),
            Finding::new(
                Level::Problem,
                "longer title",
                "word ".repeat(30).trim().to_owned(),
                "Do this.".to_owned(),
            ),
            Finding::new(Level::Warning, "b", "so so".to_owned(), "path ".repeat(25)),
        ];
        let words = |word: &str, count: usize| vec![word; count].join(" ");
        let expected = format!(
            "ok       a             fine\n\
             problem  longer title  {}\n\
             \x20                      {}\n\
             \x20                      -> Do this.\n\
             warning  b             so so\n\
             \x20                      -> {}\n\
             \x20                         {}\n",
            words("word", 15),
            words("word", 15),
            words("path", 15),
            words("path", 10),
        );
        assert_eq!(render(&findings), expected);
        assert_eq!(render(&[]), "");
        assert_eq!(render(&[Finding::ok("t", String::new())]), "ok       t\n");
    }

    #[test]
    fn a_word_too_long_for_a_line_stands_alone() {
        assert_eq!(wrap("aa bbbbbb cc", 3), ["aa", "bbbbbb", "cc"]);
        assert_eq!(wrap("aa bbbbbb cc", 0), ["aa", "bbbbbb", "cc"]);
    }

    #[test]
    fn the_worst_is_the_greatest() {
        let finding = |level| Finding::new(level, "t", String::new(), String::new());
        assert_eq!(worst(&[]), Level::Ok);
        let all = [Level::Warning, Level::Problem, Level::Ok].map(finding);
        assert_eq!(worst(&all), Level::Problem);
        assert_eq!(worst(&all[..1]), Level::Warning);
    }

    #[test]
    fn programs_are_told_the_same_with_the_worst_level() {
        let findings = [
            Finding::ok("a", "fine".to_owned()),
            Finding::new(Level::Warning, "b", "so \"so\"".to_owned(), "Mend it.".to_owned()),
        ];
        let text = json(&findings);
        assert!(text.ends_with("}\n"), "{text}");
        let read: serde_json::Value = serde_json::from_str(&text).expect("it is JSON");
        let expected = serde_json::json!({
            "findings": [
                {"level": "ok", "title": "a", "detail": "fine", "remedy": null},
                {"level": "warning", "title": "b", "detail": "so \"so\"", "remedy": "Mend it."},
            ],
            "worst": "warning",
        });
        assert_eq!(read, expected);
        let nothing: serde_json::Value = serde_json::from_str(&json(&[])).expect("it is JSON");
        assert_eq!(nothing, serde_json::json!({"findings": [], "worst": "ok"}));
    }

    pub(super) fn remedy(finding: &Finding) -> &str {
        finding.remedy.as_deref().unwrap_or_default()
    }

    /// Only what is not as it should be has a remedy.
    pub(super) fn level(finding: Finding) -> Level {
        assert_eq!(finding.remedy.is_none(), finding.level == Level::Ok, "{finding:?}");
        finding.level
    }

    #[test]
    fn kernels_are_judged_by_version() {
        assert_eq!(level(kernel(Some((6, 1)))), Level::Ok);
        assert_eq!(level(kernel(Some((7, 0)))), Level::Ok);
        assert_eq!(level(kernel(Some((6, 0)))), Level::Problem);
        assert_eq!(level(kernel(Some((5, 15)))), Level::Problem);
        assert_eq!(level(kernel(None)), Level::Warning);
    }

    #[test]
    fn a_refused_ring_is_a_problem_with_the_cause_and_its_remedy() {
        assert_eq!(level(io_uring(&Ok(()))), Level::Ok);
        let errno = rustix::io::Errno::PERM.into();
        let cause = Cause::Sysctl(2);
        let finding = io_uring(&Err(RingRefusal { step: "trying", errno, cause }));
        assert!(finding.detail.contains("trying failed: Operation not permitted"));
        assert!(finding.detail.contains("kernel.io_uring_disabled is 2"));
        assert!(finding.remedy.as_ref().is_some_and(|text| text.contains("sysctl -w")));
        assert_eq!(level(finding), Level::Problem);
    }

    #[test]
    fn locked_memory_must_reach_what_glommio_demands_and_hold_the_rings() {
        let judge =
            |kib: u64, free, workers| level(locked_memory(Some(kib * 1_024), free, workers));
        assert_eq!(level(locked_memory(None, false, 256)), Level::Ok);
        assert_eq!(judge(0, true, 1), Level::Problem);
        assert_eq!(judge(511, true, 1), Level::Problem);
        assert_eq!(judge(512, true, 256), Level::Ok);
        assert_eq!(judge(512, false, 1), Level::Warning);
        assert_eq!(judge(8_192, false, 8), Level::Ok);
        assert_eq!(judge(8_192, false, 9), Level::Warning);
    }

    #[test]
    fn open_files_are_judged_by_both_limits() {
        let needed = files_needed(&SETTINGS, 1_024);
        assert_eq!(needed, 1_000 + 4 + 2 * 64 + 32 + 37);
        assert_eq!(files_needed(&SETTINGS, needed), needed, "what is advised is enough");
        assert_eq!(files_needed(&SETTINGS, 20_000), 1_000 + 4 + 2 * 64 + 32 + 256);
        let judge = |current, maximum| level(open_files(&Rlimit { current, maximum }, needed));
        assert_eq!(judge(Some(needed), Some(needed)), Level::Ok);
        assert_eq!(judge(None, None), Level::Ok);
        assert_eq!(judge(Some(needed - 1), Some(needed)), Level::Warning);
        assert_eq!(judge(Some(needed - 1), None), Level::Warning);
        assert_eq!(judge(Some(needed - 1), Some(needed - 1)), Level::Problem);
        let endless = Settings { max_connections: usize::MAX, workers: usize::MAX, ..SETTINGS };
        assert_eq!(files_needed(&endless, 1_024), u64::MAX);
        for (files, operators) in [(0, 8), (64, 8), (1_024, 32), (20_000, 256), (u64::MAX, 256)] {
            assert_eq!(admin_connections(files), operators);
        }
    }

    #[test]
    fn a_receive_buffer_below_what_was_asked_is_a_warning() {
        assert_eq!(level(receive_buffer(1_000, &Ok(2_000))), Level::Ok);
        assert_eq!(level(receive_buffer(1_000, &Ok(1_998))), Level::Warning);
        assert_eq!(level(receive_buffer(0, &Ok(0))), Level::Ok);
        assert_eq!(level(receive_buffer(1, &Err(io::Error::other("none")))), Level::Warning);
        let finding = receive_buffer(8 << 20, &Ok(425_984));
        assert!(finding.remedy.is_some_and(|text| text.contains("net.core.rmem_max=8388608")));
    }

    #[test]
    fn refused_steering_is_a_warning() {
        assert_eq!(level(reuseport_steering(&Ok(()))), Level::Ok);
        let refused = rustix::io::Errno::NOPROTOOPT.into();
        assert_eq!(level(reuseport_steering(&Err(refused))), Level::Warning);
    }

    #[test]
    fn workers_without_a_cpu_each_are_a_warning() {
        assert_eq!(level(cpus(2, 2)), Level::Ok);
        assert_eq!(level(cpus(2, 3)), Level::Warning);
        assert_eq!(level(cpus(0, 1)), Level::Warning);
    }

    #[test]
    fn this_machine_is_fit_or_says_why_not() {
        let findings = machine(&SETTINGS);
        let text = render(&findings);
        for title in ["io_uring", "steering"] {
            let finding = findings.iter().find(|finding| finding.title == title);
            let finding = finding.unwrap_or_else(|| panic!("{title} was not looked at"));
            let explained = finding.remedy.as_ref().is_some_and(|remedy| !remedy.is_empty());
            assert!(finding.level == Level::Ok || explained, "{text}");
        }
    }
}
