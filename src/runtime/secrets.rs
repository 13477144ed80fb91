//! Keys drawn from the operating system, and the one that outlives the process.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use tracing::warn;

use super::RunError;
use crate::config::Config;
use crate::tracker::owner::HALFWORDS;

/// The file in the state directory that holds the key of connection ids, as 32 hexadecimal digits.
const KEY_FILE: &str = "connection_id.key";

/// What all workers share in secret.
pub(super) struct Secrets {
    /// Chooses who owns which swarm.
    pub owner_keys: [u32; HALFWORDS + 1],
    /// Makes connection ids.
    pub connection_id_key: [u8; 16],
}

/// Draws the keys; that of connection ids comes from the configuration or the state directory, so
/// that ids given out before a restart are good after it.
pub(super) fn draw(config: &Config) -> Result<Secrets, RunError> {
    let mut owner_keys = [0; HALFWORDS + 1];
    for key in &mut owner_keys {
        *key = u32::from_be_bytes(random_bytes()?);
    }
    let connection_id_key = match config.udp.connection_id_key_bytes() {
        Some(key) => key,
        None => kept_key(config)?,
    };
    Ok(Secrets { owner_keys, connection_id_key })
}

/// A random number.
pub(super) fn random_u64() -> Result<u64, RunError> {
    random_bytes().map(u64::from_be_bytes)
}

pub(super) fn random_bytes<const N: usize>() -> Result<[u8; N], RunError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| RunError::Io {
        what: "drawing random keys",
        source: io::Error::other(error.to_string()),
    })?;
    Ok(bytes)
}

/// The key in the state directory, drawn at first start. Without such a directory a key is drawn
/// each time, and one line says so.
fn kept_key(config: &Config) -> Result<[u8; 16], RunError> {
    let drawn = random_bytes()?;
    let Some(directory) = config.state_dir(|name| std::env::var_os(name)) else {
        warn!("no state directory: UDP clients must connect again after a restart");
        return Ok(drawn);
    };
    match keep(&directory, drawn) {
        Ok(key) => Ok(key),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(RunError::File {
            what: "the key of connection ids",
            path: directory.join(KEY_FILE),
            source: error,
        }),
        Err(error) => {
            let directory = directory.display();
            warn!(
                "state directory {directory}: {error}; \
                 UDP clients must connect again after a restart"
            );
            Ok(drawn)
        }
    }
}

/// Reads the key that is kept in `directory`, or keeps `drawn` there.
fn keep(directory: &Path, drawn: [u8; 16]) -> io::Result<[u8; 16]> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let path = directory.join(KEY_FILE);
    match fs::read_to_string(&path) {
        Ok(text) => parse_key(text.trim()).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, "it must hold 32 hexadecimal digits")
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // Written beside it and renamed, so that no start ever reads half a key.
            let beside = directory.join(format!("{KEY_FILE}.{}", std::process::id()));
            let mut file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&beside)?;
            let digits: String = drawn.iter().map(|byte| format!("{byte:02x}")).collect();
            writeln!(file, "{digits}")?;
            file.sync_all()?;
            fs::rename(&beside, &path)?;
            Ok(drawn)
        }
        Err(error) => Err(error),
    }
}

fn parse_key(text: &str) -> Option<[u8; 16]> {
    let digits: Vec<u8> = text
        .chars()
        .map(|digit| digit.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
        .collect::<Option<_>>()?;
    let digits: [u8; 32] = digits.try_into().ok()?;
    Some(std::array::from_fn(|i| digits[2 * i] << 4 | digits[2 * i + 1]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_once_kept_is_read_again_and_is_nobody_elses_business() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().expect("a temporary directory");
        let state = directory.path().join("a/b");
        assert_eq!(keep(&state, [1; 16]).expect("kept"), [1; 16]);
        assert_eq!(keep(&state, [2; 16]).expect("read"), [1; 16]);
        let mode = fs::metadata(state.join(KEY_FILE)).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(&state).expect("a directory").count(), 1, "nothing left beside");
    }

    #[test]
    fn a_damaged_key_is_an_error_and_stays() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        for bad in ["", "00", &"0".repeat(31), &"g".repeat(32), &"0".repeat(33)] {
            fs::write(directory.path().join(KEY_FILE), bad).expect("written");
            let error = keep(directory.path(), [1; 16]).expect_err("it is no key");
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        }
    }
}
