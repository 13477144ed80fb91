//! What stands between the tracker and its peers, and between its operators and others.
//!
//! The kernel's table of connections and its queues of new connections; then the access lists and
//! the doors for operators. What reads takes its paths, and what judges takes values, so that the
//! tests call both. What the kernel does not say is left out. Must not change anything.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::cards;
use crate::config::{Admin, AdminListen, Config};
use crate::control::finding::{Finding, Level};
use crate::control::kernel::Reader;
use crate::control::lists::{self, ListError, Lists, Name, Status};
use crate::tracker::access::Access;

/// Entries of the table of connections that are advised at the least: peers of a tracker are
/// counted in hundreds of thousands.
const TRACKED_MIN: u64 = 1_048_576;
/// Handshakes under way that the kernel should bear at a listener: at 100 ms each, those of ten
/// thousand new connections a second.
const HANDSHAKES_MIN: u64 = 1_024;
/// Bits of a file's mode by which others than its owner may use it.
const MODE_OTHERS: u32 = 0o077;

/// Looks at the kernel's settings and at the network cards.
///
/// `backlog` is how many connections each HTTP listener lets wait to be accepted.
#[must_use]
pub fn machine(config: &Config, workers: usize, backlog: i32) -> Vec<Finding> {
    let settings = Path::new("/proc/sys/net");
    let ports: Vec<u16> = config.udp.listen.iter().map(SocketAddr::port).collect();
    let mut findings = vec![conntrack(tracked(&settings.join("netfilter")), &ports)];
    if !config.http.listen.is_empty() {
        let backlog = u64::try_from(backlog).unwrap_or(0);
        let somaxconn = number(&settings.join("core/somaxconn"));
        findings.extend(somaxconn.map(|most| accept_queue(most, backlog)));
        findings.extend(number(&settings.join("ipv4/tcp_max_syn_backlog")).map(handshakes));
        let counted = Reader::new(Vec::new(), 0).read();
        findings.extend(lost_connections(counted.listen_drops, counted.listen_overflows));
    }
    findings.extend(cards::machine(workers));
    findings
}

/// Reads the access lists as the tracker would; those without a file have no finding.
#[must_use]
pub fn access_lists(files: &[Option<PathBuf>; 3]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for name in Name::ALL {
        // Each by itself: a bad one does not hide another.
        let mut alone = <[Option<PathBuf>; 3]>::default();
        alone[name as usize].clone_from(&files[name as usize]);
        match status(alone) {
            Ok(lists) => findings.extend(lists.iter().map(good_list)),
            Err(error) => findings.push(bad_list(name, &error)),
        }
    }
    findings
}

/// Looks at who can reach the admin listeners, and who can read what opens them.
#[must_use]
pub fn admin(admin: &Admin) -> Vec<Finding> {
    let has_token = !admin.token.is_empty() || !admin.token_file.is_empty();
    let mut findings: Vec<Finding> =
        admin.listen.iter().map(|listen| door(listen, has_token)).collect();
    if !admin.token_file.is_empty() {
        let path = Path::new(&admin.token_file);
        let mode = fs::metadata(path).map(|file| file.permissions().mode());
        findings.push(token_file(path, &mode));
    }
    findings
}

/// The number that is all of a file.
fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The kernel's table of connections, of this network namespace.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Tracked {
    entries: u64,
    entries_max: u64,
}

/// The table of connections; `None` if the kernel has no such part, or has not loaded it.
fn tracked(folder: &Path) -> Option<Tracked> {
    let entries = number(&folder.join("nf_conntrack_count"))?;
    Some(Tracked { entries, entries_max: number(&folder.join("nf_conntrack_max"))? })
}

/// Judges the table of connections against the UDP ports that are listened on.
///
/// Whether a rule exempts them already cannot be seen without the right to read the rules.
fn conntrack(table: Option<Tracked>, ports: &[u16]) -> Finding {
    let title = "conntrack";
    let Some(Tracked { entries, entries_max }) = table else {
        return Finding::ok(title, "the kernel has no table of connections".to_owned());
    };
    // Port 0 is any free one, which no rule can name.
    let mut ports: Vec<u16> = ports.iter().copied().filter(|&port| port > 0).collect();
    ports.sort_unstable();
    ports.dedup();
    let port = match &ports[..] {
        [] => return Finding::ok(title, "there is no UDP port to take out of it".to_owned()),
        [port] => port.to_string(),
        // Quoted for the shell, to which braces mean something.
        ports => {
            let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
            format!("'{{ {} }}'", ports.join(", "))
        }
    };
    let detail = format!(
        "The kernel has a table of connections, {entries} of {entries_max} entries in use. Unless \
         rules take the tracker's datagrams out of it, every source takes an entry, and what finds \
         no room is dropped."
    );
    let raised = TRACKED_MIN.max(entries_max.saturating_mul(2));
    let remedy = format!(
        "`nft add table inet raw`, \
         `nft add chain inet raw prerouting '{{ type filter hook prerouting priority raw; }}'`, \
         `nft add chain inet raw output '{{ type filter hook output priority raw; }}'`, \
         `nft add rule inet raw prerouting udp dport {port} notrack`, \
         `nft add rule inet raw output udp sport {port} notrack` (iptables: `-j CT --notrack` in \
         table raw); a firewall has to accept what is then untracked. Or raise the bound: \
         `sysctl -w net.netfilter.nf_conntrack_max={raised}`."
    );
    Finding::new(Level::Warning, title, detail, remedy)
}

