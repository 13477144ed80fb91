//! Start, supervise, stop in order.
//!
//! Everything that can be refused is tried before the first worker starts: the configuration's
//! parts, the machine, the addresses. Then each worker gets a thread, a CPU and an executor of its
//! own, and the calling thread becomes the control plane until a signal or a worker ends it.

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
use rustls::ServerConfig;
use tracing::{info, warn};

use self::supervision::Supervision;
use crate::check::{self, Settings};
use crate::config::{Config, HttpListen, Mode, Refusal};
use crate::control::certificates::{self, CertificateError};
use crate::control::finding::Finding;
use crate::control::kernel::{Reader, Watched};
use crate::control::swarms::Ask;
use crate::control::{self, State, admin};
use crate::dataplane::connections::Listening;
use crate::dataplane::orders::{Orders, Question};
use crate::dataplane::ring::Sizes;
use crate::dataplane::socket::{self, BindError};
use crate::dataplane::worker::{Parts, Worker, boot_seconds};
use crate::dataplane::{connections, mailbox, probe, steering};
use crate::limits::WORKERS_MAX;
use crate::swarm::{Bounds, HashKey};
use crate::tracker::Setup;
use crate::tracker::access::{self, Access};
use crate::tracker::connection_id::ConnectionIds;
use crate::tracker::owner::{CoreId, Owner};
use crate::tracker::policy::{Policy, PortSet};
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
/// Bytes of memory that a worker must have to be of any use.
const WORKER_MEMORY_MIN: u64 = crate::config::MEMORY_BYTES_PER_WORKER_MIN;

/// Why the tracker did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// An address cannot be listened on.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The admin address cannot be listened on.
    #[error(transparent)]
    Admin(#[from] admin::AdminBindError),
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
    /// The access list has a line that is no info_hash.
    #[error("access.list {}: {source}", path.display())]
    List {
        /// Where it is.
        path: PathBuf,
        /// Which line.
        source: access::BadLine,
    },
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
            Self::Admin(error) => error.source.kind() == io::ErrorKind::AddrInUse,
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
                | Self::List { .. }
                | Self::Certificate(_)
        )
    }
}

/// What is needed to start, taken from the configuration and the machine.
struct Plan {
    cpus: Vec<Cpu>,
    policy: Arc<Policy>,
    access: Access,
    bounds: Bounds,
    http_limits: connections::Limits,
}

