//! What each key expects: its type, form and range, and how that is said to the operator.
//!
//! [`KEYS`] is the list of all keys; tests hold it equal to the fields of `Config`. A value that
//! passes its rule always fits the field's type, so the rule's sentence is the one the operator
//! reads, and not one about Rust types.

use std::fmt;
use std::net::SocketAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;
use toml::Value;
use tracing_subscriber::filter::{ParseError, Targets};

use super::units::{ByteSize, Span};
use super::{AdminListen, Config, HttpListen, Place, Problem};
use crate::limits;

/// Bytes that one worker needs at the least for its share of the swarms: below it the tables of an
/// idle worker already fill the budget.
pub const MEMORY_BYTES_PER_WORKER_MIN: u64 = 16 << 20;

/// Characters of a token.
const TOKEN_CHARS_MIN: usize = 16;
const TOKEN_CHARS_MAX: usize = 1_024;

/// Characters of a value that a message repeats at the most.
const FOUND_CHARS_MAX: usize = 60;

/// A setting: its name and what it expects.
pub(super) struct Key {
    /// `section.key`, or `key` alone at the top.
    pub path: &'static str,
    pub expected: Expected,
}

/// What a value must be. `Display` completes "expected ...".
pub(super) enum Expected {
    Flag,
    Whole {
        min: u64,
        max: u64,
    },
    Duration {
        min: u32,
        max: u32,
    },
    Size {
        min: u64,
        max: u64,
    },
    Choice(&'static [&'static str]),
    Text(Form),
    /// As [`Expected::Text`], but a message never repeats it.
    Secret(Form),
    List(Form),
}

/// A form of text: its description, and whether a text has it.
pub(super) struct Form {
    what: &'static str,
    holds: fn(&str) -> bool,
}

/// The sections, in the order of the file.
pub(super) const SECTIONS: [&str; 9] =
    ["udp", "http", "tls", "admin", "announce", "swarm", "access", "limits", "log"];

/// Every key, in the order of the file.
pub(super) static KEYS: [Key; 51] = [
    key("workers", Expected::Whole { min: 0, max: limits::WORKERS_MAX as u64 }),
    key("state_dir", Expected::Text(PATH)),
    key("udp.listen", Expected::List(LISTEN)),
    key("udp.receive_buffer", Expected::Size { min: 64 << 10, max: 1 << 30 }),
    key("udp.steering", Expected::Flag),
    key("udp.connection_id_key", Expected::Secret(KEY)),
    key("udp.connection_id_lifetime", LIFETIME),
    key("http.listen", Expected::List(HTTP_LISTEN)),
    key("http.trusted_proxies", Expected::List(NETWORK)),
    key("http.forwarded_header", Expected::Text(FIELD)),
    key("http.max_connections", Expected::Whole { min: 0, max: 10_000_000 }),
    key("http.max_connections_per_address", Expected::Whole { min: 0, max: 10_000_000 }),
    key("http.head_timeout", TIMEOUT),
    key("http.idle_timeout", TIMEOUT),
    key("http.write_timeout", TIMEOUT),
    key(
        "http.max_scrape_hashes",
        Expected::Whole { min: 1, max: limits::HTTP_SCRAPE_HASHES_MAX as u64 },
    ),
    key("http.websocket", Expected::Flag),
    key("http.websocket_origins", Expected::List(ORIGIN)),
    key("http.stats", Expected::Flag),
    key("tls.certificates", Expected::List(PATH)),
    key("tls.keys", Expected::List(PATH)),
    key("admin.listen", Expected::List(ADMIN_LISTEN)),
    key("admin.token", Expected::Secret(TOKEN)),
    key("admin.token_file", Expected::Text(PATH)),
    key("announce.interval", Expected::Duration { min: 60, max: 24 * 3_600 }),
    key("announce.websocket_interval", Expected::Duration { min: 30, max: 3_600 }),
    key("announce.jitter_percent", Expected::Whole { min: 0, max: 50 }),
    key("announce.num_want_default", NUM_WANT),
    key("announce.num_want_max", NUM_WANT),
    key("announce.isolate_private_networks", Expected::Flag),
    key("announce.deny_ports", Expected::List(PORTS)),
    key("announce.trust_ip_param_from", Expected::List(NETWORK)),
    key("swarm.peer_ttl", Expected::Duration { min: 120, max: 7 * 24 * 3_600 }),
    key("swarm.max_peers_per_swarm", Expected::Whole { min: 1, max: 1_000_000 }),
    key("swarm.memory", Expected::Size { min: MEMORY_BYTES_PER_WORKER_MIN, max: 16 << 40 }),
    key("swarm.keep_peer_ids", Expected::Flag),
    key("access.allow", Expected::Text(PATH)),
    key("access.deny", Expected::Text(PATH)),
    key("access.ban", Expected::Text(PATH)),
    key("access.refusal", Expected::Choice(&["failure", "polite"])),
    key("limits.new_swarms_burst", BURST),
    key("limits.new_swarms_per_minute", PER_MINUTE),
    key("limits.new_peers_burst", BURST),
    key("limits.new_peers_per_minute", PER_MINUTE),
    key("limits.connections_burst", BURST),
    key("limits.connections_per_minute", PER_MINUTE),
    key("limits.peers_per_swarm", Expected::Whole { min: 0, max: 1_000_000 }),
    key("limits.exempt", Expected::List(NETWORK)),
    key("limits.memory", Expected::Size { min: 64 << 10, max: 1 << 30 }),
    key("log.level", Expected::Text(FILTER)),
    key("log.format", Expected::Choice(&["human", "json"])),
];