/// Judges net.core.somaxconn against the connections that a listener lets wait.
fn accept_queue(most: u64, backlog: u64) -> Finding {
    let title = "accept queue";
    if most >= backlog {
        return Finding::ok(title, format!("{backlog} connections may wait at each listener"));
    }
    Finding::new(
        Level::Warning,
        title,
        format!(
            "{backlog} connections are to wait at each listener, and net.core.somaxconn allows \
             {most}: the rest of a crowd is dropped."
        ),
        format!("`sysctl -w net.core.somaxconn={backlog}`, and start throng again."),
    )
}

/// Judges net.ipv4.tcp_max_syn_backlog, which counts for IPv6 too.
fn handshakes(most: u64) -> Finding {
    let title = "handshakes";
    if most >= HANDSHAKES_MIN {
        return Finding::ok(title, format!("{most} may be under way at each listener"));
    }
    Finding::new(
        Level::Warning,
        title,
        format!(
            "net.ipv4.tcp_max_syn_backlog is {most}: where SYN cookies are off, new clients are \
             dropped once three quarters of that many handshakes are under way at a listener."
        ),
        format!("`sysctl -w net.ipv4.tcp_max_syn_backlog={HANDSHAKES_MIN}`, or more."),
    )
}

/// Judges what the kernel has counted of connections that nobody came to accept.
fn lost_connections(drops: Option<u64>, overflows: Option<u64>) -> Option<Finding> {
    let title = "lost connections";
    // An overflow counts as a drop, too.
    let drops = drops.max(overflows)?;
    if drops == 0 {
        return Some(Finding::ok(title, "none since boot".to_owned()));
    }
    let overflows = overflows.unwrap_or(0);
    Some(Finding::new(
        Level::Warning,
        title,
        format!(
            "Connections that were dropped before a program accepted them, since boot and of all \
             programs: {drops}. A full accept queue was the reason for {overflows} of them."
        ),
        "See whether it still grows: `nstat -asz TcpExtListenDrops TcpExtListenOverflows`. If it \
         does, raise net.core.somaxconn and net.ipv4.tcp_max_syn_backlog, and see what keeps the \
         CPUs busy."
            .to_owned(),
    ))
}

/// What the tracker would have of these lists.
fn status(files: [Option<PathBuf>; 3]) -> Result<Vec<Status>, ListError> {
    let access = lists::read(&files)?;
    Ok(Lists::new(files, access, Box::new(|_: &Access| ())).status())
}

const LIST: &str = "access list";

fn good_list(status: &Status) -> Finding {
    let Status { list, entries, bytes, .. } = status;
    let key = list.key();
    Finding::ok(LIST, format!("{key}: entries {entries}, bytes of memory {bytes}"))
}

fn bad_list(name: Name, error: &ListError) -> Finding {
    let key = name.key();
    let remedy = match error {
        ListError::Line { .. } => "Mend the line, or put # before it.".to_owned(),
        _ => format!("Put the file there and let the tracker's user read it, or change {key}."),
    };
    Finding::new(Level::Problem, LIST, format!("{error}."), remedy)
}

/// Judges one admin listener.
fn door(listen: &AdminListen, has_token: bool) -> Finding {
    let title = "admin";
    let port = match listen {
        AdminListen::Unix(_) => {
            return Finding::ok(title, format!("{listen}: all for those who may open the socket"));
        }
        AdminListen::Address(_) if listen.is_local() => {
            let who = if has_token {
                "for those on this machine who show the token"
            } else {
                "everybody on this machine may read, and nobody change anything"
            };
            return Finding::ok(title, format!("{listen}: {who}"));
        }
        AdminListen::Address(address) => address.port(),
    };
    if !has_token {
        // The configuration's own rules refuse it before.
        let detail = format!("{listen}: others can reach it, and no token guards it.");
        return Finding::new(Level::Problem, title, detail, "Set admin.token_file.".to_owned());
    }
    Finding::new(
        Level::Warning,
        title,
        format!("{listen}: the token goes over the network as it is, for anybody to read there."),
        format!(
            "Listen on 127.0.0.1:{port}, and put a proxy with TLS before it or use a tunnel: \
             `ssh -L {port}:127.0.0.1:{port} HOST`."
        ),
    )
}

