//! HTTP requests read in place, and the responses to them (BEP 3, BEP 48; RFC 9112).
//!
//! [`head_end`] finds where a request ends, [`Head::parse`] reads it, [`action`] reads its path,
//! [`AnnounceQuery::parse`] and [`scrape_hashes`] read its query. Nothing is decoded before it is
//! needed, and text is bytes throughout: no step cares about UTF-8.
//!
//! The client's half, requests written and responses read, is in `client`.
//!
//! A request that two parsers could read differently is refused, since a proxy may stand in front:
//! bodies, `Transfer-Encoding`, folded lines, bare CR and LF. After any error from a head the
//! connection must close, because where the next request would begin is unknown. A query has no
//! such power, so there tolerance rules; old clients and glued URLs are served.

mod client;
mod head;
mod query;
mod response;
mod upgrade;

pub use client::{RequestForm, ResponseError, ResponseHead, percent_encode};
pub use head::{Fields, Head, Method, Version, head_end};
pub use query::{AnnounceQuery, Parameters, percent_decode, scrape_hashes};
pub use response::{Content, Status, write_response, write_response_of};
pub use upgrade::Upgrade;

#[cfg(any(test, fuzzing))]
pub mod model;
#[cfg(test)]
mod tests;

/// What a path asks for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Action {
    /// Report a peer, get others.
    Announce,
    /// Get the counts of swarms.
    Scrape,
}

/// The action that `path` names, or `None`: a 404.
///
/// The last segment decides; prefixes, repeated and trailing slashes and `.php` are tolerated, as
/// operators who move from another tracker need. Nothing is percent-decoded.
#[must_use]
pub fn action(path: &[u8]) -> Option<Action> {
    let path = path.strip_prefix(b"/")?;
    let last = path.rsplit(|&byte| byte == b'/').find(|segment| !segment.is_empty())?;
    match last {
        b"announce" | b"announce.php" => Some(Action::Announce),
        b"scrape" | b"scrape.php" => Some(Action::Scrape),
        _ => None,
    }
}
