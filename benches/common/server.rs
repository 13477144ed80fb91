//! The program as a child on free loopback ports, ended by its pid.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// How long a start may take, and a stop.
const PATIENCE: Duration = Duration::from_secs(20);
/// Starts tried: a port that was free may be taken by the time it is used.
const STARTS: usize = 3;

/// A running tracker; it ends when this is dropped.
pub struct Server {
    child: Child,
    _folder: TempDir,
    /// Where it serves, over UDP and over HTTP.
    pub address: SocketAddr,
}

impl Server {
    /// Starts the program with one worker and waits until it serves. `None`, after saying so, where
    /// the kernel denies io_uring. Every peer counts as public, since the benches' are on loopback.
    ///
    /// # Panics
    /// If the program does not serve for any other reason.
    #[allow(dead_code, reason = "one of the benches needs a server of its own kind")]
    pub fn start() -> Option<Self> {
        Self::start_with(None, |_| Vec::new())
    }

    /// The same with a limit of open files, and with settings that depend on the address.
    ///
    /// # Panics
    /// If the program does not serve for any other reason.
    pub fn start_with(
        files: Option<u32>,
        settings: impl Fn(SocketAddr) -> Vec<String>,
    ) -> Option<Self> {
        let mut said = String::new();
        for _ in 0..STARTS {
            let (child, folder, address) = spawn(files, &settings);
            let mut server = Self { child, _folder: folder, address };
            match server.wait() {
                Ok(()) => return Some(server),
                Err(text) => said = text,
            }
            if said.contains("io_uring") {
                eprintln!("skipped, io_uring is denied here:\n{said}");
                return None;
            }
        }
        panic!("throng does not serve: {said}");
    }

    /// Its process.
    #[allow(dead_code, reason = "only one of the two benches measures the process")]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its admin listener.
    #[allow(dead_code, reason = "only one of the benches asks it")]
    pub fn admin(&self) -> SocketAddr {
        SocketAddr::new(self.address.ip(), self.address.port() + 1)
    }

    /// The sum of all series of a metric whose labels contain `label`.
    ///
    /// # Panics
    /// If there is none.
    #[allow(dead_code, reason = "only one of the benches asks it")]
    pub fn metric(&self, name: &str, label: &str) -> u64 {
        let page = page(self.admin(), "/metrics").expect("it answers");
        let names = [format!("throng_{name}{{"), format!("throng_{name}_total{{")];
        let is_meant =
            |line: &&str| names.iter().any(|name| line.starts_with(name)) && line.contains(label);
        let value = |line: &str| line.rsplit(' ').next().and_then(|value| value.parse().ok());
        let values: Option<Vec<u64>> = page.lines().filter(is_meant).map(value).collect();
        let values = values.filter(|values| !values.is_empty());
        values.unwrap_or_else(|| panic!("no {name} with {label}")).iter().sum()
    }

    /// Until `/health` says 200, or what the program said when it ended.
    fn wait(&mut self) -> Result<(), String> {
        let since = Instant::now();
        while since.elapsed() < PATIENCE {
            if page(self.admin(), "/health").is_ok_and(|page| page.starts_with("HTTP/1.1 200 ")) {
                return Ok(());
            }
            if let Ok(Some(status)) = self.child.try_wait() {
                let path = self._folder.path().join("stderr");
                let text = std::fs::read_to_string(path).unwrap_or_default();
                return Err(format!("{status}: {text}"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Err(format!("not healthy after {PATIENCE:?}"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let since = Instant::now();
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = pid.map(|pid| kill_process(pid, Signal::TERM));
        }
        while since.elapsed() < PATIENCE {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(
    files: Option<u32>,
    settings: &impl Fn(SocketAddr) -> Vec<String>,
) -> (Child, TempDir, SocketAddr) {
    let folder = tempfile::tempdir().expect("a folder");
    let port = free_ports();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let program = env!("CARGO_BIN_EXE_throng");
    let mut command = Command::new("sh");
    let limit = files.map_or(String::new(), |files| format!("ulimit -n {files}; "));
    command.args(["-c", &format!("{limit}exec \"$0\" \"$@\""), program, "run"]);
    let usual = [
        format!("udp.listen={address}"),
        format!("http.listen={address}"),
        format!("admin.listen={}:{}", address.ip(), port + 1),
        format!("state_dir={}", folder.path().display()),
        "workers=1".to_owned(),
        "announce.isolate_private_networks=false".to_owned(),
        "udp.connection_id_lifetime=2h".to_owned(),
        "log.level=warn".to_owned(),
    ];
    for setting in usual.into_iter().chain(settings(address)) {
        command.args(["--set", &setting]);
    }
    let log = File::create(folder.path().join("stderr")).expect("a file");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    (command.spawn().expect("the program starts"), folder, address)
}

/// A port that is free, and so is the next one.
fn free_ports() -> u16 {
    for _ in 0..100 {
        let first = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = first.local_addr().expect("it is bound").port();
        let next = port.checked_add(1).map(|next| TcpListener::bind((Ipv4Addr::LOCALHOST, next)));
        let udp = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, port));
        if matches!(next, Some(Ok(_))) && udp.is_ok() {
            return port;
        }
    }
    panic!("no two free ports in a row");
}

/// Head and body of an admin page.
fn page(admin: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&admin, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
