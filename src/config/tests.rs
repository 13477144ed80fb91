//! The configuration as its operator meets it: defaults, layers, and what is said about mistakes.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// Loads from a file of that text, those variables and those overrides.
fn load(file: &str, environment: &[(&str, &str)], sets: &[&str]) -> Result<Config, ConfigError> {
    let mut temporary = tempfile::NamedTempFile::new().expect("a temporary file can be made");
    temporary.write_all(file.as_bytes()).expect("a temporary file can be written");
    let environment =
        environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
    Config::load(Some(temporary.path()), environment, &sets)
}

fn set(sets: &[&str]) -> Result<Config, ConfigError> {
    load("", &[], sets)
}

/// The message about a file of that text, with its random path replaced by "FILE".
fn message_about(file: &str) -> String {
    let message = load(file, &[], &[]).expect_err(file).to_string();
    message
        .lines()
        .map(|line| {
            let words =
                line.split(' ').map(|word| if word.contains("/.tmp") { "FILE" } else { word });
            words.collect::<Vec<_>>().join(" ")
        })
        .collect::<Vec<_>>()
        .join("\n")
}

fn message_about_set(set_: &str) -> String {
    set(&[set_]).expect_err(set_).to_string()
}

/// Every `section.key` of a table.
fn paths(table: &toml::Table) -> BTreeSet<String> {
    let mut paths = BTreeSet::new();
    for (name, value) in table {
        match value.as_table() {
            Some(section) => paths.extend(section.keys().map(|leaf| format!("{name}.{leaf}"))),
            None => _ = paths.insert(name.clone()),
        }
    }
    paths
}

#[test]
fn the_documented_defaults_are_the_defaults() {
    let parsed: Config = toml::from_str(DEFAULT_TOML).expect("the default file is TOML");
    assert_eq!(parsed, Config::default());
    assert_eq!(load(DEFAULT_TOML, &[], &[]).expect("the default file loads"), Config::default());
    Config::default().validate().expect("the defaults are valid");
}

#[test]
fn file_rules_and_fields_name_the_same_keys() {
    let documented = DEFAULT_TOML.parse().expect("the default file is TOML");
    let fields = toml::Table::try_from(Config::default()).expect("the defaults can be written");
    let ruled: BTreeSet<String> = rules::KEYS.iter().map(|key| key.path.to_owned()).collect();
    assert_eq!(paths(&documented), paths(&fields));
    assert_eq!(paths(&fields), ruled);
    for section in rules::SECTIONS {
        assert!(fields[section].is_table(), "{section}");
    }
}

#[test]
fn every_documented_key_has_one_to_three_lines_of_comment() {
    let mut comments = 0;
    for line in DEFAULT_TOML.lines() {
        assert!(line.len() <= 100 && line.is_ascii(), "{line}");
        let is_key = line.starts_with(|c: char| c.is_ascii_lowercase());
        if is_key || line.starts_with('[') {
            assert!((1..=3).contains(&comments), "{comments} lines of comment above {line}");
        }
        comments = if line.starts_with('#') { comments + 1 } else { 0 };
    }
}

