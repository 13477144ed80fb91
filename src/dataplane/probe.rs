//! Whether this machine lets us use io_uring, and if not, why and what to do about it.
//!
//! The test itself is `ring::probe`; here is its explanation. The kernel answers with one number
//! that has many causes, and glommio's panic blames the kernel's age for all of them. Decides from
//! facts handed in ([`explain`] is pure); never guesses where the facts say nothing.

use std::fmt;
use std::io;

use rustix::io::Errno;

use crate::dataplane::ring;

/// The first kernel with all that the data plane needs: DEFER_TASKRUN and sends with an address.
pub const KERNEL_MIN: (u32, u32) = (6, 1);
/// The first kernel whose io_uring_setup knows our flags but not DEFER_TASKRUN; before it, "no such
/// system call" needs no further explanation.
const KERNEL_OLD: (u32, u32) = (6, 0);
/// `Seccomp:` in /proc/self/status for a process under a filter.
const SECCOMP_FILTER: u8 = 2;

/// A refused self-test: what was tried, what the kernel said, and why it probably said so.
#[derive(Debug)]
pub struct RingRefusal {
    /// What was tried.
    pub step: &'static str,
    /// What the kernel said.
    pub errno: io::Error,
    /// Why, as far as the facts tell.
    pub cause: Cause,
}

/// Why io_uring is refused.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Cause {
    /// `kernel.io_uring_disabled` has this value: 1 allows it to one group, 2 to nobody.
    Sysctl(u8),
    /// A system call filter: a container's or systemd's.
    Seccomp,
    /// This kernel, older than [`KERNEL_MIN`].
    OldKernel {
        /// 6 of 6.1.
        major: u32,
        /// 1 of 6.1.
        minor: u32,
    },
    /// RLIMIT_MEMLOCK is used up.
    LockedMemory {
        /// The limit in bytes; none if it is unlimited or unknown.
        limit: Option<u64>,
    },
    /// RLIMIT_NOFILE is used up.
    OpenFiles,
    /// The test sends to itself, and there is no loopback interface that is up.
    NoLoopback,
    /// The facts do not tell.
    Unknown,
}

/// Tests whether io_uring does all that the data plane needs; about a millisecond.
///
/// # Errors
/// The first step that failed, explained.
pub fn io_uring() -> Result<(), RingRefusal> {
    ring::probe::run().map_err(|(step, errno)| {
        let limits = rustix::process::getrlimit(rustix::process::Resource::Memlock);
        let cause = explain(
            &errno,
            io_uring_disabled(),
            seccomp_mode(),
            kernel_version().unwrap_or((0, 0)),
            limits.current,
        );
        RingRefusal { step, errno, cause }
    })
}

/// Why the kernel said `errno`, from what the machine says about itself: the sysctl
/// `kernel.io_uring_disabled`, the `Seccomp:` mode of this process, the kernel's version (0.0 if
/// unknown), and RLIMIT_MEMLOCK (none if unlimited).
#[must_use]
pub fn explain(
    errno: &io::Error,
    io_uring_disabled: Option<u8>,
    seccomp_mode: Option<u8>,
    kernel: (u32, u32),
    memlock_bytes: Option<u64>,
) -> Cause {
    let filtered = seccomp_mode == Some(SECCOMP_FILTER);
    let known = kernel != (0, 0);
    let old = Cause::OldKernel { major: kernel.0, minor: kernel.1 };
    match (Errno::from_io_error(errno), io_uring_disabled) {
        (Some(Errno::PERM), Some(mode @ (1 | 2))) => Cause::Sysctl(mode),
        (Some(Errno::PERM), _) if filtered => Cause::Seccomp,
        // gVisor knows no io_uring; it calls itself 4.4, so that it comes out as an old kernel.
        (Some(Errno::NOSYS), _) if known && kernel < KERNEL_OLD => old,
        (Some(Errno::NOSYS), _) if filtered => Cause::Seccomp,
        (Some(Errno::INVAL), _) if known && kernel < KERNEL_MIN => old,
        (Some(Errno::NOMEM), _) => Cause::LockedMemory { limit: memlock_bytes },
        (Some(Errno::MFILE), _) => Cause::OpenFiles,
        (Some(Errno::NETUNREACH | Errno::NETDOWN | Errno::ADDRNOTAVAIL), _) => Cause::NoLoopback,
        _ => Cause::Unknown,
    }
}

/// The sysctl `kernel.io_uring_disabled`; none before Linux 6.6.
fn io_uring_disabled() -> Option<u8> {
    std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok()?.trim().parse().ok()
}

