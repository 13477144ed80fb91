//! Something that an operator should know, and what to do about it.

use serde::Serialize;

/// How bad a finding is; the worst is the greatest.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// The tracker runs, but slower or with less than configured.
    Warning,
    /// The tracker will not start, or fails under load.
    Problem,
}

/// One thing that was looked at.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// What was looked at, in a word or two.
    pub title: String,
    /// What was found.
    pub detail: String,
    /// What to do about it; none if it is as it should be.
    pub remedy: Option<String>,
}

impl Finding {
    /// Something that is as it should be.
    #[must_use]
    pub fn ok(title: &str, detail: String) -> Self {
        Self { level: Level::Ok, title: title.to_owned(), detail, remedy: None }
    }

    /// Something that is not.
    #[must_use]
    pub fn new(level: Level, title: &str, detail: String, remedy: String) -> Self {
        Self { level, title: title.to_owned(), detail, remedy: Some(remedy) }
    }
}