#[test]
fn the_documented_ranges_are_the_ranges() {
    // The comment of a key, its lines joined, names both ends of its range.
    let mut comment = String::new();
    let mut section = String::new();
    for line in DEFAULT_TOML.lines() {
        if let Some(text) = line.strip_prefix("# ") {
            comment = format!("{comment} {text}");
        } else if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']').to_owned() + ".";
        } else if let Some((name, _)) = line.split_once(" = ") {
            let path = format!("{section}{name}");
            let key = rules::KEYS.iter().find(|key| key.path == path).expect("a known key");
            let range = match key.expected {
                // Its upper end is another key.
                _ if path == "announce.num_want_default" => "1 to num_want_max".to_owned(),
                rules::Expected::Whole { min, max } => format!("{min} to {max}"),
                // A day is as well known as 24 hours.
                rules::Expected::Duration { min, max } => {
                    format!("{} to {}", Span::from_secs(min), Span::from_secs(max))
                        .replace("1day", "24h")
                        .replace("2m 8s", "128s")
                }
                rules::Expected::Size { min, max } => {
                    format!("{} to {}", ByteSize::from_bytes(min), ByteSize::from_bytes(max))
                }
                _ => String::new(),
            };
            // Not as the beginning or the end of other numbers.
            let stands = comment.match_indices(&range).any(|(at, _)| {
                !comment[..at].ends_with(|c: char| c.is_ascii_digit())
                    && !comment[at + range.len()..].starts_with(|c: char| c.is_alphanumeric())
            });
            assert!(stands, "{path}: {range} is not in:{comment}");
        }
        if !line.starts_with('#') {
            comment.clear();
        }
    }
}

#[test]
fn later_layers_override_earlier_ones() {
    let file = "workers = 1\n[log]\nlevel = \"warn\"\nformat = \"json\"\n";
    let environment = [("THRONG__LOG__LEVEL", "debug"), ("THRONG__WORKERS", "2"), ("PATH", "/bin")];
    let config = load(file, &environment, &["workers=3"]).expect("all layers are right");
    assert_eq!(config.log.format, Format::Json);
    assert_eq!(config.log.level, "debug");
    assert_eq!(config.workers, 3);
    assert_eq!(config.swarm, Swarm::default());
    let without_file = Config::load(None, std::iter::empty(), &[]).expect("defaults are right");
    assert_eq!(without_file, Config::default());
}

#[test]
fn variables_are_ours_in_either_case_and_by_prefix() {
    let config = load("", &[("throng__Http__max_connections", "7")], &[]).expect("is known");
    assert_eq!(config.http.max_connections, 7);
    let foreign = [("THRONG_SERVICE_HOST", "10.0.0.1"), ("THRONG", "x"), ("\u{e9}", "x")];
    assert_eq!(load("", &foreign, &[]).expect("is not ours"), Config::default());
    let message = load("", &[("THRONG__UDP__LISEN", "x")], &[]).expect_err("unknown").to_string();
    assert_eq!(
        message,
        "unknown key `udp.lisen` in the environment variable THRONG__UDP__LISEN; \
         did you mean `udp.listen`?"
    );
}

#[test]
fn an_override_is_toml_or_text() {
    let config = set(&[
        "log.level=debug",
        "log.format=\"json\"",
        "udp.steering=false",
        "announce.interval=10m",
        "udp.connection_id_key=00000000000000000000000000000010",
        "swarm.max_peers_per_swarm=1_000",
        "state_dir=/a=b",
    ])
    .expect("all are right");
    assert_eq!(config.log, Log { level: "debug".to_owned(), format: Format::Json });
    assert!(!config.udp.steering);
    assert_eq!(config.announce.interval, Span::from_secs(600));
    assert_eq!(config.udp.connection_id_key_bytes().map(|key| key[15]), Some(0x10));
    assert_eq!(config.swarm.max_peers_per_swarm, 1_000);
    assert_eq!(config.state_dir, "/a=b");
}

#[test]
fn an_override_of_a_list_may_use_commas() {
    let v4 = SocketAddr::from((Ipv4Addr::LOCALHOST, 7_000));
    let v6 = "[::1]:7000".parse().expect("is an address");
    let cases: [(&str, &[SocketAddr]); 5] = [
        ("udp.listen=[\"127.0.0.1:7000\"]", &[v4]),
        ("udp.listen=127.0.0.1:7000", &[v4]),
        ("udp.listen=127.0.0.1:7000, [::1]:7000", &[v4, v6]),
        ("udp.listen=[]", &[]),
        ("udp.listen=", &[]),
    ];
    for (text, addrs) in cases {
        assert_eq!(set(&[text]).expect(text).udp.listen, addrs, "{text}");
    }
    let config = set(&["announce.deny_ports=22", "announce.trust_ip_param_from=10.0.0.0/8"]);
    let config = config.expect("lists of one");
    assert_eq!(config.announce.denied_ports(), [22..=22]);
    assert_eq!(config.announce.trust_ip_param_from.len(), 1);
}

