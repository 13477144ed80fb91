//! What an operator may set: plain data, its defaults, and where each value comes from.
//!
//! [`Config`] holds every setting as it is written, so it can be printed and compared; whoever
//! needs a parsed form (ports, addresses, the key) asks the section for it. [`Config::load`] lays
//! four layers over each other and refuses what it does not understand, and [`Config::validate`]
//! checks one made by hand. A `Config` that passed either keeps all the ranges named here.
//!
//! Nothing here reads the environment, the machine or, [`Config::load`] apart, a file: what is
//! needed is handed in. [`DEFAULT_TOML`] is the same defaults as a commented file; a test compares
//! them.

mod admin;
mod layers;
mod listen;
mod problem;
mod rules;
#[cfg(test)]
mod tests;
mod units;

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

pub use admin::AdminListen;
#[cfg(any(test, fuzzing))]
pub use layers::check;
pub use listen::HttpListen;
pub use problem::{ConfigError, Place, Problem};
pub use rules::{FilterError, MEMORY_BYTES_PER_WORKER_MIN, is_token, log_filter};
pub use units::{ByteSize, Span, UnitError};

use crate::limits;

/// Every key with its default and a comment, in TOML: what `throng config` prints.
pub const DEFAULT_TOML: &str = include_str!("default.toml");

/// Where UDP and HTTP listen by default: every address of both families, the customary port.
const LISTEN_DEFAULT: [&str; 2] = ["0.0.0.0:6969", "[::]:6969"];

/// Where operators are answered by default.
const ADMIN_LISTEN_DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 6_970);

/// The networks of the machine itself.
const LOOPBACK: [IpNet; 2] = [
    IpNet::new_assert(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), 8),
    IpNet::new_assert(IpAddr::V6(Ipv6Addr::LOCALHOST), 128),
];

/// Well-known services that a swarm must not be aimed at: a peer that claims such a port makes
/// every client of the swarm connect to it.
const DENY_PORTS_DEFAULT: [&str; 55] = [
    "1", "7", "9", "13", "17", "19", "20-23", "25", "37", "53", "67-69", "79", "80", "109-111",
    "113", "119", "123", "135", "137-139", "143", "161", "162", "179", "389", "443", "445", "465",
    "512-515", "543", "544", "548", "554", "587", "631", "636", "853", "873", "993", "995", "1433",
    "1521", "1723", "1900", "2049", "3306", "3389", "5060", "5061", "5353", "5432", "5900", "6379",
    "9200", "11211", "27017",
];

/// Every setting of the program.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Worker threads. Default 0 = one per CPU this process may use; at most
    /// [`limits::WORKERS_MAX`].
    pub workers: usize,
    /// Directory that keeps the connection id key. Default "": see [`Config::state_dir`].
    pub state_dir: String,
    /// The UDP tracker protocol.
    pub udp: Udp,
    /// The HTTP tracker protocol, and WebTorrent.
    pub http: Http,
    /// Certificates.
    pub tls: Tls,
    /// Health, metrics and statistics.
    pub admin: Admin,
    /// What peers are told, and which peers.
    pub announce: Announce,
    /// Who is in which swarm.
    pub swarm: Swarm,
    /// Which torrents are served, and whom.
    pub access: Access,
    /// How much that is new one address may bring.
    pub limits: Limits,
    /// Messages about the program itself.
    pub log: Log,
}

/// `[udp]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Udp {
    /// Where to listen. Default port 6969 of both families; empty = no UDP.
    pub listen: Vec<SocketAddr>,
    /// Receive buffer of each socket. Default 8MiB, 64KiB to 1GiB; the kernel caps it at
    /// `net.core.rmem_max`.
    pub receive_buffer: ByteSize,
    /// Whether the kernel hands each announce to the core that owns its swarm. Default true.
    pub steering: bool,
    /// 32 hex digits, shared by nodes that accept each other's connection ids. Default "" = drawn
    /// at the first start and kept in the state directory. Secret: never log it.
    pub connection_id_key: String,
    /// How long a connection id is valid at the most, in whole epochs of 64 s, that of its issue
    /// included. Default 128s, 128s to 2h.
    pub connection_id_lifetime: Span,
}

/// `[http]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Http {
    /// Where to listen, and what stands between a client and HTTP there. Default port 6969 of both
    /// families; empty = no HTTP.
    pub listen: Vec<HttpListen>,
    /// Proxies that may say who the client is, on listeners that are for proxies. Default none.
    pub trusted_proxies: Vec<IpNet>,
    /// The field in which they do, on listeners marked `forwarded`. Default "X-Forwarded-For".
    pub forwarded_header: String,
    /// Connections open at once, over all workers. Default 0 = what the open-file limit allows.
    pub max_connections: usize,
    /// Connections open at once from one IPv4 address or one IPv6 /64, about. Default 1,024, 0 to
    /// 10,000,000; 0 = any number. Trusted proxies are not counted.
    pub max_connections_per_address: usize,
    /// From the first byte of a request to the end of its head. Default 5s, 1s to 10m.
    pub head_timeout: Span,
    /// Between two requests. Default 30s, 1s to 10m.
    pub idle_timeout: Span,
    /// For a slow reader to take a response. Default 10s, 1s to 10m.
    pub write_timeout: Span,
    /// Hashes answered in one scrape. Default and maximum [`limits::HTTP_SCRAPE_HASHES_MAX`].
    pub max_scrape_hashes: usize,
    /// Whether WebTorrent is served on the same listeners. Default true.
    pub websocket: bool,
    /// Pages that may open WebSockets, as `Origin` names them. Default none = all.
    pub websocket_origins: Vec<String>,
    /// Whether `/stats` and `/stats.json` are served on the same listeners. Default true.
    pub stats: bool,
}

