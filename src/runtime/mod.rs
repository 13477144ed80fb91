//! Start, supervise, stop in order.
//!
//! Everything that can be refused is tried before the first worker starts: the configuration's
//! parts, the machine, the addresses. Then each worker gets a thread, a CPU and an executor of its
//! own, and the calling thread becomes the control plane until a signal or a worker ends it.

mod manager;
mod plan;
mod secrets;
mod supervision;

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use core_affinity::CoreId as Cpu;
use glommio::{LocalExecutorBuilder, Placement};
use rustix::process::{Resource, getrlimit, setrlimit};
use tracing::{info, warn};

use self::plan::{connections_wanted, list_files, plan, token};
use self::supervision::Supervision;
use crate::check::{self, Settings, network};
use crate::config::{AdminListen, Config, HttpListen};
use crate::control::certificates::{self, CertificateError, Loaded};
use crate::control::finding::{Finding, Level};
use crate::control::kernel::{Reader, Watched};
use crate::control::lists::{self, ListError, Lists};
use crate::control::log::LogFilter;
use crate::control::swarms::Ask;
use crate::control::{self, State, admin};
use crate::dataplane::connections::Listening;
use crate::dataplane::orders::Orders;
use crate::dataplane::ring::Sizes;
use crate::dataplane::socket::{self, BindError};
use crate::dataplane::worker::{Parts, Worker, boot_seconds};
use crate::dataplane::{mailbox, probe, steering};
use crate::swarm::{HashKey, NoMemory};
use crate::tracker::Setup;
use crate::tracker::access::Access;
use crate::tracker::connection_id::ConnectionIds;
use crate::tracker::owner::{CoreId, Owner};
use crate::tracker::published::Published;
use crate::tracker::web::RelayKey;

/// Memory that an executor registers for its own file I/O, of which we do none.
const EXECUTOR_IO_BYTES: usize = 64 * 1_024;
/// How long the workers may take to stop, and how often we look.
const STOP_WITHIN: Duration = Duration::from_secs(4);
const STOP_POLL: Duration = Duration::from_millis(2);
/// Listen addresses of one kind; a listener's number is a byte in the ring.
const LISTENERS_MAX: usize = 255;
/// Connections waiting to be accepted, per listener; the kernel caps it at net.core.somaxconn.
const BACKLOG: i32 = 4_096;