/// Runs the tracker until a signal ends it.
///
/// # Errors
/// Why it could not start, or did not go on.
pub fn run(config: &Config) -> Result<(), RunError> {
    // First of all: a reload while a long list is being read must not end the process.
    let supervision = Supervision::new()?;
    raise_limits();
    machine_or_refuse()?;
    let plan = plan(config)?;
    let workers = plan.cpus.len();
    let started = boot_seconds();
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let tls = load_tls(config)?;
    let secrets = secrets::draw(config)?;
    let relay_key: [u8; 16] = secrets::random_bytes()?;
    let owner = Owner::new(secrets.owner_keys, u16_of(workers));

    let (mut udp, mut http) = bind(config, workers)?;
    let admin = config.admin.listen_addr().map(admin::bind).transpose()?;
    let steered = steer(config, &udp, &owner);

    let lifetime = config.udp.connection_id_lifetime.as_secs();
    let connection_ids = ConnectionIds::new(secrets.connection_id_key, wall, lifetime);
    let mesh = mailbox::mesh(workers, mailbox::capacity_bytes(workers))
        .map_err(|source| RunError::Io { what: "making the workers' mailboxes", source })?;
    let published: Arc<[Arc<Published>]> = (0..workers).map(|_| Arc::default()).collect();
    let orders: Arc<[Arc<Orders>]> =
        mesh.iter().map(|post| Arc::new(Orders::new(post.doorbell().clone()))).collect();
    announce_start(config, workers, steered, &udp, &http, admin.as_ref());

    let state = State::new(control::Parts {
        published: published.clone(),
        ask: asker(owner.clone(), orders.clone()),
        reader: Reader::new(watched(&udp), workers),
        listeners: listeners(config, &udp, &http),
    });

    let (ended, mut endings) = tokio::sync::mpsc::unbounded_channel();
    let mut threads = Vec::new();
    for (index, post) in mesh.into_iter().enumerate() {
        let parts = Parts {
            setup: Setup {
                core: CoreId(u16_of(index)),
                owner: owner.clone(),
                policy: plan.policy.clone(),
                access: plan.access.clone(),
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

    let outcome = supervision.run(config, admin, &state, &orders, &mut endings);
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

fn plan(config: &Config) -> Result<Plan, RunError> {
    let available = core_affinity::get_core_ids().unwrap_or_default();
    let available = if available.is_empty() { vec![Cpu { id: 0 }] } else { available };
    let workers = match config.workers {
        // A small memory on a large machine makes fewer workers, not a refusal.
        0 => {
            let fed = config.swarm.memory.as_bytes() / WORKER_MEMORY_MIN;
            let fed = usize::try_from(fed).unwrap_or(usize::MAX);
            available.len().min(WORKERS_MAX).min(fed.max(1))
        }
        workers => workers,
    };
    // More workers than CPUs share them in turn: useless but for tests.
    let cpus = available.iter().copied().cycle().take(workers).collect();

    if config.udp.listen.len().max(config.http.listen.len()) > LISTENERS_MAX {
        return Err(RunError::Config(format!(
            "at most {LISTENERS_MAX} listen addresses of a kind"
        )));
    }
    let memory = config.swarm.memory.as_bytes() / workers as u64;
    if memory < WORKER_MEMORY_MIN {
        return Err(RunError::Config(format!(
            "swarm.memory is {} for {workers} workers; each needs at least {} MiB",
            config.swarm.memory,
            WORKER_MEMORY_MIN >> 20,
        )));
    }
    let bounds = Bounds {
        memory_bytes: usize::try_from(memory).unwrap_or(usize::MAX),
        peers_per_swarm: config.swarm.max_peers_per_swarm,
        peer_ttl_secs: config.swarm.peer_ttl.as_secs(),
        keep_peer_ids: config.swarm.keep_peer_ids,
    };
    let per_address = config.http.max_connections_per_address.div_ceil(workers);
    let http_limits = connections::Limits {
        connections_max: connections_max(config, workers),
        per_address_max: u32::try_from(per_address).unwrap_or(u32::MAX),
        head_secs: config.http.head_timeout.as_secs(),
        idle_secs: config.http.idle_timeout.as_secs(),
        write_secs: config.http.write_timeout.as_secs(),
    };
    let announce = &config.announce;
    let policy = Policy {
        interval_secs: announce.interval.as_secs(),
        web_interval_secs: announce.websocket_interval.as_secs(),
        jitter_percent: announce.jitter_percent,
        num_want_default: announce.num_want_default,
        num_want_max: announce.num_want_max,
        isolate_private_networks: announce.isolate_private_networks,
        deny_ports: PortSet::new(announce.denied_ports()),
        trust_ip_param_from: announce.trust_ip_param_from.clone(),
        trusted_proxies: config.http.trusted_proxies.clone(),
        forwarded_header: config.http.forwarded_header.clone(),
        http_scrape_hashes_max: config.http.max_scrape_hashes,
        web: config.http.websocket,
        web_origins: config.http.websocket_origins.clone(),
        polite_refusal: config.access.refusal == Refusal::Polite,
    };
    Ok(Plan { cpus, policy: Arc::new(policy), access: load_access(config)?, bounds, http_limits })
}

/// What a worker does with the connections of a listener.
const fn listening(listen: &HttpListen) -> Listening {
    let HttpListen { tls, proxy_protocol, forwarded, .. } = *listen;
    Listening { tls, proxy_protocol, forwarded }
}

/// The certificates, if a listener needs them.
fn load_tls(config: &Config) -> Result<Option<Arc<ServerConfig>>, RunError> {
    if !config.http.listen.iter().any(|listen| listen.tls) {
        return Ok(None);
    }
    let loaded = certificates::load(&config.tls.pairs())?;
    for warning in &loaded.warnings {
        warn!("{warning}");
    }
    Ok(Some(loaded.config))
}

/// Connections of one worker: as configured, but no more than there are descriptors for. The last
/// descriptors belong to all workers: one that has none cannot even refuse a connection.
fn connections_max(config: &Config, workers: usize) -> usize {
    let (wanted, allowed) =
        (connections_wanted(config, workers), connections_allowed(config, workers));
    if wanted > allowed {
        warn!(
            "http.max_connections is {wanted}, and the limit of open files leaves room for \
             {allowed}: that many are accepted"
        );
    }
    (wanted.min(allowed) / workers).max(1)
}

/// Connections over all workers: as configured, or what the limit of open files leaves.
fn connections_wanted(config: &Config, workers: usize) -> usize {
    match config.http.max_connections {
        0 => connections_allowed(config, workers),
        configured => configured,
    }
}

/// Connections over all workers that the limit of open files leaves room for.
fn connections_allowed(config: &Config, workers: usize) -> usize {
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let others = check::files_besides_connections(workers, sockets(config, workers));
    usize::try_from(files.saturating_sub(others)).unwrap_or(usize::MAX)
}

/// Listening sockets of all workers.
fn sockets(config: &Config, workers: usize) -> usize {
    (config.udp.listen.len() + config.http.listen.len()) * workers
}

fn load_access(config: &Config) -> Result<Access, RunError> {
    if config.access.mode == Mode::Open {
        return Ok(Access::Open);
    }
    let path = PathBuf::from(&config.access.list);
    let text = std::fs::read(&path).map_err(|source| RunError::File {
        what: "access.list",
        path: path.clone(),
        source,
    })?;
    let list = access::parse_list(&text).map_err(|source| RunError::List { path, source })?;
    Ok(if config.access.mode == Mode::Allow { Access::Allow(list) } else { Access::Deny(list) })
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

/// Brings questions about swarms to the workers that own them.
fn asker(owner: Owner, orders: Arc<[Arc<Orders>]>) -> Ask {
    Arc::new(move |info_hash, tell| {
        let question: Question = Box::new(move |tracker, _| tell(tracker.describe(&info_hash)));
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
    admin: Option<&TcpListener>,
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
    if let Some(address) = admin.and_then(|admin| admin.local_addr().ok()) {
        info!("admin: http://{address}/health /metrics /stats.json");
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
            Err(error) => Err(io::Error::other(error.to_string())),
        };
        if let Err(source) = served {
            // The other end is gone only if the process is ending already.
            let _ = ended.send(RunError::Io { what: "a worker ended", source });
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
    let mut findings = check::machine(&settings(config)?);
    if config.http.listen.iter().any(|listen| listen.tls) {
        findings.extend(check::certificates(certificates::load(&config.tls.pairs())));
    }
    Ok(findings)
}
