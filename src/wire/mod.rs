//! Bytes to values and values to bytes, for every protocol a peer may speak.
//!
//! A *view* borrows a request's bytes and reads fields on demand; a *value*
//! ([`announce::Announce`]) is what all transports mean in the end. Nothing here allocates (but the
//! bencode reader, for tests, and the growth of a caller's output), and no byte string whatsoever
//! can make it panic: a request that is none becomes a [`error::ParseError`].

pub mod addr;
pub mod announce;
pub mod bencode;
pub mod error;
pub mod http;
pub mod id;
pub mod proxy;
pub mod udp;
pub mod udp_options;
pub mod webtorrent;