/// `[tls]`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tls {
    /// Files with a certificate and the chain behind it, in PEM. The first one is for clients that
    /// name no host, or one that no certificate is for. Default none.
    pub certificates: Vec<String>,
    /// Files with the keys of `certificates`, in the same order. Default none.
    pub keys: Vec<String>,
}

/// `[admin]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Admin {
    /// Where to listen. Default "127.0.0.1:6970", empty = off. Other than loopback addresses and
    /// Unix sockets need a token.
    pub listen: Vec<AdminListen>,
    /// What a request must show, 16 characters at least. Default "" = see `token_file`. Secret:
    /// never log it.
    pub token: String,
    /// A file whose first line is the token. Default "" = there is none.
    pub token_file: String,
}

/// `[announce]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Announce {
    /// Time between two announces of a peer. Default 30m, 1m to 24h.
    pub interval: Span,
    /// Time between two announces of a WebSocket peer. Default 2m, 30s to 1h.
    pub websocket_interval: Span,
    /// How far a peer's interval may differ from that. Default 10, 0 to 50.
    pub jitter_percent: u8,
    /// Peers returned when the request does not say. Default 50, 1 to `num_want_max`.
    pub num_want_default: u16,
    /// Peers returned at the most. Default and maximum [`limits::NUM_WANT_MAX`].
    pub num_want_max: u16,
    /// Whether peers at unroutable addresses are given to askers of the same range only. Default
    /// true.
    pub isolate_private_networks: bool,
    /// Ports, "22" or "135-139", of peers that are answered but not stored. Default: well-known
    /// services. Parsed by [`Announce::denied_ports`].
    pub deny_ports: Vec<String>,
    /// Networks whose requests may name another address. Default none.
    pub trust_ip_param_from: Vec<IpNet>,
}

/// `[swarm]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Swarm {
    /// After how long without an announce a peer is forgotten. Default 50m, 2m to 7days, at least
    /// 1.5 times [`Announce::interval_longest`].
    pub peer_ttl: Span,
    /// Peers of one swarm, both families together. Default 65,536, 1 to 1,000,000.
    pub max_peers_per_swarm: u32,
    /// Memory for swarms and peers, over all workers. Default 1GiB, 16MiB to 16TiB.
    pub memory: ByteSize,
    /// Whether each peer's peer_id is kept, at 20 bytes a peer. Default false.
    pub keep_peer_ids: bool,
}

/// `[access]`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Access {
    /// Path of the list of info_hashes that are served, and no others. Default "" = all are.
    pub allow: String,
    /// Path of the list of info_hashes that are not. Default "" = none.
    pub deny: String,
    /// Path of the list of networks that are not listened to. Default "" = none.
    pub ban: String,
    /// What a peer of a refused torrent hears. Default [`Refusal::Failure`].
    pub refusal: Refusal,
}

/// `[limits]`: of one IPv4 address or one IPv6 /64, over all workers, about.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Swarms that it may bring at once. Default 50,000.
    pub new_swarms_burst: u32,
    /// And per minute after that. Default 1,200; 0 = any number.
    pub new_swarms_per_minute: u32,
    /// Peers that it may bring at once. Default 100,000.
    pub new_peers_burst: u32,
    /// And per minute after that. Default 6,000; 0 = any number.
    pub new_peers_per_minute: u32,
    /// HTTP connections that it may open at once. Default 10,000.
    pub connections_burst: u32,
    /// And per minute after that. Default 6,000; 0 = any number.
    pub connections_per_minute: u32,
    /// Peers of its own in one swarm. Default 256; 0 = any number.
    pub peers_per_swarm: u32,
    /// Networks without these limits. Default loopback.
    pub exempt: Vec<IpNet>,
    /// Memory in which this is remembered. Default 1MiB, 64KiB to 1GiB.
    pub memory: ByteSize,
}

/// `[log]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// A level or a `tracing` filter. Default "info".
    pub level: String,
    /// How a message is rendered. Default [`Format::Human`].
    pub format: Format,
}

/// What a peer of a refused torrent hears.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Refusal {
    /// An error.
    #[default]
    Failure,
    /// Success without peers and an interval of a day, which quiets clients best.
    Polite,
}

/// How a log message is rendered.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// A line to read.
    #[default]
    Human,
    /// A JSON object on one line.
    Json,
}