const NUM_WANT: Expected = Expected::Whole { min: 1, max: limits::NUM_WANT_MAX as u64 };
const TIMEOUT: Expected = Expected::Duration { min: 1, max: 600 };
const LIFETIME: Expected =
    Expected::Duration { min: 2 * limits::CONNECTION_EPOCH_SECONDS, max: 2 * 3_600 };

const BURST: Expected = Expected::Whole { min: 1, max: 1_000_000_000 };
const PER_MINUTE: Expected = Expected::Whole { min: 0, max: 1_000_000_000 };

const LISTEN: Form = Form {
    what: "socket addresses such as \"0.0.0.0:6969\" or \"[::]:6969\"",
    holds: |text| text.parse::<SocketAddr>().is_ok(),
};
const HTTP_LISTEN: Form = Form {
    what: "socket addresses such as \"0.0.0.0:6969\", each followed by any of the words tls, \
           proxy_protocol and forwarded",
    holds: |text| text.parse::<HttpListen>().is_ok(),
};
const FIELD: Form = Form {
    what: "the name of a header field such as \"X-Forwarded-For\"",
    holds: |text| {
        let is_token = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        !text.is_empty() && text.bytes().all(is_token)
    },
};
const ADMIN_LISTEN: Form = Form {
    what: "socket addresses such as \"127.0.0.1:6970\", or \"unix:\" and an absolute path",
    holds: |text| text.parse::<AdminListen>().is_ok(),
};
/// As many as nobody guesses; what an Authorization field can carry (RFC 6750 section 2.1).
const TOKEN: Form = Form {
    what: "at least 16 letters, digits and any of -._~+/=, or \"\" for none",
    holds: |text| text.is_empty() || is_token(text),
};
const PORTS: Form = Form {
    what: "ports or ranges of ports such as \"22\" or \"135-139\"",
    holds: |text| parse_ports(text).is_some(),
};
const NETWORK: Form = Form {
    what: "networks such as \"192.0.2.0/24\", or \"192.0.2.1/32\" for one address",
    holds: |text| text.parse::<IpNet>().is_ok(),
};
const ORIGIN: Form = Form {
    what: "origins such as \"https://example.org\" or \"http://localhost:8080\"",
    holds: |text| {
        let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
        host.is_some_and(|host| !host.is_empty() && !host.contains(['/', ' ', '?', '#']))
    },
};
const KEY: Form = Form {
    what: "32 hex digits, or \"\" to have a key drawn",
    holds: |text| text.is_empty() || parse_key(text).is_some(),
};
const PATH: Form =
    Form { what: "a path without a NUL character", holds: |text| !text.contains('\0') };
const FILTER: Form = Form {
    what: "error, warn, info, debug, trace or off, or a filter such as \
           \"info,throng::control=debug\"",
    holds: is_filter,
};

const fn key(path: &'static str, expected: Expected) -> Key {
    Key { path, expected }
}

impl Key {
    /// Whether `value` is what the key expects.
    ///
    /// # Errors
    /// The problem, with `place` as where the value comes from.
    pub(super) fn check(&'static self, value: &Value, place: &Place) -> Result<(), Problem> {
        self.expected.check(value).map_err(|found| Problem::Value {
            key: self.path,
            place: place.clone(),
            expected: self.expected.to_string(),
            found,
        })
    }
}

impl Expected {
    /// Whether `value` has the right type; its form and range may still be wrong.
    pub(super) fn has_type_of(&self, value: &Value) -> bool {
        match self {
            Self::Flag => value.is_bool(),
            Self::Whole { .. } => value.is_integer(),
            Self::List(_) => value.is_array(),
            Self::Duration { .. }
            | Self::Size { .. }
            | Self::Choice(_)
            | Self::Text(_)
            | Self::Secret(_) => value.is_str(),
        }
    }