#[test]
fn an_unknown_name_is_refused_with_the_nearest() {
    let cases = [
        (
            "workers = 1\n[udp]\nlisen = []\n",
            "unknown key `udp.lisen` in FILE line 3; did you mean `udp.listen`?",
        ),
        ("worker = 1", "unknown key `worker` in FILE line 1; did you mean `workers`?"),
        ("\n[upd]\nlisten = []", "unknown section `upd` in FILE line 2; did you mean `udp`?"),
        (
            "udp.steer_ing = true",
            "unknown key `udp.steer_ing` in FILE line 1; did you mean `udp.steering`?",
        ),
        (
            "[announce]\npeer_ttl = '1h'",
            "unknown key `announce.peer_ttl` in FILE line 2; did you mean `swarm.peer_ttl`?",
        ),
        (
            "[nonsense]\nfoo = 1",
            "unknown section `nonsense` in FILE line 1; `throng config` prints all that are known",
        ),
        (
            "\"x\\ny\" = 1",
            "unknown key `x\\ny` in FILE line 1; `throng config` prints all that are known",
        ),
    ];
    for (file, message) in cases {
        assert_eq!(message_about(file), message);
    }
    assert_eq!(
        message_about_set("listen=x"),
        "unknown key `listen` in --set; did you mean `udp.listen`?"
    );
}

#[test]
fn a_wrong_value_is_refused_with_what_is_expected() {
    let cases = [
        (
            "[udp]\n\nsteering = 'yes'",
            "`udp.steering` in FILE line 3: expected true or false, found \"yes\"",
        ),
        (
            "workers = 257",
            "`workers` in FILE line 1: expected a whole number from 0 to 256, found 257",
        ),
        (
            "announce = { interval = 30 }",
            "`announce.interval` in FILE line 1: expected a duration from \"1m\" to \"1day\", \
             found 30 (no unit: write \"30s\" or \"45m\")",
        ),
        (
            "swarm.memory = '1MiB'",
            "`swarm.memory` in FILE line 1: expected a size from \"16MiB\" to \"16TiB\", \
             found \"1MiB\"",
        ),
        (
            "access.refusal = 'rude'",
            "`access.refusal` in FILE line 1: expected \"failure\" or \"polite\", found \"rude\"",
        ),
        ("udp = 3", "`udp` in FILE line 1: expected a section of keys, found a value"),
        (
            "[workers]",
            "`workers` in FILE line 1: expected a whole number from 0 to 256, found a section",
        ),
        (
            "udp.connection_id_key = '0123'",
            "`udp.connection_id_key` in FILE line 1: expected 32 hex digits, or \"\" to have a key \
             drawn, found something else",
        ),
    ];
    for (file, message) in cases {
        assert_eq!(message_about(file), message);
    }
}

#[test]
fn what_is_out_of_range_is_refused() {
    let cases = [
        "workers=-1",
        "workers=99999999999999999999",
        "udp.listen=localhost:6969",
        "udp.receive_buffer=1KiB",
        "udp.connection_id_lifetime=127s",
        "udp.connection_id_lifetime=2h 1s",
        "http.head_timeout=0s",
        "http.idle_timeout=11m",
        "http.write_timeout=500ms",
        "http.max_scrape_hashes=0",
        "http.max_scrape_hashes=101",
        "admin.listen=unix:relative",
        "admin.token=short",
        "limits.memory=1KiB",
        "limits.new_peers_burst=0",
        "admin.listen=6970",
        "announce.interval=59s",
        "announce.jitter_percent=51",
        "announce.num_want_max=201",
        "announce.deny_ports=25-22",
        "announce.deny_ports=65536",
        "announce.deny_ports=+22",
        "announce.deny_ports=[22]",
        "announce.trust_ip_param_from=10.0.0.1",
        "swarm.max_peers_per_swarm=0",
        "swarm.memory=15MiB",
        "swarm.memory=99999999EiB",
        "access.refusal=rude",
        "log.level=debg",
        "log.level=",
        "log.level=info,x=loud",
        "log.level=throng[{n=.{64}.{64}.{64}}]=info",
        "log.format=xml",
    ];
    for text in cases {
        let (key, _) = text.split_once('=').expect("an assignment");
        let message = message_about_set(text);
        assert!(message.starts_with(&format!("`{key}` in --set: expected ")), "{message}");
    }
    assert_eq!(message_about_set("workers"), "--set \"workers\": expected section.key=value");
}