/// The seccomp mode of this process: 0 none, 2 a filter.
fn seccomp_mode() -> Option<u8> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    status.lines().find_map(|line| line.strip_prefix("Seccomp:"))?.trim().parse().ok()
}

/// The running kernel's version: (6, 18) of "6.18.44-generic".
#[must_use]
pub fn kernel_version() -> Option<(u32, u32)> {
    parse_version(rustix::system::uname().release().to_str().ok()?)
}

/// The first two numbers of a kernel release.
fn parse_version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

impl RingRefusal {
    /// What the operator can do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self.cause {
            Cause::Sysctl(_) => {
                "As root run `sysctl -w kernel.io_uring_disabled=0`, or with the value 1 put this \
                 user into the group named by `kernel.io_uring_group`."
            }
            Cause::Seccomp => {
                "Docker 25 and later, podman and containerd deny io_uring by default: run the \
                 container with `--security-opt seccomp=PROFILE.json`, a profile that allows \
                 io_uring_setup, io_uring_enter and io_uring_register (in Kubernetes a \
                 `seccompProfile` of type Localhost); `seccomp=unconfined` shows whether that is \
                 it. In a systemd unit with SystemCallFilter= \
                 add the same three calls."
            }
            Cause::OldKernel { .. } => {
                "Upgrade the kernel to 6.1 or later. gVisor has no io_uring: use another runtime."
            }
            Cause::LockedMemory { .. } => {
                "Raise the limit: `LimitMEMLOCK=infinity` in the systemd unit, `--ulimit \
                 memlock=-1` for a container, `ulimit -l` in a shell; or free some memory."
            }
            Cause::OpenFiles => {
                "Raise the limit: `LimitNOFILE=` in the systemd unit, `--ulimit nofile=` for a \
                 container, `ulimit -n` in a shell."
            }
            Cause::NoLoopback => {
                "Run `ip link set lo up` in this network namespace; io_uring itself may be fine."
            }
            Cause::Unknown => {
                "Look for a security module (SELinux, AppArmor, BPF LSM) that denies io_uring, for \
                 a kernel built without CONFIG_IO_URING, and for messages in `dmesg`; use Linux \
                 6.1 or later."
            }
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor) = KERNEL_MIN;
        match self {
            Self::Sysctl(1) => {
                f.write_str("the sysctl kernel.io_uring_disabled is 1, and this user is not exempt")
            }
            Self::Sysctl(mode) => write!(f, "the sysctl kernel.io_uring_disabled is {mode}"),
            Self::Seccomp => f.write_str("a seccomp filter denies the system call"),
            Self::OldKernel { major: 4, minor: 4 } => {
                write!(f, "Linux 4.4 is too old ({major}.{minor} is needed), or this is gVisor")
            }
            Self::OldKernel { major: old_major, minor: old_minor } => {
                write!(f, "Linux {old_major}.{old_minor} is too old: {major}.{minor} is needed")
            }
            Self::LockedMemory { limit: Some(limit) } => {
                write!(f, "the limit of locked memory, {} KiB, is used up", limit / 1_024)
            }
            Self::LockedMemory { limit: None } => {
                f.write_str("memory is used up (that which may be locked is not limited)")
            }
            Self::OpenFiles => f.write_str("the limit of open files is used up"),
            Self::NoLoopback => f.write_str("the loopback interface is not up"),
            Self::Unknown => f.write_str("unknown"),
        }
    }
}

impl fmt::Display for RingRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { step, errno, cause } = self;
        write!(f, "io_uring is not usable: {step} failed: {errno}. ")?;
        write!(f, "Likely cause: {cause}. {}", self.remedy())
    }
}