    /// Whether `value` is right; if not, what it is, to follow "found".
    fn check(&self, value: &Value) -> Result<(), String> {
        let found = || render(value);
        let (right, text) = (|right: bool| right.then_some(()), value.as_str());
        match self {
            Self::Flag => right(value.is_bool()).ok_or_else(found),
            Self::Whole { min, max } => {
                let whole = value.as_integer().and_then(|whole| u64::try_from(whole).ok());
                right(whole.is_some_and(|whole| (*min..=*max).contains(&whole))).ok_or_else(found)
            }
            Self::Duration { min, max } => {
                let span = parse_unit::<Span>(value)?;
                right((*min..=*max).contains(&span.as_secs())).ok_or_else(found)
            }
            Self::Size { min, max } => {
                let size = parse_unit::<ByteSize>(value)?;
                right((*min..=*max).contains(&size.as_bytes())).ok_or_else(found)
            }
            Self::Choice(words) => {
                right(text.is_some_and(|text| words.contains(&text))).ok_or_else(found)
            }
            Self::Text(form) => right(text.is_some_and(form.holds)).ok_or_else(found),
            Self::Secret(form) => {
                right(text.is_some_and(form.holds)).ok_or_else(|| "something else".to_owned())
            }
            Self::List(form) => {
                let items = value.as_array().ok_or_else(found)?;
                let wrong = items.iter().find(|item| !item.as_str().is_some_and(form.holds));
                wrong.map_or(Ok(()), |item| {
                    let quotes = if item.is_str() { "" } else { ", which needs quotes" };
                    Err(format!("{}{quotes}", render(item)))
                })
            }
        }
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => write!(f, "true or false"),
            Self::Whole { min, max } => write!(f, "a whole number from {min} to {max}"),
            Self::Duration { min, max } => {
                let (min, max) = (Span::from_secs(*min), Span::from_secs(*max));
                write!(f, "a duration from \"{min}\" to \"{max}\"")
            }
            Self::Size { min, max } => {
                let (min, max) = (ByteSize::from_bytes(*min), ByteSize::from_bytes(*max));
                write!(f, "a size from \"{min}\" to \"{max}\"")
            }
            Self::Choice(words) => {
                for (index, word) in words.iter().enumerate() {
                    let separator = if index == 0 { "" } else { " or " };
                    write!(f, "{separator}\"{word}\"")?;
                }
                Ok(())
            }
            Self::Text(form) | Self::Secret(form) => write!(f, "{}", form.what),
            Self::List(form) => write!(f, "a list of {}", form.what),
        }
    }
}

/// What is wrong with `config` as a whole, once each value is right; `place_of` says where a key's
/// value comes from.
pub(super) fn conflicts(config: &Config, place_of: impl Fn(&str) -> Place) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut report = |key: &'static str, message: String| {
        problems.push(Problem::Conflict { key, place: place_of(key), message });
    };

    // The kernel would spread datagrams over both groups of sockets and steering would miss.
    let http: Vec<SocketAddr> = config.http.listen.iter().map(|listen| listen.address).collect();
    for (key, listen) in [("udp.listen", &config.udp.listen), ("http.listen", &http)] {
        if let Some(again) = named_twice(listen, |address| address.port() == 0) {
            report(key, format!("{again} is named twice"));
        }
    }
    let is_new = |listen: &AdminListen| matches!(listen, AdminListen::Address(a) if a.port() == 0);
    if let Some(again) = named_twice(&config.admin.listen, is_new) {
        report("admin.listen", format!("{again} is named twice"));
    }
    if config.udp.listen.is_empty() && config.http.listen.is_empty() {
        report("udp.listen", "nothing to do: `http.listen` is empty too".to_owned());
    }

    let (certificates, keys) = (config.tls.certificates.len(), config.tls.keys.len());
    if certificates != keys {
        let message = format!("{keys} keys for {certificates} certificates: each needs its own");
        report("tls.keys", message);
    }
    if config.http.listen.iter().any(|listen| listen.tls) && certificates == 0 {
        report("tls.certificates", "a listener of `http.listen` is marked tls".to_owned());
    }
    let is_proxied = config.http.listen.iter().any(HttpListen::is_proxied);
    if is_proxied && config.http.trusted_proxies.is_empty() {
        let message = "a listener of `http.listen` is for proxies, and none is trusted";
        report("http.trusted_proxies", message.to_owned());
    }

    let announce = &config.announce;
    if announce.num_want_default > announce.num_want_max {
        let (default, max) = (announce.num_want_default, announce.num_want_max);
        report("announce.num_want_default", format!("{default} is above num_want_max, {max}"));
    }

    // A peer that returns half an interval late must still be there.
    let (ttl, longest) = (config.swarm.peer_ttl, announce.interval_longest());
    let needed = Span::from_secs(longest.as_secs().saturating_mul(3).div_ceil(2));
    if ttl < needed {
        report(
            "swarm.peer_ttl",
            format!(
                "{ttl} is too short: it must be at least {needed}, 1.5 times the longest interval \
                 given ({longest}: `announce.interval` plus its jitter)"
            ),
        );
    }

    let admin = &config.admin;
    if let Some(remote) = admin.listen.iter().find(|listen| !listen.is_local())
        && admin.token.is_empty()
        && admin.token_file.is_empty()
    {
        let message = format!("others can reach {remote}: it needs `admin.token_file`");
        report("admin.listen", message);
    }
    if !admin.token.is_empty() && !admin.token_file.is_empty() {
        report("admin.token_file", "`admin.token` is set too".to_owned());
    }
    problems
}

