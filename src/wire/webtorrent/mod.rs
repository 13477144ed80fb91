//! The JSON messages that WebTorrent peers and trackers exchange inside WebSocket text frames.
//!
//! The shapes are those of webtorrent/bittorrent-tracker, which browsers expect to the letter.
//! [`Request::parse`] reads what a client sends and borrows from it; the `write_*` functions append
//! what a tracker sends, or a client where they end in `_request`; [`TrackerMessage`] is for
//! clients. An offer, an answer and an `offer_id` pass through as the very text that came: nothing
//! inside them is decoded and encoded again.
//!
//! The 20 bytes of an `info_hash` or a `peer_id` travel as 20 characters from U+0000 to U+00FF.
//!
//! ```text
//! client   {"action":"announce","info_hash":H,"peer_id":P,"left":1,"offers":
//!           [{"offer":O,"offer_id":I}, ...]}
//! tracker  {"action":"announce","complete":1,"incomplete":2,"interval":120,"info_hash":H}
//!
//! tracker  {"action":"announce","offer":O,"offer_id":I,"peer_id":P,"info_hash":H}    to others
//! client   {"action":"announce","answer":A,"offer_id":I,"peer_id":Q,"info_hash":H,
//!           "to_peer_id":P}                                                          from them
//! tracker  {"action":"announce","answer":A,"offer_id":I,"peer_id":Q,"info_hash":H}   to the first
//!
//! client   {"action":"scrape","info_hash":H or [H, ...]}
//! tracker  {"action":"scrape","files":{H:{"complete":1,"incomplete":2,"downloaded":3}, ...},
//!           "flags":{"min_request_interval":60}}
//!
//! tracker  {"failure reason":"..."}
//! ```

mod client;
#[cfg(any(test, fuzzing))]
pub mod model;
mod request;
#[cfg(test)]
mod tests;
mod write;

pub use client::{
    Relayed, TrackerMessage, write_announce_request, write_answer_request, write_offer_id,
    write_scrape_request,
};
pub use request::{Answer, Offer, OfferId, Request, WebAnnounce, is_deeper};
pub use write::{
    Row, write_announce_reply, write_answer, write_failure, write_offer, write_scrape_reply,
};
