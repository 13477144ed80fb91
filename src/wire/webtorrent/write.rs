//! What a tracker says.
//!
//! Each function appends one whole message. Keys come in the reference's order; clients do not
//! depend on it.

use crate::wire::bencode::write_decimal;
use crate::wire::id::{InfoHash, PeerId};

/// The counts of one swarm in a scrape.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Row {
    /// Peers that need nothing more.
    pub seeders: u32,
    /// Peers that still need something.
    pub leechers: u32,
    /// Downloads that finished here.
    pub completed: u32,
}

/// Appends the answer to an announce.
pub fn write_announce_reply(
    out: &mut Vec<u8>,
    info_hash: &InfoHash,
    (seeders, leechers): (u32, u32),
    interval_secs: u32,
) {
    out.extend_from_slice(br#"{"complete":"#);
    write_decimal(out, seeders.into());
    out.extend_from_slice(br#","incomplete":"#);
    write_decimal(out, leechers.into());
    out.extend_from_slice(br#","action":"announce","interval":"#);
    write_decimal(out, interval_secs.into());
    write_info_hash(out, info_hash);
    out.push(b'}');
}

/// Appends an offer of the peer `from`: a JSON object, and a JSON string.
pub fn write_offer(
    out: &mut Vec<u8>,
    info_hash: &InfoHash,
    from: &PeerId,
    (offer, offer_id): (&[u8], &[u8]),
) {
    write_relayed(out, (b"offer", offer, offer_id), from, info_hash);
}

/// Appends an answer by the peer `from`: a JSON object, and a JSON string.
pub fn write_answer(
    out: &mut Vec<u8>,
    info_hash: &InfoHash,
    from: &PeerId,
    (answer, offer_id): (&[u8], &[u8]),
) {
    write_relayed(out, (b"answer", answer, offer_id), from, info_hash);
}

/// Appends the answer to a scrape.
pub fn write_scrape_reply<'a>(
    out: &mut Vec<u8>,
    rows: impl Iterator<Item = (&'a InfoHash, Row)>,
    min_interval_secs: u32,
) {
    out.extend_from_slice(br#"{"action":"scrape","files":{"#);
    for (index, (info_hash, row)) in rows.enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_binary(out, &info_hash.0);
        out.extend_from_slice(br#":{"complete":"#);
        write_decimal(out, row.seeders.into());
        out.extend_from_slice(br#","incomplete":"#);
        write_decimal(out, row.leechers.into());
        out.extend_from_slice(br#","downloaded":"#);
        write_decimal(out, row.completed.into());
        out.push(b'}');
    }
    out.extend_from_slice(br#"},"flags":{"min_request_interval":"#);
    write_decimal(out, min_interval_secs.into());
    out.extend_from_slice(b"}}");
}

/// Appends a failure. `action` is what was asked, if that was understood, and `info_hash` where.
/// `reason` is fixed text that needs no escapes.
pub fn write_failure(
    out: &mut Vec<u8>,
    action: Option<&'static str>,
    reason: &'static str,
    info_hash: Option<&InfoHash>,
) {
    out.push(b'{');
    if let Some(action) = action {
        out.extend_from_slice(br#""action":""#);
        out.extend_from_slice(action.as_bytes());
        out.extend_from_slice(br#"","#);
    }
    out.extend_from_slice(br#""failure reason":""#);
    out.extend_from_slice(reason.as_bytes());
    out.push(b'"');
    if let Some(info_hash) = info_hash {
        write_info_hash(out, info_hash);
    }
    out.push(b'}');
}

fn write_relayed(
    out: &mut Vec<u8>,
    (kind, body, offer_id): (&[u8], &[u8], &[u8]),
    from: &PeerId,
    info_hash: &InfoHash,
) {
    out.extend_from_slice(br#"{"action":"announce",""#);
    out.extend_from_slice(kind);
    out.extend_from_slice(br#"":"#);
    out.extend_from_slice(body);
    out.extend_from_slice(br#","offer_id":"#);
    out.extend_from_slice(offer_id);
    out.extend_from_slice(br#","peer_id":"#);
    write_binary(out, &from.0);
    write_info_hash(out, info_hash);
    out.push(b'}');
}

fn write_info_hash(out: &mut Vec<u8>, info_hash: &InfoHash) {
    out.extend_from_slice(br#","info_hash":"#);
    write_binary(out, &info_hash.0);
}

/// Appends bytes as a JSON string of as many characters (RFC 8259 section 7), in UTF-8 and with the
/// escapes of `JSON.stringify`, as browsers and the reference send it.
pub(super) fn write_binary(out: &mut Vec<u8>, bytes: &[u8; 20]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.push(b'"');
    for &byte in bytes {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            8 => out.extend_from_slice(br"\b"),
            b'\t' => out.extend_from_slice(br"\t"),
            b'\n' => out.extend_from_slice(br"\n"),
            12 => out.extend_from_slice(br"\f"),
            b'\r' => out.extend_from_slice(br"\r"),
            0..0x20 => {
                let (high, low) = (usize::from(byte >> 4), usize::from(byte & 15));
                out.extend_from_slice(&[b'\\', b'u', b'0', b'0', DIGITS[high], DIGITS[low]]);
            }
            0x20..0x80 => out.push(byte),
            // Two bytes of UTF-8: the upper two bits, then the lower six.
            0x80.. => out.extend_from_slice(&[0xC0 | byte >> 6, 0x80 | byte & 0x3F]),
        }
    }
    out.push(b'"');
}
