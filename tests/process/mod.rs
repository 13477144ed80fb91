//! The program as a child process: started on free loopback ports, watched, ended with its test.
//!
//! A child is ended through its own handle when its [`Throng`] goes, and every wait has a bound.
//! The ports are the kernel's choice (port 0), read from the child's log: no two tests can meet.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Signal, getrlimit, setrlimit};
use tempfile::TempDir;

/// How long anything may take that should take no time.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// Pause between two looks at something that will change.
const PAUSE: Duration = Duration::from_millis(5);

/// Why no child can be started on this machine; `None` if one can.
pub fn obstacle() -> Option<String> {
    static OBSTACLE: OnceLock<Option<String>> = OnceLock::new();
    // On a thread of its own: a ring that is torn down interrupts system calls of its thread.
    let look = || thread::spawn(find_obstacle).join().expect("it only looks");
    OBSTACLE.get_or_init(look).clone()
}

fn find_obstacle() -> Option<String> {
    if let Err(refusal) = throng::dataplane::probe::io_uring() {
        return Some(refusal.to_string());
    }
    // Tests side by side hold more descriptors than a shell may have for a start.
    let mut files = getrlimit(Resource::Nofile);
    files.current = files.maximum;
    let _ = setrlimit(Resource::Nofile, files);
    let v6 = TcpListener::bind("[::1]:0");
    v6.err().map(|error| format!("there is no IPv6 loopback: {error}"))
}

/// How a child is to be started.
#[derive(Default)]
pub struct Start<'a> {
    /// `SECTION.KEY=VALUE`, after those that every child has, so that these win.
    pub settings: &'a [&'a str],
    /// The limit of open files, soft and hard.
    pub files: Option<u32>,
    /// Descriptors that are open from the start and that nobody counted on.
    pub inherited: u32,
    /// The state directory of an earlier child, to be used again.
    pub state_dir: Option<Arc<TempDir>>,
}

impl Start<'_> {
    /// The command line. What the surroundings say about configuration and logs does not count.
    fn command(&self, state_dir: &Path) -> Command {
        let program = env!("CARGO_BIN_EXE_throng");
        let mut command = match self.files {
            None => Command::new(program),
            Some(files) => {
                // Not every shell has names for more than ten of them.
                let mut shell = Command::new(if self.inherited > 0 { "bash" } else { "sh" });
                let open = (0..self.inherited).map(|_| "exec {fd}</dev/null; ").collect::<String>();
                let script = format!("ulimit -n {files}; {open}exec \"$0\" \"$@\"");
                shell.arg("-c").arg(script).arg(program);
                shell
            }
        };
        command.arg("run");
        let mut set = |setting: &str| {
            command.arg("--set").arg(setting);
        };
        set("workers=2");
        set("udp.listen=127.0.0.1:0,[::1]:0");
        set("http.listen=127.0.0.1:0,[::1]:0");
        set("admin.listen=127.0.0.1:0");
        set(&format!("state_dir={}", state_dir.display()));
        self.settings.iter().copied().for_each(set);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("THRONG__") {
                command.env_remove(name);
            }
        }
        command.env_remove("RUST_LOG");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }

    /// Starts a child without waiting for it to serve.
    pub fn spawn(&self) -> Throng {
        let new_dir = || Arc::new(tempfile::tempdir().expect("a temporary folder"));
        let state_dir = self.state_dir.clone().unwrap_or_else(new_dir);
        let mut child = self.command(state_dir.path()).spawn().expect("the program is built");
        let log = Arc::new(Mutex::new(Vec::new()));
        let stderr = child.stderr.take().expect("piped");
        let reader = thread::spawn({
            let log = log.clone();
            move || {
                for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                    log.lock().expect("no holder panics").push(line);
                }
            }
        });
        Throng {
            child,
            log,
            reader: Some(reader),
            state_dir,
            udp: Vec::new(),
            http: Vec::new(),
            admin: SocketAddr::from(([127, 0, 0, 1], 0)),
        }
    }

    /// Starts a child and waits until it serves; `None`, said aloud, if this machine cannot.
    pub fn serve(&self) -> Option<Throng> {
        if let Some(obstacle) = obstacle() {
            skip(&obstacle);
            return None;
        }
        let mut throng = self.spawn();
        throng.wait_until_it_serves();
        Some(throng)
    }
}

/// Says that a test shows nothing here, and why: past the harness, which keeps what passes to
/// itself.
///
/// # Panics
/// `THRONG_NO_SKIPS` is set: this machine is there to run all tests.
pub fn skip(why: &str) {
    assert!(std::env::var_os("THRONG_NO_SKIPS").is_none(), "skipped: {why}");
    let name = thread::current().name().unwrap_or("a test").to_owned();
    writeln!(io::stderr(), "skipped: {name}: {why}").expect("somebody listens");
}

/// Starts a child with `settings` and waits until it serves.
pub fn start(settings: &[&str]) -> Option<Throng> {
    Start { settings, ..Start::default() }.serve()
}

/// A child at work.
pub struct Throng {
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
    state_dir: Arc<TempDir>,
    /// Its UDP listeners, IPv4 first.
    pub udp: Vec<SocketAddr>,
    /// Its HTTP listeners, IPv4 first.
    pub http: Vec<SocketAddr>,
    /// Its admin listener.
    pub admin: SocketAddr,
}

