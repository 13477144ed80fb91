//! Where log messages go: standard error, as lines for people or as JSON for collectors.
//!
//! Set up once, before anything logs. The only code that reads RUST_LOG.

use std::io::{self, IsTerminal};

use throng::config::{Format, Log};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

/// Overrides `log.level`, as everywhere in the Rust world.
const FILTER_VARIABLE: &str = "RUST_LOG";

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Not a level, nor a filter.
    #[error("{name} is {filter:?}, which is not a level or log filter: {source}")]
    Filter {
        /// What names it: a key of the configuration or an environment variable.
        name: &'static str,
        /// What was written.
        filter: String,
        /// What the parser said.
        source: ParseError,
    },
    /// Messages go elsewhere already.
    #[error("cannot set up the log: {0}")]
    Taken(Box<dyn std::error::Error + Send + Sync>),
}

/// Sends the messages of the whole process to standard error, as `log` says.
///
/// # Errors
/// The filter cannot be read, or this was called before.
pub fn init(log: &Log) -> Result<(), LogError> {
    let filter = filter(log, std::env::var(FILTER_VARIABLE).ok())?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    match log.format {
        // Colours would be noise in a file or in the journal.
        Format::Human => builder.with_ansi(io::stderr().is_terminal()).try_init(),
        Format::Json => builder.json().try_init(),
    }
    .map_err(LogError::Taken)
}

/// The filter of `log`, unless `variable`, the value of RUST_LOG, says something else.
fn filter(log: &Log, variable: Option<String>) -> Result<EnvFilter, LogError> {
    let (name, filter) = match variable.filter(|value| !value.is_empty()) {
        Some(value) => (FILTER_VARIABLE, value),
        // Where locked memory is short the executor warns that it registers no buffers for file
        // I/O, of which we do none. `throng check` tells about the limit itself.
        None if ["info", "warn"].contains(&log.level.as_str()) => {
            ("`log.level`", format!("{},glommio=error", log.level))
        }
        None => ("`log.level`", log.level.clone()),
    };
    EnvFilter::builder().parse(&filter).map_err(|source| LogError::Filter { name, filter, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter_text(level: &str, variable: Option<&str>) -> Result<String, String> {
        let log = Log { level: level.to_owned(), ..Log::default() };
        let filter = filter(&log, variable.map(str::to_owned));
        filter.map(|filter| filter.to_string()).map_err(|error| error.to_string())
    }

    #[test]
    fn the_variable_overrides_the_level() {
        assert_eq!(filter_text("debug", None).as_deref(), Ok("debug"));
        assert_eq!(filter_text("debug", Some("")).as_deref(), Ok("debug"));
        assert_eq!(filter_text("warn", Some("debug")).as_deref(), Ok("debug"));
    }

    #[test]
    fn the_executor_is_heard_only_when_somebody_listens_closely() {
        for level in ["info", "warn"] {
            let filter = filter_text(level, None).expect("a level");
            assert!(filter.contains("glommio=error") && filter.contains(level), "{filter}");
        }
        assert_eq!(filter_text("info", Some("info")).as_deref(), Ok("info"));
    }

    #[test]
    fn a_filter_that_cannot_be_read_is_named() {
        let message = filter_text("x=loud", None).expect_err("no such level");
        assert!(message.starts_with("`log.level` is \"x=loud\""), "{message}");
        let message = filter_text("info", Some("x=loud")).expect_err("no such level");
        assert!(message.starts_with("RUST_LOG is "), "{message}");
    }
}