#[test]
fn values_that_contradict_each_other_are_refused() {
    let cases: [(&[&str], &str); 8] = [
        (
            &["swarm.peer_ttl=45m"],
            "`swarm.peer_ttl` in --set: 45m is too short: it must be at least 49m 30s, 1.5 times \
             the longest interval given (33m: `announce.interval` plus its jitter)",
        ),
        (
            &["announce.interval=1h", "announce.jitter_percent=0"],
            "`swarm.peer_ttl`: 50m is too short: it must be at least 1h 30m, 1.5 times the \
             longest interval given (1h: `announce.interval` plus its jitter)",
        ),
        (
            &["announce.num_want_max=49"],
            "`announce.num_want_default`: 50 is above num_want_max, 49",
        ),
        (
            &["admin.listen=0.0.0.0:6970"],
            "`admin.listen` in --set: others can reach 0.0.0.0:6970: it needs `admin.token_file`",
        ),
        (
            &["admin.token=0123456789abcdef", "admin.token_file=/x"],
            "`admin.token_file` in --set: `admin.token` is set too",
        ),
        (&["http.listen=[::1]:1,[::1]:1"], "`http.listen` in --set: [::1]:1 is named twice"),
        (
            &["admin.listen=127.0.0.1:1,unix:/a,127.0.0.1:0,127.0.0.1:0,unix:/a"],
            "`admin.listen` in --set: unix:/a is named twice",
        ),
        (
            &["udp.listen=[]", "http.listen=[]"],
            "`udp.listen` in --set: nothing to do: `http.listen` is empty too",
        ),
    ];
    for (sets, message) in cases {
        assert_eq!(set(sets).expect_err(message).to_string(), message);
    }
    set(&["announce.interval=24h", "announce.jitter_percent=50", "swarm.peer_ttl=54h"])
        .expect("the longest interval has a peer_ttl");
}

#[test]
fn all_problems_are_reported_at_once() {
    let error = load("wrkers = 1\n[udp]\nsteering = 1\n", &[], &["log.format=xml"]);
    let message = error.expect_err("three problems").to_string();
    let starts: Vec<_> = message.lines().map(|line| line.split('`').nth(1)).collect();
    assert_eq!(starts, [Some("wrkers"), Some("udp.steering"), Some("log.format")]);
}

#[test]
fn a_configuration_made_by_hand_is_checked_too() {
    let mut config = Config { workers: 257, ..Config::default() };
    config.admin.token = "192.0.2.1:80".to_owned();
    let message = config.validate().expect_err("two problems").to_string();
    assert!(message.starts_with("`workers`: expected"), "{message}");
    assert!(message.contains("\n`admin.token`: expected at least 16 letters"), "{message}");
    assert!(!message.contains("192.0.2.1"), "{message}");
}

#[test]
fn a_file_that_is_missing_or_not_toml_is_named() {
    let missing = Config::load(Some("/nonexistent/x.toml".as_ref()), std::iter::empty(), &[]);
    let message = missing.expect_err("is missing").to_string();
    assert!(message.contains("/nonexistent/x.toml: No such file"), "{message}");
    let message = message_about("workers = 1\nworkers = 2\n");
    assert!(message.starts_with("FILE line 2 is not TOML: "), "{message}");
    assert!(message_about("[udp\n").starts_with("FILE line 1 is not TOML: "));
}