impl Throng {
    fn wait_until_it_serves(&mut self) {
        let give_up = Instant::now() + PATIENCE;
        loop {
            self.read_addresses();
            if self.admin.port() != 0 && self.is_healthy() {
                return;
            }
            let ended = self.child.try_wait().expect("it is our child");
            assert!(ended.is_none(), "{ended:?} instead of serving: {:#?}", self.log());
            assert!(Instant::now() < give_up, "it does not serve: {:#?}", self.log());
            thread::sleep(PAUSE);
        }
    }

    /// `listening: UDP on A and B, HTTP on C and D`, then `dashboard: http://E/ ...`.
    fn read_addresses(&mut self) {
        let addresses = |list: &str| -> Vec<SocketAddr> {
            // Behind an address may stand what is special about it.
            let address = |listener: &str| listener.split_whitespace().next()?.parse().ok();
            list.split(" and ").filter_map(address).collect()
        };
        for line in self.log() {
            if let Some((_, list)) = line.split_once("listening: UDP on ") {
                let (udp, http) = list.split_once(", HTTP on ").expect("both in one line");
                (self.udp, self.http) = (addresses(udp), addresses(http));
            } else if let Some((_, rest)) = line.split_once("dashboard: http://") {
                let (address, _) = rest.split_once('/').expect("a path follows");
                self.admin = address.parse().expect("an address");
            }
        }
    }

    fn is_healthy(&self) -> bool {
        self.ask_admin("/health").is_ok_and(|(status, _)| status == 200)
    }

    /// Status and body of an admin page.
    fn ask_admin(&self, path: &str) -> io::Result<(u16, String)> {
        let mut stream = TcpStream::connect_timeout(&self.admin, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let status = text.get(9..12).and_then(|code| code.parse().ok());
        let body = text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
        status.zip(body).ok_or_else(|| io::Error::other(format!("no response: {text:?}")))
    }

    /// The body of an admin page that must be there.
    pub fn admin(&self, path: &str) -> String {
        let (status, body) = self.ask_admin(path).expect("the admin listener answers");
        assert_eq!(status, 200, "{path}");
        body
    }

    /// The sum of all series of a metric whose labels contain `label`.
    pub fn metric_where(&self, name: &str, label: &str) -> u64 {
        let names = [format!("throng_{name}{{"), format!("throng_{name}_total{{")];
        let metrics = self.admin("/metrics");
        let series = metrics
            .lines()
            .filter(|line| names.iter().any(|name| line.starts_with(name)) && line.contains(label));
        let values: Vec<u64> = series
            .map(|line| line.rsplit(' ').next().and_then(|value| value.parse().ok()))
            .map(|value| value.expect("a series ends in a number"))
            .collect();
        assert!(!values.is_empty(), "no series of {name} with {label}");
        values.iter().sum()
    }

    /// How many requests for this action were answered.
    pub fn answered(&self, action: &str) -> u64 {
        self.metric_where("results", &format!("action=\"{action}\",result=\"answered\""))
    }

    /// The sum of all series of a metric.
    pub fn metric(&self, name: &str) -> u64 {
        self.metric_where(name, "")
    }

    /// What it has logged so far.
    pub fn log(&self) -> Vec<String> {
        self.log.lock().expect("no holder panics").clone()
    }

    /// How many log lines contain `text`.
    pub fn logged(&self, text: &str) -> usize {
        self.log().iter().filter(|line| line.contains(text)).count()
    }

    /// Where it keeps its state; stays while somebody holds it.
    pub fn state_dir(&self) -> Arc<TempDir> {
        self.state_dir.clone()
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Processor time that it has used, in hundredths of a second.
    pub fn cpu_ticks(&self) -> u64 {
        let path = PathBuf::from(format!("/proc/{}/stat", self.child.id()));
        let text = fs::read_to_string(path).expect("it runs");
        // proc(5): the name in parentheses is field 2; 14 and 15 are the times.
        let (_, fields) = text.rsplit_once(')').expect("a name");
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let time = |field: usize| fields[field - 3].parse::<u64>().expect("a number");
        time(14) + time(15)
    }

    /// How many descriptors it has open.
    pub fn open_files(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.child.id())).expect("it runs").count()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).expect("it runs");
    }

    /// Waits for it to end, at the most `patience`; then its log is complete.
    pub fn wait(&mut self, patience: Duration) -> ExitStatus {
        let give_up = Instant::now() + patience;
        loop {
            if let Some(status) = self.child.try_wait().expect("it is our child") {
                if let Some(reader) = self.reader.take() {
                    reader.join().expect("it only reads");
                }
                return status;
            }
            assert!(Instant::now() < give_up, "it runs after {patience:?}: {:#?}", self.log());
            thread::sleep(PAUSE);
        }
    }

    /// Whether it still runs.
    pub fn is_alive(&mut self) -> bool {
        self.child.try_wait().expect("it is our child").is_none()
    }
}

impl Drop for Throng {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            println!("log of the child: {:#?}", self.log());
        }
    }
}

/// Waits until `condition` holds, at the most `patience`.
pub fn eventually(what: &str, patience: Duration, mut condition: impl FnMut() -> bool) {
    let give_up = Instant::now() + patience;
    while !condition() {
        assert!(Instant::now() < give_up, "not within {patience:?}: {what}");
        thread::sleep(PAUSE);
    }
}