impl Config {
    /// The directory that keeps state between starts, or `None` when nothing names one.
    ///
    /// The first of: `state_dir`, `$STATE_DIRECTORY` (set by systemd), `$XDG_STATE_HOME/throng`,
    /// `$HOME/.local/state/throng`. `environment` is asked for the variables' values.
    pub fn state_dir(&self, environment: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
        if !self.state_dir.is_empty() {
            return Some(PathBuf::from(&self.state_dir));
        }
        // A relative path would depend on where the program was started; the XDG Base Directory
        // Specification says to ignore one, and systemd never sets one.
        let absolute = |path: &PathBuf| path.is_absolute();
        // systemd separates several directories with colons; the first is ours.
        let systemd = environment("STATE_DIRECTORY")
            .and_then(|value| std::env::split_paths(&value).find(|path| path.is_absolute()));
        let xdg = || environment("XDG_STATE_HOME").map(PathBuf::from).filter(absolute);
        let home = || environment("HOME").map(PathBuf::from).filter(absolute);
        systemd
            .or_else(|| xdg().map(|path| path.join("throng")))
            .or_else(|| home().map(|path| path.join(".local/state/throng")))
    }
}

impl Udp {
    /// The key of the connection ids, or `None` when it is to be drawn and kept.
    pub fn connection_id_key_bytes(&self) -> Option<[u8; 16]> {
        rules::parse_key(&self.connection_id_key)
    }
}

impl Tls {
    /// The files, each certificate with its key.
    pub fn pairs(&self) -> Vec<(&Path, &Path)> {
        let pairs = self.certificates.iter().zip(&self.keys);
        pairs.map(|(certificate, key)| (Path::new(certificate), Path::new(key))).collect()
    }
}

impl Announce {
    /// The longest interval that a peer is given: jitter included, rounded up.
    pub fn interval_longest(&self) -> Span {
        let percent = 100 + u64::from(self.jitter_percent);
        let secs = (u64::from(self.interval.as_secs()) * percent).div_ceil(100);
        Span::from_secs(u32::try_from(secs).unwrap_or(u32::MAX))
    }

    /// The ports of `deny_ports`, in the order written. What validation would refuse is left out.
    pub fn denied_ports(&self) -> Vec<RangeInclusive<u16>> {
        self.deny_ports.iter().filter_map(|text| rules::parse_ports(text)).collect()
    }
}

impl Default for Udp {
    fn default() -> Self {
        Self {
            listen: listen_default(),
            receive_buffer: ByteSize::from_mebibytes(8),
            steering: true,
            connection_id_key: String::new(),
            connection_id_lifetime: Span::from_secs(2 * limits::CONNECTION_EPOCH_SECONDS),
        }
    }
}

impl Default for Http {
    fn default() -> Self {
        Self {
            listen: listen_default().into_iter().map(HttpListen::plain).collect(),
            trusted_proxies: Vec::new(),
            forwarded_header: "X-Forwarded-For".to_owned(),
            max_connections: 0,
            max_connections_per_address: 1_024,
            head_timeout: Span::from_secs(limits::HTTP_HEAD_SECONDS),
            idle_timeout: Span::from_secs(limits::HTTP_IDLE_SECONDS),
            write_timeout: Span::from_secs(limits::HTTP_WRITE_SECONDS),
            max_scrape_hashes: limits::HTTP_SCRAPE_HASHES_MAX,
            websocket: true,
            websocket_origins: Vec::new(),
            stats: true,
        }
    }
}

impl Default for Admin {
    fn default() -> Self {
        let listen = vec![AdminListen::Address(ADMIN_LISTEN_DEFAULT)];
        Self { listen, token: String::new(), token_file: String::new() }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            new_swarms_burst: 50_000,
            new_swarms_per_minute: 1_200,
            new_peers_burst: 100_000,
            new_peers_per_minute: 6_000,
            connections_burst: 10_000,
            connections_per_minute: 6_000,
            peers_per_swarm: 256,
            exempt: LOOPBACK.to_vec(),
            memory: ByteSize::from_mebibytes(1),
        }
    }
}

impl Default for Announce {
    fn default() -> Self {
        Self {
            interval: Span::from_secs(30 * 60),
            websocket_interval: Span::from_secs(2 * 60),
            jitter_percent: 10,
            num_want_default: limits::NUM_WANT_DEFAULT,
            num_want_max: limits::NUM_WANT_MAX,
            isolate_private_networks: true,
            deny_ports: DENY_PORTS_DEFAULT.map(str::to_owned).to_vec(),
            trust_ip_param_from: Vec::new(),
        }
    }
}

impl Default for Swarm {
    fn default() -> Self {
        Self {
            // A peer must survive half an interval of delay. 1.5 times the longest interval given,
            // which is 30 minutes and 10 % of jitter, is 49 minutes and a half: 45 is too short.
            peer_ttl: Span::from_secs(50 * 60),
            max_peers_per_swarm: 65_536,
            memory: ByteSize::from_mebibytes(1_024),
            keep_peer_ids: false,
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: Format::Human }
    }
}

/// [`LISTEN_DEFAULT`], parsed.
fn listen_default() -> Vec<SocketAddr> {
    LISTEN_DEFAULT
        .iter()
        .map(|text| text.parse().expect("LISTEN_DEFAULT holds socket addresses"))
        .collect()
}
