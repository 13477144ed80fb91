//! What can be wrong with a configuration, as sentences for its operator.
//!
//! A problem names the key, where the value stands, and what would be right. No secret is shown.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// Why there is no configuration. Its text is one line per problem.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is missing, not ours to read, or not UTF-8.
    #[error("cannot read the configuration file {}: {source}", path.display())]
    Unreadable {
        /// The file as it was named.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is not TOML.
    #[error("{file} line {line} is not TOML: {message}")]
    Syntax {
        /// The file as it was named.
        file: String,
        /// Counted from 1.
        line: usize,
        /// What the parser said.
        message: String,
    },
    /// Everything that is wrong, in the order of the layers; at least one.
    #[error("{}", lines(.0))]
    Invalid(Vec<Problem>),
}

/// One thing that is wrong with a configuration.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Problem {
    /// No setting has that name.
    #[error("unknown {kind} `{path}`{place}; {}", hint(*nearest))]
    Unknown {
        /// "key" or "section".
        kind: &'static str,
        /// What was written, with its section.
        path: String,
        /// Where it was written.
        place: Place,
        /// The known name that was probably meant.
        nearest: Option<&'static str>,
    },
    /// The value has the wrong type, form or range.
    #[error("`{key}`{place}: expected {expected}, found {found}")]
    Value {
        /// The key with its section.
        key: &'static str,
        /// Where it was written.
        place: Place,
        /// What would be right.
        expected: String,
        /// What was written, unless it is a secret.
        found: String,
    },
    /// `--set` without a `=`.
    #[error("--set {text:?}: expected section.key=value")]
    NotAnAssignment {
        /// What was written.
        text: String,
    },
    /// Two values that are right each by itself do not go together.
    #[error("`{key}`{place}: {message}")]
    Conflict {
        /// The key that is most likely to be changed.
        key: &'static str,
        /// Where its value comes from.
        place: Place,
        /// What does not go together, and what would.
        message: String,
    },
    /// The value cannot be held by its type: the rules and the types disagree, a bug of ours.
    #[error("{0}")]
    Unrepresentable(String),
}

/// Where a value comes from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Place {
    /// Nobody set it.
    Default,
    /// A line, counted from 1, of a file.
    File {
        /// The file as it was named.
        file: String,
        /// Counted from 1.
        line: usize,
    },
    /// The environment variable of this name.
    Environment(String),
    /// `--set`.
    CommandLine,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => Ok(()),
            Self::File { file, line } => write!(f, " in {file} line {line}"),
            Self::Environment(name) => write!(f, " in the environment variable {name}"),
            Self::CommandLine => write!(f, " in --set"),
        }
    }
}

/// What to do about an unknown name.
fn hint(nearest: Option<&'static str>) -> String {
    nearest.map_or_else(
        || "`throng config` prints all that are known".to_owned(),
        |known| format!("did you mean `{known}`?"),
    )
}

/// One line per problem.
fn lines(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}