/// Judges the mode of the file with the token.
fn token_file(path: &Path, mode: &io::Result<u32>) -> Finding {
    let title = "admin token";
    let path = path.display();
    match mode {
        Ok(mode) if mode & MODE_OTHERS == 0 => {
            Finding::ok(title, format!("{path} is for its owner alone"))
        }
        Ok(mode) => Finding::new(
            Level::Warning,
            title,
            format!("{path} has mode {:03o}: others than its owner may use it.", mode & 0o777),
            format!(
                "`chmod 600 {path}`, with the tracker's user as its owner; or let systemd hand it \
                 over: LoadCredential=token:{path}."
            ),
        ),
        Err(error) => Finding::new(
            Level::Problem,
            title,
            format!("{path}: {error}."),
            "Put the file there and let the tracker's user read it, or change admin.token_file."
                .to_owned(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::tests::{level, remedy};

    #[test]
    fn a_table_of_connections_is_a_warning_with_rules_for_each_port() {
        let table = Some(Tracked { entries: 12, entries_max: 65_536 });
        assert_eq!(level(conntrack(None, &[6_969])), Level::Ok);
        assert_eq!(level(conntrack(table, &[])), Level::Ok);
        assert_eq!(level(conntrack(table, &[0])), Level::Ok);

        let one = conntrack(table, &[6_969, 6_969]);
        assert!(one.detail.contains("12 of 65536 entries"), "{}", one.detail);
        for part in [
            "`nft add table inet raw`",
            "`nft add chain inet raw prerouting '{ type filter hook prerouting priority raw; }'`",
            "`nft add chain inet raw output '{ type filter hook output priority raw; }'`",
            "`nft add rule inet raw prerouting udp dport 6969 notrack`",
            "`nft add rule inet raw output udp sport 6969 notrack`",
            "nf_conntrack_max=1048576`",
        ] {
            assert!(remedy(&one).contains(part), "{part} is not in: {}", remedy(&one));
        }
        assert_eq!(level(one), Level::Warning);

        let table = Some(Tracked { entries: 0, entries_max: 1_000_000 });
        let two = conntrack(table, &[7_000, 0, 6_969, 7_000]);
        assert!(remedy(&two).contains("udp dport '{ 6969, 7000 }' notrack"), "{}", remedy(&two));
        assert!(remedy(&two).contains("nf_conntrack_max=2000000`"), "{}", remedy(&two));
        let endless = Some(Tracked { entries: 0, entries_max: u64::MAX });
        assert_eq!(level(conntrack(endless, &[1])), Level::Warning);
    }

    #[test]
    fn a_table_that_is_not_loaded_is_none() {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: &str| {
            fs::write(folder.path().join(name), text).expect("ours");
        };
        assert_eq!(tracked(folder.path()), None);
        write("nf_conntrack_count", "17\n");
        assert_eq!(tracked(folder.path()), None);
        write("nf_conntrack_max", "262144\n");
        let table = Tracked { entries: 17, entries_max: 262_144 };
        assert_eq!(tracked(folder.path()), Some(table));
        write("nf_conntrack_count", "many\n");
        assert_eq!(tracked(folder.path()), None);
    }

    #[test]
    fn queues_of_new_connections_that_are_short_are_a_warning() {
        assert_eq!(level(accept_queue(4_096, 4_096)), Level::Ok);
        let short = accept_queue(4_095, 4_096);
        assert!(remedy(&short).contains("`sysctl -w net.core.somaxconn=4096`"));
        assert_eq!(level(short), Level::Warning);
        assert_eq!(level(handshakes(1_024)), Level::Ok);
        let short = handshakes(1_023);
        assert!(remedy(&short).contains("`sysctl -w net.ipv4.tcp_max_syn_backlog=1024`"));
        assert_eq!(level(short), Level::Warning);
    }

    #[test]
    fn lost_connections_are_counted() {
        assert_eq!(lost_connections(None, None), None);
        let judge = |drops, overflows| level(lost_connections(drops, overflows).expect("counted"));
        assert_eq!(judge(Some(0), Some(0)), Level::Ok);
        assert_eq!(judge(Some(0), None), Level::Ok);
        assert_eq!(judge(Some(1), None), Level::Warning);
        assert_eq!(judge(None, Some(1)), Level::Warning);
        let finding = lost_connections(Some(34), Some(5)).expect("counted");
        assert!(finding.detail.contains("programs: 34."), "{}", finding.detail);
        assert!(finding.detail.contains("for 5 of them"), "{}", finding.detail);
    }

    #[test]
    fn each_list_is_read_and_a_bad_one_hides_no_other() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::write(&path, text).expect("ours");
            Some(path)
        };
        assert_eq!(access_lists(&[None, None, None]), []);
        let allow = file("allow", &format!("{}\n{}\n", "a".repeat(40), "b".repeat(40)));
        let deny = file("deny", "# none\nbad\n");
        let missing = Some(folder.path().join("ban"));
        let findings = access_lists(&[allow, deny, missing]);
        let [allow, deny, ban] = &findings[..] else { panic!("{findings:?}") };
        assert!(allow.detail.starts_with("access.allow: entries 2, "), "{}", allow.detail);
        assert!(allow.detail.contains(", bytes of memory "), "{}", allow.detail);
        assert!(deny.detail.contains("deny: line 2: an info_hash is 40 hex"), "{}", deny.detail);
        assert!(remedy(deny).contains("Mend the line"));
        assert!(ban.detail.starts_with("access.ban "), "{}", ban.detail);
        assert!(remedy(ban).contains("or change access.ban"));
        let levels: Vec<Level> = findings.into_iter().map(level).collect();
        assert_eq!(levels, [Level::Ok, Level::Problem, Level::Problem]);

        let ban = access_lists(&[None, None, file("ban", "192.0.2.0/24\n")]);
        assert!(ban[0].detail.starts_with("access.ban: entries 1, "), "{}", ban[0].detail);
    }

    #[test]
    fn doors_that_others_can_reach_are_not_as_they_should_be() {
        let judge =
            |listen: &str, has_token| level(door(&listen.parse().expect("a listener"), has_token));
        for local in ["127.0.0.1:6970", "[::1]:6970", "unix:/run/throng/admin"] {
            assert_eq!(judge(local, false), Level::Ok, "{local}");
            assert_eq!(judge(local, true), Level::Ok, "{local}");
        }
        for remote in ["0.0.0.0:6970", "[::]:6970", "192.0.2.1:6970"] {
            assert_eq!(judge(remote, true), Level::Warning, "{remote}");
            assert_eq!(judge(remote, false), Level::Problem, "{remote}");
        }
        let open = door(&"127.0.0.1:6970".parse().expect("a listener"), false);
        assert!(open.detail.contains("nobody change anything"));
        let remote = door(&"192.0.2.1:7000".parse().expect("a listener"), true);
        assert!(remedy(&remote).contains("`ssh -L 7000:127.0.0.1:7000 HOST`"));
    }

    #[test]
    fn a_token_that_others_may_read_is_a_warning() {
        let path = Path::new("/etc/throng/token");
        let judge = |mode| level(token_file(path, &Ok(mode)));
        for mode in [0o100_600, 0o100_400, 0o700] {
            assert_eq!(judge(mode), Level::Ok, "{mode:o}");
        }
        for mode in [0o100_640, 0o100_604, 0o100_620, 0o100_601] {
            assert_eq!(judge(mode), Level::Warning, "{mode:o}");
        }
        let open = token_file(path, &Ok(0o100_644));
        assert!(open.detail.contains("mode 644"), "{}", open.detail);
        assert!(remedy(&open).contains("`chmod 600 /etc/throng/token`"));
        let missing = token_file(path, &Err(io::ErrorKind::NotFound.into()));
        assert_eq!(level(missing), Level::Problem);
    }

    #[test]
    fn the_token_file_is_looked_at_where_it_is() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("token");
        let config = Admin { token_file: path.display().to_string(), ..Admin::default() };
        let levels = || admin(&config).into_iter().map(level).collect::<Vec<_>>();
        assert_eq!(levels(), [Level::Ok, Level::Problem]);
        fs::write(&path, "x".repeat(16)).expect("ours");
        for (mode, expected) in [(0o600, Level::Ok), (0o644, Level::Warning)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("ours");
            assert_eq!(levels(), [Level::Ok, expected], "{mode:o}");
        }
        let off = Admin { listen: Vec::new(), ..Admin::default() };
        assert_eq!(admin(&off), []);
    }

    #[test]
    fn this_machine_is_looked_at() {
        let findings = machine(&Config::default(), 2, 4_096);
        for title in ["conntrack", "receive queues"] {
            assert!(findings.iter().any(|finding| finding.title == title), "{findings:?}");
        }
        assert!(findings.into_iter().map(level).max() < Some(Level::Problem));
    }
}