/// Why the tracker did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// An address cannot be listened on.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The admin address cannot be listened on.
    #[error("admin.listen {listen}: {source}")]
    Admin {
        /// Which one.
        listen: AdminListen,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel does not give us what the data plane is made of.
    #[error("{0}")]
    Machine(String),
    /// The configuration cannot be carried out on this machine.
    #[error("{0}")]
    Config(String),
    /// A file that is needed cannot be used.
    #[error("{what} {}: {source}", path.display())]
    File {
        /// What it is.
        what: &'static str,
        /// Where it is.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// An access list cannot be used.
    #[error(transparent)]
    List(#[from] ListError),
    /// A certificate cannot be used.
    #[error("tls: {0}")]
    Certificate(#[from] CertificateError),
    /// A worker or the control plane came to an end by itself.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// What went wrong.
        source: io::Error,
    },
}

impl RunError {
    /// Whether somebody else, another throng perhaps, has an address that we were to listen on.
    #[must_use]
    pub fn is_address_taken(&self) -> bool {
        match self {
            Self::Bind(error) => error.is_address_taken(),
            Self::Admin { source, .. } => source.kind() == io::ErrorKind::AddrInUse,
            _ => false,
        }
    }

    /// Whether the operator must change something before another start can succeed.
    #[must_use]
    pub const fn is_configuration(&self) -> bool {
        matches!(
            self,
            Self::Machine(_)
                | Self::Config(_)
                | Self::File { .. }
                | Self::List(_)
                | Self::Certificate(_)
        )
    }
}

/// Runs the tracker until a signal ends it; `log` is what it logs.
///
/// # Errors
/// Why it could not start, or did not go on.
pub fn run(config: &Config, log: LogFilter) -> Result<(), RunError> {
    // First of all: a reload while a long list is being read must not end the process.
    let supervision = Supervision::new()?;
    raise_limits();
    make_room_for_files();
    machine_or_refuse()?;
    let plan = plan(config)?;
    let workers = plan.cpus.len();
    let access = lists::read(&list_files(config))?;
    let started = boot_seconds();
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (tls, certificates) = match load_tls(config)? {
        Some(loaded) => (Some(loaded.config), loaded.ends),
        None => (None, Vec::new()),
    };
    let secrets = secrets::draw(config)?;
    let relay_key: [u8; 16] = secrets::random_bytes()?;
    let owner = Owner::new(secrets.owner_keys, u16_of(workers));

    let (mut udp, mut http) = bind(config, workers)?;
    let token = token(config)?;
    let admin = config.admin.listen.iter().map(bind_admin).collect::<Result<Vec<_>, _>>()?;
    let steered = steer(config, &udp, &owner);

    let lifetime = config.udp.connection_id_lifetime.as_secs();
    let connection_ids = ConnectionIds::new(secrets.connection_id_key, wall, lifetime);
    let mesh = mailbox::mesh(workers, mailbox::capacity_bytes(workers))
        .map_err(|source| RunError::Io { what: "making the workers' mailboxes", source })?;
    let published: Arc<[Arc<Published>]> = (0..workers).map(|_| Arc::default()).collect();
    let orders: Arc<[Arc<Orders>]> =
        mesh.iter().map(|post| Arc::new(Orders::new(post.doorbell().clone()))).collect();
    announce_start(config, workers, steered, &udp, &http, &admin);

    let publish = {
        let orders = orders.clone();
        move |access: &Access| orders.iter().for_each(|orders| orders.set_access(access.clone()))
    };
    let lists = Lists::new(list_files(config), access.clone(), Box::new(publish));
    let state = State::new(control::Parts {
        published: published.clone(),
        ask: asker(owner.clone(), orders.clone()),
        reader: Reader::new(watched(&udp), workers),
        listeners: listeners(config, &udp, &http),
        lists: lists.clone(),
        log: Arc::new(log),
        certificates,
    });

    // Nothing has been counted yet; whoever asks first is answered all the same.
    let pages = config.http.stats.then(|| Arc::new(state.pages()));
    let (ended, mut endings) = tokio::sync::mpsc::unbounded_channel();
    let mut threads = Vec::new();
    for (index, post) in mesh.into_iter().enumerate() {
        let parts = Parts {
            setup: Setup {
                core: CoreId(u16_of(index)),
                owner: owner.clone(),
                policy: plan.policy.clone(),
                access: access.clone(),
                limits: plan.limits.clone(),
                connection_ids: connection_ids.clone(),
                bounds: plan.bounds,
                hash_key: HashKey(secrets::random_u64()?, secrets::random_u64()?),
                seed: secrets::random_u64()?,
                relay_key: RelayKey::new(relay_key),
            },
            udp: udp.iter_mut().map(|group| group.remove(0)).collect(),
            http: http
                .iter_mut()
                .zip(&config.http.listen)
                .map(|(group, listen)| (group.remove(0), listening(listen)))
                .collect(),
            tls: tls.clone(),
            pages: pages.clone(),
            http_limits: plan.http_limits,
            post,
            published: published[index].clone(),
            orders: orders[index].clone(),
            started,
            sizes: Sizes::WORKER,
        };
        threads.push(spawn(index, plan.cpus[index], parts, ended.clone())?);
    }
    drop(ended);
    drop((plan, access));

    let admin = (admin, token.as_ref());
    let outcome = supervision.run(config, admin, &state, &lists, &orders, &mut endings);
    for listen in &config.admin.listen {
        if let AdminListen::Unix(path) = listen {
            // It may be gone already; the next start would replace it, too.
            let _ = std::fs::remove_file(path);
        }
    }
    orders.iter().for_each(|orders| orders.stop());
    let deadline = Instant::now() + STOP_WITHIN;
    while threads.iter().any(|thread| !thread.is_finished()) {
        if Instant::now() > deadline {
            let source = io::ErrorKind::TimedOut.into();
            return Err(RunError::Io { what: "waiting for the workers to stop", source });
        }
        std::thread::sleep(STOP_POLL);
    }
    info!("stopped");
    outcome
}

/// The settings that `throng check` looks at the machine with.
///
/// # Errors
/// If the configuration cannot be carried out on this machine.
pub fn settings(config: &Config) -> Result<Settings, RunError> {
    raise_limits();
    let plan = plan(config)?;
    Ok(Settings {
        workers: plan.cpus.len(),
        receive_buffer_bytes: config.udp.receive_buffer.as_bytes(),
        sockets: sockets(config, plan.cpus.len()),
        max_connections: connections_wanted(config, plan.cpus.len()),
    })
}

/// The soft limits of open files and locked memory go up to the hard ones: both are there to be
/// used, and few operators know that a service starts with 1,024 files.
fn raise_limits() {
    for resource in [Resource::Nofile, Resource::Memlock] {
        let mut limit = getrlimit(resource);
        limit.current = limit.maximum;
        // If it is refused, what comes of it is found and explained later.
        let _ = setrlimit(resource, limit);
    }
}

/// Files that the kernel's table has room for from the start: half a megabyte.
const FILES_AHEAD: u64 = 65_536;

/// Lets the kernel make its table of open files long enough at once. While threads run it would
/// wait for all CPUs before each doubling, ten to twenty milliseconds in the middle of accepting a
/// connection, in which the worker answers nobody.
fn make_room_for_files() {
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX).min(FILES_AHEAD);
    let last = i32::try_from(files.saturating_sub(1)).expect("bounded above");
    // The copy goes at once, the room stays. If it is refused, the table grows as it must.
    drop(rustix::io::fcntl_dupfd_cloexec(io::stderr(), last));
}

/// Explains in words what the libraries would panic about.
fn machine_or_refuse() -> Result<(), RunError> {
    probe::io_uring().map_err(|refusal| RunError::Machine(refusal.to_string()))?;
    match getrlimit(Resource::Memlock).current {
        Some(bytes) if bytes < check::LOCKED_BYTES_MIN => Err(RunError::Machine(format!(
            "the limit of locked memory is {} KiB, and each worker's executor needs {} KiB. \
             Raise it: `ulimit -l` in a shell, LimitMEMLOCK= in a systemd unit, \
             --ulimit memlock= for a container.",
            bytes / 1_024,
            check::LOCKED_BYTES_MIN / 1_024,
        ))),
        _ => Ok(()),
    }
}

/// What a worker does with the connections of a listener.
const fn listening(listen: &HttpListen) -> Listening {
    let HttpListen { tls, proxy_protocol, forwarded, .. } = *listen;
    Listening { tls, proxy_protocol, forwarded }
}

/// The certificates, if a listener needs them.
fn load_tls(config: &Config) -> Result<Option<Loaded>, RunError> {
    if !config.http.listen.iter().any(|listen| listen.tls) {
        return Ok(None);
    }
    let loaded = certificates::load(&config.tls.pairs())?;
    for warning in &loaded.warnings {
        warn!("{warning}");
    }
    Ok(Some(loaded))
}

/// Listening sockets of all workers.
fn sockets(config: &Config, workers: usize) -> usize {
    (config.udp.listen.len() + config.http.listen.len()) * workers
}

type Groups<S> = Vec<Vec<S>>;

/// One group of sockets per address, each in core order.
fn bind(
    config: &Config,
    workers: usize,
) -> Result<(Groups<UdpSocket>, Groups<TcpListener>), RunError> {
    let buffer = usize::try_from(config.udp.receive_buffer.as_bytes()).unwrap_or(usize::MAX);
    let mut udp = Vec::new();
    for &address in &config.udp.listen {
        udp.push(socket::bind_udp_group(address, workers, buffer)?);
    }
    let mut http = Vec::new();
    for listen in &config.http.listen {
        http.push(socket::bind_tcp_group(listen.address, workers, BACKLOG)?);
    }
    Ok((udp, http))
}

fn bind_admin(listen: &AdminListen) -> Result<admin::Bound, RunError> {
    let bound = match listen {
        AdminListen::Address(address) => admin::bind_tcp(*address),
        AdminListen::Unix(path) => admin::bind_unix(path),
    };
    bound.map_err(|source| RunError::Admin { listen: listen.clone(), source })
}

/// Brings questions about swarms to the workers that own them.
fn asker(owner: Owner, orders: Arc<[Arc<Orders>]>) -> Ask {
    Arc::new(move |info_hash, question| {
        orders[owner.core(&info_hash).index()].ask(question).is_ok()
    })
}

/// Where peers are served, in words.
fn listeners(config: &Config, udp: &Groups<UdpSocket>, http: &Groups<TcpListener>) -> Vec<String> {
    let udp = udp.iter().filter_map(|group| group[0].local_addr().ok());
    let http = http.iter().filter_map(|group| group[0].local_addr().ok());
    let with_words = |(address, listen): (SocketAddr, &HttpListen)| {
        format!("http {}", HttpListen { address, ..*listen })
    };
    let http = http.zip(&config.http.listen).map(with_words);
    udp.map(|address| format!("udp {address}")).chain(http).collect()
}

/// The sockets that the kernel counts for; one of which it says nothing is left out.
fn watched(udp: &Groups<UdpSocket>) -> Vec<Watched> {
    let sockets = udp.iter().flat_map(|group| group.iter().enumerate());
    sockets.filter_map(|(worker, socket)| Watched::new(worker, socket).ok()).collect()
}

/// Lets the kernel deliver to the owning worker, if it can. Returns whether it does everywhere.
fn steer(config: &Config, udp: &Groups<UdpSocket>, owner: &Owner) -> bool {
    if !config.udp.steering || owner.cores() < 2 {
        return false;
    }
    let mut steered = true;
    for group in udp {
        if let Err(error) = steering::attach(group[0].as_fd(), owner) {
            let address = group[0].local_addr().map_or_else(|_| String::new(), |a| a.to_string());
            warn!("no steering on UDP {address}, mailboxes do the work there: {error}");
            steered = false;
        }
    }
    steered
}

fn announce_start(
    config: &Config,
    workers: usize,
    steered: bool,
    udp: &Groups<UdpSocket>,
    http: &Groups<TcpListener>,
    admin: &[admin::Bound],
) {
    let steering = match (workers, steered, config.udp.steering) {
        (1, ..) => "not needed",
        (_, true, _) => "on",
        (_, _, false) => "off by configuration",
        _ => "off",
    };
    info!("throng {} with {workers} workers, steering {steering}", env!("CARGO_PKG_VERSION"));
    let udp = udp.iter().filter_map(|group| group[0].local_addr().ok());
    let http = http.iter().filter_map(|group| group[0].local_addr().ok());
    let with_words =
        |(address, listen): (SocketAddr, &HttpListen)| HttpListen { address, ..*listen };
    let http = http.zip(&config.http.listen).map(with_words);
    let (udp, http): (Vec<_>, Vec<_>) = (udp.collect(), http.collect());
    info!("listening: UDP on {}, HTTP on {}", list(&udp), list(&http));
    for (bound, listen) in admin.iter().zip(&config.admin.listen) {
        match bound.address() {
            Some(address) => info!("dashboard: http://{address}/ (and /metrics, /health, /api/v1)"),
            None => info!("admin: {listen}"),
        }
    }
    // Clients do not come by themselves to listeners that are for proxies.
    let first = |tls: bool| {
        let of_kind = |listen: &&HttpListen| listen.tls == tls && !listen.is_proxied();
        http.iter().find(of_kind).map(|listen| listen.address)
    };
    let (plain, tls) = (first(false), first(true));
    let web = |address: Option<SocketAddr>| address.filter(|_| config.http.websocket);
    for (scheme, address, path) in [
        ("udp", udp.first().copied(), "/announce"),
        ("http", plain, "/announce"),
        ("https", tls, "/announce"),
        ("ws", web(plain), ""),
        ("wss", web(tls), ""),
    ] {
        if let Some(address) = address {
            info!("announce URL: {scheme}://{}{path}", public_name(address));
        }
    }
}

fn list<T: ToString>(addresses: &[T]) -> String {
    if addresses.is_empty() {
        return "nothing".to_owned();
    }
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ")
}

/// What stands in an announce URL for a listener: its address, or a placeholder for the name by
/// which peers know the machine.
fn public_name(address: SocketAddr) -> String {
    if address.ip().is_unspecified() {
        format!("YOUR-HOST:{}", address.port())
    } else {
        address.to_string()
    }
}

/// A thread on its own CPU with an executor that runs one worker.
fn spawn(
    index: usize,
    cpu: Cpu,
    parts: Parts,
    ended: tokio::sync::mpsc::UnboundedSender<RunError>,
) -> Result<JoinHandle<()>, RunError> {
    let name = format!("throng-{index}");
    let serve = move || {
        let _guard = AbortOnPanic;
        if !core_affinity::set_for_current(cpu) {
            warn!("worker {index} could not be pinned to CPU {}", cpu.id);
        }
        let executor = LocalExecutorBuilder::new(Placement::Unbound)
            .name(&name)
            .io_memory(EXECUTOR_IO_BYTES)
            .make();
        let served = match executor {
            Ok(executor) => executor.run(async { Worker::new(parts)?.serve().await }),
            Err(error) => Err(io::Error::other(format!("its executor cannot be made: {error}"))),
        };
        if let Err(source) = served {
            let refusal = source.get_ref().and_then(|refusal| refusal.downcast_ref());
            let error = match refusal {
                Some(limit @ NoMemory::AddressSpace(_)) => RunError::Machine(limit.to_string()),
                Some(NoMemory::Any) | None => RunError::Io { what: "a worker ended", source },
            };
            // The other end is gone only if the process is ending already.
            let _ = ended.send(error);
        }
    };
    std::thread::Builder::new()
        .name(format!("throng-{index}"))
        .spawn(serve)
        .map_err(|source| RunError::Io { what: "starting a worker's thread", source })
}

/// Ends the process when a worker panics, in builds that unwind: a tracker without one of its cores
/// would silently lose its share of all swarms.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

fn u16_of(count: usize) -> u16 {
    u16::try_from(count).expect("workers are bounded by WORKERS_MAX")
}

/// What `throng check` finds about this machine.
///
/// # Errors
/// If the configuration cannot be carried out on it.
pub fn check(config: &Config) -> Result<Vec<Finding>, RunError> {
    let settings = settings(config)?;
    let mut findings = check::machine(&settings);
    findings.extend(network::machine(config, settings.workers, BACKLOG));
    findings.extend(network::access_lists(&list_files(config)));
    findings.extend(network::admin(&config.admin));
    match token(config) {
        Ok(_) => {}
        // A file that is not there has its finding already.
        Err(RunError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
        Err(error) => {
            let remedy = "Let the user that throng runs as read it, and write 16 letters or more \
                          into it, as `openssl rand -hex 32` makes them.";
            let (title, detail) = ("admin token", error.to_string());
            findings.push(Finding::new(Level::Problem, title, detail, remedy.to_owned()));
        }
    }
    if config.http.listen.iter().any(|listen| listen.tls) {
        findings.extend(check::certificates(certificates::load(&config.tls.pairs())));
    }
    Ok(findings)
}
