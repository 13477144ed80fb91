//! What the configuration comes to on this machine.

use std::path::PathBuf;
use std::sync::Arc;

use core_affinity::CoreId as Cpu;
use rustix::process::{Resource, getrlimit};
use tracing::warn;

use super::{LISTENERS_MAX, RunError, sockets};
use crate::check;
use crate::config::{self, Config, Refusal};
use crate::control::door::Token;
use crate::dataplane::connections;
use crate::limits::{WEB_IDLE_SECONDS, WORKERS_MAX};
use crate::swarm::Bounds;
use crate::tracker::access::networks::NetworkList;
use crate::tracker::limiter::{Limits, Rate};
use crate::tracker::policy::{Policy, PortSet};

/// Bytes of memory that a worker must have to be of any use.
const WORKER_MEMORY_MIN: u64 = config::MEMORY_BYTES_PER_WORKER_MIN;

/// What is needed to start, taken from the configuration and the machine.
pub(super) struct Plan {
    pub cpus: Vec<Cpu>,
    pub policy: Arc<Policy>,
    pub bounds: Bounds,
    pub limits: Limits,
    pub http_limits: connections::Limits,
}

/// What is needed to start.
///
/// # Errors
/// If the configuration cannot be carried out on this machine.
pub(super) fn plan(config: &Config) -> Result<Plan, RunError> {
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
        web_idle_secs: WEB_IDLE_SECONDS.max(2 * config.announce.websocket_interval.as_secs()),
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
    let limits = limits(config, workers);
    Ok(Plan { cpus, policy: Arc::new(policy), bounds, limits, http_limits })
}

/// Each worker's share of what an address may bring: swarms and connections are spread evenly.
fn limits(config: &Config, workers: usize) -> Limits {
    let limits = &config.limits;
    let workers = u32::try_from(workers).expect("workers are bounded by WORKERS_MAX");
    let rate = |burst: u32, per_minute: u32| Rate {
        burst: burst.div_ceil(workers),
        per_minute: per_minute.div_ceil(workers),
    };
    let memory = limits.memory.as_bytes() / u64::from(workers);
    Limits {
        new_swarms: rate(limits.new_swarms_burst, limits.new_swarms_per_minute),
        new_peers: rate(limits.new_peers_burst, limits.new_peers_per_minute),
        connections: rate(limits.connections_burst, limits.connections_per_minute),
        // A swarm is on one of them.
        peers_per_swarm: limits.peers_per_swarm,
        exempt: Arc::new(NetworkList::new(&limits.exempt)),
        memory_bytes: usize::try_from(memory).unwrap_or(usize::MAX),
    }
}

/// Where the access lists are kept.
pub(super) fn list_files(config: &Config) -> [Option<PathBuf>; 3] {
    let config::Access { allow, deny, ban, .. } = &config.access;
    [allow, deny, ban].map(|path| (!path.is_empty()).then(|| PathBuf::from(path)))
}