impl std::error::Error for RingRefusal {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.errno)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_has_its_cause() {
        const NEW: (u32, u32) = (6, 18);
        let old = |major, minor| Cause::OldKernel { major, minor };
        let memory = |limit| Cause::LockedMemory { limit };
        let table = [
            // errno, io_uring_disabled, seccomp, kernel, memlock, cause
            (Errno::PERM, Some(1), Some(0), NEW, None, Cause::Sysctl(1)),
            (Errno::PERM, Some(2), Some(2), NEW, None, Cause::Sysctl(2)),
            (Errno::PERM, Some(0), Some(2), NEW, None, Cause::Seccomp),
            (Errno::PERM, None, Some(2), (6, 1), None, Cause::Seccomp),
            (Errno::PERM, Some(0), Some(0), NEW, None, Cause::Unknown),
            (Errno::PERM, None, None, NEW, None, Cause::Unknown),
            (Errno::NOSYS, None, Some(0), (4, 4), None, old(4, 4)),
            (Errno::NOSYS, None, Some(2), (5, 15), None, old(5, 15)),
            (Errno::NOSYS, None, Some(2), (6, 0), None, Cause::Seccomp),
            (Errno::NOSYS, Some(0), Some(2), NEW, None, Cause::Seccomp),
            (Errno::NOSYS, Some(0), Some(0), NEW, None, Cause::Unknown),
            (Errno::NOSYS, None, None, (0, 0), None, Cause::Unknown),
            (Errno::INVAL, None, Some(0), (5, 19), None, old(5, 19)),
            (Errno::INVAL, None, Some(0), (6, 0), None, old(6, 0)),
            (Errno::INVAL, None, Some(0), (6, 1), None, Cause::Unknown),
            (Errno::INVAL, None, Some(0), (0, 0), None, Cause::Unknown),
            (Errno::NOMEM, Some(0), Some(0), NEW, Some(65_536), memory(Some(65_536))),
            (Errno::NOMEM, Some(2), Some(2), (5, 4), None, memory(None)),
            (Errno::MFILE, Some(0), Some(0), NEW, None, Cause::OpenFiles),
            (Errno::NETUNREACH, Some(0), Some(0), NEW, None, Cause::NoLoopback),
            (Errno::ACCESS, Some(0), Some(0), NEW, None, Cause::Unknown),
        ];
        for (errno, disabled, seccomp, kernel, memlock, cause) in table {
            let found = explain(&errno.into(), disabled, seccomp, kernel, memlock);
            assert_eq!(found, cause, "{errno:?} {disabled:?} {seccomp:?} {kernel:?}");
        }
        let not_from_the_kernel = io::Error::other("ours");
        assert_eq!(explain(&not_from_the_kernel, None, None, NEW, None), Cause::Unknown);
    }

    #[test]
    fn a_refusal_says_what_why_and_what_to_do_in_one_paragraph() {
        let causes = [
            (Cause::Sysctl(1), "sysctl -w kernel.io_uring_disabled=0"),
            (Cause::Sysctl(2), "sysctl -w kernel.io_uring_disabled=0"),
            (Cause::Seccomp, "--security-opt seccomp="),
            (Cause::OldKernel { major: 5, minor: 15 }, "Linux 5.15 is too old: 6.1 is needed"),
            (Cause::OldKernel { major: 4, minor: 4 }, "gVisor"),
            (Cause::LockedMemory { limit: Some(65_536) }, "64 KiB"),
            (Cause::LockedMemory { limit: None }, "LimitMEMLOCK"),
            (Cause::OpenFiles, "LimitNOFILE"),
            (Cause::NoLoopback, "ip link set lo up"),
            (Cause::Unknown, "CONFIG_IO_URING"),
        ];
        for (cause, text) in causes {
            let refusal = RingRefusal { step: "io_uring_setup", errno: Errno::PERM.into(), cause };
            let shown = refusal.to_string();
            assert!(shown.contains("io_uring_setup failed: Operation not permitted"), "{shown}");
            assert!(shown.contains(text), "{shown}");
            assert!(!shown.contains('\n') && !shown.contains("  "), "{shown}");
        }
    }

    #[test]
    fn releases_are_read_as_versions() {
        let table = [
            ("6.18.44-fc-v669", Some((6, 18))),
            ("6.1", Some((6, 1))),
            ("5.15.0-91-generic", Some((5, 15))),
            ("4.4.0", Some((4, 4))),
            ("6.8-rc1", Some((6, 8))),
            ("six", None),
            ("6", None),
            ("", None),
        ];
        for (release, version) in table {
            assert_eq!(parse_version(release), version, "{release}");
        }
        assert!(kernel_version().is_some());
    }

    #[test]
    fn the_self_test_passes_or_explains_itself() {
        // Many times, since it must leave nothing behind that disturbs the next.
        for _ in 0..50 {
            if let Err(refusal) = io_uring() {
                assert_ne!(refusal.cause, Cause::Unknown, "{refusal}");
                return;
            }
        }
    }

    #[test]
    fn self_tests_side_by_side_do_not_disturb_each_other() {
        let alone = io_uring().map_err(|refusal| refusal.to_string());
        let beside = || std::thread::spawn(|| io_uring().map_err(|refusal| refusal.to_string()));
        for outcome in [beside(), beside(), beside()] {
            assert_eq!(outcome.join().expect("no panic"), alone);
        }
    }
}
