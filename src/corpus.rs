//! Inputs that fuzzers have found worth keeping, looked at again.
//!
//! `fuzz/corpus/NAME` is the corpus of the target `NAME`, and what a target found wrong once lies
//! there for ever. Targets over several cores are replayed by the tests that share their models.

use std::fs;
use std::path::Path;

use crate::{config, swarm, tracker, wire};

/// What a target does.
type Check = fn(&[u8]);

/// The targets of `fuzz/fuzz_targets` that need no more than one function.
const TARGETS: [(&str, Check); 10] = [
    ("udp_packet", wire::udp::check),
    ("bep41_options", wire::udp_options::check),
    ("http_request", wire::http::model::check_stream),
    ("http_query", wire::http::model::check_query),
    ("proxy_headers", wire::proxy::model::check),
    ("ws_json", wire::webtorrent::model::check),
    ("bencode_out", wire::bencode::check),
    ("swarm_ops", swarm::model::check),
    ("config_toml", config::check),
    ("access_list", tracker::access::hashes::check),
];
/// And the others.
const SESSIONS: [&str; 3] = ["udp_session", "ws_session", "canary"];

#[test]
#[cfg_attr(miri, ignore = "reads files")]
fn nothing_in_the_corpora_is_wrong() {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for (target, check) in TARGETS {
        let mut count = 0;
        for entry in fs::read_dir(corpora.join(target)).expect("it is part of the repository") {
            let path = entry.expect("a readable folder").path();
            let bytes = fs::read(&path).expect("a readable file");
            let checked = std::panic::catch_unwind(|| check(&bytes));
            assert!(checked.is_ok(), "{}", path.display());
            count += 1;
        }
        assert!(count > 0, "the corpus of {target} is empty");
    }
}

#[test]
#[cfg_attr(miri, ignore = "reads files")]
fn every_target_is_replayed() {
    let targets = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/fuzz_targets");
    let mut found: Vec<String> = fs::read_dir(targets)
        .expect("they are part of the repository")
        .map(|entry| entry.expect("a readable folder").path())
        .map(|path| path.file_stem().expect("a name").to_string_lossy().into_owned())
        .collect();
    found.sort();
    let mut known: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).chain(SESSIONS).collect();
    known.sort_unstable();
    assert_eq!(found, known);
}
