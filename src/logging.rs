//! Where log messages go: standard error, as lines for people or as JSON for collectors.
//!
//! Set up once, before anything logs; what is let through may change later. The only code that
//! reads RUST_LOG.

use std::io::{self, IsTerminal};

use throng::config::{FilterError, Format, Log, log_filter};
use throng::control::log::LogFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{fmt, reload};

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
        source: FilterError,
    },
    /// Messages go elsewhere already.
    #[error("cannot set up the log: {0}")]
    Taken(Box<dyn std::error::Error + Send + Sync>),
}

/// Sends the messages of the whole process to standard error, as `log` says. Returns what changes
/// that.
///
/// # Errors
/// The filter cannot be read, or this was called before.
pub fn init(log: &Log) -> Result<LogFilter, LogError> {
    let (name, level) = level(log, std::env::var(FILTER_VARIABLE).ok());
    let filter = filter(name, &level)?;
    let (filter, handle) = reload::Layer::new(filter);
    let filtered = tracing_subscriber::registry().with(filter);
    let layer = fmt::layer().with_writer(io::stderr);
    match log.format {
        // Colours would be noise in a file or in the journal.
        Format::Human => filtered.with(layer.with_ansi(io::stderr().is_terminal())).try_init(),
        Format::Json => filtered.with(layer.json()).try_init(),
    }
    .map_err(|error| LogError::Taken(error.into()))?;
    let set = move |level: &str| {
        let filter = self::filter("log level", level).map_err(|error| error.to_string())?;
        handle.reload(filter).map_err(|error| error.to_string())
    };
    Ok(LogFilter::new(&level, Box::new(set)))
}

/// What is to be logged and what names it: the value of RUST_LOG, if there is one, or `log.level`.
fn level(log: &Log, variable: Option<String>) -> (&'static str, String) {
    match variable.filter(|value| !value.is_empty()) {
        Some(value) => (FILTER_VARIABLE, value),
        None => ("`log.level`", log.level.clone()),
    }
}

/// The filter for a level or a list of them by module.
fn filter(name: &'static str, level: &str) -> Result<Targets, LogError> {
    let filter = match level {
        // Where locked memory is short the executor warns that it registers no buffers for file
        // I/O, of which we do none. `throng check` tells about the limit itself.
        "info" | "warn" => format!("{level},glommio=error"),
        _ => level.to_owned(),
    };
    log_filter(&filter).map_err(|source| LogError::Filter { name, filter, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter_text(level: &str, variable: Option<&str>) -> Result<String, String> {
        let log = Log { level: level.to_owned(), ..Log::default() };
        let (name, level) = super::level(&log, variable.map(str::to_owned));
        let filter = filter(name, &level);
        filter.map(|filter| filter.to_string()).map_err(|error| error.to_string())
    }

    #[test]
    fn the_variable_overrides_the_level() {
        assert_eq!(filter_text("debug", None).as_deref(), Ok("debug"));
        assert_eq!(filter_text("debug", Some("")).as_deref(), Ok("debug"));
        assert_eq!(filter_text("warn", Some("debug")).as_deref(), Ok("debug"));
    }

    #[test]
    fn a_misspelt_level_is_noticed_wherever_it_comes_from() {
        for text in ["debg", "info,debg", "Off,x"] {
            assert!(filter_text(text, None).is_err_and(|error| error.contains("no level")));
            let error = filter_text("info", Some(text)).expect_err("no level");
            assert!(error.contains(FILTER_VARIABLE), "{error}");
        }
        for text in ["DEBUG", "throng", "throng::control=debug,warn", "glommio=error"] {
            assert!(filter_text("info", Some(text)).is_ok(), "{text}");
        }
    }

    #[test]
    fn the_executor_is_heard_only_when_somebody_listens_closely() {
        for level in ["info", "warn"] {
            let filter = filter_text(level, None).expect("a level");
            assert!(filter.contains("glommio=error") && filter.contains(level), "{filter}");
        }
        assert_eq!(filter_text("debug", Some("trace")).as_deref(), Ok("trace"));
    }

    #[test]
    fn spaces_around_the_parts_of_a_filter_mean_nothing() {
        let filter = filter_text("warn, throng=debug", None);
        assert_eq!(filter, filter_text("warn,throng=debug", None));
        assert!(filter.expect("a filter").contains("throng=debug"));
        // White space of several bytes and letters of several bytes, where the parser cuts.
        assert!(filter_text("info,\u{3000}\u{e9}\u{e9}=info", None).is_ok());
        assert!(filter_text("\u{3000}\u{e9}\u{e9}\u{e9}=\u{e9}", None).is_err());
    }

    #[test]
    fn a_filter_that_cannot_be_read_is_named() {
        let message = filter_text("x=loud", None).expect_err("no such level");
        assert!(message.starts_with("`log.level` is \"x=loud\""), "{message}");
        let message = filter_text("info", Some("x=loud")).expect_err("no such level");
        assert!(message.starts_with("RUST_LOG is "), "{message}");
    }
}