#[test]
fn parsed_forms_follow_the_text() {
    let config = Config::default();
    let admin = AdminListen::Address(SocketAddr::from((Ipv4Addr::LOCALHOST, 6_970)));
    assert_eq!(config.admin.listen, [admin]);
    assert_eq!(config.udp.connection_id_key_bytes(), None);
    let both = set(&["admin.listen=[::1]:1,unix:/run/a.sock"]).expect("both are local");
    assert_eq!(both.admin.listen[1], AdminListen::Unix("/run/a.sock".into()));
    assert!(set(&["admin.listen="]).expect("none").admin.listen.is_empty());
    set(&["admin.listen=192.0.2.1:80", "admin.token_file=/x"]).expect("it has a token");
    assert_eq!(config.announce.interval_longest(), Span::from_secs(33 * 60));
    let denied = config.announce.denied_ports();
    assert_eq!(denied.len(), config.announce.deny_ports.len());
    for port in [1, 22, 53, 80, 138, 443, 27_017] {
        assert!(denied.iter().any(|range| range.contains(&port)), "{port}");
    }
    assert!(!denied.iter().any(|range| range.contains(&6_881)));
}

#[test]
fn the_state_directory_is_the_first_that_is_named() {
    let ask = |config: &Config, variables: &[(&str, &str)]| {
        config.state_dir(|name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| OsString::from(value))
        })
    };
    let systemd = ("STATE_DIRECTORY", "/var/lib/throng:/var/lib/other");
    let (xdg, home) = (("XDG_STATE_HOME", "/xdg"), ("HOME", "/home/x"));
    let config = Config::default();
    type Variables<'a> = &'a [(&'a str, &'a str)];
    let cases: [(Variables<'_>, Option<&str>); 6] = [
        (&[systemd, xdg, home], Some("/var/lib/throng")),
        (&[xdg, home], Some("/xdg/throng")),
        (&[home], Some("/home/x/.local/state/throng")),
        (
            &[("STATE_DIRECTORY", ""), ("XDG_STATE_HOME", "relative"), home],
            Some("/home/x/.local/state/throng"),
        ),
        (&[("HOME", "")], None),
        (&[], None),
    ];
    for (variables, expected) in cases {
        assert_eq!(ask(&config, variables), expected.map(PathBuf::from), "{variables:?}");
    }
    let set = Config { state_dir: "here".to_owned(), ..Config::default() };
    assert_eq!(ask(&set, &[systemd]), Some(PathBuf::from("here")));
}

#[test]
fn deep_nesting_is_refused() {
    for text in [
        format!("workers = {}", "[".repeat(100_000)),
        "a.".repeat(100_000),
        format!("workers = {}", "{a=".repeat(100_000)),
    ] {
        check(text.as_bytes());
        let refusal = load(&text, &[], &[]);
        assert!(matches!(refusal, Err(ConfigError::Syntax { line: 1, .. })), "{refusal:?}");
    }
}

/// Something like a value: a string, a number, a list, or noise.
const VALUE: &str = r#"("[ -~]{0,12}"|-?[0-9]{1,21}|\[[0-9", ]{0,9}\]|[ -~]{0,12})"#;

proptest! {
    #[test]
    fn no_bytes_panic(bytes in vec(any::<u8>(), 0..512)) {
        check(&bytes);
    }

    /// A known key with some value: closer to what is read than noise.
    #[test]
    fn no_value_panics(at in 0..rules::KEYS.len(), value in VALUE) {
        let path = rules::KEYS[at].path;
        check(format!("{path} = {value}").as_bytes());
        check(format!("{path} = \"{value}\"").as_bytes());
        check(format!("{path}={value}").as_bytes());
    }
}