/// What opens the admin listeners, if anything is needed.
pub(super) fn token(config: &Config) -> Result<Option<Token>, RunError> {
    let admin = &config.admin;
    if admin.token_file.is_empty() {
        return Ok((!admin.token.is_empty()).then(|| Token::new(&admin.token)));
    }
    let path = PathBuf::from(&admin.token_file);
    let what = "admin.token_file";
    let text = std::fs::read_to_string(&path).map_err(|source| RunError::File {
        what,
        path: path.clone(),
        source,
    })?;
    let token = text.lines().next().unwrap_or_default().trim();
    if config::is_token(token) {
        return Ok(Some(Token::new(token)));
    }
    let advice = "its first line must be at least 16 letters, digits and any of -._~+/=";
    Err(RunError::Config(format!("{what} {}: {advice}", path.display())))
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
pub(super) fn connections_wanted(config: &Config, workers: usize) -> usize {
    match config.http.max_connections {
        0 => connections_allowed(config, workers),
        configured => configured,
    }
}

/// Connections over all workers that the limit of open files leaves room for.
fn connections_allowed(config: &Config, workers: usize) -> usize {
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let others = check::files_besides_connections(workers, sockets(config, workers), files);
    usize::try_from(files.saturating_sub(others)).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Span;

    #[test]
    fn a_websocket_may_be_silent_for_longer_than_its_peers_are_told_to_wait() {
        for (interval_secs, silent_secs) in [(30, 600), (120, 600), (301, 602), (3_600, 7_200)] {
            let mut config = Config { workers: 1, ..Config::default() };
            config.announce.websocket_interval = Span::from_secs(interval_secs);
            let plan = plan(&config).expect("there is a CPU");
            assert_eq!(plan.http_limits.web_idle_secs, silent_secs);
        }
    }

    /// A configuration that differs from the default in all that a plan is made of.
    const OTHER: &str = r#"
        workers = 2
        [http]
        trusted_proxies = ["10.0.0.1/32"]
        forwarded_header = "Forwarded"
        max_connections = 11
        max_connections_per_address = 7
        head_timeout = "3s"
        idle_timeout = "4s"
        write_timeout = "6s"
        max_scrape_hashes = 9
        websocket = false
        websocket_origins = ["https://example.org"]
        [announce]
        interval = "10m"
        websocket_interval = "40s"
        jitter_percent = 3
        num_want_default = 5
        num_want_max = 6
        isolate_private_networks = false
        deny_ports = ["1000-1002"]
        trust_ip_param_from = ["10.0.0.2/32"]
        [swarm]
        peer_ttl = "20m"
        max_peers_per_swarm = 12
        memory = "40MiB"
        keep_peer_ids = true
        [access]
        refusal = "polite"
        [limits]
        new_swarms_burst = 21
        new_swarms_per_minute = 22
        new_peers_burst = 23
        new_peers_per_minute = 24
        connections_burst = 25
        connections_per_minute = 26
        peers_per_swarm = 27
        exempt = ["10.0.0.3/32"]
        memory = "128KiB"
    "#;

    #[test]
    fn every_setting_arrives_where_it_has_its_effect() {
        let plan = plan(&toml::from_str(OTHER).expect("a configuration")).expect("there is a CPU");
        assert_eq!(plan.cpus.len(), 2);
        // Without `..`: a new field has to be thought of here.
        let Policy {
            interval_secs,
            web_interval_secs,
            jitter_percent,
            num_want_default,
            num_want_max,
            isolate_private_networks,
            deny_ports,
            trust_ip_param_from,
            trusted_proxies,
            forwarded_header,
            http_scrape_hashes_max,
            web,
            web_origins,
            polite_refusal,
        } = Arc::unwrap_or_clone(plan.policy);
        assert_eq!((interval_secs, web_interval_secs, jitter_percent), (600, 40, 3));
        assert_eq!((num_want_default, num_want_max, http_scrape_hashes_max), (5, 6, 9));
        assert_eq!((isolate_private_networks, web, polite_refusal), (false, false, true));
        assert_eq!(
            [999, 1_000, 1_002, 1_003, 22].map(|port| deny_ports.contains(port)),
            [false, true, true, false, false]
        );
        assert_eq!(trust_ip_param_from, ["10.0.0.2/32".parse().expect("a network")]);
        assert_eq!(trusted_proxies, ["10.0.0.1/32".parse().expect("a network")]);
        assert_eq!(
            (forwarded_header.as_str(), &web_origins[..]),
            ("Forwarded", &["https://example.org".to_owned()][..])
        );
        let bounds = Bounds {
            memory_bytes: 20 << 20,
            peers_per_swarm: 12,
            peer_ttl_secs: 1_200,
            keep_peer_ids: true,
        };
        assert_eq!(plan.bounds, bounds);
        // Shares of two workers, rounded up.
        let Limits { new_swarms, new_peers, connections, peers_per_swarm, exempt, memory_bytes } =
            plan.limits;
        assert_eq!(new_swarms, Rate { burst: 11, per_minute: 11 });
        assert_eq!(new_peers, Rate { burst: 12, per_minute: 12 });
        assert_eq!(connections, Rate { burst: 13, per_minute: 13 });
        assert_eq!((peers_per_swarm, memory_bytes), (27, 64 << 10));
        let ip = |text: &str| text.parse().expect("an address");
        assert!(exempt.contains(ip("10.0.0.3")) && !exempt.contains(ip("127.0.0.1")));
        let connections::Limits {
            connections_max,
            per_address_max,
            head_secs,
            idle_secs,
            web_idle_secs,
            write_secs,
        } = plan.http_limits;
        assert_eq!((connections_max, per_address_max), (5, 4));
        assert_eq!((head_secs, idle_secs, write_secs), (3, 4, 6));
        assert_eq!(web_idle_secs, WEB_IDLE_SECONDS);
    }
}