/// The first listener that is the same as one before it; there may be several of which `is_new`
/// holds, as port 0 is a new port each time.
fn named_twice<T: PartialEq>(listen: &[T], is_new: impl Fn(&T) -> bool) -> Option<&T> {
    let twice = |at: usize| !is_new(&listen[at]) && listen[..at].contains(&listen[at]);
    (0..listen.len()).find(|at| twice(*at)).map(|at| &listen[at])
}

/// Whether `text` may be a token: long enough, and of characters that a field can carry.
pub fn is_token(text: &str) -> bool {
    let is_fit = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte);
    (TOKEN_CHARS_MIN..=TOKEN_CHARS_MAX).contains(&text.len()) && text.bytes().all(is_fit)
}

/// "22" or "135-139".
pub(super) fn parse_ports(text: &str) -> Option<RangeInclusive<u16>> {
    // Digits alone: `u16` would also read "+22".
    let port = |text: &str| {
        text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse::<u16>().ok()).flatten()
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (port(first.trim())?, port(last.trim())?);
    (first <= last).then_some(first..=last)
}

/// 32 hex digits, in either case, as 16 bytes in the order written.
pub(super) fn parse_key(text: &str) -> Option<[u8; 16]> {
    if text.len() != 32 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    u128::from_str_radix(text, 16).ok().map(u128::to_be_bytes)
}

/// Whether `text` filters log messages as its author thinks, and says something in each part.
fn is_filter(text: &str) -> bool {
    !text.split(',').any(|part| part.trim().is_empty()) && log_filter(text).is_ok()
}

/// Why a text is no filter of log messages.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// A word that is neither a level nor a module.
    #[error("{0:?} is no level, and a module is written with its crate: throng::control=debug")]
    Word(String),
    /// Anything else.
    #[error(transparent)]
    Unreadable(#[from] ParseError),
}

/// Reads a filter of log messages: levels, of everything or of modules, with commas between them.
///
/// Not `EnvFilter`: that takes the fields of spans too, with values that are regular expressions,
/// and one of 400 bytes kept a CPU for more than a minute.
///
/// # Errors
/// It is none.
pub fn log_filter(text: &str) -> Result<Targets, FilterError> {
    const WORDS: [&str; 7] = ["off", "error", "warn", "info", "debug", "trace", "throng"];
    let parts: Vec<&str> = text.split(',').map(str::trim).filter(|part| !part.is_empty()).collect();
    // The parser takes a bare word that is no level for a module's name: "debg" would silence
    // everything.
    let is_misspelt = |part: &&str| {
        part.bytes().all(|byte| byte.is_ascii_alphanumeric())
            && !WORDS.iter().any(|word| word.eq_ignore_ascii_case(part))
    };
    if let Some(word) = parts.iter().find(|part| is_misspelt(part)) {
        return Err(FilterError::Word((*word).to_owned()));
    }
    // The parser would take an empty text for all modules.
    Ok(if parts.is_empty() { Targets::new() } else { parts.join(",").parse()? })
}

/// A text with a unit; if it is none, what it is.
fn parse_unit<T: std::str::FromStr<Err = super::UnitError>>(value: &Value) -> Result<T, String> {
    let text = match value {
        // Written without quotes; what matters is the unit.
        Value::Integer(whole) => whole.to_string(),
        Value::String(text) => text.clone(),
        _ => return Err(render(value)),
    };
    let parsed = text.parse::<T>();
    match parsed {
        Ok(parsed) if value.is_str() => Ok(parsed),
        Ok(_) => Err(render(value)),
        Err(why) => Err(format!("{} ({why})", render(value))),
    }
}

/// A value as a message repeats it: short, on one line.
fn render(value: &Value) -> String {
    match value {
        Value::String(text) => {
            let short: String = text.chars().take(FOUND_CHARS_MAX).collect();
            let rest = if short.len() < text.len() { " and more" } else { "" };
            format!("{short:?}{rest}")
        }
        Value::Integer(whole) => whole.to_string(),
        Value::Float(float) => float.to_string(),
        Value::Boolean(flag) => flag.to_string(),
        Value::Datetime(_) => "a date or time without quotes".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::Table(_) => "a section".to_owned(),
    }
}
